"""`eelit run`: train and measure one method on real data."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager
from math import isnan
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, Literal

import click

from eelit.catalog.faults import RUN_FAILED, NotWritten, writing
from eelit.cli.command import SEED, MethodName, Place, eelit_command, format_option, open_catalogue
from eelit.cli.group import Failure
from eelit.cli.streams import plain_terminal
from eelit.cli.table import bold, paragraph, table

if TYPE_CHECKING:
    from eelit.catalog.query import Catalogue
    from eelit.methods.engine.records import Curve, Outcome, Result, Search

ELSEWHERE = "choose another with --out"


def parse_knobs(_: click.Context, __: click.Parameter, value: tuple[float, ...]) -> tuple[float, ...]:
    """Refuse NaN, which is neither more nor less than any threshold."""
    if any(map(math.isnan, value)):
        raise click.BadParameter("`nan` is not a setting; give a number")
    return value


@eelit_command(
    "eelit run pabee", "eelit run pabee --budget 0.5", "eelit run pabee --knob 2 --knob 3 --out runs/pabee", extra="run"
)
@click.argument("method", type=MethodName(), metavar="METHOD")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed for everything random.")
@click.option(
    "--knob",
    "knobs",
    multiple=True,
    type=float,
    callback=parse_knobs,
    help="Measure this setting only (repeat for more).",
)
@click.option("--variant", metavar="NAME", help="Measure this variant only; default: all.")
@click.option(
    "--budget", type=click.FloatRange(0, 1, min_open=True), help="Best point within this share of the full cost."
)
@click.option("--full", is_flag=True, help="Use the longer recipe and all test samples.")
@click.option(
    "--out",
    type=Place(),
    metavar="DIR",
    help="Folder for the result (JSON) and its plot (PNG, SVG); default: a folder in the cache.",
)
@click.option("--keep", is_flag=True, help="Keep the result beside the code, too, where the site shows it.")
@format_option("table", "json")
def command(
    method: str,
    seed: int,
    knobs: tuple[float, ...],
    variant: str | None,
    budget: float | None,
    full: bool,
    out: Path | None,
    keep: bool,
    style: str,
) -> None:
    """Train and measure a method on real data.

    Data are downloaded on first use and trained weights are kept, so a second run starts at once.
    """
    if budget is not None and isnan(budget):
        raise click.UsageError("--budget takes a share between 0 and 1, not nan")
    if keep and (knobs or variant or full):
        raise click.UsageError("--keep keeps a whole run; leave out --knob, --variant and --full")
    if out is None:  # with --out a cache that can only be read may do
        demand_cache()
    key = method_key(method)
    if out is not None:
        demand_out(out, key)
    result = _run(key, knobs, seed=seed, scale="full" if full else "default", variant=variant)
    paths = _save(result, out)
    click.echo(result.model_dump_json(indent=2) if style == "json" else _report(result, budget))
    click.echo(f"eelit: wrote {', '.join(map(str, paths))}", err=True)
    if keep and result.passed:
        click.echo(f"eelit: kept {_keep(result)}", err=True)
    if not result.passed:
        broken = "; ".join(f"{check.name} ({check.measured})" for check in result.checks if not check.holds)
        raise Failure(f"{key} breaks rules of the contract: {broken}", RUN_FAILED)


def _run(
    key: str, knobs: tuple[float, ...], *, seed: int, scale: Literal["full", "default"], variant: str | None
) -> Result:
    """Run the method with a progress line; whatever is the user's to mend becomes one sentence."""
    from eelit.methods.data.fetch import DataUnavailable
    from eelit.methods.harness import registry, runner

    bar = ProgressLine()
    try:
        _demand_whole(key, knobs)
        with caching():
            return runner.run(key, seed=seed, knobs=knobs or None, scale=scale, variant=variant, progress=bar)
    except DataUnavailable as error:
        raise Failure(f"{key} was not run: data unavailable: {error}", RUN_FAILED) from error
    except runner.UnknownVariant as error:
        raise click.UsageError(str(error)) from error
    except registry.BrokenMethod as error:
        raise Failure(str(error), RUN_FAILED) from error
    except SystemExit as error:
        raise Failure(f"{key} was not run to its end: its code ended the process (exit {error})", RUN_FAILED) from error
    finally:
        bar.clear()


def caching() -> AbstractContextManager[None]:
    """Name the cache if what is kept there meanwhile cannot be written."""
    from eelit.methods.data.cache import cache_root

    return writing(cache_root(), "name another cache folder in EELIT_CACHE")


def demand_cache() -> None:
    """Say so at once if nothing can be written to the cache, before anything slow is imported or trained."""
    from eelit.methods.data.cache import cache_root

    with caching():
        _try(cache_root())


def demand_writable(folder: Path, remedy: str) -> None:
    """Make a folder, and see that files can be written there; else fail with what to do."""
    with writing(folder, remedy):
        _try(folder)


def _try(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=folder, buffering=0) as file:
        file.write(bytes(4096))  # on a full disk an empty file can still be made


def demand_out(out: Path, key: str) -> None:
    """See that the result and its plot can be written before anything is measured."""
    demand_writable(out, ELSEWHERE)
    for path in (out / f"{key}{suffix}" for suffix in (".json", ".png", ".svg")):
        if path.is_dir():
            raise NotWritten(f"{path} cannot be written (it is a folder); {ELSEWHERE}")


def _demand_whole(key: str, knobs: tuple[float, ...]) -> None:
    """Refuse fractions and negative numbers where the method's own knobs are counts: they would mean nothing."""
    from eelit.methods.harness import registry

    method = registry.get(key)
    if all(isinstance(knob, int) for knob in method.knobs):
        for knob in knobs:
            if not knob.is_integer() or knob < 0:
                known = ", ".join(map(str, method.knobs))
                raise click.UsageError(f"{knob:g} is no {method.knob} of {key}; give a whole number such as {known}")


def _save(result: Result, out: Path | None) -> list[Path]:
    from eelit.methods.data.cache import cache_root, write
    from eelit.methods.harness.plot import plot

    folder = out or cache_root() / "runs" / f"{result.key}-{result.scale}-seed{result.seed}"
    with writing(folder, ELSEWHERE):
        write(folder / f"{result.key}.json", result.model_dump_json(indent=1).encode() + b"\n")
        return [folder / f"{result.key}.json", *plot(result, folder)]


def _keep(result: Result) -> Path:
    from eelit.methods.harness import bench

    with writing(bench.folder(), "run it in a checkout of your own"):
        return bench.keep_alone(result)


class ProgressLine:
    """What is being done and how far it is, on stderr: a bar on a terminal, elsewhere one line per step."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty() and not plain_terminal()
        self.message = ""

    def __call__(self, message: str, share: float | None) -> None:
        """Show the step and the share of it that is done."""
        if self.terminal:
            done = round(24 * (share or 0))
            bar = "" if share is None else f" [{'#' * done}{'-' * (24 - done)}] {share:4.0%}"
            click.echo(f"\r\033[K{message}{bar}", nl=False, err=True)
        elif message != self.message:
            click.echo(f"eelit: {message}", err=True)
        self.message = message

    def clear(self) -> None:
        """Remove the bar."""
        if self.terminal:
            click.echo("\r\033[K", nl=False, err=True)


def demand_backend(backend: Any) -> None:
    """See that the back end is installed before anything runs."""
    from eelit.methods.harness import workers

    try:
        workers.demand(backend)
    except workers.BackendMissing as error:
        raise click.UsageError(str(error)) from error


def method_key(name: str, catalogue: Catalogue | None = None) -> str:
    """Return the key of a method; those of other packages need not be in the catalogue (by default the user's)."""
    from eelit.methods.harness import registry

    if (registered := registry.resolve(name)) is not None:
        return registered
    key = (catalogue or open_catalogue()).resolve(name)
    if registry.resolve(key) is None:
        raise click.UsageError(f"{key} is in the catalogue but cannot be run; `eelit methods` lists what can")
    return key


def _report(result: Result, budget: float | None) -> str:
    parts = [_curve(curve, budget) for curve in result.curves]
    parts += [_outcomes("CLAIMS OF THE PAPER", result.claims), _outcomes("RULES OF THE CONTRACT", result.checks)]
    prepared = f"{'loaded' if result.prepared_from_cache else 'trained'} in {result.prepared_seconds:.1f} s"
    where = f"{result.machine.processor}, {result.machine.threads} threads, torch {result.versions.get('torch', '?')}"
    parts.append(
        paragraph(f"Prepared ({prepared}), measured in {result.seconds:.1f} s, seed {result.seed}, on {where}.")
    )
    return "\n\n".join(filter(None, parts))


def _outcomes(title: str, outcomes: list[Outcome]) -> str:
    rows = [["holds" if outcome.holds else "fails", outcome.statement, outcome.measured] for outcome in outcomes]
    return f"{bold(title)}\n{table(['', 'statement', 'measured here'], rows)}" if rows else ""


def _curve(curve: Curve, budget: float | None) -> str:
    from eelit.methods.harness.qualities import described

    timed = [
        [
            f"{e.knob:g}",
            str(e.samples),
            f"{e.counted:.6g}",
            f"{e.claimed:.6g}",
            f"{e.seconds:.3f}",
            f"{e.full_seconds / e.seconds:.2f}×",
        ]
        for e in curve.executions
    ]
    head = [curve.knob, "samples", f"{curve.unit} counted", "claimed", "seconds", "speed-up in seconds"]
    text = f"{bold(f'OPERATING POINTS {curve.variant}'.strip())}\n{_points(curve)}"
    text += f"\n{paragraph(described(curve.quality).told)}"
    text += f"\n{paragraph(curve.beside.told)}" if curve.beside else ""
    text += "".join(f"\n{paragraph(f'Warning: {warning}')}" for warning in curve.warnings)
    text += f"\n\n{bold('REALLY EXECUTED, compared with the full model')}\n{table(head, timed)}"
    for e in curve.executions:
        if e.not_finite:
            told = f"exits returned values that are not finite (NaN, infinity) for {e.not_finite} samples"
            text += f"\nAt {curve.knob} {e.knob:g} {told}."
    text += "" if curve.search is None else f"\n\n{_search(curve.search)}"
    return text + ("" if budget is None else f"\n\n{_within(curve, budget)}")


def _points(curve: Curve) -> str:
    """Return the table of a curve's points on test data, the full model last."""
    from eelit.methods.harness.qualities import described

    more, quality = curve.beside, described(curve.quality)
    header = [
        curve.knob,
        curve.quality,
        *([more.name] if more else []),
        quality.cost_in(curve.unit),
        "speed-up",
        f"exits (share of {quality.each}s at each)",
    ]
    rows = [
        [
            f"{p.knob:g}",
            f"{p.quality:.4f}",
            *([f"{more.values[i]:.3f}"] if more else []),
            f"{p.cost:.4g}",
            f"{p.speed_up:.2f}×",
            " ".join(f"{e:.2f}" for e in p.exits),
        ]
        for i, p in enumerate(curve.test)
    ]
    rows.append(
        [
            "full model",
            f"{curve.full_quality:.4f}",
            *([f"{more.full:.3f}"] if more else []),
            f"{curve.full_cost:.4g}",
            "1.00×",
            "",
        ]
    )
    return table(header, rows)


def _search(search: Search) -> str:
    """Return what was searched, the front, and what it is worth beside that of a random search."""
    rows = [[f"{p.quality:.4f}", f"{p.share:.1%}", p.design] for p in search.found if p.front]
    designs = f"{search.designs:,.0f}" if search.designs < 1e7 else f"{search.designs:.2g}"
    said = (
        f"{search.algorithm[:1].upper()}{search.algorithm[1:]} judged {search.budget} different ones of {designs} "
        f"designs on {search.judged_on}, seed {search.seed}. Its front is worth {search.hypervolume:.4f}, that of as "
        f"many designs drawn at random {search.random_hypervolume:.4f}: the mean over all budgets of the best "
        f"{search.quality} within each. Cost is the mean of {search.cost}, a share of the full model's."
    )
    header = [search.quality, "cost", f"design: {search.space}"]
    return f"{bold('FRONT OF THE SEARCH')}\n{table(header, rows)}\n{paragraph(said)}"


def _within(curve: Curve, budget: float) -> str:
    from eelit.methods.engine.operating_points import within_budget

    point = within_budget(curve, budget)
    if point is None:
        return f"Within {budget:g} of the full cost: no setting is cheap enough on validation data."
    return (
        f"Within {budget:g} of the full cost: {curve.knob} {point.knob:g}, chosen on validation data; on test data "
        f"{curve.quality} {point.quality:.4f} at {point.cost:.4g} {curve.unit} ({point.speed_up:.2f}×)."
    )
