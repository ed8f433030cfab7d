"""The smoke test: every method on its real data, in worker processes of its own, none hiding another's failure.

A report is kept in the cache under a hash of all that it depends on (the code behind the method, versions, seed, and
which data items with which hashes); while nothing changes, the method is not run again and its report says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Literal

from eelit.methods.data import fetch, manifest
from eelit.methods.data.cache import cache_root
from eelit.methods.engine.records import SmokeChange, SmokeHistory, SmokeReport, SmokeSession
from eelit.methods.harness import dependencies, registry
from eelit.methods.harness.workers import Backend, spread

Report = Callable[[SmokeReport], None]
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
    before anything runs; whatever goes wrong in a method ends in its report.
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
        else:
            said = f"its process died: {type(outcome).__name__}"
            found = _report(key, wanted[key], "failed", 0.0, [str(outcome)], said)
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


def _run_one(key: str, mark: str, seed: int, cache: str) -> SmokeReport:
    """Run one method in this process with one torch thread; every error becomes part of the report."""
    os.environ["EELIT_CACHE"] = cache
    import torch

    from eelit.methods.harness import runner

    torch.set_num_threads(1)
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
        log.append(traceback.format_exc())
        said = f"{type(error).__name__}: {error}"
        return _report(key, mark, "failed", time.perf_counter() - start, log, error=said)
    broken = [f"{check.name} ({check.measured})" for check in result.checks if not check.holds]
    if result.seconds > SECONDS:
        log.append(f"took {result.seconds:.1f} s after its preparation; it should be {SECONDS:.0f} s at most")
    error_text = "rules broken: " + "; ".join(broken) if broken else None
    found = _report(key, mark, "failed" if broken else "passed", result.seconds, log, error=error_text)
    return found.model_copy(update={"result": result, "prepared_seconds": result.prepared_seconds})


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
    code = [dependencies.digest(info.path), dependencies.digest_of("eelit.methods.harness.conformance")]
    facts = [key, seed, versions(), code, [repr(manifest.get(name)) for name in info.data]]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()


def _longest_first(keys: Sequence[str]) -> list[str]:
    """Start what took longest last time first, so that the workers end together; new methods go first of all."""
    took: dict[str, float] = {}
    for key in keys:
        path = _memory(key)
        try:
            known = SmokeReport.model_validate_json(path.read_text(encoding="utf-8"))
            took[key] = known.seconds + known.prepared_seconds
        except (OSError, ValueError):
            took[key] = float("inf")
    return sorted(keys, key=lambda key: -took[key])


def _memory(key: str) -> Path:
    return cache_root() / "smoke" / f"{key}.json"


def _remembered(key: str, mark: str) -> SmokeReport | None:
    """Return the last report if it passed and nothing changed since."""
    try:
        known = SmokeReport.model_validate_json(_memory(key).read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never run, or written by another version: run it
        return None
    if known.status != "passed" or known.fingerprint != mark:
        return None
    return known.model_copy(update={"executed_now": False})


def _remember(found: SmokeReport) -> None:
    write(_memory(found.key), found.model_dump_json(indent=1))
    known = history().changes
    before = next((change.status for change in reversed(known) if change.key == found.key), None)
    if found.status != "not-run" and found.status != before:
        change = SmokeChange(
            key=found.key, status=found.status, before=before, finished=found.finished, error=found.error
        )
        write(_history(), SmokeHistory(changes=[*known, change][-CHANGES:]).model_dump_json(indent=1))


def _history() -> Path:
    return cache_root() / "smoke" / "changes" / "history.json"


def history() -> SmokeHistory:
    """Return which methods began to pass or to fail on this machine; nothing if that cannot be read."""
    try:
        return SmokeHistory.model_validate_json(_history().read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never run, or written by another version
        return SmokeHistory()


def write(path: Path, text: str) -> None:
    """Write a file aside, then rename it, so that a half-written one is never seen."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(aside, path)


def save(session: SmokeSession, reports: Sequence[SmokeReport], out: Path) -> None:
    """Write ``session.json``, ``history.json`` and one ``KEY.json`` per method into ``out``, where the site looks."""
    for found in reports:
        write(out / f"{found.key}.json", found.model_dump_json(indent=1))
    write(out / "session.json", session.model_dump_json(indent=1))
    write(out / "history.json", history().model_dump_json(indent=1))


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)
