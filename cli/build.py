"""`eelit build`: make the catalogue database."""

from __future__ import annotations

from pathlib import Path

import click

from eelit.cli.command import chosen_database, eelit_command


@eelit_command("eelit build", "eelit build --db catalogue.sqlite")
@click.option("--db", metavar="FILE", help="Where to put it (also: EELIT_DB; default: the user's cache).")
def command(db: str | None) -> None:
    """Build the catalogue database.

    In a checkout this happens by itself whenever the sources change. The file is written aside and put in place in one
    step: a database that was there before survives any failure.
    """
    from eelit.catalog.database import build
    from eelit.catalog.faults import CatalogueFault
    from eelit.catalog.fresh import database_path
    from eelit.catalog.sources import checkout, sources

    if checkout() is None and not (db or chosen_database()):
        raise CatalogueFault("an installed eelit brings its database along; to build one elsewhere name it with --db")
    report = build(Path(database_path(db or chosen_database())), sources())
    click.echo(f"built {report.path} ({report.works} works, {report.seconds:.1f} s)")
    errors = sum(problem.severity == "error" for problem in report.problems)
    if errors:
        click.echo(f"eelit: the sources have {errors} errors; `eelit check` lists them", err=True)
