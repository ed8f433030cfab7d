"""What AdaDiff claims: two fifths saved at hardly a loss, at depths that differ between steps."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.claims.paired import (
    BEYOND,
    GAINS,
    KEEPS,
    Difference,
    gains_of_mixtures,
    mean_gain,
    of_samples,
    over_samples,
    resampled,
    told,
)
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Baseline, Beside, Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.tang2024deediff import AdaDiff, drawn, images_in
from eelit.methods.policies.base import Policy
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.recipes.plain import train_plain

LOSS = 0.02
"""Of explained variance, on validation images, within which a threshold is chosen."""
IMAGES, STEPS = 500, 25
"""How many images are drawn at most, in how many steps."""
FEW = 200
"""How many are drawn at each threshold of the curve."""
FURTHER = 0.1
"""Share by which images may be further from real ones than those of the whole network and count as as good."""
DISTANCE = "The distance is Fréchet's, between 32 features of a small network that tells the classes."


class Features(nn.Module):
    """A small convolutional network: 32 numbers by which images are compared, learned in telling their classes."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()),
            nn.LazyLinear(32),
        )
        self.layers(torch.zeros(1, 1, side, side))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, D]`` to ``[N, 32]``."""
        found: Tensor = self.layers(x.reshape(-1, 1, self.side, self.side))
        return found


def claims(method: AdaDiff, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """On single steps against fixed depths, and on images that are drawn."""
    chosen = cheapest_within(curve.validation, curve.test, LOSS)
    plain = method.replace({"lam": 0.0, "beta": 0.0, "gamma": 0.0})
    return [
        better_than_fixed(curve),
        *of_images(method, prepared, bench, chosen),
        no_worse(curve.test[-1], *plain.sweep(plain.prepare(bench), bench, "test", plain.knobs[-1:])),
    ]


def beside_curve(method: AdaDiff, prepared: Prepared, bench: Bench, curve: Curve) -> Beside:
    """Draw images at each threshold: how well noise is told in single steps does not say what is drawn with it."""
    test = Drawing.of(prepared, "test", learned(prepared, bench), bench.seed, FEW)
    rules = [method.rule(point.knob, prepared) for point in curve.test]
    values = [test.distance(test.drawn([rule] * STEPS)[0]) for rule in rules]
    first, whole = (test.drawn([policy] * STEPS)[0] for policy in (FixedExit(0), None))
    return Beside(
        name="distances of images drawn",
        meaning=f"Fréchet's, of {len(test.real)} images drawn in {STEPS} steps from as many real ones, between 32 "
        "features of a small network that tells the classes; lower is better",
        values=values,
        cheap=test.distance(first),
        full=test.distance(whole),
        error=test.nearer(whole, first).error,
    )


def better_than_fixed(curve: Curve) -> Outcome:
    """Compare with the network cut off after a layer, a mixture of two where none costs as much."""
    rival = next(each for each in curve.baselines if each.name == "static exit")
    ours = Baseline(name="", validation=curve.validation, test=curve.test)
    found = gains_of_mixtures(ours, rival, (0.5, 0.6, 0.7, 0.8))
    return Outcome(
        name="better than a fixed depth",
        statement="At half to four fifths of the cost, a hundredth more of the noise's variance is explained on "
        "average than by layers that are fixed beforehand, settings of either chosen on validation images, "
        f"{GAINS}.",
        holds=mean_gain(found).gains(0.01),
        measured=f"{told(found)}; {len(found)} costs",
    )


def no_worse(ours: OperatingPoint, plain: OperatingPoint) -> Outcome:
    """Compare the whole network with one that learnt at its last layer alone, image by image."""
    found = over_samples(of_samples(ours), of_samples(plain))
    return Outcome(
        name="no worse for being taught at every layer",
        statement="The whole network explains at most a hundredth less of the noise than one trained on its last layer "
        f"alone, {KEEPS}.",
        holds=found.keeps(0.01),
        measured=f"{ours.quality:.4f} and {plain.quality:.4f} ({found})",
    )


@dataclass(frozen=True)
class Drawing:
    """What is drawn with: the network, the first noise of images, the seed of that in each step, the least and the
    largest value that pixels of training images have, and the features of real ones ``[N, 32]``.
    """

    model: MultiExit
    noise: Tensor
    seed: int
    span: tuple[float, float]
    features: Features
    real: Tensor

    @classmethod
    def of(cls, prepared: Prepared, split: Split, features: Features, seed: int, most: int | None = None) -> Drawing:
        """Take as many images of a split as are drawn, `IMAGES` if not told."""
        real = images_in(prepared.split(split).examples)[: most or IMAGES]
        noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(seed))
        low, high = torch.stack(list(prepared.data.train.inputs)).aminmax()
        with torch.inference_mode():
            # Of the same seed, a step's noise would be the first noise again
            return cls(prepared.model, noise, seed + 1, (float(low), float(high)), features, features(real))

    def drawn(self, policies: Sequence[Policy | None]) -> tuple[Tensor, Tensor]:
        """Return the features ``[N, 32]`` of images drawn, and the exits ``[steps, N]``."""
        x, exits = drawn(self.model, policies, self.noise, self.span, self.seed)
        with torch.inference_mode():
            return self.features(x), exits

    def distance(self, drawn: Tensor, times: NDArray[np.int64] | None = None) -> float:
        """Return Fréchet's distance of images drawn from real ones, each taken so many times."""
        return frechet(drawn, self.real, times)

    def nearer(self, ours: Tensor, theirs: Tensor, factor: float = 1.0) -> Difference:
        """Return by how much ours are nearer to real images than theirs times ``factor``, drawn of the same noise."""
        return resampled(
            lambda times: factor * self.distance(theirs, times) - self.distance(ours, times), len(self.real), digits=3
        )


def schedules(shares: NDArray[np.float64], share: float) -> list[list[Policy | None]]:
    """Return layers fixed for each step that cost at least ``share`` on the mean: two, either of them first.

    ``shares [E]`` are the costs of the network cut off after each exit.
    """
    share = min(share, float(shares[-1]))  # to ask at every exit can cost more than the whole network
    deep = int(np.searchsorted(shares, share - 1e-9))
    if deep == 0:
        return [[FixedExit(0)] * STEPS]
    many = math.ceil(STEPS * (share - shares[deep - 1]) / (shares[deep] - shares[deep - 1]) - 1e-9)
    low, high = [FixedExit(deep - 1)] * (STEPS - many), [FixedExit(deep)] * many
    return [[*low, *high], [*high, *low]]


def of_images(method: AdaDiff, prepared: Prepared, bench: Bench, chosen: OperatingPoint) -> list[Outcome]:
    """Draw images of the same noise by the whole network, at the chosen threshold, and by rivals of its cost.

    What it costs is seen where validation images are at stake, with other noise; there the rivals are chosen.
    """
    features, seen = learned(prepared, bench), prepared.split("validation")
    held = Drawing.of(prepared, "validation", features, bench.seed + 1000)
    test = Drawing.of(prepared, "test", features, bench.seed)
    rule, shares = method.rule(chosen.knob, prepared), seen.static_costs[:, 0] / seen.full_costs[0]
    asking = seen.costs[:, 0] / seen.full_costs[0]
    share = float(asking[held.drawn([rule] * STEPS)[1].numpy()].mean())
    few = min(STEPS, math.ceil(STEPS * share))
    fixed = min(schedules(shares, share), key=lambda plan: held.distance(held.drawn(plan)[0]))
    ours, exits = test.drawn([rule] * STEPS)
    whole, fewer, cut = (test.drawn(plan)[0] for plan in ([None] * STEPS, [None] * few, fixed))
    spent = float(asking[exits.numpy()].mean())
    first, normal = test.drawn([FixedExit(0)] * STEPS)[0], features(normal_images(prepared, test)).detach()
    far, near, *bounds = (test.distance(each) for each in (ours, whole, held.real, first, normal))
    tried = [
        as_good(far, near, bounds, test.nearer(ours, whole, 1 + FURTHER), spent, chosen.knob),
        beside_rival(
            "better than the whole network in fewer steps", f"the whole network draws in {few} steps, not {STEPS}",
            test.nearer(ours, fewer), far, test.distance(fewer), spent, few / STEPS,
        ),
        beside_rival(
            "better than layers fixed for each step", told_plan(fixed), test.nearer(ours, cut), far, test.distance(cut),
            spent, float(np.mean([shares[policy.exit] for policy in fixed if isinstance(policy, FixedExit)])),
        ),
    ]  # fmt: skip
    formless = {"not_comparable": no_images(test.nearer(whole, first, 1 / (1 + FURTHER)), test.nearer(whole, normal))}
    return [*(each.model_copy(update=formless) for each in tried), differing(exits, prepared.model.exits)]


def as_good(far: float, near: float, bounds: Sequence[float], good: Difference, spent: float, knob: float) -> Outcome:
    """Ask for the paper's saving at hardly a loss, by distances of ours and the whole network's.

    ``bounds`` are those of other real images, of what the first layer draws, and of draws of a normal distribution.
    """
    real, first, normal = bounds
    return Outcome(
        name="two fifths saved on images that stay as good",
        statement="At the cheapest threshold that loses at most 0.02 of explained variance on validation images, "
        "images drawn are at most a tenth further from real ones than those of the whole network, two standard "
        f"errors included, for at most 60 % of its cost. {DISTANCE}",
        holds=good.keeps(0.0) and spent <= 0.6,
        measured=f"distance {far:.3f} and {near:.3f} ({good} to spare; other real images: {real:.3f}, first layer: "
        f"{first:.3f}, normal distribution: {normal:.3f}) for {spent:.0%} of the cost, at threshold {knob:g}",
    )


def normal_images(prepared: Prepared, like: Drawing) -> Tensor:
    """Return images drawn of a normal distribution with the mean and covariance of all training images.

    They have the brightness of each place, and how places go together, but no outlines.
    """
    x = torch.stack(list(prepared.data.train.inputs))
    values, vectors = torch.linalg.eigh(x.T.cov())
    return (x.mean(dim=0) + like.noise * values.clamp_min(0).sqrt() @ vectors.T).clamp(*like.span)


def no_images(over_first: Difference, over_normal: Difference) -> str:
    """Return why distances say nothing, or nothing: the whole network must draw what is clearly nearer to images than
    draws of a normal distribution are, and nearer than what its first layer draws by more than counts as as good.
    """
    if not over_normal.gains():
        return (
            "What the whole network draws is no nearer to real images than draws of a normal distribution with their "
            f"mean and covariance are ({over_normal})."
        )
    if not over_first.gains():
        return (
            "What the whole network draws is no nearer to real images than what its first layer draws, by the tenth "
            f"that may be lost and two standard errors (a tenth nearer by {over_first})."
        )
    return ""


def differing(exits: Tensor, layers: int) -> Outcome:
    """See how deep each step goes, by the exits ``[steps, N]`` of the images."""
    depth = exits.double().mean(dim=1) + 1
    return Outcome(
        name="depth differs between steps",
        statement="While images are drawn at this threshold, the mean exit of some step is a layer deeper than "
        "that of another.",
        holds=float(depth.max() - depth.min()) >= 1,
        measured=f"from layer {float(depth.min()):.2f} to {float(depth.max()):.2f} on average, of {layers}; "
        f"{float(depth[0]):.2f} in the first step and {float(depth[-1]):.2f} in the last",
    )


def told_plan(plan: Sequence[Policy | None]) -> str:
    """Say which layers answer, the first step first."""
    exits = [policy.exit + 1 for policy in plan if isinstance(policy, FixedExit)]
    return " then ".join(f"layer {exit_} in {exits.count(exit_)} steps" for exit_ in dict.fromkeys(exits))


def beside_rival(
    name: str, how: str, nearer: Difference, far: float, theirs: float, spent: float, share: float
) -> Outcome:
    """Compare with a rival that was chosen, on validation images, to cost as much or a little more."""
    return Outcome(
        name=name,
        statement="At the same threshold and no higher cost on validation images, images drawn of the same noise are "
        f"nearer to real ones, {BEYOND}. {DISTANCE}",
        holds=nearer.gains(),
        measured=f"distance {far:.3f} for {spent:.0%} of the cost; {theirs:.3f} for {share:.0%}: {how} (nearer by "
        f"{nearer})",
    )


def learned(prepared: Prepared, bench: Bench) -> Features:
    """Return the features, learned from the classes of the training images."""
    torch.manual_seed(bench.seed)
    data = prepared.data.without_test()
    features = Features(round(len(data.train.inputs[0]) ** 0.5))
    classes = MultiExit([features], [nn.Sequential(nn.ReLU(), nn.Linear(32, 10))])
    train_plain(classes, data, bench, epochs=3.0, batch=32, rate=3e-3)
    return features


def frechet(x: Tensor, y: Tensor, times: NDArray[np.int64] | None = None) -> float:
    """Return ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of features ``[N, d]`` and ``[M, d]``.

    ``times [N]`` says how often the same places of both are taken (M = N): once each if not given.
    """
    if times is not None:
        taken = torch.as_tensor(np.repeat(np.arange(len(times)), times))
        x, y = x[taken], y[taken]
    x, y = x.double(), y.double()
    C_x, C_y = x.T.cov(), y.T.cov()
    values = torch.linalg.eigvals(C_x @ C_y).real.clamp_min(0)
    found = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + C_x.trace() + C_y.trace() - 2 * values.sqrt().sum()
    return max(0.0, float(found))  # what is equal may come out next to it
