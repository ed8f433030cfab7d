"""What only JEI-DNN promises: gates that share one unit, targets by best exit, exits that learn from what they get."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.optim import SGD, AdamW

from eelit.methods.claims import regol2024jeidnn as tried
from eelit.methods.engine.costs import exit_costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.regol2024jeidnn import (
    LARGEST_R,
    GatedExit,
    JeiDnn,
    classifier_loss,
    doubts,
    exit_probabilities,
    frozen,
    gate_loss,
    gate_targets,
    positive_weights,
    read_of,
)
from eelit.methods.policies.exit_probability import ExitProbability
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import losses_of

KEY = "regol2024jeidnn"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def gates():
    return torch.rand(6, 400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def column(*values):
    """One sample whose gates say these values; the last exit has none."""
    return np.array([*values, 0.0])[:, None]


# Probabilities of leaving, and the rule.


def test_probabilities_share_one_unit(gates):
    P = exit_probabilities(gates)
    assert (P >= 0).all()
    assert (gates >= P).all()
    assert P.sum(dim=0).max() <= 1 + 1e-12
    by_hand = [max(0.0, min(g, 1 - sum(gates[:i, 7].tolist()))) for i, g in enumerate(gates[:, 7].tolist())]
    assert P[:, 7].tolist() == pytest.approx(by_hand)


def test_q_is_the_probability_for_who_came_so_far(gates):
    """prod (1 - q) is what is left, 1 - sum P: at each threshold replay finds the first q that reaches it."""
    gates = gates / 2
    P = exit_probabilities(gates)
    left = 1 - torch.cat([torch.zeros_like(P[:1]), P.cumsum(dim=0)[:-1]])
    q = torch.where(left > 1e-12, P / left, 0.0)
    outputs = torch.cat([gates, gates[:1]])
    for t in (0.05, 0.3, 0.5, 0.8):
        reached = q >= t
        expected = torch.where(reached.any(dim=0), reached.int().argmax(dim=0), 6)
        assert replay(ExitProbability(t), outputs).tolist() == expected.tolist()
        assert len(set(expected.tolist())) > 2


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_worked_cases(array):
    assert exit_probabilities(torch.tensor([[0.3], [0.9]])).flatten().tolist() == pytest.approx([0.3, 0.7])
    assert replay(ExitProbability(0.5), array(column(0.3, 0.9))).tolist() == [1]  # q = 0.3, then 0.7 / 0.7
    assert replay(ExitProbability(0.5), array(column(0.4, 0.3, 0.2))).tolist() == [1]  # 0.4, then 0.3 / 0.6
    assert replay(ExitProbability(0.5), array(column(0.4, 0.29, 0.2))).tolist() == [2]  # 0.29 / 0.6, then 0.2 / 0.31
    assert replay(ExitProbability(0.5), array(column(0.5, 0.0, 0.0))).tolist() == [0]  # at least, not above


def test_gates_that_stay_shut_leave_all_to_the_last_exit_and_one_that_is_open_lets_all_go():
    assert (exit_probabilities(torch.zeros(4, 3)) == 0).all()
    assert replay(ExitProbability(0.5), column(0.0, 0.0, 0.0)).tolist() == [3]
    P = exit_probabilities(torch.tensor([[1.0], [0.7], [1.0]]))
    assert P.flatten().tolist() == [1, 0, 0]
    assert replay(ExitProbability(0.5), column(1.0, 0.7, 1.0)).tolist() == [0]


def test_where_nothing_is_left_nothing_is_divided_by():
    """Who has certainly left before, at a threshold that nobody reaches, goes on."""
    with np.errstate(all="raise"):
        assert replay(ExitProbability(1.1), column(1.0, 0.7, 0.3)).tolist() == [3]
        assert replay(ExitProbability(0.0), column(0.0, 0.7)).tolist() == [0]


def test_exit_does_not_come_earlier_with_a_higher_threshold(gates):
    exits = [replay(ExitProbability(t), gates) for t in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.1)]
    assert all((a <= b).all() for a, b in pairwise(exits))
    assert (exits[0] == 0).all()
    assert (exits[-1] == 5).all()


def test_each_exit_may_have_a_threshold_of_its_own(gates):
    assert replay(ExitProbability((0.9, 0.5)), column(0.4, 0.3)).tolist() == [1]
    assert (replay(ExitProbability((0.5,) * 5), gates) == replay(ExitProbability(0.5), gates)).all()


def test_a_gate_that_is_not_finite_counts_nothing():
    assert replay(ExitProbability(0.5), column(math.nan, 0.3, 0.4)).tolist() == [2]  # 0.3, then 0.4 / 0.7
    assert replay(ExitProbability(0.0), column(math.nan, 0.3)).tolist() == [1]


# What a gate reads.


def test_doubts_by_hand():
    p = torch.tensor([[0.5, 0.25, 0.25], [1 / 3, 1 / 3, 1 / 3]], dtype=torch.float64)
    squares = torch.tensor([4 / 6, 1 / 6, 1 / 6], dtype=torch.float64)
    found = doubts(p.log() + 3)
    entropy = 1.5 * math.log(2)
    assert found[0].tolist() == pytest.approx([0.5, entropy, 0.25, -float((squares * squares.log()).sum())])
    assert found[1].tolist() == pytest.approx([1 / 3, math.log(3), 0, math.log(3)], abs=1e-12)
    assert doubts(torch.tensor([[1000.0, -1000.0]])).tolist() == [[1, 0, 1, 0]]


def test_a_gate_has_five_parameters_and_sends_nothing_into_the_classifier():
    exit_ = GatedExit((3, 6, 6), 10)
    assert sum(p.numel() for p in exit_.gate.parameters()) == 5
    said = exit_(torch.randn(7, 3, 6, 6))
    z = said["answer"].detach()
    expected = torch.sigmoid(doubts(z) @ exit_.gate.weight[0] + exit_.gate.bias)
    assert torch.allclose(said["gate"], expected)
    said["gate"].sum().backward()
    assert exit_.classifier.weight.grad is None
    assert exit_.gate.weight.grad is not None


def test_classifiers_read_the_mean_over_parts_of_the_map():
    x = torch.randn(2, 3, 8, 8)
    assert torch.allclose(read_of(x)[1, 16 + 5], x[1, 1, 2:4, 2:4].mean())
    assert torch.equal(read_of(x[:, :, :2, :2]), x[:, :, :2, :2].flatten(1))
    assert GatedExit((3, 2, 6), 10).classifier.in_features == 3 * 2 * 4


# What is learned.


def test_gate_targets_by_hand():
    losses = torch.tensor([[0.9, 0.2, 3.0], [0.5, 0.2, 2.0], [0.4, 0.1, 0.1]])
    costs = torch.tensor([0.25, 0.5, 1.0])
    # with lam 0.4 the first sample has 1.0, 0.7, 0.8, the second 0.3, 0.4, 0.5, the third 3.1, 2.2, 0.5
    assert gate_targets(losses, costs, 0.4).T.tolist() == [[0, 1], [1, 1], [0, 0]]


def test_targets_are_monotone_and_follow_the_price():
    draw = torch.Generator().manual_seed(0)
    losses, costs = torch.rand(5, 300, generator=draw), torch.tensor([0.2, 0.4, 0.6, 0.8, 1.0])
    for lam in (0.0, 0.5, 2.0):
        a = gate_targets(losses, costs, lam)
        assert (a[1:] >= a[:-1]).all()
    assert (gate_targets(losses, costs, 1e6) == 1).all()
    best = losses.argmin(dim=0)
    assert torch.equal((gate_targets(losses, costs, 0.0) == 0).sum(dim=0), best.clamp(max=4))


def test_positive_targets_weigh_by_their_rarity_up_to_five():
    a = torch.tensor([[0.0] * 10, [1.0] + [0.0] * 9, [1.0] * 4 + [0.0] * 6, [1.0] * 10])
    assert positive_weights(a).tolist() == pytest.approx([5, 5, 1.5, 0])


def test_gate_loss_by_hand():
    logits, a = torch.tensor([[0.0, 2.0], [-1.0, 0.5]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    terms = [math.log(2), 3 * math.log1p(math.exp(-2)), 0.5 * math.log1p(math.exp(1)), math.log1p(math.exp(0.5))]
    assert float(gate_loss(logits, a, torch.tensor([3.0, 0.5]))) == pytest.approx(sum(terms) / 4)


@pytest.mark.parametrize("detached", [True, False])
def test_each_sample_keeps_its_loss_and_only_a_factor_that_is_held_fixed_shares_it_out(detached):
    """The trap of the released code: not held fixed, the factor cancels the gates' weights in the gradient, too."""
    draw = torch.Generator().manual_seed(0)
    losses = (0.5 + torch.rand(4, 30, generator=draw, dtype=torch.float64)).requires_grad_()
    P = exit_probabilities(torch.rand(4, 30, generator=draw, dtype=torch.float64) * 0.2 + 0.15)
    found = classifier_loss(losses, P, detached=detached)
    assert float(found.detach()) == pytest.approx(float(losses.detach().mean()))
    found.backward()
    r = losses.detach().sum(dim=0) / (P * losses.detach()).sum(dim=0)
    expected = r * P / 120 if detached else torch.full_like(P, 1 / 120)
    assert torch.allclose(losses.grad, expected)


def test_the_factor_has_a_bound():
    """A sample that leaves where its loss is next to nothing, or nothing: unbounded, the factor is no number."""
    losses = torch.tensor([[1e-6, 0.0], [20.0, 30.0]], requires_grad=True)
    P = torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    found = classifier_loss(losses, P, detached=True)
    assert float(found.detach()) == pytest.approx(LARGEST_R * 1e-6 / 4)
    found.backward()
    assert torch.equal(losses.grad, LARGEST_R * P / 4)


def test_a_sample_that_all_gates_hold_back_teaches_nothing_bad():
    losses = torch.rand(3, 2).requires_grad_()
    classifier_loss(losses, torch.zeros(3, 2), detached=True).backward()
    assert torch.equal(losses.grad, torch.zeros(3, 2))


def test_what_is_frozen_is_what_the_exits_read(prepared):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, 0)
    some = ready.data.train.at(torch.arange(150))
    found = frozen(model, some, Bench())
    x = torch.stack(list(some.inputs))
    with torch.no_grad():
        states = list(model.states(x))
        assert torch.allclose(torch.stack(list(found.read.inputs)), torch.cat([read_of(s) for s in states[:-1]], dim=1))
        expected = F.cross_entropy(model.full(x), some.targets, reduction="none")
    assert torch.allclose(found.last, expected, atol=1e-5)
    assert torch.equal(found.read.targets, some.targets)
    assert not model.training


# How it is trained.


def tiny(variant="joint", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def rows(stage, step=0):
    """A batch of samples that are not the first ones, as a stage meets it."""
    index = torch.arange(40, 60)
    return stage.batch_of(index, torch.stack([stage.train.inputs[i] for i in index.tolist()]), step)


@torch.no_grad()
def by_hand(model, x, y):
    """z_l, their gates' logits, and the losses of all exits with the last, through the modules one by one."""
    *states, end = model.states(x)
    z = torch.stack([head.classifier(read_of(s)) for head, s in zip(model.heads, states, strict=False)])
    logits = torch.stack([head.gate(doubts(each))[:, 0] for head, each in zip(model.heads, z, strict=False)])
    return z, logits, torch.cat([losses_of(z, y), losses_of(model.heads[-1](end)[None], y)])


def test_three_stages_each_with_its_data_parameters_rates_and_length(wired):
    method = tiny(train_size=200, batch=20, epochs=1.0, warm_epochs=2.5, joint_epochs=1.5)
    method = method.replace({"rate": 3e-3, "joint_rate": 4e-3, "gate_rate": 7e-2})
    model, (plain, warm, joint) = wired(method)
    classifiers = {id(p) for head in model.heads[:-1] for p in head.classifier.parameters()}
    gates = {id(p) for head in model.heads[:-1] for p in head.gate.parameters()}
    for stage in (plain, warm, joint):
        assert torch.equal(stage.train.targets, method.load().train.targets)
    assert plain.rates == {id(p): 3e-3 for p in model.plain_network().parameters()}
    assert warm.rates == dict.fromkeys(classifiers, 3e-3)
    assert joint.rates == {**dict.fromkeys(classifiers, 4e-3), **dict.fromkeys(gates, 7e-2)}
    assert [type(stage.optimiser) for stage in (plain, warm, joint)] == [AdamW, AdamW, SGD]
    for group in joint.optimiser.param_groups:
        assert (group["momentum"], group["weight_decay"], group["nesterov"]) == (0.9, 5e-4, False)
    assert [(s.epochs, s.batch, s.steps) for s in (plain, warm, joint)] == [(1, 20, 10), (2.5, 20, 25), (1.5, 20, 15)]


def test_earlier_classifiers_weigh_more_in_the_warm_up(wired):
    model, (_, warm, _) = wired(tiny(train_size=200))
    batch = rows(warm)
    x = torch.stack(tiny(train_size=200).load().train.inputs[40:60])
    _, _, losses = by_hand(model.eval(), x, batch.targets)
    one, two, _ = losses.mean(dim=1).tolist()
    assert warm.loss(batch).item() == pytest.approx(3 * one + 2 * two, rel=1e-5)


@pytest.mark.parametrize("variant", JeiDnn.variants)
@pytest.mark.parametrize("lam", [0.1, 2.0])
def test_phases_take_turns_and_each_has_its_loss(wired, variant, lam):
    method = tiny(variant, train_size=200, batch=32, switch=3, lam=lam)
    model, (*_, joint) = wired(method)
    model.eval()
    data = method.load()
    x, y = torch.stack(data.train.inputs[40:60]), data.train.targets[40:60]
    held = data.validation.at(torch.arange(150))  # the half that knobs are not chosen on
    spent = exit_costs(model, x[:1])
    costs = torch.tensor(spent) / spent[-1]
    _, _, held_losses = by_hand(model, torch.stack(list(held.inputs)), held.targets)
    positive = positive_weights(gate_targets(held_losses, costs, lam))
    _, logits, losses = by_hand(model, x, y)
    on_gates = gate_loss(logits, gate_targets(losses, costs, lam), positive)
    on_classifiers = classifier_loss(losses[:-1], exit_probabilities(logits.sigmoid()), detached=True)
    classifiers = [p for head in model.heads[:-1] for p in head.classifier.parameters()]
    gates = [p for head in model.heads[:-1] for p in head.gate.parameters()]
    for step, (expected, learn, rest) in {
        0: (on_gates, gates, classifiers), 2: (on_gates, gates, classifiers),
        3: (on_classifiers, classifiers, gates), 5: (on_classifiers, classifiers, gates),
        6: (on_gates, gates, classifiers),
    }.items():  # fmt: skip
        model.zero_grad()
        found = joint.loss(rows(joint, step))
        assert float(found.detach()) == pytest.approx(float(expected), rel=1e-4)
        found.backward()
        assert all(p.grad is not None for p in learn)
        assert all(p.grad is None for p in rest)


def test_an_exit_that_gets_few_samples_moves_less(wired):
    """What an optimiser that divides by the size of gradients undoes: P_l decides how far a classifier is moved."""
    model, (*_, joint) = wired(tiny(train_size=200, switch=1))
    with torch.no_grad():
        for head, bias in zip(model.heads, (math.log(1 / 9), math.log(9)), strict=False):  # P = 0.1 and 0.9
            head.gate.bias.fill_(bias)
            head.gate.weight.zero_()
    early = [head.classifier.weight for head in model.heads[:-1]]
    before = [weight.detach().clone() for weight in early]
    found = joint.loss(rows(joint, 1))
    for group in joint.optimiser.param_groups:
        group["lr"], group["weight_decay"] = 1e-2, 0.0
    joint.optimiser.zero_grad()
    found.backward()
    joint.optimiser.step()
    moved = [float((now - then).detach().norm()) for now, then in zip(early, before, strict=True)]
    assert moved[1] > 4 * moved[0]


@pytest.mark.parametrize("variant", JeiDnn.variants)
def test_gates_share_out_the_gradient_of_classifiers_unless_it_is_cancelled(wired, variant):
    model, (*_, joint) = wired(tiny(variant, train_size=200, switch=1))
    model.eval()
    with torch.no_grad():
        for head, bias in zip(model.heads, (-9.0, 2.0), strict=False):
            head.gate.bias.fill_(bias)
            head.gate.weight.zero_()
    joint.loss(rows(joint, 1)).backward()
    first, second = (float(head.classifier.weight.grad.norm()) for head in model.heads[:2])
    assert (first < 0.01 * second) is (variant == "joint")


def test_positive_targets_are_counted_anew_each_epoch(wired):
    method = tiny(train_size=200, batch=50, switch=100)
    model, (*_, joint) = wired(method)
    model.eval()
    at = {step: float(joint.loss(rows(joint, step)).detach()) for step in (0, 1)}
    with torch.no_grad():
        for head in model.heads[:-1]:
            head.classifier.weight.mul_(-3)
    later = {step: float(joint.loss(rows(joint, step)).detach()) for step in (3, 4, 5)}
    assert at[0] == at[1]
    assert later[4] == later[5]
    assert later[3] != later[4]  # an epoch has four batches: in the fourth the old count held


def test_without_stage_3_gates_stay_as_they_are(wired):
    _, stages = wired(tiny(train_size=100, joint_epochs=0.0))
    assert [stage.label for stage in stages] == ["training the plain network", "training the classifiers"]


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, method.rule(0.5, ready))
    assert found.exits.tolist() == replay(ExitProbability(0.5), outputs).tolist()
    assert outputs["gate"][:-1].isfinite().all()
    assert outputs["gate"][-1].isnan().all()  # the network's own head has no gate


def test_the_network_itself_is_as_without_exits(prepared):
    _, _, ready = prepared(KEY)
    _, _, cancelled = prepared(KEY, "weights cancelled")
    x = torch.stack(list(ready.data.test.inputs[:16]))
    with torch.inference_mode():
        assert torch.equal(ready.model.full(x), cancelled.model.full(x))
        assert not torch.equal(ready.model(x)["answer"][0], cancelled.model(x)["answer"][0])


# The released code.


def test_agrees_with_the_released_code(golden):
    """What gates read, both losses with their gradients, targets, weights and exits (see `provenance` in the file)."""
    z = torch.tensor(golden["logits"], requires_grad=True)
    y, costs = torch.tensor(golden["labels"]), torch.tensor(golden["costs"])
    assert torch.allclose(doubts(z[:-1]), torch.tensor(golden["doubts"]), atol=1e-6)
    w, b = torch.tensor(golden["gate_weights"]), torch.tensor(golden["gate_biases"])
    logits = (doubts(z[:-1]) * w[:, None]).sum(dim=-1) + b[:, None]
    P = exit_probabilities(logits.sigmoid())
    assert torch.allclose(P, torch.tensor(golden["P"]), atol=1e-6)
    outputs = torch.cat([logits.sigmoid(), logits[:1]])
    assert replay(ExitProbability(0.5), outputs).tolist() == golden["exits"]
    losses = losses_of(z, y)
    for case in golden["gate_losses"]:
        a = gate_targets(losses.detach(), costs, case["lam"])
        found = gate_loss(logits, a, torch.tensor(case["positive"]))
        assert float(found) == pytest.approx(case["loss"], rel=1e-5)
        assert positive_weights(exactly(case["counts"], 40)).tolist() == pytest.approx(case["from_counts"])
    found = classifier_loss(losses[:-1], P, detached=False)
    assert float(found) == pytest.approx(golden["classifier_loss"], rel=1e-5)
    (slope,) = torch.autograd.grad(found, z, retain_graph=True)
    assert torch.allclose(slope[:-1], torch.tensor(golden["classifier_gradient"]), atol=1e-6)
    mended = classifier_loss(losses[:-1], P, detached=True)
    (other,) = torch.autograd.grad(mended, z)
    r = (losses[:-1].sum(dim=0) / (P * losses[:-1]).sum(dim=0)).clamp(max=LARGEST_R)
    assert float(mended) == pytest.approx(float((r * P * losses[:-1]).mean()), rel=1e-5)
    assert not torch.allclose(other, slope, atol=1e-3)


def test_the_released_code_is_named_for_all_that_it_made(golden):
    made = golden["provenance"]
    assert {*made} == {"repository", "commit", "path", "how"}
    assert len(made["commit"]) == 40
    assert all(name in made["how"] for name in ("P", "exits", "loss", "gradient", "set_from_validation"))


def exactly(counts, n):
    """Targets ``[G, n]`` of which so many are 1."""
    return (torch.arange(n) < torch.tensor(counts)[:, None]).float()


# What is claimed.


def points(*pairs):
    return [
        OperatingPoint(knob=i, quality=q, cost=cost, speed_up=1 / cost, exits=[1.0])
        for i, (cost, q) in enumerate(pairs)
    ]


@pytest.mark.parametrize(("costs", "holds"), [((0.4, 0.6, 0.9), True), ((0.5, 0.4, 0.9), False), ((0.85, 0.9), False)])
def test_a_lower_price_must_buy_computation(costs, holds):
    assert tried.governed(points(*((cost, 0.8) for cost in costs))).holds is holds


@pytest.mark.parametrize(("errors", "holds"), [([0.02, 0.03], True), ([0.05, 0.06], False)])
def test_calibration_is_compared_with_the_dearest_threshold_that_costs_no_more(errors, holds):
    def of(found, *costs):
        curve = points(*((cost, 0.8) for cost in costs))
        return tried.Tried(Baseline(name="x", validation=curve, test=curve), found)

    ours, theirs = of(errors, 0.5, 0.8), of([0.01, 0.05, 0.04, 0.0], 0.4, 0.5, 0.7, 0.9)
    found = tried.trusted(ours, theirs)
    assert found.holds is holds
    assert found.measured == f"{errors[0]:.4f} and 0.0500; {errors[1]:.4f} and 0.0400: 2 of 2 prices"
    outside = tried.trusted(of([*errors, 0.9, 0.9], 0.5, 0.8, 0.39, 0.91), theirs)  # cheaper, or dearer, than any
    assert outside.measured == f"{found.measured[:-13]}2 of 4 prices"
    assert outside.holds is holds
    none = tried.trusted(of([0.0], 0.3), theirs)
    assert (none.holds, none.measured) == (False, "none: 0 of 1 prices")


def test_it_is_told_how_many_prices_can_be_compared():
    ours, theirs = (
        Baseline(name="x", validation=curve, test=curve)
        for curve in (points((0.2, 0.8), (0.4, 0.85), (0.6, 0.9)), points((0.3, 0.82), (0.6, 0.89)))
    )
    found = tried.better("thresholds", ours, theirs, "Here")
    assert found.name == "better than thresholds"
    assert found.measured.endswith("over 21 costs; 2 of 3 prices within the range")


def test_what_is_compared_is_what_each_sample_is_told_at_its_exit():
    outputs = {"answer": torch.tensor([[[9.0, 0.0]] * 2, [[0.0, 9.0]] * 2]), "gate": torch.tensor([[0.9, 0.1]] * 2)}
    seen = SimpleNamespace(
        outputs=outputs, targets=torch.tensor([0, 1]), at=lambda exits: outputs["answer"][exits, [0, 1]]
    )
    assert tried.error_of(ExitProbability(0.5), seen) < 0.001


def test_thresholds_are_judged_on_exits_of_the_same_optimiser_and_told_on_others():
    def of(*pairs):
        return tried.Tried(Baseline(name="x", validation=points(*pairs), test=points(*pairs)), [])

    ours, alike, apart = (of((0.3, quality), (0.6, quality)) for quality in (0.80, 0.79, 0.81))
    found = tried.than_thresholds(ours, alike, apart)
    assert found.holds
    assert found.measured.startswith("+0.0100 on average over 21 costs; 2 of 2 prices within the range; ")
    assert found.measured.endswith("by AdamW alone: -0.0100 on average over 21 costs")
    assert not tried.than_thresholds(ours, apart, alike).holds


def test_rivals_see_as_many_steps_and_prices_are_trainings(monkeypatch):
    tables, compared = [], {}
    monkeypatch.setattr(JeiDnn, "prepare", lambda self, bench: self)
    monkeypatch.setattr(JeiDnn, "rule", lambda self, knob, ready: ExitProbability(knob))

    def evaluate(_, settings, knobs):
        tables.append((settings, knobs))
        return SimpleNamespace(points=SimpleNamespace(test=[]), settings=settings)

    monkeypatch.setattr(tried, "evaluate", evaluate)
    monkeypatch.setattr(JeiDnn, "data", SimpleNamespace(classes=10), raising=False)
    for name in ("trusted", "governed", "better", "than_thresholds"):
        monkeypatch.setattr(tried, name, lambda *given, name=name: compared.update({name: given}))
    method = JeiDnn()
    tried.claims(method, method, None, None)
    (prices, lambdas), (cancelled, _) = (table for table in tables if len(table[0]) == len(tried.LAMBDAS))
    assert [ready.lam for _, ready in prices] == list(tried.LAMBDAS) == list(lambdas)
    assert all(policy == ExitProbability(0.5) and ready.detached for policy, ready in prices)
    assert [(ready.lam, ready.detached) for _, ready in cancelled] == [(lam, False) for lam in tried.LAMBDAS]
    ours, alike, apart = (each.settings for each in compared["than_thresholds"])
    assert ours == prices
    assert alike[0][1] == method.replace({"detached": False})
    assert {type(policy) for policy, _ in [*alike, *apart]} == {MaxConfidence}
    assert apart[0][1] == method.replace({"warm_epochs": method.warm_epochs + method.joint_epochs, "joint_epochs": 0.0})
    assert [each.settings for each in compared["trusted"]] == [prices, alike]
    assert tried.claims(method.replace({"detached": False}), method, None, None) == []
