"""What the voting exit claims: votes against patience; the oracle out of reach; what the diversity term does."""

from __future__ import annotations

from statistics import mean

from eelit.methods.claims.comparisons import MIXED, disagreement, gains_at_equal_cost, on_average, oracle
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.sun2021ensemble import VotingExit
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.voting import Voting


def claims(method: VotingExit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; the last needs the diversity term, and a training without it beside."""
    seen, exits = prepared.split("test"), prepared.model.exits
    votes, patient = [Voting(tau, method.power) for tau in method.knobs], [Patience(t) for t in range(1, exits - 1)]
    gains = gains_at_equal_cost(method, prepared, votes, patient)
    first = oracle(seen.outputs, seen.targets)
    best = max(point.quality for point in curve.test)
    reached = method.score(seen.at(first), seen.targets)
    found = [
        Outcome(
            name="votes beat patience",
            statement=f"At equal cost votes are on average half a point more accurate on test data. {MIXED}",
            holds=mean(gains or [0.0]) >= 0.005,
            measured=on_average(gains),
        ),
        Outcome(
            name="far below the oracle",
            statement="Leaving at the first exit that is right is 5 points more accurate than any number of votes.",
            holds=reached >= best + 0.05,
            measured=f"{reached:.4f} at exit {first.mean() + 1:.2f} on average; votes {best:.4f}",
        ),
    ]
    return [*found, diverse_exits_vote_better(method, prepared, bench)] if method.diversity else found


def diverse_exits_vote_better(method: VotingExit, prepared: Prepared, bench: Bench) -> Outcome:
    """The diversity term makes exits differ more, and the vote better."""
    quality, differ = [], []
    for ready in (prepared, method.replace({"diversity": 0.0}).prepare(bench)):
        held, test = ready.split("validation"), ready.split("test")
        tau = max(method.knobs, key=lambda k: method.trial(Voting(k, method.power), held).quality)
        quality.append(method.trial(Voting(tau, method.power), test).quality)
        differ.append(disagreement(test.outputs))
    return Outcome(
        name="diverse exits vote better",
        statement="With the diversity term neighbouring exits differ a point more often, and with tau chosen on "
        "validation data votes are half a point more accurate on test data than without it.",
        holds=differ[0] >= differ[1] + 0.01 and quality[0] >= quality[1] + 0.005,
        measured=f"differing {differ[0]:.1%} / {differ[1]:.1%}, accuracy {quality[0]:.4f} / {quality[1]:.4f}",
        not_comparable="The term spreads wrong answers, and with two classes there is but one wrong answer."
        if prepared.data.classes == 2
        else "",
    )
