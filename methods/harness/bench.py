"""The benchmark of a track: every method with several seeds, its results kept for good; and what is kept of others.

Results are files that are only ever added: ``results/TRACK/KEY/seed0-CODE.json``, where CODE is the digest of the code
that measured it, and beside it ``seed0-CODE.samples.npz`` with what happened to each test sample (`outcomes`). A run
that is there already is not repeated, so a benchmark that was stopped goes on where it was; a result whose code or data
is no longer the present one is stale, and is said to be. Why a run failed is kept beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eelit.methods.data import manifest
from eelit.methods.data.cache import without_room, write
from eelit.methods.engine.operating_points import mixture
from eelit.methods.engine.records import FailedRun, Learning, Result, Search, Simulation, Unreadable, read
from eelit.methods.harness import dependencies, registry, summary
from eelit.methods.harness.tracks import TRACKS, Track
from eelit.methods.harness.workers import Backend, spread

if TYPE_CHECKING:
    from eelit.methods.harness.outcomes import Outcomes
    from eelit.methods.harness.paired import Interval, Outcome, Standing

Run = tuple[str, int]
"""A method's key and a seed."""
APART = "Measured apart"
"""Section of a docstring that says why a method is on no track, though it needs the data of one."""
ALONE = "alone"
"""Folder beside those of the tracks: what methods measured by themselves, with their own settings on their own data."""


def folder() -> Path:
    """Return where the results lie: beside this module, in a checkout and in an installed package alike."""
    return Path(str(files("eelit.methods"))) / "results"


def members(name: str) -> list[str]:
    """Return the keys of the methods that are measured on a track, sorted.

    These are all that need its data and have its task, but for those whose docstring says why they are measured apart.
    """
    track, (infos, _) = TRACKS[name], registry.described()
    return sorted(
        info.key
        for info in infos
        if track.item in info.data
        and APART not in info.sections
        and track.takes({setting.name: setting.default for setting in info.settings})
    )


def code(key: str) -> str:
    """Return the digest of a method's present code."""
    return dependencies.digest(registry.describe(key).path)


@dataclass(frozen=True)
class Stored:
    """The results of one method on a track: of the present code if there are any, else the newest of older code."""

    results: list[Result]  # one per seed, by seed
    current: bool
    unreadable: tuple[Unreadable, ...] = ()  # files that are no results of this version, or do not go with the others
    samples: Mapping[int, Outcomes] = field(default_factory=dict)  # seed → what happened to each test sample, if known
    unpaired: tuple[Unreadable, ...] = ()  # files of samples that do not go with their results


def stored(name: str, key: str, place: Path | None = None) -> Stored:
    """Return what is known of a method on a track. A file that cannot be read is as good as none, and is named.

    Current is what the present code measured on the present version of the data, with the track's settings.
    """
    track = TRACKS[name]
    items = track.items or registry.describe(key).data
    return _stored((place or folder()) / name / key, key, items, lambda result: _as_set(track, result))


def alone(key: str, place: Path | None = None) -> Stored:
    """Return the runs of a method with its own settings on its own data that are kept, as `eelit run --keep` does."""
    return _stored((place or folder()) / ALONE / key, key, registry.describe(key).data, lambda result: True)


def _stored(place: Path, key: str, items: Iterable[str], as_set: Callable[[Result], bool]) -> Stored:
    """Return what a folder holds of a method that needs these items of data."""
    found, unreadable = _read_all(sorted(place.glob("seed*.json")), key)
    present, data = code(key), {item: manifest.get(item).version for item in items}
    current = [
        result
        for result in found.values()
        if result.code == present
        and all(result.data.get(item, version) == version for item, version in data.items())
        and as_set(result)
    ]
    chosen = sorted(current or _newest_code(list(found.values())), key=lambda result: result.seed)
    newest = {result.seed: result for result in sorted(chosen, key=lambda result: result.created)}
    for path, result in found.items():
        if result in chosen and result is not newest[result.seed]:
            unreadable.append(Unreadable(path, f"it is another result with seed {result.seed}, which counts once"))
    chosen = [result for result in chosen if result is newest[result.seed]]
    usual = _usual(chosen)
    for path, result in found.items():
        if result in chosen and result.shape != usual:
            unreadable.append(Unreadable(path, "it has other curves than the same code's results with other seeds"))
    kept = [result for result in chosen if result.shape == usual]
    samples, unpaired = _samples({path: result for path, result in found.items() if any(result is k for k in kept)})
    return Stored(kept, bool(current), tuple(unreadable), samples, tuple(unpaired))


def _samples(results: Mapping[Path, Result]) -> tuple[dict[int, Outcomes], list[Unreadable]]:
    """Return what is kept of test samples beside results, by seed, and which files cannot be read."""
    found: dict[int, Outcomes] = {}
    unpaired: list[Unreadable] = []
    for path, result in results.items():
        if result.samples:
            from eelit.methods.harness.outcomes import Outcomes

            try:
                found[result.seed] = Outcomes.beside(path, result)
            except Unreadable as fault:
                unpaired.append(fault)
    return found, unpaired


def _as_set(track: Track, result: Result) -> bool:
    """Return whether a result was measured with the track's settings, in all its variants."""
    return all(
        result.settings.get(f"{curve.variant}.{name}", result.settings.get(name, repr(value))) == repr(value)
        for name, value in track.settings.items()
        for curve in result.curves
    )


def _read_all(paths: Iterable[Path], key: str) -> tuple[dict[Path, Result], list[Unreadable]]:
    """Return the results of a method in the files, and what is wrong with the others."""
    found: dict[Path, Result] = {}
    unreadable: list[Unreadable] = []
    for path in paths:
        try:
            found[path] = read(Result, path)
            if found[path].key != key:
                raise Unreadable(path, f"it is a result of {found.pop(path).key}")
        except Unreadable as fault:
            unreadable.append(fault)
    return found, unreadable


def _usual(results: Sequence[Result]) -> list[object]:
    """Return the shape that most of the results have; of as many, that of the first."""
    shapes = [result.shape for result in results]
    return max(shapes, key=shapes.count, default=[])


def _newest_code(results: Sequence[Result]) -> list[Result]:
    """Results of different code or settings are never mixed: return those like the one that was measured last."""
    if not results:
        return []
    last = max(results, key=lambda result: result.created)
    return [result for result in results if (result.code, result.settings) == (last.code, last.settings)]


def missing(name: str, keys: Iterable[str], seeds: int, place: Path | None = None) -> list[Run]:
    """Return the runs that are not there yet with the present code: first all methods with the first seed."""
    chosen = list(keys)
    known = {key: stored(name, key, place) for key in chosen}
    done = {(key, result.seed) for key in chosen if known[key].current for result in known[key].results}
    return [(key, seed) for seed in range(seeds) for key in chosen if (key, seed) not in done]


def bench(
    name: str,
    runs: Sequence[Run],
    *,
    backend: Backend = "loky",
    jobs: int = 1,
    place: Path | None = None,
    report: Callable[[Run, Result | Exception], None] = lambda run, found: None,
) -> list[Run]:
    """Carry out the runs, keeping each result as soon as it is there. Returns those that failed.

    Raises `OSError` if a disk is full.

    One job at a time by default, with the track's threads or all cores: seconds mean little on a machine that does
    something else as well.
    """
    threads = TRACKS[name].threads or max(1, (os.cpu_count() or 1) // jobs)
    failed = []
    for (key, seed), found in spread({run: partial(_run, name, *run, threads) for run in runs}, backend, jobs, threads):
        if isinstance(found, Exception) and without_room(found):
            raise found
        if isinstance(found, Exception) or not found.passed:
            failed.append((key, seed))
            _keep_failure(key, seed, why(found), (place or folder()) / name)
        else:
            keep(found, (place or folder()) / name)
        report((key, seed), found)
    return failed


def _run(name: str, key: str, seed: int, threads: int) -> Result | Exception:
    """Measure one method with one seed at full scale on a track; what it raises is its outcome."""
    import torch

    from eelit.methods.harness import runner

    torch.set_num_threads(threads)
    track = TRACKS[name]
    try:
        return runner.run(
            key, seed=seed, scale="full", settings=track.settings, among=track.takes, items=track.items or None
        )
    except SystemExit as error:  # a method that ends the process ends no benchmark
        return RuntimeError(f"its code ended the process (exit {error})")
    except Exception as error:
        return error


def why(found: Result | Exception) -> str:
    """Return in one line why a run is not kept."""
    if isinstance(found, Exception):
        return " ".join(f"{type(found).__name__}: {found}".split())
    broken = "; ".join(f"{check.name} ({check.measured})" for check in found.checks if not check.holds)
    return f"rules broken: {broken}"


def _keep_failure(key: str, seed: int, reason: str, place: Path) -> None:
    """Write why a run failed beside the results, in place of an earlier failure of the same run and code."""
    from eelit.methods.harness.runner import commit

    now = datetime.now(UTC).replace(microsecond=0)
    failure = FailedRun(key=key, seed=seed, code=code(key), reason=reason, created=now, commit=commit())
    write(place / key / f"failed{seed}-{failure.code}.json", failure.model_dump_json(indent=1).encode() + b"\n")


def keep(result: Result, place: Path) -> Path:
    """Write a result where it belongs, aside first; what is there already is not touched, even if it is unreadable.

    A run that is there already, with the same settings on the same version of the data, is not kept twice. What
    happened to each test sample is written first, so that no result names a file that is not there.
    """
    from eelit.methods.harness import outcomes

    name, number = f"seed{result.seed}-{result.code}", 1
    path = place / result.key / f"{name}.json"
    while path.exists() and not any(
        (kept.settings, kept.data) == (result.settings, result.data)
        for kept in _read_all([path], result.key)[0].values()
    ):
        number += 1
        path = place / result.key / f"{name}-{number}.json"
    if not path.exists():
        if samples := outcomes.packed(result):
            result = result.model_copy(update={"samples": outcomes.digest(samples)})
            write(path.with_suffix(outcomes.SUFFIX), samples)
        write(path, result.model_dump_json(indent=1).encode() + b"\n")
    return path


def keep_alone(result: Result, place: Path | None = None) -> Path:
    """Keep a run with a method's own settings in place of what older code, or another run with this seed, found."""
    path = keep(result, (place or folder()) / ALONE)
    own = path.name.partition(".")[0]
    for other in path.parent.glob(f"seed{result.seed}-*"):
        if other.name.partition(".")[0] != own:
            other.unlink()
    return path


@dataclass(frozen=True)
class NotRun:
    """Seeds with which a method still has to be measured, and why."""

    key: str
    seeds: tuple[int, ...]
    reason: str

    def __str__(self) -> str:
        return f"{'seed' if len(self.seeds) == 1 else 'seeds'} {', '.join(map(str, self.seeds))}: {self.reason}"


NO_TIME = "not measured yet"


def not_run(key: str, known: Stored, place: Path) -> list[NotRun]:
    """Return which of the first seeds have no result of the code that the method's results are of, by reason."""
    lacking = set(range(summary.SEEDS)) - {result.seed for result in known.results}
    reasons: dict[str, list[int]] = {}
    for seed in sorted(lacking):
        with suppress(Unreadable):
            failure = read(FailedRun, place / key / f"failed{seed}-{code(key)}.json")
            reasons.setdefault(f"failed: {failure.reason}", []).append(seed)
            continue
        reasons.setdefault(NO_TIME, []).append(seed)
    return [NotRun(key, tuple(seeds), reason) for reason, seeds in reasons.items()]


@dataclass(frozen=True)
class World:
    """What test samples of one run met that was simulated, and how it was learnt from."""

    simulation: Simulation | None
    learning: list[Learning]
    scale: str
    seed: int


@dataclass(frozen=True)
class Board:
    """All rows of a track that were measured, and the runs that were not."""

    rows: list[summary.Row]
    not_run: list[NotRun]
    verdicts: dict[str, list[summary.Verdict]]  # key → its paper's claims
    runs: int = 0  # results behind it: methods × seeds
    hours: float = 0.0  # at most, one after the other on one core: each training counted for every run that used it
    machines: tuple[str, ...] = ()  # processor, threads and torch's version
    loads: tuple[float, float] | None = None  # least and most of the machines' load at the end of a run
    unreadable: tuple[Unreadable, ...] = ()  # files among the results that are none
    unpaired: tuple[Unreadable, ...] = ()  # files of samples that do not go with their results: there are no intervals
    training: Mapping[str, str] = field(default_factory=dict)  # of the track
    searches: Mapping[tuple[str, str], dict[int, Search]] = field(default_factory=dict)  # key, variant → one of a seed
    worlds: Mapping[str, World] = field(default_factory=dict)  # key → what its first result met

    @property
    def unmeasured(self) -> list[str]:
        """Keys of the methods without any result."""
        return list(dict.fromkeys(each.key for each in self.not_run if each.key not in self.verdicts))

    def unusual(self, row: summary.Row) -> dict[str, str]:
        """Return in which settings a row's training differs from the track's, in length or in the size of batches."""
        return {name: said for name, said in row.training.items() if self.training.get(name) != said}

    def spent(self, share: float) -> tuple[float, float] | None:
        """Return the least and the most that rows within a share of the cost really took of it on test data."""
        found = [taken.mean for row in self.rows if (taken := row.spent[share])]
        return (min(found), max(found)) if found else None


def board(name: str, share: float = 0.5, place: Path | None = None, *, sure: Sequence[float] | None = None) -> Board:
    """Return the leaderboard: rows of the same data, quality and unit together, the best at the cost share first.

    Intervals are computed at the shares ``sure``, by default at this one.
    """
    where, measured = (place or folder()) / name, {key: stored(name, key, place) for key in members(name)}
    own = [
        summary.row(known.results, curve.variant, current=known.current, share=share)
        for known in measured.values()
        for curve in (known.results[0].curves if known.results else [])
    ]
    rows = stand([*own, *rules(measured, share=share)], measured, (share,) if sure is None else sure)
    sizes = {row.group: sum(other.group == row.group for other in rows) for row in rows}
    rows.sort(key=lambda row: (-sizes[row.group], row.group, _order(row.at[share])))
    every = [result for known in measured.values() for result in known.results]
    hours = sum(result.all_seconds for result in every) / 3600
    loads = [result.machine.load for result in every if result.machine.load is not None]
    return Board(
        rows,
        [each for key, known in measured.items() for each in not_run(key, known, where)],
        {
            key: summary.verdicts(known.results, current=known.current)
            for key, known in measured.items()
            if known.results
        },
        len(every),
        hours,
        tuple({_machine(result): None for result in every}),
        (min(loads), max(loads)) if loads else None,
        tuple(fault for known in measured.values() for fault in known.unreadable),
        tuple(fault for known in measured.values() for fault in known.unpaired),
        TRACKS[name].training,
        _searches(every),
        {key: found for key, known in measured.items() for result in known.results[:1] if (found := world(result))},
    )


def world(result: Result) -> World | None:
    """Return the simulated world of a result, and what was learnt there; None if it tells of neither.

    Variants share a world: it is that of the first which tells of one, and what is learnt is that of all.
    """
    simulation = next((curve.simulation for curve in result.curves if curve.simulation), None)
    learning = [one for curve in result.curves for one in curve.learning]
    return World(simulation, learning, result.scale, result.seed) if simulation or learning else None


def _searches(results: Iterable[Result]) -> dict[tuple[str, str], dict[int, Search]]:
    """Return the searches among designs that results tell of: by key and variant, one of a seed."""
    found: dict[tuple[str, str], dict[int, Search]] = {}
    for result in results:
        for curve in result.curves:
            if curve.search is not None:
                found.setdefault((result.key, curve.variant), {})[result.seed] = curve.search
    return found


def rules(
    measured: Mapping[str, Stored], names: Sequence[str] = tuple(summary.BASELINE_KNOBS), *, share: float = 0.5
) -> list[summary.Row]:
    """Return a row for each baseline on the networks of methods, one for all with the same trained weights.

    Weights are the same if the baseline gives exactly the same points with every seed, on validation and test data.
    """
    found: dict[object, list[tuple[bool, str, str, str]]] = {}
    for key, known in measured.items():
        for number, curve in enumerate(known.results[0].curves if known.results else []):
            for rule in (baseline.name for baseline in curve.baselines if baseline.name in names):
                does = _does(known.results, curve.variant, rule)
                found.setdefault(does, []).append((number > 0, key, curve.variant, rule))
    rows = []
    for alike in found.values():
        (_, key, variant, rule), *others = sorted(alike)  # named after a method whose main variant this is, if any
        row = summary.row(measured[key].results, variant, current=measured[key].current, share=share, rule=rule)
        rows.append(replace(row, shared=tuple(summary.called(other, its) for _, other, its, _ in others)))
    return rows


def _does(results: Sequence[Result], variant: str, rule: str) -> object:
    """Return all points of a baseline on a variant's networks, with every seed, and on which data."""
    curves = {result.seed: summary.curve_of(result, variant, rule) for result in results}
    points = [
        (seed, *((point.knob, point.quality, point.cost) for point in (*curve.validation, *curve.test)))
        for seed, curve in curves.items()
    ]
    first = next(iter(curves.values()))
    return rule, summary.data_of(results[0], variant), first.quality, first.unit, tuple(points)


def stand(rows: Sequence[summary.Row], measured: Mapping[str, Stored], shares: Sequence[float]) -> list[summary.Row]:
    """Return the rows with their intervals at shares of the cost, each group by itself.

    Methods' rows also get the interval of their gain over each baseline on the same weights.
    """
    if not any(known.samples for known in measured.values()):
        return [*rows]
    from eelit.methods.harness.paired import standings

    known = [_outcomes(row, measured[row.key], shares) for row in rows]
    told: list[dict[float, Standing]] = [{} for _ in rows]
    for group in dict.fromkeys(row.group for row in rows):
        inside = [i for i, row in enumerate(rows) if row.group == group]
        for share in shares:
            reached = [rows[i].at[share] for i in inside]
            means = [each.mean if each else None for each in reached]
            found = standings([known[i].get(share) for i in inside], means)
            for i, each in zip(inside, found, strict=True):
                if each:
                    told[i][share] = each
    over = [_over(row, ours, measured[row.key], shares) for row, ours in zip(rows, known, strict=True)]
    return [replace(row, standings=each, over=gains) for row, each, gains in zip(rows, told, over, strict=True)]


def _over(
    row: summary.Row, ours: Mapping[float, Outcome], known: Stored, shares: Sequence[float]
) -> dict[str, dict[float, Interval]]:
    """Return the gain over each baseline on the same weights, sample by sample; nothing of a baseline's own row."""
    from eelit.methods.harness.paired import difference, intervals

    found: dict[str, dict[float, Interval]] = {}
    for rule in row.against if not row.rule else ():
        theirs = _outcomes(replace(row, rule=rule), known, shares)
        gains = {share: difference(ours[share], theirs[share]) for share in ours if share in theirs}
        paired = {share: gain for share, gain in gains.items() if gain}
        found[rule] = dict(zip(paired, intervals([*paired.values()]), strict=True))
    return found


def _outcomes(row: summary.Row, known: Stored, shares: Sequence[float]) -> dict[float, Outcome]:
    """Return what each test sample is worth within each share of the cost, with each seed whose samples are known."""
    found: dict[float, dict[int, Any]] = {}
    if len({summary.data_of(result, row.variant) for result in known.results}) > 1:
        return {}  # other seeds are tested on other samples
    for result in known.results:
        samples = known.samples.get(result.seed)
        quality = samples.quality(row.variant, row.rule) if samples else None
        if quality is None:
            continue
        curve, values = summary.curve_of(result, row.variant, row.rule), quality.astype("float32")
        for share in shares:
            if mixed := mixture(curve.validation, share):
                found.setdefault(share, {})[result.seed] = mixed.of(values)
    return {**found}


def _machine(result: Result) -> str:
    where, torch = result.machine, result.versions.get("torch", "?")
    return f"{where.processor}, {where.threads} of {where.cores} cores used, torch {torch}"


def _order(found: summary.Spread | None) -> float:
    return -found.mean if found else float("inf")
