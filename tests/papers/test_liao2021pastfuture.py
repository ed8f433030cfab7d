"""What only Past-Future promises: a view of all layers, imagined ones included, and where its gradients go."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from eelit.methods.claims import liao2021pastfuture as claimed
from eelit.methods.claims.comparisons import COSTS, on_the_task_of, steps, trained_alike, tried
from eelit.methods.engine.costs import count
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers import liao2021pastfuture as paper
from eelit.methods.papers.liao2021pastfuture import (
    GlobalClassifier,
    PastFuture,
    global_exits,
    imitation_loss,
    past_future_encoder,
    past_future_loss,
    training_pass,
)
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch
from eelit.methods.recipes.joint import depth_weights, exit_losses

KEY = "liao2021pastfuture"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
D, K, N = 6, 3, 4
LETTERS = {"imitate_weight": "U", "imitate_bias": "r", "classify_weight": "A", "classify_bias": "a"}
"""Names in the golden numbers → letters of the equations."""


class Layer(nn.Module):
    """A layer that can be worked by hand: ``tanh(h W)``."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, hidden):
        return torch.tanh(hidden @ self.weight)


@pytest.fixture
def model():
    torch.manual_seed(0)
    shared = GlobalClassifier(N, D, K, dropout=0.0)
    for parameter in shared.parameters():
        nn.init.normal_(parameter, std=0.5)
    return global_exits([Layer(torch.randn(D, D)) for _ in range(N)], [nn.Linear(D, D) for _ in range(N)], shared)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def inputs(n=5):
    return torch.randn(n, 7, D, generator=torch.Generator().manual_seed(1))


def classifier_of(model):
    return model.heads[0].classifier


def moves(parameter):
    """Whether a gradient has reached it."""
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


# The view.


def test_answer_of_each_exit_by_hand(model):
    x, shared = inputs(), classifier_of(model)
    with torch.inference_mode():
        outputs, h, hidden = model(x), [], x
        for stage in model.stages:
            hidden = torch.tanh(hidden @ stage.layer.weight)
            h.append(torch.tanh(hidden.mean(1) @ stage.pooler.weight.T + stage.pooler.bias))
        for i in range(1, N + 1):
            g = h[:i] + [torch.tanh(h[i - 1] @ shared.U[k] + shared.r[k]) for k in range(i, N)]
            both = [g[k] @ shared.A[k] + shared.a[k] for k in range(N)]
            s, t = [b[:, :K] for b in both], [b[:, K:] for b in both]
            share = torch.sigmoid(torch.tanh(sum(t[:i]) / i) @ shared.gate.weight.T + shared.gate.bias)
            z = 2 * share * sum(s[:i]) + (2 - 2 * share) * sum(s[i:], torch.zeros(5, K))
            assert torch.allclose(outputs[i - 1], z, atol=1e-5)


def test_last_exit_imagines_nothing(model):
    x, shared = inputs(), classifier_of(model)
    with torch.inference_mode():
        *_, (_, past) = model.states(x)
        assert shared.imitate(past[:, -1], N).shape == (5, 0, D)
        s, t = (torch.einsum("nkd,kdc->nkc", past, shared.A) + shared.a).chunk(2, dim=-1)
        share = torch.sigmoid(shared.gate(torch.tanh(t.mean(dim=1))))
        assert torch.allclose(model.full(x), 2 * share * s.sum(dim=1), atol=1e-5)


def test_with_a_gate_of_a_half_and_true_imagination_all_exits_say_the_same(model):
    x, shared = inputs(), classifier_of(model)
    nn.init.zeros_(shared.gate.weight)
    nn.init.zeros_(shared.gate.bias)
    with torch.inference_mode():
        *_, (_, past) = model.states(x)
        answers = [shared(past[:, :i], past[:, i:]) for i in range(1, N + 1)]
        assert all(torch.allclose(a, answers[-1], atol=1e-5) for a in answers)
        assert not torch.allclose(model(x)[0], answers[-1], atol=1e-2)
        true = [past[:, i:] for i in range(1, N + 1)]
        assert float(imitation_loss(past, true)) == pytest.approx(0, abs=1e-6)


def test_imitation_has_one_map_per_layer_whatever_the_exit(model):
    shared = classifier_of(model)
    assert shared.U.numel() + shared.r.numel() == N * (D * D + D)
    assert all(head.classifier is shared for head in model.heads)


def test_exit_pays_one_product_per_missing_layer(model):
    """n - i products d × d to imagine, n of d × 2K to classify, K × K for the gate, per sample."""
    *_, state = model.states(inputs(1))
    for i, head in enumerate(model.heads, 1):
        past = state[0], state[1][:, :i]
        assert count(lambda head=head, past=past: head(past)) == (N - i) * D * D + N * D * 2 * K + K * K


# Losses and gradients.


def test_losses_by_hand():
    """Exits weigh 1, 2, 3 sixths; cosines of (1, 0) and (1, 1) are 1/√2."""
    assert depth_weights(3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    pooled = torch.tensor([[[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]])
    imagined = [torch.tensor([[[1.0, 1.0], [0.0, 3.0]]]), torch.tensor([[[2.0, 0.0]]]), torch.zeros(1, 0, 2)]
    first, second = ((1 - 1 / math.sqrt(2)) + 0) / 2, 1.0
    assert float(imitation_loss(pooled, imagined)) == pytest.approx((first + second) / 2)


def test_an_exit_trains_through_its_own_state_alone(model):
    """Of the states that exit 3 reads, only its own gets a gradient; the pooler of an earlier layer gets none."""
    outputs, _, _ = training_pass(model, inputs())
    outputs[2].sum().backward()
    poolers = [stage.pooler.weight for stage in model.stages]
    assert [moves(p) for p in poolers] == [False, False, True, False]
    assert [moves(stage.layer.weight) for stage in model.stages] == [True, True, True, False]


def test_targets_of_the_imitation_get_no_gradient(model):
    _, pooled, imagined = training_pass(model, inputs())
    imitation_loss(pooled, imagined).backward()
    assert [moves(stage.pooler.weight) for stage in model.stages] == [True, True, True, False]


def test_training_pass_says_what_inference_says(model):
    with torch.inference_mode():
        assert torch.allclose(training_pass(model, inputs())[0], model(inputs()), atol=1e-6)


def by_hand(model, x, y, protected=()):
    """The loss as it stands in the docstring, exit by exit; the outputs of protected layers (from 0) are cut off."""
    shared, h, hidden = classifier_of(model), [], x
    for k, stage in enumerate(model.stages):
        hidden = stage.layer(hidden).detach() if k in protected else stage.layer(hidden)
        h.append(torch.tanh(hidden.mean(1) @ stage.pooler.weight.T + stage.pooler.bias))
    n, entropies, unlike = len(h), 0, 0
    for i in range(1, n + 1):
        imagined = [torch.tanh(h[i - 1] @ shared.U[k] + shared.r[k]) for k in range(i, n)]
        g = [*(h[k].detach() for k in range(i - 1)), h[i - 1], *imagined]
        s, t = zip(*((g[k] @ shared.A[k] + shared.a[k]).tensor_split(2, dim=1) for k in range(n)), strict=True)
        share = torch.sigmoid(torch.tanh(sum(t[:i]) / i) @ shared.gate.weight.T + shared.gate.bias)
        z = 2 * share * sum(s[:i]) + (2 - 2 * share) * sum(s[i:], torch.zeros_like(s[0]))
        entropies += i * -(z.log_softmax(dim=1)[torch.arange(len(y)), y]).mean()
        true = [h[k].detach() for k in range(i, n)]
        cosines = [(a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1)) for a, b in zip(true, imagined, strict=True)]
        unlike += (1 - torch.stack(cosines)).mean() if cosines else 0
    return (entropies / sum(range(1, n + 1)) + unlike / (n - 1)) / 2


@pytest.mark.parametrize(
    ("m", "done", "cut"), [(1, 0.0, [0]), (1, 1.0, []), (0, 0.0, []), (2, 0.0, [0, 1]), (2, 1.0, [])]
)
def test_training_minimises_the_loss_of_the_paper(one_stage, m, done, cut):
    """Its value and its gradient for every weight, at the first step, where m layers are protected, and at the end."""
    method = registry.get(KEY).variant("past and future", "tiny")
    assert method.protected == 1
    model, stage = one_stage(method.replace({"protected": m}))
    index, x = next(iter(stage.train.batches(6)))
    batch = Batch(index, x, stage.train.targets[index], 0, done)
    parameters = list(model.parameters())
    ours, again = stage.loss(batch), by_hand(model, x, batch.targets, cut)
    assert ours.item() == pytest.approx(again.item(), rel=1e-5)
    found, expected = (torch.autograd.grad(loss, parameters, allow_unused=True) for loss in (ours, again))
    assert [g is None for g in found] == [g is None for g in expected]
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(found, expected, strict=True) if a is not None)
    lowest = next(iter(model.stages[0].layer.layer.parameters()))
    assert (found[[p is lowest for p in parameters].index(True)] is None) == bool(cut)


def test_a_protected_layer_is_cut_off_less_and_less_often(model, monkeypatch):
    """With probability 1 - step / steps, for each layer by itself; those above are never cut off."""
    asked = []
    whole = training_pass(model, inputs())

    def watch(model, x, protected):
        asked.append([protected(k) for k in range(1, N + 1)])
        return whole

    monkeypatch.setattr(paper, "training_pass", watch)
    torch.manual_seed(0)
    for done in (0.0, 0.3, 0.8, 1.0):
        asked.clear()
        for _ in range(500):
            past_future_loss(model, Batch(torch.arange(5), inputs(), torch.zeros(5, dtype=torch.int64), 0, done), 2)
        share = torch.tensor(asked).double().mean(dim=0)
        assert share.tolist() == pytest.approx([1 - done, 1 - done, 0, 0], abs=0.06)
        if 0 < done < 1:
            assert len({tuple(each) for each in asked}) == 4


def test_layers_learn_at_one_rate_poolers_and_what_exits_share_at_another(one_stage):
    """So do poolers of the methods that it is compared with, where they are part of the heads."""
    method = registry.get(KEY).variant("past and future", "tiny")
    model, stage = one_stage(method)
    shared = {id(p) for p in classifier_of(model).parameters()}
    assert len(shared) == 6
    poolers = {id(p) for each in model.stages for p in each.pooler.parameters()}
    assert len(poolers) == 8
    assert stage.rates == {id(p): 0.04 if id(p) in shared | poolers else 2e-3 for p in model.parameters()}
    assert (method.rate, method.head_rate) == (2e-3, 0.04)
    known = method.load().train
    assert torch.equal(stage.train.targets, known.targets)
    assert all(map(torch.equal, stage.train.inputs, known.inputs))
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)
    assert not model.training  # when it is used


def test_classifier_drops_out_in_training_alone(model):
    """A tenth of the view that it reads, real states and imagined ones alike."""
    shared = GlobalClassifier(N, D, K)
    assert shared.dropout.p == 0.1
    past, future = torch.ones(400, 1, D), torch.ones(400, N - 1, D)
    nn.init.ones_(shared.A)
    nn.init.zeros_(shared.gate.weight)
    nn.init.zeros_(shared.gate.bias)
    full = N * D
    assert shared.eval()(past, future).unique().tolist() == pytest.approx([full])
    kept = shared.train()(past, future)[:, 0] * 0.9 / full
    assert kept.mean().item() == pytest.approx(0.9, abs=0.02)
    assert kept.min().item() < 0.85


# The exit rule.


def test_zero_uses_all_layers_and_more_than_the_largest_entropy_the_first():
    z = torch.randn(4, 50, K)
    assert (replay(Entropy(0.0), z) == 3).all()
    assert (replay(Entropy(math.log(K) + 1e-3), z) == 0).all()
    exits = [replay(Entropy(s), z) for s in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert all((looser <= tighter).all() for tighter, looser in pairwise(exits))


def test_threshold_is_strict():
    z = torch.randn(1, 20, K, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1)
    for i, h in enumerate(entropy(z[0]).tolist()):
        assert replay(Entropy(h), z[:, i : i + 1]).tolist() == [1]
        assert replay(Entropy(h * (1 + 1e-6)), z[:, i : i + 1]).tolist() == [0]


def test_the_surest_sample_leaves_at_once_where_the_released_code_gives_nan():
    z = torch.tensor([[[500.0, -500.0]], [[0.0, 0.0]]])
    p = torch.softmax(z[0], dim=1)
    assert torch.isnan((p * torch.log(p)).sum())
    assert replay(Entropy(1e-6), z).tolist() == [0]


def test_trained_model_really_stops_and_imagines_near_layers_best(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    policy = method.policy(1.5, ready)
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, policy)
    assert found.exits.tolist() == replay(policy, outputs).tolist()
    assert torch.allclose(found.outputs, outputs[found.exits, torch.arange(64)], atol=1e-4)
    assert len(set(found.exits.tolist())) > 1
    assert len(claimed.imitation_cosines(ready.model, x)) == ready.model.exits - 1
    fresh = past_future_encoder("tiny", 10, seed=0)
    assert min(claimed.imitation_cosines(ready.model, x)) > max(claimed.imitation_cosines(fresh, x))


def test_every_layer_has_its_own_pooler_from_the_pretrained_one():
    poolers = [stage.pooler for stage in past_future_encoder("tiny", 10, seed=0).stages]
    assert len({id(p) for p in poolers}) == 4
    assert all(torch.equal(p.weight, poolers[0].weight) for p in poolers)


def test_local_variant_is_trained_as_pabee(one_stage):
    """The same network, the same loss, the same rates: for comparison. Claims are about the main variant alone."""
    shared = ("encoder", "corpus", "train_size", "epochs", "rate", "head_rate")
    assert all(getattr(PastFuture(), name) == getattr(Pabee(), name) for name in shared)
    small = {**PastFuture.tiny, "train_size": 64, "batch": 8}
    local, pabee = PastFuture(**small, local=True), Pabee(**small)
    ours, theirs = (each.prepare(Bench(most_steps=3)).model.state_dict() for each in (local, pabee))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    (model, stage), (_, its) = one_stage(local), one_stage(pabee)
    assert list(stage.rates.values()) == list(its.rates.values())
    assert len(stage.rates) == len(list(model.parameters()))
    assert (stage.epochs, stage.batch, stage.steps) == (its.epochs, its.batch, its.steps)
    batch = stage.batch_of(torch.arange(8), torch.stack(list(stage.train.inputs[:8])))
    entropies = [nn.functional.cross_entropy(z, batch.targets) for z in model(batch.inputs)]
    weighed = sum(i * loss for i, loss in enumerate(entropies, 1)) / 10
    assert stage.loss(batch).item() == pytest.approx(weighed.item(), rel=1e-5)
    assert float(its.loss(batch)) == pytest.approx(float(weighed), rel=1e-5)
    assert claimed.claims(local, None, None, None) == []


# The released code, run on these numbers (see `provenance` in the file).


def rebuilt(golden):
    """The network of the golden numbers."""
    layers = [Layer(torch.tensor(w)) for w in golden["layer"]]
    n, d, k = len(layers), len(golden["layer"][0]), len(golden["gate_bias"])
    shared, poolers = GlobalClassifier(n, d, k, dropout=0.0), [nn.Linear(d, d) for _ in layers]
    for i, pooler in enumerate(poolers):
        pooler.weight.data = torch.tensor(golden["pooler_weight"][i])
        pooler.bias.data = torch.tensor(golden["pooler_bias"][i])
    for name, letter in LETTERS.items():
        getattr(shared, letter).data = torch.tensor(golden[name])
    shared.gate.weight.data, shared.gate.bias.data = (
        torch.tensor(golden["gate_weight"]),
        torch.tensor(golden["gate_bias"]),
    )
    return global_exits(layers, poolers, shared)


def gradients(model):
    """By the names of the golden numbers; what got no gradient counts as zeros."""
    shared, stages = classifier_of(model), list(model.stages)
    found = {
        "layer": [s.layer.weight for s in stages],
        "pooler_weight": [s.pooler.weight for s in stages],
        "pooler_bias": [s.pooler.bias for s in stages],
        **{name: [getattr(shared, letter)] for name, letter in LETTERS.items()},
        "gate_weight": [shared.gate.weight],
        "gate_bias": [shared.gate.bias],
    }
    return {
        name: torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        for name, parameters in found.items()
    }


@pytest.mark.parametrize(("protected", "prefix"), [(0, ""), (2, "protected_")])
def test_logits_loss_and_all_gradients_agree_with_the_released_code(golden, protected, prefix):
    model, x, labels = rebuilt(golden), torch.tensor(golden["x"]), torch.tensor(golden["labels"])
    outputs, pooled, imagined = training_pass(model, x, lambda k: k <= protected)
    assert torch.allclose(outputs.flatten(), torch.tensor(golden["logits"]), atol=1e-5)
    w = torch.tensor(depth_weights(model.exits))
    loss = ((w * exit_losses(outputs, labels)).sum() + imitation_loss(pooled, imagined)) / 2
    assert loss.item() == pytest.approx(golden[f"{prefix}loss"], rel=1e-5)
    loss.backward()
    ours, theirs = gradients(model), golden[f"{prefix}gradients"]
    assert ours.keys() == theirs.keys()
    for name, found in ours.items():
        assert torch.allclose(found, torch.tensor(theirs[name]), atol=2e-6), name
        assert found.abs().max() > 1e-3


def test_exits_and_answers_agree_with_the_released_code(golden):
    model, x = rebuilt(golden), torch.tensor(golden["x"])
    for threshold, trial in golden["trials"].items():
        found = infer(model, x, Entropy(float(threshold)))
        assert found.exits.tolist() == trial["exits"]
        assert found.outputs.argmax(-1).tolist() == trial["answers"]


@pytest.mark.parametrize(("name", "rival"), [("DeeBERT", DeeBert()), ("PABEE", Pabee())])
@pytest.mark.parametrize(("ahead", "holds"), [(0.006, True), (0.004, False), (-0.1, False)])
def test_it_beats_a_rival_only_by_half_a_point(prepared, monkeypatch, name, rival, ahead, holds):
    """The rival is said to be so much worse at the same settings."""
    method, bench, ready = prepared(KEY)
    own = tried(method, ready, [Entropy(s) for s in method.knobs])
    worse = [point.model_copy(update={"quality": point.quality - ahead}) for point in own.test]
    monkeypatch.setattr(type(rival), "prepare", lambda self, bench: None)
    monkeypatch.setattr(claimed, "points_of", lambda rival, ready, bench: own.model_copy(update={"test": worse}))
    found = claimed.better_than_rival(method, name, rival, ready, bench)
    assert (found.name, found.holds) == (f"better than {name}", holds)
    assert found.measured == f"{ahead:+.4f} on average over {COSTS} costs"


def test_rivals_see_as_many_steps_in_as_small_batches(prepared):
    """DeeBERT's off-ramps too; and the network of either is that of its own row, so that one training serves both."""
    ours = PastFuture(batch=7, epochs=1.5, rate=2e-4, head_rate=3e-3)
    deebert, pabee = trained_alike(ours, DeeBert()), trained_alike(ours, Pabee())
    assert deebert == DeeBert(batch=7, epochs=1.5, ramp_epochs=1.5, rate=2e-4, ramp_rate=3e-3)
    assert pabee == Pabee(batch=7, epochs=1.5, rate=2e-4, head_rate=3e-3)
    assert trained_alike(PastFuture(batch=DeeBert().batch), DeeBert()) == DeeBert(ramp_epochs=1.0)
    assert trained_alike(PastFuture(batch=Pabee().batch), Pabee()) == Pabee()
    method, _, ready = prepared(KEY)
    assert steps(method, ready.data) == 8 * 29  # 900 in batches of 32


@pytest.mark.parametrize("rival", [DeeBert(), Pabee()])
def test_rivals_have_the_same_task(rival):
    assert on_the_task_of(PastFuture(), rival) == rival
    assert on_the_task_of(PastFuture(train_size=7), rival).train_size == 7


@pytest.mark.parametrize(("farthest", "holds"), [(0.74, True), (0.76, False), (0.8, False)])
def test_near_layers_must_be_imagined_clearly_better(prepared, monkeypatch, farthest, holds):
    _, _, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "imitation_cosines", lambda *_: [0.8, 0.9, farthest])
    assert claimed.near_layers_are_imagined_best(ready).holds is holds
