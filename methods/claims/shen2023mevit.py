"""What MEViT claims: distillation lifts early branches, small differences or not, and images get by with less."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

from torch import Tensor

from eelit.methods.claims.comparisons import gains_by_exit
from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.shen2023mevit import FineTunedViT
from eelit.methods.recipes.plain import train_plain

TOPS = (0, 2, 3, 4, 6)
"""T-shirts, pullovers, dresses, coats and shirts: the classes that are alike."""
GAIN = 0.005
"""How much more accuracy counts."""


def claims(method: FineTunedViT, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside branches that learn from labels alone; and beside the transformer by itself, trained for as long."""
    labels = method.replace({"a": 0.0})
    theirs = labels.prepare(bench)
    alone = plain_transformer(method, prepared, bench)
    held, test = (method.static(alone.split(split))[-1].quality for split in ("validation", "test"))
    return [
        lifted(gains_by_exit(method, prepared, labels, bench)),
        told_apart(gains_among(TOPS, prepared, theirs)),
        cheaper(curve, held, test),
    ]


def plain_transformer(method: FineTunedViT, prepared: Prepared, bench: Bench) -> Prepared:
    """Return the network without branches, trained by itself for as many steps as both stages take."""
    known = prepared.data.without_test()
    model = method.build(known, bench.seed)
    epochs = method.epochs + method.tune_epochs
    train_plain(model, known, bench, epochs=epochs, batch=method.batch, rate=method.rate)
    return Prepared(model, prepared.data, bench, method)


def gains_among(classes: Sequence[int], ours: Prepared, theirs: Prepared) -> list[float]:
    """Return by how much each exit is more accurate than the same one of another network on test images of classes."""
    targets = ours.split("test").targets
    chosen = sum(targets == label for label in classes).bool()  # type: ignore[union-attr]

    def right(answers: Tensor) -> Tensor:
        return (answers.argmax(dim=-1) == targets)[:, chosen].double().mean(dim=1)

    gains: list[float] = (right(ours.split("test").answers) - right(theirs.split("test").answers)).tolist()
    return gains


def told(gains: Sequence[float]) -> str:
    """Return gains by exit for a report."""
    return "by exit " + ", ".join(f"{gain:+.4f}" for gain in gains)


def lifted(gains: Sequence[float]) -> Outcome:
    """What learning from the last exit brings, given the gains of all exits."""
    *early, last = gains
    return Outcome(
        name="distillation lifts early branches",
        statement="Beside the same two stages on labels alone, early branches are on average half a point more "
        "accurate on test data, and the last exit loses at most half a point.",
        holds=mean(early) >= GAIN and last >= -GAIN,
        measured=told(gains),
    )


def told_apart(gains: Sequence[float]) -> Outcome:
    """The same where kinds are alike."""
    return Outcome(
        name="also where kinds are alike",
        statement="On test images of T-shirts, pullovers, dresses, coats and shirts, early branches are on average "
        "half a point more accurate than those that learned from labels alone.",
        holds=mean(gains[:-1]) >= GAIN,
        measured=told(gains),
    )


def cheaper(curve: Curve, held: float, test: float) -> Outcome:
    """Compare with the transformer by itself, given its accuracy on validation and on test data."""
    point = cheapest_within(curve.validation, curve.test, 0.005, of=held)
    loss, saved = test - point.quality, 1 - 1 / point.speed_up
    return Outcome(
        name="less computation than the transformer by itself",
        statement="The cheapest threshold that on validation data loses at most half a point to the same transformer "
        "without branches, trained by itself for as many steps, saves 30 % of the MACs and loses at most one point to "
        "it on test data.",
        holds=saved >= 0.3 and loss <= 0.01,
        measured=f"{saved:.1%} of the MACs saved, accuracy {-loss:+.4f}, at threshold {point.knob:g}",
    )
