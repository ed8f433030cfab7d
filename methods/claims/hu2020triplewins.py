"""What Triple Wins claims: defended exits are more accurate, more robust and cheaper than one defended exit."""

from __future__ import annotations

from typing import NamedTuple

from eelit.methods.engine.method import Bench
from eelit.methods.engine.operating_points import cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.hu2020triplewins import ATTACKS, Ball, TripleWins, attacked
from eelit.methods.policies.base import Policy
from eelit.methods.policies.fixed_exit import FixedExit

ATTACKED = 500
"""Test images that are attacked, at most."""
STEP, STEPS = 2 / 255, 10
"""Attacks of the test: ten times the steps of the training's, with the paper's step on CIFAR-10."""
GAIN = 0.005
"""How much more accurate, clean and attacked, counts."""
WHERE = (
    "At the cheapest share that is half a point more accurate on validation data than the network without exits, "
    "trained against attacks for as long,"
)


def claims(method: TripleWins, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Beside the same network with its own exit alone, trained against attacks for as long; and beside no defence."""
    if method.defence == "none":
        return []
    alone = method.replace({"shares": (), "defence": "main exit"})
    rival = alone.prepare(bench)
    goal = alone.static(rival.split("validation"))[-1].quality + GAIN
    point = cheapest_within(curve.validation, curve.test, 0.0, of=goal)
    theirs = under_attack(alone, rival, FixedExit(0), bench, ["main exit"])
    ours = under_attack(method, prepared, method.rule(point.knob, prepared), bench, list(ATTACKS))
    found = three_wins(point, alone.static(rival.split("test"))[-1], ours, theirs)
    main = method.defence == next(iter(ATTACKS))
    return [*found, needed(method, bench, point.knob, ours)] if main else found


class UnderAttack(NamedTuple):
    """What an attack leaves of a network and its exit rule."""

    attack: str
    point: OperatingPoint  # accuracy and cost on the attacked images, at the exits that these take


def under_attack(
    method: TripleWins, prepared: Prepared, policy: Policy, bench: Bench, names: list[str]
) -> list[UnderAttack]:
    """Attack test images in several ways and see what becomes of them."""
    ball = Ball.of(prepared.data.train, eps=method.eps, g=STEP, S=STEPS)
    clean = prepared.split("test").examples.head(ATTACKED)
    found = []
    for name in names:
        bench.progress(f"attacking {len(clean)} test images: {name}", None)
        images = attacked(prepared.model, clean, ATTACKS[name], ball, seed=bench.seed)
        found.append(UnderAttack(name, method.trial(policy, prepared.store(images, f"attacked ({name})"))))
    return found


def three_wins(
    ours: OperatingPoint, theirs: OperatingPoint, our_attacks: list[UnderAttack], their_attacks: list[UnderAttack]
) -> list[Outcome]:
    """Compare accuracy, robustness and cost at one share with those of the network without exits."""
    worst = min(our_attacks, key=lambda found: found.point.quality)
    (alone,) = their_attacks
    saved = 1 - ours.cost / theirs.cost
    told = ", ".join(f"{name} {p.quality:.4f} at {p.cost / theirs.cost:.0%}" for name, p in our_attacks)
    return [
        Outcome(
            name="more accurate than without exits",
            statement=f"{WHERE} accuracy on clean test images is half a point higher.",
            holds=ours.quality >= theirs.quality + GAIN,
            measured=f"{ours.quality:.4f} at share {ours.knob:g}, without exits {theirs.quality:.4f}",
        ),
        Outcome(
            name="more robust than without exits",
            statement=f"{WHERE} accuracy on attacked test images is half a point higher, even under the worst of three "
            "attacks that know all exits.",
            holds=worst.point.quality >= alone.point.quality + GAIN,
            measured=f"accuracy and cost under attack: {told}; without exits {alone.point.quality:.4f}",
        ),
        Outcome(
            name="cheaper than without exits",
            statement=f"{WHERE} 30 % of the computation is saved on clean test images.",
            holds=saved >= 0.3,
            measured=f"{saved:.1%} of the MACs saved",
        ),
    ]  # fmt: skip


def needed(method: TripleWins, bench: Bench, knob: float, ours: list[UnderAttack]) -> Outcome:
    """See what the average attack leaves of exits that nobody defended."""
    bare = method.replace({"defence": "none"})
    ready = bare.prepare(bench)
    (theirs,) = under_attack(bare, ready, bare.rule(knob, ready), bench, ["average"])
    defended = next(found for found in ours if found.attack == "average")
    gain = defended.point.quality - theirs.point.quality
    return Outcome(
        name="exits need the defence",
        statement="Under the average attack and at the same share, exits that were trained without attacks are at "
        "least ten points less accurate.",
        holds=gain >= 0.1,
        measured=f"{theirs.point.quality:.4f}, with the defence {defended.point.quality:.4f}",
    )
