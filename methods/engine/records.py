"""What a run leaves behind, typed: operating points, what was really executed, and how the paper's claims fared.

No torch here: the command line and the site read results without it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class Typed(BaseModel):
    """Base of all result types: immutable, unknown fields forbidden; an infinite knob is the JSON string "Infinity"."""

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="strings")


class OperatingPoint(Typed):
    """One setting of the knob, measured on one split."""

    knob: float
    quality: float
    cost: float = Field(description="mean per sample, in the curve's unit")
    speed_up: float = Field(description="cost of the plain full model ÷ cost")
    exits: list[float] = Field(description="share of samples (or tokens, documents) that leave at each exit")


class Execution(Typed):
    """One operating point really executed: finished samples dropped, later stages not run."""

    knob: float
    samples: int
    claimed: float = Field(description="total cost according to the cost table and the replayed exits")
    counted: float = Field(description="total cost counted from outside while it ran")
    agrees: bool = Field(description="every sample left at the exit, and with the answer, that replay says")
    seconds: float = Field(description="median wall time of the policy's run")
    full_seconds: float = Field(description="median wall time of the plain full model in the same run")


class Baseline(Typed):
    """What the same trained model does under a simpler rule: the least that a method should beat."""

    name: str
    validation: list[OperatingPoint]
    test: list[OperatingPoint]


class ExitFacts(Typed):
    """One exit by itself, on all test samples."""

    quality: float
    cost: float = Field(description="mean cost of the network cut off for good after this exit")
    calibration_error: float | None = Field(default=None, description="expected calibration error; None: no classes")


class Timing(Typed):
    """Wall time of inference beside the full model's, both from inputs to predictions, in turn in one process."""

    batch: int
    knob: float
    samples: int
    saved: float = Field(description="share of the full model's cost that was not computed, on these samples")
    seconds: float = Field(description="median")
    full_seconds: float = Field(description="median")

    @property
    def efficiency(self) -> float:
        """Share of the full model's time that was saved ÷ share of its cost that was saved; 1 is perfect."""
        return (1 - self.seconds / self.full_seconds) / self.saved


class Chance(Typed):
    """What answers reach that do not look at the input, on the test split: the least that a trained model must beat."""

    what: str = Field(description="of what, such as: the commonest of 2 classes, of 120 samples")
    quality: float = Field(description="in the curve's measure, unless `reached` is of another")
    error: float = Field(description="standard error of the measure on so many samples, by chance")
    reached: float | None = Field(default=None, description="what the model reaches; None: the curve's best quality")


class Curve(Typed):
    """Quality against cost for one variant of a method, from the most eager knob to `never`."""

    variant: str
    knob: str
    quality: str
    unit: str
    full_quality: float = Field(description="the plain full model on the test split")
    full_cost: float
    validation: list[OperatingPoint]
    test: list[OperatingPoint]
    executions: list[Execution]
    baselines: list[Baseline] = []
    each_exit: list[ExitFacts] = []
    overthinking: float | None = Field(
        default=None, description="share of samples that some earlier exit has right and the last exit wrong"
    )
    timings: list[Timing] = []
    training_seconds: float | None = Field(default=None, description="what training this variant's network took")
    chance: Chance | None = Field(default=None, description="None: the method does not say, or an older result")


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
    cores: int
    threads: int
    load: float | None = Field(default=None, description="mean number of busy processes in the minute before the end")


class Result(Typed):
    """A whole run of one method."""

    key: str
    scale: Literal["smoke", "default", "full"]
    seed: int
    settings: dict[str, str]
    data: dict[str, str] = Field(description="data item → version or digest")
    curves: list[Curve]
    claims: list[Outcome]
    checks: list[Outcome]
    prepared_seconds: float = Field(description="training or loading of what was prepared")
    prepared_from_cache: bool
    training_seconds: float = Field(
        default=0.0, description="what training the method's networks took when it was done, each counted once"
    )
    rival_seconds: float = Field(default=0.0, description="the same of what only its claims are compared with")
    code: str = Field(default="", description="digest of the code that measured this, see `dependencies`")
    seconds: float = Field(description="wall time after the preparation")
    created: datetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine

    @property
    def passed(self) -> bool:
        """Whether every rule of the contract holds (a claim of the paper may fail: that is a finding)."""
        return all(check.holds for check in self.checks)


class FailedRun(Typed):
    """A run of a benchmark that did not end well, kept so that its empty cell can say why."""

    key: str
    seed: int
    code: str = Field(description="digest of the code that failed, see `dependencies`")
    reason: str
    created: datetime
    commit: str | None


class SmokeReport(Typed):
    """How the smoke test of one method went."""

    key: str
    status: Literal["passed", "failed", "not-run"]
    executed_now: bool = Field(description="False: nothing changed since an earlier run, whose report this is")
    finished: datetime
    seconds: float = Field(description="wall time after the preparation")
    prepared_seconds: float
    fingerprint: str = Field(description="hash of code, data, versions and seed")
    log: str
    error: str | None = None
    result: Result | None = None


class SmokeChange(Typed):
    """A method began to pass or to fail its smoke test."""

    key: str
    status: Literal["passed", "failed"]
    before: Literal["passed", "failed"] | None = Field(description="None: the first run that this machine knows")
    finished: datetime
    error: str | None = None


class SmokeHistory(Typed):
    """The changes that this machine saw, the oldest first."""

    changes: list[SmokeChange] = []


class SmokeSession(Typed):
    """One call of the smoke test over several methods."""

    started: datetime
    finished: datetime
    commit: str | None
    versions: dict[str, str]
    machine: Machine
    backend: str
    keys: list[str]
