"""What only DeeBERT promises: the invariants of the paper, on worked cases, and agreement with the released code."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
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


def test_frozen_states_are_what_the_heads_read_and_the_last_stage_is_not_run(prepared):
    _, _, ready = prepared(KEY)
    few = ready.data.test.head(8)
    ran = []
    hook = ready.model.stages[-1].register_forward_hook(lambda *_: ran.append(1))
    states = frozen_states(ready.model, few, Bench(), lambda state: state.mean(dim=1, keepdim=True))
    hook.remove()
    assert not ran
    with torch.inference_mode():
        outputs = ready.model(torch.stack(list(few.inputs)))
        for i, head in enumerate(ready.model.heads[:-1]):
            assert torch.allclose(head(torch.stack(list(states.inputs))[:, i]), outputs[i], atol=1e-5)


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
