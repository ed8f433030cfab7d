"""What only CDNN-over-Fog promises: thresholds, places and rates by hand and by search, and three ways of training."""

import math
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import baccarelli2020cdnn as claimed
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Effort, OperatingPoint
from eelit.methods.families.tiers import Plan
from eelit.methods.harness import registry
from eelit.methods.papers.baccarelli2020cdnn import (
    NEVER,
    Mapped,
    Term,
    allotted,
    energy,
    known,
    left,
    placed,
    price_of,
    threshold,
    train_classifiers,
)
from eelit.methods.world.stream import Always, Journey, stream

KEY = "baccarelli2020cdnn"


def tiny(variant="end-to-end", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# Thresholds.


@pytest.mark.parametrize(
    ("alpha", "beta"), [(1.0, 0.0), (0.4, 0.0), (0.39, 0.5), (0.25, 0.5), (0.24, 0.8), (0.0, 0.8), (-1.0, math.inf)]
)
def test_beta_is_the_least_that_keeps_the_error(alpha, beta):
    """Of 0.9, 0.95 (right), 0.8 (wrong), 0.7 (right), 0.5 (wrong) errors are 2/5, 1/4 above 0.5, 1/3 above 0.7, 0."""
    c = np.array([0.8, 0.95, 0.5, 0.9, 0.7])
    right = np.array([False, True, False, True, True])
    assert threshold(c, right, alpha) == beta


def test_samples_that_are_equally_sure_are_accepted_together():
    c, right = np.array([0.9, 0.9, 0.6]), np.array([True, False, True])
    assert threshold(c, right, 0.34) == 0.0
    assert threshold(c, right, 0.3) == math.inf  # above 0.6 half is wrong, and the first is never alone


def test_who_has_no_confidence_is_not_accepted():
    c, right = np.array([math.nan, 0.9, math.nan]), np.array([False, True, False])
    assert threshold(c, right, 0.0) == 0.0
    assert threshold(np.array([math.nan]), np.array([True]), 1.0) == math.inf


@pytest.mark.parametrize("seed", range(20))
def test_beta_is_what_trying_every_number_finds(seed):
    random = np.random.default_rng(seed)
    c = random.choice([0.0, 0.2, 0.5, 0.7, 0.9, math.nan], size=seed)
    right = random.random(seed) < 0.7
    for alpha in (1.0, 0.4, 0.25, 0.1, 0.0, NEVER):
        able = [
            beta
            for beta in (0.0, *c[c > 0])
            if (c > beta).any() and (~right[c > beta]).sum() <= alpha * (c > beta).sum()
        ]
        assert threshold(c, right, alpha) == min(able, default=math.inf)


def test_a_smaller_alpha_accepts_no_more(prepared):
    method, _, ready = prepared(KEY)
    confidence, right = ready.fitted
    for c, r in zip(confidence, right, strict=True):
        shares = [float((c > threshold(c, r, alpha)).mean()) for alpha in method.knobs]
        assert shares == sorted(shares, reverse=True)
        assert (shares[0], shares[-1]) == (1, 0)
        for alpha in method.knobs[:-1]:
            accepted = c > threshold(c, r, alpha)
            assert not accepted.any() or (~r[accepted]).mean() <= alpha


def test_the_rule_is_strict(prepared):
    """Who is just as sure as beta goes on."""
    method, _, ready = prepared(KEY)
    rule = method.policy(0.02, ready)
    for beta, c, r in zip(rule.threshold, *ready.fitted, strict=True):
        own = threshold(c, r, 0.02)
        assert own < beta < own + 1e-6 or own == beta == math.inf
    p = torch.tensor([[0.0, 0.0]], dtype=torch.float64)
    half = type(rule)([math.nextafter(0.5, 1)])
    assert half.step((), p)[1].tolist() == [False]
    assert half.step((), p + torch.tensor([0.01, 0]))[1].tolist() == [True]
    assert method.policy(-1.0, ready).threshold == (math.inf,) * len(rule.threshold)


def test_each_exit_looks_at_all_held_out_samples_by_itself(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("fitting")
    found = known(seen)
    assert found.confidence.shape == (ready.model.exits - 1, len(seen.examples))
    assert np.allclose(found.confidence[0], F.softmax(seen.answers[0], -1).amax(-1))
    assert found.right[0].tolist() == (seen.answers[0].argmax(-1) == seen.targets).tolist()


# Places.


def test_places_by_hand():
    """c = 1, 1, 4 and a = 0.3, then half of the rest: gains are 1.5 and 2."""
    accepts = np.zeros((2, 20), dtype=bool)
    accepts[0, :6], accepts[1, 6:13] = True, True
    assert placed(accepts, (1, 1, 4), (0.5, 0.5)) == (True, True)
    assert placed(accepts, (1, 1, 4), (2, 2)) == (False, False)
    assert placed(accepts, (1, 1, 4), (1.4, 2)) == (True, False)  # 2 > 2 is false
    accepts[1, :6] = True  # whom the first takes is gone for the second
    assert placed(accepts, (1, 1, 4), (0.5, 1.9)) == (True, True)
    assert placed(accepts, (1, 1, 4), (0.5, 2.0)) == (True, False)
    assert placed(accepts, (1, 1, 4), (1.5, 2.5)) == (False, True)  # 13 of 20 of 4 are 2.6


def test_an_exit_that_accepts_nobody_is_never_placed_and_a_free_one_always():
    accepts = np.array([[False] * 4, [True, False, False, False]])
    assert placed(accepts, (1, 1, 1), (0, 0)) == (False, True)
    assert placed(np.ones((2, 3), dtype=bool), (1, 1, 1), (0, 0)) == (True, False)  # nobody is left


def test_what_is_left_answers_as_before(prepared):
    method, bench, _ = prepared(KEY)
    model, data = method.trained(bench)
    x = torch.stack(data.test.inputs[:5])
    with torch.inference_mode():
        every = model(x)
        for kept in product((False, True), repeat=2):
            few = left(model, kept)
            places = [*(i for i in (0, 1) if kept[i]), 2]
            assert torch.allclose(few(x), every[places], atol=1e-6)
            assert torch.allclose(few.full(x), every[-1], atol=1e-6)


def test_no_exit_is_placed_if_none_may_err(prepared):
    _, bench, _ = prepared(KEY)
    method = tiny(alpha=-1.0)
    ready = method.prepare(bench)
    assert ready.model.exits == 1
    assert method.cuts(1) == [(1, 1)]
    (point,) = method.sweep(ready, bench, "test", [0.1])
    assert point.cost == method.full_model(ready, bench)[1]


# Energy and rates.


def test_energy_is_a_power_of_the_rate():
    """At the highest rate watts ÷ rate; twice the rate costs 2^(gamma - 1) times as much and takes half the time."""
    assert energy(100.0, 100.0, 5.0, 3.0) == 0.05
    assert energy(50.0, 100.0, 5.0, 3.0) == pytest.approx(0.05 / 4)
    term = Term(0, 200.0, 100.0, 100.0, 5.0, 3.0)
    assert (term.least, term.joules(100.0)) == (2.0, 5.0)
    assert term.joules(50.0) == pytest.approx(5 / 4)


def test_time_is_shared_in_closed_form_where_exponents_are_equal():
    """J_i = A_i / x_i^2, so x_i goes by the cube root of A_i."""
    terms = [Term(0, 1.0, 1.0, 100.0, 1e6 * a, 3.0) for a in (1.0, 8.0, 27.0)]
    assert allotted(terms, [6.0]) == pytest.approx([1, 2, 3])


def test_no_term_is_faster_than_it_can_be_and_what_nobody_needs_takes_no_time():
    slow, idle = Term(0, 10.0, 10.0, 5.0, 1.0, 3.0), Term(0, 10.0, 0.0, 1000.0, 1.0, 3.0)
    quick = Term(0, 1.0, 1.0, 1e6, 1.0, 3.0)
    found = allotted([slow, idle, quick], [2.1])
    assert found[1] == 0.01
    assert found[0] >= 2
    assert sum(found) == pytest.approx(2.1)
    assert allotted([slow], [1.0]) == [2.0]  # too late, as fast as it goes
    assert price_of([slow], 1.0) == math.inf
    assert price_of([idle], 1.0) == 0.0


def test_rates_are_those_of_a_search():
    """Three tiers with two links between; a grid over seconds finds nothing cheaper within the limits."""
    terms = [
        Term(0, 4.0, 4.0, 40.0, 2.0, 3.1), Term(1, 6.0, 3.0, 30.0, 1.0, 2.25), Term(1, 5.0, 2.5, 100.0, 9.0, 3.1),
        Term(2, 6.0, 0.6, 60.0, 1.0, 2.25), Term(2, 9.0, 0.9, 300.0, 50.0, 3.1),
    ]  # fmt: skip
    for limits in ((0.3, 0.8, 1.0), (1.0, 1.0, 1.0), (0.2, 1.5, 1.6), (0.5, 0.6, 3.0)):

        def joules(x):
            return sum(t.joules(t.amount / s) for t, s in zip(terms, x, strict=True))

        ours = allotted(terms, limits)
        for m, limit in enumerate(limits):
            assert sum(s for t, s in zip(terms, ours, strict=True) if t.tier <= m) <= limit + 1e-9
        assert sum(ours) == pytest.approx(limits[-1])
        steps = [np.linspace(t.least, limits[t.tier], 22) for t in terms]
        a, b, c, d, e = np.meshgrid(*steps, indexing="ij", sparse=True)
        within = (a <= limits[0]) & (a + b + c <= limits[1]) & (a + b + c + d + e <= limits[2])
        cost = sum(
            t.expected * t.watts / t.cap * (t.amount / s / t.cap) ** (t.power - 1)
            for t, s in zip(terms, (a, b, c, d, e), strict=True)
        )
        best = np.where(within, cost, np.inf).min()
        assert joules(ours) <= best + 1e-12
        assert joules(ours) >= 0.5 * best  # and the grid comes near


# The tiers.


def test_layers_lie_on_all_tiers_if_there_are_enough():
    method = tiny()
    assert method.cuts(4) == [(1, 2), (1, 3), (2, 3)]
    assert method.cuts(2) == [(1, 1), (1, 2), (2, 2)]


def test_the_mapping_is_the_cheapest_that_keeps_the_limits(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("fitting")
    for knob in (0.3, 0.02, -1.0, None):
        chosen = method.scheduler(ready, method.world("test", 0), knob).only
        every = [method.mapped(seen, cuts, knob, -1) for cuts in method.cuts(ready.model.exits)]
        (late, joules), plan = min(every, key=lambda each: each[0])
        assert (chosen, late) == (plan, 0)
        assert all(joules <= other for (behind, other), _ in every if not behind)
        assert all(f <= cap for f, cap in zip(plan.speeds + plan.rates, method.speeds + method.rates, strict=True))


@pytest.mark.parametrize("knob", [0.02, -1.0])
def test_every_answer_is_there_within_the_limit_of_its_tier(prepared, knob):
    method, _, ready = prepared(KEY)
    journeys = method.simulated(ready, "test", knob)
    taken = {}
    for journey in journeys:
        seconds, tier = journey.answered - journey.came, len(journey.macs) - 1
        assert seconds <= method.limits[tier] + 1e-9
        taken[tier] = seconds
    assert taken[2] == pytest.approx(method.limits[2])  # the way to the end is as slow as it may be


def test_limits_that_nothing_keeps_are_broken_by_as_little_as_can_be(prepared):
    _, _, ready = prepared(KEY)
    method = tiny(limits=(1e-4, 2e-4, 3e-4))
    plan = method.scheduler(ready, method.world("test", 0), -1.0).only
    assert plan.speeds == pytest.approx(method.speeds)
    assert method.mapped(ready.split("fitting"), plan.cuts, -1.0, -1)[0][0] > 0


def test_looser_limits_cost_less(prepared):
    _, _, ready = prepared(KEY)
    seen, cuts = ready.split("fitting"), tiny().cuts(ready.model.exits)[0]
    costs = [
        tiny(limits=tuple(k * s for s in (0.1, 0.25, 0.4))).mapped(seen, cuts, 0.02, -1)[0][1] for k in (1, 1.5, 3)
    ]
    assert costs[0] > costs[1] > costs[2]


def test_expected_joules_are_those_of_the_samples_that_were_looked_at(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("fitting")
    cuts = method.cuts(ready.model.exits)[-1]
    (_, joules), plan = method.mapped(seen, cuts, 0.02, -1)
    scheduler = Always(plan)
    world = method.at_work(method.world("validation", 0), scheduler)
    journeys = stream(world, seen, scheduler, method.came(len(seen.examples)))
    idle = method.idle * method.limits[-1]
    assert np.mean([method.price(j) for j in journeys]) == pytest.approx(1000 * (joules + idle))


def test_what_is_told_of_the_world_are_the_rates_that_test_pictures_went_through(prepared):
    method, bench, ready = prepared(KEY)
    told = method.simulation(ready, bench).constants
    assert told[0].startswith("tier 1: at most 0.003 billion MACs/s, which draw 2 W; its answers are due 100 ms after")
    assert told[3] == "link 1: at most 0.4 Mbit/s, which draw 1 W"
    for said, knob in zip(told[-2:], (None, method.alpha), strict=True):
        plan = method.simulated(ready, "test", knob)[0].plan
        speeds, rates = said.split("tiers run at ")[1].removesuffix(" Mbit/s").split(" billion MACs/s, and links at ")
        assert [1e9 * float(each) for each in speeds.split(", ")] == pytest.approx(plan.speeds, rel=1e-3)
        assert [1e6 * float(each) for each in rates.split(", ")] == pytest.approx(plan.rates, rel=1e-3)
        assert plan.speeds < method.speeds
    assert told[-1].startswith("with exits at alpha = 0.01, ")


def test_price_by_hand():
    method = tiny(gamma=3.0, zeta=2.0, idle=0.5, limits=(0.1, 0.1, 0.2), watts=(2.0, 20.0, 100.0), radios=(1.0, 4.0))
    plan = Mapped((1, 2), 0.1, speeds=(1.5e6, 3e7, 3e8), rates=(2e5, 2e6))
    journey = Journey(0.0, plan=plan, macs=[300.0, 3000.0, 30.0], sent=[100, 50], returned=[42, 42])
    device, fog, cloud = 300 * 2 / 3e6 / 4, 3000 * 20 / 3e7, 30 * 100 / 3e8
    first, second = 8 * 142 * 1 / 4e5 / 2, 8 * 92 * 4 / 2e6
    assert method.price(journey) == pytest.approx(1000 * (0.1 + device + fog + cloud + first + second))
    short = Journey(0.0, plan=plan, macs=[300.0], sent=[], returned=[])
    assert method.price(short) == pytest.approx(1000 * (0.1 + device))


def test_the_plain_network_is_mapped_alike(prepared):
    method, bench, ready = prepared(KEY)
    journeys = ready.cut_off("test")
    assert {journey.exit for journey in journeys} == {ready.model.exits - 1}
    seen = ready.split("test")
    assert sum(journeys[0].macs) == seen.static_costs[-1, 0]
    every = [method.mapped(ready.split("fitting"), cuts, None, -1)[0] for cuts in method.cuts(ready.model.exits)]
    assert method.full_model(ready, bench)[1] == pytest.approx(
        1000 * (min(every)[1] + method.idle * method.limits[-1]), rel=1e-9
    )
    assert ready.cut_off("test", 0)[0].exit == 0


def test_a_tier_that_is_too_slow_for_the_whole_network_is_said_to_be_late(prepared):
    """The device has 50 ms and takes longer at its highest rate; the cloud has as long as it needs."""
    method, bench, ready = prepared(KEY)
    macs = ready.split("test").static_costs[-1, 0]
    hurried = method.replace({"speeds": (macs / 0.08, 3e7, 3e8), "limits": (0.05, 0.25, 9.0)})
    assert [base.name for base in hurried.baselines(ready, bench)[1:]] == [
        "all on the device, 30 ms late", "all on the last machine",
    ]  # fmt: skip
    patient = hurried.replace({"limits": (0.09, 0.25, 9.0)})
    assert patient.baselines(ready, bench)[1].name == "all on the device"


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"limits": (0.1, 0.2)}, "each tier has its speed"),
        ({"rates": (1e6,)}, "each tier has its speed"),
        ({"limits": (0.2, 0.1, 0.3)}, "do not fall"),
        ({"limits": (0.0, 0.1, 0.3)}, "do not fall"),
        ({"gamma": 1.0}, "exponents above 1"),
        ({"zeta": 0.5}, "exponents above 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        tiny(**wrong)


def test_an_unknown_training_is_refused():
    with pytest.raises(ValueError, match="layer-wise or classifier-wise, not 'greedy'"):
        tiny(training="greedy").prepare(Bench(most_steps=0))


# Training.


def test_end_to_end_minimises_all_losses_over_everything(wired):
    model, (stage,) = wired(tiny())
    index, x = next(stage.train.batches(16))
    y = stage.train.targets[index]
    model.eval()
    by_hand = sum(F.cross_entropy(z, y) for z in model(x))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(stage.rates) == {id(p) for p in model.parameters()}
    assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 600)


def test_layer_wise_trains_each_layer_with_its_exit(wired):
    model, found = wired(tiny("layer-wise"))
    assert len(found) == 3
    for i, stage in enumerate(found):
        index, x = next(stage.train.batches(16))
        model.eval()
        by_hand = F.cross_entropy(model(x)[i], stage.train.targets[index])
        assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
        own = [*model.stages[i].parameters(), *model.heads[i].parameters()]
        assert set(stage.rates) == {id(p) for p in own}
        assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 600)


def test_a_layer_stays_as_it_is_once_the_next_one_learns():
    method, after = tiny("layer-wise", train_size=64, epochs=1.0), []
    model = method.build(data := method.load(), 0)

    def watch(stage):
        if stage is None:
            after.append([{n: v.clone() for n, v in part.state_dict().items()} for part in model.stages])

    method.train(model, data, Bench(watch=watch))
    for i, then in enumerate(after):
        for part in range(3):
            same = all(torch.equal(then[part][n], after[-1][part][n]) for n in then[part])
            assert same is (part <= i or i == len(after) - 1)


def test_classifier_wise_trains_the_network_and_then_each_exit_by_itself(wired):
    model, (first, *others) = wired(tiny("classifier-wise"))
    index, x = next(first.train.batches(16))
    model.eval()
    y = first.train.targets[index]
    assert first.loss(first.batch_of(index, x)).item() == pytest.approx(F.cross_entropy(model.full(x), y).item(), 1e-4)
    assert set(first.rates) == {id(p) for p in model.plain_network().parameters()}
    assert len(others) == 2
    for i, stage in enumerate(others):
        index, states = next(stage.train.batches(16))
        inputs = torch.stack([first.train.inputs[n] for n in index.tolist()])
        by_hand = F.cross_entropy(model(inputs)[i], stage.train.targets[index])
        assert stage.loss(stage.batch_of(index, states)).item() == pytest.approx(by_hand.item(), rel=1e-4)
        assert set(stage.rates) == {id(p) for p in model.heads[i].parameters()}
        assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 4, 32, 600)


def test_classifiers_do_not_depend_on_each_other():
    """Alone or with others, a classifier becomes the same; nothing of the network moves."""
    method = tiny("classifier-wise", train_size=64)
    data = method.load()
    one, two = (method.build(data, 0) for _ in range(2))
    with torch.no_grad():
        for p in two.heads[0].parameters():
            p.mul_(3)  # another first classifier
    plain = {name: value.clone() for name, value in one.plain_network().state_dict().items()}
    for model in (one, two):
        train_classifiers(model, data, Bench(), epochs=2.0, batch=16, rate=1e-2)
    ours, theirs = one.heads[1].state_dict(), two.heads[1].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert all(torch.equal(plain[name], value) for name, value in one.plain_network().state_dict().items())


# What is claimed.


@pytest.mark.parametrize(("over", "holds"), [([0.02, -0.1], True), ([0.021, 0.0], False), ([], False)])
def test_errors_must_stay_near_what_is_tolerated(over, holds):
    assert claimed.held(over).holds is holds


def test_how_far_errors_are_off_is_told_at_most_and_on_average():
    assert claimed.held([0.04, -0.01]).measured == "+0.0400 at most, +0.0150 on average, of 2 exits and alphas"


def test_errors_are_those_of_test_samples_at_thresholds_of_held_out_ones(prepared, monkeypatch):
    _, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FEW", 1)

    def excess(seen):
        found = []
        for alpha in claimed.ALPHAS:
            for *held, c, right in zip(*ready.fitted, *seen, strict=True):
                accepted = c > threshold(*held, alpha)
                found += [float((~right[accepted]).mean()) - alpha] if accepted.any() else []
        return found

    over, within = excess(known(ready.split("test"))), excess(ready.fitted)
    told = f"{max(over):+.4f} at most, {np.mean(over):+.4f} on average, of {len(over)} exits and alphas"
    assert claimed.kept_errors(ready).measured == told
    assert over != within  # those of the held-out samples themselves
    assert max(within) <= 0


@pytest.mark.parametrize(("greedy", "holds"), [(1.02, True), (1.03, False)])
def test_one_pass_must_come_near_the_best_subset(greedy, holds):
    assert claimed.close(greedy, 1.0, 4).holds is holds


def test_what_a_subset_of_exits_costs_by_hand():
    accepts = np.array([[True, False, False, False], [True, True, False, False]])
    assert claimed.spent(accepts, (1, 2, 4), (0.5, 0.25), (False, False)) == 7
    assert claimed.spent(accepts, (1, 2, 4), (0.5, 0.25), (True, True)) == (4 * 1.5 + 3 * 2.25 + 2 * 4) / 4
    assert claimed.spent(accepts, (1, 2, 4), (0.5, 0.25), (False, True)) == (4 + 4 * 2.25 + 2 * 4) / 4


@pytest.mark.parametrize(("cost", "quality", "holds"), [(66.0, 0.881, True), (67.0, 0.9, False), (50.0, 0.879, False)])
def test_a_third_of_the_energy_must_be_saved_at_little_loss(cost, quality, holds):
    def points(best):
        return [OperatingPoint(knob=0.1, quality=q, cost=c, speed_up=1, exits=[1]) for q, c in (best, (0.9, 110.0))]

    curve = SimpleNamespace(
        validation=points((0.895, cost)), test=points((quality, cost)), full_quality=0.9, full_cost=100.0,
        baselines=[SimpleNamespace(name=name, test=points((0.9, 1.0))[1:]) for name in ("static", "all on the device")],
    )  # fmt: skip
    found = claimed.less_energy(curve, 20.0)
    assert found.holds is holds  # idle power counts on both sides
    assert found.measured.endswith("at alpha = 0.1; all on the device: 110 mJ")
    assert f"{cost - 20:.3g} instead of 80 without the 20 mJ of idle power" in found.measured
    assert "nothing was measured" in found.not_comparable


@pytest.mark.parametrize(("found", "holds"), [([0.01, 0.0], True), ([0.004, 0.005], False), ([], False)])
def test_another_training_must_be_worth_half_a_point(found, holds):
    outcome = claimed.better("layer-wise", found, "both took long")
    assert (outcome.name, outcome.holds) == ("better than layer-wise training", holds)
    assert outcome.measured.endswith(f"over the energies of {len(found)} settings; both took long")


def test_claims_are_tried_and_trainings_compared_once(prepared):
    method, bench, ready = prepared(KEY)
    swept = [method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")]
    quality, cost = method.full_model(ready, bench)
    took = Effort(seconds=1.25, steps=11)
    curve = SimpleNamespace(
        validation=swept[0], test=swept[1], full_quality=quality, full_cost=cost, training=took, baselines=[]
    )
    before = dict(bench.trainings)
    found = claimed.claims(method, ready, bench, curve)
    assert [outcome.name for outcome in found][-2:] == [
        "better than layer-wise training",
        "better than classifier-wise training",
    ]
    assert len(found) == 5
    assert found[1].holds
    for outcome, variant in zip(found[-2:], ("layer-wise", "classifier-wise"), strict=True):
        own = replace(bench, trainings={})
        tiny(variant).prepare(own)  # from the cache, which tells what its training took
        assert before.items() | own.trainings.items() <= bench.trainings.items()
        steps = sum(effort.steps for effort in own.trainings.values())
        seconds = sum(effort.seconds for effort in own.trainings.values())
        assert outcome.measured.endswith(
            f"; end-to-end took 11 steps and 1.2 s of the processor, {variant} took {steps} steps and {seconds:.1f} s "
            "of the processor"
        )
        assert steps > 0
    other, _, apart = prepared(KEY, "layer-wise")
    assert len(claimed.claims(other, apart, bench, curve)) == 3


def test_each_machine_runs_its_own_layers(prepared):
    method, bench, ready = prepared(KEY)
    assert method.execute(ready, bench, 0.02).agrees
    plan = method.scheduler(ready, method.world("test", 0), -1.0).only
    seen = ready.split("test")
    legs = seen.course(Plan(plan.cuts, -1.0)).legs[0]
    bounds = plan.bounds(ready.model.exits)
    for leg, (first, stop) in zip(legs, bounds, strict=True):
        assert leg.macs == seen.stages[first:stop, 0].sum() + seen.heads[first:stop, 0].sum()
