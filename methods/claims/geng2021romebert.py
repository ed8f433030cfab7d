"""What RomeBERT claims: all exits strong after one stage of training, thanks to regularised gradients too."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.comparisons import gains_by_exit, steps, two_stage
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.geng2021romebert import RomeBert


def claims(method: RomeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Early exits better than DeeBERT's and a last one as good; minding conflicts of gradients helps."""
    *early, last = gains_by_exit(method, prepared, two_stage(method), bench)
    n = steps(method, prepared.data)
    robust = Outcome(
        name="one stage makes all exits strong",
        statement=f"Beside two-stage training (DeeBERT, {n} steps for the network and as many for its off-ramps; here "
        f"{n} in all), early exits are half a point more accurate on average, and the last exit loses at most one "
        "point.",
        holds=mean(early) >= 0.005 and last >= -0.01,
        measured=f"early exits {mean(early):+.4f} on average, last exit {last:+.4f}",
    )
    return [robust] if method.leads is None else [robust, regularised(method, prepared, bench)]


def regularised(method: RomeBert, prepared: Prepared, bench: Bench) -> Outcome:
    """What gradient regularisation brings, and how often it had something to do."""
    share = float(prepared.model.get_buffer("conflicts"))
    gains = gains_by_exit(method, prepared, method.replace({"leads": None}), bench)
    return Outcome(
        name="regularisation helps",
        statement="With it, exits are on average half a point better than with self-distillation only.",
        holds=mean(gains) >= 0.005,
        measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains) + f"; gradients conflict in {share:.1%} of "
        "the steps",
    )
