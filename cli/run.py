"""`eelit run`: train and measure one method on real data."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from eelit.cli.command import WorkName, eelit_command, format_option, open_catalogue
from eelit.cli.main import RUN_FAILED, Failure
from eelit.cli.table import bold, paragraph, table

if TYPE_CHECKING:
    from eelit.methods.results import Curve, Result


@eelit_command("eelit run pabee", "eelit run pabee --budget 0.5", "eelit run pabee --knob 2 --knob 3 --out runs/pabee")
@click.argument("method", type=WorkName(), metavar="METHOD")
@click.option("--seed", default=0, show_default=True, help="Seed of all that is random.")
@click.option("--knob", "knobs", multiple=True, type=float, help="Measure this setting only (repeat for more).")
@click.option(
    "--budget", type=click.FloatRange(0, 1, min_open=True), help="Best point within this share of the full cost."
)
@click.option("--full", is_flag=True, help="The longer recipe.")
@click.option("--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR", help="Write the result there.")
@format_option("table", "json")
def command(
    method: str, seed: int, knobs: tuple[float, ...], budget: float | None, full: bool, out: Path | None, style: str
) -> None:
    """Train and measure a method on real data.

    Data are fetched on first use, and what was trained is kept, so a second run starts at once.
    """
    key = method_key(method)
    from eelit.methods import runner
    from eelit.methods.data.fetch import DataUnavailable

    try:
        result = runner.run(
            key, seed=seed, knobs=knobs or None, scale="full" if full else "default", progress=_progress
        )
    except DataUnavailable as error:
        raise Failure(f"{key} was not run: {error}", RUN_FAILED) from error
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{key}.json").write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    click.echo(result.model_dump_json(indent=2) if style == "json" else _report(result, budget))
    if not result.passed:
        broken = "; ".join(f"{check.name} ({check.measured})" for check in result.checks if not check.holds)
        raise Failure(f"{key} breaks rules of the contract: {broken}", RUN_FAILED)


def method_key(name: str) -> str:
    """Return the key of a method; those of other packages need not be in the catalogue."""
    from eelit.methods import registry

    known = registry.keys()
    if name in known:
        return name
    key = open_catalogue().resolve(name)
    if key not in known:
        raise click.UsageError(f"{key} is in the catalogue but cannot be run; `eelit methods` lists what can")
    return key


def _progress(message: str, share: float | None) -> None:
    done = "" if share is None else f" {share:.0%}"
    click.echo(f"\r\033[K{message}{done}", nl=False, err=True) if click.get_text_stream("stderr").isatty() else None


def _report(result: Result, budget: float | None) -> str:
    parts = [_curve(curve, budget) for curve in result.curves]
    claims = [["holds" if claim.holds else "fails", claim.statement, claim.measured] for claim in result.claims]
    if claims:
        parts.append(f"{bold('CLAIMS OF THE PAPER')}\n{table(['', 'claim', 'measured here'], claims)}")
    prepared = "from the cache" if result.prepared_from_cache else f"in {result.prepared_seconds:.1f} s"
    parts.append(paragraph(f"Prepared {prepared}, measured in {result.seconds:.1f} s, seed {result.seed}."))
    return "\n\n".join(parts)


def _curve(curve: Curve, budget: float | None) -> str:
    from eelit.methods import runner

    header = [curve.knob, curve.quality, curve.unit, "speed-up"]
    rows = [[f"{p.knob:g}", f"{p.quality:.4f}", f"{p.cost:.4g}", f"{p.speed_up:.2f}×"] for p in curve.test]
    rows.append(["full model", f"{curve.full_quality:.4f}", f"{curve.full_cost:.4g}", "1.00×"])
    text = f"{bold(f'OPERATING POINTS {curve.variant}'.strip())}\n{table(header, rows)}"
    if budget is not None:
        point = runner.within_budget(curve, budget)
        chosen = (
            f"{curve.knob} {point.knob:g}: {curve.quality} {point.quality:.4f}" if point else "no setting is that cheap"
        )
        text += f"\nWithin {budget:g} of the full cost, chosen on validation data: {chosen}"
    return text
