"""A network whose blocks are skipped sample by sample, by gates trained for one trade-off at a time.

Nothing exits: every sample reaches the end, but by a shorter way. ``exits`` of an operating point therefore means the
share of samples that run 0, 1, 2 … of the blocks that can be skipped. The knob is a setting of training, so there is a
network for each of its values; at its two limits the gates are computed but overruled, all closed or all open. The full
model is the network trained in the second limit, without its gates.

A gate whose probability is not finite skips nothing, unless it is overruled.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from eelit.methods.engine import chance, costs
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import accuracy, judged
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.records import Chance, Execution, OperatingPoint
from eelit.methods.engine.timing import BATCH, devices_of, in_turn
from eelit.methods.policies.base import exact, finite

Choice = Callable[[Tensor], Tensor]
"""From the probabilities ``[n]`` of running a block to gates ``[n]``, 0 or 1."""


def hard(p: Tensor) -> Tensor:
    """Return 1 where p > 0.5, else 0: the gate at inference. What is not a number skips nothing."""
    return (~(exact(p) <= 0.5)).to(p.dtype)


class Routed(NamedTuple):
    """What a pass gives: logits ``[n, classes]``, probabilities and gates of all gated blocks, each ``[G, n]``."""

    logits: Tensor
    p: Tensor
    gates: Tensor

    @property
    def not_finite(self) -> Tensor:
        """Of which samples ``[n]`` a gate or the answer is not finite."""
        return ~(self.p.isfinite().all(dim=0) & finite(self.logits))


class GatedNetwork(nn.Module, ABC):
    """A network with ``G`` blocks that can be skipped, as this family runs and counts it.

    ``gate(i, x, state)`` gives the probability ``[n]`` of running block ``i`` on its input, and the state of the gates
    (None before the first). A block is called with its input and with what its ``shortcut`` makes of that, which always
    runs. The network says how a gate puts the two together, twice: in `masked` for training and replay, and in
    `left_out` for execution.
    """

    gate: nn.Module

    @abstractmethod
    def enter(self, x: Tensor) -> Tensor:
        """Run what is never skipped, up to the first gate."""

    @abstractmethod
    def gated(self) -> Iterator[tuple[int, Any]]:
        """Yield the blocks that can be skipped, numbered from 0."""

    @abstractmethod
    def answer(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` from what the last block or its shortcut gives."""

    @abstractmethod
    def masked(self, block: Any, x: Tensor, g: Tensor) -> Tensor:
        """Return what follows a block's input ``x`` with gates ``g [n]``; the block is computed for every sample."""

    @abstractmethod
    def left_out(self, block: Any, x: Tensor, g: Tensor) -> Tensor:
        """Return the same for gates of 0 and 1, the block run on the samples with 1 only."""

    def forward(self, x: Tensor, choose: Choice = hard) -> Routed:
        """Compute every block for every sample and mix by the gates: for training, and for replay."""
        return self._route(x, choose, self.masked)

    def infer(self, x: Tensor, choose: Choice = hard) -> Routed:
        """Compute a block only for the samples whose gate is 1; the others pass its shortcut."""
        return self._route(x, choose, self.left_out)

    def plain(self, x: Tensor) -> Tensor:
        """Return logits ``[n, classes]`` of the network itself: all blocks, no gate."""
        x = self.enter(x)
        for _, block in self.gated():
            x = block(x, block.shortcut(x))
        return self.answer(x)

    def _route(self, x: Tensor, choose: Choice, step: Callable[[Any, Tensor, Tensor], Tensor]) -> Routed:
        x, state = self.enter(x), None
        seen: list[tuple[Tensor, Tensor]] = []
        for i, block in self.gated():
            p, state = self.gate(i, x, state)
            gate = choose(p)
            x = step(block, x, gate)
            seen.append((p, gate))
        p, gates = (torch.stack(each) for each in zip(*seen, strict=True))
        return Routed(self.answer(x), p, gates)


@dataclass(frozen=True)
class Prices:
    """MACs of one sample: what always runs, all gates together, and each block that can be skipped ``[G]``."""

    always: int
    gates: int
    blocks: Tensor

    @classmethod
    @torch.inference_mode()
    def of(cls, model: GatedNetwork, x: Tensor) -> Prices:
        """Count each part on one sample ``[1, ...]``. A block's shortcut always runs; the block is what it adds."""
        gates, blocks, state = 0, [], None
        with costs.MacCounter() as always:
            inside = model.enter(x)
        for i, block in model.gated():
            with costs.MacCounter() as gate:
                _, state = model.gate(i, inside, state)
            gates += gate.macs
            with always:
                short = block.shortcut(inside)
            with costs.MacCounter() as body:
                inside = block(inside, short)
            blocks.append(body.macs)
        with always:
            model.answer(inside)
        return cls(always.macs, gates, torch.tensor(blocks, dtype=torch.float64))

    @property
    def count(self) -> int:
        """Number of blocks that can be skipped, G."""
        return len(self.blocks)

    @property
    def full(self) -> float:
        """MACs of the network without gates."""
        return float(self.always + self.blocks.sum())

    def of_gates(self, gates: Tensor) -> Tensor:
        """Return the MACs ``[n]`` of samples with these gates ``[G, n]``."""
        return self.always + self.gates + self.blocks @ gates.double()


@dataclass(frozen=True)
class Network:
    """The network of one knob, with what opens its gates."""

    model: GatedNetwork
    choose: Choice = hard


@dataclass
class Prepared:
    """The networks of all knobs trained so far, the data, and what they say on a split."""

    method: GateMethod
    data: Data
    bench: Bench
    start: GatedNetwork  # after the first stage of training
    _networks: dict[float, Network] = field(default_factory=dict)
    _seen: dict[tuple[str, float], Routed] = field(default_factory=dict)

    @cached_property
    def prices(self) -> Prices:
        """MACs by part, the same for all knobs."""
        return Prices.of(self.start, self.data.validation.inputs[0][None].to(device_of(self.start)))

    def network(self, knob: float) -> Network:
        """Return the network of the knob, trained when first asked for, without sight of the test data."""
        if knob not in self._networks:
            known = self.data.without_test()
            self._networks[knob] = self.method.tuned(copy.deepcopy(self.start), known, self.bench, knob)
        return self._networks[knob]

    def examples(self, split: Split) -> Examples:
        """Return the split, up to the bench's limit."""
        return self.data.part(split).head(self.bench.test)

    def seen(self, split: Split, knob: float) -> Routed:
        """Return what the knob's network says on the split, every block computed for every sample."""
        if (split, knob) not in self._seen:
            self._seen[split, knob] = routed(self.network(knob), self.examples(split))
        return self._seen[split, knob]


@torch.inference_mode()
def routed(network: Network, examples: Examples) -> Routed:
    """Return logits, probabilities and gates for all examples in their order, in the host's memory."""
    batches = examples.batches(BATCH, device=device_of(network.model))
    found = [(index, to_host(network.model(x, network.choose))) for index, x in batches]
    order = torch.argsort(torch.cat([index for index, _ in found]))
    logits, p, gates = zip(*(out for _, out in found), strict=True)
    return Routed(torch.cat(logits)[order], torch.cat(p, dim=1)[:, order], torch.cat(gates, dim=1)[:, order])


def to_host(found: Routed) -> Routed:
    """Return what a pass gives, in the host's memory."""
    return Routed(*(part.cpu() for part in found))


class GateMethod(Method):
    """A method that trains one network with gates for each value of its knob."""

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> GatedNetwork:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: GatedNetwork, data: Data, bench: Bench) -> None:
        """Run the stages of training that all knobs share, in place (with `recipes`, which cache); no test data."""

    @abstractmethod
    def tuned(self, model: GatedNetwork, data: Data, bench: Bench, knob: float) -> Network:
        """Train a copy of what `train` left for one knob, and say what opens its gates; no test data."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build, train, and tune for every knob of the method; none of these sees the test examples."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        prepared = Prepared(self, data, bench, model.eval())
        for knob in self.knobs:
            prepared.network(knob)
        return prepared

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Measure the network of every knob on the split."""
        targets = prepared.examples(split).targets
        return [self.point(prepared.prices, prepared.seen(split, knob), targets, knob) for knob in knobs]

    def point(self, prices: Prices, seen: Routed, targets: Tensor, knob: float) -> OperatingPoint:
        """Measure one network."""
        cost = float(prices.of_gates(seen.gates).mean())
        ran, worth = seen.gates.sum(dim=0).long().numpy(), judged(accuracy, seen.logits, targets)
        return point(knob, worth, ran, count=prices.count + 1, cost=cost, full=prices.full)

    @torch.inference_mode()
    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return accuracy and MACs of the network whose gates are all open, without them, on the test split."""
        model, examples = prepared.network(self.knobs[-1]).model, prepared.examples("test")
        right = sum(
            int((model.plain(x).argmax(dim=1).cpu() == examples.targets[index]).sum())
            for index, x in examples.batches(BATCH, device=device_of(model))
        )
        return right / len(examples), prepared.prices.full

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest class."""
        return chance.of_classes(prepared.examples("test").targets)

    @torch.inference_mode()
    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run test samples with blocks really skipped: once counted from outside, then timed beside the full model."""
        network, seen = prepared.network(knob), prepared.seen("test", knob)
        examples = prepared.examples("test").head(bench.executed)
        counted, agrees, flawed = 0, True, 0
        for index, x in examples.batches(BATCH, device=device_of(network.model)):
            with costs.MacCounter() as counter:
                routed = network.model.infer(x, network.choose)
            counted, found = counted + counter.macs, to_host(routed)
            agrees &= torch.equal(found.gates, seen.gates[:, index])
            agrees &= torch.allclose(found.logits, seen.logits[index], atol=1e-3, equal_nan=True)
            flawed += int(found.not_finite.sum())
        full = prepared.network(self.knobs[-1]).model
        batches = (x for _, x in examples.batches(BATCH, device=device_of(full)))
        ours, plain = in_turn(
            lambda x: network.model.infer(x, network.choose),
            full.plain,
            batches,
            bench.repeats,
            devices_of(network.model, full),
        )
        return Execution(
            knob=knob,
            samples=len(examples),
            claimed=float(prepared.prices.of_gates(seen.gates[:, : len(examples)]).sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )
