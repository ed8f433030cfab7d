"""What only SEE promises: plans that no other beats, in order of arrival, one frame at a time."""

from itertools import pairwise
from math import exp

import numpy as np
import pytest
from wiring import check_joint_training

from eelit.methods.claims import wang2019see as claimed
from eelit.methods.claims.wang2019see import better, exhaustive, gains, optimal
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.families.on_device import Served
from eelit.methods.harness import registry
from eelit.methods.papers.wang2019see import DROPPED, Known, Planned, greedy, schedule, unbeaten, utility, whole
from eelit.methods.papers.wang2019see import State as S

KEY = "wang2019see"


def problems(count, seed=0, frames=5, exits=3):
    """Random small problems: arrivals, times, accuracies, deadline."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        times = np.cumsum(random.integers(1, 5, exits)).tolist()
        accuracy = np.sort(random.random(exits)).tolist()
        yield np.sort(random.integers(0, 10, frames)).tolist(), times, accuracy, int(random.integers(1, 16))


def value(came, times, gain, exits):
    return sum(claimed.worth(came, times, gain, exits, [k for k, e in enumerate(exits) if e != DROPPED]))


# The plan.


def test_the_worked_case():
    """Greedy: exit 2 for the first frame, the second would be late. The plan: exit 1 for both."""
    came, times, gain = [0, 1], [2, 3], utility([0.6, 0.9], 3, 0.0)
    assert greedy(came, times, 3) == [1, DROPPED]
    assert whole(came, times, 3) == [1, DROPPED]
    assert schedule(came, times, gain) == ([0, 0], pytest.approx(1.2))


@pytest.mark.parametrize("price", [0.0, 0.3])
def test_no_plan_in_any_order_is_worth_more(price):
    for came, times, accuracy, deadline in problems(12, frames=4):
        gain = utility(accuracy, deadline, price)
        exits, total = schedule(came, times, gain)
        assert total == pytest.approx(exhaustive(came, times, gain)[0])
        assert total == pytest.approx(value(came, times, gain, exits))


def test_a_utility_that_falls_fastest_at_first_wants_frames_swapped():
    """Two frames at once, and one that has just come when the first is done: it is served before the other."""

    def gain(e, delay):
        return exp(-delay / 5)

    best, in_order = exhaustive([0, 0, 4], [5], gain)
    assert best == pytest.approx(exp(-1) + exp(-6 / 5) + exp(-3))
    assert in_order == pytest.approx(exp(-1) + exp(-6 / 5))
    assert schedule([0, 0, 4], [5], gain)[1] == pytest.approx(in_order)


def test_benchmarks_are_worth_no_more_than_the_plan():
    for came, times, accuracy, deadline in problems(100, seed=1, frames=12):
        gain = utility(accuracy, deadline, 0.0)
        total = schedule(came, times, gain)[1]
        for rule in (greedy, whole):
            assert value(came, times, gain, rule(came, times, deadline)) <= total + 1e-9


def test_more_to_choose_from_more_time_or_more_frames_are_never_worth_less():
    for came, times, accuracy, deadline in problems(40, seed=2, frames=6):
        total = schedule(came, times, utility(accuracy, deadline, 0.0))[1]
        assert schedule(came, times, utility(accuracy, deadline + 1, 0.0))[1] >= total - 1e-9
        more = schedule(came, [*times, times[-1] + 1], utility([*accuracy, 1.0], deadline, 0.0))[1]
        assert more >= total - 1e-9
        assert schedule([*came, came[-1] + 2], times, utility(accuracy, deadline, 0.0))[1] >= total - 1e-9


def test_no_frame_is_in_time_before_the_first_exit():
    assert schedule([0, 1, 2], [2, 3], utility([0.6, 0.9], 1, 0.0))[1] == 0.0
    assert greedy([0, 1, 2], [2, 3], 1) == [DROPPED] * 3


def test_where_there_is_time_all_run_the_whole_network():
    came = [0, 4, 8, 12]
    assert schedule(came, [1, 2, 4], utility([0.5, 0.7, 0.9], 4, 0.0))[0] == [2] * 4


def test_a_deadline_is_kept_to_the_last_moment_and_not_beyond():
    gain = utility([0.5], 4, 0.2)
    assert gain(0, 4) == pytest.approx(0.3)
    assert gain(0, 2) == pytest.approx(0.4)
    assert gain(0, 5) == 0.0


def test_what_another_state_beats_in_both_is_forgotten():
    states = [S(3, 1.0, 0, None), S(1, 0.5, 0, None), S(2, 0.5, 1, None), S(3, 2.0, 1, None), S(9, 1.5, 2, None)]
    assert unbeaten(states) == [states[1], states[3]]


def test_frames_that_do_not_wait_are_planned_apart():
    """The plan of two bursts far from each other is that of each."""
    times, gain = [1, 2, 4], utility([0.5, 0.7, 0.9], 6, 0.0)
    one, alone = schedule([0, 0, 0], times, gain)
    both, total = schedule([0, 0, 0, 100, 100, 100], times, gain)
    assert both == one * 2
    assert total == pytest.approx(2 * alone)


# The method.


def test_frames_come_from_all_cameras_at_once():
    method = registry.get(KEY).replace({"cameras": 3, "deadline": 1.5})
    came, deadline = method.arrivals((10, 20, 50), 0.5, 7)
    assert came == [0, 0, 0, 90, 90, 90, 180]
    assert deadline == 135
    assert method.arrivals((10, 20, 50), 0.0, 4)[0] == [0, 0, 0, 30]
    assert method.arrivals((10, 20, 50), 1.0, 4)[0] == [0, 0, 0, 150]


@pytest.mark.parametrize("bad", [{"cameras": 0}, {"deadline": 0.0}, {"price": -0.1}, {"deadline": np.nan}])
def test_what_makes_no_stream_is_refused(bad):
    with pytest.raises(ValueError, match="at least"):
        registry.get(KEY).replace(bad)


def test_frames_are_served_as_planned_in_order_and_in_time(prepared):
    method, _, ready = prepared(KEY)
    known, frames = ready.fitted, len(ready.split("test").examples)
    for knob in (0.2, 0.3, 0.4):
        planned = method.scheduler(ready, knob, frames)
        told = method.served(ready, "test", planned, knob)
        came, deadline = method.arrivals(known.times, knob, frames)
        assert [each.exit for each in told] == list(planned.exits)
        kept = [each for each in told if each.exit != DROPPED]
        assert all(one.answered <= two.begun + 1e-9 for one, two in pairwise(kept))
        assert all(each.begun >= each.came for each in kept)
        assert max(each.delay for each in kept) <= deadline / method.speed * (1 + 1e-9)
        assert [each.came for each in told] == pytest.approx([a / method.speed for a in came])
        assert [each.macs for each in kept] == [known.times[each.exit] for each in kept]
        assert len({each.exit for each in kept}) > 1


def test_times_and_accuracies_are_counted_on_frames_that_choose_nothing(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("fitting")
    assert ready.fitted.times == tuple(int(p) for p in seen.static_costs[:, 0])
    right = [(said.argmax(-1) == seen.targets).double().mean().item() for said in seen.answers]
    assert ready.fitted.accuracy == pytest.approx(right)
    assert len(seen.examples) < len(ready.split("validation").examples)


def test_at_the_ends_nothing_is_planned(prepared):
    method, _, ready = prepared(KEY)
    assert method.scheduler(ready, 0.0, 3).exits == [0, 0, 0]
    assert method.scheduler(ready, 1.0, 3).exits == [2, 2, 2]
    assert Planned([DROPPED, 1]).first(0, 0.0) is None


def test_benchmarks_meet_the_same_frames(prepared):
    method, bench, ready = prepared(KEY)
    names = [base.name for base in method.baselines(ready, bench)]
    assert names == ["static exit", "max-confidence", "full network or dropped", "greedy"]
    full = method.benchmark(ready, "test", whole)
    ours = method.sweep(ready, bench, "test", method.knobs)
    assert [point.knob for point in full] == list(method.knobs)
    assert full[-1] == ours[-1]
    assert full[3].exits[:2] == [0.0, 0.0]
    assert 0 < full[3].exits[2] < 1
    assert method.benchmark(ready, "validation", greedy)[5] != method.benchmark(ready, "test", greedy)[5]


def test_a_price_on_delay_makes_for_sooner_answers(prepared):
    method, _, ready = prepared(KEY)
    prompt = method.replace({"price": 0.5})
    for knob in (0.2, 0.3):
        delays = []
        for each in (method, prompt):
            told = each.served(ready, "test", each.scheduler(ready, knob, len(ready.split("test").examples)), knob)
            delays.append(np.mean([frame.delay for frame in told if frame.exit != DROPPED]))
        assert delays[1] < delays[0]


def test_the_network_learns_all_exits_together(stages):
    method = registry.get(KEY).variant("", "tiny")
    (stage,) = stages(method)
    check_joint_training(method, stage)


# The claims.


def test_small_problems_are_told_as_they_come_out(monkeypatch):
    known = Known((2, 5, 9), (0.5, 0.7, 0.8))
    assert optimal(known, 0).holds
    monkeypatch.setattr(claimed, "schedule", lambda *_: ([], 0.0))
    assert not optimal(known, 0).holds


def point(knob, quality):
    return OperatingPoint(knob=knob, quality=quality, cost=1.0, speed_up=1.0, exits=[1.0])


def test_gains_are_over_the_better_benchmark():
    found = gains(
        [point(0.5, 0.6), point(1.0, 0.4)], [[point(0.5, 0.3), point(1, 0.4)], [point(0.5, 0.4), point(1, 0.1)]]
    )
    assert found == pytest.approx([0.5, 0.0])


@pytest.mark.parametrize(("at_best", "holds"), [(0.51, True), (0.5, False)])
def test_half_as_much_again_where_validation_data_say(at_best, holds):
    held, test = [9.0, 0.2, 0.6, 9.0], [9.0, 0.9, at_best, 9.0]
    assert better(held, test, [0.0, 0.3, 0.6, 1.0])[0].holds is holds


@pytest.mark.parametrize(("one", "other", "holds"), [(0.1, 0.11, True), (0.1, 0.09, False), (0.9, -0.03, False)])
def test_a_tenth_more_on_average(one, other, holds):
    test = [0.0, one, other, 0.0]
    assert better(test, test, [0.0, 0.3, 0.6, 1.0])[1].holds is holds


def test_what_is_dropped_teaches_nothing():
    planned = Planned([0])
    assert planned.then(0, 0.1, 1.0) is None
    assert planned.learn(Served(0, 0.0, 0.0, 1.0, 0, 0.5, 1.0)) is None
