"""What RomeBERT claims: all exits strong after one stage of training, thanks to regularised gradients too."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.geng2021romebert import RomeBert
from eelit.methods.papers.xin2020deebert import DeeBert


def claims(method: RomeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Early exits better than DeeBERT's and a last one as good; gradients conflict, and minding that helps."""
    *early, last = gains_by_exit(method, prepared, two_stage(method), bench)
    robust = Outcome(
        name="one stage makes all exits strong",
        statement="Beside two-stage training (DeeBERT), early exits are half a point more accurate on average, and "
        "the last exit loses at most one point.",
        holds=mean(early) >= 0.005 and last >= -0.01,
        measured=f"early exits {mean(early):+.4f} on average, last exit {last:+.4f}",
    )
    return [robust] if method.leads is None else [robust, *regularised(method, prepared, bench)]


def two_stage(method: RomeBert) -> DeeBert:
    """Return DeeBERT on the method's encoder and sentences, trained for as long, in such batches, at the same rates."""
    rates = {"rate": method.rate, "ramp_rate": method.head_rate}
    return DeeBert(method.encoder, method.corpus, method.train_size, method.epochs, batch=method.batch, **rates)


def regularised(method: RomeBert, prepared: Prepared, bench: Bench) -> list[Outcome]:
    """What gradient regularisation meets, and what it brings."""
    share = float(prepared.model.get_buffer("conflicts"))
    gains = gains_by_exit(method, prepared, method.replace({"leads": None}), bench)
    return [
        Outcome(
            name="gradients conflict",
            statement="In at least 5 % of the steps, early exits and last exit push shared layers apart.",
            holds=share >= 0.05,
            measured=f"{share:.1%} of the steps",
        ),
        Outcome(
            name="regularisation helps",
            statement="With it, exits are on average half a point better than with self-distillation only.",
            holds=mean(gains) >= 0.005,
            measured="by exit " + ", ".join(f"{gain:+.4f}" for gain in gains),
        ),
    ]
