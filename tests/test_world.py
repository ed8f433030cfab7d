"""The simulated world: rates over time, what crosses a link, and a stream of samples event by event, all by hand."""

import itertools
import math
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch

from eelit.methods.world.machines import Computer, Link, Power
from eelit.methods.world.shown import shown
from eelit.methods.world.stream import Always, Journey, Leg, World, stream
from eelit.methods.world.traces import Observed, Trace, broken, steady, wandering
from eelit.methods.world.wire import Floats, Quantised, Row, Signs, Whole

TRACE = Trace((0.0, 1.0, 3.0), (10.0, 0.0, 5.0), 4.0)  # 10 in the first second, nothing for two, 5 in the fourth


# Rates over time.


@pytest.mark.parametrize(
    ("start", "amount", "finish"),
    [
        (0, 0, 0), (0, 5, 0.5), (0, 10, 1), (0, 12, 3.4), (0, 15, 4), (0, 16, 4.1), (0, 30, 8), (0.5, 5, 1),
        (2, 1, 3.2), (1, 0, 1), (4, 10, 5), (7.5, 5, 8.25), (1e6, 15, 1e6 + 4),
    ],
)  # fmt: skip
def test_what_starts_at_a_second_is_through_as_soon_as_the_rate_allows(start, amount, finish):
    """An outage is waited for, but not after the last bit; after the end the trace begins anew."""
    assert TRACE.finish(start, amount) == pytest.approx(finish)


def test_amounts_are_the_area_under_the_rate():
    assert TRACE.mean == 15 / 4
    assert TRACE.amount(0, 4) == 15
    assert TRACE.amount(0.5, 3.5) == pytest.approx(5 + 2.5)
    assert TRACE.amount(3, 9) == pytest.approx(5 + 15 + 10)


def test_finish_undoes_amount_wherever_it_starts():
    trace = broken(wandering(8e6, (0.5, 1, 2), 5.0, 200.0, seed=1), good=10, bad=3, seed=2)
    random = np.random.default_rng(0)
    for start, amount in zip(random.uniform(0, 500, 200), random.uniform(1, 5e7, 200), strict=True):
        stop = trace.finish(start, amount)
        assert trace.amount(start, stop) == pytest.approx(amount)
        assert stop >= start


def test_a_later_start_is_never_through_earlier():
    trace = broken(wandering(8e6, (0.5, 1, 2), 5.0, 200.0, seed=1), good=10, bad=3, seed=2)
    ends = [trace.finish(start, 1e6) for start in np.linspace(0, 300, 500)]
    assert all(a <= b + 1e-9 for a, b in itertools.pairwise(ends))


def test_what_never_goes_never_arrives():
    assert steady(0.0).finish(3, 1) == math.inf
    assert steady(0.0).finish(3, 0) == 3
    assert steady(2.0).finish(3, 1) == 3.5


@pytest.mark.parametrize(
    ("times", "rates", "end"),
    [((0.0, 2.0, 1.0), (1.0, 1.0, 1.0), 3.0), ((1.0,), (1.0,), 3.0), ((0.0, 3.0), (1.0, 1.0), 3.0),
     ((0.0,), (1.0, 2.0), 3.0), ((0.0,), (-1.0,), 3.0)],
)  # fmt: skip
def test_a_trace_that_is_none_is_refused(times, rates, end):
    with pytest.raises(ValueError, match="times rise from 0"):
        Trace(times, rates, end)


def test_bandwidth_wanders_between_neighbouring_steps_and_stays_as_long_as_told():
    steps = (0.25, 0.5, 1.0, 2.0)
    trace = wandering(4.0, steps, stay=5.0, seconds=50_000.0, seed=3)
    where = [steps.index(rate / 4.0) for rate in trace.rates]
    assert {abs(a - b) for a, b in itertools.pairwise(where)} == {1}
    assert set(where) == {0, 1, 2, 3}
    assert trace.end / len(trace.times) == pytest.approx(5, rel=0.05)
    inner = [b - a for a, b in itertools.pairwise(where) if a in (1, 2)]
    assert np.mean(inner) == pytest.approx(0, abs=0.05)  # up or down alike


@pytest.mark.parametrize(
    ("steps", "share"), [((0.5, 0.75, 1.0, 1.5, 2.0), 1.125), ((0.125, 0.25, 0.5, 1, 2, 4), 1.1625), ((0.4, 1, 1.6), 1)]
)
def test_the_usual_rate_need_not_be_the_mean(steps, share):
    """The ends, which have one neighbour, come half as often as the others."""
    assert share == pytest.approx((sum(steps) - (steps[0] + steps[-1]) / 2) / (len(steps) - 1))
    assert wandering(4.0, steps, stay=1.0, seconds=50_000.0, seed=0).mean == pytest.approx(4 * share, rel=0.05)


def test_links_break_for_as_long_as_told_and_start_whole():
    trace = broken(steady(7.0), good=30, bad=3, seed=0)
    assert trace.rates == (7.0,)  # one second long: nothing breaks in it
    long = broken(Trace((0.0, 40_000.0), (7.0, 5.0), 80_000.0), good=30, bad=3, seed=0)
    assert (long.rates[0], set(long.rates)) == (7.0, {0.0, 5.0, 7.0})
    down = sum(b - a for a, b, r in zip(long.times, [*long.times[1:], long.end], long.rates, strict=True) if not r)
    assert down / long.end == pytest.approx(3 / 33, rel=0.1)
    assert all(rate in (0.0, 7.0) for t, rate in zip(long.times, long.rates, strict=True) if t < 40_000)


def test_traces_follow_their_seed():
    made = [
        broken(wandering(8.0, (0.5, 1), 5, 100, seed=a), 10, 3, seed=b) for a, b in [(0, 1), (0, 1), (2, 1), (0, 2)]
    ]
    assert made[0] == made[1]
    assert len({trace.times for trace in made}) == 3


def test_an_observer_knows_intervals_that_are_over_and_no_more():
    """With a half kept: first 4, then (4 + 10) / 2 = 7, then (7 + 0) / 2, (3.5 + 0) / 2, (1.75 + 5) / 2."""
    seen = Observed(TRACE, interval=1.0, keep=0.5, first=4.0)
    assert [seen.at(t) for t in (0, 0.99, 1.0, 2.5, 3.0, 4.0)] == [4, 4, 7, 3.5, 1.75, 3.375]
    assert seen.at(1.5) == 7  # an earlier look is as it was


# What crosses a link.


@pytest.mark.parametrize(
    "state",
    [torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4).to(memory_format=torch.channels_last),
     {"h": torch.randn(1, 5), "more": (torch.arange(3)[None], 7, "x")}, [torch.randn(1, 2), None]],
)  # fmt: skip
def test_a_whole_state_arrives_as_it_was(state):
    found = Whole().unpack(Whole().pack(state))
    parts, structure = torch.utils._pytree.tree_flatten(state)
    others, like = torch.utils._pytree.tree_flatten(found)
    assert like == structure
    for a, b in zip(parts, others, strict=True):
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_the_size_of_a_whole_state_does_not_depend_on_its_values():
    assert len({len(Whole().pack(torch.randn(1, 8, 5) * k)) for k in (0, 1, 1e9)}) == 1


def test_scores_take_four_bytes_each_and_signs_a_bit():
    x = torch.tensor([[1.5, -2.25, 3.0]])
    assert Floats((1, 3)).pack(x) == np.array([1.5, -2.25, 3.0], "<f4").tobytes()
    assert torch.equal(Floats((1, 3)).unpack(Floats((1, 3)).pack(x)), x)
    signs = torch.tensor([1.0, -1, -1, 1, 1, -1, -1, -1, 1]).reshape(1, 3, 3)
    assert Signs((1, 3, 3)).pack(signs) == bytes([0b10011000, 0b10000000])
    assert torch.equal(Signs((1, 3, 3)).unpack(Signs((1, 3, 3)).pack(signs)), signs)


def test_quantised_numbers_by_hand():
    """From -1 to 2 in 255 steps of 3 / 255; -1 and 2 are steps 0 and 255, 0 is step 85."""
    message = Quantised().pack(torch.tensor([[-1.0, 0.0, 2.0, 0.0118]]))
    assert list(zlib.decompress(message[13:])) == [0, 85, 255, 86]
    assert Quantised().unpack(message)[0].tolist() == pytest.approx([-1.0, 0.0, 2.0, 86 * 3 / 255 - 1], abs=1e-6)
    assert list(zlib.decompress(Quantised(bits=1).pack(torch.tensor([[-1.0, 0.4, 0.6, 2.0]]))[13:])) == [0, 0, 1, 1]


def test_what_relu_made_zero_stays_zero_and_costs_little():
    torch.manual_seed(0)
    x = torch.relu(torch.randn(1, 16, 12, 12))
    message = Quantised().pack(x)
    found = Quantised().unpack(message)
    assert torch.equal(found == 0, x < float(x.max()) / 510)
    assert float((found - x).abs().max()) <= float(x.max()) / 510 + 1e-6
    assert len(message) < x.numel()
    assert len(Quantised(bits=4).pack(x)) < len(message)
    assert len(Quantised(level=9).pack(x)) != len(message)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_state_that_is_not_finite_arrives_as_nan(bad):
    x = torch.tensor([[1.0, bad, 2.0]])
    assert Quantised().unpack(Quantised().pack(x)).isnan().all()
    assert torch.equal(Quantised().unpack(Quantised().pack(torch.full((1, 3), 4.0))), torch.full((1, 3), 4.0))


def test_what_a_rule_remembers_arrives_in_order_and_nothing_takes_no_byte():
    memory = (torch.tensor([0.7], dtype=torch.float64), torch.arange(3)[None])
    found = Row().unpack(Row().pack(memory))
    assert [(part.dtype, part.tolist()) for part in found] == [(part.dtype, part.tolist()) for part in memory]
    assert (Row().pack(()), Row().unpack(b"")) == (b"", ())


# A stream of samples.


class Said:
    """Work whose legs are told beforehand, sample by sample."""

    def __init__(self, *legs, rest=None):
        self.told, self.alone, self.done = legs, rest, []

    def legs(self, sample, plan):
        for leg in self.told[sample]:
            self.done.append((sample, plan))
            yield leg

    def rest(self, sample, plan):
        return self.alone


def world(*, bandwidth=80.0, travel=0.2, patience=math.inf, alone=False, speeds=(1.0, 10.0)):
    """10 bytes a second, a tenth of a second each way; the device does one operation a second, the server ten."""
    machines = tuple(Computer(steady(speed)) for speed in speeds)
    trace = bandwidth if isinstance(bandwidth, Trace) else steady(bandwidth)
    links = tuple(Link(trace, travel) for _ in speeds[1:])
    return World(machines, links, Power(4.0, 2.0, 1.0), patience, alone)


HERE = [Leg(2.0, 0, True, 0)]  # leaves on the device after two seconds
AWAY = [Leg(1.0, 0, False, 30), Leg(5.0, 1, True, 10)]  # 1 s, then 3 s + 0.1 up, 0.5 s there, 1 s + 0.1 down


def test_one_sample_by_hand():
    (here,) = stream(world(), Said(HERE), Always("plan"), [7.0])
    assert (here.begun, here.answered, here.exit, here.macs, here.sent) == (7.0, 9.0, 0, [2.0], [])
    assert here.joules(world().power) == pytest.approx(2 * 4)
    (away,) = stream(world(), Said(AWAY), Always("plan"), [7.0])
    assert away.answered == pytest.approx(7 + 1 + 3.1 + 0.5 + 1.1)
    assert away.milliseconds == pytest.approx(5700)
    assert (away.exit, away.macs, away.sent, away.returned) == (1, [1.0, 5.0], [30], [10])
    assert away.joules(world().power) == pytest.approx(1 * 4 + 3 * 2 + 1.7 * 1)


def test_each_machine_and_each_direction_does_one_thing_at_a_time_in_order():
    """The device takes them up at 0, 1, 2; the link at 1, 4, 7, since each takes three seconds."""
    journeys = stream(world(), Said(AWAY, AWAY, AWAY), Always(None), [0.0, 0.0, 0.0])
    assert [journey.begun for journey in journeys] == [0, 1, 2]
    assert [journey.answered for journey in journeys] == pytest.approx([5.7, 8.7, 11.7])
    slow = stream(world(speeds=(1.0, 1.0)), Said(AWAY, AWAY), Always(None), [0.0, 0.0])
    assert [journey.answered for journey in slow] == pytest.approx([4.1 + 5 + 1.1, 4.1 + 10 + 1.1])


def test_the_device_goes_on_while_another_sample_is_away():
    journeys = stream(world(), Said(AWAY, HERE), Always(None), [0.0, 0.5])
    assert (journeys[1].begun, journeys[1].answered) == (1, 3)
    assert journeys[0].answered == pytest.approx(5.7)


def test_a_chain_of_three_passes_on_and_carries_back():
    legs = [Leg(1.0, None, False, 10), Leg(1.0, 0, False, 20), Leg(1.0, 1, True, 5)]
    (journey,) = stream(world(speeds=(1.0, 1.0, 1.0)), Said(legs), Always(None), [0.0])
    assert journey.answered == pytest.approx(1 + 1.1 + 1 + 2.1 + 1 + 0.6 + 0.6)
    assert (journey.sent, journey.returned, journey.macs) == ([10, 20], [5, 5], [1, 1, 1])


def test_who_loses_patience_answers_by_the_last_exit_asked():
    """It waits two seconds for what takes 4.7; the link is free at once for the next, which it takes to the end."""
    journeys = stream(world(patience=2.0), Said(AWAY, AWAY), Always(None), [0.0, 0.0])
    assert [(journey.exit, journey.given_up, journey.answered) for journey in journeys] == [(0, True, 3), (0, True, 4)]
    assert journeys[0].macs == [1.0]  # the server never began
    assert journeys[0].sending == pytest.approx(2)
    assert journeys[1].sending == pytest.approx(1)  # from 3, when the link was free, to 4
    patient = stream(world(patience=4.8), Said(AWAY), Always(None), [0.0])
    assert (patient[0].exit, patient[0].given_up) == (1, False)


def test_who_has_asked_no_exit_waits_or_goes_on_alone():
    legs = [Leg(1.0, None, False, 30), Leg(5.0, 1, True, 10)]
    (waited,) = stream(world(patience=2.0), Said(legs), Always(None), [0.0])
    assert (waited.exit, waited.given_up, waited.answered) == (1, False, pytest.approx(5.7))
    work = Said(legs, HERE, rest=Leg(4.0, 1, True, 0))
    alone, other = stream(world(patience=2.0, alone=True), work, Always(None), [0.0, 2.5])
    assert (other.begun, other.answered) == (2.5, 4.5)
    assert (alone.exit, alone.given_up, alone.answered) == (1, True, 8.5)  # the device is free at 4.5
    assert (alone.macs, alone.computing) == ([1.0, 4.0], 5.0)


def test_an_outage_delays_what_is_under_way():
    """Ten bytes a second but for seconds 2 to 6: of 30 bytes from second 1 on, 20 cross after it."""
    (journey,) = stream(
        world(bandwidth=Trace((0.0, 2.0, 6.0), (80.0, 0.0, 80.0), 100.0)), Said(AWAY), Always(None), [0.0]
    )
    assert journey.answered == pytest.approx(8 + 0.1 + 0.5 + 1.1)


class Curious:
    """A scheduler that notes when it is asked and told."""

    def __init__(self):
        self.noted = []

    def plan(self, sample, now):
        self.noted.append(("plan", sample, now))
        return f"plan of {sample}"

    def learn(self, sample, journey):
        self.noted.append(("learn", sample, journey.answered))


def test_a_scheduler_is_asked_when_a_sample_is_taken_up_and_told_when_it_is_answered():
    scheduler, work = Curious(), Said(AWAY, HERE)
    journeys = stream(world(), work, scheduler, [0.0, 0.5])
    assert scheduler.noted == [("plan", 0, 0.0), ("plan", 1, 1.0), ("learn", 1, 3.0), ("learn", 0, pytest.approx(5.7))]
    assert [journey.plan for journey in journeys] == ["plan of 0", "plan of 1"]
    assert work.done == [(0, "plan of 0"), (1, "plan of 1"), (0, "plan of 0")]  # the server's part when it began


def test_a_chain_has_a_link_between_each_two():
    with pytest.raises(ValueError, match="need 1 links"):
        World((Computer(steady(1.0)),) * 2, (), Power(1, 1, 1))


def test_watts_times_seconds():
    assert Power(4.0, 2.0, 1.0).joules(3.0, 2.0, 5.0) == 12 + 4 + 5
    assert Journey(1.0, begun=2.0, answered=10.0, computing=3.0, sending=1.0).joules(Power(4.0, 2.0, 1.0)) == 12 + 2 + 4


# What results tell of a world.


def test_what_is_shown_of_a_world_is_what_it_gives():
    """Rates that change are told second by second, also after their trace began anew; the others in words."""
    slow, fast = Computer(steady(2e9)), Computer(Trace((0.0, 2.0), (8e9, 1e9), 5.0))
    links = Link(Trace((0.0, 1.0, 3.0), (1e7, 0.0, 0.0), 4.0), 0.02), Link(steady(5e5), 0.1)
    found = shown(World((slow, fast, slow), links, Power(2, 1.5, 0.25), patience=0.3), seconds=9.0)
    speed, bandwidth = found.rates
    assert (speed.part, speed.unit, speed.times, speed.rates) == (
        "machine 2, speed", "billion MACs/s", [0, 2, 5, 7], [8, 1, 8, 1],
    )  # fmt: skip
    assert (bandwidth.part, bandwidth.unit) == ("link 1, bandwidth", "Mbit/s")
    assert (bandwidth.times, bandwidth.rates) == ([0, 1, 4, 5, 8], [10, 0, 10, 0, 10])
    assert found.constants == [
        "device, speed: 2 billion MACs/s",
        "machine 3, speed: 2 billion MACs/s",
        "link 2, bandwidth: 0.5 Mbit/s",
        "link 1: 20 ms there and back",
        "link 2: 100 ms there and back",
        "device: 2 W computing, 1.5 W sending, 0.25 W waiting",
        "after 300 ms without an answer the device answers by itself",
    ]
    assert found.seconds == 9


def test_where_nobody_loses_patience_none_is_told_of():
    world = World((Computer(steady(1e9)),) * 2, (Link(steady(1e6), 0.0),), Power(1, 1, 1))
    assert not any("without an answer" in said for said in shown(world).constants)
    assert shown(world).rates == []


def test_where_no_joule_is_counted_no_watt_is_told_of():
    world = World((Computer(steady(1e9)),) * 2, (Link(steady(1e6), 0.0),))
    assert world.power is None
    assert not any(" W " in said for said in shown(world).constants)
    assert any(" W " in said for said in shown(replace(world, power=Power(1, 1, 1))).constants)
