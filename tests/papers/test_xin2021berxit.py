"""What only BERxiT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import dataclasses
import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.backbones.certain import certain_exits
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.papers import xin2021berxit as paper
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.papers.xin2021berxit import Berxit
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes import alternating
from eelit.methods.recipes.alternating import alternating_loss, correctness, parted, train_alternating
from eelit.methods.recipes.joint import exit_losses

KEY = "xin2021berxit"
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())
WIDTH = 32


@pytest.fixture
def model():
    return certain_exits("tiny", 10, seed=0)


@pytest.fixture
def batch(prepared):
    _, _, ready = prepared(KEY)
    return torch.stack(list(ready.data.train.inputs[:16])), ready.data.train.targets[:16]


def real_valued(data):
    """The same pictures with the digit, from -1 to 1, as a real value."""
    parts = {
        name: dataclasses.replace(getattr(data, name), targets=getattr(data, name).targets / 4.5 - 1)
        for name in ("train", "validation", "test")
    }
    return dataclasses.replace(data, classes=None, digest=data.digest + " values", **parts)


def test_steps_alternate_between_the_last_exit_and_all():
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert [float(alternating_loss(losses, step)) for step in range(4)] == [4.0, 7.0, 4.0, 7.0]


def test_even_steps_leave_early_exits_alone_and_odd_steps_reach_all(model, batch):
    x, y = batch
    for step in (0, 1):
        model.zero_grad(set_to_none=False)
        answers, _ = parted(model.train()(x))
        alternating_loss(exit_losses(answers, y), step).backward()
        reached = [bool(head.classifier.weight.grad.abs().sum() > 0) for head in model.heads]
        assert reached == ([False, False, False, True] if step == 0 else [True] * 4)
        assert all(stage.layer.output.dense.weight.grad.abs().sum() > 0 for stage in model.stages)


def test_training_takes_turns_through_all_passes(prepared, monkeypatch):
    """Five batches per pass: the second pass begins with an odd step."""
    _, _, ready = prepared(KEY)
    few = dataclasses.replace(ready.data, train=ready.data.train.head(40))
    seen = []

    def spied(losses, step):
        seen.append(step)
        return losses.sum()

    monkeypatch.setattr(alternating, "alternating_loss", spied)
    train_alternating(certain_exits("tiny", 10, seed=0), few, Bench(), epochs=2, batch=8, rate=1e-3)
    assert seen == list(range(10))


def test_the_unit_is_one_for_all_layers(model):
    """d + 1 parameters whatever the depth, and the same certainty for the same pooled vector."""
    assert len({id(head.unit) for head in model.heads}) == 1
    assert sum(p.numel() for p in model.heads[0].unit.parameters()) == WIDTH + 1
    plain = sum(p.numel() for head in model.heads for p in [*head.pooler.parameters(), *head.classifier.parameters()])
    assert sum(p.numel() for p in model.heads.parameters()) == plain + WIDTH + 1
    state = torch.randn(5, 7, WIDTH)
    for head in model.heads:
        head.pooler.load_state_dict(model.heads[0].pooler.state_dict())
    certainties = [parted(head(state))[1] for head in model.heads[:-1]]
    assert all(torch.equal(certainties[0], other) for other in certainties[1:])
    pooled = torch.tanh(model.heads[0].pooler(state.mean(dim=1)))
    unit = model.heads[0].unit
    by_hand = 1 / (1 + torch.exp(-(pooled @ unit.weight[0] + unit.bias[0])))
    assert torch.allclose(certainties[0], by_hand, atol=1e-6)


def test_the_last_layer_asks_the_unit_in_training_alone(model, batch):
    x, _ = batch
    assert (parted(model.eval()(x))[1][-1] == 1).all()
    assert (parted(model.train()(x))[1][-1] < 1).all()


def test_trap_the_unit_reads_what_the_classifier_reads_also_at_the_last_layer(model, batch):
    """The released code trains it there on a head beside the real one; dropout is drawn once for both."""
    read = {"unit": [], "classifier": []}
    model.heads[0].unit.register_forward_pre_hook(lambda module, args: read["unit"].append(args[0]))
    for head in model.heads:
        head.classifier.register_forward_pre_hook(lambda module, args: read["classifier"].append(args[0]))
    model.train()(batch[0])
    assert len(read["unit"]) == model.exits
    assert all(torch.equal(unit, classifier) for unit, classifier in zip(*read.values(), strict=True))
    assert bool((read["unit"][-1] == 0).any())  # dropped
    model.full(batch[0])
    assert len(read["classifier"]) == model.exits + 1  # the full model asks the same classifier


def test_heads_have_poolers_of_their_own_that_start_alike(model):
    poolers = [head.pooler for head in model.heads]
    assert len({id(pooler) for pooler in poolers}) == model.exits
    assert all(torch.equal(pooler.weight, poolers[0].weight) for pooler in poolers)


def test_a_value_is_the_more_correct_the_nearer():
    found = correctness(torch.tensor([[0.2, 0.2, 0.2]]), torch.tensor([0.2, 0.2 + math.atanh(0.5), 0.2 - 1.0]))
    assert found[0].tolist() == pytest.approx([1.0, 0.5, 1 - math.tanh(1.0)])
    distances = torch.linspace(0, 4, 50)
    found = correctness(distances[None], torch.zeros(50))[0]
    assert all(a > b for a, b in pairwise(found.tolist()))
    assert float(found.min()) > 0
    assert float(found.max()) == 1.0


def test_a_class_is_correct_or_not():
    logits = torch.tensor([[[2.0, 1.0], [0.0, 3.0]], [[0.0, 1.0], [0.0, 3.0]]])
    assert correctness(logits, torch.tensor([0, 1])).tolist() == [[1.0, 1.0], [0.0, 1.0]]


@pytest.mark.parametrize("shape", [(3, 5, 4), (3, 5)])
def test_what_certainty_should_be_has_no_gradient(shape):
    answers = torch.randn(shape, requires_grad=True)
    assert not correctness(answers, torch.zeros(5, dtype=torch.int64)).requires_grad


def test_the_units_loss_reaches_pooler_and_layers_but_no_classifier(model, batch):
    x, y = batch
    answers, certainty = parted(model.train()(x))
    ((certainty - correctness(answers, y)) ** 2).mean().backward()
    assert all(head.classifier.weight.grad is None or not head.classifier.weight.grad.any() for head in model.heads)
    assert all(head.pooler.weight.grad.abs().sum() > 0 for head in model.heads)
    assert model.stages[0].layer.output.dense.weight.grad.abs().sum() > 0


def test_parting_outputs():
    answers, certainty = parted(torch.tensor([[[1.0, 2.0, 0.3]]]))
    assert answers.tolist() == [[[1.0, 2.0]]]
    assert certainty.tolist() == [[pytest.approx(0.3)]]
    answers, certainty = parted(torch.tensor([[[1.0, 0.3]]]))
    assert answers.tolist() == [[1.0]]
    assert certainty.tolist() == [[pytest.approx(0.3)]]


def outputs_of(certainties):
    return np.stack([np.zeros_like(certainties), np.ones_like(certainties), certainties], axis=-1)


def test_exit_is_at_the_first_layer_that_is_certain_enough_strictly():
    certainties = np.array([[0.2, 0.9, 0.5], [0.7, 0.1, 0.5], [0.9, 0.1, 0.6], [1.0, 1.0, 1.0]])
    assert replay(ScoreThreshold(0.5), outputs_of(certainties)).tolist() == [1, 0, 2]
    assert replay(ScoreThreshold(0.0), outputs_of(certainties)).tolist() == [0, 0, 0]
    assert replay(ScoreThreshold(1.0), outputs_of(certainties)).tolist() == [3, 3, 3]


def test_exits_come_no_earlier_at_a_higher_threshold():
    certainties = np.random.default_rng(0).uniform(size=(6, 200))
    exits = [replay(ScoreThreshold(tau), outputs_of(certainties)) for tau in (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)]
    assert all((a <= b).all() for a, b in pairwise(exits))
    assert len({int(e.sum()) for e in exits}) == 6


def test_never_stopping_answers_as_the_full_model(prepared, batch):
    method, _, ready = prepared(KEY)
    found = infer(ready.model, batch[0], method.policy(1.0, ready))
    with torch.inference_mode():
        assert torch.equal(found.outputs, ready.model.full(batch[0]))
    assert (found.exits == ready.model.exits - 1).all()


def test_certainty_tells_right_answers_from_wrong_ones(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    answers, certainty = parted(seen.outputs)
    right = correctness(answers, seen.targets)[:-1].bool()
    assert certainty[:-1][right].mean() > certainty[:-1][~right].mean() + 0.05
    assert method.answers(seen.outputs).shape == answers.shape == (4, 400, 10)


def test_regression_learns_values_and_certainty(prepared):
    """Where certainty is high the error is small, though a value has no class probability."""
    method, _, ready = prepared(KEY)
    data = real_valued(ready.data)
    model = certain_exits("tiny", None, seed=0)
    train_alternating(model, data, Bench(), epochs=6.0, batch=32, rate=2e-3, head_rate=1e-2)
    with torch.inference_mode():
        outputs = model(torch.stack(list(data.test.inputs)))
    answers, certainty = parted(outputs)
    assert outputs.shape == (4, 400, 2)
    assert answers.shape == (4, 400)
    assert method.score(outputs[-1], data.test.targets) > 0.3
    certain, error = certainty[:-1].flatten(), (answers[:-1] - data.test.targets).abs().flatten()
    assert torch.corrcoef(torch.stack([certain, error]))[0, 1] < -0.1
    exits = [replay(ScoreThreshold(tau), outputs).mean() for tau in (0.0, 0.4, 0.5, 0.6, 0.7, 1.0)]
    assert exits == sorted(exits)
    assert exits[0] == 0
    assert exits[-1] == 3


def test_regression_is_measured_by_correlation(prepared):
    method, _, _ = prepared(KEY)
    assert method.quality == "accuracy"
    assert method.replace(method.variants["regression"]).quality == "Pearson's r"


@pytest.mark.parametrize("kind", ["classification", "regression"])
def test_agrees_with_the_released_code(kind):
    """Losses of both routines and the exit rule (see `provenance` in the file).

    Its learning-to-exit routine leaves the last exit out of odd steps, which the paper does not: added by hand.
    """
    known = GOLDEN[kind]
    answers, targets = torch.tensor(known["logits"]), torch.tensor(known["labels"])
    certainty = torch.tensor(known["certainties"])
    answers = answers[..., 0] if kind == "regression" else answers
    losses = exit_losses(answers, targets)
    error = ((certainty - correctness(answers, targets)) ** 2).mean()
    for step in range(4):
        ours = alternating_loss(losses, step)
        assert float(ours) == pytest.approx(known["losses"][f"alternate {step}"], rel=1e-5)
        left_out = losses[-1] if step % 2 else 0.0
        assert float(ours + error - left_out) == pytest.approx(known["losses"][f"alternate-lte {step}"], rel=1e-5)
    outputs = torch.cat([torch.tensor(known["logits"]), certainty[..., None]], dim=-1)
    for tau, layers in known["exit_layers"].items():
        assert (replay(ScoreThreshold(float(tau)), outputs) + 1).tolist() == layers


# What is claimed.


@pytest.mark.parametrize(
    ("staged", "joint", "held"),
    [
        ([0.006, 0.006, -0.009], [-0.004, -0.004, 0.006], {"serves all exits", "spares the last exit"}),
        ([0.004, 0.004, 0.1], [0.1, 0.1, 0.004], set()),
        ([0.1, 0.1, -0.011], [-0.006, -0.006, 0.1], set()),
        ([0.1, 0.1, 0.0], [-0.006, -0.006, 0.1], {"serves all exits"}),
    ],
)
def test_alternating_must_serve_both_ends(prepared, made, monkeypatch, staged, joint, held):
    """By so much each exit is said to be better than with two-stage and with joint training."""
    method, bench, ready = prepared(KEY)
    asked = []

    def gains(method, ready, rival, bench):
        asked.append(rival)
        return staged if isinstance(rival, DeeBert) else joint

    monkeypatch.setattr(paper, "gains_by_exit", gains)
    curve = SimpleNamespace(baselines=[made(0.0, points=3)])
    found = method.for_classes(ready, bench, curve)
    assert {o.name for o in found if o.holds} - {"certainty is worth a probability"} == {
        f"alternating {x}" for x in held
    }
    Berxit().for_classes(ready, bench, curve)
    assert asked[1:] == [method.replace({"joint": True}), DeeBert(), Berxit(joint=True)]


@pytest.mark.parametrize(("behind", "holds"), [(0.0, True), (-0.001, False)])
def test_certainty_must_be_as_good_as_the_largest_probability(prepared, made, monkeypatch, behind, holds):
    method, bench, ready = prepared(KEY)
    held = method.sweep(ready, bench, "validation", method.knobs)
    best = max(range(len(held)), key=lambda i: (held[i].quality, -held[i].cost))
    reached = method.sweep(ready, bench, "test", method.knobs)[best].quality
    monkeypatch.setattr(paper, "gains_by_exit", lambda *_: [0.0, 0.0])
    curve = SimpleNamespace(baselines=[made(1.0, "static exit"), made(reached - behind, points=3)])
    assert method.for_classes(ready, bench, curve)[-1].holds is holds


def test_joint_training_weighs_all_exits_alike_and_has_no_unit(prepared, monkeypatch):
    method, _, _ = prepared(KEY)
    joint = method.replace({"joint": True, "train_size": 64, "epochs": 1.0})
    told = []
    real = paper.train_joint
    monkeypatch.setattr(paper, "train_joint", lambda *args, **how: told.append(how["weights"]) or real(*args, **how))
    ready = joint.prepare(Bench())
    exits = ready.model.exits
    assert told == [[1.0] * exits]
    assert len({id(head.pooler) for head in ready.model.heads}) == exits
    seen = ready.split("test")
    assert joint.answers(seen.outputs) is seen.outputs
    assert seen.outputs.shape[-1] == ready.data.classes


def test_joint_training_has_no_unit_and_stops_by_the_largest_probability(prepared):
    method, bench, _ = prepared(KEY)
    joint = method.replace({"joint": True, "epochs": 1.0})
    ready = joint.prepare(bench)
    logits = ready.split("test").outputs
    assert logits.shape[-1] == ready.data.classes
    assert torch.equal(joint.answers(logits), logits)
    (point,) = joint.sweep(ready, bench, "test", [0.0])
    assert point.exits[0] == 1.0
