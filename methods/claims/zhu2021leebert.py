"""What LeeBERT claims: better than PABEE, and than equal weights; exits learn from each other; later teachers count."""

from __future__ import annotations

from statistics import mean
from typing import cast

from eelit.methods.claims.comparisons import MIXED, better_than, gains_of_mixtures, on_average, points_of
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.papers.zhu2021leebert import LeeBert, LossWeights


def claims(method: LeeBert, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """At equal cost, better than PABEE and (LAE) than with equal weights, which alone beat PABEE too."""
    shared = ("encoder", "corpus", "train_size", "length", "epochs", "rate", "head_rate")
    rival = Pabee(**{name: getattr(method, name) for name in shared}, batch=2 * method.batch)
    ours, plain = points_of(method, prepared, bench), points_of(rival, rival.prepare(bench), bench)
    beats = better_than("PABEE", gains_of_mixtures(ours, plain), "Against the network that PABEE trains")
    if method.later_only:
        return [beats]
    still = method.replace({"weight_rate": 0.0})
    equal = points_of(still, still.prepare(bench), bench)
    learned = better_than(
        "equal weights", gains_of_mixtures(ours, equal), "Against a network trained with equal weights"
    )
    helped = gains_of_mixtures(equal, plain)
    mutual = Outcome(
        name="learning from each other helps",
        statement="At equal cost, exits that learn from each other with equal weights, none of them learned, are on "
        "average half a point more accurate than PABEE's, which learn from labels alone, deeper ones weighing more. "
        f"{MIXED}",
        holds=mean(helped or [0.0]) >= 0.005,
        measured=on_average(helped),
    )
    return [beats, learned, mutual, later_teachers_count_more(prepared)]


def later_teachers_count_more(prepared: Prepared) -> Outcome:
    """Compare what pairs with a later teacher weigh with what those with an earlier one weigh."""
    _, u = cast(LossWeights, prepared.model.get_submodule("weights")).fixed()
    later, earlier = float(u.triu(1).sum()), float(u.tril(-1).sum())
    return Outcome(
        name="later teachers count more",
        statement="Learned weights of later teachers sum to a tenth more than those of earlier ones.",
        holds=later >= 1.1 * earlier,
        measured=f"{later:.3f} and {earlier:.3f}",
    )
