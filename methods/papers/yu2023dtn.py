"""A Dynamic Transformer Network With Early Exit Mechanism for Fast Detection of Multiscale Surface Defects (DTN).

Idea
    A wide mark on a surface is visible at low resolution, a hairline crack only at high resolution. So a transformer
    reads an image in coarse tokens first, then in finer and finer ones, and stops as soon as it is confident: fine
    tokens are many, and they cause most of the cost.

Model
    A class token c and S stages. Stage s sees the image averaged over squares of q_s pixels, q_1 > q_2 > … > q_S, cut
    into patches of p × p of these: T_s = (side / (q_s p))² tokens, E_s(patch) + position. E_s is one linear layer, or
    3×3 convolutions with GELU between them, each of which halves the side until a patch is a token. Tokens are added to
    the earlier ones:
    Z_s = encoder layers(concat(Z_{s-1}, tokens_s)), Z_0 = c. Each layer is softmax attention of several heads and an
    MLP, both after layer normalisation and added to their input. Head s: p_s = softmax(W_s LayerNorm(c_s) + b_s) of the
    class token c_s in Z_s.

Training
    Everything together:  L = sum_s CE(p_s, y), with equal weights for all stages.

Exit rule
    Stop at the first stage s < S with max p_s >= eta, one eta for all; stage S always answers. eta = 0 stops at the
    first, eta > 1 never.

Skipped
    The tokens and layers of all finer stages.

Deviations
    1. Reconstructed: only the paper's title could be read, and one sentence of a later work, which says that its
       self-attention works in a "routing space". If that means gates that choose a path between scales for each sample,
       they are not here; this is the plainest network that fits the title: scales from coarse to fine, exits between.
    2. Stages, tokens, loss, rule and all numbers are ours. "Detection" is taken to mean classifying what an image
       shows, not boxes.
    3. Which data the paper has is not known; real surface defects would fit its title. In the main variant they are
       real: 2,223 photographed solar cells, sound or defective as experts judged them, neighbours on a module kept in
       one part as far as is known, in training turned and mirrored in eight ways. In the variant ``drawn defects``
       surfaces are photographed (brick, grass, gravel), and scratches and pits are drawn on them, 1 to 10 pixels wide
       (pits: twice as wide), so it is known how wide each defect is.
    4. Cells are few for a transformer from scratch. So their E_s are convolutions, and their coarsest stage sees 8×8
       pixels. F1 on test data was 0.71 at the last stage and 0.64 at the first, in one run. On validation data it was
       0.78 and 0.70: with so few pictures, and other modules, parts differ by as much.
    5. Textiles are left out. The only pictures of them that were found in a package are 2,000 simulated ones, with
       local defects of some ten pixels among them; of 400 validation pictures this network, with 240×240 pixels at its
       last stage and 48×48 at its first, had F1 of 0.62 and 0.59: savings would prove nothing.
    6. The quality is the mean F1 of the classes, since at least half of the images have no defect.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.vision_transformer import Layout, encoder_layer
from eelit.methods.data import cells, surfaces
from eelit.methods.engine.chance import SHUFFLES
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Chance
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint

State = tuple[Tensor, Tensor]
"""The pictures ``[N, 1, side, side]``, and the tokens so far ``[N, 1 + T_1 + … + T_s, d]``, the class token first."""


def embedding(patch: int, d: int, filters: int) -> nn.Module:
    """Return E_s: one linear layer for a patch, or with ``filters`` convolutions, each of which halves the side.

    Raises `ValueError` if no number of halvings makes a patch a token.
    """
    if not filters:
        return nn.Conv2d(1, d, patch, stride=patch)
    if patch < 2 or patch & (patch - 1):
        raise ValueError(f"convolutions that halve the side make a token of a patch of 2, 4, 8 … pixels, not {patch}")
    halvings = patch.bit_length() - 1
    widths = [1, *(min(d, filters * 2**i) for i in range(halvings - 1)), d]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1), nn.GELU()]
    return nn.Sequential(*layers[:-1])


class Scale(nn.Module):
    """Stage s: tokens of one size join those before, and all attend to all."""

    def __init__(
        self, side: int, q: int, E: nn.Module, patch: int, layers: int, layout: Layout, *, first: bool
    ) -> None:
        super().__init__()
        self.q, tokens = q, (side // (q * patch)) ** 2
        self.patches = E
        self.positions = nn.Parameter(torch.randn(1, tokens, layout.d) * 0.02)
        self.token = nn.Parameter(torch.randn(1, 1, layout.d) * 0.02) if first else None
        self.layers = nn.Sequential(*(encoder_layer(layout) for _ in range(layers)))

    def forward(self, state: Tensor | State) -> State:
        """Map pictures, or the state, to the state."""
        if self.token is not None:
            x = cast(Tensor, state)
            Z = self.token.expand(len(x), -1, -1)
        else:
            x, Z = state
        tokens = self.patches(F.avg_pool2d(x, self.q)).flatten(2).mT + self.positions
        return x, self.layers(torch.cat([Z, tokens], dim=1))


class OfClass(nn.Sequential):
    """Layers that read the class token of a state alone."""

    def forward(self, state: State) -> Tensor:
        """Return logits ``[N, classes]``."""
        return cast(Tensor, super().forward(state[1][:, 0]))


def macro_f1(answers: Tensor, targets: Tensor) -> float:
    """Return the mean of the F1 of all classes that are there or are answered, of classes ``[N]``."""
    found = []
    for label in torch.cat([answers, targets]).unique().tolist():
        said, true = answers == label, targets == label
        found.append(2 * int((said & true).sum()) / int(said.sum() + true.sum()))
    return sum(found) / len(found)


def _examples(images: NDArray[np.float32], labels: NDArray[np.int64]) -> Examples:
    return Examples([torch.as_tensor(x) for x in images], torch.as_tensor(labels))


@dataclass(frozen=True)
class DynamicTransformer(ExitMethod):
    """A transformer from coarse to fine tokens that stops when it is sure."""

    source: str = "cells"  # solar cells, or surfaces (`methods/data/surfaces.py`); the paper's are not known
    side: int = 96  # of a picture, in pixels
    q: tuple[int, ...] = (12, 4, 1)  # side of the squares that a stage averages, for each stage
    patch: int = 8  # p
    filters: int = 16  # of the first convolution of E_s, twice as many of each further one; 0: one linear layer
    d: int = 48  # width of a token
    heads: int = 4  # of attention
    layers: int = 1  # of each stage
    train_size: int = 6000  # pictures
    held_size: int = 1500  # pictures for validation, and as many for tests; of solar cells all that are held out
    epochs: float = 3.0  # not known
    batch: int = 32  # not known
    rate: float = 1e-3  # learning rate of AdamW; not known

    data: ClassVar[tuple[str, ...]] = ("photographs", "solar-cells")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "solar cells": {},
        "drawn defects": {
            "source": "surfaces", "side": 48, "q": (4, 2, 1), "patch": 4, "filters": 0, "layers": 2, "epochs": 9.0,
            "rate": 2e-3,
        },
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "source": "made", "side": 16, "q": (4, 1), "patch": 2, "filters": 0, "d": 16, "heads": 2, "layers": 1,
        "train_size": 1200, "held_size": 200, "epochs": 8.0, "rate": 4e-3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "side": 32, "d": 32, "layers": 1, "train_size": 2000, "held_size": 600, "epochs": 5.0, "rate": 4e-3,
    }  # fmt: skip
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "solar cells": {"side": 96, "epochs": 2.0, "rate": 1.5e-3},
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "source": "made-fine", "side": 24, "q": (4, 2, 1), "patch": 4, "filters": 4, "d": 24, "heads": 4,
    }  # fmt: skip

    @property
    def quality(self) -> str:
        """Classes are of unequal size."""
        return "mean F1 of the classes"

    def load(self) -> Data:
        """Return pictures in classes; further parts hold how wide defects are, where that is known."""
        if self.source == "cells":
            found = cells.cells(side=self.side, train=self.train_size)
            of_cells = [_examples(part.images, part.labels) for part in (found.train, found.validation, found.test)]
            train, validation, test = of_cells
            return Data(train, validation, test, classes=len(cells.CLASSES), digest=found.digest)
        held = {"validation": self.held_size, "test": self.held_size}
        drawn = surfaces.inspected(self.source, side=self.side, train=self.train_size, **held)
        parts = {"train": drawn.train, "validation": drawn.validation, "test": drawn.test}
        pictures = {name: _examples(part.images, part.labels) for name, part in parts.items()}
        widths = {
            f"{name} widths": Examples(pictures[name].inputs, torch.as_tensor(part.widths))
            for name, part in parts.items()
        }
        return Data(**pictures, classes=len(surfaces.CLASSES), digest=drawn.digest, more=widths)

    def build(self, data: Data, seed: int) -> MultiExit:
        """One stage and one head for each size of tokens. Raises `ValueError` for sizes that do not fit."""
        q = self.q
        if not q or list(q) != sorted(set(q), reverse=True) or q[-1] < 1:
            raise ValueError(f"stages go from coarse to fine: q falls from stage to stage, unlike {q}")
        if any(self.side % (each * self.patch) for each in q):
            raise ValueError(f"patches of {self.patch}×{self.patch} squares of {q} pixels do not fill {self.side}")
        if self.d % self.heads:
            raise ValueError(f"a token of {self.d} numbers cannot be shared by {self.heads} heads")
        torch.manual_seed(seed)
        layout = Layout(self.side // self.patch, self.d, self.heads, 0)
        stages = [
            Scale(self.side, each, embedding(self.patch, self.d, self.filters), self.patch, self.layers, layout,
                  first=s == 0)
            for s, each in enumerate(q)
        ]  # fmt: skip
        heads = [OfClass(nn.LayerNorm(self.d), nn.Linear(self.d, data.classes or 1)) for _ in q]
        return MultiExit(stages, heads)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All stages together, weighing alike."""
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_joint(model, data, bench, weights=[1.0] * model.exits, **options)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is eta."""
        return MaxConfidence(knob)

    @property
    def score(self) -> Score:
        """Mean F1 of logits ``[N, C]``."""
        return lambda answers, targets: macro_f1(answers.argmax(dim=-1), targets)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """What the right labels reach in a random order."""
        targets = prepared.split("test").targets
        shuffle = torch.Generator().manual_seed(0)
        found = [macro_f1(targets[torch.randperm(len(targets), generator=shuffle)], targets) for _ in range(SHUFFLES)]
        values = torch.tensor(found, dtype=torch.float64)
        what = f"{SHUFFLES} random orders of {len(targets)} labels"
        return Chance(what=what, quality=float(values.mean()), error=float(values.std(correction=0)))
