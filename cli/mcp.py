"""`eelit mcp`: the catalogue and what was measured, read by a model that speaks the Model Context Protocol."""

from __future__ import annotations

from dataclasses import asdict
from inspect import cleandoc
from typing import TYPE_CHECKING, Any

from eelit.catalog.extras import demand
from eelit.catalog.faults import CatalogueFault
from eelit.catalog.query import Catalogue, Query
from eelit.cli.command import eelit_command, open_catalogue

if TYPE_CHECKING:
    from mcp.server import MCPServer

MOST = 200
"""Works that one answer holds."""
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
    server(open_catalogue()).run("stdio")


def server(catalogue: Catalogue) -> MCPServer:
    """Return a server for a catalogue. Raises `Missing` if the protocol's package is not installed."""
    demand("mcp")
    from mcp.server import MCPServer
    from mcp.types import ToolAnnotations

    made = MCPServer("eelit", instructions=WHAT_IT_IS)
    tools = Tools(catalogue)
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)
    for tool in (tools.find, tools.show, tools.cite, tools.graph, tools.leaderboard, tools.compare):
        made.tool(description=cleandoc(tool.__doc__ or ""), annotations=reads)(_plainly(tool))
    return made


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

        Each edge has its evidence; unverified ones say so. A missing edge proves nothing.
        """
        from eelit.catalog.graph import collection

        whole = collection(self.catalogue)
        part = whole.around(self.catalogue.resolve(around), max(1, min(depth, 3)))
        nodes = [asdict(node) for node in part.nodes.values()]
        return {"nodes": nodes, "edges": [asdict(edge) for edge in part.edges], "note": whole.note()}

    def leaderboard(self, track: str = "text", share: float = 0.5) -> dict[str, Any]:
        """Rank the methods of a track by the quality that they reach within a share of the full model's cost.

        `share` is one of those the track is reported at. A row says whether it was measured by the present code.
        """
        from eelit.methods.harness import bench

        board = bench.board(_track(track), _share(share))
        return {"track": track, "share": share, "rows": [{"id": row.id} | asdict(row) for row in board.rows]}

    def compare(self, methods: list[str], track: str = "text") -> dict[str, Any]:
        """Compare methods of a track: curves, costs, and how the papers' claims fared.

        `max-confidence@METHOD` and `static-exit@METHOD` are baselines on the network of a method.
        """
        from eelit.cli.compare import chosen, compared

        choices = [(rule, self.catalogue.resolve(name)) for rule, name in chosen(methods)]
        return compared(choices, _track(track), self.catalogue)


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
