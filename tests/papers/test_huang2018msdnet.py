"""What only MSDNet promises: the invariants of the paper, and the released code on the same numbers."""

import json
import math
import zlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.claims.huang2018msdnet import grows
from eelit.methods.engine.costs import count, exit_costs, full_cost
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.papers.huang2018msdnet import Architecture, msdnet
from eelit.methods.policies.base import softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import exit_losses

KEY = "huang2018msdnet"
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"
SMALL = Architecture(exits=3, channels=4, growth=2)
COSTS = np.array([1.0, 3.0, 4.0, 9.0])


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def held():
    return np.random.default_rng(1).normal(scale=2, size=(4, 1000, 10))


def made(model):
    """Fill a network with the numbers that the released network got (see `weights` in the golden file)."""
    for name, t in model.state_dict().items():
        if t.is_floating_point():
            x = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(tuple(t.shape))
            if t.dim() > 1:
                x *= np.sqrt(2 / np.prod(t.shape[1:]))
            elif name.endswith("running_var"):
                x = 1 + 0.2 * np.tanh(x)
            else:
                x = name.endswith("weight") + 0.1 * x
            t.copy_(torch.tensor(x.astype(np.float32)))
    return model


def confidence(outputs):
    return softmax(outputs).max(axis=-1)


@pytest.mark.parametrize("layout", [Architecture(), Architecture(exits=7, base=4, step=2, growing=False), SMALL])
def test_channels_grow_by_m_g_and_are_halved_where_a_scale_goes(layout):
    expected = layout.channels
    for layer in range(1, layout.classifiers[-1] + 1):
        expected += layout.growth
        if layer - 1 in layout.last[:-1]:
            expected //= 2
        assert layout.widths[layer] == expected
    state = torch.zeros(1, 1, 28, 28)
    model = msdnet(replace(layout, lazy=False), inputs=1, classes=10, seed=0)
    for stage, layer in zip(model.stages, layout.classifiers, strict=True):
        state = stage(state)
        coarsest = state[-1]
        assert coarsest.shape == (1, layout.widths[layer] * layout.factors[-1], 7, 7)


def test_classifiers_and_blocks_lie_where_the_paper_puts_them():
    assert Architecture().classifiers == [1, 3, 6, 10, 15]
    assert Architecture().last == [5, 10, 15]
    assert Architecture(exits=4, base=4, step=2, growing=False).classifiers == [4, 6, 8, 10]


def test_a_classifier_does_not_see_later_layers():
    model, x = msdnet(SMALL, inputs=1, classes=10, seed=0), torch.randn(3, 1, 28, 28)
    before = model(x)
    for parameter in [*model.stages[1].parameters(), *model.heads[1].parameters()]:
        parameter.data += 1
    after = model(x)
    assert torch.equal(after[0], before[0])
    assert not torch.allclose(after[1], before[1])
    assert not torch.allclose(after[2], before[2])


@pytest.mark.parametrize("layout", [SMALL, Architecture(exits=3, base=3, step=2, growing=False, channels=4, growth=2)])
def test_lazy_evaluation_changes_costs_but_no_answer(layout):
    x = torch.randn(2, 1, 28, 28)
    lazy, whole = (msdnet(replace(layout, lazy=lazy), inputs=1, classes=10, seed=0) for lazy in (True, False))
    for where in cells(layout):
        by_layer(whole, *where).load_state_dict(by_layer(lazy, *where).state_dict())
    whole.heads.load_state_dict(lazy.heads.state_dict())
    whole.stages[0].first.load_state_dict(lazy.stages[0].first.state_dict())
    assert torch.allclose(lazy(x), whole(x), atol=1e-5)
    ours, theirs = exit_costs(lazy, x[:1]), exit_costs(whole, x[:1])
    assert ours[0] < theirs[0]
    assert ours[-1] == theirs[-1]


def cells(layout):
    return [(layer, s) for s in range(layout.scales) for layer in range(1, layout.last[s] + 1)]


def by_layer(model, layer, scale):
    """Return the cell of one layer and scale, whichever stage has it."""
    stage = next(s for s in model.stages if 0 < layer - s.start[scale] <= len(s.cells[scale]))
    return stage.cells[scale][layer - stage.start[scale] - 1]


def test_skipped_layers_are_not_executed():
    model, x = msdnet(SMALL, inputs=1, classes=10, seed=0), torch.randn(4, 1, 28, 28)
    costs = exit_costs(model, x[:1])
    for k in range(3):
        assert count(lambda k=k: infer(model, x, FixedExit(k))) == 4 * costs[k]
    assert full_cost(model, x[:1]) < costs[-1]


def test_finished_images_leave_every_scale_of_the_state():
    model, x = made(msdnet(SMALL, inputs=1, classes=10, seed=0)), torch.randn(16, 1, 28, 28)
    with torch.inference_mode():
        outputs = model(x)
    middle = float(softmax(outputs[0]).amax(dim=-1).median()) + 1e-6
    found = infer(model, x, MaxConfidence((middle, 2.0)))
    assert sorted(set(found.exits.tolist())) == [0, 2]
    assert torch.allclose(found.outputs, outputs[found.exits, torch.arange(16)], atol=1e-5)


def test_loss_is_the_plain_sum():
    outputs, targets = torch.randn(3, 5, 10), torch.randint(10, (5,))
    by_hand = sum(torch.nn.functional.cross_entropy(out, targets) for out in outputs)
    assert float((torch.ones(3) * exit_losses(outputs, targets)).sum()) == pytest.approx(float(by_hand))


def test_shares_are_the_paper_s_geometric_series():
    q = 0.3
    by_hand = np.array([(1 - q) ** (k - 1) * q for k in range(1, 5)])
    assert exit_shares(1 - q, 4) == pytest.approx(by_hand / by_hand.sum())
    assert exit_shares(0.5, 3) == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    for ratio in (0.0, 1e-300, 0.05, 1.0, 1.95, 1e300, math.inf):
        assert exit_shares(ratio, 5).sum() == pytest.approx(1)
    assert exit_shares(1e-9, 4) == pytest.approx([1, 0, 0, 0], abs=1e-6)
    assert exit_shares(1.0, 4) == pytest.approx([0.25] * 4)
    assert exit_shares(1.95, 4)[-1] > exit_shares(1.0, 4)[-1]


@pytest.mark.parametrize("budget", [1.001, 2.0, 4.25, 6.0, 8.999])
def test_the_budget_is_spent(budget):
    assert exit_shares(ratio_within(budget, COSTS), 4) @ COSTS == pytest.approx(budget, rel=1e-6)
    assert exit_shares(ratio_within(budget, COSTS), 4) @ COSTS <= budget


def test_equal_shares_cost_the_mean_and_ends_are_exact():
    assert ratio_within(float(COSTS.mean()), COSTS) == pytest.approx(1)
    assert ratio_within(1.0, COSTS) == 0
    assert ratio_within(9.0, COSTS) == math.inf


@pytest.mark.parametrize("ratio", [0.05, 0.5, 1.0, 1.7])
def test_held_out_samples_leave_in_the_given_shares(held, ratio):
    shares = exit_shares(ratio, 4)
    exits = replay(MaxConfidence(thresholds_for(confidence(held), shares)), held)
    found = np.bincount(exits, minlength=4)
    floors = np.floor(1000 * shares)
    assert found[:3].tolist() == floors[:3].tolist()
    assert COSTS[exits].mean() == pytest.approx(float(shares @ COSTS), rel=0.01)


def test_infinite_thresholds_never_stop_and_minus_infinity_always(held):
    assert (replay(MaxConfidence((math.inf,) * 3), held) == 3).all()
    assert (replay(MaxConfidence((-math.inf, 0.5, 0.5)), held) == 0).all()
    assert thresholds_for(confidence(held), exit_shares(math.inf, 4)) == (math.inf,) * 3


def test_worked_case_of_the_threshold_search():
    at_exits = np.array([[0.9, 0.6, 0.8, 0.7], [0.5, 0.6, 0.7, 0.8], [1.0, 1.0, 1.0, 1.0]])
    assert thresholds_for(at_exits, np.array([0.5, 0.25, 0.25])) == (0.8, 0.8)
    assert thresholds_for(at_exits, np.array([0.2, 0.5, 0.3])) == (math.inf, 0.7)


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_fixed_exit(held, array):
    for k in range(4):
        assert (replay(FixedExit(k), array(held)) == k).all()
    assert (replay(FixedExit(9), array(held)) == 3).all()


def test_anytime_takes_the_last_classifier_within_the_budget(prepared):
    anytime, _, ready = prepared(KEY, "anytime")
    costs = ready.split("validation").costs[:, 0]
    for k, cost in enumerate(costs):
        assert anytime.rule(cost / costs[-1] + 1e-9, ready) == FixedExit(k)
    assert anytime.rule(0.0, ready) == FixedExit(0)
    assert anytime.rule(costs[1] / costs[-1] - 1e-6, ready) == FixedExit(0)


# How it is wired.


@pytest.mark.parametrize("variant", ["budgeted", "anytime"])
def test_all_classifiers_learn_together_and_weigh_alike(prepared, stages, monkeypatch, variant):
    method, _, ready = prepared(KEY, variant)
    built, build = [], type(method).build
    monkeypatch.setattr(type(method), "build", lambda *given: built.append(build(*given)) or built[-1])
    (stage,) = stages(method)
    (model,) = built
    x, y = torch.randn(6, 1, 8, 8), torch.tensor([3, 0, 9, 9, 1, 5])
    batch = stage.batch_of(torch.arange(6), x)
    log_p = torch.log_softmax(model(x), dim=-1)
    by_hand = sum(-log_p[k, i, c] / 6 for k in range(3) for i, c in enumerate(y.tolist()))
    assert stage.loss(replace(batch, targets=y)).item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert stage.train.targets.tolist() == ready.data.train.targets.tolist()
    assert stage.rates == {id(p): 0.1 for p in model.parameters()}
    (group,) = stage.optimiser.param_groups
    assert isinstance(stage.optimiser, torch.optim.SGD)
    assert (group["momentum"], group["nesterov"], group["weight_decay"]) == (0.9, True, 1e-4)
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch) == (4.0, 64)


def test_normalisation_learns_from_every_batch_and_is_fixed_afterwards(prepared):
    _, _, ready = prepared(KEY)
    layers = [layer for layer in ready.model.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
    assert {int(layer.num_batches_tracked) for layer in layers} == {4 * 10}  # epochs, batches of 64 in 600
    assert not any(layer.training for layer in layers)


def test_convolutions_start_as_in_the_released_network():
    """Normal with variance 2 / (k² · outputs); classifiers without bias."""
    model = msdnet(Architecture(exits=3), inputs=1, classes=10, seed=0)
    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    for k in (1, 3):
        of_size = [layer for layer in layers if layer.kernel_size == (k, k)]
        widest = max(of_size, key=lambda layer: layer.weight.numel())
        assert widest.weight.std().item() == pytest.approx((2 / (k * k * widest.out_channels)) ** 0.5, rel=0.05)
    assert all(head.linear.bias.tolist() == [0.0] * 10 for head in model.heads)


def test_thresholds_are_those_of_the_fitting_half_alone(prepared):
    """Budgets are judged on the other half; what thresholds were fitted to is no part of it."""
    method, _, ready = prepared(KEY)
    fitting, judged = ready.split("fitting"), ready.split("validation")
    assert len(fitting.targets) == len(judged.targets) == 150
    whole = ready.data.validation.targets
    assert torch.cat([fitting.targets, judged.targets]).tolist() == whole.tolist()
    costs, p = fitting.costs[:, 0], fitting.outputs.softmax(dim=-1).amax(dim=-1).numpy()
    for budget in (0.6, 0.8, 0.9):
        shares = exit_shares(ratio_within(budget * costs[-1], costs), 3)
        assert method.rule(budget, ready).threshold == pytest.approx(thresholds_for(p, shares), abs=1e-5)
        left = np.bincount(replay(method.rule(budget, ready), fitting.outputs), minlength=3)
        assert left[:2].tolist() == np.floor(150 * shares[:2]).tolist()
    assert method.rule(costs[0] / costs[-1], ready) == MaxConfidence(0.0)


@pytest.mark.parametrize("way", ["split", "data"])
def test_thresholds_cannot_be_fitted_on_test_data(prepared, monkeypatch, way):
    method, bench, ready = prepared(KEY)

    def cheat(self, given):
        return given.split("test") if way == "split" else given.data.test.inputs

    monkeypatch.setattr(type(method), "fit", cheat)
    fresh = replace(ready, _fitted=[])
    with pytest.raises(TestDataAsked):
        method.rule(0.7, fresh)
    with pytest.raises(TestDataAsked):
        method.sweep(fresh, bench, "test", [0.7])
    with pytest.raises(TestDataAsked):
        _ = fresh.fitted


def test_thresholds_are_fitted_once_for_all_budgets(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    fits, fit = [], type(method).fit
    monkeypatch.setattr(type(method), "fit", lambda self, given: fits.append(given) or fit(self, given))
    fresh = replace(ready, _fitted=[])
    for split in ("validation", "test"):
        method.sweep(fresh, bench, split, method.knobs)
    assert len(fits) == 1


# The released code.


def test_agrees_with_the_released_network(golden):
    """Logits, parameters, and the MACs of every classifier without lazy evaluation, which their counter leaves out."""
    model = made(msdnet(SMALL, inputs=3, classes=10, seed=0))
    x = torch.tensor(np.random.RandomState(1).standard_normal((2, 3, 32, 32)).astype("f"))
    assert torch.allclose(model(x), torch.tensor(golden["logits"]), atol=1e-4)
    for theirs in golden["networks"]:
        layout = Architecture(**theirs["layout"])
        model = msdnet(layout, inputs=3, classes=10, seed=0)
        whole = msdnet(replace(layout, lazy=False), inputs=3, classes=10, seed=0)
        assert sum(p.numel() for p in model.parameters()) == theirs["parameters"]
        assert exit_costs(whole, x[:1]) == theirs["macs"]
        assert exit_costs(model, x[:1])[-1] == theirs["macs"][-1]
        assert all(0 < also / macs - 1 < 0.02 for macs, also in zip(theirs["macs"], theirs["op_counter"], strict=True))


def test_agrees_with_the_released_threshold_search(golden):
    exact = np.array(golden["probabilities"])
    targets = np.array(golden["targets"])
    for case in golden["thresholds"]:
        reached = (exact if case["numbers"] == "exact" else made_tied()).max(axis=-1)
        shares = exit_shares(case["ratio"], 4)
        assert shares == pytest.approx(case["shares"], abs=1e-6)
        found = thresholds_for(reached, shares)
        assert found == pytest.approx([math.inf if t is None else t for t in case["thresholds"]], abs=1e-6)
        exits = np.array([next((k for k in range(3) if r[k] >= found[k]), 3) for r in reached.T])
        assert np.bincount(exits, minlength=4).tolist() == case["counts"]
        right = exact.argmax(axis=-1)[exits, np.arange(60)] == targets
        if case["numbers"] == "exact":
            assert right.mean() == pytest.approx(case["accuracy"], abs=1e-6)


def made_tied():
    """The golden probabilities before rounding, to one decimal: many confidences are equal."""
    rng = np.random.RandomState(5)
    z = rng.standard_normal((4, 60, 5)) * np.array([1, 1.5, 2, 3])[:, None, None]
    p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
    return np.round(p, 1)


@pytest.mark.parametrize(
    ("gain", "holds"), [(0.006, True), (0.049, True), (0.004, False), (0.0, False), (-0.01, False), (0.051, False)]
)
def test_more_computation_must_answer_better_by_half_a_point(gain, holds):
    qualities = iter([0.8, 0.9, 0.8 + gain])
    method = SimpleNamespace(trial=lambda *_: SimpleNamespace(quality=next(qualities)))
    prepared = SimpleNamespace(model=SimpleNamespace(exits=3), split=lambda _: None)
    assert grows(method, prepared).holds is holds
