"""What only PABEE promises: the invariants of the paper, on worked cases."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.joint import depth_weights, exit_losses

KEY = "zhou2020pabee"
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(12, 300, 2))


def test_loss_weighs_exits_by_depth():
    assert depth_weights(3) == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    outputs, targets = torch.randn(3, 5, 2), torch.randint(2, (5,))
    losses = exit_losses(outputs, targets)
    by_hand = [torch.nn.functional.cross_entropy(out, targets) for out in outputs]
    assert torch.allclose(losses, torch.stack(by_hand))
    total = (torch.tensor(depth_weights(3)) * losses).sum()
    assert float(total) == pytest.approx(float((by_hand[0] + 2 * by_hand[1] + 3 * by_hand[2]) / 6))


def test_regression_loss_is_squared_error():
    outputs, targets = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([0.0, 0.0])
    assert exit_losses(outputs, targets).tolist() == [2.5, 0.0]


@pytest.mark.parametrize("patience", range(13))
def test_nobody_leaves_before_layer_patience_plus_one(logits, patience):
    exits = replay(Patience(patience), logits)
    assert exits.min() >= min(patience, 11)
    if patience >= 11:
        assert (exits == 11).all()


def test_exit_does_not_come_earlier_with_more_patience(logits):
    exits = [replay(Patience(patience), logits) for patience in range(12)]
    assert all((a <= b).all() for a, b in pairwise(exits))


def test_only_the_argmax_matters(logits):
    scale = np.random.default_rng(2).uniform(0.1, 50, size=(12, 300, 1))
    assert (replay(Patience(3), logits) == replay(Patience(3), logits * scale)).all()


def test_regression_tolerance_is_strict_and_infinite_tolerance_stops_at_once():
    values = np.repeat(np.array([[0.3, -0.2]]), 6, axis=0)
    assert replay(Patience(2, tolerance=0.0), values).tolist() == [5, 5]
    assert replay(Patience(2, tolerance=np.inf), values + np.arange(6)[:, None]).tolist() == [2, 2]
    steps = np.array([[0.0], [0.5], [0.55], [0.58], [0.9]])
    assert replay(Patience(2, tolerance=0.1), steps).tolist() == [3]


def test_counter_is_per_sample_not_per_batch():
    """The released code asks the whole batch to agree, so one undecided sample holds up all others."""
    decided = np.eye(2)[[0, 0, 0, 0]] * 4
    undecided = np.eye(2)[[0, 1, 0, 1]] * 4
    exits = replay(Patience(1), np.stack([decided, undecided], axis=1))
    assert exits.tolist() == [1, 3]


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    assert isinstance(method, Pabee)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, method.policy(1, ready))
    assert found.exits.tolist() == replay(Patience(1), outputs).tolist()
    assert len(set(found.exits.tolist())) > 1


def test_one_pooler_serves_all_heads(prepared):
    _, _, ready = prepared(KEY)
    assert len({id(head.pooler) for head in ready.model.heads}) == 1
    assert len({id(head.classifier) for head in ready.model.heads}) == ready.model.exits


def test_regression_variant_trains_on_real_values(prepared):
    method, _, _ = prepared(KEY)
    assert method.replace({"tolerance": 0.1}).quality == "Pearson's r"
    assert method.replace({"tolerance": 0.1}).policy(2, None) == Patience(2, 0.1)


def test_agrees_with_the_released_code():
    """The released exit rule and loss, run on these numbers in batches of one (see `provenance` in the file)."""
    golden = json.loads(GOLDEN.read_text())
    logits, values = np.array(golden["logits"]), np.array(golden["values"])
    for patience, exits in golden["exits_classification"].items():
        assert replay(Patience(int(patience)), logits).tolist() == exits
    for patience, exits in golden["exits_regression"].items():
        assert replay(Patience(int(patience), golden["tolerance"]), values).tolist() == exits
    w = torch.tensor(depth_weights(8))
    ours = (w * exit_losses(torch.tensor(logits), torch.tensor(golden["labels"]))).sum()
    assert float(ours) == pytest.approx(golden["loss_classification"], rel=1e-6)
    ours = (w * exit_losses(torch.tensor(values), torch.tensor(golden["targets"]))).sum()
    assert float(ours) == pytest.approx(golden["loss_regression"], rel=1e-6)
