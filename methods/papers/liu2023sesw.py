"""Self-supervised efficient sample weighting for multi-exit networks (SESW).

Idea
    At inference easy images never reach the late exits; yet in training each exit learns from all images equally.
    Weights for each image at each exit close the gap, but earlier methods learned them by reinforcement learning or
    bi-level optimisation, on held-out data. Here a small network predicts, from an image's losses at all exits, which
    exit gives the true class the highest probability. The losses themselves are the labels, so it learns by plain
    classification, at almost no cost.

Model
    A network with exits k = 1 … K, logits z_k. Beside it, in training alone, g: K losses → 64 units, ReLU → K numbers.

Training
    l_i^k is the cross-entropy of exit k on image i. For each batch, in this order:
    q_i = softmax(g(l_i)),  t_i = argmin_k l_i^k, the exit that gives the true class most (of equals the first); one
    step of g on mean_i CE(q_i, t_i), by which no gradient reaches the network;
    w_i^k = 1 + q_i^k from the new g, by which no gradient reaches g;
    one step of everything else on  L = sum_k mean_i w_i^k l_i^k.
    The sum of an image's weights is K + 1. Where g knows nothing, q = 1/K, all images weigh alike.

Exit rule
    The usual rule, since the method changes only training: stop at the first exit with max softmax(z_k) >= threshold.
    The last exit always answers.

Skipped
    All layers and exits after the one that answers. g is not used any more: the network costs the same as without
    sample weights.

Trained otherwise
    As long as all rows, but g makes a step of its own, by Adam, before each step of the network: what the paper is
    about.

Deviations
    1. Only the paper's abstract could be read and a summary of its method. They say: weights are predicted from the
       losses at all exits, by a multi-layer perceptron; it learns to predict which classifier is the most confident, by
       cross-entropy; weights are residual; no data are held out. Reconstructed: that residual means 1 + q, as the
       weights of the method that it improves on (L2W-DEN) are 1 plus a correction; that the most confident exit is the
       one with the least loss, of equals the first; one hidden layer; losses as they are, not normalised; the order of
       the two steps; rate and size of g; the exit rule.
    2. A small residual network with five early exits on cluttered Fashion-MNIST, 6,000 images, 2 epochs. Backbones and
       data of the paper are not told in what could be read.
    3. AdamW, whose learning rate rises and then falls linearly to 0; gradients are clipped at norm 1; images are not
       randomly shifted or flipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.images import ImageMethod
from eelit.methods.policies.base import checked
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import losses_of


def predictor(K: int, hidden: int) -> nn.Sequential:
    """Return g, from the losses ``[n, K]`` of images to a number ``[n, K]`` for each exit."""
    return nn.Sequential(nn.Linear(K, hidden), nn.ReLU(), nn.Linear(hidden, K))


def likeliest(losses: Tensor) -> Tensor:
    """Return ``t [n]``, the exit (from 0) of the least of the losses ``[K, n]``."""
    return losses.argmin(dim=0)


def self_supervised_loss(g: nn.Module, losses: Tensor) -> Tensor:
    """Return ``mean_i CE(q_i, t_i)`` from losses ``[K, n]``, which are taken as they are."""
    known = losses.detach()
    return F.cross_entropy(g(known.T), likeliest(known))


@torch.no_grad()
def weights_of(g: nn.Module, losses: Tensor) -> Tensor:
    """Return ``w = 1 + q``, ``[K, n]``, of losses ``[K, n]``."""
    q: Tensor = g(losses.T).softmax(dim=-1)
    return 1 + q.T


def train_weighted(model: MultiExit, data: Data, bench: Bench, *, hidden: int, g_rate: float, **options: Any) -> None:
    """Train g by steps of Adam at ``g_rate`` and, on what it says, everything else; ``options`` are those of `fit`.

    Raises `ValueError` for a g without units, or that moves backwards.
    """
    checked("SESW", "hidden", hidden, whole=True, least=1)
    checked("SESW", "g_rate", g_rate, least=0, finite=True)

    def train() -> None:
        torch.manual_seed(bench.seed)
        g = predictor(model.exits, hidden).to(device_of(model))
        adam = torch.optim.Adam(g.parameters(), lr=g_rate)

        def loss(batch: Batch) -> Tensor:
            losses = losses_of(model(batch.inputs), batch.targets)
            adam.zero_grad()
            self_supervised_loss(g, losses).backward()
            adam.step()
            return (weights_of(g, losses) * losses).mean(dim=1).sum()

        model.train()
        label = "training all exits on weighted images"
        fit(model.parameters(), data.train, loss, bench, label=label, beside=(adam,), **options)

    settings = {"hidden": hidden, "g_rate": g_rate, "train": len(data.train), **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@dataclass(frozen=True)
class SelfSupervisedWeighting(ImageMethod):
    """Exits that learn more from the images that they are likeliest to answer."""

    network: str = "resnet"  # resnet, or vgg with blocks = 4; the paper: not read
    images: str = "cluttered"  # data; the paper: not read
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks, or plain convolutions, of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost, where early exits stand
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes over the images
    batch: int = 32  # images of a step
    rate: float = 2e-3  # learning rate of AdamW
    hidden: int = 64  # units of g; the paper: not read; L2W-DEN: 500
    g_rate: float = 1e-3  # learning rate of g by Adam; the paper: not read; L2W-DEN: 1e-4

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999, 1.1)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything together, on weighted images."""
        train_weighted(model, data, bench, hidden=self.hidden, g_rate=self.g_rate, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> MaxConfidence:
        """The knob is the threshold."""
        return MaxConfidence(knob)
