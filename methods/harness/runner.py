"""Run a method: prepare, sweep the knob, execute some operating points for real, try the paper's claims, report."""

from __future__ import annotations

import dataclasses
import os
import platform
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch

from eelit.methods.claims.resampling import joint_lead
from eelit.methods.data import fetch, manifest
from eelit.methods.data.cache import cache_root
from eelit.methods.engine.method import Bench, Method, silent
from eelit.methods.engine.records import Beside, Curve, Effort, Machine, OperatingPoint, Outcome, Result, Timing
from eelit.methods.engine.search import DesignSearch
from eelit.methods.harness import conformance, dependencies, registry

Progress = Callable[[str, float | None], None]
Claims = Callable[[Any, Any, Bench, Curve], list[Outcome]]


@runtime_checkable
class TellsBeside(Protocol):
    """A method whose quality does not say how good its model is, and that has another measure for that."""

    def beside(self, prepared: Any, knobs: Sequence[float]) -> Beside:
        """Return that measure on the test split at each knob."""
        ...


class UnknownVariant(ValueError):
    """The method has no variant of this name."""


Scale = Literal["smoke", "default", "full"]

NOTHING = Effort(seconds=0, steps=0)
SAMPLES: dict[Scale, tuple[int | None, int, int]] = {
    "smoke": (120, 10, 1), "default": (2000, 192, 3), "full": (None, 64, 3),
}  # fmt: skip
"""Scale → most samples of a split to measure on, most samples to execute for real, times that these are timed."""


def run(
    key: str,
    *,
    seed: int = 0,
    knobs: Sequence[float] | None = None,
    scale: Scale = "default",
    variant: str | None = None,
    settings: Mapping[str, Any] | None = None,
    among: Callable[[Mapping[str, str]], bool] | None = None,
    items: Sequence[str] | None = None,
    progress: Progress = silent,
) -> Result:
    """Run one registered method on its real data; one curve per variant (or the one named).

    ``settings`` hold for each variant that has a setting of the name, whatever its own value is there, but only those
    variants are run of whose own settings, as Python writes them, ``among`` holds. Then ``items`` of the data manifest
    may be what is needed, in place of the method's.
    Raises `registry.UnknownMethod`, `fetch.DataUnavailable`, and `ValueError` for a variant or knob it does not have.
    """
    method = registry.get(key)
    names = _named_variants(key, method, variant)
    if among is not None:
        names = [name for name in names if among(_settings(method.variant(name, scale)))]
    items = method.data if items is None else items
    for item in items:
        fetch.fetch(item, progress=None)
    test, executed, repeats = SAMPLES[scale]
    code, revision = dependencies.digest(registry.describe(key).path), commit()  # the checkout may change meanwhile
    bench = Bench(seed=seed, test=test, executed=executed, repeats=repeats, cache=cache_root(), progress=progress)
    data = {item: manifest.get(item).version for item in items}
    start = time.perf_counter()
    curves, claims, checks = [], [], []
    used: dict[str, str] = {}
    own: dict[str, Effort] = {}
    for name in names:
        chosen = given(method.variant(name, scale), settings or {})
        bench.data.clear()
        prepared, trained = _prepared(chosen, bench)
        own |= trained
        data |= {_named(name, part): digest for part, digest in bench.data.items()}
        curve = measure(chosen, prepared, bench, name, knobs)
        curve = curve.model_copy(update={"training": sum(trained.values(), NOTHING)})
        if scale == "full":
            curve = curve.model_copy(update={"timings": timings(chosen, prepared, bench, curve)})
        curve = _beside(key, chosen, prepared, bench, curve, scale)
        curves.append(curve := _told(key, chosen, prepared, bench, curve, whole=not knobs))
        own_settings = _settings(chosen)
        used |= {f"{name}.{k}" if name and k in used else k: v for k, v in own_settings.items() if used.get(k) != v}
        tried = _tried(key, chosen, prepared, bench, curve) if scale != "smoke" and not knobs else []
        kept = conformance.of_curve(chosen, curve, whole=not knobs)
        claims += [o.model_copy(update={"name": _named(name, o.name)}) for o in tried]
        checks += [o.model_copy(update={"name": _named(name, o.name)}) for o in kept]
    return Result(
        key=key,
        scale=scale,
        seed=seed,
        settings=used,
        data=data,
        curves=curves,
        claims=claims,
        checks=checks,
        prepared_seconds=bench.prepared_seconds,
        prepared_from_cache=bench.prepared_from_cache,
        training=sum(own.values(), NOTHING),
        rivals=sum((took for name, took in bench.trainings.items() if name not in own), NOTHING),
        code=code,
        seconds=time.perf_counter() - start - bench.prepared_seconds,
        created=datetime.now(UTC).replace(microsecond=0),
        commit=revision,
        versions=versions(),
        machine=machine(),
    )


def _named_variants(key: str, method: Method, variant: str | None) -> list[str]:
    """Return the names of a method's variants, or the one that is given if there is such a one."""
    names = list(method.variants)
    if variant is None:
        return names
    if variant not in names:
        known = ", ".join(filter(None, names)) or "only one"
        raise UnknownVariant(f"{key} has no variant {variant!r}; it has {known}")
    return [variant]


def given(method: Method, settings: Mapping[str, Any]) -> Method:
    """Return the method with those of the settings that it has."""
    own = {f.name for f in dataclasses.fields(method)}  # type: ignore[arg-type]
    return method.replace({name: value for name, value in settings.items() if name in own})


def _settings(method: Method) -> dict[str, str]:
    """Return the settings of a method, as Python writes them."""
    return {f.name: repr(getattr(method, f.name)) for f in dataclasses.fields(method)}  # type: ignore[arg-type]


def _prepared(method: Method, bench: Bench) -> tuple[Any, dict[str, Effort]]:
    """Return what the method prepares, and each training behind it."""
    others, bench.trainings = bench.trainings, {}
    prepared, trained = method.prepare(bench), bench.trainings
    bench.trainings = others | trained
    return prepared, trained


def _tried(key: str, method: Method, prepared: Any, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try the paper's claims. They are about the whole curve, and about more training than a smoke test has."""
    claims = registry.claims(key)
    return claims(method, prepared, bench, curve) if claims else []


def _beside(key: str, method: Method, prepared: Any, bench: Bench, curve: Curve, scale: Scale) -> Curve:
    """Return a curve with a measure beside its quality, if the method has one, or its claims (but in smoke tests)."""
    if isinstance(method, TellsBeside):
        return curve.model_copy(update={"beside": method.beside(prepared, [point.knob for point in curve.test])})
    told = registry.beside_curve(key) if scale != "smoke" else None
    return curve.model_copy(update={"beside": told(method, prepared, bench, curve)}) if told else curve


def _told(key: str, method: Method, prepared: Any, bench: Bench, curve: Curve, *, whole: bool) -> Curve:
    """Return a curve with its search, its simulated world, how the method learnt there, and what a reader should know.

    The last is told of ``whole`` curves alone: knobs that somebody has chosen need not begin with the first exit.
    """
    learnt = registry.learning(key)
    warning = conformance.no_lead(curve, joint_lead(method, prepared, curve)) if whole else None
    return curve.model_copy(
        update={
            "search": method.search(prepared, bench) if isinstance(method, DesignSearch) else None,
            "simulation": method.simulation(prepared, bench),
            "learning": learnt(method, prepared, bench, curve) if learnt else [],
            "warnings": [warning] if warning else [],
        }
    )


def _named(variant: str, name: str) -> str:
    return f"{variant}: {name}" if variant else name


def measure(
    method: Method, prepared: object, bench: Bench, variant: str, knobs: Sequence[float] | None = None
) -> Curve:
    """Sweep the knob on validation and test data and execute its two ends and one point between them."""
    swept = sorted(knobs, key=_order(method)) if knobs else list(method.knobs)
    validation = method.sweep(prepared, bench, "validation", swept)
    test = method.sweep(prepared, bench, "test", swept)
    quality, cost = method.full_model(prepared, bench)
    executed = swept if knobs else [swept[0], _middle(swept, validation), swept[-1]]
    executions = []
    for i, knob in enumerate(dict.fromkeys(executed)):
        bench.progress(f"executing {method.knob} {knob:g}", i / len(executed))
        executions.append(method.execute(prepared, bench, knob))
    facts, overthinking = method.each_exit(prepared, bench)
    return Curve(
        variant=variant,
        knob=method.knob,
        quality=method.quality,
        unit=method.unit,
        full_quality=quality,
        full_cost=cost,
        validation=validation,
        test=test,
        executions=executions,
        baselines=method.baselines(prepared, bench),
        each_exit=facts,
        chance=method.chance(prepared, bench),
        overthinking=overthinking,
    )


def timings(method: Method, prepared: object, bench: Bench, curve: Curve) -> list[Timing]:
    """Time the knobs that cost nearest to 75, 50 and 25 % of the full model on validation, in batches of 1 and 32."""
    nearest = (min(curve.validation, key=lambda p: abs(1 / p.speed_up - share)).knob for share in (0.75, 0.5, 0.25))
    found = []
    for knob in dict.fromkeys(nearest):
        for batch in (1, 32):
            bench.progress(f"timing batches of {batch} at {method.knob} {knob:g}", None)
            found.append(method.time(prepared, bench, knob, batch))
    return [timing for timing in found if timing is not None]


def _order(method: Method) -> Callable[[float], float]:
    """Sort knobs from eager to `never`, in whichever direction the method's own go."""
    rising = method.knobs[-1] >= method.knobs[0]
    return lambda knob: knob if rising else -knob


def _middle(knobs: Sequence[float], points: Sequence[OperatingPoint]) -> float:
    """Return the knob whose cost is nearest to the middle between the cheapest and the costliest."""
    costs = [point.cost for point in points]
    target = (min(costs) + max(costs)) / 2
    return knobs[min(range(len(costs)), key=lambda i: abs(costs[i] - target))]


def commit() -> str | None:
    """Return the git commit of the checkout that this code runs from, with ``+`` if files differ; None elsewhere."""
    folder = Path(__file__).resolve().parent
    if not (folder.parents[1] / ".git").exists():
        return None
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        return head + ("+" if _git(folder, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def versions() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    found = {"python": platform.python_version()}
    for name in ("eelit", "torch", "numpy", "transformers", "scikit-learn", "lightgbm", "pymoo"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def machine() -> Machine:
    """Return what the numbers were measured on."""
    return Machine(
        system=f"{platform.system()} {platform.machine()}",
        processor=_processor(),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        load=round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
