"""`eelit mcp`: the catalogue and what was measured, read by a model that speaks the Model Context Protocol."""

from __future__ import annotations

import sys
from dataclasses import asdict
from importlib.metadata import version
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.extras import demand
from eelit.catalog.faults import CatalogueFault
from eelit.catalog.query import Catalogue, Query
from eelit.cli.command import eelit_command, open_catalogue

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from mcp.server import MCPServer
    from pydantic import ValidationError

    from eelit.methods.harness.summary import Row, Spread

MOST = 50
"""Works that one answer holds."""
MOST_EDGES = 120
"""Edges that one answer holds: those nearest to the work that was asked for."""
MOST_ROWS = 60
"""Rows of a leaderboard that one answer holds."""
MOST_METHODS = 8
"""Methods that are compared at a time."""
WHAT_IT_IS = (
    "The early-exit literature: works with their place in a taxonomy, relations and citations, and methods that run, "
    "with what was measured. Facts of a work come with their sources; what no source confirmed stands under "
    "`unverified`. Citations inside the collection are far from complete: never rank works by them."
)


@eelit_command("eelit mcp", "eelit mcp --db catalogue.sqlite", catalogue=True)
def command() -> None:
    """Serve the catalogue to models, read only.

    Speaks the Model Context Protocol over standard input and output; a client starts this command automatically. Its
    tools are find, show, cite, graph, leaderboard and compare; none of them changes anything or uses the network. Needs
    the extra: pip install 'eelit[mcp]'.
    """
    made = server(open_catalogue())
    if sys.stdin and sys.stdin.isatty():
        click.echo("eelit: waiting for a client's messages on standard input; Ctrl-D ends this", err=True)
    made.run("stdio")


def server(catalogue: Catalogue) -> MCPServer:
    """Return a server for a catalogue. Raises `Missing` if the protocol's package is not installed."""
    demand("mcp")
    from mcp.types import ToolAnnotations

    made: MCPServer = _plain_server()("eelit", instructions=WHAT_IT_IS, version=version("eelit"))
    tools = Tools(catalogue)
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    for tool in (tools.find, tools.show, tools.cite, tools.graph, tools.leaderboard, tools.compare):
        made.tool(description=cleandoc(tool.__doc__ or ""), annotations=reads)(_plainly(tool))
    return made


def _plain_server() -> type[MCPServer]:
    """Return a server that says in one sentence what is wrong with the arguments of a tool.

    The package's own passes over names that a tool does not take, so that a misspelt condition would be none at all.
    """
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError
    from pydantic import ValidationError

    class Plain(MCPServer):
        async def call_tool(self, name: str, arguments: dict[str, Any], context: Any = None) -> Any:
            takes = {tool.name: list(tool.input_schema["properties"]) for tool in await self.list_tools()}
            if why := _strange(name, arguments, takes):
                raise ToolError(why)
            try:
                return await super().call_tool(name, arguments, context)
            except ToolError as error:
                if isinstance(error.__cause__, ValidationError):
                    raise ToolError(_misfit(name, error.__cause__)) from error
                raise

    return Plain


def _strange(name: str, arguments: Iterable[str], takes: Mapping[str, list[str]]) -> str:
    """Return a sentence if there is no such tool, or if it does not take one of these arguments; else nothing."""
    from eelit.bib.problems import did_you_mean

    if name not in takes:
        return f"there is no tool `{name}`; there are {', '.join(takes)}"
    strange = next((given for given in arguments if given not in takes[name]), None)
    if strange is None:
        return ""
    known = takes[name]
    return f"`{name}` has no argument `{strange}`{did_you_mean(strange, known) or '; it has ' + ', '.join(known)}"


def _misfit(name: str, error: ValidationError) -> str:
    """Return a sentence about the first argument that is not what its tool takes."""
    first = error.errors(include_url=False)[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return f"`{name}` needs `{where}`"
    return f"`{where}` of `{name}` is {first['input']!r:.60}; {first['msg'][:1].lower()}{first['msg'][1:]}"


def _plainly(tool: Any) -> Any:
    """Return the tool such that what is wrong with a question is its answer, in one sentence.

    It is a coroutine so that it runs in the thread that opened the database, as SQLite wants it.
    """
    from functools import wraps

    from click import UsageError
    from mcp.server.mcpserver.exceptions import ToolError

    @wraps(tool)
    async def plain(*args: Any, **kwargs: Any) -> Any:
        try:
            return tool(*args, **kwargs)
        except (CatalogueFault, UsageError) as error:
            raise ToolError(str(error)) from error

    return plain


class Tools:
    """What a model may ask. Each docstring is what the model is told of the tool."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue = catalogue

    def find(
        self,
        text: str = "",
        placement: str = "",
        training: str = "",
        policy: str = "",
        domain: str = "",
        role: str = "",
        runnable: bool = False,
        limit: int = 20,
    ) -> dict[str, Any]:
        """Find works by words and by terms of the taxonomy (a broad term also finds its narrower ones).

        An empty argument means any. The answer counts which terms the found works carry.
        """
        facets = {"placement": placement, "training": training, "policy": policy, "domain": domain, "role": role}
        terms: dict[str, tuple[str, ...]] = {facet: (term,) for facet, term in facets.items() if term}
        query = Query(text=text, terms=terms, runnable=runnable, limit=max(1, min(limit, MOST)))
        found = self.catalogue.find(query)
        return {"works": found.works, "total": found.total, "counts": found.counts}

    def show(self, work: str) -> dict[str, Any]:
        """Show everything the catalogue says of one work: record, entry, citations, relations.

        `work` is its key, short name or alias, such as `zhou2020pabee` or `PABEE`.
        """
        from eelit.cli.show import as_json

        return as_json(self.catalogue.work(self.catalogue.resolve(work)))

    def cite(self, works: list[str], style: str = "bibtex") -> str:
        """Return references as `bibtex`, `ris` or `csl-json`."""
        from eelit.bib.exports import EXPORTS

        if style not in EXPORTS:
            raise CatalogueFault(f"no such style `{style}`; there are {', '.join(EXPORTS)}")
        keys = dict.fromkeys(self.catalogue.resolve(name) for name in works)
        return EXPORTS[style](self.catalogue.record(key) for key in keys)

    def graph(self, around: str, depth: int = 1) -> dict[str, Any]:
        """Show which works cite, extend, compare with or criticise each other near one work.

        Each edge has its evidence; unverified ones say so. A missing edge proves nothing. If there are more edges than
        one answer holds, those nearest to the work are told, and `edges_in_all` says how many there are.
        """
        from eelit.catalog.graph import collection

        whole = collection(self.catalogue)
        key, depth = self.catalogue.resolve(around), max(1, min(depth, 3))
        parts = [whole.around(key, step) for step in range(1, depth + 1)]
        own = [edge for edge in parts[0].edges if key in (edge.source, edge.target)]
        nearest = list(dict.fromkeys([*own, *(edge for part in parts for edge in part.edges)]))
        edges = nearest[:MOST_EDGES]
        ends = {key, *(end for edge in edges for end in (edge.source, edge.target))}
        nodes = [asdict(node) for name, node in parts[-1].nodes.items() if name in ends]
        told = [asdict(edge) for edge in edges]
        return {"nodes": nodes, "edges": told, "edges_in_all": len(nearest), "note": whole.note()}

    def leaderboard(self, track: str = "text", share: float = 0.5, limit: int = 20) -> dict[str, Any]:
        """Rank the methods of a track by the quality that they reach within a share of the full model's cost.

        `share` is one of those the track is reported at. Only rows of one `group` can be compared; each has the mean
        over seeds and its deviation, a 95 % interval, and `level` if it cannot be told from the best of its group. A
        row says whether it was measured by the present code. `total` is the number of all rows.
        """
        from eelit.methods.harness import bench

        board = bench.board(_track(track), _share(share))
        rows = [_row(row, share) for row in board.rows[: max(1, min(limit, MOST_ROWS))]]
        return {"track": track, "share": share, "total": len(board.rows), "rows": rows}

    def compare(self, methods: list[str], track: str = "text") -> dict[str, Any]:
        """Compare at most eight methods of a track: curves, costs, and how the papers' claims fared.

        `max-confidence@METHOD` and `static-exit@METHOD` are baselines on the network of a method. `points` are share
        of the full cost and quality at each setting of `knobs`.
        """
        from eelit.cli.compare import chosen, measured

        if not 1 <= len(methods) <= MOST_METHODS:
            raise CatalogueFault(f"name one to {MOST_METHODS} methods; `leaderboard` ranks all")
        track, choices = _track(track), [(rule, self._method(name)) for rule, name in chosen(methods)]
        rows, claims = measured(choices, track, self.catalogue)
        return {"track": track, "rows": [_curve(row) for row in rows], "claims": claims}

    def _method(self, name: str) -> str:
        """Return the key of a method. Raises `CatalogueFault` for a work that cannot be run."""
        from eelit.cli.run import method_key

        return method_key(name, self.catalogue)


def _row(row: Row, share: float) -> dict[str, Any]:
    """Return what a leaderboard tells of a row."""
    standing = row.standings.get(share)
    interval = [standing.quality.low, standing.quality.high] if standing else None
    return _who(row) | {
        "full": _spread(row.full),
        "reached": _spread(row.at.get(share)),
        "interval": interval,
        "level": row.place(share),
        "gain_over": {name: _spread(gains.get(share)) for name, gains in row.against.items()},
    }


def _curve(row: Row) -> dict[str, Any]:
    """Return what a comparison tells of a row."""
    return _who(row) | {
        "full": _spread(row.full),
        "at": {share: _spread(spread) for share, spread in row.at.items()},
        "area": _spread(row.area),
        "speed_up_within_a_point": _spread(row.within_a_point),
        "overthinking": _spread(row.overthinking),
        "training_seconds": _spread(row.training_seconds),
        "knobs": row.knobs,
        "points": [[round(part, 4) for part in point] for point in row.points],
        "trained_otherwise": row.trained_otherwise,
    }


def _who(row: Row) -> dict[str, Any]:
    """Return what a row is, and with which others it can be compared."""
    return {
        "id": row.id, "key": row.key, "variant": row.variant, "rule": row.rule, "group": list(map(str, row.group)),
        "current": row.current, "seeds": len(row.seeds),
    }  # fmt: skip


def _spread(spread: Spread | None) -> dict[str, float | None] | None:
    if spread is None:
        return None
    return {
        "mean": round(spread.mean, 4),
        "deviation": None if spread.deviation is None else round(spread.deviation, 4),
    }


def _track(name: str) -> str:
    from eelit.methods.harness.tracks import TRACKS

    if name not in TRACKS:
        raise CatalogueFault(f"no such track `{name}`; there are {', '.join(TRACKS)}")
    return name


def _share(share: float) -> float:
    from eelit.methods.harness.summary import SHARES

    if share not in SHARES:
        raise CatalogueFault(
            f"nothing is reported at a share of {share:g}; choose one of {', '.join(map(str, SHARES))}"
        )
    return share
