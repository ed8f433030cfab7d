"""A network may be on any device: what is made beside it, and what it is compared with, is brought to it or from it."""

import copy
import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from far import DEVICE, FarTensor, far_away, moved
from torch import nn

from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.members import Member, Network
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import registry
from eelit.methods.policies.entropy import percentile_thresholds
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes import fit as recipes_fit
from eelit.methods.recipes.two_stage import frozen_states


def test_the_stand_in_refuses_what_a_device_refuses():
    with far_away():
        x, index = torch.arange(6.0).reshape(2, 3), torch.tensor([1])
        y = x.to(DEVICE)
        assert (y.device, (y + 1).device, (y * y.sum()).cpu().tolist()) == (DEVICE, DEVICE, (x * 15).tolist())
        assert y[index].cpu().tolist() == [[3, 4, 5]]
        assert (y.tolist(), y.sum().item()) == (x.tolist(), 15)
        for mixed in (lambda: x + y, lambda: x[index.to(DEVICE)], lambda: torch.cat([x, y]), lambda: y[:, :2] @ x):
            with pytest.raises(RuntimeError, match="expected all tensors on one device"):
                mixed()
        with pytest.raises(TypeError, match="numpy"):
            y.numpy()
        part = torch.zeros(2, 3, device=DEVICE)
        part[:, 0] = y[:, 1]
        assert part.cpu().tolist() == [[1, 0, 0], [4, 0, 0]]


FAMILIES = {
    "zhou2020pabee": 2,
    "schuster2021cats": 0.3,
    "wang2018skipnet": 2.5,
    "guan2022transkimmer": 0.0,
    "li2021tokee": 0.4,
    "schuster2022calm": 0.5,
    "bajpai2023splitee": 0.6,
    "leroux2017cascading": 0.9,
    "elbayad2020depth": 0.8,
    "fan2020layerdrop": 2,
}
"""A method of each family that runs a network, and a knob in its middle."""


@pytest.mark.parametrize("key", FAMILIES)
def test_every_family_executes_where_its_network_is(prepared, key, monkeypatch):
    waited = []
    monkeypatch.setattr(torch, DEVICE.type, SimpleNamespace(synchronize=waited.append), raising=False)
    method, bench, ready = prepared(key)
    bench = dataclasses.replace(bench, executed=12, test=24, cache=None, repeats=1)
    networks = (
        {"start": ready.start, "_networks": ready._networks} if key == "wang2018skipnet" else {"model": ready.model}
    )
    there = copy.deepcopy(networks)
    for network in there.get("_networks", {}).values():
        moved(network.model)
    for name in there.keys() - {"_networks"}:
        moved(there[name])
    fresh = {name: type(getattr(ready, name))() for name in ("_seen", "_stored", "_test", "_said", "runs", "caches")
             if hasattr(ready, name)}  # fmt: skip
    expected = method.execute(ready, bench, FAMILIES[key])
    with far_away():
        found = method.execute(dataclasses.replace(ready, **there, **fresh), bench, FAMILIES[key])
    assert found.agrees
    assert (found.claimed, found.counted, found.not_finite) == (expected.claimed, expected.counted, 0)
    assert set(waited) == {DEVICE}  # before the clock was read


class Sum(Member):
    """A member that is no network, as trees are: it answers on the host."""

    def forward(self, x):
        return torch.stack([x.cpu().sum(dim=1), -x.cpu().sum(dim=1)], dim=1)

    def costs(self, x):
        return np.ones(len(x))


def test_members_of_a_cascade_may_be_on_several_devices():
    torch.manual_seed(0)
    members, x = [Network(nn.Linear(3, 2)), Sum(), Network(nn.Linear(3, 2))], torch.randn(20, 3)
    expected = Cascade(members).run(x, MaxConfidence(0.7))
    assert len(set(expected.exits.tolist())) == 3
    with far_away():
        found = Cascade([members[0], members[1], moved(members[2])]).run(x, MaxConfidence(0.7))
    assert torch.equal(found.exits, expected.exits)
    assert torch.allclose(found.outputs, expected.outputs)


def test_frozen_states_are_stored_on_the_host():
    model = MultiExit([nn.Linear(3, 4), nn.Linear(4, 4)], [nn.Linear(4, 2), nn.Linear(4, 2)])
    examples = Examples(list(torch.randn(9, 3)), torch.zeros(9))
    ((_, expected),) = frozen_states(model, examples, Bench()).batches(9)
    with far_away():
        ((_, found),) = frozen_states(moved(model), examples, Bench()).batches(9)
    assert torch.equal(found[0], expected[0])


def test_thresholds_are_found_from_what_is_elsewhere():
    with far_away():
        assert percentile_thresholds(torch.tensor([[0.1, 0.3, 0.2]], dtype=torch.float64).to(DEVICE), 0.5) == (0.2,)


TRAINED = [
    "elbayad2020depth", "fan2020layerdrop",
    "geng2021romebert", "guan2022transkimmer", "li2021tokee", "liao2021pastfuture", "regol2024jeidnn",
    "schuster2021cats", "schuster2022calm", "schwartz2020right", "sun2021ensemble", "wang2018skipnet",
    "wang2024exclusion", "xin2020deebert", "xin2020ranking", "xin2021berxit", "zeng2024consistentee", "zhou2020pabee",
    "zhu2021leebert",
]  # fmt: skip
"""Methods with a training of their own."""


@pytest.mark.parametrize("key", TRAINED)
def test_training_makes_the_same_steps_where_the_network_is(key, monkeypatch):
    monkeypatch.setattr(recipes_fit, "FUSED", ())  # torch has fused steps on real devices only
    method, states = registry.get(key), []
    method = method.variant(next(iter(method.variants)), "tiny")
    data = method.load()
    few = {name: part.head(24) for name, part in getattr(data, "more", {}).items()}
    data = dataclasses.replace(data, train=data.train.head(24), **({"more": few} if few else {}))
    for far in (False, True):
        model = method.build(data, 0)
        with far_away():
            method.train(moved(model) if far else model, data.without_test(), Bench(most_steps=2))
            assert all(isinstance(tensor, FarTensor) == far for tensor in model.state_dict().values())
            states.append({name: tensor.cpu() for name, tensor in model.state_dict().items()})
    for name, here in states[0].items():
        # by far less than a step, on the mean: where a gradient is next to nothing, rounding turns Adam's step round
        assert (states[1][name].double() - here.double()).abs().mean() < 1e-4, name
