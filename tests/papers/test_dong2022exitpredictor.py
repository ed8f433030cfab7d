"""What only exit prediction promises: who is asked, what it costs, regressions and tables by hand, a frozen network."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loopback import Counting, Told, process
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import dong2022exitpredictor as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.families.tiers import Executed, Machine, Plan
from eelit.methods.harness import registry
from eelit.methods.papers.dong2022exitpredictor import (
    BANDWIDTHS,
    ETAS,
    TAUS,
    Device,
    Foretold,
    Predictor,
    Regressions,
    Speeds,
    Tables,
    chosen,
    foretold,
    labels,
    leaving,
    prediction_loss,
    regressed,
    train_predictor,
    wanted,
)
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.world.machines import Link
from eelit.methods.world.stream import Always, stream
from eelit.methods.world.traces import Trace, steady

KEY = "dong2022exitpredictor"
NAMES = ["one score", "a score per exit"]


def tiny(variant="one score", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# Who is asked, and who leaves.


def test_one_score_lets_all_exits_be_asked_or_none():
    s = torch.tensor([[0.2], [0.5], [0.9]])
    assert wanted(s, 0.5, 2).tolist() == [[False, True, True]] * 2
    assert wanted(s, 0.0, 2).all()
    assert not wanted(s, 1.1, 2).any()
    assert not wanted(torch.tensor([[math.nan]]), 0.0, 2).any()


def test_a_score_per_exit_lets_each_be_asked_by_itself():
    s = torch.tensor([[0.2, 0.8], [0.8, 0.2]])
    assert wanted(s, 0.5, 2).tolist() == [[False, True], [True, False]]


def test_a_picture_leaves_at_the_first_exit_that_is_asked_and_sure():
    """Four pictures, two early exits of three: sure are 1 at both, 2 at the second, 3 at the first, 4 nowhere."""
    stops = np.array([[True, False, True, False], [True, True, False, False]])
    every = torch.ones(4, 1)
    left, asked = foretold(every, stops, 0.5, 3)
    assert left.tolist() == [0, 1, 0, 2]
    assert asked.tolist() == [[True] * 4, [False, True, False, True], [False, False, False, True]]
    left, asked = foretold(torch.tensor([[0.1, 0.9], [0.1, 0.9], [0.1, 0.9], [0.9, 0.1]]), stops, 0.5, 3)
    assert left.tolist() == [1, 1, 2, 2]
    assert asked[0].tolist() == [False, False, False, True]
    assert asked[1].tolist() == [True, True, True, False]
    assert asked[2].tolist() == [False, False, True, True]


@pytest.mark.parametrize("name", NAMES)
def test_eta_0_is_the_network_with_exits_and_costs_the_predictor_more(prepared, name):
    method, _, ready = prepared(KEY, name)
    seen = ready.split("test")
    with_ep, without = (seen.course(kind(method.cuts, 0.8)) for kind in (Foretold, Plan))
    assert with_ep.exits.tolist() == without.exits.tolist() == replay(MaxConfidence(0.8), seen.outputs).tolist()
    for a, b in zip(with_ep.legs, without.legs, strict=True):
        assert a[0].macs == pytest.approx(b[0].macs + seen.predicting)
        assert [leg.macs for leg in a[1:]] == [leg.macs for leg in b[1:]]
    assert seen.predicting > 0


@pytest.mark.parametrize("name", NAMES)
def test_above_1_no_exit_is_asked(prepared, name):
    method, _, ready = prepared(KEY, name)
    seen = ready.split("test")
    course = seen.course(Foretold(method.cuts, 0.0, eta=1.1))
    assert set(course.exits.tolist()) == {2}
    blocks = seen.stages[:2, 0].sum()
    assert {legs[0].macs for legs in course.legs} == {blocks + seen.predicting}
    assert {legs[0].exit for legs in course.legs} == {None}
    assert {legs[1].macs for legs in course.legs} == {seen.stages[2, 0]}


@pytest.mark.parametrize("name", NAMES)
def test_a_larger_eta_asks_no_more_exits(prepared, name):
    _, _, ready = prepared(KEY, name)
    seen = ready.split("test")
    asked = [foretold(seen.scores, seen.stops(0.9)[:2], eta, 3) for eta in (*ETAS, 1.1)]
    for (before, more), (after, fewer) in pairwise(asked):
        assert (fewer[:2].sum(axis=0) <= more[:2].sum(axis=0)).all()
        assert (after >= before).all()
    assert seen.scores.shape == (len(seen.examples), 2 if name == NAMES[1] else 1)


def test_a_predictor_that_is_always_right_changes_no_answer_and_asks_once(prepared):
    method, _, ready = prepared(KEY, NAMES[1])
    seen = ready.split("test")
    stops = seen.stops(0.9)[:2]
    left, asked = foretold(torch.from_numpy(stops.T.astype(float)), stops, 0.5, 3)
    assert left.tolist() == seen.course(Plan(method.cuts, 0.9)).exits.tolist()
    assert asked[:2].sum(axis=0).max() <= 1


def test_multiply_accumulates_by_hand(prepared):
    """Blocks that are run, exits that are asked, and the predictor once, on the device."""
    method, _, ready = prepared(KEY, NAMES[1])
    seen, plan = ready.split("test"), Foretold(method.cuts, 0.9, eta=0.5)
    left, asked = foretold(seen.scores, seen.stops(0.9)[:2], 0.5, 3)
    assert len({tuple(column) for column in asked.T}) > 2
    for n, legs in enumerate(seen.course(plan).legs):
        here = seen.stages[: min(left[n], 1) + 1, n].sum() + (seen.heads[:2, n] * asked[:2, n]).sum()
        assert legs[0].macs == pytest.approx(here + seen.predicting)
        assert len(legs) == (2 if left[n] == 2 else 1)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_executed_is_what_tables_say(prepared, name):
    method, bench, ready = prepared(KEY, name)
    for knob in (0.0, 0.6, 0.9, math.inf):
        found = method.execute(ready, bench, knob)
        assert found.agrees
        assert found.claimed == found.counted


def test_each_machine_holds_its_own_part_alone_and_the_server_may_be_a_process(prepared):
    method, _, ready = prepared(KEY)
    device, server = method.machines(ready)
    assert (set(device.stages), set(server.stages)) == ({0, 1}, {2})
    assert (set(device.heads), set(server.heads)) == ({0, 1}, {2})
    exact, model = ready.split("test").one_by_one(12), ready.model
    world, plan = method.world("test", 0), Always(Foretold(method.cuts, 0.9, eta=0.5))
    here = Device(0, model, range(2), MaxConfidence, method.codec, predictor=model.predictor, early=2)
    with process(Counting(Machine(1, model, range(2, 3), MaxConfidence, method.codec))) as ask:
        work = Executed(here, [far := Told(ask)], exact.examples)
        apart = stream(world, work, plan, [0.0] * 12)
    together = stream(world, exact, plan, [0.0] * 12)
    assert [(a.exit, a.sent, a.returned) for a in apart] == [(b.exit, b.sent, b.returned) for b in together]
    assert [a.macs[0] for a in apart] == [b.macs[0] for b in together]
    assert far.macs == [macs for b in together for macs in b.macs[1:]]
    assert 0 < len(far.macs) < 12
    assert {len(journey.sent) for journey in apart} == {0, 1}
    assert torch.allclose(work.answers(apart, torch.Size([10])), exact.told(together), atol=1e-4)


# Tables and regressions.

KNOWN = Tables(
    ((0.0, 0.5), (0.5, 0.9), (0.9, 0.9)), np.array([0.1, 0.5, 0.9]), np.array([0.7, 0.8, 0.9]),
    np.array([100.0, 80.0, 60.0]), 1000.0, 500.0, 50.0,
)  # fmt: skip
SPEEDS = Speeds(device=100.0, server=1000.0, round_trip=0.5)


def test_expected_times_by_hand():
    """At 1000 bits a second what is sent takes 1 + 0.5 + 0.5 s."""
    assert SPEEDS.expected(KNOWN, 1000.0).tolist() == pytest.approx([1.2, 1.8, 2.4])
    assert SPEEDS.plain(KNOWN, 1000.0) == 2.5
    slow, fast = SPEEDS.expected(KNOWN, 500.0), SPEEDS.expected(KNOWN, 4000.0)
    assert (slow > fast).all()


def test_the_most_accurate_within_the_target_is_taken():
    seconds = np.array([1.2, 1.8, 2.4])
    assert chosen(KNOWN, seconds, 3.0) == (0.9, 0.9)
    assert chosen(KNOWN, seconds, 1.8) == (0.5, 0.9)
    assert chosen(KNOWN, seconds, 1.0) == (0.0, 0.5)  # none is within: the fastest
    equal = KNOWN._replace(accuracy=np.array([0.8, 0.8, 0.8]))
    assert chosen(equal, seconds, 3.0) == (0.0, 0.5)


def test_choices_are_those_of_a_search_over_all_pairs(prepared):
    method, _, ready = prepared(KEY)
    known = ready.fitted
    assert len(known.pairs) == len(ETAS) * len(TAUS)
    for share in (0.25, 1.0, 4.0):
        seconds = method.speeds.expected(known, share * method.bandwidth)
        for target in np.quantile(seconds, [0.1, 0.5, 0.9]):
            best = max(a for a, t in zip(known.accuracy, seconds, strict=True) if t <= target)
            row = known.pairs.index(chosen(known, seconds, target))
            assert known.accuracy[row] == best
            assert seconds[row] <= target


def test_tables_are_made_from_pictures_that_choose_no_knob(prepared):
    method, _, ready = prepared(KEY)
    seen, known = ready.split("fitting"), ready.fitted
    row = known.pairs.index((0.5, 0.9))
    course = seen.course(Foretold(method.cuts, 0.9, eta=0.5))
    assert known.sent[row] == pytest.approx((course.exits == 2).mean())
    assert known.device[row] == pytest.approx(np.mean([legs[0].macs for legs in course.legs]))
    told = seen.answers[torch.as_tensor(course.exits), torch.arange(len(seen.examples))]
    assert known.accuracy[row] == pytest.approx(float((told.argmax(-1) == seen.targets).double().mean()))
    assert known.plain == seen.stages[:2, 0].sum()
    assert known.server == seen.stages[2, 0]
    assert known.bits == 8 * seen.crossed((2,))[1][0, 0]


def test_regressions_follow_what_is_best_at_each_bandwidth():
    """With a target of 1.8 s the second pair is best from 1000 bits a second on, and below it soon the first."""
    free = regressed(KNOWN, SPEEDS, 1000.0, 100.0, 2)
    assert free.at(0.5) == free.at(3.0) == (0.9, 0.9)
    low, high = (regressed(KNOWN, SPEEDS, 1000.0, 1.8, 2).at(share) for share in (0.15, 3.0))
    assert low[1] < high[1]
    assert low[0] < high[0]
    best = [chosen(KNOWN, SPEEDS.expected(KNOWN, 1000 * share), 1.8) for share in BANDWIDTHS]
    flat = regressed(KNOWN, SPEEDS, 1000.0, 1.8, 0)
    assert flat.at(1.0) == pytest.approx(np.mean(best, axis=0), abs=0.006)


def test_regressions_stay_within_what_thresholds_may_be_and_what_was_looked_at():
    steep = Regressions((1.0, 0.5), (-1.0, 0.333))
    assert steep.at(1.0) == (0.5, 0.33)
    assert steep.at(4.0) == (1.0, 0.0)
    assert steep.at(0.25) == (0.0, 1.0)
    line = Regressions((0.1, 0.5), (0.1, 0.5))
    assert line.at(1e-9) == line.at(0.125) == (0.2, 0.2)
    assert line.at(1e9) == line.at(4.0) == (0.7, 0.7)


def test_a_target_of_0_lets_all_leave_at_once_and_an_infinite_one_nobody(prepared):
    method, bench, ready = prepared(KEY)
    first, last = method.sweep(ready, bench, "test", [0.0, math.inf])
    assert first.exits == [1, 0, 0]
    assert last.exits == [0, 0, 1]
    quality, cost = method.full_model(ready, bench)
    assert last.quality == quality
    assert cost < last.cost < 1.05 * cost  # by the predictor


def test_thresholds_follow_what_the_link_has_done():
    """With made tables: what a trained network's are like differs from one processor to the next."""
    machines = {"device": SPEEDS.device, "server": SPEEDS.server, "round_trip": SPEEDS.round_trip, "bandwidth": 1000.0}
    method, ready = tiny(**machines), SimpleNamespace(fitted=KNOWN)
    world, knob = method.world("test", 0), 1.8 / SPEEDS.plain(KNOWN, 1000.0)
    scheduler = method.scheduler(ready, world, knob)
    plans = [scheduler.plan(0, second) for second in np.arange(0.0, 400.0, 5.0)]
    assert len({(plan.knob, plan.eta) for plan in plans}) > 2
    assert plans[0] == Foretold(method.cuts, scheduler.curves.at(1.0)[1], eta=scheduler.curves.at(1.0)[0])
    fixed = tiny(degree=0, **machines).scheduler(ready, world, knob)
    assert len({fixed.plan(0, second) for second in (0.0, 100.0, 200.0)}) == 1
    assert method.scheduler(ready, world, None, 1).only == Plan(method.cuts, None, 1)


def test_the_bandwidth_is_compared_with_the_usual_one_not_with_what_the_trace_will_be():
    """Twice the usual for two seconds, then a tenth: the trace's own mean is known to nobody, and changes nothing."""
    method = tiny(device=100.0, server=1000.0, round_trip=0.5, bandwidth=1000.0)
    link = Link(Trace((0.0, 2.0), (2000.0, 100.0), 100.0), 0.5)
    scheduler = method.scheduler(SimpleNamespace(fitted=KNOWN), SimpleNamespace(links=[link]), 0.8)
    curves = regressed(KNOWN, SPEEDS, 1000.0, 0.8 * 2.5, method.degree)  # plain: 2.5 s
    assert scheduler.curves == curves
    averages = [1.0, 0.3 * 1.0 + 0.7 * 2.0, 0.3 * 1.7 + 0.7 * 2.0]  # in looks half a second apart
    assert len({curves.at(share) for share in averages}) == 3
    for second, share in zip((0.0, 0.5, 1.0), averages, strict=True):
        plan = scheduler.plan(0, second)
        assert (plan.eta, plan.knob) == curves.at(share)
    late = scheduler.plan(0, 50.0)
    assert (late.eta, late.knob) == curves.at(0.1)


def test_curve_and_claim_are_of_one_controller(prepared):
    """At a bandwidth that stays, the scheduler comes to the pair that the claim tries there."""
    method, _, ready = prepared(KEY)
    known, target = ready.fitted, 0.7
    seconds = target * method.speeds.plain(known, method.bandwidth)
    curves = regressed(known, method.speeds, method.bandwidth, seconds, method.degree)
    for share in claimed.LINKS:
        world = SimpleNamespace(links=[Link(steady(share * method.bandwidth), method.round_trip)])
        plan = method.scheduler(ready, world, target).plan(0, 60.0)
        assert (plan.eta, plan.knob) == curves.at(share)


def test_the_world_wanders_anew_on_each_split_and_seed():
    method = registry.get(KEY)
    worlds = [method.world(split, seed) for split, seed in (("test", 0), ("validation", 0), ("test", 1), ("test", 0))]
    traces = [world.links[0].bandwidth for world in worlds]
    assert traces[0] == traces[3]
    assert len({trace.times for trace in traces[:3]}) == 3
    assert {rate / 8e6 for rate in traces[0].rates} <= {0.125, 0.25, 0.5, 1.0, 2.0, 4.0}
    assert method.came(3) == [0, 1, 2]


@pytest.mark.parametrize("scale", ["default", "smoke"])
def test_the_slowest_link_has_carried_a_picture_before_the_next_comes(scale):
    """Else queues grow without end where all pictures are sent, and the full model's time tells of them alone."""
    method = registry.get(KEY).variant("one score", scale)
    x = torch.zeros(1, 48, 48)
    model = method.build(SimpleNamespace(train=SimpleNamespace(inputs=[x]), classes=10), 0)
    h = x[None]
    for stage in model.stages[: method.cuts[0]]:
        h = stage(h)
    link = method.world("test", 0).links[0]
    slowest = method.bandwidth / 8
    assert min(link.bandwidth.rates) == slowest
    assert 8 * len(method.codec.pack(h)) / slowest + link.round_trip < method.came(2)[1]


# Network and training.


def test_the_predictor_is_a_depthwise_convolution_and_two_linear_layers():
    predictor = Predictor(6, 2).eval()
    kinds = [type(part) for part in predictor]
    assert kinds == [
        nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Linear, nn.ReLU, nn.Linear,
    ]  # fmt: skip
    assert predictor[0].weight.shape == (6, 1, 3, 3)
    assert predictor(torch.randn(5, 6, 4, 4)).shape == (5, 2)


def test_the_predictor_is_far_cheaper_than_an_exit():
    method = registry.get(KEY)
    channels, places = 128, 144
    ep = channels * 9 * places + channels * 16 + 16
    exit_ = 9 * channels * channels * places
    assert ep < 0.01 * exit_
    head = method.head((128, 12, 12), 10)
    assert head[0].weight.shape == (128, 128, 3, 3)
    assert head[-1].weight.shape == (10, 512)


def test_labels_say_at_which_exits_a_picture_would_leave(prepared):
    method, _, ready = prepared(KEY)
    z = torch.tensor([[[0.0, 0.0], [9.0, 0.0]], [[5.0, 0.0], [0.0, 0.1]]])
    assert leaving(z, 0.9).tolist() == [[0, 1], [1, 0]]
    assert leaving(z, 0.5).tolist() == [[1, 1], [1, 1]]
    data = method.load()
    each, any_ = (labels(ready.model, data, 2, 0.9, scores) for scores in (2, 1))
    assert each.shape == (600, 2)
    assert torch.equal(any_[:, 0], each.amax(dim=1))
    with torch.inference_mode():
        by_hand = leaving(ready.model(torch.stack(data.train.inputs[:50]))[:2], 0.9)
    assert torch.equal(each[:50], by_hand)


def test_rare_labels_weigh_more():
    logits, z = torch.tensor([[0.3, -1.0], [0.2, 0.5]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    rare = torch.tensor([3.0, 0.5])
    p = logits.sigmoid()
    by_hand = sum(
        -(rare[k] * z[n, k] * p[n, k].log() + (1 - z[n, k]) * (1 - p[n, k]).log()) / 2 for n in (0, 1) for k in (0, 1)
    )
    assert prediction_loss(logits, z, rare).item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_network_learns_with_its_exits_and_then_the_predictor_alone(wired, name):
    model, (first, second) = wired(tiny(name))
    index, x = next(first.train.batches(16))
    y = first.train.targets[index]
    model.eval()
    by_hand = sum(F.cross_entropy(z, y) for z in model(x))
    assert first.loss(first.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    own = {id(p) for p in model.predictor.parameters()}
    assert set(first.rates) == {id(p) for p in model.parameters()} - own
    assert set(second.rates) == own
    scores = 2 if name == NAMES[1] else 1
    z = labels(model, tiny().load(), 2, 0.8, scores)
    rare = (1 - z).sum(0).clamp(min=1) / z.sum(0).clamp(min=1)
    with torch.no_grad():
        logits = model.predictor(model.stages[0](x))
    told = second.loss(second.batch_of(index, x)).item()
    assert told == pytest.approx(prediction_loss(logits, z[index], rare).item(), rel=1e-4)
    assert (set(first.rates.values()), set(second.rates.values())) == ({1e-2}, {1e-2})
    assert [(s.epochs, s.batch, len(s.train)) for s in (first, second)] == [(8, 32, 600), (6, 32, 600)]


def test_the_predictor_changes_nothing_of_the_network():
    method = tiny(train_size=64)
    data = method.load()
    model = method.build(data, 0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    options = {"early": 2, "tau": 0.5, "scores": 1, "epochs": 2.0, "batch": 16, "rate": 1e-2}
    train_predictor(model, data, Bench(), **options)
    moved = {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}
    assert moved
    assert all(name.startswith("predictor.") for name in moved)


# What is claimed.


@pytest.mark.parametrize(("macs", "quality", "holds"), [(89, 0.891, True), (91, 0.9, False), (50, 0.889, False)])
def test_a_tenth_must_be_saved_at_little_loss(macs, quality, holds):
    assert claimed.less(claimed.Spent(macs, quality), claimed.Spent(100, 0.9), "these").holds is holds


@pytest.mark.parametrize(("macs", "holds"), [(90.0, True), (91.0, False)])
def test_a_third_must_be_foretold(macs, holds):
    assert claimed.foreseen(claimed.Spent(macs, 1), claimed.Spent(100, 1), 70.0).holds is holds


@pytest.mark.parametrize(
    ("late", "gains", "holds"),
    [
        ([(0.05, 0.1)], [-0.005], True), ([(0.06, 0.1)], [0.0], False), ([(0.0, 0.1)], [-0.006], False),
        ([(0.0, 0.0)], [0.1], False), ([], [], False),
    ],
)  # fmt: skip
def test_targets_must_be_kept_twice_as_well(late, gains, holds):
    assert claimed.judged(late, gains).holds is holds


def test_what_follows_is_set_beside_what_is_best_at_the_usual_bandwidth(monkeypatch):
    """From that bandwidth on accuracy counts, and at every bandwidth how much later than the target answers are."""
    machines = {"device": SPEEDS.device, "server": SPEEDS.server, "round_trip": SPEEDS.round_trip, "bandwidth": 1000.0}
    method, asked = tiny(**machines), []

    def tried(method, prepared, share, pair):
        asked.append((share, pair))
        ours = len(asked) % 2
        return (1.1 if ours else 1.5) * seconds, (share / 10 if ours else 0.0)

    monkeypatch.setattr(claimed, "TARGETS", (0.8,))
    monkeypatch.setattr(claimed, "tried", tried)
    seconds = 0.8 * SPEEDS.plain(KNOWN, 1000.0)
    found = claimed.adapted(method, SimpleNamespace(fitted=KNOWN))
    shares = [share for share in claimed.LINKS if SPEEDS.expected(KNOWN, 1000.0 * share).min() <= seconds]
    assert {1.0, 2.0, 4.0} <= set(shares)
    curves = regressed(KNOWN, SPEEDS, 1000.0, seconds, method.degree)
    usual = chosen(KNOWN, SPEEDS.expected(KNOWN, 1000.0), seconds)
    assert asked == [(share, pair) for share in shares for pair in (curves.at(share), usual)]
    assert found.measured == ("10.0% over the target instead of 50.0%, accuracy +0.2333 from the usual bandwidth on")


def test_each_side_has_its_cheapest_thresholds(prepared):
    """Plain exits may lower tau as EP may: what EP saves is judged against that."""
    method, _, ready = prepared(KEY)
    held, test = ready.split("validation"), ready.split("test")
    least = claimed.on_device(held, Plan(method.cuts, method.tau)).quality - 0.005

    def best(plans):
        spent = [(claimed.on_device(held, plan), plan) for plan in plans]
        return min((each for each in spent if each[0].quality >= least), key=lambda each: each[0].macs)[1]

    plain = best([Plan(method.cuts, tau) for tau in TAUS])
    ep = best([Foretold(method.cuts, tau, eta=eta) for eta in ETAS for tau in TAUS])
    ours, theirs = (claimed.on_device(test, plan) for plan in (ep, plain))
    found, _ = claimed.spared(method, ready)
    assert found.measured == (
        f"{1 - ours.macs / theirs.macs:.1%} less, accuracy {ours.quality - theirs.quality:+.4f}, at eta = {ep.eta:g} "
        f"and tau = {ep.knob:g} against tau = {plain.knob:g}"
    )
    assert plain.knob != method.tau
    plans = [Plan(method.cuts, tau) for tau in (0.0, 0.9)]
    strict = claimed.on_device(held, plans[1]).quality
    assert claimed.on_device(held, plans[0]).quality < strict
    assert claimed.cheapest(held, plans, strict) == plans[1]  # the cheaper one is not good enough
    assert claimed.cheapest(held, plans, 0.0) == plans[0]
    assert claimed.cheapest(held, plans[::-1], 1.1) == plans[1]  # none is


@pytest.mark.parametrize(
    ("ours", "quality", "server", "holds"),
    [(89, 0.88, 200, True), (91, 0.9, 200, False), (89, 0.879, 200, False), (60, 0.9, 66, False), (60, 0.9, 67, True)],
)
def test_an_answer_must_be_sooner_than_from_either_machine_alone(ours, quality, server, holds):
    """The device takes 100 ms; at another bandwidth the server is the sooner one."""
    found = [claimed.Beside(8.0, 50.0, 0.9, 40.0, 0.9), claimed.Beside(0.5, ours, quality, server, 0.9)]
    outcome = claimed.beside_one_machine(found, 100.0, 0.4)
    assert outcome.holds is holds
    assert "50 (0.9000) and 40 at 8, " in outcome.measured


def test_what_the_server_alone_takes_by_hand(prepared, monkeypatch):
    """A picture there, all work, an answer back; the controller has the thresholds of the same bandwidth, and both see
    the same pictures.
    """
    monkeypatch.setattr(claimed, "PICTURES", 50)
    method, _, ready = prepared(KEY)
    seen, target = ready.split("test"), 0.7
    found = claimed.beside(method, ready, target)
    message, answer = (leg.size for leg in seen.course(Plan((0,))).legs[0])
    assert message > 4 * seen.examples.inputs[0].numel()
    for one, share in zip(found, claimed.RATES, strict=True):
        bits = share * method.bandwidth
        by_hand = 8 * (message + answer) / bits + method.round_trip + seen.static_costs[-1, 0] / method.server
        assert one.server == pytest.approx(1000 * by_hand)
        assert one.rate == pytest.approx(bits / 1e6)
        world = SimpleNamespace(links=[Link(steady(bits), method.round_trip)])
        plan = method.scheduler(ready, world, target).plan(0, 60.0)
        seconds, quality = claimed.tried(method, ready, share, (plan.eta, plan.knob))
        assert (one.ours, one.accuracy) == (pytest.approx(1000 * seconds), quality)
        right = seen.answers[-1].argmax(-1) == seen.targets
        assert one.full == pytest.approx(float(right[:50].double().mean()))
    assert found[0].server > found[-1].server


def test_claims_are_tried_on_trained_exits(prepared):
    method, bench, ready = prepared(KEY)
    points = method.sweep(ready, bench, "test", method.knobs)
    _, device, _ = method.baselines(ready, bench)
    curve = SimpleNamespace(
        validation=points, test=points, full_quality=points[-1].quality, baselines=[device], chance=None
    )
    found = claimed.claims(method, ready, bench, curve)
    assert [outcome.name for outcome in found] == [
        "less computation on the device",
        "a good part of what can be foretold",
        "keeps the target as bandwidth changes",
        "sooner than one machine alone",
    ]
    assert f"where the device alone takes {device.test[0].cost:.0f} and both alone" in found[-1].measured
    seen = ready.split("test")
    for tau in (0.5, method.tau):
        plain = Plan(method.cuts, tau)
        best, spent = claimed.perfect(seen, 2, plain), claimed.on_device(seen, plain)
        assert best.quality == spent.quality
        assert best.macs < spent.macs
    seconds, quality = claimed.tried(method, ready, 1.0, (1.1, 1.1))
    assert quality == method.full_model(ready, bench)[0]
    blocks = seen.stages[:2, 0].sum() + seen.predicting
    by_hand = blocks / 2e6 + seen.stages[2, 0] / 1e8 + 0.01
    course = seen.course(Foretold(method.cuts, 1.1, eta=1.1)).legs[0]
    by_hand += 8 * (course[0].size + course[1].size) / 4e5
    assert seconds == pytest.approx(by_hand)
