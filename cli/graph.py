"""`eelit graph`: citations and relations inside the collection."""

from __future__ import annotations

from dataclasses import asdict

import click

from eelit.bib.graph import Edge, Graph, Link, Neighbour, NoPath
from eelit.catalog.query import FACETS, Catalogue, Query
from eelit.cli.command import WorkName, eelit_command, format_option, nothing_found, open_catalogue
from eelit.cli.table import bold, json_text, paragraph, table

PAIRS = 20
"""Most pairs that a table shows, the closest; JSON has all."""
PRIOR: dict[Link, str] = {
    "built": "built upon by it",
    "cited": "cited by it",
    "shared": "cited together with it by",
}
DERIVATIVE: dict[Link, str] = {"built": "builds on it", "cited": "cites it", "shared": "cites, as it does,"}


@eelit_command(
    "eelit graph --around pabee",
    "eelit graph --path pabee branchynet",
    "eelit graph --around calm --depth 2 --format dot | dot -Tsvg > calm.svg",
    "eelit graph --format graphml > collection.graphml",
    catalogue=True,
)
@click.option(
    "--around", type=WorkName(), metavar="KEY", help="Only works near this one, with prior and derivative works."
)
@click.option("--depth", default=1, show_default=True, type=click.IntRange(1, 10), help="How many edges away.")
@click.option("--path", "ends", nargs=2, type=WorkName(), metavar="A B", help="A shortest chain between two works.")
@click.option("--measures", is_flag=True, help="Pairs, main path, communities, unconnected works.")
@format_option("table", "json", "graphml", "dot", "mermaid")
def command(around: str | None, depth: int, ends: tuple[str, str] | None, measures: bool, style: str) -> None:
    """Explore which works cite, extend or criticise each other.

    Prior works are those a work builds on, then those it cites, then those that later works cite together with it
    (co-citation). Derivative works build on it, cite it, or cite the same works as it does (bibliographic coupling).
    Relations count if a source confirms them. Only works inside the collection are considered, and the edges are far
    from complete; few citations do not mean that a work matters less.
    """
    from eelit.catalog.graph import collection

    if bool(around) + bool(ends) + measures > 1:
        raise click.UsageError("--around, --path and --measures exclude each other")
    if measures and style not in ("table", "json"):
        raise click.UsageError(f"measures are printed as table or json, not as {style}")
    catalogue = open_catalogue()
    graph = collection(catalogue)
    if measures:
        _measures(catalogue, graph, style)
        return
    if ends:
        _path(graph, catalogue.resolve(ends[0]), catalogue.resolve(ends[1]), style)
        return
    key = catalogue.resolve(around) if around else ""
    part = graph.around(key, depth) if key else graph
    if style == "table":
        click.echo(_neighbourhood(graph, part, key) if key else _overview(part))
    else:
        _print(part, style)
    click.echo(f"eelit: {graph.note()}", err=True)


def _measures(catalogue: Catalogue, graph: Graph, style: str) -> None:
    from eelit.bib.measures import EXPLAINED
    from eelit.bib.measures import measures as measure

    terms = {work["key"]: [term for facet in FACETS for term in work[facet]] for work in catalogue.find(Query()).works}
    found = measure(graph, terms)
    if style == "json":
        click.echo(json_text(asdict(found) | {"note": graph.note(), "explained": EXPLAINED}))
        return
    groups = [
        [
            c.mark or "(no term)",
            *(f"{x:.0%}" if c.mark else "" for x in (c.share, c.elsewhere)),
            len(c.members),
            ", ".join(c.members),
        ]
        for c in found.communities
    ]
    pairs = ("work", "work", "through")
    parts = [
        ("co-citation", table(pairs, [[p.one, p.other, ", ".join(p.through)] for p in found.co_citation[:PAIRS]])),
        ("coupling", table(pairs, [[p.one, p.other, ", ".join(p.through)] for p in found.coupling[:PAIRS]])),
        ("main path", " → ".join(found.main_path) or "none"),
        ("communities", table(["marked by", "share", "elsewhere", "works", ""], groups)),
        ("alone", ", ".join(found.alone) or "none"),
    ]
    told = (f"{bold(name.upper())}\n{paragraph(EXPLAINED[name])}\n{text}" for name, text in parts)
    click.echo("\n\n".join(told))
    click.echo(f"eelit: {graph.note()}", err=True)


def _print(graph: Graph, style: str) -> None:
    from eelit.bib.graph_formats import FORMATS

    click.echo(FORMATS[style](graph))


def _path(graph: Graph, start: str, end: str, style: str) -> None:
    try:
        edges = graph.path(start, end)
    except NoPath as error:
        nothing_found(str(error))
        return
    if style == "table":
        click.echo(table(["work", "", "work", "evidence"], [_sentence(edge) for edge in edges]))
    else:
        keys = dict.fromkeys([start, *(key for edge in edges for key in (edge.source, edge.target))])
        _print(Graph((graph.nodes[key] for key in keys), edges, graph), style)
    click.echo(f"eelit: {graph.note()}", err=True)


def _sentence(edge: Edge) -> list[str]:
    return [edge.source, edge.verb, edge.target, edge.evidence]


def _overview(graph: Graph) -> str:
    rows = [[*_sentence(edge)[:3], "" if edge.verified else "unverified"] for edge in graph.edges]
    return table(["work", "", "work", ""], rows)


def _neighbourhood(graph: Graph, part: Graph, key: str) -> str:
    """Return what surrounds a work, plainly explained."""
    node = graph.nodes[key]
    parts = [bold(f"{node.name} ({node.year}) {node.title}")]
    parts.append(_neighbours("PRIOR WORKS", PRIOR, graph.prior(key)))
    parts.append(_neighbours("DERIVATIVE WORKS", DERIVATIVE, graph.derivative(key)))
    others = [edge for edge in part.edges if key in (edge.source, edge.target) and edge.group != "citation"]
    told: dict[tuple[str, ...], bool] = {}  # several sources may tell of the same relation
    for edge in others:
        told[tuple(_sentence(edge)[:3])] = edge.verified or told.get(tuple(_sentence(edge)[:3]), False)
    rows = [[*sentence, "" if verified else "unverified"] for sentence, verified in told.items()]
    parts.append(f"{bold('RELATIONS AND COMPARISONS')}\n{table(['work', '', 'work', ''], rows)}" if rows else "")
    farther = [one for one in part.nodes if one != key]
    parts.append(paragraph(f"{bold('FARTHER WORKS')} ({len(farther)}): {', '.join(farther)}") if farther else "")
    return "\n\n".join(text for text in parts if text)


def _neighbours(heading: str, words: dict[Link, str], found: list[Neighbour]) -> str:
    if not found:
        return f"{bold(heading)}\nnone known"
    rows = [
        [
            one.node.key,
            one.node.year,
            words[one.link] if one.direct else f"{words[one.link]} {', '.join(one.shared)}",
            one.node.title,
        ]
        for one in found
    ]
    return f"{bold(heading)}\n{table(['work', 'year', 'why', 'title'], rows)}"
