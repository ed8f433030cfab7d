"""The Cascading Neural Network: Building the Internet of Smart Things (Cascading Neural Network).

Idea
    A sensor or a phone cannot run a deep network, and sending all inputs to the cloud takes time and traffic. Give
    every part of the network an output layer, and put the first parts on the device: most inputs are answered there,
    and only where its output layers are not confident does it send its intermediate results.

Model
    h_0 = x, h_i = F_i(h_{i-1}), i = 1 … n.  An output layer for each: p_i = softmax(W_i flatten(h_i) + b_i). Parts 1 …
    s with their output layers are on the device, s + 1 … n in the cloud; with more machines in between there are more
    cuts.

Training
    Two stages (main variant): the network with its last output layer alone, by cross-entropy; it is frozen, and the
    other output layers are trained on it, each by its own cross-entropy.
    Joint: everything together from the start, L = sum_i CE(p_i, y).

Exit rule
    c_i = max_k p_i[k].  Stop at the first i with c_i >= tau, one tau for all; the last always answers. tau = 0 stops at
    the first output layer, tau > 1 never. If none on the device reaches tau, h_s is sent. Without a connection the
    device answers by its last output layer.

Skipped
    The parts after the output layer that answers; and if that is on the device, the transfer to the cloud and back. The
    cost is the simulated time to the answer: MACs ÷ speed on each machine, then h_s, quantised and compressed (and 15
    bytes beside), over a link whose bandwidth varies, and the answer back. The full model is the same network, cut in
    the same way, without output layers before the last.

Trained otherwise
    "two stages": besides the epochs that all rows have, which train the network, the output layers are trained for as
    many more on its frozen states.

Deviations
    1. The article could not be read beyond its abstract: training, confidence and the single threshold are assumed, and
       both plausible ways of training are here.
    2. A residual network of six parts on cluttered Fashion-MNIST. Its states have more values than the picture (9,216
       behind the fourth part, the picture 2,304), unlike where inputs are large or layers narrow. So a state is sent in
       two bits for each value, and compressed: 1.3 kB on average ("joint": 0.6 kB), where a compressed picture, which
       keeps eight bits, takes 0.9 kB. Whether the paper does anything of the kind is not known.
    3. Output layers read the mean of their map over at most 4×4 places: flattening the whole map would need ten times
       the weights, and the stored maps gigabytes.
    4. Speeds of machines, bandwidth and travel time are assumed (settings), and no time is measured: a device of 2
       billion multiply-accumulates a second, a cloud of 100, and a link of usually 8 Mbit/s, which varies between half
       and twice that by a seeded Markov chain. Images arrive four times a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import Shape, places
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.images import ImageMethod
from eelit.methods.families.tiers import FixedCutMethod, Plan, Prepared
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.stream import Always, World
from eelit.methods.world.traces import Trace, steady, wandering
from eelit.methods.world.wire import Codec, Quantised, Whole

SIDE = 4
"""Places along a map that an output layer takes means of."""

COLOURS = 3
"""Most channels of a picture; states have more."""


def pooled(h: Any) -> Any:
    """Return what an output layer reads of a map ``[N, C, H, W]``: means over places."""
    return F.adaptive_avg_pool2d(h, places(h.shape[1:], SIDE))


@dataclass(frozen=True)
class FewBits:
    """A state ``[1, C, H, W]`` in few bits for each value, compressed; a picture keeps eight."""

    bits: int
    lossless: ClassVar[bool] = False

    def pack(self, state: Tensor) -> bytes:
        """Return the bytes that cross the link."""
        return Quantised(self.bits if state.shape[1] > COLOURS else 8).pack(state)

    def unpack(self, message: bytes) -> Tensor:
        """Return the numbers that the bytes stand for."""
        return Quantised().unpack(message)  # how many steps there were makes no difference here


@dataclass(frozen=True)
class Cascading(ImageMethod, FixedCutMethod):
    """One threshold for the output layers of a network that lies on several machines."""

    frozen: bool = True  # two stages; False: everything together; the paper: not known
    network: str = "resnet"  # the paper: not known, the predecessor has fully connected and convolutional layers
    images: str = "cluttered"  # data; the predecessor: MNIST and CIFAR-10
    train_size: int = 6000  # training images
    pixels: int = 4  # side of the square of pixels that the first convolution sees as one place
    widths: tuple[int, ...] = (128, 256)  # channels of each resolution
    blocks: int = 3  # residual blocks of each width
    shares: tuple[float, ...] = (0.2, 0.35, 0.5, 0.65, 0.8)  # of the cost; the paper: after every hidden layer
    half: bool = True  # whether the network learns with products in bfloat16
    epochs: float = 2.0  # passes that train the network, alone or with all
    batch: int = 32  # images of a step
    rate: float = 2e-3  # largest learning rate
    head_epochs: float = 2.0  # passes of the second stage
    head_rate: float = 1e-3  # learning rate there
    bits: int = 2  # of each value of a state that is sent, then compressed; 0: float32; the paper: not known
    cuts: tuple[int, ...] = (4,)  # s: parts before each link; the paper: chosen by layer sizes and the device
    speeds: tuple[float, ...] = (2e9, 1e11)  # multiply-accumulates per second of device … cloud; assumed
    bandwidths: tuple[float, ...] = (8e6,)  # usual bits per second of each link; assumed
    round_trips: tuple[float, ...] = (0.04,)  # seconds that a bit travels there and back on each link; assumed
    period: float = 0.25  # seconds between two pictures; assumed

    knob: ClassVar[str] = "tau"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8, 0.9, 0.95, 0.99, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"two stages": {}, "joint": {"frozen": False}}
    tiny: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.tiny, "head_epochs": 4.0, "head_rate": 1e-2, "cuts": (1,), "speeds": (3e6, 1e8),
        "bandwidths": (8e4,),
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.smoke, "head_epochs": 3.0, "head_rate": 5e-3, "cuts": (3,), "speeds": (2e7, 1e9),
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        **ImageMethod.others, "bits": 0, "cuts": (2,), "speeds": (1e6, 1e8), "bandwidths": (2e4,),
        "round_trips": (0.1,),
    }  # fmt: skip

    def head(self, shape: Shape, classes: int) -> nn.Module:
        """An output layer for maps ``[C, H, W]``."""
        down, across = places(shape, SIDE)
        pool = nn.AdaptiveAvgPool2d((down, across))  # keeps what is pooled already
        return nn.Sequential(pool, nn.Flatten(), nn.Linear(shape[0] * down * across, classes))

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the network, then heads on its frozen states; or all together if it is not ``frozen``."""
        if not self.frozen:
            train_joint(model, data, bench, weights=[1.0] * model.exits, **self.options)
            return
        train_plain(model, data, bench, **self.options)
        heads: dict[str, Any] = {"epochs": self.head_epochs, "batch": self.batch, "rate": self.head_rate}
        train_heads(model, data, bench, keep=pooled, **heads)

    def policy(self, knob: float, prepared: Any) -> MaxConfidence:
        """The knob is tau."""
        return MaxConfidence(knob)

    @property
    def codec(self) -> Codec:
        """Few bits for each value, compressed; or all values as they are."""
        return FewBits(self.bits) if self.bits else Whole()

    def world(self, split: Split, seed: int) -> World:
        """A chain from the device to the cloud whose links never break."""
        links = (
            Link(self.bandwidth(usual, [seed, split == "test", number]), travel)
            for number, (usual, travel) in enumerate(zip(self.bandwidths, self.round_trips, strict=True))
        )
        return World(tuple(Computer(steady(speed)) for speed in self.speeds), tuple(links))

    def bandwidth(self, usual: float, seed: list[int]) -> Trace:
        """A link's bandwidth: half, three quarters, once, one and a half times or twice the usual, for five seconds."""
        return wandering(usual, (0.5, 0.75, 1.0, 1.5, 2.0), stay=5.0, seconds=600.0, seed=seed)

    def came(self, samples: int) -> list[float]:
        """One picture after the other, at equal distances."""
        return [sample * self.period for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Always:
        """The cuts are the same for all pictures."""
        return Always(Plan(self.cuts, knob, exit_))
