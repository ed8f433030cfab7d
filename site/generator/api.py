"""The static interface for programs: JSON documents under ``api/v1/``, each with its JSON Schema."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from eelit.bib.exports import to_csl
from eelit.bib.graph_formats import to_json
from eelit.catalog.schema import FACETS, Entry
from eelit.methods.engine.records import Result, SmokeReport
from eelit.methods.harness.summary import SHARES, Row
from eelit.site.generator.claims import as_json
from eelit.site.generator.collection import Collection, Method, Work
from eelit.site.generator.linked import DATA_LICENCE
from eelit.site.generator.snapshot import Snapshot

FOLDER = "api/v1"
VERSION = "1.0"
File = tuple[str, str]


class Document(BaseModel):
    """What every document tells of itself."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    schema_version: str = Field(default=VERSION, description="of this interface; the first number changes if it breaks")
    snapshot_id: str = Field(description="digest of the sources; the same sources give the same documents")
    generated_at: datetime = Field(description="time of the sources' last commit")
    license: str = Field(default=DATA_LICENCE, description="of the data in this document")


class Line(BaseModel):
    """A work in the index."""

    key: str
    short_name: str
    title: str
    year: int
    role: str
    placement: list[str]
    training: list[str]
    policy: list[str]
    domain: list[str]
    fidelity: str | None = Field(description="of eelit's implementation; null if there is none")
    page: str = Field(description="path of the HTML page below the site's address, as all paths here")
    json_: str = Field(alias="json", description="path of the work's own document")


class Index(Document):
    """All works, newest first."""

    works: list[Line]
    methods: list[str] = Field(description="keys that have a document of their own under methods/")
    tracks: list[str]


class Paper(Document):
    """One work: what the bibliography knows (CSL-JSON), what the catalogue says, who cites whom."""

    key: str
    csl: dict[str, Any]
    entry: Entry
    cites: list[str]
    cited_by: list[str]
    page: str
    markdown: str


class Spread(BaseModel):
    """Mean over seeds, and standard deviation if there are several."""

    mean: float
    deviation: float | None
    n: int
    each: list[float] = Field(description="one value per seed, in their order")


class Wall(BaseModel):
    """Milliseconds per sample at the timed knob nearest to a share of the cost, beside the full model's."""

    share: float = Field(description="of the full model's cost that was aimed at")
    saved: Spread = Field(description="share of the full model's cost that was not computed on the timed samples")
    milliseconds: Spread
    full: Spread


class Interval(BaseModel):
    """A mean over seeds and test samples with its 95 % interval, which covers other seeds and samples."""

    mean: float
    low: float
    high: float
    deviation: float = Field(description="standard error")
    freedom: float | None = Field(description="degrees of freedom of Student's t; null: the normal distribution")
    seeds: int


class Standing(BaseModel):
    """How certain a row's quality is, and its difference from the best row of its group, sample by sample."""

    quality: Interval
    samples: int = Field(description="number of test samples")
    sampling: float = Field(description="standard error from the choice of test samples only")
    behind: Interval | None = Field(description="quality minus the best row's")
    level: bool | None = Field(
        description="whether the difference is not significant at 5 %, corrected for all comparisons"
    )


class TrackRow(BaseModel):
    """One variant of a method on a track, or a baseline on its network, over all its seeds."""

    id: str = Field(description="its name in `eelit compare` and on the compare page")
    key: str
    variant: str
    rule: str = Field(description="the baseline, if this is one on the network of the method; else empty")
    shared: list[str] = Field(description="of a baseline: other rows with the same trained weights")
    quality: str
    unit: str = Field(description="of cost")
    settings: dict[str, str] = Field(description="of the method in this variant, its training included")
    data: str = Field(
        description="digest of the examples: only rows with the same data, quality and unit can be compared"
    )
    current: bool = Field(description="measured by the present code")
    seeds: list[int]
    full: Spread
    at: dict[str, Spread | None] = Field(description="share of the full model's cost → quality within it")
    standings: dict[str, Standing | None] = Field(
        description="share → how certain that is; empty or null where no outcomes of test samples are stored"
    )
    area: Spread | None
    against: dict[str, dict[str, Spread | None]] = Field(description="baseline → share → quality minus the baseline's")
    points: list[tuple[float, float]] = Field(description="of each knob: share of the full cost, quality")
    overthinking: Spread | None = Field(description="share that some earlier exit has right and the last exit wrong")
    calibration: list[Spread | None] = Field(description="expected calibration error of each exit")
    exits: list[float] = Field(description="share leaving at each exit, at the knob nearest to half of the cost")
    load: Spread | None = Field(
        description="busy processes of the machine for each core when runs ended; above about 1, seconds of rows are "
        "not to be compared; null in older results"
    )
    training_seconds: Spread | None = Field(description="of the processor; null in older results")
    training_steps: Spread | None = Field(
        description="of the optimiser; null in older results, and where there are none"
    )
    efficiency: dict[str, Spread | None] = Field(description="batch size → time saved ÷ cost saved, near half the cost")
    walls: dict[str, list[Wall]] = Field(description="batch size → time near 75, 50 and 25 % of the cost")


class Setting(BaseModel):
    """One setting of a method."""

    name: str
    type: str
    default: str
    meaning: str


class MethodDocument(Document):
    """One method as its source describes it, and how its last smoke test went."""

    key: str
    title: str
    sections: dict[str, str]
    deviations: list[str]
    settings: list[Setting]
    data: list[str]
    state: str
    source: str = Field(description="path of the source file in the repository")
    report: SmokeReport | None = Field(description="the whole last smoke test; null if there was none")
    alone: list[Result] = Field(description="kept runs with the method's own settings on its own data, one per seed")
    measured: dict[str, list[TrackRow]] = Field(description="track → its rows on the leaderboard, one per variant")
    claims: list[dict[str, Any]] = Field(description="claims of the paper, each with the verdicts that try it")
    page: str
    markdown: str


class TermDocument(BaseModel):
    """One term of a facet."""

    facet: str
    term: str
    label: str
    definition: str
    broader: str | None
    works: list[str] = Field(description="works that carry it, or a narrower one")


class Terms(Document):
    """The taxonomy."""

    terms: list[TermDocument]


class GraphDocument(Document):
    """The citation graph; edges that no source confirmed are marked."""

    note: str
    nodes: list[dict[str, Any]]
    edges: list[dict[str, Any]]


class Run(BaseModel):
    """How the smoke test of one method stands."""

    key: str
    state: str
    finished: datetime | None
    seconds: float | None


class Runs(Document):
    """All methods and how their last smoke tests ended."""

    runs: list[Run]


class VerdictDocument(BaseModel):
    """One claim over all seeds."""

    key: str
    name: str
    statement: str
    judgement: str
    held: int
    n: int
    measured: list[str]


class NotRun(BaseModel):
    """Seeds with which a method still has to be measured."""

    key: str
    seeds: list[int]
    reason: str


class TrackDocument(Document):
    """The leaderboard of a track."""

    track: str
    conditions: str
    rows: list[TrackRow]
    verdicts: list[VerdictDocument]
    not_run: list[NotRun] = Field(description="seeds that have no result, and why")


SCHEMAS: dict[str, type[Document]] = {
    "index": Index,
    "paper": Paper,
    "method": MethodDocument,
    "terms": Terms,
    "graph": GraphDocument,
    "runs": Runs,
    "track": TrackDocument,
}
"""Name of the schema file → what it describes."""


def documents(tracks: list[str]) -> list[tuple[str, str, str]]:
    """Return path, contents and name of the schema of each kind of document."""
    return [
        (f"{FOLDER}/index.json", "all works with their facets, methods, tracks", "index"),
        (f"{FOLDER}/papers/KEY.json", "one work: record (CSL-JSON), entry, citations within the catalogue", "paper"),
        (
            f"{FOLDER}/methods/KEY.json",
            "one method: docstring by section, settings, last smoke test, figures and claims",
            "method",
        ),
        (f"{FOLDER}/terms.json", "the taxonomy, with the works of each term", "terms"),
        (f"{FOLDER}/graph.json", "the citation graph, with how complete it is", "graph"),
        (f"{FOLDER}/runs/latest.json", "how the last smoke test of each method ended", "runs"),
        *(
            (f"{FOLDER}/tracks/{name}.json", "the leaderboard: figures by seed, verdicts on claims", "track")
            for name in tracks
        ),
    ]


def files(collection: Collection, snapshot: Snapshot, conditions: dict[str, str]) -> Iterator[File]:
    """Yield every document and schema; ``conditions`` says how each track measures."""
    head: dict[str, Any] = {"snapshot_id": snapshot.id, "generated_at": snapshot.moment}
    for name, kind in SCHEMAS.items():
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
        yield (
            f"{FOLDER}/schema/{name}.json",
            _text(schema | kind.model_json_schema(mode="serialization", by_alias=True)),
        )
    works = [_line(collection, work) for work in collection.works.values()]
    index = Index(works=works, methods=list(collection.methods), tracks=list(collection.boards), **head)
    yield f"{FOLDER}/index.json", _json(index)
    for key, work in collection.works.items():
        yield f"{FOLDER}/papers/{key}.json", _json(_paper(collection, work, head))
    for key, method in collection.methods.items():
        yield f"{FOLDER}/methods/{key}.json", _json(_method(collection, method, head))
    yield f"{FOLDER}/terms.json", _json(Terms(terms=list(_terms(collection)), **head))
    yield f"{FOLDER}/graph.json", _json(GraphDocument(**json.loads(to_json(collection.graph)), **head))
    yield (
        f"{FOLDER}/runs/latest.json",
        _json(Runs(runs=[_run(method) for method in collection.methods.values()], **head)),
    )
    for name in collection.boards:
        yield f"{FOLDER}/tracks/{name}.json", _json(_track(collection, name, conditions[name], head))


def _text(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, indent=1) + "\n"


def _json(document: Document) -> str:
    return _text(document.model_dump(mode="json", by_alias=True))


def _line(collection: Collection, work: Work) -> Line:
    entry = work.entry
    return Line(
        key=work.key,
        short_name=entry.short_name,
        title=work.record.title,
        year=work.record.year,
        role=entry.role,
        **{facet: getattr(entry, facet) for facet in FACETS},
        fidelity=entry.implementation.fidelity if entry.implementation else None,
        page=f"papers/{work.key}.html",
        json=f"{FOLDER}/papers/{work.key}.json",
    )


def _paper(collection: Collection, work: Work, head: dict[str, Any]) -> Paper:
    return Paper(
        key=work.key,
        csl=to_csl([work.record])[0],
        entry=work.entry,
        cites=sorted(set(collection.graph.cited_by(work.key))),
        cited_by=sorted(set(collection.graph.citing(work.key))),
        page=f"papers/{work.key}.html",
        markdown=f"papers/{work.key}.md",
        **head,
    )


def _method(collection: Collection, method: Method, head: dict[str, Any]) -> MethodDocument:
    info = method.info
    rows = {
        name: [_row(row) for row in board.rows if row.key == info.key and not row.rule]
        for name, board in collection.boards.items()
    }
    return MethodDocument(
        key=info.key,
        title=info.title,
        sections=info.sections,
        deviations=info.deviations,
        settings=[Setting(**asdict(setting)) for setting in info.settings],
        data=info.data,
        state=method.badge.state,
        source=f"methods/papers/{info.path.name}",
        report=method.report,
        alone=collection.alone[info.key].results if info.key in collection.alone else [],
        measured={name: found for name, found in rows.items() if found},
        claims=[as_json(trial) for trial in collection.trials(info.key)],
        page=f"methods/{info.key}.html",
        markdown=f"methods/{info.key}.md",
        **head,
    )


def _terms(collection: Collection) -> Iterator[TermDocument]:
    for facet, terms in collection.terms.items():
        for term in terms.values():
            said = term.definition
            yield TermDocument(
                facet=facet,
                term=term.name,
                label=said.label,
                definition=said.definition,
                broader=said.broader,
                works=term.works,
            )


def _run(method: Method) -> Run:
    report = method.report
    return Run(
        key=method.key,
        state=method.badge.state,
        finished=report.finished if report else None,
        seconds=report.seconds if report else None,
    )


def _track(collection: Collection, name: str, conditions: str, head: dict[str, Any]) -> TrackDocument:
    board = collection.boards[name]
    judged = [
        VerdictDocument(
            key=key, **{field: getattr(verdict, field) for field in VerdictDocument.model_fields if field != "key"}
        )
        for key, verdicts in board.verdicts.items()
        for verdict in verdicts
    ]
    return TrackDocument(
        track=name,
        conditions=conditions,
        rows=[_row(row) for row in board.rows],
        verdicts=judged,
        not_run=[NotRun(**asdict(each)) for each in board.not_run],
        **head,
    )


def _row(row: Row) -> TrackRow:
    said = asdict(row)
    plain = TrackRow.model_fields.keys() - {"id", "at", "standings", "against", "efficiency", "walls"}
    return TrackRow(
        id=row.id,
        **{name: said[name] for name in plain},
        standings={f"{share:g}": said["standings"].get(share) for share in SHARES} if row.standings else {},
        at={f"{share:g}": said["at"][share] for share in SHARES},
        against={name: {f"{share:g}": by[share] for share in SHARES} for name, by in said["against"].items()},
        efficiency={str(batch): spread for batch, spread in said["efficiency"].items()},
        walls={str(batch): walls for batch, walls in said["walls"].items()},
    )
