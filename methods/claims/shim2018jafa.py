"""What the paper claims: better than its baselines, both in what is predicted and in what the features cost.

The rivals acquire features in an order that does not look at the sample, and answer with a classifier of their own: a
network that reads the known values and which are known, with hidden layers as wide as those of JAFA's classifier. It is
trained for as many steps as JAFA, on as many states of the same rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.claims.paired import GAINS, KEEPS, over_samples
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.operating_points import mixture
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.engine.weights import trained
from eelit.methods.families.acquisition import Prepared
from eelit.methods.papers.shim2018jafa import CLASSIFIER, Jafa, mlp
from eelit.methods.recipes.fit import Batch, fit

GAIN = 0.01
"""Least accuracy that counts as better."""
LOSS = 0.02
"""Accuracy that may be lost where nothing is to be lost, two standard errors of the paired difference included: a
single point is less than these two errors on every table here."""
SHARES = tuple(i / 20 for i in range(3, 13))
"""Of all features, at which curves are compared: 15 to 60 per cent."""
LOOKED_AT = 1000
"""Rows, at most, with which an order is found."""
Masks = Callable[[int], Tensor]
"""From a number of rows to which features are known of each, ``[n, d]``, as a classifier meets them in training."""
Order = Callable[[int], Tensor]
"""From a number of rows to all features ``[n, d]`` of each, in the order in which they are acquired."""


class Masked(nn.Module):
    """A classifier of rows of which some features are known."""

    def __init__(self, features: int, classes: int) -> None:
        super().__init__()
        self.layers = mlp(2 * features, *CLASSIFIER, classes)

    def forward(self, x: Tensor, known: Tensor) -> Tensor:
        """Return logits ``[n, C]`` of rows ``[n, d]``; what is not ``known`` is not read."""
        found: Tensor = self.layers(torch.cat([x.masked_fill(~known, 0.0), known.to(x.dtype)], dim=-1))
        return found


@dataclass(frozen=True)
class Rival:
    """A classifier of its own, and the order in which features are acquired for it."""

    name: str
    classifier: Masked
    order: Order


def claims(method: Jafa, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Better than features in an order that does not look at the sample; and sparing."""
    ours = right_of_agent(method, prepared, "test")
    found = [sparing(curve, ours)]
    for rival in rivals(method, prepared.data.without_test(), bench):
        theirs = [right_in_order(prepared, rival, split) for split in ("validation", "test")]
        found.append(better(rival.name, (curve.validation, ours), (points(theirs[0]), theirs[1])))
    return found


def rivals(method: Jafa, data: Data, bench: Bench) -> list[Rival]:
    """Return three of them, trained: the last one's order is drawn anew for each row."""
    d = len(data.train.inputs[0])
    any_subset = fitted(method, data, bench, prefixes(random_order(d)))
    found = []
    for name, order in (
        ("features by mutual information", by_information(data.train)),
        ("features chosen one by one", greedy_order(any_subset, data.validation)),
    ):
        fixed = always(order)
        found.append(Rival(name, fitted(method, data, bench, prefixes(fixed)), fixed))
    return [*found, Rival("random orders", any_subset, random_order(d))]


def fitted(method: Jafa, data: Data, bench: Bench, masks: Masks) -> Masked:
    """Return a classifier trained for as long as JAFA: five states of each row of a batch, as in its joint training."""
    torch.manual_seed(bench.seed)
    rows, copies, steps = data.train, method.steps + 1, method.first + method.updates
    model = Masked(len(rows.inputs[0]), data.classes or 0)
    options: dict[str, Any] = {"batch": method.envs, "rate": method.rate}
    epochs = steps / -(-len(rows) // method.envs)

    def loss(batch: Batch) -> Tensor:
        x, y = batch.inputs.repeat(copies, 1), batch.targets.repeat(copies)
        return F.cross_entropy(model(x, masks(len(x))), y)

    def learn() -> None:
        fit(
            model.parameters(), rows, loss, bench, label="training a rival", epochs=epochs,
            optimiser=torch.optim.Adam, **options,
        )  # fmt: skip

    trained(model, learn, bench, data=data.digest, settings={"steps": steps, "copies": copies, **options})
    return model.eval()


def always(order: Tensor) -> Order:
    """Return the same order ``[d]`` for all rows."""
    return lambda n: order.expand(n, len(order))


def random_order(d: int) -> Order:
    """Return orders drawn for each row anew, from torch's seed."""
    return lambda n: torch.rand(n, d).argsort(dim=1)


def prefixes(order: Order) -> Masks:
    """Return that of each row the first 1 … d features of an order are known, all numbers being as likely."""

    def masks(n: int) -> Tensor:
        which = order(n)
        d = which.shape[1]
        early = torch.arange(d) < torch.randint(1, d + 1, (n, 1))
        return torch.zeros(n, d, dtype=torch.bool).scatter(1, which, early)

    return masks


def by_information(rows: Examples) -> Tensor:
    """Return all features ``[d]``, those first that by themselves tell most of the class on training rows."""
    from sklearn.feature_selection import mutual_info_classif

    some = rows.head(LOOKED_AT)
    told = mutual_info_classif(torch.stack([*some.inputs]).numpy(), some.targets.numpy(), random_state=0)
    return torch.as_tensor(np.argsort(-told, kind="stable").copy())


@torch.inference_mode()
def greedy_order(classifier: Masked, rows: Examples) -> Tensor:
    """Return all features ``[d]``, each the one that helps the classifier most beside those before it."""
    some = rows.head(LOOKED_AT)
    x, y = torch.stack([*some.inputs]), some.targets
    known, order = torch.zeros_like(x, dtype=torch.bool), list[int]()
    for _ in range(x.shape[1]):
        losses = {}
        for j in sorted({*range(x.shape[1])} - {*order}):
            known[:, j] = True
            losses[j] = float(F.cross_entropy(classifier(x, known), y))
            known[:, j] = False
        order.append(min(losses, key=lambda j: losses[j]))
        known[:, order[-1]] = True
    return torch.tensor(order)


def right_of_agent(method: Jafa, prepared: Prepared, split: Split) -> NDArray[np.float64]:
    """Return for each knob which rows ``[knobs, n]`` are answered right, 1 or 0."""
    seen = prepared.split(split)
    every = [seen.at(replay(method.rule(knob, prepared), seen.outputs)) for knob in method.knobs]
    return np.stack([(answers.argmax(dim=-1) == seen.targets).double().numpy() for answers in every])


@torch.inference_mode()
def right_in_order(prepared: Prepared, rival: Rival, split: Split) -> NDArray[np.float64]:
    """Return for 1 … d features which rows ``[d, n]`` the rival answers right, 1 or 0."""
    seen = prepared.split(split)
    x = torch.stack([*seen.examples.inputs])
    torch.manual_seed(prepared.bench.seed)
    which, known, found = rival.order(len(x)), torch.zeros_like(x, dtype=torch.bool), []
    for t in range(x.shape[1]):
        known[torch.arange(len(x)), which[:, t]] = True
        found.append((rival.classifier(x, known).argmax(dim=-1) == seen.targets).double().numpy())
    return np.stack(found)


def points(right: NDArray[np.float64]) -> list[OperatingPoint]:
    """Return what 1 … d features cost and reach, from which rows ``[d, n]`` are answered right."""
    d = len(right)
    return [
        OperatingPoint(knob=t, quality=float(row.mean()), cost=t, speed_up=d / t, exits=[1.0])
        for t, row in enumerate(right, 1)
    ]


Side = tuple[list[OperatingPoint], NDArray[np.float64]]
"""Settings measured on validation data, and which test rows ``[settings, n]`` each of them answers right."""


def better(name: str, ours: Side, theirs: Side) -> Outcome:
    """Compare at equal cost, settings of both chosen on validation data, on the same test rows."""
    gaps = []
    for share in SHARES:
        mine, other = mixture(ours[0], share), mixture(theirs[0], share)
        if mine and other:
            gaps.append(mine.of(ours[1]) - other.of(theirs[1]))
    gain = over_samples(np.mean(gaps, axis=0) if gaps else np.zeros(ours[1].shape[1]))
    return Outcome(
        name=f"better than {name}",
        statement=f"Accuracy is on average {GAIN} above that of {name}, with a classifier of their own that is trained "
        f"for as long, at {len(SHARES)} costs from {SHARES[0]:.0%} to {SHARES[-1]:.0%} of all features, {GAINS}.",
        holds=gain.gains(GAIN),
        measured=f"{gain} on average, above at {sum(gap.mean() > 0 for gap in gaps)} of {len(gaps)}",
    )


def sparing(curve: Curve, right: NDArray[np.float64]) -> Outcome:
    """Try the paper's own rule, which stops of itself, early, and loses little; ``right`` is of each knob and row."""
    own = next(i for i, point in enumerate(curve.test) if point.knob == 0)
    point = curve.test[own]
    share, loss = point.cost / curve.full_cost, over_samples(right[own], right[-1])
    return Outcome(
        name="half of the features suffice",
        statement=f"By its own values the agent acquires half of the features at most, and accuracy is at most {LOSS} "
        f"below that with all features, {KEEPS}.",
        holds=share <= 0.5 and loss.keeps(LOSS),
        measured=f"{share:.0%} of the features, accuracy {point.quality:.4f} instead of {curve.full_quality:.4f} "
        f"({loss})",
        not_comparable=nothing_to_lose(curve, LOSS),
    )
