"""Several devices that see the same sample from different sides, a local aggregator that merges what they say, a cloud.

It is the chain of `tiers` with all devices as its first machine: they work at one time. Each sends its scores to the
aggregator; what their merging does not settle goes to the cloud as a bit for each value of their maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from eelit.methods.engine.costs import count
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.multi_exit import evaluating
from eelit.methods.engine.records import Baseline, Simulation
from eelit.methods.engine.routing import decide
from eelit.methods.families.tiers import (
    Course,
    Executed,
    Plan,
    Prepared,
    StoredTiers,
    TierMethod,
    answer_message,
    read_answer,
)
from eelit.methods.world.machines import Computer, Link
from eelit.methods.world.stream import Always, Journey, Leg, World
from eelit.methods.world.traces import steady
from eelit.methods.world.wire import Floats, Signs


class Devices(nn.Module):
    """The first stage: each device makes maps of +1 and -1 of its own view, ``[N, D, channels, H, W]`` in bytes."""

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.each = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maps ``[N, D, f, h, w]``."""
        return torch.stack([block(scaled(x[:, i])) for i, block in enumerate(self.each)], dim=1)


def scaled(pixels: Tensor) -> Tensor:
    """Return pixels from 0 to 255 as numbers from -1 to 1."""
    return pixels.float() / 127.5 - 1


class Local(nn.Module):
    """The first exit: each device scores its own map, and ``merge`` makes one of the scores ``[N, D, C]``."""

    def __init__(self, scores: Sequence[nn.Module], merge: nn.Module) -> None:
        super().__init__()
        self.each, self.merge = nn.ModuleList(scores), merge

    def forward(self, h: Tensor) -> dict[str, Tensor]:
        """Return the merged scores ``[N, C]``, and under "views" those of each device."""
        s = torch.stack([score(h[:, i]) for i, score in enumerate(self.each)], dim=1)
        return {"answer": self.merge(s), "views": s}


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
        """Return the message with the logits for one sample, given the maps of all its devices."""
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
        self.local: Any = prepared.model.heads[0]
        self.classes, self.rule = prepared.data.classes or 1, prepared.rule
        self.own, self.far = {}, {}

    def legs(self, sample: int, plan: Plan) -> Iterator[Leg]:
        """Ask all cameras for their scores, and only where that is not enough for their maps."""
        wanted = plan.knob is not None or plan.target(2) == 0
        views = [bytes([wanted]) + view.numpy().tobytes() for view in self.examples.inputs[sample]]
        asked = [self._counted(partial(ask, view)) for ask, view in zip(self.cameras, views, strict=True)]
        scores = [message for _, message in asked]
        yield Leg(max(macs for macs, _ in asked), None, False, len(scores[0]))
        spent, left, back = 0.0, False, b""
        if wanted:
            spent, (left, back) = self._counted(partial(self._merged, sample, scores, plan))
        maps = [] if left else [ask(b"") for ask in self.cameras]
        yield Leg(spent, 0 if wanted else None, left, len(back) if left else len(maps[0]))
        if not left:
            spent, message = self._counted(partial(self.cloud, b"".join(maps)))
            found = read_answer(message)
            assert found is not None
            self.far[sample] = found[1]
            yield Leg(spent, 1, True, len(message))

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
        left = np.full(samples, plan.target(exits)) if plan.knob is None else replay(self.rule(plan.knob), self.outputs)
        wanted = plan.knob is not None or plan.target(exits) == 0
        cameras, values, score = self._device
        conv, heads, cloud = float(self.stages[0, 0]) / cameras, float(self.heads[0, 0]), float(self.stages[1, 0])
        back = len(answer_message(0, self.answers[0, 0]))
        first = Leg(conv + score * wanted, None, False, 4 * self.answers.shape[-1] * wanted)
        merge = (heads - cameras * score) * wanted
        here = [first, Leg(merge, 0, True, back)]
        on = [first, Leg(merge, 0 if wanted else None, False, math.ceil(values / 8)), Leg(cloud, 1, True, back)]
        return Course(left, [here if exit_ == 0 else on for exit_ in left.tolist()])

    @cached_property
    def _device(self) -> tuple[int, int, int]:
        """How many devices there are, how many values a map has, and what scoring one costs."""
        local: Any = self.model.heads[0]
        with torch.inference_mode(), evaluating(self.model):
            h = self.model.stages[0](self.examples.inputs[0][None])
        return len(local.each), h[0, 0].numel(), count(lambda: local.each[0](h[:, 0]))


class MultiDeviceMethod(TierMethod):
    """A method whose network has `Devices` for its first stage, `Local` for its first head, one in the cloud."""

    unit = "bytes sent by each device"
    tables = Views

    def world(self, split: Split, seed: int) -> World:
        """Devices, the local aggregator and the cloud, whose speeds have no say in what is sent."""
        machines = tuple(Computer(steady(speed)) for speed in (1e8, 1e9, 1e10))
        return World(machines, (Link(steady(2e7), 0.002), Link(steady(1e6), 0.04)))

    def came(self, samples: int) -> list[float]:
        """One each tenth of a second."""
        return [sample / 10 for sample in range(samples)]

    def scheduler(self, prepared: Prepared, world: World, knob: float | None, exit_: int = -1) -> Always:
        """The same for all samples."""
        return Always(Plan((), knob, exit_))

    def price(self, journey: Journey) -> float:
        """Bytes that each device sends."""
        return float(sum(journey.sent))

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return each exit by itself: no machine could run the whole network on what it has."""
        return [self.static_exit(prepared)]

    def simulation(self, prepared: Prepared, bench: Bench) -> Simulation | None:
        """Return None: bytes are counted, and neither speeds nor bandwidths have a say in the cost."""
        return None

    def executed(self, prepared: Prepared, examples: Examples, *, count: bool = True) -> Sides:
        """All machines in one process."""
        cameras, cloud = self.sides(prepared)
        return Sides(prepared, [camera.handle for camera in cameras], cloud.handle, examples, count=count)

    def sides(self, prepared: Prepared) -> tuple[list[Camera], Server]:
        """Each device, and the cloud, with nothing but its own part."""
        model, one = prepared.model, prepared.data.validation.inputs[0][None]
        with torch.inference_mode(), evaluating(model):
            shape = model.stages[0](one).shape[2:]
        devices: Any = model.stages[0]
        local: Any = model.heads[0]
        cameras = [Camera(block, score, one.shape[2:]) for block, score in zip(devices.each, local.each, strict=True)]
        return cameras, Server(model.stages[1], model.heads[1], len(cameras), shape)
