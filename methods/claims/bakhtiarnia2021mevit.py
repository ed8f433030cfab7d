"""What Multi-Exit ViT claims: each of the seven kinds of branches has its place between accuracy and speed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import mean
from typing import NamedTuple

from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.bakhtiarnia2021mevit import BRANCHES, MultiExitViT

GAIN = 0.005
"""How much more accuracy counts."""
DEPTH = 0.01
"""By how much the network's own exit must be more accurate than every branch after the first layer."""
OF_CLASS_TOKEN = "MLP-EE"
"""The one kind that reads nothing but the class token."""

Kinds = Mapping[str, Baseline]
"""Name of a kind → the network cut off behind each of its branches, from the image on, then its own last exit."""


def claims(method: MultiExitViT, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """All seven kinds on the same frozen network, trained alike; tried once, at the first."""
    if not (method.frozen and method.branch == next(iter(BRANCHES))):
        return []
    kinds = {}
    for name in BRANCHES:
        each = method.replace({"branch": name})
        ready = prepared if name == method.branch else each.prepare(bench)
        held, test = (each.static(ready.split(split)) for split in ("validation", "test"))
        kinds[name] = Baseline(name=name, validation=held, test=test)
    reason = why_undecided(kinds)
    found = [all_useful(kinds), none_wins(kinds), patches_pay(kinds)]
    return [outcome.model_copy(update={"not_comparable": reason}) for outcome in found]


def why_undecided(kinds: Kinds) -> str:
    """Return why such a network can say nothing of where branches belong, or nothing: depth must be worth something."""
    last = next(iter(kinds.values())).validation[-1].quality
    early = max(kind.validation[0].quality for kind in kinds.values())
    if last >= early + DEPTH:
        return ""
    return (
        f"In its short training the network has learnt too little: on validation data its own exit reaches {last:.4f}, "
        f"and the best branch after the first layer {early:.4f}, so that later ones have nothing more to read."
    )


class Place(NamedTuple):
    """Where a kind is at its best beside all others."""

    branch: int  # after which layer, from 1
    gain: float | None  # accuracy on test data beyond the best that costs no more; None: nothing else does


def best_place(kinds: Kinds, name: str) -> Place:
    """Return where a kind gains most over whatever of the others costs no more, chosen on validation data.

    The network without branches is one of the others.
    """
    own, found = kinds[name], list[tuple[float, int, float]]()
    rivals = [(held, test) for kind, other in kinds.items() if kind != name for held, test in points(other)]
    rivals.append((own.validation[-1], own.test[-1]))
    for i, (held, test) in enumerate(zip(own.validation[:-1], own.test[:-1], strict=True)):
        cheap = [(rival, seen) for rival, seen in rivals if rival.cost <= held.cost]
        if not cheap:
            return Place(i + 1, None)
        best, seen = max(cheap, key=lambda rival: rival[0].quality)
        found.append((held.quality - best.quality, i, test.quality - seen.quality))
    _, i, gain = max(found, key=lambda each: each[0])
    return Place(i + 1, gain)


def points(kind: Baseline) -> Sequence[tuple[OperatingPoint, OperatingPoint]]:
    """Return what a kind's branches reach on validation and on test data."""
    return list(zip(kind.validation[:-1], kind.test[:-1], strict=True))


def all_useful(kinds: Kinds) -> Outcome:
    """Look for a place for each kind."""
    places = {name: best_place(kinds, name) for name in kinds}
    told = ", ".join(
        f"{name} {'alone' if gain is None else f'{gain:+.4f}'} after layer {branch}"
        for name, (branch, gain) in places.items()
    )
    return Outcome(
        name="each of the seven has its use",
        statement="Each kind of branch is, after some layer that is chosen on validation data, so cheap that nothing "
        "else is, or half a point more accurate on test data than whatever else costs no more.",
        holds=all(gain is None or gain >= GAIN for _, gain in places.values()),
        measured=told,
    )


def none_wins(kinds: Kinds) -> Outcome:
    """Compare the best kind at each layer with the kind that is best on the whole."""

    def best_at(i: int) -> str:
        return max(kinds, key=lambda name: kinds[name].validation[i].quality)

    whole = max(kinds, key=lambda name: mean(held.quality for held, _ in points(kinds[name])))
    each = [best_at(i) for i in range(len(points(kinds[whole])))]
    gain = mean(kinds[name].test[i].quality - kinds[whole].test[i].quality for i, name in enumerate(each))
    return Outcome(
        name="no branch is the best at every depth",
        statement="Taking after each layer the kind that is best there, on validation data, is on average half a point "
        "more accurate on test data than taking one kind throughout.",
        holds=gain >= GAIN,
        measured=f"{gain:+.4f} with {', '.join(each)}, instead of {whole}",
    )


def patches_pay(kinds: Kinds) -> Outcome:
    """Compare what reads patches with what reads the class token, after the first layer and before the last."""
    others = [kind for name, kind in kinds.items() if name != OF_CLASS_TOKEN]
    early, late = (
        mean(kind.test[i].quality for kind in others) - kinds[OF_CLASS_TOKEN].test[i].quality for i in (0, -2)
    )
    return Outcome(
        name="patches pay near the image",
        statement="After the first layer, branches that read patches are on average two points more accurate on test "
        f"data than {OF_CLASS_TOKEN}; before the last layer the gain is at most half of that.",
        holds=early >= 0.02 and late <= early / 2,
        measured=f"{early:+.4f} after the first layer, {late:+.4f} before the last",
    )
