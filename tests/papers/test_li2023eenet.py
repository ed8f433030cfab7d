"""What only EENet promises: levels by what is left to do, a loop over inferences, energy of a stated chip."""

import math
import re
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import li2023eenet as claimed
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import followed, infer
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.li2023eenet import (
    Chip,
    Done,
    EENet,
    Level,
    Loop,
    Outlook,
    counted_legs,
    legs_of,
    managed,
    rests_of,
)
from eelit.methods.policies.forecast import Forecast
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.world.machines import Computer
from eelit.methods.world.stream import Leg, World, stream
from eelit.methods.world.traces import steady

KEY = "li2023eenet"
CHIP = Chip(levels=(Level(10.0, 0.5), Level(20.0, 0.8), Level(40.0, 1.0)), kappa=2.0, leakage=0.0, switch_seconds=0.0,
            switch_joules=0.0)  # fmt: skip
STILL = Loop(0.0, 0.0, 0.1, 50)
"""A loop that corrects nothing."""


def tiny(variant="managed", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# The chip.


def test_energy_by_hand():
    """Work 20 at half of the voltage: 2 · 1/4 · 20, and 3 W · 1/2 for two seconds of leaking."""
    chip = CHIP._replace(leakage=3.0)
    assert chip.joules(20.0, chip.levels[0]) == pytest.approx(10 + 3)
    assert chip.joules(20.0, chip.highest) == pytest.approx(40 + 1.5)


def test_at_fixed_work_energy_rises_with_the_voltage():
    assert all(CHIP.joules(7.0, low) < CHIP.joules(7.0, high) for low, high in pairwise(CHIP.levels))
    assert all(Chip().joules(1e8, low) < Chip().joules(1e8, high) for low, high in pairwise(Chip().levels))


@pytest.mark.parametrize(
    ("W", "left", "c", "level"),
    [(10, 1, 0, 0), (10.1, 1, 0, 1), (20, 1, 0, 1), (40, 1, 0, 2), (400, 1, 0, 2), (10, 0, 0, 2), (10, -1, 0, 2),
     (20, 1, 0.5, 0), (10, 1, -0.5, 1), (10, 1, -1, 1)],
)  # fmt: skip
def test_the_lowest_level_that_is_fast_enough(W, left, c, level):
    assert CHIP.governed(W, left, c) == CHIP.levels[level]


def test_changing_the_level_takes_of_the_time_that_is_left():
    assert CHIP._replace(switch_seconds=0.1).governed(10, 1, 0) == CHIP.levels[1]
    assert CHIP._replace(switch_seconds=1.0).governed(10, 1, 0) == CHIP.highest


@pytest.mark.parametrize(
    ("left", "R", "level"), [(1, 0, 0), (1.5, 20, 0), (1.49, 20, 1), (1, 20, 1), (0.5, 10, 2), (0.25, 10, 2)]
)
def test_time_is_kept_for_what_may_follow(left, R, level):
    """10 to do, and then R at 40 Hz: in the second that is left of 1.5, 10 Hz do; in less 20; in none, the highest."""
    assert CHIP.governed(10, left, 0, R) == CHIP.levels[level]


def test_time_is_kept_for_two_changes_of_the_level():
    """10 in 1.5 - 1/8 and R = 10, 1/4 s at the highest: one change more, and 10 Hz would do no more."""
    chip = CHIP._replace(switch_seconds=0.125)
    assert chip.governed(10, 1.5, 0, 10) == CHIP.levels[0]
    assert chip.governed(10, 1.499, 0, 10) == CHIP.levels[1]
    assert chip.governed(10, 1.125, 0, 0) == CHIP.levels[0]


def test_the_correction_is_a_share_of_the_clock_with_what_is_kept():
    """10 / (2 - 20 / 40) Hz are 6 2/3, and half as many again 10."""
    assert CHIP.governed(10, 2.0, -0.5, 20) == CHIP.levels[0]
    assert CHIP.governed(10, 2.0, -0.51, 20) == CHIP.levels[1]


def test_before_a_forecast_the_whole_network_is_to_be_in_time():
    """10 and 20 in 1 1/2 s: 20 Hz; with a little less 40. Two changes of the level take of the time."""
    assert CHIP.begun(30, 1.5, 0) == CHIP.levels[1]
    assert CHIP.begun(30, 1.49, 0) == CHIP.highest
    assert CHIP.begun(30, 1.5, 0.5) == CHIP.levels[0]
    chip = CHIP._replace(switch_seconds=0.125)
    assert chip.begun(10, 1.25, 0) == CHIP.levels[0]
    assert chip.begun(10, 1.249, 0) == CHIP.levels[1]


def test_one_level_is_all_that_is_taken():
    one = CHIP._replace(levels=CHIP.levels[-1:])
    assert {one.governed(W, left, 0) for W in (0.1, 50) for left in (-1, 1)} == {one.highest}


# Inferences in their order.


def test_an_inference_by_hand():
    """Nothing is known of the first leg: highest, 1/4 s. Then 10 in 3/4 s: 20 Hz, 1/2 s. Then 3 in 1/4 s: 20 Hz."""
    (done,) = managed([[10.0, 10.0, 3.0]], [5.0], 1.0, CHIP, STILL)
    assert done.joules == pytest.approx(2 * 10 + 2 * 0.64 * 10 + 2 * 0.64 * 3)
    assert not done.late
    (late,) = managed([[10.0, 10.0, 6.0]], [5.0], 1.0, CHIP, STILL)  # 6 in 1/4 s: 40 Hz
    assert (late.joules, late.late) == (pytest.approx(2 * 10 + 2 * 0.64 * 10 + 2 * 6), False)
    assert managed([[10.0, 10.0, 11.0]], [5.0], 1.0, CHIP, STILL)[0].late


def test_a_wrong_forecast_by_hand():
    """Of 2 s 1/4 is gone after the first 10. Then 10 are forecast, and 30 might follow: 3/4 s is kept for them, and 10
    in 1 s takes 10 Hz. They do follow: 30 in the 3/4 s takes 40 Hz, just in time. With a little less it is late, unless
    time is kept.
    """
    legs, rests = [[10.0, 10.0, 30.0]], [[40.0, 30.0, 0.0]]
    (done,) = managed(legs, [0.0], 2.0, CHIP, STILL, rests=rests)
    assert (done.joules, done.late) == (pytest.approx(2 * 10 + 2 * 0.25 * 10 + 2 * 30), False)
    (done,) = managed(legs, [0.0], 1.9, CHIP, STILL, rests=rests)  # 10 in 0.9 s: 20 Hz; then 30 in 1.15 s: 40 Hz
    assert (done.joules, done.late) == (pytest.approx(2 * 10 + 2 * 0.64 * 10 + 2 * 30), False)
    assert managed([[10.0, 14.0, 30.0]], [0.0], 1.8, CHIP, STILL)[0].late
    assert not managed([[10.0, 14.0, 30.0]], [0.0], 1.8, CHIP, STILL, rests=[[44.0, 30.0, 0.0]])[0].late


def test_wrong_forecasts_are_in_time_wherever_the_whole_network_would_be():
    rng, late = np.random.default_rng(5), 0
    chip = CHIP._replace(switch_seconds=0.02)
    for _ in range(300):
        legs = rng.uniform(1, 20, rng.integers(2, 5)).tolist()
        spare = [rng.uniform(0, 5) if k < len(legs) - 1 else 0.0 for k in range(len(legs))]  # heads that are passed by
        rests = [sum(legs[k + 1 :]) + sum(spare[k:]) for k in range(len(legs))]
        deadline = (legs[0] + rests[0]) / 40 + 2 * 0.02 + rng.uniform(0, 1)
        (done,) = managed([legs], [0.0], deadline, chip, STILL, rests=[rests])
        assert not done.late
        late += managed([legs], [0.0], deadline, chip, STILL)[0].late
    assert late > 30  # without what is kept


def test_what_is_left_counts_from_each_leg_of_each_inference():
    """20 in 1 1/2 s: 20 Hz, and then 10 in one second: 10 Hz. The second inference has 60 in 1 1/2 s: 40 Hz, twice."""
    legs, rests = [[10.0, 10.0]] * 2, [[10.0, 0.0], [50.0, 40.0]]
    first, second = managed(legs, [0.0, 9.0], 1.5, CHIP, STILL, rests=rests)
    assert first.joules == pytest.approx(2 * 0.64 * 10 + 2 * 0.25 * 10)
    assert second.joules == pytest.approx(2 * 10 + 2 * 10)
    known = managed(legs, [0.0, 9.0], 1.5, CHIP, STILL, rests=rests, ahead=[[20.0, 10.0]] * 2)
    assert known == managed(legs, [0.0, 9.0], 1.5, CHIP, STILL, ahead=[[20.0, 10.0]] * 2)  # nothing is kept then


def test_work_that_is_known_has_a_level_from_the_beginning():
    (done,) = managed([[10.0]], [0.0], 1.0, CHIP, STILL, ahead=[[10.0]])
    assert (done.joules, done.late) == (pytest.approx(2 * 0.25 * 10), False)
    (unknown,) = managed([[10.0]], [0.0], 1.0, CHIP, STILL)
    assert unknown.joules == pytest.approx(2 * 10)


def test_who_reckons_with_more_work_runs_faster_and_saves_less():
    """20 ahead in a second: 20 Hz; after half of it 10 ahead in half a second, 20 Hz again. Alone, 10 Hz would do."""
    (done,) = managed([[10.0]], [0.0], 1.0, CHIP, STILL, ahead=[[20.0]])
    assert done.joules == pytest.approx(2 * 0.64 * 10)
    (twice,) = managed([[10.0, 10.0]], [0.0], 1.0, CHIP, STILL, ahead=[[20.0, 10.0]])
    assert (twice.joules, twice.late) == (pytest.approx(2 * 0.64 * 20), False)


def best_of(legs, came):
    return claimed.best_levels(tuple(map(tuple, legs)), tuple(came), 1.0, CHIP)


def test_the_best_levels_by_hand():
    """One inference of 10 and 10 in a second: both at 20 Hz, 25.6 J; or 10 at 40 Hz and 10 at the 13 1/3 that is no
    level. Two that come at once: 20 in the second all the same, so both at 20 Hz. To be late costs 10 Hz at least.
    """
    slow = 2 * 0.25
    assert best_of([[10.0, 10.0]], [0.0]) == pytest.approx((2 * 0.64 * 20, slow * 20))
    assert best_of([[10.0], [10.0]], [0.0, 0.0]) == pytest.approx((2 * 0.64 * 20, slow * 20, math.inf))
    assert best_of([[10.0], [10.0]], [0.0, 1.0]) == pytest.approx((slow * 20, math.inf, math.inf))
    later = slow * 10 + 2 * 35  # none begins before it comes: 35 in the second from 1 on takes 40 Hz
    assert best_of([[10.0], [35.0]], [0.0, 1.0])[:2] == pytest.approx((later, slow * 45))
    assert best_of([[60.0], [1.0]], [0.0, 0.0]) == pytest.approx((math.inf, math.inf, slow * 61))
    assert best_of([[60.0], [1.0]], [0.0, 9.0]) == pytest.approx((math.inf, slow * 61, math.inf))
    both = (math.inf, 2 * 60 + slow, slow * 61)  # the first at 40 Hz ends at 1.5 s, and the second is in time
    assert best_of([[60.0], [1.0]], [0.0, 2.0]) == pytest.approx(both)


def test_no_governor_is_better_than_the_best_levels():
    """Not even one that is late more often: then the best levels may be, too."""
    rng, late = np.random.default_rng(3), 0
    chip = CHIP._replace(switch_seconds=0.01, switch_joules=0.3)
    for _ in range(40):
        legs = [rng.uniform(1, 15, rng.integers(1, 3)).tolist() for _ in range(3)]
        came = np.cumsum(rng.uniform(0, 1, 3)).tolist()
        done = managed(legs, came, 1.0, chip, STILL)
        known = managed(legs, came, 1.0, chip, STILL, ahead=[np.cumsum(own[::-1])[::-1].tolist() for own in legs])
        best = claimed.best_levels(tuple(map(tuple, legs)), tuple(came), 1.0, chip)
        for each in (done, known):
            missed = sum(x.late for x in each)
            assert min(best[: missed + 1]) <= sum(x.joules for x in each) + 1e-9
            late += missed > next(n for n, least in enumerate(best) if least < math.inf)
    assert late


class Governor:
    """The chip once more, as one machine among events: queues are simpy's, levels and loop are asked of the chip."""

    def __init__(self, legs, rests, deadline, chip, loop):
        self.legs_, self.rests, self.deadline, self.chip, self.loop = legs, rests, deadline, chip, loop
        self.level, self.c, self.left, self.joules, self.came = chip.highest, 0.0, [], [], []

    def plan(self, sample, now):
        return now

    def legs(self, sample, begun):
        now, due, joules = begun, self.came[sample] + self.deadline, 0.0
        for number, (W, R) in enumerate(zip(self.legs_[sample], self.rests[sample], strict=True)):
            wanted = (
                self.chip.governed(W, due - now, self.c, R) if number else self.chip.begun(W + R, due - now, self.c)
            )
            took, used = self.chip.ran(W, wanted, self.level)
            now, joules, self.level = now + took, joules + used, wanted
        self.joules.append(joules)
        yield Leg(now - begun, 0, True, 0)  # of a computer that does one in a second

    def learn(self, sample, journey):
        self.left.append((journey.came + self.deadline - journey.answered) / self.deadline)
        self.c = self.loop.corrected(self.c, np.mean(self.left) - self.loop.target, 0.0)


@pytest.mark.parametrize("levels", [1, 3])
def test_both_clocks_say_the_same_of_the_chips_queue(levels):
    """Inferences that wait for each other, one after the other as here, and as events of one machine."""
    rng = np.random.default_rng(5)
    chip = CHIP._replace(levels=CHIP.levels[-levels:], switch_seconds=0.01, switch_joules=0.3)
    legs = [rng.uniform(1, 12, rng.integers(1, 4)).tolist() for _ in range(60)]
    rests = [[sum(own[k + 1 :]) for k in range(len(own))] for own in legs]
    came, loop = np.cumsum(rng.exponential(0.8, 60)).tolist(), Loop(0.5, 0.0, 0.3, 60)
    ours = managed(legs, came, 1.0, chip, loop, rests=rests)
    governor = Governor(legs, rests, 1.0, chip, loop)
    governor.came = came
    theirs = stream(World((Computer(steady(1.0)),), ()), governor, governor, came)
    assert [each.left for each in ours] == pytest.approx(governor.left, abs=1e-9)
    assert [each.joules for each in ours] == pytest.approx(governor.joules)
    waited = [journey.begun > journey.came for journey in theirs]
    assert 0 < sum(waited) < len(waited)
    assert 0 < sum(each.late for each in ours) < len(ours)
    assert (len({round(each.c, 6) for each in ours}) > 10) is (levels > 1)  # so much time is left at the highest


def test_images_wait_for_those_before_them_and_are_due_from_when_they_came():
    """The first is busy until 1; the second has half a second left then, and its second leg needs the highest level."""
    first, second = managed([[20.0, 10.0], [10.0, 10.0]], [0.0, 0.5], 1.0, CHIP, STILL)
    assert first.joules == pytest.approx(2 * 20 + 2 * 0.64 * 10)
    assert second.joules == pytest.approx(2 * 10 + 2 * 10)
    apart = managed([[20.0, 10.0], [10.0, 10.0]], [0.0, 9.0], 1.0, CHIP, STILL)[1]
    assert apart.joules == pytest.approx(2 * 10 + 2 * 0.64 * 10)


def test_a_change_of_level_costs_time_and_energy_and_staying_does_not():
    chip = CHIP._replace(switch_seconds=0.25, switch_joules=7.0)
    down, again = managed([[10.0, 5.0], [10.0]], [0.0, 9.0], 1.0, chip, STILL)
    assert down.joules == pytest.approx(2 * 10 + 7 + 2 * 0.25 * 5)  # 5 in 1/2 s: 10 Hz; done after 1 s
    assert not down.late
    assert again.joules == pytest.approx(7 + 2 * 10)  # up again
    same = managed([[10.0], [10.0]], [0.0, 9.0], 1.0, chip, STILL)
    assert [done.joules for done in same] == [20.0, 20.0]


def test_with_forecasts_that_are_right_feasible_deadlines_are_kept_at_no_higher_level_than_necessary():
    rng = np.random.default_rng(0)
    for _ in range(200):
        legs, deadline = [rng.uniform(1, 20), rng.uniform(1, 40)], rng.uniform(0.5, 3)
        (done,) = managed([legs], [0.0], deadline, CHIP, STILL)
        begun = legs[0] / 40
        assert done.late == (begun + legs[1] / 40 > deadline)
        kept = [level for level in CHIP.levels if begun + legs[1] / level.hertz <= deadline]
        lowest = kept[0] if kept else CHIP.highest
        assert done.joules == pytest.approx(CHIP.joules(legs[0], CHIP.highest) + CHIP.joules(legs[1], lowest))


def test_more_time_never_takes_more_energy():
    legs = [[10.0, 12.0, 7.0]]
    found = [managed(legs, [0.0], deadline, CHIP, STILL)[0].joules for deadline in np.linspace(0.3, 5, 60)]
    assert all(a >= b - 1e-9 for a, b in pairwise(found))
    assert found[0] > found[-1]


# The loop.


def test_the_loop_by_hand():
    """Time left as a share of the deadline: 1/2, then 1/4; the mean of both is 3/8. Then 3/4, of which c comes back."""
    loop = Loop(0.4, 0.2, 0.625, 2)
    done = managed([[20.0], [30.0], [30.0], [10.0]], [0.0, 9.0, 20.0, 30.0], 1.0, CHIP, loop)
    e = [0.5 - 0.625, 0.375 - 0.625, 0.25 - 0.625, 0.5 - 0.625]
    c = [0.4 * e[0] + 0.2 * e[0]]
    c.append(c[0] + 0.4 * e[1] + 0.2 * (e[0] + e[1]))
    c.append(c[1] + 0.4 * e[2] + 0.2 * sum(e[:3]))
    c.append(c[2] + 0.4 * e[3] + 0.2 * sum(e))
    assert [each.c for each in done] == pytest.approx(c)
    assert min(c) > -1


def test_the_clock_comes_down_again_but_time_left_before_is_no_credit():
    """A leg of 30 leaves 1/4 of the deadline, one of 5 leaves 7/8; the target is 1/2 of each alone, e -1/4 and 3/8."""
    loop = Loop(0.4, 0.2, 0.5, 1)
    done = managed([[5.0]] * 9 + [[30.0]] + [[5.0]] * 2, [9.0 * i for i in range(12)], 1.0, CHIP, loop)
    assert [each.c for each in done[:9]] == [0.0] * 9
    assert done[9].c == pytest.approx((0.4 + 0.2) * -0.25)  # however much was left before
    assert done[10].c == pytest.approx(min(0.0, done[9].c + 0.4 * 0.375 + 0.2 * 0.0))
    assert done[11].c == 0.0


def test_gains_of_zero_correct_nothing():
    done = managed([[20.0, 5.0]] * 30, [float(i) for i in range(30)], 1.0, CHIP, STILL)
    assert {each.c for each in done} == {0.0}


def test_answers_that_are_late_raise_the_clock_and_time_that_is_left_lowers_it():
    loop = Loop(0.1, 0.01, 0.1, 10)
    came = [float(i) for i in range(40)]
    assert managed([[80.0]] * 40, came, 1.0, CHIP, loop)[-1].c == -1.0
    assert managed([[1.0]] * 40, came, 1.0, CHIP, loop)[-1].c == 0.0  # and not lower than forecasts allow
    assert managed([[80.0]] * 200 + [[1.0]] * 60, [9.0 * i for i in range(260)], 1.0, CHIP, loop)[-1].c == 0.0


def test_the_loop_acts_on_later_legs():
    """A quarter of the deadline is left at first, where a half is to be; so later images get a clock that is faster."""
    loop, came = Loop(3.0, 0.0, 0.5, 1), [9.0 * i for i in range(5)]
    one, *more = managed([[10.0, 10.0]] * 5, came, 1.0, CHIP, loop)
    still = managed([[10.0, 10.0]] * 5, came, 1.0, CHIP, STILL)[-1]
    assert one.joules == still.joules
    assert more[0].joules == pytest.approx(2 * 10 + 2 * 10)
    assert still.joules == pytest.approx(2 * 10 + 2 * 0.64 * 10)
    assert one.c == pytest.approx(3 * (0.25 - 0.5))


def test_no_correction_makes_a_wrong_forecast_late():
    """However much time was left before."""
    legs, rests = [[10.0, 10.0, 30.0]] * 200, [[40.0, 30.0, 0.0]] * 200
    legs[:199] = [[10.0]] * 199
    for loop in (Loop(0.1, 0.01, 0.1, 10), Loop(0.5, 0.0, 0.0, 1)):
        assert not managed(legs, [9.0 * i for i in range(200)], 2.0, CHIP, loop, rests=rests)[-1].late


# Legs.


def test_legs_add_up_to_what_is_paid(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    for beta in (0.0, 0.9, 1.2, math.inf):
        policy = method.rule(beta, ready)
        course = followed(policy, seen.outputs)
        legs = legs_of(seen, course)
        assert [sum(own) for own in legs] == pytest.approx(seen.paid(policy).tolist())
        assert [len(own) for own in legs] == course.visited.sum(dim=0).tolist()
        assert min(min(own) for own in legs) > 0


def test_legs_are_what_is_executed(prepared):
    """Counted from outside, exit by exit: heads that forecasts pass over are not in them."""
    method, _, ready = prepared(KEY)
    seen, policy = ready.split("test"), method.rule(1.2, ready)
    course = followed(policy, seen.outputs)
    legs = legs_of(seen, course)
    assert len({tuple(row) for row in course.visited.T.tolist()}) > 2
    for n, x in enumerate(seen.examples.inputs[:24]):
        own, found = counted_legs(ready.model, x[None], policy)
        assert own == legs[n]
        with MacCounter() as counter:
            infer(ready.model, x[None], policy)
        assert sum(own) == counter.macs
        assert int(found.exits[0]) == int(course.exits[n])
    assert not any(head._forward_hooks for head in ready.model.heads)


def test_what_is_left_after_a_leg_are_all_layers_and_heads_behind_its_exit(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    course = followed(method.rule(1.2, ready), seen.outputs)
    for n, own in enumerate(rests_of(seen, course)):
        asked = course.visited[:, n].nonzero()[:, 0].tolist()
        assert own == pytest.approx([seen.costs[-1, n] - seen.costs[exit_, n] for exit_ in asked])
    few = rests_of(seen, followed(method.rule(1.2, ready), seen.outputs[:, :5]))
    assert few == rests_of(seen, course)[:5]
    assert rests_of(seen, followed(method.rule(math.inf, ready), seen.outputs))[0][-1] == 0


def test_forecasts_that_fail_are_no_later_than_the_highest_level(prepared):
    """One by one, without queue and loop, nothing that is forecast is late; and time is kept in what is measured."""
    method, _, ready = prepared(KEY)
    seen, chip = ready.split("test"), Chip()
    whole = method.whole(seen)
    course, done = method.forecast(ready, "test", method.rule(1.2, ready))
    legs, rests = legs_of(seen, course), rests_of(seen, course)
    apart = [9.0 * whole * i for i in range(len(legs))]
    assert claimed.late(managed(legs, apart, 1.5 * whole, chip, STILL, rests=rests)) == 0
    assert claimed.late(managed(legs, apart, 1.5 * whole, chip, STILL)) > 0.1
    came = method.came(whole, "test", 0, len(legs))
    assert done == managed(legs, came, 1.5 * whole, chip, method.loop, rests=rests)


# The method.


def test_wiring_of_both_stages(wired):
    model, (first, second) = wired(tiny())
    x, y = torch.stack(first.train.inputs[:12]), first.train.targets[:12]
    with torch.no_grad():
        logits = model(x)
        losses = [F.cross_entropy(each, y).item() for each in logits]
    assert first.loss(first.batch_of(torch.arange(12), x, 0)).item() == pytest.approx(losses[-1], rel=1e-4)
    heads = {id(p) for head in model.heads[:-1] for p in head.parameters()}
    assert not heads & set(first.rates)
    assert set(second.rates) == heads
    assert (first.epochs, second.epochs) == (8.0, 6.0)
    assert set(first.rates.values()) == {1e-2}
    assert set(second.rates.values()) == {2e-2}


def test_thresholds_come_from_training_images(prepared):
    method, _, ready = prepared(KEY)
    z = ready.store(ready.data.train, "train").outputs
    assert ready.fitted == pytest.approx(z[:-1].abs().amax(dim=-1).mean(dim=1).tolist(), rel=1e-4)
    policy = method.rule(1.3, ready)
    assert policy == Forecast(tuple(1.3 * mu for mu in ready.fitted), 4)


def test_what_is_answered_does_not_depend_on_the_chip(prepared):
    """Nor where; with one level it is Predictive Exit."""
    method, bench, ready = prepared(KEY)
    others = method.replace({"governs": False}), method.replace({"arriving": 2.0, "deadline": 0.5, "K_p": 0.0})
    points = [each.sweep(ready, bench, "test", method.knobs) for each in (method, *others)]
    for ours, *rest in zip(*points, strict=True):
        assert [(point.quality, point.exits) for point in rest] == [(ours.quality, ours.exits)] * 2
    seen, highest = ready.split("test"), others[0]
    joules = highest.chip.joules(1.0, highest.chip.highest)
    for point in points[1]:
        spent = seen.paid(method.rule(point.knob, ready)).mean() * joules
        assert point.cost == pytest.approx(1000 * spent)
    assert all(ours.cost <= top.cost for ours, top in zip(*points[:2], strict=True))
    assert points[0][-1].cost < points[1][-1].cost


def test_what_is_executed_takes_what_was_simulated(prepared):
    method, bench, ready = prepared(KEY)
    done = method.execute(ready, bench, 1.2)
    _, simulated = method.forecast(ready, "test", method.rule(1.2, ready))
    assert done.claimed == pytest.approx(1000 * sum(each.joules for each in simulated[: done.samples]))


def test_the_full_model_runs_at_the_highest_level(prepared):
    method, bench, ready = prepared(KEY)
    seen = ready.split("test")
    quality, cost = method.full_model(ready, bench)
    assert cost == pytest.approx(1000 * seen.full_costs.mean() * (4e-9 + 1 / 2.0352e9))
    assert quality == method.score(seen.answers[-1], seen.targets)


def test_fixed_depths_know_all_of_their_work(prepared):
    """So they never run at a higher level than it takes, from the beginning."""
    method, bench, ready = prepared(KEY)
    static, careful, sure, governed = method.baselines(ready, bench)
    names = [each.name for each in (static, careful, sure, governed)]
    assert names == [
        "static exit", "max-confidence", "max-confidence at the highest level", "max-confidence with the governor",
    ]  # fmt: skip
    assert [(point.knob, point.quality) for point in governed.test] == [(p.knob, p.quality) for p in careful.test]
    chip, seen = Chip(), ready.split("test")
    macs = seen.static_costs[:, 0]
    assert [point.knob for point in static.test] == [1, 2, 3, 4, 5]
    assert static.test[0].cost < 1000 * chip.joules(macs[0], chip.highest)
    full = max(sure.test, key=lambda point: point.knob)
    assert full.cost == pytest.approx(1000 * chip.joules(float(seen.costs[-1, 0]), chip.highest))
    assert [point.quality for point in careful.test] == [point.quality for point in sure.test]
    assert careful.test[-1].cost < sure.test[-1].cost
    assert sum(point.cost for point in careful.test) < sum(point.cost for point in sure.test)


def test_without_forecasts_the_chip_reckons_with_the_whole_network(prepared):
    """So nothing is late that need not be, whatever exits stop; and the least threshold spares no level either."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    course, done = method.cautious(ready, "test", MaxConfidence(0.7))
    legs, whole = legs_of(seen, course), method.whole(seen)
    came = method.came(whole, "test", 0, len(legs))
    fastest = Chip(levels=Chip().levels[-1:])
    top = managed(legs, came, 1.5 * whole, fastest, STILL)
    assert claimed.late(done) <= claimed.late(top) + 0.01
    ahead = [[float(seen.costs[-1, n] - (seen.costs[k - 1, n] if k else 0)) for k in range(len(own))]
             for n, own in enumerate(legs)]  # fmt: skip
    assert done == managed(legs, came, 1.5 * whole, Chip(), STILL, ahead=ahead)
    assert {each.c for each in done} == {0.0}


def test_images_come_at_the_pace_of_the_load():
    method = EENet()
    for load in (0.3, 0.9):
        trace = method.replace({"arriving": load}).arrivals(0.2, "test", 0)
        assert trace.mean * 0.2 == pytest.approx(load, rel=0.35)
        assert set(trace.rates) == {load / 0.2 * share for share in (0.4, 1.0, 1.6)}
    worlds = [method.arrivals(0.2, *how).rates for how in (("test", 0), ("test", 1), ("validation", 0), ("test", 0))]
    assert worlds[0] == worlds[3]
    assert worlds[0] != worlds[1]
    assert worlds[0] != worlds[2]


def test_what_is_simulated_is_told(prepared):
    method, bench, ready = prepared(KEY)
    told = method.simulation(ready, bench)
    whole = method.whole(ready.split("test"))
    (rate,) = told.rates
    trace = method.arrivals(whole, "test", bench.seed)
    assert rate.rates == list(trace.rates[: len(rate.rates)])
    assert max(rate.times) < told.seconds == pytest.approx(1000 * whole)
    assert "level 3: 2.04 GHz at 100% of the highest voltage" in told.constants


# The claims.


def curve(costs, qualities):
    points = [
        OperatingPoint(knob=i, quality=q, cost=c, speed_up=10 / c, exits=[1.0])
        for i, (c, q) in enumerate(zip(costs, qualities, strict=True))
    ]
    return SimpleNamespace(validation=points, test=points, full_quality=0.9, full_cost=10.0)


def as_baseline(found, name="x"):
    return Baseline(name=name, validation=found.validation, test=found.test)


def test_energy_is_set_against_each_rival_at_its_own_cheapest_setting():
    ours, plain = curve([2, 3.9, 8], [0.5, 0.895, 0.9]), as_baseline(curve([3, 8], [0.7, 0.9]))
    found = claimed.less_than_plain(ours, plain, 0.02, 0.015)
    assert found.holds
    assert found.measured == (
        "51.2% saved (61.0% of the energy at the highest level), accuracy -0.0050, 2.0% late, the plain network 1.5%; "
        "at beta = 1"
    )
    assert not claimed.less_than_plain(curve([2, 4.1, 8], [0.5, 0.895, 0.9]), plain, 0.02, 0.015).holds
    assert not claimed.less_than_plain(ours, plain, 0.02, 0.005).holds  # more are late
    for cost, holds in ((4.9, True), (4.8, False)):
        rival, fast = as_baseline(curve([1, cost, 9], [0.6, 0.892, 0.9])), as_baseline(curve([7.8], [0.9]))
        governed = as_baseline(curve([0.5, 4.0, 9], [0.6, 0.892, 0.9]))
        found = claimed.less_than_early_exits(ours, rival, fast, governed, 0.02, 0.02)
        assert found.holds == holds, cost
        assert not claimed.less_than_early_exits(ours, rival, fast, governed, 0.04, 0.02).holds
        levels = 4 / cost - 1
        assert found.measured.endswith(
            "its stopping rule is -2.5% beside the largest probability under the same governor, that of its levels "
            f"{levels:+.1%} beside the other's at the same exits"
        )
        assert "(50.0% beside the highest level)" in found.measured
        assert found.not_comparable


@pytest.mark.parametrize(("cost", "late", "holds"), [(4.4, 0.02, True), (4.6, 0.02, False), (4.4, 0.04, False)])
def test_levels_are_judged_at_the_same_threshold(cost, late, holds):
    """Not at the cheapest of the governed rival's own."""
    ours, rival = curve([2, 3.9, 8], [0.5, 0.895, 0.9]), as_baseline(curve([1, 5, 9], [0.6, 0.892, 0.9]))
    governed = as_baseline(curve([0.1, cost, 0.2], [0.6, 0.892, 0.9]))
    assert claimed.less_by_levels_alone(ours, rival, governed, late, 0.02).holds is holds


def test_an_exit_is_forecast_from_images_that_were_as_sure():
    """At 0.9 the first image stops at once. The others are told apart by how sure exit 0 was: the least sure go on."""
    sure = np.array([[0.95, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8], [0.9, *[0.2] * 4, *[0.9] * 4], [0.5] * 9])
    found = Outlook.of(sure, 0.9)
    assert found.exits.tolist() == [[2, 2, 1, 1], [2, 2, 2, 2]]
    assert found.foretold(np.array([[0.15, 0.78], [0.2, 0.2], [0.5, 0.5]])).tolist() == [[2, 1], [2, 2]]
    assert Outlook.of(sure, 0.0).exits.tolist() == [[2] * 4] * 2  # nobody goes on
    assert Outlook.of(sure, 1.1).exits.tolist() == [[2] * 4] * 2


def test_a_forecast_may_reach_beyond_the_next_exit_that_is_asked():
    """1/4 s is gone after 10; 20 are expected in the 3/4 s that are left: 40 Hz, not the 20 that 10 would take."""
    (done,) = managed([[10.0, 10.0]], [0.0], 1.0, CHIP, STILL, rests=[[20.0, 0.0]], expected=[[10.0, 20.0]])
    assert done.joules == pytest.approx(2 * 20)
    (alone,) = managed([[10.0, 10.0]], [0.0], 1.0, CHIP, STILL, rests=[[20.0, 0.0]], expected=[[10.0, 10.0]])
    assert alone.joules == pytest.approx(2 * 10 + 2 * 0.64 * 10)


def test_under_the_governor_the_same_work_is_done_and_time_is_kept(prepared):
    method, _, ready = prepared(KEY)
    seen, asked = ready.split("test"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EENet, "run", lambda self, legs, *given, **how: asked.append((legs, how)) or [])
        course, _ = method.levelled(ready, "test", 0.7, method.before(ready))
    assert torch.equal(course.exits, method.cautious(ready, "test", MaxConfidence(0.7))[0].exits)
    ((legs, how),) = asked
    assert any(len(own) > 2 for own in legs)
    for n, (own, expected, rests) in enumerate(zip(legs, how["expected"], how["rests"], strict=True)):
        assert len(own) == len(expected) == len(rests)
        for k, (w, r) in enumerate(zip(expected, rests, strict=True)):
            assert sum(own[:k]) + w + r == pytest.approx(seen.costs[-1, n])
            assert w >= own[k] - 1e-6


def test_energy_above_the_best_levels_is_drawn_by_load_and_what_is_late_beside_it(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "QUEUES", 2)
    found = method.sweep(ready, bench, "test", [0.0, 1.2, math.inf])
    measured = SimpleNamespace(validation=found, test=found)
    energy, late = claimed.learning(method, ready, bench, measured)
    assert [line.rule for line in energy.lines] == ["EENet", "the highest level"]
    assert [line.rule for line in late.lines] == [
        "EENet", "the highest level", "the levels that make the fewest late",
    ]  # fmt: skip
    beta = claimed.cheapest_within(found, found, claimed.POINT).knob
    for line, missed in zip(energy.lines, late.lines, strict=False):
        way = method.replace({"governs": line.rule == "EENet"})
        queues = [claimed.queued(way.replace({"arriving": x}), ready, beta) for x in line.times]
        assert line.values == [100 * each.more for each in queues]
        assert missed.values == [100 * each.late[0] / 6 for each in queues]
        assert late.lines[2].values == [100 * each.late[1] / 6 for each in queues]
    assert claimed.learning(method.replace({"governs": False}), ready, bench, measured) == []


def test_who_lets_all_be_late_takes_no_less_than_the_best_levels_that_may_too(prepared, monkeypatch):
    """The lowest level for everything: at levels that make fewer late it would look better than the best."""
    method, _, ready = prepared(KEY)

    def lowest(legs, came, deadline, chip, loop, *, rests):
        low, level, done = chip.levels[0], chip.highest, []
        for own in legs:
            done.append(Done(sum(chip.joules(W, low) for W in own) + (level != low) * chip.switch_joules, -1.0, 0.0))
            level = low
        return done

    monkeypatch.setattr(claimed, "managed", lowest)
    found = claimed.queued(method.replace({"arriving": 1.5}), ready, 1.2)
    assert found.more == pytest.approx(0.0, abs=1e-9)
    assert found.late[0] == 3 * found.tried > found.late[1]


def test_a_rival_may_lose_a_point_of_what_the_method_reaches_not_of_its_own_best():
    ours, rival = curve([2, 8], [0.5, 0.9]), as_baseline(curve([1, 5, 9], [0.6, 0.885, 0.891]))
    assert claimed.cheapest_of(rival, ours).cost == 9
    assert claimed.cheapest_of(rival, curve([2, 8], [0.5, 0.89])).cost == 5


def test_fixed_depths_are_rivals_at_equal_energy():
    ours = curve([2, 4, 8], [0.5, 0.85, 0.9])
    for quality, holds in ((0.84, True), (0.852, False)):
        rival = curve([2, 4], [0.49, quality])
        fixed = Baseline(name="static exit", validation=rival.validation, test=rival.test)
        assert claimed.better_than_fixed(ours, fixed).holds == holds


def test_claims_can_be_tried(prepared, curves_of):
    for variant in ("managed", "without feedback", "highest level"):
        method, bench, ready = prepared(KEY, variant)
        names = [outcome.name for outcome in claimed.claims(method, ready, bench, curves_of(method, ready, bench))]
        assert names == (
            [
                "less energy than the plain network",
                "less energy than early exits without forecasts",
                "less energy by levels alone",
                "better than a fixed depth on the same chip",
                "near the best levels",
                "the loop keeps deadlines",
            ]
            if variant == "managed"
            else []
        )


@pytest.fixture
def curves_of():
    from eelit.methods.harness import runner

    return lambda method, ready, bench: runner.measure(method, ready, bench, "", [0.0, 1.2, math.inf])


def test_the_heaviest_load_is_the_last_at_which_the_highest_level_is_in_time(monkeypatch):
    """What is late at a lighter load ends the search, whatever a heavier one would be."""
    lateness, asked = {0.3: 0.0, 0.31: 0.01, 0.32: 0.011, 0.33: 0.0}, []

    def run(self, legs, whole, split, seed):
        asked.append((self.governs, legs, whole, split, seed))
        return [SimpleNamespace(late=lateness[self.arriving])]

    monkeypatch.setattr(EENet, "run", run)
    assert claimed.heaviest(EENet(), [[7.0]], 0.2, 5) == 0.31
    assert asked == [(False, [[7.0]], 0.2, "validation", 5)] * 3
    lateness[0.3] = 0.5
    assert claimed.heaviest(EENet(), [[7.0]], 0.2, 5) == 0.3


def test_the_loop_is_tried_at_the_heaviest_loads_of_the_plain_network_and_of_its_exits(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    held, seen = ready.split("validation"), ready.split("test")
    policy, asked, runs = method.rule(1.2, ready), [], []

    def heaviest(own, legs, whole, seed):
        asked.append((legs, whole, seed))
        return 0.8 if len(asked) == 1 else 0.5

    def run(self, legs, whole, split, seed, *, rests):
        runs.append((self.arriving, self.K_p, self.K_i, self.governs, split, legs, rests))
        return [SimpleNamespace(late=self.arriving, joules=2.0 - bool(self.K_p) - self.governs * 0.5)]

    monkeypatch.setattr(claimed, "heaviest", heaviest)
    monkeypatch.setattr(EENet, "run", run)
    found = claimed.deadlines(method, ready, 1.2)
    exits = legs_of(held, followed(policy, held.outputs))
    assert asked == [([[macs] for macs in held.static_costs[-1].tolist()], method.whole(held), 0),
                     (exits, method.whole(held), 0)]  # fmt: skip
    assert sum(map(len, exits)) > len(exits)
    course = followed(policy, seen.outputs)
    legs, rests = legs_of(seen, course), rests_of(seen, course)
    gains = method.K_p, method.K_i
    ways = [(*gains, True), (0.0, 0.0, True), (*gains, False)]
    assert runs == [(load, *way, "test", legs, rests) for load in (0.5, 0.8) for way in ways]
    assert found.measured.startswith("load 0.5: 50.0% late, 50.0% without, 50.0% at the highest level (500, 1500 and ")


@pytest.mark.parametrize(
    ("ours", "without", "top", "spent", "holds"),
    [(0.2, 0.3, 0.1, 9.0, True), (0.21, 0.3, 0.1, 9.0, False), (0.2, 0.3, 0.1, 10.0, False),
     (0.01, 0.0, 0.0, 9.0, True), (0.011, 0.0, 0.0, 9.0, False), (0.3, 0.3, 0.3, 9.0, True)],
)  # fmt: skip
def test_the_loop_must_take_away_half_of_what_need_not_be_late(ours, without, top, spent, holds):
    one = claimed.Tried(0.5, (ours, without, top), (spent, 8.0, 10.0))
    assert claimed.corrected([one]).holds == holds


def test_lateness_and_energy_are_means_over_the_loads():
    both = [claimed.Tried(0.5, (0.0, 0.0, 0.0), (9.0, 8.0, 10.0)), claimed.Tried(0.6, (0.2, 0.5, 0.0), (9, 8, 10))]
    assert claimed.corrected(both).holds
    assert not claimed.corrected([both[0], claimed.Tried(0.6, (0.3, 0.5, 0.0), (9, 8, 10))]).holds
    assert claimed.corrected([both[0], claimed.Tried(0.6, (0.2, 0.5, 0.0), (10.5, 8, 10))]).holds


def test_queues_are_set_beside_the_best_levels(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "QUEUES", 4)
    queues = []

    def recorded(legs, *given, rests):
        queues.append((legs, rests))
        return managed(legs, *given, rests=rests)

    monkeypatch.setattr(claimed, "managed", recorded)
    found = claimed.near_oracle(method, ready, 1.2)
    more, ours, answers, theirs = re.fullmatch(
        r"([+-][\d.]+)% in 4 queues; (\d+) of (\d+) answers late, at least (\d+) at any levels", found.measured
    ).groups()
    assert int(ours) >= int(theirs)
    assert answers == "12"
    seen = ready.split("test")
    course = followed(method.rule(1.2, ready), seen.outputs)
    left = dict(zip(map(str, legs_of(seen, course)), rests_of(seen, course), strict=True))
    assert [left[str(own)] for legs, _ in queues for own in legs] == [own for _, rests in queues for own in rests]
    assert len(queues) == 4
    assert found.holds == (float(more) <= 25 and int(ours) == int(theirs))
    monkeypatch.setattr(claimed, "MOST_LEGS", 0)
    assert not claimed.near_oracle(method, ready, 1.2).holds
