"""`eelit data`: the data sets and pretrained models that methods use."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import RUN_FAILED
from eelit.cli.command import EelitCommand, format_option
from eelit.cli.group import Failure, debug_option
from eelit.cli.run import caching
from eelit.cli.table import json_text, table, tsv

if TYPE_CHECKING:
    from eelit.methods.data.manifest import Item

MEGABYTE = 1_000_000
FIELDS = ("name", "version", "kind", "megabytes", "licence", "terms", "non_commercial", "title", "citation")


@click.group()
def command() -> None:
    """List, fetch and verify the data sets and models.

    Methods download what they need automatically; EELIT_OFFLINE=1 forbids it, EELIT_CACHE names the folder for the
    files.
    """


command.params.append(debug_option())


@command.command("list", cls=EelitCommand, examples=("eelit data list", "eelit data list --format json"))
@format_option("table", "json", "tsv", "keys")
def list_items(style: str) -> None:
    """List everything that can be downloaded, with size, licence and terms.

    JSON has all fields of the manifest: every file with its sha256, and the sources in the order in which they are
    tried.
    """
    from eelit.methods.data import manifest

    rows = [
        [
            item.name,
            item.version,
            item.kind,
            round(item.size / MEGABYTE, 1),
            item.licence,
            item.terms,
            item.non_commercial,
            item.title,
            item.citation,
        ]
        for item in manifest.items()
    ]
    if style == "json":
        click.echo(json_text([_as_json(item) for item in manifest.items()]))
    elif style == "tsv":
        click.echo(tsv(FIELDS, rows))
    elif style == "keys":
        click.echo("\n".join(str(row[0]) for row in rows))
    else:
        click.echo(table(["name", "kind", "MB", "licence", "terms"], [[row[0], *row[2:6]] for row in rows]))


def _as_json(item: Item) -> dict[str, Any]:
    """Return an item as the manifest has it; sizes are in bytes."""
    return asdict(item) | {
        "size": item.size,
        "download": item.download,
        "files": [asdict(file) for file in item.files.values()],
    }


@command.command(cls=EelitCommand, examples=("eelit data fetch minilm-l6", "eelit data fetch"))
@click.argument("names", nargs=-1, metavar="[NAME…]")
def fetch(names: tuple[str, ...]) -> None:
    """Download items into the cache (all, if none is named) and verify them."""
    from eelit.methods.data.fetch import DataUnavailable
    from eelit.methods.data.fetch import fetch as fetch_one

    missing = []
    for name in _known(names):
        try:
            with caching():
                place = fetch_one(name)
            click.echo(f"{name}\t{place}")
        except DataUnavailable as error:
            missing.append(str(error))
    if missing:
        raise Failure("; ".join(missing), RUN_FAILED)


@command.command(cls=EelitCommand, examples=("eelit data verify", "eelit data verify minilm-l6"))
@click.argument("names", nargs=-1, metavar="[NAME…]")
def verify(names: tuple[str, ...]) -> None:
    """Hash all files in the cache again and compare them with the manifest."""
    from eelit.methods.data.fetch import verify as verify_one

    problems = [problem for name in _known(names) for problem in verify_one(name)]
    for problem in problems:
        click.echo(problem)
    if problems:
        raise Failure(f"{len(problems)} files are not correct", RUN_FAILED)
    click.echo("eelit: all files are correct", err=True)


def _known(names: tuple[str, ...]) -> list[str]:
    from eelit.methods.data import manifest

    try:
        return [manifest.get(name).name for name in names] or [item.name for item in manifest.items()]
    except manifest.UnknownItem as error:
        raise click.UsageError(str(error)) from error
