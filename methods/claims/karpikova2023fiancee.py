"""What FIANCEE claims: half the computation saved at a distance that the user names, more of it for simple pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.claims.paired import ERRORS, GAINS, over_samples, resampled
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import at_exits
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exit_prediction import Prepared, Seen
from eelit.methods.papers.karpikova2023fiancee import Fiancee, features_of, shortfalls


def claims(method: Fiancee, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try them at the distance that every second validation drawing keeps at the first exit: the others must go on."""
    held, test = (Tried.of(method, prepared.split(name)) for name in ("validation", "test"))
    T = float(held.q[0].median())
    return [
        saved(method, test, T),
        kept(method, test, T),
        better_than_fixed(method, test, T),
        simple_first(method, test, T),
        helped(method, prepared, bench, test),
    ]


DISTANCE = "Distances are between features of EfficientNet-Lite0."
"""What d is of; unit tests have random convolutions in its place."""


@dataclass(frozen=True)
class Tried:
    """One part of the data, and how far all exits are from the whole generator there: ``q [n, N]``, 0 for the last."""

    seen: Seen
    q: Tensor

    @classmethod
    def of(cls, method: Fiancee, seen: Seen) -> Tried:
        """Measure it."""
        return cls(seen, torch.stack([method.distances(y, seen.answers[-1]) for y in seen.answers]))

    def at(self, method: Fiancee, T: float) -> tuple[Tensor, Tensor, float]:
        """Return the exits ``[N]`` at T, how far their pictures are ``[N]``, and the cost as a share of the whole."""
        exits, spent = self.seen.gone(method.rule(T))
        return torch.as_tensor(exits), at_exits(self.q, exits), float(spent.mean() / self.seen.full_costs.mean())


def saved(method: Fiancee, test: Tried, T: float) -> Outcome:
    """Ask for half of the saving that the paper has at most."""
    _, far, share = test.at(method, T)
    spare, first = over_samples(T - far.double().numpy()), over_samples(test.q[0].double().numpy() - T)
    return Outcome(
        name="a quarter saved within the distance",
        statement="At the distance T that every second validation drawing keeps at the first exit, the mean distance "
        f"from the whole generator's pictures is at most T, two standard errors included, and the cost at most 75 % of "
        f"the whole generator's, the predictor's included (the paper: about half at best). {DISTANCE}",
        holds=spare.keeps(0.0) and share <= 0.75,
        measured=f"{float(far.mean()):.4f} at T = {T:.4f} ({spare} to spare), for {share:.0%} of the cost",
        not_comparable=""
        if first.gains()
        else f"The first exit alone is not clearly further than T ({first} too far).",
    )


def kept(method: Fiancee, test: Tried, T: float) -> Outcome:
    """Ask whether single drawings get what was asked for."""
    _, far, _ = test.at(method, T)
    first, within = float((test.q[0] <= T).double().mean()), over_samples((far <= T).double().numpy())
    return Outcome(
        name="the distance is kept",
        statement="At this T, 75 % of the drawings are within T of the whole generator's picture, two standard errors "
        "included.",
        holds=within.keeps(-0.75),
        measured=f"{within.mean:.0%} ± {within.error:.1%}, and {first:.0%} if all leave at the first exit",
    )


def better_than_fixed(method: Fiancee, test: Tried, T: float) -> Outcome:
    """Compare with exits drawn at random, between the two whose costs are next to what was spent."""
    _, far, share = test.at(method, T)
    costs = test.seen.static_costs.mean(axis=1) / test.seen.full_costs.mean()
    ours, theirs = far.double().numpy(), between(share, costs, test.q.double().numpy())
    nearer = over_samples(0.95 * theirs, ours)
    undecided = abs(nearer.mean) <= ERRORS * nearer.error
    return Outcome(
        name="better than a fixed exit",
        statement="At this T, the mean distance from the whole generator's pictures is 5 % less than if as much had "
        f"been spent on an exit that is fixed beforehand, drawn between the two of next costs, {GAINS}.",
        holds=nearer.gains(),
        measured=f"{ours.mean():.4f} and {theirs.mean():.4f} for {share:.0%} of the cost; 95 % of the latter minus "
        f"the former is {nearer}{', within two standard errors: undecided' if undecided else ''}",
    )


def between(share: float, costs: NDArray[np.float64], q: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distances ``[N]`` at a share of cost, between those at the two exits ``[n, N]`` next in cost."""
    place = float(np.interp(share, costs, np.arange(len(costs))))
    low = min(int(place), len(costs) - 2)
    found: NDArray[np.float64] = q[low] + (place - low) * (q[low + 1] - q[low])
    return found


def borders(maps: Tensor) -> Tensor:
    """Return at which share of neighbouring places of maps ``[N, K, h, h]`` the kind changes, ``[N]``."""
    kinds = maps.argmax(dim=1)
    down, across = (kinds.diff(dim=axis) != 0 for axis in (1, 2))
    return (down.double().mean(dim=(1, 2)) + across.double().mean(dim=(1, 2))) / 2


def simple_first(method: Fiancee, test: Tried, T: float) -> Outcome:
    """Compare the maps of those that leave at a branch with those that the whole generator draws."""
    exits, _, _ = test.at(method, T)
    rich = borders(torch.stack(list(test.seen.examples.inputs)))
    first = exits == 0
    found = [float(rich[where].mean()) if where.any() else float("nan") for where in (first, ~first)]
    richer = resampled(lambda times: ratio(rich.numpy(), first.numpy(), times), len(rich), digits=2)
    return Outcome(
        name="simple drawings leave first",
        statement="At this T, maps of drawings that go beyond the first exit have 1.2 times as many borders between "
        "kinds of colour as those that leave there, and more than once as many by two standard errors.",
        holds=richer.mean >= 1.2 and richer.keeps(-1.0),
        measured=f"kinds change at {found[1]:.1%} and {found[0]:.1%} of neighbouring places ({richer.mean:.2f} ± "
        f"{richer.error:.2f} times as often)",
    )


def ratio(rich: NDArray[np.float64], first: NDArray[np.bool_], times: NDArray[np.int64]) -> float:
    """Return the mean ``rich [N]`` of those that go on ÷ that of the ``first``, each counted so many times."""
    if not times[first].sum() or not times[~first].sum():
        return float("nan")
    return float(np.average(rich[~first], weights=times[~first]) / np.average(rich[first], weights=times[first]))


def helped(method: Fiancee, prepared: Prepared, bench: Bench, test: Tried) -> Outcome:
    """Train branches without the database on the same generator."""
    alone, data = method.replace({"guided": False}), prepared.data.without_test()
    model = alone.build(data, bench.seed).exits_alone()
    model.stages.load_state_dict(prepared.model.stages.state_dict())
    model.heads[-1].load_state_dict(prepared.model.heads[-1].state_dict())
    alone.train_exits(model, data, bench)
    examples = test.seen.examples
    q = shortfalls(model, examples, features_of(method.feature_widths, examples.targets.shape[1]))
    ours, theirs = test.q[:-1].double().numpy(), q.T.double().numpy()
    gains = [
        resampled(lambda times, a=a, b=b: 1 - float(times @ a) / float(times @ b), len(a))  # type: ignore[misc]
        for a, b in zip(ours, theirs, strict=True)
    ]
    told = ", ".join(f"{gain.mean:+.1%} ± {gain.error:.1%}" for gain in gains)
    return Outcome(
        name="the database helps the first branch most",
        statement="With pictures from the database, the first branch comes 2 % nearer to the whole generator than "
        f"without, {GAINS}, and no later branch gains more.",
        holds=gains[0].gains(0.02) and gains[0].mean >= max(gain.mean for gain in gains),
        measured=f"nearer by {told}, from the first branch on",
    )
