"""What only Past-Future promises: a view of all layers, imagined ones included, and where its gradients go."""

import json
import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from eelit.methods.backbones.past_future import GlobalView, imitation_loss, past_future, past_future_encoder, routed
from eelit.methods.claims.comparisons import on_the_task_of
from eelit.methods.engine.costs import count
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.papers import liao2021pastfuture as paper
from eelit.methods.papers.liao2021pastfuture import PastFuture, likeness
from eelit.methods.papers.xin2020deebert import DeeBert
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes import past_future as recipe
from eelit.methods.recipes.joint import depth_weights, exit_losses

KEY = "liao2021pastfuture"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
D, K, N = 6, 3, 4


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
    view = GlobalView(N, D, K, dropout=0.0)
    for parameter in view.parameters():
        nn.init.normal_(parameter, std=0.5)
    return past_future([Layer(torch.randn(D, D)) for _ in range(N)], [nn.Linear(D, D) for _ in range(N)], view)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def inputs(n=5):
    return torch.randn(n, 7, D, generator=torch.Generator().manual_seed(1))


def view_of(model):
    return model.heads[0].view


def moves(parameter):
    """Whether a gradient has reached it."""
    return parameter.grad is not None and bool(parameter.grad.abs().sum() > 0)


# The view.


def test_answer_of_each_exit_by_hand(model):
    x, view = inputs(), view_of(model)
    with torch.inference_mode():
        outputs, h, hidden = model(x), [], x
        for stage in model.stages:
            hidden = torch.tanh(hidden @ stage.layer.weight)
            h.append(torch.tanh(hidden.mean(1) @ stage.pooler.weight.T + stage.pooler.bias))
        for i in range(1, N + 1):
            g = h[:i] + [torch.tanh(h[i - 1] @ view.imitate_weight[k] + view.imitate_bias[k]) for k in range(i, N)]
            both = [g[k] @ view.classify_weight[k] + view.classify_bias[k] for k in range(N)]
            s, t = [b[:, :K] for b in both], [b[:, K:] for b in both]
            share = torch.sigmoid(torch.tanh(sum(t[:i]) / i) @ view.gate.weight.T + view.gate.bias)
            z = 2 * share * sum(s[:i]) + (2 - 2 * share) * sum(s[i:], torch.zeros(5, K))
            assert torch.allclose(outputs[i - 1], z, atol=1e-5)


def test_last_exit_imagines_nothing(model):
    x, view = inputs(), view_of(model)
    with torch.inference_mode():
        *_, (_, past) = model.states(x)
        assert view.imagine(past[:, -1], N).shape == (5, 0, D)
        s, t = (torch.einsum("nkd,kdc->nkc", past, view.classify_weight) + view.classify_bias).chunk(2, dim=-1)
        share = torch.sigmoid(view.gate(torch.tanh(t.mean(dim=1))))
        assert torch.allclose(model.full(x), 2 * share * s.sum(dim=1), atol=1e-5)


def test_with_a_gate_of_a_half_and_true_imagination_all_exits_say_the_same(model):
    x, view = inputs(), view_of(model)
    nn.init.zeros_(view.gate.weight)
    nn.init.zeros_(view.gate.bias)
    with torch.inference_mode():
        *_, (_, past) = model.states(x)
        answers = [view.classify(past[:, :i], past[:, i:]) for i in range(1, N + 1)]
        assert all(torch.allclose(a, answers[-1], atol=1e-5) for a in answers)
        assert not torch.allclose(model(x)[0], answers[-1], atol=1e-2)
        true = [past[:, i:] for i in range(1, N + 1)]
        assert float(imitation_loss(past, true)) == pytest.approx(0, abs=1e-6)


def test_imitation_has_one_map_per_layer_whatever_the_exit(model):
    view = view_of(model)
    assert view.imitate_weight.numel() + view.imitate_bias.numel() == N * (D * D + D)
    assert all(head.view is view for head in model.heads)


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
    outputs, _, _ = routed(model, inputs())
    outputs[2].sum().backward()
    poolers = [stage.pooler.weight for stage in model.stages]
    assert [moves(p) for p in poolers] == [False, False, True, False]
    assert [moves(stage.layer.weight) for stage in model.stages] == [True, True, True, False]


def test_targets_of_the_imitation_get_no_gradient(model):
    _, pooled, imagined = routed(model, inputs())
    imitation_loss(pooled, imagined).backward()
    assert [moves(stage.pooler.weight) for stage in model.stages] == [True, True, True, False]


def test_training_pass_says_what_inference_says(model):
    with torch.inference_mode():
        assert torch.allclose(routed(model, inputs())[0], model(inputs()), atol=1e-6)


def test_protected_layers_get_no_gradient_at_first_and_all_of_it_at_the_end(prepared, monkeypatch):
    """The share of steps at which the lowest layer is cut off falls from 1 to 0; layers above are never cut off."""
    method, _, ready = prepared(KEY)
    seen = []

    def watch(model, x, detached):
        seen.append((detached(0), detached(1), detached(2)))
        return routed(model, x, detached)

    monkeypatch.setattr(recipe, "routed", watch)
    fresh = method.build(ready.data, 0)
    sizes = {"epochs": 8.0, "batch": 32, "rate": 0.0}
    recipe.train_past_future(fresh, ready.data, Bench(), weights=depth_weights(4), protected=2, **sizes)
    third = len(seen) // 3
    for layer in (0, 1):
        share = [sum(each[layer] for each in seen[a : a + third]) / third for a in (0, third, 2 * third)]
        assert share[0] > 0.7 > share[1] > 0.3 > share[2]
    assert not any(each[2] for each in seen)
    assert seen[0][0]
    assert not seen[-1][0]


def test_recipe_minimises_the_mean_of_both_losses(prepared, monkeypatch):
    _, _, ready = prepared(KEY)
    index, x = next(iter(ready.data.train.batches(16)))
    found = []
    monkeypatch.setattr(recipe, "fit", lambda parameters, train, loss, bench, **_: found.append(loss(index, x)))
    monkeypatch.setattr(ready.model, "train", lambda mode=True: ready.model)  # without dropout
    w = depth_weights(ready.model.exits)
    recipe.train_past_future(ready.model, ready.data, Bench(), weights=w, protected=0, epochs=1, batch=16)
    outputs, pooled, imagined = routed(ready.model, x)
    right = sum(a * loss for a, loss in zip(w, exit_losses(outputs, ready.data.train.targets[index]), strict=True))
    both = (right + imitation_loss(pooled, imagined)) / 2
    assert found[0].item() == pytest.approx(both.item(), rel=1e-5)


# The exit rule.


def test_zero_uses_all_layers_and_more_than_the_largest_entropy_the_first():
    z = torch.randn(4, 50, K)
    assert (replay(Entropy(0.0), z) == 3).all()
    assert (replay(Entropy(math.log(K) + 1e-3), z) == 0).all()
    exits = [replay(Entropy(s), z) for s in (0.0, 0.2, 0.5, 0.8, 1.0)]
    assert all((looser <= tighter).all() for tighter, looser in pairwise(exits))


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
    assert len(likeness(ready.model, x)) == ready.model.exits - 1
    fresh = past_future_encoder("tiny", 10, seed=0)
    assert min(likeness(ready.model, x)) > max(likeness(fresh, x))


def test_every_layer_has_its_own_pooler_from_the_pretrained_one():
    poolers = [stage.pooler for stage in past_future_encoder("tiny", 10, seed=0).stages]
    assert len({id(p) for p in poolers}) == 4
    assert all(torch.equal(p.weight, poolers[0].weight) for p in poolers)


def test_local_variant_is_trained_as_pabee(prepared):
    shared = ("encoder", "corpus", "train_size", "epochs", "rate", "head_rate")
    assert all(getattr(PastFuture(), name) == getattr(Pabee(), name) for name in shared)
    small = {"encoder": "tiny", "corpus": "digits", "train_size": 64, "batch": 8, "local": True}
    ours = PastFuture().replace(small).prepare(Bench()).model.state_dict()
    del small["local"]
    theirs = Pabee().replace(small).prepare(Bench()).model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# The released code, run on these numbers (see `provenance` in the file).


def rebuilt(golden):
    """The network of the golden numbers."""
    layers = [Layer(torch.tensor(w)) for w in golden["layer"]]
    n, d, k = len(layers), len(golden["layer"][0]), len(golden["gate_bias"])
    view, poolers = GlobalView(n, d, k, dropout=0.0), [nn.Linear(d, d) for _ in layers]
    for i, pooler in enumerate(poolers):
        pooler.weight.data = torch.tensor(golden["pooler_weight"][i])
        pooler.bias.data = torch.tensor(golden["pooler_bias"][i])
    for name in ("imitate_weight", "imitate_bias", "classify_weight", "classify_bias"):
        getattr(view, name).data = torch.tensor(golden[name])
    view.gate.weight.data, view.gate.bias.data = torch.tensor(golden["gate_weight"]), torch.tensor(golden["gate_bias"])
    return past_future(layers, poolers, view)


def gradients(model):
    """By the names of the golden numbers; what got no gradient counts as zeros."""
    view, stages = view_of(model), list(model.stages)
    found = {
        "layer": [s.layer.weight for s in stages],
        "pooler_weight": [s.pooler.weight for s in stages],
        "pooler_bias": [s.pooler.bias for s in stages],
        **{name: [getattr(view, name)] for name in ("imitate_weight", "imitate_bias")},
        **{name: [getattr(view, name)] for name in ("classify_weight", "classify_bias")},
        "gate_weight": [view.gate.weight],
        "gate_bias": [view.gate.bias],
    }
    return {
        name: torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
        for name, parameters in found.items()
    }


@pytest.mark.parametrize(("protected", "prefix"), [(0, ""), (2, "protected_")])
def test_logits_loss_and_all_gradients_agree_with_the_released_code(golden, protected, prefix):
    model, x, labels = rebuilt(golden), torch.tensor(golden["x"]), torch.tensor(golden["labels"])
    outputs, pooled, imagined = routed(model, x, lambda i: i < protected)
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
def test_it_beats_a_rival_only_by_half_a_point(prepared, made, monkeypatch, name, rival, ahead, holds):
    method, bench, ready = prepared(KEY)
    entropies = [Entropy(s) for s in method.knobs]
    held = [method.trial(rule, ready.split("validation")) for rule in entropies]
    best = max(range(len(held)), key=lambda i: (held[i].quality, -held[i].cost))
    reached = method.trial(entropies[best], ready.split("test")).quality
    monkeypatch.setattr(type(rival), "prepare", lambda self, bench: None)
    monkeypatch.setattr(paper, "points_of", lambda rival, ready, bench: made(reached - ahead))
    found = method.beats(name, rival, ready, bench)
    assert (found.name, found.holds) == (f"better than {name}", holds)
    assert found.measured == f"{ahead:+.4f} on average over the costs of 1 settings"


@pytest.mark.parametrize("rival", [DeeBert(), Pabee()])
def test_rivals_are_trained_as_their_own_rows(rival):
    """So the cache serves both."""
    assert on_the_task_of(PastFuture(), rival) == rival
    assert on_the_task_of(PastFuture(train_size=7), rival).train_size == 7
