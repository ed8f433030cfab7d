"""`eelit sync`: the bibliography and the graph of citations, as services know them today."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from eelit.catalog.faults import INVALID_DATA, RUN_FAILED, CatalogueFault, Unavailable, writing
from eelit.cli.asking import AGAIN, ask_options, asking, is_offline, together
from eelit.cli.command import WorkName, eelit_command, format_option
from eelit.cli.group import Failure
from eelit.cli.table import bold, json_text, table

if TYPE_CHECKING:
    from pathlib import Path

    from eelit.bib.files import Changes
    from eelit.bib.remote.sync import Report
    from eelit.catalog.load import Loaded

ELSEWHERE = "sync in a checkout of your own"
SHOWN = 30


@eelit_command(
    "eelit sync", "eelit sync --citations zhou2020pabee xin2020deebert", "eelit sync --new --least 8", extra="site"
)
@click.argument("works", nargs=-1, type=WorkName(), metavar="[KEY…]")
@click.option("--citations", is_flag=True, help="Complete the citations inside the collection.")
@click.option("--new", is_flag=True, help="Propose works that cite many works of the collection; none is added.")
@click.option("--metadata", is_flag=True, help="Fill in missing fields of records, and report where services differ.")
@click.option(
    "--least", type=click.IntRange(1), default=5, show_default=True, help="With --new: least number of works cited."
)
@click.option(
    "--pages",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    help="With --new: pages of 100 results per work.",
)
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@ask_options
@format_option("table", "json")
def command(
    works: tuple[str, ...], citations: bool, new: bool, metadata: bool, least: int, pages: int,
    dry_run: bool, contact: str, offline: bool, anew: bool, style: str,
) -> None:  # fmt: skip
    """Update citations and records from bibliographic services.

    Without --citations, --new or --metadata all three are updated, for all works or for those that are named. OpenAlex,
    Crossref and Semantic Scholar are asked for lists of references, OpenAlex for new works, Crossref, arXiv and DBLP
    for metadata. Answers are kept: a run that was killed continues where it was. Each new edge names its source,
    address and date. A list of references counts as complete only if its publisher deposited one of which each line
    names a work, and another service gives a list as well, none of them longer and none with a work of ours that it
    lacks. What contradicts the catalogue is reported, and changes no field; where services tell a field otherwise, a
    comment above the record keeps it, which `eelit show` and `eelit doctor` read. Once you have decided, quote what
    the service says in a comment (%) of your own, or in `unverified` of the entry, and it is not reported again. Each
    file is replaced in one step; look at the changes with `git diff`.

    Exits with 0 also if nothing changes, with 3 if the sources are broken or a file was changed meanwhile, with 4 if a
    service could not be asked: run it again, it asks only for the rest.
    """
    from eelit.bib.files import Changes
    from eelit.bib.problems import shown
    from eelit.bib.remote import apply
    from eelit.catalog.load import load
    from eelit.catalog.sources import checkout, sources

    if checkout() is None:
        raise Unavailable("the sources are brought up to date in a checkout; clone the repository first")
    if is_offline(offline):
        raise click.UsageError("sync asks services, which --offline and EELIT_OFFLINE forbid; leave them out")
    loaded = load(sources())
    keys = _keys(works, loaded)
    parts = (citations, new, metadata) if citations or new or metadata else (True, True, True)
    places = loaded.sources
    files = places.bibliography, places.citations, places.reference_lists
    changes = Changes.of(*files)
    report = _asked(loaded, keys, parts, least, pages, contact, anew=anew)
    changes = apply.changes(report, changes, *files)
    said = _json(report, changes, dry_run) if style == "json" else _report(report, changes)
    written = [] if dry_run else _write(changes, loaded)
    click.echo(said)
    if written:
        click.echo(f"eelit: wrote {', '.join(map(shown, written))}; look at it with `git diff`", err=True)
    if report.troubles:
        raise Failure(f"not all requests succeeded: {together(report.troubles)}; {AGAIN}", RUN_FAILED)


def _keys(works: tuple[str, ...], loaded: Loaded) -> list[str]:
    from eelit.cli.check import key_of

    broken = loaded.bibliography.problems + loaded.citations.problems + loaded.lists.problems
    errors = [problem for problem in broken if problem.severity == "error"]
    if errors:
        raise Failure(
            f"{errors[0]}; correct the sources first (`eelit check` lists {len(errors)} errors)", INVALID_DATA
        )
    keys = list(dict.fromkeys(key_of(name, loaded) for name in works))
    if lacking := [key for key in keys if key not in loaded.bibliography.records]:
        raise Failure(f"`{lacking[0]}` has no record in bib/early-exit.bib; add it first", INVALID_DATA)
    return keys or list(loaded.bibliography.records)


def _asked(
    loaded: Loaded, keys: list[str], parts: tuple[bool, bool, bool], least: int, pages: int, contact: str, *, anew: bool
) -> Report:
    """Ask for what is wanted, and say how far it is."""
    from eelit.bib.remote import sync
    from eelit.bib.remote.web import now
    from eelit.catalog.doctor import notes

    citations, new, metadata = parts
    report, records = sync.Report(notes=notes(loaded)), loaded.bibliography.records
    tell = now.info
    with asking(contact, anew=anew) as web:
        all_count = citations or new  # which of ours a work cites is told by OpenAlex's numbers alone
        wanted = records if all_count else {key: records[key] for key in keys}
        ours = sync.identify(web, records, report, tell, wanted)
        if citations:
            sync.citations(web, ours, keys, loaded.citations, loaded.lists, report, tell)
        if new:
            sync.new_works(web, ours, keys, report, tell, least=least, pages=pages)
        if metadata:
            sync.metadata(web, ours, keys, report, tell)
    return report


def _report(report: Report, changes: Changes) -> str:
    parts: list[str] = []
    rows: list[list[object]]
    if report.edges:
        rows = [[edge.citing, edge.cited, list(edge.services)] for edge in report.edges]
        parts += [bold(f"{len(report.edges)} NEW CITATIONS"), table(["citing", "cited", "told by"], rows), ""]
    if report.lists:
        rows = [[found.key, "yes" if found.complete else "no", found.references] for found in report.lists]
        parts += [bold("LISTS OF REFERENCES"), table(["work", "complete", "references"], rows), ""]
    if report.filled:
        rows = [[filled.key, filled.name, filled.value, list(filled.services)] for filled in report.filled]
        parts += [bold("FILLED IN"), table(["work", "field", "value", "told by"], rows), ""]
    if report.new:
        rows = [[work.title, work.year, work.id, len(work.cites)] for work in report.new[:SHOWN]]
        more = f" (the first {SHOWN} of {len(report.new)})" if len(report.new) > SHOWN else ""
        parts += [f"{bold('WORKS THAT CITE MANY OF THESE')}{more}; `eelit add ID` adds one"]
        parts += [table(["title", "year", "id", "cites"], rows), ""]
    if report.cut:
        rows = [[cut.key, cut.seen, cut.of] for cut in report.cut]
        parts += [f"{bold('NOT ALL WORKS THAT CITE THESE WERE LOOKED AT')}; --pages looks at more"]
        parts += [table(["work", "looked at", "cited by"], rows), ""]
    if report.doubts:
        settle = "; what a comment (%) above the record quotes is not reported again"
        parts += [f"{bold('TO BE DECIDED BY A PERSON')}{settle}", *report.doubts, ""]
    return "\n".join([*parts, changes.diff().rstrip() or "Nothing changes."])


def _json(report: Report, changes: Changes, dry_run: bool) -> str:
    data = {name: value for name, value in asdict(report).items() if name not in ("notes", "elsewhere")} | {
        "files": [str(path) for path in changes.paths()],
        "written": not dry_run and bool(changes.paths()),
    }
    return json_text(data)


def _write(changes: Changes, loaded: Loaded) -> list[Path]:
    """Write what changes, and return the files."""
    from eelit.bib.files import ChangedMeanwhile

    try:
        with writing(loaded.sources.bibliography, ELSEWHERE):
            return changes.write()
    except ChangedMeanwhile as error:
        raise CatalogueFault(f"{error}; nothing was written, run this again") from error
