"""What only LeeBERT promises: its invariants, on worked cases; the second derivative against an exact one."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.papers.zhu2021leebert import LeeBert
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes import cross_level
from eelit.methods.recipes.cross_level import LossWeights, endless, shifted, terms, train_cross_level, weighed, worth
from eelit.methods.recipes.joint import exit_losses

KEY = "zhu2021leebert"
HOW = {"strength": 0.7, "temperature": 2.0, "look_ahead": 0.01, "own_share": 0.1, "weight_rate": 0.05, "every": 1}


@pytest.fixture
def double():
    """Numbers of 64 bits, so that finite differences can be held against exact derivatives."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def small(exits=3):
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(4, 4), nn.Tanh()) for _ in range(exits)]
    return MultiExit(stages, [nn.Linear(4, 2) for _ in range(exits)])


def uneven(exits=3, *, later_only=False):
    weights = LossWeights(exits, later_only=later_only)
    with torch.no_grad():
        weights.exits.copy_(torch.randn(exits))
        weights.pairs.copy_(torch.randn(exits, exits))
    return weights


def batches():
    torch.manual_seed(1)
    return torch.randn(8, 4), torch.randint(2, (8,)), torch.randn(8, 4), torch.randint(2, (8,))


@pytest.mark.parametrize("later_only", [False, True])
def test_weights_are_positive_and_each_kind_sums_to_one(later_only):
    exits, pairs = uneven(4, later_only=later_only).fixed()
    assert (exits > 0).all()
    assert float(exits.sum()) == pytest.approx(1.0)
    assert float(pairs.sum()) == pytest.approx(1.0)
    teaches = np.triu(np.ones((4, 4)), 1) if later_only else 1 - np.eye(4)
    assert ((pairs > 0).numpy() == teaches.astype(bool)).all()


def test_weights_begin_equal():
    exits, pairs = LossWeights(4, later_only=False)()
    assert exits.tolist() == pytest.approx([0.25] * 4)
    assert pairs[~torch.eye(4, dtype=torch.bool)].tolist() == pytest.approx([1 / 12] * 12)
    _, pairs = LossWeights(4, later_only=True)()
    assert pairs[0, 1:].tolist() == pytest.approx([1 / 6] * 3)


def test_row_is_the_pupil_and_column_the_teacher():
    """Teacher (3/4, 1/4) at T = 2, pupil (1/2, 1/2): 4 (3/4 ln 3/2 + 1/4 ln 1/2)."""
    outputs = torch.tensor([[[5.0, 5.0]], [[2 * math.log(3), 0.0]]])
    entropies, taught = terms(outputs, torch.tensor([0]), 2.0)
    assert entropies.tolist() == pytest.approx([math.log(2), math.log(10 / 9)], rel=1e-5)
    assert float(taught[0, 1]) == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-5)
    assert float(taught[1, 0]) == pytest.approx(4 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)), rel=1e-5)
    assert taught.diagonal().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_no_gradient_reaches_a_teacher():
    outputs = torch.randn(3, 6, 2, requires_grad=True)
    _, taught = terms(outputs, torch.zeros(6, dtype=torch.int64), 2.0)
    (slope,) = torch.autograd.grad(taught[0, 2], outputs)
    assert slope[0].abs().sum() > 0
    assert not slope[1:].any()


def test_without_distillation_and_with_equal_weights_it_is_joint_training():
    outputs, y = torch.randn(3, 6, 2), torch.randint(2, (6,))
    loss = weighed(LossWeights(3, later_only=False)(), terms(outputs, y, 2.0), 0.0)
    assert float(loss.detach()) == pytest.approx(float(exit_losses(outputs, y).mean()))


def test_weights_get_no_gradient_without_look_ahead_and_own_share():
    model, weights = small(), uneven()
    x, y, x2, y2 = batches()
    now = worth(
        list(model.parameters()),
        lambda: model(x),
        lambda pupils, teachers: terms(pupils, y, 2.0, teachers),
        lambda: exit_losses(model(x2), y2).mean(),
        weights(),
        strength=1.0,
        step=0.0,
        share=0.0,
    )
    weighed(weights(), now, 1.0).backward()
    assert not weights.exits.grad.any()
    assert not weights.pairs.grad.any()


@pytest.mark.parametrize("share", [0.0, 0.3])
@pytest.mark.usefixtures("double")
def test_gradient_of_weights_is_the_exact_one_through_the_look_ahead(share):
    """Finite differences against back-propagation through the step itself; teachers have no gradient in either."""
    model, weights, step, strength = small(), uneven(), 0.05, 0.7
    x, y, x2, y2 = batches()
    names, parameters = zip(*model.named_parameters(), strict=True)
    here = weighed(weights(), terms(model(x), y, 2.0), strength)
    down = torch.autograd.grad(here, parameters, create_graph=True)
    ahead = {name: p - step * d for name, p, d in zip(names, parameters, down, strict=True)}
    upper = exit_losses(torch.func.functional_call(model, ahead, (x2,)), y2).mean()
    exact = torch.autograd.grad(upper + share * here, [weights.exits, weights.pairs])
    now = worth(
        parameters,
        lambda: model(x),
        lambda pupils, teachers: terms(pupils, y, 2.0, teachers),
        lambda: exit_losses(model(x2), y2).mean(),
        weights.fixed(),
        strength=strength,
        step=step,
        share=share,
    )
    weighed(weights(), now, strength).backward()
    assert torch.allclose(weights.exits.grad, exact[0], rtol=1e-3, atol=1e-8)
    assert torch.allclose(weights.pairs.grad, exact[1], rtol=1e-3, atol=1e-8)
    assert exact[0].abs().max() > 1e-4


def test_a_term_that_helps_on_the_other_half_deserves_its_weight():
    """One exit's labels on D1 are wrong: what it learns there harms D2."""
    model = small(2)
    x, y, _, _ = batches()
    wrong = torch.stack([y, 1 - y])

    def judge(pupils, _):
        each = [nn.functional.cross_entropy(out, labels) for out, labels in zip(pupils, wrong, strict=True)]
        return torch.stack(each), torch.zeros(2, 2)

    weights = LossWeights(2, later_only=False)
    now = worth(
        list(model.parameters()), lambda: model(x), judge, lambda: exit_losses(model(x), y).mean(), weights(),
        strength=1.0, step=0.1, share=0.0,
    )  # fmt: skip
    assert now[0][0] < now[0][1]


def test_parameters_are_put_back_exactly():
    model = small()
    before = [p.detach().clone() for p in model.parameters()]
    with shifted(list(model.parameters()), [torch.randn_like(p) for p in model.parameters()], 0.123):
        assert not any(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


def run(ready, method, **changed):
    """Train a fresh model on 64 samples, 32 in either half, for one pass of four rounds; return it."""
    few = dataclasses.replace(ready.data, train=ready.data.train.head(64))
    model = method.build(few, seed=0)
    options = {"batch": 8, "epochs": 1.0, "rate": 1e-3, "head_rate": 1e-2}
    train_cross_level(model, model.weights, few, Bench(), **options, **{**HOW, **changed})
    return model


def test_model_learns_from_both_halves_and_weights_move(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    seen = []
    real = cross_level.terms

    def spied(outputs, targets, *rest):
        seen.append(targets)
        return real(outputs, targets, *rest)

    monkeypatch.setattr(cross_level, "terms", spied)
    model = run(ready, method, weight_rate=0.0)
    halves = ready.data.train.targets[:64].split(32)
    assert torch.equal(torch.cat(seen[::2]).sort()[0], halves[0].sort()[0])
    assert torch.equal(torch.cat(seen[1::2]).sort()[0], halves[1].sort()[0])
    assert not model.weights.exits.any()
    seen.clear()
    moved = run(ready, method).weights
    assert len(seen) == 4 * 5  # of each round, one with and two without gradient for the weights, two for the model
    assert moved.exits.abs().max() > 0.01
    assert moved.pairs[moved.allowed].abs().max() > 0.01
    assert not moved.pairs[~moved.allowed].any()


def test_model_does_not_depend_on_how_the_weights_look_ahead_if_they_may_not_move(prepared):
    """Looking ahead leaves no trace in the model: with a tiny weight rate it ends where equal weights end."""
    method, _, ready = prepared(KEY)
    still, moving = run(ready, method, weight_rate=0.0), run(ready, method, weight_rate=1e-12)
    for a, b in zip(still.stages.parameters(), moving.stages.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_weights_may_move_in_some_rounds_only(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    asked = []
    real = cross_level.worth
    monkeypatch.setattr(cross_level, "worth", lambda *args, **how: asked.append(1) or real(*args, **how))
    run(ready, method, every=3)
    assert len(asked) == 2  # rounds 0 and 3 of four


def test_endless_begins_again_in_another_order(prepared):
    _, _, ready = prepared(KEY)
    source = endless(ready.data.train.head(20), 8, seed=0)
    first, second = (torch.cat([next(source)[1] for _ in range(3)]) for _ in range(2))
    inputs = sorted(x.tolist() for x in ready.data.train.inputs[:20])
    assert sorted(first.tolist()) == sorted(second.tolist()) == inputs
    assert not torch.equal(first, second)


def test_learned_weights_are_kept_with_the_model(prepared):
    method, _, ready = prepared(KEY)
    exits, pairs = ready.model.weights()
    assert exits.max() - exits.min() > 0.01
    assert pairs.shape == (4, 4)
    later = method.replace({"later_only": True}).build(ready.data, seed=0).weights
    assert torch.equal(later.allowed, torch.ones(4, 4).triu(1).bool())


def test_patience_of_all_exits_is_the_full_model(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    for patience in (3, 4):
        found = infer(ready.model, x, method.policy(patience, ready))
        with torch.inference_mode():
            assert torch.equal(found.outputs, ready.model.full(x))


def test_patience_counts_as_pabee_does():
    labels = np.eye(2)[np.array([[0, 1, 0], [1, 1, 0], [1, 0, 1], [1, 0, 1], [0, 0, 1]])]
    assert replay(Patience(1), labels).tolist() == [2, 1, 1]
    assert replay(Patience(2), labels).tolist() == [3, 4, 4]


# What is claimed.


@pytest.mark.parametrize(
    ("plain", "equal", "ours", "held"),
    [
        (0.80, 0.806, 0.812, {"better than PABEE", "better than equal weights", "learning from each other helps"}),
        (0.80, 0.804, 0.806, {"better than PABEE"}),
        (0.80, 0.806, 0.804, {"learning from each other helps"}),
    ],
)
def test_each_comparison_needs_half_a_point(prepared, made, monkeypatch, plain, equal, ours, held):
    """PABEE, equal weights and learned weights are said to reach these; only learned ones have been trained before."""
    _, bench, ready = prepared(KEY)
    asked = []
    for kind in (Pabee, LeeBert):
        monkeypatch.setattr(kind, "prepare", lambda self, bench: asked.append(self))
    said = {Pabee(): made(plain), LeeBert(weight_rate=0.0): made(equal)}
    monkeypatch.setattr(
        "eelit.methods.papers.zhu2021leebert.points_of", lambda method, *_: said.get(method, made(ours))
    )
    curve = SimpleNamespace()
    found = LeeBert().claims(ready, bench, curve)
    assert asked == [Pabee(), LeeBert(weight_rate=0.0)]  # as in their own rows, so that the cache serves both
    assert {o.name for o in found if o.holds} - {"later teachers count more"} == held
    assert len(found) == 4
    assert [o.name for o in LeeBert(later_only=True).claims(ready, bench, curve)] == ["better than PABEE"]
