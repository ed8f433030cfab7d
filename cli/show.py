"""`eelit show`: one work, as fully as the catalogue knows it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from eelit.bib.citations import Citation
from eelit.catalog.baselines import said
from eelit.catalog.query import FACETS, Catalogue, Relation, Work
from eelit.cli.command import WorkName, eelit_command, format_option, open_catalogue
from eelit.cli.table import bold, json_text, paragraph

if TYPE_CHECKING:
    from eelit.bib.provenance import Told

AMOUNT = {"exact": "", "about": "about ", "at-least": "at least ", "at-most": "at most "}


@eelit_command("eelit show pabee", "eelit show zhou2020pabee --format json", catalogue=True)
@click.argument("work", type=WorkName(), metavar="KEY")
@format_option("text", "json", "bibtex")
def command(work: str, style: str) -> None:
    """Show everything that the catalogue has on one work.

    KEY is its key, short name or alias, in upper or lower case.
    """
    catalogue = open_catalogue()
    found = catalogue.work(catalogue.resolve(work))
    if style == "json":
        click.echo(json_text(as_json(found)))
    elif style == "bibtex":
        from eelit.bib.exports import to_bibtex

        click.echo(to_bibtex([found.record]), nl=False)
    else:
        click.echo("\n\n".join(section for section in _sections(found, catalogue) if section))


def as_json(work: Work) -> dict[str, Any]:
    """Return a work as JSON types."""
    return {
        "key": work.key,
        "record": work.record.to_dict(),
        "entry": work.entry,
        "cites": [vars(edge) for edge in work.cites],
        "cited_by": [vars(edge) for edge in work.cited_by],
        "relations": [relation._asdict() for relation in work.relations],
        "related_from": [relation._asdict() for relation in work.related_from],
        "told": [told.to_dict() for told in work.told],
    }


def _sections(work: Work, catalogue: Catalogue) -> Iterator[str]:
    entry = work.entry
    yield _head(work)
    yield _facets(work, catalogue)
    yield _prose("IDEA", entry["idea"])
    yield _prose("EXIT RULE", entry["exit_rule"])
    yield _prose("WHAT IS SAVED", entry["skipped"])
    yield _list("DECIDES BY", [f"{ground}: {how}" for ground, how in entry["decides_by"].items()])
    yield _prose("NOTE", entry["note"])
    yield _implementation(entry["implementation"], work.key)
    yield _prose("BACKBONES", ", ".join(entry["backbones"]))
    yield _prose("DATA SETS", ", ".join(entry["datasets"]))
    yield _reported(entry["reported"])
    yield _list("WHAT IT CLAIMS TO GAIN", [_claim(item) for item in entry["claims"]])
    yield _edges("CITES (IN THE COLLECTION)", [edge.cited for edge in work.cites if edge.is_citation])
    yield _edges("CITED BY (IN THE COLLECTION)", [edge.citing for edge in work.cited_by if edge.is_citation])
    yield _comparisons([*work.cites, *work.cited_by])
    yield _relations("RELATIONS", work, verified=True)
    yield _relations("RELATIONS NOT VERIFIED", work, verified=False)
    yield _list("CODE BY OTHERS", [_code(item) for item in entry["code"]])
    yield _list("SOURCES OF THIS ENTRY", entry["sources"])
    yield _list("FIELDS OF THE RECORD, AS SERVICES TOLD THEM", _told(work.told))
    yield _list("NOT VERIFIED", [f"{item['field']}: {item['note']}" for item in entry["unverified"]])
    errors = entry["seed"]["errors"] if entry["seed"] else []
    yield _list("ERRATA OF THE SEED LIST", [f"{item['wrong']} → {item['right']}" for item in errors])


def _head(work: Work) -> str:
    entry, record = work.entry, work.record
    published = ", ".join(
        part
        for part in (
            record.venue,
            record.volume and f"volume {record.volume}",
            record.pages and f"pages {record.pages}",
            str(record.year),
        )
        if part
    )
    lines = [bold(record.titled(entry["short_name"])), ", ".join(record.author_names()), published]
    lines += [f"{label}: {address}" for label, address in record.links()]
    reconstructed = "; only title or abstract could be read" if entry["reconstructed"] else ""
    lines.append(f"{work.key}: {entry['role']}, {entry['kind']}{reconstructed}")
    return "\n".join(paragraph(line) for line in lines)


def _facets(work: Work, catalogue: Catalogue) -> str:
    labels = {(term.facet, term.term): term.label for term in catalogue.taxonomy()}
    rows = [
        f"{facet.ljust(10)} {', '.join(f'{term} ({labels[facet, term]})' for term in work.entry[facet])}"
        for facet in FACETS
        if work.entry[facet]
    ]
    return "\n".join(rows)


def _prose(heading: str, text: str | None) -> str:
    return f"{bold(heading)}\n{paragraph(text, '  ')}" if text else ""


def _list(heading: str, items: list[str]) -> str:
    return "\n".join([bold(heading), *(paragraph(item, "  - ", "    ") for item in items)]) if items else ""


def _implementation(implementation: dict[str, str] | None, key: str) -> str:
    if not implementation:
        return ""
    text = f"`eelit run {key}`; {implementation['fidelity'].replace('-', ' ')}: {implementation['reason']}"
    return _prose("IMPLEMENTED HERE", text)


def _reported(results: list[dict[str, Any]]) -> str:
    lines = []
    for item in results:
        said = [
            f"{item['metric']} {_number(item)}" if item["value"] is not None else "",
            _baseline(item),
            _cost(item["cost"]),
        ]
        numbers = ", ".join(part for part in said if part)
        lines.append(f"{item['dataset']}: {numbers}; {item['setting']} (source: {item['source']})")
    return _list("REPORTED RESULTS (NOT MEASURED HERE)", lines)


def _claim(claim: dict[str, Any]) -> str:
    tried = " and ".join(f"`{name}`" for name in claim["tried"])
    return f"{said(claim)} " + (f"Tested here as {tried}." if tried else f"Not tested here: {claim['untried']}.")


def _number(item: dict[str, Any]) -> str:
    return f"{AMOUNT[item['qualifier']]}{item['value']:g} {item['unit']}"


def _baseline(item: dict[str, Any]) -> str:
    return "" if item["baseline"] is None else f"full model {item['baseline']:g} {item['unit']}"


def _cost(cost: dict[str, Any] | None) -> str:
    return f"{cost['metric']} {_number(cost)}" if cost else ""


def _edges(heading: str, keys: list[str]) -> str:
    return _prose(heading, ", ".join(dict.fromkeys(keys)))


def _comparisons(edges: list[Citation]) -> str:
    lines = [f"{edge.citing} with {edge.cited}: {edge.evidence}" for edge in edges if not edge.is_citation]
    return _list("COMPARED IN EXPERIMENTS OR CODE (NOT COUNTED AS CITATIONS)", lines)


def _relations(heading: str, work: Work, *, verified: bool) -> str:
    own = [_relation(relation) for relation in work.relations if (relation.evidence != "unverified") == verified]
    others = [
        f"{relation.source} {_relation(relation)}"
        for relation in work.related_from
        if (relation.evidence != "unverified") == verified
    ]
    return _list(heading, own + others)


def _relation(relation: Relation) -> str:
    outside = ", ".join(str(part) for part in (relation.title, relation.year, relation.identifier) if part)
    note = f" ({relation.note})" if relation.note else ""
    source = f" [{relation.url}]" if relation.url else ""
    return f"{relation.type.replace('-', ' ')} {relation.target or outside}{note}{source}"


def _told(fields: list[Told]) -> list[str]:
    """Return who told what: together what the same services told on one day, then each that is told otherwise."""
    same: dict[tuple[str, str], list[str]] = {}
    for told in fields:
        if not told.other:
            same.setdefault((", ".join(told.services), _when(told)), []).append(told.field)
    lines = [f"{', '.join(names)}: {who} ({when})" for (who, when), names in same.items()]
    others = [told for told in fields if told.other]
    return lines + [
        f"{told.field}: otherwise at {', '.join(told.services)}: “{told.other}” ({_when(told)})" for told in others
    ]


def _when(told: Told) -> str:
    return f"{told.day}, by way of {told.by_way}" if told.by_way else told.day


def _code(item: dict[str, Any]) -> str:
    repository = item["repository"]
    address = repository if "://" in repository else f"https://github.com/{repository}"
    note = f": {item['note']}" if item["note"] else ""
    return f"{address} ({'official' if item['official'] else 'by others'}){note}"
