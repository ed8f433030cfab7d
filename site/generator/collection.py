"""Everything the pages are made from, joined by key: bibliography, catalogue, methods and what ran."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from eelit.bib.citations import Citation
from eelit.bib.graph import Edge as GraphEdge
from eelit.bib.graph import Graph, Node, citation_edges
from eelit.bib.record import Record
from eelit.catalog.check import broader_terms
from eelit.catalog.load import Loaded, load
from eelit.catalog.query import fold
from eelit.catalog.schema import FACETS, ROLES, Entry, Facet, Relation, Taxonomy, TaxonomyTerm
from eelit.catalog.sources import Sources
from eelit.catalog.words import Synonyms, called, synonyms
from eelit.methods.data import manifest
from eelit.methods.engine.records import Result, SmokeReport, Unreadable
from eelit.methods.harness import bench, registry
from eelit.methods.harness.registry import MethodInfo
from eelit.methods.harness.speed import Speed
from eelit.methods.harness.speed import stored as speed_of
from eelit.methods.harness.summary import SHARES, Row, Verdict, verdicts
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator.claims import Trial, beside, tally
from eelit.site.generator.faults import SiteFault
from eelit.site.generator.reports import PASSED, Badge, Reports
from eelit.site.generator.snapshot import Snapshot

RELATION_TITLES = {
    "builds-on": ("Builds on", "Built upon by"),
    "extends": ("Extends", "Extended by"),
    "compares-with": ("Compares itself with", "Used for comparison by"),
    "same-training": ("Is trained in the same way as", "Training shared by"),
    "same-policy": ("Has the same exit policy as", "Exit policy shared by"),
    "criticises": ("Criticises", "Criticised by"),
    "surveys": ("Surveys", "Surveyed in"),
    "superseded-by": ("Superseded by", "Supersedes"),
}
Direction = Literal["out", "in"]


@dataclass(frozen=True)
class Edge:
    """A relation as seen from one of its two works; `other` is a key, or None if the target lies outside."""

    relation: Relation
    other: str | None
    direction: Direction

    @property
    def title(self) -> str:
        """The relation in words, as seen from this side."""
        return RELATION_TITLES[self.relation.type][self.direction == "in"]

    @property
    def is_verified(self) -> bool:
        """Whether a source confirms the relation."""
        return self.relation.evidence != "unverified"


@dataclass(frozen=True)
class Place:
    """Where a statement stands in the sources."""

    path: str  # below the checkout
    line: int

    def __str__(self) -> str:
        return f"{self.path}:{self.line}"


@dataclass
class Work:
    """One work: what the bibliography and the catalogue say of it, and its edges."""

    entry: Entry
    record: Record
    cites: list[Citation] = field(default_factory=list)
    cited_by: list[Citation] = field(default_factory=list)
    edges: list[Edge] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)  # field of entry or record → where it stands

    @property
    def key(self) -> str:
        """The key, the same everywhere."""
        return self.entry.key

    @property
    def without_method(self) -> str:
        """What is said of a work that cannot be run: surveys and analyses have nothing that could be."""
        return f"catalogued{'; no method to run yet' if self.entry.kind in ('method', 'system') else ''}"

    def relations(self, *, verified: bool) -> dict[str, list[Edge]]:
        """Return the edges by their title, outgoing ones first; verified and recalled ones never mix."""
        order = list(RELATION_TITLES)
        chosen = [edge for edge in self.edges if edge.is_verified == verified]
        chosen.sort(key=lambda edge: (edge.direction == "in", order.index(edge.relation.type)))
        grouped: dict[str, list[Edge]] = {}
        for edge in chosen:
            grouped.setdefault(edge.title, []).append(edge)
        return grouped

    def doubts(self, *fields: str) -> list[str]:
        """Return what is unverified about these fields."""
        return [item.note for item in self.entry.unverified if item.field in fields]


@dataclass
class Term:
    """A term with its place in the tree and its works, those of narrower terms included."""

    facet: Facet
    definition: TaxonomyTerm
    depth: int
    narrower: list[str]
    own: list[str]
    works: list[str]

    @property
    def name(self) -> str:
        """The term as it is written in entries."""
        return self.definition.term

    @property
    def via_narrower(self) -> list[str]:
        """The works that carry only a narrower term."""
        return [key for key in self.works if key not in self.own]


@dataclass(frozen=True)
class Method:
    """A method that can be run, what its last smoke test said, and the data it needs."""

    info: MethodInfo
    report: SmokeReport | None
    badge: Badge
    items: list[manifest.Item]

    @property
    def key(self) -> str:
        """The key of its paper."""
        return self.info.key


@dataclass
class Collection:
    """All of it. `works` come newest first, as everywhere."""

    works: dict[str, Work]
    terms: dict[Facet, dict[str, Term]]
    methods: dict[str, Method]
    reports: Reports
    citations: list[Citation] = field(default_factory=list)
    complete_lists: int = 0  # works whose reference list was read to the end
    boards: dict[str, bench.Board] = field(default_factory=lambda: {name: bench.Board([], [], {}) for name in TRACKS})
    alone: dict[str, bench.Stored] = field(default_factory=dict)  # key → kept runs with the method's own settings
    speeds: dict[str, Speed] = field(default_factory=dict)  # track → how much of what is not computed is time
    snapshot: Snapshot = field(default_factory=Snapshot)  # of which state of a checkout; the default: of none

    @cached_property
    def roles(self) -> dict[str, TaxonomyTerm]:
        """The roles a work can have, with what they mean."""
        return {role.term: role for role in ROLES}

    @cached_property
    def synonyms(self) -> Synonyms:
        """What else people call the terms and roles."""
        facets = self.terms.items()
        return synonyms({facet: {name: term.definition for name, term in own.items()} for facet, own in facets})

    def found_as(self, work: Work) -> list[str]:
        """Return what a search should find a work by beside what its page says: synonyms, names without accents."""
        said = f"{work.entry.short_name} {work.record.title} {' '.join(map(str, work.record.authors))}"
        plain = [fold(word) for word in said.split() if not word.isascii()]
        return list(dict.fromkeys([*called(work.entry, self.synonyms), *plain]))

    @cached_property
    def graph(self) -> Graph:
        """Works with all citations, comparisons and relations among them."""
        nodes = [
            Node(key, work.entry.short_name, work.record.year, work.record.title) for key, work in self.works.items()
        ]
        related = [
            GraphEdge(key, edge.other, edge.relation.type, "relation", _evidence(edge.relation), edge.is_verified)
            for key, work in self.works.items()
            for edge in work.edges
            if edge.direction == "out" and edge.other
        ]
        edges = [*citation_edges(self.citations), *related]
        return Graph(nodes, edges, complete_lists=self.complete_lists)

    def name(self, key: str) -> str:
        """Return the short name of a work, or its key if the catalogue does not have it."""
        return self.works[key].entry.short_name if key in self.works else key

    def named(self, row: Row) -> tuple[str, str]:
        """Return the name of a row and its variant; a variant that begins with the name (`SplitEE-S`) is all of it."""
        name = self.name(row.key)
        return (row.variant, "") if row.variant.startswith(name) else (name, row.variant)

    def verdicts(self, key: str) -> list[Verdict]:
        """Return how the claims of a method's paper fared on the tracks, which each names, over all seeds.

        Of a method that no track has measured it is how they fared in the runs by itself that are kept.
        """
        found = [
            replace(verdict, track=TRACKS[name].title)
            for name, board in self.boards.items()
            for verdict in board.verdicts.get(key, [])
        ]
        return found or self._verdicts_alone(key)

    def _verdicts_alone(self, key: str) -> list[Verdict]:
        known = self.alone.get(key)
        return verdicts(known.results, current=known.current) if known else []

    def trials(self, key: str, board: bench.Board | None = None) -> list[Trial]:
        """Return the claims of a method's paper beside how they fared, on one board or on all."""
        work = self.works.get(key)
        judged = board.verdicts.get(key, []) if board else self.verdicts(key)
        return beside(work.entry.claims if work else [], judged)

    def world(self, key: str) -> bench.World | None:
        """Return the simulated world of a method: as on a track, or in a kept run by itself, or in its smoke test."""
        kept = (board.worlds[key] for board in self.boards.values() if key in board.worlds)
        report = self.methods[key].report
        runs = [*(self.alone[key].results if key in self.alone else ()), *([report.result] if report else ())]
        return next(kept, None) or next((bench.world(result) for result in runs if result), None)

    def shown(self, key: str) -> Result | None:
        """Return the run that a method's page shows in full.

        It is that of the last smoke test, or a kept one with the method's own settings if no track has measured it.
        """
        if key in self.alone and not any(key in board.verdicts for board in self.boards.values()):
            return self.alone[key].results[0]
        report = self.methods[key].report
        return report.result if report else None

    def tracks(self, key: str) -> list[str]:
        """Return the names of the tracks that a method is on, measured or not."""
        return [name for name, board in self.boards.items() if key in board.verdicts or key in board.unmeasured]

    def on_board(self, board: bench.Board) -> list[tuple[str, list[Trial], str]]:
        """Return the trials of all methods of a track, measured ones first, with what is to say of missing results."""
        keys = [*board.verdicts, *board.unmeasured]
        return [(key, trials, self.waiting(key, board)) for key in keys if (trials := self.trials(key, board))]

    def tally(self, board: bench.Board) -> dict[str, int]:
        """Return how the outcomes of a track fared, from all its methods."""
        return tally(trial for _, trials, _ in self.on_board(board) for trial in trials)

    def waiting(self, key: str, board: bench.Board | None = None) -> str:
        """Return what is to say of an outcome that would try a claim, but of which no result is kept."""
        if board and key in board.verdicts:  # another variant tests it, whose task is that of another track
            return "not measured on this track"
        if key in self.alone:
            return "not an outcome of the run that is kept"
        if self.tracks(key):
            return "not measured yet on the track"
        return "tested by the command eelit run, not by the smoke test; no verdict, as the method is on no track"

    @property
    def passed(self) -> list[str]:
        """The methods whose last smoke test passed, in this build or before."""
        return [key for key, method in self.methods.items() if method.badge.state in PASSED]

    def expanded(self, work: Work, facet: Facet) -> list[str]:
        """Return the terms a work carries in a facet, with all broader ones."""
        terms = {name: term.definition for name, term in self.terms[facet].items()}
        own: list[str] = getattr(work.entry, facet)
        return list(dict.fromkeys(name for term in own for name in (term, *broader_terms(term, terms))))


def _evidence(relation: Relation) -> str:
    return relation.url or relation.evidence


def gather(sources: Sources, reports: Reports) -> Collection:
    """Read everything. Raises `SiteFault` if a part cannot be read, since a page would be missing without a word."""
    loaded = load(sources)
    errors = [problem for problem in loaded.problems if problem.severity == "error"]
    if errors or loaded.taxonomy is None:
        more = len(errors) - 1
        rest = f" (and {more} more)" if more > 0 else ""
        raise SiteFault(f"the site was not built: {min(errors)}{rest}; `eelit check` lists all problems")
    pairs = [(entry, loaded.bibliography.records[key]) for key, entry in loaded.entries.items()]
    collection = assemble(loaded.taxonomy, pairs, loaded.citations.edges, methods(reports), reports)
    collection.complete_lists = len(loaded.lists.complete)
    for key, work in collection.works.items():
        work.places = dict(_places(loaded, key))
    collection.boards = {name: bench.board(name, sure=SHARES) for name in TRACKS}
    collection.alone = {key: known for key in collection.methods if (known := bench.alone(key)).results}
    places: list[bench.Board | bench.Stored] = [*collection.boards.values(), *collection.alone.values()]
    for place in places:
        for fault in (*place.unreadable, *place.unpaired):
            print(f"eelit: {fault}", file=sys.stderr)
    collection.speeds = dict(_speeds())
    return collection


def _speeds() -> Iterator[tuple[str, Speed]]:
    """Yield what is known of each track's network; a damaged file is told on stderr."""
    for name in TRACKS:
        try:
            if speed := speed_of(name, bench.folder()):
                yield name, speed
        except Unreadable as fault:
            print(f"eelit: {fault}", file=sys.stderr)


def _places(loaded: Loaded, key: str) -> Iterator[tuple[str, Place]]:
    """Yield where each field of a record and of an entry stands."""
    record, file = loaded.bibliography, loaded.files[key]
    for name in ("title", "author", "year", "booktitle", "journal", "doi", "eprint"):
        if (key, name) in record.lines:
            yield name, Place("bib/early-exit.bib", record.line(key, name))
    for name in Entry.model_fields:
        if (name,) in file.lines:
            yield name, Place(f"catalog/entries/{key}.yaml", file.line(name))


def methods(reports: Reports) -> dict[str, Method]:
    """Return every registered method with its report, read from the sources: nothing is imported.

    One that cannot be read is told on stderr and gets no page.
    """
    infos, broken = registry.described()
    for fault in broken:
        print(f"eelit: {fault}", file=sys.stderr)
    return {
        info.key: Method(
            info, reports.by_key.get(info.key), reports.badge(info.key), [manifest.get(name) for name in info.data]
        )
        for info in sorted(infos, key=lambda info: info.key)
    }


def assemble(
    taxonomy: Taxonomy,
    pairs: Iterable[tuple[Entry, Record]],
    citations: list[Citation],
    runnable: dict[str, Method],
    reports: Reports,
) -> Collection:
    """Join the parts."""
    ordered = sorted(pairs, key=lambda pair: (-pair[1].year, pair[0].key))
    works = {entry.key: Work(entry, record) for entry, record in ordered}
    for edge in citations:
        if edge.citing in works and edge.cited in works:
            works[edge.citing].cites.append(edge)
            works[edge.cited].cited_by.append(edge)
    for work in works.values():
        for relation in work.entry.relations:
            other = relation.target if isinstance(relation.target, str) else None
            work.edges.append(Edge(relation, other, "out"))
            if other in works:
                works[other].edges.append(Edge(relation, work.key, "in"))
    terms = {facet: dict(_tree(taxonomy, facet, works)) for facet in FACETS}
    return Collection(works, terms, runnable, reports, citations)


def _tree(taxonomy: Taxonomy, facet: Facet, works: dict[str, Work]) -> Iterator[tuple[str, Term]]:
    """Yield the terms of a facet depth first, in reading order."""
    listed: list[TaxonomyTerm] = getattr(taxonomy, facet)
    by_name = {term.term: term for term in listed}
    carried = {key: getattr(work.entry, facet) for key, work in works.items()}
    widely = {
        key: {wide for name in names for wide in (name, *broader_terms(name, by_name))}
        for key, names in carried.items()
    }

    def descend(broader: str | None, depth: int) -> Iterator[tuple[str, Term]]:
        for term in listed:
            if term.broader == broader:
                own = [key for key, names in carried.items() if term.term in names]
                below = [key for key, names in widely.items() if term.term in names]
                narrower = [other.term for other in listed if other.broader == term.term]
                yield term.term, Term(facet, term, depth, narrower, own, below)
                yield from descend(term.term, depth + 1)

    return descend(None, 0)
