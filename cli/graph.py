"""`eelit graph`: citations and relations inside the collection."""

from __future__ import annotations

import click

from eelit.bib.graph import Edge, Graph, Neighbour, NoPath
from eelit.cli.command import WorkName, eelit_command, format_option, nothing_found, open_catalogue
from eelit.cli.table import bold, paragraph, table


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
@format_option("table", "json", "graphml", "dot", "mermaid")
def command(around: str | None, depth: int, ends: tuple[str, str] | None, style: str) -> None:
    """Explore who cites, extends or criticises whom.

    Prior works are those a work cites, or that later works cite together with it (co-citation). Derivative works cite
    it, or cite the same works as it does (bibliographic coupling). All this is seen inside the collection only, and the
    edges are far from complete; nothing is ranked by how often it is cited.
    """
    from eelit.catalog.graph import collection

    if around and ends:
        raise click.UsageError("--around and --path exclude each other")
    catalogue = open_catalogue()
    graph = collection(catalogue)
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
    parts.append(_neighbours("PRIOR WORKS", "cited by it", "cited together with it by", graph.prior(key)))
    parts.append(_neighbours("DERIVATIVE WORKS", "cites it", "cites, as it does,", graph.derivative(key)))
    others = [edge for edge in part.edges if key in (edge.source, edge.target) and edge.group != "citation"]
    rows = [[*_sentence(edge)[:3], "" if edge.verified else "unverified"] for edge in others]
    parts.append(f"{bold('RELATIONS AND COMPARISONS')}\n{table(['work', '', 'work', ''], rows)}" if rows else "")
    farther = [one for one in part.nodes if one != key]
    parts.append(paragraph(f"{bold('WITHIN REACH')} ({len(farther)}): {', '.join(farther)}") if farther else "")
    return "\n\n".join(text for text in parts if text)


def _neighbours(heading: str, direct: str, shared: str, found: list[Neighbour]) -> str:
    if not found:
        return f"{bold(heading)}\nnone known"
    rows = [
        [one.node.key, one.node.year, direct if one.direct else f"{shared} {', '.join(one.shared)}", one.node.title]
        for one in found
    ]
    return f"{bold(heading)}\n{table(['work', 'year', 'why', 'title'], rows)}"
