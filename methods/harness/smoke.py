"""The smoke test: every method on its real data, in worker processes of its own, none hiding another's failure.

A report is kept in the cache under a hash of all that it depends on (the code behind the method, versions, seed, and
which data items with which hashes); while nothing changes, the method is not run again and its report says so.

To pass, a method keeps the rules of the contract, and every variant has learnt something: its best quality lies two
standard errors, of as many samples as there were, or more above what answers reach that do not look at the input (see
`Chance`). And it does again what it did: where the same code has passed before on the same data, with the same
versions, seed and kind of processor, no quality may differ by more than `TOLERANCE`. Such runs are usually equal to the
last bit; the tolerance lets one of 120 samples tip over. After a change of any of these nothing is compared, as nothing
would follow; that the processor is another one is told in the log.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache, partial
from pathlib import Path
from typing import Literal, TypeVar

from eelit.methods.data import fetch, manifest, memory_cache
from eelit.methods.data.cache import cache_root, keep, kept, without_room, write
from eelit.methods.engine.records import Result, SmokeChange, SmokeHistory, SmokeReport, SmokeSession, Typed
from eelit.methods.harness import dependencies, registry
from eelit.methods.harness.conformance import at_chance, called
from eelit.methods.harness.workers import Backend, spread

Report = Callable[[SmokeReport], None]
T = TypeVar("T", bound=Typed)
TOLERANCE = 0.01
"""Most by which a quality may differ from that of the same code on the same data."""
CHANGES = 200
"""Most changes from passing to failing and back that are remembered, the newest."""
SECONDS = 20.0
"""What a smoke test should take at most after its preparation. On a busy machine it takes longer, which is no fault of
the method's, so a longer one is told in its log and does not fail."""


def smoke(
    keys: Sequence[str] | None = None,
    *,
    backend: Backend = "loky",
    jobs: int | None = None,
    cache: bool = True,
    seed: int = 0,
    report: Report = lambda found: None,
) -> tuple[SmokeSession, list[SmokeReport]]:
    """Smoke-test the methods (all if None); ``report`` is told each outcome as it arrives.

    With ``cache`` a method is run only if something changed since it last passed. Raises `registry.UnknownMethod`
    before anything runs, and `OSError` if a disk is full (what has passed by then is kept); whatever else goes wrong in
    a method ends in its report.
    """
    from eelit.methods.harness.runner import commit, machine, versions

    started = _now()
    chosen = list(dict.fromkeys(keys or registry.keys()))
    known_keys = set(registry.keys())
    for key in chosen:
        if key not in known_keys:
            raise registry.UnknownMethod(key)
    wanted: dict[str, str] = {}
    reports: dict[str, SmokeReport] = {}
    for key in chosen:
        try:
            wanted[key] = fingerprint(key, seed)
        except Exception as error:  # a source that cannot be read is this method's fault alone
            known: SmokeReport | None = _report(key, "", "failed", 0.0, [], f"{type(error).__name__}: {error}")
        else:
            known = _remembered(key, wanted[key]) if cache else None
        if known is not None:
            reports[key] = known
            report(known)
    rest = [key for key in chosen if key not in reports]
    tasks = {key: partial(_run_one, key, wanted[key], seed, str(cache_root())) for key in _longest_first(rest)}
    for key, outcome in spread(tasks, backend, jobs or os.cpu_count() or 1):
        if isinstance(outcome, SmokeReport):
            found = outcome
        elif without_room(outcome):
            raise outcome
        else:
            said = f"its process died: {type(outcome).__name__}"
            found = _report(key, wanted[key], "failed", 0.0, [str(outcome)], said)
        found = _compared(found)
        reports[key] = found
        _remember(found)
        report(found)
    session = SmokeSession(
        started=started,
        finished=_now(),
        commit=commit(),
        versions=versions(),
        machine=machine(),
        backend=backend,
        keys=chosen,
    )
    return session, [reports[key] for key in chosen]


@cache
def _load() -> None:
    """Import our own methods, with the libraries that they import, in the first task of each worker.

    joblib stops a worker, with a warning, that has grown by more than 300 MB since its first task. Without this,
    workers grew from 450 to 744 MB over 80 methods, of which these imports are 120 MB (394 to 516 MB), and no leak.
    What is still imported later (the experiments of `claims/`, pymoo, Pillow) takes 7 MB. A method of another package
    is imported in its own task alone: if that kills the process, no other method dies with it.
    """
    from eelit.methods.backbones import encoder

    encoder.encoder("tiny")
    for key in registry.own():
        with suppress(Exception):  # which is told when that method's turn comes
            registry.get(key)


def _run_one(key: str, mark: str, seed: int, cache: str) -> SmokeReport | OSError:
    """Run one method in this process with one torch thread, its processor seconds counted."""
    os.environ["EELIT_CACHE"] = cache
    import torch

    _load()
    torch.set_num_threads(1)
    began = time.process_time()
    found = _tested(key, mark, seed)
    if isinstance(found, OSError):
        return found
    return found.model_copy(update={"processor_seconds": round(time.process_time() - began, 2)})


def _tested(key: str, mark: str, seed: int) -> SmokeReport | OSError:
    """Run one method; every error but a full disk becomes part of the report."""
    from eelit.methods.harness import runner

    log: list[str] = []

    def progress(message: str, share: float | None) -> None:
        if not log or log[-1] != message:
            log.append(message)

    start = time.perf_counter()
    try:
        result = runner.run(key, seed=seed, scale="smoke", progress=progress)
    except fetch.DataUnavailable as missing:
        return _report(key, mark, "not-run", time.perf_counter() - start, log, error=f"data unavailable: {missing}")
    except (Exception, SystemExit) as error:  # whatever it is, it is this method's outcome and hides no other
        if isinstance(error, OSError) and without_room(error):
            return error
        log.append(traceback.format_exc())
        said = f"{type(error).__name__}: {error}"
        return _report(key, mark, "failed", time.perf_counter() - start, log, error=said)
    finally:
        memory_cache.forget()
    broken = [f"{check.name} ({check.measured})" for check in result.checks if not check.holds]
    faults = ["rules broken: " + "; ".join(broken)] if broken else []
    faults += [fault for curve in result.curves if (fault := at_chance(curve))]
    log += [f"{called(curve)} is not compared with chance: {curve.quality} has none that is told"
            for curve in result.curves if curve.chance is None]  # fmt: skip
    log += [warning for curve in result.curves for warning in curve.warnings]
    if result.seconds > SECONDS:
        log.append(f"took {result.seconds:.1f} s after its preparation; it should be {SECONDS:.0f} s at most")
    status: Literal["passed", "failed"] = "failed" if faults else "passed"
    found = _report(key, mark, status, result.seconds, log, error="; ".join(faults) or None)
    return found.model_copy(update={"result": result, "prepared_seconds": result.prepared_seconds})


def _compared(found: SmokeReport) -> SmokeReport:
    """Return a report that passed, or one that failed since the same code has given other qualities before."""
    before = _read(_passed(found.key), SmokeReport)
    if found.status != "passed" or before is None or before.fingerprint != found.fingerprint:
        return found
    if found.result is None or before.result is None:
        return found
    here, there = found.result.machine.processor, before.result.machine.processor
    if here != there:
        told = f"not compared with the run of {before.finished:%Y-%m-%d}, which was made on another processor, {there}"
        return found.model_copy(update={"log": f"{found.log}\n{told}".strip()})
    unlike = next(differences(found.result, before.result), None)
    if unlike is None:
        return found
    told = (
        f"unlike its run of {before.finished:%Y-%m-%d}, of the same code on the same data: {unlike}; something that "
        f"neither tells has changed or is broken (if it is meant to be so, remove {_passed(found.key)})"
    )
    return found.model_copy(update={"status": "failed", "error": told})


def differences(found: Result, before: Result) -> Iterator[str]:
    """Yield which qualities differ by more than the tolerance, between two results of the same code."""
    if [len(curve.test) for curve in found.curves] != [len(curve.test) for curve in before.curves]:
        yield "there are other points"
        return
    for curve, other in zip(found.curves, before.curves, strict=True):
        pairs = [(f"at {curve.knob} {p.knob:g}", p.quality, q.quality)
                 for p, q in zip(curve.test, other.test, strict=True)]  # fmt: skip
        for where, now, then in [("of the full model", curve.full_quality, other.full_quality), *pairs]:
            if abs(now - then) > TOLERANCE:
                yield f"{curve.quality} {where} is {now:.3f} and was {then:.3f} ({called(curve)})"


def _report(
    key: str,
    mark: str,
    status: Literal["passed", "failed", "not-run"],
    seconds: float,
    log: list[str],
    error: str | None,
) -> SmokeReport:
    return SmokeReport(
        key=key,
        status=status,
        executed_now=True,
        finished=_now(),
        seconds=seconds,
        prepared_seconds=0.0,
        fingerprint=mark,
        log="\n".join(log),
        error=error,
    )


def fingerprint(key: str, seed: int) -> str:
    """Return a hash of the code behind the method and behind its checks, the data's hashes, the versions and the seed.

    Of the code only what the method depends on counts (see `dependencies`): one changed line reruns those that use it.
    """
    from eelit.methods.harness.runner import versions

    info = registry.describe(key)
    code = [dependencies.digest(info.path, trials=True), dependencies.digest_of("eelit.methods.harness.conformance")]
    facts = [key, seed, versions(), code, [repr(manifest.get(name)) for name in info.data]]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _longest_first(keys: Sequence[str]) -> list[str]:
    """Start what took longest last time first, so that the workers end together; new methods go first of all."""
    took: dict[str, float] = {}
    for key in keys:
        known = _read(_memory(key), SmokeReport)
        took[key] = known.seconds + known.prepared_seconds if known else float("inf")
    return sorted(keys, key=lambda key: -took[key])


def _memory(key: str) -> Path:
    return cache_root() / "smoke" / f"{key}.kept"


def _passed(key: str) -> Path:
    """Return where the last report that passed lies: what later ones of the same code are compared with."""
    return cache_root() / "smoke" / "passed" / f"{key}.kept"


def _read(path: Path, kind: type[T]) -> T | None:
    """Return what is kept in a file; None if there is nothing, or something that another version wrote."""
    content = kept(path)
    with suppress(ValueError):
        return kind.model_validate_json(content) if content is not None else None
    return None


def _remembered(key: str, mark: str) -> SmokeReport | None:
    """Return the last report if it passed and nothing changed since."""
    known = _read(_memory(key), SmokeReport)
    if known is None or known.status != "passed" or known.fingerprint != mark:
        return None
    return known.model_copy(update={"executed_now": False})


def _remember(found: SmokeReport) -> None:
    content = found.model_dump_json(indent=1).encode()
    keep(_memory(found.key), content)
    if found.status == "passed":
        keep(_passed(found.key), content)
    known = history().changes
    before = next((change.status for change in reversed(known) if change.key == found.key), None)
    if found.status != "not-run" and found.status != before:
        change = SmokeChange(
            key=found.key, status=found.status, before=before, finished=found.finished, error=found.error
        )
        keep(_history(), SmokeHistory(changes=[*known, change][-CHANGES:]).model_dump_json(indent=1).encode())


def _history() -> Path:
    return cache_root() / "smoke" / "changes" / "history.kept"


def history() -> SmokeHistory:
    """Return which methods began to pass or to fail on this machine; nothing if that cannot be read."""
    return _read(_history(), SmokeHistory) or SmokeHistory()


def save(session: SmokeSession, reports: Sequence[SmokeReport], out: Path) -> None:
    """Write ``session.json``, ``history.json`` and one ``KEY.json`` per method into ``out``, where the site looks."""
    for found in reports:
        write(out / f"{found.key}.json", found.model_dump_json(indent=1).encode())
    write(out / "session.json", session.model_dump_json(indent=1).encode())
    write(out / "history.json", history().model_dump_json(indent=1).encode())


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
