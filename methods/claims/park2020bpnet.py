"""What BPNet claims: much faster at no loss of accuracy, by a search that replaces designs by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import beside_random_search, better_than, gains_of_mixtures, without_ends, worth
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Curve, Outcome
from eelit.methods.engine.search import Space
from eelit.methods.families.designs import Design, Prepared
from eelit.methods.papers.park2020bpnet import BranchPruned
from eelit.methods.recipes.plain import train_plain


@dataclass(frozen=True)
class Alone(BranchPruned):
    """The network without branches, which has never learned with any."""

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Ordinary training."""
        train_plain(model, data, bench, **self.options)


@dataclass(frozen=True)
class AllKept(BranchPruned):
    """All branches stay, and the same search sets the threshold of each."""

    def space(self, exits: int) -> Space:
        """B numbers of thresholds; known is the first branch, at which everything leaves."""
        B = exits - 1
        return Space((len(self.levels),) * B, ((0,) * B,))

    def design(self, genes: Sequence[int], exits: int) -> Design:
        """Read th from the genes."""
        return Design((True,) * (exits - 1), tuple(self.levels[i] for i in genes))


def claims(method: BranchPruned, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The figure of the abstract; the search beside all branches kept, in two ways, and beside a random search."""
    alone = Alone(**settings(method))
    plain = alone.full_model(alone.prepare(bench), bench)[0]
    return [
        faster(curve, plain),
        better_than_all_kept(method, prepared),
        better_than_by_hand(curve),
        beside_random_search(method, prepared, method.best_of_all(prepared.for_choosing, "fitting")),
    ]


def settings(method: BranchPruned) -> dict[str, Any]:
    """Return all settings of a method, for a rival."""
    return {field.name: getattr(method, field.name) for field in fields(method)}


def faster(curve: Curve, plain: float) -> Outcome:
    """How much less is computed where nothing is lost; ``plain`` is the accuracy of the network that learned alone."""
    point = cheapest_within(curve.validation, curve.test, 0.0)
    loss, reason = curve.full_quality - point.quality, reached_alone(curve, "Branch")
    return Outcome(
        name="a third less computation at no loss",
        statement="The least budget that loses nothing on validation images needs at most two thirds of the full "
        "model's cost (the paper: half on average, and up to 3.15 times less time), and loses at most half a point on "
        "test images. What is lost is against the last exit of the network that learned with all branches.",
        holds=not reason and point.speed_up >= 1.5 and loss <= 0.005,
        measured=f"budget {point.knob:g}: {point.speed_up:.2f} times less, accuracy {-loss:+.4f} to "
        f"{point.quality:.4f}; the same network that learned without branches: {plain:.4f}",
        not_comparable=reason,
    )


def better_than_all_kept(method: BranchPruned, prepared: Prepared) -> Outcome:
    """Compare with all branches, thresholds searched in the same way, on the same trained network."""
    ready, rival = prepared.for_choosing, AllKept(**settings(method))
    ours, theirs = ready.fitted, rival.fit(ready)
    found = ours.hypervolume - theirs.hypervolume
    held = worth(method, prepared, ours) - worth(rival, prepared, theirs)
    kept = [sum(method.design(ours.designs[i].tolist(), prepared.model.exits).kept) for i in ours.front]
    return Outcome(
        name="better than all branches kept",
        statement="With branches pruned, the best design within a budget is, over all budgets up to the full model's "
        "cost, on average a quarter of a point more accurate on the validation images of the search than where all "
        "branches stay, which every image that passes pays for, and no less accurate on test images. Thresholds are "
        "searched by the same algorithm in as many generations of as many designs.",
        holds=found >= 0.0025 and held >= 0,
        measured=f"{found:+.4f} on the images of the search, {held:+.4f} on test images; {min(kept)} to {max(kept)} of "
        f"{prepared.model.exits - 1} branches stay",
    )


def better_than_by_hand(curve: Curve) -> Outcome:
    """Compare with all branches and one threshold for all of them, on the same trained network."""
    rival = next(baseline for baseline in curve.baselines if baseline.name == "max-confidence")
    own = Baseline(name="BPNet", validation=curve.validation, test=curve.test)
    found = gains_of_mixtures(own, without_ends(rival))
    return better_than("all branches with one threshold", found, "On the same trained network")
