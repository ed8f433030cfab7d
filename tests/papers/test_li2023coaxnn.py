"""What only CoAxNN promises: filters that are zero, come back and go for good, its chromosomes, and its exit rule."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.claims import li2023coaxnn as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.engine.pareto import front
from eelit.methods.engine.search import Judged
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.families.designs import Design
from eelit.methods.harness import registry
from eelit.methods.papers import li2023coaxnn as paper
from eelit.methods.papers.li2023coaxnn import CoAxNN, joint_loss, thinned, without_zeros, zero_filters

KEY = "li2023coaxnn"
SMALL = CoAxNN(levels=(0.1, 0.5, 2.4), rates=(0.0, 0.5))


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


def network(seed=0, widths=(4, 6), blocks=2):
    """Return a small residual network with one exit, its normalisation as after some training."""
    model = residual_exits(
        (1, 8, 8), 3, widths=widths, blocks=blocks, shares=(0.5,), seed=seed, pixels=2, half=False,
        head=lambda shape: nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3)),
    )  # fmt: skip
    generator = torch.Generator().manual_seed(seed)
    for part in model.modules():
        if isinstance(part, nn.BatchNorm2d):
            for tensor, shift in (
                (part.weight, 1.0),
                (part.bias, 0.0),
                (part.running_mean, 0.0),
                (part.running_var, 1.0),
            ):
                tensor.data.copy_(shift + 0.3 * torch.rand(tensor.shape, generator=generator))
    return model


@pytest.fixture
def x():
    return torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))


# The loss.


def test_the_loss_is_the_weighted_mean_of_the_stages():
    z = torch.randn(3, 8, 4, generator=torch.Generator().manual_seed(0))
    y = torch.arange(8) % 4
    each = [F.cross_entropy(z[i], y).item() for i in range(3)]
    assert joint_loss(z, y, (1, 1, 1)).item() == pytest.approx(sum(each) / 3)
    assert joint_loss(z, y, (0.5, 0.5, 1)).item() == pytest.approx((0.5 * each[0] + 0.5 * each[1] + each[2]) / 2)


# Filters.


@pytest.mark.parametrize("for_good", [False, True])
def test_the_filters_of_least_norm_are_set_to_zero(for_good):
    """For good with what shifts their maps; the scale stays, through which they learn."""
    conv, norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([3.0, -1.0, 2.0, -4.0])[:, None, None, None].expand(4, 1, 3, 3))
        norm.bias.fill_(7.0)
        norm.running_mean.fill_(5.0)
    zero_filters(nn.Sequential(conv, norm), 0.7, for_good=for_good)  # floor(4 * 0.7) = 2
    assert conv.weight.flatten(1).any(dim=1).tolist() == [True, False, False, True]
    assert norm.bias.tolist() == ([7, 0, 0, 7] if for_good else [7] * 4)
    assert norm.running_mean.tolist() == ([5, 0, 0, 5] if for_good else [5] * 4)
    assert norm.weight.tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(("r", "count"), [(0.0, 0), (0.25, 2), (0.3, 3), (0.34, 3), (0.99, 9)])
def test_floor_of_the_rate_of_all_filters(r, count):
    """0.3 of 10 are 3, though 10 * 0.3 may fall short of it in floating point."""
    conv = nn.Conv2d(2, 10, 3)
    zero_filters(nn.Sequential(conv, nn.BatchNorm2d(10)), r, for_good=True)
    assert int((~conv.weight.flatten(1).any(dim=1)).sum()) == count


def test_pruned_are_the_stem_and_both_convolutions_of_each_block_but_no_projection():
    model = network()
    every = [part for part in model.modules() if isinstance(part, nn.Conv2d)]
    pruned = [conv for conv, _ in paper.filters(model)]
    assert len(pruned) == 1 + 2 * 4
    assert {conv.kernel_size for conv in every if not any(conv is each for each in pruned)} == {(1, 1)}
    zero_filters(model, 0.5, for_good=False)
    assert all(paper.zeros(conv) == (conv.kernel_size != (1, 1)) for conv in every)


def test_a_filter_that_is_zero_may_come_back(x):
    """Its weights have a gradient; for good, the map of a stem or of a block's first convolution is cut off by ReLU."""
    for for_good, alive in ((False, 9), (True, 4)):
        model = network().train()
        zero_filters(model, 0.5, for_good=for_good)
        F.cross_entropy(model(x)[-1], torch.tensor([0, 1, 2, 0, 1])).backward()
        gone = [~conv.weight.flatten(1).any(dim=1) for conv, _ in paper.filters(model)]
        assert all(each.sum() == len(each) // 2 for each in gone)
        slopes = [
            conv.weight.grad[each].abs().max() for (conv, _), each in zip(paper.filters(model), gone, strict=True)
        ]
        assert sum(float(slope) > 0 for slope in slopes) == alive


def test_for_good_the_map_of_a_zero_filter_is_zero(x):
    model, seen = network().train(), []
    zero_filters(model, 0.5, for_good=True)
    for conv, norm in paper.filters(model):
        norm.register_forward_hook(lambda part, given, out, conv=conv: seen.append((conv, out)))
    model(x)
    assert len(seen) == 9
    for conv, out in seen:
        assert not out[:, ~conv.weight.flatten(1).any(dim=1)].any()
        assert out.any()


def test_for_good_zero_filters_take_nothing_of_the_gradients_norm(x):
    """The maps of a block's second convolutions have no variance, so their gradients are hundreds of times longer."""
    slopes = {}
    for is_spared in (False, True):
        model = network().train()
        zero_filters(model, 0.5, for_good=True)
        hooks = paper.spared(model) if is_spared else []
        assert len(hooks) == 2 * 9 * is_spared
        F.cross_entropy(model(x)[-1], torch.tensor([0, 1, 2, 0, 1])).backward()
        left = {}
        for conv, norm in paper.filters(model):
            stays = conv.weight.detach().flatten(1).any(dim=1)
            for parameter in (conv.weight, norm.bias):
                assert not is_spared or not parameter.grad[~stays].any()
                left[id(parameter)] = parameter.grad[stays]
        each = [left.get(id(p), p.grad) for p in model.parameters() if p.grad is not None]
        whole = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]).norm()
        slopes[is_spared] = (torch.cat([slope.flatten() for slope in each]), float(whole))
    (before, amplified), (after, whole) = slopes[False], slopes[True]
    assert torch.equal(before, after)
    assert whole == pytest.approx(float(after.norm()), rel=1e-5)
    assert amplified > 20 * whole


def test_while_filters_are_settled_what_is_clipped_is_the_gradient_of_those_left(monkeypatch):
    """Before, they may come back, so they have one; afterwards nothing hangs on the network."""
    method, zero, models = tiny(batch=100, epochs=3.0, settled=1 / 3), [], []
    clip = nn.utils.clip_grad_norm_

    def seen(parameters, norm):
        pairs = [(conv.weight, conv.weight.detach().flatten(1).any(dim=1)) for conv, _ in paper.filters(models[0])]
        zero.append([float(weight.grad[~stays].abs().sum()) for weight, stays in pairs if not stays.all()])
        return clip(parameters, norm)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", seen)
    data = method.load()
    models.append(method.build(data, 0))
    method.train_at(0.25, models[0], data, Bench())
    assert [len(each) for each in zero] == [0] * 6 + [4] + [0] * 5 + [4] * 6
    assert any(slope > 0 for slope in zero[6])  # not all: a shift below 0 cuts a first convolution's map off
    assert not any(slope for each in zero[12:] for slope in each)
    assert not any(p._backward_hooks for p in models[0].parameters())


@pytest.mark.parametrize("r", [0.25, 0.5])
def test_nothing_changes_when_filters_that_are_zero_are_removed(x, r):
    """Of a block's two convolutions the first has fewer filters; the second reads fewer maps, too."""
    method, model = SMALL.replace({"widths": (4, 6)}), network()
    zero_filters(model, r, for_good=True)
    model.eval()
    whole = super(CoAxNN, method).deployed(model)
    small = method.deployed(model)
    with torch.no_grad():
        assert torch.allclose(small(x), model(x), atol=1e-5)
    before, after = (costs.both_costs(each, x[:1])[1] for each in (whole, small))
    left = {width: width - math.floor(width * r) for width in (4, 6)}
    # The stem, at 4×4 places; two blocks of 4 channels there; two of 6 at 2×2, the first of which has a projection.
    stem, wide, narrow = 16 * 9, 16 * 9, 4 * 9
    blocks = [(4, 4, wide), (4, 4, wide), (4, 6, narrow), (6, 6, narrow)]
    full = stem * 4 + sum(places * (a * b + b * b) for a, b, places in blocks) + 4 * 4 * 6 + 6 * 3
    thin = stem * left[4] + sum(places * (a * left[b] + left[b] ** 2) for a, b, places in blocks) + 4 * 4 * 6 + 6 * 3
    assert (before[-1], after[-1]) == (full, thin)


def test_without_zeros_nothing_is_removed(x):
    model = super(CoAxNN, SMALL).deployed(network())
    before = [*map(type, model.modules())]
    assert [*map(type, without_zeros(model).modules())] == before


def test_a_thinned_convolution_by_hand():
    conv = nn.Conv2d(2, 3, 1)
    found = thinned(conv, torch.tensor([2, 0]), torch.tensor([1]))
    given = torch.randn(4, 1, 5, 5)
    both = torch.cat([torch.zeros_like(given), given], dim=1)
    assert torch.allclose(found(given), conv(both)[:, [2, 0]], atol=1e-6)


# Training.


def test_each_rate_has_a_network_of_its_own_from_scratch(stages):
    method = tiny(rates=(0.0, 0.25, 0.5), batch=40)
    found = stages(method)
    assert [(s.epochs, s.batch, len(s.train), s.label[-4:]) for s in found] == [
        (method.epochs, 40, 600, said) for said in ("te 0", "0.25", " 0.5")
    ]
    images = method.load().train
    for stage in found:
        assert torch.equal(torch.stack([*stage.train.inputs]), torch.stack([*images.inputs]))
        assert torch.equal(stage.train.targets, images.targets)
    assert all({*stage.rates.values()} == {method.rate} for stage in found)
    parameters = [set(stage.rates) for stage in found]
    assert all(not a & b for i, a in enumerate(parameters) for b in parameters[:i])


def test_the_loss_of_a_stage_is_that_of_its_network(one_stage):
    method = tiny(rates=(0.0,), lam=0.5)
    model, stage = one_stage(method)
    x = torch.stack(list(stage.train.inputs[:16]))
    y, z = stage.train.targets[:16], model(torch.stack(list(stage.train.inputs[:16])))
    expected = (0.5 * F.cross_entropy(z[0], y) + 0.5 * F.cross_entropy(z[1], y) + F.cross_entropy(z[2], y)) / 2
    assert stage.loss(stage.batch_of(torch.arange(16), x)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert stage.rates == {id(p): method.rate for p in model.parameters()}


def test_filters_are_set_to_zero_after_each_epoch_and_at_the_end_after_each_step(monkeypatch):
    """Of 600 images 19 steps are an epoch, the last of 24; of four epochs the last half is settled."""
    method, asked = tiny(batch=32, epochs=4.0, settled=0.5), []
    data = method.load()
    model = method.build(data, 0)
    monkeypatch.setattr(paper, "zero_filters", lambda model, r, for_good: asked.append((len(steps), r, for_good)))
    steps = []
    monkeypatch.setattr(paper, "joint_loss", lambda z, y, lam: steps.append(0) or (z * 0).sum())
    method.train_at(0.3, model, data, Bench())
    assert asked == [(19, 0.3, False), *((n, 0.3, True) for n in range(38, 77))]


def test_a_network_is_trained_to_have_zero_filters_and_is_built_without_them(prepared):
    method, _, ready = prepared(KEY)
    first, second = (network.model for network in ready.networks)
    assert len(ready.networks) == len(method.rates) == 2
    assert not any(isinstance(part, paper.Spread) for part in first.modules())
    shapes = [tuple(part.weight.shape[:2]) for part in second.modules() if isinstance(part, nn.Conv2d)]
    # Of 1, 8 and 24 filters 1, 6 and 18 are left at a quarter; each block's second convolution reads what is left.
    assert shapes == [(1, 1), (1, 1), (1, 1), (6, 1), (6, 6), (8, 1), (18, 8), (18, 18), (24, 8)]
    full = [float(network.split("test").full_costs[0]) for network in ready.networks]
    assert full[1] < 0.7 * full[0]


def test_only_residual_networks_are_pruned(prepared):
    method, _, ready = prepared(KEY)
    with pytest.raises(ValueError, match="residual"):
        method.replace({"network": "vgg"}).build(ready.data, 0)


# Chromosomes and the search.


def test_a_chromosome_holds_availability_thresholds_and_the_rate():
    space = SMALL.space(4)
    assert space.values == (2, 2, 2, 3, 3, 3, 2)
    assert SMALL.design([1, 0, 1, 0, 1, 2, 1], 4) == Design((True, False, True), (0.1, 0.5, 2.4), 1)
    assert SMALL.told(SMALL.design([1, 0, 1, 0, 1, 2, 1], 4)) == "exit 1 below 0.1, exit 3 below 2.4, pruning rate 0.5"
    assert SMALL.told(SMALL.design([0] * 7, 4)) == "no exit, pruning rate 0"
    nothing, first = (SMALL.design(genes, 4) for genes in space.known)
    assert (nothing.kept, nothing.network) == ((False, False, False), 0)
    assert (first.kept, first.thresholds[0], first.network) == ((True, False, False), 2.4, 1)
    assert space.written(np.array([[0, 1, 0, 2, 1, 2, 1]])).tolist() == [[0, 1, 0, 0, 1, 0, 1]]


def test_nobody_leaves_below_0_and_everybody_below_more_than_ln_c():
    z = torch.randn(3, 50, 10, generator=torch.Generator().manual_seed(0))
    assert (replay(SMALL.stop([0.0, 0.0]), z) == 2).all()
    assert (replay(SMALL.stop([2.4, 0.0]), z) == 0).all()
    assert math.log(10) < max(CoAxNN().levels)
    design = SMALL.design([0, 1, 2, 2, 0], 3)
    assert (replay(SMALL.everywhere(design), z) == 1).all()


def test_entropy_must_lie_strictly_below():
    """A coin has ln 2."""
    z = torch.zeros(2, 1, 2, dtype=torch.float64)
    assert replay(SMALL.stop([math.log(2)]), z).tolist() == [1]
    assert replay(SMALL.stop([math.log(2) + 1e-9]), z).tolist() == [0]


def test_mean_cost_of_the_papers_resnet_20():
    """0.5871 of the images leave at a stage of 1.93e7, the others cost 4.53e7: 3.00e7; 1e6 of that is the branch."""
    count, early, branch = 10_000, 5871, 1e6
    z = torch.zeros(2, count, 10)
    z[:, :early, 0] = 20.0  # sure; all others have the largest entropy
    spent = np.repeat([[1.93e7], [4.53e7]], count, axis=1)
    own = StoredOutputs(Examples([None] * count, torch.zeros(count, dtype=torch.long)), z, spent, spent.copy())
    own.static_costs[1] -= branch
    ready = SimpleNamespace(split=lambda part: own)
    ready.networks = (ready,)
    point = SMALL.operating_point(Design((True,), (0.5,)), ready, "test")
    assert point.exits == [0.5871, 0.4129]
    assert point.cost == pytest.approx(3.00e7, rel=2e-3)
    assert SMALL.operating_point(Design((False,), (0.5,)), ready, "test").cost == pytest.approx(4.53e7 - branch)


def test_mean_cost_is_that_of_the_stages_by_their_shares(prepared):
    method, _, ready = prepared(KEY)
    design = Design((True, True), (0.5, 0.9), 1)
    point = method.operating_point(design, ready, "test")
    stages = method.seen(design, ready, "test").costs[:, 0]
    assert point.cost == pytest.approx(float(np.array(point.exits) @ stages))
    full = ready.networks[0].split("test").full_costs[0]
    assert point.speed_up == pytest.approx(full / point.cost)
    assert stages[-1] < full


def test_fitness_is_that_of_the_networks_own_stages(prepared):
    """Designs at another rate are judged by the outputs and costs of another network, and executed there."""
    method, bench, ready = prepared(KEY)
    for genes in ([1, 1, 3, 6, 0], [1, 1, 3, 6, 1]):
        design = method.design(genes, 3)
        seen = ready.networks[genes[-1]].split("validation")
        exits = replay(method.everywhere(design), seen.outputs)
        right = (seen.at(exits).argmax(-1) == seen.targets).double().mean()
        ((error, share),) = method.judged(np.array([genes]), ready, "validation")
        assert error == pytest.approx(1 - float(right))
        assert share == pytest.approx(
            seen.costs[exits, np.arange(len(exits))].mean() / ready.split("validation").full_costs.mean()
        )
    done = method.execute(ready, bench, method.knobs[0])
    assert method.chosen(method.knobs[0], ready).network == 1
    assert (done.counted, done.agrees) == (done.claimed, True)


def test_while_designs_are_chosen_no_network_shows_its_test_images(prepared):
    _, _, ready = prepared(KEY)
    for network in ready.for_choosing.networks:
        with pytest.raises(TestDataAsked):
            network.split("test")


def test_the_search_finds_what_trying_all_chromosomes_finds(prepared):
    """Two exits, three thresholds, two rates: no point that it returns dominates another, and none is missed."""
    _, _, ready = prepared(KEY)
    method = tiny(levels=(0.4, 1.0, 2.4), population=16, generations=14)
    every = np.array(
        [[*m, *th, r] for m in product((0, 1), repeat=2) for th in product(range(3), repeat=2) for r in (0, 1)]
    )
    scores = method.judged(every, ready, "fitting")
    best = scores[front([tuple(pair) for pair in scores.tolist()])]
    found = method.fit(ready.for_choosing)
    assert found.scores[found.front] == pytest.approx(best)


def test_the_best_of_all_chromosomes_is_that_of_trying_each(prepared):
    """On both networks; at full size a million chromosomes differ."""
    _, _, ready = prepared(KEY)
    method = tiny(levels=(0.4, 1.0, 2.4))
    every = np.array(
        [[*m, *th, r] for m in product((0, 1), repeat=2) for th in product(range(3), repeat=2) for r in (0, 1)]
    )
    scores = method.judged(every, ready, "validation")
    best = method.best_of_all(ready, "validation")
    assert best.scores == pytest.approx(scores[front([tuple(pair) for pair in scores.tolist()])])
    assert {row[-1] for row in best.designs.tolist()} == {0, 1}
    assert method.different(3) == 2 * 4**2 == len({tuple(row) for row in method.space(3).written(every).tolist()})
    assert CoAxNN().different(6) == 3 * 13**5


# What is claimed.


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


@pytest.mark.parametrize(("speed_up", "test", "holds"), [(1.34, 0.881, True), (1.3, 0.9, False), (1.34, 0.879, False)])
def test_a_quarter_must_be_saved_at_a_loss_of_one_point(speed_up, test, holds):
    curve = SimpleNamespace(
        validation=points((0.2, 0.88, 4.0), (0.5, 0.891, speed_up), (1.0, 0.9, 1.0)),
        test=points((0.2, 0.95, 4.0), (0.5, test, speed_up), (1.0, 0.9, 1.0)),
        baselines=[SimpleNamespace(name="static exit", test=points((1, 0.899, 4.0), (2, 0.9, 1.0)))],
        full_quality=0.9,
    )
    found = claimed.saves(curve, 0.9511)
    assert (found.holds, found.not_comparable) == (holds, "")
    assert "budget 0.5" in found.measured
    assert found.measured.endswith("without exits: 0.9511")
    curve.baselines[0].test = points((1, 0.9, 4.0), (2, 0.9, 1.0))
    found = claimed.saves(curve, 0.9511)
    assert not found.holds
    assert found.not_comparable.startswith("Exit 1 by itself, for 25% of the cost, reaches 0.9000")


@pytest.mark.parametrize(
    ("both", "staged", "thin", "holds"),
    [
        ((2.0, 0.9), (1.7, 0.9), (1.5, 0.9), True),
        ((2.0, 0.9), (1.9, 0.9), (1.5, 0.9), False),
        ((2.0, 0.9), (1.5, 0.9), (1.9, 0.9), False),
        ((2.0, 0.88), (1.5, 0.9), (1.5, 0.89), False),
    ],
)
def test_together_must_beat_either_alone(prepared, monkeypatch, both, staged, thin, holds):
    method, bench, ready = prepared(KEY)
    asked, given = [], iter([both, staged, thin])
    pruning = claimed.alone(method)

    def cheapest(one, prepared, designs, full):
        asked.append((one, prepared, designs, full))
        speed_up, quality = next(given)
        return SimpleNamespace(speed_up=speed_up, quality=quality)

    monkeypatch.setattr(claimed, "cheapest", cheapest)
    assert claimed.together(method, ready, pruning, "pruned", bench).holds is holds
    (own, two, front, full), (exits, one, stages, same), (other, networks, pruned, again) = asked
    assert (own, other, networks) == (method, pruning, "pruned")
    assert exits == method.replace({"rates": (0.0,)})
    assert (len(two.networks), len(one.networks)) == (2, 1)
    assert full == same == again == method.operating_point(method.chosen(1.0, ready), ready, "validation").quality
    assert front == claimed.on_front(method, ready)
    assert {design.network for design in stages} == {0}
    assert len(stages) > 2
    assert [(design.kept, design.network) for design in pruned] == [((False, False), 0), ((False, False), 1)]


def test_the_front_and_the_full_model_are_what_is_chosen_from(prepared):
    method, _, ready = prepared(KEY)
    designs = claimed.on_front(method, ready)
    assert isinstance(ready.fitted, Judged)
    assert len(designs) == len(ready.fitted.front) + 1
    assert not any(designs[-1].kept)
    full = method.operating_point(designs[-1], ready, "validation").quality
    point = claimed.cheapest(method, ready, designs, full)
    held = [method.operating_point(design, ready, "validation") for design in designs]
    good = [i for i, each in enumerate(held) if each.quality >= held[-1].quality - 0.01 - 1e-9]
    chosen = min(good, key=lambda i: (held[i].cost, -held[i].quality))
    assert point == method.operating_point(designs[chosen], ready, "test")
    assert claimed.cheapest(method, ready, designs, -1.0) == method.operating_point(designs[0], ready, "test")


def test_pruning_alone_is_of_networks_whose_last_stage_alone_learns(stages):
    """As long, in such batches, at such a rate; without pruning by ordinary training, which other methods have, too."""
    method = tiny(rates=(0.0, 0.25), batch=40, lam=0.7)
    rival = claimed.alone(method)
    assert rival.replace({"lam": 0.7}).__dict__ == method.__dict__
    plain, thinned = stages(rival)
    assert (plain.label, thinned.label) == (
        "training the plain network", "training all stages at pruning rate 0.25",
    )  # fmt: skip
    for stage in (plain, thinned):
        assert (stage.epochs, stage.batch, len(stage.train), {*stage.rates.values()}) == (
            method.epochs, 40, 600, {method.rate},
        )  # fmt: skip
    model = rival.build(method.load(), 0)
    zero_filters(model, 0.25, for_good=True)  # as at the end of a training, here of no steps
    x, y = torch.stack(list(thinned.train.inputs[:16])), thinned.train.targets[:16]
    expected = F.cross_entropy(model.eval()(x)[-1], y)
    assert thinned.loss(thinned.batch_of(torch.arange(16), x)).item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize(("missing", "holds"), [(0.002, True), (0.003, False)])
def test_the_front_must_be_close_to_that_of_all(prepared, monkeypatch, missing, holds):
    method, _, ready = prepared(KEY)
    ours = ready.fitted
    best = SimpleNamespace(hypervolume=ours.hypervolume + missing)
    monkeypatch.setattr(claimed, "worth", lambda method, prepared, found: 0.6 if found is ours else 0.65)
    found = claimed.near_the_best(method, ready, best)
    assert found.holds is holds
    assert found.measured.startswith(f"{-missing:+.4f} on the images of the search, -0.0500 on test images; ")


def test_four_claims_are_tried_and_all_designs_are_judged_once_without_the_test_images(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    rival = SimpleNamespace(prepare=lambda bench: "pruned", full_model=lambda *given: (given, 1e9))
    monkeypatch.setattr(claimed, "alone", lambda method: rival)
    asked = []
    monkeypatch.setattr(CoAxNN, "best_of_all", lambda self, *given: asked.append(given) or "best")
    for name in ("saves", "together", "near_the_best", "beside_random_search"):
        monkeypatch.setattr(claimed, name, lambda *given, name=name: (name, *given))
    assert claimed.claims(method, ready, "b", "c") == [
        ("saves", "c", ("pruned", "b")), ("together", method, ready, rival, "pruned", "b"),
        ("near_the_best", method, ready, "best"), ("beside_random_search", method, ready, "best"),
    ]  # fmt: skip
    ((given, part),) = asked
    assert part == "fitting"
    with pytest.raises(TestDataAsked):
        given.split("test")
