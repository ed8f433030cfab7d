"""What only PCEE-BERT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

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
from eelit.methods.claims.comparisons import gains_at_equal_cost
from eelit.methods.claims.zhang2022pceebert import better_alone, claims, widest_steps
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry
from eelit.methods.papers.zhang2022pceebert import PceeBert
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.recipes.joint import depth_weights, exit_losses

KEY = "zhang2022pceebert"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 1.1)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(6, 300, 3)) * 2


def with_entropies(*normalised):
    """Logits ``[E, 1, 2]`` of one sample whose two classes have these normalised entropies at its exits."""
    found = []
    for h in normalised:
        low, high = 0.0, 60.0
        for _ in range(100):
            z = (low + high) / 2
            above = float(entropy(np.array([[z, 0.0]]))[0]) / math.log(2) > h
            low, high = (z, high) if above else (low, z)
        found.append([[high, 0.0]])
    return np.array(found)


def test_entropy_of_a_uniform_answer_is_one_and_of_a_certain_one_zero():
    for classes in (2, 3, 10):
        flat, certain = np.zeros((2, 1, classes)), np.eye(classes)[None, None, 0] * [[[1e4]]] * np.ones((2, 1, 1))
        assert replay(PatientConfidence(1 + 1e-9, 1), flat).tolist() == [0]
        assert replay(PatientConfidence(1 - 1e-9, 1), flat).tolist() == [1]
        assert replay(PatientConfidence(1e-9, 1), certain).tolist() == [0]


def test_counter_trace_of_the_sheet():
    """H = (0.1, 0.6, 0.2, 0.1), tau = 0.5, t = 2: the unsure second exit sets the count back; layer 4."""
    z = with_entropies(0.1, 0.6, 0.2, 0.1, 0.9)
    assert replay(PatientConfidence(0.5, 2), z).tolist() == [3]
    assert replay(PatientConfidence(0.7, 2), z).tolist() == [1]
    assert replay(PatientConfidence(0.5, 1), z).tolist() == [0]
    assert replay(PatientConfidence(0.5, 3), z).tolist() == [4]


def test_comparison_is_strict():
    flat = np.zeros((3, 1, 2))
    h = float(entropy(flat[0])[0]) / math.log(2)
    assert replay(PatientConfidence(h, 1), flat).tolist() == [2]
    assert replay(PatientConfidence(np.nextafter(h, 2), 1), flat).tolist() == [0]


def test_patience_one_is_the_entropy_rule(logits):
    for tau in (0.2, 0.5, 0.8):
        assert (replay(PatientConfidence(tau, 1), logits) == replay(Entropy(tau * math.log(3)), logits)).all()


@pytest.mark.parametrize("patience", range(1, 8))
def test_at_least_patience_layers_run(logits, patience):
    for tau in THRESHOLDS:
        assert replay(PatientConfidence(tau, patience), logits).min() >= min(patience - 1, 5)
    assert (replay(PatientConfidence(0.0, patience), logits) == 5).all()
    assert (replay(PatientConfidence(1.1, patience), logits) == min(patience - 1, 5)).all()


def test_more_patience_than_layers_never_stops(logits):
    for patience in (7, 20):
        assert (replay(PatientConfidence(1.1, patience), logits) == 5).all()


def test_nobody_leaves_later_at_a_higher_threshold_or_earlier_with_more_patience(logits):
    for patience in range(1, 6):
        exits = [replay(PatientConfidence(tau, patience), logits) for tau in THRESHOLDS]
        assert all((looser <= tighter).all() for tighter, looser in pairwise(exits))
    for tau in THRESHOLDS:
        exits = [replay(PatientConfidence(tau, patience), logits) for patience in range(1, 8)]
        assert all((less <= more).all() for less, more in pairwise(exits))


def test_exits_need_not_agree():
    """Two sure exits that contradict each other count; PABEE's patience would go on."""
    z = np.array([[[9.0, 0.0]], [[0.0, 9.0]], [[0.0, 9.0]]])
    assert replay(PatientConfidence(0.5, 2), z).tolist() == [1]
    assert replay(Patience(1), z).tolist() == [2]


def test_the_answer_is_the_stopping_exits_own_and_no_average():
    """Averages over the sure exits, or over all, would say class 0; so would one that takes in the exit before them."""
    z = torch.tensor([[[1.0, 0.9]], [[9.0, 0.0]], [[0.0, 4.0]], [[9.0, 0.0]]])
    policy = PatientConfidence(0.5, 2)
    exits = replay(policy, z)
    assert exits.tolist() == [2]
    assert [int(z[i:3].mean(dim=0).argmax()) for i in (0, 1)] == [0, 0]
    assert torch.equal(answered(policy, z, exits), z[2])
    model = MultiExit([torch.nn.Identity()] * 4, [Said(out) for out in z])
    assert torch.equal(infer(model, torch.zeros(1, 1), policy).outputs, z[2])


class Said(torch.nn.Module):
    """A head that says the same of everything."""

    def __init__(self, out):
        super().__init__()
        self.out = out

    def forward(self, state):
        return self.out


def test_one_sure_and_wrong_exit_does_not_stop_it():
    z = with_entropies(0.01, 0.9, 0.9, 0.2, 0.2)
    assert replay(Entropy(0.5 * math.log(2)), z).tolist() == [0]
    assert replay(PatientConfidence(0.5, 2), z).tolist() == [4]


def test_numpy_and_torch_agree_and_batch_mates_do_not_matter(logits):
    policy = PatientConfidence(0.6, 2)
    together = replay(policy, logits)
    assert (together == replay(policy, torch.as_tensor(logits))).all()
    assert together.tolist() == [replay(policy, logits[:, i : i + 1])[0] for i in range(300)]


def test_heads_begin_with_the_encoders_own_pooler(wired):
    model, _ = wired(registry.get(KEY).variant("t = 2", "tiny"))
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    assert torch.equal(model.heads[0].pooler.weight, pretrained.weight)
    assert torch.equal(model.heads[0].pooler.bias, pretrained.bias)


@pytest.mark.parametrize("variant", PceeBert.variants)
def test_everything_learns_together_with_weights_that_grow_with_depth(wired, variant):
    method = registry.get(KEY).variant(variant, "tiny").replace({"train_size": 200, "batch": 20, "epochs": 1.5})
    model, (stage,) = wired(method)
    data = method.load().train
    assert torch.equal(stage.train.targets, data.targets)
    assert all(torch.equal(a, b) for a, b in zip(stage.train.inputs, data.inputs, strict=True))
    assert len({id(head.pooler) for head in model.heads}) == 1
    assert len({id(head.classifier) for head in model.heads}) == 4
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {id(p): 5e-3 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, 15)
    assert {f"heads.{i}.dropout" for i in range(4)} <= stage.learning
    index = torch.arange(5, 25)
    batch = stage.batch_of(index, torch.stack([data.inputs[i] for i in index.tolist()]))
    losses, state = [], batch.inputs
    with torch.no_grad():
        for layer, head in zip(model.stages, model.heads, strict=True):
            state = layer(state)
            pooled = torch.tanh(state.mean(dim=1) @ head.pooler.weight.T + head.pooler.bias)
            logits = pooled @ head.classifier.weight.T + head.classifier.bias
            losses.append(float(F.cross_entropy(logits, batch.targets)))
    found = stage.loss(batch).item()
    assert found == pytest.approx((losses[0] + 2 * losses[1] + 3 * losses[2] + 4 * losses[3]) / 10, rel=1e-5)
    assert found != pytest.approx(sum(losses) / 4, rel=1e-4)


def test_trained_weights_are_those_of_pabee(prepared):
    """Same network, same options: the cache serves both, and the tiny weights are equal."""
    _, _, ready = prepared(KEY)
    _, _, theirs = prepared("zhou2020pabee")
    ours, other = ready.model.state_dict(), theirs.model.state_dict()
    assert ours.keys() == other.keys()
    assert all(torch.equal(ours[name], other[name]) for name in ours)
    shared = ("encoder", "corpus", "train_size", "epochs", "batch", "rate", "head_rate")
    assert all(getattr(PceeBert(), name) == getattr(Pabee(), name) for name in shared)


@pytest.mark.parametrize(("variant", "patience"), [("t = 2", 2), ("t = 3", 3)])
def test_trained_model_really_stops(prepared, variant, patience):
    method, _, ready = prepared(KEY, variant)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    policy = method.policy(0.9, ready)
    assert policy == PatientConfidence(0.9, patience)
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, policy)
    assert found.exits.tolist() == replay(policy, outputs).tolist()
    assert len(set(found.exits.tolist())) > 1
    assert torch.allclose(found.outputs, outputs[found.exits, torch.arange(32)], atol=1e-5)


@pytest.mark.parametrize("variant", PceeBert.variants)
def test_claims_of_the_variants(prepared, variant):
    """Patience and threshold are searched together once, however many variants there are."""
    method, bench, ready = prepared(KEY, variant)
    shares = [1 / method.trial(Patience(p), ready.split("test")).speed_up for p in range(ready.model.exits)]
    least, fine = min(shares), max(b - a for a, b in pairwise(sorted(shares))) / 2.1
    costs = np.arange(least, 1 + fine, fine)
    curve = SimpleNamespace(test=[SimpleNamespace(speed_up=1 / cost) for cost in costs])
    found = claims(method, ready, bench, curve)
    assert [outcome.name for outcome in found] == ["a finer choice of speeds"] + [
        "better than patience alone", "better than entropy alone",
    ] * (variant == "t = 2")  # fmt: skip
    assert found[0].holds
    assert not claims(method, ready, bench, SimpleNamespace(test=curve.test[::2]))[0].holds  # as many, but one is far


def test_steps_are_compared_where_both_rules_reach():
    assert widest_steps([0.1, 0.5, 0.9, 1.0], [0.4, 0.6, 1.0]) == pytest.approx([0.4, 0.4])
    assert widest_steps([0.4, 1.01], [0.7]) == pytest.approx([0.3, 0.3])


@pytest.mark.parametrize(("gains", "holds"), [([0.01, 0.002], True), ([0.01, -0.002], False), ([], False)])
def test_half_a_point_on_average_is_asked_for(prepared, monkeypatch, gains, holds):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr("eelit.methods.claims.zhang2022pceebert.gains_at_equal_cost", lambda *_: gains)
    assert better_alone("patience", method, ready, [Patience(1)]).holds is holds


def test_gain_at_equal_cost_is_chosen_on_validation(prepared):
    """Nothing over itself, and nothing is found for a cheaper rival; at the largest cost all settings may be taken."""
    method, _, ready = prepared(KEY)
    ours = [method.policy(tau, ready) for tau in method.knobs]
    held, test = ([method.trial(p, ready.split(split)) for p in ours] for split in ("validation", "test"))
    assert gains_at_equal_cost(method, ready, ours[3:4], ours[3:4]) == [0.0]
    assert gains_at_equal_cost(method, ready, ours[1:], [Patience(0)]) == []
    gain = gains_at_equal_cost(method, ready, ours, [Patience(0), Patience(9)])[-1]
    best = max(range(len(held)), key=lambda i: (held[i].quality, -held[i].cost))
    assert gain == pytest.approx(test[best].quality - test[-1].quality)
    assert best != len(held) - 1


def test_agrees_with_the_released_code(golden):
    """Entropies, exits, answers and loss of the released loop on these numbers (see `provenance` in the file)."""
    z, labels = torch.tensor(golden["logits"]), torch.tensor(golden["labels"])
    ours = np.stack([(entropy(out) / math.log(z.shape[-1])).numpy() for out in z])
    assert np.allclose(ours, golden["entropies"], atol=2e-6)
    for trial in golden["trials"]:
        exits = replay(PatientConfidence(trial["threshold"], trial["patience"]), z)
        assert exits.tolist() == trial["exits"]
        assert z[torch.as_tensor(exits), torch.arange(len(labels))].argmax(-1).tolist() == trial["answers"]
    losses = exit_losses(z, labels)
    assert float((torch.tensor(depth_weights(len(z))) * losses).sum()) == pytest.approx(golden["loss"]["asc"], rel=1e-6)
    assert float(losses.mean()) == pytest.approx(golden["loss"]["uniform"], rel=1e-6)


def test_released_loss_weighs_the_first_exit_by_one_whatever_the_scheme(golden):
    """With falling weights n - i the released sum counts exit 1 once, yet divides by its weight too."""
    losses = exit_losses(torch.tensor(golden["logits"]), torch.tensor(golden["labels"])).double()
    weights = torch.arange(len(losses) - 1, -1, -1, dtype=torch.float64)
    meant = float((weights * losses).sum() / weights.sum())
    released = float((losses[0] + (weights[1:] * losses[1:]).sum()) / weights.sum())
    assert golden["loss"]["desc"] == pytest.approx(released, rel=1e-6)
    assert abs(released - meant) > 0.1
