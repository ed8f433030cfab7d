"""`eelit smoke`: does every method still work?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import RUN_FAILED, writing
from eelit.catalog.sources import checkout
from eelit.cli.command import JOBS, MethodName, eelit_command, format_option
from eelit.cli.run import caching, demand_backend, demand_cache, demand_writable, method_key
from eelit.cli.table import json_text, table

if TYPE_CHECKING:
    from eelit.methods.engine.records import SmokeReport

OWN = "run `eelit smoke` from a checkout of your own"


@eelit_command("eelit smoke", "eelit smoke pabee --no-cache", "eelit smoke --backend dask --jobs 8", extra="run")
@click.argument("methods", nargs=-1, type=MethodName(), metavar="[METHOD…]")
@click.option("--no-cache", is_flag=True, help="Also run methods that have not changed since they last passed.")
@click.option("--backend", type=click.Choice(["loky", "dask", "ray"]), default="loky", show_default=True)
@click.option("--jobs", type=JOBS, help="Worker processes; default: one per core.")
@format_option("table", "json")
@click.pass_context
def command(
    ctx: click.Context, methods: tuple[str, ...], no_cache: bool, backend: Any, jobs: int | None, style: str
) -> None:
    """Run every method briefly, and report which of them work.

    Each method runs in its own process, so a failure does not affect the others. A method is run again only if its
    code, its data or a version has changed.
    """
    demand_cache()
    demand_backend(backend)
    keys = [method_key(name) for name in methods] or None
    from eelit.methods.harness import smoke

    root = checkout()
    out = Path(root, "build", "smoke") if root is not None else None
    if out is not None:
        demand_writable(out, OWN)
    with caching():
        session, reports = smoke.smoke(keys, backend=backend, jobs=jobs, cache=not no_cache, report=_say)
    if out is not None:
        with writing(out, OWN):
            smoke.save(session, reports, out)
    if style == "json":
        click.echo(json_text([report.model_dump(mode="json") for report in reports]))
    else:
        rows = [
            [report.key, report.status, f"{report.seconds:.1f} s", _processor(report), report.error]
            for report in reports
        ]
        click.echo(table(["method", "outcome", "time", "processor time", "error"], rows))
    ctx.exit(0 if all(report.status == "passed" for report in reports) else RUN_FAILED)


def _processor(report: SmokeReport) -> str:
    """Return what the whole test took; an older report does not say."""
    return "" if report.processor_seconds is None else f"{report.processor_seconds:.1f} s"


def _say(report: SmokeReport) -> None:
    when = "now" if report.executed_now else "earlier; nothing changed since"
    click.echo(f"eelit: {report.key} {report.status} ({when})", err=True)
