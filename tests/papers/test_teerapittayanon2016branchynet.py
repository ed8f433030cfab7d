"""What only BranchyNet promises: the invariants of the paper, and the released code on the same numbers."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.backbones.convnet import branchy_alexnet, branchy_lenet
from eelit.methods.engine.costs import exit_costs, full_cost
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
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
