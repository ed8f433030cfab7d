"""Answers that come one after the other, ever costlier, and a pure policy that decides after each whether to go on.

This is what the exits of one network (`exits`) and the members of a cascade (`cascades`) have in common: what is said
is stored once for each part of the data, policies are replayed on it, and none that chooses can see the test data.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from torch import Tensor

from eelit.methods.engine import chance
from eelit.methods.engine.examples import Data, Examples, TestDataAsked, parted
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.metrics import Score, usual
from eelit.methods.engine.records import Baseline, Chance, ExitFacts, OperatingPoint
from eelit.methods.engine.stored_outputs import StoredOutputs, baselines_of, exit_facts
from eelit.methods.policies.base import Output, Policy, said


@dataclass
class StepwisePrepared(ABC):
    """A trained model with its data; what it says on a part of the data is computed once, when first asked for."""

    model: Any
    data: Data
    bench: Bench
    method: Any
    _stored: dict[str, StoredOutputs] = field(default_factory=dict)  # of all parts but test
    _test: list[StoredOutputs] = field(default_factory=list)  # empty, or of the test part
    _fitted: list[Any] = field(default_factory=list)  # empty, or what `StepwiseMethod.fit` returned
    _choosing: bool = False  # whether the test data are out of reach

    @abstractmethod
    def store(self, examples: Examples, name: str) -> StoredOutputs:
        """Return all that the model says on a part of the data of this name."""

    def split(self, name: str) -> StoredOutputs:
        """Return all that the model says on a part of the data, up to the bench's limit.

        ``fitting`` is the share of the validation data on which the method fits its rule (``fits_on``), and
        ``validation`` the rest, on which knobs are chosen. Raises `TestDataAsked` for ``test`` in what a policy is made
        from.
        """
        if name == "test":
            if self._choosing:
                raise TestDataAsked("a policy is chosen and fitted on validation data; it must not see the test split")
            if not self._test:
                self._test.append(self.store(self._part(name), name))
            return self._test[0]
        if name not in self._stored:
            self._stored[name] = self.store(self._part(name), name)
        return self._stored[name]

    def _part(self, name: str) -> Examples:
        if name in ("fitting", "validation"):
            share = self.method.fits_on
            return parted(self.data.validation, {"fitting": share, "validation": 1 - share})[name].head(self.bench.test)
        return self.data.part(name).head(self.bench.test)

    @property
    def fitted(self) -> Any:
        """What the method's rule was fitted to, once for all knobs."""
        if not self._fitted:
            self._fitted.append(self.method.fit(self.for_choosing))
        return self._fitted[0]

    @property
    def for_choosing(self) -> Self:
        """The same with the test data out of reach: all that a policy may be made from."""
        return replace(self, data=self.data.without_test(), _test=[], _choosing=True)


class StepwiseMethod(Method):
    """A method with a policy that decides after each answer, from that answer and those before it."""

    fits_on: ClassVar[float] = 0.0  # share of the validation data that `fit` has for itself

    @abstractmethod
    def load(self) -> Data:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: Data, seed: int) -> Any:
        """Return the untrained model; everything random follows the seed."""

    @abstractmethod
    def train(self, model: Any, data: Data, bench: Bench) -> None:
        """Train the model in place (with `recipes`, which cache)."""

    def deployed(self, model: Any) -> Any:
        """Return the trained model as it is run from now on: the same answers, perhaps with less to do."""
        return model.eval()

    def trained(self, bench: Bench) -> tuple[Any, Data]:
        """Load the data, build and train, neither of which sees the test examples; return the model and all data."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["examples"] = data.digest
        bench.data["sizes"] = " / ".join(str(len(part)) for part in (data.train, data.validation, data.test))
        return self.deployed(model), data

    @abstractmethod
    def policy(self, knob: float, prepared: Any) -> Policy:
        """Return the policy at one knob, from the trained model and ``prepared.fitted``; test data are out of reach."""

    def fit(self, prepared: Any) -> Any:
        """Return what the rule needs beyond weights (thresholds, temperatures), from ``prepared.split("fitting")``.

        It is called once for all knobs, and the share ``fits_on`` of the validation data is there for it alone.
        """
        return None

    def rule(self, knob: float, prepared: Any) -> Policy:
        """Return the policy at one knob, made without sight of the test data."""
        return self.policy(knob, prepared.for_choosing)

    @property
    def score(self) -> Score:
        """What makes quality of answers ``[N, C]`` and targets, by default accuracy; of values ``[N]`` Pearson's r."""
        return usual

    def sweep(self, prepared: Any, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Replay every knob on the stored outputs of the split."""
        seen = prepared.split(split)
        return [self.trial(self.rule(knob, prepared), seen, knob) for knob in knobs]

    def trial(
        self, policy: Policy, seen: StoredOutputs, knob: float = 0.0, shown: Output | None = None
    ) -> OperatingPoint:
        """Replay any policy on the outputs, or on what else it is shown of each; the knob is only written down."""
        return seen.under(policy, self.score, knob, shown)

    def full_model(self, prepared: Any, bench: Bench) -> tuple[float, float]:
        """Return quality and mean cost of the plain network, or of the last member alone, on the test split."""
        seen = prepared.split("test")
        return self.score(seen.answers[-1], seen.targets), float(seen.full_costs.mean())

    def chance(self, prepared: Any, bench: Bench) -> Chance | None:
        """Return the accuracy of always saying the commonest class; for values, no correlation."""
        seen = prepared.split("test")
        return chance.of_answers(seen.answers[-1], seen.targets)

    def answers(self, outputs: Output, prepared: Any) -> Tensor:
        """Return the answers ``[..., C]`` or ``[...]`` in what is said, which may be more, or not the answer yet."""
        found: Tensor = said(outputs)
        return found

    def shown(self, outputs: Output, prepared: Any) -> Tensor:
        """Return what the policy takes for the confidence in answers ``[E, N, ...]``: themselves, or scaled."""
        return self.answers(outputs, prepared)

    def labels(self, targets: Tensor) -> Tensor:
        """Return the classes ``[N]`` in the targets, which may say more than that."""
        return targets

    def baselines(self, prepared: Any, bench: Bench) -> list[Baseline]:
        """Return each exit (or member) by itself and, for classes, the same stopped by the largest probability."""
        return baselines_of(prepared.split("validation"), prepared.split("test"), self.score)

    def static(self, seen: StoredOutputs) -> list[OperatingPoint]:
        """Return each exit, the network cut off behind it, or each member alone; the knob is its number, from 1."""
        return seen.cut_off(self.score)

    def each_exit(self, prepared: Any, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return quality, cost and calibration error of each exit, and the share overthought (see `exit_facts`)."""
        seen = prepared.split("test")
        return exit_facts(self.static(seen), self.shown(seen.outputs, prepared), self.labels(seen.targets))
