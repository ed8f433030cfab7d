"""What Shallow-Deep Networks claim: networks overthink; exits win the waste back, and disagreement tells errors."""

from __future__ import annotations

from statistics import mean

from torch import Tensor

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.kaya2019sdn import ShallowDeep, confusion, normalised, overthinking


def claims(method: ShallowDeep, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Try all of them; that SDN training makes early exits stronger takes IC-only training beside."""
    seen, reason = prepared.split("test"), reached_alone(curve, "Classifier")
    shares = (seen.static_costs / seen.full_costs).mean(axis=1).tolist()
    found = [
        half_saved(method, prepared, curve, reason),
        *overthought(seen.outputs, seen.targets, shares),
        confused(seen.outputs, seen.targets, prepared.split("train").outputs),
    ]
    return found if method.frozen else [*found, stronger(method, prepared, bench)]


def half_saved(method: ShallowDeep, prepared: Prepared, curve: Curve, reason: str) -> Outcome:
    """Exits by confidence, against the network without them."""
    full = method.static(prepared.split("validation"))[-1].quality
    point = cheapest_within(curve.validation, curve.test, 0.005, of=full)
    loss, saved = curve.full_quality - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="half of the cost saved at equal accuracy",
        statement="The cheapest threshold that loses at most half a point on validation data saves half of the "
        "computation and loses at most one point on test data.",
        holds=not reason and saved >= 0.5 and loss <= 0.01,
        measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at q = {point.knob:g}",
        not_comparable=reason,
    )


def overthought(outputs: Tensor, targets: Tensor, shares: list[float]) -> list[Outcome]:
    """Both kinds of overthinking, on logits ``[E, N, C]``: what is wasted is so whether or not a rule is needed."""
    found = overthinking(outputs, targets, shares)
    told = ", ".join(f"{share:.3f}" for share in found.cumulative)
    return [
        Outcome(
            name="overthinking is wasteful",
            statement="Half of the computation is spent on images after some classifier has been right.",
            holds=found.wasted >= 0.5,
            measured=f"{found.wasted:.1%} of the MACs; right at one of the first 1, 2, … classifiers: {told}",
        ),
        Outcome(
            name="overthinking is destructive",
            statement="At least two in five of the last classifier's errors were right at an internal one (the paper: "
            "half of them).",
            holds=found.destructive >= 0.4,
            measured=f"{found.destructive:.1%} of the errors",
        ),
    ]


def confused(outputs: Tensor, targets: Tensor, train: Tensor) -> Outcome:
    """Confusion against the last classifier's lack of confidence, on logits ``[E, N, C]``; ``train`` normalises it."""
    wrong = outputs[-1].argmax(dim=-1) != targets
    scores = normalised(confusion(outputs), confusion(train))
    ours = separation(scores, wrong)
    theirs = separation(1 - outputs[-1].softmax(dim=-1).amax(dim=-1), wrong)
    return Outcome(
        name="confusion tells errors",
        statement="Confusion ranks a wrong answer above a right one a point more often than the last classifier's own "
        "lack of confidence does.",
        holds=ours >= theirs + 0.01,
        measured=f"{ours:.4f} of the pairs, confidence {theirs:.4f}; by standard deviations of training images from "
        f"their mean, wrong answers {float(scores[wrong].mean()):+.2f}, right ones {float(scores[~wrong].mean()):+.2f}",
    )


def separation(scores: Tensor, wrong: Tensor) -> float:
    """Return the share of pairs of a wrong and a right sample in which the wrong one has the higher score ``[N]``.

    Equal scores count half; 1/2 tells nothing, as do samples that are all right or all wrong.
    """
    a, b = scores[wrong].double()[:, None], scores[~wrong].double()
    pairs = a.numel() * b.numel()
    return float(((a > b).sum() + (a == b).sum() / 2) / pairs) if pairs else 0.5


def stronger(method: ShallowDeep, prepared: Prepared, bench: Bench) -> Outcome:
    """What training everything together brings to internal classifiers."""
    *early, last = gains_by_exit(method, prepared, method.replace({"frozen": True}), bench)
    return Outcome(
        name="SDN training makes early exits stronger",
        statement="Beside IC-only training, internal classifiers are on average one point more accurate, and the last "
        "classifier loses at most one point.",
        holds=mean(early) >= 0.01 and last >= -0.01,
        measured=f"internal classifiers {mean(early):+.4f} on average, last {last:+.4f}",
    )
