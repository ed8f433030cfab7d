"""A network of convolutions whose single dot products stop as soon as what the ReLU makes of them is known, or guessed.

No layer and no sample leaves: what stops is the sum of one output value. ``exits`` of an operating point are therefore
the shares of dot products that are ended by a guess, ended since their sign is known, and computed whole, in all layers
but the first, which reads the picture. Each kernel reads its inputs in an order of its own, and products are counted.

Replay (`Kernels.followed`) adds up all products and notes where each sum would have stopped; execution
(`Kernels.stopped`) leaves the rest out. What decides is added up by both in the same order, so that they decide alike.
The full model is the same network by whole convolutions, whose sums have another order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.engine import chance, costs, tasks
from eelit.methods.engine.examples import Data, Examples, parted
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import accuracy, right
from eelit.methods.engine.records import Chance, Execution, OperatingPoint, Samples, Timing
from eelit.methods.engine.timing import BATCH, TIMED, devices_of, in_turn


class Sums(NamedTuple):
    """What the dot products of a layer come to, ``[K, W]`` for K kernels and W windows."""

    output: Tensor  # behind the ReLU
    macs: Tensor  # products that are computed
    guessed: Tensor  # where a guess ended it


class Kernels(ABC):
    """The kernels of one layer in the order in which they are read."""

    @property
    @abstractmethod
    def m(self) -> int:
        """Weights of each kernel."""

    @abstractmethod
    def followed(self, x: Tensor) -> Sums:
        """Add up all products of the windows ``x [m, W]``, and note where each sum would have stopped."""

    @abstractmethod
    def stopped(self, x: Tensor) -> Sums:
        """Return the same with products really left out: each of those computed is counted from outside."""


def windows(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """Return the inputs ``[m, n × places]`` of all windows of ``x [n, C, H, W]``."""
    (high, wide), (down, right), pad = conv.kernel_size, conv.stride, int(conv.padding[0])
    cut = F.pad(x, (pad, pad, pad, pad)).unfold(2, high, down).unfold(3, wide, right)
    return cut.permute(1, 4, 5, 0, 2, 3).reshape(x.shape[1] * high * wide, -1)


Layer = Callable[[int, Tensor], Tensor]
"""From the number of a convolution and its input to what comes out of the ReLU behind it."""


class Convolutions(nn.Module, ABC):
    """A network of convolutions, each with a ReLU behind it; what runs a convolution can be put in its place."""

    convs: nn.ModuleList
    head: nn.Linear

    def layer(self, i: int) -> nn.Conv2d:
        """Return convolution i."""
        found = self.convs[i]
        assert isinstance(found, nn.Conv2d)
        return found

    @abstractmethod
    def forward(self, x: Tensor, run: Layer | None = None) -> Tensor:
        """Return the answer ``[n, classes]``; ``run`` computes the convolutions with their ReLU, in place of torch."""


class Ran(NamedTuple):
    """What the network did with images: answers ``[n, C]``, products ``[L, n]`` and ends ``[n, 3]``.

    Ends are the numbers of dot products ended by a guess, ended by their sign, and computed whole, in all layers but
    the first.
    """

    answers: Tensor
    macs: Tensor
    ends: Tensor


@torch.inference_mode()
def run(model: Convolutions, x: Tensor, lists: Sequence[Kernels], *, really: bool = True) -> Ran:
    """Run images ``[n, ...]`` through convolutions whose kernels are read as ``lists`` say.

    Products are left out ``really``, or the sums only followed.
    """
    n, macs, ends = len(x), [], torch.zeros(len(x), 3, dtype=torch.int64)

    def layer(i: int, x: Tensor) -> Tensor:
        conv, kernels = model.layer(i), lists[i]
        sums = (kernels.stopped if really else kernels.followed)(windows(conv, x))
        by_image = sums.macs.view(conv.out_channels, n, -1).transpose(0, 1).flatten(1)
        macs.append(by_image.sum(dim=1))
        if i:
            guess = sums.guessed.view(conv.out_channels, n, -1).transpose(0, 1).flatten(1)
            cut = ~guess & (by_image < kernels.m)
            ends.add_(torch.stack([guess, cut, ~guess & ~cut], dim=2).sum(dim=1))
        high, wide = (-(-side // step) for side, step in zip(x.shape[2:], conv.stride, strict=True))
        return sums.output.view(-1, n, high, wide).transpose(0, 1).contiguous()

    return Ran(model(x, layer), torch.stack(macs), ends)


@dataclass
class Prepared:
    """The trained network with its data; what it does on a split at a knob is computed once, when first asked for."""

    method: DotProductMethod
    model: Convolutions
    data: Data
    bench: Bench
    _ran: dict[tuple[str, Any], Ran] = field(default_factory=dict)
    _fitted: list[Any] = field(default_factory=list)  # empty, or what `DotProductMethod.fit` returned

    def examples(self, part: str) -> Examples:
        """Return ``test``, or of the validation images those to fit on (``fitting``) or to choose knobs on."""
        if part == "test":
            return self.data.part("test").head(self.bench.test)
        share = self.method.fits_on
        halves = parted(self.data.validation, {"fitting": share, "validation": 1 - share})
        return halves[part].head(self.bench.test)

    @property
    def fitted(self) -> Any:
        """What the rule was fitted to, once for all knobs, without sight of the test data."""
        if not self._fitted:
            self._fitted.append(self.method.fit(self.for_choosing))
        return self._fitted[0]

    @property
    def for_choosing(self) -> Prepared:
        """The same with the test data out of reach: all that kernels may be read from and a rule fitted on."""
        return replace(self, data=self.data.without_test())

    def ran(self, part: Split, lists: Sequence[Kernels], name: float | str) -> Ran:
        """Return what the network does on a split with kernels so read, which is kept under a name of its own."""
        examples = self.examples(part)  # raises where the split is out of reach, also if the answer is known
        if (part, name) not in self._ran:
            self.bench.progress(f"adding up products of {part} images at {name}", None)
            found = [run(self.model, x, lists, really=False) for _, x in examples.batches(BATCH)]
            answers, macs, ends = zip(*found, strict=True)
            self._ran[part, name] = Ran(torch.cat(answers), torch.cat(macs, dim=1), torch.cat(ends))
        return self._ran[part, name]

    def at(self, part: Split, knob: float) -> Ran:
        """Return what the network does on a split at a knob."""
        return self.ran(part, self.method.rule(knob, self), knob)

    @cached_property
    def head(self) -> int:
        """MACs of the last layer, which always runs."""
        head = self.model.head
        return costs.count(lambda: head(head.weight[:1]))

    @cached_property
    def full(self) -> int:
        """MACs of the whole network for one image."""
        return costs.count(lambda: self.model(self.data.validation.inputs[0][None]))

    def spent(self, ran: Ran) -> Tensor:
        """Return the products ``[n]`` of each image, those of the last layer included."""
        return ran.macs.sum(dim=0) + self.head


class DotProductMethod(Method):
    """A method that stops single dot products: it says in which order kernels are read, and when a sum is known."""

    fits_on: ClassVar[float] = 0.5  # share of the validation images on which the rule is fitted

    images: str
    train_size: int

    data: ClassVar[tuple[str, ...]] = ("fashion-mnist",)

    def load(self) -> Data:
        """Images ``[C, H, W]`` in ten classes, split into training, validation and test data."""
        return tasks.images(self.images, train=self.train_size)

    @abstractmethod
    def build(self, data: Data, seed: int) -> Convolutions:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: Convolutions, data: Data, bench: Bench) -> None:
        """Train the network in place (with `recipes`, which cache)."""

    @abstractmethod
    def fit(self, prepared: Prepared) -> Any:
        """Return what the rule needs beyond weights, from ``prepared.examples("fitting")``, without test data."""

    @abstractmethod
    def lists(self, knob: float, prepared: Prepared) -> list[Kernels]:
        """Return the kernels of all convolutions as they are read at a knob, from ``prepared.fitted``.

        Test data are out of reach.
        """

    def rule(self, knob: float, prepared: Prepared) -> list[Kernels]:
        """Return the kernels as they are read at a knob, made without sight of the test data."""
        return self.lists(knob, prepared.for_choosing)

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return Prepared(self, model.eval(), data, bench)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Follow the sums of the whole split at every knob."""
        return [self.point(prepared, prepared.at(split, knob), split, knob) for knob in knobs]

    def point(self, prepared: Prepared, ran: Ran, split: Split, knob: float) -> OperatingPoint:
        """Measure what the network did; ``exits`` are the shares of `Ran.ends`."""
        cost, ends = float(prepared.spent(ran).double().mean()), ran.ends.sum(dim=0)
        found = right(ran.answers, prepared.examples(split).targets).numpy()
        return OperatingPoint(
            knob=knob,
            quality=float(found.mean()),
            cost=cost,
            speed_up=prepared.full / cost,
            exits=(ends / ends.sum()).tolist(),
            samples=Samples(found),
        )

    @torch.inference_mode()
    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return accuracy and MACs of the network by whole convolutions, on the test split."""
        held = prepared.examples("test")
        answers = torch.cat([prepared.model(x) for _, x in held.batches(BATCH)])
        return accuracy(answers, held.targets), float(prepared.full)

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return the accuracy of always saying the commonest class."""
        return chance.of_classes(prepared.examples("test").targets)

    @torch.inference_mode()
    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Run test images with products really left out: counted from outside, then timed beside whole convolutions."""
        ran, chosen = prepared.at("test", knob), prepared.examples("test").head(bench.executed)
        lists, counted, agrees, flawed = self.rule(knob, prepared), 0, True, 0
        for index, x in chosen.batches(BATCH):
            with costs.MacCounter() as counter:
                found = run(prepared.model, x, lists)
            counted += counter.macs
            agrees &= torch.equal(found.macs, ran.macs[:, index]) and torch.equal(found.ends, ran.ends[index])
            agrees &= torch.allclose(found.answers, ran.answers[index], atol=1e-3, equal_nan=True)
            flawed += int((~found.answers.isfinite().all(dim=1)).sum())
        ours, plain = self.timed(prepared, chosen, lists, BATCH, bench.repeats)
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=float(prepared.spent(ran)[: len(chosen)].sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )

    def timed(
        self, prepared: Prepared, examples: Examples, lists: Sequence[Kernels], batch: int, repeats: int
    ) -> tuple[float, float]:
        """Return median seconds with products left out, and of whole convolutions, over the examples."""
        model, batches = prepared.model, (x for _, x in examples.batches(batch))
        return in_turn(partial(run, model, lists=lists), model, batches, repeats, devices_of(model))

    def time(self, prepared: Prepared, bench: Bench, knob: float, batch: int) -> Timing:
        """Time test images in full batches, in turn with whole convolutions."""
        held, ran = prepared.examples("test"), prepared.at("test", knob)
        index = held.filled(batch, TIMED[batch == 1])
        lists = self.rule(knob, prepared)
        ours, plain = self.timed(prepared, held.at(index), lists, batch, bench.repeats)
        saved = 1 - float(prepared.spent(ran)[index].sum()) / (prepared.full * len(index))
        return Timing(batch=batch, knob=knob, samples=len(index), saved=saved, seconds=ours, full_seconds=plain)
