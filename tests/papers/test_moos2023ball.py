"""What only the ball detector promises: the released network, an exit that can only reject, places."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import moos2023ball as claimed
from eelit.methods.data import balls
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.moos2023ball import EPS, BallDetector, f1, spot_loss

KEY = "moos2023ball"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


def tiny(**settings):
    return registry.get(KEY).variant("known balls", "tiny").replace(settings)


@pytest.fixture(scope="module")
def network():
    return BallDetector().build(None, seed=0).eval()


# The network.


def test_costs_are_those_of_the_released_network(network):
    every, alone = costs.both_costs(network, torch.zeros(1, 3, 32, 32))
    assert every == [13_568, 79_424]
    assert alone == [13_568, 78_912]


def test_maps_are_those_of_the_released_network(network):
    x, shapes = torch.rand(2, 3, 32, 32), []
    for part in (network.stages[0], *network.stages[1]):
        x = part(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [
        (8, 16, 16), (4, 16, 16), (16, 8, 8), (8, 8, 8), (20, 4, 4), (12, 4, 4), (32, 2, 2), (16, 2, 2),
    ]  # fmt: skip


def test_all_logits_are_those_of_the_released_network():
    model = BallDetector().build(None, seed=0).eval()
    ordered = nn.ModuleList([model.stages[0], model.heads[0], model.stages[1], model.heads[1]])
    with torch.no_grad():
        for c, p in enumerate(ordered.parameters()):
            wave = torch.cos(torch.arange(p.numel(), dtype=torch.float64) * 0.7 + c)
            p.copy_((wave * 1.5 / (p[0].numel() if p.dim() > 1 else 40) ** 0.5).reshape(p.shape))
        for told in json.loads(GOLDEN.read_text())["patches"]:
            i = torch.arange(32 * 32 * 3, dtype=torch.float64).reshape(32, 32, 3)
            patch = (4 + 3.5 * torch.sin(told["step"] * i)).floor().float().permute(2, 0, 1)[None]
            state = model.stages[0](patch)
            assert torch.allclose(state[0, :, 3, 4], torch.tensor(told["state"]), atol=1e-5)
            assert (-model.heads[0](state)["rejection"]).logit().item() == pytest.approx(told["e"], abs=1e-4)
            spot = model.heads[1](model.stages[1](state))[0]
            assert torch.allclose(spot.logit(), torch.tensor(told["spot"]), atol=1e-4)


def test_padding_is_at_the_right_and_below(network):
    first = network.stages[0]
    x = torch.rand(1, 3, 32, 32)
    expected = first[1](F.pad(x, (0, 1, 0, 1)))
    assert torch.equal(first[1](first[0](x)), expected)


def test_the_exit_answers_the_middle_and_never_detects(network):
    state = network.stages[0](torch.rand(5, 3, 32, 32))
    found = network.heads[0](state)
    e = network.heads[0].linear(F.max_pool2d(state, 2).flatten(1)).sigmoid()[:, 0]
    assert torch.equal(found["rejection"], -e)
    assert torch.allclose(found["answer"][:, 0], e / 100)
    assert (found["answer"][:, 1:] == 0.5).all()


def test_a_threshold_that_a_rejected_patch_could_reach_is_refused():
    with pytest.raises(ValueError, match=r"tau is above 0.01.* not 0.01"):
        BallDetector(tau=0.01).build(None, seed=0)


# The rule.


def test_a_patch_is_rejected_strictly_below_rho():
    e = torch.tensor([0.5, 0.49999, math.nan])
    outputs = {"answer": torch.zeros(2, 3, 3), "rejection": torch.stack([-e, -e])}
    policy = BallDetector().policy
    assert replay(policy(0.5, None), outputs).tolist() == [1, 0, 1]
    assert replay(policy(0.0, None), outputs).tolist() == [1, 1, 1]
    assert replay(policy(1.1, None), outputs).tolist() == [0, 0, 1]


def test_detections_with_the_exit_are_some_of_those_without(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    full = seen.answers[-1][:, 0] >= method.tau
    assert full.any()
    before = None
    for knob in method.knobs:
        exits = replay(method.rule(knob, ready), seen.outputs)
        spots = seen.at(exits)
        ours = spots[:, 0] >= method.tau
        assert not (ours & ~full).any()
        assert torch.equal(spots[exits == 1], seen.answers[-1][exits == 1])
        assert before is None or not (before & ~ours).any(), "a lower rho keeps what a higher one found"
        before = ours
    assert torch.equal(before, full)


# Training.


def test_the_loss_by_hand():
    spots = torch.tensor([[0.8, 0.5, 0.6], [0.3, 0.9, 0.9]])
    targets = torch.tensor([[1.0, 0.4, 0.4], [0.0, 0.0, 0.0]])
    confidence, place = -(math.log(0.8) + math.log(0.7)) / 2, (0.01 + 0.04) / 2
    beta = confidence / (place + EPS)
    assert spot_loss(spots, targets, 100).item() == pytest.approx(confidence + beta * place, rel=1e-5)
    assert spot_loss(spots, targets, 2).item() == pytest.approx(confidence + 2 * place, rel=1e-5)


def test_a_fixed_beta_is_the_same_whatever_the_losses(stages):
    spots, targets = torch.tensor([[0.8, 0.5, 0.6]]), torch.tensor([[1.0, 0.4, 0.4]])
    found = spot_loss(spots, targets, 100, dynamic=False).item()
    assert found == pytest.approx(-math.log(0.8) + 100 * 0.05, rel=1e-5)
    method = tiny(dynamic=False, beta_most=7.0)
    whole, _ = stages(method)
    x = torch.stack([whole.train.inputs[i] for i in range(8)])
    expected = spot_loss(method.build(None, 0).full(x), whole.train.targets[:8], 7.0, dynamic=False)
    assert whole.loss(whole.batch_of(torch.arange(8), x)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_beta_is_a_constant_for_the_gradient():
    spots = torch.tensor([[0.8, 0.5, 0.6]], requires_grad=True)
    for most, beta in ((3, 3), (100, -math.log(0.8) / (0.05 + EPS))):
        (slope,) = torch.autograd.grad(spot_loss(spots, torch.tensor([[1.0, 0.4, 0.4]]), most), spots)
        assert slope[0].tolist() == pytest.approx([-1 / 0.8, beta * 2 * 0.1, beta * 2 * 0.2], rel=1e-4)


def test_background_has_no_place():
    spots = torch.tensor([[0.2, 0.9, 0.1]], requires_grad=True)
    loss = spot_loss(spots, torch.zeros(1, 3), 100)
    assert loss.item() == pytest.approx(-math.log(0.8), rel=1e-5)
    assert torch.autograd.grad(loss, spots)[0][0, 1:].tolist() == [0, 0]


def test_the_network_first_and_then_the_exit_alone(stages):
    method = tiny()
    whole, early = stages(method)
    steps = math.ceil(method.train_size / method.batch)
    assert [whole.steps, early.steps] == [round(method.epochs * steps), round(method.head_epochs * steps)]
    model = method.build(None, 0)
    assert len(whole.rates) == len([*model.plain_network().parameters()])
    assert len(early.rates) == 2
    assert {*whole.rates.values(), *early.rates.values()} == {method.rate}
    index = torch.arange(8)
    x = torch.stack([whole.train.inputs[i] for i in range(8)])
    expected = spot_loss(model.full(x), whole.train.targets[:8], method.beta_most)
    assert whole.loss(whole.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-4)
    e = -model.heads[0](model.stages[0](x))["rejection"]
    expected = F.binary_cross_entropy(e, whole.train.targets[:8, 0])
    pooled = F.max_pool2d(model.stages[0](x), 2)
    assert early.loss(early.batch_of(index, [pooled])).item() == pytest.approx(expected.item(), rel=1e-4)


# Measures and data.


def test_f1_by_hand():
    true = torch.tensor([True, True, False, False])
    assert f1(torch.tensor([True, False, True, False]), true) == 0.5
    assert f1(true, true) == 1
    assert f1(~true & true, ~true & true) == 0


def test_a_confidence_that_just_reaches_tau_is_a_detection():
    spots, targets = torch.tensor([[0.25, 0.5, 0.5], [0.2499, 0.5, 0.5]]), torch.ones(2, 3)
    assert BallDetector().score(spots, targets) == pytest.approx(2 / 3)


def drawn(**settings):
    return balls.patches("drawn", **{"share": 0.3, "train": 200, "validation": 40, "test": 40, **settings})


def test_as_many_patches_show_the_ball_as_are_asked_for():
    part = drawn().train
    assert part.images.shape == (200, 3, 32, 32)
    assert part.spots[:, 0].mean() == pytest.approx(0.3, abs=0.1)
    assert (part.spots[part.spots[:, 0] == 0] == 0).all()
    centres = part.spots[part.spots[:, 0] == 1, 1:]
    assert 0 < centres.min() < 0.3
    assert 0.7 < centres.max() < 1


def test_a_ball_lies_where_it_is_said_to_lie():
    from PIL import Image

    random = np.random.default_rng(0)
    for _ in range(20):
        patch = Image.new("RGB", (32, 32))
        across, down = balls._place(patch, balls._disc(False, spots=False), random)
        bright = np.asarray(patch)[..., 0] > 120
        rows, columns = np.nonzero(bright)
        whole = rows.min() > 0 and columns.min() > 0 and rows.max() < 31 and columns.max() < 31
        if whole:
            assert (columns.mean() + 0.5, rows.mean() + 0.5) == pytest.approx((across, down), abs=1)


def test_parts_do_not_depend_on_the_size_of_others():
    assert np.array_equal(drawn().test.images, drawn(train=210).test.images)
    assert drawn().digest == drawn().digest != drawn(train=210).digest


@pytest.mark.parametrize(
    ("source", "share", "said"), [("cubes", 0.1, "no balls 'cubes'"), ("drawn", 0.0, "between 0 and 1")]
)
def test_what_there_is_not_is_refused(source, share, said):
    with pytest.raises(ValueError, match=said):
        balls.patches(source, share=share, train=1, validation=1, test=1)


# Claims.


def test_claims_can_fail():
    targets = torch.tensor([[1.0, 0.2, 0.2], [1.0, 0.8, 0.8], [0.0, 0.0, 0.0]])
    full = torch.tensor([True, True, False])
    assert claimed.rejected(full, full, targets, 0.3, 0.1).holds
    assert not claimed.rejected(full, full, targets, 0.2, 0.1).holds
    assert not claimed.rejected(torch.tensor([True, False, False]), full, targets, 0.3, 0.1).holds
    assert not claimed.rejected(~full | full, full, targets, 0.3, 0.1).holds
    assert not claimed.rejected(full, full, torch.zeros_like(targets), 0.2, 0.1).holds
    few = torch.tensor([[1.0, 0.2, 0.2]] * 99 + [[1.0, 0.2, 0.2], [0.0, 0.0, 0.0]])
    both, fewer = torch.ones(101, dtype=torch.bool), torch.arange(101) > 0
    assert claimed.rejected(fewer, both, few, 0.3, 0.1).holds, "precision falls by a hundredth of a point, as balls do"
    assert claimed.precise(full, targets).holds
    assert not claimed.precise(~full | full, targets).holds
    assert claimed.placed(targets, targets, full).holds
    assert not claimed.placed(torch.full_like(targets, 0.5), targets, full).holds
    assert not claimed.placed(targets, targets, full & ~full).holds


def test_all_claims_are_tried_at_the_cheapest_rho_that_loses_a_point(monkeypatch):
    """Of two balls one is lost, and there is one false alarm; a rho that loses a point and a half would be cheaper."""
    asked = []
    monkeypatch.setattr(claimed, "replay", lambda rule, outputs: asked.append((rule, outputs)) or "exits")
    ours = torch.tensor([[0.9, 0.5, 0.75], [0.2, 0.0, 0.0], [0.0, 0.5, 0.5], [0.25, 0.5, 0.5]])
    full = torch.tensor([[0.9, 0.5, 0.5], [0.9, 0.5, 0.5], [0.1, 0.5, 0.5], [0.3, 0.5, 0.5]])
    targets = torch.tensor([[1.0, 0.5, 0.875], [1.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    seen = SimpleNamespace(
        outputs="outputs", at=lambda exits: {"exits": ours}[exits], answers=[None, full], targets=targets
    )
    held = points((0.5, 0.5, 10), (0.2, 0.885, 20), (0.05, 0.895, 40), (0.0, 0.9, 100))
    test = points((0.5, 0, 8), (0.2, 0, 30), (0.05, 0, 62.5), (0.0, 1, 100))
    curve = SimpleNamespace(validation=held, test=test, full_quality=0.5)
    method, tried = SimpleNamespace(tau=0.25, rule=lambda rho, prepared: ("rule", rho)), []
    prepared = SimpleNamespace(split=lambda part: {"validation": seen, "test": seen}[part])
    same = claimed.Spots(full, targets, full, targets)
    monkeypatch.setattr(claimed, "fixed", lambda method, beta, bench: tried.append(beta) or same)
    found = claimed.claims(method, prepared, None, curve)
    assert asked == [(("rule", 0.05), "outputs")]
    assert [outcome.measured for outcome in found] == [
        "37.5% of the MACs saved, precision 50.0% instead of 66.7%, 50.0% of the balls lost, at rho = 0.05",
        "precision 50.0%, recall 50.0%",
        "4.0 pixels, the middle 12.0",
        "F1 0.4000 instead of 0.4000 with a weight of 1, patches judged right +0.0000 ± 0.0000",
    ]
    assert [outcome.holds for outcome in found] == [False, False, True, False]
    assert not any(outcome.not_comparable for outcome in found)
    assert tried == [1.0, 10.0, 100.0]
    curve.full_quality = 0.49
    blind = claimed.claims(method, prepared, None, curve)
    assert [bool(outcome.not_comparable) for outcome in blind] == [True, False, False, False]


def test_a_detection_counts_where_its_place_is_nearly_right():
    spots = torch.tensor([[0.3, 0.5, 0.59], [0.3, 0.5, 0.61], [0.2, 0.5, 0.5], [0.3, 0.0, 0.0], [0.1, 0.5, 0.5]])
    targets = torch.tensor([[1.0, 0.5, 0.5]] * 3 + [[0.0, 0.0, 0.0]] * 2)
    right, f1 = claimed.near(spots, targets, 0.25)
    assert right.tolist() == [True, False, False, False, True]
    assert f1 == pytest.approx(2 * 1 / (3 + 3))
    assert claimed.near(spots[4:], targets[4:], 0.25)[1] == 0


def test_the_fixed_weight_is_chosen_on_validation_patches_and_told_on_test_patches():
    true = torch.tensor([[1.0, 0.5, 0.5]] * 50)
    good, bad = torch.tensor([[0.9, 0.5, 0.5]] * 50), torch.tensor([[0.9, 0.5, 0.9]] * 50)
    half = torch.cat([good[:25], bad[:25]])
    ours, chosen, other = (claimed.Spots(a, true, b, true) for a, b in ((bad, half), (good, bad), (bad, good)))
    found = claimed.beside_fixed(ours, [(1.0, other), (10.0, chosen)], 0.25)
    assert found.holds
    assert found.measured.startswith("F1 0.5000 instead of 0.0000 with a weight of 10, patches judged right +0.5000")
    assert not claimed.beside_fixed(ours, [(1.0, ours)], 0.25).holds
    assert not claimed.beside_fixed(ours, [(1.0, claimed.Spots(good, true, good, true))], 0.25).holds


def test_rivals_are_the_same_network_with_a_fixed_weight(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    seen = []
    monkeypatch.setattr(BallDetector, "prepare", lambda self, bench: seen.append(self) or ready)
    found = claimed.fixed(method, 10.0, bench)
    assert seen == [method.replace({"dynamic": False, "beta_most": 10.0})]
    assert torch.equal(found.held, ready.split("validation").answers[-1])
    assert torch.equal(found.test_targets, ready.split("test").targets)


def points(*each):
    """Operating points of a knob, a quality and a cost of 100."""
    return [OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=[1.0]) for k, q, c in each]
