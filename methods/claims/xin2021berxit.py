"""What BERxiT claims: better exits than two-stage and joint training give, and early exit for regression."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from statistics import mean

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.claims.comparisons import (
    MIXED,
    gains_at_equal_cost,
    gains_by_exit,
    on_average,
    steps,
    two_stage,
    without_ends,
)
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import at
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.xin2021berxit import Berxit
from eelit.methods.recipes.joint import train_joint


@dataclass(frozen=True)
class Joint(Berxit):
    """The same exits without the unit, every step on the sum of all losses: what alternating has to be better than.

    Compared are its exits as fixed depths, so its policy, which would need the unit, is never asked.
    """

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own pooler."""
        return text_exits(self.encoder, data.classes, seed=seed, shared_pooler=False)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All exits in every step, weighing alike."""
        train_joint(model, data, bench, weights=[1.0] * model.exits, **self.options)


def claims(method: Berxit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Learned exits beat fixed depths; for classes also: alternating beats other training, certainty a probability."""
    fixed = (method.static(prepared.split("validation")), method.static(prepared.split("test")))
    ours, theirs = at(curve.validation, curve.test, 0.5), at(*fixed, 0.5)
    gain = ours.quality - theirs.quality if ours and theirs else -1.0
    beats = Outcome(
        name="learned exits beat fixed depths",
        statement="At half of the cost (threshold, and depth, chosen on validation data) certainty that differs by "
        "sample is half a point better than a fixed depth.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} {curve.quality}",
    )
    return [beats, *for_classes(method, prepared, bench, curve)] if prepared.data.classes else [beats]


def for_classes(method: Berxit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Compare with DeeBERT's two stages and with joint training, exit by exit, and with the surest exit."""
    *early, last = gains_by_exit(method, prepared, two_stage(method), bench)
    *soon, end = gains_by_exit(method, prepared, Joint(**dataclasses.asdict(method)), bench)
    surest = without_ends(next(found for found in curve.baselines if found.name == "max-confidence"))
    gains = gains_at_equal_cost(method, prepared, [method.rule(knob, prepared) for knob in method.knobs], surest)
    n = steps(method, prepared.data)
    rows = [
        ("alternating serves all exits", f"Beside two-stage training (DeeBERT, {n} steps for the network and as many "
         f"for its off-ramps; here {n} in all), early exits are half a point more accurate on average, and the last "
         "exit loses at most one point.", mean(early) >= 0.005 and last >= -0.01,
         f"early exits {mean(early):+.4f} on average, last exit {last:+.4f}"),
        ("alternating spares the last exit", "Beside joint training (the sum of all losses in each of as many steps), "
         "the last exit is half a point more accurate, and early exits lose at most half a point on average.",
         end >= 0.005 and mean(soon) >= -0.005, f"last exit {end:+.4f}, early exits {mean(soon):+.4f} on average"),
        ("certainty beats a probability", "On the same network learned certainty is on average half a point more "
         f"accurate at equal cost than thresholds on the largest probability. {MIXED}", mean(gains or [-1.0]) >= 0.005,
         on_average(gains)),
    ]  # fmt: skip
    return [Outcome(name=a, statement=b, holds=c, measured=d) for a, b, c, d in rows]
