"""What a method is: a frozen dataclass of settings that can be prepared, swept and executed.

`Method` is the contract that `run`, `smoke` and the site rely on; a paper's file derives from one of the families in
`families/`, which leave it only the paper's own part to write.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from eelit.methods.engine.records import (
    Baseline,
    Chance,
    Effort,
    Execution,
    ExitFacts,
    OperatingPoint,
    Simulation,
    Timing,
)

Split = Literal["validation", "test"]
Scale = Literal["tiny", "smoke", "default", "full"]


def silent(message: str, share: float | None) -> None:
    """Ignore a report of progress: the bench's default."""


@dataclass
class Bench:
    """The conditions of one run: seed, how many test samples, where trained weights are cached, whom to tell.

    ``test`` and ``executed`` are the largest numbers of samples to measure on and to really execute (None: all).
    """

    seed: int = 0
    test: int | None = None
    executed: int = 256
    repeats: int = 3  # times that an execution is timed
    cache: Path | None = None  # None: train anew, keep nothing
    progress: Callable[[str, float | None], None] = silent  # message, share done
    prepared_seconds: float = 0.0
    trainings: dict[str, Effort] = field(default_factory=dict)  # each training in use, perhaps from the cache
    steps: int = 0  # of optimisers so far, told by what makes them
    prepared_from_cache: bool = True
    data: dict[str, str] = field(default_factory=dict)
    watch: Callable[[Any], None] | None = None  # told each `Stage` of training as it begins, and None when it ended
    most_steps: float = math.inf  # steps after which each training stops, for tests: its course is that of all steps


class Method(ABC):
    """One paper's method. Derived classes are frozen dataclasses whose fields are the settings, all with defaults."""

    data: ClassVar[tuple[str, ...]]  # items of the data manifest that it needs
    knob: ClassVar[str]  # the name of the one scalar that trades quality for cost
    knobs: ClassVar[tuple[float, ...]]  # from the most eager to `never`
    unit: ClassVar[str] = "MACs"
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[Method]]] = {"": {}}
    """Name → settings to replace, or another class of the same file, of another family; the first is the main one."""
    tiny: ClassVar[Mapping[str, Any]] = {}  # settings for unit tests: seconds, on digits or made data
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # variant → what it needs beside `tiny` in unit tests
    others: ClassVar[Mapping[str, Any]] = {}  # setting → a value to try in its place, where a test could guess none
    smoke: ClassVar[Mapping[str, Any]] = {}  # settings of the smoke test: real data, less training
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {}  # variant → what it needs beside `smoke` in its test
    full: ClassVar[Mapping[str, Any]] = {}  # settings of the longer recipe (`--full`)
    cost_noise: ClassVar[float] = 0.0  # share by which mean cost may fall by luck, where a bandit learns online
    exempt: ClassVar[Mapping[str, str]] = {}  # rule, or variant: rule, of `conformance` → why it is not kept

    @property
    def key(self) -> str:
        """The paper's key: the name of the module."""
        return type(self).__module__.rpartition(".")[2]

    @property
    def quality(self) -> str:
        """What quality means here, for tables and axes."""
        return "accuracy"

    def replace(self, settings: Mapping[str, Any]) -> Self:
        """Return the method with some settings replaced."""
        return dataclasses.replace(self, **settings)  # type: ignore[type-var]

    def variant(self, name: str, scale: Scale = "default") -> Method:
        """Return the method as one of its variants has it, at a scale.

        A variant may change the longer recipe; the smoke test and the unit tests cut all variants alike, but for what
        ``smoke_variants`` and ``tiny_variants`` say of them.
        """
        chosen = self.variants[name]
        method, settings = (chosen(), {}) if isinstance(chosen, type) else (self, chosen)
        tiny = {**settings, **method.tiny, **self.tiny_variants.get(name, {})}
        smoke = {**settings, **method.smoke, **self.smoke_variants.get(name, {})}
        full = {**method.full, **settings}
        return method.replace({"tiny": tiny, "smoke": smoke, "default": settings, "full": full}[scale])

    @abstractmethod
    def prepare(self, bench: Bench) -> Any:
        """Load data, train (or load trained weights) and return whatever the other operations need."""

    @abstractmethod
    def sweep(self, prepared: Any, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Measure quality and cost at each knob on the split."""

    @abstractmethod
    def full_model(self, prepared: Any, bench: Bench) -> tuple[float, float]:
        """Return quality on the test split and mean cost of the plain full model, without anything added for exits."""

    @abstractmethod
    def execute(self, prepared: Any, bench: Bench, knob: float) -> Execution:
        """Run test samples for real at one knob, counting from outside, timed beside the full model."""

    def baselines(self, prepared: Any, bench: Bench) -> list[Baseline]:
        """Return what the same trained model does under simpler rules."""
        return []

    def each_exit(self, prepared: Any, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return every exit by itself, and the share of samples that are overthought."""
        return [], None

    def chance(self, prepared: Any, bench: Bench) -> Chance | None:
        """Return what answers reach on the test split that do not look at the input; None: nobody has said it.

        A smoke test whose best quality is not two standard errors above that does not pass.
        """
        return None

    def time(self, prepared: Any, bench: Bench, knob: float, batch: int) -> Timing | None:
        """Time test samples at one knob in batches of one size, beside the full model."""
        return None

    def simulation(self, prepared: Any, bench: Bench) -> Simulation | None:
        """Return the simulated world that test samples go through; None: nothing is simulated."""
        return None
