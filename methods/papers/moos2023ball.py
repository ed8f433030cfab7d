"""Efficient Single Object Detection on Image Patches with Early Exit Enhanced High-Precision CNNs (ball detector).

Idea
    A soccer robot checks many patches of its camera image, and hardly any of them shows the ball. So one exit after the
    first block may only answer "no ball": a "yes" always comes from the whole network, and the exit cannot add a false
    positive. It can lower recall, and a patch that passes pays for the exit in addition.

Model
    A patch of 32×32 pixels in colour passes through four blocks: depthwise 3×3 of stride 2, 1×1, LeakyReLU(1e-4),
    narrow 1×1, LeakyReLU(1e-4). Channels by block: depthwise 3, 8, 32, 96 (each map's times 1, 2, 4, 8), then 8, 16,
    20, 32, narrow 4, 8, 12, 16. Flattened, a linear layer, sigmoid: (o, x, y), confidence and place of the ball's
    centre. The exit stands before the narrow layer of block 1: maxima of 2×2 places of the 16×16×8 map, linear layer,
    sigmoid: e. 13,056 multiply-accumulates up to the exit, 512 for it, 65,856 after it.

Training
    First the network without exit, t = 1 for a ball, else 0:
    L = L_conf + beta L_pos,  L_conf = mean BCE(o, t),  L_pos = mean t ||(x, y) - (x*, y*)||²,
    beta = L_conf / (L_pos + eps), at most beta_most, treated as a constant in each step, so that neither part
    dominates. Then e alone, all else frozen: BCE(e, t).

Exit rule
    e < rho: rejected, stop; the answer is a detection with confidence e / 100 in the middle of the patch, far below any
    tau.
    e >= rho: go on; a ball is detected if o >= tau. rho = 0 rejects no patch, rho > 1 all patches.

Skipped
    Everything after the first 1×1 convolution, for rejected patches. A patch with a detected ball has passed through
    everything.

Deviations
    1. The preprint could not be read. Network, exit, rule, rho = 0.5 and tau = 0.25 are those that its author's team
       released a month later; these weights show that the exit was trained on a frozen network. The rule for beta is an
       interpretation of "dynamic weighting", and the squared distance is ours, as are optimiser, rate and epochs; a
       batch has 64 patches, not 256, since there are fewer of them.
    2. Patches are synthetic, not from robots: the soccer ball emoji, rotated, shaded and placed on photographs, against
       photographs alone and other round emoji. One patch in ten shows the ball. Photographs differ from part to part;
       the drawings are those of Twitter, Microsoft and Google everywhere. In the variant ``unseen ball``, a hard test,
       training and validation have Twitter's and Microsoft's, and the test has Google's. Two drawings do not teach what
       a ball is: there the whole network finds too few balls to say what the exit loses.
    3. Patches are cut out beforehand, as a robot's software does around each hypothesis. No search over an image or
       grid is part of this, so nothing is measured of how many patches an image needs.
    4. The exit is compared with the same network without it; no other detector is a rival. A published cascade of
       networks that reject early, for faces, is only in tests, to check the engine of cascades.
    5. Batch normalisation and the scaling of the input, folded into the released weights, are left out: patches are
       centred, and weights are initialised normally with variance 2 / (inputs of a unit). Strided convolutions are
       padded at the right and below, as in the released layout.
    6. The quality is F1 of detections at tau, whatever their position; the claims report the error of the position.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.data import balls
from eelit.methods.engine.chance import SHUFFLES
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Chance
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ClasslessExitMethod, Prepared
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.two_stage import frozen_states

WIDE, NARROW, TIMES = (8, 16, 20, 32), (4, 8, 12, 16), (1, 2, 4, 8)
"""Channels of each block behind its first and its second 1×1 convolution, and filters for each channel before these."""
SLOPE, EPS, FAINT = 1e-4, 1e-6, 0.01
"""Of LeakyReLU; what the place loss is raised by where it divides; what e is multiplied by in a rejected patch."""


class Halved(nn.Sequential):
    """Depthwise 3×3 of stride 2, several filters a channel, then 1×1."""

    def __init__(self, inputs: int, times: int, outputs: int) -> None:
        depthwise = nn.Conv2d(inputs, inputs * times, 3, 2, groups=inputs)
        super().__init__(
            nn.ZeroPad2d((0, 1, 0, 1)), depthwise, nn.Conv2d(inputs * times, outputs, 1), nn.LeakyReLU(SLOPE)
        )


def narrow(inputs: int, outputs: int) -> nn.Sequential:
    """The second 1×1 convolution of a block."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1), nn.LeakyReLU(SLOPE))


def started(model: nn.Module) -> None:
    """Have signals keep their size from layer to layer; draws from torch's seed."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            gain = 1 if layer.groups > 1 else 2
            nn.init.normal_(layer.weight, std=(gain / layer.weight[0].numel()) ** 0.5)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Rejecting(nn.Module):
    """The exit: whether a patch is background, and the spot that is answered then."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(WIDE[0] * 8 * 8, 1)

    def logit(self, pooled: Tensor) -> Tensor:
        """Return the logit of e ``[N]`` from pooled maps."""
        found: Tensor = self.linear(pooled.flatten(1))[:, 0]
        return found

    def forward(self, state: Tensor) -> dict[str, Tensor]:
        """Return the spot ``[N, 3]``, and -e: the larger, the surer that there is no ball."""
        e = self.logit(pooled(state)).sigmoid()
        middle = torch.full_like(e, 0.5)
        return {"answer": torch.stack([FAINT * e, middle, middle], dim=1), "rejection": -e}


def pooled(state: Tensor) -> Tensor:
    """Return what the exit reads of a map ``[N, 8, 16, 16]``."""
    return F.max_pool2d(state, 2)


class Spot(nn.Module):
    """The main head: confidence and place ``[N, 3]``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(NARROW[-1] * 2 * 2, 3)

    def forward(self, state: Tensor) -> Tensor:
        """Return o, x and y ``[N, 3]``, each from 0 to 1: that there is a ball, and where, as shares of the patch."""
        found: Tensor = self.linear(state.flatten(1)).sigmoid()
        return found


def spot_loss(spots: Tensor, targets: Tensor, most: float, *, dynamic: bool = True) -> Tensor:
    """Return L of spots ``[N, 3]`` and targets ``[N, 3]``, which are (t, x*, y*); beta is ``most`` unless dynamic."""
    t = targets[:, 0]
    confidence = F.binary_cross_entropy(spots[:, 0], t)
    place = (t * ((spots[:, 1:] - targets[:, 1:]) ** 2).sum(dim=1)).mean()
    beta = (confidence / (place + EPS)).detach().clamp_max(most) if dynamic else most
    return confidence + beta * place


def f1(detected: Tensor, true: Tensor) -> float:
    """Return F1 of what is detected ``[N]``; 0 if nothing is and nothing was there."""
    found = int(detected.sum() + true.sum())
    return 2 * int((detected & true).sum()) / found if found else 0.0


@dataclass(frozen=True)
class BallDetector(ClasslessExitMethod):
    """A detector for patches whose one exit may only reject."""

    source: str = "makers"  # which balls (`methods/data/balls.py`); the paper: patches from robots
    share: float = 0.1  # of patches that show the ball; the paper's is not known
    train_size: int = 8000  # patches; the paper's are not known
    held_size: int = 3000  # patches for validation, and as many for tests
    tau: float = 0.25  # as released
    beta_most: float = 100.0  # largest weight of the place loss; not known
    dynamic: bool = True  # whether the weight follows the losses; else it is ``beta_most`` all the time
    epochs: float = 30.0  # not known
    head_epochs: float = 15.0  # of the exit; not known
    batch: int = 64  # the released file's name says 256
    rate: float = 5e-3  # learning rate of AdamW; not known

    data: ClassVar[tuple[str, ...]] = ("photographs", "emoji", "emoji-noto", "emoji-fluent")
    knob: ClassVar[str] = "rho"
    knobs: ClassVar[tuple[float, ...]] = (1.1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 5e-3, 2e-3, 1e-3, 3e-4, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"known balls": {}, "unseen ball": {"source": "unseen-maker"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "source": "drawn", "share": 0.25, "train_size": 400, "held_size": 150, "epochs": 10.0, "head_epochs": 10.0,
        "batch": 32, "rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 3000, "held_size": 1500, "epochs": 12.0, "head_epochs": 10.0, "rate": 1e-2,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "source": "drawn-dark",
        "beta_most": 1.0,
        "tau": 0.75,
        "share": 0.4,
        "held_size": 60,
    }

    @property
    def quality(self) -> str:
        """The name of the measure: F1, since accuracy would hide missed balls where few patches show one."""
        return "F1 of detections"

    def load(self) -> Data:
        """Patches ``[3, 32, 32]``; targets are (t, x, y), the place a share of the patch."""
        held = {"validation": self.held_size, "test": self.held_size}
        found = balls.patches(self.source, share=self.share, train=self.train_size, **held)
        parts = {"train": found.train, "validation": found.validation, "test": found.test}
        patches = {
            name: Examples([torch.as_tensor(x) for x in part.images], torch.as_tensor(part.spots))
            for name, part in parts.items()
        }
        return Data(**patches, classes=None, digest=found.digest, more={})

    def build(self, data: Data, seed: int) -> MultiExit:
        """The first convolutions with the exit, and the rest. Raises `ValueError` if a rejected patch could count."""
        if not self.tau > FAINT:
            raise ValueError(f"tau is above {FAINT}, the most that a rejected patch is worth, not {self.tau}")
        torch.manual_seed(seed)
        rest: list[nn.Module] = [narrow(WIDE[0], NARROW[0])]
        for before, times, wide, after in zip(NARROW, TIMES[1:], WIDE[1:], NARROW[1:], strict=False):
            rest += [Halved(before, times, wide), narrow(wide, after)]
        model = MultiExit([Halved(3, TIMES[0], WIDE[0]), nn.Sequential(*rest)], [Rejecting(), Spot()])
        started(model)
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network without its exit, then the exit on the frozen network."""
        plain, exit_ = model.plain_network(), cast(Rejecting, model.heads[0])
        most, dynamic = self.beta_most, self.dynamic
        options: dict[str, Any] = {"batch": self.batch, "rate": self.rate}
        first, second = {**options, "epochs": self.epochs}, {**options, "epochs": self.head_epochs}

        def spotting(batch: Batch) -> Tensor:
            return spot_loss(plain(batch.inputs), batch.targets, most, dynamic=dynamic)

        def whole() -> None:
            plain.train()
            fit(plain.parameters(), data.train, spotting, bench, label="training the detector", **first)

        def rejection(batch: Batch) -> Tensor:
            return F.binary_cross_entropy_with_logits(exit_.logit(batch.inputs[0]), batch.targets[:, 0])

        def early() -> None:
            states = frozen_states(model, data.train, bench, pooled)
            exit_.train()
            fit(exit_.parameters(), states, rejection, bench, label="training the exit", **second)

        size = len(data.train)
        trained(
            plain, whole, bench, data=data.digest, settings={"train": size, "most": most, "dynamic": dynamic, **first}
        )
        trained(model, early, bench, data=data.digest, settings={"train": size, **second})
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is rho: e below it stops, as -e above -rho."""
        return ScoreThreshold(-knob, of="rejection")

    @property
    def score(self) -> Score:
        """F1 of spots ``[N, 3]`` that are valid at tau."""
        return lambda answers, targets: f1(answers[:, 0] >= self.tau, targets[:, 0] > 0)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """What as many detections as there are balls reach on patches drawn at random."""
        true = prepared.split("test").targets[:, 0] > 0
        shuffle = torch.Generator().manual_seed(0)
        found = [f1(true[torch.randperm(len(true), generator=shuffle)], true) for _ in range(SHUFFLES)]
        values = torch.tensor(found, dtype=torch.float64)
        what = f"{SHUFFLES} random orders of {len(true)} patches"
        return Chance(what=what, quality=float(values.mean()), error=float(values.std(correction=0)))
