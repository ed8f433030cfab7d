"""What only EE-PCN promises: the cycling equations by hand and beside the released code, shared weights, the losses."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.claims import zniber2025predictive as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.zniber2025predictive import (
    Classifier,
    PredictiveCoding,
    PredictiveCodingExits,
    bilinear,
)
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "zniber2025predictive"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


def tiny(variant="labels", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def scalars(*links, channels=1):
    """A network on images of one pixel: links are (C, D, a, b), each a number."""
    net = PredictiveCoding(channels, (1,), len(links), 1, half=False).requires_grad_(False)
    for i, (link, (C, D, a, b)) in enumerate(zip(net.links, links, strict=True)):
        for conv, value in ((link.C, C), (link.D, D)):
            conv.weight.zero_()
            conv.weight[0, 0, 1, 1] = value
        net.a[i].fill_(a)
        if b is not None:
            net.b[i].fill_(b)
    return net


def values(r):
    return [round(float(level), 6) for level in r]


def image(value):
    return torch.full((1, 1, 1, 1), float(value))


# The cycling equations.


def test_one_level_by_hand():
    """r = relu(2 / 2); then half of what D did not foresee is added in each cycle."""
    net = scalars((0.5, 1.0, 1.0, None))
    r = net.sweep(image(2))
    seen = [values(r)]
    for _ in range(3):
        r = net.cycle(r)
        seen.append(values(r))
    assert seen == [[2, 1], [2, 1.5], [2, 1.75], [2, 1.875]]


def test_two_levels_by_hand():
    """First sweep 3, 6. Down: p_1 = 12, r_1 = 3/4 · 3 + 1/4 · 12 = 5.25, p_0 = 10.5.

    Up: r_1 = 5.25 + 0.5 · 3 (1 - 10.5) is below 0, so 0; r_2 = 6 + 2 · 2 (0 - 12), so 0 too. With smaller D neither is.
    """
    net = scalars((3.0, 2.0, 0.5, 0.25), (2.0, 2.0, 2.0, None))
    r = net.sweep(image(1))
    assert values(r) == [1, 3, 6]
    assert values(net.cycle(r)) == [1, 0, 0]
    net = scalars((3.0, 0.1, 0.5, 0.25), (2.0, 0.4, 2.0, None))
    r = net.sweep(image(1))
    down = 0.75 * 3 + 0.25 * 2.4
    up = down + 0.5 * 3 * (1 - 0.1 * down)
    assert values(net.cycle(r)) == pytest.approx([1, up, 6 + 2 * 2 * (up - 2.4)])


def test_three_levels_use_what_this_cycle_has_made_already():
    """Going down, p_1 is made from the new r_2; going up, each error has the new r below."""
    net = scalars((1.0, 0.5, 0.5, 0.5), (1.0, 0.25, 0.2, 0.5), (1.0, 0.75, 0.1, None))
    r = net.sweep(image(8))
    assert values(r) == [8, 8, 8, 8]
    p2 = 0.75 * 8
    r2 = (8 + p2) / 2
    p1 = 0.25 * r2
    r1 = (8 + p1) / 2
    p0 = 0.5 * r1
    r1 = r1 + 0.5 * (8 - p0)
    r2 = r2 + 0.2 * (r1 - p1)
    r3 = 8 + 0.1 * (r2 - p2)
    assert values(net.cycle(r)) == pytest.approx([8, r1, r2, r3])


def test_a_cycle_leaves_the_levels_that_it_was_given_as_they_are():
    net = scalars((3.0, 0.1, 0.5, 0.25), (2.0, 0.4, 2.0, None))
    r = net.sweep(image(1))
    before = values(r)
    net.cycle(r)
    assert values(r) == before


def test_without_rates_nothing_changes_and_rates_below_0_are_none():
    for rate in (0.0, -3.0):
        net = scalars((3.0, 0.1, rate, rate), (2.0, 0.4, rate, None))
        r = net.sweep(image(1))
        assert values(net.cycle(r)) == values(r) == [1, 3, 6]


def test_what_is_foreseen_exactly_changes_nothing():
    """D undoes C."""
    net = scalars((2.0, 0.5, 1.0, 0.5), (4.0, 0.25, 1.0, None))
    r = net.sweep(image(1))
    assert values(net.cycle(r)) == values(r) == [1, 2, 8]


def test_rates_start_at_one_and_a_half_for_each_channel():
    net = PredictiveCoding(1, (3, 5), 2, 4, half=False)
    assert [a.flatten().tolist() for a in net.a] == [[1.0] * 3, [1.0] * 3, [1.0] * 5, [1.0] * 5]
    assert [b.flatten().tolist() for b in net.b] == [[0.5] * 3, [0.5] * 3, [0.5] * 5]


@pytest.mark.parametrize(("side", "pixels", "sizes"), [
    (8, 1, [8, 8, 8, 4, 4]), (48, 4, [48, 12, 12, 6, 6]), (28, 4, [28, 7, 7, 3, 3]),
])  # fmt: skip
def test_levels_have_their_sizes_and_keep_them(side, pixels, sizes):
    net = PredictiveCoding(2, (3, 5), 2, pixels, half=False)
    x = torch.randn(2, 2, side, side)
    with torch.no_grad():
        r = net.sweep(x)
        for _ in range(2):
            assert [level.shape[2] for level in r] == sizes
            assert [level.shape[1] for level in r] == [2, 3, 3, 5, 5]
            assert torch.equal(r[0], x)
            r = net.cycle(r)


def test_predictions_have_the_size_of_what_they_predict():
    net = PredictiveCoding(2, (3, 5), 1, 4, half=False)
    with torch.no_grad():
        r = net.sweep(torch.randn(2, 2, 28, 28))
        assert net.links[1].down(r[2], r[1]).shape == r[1].shape
        assert net.links[0].down(r[1], r[0]).shape == r[0].shape


def test_convolutions_have_no_bias_and_the_way_down_starts_small():
    """Up, a variance of 2 over the inputs of each output, as a ReLU loses half; down, a third over all: torch's own."""
    torch.manual_seed(0)
    net = PredictiveCoding(1, (64, 64), 2, 4, half=False)
    for link in net.links[1:]:
        assert link.C.bias is None
        assert link.D.bias is None
        for conv, variance in ((link.C, 2), (link.D, 1 / 3)):
            assert float(conv.weight.detach().std()) == pytest.approx((variance / (9 * 64)) ** 0.5, rel=0.05)
    assert float(net.links[0].C.weight.detach().std()) == pytest.approx((2 / 16) ** 0.5, rel=0.1)


def test_convolutions_learn_in_half_precision_if_asked():
    link = PredictiveCoding(1, (4, 4), 1, 4, half=True).links[1]
    assert isinstance(link.C, LearnsInHalf)
    assert isinstance(link.D, LearnsInHalf)
    assert isinstance(PredictiveCoding(1, (4, 4), 1, 4, half=False).links[1].C, torch.nn.Conv2d)


# The released code of the network that the paper builds on.


def test_answers_agree_with_the_released_code():
    """After none to three cycles, rates below 0 among them (see `provenance` in the file)."""
    golden = json.loads(GOLDEN.read_text())
    rng, given = np.random.RandomState(0), {}
    for name, shape in golden["parameters"]:
        x = rng.standard_normal(tuple(shape))
        convolution = len(shape) == 4 and not name.startswith(("a0", "b0"))
        shift = {"a": 0.5, "b": 1.0}.get(name[0], 0.0)
        given[name] = torch.tensor((x * (0.3 if convolution else 0.5) + shift).astype(np.float32))
    net = PredictiveCoding(2, (3, 5), 2, 1, half=False).requires_grad_(False)
    head = Classifier(5, 3).requires_grad_(False)
    for i, link in enumerate(net.links):
        link.C.weight.copy_(given[f"FFconv.{i}.conv2d.weight"])
        link.D.weight.copy_(given[f"FBconv.{i}.convtranspose2d.weight"])
        net.a[i].copy_(given[f"b0.{i}"])
    for i, b in enumerate(net.b):
        b.copy_(given[f"a0.{i}"])
    head.linear.load_state_dict({"weight": given["linear.weight"], "bias": given["linear.bias"]})
    r = net.sweep(torch.tensor(np.random.RandomState(1).standard_normal((2, 2, 8, 8)).astype(np.float32)))
    for theirs in golden["logits"]:
        assert torch.allclose(head(r), torch.tensor(theirs), atol=1e-4, rtol=1e-4)
        r = net.cycle(r)
    found = [np.array(logits) for logits in golden["logits"]]
    assert all(np.abs(a - b).max() > 0.01 for a, b in pairwise(found))


# The network with exits.


def test_all_cycles_share_their_weights_and_heads_do_not():
    data = tiny().load()
    one, many = (tiny(cycles=n).build(data, 0) for n in (1, 5))
    assert (one.exits, many.exits) == (2, 6)
    assert len({id(stage) for stage in many.stages}) == 2
    assert many.stages[0].network is many.stages[1].network
    sizes = [claimed.weights(model.stages[1]) for model in (one, many)]
    assert sizes[0] == sizes[1]
    assert claimed.weights(many) - claimed.weights(one) == 4 * (16 * 10 + 10)


def test_an_exit_reads_the_mean_of_the_last_level():
    model = tiny().build(tiny().load(), 0)
    x = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        for head, r, said in zip(model.heads, model.states(x), model(x), strict=True):
            c = r[-1].flatten(2).mean(2)
            assert torch.allclose(said, c @ head.linear.weight.T + head.linear.bias, atol=1e-5)


def test_without_cycles_it_is_a_plain_network_up():
    model = tiny(cycles=0).build(tiny().load(), 0)
    x = torch.randn(3, 1, 8, 8)
    first, second = model.stages[0].network.links
    with torch.no_grad():
        r = F.conv2d(x, first.C.weight, stride=2).relu()
        r = F.max_pool2d(F.conv2d(r, second.C.weight, padding=1), 2).relu()
        assert model.exits == 1
        assert torch.allclose(model(x)[0], model.heads[0].linear(r.mean(dim=(2, 3))), atol=1e-5)


def test_cycles_cost_a_way_down_and_a_way_up():
    """Level 1: 4×4 places of 2×2 pixels; level 2: 16 channels, pooled after their convolution to 2×2 places.

    Down, they are scaled up first.
    """
    model = tiny().build(tiny().load(), 0)
    first, second, head = 16 * 4 * 8, 16 * 9 * 8 * 16, 160
    every, alone = costs.both_costs(model, torch.zeros(1, 1, 8, 8))
    sweep, cycle = first + second, 2 * (first + second) + 16 * (4 * 2 * 2 + 4 * 2 * 4)
    assert every == [sweep + head, sweep + cycle + 2 * head, sweep + 2 * cycle + 3 * head]
    assert alone == [sweep + head, sweep + cycle + head, sweep + 2 * cycle + head]


def test_scaling_up_is_little_of_a_cycle():
    """As a deviation has it: for each channel 12×6 by 6×6, then 12×6 by 6×12."""
    net = PredictiveCoding(1, (48, 96), 2, 4, half=False)
    r = [torch.zeros(1, size, side, side) for size, side in ((1, 48), (48, 12), (48, 12), (96, 6), (96, 6))]
    with torch.no_grad():
        found = costs.count(lambda: bilinear(r[3], (12, 12)))
        assert found == 96 * (12 * 6 * 6 + 12 * 6 * 12)
        assert costs.count(lambda: net.cycle(r)) > 100 * found


@pytest.mark.parametrize(("given", "to"), [((6, 6), (12, 12)), ((3, 3), (7, 7)), ((1, 1), (3, 2)), ((2, 5), (4, 11))])
def test_scaling_up_is_that_of_torch(given, to):
    x = torch.randn(2, 3, *given)
    assert torch.allclose(bilinear(x, to), F.interpolate(x, size=to, mode="bilinear"), atol=1e-6)


def test_cycles_that_are_left_are_not_run(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:4]))
    every = costs.exit_costs(ready.model, x[:1])
    for policy, exit_ in ((MaxConfidence(0.0), 0), (MaxConfidence(2.0), 2)):
        assert costs.count(lambda policy=policy: infer(ready.model, x, policy)) == 4 * every[exit_]


def test_a_threshold_that_is_just_reached_stops(prepared):
    method, _, ready = prepared(KEY)
    z = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 9.0]]])
    assert replay(method.rule(0.5, ready), z).tolist() == [0]
    assert replay(method.rule(0.51, ready), z).tolist() == [1]
    assert method.rule(0.7, ready) == MaxConfidence(0.7)


# How it is trained.


def test_all_exits_learn_from_labels_together(one_stage):
    model, stage = one_stage(tiny(batch=20, epochs=1.5, rate=3e-3))
    assert stage.rates == {id(p): 3e-3 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (400, 1.5, 20, 30)
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    with torch.no_grad():
        by_hand = sum(F.cross_entropy(z, y) for z in model(x)).item()
        assert stage.loss(stage.batch_of(torch.arange(12), x)).item() == pytest.approx(by_hand, rel=1e-5)


def test_distilled_exits_learn_from_a_trained_deep_network_too(monkeypatch):
    """Its answers to the same images, softened; it is trained first, by itself, and stays."""
    method, found, teachers = tiny("distilled", lam=0.7, tau=3.0, batch=20, epochs=1.5, rate=3e-3), [], []
    build = type(method).teacher
    monkeypatch.setattr(type(method), "teacher", lambda *given: teachers.append(build(*given)) or teachers[-1])
    model = method.build(data := method.load(), 0)
    method.train(model, data, Bench(most_steps=1, watch=lambda stage: found.append(stage) if stage else None))
    (teacher,), (first, second) = teachers, found
    assert first.rates == {id(p): 3e-3 for p in teacher.parameters()}
    assert second.rates == {id(p): 3e-3 for p in model.parameters()}
    for stage in found:
        assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (400, 1.5, 20, 30)
    index = torch.tensor([5, 3, 70, 9])
    x, y = torch.stack([data.train.inputs[i] for i in index.tolist()]), data.train.targets[index]
    with torch.no_grad():
        q = (teacher.eval().full(x) / 3).softmax(-1)
        by_hand = sum(
            F.cross_entropy(z, y) + 0.7 * 9 * (q * (q.log() - (z / 3).log_softmax(-1))).sum(-1).mean() for z in model(x)
        )
        assert second.loss(second.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)


@pytest.mark.parametrize(
    "settings", [{"cycles": -1}, {"cycles": 1.5}, {"blocks": 0}, {"lam": -1.0}, {"lam": math.inf}, {"tau": 0.0}]
)
def test_what_cannot_be_is_refused(settings):
    with pytest.raises(ValueError, match="is one"):
        tiny("distilled", **settings).prepare(Bench(most_steps=1))


def test_both_variants_start_from_the_same_network():
    data = tiny().load()
    one, other = (tiny(variant).build(data, 0).state_dict() for variant in PredictiveCodingExits.variants)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_teacher_is_a_plain_deep_network_without_exits():
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    teacher = PredictiveCodingExits().teacher(pictures, 0)
    assert teacher.exits == 1
    convolutions = [part for part in teacher.modules() if isinstance(part, torch.nn.Conv2d)]
    assert [conv.out_channels for conv in convolutions] == [128] * 3 + [256] * 3
    ours = PredictiveCodingExits().build(pictures, 0)
    assert claimed.weights(ours) < claimed.weights(teacher) / 4


# What is claimed.


def curve_of(*points):
    made = [OperatingPoint(knob=k, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for k, q, c in points]
    return SimpleNamespace(validation=made, test=made, full_quality=made[-1].quality)


@pytest.mark.parametrize(("cost", "quality", "holds"), [(0.69, 0.796, True), (0.71, 0.796, False), (0.5, 0.79, False)])
def test_a_third_of_the_cycles_must_be_saved(cost, quality, holds):
    assert claimed.stops_early(curve_of((0.1, 0.5, 0.2), (0.5, quality, cost), (1.1, 0.8, 1.0))).holds is holds


def test_what_is_lost_on_test_data_counts():
    curve = curve_of((0.5, 0.8, 0.5), (1.1, 0.8, 1.0))
    assert claimed.stops_early(curve).holds
    curve.full_quality = 0.811
    assert not claimed.stops_early(curve).holds


@pytest.mark.parametrize(
    ("quality", "cost", "ours", "holds"),
    [(0.795, 0.5, 25, True), (0.795, 0.51, 25, False), (0.795, 0.5, 26, False), (0.775, 0.5, 25, False)],
)
def test_it_must_come_near_the_deep_network_with_less(quality, cost, ours, holds):
    """At 0.775 all lose more than a point, and the best, which is the last, loses more than two."""
    curve = curve_of((0.1, 0.5, 0.2), (0.5, quality, cost), (1.1, 0.77, 0.9))
    found = claimed.comparable(curve, 0.80, 0.80, 1.0, [ours, 100])
    assert found.holds is holds
    assert found.measured == (
        f"accuracy {quality - 0.8:+.4f}, {ours}.0% of the weights, {cost:.1%} of the MACs, at threshold 0.5"
    )


@pytest.mark.parametrize(
    ("accuracies", "alone", "holds"),
    [([0.7, 0.6, 0.73], 0.72, True), ([0.71, 0.8, 0.73], 0.7, False), ([0.7, 0.7, 0.73], 0.73, False)],
)
def test_cycles_must_be_worth_more_than_the_first_sweep_and_than_none(accuracies, alone, holds):
    assert claimed.refined(accuracies, alone).holds is holds


@pytest.mark.parametrize(("gains", "holds"), [([0.01, 0.0], True), ([0.009, 0.0], False)])
def test_the_teacher_must_be_worth_half_a_point(gains, holds):
    assert claimed.taught(gains).holds is holds


def test_errors_of_prediction_by_hand():
    """One level, C = 1/2 and D = 1: of images 2 and 4 a half, then a quarter is missing."""
    net = scalars((0.5, 1.0, 1.0, None))
    model = SimpleNamespace(stages=[SimpleNamespace(network=net)], exits=3)
    examples = Examples([torch.full((1, 1, 1), x) for x in (2.0, 4.0)], torch.zeros(2))
    ready = SimpleNamespace(model=model, split=lambda name: {"test": SimpleNamespace(examples=examples)}[name])
    assert claimed.errors(ready) == pytest.approx([1.5, 0.75])


@pytest.mark.parametrize(("errors", "holds"), [([3.0, 2.0, 1.9], True), ([3.0, 2.0, 2.0], False)])
def test_errors_of_prediction_must_fall_in_each_cycle(errors, holds):
    assert claimed.foreseen(errors).holds is holds


def test_rivals_of_labels_are_trained_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    plain, asked = [], []
    monkeypatch.setattr(claimed, "train_plain", lambda *given, **options: plain.append((given, options)))
    monkeypatch.setattr(
        PredictiveCodingExits, "prepare", lambda self, bench: asked.append(self) or ready
    )  # fmt: skip
    found = claimed.claims(method, ready, bench, curve_of((0.1, 0.1, 0.2), (1.1, 0.1, 1.0)))
    assert [o.name for o in found] == [
        "fewer cycles at equal accuracy", "errors of prediction fall", "comparable to a deep network with less",
        "cycles refine the answer",
    ]  # fmt: skip
    assert asked == [method.replace({"cycles": 0})]
    (((model, data, _), options),) = plain
    assert options == {"epochs": method.epochs, "batch": method.batch, "rate": method.rate}
    assert torch.equal(data.train.targets, ready.data.train.targets)
    fresh = method.teacher(ready.data, bench.seed).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    sizes = claimed.weights(ready.model) / claimed.weights(model)
    assert f"{sizes:.1%} of the weights" in found[2].measured
    last = method.static(ready.split("test"))[-1].quality
    assert found[3].measured.endswith(f"{last:.4f}; without cycles {last:.4f}")


def test_a_rival_of_distillation_learns_from_labels(prepared, monkeypatch):
    method, bench, ready = prepared(KEY, "distilled")
    asked = []
    monkeypatch.setattr(claimed, "gains_by_exit", lambda *given: asked.append(given) or [0.01, 0.01, 0.01])
    found = claimed.claims(method, ready, bench, curve_of((0.1, 0.1, 0.2), (1.1, 0.1, 1.0)))
    assert [o.name for o in found] == [
        "fewer cycles at equal accuracy", "errors of prediction fall", "a deep network teaches well",
    ]  # fmt: skip
    assert asked == [(method, ready, method.replace({"distilled": False}), bench)]
