"""The rules that every method keeps, as named checks: used by the tests, by `eelit run` and by `eelit smoke`.

``of_curve`` holds for every family and looks at what was measured and executed, variant by variant. A method that
honestly cannot keep a rule names it in ``exempt`` with the reason, which the site shows, after the variant's name and a
colon if only that one cannot; a test fails when the exemption from a rule is no longer needed.

``no_lead`` is a warning, not a rule: a full model that is hardly better than its first exit breaks nothing, and some
papers are about just that. But on such a task savings prove little, and readers should know. Where answers have to be
in time, the full model may lose for being late, and the warning says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from eelit.methods.claims.leads import eager_quality, lead
from eelit.methods.claims.paired import Difference
from eelit.methods.engine.method import Method
from eelit.methods.engine.records import Beside, Curve, Outcome
from eelit.methods.harness.qualities import IN_TIME

ERRORS = 2.0
"""Standard errors by which a variant's best quality must lie above chance in a smoke test, and by which a full model
must lead its first exit if no warning is to be shown."""


@dataclass(frozen=True)
class Rule:
    """One rule: its name, what it demands, and how that is checked (holds or not, and what was found)."""

    name: str
    statement: str
    check: Callable[[Method, Curve], tuple[bool, str]]


def _counted_is_claimed(method: Method, curve: Curve) -> tuple[bool, str]:
    wrong = [e for e in curve.executions if abs(e.counted - e.claimed) > 1e-9 * max(1.0, e.claimed)]
    told = "; ".join(f"{curve.knob} {e.knob:g}: {e.counted:.6g} / {e.claimed:.6g}" for e in curve.executions)
    return not wrong and bool(curve.executions), f"counted / claimed {curve.unit}: {told}"


def _replay_is_execution(method: Method, curve: Curve) -> tuple[bool, str]:
    wrong = [f"{e.knob:g}" for e in curve.executions if not e.agrees]
    return not wrong, f"differs at {curve.knob} {', '.join(wrong)}" if wrong else "same exit and same answer everywhere"


def _never_answers_as_full(method: Method, curve: Curve) -> tuple[bool, str]:
    last = curve.test[-1]
    return abs(last.quality - curve.full_quality) < 1e-9, f"quality {last.quality:.4f} and {curve.full_quality:.4f}"


def _never_costs_full(method: Method, curve: Curve) -> tuple[bool, str]:
    last = curve.test[-1]
    return last.cost >= curve.full_cost * (1 - 1e-9), f"cost {last.cost:.6g} and {curve.full_cost:.6g}"


def _eager_is_first(method: Method, curve: Curve) -> tuple[bool, str]:
    first = curve.test[0]
    return first.exits[0] == 1.0, f"{first.exits[0]:.1%} leave at the first exit"


def _monotone(method: Method, curve: Curve) -> tuple[bool, str]:
    costs = [point.cost for point in curve.test]
    slack = 1 + max(method.cost_noise, 1e-9)
    return all(a <= b * slack for a, b in pairwise(costs)), " ≤ ".join(f"{c:.4g}" for c in costs)


def _saves(method: Method, curve: Curve) -> tuple[bool, str]:
    best = max(point.speed_up for point in curve.test)
    return best > 1.1, f"largest speed-up {best:.2f}×"


RULES: tuple[Rule, ...] = (
    Rule("counted_is_claimed", "The cost counted from outside equals the claimed cost.", _counted_is_claimed),
    Rule("replay_is_execution", "Replay and real execution agree, sample by sample.", _replay_is_execution),
    Rule("never_answers_as_the_full_model", "At the last knob quality is the full model's.", _never_answers_as_full),
    Rule("never_costs_the_full_model", "At the last knob the cost is at least the full model's.", _never_costs_full),
    Rule("eager_is_the_first_exit", "At the first knob everything leaves at the first exit.", _eager_is_first),
    Rule("cost_is_monotone", "Cost does not fall from eager to never.", _monotone),
    Rule("trades_off", "Some knob is more than 1.1× cheaper than the full model.", _saves),
)  # fmt: skip


def of_curve(method: Method, curve: Curve, *, whole: bool = True) -> list[Outcome]:
    """Check what was measured. Exempted rules are reported as exempt, with the reason.

    A curve of a few chosen knobs is not ``whole``: it need not reach the two ends.
    """
    return list(_outcomes(method, curve, RULES if whole else RULES[:2]))


def exemption(method: Method, variant: str, rule: Rule) -> str | None:
    """Return why a variant of a method need not keep a rule; None if it must."""
    return method.exempt.get(rule.name, method.exempt.get(f"{variant}: {rule.name}"))


def _outcomes(method: Method, curve: Curve, rules: Sequence[Rule]) -> Iterator[Outcome]:
    for rule in rules:
        holds, measured = rule.check(method, curve)
        if reason := exemption(method, curve.variant, rule):
            holds, measured = True, f"exempt: {reason}"
        yield Outcome(name=rule.name, statement=rule.statement, holds=holds, measured=measured)


def at_chance(curve: Curve) -> str | None:
    """Return in one sentence that a curve is no better than chance; None if it is, or if nobody said what chance is."""
    if curve.chance is None:
        return None
    reached = curve.chance.reached
    reached = max(point.quality for point in curve.test) if reached is None else reached
    least = curve.chance.quality + ERRORS * curve.chance.error
    if reached >= least:
        return None
    return (
        f"{called(curve)} is at chance: it reaches {reached:.3f}, and {curve.chance.what}, {curve.chance.quality:.3f} "
        f"± {curve.chance.error:.3f}; {least:.3f} are asked for"
    )


def no_lead(curve: Curve, joint: Difference | None = None) -> str | None:
    """Return in one sentence that the full model is not clearly better than the first exit; None if it is.

    The curve must begin with the most eager setting. How both are compared, `leads.lead` tells: sample by sample where
    the quality of each is known, by ``joint`` where quality is no mean over samples. Where there is a measure beside
    the quality, that of the full model and its cheap part alone is compared.
    """
    if curve.beside is not None:
        return _no_lead_beside(curve, curve.beside)
    found, how = lead(curve, joint)
    if found.mean > 0 and found.mean >= ERRORS * found.error:
        return None
    worse = bool(how) and found.mean < 0 and -found.mean >= ERRORS * found.error
    asked = (
        f"{ERRORS:g} standard errors, {how}, are {ERRORS * found.error:.4f}" if how else "no standard error is known"
    )
    return (
        f"The full model of {called(curve)} is {'clearly worse' if worse else 'not clearly better'} than "
        f"{_eager(curve)}: {curve.quality} is {curve.full_quality:.4f} and {eager_quality(curve):.4f}, a lead of "
        f"{found.mean:+.4f}; {asked}. {_what_that_means(curve, worse=worse)}"
    )


def _eager(curve: Curve) -> str:
    """Return what the full model is compared with, in words."""
    first = curve.test[0]
    if first.quality < eager_quality(curve):
        return "chance, which its most eager setting does not reach"
    return "its first exit" if first.exits[0] == 1.0 else "its most eager setting"


def _what_that_means(curve: Curve, *, worse: bool) -> str:
    """Return what savings are worth beside a full model without a lead, or one that loses to its first exit."""
    if curve.quality == IN_TIME:
        return (
            "Late answers count as wrong, and the full model's may be late: this says what waiting for them costs, "
            "not how good they are."
        )
    if worse:
        return "Where it is worse, savings cost nothing, and to be better than it says little about a method."
    return "Where the two are about as good, savings say little about a method."


def _no_lead_beside(curve: Curve, beside: Beside) -> str | None:
    if beside.lead > 0 and beside.lead >= ERRORS * beside.error:
        return None
    return (
        f"The full model of {called(curve)} is not clearly better than its cheap part alone: {beside.name} are "
        f"{beside.full:.4f} and {beside.cheap:.4f}, a lead of {beside.lead:+.4f}; {ERRORS:g} standard errors, sample "
        f"by sample, are {ERRORS * beside.error:.4f}. By that measure its later part is worth nothing."
    )


def called(curve: Curve) -> str:
    """Return what to call the variant that a curve is of; a method without variants is itself."""
    return f"variant {curve.variant!r}" if curve.variant else "the method"
