"""What only SPINN promises: tables, design points by hand, what its scheduler sees, and the server as a process."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loopback import Counting, Told, process
from torch.nn import functional as F

from eelit.methods.claims import laskaridis2020spinn as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.families.tiers import Executed, Machine, Plan
from eelit.methods.harness import registry
from eelit.methods.papers.laskaridis2020spinn import THRESHOLDS, Now, Profile, Scheduler, choose, expected
from eelit.methods.policies.surest import Surest
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.world.machines import Computer, Link, Power
from eelit.methods.world.stream import Always, Journey, World, stream
from eelit.methods.world.traces import Trace, steady
from eelit.methods.world.wire import Quantised

KEY = "laskaridis2020spinn"
PROFILE = Profile(
    thresholds=(0.0, 0.8, 1.1),
    alive=np.array([[1, 0, 0, 0], [1, 0.5, 0.2, 0], [1, 1, 1, 0]], dtype=float),
    accuracy=np.array([0.6, 0.8, 0.82]),
    sizes=np.array([100.0, 400.0, 200.0, 0.0]),
    stages=np.array([10.0, 20.0, 30.0]),
    heads=np.array([1.0, 2.0, 0.0]),
)
NOW = Now(bandwidth=8000.0, server=100.0)


# Tables and design points.


def test_what_is_expected_by_hand():
    """At thr 0.8 and s = 1: 11 MACs on the device, half of the pictures cross, 0.5 · 22 + 0.2 · 30 on the server."""
    found = expected(PROFILE, (0, 1, 2, 3), NOW, device=10.0, round_trip=0.1)
    assert {name: part.shape for name, part in found.items()} == dict.fromkeys(found, (4, 3))
    at = {name: part[1, 1] for name, part in found.items()}
    assert at["latency"] == pytest.approx(11 / 10 + 0.5 * 400 * 8 / 8000 + 0.5 * 0.1 + 17 / 100)
    assert at["period"] == pytest.approx(1.1)
    assert at["server"] == pytest.approx(17)
    assert at["energy"] == pytest.approx(4.0 * 1.1 + 1.5 * 0.2 + 0.5 * (0.05 + 0.17))
    assert at["error"] == pytest.approx(0.2)
    alone = {name: part[3, 2] for name, part in found.items()}
    assert (alone["latency"], alone["server"]) == (pytest.approx(63 / 10), 0)
    assert found["latency"][0, 2] == pytest.approx(100 * 8 / 8000 + 0.1 + 63 / 100)
    assert found["latency"][1, 0] == pytest.approx(1.1)  # all leave at the first exit
    assert found["period"][0, 2] == pytest.approx(0.63)
    slow = expected(PROFILE, (1,), NOW._replace(bandwidth=1000.0), 10.0, 0.1)
    assert slow["period"][0, 1] == pytest.approx(0.5 * 3.2)


def test_latency_falls_with_bandwidth_and_without_any_the_device_is_best():
    bandwidths = (0.0, 1e2, 1e4, 1e6, 1e9)
    found = [expected(PROFILE, (0, 1, 2, 3), NOW._replace(bandwidth=b), 10.0, 0.1)["latency"] for b in bandwidths]
    assert all((later <= earlier).all() for earlier, later in pairwise(found))
    assert found[0][:, 2].argmin() == 3  # bandwidth 0: the whole network on the device
    assert found[-1][:, 2].argmin() == 0  # very much of it, and a faster server: an early cut


def test_the_network_without_exits_is_cut_off_where_told():
    known = PROFILE.cut_off(2)
    assert known.alive.tolist() == [[1, 1, 1, 0]]
    found = expected(known, (0, 2, 3), NOW, 10.0, 0.1)
    assert found["server"][:, 0].tolist() == [60, 30, 0]  # no head but the last's, which its part holds
    early = expected(PROFILE.cut_off(1), (0, 2), NOW, 10.0, 0.1)
    assert early["server"][:, 0].tolist() == [32, 0]
    assert early["latency"][1, 0] == pytest.approx(3.2)


def test_any_threshold_has_the_row_of_the_nearest_of_the_grid():
    known = PROFILE.at(0.7)
    assert known.thresholds == (0.7,)
    assert (known.alive.tolist(), known.accuracy.tolist()) == ([[1, 0.5, 0.2, 0]], [0.8])
    assert PROFILE.at(1.1).accuracy.tolist() == [0.82]


def points(**given):
    return {"latency": np.zeros((2, 2)), **{name: np.array(values, dtype=float) for name, values in given.items()}}


def test_limits_are_hard_and_targets_come_in_order():
    table = points(latency=[[1, 2], [3, 4]], error=[[0.4, 0.3], [0.2, 0.1]], server=[[9, 5], [5, 0]])
    assert choose(table, {}, ("latency",)) == (0, 0)
    assert choose(table, {}, ("error",)) == (1, 1)
    assert choose(table, {"latency": 3.0}, ("error",)) == (1, 0)
    assert choose(table, {"latency": 3.0, "error": 0.25}, ("server",)) == (1, 0)
    assert choose(table, {"latency": 3.0}, ("server", "latency")) == (0, 1)  # both need 5: the sooner
    assert choose(table, {"latency": 3.5}, ("server", "error")) == (1, 0)


def test_a_point_that_nearly_has_the_best_of_a_target_stays():
    table = points(latency=[[1.0, 1.04], [1.06, 9.0]], server=[[9, 5], [1, 0]])
    assert choose(table, {}, ("latency", "server")) == (0, 1)
    assert choose(table, {}, ("latency", "server"), tolerance=0.1) == (1, 0)
    assert choose(table, {}, ("latency", "server"), tolerance=0.0) == (0, 0)


def test_where_no_point_keeps_the_limits_the_first_is_broken_least():
    table = points(latency=[[5, 6], [7, 8]], error=[[0.4, 0.3], [0.2, 0.1]])
    assert choose(table, {"latency": 1.0}, ("error",)) == (0, 0)
    assert choose(table, {"error": 0.05, "latency": 7.5}, ("latency",)) == (1, 1)
    assert choose(table, {"latency": 7.5, "error": 0.05}, ("latency",)) == (1, 0)


def test_tables_are_made_from_pictures_that_choose_no_knob(prepared):
    method, _, ready = prepared(KEY)
    seen, known = ready.split("fitting"), ready.fitted
    assert len(seen.examples) == 75
    assert known.thresholds == THRESHOLDS == method.knobs
    row = THRESHOLDS.index(0.9)
    left = replay(Surest(0.9), seen.outputs)
    assert known.alive[row].tolist() == pytest.approx([1, (left > 0).mean(), (left > 1).mean(), 0])
    assert known.alive[0].tolist() == [1, 0, 0, 0]
    assert known.alive[-1].tolist() == [1, 1, 1, 0]
    told = torch.stack([F.softmax(z, -1) for z in seen.outputs])
    surest = told.amax(-1).argmax(0)
    never = told[surest, torch.arange(75)].argmax(-1) == seen.targets
    assert known.accuracy[-1] == pytest.approx(float(never.double().mean()))
    x = torch.stack(list(seen.examples.inputs[:64]))
    with torch.inference_mode():
        states = [x, *ready.model.states(x)][:3]
    sizes = [np.mean([len(Quantised(8).pack(row[None])) for row in state]) for state in states]
    assert known.sizes.tolist() == pytest.approx([*sizes, 0], rel=0.01)
    spent = known.stages + known.heads
    assert spent.cumsum().tolist() == pytest.approx(seen.costs[:, 0].tolist())


# The scheduler.


def world_of(bandwidth, server=100.0):
    machines = Computer(steady(10.0)), Computer(steady(server) if isinstance(server, float) else server)
    return World(machines, (Link(bandwidth, 0.1),), Power(1, 1, 1))


def test_cuts_follow_the_bandwidth_that_was_not_that_will_be():
    """While the link carries much all goes to the server; once looks have told that it is down the device does it."""
    trace = Trace((0.0, 10.0, 20.0), (1e6, 0.0, 1e6), 30.0)
    scheduler = Scheduler(PROFILE.at(1.1), (0, 1, 2, 3), world_of(trace), ("latency",), {}, Now(1e6, 100.0))
    seen = [scheduler.plan(0, second).cuts[0] for second in (0.0, 9.9, 10.4, 19.9, 22.0, 29.0)]
    assert seen == [0, 0, 0, 3, 0, 0]
    assert scheduler.plan(0, 29.0).knob == 1.1


def test_cuts_follow_the_servers_load():
    busy = Trace((0.0, 10.0), (100.0, 0.5), 20.0)
    scheduler = Scheduler(PROFILE.at(1.1), (0, 3), world_of(steady(1e6), busy), ("latency",), {}, Now(1e6, 100.0))
    assert [scheduler.plan(0, second).cuts[0] for second in (5.0, 19.0)] == [0, 3]


def test_nothing_is_decided_anew_while_conditions_stay_within_a_margin(monkeypatch):
    asked = []
    trace = Trace((0.0, 10.0, 20.0), (1e4, 1.05e4, 0.8e4), 30.0)
    scheduler = Scheduler(PROFILE, (0, 1), world_of(trace), ("latency",), {}, Now(1e4, 100.0))
    original = expected
    monkeypatch.setattr(
        "eelit.methods.papers.laskaridis2020spinn.expected", lambda *a: asked.append(a[2]) or original(*a)
    )
    for second in np.arange(0.0, 30.0, 0.25):
        scheduler.plan(0, float(second))
    assert round(asked[0].bandwidth) == 10000
    assert len(asked) == 2
    assert asked[1].bandwidth < 0.91e4


def test_with_a_grid_both_are_chosen_together():
    """Of all points that keep to 1.3 s the most accurate: s = 1 with thr 0.8 takes 1.52 s, s = 0 with 1.1 0.83 s."""

    def plan(profile, cuts, bandwidth, targets, limits, exit_=-1):
        known = Now(bandwidth, 100.0)
        return Scheduler(profile, cuts, world_of(steady(bandwidth)), targets, limits, known, exit_).plan(0, 0.0)

    assert plan(PROFILE, (0, 1, 3), 8000.0, ("error", "latency"), {"latency": 1.3}) == Plan((0,), 1.1, -1)
    slow = plan(PROFILE, (0, 1, 3), 100.0, ("error", "latency"), {"latency": 3.0})
    assert (slow.cuts, slow.knob) == ((3,), 0.8)
    assert plan(PROFILE.cut_off(1), (0, 1), 8000.0, ("latency",), {}, 1) == Plan((0,), None, 1)


def test_before_link_and_server_have_reported_the_settings_are_all_that_is_known():
    """The link is down most of the time and the server is busy: a mean over the trace would tell at once."""
    trace, busy = Trace((0.0, 20.0), (1e6, 0.0), 1000.0), Trace((0.0, 20.0), (100.0, 0.1), 1000.0)
    for bandwidth, server in ((trace, 100.0), (steady(1e6), busy)):
        world = world_of(bandwidth, server)
        scheduler = Scheduler(PROFILE.at(1.1), (0, 3), world, ("latency",), {}, Now(1e6, 100.0))
        assert [scheduler.plan(0, second).cuts[0] for second in (0.0, 19.9, 60.0)] == [0, 0, 3]


def test_the_method_tells_its_scheduler_the_settings_and_nothing_of_the_trace(prepared):
    method, _, ready = prepared(KEY)
    world = method.world("test", 0)
    assert abs(world.links[0].bandwidth.mean / method.bandwidth - 1) > 0.01
    scheduler = method.scheduler(ready, world, 0.9)
    assert (scheduler.bandwidth.first, scheduler.server.first) == (method.bandwidth, method.server)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(claimed, "stream", lambda world, work, chosen, came: seen.append(chosen) or [Journey(0.0)] * 2)
        claimed.robust(method, ready)
    assert (seen[0].bandwidth.first, seen[0].server.first) == (method.bandwidth, method.server)


def test_the_method_cuts_by_its_targets(prepared):
    method, _, ready = prepared(KEY)
    world = method.world("test", 0)
    chosen = [
        method.replace({"targets": targets}).scheduler(ready, world, 0.9).plan(0, 0.0)
        for targets in (("latency",), ("server", "latency"), ("energy",))
    ]
    assert {plan.knob for plan in chosen} == {0.9}
    assert chosen[1].cuts == (3,)  # no work for the server at all
    assert method.scheduler(ready, world, None, 1).plan(0, 0.0).exit == 1


def test_watts_are_told_of_only_where_they_have_a_say(prepared):
    method, bench, ready = prepared(KEY)
    assert not any(" W " in said for said in method.simulation(ready, bench).constants)
    sparing = method.replace({"targets": ("energy", "latency")})
    told = sparing.simulation(ready, bench).constants
    assert "device: 4 W computing, 1.5 W sending, 0.5 W waiting" in told


# The rule in the world.


def test_the_surest_of_all_answers_where_nobody_is_sure(prepared):
    """Whoever asked it: an exit of the device is surer than the last for some."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    world = World(method.world("test", 0).computers, (Link(steady(1e7), 0.0),), Power(1, 1, 1))
    journeys = stream(world, seen, Always(Plan((2,), 1.1)), [0.0] * 40)
    z = seen.crossed((2,))[0][:, :40]
    surest = z.softmax(-1).amax(-1).argmax(0)
    assert len(set(surest.tolist())) > 1
    assert torch.equal(seen.told(journeys), z[surest, torch.arange(40)])


def test_thr_0_sends_nothing_if_the_first_exit_is_on_the_device(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    assert all(len(legs) == 1 and legs[0].size == 0 for legs in seen.course(Plan((1,), 0.0)).legs)
    assert all(len(legs) == 2 for legs in seen.course(Plan((0,), 0.0)).legs)
    assert all(len(legs) == 1 for legs in seen.course(Plan((3,), 1.1)).legs)  # the last cut: all on the device
    assert method.sweep(ready, ready.bench, "test", [0.0])[0].exits[0] == 1


@pytest.mark.parametrize("thr", [0.9, 1.1])
def test_a_server_that_never_answers_leaves_every_picture_an_answer(prepared, thr):
    method, _, ready = prepared(KEY)
    seen, own = ready.split("test"), method.world("test", 0)
    silent = World(own.computers, (Link(steady(0.0), 0.0),), own.power, 0.3, alone=True)
    for cut in (0, 1, 2):
        journeys = stream(silent, seen, Always(Plan((cut,), thr)), method.came(60))
        assert all(0 <= journey.exit < 3 for journey in journeys)
        assert all(journey.exit < cut for journey in journeys if cut)
        late = [journey for journey in journeys if journey.given_up]
        assert late
        if cut:  # at once when patience is over
            assert all(j.answered - j.begun == pytest.approx(0.3 + j.computing) for j in late)


def test_eight_bits_hardly_change_an_answer_and_few_do(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    exact, fine = seen.answers[-1], seen.crossed((1,))[0][-1]
    assert float((exact.argmax(-1) == fine.argmax(-1)).double().mean()) > 0.98
    assert method.codec == Quantised(8)
    assert method.replace({"bits": 2}).codec == Quantised(2)
    assert seen.crossed((1,))[1].mean() < 8 * 4 * 4 * 4 / 2  # much less than the floats


def test_the_server_as_another_process_says_the_same(prepared):
    """Cut anew for each picture; states, rule memory and answers cross a loopback socket."""
    method, _, ready = prepared(KEY)
    exact = ready.split("test").one_by_one(16)
    device, server = (Machine(i, ready.model, range(3), Surest, method.codec) for i in (0, 1))
    world = World(method.world("test", 0).computers, (Link(steady(1e6), 0.01),), Power(1, 1, 1))

    class Turns:
        def plan(self, sample, now):
            return Plan((sample % 4,), (0.9, 1.1)[sample % 2])

        def learn(self, sample, journey):
            pass

    with process(Counting(server)) as ask:
        work = Executed(device, [far := Told(ask)], exact.examples)
        apart = stream(world, work, Turns(), [0.0] * 16)
    together = stream(world, exact, Turns(), [0.0] * 16)
    assert [(a.exit, a.plan, a.sent, a.returned) for a in apart] == [
        (b.exit, b.plan, b.sent, b.returned) for b in together
    ]
    assert [a.macs[0] for a in apart] == [b.macs[0] for b in together]  # the device's part is all that is run here
    assert [a.macs[1:] for a in apart] == [[0.0] * len(a.sent) for a in apart]
    assert sorted(far.macs) == sorted(macs for b in together for macs in b.macs[1:])  # and the rest over there
    assert min(far.macs) > 0
    assert {len(journey.sent) for journey in apart} == {0, 1}
    assert torch.allclose(work.answers(apart, torch.Size([10])), exact.told(together), atol=1e-4)


def test_the_world_breaks_and_is_busy_anew_on_each_split_and_seed():
    method = registry.get(KEY)
    worlds = [method.world(split, seed) for split, seed in (("test", 0), ("validation", 0), ("test", 1), ("test", 0))]
    traces = [(world.links[0].bandwidth, world.computers[1].speed) for world in worlds]
    assert traces[0] == traces[3]
    assert len({(a.times, b.times) for a, b in traces[:3]}) == 3
    bandwidth, server = traces[0]
    assert 0.0 in bandwidth.rates
    assert {rate / 8e6 for rate in bandwidth.rates} <= {0.0, 0.25, 0.5, 1.0, 1.5, 2.0}
    assert {round(rate / 1e11, 6) for rate in server.rates} == {0.1, 0.3, 1.0}
    assert (worlds[0].patience, worlds[0].alone, worlds[0].links[0].round_trip) == (0.3, True, 0.04)
    assert worlds[0].computers[0].speed == steady(2e9)
    assert method.came(3) == [0, 0.25, 0.5]


# Training.


@pytest.mark.parametrize("done", [0.0, 0.5, 0.99])
def test_early_losses_grow_to_the_share_of_the_cost_at_which_the_exit_stands(wired, prepared, done):
    method, _, _ = prepared(KEY)
    model, (stage,) = wired(method)
    index, x = next(stage.train.batches(16))
    y = stage.train.targets[index]
    step = round(done * stage.steps)
    model.eval()
    each = exit_losses(model(x), y).tolist()
    weights = [min(c, 0.01 + step / stage.steps * c) for c in (0.2, 0.6)]
    by_hand = weights[0] * each[0] + weights[1] * each[1] + each[2]
    assert stage.loss(stage.batch_of(index, x, step)).item() == pytest.approx(by_hand, rel=1e-4)
    if done == 0.99:
        assert weights == pytest.approx([0.2, 0.6], abs=0.01)
    assert set(stage.rates) == {id(p) for p in model.parameters()}
    assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 600)


# What is claimed.


@pytest.fixture
def condition(prepared):
    method, _, ready = prepared(KEY)
    return claimed.at(method, ready, method.bandwidth)


def test_a_condition_stays_and_nobody_loses_patience(condition):
    assert condition.world.patience == math.inf
    assert claimed.now(condition) == Now(condition.method.bandwidth, condition.method.server)
    assert condition.world.links[0].round_trip == 0.04
    journeys, quality = condition.run(Always(Plan((3,), None)), 0.0)
    busy = condition.prepared.split("test").static_costs[-1].sum() / condition.method.device
    assert journeys[-1].answered == pytest.approx(busy)
    assert quality == pytest.approx(condition.prepared.split("test").cut_off(condition.method.score)[-1].quality)


def test_a_scheduler_knows_the_bandwidth_of_its_condition(prepared):
    method, _, ready = prepared(KEY)
    slow = claimed.at(method, ready, method.bandwidth / 8)
    scheduler = slow.scheduler(slow.profile, ("latency",), {"error": 0.1})
    assert [scheduler.bandwidth.at(second) for second in (0.0, 9.0)] == [method.bandwidth / 8] * 2
    assert (scheduler.server.at(0.0), scheduler.limits) == (method.server, {"error": 0.1})


def test_one_exit_for_all_is_the_most_accurate_that_is_in_time(condition):
    seen = condition.prepared.split("fitting")
    quality = [float((z.argmax(-1) == seen.targets).double().mean()) for z in seen.answers]
    free = claimed.single(condition, math.inf)
    assert quality[free.exit] == max(quality)
    assert claimed.single(condition, 0.0) == Plan((1,), None, 0)  # the fastest: the first exit, on the device
    first = condition.profile.stages[0] + condition.profile.heads[0]
    assert claimed.single(condition, first / condition.method.device + 1e-6).exit == 0


class Fake:
    """A condition of which it is known beforehand what comes out: ours, then Neurosurgeon's or Edgent's."""

    def __init__(self, ours, theirs, profile=PROFILE):
        self.results, self.profile, self.full = [ours, theirs], profile, profile.cut_off(2)
        self.asked = []
        self.method = SimpleNamespace(cuts=(0, 1, 3), device=10.0, round_trip=0.1)
        self.world = SimpleNamespace(links=[Link(steady(8000.0), 0.1)], computers=[None, Computer(steady(100.0))])
        self.prepared = SimpleNamespace(
            split=lambda name: SimpleNamespace(answers=torch.zeros(3, 1, 2), targets=torch.zeros(1))
        )

    def scheduler(self, profile, targets, limits):
        return targets, limits

    def run(self, scheduler, period):
        self.asked.append(scheduler)
        self.results.append(self.results.pop(0))
        return self.results[-1]

    def timed(self, scheduler, limit):
        self.asked.append((scheduler, limit))
        self.results.append(self.results.pop(0))
        return self.results[-1]


def took(seconds, quality, macs=(1.0, 1.0)):
    return [Journey(0.0, answered=seconds, macs=list(macs))], quality


@pytest.mark.parametrize(
    ("times", "quality", "holds"),
    [((1.0, 1.0), 0.8, True), ((1.0, 1.6), 0.8, False), ((1.1, 1.1), 0.8, False), ((1.0, 1.0), 0.77, False)],
)
def test_throughput_must_be_half_as_much_again_somewhere_and_lower_nowhere(times, quality, holds):
    fakes = [Fake(took(t, quality), took(1.5, 0.79)) for t in times]
    assert claimed.throughput(fakes, 0.2).holds is holds


@pytest.mark.parametrize(
    ("work", "quality", "holds"),
    [((5, 10), 0.8, True), ((6, 10), 0.8, False), ((5, 11), 0.8, False), ((5, 5), 0.7, False)],
)  # fmt: skip
def test_the_server_must_do_half_somewhere_and_more_nowhere(work, quality, holds):
    fakes = [Fake(took(1, quality, (1.0, w)), took(1, 0.8, (1.0, 10.0))) for w in work]
    assert claimed.server_work(fakes, 0.2).holds is holds


def test_a_server_without_work_is_told_as_such():
    fakes = [Fake(took(1, 0.8, (1.0,)), took(1, 0.8, (1.0, 10.0))), Fake(took(1, 0.8, (1.0,)), took(1, 0.8, (1.0,)))]
    found = claimed.server_work(fakes, 0.2)
    assert found.measured.startswith("inf× at 0.125 of the bandwidth, 1.00× at 0.25")


def test_each_claim_has_its_own_targets_and_limits_and_its_rival_none(monkeypatch):
    least = float(expected(PROFILE.cut_off(2), (0, 1, 3), NOW, 10.0, 0.1)["latency"].min())
    for claim, ours, theirs in (
        (claimed.throughput, (("period", "latency"), {"error": 0.2}), (("period", "latency"), {})),
        (claimed.server_work, (("server", "latency"), {"error": 0.2, "latency": least}), (("latency",), {})),
        (claimed.less_energy, (("energy", "latency"), {"error": 0.2}), Always(Plan((0,)))),
    ):
        fake = Fake(spent(1.0, 0.8), spent(1.5, 0.8))
        claim([fake], 0.2)
        assert fake.asked == [ours, theirs]
    fake = Fake(timed(0.8), timed(0.8))
    monkeypatch.setattr(claimed, "single", lambda condition, limit: Plan((0,), limit))  # one for each limit
    claimed.in_time([fake])
    limits = [share * least for share in claimed.LIMITS]
    assert fake.asked[::2] == [((("error", "latency"), {"latency": limit}), limit) for limit in limits]
    assert fake.asked[1::2] == [(Always(Plan((0,), limit)), limit) for limit in limits]


def timed(accuracy, in_time=0.5, *, late=0.0, kept=True):
    return claimed.Timed(accuracy, in_time, late, kept)


def test_pictures_are_timed_by_hand(condition):
    """With the plain network on the device alone all take as long; a shorter limit makes every answer wrong."""
    seen, plan = condition.prepared.split("test"), Always(Plan((3,), None))
    seconds = seen.static_costs[-1, 0] / condition.method.device
    right = float((seen.answers[-1].argmax(-1) == seen.targets).double().mean())
    for share, in_time, kept in ((1.001, 1.0, True), (0.97, 0.0, True), (0.94, 0.0, False)):
        found = condition.timed(plan, share * seconds)
        assert found == (pytest.approx(right), pytest.approx(right * in_time), 1 - in_time, kept)
    mixed = condition.timed(Always(Plan((1,), 0.9)), seen.costs[0, 0] / condition.method.device * 1.001)
    first = seen.course(Plan((1,), 0.9)).exits == 0
    assert mixed.late == pytest.approx(1 - first.mean())
    assert mixed.in_time == pytest.approx((first & (seen.answers[0].argmax(-1) == seen.targets).numpy()).mean())


@pytest.mark.parametrize(("gains", "holds"), [((0.02, 0.0), True), ((0.01, 0.0), False), ((0.06, -0.02), False)])
def test_accuracy_in_time_must_be_a_point_higher_on_average_and_seldom_lower(gains, holds):
    whole = [(timed(0.8 + gain), timed(0.8)) for gain in gains]
    assert claimed.on_average(whole).holds is holds
    each = [(timed(0.0, 0.8 + gain), timed(1.0, 0.8)) for gain in gains]
    assert claimed.one_by_one(each).holds is holds
    found = claimed.in_time([Fake(*pair) for pair in whole])
    assert [outcome.name for outcome in found] == ["more accurate within a mean latency", "more accurate in time"]
    assert (found[0].holds, found[1].holds) == (holds, False)


def test_a_limit_that_spinn_alone_breaks_is_no_gain():
    good, kept, broken = (timed(0.9), timed(0.5)), (timed(0.9), timed(0.5, kept=False)), timed(0.9, kept=False)
    assert claimed.on_average([good, kept]).holds
    assert claimed.on_average([good, kept]).measured.endswith("over 1 limits that both keep; SPINN alone breaks 0")
    assert not claimed.on_average([good, (broken, timed(0.5))]).holds
    assert claimed.on_average([good, (broken, timed(0.5, kept=False))]).holds
    assert not claimed.on_average([kept]).holds


def spent(seconds, quality):
    """A picture that takes so long on the device, which draws four watts."""
    return [Journey(0.0, begun=0.0, answered=seconds, computing=seconds)], quality


@pytest.mark.parametrize(
    ("seconds", "quality", "holds"),
    [((1.0, 2.1), 0.8, True), ((1.1, 2.0), 0.8, False), ((1.0, 2.2), 0.8, False), ((1.0, 1.0), 0.77, False)],
)
def test_half_of_the_joules_must_be_saved_somewhere(seconds, quality, holds):
    found = claimed.less_energy([Fake(spent(s, quality), spent(2.0, 0.8)) for s in seconds], 0.2)
    assert found.holds is holds
    assert "nothing was measured" in found.not_comparable


def test_answers_must_be_there_when_the_link_breaks(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    found = claimed.robust(method, ready)
    assert "late, server alone" in found.measured
    assert found.holds
    monkeypatch.setattr(claimed, "stream", lambda *given: [Journey(0.0, answered=0.501)] * 100)
    assert not claimed.robust(method, ready).holds
    monkeypatch.setattr(claimed, "stream", lambda *given: [Journey(0.0, answered=0.499)] * 100)
    assert not claimed.robust(method, ready).holds
