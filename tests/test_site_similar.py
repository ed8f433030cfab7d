"""What a paper's page says of other works and of its own sources."""

import math
from pathlib import Path

import pytest

from eelit.bib.citations import Citation
from eelit.bib.record import Person, Record
from eelit.catalog.schema import Entry, Taxonomy
from eelit.catalog.sources import sources
from eelit.site.generator.collection import assemble, gather
from eelit.site.generator.reports import read_reports
from eelit.site.generator.similar import CITATION, Similarity

ROOT = Path(__file__).parents[1]
TERMS = ("common", "rare")
EMPTY = read_reports(None)[0]


def made(*works, cites=()):
    """Return a collection of works given as (key, policy terms)."""
    policy = [{"term": name, "label": name, "definition": name} for name in TERMS]
    domain = [{"term": "any", "label": "any", "definition": "any"}]
    taxonomy = Taxonomy(placement=[], training=[], policy=policy, domain=domain)
    pairs = [
        (
            Entry(key=key, short_name=key, role="early-exit", policy=terms, domain=["any"], idea="x", sources=["x"]),
            Record(key, "misc", f"On {key}", (Person("A"),), 2020),
        )
        for key, terms in works
    ]
    return assemble(taxonomy, pairs, [Citation(a, b, "x", "bibliography") for a, b in cites], {}, EMPTY)


def test_rare_terms_and_common_citations_make_works_alike():
    works = [("a2020x", ["common", "rare"]), ("b2020x", ["rare"]), ("c2020x", ["common"]), ("d2020x", ["common"])]
    others = [(f"o202{i}x", ["common"]) for i in range(6)]
    found = Similarity(made(*works, *others, cites=[("a2020x", "d2020x"), ("b2020x", "d2020x")])).of("a2020x")
    assert [one.key for one in found] == ["b2020x"]  # all share the domain, most the common term: that says little
    assert found[0].terms[0] == ("policy", "rare")
    assert found[0].cited == ("d2020x",)
    assert math.log(10 / 2) + CITATION > 1


def test_nobody_is_like_itself_and_likeness_needs_something_in_common():
    likeness = Similarity(made(("a2020x", ["rare"]), ("b2020x", ["common"])))
    assert likeness.of("a2020x") == []


@pytest.fixture(scope="module")
def works():
    return gather(sources(), EMPTY).works


def test_every_field_of_a_page_leads_to_its_line(works):
    for key in ("zhou2020pabee", "huang2018msdnet"):
        for name, place in works[key].places.items():
            line = (ROOT / place.path).read_text(encoding="utf-8").splitlines()[place.line - 1]
            assert line.lstrip().startswith((name, f"@{works[key].record.type}")), (name, place)
        assert {"idea", "sources", "title", "year"} <= set(works[key].places)
