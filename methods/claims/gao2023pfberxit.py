"""What PF-BERxiT claims: adapters better than training all; its rule than PABEE's, BERxiT's; kl and bikl than rekl."""

from __future__ import annotations

from eelit.methods.claims.comparisons import better_than, gains_at_equal_cost, on_the_task_of, points_of, tried
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.gao2023pfberxit import PfBerxit
from eelit.methods.papers.xin2021berxit import Berxit
from eelit.methods.policies.flexible_patience import Distance, FlexiblePatience
from eelit.methods.policies.patience import Patience


def claims(method: PfBerxit, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Compare rules on the same network; with adapters also against BERxiT's, and against training all weights."""
    exits = prepared.model.exits

    def flexible(distance: Distance) -> list[FlexiblePatience]:
        return [FlexiblePatience(theta, t, distance) for t in range(1, exits - 1) for theta in method.knobs[1:-1]]

    ours, patient = flexible(method.distance), [Patience(p) for p in range(1, exits - 1)]
    gains = gains_at_equal_cost(method, prepared, ours, patient)
    found = [better_than("patience", gains, f"With {method.distance} on the same network")]
    rekl = tried(method, prepared, flexible("rekl"))
    kinds: tuple[Distance, ...] = ("kl", "bikl")
    for name in kinds:
        gains = gains_at_equal_cost(method, prepared, flexible(name), rekl)
        beats = better_than("rekl", gains, f"With {name} on the same network")
        found.append(beats.model_copy(update={"name": f"{name} better than rekl"}))
    if not method.adapter:
        return found
    berxit = on_the_task_of(method, Berxit())
    gains = gains_at_equal_cost(method, prepared, ours, points_of(berxit, berxit.prepare(bench), bench))
    beats = better_than("BERxiT", gains, f"With {method.distance}, against the network that BERxiT trains")
    return [*found, beats, few_weights_are_better(method, prepared, bench, curve)]


def few_weights_are_better(method: PfBerxit, prepared: Prepared, bench: Bench, curve: Curve) -> Outcome:
    """Few weights are trained, and the last exit is better than that of the network trained whole."""
    whole = method.replace(method.variants["fine-tuned"])
    theirs, _ = whole.full_model(whole.prepare(bench), bench)
    every = list(prepared.model.parameters())
    share = sum(p.numel() for p in every if p.requires_grad) / sum(p.numel() for p in every)
    return Outcome(
        name="few weights are better",
        statement="Under 5 % of all weights are trained, those of adapters and exits, and the full model is half a "
        "point more accurate than when all are, which the paper says it beats.",
        holds=share < 0.05 and curve.full_quality >= theirs + 0.005,
        measured=f"{share:.1%} of the weights; accuracy {curve.full_quality:.4f}, trained whole {theirs:.4f}",
    )
