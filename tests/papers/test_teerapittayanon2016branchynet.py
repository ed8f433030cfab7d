"""What only BranchyNet promises: the invariants of the paper, and the released code on the same numbers."""

import json
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.claims.teerapittayanon2016branchynet import knee, no_harm
from eelit.methods.engine.costs import exit_costs, full_cost
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.papers.teerapittayanon2016branchynet import branchy_alexnet, branchy_lenet
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.recipes.joint import exit_losses, train_joint
from eelit.methods.recipes.plain import train_plain

KEY = "teerapittayanon2016branchynet"
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"
LN10 = float(np.log(10))


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(scale=2, size=(3, 400, 10))


def made(model):
    """Fill a network with the numbers that the released network got (see `weights` in the golden file)."""
    for name, parameter in model.named_parameters():
        scale = np.sqrt(2 / np.prod(parameter.shape[1:])) if parameter.dim() > 1 else 0.1
        numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(parameter.shape)
        parameter.data = torch.tensor((numbers * scale).astype(np.float32))
    return model


def test_thresholds_of_zero_never_stop_and_above_ln_c_always(logits):
    assert (replay(Entropy((0.0, 0.0)), logits) == 2).all()
    assert (replay(Entropy((LN10 + 1e-6, 0.0)), logits) == 0).all()


@pytest.mark.parametrize("other", [0.2, 1.0, 2.0])
def test_more_leave_at_an_exit_when_its_threshold_rises(logits, other):
    grid = np.linspace(0, LN10 + 0.1, 12)
    first = [np.bincount(replay(Entropy((t, other)), logits), minlength=3) for t in grid]
    second = [np.bincount(replay(Entropy((other, t)), logits), minlength=3) for t in grid]
    assert all(counts.sum() == 400 for counts in first + second)
    assert np.diff([counts[0] for counts in first]).min() >= 0
    assert np.diff([counts[1] for counts in second]).min() >= 0
    assert first[0][0] < first[-1][0]


def test_an_image_leaves_at_the_first_branch_below_that_branch_s_own_threshold(logits):
    found = replay(Entropy((0.4, 1.2)), logits).tolist()
    for i, exit_ in enumerate(found):
        e = [-sum(p * np.log(p) for p in np.exp(z) / np.exp(z).sum()) for z in logits[:2, i]]
        assert exit_ == (0 if e[0] < 0.4 else 1 if e[1] < 1.2 else 2)
    assert set(found) == {0, 1, 2}


def test_entropy_of_uniform_and_of_certain_predictions():
    assert float(entropy(np.zeros((1, 10)))[0]) == pytest.approx(LN10)
    assert entropy(np.eye(10)[:1] * 1e4).tolist() == [0.0]


def test_trunk_gets_the_weighted_sum_of_the_gradients_behind_it():
    model, x, y = branchy_alexnet((1, 16, 16), 10, width=0.25, seed=0), torch.randn(4, 1, 16, 16), torch.arange(4)
    weights = torch.tensor([1.0, 0.7, 0.3])

    def gradients(w):
        model.zero_grad()
        (w * exit_losses(model(x), y)).sum().backward()
        return [stage[i].weight.grad for stage, i in zip(model.stages, (0, 3, 3), strict=True)]

    joint = gradients(weights)
    alone = [gradients(torch.eye(3)[m]) for m in range(3)]
    for n in range(3):
        assert torch.allclose(joint[n], sum(weights[m] * alone[m][n] for m in range(n, 3)), atol=1e-6)
        assert all(float(alone[m][n].abs().sum()) == 0 for m in range(n))


def test_all_weight_on_the_last_exit_is_ordinary_training(prepared):
    method, _, ready = prepared(KEY)
    plain, joint = (method.build(ready.data, 0) for _ in range(2))
    before = {name: t.clone() for name, t in plain.state_dict().items()}
    train_plain(plain, ready.data, Bench(), epochs=0.5, **method.adam)
    train_joint(joint, ready.data, Bench(), weights=[0.0, 1.0], epochs=0.5, **method.adam)
    for name, t in plain.state_dict().items():
        assert torch.equal(t, before[name]) == name.startswith("heads.0")
        assert torch.allclose(t, joint.state_dict()[name], atol=1e-6)


def test_percentile_leaves_a_share_strictly_below():
    held = np.random.default_rng(0).permutation(np.arange(100.0))[None]
    assert percentile_thresholds(held, 0.3) == (30.0,)
    assert (held < 30.0).sum() == 30
    assert percentile_thresholds(held, 0.0) == (0.0,)
    assert percentile_thresholds(held, 1.0) == (np.inf,)


def test_lenet_has_the_paper_s_size():
    model, x = branchy_lenet((1, 28, 28), 10, seed=0), torch.zeros(1, 1, 28, 28)
    trunk = 30 * 30 * 5 * 25 + 17 * 17 * 10 * 125 + 11 * 11 * 20 * 250 + 720 * 84 + 840
    branch = 15 * 15 * 10 * 45 + 640 * 10
    assert full_cost(model, x) == trunk
    assert exit_costs(model, x) == [30 * 30 * 5 * 25 + branch, trunk + branch]


def test_alexnet_branches_have_the_paper_s_layers():
    """Two convolutions and one linear layer behind the first convolution, one and one behind the second."""
    model, x = branchy_alexnet((1, 28, 28), 10, seed=0), torch.zeros(1, 1, 28, 28)
    first, second = 28 * 28 * 32 * 25, 14 * 14 * 64 * 32 * 25
    branches = [2 * 14 * 14 * 32 * 32 * 9 + 32 * 7 * 7 * 10, 7 * 7 * 32 * 64 * 9 + 32 * 3 * 3 * 10]
    assert exit_costs(model, x)[:2] == [first + branches[0], first + second + sum(branches)]
    kinds = [[type(layer).__name__ for layer in head] for head in model.heads[:2]]
    normalised, convolution = ["ReLU", "MaxPool2d", "LocalResponseNorm"], ["Conv2d", "ReLU"]
    ends = ["MaxPool2d", "Flatten", "Linear"]
    assert kinds == [normalised + convolution * n + ends for n in (2, 1)]


def test_channels_are_normalised_by_themselves_and_their_neighbours():
    """After ReLU and pooling, x / (2 + 5e-5 * sum of squares)^0.75, the sum over a channel and the two beside it."""
    block = branchy_alexnet((1, 8, 8), 10, seed=0).stages[1][:3]
    x = torch.tensor([100.0, -50.0, 200.0, 300.0, 30.0])[None, :, None, None].expand(1, 5, 4, 4)
    x = x + torch.arange(16.0).view(4, 4)
    largest = [[110.0, 111.0], [114.0, 115.0]]  # of 3×3 places, two apart, the last ones over the border
    found = block(x)[0]
    assert found.shape == (5, 2, 2)
    for row in range(2):
        for column in range(2):
            first = largest[row][column]
            a = [0.0, first, 0.0, first + 100, first + 200, first - 70, 0.0]  # nothing beyond the outer channels
            by_hand = [a[c] / (2 + 5e-5 * (a[c - 1] ** 2 + a[c] ** 2 + a[c + 1] ** 2)) ** 0.75 for c in range(1, 6)]
            assert found[:, row, column].tolist() == pytest.approx(by_hand, rel=1e-5)


def test_alexnet_drops_half_of_both_hidden_layers_while_it_trains():
    *_, flat, one, relu, drop, two, relu_2, drop_2 = branchy_alexnet((1, 8, 8), 10, seed=0).train().stages[2]
    kinds = [type(layer).__name__ for layer in (flat, one, relu, drop, two, relu_2, drop_2)]
    assert kinds == ["Flatten", "Linear", "ReLU", "Dropout", "Linear", "ReLU", "Dropout"]
    assert (one.out_features, two.in_features, two.out_features) == (256, 256, 128)
    torch.manual_seed(0)
    for layer in (drop, drop_2):
        found = layer(torch.ones(10000))
        assert set(found.tolist()) == {0.0, 2.0}
        assert found.mean().item() == pytest.approx(1.0, abs=0.05)


def test_untrained_networks_follow_from_training_data_and_seed_alone(prepared):
    method, _, ready = prepared(KEY)
    for network in ("lenet", "alexnet"):
        chosen = method.replace({"network": network})
        learnt = replace(ready.data, validation=None).without_test()
        first, again, other = (list(chosen.build(learnt, seed).parameters()) for seed in (0, 0, 1))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
        assert not torch.equal(first[0], other[0])


def test_finished_images_cost_nothing_more():
    model, x = made(branchy_alexnet((1, 28, 28), 10, width=0.5, seed=0)), torch.randn(20, 1, 28, 28)
    with torch.inference_mode():
        outputs = model(x)
    policy = Entropy(percentile_thresholds(entropy(outputs[:-1]).numpy(), 0.5))
    found = infer(model, x, policy)
    assert found.exits.tolist() == replay(policy, outputs).tolist()
    assert set(found.exits.tolist()) == {0, 1, 2}


def test_agrees_with_the_released_network_loss_and_gradient(golden):
    model, theirs = made(branchy_lenet((1, 28, 28), 10, seed=0)), golden["lenet"]
    x = torch.tensor(np.random.RandomState(1).standard_normal((48, 1, 28, 28)).astype("f"))
    y = torch.tensor(np.random.RandomState(2).randint(0, 10, 48))
    outputs = model(x)
    assert torch.allclose(outputs, torch.tensor(theirs["logits"]), atol=1e-4)
    losses = exit_losses(outputs, y)
    assert losses.tolist() == pytest.approx(theirs["losses"], abs=1e-4)
    losses.sum().backward()
    for name, numbers in theirs["gradients"].items():
        assert model.get_parameter(f"{name}.weight").grad.flatten()[:12].tolist() == pytest.approx(numbers, abs=1e-4)


def test_agrees_with_the_released_rule_and_threshold_search(golden):
    theirs = golden["lenet"]
    outputs = np.array(theirs["logits"])
    assert np.asarray(entropy(outputs)).tolist() == [pytest.approx(e, abs=1e-5) for e in theirs["entropies"]]
    for case in theirs["exits"]:
        assert np.bincount(replay(Entropy((case["threshold"],)), outputs), minlength=2).tolist() == case["counts"]
    for case in theirs["percentiles"]:
        found = percentile_thresholds(entropy(outputs[:1]), case["share"])
        assert found == pytest.approx((case["threshold"],), abs=1e-5)


def test_agrees_with_the_released_alexnet(golden):
    model = made(branchy_alexnet((3, 32, 32), 10, seed=0))
    x = torch.tensor(np.random.RandomState(3).standard_normal((2, 3, 32, 32)).astype("f"))
    assert torch.allclose(model.full(x), torch.tensor(golden["alexnet"]["logits"]), atol=1e-3)


# How it is wired.


@pytest.mark.parametrize("network", ["lenet", "alexnet"])
def test_first_the_trunk_learns_alone_then_all_exits_together(prepared, stages, monkeypatch, network):
    method, _, ready = prepared(KEY)
    method = method.replace({"network": network, "trunk_epochs": 2.0, "epochs": 3.0})
    built, build = [], type(method).build
    monkeypatch.setattr(type(method), "build", lambda *given: built.append(build(*given)) or built[-1])
    trunk, joint = stages(method)
    (model,) = built
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([7, 0, 2, 2, 9])

    def loss(stage):
        return stage.loss(replace(stage.batch_of(torch.arange(5), x), targets=y)).item()

    log_p = torch.log_softmax(model(x), dim=-1)
    each = [-sum(log_p[n, i, c].item() for i, c in enumerate(y.tolist())) / 5 for n in range(model.exits)]
    w = {"lenet": [1.0, 0.3], "alexnet": [1.0, 1.0, 0.3]}[network]  # the paper's best: branches 1, the last exit 0.3
    assert loss(trunk) == pytest.approx(each[-1], rel=1e-5)
    assert loss(joint) == pytest.approx(sum(w_n * l_n for w_n, l_n in zip(w, each, strict=True)), rel=1e-5)
    of_trunk = [*model.stages.parameters(), *model.heads[-1].parameters()]
    assert trunk.rates == {id(p): method.rate for p in of_trunk}
    assert joint.rates == {id(p): method.rate for p in model.parameters()}
    assert (trunk.epochs, joint.epochs) == (2.0, 3.0)
    for stage in (trunk, joint):
        assert isinstance(stage.optimiser, torch.optim.Adam)
        assert stage.optimiser.param_groups[0]["betas"] == (0.99, 0.999)
        assert stage.batch == method.batch
        assert stage.train.targets.tolist() == ready.data.train.targets.tolist()


def test_joint_training_starts_from_the_trained_trunk(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    method = method.replace({"trunk_epochs": 0.2, "epochs": 0.1})
    alone = method.build(ready.data, 0)
    untrained = {name: t.clone() for name, t in alone.state_dict().items()}
    method.train_trunk(alone, ready.data, Bench())
    begun, model = [], method.build(ready.data, 0)
    look = Bench(watch=lambda stage: begun.append({n: t.clone() for n, t in model.state_dict().items()}))
    method.train(model, ready.data, look)
    before_trunk, _, before_joint, _ = begun
    for name, t in before_joint.items():
        assert torch.equal(before_trunk[name], untrained[name])
        assert torch.equal(t, alone.state_dict()[name])
        assert torch.equal(t, untrained[name]) == name.startswith("heads.0")


def test_thresholds_leave_a_share_of_the_fitting_half_below(prepared):
    method, _, ready = prepared(KEY)
    fitting, judged = ready.split("fitting"), ready.split("validation")
    assert (len(fitting.targets), len(judged.targets)) == (150, 150)
    log_p = torch.log_softmax(fitting.outputs[0].double(), dim=-1)
    e = -(log_p.exp() * log_p).sum(dim=-1)
    for share in (0.2, 0.5, 0.9):
        rule = method.rule(share, ready)
        assert rule.threshold == pytest.approx((e.sort().values[round(share * 150)].item(),), abs=1e-5)
        assert (replay(rule, fitting.outputs) == 0).sum() == round(share * 150)
    assert method.rule(0.0, ready) == Entropy((0.0,))


@pytest.mark.parametrize("differs", ["nowhere", "exit", "answer"])
def test_an_execution_that_differs_from_the_replay_is_told(prepared, differs):
    method, bench, ready = prepared(KEY)
    seen, rule = ready.split("test"), method.rule(0.5, ready)
    early = torch.as_tensor(replay(rule, seen.outputs) == 0)
    outputs = seen.outputs.clone()
    if differs == "exit":  # one exit later, with the same answer
        outputs[1, early] = outputs[0, early]
        outputs[0, early] = 0
    elif differs == "answer":
        outputs = outputs.roll(1, -1)
    assert (replay(rule, outputs) == (~early).long().numpy()).all() == (differs != "exit")
    other = replace(ready, _test=[replace(seen, outputs=outputs)])
    assert method.execute(other, bench, 0.5).agrees == (differs == "nowhere")


def test_networks_are_lenet_and_alexnet_with_half_the_channels(prepared):
    method, _, ready = prepared(KEY)
    alexnet = method.replace({"network": "alexnet"}).build(ready.data, 3)
    by_hand = branchy_alexnet((1, 8, 8), 10, width=0.5, seed=3)
    assert all(torch.equal(a, b) for a, b in zip(alexnet.parameters(), by_hand.parameters(), strict=True))
    assert [layer.out_channels for layer in alexnet.modules() if isinstance(layer, torch.nn.Conv2d)] == [
        16, 32, 48, 48, 32,  # trunk
        16, 16, 16,  # branches
    ]  # fmt: skip
    with pytest.raises(KeyError):
        method.replace({"network": "resnet"}).build(ready.data, 0)


# What is claimed.


def test_the_trunk_that_the_last_exit_has_to_match_is_trained_alone_for_as_long(prepared):
    method, _, ready = prepared(KEY)
    found = []
    bench = Bench(most_steps=0, watch=lambda stage: found.append(stage) if stage else None)
    outcome = no_harm(method, ready, bench, SimpleNamespace(full_quality=1.0))
    assert [stage.epochs for stage in found] == [method.trunk_epochs + method.epochs] == [4.0]
    assert outcome.holds
    alone = float(outcome.measured.split(" with branches, ")[1].split()[0])
    for gain, holds in ((0.006, True), (0.004, False), (0.0, False)):
        assert no_harm(method, ready, bench, SimpleNamespace(full_quality=alone + gain)).holds is holds


@pytest.mark.parametrize(
    ("network", "speed_up", "loss", "holds"),
    [
        ("lenet", 2.7, 0.009, True), ("lenet", 2.6, 0.0, False), ("lenet", 2.7, 0.011, False),
        ("alexnet", 1.5, 0.009, True), ("alexnet", 1.4, 0.0, False),
    ],
)  # fmt: skip
def test_each_network_has_the_bar_that_the_paper_s_figure_for_it_sets(network, speed_up, loss, holds):
    """The last exit has 0.9 on either split; on validation data nothing is lost."""
    splits = {name: SimpleNamespace(outputs=[None], targets=None) for name in ("validation", "test")}
    points = {
        name: SimpleNamespace(quality=0.9 - (name == "test") * loss, cost=1.0, speed_up=speed_up) for name in splits
    }
    method = SimpleNamespace(
        network=network,
        trial=lambda rule, seen: points["test" if seen is splits["test"] else "validation"],
        score=lambda outputs, targets: 0.9,
    )
    ready = SimpleNamespace(split=splits.get, model=SimpleNamespace(exits=2))
    assert knee(method, ready).holds is holds
