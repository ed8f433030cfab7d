"""What adaptive networks claim: speed for a point of accuracy or several, by decisions that are learned."""

from __future__ import annotations

from collections.abc import Iterable

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import better_than, gains_of_mixtures, tried
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families import cascades, exits
from eelit.methods.papers.bolukbasi2017adaptive import AdaptiveExits, NetworkSelection
from eelit.methods.papers.wang2018idk import IdkCascade
from eelit.methods.policies.base import Policy
from eelit.methods.policies.max_confidence import MaxConfidence

THRESHOLDS = (*(i / 100 for i in range(15, 100, 5)), 0.97, 0.99, 0.995, 0.999)
"""Of confidence, one for all exits: what learned decisions are compared with."""
EPSILONS = tuple(i / 100 for i in range(-2, 71))
"""Shares of the last model's accuracy that may be lost where each model has a threshold of its own."""

FASTER = {
    "8 % faster for a point": (1.08, 0.01),
    "18 % faster for two points": (1.18, 0.02),
    "22 % faster for five points": (1.22, 0.05),
}
"""The figures that are quoted of the early-exit system: outcome → speed-up, and loss of accuracy."""

Method = AdaptiveExits | NetworkSelection


def claims(method: Method, prepared: exits.Prepared | cascades.Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The figures of either system, and its decisions against thresholds; what jumps bring to network selection."""
    ours = tried(method, prepared, (method.rule(knob, prepared) for knob in method.knobs[1:-1]))

    def beside(name: str, rules: Iterable[Policy]) -> Outcome:
        found = gains_of_mixtures(ours, tried(method, prepared, rules))
        return better_than(name, found, "With learned decisions")

    if isinstance(method, AdaptiveExits):
        learned = beside("one threshold of confidence", map(MaxConfidence, THRESHOLDS))
        return [*(faster_for(curve, name) for name in FASTER), learned]
    assert isinstance(prepared, cascades.Prepared)
    learned = beside("a threshold of confidence for each model", own_thresholds(prepared))
    stepwise = method.replace({"jumps": False})
    others = tried(method, prepared, (stepwise.rule(knob, prepared) for knob in method.knobs[1:-1]))
    return [faster_within_a_point(curve), learned, passing_over(ours, others)]


def own_thresholds(prepared: cascades.Prepared) -> list[Policy]:
    """Return thresholds on the largest probability, one for each model, as IDK cascades search for them.

    Of all combinations on their grid these are the cheapest that lose at most so much, for each of `EPSILONS`, on the
    images on which decisions have learned.
    """
    rival, last = IdkCascade(augment="probability"), len(prepared.model) - 1
    search = rival.fit(prepared.for_choosing)
    found = dict.fromkeys(search.cheapest(eps) for eps in EPSILONS)
    return [rival.rule_at(search.points[i], (), last) for i in found if i is not None]


def faster_for(curve: Curve, name: str) -> Outcome:
    """One of the quoted figures of the early-exit system: (old - new) / new."""
    faster, lost = FASTER[name]
    point = cheapest_within(curve.validation, curve.test, lost)
    reason = reached_alone(curve, "Exit", lost=lost, speed_up=faster)
    loss = curve.full_quality - point.quality
    return Outcome(
        name=name,
        statement=f"The cheapest lambda that loses at most {lost:g} on validation images is at least {faster:g} times "
        "faster than the whole network, as quoted of the paper, and loses at most half a point more on test images.",
        holds=not reason and point.speed_up >= faster and loss <= lost + 0.005,
        measured=f"lambda {point.knob:g}: {point.speed_up:.2f} times, accuracy {-loss:+.4f}",
        not_comparable=reason,
    )


def faster_within_a_point(curve: Curve) -> Outcome:
    """The figure of the abstract, of network selection."""
    point = cheapest_within(curve.validation, curve.test, 0.01)
    reason = reached_alone(curve, "Model", lost=0.01, speed_up=2.8)
    loss = curve.full_quality - point.quality
    return Outcome(
        name="2.8 times faster within a point",
        statement="The cheapest lambda that loses at most one point on validation images is at least 2.8 times faster "
        "than the largest network, as in the paper (top-5), and loses at most one point and a half on test images.",
        holds=not reason and point.speed_up >= 2.8 and loss <= 0.015,
        measured=f"lambda {point.knob:g}: {point.speed_up:.2f} times, accuracy {-loss:+.4f}",
        not_comparable=reason,
    )


def passing_over(ours: Baseline, theirs: Baseline) -> Outcome:
    """Decisions that may jump against such as name the next model alone, both learned."""
    return better_than("a chain without jumps", gains_of_mixtures(ours, theirs), "Where models may be passed over")
