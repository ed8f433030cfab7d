"""What papers claim beside what holds here: the field of the entry, its checks, the join, and where it is shown."""

import ast
import json
import re
from functools import cache
from pathlib import Path
from typing import get_args

import pytest
from test_check import edit, errors
from test_summary import result

from eelit.catalog.baselines import REFERENCES, said
from eelit.catalog.load import load
from eelit.catalog.schema import Claim, Reference
from eelit.catalog.sources import sources
from eelit.methods.engine.records import Outcome
from eelit.methods.harness import bench
from eelit.methods.harness.summary import Verdict
from eelit.site.generator.claims import beside, means, tally

ROOT = Path(__file__).parent.parent
KEY = "zhou2020pabee"
ENTRY = f"catalog/entries/{KEY}.yaml"
METHODS = sorted(path.stem for path in (ROOT / "methods/papers").glob("[a-z]*.py"))
TRIED = "    tried: [better than the full model]\n"


@cache
def entries():
    return load(sources()).entries


def claim(**changes):
    return Claim(**({"says": "Gains.", "over": ["full-model"], "source": "abstract", "tried": ["a gain"]} | changes))


def verdict(name):
    return Verdict(name, "It gains.", "holds", 3, 3, ["+1", "+2", "+3"], "", current=True)


# What is said of the papers


@pytest.mark.parametrize("key", METHODS)
def test_every_method_has_a_claim_of_its_paper(key):
    assert entries()[key].claims


@cache
def names_in(path):
    """Return the literals of a file, and patterns of those with something inserted."""
    literals, patterns = set(), set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            literals.add(node.value)
        elif isinstance(node, ast.JoinedStr):
            parts = [re.escape(part.value) if isinstance(part, ast.Constant) else ".+" for part in node.values]
            if sum(letter.isalpha() for part in parts if part != ".+" for letter in part) >= 5:
                patterns.add(re.compile("".join(parts)))
    return literals, patterns


def is_spelled(name, key):
    """Tell whether outcomes may have a name: by the literals of the method, its claims, and what these share."""
    own = [path for path in (ROOT / f"methods/{room}/{key}.py" for room in ("papers", "claims")) if path.exists()]
    shared = [ROOT / "methods/claims/comparisons.py", *(ROOT / "methods/families").glob("*.py")]
    found = [names_in(path) for path in (*own, *shared)]
    return any(name in literals or any(each.fullmatch(name) for each in patterns) for literals, patterns in found)


@pytest.mark.parametrize("key", METHODS)
def test_what_tries_a_claim_is_spelled_in_the_method(key):
    for name in (name for claim in entries()[key].claims for name in claim.tried):
        variant, colon, rest = name.partition(": ")
        wanted = [variant, rest] if colon else [name]
        for part in wanted:
            if not re.fullmatch(r"t = \d", part):  # the variants of PCEE-BERT are made by a comprehension
                assert is_spelled(part, key), f"{key} has no outcome `{part}`"


MORE = {
    "akhlaghi2018snapea", "bajpai2023splitee", "bakhtiarnia2021mevit", "guan2022transkimmer", "hu2020triplewins",
    "huang2018msdnet", "ju2021dee", "li2021plcrn", "li2023eenet", "li2023predictive", "liao2021pastfuture",
    "schuster2022calm", "schwartz2020right", "sun2021ensemble", "wang2018edge", "wang2018skipnet", "wang2019dynexit",
    "wright2024asr", "xin2020ranking", "zhou2022metadistil", "zhu2021leebert",
}  # fmt: skip
"""Methods that try more than what their entries say the papers claim."""


@pytest.mark.parametrize("key", sorted({*METHODS} - MORE))
def test_each_outcome_tries_a_claim_of_the_entry(key):
    """Of those that are made, under one name, in the method's own claims."""
    tried = {name.rpartition(": ")[2] for claim in entries()[key].claims for name in claim.tried}
    tree = ast.parse((ROOT / f"methods/claims/{key}.py").read_text(encoding="utf-8"))
    made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "Outcome"]
    given = [option.value for call in made for option in call.keywords if option.arg == "name"]
    names = {value.value for value in given if isinstance(value, ast.Constant)}
    assert names <= tried, f"the entry of {key} names no claim for {sorted(names - tried)}"


@pytest.mark.parametrize("key", bench.members("text"))
def test_what_tries_a_claim_is_among_the_results_of_this_code(key):
    known = bench.stored("text", key)
    outcomes = {outcome.name for found in known.results for outcome in found.claims}
    if known.current and outcomes:
        for name in (name for claim in entries()[key].claims for name in claim.tried):
            assert any(means(name, outcome) for outcome in outcomes), f"`{name}` is none of {sorted(outcomes)}"


def test_the_words_for_baselines_are_explained():
    assert set(REFERENCES) == set(get_args(Reference))
    used = {baseline for entry in entries().values() for claim in entry.claims for baseline in map(str, claim.over)}
    assert set(REFERENCES) <= used


# What `eelit check` finds


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (TRIED, "", r"`claims\[0\]`: a claim either names the outcomes that try it \(`tried`\) or says why none does"),
        (TRIED, TRIED + "    untried: no time\n", r"`claims\[0\]`: a claim either names"),
        (TRIED, "    tried: [a, b, a]\n", r"`claims\[0\]`: `tried` names something twice"),
        ("over: [full-model]", "over: [full-model, full-model]", r"`claims\[0\]`: `over` names something twice"),
        ("over: [full-model]", "over: []", r"`claims\[0\].over` is empty; name at least one"),
        ("over: [full-model]", "over: [full model]", r"`over` lists keys of the catalogue, .*: full-model"),
        ("over: [full-model]", "over: [{title: x}]", r"`over` lists keys of the catalogue, `external"),
        ("over: [full-model]", "over: [kaya2019sdm]", r"baseline `kaya2019sdm` is unknown; did you mean `kaya2019sdn`"),
        ("over: [full-model]", f"over: [{KEY}]", rf"`{KEY}` is claimed to be better than itself; write `own-variant`"),
        (
            "over: [full-model]", "over: [{external: {title: Depth-adaptive transformer}}]",
            r"this external work is in the catalogue; write `elbayad2020depth`",
        ),
        (TRIED, TRIED.replace("tried", "tryed"), r"unknown field `claims\[0\].tryed`; did you mean `tried`"),
        (
            "  - says: Makes the model more robust.\n",
            "  - {says: 'Makes the model: more robust', over: [full-model], source: s, untried: u}\n"
            "  - says: Makes the model more robust.\n",
            r"this claim is the same as `claims\[2\]`; keep one",
        ),
    ],
)  # fmt: skip
def test_a_faulty_claim_is_told(tree, old, new, message):
    edit(tree, ENTRY, old, new)
    (found,) = (line for line in errors() if re.search(message, line))
    assert re.search(r"zhou2020pabee\.yaml:\d+: ", found)


def test_claims_go_with_methods(tree, methodless):
    (tree / "methods/papers/zhou2020pabee.py").unlink()
    (tree / f"methods/papers/{methodless}.py").touch()
    found = "\n".join(errors())
    assert "`tried` is given, but methods/papers/zhou2020pabee.py does not exist; say why in `untried`" in found
    assert f"{methodless}.py exists; say in `claims` what the paper claims to gain" in found


# The join


@pytest.mark.parametrize(
    ("name", "outcome", "same"),
    [
        ("a gain", "a gain", True),
        ("a gain", "diverse: a gain", True),
        ("diverse: a gain", "diverse: a gain", True),
        ("diverse: a gain", "plain: a gain", False),
        ("gain", "a gain", False),
        ("diverse", "diverse: a gain", False),
    ],
)
def test_a_name_without_variant_means_all_variants(name, outcome, same):
    assert means(name, outcome) is same


def test_each_claim_stands_beside_its_outcomes_and_no_outcome_is_lost():
    claims = [claim(tried=["a gain", "a loss"]), claim(tried=[], untried="no time"), claim(tried=["x: a gain"])]
    verdicts = [verdict("x: a gain"), verdict("y: a gain"), verdict("x: more")]
    first, second, third, further = beside(claims, verdicts)
    assert ([v.name for v in first.verdicts], first.waiting) == (["x: a gain", "y: a gain"], ["a loss"])
    assert (first.lines, second.rows, second.lines) == (3, [""], 1)
    assert [v.name for v in third.verdicts] == ["x: a gain"]
    assert (further.claim, [v.name for v in further.verdicts]) == (None, ["x: more"])
    assert beside(claims[:1], verdicts[:2])[-1].claim == claims[0]
    assert beside([], []) == []


def test_a_tally_counts_each_outcome_once():
    both = beside([claim(), claim(tried=["a gain", "a loss"])], [verdict("a gain")])
    untried = beside([claim(tried=[], untried="it needs a camera")], [])
    assert tally([*both, *untried]) == {"holds": 1, "claims not tested here": 1}


def test_a_claim_is_said_with_its_baselines_and_source():
    outside = {"external": {"title": "FastBERT"}}
    told = said(claim(over=["static-exit", "kaya2019sdn", outside]).model_dump())
    assert told == "Gains. Over a network cut off at a fixed depth, kaya2019sdn, FastBERT (source: abstract)."


# Where it is shown


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Three made-up seeds of PABEE: one outcome that a claim names, in one variant only, and one that none names."""
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    for seed in range(3):
        outcomes = [
            Outcome(name="regression: better than the full model", statement="S.", holds=seed > 0, measured=f"m{seed}"),
            Outcome(name="a <b>gain</b>", statement="T.", holds=True, measured="n"),
        ]
        bench.keep(result(seed).model_copy(update={"claims": outcomes}), tmp_path / "text")
    return tmp_path


def test_show_tells_the_claims(eelit):
    text = " ".join(eelit("show", "pabee").stdout.split())
    assert "WHAT IT CLAIMS TO GAIN" in text
    assert "Over the full model (source: abstract;" in text
    assert "Tested here as `better than the full model`." in text
    assert "Not tested here: there are no adversarial inputs on the track." in text
    entry = json.loads(eelit("show", "pabee", "--format", "json").stdout)["entry"]
    assert entry["claims"][0]["tried"] == ["better than the full model"]


def test_of_a_work_without_claims_show_tells_none(methodless, eelit):
    text = eelit("show", methodless).stdout
    assert "Stopping Plainly" in text
    assert "WHAT IT CLAIMS TO GAIN" not in text


def test_compare_sets_the_papers_claims_beside_ours(measured, eelit):
    text = " ".join(eelit("compare", "pabee").stdout.split())
    assert f"WHAT THE PAPER CLAIMS, AND WHAT HOLDS HERE: {KEY} - Faster and more accurate" in text
    assert "holds in part, held with 2 of 3 seeds: `regression: better than the full model`. S." in text
    assert "measured, seed by seed: m0; m1; m2" in text
    assert "not tested here: there are no adversarial inputs" in text
    assert "A consequence of the paper that no claim names: holds, held with 3 of 3 seeds: `a <b>gain</b>`" in text
    claims = json.loads(eelit("compare", "pabee", "--format", "json").stdout)["claims"][KEY]
    assert claims[0]["claim"]["over"] == ["full-model"]
    assert claims[0]["verdicts"][0]["judgement"] == "holds in part"
    assert any(each["claim"]["untried"] for each in claims[:-1])
    assert claims[-1]["claim"] is None
    assert claims[-1]["verdicts"][0]["held"] == 3


def test_the_site_sets_the_papers_claims_beside_ours(measured, methodless):
    from eelit.site.generator import pages
    from eelit.site.generator.collection import gather
    from eelit.site.generator.reports import read_reports

    reports, _ = read_reports(measured / "none")
    written = dict(pages.generated(gather(sources(), reports)))
    for page in ("tracks/text.md", f"methods/{KEY}.md", f"papers/{KEY}.md"):
        text = written[page]
        assert "ALBERT-base is 1.57 times as fast" in text
        assert "Over the full model. Source: abstract; README" in text
        assert "2 of 3 seeds" in text
        assert "<li>m0</li><li>m1</li><li>m2</li>" in text
        assert "Not tested here: there are no adversarial inputs on the track." in text
        assert "Not a claim of the paper, but something that follows from its idea" in text
        assert "a &lt;b&gt;gain&lt;/b&gt;" in text
    board = written["tracks/text.md"]
    assert 'id="claims-zhou2020pabee"' in board
    assert "not measured yet on the track" in board  # all the other methods
    assert "no verdict, as the method is on no track" in written["papers/schuster2022calm.md"]
    assert "What it claims to gain" not in written[f"papers/{methodless}.md"]


def test_each_row_of_the_table_fills_all_columns(measured):
    """Cells that span rows or columns are easily counted wrong, and a browser mends it in silence."""
    from eelit.site.generator import pages
    from eelit.site.generator.collection import gather
    from eelit.site.generator.reports import read_reports

    reports, _ = read_reports(measured / "none")
    board = dict(pages.generated(gather(sources(), reports)))["tracks/text.md"]
    table = board[board.index('<table class="ee-table ee-claims">') :].partition("</table>")[0]
    for body in re.findall(r"<tbody[^>]*>(.*?)</tbody>", table, re.DOTALL):
        rows = re.findall(r"<tr>(.*?)</tr>", body, re.DOTALL)
        filled = [0] * len(rows)
        for index, row in enumerate(rows):
            for attributes in re.findall(r"<t[dh]([^>]*)>", row):
                down, across = (
                    int(found[1]) if (found := re.search(rf'{name}="(\d+)"', attributes)) else 1
                    for name in ("rowspan", "colspan")
                )
                for below in range(down):
                    filled[index + below] += across
        assert filled == [4] * len(rows)
