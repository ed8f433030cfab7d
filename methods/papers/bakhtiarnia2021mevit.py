"""Multi-Exit Vision Transformer for Dynamic Inference (Multi-Exit ViT).

Idea
    A vision transformer passes on the same tokens after every layer, so many designs of an exit branch fit at any
    depth. Seven are compared: some read the class token, some arrange the patch tokens on the image grid again, some
    mix tokens once more. In early layers, where the class token holds little information, reading patches may pay off.

Model
    A class token, then the embedded patches of an image on a g×g grid, with positions added; L encoder layers. After
    layer l the tokens are Z_l = [c; P], the class token c and patches P_j, j = 1 … g², of width d. The network's own
    head reads c after layer L; a branch reads Z_l for l < L:
    MLP-EE          an MLP on c.
    CNN-Ignore-EE   P on the grid, row by row; convolution 3×3, ELU, max-pooling 2×2, a dense layer.
    CNN-Add-EE      the same on P_j + c.
    CNN-Project-EE  the same on gelu(W [P_j; c] + b), of width d again.
    ViT-EE          one more encoder layer, then normalisation and a dense layer on its class token.
    MLP-Mixer-EE    P + MLP across patches, then + MLP across channels, each after layer normalisation; mean; dense.
    ResMLP-EE       P + linear layer across patches, then + MLP across channels, each between affine maps; mean; dense.

Training
    Classifier-wise: the network by itself, L_L, the cross-entropy of its head; it is frozen, and each branch is trained
    alone, L_l. As branches do not affect each other, that is sum_{l<L} L_l over the branches.
    End-to-end: everything together, sum_{l<L} L_l + 2 L_L.

Exit rule
    No test on the image. The knob is the available time, as a share of the time of the last exit: the deepest exit
    within it answers. The time is not known beforehand, so every branch on the way is run and counted: an answer is
    always available. 0 stops at the first branch, 1 never. (The table of exits gives the cost of each branch without
    those before it; the claims use that.)

Skipped
    All layers and branches after the exit.

Trained otherwise
    All but "end-to-end": besides the epochs that all rows have, which train the network, the branches alone learn for
    as many on its frozen tokens. Their learning rate is 5e-3: on plain pictures MLP-EE, ResMLP-EE and CNN-Ignore-EE are
    on average 0.5, 3.9 and 1.9 points more accurate so than with 1e-3.

    The transformer's learning rate is 1e-3, half that of the convolutional rows. Rate, size of patches and spread of
    positions were chosen on validation images, of cluttered pictures: 0.41 right with 1e-3 and a spread of 1; with 2e-3
    0.37 and 0.34 with a spread of 0.3 and 0.02, and 0.28 with 36 patches; with 4e-3 0.24.

Deviations
    1. A vision transformer of 6 layers trained from scratch on cluttered Fashion-MNIST, 6,000 images, 2 epochs, instead
       of a large pretrained one that is tuned to CIFAR and Fashion-MNIST: what two cores can train in minutes. It has
       16 patches, and positions that start as large as what they are added to. It stays weak: of cluttered validation
       images it has 0.41 right, where the residual network of the other rows has 0.68; of plain ones 0.8. Where its
       own exit is not better than the best branch after its first layer, the claims are not comparable.
    2. There is no regression. Pictures of crowds to count are not available; of the substitutes, the ink of a digit is
       a sum of pixels, which one linear layer on the patches computes, so that all branches would tell it after the
       first layer, and tables such as that of diabetes have no patches.
    3. Sizes inside the branches were not read in the paper. As re-implementations have it: convolutions of 16 filters,
       an encoder layer of the network's size. MLP-EE has d hidden units; MLP-Mixer-EE d / 2 across patches and 4 d
       across channels, ResMLP-EE 4 d, as in the networks that they are named after.
    4. CNN-Project-EE projects as the dense prediction transformer does; its name is one of that network's three ways to
       read out a class token (ignore, add, project). A re-implementation convolves [P_j; c] itself.
    5. Re-implementations reshape [g², d] to [d, g, g], which scrambles the image; here tokens and channels are
       transposed first.
    6. Layer-wise training (up to a branch, freeze, on to the next) has no variant: it spoils the network's own head.
    7. Time is MACs. AdamW, whose learning rate rises and then falls linearly to 0; gradients are clipped at norm 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor, nn

from eelit.methods.backbones.vision_transformer import Embedding, Layout, OfClassToken, encoder_layer, own_head
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import ExitMethod, Prepared
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_parts

# The seven branches, each from tokens ``Z [N, 1 + g², d]`` to logits ``[N, classes]``.


def mlp(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Return two linear layers with a GELU between them."""
    return nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))


def mlp_branch(layout: Layout, classes: int) -> OfClassToken:
    """Return an MLP on the class token."""
    return OfClassToken(*mlp(layout.d, layout.d, classes))


def on_grid(P: Tensor, g: int) -> Tensor:
    """Put patch tokens ``[N, g², d]`` back on their grid: ``[N, d, g, g]``, row by row."""
    return P.mT.reshape(len(P), -1, g, g)


class CnnBranch(nn.Module):
    """A small convolutional network on the grid of patches, which knows nothing of the class token."""

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__()
        self.g, size = layout.g, layout.filters * (layout.g // 2) ** 2
        self.cnn = nn.Sequential(
            nn.Conv2d(layout.d, layout.filters, 3, padding=1), nn.ELU(), nn.MaxPool2d(2), nn.Flatten(),
            nn.Linear(size, classes),
        )  # fmt: skip

    def read(self, c: Tensor, P: Tensor) -> Tensor:
        """Return what is put on the grid ``[N, g², d]``, from the class token ``[N, 1, d]`` and the patches."""
        return P

    def forward(self, Z: Tensor) -> Tensor:
        """Map tokens ``[N, 1 + g², d]``, the class token first, to logits ``[N, classes]``."""
        return cast(Tensor, self.cnn(on_grid(self.read(Z[:, :1], Z[:, 1:]), self.g)))


class AddBranch(CnnBranch):
    """The same with the class token added to each patch."""

    def read(self, c: Tensor, P: Tensor) -> Tensor:
        """Return P_j + c for each patch j, ``[N, g², d]``."""
        return P + c


class ProjectBranch(CnnBranch):
    """The same with each patch joined to the class token, and both projected to the width of one."""

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__(layout, classes)
        self.projection = nn.Sequential(nn.Linear(2 * layout.d, layout.d), nn.GELU())

    def read(self, c: Tensor, P: Tensor) -> Tensor:
        """Return gelu(W [P_j; c] + b)."""
        return cast(Tensor, self.projection(torch.cat([P, c.expand_as(P)], dim=2)))


class VitBranch(nn.Module):
    """One more encoder layer, then a head like the network's own."""

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__()
        self.layer, self.head = encoder_layer(layout), own_head(layout, classes)

    def forward(self, Z: Tensor) -> Tensor:
        """Map all tokens ``[N, 1 + g², d]`` to logits ``[N, classes]``."""
        return cast(Tensor, self.head(self.layer(Z)))


class MixerBranch(nn.Module):
    """One block of MLP-Mixer on the patches, their mean, a dense layer."""

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__()
        N, d = layout.g**2, layout.d
        self.norms = nn.ModuleList(nn.LayerNorm(d) for _ in range(3))
        self.across_patches, self.across_channels = mlp(N, d // 2, N), mlp(d, 4 * d, d)
        self.dense = nn.Linear(d, classes)

    def forward(self, Z: Tensor) -> Tensor:
        """Map tokens ``[N, 1 + g², d]`` to logits ``[N, classes]``; the class token is not read."""
        P = Z[:, 1:]
        P = P + self.across_patches(self.norms[0](P).mT).mT
        P = P + self.across_channels(self.norms[1](P))
        return cast(Tensor, self.dense(self.norms[2](P).mean(dim=1)))


class Affine(nn.Module):
    """``alpha · x + beta`` in each channel, alpha the given scale at first."""

    def __init__(self, d: int, scale: float = 1.0) -> None:
        super().__init__()
        self.alpha, self.beta = nn.Parameter(torch.full((d,), scale)), nn.Parameter(torch.zeros(d))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[..., d]`` to ``[..., d]``."""
        return self.alpha * x + self.beta


class ResMlpBranch(nn.Module):
    """One block of ResMLP on the patches, their mean, a dense layer."""

    def __init__(self, layout: Layout, classes: int) -> None:
        super().__init__()
        N, d = layout.g**2, layout.d
        self.before, self.after = (nn.ModuleList(Affine(d, scale) for _ in range(2)) for scale in (1.0, 0.1))
        self.across_patches, self.across_channels = nn.Linear(N, N), mlp(d, 4 * d, d)
        self.last, self.dense = Affine(d), nn.Linear(d, classes)

    def forward(self, Z: Tensor) -> Tensor:
        """Map tokens ``[N, 1 + g², d]`` to logits ``[N, classes]``; the class token is not read."""
        P = Z[:, 1:]
        P = P + self.after[0](self.across_patches(self.before[0](P).mT).mT)
        P = P + self.after[1](self.across_channels(self.before[1](P)))
        return cast(Tensor, self.dense(self.last(P).mean(dim=1)))


BRANCHES: Mapping[str, Callable[[Layout, int], nn.Module]] = {
    "MLP-EE": mlp_branch, "CNN-Ignore-EE": CnnBranch, "CNN-Add-EE": AddBranch, "CNN-Project-EE": ProjectBranch,
    "ViT-EE": VitBranch, "MLP-Mixer-EE": MixerBranch, "ResMLP-EE": ResMlpBranch,
}  # fmt: skip
"""The paper's name of a branch → what builds it."""


@dataclass(frozen=True)
class MultiExitViT(ExitMethod):
    """A vision transformer with one of seven kinds of branches after each layer."""

    branch: str = "MLP-EE"  # which of the seven
    frozen: bool = True  # classifier-wise training on a frozen network; False: end-to-end, everything together
    images: str = "cluttered"  # data; the paper: CIFAR-10, CIFAR-100, Fashion-MNIST, crowds to count
    train_size: int = 6000  # training images; the paper: 50,000 of CIFAR
    grid: int = 4  # g, patches a side; ViT-B/16: 14
    spread: float = 1.0  # standard deviation of the positions at first; usually 0.02
    width: int = 128  # d; ViT-B/16: 768
    layers: int = 6  # L; ViT-B/16: 12
    heads: int = 4  # of attention; ViT-B/16: 12
    filters: int = 16  # of a convolution in a branch
    epochs: float = 2.0  # of the network, alone or with all
    batch: int = 32  # images
    rate: float = 1e-3  # learning rate of the network
    head_epochs: float = 2.0  # of the branches alone
    head_rate: float = 5e-3  # learning rate there
    last_weight: float = 2.0  # of L_L, end-to-end; the paper: 2

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "time"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.4, 0.6, 0.75, 0.95, 1.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **{name: {"branch": name} for name in BRANCHES}, "end-to-end": {"branch": "MLP-EE", "frozen": False},
    }  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 400, "width": 16, "heads": 2, "filters": 8,
        "epochs": 6.0, "batch": 32, "rate": 5e-3, "head_epochs": 3.0, "head_rate": 1e-2,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"grid": 2, "width": 12, "heads": 1, "filters": 4, "last_weight": 1.0}
    smoke: ClassVar[Mapping[str, Any]] = {
        "images": "fashion-mnist", "train_size": 1000, "width": 32, "epochs": 3.0, "batch": 32, "rate": 3e-3,
        "head_epochs": 1.0, "head_rate": 1e-2,
    }  # fmt: skip

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    def layout(self, shape: torch.Size) -> Layout:
        """Return the sizes for images ``[C, H, W]``. Raises `ValueError` for what cannot be cut so."""
        if shape[1] != shape[2] or shape[1] % self.grid:
            raise ValueError(f"images of {shape[1]}×{shape[2]} pixels cannot be cut into {self.grid} patches a side")
        if self.width % self.heads:
            raise ValueError(f"{self.heads} heads of attention cannot share a width of {self.width}")
        return Layout(self.grid, self.width, self.heads, self.filters)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The network, which is made before its branches: all kinds of them sit on the same one."""
        if self.branch not in BRANCHES:
            raise ValueError(f"no branch {self.branch!r}; there are {', '.join(BRANCHES)}")
        torch.manual_seed(seed)
        shape, classes = data.train.inputs[0].shape, data.classes or 1
        layout = self.layout(shape)
        embedding = Embedding(shape[0], shape[1] // self.grid, layout)
        nn.init.normal_(embedding.positions, std=self.spread)
        first, *others = (encoder_layer(layout) for _ in range(self.layers))
        last = own_head(layout, classes)
        branches = (BRANCHES[self.branch](layout, classes) for _ in others)
        return MultiExit([nn.Sequential(embedding, first), *others], [*branches, last]).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Classifier-wise or end-to-end."""
        network: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        if not self.frozen:
            train_joint(model, data, bench, weights=[*[1.0] * (model.exits - 1), self.last_weight], **network)
            return
        train_plain(model, data, bench, **network)
        branches: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        train_parts(model, model.heads[:-1].parameters(), data, bench, **branches)

    def policy(self, knob: float, prepared: Prepared) -> FixedExit:
        """The deepest exit within the time; all images have the same size, so one tells the costs."""
        costs = prepared.split("validation").costs[:, 0]
        return FixedExit(max(0, int(np.searchsorted(costs, knob * costs[-1], side="right")) - 1))
