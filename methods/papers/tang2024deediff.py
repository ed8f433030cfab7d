"""AdaDiff: Accelerating Diffusion Models through Step-Wise Adaptive Computation (AdaDiff).

Idea
    A diffusion model turns noise into an image in many steps, each of which runs the whole network to estimate the
    noise. How much of the network is needed differs from step to step. So a light head after each layer estimates the
    error of the noise estimate if it were read out there, and the step ends at the first layer where this error is
    small.

Model
    x_t = a_t x_0 + s_t eps with a_t^2 + s_t^2 = 1, a_t^2 = exp(-(0.1 t + 9.95 t^2)), t from 0 (image) to 1 (noise).
    U-ViT of N = 2 h + 1 layers: x_t in patches, a token each, and one token of sines for t before them; h layers, one
    in the middle, and h layers that also read the state of their counterpart among the first h. L_i: the tokens after
    layer i.   g_i = s_t x_t + a_t f(L_i),  f: normalisation, linear layer, patches put together, 3×3 convolution.
    u_i = sigmoid(w_i L_i + b_i), for each pixel of each patch; L_i is detached, so that it learns nothing from u_i.

Training
    Everything at once:  L = mean (g_N - eps)^2 + lambda L_u + beta L_UAL + gamma L_all,  means over pixels, all of it
    times w_t = min(1 / a_t^2, most) for each image,
    L_u = mean_i mean (u_i - v_i)^2,  v_i = tanh |g_i - eps| in [0, 1), without gradient,
    L_UAL = mean_i mean (1 - u_i) (g_i - eps)^2,   L_all = mean_i mean (g_i - eps)^2.
    For one pixel L_u and L_UAL are least, at lambda = beta = 1, where u_i = v_i + (g_i - eps)^2 / 2: the uncertainties
    exceed the errors that they predict. In the paper gamma is 0; the term is from a reproduction, which observed that u
    rose instead of errors falling.

Exit rule
    In each step, image by image: stop at the first layer whose u_i, mean over pixels, is below delta (strictly); else
    the last layer answers. delta = 0 never stops, delta > 1 always at the first layer.

Skipped
    The layers after the exit, for this image in this step. All steps are run.

Measured apart
    The task differs from that of the tracks: noise is estimated in images, which have no class here.

Deviations
    1. Curves show single steps: test images, each with noise at a random t; quality is the explained variance of the
       noise, 1 - mean (answer - eps)^2 / mean eps^2. So exits can be replayed and knobs chosen as everywhere. Complete
       images are generated where claims are tested, and compared there with real ones.
    2. Trousers, sneakers and ankle boots of Fashion-MNIST (with a border, averaged to 16×16, one channel, 9,000 images,
       9 epochs), 7 layers of width 96 trained from scratch, instead of U-ViT with 13 and more layers of width 512
       and more on CIFAR-10, CelebA, ImageNet and COCO, fine-tuned, in the code for 200,000 steps of 512 images on
       CIFAR-10. AdamW, its rate falling to 0, weight decay 0.01; the code: a constant rate, 0.03. The last weights
       answer, not their moving mean.
    3. g_i is one for all layers, as in the released code; the paper's formula has one for each (``shared``). In both it
       reads noise off the tokens alone. Here layers need only find what x_t does not show: f = a_t eps - s_t x_0 if all
       is right. And noisy images, in whose small errors outlines are, count more (``most``). All that the rule and the
       losses see is noise, as in the paper.
    4. L_u and L_UAL are means over layers, where the paper adds them up. So is L_u in the code; L_UAL has there the
       weights c_i / sum_j c_j, c_i the mean of 1 - u_i over the whole batch. Both let u_i learn from L_UAL.
    5. Each image exits by itself. The code takes the mean over the whole batch, which then leaves together (on CIFAR-10
       it draws one image at a time), and among the first h layers requires the test to be passed twice, which the paper
       does not mention.
    6. t enters as a token, without its own position in u_i, as in the code, whose heads read only patches.
    7. CALM and BERxiT, with which the paper compares, are no rivals here, as how they were adapted is not described.
       Rivals of equal cost are, which the paper has not: the whole network in fewer steps, and layers fixed for each
       step.
    8. Images are generated in 25 steps, each with fresh noise as in DDPM, instead of DPM-Solver or, for CIFAR-10, 1,000
       steps of Euler-Maruyama. The image that each step estimates is clipped to the values that training images have,
       and the noise is what is then left of x_t (``clip_denoised`` of OpenAI's guided-diffusion); the released code
       does not clip. At t = 1 an error of the noise is an error of the image 152 times as large.
    9. Images are small and of three classes so that 2,547 steps of 32 images teach the network to draw them: most are
       plainly trousers, a sneaker or a boot, with uneven greys. By the distance of the claims, on 500 test images, the
       whole network is 17 from real ones, the first layer alone 109, draws of a normal distribution with the training
       images' mean and covariance 26, and other real images 0.5. At the chosen threshold AdaDiff is 112 from them: it
       leaves at the first layer while images are mostly noise, where errors of noise are small and outlines are made.
       The whole network in 7 steps is 19 from them, at about the same cost.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.vision_transformer import Layout, encoder_layer
from eelit.methods.engine import tasks
from eelit.methods.engine.evaluate import infer
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Mean, Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Chance
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ClasslessExitMethod, Prepared
from eelit.methods.policies.base import ANSWER, Policy, checked
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit

State: TypeAlias = tuple[Tensor, tuple[Tensor, ...], Tensor]
"""Tokens ``[N, 1 + patches, d]``, those after each of the first layers whose counterpart has not been run yet, and what
was read ``[N, D + 1]``."""
CONFIDENCE = "confidence"
"""The name of 1 - u_i, mean over pixels, in what an exit says."""


def levels(t: Tensor) -> tuple[Tensor, Tensor]:
    """Return a_t and s_t, the shares of image and noise at times ``t``."""
    log = -(0.1 * t + 9.95 * t**2)
    return (log / 2).exp(), (1 - log.exp()).sqrt()


def image_weights(t: Tensor, most: float) -> Tensor:
    """Return w: how much images count in the loss, by their times ``t``."""
    return (1 / levels(t)[0] ** 2).clamp(max=most)


def noisy(x: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """Return what a network reads ``[N, D + 1]``: x_t of images ``[N, D]`` with noise ``[N, D]``, and t ``[N]``."""
    a, s = levels(t[:, None])
    return torch.cat([a * x + s * eps, t[:, None]], dim=1)


def images_in(examples: Examples) -> Tensor:
    """Return the images ``[N, D]`` in noisy ones, whose noise is known."""
    x = torch.stack(list(examples.inputs))
    a, s = levels(x[:, -1:])
    return (x[:, :-1] - s * examples.targets) / a


def with_noise(x: Tensor, seed: int) -> Examples:
    """Return images ``[N, D]`` with noise at random times; the noise is the target ``[N, D]``."""
    draw = torch.Generator().manual_seed(seed)
    t, eps = torch.rand(len(x), generator=draw), torch.randn(x.shape, generator=draw)
    return Examples(list(noisy(x, eps, t)), eps)


class Tokens(nn.Module):
    """A noisy image with its time as tokens."""

    def __init__(self, side: int, patch: int, width: int) -> None:
        super().__init__()
        self.side, self.width = side, width
        self.patches = nn.Conv2d(1, width, patch, stride=patch)
        self.positions = nn.Parameter(torch.randn(1, 1 + (side // patch) ** 2, width) * 0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, side² + 1]`` to ``[N, 1 + patches, width]``: first sines and cosines of 999 t, then patches."""
        half = self.width // 2
        waves = torch.exp(-math.log(10000) * torch.arange(half, device=x.device) / half)
        angles = 999 * x[:, -1:] * waves
        time = torch.cat([angles.cos(), angles.sin()], dim=1)
        patches = self.patches(x[:, :-1].reshape(-1, 1, self.side, self.side)).flatten(2).mT
        return torch.cat([time[:, None], patches], dim=1) + self.positions


class Layer(nn.Module):
    """One layer: among the first (``keeps``), in the middle, or among the last, which ``joins`` a counterpart."""

    def __init__(self, layout: Layout, tokens: Tokens | None, *, keeps: bool, joins: bool) -> None:
        super().__init__()
        self.tokens, self.keeps = tokens, keeps
        self.join = nn.Linear(2 * layout.d, layout.d) if joins else None
        self.block = encoder_layer(layout)

    def forward(self, state: Tensor | State) -> State:
        """Map the state before the layer, or noisy images ``[N, D + 1]`` before the first one, to that behind it."""
        kept: tuple[Tensor, ...] = ()
        if isinstance(state, Tensor):
            x, read = state if self.tokens is None else self.tokens(state), state
        else:
            x, kept, read = state
        if self.join is not None:
            x, kept = self.join(torch.cat([x, kept[-1]], dim=-1)), kept[:-1]
        x = self.block(x)
        return x, (*kept, x) if self.keeps else kept, read


def put_together(patches: Tensor) -> Tensor:
    """Return the images ``[N, 1, side, side]`` of patches ``[N, g², p²]``, both row by row."""
    n, count, size = patches.shape
    g, p = math.isqrt(count), math.isqrt(size)
    return patches.reshape(n, g, g, p, p).permute(0, 1, 3, 2, 4).reshape(n, 1, g * p, g * p)


class Estimate(nn.Module):
    """g: what is noise, read off the tokens after a layer and off x_t."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.norm, self.line = nn.LayerNorm(width), nn.Linear(width, patch**2)
        self.smooth = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, tokens: Tensor, read: Tensor) -> Tensor:
        """Map tokens ``[N, 1 + patches, d]`` and x_t with t ``[N, D + 1]`` to noise ``[N, D]``."""
        a, s = levels(read[:, -1:])
        f: Tensor = self.smooth(put_together(self.line(self.norm(tokens))[:, 1:])).flatten(1)
        return s * read[:, :-1] + a * f


class Exit(nn.Module):
    """g_i with u_i; the last exit, which nobody asks how sure it is, says its answer alone."""

    def __init__(self, estimate: Estimate, width: int, patch: int, *, last: bool) -> None:
        super().__init__()
        self.estimate, self.doubt, self.last = estimate, nn.Linear(width, patch**2), last

    def uncertainty(self, tokens: Tensor) -> Tensor:
        """Return u_i ``[N, D]``; no gradient reaches the tokens."""
        return put_together(self.doubt(tokens[:, 1:].detach()).sigmoid()).flatten(1)

    def forward(self, state: State) -> Tensor | dict[str, Tensor]:
        """Return the noise ``[N, D]``, and how sure of it the exit is ``[N]``."""
        answer: Tensor = self.estimate(state[0], state[-1])
        if self.last:
            return answer
        return {ANSWER: answer, CONFIDENCE: 1 - self.uncertainty(state[0]).mean(dim=1)}


def u_vit(side: int, patch: int, width: int, half: int, *, shared: bool, seed: int) -> MultiExit:
    """Return a U-ViT of ``2 half + 1`` layers for images of ``side²`` pixels, with an exit behind each.

    Raises `ValueError` if patches do not fill the image, or if there is no layer before the middle one.
    """
    if side % patch or half < 1:
        raise ValueError(f"patches of {patch} pixels must fill {side}, and {half} layers before the middle be one")
    torch.manual_seed(seed)
    layout, count = Layout(side // patch, width, 4, 0), 2 * half + 1
    layers = [
        Layer(layout, Tokens(side, patch, width) if i == 0 else None, keeps=i < half, joins=i > half)
        for i in range(count)
    ]
    one = Estimate(width, patch)
    reads = [one if shared else Estimate(width, patch) for _ in layers]
    exits = [Exit(g, width, patch, last=i == count - 1) for i, g in enumerate(reads)]
    return MultiExit(layers, exits).eval()


@dataclass(frozen=True)
class Weights:
    """What the terms of the loss weigh."""

    lam: float
    beta: float
    gamma: float

    def loss(self, g: Sequence[Tensor], u: Sequence[Tensor], eps: Tensor, w: Tensor | float = 1.0) -> Tensor:
        """Return L of the estimates of all layers and their uncertainties, each ``[N, D]``; images count w ``[N]``."""
        errors = torch.stack([(each - eps) ** 2 for each in g])
        v = torch.stack([(each - eps).abs().tanh() for each in g]).detach()
        doubts = torch.stack(list(u))
        L_u, L_UAL = (doubts - v) ** 2, (1 - doubts) * errors
        of_layers = (self.lam * L_u + self.beta * L_UAL + self.gamma * errors).mean(dim=(0, 2))
        return (w * (errors[-1].mean(dim=1) + of_layers)).mean()


@torch.inference_mode()
def drawn(
    model: MultiExit, policies: Sequence[Policy | None], noise: Tensor, span: tuple[float, float], seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Return images ``[N, D]`` made of ``noise [N, D]`` and the exit ``[steps, N]`` of each in each step, from 0.

    Each step has a policy; one without is made by the whole network. Pixels of images are within ``span``, and so is
    what each step takes x_0 to be: else one poor estimate would bring x_t to where the network never learned. Given
    x_0 and x_t, a step draws what x_t was when it had less noise, with fresh noise drawn from ``seed``, as in DDPM:
    so what an earlier step mistook does not stay for good.
    """
    draw = torch.Generator().manual_seed(seed)
    times, x, exits = torch.linspace(1, 0, len(policies) + 1), noise, []
    for policy, (t, after) in zip(policies, pairwise(times), strict=True):
        read = torch.cat([x, t.expand(len(x), 1)], dim=1)
        if policy is None:
            eps, at = model.full(read), torch.full((len(x),), model.exits - 1)
        else:
            found = infer(model, read, policy)
            eps, at = found.answers, found.exits
        (a, s), (a_after, s_after) = levels(t), levels(after)
        x_0 = ((x - s * eps) / a).clamp(*span)
        fresh = s_after / s * (1 - (a / a_after) ** 2).sqrt()
        kept, added = (s_after**2 - fresh**2).sqrt(), torch.randn(x.shape, generator=draw)
        x = a_after * x_0 + kept * (x - a * x_0) / s + fresh * added
        exits.append(at)
    return x, torch.stack(exits)


@dataclass(frozen=True)
class AdaDiff(ClasslessExitMethod):
    """Uncertainty of each layer in each step of a diffusion model."""

    images: str = "fashion-mnist"  # data; the paper: CIFAR-10, CelebA, ImageNet, COCO
    train_size: int = 30000  # training images, before classes are chosen; CIFAR-10: 50,000
    held: int = 1000  # images for validation, and as many for tests
    taken: tuple[int, ...] = (1, 7, 9)  # classes: trousers, sneakers and ankle boots; none named: all, as in the paper
    border: int = 2  # pixels of background put around an image
    square: int = 2  # side of squares of pixels that are averaged, to make images smaller
    patch: int = 4  # side of a patch in pixels; U-ViT: 2 to 4
    width: int = 96  # of a token; U-ViT: 512 and more
    half: int = 3  # layers before the middle one, and behind it; U-ViT: 6 and more
    shared: bool = True  # one read-out g for all layers, as in the released code; False: each its own, as in the paper
    lam: float = 1.0  # lambda; the paper: 1
    beta: float = 1.0  # weight of the layers' losses by their certainty; the paper: 1
    most: float = 5.0  # largest weight w of an image in the loss; the paper weighs all alike: 1
    gamma: float = 0.0  # weight of the layers' losses as they are; the paper: none
    epochs: float = 9.0  # passes over the images
    batch: int = 32  # images of a step; the released code: 512 on CIFAR-10
    rate: float = 2e-3  # largest learning rate; the released code: 4e-4 on CIFAR-10

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    knob: ClassVar[str] = "uncertainty threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        1.1, 0.7, 0.65, 0.6, 0.56, 0.53, 0.5, 0.45, 0.4, 0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05, 0.0,
    )  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "taken": (), "border": 0, "square": 1, "train_size": 900, "held": 300, "patch": 2,
        "width": 32, "half": 1, "epochs": 12.0, "rate": 5e-3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 5000, "half": 2, "width": 64, "epochs": 3.0, "rate": 4e-3}
    full: ClassVar[Mapping[str, Any]] = {
        "train_size": 50000, "taken": (), "border": 0, "square": 1, "width": 128, "epochs": 30.0, "rate": 1e-3,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"patch": 4, "width": 16, "taken": (0, 1), "border": 2, "square": 2}

    def __post_init__(self) -> None:
        """Refuse what cannot be meant. Raises `ValueError`."""
        for name in ("lam", "beta", "gamma"):
            checked("AdaDiff", name, getattr(self, name), least=0, finite=True)
        checked("AdaDiff", "most", self.most, least=1, finite=True)
        if self.width % 8:
            raise ValueError(
                f"AdaDiff: four heads of attention, and sines in pairs, need a width like 64, not {self.width}"
            )

    @property
    def quality(self) -> str:
        """How much of the noise is told apart from the image."""
        return "explained variance of the noise"

    def load(self) -> Data:
        """Images ``[D]`` with mean 0 and deviation 1 to learn from; noisy ones with their noise for all else."""
        found = tasks.images(self.images, train=self.train_size, validation=4 * self.held)
        (clean, classes), (held, _), (last, _) = map(self._shown, (found.train, found.validation, found.test))
        mean, deviation = clean.mean(), clean.std()
        noised = [with_noise((x[: self.held] - mean) / deviation, seed) for seed, x in ((1, held), (2, last))]
        return tasks.data([Examples(list((clean - mean) / deviation), classes), *noised], classes=None)

    def _shown(self, part: Examples) -> tuple[Tensor, Tensor]:
        """Return the images of the chosen classes, made smaller, as pixels ``[N, D]``, and their classes ``[N]``."""
        x, classes = torch.stack(list(part.inputs)), part.targets
        if self.taken:
            chosen = torch.isin(classes, torch.tensor(self.taken))
            x, classes = x[chosen], classes[chosen]
        x = F.pad(x, (self.border,) * 4, value=float(x.min()))
        return F.avg_pool2d(x, self.square).flatten(1), classes

    def build(self, data: Data, seed: int) -> MultiExit:
        """Return an untrained small U-ViT for square images, with an exit after each of its layers."""
        side = math.isqrt(len(data.train.inputs[0]))
        return u_vit(side, self.patch, self.width, self.half, shared=self.shared, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Everything at once, noise and its time drawn anew in each step."""
        weights = Weights(self.lam, self.beta, self.gamma)
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}

        def loss(batch: Batch) -> Tensor:
            x = batch.inputs
            eps, t = torch.randn_like(x), torch.rand(len(x), device=x.device)
            states = list(model.states(noisy(x, eps, t)))
            exits = [cast(Exit, head) for head in model.heads]
            g = [head.estimate(state[0], state[-1]) for head, state in zip(exits, states, strict=True)]
            u = [head.uncertainty(state[0]) for head, state in zip(exits, states, strict=True)]
            return weights.loss(g, u, eps, image_weights(t, self.most))

        def train() -> None:
            model.train()
            fit(model.parameters(), data.train, loss, bench, label="learning to tell noise", **options)

        trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """The knob is delta: stop where 1 - u is above 1 - delta."""
        return ScoreThreshold(1 - knob, of=CONFIDENCE)

    @property
    def score(self) -> Score:
        """How much of the variance of noise ``[N, D]`` the answers explain: errors of images ÷ the variance in all."""
        return Mean(
            lambda answers, targets: 1 - ((answers - targets) ** 2).double().mean(dim=1) / (targets**2).double().mean()
        )

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return what is explained by who says that there is no noise: nothing."""
        n = len(prepared.split("test").targets)
        return Chance(what=f"no noise seen in {n} images", quality=0.0, error=1 / math.sqrt(n))
