"""What all exits say is computed once for the same network and the same examples, and anew for any other."""

import pytest
import torch
from torch import nn

from eelit.methods.engine import exit_outputs as answers
from eelit.methods.engine.exit_outputs import all_outputs, remembered
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.tasks import examples


class Scaled(nn.Linear):
    factor = 1.0

    def forward(self, x):
        return self.factor * super().forward(x)


@pytest.fixture
def model():
    torch.manual_seed(0)
    stages = [Scaled(4, 4), Scaled(4, 4)]
    return MultiExit(stages, [nn.Linear(4, 3), nn.Linear(4, 3)]).eval()


class Told:
    """Stands for `all_outputs`, and lists for which parts it was asked: no function, whose lists would be looked at."""

    def __init__(self):
        self.labels = []

    def __call__(self, model, examples, bench, label):
        self.labels.append(label)
        return all_outputs(model, examples, bench, label)


@pytest.fixture
def computed(monkeypatch):
    """The parts that were really computed."""
    told = Told()
    monkeypatch.setattr(answers, "all_outputs", told)
    return told.labels


def some(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return examples(torch.rand(n, 4, generator=rng).numpy(), torch.arange(n).numpy() % 3)


def test_the_same_network_is_asked_once(model, computed, tmp_path):
    bench, part = Bench(cache=tmp_path), some(9)
    first = remembered(model, part, bench, "test")
    assert torch.equal(first, remembered(model, part, bench, "test"))
    assert torch.allclose(first, all_outputs(model, part, bench, ""))
    assert computed == ["all exits on 9 test samples"]
    assert bench.prepared_from_cache  # nothing was trained
    assert bench.prepared_seconds == 0
    assert bench.trainings == {}


def test_another_network_or_other_examples_are_asked_anew(model, computed, tmp_path):
    bench, part = Bench(cache=tmp_path), some(9)
    remembered(model, part, bench, "test")
    remembered(model, some(9, seed=1), bench, "test")
    model.heads[1].bias.data += 1
    changed = remembered(model, part, bench, "test")
    model.stages[0].factor = 2.0  # no weight, and yet another network
    scaled = remembered(model, part, bench, "test")
    assert len(computed) == 4
    assert not torch.allclose(changed, scaled)
