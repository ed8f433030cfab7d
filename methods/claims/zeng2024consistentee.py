"""What ConsistentEE claims: little loss, the hard go deeper, exits specialise, better than joint training."""

from __future__ import annotations

import torch
from torch import Tensor

from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import At, at
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.zeng2024consistentee import ConsistentEE, memorised_layer
from eelit.methods.papers.zhou2020pabee import Pabee

THRESHOLD = 0.5
"""The paper's, at which the claims are tried."""


def claims(method: ConsistentEE, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """At the paper's threshold: faster, the hard go deeper, exits specialise, better than joint training."""
    test, policy = prepared.split("test"), method.rule(THRESHOLD, prepared)
    ours, exits = method.trial(policy, test), torch.as_tensor(replay(policy, test.outputs))
    right = test.answers.argmax(dim=-1) == test.targets
    easy, hard = (float(exits[memorised_layer(right) == i].double().mean()) + 1 for i in (1, len(right)))
    joint = pabee(method).prepare(bench)
    theirs = joint.split("test").answers.argmax(dim=-1) == test.targets
    here, there = leaving_early(right, exits), leaving_early(theirs, exits)
    loss, saved = curve.full_quality - ours.quality, 1 - 1 / ours.speed_up
    trained = (
        f"trained for {pabee(method).epochs:g} epochs as this one, beside whose its policies have some of their own"
    )
    rows = [
        ("faster at little loss", "Threshold 0.5 saves a quarter of the MACs and loses a point at most.",
         saved >= 0.25 and loss <= 0.01, f"{saved:.1%} saved, accuracy {-loss:+.4f}"),
        ("the hard go deeper", "Inputs memorised at the last layer leave 0.3 layers behind those known to all.",
         hard >= easy + 0.3, f"mean exit {hard:.2f} and {easy:.2f}"),
        ("exits specialise", "On what leaves through them, early exits are half a point better than the same exits "
         f"of PABEE's network, {trained}.", here >= there + 0.005, f"accuracy {here:.4f} and {there:.4f}"),
        *((f"better than {name}", "At no higher cost on validation data, the best mixture of settings of "
           f"{name} on PABEE's network, {trained}, is half a point worse.", ours.quality >= other.quality + 0.005,
           f"{ours.quality:.4f} and {other.quality:.4f}")
          for name, other in baselines(method, prepared, joint, bench) if other),
    ]  # fmt: skip
    return [Outcome(name=a, statement=b, holds=c, measured=d) for a, b, c, d in rows]


def leaving_early(right: Tensor, exits: Tensor) -> float:
    """Return the share of what leaves before the last exit that is right there, from ``[E, N]`` and exits ``[N]``."""
    through = torch.arange(len(right) - 1)[:, None] == exits
    return float(right[:-1][through].double().mean())


def pabee(method: ConsistentEE) -> Pabee:
    """PABEE, whose network is that of phase 1, but trained for as many epochs as phases 1 and 3 together."""
    names = ("encoder", "corpus", "train_size", "length", "batch", "rate", "head_rate")
    shared = {name: getattr(method, name) for name in names}
    return Pabee(**shared, epochs=method.epochs + method.joint_epochs)


def baselines(method: ConsistentEE, prepared: Prepared, joint: Prepared, bench: Bench) -> list[tuple[str, At | None]]:
    """Return what rules reach at the cost of the paper's threshold on PABEE's network, whose exits serve all."""
    other = pabee(method)
    speed = method.trial(method.rule(THRESHOLD, prepared), prepared.split("validation")).speed_up
    held, test = (other.sweep(joint, bench, split, Pabee.knobs) for split in ("validation", "test"))
    surest = next(b for b in other.baselines(joint, bench) if b.name == "max-confidence")
    curves = (("patience", held, test), ("the surest exit", surest.validation, surest.test))
    return [(name, at(known, reached, 1 / speed)) for name, known, reached in curves]
