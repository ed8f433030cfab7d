"""What only ELF promises: who is charged at which exit, the losses for long tails, and who may leave when."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import InternalClassifier
from eelit.methods.claims import duggal2020elf as claimed
from eelit.methods.data.images import R52
from eelit.methods.engine.evaluate import replay
from eelit.methods.harness import registry
from eelit.methods.papers.duggal2020elf import (
    Cosines,
    Elf,
    charged,
    class_weights,
    counted,
    each_loss,
    elf_loss,
    margins,
    with_cosines,
)

KEY = "duggal2020elf"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
N = torch.tensor([16, 81, 256])


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def z():
    """Confidences of four exits in 40 examples of three classes."""
    return (torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(1)) * 2).softmax(dim=-1)


@pytest.fixture
def y():
    return torch.arange(40) % 3


def tiny(variant="CE", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def confidences(*exits):
    """Confidences ``[K, 1, 2]`` of one example of class 0, from that of class 0 at each exit."""
    p = torch.tensor(exits, dtype=torch.float64)
    return torch.stack([p, 1 - p], dim=-1)[:, None]


# Who is charged.


def test_the_worked_case():
    """Wrong, right with 0.85, right with 0.93: charged at three of four exits at t = 0.9."""
    z, y = confidences(0.4, 0.85, 0.93, 0.99), torch.tensor([0])
    assert charged(z, y, 0.9)[:, 0].tolist() == [True, True, True, False]
    assert charged(z, y, 0.8)[:, 0].tolist() == [True, True, False, False]


def test_a_confidence_of_just_the_threshold_does_not_leave():
    z, y = confidences(0.75, 0.8, 0.9), torch.tensor([0])
    assert charged(z, y, 0.75)[:, 0].tolist() == [True, True, False]
    assert charged(z, y, 0.75 - 1e-9)[:, 0].tolist() == [True, False, False]


def test_who_is_sure_and_wrong_does_not_leave():
    z = confidences(0.01, 0.02, 0.95, 0.99)
    assert charged(z, torch.tensor([0]), 0.9)[:, 0].tolist() == [True, True, True, False]
    assert charged(z, torch.tensor([1]), 0.9)[:, 0].tolist() == [True, False, False, False]


def test_who_has_left_is_not_charged_again():
    """Though a later exit is wrong."""
    assert charged(confidences(0.95, 0.1, 0.95, 0.1), torch.tensor([0]), 0.9)[:, 0].tolist() == [True, *[False] * 3]


def test_no_confidence_exceeds_1(z, y):
    assert charged(z, y, 1.0).all()


def test_without_a_threshold_the_first_right_exit_is_the_last_that_charges(z, y):
    found = charged(z, y, 0.0).sum(dim=0)
    for i in range(40):
        right = [k for k in range(4) if z[k, i].argmax() == y[i]]
        assert found[i] == (right[0] + 1 if right else 4)


@pytest.mark.parametrize("t", [0.0, 0.5, 0.8, 0.95])
def test_each_is_charged_at_the_first_exit_and_then_without_a_gap(z, y, t):
    found = charged(z, y, t)
    assert found[0].all()
    assert all((later <= early).all() for early, later in pairwise(found.int()))
    assert found.dtype == torch.bool


# The losses.


def test_class_weights_by_hand():
    w = class_weights(torch.tensor([1, 2, 3]), 0.5)
    by_hand = torch.tensor([0.5 / 0.5, 0.5 / 0.75, 0.5 / 0.875])
    assert torch.allclose(w, by_hand / by_hand.mean())
    assert class_weights(N, 0.9999).mean().item() == pytest.approx(1)
    assert all(a > b for a, b in pairwise(class_weights(N, 0.9999).tolist()))


@pytest.mark.parametrize(("n", "beta"), [([3, 0], 0.9), ([3, 1], 1.0), ([3, 1], -0.1), ([3, 1], math.nan)])
def test_weights_that_would_be_no_numbers_are_refused(n, beta):
    with pytest.raises(ValueError, match="class weights need a beta from 0 to below 1 and examples of each class"):
        class_weights(torch.tensor(n), beta)


@pytest.mark.parametrize("setting", ["t", "margin", "deferred"])
def test_settings_that_mean_nothing_are_refused(setting, stages):
    for wrong in (-0.1, math.nan):
        with pytest.raises(ValueError, match=f"ELF: {setting} is one"):
            stages(tiny("LDAM", **{setting: wrong}))


def test_margins_by_hand():
    """Fourth roots 2, 3 and 4: the rarest class has the largest margin."""
    assert torch.allclose(margins(N, 0.5), torch.tensor([0.5, 1 / 3, 0.25]))
    assert margins(N, 0.0).tolist() == [0.0, 0.0, 0.0]


def test_the_loss_of_cross_entropy_by_hand():
    """Two examples: one leaves at the first exit, one at none."""
    logits = torch.tensor([[[3.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [1.0, 0.0]]])
    w = torch.tensor([0.5, 2.0])
    found = elf_loss(logits, torch.tensor([0, 1]), w, torch.zeros(2), t=0.9, scale=1.0)
    first = 0.5 * -math.log(1 / (1 + math.exp(-3)))
    second = 2.0 * (math.log(2) - math.log(1 / (1 + math.e)))
    assert found.item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_without_leaving_the_loss_is_the_plain_sum(y):
    logits = torch.randn(4, 40, 3)
    found = elf_loss(logits, y, torch.ones(3), torch.zeros(3), t=1.0, scale=1.0)
    assert found.item() == pytest.approx(sum(F.cross_entropy(each, y) for each in logits).item(), rel=1e-5)


def test_the_margin_lowers_the_true_cosine_alone_and_the_confidence_knows_none():
    """Cosines 0.9 and 0.1 of class 0: unscaled they say e^0.9 / (e^0.9 + e^0.1), which decides who leaves."""
    cosines = torch.tensor([[[0.9, 0.1]]])
    delta = torch.tensor([0.5, 0.25])
    sure = math.exp(0.9) / (math.exp(0.9) + math.exp(0.1))
    for t, charges in ((sure - 1e-4, [True, False]), (sure + 1e-4, [True, True])):
        stays, losses = each_loss((30 * cosines).repeat(2, 1, 1), torch.tensor([0]), delta, t=t, scale=30.0)
        assert stays[:, 0].tolist() == charges
        assert losses[0, 0].item() == pytest.approx(math.log1p(math.exp(30 * (0.1 - (0.9 - 0.5)))), rel=1e-3)
    _, other = each_loss(30 * cosines, torch.tensor([1]), delta, t=0.5, scale=30.0)
    assert other.item() == pytest.approx(math.log1p(math.exp(30 * (0.9 - (0.1 - 0.25)))), rel=1e-4)


def test_no_gradient_comes_from_exits_after_the_last_that_charges(y):
    logits = (torch.randn(4, 40, 3, generator=torch.Generator().manual_seed(2)) * 3).requires_grad_()
    elf_loss(logits, y, torch.ones(3), torch.zeros(3), t=0.6, scale=1.0).backward()
    stays = charged(logits.detach().softmax(-1), y, 0.6)
    assert ((logits.grad.abs().sum(-1) > 0) == stays).all()
    assert not stays.all()


def test_margins_and_weights_agree_with_the_released_code_of_what_is_cited(golden):
    """LDAM-DRW: losses of one exit, class weights of both phases (see `provenance` in the file)."""
    n, logits, y = (torch.tensor(golden[name]) for name in ("numbers", "cosines", "targets"))
    assert torch.allclose(class_weights(n, 0.9999), torch.tensor(golden["weights"]), rtol=1e-5)
    delta = margins(n, 0.5)
    _, losses = each_loss(30 * logits[None], y, delta, t=1.0, scale=30.0)
    assert losses.mean().item() == pytest.approx(golden["loss"], rel=1e-5)
    w = class_weights(n, 0.9999)[y]
    assert ((w * losses[0]).sum() / w.sum()).item() == pytest.approx(golden["weighted_loss"], rel=1e-5)


# The network.


def test_cosines_by_hand():
    layer = Cosines(2, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[2.0, 0.0], [0.0, 5.0], [-3.0, -3.0]]))
        found = layer(torch.tensor([[4.0, 0.0], [0.5, 0.5]]))
    half = math.sqrt(0.5)
    assert torch.allclose(found, 30 * torch.tensor([[1.0, 0.0, -half], [half, half, -1.0]]), atol=1e-5)
    assert layer.bias is None


def test_a_head_keeps_its_pooling():
    head = InternalClassifier((3, 8, 8), 5)
    other = with_cosines(head)
    assert [type(part) for part in other] == [type(head[0]), nn.Flatten, Cosines]
    assert other[0] is head[0]
    assert other[2].weight.shape == head[2].weight.shape


@pytest.mark.parametrize(("variant", "cosines"), [("CE", False), ("LDAM", True)])
def test_heads_of_all_exits_are_of_a_kind(variant, cosines):
    method = tiny(variant)
    model = method.build(method.load(), 0)
    assert [isinstance(head[-1], Cosines) for head in model.heads] == [cosines] * 3
    assert not model.training
    assert method.scale == (30.0 if cosines else 1.0)


# The data.


def test_the_tail_is_that_of_reuters():
    method = registry.get(KEY)
    assert R52 == (2840, 1596, 253, 251, 206, 190, 123, 108, 97, 90)
    assert method.tail == R52
    assert method.train_size == 6000


def test_few_classes_have_most_images_for_training_and_validation_images_are_balanced():
    method = tiny(tail=(5, 2, 1, 1, 1, 1, 1, 1, 1, 1), train_size=150)
    data = method.load()
    assert counted(data).tolist() == [50, 20, *[10] * 8]
    assert len(data.validation) == 300


# The training.


@pytest.mark.parametrize("variant", ["CE", "LDAM"])
@pytest.mark.parametrize(("step", "weighed"), [(0, False), (74, False), (75, True), (93, True)])
def test_class_weights_are_on_late(one_stage, variant, step, weighed):
    """In 94 steps from number 75 on (0.7979 of them are over at 75, at 76 0.8085)."""
    method = tiny(variant, deferred=75 / 94, epochs=9.4, t=0.6 if variant == "CE" else 0.11, beta=0.99)
    model, stage = one_stage(method)
    assert stage.steps == 94
    model.eval()
    x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
    n = torch.tensor([96, 56, 22, 22, 20, 20, 17, 17, 15, 15])
    assert counted(method.load()).tolist() == n.tolist()
    w = 0.01 / (1 - 0.99 ** n.double())
    w = (w / w.mean())[y] if weighed else torch.ones(20, dtype=torch.float64)
    delta = 0.5 * (15 / n.double()) ** 0.25 if variant == "LDAM" else torch.zeros(10, dtype=torch.float64)
    scale = 30 if variant == "LDAM" else 1
    total = 0.0
    with torch.no_grad():
        logits = model(x).double()
    for i, label in enumerate(y.tolist()):
        for exit_ in logits[:, i]:
            less = exit_.clone()
            less[label] -= scale * delta[label]
            total += float(w[i] * -less.log_softmax(-1)[label])
            sure = (exit_ / scale).softmax(-1)
            if sure.argmax() == label and sure[label] > method.t:
                break
    index = torch.arange(20)
    assert stage.loss(stage.batch_of(index, x, step)).item() == pytest.approx(total / 20, rel=1e-4)


@pytest.mark.parametrize("variant", ["CE", "LDAM"])
def test_one_stage_trains_everything(one_stage, variant):
    method = tiny(variant, batch=20, epochs=1.5, rate=3e-3)
    model, stage = one_stage(method)
    assert stage.rates == dict.fromkeys((id(p) for p in model.parameters()), 3e-3)
    assert (stage.epochs, stage.batch, len(stage.train), stage.steps) == (1.5, 20, 300, 22)
    assert torch.equal(stage.train.targets, method.load().train.targets)


def test_both_variants_have_the_settings_that_are_told():
    ce, ldam = (registry.get(KEY).variant(name) for name in ("CE", "LDAM"))
    assert (ce.t, ldam.t) == (0.9, 1.5 / 10)
    assert (ldam.margin, ldam.beta, ldam.deferred) == (0.5, 0.9999, 160 / 200)
    assert (ce.cosines, ldam.cosines) == (False, True)


# The exit rule.


def test_the_threshold_must_be_exceeded(prepared):
    method, _, ready = prepared(KEY)
    z = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]])
    assert replay(method.rule(0.5, ready), z).tolist() == [1]
    assert replay(method.rule(0.5 - 1e-9, ready), z).tolist() == [0]


def test_cosines_are_not_scaled_for_the_rule(prepared):
    """0.9 and 0.1 say 0.69, and thirty times of them all but 1."""
    method, _, ready = prepared(KEY, "LDAM")
    z = 30 * torch.tensor([[[0.9, 0.1]], [[1.0, 0.0]]])
    sure = math.exp(0.9) / (math.exp(0.9) + math.exp(0.1))
    assert [replay(method.rule(s, ready), z).item() for s in (sure - 1e-4, sure + 1e-4)] == [0, 1]


def test_the_rule_knows_no_label(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("validation")
    exits = [replay(method.rule(knob, ready), seen.outputs) for knob in method.knobs]
    assert all((early <= late).all() for early, late in pairwise(exits))
    right = seen.outputs.argmax(-1) == seen.targets
    leaving = exits[5] < 2
    assert (~right[0] & torch.as_tensor(leaving)).any()


# What is claimed.


def test_groups_by_their_share_of_the_mean():
    n = torch.tensor([3949, 2219, 352, 349, 286, 264, 171, 150, 135, 125])
    assert claimed.groups(n) == {"many": [0, 1], "medium": [2, 3, 4, 5], "few": [6, 7, 8, 9]}
    assert claimed.groups(torch.tensor([4, 4])) == {"many": [], "medium": [0, 1], "few": []}
    assert claimed.groups(torch.tensor([7, 1])) == {"many": [0], "medium": [1], "few": []}


def test_values_by_group():
    n = torch.tensor([92, 7, 1])
    assert claimed.by_group([0.5, -0.25, 0.75], n) == "many +0.5000, few +0.2500"


def test_recalls_are_those_of_the_last_exit(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("test")
    found = claimed.recalls(ready)
    said = seen.outputs[-1].argmax(-1)
    for c in range(10):
        assert found[c] == pytest.approx(
            ((said == c) & (seen.targets == c)).sum().item() / (seen.targets == c).sum().item()
        )


def test_rivals_are_trained_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    rivals, asked = [], []
    held = [SimpleNamespace(quality=0.8)]
    monkeypatch.setattr(
        Elf, "prepare", lambda self, bench: rivals.append(self) or SimpleNamespace(split=lambda name: name)
    )
    monkeypatch.setattr(Elf, "static", lambda self, seen: held)
    monkeypatch.setattr(claimed, "recalls", lambda found: [0.9] * 10 if found is ready else [0.8] * 10)
    monkeypatch.setattr(claimed, "points_of", lambda rival, found, bench: rival)
    monkeypatch.setattr(claimed, "gains_of_mixtures", lambda ours, theirs: asked.append((ours, theirs)) or [0.1])
    monkeypatch.setattr(claimed, "dynamic", lambda *given: given)
    monkeypatch.setattr(claimed, "rising", lambda *given: None)
    monkeypatch.setattr(claimed, "frequent_first", lambda *given: None)
    better, saved, summed, *_ = claimed.claims(method, ready, bench, "the curve")
    assert rivals == [method.replace({"shares": ()}), method.replace({"t": 1.0})]
    assert asked == [(method, method.replace({"t": 1.0}))]
    assert better.holds
    assert summed.holds
    assert saved == ("the curve", 0.8, pytest.approx(0.8))


@pytest.mark.parametrize(("gain", "holds"), [(0.006, True), (0.004, False)])
def test_mean_recall_must_be_half_a_point_higher(gain, holds):
    n = torch.tensor([92, 7, 1])
    found = claimed.static([0.5 + 3 * gain, 0.5, 0.5], [0.5, 0.5, 0.5], n)
    assert found.holds is holds
    assert claimed.better_than_sum([gain, gain]).holds is holds
    assert found.measured == f"{gain:+.4f} to {0.5 + gain:.4f}; many {3 * gain:+.4f}, few +0.0000"


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


@pytest.mark.parametrize(
    ("speed_up", "test", "holds"), [(1.12, 0.806, True), (1.1, 0.806, False), (1.12, 0.804, False)]
)
def test_a_tenth_must_be_saved_where_nothing_is_lost(speed_up, test, holds):
    curve = SimpleNamespace(
        validation=points((0.5, 0.79, 3.0), (0.8, 0.8, speed_up), (1.1, 0.9, 1.0)),
        test=points((0.5, 0.9, 3.0), (0.8, test, speed_up), (1.1, 0.9, 1.0)),
    )
    found = claimed.dynamic(curve, 0.8, 0.81)
    assert found.holds is holds
    assert "at s = 0.8" in found.measured


def test_losses_of_who_leaves_where(prepared):
    """By the trained network on all training data, class weights aside."""
    method, _, ready = prepared(KEY, "LDAM")
    exits, losses, last = claimed.leaving(method.replace({"t": 0.13}), ready)
    seen, n = ready.split("train"), counted(ready.data)
    stays, each = each_loss(seen.outputs, seen.targets, margins(n, 0.5), t=0.13, scale=30.0)
    assert exits.tolist() == stays.sum(0).tolist()
    assert torch.allclose(losses, (stays * each).sum(0))
    assert torch.equal(last, each[-1])
    assert len(exits.unique()) == 3
    plain = claimed.leaving(tiny(t=0.13), prepared(KEY)[2])[1]
    first = prepared(KEY)[2].split("train")
    alone = F.cross_entropy(first.outputs[0], first.targets, reduction="none")
    assert torch.allclose(plain[exits == 1], alone[exits == 1]) or (plain >= alone - 1e-6).all()


@pytest.mark.parametrize(
    ("exits", "losses", "last", "holds"),
    [
        ([1, 1, 3], [0.1, 0.3, 0.5], [0.1, 0.1, 0.2], True),
        ([1, 1, 3], [0.1, 0.3, 0.2], [0.1, 0.1, 0.2], False),
        ([1, 1, 3], [0.1, 0.3, 0.5], [0.1, 0.4, 0.2], False),
        ([3, 3, 3], [0.1, 0.2, 0.3], [0.1, 0.2, 0.3], False),
    ],
)
def test_losses_must_rise_from_exit_to_exit_in_sum_and_at_the_last_one(monkeypatch, exits, losses, last, holds):
    found = (torch.tensor(exits), torch.tensor(losses), torch.tensor(last))
    monkeypatch.setattr(claimed, "leaving", lambda *given: found)
    assert claimed.rising(None, None).holds is holds


@pytest.mark.parametrize(("early", "holds"), [(4, True), (3, False)])
def test_frequent_classes_must_leave_first(prepared, monkeypatch, early, holds):
    """Of twenty images of class 0 four leave, of as many of the rarest class two; the knob is that of the cost."""
    method, _, _ = prepared(KEY)
    targets = torch.tensor([0] * 20 + [1] * 20)
    exits = [0] * early + [2] * (20 - early) + [1] * 2 + [2] * 18
    outputs = torch.full((3, 40, 2), 0.0)
    for i, leaves in enumerate(exits):
        outputs[leaves, i, 0] = 9.0
    seen = SimpleNamespace(targets=targets, outputs=outputs, answers=outputs)
    ready = SimpleNamespace(split=lambda name: seen, data=None, for_choosing=None)
    monkeypatch.setattr(claimed, "counted", lambda data: torch.tensor([90, 10]))
    curve = SimpleNamespace(validation=points((0.1, 0.5, 4.0), (0.7, 0.5, 1.3), (1.1, 0.5, 1.0)))
    found = claimed.frequent_first(method, ready, curve)
    assert found.holds is holds
    assert found.measured == f"at s = 0.7: many {early / 20:+.4f}, few +0.1000"
