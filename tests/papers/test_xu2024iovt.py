"""What only the IoVT agent promises: its cell by formula and by search, decisions, DDPG by hand, both sides' work."""

import copy
import dataclasses
import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import xu2024iovt as claimed
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.families.tiers import Plan, answer_message, on_message
from eelit.methods.harness import registry
from eelit.methods.papers import xu2024iovt as paper
from eelit.methods.papers.xu2024iovt import (
    FREE,
    GAIN,
    WEIGHTS,
    Agent,
    Always,
    Cell,
    Ddpg,
    Decision,
    Known,
    Seen,
    decision,
    ipla,
    longest,
    mean_ipla,
    network,
    observed,
    seconds,
    shared,
    train_agent,
)
from eelit.methods.world.stream import Journey
from eelit.methods.world.wire import Quantised

KEY = "xu2024iovt"
ACCURACY = [
    [0.6, 0.66, 0.8],  # the picture was sent
    [0.6, 0.68, 0.86],
    [0.6, 0.7, 0.88],
    [0.6, 0.7, 0.9],  # nothing was
]
KNOWN = Known(
    np.array([100.0, 200.0, 300.0]), np.array([10.0, 20.0, 0.0]), np.array([50.0, 400.0, 800.0]), np.array(ACCURACY)
)
EVERY = [[0, 1], [0, 1, 2], [0, 1, 2, 3]]  # all cuts of each exit
NARROW = KNOWN._replace(bits=np.array([80.0, 20.0, 10.0]))  # early maps have fewer bits than a picture
CELL = Cell((100.0, 200.0), 1000.0, 10.0, (3.0, 15.0), 2.0)
SEEN = Seen(np.array([20.0, 40.0]), np.array([0.0, 1.0]), 0.5, 0.6)


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


def chosen(e, s, phi):
    return Decision(np.array(e), np.array(s), np.array(phi, dtype=float))


# The cell.


def test_seconds_by_hand():
    """One cuts before part 2 and ends at exit 3; the other does all up to exit 2 by itself."""
    found = seconds(KNOWN, CELL, SEEN, chosen([2, 1], [1, 2], [0.8, 0.0]))
    first = 100 / 100 + 400 / 20 + (200 + 300) / (0.8 * 0.5 * 1000)
    second = (100 + 200 + 20) / 200
    assert found.tolist() == pytest.approx([first, second])
    whole = seconds(KNOWN, CELL, SEEN, chosen([0, 0], [0, 1], [1.0, 0.0]))
    assert whole.tolist() == pytest.approx([50 / 20 + 110 / 500, 110 / 200])


def test_local_work_knows_neither_channel_nor_server():
    local = chosen([2, 0], [3, 1], [0.0, 0.0])
    other = SEEN._replace(rates=SEEN.rates / 7, free=0.1)
    assert seconds(KNOWN, CELL, SEEN, local).tolist() == seconds(KNOWN, CELL, other, local).tolist()


def test_what_is_sent_is_sooner_there_by_more_rate_and_more_share():
    usual = seconds(KNOWN, CELL, SEEN, chosen([2, 2], [1, 0], [0.5, 0.5]))
    faster = seconds(KNOWN, CELL, SEEN._replace(rates=SEEN.rates * 2), chosen([2, 2], [1, 0], [0.5, 0.5]))
    more = seconds(KNOWN, CELL, SEEN, chosen([2, 2], [1, 0], [0.6, 0.4]))
    assert (faster < usual).all()
    assert more[0] < usual[0]
    assert more[1] > usual[1]


def test_rates_follow_shannon_and_rayleigh():
    assert CELL.usual.tolist() == [20, 40]
    rates, free = CELL.conditions(4000, 0)
    h = (2 ** (rates / 10) - 1) / np.array([3, 15])
    assert h.min() == pytest.approx(GAIN)
    assert h.mean(axis=0) == pytest.approx(1, abs=0.06)
    assert set(free) == set(FREE)
    assert 0.05 < np.mean(free[1:] != free[:-1]) < 0.09  # a tenth is drawn anew, a third of which stays
    same, again = CELL.conditions(4000, 0)
    assert np.array_equal(rates, same)
    assert np.array_equal(free, again)
    assert not np.array_equal(rates, CELL.conditions(4000, 1)[0])
    few, early = CELL.conditions(50, 0)
    assert np.array_equal(few, rates[:50])
    assert np.array_equal(early, free[:50])


def test_ipla_by_hand():
    assert longest(KNOWN, CELL) == 6.0
    value = ipla(KNOWN, CELL, 0.6, chosen([2, 0], [3, 0], [0, 1]), np.array([3.0, 6.0]))
    assert value == pytest.approx(((0.6 * 0.9 - 0.4 / 2) + (0.6 * 0.6 - 0.4)) / 2)


@pytest.mark.parametrize(("cut", "right"), [(0, 0.8), (1, 0.86), (2, 0.88), (3, 0.9)])
def test_what_an_exit_is_worth_depends_on_the_cut_before_it(cut, right):
    """The map that crosses has few bits for each value: the same exit is less often right behind an early cut."""
    value = ipla(KNOWN, CELL, 1.0, chosen([2, 1], [cut, 1], [0.5, 0.5]), np.zeros(2))
    assert value == pytest.approx((right + 0.68) / 2)
    _, queue = paper.rewarded(KNOWN, CELL, SEEN._replace(w=1.0), chosen([2, 1], [cut, 1], [0.5, 0.5]))
    assert paper.rewarded(KNOWN, CELL, SEEN._replace(w=1.0), chosen([2, 1], [cut, 1], [0.5, 0.5]))[0] == value
    assert queue.shape == (2,)


# Decisions.


def test_an_action_means_an_exit_a_cut_and_a_share():
    u = np.array([[0.0, 0.0, 0.3], [0.5, 0.5, 0.1], [1.0, 1.0, 0.9], [0.34, 0.2, 0.6]])
    found = decision(u, EVERY)
    assert found.exits.tolist() == [0, 1, 2, 1]
    assert found.cuts.tolist() == [0, 1, 3, 0]
    assert found.shares.tolist() == pytest.approx([0.3, 0.1, 0.0, 0.6])
    forced = decision(u, EVERY, 2)
    assert forced.exits.tolist() == [2] * 4
    assert forced.cuts.tolist() == [0, 2, 3, 1]
    u = np.stack([np.ones(30), (np.arange(30) + 0.5) / 30, np.ones(30)], axis=1)
    assert decision(u, EVERY).cuts.tolist() == [0] * 5 + [1] * 10 + [2] * 10 + [3] * 5
    few = [[0, 1], [0, 1, 2], [0, 2, 3]]
    assert decision(u, few).cuts.tolist() == [0] * 8 + [2] * 14 + [3] * 8


def test_a_search_cuts_within_the_network_where_early_maps_are_small():
    """Never where each map has more bits than a picture; elsewhere at some rates, and then for fewer seconds."""
    seen = SEEN._replace(w=0.9, waiting=np.zeros(2))
    inner = {}
    for name, known in (("large", KNOWN), ("small", NARROW)):
        found = [
            claimed.Exhaustive(known, CELL).decide(seen._replace(rates=CELL.usual * gain)) for gain in (0.1, 0.5, 1, 3)
        ]
        inner[name] = {s for each in found for e, s in zip(each.exits, each.cuts, strict=True) if 0 < s <= e}
    assert inner["large"] == set()
    assert inner["small"]


def test_cuts_are_left_out_for_which_two_others_stand():
    """Of a network of 600, the device does 100 and 300 before the inner cuts, and sends 80, d and 10 bits."""
    level = np.full((4, 3), 0.9)
    known = KNOWN._replace(heads=np.zeros(3), accuracy=level)

    def cuts(*bits, **other):
        return known._replace(bits=np.array(bits), **other).cuts[2]

    assert cuts(60.0, 400.0, 800.0) == [0, 3]
    assert cuts(60.0, 49.0, 31.0) == [0, 1, 3]  # on the line from 60 to 0 lie 50 and 30
    assert cuts(60.0, 51.0, 29.0) == [0, 2, 3]
    assert cuts(60.0, 40.0, 25.0) == [0, 1, 3]  # from 40 to 0 it is 24 there
    assert cuts(60.0, 40.0, 23.0) == [0, 1, 2, 3]
    better = level.copy()
    better[1, 2] = 0.95  # the picture is less good in few bits
    assert cuts(60.0, 55.0, 31.0, accuracy=better) == [0, 1, 3]
    head = known._replace(bits=np.array([60.0, 42.0, 0.0]), heads=np.array([0.0, 100.0, 0.0]))
    assert head.cuts[1] == [0, 1, 2]  # with the head it is 400, and the line at 45; it would be at 40
    assert known.cuts[0] == [0, 1]


@pytest.mark.parametrize("bits", [[50.0, 400.0, 800.0], [50.0, 80.0, 20.0], [80.0, 60.0, 40.0], [80.0, 30.0, 20.0]])
def test_nothing_is_lost_by_leaving_such_cuts_out(bits, monkeypatch):
    """Whatever channels and load are, the search finds as much among the cuts that are left."""
    right = np.array([[0.6, 0.66, 0.85], [0.6, 0.67, 0.85], [0.6, 0.7, 0.86], [0.6, 0.7, 0.9]])
    known, random = KNOWN._replace(bits=np.array(bits), accuracy=right), np.random.default_rng(0)
    left = [(e, s) for e in range(3) for s in known.cuts[e]]
    assert len(left) < len(claimed.all_pairs(known)) or bits[1] == 30

    def worth(seen):
        found = claimed.Exhaustive(known, cell).decide(seen)
        return ipla(known, cell, seen.w, found, seen.waiting + seconds(known, cell, seen, found))

    for _ in range(100):
        speeds = tuple(random.uniform(50, 500, size=2))
        cell = dataclasses.replace(CELL, speeds=speeds, server=float(random.uniform(100, 2000)))
        rates, free = random.uniform(5, 500, size=2), float(random.uniform(0.1, 1))
        seen = SEEN._replace(rates=rates, free=free, w=float(random.uniform(0.3, 0.99)))
        best = worth(seen)
        with monkeypatch.context() as patch:
            patch.setattr(claimed, "all_pairs", lambda known: left)
            assert worth(seen) == pytest.approx(best)


def test_shares_sum_to_one_at_most_whatever_is_wanted():
    random = np.random.default_rng(0)
    for _ in range(50):
        found = decision(random.uniform(size=(3, 3)), EVERY)
        sends = found.cuts <= found.exits
        assert found.shares.sum() == pytest.approx(1.0 if sends.any() else 0.0)
        assert ((found.shares > 0) == sends).all()
    assert shared(np.zeros(2), np.array([True, True])).tolist() == [0.5, 0.5]


def test_the_search_finds_the_best_of_all_exits_cuts_and_a_grid_of_shares():
    search = claimed.Exhaustive(KNOWN, CELL)
    for free, w in product((1.0, 0.3), (0.3, 0.6, 0.9)):
        seen = SEEN._replace(free=free, w=w)

        def worth(found, seen=seen):
            latency = seen.waiting + seconds(KNOWN, CELL, seen, found)
            return ipla(KNOWN, CELL, seen.w, found, latency)

        ours = search.decide(seen)
        best = max(
            worth(chosen([a, b], [s, t], [phi * (s <= a), (1 - phi) * (t <= b)]))
            for a, b in product(range(3), repeat=2)
            for s, t in product(range(a + 2), range(b + 2))
            for phi in (np.linspace(0.01, 0.99, 99) if s <= a and t <= b else [1.0 if s <= a else 0.0])
        )
        assert worth(ours) >= best - 1e-9
        assert worth(ours) <= best + 0.01
        assert ours.shares.sum() <= 1 + 1e-9


@pytest.mark.parametrize(("w", "exit_"), [(1.0, 2), (0.0, 0)])
def test_where_only_one_thing_counts_the_exit_is_known(w, exit_):
    local = Cell((1e3, 1e3), 1.0, 1e-3, (1.0, 1.0), 1.0)  # so that nothing is worth sending
    found = claimed.Exhaustive(KNOWN, local).decide(SEEN._replace(w=w, rates=local.usual))
    assert found.exits.tolist() == [exit_] * 2


def test_the_state_by_hand():
    x = observed(SEEN._replace(rates=np.array([10.0, 160.0])), CELL, 6.0)
    free = (0.5 - 1.6 / 3) / math.sqrt(1.26 / 3 - (1.6 / 3) ** 2)  # of 1, 0.5 and 0.1, equally often
    assert x.tolist() == pytest.approx([-1, 2, 0, 1 / 6, free, 0.025 / DEVIATION], rel=1e-5)
    assert x.dtype == np.float32


# DDPG.


DEVIATION = 0.75 / math.sqrt(12)  # of w, which is drawn from 0.2 to 0.95


class Random:
    """Draws each action anew."""

    def __init__(self):
        self.random = np.random.default_rng(0)

    def decide(self, seen):
        return decision(self.random.uniform(size=(len(seen.rates), 3)), KNOWN.cuts)


@pytest.fixture
def agent():
    torch.manual_seed(0)
    return Ddpg(network(6, 6), 8, discount=0.5, soft=0.25, rate=1e-2)


def test_targets_are_those_of_the_slow_copies(agent):
    with torch.no_grad():
        for p in agent.actor.parameters():
            p.add_(1.0)
    x = torch.randn(4, 6)
    action = agent.slow_actor(x).sigmoid()
    by_hand = torch.ones(4) + 0.5 * agent.slow_critic(torch.cat([x, action], 1))[:, 0]
    assert torch.allclose(agent.aim(torch.ones(4), x), by_hand)


def test_a_step_moves_critic_then_actor_and_the_copies_follow(agent):
    for i in range(8):
        agent.keep(torch.randn(6), torch.rand(6), float(i), torch.randn(6))
    assert agent.count == 8
    assert agent.r.tolist() == list(range(8))
    index = torch.arange(8)
    y = agent.aim(agent.r, agent.x_next)
    error = F.mse_loss(agent.value(agent.critic, agent.x, agent.a), y).item()
    slow = [p.clone() for p in agent.slow_critic.parameters()]
    for _ in range(5):
        agent.learn(index)
    after = F.mse_loss(agent.value(agent.critic, agent.x, agent.a), y).item()
    assert after < error
    assert all(not torch.equal(p, q) for p, q in zip(slow, agent.slow_critic.parameters(), strict=True))
    quick = next(agent.critic.parameters()).clone()
    before = next(agent.slow_critic.parameters()).clone()
    agent.learn(index)
    now = next(agent.critic.parameters())
    assert not torch.equal(now, quick)
    assert torch.allclose(next(agent.slow_critic.parameters()), 0.75 * before + 0.25 * now, atol=1e-6)


def test_the_actor_goes_where_the_critic_sees_more(agent):
    """With a critic that likes small actions the actor comes to give them."""
    with torch.no_grad():
        for p in agent.critic.parameters():
            p.zero_()
        agent.critic[0].weight[0, 6:] = 1.0
        agent.critic[2].weight[0, 0] = 1.0
        agent.critic[4].weight[0, 0] = -1.0
    agent.slow_critic.load_state_dict(agent.critic.state_dict())
    for _ in range(8):
        agent.keep(torch.randn(6), torch.full((6,), 0.5), -3.0 - 0.5 * 3, torch.randn(6))
    before = agent.actor(agent.x).sigmoid().mean()
    agent.steps[0].step = lambda: None  # the critic stays as it is
    for _ in range(20):
        agent.learn(torch.arange(8))
    assert agent.actor(agent.x).sigmoid().mean() < before - 0.1


def test_both_learn_at_the_share_of_the_rate_that_is_left(agent):
    for _ in range(8):
        agent.keep(torch.randn(6), torch.rand(6), 1.0, torch.randn(6))
    for left, rate in ((1.0, 1e-2), (0.3, 3e-3)):
        agent.learn(torch.arange(8), left)
        assert [step.param_groups[0]["lr"] for step in agent.steps] == pytest.approx([rate, rate])


def test_critic_and_actor_follow_the_slopes_of_their_losses(agent):
    """The critic those of its squared error, the actor those of -Q(x, mu(x)), by the critic as moved, and a pull."""
    for i in range(8):
        agent.keep(torch.randn(6), torch.rand(6), float(i), torch.randn(6))
    index, slopes = torch.tensor([0, 3, 3, 7]), []
    for part, step in zip((agent.critic, agent.actor), agent.steps, strict=True):
        step.register_step_pre_hook(lambda *_, part=part: slopes.append([p.grad.clone() for p in part.parameters()]))
    x, a = agent.x[index], agent.a[index]
    y = (
        agent.r[index]
        + 0.5
        * agent.slow_critic(torch.cat([agent.x_next[index], agent.slow_actor(agent.x_next[index]).sigmoid()], 1))[:, 0]
    )
    error = ((agent.critic(torch.cat([x, a], 1))[:, 0] - y.detach()) ** 2).mean()
    wanted = [torch.autograd.grad(error, [*agent.critic.parameters()])]
    logits = copy.deepcopy(agent.actor)
    agent.learn(index)
    said = logits(x)
    regret = 1e-4 * (said**2).mean() - agent.critic(torch.cat([x, said.sigmoid()], 1)).mean()
    wanted.append(torch.autograd.grad(regret, [*logits.parameters()]))
    for found, by_hand in zip(slopes, wanted, strict=True):
        assert all(torch.allclose(p, q, rtol=1e-3, atol=1e-6) for p, q in zip(found, by_hand, strict=True))


# The slots from which the agent learns.


def course(slots, *, noise=0.2, random=0.3, bench=None):
    """Return an actor that stays as it is, and what it met: the agent, and of each slot the transitions drawn."""
    torch.manual_seed(0)
    actor, drawn = network(6, 6), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paper, "RANDOM", random)
        patch.setattr(Ddpg, "learn", lambda self, index, left: drawn.append((self, self.count, index, left)))
        options = {"discount": 0.4, "soft": 0.3, "rate": 5e-3}
        train_agent(actor, KNOWN, CELL, bench or Bench(), slots=slots, noise=noise, **options)
    return actor, drawn[-1][0], drawn


def standard(free):
    """Return a free share as the agent reads it."""
    return (free - np.mean(FREE)) / np.std(FREE)


@pytest.fixture(scope="module")
def met():
    return course(600)


def test_the_agent_remembers_states_actions_and_what_they_earn(met):
    """Slot by slot by the formulas: who is late in one slot starts later in the next."""
    _, agent, _ = met
    rates, free = CELL.conditions(601, [0, 3])
    waiting, before = np.zeros(2), np.array([0.0, 100.0, 300.0, 600.0])
    queues = []
    for t in range(600):
        w = 0.575 + DEVIATION * float(agent.x[t, 5])
        state = [*np.log2(rates[t] / [20, 40]), *waiting / 6, standard(free[t]), (w - 0.575) / DEVIATION]
        assert agent.x[t].tolist() == pytest.approx(state, abs=1e-5)
        u = agent.a[t].double().numpy().reshape(2, 3)
        e = np.maximum(np.ceil(3 * u[:, 0]), 1).astype(int)
        s = np.rint(u[:, 1] * e).astype(int)  # no cut is left out: behind each the last exit is more often right
        wanted = np.where(s < e, np.maximum(u[:, 2], 1e-3), 0.0)
        earned = 0.0
        for n, speed in enumerate((100.0, 200.0)):
            head = [10.0, 20.0, 0.0][e[n] - 1]
            if s[n] < e[n]:
                share = wanted[n] / wanted.sum() * free[t] * 1000
                taken = (
                    before[s[n]] / speed + KNOWN.bits[s[n]] / rates[t, n] + (before[e[n]] - before[s[n]] + head) / share
                )
            else:
                taken = (before[e[n]] + head) / speed
            latency = min(waiting[n] + taken, 2 * 6.0)
            earned += (w * ACCURACY[s[n]][e[n] - 1] - (1 - w) * latency / 6) / 2
            waiting[n] = max(0.0, latency - 2.0)
        assert agent.r[t].item() == pytest.approx(earned, abs=1e-5)
        following = [*np.log2(rates[t + 1] / [20, 40]), *waiting / 6, standard(free[t + 1])]
        assert agent.x_next[t, :5].tolist() == pytest.approx(following, abs=1e-5)
        queues.append(waiting.copy())
    assert agent.count == 600
    assert torch.equal(agent.x_next[:-1], agent.x[1:])
    assert np.mean(np.array(queues) > 0) > 0.3
    assert np.max(queues) == 10.0  # as late as is known, less a slot


def test_w_is_drawn_anew_after_twenty_slots(met):
    _, agent, _ = met
    drawn = (0.575 + DEVIATION * agent.x[:, 5]).reshape(30, 20)
    assert (drawn == drawn[:, :1]).all()
    assert len(set(drawn[:, 0].tolist())) == 30
    assert WEIGHTS == (0.2, 0.95)
    assert 0.2 <= drawn.min() < 0.3
    assert 0.85 < drawn.max() <= 0.95
    assert agent.x_next[19, 5] == agent.x[20, 5] != agent.x[19, 5]


def test_a_share_of_the_actions_is_drawn_at_random():
    """Without noise all others are the actor's own."""
    actor, agent, _ = course(600, noise=0.0)
    own = actor(agent.x).sigmoid().detach()
    random = ((agent.a - own).abs() > 1e-6).any(dim=1)
    assert paper.RANDOM == 0.3
    assert random.float().mean() == pytest.approx(0.3, abs=0.06)
    drawn = agent.a[random]
    assert drawn.mean(dim=0).tolist() == pytest.approx([0.5] * 6, abs=0.09)
    assert drawn.std(dim=0).tolist() == pytest.approx([12**-0.5] * 6, abs=0.05)
    assert torch.equal(*(course(80, noise=0.0)[1].a for _ in range(2)))
    assert not torch.equal(course(80)[1].a, course(80, bench=Bench(seed=1))[1].a)


def test_the_others_are_the_actors_with_noise_and_stay_within_0_and_1():
    actor, agent, _ = course(300, random=0.0)
    gaps = agent.a - actor(agent.x).sigmoid().detach()
    assert gaps.mean(dim=0).tolist() == pytest.approx([0.0] * 6, abs=0.04)
    assert gaps.std(dim=0).tolist() == pytest.approx([0.2] * 6, abs=0.03)
    assert np.abs(np.corrcoef(gaps.T.numpy()) - np.eye(6)).max() < 0.2
    _, wide, _ = course(300, noise=1.0, random=0.0)
    assert (wide.a.min(), wide.a.max()) == (0, 1)
    assert ((wide.a == 0) | (wide.a == 1)).float().mean() == pytest.approx(0.62, abs=0.05)  # beyond half a deviation


def test_of_every_slot_a_step_is_learnt_from_all_transitions_so_far(met):
    _, agent, drawn = met
    assert [count for _, count, _, _ in drawn] == [*range(1, 601)]
    for _, count, index, _ in drawn:
        assert index.shape == (128,)
        assert 0 <= index.min() <= index.max() < count
    late = torch.cat([index for *_, index, _ in drawn[-50:]]).double()
    assert late.mean() == pytest.approx(290, abs=15)
    assert (agent.discount, agent.soft, agent.rate) == (0.4, 0.3, 5e-3)
    assert [drawn[i][3] for i in (0, 150, 599)] == pytest.approx([1, 0.75, 1 / 600])  # the rate falls to 0
    assert course(600, bench=Bench(most_steps=7))[1].count == 7


def test_settings_reach_the_training_of_the_agent(prepared, monkeypatch):
    _, _, ready = prepared(KEY)
    method, asked = tiny(slots=321, noise=0.11, discount=0.22, soft=0.33, agent_rate=0.44), []
    monkeypatch.setattr(paper, "train_agent", lambda *given, **options: asked.append((given, options)))
    fitted = method.fit(ready)
    (((actor, known, cell, bench), options),) = asked
    earlier = options.pop("earlier")
    assert options == {"slots": 321, "noise": 0.11, "discount": 0.22, "soft": 0.33, "rate": 0.44}
    assert (earlier, len(earlier)) == (fitted.earlier, len(paper.MOMENTS))
    assert (actor, known, cell, bench) == (fitted.actor, fitted.known, method.cell, ready.bench)


def test_the_actor_is_kept_as_it_was_at_some_moments():
    options = {"slots": 100, "noise": 0.2, "discount": 0.5, "soft": 0.02, "rate": 2e-3}

    def trained(steps):
        torch.manual_seed(0)
        actor = network(6, 6)
        earlier = [network(6, 6) for _ in paper.MOMENTS]
        train_agent(actor, KNOWN, CELL, Bench(most_steps=steps), earlier=earlier, **options)
        return [[p.tolist() for p in each.parameters()] for each in (actor, *earlier)]

    last, *kept = trained(100)
    assert [kept[i] for i in (0, 3, 6)] == [trained(steps)[0] for steps in (0, 10, 50)]
    assert last != kept[-1] == trained(75)[0]
    short, *before = trained(30)
    assert before[:5] == kept[:5]
    assert before[5:] == [short] * 3  # the training was over before these moments


def test_the_agent_learns_most_of_what_a_search_of_all_decisions_knows():
    """Two devices that begin with no queue, where the search is the optimum; chance has none of it, the optimum all."""
    torch.manual_seed(0)
    options = {"slots": 600, "noise": 0.2, "discount": 0.5, "soft": 0.02, "rate": 2e-3}
    actor = network(6, 6)
    train_agent(actor, KNOWN, CELL, Bench(), **options)
    rates, free = CELL.conditions(200, 9)

    def reached(controller, w):
        values = []
        for t in range(200):
            seen = Seen(rates[t], np.zeros(2), float(free[t]), w)
            found = controller.decide(seen)
            values.append(ipla(KNOWN, CELL, w, found, seconds(KNOWN, CELL, seen, found)))
        return float(np.mean(values))

    shares = []
    for w in (0.4, 0.6, 0.8):
        ours, theirs = (reached(each, w) for each in (Agent(actor, CELL, KNOWN), Random()))
        best = reached(claimed.Exhaustive(KNOWN, CELL), w)
        assert theirs < ours <= best + 1e-9
        shares.append((ours - theirs) / (best - theirs))
    assert np.mean(shares) > 0.6


def test_w_is_kept_within_what_the_agent_has_learnt():
    torch.manual_seed(0)
    agent = Agent(network(6, 6), CELL, KNOWN)
    for outside, inside in zip((0.0, 1.0), WEIGHTS, strict=True):
        ours, theirs = (agent.decide(SEEN._replace(w=w)) for w in (outside, inside))
        assert [part.tolist() for part in ours] == [part.tolist() for part in theirs]


# Pictures.


def test_tables_are_made_from_pictures_that_choose_no_knob(prepared):
    method, _, ready = prepared(KEY)
    seen, known = ready.split("fitting"), ready.fitted.known
    right = (seen.answers.argmax(-1) == seen.targets).double().mean(dim=1)
    assert known.accuracy[-1].tolist() == pytest.approx(right.tolist())
    assert (known.stages + known.heads).cumsum().tolist() == pytest.approx(seen.costs[:, 0].tolist())
    assert known.bits.shape == (3,)
    assert known.accuracy.shape == (4, 3)
    assert method.came(7) == [0, 0, 0, 0.25, 0.25, 0.25, 0.5]


@torch.inference_mode()
def test_tables_tell_of_each_cut_and_exit_what_maps_are_worth_that_really_crossed(prepared):
    """With two bits for each value, picture by picture: packed, counted, read again, and gone on with."""
    method, _, ready = prepared(KEY)
    few = dataclasses.replace(ready, method=method.replace({"bits": 2}))
    seen = few.store(ready.split("fitting").examples.head(60), "few")
    known = paper.tabled(seen)
    assert seen.codec == Quantised(2)
    model = ready.model.eval()
    for cut in range(3):
        right, size = np.zeros(3), 0
        for x, y in zip(seen.examples.inputs, seen.targets, strict=True):
            state = x[None]
            for i, (stage, head) in enumerate(zip(model.stages, model.heads, strict=True)):
                if i == cut:
                    message = Quantised(2).pack(state)
                    size += len(message)
                    state = Quantised(2).unpack(message)
                state = stage(state)
                right[i] += int(head(state).argmax()) == y
        assert known.accuracy[cut].tolist() == pytest.approx((right / 60).tolist())
        beside = len(on_message(Plan((cut,)), 0, (), b"")) + len(answer_message(0, torch.zeros(10)))
        assert known.bits[cut] == pytest.approx(8 * (size / 60 + beside))
    assert len(set(known.accuracy[:, -1].tolist())) > 1  # two bits are too few to change nothing


@pytest.mark.parametrize("w", [0.0, 0.6, 1.0])
def test_what_becomes_of_pictures_is_what_the_formula_says(prepared, w):
    """With queues: who is late in one slot starts later in the next. What crosses is the picture's own bytes."""
    method, bench, ready = prepared(KEY)
    known, cell = ready.fitted.known, method.cell
    journeys = method.simulated(ready, "test", w)
    rates, free = cell.conditions(math.ceil(len(journeys) / 3), [bench.seed, True])
    agent = method.scheduler(ready, method.world("test", 0), w)
    waiting = np.zeros(3)
    for t in range(len(journeys) // 3):
        seen = Seen(rates[t], waiting, float(free[t]), w)
        found = agent.decide(seen)
        latency = waiting.copy()
        for n in range(3):
            journey = journeys[3 * t + n]
            bits = 8 * (journey.sent[0] + journey.returned[0]) if journey.sent else 0
            latency[n] += seconds(known._replace(bits=np.full(3, bits)), cell, seen, found)[n]
            assert (journey.plan.cuts, journey.exit) == ((found.cuts[n],), found.exits[n])
            assert journey.answered - journey.came == pytest.approx(latency[n])
            assert bool(journey.sent) is bool(found.cuts[n] <= found.exits[n])
        waiting = np.maximum(0, latency - cell.slot)


def test_ipla_of_pictures_is_by_their_own_answers():
    """Of three pictures two are right; the table of held-out pictures has no say."""
    journeys = [Journey(1.0, exit=0, answered=1.0 + seconds) for seconds in (1.0, 2.0, 6.0)]
    assert mean_ipla(6.0, 0.6, journeys, [True, False, True]) == pytest.approx(0.6 * 2 / 3 - 0.4 * 3 / 6)
    assert mean_ipla(6.0, 1.0, journeys, [False, False, False]) == 0


def test_what_is_told_of_the_world_is_what_the_pictures_went_through(prepared):
    """Each that sent crossed at the rate of its device and slot; those of a slot share what was free."""
    method, bench, ready = prepared(KEY)
    told, cell = method.simulation(ready, bench), method.cell
    *channels, server = told.rates
    names = [rate.part for rate in told.rates]
    assert names == [*(f"device {n}, channel" for n in (1, 2, 3)), "server, free share"]
    assert (channels[0].unit, server.unit, told.seconds) == ("Mbit/s", "of its speed", 30)
    sent = 0
    for journeys in (method.simulated(ready, "test", w) for w in (0.3, 0.6, 0.9, 1.0)):
        for t, free in enumerate(server.rates):
            assert server.times[t] == t * method.slot == journeys[3 * t].came
            part = 0.0
            for n, journey in enumerate(journeys[3 * t : 3 * t + 3]):
                if journey.sent:
                    bits = 8 * (journey.sent[0] + journey.returned[0])
                    assert channels[n].rates[t] * 1e6 == pytest.approx(bits / journey.sending)
                    serving = journey.answered - journey.begun - journey.computing - journey.sending
                    part, sent = part + journey.macs[1] / serving / cell.server, sent + 1
            assert part == pytest.approx(free if part else 0)
    assert sent > 100
    assert told.constants[0] == "device 1, speed: 0.0006 billion MACs/s"
    assert len(told.constants) == 5
    few = method.replace({"slot": 0.1}).simulation(ready, bench)
    pictures = len(ready.split("test").examples)
    assert len(few.rates[0].times) == math.ceil(pictures / 3) < 300
    assert few.seconds == pytest.approx(0.1 * math.ceil(pictures / 3))


def test_only_the_named_exit_is_run(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    for sample, journey in enumerate(method.simulated(ready, "test", 0.6)[:60]):
        assert sum(journey.macs) == pytest.approx(seen.static_costs[journey.exit, sample])


def test_ends_of_w_name_the_first_exit_and_the_last(prepared):
    method, bench, ready = prepared(KEY)
    first, last = method.sweep(ready, bench, "test", [0.0, 1.0])
    assert first.exits == [1, 0, 0]
    assert last.exits == [0, 0, 1]
    assert (last.quality, last.cost) == method.full_model(ready, bench)
    names = [base.name for base in method.baselines(ready, bench)]
    assert names == ["static exit", "all on the devices", "all on the server"]


def test_both_sides_really_do_what_the_tables_say(prepared):
    method, bench, ready = prepared(KEY)
    for w in (0.0, 0.6, 1.0):
        found = method.execute(ready, bench, w)
        assert found.agrees
        assert found.counted == found.claimed


def test_agents_do_not_exceed_a_search_in_the_same_slot(prepared):
    method, _, ready = prepared(KEY)
    known, cell = ready.fitted.known, method.cell
    search, agent = claimed.Exhaustive(known, cell), Agent(ready.fitted.actor, cell, known)
    rates, free = cell.conditions(60, 5)
    for t in range(60):
        seen = Seen(rates[t], np.zeros(3), float(free[t]), 0.6)
        values = []
        for controller in (agent, Always((2,) * 3, (0,) * 3), Always((0, 2, 1), (1, 0, 2), (1, 2, 3)), search):
            found = controller.decide(seen)
            values.append(ipla(known, cell, 0.6, found, seconds(known, cell, seen, found)))
        assert max(values) == values[-1] or max(values) - values[-1] < 1e-9


def test_devices_need_a_signal_each():
    with pytest.raises(ValueError, match="its speed and its signal"):
        tiny(signal=(1.0,))


def test_the_network_learns_with_all_its_exits(wired):
    model, (stage,) = wired(tiny())
    index, x = next(stage.train.batches(16))
    y = stage.train.targets[index]
    model.eval()
    by_hand = sum(F.cross_entropy(z, y) for z in model(x))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(stage.rates) == {id(p) for p in model.parameters()}
    assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 600)


# What is claimed.


def reached(agent, side=0.3, constant=0.3, best=0.5, chance=0.2):
    return claimed.Reached(agent, side, constant, best, chance)


@pytest.mark.parametrize(("agent", "holds"), [(0.311, True), (0.309, False)])
def test_the_agent_must_beat_one_side(agent, holds):
    assert claimed.beats_one_side([reached(agent)]).holds is holds


@pytest.mark.parametrize(
    ("agent", "best", "holds"), [(0.41, 0.5, True), (0.39, 0.5, False), (0.3, 0.3, False)]
)  # fmt: skip
def test_the_agent_must_come_near_a_search(agent, best, holds):
    assert claimed.near_the_best([reached(agent, best=best)]).holds is holds


@pytest.mark.parametrize(("chance", "holds"), [(0.29, True), (0.3, False)])
def test_the_agent_must_beat_chance_everywhere(chance, holds):
    assert claimed.beats_chance([reached(0.4), reached(0.3, chance=chance)]).holds is holds


TWO = Known(
    np.array([100.0, 200.0]), np.array([10.0, 0.0]), np.array([80.0, 20.0]),
    np.array([[0.6, 0.8], [0.6, 0.85], [0.6, 0.9]]),
)  # fmt: skip
HURRIED = Cell((100.0, 150.0), 600.0, 10.0, (3.0, 15.0), 1.0)
CONDITIONS = np.array([[20.0, 5.0], [40.0, 60.0], [4.0, 30.0]]), np.array([0.5, 1.0, 0.1])


def every_decision(splits):
    """Yield all that two devices can do with two exits."""
    work = {(0, 0): 110.0, (1, 0): 300.0, (1, 1): 200.0, (0, 1): 0.0, (1, 2): 0.0}
    for a, b in product(work, repeat=2):
        roots = math.sqrt(work[a]), math.sqrt(work[b])
        share = roots[0] / max(sum(roots), 1e-9)
        for part in (share, *splits) if work[a] and work[b] else (share,):
            yield chosen([a[0], b[0]], [a[1], b[1]], [part if work[a] else 0, 1 - part if work[b] else 0])


UNEQUAL = dataclasses.replace(HURRIED, speeds=(100.0, 30.0), server=1000.0, slot=2.0)
SHARED = (
    np.array([[98.0, 49.0], [25.0, 14.0], [55.0, 37.0]]),
    np.array([1.0, 0.5, 1.0]),
)  # where other shares than a slot's best are better


@pytest.mark.parametrize(
    ("cell", "slots", "w"),
    [(HURRIED, CONDITIONS, 0.5), (HURRIED, CONDITIONS, 0.7), (HURRIED, CONDITIONS, 0.9), (UNEQUAL, SHARED, 0.5)],
)
def test_the_best_of_all_joint_sequences_is_that_of_a_naive_enumeration(cell, slots, w, monkeypatch):
    """Each decision in each slot after each other, with the queues that they leave."""
    monkeypatch.setattr(claimed, "SPLITS", (0.3,))
    rates, free = slots
    every = list(every_decision((0.3,)))
    assert len(every) == 34

    def most(t, waiting):
        if t == len(free):
            return 0.0
        seen = Seen(rates[t], waiting, float(free[t]), w)
        return max(r + most(t + 1, after) for r, after in (paper.rewarded(TWO, cell, seen, d) for d in every))

    best = claimed.best_sequence(TWO, cell, w, claimed.worthwhile(TWO, cell, slots))
    assert best == pytest.approx(most(0, np.zeros(2)) / 3)
    assert best >= claimed.utility(TWO, cell, w, claimed.Exhaustive(TWO, cell), slots) - 1e-12


def test_without_queues_the_best_of_all_sequences_is_what_a_search_finds_in_each_slot():
    patient = dataclasses.replace(HURRIED, slot=1e9)
    choices = claimed.worthwhile(TWO, patient, CONDITIONS)
    greedy = claimed.utility(TWO, patient, 0.7, claimed.Exhaustive(TWO, patient), CONDITIONS)
    assert claimed.best_sequence(TWO, patient, 0.7, choices) == pytest.approx(greedy)


def test_decisions_are_left_out_that_another_replaces():
    rows = np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 2.0], [1.0, 2.0, 3.0], [0.0, 3.0, 0.0], [2.0, 0.0, 0.0]])
    assert sorted(claimed.not_worse(rows)) == [0, 3, 4]


def planted():
    """Return a run in which the last exit is worth its time in one slot, but makes the next ones wait."""
    slow = dataclasses.replace(CELL, speeds=(100.0, 100.0), slot=1.0)
    slots = np.full((3, 2), 1e-3), np.ones(3)
    best = claimed.best_sequence(KNOWN, slow, 0.8, claimed.worthwhile(KNOWN, slow, slots))
    greedy = claimed.utility(KNOWN, slow, 0.8, claimed.Exhaustive(KNOWN, slow), slots)
    return claimed.Few(0.8, best, greedy, greedy, greedy)


def test_the_claim_that_looking_ahead_gains_little_fails_where_a_long_task_makes_the_next_ones_wait():
    found = claimed.little_ahead([planted()])
    assert not found.holds
    assert "more than nothing in 1 of 1 runs" in found.measured


def test_the_small_cell_has_the_first_devices_and_slots_shorter_than_the_whole_network():
    three = dataclasses.replace(CELL, speeds=(200.0, 100.0, 50.0), signal=(3.0, 15.0, 1.0))
    found = claimed.short(KNOWN, three)
    assert (found.speeds, found.signal) == ((200.0, 100.0), (3.0, 15.0))
    assert found.slot == claimed.SHORT * 6.0 < longest(KNOWN, found)


def test_sequences_are_tried_in_slots_of_the_seed_that_choose_nothing(prepared, monkeypatch):
    """What never changes is chosen on other slots; the agent has learnt in that cell."""
    method, bench, ready = prepared(KEY)
    known = ready.fitted.known
    cell = claimed.short(known, method.cell)
    monkeypatch.setattr(claimed, "RUNS", 2)
    monkeypatch.setattr(claimed, "TRIED", (0.5, 0.8))
    asked, learnt, chosen_on, conditions = [], [], [], Cell.conditions
    monkeypatch.setattr(
        Cell, "conditions", lambda self, *given: asked.append((self, *given)) or conditions(self, *given)
    )
    torch.manual_seed(0)
    actor = network(6, 6)
    monkeypatch.setattr(type(method), "learnt", lambda self, *given: learnt.append(given) or (actor, ()))
    never = Always((2, 0), (1, 1))
    monkeypatch.setattr(
        claimed, "constants", lambda known, cell, worth: chosen_on.append(worth(never)) or (None, never)
    )
    found = claimed.sequences(method, ready, bench)
    assert learnt == [(known, cell, bench)]
    assert asked == [(cell, 3, [bench.seed, 5, part, run]) for part in (0, 1) for run in (0, 1)]
    (held, tried), rewards = (
        ([conditions(cell, 3, [bench.seed, 5, part, run]) for run in (0, 1)] for part in (0, 1)),
        {},
    )
    assert [each.w for each in found] == [0.5, 0.5, 0.8, 0.8]
    for i, each in enumerate(found):
        slots = tried[i % 2]
        rewards = [
            claimed.utility(known, cell, each.w, rule, slots)
            for rule in (claimed.Exhaustive(known, cell), Agent(actor, cell, known), never)
        ]
        assert [each.search, each.agent, each.constant] == pytest.approx(rewards)
        assert each.best == claimed.best_sequence(known, cell, each.w, claimed.worthwhile(known, cell, slots))
        assert each.best >= max(each[2:]) - 1e-3  # an agent's shares may lie between those that are tried
    assert chosen_on == pytest.approx(
        [np.mean([claimed.utility(known, cell, w, never, s) for s in held]) for w in (0.5, 0.8)]
    )


def few(search=0.3, agent=0.3, constant=0.2, w=0.6, best=0.3):
    return claimed.Few(w, best, search, agent, constant)


@pytest.mark.parametrize(("search", "holds"), [(0.291, True), (0.289, False)])
def test_looking_ahead_may_gain_a_little(search, holds):
    found = claimed.little_ahead([few(), few(search=search)])
    assert found.holds is holds
    assert "more than nothing in 1 of 2 runs; over 3 slots the best of all sequences has 0.9000" in found.measured


@pytest.mark.parametrize(("agent", "best", "holds"), [(0.251, 0.3, True), (0.249, 0.3, False), (0.2, 0.2, False)])
def test_the_agent_must_come_near_the_best_of_all_sequences(agent, best, holds):
    assert claimed.near_the_optimum([few(agent=agent, best=best)]).holds is holds


def test_what_is_lost_beside_the_best_of_all_sequences_is_shown_by_trade_off(monkeypatch):
    monkeypatch.setattr(claimed, "TRIED", (0.5, 0.8))
    shown = claimed.beside_all([few(w=0.5), few(w=0.5, search=0.28, agent=0.26), few(w=0.8, agent=0.25)])
    assert [line.rule for line in shown.lines] == [
        "DDPG agent",
        "search in every slot",
        "exits, cuts and shares that never change",
    ]
    assert [line.times for line in shown.lines] == [[0.5, 0.8]] * 3
    assert [line.values for line in shown.lines] == [
        pytest.approx([3 * 0.02, 3 * 0.05]),
        pytest.approx([3 * 0.01, 0]),
        pytest.approx([0.3, 0.3]),
    ]


def test_exits_and_cuts_are_drawn_anew_in_each_slot():
    drawn = claimed.drawn(KNOWN, 0)
    found = [drawn.decide(SEEN) for _ in range(600)]
    every = [(e, s) for each in found for e, s in zip(each.exits.tolist(), each.cuts.tolist(), strict=True)]
    assert set(every) == {(e, s) for e in range(3) for s in range(e + 2)}
    for e in range(3):
        cuts = [s for exit_, s in every if exit_ == e]
        assert len(cuts) == pytest.approx(400, abs=60)
        assert np.mean(cuts) == pytest.approx((e + 1) / 2, abs=0.15)
    for each in found:
        sends = each.cuts <= each.exits
        assert each.shares.tolist() == pytest.approx((sends / max(1, sends.sum())).tolist())
    assert claimed.drawn(KNOWN, 0).decide(SEEN).cuts.tolist() == found[0].cuts.tolist()


def test_a_constant_has_a_pair_for_each_device_and_the_shares_that_are_best_for_them():
    """Work of 610 - 100 and of 110 at the server; the third device does all by itself."""
    found = claimed.constant(KNOWN, [(2, 1), (0, 0), (1, 2)]).decide(SEEN._replace(rates=np.ones(3)))
    assert (found.exits.tolist(), found.cuts.tolist()) == ([2, 0, 1], [1, 0, 2])
    a, b = math.sqrt(500), math.sqrt(110)
    assert found.shares.tolist() == pytest.approx([a / (a + b), b / (a + b), 0])
    shares = np.linspace(0.01, 0.99, 99)
    assert 500 / found.shares[0] + 110 / found.shares[1] <= (500 / shares + 110 / (1 - shares)).min() + 1e-9
    assert Always((0, 0), (0, 0)).decide(SEEN).shares.tolist() == [0.5, 0.5]


def test_constants_are_searched_device_by_device():
    choices, asked = [(0, 0), (1, 0), (1, 2)], []

    def worth(pairs):
        asked.append(pairs)
        aims = [(1, 2), (0, 0), (1, 0)]
        return sum(pair == aim for pair, aim in zip(pairs, aims, strict=True))

    assert claimed.searched(choices, 3, worth) == ((1, 2), (0, 0), (1, 0))
    assert asked[:3] == [(pair,) * 3 for pair in choices]
    assert len(asked) == len(set(asked))


@pytest.mark.parametrize(("cost", "quality", "holds"), [(80, 0.881, True), (81, 0.9, False), (50, 0.879, False)])
def test_a_fifth_of_the_time_must_be_saved_at_little_loss(cost, quality, holds):
    def points(best):
        return [OperatingPoint(knob=0.6, quality=q, cost=c, speed_up=1, exits=[1]) for q, c in (best, (0.9, 200))]

    curve = SimpleNamespace(validation=points((0.895, cost)), test=points((quality, cost)), full_quality=0.9)
    assert claimed.sooner(curve, {"all on the devices": 150.0, "all on the server": 100.0}).holds is holds


def test_constants_are_those_that_are_worth_most():
    """What is asked for is worth most; on one side alone what comes nearest to it."""
    aim = [(2, 1), (0, 1)]  # the first device cuts in between, the second does all by itself

    def worth(each):
        return -sum(abs(e - a) + abs(s - b) for e, s, (a, b) in zip(each.exits, each.cuts, aim, strict=True))

    side, never = claimed.constants(KNOWN, CELL, worth)
    assert list(zip(never.exits, never.cuts, strict=True)) == aim
    assert set(side.cuts) == {0} or all(s == e + 1 for e, s in zip(side.exits, side.cuts, strict=True))


def test_utility_is_the_mean_reward_with_queues_and_caps():
    """All up to exit 2 takes 3.2 and 1.6 of a slot of 2 seconds: the first is ever later, as far as twice 6 seconds."""
    slots = np.full((20, 2), 20.0), np.full(20, 0.5)
    found = claimed.utility(KNOWN, CELL, 0.6, Always((1, 1), (2, 2)), slots)
    first = np.minimum(3.2 + 1.2 * np.arange(20), 12.0)
    by_hand = 0.6 * 0.7 - 0.4 * (first + 1.6) / 2 / 6
    assert first[-1] == 12
    assert found == pytest.approx(by_hand.mean())


def test_the_curve_of_learning_is_set_beside_the_search_in_the_slots_of_test_pictures(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    known, cell, w = ready.fitted.known, method.cell, 0.7
    asked, conditions = [], Cell.conditions
    monkeypatch.setattr(Cell, "conditions", lambda self, *given: asked.append(given) or conditions(self, *given))
    shown = claimed.regret(method, ready, bench)
    slots = math.ceil(len(ready.split("test").examples) / 3)
    assert asked == [(math.ceil(len(ready.split("validation").examples) / 3), [bench.seed, False]), (slots, [0, True])]
    held, test = (conditions(cell, *given) for given in asked)
    side, never = claimed.constants(known, cell, lambda each: claimed.utility(known, cell, w, each, held))
    best = claimed.utility(known, cell, w, claimed.Exhaustive(known, cell), test)
    agents = (Agent(actor, cell, known) for actor in (*ready.fitted.earlier, ready.fitted.actor))
    lost = [best - claimed.utility(known, cell, w, each, test) for each in agents]
    ours, *others = shown.lines
    assert ours.times == [0, 16, 40, 80, 160, 280, 400, 600, 800]
    assert ours.values == pytest.approx(lost)
    assert ours.values[-1] < ours.values[0] / 2
    for line, rival in zip(others, (never, side, claimed.drawn(known, 0)), strict=True):
        assert line.times == [0, 800]
        assert line.values == pytest.approx([best - claimed.utility(known, cell, w, rival, test)] * 2)
    assert shown.title == (
        "Reward of a slot below that of a search in every slot, which does not look ahead, at w = 0.7"
    )


def test_claims_are_tried_on_the_slots_of_test_pictures(prepared):
    method, bench, ready = prepared(KEY)
    swept = [method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")]
    quality, _ = method.full_model(ready, bench)
    base = SimpleNamespace(name="all on the server", test=[swept[1][-1]])
    curve = SimpleNamespace(validation=swept[0], test=swept[1], full_quality=quality, baselines=[base])
    assert [outcome.name for outcome in claimed.claims(method, ready, bench, curve)] == [
        "better than one side alone",
        "near a search in every slot",
        "looking ahead gains little over that search",
        "near the best of all sequences",
        "better than chance",
        "sooner at the accuracy of the last exit",
    ]
    for each in claimed.compared(method, ready):
        assert each.one_side <= each.constant + 0.05
        assert each.constant <= each.best + 0.05
        assert each.chance < each.best


def test_comparisons_are_made_in_the_slots_of_the_seed_and_by_the_pictures_own_answers(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "TRIED", (0.6,))
    asked = []
    slots_of = type(method).slots_of
    monkeypatch.setattr(
        type(method), "slots_of", lambda self, *given: asked.append(given[:2]) or slots_of(self, *given)
    )
    other = dataclasses.replace(ready, bench=dataclasses.replace(bench, seed=7))
    (found,) = claimed.compared(method, other)
    assert {seed for _, seed in asked} == {7}
    assert {split for split, _ in asked} == {"validation", "test"}
    agent = Agent(ready.fitted.actor, method.cell, ready.fitted.known)
    seen = ready.split("test")
    journeys = method.slots_of("test", 7, len(seen.examples), agent, 0.6).run(seen, len(seen.examples))
    right = (seen.told(journeys).argmax(-1) == seen.targets).double().mean().item()
    late = np.mean([journey.answered - journey.came for journey in journeys])
    assert found.agent == pytest.approx(0.6 * right - 0.4 * late / longest(ready.fitted.known, method.cell))
