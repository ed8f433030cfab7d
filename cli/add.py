"""`eelit add`: a new work, as services know it."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import RUN_FAILED, CatalogueFault, Unavailable, writing
from eelit.cli.asking import AGAIN, ask_options, asking, is_offline, together
from eelit.cli.command import Words, eelit_command, format_option, nothing_found
from eelit.cli.group import Failure
from eelit.cli.table import bold, json_text, table

if TYPE_CHECKING:
    from eelit.bib.files import Changes
    from eelit.bib.record import Record
    from eelit.bib.remote.agree import Proposal
    from eelit.bib.remote.lookup import Gathered, Given
    from eelit.bib.remote.said import Said
    from eelit.catalog.load import Loaded

ELSEWHERE = "add works in a checkout of your own"
SHORTEST, ALIKE = 10, 0.8
"""Letters of a title from which on another one may hold it, and the likeness (as `difflib` has it) of near ones."""
TYPED = """\
{why} Type the record into bib/early-exit.bib, with what the title page says:

@inproceedings{{{key},
  author = {{Surname, Given and Surname, Given}},
  title = {{{title}}},
  year = {{2026}},
  booktitle = {{Name of the Conference}},
  doi = {{{doi}}},
  eprint = {{{arxiv}}},
  archiveprefix = {{arXiv}}
}}

Leave out what there is not (a preprint is @misc and has no booktitle). Then `eelit new {key}` starts the entry, and
`eelit check {key}` tells what is missing."""


@eelit_command(
    "eelit add 10.1145/3400302.3415698",
    "eelit add arXiv:2402.00518 --key pan2024eetuning",
    'eelit add "Early-Exit Deep Neural Network - A Comprehensive Survey" --dry-run',
    extra="site",
)
@click.argument("work", type=Words())
@click.option("--key", default="", help="The key of the new work; default: made of surname, year and title.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@ask_options
@format_option("table", "json")
def command(work: str, key: str, dry_run: bool, contact: str, offline: bool, anew: bool, style: str) -> None:
    """Add a work from the records of bibliographic services.

    WORK is a DOI, an arXiv id, OpenAlex's number (W…), a title, or an address that holds one of these identifiers (of
    doi.org, arXiv, the ACL Anthology, OpenAlex, Semantic Scholar, DBLP, or of a publisher with the DOI in it). Of other
    addresses, such as those of OpenReview, PMLR, NeurIPS or IEEE Xplore, give the title or the DOI instead. The
    catalogue is searched for WORK first. If several works have the title, they are listed. Then Crossref, arXiv,
    OpenAlex, DBLP and Semantic Scholar are asked; where they differ, all answers are shown.
    The record is written to bib/early-exit.bib with comments that name the source of each field and what others tell
    otherwise, which `eelit show` and `eelit doctor` read; and the skeleton of an entry is created for you to fill in.
    Offline, or if no service can be reached, the command prints what to type.

    Exits with 0 if the work was added (with --dry-run or --offline: shown), with 1 if the catalogue already has it, no
    service knows it or several works have the title, with 2 if WORK names none, with 3 if the answers make no valid
    record, with 4 if nothing was found and a service could not be asked.
    """
    from eelit.bib.remote.lookup import NoWork, gather, given
    from eelit.catalog.load import load
    from eelit.catalog.sources import checkout, sources

    if checkout() is None:
        raise Unavailable("works are added in a checkout; clone the repository first")
    loaded = load(sources())
    if _tell_known(loaded, _called(loaded, work), by_name=True):
        return
    try:
        wanted = given(work)
    except NoWork as error:
        raise click.UsageError(str(error)) from error
    _demand_free(key, loaded.known())
    if _tell_known(loaded, _named(loaded, wanted), by_name=wanted.kind == "title"):
        return
    if is_offline(offline):
        _show_typed(wanted, key, loaded, "Offline, no service is asked.", style)
        return
    with asking(contact, anew=anew) as web:
        found = gather(web, wanted)
    if found.choices:
        _let_choose(found, loaded, wanted, style)
    elif found.saids:
        _add(found, loaded, key, style, dry_run=dry_run)
    elif found.troubles and not web.asked.total():
        _show_typed(wanted, key, loaded, "No service could be reached.", style)
        raise Failure("no service could be reached; run this again with a network, or type the record", RUN_FAILED)
    else:
        _nobody_knows(found, loaded, wanted, style)


def _add(found: Gathered, loaded: Loaded, key: str, style: str, *, dry_run: bool) -> None:
    """Show what was found, and write it unless the catalogue turns out to have it."""
    from eelit.bib.remote.lookup import duplicates, titled
    from eelit.catalog.doctor import doubts_of_new

    proposal = _proposal(found, loaded, key)
    records = loaded.bibliography.records
    if _tell_known(loaded, duplicates(records.values(), proposal.said())):
        return
    changes, record = _changes(proposal, loaded)
    doubts = _contradictions(found) + doubts_of_new(record, records)
    doubts += [_same_title(records[other], proposal.key) for other in titled(records.values(), record.title)]
    said = (
        _json(proposal, found, changes, doubts, dry_run)
        if style == "json"
        else _report(proposal, found, changes, doubts)
    )
    if not dry_run:
        _write(changes)
    click.echo(said)
    if found.troubles:
        later = AGAIN if dry_run else f"`eelit sync --metadata {proposal.key}` asks again for what the record lacks"
        click.echo(f"eelit: not all services could be asked: {together(found.troubles)}; {later}", err=True)
    if not dry_run:
        click.echo(f"eelit: now fill in its entry; `eelit check {proposal.key}` lists what is missing", err=True)


def _demand_free(key: str, known: Collection[str]) -> None:
    from eelit.catalog.schema import KEY_PATTERN

    if key and not re.fullmatch(KEY_PATTERN, key):
        raise click.UsageError(f"`{key}` is not a key; a key is surname, year and a word, as in `zhou2020pabee`")
    if key in known:
        raise click.UsageError(f"the key `{key}` is already used; choose another")


def _called(loaded: Loaded, work: str) -> list[str]:
    """Return the keys of the works that go by this key, short name, alias or address."""
    from eelit.bib.remote.lookup import at
    from eelit.catalog.query import fold

    records, name = loaded.bibliography.records, fold(work)
    keys = [key for key in records if key == name]
    keys += [
        key for key, entry in loaded.entries.items()
        if name in map(fold, (key, entry.short_name, *entry.aliases))
    ]  # fmt: skip
    return list(dict.fromkeys(keys + at(records.values(), work)))


def _named(loaded: Loaded, wanted: Given) -> list[str]:
    """Return the keys of the works that have the DOI, the arXiv id or the title that was given."""
    from eelit.bib.remote.lookup import duplicates, titled
    from eelit.bib.remote.said import Said, bare_arxiv

    records = loaded.bibliography.records.values()
    if wanted.kind == "title":
        return titled(records, wanted.value)
    doi = wanted.value if wanted.kind == "doi" else ""
    preprint = wanted.value if wanted.kind == "arxiv" else bare_arxiv(doi)
    return duplicates(records, Said("", "", "", doi=doi, arxiv=preprint))


def _tell_known(loaded: Loaded, same: list[str], *, by_name: bool = False) -> bool:
    """Say so if the catalogue has these works, and what to do: of a name there may be several."""
    if same and same[0] not in loaded.known_entries():
        nothing_found(f"the bibliography has this work, but it has no entry; `eelit new {same[0]}` starts one")
    elif same:
        begun = same[0] in loaded.unreadable
        look = f"`eelit check {same[0]}` tells what its entry lacks" if begun else f"`eelit show {same[0]}`"
        other = ". If you mean another one of this name, give its DOI or arXiv id" if by_name else ""
        nothing_found(f"the catalogue has this work: {', '.join(same)} ({look}); nothing was added{other}")
    return bool(same)


def _contradictions(found: Gathered) -> list[str]:
    """Return what speaks against the record: services that call its identifier another work."""
    from eelit.bib.remote.said import grouped

    first = found.saids[0]
    names = {first.doi: first.doi, first.arxiv: f"arXiv:{first.arxiv}"}
    told = []
    for name, shown in names.items():
        others = [said for said in found.others if name and name in (said.doi, said.arxiv)]
        if others:
            ours, theirs = (
                grouped((f"“{said.title}”", said.service) for said in saids) for saids in (found.saids, others)
            )
            told.append(f"{shown} is {ours}, but {theirs}; look at its title page before you keep the record")
    return told


def _same_title(other: Record, key: str) -> str:
    return (
        f"`{key}` has the title of `{other.key}` ({other.short_authors()}, {other.year}), but another first author or "
        "year; if they are one work, keep one"
    )


def _show_typed(wanted: Given, key: str, loaded: Loaded, why: str, style: str) -> None:
    """Say what to type, and which works here have a title much like the one that was given."""
    text, near = _typed(wanted, key, why), _near(loaded, wanted)
    if style == "json":
        similar = [{"key": each.key, "title": each.title} for each in near]
        click.echo(json_text({"type": text, "similar_here": similar, "written": False}))
        return
    click.echo(text)
    for each in near:
        click.echo(
            f"eelit: the catalogue has `{each.key}` ({each.short_authors()}, {each.year}): {each.title}", err=True
        )


def _near(loaded: Loaded, wanted: Given) -> list[Record]:
    """Return the works here whose title holds the one that was given, or is nearly the same."""
    from difflib import SequenceMatcher

    from eelit.bib.alike import folded

    if wanted.kind != "title":
        return []
    ours = folded(wanted.value)
    titles = [(each, folded(each.title)) for each in loaded.bibliography.records.values()]
    return [
        each for each, title in titles
        if len(ours) >= SHORTEST and (ours in title or SequenceMatcher(None, ours, title).ratio() >= ALIKE)
    ]  # fmt: skip


def _typed(wanted: Given, key: str, why: str) -> str:
    from eelit.bib.write import tex_title

    held = {"doi": "10.…/…", "arxiv": "YYMM.NNNNN", "title": "Title, with {Names} in Braces"}
    held[wanted.kind] = tex_title(wanted.value) if wanted.kind == "title" else wanted.value
    return TYPED.format(why=why, key=key or "surname2026word", **held)


def _let_choose(found: Gathered, loaded: Loaded, wanted: Given, style: str) -> None:
    """Show the works that have the title that was given, for the user to choose one."""
    if style == "json":
        told = [_as_data(said, loaded) for said in found.choices]
        click.echo(json_text({"choices": told, "not_asked": found.troubles, "written": False}))
    else:
        click.echo(bold("SEVERAL WORKS HAVE THIS TITLE"))
        click.echo(_listed(found.choices, loaded))
    nothing_found(f"several works are called `{wanted.value}`; give the DOI or arXiv id of one. Nothing was added")


def _as_data(said: Said, loaded: Loaded) -> dict[str, Any]:
    return {
        "service": said.service,
        **{name: said.text(name) for name in ("title", "authors", "year", "doi", "arxiv")},
        "address": said.address,
        "here": _here(loaded, said),
    }


def _listed(saids: list[Said], loaded: Loaded) -> str:
    """Return a table of what services answered; the last column has the keys of those that the catalogue has."""
    rows: list[list[object]] = [
        [
            said.service, said.title, said.authors[0].family if said.authors else "", said.year or "",
            said.doi or said.arxiv or said.id, ", ".join(_here(loaded, said)),
        ]
        for said in saids
    ]  # fmt: skip
    return table(["service", "title", "first author", "year", "id", "in the catalogue"], rows)


def _here(loaded: Loaded, said: Said) -> list[str]:
    from eelit.bib.remote.lookup import duplicates

    return duplicates(loaded.bibliography.records.values(), said)


def _nobody_knows(found: Gathered, loaded: Loaded, wanted: Given, style: str) -> None:
    """Say that nothing was found, what came near, and who could not be asked."""
    if style == "json":
        similar = [_as_data(said, loaded) for said in found.others]
        click.echo(json_text({"similar": similar, "not_asked": found.troubles, "written": False}))
    elif found.others:
        click.echo(bold("SIMILAR, BUT NOT THE SAME"))
        click.echo(_listed(found.others, loaded))
    if found.troubles:
        raise Failure(
            f"`{wanted.value}` was not found, but not all services could be asked: {together(found.troubles)}; {AGAIN}",
            RUN_FAILED,
        )
    nothing_found(f"no service knows `{wanted.value}`; check its spelling, or give another identifier")


def _proposal(found: Gathered, loaded: Loaded, key: str) -> Proposal:
    from eelit.bib.remote.agree import propose
    from eelit.catalog.schema import KEY_PATTERN

    proposal = propose(found.saids, loaded.known(), key, found.by_way)
    lacking = [name for name in ("title", "authors", "year") if not proposal.values.get(name)]
    if lacking:
        raise CatalogueFault(
            f"no service gives {' and '.join(lacking)} of this work; type the record (`--offline` says how)"
        )
    if not re.fullmatch(KEY_PATTERN, proposal.key):
        raise click.UsageError("no key can be made of surname, year and title; choose one with --key")
    return proposal


def _changes(proposal: Proposal, loaded: Loaded) -> tuple[Changes, Record]:
    """Return the bibliography with the record, and the new entry; and the record.

    Raises `CatalogueFault` if it would be none.
    """
    from eelit.bib.files import Changes
    from eelit.bib.remote.web import today
    from eelit.bib.write import with_record
    from eelit.cli.new import ENTRY, render, title_name

    day, places, changes = today(), loaded.sources, Changes()
    text = with_record(changes.text(places.bibliography), proposal.key, proposal.block(day))
    changes.put(places.bibliography, text)
    record = _read_again(text, proposal.key)
    read = [f"{address} (read on {day})" for address in proposal.addresses.values()]
    name = title_name(proposal.title, proposal.key)
    changes.put(places.entry(proposal.key), render(ENTRY[0], proposal.key, name, None, read=read))
    return changes, record


def _read_again(text: str, key: str) -> Record:
    """Return the record as it is read from what would be written."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from eelit.bib.read import read_bibliography

    with TemporaryDirectory() as folder:
        path = Path(folder, "new.bib")
        path.write_text(text, encoding="utf-8")
        read = read_bibliography(path)
    if key not in read.records:
        said = next((problem.message for problem in read.problems if key in problem.message), "it cannot be read")
        raise CatalogueFault(
            f"the services' answers do not make a valid record: {said}; type it (`--offline` says how)"
        )
    return read.records[key]


def _report(proposal: Proposal, found: Gathered, changes: Changes, doubts: list[str]) -> str:
    from eelit.bib.problems import shown
    from eelit.bib.remote.said import FIELDS

    services = [said.service for said in found.saids]
    names = [name for name in FIELDS if name in proposal.values]
    rows = [[name, proposal.values[name], ", ".join(proposal.by.get(name, []))] for name in names]
    parts = [bold(proposal.key), table(["field", "value", "from"], rows)]
    if proposal.differing:
        cells = [[name, *(said.get(service, "") for service in services)] for name, said in proposal.differing.items()]
        parts += ["", bold("WHERE SERVICES DIFFER"), table(["field", *services], cells)]
    if found.others:
        cells = [[said.service, said.title, said.doi or said.arxiv] for said in found.others]
        parts += ["", bold("ANSWERED, BUT ANOTHER WORK"), table(["service", "title", "id"], cells)]
    if doubts:
        parts += ["", bold("TO BE DECIDED BY A PERSON"), *doubts]
    first, *new = changes.paths()
    made = [f"new: {shown(path)}" for path in new]
    return "\n".join([*parts, "", changes.diff([first]).rstrip(), *made])


def _json(proposal: Proposal, found: Gathered, changes: Changes, doubts: list[str], dry_run: bool) -> str:
    data: dict[str, Any] = {
        "key": proposal.key,
        "type": proposal.type,
        "fields": {
            name: {"value": value, "from": proposal.by.get(name, [])} for name, value in proposal.values.items()
        },
        "differing": proposal.differing,
        "others": [{"service": said.service, "title": said.title, "address": said.address} for said in found.others],
        "doubts": doubts,
        "not_asked": found.troubles,
        "files": [str(path) for path in changes.paths()],
        "written": not dry_run,
    }
    return json_text(data)


def _write(changes: Changes) -> None:
    from eelit.bib.files import ChangedMeanwhile

    first = changes.paths()[0]
    try:
        with writing(first, ELSEWHERE):
            changes.write()
    except ChangedMeanwhile as error:
        raise CatalogueFault(f"{error}; nothing was written, run this again") from error
