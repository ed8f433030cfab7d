"""What only SEE promises: plans that no other beats, in order of arrival, one frame at a time."""

from itertools import pairwise, permutations
from math import exp, inf

import numpy as np
import pytest
from wiring import check_joint_training

from eelit.methods.claims import wang2019see as claimed
from eelit.methods.claims.wang2019see import better, exhaustive, fading, gains, optimal
from eelit.methods.families.on_device import Served
from eelit.methods.harness import registry
from eelit.methods.papers.wang2019see import (
    DROPPED,
    Known,
    Planned,
    Punctual,
    always,
    greedy,
    schedule,
    unbeaten,
    utility,
    whole,
)
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
    method = registry.get(KEY).replace({"cameras": 3, "deadline": 1.5, "interval": 0.5})
    came, deadline = method.arrivals((10, 20, 50), 7)
    assert came == [0, 0, 0, 90, 90, 90, 180]
    assert deadline == 135
    assert method.replace({"interval": 0.0}).arrivals((10, 20, 50), 4)[0] == [0, 0, 0, 30]
    assert method.replace({"interval": 1.0}).arrivals((10, 20, 50), 4)[0] == [0, 0, 0, 150]


@pytest.mark.parametrize("bad", [{"cameras": 0}, {"deadline": 0.0}, {"interval": -0.1}, {"interval": 1.1},
                                 {"deadline": np.nan}])  # fmt: skip
def test_what_makes_no_stream_is_refused(bad):
    with pytest.raises(ValueError, match="at least"):
        registry.get(KEY).replace(bad)


@pytest.mark.parametrize("interval", [0.2, 0.4])
@pytest.mark.parametrize("w", [0.0, 0.05])
def test_frames_are_served_as_planned_in_order_and_in_time(prepared, interval, w):
    method, _, ready = prepared(KEY)
    method = method.replace({"interval": interval})
    known, frames = ready.fitted, len(ready.split("test").examples)
    planned = method.scheduler(ready, w, frames)
    told = method.served(ready, "test", planned)
    came, deadline = method.arrivals(known.times, frames)
    assert list(planned.exits) == schedule(came, known.times, utility(known.accuracy, deadline, w))[0]
    assert [each.exit for each in told] == list(planned.exits)
    kept = [each for each in told if each.exit != DROPPED]
    assert all(one.answered <= two.begun + 1e-9 for one, two in pairwise(kept))
    assert all(each.begun >= each.came for each in kept)
    assert max(each.delay for each in kept) <= deadline / method.speed * (1 + 1e-9)
    assert [each.came for each in told] == pytest.approx([a / method.speed for a in came])
    assert [each.macs for each in kept] == [known.times[each.exit] for each in kept]
    assert len({each.exit for each in kept}) > 1


def test_late_answers_are_wrong_in_all_rows(prepared):
    """At 0.4 two frames of four fit through the whole network: of those that all take it nearly none is in time."""
    method, bench, ready = prepared(KEY)
    seen = ready.split("test")
    due = method.arrivals(ready.fitted.times, 0)[1] / method.speed
    times = [Served(i, 1.0, 1.0, 1.0 + due * (1.01 if i % 2 else 0.99), 0, 0.9, 1.0) for i in range(len(seen.examples))]
    right = (seen.answers[0].argmax(dim=-1) == seen.targets).numpy()
    assert method.point(ready, "test", times, 0.0).quality == pytest.approx(right[::2].sum() / len(right))
    quality, cost = method.full_model(ready, bench)
    *inner, never = method.sweep(ready, bench, "test", method.knobs)
    assert quality == never.quality < 0.05
    assert cost == never.cost == pytest.approx(1000 * ready.fitted.times[-1] / method.speed)
    for baseline in method.baselines(ready, bench):
        assert {point.knob for point in baseline.test} == {point.knob for point in baseline.validation}
        assert max(point.quality for point in baseline.test) <= max(point.quality for point in inner) + 0.03
    assert method.each_exit(ready, bench)[0][-1].quality < 0.5
    assert method.quality == "accuracy in time"


def test_one_load_lies_behind_a_curve(prepared):
    """Whatever the knob, the same frames come at the same seconds, with the same deadline."""
    method, _, ready = prepared(KEY)
    frames = len(ready.split("test").examples)
    came = [
        [each.came for each in method.served(ready, "test", method.scheduler(ready, w, frames))] for w in method.knobs
    ]
    assert all(each == came[0] for each in came)
    assert len(set(came[0])) == frames / 4


def test_a_confident_exit_that_is_in_time():
    """Exits take 1, 2 and 4 seconds, those before them asked; frame 0 is due at 10, frame 1 at 3.5, frame 2 at 0.5."""
    sure = Punctual(0.9, [10.0, 3.5, 0.5], [1.0, 2.0, 4.0])
    assert sure.first(0, 0.0) == 0
    assert (sure.then(0, 0.5, 1.0), sure.then(1, 0.5, 2.0), sure.then(2, 0.5, 4.0)) == (1, 2, None)
    assert sure.then(0, 0.9, 1.0) is None
    assert sure.first(1, 0.0) == 0
    assert (sure.then(0, 0.5, 1.0), sure.then(1, 0.5, 2.0)) == (1, None)
    assert sure.first(1, 2.0) == 0
    assert sure.then(0, 0.5, 1.0) is None
    assert sure.first(2, 0.0) is None
    assert sure.learn(Served(0, 0.0, 0.0, 1.0, 0, 0.5, 1.0)) is None


def test_the_confident_rule_is_never_late(prepared):
    method, _, ready = prepared(KEY)
    frames = len(ready.split("test").examples)
    for threshold in (0.5, 1.1):
        told = method.served(ready, "test", method.sure(ready, threshold, frames))
        assert (method.counted(ready, told) == [each.exit != DROPPED for each in told]).all()


def test_one_exit_or_nothing():
    assert always(0)([0, 0, 0], [2, 3], 4) == [0, 0, DROPPED]
    assert always(1)([0, 0, 0], [2, 3], 4) == whole([0, 0, 0], [2, 3], 4) == [1, DROPPED, DROPPED]


def test_times_and_accuracies_are_counted_on_frames_that_choose_nothing(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("fitting")
    assert ready.fitted.times == tuple(int(p) for p in seen.static_costs[:, 0])
    right = [(said.argmax(-1) == seen.targets).double().mean().item() for said in seen.answers]
    assert ready.fitted.accuracy == pytest.approx(right)
    assert len(seen.examples) < len(ready.split("validation").examples)


def test_at_the_ends_nothing_is_planned(prepared):
    method, _, ready = prepared(KEY)
    assert method.scheduler(ready, inf, 3).exits == [0, 0, 0]
    assert method.scheduler(ready, -1.0, 3).exits == [2, 2, 2]
    assert Planned([DROPPED, 1]).first(0, 0.0) is None


def test_benchmarks_meet_the_same_frames(prepared):
    method, bench, ready = prepared(KEY)
    every = {base.name: base for base in method.baselines(ready, bench)}
    assert list(every) == ["static exit", "max-confidence", "full network or dropped", "greedy"]
    (full,), (each,) = every["full network or dropped"].test, every["greedy"].test
    assert full.exits[:2] == [0.0, 0.0]
    assert 0 < full.exits[2] < 1
    assert (full.quality, full.cost) == (every["static exit"].test[-1].quality, every["static exit"].test[-1].cost)
    assert each != every["greedy"].validation[0]
    assert sum(each.exits) == 1


def test_what_frames_meet_is_told(prepared):
    method, bench, ready = prepared(KEY)
    came, deadline = method.arrivals(ready.fitted.times, 5)
    told = method.simulation(ready, bench)
    assert told.rates == []
    assert told.constants[1:3] == [
        f"4 frames come at once, every {1000 * came[4] / method.speed:.4g} ms",
        f"an answer is due {1000 * deadline / method.speed:.4g} ms after its frame came",
    ]


def test_a_price_on_delay_makes_for_sooner_answers(prepared):
    method, _, ready = prepared(KEY)
    frames = len(ready.split("test").examples)
    delays = []
    for w in (0.0, 0.05, 0.5):
        told = method.served(ready, "test", method.scheduler(ready, w, frames))
        delays.append(np.mean([frame.delay for frame in told if frame.exit != DROPPED]))
    assert delays[0] > delays[1] > delays[2]


def test_the_network_learns_all_exits_together(stages):
    method = registry.get(KEY).variant("", "tiny")
    (stage,) = stages(method)
    check_joint_training(method, stage)


# The claims.


def test_small_problems_are_told_as_they_come_out(monkeypatch):
    known = Known((10, 26, 50), (0.5, 0.7, 0.8))
    found = optimal(known, 0)
    assert found.holds
    assert int(found.measured.rpartition(" ")[2]) > 0  # of another utility the order of frames does not hold
    monkeypatch.setattr(claimed, "schedule", lambda *_: ([], 0.0))
    assert not optimal(known, 0).holds


def test_a_utility_that_fades_is_not_one_of_the_method_s():
    gain = fading([0.5, 0.8], 4)
    assert gain(1, 4) == pytest.approx(0.8 * exp(-1))
    assert gain(0, 0) - gain(0, 1) > gain(0, 1) - gain(0, 2)


def test_gains_are_over_the_better_benchmark_at_each_load(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "INTERVALS", (0.2, 0.6))
    found = gains(method, ready, "test")
    for interval, gain in zip((0.2, 0.6), found, strict=True):
        way = method.replace({"interval": interval})
        best = max(way.benchmark(ready, "test", rule).quality for rule in (whole, greedy))
        ours = way.sweep(ready, None, "test", [0.0])[0].quality
        assert gain == pytest.approx(ours / best - 1)
    assert found[0] != found[1]


@pytest.mark.parametrize(("at_best", "holds"), [(0.51, True), (0.5, False)])
def test_half_as_much_again_where_validation_data_say(at_best, holds, monkeypatch):
    monkeypatch.setattr(claimed, "INTERVALS", (0.3, 0.6))
    assert better([0.2, 0.6], [0.9, at_best])[0].holds is holds


@pytest.mark.parametrize(("one", "other", "holds"), [(0.1, 0.11, True), (0.1, 0.09, False), (0.9, -0.03, False)])
def test_a_tenth_more_on_average(one, other, holds, monkeypatch):
    monkeypatch.setattr(claimed, "INTERVALS", (0.3, 0.6))
    assert better([one, other], [one, other])[1].holds is holds


def test_one_exit_for_all_is_chosen_for_each_load_on_validation_frames(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "INTERVALS", (0.1, 0.9))
    rules, chosen = [always(e) for e in range(3)], []
    expected = []
    for interval in (0.1, 0.9):
        way = method.replace({"interval": interval})
        held, test = ([way.benchmark(ready, split, rule).quality for rule in rules] for split in ("validation", "test"))
        chosen.append(max(range(3), key=held.__getitem__))
        expected.append(way.sweep(ready, None, "test", [0.0])[0].quality - test[chosen[-1]])
    assert claimed.over_one_exit(method, ready) == pytest.approx(expected)
    assert chosen[0] < chosen[1]  # the more time there is, the later


@pytest.mark.parametrize(("one", "other", "holds"), [(0.02, 0.0, True), (0.02, -0.001, False), (0.05, -0.011, False)])
def test_one_exit_for_all_must_be_beaten_by_a_point(one, other, holds, monkeypatch):
    monkeypatch.setattr(claimed, "INTERVALS", (0.3, 0.6))
    assert claimed.better_than_one_exit([one, other]).holds is holds


def test_what_is_dropped_teaches_nothing():
    planned = Planned([0])
    assert planned.then(0, 0.1, 1.0) is None
    assert planned.learn(Served(0, 0.0, 0.0, 1.0, 0, 0.5, 1.0)) is None


# What was lost over time.


def test_the_best_plan_in_hindsight_is_the_best_of_all_orders_and_exits():
    """Which exits are right is known of each frame, and may be none; all plans are tried, in any order."""
    random, several = np.random.default_rng(3), 0
    for came, times, _, deadline in problems(40, seed=3, frames=4):
        right = random.random((len(times), len(came))) < 0.6
        needed = [min((p for p, yes in zip(times, row, strict=True) if yes), default=inf) for row in right.T]
        found = claimed.hindsight(came, needed, deadline)
        best = 0
        for order in (each for size in range(5) for each in permutations(range(4), size)):
            free, answered = 0, 0
            for frame in order:
                free = max(free, came[frame]) + needed[frame]
                answered += free <= came[frame] + deadline
            best = max(best, answered)
        assert found.sum() == best
        free = 0
        for a, p in ((came[k], needed[k]) for k in range(4) if found[k]):  # those named really fit, one after the other
            free = max(free, a) + p
            assert free <= a + deadline
        several += 0 < best < 4
    assert several > 10


def test_chance_takes_only_exits_that_are_in_time():
    found = claimed.drawn(0)([0] * 300, [2, 3], 3)
    assert found[1:] == [DROPPED] * 299
    alone = claimed.drawn(0)([9 * k for k in range(300)], [2, 3, 7], 4)
    assert set(alone) == {0, 1}
    assert 120 < sum(alone) < 180
    assert claimed.drawn(1)([9 * k for k in range(300)], [2, 3, 7], 4) != alone


def test_what_is_lost_over_time_is_what_was_not_right_in_time(prepared):
    """At the end a rule has lost the frames that the best plan has more; its accuracy in time says so as well."""
    method, bench, ready = prepared(KEY)
    (shown,) = claimed.learning(method, ready, bench, None)
    seen = ready.split("test")
    frames, times = len(seen.examples), ready.fitted.times
    came, deadline = method.arrivals(times, frames)
    right = (seen.answers.argmax(dim=-1) == seen.targets).tolist()
    needed = [min((p for p, row in zip(times, right, strict=True) if row[k]), default=inf) for k in range(frames)]
    best = claimed.hindsight(came, needed, deadline).sum()
    qualities = [
        method.sweep(ready, bench, "test", [0.0])[0].quality,
        *(
            method.benchmark(ready, "test", rule).quality
            for rule in (whole, greedy, claimed.one_exit(method, ready), claimed.drawn(bench.seed))
        ),
    ]
    assert [line.values[-1] for line in shown.lines] == pytest.approx([best - frames * each for each in qualities])
    assert all(line.values[0] == 0 and line.times[-1] == frames for line in shown.lines)
    ours, *others = shown.lines
    assert ours.rule == "SEE"
    assert 0 < ours.values[-1] < min(line.values[-1] for line in others if not line.rule.startswith("one exit"))
    (slower,) = claimed.learning(method.replace({"interval": 0.8}), ready, bench, None)
    assert slower.title.count("0.8") == 1
    assert slower.lines[1].values[-1] != shown.lines[1].values[-1]
