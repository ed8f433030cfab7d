"""`eelit doctor` finds what may be amiss, says what to do, and mends only what leaves no choice."""

import json
from pathlib import Path

import pytest
import scholarly
from scholarly import Server, Work

from eelit.catalog.doctor import Measured, findings, mended
from eelit.catalog.load import load
from eelit.catalog.sources import sources

BIB = "bib/early-exit.bib"
PABEE = "catalog/entries/zhou2020pabee.yaml"


@pytest.fixture(autouse=True)
def _without_results(monkeypatch):
    """What is measured here is told by other tests; to read all results takes seconds."""
    monkeypatch.setattr("eelit.cli.doctor._measured", lambda keys: None)


def edit(tree, name, old, new):
    path = tree / name
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


def found(rule, measured=None):
    return [each for each in findings(load(sources()), measured) if each.rule == rule]


def of_pabee(rule, known):
    return [each for each in found(rule, {"zhou2020pabee": known}) if "`zhou2020pabee`" in each.says]


def add(tree, key, fields, kind="inproceedings"):
    lines = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
    path = tree / BIB
    path.write_text(f"{path.read_text(encoding='utf-8')}\n@{kind}{{{key},\n{lines}\n}}\n", encoding="utf-8")
    facets = "placement: [every-layer]\ntraining: [joint]\npolicy: [entropy]\ndomain: [language]\n"
    entry = f"key: {key}\nshort_name: Name{key}\nrole: early-exit\n{facets}idea: It stops.\nsources: [nothing]\n"
    (tree / "catalog" / "entries" / f"{key}.yaml").write_text(entry, encoding="utf-8")


DOE = {"author": "Doe, Jo", "title": "Stopping Plainly Before the End", "year": "2020", "doi": "10.1234/doe"}
DOE_ID = {"doi": DOE["doi"]}


@pytest.mark.parametrize(
    ("fields", "kind", "rule", "says"),
    [
        ({}, "inproceedings", "missing", "`doe2027new` (@inproceedings) has no venue"),
        ({"doi": "", "journal": "J", "eprint": "2001.00001"}, "article", "missing", "is published and has no DOI"),
        ({"journal": "J"}, "article", "missing", "has a DOI and no pages"),
        ({"doi": ""}, "misc", "missing", "cannot be found by any identifier"),
        ({"eprint": "2203.00001", "archiveprefix": "arXiv"}, "misc", "contradiction", "arXiv:2203.00001 is of 2022"),
        ({"eprint": "1703.00001", "archiveprefix": "arXiv"}, "misc", "contradiction", "`eelit doctor --online doe2027"),
        ({"booktitle": "Conference (CONF 2018)", "pages": "1--2"}, "inproceedings", "contradiction", "its venue is"),
        ({"journal": "J", "pages": "12--3"}, "article", "contradiction", "go from 12 to 3"),
        ({"journal": "J", "pages": "1–9"}, "article", "pages", "are written `1–9`; write `1--9`"),
        (
            {"doi": "10.48550/arXiv.2001.00001", "eprint": "2001.00002", "archiveprefix": "arXiv"}, "misc",
            "identifiers", "is that of arXiv:2001.00001, its",
        ),
        ({"doi": "10.18653/v1/2020.acl-main.1", "acl": "2020.acl-main.2"},
            "misc", "identifiers", "is not that of the ACL"),
        ({"booktitle": "Int. Conf. on Representations (ICLR 2020)"}, "inproceedings", "venue", "“Int"),
        (
            {"booktitle": "Proceedings of the International Conference on Learning Representations (ICLR 2021)"},
            "inproceedings", "venue", "call one venue by one name",
        ),
        ({"booktitle": "ICLR"}, "inproceedings", "venue", "“ICLR” of `doe2027new` is called “International"),
        ({"booktitle": "Proc. ICLR 2027"}, "inproceedings", "venue", "is called “International Conference on Learning"),
        ({"booktitle": "Learning Representations (ICLR)"}, "inproceedings", "venue", "is called “International"),
        ({"booktitle": "Computer Vision – ECCV 2019"}, "inproceedings", "venue", "is called “European Conference"),
        (
            {"journal": "IEEE Trans. Pattern Anal. Mach. Intell."}, "article", "venue",
            "is called “IEEE Transactions on Pattern Analysis and Machine Intelligence”",
        ),
        ({}, "misc", "unconnected", "nothing connects `doe2027new`"),
        ({}, "misc", "unconnected", "(`eelit sync --citations`)"),
    ],
)  # fmt: skip
def test_what_a_record_has_amiss_is_told_with_file_line_and_remedy(tree, fields, kind, rule, says):
    before = {each.says for each in found(rule)}
    add(tree, "doe2027new", DOE | fields, kind)
    new = [each for each in found(rule) if each.says not in before]
    (finding,) = [each for each in new if says in f"{each.says}; {each.remedy}"]
    assert finding.remedy
    assert finding.path.endswith((".bib", ".yaml"))
    assert Path(finding.path).read_text(encoding="utf-8").splitlines()[finding.line - 1]
    assert "doe2027new" in finding.says


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"doi": "", "eprint": "2001.00001v2", "archiveprefix": "arXiv"}, "names a version; write `2001.00001`"),
        ({"doi": "https://doi.org/10.1234/Doe"}, "is written https://doi.org/10.1234/Doe; write `10.1234/doe`"),
        ({"doi": "https://doi.org/10.48550/arXiv.2001.00001v1"}, "write `eprint = {2001.00001}` in its place"),
        ({"doi": "10.48550/arXiv.2001.00001v1", "eprint": "2001.00001", "archiveprefix": "arXiv"}, "in its place"),
        ({"doi": "", "eprint": "2006.04152", "archiveprefix": "arXiv"}, "has the same arXiv id as `zhou2020pabee`"),
        ({}, "has the same title as `zhou2020pabee`"),
        ({"doi": "", "journal": "J", "title": "Another"}, "cannot be found by any identifier"),
    ],
)
def test_one_fault_is_told_once_and_mended_if_that_leaves_no_choice(tree, eelit, fields, says):
    before = findings(load(sources()))
    pabee = {"author": "Zhou, Wangchunshu", "year": "2020", "title": "BERT Loses Patience: Fast and Robust Inference "
             "with Early Exit"}  # fmt: skip
    title = {} if "same" in says else {"title": "Stopping Plainly Before the End"}
    add(tree, "doe2027new", pabee | title | DOE_ID | fields, "article" if "journal" in fields else "misc")
    new = {str(each): each for each in findings(load(sources())) if each not in before and each.rule != "unconnected"}
    assert len(new) == 1, list(new)
    (told,) = new.values()
    assert says in str(told)
    if told.mends:
        refused = fields["doi"].startswith("http") or "version" in told.says  # by `check`, too
        assert told.severity == ("error" if refused else "warning")
        eelit("doctor", "--fix", "doe2027new")
        assert [each for each in findings(load(sources())) if "doe2027new" in each.says and each.mends] == []


@pytest.mark.parametrize(
    "venue",
    [
        "Findings of the Association for Computational Linguistics: ACL 2020", "The Workshop on Exits (ACL 2020)",
        "Conference on Computer Vision and Pattern Recognition by Another Name (CVPR 1999)", "Neural Systems",
    ],
)  # fmt: skip
def test_another_venue_is_no_second_name(tree, venue):
    add(tree, "doe2027new", DOE | {"booktitle": venue})
    assert found("venue") == []


def test_a_preprint_may_be_posted_years_later_if_the_record_says_so(tree):
    posted = DOE | {"eprint": "2203.00001", "archiveprefix": "arXiv"}
    before = len(found("contradiction"))
    add(tree, "doe2027new", posted | {"note": "Posted in 2022"}, "misc")
    assert len(found("contradiction")) == before
    edit(tree, BIB, "{Posted in 2022}", "{Posted in 2021}")
    assert len(found("contradiction")) == before + 1
    edit(tree, BIB, "{2203.00001}", "{1803.00001}")
    assert len(found("contradiction")) == before, "two years before publication leave no doubt"


def test_what_is_said_to_be_unknown_is_not_asked_for_but_may_be_known_by_now(tree):
    edit(tree, BIB, "@inproceedings{zhou2020pabee,", "@inproceedings{zhou2020pabee,\n  doi = {10.5555/pabee},")
    (finding,) = [each for each in found("contradiction") if "10.5555/pabee" in each.says]
    assert finding.path.endswith("zhou2020pabee.yaml")
    assert not [each for each in found("missing") if "zhou2020pabee" in each.says]


def test_two_venues_that_look_like_one_may_be_said_to_be_two(tree):
    add(tree, "doe2027new", DOE | {"booktitle": "Int. Conf. on Representations (ICLR 2020)"})
    (finding,) = found("venue")
    _, _, said = finding.remedy.partition("say so in a comment above it: ")
    assert said.startswith("% not International Conference on Learning")
    edit(tree, BIB, "@inproceedings{doe2027new,", f"{said}\n@inproceedings{{doe2027new,")
    assert found("venue") == []


def test_a_venue_with_its_old_acronym_is_one_with_two_names(tree):
    add(tree, "doe2027new", DOE | {"booktitle": "Adv. in Neural Inf. Proc. Syst. (NIPS 2024)"})
    (finding,) = found("venue")
    assert "(NeurIPS 2024)" in finding.says


def test_stale_results_are_told_by_a_file(monkeypatch):
    monkeypatch.undo()
    from eelit.cli.doctor import _measured

    measured = _measured({"kaya2019sdn"})
    assert measured["kaya2019sdn"].path.is_file()


def test_two_versions_of_one_work(tree):
    add(tree, "doe2027new", DOE, "misc")
    other = {"title": "Stopping Plainly Before Its End", "doi": "", "eprint": "2001.00001", "archiveprefix": "arXiv"}
    add(tree, "doe2027old", DOE | other, "misc")
    (finding,) = found("versions")
    assert "may be `doe2027new` under another title" in finding.says
    edit(tree, BIB, "doi = {10.1234/doe}", "eprint = {2001.00002}")
    assert len(found("versions")) == 1, "two preprints, too: that both have no DOI makes them no other works"
    edit(tree, BIB, "@misc{doe2027old,", "% It is not doe2027new, which it continues.\n@misc{doe2027old,")
    assert found("versions") == [], "a person has decided"
    edit(tree, BIB, "% It is not", "% It may be or not")
    edit(tree, BIB, "doe2027new, which", "another, which")
    assert len(found("versions")) == 1
    edit(tree, BIB, "Stopping Plainly Before Its End", "Going On Forever, a Sequel")
    assert found("versions") == []


def test_an_external_work_that_the_catalogue_has_by_its_id(tree):
    edit(tree, PABEE, "target: liu2020fastbert", "target: {external: {title: FastBERT, id: 'arXiv:2004.02178'}}")
    (finding,) = found("external")
    assert finding.remedy == "write `target: liu2020fastbert`"
    assert "external" in Path(finding.path).read_text(encoding="utf-8").splitlines()[finding.line - 1]


def test_claims_without_outcome_and_results_of_older_code(tree):
    path = tree / "methods" / "results" / "text" / "zhou2020pabee"
    known = Measured(path, False, {"patience: better than the full model", "better than max-confidence"})
    assert of_pabee("claim without outcome", known) == []
    (finding,) = found("stale", {"zhou2020pabee": known})
    assert finding.remedy == "measure again: `eelit bench zhou2020pabee`"
    alone = Measured(path, False, known.outcomes, "eelit run {} --keep")
    (finding,) = found("stale", {"zhou2020pabee": alone})
    assert finding.remedy == "measure again: `eelit run zhou2020pabee --keep`"
    known = Measured(path, True, {"patience: something else", "better than max-confidence"})
    assert found("stale", {"zhou2020pabee": known}) == []
    (finding,) = of_pabee("claim without outcome", known)
    assert "“better than the full model”" in finding.says
    line = (tree / PABEE).read_text().splitlines()[finding.line - 1]
    assert line.startswith("  - says:")


def test_claims_of_a_method_without_any_result_are_told_once(tree):
    path = tree / "methods" / "results" / "text" / "zhou2020pabee"
    outcomes = {"patience: better than the full model", "better than max-confidence"}
    assert found("claim without outcome", None) == [], "nobody asked for results"
    told = {each.path.rpartition("/")[2]: each for each in found("claim without outcome", {})}
    pabee = told.pop("zhou2020pabee.yaml")
    assert pabee.says.startswith(
        "no result of `zhou2020pabee` is kept, so nothing tries the 2 claims that name outcomes"
    )
    assert pabee.remedy.startswith("measure it (`eelit bench zhou2020pabee` on its track")
    assert (tree / PABEE).read_text().splitlines()[pabee.line - 1].startswith("  - says:")
    assert told, "and of each other method"
    known = {"zhou2020pabee": Measured(path, True, outcomes)}
    assert "zhou2020pabee.yaml" not in {each.path.rpartition("/")[2] for each in found("claim without outcome", known)}


def test_the_catalogue_itself_has_no_error_and_nothing_to_mend():
    loaded = load(sources())
    told = findings(loaded)
    assert [str(each) for each in told if each.severity == "error" or each.mends] == []


def test_fix_mends_what_leaves_no_choice_and_shows_the_diff(tree, eelit):
    assert eelit("doctor", "--fix").exit_code == 0
    edit(tree, BIB, "pages = {662--673}", "pages = {662-673}")
    edit(tree, BIB, "pages = {18330--18341}", "pages = {18330–18341}")
    edit(tree, BIB, "doi = {10.1109/isca.2018.00061}", "doi = {https://doi.org/10.1109/ISCA.2018.00061}")
    edit(tree, BIB, "eprint = {2310.05424}", "eprint = {2310.05424v2}")
    add(tree, "doe2027new", DOE | {"doi": "10.48550/arXiv.2001.00001"}, "misc")
    edit(tree, PABEE, "placement: [every-layer", "placement: [every-layer, along-depth")
    before = {path: path.read_text(encoding="utf-8") for path in (tree / "catalog/entries").iterdir()}
    result = eelit("doctor", "--fix")
    assert "checkout/bib/early-exit.bib" in result.stdout
    text = (tree / BIB).read_text(encoding="utf-8")
    for right in (
        "pages = {662--673}",
        "pages = {18330--18341}",
        "doi = {10.1109/isca.2018.00061}",
        "eprint = {2310.05424},",
        "eprint = {2001.00001}",
    ):
        assert right in text
        assert f"+  {right}".rstrip(",") in result.stdout
    assert "10.48550" not in text
    after = {path: path.read_text(encoding="utf-8") for path in (tree / "catalog/entries").iterdir()}
    changed = [path.name for path in before if before[path] != after[path]]
    assert changed == ["zhou2020pabee.yaml"]
    assert after[tree / PABEE] == before[tree / PABEE].replace(", along-depth", "")
    assert not [each for each in findings(load(sources())) if each.mends]
    assert eelit("doctor", "--fix", "--format", "json").stdout.count('"diff": ""') == 1


def test_an_entry_whose_looks_cannot_be_kept_is_left_to_its_reader(tree):
    edit(tree, PABEE, "placement: [every-layer", "placement:   [every-layer, along-depth")
    before = (tree / PABEE).read_text(encoding="utf-8")
    loaded = load(sources())
    changes, refused = mended(loaded, findings(loaded))
    assert changes.paths() == []
    assert "correct it by hand" in refused[0]
    assert (tree / PABEE).read_text(encoding="utf-8") == before


def test_only_the_works_that_are_named(tree, eelit):
    add(tree, "doe2027new", DOE)
    told = json.loads(eelit("doctor", "doe2027new", "--format", "json").stdout)["findings"]
    assert {each["rule"] for each in told} >= {"missing", "unconnected"}
    assert all("doe2027new" in each["says"] for each in told)


def test_errors_are_exit_code_3(tree, eelit):
    edit(tree, "bib/citations.csv", "zhou2020pabee,kaya2019sdn", "zhou2020pabe,kaya2019sdn")
    result = eelit("doctor")
    assert result.exit_code == 3
    assert "check: unknown key `zhou2020pabe`" in result.stdout


@pytest.fixture
def server(tree, tmp_path, monkeypatch):
    made = Server([Work("W1", "On Fruit Flies", [("Zoe", "Young")], 2001, "10.1234/doe", "2001.00001", "Conf", "1-2")])
    monkeypatch.setenv("EELIT_MIRROR", made.address)
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EELIT_OFFLINE", raising=False)
    yield made
    made.close()


def test_only_online_anybody_is_asked(tree, server, eelit, monkeypatch):
    add(tree, "doe2027new", DOE)
    eelit("doctor", "doe2027new")
    found = eelit("doctor", "doe2027new", "--online", "--offline")
    assert found.exit_code == 2
    assert "--online asks services, which --offline and EELIT_OFFLINE forbid" in found.stderr
    assert server.asked == []


def test_online_identifiers_that_lead_elsewhere_and_dead_links_are_found(tree, server, eelit, monkeypatch):
    add(tree, "doe2027new", DOE | {"url": f"{server.address}/gone"}, "misc")
    server.scripts = []
    server.always = [
        ("/busy", scholarly.status(503)),
        ("/refused", scholarly.status(403)),
        ("/gone", scholarly.status(404)),
        ("/here", scholarly.status(200)),
    ]
    entry = tree / "catalog/entries/doe2027new.yaml"
    links = "".join(f'  - "{server.address}/{name}: page 3"\n' for name in ("busy", "refused", "here"))
    entry.write_text(entry.read_text().replace("sources: [nothing]\n", f"sources:\n{links}"), encoding="utf-8")
    monkeypatch.setattr(
        "eelit.bib.record.Record.links", lambda record: [("publisher", record.url)] if record.url else []
    )
    told = json.loads(eelit("doctor", "doe2027new", "--online", "--format", "json").stdout)["findings"]
    dead = [each for each in told if each["rule"] == "dead link"]
    assert [each["says"] for each in dead] == [f"{server.address}/gone is gone (404)"]
    differ = [each["says"] for each in told if each["rule"] == "services differ"]
    text = entry.read_text() + "unverified:\n  - {field: doi, note: the DOI leads to “On Fruit Flies” by mistake}\n"
    entry.write_text(text, encoding="utf-8")
    again = json.loads(eelit("doctor", "doe2027new", "--online", "--format", "json").stdout)["findings"]
    assert not [each for each in again if "On Fruit Flies" in each["says"]], "an entry may say what was decided"
    (told,) = [says for says in differ if says.startswith("10.1234/doe of `doe2027new` leads to another work: ")]
    assert "“On Fruit Flies” (2001) at " in told
    assert "Crossref" in told


def links(monkeypatch, *addresses):
    found = [(BIB, 1, address) for address in addresses]
    monkeypatch.setattr("eelit.catalog.doctor.addresses", lambda loaded, keys: found)


def test_without_a_network_no_link_is_dead(tree, server, eelit, monkeypatch, tmp_path):
    server.close()
    add(tree, "doe2027new", DOE)
    links(monkeypatch, *(f"http://127.0.0.{host}:1/{page}" for host in range(1, 6) for page in range(2)))
    found = eelit("doctor", "doe2027new", "--online")
    assert found.exit_code == 4
    assert "dead link" not in found.stdout
    assert "127.0.0.1:1, 127.0.0.2:1, 127.0.0.3:1 cannot be reached: links need a network; run this" in found.stderr
    assert "eelit: not all could be asked: OpenAlex, " in found.stderr
    log = (tmp_path / "cache/remote/asked.log").read_text()
    assert "HEAD http://127.0.0.3:1/0\n" in log
    assert "127.0.0.4" not in log


def test_one_host_that_is_down_is_named_and_proves_nothing(tree, server, eelit, monkeypatch):
    add(tree, "doe2027new", DOE)
    server.always = [("/here", scholarly.status(200)), ("/gone", scholarly.status(410))]
    down = [f"http://127.0.0.1:1/{page}" for page in range(2)]
    links(monkeypatch, f"{server.address}/here", *down, f"{server.address}/gone")
    found = eelit("doctor", "doe2027new", "--online")
    assert found.stdout.count("dead link") == 1
    assert "/gone is gone (410)" in found.stdout
    assert "127.0.0.1:1 cannot be reached; links that were not followed: 2" in found.stderr


def outside(tree, key, name):
    relation = f"relations:\n  - {{type: builds-on, target: {{external: {{title: {name}, year: 2017, id: {name}}}}}}}\n"
    edit(tree, f"catalog/entries/{key}.yaml", "sources: [nothing]\n", f"{relation}sources: [nothing]\n")


def test_two_works_that_build_on_one_outside_are_connected_and_one_alone_is_told_as_it_is(tree):
    for key in ("doe2027new", "doe2027old"):
        add(tree, key, DOE | {"title": f"Stopping {key}", "doi": f"10.1234/{key}"}, "misc")
    outside(tree, "doe2027new", "arXiv:1701.00001")
    (finding,) = [each for each in found("unconnected") if "doe2027new" in each.says]
    assert finding.says.endswith("of the collection, only with works outside")
    outside(tree, "doe2027old", "arxiv:1701.00001")
    assert not [each for each in found("unconnected") if "doe2027" in each.says]
    assert not [each for each in found("unconnected") if "yu2023dtn" in each.says or "esfedavg" in each.says]
