"""`eelit site`: the documentation site."""

from __future__ import annotations

from pathlib import Path

import click

from eelit.catalog.faults import Unavailable
from eelit.catalog.sources import checkout
from eelit.cli.command import EelitCommand, Place
from eelit.cli.group import debug_option


@click.group()
def command() -> None:
    """Build or serve the documentation site."""


command.params.append(debug_option())


@command.command(cls=EelitCommand, examples=("eelit site build",), extra="site")
def build() -> None:
    """Build the site into build/site."""
    _demand_checkout()
    from eelit.site.generator.build import build as build_site

    click.echo(build_site(progress=_say))


@command.command(cls=EelitCommand, examples=("eelit site serve", "eelit site serve --port 8080"), extra="site")
@click.option("--port", default=8000, show_default=True, type=click.IntRange(0, 65535), help="0 takes any free port.")
def serve(port: int) -> None:
    """Build the site and show it on this machine."""
    _demand_checkout()
    from eelit.site.generator.build import serve as serve_site

    serve_site(port=port, progress=_say)


@command.command(cls=EelitCommand, examples=("eelit site bundle", "eelit site bundle --out /tmp"), extra="site")
@click.option("--site", type=click.Path(file_okay=False, path_type=Path), help="The built site; default: build/site.")
@click.option(
    "--out", type=Place(), default=Path("dist"), show_default=True, metavar="DIR",
    help="Where to write it.",
)  # fmt: skip
def bundle(site: Path | None, out: Path) -> None:
    """Pack the built site into one zip that opens from disk."""
    from eelit.site.generator.bundle import bundle as pack

    if site is None:
        _demand_checkout()
    click.echo(pack(site or Path(str(checkout()), "build", "site"), out))


def _demand_checkout() -> None:
    """Say so at once if this cannot work, before anything slow is imported."""
    if checkout() is None:
        raise Unavailable("the site is built from a checkout; clone the repository and run `make site` there")


def _say(message: str) -> None:
    click.echo(f"eelit: {message}", err=True)
