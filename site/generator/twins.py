"""The pages in plain Markdown for those who read no HTML, and ``llms.txt``, which lists them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from eelit.bib.exports import to_bibtex
from eelit.catalog.baselines import said
from eelit.catalog.schema import FACETS, GROUNDS, Code
from eelit.methods.harness.summary import SHARES, Spread
from eelit.site.generator.collection import Collection, Edge, Method, Work
from eelit.site.generator.compared import of_method
from eelit.site.generator.markup import amount, fence, plural, repository, web

SIGNS = re.compile(r"([\\`*_{}\[\]<>#|])")
"""Signs that could mean something to Markdown."""


def plain(text: str) -> str:
    """Return text as one line of Markdown that means nothing but itself."""
    return SIGNS.sub(r"\\\1", " ".join(text.split()))


def paper(collection: Collection, work: Work) -> str:
    """Return the twin of a work's page."""
    entry, record = work.entry, work.record
    lines = [f"# {plain(record.title)}", "", plain(", ".join(record.author_names())), ""]
    lines += [f"- Year: {record.year}", *([f"- Venue: {plain(record.venue)}"] if record.venue else [])]
    lines += [f"- Short name: {plain(entry.short_name)}", f"- Key: `{work.key}`", f"- Role: {entry.role}"]
    lines += [
        f"- {facet.capitalize()}: {', '.join(getattr(entry, facet))}" for facet in FACETS if getattr(entry, facet)
    ]
    lines += [f"- {label}: <{address}>" for label, address in record.links() if web(address)]
    if work.key in collection.methods:
        lines.append(f"- Runs in eelit: `eelit run {work.key}` ([method](../methods/{work.key}.md))")
    if entry.reconstructed:
        lines += ["", "Only the title or abstract could be read: the description of the method is a reconstruction."]
    for title, text in (
        ("Idea", entry.idea),
        ("Exit rule", entry.exit_rule),
        ("Skipped", entry.skipped),
        ("Note", entry.note),
    ):
        if text:
            lines += ["", f"## {title}", "", plain(text)]
    lines += _section("Decides by", (f"{GROUNDS[ground][0]}: {plain(how)}" for ground, how in entry.decides_by.items()))
    lines += _section("Reported results (by the named source, not measured here)", _reported(work))
    lines += _section("What it claims to gain, and what holds here", _claims(collection, work.key))
    for verified, title in ((True, "Relations"), (False, "Relations, recalled, not verified")):
        found = [edge for edges in work.relations(verified=verified).values() for edge in edges]
        lines += _section(title, (_relation(collection, edge) for edge in found))
    graph = collection.graph
    for title, others in (("Prior works", graph.prior(work.key)), ("Derivative works", graph.derivative(work.key))):
        lines += _section(title, (_link(collection, other.node.key) for other in others))
    lines += _section("Code by others", map(_code, entry.code))
    seed = entry.seed.errors if entry.seed else []
    lines += _section(
        "Errata of the seed list", (f"{plain(error.wrong)} Right: {plain(error.right)}" for error in seed)
    )
    lines += _section("Sources", map(plain, entry.sources))
    lines += _section("Unverified", (f"{plain(item.field)}: {plain(item.note)}" for item in entry.unverified))
    return "\n".join([*lines, "", "## BibTeX", "", fence(to_bibtex([record]), "bibtex"), ""])


def _section(title: str, items: Iterable[str]) -> list[str]:
    listed = [f"- {item}" for item in items]
    return ["", f"## {title}", "", *listed] if listed else []


def _reported(work: Work) -> Iterator[str]:
    for row in work.entry.reported:
        said = [plain(row.dataset), plain(row.metric)]
        if row.value is not None and row.unit:
            said.append(plain(amount(row.value, row.unit, row.qualifier, signed=row.unit == "points")))
            said += [f"full model {plain(amount(row.baseline, row.unit))}"] if row.baseline is not None else []
        if row.cost:
            said.append(plain(f"{row.cost.metric} {amount(row.cost.value, row.cost.unit, row.cost.qualifier)}"))
        yield "; ".join([*said, plain(row.setting), f"source: {plain(row.source)}"])


def _relation(collection: Collection, edge: Edge) -> str:
    if edge.other:
        other = _link(collection, edge.other)
    else:
        target = edge.relation.target
        other = plain(target if isinstance(target, str) else target.external.title)
    return f"{edge.title}: {other}" + (f" ({plain(edge.relation.note)})" if edge.relation.note else "")


def _link(collection: Collection, key: str) -> str:
    name = collection.works[key].entry.short_name if key in collection.works else key
    return f"[{plain(name)}]({key}.md)"


def _code(code: Code) -> str:
    address = repository(code.repository)
    named = f"<{address}>" if address else plain(code.repository)
    return f"{named}, {'by the authors' if code.official else 'by others'}" + (
        f": {plain(code.note)}" if code.note else ""
    )


def _claims(collection: Collection, key: str) -> Iterator[str]:
    for trial in collection.trials(key):
        if trial.claim:
            yield plain(said(trial.claim.model_dump(mode="json")))
        for verdict in trial.verdicts:
            told = f"{verdict.judgement}, held with {plural(verdict.held, 'seed')} of {verdict.n}"
            stale = "" if verdict.current else ", stale: measured by older code"
            where = f", on the track {plain(verdict.track)}" if verdict.track else ""
            yield f"Tested as: {plain(verdict.statement)} ({plain(verdict.name)}: {told}{where}{stale})"
        yield from (f"To be tested as {plain(name)}: not measured yet" for name in trial.waiting)
        if trial.claim and trial.claim.untried:
            yield f"Not tested here: {plain(trial.claim.untried)}"


def _measured(collection: Collection, key: str) -> Iterator[str]:
    for track, row, _ in of_method(collection, key):
        head = f"{track} track{f', {plain(row.variant)}' if row.variant else ''}: {plain(row.quality)}"
        within = [f"within {share:.0%} of the cost {_spread(row.at[share])}" for share in SHARES]
        stale = "" if row.current else "; stale: measured by older code"
        yield f"{head}; full model {_spread(row.full)}; {'; '.join(within)}; {plural(len(row.seeds), 'seed')}{stale}"


def _spread(spread: Spread | None) -> str:
    if spread is None:
        return "out of reach"
    return f"{spread.mean:.4f}" + (f" ± {spread.deviation:.4f}" if spread.deviation is not None else "")


def method(collection: Collection, method: Method) -> str:
    """Return the twin of a method's page: its docstring, what was measured and claimed, settings, source."""
    info, work = method.info, collection.works.get(method.key)
    lines = [f"# {plain(info.title.rstrip('.'))}", "", f"- Key: `{info.key}`", f"- Run: `eelit run {info.key}`"]
    lines += [f"- Paper: [{plain(work.record.title)}](../papers/{info.key}.md)"] if work else []
    if work and work.entry.implementation:
        said = work.entry.implementation
        lines.append(f"- Fidelity: {said.fidelity} ({plain(said.reason)})")
    lines += [f"- Smoke test: {method.badge.words}", f"- Data: {', '.join(info.data) or 'nothing to download'}"]
    for title, text in info.sections.items():
        lines += ["", f"## {plain(title)}", "", fence(text, "text")]
    lines += _section("Measured on the track", _measured(collection, info.key))
    lines += _section("What the paper reports (by the named source)", _reported(work) if work else ())
    lines += _section("What the paper claims, and what holds here", _claims(collection, info.key))
    settings = (f"`{s.name}: {s.type} = {s.default}`: {plain(s.meaning)}" for s in info.settings)
    lines += _section("Settings", settings)
    return "\n".join([*lines, "", "## Source", "", fence(info.source, "python"), ""])


def llms(collection: Collection) -> str:
    """Return ``llms.txt``: what the site is, and where the twins are."""
    lines = [
        "# eelit",
        "",
        "> The early-exit literature, runnable: a typed catalogue of papers on early-exit (adaptive-depth) neural "
        "networks with implementations that train and run on real data, a citation graph and measured trade-offs.",
        "",
        "Every fact has a source or is marked as unverified; what papers report is kept separate from eelit's results.",
        "",
        "## Data",
        "",
        "- [Index](api/v1/index.json): all works and methods as JSON; schemas are in api/v1/schema/",
        "- [Bibliography](bibliography.bib): also as bibliography.ris and bibliography.json (CSL)",
        "- [Taxonomy](api/v1/terms.json): facets and terms with definitions",
        *(f"- [Leaderboard, {name}](api/v1/tracks/{name}.json): measured results" for name in collection.boards),
        "",
        "## Methods",
        "",
    ]
    lines += [f"- [{plain(m.info.title)}](methods/{key}.md)" for key, m in collection.methods.items()]
    lines += ["", "## Papers", ""]
    for key, work in collection.works.items():
        lines.append(
            f"- [{plain(work.entry.short_name)}](papers/{key}.md): {plain(work.record.title)}, {work.record.year}"
        )
    return "\n".join([*lines, ""])
