"""What only RomeBERT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.encoder import encoder
from eelit.methods.claims import geng2021romebert as claimed
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry
from eelit.methods.papers import geng2021romebert as paper
from eelit.methods.papers.geng2021romebert import (
    RomeBert,
    distillation_losses,
    projection_coefficient,
    shared_matrices,
    with_projected_gradient,
)
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.joint import exit_losses

KEY = "geng2021romebert"
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.dense, self.LayerNorm = nn.Linear(3, 3), nn.LayerNorm(3)

    def forward(self, x):
        return torch.tanh(self.LayerNorm(self.dense(x)))


class Stage(nn.Module):
    def __init__(self, embed=None):
        super().__init__()
        self.embed, self.layer = embed, Layer()

    def forward(self, x):
        return self.layer(x if self.embed is None else self.embed(x))


def small():
    """Three layers of width 3, a linear layer before them, two classes."""
    torch.manual_seed(0)
    return MultiExit([Stage(nn.Linear(3, 3)), Stage(), Stage()], [nn.Linear(3, 2) for _ in range(3)])


def step(model, x, y, leads):
    """Return the name and gradient of every parameter after one projected step, and whether there was a conflict."""
    early, last = distillation_losses(model(x), y, gamma=0.9, temperature=3.0)
    pair = (early, last) if leads == "early" else (last, early)
    model.zero_grad()
    stand_in, conflict = with_projected_gradient(*pair, list(model.parameters()), shared_matrices(model))
    stand_in.backward()
    return {name: p.grad for name, p in model.named_parameters()}, conflict


def conflicting(leads="early"):
    """Return a model and a batch whose gradients conflict."""
    model = small()
    for seed in range(100):
        torch.manual_seed(seed)
        x, y = torch.randn(5, 3), torch.randint(2, (5,))
        if step(model, x, y, leads)[1]:
            return model, x, y
    raise AssertionError("no conflict")


def test_worked_case_by_hand():
    """A = (1, 0), B = (-2, 1): B becomes (0, 1)."""
    a, b = [torch.tensor([1.0]), torch.tensor([0.0])], [torch.tensor([-2.0]), torch.tensor([1.0])]
    off = projection_coefficient(a, b)
    assert off == -2.0
    assert [float(v - off * u) for u, v in zip(a, b, strict=True)] == [0.0, 1.0]


def test_nothing_is_taken_off_without_a_conflict():
    assert projection_coefficient([torch.tensor([1.0, 1.0])], [torch.tensor([1.0, -1.0])]) == 0.0  # a right angle
    assert projection_coefficient([torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.5])]) == 0.0
    assert projection_coefficient([torch.zeros(2)], [torch.tensor([2.0, 0.5])]) == 0.0


def test_projection_is_of_one_long_vector_not_of_each_matrix():
    """Apart, the first pair conflicts (-1); together they do not (-1 + 2)."""
    a, b = [torch.tensor([1.0]), torch.tensor([1.0])], [torch.tensor([-1.0]), torch.tensor([2.0])]
    assert projection_coefficient(a, b) == 0.0


@pytest.mark.parametrize("leads", ["early", "last"])
def test_after_projection_the_other_no_longer_points_against_the_leader(leads):
    model, x, y = conflicting(leads)
    shared = shared_matrices(model)
    early, last = distillation_losses(model(x), y, gamma=0.9, temperature=3.0)
    leading = early if leads == "early" else last
    a = torch.cat([g.flatten() for g in torch.autograd.grad(leading, shared, retain_graph=True)])
    found, conflict = step(model, x, y, leads)
    names = {id(p): name for name, p in model.named_parameters()}
    total = torch.cat([found[names[id(p)]].flatten() for p in shared])
    assert conflict
    assert float(a @ (total - a)) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("leads", ["early", "last"])
def test_outside_the_shared_matrices_gradients_are_the_plain_sum(leads):
    model, x, y = conflicting(leads)
    found, _ = step(model, x, y, leads)
    early, last = distillation_losses(model(x), y, gamma=0.9, temperature=3.0)
    model.zero_grad()
    (early + last).backward()
    kept = {id(p) for p in shared_matrices(model)}
    for name, p in model.named_parameters():
        assert torch.allclose(found[name], p.grad, atol=1e-7) == (id(p) not in kept), name


def test_shared_matrices_are_weights_of_all_layers_but_the_last(prepared):
    _, _, ready = prepared(KEY)
    chosen = {id(p) for p in shared_matrices(ready.model)}
    names = {name for name, p in ready.model.named_parameters() if id(p) in chosen}
    assert len(names) == 3 * 6  # query, key, value, attention output, and the two of the feed-forward part
    assert not any(word in name for name in names for word in ("LayerNorm", "bias", "heads", "embed", "stages.3"))


def test_no_gradient_reaches_the_teacher():
    outputs = torch.randn(4, 6, 3, requires_grad=True)
    early, last = distillation_losses(outputs, torch.randint(3, (6,)), gamma=1.0, temperature=3.0)
    (slope,) = torch.autograd.grad(early, outputs, retain_graph=True)
    assert not slope[-1].any()
    assert slope[:-1].abs().sum() > 0
    (slope,) = torch.autograd.grad(last, outputs)
    assert not slope[:-1].any()


def test_divergence_by_hand():
    """Teacher (3/4, 1/4), pupil (1/2, 1/2) at T = 2: 4 (3/4 ln 3/2 + 1/4 ln 1/2)."""
    teacher, pupil = torch.tensor([[2 * math.log(3), 0.0]]), torch.tensor([[5.0, 5.0]])
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert float(divergence(pupil, teacher, 2.0)) == pytest.approx(expected, rel=1e-5)
    assert float(divergence(teacher, teacher, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_gamma_zero_is_joint_training_and_gamma_one_takes_labels_from_early_exits():
    outputs, y = torch.randn(4, 6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    early, last = distillation_losses(outputs, y, gamma=0.0, temperature=3.0)
    assert float(early + last) == pytest.approx(float(exit_losses(outputs, y).sum()))
    one, other = (distillation_losses(outputs, labels, gamma=1.0, temperature=3.0) for labels in (y, (y + 1) % 3))
    assert torch.equal(one[0], other[0])
    assert not torch.equal(one[1], other[1])


def test_thresholds_at_both_ends(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    found = infer(ready.model, x, method.policy(0.0, ready))
    with torch.inference_mode():
        assert torch.equal(found.outputs, ready.model.full(x))
    assert (found.exits == ready.model.exits - 1).all()
    assert (infer(ready.model, x, method.policy(math.log(10) + 1e-3, ready)).exits == 0).all()


def test_training_logs_how_often_gradients_conflict(prepared):
    method, _, ready = prepared(KEY)
    assert 0.02 < float(ready.model.conflicts) < 1
    plain = method.replace({"leads": None, "epochs": 0.1})
    assert float(plain.prepare(Bench()).model.conflicts) == 0.0


# What is trained, on what, at which rate.


def by_formula(z, y, gamma, t):
    """L_early and L_last written out; the teacher's answers are numbers here, so that no gradient reaches them."""
    teacher = torch.softmax(torch.tensor(z[-1].tolist()) / t, dim=1)
    early = 0.0
    for logits in z[:-1]:
        pupil = torch.softmax(logits / t, dim=1)
        kl = (teacher * torch.log(teacher / pupil)).sum(dim=1).mean()
        early = early + (1 - gamma) * F.cross_entropy(logits, y) + gamma * t * t * kl
    return early, F.cross_entropy(z[-1], y)


def settings(**changes):
    return registry.get(KEY).variant("SD only", "tiny").replace({"gamma": 0.7, "temperature": 2.0, **changes})


FIXED = torch.tensor([[[2.0, 0.0], [0.0, 0.5]], [[0.0, 1.0], [1.0, 3.0]], [[4.0, 0.0], [0.0, 6.0]]])


def test_loss_on_fixed_logits_has_the_last_exit_for_its_teacher(wired):
    """By hand for exit 1; with teacher and pupil swapped it would be another."""
    model, (stage,) = wired(settings())
    z, y = FIXED.clone().requires_grad_(), torch.tensor([0, 1])
    model.forward = lambda x: z
    found = stage.loss(SimpleNamespace(inputs=None, targets=y))
    early, last = by_formula(z, y, gamma=0.7, t=2.0)
    assert found.item() == pytest.approx((early + last).item(), rel=1e-5)
    p, q = torch.softmax(FIXED / 2, dim=-1), torch.log_softmax(FIXED / 2, dim=-1)
    swapped = sum((p[i] * (q[i] - q[-1])).sum(dim=1).mean().item() for i in range(2))
    right = sum((p[-1] * (q[-1] - q[i])).sum(dim=1).mean().item() for i in range(2))
    assert abs(swapped - right) > 0.1
    labels = sum(0.3 * F.cross_entropy(FIXED[i], y).item() for i in range(2)) + F.cross_entropy(FIXED[-1], y).item()
    assert found.item() == pytest.approx(labels + 0.7 * 4 * right, rel=1e-5)
    (slope,) = torch.autograd.grad(found, z)
    alone = torch.softmax(FIXED[-1], dim=1) - torch.eye(2)  # of L_last by itself: pupils do not pull at their teacher
    assert torch.allclose(slope[-1], alone / 2, atol=1e-6)
    assert slope[0].abs().sum() > 0


def test_loss_of_the_network_is_that_of_its_exits(wired):
    model, (stage,) = wired(settings())
    x, y = torch.stack(stage.train.inputs[5:25]), stage.train.targets[5:25]
    with torch.no_grad():
        early, last = by_formula([head(s) for head, s in zip(model.heads, model.states(x), strict=True)], y, 0.7, 2.0)
    assert stage.loss(stage.batch_of(torch.arange(5, 25), x)).item() == pytest.approx(float(early + last), rel=1e-5)


def regularised(model, x, y, leads):
    """The gradient of every parameter by the formula, and <A, B>."""
    named = dict(model.named_parameters())
    pair = by_formula(model(x), y, 0.7, 2.0)
    a, b = (torch.autograd.grad(loss, named.values(), retain_graph=True, allow_unused=True) for loss in pair)
    a, b = (
        {name: torch.zeros_like(p) if g is None else g for (name, p), g in zip(named.items(), grads, strict=True)}
        for grads in ((a, b) if leads == "early" else (b, a))
    )
    kept = [n for n, p in named.items() if n.startswith(("stages.0.layer", "stages.1.layer", "stages.2.layer"))]
    kept = [name for name in kept if named[name].dim() == 2]
    dot, norm = sum((a[n] * b[n]).sum() for n in kept), sum((a[n] ** 2).sum() for n in kept)
    total = {name: a[name] + b[name] for name in named}
    if dot < 0:
        total.update({name: total[name] - dot / norm * a[name] for name in kept})
    return total, float(dot)


@pytest.mark.parametrize("leads", ["early", "last"])
def test_a_step_follows_the_regularised_gradient(wired, leads):
    """Some batches conflict and some do not."""
    model, (stage,) = wired(settings(leads=leads))
    for head in model.heads:
        head.classifier.weight.data *= 8  # answers far enough from even for distillation to pull
    conflicted = []
    for start in range(0, 90, 6):
        index = torch.arange(start, start + 6)
        x, y = torch.stack(stage.train.inputs[start : start + 6]), stage.train.targets[index]
        expected, dot = regularised(model, x, y, leads)
        model.zero_grad()
        stage.loss(stage.batch_of(index, x)).backward()
        conflicted.append(dot < 0)
        for name, p in model.named_parameters():
            assert torch.allclose(p.grad, expected[name], atol=1e-5, rtol=1e-3), name
    assert 0 < sum(conflicted) < len(conflicted)


@pytest.mark.parametrize("leads", ["early", "last", None])
def test_one_stage_trains_everything_on_all_training_data(wired, leads):
    method = settings(leads=leads, batch=20, epochs=1.5, rate=2e-3, head_rate=1e-2)
    model, (stage,) = wired(method)
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {id(p): 1e-2 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, round(1.5 * 900 / 20))
    assert torch.equal(stage.train.targets, method.load().train.targets)
    assert {name.partition(".")[0] for name in stage.learning} == {"stages", "heads"}


def test_heads_have_poolers_of_their_own_that_start_alike(wired):
    model, _ = wired(settings())
    poolers = [head.pooler for head in model.heads]
    assert len({id(pooler) for pooler in poolers}) == 4
    assert all(torch.equal(pooler.weight, poolers[0].weight) for pooler in poolers)


def test_poolers_start_as_the_pretrained_one(wired):
    model, _ = wired(settings())
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    for head in model.heads:
        assert torch.equal(head.pooler.weight, pretrained.weight)
        assert torch.equal(head.pooler.bias, pretrained.bias)


def test_the_share_of_conflicts_is_that_of_the_steps(monkeypatch):
    flags = iter([True, False, True, False, False])
    monkeypatch.setattr(paper, "with_projected_gradient", lambda a, b, *_: (a + b, next(flags)))
    method = settings(leads="early")
    model = method.build(data := method.load().without_test(), seed=0).train()
    method.train(model, data, Bench(most_steps=5))
    assert float(model.conflicts) == pytest.approx(0.4)
    assert not any(module.training for module in model.modules())


def test_another_word_for_who_leads_is_refused():
    with pytest.raises(KeyError):
        settings(leads="nobody").prepare(Bench(most_steps=1))


def test_losses_and_entropies_agree_with_the_released_code():
    """The released KL is also a mean over the three classes, ours a sum (see `provenance` in the file)."""
    outputs, y, known = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["labels"]), GOLDEN["loss"]
    labels_only, last = distillation_losses(outputs, y, gamma=0.0, temperature=3.0)
    both, _ = distillation_losses(outputs, y, gamma=0.9, temperature=3.0)
    assert float(last) == pytest.approx(known["last"], rel=1e-5)
    assert 0.1 * float(labels_only) == pytest.approx(known["labels"], rel=1e-5)
    assert float(both - 0.1 * labels_only) / 3 == pytest.approx(known["distilled"], rel=1e-5)
    assert np.allclose(entropy(outputs).numpy(), GOLDEN["entropies"], atol=2e-6)
    assert replay(Entropy(0.4), outputs).tolist() == replay(Entropy(0.4), outputs.numpy()).tolist()


@pytest.mark.parametrize("case", GOLDEN["steps"], ids=lambda case: f"{case['leads']}-{case['conflict']}")
def test_projected_gradients_agree_with_the_released_code(case):
    """Both roles, with and without conflict, on the same weights and batch, with the released mean over two classes."""
    model = small()
    names = {}
    for name, p in model.named_parameters():
        layer = {"0": "0", "1": "1", "2": "11"}.get(name.split(".")[1], "")
        theirs = name if name.startswith("heads") else f"encoder.layer.{layer}." + ".".join(name.split(".")[3:])
        names[name] = "embed." + name.split(".")[-1] if "embed" in name else theirs
        shape, values = case["weights"][names[name]]
        p.data = torch.tensor(values).reshape(shape)
    outputs, y = model(torch.tensor(case["x"])), torch.tensor(case["y"])
    losses = exit_losses(outputs, y)
    early = (0.1 * losses[:-1] + 0.9 * divergence(outputs[:-1], outputs[-1], 3.0) / 2).sum()
    pair = (early, losses[-1]) if case["leads"] == "early" else (losses[-1], early)
    stand_in, conflict = with_projected_gradient(*pair, list(model.parameters()), shared_matrices(model))
    stand_in.backward()
    assert conflict == case["conflict"]
    for name, p in model.named_parameters():
        assert np.allclose(p.grad.flatten().numpy(), case["gradients"][names[name]], atol=2e-6), name


def test_cross_entropy_of_exits_is_torchs():
    outputs, y = torch.randn(2, 4, 3), torch.tensor([0, 1, 2, 0])
    assert float(distillation_losses(outputs, y, gamma=0.5, temperature=1.0)[1]) == pytest.approx(
        float(F.cross_entropy(outputs[-1], y))
    )


# What is claimed.


@pytest.mark.parametrize(
    ("staged", "plain", "held"),
    [
        ([0.006, 0.006, -0.009], [0.006, 0.004], {"one stage makes all exits strong", "regularisation helps"}),
        ([0.004, 0.004, 0.1], [0.004, 0.004], set()),
        ([0.1, 0.1, -0.011], [0.02, -0.004], {"regularisation helps"}),
    ],
)
def test_exits_must_be_better_than_in_two_stages_and_without_regularisation(prepared, monkeypatch, staged, plain, held):
    method, bench, ready = prepared(KEY)
    asked = []

    def gains(method, ready, rival, bench):
        asked.append(rival)
        return staged if isinstance(rival, DeeBert) else plain

    monkeypatch.setattr(claimed, "gains_by_exit", gains)
    found = claimed.claims(method, ready, bench, None)
    assert {o.name for o in found if o.holds} == held
    assert "here 120 in all" in found[0].statement
    assert found[1].measured.endswith(f"gradients conflict in {float(ready.model.conflicts):.1%} of the steps")
    assert [o.name for o in claimed.claims(RomeBert(leads=None), ready, bench, None)] == [found[0].name]
    assert asked[1:] == [method.replace({"leads": None}), DeeBert(batch=8, ramp_epochs=1.0)]
