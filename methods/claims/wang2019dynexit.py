"""What DynExit claims: learned loss weights are worth more than constant ones; and where they move, which follows."""

from __future__ import annotations

from eelit.methods.claims.comparisons import better_than, gains_at_equal_cost, points_of
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.wang2019dynexit import DynExit, ratio


def claims(method: DynExit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Learned weights against equal ones at equal cost; nothing is claimed of equal weights."""
    return [better(method, prepared, bench), deeper(prepared)] if method.learned else []


def better(method: DynExit, prepared: Prepared, bench: Bench) -> Outcome:
    """The same network trained as long with equal weights, at the cost of each of its thresholds."""
    rival = method.replace({"learned": False})
    ours = (method.rule(knob, prepared) for knob in method.knobs[1:-1])
    found = gains_at_equal_cost(method, prepared, ours, points_of(rival, rival.prepare(bench), bench))
    return better_than("equal weights", found, "With learned loss weights")


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
