"""A catalogue that means harm: markup, scripts, quotes and endless titles in every field."""

from pathlib import Path

from eelit.bib.record import Person, Record
from eelit.catalog.schema import FACETS, Entry, Taxonomy
from eelit.site.generator import machines, pages
from eelit.site.generator.build import run_builder
from eelit.site.generator.collection import assemble, methods
from eelit.site.generator.reports import read_reports

ROOT = Path(__file__).parents[1]
HOSTILE = (
    "<script>alert(1)</script> </title></head> | `code` **b** _i_ {{ 7*7 }} {% raw %} {#x} [x](javascript:alert(1)) "
    "\"q\" 'a' &amp; &lt; <!-- c --> ]]> $\\alpha$ \\` --- # h \u202eRTL\u202c ~~~ ``` *[a]: b"
)


def written(folder):
    """Write a site of two works whose every field is hostile; return its folder."""
    terms = [{"term": "t", "label": HOSTILE, "definition": HOSTILE}]
    taxonomy = Taxonomy.model_validate(dict.fromkeys(FACETS, terms))
    entry = Entry.model_validate(
        {
            "key": "evil2020x",
            "short_name": HOSTILE,
            "aliases": [HOSTILE],
            "role": "context",
            **{key: ["t"] for key in FACETS},
            **dict.fromkeys(("idea", "exit_rule", "skipped", "note"), HOSTILE),
            **{key: [HOSTILE, "javascript:alert(1)"] for key in ("backbones", "datasets", "sources")},
            "reported": [
                {"value": 1.5, "unit": HOSTILE} | dict.fromkeys(("dataset", "metric", "setting", "source"), HOSTILE)
            ],
            "claims": [
                {"says": HOSTILE, "source": HOSTILE, "untried": HOSTILE}
                | {"over": ["full-model", {"external": {"title": HOSTILE, "id": "javascript:alert(1)"}}]}
            ],
            "relations": [
                {
                    "type": "builds-on",
                    "target": {"external": {"title": HOSTILE, "year": 2000, "id": "javascript:alert(1)"}},
                },
                {
                    "type": "criticises",
                    "target": "evil2021y",
                    "evidence": "url",
                    "url": "javascript:alert(1)",
                    "note": HOSTILE,
                },
            ],
            "code": [{"repository": "javascript:alert(1)", "official": True, "note": HOSTILE}],
            "unverified": [{"field": HOSTILE, "note": HOSTILE}, {"field": "idea", "note": HOSTILE}],
            "seed": {"lines": [1], "errors": [{"wrong": HOSTILE, "right": HOSTILE}]},
        }
    )
    long = HOSTILE + " " + "long " * 1000
    record = Record(
        "evil2020x", "misc", long, (Person(HOSTILE, HOSTILE),), 2020, venue=HOSTILE, url="javascript:alert(1)"
    )
    other = Entry(key="evil2021y", short_name="Y", role="early-exit", domain=["t"], idea="i", sources=["s"])
    plain = Record("evil2021y", "misc", "Y", (Person("B"),), 2021, tex=(("title", HOSTILE),))
    reports, _ = read_reports(None)
    collection = assemble(taxonomy, [(entry, record), (other, plain)], [], methods(reports), reports)
    pages.write(collection, folder / "docs", ROOT)
    run_builder(ROOT, folder / "docs", folder / "site")
    machines.write(collection, folder / "site")
    return folder / "site"
