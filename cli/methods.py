"""`eelit methods`: what can be run here."""

from __future__ import annotations

import click

from eelit.cli.command import eelit_command, format_option, nothing_found
from eelit.cli.table import json_text, table, tsv

FIELDS = ("key", "title", "settings", "data")


@eelit_command("eelit methods", "eelit methods --format keys")
@format_option("table", "json", "tsv", "keys")
def command(style: str) -> None:
    """List the methods that can be run here.

    Methods of other packages, registered through the entry point group `eelit.methods`, are listed too. A method that
    cannot be read is left out, and stderr says what is wrong with it.
    """
    from eelit.methods.harness import registry

    found, broken = registry.described()
    for fault in broken:
        click.echo(f"eelit: {fault}", err=True)
    rows = [[info.key, info.title, [setting.name for setting in info.settings], info.data] for info in found]
    if style == "json":
        fields = ("key", "title", "sections", "deviations", "data")
        described = [{name: getattr(info, name) for name in fields} for info in found]
        for info, item in zip(found, described, strict=True):
            item["settings"] = [vars(setting) for setting in info.settings]
        click.echo(json_text(described))
    elif style == "tsv":
        click.echo(tsv(FIELDS, rows))
    elif style == "keys" and rows:
        click.echo("\n".join(info.key for info in found))
    elif rows:
        click.echo(table(["key", "title", "data"], [[row[0], row[1], row[3]] for row in rows]))
    if not rows:
        nothing_found("there is no method that can be read" if broken else "no method is registered")
