"""The phone by itself: in which order frames are served, what each costs, and that tables say what is really run."""

from typing import ClassVar

import numpy as np
import pytest
import torch

from eelit.methods.engine.costs import MacCounter
from eelit.methods.families.on_device import Confident, Executed, Fixed, Served, Stored, confidence, drive, milliseconds
from eelit.methods.harness import registry
from eelit.methods.world.machines import Computer
from eelit.methods.world.stream import Always, Leg, World, stream
from eelit.methods.world.traces import Trace, steady, wandering

PHONE = Stored(
    np.array([[0.5, 0.9, 0.2], [0.7, 0.95, 0.3], [0.8, 0.6, 0.4]]),
    np.array([[2.0] * 3, [5.0] * 3, [9.0] * 3]),
    np.array([[1.0] * 3, [0.5] * 3, [0.0] * 3]),
)
COMPUTER = Computer(steady(2.0))


def test_a_frame_waits_for_the_phone_and_the_phone_for_a_frame():
    served = drive(Fixed(1), PHONE, COMPUTER, [(0, 0.0), (1, 1.0), (2, 10.0)])
    assert [(each.begun, each.answered) for each in served] == [(0.0, 2.5), (2.5, 5.0), (10.0, 12.5)]
    assert [each.delay for each in served] == [2.5, 4.0, 2.5]
    assert [each.confidence for each in served] == [0.7, 0.95, 0.3]
    assert milliseconds(served) == 2500


def test_a_pause_precedes_each_frame_and_the_horizon_ends_all():
    frames = [(0, 0.0), (1, 0.0), (2, 0.0)]
    served = drive(Fixed(0), PHONE, COMPUTER, frames, pause=3.0, until=8.0)
    assert [(each.begun, each.answered) for each in served] == [(3.0, 4.0), (7.0, 8.0)]
    assert len(drive(Fixed(0), PHONE, COMPUTER, frames, pause=3.0, until=7.9)) == 1


def test_heads_on_the_way_cost_and_stages_run_once():
    """Head 0 costs 1, head 1 a half: 2 + (5 - 1) + (9 - 4.5) up to the last."""
    (one,) = drive(Confident(0.99, 3), PHONE, COMPUTER, [(0, 0.0)])
    assert (one.exit, one.macs, one.answered, one.asked) == (2, 10.5, 5.25, (0, 1, 2))
    two = drive(Confident(0.9, 3), PHONE, COMPUTER, [(1, 0.0), (0, 0.0)])
    assert [(each.exit, each.macs) for each in two] == [(0, 2.0), (2, 10.5)]


class Script(Fixed):
    """Asks one exit, then another."""

    def then(self, exit_, confidence, latency):
        return 1 if exit_ != 1 else None


def test_a_frame_never_goes_back_and_may_pass_exits_over():
    (one,) = drive(Script(0), PHONE, COMPUTER, [(0, 0.0)])
    assert (one.exit, one.macs) == (1, 6.0)
    with pytest.raises(ValueError, match="goes on, not back"):
        drive(Script(2), PHONE, COMPUTER, [(0, 0.0)])


class Job:
    """What one machine does with a frame that `drive` has served: the same work, told event by event."""

    def __init__(self, served):
        self.served = served

    def legs(self, sample, plan):
        yield Leg(self.served[sample].macs, self.served[sample].exit, True, 0)


@pytest.mark.parametrize("usual", [2.0, 20.0])
@pytest.mark.parametrize("scheduler", [Fixed(2), Confident(0.9, 3)])
def test_both_clocks_say_the_same_of_one_computer(scheduler, usual):
    """Frames in a queue before a speed that wanders, and frames that are waited for: this loop, and simpy's events."""
    random = np.random.default_rng(0)
    came = [0.0, 0.0, *np.cumsum(random.exponential(3.0, 60)).tolist()]
    frames = list(enumerate(came))
    costs = random.uniform([[1.0], [4.0], [8.0]], [[3.0], [6.0], [12.0]], (3, 62))
    phone = Stored(random.random((3, 62)), costs, np.repeat([[1.0], [0.5], [0.0]], 62, axis=1))
    computer = Computer(wandering(usual, (0.0, 0.5, 1.0), stay=2.0, seconds=50.0, seed=1))
    ours = drive(scheduler, phone, computer, frames)
    theirs = stream(World((computer,), ()), Job(ours), Always(None), came)
    assert [each.begun for each in ours] == pytest.approx([each.begun for each in theirs], rel=1e-12)
    assert [each.answered for each in ours] == pytest.approx([each.answered for each in theirs], rel=1e-12)
    assert [each.exit for each in ours] == [each.exit for each in theirs]
    waited = [each.begun > each.came for each in ours]
    assert 0 < sum(waited) < len(waited)


class Choosy(Fixed):
    """Drops frame 1, and notes what it is told."""

    told: ClassVar[list[Served]] = []

    def first(self, frame, now):
        return None if frame == 1 else self.exit

    def learn(self, served):
        self.told.append(served)


def test_a_dropped_frame_takes_no_time_and_teaches_nothing():
    choosy = Choosy(0)
    served = drive(choosy, PHONE, COMPUTER, [(0, 0.0), (1, 0.5), (2, 0.6)])
    assert [(each.exit, each.latency, each.macs) for each in served] == [(0, 1.0, 2.0), (-1, 0.0, 0.0), (0, 1.0, 2.0)]
    assert served[2].begun == 1.0
    assert [each.frame for each in choosy.told] == [0, 2]


def test_what_the_phone_does_depends_on_its_speed_at_that_time():
    slowing = Computer(Trace((0.0, 1.0), (2.0, 0.5), 100.0))
    assert [each.latency for each in drive(Fixed(0), PHONE, slowing, [(0, 0.0), (1, 0.0)])] == [1.0, 4.0]


def test_no_confidence_is_had_from_what_is_not_finite():
    logits = torch.tensor([[0.0, 0.0], [1.0, float("nan")], [float("inf"), float("inf")], [0.0, float("-inf")]])
    assert confidence(logits).tolist() == [0.5, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("route", [(0,), (2,), (0, 2), (1, 2), (0, 1, 2)])
def test_tables_say_what_is_run_whatever_exits_are_asked(prepared, route):
    _, _, ready = prepared("ju2021lee")
    seen = ready.split("test")
    stored, phone, after = Stored.of(seen), Executed(ready.model, seen.examples), -1
    for exit_ in route:
        with MacCounter() as counter:
            cost, sure = phone.ask(3, exit_, after)
        known, expected = stored.ask(3, exit_, after)
        assert counter.macs == cost == known
        assert sure == pytest.approx(expected, abs=1e-5)
        assert torch.allclose(phone.answers[3], seen.answers[exit_, 3], atol=1e-4)
        after = exit_


def test_what_is_timed_is_what_frames_asked(prepared, monkeypatch):
    method, _, ready = prepared("ju2021lee")
    examples, asked = ready.split("test").examples.head(2), []
    monkeypatch.setattr(Executed, "_run", lambda self, frame, exit_, after: asked.append((frame, exit_, after)) or 1.0)
    served = [Served(0, 0.0, 0.0, 1.0, 2, 0.9, 1.0, (0, 2)), Served(1, 0.0, 0.0, 0.0, -1, 0.0, 0.0)]
    ours, plain = method.timed(ready, examples, served, 1)
    assert set(asked) == {(0, 0, -1), (0, 2, 0)}
    assert ours > 0
    assert plain > 0


def test_an_execution_that_differs_from_the_tables_is_told(prepared, monkeypatch):
    method, bench, ready = prepared("ju2021lee")
    assert method.execute(ready, bench, 1.0).agrees
    answers = Executed._run

    def other(self, frame, exit_, after):
        sure = answers(self, frame, exit_, after)
        self.answers[frame] = self.answers[frame].roll(1)
        return sure

    monkeypatch.setattr(Executed, "_run", other)
    assert not method.execute(ready, bench, 1.0).agrees


def test_a_dropped_frame_is_answered_wrongly_and_costs_nothing(prepared):
    method, _, ready = prepared("ju2021lee")
    seen = ready.split("test")
    half = [Served(i, 0.0, 0.0, 0.5, 0 if i % 2 else -1, 1.0, 1.0) for i in range(len(seen.examples))]
    found = method.point(ready, "test", half, 3.0)
    right = seen.answers[0].argmax(dim=-1) == seen.targets
    assert found.quality == pytest.approx(float(right[1::2].sum()) / len(right))
    assert sum(found.exits) == pytest.approx(sum(i % 2 for i in range(len(half))) / len(half))
    nothing = method.point(ready, "test", [Served(0, 0.0, 0.0, 0.0, -1, 0.0, 0.0)] * len(half), 3.0)
    assert (nothing.quality, nothing.cost) == (0.0, 0.0)


def test_simpler_rules_on_the_same_phone(prepared):
    method, bench, ready = prepared("ju2021lee")
    static, sure = method.baselines(ready, bench)
    quality, cost = method.full_model(ready, bench)
    assert (static.test[-1].quality, static.test[-1].cost) == (pytest.approx(quality), pytest.approx(cost))
    assert static.test[0].cost < static.test[1].cost < cost
    assert sure.test[0].exits[0] > 0.9
    assert sure.test[-1].exits[-1] == 1.0
    assert sure.test[-1].cost > cost  # heads on the way
    assert sure.validation != sure.test
    assert len(method.each_exit(ready, bench)[0]) == ready.model.exits
    assert method.time(ready, bench, 1.0, 1) is None


def test_the_phone_s_speed_wanders_within_its_bounds_and_otherwise_on_each_split_and_seed():
    method = registry.get("ju2021lee")
    speeds = {(split, seed): method.computer(split, seed).speed for split in ("validation", "test") for seed in (0, 1)}
    assert len(set(speeds.values())) == 4
    for trace in speeds.values():
        assert set(trace.rates) == {1e9, 1.5e9, 2e9}
        assert len(trace.rates) == pytest.approx(1800, rel=0.1)  # half a second each
