"""The paper's claims beside the outcomes that try them here: one join, which the site and the command line show."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, get_args

from eelit.catalog.schema import Claim
from eelit.methods.harness.summary import Judgement, Verdict


@dataclass(frozen=True)
class Trial:
    """A claim of a paper and how it fared; without a claim, the outcomes that no claim names."""

    claim: Claim | None
    verdicts: list[Verdict]
    waiting: list[str]  # outcomes that would try it, of which no result is kept

    @property
    def rows(self) -> Sequence[Verdict | str]:
        """One per line of a table: verdicts, then names without a result; one empty name if nothing tries the claim."""
        return [*self.verdicts, *self.waiting] or [""]

    @property
    def lines(self) -> int:
        """How many lines of a table it takes."""
        return len(self.rows)


def beside(claims: Iterable[Claim], verdicts: Sequence[Verdict]) -> list[Trial]:
    """Return each claim of a paper with the verdicts on the outcomes it names, then those that no claim names."""
    trials, named = [], set()
    for claim in claims:
        tried = [verdict for verdict in verdicts if any(means(name, verdict.name) for name in claim.tried)]
        waiting = [name for name in claim.tried if not any(means(name, verdict.name) for verdict in tried)]
        trials.append(Trial(claim, tried, waiting))
        named |= {verdict.name for verdict in tried}
    further = [verdict for verdict in verdicts if verdict.name not in named]
    return [*trials, Trial(None, further, [])] if further else trials


def means(name: str, outcome: str) -> bool:
    """Whether an entry's name for outcomes is this one's, whole or (then it means all variants) without its variant."""
    return name in (outcome, outcome.partition(": ")[2])


def tally(trials: Iterable[Trial]) -> dict[str, int]:
    """Return how many outcomes got which judgement, and how many claims nothing tests."""
    trials = list(trials)
    outcomes = {id(verdict): verdict.judgement for trial in trials for verdict in trial.verdicts}
    found = {judgement: list(outcomes.values()).count(judgement) for judgement in get_args(Judgement)}
    untried = sum(trial.claim is not None and not trial.verdicts and not trial.waiting for trial in trials)
    return {name: count for name, count in (found | {"claims not tested here": untried}).items() if count}


def as_json(trial: Trial) -> dict[str, Any]:
    """Return a trial as JSON types; `claim` is null for outcomes that no claim of the paper names."""
    return {
        "claim": trial.claim.model_dump(mode="json") if trial.claim else None,
        "verdicts": [asdict(verdict) for verdict in trial.verdicts],
        "not_measured": trial.waiting,
    }
