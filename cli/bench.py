"""`eelit bench`: measure all methods of a track with several seeds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import RUN_FAILED
from eelit.cli.command import JOBS, MethodName, eelit_command
from eelit.cli.leaderboard import on_track, say_unreadable, track_option
from eelit.cli.run import caching, demand_backend, demand_cache, demand_writable

if TYPE_CHECKING:
    from eelit.methods.engine.records import Result


@eelit_command(
    "eelit bench --track text",
    "eelit bench pabee deebert --seeds 5",
    "eelit bench --backend dask --jobs 8",
    extra="run",
)
@click.argument("methods", nargs=-1, type=MethodName(), metavar="[METHOD…]")
@track_option
@click.option(
    "--seeds", type=click.IntRange(1, 1_000), default=3, show_default=True, help="Measure with seeds 0 to N - 1."
)
@click.option("--backend", type=click.Choice(["loky", "dask", "ray"]), default="loky", show_default=True)
@click.option("--jobs", type=JOBS, default=1, show_default=True, help="Runs at a time, sharing the cores.")
@click.pass_context
def command(ctx: click.Context, methods: tuple[str, ...], name: str, seeds: int, backend: Any, jobs: int) -> None:
    """Measure the methods of a track with several seeds.

    Each result is saved as soon as it is complete, so a benchmark that was stopped continues where it was. Results of
    the current code are not measured again. This takes hours: minutes per method and seed.
    """
    demand_cache()
    demand_backend(backend)
    from eelit.methods.harness import bench

    keys = on_track(methods, name) or bench.members(name)
    runs = bench.missing(name, keys, seeds)
    click.echo(f"eelit: {len(runs)} runs to do, {len(keys) * seeds - len(runs)} done before", err=True)
    for key in keys:
        say_unreadable(bench.stored(name, key).unreadable)
    if runs:
        demand_writable(bench.folder(), "run `eelit bench` from a checkout of your own")
        click.echo("eelit: each run trains and measures for some minutes; each is reported when it ends", err=True)
    start, done = time.monotonic(), 0

    def report(run: bench.Run, found: Result | Exception) -> None:
        nonlocal done
        done += 1
        passed = (time.monotonic() - start) / 60
        click.echo(f"eelit: {done}/{len(runs)} {run[0]} seed {run[1]}: {_said(found)} ({passed:.1f} min)", err=True)

    with caching():
        failed = bench.bench(name, runs, backend=backend, jobs=jobs, report=report)
    ctx.exit(RUN_FAILED if failed else 0)


def _said(found: Result | Exception) -> str:
    from eelit.methods.harness.bench import why

    if isinstance(found, Exception) or not found.passed:
        return f"not kept, {why(found)}"
    return f"measured in {found.seconds:.0f} s"
