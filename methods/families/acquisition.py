"""Features that are bought one by one; a policy decides after each whether to buy another.

The network is one with exits (`exits`): each stage buys one feature, and the head behind it answers from those bought
so far. What is paid for is the feature, not the computation: cost is the number of features bought, and the full model
is the answer from all of them. Features count as bought where they are read from the sample, by whoever reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import of_samples
from eelit.methods.engine.records import Execution
from eelit.methods.engine.timing import BATCH
from eelit.methods.families import exits
from eelit.methods.families.exits import ExitMethod, timed


class Shop:
    """Where features are bought: the only place at which a sample's values are read."""

    @staticmethod
    def buy(x: Tensor, feature: Tensor) -> Tensor:
        """Return the value ``[n]`` of one feature ``[n]`` of each sample ``[n, d]``."""
        return x.gather(1, feature[:, None]).squeeze(1)


class FeatureCounter:
    """Context manager that counts, in ``features``, the values that are bought inside it."""

    def __init__(self) -> None:
        self.features = 0

    def __enter__(self) -> FeatureCounter:
        self._buy: Callable[[Tensor, Tensor], Tensor] = Shop.buy

        def counted(x: Tensor, feature: Tensor) -> Tensor:
            found = self._buy(x, feature)
            self.features += found.numel()
            return found

        setattr(Shop, "buy", staticmethod(counted))  # noqa: B010
        return self

    def __exit__(self, *error: object) -> None:
        setattr(Shop, "buy", staticmethod(self._buy))  # noqa: B010


@dataclass
class Prepared(exits.Prepared):
    """A trained network whose stages each buy a feature."""

    def costs(self, examples: Examples) -> NDArray[np.float64]:
        """Return the features ``[2, E, N]`` bought up to each exit, whose heads cost nothing."""
        bought = np.arange(1, self.model.exits + 1, dtype=np.float64)
        return np.broadcast_to(bought[None, :, None], (2, len(bought), len(examples))).copy()


class AcquisitionMethod(ExitMethod):
    """A method that buys features one by one; cost is how many."""

    unit: ClassVar[str] = "features"

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test examples."""
        model, data = self.trained(bench)
        return Prepared(model, data, bench, self)

    def execute(self, prepared: Any, bench: Bench, knob: float) -> Execution:
        """Run `infer` on test samples: once with features counted from outside, then timed beside buying them all."""
        seen, policy = prepared.split("test"), self.rule(knob, prepared)
        taken = torch.arange(min(bench.executed, len(seen.examples)))
        chosen, outputs = seen.examples.at(taken), of_samples(seen.outputs, taken)
        left = replay(policy, outputs)
        expected = seen.read(answered(policy, outputs, left))
        counted, agrees, flawed = 0, True, 0
        for index, x in chosen.batches(BATCH):
            with FeatureCounter() as counter:
                found = infer(prepared.model, x, policy)
            counted += counter.features
            agrees &= bool((found.exits == torch.as_tensor(left[index.numpy()])).all())
            agrees &= torch.allclose(seen.read(found.outputs), expected[index], atol=1e-3, equal_nan=True)
            flawed += len(found.not_finite)
        ours, plain = timed(prepared.model, chosen, policy, BATCH, bench.repeats)
        return Execution(
            knob=knob,
            samples=len(chosen),
            claimed=float(seen.paid(policy)[taken.numpy()].sum()),
            counted=counted,
            agrees=agrees,
            seconds=ours,
            full_seconds=plain,
            not_finite=flawed,
        )
