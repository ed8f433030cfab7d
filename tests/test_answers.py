"""What all exits say is computed once for the same network and the same examples, and anew for any other."""

import pytest
import torch
from torch import nn

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


def some(n, seed=0):
    rng = torch.Generator().manual_seed(seed)
    return examples(torch.rand(n, 4, generator=rng).numpy(), torch.arange(n).numpy() % 3)


@pytest.fixture
def computed():
    """What was really computed, by the labels of its progress."""
    return []


@pytest.fixture
def bench(computed, tmp_path):
    return Bench(cache=tmp_path, progress=lambda label, share: computed.append(label))


def test_the_same_network_is_asked_once(model, computed, bench):
    part = some(9)
    first = remembered(model, part, bench, "test")
    assert torch.equal(first, remembered(model, part, bench, "test"))
    assert torch.allclose(first, all_outputs(model, part, Bench(), ""))
    assert computed == ["all exits on 9 test samples"]
    assert bench.prepared_from_cache  # nothing was trained
    assert bench.prepared_seconds == 0
    assert bench.trainings == {}


def test_another_network_or_other_examples_are_asked_anew(model, computed, bench):
    part = some(9)
    remembered(model, part, bench, "test")
    remembered(model, some(9, seed=1), bench, "test")
    model.heads[1].bias.data += 1
    changed = remembered(model, part, bench, "test")
    model.stages[0].factor = 2.0  # no weight, and yet another network
    scaled = remembered(model, part, bench, "test")
    assert len(computed) == 4
    assert not torch.allclose(changed, scaled)


def twice(module, args, out):
    return 2 * out


def test_a_hook_makes_another_network(model, computed, bench):
    part = some(9)
    plain = remembered(model, part, bench, "test")
    hook = model.heads[0].register_forward_hook(twice)
    assert torch.allclose(remembered(model, part, bench, "test")[0], 2 * plain[0])
    hook.remove()
    assert torch.equal(remembered(model, part, bench, "test"), plain)
    assert len(computed) == 2
