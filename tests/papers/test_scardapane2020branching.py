"""What only differentiable branching promises: one soft output and one soft cost of all branches, hard at inference."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import scardapane2020branching as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.families import images
from eelit.methods.harness import registry
from eelit.methods.papers.scardapane2020branching import (
    Branch,
    DifferentiableBranching,
    branching_loss,
    cost_shares,
    soft,
    soft_cost,
)
from eelit.methods.papers.wang2019dynexit import DynExit
from eelit.methods.policies.gate_confidence import GateConfidence

KEY = "scardapane2020branching"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
C = torch.tensor([0.2, 0.5, 0.7, 1.0], dtype=torch.float64)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def z():
    return torch.randn(4, 30, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 2


@pytest.fixture
def g():
    return torch.rand(3, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


@pytest.fixture
def y():
    return torch.arange(30) % 5


def tiny(variant="with branch losses", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def sticks(g):
    """pi_i ``[B, N]`` of gates ``[B - 1, N]``, branch by branch."""
    found, left = [], torch.ones_like(g[0])
    for g_i in [*g, torch.ones_like(g[0])]:
        found.append(left * g_i)
        left = left * (1 - g_i)
    return torch.stack(found)


def loss_of(z, g, y, lam=0.3, a=0.0, mixed="probabilities"):
    return branching_loss(z, g, y, c=C.to(z), lam=lam, a=a, mixed=mixed)


# The soft output and the soft cost.


def test_worked_case():
    """Gates (1/2, 1/2, 1) give pi = (1/2, 1/4, 1/4); at costs (0.2, 0.6, 1) they cost 0.1 + 0.15 + 0.25."""
    g = torch.tensor([[0.5], [0.5]])
    assert soft(torch.eye(3)[:, None], g[..., None])[0].tolist() == [0.5, 0.25, 0.25]
    assert soft_cost(torch.tensor([0.2, 0.6, 1.0]), g).item() == pytest.approx(0.5)


def test_the_recursion_is_a_mean_by_chances_that_sum_to_one(z, g):
    pi = sticks(g)
    assert (pi >= 0).all()
    assert torch.allclose(pi.sum(0), torch.ones(30, dtype=torch.float64))
    y_i = z.softmax(-1)
    s_1 = soft(y_i, g[..., None])
    assert torch.allclose(s_1, (pi[..., None] * y_i).sum(0))
    assert torch.allclose(s_1.sum(-1), torch.ones(30, dtype=torch.float64))
    assert torch.allclose(soft_cost(C, g), (pi * C[:, None]).sum(0))


def test_shut_gates_leave_the_plain_network_and_an_open_one_the_first_branch(z, g):
    shut, opened = torch.zeros_like(g), torch.cat([torch.ones_like(g[:1]), g[1:]])
    assert torch.equal(soft(z, shut[..., None]), z[-1])
    assert (soft_cost(C, shut) == 1).all()
    assert torch.equal(soft(z, opened[..., None]), z[0])
    assert (soft_cost(C, opened) == 0.2).all()


def test_hard_gates_give_answer_and_cost_of_the_first_open_branch(z, g):
    hard = (g > 0.5).to(z)
    exits = replay(GateConfidence(0.5), {"answer": z, "gate": torch.cat([hard, hard[:1]])})
    assert len(set(exits.tolist())) == 4
    assert torch.equal(soft(z, hard[..., None]), z[exits, torch.arange(30)])
    assert torch.equal(soft_cost(C, hard), C[exits])


# The loss.


def test_loss_by_hand():
    """Of two branches: s_1 = g y_1 + (1 - g) y_2, here 0.25 · 0.8 + 0.75 · 0.4 of the true class."""
    z = torch.tensor([[[0.8, 0.2]], [[0.4, 0.6]]]).log()
    found = branching_loss(
        z, torch.tensor([[0.25]]), torch.tensor([0]), c=torch.tensor([0.4, 1.0]), lam=0.1, a=0.0, mixed="probabilities"
    )
    assert found.item() == pytest.approx(-math.log(0.5) + 0.1 * (0.25 * 0.4 + 0.75), rel=1e-6)


def test_probabilities_are_mixed_and_not_logits_unless_that_is_asked_for(z, g, y):
    pi = sticks(g)[..., None]
    cost = 0.3 * soft_cost(C, g).mean()
    ours = F.nll_loss((pi * z.softmax(-1)).sum(0).log(), y) + cost
    later = F.cross_entropy((pi * z).sum(0), y) + F.cross_entropy(z[-1], y) + cost
    assert loss_of(z, g, y).item() == pytest.approx(ours.item())
    assert loss_of(z, g, y, mixed="logits").item() == pytest.approx(later.item())
    assert ours.item() != pytest.approx(later.item(), rel=1e-2)


def test_a_branch_learns_as_much_as_the_chance_to_end_there(z, g, y):
    """The gradient of -ln s_1[y] with y_i is -pi_i / s_1[y]: with z_i, pi_i y_i (y_i[c] - 1 at c = y) / s_1[y]."""
    leaf = z.clone().requires_grad_()
    loss_of(leaf, g, y).backward()
    y_i, rows = z.softmax(-1), torch.arange(30)
    right = y_i[:, rows, y]
    s_1 = (sticks(g) * right).sum(0)
    expected = (sticks(g) * right / s_1)[..., None] * (y_i - F.one_hot(y, 5)) / 30
    assert torch.allclose(leaf.grad, expected)


def test_nothing_is_learned_behind_a_gate_that_is_wide_open(z, g, y):
    """The trap of the method; the variant keeps a loss of the last branch."""
    opened = torch.cat([g[:1], torch.ones_like(g[:1]), g[2:]])
    for mixed, last in (("probabilities", False), ("logits", True)):
        leaf = z.clone().requires_grad_()
        loss_of(leaf, opened, y, mixed=mixed).backward()
        learns = (leaf.grad.abs().sum(dim=(1, 2)) > 0).tolist()
        assert learns == [True, True, False, last]


@pytest.mark.parametrize("mixed", ["probabilities", "logits"])
def test_branches_own_losses_come_on_top(z, g, y, mixed):
    own = sum(F.cross_entropy(z_i, y) for z_i in z).item()
    without = loss_of(z, g, y, mixed=mixed).item()
    assert loss_of(z, g, y, a=0.3, mixed=mixed).item() == pytest.approx(without + 0.3 * own)


def test_all_branches_and_gates_learn_from_the_front(z, g, y):
    """At the other end of the recursion, as the reproduction prints it, only the last branch would."""
    leaf, gates = z.clone().requires_grad_(), g.clone().requires_grad_()
    loss_of(leaf, gates, y, lam=0.0).backward()
    assert (leaf.grad.abs().sum(dim=(1, 2)) > 0).all()
    assert (gates.grad.abs().sum(dim=1) > 0).all()


def test_the_price_alone_opens_every_gate(z, g, y):
    """dk_1 / dg_i = prod_{j<i} (1 - g_j) (c_i - k_{i+1}) < 0."""
    gates = g.clone().requires_grad_()
    soft_cost(C, gates).sum().backward()
    k, left = [C[3].expand(30)], torch.ones(30, dtype=torch.float64)
    for i in (2, 1, 0):
        k.insert(0, g[i] * C[i] + (1 - g[i]) * k[0])
    for i in range(3):
        assert torch.allclose(gates.grad[i], left * (C[i] - k[i + 1]))
        left = left * (1 - g[i])
    assert (gates.grad < 0).all()


def test_a_certain_error_of_all_branches_is_no_infinite_loss():
    z = torch.tensor([[[500.0, -500.0]]] * 2, requires_grad=True)
    found = branching_loss(
        z, torch.tensor([[0.5]]), torch.tensor([1]), c=torch.tensor([0.4, 1.0]), lam=0.0, a=0.0, mixed="probabilities"
    )
    found.backward()
    assert found.item() == pytest.approx(-math.log(torch.finfo(torch.float32).tiny), rel=1e-4)
    assert z.grad.isfinite().all()


# The network.


def test_a_branch_and_its_gate_read_the_same_map():
    torch.manual_seed(0)
    branch, x = Branch((3, 8, 8), 10), torch.randn(5, 3, 8, 8)
    pool, _, linear = branch.shared
    phi = pool(x).flatten(1)
    said = branch(x)
    assert torch.allclose(said["answer"], phi @ linear.weight[:10].T + linear.bias[:10], atol=1e-5)
    assert torch.allclose(said["gate"], torch.sigmoid(phi @ linear.weight[10] + linear.bias[10]), atol=1e-6)
    assert said["gate"].shape == (5,)


def test_a_gate_is_computed_in_float32():
    branch = Branch((1, 2, 2), 3).to(torch.bfloat16)
    assert branch(torch.randn(4, 1, 2, 2, dtype=torch.bfloat16))["gate"].dtype == torch.float32


def test_the_last_branch_is_the_network_s_own_and_has_no_gate(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    with torch.inference_mode():
        said = ready.model(x)
        assert torch.equal(said["answer"][-1], ready.model.full(x))
    assert ((said["gate"][:-1] > 0) & (said["gate"][:-1] < 1)).all()
    assert said["gate"][-1].isnan().all()
    assert torch.equal(infer(ready.model, x, method.rule(1.1, ready)).answers, said["answer"][-1])


def test_images_leave_at_the_first_gate_that_reaches_the_threshold(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        said = ready.model(x)
    for threshold in (0.3, 0.5, 0.7):
        assert method.rule(threshold, ready) == GateConfidence(threshold)
        reached = torch.cat([said["gate"][:-1] >= threshold, torch.ones(1, 64, dtype=torch.bool)])
        found = infer(ready.model, x, method.rule(threshold, ready))
        assert found.exits.tolist() == reached.int().argmax(0).tolist()
        assert torch.allclose(found.answers, said["answer"][found.exits, torch.arange(64)], atol=1e-5)
    gates = torch.tensor([[0.5], [0.9], [0.0]])
    assert replay(GateConfidence(0.5), {"answer": torch.zeros(3, 1, 2), "gate": gates}).tolist() == [0]


def test_costs_are_shares_of_what_reaching_the_last_branch_costs():
    method = tiny()
    data = method.load()
    model, image = method.build(data, 0), data.train.inputs[0]
    spent = costs.exit_costs(model, image[None])
    c = cost_shares(model, image)
    assert c.tolist() == pytest.approx([each / spent[-1] for each in spent])
    assert c[-1] == 1
    assert all(a < b for a, b in pairwise(c.tolist()))


@pytest.mark.parametrize("scale", ["smoke", "default"])
def test_the_network_for_cluttered_pictures_has_a_place_for_each_branch(scale):
    method = registry.get(KEY)
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    assert method.variant(next(iter(method.variants)), scale).build(pictures, 0).exits == 6


# How it is trained.


def test_one_stage_trains_network_branches_and_gates(one_stage):
    method = tiny(batch=20, epochs=1.5, rate=3e-3)
    model, stage = one_stage(method)
    assert stage.rates == dict.fromkeys((id(p) for p in model.parameters()), 3e-3)
    assert (stage.epochs, stage.batch, len(stage.train), stage.steps) == (1.5, 20, 600, 45)
    assert type(stage.optimiser) is torch.optim.AdamW
    assert torch.equal(stage.train.targets, method.load().train.targets)


@pytest.mark.parametrize("variant", DifferentiableBranching.variants)
@pytest.mark.parametrize("mixed", ["probabilities", "logits"])
@pytest.mark.parametrize("lam", [0.0, 0.7])
def test_the_loss_of_the_stage_is_that_of_the_formula(one_stage, variant, mixed, lam):
    model, stage = one_stage(tiny(variant, lam=lam, mixed=mixed))
    model.eval()
    index = torch.arange(40, 60)
    x, y = torch.stack(stage.train.inputs[40:60]), stage.train.targets[index]
    with torch.no_grad():
        *states, end = model.states(x)
        heads = [head.shared(state) for head, state in zip(model.heads, states, strict=False)]
        z = torch.stack([*(each[:, :10] for each in heads), model.heads[-1](end)])
        pi = sticks(torch.stack([each[:, 10].sigmoid() for each in heads]))
    spent = costs.exit_costs(model, x[:1])
    k_1 = (pi * (torch.tensor(spent) / spent[-1])[:, None]).sum(0)
    if mixed == "probabilities":
        error = F.nll_loss((pi[..., None] * z.softmax(-1)).sum(0).log(), y)
    else:
        error = F.cross_entropy((pi[..., None] * z).sum(0), y) + F.cross_entropy(z[-1], y)
    own = 0.3 * sum(F.cross_entropy(z_i, y) for z_i in z) if variant == "with branch losses" else 0.0
    found = stage.loss(stage.batch_of(index, x))
    assert found.item() == pytest.approx((error + lam * k_1.mean() + own).item(), rel=1e-4)
    found.backward()
    assert all(head.shared[2].weight.grad[10].abs().sum() > 0 for head in model.heads[:-1])


def test_a_mixture_that_there_is_not_is_refused():
    with pytest.raises(ValueError, match="gates mix no 'scores'; there are probabilities and logits"):
        tiny(mixed="scores").prepare(Bench(most_steps=0))


def test_a_higher_price_opens_gates(prepared):
    """The same few steps at no price and at a high one."""
    found = []
    for lam in (0.0, 5.0):
        method = tiny(lam=lam, epochs=2.0, train_size=300)
        ready = method.prepare(Bench())
        seen = ready.split("validation")
        c = cost_shares(ready.model, seen.examples.inputs[0])
        found.append(soft_cost(c, seen.outputs["gate"][:-1]).mean().item())
    assert found[1] < found[0] - 0.05


# Later code of the group.


def test_mixing_logits_agrees_with_later_code_of_the_group(golden):
    """Not the paper's own code: `provenance` in the file says what was run."""
    c = torch.tensor(golden["costs"]) / golden["costs"][-1]
    y = torch.tensor(golden["targets"])
    for case in golden["cases"]:
        z = torch.tensor(golden["logits"], requires_grad=True)
        g = torch.tensor(golden["gate_logits"]).sigmoid().requires_grad_()
        found = branching_loss(z, g, y, c=c, lam=case["lam"], a=0.0, mixed="logits")
        found.backward()
        assert found.item() == pytest.approx(case["loss"], rel=1e-5)
        assert torch.allclose(z.grad, torch.tensor(case["grad_z"]), atol=1e-6)
        assert torch.allclose(g.grad, torch.tensor(case["grad_g"]), atol=1e-6)


# What is claimed.


def points(*pairs):
    """Settings by cost and quality, the knob being their number."""
    made = [
        OperatingPoint(knob=i, quality=q, cost=cost, speed_up=1 / cost, exits=[1.0])
        for i, (cost, q) in enumerate(pairs)
    ]
    return Baseline(name="x", validation=made, test=made)


@pytest.mark.parametrize(
    ("first", "holds"), [((0.6, 0.795), True), ((0.68, 0.8), False), ((0.6, 0.794), False), ((0.3, 0.7), False)]
)
def test_a_third_must_be_saved_at_nearly_the_accuracy_without_branches(first, holds):
    found = claimed.saved(points(first, (0.9, 0.81)), 0.8, 0.8, "")
    assert found.holds is holds
    assert claimed.saved(points((0.6, 0.8)), 0.8, 0.811, "").holds is False
    alone = claimed.saved(points(first, (0.9, 0.81)), 0.8, 0.8, "a branch does it alone")
    assert (alone.holds, alone.not_comparable) == (False, "a branch does it alone")


@pytest.mark.parametrize(("test", "holds"), [(0.804, True), (0.806, False)])
def test_the_best_price_must_beat_the_network_without_branches(test, holds):
    found = claimed.more_accurate(points((0.5, 0.8), (0.7, 0.81), (0.8, 0.81), (0.9, 0.79)), test)
    assert found.holds is holds
    assert found.measured == f"{0.81 - test:+.4f} at lambda 1; without branches {test:.4f}"


def test_the_soft_cost_is_compared_with_where_images_leave(monkeypatch):
    gates = torch.tensor([[0.5, 0.5], [0.0, 0.0], [math.nan, math.nan]])
    monkeypatch.setattr(claimed, "cost_shares", lambda model, image: torch.tensor([0.2, 0.5, 1.0]))
    seen = SimpleNamespace(
        examples=SimpleNamespace(inputs=[None]), outputs={"gate": gates}, costs=np.array([[2.0], [5.0], [10.0]])
    )
    ready = SimpleNamespace(model=None, split=lambda part: {"test": seen}[part])
    for cost, holds in ((5.6, True), (6.6, False), (5.4, False)):
        found = claimed.foretold([(None, ready)], points((cost, 0.8)))
        assert found.holds is holds, cost
        assert found.measured == f"60.0% and {cost / 10:.1%}"


def test_the_soft_output_is_compared_with_the_last_branch():
    y_i = torch.tensor([[[0.9, 0.1], [0.9, 0.1]], [[0.4, 0.6], [0.2, 0.8]]])
    outputs = {"answer": y_i.log(), "gate": torch.tensor([[0.5, 0.1], [math.nan] * 2])}
    for targets, holds, told in (
        ([0, 1], True, "1.0000, last branch 0.5000"),
        ([1, 1], False, "0.5000, last branch 1"),
    ):
        seen = SimpleNamespace(outputs=outputs, targets=torch.tensor(targets))
        found = claimed.assembled(SimpleNamespace(split=lambda part, seen=seen: {"test": seen}[part]))
        assert found.holds is holds
        assert found.measured.startswith(told)


def test_the_rival_without_branches_is_trained_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    trainings = []
    monkeypatch.setattr(
        claimed, "train_plain", lambda model, data, bench, **options: trainings.append((model, data, options))
    )
    held, test = claimed.without_branches(method, ready, bench)
    ((model, data, options),) = trainings
    assert options == method.options
    assert torch.equal(data.train.targets, ready.data.train.targets)
    x, y = torch.stack(list(ready.data.test.inputs)), ready.data.test.targets
    with torch.inference_mode():
        assert test == pytest.approx((model.eval().full(x).argmax(-1) == y).double().mean().item(), abs=0.01)
    assert 0 <= held <= 1


def test_rivals_are_on_the_same_network_and_prices_are_trainings(monkeypatch):
    tables, judged = [], []
    for kind in (DifferentiableBranching, DynExit):
        monkeypatch.setattr(kind, "prepare", lambda self, bench: self)
        monkeypatch.setattr(kind, "rule", lambda self, knob, ready: GateConfidence(knob))
    method = DifferentiableBranching()
    monkeypatch.setattr(claimed, "on_their_own", lambda *given: tables.append(given) or points((1.0, 0.5)))
    monkeypatch.setattr(claimed, "points_of", lambda rival, ready, bench: rival)
    monkeypatch.setattr(claimed, "without_branches", lambda *given: (0.1, 0.2))
    monkeypatch.setattr(claimed, "gains_of_mixtures", lambda ours, theirs: judged.append(theirs) or [0.005])
    for name in ("saved", "more_accurate", "governed", "foretold", "assembled"):
        monkeypatch.setattr(claimed, name, lambda *given, name=name: judged.append((name, given[1:])) or name)
    alone = points((0.2, 0.1), (0.6, 0.191), (1.0, 0.2)).test
    curve = SimpleNamespace(full_quality=0.9, baselines=[SimpleNamespace(name="static exit", test=alone)])
    found = claimed.claims(method, method, None, curve)
    ((_, settings, knobs),) = tables
    assert [ready.lam for _, ready in settings] == list(claimed.LAMBDAS) == list(knobs)
    assert all(policy == GateConfidence(0.5) for policy, _ in settings)
    summed, *others = judged
    assert isinstance(summed, DynExit)
    assert not summed.learned
    assert all(getattr(summed, name) == getattr(method, name) for name in images.SHARED)
    ((name, (held, test, reason)), *others) = others
    assert (name, held, test) == ("saved", 0.1, 0.2)
    assert reason.startswith("Branch 1 by itself, for 60% of the cost, reaches 0.1910, and the whole network 0.2000:")
    assert others[:1] == [("more_accurate", (0.2,))]
    assert (found[0].name, found[0].holds) == ("better than thresholds on entropy", True)
    assert found[1:] == ["saved", "more_accurate", "governed", "foretold", "assembled"]
    assert claimed.claims(method.replace({"a": 0.0}), method, None, None) == []
