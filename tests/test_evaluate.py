"""Replay on stored outputs and real skipping are the same thing."""

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.engine.costs import MacCounter, exit_costs
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.voting import Voting

POLICIES = [
    *(MaxConfidence(0.5), Entropy(0.9), Patience(1), MaxConfidence(2.0), MaxConfidence(0.0), Patience(0)),
    *(Voting(2), Voting(9)),  # these assemble the answer from several exits
]


class Pair(nn.Module):
    """A stage whose state is a nested structure, as multi-scale networks pass on."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, state):
        if isinstance(state, torch.Tensor):
            state = {"coarse": state, "fine": [state, (state,)]}
        return {"coarse": torch.tanh(self.a(state["coarse"])), "fine": [self.b(state["fine"][0]), state["fine"][1]]}


class Head(nn.Linear):
    def forward(self, state):
        return super().forward(state["coarse"] + state["fine"][0]) * 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    return MultiExit([Pair() for _ in range(4)], [Head(6, 3) for _ in range(4)]).eval()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_replay_equals_infer_and_skipped_work_is_not_done(model, policy):
    x = torch.randn(40, 6)
    with torch.inference_mode():
        outputs = model(x)
    exits = replay(policy, outputs)
    table, ran = exit_costs(model, x[:1]), [0, 0, 0, 0]
    hooks = [
        stage.register_forward_hook(lambda m, args, out, i=i: ran.__setitem__(i, ran[i] + len(out["coarse"])))
        for i, stage in enumerate(model.stages)
    ]
    with MacCounter() as counter:
        found = infer(model, x, policy, table)
    for hook in hooks:
        hook.remove()
    assert found.exits.tolist() == exits.tolist()
    assert torch.allclose(found.outputs, answered(policy, outputs, exits), atol=1e-5)
    assert ran == [int((exits >= i).sum()) for i in range(4)]
    assert found.macs.tolist() == [table[i] for i in exits]
    assert counter.macs == int(found.macs.sum())


def test_answer_is_the_exits_own_unless_the_policy_assembles_it():
    outputs = torch.eye(3)[torch.tensor([[0, 1], [0, 1], [1, 1], [2, 2]])]
    last = np.array([3, 3])
    assert torch.equal(answered(Patience(9), outputs, last), outputs[3])
    assert answered(Voting(9), outputs, last).argmax(-1).tolist() == [0, 1]


def test_batch_mates_do_not_matter(model):
    x = torch.randn(20, 6)
    together = infer(model, x, Patience(1))
    for i in range(20):
        alone = infer(model, x[i : i + 1], Patience(1))
        assert alone.exits[0] == together.exits[i]


def test_select_keeps_samples_everywhere():
    state = {"a": torch.arange(4), "b": [torch.arange(8).reshape(4, 2), (torch.arange(4),)], "n": 3}
    kept = select(state, torch.tensor([2, 0]))
    assert kept["a"].tolist() == [2, 0]
    assert kept["b"][0].tolist() == [[4, 5], [0, 1]]
    assert kept["b"][1][0].tolist() == [2, 0]
    assert kept["n"] == 3


def test_select_keeps_what_all_share_but_for_nobody():
    state = (torch.arange(4), torch.arange(3).reshape(1, 1, 1, 3))
    kept = select(state, torch.tensor([3]))
    assert kept[0].tolist() == [3]
    assert kept[1] is state[1]
    alone = torch.arange(2).reshape(1, 2)
    assert select(alone, torch.tensor([0])).tolist() == [[0, 1]]
    assert select(alone, torch.tensor([], dtype=torch.int64)).shape == (0, 2)


class Attending(nn.Module):
    """A stage that mixes tokens ``[N, T, d]`` as an attention mask admits, which it passes on."""

    def __init__(self, mask=None):
        super().__init__()
        self.mask, self.inner = mask, nn.Linear(6, 6)

    def forward(self, state):
        x, mask = (state, self.mask(state)) if self.mask else state
        shares = (x @ x.transpose(1, 2))[:, None] + mask  # [N, 1, T, T]
        return torch.tanh(self.inner(shares.softmax(dim=-1)[:, 0] @ x)), mask


class Reading(nn.Linear):
    def forward(self, state):
        return super().forward(state[0][:, 0]) * 9


def fixed(x):
    """One mask for all samples: the last tokens are left out."""
    return torch.where(torch.arange(x.shape[1]) > 2, -torch.inf, 0.0)[None, None, None]


def ragged(x):
    """A mask of each sample's own ``[N, 1, 1, T]``, by the sign of its tokens; the first is never left out."""
    return torch.where((x[..., 0] < 0) & (torch.arange(x.shape[1]) > 0), -torch.inf, 0.0)[:, None, None]


@pytest.mark.parametrize(("mask", "first"), [(fixed, 1), (ragged, 20)])
def test_a_mask_in_the_state_is_shared_or_goes_with_its_sample(mask, first):
    torch.manual_seed(0)
    model = MultiExit([Attending(mask), *(Attending() for _ in range(3))], [Reading(6, 3) for _ in range(4)]).eval()
    x = torch.randn(20, 5, 6)
    assert mask(x).shape == (first, 1, 1, 5)
    with torch.inference_mode():
        outputs = model(x)
    policy = MaxConfidence(0.8)
    exits = replay(policy, outputs)
    assert len(set(exits.tolist())) > 2
    found = infer(model, x, policy)
    assert found.exits.tolist() == exits.tolist()
    assert torch.allclose(found.outputs, answered(policy, outputs, exits), atol=1e-5)


def test_stages_and_heads_must_match():
    with pytest.raises(ValueError, match="as many heads"):
        MultiExit([nn.Identity()], [])


def test_full_batches_hold_one_shape_each_and_common_shapes_come_first():
    inputs = [torch.zeros(n) for n in (3, 5, 5, 3, 5, 5, 5, 7)]
    examples = Examples(inputs, torch.arange(8))
    chosen = examples.filled(2, 6)
    assert chosen.tolist() == [1, 2, 4, 5, 0, 3]
    assert [len(x) for _, x in examples.at(chosen).batches(2)] == [2, 2, 2]
    assert examples.filled(2, 4).tolist() == [1, 2, 4, 5]
    assert examples.filled(9, 99).tolist() == [1, 2, 4, 5, 6]
