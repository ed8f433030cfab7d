"""What `eelit smoke` left behind, and what may be said of it on a page: never more than is known."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from eelit.methods.engine.records import SmokeChange, SmokeHistory, SmokeReport, SmokeSession, Unreadable, read
from eelit.methods.harness import bench

State = Literal["passed-now", "failed-now", "unchanged", "earlier-passed", "earlier-failed", "not-run", "never-run"]
SAME_BUILD = timedelta(minutes=30)
"""A smoke test belongs to a build of the site that starts at most so long after it ended."""

PASSED: tuple[State, ...] = ("passed-now", "unchanged", "earlier-passed")
FAILED: tuple[State, ...] = ("failed-now", "earlier-failed")
"""States of a method whose last smoke test passed, or failed, whenever that was."""

# State → in a few words, in one or two words, and the name of the colour; the words carry the meaning.
SHOWN: dict[State, tuple[str, str, str]] = {
    "passed-now": ("ran in this build: passed", "passed", "good"),
    "failed-now": ("ran in this build: failed", "failed", "bad"),
    "unchanged": ("passed earlier, nothing changed since", "unchanged", "calm"),
    "earlier-passed": ("passed earlier, not run in this build", "earlier", "calm"),
    "earlier-failed": ("failed when it last ran", "failed", "bad"),
    "not-run": ("not run: data unavailable", "not run", "grey"),
    "never-run": ("not run in this build", "not run", "grey"),
}


@dataclass(frozen=True)
class Badge:
    """How a method's last smoke test is shown."""

    state: State
    report: SmokeReport | None = None
    commit: str | None = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """The state in a few words."""
        return SHOWN[self.state][0]

    @property
    def short(self) -> str:
        """The state in one or two words, for narrow columns."""
        return SHOWN[self.state][1]

    @property
    def tone(self) -> str:
        """The name of the badge's colour."""
        return SHOWN[self.state][2]


@dataclass(frozen=True)
class Reports:
    """All reports of the last smoke test, and when the site is being built."""

    by_key: dict[str, SmokeReport]
    session: SmokeSession | None
    built: datetime
    changes: tuple[SmokeChange, ...] = ()  # methods that began to pass or to fail, the oldest first

    @property
    def is_of_this_build(self) -> bool:
        """Whether the smoke test was part of this build."""
        return self.session is not None and timedelta(0) <= self.built - self.session.finished <= SAME_BUILD

    def badge(self, key: str) -> Badge:
        """Return what may be said of the method."""
        report = self.by_key.get(key)
        if report is None:
            return Badge("never-run")
        result, session = report.result, self.session
        now = self.is_of_this_build and session is not None and report.finished >= session.started
        is_present = _is_of_present_code(report)
        commit = result.commit if result else session.commit if session else None
        versions = result.versions if result else session.versions if session else {}
        return Badge(
            _state(
                report,
                now=now and report.executed_now and is_present,
                fresh=(now or self._confirmed(key)) and is_present,
            ),
            report,
            commit,
            versions,
        )

    def _confirmed(self, key: str) -> bool:
        """Whether the smoke test of this build looked at the method, even if it had no reason to run it again."""
        return self.is_of_this_build and self.session is not None and key in self.session.keys


def _is_of_present_code(report: SmokeReport) -> bool:
    """Whether the code has not changed since, as far as is known: a run that broke off names no code."""
    return report.result is None or report.result.code in ("", bench.code(report.key))


def _state(report: SmokeReport, *, now: bool, fresh: bool) -> State:
    if report.status == "not-run":
        return "not-run"
    if now:
        return "passed-now" if report.status == "passed" else "failed-now"
    if report.status == "failed":
        return "earlier-failed"
    return "unchanged" if fresh and not report.executed_now else "earlier-passed"


def read_reports(folder: Path | None, built: datetime | None = None) -> tuple[Reports, list[str]]:
    """Read the reports in a folder (none if it does not exist), and say which files could not be read."""
    moment = built or datetime.now(UTC)
    reports: dict[str, SmokeReport] = {}
    unreadable: list[str] = []
    session: SmokeSession | None = None
    changes: tuple[SmokeChange, ...] = ()
    for path in sorted(folder.glob("*.json")) if folder and folder.is_dir() else []:
        try:
            if path.stem == "session":
                session = read(SmokeSession, path)
            elif path.stem == "history":
                changes = tuple(read(SmokeHistory, path).changes)
            else:
                report = read(SmokeReport, path)
                reports[report.key] = report
        except Unreadable as fault:
            unreadable.append(f"{fault}; run `eelit smoke` again")
    return Reports(reports, session, moment, changes), unreadable
