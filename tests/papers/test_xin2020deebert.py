"""What only DeeBERT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.encoder import encoder
from eelit.methods.claims.xin2020deebert import claims
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.joint import exit_losses
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_states, train_heads

KEY = "xin2020deebert"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def weights_of(model):
    """Backbone and last head on the one hand, off-ramps on the other."""
    kept = {**model.stages.state_dict(prefix="stages."), **model.heads[-1].state_dict(prefix="last.")}
    return {k: v.clone() for k, v in kept.items()}, {k: v.clone() for k, v in model.heads[:-1].state_dict().items()}


def test_threshold_zero_never_stops_and_answers_as_the_fine_tuned_model(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    found = infer(ready.model, x, method.policy(0.0, ready))
    with torch.inference_mode():
        assert torch.equal(found.outputs, ready.model.full(x))
    assert (found.exits == ready.model.exits - 1).all()


@pytest.mark.parametrize(("classes", "bound"), [(2, 0.6932), (3, 1.0987)])
def test_threshold_above_the_largest_entropy_always_stops_at_the_first(classes, bound):
    logits = np.random.default_rng(0).normal(size=(5, 40, classes)) * 0.01
    assert (replay(Entropy(bound), logits) == 0).all()
    flat = np.zeros((5, 1, classes))
    assert replay(Entropy(float(entropy(flat[0])[0])), flat).tolist() == [4]  # strictly below


def test_raising_the_threshold_only_adds_early_exits():
    logits = np.random.default_rng(1).normal(size=(6, 200, 3)) * 3
    exits = [replay(Entropy(s), logits) for s in (0.0, 0.05, 0.2, 0.5, 0.9, 1.2)]
    assert all((later <= earlier).all() for earlier, later in pairwise(exits))


def test_second_stage_leaves_the_backbone_and_the_last_head_bit_identical(prepared):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, seed=3)
    before, ramps = weights_of(model)
    train_heads(model, ready.data, Bench(), epochs=0.5, batch=32, rate=1e-2)
    after, moved = weights_of(model)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(not torch.equal(ramps[name], moved[name]) for name in ramps)
    assert all(p.grad is None for p in model.stages.parameters())


def test_training_leaves_the_fine_tuned_model_as_stage_one_made_it(prepared):
    method, _, _ = prepared(KEY)
    small = method.replace({"train_size": 64, "epochs": 1.0, "ramp_epochs": 1.0})
    data = small.load()
    one, both = small.build(data, 0), small.build(data, 0)
    train_plain(one, data, Bench(), epochs=1.0, batch=small.batch, rate=small.rate, head_rate=small.ramp_rate)
    small.train(both, data, Bench())
    (first, ramps), (second, _) = weights_of(one), weights_of(both)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert all(
        torch.equal(p, q) for p, q in zip(ramps.values(), weights_of(small.build(data, 0))[1].values(), strict=True)
    )


def test_every_off_ramp_starts_as_the_pretrained_pooler_with_its_own_parameters(prepared):
    method, _, ready = prepared(KEY)
    poolers = [head.pooler for head in method.build(ready.data, seed=0).heads]
    assert len({id(p) for p in poolers}) == ready.model.exits
    assert all(torch.equal(p.weight, poolers[0].weight) and torch.equal(p.bias, poolers[0].bias) for p in poolers)
    assert len({head.classifier.weight.sum().item() for head in ready.model.heads}) == ready.model.exits


def test_poolers_start_as_the_pretrained_one(begun):
    model, _ = begun
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    for head in model.heads:
        assert torch.equal(head.pooler.weight, pretrained.weight)
        assert torch.equal(head.pooler.bias, pretrained.bias)


def mean_token(state):
    return state.mean(dim=1, keepdim=True)


def test_frozen_states_are_what_the_heads_read_and_the_last_stage_is_not_run(prepared):
    """Of sentences of several lengths, 70 of the commonest: more than are read at a time."""
    _, _, ready = prepared(KEY)
    lengths = [17, 5, *[9] * 70, 5, 17, 17]
    inputs = [ready.data.test.inputs[i][:length] for i, length in enumerate(lengths)]
    ran = []
    hook = ready.model.stages[-1].register_forward_hook(lambda *_: ran.append(1))
    ready.model.train()
    states = frozen_states(ready.model, Examples(inputs, torch.arange(len(inputs))), Bench(), mean_token)
    hook.remove()
    assert not ran
    assert not ready.model.training
    assert len(states) == len(inputs)
    seen = []
    for index, read in states.batches(16):
        assert len({lengths[i] for i in index.tolist()}) == 1
        seen += index.tolist()
        for row, i in enumerate(index.tolist()):
            with torch.no_grad():
                expected = [mean_token(state)[0] for state in ready.model.states(inputs[i][None])][:-1]
            assert all(torch.allclose(a[row], b, atol=1e-5) for a, b in zip(read, expected, strict=True))
    assert sorted(seen) == list(range(len(inputs)))
    assert torch.equal(states.targets, torch.arange(len(inputs)))


def test_what_all_samples_share_is_stored_once(prepared):
    _, _, ready = prepared(KEY)
    states = frozen_states(ready.model, ready.data.test.head(70), Bench(), lambda s: (s[:, :1], torch.ones(1, 1, 3)))
    _, read = next(states.batches(32))
    assert [(len(own), len(shared)) for own, shared in read] == [(32, 1)] * 3


# What is trained, on what, at which rate.


@pytest.fixture
def begun(wired):
    short = {"batch": 20, "epochs": 1.5, "ramp_epochs": 2.5, "rate": 6e-3, "ramp_rate": 1e-2}
    return wired(registry.get(KEY).variant("", "tiny").replace(short))


def test_first_stage_is_ordinary_fine_tuning(begun):
    model, (stage, _) = begun
    index = torch.arange(5, 25)
    x, y = torch.stack(stage.train.inputs[5:25]), stage.train.targets[5:25]
    with torch.no_grad():
        expected = float(F.cross_entropy(model.full(x), y))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected, rel=1e-5)
    head = {id(p): 1e-2 for p in model.heads[-1].parameters()}
    assert stage.rates == {id(p): 6e-3 for p in model.stages.parameters()} | head
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, round(1.5 * 900 / 20))
    dropping = {name for name in stage.learning if name.startswith("heads")}
    assert dropping == {"heads.3.dropout"}
    assert any(name.startswith("stages.0.") for name in stage.learning)


def test_second_stage_minimises_the_plain_sum_of_the_losses_before_the_last(begun):
    """Not the sum weighed by depth, not their mean, not with the last exit's loss."""
    model, (first, stage) = begun
    index, states = next(stage.train.batches(20))
    y = stage.train.targets[index]
    assert torch.equal(stage.train.targets, first.train.targets)
    with torch.no_grad():
        losses = [
            float(F.cross_entropy(said, y)) for said in model(torch.stack([first.train.inputs[i] for i in index]))
        ]
    found = stage.loss(stage.batch_of(index, states)).item()
    assert found == pytest.approx(losses[0] + losses[1] + losses[2], rel=1e-5)
    assert found != pytest.approx((losses[0] + 2 * losses[1] + 3 * losses[2]) / 2, rel=1e-4)


def test_second_stage_trains_off_ramps_alone_on_frozen_states_of_all_training_data(begun):
    model, (first, stage) = begun
    assert stage.rates == {id(p): 1e-2 for p in model.heads[:-1].parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (2.5, 20, round(2.5 * 900 / 20))
    assert stage.learning == {"heads.0.dropout", "heads.1.dropout", "heads.2.dropout"}
    index, states = next(stage.train.batches(20))
    x = torch.stack([first.train.inputs[i] for i in index])
    with torch.no_grad():
        expected = [mean_token(state) for state in model.states(x)][:-1]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(states, expected, strict=True))
    assert not any(state.requires_grad for state in states)
    assert len(stage.train) == len(first.train) == 900


@pytest.mark.parametrize("train", [train_plain, train_heads])
def test_training_ends_in_evaluation_mode(prepared, train):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, seed=0).train()
    train(model, ready.data, Bench(most_steps=0), epochs=1.0, batch=32, rate=1e-3)
    assert not any(module.training for module in model.modules())


def test_agrees_with_the_released_code(golden):
    """Entropies, exit layers, answers before the last layer and both losses (see `provenance` in the file)."""
    logits, labels = torch.tensor(golden["logits"], dtype=torch.float32), torch.tensor(golden["labels"])
    assert np.allclose([entropy(out).numpy() for out in logits], golden["entropies"], atol=2e-6)
    for threshold, layers, answers in zip(golden["thresholds"], golden["exit_layers"], golden["answers"], strict=True):
        exits = replay(Entropy(threshold), logits)
        assert (exits + 1).tolist() == layers
        assert logits.argmax(-1)[torch.as_tensor(exits), torch.arange(len(labels))].tolist() == answers
    losses = exit_losses(logits, labels)
    assert float(losses[-1]) == pytest.approx(golden["loss_stage_1"], rel=1e-5)
    assert float(losses[:-1].sum()) == pytest.approx(golden["loss_stage_2"], rel=1e-5)


def test_a_certain_sample_leaves_at_once_where_the_released_code_gives_nan(golden):
    assert golden["underflow_is_nan"]
    certain = np.array([[[1000.0, -1000.0]], [[1.0, 1.0]]])
    assert float(entropy(certain[0])[0]) == 0.0
    assert replay(Entropy(1e-6), certain).tolist() == [0]


# What is claimed.


@pytest.mark.parametrize(
    ("speed_up", "behind", "holds"), [(1.7, 0.009, True), (1.6, 0.009, False), (1.7, 0.011, False)]
)
def test_forty_percent_must_be_saved_by_the_fastest_threshold_that_loses_little(prepared, speed_up, behind, holds):
    method, bench, ready = prepared(KEY)
    full = method.static(ready.split("validation"))[-1].quality

    def points(*triples):
        return [SimpleNamespace(knob=k, quality=q, cost=1 / s, speed_up=s) for k, (q, s) in enumerate(triples)]

    curve = SimpleNamespace(
        validation=points((full - 0.011, 4.0), (full - 0.009, speed_up), (full, 1.0)),
        test=points((0.9, 4.0), (0.9 - behind, speed_up), (0.9, 1.0)), full_quality=0.9,
    )  # fmt: skip
    found = {outcome.name: outcome for outcome in claims(method, ready, bench, curve)}
    assert found["40 % saved at almost no loss"].holds is holds
    assert "at S = 1" in found["40 % saved at almost no loss"].measured
    by_layer = [point.quality for point in method.static(ready.split("test"))]
    assert found["redundant layers"].holds is (max(by_layer[:3]) >= by_layer[3] - 0.01)
