"""`eelit site`: the documentation site."""

from __future__ import annotations

from pathlib import Path

import click

from eelit.catalog.faults import Unavailable
from eelit.catalog.sources import checkout
from eelit.cli.command import EelitCommand, chosen_database, open_catalogue
from eelit.cli.main import debug_option


@click.group()
def command() -> None:
    """Build or serve the documentation site."""


command.params.append(debug_option())


@command.command(cls=EelitCommand, examples=("eelit site build",))
def build() -> None:
    """Build the site into build/site."""
    root = _checkout()
    from eelit.site.generator.build import build as build_site

    open_catalogue()  # so that it is up to date
    click.echo(f"built {build_site(root, chosen_database())}")


@command.command(cls=EelitCommand, examples=("eelit site serve", "eelit site serve --port 8080"))
@click.option("--port", default=8000, show_default=True, type=click.IntRange(1, 65535))
def serve(port: int) -> None:
    """Build the site and show it on this machine."""
    root = _checkout()
    from eelit.site.generator.build import serve as serve_site

    open_catalogue()
    serve_site(root, chosen_database(), port=port)


def _checkout() -> Path:
    root = checkout()
    if root is None:
        raise Unavailable("the site is built from a checkout; clone the repository and run `make site` there")
    return Path(root)
