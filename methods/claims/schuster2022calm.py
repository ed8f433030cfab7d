"""What CALM claims: a tolerance that is kept by proof, and depth by the token that beats one depth for all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from eelit.methods.backbones.decoding import always
from eelit.methods.claims.leads import nothing_to_lose
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.tokens import Prepared
from eelit.methods.papers.schuster2022calm import Calm
from eelit.methods.policies.base import State, usable
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.learn_then_test import share_missed


def claims(method: Calm, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """The calibrated threshold keeps the tolerance; depth by the token beats one depth for all."""
    reason = nothing_to_lose(curve, method.delta)
    kept = [each.model_copy(update={"not_comparable": reason}) for each in risk_claims(method, prepared, bench.seed)]
    return [*kept, *depth_claims(method, prepared, curve)]


def risk_claims(method: Calm, prepared: Prepared, seed: int) -> list[Outcome]:
    """See whether the calibrated threshold keeps the tolerance and saves something, and whether random halves do."""
    tolerance, error, order = method.delta, method.epsilon, method.candidates
    point = method.point(prepared, "test", prepared.fitted)
    losses = [method.losses(prepared, split, order) for split in ("fitting", "validation", "test")]
    missed = share_missed(np.concatenate(losses, axis=1), tolerance, error, seed=seed)
    return [
        Outcome(
            name="the calibrated threshold keeps the tolerance",
            statement=f"The threshold proved safe on other texts loses at most {tolerance:g} on test prompts.",
            holds=1 - point.quality <= tolerance,
            measured=f"loss {1 - point.quality:.3f} at {method.knob} {point.knob:g}, speed-up {point.speed_up:.2f}×",
        ),
        Outcome(
            name="faster within the tolerance",
            statement=f"The same threshold loses at most {tolerance:g} and is 1.5× faster, half of the paper's figure "
            "for the best of its three tasks.",
            holds=1 - point.quality <= tolerance and point.speed_up >= 1.5,
            measured=f"{point.speed_up:.2f}× faster, loss {1 - point.quality:.3f}",
        ),
        Outcome(
            name="the tolerance is seldom missed",
            statement=f"Calibrated on random halves, it is missed on the others at most {error:.0%} of the time; "
            "nearly by construction, as such halves are exchangeable: only a fault of the calibration would break it.",
            holds=missed <= error,
            measured=f"missed in {missed:.1%} of 200 repetitions",
        ),
    ]


def depth_claims(method: Calm, prepared: Prepared, curve: Curve) -> list[Outcome]:
    """Compare depth by the token with one depth for all, and ask an oracle how little depth would do."""
    found, layers = [], prepared.model.exits
    for name, gains in gains_over_shallow(prepared, curve).items():
        told = ", ".join(f"{gain:+.3f} ({i} layers)" for i, gain in enumerate(gains, start=2))
        found.append(
            Outcome(
                name=f"better than a shallow decoder at equal {name}",
                statement="On the mean, exits by the token keep 0.01 more ROUGE-L of the text than a decoder with "
                "fewer layers.",
                holds=sum(gains) >= 0.01 * len(gains),
                measured=f"difference in ROUGE-L: {told}",
            )
        )
    if method.reads == "logits":
        kept, depth = oracle(prepared, "test")
        found.append(
            Outcome(
                name="few layers would do",
                statement="An oracle needs under half of the layers; copying its states hardly changes the text.",
                holds=depth < layers / 2 and kept > 0.9,
                measured=f"{depth:.2f} of {layers} layers per token, ROUGE-L {kept:.3f}",
            )
        )
    return found


def gains_over_shallow(prepared: Prepared, curve: Curve) -> dict[str, list[float]]:
    """Return how much more of the text is kept than by decoders of 2 … L - 1 layers, at their layers and MACs.

    Between operating points of the curve (on test data) quality is interpolated.
    """
    rivals = shallow(prepared, "test")
    layers = [float(np.dot(point.exits, np.arange(1, len(point.exits) + 1))) for point in curve.test]
    macs, quality = [point.cost for point in curve.test], [point.quality for point in curve.test]
    return {
        "layers": [float(np.interp(i + 2, layers, quality)) - kept for i, (kept, _) in enumerate(rivals)],
        "MACs": [float(np.interp(cost, macs, quality)) - kept for kept, cost in rivals],
    }


def shallow(prepared: Prepared, split: Split) -> list[tuple[float, float]]:
    """Return (quality, MACs per token) of decoders cut off for good after 2 … L - 1 layers, without exits."""
    depths = range(2, prepared.model.exits)
    runs = prepared.run(split, {f"{depth} layers": always(FixedExit(depth - 1)) for depth in depths}, "state")
    macs = [prepared.costs.plain(depth, prepared.start, prepared.length).mean() for depth in depths]
    return [(float(1 - prepared.losses(split, run).mean()), float(c)) for run, c in zip(runs, macs, strict=True)]


def oracle(prepared: Prepared, split: Split) -> tuple[float, float]:
    """Return (quality, mean layers) when each token leaves at the first layer that agrees with the full text."""
    wanted = prepared.full(split).tokens
    (run,) = prepared.run(split, {"oracle": lambda step: FirstRight(wanted[:, step])}, "logits")
    return float(1 - prepared.losses(split, run).mean()), float(run.exits.double().mean()) + 1


@dataclass(frozen=True)
class FirstRight:
    """An oracle: stop where the likeliest token is the one wanted, ``[N]``; it knows what it should predict."""

    wanted: Tensor

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Tensor) -> tuple[State, Tensor]:
        """Compare the answers of logits ``[N, V]`` with the tokens wanted."""
        return (), (output.argmax(dim=-1) == self.wanted) & usable(output)
