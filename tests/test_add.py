"""`eelit add` finds duplicates first, shows where services differ, writes what it knows with where it is from."""

import itertools
import json
import os
from pathlib import Path

import killing
import pytest
import scholarly
from scholarly import Server, Work
from test_sync import KEYS, world, written

from eelit.bib.files import JOURNAL, ChangedMeanwhile
from eelit.bib.read import read_bibliography
from eelit.bib.remote.services import Manners
from eelit.catalog.check import check
from eelit.catalog.doctor import findings, notes
from eelit.catalog.load import load
from eelit.catalog.sources import sources

NEW = Work(
    "W1", "FastExit: Leaving a Network Early", [("Ada", "Example"), ("Bo", "Roe")], 2024, "10.1234/ab.1", "2401.00001",
    "Example Conference", "12-19", said={"dblp": {"venue": "EX", "pages": "12-20"}},
)  # fmt: skip


@pytest.fixture
def server(tree, tmp_path, monkeypatch):
    made = Server([NEW])
    monkeypatch.setenv("EELIT_MIRROR", made.address)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EELIT_OFFLINE", raising=False)
    yield made
    made.close()


def bib(tree):
    return (tree / "bib" / "early-exit.bib").read_text(encoding="utf-8")


def test_a_work_gets_its_record_and_an_entry_to_fill_in(tree, server, eelit):
    before = bib(tree)
    found = eelit("add", NEW.doi)
    assert found.exit_code == 0, found.stderr
    assert "WHERE SERVICES DIFFER" in found.stdout
    differing = found.stdout.partition("WHERE SERVICES DIFFER")[2].splitlines()
    (row,) = [line for line in differing if line.startswith("pages")]
    assert row.split() == ["pages", "12–19", "12–20"]
    text = bib(tree)
    comment, *differing = [
        line for line in text.splitlines() if line not in before.splitlines() and line.startswith("%")
    ]
    assert [line.partition(": ")[2] for line in differing] == [
        "venue differs: “EX” at DBLP",
        "pages differ: “12–20” at DBLP",
    ]
    assert "doi from Crossref, DBLP" in comment
    assert "arxiv from arXiv" in comment
    record = read_bibliography(tree / "bib" / "early-exit.bib").records["example2024fastexit"]
    assert (record.title, record.pages, record.arxiv, record.venue) == (NEW.title, "12–19", NEW.arxiv, NEW.venue)
    loaded = load(sources())
    entry = (tree / "catalog" / "entries" / "example2024fastexit.yaml").read_text(encoding="utf-8")
    assert "short_name: FastExit" in entry
    assert f'- "https://arxiv.org/abs/2401.00001 by way of {server.address} (read on 20' in entry
    problems = [problem for problem in loaded.problems if "example2024fastexit" in str(problem)]
    assert problems
    said = " ".join(problem.message for problem in problems)
    assert all(name in said for name in ("`domain`", "`idea`", "`exit_rule`", "`skipped`")), "a person has to say these"
    assert len(problems) == 4
    assert "Crossref 1" in found.stderr
    log = (tree.parent / "cache" / "remote" / "asked.log").read_text()
    assert sum("→" not in line for line in log.splitlines()) == len(server.asked) == 5


def test_what_a_mirror_told_is_marked_and_found_by_the_doctor(tree, server, eelit, monkeypatch):
    before = bib(tree)
    monkeypatch.setenv("EELIT_MIRROR", server.address.replace("//", "//user:secret@"))
    assert eelit("add", NEW.doi).exit_code == 0
    comment, *differing = [line for line in bib(tree).splitlines() if line not in before and line.startswith("%")]
    assert f", by way of {server.address}: " in comment
    entry = (tree / "catalog" / "entries" / "example2024fastexit.yaml").read_text(encoding="utf-8")
    assert entry.count(f" by way of {server.address} (read on 20") == entry.count("(read on") == 5
    assert "secret" not in comment + entry
    loaded = load(sources())
    assert notes(loaded).get("example2024fastexit", "") == "", "nobody has decided anything"
    told = [each for each in findings(loaded) if each.rule == "mirror"]
    assert {Path(each.path).name for each in told} == {"early-exit.bib"}, (
        "the entry is not finished, so it is not read yet"
    )
    lines = Path(told[0].path).read_text(encoding="utf-8").splitlines()
    assert [lines[each.line - 1] for each in told] == [comment, *differing]


def test_what_services_tell_otherwise_is_told_by_the_doctor_until_a_person_has_decided(tree, server, eelit):
    assert eelit("add", NEW.doi).exit_code == 0

    def told():
        return {each.says: each for each in findings(load(sources())) if each.rule == "services differ"}

    day = bib(tree).partition(", by way")[0][-10:]
    pages = f"pages of `example2024fastexit` is “12–19”, but “12–20” at DBLP ({day})"
    venue = f"venue of `example2024fastexit` is “Example Conference”, but “EX” at DBLP ({day})"
    assert told().keys() == {pages, venue}
    lines = (tree / "bib/early-exit.bib").read_text(encoding="utf-8").splitlines()
    assert "pages differ: “12–20” at DBLP" in lines[told()[pages].line - 1]
    comment = told()[venue].remedy.partition("in a comment above it: ")[2]
    assert comment == "% venue: not EX"
    text = bib(tree).replace("@inproceedings{example2024fastexit", f"{comment}\n@inproceedings{{example2024fastexit")
    text = text.replace("pages = {12--19}", "pages = {12--20}")
    (tree / "bib/early-exit.bib").write_text(text, encoding="utf-8")
    assert told() == {}, "one field has the other value now, of the other a person says that ours is right"


def test_what_services_told_is_shown_again(small, server, eelit):
    assert eelit("add", NEW.doi).exit_code == 0
    entry = small / "catalog/entries/example2024fastexit.yaml"
    facets = "placement: [every-layer]\ntraining: [joint]\npolicy: [entropy]\ndomain: [language]\n"
    told = "idea: It stops.\nsources: [nothing]\n"
    entry.write_text(f"key: example2024fastexit\nshort_name: FE\nrole: early-exit\n{facets}{told}", encoding="utf-8")
    for key in KEYS:
        (small / f"catalog/entries/{key}.yaml").write_text(
            f"key: {key}\nshort_name: {key}\nrole: early-exit\n{facets}{told}", encoding="utf-8"
        )
    assert eelit("build").exit_code == 0
    shown = eelit("show", "example2024fastexit")
    assert shown.exit_code == 0, shown.stderr
    section = shown.stdout.partition("FIELDS OF THE RECORD, AS SERVICES TOLD THEM")[2]
    assert "pages: Crossref (20" in " ".join(section.split())
    assert "pages: otherwise at DBLP: “12–20” (20" in " ".join(section.split())
    fields = json.loads(eelit("show", "example2024fastexit", "--format", "json").stdout)["told"]
    (other,) = [each for each in fields if each["field"] == "pages" and each["other"]]
    assert (other["other"], other["services"], other["by_way"]) == ("12–20", ["DBLP"], server.address)


def test_the_service_itself_needs_no_mark():
    assert Manners().by_way == ""


@pytest.mark.parametrize(
    "given", ["2401.00001", "https://arxiv.org/abs/2401.00001v2?x#y", "W1", "fastexit: leaving a network early"]
)
def test_whatever_names_it_gives_the_same_record(tree, server, eelit, given):
    found = eelit("add", given, "--dry-run", "--format", "json")
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)
    assert told["key"] == "example2024fastexit"
    assert told["fields"]["doi"] == {"value": NEW.doi, "from": told["fields"]["doi"]["from"]}
    assert told["written"] is False
    assert "example2024fastexit" not in bib(tree)


@pytest.mark.parametrize("given", ["2006.04152", "bert loses patience: fast and robust inference with early exit"])
def test_what_the_catalogue_has_is_told_before_anybody_is_asked(tree, server, eelit, given):
    found = eelit("add", given)
    assert found.exit_code == 1
    assert "the catalogue has this work: zhou2020pabee (`eelit show zhou2020pabee`); nothing was added" in found.stderr
    assert ("give its DOI or arXiv id" in found.stderr) == given.startswith("bert"), "only a title may be another's"
    assert server.asked == []


def test_a_work_whose_entry_is_not_finished_is_told_with_what_lists_what_it_lacks(tree, server, eelit):
    eelit("add", NEW.doi)
    found = eelit("add", NEW.doi)
    assert found.exit_code == 1
    assert "example2024fastexit (`eelit check example2024fastexit` tells what its entry lacks)" in found.stderr


def test_what_turns_out_to_be_known_is_not_added(tree, server, eelit):
    title = "BERT Loses Patience: Fast and Robust Inference with Early Exit"
    server.works["W2"] = Work("W2", title, [("W.", "Zhou")], 2021, doi="10.5555/x.2")
    found = eelit("add", "10.5555/x.2")
    assert found.exit_code == 1
    assert "the catalogue has this work: zhou2020pabee" in found.stderr


@pytest.mark.parametrize(("people", "year"), [([("Jo", "Doe")], 2020), ([("Wangchunshu", "Zhou")], 2024)])
def test_the_same_title_alone_is_another_work_that_a_person_looks_at(tree, server, eelit, people, year):
    title = "BERT Loses Patience: Fast and Robust Inference with Early Exit"
    server.works["W2"] = Work("W2", title, people, year, doi="10.5555/x.2")
    found = eelit("add", "10.5555/x.2", "--key", "doe2027again", "--format", "json")
    assert found.exit_code == 0, found.stderr
    told = [doubt for doubt in json.loads(found.stdout)["doubts"] if "has the title of `zhou2020pabee`" in doubt]
    assert told == ["`doe2027again` has the title of `zhou2020pabee` (Zhou et al., 2020), but another first author or "
                    "year; if they are one work, keep one"]  # fmt: skip
    assert not [problem for problem in check(sources()) if "has the same title" in problem.message]


@pytest.mark.parametrize(
    ("given", "key"),
    [
        ("PABEE", "zhou2020pabee"),
        ("zhou2020pabee", "zhou2020pabee"),
        ("https://ieeexplore.ieee.org/document/9879601/", "fei2022deecap"),
        ("www.ieeexplore.ieee.org/document/9879601", "fei2022deecap"),
    ],
)
def test_key_short_name_and_address_of_a_work_that_is_here_are_told_before_anybody_is_asked(
    tree, server, eelit, given, key
):
    found = eelit("add", given)
    assert found.exit_code == 1
    assert f"the catalogue has this work: {key}" in found.stderr
    assert server.asked == []


@pytest.mark.parametrize("other", [{"authors": [("Zoe", "Zimmer")]}, {"doi": "10.9999/zz"}])
def test_of_several_works_with_one_title_none_is_chosen(tree, server, eelit, other):
    before = bib(tree)
    server.works["W2"] = Work(**(vars(NEW) | {"number": "W2", "doi": "10.1234/ab.2", "arxiv": "", "said": {}} | other))
    found = eelit("add", NEW.title)
    assert found.exit_code == 1, found.stdout
    assert "SEVERAL WORKS HAVE THIS TITLE" in found.stdout
    assert NEW.doi in found.stdout
    assert server.works["W2"].doi in found.stdout
    assert "give the DOI or arXiv id of one" in found.stderr
    found = eelit("add", NEW.title, "--format", "json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert {NEW.doi, server.works["W2"].doi} <= {choice["doi"] for choice in told["choices"]}
    assert bib(tree) == before
    assert eelit("add", NEW.doi).exit_code == 0


def test_a_service_that_failed_is_not_asked_again_in_the_same_run(tree, server, eelit):
    server.always = [("/crossref", scholarly.status(503))]
    assert eelit("add", NEW.title).exit_code == 0
    once = server.counts()["crossref"]
    assert once == 5, "one question, with its tries"


def test_what_may_be_a_version_of_a_work_is_added_and_told(tree, server, eelit):
    title = "BERT Loses its Patience: Fast and Robust Inference with Early Exit"
    server.works["W1"] = Work("W1", title, [("Wangchunshu", "Zhou")], 2020, NEW.doi)
    found = eelit("add", NEW.doi, "--dry-run")
    assert found.exit_code == 0
    assert f"may be `zhou2020pabee` under another title: “{title}”" in found.stdout
    found = eelit("add", NEW.doi, "--key", "zhou2020again", "--format", "json")
    (doubt,) = json.loads(found.stdout)["doubts"]
    assert doubt.startswith("`zhou2020again` may be `zhou2020pabee`")


def test_services_that_call_the_identifier_another_work_are_named_for_a_person_to_judge(tree, server, eelit):
    said = {"crossref": {"title": "On Fruit Flies", "authors": [("Zoe", "Young")]}}
    server.works["W1"] = Work(**(vars(NEW) | {"said": said}))
    told = json.loads(eelit("add", NEW.doi, "--dry-run", "--format", "json").stdout)
    assert told["doubts"] == [
        f"{NEW.doi} is “On Fruit Flies” at Crossref, but “{NEW.title}” at OpenAlex, DBLP, Semantic Scholar, "
        "arXiv; look at its title page before you keep the record"
    ]
    assert f"“{NEW.title}” at OpenAlex, DBLP" in eelit("add", NEW.doi, "--dry-run").stdout
    server.works["W1"] = NEW
    assert json.loads(eelit("add", NEW.doi, "--dry-run", "--anew", "--format", "json").stdout)["doubts"] == []


def test_a_venue_that_has_another_name_here_is_told(tree, server, eelit):
    server.works["W1"] = Work(**(vars(NEW) | {"venue": "ICLR", "said": {}}))
    told = json.loads(eelit("add", NEW.doi, "--dry-run", "--format", "json").stdout)
    (doubt,) = told["doubts"]
    assert doubt.startswith("“ICLR” of `example2024fastexit` is called “International Conference on Learning")


def test_a_record_whose_entry_was_never_written_is_told_with_what_writes_it(tree, server, eelit):
    eelit("add", NEW.doi)
    (tree / "catalog/entries/example2024fastexit.yaml").unlink()
    found = eelit("add", NEW.arxiv)
    assert found.exit_code == 1
    assert "it has no entry; `eelit new example2024fastexit` starts one" in found.stderr


def test_what_could_not_be_written_is_not_told_as_written(tree, server, eelit, monkeypatch):
    def meanwhile(*given):
        raise ChangedMeanwhile("early-exit.bib was changed by another program meanwhile")

    monkeypatch.setattr("eelit.bib.files.Changes.write", meanwhile)
    found = eelit("add", NEW.doi, "--format", "json")
    assert found.exit_code == 3
    assert found.stdout == ""
    assert "nothing was written, run this again" in found.stderr


@pytest.mark.parametrize("words", [("--offline",), ()])
def test_offline_it_says_what_to_type_and_asks_nobody(tree, server, eelit, monkeypatch, words):
    if not words:
        monkeypatch.setenv("EELIT_OFFLINE", "1")
    before = bib(tree)
    found = eelit("add", "A Wholly New BERT", "--key", "doe2027new", *words)
    assert found.exit_code == 0
    assert "@inproceedings{doe2027new," in found.stdout
    assert "title = {A Wholly New {BERT}}" in found.stdout
    assert found.stdout.startswith("Offline, no service is asked. Type the record into bib/early-exit.bib")
    assert server.asked == []
    assert bib(tree) == before
    assert not (tree.parent / "cache").exists()


def test_offline_works_with_a_similar_title_are_named(tree, server, eelit):
    found = eelit("add", "BERT Loses Patience", "--offline")
    assert found.exit_code == 0
    assert "the catalogue has `zhou2020pabee`" in found.stderr
    assert "the catalogue has" not in eelit("add", "Patience", "--offline").stderr, "too short to tell"
    told = json.loads(eelit("add", "BERT Loses Patience", "--offline", "--format", "json").stdout)
    assert [each["key"] for each in told["similar_here"]] == ["zhou2020pabee"]
    assert told["type"].startswith("Offline, no service is asked.")
    assert told["written"] is False


def test_nobody_knows_it_is_told_in_json_too(tree, server, eelit):
    found = eelit("add", "leaving a network early", "--format", "json")
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert told["similar"]
    assert told["written"] is False


def test_what_is_typed_without_being_filled_in_is_refused(tree, server, eelit):
    typed = eelit("add", "A Wholly New BERT", "--key", "doe2027new", "--offline").stdout
    record = typed[typed.index("@") : typed.index("}\n\n") + 2]
    (tree / "bib" / "early-exit.bib").write_text(bib(tree) + "\n" + record, encoding="utf-8")
    told = [problem.message for problem in check(sources()) if "doe2027new" in problem.message]
    assert any("`10.…/…`" in message for message in told), told
    assert any("`YYMM.NNNNN`" in message for message in told), told


def test_nobody_knows_it_but_something_is_near(tree, server, eelit):
    found = eelit("add", "leaving a network early")
    assert found.exit_code == 1
    assert "SIMILAR, BUT NOT THE SAME" in found.stdout
    assert NEW.title in found.stdout
    eelit("add", NEW.doi)
    found = eelit("add", "leaving a network early")
    assert "  example2024fastexit" in found.stdout, "one of those is here"
    assert "no service knows" in found.stderr


def test_what_could_not_be_asked_is_no_proof_that_it_is_unknown(tree, server, eelit):
    server.always = [(".", scholarly.status(403))]
    found = eelit("add", NEW.doi)
    assert found.exit_code == 4
    assert (
        "could be asked: Crossref, OpenAlex, DBLP, Semantic Scholar: answers with 403; run this again" in found.stderr
    )


def test_services_that_want_hours_are_told_so_and_count_as_asked(tree, server, eelit):
    server.always = [(".", scholarly.status(429, {"Retry-After": "21600"}))]
    found = eelit("add", NEW.doi)
    assert found.exit_code == 4
    assert "Semantic Scholar: asks to wait 360 minutes; run this again when they can be asked" in found.stderr
    assert "requests: Crossref 1, DBLP 1, OpenAlex 1, Semantic Scholar 1 (log" in found.stderr


def test_without_a_network_it_says_what_to_type(tree, server, eelit):
    server.close()
    found = eelit("add", NEW.doi)
    assert found.exit_code == 4
    assert "No service could be reached. Type the record" in found.stdout
    assert f"doi = {{{NEW.doi}}}" in found.stdout
    assert "no service was asked" not in found.stderr
    assert "Crossref 1 (1 without an answer)" in found.stderr


def test_a_failing_service_is_named_and_the_rest_is_written(tree, server, eelit):
    server.always = [("/crossref", scholarly.instead({"message": {}}))]
    found = eelit("add", NEW.doi)
    assert found.exit_code == 0
    assert "could be asked: Crossref answers in a form that is not known here" in found.stderr
    assert "`eelit sync --metadata example2024fastexit` asks again for what the record lacks" in found.stderr
    assert "12--20" in bib(tree)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["10.1234/ab.1", "--key", "Bad Key"], "is not a key"),
        (["10.1234/ab.1", "--key", "zhou2020pabee"], "is already used"),
        (["https://openreview.net/forum?id=x"], "holds neither a DOI nor an arXiv id"),
        (["10.1/x"], "`10.1/x` is no DOI"),
        (["10.1234/ab.1", "--contact", "nobody"], "`nobody` is no mail address; correct --contact or EELIT_CONTACT"),
        (["10.1234/ab.1", "--contact", "a@b.org\nX: y"], "`a@b.org X: y` is no mail address"),
        (["x"], "too short for a title"),
    ],
)
def test_what_makes_no_sense_is_said_before_anybody_is_asked(tree, server, eelit, words, said):
    found = eelit("add", *words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert server.asked == []


def test_a_mirror_that_is_no_address_is_refused(tree, server, eelit, monkeypatch):
    monkeypatch.setenv("EELIT_MIRROR", "localhost:8000")
    found = eelit("add", NEW.doi)
    assert found.exit_code == 2
    assert "EELIT_MIRROR is `localhost:8000`; set it to an address that begins with http://" in found.stderr


def test_a_spoilt_cache_is_named_with_what_to_do(tree, server, eelit):
    kept = tree.parent / "cache" / "remote" / "answers.sqlite"
    kept.parent.mkdir(parents=True)
    kept.write_text("no database, but long enough to be taken for one")
    found = eelit("add", NEW.doi)
    assert found.exit_code == 3
    assert f"the answers that are kept in {kept} cannot be used" in found.stderr
    assert "delete this file" in found.stderr


def test_a_hostile_title_stays_a_title(tree, server, eelit):
    title = "Exits}, year = {1999}}\n@misc{evil2020x, title = {\x1b[2J"
    server.works["W1"] = Work("W1", title, [("Ada", "Example")], 2024, NEW.doi)
    found = eelit("add", NEW.doi, "--key", "example2024exits")
    records = read_bibliography(tree / "bib" / "early-exit.bib").records
    assert "evil2020x" not in records
    assert found.exit_code == 0
    assert records["example2024exits"].year == 2024
    assert records["example2024exits"].title.startswith("Exits, year = 1999")


def test_without_a_checkout_there_is_nowhere_to_add_to(eelit, monkeypatch):
    monkeypatch.setattr("eelit.catalog.sources.checkout", lambda: None)
    found = eelit("add", "10.1234/ab.1")
    assert found.exit_code == 2
    assert "clone the repository first" in found.stderr


@pytest.fixture
def small(tmp_path, server, monkeypatch):
    """A checkout of five works, which is read in no time."""
    root = written(tmp_path / "small", world())
    monkeypatch.setenv("EELIT_ROOT", str(root))
    return root


def files_of(tree):
    """Return bibliography and new entry, if there is one, and all that lies beside them and has no business there."""
    entry = tree / "catalog/entries/example2024fastexit.yaml"
    aside = [path for room in ("bib", "catalog/entries") for path in (tree / room).glob(".*")]
    return bib(tree), entry.read_text(encoding="utf-8") if entry.exists() else None, aside


def in_a_child(does):
    """Do something in a process of its own; return the state in which it ended, 0 if it came to its end."""
    child = os.fork()
    if child == 0:
        try:
            does()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.fixture
def calm(small, server, eelit):
    """What nobody kills makes of bibliography and entry, all answers being kept; and the two as they were."""
    before = files_of(small)
    eelit("add", NEW.doi)
    after = files_of(small)
    assert after[1] is not None
    assert after[2] == []
    return before, after


def undone(tree, before):
    for path in files_of(tree)[2]:
        path.unlink()
    (tree / "bib/early-exit.bib").write_text(before[0], encoding="utf-8")
    (tree / "catalog/entries/example2024fastexit.yaml").unlink(missing_ok=True)


def test_a_run_that_is_killed_at_any_step_of_writing_keeps_record_and_entry_together(small, server, eelit, calm):
    before, after = calm
    seen = set()
    for step in itertools.count(1):
        undone(small, before)

        def killed(step=step):
            killing.at(step)
            eelit("add", NEW.doi)

        if in_a_child(killed) == 0:
            break
        text, entry, aside = files_of(small)
        assert text in (before[0], after[0])
        assert entry in (None, after[1])
        seen.add((text == after[0], entry is not None, any(path.name == JOURNAL for path in aside)))
        load(sources())
        assert files_of(small)[:2] in (before[:2], after[:2]), "the next command leaves both or none"
        known = files_of(small)[1] is not None
        assert eelit("add", NEW.doi).exit_code == known, "it is added, or known by now"
        assert files_of(small) == after, "nothing is left behind, and no address is lost"
    assert seen >= {(False, False, True), (True, False, True), (True, True, True), (True, True, False)}


def test_a_run_that_is_interrupted_at_any_step_of_writing_leaves_both_or_none_and_nothing_aside(
    small, server, eelit, calm
):
    def interrupt():
        raise KeyboardInterrupt

    seen = set()
    for step in itertools.count(1):
        undone(small, calm[0])

        def interrupted(step=step):
            killing.at(step, interrupt)
            assert eelit("add", NEW.doi).exit_code == 0

        if in_a_child(interrupted) == 0:
            break
        load(sources())
        assert files_of(small) in calm
        seen.add(files_of(small)[1] is None)
    assert seen == {True, False}


def test_what_a_person_wrote_after_a_kill_is_kept_and_told(small, server, eelit, calm, capsys):
    (before, after), entry = calm, small / "catalog/entries/example2024fastexit.yaml"
    journals = {}
    for step in itertools.count(1):
        undone(small, before)
        if in_a_child(lambda step=step: (killing.at(step), eelit("add", NEW.doi))) == 0:
            break
        text, written, aside = files_of(small)
        if (small / "bib" / JOURNAL).exists() and written is None:
            journals.setdefault(text == after[0], {path: path.read_bytes() for path in aside})
        load(sources())
    assert journals.keys() == {False, True}
    undone(small, before)
    for path, content in journals[False].items():  # neither was in place
        path.write_bytes(content)
    mine = bib(small) + "% mine\n"
    (small / "bib/early-exit.bib").write_text(mine, encoding="utf-8")
    capsys.readouterr()
    load(sources())
    assert files_of(small) == (mine, None, [])
    assert "early-exit.bib was changed since a run that would write it was killed; repeat it" in capsys.readouterr().err
    (small / "bib/early-exit.bib").write_text(after[0], encoding="utf-8")
    for path, content in journals[True].items():  # the record was
        path.write_bytes(content)
    entry.write_text("mine\n", encoding="utf-8")
    load(sources())
    assert files_of(small) == (after[0], "mine\n", [])


def test_a_new_entry_by_hand_waits_for_the_one_that_a_killed_run_had_made(small, server, eelit, calm):
    before, after = calm
    for step in itertools.count(1):
        undone(small, before)
        assert in_a_child(lambda step=step: (killing.at(step), eelit("add", NEW.doi))) != 0
        if files_of(small)[:2] == (after[0], None):
            break
        load(sources())
    found = eelit("new", "example2024fastexit")
    assert "example2024fastexit.yaml, as a run that was killed had begun to" in found.stderr
    assert "exists already and was not changed" in found.stderr
    assert files_of(small) == after


@pytest.mark.parametrize(
    "content", ["{", "[1]", '[{"file": "early-exit.bib", "new": "citations.csv", "before": ""}]', "\udcff"]
)
def test_a_journal_that_is_not_ours_is_refused_and_nothing_is_moved(tree, server, eelit, content):
    before = bib(tree)
    (tree / "bib" / JOURNAL).write_text(content, encoding="utf-8", errors="surrogateescape")
    found = eelit("add", NEW.doi)
    assert found.exit_code == 3
    assert f"{JOURNAL} " in found.stderr
    assert "delete it, and look at the changes with `git diff`" in found.stderr
    assert bib(tree) == before
    assert (tree / "bib/citations.csv").exists()
