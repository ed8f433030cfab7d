"""What only conditional deep learning promises: its gain and its exit rule by hand, and how its stages are trained."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims.panda2016cdl import accuracy, operations
from eelit.methods.engine.costs import both_costs, count
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.papers import panda2016cdl
from eelit.methods.papers.panda2016cdl import ConditionalDeepLearning, gain, pooled, squared_error
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.recipes.plain import train_plain

KEY = "panda2016cdl"


def logit(*probabilities):
    """Return the logits whose sigmoids these are, of one sample."""
    p = np.array([probabilities])
    return np.log(p) - np.log1p(-p)


# The exit rule.


@pytest.mark.parametrize(
    ("outputs", "delta", "stops"),
    [
        ((0.9, 0.2, 0.1), 0.5, True),
        ((0.9, 0.6, 0.1), 0.5, False),  # two are strong: ambiguous, however high the first
        ((0.9, 0.6, 0.1), 0.7, True),  # a higher level ends the ambiguity
        ((0.4, 0.3, 0.1), 0.5, False),
        ((0.5, 0.2, 0.1), 0.5, True),  # at the level
        ((0.9, 0.9, 0.9), 0.0, False),
        ((0.999, 0.2, 0.1), 1.1, False),
    ],
)
def test_who_is_settled_by_hand(outputs, delta, stops):
    for z in (logit(*outputs), torch.tensor(logit(*outputs))):
        assert bool(SoleClass(delta).step((), z)[1][0]) is stops


def test_levels_per_exit_and_a_mask():
    z = np.stack([logit(0.8, 0.1), logit(0.8, 0.1), logit(0.8, 0.1)])
    assert replay(SoleClass((0.9, 0.7)), z).tolist() == [1]
    masked = np.array([[np.log(4), -np.inf]])
    assert bool(SoleClass(0.75).step((), masked)[1][0])
    assert not SoleClass(0.0).step((), masked)[1][0]


def test_no_level_above_one_stops_anybody_and_no_probability_need_sum_to_one():
    z = np.random.default_rng(0).normal(scale=20, size=(3, 200, 5))
    assert (replay(SoleClass(1.1), z) == 2).all()
    assert (replay(SoleClass(0.5), z[:, :, :2]) < 2).any()


def own_costs(model, x):
    """Return what each classifier but the last costs by itself."""
    states = list(model.states(x))[:-1]
    return [count(lambda head=head, state=state: head(state)) for head, state in zip(model.heads, states, strict=False)]


# The gain.


def test_gain_by_hand():
    assert gain(100, 30, 5, settled=6, passed=4) == 400
    assert gain(100, 30, 5, settled=0, passed=10) == -50
    assert gain(100, 30, 5, settled=10, passed=0) == 700


def test_the_gains_of_all_stages_add_up_to_what_is_saved(prepared):
    """On the training images, at the level of the training: mean operations follow, and are fewer than before."""
    method, _, ready = prepared(KEY)
    seen, model = ready.split("train"), ready.model
    exits = replay(SoleClass(method.delta), seen.outputs)
    reached, alone = both_costs(model, x := seen.examples.inputs[0][None])
    own = own_costs(model, x)
    gains = [
        gain(alone[-1], alone[i], own[i], int((exits == i).sum()), int((exits > i).sum()))
        for i in range(model.exits - 1)
    ]
    assert min(gains) > 0
    spent = np.array(reached)[exits].sum()
    assert sum(gains) == pytest.approx(len(exits) * alone[-1] - spent)
    shares = np.bincount(exits, minlength=model.exits) / len(exits)
    assert shares @ reached == pytest.approx(spent / len(exits))
    assert spent / len(exits) < alone[-1]


# What is built and trained.


def test_a_classifier_is_linear_in_means_over_at_most_sixteen_places():
    for channels, side, count_ in ((48, 24, 16), (192, 3, 9)):
        head = ConditionalDeepLearning().head((channels, side, side), 10)
        assert [type(part).__name__ for part in head[1:]] == ["Flatten", "Linear"]
        assert (head[2].in_features, head[2].out_features) == (channels * count_, 10)
        maps = torch.randn(2, channels, side, side)
        means = F.avg_pool2d(maps, 6) if side == 24 else maps
        assert torch.allclose(pooled(maps), means, atol=1e-6)
        assert torch.allclose(head(pooled(maps)), head(maps), atol=1e-5)


def test_squared_error_by_hand():
    z = torch.tensor(np.concatenate([logit(0.8, 0.3), logit(0.5, 0.9)]))
    first, second = (0.8 - 1) ** 2 + 0.3**2, 0.5**2 + (0.9 - 1) ** 2
    assert float(squared_error(z, torch.tensor([0, 1]))) == pytest.approx((first + second) / 2)


def trained_briefly(prepared, **settings):
    """Return a method with little training, its network after that, the data, and the stages of the training."""
    method, _, ready = prepared(KEY)
    short, found = method.replace({"epochs": 1.0, "head_epochs": 6.0, **settings}), []
    model = short.build(ready.data, 0)
    short.train(model, ready.data, Bench(watch=lambda stage: found.append(stage) if stage else None))
    return short, model, ready.data, found


def test_each_classifier_learns_from_the_images_that_those_before_it_pass_on(prepared):
    _, model, data, (plain, first, second) = trained_briefly(prepared, delta=0.3, batch=50, rate=3e-3, head_rate=2e-2)
    x, y = torch.stack(list(data.train.inputs)), data.train.targets
    with torch.no_grad():
        maps = list(model.states(x))
        reached = model.heads[0](maps[0]).sigmoid() >= 0.3
        expected = float(F.cross_entropy(model.full(x[:20]), y[:20]))
    settled = reached.sum(dim=1) == 1
    assert 0 < settled.sum() < 600
    assert torch.equal(first.train.targets, y)
    assert torch.equal(second.train.targets, y[~settled])
    for stage, read in ((first, maps[0]), (second, maps[1][~settled])):
        assert torch.allclose(torch.stack(list(stage.train.inputs)), pooled(read), atol=1e-5)
    assert plain.loss(plain.batch_of(torch.arange(20), x[:20])).item() == pytest.approx(expected, rel=1e-4)
    assert plain.rates == {id(p): 3e-3 for p in (*model.stages.parameters(), *model.heads[-1].parameters())}
    for stage, head in ((first, model.heads[0]), (second, model.heads[1])):
        assert stage.rates == {id(p): 2e-2 for p in head.parameters()}
        assert (stage.epochs, stage.batch) == (6.0, 50)
        index, read = next(stage.train.batches(50))
        by_hand = squared_error(head(read), stage.train.targets[index])
        assert stage.loss(stage.batch_of(index, read)).item() == pytest.approx(float(by_hand.detach()), rel=1e-5)
    assert (plain.epochs, plain.batch, len(plain.train)) == (1.0, 50, 600)
    assert int(model.get_buffer("kept")) == 2
    assert not model.training


def test_the_network_stays_bit_for_bit_what_it_was_before_it_was_read(prepared):
    short, model, data, _ = trained_briefly(prepared)
    alone = short.build(data, 0)
    train_plain(alone, data, Bench(), **short.options)
    a, b = alone.plain_network().state_dict(), model.plain_network().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("settings", [{"delta": 1.1}, {"least_gain": 1.0}])
def test_the_first_stage_without_enough_gain_ends_the_search(prepared, settings):
    """Nobody is settled, or the bar is all that there is to save."""
    short, model, _, stages = trained_briefly(prepared, **settings)
    assert len(stages) == 2
    assert int(model.get_buffer("kept")) == 0
    assert short.deployed(model).exits == 1


def test_the_least_gain_is_a_share_of_what_all_images_cost(prepared):
    """A stage that gains a little less than that is not kept, one that gains a little more is."""
    _, model, data, _ = trained_briefly(prepared, delta=0.3)
    x = torch.stack(list(data.train.inputs))
    reached, alone = both_costs(model, x[:1])
    with torch.no_grad():
        settled = int(((model.heads[0](model.stages[0](x)).sigmoid() >= 0.3).sum(dim=1) == 1).sum())
    share = gain(alone[-1], reached[0], own_costs(model, x[:1])[0], settled, 600 - settled) / (600 * alone[-1])
    assert 0 < share < 1
    for least, kept in ((share - 1e-6, 1), (share + 1e-6, 0)):
        _, other, _, _ = trained_briefly(prepared, delta=0.3, least_gain=least)
        assert (int(other.get_buffer("kept")) >= 1) == kept


def test_where_one_stage_settles_everything_the_next_has_nothing_to_learn_from(prepared, monkeypatch):
    monkeypatch.setattr(panda2016cdl, "SoleClass", lambda delta: FixedExit(0))
    _, model, _, stages = trained_briefly(prepared)
    assert len(stages) == 2
    assert int(model.get_buffer("kept")) == 1


def test_classifiers_that_are_not_kept_cost_nothing(prepared):
    method, _, ready = prepared(KEY)
    model, x = method.build(ready.data, 0), torch.stack(list(ready.data.validation.inputs[:8]))
    with torch.no_grad():
        full, early = model.full(x), model(x)
        for kept in (0, 1, 2):
            model.get_buffer("kept").fill_(kept)
            less = method.deployed(model)
            assert less.exits == kept + 1
            assert torch.allclose(less(x), early[[*range(kept), 2]], atol=1e-4)
            assert torch.allclose(less.full(x), full, atol=1e-4)
            every, alone = both_costs(model, x[:1])
            assert both_costs(less, x[:1])[0] == [*every[:kept], alone[-1] + sum(own_costs(model, x[:1])[:kept])]
    assert not any(isinstance(part, nn.BatchNorm2d) for part in less.modules())


def test_the_knob_is_the_confidence_level(prepared):
    method, _, ready = prepared(KEY)
    assert method.rule(0.7, ready) == SoleClass(0.7)


# What it is compared with.


@pytest.mark.parametrize("kept", [0, 1])
def test_the_baselines_ask_classifiers_that_have_learned_from_all_images(prepared, kept):
    """Wherever the cascade has none: at each place one, on the network of the cascade."""
    method, _, ready = prepared(KEY)
    short, found = method.replace({"head_epochs": 1.0, "head_rate": 4e-3, "batch": 50}), []
    *first, rest = ready.model.stages
    stages = [*first, *rest]
    merged = MultiExit(
        [*stages[:kept], nn.Sequential(*stages[kept:])], [*ready.model.heads[:kept], ready.model.heads[-1]]
    )
    bench = Bench(watch=lambda stage: found.append(stage) if stage else None)
    static, surest = short.baselines(replace(ready, model=merged), bench)
    test, train = ready.data.test, ready.data.train
    seen, learned = (states_of(stages, torch.stack(list(part.inputs))) for part in (test, train))
    assert len(found) == 2
    for i, stage in enumerate(found):
        assert torch.equal(stage.train.targets, train.targets)
        assert torch.allclose(torch.stack(list(stage.train.inputs)), pooled(learned[i]), atol=1e-4)
        assert (stage.epochs, stage.batch, set(stage.rates.values())) == (1.0, 50, {4e-3})
        head = nn.Sequential(nn.Flatten(), nn.Linear(1, 1))
        head[1].weight, head[1].bias = stage.optimiser.param_groups[0]["params"]
        index, read = next(stage.train.batches(50))
        by_hand = squared_error(head(read), train.targets[index])
        assert stage.loss(stage.batch_of(index, read)).item() == pytest.approx(float(by_hand.detach()), rel=1e-5)
        right = head(pooled(seen[i])).argmax(dim=1) == test.targets
        assert static.test[i].quality == pytest.approx(float(right.double().mean()))
    full = ready.model.heads[-1](seen[-1]).argmax(dim=1) == test.targets
    assert static.test[-1].quality == pytest.approx(float(full.double().mean()))
    assert [point.knob for point in static.test] == [1, 2, 3]
    assert static.test[-1].speed_up == 1
    assert surest.test[0].quality == static.test[0].quality  # at threshold 0 everybody leaves at once
    assert surest.test[-1].quality == static.test[-1].quality


@torch.no_grad()
def states_of(stages, x):
    """Return the maps after each stage."""
    found = []
    for stage in stages:
        x = stage(x)
        found.append(x.clone())
    return found


# What is claimed.


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


def cut_off(best=0.89):
    """Return the baseline of classifiers by themselves, of which the second is the best before the whole network."""
    return [SimpleNamespace(name="static exit", test=points((1, 0.5, 4.0), (2, best, 2.0), (3, 0.9, 1.0)))]


@pytest.mark.parametrize(
    ("speed_up", "test", "holds"), [(1.5, 0.896, True), (1.4, 0.91, False), (1.5, 0.894, False), (2.0, 0.95, True)]
)
def test_a_third_of_the_operations_must_be_saved_where_nothing_is_lost_on_validation_images(speed_up, test, holds):
    curve = SimpleNamespace(
        validation=points((0.5, 0.89, 3.0), (0.8, 0.9, speed_up), (0.9, 0.95, 1.2), (1.1, 0.9, 1.0)),
        test=points((0.5, 0.95, 3.0), (0.8, test, speed_up), (0.9, 0.5, 1.2), (1.1, 0.9, 1.0)),
        full_quality=0.9,
        baselines=cut_off(),
    )
    found = operations(curve)
    assert found.holds is holds
    assert "level 0.8" in found.measured


@pytest.mark.parametrize(("test", "holds"), [(0.906, True), (0.904, False)])
def test_the_cascade_must_gain_half_a_point_at_its_best_level(test, holds):
    curve = SimpleNamespace(
        validation=points((0.5, 0.89, 3.0), (0.8, 0.92, 1.5), (1.1, 0.9, 1.0)),
        test=points((0.5, 0.95, 3.0), (0.8, test, 1.5), (1.1, 0.9, 1.0)),
        full_quality=0.9,
        baselines=cut_off(),
    )
    found = accuracy(curve)
    assert found.holds is holds
    assert "level 0.8" in found.measured


@pytest.mark.parametrize(("best", "comparable"), [(0.899, True), (0.9, False), (0.92, False)])
def test_where_one_classifier_is_as_good_as_the_network_a_cascade_shows_nothing(best, comparable):
    swept = points((0.5, 0.92, 2.0), (1.1, 0.9, 1.0))
    curve = SimpleNamespace(validation=swept, test=swept, full_quality=0.9, baselines=cut_off(best))
    for found in (operations(curve), accuracy(curve)):
        assert (found.holds, found.not_comparable == "") == (comparable, comparable)
        if not comparable:
            assert f"Linear classifier 2 by itself, for 50% of the cost, reaches {best:.4f}" in (found.not_comparable)


def test_levels_reach_down_to_where_several_classes_pass_images_on(prepared):
    """So the cheapest level lies within the grid, not at its end."""
    method, bench, ready = prepared(KEY)
    costs = [point.cost for point in method.sweep(ready, bench, "validation", method.knobs)]
    assert 0 < costs.index(min(costs)) < len(costs) - 1
