"""Small .bib files of our own, each of a kind that people really write: what is read of them, and what is reported."""

# ruff: noqa: E501 (a table reads best with a problem per line)

import os
import re
import time
from pathlib import Path

import pytest

from eelit.bib.exports import EXPORTS, to_ris
from eelit.bib.identifiers import arxiv_id, normal_pages
from eelit.bib.names import read_names
from eelit.bib.read import read_bibliography
from eelit.bib.tex import read_tex, read_verbatim

FILES = Path(__file__).parent / "data" / "bib"
# File → keys that are read, and (line, severity, what is said) of each problem.
EXPECTED = {
    "bytes.bib": (["doe2020sound"], [(2, "error", "`author` of `doe2020latin` holds bytes that are not UTF-8")]),
    "empty.bib": ([], [(1, "error", "the file is empty")]),
    "mark.bib": (["doe2020marked"], []),
    "wide.bib": ([], [(1, "error", "the file is UTF-16; save it as UTF-8")]),
    "windows.bib": ([], [(4, "error", "has the year `20`")]),
    "layout.bib": (
        ["doe2020indented", "doe2020one", "doe2020three", "doe2020four", "doe2020brackets", "doe2020spread", "doe2020quoting"],
        [(17, "error", "`doe2020two` has the year `20`"), (31, "warning", "looks like the record `doe2020inner`")],
    ),
    "spoilt.bib": (
        ["doe2020after", "doe2020early", "doe2020defined", "doe2020last"],
        [
            (1, "error", "the record `doe2020open` is never closed"),
            (13, "error", "`doi = …` stands outside of any record; a brace too many closes `doe2020early`"),
            (17, "error", "`doe2020noat` has lost its `@`"),
            (19, "error", "`doe2020nobrace` has lost its brace; write `@misc{doe2020nobrace,`"),
            (21, "error", "a comma is missing after the key `doe2020nocomma`"),
            (28, "error", "this record has no key"),
            (35, "error", "`doe2020noequals` is not valid BibTeX ('=' expected)"),
            (43, "error", "`doe2020undefined` uses the name `brumaire`"),
            (49, "error", "unknown type `@misk`; did you mean `misc`"),
            (53, "error", "`doe2020end` is never closed"),
        ],
    ),
    "names.bib": (
        ["doe2020doubtful", "doe2020others", "doe2020body", "doe2020all"],
        [
            (1, "error", "write `van der Beek, Anna`"),
            (2, "error", "write `Anna Beek and Carl Dorn and Eva Fink`"),
            (3, "error", "write `Beek, A. and Dorn, C.`"),
            (4, "error", "write `Beek, Anna and Dorn, Carl`"),
            (5, "error", "write `Beek, Anna`"),
            (6, "error", "write `Beek, Anna and Dorn, Carl`"),
            (7, "error", "write `Beek, Anna and others`"),
            (8, "error", "write `Anna Beek and Carl Dorn`"),
            (9, "error", "write `Beek, Anna and Dorn, Carl and others`"),
            (10, "error", "write `Doe, Jr., John`"),
            (11, "error", "write `Beek`"),
            (12, "error", "is empty, or cannot be read as text"),
            (13, "error", "`&ouml;` is HTML"),
            (14, "error", "the editors of `doe2020editor`"),
            (15, "warning", "write `Anna Beek and Carl Dorn`, else put the family in braces"),
        ],
    ),
    "tex.bib": (
        ["doe2020accents", "doe2020formulas", "doe2020unknown", "doe2020dollar"],
        [
            (14, "warning", r"`author` of `doe2020unknown` holds `\mystery`"),
            (15, "warning", r"`title` of `doe2020unknown` holds `\noopsort`, `\frobnicate`"),
            (17, "warning", r"holds `\begin{odd}`"),
            (18, "warning", r"`doi` of `doe2020unknown` holds `\odd`"),
            (22, "warning", "`title` of `doe2020dollar` holds `$`"),
            (24, "warning", r"holds `\input`, `\today`"),
        ],
    ),
    "places.bib": (
        [
            *("doe1990sici", "doe1991sici", "doe1992html", "doe2020hyphen", "doe2020dash", "doe2020parts", "doe2020single"),
            *("doe2020short", "doe2020eprint", "doe2020coloned", "doe2020journal", "doe2020corr", "doe2020doi", "doe2020url"),
            "doe2020hal",
        ],
        [
            (7, "warning", "write `420--436, e1--e9`"),
            (8, "warning", "write `420--436`"),
            (11, "warning", "write `1234--45`"),
        ],
    ),
}  # fmt: skip


def test_every_file_is_expected():
    assert {path.name for path in FILES.glob("*.bib")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_each_record_is_read_or_reported_with_its_line(name):
    keys, problems = EXPECTED[name]
    found = read_bibliography(FILES / name)
    assert list(found.records) == keys
    assert [(problem.line, problem.severity) for problem in found.problems] == [problem[:2] for problem in problems]
    for problem, (_, _, said) in zip(found.problems, problems, strict=True):
        assert said in problem.message
    for export in EXPORTS.values():
        export(found.records.values())


def test_plain_text_has_no_tex_left():
    found = read_bibliography(FILES / "tex.bib").records
    accents = found["doe2020accents"]
    assert accents.author_names() == ["Ếva Martín", "Karel Čapek", "M. Skłodowska"]
    assert accents.title == "50% of all values: 1st, m², $5, Don’t stop"
    assert accents.venue == "AT&T, C#, https://example.org/a_b~c%20d, bold Caps"
    formulas = "O(n²), x_(i+1)^T, (a+b)/2, O(n log n), 10⁻³ and α-β in ℝ^d"
    assert found["doe2020formulas"].title == formulas
    assert found["doe2020unknown"].title == "aUnknown words stay"
    for record in found.values():
        assert not re.search(r"[\\{}]", to_ris([record])), record.key
        assert not re.search(r"[\\{}]", " ".join([*record.author_names(), record.title, record.venue, record.doi]))


@pytest.mark.parametrize(
    ("tex", "text", "unread"),
    [
        (r"100\% and 100% of \\%", "100% and 100% of %", ()),
        (r"{\'\i} \'{\^{e}} \~{} \~n \c c {\ss}{\AA}", "í ế ~ ñ ç ßÅ", ()),
        (r"\'{ab} \t{oo} \h{a}", "áb o͡o ả", ()),
        (r"$k$NN, $\{0,1\}^{n}$ and $\ell_1$", "kNN, {0,1}ⁿ and ℓ₁", ()),
        (r"$a_{b_{c}} \leq \frac{1}{n}$", "a_(b_c) ≤ 1/n", ()),
        (r"$\sqrt{2}$, $\sqrt[3]{2}$, $\sqrt[4]x$, $\sqrt[n]{x+1}$", "√(2), ∛(2), ∜(x), ⁿ√(x+1)", ()),
        (r"$\sqrt[k]{2}^{2}$ \sqrt[k]{2}", "(2)^(1/k)² (2)^(1/k)", ()),
        (r"\'\^e \'{\^e} \d\^{a} \'\"u \'\~\i x", "ế ế ậ ǘ ĩ́x", ()),
        (r"$\hat\bar x$ $\frac\hat x\sqrt{2}$", "x̄̂ (x̂)/(√(2))", ()),
        (r"\textbf\emph{so}", "so", ()),
        (r"this\linebreak[4]that", "this that", ()),
        (r"ends with \ ", "ends with", ()),
        ("ends with \\", "ends with", ("\\",)),
        (r"\cite{doe} {A} {B}", "doe A B", (r"\cite",)),
        (r"odd $x", "odd $x", ("$",)),
        (r"\begin{odd}x\end{odd}", "x", (r"\begin{odd}",)),
        (r"\textbackslash", "\\", ()),
        (r"``so''---\enquote{it} is--", "“so”—“it” is–", ()),
        (
            r"`so', ``don't `do' it'' {`it isn't'} Jo`s 5' o'clock'",
            "‘so’, “don't ‘do’ it” ‘it isn't’ Jo`s 5' o'clock'",
            (),
        ),
        (r"$\overline{x}$ $\widetilde{ab}_1$ $\underline y$ \underline{so}", "x̅ ãb̃₁ y̲ so", ()),
        (r"$\underbrace{x}$", "x", (r"\underbrace",)),
        (r"H\textsubscript{2}O \href{http://x.org/a_b}{there}", "H₂O there", ()),
        ("{" * 300 + "x" + "}" * 300, "x", ()),
        (r"\emph" + "{" * 300 + "x" + "}" * 300, "x", (r"\emph",)),
    ],
)
def test_tex_becomes_text_and_what_is_unknown_is_named(tex, text, unread):
    assert read_tex(tex) == (text, unread)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (r"10.1000/a{\_}b\_c", "10.1000/a_b_c"),
        (r"10.1002/(SICI)1$<$391::AID\textgreater 3.0", "10.1002/(SICI)1<391::AID>3.0"),
        (r"\url{https://x.org/\%7Ejo/\~{}a\#b}", "https://x.org/%7Ejo/~a#b"),
        ("https://x.org/a--b%20c", "https://x.org/a--b%20c"),
    ],
)
def test_identifiers_mean_themselves(value, text):
    assert read_verbatim(value) == (text, ())


@pytest.mark.parametrize(
    ("pages", "normal", "told"),
    [
        ("1–9", "1–9", True),
        ("1-9", "1–9", False),
        ("L1—L9", "L1–L9", False),
        ("1234-45", "1234–45", False),
        ("12-3", "12-3", True),  # part 12, page 3
        ("S-12", "S-12", True),
        ("34:1–34:10", "34:1–34:10", True),
        ("34:1-34:10", "34:1–34:10", False),
        ("34:1-10", "34:1–10", False),
        ("34:90-35:3", "34:90–35:3", False),
        ("1.1—1.12", "1.1–1.12", False),
        ("S1-S9", "S1–S9", False),
        ("S1-9", "S1–9", False),
        ("Suppl1-Suppl12", "Suppl1–Suppl12", False),
        ("RC12--RC31".replace("--", "–"), "RC12–RC31", True),
        ("A-1-A-12", "A-1–A-12", False),
        ("12-1 - 12-9", "12-1–12-9", False),
        ("12-1–12-9", "12-1–12-9", True),
        ("12-1-13", "12-1-13", True),  # who knows
        ("2-9-2-3", "2-9-2-3", True),
        ("ix-xii", "ix–xii", False),
        ("XL—LIX", "XL–LIX", False),
        ("i–v, 1–9", "i–v, 1–9", True),
        ("xii-ix", "xii-ix", True),
        ("Ix-xii", "Ix-xii", True),
        ("xxiv-214", "xxiv–214", False),
        ("I-12", "I-12", True),  # part I, page 12
        ("pp. 12-34", "12–34", False),
        ("p. 7", "7", False),
        ("Pages 3–9", "3–9", False),
        ("", "", True),
        ("-", "-", True),
        ("p", "p", True),
        ("7", "7", True),
        ("1-3, 7, 9 - 12", "1–3, 7, 9–12", False),
    ],
)
def test_ranges_of_pages(pages, normal, told):
    assert normal_pages(pages) == (normal, told)


def test_pages_may_have_any_number_of_digits():
    assert normal_pages(f"1-{'9' * 5_000}") == (f"1–{'9' * 5_000}", False)
    assert normal_pages("-".join(["1"] * 5_001))[1]
    assert normal_pages("1." * 50_000)[1]


def test_identifiers_of_arxiv_are_found_wherever_they_stand():
    found = read_bibliography(FILES / "places.bib").records
    assert {key: record.arxiv for key, record in found.items() if record.arxiv} == {
        "doe2020eprint": "2001.00001",
        "doe2020coloned": "2001.00002",
        "doe2020journal": "2001.00003",
        "doe2020corr": "2001.00004",
        "doe2020doi": "2001.00005",
        "doe2020url": "cs.LG/0112017",
    }
    assert found["doe1991sici"].doi == "10.1002/(SICI)1097-4571(199109)41:6<391::AID-ASI1>3.0.CO;2-9"
    assert found["doe2020hyphen"].pages == "420–436, e1–e9"


@pytest.mark.parametrize(
    "names",
    [
        "García Márquez, Gabriel",
        "Jahier Pagliari, Daniele and Doe, Jo Ann",
        "{García Márquez}, Gabriel José",
        "van der Beek, Anna Maria",
        "Doe, {Jr.}, Jo",
        "Doe, III, Jo",
        "{Smith & Wesson; sons and daughters, Ltd.}",
        "{\\'E}mile and Anderssen, {\\O}ystein",
        "Sandford, Andy and Band, Rand",
        "Jahier Pagliari, D. A.",
        "Ortega y Gasset, José",
    ],
)
def test_sound_names_are_left_alone(names):
    assert read_names(names).faults == ()


@pytest.mark.parametrize(
    "names", ["A. Beek, C. Dorn", "A. B. Beek, C. D. Dorn", "Beek A, Dorn C", "Jo A. Beek, C. Dorn"]
)
def test_a_family_with_an_initial_may_be_another_person(names):
    (fault,) = read_names(names).faults
    assert fault[1] == "warning"
    assert "if they are two, write" in fault[0]


PARTS = (
    *(
        "Beek, Anna",
        "Anna Beek",
        "A. Beek",
        "A. Beek, C. Dorn",
        "Beek",
        "others",
        "Others, Anna",
        "OTHERS",
        "et al.",
        "{}",
    ),
    *(
        "{Body; Inc.}",
        "{and}",
        "family=Beek, given=Anna",
        "family=",
        "Beek, Anna,",
        ",",
        "Doe, John, Jr.",
        "J&ouml;rg &amp; Sons",
    ),
    *("prefix=van, family={and}", "Beek, A., others", "\\relax"),
)
BETWEEN = (" and ", " AND ", " and and ", ", ", ", and ", "; ", " & ", " ")


def advised(said):
    return re.findall(r"write `([^`]*)`", said)


@pytest.mark.parametrize("between", BETWEEN)
def test_no_advice_is_refused_by_who_gives_it(between):
    """All pairs of names, good and bad, between all that people write between names, and before and behind them."""
    lists = [f"{one}{between}{other}" for one in PARTS for other in PARTS]
    lists += [text for one in PARTS for text in (f"{between}{one}".strip(), f"{one}{between}".strip())]
    told = {names: [advice for fault in read_names(names).faults for advice in advised(fault[0])] for names in lists}
    assert sum(map(len, told.values())) > 100
    for names, advices in told.items():
        for advice in advices:
            assert [fault for fault in read_names(advice).faults if fault[1] == "error"] == [], (names, advice)


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ("and others", "Family, Given and others"),
        ("AND Beek, Anna", "Beek, Anna"),
        ("Beek, Anna,; Dorn AND others", "Beek, Anna and Dorn and others"),
        ("Beek, Anna AND et al. and others", "Beek, Anna and others"),
        ("A. Beek, C. Dorn, E. Fink & others", "A. Beek and C. Dorn and E. Fink and others"),
        ("Beek, A., Dorn, C., others", "Beek, A. and Dorn, C. and others"),
        ("J&ouml;rg Beek", "Jörg Beek"),
        ("AND", "Family, Given"),
        (";", "Family, Given"),
        ("Anna {}", "Family, Given"),
        ("{}, Anna", "Family, Given"),
    ],
)
def test_advice_mends_all_faults_at_once(names, advice):
    (fault,) = read_names(names).faults
    assert advised(fault[0]) == [advice]


@pytest.mark.parametrize("title", ["{}", "{{}}", "{ }", "~", "\\relax", "{\\bf }"])
def test_a_title_without_a_letter_is_none(tmp_path, title):
    path = tmp_path / "some.bib"
    path.write_text(
        f"@misc{{doe2020x,\n  author = {{Doe, Jo}},\n  title = {{{title}}},\n  year = {{2020}}\n}}\n", encoding="utf-8"
    )
    found = read_bibliography(path)
    (problem,) = found.problems
    assert (problem.line, problem.severity, found.records) == (3, "error", {})
    assert "the title of `doe2020x` is empty" in problem.message


@pytest.mark.parametrize("before", ["text ", "text", "a.b", "}", ") ", "see: ", "jo@home.org ", "100% "])
@pytest.mark.parametrize("closed", [True, False])
def test_text_before_a_record_on_its_line_costs_nothing(tmp_path, before, closed):
    record = "@misc{doe2020%s, author = {Doe, Jo}, title = {T}, year = {2020}}"
    first = record % "a" if closed else (record % "a").replace("{T}", "{T").replace("{2020}}", "{2020}")
    path = tmp_path / "some.bib"
    path.write_text(f"{first}\n{before}{record % 'b'} {before}{record % 'c'}\n", encoding="utf-8")
    found = read_bibliography(path)
    assert list(found.records) == (["doe2020a", "doe2020b", "doe2020c"] if closed else ["doe2020b", "doe2020c"])
    assert [problem.line for problem in found.problems] == ([] if closed else [1])


def test_a_record_that_hides_in_another_is_told_wherever_it_stands_on_its_line(tmp_path):
    path = tmp_path / "some.bib"
    path.write_text(
        "@misc{doe2020a, author = {Doe, Jo}, year = {2020}, title = {T\n text @misc{doe2020b, year = 2020}}}\n",
        encoding="utf-8",
    )
    (problem,) = read_bibliography(path).problems
    assert (problem.line, problem.severity) == (2, "warning")
    assert "looks like the record `doe2020b`" in problem.message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"note": "A reply to arXiv:2001.00004"}, ""),  # another work's
        ({"note": "Earlier as arXiv:2001.00004 and arXiv:2001.00005"}, ""),
        ({"note": "arXiv:2001.00004 [cs.LG]"}, "2001.00004"),
        ({"note": "arXiv preprint arXiv:2001.00004v2."}, "2001.00004"),
        ({"journal": "arXiv preprint hep-th/9901001"}, "hep-th/9901001"),
        ({"journal": "arXiv preprint arXiv:2001.00004"}, "2001.00004"),
        ({"howpublished": "arXiv 2001.00004"}, "2001.00004"),
        ({"eprint": "2001.00004v3"}, "2001.00004v3"),  # as it is, so that it is told
        ({"eprint": "123456", "archiveprefix": "other"}, ""),
    ],
)
def test_whose_identifier_of_arxiv_it_is(fields, said):
    assert arxiv_id(fields) == said


def test_records_are_as_many_lines_down_as_they_are(tmp_path):
    """Lines are counted once, whatever stands between the records."""
    path = tmp_path / "some.bib"
    one = "\n%% a comment\ntext\n@misc{doe2020%d,\n  author = {Doe, Jo},\n  title = {T},\n  year = {20}\n}"
    path.write_text("".join(one % number for number in range(50)), encoding="utf-8")
    assert [problem.line for problem in read_bibliography(path).problems] == [7 + 7 * n for n in range(50)]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            b"\n@Article,\n  author = {Doe, Jo},\n}\n",
            ":2: this record has lost its brace and its key; write `@Article{surname",
        ),
        (b"\n@misc\n  author = {Doe, Jo},\n}\n", ":2: this record has lost its brace and its key"),
        (b"\n@Preamble{word}", ":2: this `@preamble` uses the name `word`, which no `@string` before it explains"),
        (b'@string{a = "b" # }', ":1: this `@string` is not valid BibTeX"),
        (b"@string{a = {b}", ":1: this `@string` is never closed; a brace, quote or comma is missing"),
        ("@misc{doe2020wide,}".encode("utf-16-le"), ":1: the file is UTF-16; save it as UTF-8"),
        ("@misc{doe2020wide,}".encode("utf-16-be"), ":1: the file is UTF-16; save it as UTF-8"),
    ],
)
def test_what_is_no_record_any_more_is_reported_all_the_same(tmp_path, content, said):
    path = tmp_path / "some.bib"
    path.write_bytes(content)
    (problem,) = read_bibliography(path).problems
    assert f"{path}{said}" in str(problem)


def quickest(path):
    """Return the least seconds of three readings: rubbish of other tests may be collected during one of them."""
    found = []
    for _ in range(3):
        start = time.process_time()
        read_bibliography(path)
        found.append(time.process_time() - start)
    return min(found)


@pytest.mark.parametrize("spoilt", [False, True])
def test_time_grows_with_the_file_and_not_faster(tmp_path, spoilt):
    """Reading once took four times as long for twice the records; what is never closed must not be sought to the end."""
    one = "@misc{doe2020k%d,\n  author = {Doe, Jo},\n  title = {{T}itle %d%s,\n  year = {2020}\n}\n\n"
    seconds = []
    for size in (500, 4_000):
        path = tmp_path / f"{size}.bib"
        path.write_text("".join(one % (n, n, "" if spoilt else "}") for n in range(size)), encoding="utf-8")
        seconds.append(quickest(path))
        found = read_bibliography(path)
        assert (len(found.problems), len(found.records)) == ((size, 0) if spoilt else (0, size))
    assert seconds[1] < 30 * seconds[0], "eight times the records"


ON_ONE_LINE = {
    "braces": "@misc{k%d, title = {T ",
    "brackets": "@misc(k%d, title = {T ",
    "comments": "@comment{ %d ",
    "lines of comments": "@comment{ %d\n",
    "preambles": "@preamble{ x%d ",
    "strings": "@string{s%d, ",
    "without at": "misc{k%d, title = {T\n",
    "unknown": "x @odd{ %d } ",
    "unknown and closed": "@odd{k%d, } ",
    "after letters": "x%d@misc{k, title = {T ",
    "without comma": "@misc{k%d ",
    "no spaces": "@misc(-%d",
    "commas": "@misc{,%d ",
}


@pytest.mark.parametrize("kind", ON_ONE_LINE)
def test_what_is_never_closed_is_not_sought_to_the_end_on_one_line_either(tmp_path, kind):
    seconds = []
    for size in (1_000, 8_000):
        path = tmp_path / f"{size}.bib"
        path.write_text("".join(ON_ONE_LINE[kind] % n for n in range(size)), encoding="utf-8")
        seconds.append(quickest(path))
    assert seconds[1] < max(30 * seconds[0], 1.0), "eight times the records"


CORPUS = os.environ.get("EELIT_BIB_CORPUS", "")
START = re.compile(
    r"^[ \t]*@[ \t]*(?!(?:comment|preamble|string)\b)\w+[ \t]*\{[ \t]*(?P<key>[^\s,{}=%]+)[ \t]*,", re.M | re.I
)


@pytest.mark.skipif(not CORPUS, reason="EELIT_BIB_CORPUS names no folder with .bib files of others")
def test_every_record_of_a_corpus_is_read_or_reported_by_its_line():
    paths = sorted(Path(CORPUS).rglob("*.bib"))
    assert paths, f"{CORPUS} holds no .bib file"
    missed = [f"{path}:{line}: {key}" for path in paths for line, key in unread(path)]
    assert missed == []


def unread(path):
    """Return line and key of what starts a record in the file, and is neither read nor reported."""
    found = read_bibliography(path)
    for export in EXPORTS.values():
        export(found.records.values())
    text = path.read_bytes().decode("utf-8-sig", errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    starts = [(text.count("\n", 0, start.start()) + 1, start["key"]) for start in START.finditer(text)]
    ends = [*(line for line, _ in starts), text.count("\n") + 2][1:]
    told = {problem.line for problem in found.problems}
    return [
        (line, key)
        for (line, key), end in zip(starts, ends, strict=True)
        if found.lines.get((key, "")) != line and told.isdisjoint(range(line, end))
    ]
