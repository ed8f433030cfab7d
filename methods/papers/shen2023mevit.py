"""Multi-Exit Vision Transformer with Custom Fine-Tuning for Fine-Grained Image Recognition (MEViT).

Idea
    Fine-grained recognition, such as bird species, seems to need all layers of a vision transformer. But its last exit,
    once tuned to the task, knows which classes are similar, and can teach this to earlier branches. So fine-tune a
    trained transformer once more, with branches that learn from its own last exit in addition to the labels: then many
    images leave early even where differences are small.

Model
    A class token, then the embedded patches of an image, with positions added; L encoder layers. Branches k = 1 … K-1
    are placed after some layers: normalisation and a dense layer on the class token give z_k. The network's own head,
    of the same form, gives z_K after layer L. p_k = softmax(z_k).

Training
    1. The network with its own head: CE(z_K, y).
    2. Fine-tuning, everything together, with a lower rate for what is trained already:
       L = CE(z_K, y) + sum_{k<K} [(1 - a) CE(z_k, y) + a tau^2 KL(softmax(z_K / tau) || softmax(z_k / tau))].
       No gradient reaches the teacher z_K through KL; a = 0 is learning from labels alone.
       Variant frozen: the network stays as it is, and only the branches are trained, by the same loss.

Exit rule
    Stop at the first branch with max p_k >= eta, one eta for all; else the network's own head answers. eta = 0 stops at
    the first branch, eta > 1 never.

Skipped
    All encoder layers and branches after the exit.

Trained otherwise
    Besides the epochs that all rows have, which train the network, fine-tuning takes as many more: two stages are what
    the paper is about. The transformer's learning rate is 1e-3, half that of the convolutional rows, as for the other
    transformer.

Deviations
    1. The paper's text could not be read. The abstract says that a vision transformer gets early branches, that it is
       fine-tuned with self-distillation, and that this improves the branches; the form and places of the branches, the
       loss, its weights, what is tuned, and the exit test are the usual choices. The variant with a frozen network
       follows LGViT, a later work with the same two stages.
    2. A vision transformer of 6 layers trained from scratch on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead
       of a large pretrained one that is tuned to two fine-grained image data sets, which no package ships. Five of the
       ten classes here are tops, which are similar: the claims also examine these separately.
    3. AdamW, whose learning rate rises and then falls linearly to 0; gradients are clipped at norm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.vision_transformer import Embedding, Layout, encoder_layer, own_head
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_rows


def tuning_loss(z: Tensor, y: Tensor, a: float, tau: float) -> Tensor:
    """Return L of logits ``[K, N, C]`` and classes ``[N]``."""
    labels, taught = exit_losses(z, y), divergence(z[:-1], z[-1], tau)
    return labels[-1] + ((1 - a) * labels[:-1] + a * taught).sum()


def fine_tune(
    model: MultiExit, data: Data, bench: Bench, *, a: float, tau: float, branch_rate: float, **options: Any
) -> None:
    """Minimise L over everything, branches at a rate of their own; ``options`` are those of `fit`."""
    branches = list(model.heads[:-1].parameters())

    def loss(batch: Batch) -> Tensor:
        return tuning_loss(model(batch.inputs), batch.targets, a, tau)

    def train() -> None:
        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label="fine-tuning the network and its branches",
            faster=branches, faster_rate=branch_rate, **options,
        )  # fmt: skip

    settings = {"a": a, "tau": tau, "branch_rate": branch_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


def tune_branches(model: MultiExit, data: Data, bench: Bench, *, a: float, tau: float, **options: Any) -> None:
    """Minimise L over the branches alone, from class tokens and last answers of the frozen network, computed once."""
    branches = model.heads[:-1]

    def read(index: Tensor, x: Tensor) -> list[Tensor]:
        states = list(model.states(x))
        return [torch.stack([Z[:, 0] for Z in states[:-1]], dim=1), model.heads[-1](states[-1])]

    def train() -> None:
        tokens, taught = frozen_rows(model, data.train, read)

        def loss(batch: Batch) -> Tensor:
            z = [branch(c[:, None]) for branch, c in zip(branches, batch.inputs.unbind(dim=1), strict=True)]
            return tuning_loss(torch.stack([*z, taught[batch.index].to(z[0])]), batch.targets, a, tau)

        branches.train()
        rows = Examples(list(tokens), data.train.targets)
        fit(branches.parameters(), rows, loss, bench, label="training the branches on the frozen network", **options)

    trained(model, train, bench, data=data.digest, settings={"a": a, "tau": tau, "train": len(data.train), **options})
    model.eval()


@dataclass(frozen=True)
class FineTunedViT(ExitMethod):
    """A vision transformer whose branches learned from its own last exit."""

    frozen: bool = False  # whether branches alone learn in the second stage; not known of the paper
    a: float = 0.5  # what the last exit's answers weigh beside labels; not known of the paper
    tau: float = 2.0  # temperature of these answers; not known of the paper
    images: str = "cluttered"  # data; the paper: two sets of fine-grained kinds
    train_size: int = 6000  # training images
    grid: int = 4  # patches a side; ViT-B/16: 14
    spread: float = 1.0  # standard deviation of the positions at first; usually 0.02
    width: int = 128  # of a token; ViT-B/16: 768
    layers: int = 6  # L; ViT-B/16: 12
    heads: int = 4  # of attention; ViT-B/16: 12
    branches: tuple[int, ...] = (2, 3, 4, 5)  # layers after which they stand; not known of the paper
    epochs: float = 2.0  # of the network by itself; the paper's is pretrained
    batch: int = 32  # images
    rate: float = 1e-3  # learning rate of the network by itself
    tune_epochs: float = 2.0  # of fine-tuning
    tune_rate: float = 3e-4  # learning rate there of what is trained already
    branch_rate: float = 1e-3  # learning rate there of the branches

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"fine-tuned": {}, "frozen": {"frozen": True}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 400, "grid": 2, "width": 32, "layers": 3, "heads": 2, "branches": (1, 2),
        "epochs": 8.0, "batch": 32, "rate": 1e-2, "tune_epochs": 2.0, "tune_rate": 3e-3, "branch_rate": 1e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "images": "fashion-mnist", "train_size": 1000, "width": 32, "layers": 4, "branches": (1, 2, 3),
        "epochs": 4.0, "rate": 5e-3, "tune_epochs": 2.0, "tune_rate": 2e-3, "branch_rate": 5e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"branches": (2,), "grid": 4}

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def layout(self, shape: torch.Size) -> Layout:
        """Return the sizes for images ``[C, H, W]``. Raises `ValueError` for what cannot be cut so."""
        if shape[1] != shape[2] or shape[1] % self.grid:
            raise ValueError(f"images of {shape[1]}×{shape[2]} pixels cannot be cut into {self.grid} patches a side")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads of attention cannot share a width of {self.width}")
        return Layout(self.grid, self.width, self.heads, filters=0)  # no branch convolves

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network, which is made before its branches and does not depend on where these stand.

        Raises `ValueError` for branches that do not stand after layers of rising number before the last.
        """
        if not all(a < b for a, b in pairwise([0, *self.branches, self.layers])):
            raise ValueError(f"branches stand after some of the layers 1 to {self.layers - 1}, not {self.branches}")
        torch.manual_seed(seed)
        shape, classes = data.train.inputs[0].shape, data.classes or 1
        layout = self.layout(shape)
        embedding = Embedding(shape[0], shape[1] // self.grid, layout)
        nn.init.normal_(embedding.positions, std=self.spread)
        parts = [embedding, *(encoder_layer(layout) for _ in range(self.layers))]
        last = own_head(layout, classes)
        bounds = [0, *(layer + 1 for layer in self.branches), len(parts)]
        stages = [nn.Sequential(*parts[a:b]) for a, b in pairwise(bounds)]
        return MultiExit(stages, [*(own_head(layout, classes) for _ in self.branches), last]).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """The network by itself, then branches and network together, or branches alone."""
        train_plain(model, data, bench, epochs=self.epochs, batch=self.batch, rate=self.rate)
        options: dict[str, Any] = {"a": self.a, "tau": self.tau, "epochs": self.tune_epochs, "batch": self.batch}
        if self.frozen:
            tune_branches(model, data, bench, rate=self.branch_rate, **options)
        else:
            fine_tune(model, data, bench, rate=self.tune_rate, branch_rate=self.branch_rate, **options)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is eta."""
        return MaxConfidence(knob)
