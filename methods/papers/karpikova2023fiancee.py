"""FIANCEE: Faster Inference of Adversarial Networks via Conditional Early Exits (FIANCEE).

Idea
    An image generator spends as much computation on a simple image as on a complex one, and a finished image has no
    confidence that could be tested. So light branches generate images from early maps of a trained generator, guided by
    an image that is looked up in a database of training images. A predictor estimates from the input how far each
    branch's image would be from the whole generator's. The user sets the allowed distance, and the first branch within
    it is run.

Model
    Modules l_1 … l_n (n = 4), each with twice the side of the one before: x_i = l_i(x_{i-1}, m), where m is the
    semantic map and x_0 the map at the coarsest side; y_n = tanh(conv(relu(x_n))).
    l_i(x, m) = conv_{1×1}(x) + conv(relu(conv(relu(spade(x, m))))), convolutions 3×3,
    spade(x, m) = (1 + gamma(m)) * norm(x) + beta(m), gamma and beta linear in m at each place, norm over channels and
    places of one image.
    Branch j < n:  y_j = B_j([x_j, G]): modules lt_{j+1} … lt_n of the same form and sides, channels divided by SF_j;
    the first of them reads G, made as small as its map, beside x_j. G is the image whose key, its own x_1, is nearest
    to x_1 (Euclidean distance) in a database of D images.
    P(m): two convolutions of stride 2 and two linear layers, softplus: qhat_1 … qhat_{n-1} >= 0.

Training
    d(y, z): mean over two kinds of maps phi of a frozen network, and over their places, of |phi(y) - phi(z)|², each
    place's phi of length 1.
    1. Generator, real picture y:  L = a d(y_n, y) + b |y_n - y|_1 + c L_GAN(y_n).
    2. It is frozen, and the database filled with the first D training images; on the others all branches together:
       L = sum_j a d(y_j, y_n) + b |y_j - y_n|_1 + c L_GAN(y_j).
    3. All that is frozen; on the same others P:  L = mean (P(m)_j - q_j)²,  q_j = d(y_j, y_n).
    L_GAN(y) = -mean D(m, y); each of 1. and 2. has a discriminator D of its own, over 4×4 … places, that makes a step
    of Adam before each: mean max(0, 1 - D(m, real)) + mean max(0, 1 + D(m, y)), the mean over all branches in 2.

Exit rule
    j* = min {j : P(m)_j <= T}, n if there is none; decided before the generator runs. T = inf takes the first branch
    for all inputs, T < 0 the whole generator.

Skipped
    The generator's modules after l_{j*}, and all branches but B_{j*}. The predictor is run for every map; the look-up,
    D · (size of x_1) products, where a branch is.

Deviations
    1. The paper could not be read. The abstract, the caption of its first figure and a review describe modules and
       lighter branches of differing depth, the small database queried by the first layers, the predictor and the
       threshold. Losses, widths, what the database holds, how G enters and P's loss are reconstructed. The caption
       mentions an auxiliary image, the review guiding features: here it is the image.
    2. Twemoji drawings of 32×32 pixels with maps of eight kinds of colour at 16×16 instead of Cityscapes with OASIS,
       and no faces with MegaPortraits. The generator is trained here, in minutes, and so small that l_1 takes a
       hundredth of it. It adds no noise, so each map gives one image.
    3. d stands for LPIPS: maps of EfficientNet-Lite0, trained on ImageNet, without the weights that LPIPS has learned
       from people's judgements. So numbers of T are not the paper's.
    4. SF_j differs: the earlier the branch, the lighter.
    5. No image of the database is among those on which branches and predictor are trained: each would retrieve itself.
    6. The discriminator is a small one of hinge loss, not OASIS's, which classifies each place.
    7. T = 0.1 is the paper's; here a threshold is chosen on validation drawings.
    8. T limits the distance from the whole generator's picture, as in the paper, and the claims measure that. The
       measured curve shows something else, 1 less the distance d from the real drawing, by the same features of
       EfficientNet-Lite0: otherwise the whole generator would be perfect by definition.
    9. The predictor does hardly 5 % better than a fixed exit of equal cost: on 450 test drawings, with seed 0, what is
       gained beyond these 5 % was +0.0061 ± 0.0019 on one processor, and on another +0.0031 ± 0.0019, within two
       standard errors.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones import efficientnet
from eelit.methods.backbones.normalisation import folded
from eelit.methods.data import drawings
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Mean, Score
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.engine.records import Chance
from eelit.methods.engine.timing import BATCH
from eelit.methods.engine.weights import trained
from eelit.methods.families.exit_prediction import ExitPredictionMethod, PredictedExits, Prepared, Rule
from eelit.methods.policies.base import checked, exact
from eelit.methods.recipes.fit import Batch, fit

READ = ((0, 2), (2, 4))
"""Units of EfficientNet-Lite0 behind which pictures are compared: the last of its maps of a half and a quarter side."""
STARTS_AT = -3.0
"""What P's last linear layer adds before training: it then foretells about 0.05."""

State = tuple[Tensor, Tensor, Tensor]
"""m ``[N, K, h, h]``, x_i, and x_1."""


def resized(x: Tensor, side: int) -> Tensor:
    """Return square maps ``[N, C, h, h]`` of another side: means over places, or places repeated."""
    here = x.shape[-1]
    if side < here:
        return F.avg_pool2d(x, here // side)
    return F.interpolate(x, scale_factor=side // here) if side > here else x


class Spade(nn.Module):
    """spade: what a map says at a place scales and shifts the channels there."""

    def __init__(self, channels: int, read: int) -> None:
        super().__init__()
        self.both = nn.Conv2d(read, 2 * channels, 1)

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Map ``[N, C, H, H]`` to the same, with a map ``[N, read, h, h]`` of any side."""
        gamma, beta = self.both(resized(m, x.shape[-1])).chunk(2, dim=1)
        return (1 + gamma) * F.group_norm(x, 1) + beta


class Module(nn.Module):
    """l_i, or lt_i: a residual block that reads a map."""

    def __init__(self, inputs: int, outputs: int, read: int) -> None:
        super().__init__()
        self.spade, self.short = Spade(inputs, read), nn.Conv2d(inputs, outputs, 1)
        self.one, self.two = (nn.Conv2d(size, outputs, 3, padding=1) for size in (inputs, outputs))

    def forward(self, x: Tensor, m: Tensor) -> Tensor:
        """Map ``[N, inputs, H, H]`` to ``[N, outputs, H, H]``."""
        out: Tensor = self.short(x) + self.two(self.one(self.spade(x, m).relu()).relu())
        return out


class Stage(nn.Module):
    """l_i within the generator: the first starts from the map, the others from twice the side of what was before."""

    def __init__(self, inputs: int, outputs: int, kinds: int, side: int) -> None:
        super().__init__()
        self.module, self.side = Module(inputs, outputs, kinds), side

    def forward(self, state: Tensor | State) -> State:
        """Map the state before the module, or maps ``[N, K, h, h]``, to the state behind it."""
        if isinstance(state, Tensor):
            x = self.module(resized(state, self.side), state)
            return state, x, x
        m, x, x_1 = state
        return m, self.module(resized(x, self.side), m), x_1


class Drawn(nn.Sequential):
    """The picture in a map, from -1 to 1."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__(nn.ReLU(), nn.Conv2d(inputs, channels, 3, padding=1), nn.Tanh())


class Whole(nn.Module):
    """The head of the whole network: it draws the picture y_n from the last state."""

    def __init__(self, inputs: int, channels: int) -> None:
        super().__init__()
        self.drawn = Drawn(inputs, channels)

    def forward(self, state: State) -> Tensor:
        """Map the state after l_n to pictures ``[N, C, side, side]``."""
        y: Tensor = self.drawn(state[1])
        return y


class Database(nn.Module):
    """Pictures, the x_1 of each as its key; the nearest key answers."""

    keys: Tensor
    halves: Tensor
    pictures: Tensor

    def __init__(self, size: int, key: int, picture: Sequence[int]) -> None:
        super().__init__()
        self.register_buffer("keys", torch.zeros(size, key))
        self.register_buffer("halves", torch.zeros(size))
        self.register_buffer("pictures", torch.zeros(size, *picture))

    def fill(self, x_1: Tensor, pictures: Tensor) -> None:
        """Keep pictures ``[D, C, side, side]`` under their x_1."""
        self.keys.copy_(x_1.flatten(1))
        self.halves.copy_((self.keys**2).sum(dim=1) / 2)
        self.pictures.copy_(pictures)

    def forward(self, x_1: Tensor) -> Tensor:
        """Return G ``[N, C, side, side]``: |k - x_1| is least where <k, x_1> - |k|² / 2 is largest."""
        return self.pictures[F.linear(x_1.flatten(1), self.keys, -self.halves).argmax(dim=1)]


class Branch(nn.Module):
    """B_j with the look-up; without a database no G is read."""

    def __init__(
        self, widths: Sequence[int], sides: Sequence[int], kinds: int, channels: int, database: Database | None
    ) -> None:
        super().__init__()
        more = 0 if database is None else channels
        self.lighter = nn.ModuleList([Module(a, b, kinds) for a, b in pairwise([widths[0] + more, *widths[1:]])])
        self.sides, self.drawn, self.database = tuple(sides), Drawn(widths[-1], channels), database

    def forward(self, state: State) -> Tensor:
        """Map the state after l_j to y_j ``[N, C, side, side]``."""
        m, x, x_1 = state
        x = resized(x, self.sides[0])
        if self.database is not None:
            x = torch.cat([x, resized(self.database(x_1), self.sides[0])], dim=1)
        for side, module in zip(self.sides, self.lighter, strict=True):
            x = module(resized(x, side), m)
        y: Tensor = self.drawn(x)
        return y


class Predictor(nn.Sequential):
    """P: qhat ``[N, n - 1]`` of maps ``[N, K, h, h]``."""

    def __init__(self, kinds: int, places: int, width: int, branches: int) -> None:
        left = math.ceil(places / 4)
        last = nn.Linear(2 * width, branches)
        nn.init.constant_(last.bias, STARTS_AT)
        super().__init__(
            *(nn.Conv2d(kinds, width, 3, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(2 * width * left**2, 2 * width), nn.ReLU(), last, nn.Softplus()),
        )


class Features(nn.Module):
    """phi: EfficientNet-Lite0, which knows pictures from -1 to 1, or random convolutions for tests."""

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        if widths:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                convs = [nn.Conv2d(a, b, 3, 1 + (a != channels), 1) for a, b in pairwise([channels, *widths])]
            parts = [nn.Sequential(conv, nn.ReLU()) for conv in convs]
        else:
            units = [*folded(efficientnet.pretrained())]
            parts = [nn.Sequential(*units[a:b]) for a, b in READ]
        self.parts = nn.ModuleList(parts)
        self.requires_grad_(False).eval()

    def forward(self, y: Tensor) -> list[Tensor]:
        """Return the maps, each place of length 1."""
        found: list[Tensor] = []
        for part in self.parts:
            y = part(y)
            found.append(F.normalize(y, dim=1))
        return found

    def distance(self, y: Tensor, z: Tensor) -> Tensor:
        """Return d ``[N]`` of pictures ``[N, C, side, side]`` from others."""
        return self.between(self(y), self(z))

    @staticmethod
    def between(y: Sequence[Tensor], z: Sequence[Tensor]) -> Tensor:
        """Return d ``[N]`` of pictures whose maps these are."""
        each = [((a - b) ** 2).sum(dim=1).mean(dim=(1, 2)) for a, b in zip(y, z, strict=True)]
        return torch.stack(each).mean(dim=0)


@cache
def features_of(widths: tuple[int, ...], channels: int) -> Features:
    """Return the feature extractor phi for these widths and input channels; the same one at every call."""
    return Features(widths, channels)


class Discriminator(nn.Sequential):
    """D: how real a picture with its map looks, place by place."""

    def __init__(self, inputs: int, width: int) -> None:
        first, second = nn.Conv2d(inputs, width, 4, 2, 1), nn.Conv2d(width, 2 * width, 4, 2, 1)
        super().__init__(first, nn.LeakyReLU(0.2), second, nn.LeakyReLU(0.2), nn.Conv2d(2 * width, 1, 3, 1, 1))

    def of(self, m: Tensor, y: Tensor) -> Tensor:
        """Judge pictures ``[N, C, side, side]`` of maps."""
        found: Tensor = self(torch.cat([resized(m, y.shape[-1]), y], dim=1))
        return found

    def loss(self, m: Tensor, real: Tensor, fakes: Sequence[Tensor]) -> Tensor:
        """Return the hinge loss, the fakes being those of one or more exits."""
        made = torch.stack([F.relu(1 + self.of(m, y.detach())).mean() for y in fakes])
        return F.relu(1 - self.of(m, real)).mean() + made.mean()


class Terms(NamedTuple):
    """What the terms of the loss weigh, and the discriminator's width and rate."""

    a: float
    b: float
    c: float
    width: int
    rate: float

    def near(self, features: Features, fakes: Sequence[Tensor], z: Tensor) -> Tensor:
        """Return the sum over the fakes y of ``a d(y, z) + b |y - z|_1``, means over pictures."""
        phi = features(z)
        each = [self.a * features.between(features(y), phi).mean() + self.b * (y - z).abs().mean() for y in fakes]
        return torch.stack(each).sum()

    def discriminator(self, data: Examples, beside: nn.Module, seed: int) -> tuple[Discriminator, torch.optim.Adam]:
        """Return D for such pictures, where the generator is, and what trains it."""
        torch.manual_seed(seed)
        D = Discriminator(data.inputs[0].shape[0] + data.targets.shape[1], self.width).to(device_of(beside))
        return D, torch.optim.Adam(D.parameters(), lr=self.rate, betas=(0.5, 0.999))

    def looks(self, D: Discriminator, adam: torch.optim.Adam, batch: Batch, fakes: Sequence[Tensor]) -> Tensor:
        """Make a step of D, and return ``c`` times the sum of L_GAN over the fakes."""
        adam.zero_grad()
        D.loss(batch.inputs, batch.targets, fakes).backward()
        adam.step()
        return -self.c * torch.stack([D.of(batch.inputs, y).mean() for y in fakes]).sum()


def train_generator(
    plain: nn.Module, data: Data, bench: Bench, features: Features, terms: Terms, **options: Any
) -> None:
    """Train the generator by itself; ``options`` are those of `fit`."""

    def train() -> None:
        D, adam = terms.discriminator(data.train, plain, bench.seed)

        def loss(batch: Batch) -> Tensor:
            y_n = plain(batch.inputs)
            return terms.near(features, [y_n], batch.targets) + terms.looks(D, adam, batch, [y_n])

        plain.train()
        fit(plain.parameters(), data.train, loss, bench, label="training the generator", beside=(adam,), **options)

    trained(plain, train, bench, data=data.digest, settings={"train": len(data.train), **options})


@torch.no_grad()
def all_pictures(model: MultiExit, m: Tensor) -> list[Tensor]:
    """Return the pictures y_1 … y_n of all exits, each ``[N, C, side, side]``, for inputs m."""
    return [head(state) for head, state in zip(model.heads, model.states(m), strict=True)]


@torch.no_grad()
def remember(model: MultiExit, examples: Examples) -> None:
    """Fill the database, which all branches share."""
    database = model.heads[0].database
    assert isinstance(database, Database)
    m = torch.stack(list(examples.inputs)).to(device_of(model))
    database.fill(model.stages[0](m)[2], examples.targets)


def train_branches(
    model: MultiExit, rest: Examples, bench: Bench, features: Features, terms: Terms, **options: Any
) -> None:
    """Train all branches together against y_n, the generator frozen."""
    branches = model.heads[:-1]

    def train() -> None:
        D, adam = terms.discriminator(rest, model, bench.seed)

        def loss(batch: Batch) -> Tensor:
            with torch.no_grad():
                states = list(model.states(batch.inputs))
                y_n = model.heads[-1](states[-1])
            y = [branch(state) for branch, state in zip(branches, states, strict=False)]
            return terms.near(features, y, y_n) + terms.looks(D, adam, batch, y)

        model.eval()
        branches.train()
        fit(branches.parameters(), rest, loss, bench, label="training the branches", beside=(adam,), **options)

    trained(model, train, bench, data="", settings={"train": len(rest), **options})
    model.eval()


@torch.inference_mode()
def shortfalls(model: MultiExit, examples: Examples, features: Features) -> Tensor:
    """Return q ``[N, n - 1]``: how far each branch's picture is from y_n."""
    q = torch.zeros(len(examples), model.exits - 1)
    with evaluating(model):
        for index, m in examples.batches(BATCH, device=device_of(model)):
            *y, y_n = all_pictures(model, m)
            q[index] = torch.stack([features.distance(each, y_n) for each in y], dim=1).cpu()
    return q


def train_predictor(model: PredictedExits, rest: Examples, bench: Bench, features: Features, **options: Any) -> None:
    """Train P on what the branches fall short of on training maps, everything else frozen."""
    exits, P = model.exits_alone(), model.predictor

    def train() -> None:
        q = shortfalls(exits, rest, features)

        def loss(batch: Batch) -> Tensor:
            return F.mse_loss(P(batch.inputs), q[batch.index].to(batch.inputs.device))

        P.train()
        fit(P.parameters(), rest, loss, bench, label="training the predictor", **options)

    trained(P, train, bench, data="", settings={"train": len(rest), **options})


def first_within(qhat: Tensor, T: float) -> Tensor:
    """Return j* ``[N]``, from 0, of qhat ``[N, n - 1]``; what is not a number is not within."""
    within = exact(qhat) <= T
    return torch.where(within.any(dim=1), within.int().argmax(dim=1), qhat.shape[1])


@dataclass(frozen=True)
class Fiancee(ExitPredictionMethod):
    """A generator with lighter branches, of which a predictor names the first that is good enough."""

    images: str = "emoji"  # which drawings (`methods/data/drawings.py`); the paper: Cityscapes, faces in motion
    side: int = 32  # of a drawing, in pixels; the paper's are wider by far
    levels: int = 2  # of each channel in a map, so 8 kinds of colour; Cityscapes has 34 kinds of things
    coarse: int = 2  # side of the square of pixels that a place of the map stands for; the paper: 1
    train_size: int = 920  # drawings; there are 1,520 in all
    held: int = 150  # drawings for validation
    tested: int = 450  # drawings for tests
    widths: tuple[int, ...] = (48, 40, 32, 20)  # channels of x_1 … x_n; OASIS: up to 1024
    scales: tuple[float, ...] = (4.0, 3.0, 2.0)  # SF_1 … SF_{n-1}; the paper's are not known
    guided: bool = True  # whether branches read G
    database: int = 200  # D; the paper's: small
    feature_widths: tuple[int, ...] = ()  # channels of random phi, for unit tests; none: EfficientNet-Lite0
    a: float = 1.0  # weight of d; not known
    b: float = 1.0  # weight of the mean absolute difference; not known
    c: float = 0.02  # weight of L_GAN; not known
    critic: int = 16  # channels of D's first convolution
    critic_rate: float = 1e-3  # of D; not known
    epochs: float = 8.0  # of the generator; the paper takes it as it is
    branch_epochs: float = 6.0  # of the branches; not known
    predictor_epochs: float = 20.0  # of P; not known
    predictor_width: int = 16  # channels of P's first convolution
    batch: int = 16  # drawings of a step; not known
    rate: float = 3e-3  # largest learning rate of generator and branches; not known
    predictor_rate: float = 2e-3  # largest of P; not known

    data: ClassVar[tuple[str, ...]] = ("emoji", "efficientnet-lite0")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        math.inf, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.07, 0.06, 0.05, 0.04, 0.03, 0.02, -1.0,
    )  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "side": 8, "levels": 3, "train_size": 260, "held": 100, "tested": 100,
        "widths": (12, 10, 8), "scales": (4.0, 3.0), "database": 40, "feature_widths": (8, 12), "critic": 8,
        "batch": 32, "epochs": 7.0, "branch_epochs": 6.0, "predictor_epochs": 8.0, "predictor_width": 6, "rate": 1e-2,
        "predictor_rate": 5e-3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "side": 16, "train_size": 480, "tested": 150, "database": 80, "widths": (32, 24, 16, 12),
        "scales": (4.0, 2.5, 1.5), "epochs": 3.0, "branch_epochs": 2.0, "predictor_epochs": 8.0, "rate": 5e-3,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {
        "widths": (96, 80, 64, 40), "epochs": 40.0, "branch_epochs": 30.0, "predictor_epochs": 40.0,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "images": "inverted-digits", "side": 4, "coarse": 4, "widths": (12, 12, 12), "scales": (2.0, 2.0),
        "feature_widths": (4,),
    }  # fmt: skip

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises `ValueError`."""
        for name in ("a", "b", "c"):
            checked("Fiancee", name, getattr(self, name), least=0, finite=True)
        if len(self.scales) != len(self.widths) - 1 or not self.scales or min(self.scales) < 1:
            raise ValueError(f"scales of 1 or more, for all of {len(self.widths)} modules but one, not {self.scales}")
        checked("Fiancee", "database", self.database, whole=True, least=1, most=self.train_size - 1)

    @property
    def quality(self) -> str:
        """Pictures are compared by phi, which the name tells, not answers counted; 1 is the drawing itself."""
        return f"1 - {'random-feature' if self.feature_widths else 'EfficientNet-Lite0'} distance to the drawing"

    def load(self) -> Data:
        """Maps ``[K, h, h]``, a channel for each kind of colour, and drawings ``[C, side, side]``."""
        sizes = {"train": self.train_size, "validation": self.held, "test": self.tested}
        found = drawings.drawings(self.images, side=self.side, levels=self.levels, coarse=self.coarse, **sizes)
        kinds = self.levels ** found.train.pictures.shape[1]

        def part(of: drawings.Drawings) -> Examples:
            m = F.one_hot(torch.as_tensor(of.kinds), kinds).permute(0, 3, 1, 2).float()
            return Examples(list(m), torch.as_tensor(of.pictures))

        return Data(part(found.train), part(found.validation), part(found.test), None, found.digest)

    def build(self, data: Data, seed: int) -> PredictedExits:
        """The generator, its branches and the predictor. Raises `ValueError` if sides cannot be halved so often."""
        torch.manual_seed(seed)
        (K, places, _), (channels, side, _), W = data.train.inputs[0].shape, data.train.targets.shape[1:], self.widths
        n = len(W)
        if side % 2 ** (n - 1):
            raise ValueError(f"{n} modules need a side that can be halved {n - 1} times, not {side}")
        sides = [side >> (n - 1 - i) for i in range(n)]
        stages = [Stage(a, b, K, at) for (a, b), at in zip(pairwise([K, *W]), sides, strict=True)]
        whole = Whole(W[-1], channels)
        base = Database(self.database, W[0] * sides[0] ** 2, (channels, side, side)) if self.guided else None
        branches = [
            Branch([W[j], *(max(1, round(w / SF)) for w in W[j + 1 :])], sides[j + 1 :], K, channels, base)
            for j, SF in enumerate(self.scales)
        ]
        return PredictedExits(stages, [*branches, whole], Predictor(K, places, self.predictor_width, n - 1))

    def train(self, model: PredictedExits, data: Data, bench: Bench) -> None:
        """The generator, its branches, and the predictor, each with all before it frozen."""
        features = copy.deepcopy(features_of(self.feature_widths, data.train.targets.shape[1])).to(device_of(model))
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_generator(model.plain_network(), data, bench, features, self.terms, **options)
        model.eval()
        self.train_exits(model.exits_alone(), data, bench)
        options = {"epochs": self.predictor_epochs, "batch": self.batch, "rate": self.predictor_rate}
        train_predictor(model, self.rest(data), bench, features, **options)
        model.eval()

    @property
    def terms(self) -> Terms:
        """What the losses weigh, and the discriminator."""
        return Terms(self.a, self.b, self.c, self.critic, self.critic_rate)

    def rest(self, data: Data) -> Examples:
        """Return the training drawings that are not in the database."""
        return data.train.at(torch.arange(self.database, len(data.train)))

    def train_exits(self, exits: MultiExit, data: Data, bench: Bench) -> None:
        """Fill the database and train the branches of a generator that is."""
        features = copy.deepcopy(features_of(self.feature_widths, data.train.targets.shape[1])).to(device_of(exits))
        options: dict[str, Any] = {"epochs": self.branch_epochs, "batch": self.batch, "rate": self.rate}
        if self.guided:
            remember(exits, data.train.head(self.database))
        train_branches(exits, self.rest(data), bench, features, self.terms, **options)

    def rule(self, knob: float) -> Rule:
        """The knob is T."""
        return partial(first_within, T=knob)

    def distances(self, y: Tensor, z: Tensor) -> Tensor:
        """Return d ``[N]`` of pictures from others."""
        features = features_of(self.feature_widths, y.shape[1])
        with torch.inference_mode():
            return torch.cat([features.distance(*each) for each in zip(y.split(BATCH), z.split(BATCH), strict=True)])

    @property
    def score(self) -> Score:
        """1 less the mean distance of pictures from the drawings."""
        return Mean(lambda answers, targets: 1 - self.distances(answers, targets).double())

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """What the mean of all training drawings is like."""
        targets = prepared.split("test").targets
        mean = prepared.data.train.targets.mean(dim=0)
        found = 1 - self.distances(mean.expand_as(targets), targets).double()
        what = f"the mean drawing, of {len(found)}"
        return Chance(what=what, quality=float(found.mean()), error=float(found.std() / len(found) ** 0.5))
