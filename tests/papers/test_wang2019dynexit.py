"""What only DynExit promises: how its loss weights are made, what moves them, and what they are where they do not."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import wang2019dynexit as tried
from eelit.methods.claims.comparisons import COSTS
from eelit.methods.claims.wang2019dynexit import LateHeavy, better, claims, deeper, settings_of
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.wang2019dynexit import DynExit, SparingAdamW, ratio
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.joint import train_joint

KEY = "wang2019dynexit"


# The weights.


def test_weights_by_hand():
    """Sigmoids of 0 and ln 3 are 1/2 and 3/4."""
    raw = torch.tensor([0.0, torch.tensor(3.0).log().item(), 0.0])
    assert ratio(raw).tolist() == pytest.approx([2 / 7, 3 / 7, 2 / 7])
    assert ratio(torch.tensor([-1.7])).tolist() == [1.0]


def test_weights_lie_between_0_and_1_and_sum_to_1():
    for seed in range(5):
        found = ratio(3 * torch.randn(6, generator=torch.Generator().manual_seed(seed)))
        assert 0 < found.min() < found.max() < 1
        assert float(found.sum()) == pytest.approx(1.0)


def test_weight_moves_from_losses_above_the_weighted_mean_to_those_below():
    raw = torch.tensor([0.3, -0.4, 1.0], dtype=torch.float64, requires_grad=True)
    losses = torch.tensor([2.0, 0.7, 0.1], dtype=torch.float64)
    total = (ratio(raw) * losses).sum()
    total.backward()
    s = raw.detach().sigmoid()
    by_formula = s * (1 - s) * (losses - total.detach()) / s.sum()
    assert raw.grad.tolist() == pytest.approx(by_formula.tolist())
    assert (raw.grad > 0).tolist() == (losses > total).tolist() == [True, False, False]
    for i in range(3):
        step = torch.zeros(3, dtype=torch.float64)
        step[i] = 1e-6
        up, down = ((ratio(raw.detach() + sign * step) * losses).sum() for sign in (1, -1))
        assert float(up - down) / 2e-6 == pytest.approx(float(raw.grad[i]), rel=1e-6)


def test_without_the_sum_below_every_weight_would_shrink():
    """The bare form: with a raw weight of 0 and a loss of 2 the slope is 0.5, and never negative."""
    raw = torch.tensor([0.0, 2.0, -2.0], requires_grad=True)
    (raw.sigmoid() * torch.tensor([2.0, 0.1, 1.0])).sum().backward()
    assert float(raw.grad[0]) == pytest.approx(0.5)
    assert (raw.grad > 0).all()


# The training.


def test_everything_learns_together_with_the_weights(wired):
    method = (
        registry.get(KEY)
        .variant("learned weights", "tiny")
        .replace({"batch": 50, "epochs": 1.5, "rate": 3e-3, "weight_rate": 7e-2})
    )
    model, (stage,) = wired(method)
    raw = model.get_parameter("raw_weights")
    assert raw.tolist() == [0.0] * model.exits
    assert stage.rates == {id(p): 7e-2 if p is raw else 3e-3 for p in model.parameters()}
    others, own = stage.optimiser.param_groups
    assert [id(p) for p in own["params"]] == [id(raw)]
    assert (others["weight_decay"], own["weight_decay"]) == (0.01, 0.0)
    assert (stage.epochs, stage.batch, len(stage.train)) == (1.5, 50, 600)
    images = method.load().train
    assert torch.equal(torch.stack([*stage.train.inputs]), torch.stack([*images.inputs]))
    assert torch.equal(stage.train.targets, images.targets)
    index = torch.arange(20)
    x, y = torch.stack([stage.train.inputs[i] for i in range(20)]), stage.train.targets[:20]
    with torch.no_grad():
        losses = [float(F.cross_entropy(logits, y)) for logits in model(x)]
        for values in ([0.0] * 3, [1.0, -2.0, 0.5]):
            raw.copy_(torch.tensor(values))
            s = [1 / (1 + pow(2.718281828459045, -w)) for w in values]
            by_hand = sum(a * b for a, b in zip(s, losses, strict=True)) / sum(s)
            assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand, rel=1e-5)


def test_raw_weights_do_not_decay_and_all_else_does():
    """One step without a slope: what decays is multiplied by 1 - 0.5 · 0.01."""
    decaying, raw = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    optimiser = SparingAdamW([{"params": [decaying]}, {"params": [raw], "lr": 0.5}], lr=0.5, fused=True)
    for p in (decaying, raw):
        p.grad = torch.zeros(2)
    optimiser.step()
    assert decaying.tolist() == pytest.approx([0.995] * 2)
    assert raw.tolist() == [1.0] * 2


def test_the_bar_of_the_claim_is_within_reach_of_the_raw_weights():
    """AdamW moves a weight by its rate at most, here for a tenth of 376 steps a rising one and then a falling one."""

    def reached(rate):
        apart = torch.tensor([rate * 376 / 2, -rate * 376 / 2]).sigmoid()
        return float(apart[0] / apart[1])

    assert reached(DynExit().rate) < 1.5  # as when the raw weights learned at the network's rate
    assert reached(DynExit().weight_rate) > 2.5


def test_equal_weights_are_joint_training_with_one_over_n(prepared):
    method, _, ready = prepared(KEY, "equal weights")
    short = method.replace({"epochs": 0.5})
    ours, theirs = (short.build(ready.data, 0) for _ in range(2))
    short.train(ours, ready.data, Bench())
    train_joint(theirs, ready.data, Bench(), weights=[1 / 3] * 3, **short.options)
    assert ours.get_parameter("raw_weights").tolist() == [0.0] * 3
    others = dict(theirs.named_parameters())
    assert all(torch.allclose(p, others[name], atol=1e-5) for name, p in ours.named_parameters())


def test_trained_weights_have_moved(prepared):
    _, _, ready = prepared(KEY)
    weights = ratio(ready.model.get_parameter("raw_weights").detach())
    assert float(weights.sum()) == pytest.approx(1.0)
    assert not torch.allclose(weights, torch.full((3,), 1 / 3), atol=0.01)
    _, _, equal = prepared(KEY, "equal weights")
    assert equal.model.get_parameter("raw_weights").tolist() == [0.0] * 3


# The exit rule.


def test_a_threshold_of_zero_stops_nobody_and_one_above_ln_c_everybody(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    assert method.rule(0.3, ready) == Entropy(0.3)
    assert (replay(method.rule(0.0, ready), seen.outputs) == 2).all()
    assert (replay(method.rule(2.31, ready), seen.outputs) == 0).all()


# What is claimed.


def test_rivals_are_the_same_network_with_equal_weights_and_with_late_heavy_ones(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    _, _, equal = prepared(KEY, "equal weights")
    other = replace(bench, trainings={})
    found = better("equal weights", method, ready, method.replace({"learned": False}), other)
    assert found.name == "better than equal weights"
    assert found.measured.endswith(f"over {COSTS} costs")
    assert set(other.trainings) == set(equal.bench.trainings)
    rivals = []
    monkeypatch.setattr(tried, "better", lambda name, ours, there, rival, bench: rivals.append((name, rival)))
    assert len(claims(method, ready, bench, None)) == 3
    plain = method.replace({"learned": False})
    assert rivals == [("equal weights", plain), ("late-heavy weights", LateHeavy(**settings_of(plain)))]
    assert claims(plain, ready, bench, None) == []


def test_late_heavy_weights_are_constant_and_the_last_counts_most(one_stage):
    method = registry.get(KEY).variant("equal weights", "tiny").replace({"batch": 50, "epochs": 1.5, "rate": 3e-3})
    model, stage = one_stage(LateHeavy(**settings_of(method)))
    x, y = torch.stack([stage.train.inputs[i] for i in range(20)]), stage.train.targets[:20]
    with torch.no_grad():
        *early, last = (float(F.cross_entropy(logits, y)) for logits in model(x))
    found = stage.loss(stage.batch_of(torch.arange(20), x)).item()
    assert len(early) == 2
    assert found == pytest.approx((0.3 * sum(early) + last) / 1.6, rel=1e-5)
    assert (stage.epochs, stage.batch, len(stage.train)) == (1.5, 50, 600)
    assert set(stage.rates.values()) == {3e-3}
    assert model.get_parameter("raw_weights").tolist() == [0.0] * 3


@pytest.mark.parametrize(("last", "holds"), [(0.46, True), (0.40, False)])
def test_the_last_exit_must_weigh_half_as_much_again_as_the_first(last, holds):
    """Sigmoids of 0.3, 0.5 and 0.46 or 0.4."""
    raw = torch.tensor([0.3, 0.5, last]).logit()
    found = deeper(SimpleNamespace(model=SimpleNamespace(get_parameter=lambda name: raw)))
    assert found.holds is holds
    assert f"{0.3 / (0.8 + last):.3f}, {0.5 / (0.8 + last):.3f}" in found.measured
