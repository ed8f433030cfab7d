"""What only DEE promises: leave or go on by what was seen so far, worth learnt backwards, and regret that vanishes."""

from itertools import product
from math import inf, log, sqrt

import numpy as np
import pytest
from wiring import check_joint_training

from eelit.methods.claims import ju2021dee as claimed
from eelit.methods.claims.ju2021dee import Trial, best_rule, better, better_than_constant, near_best, regret_falls
from eelit.methods.families.on_device import Confident, Fixed, Served, Stored, drive
from eelit.methods.harness import registry
from eelit.methods.papers.ju2021dee import ContextBandit, Grid
from eelit.methods.world.machines import Computer
from eelit.methods.world.traces import steady

KEY = "ju2021dee"
SECOND = Computer(steady(1.0))


def phone(sure, costs):
    """Exits as sure as this ``[E, N]``, whose heads cost nothing, at a multiply-accumulate a second."""
    sure = np.array(sure, dtype=float)
    costs = np.repeat(np.array(costs, dtype=float)[:, None], sure.shape[1], axis=1)
    return Stored(sure, costs, np.zeros_like(costs))


def dee(exits, price, cells=10, times=1, beta=0.05, forced=0.3):
    return ContextBandit(exits, price, Grid(cells, times), beta, forced)


def stream(samples, seed=0):
    """Two kinds of frames: one gains much at the second exit, the other nothing; the first exit tells which it is."""
    hard = np.random.default_rng(seed).random(samples) < 0.5
    return phone([np.where(hard, 0.35, 0.85), np.where(hard, 0.95, 0.85)], (1, 2))


def frames(samples):
    return [(i, 0.0) for i in range(samples)]


# The grid.


@pytest.mark.parametrize(
    ("confidence", "latency", "cell"),
    [(0.0, 2.0, (0, 0)), (0.1, 2.9, (1, 0)), (0.99, 3.0, (9, 1)), (1.0, 4.0, (9, 1)), (0.55, 100.0, (5, 1))],
)
def test_cells_by_hand(confidence, latency, cell):
    assert Grid(10, 2).cell(confidence, latency, 2.0) == cell


@pytest.mark.parametrize("bad", [(0, 1), (1, 0)])
def test_a_grid_without_cells_is_refused(bad):
    with pytest.raises(ValueError, match="at least one cell"):
        Grid(*bad)


@pytest.mark.parametrize("bad", [{"price": -1.0}, {"price": inf}, {"beta": -0.1}, {"forced": 1.0}, {"exits": 0}])
def test_what_makes_no_bandit_is_refused(bad):
    with pytest.raises(ValueError, match="at least 0"):
        dee(**{"exits": 2, "price": 0.1, **bad})


# The rule.


def test_a_decision_by_hand():
    """t = 5, two frames went on from this cell to 0.6 and 0.4; D(5) = 5 ** 0.3 = 1.6."""
    for utility, leaves in [(0.01, True), (-0.01, False)]:
        bandit = dee(2, 0.5)
        bandit.frames, bandit.counts[0][7, 0], bandit.values[0][7, 0] = 4, 2, 0.5
        hoped = 0.5 + sqrt(0.05 * log(5) / 2)
        bandit.first(0, 0.0)
        latency = (0.75 - hoped - utility) / 0.5  # so that c - lambda l is so much more than is hoped for
        assert (bandit.then(0, 0.75, latency) is None) is leaves
        assert bandit.way == ([] if leaves else [(7, 0)])


def test_going_on_is_tried_often_enough_whatever_it_is_worth():
    """Leaving is always best; after t frames about t ** a have gone on all the same, and no fewer."""
    bandit = dee(2, 1.0, beta=0.0, forced=0.5)
    drive(bandit, phone(np.full((2, 400), [[0.9], [0.1]]), (0.1, 0.2)), SECOND, frames(400))
    assert bandit.counts.sum() == 20
    assert bandit.frames == 400


def test_every_passed_exit_learns_the_final_utility_once():
    bandit = dee(3, 0.1)
    bandit.first(0, 0.0)
    assert bandit.then(0, 0.25, 1.0) == 1
    assert bandit.then(1, 0.65, 2.0) == 2
    assert bandit.then(2, 0.8, 3.0) is None
    bandit.learn(Served(0, 0.0, 0.0, 3.0, 2, 0.8, 3.0))
    bandit.first(1, 0.0)
    bandit.then(0, 0.25, 1.0)
    bandit.learn(Served(1, 0.0, 0.0, 2.0, 1, 0.5, 2.0))
    assert bandit.counts[0][2, 0] == 2
    assert bandit.values[0][2, 0] == pytest.approx((0.5 + 0.3) / 2)
    assert (bandit.counts[1][6, 0], bandit.values[1][6, 0]) == (1, pytest.approx(0.5))
    assert bandit.counts.sum() == 3


def test_visits_are_nested():
    random = np.random.default_rng(0)
    bandit = dee(4, 0.05, times=2)
    served = drive(bandit, phone(np.sort(random.random((4, 600)), axis=0), (1, 2, 3, 4)), SECOND, frames(600))
    totals = bandit.counts.sum(axis=(1, 2)).tolist()
    assert totals == [sum(each.exit > k for each in served) for k in range(3)]
    assert totals[0] >= totals[1] >= totals[2] > 0


def test_one_exit_answers_all():
    assert {each.exit for each in drive(dee(1, 0.1), phone(np.full((1, 9), 0.5), (1,)), SECOND, frames(9))} == {0}


def test_frames_that_gain_go_on_and_others_leave():
    """Going on costs 0.2: worth it for those that gain 0.6."""
    world = stream(2000)
    served = drive(dee(2, 0.2), world, SECOND, frames(2000))[1000:]
    hard = world.confidences[0][1000:] < 0.5
    exits = np.array([each.exit for each in served])
    assert exits[hard].mean() > 0.98
    assert exits[~hard].mean() < 0.1


@pytest.mark.parametrize(("price", "last"), [(5.0, False), (0.0, True)])
def test_a_high_price_makes_all_leave_at_once_and_none_makes_all_go_to_the_end(price, last):
    random = np.random.default_rng(1)
    sure = np.sort(random.random((3, 1500)), axis=0) * [[0.6], [0.8], [1.0]]
    served = drive(dee(3, price, cells=4, forced=0.1), phone(sure, (1, 2, 3)), SECOND, frames(1500))[500:]
    assert np.mean([each.exit == (2 if last else 0) for each in served]) > 0.9


def test_nothing_is_decided_by_exits_that_were_not_asked():
    random = np.random.default_rng(2)
    sure = random.random((3, 300))
    told = drive(dee(3, 0.1), phone(sure, (1, 2, 3)), SECOND, frames(300))
    spoilt = sure.copy()
    for each in told:
        spoilt[each.exit + 1 :, each.frame] = 0.5
    assert drive(dee(3, 0.1), phone(spoilt, (1, 2, 3)), SECOND, frames(300)) == told
    assert len({each.exit for each in told}) == 3


# What is best, and what is lost.


def test_the_best_rule_by_brute_force():
    """Every way to leave or go on in each of 3 cells at two exits."""
    random, grid, price = np.random.default_rng(4), Grid(3, 1), 0.1
    kinds = random.random((3, 40))
    first = random.integers(0, 3, 200)
    second = (first + random.integers(0, 2, 200)) % 3
    last = kinds[second, first] * 0.5 + 0.5
    sure = np.array([(first + 0.5) / 3, (second + 0.5) / 3, last])
    latencies = np.repeat([[1.0], [2.0], [3.0]], 200, axis=1)
    utilities, best = sure - price * latencies, -inf
    for at_first, at_second in product(product((False, True), repeat=3), repeat=2):
        leaves = np.array(at_first)[first], np.array(at_second)[second]
        told = np.where(leaves[0], utilities[0], np.where(leaves[1], utilities[1], utilities[2]))
        best = max(best, told.mean())
    assert best_rule(sure, latencies, price, grid).mean() == pytest.approx(best)


def test_regret_falls_and_is_against_the_best_rule_on_the_grid():
    world, price, grid = stream(8000), 0.2, Grid(10, 1)
    served = drive(dee(2, price), world, SECOND, frames(8000))
    best = best_rule(world.confidences, world.costs, price, grid)
    could = np.where(world.confidences[0] < 0.5, 0.55, 0.65)
    had = np.array([each.confidence - price * each.latency for each in served])
    lost = np.cumsum(could - had) / np.arange(1, 8001)
    assert best == pytest.approx(could)
    assert 0 < lost[-1] < lost[999] / 2 < lost[99] / 4


# The method.


def test_ends_of_the_knob_leave_one_exit():
    method = registry.get(KEY)
    assert method.bandit(6, inf) == Fixed(0)
    assert method.bandit(6, -1.0) == Fixed(5)
    bandit = method.bandit(6, 0.0)
    assert (bandit.price, bandit.beta, bandit.forced, bandit.grid) == (0.0, 0.05, 0.3, Grid(10, 2))
    assert bandit.counts.shape == (5, 10, 2)


def test_heads_on_the_way_are_paid_for(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    told = method.served(ready, "test", method.scheduler(ready, 1.0, 1))
    assert [each.macs for each in told] == [seen.costs[each.exit, each.frame] for each in told]
    assert len({each.exit for each in told}) == 3
    for each in told:
        assert each.macs / method.speed <= each.latency * (1 + 1e-9) <= 2.0001 * each.macs / method.speed


def test_the_network_learns_all_exits_together(stages):
    method = registry.get(KEY).variant("", "tiny")
    (stage,) = stages(method)
    check_joint_training(method, stage)


# The claims.


def trial(ours, best=1.0, constant=0.0, **others):
    return Trial(1.0, best, np.array(ours, dtype=float), others or {"LEE": 0.5}, constant, 0.01)


@pytest.mark.parametrize(("end", "holds"), [(0.41, True), (0.39, False)])
def test_a_third_of_what_is_lost_must_go(end, holds):
    assert regret_falls([trial([0.1, *[0.2] * 6, end])]).holds is holds
    assert regret_falls([trial([0.996] * 8)]).holds


@pytest.mark.parametrize(("end", "holds"), [(0.951, True), (0.949, False)])
def test_a_twentieth_may_be_missed(end, holds):
    assert near_best([trial([0.5] * 7 + [1.0]), trial([0.5] * 7 + [end])]).holds is holds


def test_the_best_of_four_must_be_beaten():
    def found(*ends):
        return better([trial([0.0] * 7 + [end], LEE=0.5, random=0.4) for end in ends]).holds

    assert found(0.511, 0.511)
    assert not found(0.509, 0.509)
    assert not found(0.7, 0.48)


@pytest.mark.parametrize(("end", "holds"), [(0.791, True), (0.789, False)])
def test_a_constant_threshold_may_be_better_by_a_hundredth(end, holds):
    assert better_than_constant([trial([0.0] * 7 + [end], constant=0.8)]).holds is holds


def test_claims_are_tried_in_one_world(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FRAMES", 160)
    each = claimed.trial(method, ready, 0.5)
    assert set(each.others) == {"LEE", "LEE without pauses", "UCB1 per frame", "random", "no early exit"}
    assert max(each.ours[-1], *each.others.values()) <= each.best + 0.02
    assert [outcome.name for outcome in claimed.claims(method, ready, bench, None)] == [
        "regret per frame falls", "near the best rule", "better than four schedulers",
        "no worse than a threshold chosen beforehand",
    ]  # fmt: skip


def test_a_frame_meets_the_same_speed_under_every_rule(prepared, monkeypatch):
    """It is taken up when it comes, and takes up to an exit what it took the rule that asks all."""
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FRAMES", 300)
    phone = Stored.of(ready.split("test"))
    computer, stream = claimed.world(method, phone, 0)
    sure, latencies = claimed.watched(phone, computer, stream)
    assert len(set((latencies[-1] / latencies[-1].min()).round(6))) > 2  # speeds differ from frame to frame
    for scheduler in (Fixed(0), Fixed(2), Confident(0.7, 3), method.bandit(3, 1.0)):
        told = drive(scheduler, phone, computer, stream)
        assert [(each.frame, each.begun) for each in told] == stream
        if not isinstance(scheduler, Fixed):
            assert len({each.exit for each in told}) > 1
            assert [each.confidence for each in told] == [sure[each.exit, t] for t, each in enumerate(told)]
            assert [each.latency for each in told] == [latencies[each.exit, t] for t, each in enumerate(told)]


def test_the_best_rule_driven_through_the_world_collects_what_is_said(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FRAMES", 300)
    phone = Stored.of(ready.split("test"))
    computer, stream = claimed.world(method, phone, 1)
    sure, latencies = claimed.watched(phone, computer, stream)
    best = best_rule(sure, latencies, 1.0, Grid(method.confidences, method.times))
    exits = iter(np.abs(sure - latencies - best).argmin(axis=0).tolist())

    class Planned:
        def first(self, frame, now):
            self.leaving = next(exits)
            return 0

        def then(self, exit_, confidence, latency):
            return None if exit_ == self.leaving else exit_ + 1

        def learn(self, served):
            pass

    told = drive(Planned(), phone, computer, stream)
    assert len({each.exit for each in told}) > 1
    assert [each.confidence - each.latency for each in told] == pytest.approx(best, abs=1e-12)


def test_worlds_differ_and_what_is_told_is_their_mean(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FRAMES", 160)
    runs = [claimed.collected(method, ready, 0.5, number) for number in range(3)]
    each = claimed.trial(method, ready, 0.5)
    lost = [(run.best - run.ours).mean() for run in runs]
    assert len(set(lost)) == 3
    assert each.best - each.ours[-1] == pytest.approx(np.mean(lost))
    assert each.deviation == pytest.approx(np.std(lost, ddof=1))
    assert each.others["LEE"] == pytest.approx(np.mean([run.others["LEE"].mean() for run in runs]))
    assert "± " in near_best([each]).measured


def test_what_is_lost_over_the_frames_is_shown_for_all_rules(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "FRAMES", 300)
    monkeypatch.setattr(claimed, "SHOWN", 3)
    (shown,) = claimed.learning(method, ready, bench, None)
    best, ours, others = claimed.collected(method, ready, 1.0)
    assert [line.rule for line in shown.lines] == ["DEE", *others]
    assert shown.lines[0].times == [0, 100, 200, 300]
    assert shown.lines[0].values == pytest.approx([0, *((best - ours)[:end].sum() for end in (100, 200, 300))])
    assert shown.title == "Regret against the best rule on the same grid, at lambda 1"


def test_lee_has_its_own_pause_and_none():
    """Its index sees a duration of the latency alone, or with half a second."""
    rivals = claimed.rivals(3, 1.0, 0)
    assert (rivals["LEE"].pause, rivals["LEE without pauses"].pause) == (registry.get("ju2021lee").pause, 0.0)
    assert rivals["LEE"].beta == registry.get("ju2021lee").beta


def test_rivals_know_the_price():
    rivals = claimed.rivals(3, 0.7, 0)
    assert {rivals[name].price for name in ("LEE", "LEE without pauses", "UCB1 per frame", "random")} == {0.7}


def test_the_constant_threshold_is_the_best_on_validation_data(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    asked, served = [], type(method).served
    monkeypatch.setattr(type(method), "served", lambda self, *given: asked.append(given[1]) or served(self, *given))
    found = claimed.threshold(method, ready, 0.5)
    assert asked == ["validation"] * len(claimed.CONFIDENT)
    worth = {
        value: np.mean([
            one.confidence - 0.5 * one.latency
            for one in served(method, ready, "validation", claimed.Confident(value, ready.model.exits))
        ])
        for value in claimed.CONFIDENT
    }  # fmt: skip
    assert worth[found] == max(worth.values()) > min(worth.values())


def test_the_simulated_world_is_the_one_that_frames_meet(prepared):
    method, bench, ready = prepared(KEY)
    told = method.simulation(ready, bench)
    (speed,) = told.rates
    trace = method.computer("test", bench.seed).speed
    assert [rate * 1e9 for rate in speed.rates] == pytest.approx(trace.rates[: len(speed.rates)])
    assert told.constants == ["a frame is always there"]
