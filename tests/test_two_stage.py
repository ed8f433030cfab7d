"""Two stages on any network: heads learn from stored states of any structure, the trunk is trained and kept once."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.recipes import two_stage
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import frozen_states, train_heads, train_parts

OPTIONS = {"epochs": 1.0, "batch": 8, "rate": 1e-2}


class Start(nn.Module):
    """From ``[N, T, 4]`` to a state that holds a dictionary, tuples, a list, a mask shared by all, and a number."""

    def __init__(self):
        super().__init__()
        self.inner, self.drop = nn.Linear(4, 6), nn.Dropout(0.5)

    def forward(self, x):
        h = self.drop(torch.tanh(self.inner(x)))
        return {"h": h, "pair": (h[:, 0], [h.mean(dim=1)]), "mask": torch.ones(1, x.shape[1], 1), "layer": 1}


class Middle(nn.Module):
    """To a tuple of another make: the map shrinks to one vector."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 5)

    def forward(self, state):
        return ((state["h"] * state["mask"]).sum(dim=1), torch.tanh(self.inner(state["pair"][1][0])))


class End(nn.Linear):
    def forward(self, state):
        return super().forward(state[1]), state[0]


class Reads(nn.Module):
    def __init__(self, read, width, *, says=False):
        super().__init__()
        self.read, self.linear, self.says = read, nn.Linear(width, 3), says

    def forward(self, state):
        answer = self.linear(self.read(state))
        return {"answer": answer, "certainty": answer[:, 0]} if self.says else answer


def first(state):
    return state["h"][:, 0] + state["pair"][0] + state["pair"][1][0] + state["mask"].mean()


def second(state):
    return torch.cat([state[0], state[1]], dim=1)


def last(state):
    return state[0]


def network(*, says=False, exits=3):
    torch.manual_seed(0)
    stages, final = [Start(), Middle(), End(5, 5)], Reads(last, 5)
    heads = [Reads(first, 6, says=says), Reads(second, 11)]
    return MultiExit(stages, [*heads[: exits - 1], final])


@pytest.fixture
def data():
    """Ninety samples of three lengths, one of which a single sample has."""
    torch.manual_seed(1)
    lengths = [5] * 70 + [3] * 19 + [7]
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0)).tolist()
    inputs = [torch.randn(lengths[i], 4) for i in order]
    part = Examples(inputs, torch.stack([x.mean(dim=0)[:3].argmax() for x in inputs]))
    return Data(part, part, part, 3, "made")


def test_stored_states_are_those_that_the_heads_would_read(data):
    model = network()
    states = frozen_states(model, data.train, Bench())
    assert len(states) == 90
    seen = []
    for index, stored in states.batches(16, torch.Generator().manual_seed(3)):
        seen += index.tolist()
        x = torch.stack([data.train.inputs[i] for i in index.tolist()])
        live = list(model.eval().states(x))[:2]
        for head, state, now in zip(model.heads, stored, live, strict=False):
            assert torch.allclose(head(state), head(now), atol=1e-6)
        assert stored[0]["h"].shape == live[0]["h"].shape
        assert stored[0]["mask"].shape == (1, x.shape[1], 1)
        assert stored[0]["layer"] == 1
        assert torch.allclose(stored[1][1], live[1][1], atol=1e-6)
    assert sorted(seen) == list(range(90))
    assert torch.equal(states.targets, data.train.targets)


def test_the_last_stage_is_not_run_for_states_and_only_what_is_kept_is_stored(data, monkeypatch):
    model = network()
    monkeypatch.setattr(End, "forward", None)
    states = frozen_states(model, data.train, Bench(), keep=lambda s: s["h"][:, :1] if isinstance(s, dict) else s[1])
    ((_, stored), *_) = states.batches(90)
    assert stored[0].shape[1:] == (1, 6)
    assert stored[1].shape[1:] == (5,)


@pytest.mark.parametrize("says", [False, True])
def test_heads_minimise_the_sum_of_their_losses_and_nothing_else_moves(data, says):
    model = network(says=says)
    before = copy.deepcopy(model.state_dict())
    stages = []
    bench = Bench(watch=lambda stage: stages.append(stage) if stage else None)
    train_heads(model, data, bench, **OPTIONS)
    (stage,) = stages
    assert stage.rates == {id(p): 1e-2 for head in model.heads[:-1] for p in head.parameters()}
    index, stored = next(stage.train.batches(8))
    loss = stage.loss(stage.batch_of(index, stored))
    x = torch.stack([data.train.inputs[i] for i in index.tolist()])
    states, targets = list(model.eval().states(x)), data.train.targets[index]
    answers = [model.heads[0].linear(first(states[0])), model.heads[1].linear(second(states[1]))]
    assert loss.item() == pytest.approx(sum(F.cross_entropy(a, targets).item() for a in answers), abs=1e-5)
    moved = {name.rpartition(".")[0] for name, now in model.state_dict().items() if not torch.equal(now, before[name])}
    assert moved == {"heads.0.linear", "heads.1.linear"}
    assert not model.training


def test_on_the_network_run_anew_heads_learn_what_they_learn_from_stored_states(data, monkeypatch):
    stored, live = network(), network()
    train_heads(stored, data, Bench(), **OPTIONS)
    monkeypatch.setattr(live.stages[-1], "forward", None)
    train_parts(live, live.heads[:-1].parameters(), data, Bench(), **OPTIONS)
    for name, tensor in stored.state_dict().items():
        assert torch.allclose(live.state_dict()[name], tensor, atol=1e-4), name
    assert all(p.requires_grad and (p.grad is None) is (name.startswith(("stages", "heads.2")))
               for name, p in live.named_parameters())  # fmt: skip
    assert not any(part.training for part in live.modules())


def test_the_plain_network_is_trained_by_its_own_loss_without_other_heads(data):
    model, stages = network(), []
    bench = Bench(watch=lambda stage: stages.append(stage) if stage else None, most_steps=0)
    train_plain(model, data, bench, head_rate=0.5, **OPTIONS)
    (stage,) = stages
    trunk = {id(p): 1e-2 for part in model.stages for p in part.parameters()}
    assert stage.rates == trunk | {id(p): 0.5 for p in model.heads[-1].parameters()}
    model.eval()
    index, x = next(data.train.batches(8))
    found = stage.loss(stage.batch_of(index, x))
    assert found.item() == pytest.approx(F.cross_entropy(model.full(x), data.train.targets[index]).item())


def test_the_trunk_is_trained_and_kept_once_whatever_heads_follow(data, tmp_path):
    bench, trunks = Bench(cache=tmp_path), []
    for settings in ({}, {"says": True}, {"exits": 2}):
        model = network() if settings.get("exits") != 2 else one_exit_less()
        if settings.get("says"):
            model.heads[0].says = True
        train_plain(model, data, bench, **OPTIONS)
        trunks.append([p.clone() for p in model.plain_network().parameters()])
        train_heads(model, data, bench, **OPTIONS)
        assert all(torch.equal(a, b) for a, b in zip(trunks[-1], model.plain_network().parameters(), strict=True))
    assert all(torch.equal(a, b) for other in trunks[1:] for a, b in zip(trunks[0], other, strict=True))
    labels = len(bench.trainings)
    assert labels == 1 + 3  # one trunk, and three sets of heads
    assert len(list((tmp_path / "weights").glob("*.kept"))) == labels


class Carrying(nn.Module):
    """A stage whose state holds something beside the hidden states, made of the batch ``[n, T, 4]``."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def forward(self, x):
        return {"h": x.mean(dim=1), "beside": self.made(x)}


CARRIED = {
    "list": (lambda x: x[:, 0, 0].tolist(), "a list of .* numbers or texts"),
    "number": (lambda x: float(x.sum()), "a float that all samples of a batch share, but not those of another"),
    "number without axes": (lambda x: x.sum(), r"a tensor \[\] that all samples of a batch share, but not"),
    "tensor of the batch": (
        lambda x: x.mean(dim=0)[None, None],
        r"a tensor \[1, 1, 5, 4\] that all samples of a batch",
    ),
    "sample second": (lambda x: x[None, :, 0], r"a tensor \[1, 7, 4\], .* its second axis is the sample"),
    "sample last": (lambda x: x[:, 0].T, r"a state of 7 samples holds a tensor \[4, 7\]"),
}


@pytest.mark.parametrize("kind", CARRIED)
def test_states_whose_samples_cannot_be_told_apart_are_not_stored(data, monkeypatch, kind):
    made, told = CARRIED[kind]
    monkeypatch.setattr(two_stage, "READ", 7)
    model = MultiExit([Carrying(made), nn.Identity()], [nn.Identity(), nn.Identity()])
    with pytest.raises(ValueError, match=told):
        frozen_states(model, data.train, Bench())


def test_what_all_samples_share_is_stored_once(data, monkeypatch):
    monkeypatch.setattr(two_stage, "READ", 7)
    shared = {"scale": torch.tensor(2.0), "mask": torch.ones(1, 1, 4), "layer": 3, "size": (2, 3), "name": "first"}
    model = MultiExit([Carrying(lambda x: shared), nn.Identity()], [nn.Identity(), nn.Identity()])
    for index, (state,) in frozen_states(model, data.train, Bench()).batches(16):
        assert len(state["h"]) == len(index)
        assert {**state["beside"], "mask": 0} == {**shared, "mask": 0}
        assert state["beside"]["mask"].shape == (1, 1, 4)


def one_exit_less():
    """The same network with its first two stages as one, which has one head."""
    model = network()
    joined = nn.Sequential(model.stages[0], model.stages[1])
    return MultiExit([joined, model.stages[2]], [model.heads[1], model.heads[2]])


def test_samples_are_read_in_several_batches_and_keep_their_places(data, monkeypatch):
    whole = frozen_states(network(), data.train, Bench())
    monkeypatch.setattr(two_stage, "READ", 7)
    cut = frozen_states(network(), data.train, Bench())
    for (index, a), (other, b) in zip(whole.batches(16), cut.batches(16), strict=True):
        assert torch.equal(index, other)
        assert torch.allclose(a[0]["h"], b[0]["h"], atol=1e-6)
        assert a[0]["mask"].shape == b[0]["mask"].shape


def test_parts_that_learn_are_in_training_mode_and_the_frozen_network_is_not():
    """Dropout drops and batch normalisation counts in heads alone, as where heads learn from stored states."""

    def head():
        return nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))

    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model = MultiExit([trunk, nn.Identity()], [head(), nn.Linear(4, 2)]).eval()
    examples = Examples([torch.randn(4) for _ in range(12)], torch.arange(12) % 2)
    data = Data(examples, examples, examples, classes=2, digest="d")
    train_parts(model, model.heads[:-1].parameters(), data, Bench(), epochs=1.0, batch=4, rate=1e-3)
    assert model.heads[0][1].num_batches_tracked == 3
    assert trunk[1].num_batches_tracked == 0
    assert not any(part.training for part in model.modules())
