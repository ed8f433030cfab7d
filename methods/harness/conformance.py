"""The rules that every method keeps, as named checks: used by the tests, by `eelit run` and by `eelit smoke`.

``of_curve`` holds for every family and looks at what was measured and executed. A method that honestly cannot keep a
rule names it in ``exempt`` with the reason, which the site shows; a test fails when the exemption is no longer needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise

from eelit.methods.engine.method import Method
from eelit.methods.engine.records import Curve, Outcome

Check = tuple[str, str, Callable[[Method, Curve], tuple[bool, str]]]


def _counted_is_claimed(method: Method, curve: Curve) -> tuple[bool, str]:
    wrong = [e for e in curve.executions if abs(e.counted - e.claimed) > 1e-9 * max(1.0, e.claimed)]
    told = "; ".join(f"{curve.knob} {e.knob:g}: {e.counted:.6g} / {e.claimed:.6g}" for e in curve.executions)
    return not wrong and bool(curve.executions), f"counted / claimed {curve.unit}: {told}"


def _replay_is_execution(method: Method, curve: Curve) -> tuple[bool, str]:
    wrong = [f"{e.knob:g}" for e in curve.executions if not e.agrees]
    return not wrong, f"differs at {curve.knob} {', '.join(wrong)}" if wrong else "same exit and same answer everywhere"


def _never_is_full(method: Method, curve: Curve) -> tuple[bool, str]:
    last = curve.test[-1]
    same = abs(last.quality - curve.full_quality) < 1e-9
    return same and last.cost >= curve.full_cost * (1 - 1e-9), (
        f"quality {last.quality:.4f} and {curve.full_quality:.4f}, cost {last.cost:.6g} and {curve.full_cost:.6g}"
    )


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


CURVE_CHECKS: tuple[Check, ...] = (
    ("counted_is_claimed", "The cost counted from outside equals the claimed cost.", _counted_is_claimed),
    ("replay_is_execution", "Replay and real execution agree, sample by sample.", _replay_is_execution),
    ("never_is_the_full_model", "At the last knob the answer is the full model's, at no lower cost.", _never_is_full),
    ("eager_is_the_first_exit", "At the first knob everything leaves at the first exit.", _eager_is_first),
    ("cost_is_monotone", "Cost does not fall from eager to never.", _monotone),
    ("trades_off", "Some knob is more than 1.1× cheaper than the full model.", _saves),
)


def of_curve(method: Method, curve: Curve, *, whole: bool = True) -> list[Outcome]:
    """Check what was measured. Exempted rules are reported as exempt, with the reason.

    A curve of a few chosen knobs is not ``whole``: it need not reach the two ends.
    """
    return list(_outcomes(method, curve, CURVE_CHECKS if whole else CURVE_CHECKS[:2]))


def _outcomes(method: Method, curve: Curve, rules: tuple[Check, ...]) -> Iterator[Outcome]:
    for name, statement, check in rules:
        holds, measured = check(method, curve)
        if name in method.exempt:
            yield Outcome(name=name, statement=statement, holds=True, measured=f"exempt: {method.exempt[name]}")
        else:
            yield Outcome(name=name, statement=statement, holds=holds, measured=measured)
