"""What differentiable branching claims: better and faster than without branches, and than with tuned thresholds."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import (
    at_prices,
    better_than,
    gains_of_mixtures,
    governed,
    on_their_own,
    points_of,
)
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families import images
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.scardapane2020branching import DifferentiableBranching, cost_shares, soft, soft_cost
from eelit.methods.papers.wang2019dynexit import DynExit
from eelit.methods.policies.base import Policy
from eelit.methods.recipes.plain import train_plain

THRESHOLD = 0.5
"""The paper's, at which the claims are tried."""
LOSS = 0.01
"""Accuracy that may be lost on test data where a third of the computation is saved."""
LAMBDAS = (0.5, 0.2, 0.1, 0.05, 0.0)
"""Prices for each of which there is a training, the costliest first."""


def claims(method: DifferentiableBranching, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Our points are trainings of several prices; the rival's are thresholds, or it has no branches at all."""
    if not method.a:
        return []
    settings = at_prices(method, LAMBDAS, THRESHOLD, bench)
    ours = on_their_own(method, settings, LAMBDAS)
    summed = DynExit().replace({name: getattr(method, name) for name in images.SHARED} | {"learned": False})
    entropies = points_of(summed, summed.prepare(bench), bench)
    held, test = without_branches(method, prepared, bench)
    return [
        better_than(
            "thresholds on entropy", gains_of_mixtures(ours, entropies),
            f"With a training for each of {len(LAMBDAS)} prices, beside the same network and branches without gates, "
            "trained as long on the sum of their losses",
        ),
        saved(ours, held, test, reached_alone(curve, "Branch", lost=LOSS, speed_up=1.5, whole=test)),
        more_accurate(ours, test),
        governed(ours.test),
        foretold(settings, ours),
        assembled(prepared),
    ]  # fmt: skip


def without_branches(method: DifferentiableBranching, prepared: Prepared, bench: Bench) -> tuple[float, float]:
    """Return the accuracy on validation and test data of the network that was trained as long without branches."""
    model = method.build(prepared.data.without_test(), bench.seed)
    train_plain(model, prepared.data.without_test(), bench, **method.options)
    alone = Prepared(method.deployed(model), prepared.data, bench, method)
    held, test = (method.static(alone.split(split))[-1].quality for split in ("validation", "test"))
    return held, test


def saved(ours: Baseline, held: float, test: float, reason: str) -> Outcome:
    """How much less is computed at nearly the accuracy of the network without branches.

    ``reason`` is why that shows nothing, if it does not.
    """
    point = cheapest_within(ours.validation, ours.test, 0.005, of=held)
    loss, share = test - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="faster at nearly the same accuracy",
        statement="The cheapest price that loses at most half a point on validation data, against the network trained "
        "as long without branches, saves a third of the MACs and loses at most one point on test data.",
        holds=not reason and share >= 1 / 3 and loss <= LOSS,
        measured=f"{share:.1%} of the MACs saved, accuracy {-loss:+.4f}, at lambda {point.knob:g}",
        not_comparable=reason,
    )


def more_accurate(ours: Baseline, test: float) -> Outcome:
    """Whether branches make the network itself better."""
    point = cheapest_within(ours.validation, ours.test, 0.0, of=max(point.quality for point in ours.validation))
    gain = point.quality - test
    return Outcome(
        name="more accurate than without branches",
        statement="At the price that is best on validation data the network is half a point more accurate on test data "
        "than the one trained as long without branches.",
        holds=gain >= 0.005,
        measured=f"{gain:+.4f} at lambda {point.knob:g}; without branches {test:.4f}",
    )


def foretold(settings: list[tuple[Policy, Prepared]], ours: Baseline) -> Outcome:
    """Compare the cost that gates stand for with that of the branches where images really leave."""
    pairs = []
    for (_, ready), point in zip(settings, ours.test, strict=True):
        seen = ready.split("test")
        c = cost_shares(ready.model, seen.examples.inputs[0])
        k_1 = float(soft_cost(c, seen.outputs["gate"][:-1]).mean())
        pairs.append((k_1, point.cost / float(seen.costs[-1].mean())))
    off = mean(abs(a - b) for a, b in pairs)
    return Outcome(
        name="the soft cost foretells the real one",
        statement="At each price k_1 differs by at most 5 % of the network's cost, on average over prices, from what "
        "images really cost that leave at the first gate of at least one half.",
        holds=off <= 0.05,
        measured="; ".join(f"{a:.1%} and {b:.1%}" for a, b in pairs),
    )


def assembled(prepared: Prepared) -> Outcome:
    """What the soft output of all branches answers, beside the last branch."""
    seen = prepared.split("test")
    z, g = seen.outputs["answer"], seen.outputs["gate"][:-1]
    right = [answer.argmax(dim=-1) == seen.targets for answer in (soft(z.softmax(dim=-1), g[..., None]), z[-1])]
    ours, last = (float(each.double().mean()) for each in right)
    return Outcome(
        name="the soft output is an ensemble",
        statement="With all branches computed, the soft output is half a point more accurate than the last branch.",
        holds=ours >= last + 0.005,
        measured=f"{ours:.4f}, last branch {last:.4f}",
    )
