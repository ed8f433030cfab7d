"""What only RomeBERT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.distillation import divergence, last_teaches, shared_matrices
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.projection import excess, projected

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
    early, last = last_teaches(model(x), y, gamma=0.9, temperature=3.0)
    pair = (early, last) if leads == "early" else (last, early)
    model.zero_grad()
    stand_in, conflict = projected(*pair, list(model.parameters()), shared_matrices(model))
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
    off = excess(a, b)
    assert off == -2.0
    assert [float(v - off * u) for u, v in zip(a, b, strict=True)] == [0.0, 1.0]


def test_nothing_is_taken_off_without_a_conflict():
    assert excess([torch.tensor([1.0, 1.0])], [torch.tensor([1.0, -1.0])]) == 0.0  # a right angle
    assert excess([torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.5])]) == 0.0
    assert excess([torch.zeros(2)], [torch.tensor([2.0, 0.5])]) == 0.0


def test_projection_is_of_one_long_vector_not_of_each_matrix():
    """Apart, the first pair conflicts (-1); together they do not (-1 + 2)."""
    a, b = [torch.tensor([1.0]), torch.tensor([1.0])], [torch.tensor([-1.0]), torch.tensor([2.0])]
    assert excess(a, b) == 0.0


@pytest.mark.parametrize("leads", ["early", "last"])
def test_after_projection_the_other_no_longer_points_against_the_leader(leads):
    model, x, y = conflicting(leads)
    shared = shared_matrices(model)
    early, last = last_teaches(model(x), y, gamma=0.9, temperature=3.0)
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
    early, last = last_teaches(model(x), y, gamma=0.9, temperature=3.0)
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
    early, last = last_teaches(outputs, torch.randint(3, (6,)), gamma=1.0, temperature=3.0)
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
    early, last = last_teaches(outputs, y, gamma=0.0, temperature=3.0)
    assert float(early + last) == pytest.approx(float(exit_losses(outputs, y).sum()))
    one, other = (last_teaches(outputs, labels, gamma=1.0, temperature=3.0) for labels in (y, (y + 1) % 3))
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


def test_all_layers_and_heads_are_trained_in_the_one_stage(prepared):
    method, _, ready = prepared(KEY)
    before = method.build(ready.data, seed=0).state_dict()
    moved = {name for name, p in ready.model.named_parameters() if not torch.equal(p, before[name])}
    assert all(f"stages.{i}.layer.output.dense.weight" in moved for i in range(4))
    assert all(f"heads.{i}.{part}.weight" in moved for i in range(4) for part in ("pooler", "classifier"))


def test_losses_and_entropies_agree_with_the_released_code():
    """The released KL is also a mean over the three classes, ours a sum (see `provenance` in the file)."""
    outputs, y, known = torch.tensor(GOLDEN["logits"]), torch.tensor(GOLDEN["labels"]), GOLDEN["loss"]
    labels_only, last = last_teaches(outputs, y, gamma=0.0, temperature=3.0)
    both, _ = last_teaches(outputs, y, gamma=0.9, temperature=3.0)
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
    stand_in, conflict = projected(*pair, list(model.parameters()), shared_matrices(model))
    stand_in.backward()
    assert conflict == case["conflict"]
    for name, p in model.named_parameters():
        assert np.allclose(p.grad.flatten().numpy(), case["gradients"][names[name]], atol=2e-6), name


def test_cross_entropy_of_exits_is_torchs():
    outputs, y = torch.randn(2, 4, 3), torch.tensor([0, 1, 2, 0])
    assert float(last_teaches(outputs, y, gamma=0.5, temperature=1.0)[1]) == pytest.approx(
        float(F.cross_entropy(outputs[-1], y))
    )
