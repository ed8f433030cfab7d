"""What only deep cascade learning promises: one layer at a time on frozen ones, stages as in the released code."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import marquez2018cascade as claimed
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.exits import Prepared
from eelit.methods.harness import registry
from eelit.methods.papers.marquez2018cascade import DeepCascade, OutputBlock, through, train_cascade
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "marquez2018cascade"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


# The network.


def test_an_output_block_has_two_hidden_layers_behind_means_over_places():
    torch.manual_seed(0)
    head = OutputBlock((3, 8, 8), 10, 12, 0.4)
    first, second, last = (part for part in head if isinstance(part, nn.Linear))
    assert [(part.in_features, part.out_features) for part in (first, second, last)] == [(48, 12), (12, 6), (6, 10)]
    assert [part.p for part in head if isinstance(part, nn.Dropout)] == [0.4, 0.4]
    x, head = torch.randn(5, 3, 8, 8), head.eval()
    read = F.avg_pool2d(x, 2).flatten(1)
    assert torch.allclose(head(x), last(second(first(read).relu()).relu()), atol=1e-6)
    assert OutputBlock((3, 2, 2), 10, 12, 0.0)[3].in_features == 12  # no more places than there are


def test_every_layer_is_a_stage_with_an_output_block_of_the_same_form():
    method = tiny(widths=(4, 6), blocks=2, units=20)
    model = method.build(method.load(), 0)
    convolutions = [[m.out_channels for m in stage.modules() if isinstance(m, nn.Conv2d)] for stage in model.stages]
    assert convolutions == [[4], [4], [6], [6]]
    assert [any(isinstance(m, nn.MaxPool2d) for m in stage.modules()) for stage in model.stages] == [
        False, False, True, False,
    ]  # fmt: skip
    assert [[part.out_features for part in head if isinstance(part, nn.Linear)] for head in model.heads] == [
        [20, 10, 10]
    ] * 4
    assert sum(isinstance(part, OutputBlock) for part in model.modules()) == 4
    residual = method.replace({"network": "resnet"}).build(method.load(), 0)
    assert residual.exits == 5  # the first convolution and four blocks


@pytest.mark.parametrize(
    ("setting", "value"), [("units", 1), ("units", 64.0), ("growth", -1.0), ("growth", float("nan"))]
)
def test_numbers_with_which_nothing_is_grown_are_refused(setting, value):
    method = tiny(**{setting: value})
    with pytest.raises(ValueError, match=f"^DeepCascade: {setting} is one"):
        method.build(method.load(), 0)


def test_the_first_output_block_is_the_same_however_deep_the_network_is():
    method = tiny(widths=(4,), units=20)
    few, many = (method.replace({"blocks": blocks}).build(method.load(), 0).heads[0] for blocks in (1, 3))
    other = method.build(method.load(), 1).heads[0]
    assert torch.equal(few[3].weight, many[3].weight)
    assert not torch.equal(few[3].weight, other[3].weight)


# The cascade.


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_the_plan_of_stages_is_that_of_the_released_code(golden, wired):
    """Which convolution and which dense layers each stage trains, how long, from the same rate on."""
    method = tiny(widths=(4, 8), blocks=2, units=16, epochs=10.0, growth=10.0, batch=64, rate=0.01)
    model, stages = wired(method)
    assert len(stages) == len(golden["stages"]) == model.exits
    for i, (stage, theirs) in enumerate(zip(stages, golden["stages"], strict=True)):
        assert (stage.epochs, stage.batch) == (theirs["epochs"], theirs["batch"])
        own = [*model.stages[i].modules(), *model.heads[i].modules()]
        said = [f"conv2d[{m.out_channels}]" for m in own if isinstance(m, nn.Conv2d)]
        said += [f"dense[{m.out_features}]" for m in own if isinstance(m, nn.Linear)]
        assert said == [layer for layer in theirs["trained"] if layer.startswith(("conv2d", "dense"))]
        block = [type(m).__name__.lower() for m in model.heads[i] if not isinstance(m, nn.AdaptiveAvgPool2d)]
        names = {"linear": "dense", "relu": "activation"}
        block = [names.get(name, name) for name in block]
        start = theirs["trained"].index("flatten[]")
        assert block == [layer.partition("[")[0] for layer in theirs["trained"][start:-1]]  # then comes their softmax
        assert stage.rates == {
            id(p): theirs["rate"] for part in (model.stages[i], model.heads[i]) for p in part.parameters()
        }
        assert theirs["frozen"].count("conv2d") == i
    assert sum(stage.epochs for stage in stages) == 100
    final = [layer for layer in golden["final"] if layer.startswith(("conv2d", "dense"))]
    plain = [m for m in model.plain_network().modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert final == [
        f"conv2d[{m.out_channels}]" if isinstance(m, nn.Conv2d) else f"dense[{m.out_features}]" for m in plain
    ]


def test_each_stage_minimises_the_loss_of_its_own_block_on_what_frozen_layers_give(wired):
    model, stages = wired(tiny(epochs=1.5, growth=0.5, batch=50, rate=3e-3))
    model.eval()
    images, x = torch.stack(list(stages[0].train.inputs)), None
    for i, stage in enumerate(stages):
        assert (stage.epochs, stage.batch, len(stage.train)) == (1.5 + 0.5 * i, 50, 600)
        with torch.no_grad():
            x = images if i == 0 else model.stages[i - 1](x)
            expected = F.cross_entropy(model.heads[i](model.stages[i](x[:30])), stage.train.targets[:30])
        inputs = torch.stack(list(stage.train.inputs))
        assert torch.allclose(inputs, x, atol=1e-5)
        assert stage.loss(stage.batch_of(torch.arange(30), inputs[:30])).item() == pytest.approx(
            expected.item(), rel=1e-4
        )


@pytest.fixture(scope="module")
def grown():
    """Return the parameters of a network after each stage of a short cascade, and what had gradients in it."""
    method, found = tiny(epochs=0.3), []
    data = method.load().without_test()
    model = method.build(data, 0)

    def watch(stage):
        if stage:
            return
        found.append(
            (
                {name: tensor.clone() for name, tensor in model.state_dict().items()},
                {name for name, p in model.named_parameters() if p.grad is not None},
            )
        )
        model.zero_grad(set_to_none=True)

    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    method.train(model, data, Bench(watch=watch))
    return start, found, model


def test_in_a_stage_there_are_gradients_for_its_layer_and_its_block_alone(grown):
    _, found, model = grown
    assert len(found) == model.exits
    for i, (_, gradients) in enumerate(found):
        own = {f"stages.{i}.{name}" for name, _ in model.stages[i].named_parameters()}
        own |= {f"heads.{i}.{name}" for name, _ in model.heads[i].named_parameters()}
        assert gradients == own


def test_what_a_stage_has_trained_stays_bit_for_bit_and_what_comes_later_is_as_it_was_built(grown):
    start, found, _ = grown
    for i, (now, _) in enumerate(found):
        for name, tensor in now.items():
            number = int(name.split(".")[1])
            if number == i:
                continue
            before = start if number > i else found[number][0]
            assert torch.equal(tensor, before[name]), name
        moved = [name for name in now if name.startswith(f"stages.{i}.") and not torch.equal(now[name], start[name])]
        assert moved


def test_stored_features_are_those_of_a_fresh_pass_in_evaluation_mode():
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.5)).train()
    D = Examples(list(torch.randn(150, 1, 6, 6)), torch.arange(150))
    found = through(layer, D)
    assert layer.training
    assert torch.equal(found.targets, D.targets)
    expected = layer.eval()(torch.stack(list(D.inputs)))
    assert torch.allclose(torch.stack(list(found.inputs)), expected, atol=1e-6)
    assert not found.inputs[0].requires_grad


def test_one_layer_is_trained_as_an_ordinary_network():
    method = tiny(blocks=1, epochs=0.5)
    data = method.load().without_test()
    ours, theirs = method.build(data, 0), method.build(data, 0)
    assert ours.exits == 1
    method.train(ours, data, Bench())
    claimed.train_plain(theirs, data, Bench(), **method.options)
    a, b = ours.state_dict(), theirs.state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_last_answer_needs_no_earlier_output_block(prepared):
    _, _, ready = prepared(KEY)
    model, x = ready.model, torch.stack(list(ready.data.test.inputs[:20]))
    alone = MultiExit(model.stages, [*(nn.Identity() for _ in model.stages[1:]), model.heads[-1]])
    assert torch.equal(alone.full(x), model.full(x))
    assert torch.allclose(infer(model, x, MaxConfidence(1.1)).answers, model.full(x), atol=1e-5)


def test_settings_of_another_length_are_another_training(stages):
    assert [stage.epochs for stage in stages(tiny(epochs=2.0))] == [2.0] * 3
    assert [stage.epochs for stage in stages(tiny(epochs=2.0, growth=2.0))] == [2.0, 4.0, 6.0]


def test_a_cascade_is_kept_under_a_name_that_tells_all_of_its_settings():
    names = []
    for settings in ({}, {"g": 1.0}, {"E_1": 3.0}, {"batch": 16}, {"rate": 0.1}):
        method = tiny()
        data = method.load().without_test()
        bench = Bench(most_steps=0)
        options = {"E_1": 2.0, "g": 0.0, "batch": 32, "rate": 0.01, **settings}
        train_cascade(method.build(data, 0), data, bench, **options)
        names += bench.trainings
    assert len(set(names)) == 5


# The exit rule.


def test_the_first_exit_that_is_sure_enough_answers(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    sure = seen.outputs.softmax(dim=-1).amax(dim=-1)
    for tau in (0.3, 0.7, 0.95):
        policy = method.rule(tau, ready)
        assert policy == MaxConfidence(tau)
        by_hand = [next((i for i in range(2) if sure[i, n] >= tau), 2) for n in range(len(seen.targets))]
        assert replay(policy, seen.outputs).tolist() == by_hand


def test_there_is_an_exit_after_every_layer_of_the_default_network():
    method = DeepCascade()
    assert (method.network, method.widths, method.blocks) == ("vgg", (128, 256), 3)
    assert "shares" not in {field.name for field in registry.describe(KEY).settings}


# What is claimed.


@pytest.mark.parametrize(("ours", "holds"), [(0.791, True), (0.789, False)])
def test_a_point_may_be_lost_against_training_as_a_whole(ours, holds):
    assert claimed.as_accurate(ours, 0.8, 0.92).holds is holds


@pytest.mark.parametrize(
    ("gains", "holds"), [((0.03, 0.0, 0.0, 0.5, 0, 0), True), ((0.02, 0.0, 0.0, 0.9, 0, 0), False)]
)
def test_the_first_half_of_the_layers_must_gain_a_point(gains, holds):
    found = claimed.better_early([0.7 + gain for gain in gains], [0.7] * 6)
    assert found.holds is holds
    assert f"{gains[0]:+.4f}" in found.measured


@pytest.mark.parametrize(
    ("ours", "holds"), [([0.6, 0.596, 0.66], True), ([0.6, 0.594, 0.66], False), ([0.6, 0.62, 0.64], False)]
)
def test_accuracy_must_rise_with_the_layers(ours, holds):
    assert claimed.progressive(ours).holds is holds


@pytest.mark.parametrize(("tuned", "holds"), [(0.806, True), (0.804, False)])
def test_the_cascade_must_be_a_better_start(tuned, holds):
    assert claimed.pre_training(tuned, 0.8).holds is holds


def test_what_a_step_keeps_and_does_by_hand():
    """Two linear layers of 3 × 4 and 4 × 2 weights on a batch of 5, with a bias in the second."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    kept, flops = claimed.step_of(model, Examples(list(torch.randn(5, 3)), torch.zeros(5, dtype=torch.int64)))
    gradients, inputs, hidden, log_softmax, targets, weights = 12 + 8 + 2, 15, 20, 10, 5, 1
    assert kept - gradients in range(
        inputs + hidden + log_softmax, inputs + hidden + log_softmax + targets + weights + 1
    )
    assert flops == 2 * 5 * (12 + 8 + 12 + 8 + 8)  # forward, weights, and back into the first layer's output


def test_costs_are_those_of_all_stages_beside_training_as_a_whole(prepared, monkeypatch):
    """Three layers of 16 channels: the image has 64 numbers, each map then 16 of 4×4 places."""
    method, _, ready = prepared(KEY)
    asked = []

    def step_of(model, examples):
        asked.append((model, examples))
        return [(100, 5e6), (70, 1e6), (75, 1e6), (30, 1e6)][len(asked) - 1]

    monkeypatch.setattr(claimed, "step_of", step_of)
    anew, stored = claimed.ways(method, ready)
    assert [len(examples) for _, examples in asked] == [32] * 4
    assert [len(examples.inputs[0]) for _, examples in asked] == [1, 1, 16, 16]
    first, second = (2 * 32 * macs for macs in (16 * 9 * 16, 16 * 9 * 16 * 16))
    assert anew.numbers == (75, 100)
    assert anew.memory == 0.75
    assert anew.work == pytest.approx((3e6 + first + (first + second)) / 5e6)
    assert stored.numbers == (75 + 600 * 256, 100 + 600 * 64)
    assert stored.memory == pytest.approx((75 + 600 * 256) / (100 + 600 * 64))
    assert stored.work == pytest.approx((3e6 + (first + second) / method.epochs) / 5e6)


@pytest.mark.parametrize(
    ("anew", "stored", "holds"),
    [
        ((0.75, 1.8), (4.8, 0.9), [True, True, False]), ((0.76, 0.9), (0.75, 0.91), [False, False, False]),
        ((0.75, 0.9), (4.8, 0.91), [True, False, True]), ((0.76, 1.8), (0.75, 0.9), [False, True, True]),
    ],
)  # fmt: skip
def test_memory_and_computation_are_judged_each_in_its_way_and_both_in_one(anew, stored, holds):
    ways = claimed.Way(*anew, (4_030_000, 10_010_000)), claimed.Way(*stored, (110_600_000, 23_800_000))
    found = claimed.cheaper(*ways)
    assert [outcome.holds for outcome in found] == holds
    assert "4.03 million instead of 10.01 million; with stored maps" in found[0].measured
    assert "110.60 million instead of 23.80 million" in found[0].measured
    assert found[1].measured.startswith(f"{stored[1]:.1%} of the operations; {anew[1]:.1%} if")


def test_rivals_are_trained_as_a_whole_then_their_blocks_on_frozen_layers(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    seen = []
    bench = Bench(most_steps=0, watch=lambda stage: seen.append(stage) if stage else None)
    found = claimed.end_to_end(method, ready, bench)
    assert isinstance(found, Prepared)
    whole, blocks = seen
    assert (whole.epochs, whole.batch, len(whole.train)) == (method.epochs, method.batch, 600)
    assert (blocks.epochs, blocks.batch, len(blocks.train)) == (method.epochs, method.batch, 600)
    built = method.build(ready.data, 0)
    assert len(whole.rates) == sum(1 for _ in built.plain_network().parameters())
    assert len(blocks.rates) == sum(1 for _ in built.heads[:-1].parameters())
    assert {*whole.rates.values(), *blocks.rates.values()} == {method.rate}
    seen.clear()
    claimed.pre_trained(method, ready, bench, 0.75)
    assert [stage.epochs for stage in seen] == [method.epochs] * 4 + [1.75 * method.epochs]
    x = torch.randn(2, 3, 9, 9)
    head = OutputBlock((3, 9, 9), 10, 8, 0.0).eval()
    assert torch.allclose(head(claimed.means(x)), head(x), atol=1e-6)


def test_training_as_a_whole_begins_with_the_layers_of_the_cascade_and_a_block_of_its_own(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    given = []
    monkeypatch.setattr(claimed, "train_plain", lambda model, *_, **options: given.append((model, options["epochs"])))
    monkeypatch.setattr(claimed, "accuracies", lambda *_: [0.5])
    bench = Bench(cache=ready.bench.cache)
    claimed.pre_trained(method, ready, bench, 0.5)
    (first, epochs), (second, longer) = given
    assert (epochs, longer) == (method.epochs, 1.5 * method.epochs)
    fresh, grown = method.build(ready.data, 0), method.build(ready.data, 0)
    method.train(grown, ready.data.without_test(), bench)
    for model, stages in ((first, grown.stages), (second, fresh.stages)):
        a, b = model.stages.state_dict(), stages.state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)
        a, b = model.heads.state_dict(), fresh.heads.state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)


def test_all_of_it_is_tried(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "end_to_end", lambda *_: ready)
    given, costs = [], (claimed.Way(0.4, 1.8, (4, 10)), claimed.Way(4.6, 0.92, (110, 24)))
    monkeypatch.setattr(claimed, "ways", lambda *_: costs)
    monkeypatch.setattr(claimed, "pre_trained", lambda *all_: given.append(all_[-1]) or (0.9, 0.8))
    found = claimed.claims(method, ready, bench, None)
    assert [outcome.name for outcome in found] == [
        "as accurate as end to end", "better early layers", "accuracy rises with each layer", "less memory",
        "less computation", "less memory and less computation at once", "a good start for training as a whole",
    ]  # fmt: skip
    assert [outcome.holds for outcome in found[:2]] == [True, False]
    assert given == [0.92]
    assert found[0].measured.endswith("the cascade takes 92.0% of the operations")
