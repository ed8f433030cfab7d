"""The real catalogue: complete, sound, in words of our own, and found by the terms that one would try."""

import csv
import importlib.util
import re
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from eelit.catalog.check import broader_terms, check
from eelit.catalog.load import load
from eelit.catalog.query import Catalogue, Query
from eelit.catalog.save import to_yaml
from eelit.catalog.schema import FACETS, Entry
from eelit.catalog.sources import sources

HERE = Path(__file__).parent
PATIENT = {"zhou2020pabee", "zhang2022pceebert", "gao2023pfberxit", "zhu2021leebert"}


def _script(name):
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


sheets = _script("make_sheet_shingles")


@pytest.fixture(scope="module")
def loaded():
    return load(sources())


@pytest.fixture(scope="module")
def catalogue(database):
    return Catalogue(str(database))


def without_names(value):
    """Leave out titles, addresses and identifiers: facts that have one wording only."""
    if isinstance(value, dict):
        named = ("sources", "title", "id", "url", "repository")
        return {name: without_names(part) for name, part in value.items() if name not in named}
    return [without_names(part) for part in value] if isinstance(value, list) else value


def keys(catalogue, **conditions):
    return {work["key"] for work in catalogue.find(Query(**conditions)).works}


def test_the_catalogue_is_sound():
    assert [str(problem) for problem in check(sources()) if problem.severity == "error"] == []


def test_all_seed_works_are_there(loaded):
    assert len(loaded.entries) >= 125


def test_the_seed_list_resolves_to_84_works(loaded):
    with (HERE / "data" / "seed_lines.csv").open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 90
    assert len({line["key"] for line in lines}) == 84
    for line in lines:
        entry = loaded.entries[line["key"]]
        assert entry.seed is not None, line
        assert int(line["line"]) in entry.seed.lines, line


def test_no_eight_words_in_a_row_come_from_a_fact_sheet(loaded):
    packed = (HERE / "data" / "sheet_shingles.bin").read_bytes()
    known = {packed[start : start + sheets.SIZE] for start in range(0, len(packed), sheets.SIZE)}
    copied = [
        f"{key}: {run}"
        for key, entry in loaded.entries.items()
        for text in sheets.strings(without_names(entry.model_dump()))
        for mark, run in sheets.shingles(text).items()
        if mark in known
    ]
    assert copied == []


def test_the_shingles_are_sorted_and_small():
    path = HERE / "data" / "sheet_shingles.bin"
    packed = path.read_bytes()
    marks = [packed[start : start + sheets.SIZE] for start in range(0, len(packed), sheets.SIZE)]
    assert all(one < other for one, other in pairwise(marks))
    assert path.stat().st_size < 600_000


PUBLISHED = {"article", "inproceedings"}


def test_an_idea_names_where_it_was_read_or_is_marked(loaded):
    """A list of titles, authors and venues tells nothing of what a work does."""
    bare = re.compile(r"\((?:title|authors?|venue|DOI|pages|volume|its |references |[ ,])+")
    for key, entry in loaded.entries.items():
        read = [source for source in entry.sources if not bare.search(source) or "abstract" in source]
        notes = [item.note for item in entry.unverified if item.field == "idea"]
        assert read or any("neither abstract nor paper was read" in note for note in notes), key
        assert not any("from summaries of the abstract; the paper" in note for note in notes), key


def test_diffusion_is_found_by_its_steps_though_no_entry_says_so(catalogue):
    assert "moon2024ase" in keys(catalogue, text="denoising step")


def test_what_a_published_work_lacks_is_said(loaded):
    """A DOI and pages are given, or the entry lists that nobody showed them."""
    for key, record in loaded.bibliography.records.items():
        listed = {item.field for item in loaded.entries[key].unverified}
        if record.type in PUBLISHED and not record.doi:
            assert "doi" in listed, key
        if record.type in PUBLISHED and not (record.pages or record.articleno):
            assert "pages" in listed, key


def test_a_venue_has_one_name(loaded):
    """`(ACL 2022)` follows the same words in every record, and those of other years differ in their numbers alone."""
    by_year, by_series = {}, {}
    for record in loaded.bibliography.records.values():
        found = re.search(r"^(.*) \(([^()]+) (\d{4})\)$", record.venue)
        if found and "Workshop" not in record.venue:  # one may be held at a conference, and is not it
            name, series, year = found.groups()
            by_year.setdefault((series, year), set()).add(name)
            bare = re.sub(r"\d+(st|nd|rd|th)? | \(Volume.*", "", name).removeprefix("Proceedings of the ")
            by_series.setdefault(series, set()).add(bare.replace("IEEE/CVF", "IEEE"))
    assert {series: names for series, names in by_year.items() if len(names) > 1} == {}
    assert {series: names for series, names in by_series.items() if len(names) > 1} == {}


def test_load_save_load(loaded):
    for entry in loaded.entries.values():
        text = to_yaml(entry)
        again = Entry.model_validate(yaml.safe_load(text))
        assert again == entry
        assert to_yaml(again) == text
        assert list(yaml.safe_load(text)) == [name for name in Entry.model_fields if name in yaml.safe_load(text)]


def test_a_saved_entry_leaves_defaults_out(loaded):
    text = to_yaml(loaded.entries["zhou2020pabee"])
    assert "qualifier" not in text
    assert "reconstructed" not in text


def test_every_term_is_defined_used_and_shown_by_an_example(loaded, catalogue):
    for term in catalogue.taxonomy():
        if term.facet in FACETS:
            assert term.works > 0, term
            assert term.example, term


def test_patience_finds_its_four(catalogue):
    assert keys(catalogue, terms={"policy": ("patience",)}) >= PATIENT


def test_a_broader_term_finds_the_narrower(catalogue):
    confident = keys(catalogue, terms={"policy": ("confidence",)})
    assert confident >= keys(catalogue, terms={"policy": ("entropy",)})
    assert confident >= keys(catalogue, terms={"policy": ("max-confidence",)})
    assert keys(catalogue, terms={"policy": ("agreement",)}) >= PATIENT


def test_found_works_carry_the_term_or_a_narrower_one(loaded, catalogue):
    for facet in FACETS:
        terms = loaded.terms(facet)
        for term in terms:
            expected = {
                key
                for key, entry in loaded.entries.items()
                if any(term in (own, *broader_terms(own, terms)) for own in getattr(entry, facet))
            }
            assert keys(catalogue, terms={facet: (term,)}) == expected


def test_or_within_and_across(catalogue):
    either = keys(catalogue, terms={"policy": ("patience", "bandit")})
    assert either == keys(catalogue, terms={"policy": ("patience",)}) | keys(catalogue, terms={"policy": ("bandit",)})
    both = keys(catalogue, terms={"policy": ("confidence",), "domain": ("language",)})
    assert both == keys(catalogue, terms={"policy": ("confidence",)}) & keys(catalogue, terms={"domain": ("language",)})


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"terms": {"policy": ("confidence",)}},
        {"terms": {"policy": ("patience", "bandit"), "role": ("early-exit",)}},
        {"text": "exit"},
        {"first_year": 2020, "last_year": 2021},
    ],
)
def test_counts_are_true(catalogue, conditions):
    found = catalogue.find(Query(**conditions))
    assert found.total == len(found.works)
    for facet, counts in found.counts.items():
        for term, count in counts[:5]:
            narrower = keys(catalogue, terms={facet: (term,)})
            assert count == len({work["key"] for work in found.works} & narrower), (facet, term)


def test_text_year_author_and_venue(catalogue):
    assert "zhou2020pabee" in keys(catalogue, text="patience")
    assert "zhou2020pabee" in keys(catalogue, text="PABEE")
    assert keys(catalogue, text="loses patience fast") == {"zhou2020pabee"}
    assert keys(catalogue, first_year=2010, last_year=2010) == {"cambazoglu2010early"}
    assert keys(catalogue, author="wolczyk") == keys(catalogue, author="Wołczyk") == {"wolczyk2021ztw"}
    assert "zhou2020pabee" in keys(catalogue, venue="neurips")
    assert keys(catalogue, runnable=True) == {work.key for work in catalogue.works() if work.entry["implementation"]}


def test_newest_first_and_other_orders(catalogue):
    years = [work["year"] for work in catalogue.find(Query()).works]
    assert years == sorted(years, reverse=True)
    found = [work["key"] for work in catalogue.find(Query(sort="key", limit=7)).works]
    assert found == sorted(catalogue.keys())[:7]


def test_roles_say_what_is_not_early_exit(catalogue):
    assert {"wang2018skipnet"} <= keys(catalogue, terms={"role": ("neighbour",)})
    context = keys(catalogue, terms={"role": ("context",)})
    assert {"fan2020layerdrop", "szegedy2015googlenet", "zhou2022metadistil", "wang2018edge"} <= context


def test_names_resolve_without_regard_to_case(catalogue):
    for work in catalogue.works():
        assert catalogue.resolve(work.key.upper()) == work.key
    assert catalogue.resolve("pabee") == catalogue.resolve("PABEE") == "zhou2020pabee"


def test_a_work_knows_its_edges(catalogue):
    work = catalogue.work("zhou2020pabee")
    assert "kaya2019sdn" in {edge.cited for edge in work.cites}
    assert "schuster2022calm" in {edge.citing for edge in work.cited_by}
    assert any(relation.target == "liu2020fastbert" for relation in work.relations)
    outside = [relation for relation in catalogue.work("elbayad2020depth").relations if relation.target is None]
    assert any(relation.title == "Universal Transformers" for relation in outside)
    assert any(relation.source == "zhang2022pceebert" for relation in work.related_from)
    assert work.record.title.startswith("BERT Loses Patience")


def test_each_identifier_of_a_work_beyond_the_reading_list_has_a_source_or_is_marked():
    from eelit.catalog.load import load
    from eelit.catalog.sources import sources

    loaded = load(sources())
    named = {
        "arxiv": ("arXiv id",),
        "doi": ("DOI",),
        "pages": ("pages",),
        "venue": ("venue", "journal"),
        "acl": ("DOI",),
    }
    lacking, looked_at = [], 0
    for key, entry in loaded.entries.items():
        if entry.seed:
            continue
        looked_at += 1
        record, told = loaded.bibliography.records[key], " ".join(entry.sources)
        marked = {item.field for item in entry.unverified}
        for name, words in named.items():
            value = getattr(record, name)
            if value and name not in marked and not any(word in told for word in (value, *words)):
                lacking.append((key, name))
    assert looked_at >= 40
    assert lacking == []
