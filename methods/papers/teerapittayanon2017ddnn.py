"""Distributed Deep Neural Networks over the Cloud, the Edge and End Devices (DDNN).

Idea
    Several cameras see the same object, each from its own side. Train one network and cut it along the hierarchy of
    machines: each camera runs a tiny binary part and reports how it scores the classes; the scores together are an
    answer. Only where that is doubtful do the cameras send more, a bit for each value of their maps, to a deeper part
    in the cloud. Much less crosses the links than if pictures were sent, and a camera that fails costs little.

Model
    D devices, views x_1 … x_D.  ConvP block: 3×3 convolution, 3×3 max-pooling, batch normalisation, b(·).
    FC block: linear layer, batch normalisation.  b(a) = +1 if a >= 0, else -1; weights w are used as b(w).
    Device i: h_i = ConvP(x_i) of f maps of o values, s_i = FC(h_i), weights of its own.
    Local exit: z_L merges s_1 … s_D.  Cloud: g merges h_1 … h_D, then two ConvP blocks, and z_C = FC.
    Merged by maximum (MP), mean (AP) or concatenation (CC; local scores then pass another FC block). MP for scores and
    CC for maps is the paper's choice. Pooling has stride 2 on devices and 1 in the cloud.

Training
    All parts together as on one machine:  L = CE(z_L, y) + CE(z_C, y) + sum_i CE(s_i, y).
    Gradients pass b where |a| <= 1 and are 0 elsewhere; those of b(w) go to w, which is clipped to [-1, 1] at each step.

Exit rule
    eta(p) = -sum_c p_c ln p_c / ln C  for p = softmax(z_L). Answer locally if eta < T (strictly), else the cloud
    answers. The knob is T: 0 leaves all to the cloud, anything above 1 leaves nothing to it.

Skipped
    What devices would send to the cloud, and the cloud's part. A device sends 4C bytes of scores for each picture, and
    f o / 8 bytes of maps if it does not leave:  c = 4C + (1 - l) f o / 8  with l the share that leaves. That is the
    cost, counted from the bytes that are sent; the full model is the same network without the local exit: f o / 8.

Trained otherwise
    By Adam without weight decay, as in the paper: binary weights have no size that could decay.

Deviations
    1. Six synthetic views of Fashion-MNIST instead of the multi-camera pictures of MVMC (3 classes, colour, 680 to train
       on), which no package ships: each camera's canvas of 32×32 shows the picture shifted to a side, in part out of
       sight, under pieces of other pictures. All cameras see the object, so no view is empty.
    2. 10 classes instead of 3 make scores dearer (40 bytes, not 12), and grey pictures are a third as large as coloured
       ones: against sending pictures less can be saved than in the paper.
    3. 8,000 pictures, 3 epochs in batches of 32, the rate rising to 5e-3 and falling to 0, instead of 100 epochs of one
       batch each at 1e-3; gradients are clipped at norm 1. Weights start small, in torch's way, instead of at deviation
       1, from where so few steps could not change a sign.
    4. Scales and shifts of batch normalisation are not clipped; the released code clips them along with the weights, and
       on a processor, where its clipping is without effect, nothing at all.
    5. Eq. for entropy has no 1e-9 in its logarithm.
    6. The exit of an edge server between devices and cloud is left out: in the released code it is commented out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import tasks
from eelit.methods.engine.costs import count
from eelit.methods.engine.course import decide
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import MultiExit, evaluating
from eelit.methods.engine.weights import trained
from eelit.methods.families.tiers import Course, Executed, Plan, Prepared, StoredTiers, TierMethod, answer_message
from eelit.methods.families.tiers import read_answer
from eelit.methods.policies.base import said
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.world.machines import Computer, Link, Power
from eelit.methods.world.stream import Always, Journey, Leg, World
from eelit.methods.world.traces import steady
from eelit.methods.world.wire import Floats, Signs


class Sign(torch.autograd.Function):
    """b(a), with a gradient that passes where ``|a| <= 1``."""

    @staticmethod
    def forward(ctx: Any, a: Tensor) -> Tensor:
        """Return +1 where a >= 0, else -1."""
        ctx.save_for_backward(a)
        return torch.where(a >= 0, 1.0, -1.0)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        """Let it pass where b is not far from its step."""
        (a,) = ctx.saved_tensors
        return gradient * (a.abs() <= 1)


def binary(a: Tensor) -> Tensor:
    """Return b(a)."""
    found: Tensor = Sign.apply(a)
    return found


class BinaryConvolution(nn.Conv2d):
    """A convolution with weights b(w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Convolve; w is within [-1, 1], so its gradient is that of b(w)."""
        return F.conv2d(x, binary(self.weight), self.bias, self.stride, self.padding)


class BinaryLinear(nn.Linear):
    """A linear layer with weights b(w)."""

    def forward(self, x: Tensor) -> Tensor:
        """Multiply."""
        return F.linear(x, binary(self.weight), self.bias)


class ConvP(nn.Sequential):
    """Convolution, pooling, normalisation, b: maps ``[N, f, H / stride, W / stride]`` of +1 and -1."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        conv, pool = BinaryConvolution(inputs, filters, 3, padding=1), nn.MaxPool2d(3, stride, padding=1)
        super().__init__(conv, pool, nn.BatchNorm2d(filters))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, inputs, H, W]``."""
        return binary(super().forward(x))


class FC(nn.Sequential):
    """A linear layer on all values of a map, then normalisation: logits ``[N, classes]``."""

    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__(nn.Flatten(), BinaryLinear(inputs, classes), nn.BatchNorm1d(classes))


def merged(parts: Tensor, how: str) -> Tensor:
    """Return what devices say, ``[N, D, k, ...]``, as one: ``[N, k, ...]`` by MP or AP, ``[N, D k, ...]`` by CC."""
    if how == "CC":
        return parts.flatten(1, 2)
    return parts.amax(dim=1) if how == "MP" else parts.mean(dim=1)


class Devices(nn.Module):
    """The ConvP blocks of all devices: views ``[N, D, channels, H, W]`` in bytes to h ``[N, D, f, H / 2, W / 2]``."""

    def __init__(self, cameras: int, channels: int, filters: int) -> None:
        super().__init__()
        self.each = nn.ModuleList(ConvP(channels, filters, 2) for _ in range(cameras))

    def forward(self, x: Tensor) -> Tensor:
        """Give each device its own view."""
        return torch.stack([block(scaled(x[:, i])) for i, block in enumerate(self.each)], dim=1)


def scaled(pixels: Tensor) -> Tensor:
    """Return pixels from 0 to 255 as numbers from -1 to 1."""
    return pixels.float() / 127.5 - 1


class Local(nn.Module):
    """The local exit: each device scores its own map, and the scores are merged."""

    def __init__(self, cameras: int, values: int, classes: int, how: str) -> None:
        super().__init__()
        self.each, self.how = nn.ModuleList(FC(values, classes) for _ in range(cameras)), how
        self.last = FC(cameras * classes, classes) if how == "CC" else nn.Identity()

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        """Return z_L ``[N, C]``, and under "views" s ``[N, D, C]``."""
        s = torch.stack([fc(h[:, i]) for i, fc in enumerate(self.each)], dim=1)
        return {"answer": self.merge(s), "views": s}

    def merge(self, s: Tensor) -> Tensor:
        """Return z_L: what the local aggregator computes."""
        found: Tensor = self.last(merged(s, self.how))
        return found


class Cloud(nn.Module):
    """The deeper part: h ``[N, D, f, h, w]`` is merged and goes through two ConvP blocks."""

    def __init__(self, channels: int, filters: int, how: str) -> None:
        super().__init__()
        self.how, self.blocks = how, nn.Sequential(ConvP(channels, filters, 1), ConvP(filters, filters, 1))

    def forward(self, h: Tensor) -> Tensor:
        """Return maps ``[N, filters, h, w]``."""
        found: Tensor = self.blocks(merged(h, self.how))
        return found


def losses(model: MultiExit, x: Tensor, y: Tensor) -> Tensor:
    """Return CE of z_L, of z_C, and of s_1 … s_D, ``[2 + D]``."""
    h = model.stages[0](x)
    local, z = model.heads[0](h), model.heads[1](model.stages[1](h))
    return exit_losses(torch.stack([local["answer"], z, *local["views"].unbind(dim=1)]), y)


@torch.no_grad()
def clip(model: nn.Module) -> None:
    """Bring all binary weights back to [-1, 1]."""
    for part in model.modules():
        if isinstance(part, BinaryConvolution | BinaryLinear):
            part.weight.clamp_(-1, 1)


def train_together(model: MultiExit, data: Data, bench: Bench, **options: Any) -> None:
    """Minimise L over all parts; ``options`` are those of `fit`."""

    def loss(batch: Batch) -> Tensor:
        clip(model)  # what the step before has moved
        return losses(model, batch.inputs, batch.targets).sum()

    def train() -> None:
        model.train()
        fit(model.parameters(), data.train, loss, bench, label="training all machines' parts together", **options)
        clip(model)

    trained(model, train, bench, data=data.digest, settings={"train": len(data.train), **options})
    model.eval()


class Camera:
    """One device by itself: a message is a view, behind 1 if it is to be scored, or nothing if its map is wanted."""

    def __init__(self, block: nn.Module, fc: nn.Module, shape: Sequence[int]) -> None:
        self.block, self.fc, self.shape, self.h = block, fc, tuple(shape), torch.empty(0)

    @torch.inference_mode()
    def handle(self, message: bytes) -> bytes:
        """Return 4 bytes for each score, or none; or a bit for each value of the map of the last view."""
        if not message:
            return Signs(tuple(self.h.shape)).pack(self.h)
        with evaluating(self.block), evaluating(self.fc):
            pixels = torch.from_numpy(np.frombuffer(message[1:], np.uint8).reshape(1, *self.shape).copy())
            self.h = self.block(scaled(pixels))
            return Floats(()).pack(self.fc(self.h)) if message[0] else b""


class Server:
    """The cloud by itself: a message is the maps of all devices, one behind the other."""

    def __init__(self, stage: nn.Module, head: nn.Module, cameras: int, shape: Sequence[int]) -> None:
        self.stage, self.head, self.cameras, self.codec = stage, head, cameras, Signs(tuple(shape))

    @torch.inference_mode()
    def handle(self, message: bytes) -> bytes:
        """Return the answer."""
        size = len(message) // self.cameras
        h = torch.stack([self.codec.unpack(message[i * size : (i + 1) * size]) for i in range(self.cameras)])[None]
        with evaluating(self.stage), evaluating(self.head):
            return answer_message(1, self.head(self.stage(h))[0])


class Sides(Executed):
    """All machines at work; cameras and cloud may be anywhere. The local aggregator merges scores, and decides."""

    def __init__(
        self,
        prepared: Prepared,
        cameras: Sequence[Callable[[bytes], bytes]],
        cloud: Callable[[bytes], bytes],
        examples: Examples,
        *,
        count: bool = True,
    ) -> None:
        self.cameras, self.cloud, self.examples, self.count = cameras, cloud, examples, count
        self.local, self.classes, self.rule = prepared.model.heads[0], prepared.data.classes or 1, prepared.rule
        self.own, self.far = {}, {}

    def legs(self, sample: int, plan: Plan) -> Iterator[Leg]:
        """Ask all cameras for their scores, and only where that is not enough for their maps."""
        wanted = plan.knob is not None or plan.target(2) == 0
        views = [bytes([wanted]) + view.numpy().tobytes() for view in self.examples.inputs[sample]]
        macs, scores = zip(
            *(self._counted(lambda ask=ask, view=view: ask(view)) for ask, view in zip(self.cameras, views, strict=True)),
            strict=True,
        )
        yield Leg(max(macs), None, False, len(scores[0]))
        spent, left, back = 0.0, False, b""
        if wanted:
            spent, (left, back) = self._counted(lambda: self._merged(sample, scores, plan))
        maps = [] if left else [ask(b"") for ask in self.cameras]
        yield Leg(spent, 0 if wanted else None, left, len(back) if left else len(maps[0]))
        if not left:
            macs, message = self._counted(lambda: self.cloud(b"".join(maps)))
            found = read_answer(message)
            assert found is not None
            self.far[sample] = found[1]
            yield Leg(macs, 1, True, len(message))

    @torch.inference_mode()
    def _merged(self, sample: int, scores: Sequence[bytes], plan: Plan) -> tuple[bool, bytes]:
        """Return whether the merged scores are the answer, and what is sent back then."""
        s = torch.stack([Floats((self.classes,)).unpack(each) for each in scores])[None]
        with evaluating(self.local):
            z = self.local.merge(s)
        self.own[sample] = z[0]
        if plan.knob is None:
            return True, answer_message(0, z[0])
        policy = self.rule(plan.knob)
        return bool(decide(policy, policy.start(), z)[1]), answer_message(0, z[0])


class Views(StoredTiers):
    """What each machine does with each sample, looked up: all devices work at one time, and all of them alike."""

    def _course(self, plan: Plan) -> Course:
        exits, samples = self.costs.shape
        local, values = self.model.heads[0], self.values
        left = np.full(samples, plan.target(exits)) if plan.knob is None else replay(self.rule(plan.knob), self.outputs)
        wanted, cameras, classes = plan.knob is not None or plan.target(exits) == 0, len(local.each), self.answers.shape[-1]
        fc, back = values * classes, len(answer_message(0, self.answers[0, 0]))
        conv, heads, cloud = float(self.stages[0, 0]) / cameras, float(self.heads[0, 0]), float(self.stages[1, 0])
        first = Leg(conv + fc * wanted, None, False, 4 * classes * wanted)
        merge = (heads - cameras * fc) * wanted
        here = [first, Leg(merge, 0, True, back)]
        on = [first, Leg(merge, 0 if wanted else None, False, math.ceil(values / 8)), Leg(cloud, 1, True, back)]
        return Course(left, [here if exit_ == 0 else on for exit_ in left.tolist()])

    @property
    def values(self) -> int:
        """Values f · o of the map of one device."""
        return int(self.model.heads[0].each[0][1].in_features)


@dataclass(frozen=True)
class Ddnn(TierMethod):
    """A network over devices, a local aggregator and the cloud."""

    images: str = "fashion-mnist"  # pictures; the paper: MVMC
    train_size: int = 8000  # training pictures; the paper: 680
    cameras: int = 6  # D; the paper: 6
    filters: int = 4  # f, of a device; the paper: 1 to 16, here the middle of its figures
    cloud_filters: int = 16  # filters of each block in the cloud; the paper: 16
    local: str = "MP"  # how scores are merged: MP, AP or CC; the paper: MP
    features: str = "CC"  # how maps are merged; the paper: CC
    epochs: float = 3.0  # the paper: 100
    batch: int = 32  # the paper: all 680 pictures at once
    rate: float = 5e-3  # learning rate; the paper: 1e-3

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)
    unit = "bytes sent by each device"
    tables = Views
    knob: ClassVar[str] = "T"
    knobs: ClassVar[tuple[float, ...]] = (1.1, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0)
    tiny: ClassVar[Mapping[str, Any]] = {
        "images": "digits", "train_size": 600, "cameras": 3, "filters": 4, "cloud_filters": 8, "epochs": 8.0, "rate": 2e-2,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 1500, "rate": 1e-2}
    others: ClassVar[Mapping[str, Any]] = {"local": "AP", "features": "MP"}

    def load(self) -> Data:
        """Pictures as all cameras see them."""
        return tasks.views(self.images, cameras=self.cameras, train=self.train_size)

    def build(self, data: Data, seed: int) -> MultiExit:
        """The parts of all machines."""
        torch.manual_seed(seed)
        cameras, channels, height, width = data.train.inputs[0].shape
        values = self.filters * math.ceil(height / 2) * math.ceil(width / 2)
        classes, merged_filters = data.classes or 1, self.filters * (cameras if self.features == "CC" else 1)
        last = FC(values // self.filters * self.cloud_filters, classes)
        return MultiExit(
            [Devices(cameras, channels, self.filters), Cloud(merged_filters, self.cloud_filters, self.features)],
            [Local(cameras, values, classes, self.local), last],
        ).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All parts together."""
        options = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        train_together(model, data, bench, optimiser=torch.optim.Adam, **options)

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is T, a share of ln C."""
        return Entropy(knob * math.log(prepared.data.classes or 1))

    def world(self, split: Split, seed: int) -> World:
        """Cameras, the local aggregator and the cloud, whose speeds have no say in what is sent."""
        machines = tuple(Computer(steady(speed)) for speed in (1e8, 1e9, 1e10))
        return World(machines, (Link(steady(2e7), 0.002), Link(steady(1e6), 0.04)), Power(0.2, 0.1, 0.01))

    def came(self, samples: int) -> list[float]:
        """One each tenth of a second."""
        return [sample / 10 for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Always:
        """The same for all samples."""
        return Always(Plan((), knob, exit_))

    def price(self, journey: Journey) -> float:
        """Bytes that each device sends."""
        return float(sum(journey.sent))

    def executed(self, prepared: Prepared, examples: Examples, *, count: bool = True) -> Sides:
        """All machines in one process."""
        (cameras, cloud) = self.sides(prepared)
        return Sides(prepared, [camera.handle for camera in cameras], cloud.handle, examples, count=count)

    def sides(self, prepared: Prepared) -> tuple[list[Camera], Server]:
        """Each device, and the cloud, with nothing but its own part."""
        model, shape = prepared.model, prepared.data.validation.inputs[0].shape[1:]
        blocks, scores = model.stages[0].each, model.heads[0].each
        side = [math.ceil(length / 2) for length in shape[1:]]
        cameras = [Camera(block, fc, shape) for block, fc in zip(blocks, scores, strict=True)]
        return cameras, Server(model.stages[1], model.heads[1], len(cameras), (self.filters, *side))
