"""What only LeeBERT promises: its invariants, on worked cases; the second derivative against an exact one."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.claims import zhu2021leebert as claimed
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.papers.zhu2021leebert import (
    LeeBert,
    LossWeights,
    endless,
    loss_terms,
    moved,
    slopes_in_weights,
    weighted_loss,
)
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.fit import Batch
from eelit.methods.recipes.joint import exit_losses

KEY = "zhu2021leebert"


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
        weights.a.copy_(torch.randn(exits))
        weights.b.copy_(torch.randn(exits, exits))
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
    entropies, taught = loss_terms(outputs, torch.tensor([0]), 2.0)
    assert entropies.tolist() == pytest.approx([math.log(2), math.log(10 / 9)], rel=1e-5)
    assert float(taught[0, 1]) == pytest.approx(4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)), rel=1e-5)
    assert float(taught[1, 0]) == pytest.approx(4 * (0.5 * math.log(2 / 3) + 0.5 * math.log(2)), rel=1e-5)
    assert taught.diagonal().tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_no_gradient_reaches_a_teacher():
    outputs = torch.randn(3, 6, 2, requires_grad=True)
    _, taught = loss_terms(outputs, torch.zeros(6, dtype=torch.int64), 2.0)
    (slope,) = torch.autograd.grad(taught[0, 2], outputs)
    assert slope[0].abs().sum() > 0
    assert not slope[1:].any()


def test_without_distillation_and_with_equal_weights_it_is_joint_training():
    outputs, y = torch.randn(3, 6, 2), torch.randint(2, (6,))
    loss = weighted_loss(LossWeights(3, later_only=False)(), loss_terms(outputs, y, 2.0), 0.0)
    assert float(loss.detach()) == pytest.approx(float(exit_losses(outputs, y).mean()))


def test_weights_get_no_gradient_without_look_ahead_and_own_share():
    model, weights = small(), uneven()
    x, y, x2, y2 = batches()
    how = {"temperature": 2.0, "strength": 1.0, "look_ahead": 0.0, "own_share": 0.0}
    q = slopes_in_weights(model, weights(), (x, y), (x2, y2), **how)
    weighted_loss(weights(), q, 1.0).backward()
    assert not weights.a.grad.any()
    assert not weights.b.grad.any()


def written_out(z, y, w, u, strength, temperature):
    """The loss L as it stands in the docstring, term by term; row m is the pupil, column k the teacher."""
    p = (z / temperature).softmax(dim=-1)
    found = 0
    for m in range(len(z)):
        found += w[m] * -(z[m].log_softmax(dim=-1)[torch.arange(len(y)), y]).mean()
        for k in range(len(z)):
            teacher = p[k].detach()
            taught = (teacher * (teacher / p[m]).log()).sum(dim=-1).mean() * temperature**2
            found += strength * u[m, k] * taught
    return found


def exact(model, weights, first, second, *, temperature, strength, look_ahead, own_share):
    """The gradient in a and b of ``V(theta') + rho L(theta; D1)``, by back-propagation through the step itself."""
    (x, y), (x2, y2) = first, second
    names, theta = zip(*((n, p) for n, p in model.named_parameters() if not n.startswith("weights.")), strict=True)
    own = written_out(model(x), y, *weights(), strength, temperature)
    down = torch.autograd.grad(own, theta, create_graph=True)
    ahead = {name: p - look_ahead * d for name, p, d in zip(names, theta, down, strict=True)}
    z = torch.func.functional_call(model, ahead, (x2,))
    upper = torch.stack([nn.functional.cross_entropy(each, y2) for each in z]).mean()
    return torch.autograd.grad(upper + own_share * own, [weights.a, weights.b])


HOW = {"temperature": 2.0, "strength": 0.7, "look_ahead": 0.05, "own_share": 0.3}


@pytest.mark.parametrize("changed", [{}, {"own_share": 0.0}, {"look_ahead": 0.5}, {"temperature": 1.0}])
@pytest.mark.parametrize("later_only", [False, True])
@pytest.mark.usefixtures("double")
def test_gradient_of_weights_is_the_exact_one_through_the_look_ahead(later_only, changed):
    """Finite differences against back-propagation through the step itself; teachers have no gradient in either."""
    model, weights, how = small(), uneven(later_only=later_only), {**HOW, **changed}
    x, y, x2, y2 = batches()
    q = slopes_in_weights(model, weights.fixed(), (x, y), (x2, y2), **how)
    weighted_loss(weights(), q, how["strength"]).backward()
    to_a, to_b = exact(model, weights, (x, y), (x2, y2), **how)
    assert torch.allclose(weights.a.grad, to_a, rtol=1e-3, atol=1e-8)
    assert torch.allclose(weights.b.grad, to_b, rtol=1e-3, atol=1e-8)
    assert to_a.abs().max() > 1e-4
    assert to_b.abs().max() > 1e-5


def test_a_term_that_helps_on_the_other_half_deserves_its_weight():
    """What cross-entropy teaches on D1 is right on the same sentences, and wrong where all labels are the other one."""
    model, weights = small(2), LossWeights(2, later_only=False).fixed()
    x, y, _, _ = batches()
    how = {"temperature": 2.0, "strength": 1.0, "look_ahead": 0.1, "own_share": 0.0}
    helping, _ = slopes_in_weights(model, weights, (x, y), (x, y), **how)
    harming, _ = slopes_in_weights(model, weights, (x, y), (x, 1 - y), **how)
    assert (helping < 0).all()
    assert (harming > 0).all()


def test_parameters_are_put_back_exactly():
    model = small()
    before = [p.detach().clone() for p in model.parameters()]
    with moved(list(model.parameters()), [torch.randn_like(p) for p in model.parameters()], 0.123):
        assert not any(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))
    assert all(torch.equal(p, b) for p, b in zip(model.parameters(), before, strict=True))


@pytest.fixture
def lee(monkeypatch, double, one_stage):
    """Return a function: settings → network of three exits, its training, D1 and D2; 21 samples of two classes."""
    torch.manual_seed(2)
    train = Examples(list(torch.randn(21, 4)), torch.randint(2, (21,)))
    nothing = Examples([], torch.zeros(0, dtype=torch.int64))

    def build(self, data, seed):
        model = small()
        model.add_module("weights", uneven(later_only=self.later_only))
        return model

    def of(**settings):
        monkeypatch.setattr(LeeBert, "load", lambda self: Data(train, nothing, nothing, 2, "made"))
        monkeypatch.setattr(LeeBert, "build", build)
        model, stage = one_stage(LeeBert(batch=4, **settings))
        halves = [Examples(train.inputs[a:b], train.targets[a:b]) for a, b in ((0, 10), (10, 21))]
        return model, stage, *halves

    return of


def rounds(stage, d2, steps):
    """Yield each step's loss function's batch from D1, and the one of D2 that goes with it."""
    first, second = endless(stage.train, 4, 7), endless(d2, 4, 0)
    for step in range(steps):
        (x, y), other = next(first), next(second)
        yield Batch(torch.arange(len(y)), x, y, step, step / stage.steps), (x, y), other


@pytest.mark.parametrize("later_only", [False, True])
@pytest.mark.parametrize(
    "changed", [{}, {"strength": 0.0}, {"temperature": 1.0}, {"own_share": 0.5}, {"look_ahead": 0.3}]
)
def test_a_round_moves_the_weights_down_their_gradient_and_then_weighs_both_halves(lee, later_only, changed):
    """Through the loss that `fit` is given: which half is which, signs, every setting, teachers and pupils."""
    how = {**HOW, **changed}
    model, stage, d1, d2 = lee(later_only=later_only, weight_rate=0.02, every=1, **how)
    assert len(stage.train) == 10
    assert torch.equal(stage.train.targets, d1.targets)
    weights, theta = model.weights, [p for name, p in model.named_parameters() if not name.startswith("weights.")]
    before = [p.detach().clone() for p in theta]
    for batch, first, second in rounds(stage, d2, 1):
        gradients = exact(model, weights, first, second, **how)
        start = [p.detach().clone() for p in (weights.a, weights.b)]
        loss = stage.loss(batch)
        for p, was, wanted in zip((weights.a, weights.b), start, gradients, strict=True):
            assert torch.allclose(p.grad, wanted, rtol=1e-3, atol=1e-8)
            assert torch.allclose(p.detach(), was - 0.02 * wanted.sign(), atol=1e-4)  # as Adam's first step goes
        w, u = weights.fixed()
        both = [written_out(model(x), y, w, u, how["strength"], how["temperature"]) for x, y in (first, second)]
        assert loss.item() == pytest.approx((sum(both) / 2).item(), rel=1e-6)
        found, wanted = torch.autograd.grad(loss, theta), torch.autograd.grad(sum(both) / 2, theta)
        assert all(torch.allclose(a, b, atol=1e-9) for a, b in zip(found, wanted, strict=True))
    assert all(torch.equal(p, was) for p, was in zip(theta, before, strict=True))
    assert model.training


def test_weights_move_every_few_rounds_by_adam_or_never(lee):
    model, stage, _, d2 = lee(every=3, weight_rate=0.02, own_share=0.3)
    moves, previous = [], model.weights.a.detach().clone()
    for batch, _, _ in rounds(stage, d2, 7):
        stage.loss(batch)
        moves.append(not torch.equal(model.weights.a, previous))
        previous = model.weights.a.detach().clone()
    assert moves == [True, False, False, True, False, False, True]
    model, stage, _, d2 = lee(weight_rate=0.0)
    before = [p.detach().clone() for p in model.weights.parameters()]
    for batch, _, _ in rounds(stage, d2, 5):
        stage.loss(batch)
    assert all(torch.equal(p, was) for p, was in zip(model.weights.parameters(), before, strict=True))


def test_weights_look_ahead_without_dropout_and_the_model_learns_with_it(lee, monkeypatch):
    model, stage, _, d2 = lee(every=1)
    seen = []
    monkeypatch.setattr(model, "forward", lambda x: seen.append(model.training) or MultiExit.forward(model, x))
    model.train()
    for batch, _, _ in rounds(stage, d2, 1):
        stage.loss(batch)
    assert seen == [False] * 4 + [True] * 2


@pytest.mark.parametrize("variant", ["LAE", "LLE"])
def test_model_learns_at_its_rates_from_the_first_half_and_the_weights_apart(one_stage, variant):
    method = registry.get(KEY).variant(variant, "tiny")
    model, stage = one_stage(method)
    heads = {id(p) for p in model.heads.parameters()}
    rates = {id(p): 2e-2 if id(p) in heads else 5e-3 for p in [*model.stages.parameters(), *model.heads.parameters()]}
    assert stage.rates == rates
    known = method.load().train
    assert torch.equal(stage.train.targets, known.targets[:450])
    assert all(map(torch.equal, stage.train.inputs, known.inputs[:450]))
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)
    assert not model.training  # when it is used
    teachers = torch.ones(4, 4, dtype=torch.bool)
    assert torch.equal(model.weights.allowed, teachers.triu(1) if variant == "LLE" else ~torch.eye(4, dtype=torch.bool))


def test_endless_begins_again_in_another_order(prepared):
    _, _, ready = prepared(KEY)
    source = endless(ready.data.train.head(20), 8, seed=0)
    first, second = (torch.cat([next(source)[0] for _ in range(3)]) for _ in range(2))
    inputs = sorted(x.tolist() for x in ready.data.train.inputs[:20])
    assert sorted(first.tolist()) == sorted(second.tolist()) == inputs
    assert not torch.equal(first, second)


def test_learned_weights_are_kept_with_the_model(prepared):
    _, _, ready = prepared(KEY)
    exits, pairs = ready.model.weights()
    assert exits.max() - exits.min() > 0.01
    assert pairs.shape == (4, 4)


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
        "eelit.methods.claims.zhu2021leebert.points_of", lambda method, *_: said.get(method, made(ours))
    )
    curve = SimpleNamespace()
    found = claimed.claims(LeeBert(), ready, bench, curve)
    assert asked == [Pabee(), LeeBert(weight_rate=0.0)]  # as in their own rows, so that the cache serves both
    assert {o.name for o in found if o.holds} - {"later teachers count more"} == held
    assert len(found) == 4
    assert [o.name for o in claimed.claims(LeeBert(later_only=True), ready, bench, curve)] == ["better than PABEE"]
