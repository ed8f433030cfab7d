"""Recipes: one weight for each loss and each sample, and batches that come to where the network is."""

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.nn import functional as F

from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.members import Estimator, flat
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import accuracy
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.cascades import fit_estimator
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import fit
from eelit.methods.recipes.joint import depth_weights, exit_losses, train_joint, weighted

OPTIONS = {"epochs": 1.0, "batch": 4, "rate": 1e-2}


@pytest.fixture
def data():
    rng = torch.Generator().manual_seed(0)
    examples = Examples(list(torch.rand(8, 6, generator=rng)), torch.arange(8) % 2)
    return Data(examples, examples, examples, 2, "made here")


def network():
    torch.manual_seed(0)
    return MultiExit([nn.Linear(6, 6) for _ in range(3)], [nn.Linear(6, 2) for _ in range(3)])


def test_losses_are_weighted_one_by_one():
    assert float(weighted(torch.tensor([1.0, 10.0, 100.0]), [3, 2, 1])) == 123


@pytest.mark.parametrize("weights", [[1.0], [1.0, 1.0], [1.0] * 4, []])
def test_a_weight_does_not_serve_several_exits(data, weights):
    model = network()
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="3 exits need as many weights"):
        train_joint(model, data, Bench(), weights=weights, **OPTIONS)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("weights", [torch.ones(1), torch.ones(9), torch.ones(8, 1)])
def test_a_weight_does_not_serve_several_samples(data, weights):
    with pytest.raises(ValueError, match="8 samples need as many weights"):
        fit_estimator(Estimator(LogisticRegression(), 2), data, Bench(), weights)


WRONG = {
    "one class": ((3, 8, 1), torch.zeros(8, dtype=torch.int64), r"of at least two classes, .* not \[3, 8, 1\]"),
    "values in a column": ((3, 8, 1), torch.zeros(8), r"or values \[exits, samples\], not \[3, 8, 1\]"),
    "one exit": ((8,), torch.zeros(8), r"not \[8\]"),
    "words": ((3, 8, 5, 2), torch.zeros(8, dtype=torch.int64), r"not \[3, 8, 5, 2\]"),
    "targets in a column": ((8, 8), torch.zeros(8, 1), r"each of 8 samples has one target, not \[8, 1\]"),
    "one target": ((3, 8), torch.zeros(1), r"each of 8 samples has one target, not \[1\]"),
    "too many targets": ((3, 8, 2), torch.zeros(9, dtype=torch.int64), r"each of 8 samples has one target, not \[9\]"),
    "values for classes": (
        (3, 8, 2),
        torch.zeros(8),
        "the targets of logits are classes, whole numbers, not torch.float",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_losses_of_something_else_are_refused(case):
    shape, targets, told = WRONG[case]
    with pytest.raises(ValueError, match=told):
        exit_losses(torch.zeros(shape), targets)


def test_one_class_is_always_right_and_no_answer():
    assert accuracy(torch.eye(3), torch.tensor([0, 1, 1])) == pytest.approx(2 / 3)
    for outputs in (torch.zeros(4, 1), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"accuracy is that of logits .* of at least two classes"):
            accuracy(outputs, torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        *[
            ("epochs", given, "epochs is one finite number above 0, not")
            for given in (0, -1.0, math.inf, math.nan, "2")
        ],
        *[("batch", given, "batch is one whole number of at least 1, not") for given in (0, 4.0, None)],
        *[("rate", given, "rate is one finite number of at least 0, not") for given in (-1e-3, math.nan, (0.1, 0.2))],
        ("faster_rate", math.nan, "faster_rate is one finite number of at least 0, not"),
        *[("warm_up", given, "warm_up is one number of at least 0 and of at most 1, not") for given in (-0.1, 2)],
    ],
)
def test_numbers_with_which_nothing_can_be_trained_are_refused(data, name, given, told):
    model = network()
    with pytest.raises(ValueError, match=f"fit: {told}"):
        fit(model.parameters(), data.train, None, Bench(), label="", **{**OPTIONS, name: given})


def test_weights_and_temperatures_are_finite(data):
    with pytest.raises(ValueError, match="train_joint: weights is one finite number, or one per exit, not"):
        train_joint(network(), data, Bench(), weights=[1.0, math.nan, 1.0], **OPTIONS)
    for temperature in (0, -1.0, math.inf):
        with pytest.raises(ValueError, match="divergence: temperature is one finite number above 0, not"):
            divergence(torch.zeros(2, 3), torch.zeros(2, 3), temperature)
    with pytest.raises(ValueError, match="depth_weights: exits is one whole number of at least 1, not 0"):
        depth_weights(0)


class Rule(torch.optim.SGD):
    """An ordinary rule, whose steps are not fused: torch has fused steps on real devices only."""


def test_batches_come_to_where_the_network_is(data):
    """On torch's device without memory, which like a real one refuses to mix; nothing is learned there."""
    model, seen = network().to("meta"), []

    def loss(batch):
        seen.append((batch.inputs.device.type, batch.targets.device.type, batch.index.device.type))
        return weighted(exit_losses(model(batch.inputs), batch.targets), [1.0, 2.0, 3.0])

    fit(model.parameters(), data.train, loss, Bench(), label="", optimiser=Rule, **OPTIONS)
    assert seen == [("meta", "meta", "cpu")] * 2


def test_states_of_any_structure_come_too():
    class States:
        targets = torch.zeros(2)

        def batches(self, size, shuffle=None):
            yield torch.arange(2), [{"hidden": torch.zeros(2, 3), "layer": 1}, (torch.zeros(2),)]

    model, seen = nn.Linear(3, 1, device="meta"), []

    def loss(batch):
        seen.extend([batch.inputs[0]["hidden"].device.type, batch.inputs[1][0].device.type, batch.inputs[0]["layer"]])
        return F.mse_loss(model(batch.inputs[0]["hidden"])[:, 0], batch.targets)

    fit(model.parameters(), States(), loss, Bench(), label="", optimiser=Rule, **OPTIONS)
    assert seen == ["meta", "meta", 1]


def test_an_estimator_reads_inputs_of_any_precision():
    x = torch.tensor([[[0.5, -1.0], [2.0, 0.0]]])
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert flat(x.to(dtype)).tolist() == [[0.5, -1.0, 2.0, 0.0]]
    assert flat(x.to(torch.float64)).dtype == np.float64
