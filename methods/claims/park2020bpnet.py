"""What BPNet claims: much faster at no loss of accuracy, by a search that replaces designs by hand."""

from __future__ import annotations

from eelit.methods.claims.comparisons import beside_random_search, better_than, gains, without_ends
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.families.designs import Prepared
from eelit.methods.papers.park2020bpnet import BranchPruned


def claims(method: BranchPruned, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The figure of the abstract; the search beside one threshold for all branches, and beside a random one."""
    return [faster(curve), better_than_by_hand(curve), beside_random_search(method, prepared)]


def faster(curve: Curve) -> Outcome:
    """How much less is computed where nothing is lost."""
    point = cheapest_within(curve.validation, curve.test, 0.0)
    loss = curve.full_quality - point.quality
    return Outcome(
        name="a third less computation at no loss",
        statement="The least budget that loses nothing on validation images needs at most two thirds of the full "
        "model's cost (the paper: half on average, and up to 3.15 times less time), and loses at most half a point on "
        "test images.",
        holds=point.speed_up >= 1.5 and loss <= 0.005,
        measured=f"budget {point.knob:g}: {point.speed_up:.2f} times less, accuracy {-loss:+.4f}",
    )


def better_than_by_hand(curve: Curve) -> Outcome:
    """Compare with all branches and one threshold for all of them, on the same trained network."""
    rival = next(baseline for baseline in curve.baselines if baseline.name == "max-confidence")
    own = Baseline(name="BPNet", validation=curve.validation, test=curve.test)
    found = gains(own, without_ends(rival))
    return better_than("all branches with one threshold", found, "On the same trained network")
