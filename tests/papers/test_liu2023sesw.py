"""What only SESW promises: weights from losses, networks that teach each other nothing, and the rival's formulas."""

import copy
import math
from dataclasses import fields
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional as F

from eelit.methods.claims import liu2023sesw as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.liu2023sesw import (
    SelfSupervisedWeighting,
    likeliest,
    predictor,
    self_supervised_loss,
    weights_of,
)
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch

KEY = "liu2023sesw"


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


@pytest.fixture
def losses():
    """Of three exits on two images."""
    return torch.tensor([[2.0, 0.1], [0.5, 0.1], [1.0, 3.0]], requires_grad=True)


@pytest.fixture
def g():
    torch.manual_seed(3)
    return predictor(3, 5)


# The weights.


def test_the_target_is_the_exit_of_the_least_loss_and_of_equals_the_first(losses):
    assert likeliest(losses).tolist() == [1, 0]
    assert likeliest(torch.ones(4, 2)).tolist() == [0, 0]


def test_the_module_has_one_hidden_layer():
    first, relu, last = predictor(6, 64)
    assert (first.in_features, first.out_features, last.in_features, last.out_features) == (6, 64, 64, 6)
    assert isinstance(relu, nn.ReLU)


def test_the_modules_loss_by_hand(losses):
    """With g the identity q is softmax(l): the target's share is e^0.5 and e^0.1 of the sums."""
    found = self_supervised_loss(nn.Identity(), losses)
    one = math.exp(0.5) / (math.exp(2) + math.exp(0.5) + math.exp(1))
    two = math.exp(0.1) / (2 * math.exp(0.1) + math.exp(3))
    assert found.item() == pytest.approx(-(math.log(one) + math.log(two)) / 2, rel=1e-5)


def test_weights_are_one_more_than_the_probabilities(losses, g):
    w = weights_of(g, losses)
    with torch.no_grad():
        q = torch.stack([g(each).softmax(-1) for each in losses.T], dim=1)
    assert torch.allclose(w, 1 + q)
    assert w.shape == (3, 2)
    assert torch.allclose(w.sum(dim=0), torch.full((2,), 4.0))


def test_a_module_that_knows_nothing_weighs_all_images_alike(losses, g):
    nn.init.zeros_(g[2].weight)
    nn.init.zeros_(g[2].bias)
    assert torch.allclose(weights_of(g, losses), torch.full((3, 2), 1 + 1 / 3))


def test_neither_network_teaches_the_other(losses, g):
    self_supervised_loss(g, losses).backward()
    assert losses.grad is None
    assert all(p.grad.any() for p in g.parameters())
    g.zero_grad()
    (weights_of(g, losses) * losses).mean(dim=1).sum().backward()
    assert torch.allclose(losses.grad, weights_of(g, losses) / 2)
    assert not any(p.grad is not None and p.grad.any() for p in g.parameters())


def test_where_the_target_does_not_change_the_module_learns_to_weigh_that_exit_most(g):
    adam = torch.optim.Adam(g.parameters(), lr=1e-2)
    fixed = torch.tensor([[2.0], [0.2], [1.0]])
    for _ in range(100):
        adam.zero_grad()
        self_supervised_loss(g, fixed).backward()
        adam.step()
    w = weights_of(g, fixed)[:, 0]
    assert w.argmax() == 1
    assert w[1] > 1.9


# The training.


def by_hand(model, g, adam, x, y):
    """One step of g on a batch, then the loss that the network is given."""
    with torch.no_grad():
        losses = torch.stack([F.cross_entropy(z, y, reduction="none") for z in model(x)])
    adam.zero_grad()
    F.cross_entropy(g(losses.T), losses.min(dim=0).indices).backward()
    adam.step()
    with torch.no_grad():
        w = 1 + g(losses.T).softmax(-1).T
    return (w * losses).mean(dim=1).sum().item()


def test_each_batch_moves_the_module_first_and_is_weighed_by_what_it_then_says(one_stage):
    method = tiny(hidden=9, g_rate=0.05)
    model, stage = one_stage(method)
    model.eval()
    torch.manual_seed(0)
    g = predictor(3, 9)
    adam = torch.optim.Adam(g.parameters(), lr=0.05)
    found = []
    for start in (0, 16, 32):
        index = torch.arange(start, start + 16)
        x, y = torch.stack(stage.train.inputs[start : start + 16]), stage.train.targets[index]
        expected = by_hand(model, g, adam, x, y)
        found.append(stage.loss(stage.batch_of(index, x)))
        assert found[-1].item() == pytest.approx(expected, rel=1e-5)
    assert len({loss.item() for loss in found}) == 3


def test_one_stage_trains_everything_and_the_module_beside_it(one_stage):
    method = tiny(batch=20, epochs=1.5, rate=3e-3, hidden=9, g_rate=7e-3)
    model, stage = one_stage(method)
    assert stage.rates == dict.fromkeys((id(p) for p in model.parameters()), 3e-3)
    assert (stage.epochs, stage.batch, len(stage.train), stage.steps) == (1.5, 20, 600, 45)
    (beside,) = stage.beside
    assert type(beside) is torch.optim.Adam
    assert [group["lr"] for group in beside.param_groups] == [7e-3]
    assert [(*p.shape,) for group in beside.param_groups for p in group["params"]] == [(9, 3), (9,), (3, 9), (3,)]
    assert torch.equal(stage.train.targets, method.load().train.targets)


@pytest.mark.parametrize(
    ("setting", "wrong"), [("hidden", 0), ("hidden", 9.0), ("g_rate", -1e-3), ("g_rate", math.inf)]
)
def test_a_module_that_cannot_learn_is_refused(stages, setting, wrong):
    with pytest.raises(ValueError, match=f"SESW: {setting} is one"):
        stages(tiny(**{setting: wrong}))


def test_a_seed_is_the_modules_too(stages):
    """So that the training is the same each time."""
    found = []
    for seed in (0, 0, 1):
        (stage,) = stages(tiny(), seed=seed)
        found.append(stage.beside[0].param_groups[0]["params"][0])
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_the_network_is_that_of_unweighted_training_and_costs_as_much(prepared):
    """The module is no part of it."""
    method, _, ready = prepared(KEY)
    plain = claimed.beside(method, claimed.Unweighted)
    x = ready.data.train.inputs[0][None]
    ours, theirs = (each.build(ready.data, 0) for each in (method, plain))
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    assert costs.both_costs(ours, x) == costs.both_costs(theirs, x)
    assert not ready.model.training


def test_the_exit_rule(prepared):
    method, _, ready = prepared(KEY)
    assert method.rule(0.7, ready) == MaxConfidence(0.7)
    z = torch.tensor([[[0.6, 0.4]], [[0.2, 0.8]], [[0.1, 0.9]]]).log()
    assert [replay(MaxConfidence(t), z).item() for t in (0.5, 0.7, 0.8, 0.85)] == [0, 1, 1, 2]
    exits = [replay(method.rule(knob, ready), ready.split("validation").outputs) for knob in method.knobs]
    assert all((early <= late).all() for early, late in pairwise(exits))


# The rival.


def test_meta_weights_by_hand():
    """1 + 0.8 (tanh g - the mean over exits); an image's weights add up to the number of exits."""
    losses = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    w = claimed.meta_weights(nn.Identity(), losses)
    assert torch.allclose(w, torch.tensor([[1 + 0.8 * math.tanh(1), 1.0], [1 - 0.8 * math.tanh(1), 1.0]]))
    assert torch.allclose(w.sum(dim=0), torch.full((2,), 2.0))


def test_the_meta_loss_charges_each_exit_for_the_images_that_it_would_answer():
    """Of five images exit 1 gets floor(5 · 4/7) = 2 of the surest, exit 2 the rest, be it surest of others."""
    sure = torch.tensor([[0.9, 0.6, 0.8, 0.55, 0.7], [0.99, 0.6, 0.98, 0.7, 0.8]], dtype=torch.float64)
    z = torch.stack([sure, 1 - sure], dim=-1).log()
    y = torch.tensor([0, 0, 1, 1, 0])
    first = -(math.log(0.9) + math.log(0.2)) / 2
    rest = -(math.log(0.6) + math.log(0.3) + math.log(0.8)) / 3
    assert claimed.meta_loss(z, y).item() == pytest.approx(first + rest)


def test_the_meta_loss_of_three_exits_takes_the_surest_of_those_left():
    """Shares 16, 12 and 9 of 37: of four images one, one and two. An exit that gets no image is charged nothing."""
    sure = torch.tensor([[0.9, 0.6, 0.8, 0.7], [0.99, 0.6, 0.7, 0.8], [0.9, 0.6, 0.7, 0.8]], dtype=torch.float64)
    z, y = torch.stack([sure, 1 - sure], dim=-1).log(), torch.zeros(4, dtype=torch.int64)
    expected = -math.log(0.9) - math.log(0.8) - (math.log(0.6) + math.log(0.7)) / 2
    assert claimed.meta_loss(z, y).item() == pytest.approx(expected)
    assert claimed.meta_loss(z[:, :1], y[:1]).item() == pytest.approx(-math.log(0.9))


def test_both_halves_of_a_batch():
    x, y = torch.arange(10.0).reshape(5, 2), torch.arange(5)
    first, second = claimed.halves(Batch(torch.arange(5), x, y, 0, 0.0))
    assert (first.targets.tolist(), second.targets.tolist()) == ([0, 1], [2, 3, 4])
    assert torch.equal(torch.cat([first.inputs, second.inputs]), x)


def test_a_meta_step_follows_what_a_step_on_weighted_images_does_to_the_other_half():
    """By a small step in float64: how much it lowers the other half's loss, and how that changes with a weight of g."""
    method = tiny(network="vgg")
    data = method.load()
    model = method.build(data, 0).double().train()
    torch.manual_seed(1)
    g = predictor(3, 4).double()
    x, y = torch.stack(data.train.inputs[:12]).double(), data.train.targets[:12]
    own, other = claimed.Half(x[:7], y[:7]), claimed.Half(x[7:], y[7:])
    rate = 1e-4

    def lowered(g):
        moved = copy.deepcopy(model)
        losses = torch.stack([F.cross_entropy(z, own.targets, reduction="none") for z in moved(own.inputs)])
        (claimed.meta_weights(g, losses).detach() * losses).mean(dim=1).sum().backward()
        with torch.no_grad():
            before = claimed.meta_loss(moved(other.inputs), other.targets)
            for p in moved.parameters():
                p.sub_(rate * p.grad if p.grad is not None else torch.zeros_like(p))
            return (before - claimed.meta_loss(moved(other.inputs), other.targets)).item() / rate

    found = []
    for change in (0.01, -0.01):
        changed = copy.deepcopy(g)
        with torch.no_grad():
            changed[2].weight[1, 2] += change
        found.append(lowered(changed))
    before, state = copy.deepcopy(g), copy.deepcopy(model.state_dict())
    claimed.meta_step(model, g, torch.optim.SGD(g.parameters(), lr=1.0), own, other)
    moved = (g[2].weight - before[2].weight)[1, 2].item()
    assert moved == pytest.approx((found[0] - found[1]) / 0.02, rel=0.02)
    assert abs(moved) > 1e-6
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert not any(p.grad is not None for p in model.parameters())


def test_the_rival_is_trained_on_its_weights(one_stage, monkeypatch):
    method = claimed.beside(tiny(), claimed.MetaWeighted)
    model, stage = one_stage(method)
    model.eval()
    (beside,) = stage.beside
    assert [(group["lr"], group["weight_decay"]) for group in beside.param_groups] == [(1e-4, 1e-4)]
    assert [(*p.shape,) for group in beside.param_groups for p in group["params"]] == [(500, 3), (500,), (3, 500), (3,)]
    assert stage.rates == dict.fromkeys((id(p) for p in model.parameters()), 1e-2)
    assert (stage.epochs, stage.batch, len(stage.train)) == (8.0, 32, 600)
    index, x = torch.arange(8), torch.stack(stage.train.inputs[:8])
    stage.loss(stage.batch_of(index, x))
    g = predictor(3, 500)
    found = beside.param_groups[0]["params"]
    moved = dict(zip((name for name, _ in g.named_parameters()), (p.detach().clone() for p in found), strict=True))
    roles = []
    monkeypatch.setattr(claimed, "meta_step", lambda model, g, adam, own, other: roles.append((own, other)))
    with torch.no_grad():
        losses = torch.stack([F.cross_entropy(z, stage.train.targets[:8], reduction="none") for z in model(x)])
        o = functional_call(g, moved, (losses.T,)).tanh().T
        expected = ((1 + 0.8 * (o - o.mean(dim=0))) * losses).mean(dim=1).sum()
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-5)
    (one, two), (three, four) = roles  # each half is the other's test once
    assert (len(one.targets), len(two.targets)) == (4, 4)
    assert one is four
    assert two is three
    assert torch.equal(torch.cat([one.inputs, two.inputs]), x)


def test_without_weights_the_plain_sum_is_trained(one_stage):
    model, stage = one_stage(claimed.beside(tiny(), claimed.Unweighted))
    model.eval()
    x, y = torch.stack(stage.train.inputs[:8]), stage.train.targets[:8]
    with torch.no_grad():
        expected = sum(F.cross_entropy(z, y) for z in model(x))
    assert stage.loss(stage.batch_of(torch.arange(8), x)).item() == pytest.approx(expected.item(), rel=1e-5)


# What is claimed.


def test_rivals_have_all_settings_of_the_method():
    method = tiny(rate=7e-3, epochs=2.5)
    rival = claimed.beside(method, claimed.MetaWeighted)
    assert type(rival) is claimed.MetaWeighted
    assert {field.name: getattr(rival, field.name) for field in fields(rival)} == {
        field.name: getattr(method, field.name) for field in fields(method)
    }


def test_both_rivals_are_compared_at_their_costs(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(SelfSupervisedWeighting, "prepare", lambda self, bench: type(self))
    monkeypatch.setattr(claimed, "points_of", lambda rival, found, bench: (type(rival), found))
    asked = []

    def compared(ours, theirs):
        asked.append((ours, theirs))
        return {claimed.Unweighted: [0.006], claimed.MetaWeighted: [-0.004]}[theirs[0]]

    monkeypatch.setattr(claimed, "gains_of_mixtures", compared)
    monkeypatch.setattr(claimed, "paces", lambda methods, bench: [{
        SelfSupervisedWeighting: 0.101, claimed.Unweighted: 0.1, claimed.MetaWeighted: 0.3,
    }[type(each)] for each in methods])  # fmt: skip
    found = claimed.claims(method, ready, bench, SimpleNamespace())
    assert [(o.name, o.holds) for o in found] == [
        ("half the time of meta-learned weights", True), ("hardly slower than equal weights", True),
        ("as good as meta-learned weights", True), ("better than equal weights", True),
    ]  # fmt: skip
    assert all(ours == (SelfSupervisedWeighting, ready) for ours, _ in asked)
    assert [theirs for _, theirs in asked] == [(kind, kind) for kind in (claimed.Unweighted, claimed.MetaWeighted)]
    assert found[0].measured == "101 ms a step, 100 with equal and 300 with meta-learned weights"


@pytest.mark.parametrize(
    ("gain", "good", "better"), [(0.0051, True, True), (-0.0049, True, False), (-0.006, False, False)]
)
def test_the_least_gains_that_count(gain, good, better):
    assert claimed.as_good([gain, gain]).holds is good
    assert claimed.better([gain, gain]).holds is better


def test_without_a_comparison_nothing_holds():
    assert not claimed.as_good([]).holds
    assert not claimed.better([]).holds


@pytest.mark.parametrize(("ours", "meta", "half", "slow"), [(0.11, 0.22, True, True), (0.12, 0.23, False, False)])
def test_the_least_times_that_count(ours, meta, half, slow):
    assert [o.holds for o in claimed.in_time(ours, 0.1, meta)] == [half, slow]


def test_steps_are_timed_in_turn_and_the_first_round_is_for_nothing(monkeypatch):
    asked, times = [], iter([9, 9, 1, 10, 2, 20, 30, 40])

    def pace(method, bench):
        asked.append(method)
        return next(times)

    monkeypatch.setattr(claimed, "pace", pace)
    assert claimed.paces(["a", "b"], None) == [2, 20]
    assert asked == ["a", "b"] * 4


def test_a_pace_is_that_of_one_step_of_a_training_cut_short(monkeypatch):
    now = iter([10.0, 12.0])
    monkeypatch.setattr(claimed.time, "process_time", lambda: next(now))

    def prepare(self, bench):
        assert (bench.most_steps, bench.cache, bench.seed) == (claimed.STEPS, None, 4)
        bench.watch("a stage")
        bench.watch(None)

    monkeypatch.setattr(SelfSupervisedWeighting, "prepare", prepare)
    assert claimed.pace(tiny(), Bench(seed=4)) == pytest.approx(2.0 / claimed.STEPS)
