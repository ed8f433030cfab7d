"""What the tests of several papers ask of how a stage is wired."""

import pytest
import torch
from torch.nn import functional as F


def check_joint_training(method, stage):
    """One stage trains all exits together, ``L = sum_k CE_k``, on the training data, as the method's settings say."""
    data = method.load()
    index = torch.tensor([0, 3, 5, 6])
    x, y = torch.stack([data.train.inputs[i] for i in index.tolist()]), data.train.targets[index]
    model = method.build(data, 0).eval()
    state, expected = x, 0.0
    for part, head in zip(model.stages, model.heads, strict=True):
        state = part(state)
        expected += F.cross_entropy(head(state), y).item()
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected, rel=1e-4)
    assert (stage.epochs, stage.batch, set(stage.rates.values())) == (method.epochs, method.batch, {method.rate})
    assert torch.equal(stage.train.targets, data.train.targets)
