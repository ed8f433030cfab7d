"""What only BERxiT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.encoder import encoder
from eelit.methods.claims import xin2021berxit as claimed
from eelit.methods.claims.xin2021berxit import Joint
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline
from eelit.methods.harness import registry
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.papers.xin2021berxit import (
    Berxit,
    alternating_loss,
    certainty_loss,
    correctness,
    train_alternating,
)
from eelit.methods.recipes.joint import exit_losses

KEY = "xin2021berxit"
GOLDEN = json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())
WIDTH = 32


@pytest.fixture
def model():
    return registry.get(KEY).variant("classification", "tiny").build(SimpleNamespace(classes=10), seed=0)


@pytest.fixture(scope="module")
def batch():
    train = registry.get(KEY).variant("classification", "tiny").load().train
    return torch.stack(list(train.inputs[:16])), train.targets[:16]


def without_dropout(model):
    """The same network in training mode with nothing dropped, so that a loss can be computed anew."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def test_steps_alternate_between_the_last_exit_and_all():
    losses = torch.tensor([1.0, 2.0, 4.0])
    assert [float(alternating_loss(losses, step)) for step in range(4)] == [4.0, 7.0, 4.0, 7.0]


def test_even_steps_leave_early_exits_alone_and_odd_steps_reach_all(model, batch):
    x, y = batch
    for step in (0, 1):
        model.zero_grad(set_to_none=False)
        alternating_loss(exit_losses(model.train()(x)["answer"], y), step).backward()
        reached = [bool(head.classifier.weight.grad.abs().sum() > 0) for head in model.heads]
        assert reached == ([False, False, False, True] if step == 0 else [True] * 4)
        assert all(stage.layer.output.dense.weight.grad.abs().sum() > 0 for stage in model.stages)


# What is trained, on what, at which rate.


def by_formula(model, x, y, step):
    """The loss of a step written out: the exits' losses whose turn it is, and the mean of (u_i - t_i)^2."""
    losses, errors, state = [], [], x
    for stage, head in zip(model.stages, model.heads, strict=True):
        state = stage(state)
        p = torch.tanh(state.mean(dim=1) @ head.pooler.weight.T + head.pooler.bias)
        f = p @ head.classifier.weight.T + head.classifier.bias
        u = 1 / (1 + torch.exp(-(p @ head.unit.linear.weight[0] + head.unit.linear.bias[0])))
        if y.is_floating_point():
            losses.append(((f[:, 0] - y) ** 2).mean())
            t = 1 - torch.tanh((f[:, 0] - y).abs())
        else:
            losses.append(F.cross_entropy(f, y))
            t = (f.argmax(dim=1) == y).float()
        errors.append(((u - t) ** 2).mean())
    task = losses[-1] if step in (0, 2, 58) else sum(losses)
    return task.item(), (sum(errors) / len(errors)).item()


@pytest.mark.parametrize("step", [0, 1, 2, 57, 58])
@pytest.mark.parametrize("variant", Berxit.variants)
def test_loss_of_a_step_is_that_of_the_paper(wired, variant, step):
    """There are 57 batches per pass: the second pass begins with an odd step."""
    model, (stage,) = wired(registry.get(KEY).variant(variant, "tiny"))
    index = torch.arange(5, 25)
    x, y = torch.stack(stage.train.inputs[5:25]), stage.train.targets[5:25]
    with torch.no_grad():
        task, error = by_formula(without_dropout(model), x, y, step)
    assert error > 0.01
    assert stage.loss(stage.batch_of(index, x, step)).item() == pytest.approx(task + error, rel=1e-5)


@pytest.mark.parametrize("kind", ["classes", "values"])
def test_loss_on_fixed_numbers(wired, kind):
    """Certainty is trained by squared error; cross-entropy would be 0.34 for classes, not 0.10."""
    model, (stage,) = wired(registry.get(KEY).variant("classification", "tiny"))
    certainty = torch.tensor([[0.9, 0.2], [0.5, 0.7]])
    if kind == "classes":
        answers, y = torch.tensor([[[2.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [0.0, 1.0]]]), torch.tensor([0, 1])
        one = (math.log1p(math.exp(-2)) + math.log1p(math.exp(1))) / 2
        last = (math.log1p(math.exp(3)) + math.log1p(math.exp(-1))) / 2
        error = ((0.9 - 1) ** 2 + (0.2 - 0) ** 2 + (0.5 - 0) ** 2 + (0.7 - 1) ** 2) / 4
    else:
        answers, y = torch.tensor([[0.5, 0.0], [0.2, 1.0]]), torch.tensor([0.5, 1.0])
        one, last = 0.5, 0.09 / 2
        error = (0.1**2 + (0.2 - 1 + math.tanh(1)) ** 2 + (0.5 - 1 + math.tanh(0.3)) ** 2 + 0.3**2) / 4
    model.forward = lambda x: {"answer": answers, "certainty": certainty}
    for step, task in enumerate((last, one + last)):
        found = stage.loss(SimpleNamespace(inputs=None, targets=y, step=step))
        assert float(found) == pytest.approx(task + error, rel=1e-5)


@pytest.mark.parametrize("variant", Berxit.variants)
def test_one_optimiser_trains_everything_heads_and_unit_faster(wired, variant):
    short = {"batch": 20, "epochs": 1.5, "rate": 2e-3, "head_rate": 1e-2}
    method = registry.get(KEY).variant(variant, "tiny").replace(short)
    model, (stage,) = wired(method)
    heads = {id(p) for p in model.heads.parameters()}
    assert {id(p) for p in model.heads[0].unit.parameters()} <= heads
    assert stage.rates == {id(p): 1e-2 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, round(1.5 * 900 / 20))
    assert torch.equal(stage.train.targets, method.load().train.targets)
    assert {name.partition(".")[0] for name in stage.learning} == {"stages", "heads"}


def test_training_ends_in_evaluation_mode_and_may_have_one_rate(prepared, model):
    _, _, ready = prepared(KEY)
    seen = []
    bench = Bench(most_steps=0, watch=lambda stage: seen.append(stage) if stage else None)
    train_alternating(model, ready.data, bench, epochs=1.0, batch=32, rate=3e-3)
    assert set(seen[0].rates.values()) == {3e-3}
    assert not any(module.training for module in model.modules())


# The unit.


def test_the_unit_is_one_for_all_layers(model):
    """d + 1 parameters whatever the depth, and the same certainty for the same pooled vector."""
    assert len({id(head.unit) for head in model.heads}) == 1
    assert sum(p.numel() for p in model.heads[0].unit.parameters()) == WIDTH + 1
    plain = sum(p.numel() for head in model.heads for p in [*head.pooler.parameters(), *head.classifier.parameters()])
    assert sum(p.numel() for p in model.heads.parameters()) == plain + WIDTH + 1
    state = torch.randn(5, 7, WIDTH)
    for head in model.heads:
        head.pooler.load_state_dict(model.heads[0].pooler.state_dict())
    certainties = [head(state)["certainty"] for head in model.heads[:-1]]
    assert all(torch.equal(certainties[0], other) for other in certainties[1:])
    pooled = torch.tanh(model.heads[0].pooler(state.mean(dim=1)))
    unit = model.heads[0].unit.linear
    by_hand = 1 / (1 + torch.exp(-(pooled @ unit.weight[0] + unit.bias[0])))
    assert torch.allclose(certainties[0], by_hand, atol=1e-6)


def test_the_last_layer_asks_the_unit_in_training_alone(model, batch):
    x, _ = batch
    said = model.eval()(x)["certainty"]
    assert said[-1].isnan().all()
    assert not said[:-1].isnan().any()
    assert not model.train()(x)["certainty"].isnan().any()


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


def test_poolers_start_as_the_pretrained_one(model):
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    for head in model.heads:
        assert torch.equal(head.pooler.weight, pretrained.weight)
        assert torch.equal(head.pooler.bias, pretrained.bias)


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
    said = model.train()(x)
    certainty_loss(said["certainty"], said["answer"], y).backward()
    assert all(head.classifier.weight.grad is None or not head.classifier.weight.grad.any() for head in model.heads)
    assert all(head.pooler.weight.grad.abs().sum() > 0 for head in model.heads)
    assert model.stages[0].layer.output.dense.weight.grad.abs().sum() > 0


# The rule.


def outputs_of(certainties):
    return {"answer": np.zeros((*certainties.shape, 2)), "certainty": certainties}


def rule(tau):
    return Berxit().policy(tau, None)


def test_exit_is_at_the_first_layer_that_is_certain_enough_strictly():
    certainties = np.array([[0.2, 0.9, 0.5], [0.7, 0.1, 0.5], [0.9, 0.1, 0.6], [np.nan] * 3])
    assert replay(rule(0.5), outputs_of(certainties)).tolist() == [1, 0, 2]
    assert replay(rule(0.0), outputs_of(certainties)).tolist() == [0, 0, 0]
    assert replay(rule(1.0), outputs_of(certainties)).tolist() == [3, 3, 3]


def test_exits_come_no_earlier_at_a_higher_threshold():
    certainties = np.random.default_rng(0).uniform(size=(6, 200))
    exits = [replay(rule(tau), outputs_of(certainties)) for tau in (0.0, 0.2, 0.5, 0.8, 0.95, 1.0)]
    assert all((a <= b).all() for a, b in pairwise(exits))
    assert len({int(e.sum()) for e in exits}) == 6


def test_never_stopping_answers_as_the_full_model(prepared, batch):
    method, _, ready = prepared(KEY)
    found = infer(ready.model, batch[0], method.policy(1.0, ready))
    with torch.inference_mode():
        assert torch.equal(found.answers, ready.model.full(batch[0]))
    assert (found.exits == ready.model.exits - 1).all()


def test_certainty_tells_right_answers_from_wrong_ones(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    certainty = seen.outputs["certainty"]
    right = correctness(seen.answers, seen.targets)[:-1].bool()
    assert certainty[:-1][right].mean() > certainty[:-1][~right].mean() + 0.05
    assert seen.answers.shape == (4, 400, 10)
    assert method.quality == "accuracy"


def test_regression_learns_values_and_certainty(prepared):
    """Where certainty is high the error is small, though a value has no class probability."""
    method, _, ready = prepared(KEY, "regression")
    seen = ready.split("test")
    assert seen.answers.shape == (4, 400)
    assert method.quality == "Pearson's r"
    assert method.score(seen.answers[-1], seen.targets) > 0.3
    certain, error = seen.outputs["certainty"][:-1].flatten(), (seen.answers[:-1] - seen.targets).abs().flatten()
    assert torch.corrcoef(torch.stack([certain, error]))[0, 1] < -0.1
    exits = [replay(rule(tau), seen.outputs).mean() for tau in (0.0, 0.4, 0.5, 0.6, 0.7, 1.0)]
    assert exits == sorted(exits)
    assert exits[0] == 0
    assert exits[-1] == 3


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
    error = certainty_loss(certainty, answers, targets)
    for step in range(4):
        ours = alternating_loss(losses, step)
        assert float(ours) == pytest.approx(known["losses"][f"alternate {step}"], rel=1e-5)
        left_out = losses[-1] if step % 2 else 0.0
        assert float(ours + error - left_out) == pytest.approx(known["losses"][f"alternate-lte {step}"], rel=1e-5)
    for tau, layers in known["exit_layers"].items():
        assert (replay(rule(float(tau)), {"answer": answers, "certainty": certainty}) + 1).tolist() == layers


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

    monkeypatch.setattr(claimed, "gains_by_exit", gains)
    curve = SimpleNamespace(baselines=[made(0.0, points=3)])
    found = claimed.for_classes(method, ready, bench, curve)
    assert {o.name for o in found if o.holds} - {"certainty beats a probability"} == {f"alternating {x}" for x in held}
    claimed.for_classes(Berxit(), ready, bench, curve)
    assert asked[2:] == [DeeBert(ramp_epochs=1.0), Joint()]


@pytest.mark.parametrize(("ahead", "holds"), [(0.006, True), (0.004, False), (0.0, False)])
def test_certainty_must_be_better_than_the_largest_probability(prepared, made, monkeypatch, ahead, holds):
    """The rival is said to be so much worse at the same costs; its ends count for nothing."""
    method, bench, ready = prepared(KEY)
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    worse = [point.model_copy(update={"quality": point.quality - ahead}) for point in test]
    end = [test[0].model_copy(update={"quality": 1.0})]
    rival = Baseline(name="max-confidence", validation=[*end, *held, *end], test=[*end, *worse, *end])
    monkeypatch.setattr(claimed, "gains_by_exit", lambda *_: [0.0, 0.0])
    curve = SimpleNamespace(baselines=[made(1.0, "static exit"), rival])
    assert claimed.for_classes(method, ready, bench, curve)[-1].holds is holds


@pytest.mark.parametrize("variant", Berxit.variants)
def test_learned_exits_are_compared_with_fixed_depths_and_values_with_nothing_else(
    prepared, made, monkeypatch, variant
):
    method, bench, ready = prepared(KEY, variant)
    monkeypatch.setattr(claimed, "for_classes", lambda *_: ["more"])
    points = made(method.static(ready.split("test"))[1].quality + 0.1, speed_up=3.0).test
    first, *more = claimed.claims(method, ready, bench, SimpleNamespace(validation=points, test=points, quality="q"))
    assert first.holds
    assert more == (["more"] if variant == "classification" else [])
    low = made(0.0, speed_up=3.0).test
    assert not claimed.claims(method, ready, bench, SimpleNamespace(validation=low, test=low, quality="q"))[0].holds


def test_joint_training_weighs_all_exits_alike_and_has_no_unit(prepared, wired):
    method = prepared(KEY)[0].replace({"rate": 2e-3, "head_rate": 1e-2})
    model, (stage,) = wired(Joint(**vars(method)))
    x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
    with torch.no_grad():
        answers = model(x)
    assert answers.shape == (4, 20, 10)  # and no certainty
    expected = sum(float(F.cross_entropy(logits, y)) for logits in answers)
    assert stage.loss(stage.batch_of(torch.arange(20), x)).item() == pytest.approx(expected, rel=1e-5)
    assert len({id(head.pooler) for head in model.heads}) == model.exits
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {id(p): 1e-2 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)
