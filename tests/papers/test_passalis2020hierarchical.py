"""What only hierarchical BoF exits promise: the invariants of the paper by hand, and the adapted code's numbers."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.bag_of_features import BagOfFeatures
from eelit.methods.claims import passalis2020hierarchical as claims
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.papers.passalis2020hierarchical import HierarchicalBof, HierarchicalExits
from eelit.methods.policies.activation import Activation, mean_strengths
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.recipes.two_stage import train_parts

KEY = "passalis2020hierarchical"
INF = float("inf")


@pytest.fixture(scope="module")
def golden():
    return json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())


class Given(nn.Module):
    """Layers that give the same maps ``[N, C, H, W]`` whatever comes in."""

    def __init__(self, maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return self.maps


def exits_on(maps, last, *, codewords=4, classes=3, hierarchical=True):
    """Return a network whose stages give these maps, with bags of features for all but the last."""
    torch.manual_seed(0)
    stages = [Given(each) for each in (*maps, last)]
    bags = MultiExit(stages, [*(BagOfFeatures(each.shape[1], codewords) for each in maps), nn.Identity()])
    return HierarchicalExits(bags, classes, hierarchical=hierarchical)


# The hierarchy.


def test_an_exit_reads_the_mean_of_the_histograms_so_far():
    maps, last = [torch.rand(6, c, side, side) for c, side in ((2, 6), (3, 4), (5, 2))], torch.rand(6, 3)
    for hierarchical in (True, False):
        model = exits_on(maps, last, hierarchical=hierarchical)
        h = [stage.bag(each) for stage, each in zip(model.stages, maps, strict=False)]
        read = [h[0], (h[0] + h[1]) / 2, (h[0] + h[1] + h[2]) / 3] if hierarchical else h
        W, c = model.heads[0].weight, model.heads[0].bias
        expected = [s @ W.T + c for s in read]
        assert torch.allclose(model(torch.zeros(6, 1)), torch.stack([*expected, last]), atol=1e-5)


def test_equal_histograms_have_equal_answers():
    same = torch.rand(6, 2, 4, 4)
    model = exits_on([same, same], torch.rand(6, 3))
    model.stages[1].bag.load_state_dict(model.stages[0].bag.state_dict())
    z = model(torch.zeros(6, 1))
    assert torch.allclose(z[0], z[1], atol=1e-6)


def test_all_exits_share_one_classifier_and_another_exit_adds_little():
    maps = [torch.rand(1, c, 4, 4) for c in (2, 3, 5)]
    model, less = exits_on(maps, torch.rand(1, 3)), exits_on(maps[:2], torch.rand(1, 3))
    assert model.heads[0] is model.heads[1] is model.heads[2]
    more = sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in less.parameters())
    assert more == 4 * 5 + 4 + 4  # N d codewords with their N b_k, and s, t, n1, n2
    assert sum(p.numel() for p in model.added) == sum(p.numel() for p in model.parameters())


def test_the_plain_network_has_and_pays_no_bag(prepared):
    _, _, ready = prepared(KEY)
    model, x = ready.model, torch.stack(list(ready.data.test.inputs[:4]))
    with torch.inference_mode():
        alone = model.plain_network().eval()(x)
        assert torch.equal(model.full(x), alone)
        assert torch.equal(model(x)[-1], alone)
    assert not any(isinstance(part, BagOfFeatures) for part in model.plain_network().modules())
    every, cut = costs.both_costs(model, x[:1])
    maps = zip(model.stages[:-1], maps_of(model, x[:1]), strict=False)
    work = [costs.count(lambda stage=stage, each=each: stage.bag(each)) for stage, each in maps]
    assert every[-1] - cut[-1] == sum(work) + sum(16 * 10 for _ in work)
    assert cut[1] == every[1] - 16 * 10  # the second exit needs the first one's histogram, but not its answer
    assert costs.count(lambda: infer(model, x, FixedExit(1))) == 4 * every[1]


@torch.no_grad()
def maps_of(model, x):
    found = []
    for layers in model.layers:
        x = layers(x)
        found.append(x)
    return found


# The rule.


def test_the_rule_by_hand():
    """mu = (2, 3), beta = 1.2: 2.4 is not above 2.4, and 3.7 is above 3.6."""
    rule = Activation([1.2 * 2, 1.2 * 3])
    logits = np.array([[[2.4, -9.0]], [[0.0, 3.7]], [[1.0, 0.0]]])
    assert replay(rule, logits).tolist() == [1]
    assert replay(rule, logits + np.array([[[1e-9, 0]], [[0, 0]], [[0, 0]]])).tolist() == [0]
    assert replay(rule, -logits).tolist() == [0]  # 9.0 is above, and -9.0 was not


def test_strength_is_a_logit_and_its_mean_is_over_samples():
    outputs = torch.tensor([[[1.0, -5.0], [3.0, 2.0]], [[-1.0, -2.0], [-3.0, -6.0]]])
    assert mean_strengths(outputs) == (2.0, 2.0)  # |-2| at the second exit
    assert mean_strengths(outputs, either_sign=True) == (4.0, 4.0)
    outputs[0, 0] = torch.nan
    assert mean_strengths(outputs)[0] == 3.0


def test_mu_is_the_mean_strength_on_training_images(prepared):
    method, _, ready = prepared(KEY)
    with torch.inference_mode():
        z = ready.model(torch.stack(list(ready.data.train.inputs)))
    mu = z[:-1].amax(dim=-1).mean(dim=1).tolist()
    assert ready.fitted == pytest.approx(mu, rel=1e-4)
    assert method.rule(1.3, ready).threshold == pytest.approx([1.3 * each for each in mu], rel=1e-4)


def test_the_ends_of_beta_and_what_lies_between(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    exits = [replay(method.rule(beta, ready), seen.outputs) for beta in method.knobs]
    assert (exits[0] == 0).all()
    assert (exits[-1] == 2).all()
    assert all((earlier <= later).all() for earlier, later in pairwise(exits))
    chosen = max(range(len(exits)), key=lambda i: len(set(exits[i][:48].tolist())))
    x = torch.stack(list(seen.examples.inputs[:48]))
    assert len(set(exits[chosen][:48].tolist())) == 3
    found = infer(ready.model, x, method.rule(method.knobs[chosen], ready))
    assert found.exits.tolist() == exits[chosen][:48].tolist()


def test_betas_leave_no_hole_at_either_end():
    """Their neighbours differ by half at most, from where nearly all leave at once to where nearly nobody leaves."""
    _, *betas, _ = HierarchicalBof.knobs
    assert (betas[0], betas[-1]) == (0.2, 3.0)
    assert all(a < b <= 1.5 * a + 1e-9 for a, b in pairwise(betas))


# The training.


@pytest.mark.parametrize("variant", ["hierarchical", "separate"])
def test_the_network_learns_first_and_then_the_exits_alone(prepared, wired, variant):
    method, _, _ = prepared(KEY, variant)
    model, (plain, exits) = wired(method)
    index = torch.arange(20)
    x, y = torch.stack(plain.train.inputs[:20]), plain.train.targets[:20]
    with torch.no_grad():
        assert plain.loss(plain.batch_of(index, x)).item() == pytest.approx(
            F.cross_entropy(model.full(x), y).item(), rel=1e-5
        )
        by_hand = sum(F.cross_entropy(z, y).item() for z in model(x)[:-1])
    loss = exits.loss(exits.batch_of(index, x))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    assert plain.rates == {id(p): 1e-2 for p in model.plain_network().parameters()}
    assert exits.rates == {id(p): 2e-2 for p in model.added}
    assert len(exits.rates) == 2 * 6 + 2
    assert not set(plain.rates) & set(exits.rates)
    assert exits.train is plain.train
    assert (len(exits.train), exits.epochs, exits.batch) == (600, 6.0, 32)
    assert (plain.epochs, plain.batch) == (8.0, 32)


def test_no_gradient_reaches_the_network_while_the_exits_learn(prepared):
    method, _, ready = prepared(KEY)
    model = method.replace({"epochs": 0.05, "exit_epochs": 0.1}).build(ready.data, 0)
    before = {name: tensor.clone() for name, tensor in model.plain_network().state_dict().items()}
    train_parts(model, model.added, ready.data, Bench(), epochs=0.1, batch=32, rate=1e-2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.plain_network().state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.plain_network().parameters())
    assert all(p.grad is not None for p in model.added)


def test_both_variants_stand_on_one_network(prepared, tmp_path):
    bench = Bench(cache=tmp_path, most_steps=1)
    for variant in ("hierarchical", "separate"):
        prepared(KEY, variant)[0].prepare(bench)
    assert len(bench.trainings) == 3


# The adapted code.


def test_pooling_agrees_with_the_adapted_code(golden):
    for case in golden["pools"]:
        weight = torch.tensor(case["weight"])
        bag = BagOfFeatures(weight.shape[1], weight.shape[0], side=case["side"])
        with torch.no_grad():
            bag.codebook.weight.copy_(weight[:, :, None, None])
            bag.codebook.bias.copy_(torch.tensor(case["bias"]))
            for name, value in zip(("s", "t", "n_1", "n_2"), (case[k] for k in ("a", "c", "n1", "n2")), strict=True):
                getattr(bag, name).fill_(value)
            assert torch.allclose(bag(torch.tensor(case["x"])), torch.tensor(case["histogram"]), atol=1e-5)


def test_two_exits_agree_with_the_adapted_code(golden):
    rng = np.random.RandomState(7)

    def numbers(*shape):
        return torch.tensor(rng.standard_normal(shape)).float()

    weights = [0.3 * numbers(*s) for s in ((64, 32, 1, 1), (64,), (64, 128, 1, 1), (64,), (100, 64), (100,))]
    first = torch.cat([numbers(1, 32, 14, 14) for _ in range(24)]).relu()
    second = torch.cat([numbers(1, 128, 5, 5) for _ in range(24)]).relu()
    model = exits_on([first, second], torch.cat([numbers(1, 100) for _ in range(24)]), codewords=64, classes=100)
    bags = [stage.bag for stage in model.stages[:2]]
    with torch.no_grad():
        parts = [bags[0].codebook.weight, bags[0].codebook.bias, bags[1].codebook.weight, bags[1].codebook.bias]
        for part, weight in zip([*parts, model.heads[0].weight, model.heads[0].bias], weights, strict=True):
            part.copy_(weight)
        for bag, side in zip(bags, (14.0, 5.0), strict=True):
            bag.n_2.fill_(side)
        outputs = model(torch.zeros(24, 1))
    told = golden["two"]
    assert mean_strengths(outputs[:-1]) == pytest.approx(told["mu"], abs=1e-3)
    assert any(len(set(way["exits"])) == 3 for way in told["ways"])
    for way in told["ways"]:
        exits = replay(Activation([way["beta"] * mu for mu in told["mu"]]), outputs)
        assert exits.tolist() == way["exits"]
        assert outputs[exits, torch.arange(24)].sum(dim=-1).tolist() == pytest.approx(way["sums"], abs=0.05)


# What is claimed.


def points(*pairs):
    return [SimpleNamespace(knob=k, quality=q, cost=1 / s, speed_up=s) for k, (q, s) in enumerate(pairs)]


def alone(*pairs):
    """What exits reach by themselves, by quality and speed-up, as a baseline of a curve."""
    return [SimpleNamespace(name="static exit", test=points(*pairs))]


def test_a_quarter_must_be_saved_at_little_loss():
    for speed_up, loss, holds in ((1.34, 0.019, True), (1.33, 0.019, False), (1.34, 0.021, False)):
        curve = SimpleNamespace(
            validation=points((0.78, 3.0), (0.791, speed_up), (0.8, 0.9)),
            test=points((0.9, 3.0), (0.9 - loss, speed_up), (0.9, 0.9)), full_quality=0.9,
            baselines=alone((0.8, 3.0), (0.89, 1.2), (0.9, 1.0)),
        )  # fmt: skip
        found = claims.saves(curve)
        assert (found.holds, found.not_comparable) == (holds, "")
        assert "beta = 1" in found.measured


@pytest.mark.parametrize(
    ("quality", "speed_up", "comparable"), [(0.881, 1.34, False), (0.879, 1.34, True), (0.881, 1.32, True)]
)
def test_where_one_exit_alone_saves_a_quarter_at_little_loss_no_rule_is_needed(quality, speed_up, comparable):
    curve = SimpleNamespace(
        validation=points((0.8, 2.0), (0.8, 0.9)), test=points((0.9, 2.0), (0.9, 0.9)), full_quality=0.9,
        baselines=alone((0.8, 3.0), (quality, speed_up), (0.9, 1.0)),
    )  # fmt: skip
    found = claims.saves(curve)
    assert (found.holds, found.not_comparable == "") == (comparable, comparable)


def test_earlier_histograms_are_judged_by_the_exits_that_have_some(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    for gains, holds in (([9.0, 0.006, 0.004, -9.0], True), ([9.0, 0.006, 0.003, 9.0], False)):
        monkeypatch.setattr(claims, "gains_by_exit", lambda *_, gains=gains: gains)
        assert claims.gains_from_earlier(method, ready, bench).holds is holds
    monkeypatch.undo()
    curve = SimpleNamespace(
        validation=[SimpleNamespace(knob=1, quality=1.0, cost=1.0, speed_up=1.0)],
        test=[SimpleNamespace(knob=1, quality=1.0, cost=1.0, speed_up=1.0)], full_quality=1.0,
        baselines=alone((0.8, 3.0), (1.0, 1.0)),
    )  # fmt: skip
    names = [outcome.name for outcome in claims.claims(method, ready, bench, curve)]
    assert names == ["much cheaper at nearly the same accuracy", "small exits", "earlier histograms help"]
    other = prepared(KEY, "separate")
    assert [outcome.name for outcome in claims.claims(*other[::2], other[1], curve)] == names[:2]


def test_exits_are_small_by_work_and_by_parameters(prepared):
    _, _, ready = prepared(KEY)
    found = claims.small(ready)
    every, cut = costs.both_costs(ready.model, ready.data.test.inputs[0][None])
    added = sum(p.numel() for p in ready.model.added)
    plain = sum(p.numel() for p in ready.model.plain_network().parameters())
    assert found.measured == f"{every[-1] / cut[-1] - 1:.1%} more MACs, {added / plain:.1%} more parameters"
    assert found.holds is (every[-1] <= 1.05 * cut[-1] and added <= 0.05 * plain)
