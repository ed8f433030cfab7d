"""What only LEE promises: an index of reward per second, durations that count, and regret that vanishes with time."""

from itertools import cycle, product
from math import inf, log, sqrt

import numpy as np
import pytest
from wiring import check_joint_training

from eelit.methods.claims import ju2021lee as claimed
from eelit.methods.claims.ju2021lee import Trial, better, in_parts, near_best, regret_falls
from eelit.methods.engine.method import Bench
from eelit.methods.families.on_device import Fixed, Served, Stored, drive
from eelit.methods.harness import registry
from eelit.methods.papers.ju2021lee import RatioBandit, reward
from eelit.methods.policies.bandit import Ucb1
from eelit.methods.world.machines import Computer
from eelit.methods.world.traces import steady

KEY = "ju2021lee"
SECOND = Computer(steady(1.0))


def served(exit_, confidence, latency):
    return Served(0, 0.0, 0.0, latency, exit_, confidence, latency)


def taught(bandit, *plays):
    for play in plays:
        bandit.learn(served(*play))
    return bandit


def phone(confidences, costs, samples=1):
    """Exits as sure as this, whose heads cost nothing, on a computer that does one multiply-accumulate a second."""
    conf, cost = (np.repeat(np.array(rows, dtype=float)[:, None], samples, axis=1) for rows in (confidences, costs))
    return Stored(conf, cost, np.zeros_like(cost))


def noisy(exits, samples, seed=0):
    """Confidence and cost of each exit spread about means that rise."""
    random, numbers = np.random.default_rng(seed), np.arange(exits)[:, None]
    sure = np.clip(0.55 + 0.1 * numbers + random.normal(0, 0.15, (exits, samples)), 0, 1)
    costs = (1 + numbers) * (1 + random.random((exits, samples)))
    return Stored(sure, costs, np.zeros_like(costs))


def rewards(found, price):
    return sum(reward(each, price) for each in found)


# The index.


def test_the_index_by_hand():
    """o = 1, lambda = 0.5: rewards 0.7 and 0.8 - 0.5, then 0.9 - 1; durations 2, 3 and 2, three plays."""
    bandit = taught(RatioBandit((0, 1), 0.5, 1.0, 0.5), (0, 1.2, 1.0), (1, 1.3, 2.0), (1, 0.9, 1.0))
    wide = 1 + 0.5 * 1.0  # R, the second exit's durations span a second, the first's none
    first, second = sqrt(0.5 * log(3) / 1), sqrt(0.5 * log(3) / 2)
    expected = [(0.7 + wide * first) / 2, (0.35 + wide * second) / max(2.5 - second, 2.0)]
    assert bandit.index() == pytest.approx(expected)


def test_no_duration_is_taken_for_shorter_than_the_shortest_seen():
    bandit = taught(RatioBandit((0, 1), 0.0, 0.0, 50.0), (0, 0.5, 3.0), (1, 0.5, 1.0), (1, 0.5, 9.0))
    eps = sqrt(50 * log(3) / 2)
    assert bandit.index()[1] == pytest.approx((0.5 + eps) / 1.0)


def test_a_loss_that_is_sure_is_divided_by_the_longest_duration_that_is_likely():
    """The most hopeful ratio of a negative reward is over a long time, not a short one."""
    bandit = taught(RatioBandit((0,), 10.0, 0.0, 0.01), (0, 0.0, 1.0), (0, 0.0, 2.0))
    eps = sqrt(0.01 * log(2) / 2)
    assert bandit.index() == pytest.approx([(-15 + 11 * eps) / (1.5 + eps)])


def test_with_no_exploration_the_index_is_reward_per_second():
    bandit = taught(RatioBandit((0, 1), 1.0, 2.0, 0.0), (0, 0.9, 0.25), (0, 0.7, 0.75), (1, 0.9, 0.5))
    assert bandit.index() == pytest.approx([(0.8 - 0.5) / 2.5, 0.4 / 2.5])


def test_with_many_plays_the_index_comes_to_reward_per_second():
    bandit = RatioBandit((0, 1), 0.0, 0.0, 2.0)
    for n in range(40_000):
        bandit.learn(served(n % 2, 0.5 + 0.1 * (n % 4 > 1), 1.0 + n % 2))
    assert bandit.index() == pytest.approx([0.55, 0.275], rel=0.1)


def test_each_exit_is_played_once_before_any_is_played_again():
    bandit, played = RatioBandit((0, 1, 2, 3), 0.1, 0.0, 0.5), []
    for confidence in (0.9, 0.1, 0.9, 0.1):
        played.append(bandit.first(0, 0.0))
        bandit.learn(served(played[-1], confidence, 1.0))
    assert played == [0, 1, 2, 3]


def test_the_exit_that_brings_most_per_second_wins_though_another_brings_more_per_play():
    """r = (0.6, 0.9), l = (1, 2): 0.60 and 0.45 a second."""
    found = drive(RatioBandit((0, 1), 0.0, 0.0, 0.5), phone((0.6, 0.9), (1, 2)), SECOND, [(0, 0.0)] * 2000)
    assert np.mean([each.exit for each in found[1000:]]) < 0.05
    blind = drive(
        claimed.Learner(2, 0.0, Ucb1(2, sqrt(0.5)).choose), phone((0.6, 0.9), (1, 2)), SECOND, [(0, 0.0)] * 2000
    )
    assert np.mean([each.exit for each in blind[1000:]]) > 0.95


def test_a_frame_s_fetching_counts():
    """With two seconds between frames it is 0.2 and 0.225 a second: now the second exit is the better one."""
    bandit = RatioBandit((0, 1), 0.0, 2.0, 0.05)
    found = drive(bandit, phone((0.6, 0.9), (1, 2)), SECOND, [(0, 0.0)] * 4000, pause=2.0)
    assert np.mean([each.exit for each in found[2000:]]) > 0.9
    assert bandit.durations == pytest.approx([3.0, 4.0])


def test_with_equal_durations_it_plays_as_ucb1_does():
    """R = 1 and no range of durations: the index is UCB1's, divided by the same for all."""
    random = np.random.default_rng(3)
    sure = random.random((4, 300)) * np.array([[0.5], [0.9], [0.7], [1.0]])
    world = Stored(sure, np.full((4, 300), 2.0), np.zeros((4, 300)))
    ours = drive(RatioBandit((0, 1, 2, 3), 0.1, 0.0, 0.5), world, SECOND, [(i, 0.0) for i in range(300)])
    theirs = drive(claimed.Learner(4, 0.1, Ucb1(4, sqrt(0.5)).choose), world, SECOND, [(i, 0.0) for i in range(300)])
    assert [each.exit for each in ours] == [each.exit for each in theirs]
    assert len({each.exit for each in ours}) == 4


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_what_a_second_is_called_does_not_matter(scale):
    """All durations times s, lambda divided by s."""
    world, frames = noisy(3, 200), [(i, 0.0) for i in range(200)]
    one = drive(RatioBandit((0, 1, 2), 0.05, 1.0, 0.5), world, SECOND, frames, pause=1.0)
    slow = Computer(steady(1 / scale))
    other = drive(RatioBandit((0, 1, 2), 0.05 / scale, scale, 0.5), world, slow, frames, pause=scale)
    assert [each.exit for each in one] == [each.exit for each in other]
    assert len({each.exit for each in one}) == 3


@pytest.mark.parametrize("bad", [{"arms": ()}, {"beta": -1.0}, {"price": -0.1}, {"price": inf}, {"pause": np.nan}])
def test_what_makes_no_bandit_is_refused(bad):
    with pytest.raises(ValueError, match="at least 0"):
        RatioBandit(**{"arms": (0,), "price": 0.0, "pause": 0.0, "beta": 0.5, **bad})


# What is best, and what is lost.


def test_no_course_by_brute_force_is_better_than_the_exit_that_the_bandit_settles_on():
    """All sequences of three exits that fit into 12 seconds, with durations 2, 3 and 4."""
    for price in (0.0, 0.1, 0.3):
        sure, latencies, pause = (0.5, 0.8, 0.95), (1.0, 2.0, 3.0), 1.0
        world = Stored(np.array(sure)[:, None], np.array(latencies)[:, None], np.zeros((3, 1)))
        bandit = RatioBandit((0, 1, 2), price, pause, 0.0)
        chosen = drive(bandit, world, SECOND, [(0, 0.0)] * 9, pause=pause)[-1]
        gains = [c - price * latency for c, latency in zip(sure, latencies, strict=True)]
        best = 0.0
        for plays in product(range(-1, 3), repeat=6):  # -1: no play
            if sum(pause + latencies[k] for k in plays if k >= 0) <= 12:
                best = max(best, sum(gains[k] for k in plays if k >= 0))
        assert best == pytest.approx(12 * reward(chosen, price) / (pause + latencies[chosen.exit]))


def test_without_a_pause_the_price_drops_out():
    """As deviation 2 says: r / l falls by lambda for all exits alike."""
    world = noisy(4, 2000)
    best = set()
    for price in (0.0, 0.1, 0.5, 2.0):
        runs = [drive(Fixed(i), world, SECOND, [(n, 0.0) for n in range(2000)]) for i in range(4)]
        best.add(int(np.argmax([rewards(run, price) / run[-1].answered for run in runs])))
    assert best == {0}


def test_regret_per_second_falls():
    """After 1,000, 8,000 and 64,000 seconds, against the best single exit in the same world."""
    world, lost, price, pause = noisy(3, 500), [], 0.02, 2.0
    for horizon in (1e3, 8e3, 6.4e4):
        runs = [
            drive(one, world, SECOND, ((n, 0.0) for n in cycle(range(500))), pause=pause, until=horizon)
            for one in (*map(Fixed, range(3)), RatioBandit((0, 1, 2), price, pause, 0.5))
        ]
        *fixed, ours = (rewards(run, price) for run in runs)
        lost.append((max(fixed) - ours) / horizon)
    assert lost[0] > lost[1] > lost[2] > 0
    assert lost[2] < lost[0] / 4


# The method.


def test_ends_of_the_knob_leave_one_arm():
    method = registry.get(KEY)
    assert method.bandit(6, inf).arms == (0,)
    assert method.bandit(6, -1.0).arms == (5,)
    for price in (0.0, 8.0):
        bandit = method.bandit(6, price)
        assert (bandit.arms, bandit.price, bandit.pause, bandit.beta) == ((0, 1, 2, 3, 4, 5), price, 0.5, 0.5)


def test_a_frame_is_sent_before_it_is_looked_at_and_only_its_own_exit_teaches(prepared):
    """Other confidences of exits that were not asked change nothing."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    stored, frames, computer = Stored.of(seen), [(i, 0.0) for i in range(200)], method.computer("test", 0)
    told = drive(method.bandit(3, 1.0), stored, computer, frames)
    asked = np.zeros(stored.confidences.shape, dtype=bool)
    asked[[each.exit for each in told], range(200)] = True
    spoilt = Stored(np.where(asked, stored.confidences, 0.123), stored.costs, stored.heads)
    assert drive(method.bandit(3, 1.0), spoilt, computer, frames) == told
    assert len({each.exit for each in told}) == 3


def test_the_cost_of_a_frame_is_its_own_exit_alone_at_the_speed_of_the_moment(prepared):
    method, bench, ready = prepared(KEY)
    seen = ready.split("test")
    told = method.served(ready, "test", method.scheduler(ready, 1.0, 1))
    assert [each.macs for each in told] == [seen.static_costs[each.exit, each.frame] for each in told]
    for each in told:
        assert each.macs / method.speed <= each.latency * (1 + 1e-9) <= 2.0001 * each.macs / method.speed
    assert told[1].begun == pytest.approx(told[0].answered + method.pause)
    (point,) = method.sweep(ready, bench, "test", [1.0])
    assert point.cost == pytest.approx(1000 * np.mean([each.latency for each in told]))
    right = [bool(seen.answers[each.exit, each.frame].argmax() == seen.targets[each.frame]) for each in told]
    assert point.quality == pytest.approx(np.mean(right))


def test_the_network_learns_all_exits_together(stages):
    method = registry.get(KEY).variant("", "tiny")
    (stage,) = stages(method)
    check_joint_training(method, stage)


# The claims.


def trial(ours, best=8.0, **others):
    ends = {name: np.array([0.0, last]) for name, last in (others or {"UCB1 per frame": 4.0}).items()}
    return Trial(0.5, 16.0, best * np.arange(1, 9) / 8, np.array(ours, dtype=float), ends)


def test_rewards_are_counted_at_their_second():
    run = [Served(i, 0.0, i, i + 1.0, 0, 0.5, 1.0) for i in range(8)]  # answered at 1, 2 … 8
    assert in_parts(run, 0.0, 8.0).tolist() == [0.5 * i for i in range(1, 9)]
    assert in_parts(run, 0.25, 16.0).tolist() == [0.5, 1.0, 1.5, 2.0, 2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("end", "holds"), [(5.4, True), (5.3, False)])
def test_a_third_of_what_is_lost_must_go(end, holds):
    """After an eighth half of what the best collects is lost."""
    assert regret_falls([trial([0.5, *[1.0] * 6, end])]).holds is holds
    assert regret_falls([trial([0.995, *[1.0] * 6, 7.93])]).holds


@pytest.mark.parametrize(("end", "holds"), [(7.21, True), (7.19, False)])
def test_a_tenth_of_the_best_may_be_missed(end, holds):
    assert near_best([trial([1.0] * 7 + [8.0]), trial([1.0] * 7 + [end])]).holds is holds


def test_the_best_of_the_simpler_schedulers_must_be_beaten():
    def found(*ends):
        return better([trial([1.0] * 7 + [end], one=3.0, two=4.0) for end in ends]).holds

    assert found(4.3, 4.3)
    assert not found(4.1, 4.1)
    assert not found(6.0, 3.9)
    assert found(6.0, 3.95)


def test_the_best_exit_is_that_of_the_whole_horizon(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    course = {0: [5.0, 6.0], 1: [1.0, 9.0], 2: [2.0, 3.0]}
    monkeypatch.setattr(claimed, "DECISIONS", 5)
    monkeypatch.setattr(claimed, "drive", lambda scheduler, *given, **options: scheduler)
    monkeypatch.setattr(
        claimed, "in_parts", lambda one, *_: np.array(course[one.exit] if isinstance(one, Fixed) else [0.0, 0.0])
    )
    assert claimed.trial(method, ready, 1.0, parts=2).best.tolist() == [1, 9]


def test_a_share_is_of_what_the_best_exit_collects_on_average():
    """However it fares at first."""
    found = claimed.regrets(Trial(0.5, 16.0, np.array([1.0, 3.0, 9.0]), np.array([1.5, 3.0, 8.1]), {}))
    assert found == pytest.approx([0.5, 0.5, 0.1])


def test_claims_are_tried_in_one_world(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "DECISIONS", 200)
    each = claimed.trial(method, ready, 1.0, 0.1)
    assert (each.ours[1:] >= each.ours[:-1]).all()
    assert each.best[-1] >= each.others["no early exit"][-1] > 0
    assert set(each.others) == {"UCB1 per frame", "epsilon-greedy per frame", "random", "no early exit"}
    found = claimed.claims(method, ready, bench, None)
    assert [outcome.name for outcome in found] == [
        "regret per second falls", "near the best exit", "better than simpler schedulers",
    ]  # fmt: skip


def test_what_is_lost_over_time_is_shown_for_all_rules(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "DECISIONS", 200)
    monkeypatch.setattr(claimed, "SHOWN", 8)
    (shown,) = claimed.learning(method, ready, bench, None)
    found = claimed.trial(method, ready, 0.25 * method.pause)
    assert [line.rule for line in shown.lines] == ["LEE", *found.others]
    assert shown.lines[0].values == pytest.approx([0.0, *(found.best - found.ours)])
    assert shown.lines[-1].values[-1] == pytest.approx(found.best[-1] - found.others["no early exit"][-1])
    assert shown.lines[0].times == pytest.approx([found.horizon * i / 8 for i in range(9)])
    assert shown.title.startswith(f"Regret against the best single exit, with o = {0.25 * method.pause:g} s")


def test_the_simulated_world_is_the_one_that_frames_meet(prepared):
    method, bench, ready = prepared(KEY)
    told = method.simulation(ready, bench)
    (speed,) = told.rates
    trace = method.computer("test", bench.seed).speed
    assert [rate * 1e9 for rate in speed.rates] == pytest.approx(trace.rates[: len(speed.rates)])
    assert speed.times == list(trace.times[: len(speed.times)])
    assert speed.times[-1] < told.seconds <= trace.times[len(speed.times)]
    assert told.constants == ["a frame is always there; to fetch it takes 4 s"]


def test_streams_come_in_one_order_again_and_again():
    frames = claimed.endless(5, 3)
    once, again = ([next(frames) for _ in range(5)] for _ in range(2))
    assert once == again
    assert sorted(frame for frame, _ in once) == [0, 1, 2, 3, 4]
    assert {came for _, came in once} == {0.0}


def test_another_seed_is_another_world():
    method = registry.get(KEY).variant("", "tiny")
    one, two = (method.prepare(Bench(seed=seed, test=30, most_steps=0)) for seed in (0, 1))
    served = [method.served(ready, "test", method.scheduler(ready, 1.0, 1)) for ready in (one, two)]
    assert [each.latency for each in served[0]] != [each.latency for each in served[1]]
