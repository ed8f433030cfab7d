"""What only GoogLeNet promises: its modules and heads, what heads do to the training, and that they can be dropped."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import szegedy2015googlenet as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry
from eelit.methods.papers.szegedy2015googlenet import (
    MODULES,
    GoogLeNet,
    Inception,
    auxiliary,
    convolution,
    googlenet,
    stem,
    windows,
)
from eelit.methods.papers.wang2018idk import IdkCascade
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.fit import Batch

KEY = "szegedy2015googlenet"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def full():
    """The network at the paper's size; nothing is computed, and its weights take no memory."""
    with torch.device("meta"):
        return googlenet((3, 224, 224), 1000, modules=tuple(MODULES), fraction=1.0, pixels=8, seed=0)


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


def parts(model, kind):
    return [part for part in model.modules() if isinstance(part, kind)]


# The network.


def test_a_module_puts_four_looks_side_by_side():
    """Each computed anew from its own weights: 1×1; 1×1, 3×3; 1×1, 5×5; pooled, 1×1; ReLU after each convolution."""
    torch.manual_seed(0)
    module, x = Inception(3, 2, 4, 5, 3, 6, 7), torch.randn(2, 3, 6, 6)
    weights = [(conv.weight, conv.bias) for conv in parts(module, nn.Conv2d)]
    assert [(*w.shape,) for w, _ in weights] == [
        (2, 3, 1, 1), (4, 3, 1, 1), (5, 4, 3, 3), (3, 3, 1, 1), (6, 3, 5, 5), (7, 3, 1, 1),
    ]  # fmt: skip
    one, three, third, five, fifth, pool = weights
    with torch.no_grad():
        looks = [
            F.conv2d(x, *one).relu(),
            F.conv2d(F.conv2d(x, *three).relu(), *third, padding=1).relu(),
            F.conv2d(F.conv2d(x, *five).relu(), *fifth, padding=2).relu(),
            F.conv2d(F.max_pool2d(x, 3, 1, 1), *pool).relu(),
        ]
        found = module(x)
    assert found.shape == (2, module.outputs, 6, 6)
    assert module.outputs == 20
    assert torch.allclose(found, torch.cat(looks, dim=1), atol=1e-6)


def test_weights_start_so_that_activations_keep_their_size():
    """Variance 2 / inputs, no bias: after ReLU the mean square of a unit is that of its inputs."""
    torch.manual_seed(0)
    conv, relu = convolution(64, 256, 3)
    assert conv.weight.var().item() == pytest.approx(2 / (64 * 9), rel=0.02)
    assert (conv.bias == 0).all()
    assert isinstance(relu, nn.ReLU)


def test_at_the_papers_size_convolutions_linear_layers_and_pooling_are_those_of_the_replication(full, golden):
    """The replication names its layers in another order: first the trunk, with heads where they stand."""
    found = [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in parts(full.stages, nn.Conv2d)]
    found += [(conv.out_channels, conv.kernel_size[0], conv.stride[0]) for conv in parts(full.heads, nn.Conv2d)]
    known = sorted(golden["convolutions"], key=lambda layer: layer[0].startswith("loss"))
    assert found == [tuple(layer[1:]) for layer in known]
    assert [layer.out_features for layer in parts(full.heads, nn.Linear)] == [units for _, units in golden["linear"]]
    assert [layer.p for layer in parts(full.heads, nn.Dropout)] == list(golden["dropout"].values())
    pools = [kind for kind in golden["pooling"].values() if kind[0] == "MAX"]
    assert [("MAX", pool.kernel_size, pool.stride) for pool in parts(full, nn.MaxPool2d)] == [tuple(p) for p in pools]
    means = [(pool.kernel_size, pool.stride) for pool in parts(full.heads, nn.AvgPool2d)]
    assert means == [tuple(kind[1:]) for name, kind in golden["pooling"].items() if name.startswith("loss")]
    norms = [["LRN", norm.size, norm.alpha, norm.beta] for norm in parts(full, nn.LocalResponseNorm)]
    assert norms == [kind for kind in golden["pooling"].values() if kind[0] == "LRN"]


def test_shapes_at_the_papers_size(full):
    """4a: 512 channels on 14×14, 4d: 528; heads read 4×4 places; the last map has 1024 channels on 7×7."""
    shapes = []
    with torch.no_grad():
        for state in full.states(torch.zeros(1, 3, 224, 224, device="meta")):
            shapes.append((*state.shape[1:],))
    assert shapes == [(512, 14, 14), (528, 14, 14), (1024, 7, 7)]
    for head, (channels, side, _) in zip(full.heads[:2], shapes, strict=False):
        assert head[0](torch.zeros(1, channels, side, side, device="meta")).shape[2:] == (4, 4)
    assert [head[3].in_features for head in full.heads[:2]] == [2048, 2048]


def test_the_network_is_as_large_as_is_told(full):
    """Seven million weights without heads, a twelfth of AlexNet's 61."""
    assert sum(p.numel() for p in full.plain_network().parameters()) == 6_998_552


@pytest.mark.parametrize(
    ("side", "window", "stride", "places"),
    [(14, 5, 3, 4), (6, 3, 1, 4), (7, 4, 1, 4), (4, 1, 1, 4), (3, 1, 1, 3), (2, 1, 1, 2), (10, 4, 2, 4)],
)
def test_heads_read_four_places_a_side_where_there_are_as_many(side, window, stride, places):
    assert windows(side) == (window, stride, places)
    head = auxiliary((5, side, side), 10, 6, 7)
    assert head[0](torch.zeros(1, 5, side, side)).shape[2:] == (places, places)
    assert head(torch.zeros(1, 5, side, side)).shape == (1, 10)


def test_a_head_by_its_own_weights():
    torch.manual_seed(0)
    head, x = auxiliary((5, 6, 6), 10, 3, 7).eval(), torch.randn(2, 5, 6, 6)
    conv, dense, last = head[1][0], head[3], head[6]
    with torch.no_grad():
        read = F.conv2d(F.avg_pool2d(x, 3, 1), conv.weight, conv.bias).relu().flatten(1)
        by_hand = F.linear(F.linear(read, dense.weight, dense.bias).relu(), last.weight, last.bias)
        assert torch.allclose(head(x), by_hand, atol=1e-5)
    assert head[5].p == 0.7


@pytest.mark.parametrize("pixels", [1, 2, 4, 8])
def test_modules_see_a_place_for_so_many_pixels(pixels):
    found = nn.Sequential(*stem(1, (2, 3, 4), pixels))(torch.zeros(1, 1, 48, 48))
    assert found.shape == (1, 4, 48 // pixels, 48 // pixels)


def test_other_numbers_of_pixels_are_refused():
    with pytest.raises(ValueError, match="1, 2, 4 or 8 pixels, not 3"):
        stem(1, (2, 3, 4), 3)


def test_a_quarter_of_the_channels_and_a_map_that_is_halved_twice():
    """On 48×48 the track's network has maps of 12, 6 and 3 places a side; heads have 32 channels and 256 units."""
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    model = registry.get(KEY).build(pictures, 0)
    with torch.no_grad():
        shapes = [(*state.shape[1:],) for state in model.states(torch.zeros(1, 1, 48, 48))]
    assert shapes == [(128, 6, 6), (132, 6, 6), (256, 3, 3)]
    assert [(head[1][0].out_channels, head[3].out_features) for head in model.heads[:2]] == [(32, 256)] * 2
    assert sum(isinstance(part, Inception) for part in model.modules()) == 9
    assert model.heads[2][2].p == 0.4


# The training.


def test_everything_is_trained_on_all_images_auxiliary_losses_at_a_discount(one_stage):
    method = tiny(batch=20, epochs=1.5, rate=3e-3)
    model, stage = one_stage(method)
    assert stage.rates == {id(p): 3e-3 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (600, 1.5, 20, 45)
    model.eval()  # so that dropout drops nothing
    index, x = torch.arange(12), torch.stack(stage.train.inputs[:12])
    with torch.no_grad():
        first, second, main = (F.cross_entropy(z, stage.train.targets[:12]).item() for z in model(x))
        found = stage.loss(stage.batch_of(index, x)).item()
    assert found == pytest.approx(main + 0.3 * (first + second), rel=1e-5)


def test_losses_of_1_2_and_3_make_2_and_a_half(one_stage, monkeypatch):
    """The worked case: main 1, auxiliary 2 and 3."""
    _, stage = one_stage(tiny())
    losses = {2.0: 0, 3.0: 1, 1.0: 2}
    wanted = torch.tensor(sorted(losses, key=losses.get), dtype=torch.float64)
    z = torch.stack([torch.zeros(3, dtype=torch.float64), torch.log(torch.expm1(wanted))], dim=-1)[:, None]
    monkeypatch.setattr(MultiExit, "forward", lambda self, x: z)  # class 0 has probability e^-loss
    first = torch.tensor([0])
    assert stage.loss(Batch(first, torch.zeros(1), first, 0, 0.0)).item() == pytest.approx(2.5)


def test_each_head_has_a_discount_of_its_own(one_stage):
    model, stage = one_stage(tiny(discounts=(0.2, 0.7)))
    model.eval()
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    with torch.no_grad():
        first, second, main = (F.cross_entropy(z, y).item() for z in model(x))
        found = stage.loss(stage.batch_of(torch.arange(12), x)).item()
    assert found == pytest.approx(main + 0.2 * first + 0.7 * second, rel=1e-5)


def slopes(model, loss):
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def test_without_discounts_the_trunk_learns_as_if_there_were_no_heads(one_stage):
    """Bit for bit, dropout's mask being the same."""
    model, stage = one_stage(tiny(discounts=(0.0, 0.0)))
    model.heads[:2].eval()  # so that the main classifier's dropout alone draws numbers
    x, y = torch.stack(stage.train.inputs[:8]), stage.train.targets[:8]
    torch.manual_seed(0)
    with_heads = slopes(model, stage.loss(stage.batch_of(torch.arange(8), x)))
    torch.manual_seed(0)
    without = slopes(model, F.cross_entropy(model.full(x), y))
    trunk = [name for name in without if not name.startswith(("heads.0", "heads.1"))]
    assert all(torch.equal(with_heads[name], without[name]) for name in trunk)
    assert all(without[name] is None for name in without if name not in trunk)


@pytest.mark.parametrize(("head", "reached"), [(0, {"0"}), (1, {"0", "1"})])
def test_a_head_teaches_no_layer_behind_it(head, reached):
    method = tiny()
    data = method.load()
    model = method.build(data, 0)
    x, y = torch.stack(data.train.inputs[:8]), data.train.targets[:8]
    found = slopes(model, F.cross_entropy(model(x)[head], y))
    taught = {name.split(".")[1] for name, slope in found.items() if name.startswith("stages") and slope.any()}
    assert taught == reached


# Inference.


def test_heads_can_be_dropped(prepared):
    """The network answers the same without them, and costs what is left."""
    _, _, ready = prepared(KEY)
    model, x = ready.model, torch.stack(list(ready.data.test.inputs[:16]))
    plain = model.plain_network()
    with torch.inference_mode():
        assert torch.equal(plain(x), model(x)[2])
        before = plain(x)
        refuse = [head.register_forward_pre_hook(lambda *given: pytest.fail("asked")) for head in model.heads[:2]]
        assert torch.equal(model.full(x), before)
        for each in refuse:
            each.remove()
    every, alone = costs.both_costs(model, x[:1])
    assert costs.count(lambda: plain(x[:1])) == alone[-1] < every[-1]
    assert not model.training


def test_the_exit_rule_that_the_paper_does_not_have(prepared):
    method, _, ready = prepared(KEY)
    assert method.rule(0.7, ready) == MaxConfidence(0.7)
    z = torch.tensor([[[0.6, 0.4]], [[0.2, 0.8]], [[0.1, 0.9]]]).log()
    assert [replay(MaxConfidence(t), z).item() for t in (0.5, 0.7, 0.8, 0.85)] == [0, 1, 1, 2]
    exits = [replay(method.rule(knob, ready), ready.split("validation").outputs) for knob in method.knobs]
    assert all((early <= late).all() for early, late in pairwise(exits))


# What is claimed.


@pytest.mark.parametrize(("small", "told"), [(0.70, False), (0.707, False), (0.71, True)])
def test_rivals_are_trained_as_long_on_fewer_losses_and_must_have_learnt(prepared, monkeypatch, small, told):
    """The best of the three reaches 0.707; where a small network reaches more, they say nothing of heads."""
    method, bench, ready = prepared(KEY)
    asked = []

    def full_model(self, found, bench):
        asked.append(self)
        known = {(0.0, 0.0): 0.70, (0.0, 0.3): 0.706}
        return small if isinstance(self, claimed.Small) else known[self.discounts], 1.0

    monkeypatch.setattr(GoogLeNet, "prepare", lambda self, bench: None)
    monkeypatch.setattr(GoogLeNet, "full_model", full_model)
    monkeypatch.setattr(claimed, "BATCHES", 2)
    found = claimed.claims(method, ready, bench, SimpleNamespace(full_quality=0.707))
    assert [o.name for o in found] == [
        "more gradient for the first module", "better with auxiliary heads", "one head is enough",
    ]  # fmt: skip
    assert [o.holds for o in found[1:]] == [not told] * 2
    assert [bool(o.not_comparable) for o in found] == [False, told, told]
    assert not told or "reaches 0.7070 on test data. A small" in found[1].not_comparable
    assert not told or found[1].not_comparable.endswith("reaches 0.7100.")
    rivals = [method.replace({"discounts": pair}) for pair in ((0.0, 0.0), (0.0, 0.3))]
    assert asked == [*rivals, claimed.small(method)]


def test_the_small_network_is_that_of_idk_cascades_trained_as_long(stages):
    method = tiny(batch=20, epochs=1.5, rate=3e-3)
    (stage,) = stages(claimed.small(method))
    assert stage.label == "training the plain network"
    assert (stage.epochs, stage.batch, len(stage.train), {*stage.rates.values()}) == (1.5, 20, 600, {3e-3})
    ours = claimed.small(method).build(method.load(), 0)
    cascade = IdkCascade(images="digits", train_size=600, pixels=method.pixels)
    theirs = cascade.network("small", method.load(), 10, 0)
    assert ours.exits == 1
    shapes = [[(*p.shape,) for p in each.parameters()] for each in (ours, theirs)]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(("ours", "bare", "holds"), [(0.706, 0.7, True), (0.704, 0.7, False)])
def test_heads_must_bring_half_a_point(ours, bare, holds):
    assert claimed.better(ours, bare).holds is holds


@pytest.mark.parametrize(
    ("ours", "single", "holds"), [(0.708, 0.706, True), (0.709, 0.706, False), (0.7, 0.704, False), (0.7, 0.71, True)]
)
def test_one_head_must_bring_as_much_as_both(ours, single, holds):
    assert claimed.one_suffices(ours, 0.7, single).holds is holds


def test_gradients_are_compared_in_the_first_module(prepared):
    """On a trunk of modules by itself: that of the sum of losses is the sum of theirs."""
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, 0)
    x, y = torch.stack(ready.data.train.inputs[:8]), ready.data.train.targets[:8]
    first = next(part for part in model.modules() if isinstance(part, Inception))
    each = []
    for z in model(x):
        grads = torch.autograd.grad(F.cross_entropy(z, y), list(first.parameters()), retain_graph=True)
        each.append(torch.cat([g.flatten() for g in grads]))
    both, alone = claimed.gradients(model, x, y, (0.2, 0.5))
    assert alone == pytest.approx(each[2].norm().item(), rel=1e-4)
    assert both == pytest.approx((each[2] + 0.2 * each[0] + 0.5 * each[1]).norm().item(), rel=1e-4)


@pytest.mark.parametrize(("ratio", "holds"), [(1.11, True), (1.09, False)])
def test_the_gradient_must_be_a_tenth_longer(prepared, monkeypatch, ratio, holds):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "gradients", lambda *given: (2 * ratio, 2.0))
    found = claimed.stronger(method, ready, bench)
    assert found.holds is holds
    assert f"{ratio:.2f} times as long, mean over 10 batches" in found.measured


def test_the_network_learns_from_its_first_step_in_training_mode(prepared, monkeypatch):
    """Gradients are compared as training meets them: dropout drops, and weights are untrained."""
    method, bench, ready = prepared(KEY)
    seen = []

    def looked(model, x, y, discounts):
        seen.append((model.training, len(x), discounts, torch.equal(next(model.parameters()), untrained)))
        return 1.0, 1.0

    untrained = next(method.build(ready.data, bench.seed).parameters())
    monkeypatch.setattr(claimed, "gradients", looked)
    claimed.stronger(method, ready, bench)
    assert seen == [(True, method.batch, (0.3, 0.3), True)] * 10
