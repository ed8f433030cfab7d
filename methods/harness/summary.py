"""What the results of several seeds say together: figures at equal cost, verdicts on claims, the leaderboard.

No torch here. Every figure is computed from stored results by the rules below.

**At equal cost.** Cost shares are of the full model's. Between two knobs a method can stand at any cost: a share of the
samples, drawn at random, is treated with the one, the rest with the other. For a share of cost the pair and its mixture
are chosen on validation data (the best quality within that cost); what is reported is what they give on test data.
A mixture's quality is the mean of its parts': exact for accuracy, and for Pearson's r within 0.001 (tried by mixing
predictions); for NDCG it means that whole queries are drawn.

**Intervals.** A figure has a 95 % interval, which covers other test samples and other seeds. Each row of a group is
compared with the best one on the same samples and seeds; a row whose difference from the best is not significant, after
Holm's correction for all comparisons of the group, is level with it. The rules are in `paired`. Results that were
stored without the outcomes of single samples have no intervals.

**Baselines.** Two exit rules that work on any network with exits are rows of their own: the network cut off at a fixed
exit, and stopping at the largest probability. Methods with the same trained weights share one row of each.

**Area.** Mean quality at 25, 30, … 100 % of the cost.

**Verdict.** A claim is tried once per seed, and counts where it is comparable. It holds if it held with every seed,
holds in part if with some, and does not hold here if with none; with fewer than three seeds there is no verdict.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Curve, Machine, OperatingPoint, Result, Timing
from eelit.methods.harness import registry

if TYPE_CHECKING:
    from eelit.methods.harness.paired import Interval, Standing

X = TypeVar("X")

SHARES = (0.25, 0.5, 0.75)
POINT = 0.01
"""How much quality a setting may lose on validation data to count as one that loses (next to) nothing."""
AREA = tuple(i / 100 for i in range(25, 101, 5))
BASELINE_KNOBS = {"static exit": "exit", "max-confidence": "confidence"}
"""The baselines that every method is compared with, and the names of their knobs."""
TRAINED_OTHERWISE = "Trained otherwise"
"""The section of a method's docstring that says how its training differs from that of the track, and why."""
OF_SOME = re.compile(r'(All but )?("[^"]+"(?:(?:, | and )"[^"]+")*): (.+)', re.DOTALL)
"""How a paragraph of it begins that is about some variants alone: with their names, or with all others' names."""
SAVED = 0.05
"""Least share of the cost that a setting must save for its time to be compared with that."""
SLOWER = 1.05
"""How many times as long as the full model a setting must take to count as slower."""
BATCHES = (1, 32)
"""Batch sizes that are timed."""
SEEDS = 3
"""Fewest seeds for a verdict, and how many a benchmark runs if not told otherwise."""


def area(validation: Sequence[OperatingPoint], test: Sequence[OperatingPoint]) -> float | None:
    """Return the mean quality over the cost shares of `AREA`; None if the cheapest of them is out of reach."""
    found = [at(validation, test, share) for share in AREA]
    return None if found[0] is None else mean(point.quality for point in found if point is not None)


@dataclass(frozen=True)
class Spread:
    """Mean over seeds and standard deviation (with n - 1; None for one seed)."""

    mean: float
    deviation: float | None
    n: int
    each: tuple[float, ...] = ()  # one value per seed, in their order

    @classmethod
    def of(cls, values: Iterable[float | None]) -> Spread | None:
        """Return the spread of the values that there are, or None if there are none."""
        known = [value for value in values if value is not None]
        return cls(mean(known), stdev(known) if len(known) > 1 else None, len(known), tuple(known)) if known else None

    def __str__(self) -> str:
        return f"{self.mean:.4f}" + (f" ± {self.deviation:.4f}" if self.deviation is not None else "")


Judgement = Literal["holds", "holds in part", "does not hold here", "not comparable", "too few seeds"]


@dataclass(frozen=True)
class Verdict:
    """One claim over all seeds."""

    name: str
    statement: str
    judgement: Judgement
    held: int
    n: int
    measured: list[str]  # one per seed
    reason: str  # why it is not comparable; else empty
    current: bool  # measured by the present code
    track: str = ""  # title of the track where it was tried, where verdicts of several may stand together

    @property
    def is_judged(self) -> bool:
        """Whether the seeds say anything for or against the claim."""
        return self.judgement in ("holds", "holds in part", "does not hold here")


def verdicts(results: Sequence[Result], *, current: bool) -> list[Verdict]:
    """Judge every claim by the rule above, from the same method's results with different seeds."""
    names = dict.fromkeys(claim.name for result in results for claim in result.claims)
    found = []
    for name in names:
        tried = [claim for result in results for claim in result.claims if claim.name == name]
        reason = next((claim.not_comparable for claim in tried if claim.not_comparable), "")
        comparable = [claim for claim in tried if not claim.not_comparable]
        tried, reason = (comparable, "") if comparable else (tried, reason)
        held = sum(claim.holds for claim in tried)
        judgement: Judgement = (
            "not comparable"
            if reason
            else "too few seeds"
            if len(tried) < SEEDS
            else "holds"
            if held == len(tried)
            else "holds in part"
            if held
            else "does not hold here"
        )
        measured = [claim.measured for claim in tried]
        found.append(Verdict(name, tried[-1].statement, judgement, held, len(tried), measured, reason, current))
    return found


@dataclass(frozen=True)
class Wall:
    """Time per sample at the timed knob that is nearest to a share of the cost, beside the full model's."""

    share: float  # of the full model's cost that was aimed at
    saved: Spread  # share of the full model's cost that was not computed on the timed samples
    milliseconds: Spread
    full: Spread  # milliseconds of the full model, taken in turn

    @property
    def ratio(self) -> float:
        """How many times as long as the full model it took."""
        return self.milliseconds.mean / self.full.mean

    def __str__(self) -> str:
        return f"{self.milliseconds.mean:.1f} instead of {self.full.mean:.1f} for {1 - self.saved.mean:.0%} of the cost"


@dataclass(frozen=True)
class Row:
    """One variant of a method over all its seeds."""

    key: str
    variant: str
    is_main: bool  # the method's first variant
    quality: str
    unit: str
    data: str  # digest of the examples: only rows with the same data, quality and unit can be compared
    sizes: str  # of its training, validation and test part
    seeds: list[int]
    current: bool  # measured by the present code
    full: Spread  # quality of the full model
    at: dict[float, Spread | None]  # share of cost → quality
    spent: dict[float, Spread | None]  # share of cost allowed → share that this quality really took on test data
    area: Spread | None
    within_a_point: Spread | None  # speed-up on test data of the setting that loses at most `POINT` on validation data
    against: dict[str, dict[float, Spread | None]]  # baseline → share → quality minus the baseline's, paired by seed
    overthinking: Spread | None
    training_seconds: Spread | None  # of the processor
    training_steps: Spread | None
    efficiency: dict[int, Spread | None]  # batch size → efficiency in seconds at the knob nearest to half of the cost
    walls: dict[int, list[Wall]]  # batch size → seconds at the knobs nearest to 75, 50 and 25 % of the cost
    points: list[tuple[float, float]]  # of each knob, mean over seeds: share of the full cost, quality on test data
    knobs: list[str]  # what each of these points was set to, such as "patience 2"
    baselines: dict[str, list[tuple[float, float]]]  # points of the baselines on the same trained weights
    baseline_knobs: dict[str, list[str]]
    settings: dict[str, str]  # of the method in this variant, as Python writes them
    trained_otherwise: str  # how the method's training differs from that of the track, and why; else empty
    calibration: list[Spread | None]  # expected calibration error of each exit
    exits: list[float]  # share of test samples leaving at each exit, at the knob nearest to half of the validation cost
    rule: str = ""  # which baseline of `BASELINE_KNOBS` it is, on the method's network; empty: the method itself
    shared: tuple[str, ...] = ()  # of a baseline: other rows whose networks have the same weights
    standings: dict[float, Standing] = field(default_factory=dict)  # share → how certain it is, where samples are known
    over: dict[str, dict[float, Interval]] = field(default_factory=dict)  # baseline → share → `against`, where known
    load: Spread | None = None  # busy processes per core when the runs ended: above about 1, seconds mean little

    @property
    def who(self) -> str:
        """The key, or of a baseline such as ``max-confidence@KEY``."""
        return f"{slug(self.rule)}@{self.key}" if self.rule else self.key

    @property
    def id(self) -> str:
        """The name of the row: that, and its variant if it has one."""
        return called(self.who, self.variant)

    def place(self, share: float) -> str:
        """Return ``best`` of its group, ``level`` with the best, or an empty string (neither, or not known)."""
        standing = self.standings.get(share)
        if standing is None or standing.behind is None or not standing.level:
            return ""
        return "level" if standing.behind.deviation or standing.behind.mean else "best"

    def slower(self, batch: int) -> list[Wall]:
        """Return the timed knobs that save cost but take longer than the full model, in batches of this size."""
        return [wall for wall in self.walls[batch] if wall.ratio > SLOWER and wall.saved.mean > SAVED]

    @property
    def least(self) -> float:
        """The share of the full cost below which no knob goes: less is out of reach."""
        return min(share for share, _ in self.points)

    @property
    def training(self) -> dict[str, str]:
        """The settings that say how long its training was: passes over the data by stage, and the size of batches."""
        return {name: said for name, said in self.settings.items() if name == "batch" or name.endswith("epochs")}

    @property
    def group(self) -> tuple[str, str, str]:
        """Rows of one group were measured on the same data by the same quality, and their costs are of one kind."""
        return self.data, self.quality, self.unit


def called(key: str, variant: str) -> str:
    """Return the name of a variant of a method."""
    return f"{key}:{variant}" if variant else key


def said_once(outcome: str) -> str:
    """Return the name of an outcome without its variant where it begins with that name anyway.

    >>> said_once("TOKEE: TOKEE beats SENTEE")
    'TOKEE beats SENTEE'
    >>> said_once("SENTEE: TOKEE beats SENTEE")
    'SENTEE: TOKEE beats SENTEE'
    """
    variant, _, rest = outcome.partition(": ")
    return rest if rest == variant or rest.startswith(f"{variant} ") else outcome


def slug(rule: str) -> str:
    """Return the name of a baseline in one word."""
    return rule.replace(" ", "-")


def row(results: Sequence[Result], variant: str, *, current: bool, share: float = 0.5, rule: str = "") -> Row:
    """Summarise one variant of one method's results with different seeds, or a baseline on their networks."""
    curves = [curve_of(result, variant, rule) for result in results]
    first, full = curves[0], Spread.of(curve.full_quality for curve in curves)
    assert full is not None
    names = dict.fromkeys(baseline.name for curve in curves for baseline in curve.baselines)
    rivals = {name: [b.test for curve in curves for b in curve.baselines if b.name == name] for name in names}
    return Row(
        key=results[0].key,
        variant=variant,
        is_main=results[0].curves[0].variant == variant and not rule,
        quality=first.quality,
        unit=first.unit,
        data=data_of(results[0], variant),
        sizes=_data(results[0], variant, "sizes"),
        seeds=[result.seed for result in results],
        current=current,
        full=full,
        at={s: Spread.of(_at(curve, s) for curve in curves) for s in (*SHARES, share)},
        spent={s: Spread.of(_spent(curve, s) for curve in curves) for s in (*SHARES, share)},
        area=Spread.of(area(curve.validation, curve.test) for curve in curves),
        within_a_point=Spread.of(cheapest_within(curve.validation, curve.test, POINT).speed_up for curve in curves),
        against={
            name: {s: Spread.of(_gain(curve, name, s) for curve in curves) for s in (*SHARES, share)} for name in rivals
        },
        overthinking=Spread.of(curve.overthinking for curve in curves),
        training_seconds=Spread.of(curve.training.seconds if curve.training else None for curve in curves),
        training_steps=Spread.of(curve.training.steps or None if curve.training else None for curve in curves),
        efficiency={batch: Spread.of(_efficiency(curve, batch) for curve in curves) for batch in BATCHES},
        walls={batch: _walls(curves, batch) for batch in BATCHES},
        points=_means([curve.test for curve in curves]),
        knobs=_knobs([curve.test for curve in curves], first.knob),
        baselines={name: _means(tests) for name, tests in rivals.items()},
        baseline_knobs={name: _knobs(tests, BASELINE_KNOBS.get(name, "knob")) for name, tests in rivals.items()},
        settings=_settings(results[0], variant),
        trained_otherwise=trained_otherwise(results[0].key, variant),
        calibration=_calibration(curves),
        exits=_leaving(curves),
        rule=rule,
        load=Spread.of(_load(result.machine) for result in results),
    )


def _load(machine: Machine) -> float | None:
    """Return the machine's load for each of its cores; None where it was not recorded."""
    return None if machine.load is None else machine.load / max(1, machine.cores)


def _together(each: Iterable[Sequence[X]]) -> list[tuple[X, ...]]:
    """Return what is in the same place with every seed; nothing where a seed has more places than another.

    With one seed a method may keep more exits than with another: those in the same place are not the same then.
    """
    every = list(each)
    return list(zip(*every, strict=True)) if len({len(one) for one in every}) == 1 else []


def _calibration(curves: Sequence[Curve]) -> list[Spread | None]:
    """Return the calibration error of each exit."""
    exits = _together(curve.each_exit for curve in curves)
    return [Spread.of(facts.calibration_error for facts in at_exit) for at_exit in exits]


def curve_of(result: Result, variant: str, rule: str = "") -> Curve:
    """Return the curve of a variant, or that of a baseline on its network, without execution, exits or timing."""
    curve = next(curve for curve in result.curves if curve.variant == variant)
    if not rule:
        return curve
    found = next(baseline for baseline in curve.baselines if baseline.name == rule)
    known = {"knob": BASELINE_KNOBS[rule], "validation": found.validation, "test": found.test}
    unknown: dict[str, Any] = {"executions": [], "baselines": [], "each_exit": [], "timings": [], "overthinking": None}
    return curve.model_copy(update={**known, **unknown, "search": None, "beside": None})


def _means(curves: Sequence[Sequence[OperatingPoint]]) -> list[tuple[float, float]]:
    """Return the mean cost share and quality of each knob over the curves of several seeds."""
    return [
        (mean(1 / point.speed_up for point in knob), mean(point.quality for point in knob))
        for knob in _together(curves)
    ]


def setting(knob: str, value: float) -> str:
    """Return a knob and its value as one says it."""
    return f"{knob} {'−' if value < 0 else ''}{'∞' if math.isinf(value) else f'{abs(value):g}'}"


def _knobs(curves: Sequence[Sequence[OperatingPoint]], knob: str) -> list[str]:
    """Return what each point was set to; where a seed has found values of its own, all that is shared is the rank."""
    together = _together(curves)
    return [
        setting(knob, points[0].knob)
        if all(point.knob == points[0].knob for point in points)
        else f"{knob}, step {rank} of {len(together)}"
        for rank, points in enumerate(together, 1)
    ]


def _settings(result: Result, variant: str) -> dict[str, str]:
    """Return the settings of one variant: those of all, and its own instead where it has some."""
    names = result.settings
    own = {name.removeprefix(f"{variant}."): said for name, said in names.items() if name.startswith(f"{variant}.")}
    shared = {name: said for name, said in names.items() if "." not in name}
    return shared | own


def trained_otherwise(key: str, variant: str) -> str:
    """Return how a variant's training differs from that of the track, and why, in one line; empty if it does not.

    A paragraph that begins with names of variants (``"a" and "b": for twice as long``, or ``All but "a": …``) is about
    these alone.
    """
    said = []
    for paragraph in registry.describe(key).sections.get(TRAINED_OTHERWISE, "").split("\n\n"):
        text = " ".join(paragraph.split())
        if some := OF_SOME.fullmatch(text):
            if (variant in re.findall('"([^"]+)"', some[2])) == bool(some[1]):
                continue
            text = some[3][:1].upper() + some[3][1:]
        said.append(text)
    return " ".join(filter(None, said))


def _leaving(curves: Sequence[Curve]) -> list[float]:
    """Return the share of test samples leaving at each exit, mean over seeds, each at its knob nearest to half."""
    near = [curve.test[_nearest(curve, 0.5, range(len(curve.test)))].exits for curve in curves]
    return [mean(shares) for shares in _together(near)]


def _nearest(curve: Curve, share: float, among: Iterable[int]) -> int:
    """Return which of the knobs, by their place in the sweep, costs nearest to a share on validation data."""
    return min(among, key=lambda i: abs(1 / curve.validation[i].speed_up - share))


def data_of(result: Result, variant: str) -> str:
    """Return the digest of the examples behind a variant's curve."""
    return _data(result, variant, "examples")


def _data(result: Result, variant: str, name: str) -> str:
    return result.data.get(f"{variant}: {name}", result.data.get(name, ""))


def _at(curve: Curve, share: float) -> float | None:
    found = at(curve.validation, curve.test, share)
    return found.quality if found else None


def _spent(curve: Curve, share: float) -> float | None:
    found = at(curve.validation, curve.test, share)
    return found.share if found else None


def _gain(curve: Curve, name: str, share: float) -> float | None:
    """Return the method's quality minus the baseline's on the same trained model, both within the share of cost."""
    ours = at(curve.validation, curve.test, share)
    theirs = [at(baseline.validation, baseline.test, share) for baseline in curve.baselines if baseline.name == name]
    return ours.quality - theirs[0].quality if ours and theirs and theirs[0] else None


def _timing(curve: Curve, batch: int, share: float) -> Timing | None:
    """Return the timing at the timed knob nearest to a share of the cost."""
    knobs = [point.knob for point in curve.validation]
    timed = {knobs.index(timing.knob): timing for timing in curve.timings if timing.batch == batch}
    return timed[_nearest(curve, share, timed)] if timed else None


def _efficiency(curve: Curve, batch: int) -> float | None:
    timing = _timing(curve, batch, 0.5)
    return timing.efficiency if timing and timing.saved > SAVED else None


def _walls(curves: Sequence[Curve], batch: int) -> list[Wall]:
    found = []
    for share in reversed(SHARES):
        timed = [timing for curve in curves if (timing := _timing(curve, batch, share))]
        saved = Spread.of(timing.saved for timing in timed)
        ours = Spread.of(1000 * timing.seconds / timing.samples for timing in timed)
        full = Spread.of(1000 * timing.full_seconds / timing.samples for timing in timed)
        if saved and ours and full:
            found.append(Wall(share, saved, ours, full))
    return found
