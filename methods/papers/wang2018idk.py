"""IDK Cascades: Fast Deep Learning by Learning not to Overthink (IDK cascades).

Idea
    Existing models are not changed. They run in order of cost, and all but the last may answer "I don't know". Whether
    a model knows is decided by an augmenting classifier that reads only its probabilities: a threshold on a score, or a
    tiny network trained on the cost of wrong answers and of further models. So any models can be chained.

Model
    Separate models m_1 … m_k, from cheap to costly: a linear model and a forest, which read means over 4×4
    pixels, a small plain network of convolutions, and a large residual one. p_i = m_i(x) are class probabilities.
    h_i(p_i) in [0, 1], i < k, says how likely m_i does not know:
    entropy:      H(p_i) > alpha_i,   H(p) = - sum_j p_j ln p_j;
    probability:  max_j p_ij < alpha_i;
    neural:       h_i = sigmoid(v . relu(W p_i + b) + a) > alpha_i, with alpha_i = 1/2 if it learned what costs are.

Training
    Stages 1 and 2: the networks, each by its own cross-entropy; the linear model and the forest are fitted. Then all of
    them are frozen, and what follows sees the calibration images alone, half of those for validation:
    cost-oblivious:  sum_i BCE(h_i, 1[m_i is wrong]);
    cost-aware:      J = mean of L + lambda C,  L = sum_i r_i (1 - h_i) CE(y, m_i),  C = sum_i r_i c_i,
    with r_1 = 1, r_{i+1} = r_i h_i the probability of reaching m_{i+1}, h_k = 0, and c_i the cost of m_i as a share of
    m_k's. Search on the same images, over all points of a grid (alpha_1 … alpha_{k-1}; cost-aware: lambda): least mean
    cost subject to  accuracy of the cascade >= (1 - eps) accuracy of m_k.  For k = 2 that is the least share of images
    that m_1 does not know, since the cost is c_1 + share · c_2.

Exit rule
    Answer with the first m_i that knows: H(p_i) <= alpha_i, max_j p_ij >= alpha_i, or h_i <= alpha_i; else with m_k.
    The knob is eps: at 1 the first model answers, below what any grid point reaches (minus infinity) only the last.

Skipped
    All models after the one that answers. An image pays for each model that it has met.

Trained otherwise
    Each of the two networks learns for the epochs that all rows have, and augmenting networks for thirty passes over
    1,000 calibration images, anew for each of 74 prices: separate models, which are then left alone, are what the paper
    is about.

Deviations
    1. Only abstracts and notes by others on the full text could be read. They describe that h reads only probabilities,
       both thresholds, the constraint, the decision at 1/2 and L + lambda C. The soft form of L and C for any k, the
       network's size and the grids are reconstructed.
    2. Cluttered Fashion-MNIST and four members of three kinds, trained here, instead of pairs of trained networks on
       ImageNet and CIFAR and of a network and a person on driving videos.
    3. For more than two models the search minimises the mean cost, jointly over all stages, as no single share of
       unknown images says what is spent.
    4. The paper's grids are not known. Thresholds are evenly spaced in the ranks of the values on calibration images,
       and include both ends: 4,096 combinations for three stages. Prices are 0 and 73 that rise by 8 % each, as gates
       change from sending most images on to sending few within a tenth of a price; each has gates of its own.
    5. Costs are multiply-accumulates, a comparison in the forest counting as one of them; adding up what its trees
       answer, about 2,000 additions for an image, is not counted. Those of the augmenting networks are counted where
       these run, though the search leaves them out, as J does.
    6. For cost-oblivious networks the search chooses alpha_i, too, which is 1/2 in the paper: so all four ways to build
       a cascade satisfy the same constraint.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import trained
from eelit.methods.families.cascades import Prepared
from eelit.methods.families.image_cascades import ImageCascadeMethod
from eelit.methods.policies.base import Policy, checked, entropy, on_host, softmax
from eelit.methods.policies.dont_know import DontKnow, Gate
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import losses_of

Numbers = NDArray[np.float64]


class Augmenting(nn.ModuleList):
    """The networks h_1 … h_{k-1}."""

    def __init__(self, stages: int, classes: int, hidden: int) -> None:
        layers = [(nn.Linear(classes, hidden), nn.ReLU(), nn.Linear(hidden, 1)) for _ in range(stages)]
        super().__init__(nn.Sequential(*each) for each in layers)

    def forward(self, p: Tensor) -> Tensor:
        """Return the logits of h ``[k - 1, n]`` from probabilities ``[n, k - 1, C]``."""
        return torch.stack([h(p_i).squeeze(-1) for h, p_i in zip(self, p.unbind(dim=1), strict=True)])

    def gates(self) -> tuple[Gate, ...]:
        """Return the weights as numbers."""
        found: list[Gate] = []
        for h in self:
            first, _, last = cast("tuple[nn.Linear, nn.ReLU, nn.Linear]", tuple(cast(nn.Sequential, h)))
            W, b = first.weight.tolist(), first.bias.tolist()
            found.append((W, b, last.weight[0].tolist(), last.bias.item()))
        return tuple(found)


def oblivious_loss(h: Tensor, wrong: Tensor) -> Tensor:
    """Return ``sum_i BCE(h_i, 1[m_i is wrong])`` from the logits of h and who is wrong, ``[k - 1, n]`` both."""
    return F.binary_cross_entropy_with_logits(h, wrong, reduction="none").mean(dim=1).sum()


def aware_loss(h: Tensor, ce: Tensor, c: Tensor, lam: float) -> Tensor:
    """Return J from the logits of h ``[k - 1, n]``, ``CE(y, m_i)`` and c_i ``[k, n]``."""
    r, L, C = torch.ones_like(ce[0]), torch.zeros_like(ce[0]), torch.zeros_like(ce[0])
    for h_i, ce_i, c_i in zip([*h.sigmoid(), torch.zeros_like(r)], ce, c, strict=True):
        L, C, r = L + r * (1 - h_i) * ce_i, C + r * c_i, r * h_i
    return (L + lam * C).mean()


def train_augmenting(
    h: Augmenting, z: Tensor, y: Tensor, c: Tensor, lam: float | None, bench: Bench, **options: Any
) -> None:
    """Train h on what frozen models say of calibration images, logits ``[k, N, C]``, and on costs c_i ``[k, N]``.

    Without a price ``lam`` they learn cost-obliviously; ``options`` are those of `fit`.
    """
    p, ce, wrong = softmax(z[:-1]), losses_of(z, y), (z.argmax(dim=-1) != y).float()

    def loss(batch: Batch) -> Tensor:
        said, rows = h(batch.inputs), batch.index
        return oblivious_loss(said, wrong[:-1, rows]) if lam is None else aware_loss(said, ce[:, rows], c[:, rows], lam)

    def train() -> None:
        label = f"training augmenting classifiers{'' if lam is None else f' at the price {lam:g}'}"
        fit(h.parameters(), Examples(list(p.transpose(0, 1)), y), loss, bench, label=label, **options)

    trained(h, train, bench, data="", settings={"lam": lam, **options})


class Search(NamedTuple):
    """What the points of a grid reach on calibration images."""

    points: list[Any]  # alpha_1 … alpha_{k-1} of each, or its lambda
    accuracy: Numbers  # [points]
    cost: Numbers  # [points], mean over images
    full: float  # accuracy of m_k

    def cheapest(self, eps: float) -> int | None:
        """Return the number of the cheapest point that keeps ``(1 - eps) full``, of several the most accurate."""
        good = np.flatnonzero(self.accuracy >= (1 - eps) * self.full - 1e-12)
        return int(min(good, key=lambda i: (self.cost[i], -self.accuracy[i]))) if len(good) else None


def reached(unknown: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which models each image comes to ``[k, N]``, given which of the first k - 1 do not know ``[k - 1, N]``."""
    return np.concatenate([np.ones_like(unknown[:1]), np.logical_and.accumulate(unknown)])


def outcome(unknown: NDArray[np.bool_], right: NDArray[np.bool_], c: Numbers) -> tuple[float, float]:
    """Return accuracy and mean cost of a cascade, given who is right and what each costs, ``[k, N]`` both."""
    comes = reached(unknown)
    answers = comes & ~np.concatenate([unknown, np.zeros_like(unknown[:1])])
    return float((answers & right).sum(axis=0).mean()), float((comes * c).sum(axis=0).mean())


def levels(doubt: Numbers, points: int) -> Numbers:
    """Return alpha of one stage: between what is seen ``[N]``, evenly in rank, with the ends that know all and none."""
    seen = np.unique(doubt)
    between = (seen[1:] + seen[:-1]) / 2
    ranks = np.linspace(0, len(between) - 1, min(points, len(between))).round().astype(np.int64)
    return np.array([-math.inf, *between[ranks], math.inf])


def grid_search(doubt: Numbers, right: NDArray[np.bool_], c: Numbers, points: int) -> Search:
    """Try all combinations of `levels`, of doubts ``[k - 1, N]``: a model does not know where its doubt is larger."""
    grid = list(product(*(levels(each, points) for each in doubt)))
    found = [outcome(doubt > np.array(alpha)[:, None], right, c) for alpha in grid]
    accuracy, cost = np.array(found).T
    return Search(grid, accuracy, cost, float(right[-1].mean()))


@dataclass(frozen=True)
class IdkCascade(ImageCascadeMethod):
    """Models that may say that they do not know."""

    augment: str = "neural"  # what tells that a model does not know: neural, entropy or probability
    aware: bool = True  # whether augmenting networks learn what further models cost
    hidden: int = 16  # units of an augmenting network; the paper's are not known
    gate_epochs: float = 30.0  # passes that train it; the paper's are not known
    gate_rate: float = 1e-2  # largest learning rate there; the paper's is not known
    prices: tuple[float, ...] = (
        *(0.0, *(round(0.03 * 1.08**step, 4) for step in range(73))),
    )  # lambda, in nats for what m_k costs, up to 7.6; the paper's are not known
    points: int = 14  # levels of each stage on the grid of alpha, beside its ends; the paper's are not known
    members: tuple[str, ...] = ("linear", "forest", "small", "large")  # the paper: pairs and triples of networks
    images: str = "cluttered"  # data; the paper: ImageNet, CIFAR-10, driving videos
    train_size: int = 6000  # training images; the paper takes models that are trained
    window: int = 4  # side of the squares of pixels that the linear model and the forest take the mean of
    trees: int = 200  # in the forest
    depth: int = 12  # most comparisons on a path through one of them
    comparison: float = 1.0  # multiply-accumulates that a comparison counts as
    small_widths: tuple[int, ...] = (128, 256)  # channels of the small network: a fifth of the large one's cost
    pixels: int = 4  # side of the square of pixels that the first convolution of either network sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of the large network
    blocks: int = 3  # its residual blocks of each width
    half: bool = True  # whether it learns with products in bfloat16
    epochs: float = 2.0  # passes that train each network
    batch: int = 32  # images of a step, of augmenting networks too
    rate: float = 2e-3  # largest learning rate of the networks

    fits_on: ClassVar[float] = 0.5  # of the validation images: for calibration; eps is judged on the others
    knob: ClassVar[str] = "accuracy loss"
    knobs: ClassVar[tuple[float, ...]] = (1.0, 0.7, 0.5, 0.3, 0.2, 0.15, 0.1, 0.06, 0.03, 0.01, 0.0, -math.inf)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cost-aware": {},
        "cost-oblivious": {"aware": False},
        "entropy": {"augment": "entropy"},
        "probability": {"augment": "probability"},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageCascadeMethod.tiny, "gate_epochs": 40.0, "points": 10,
        "prices": (0.0, 0.4, 0.55, 0.7, 0.76, 0.78, 0.8, 3.0),
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **ImageCascadeMethod.smoke, "gate_epochs": 15.0, "prices": (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 2.0),
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {**ImageCascadeMethod.others, "prices": (0.0, 0.4)}
    exempt: ClassVar[Mapping[str, str]] = {
        "cost_is_monotone": "a point is chosen for each eps, with thresholds of all stages or networks of its own: on "
        "calibration images the costlier one costs more, on others it may cost less",
    }

    def build(self, data: Data, seed: int) -> Cascade:
        """The models, and augmenting networks: a set for each price, one if they know no costs."""
        if self.augment not in ("neural", "entropy", "probability"):
            raise ValueError(f"no augmenting by {self.augment!r}; there are neural, entropy and probability")
        if len(self.members) < 2:
            raise ValueError(f"a model that does not know asks another: {len(self.members)} are too few members")
        for lam in self.prices:
            checked("IdkCascade", "each of the prices", lam, least=0, finite=True)
        checked("IdkCascade", "hidden", self.hidden, whole=True, least=1)
        checked("IdkCascade", "points", self.points, whole=True, least=0)
        model = super().build(data, seed)
        sets = (len(self.prices) if self.aware else 1) if self.augment == "neural" else 0
        torch.manual_seed(seed)
        model.augmenting = nn.ModuleList(
            Augmenting(len(self.members) - 1, data.classes or 1, self.hidden) for _ in range(sets)
        )
        return model

    def train(self, model: Cascade, data: Data, bench: Bench) -> None:
        """Train the models, then augmenting networks on calibration images, where there are any."""
        super().train(model, data, bench)
        if not len(sets := augmenting(model)):
            return
        held = parted(data.validation, {"fitting": self.fits_on})["fitting"]
        frozen = self.deployed(model)
        z, c = frozen.outputs(held, bench, "fitting").clone(), torch.from_numpy(frozen.costs(held)).float()
        options = {"epochs": self.gate_epochs, "batch": self.batch, "rate": self.gate_rate}
        for h, lam in zip(sets, self.prices if self.aware else (None,), strict=True):
            train_augmenting(h, z, held.targets, c / c[-1].mean(), lam, bench, **options)

    def fit(self, prepared: Prepared) -> Search:
        """What every point of the grid reaches on calibration images, whatever eps."""
        seen = prepared.split("fitting")
        right = (seen.outputs.argmax(dim=-1) == seen.targets).numpy()
        p, c = softmax(seen.outputs[:-1]).transpose(0, 1), seen.static_costs
        if self.augment != "neural":
            doubts = [entropy(z) if self.augment == "entropy" else -softmax(z).amax(dim=-1) for z in seen.outputs[:-1]]
            return grid_search(on_host(torch.stack(doubts)), right, c, self.points)
        with torch.no_grad():
            h = [each(p).sigmoid() for each in augmenting(prepared.model)]
        if not self.aware:
            return grid_search(on_host(h[0]), right, c, self.points)
        unknown = [np.zeros_like(right[:-1]), *(on_host(each) > 0.5 for each in h), np.ones_like(right[:-1])]
        accuracy, cost = np.array([outcome(each, right, c) for each in unknown]).T
        return Search([math.inf, *self.prices, -math.inf], accuracy, cost, float(right[-1].mean()))

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """The knob is eps."""
        search: Search = prepared.fitted
        found, last = search.cheapest(knob), len(prepared.model) - 1
        if found is None:
            return FixedExit(last)
        return self.rule_at(search.points[found], augmenting(prepared.model), last)

    def rule_at(self, point: Any, sets: Sequence[Augmenting], last: int) -> Policy:
        """Return the rule that a point of the grid stands for."""
        if self.augment == "entropy":  # whose policy stops strictly below a threshold
            return Entropy([math.nextafter(alpha, math.inf) for alpha in point])
        if self.augment == "probability":
            return MaxConfidence([-alpha for alpha in point])
        if not self.aware:
            return DontKnow(sets[0].gates(), [min(max(alpha, 0.0), 1.0) for alpha in point])
        if math.isinf(point):
            return FixedExit(0 if point > 0 else last)
        return DontKnow(sets[self.prices.index(point)].gates())


def augmenting(model: Cascade) -> Sequence[Augmenting]:
    """Return the sets of augmenting networks of a cascade."""
    return cast(Sequence[Augmenting], model.augmenting)
