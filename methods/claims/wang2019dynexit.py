"""What DynExit claims: learned loss weights are worth more than constant ones; and where they move, which follows."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from eelit.methods.claims.comparisons import better_than, gains_at_equal_cost, points_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2019dynexit import DynExit, ratio
from eelit.methods.recipes.joint import train_joint

EARLY = 0.3
"""Loss weight of each exit before the last beside 1 for the last, in the rival whose weights were chosen by hand."""


def claims(method: DynExit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Learned weights against two choices of constant ones at equal cost; nothing is claimed of equal weights."""
    if not method.learned:
        return []
    equal = method.replace({"learned": False})
    rivals: dict[str, DynExit] = {"equal weights": equal, "late-heavy weights": LateHeavy(**settings_of(equal))}
    found = [better(name, method, prepared, rival, bench) for name, rival in rivals.items()]
    return [*found, deeper(prepared)]


class LateHeavy(DynExit):
    """Constant weights chosen by hand: the last exit counts several times as much as each other one."""

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Minimise ``sum_i r_i L_i``, the constant r_i in proportion to 0.3, …, 0.3, 1."""
        weights = [EARLY] * (model.exits - 1) + [1.0]
        train_joint(model, data, bench, weights=[weight / sum(weights) for weight in weights], **self.options)


def settings_of(method: DynExit) -> dict[str, Any]:
    """Return the settings of a method by name."""
    return {each.name: getattr(method, each.name) for each in fields(method)}


def better(name: str, method: DynExit, prepared: Prepared, rival: DynExit, bench: Bench) -> Outcome:
    """The same network trained as long with constant weights, at the cost of each of its thresholds."""
    ours = (method.rule(knob, prepared) for knob in method.knobs[1:-1])
    found = gains_at_equal_cost(method, prepared, ours, points_of(rival, rival.prepare(bench), bench))
    return better_than(name, found, "With learned loss weights")


def deeper(prepared: Prepared) -> Outcome:
    """Whether the ratio ends far from where it began."""
    weights = ratio(prepared.model.get_parameter("raw_weights").detach()).tolist()
    return Outcome(
        name="weight moves to the last exit",
        statement="At the end of the training the loss of the last exit weighs at least one and a half times as much "
        "as that of the first; at its beginning they weigh alike.",
        holds=weights[-1] >= 1.5 * weights[0],
        measured="weights by exit " + ", ".join(f"{weight:.3f}" for weight in weights),
    )
