"""What the results say: which kinds of exit policy lead at which share of the cost, and how many claims hold.

Nothing here is a figure of its own: each is that of a row of a leaderboard, to which the pages link, or a count of
verdicts. The rows of a track belong to kinds: the policy families of the taxonomy (the broadest term above a work's
first one), the two baselines, and ablations, which leave out their paper's own idea. The best row stands for its kind,
so a kind with many rows has more chances. With fewer than `summary.SEEDS` seeds nothing is a verdict.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from eelit.bib.citations import NUMBERS
from eelit.methods.harness.paired import LEVEL, Interval, holm
from eelit.methods.harness.summary import SEEDS, SHARES, Row
from eelit.site.generator.claims import Trial
from eelit.site.generator.collection import Collection
from eelit.site.generator.compared import Group, Line, compared
from eelit.site.generator.kinds import ABLATION

HALF = 0.5
"""The share of the cost that the home page tells of."""
SIMPLEST = "max-confidence"
"""The baseline that methods have to beat: stopping at the largest probability."""
Place = Literal["best", "level", "behind", "not judged"]
Fate = Literal["holds", "holds in part", "does not hold here", "too few seeds", "not comparable"]


@dataclass(frozen=True)
class Leader:
    """The best row of one kind within a share of the cost."""

    kind: str  # as it is told
    line: Line
    share: float
    gap: float  # its quality minus that of the best row, at most 0

    @property
    def row(self) -> Row:
        """The row that it is."""
        return self.line.row

    @property
    def mean(self) -> float:
        """The row's quality."""
        reached = self.row.at[self.share]
        assert reached is not None  # rows out of reach lead nothing
        return reached.mean

    @property
    def quality(self) -> Interval | None:
        """The row's quality with its interval, where samples are known."""
        standing = self.row.standings.get(self.share)
        return standing.quality if standing else None

    @property
    def behind(self) -> Interval | None:
        """The difference from the best row with its interval; None if it is the best, or nothing is known."""
        standing = self.row.standings.get(self.share)
        return standing.behind if standing and standing.behind and standing.behind.deviation else None

    @property
    def is_level(self) -> bool:
        """Whether chance in samples (and seeds, if there are several) explains its difference from the best."""
        return self.row.place(self.share) in ("best", "level")

    @property
    def place(self) -> Place:
        """How it stands, where there are enough seeds to say."""
        standing = self.row.standings.get(self.share)
        if standing is None or standing.level is None or len(self.row.seeds) < SEEDS:
            return "not judged"
        return "best" if self.gap == 0 else "level" if standing.level else "behind"


class Beside(NamedTuple):
    """Which rows of methods are significantly better or worse than a baseline on the same weights, of how many."""

    better: list[Line]  # the greatest gain first
    worse: list[Line]
    rows: int


@dataclass(frozen=True)
class Contest:
    """The best row of each kind within a share of the cost, the best first."""

    share: float
    leaders: list[Leader]
    beside: Beside  # `SIMPLEST`

    @property
    def best(self) -> Leader:
        """The best of all rows."""
        return self.leaders[0]

    @property
    def is_judged(self) -> bool:
        """Whether there are enough seeds of the best row for a verdict."""
        return self.best.place != "not judged"

    @property
    def is_known(self) -> bool:
        """Whether it is known which rows differ by more than chance, be it only that of the test samples."""
        return self.best.quality is not None

    @property
    def others(self) -> list[Leader]:
        """Those of all kinds but the best one's."""
        return self.leaders[1:]

    @property
    def level(self) -> list[Leader]:
        """Those of other kinds whose difference from the best is not significant."""
        return [leader for leader in self.others if leader.is_level]

    @property
    def simplest(self) -> Leader | None:
        """The best row of stopping at the largest probability."""
        return next((leader for leader in self.leaders if leader.row.rule == SIMPLEST), None)

    @property
    def reservation(self) -> str:
        """Why nothing is a verdict; empty if there are enough seeds and samples are known."""
        seeds = len(self.best.row.seeds)
        if seeds < SEEDS:
            return f"{NUMBERS[seeds]} {'seed' if seeds == 1 else 'seeds'}: no verdict"
        return "" if self.is_known else "no intervals: no verdict"


@dataclass(frozen=True)
class Finding:
    """What was found on one track, from the rows that most of its methods share data with."""

    track: str
    heading: str
    quality: str
    contests: list[Contest]  # one per share of `SHARES` that any row reaches
    fates: Counter[Fate]
    undecided: list[str]  # keys of the methods of whose papers' claims none could be decided under these conditions
    current: bool  # all leaders were measured by the present code

    def at(self, share: float) -> Contest | None:
        """Return the contest within a share of the cost."""
        return next((contest for contest in self.contests if contest.share == share), None)

    @property
    def half(self) -> Contest | None:
        """The contest that the home page tells of."""
        return self.at(HALF)


def of_track(collection: Collection, name: str) -> Finding | None:
    """Return what was found on a track; None if nothing was measured there."""
    board = collection.boards[name]
    groups = compared(collection, board, rules=True)
    if not groups:
        return None
    contests = [found for share in SHARES if (found := contest_of(groups[0], share))]
    first = groups[0].first
    by_key = {key: fates(trials) for key, trials, _ in collection.on_board(board)}
    undecided = [key for key, found in by_key.items() if [*found] == ["not comparable"]]
    rows = [leader.row for contest in contests for leader in contest.leaders]
    current = all(row.current for row in rows)
    told = sum(by_key.values(), Counter[Fate]())
    return Finding(name, groups[0].heading, first.quality, contests, told, undecided, current)


def of_all(collection: Collection) -> tuple[list[Finding], Counter[Fate]]:
    """Return what was found on each track that was measured, and how the claims fared on all of them together."""
    found = [finding for name in collection.boards if (finding := of_track(collection, name))]
    keys = dict.fromkeys(key for board in collection.boards.values() for key in board.verdicts)
    return found, fates(trial for key in keys for trial in collection.trials(key))


def farthest_behind(found: Iterable[Finding]) -> Leader | None:
    """Return the row of `SIMPLEST` on the track where it lags most within `HALF`; None unless all tracks have one."""
    rows = [half.simplest for finding in found if (half := finding.half)]
    known = [row for row in rows if row]
    return min(known, key=lambda row: row.gap) if known and len(known) == len(rows) else None


def contest_of(group: Group, share: float) -> Contest | None:
    """Return the best row of each kind within a share of the cost; None if no row can reach it."""
    best: dict[str, Line] = {}
    reached = [(spread.mean, line) for line in group.rows if (spread := line.row.at[share])]
    for _, line in sorted(reached, key=lambda pair: -pair[0]):
        best.setdefault(line.kind, line)
    if not reached:
        return None
    top = max(mean for mean, _ in reached)
    leaders = [Leader(name, line, share, _mean(line, share) - top) for name, line in best.items()]
    return Contest(share, leaders, beside(group, share))


def beside(group: Group, share: float) -> Beside:
    """Compare methods' rows with `SIMPLEST` on their own weights, sample by sample, corrected for how many there are.

    Ablations are left out, and rows whose samples are not known.
    """
    rows = [line for line in group.methods if line.kind != ABLATION]
    known = [(line, gain) for line in rows if (gain := line.row.over.get(SIMPLEST, {}).get(share))]
    known.sort(key=lambda pair: -pair[1].mean)
    corrected = zip(known, holm([gain.p for _, gain in known]), strict=True)
    certain = [(line, gain.mean) for (line, gain), p in corrected if p <= 1 - LEVEL]
    better, worse = ([line for line, mean in certain if sign * mean > 0] for sign in (1, -1))
    return Beside(better, worse, len(known))


def _mean(line: Line, share: float) -> float:
    spread = line.row.at[share]
    assert spread is not None
    return spread.mean


def fates(trials: Iterable[Trial]) -> Counter[Fate]:
    """Return how many claims of papers hold, hold in part, do not, or have no verdict and why.

    Outcomes that no claim names are left out, and claims that nothing has tried.

    A claim holds if all of its outcomes that were judged do, and does not hold if none of them does, not even in part.
    """
    return Counter(fate for trial in trials if trial.claim and (fate := _fate(trial)))


def _fate(trial: Trial) -> Fate | None:
    judged = [verdict.judgement for verdict in trial.verdicts if verdict.is_judged]
    if judged:
        return _together(judged)
    if any(each.judgement == "too few seeds" for each in trial.verdicts):
        return "too few seeds"
    return "not comparable" if trial.verdicts else None


def _together(judged: Sequence[str]) -> Fate:
    if set(judged) == {"holds"}:
        return "holds"
    return "does not hold here" if set(judged) == {"does not hold here"} else "holds in part"
