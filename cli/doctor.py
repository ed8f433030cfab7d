"""`eelit doctor`: what may be amiss, with a remedy for each; what is safe to mend it mends."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING

import click

from eelit.catalog.faults import INVALID_DATA, RUN_FAILED, CatalogueFault, Unavailable, writing
from eelit.cli.asking import AGAIN, ask_options, asking, is_offline, together
from eelit.cli.command import WorkName, eelit_command, format_option
from eelit.cli.table import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from eelit.bib.files import Changes
    from eelit.bib.remote.web import Web
    from eelit.catalog.doctor import Finding, Measured
    from eelit.catalog.load import Loaded


@eelit_command("eelit doctor", "eelit doctor --fix", "eelit doctor --online zhou2020pabee", extra="site")
@click.argument("works", nargs=-1, type=WorkName(), metavar="[KEY…]")
@click.option("--fix", is_flag=True, help="Fix what has only one solution, and show the diff.")
@click.option("--online", is_flag=True, help="Also ask services about identifiers and titles, and follow every link.")
@ask_options
@format_option("text", "json")
@click.pass_context
def command(
    ctx: click.Context, works: tuple[str, ...], fix: bool, online: bool, contact: str, offline: bool, anew: bool,
    style: str,
) -> None:  # fmt: skip
    """Look for possible problems in the catalogue, and fix what is safe to fix.

    Beyond what `eelit check` reports: fields that are missing or contradict each other, one venue with two names, pages
    with the wrong dash, identifiers that do not belong together, versions of one work under two titles, works without
    a connection, claims without an outcome, results of older code. Only with --online are services asked: whether DOI
    and arXiv id lead to this work, and whether links are dead. Each finding is one line, `file:line: rule: what it is;
    what to do`. --fix corrects pages, spellings of identifiers and implied terms, and shows the diff.

    A link is dead if its server says so; a host that cannot be reached proves nothing and is named at the end.

    Exits with 0 also if there are findings, with 3 if one of them is an error, with 4 if with --online not all could be
    asked.
    """
    from eelit.catalog.doctor import findings
    from eelit.catalog.load import load
    from eelit.catalog.sources import sources
    from eelit.cli.check import key_of

    loaded = load(sources())
    keys = {key_of(name, loaded) for name in works}
    if online and is_offline(offline):
        raise click.UsageError(
            "--online asks services, which --offline and EELIT_OFFLINE forbid; leave out one of them"
        )
    found, diff = findings(loaded, _measured(keys)), ""
    if fix:
        diff = _mended(loaded, _about(found, keys, loaded))
        loaded = load(sources())
        found = findings(loaded, _measured(keys))
    found = _about(found, keys, loaded)
    troubles: list[str] = []
    if online:
        asked, troubles = _online(loaded, keys, contact, anew=anew)
        found += asked
    if style == "json":
        click.echo(json_text({"findings": [asdict(finding) for finding in found], "diff": diff}))
    else:
        click.echo("".join(f"{finding}\n" for finding in found) + diff, nl=False)
    _say(found)
    if troubles:
        click.echo(f"eelit: not all could be asked: {together(troubles)}; {AGAIN}", err=True)
    broken = any(finding.severity == "error" for finding in found)
    ctx.exit(INVALID_DATA if broken else RUN_FAILED if troubles else 0)


def _mended(loaded: Loaded, found: list[Finding]) -> str:
    """Mend what is safe, say what could not be mended, and return the diff."""
    from eelit.catalog.doctor import mended
    from eelit.catalog.sources import checkout

    if checkout() is None:
        raise Unavailable("an installed catalogue cannot be fixed; clone the repository first")
    changes, refused = mended(loaded, found)
    diff = changes.diff()
    _write(changes, loaded)
    for reason in refused:
        click.echo(f"eelit: {reason}", err=True)
    return diff


def _say(found: list[Finding]) -> None:
    counted = Counter(finding.rule for finding in found)
    said = ", ".join(f"{rule} {count}" for rule, count in counted.most_common())
    click.echo(f"eelit: {said or 'no problems were found'}", err=True)


def _about(found: list[Finding], keys: Collection[str], loaded: Loaded) -> list[Finding]:
    """Return the findings about these works, or all if none is named."""
    from eelit.bib.problems import Problem
    from eelit.catalog.check import about

    if not keys:
        return found
    problems = {Problem(each.path, each.line, each.says, each.severity): each for each in found}
    chosen = about(keys, list(problems), loaded)
    return [problems[problem] for problem in chosen]


def _measured(keys: Collection[str]) -> Mapping[str, Measured]:
    """Return what is known of the results of methods, on tracks and by themselves."""
    from eelit.catalog.doctor import Measured
    from eelit.methods.harness import bench, registry
    from eelit.methods.harness.tracks import TRACKS

    runnable = [info.key for info in registry.described()[0]]
    places: list[tuple[str, list[str], Callable[[str], bench.Stored]]] = [(bench.ALONE, runnable, bench.alone)]
    places = [*((track, bench.members(track), partial(bench.stored, track)) for track in TRACKS), *places]
    found: dict[str, Measured] = {}
    for name, members, read in places:
        for key in members:
            known = read(key) if not keys or key in keys else None
            if known and known.results:
                outcomes = {claim.name for result in known.results for claim in result.claims}
                path = min((bench.folder() / name / key).glob("seed*.json"))
                again = "eelit run {} --keep" if name == bench.ALONE else "eelit bench {}"
                before = found.get(key)
                outcomes |= set(before.outcomes) if before else set()
                # What is stale on a track is told rather than what else there is.
                told = before if before and not before.current else Measured(path, known.current, (), again)
                found[key] = replace(told, outcomes=outcomes)
    return found


def _write(changes: Changes, loaded: Loaded) -> None:
    from eelit.bib.files import ChangedMeanwhile

    try:
        with writing(loaded.sources.bibliography, "fix a checkout of your own"):
            changes.write()
    except ChangedMeanwhile as error:
        raise CatalogueFault(f"{error}; nothing was written, run this again") from error


def _online(
    loaded: Loaded, keys: Collection[str], contact: str, *, anew: bool
) -> tuple[list[Finding], list[str]]:  # fmt: skip
    """Ask services about identifiers and titles, and follow the links; return also what could not be asked."""
    from eelit.bib.remote import sync
    from eelit.bib.remote.web import now
    from eelit.catalog.doctor import Finding, notes

    records = {key: record for key, record in loaded.bibliography.records.items() if not keys or key in keys}
    report = sync.Report(notes=notes(loaded))
    with asking(contact, anew=anew) as web:
        ours = sync.identify(web, records, report, now.info)
        sync.metadata(web, ours, list(records), report, now.info)
        found, troubles = _dead(web, loaded, keys)
    bibliography = loaded.bibliography
    for doubt in report.doubts:
        key = next((key for key in records if f"`{key}`" in doubt), "")
        remedy = "if ours is right, quote it in a comment (%) above the record, or in `unverified` of its entry"
        found.append(Finding("services differ", str(bibliography.path), bibliography.line(key), doubt, remedy))
    return found, report.troubles + troubles


def _dead(web: Web, loaded: Loaded, keys: Collection[str]) -> tuple[list[Finding], list[str]]:
    """Return the links that are dead, and which hosts could not be reached."""
    from eelit.bib.remote.links import Links, NoNetwork
    from eelit.bib.remote.web import now
    from eelit.catalog.doctor import Finding, addresses

    found: list[Finding] = []
    links, places = Links(web), list(addresses(loaded, keys))
    try:
        for number, (path, line, address) in enumerate(places, start=1):
            now.info(f"links: {number} of {len(places)}")
            if why := links.fault(address):
                remedy = "fix or replace it, if it stays so"
                found.append(Finding("dead link", path, line, f"{address} {why}", remedy))
    except NoNetwork as error:
        return found, [str(error)]
    return found, links.troubles()
