"""What only incremental channels promise: narrow networks that stay bit for bit, and what each step adds and trains."""

import copy
import dataclasses
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import tann2016runtime as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.tann2016runtime import (
    Growing,
    Growth,
    Increment,
    Layer,
    Leading,
    ReusedChannels,
    RuntimeConfigurable,
    growth_of,
    layout,
    places,
    started,
    train_new,
    whole,
)
from eelit.methods.policies.margin import Margin

KEY = "tann2016runtime"
SMALL = [Layer((2, 3, 5), 3, 1, pooled=True), Layer((1, 4, 6), 3, 1, pooled=False)]


@pytest.fixture
def growth():
    """Two layers in three configurations, for images of 1×6×6 in four classes."""
    torch.manual_seed(0)
    found = Growth((1, 6, 6), 4, SMALL)
    with torch.no_grad():
        for p in found.parameters():  # biases, too
            p.normal_()
    return found


@pytest.fixture
def x():
    return torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def tiny(variant="recomputed", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def laid_out(method):
    return layout(method.channels, method.configurations, method.pixels)


# The network.


def test_layers_have_shares_of_the_channels():
    first, second, third, fourth = layout((64, 128, 100, 2), (0.25, 0.5, 0.75, 1.0), 4)
    assert first == Layer((16, 32, 48, 64), 5, 2, pooled=True)
    assert second == Layer((32, 64, 96, 128), 3, 1, pooled=False)
    assert third == Layer((25, 50, 75, 100), 3, 1, pooled=True)
    assert fourth == Layer((1, 1, 2, 2), 3, 1, pooled=False)


@pytest.mark.parametrize(("pixels", "stride", "pooled"), [(4, 2, True), (2, 1, True), (1, 1, False)])
def test_the_second_layer_sees_a_place_for_so_many_pixels(pixels, stride, pooled):
    first, second = layout((4, 4), (1.0,), pixels)
    assert first == Layer((4,), 5, stride, pooled)
    assert places([first], (1, 48, 48)) == (48 // pixels) ** 2
    assert places([first, second], (1, 28, 28)) == (28 // pixels) ** 2


@pytest.mark.parametrize(
    ("configurations", "pixels"), [((0.5, 0.25), 4), ((0.5, 0.5), 4), ((0.0, 1.0), 4), ((0.5, 1.1), 4), ((1.0,), 3)]
)
def test_what_cannot_be_laid_out_is_refused(configurations, pixels):
    with pytest.raises(ValueError, match="shares rise to at most 1, and pixels are 1, 2 or 4, not"):
        layout((4, 4), configurations, pixels)


def test_a_layer_convolves_cuts_off_and_halves():
    """An odd border is kept."""
    maps, filters, bias = torch.randn(2, 1, 5, 5), torch.randn(3, 1, 3, 3), torch.randn(3)
    by_hand = F.conv2d(maps, filters, bias, padding=1).clamp(min=0)
    assert torch.allclose(Layer((3,), 3, 1, pooled=False).convolved(maps, filters, bias), by_hand)
    halved = Layer((3,), 3, 1, pooled=True).convolved(maps, filters, bias)
    assert torch.allclose(halved, F.max_pool2d(by_hand, 2, ceil_mode=True))
    assert halved.shape == (2, 3, 3, 3)
    assert Layer((3,), 3, 2, pooled=False).convolved(maps, filters, bias).shape == (2, 3, 3, 3)


def test_new_weights_start_by_the_inputs_of_their_unit():
    torch.manual_seed(0)
    assert started(200, 100, inputs=50).std().item() == pytest.approx(0.2, rel=0.02)
    assert started(200, 100, inputs=50, variance=1.0).std().item() == pytest.approx(0.02**0.5, rel=0.02)
    growing = Growing((40, 80), Layer((100, 200), 3, 1, pooled=False))
    for s, inputs in enumerate((40, 80)):
        for p in growing.new(s):
            assert p.std().item() == pytest.approx((2 / (9 * inputs)) ** 0.5 if p.dim() == 4 else 0.0, rel=0.03)


def test_the_weights_of_a_configuration_hold_those_of_the_one_before(growth):
    """In the corner; the new filters read all channels below, and the old ones the new channels, too."""
    for growing, below in zip(growth.layers, ((1, 1, 1), (2, 3, 5)), strict=True):
        n = growing.layer.n
        for s in range(3):
            filters, bias = growing.weights(s)
            assert filters.shape == (n[s], below[s], 3, 3)
            assert bias.shape == (n[s],)
            if s:
                before, old = growing.weights(s - 1)
                assert torch.equal(filters[: n[s - 1], : below[s - 1]], before)
                assert torch.equal(bias[: n[s - 1]], old)
                assert torch.equal(filters[n[s - 1] :], growing.filters[s])
                if below[s] > below[s - 1]:
                    assert torch.equal(filters[: n[s - 1], below[s - 1] :], growing.back[str(s)])
    assert len(growth.layers[0].back) == 0


def test_each_weight_belongs_to_one_step(growth):
    """Together they are those of the widest configuration: one network is stored, not three."""
    steps = [growth.new(s) for s in range(3)]
    every = [id(p) for step in steps for p in step]
    assert sorted(every) == sorted(id(p) for p in growth.parameters())
    assert len(set(every)) == len(every)
    widest = whole(growth)
    assert sum(p.numel() for p in growth.parameters()) == sum(p.numel() for p in widest.parameters())
    assert growth.bias is steps[0][-1]


def plain(growth, s):
    """Return one configuration as a function of images, its weights copied out of the growing network."""

    def forward(x):
        for growing in growth.layers:
            x = growing.layer.convolved(x, *(weights.clone() for weights in growing.weights(s)))
        return F.linear(x.flatten(1), torch.cat([*growth.columns[: s + 1]], dim=1), growth.bias)

    return forward


def test_a_configuration_is_the_leading_channels_of_the_widest_network(growth, x):
    """Put together once for all, it answers the same, and stores nothing but the widest one."""
    widest = whole(growth)
    every = [Leading(widest, SMALL, s) for s in range(3)]
    with torch.no_grad():
        for s, one in enumerate(every):
            assert torch.allclose(one(x), plain(growth, s)(x), atol=1e-5)
            assert torch.allclose(one(x), growth(x, s), atol=1e-5)
        before = every[0](x)
        widest[0].weight[2:] += 1.0  # a channel that only wider ones have
        assert torch.equal(every[0](x), before)
        assert not torch.allclose(every[1](x), plain(growth, 1)(x), atol=1e-3)
    assert not widest.training
    assert [conv.out_channels for conv in widest if isinstance(conv, nn.Conv2d)] == [5, 6]
    stored = {p.data_ptr() for one in every for p in one.parameters()}
    assert stored == {p.data_ptr() for p in widest.parameters()}


def test_scores_by_hand(growth, x):
    """Old columns on old features, new columns on new ones: features of the second layer, 9 places each."""
    with torch.no_grad():
        maps = x
        for growing in growth.layers:
            filters, bias = growing.weights(1)
            maps = F.conv2d(maps, filters, bias, padding=1).relu()
            maps = F.max_pool2d(maps, 2) if growing.layer.pooled else maps
        old, new = maps[:, :1].flatten(1), maps[:, 1:].flatten(1)
        by_hand = old @ growth.columns[0].T + growth.bias + new @ growth.columns[1].T
        assert torch.allclose(growth(x, 1), by_hand, atol=1e-5)
    assert [(*columns.shape,) for columns in growth.columns] == [(4, 9), (4, 27), (4, 18)]


def test_later_weights_change_nothing_in_earlier_configurations(growth, x):
    with torch.no_grad():
        before = [growth(x, s) for s in range(3)]
        for p in growth.new(2):
            p.add_(1.0)
        assert torch.equal(growth(x, 0), before[0])
        assert torch.equal(growth(x, 1), before[1])
        assert not torch.equal(growth(x, 2), before[2])


def test_new_channels_change_old_maps(growth, x):
    """Which is why a wider configuration is computed anew."""
    with torch.no_grad():
        first = [growing.weights(s) for growing in growth.layers for s in (0, 1)]
        narrow = SMALL[1].convolved(SMALL[0].convolved(x, *first[0]), *first[2])
        wide = SMALL[1].convolved(SMALL[0].convolved(x, *first[1]), *first[3])
    assert not torch.allclose(wide[:, :1], narrow)


# The variant whose maps are kept.


@pytest.fixture
def increments(growth):
    return [Increment(growth, s) for s in range(3)]


def test_kept_maps_are_those_of_the_configuration_before(increments, x):
    """And what is new is that of a network whose new channels feed no old filters, computed in one go."""
    with torch.no_grad():
        states = [increments[0](x)]
        for increment in increments[1:]:
            states.append(increment(states[-1]))
        for a, b in pairwise(states):
            for old, now in zip(a["maps"], b["maps"], strict=True):
                assert torch.equal(now[:, : old.shape[1]], old)
        maps = x
        for i, layer in enumerate(SMALL):
            rows, read = [], 0
            for s, increment in enumerate(increments):
                filters, read = increment.filters[i], maps.shape[1]
                rows.append(F.pad(filters, (0, 0, 0, 0, 0, read - filters.shape[1])))
                assert filters.shape[0] == layer.n[s] - (layer.n[s - 1] if s else 0)
            bias = torch.cat([increment.biases[i] for increment in increments])
            maps = layer.convolved(maps, torch.cat(rows), bias)
        columns = torch.cat([increment.columns for increment in increments], dim=1)
        by_hand = F.linear(maps.flatten(1), columns, increments[0].bias)
    assert torch.allclose(states[-1]["z"], by_hand, atol=1e-5)
    assert [increment.bias is None for increment in increments] == [False, True, True]
    assert torch.equal(states[2]["image"], x)


def test_the_first_filters_of_an_increment_read_the_image(increments):
    assert [(*increment.filters[0].shape,) for increment in increments] == [(2, 1, 3, 3), (1, 1, 3, 3), (2, 1, 3, 3)]
    assert [(*increment.filters[1].shape,) for increment in increments] == [(1, 2, 3, 3), (3, 3, 3, 3), (2, 5, 3, 3)]
    assert [(*increment.columns.shape,) for increment in increments] == [(4, 9), (4, 27), (4, 18)]


def test_columns_start_by_all_features_of_their_configuration():
    torch.manual_seed(0)
    layers = [Layer((60, 120), 3, 1, pooled=False), Layer((50, 100), 3, 1, pooled=False)]
    first, second = Growth((1, 8, 8), 10, layers).columns
    assert first.std().item() == pytest.approx((1 / (50 * 64)) ** 0.5, rel=0.03)
    assert second.std().item() == pytest.approx((1 / (100 * 64)) ** 0.5, rel=0.03)


def test_the_weights_of_an_increment_are_those_of_its_step_but_for_what_feeds_old_filters(growth, increments):
    for s, increment in enumerate(increments):
        back = {id(p) for part in growth.layers for p in part.back.values()}
        assert {id(p) for p in increment.parameters()} == {id(p) for p in growth.new(s)} - back


# The training.


def test_each_step_trains_its_new_weights_alone_by_the_loss_of_its_configuration(wired):
    method = tiny(batch=20, epochs=1.5, rate=3e-3)
    model, stages = wired(method)
    growth = growth_of(model)
    assert len(stages) == 4
    index, x = torch.arange(12), torch.stack(stages[0].train.inputs[:12])
    for s, stage in enumerate(stages):
        assert stage.rates == {id(p): 3e-3 for p in growth.new(s)}
        assert (stage.epochs, stage.batch, len(stage.train), stage.steps) == (1.5, 20, 600, 45)
        with torch.no_grad():
            by_hand = F.cross_entropy(growth(x, s), stage.train.targets[:12])
        assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-5)
        assert stage.label == f"training the weights of step {s + 1}"


def test_increments_are_trained_alike(wired):
    model, stages = wired(tiny("reused", batch=20, epochs=1.5, rate=3e-3))
    index, x = torch.arange(12), torch.stack(stages[0].train.inputs[:12])
    assert len(stages) == 4
    for s, stage in enumerate(stages):
        assert stage.rates == {id(p): 3e-3 for p in model.stages[s].parameters()}
        assert (stage.epochs, stage.batch, len(stage.train), stage.steps) == (1.5, 20, 600, 45)
        with torch.no_grad():
            by_hand = F.cross_entropy(model(x)[s], stage.train.targets[:12])
        assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-5)


@pytest.mark.parametrize("variant", ["recomputed", "reused"])
def test_after_a_step_every_earlier_configuration_answers_bit_for_bit_as_before(variant):
    method = tiny(variant, train_size=64, epochs=1.0)
    data = method.load()
    model, x, said = method.build(data, 0), torch.stack(data.validation.inputs[:8]), []

    def answers():
        with torch.no_grad():
            return [growth_of(model)(x, s) for s in range(4)] if variant == "recomputed" else [*model(x)]

    method.train(model, data, Bench(watch=lambda stage: said.append(answers())))
    for step, (before, after) in enumerate(zip(said[::2], said[1::2], strict=True)):
        same = [torch.equal(a, b) for a, b in zip(before, after, strict=True)]
        assert same[:step] == [True] * step
        assert not any(same[step:])


def test_only_new_weights_get_a_gradient_and_afterwards_all_may_again(growth, x):
    data = SimpleNamespace(train=None, digest="")
    seen = []

    def fit(new, train, loss, bench, **options):
        seen.append((list(new), [p.requires_grad for p in growth.parameters()], growth.training, options))
        loss(SimpleNamespace(inputs=x, targets=torch.tensor([0, 1, 2]))).backward()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eelit.methods.papers.tann2016runtime.fit", fit)
        patch.setattr("eelit.methods.papers.tann2016runtime.trained", lambda whole, train, bench, **facts: train())
        data.train = [1, 2]
        train_new(growth, growth.new(1), lambda images: growth(images, 1), data, Bench(), step=2, epochs=1.0)
    ((new, learning, training, options),) = seen
    mine = {id(p) for p in growth.new(1)}
    assert {id(p) for p in new} == mine
    assert learning == [id(p) in mine for p in growth.parameters()]
    assert training
    assert options == {"label": "training the weights of step 2", "epochs": 1.0}
    assert all((p.grad is not None) == (id(p) in mine) for p in growth.parameters())
    assert all(p.requires_grad for p in growth.parameters())
    assert not growth.training


def test_steps_are_kept_under_names_of_their_own(prepared):
    _, bench, _ = prepared(KEY)
    assert len(bench.trainings) == 4


# Cost, and who answers.


def test_costs_are_those_of_the_channels_in_use(prepared):
    """k² n n' h w of each layer, and classes times features, at 8×8, 8×8 and 4×4 places, 2×2 in the end."""
    _, _, ready = prepared(KEY)
    x = ready.data.train.inputs[0][None]
    found = [int(member.costs(x)[0]) for member in ready.model.members]
    for macs, n in zip(found, (4, 8, 12, 16), strict=True):
        assert macs == 25 * n * 64 + 9 * n * n * 64 + 9 * n * n * 64 + 10 * n * places(laid_out(tiny()), (1, 8, 8))
    assert all(a < b for a, b in pairwise(found))
    seen = ready.split("test")
    assert seen.under(Margin(1.1), lambda a, b: 0.0).cost == sum(found)


def test_kept_maps_cost_what_is_new(prepared):
    """A chain of all increments costs what the widest one does; in it the old channels read no new ones."""
    _, _, ready = prepared(KEY, "reused")
    x = ready.data.train.inputs[0][None]
    every, cut = costs.both_costs(ready.model, x)
    assert every == cut
    spent, area = 0, places(laid_out(tiny()), (1, 8, 8))
    for macs, n in zip(every, (4, 8, 12, 16), strict=True):
        spent += 25 * 4 * 64 + 2 * 9 * 4 * n * 64 + 10 * 4 * area
        assert macs == spent


def test_the_score_margin_by_hand():
    z = torch.tensor([[[0.5, 0.3, 0.2]], [[0.7, 0.2, 0.1]], [[0.9, 0.05, 0.05]]]).log()
    assert [replay(Margin(theta), z).item() for theta in (0.0, 0.19, 0.21, 0.49, 0.51, 1.1)] == [0, 0, 1, 1, 2, 2]
    undecided = torch.zeros(2, 1, 3)  # a margin of just theta is enough
    assert [replay(Margin(theta), undecided).item() for theta in (0.0, 0.1)] == [0, 1]


@pytest.mark.parametrize("variant", ["recomputed", "reused"])
def test_the_knob_is_the_margin_at_all_configurations(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    assert method.rule(0.4, ready) == Margin(0.4)


def test_narrow_configurations_of_the_trained_network_are_really_run(prepared):
    """An image that stops at the first costs no more than that, in both forms."""
    for variant in ("recomputed", "reused"):
        _, _, ready = prepared(KEY, variant)
        x = torch.stack(list(ready.data.test.inputs[:4]))
        if variant == "recomputed":
            spent, first = (
                costs.count(lambda m=ready.model, x=x: m.run(x, Margin(0.0))),
                ready.model.members[0].costs(x)[0],
            )
        else:
            spent, first = (
                costs.count(lambda m=ready.model, x=x: infer(m, x, Margin(0.0))),
                costs.exit_costs(ready.model, x[:1])[0],
            )
        assert spent == 4 * first


@pytest.mark.parametrize("variant", ["recomputed", "reused"])
def test_real_runs_tell_of_answers_that_are_no_numbers(prepared, variant):
    """Nobody stops before the last configuration, which has lost a weight."""
    method, _, ready = prepared(KEY, variant)
    model = copy.deepcopy(ready.model)
    last = model.members[-1].network.widest[-1].weight if variant == "recomputed" else model.stages[-1].columns
    with torch.no_grad():
        last[0, -1] = torch.nan  # a column that only the last one reads
    bench = Bench(test=30, executed=20, repeats=1)
    found = method.execute(type(ready)(model, ready.data, bench, method), bench, 1.1)
    assert found.not_finite == found.samples == 20


def test_a_real_run_that_asks_others_than_the_replay_is_found_out(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    bench = Bench(test=30, executed=20, repeats=1)
    assert method.execute(ready, bench, 0.5).agrees
    run = type(ready.model).run
    monkeypatch.setattr(
        type(ready.model), "run", lambda *given: dataclasses.replace(found := run(*given), visited=~found.visited)
    )
    assert not method.execute(ready, bench, 0.5).agrees


def test_the_deployed_network_answers_as_the_trained_one():
    method = tiny(train_size=64, epochs=1.0)
    data = method.load()
    model = method.build(data, 0)
    x = torch.stack(data.validation.inputs[:8])
    deployed = method.deployed(model)
    with torch.no_grad():
        for s, member in enumerate(deployed.members):
            assert torch.allclose(member(x), model.members[s](x), atol=1e-5)
            assert torch.equal(model.members[s](x), growth_of(model)(x, s))
    assert not any(isinstance(part, Growth) for part in deployed.modules())
    assert len(deployed) == 4
    assert claimed.numbers(deployed) == claimed.numbers(growth_of(model))


# What is claimed.


def points(*triples):
    return [SimpleNamespace(quality=q, speed_up=s, cost=1 / s) for q, s in triples]


@pytest.mark.parametrize(
    ("speed_up", "test", "holds"), [(2.1, 0.886, True), (1.9, 0.886, False), (2.1, 0.884, False), (2.1, 0.95, True)]
)
def test_half_must_be_saved_by_the_cheapest_width_or_margin_that_loses_a_point(
    prepared, monkeypatch, speed_up, test, holds
):
    method, _, _ = prepared(KEY)
    static = {"validation": points((0.8, 9.0), (0.9, 1.0)), "test": points((0.99, 9.0), (0.9, 1.0))}
    monkeypatch.setattr(RuntimeConfigurable, "static", lambda self, seen: static[seen])
    held = SimpleNamespace(split=lambda name: name)
    validation = points((0.85, 5.0), (0.89, speed_up), (0.91, 1.2))
    curve = SimpleNamespace(
        validation=validation, test=points((0.99, 5.0), (test, speed_up), (0.5, 1.2)), full_quality=0.9
    )
    assert claimed.saving(method, held, curve).holds is holds
    static["validation"][0] = SimpleNamespace(quality=0.895, speed_up=9.0, cost=1 / 9)
    assert claimed.saving(method, held, curve).measured == "88.9% saved, accuracy +0.0900"


@pytest.mark.parametrize(("last", "holds"), [(0.892, True), (0.889, False)])
def test_every_configuration_must_be_as_good_as_a_separate_network(last, holds):
    found = claimed.as_good(points((0.8, 1), (last, 1)), points((0.7, 1), (0.9, 1)))
    assert found.holds is holds
    assert found.measured == f"by configuration +0.1000, {last - 0.9:+.4f}"


@pytest.mark.parametrize("variant", ["recomputed", "reused"])
def test_separate_networks_have_one_configuration_and_are_trained_as_long(prepared, monkeypatch, variant):
    method, bench, ready = prepared(KEY, variant)
    rivals = []

    def static(self, seen):
        rivals.append(self)
        return points(*[(0.9, 1)] * (1 if isinstance(seen, str) else 4))

    monkeypatch.setattr(RuntimeConfigurable, "prepare", lambda *given: SimpleNamespace(split=lambda part: part))
    monkeypatch.setattr(RuntimeConfigurable, "static", static)
    monkeypatch.setattr(ReusedChannels, "static", static)
    monkeypatch.setattr(claimed, "saving", lambda *given: None)
    _, as_good, storage = claimed.claims(method, ready, bench, None)
    names = ("channels", "epochs", "batch", "rate", "train_size", "images", "pixels")
    shared = {name: getattr(method, name) for name in names}
    area = places(laid_out(method), (1, 8, 8))
    costs = [25 * n * 64 + 2 * 9 * n * n * 64 + 10 * n * area for n in (4, 8, 12, 16)]
    longer = [round(method.epochs * sum(costs[: s + 1]) / costs[s], 1) for s in range(4)]
    assert longer[0] == method.epochs < longer[1] < longer[2] < longer[3]
    separate = [
        RuntimeConfigurable(**{**shared, "epochs": epochs}, configurations=(share,))
        for share, epochs in zip((0.25, 0.5, 0.75, 1.0), longer, strict=True)
    ]
    assert rivals == [method, *separate]
    assert as_good.holds
    assert storage.holds


def test_separate_networks_are_trained_for_as_much_work_as_growing_to_their_width_takes():
    """Two passes at 1, at 4 and at 10: together 10 at 1, 2.5 at 4, and 3 at 10."""
    assert claimed.passes([1.0, 4.0, 10.0], 2.0) == [2.0, 2.5, 3.0]


def test_storage_by_hand(prepared):
    """Separate networks of n channels in each of three layers: 26 n + 2 n (9 n + 1) + 10 n · places + 10 numbers."""
    method, bench, ready = prepared(KEY)
    area = places(laid_out(method), (1, 8, 8))
    every = [26 * n + 2 * n * (9 * n + 1) + 10 * n * area + 10 for n in (4, 8, 12, 16)]
    found = claimed.storage(method, ready, bench)
    assert found.measured == f"{every[-1]:,} weights instead of {sum(every):,}: {1 - every[-1] / sum(every):.1%} saved"
    assert found.holds
    one = method.replace({"configurations": (1.0,)})
    assert not claimed.storage(one, ready, bench).holds
    apart = SimpleNamespace(
        model=nn.ModuleList(copy.deepcopy(member) for member in ready.model.members), data=ready.data
    )
    assert not claimed.storage(method, apart, bench).holds  # what is run is counted
