"""What a run leaves behind, typed: operating points, what was really executed, and how the paper's claims fared.

No torch here: the command line and the site read results without it. What is made of them divides and compares these
figures, so a file in which one cannot be what it is said to be (not a number, a curve without points) is none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeVar

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

if TYPE_CHECKING:
    from numpy.typing import NDArray


def _known(value: float) -> float:
    """Refuse NaN. Raises `ValueError`."""
    if math.isnan(value):
        raise ValueError("it is not a number")
    return value


Knob = Annotated[float, AfterValidator(_known)]
"""A setting, which may be infinite."""
Finite = Annotated[float, Field(ge=-1e100, le=1e100, allow_inf_nan=False)]
Positive = Annotated[float, Field(ge=1e-100, le=1e100, allow_inf_nan=False)]
"""What can be divided by, and squared for a deviation, without an end."""
Share = Annotated[float, Field(ge=0, le=1 + 1e-6)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class Typed(BaseModel):
    """Base of all result types: immutable, unknown fields forbidden; an infinite knob is the JSON string "Infinity"."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


T = TypeVar("T", bound=Typed)


class Unreadable(Exception):
    """A file that holds no record of the kind it should; it says in one sentence which, and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(f"{path} is left out: {reason}")
        self.path = path


def read(kind: type[T], path: Path) -> T:
    """Return the record in a file. Raises `Unreadable`."""
    if path.exists() and not path.is_file():  # a pipe would be waited for without end
        raise Unreadable(path, "it is no file but a folder, a pipe, a socket or a device")
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise Unreadable(path, f"it cannot be read ({error.strerror or error})") from error
    except ValidationError as error:  # cut short, damaged, or written by another version
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        said = " ".join(f"{place}: {first['msg']}".removeprefix(": ").split())
        raise Unreadable(path, f"it is no {kind.__name__} of this version of eelit ({said})") from error


class Effort(Typed):
    """What a training took when it was done."""

    seconds: Finite = Field(
        description="of the processor, all threads together: what else the machine does counts little"
    )
    steps: Count = Field(description="of the optimiser that minimises its loss; 0: nothing is learned in steps")

    def __add__(self, other: Effort) -> Effort:
        return Effort(seconds=self.seconds + other.seconds, steps=self.steps + other.steps)


class Samples:
    """What happened to each sample at one setting, in the order of the data."""

    def __init__(self, quality: NDArray[Any] | None = None, exits: NDArray[Any] | None = None) -> None:
        self.quality = quality  # [N], of which the point's quality is the mean; None: that is no mean over samples
        self.exits = exits  # [M] of samples (or tokens, documents); None: what stops is none of these


class OperatingPoint(Typed):
    """One setting of the knob, measured on one split.

    What happened to each sample goes with it in memory (`harness.outcomes` stores it), but is no part of the record:
    two points that would be written alike are equal.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    knob: Knob
    quality: Finite
    cost: Finite = Field(description="mean per sample, in the curve's unit")
    speed_up: Positive = Field(description="cost of the plain full model ÷ cost")
    exits: list[Share] = Field(
        min_length=1, description="share of samples (or tokens, documents) that leave at each exit"
    )
    samples: Samples | None = Field(default=None, exclude=True, repr=False)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, OperatingPoint) and self._written == other._written

    def __hash__(self) -> int:
        return hash(self._written)

    @property
    def _written(self) -> tuple[float, ...]:
        return self.knob, self.quality, self.cost, self.speed_up, *self.exits


class Execution(Typed):
    """One operating point really executed: finished samples dropped, later stages not run.

    Of a network divided between a device and the cloud (`families.split`) the device's cost alone is told, with a set
    price for each sample sent: the cloud does run the later stages.
    """

    knob: Knob
    samples: Count
    claimed: Finite = Field(description="total cost according to the cost table and the replayed exits")
    counted: Finite = Field(description="total cost counted from outside while it ran")
    agrees: bool = Field(description="every sample left at the exit, and with the answer, that replay says")
    seconds: Finite = Field(description="median wall time of the policy's run")
    full_seconds: Finite = Field(description="median wall time of the plain full model in the same run")
    not_finite: Count | None = Field(
        default=None,
        description="samples (or tokens) of which an exit, gate or predictor said what is not finite (NaN, infinity), "
        "and that went on; null in older results",
    )


def _alike(found: T, *curves: Sequence[OperatingPoint]) -> T:
    """Return the record if its curves have as many points as each other, each of as many exits. Else `ValueError`."""
    if len({len(curve) for curve in curves}) > 1:
        raise ValueError("validation and test data have different numbers of points")
    if len({len(point.exits) for curve in curves for point in curve}) > 1:
        raise ValueError("points have different numbers of exits")
    return found


class Baseline(Typed):
    """What the same trained model does under a simpler rule: the least that a method should beat."""

    name: str
    validation: list[OperatingPoint] = Field(min_length=1)
    test: list[OperatingPoint] = Field(min_length=1)

    @model_validator(mode="after")
    def _points_of_one_sweep(self) -> Self:
        return _alike(self, self.validation, self.test)


class ExitFacts(Typed):
    """One exit by itself, on all test samples."""

    quality: Finite
    cost: Finite = Field(description="mean cost of the network cut off for good after this exit")
    calibration_error: Finite | None = Field(default=None, description="expected calibration error; None: no classes")


class Timing(Typed):
    """Wall time of inference beside the full model's, both from inputs to predictions, in turn in one process."""

    batch: Count
    knob: Knob
    samples: Annotated[Count, Field(ge=1)]
    saved: Finite = Field(description="share of the full model's cost that was not computed, on these samples")
    seconds: Finite = Field(description="median")
    full_seconds: Positive = Field(description="median")

    @property
    def efficiency(self) -> float:
        """Share of the full model's time that was saved ÷ share of its cost that was saved; 1 is perfect."""
        return (1 - self.seconds / self.full_seconds) / self.saved


class Chance(Typed):
    """What answers reach that do not look at the input, on the test split: the least that a trained model must beat."""

    what: str = Field(description="of what, such as: the commonest of 2 classes, of 120 samples")
    quality: Finite = Field(description="in the curve's measure, unless `reached` is of another")
    error: Finite = Field(description="standard error of the measure on so many samples, by chance")
    reached: Finite | None = Field(default=None, description="what the model reaches; None: the curve's best quality")


class DesignPoint(Typed):
    """One design that a search has judged, on held-out data."""

    quality: Finite
    share: Finite = Field(description="mean cost, share of the full model's")
    front: bool = Field(description="no other design of the same search is better in one and as good in the other")
    design: str = Field(default="", description="what the design is, in words; told of the front alone")


class Search(Typed):
    """A search among designs, before the method was run, beside one at random with the same budget."""

    algorithm: str
    space: str = Field(description="what the designs differ in, in words")
    designs: Finite = Field(description="how many of them there are")
    budget: Annotated[Count, Field(ge=1)] = Field(description="designs that each of the two searches judged")
    seed: Count
    quality: str
    cost: str = Field(description="what is averaged as cost")
    judged_on: str = Field(description="the held-out data")
    found: list[DesignPoint] = Field(min_length=1, description="the front first, from its cheapest design on")
    random: list[DesignPoint] = Field(min_length=1)
    hypervolume: Finite = Field(description="mean best quality within a budget, over all up to the full model's cost")
    random_hypervolume: Finite

    @property
    def gain(self) -> float:
        """By how much the front is worth more than that of the random search."""
        return self.hypervolume - self.random_hypervolume


class Rate(Typed):
    """What one part of a simulated world gave in each second: ``rates[k]`` from second ``times[k]`` to the next."""

    part: str = Field(description="which part, and of what, such as: link 1, bandwidth")
    unit: str
    times: list[Finite] = Field(min_length=1)
    rates: list[Finite] = Field(min_length=1)


class Simulation(Typed):
    """The simulated world that a curve's test samples went through: a seeded process, nothing in it was measured."""

    seconds: Positive = Field(description="simulated seconds from the start that are told; the world may go on")
    rates: list[Rate] = Field(description="what changed")
    constants: list[str] = Field(description="what stayed as it was, in words")


class Lost(Typed):
    """What one rule had lost at some moments, while it went on; below 0 it had gained."""

    rule: str
    times: list[Finite] = Field(min_length=1, description="rising")
    values: list[Finite] = Field(min_length=1)

    @model_validator(mode="after")
    def _a_value_for_each_time(self) -> Self:
        if len(self.times) != len(self.values):
            raise ValueError(f"{self.rule} has {len(self.values)} values at {len(self.times)} times")
        return self


class Learning(Typed):
    """What a rule lost over time, or by another quantity, beside others that met the same: one picture.

    What is told is a loss, such as regret: lower is better.
    """

    title: str = Field(description="what is shown, and in which case, such as: regret at lambda 1")
    time: str = Field(description="what times count, such as: frames")
    unit: str = Field(description="of the values")
    lines: list[Lost] = Field(min_length=1, description="the method's own first")


class Beside(Typed):
    """Another measure of a curve's settings on the test split, where the curve's own says nothing of the model itself.

    Less of it is better. The two ends are told apart: if the full model is not better than its cheap part alone, what
    keeps the full model's answers keeps nothing.
    """

    name: str = Field(description="the measure, with its unit")
    meaning: str = Field(description="in words, for a caption")
    values: list[Finite] = Field(min_length=1, description="of each point of the curve")
    cheap: Finite = Field(description="what the cheap part (the first exit) reaches alone")
    full: Finite
    error: Finite = Field(description="standard error of the difference of these two, sample by sample")

    @property
    def lead(self) -> float:
        """By how much the full model is better than its cheap part."""
        return self.cheap - self.full

    @property
    def told(self) -> str:
        """What it is, and what both ends reach, in two sentences."""
        return (
            f"{self.name[:1].upper()}{self.name[1:]}: {self.meaning}. The full model reaches {self.full:.3f}, its "
            f"cheap part alone {self.cheap:.3f}: a lead of {self.lead:+.3f} ± {self.error:.3f} (standard error)."
        )


class Curve(Typed):
    """Quality against cost for one variant of a method, from the most eager knob to `never`."""

    variant: str
    knob: str
    quality: str
    unit: str
    full_quality: Finite = Field(description="the plain full model on the test split")
    full_cost: Finite
    validation: list[OperatingPoint] = Field(min_length=1)
    test: list[OperatingPoint] = Field(min_length=1)
    executions: list[Execution]
    baselines: list[Baseline] = []
    each_exit: list[ExitFacts] = []
    overthinking: Finite | None = Field(
        default=None, description="share of samples that some earlier exit has right and the last exit wrong"
    )
    timings: list[Timing] = []
    training: Effort | None = Field(
        default=None, description="what training this variant's network took; None: an older result"
    )
    training_seconds: Finite | None = Field(default=None, description="the same in wall time, in older results")
    chance: Chance | None = Field(default=None, description="None: the method does not say, or an older result")
    search: Search | None = Field(default=None, description="None: nothing is searched for, or an older result")
    simulation: Simulation | None = Field(default=None, description="None: nothing is simulated, or an older result")
    learning: list[Learning] = Field(default=[], description="empty: nothing is learnt online, or an older result")
    beside: Beside | None = Field(default=None, description="None: there is none, or an older result")
    warnings: list[str] = Field(
        default=[], description="what a reader should know before concluding from it; no rule is broken"
    )

    @model_validator(mode="after")
    def _points_of_one_sweep(self) -> Self:
        swept = {point.knob for point in self.validation}
        for timing in self.timings:
            if timing.knob not in swept:
                raise ValueError(f"what is timed at {self.knob} {timing.knob:g} was not swept")
        if self.beside is not None and len(self.beside.values) != len(self.test):
            raise ValueError(f"{self.beside.name} is told of {len(self.beside.values)} of {len(self.test)} points")
        return _alike(self, self.validation, self.test)


class Outcome(Typed):
    """A claim of the paper or a rule of the contract, tried here."""

    name: str
    statement: str
    holds: bool
    measured: str
    not_comparable: str = Field(default="", description="why trying the claim here says nothing about it; else empty")


class Machine(Typed):
    """Where the numbers were measured."""

    system: str
    processor: str
    cores: Count
    threads: Count
    load: Finite | None = Field(default=None, description="mean number of busy processes in the minute before the end")


class Result(Typed):
    """A whole run of one method."""

    key: str
    scale: Literal["smoke", "default", "full"]
    seed: Count
    settings: dict[str, str]
    data: dict[str, str] = Field(description="data item → version or digest")
    curves: list[Curve] = Field(min_length=1)
    claims: list[Outcome]
    checks: list[Outcome]
    prepared_seconds: Finite = Field(description="training or loading of what was prepared")
    prepared_from_cache: bool
    training: Effort | None = Field(
        default=None, description="what training the method's networks took, each counted once; None: an older result"
    )
    rivals: Effort | None = Field(default=None, description="the same of what only its claims are compared with")
    training_seconds: Finite = Field(default=0.0, description="what training took in wall time, in older results")
    rival_seconds: Finite = Field(default=0.0, description="the same of what only its claims are compared with")
    code: str = Field(default="", description="digest of the code that measured this, see `dependencies`")
    samples: str = Field(
        default="",
        description="digest of the file that tells of each test sample, see `outcomes`; empty: there is none",
    )
    seconds: Finite = Field(description="wall time after the preparation")
    created: AwareDatetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine

    @property
    def all_seconds(self) -> float:
        """What it took at most: its trainings whenever they were done, and everything after them."""
        trainings = [each.seconds for each in (self.training, self.rivals) if each]
        return sum(trainings) + self.training_seconds + self.rival_seconds + self.seconds

    @model_validator(mode="after")
    def _one_curve_for_each_variant(self) -> Self:
        if len({curve.variant for curve in self.curves}) < len(self.curves):
            raise ValueError("two curves are of one variant")
        return self

    @property
    def shape(self) -> list[object]:
        """What results of the same code with different seeds have in common: which curves, of how many points.

        Not how many exits there are: with one seed a method may keep more of them than with another.
        """
        return [
            (
                *(curve.variant, curve.knob, curve.quality, curve.unit, len(curve.test)),
                [baseline.name for baseline in curve.baselines],
            )
            for curve in self.curves
        ]

    @property
    def passed(self) -> bool:
        """Whether every rule of the contract holds (a claim of the paper may fail: that is a finding)."""
        return all(check.holds for check in self.checks)


class FailedRun(Typed):
    """A run of a benchmark that did not end well, kept so that its empty cell can say why."""

    key: str
    seed: Count
    code: str = Field(description="digest of the code that failed, see `dependencies`")
    reason: str
    created: AwareDatetime
    commit: str | None


class SmokeReport(Typed):
    """How the smoke test of one method went."""

    key: str
    status: Literal["passed", "failed", "not-run"]
    executed_now: bool = Field(description="False: nothing changed since an earlier run, whose report this is")
    finished: AwareDatetime
    seconds: Finite = Field(description="wall time after the preparation")
    prepared_seconds: Finite
    processor_seconds: Finite | None = Field(
        default=None, description="of the whole test, without imports that all tests share; None: an older report"
    )
    fingerprint: str = Field(description="hash of code, data, versions and seed")
    log: str
    error: str | None = None
    result: Result | None = None


class SmokeChange(Typed):
    """A method began to pass or to fail its smoke test."""

    key: str
    status: Literal["passed", "failed"]
    before: Literal["passed", "failed"] | None = Field(description="None: the first run that this machine knows")
    finished: AwareDatetime
    error: str | None = None


class SmokeHistory(Typed):
    """The changes that this machine saw, the oldest first."""

    changes: list[SmokeChange] = []


class SmokeSession(Typed):
    """One call of the smoke test over several methods."""

    started: AwareDatetime
    finished: AwareDatetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine
    backend: str
    keys: list[str]
