"""Replay on stored outputs and real skipping are the same thing."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils import _pytree as pytree

from eelit.methods.engine.content_hash import Contents
from eelit.methods.engine.costs import MacCounter, both_costs, exit_costs
from eelit.methods.engine.evaluate import answered, followed, infer, not_finite, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.exit_outputs import all_outputs, digest
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import usual
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating, select
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.policies.base import softmax
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.voting import Voting

POLICIES = [
    *(MaxConfidence(0.5), Entropy(0.9), Patience(1), MaxConfidence(2.0), MaxConfidence(0.0), Patience(0)),
    *(Voting(2), Voting(9)),  # these assemble the answer from several exits
]

ASSEMBLING = [Voting(2), Voting(3, 0.5), Surest(0.7), ClassExclusion((0.2, 0.3, 0.4, 0.4)), MeanSoFar(2)]


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


@pytest.mark.parametrize(("said", "kind"), [(lambda x: (x, x), "tuple"), (lambda x: {"answer": x, "n": 3}, "int")])
def test_a_head_that_says_no_tensors_is_told_which(said, kind):
    class Odd(torch.nn.Module):
        def forward(self, x):
            return said(x)

    model = MultiExit([torch.nn.Identity(), torch.nn.Identity()], [Odd(), torch.nn.Identity()])
    with pytest.raises(ValueError, match=rf"exit 0 says a {kind}; a head returns logits"):
        infer(model, torch.rand(3, 4), MaxConfidence(0.5))


@pytest.mark.parametrize(
    "outputs", [[[1.0]], np.ones((2, 3, 4), dtype=object), torch.ones(2, 3, 4, dtype=torch.cfloat)]
)
def test_stored_outputs_are_arrays_of_numbers(outputs):
    with pytest.raises(ValueError, match="outputs are arrays or tensors of numbers"):
        replay(MaxConfidence(0.5), outputs)


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


@dataclass(frozen=True)
class Hopping:
    """Stop when sure enough, or asked for the third time; else go one exit further, or two if class 0 is unlikely."""

    sure: float
    target: int | None = None  # whither it sends everybody

    def start(self):
        return ()

    def step(self, state, output):
        p = softmax(output)
        here, asked = state or (torch.zeros(len(p), dtype=torch.int64), torch.zeros(len(p)))
        further = torch.where(p[:, 0] > 0.3, 1, 2)
        return ((here + further).clamp(max=3), asked + 1), (p.amax(dim=1) >= self.sure) | (asked == 2)

    def route(self, state, output):
        return state[0] if self.target is None else torch.full_like(state[0], self.target)


def walked(outputs, sure):
    """Return the exits that a sample of outputs ``[E, C]`` is asked at, by `Hopping`."""
    route = [0]
    while route[-1] < 3:
        p = outputs[route[-1]].softmax(dim=0)
        if p.max() >= sure or len(route) == 3:
            break
        route.append(min(3, route[-1] + (1 if p[0] > 0.3 else 2)))
    return route


@pytest.mark.parametrize("sure", [0.0, 0.6, 0.8, 2.0])
def test_heads_that_a_policy_passes_over_are_not_run_and_not_paid_for(model, sure):
    x, policy = torch.randn(60, 6), Hopping(sure)
    with torch.inference_mode():
        outputs = model(x)
    routes = [walked(outputs[:, n], sure) for n in range(60)]
    if 0 < sure < 2:
        assert len({tuple(route) for route in routes}) > 2
    exits = [route[-1] for route in routes]
    assert replay(policy, outputs).tolist() == replay(policy, outputs.numpy()).tolist() == exits
    assert followed(policy, outputs).visited.T.tolist() == [[i in route for i in range(4)] for route in routes]
    ran = {"stages": [0] * 4, "heads": [0] * 4}
    for name in ran:
        for i, part in enumerate(getattr(model, name)):
            part.register_forward_hook(
                lambda _, args, out, i=i, name=name: ran[name].__setitem__(
                    i, ran[name][i] + len(out if name == "heads" else out["coarse"])
                )
            )
    with MacCounter() as counter:
        found = infer(model, x, policy)
    assert found.exits.tolist() == exits
    assert torch.allclose(found.outputs, answered(policy, outputs, np.array(exits)), atol=1e-5)
    assert ran["heads"] == [sum(i in route for route in routes) for i in range(4)]
    assert ran["stages"] == [sum(i <= route[-1] for route in routes) for i in range(4)]
    every, alone = (np.repeat(np.array(part, dtype=float)[:, None], 60, axis=1) for part in both_costs(model, x[:1]))
    seen = StoredOutputs(Examples(list(x), torch.zeros(60, dtype=torch.int64)), outputs, every, alone)
    assert counter.macs == seen.paid(policy).sum()
    assert seen.under(policy, lambda *_: 0.0).cost == pytest.approx(counter.macs / 60)
    assert [infer(model, one, policy).exits.item() for one in x.split(1)] == exits


def test_an_exit_sends_samples_to_later_exits_only_and_has_no_table_of_costs(model):
    x = torch.randn(5, 6)
    for target in (0, 4):
        for run in (lambda policy: infer(model, x, policy), lambda policy: replay(policy, model(x))):
            with pytest.raises(ValueError, match=rf"number 0 of 4 sends samples to \[{target}\] .* only later exits"):
                run(Hopping(2.0, target))
    with pytest.raises(ValueError, match="say nothing of a policy that passes exits over"):
        infer(model, x, Hopping(0.5), exit_costs(model, x[:1]))
    assert infer(model, x[:0], Hopping(0.5)).outputs.shape == (0, 3)


def test_who_is_sent_on_without_a_finite_answer_is_told_of(model):
    x = torch.randn(8, 6)
    x[3] = torch.nan
    found = infer(model, x, Hopping(0.0))
    assert found.not_finite.tolist() == [3]
    assert found.exits.tolist() == [3 if n == 3 else 0 for n in range(8)]


def test_answer_is_the_exits_own_unless_the_policy_assembles_it():
    outputs = torch.eye(3)[torch.tensor([[0, 1], [0, 1], [1, 1], [2, 2]])]
    last = np.array([3, 3])
    assert torch.equal(answered(Patience(9), outputs, last), outputs[3])
    assert answered(Voting(9), outputs, last).argmax(-1).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("policy", ASSEMBLING, ids=repr)
def test_an_assembled_answer_is_computed_in_float32_at_least(dtype, policy):
    """Of the same numbers in half precision it is the one that they have in float32, whole or with something beside."""
    outputs = torch.randn(5, 12, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    wide = outputs if dtype == torch.float64 else outputs.float()
    exits = replay(policy, outputs)
    expected = answered(policy, wide, exits)
    found = answered(policy, {"answer": outputs, "beside": outputs[..., 0]}, exits)
    assert found["answer"].dtype == wide.dtype
    assert torch.equal(found["answer"], expected)
    assert torch.equal(answered(policy, outputs, exits), expected)
    assert torch.equal(found["beside"], outputs[exits, torch.arange(12), 0])
    seen = StoredOutputs(
        Examples([torch.zeros(1)] * 12, torch.arange(12) % 3), outputs, np.ones((5, 12)), np.ones((5, 12))
    )
    assert seen.under(policy, usual).quality == pytest.approx(usual(expected, seen.targets))


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


@dataclass
class Plainly:
    """A state of which nobody told torch what is inside."""

    hidden: torch.Tensor


@dataclass
class Registered:
    """One of which somebody did."""

    hidden: torch.Tensor
    layer: int


pytree.register_pytree_node(Registered, lambda s: ([s.hidden], s.layer), lambda parts, layer: Registered(*parts, layer))


class Named(NamedTuple):
    hidden: torch.Tensor


def test_a_state_whose_samples_cannot_be_told_apart_is_refused():
    keep, hidden = torch.tensor([2, 0]), torch.arange(4)
    for state in (Plainly(hidden), {"a": [Plainly(hidden)]}, hidden.numpy(), object()):
        with pytest.raises(ValueError, match="samples cannot be taken out of that; use tuples, lists and dictionaries"):
            select(state, keep)
    assert select(Registered(hidden, 3), keep).hidden.tolist() == [2, 0]
    assert select(Named(hidden), keep).hidden.tolist() == [2, 0]


def test_what_has_no_axes_is_for_all_samples():
    state = (torch.tensor(3.0), torch.arange(4), 2, None, "text", 0.5, torch.float32, torch.Size([4]))
    kept = select(state, torch.tensor([1, 2]), samples=4)
    assert kept[1].tolist() == [1, 2]
    assert kept[0] == 3
    assert kept[2:] == state[2:]


@pytest.mark.parametrize("shape", [(3, 4), (2,), (5, 4)])
def test_a_state_with_another_axis_first_is_refused(shape):
    with pytest.raises(ValueError, match=r"a state of 4 samples holds a tensor .* the first axis must be the sample"):
        select((torch.zeros(4), torch.zeros(shape)), torch.tensor([0]), samples=4)


def test_a_list_of_numbers_might_be_of_all_samples_or_one_of_each():
    hidden, keep = torch.arange(4), torch.tensor([1, 2])
    for listed in ([0.5] * 4, [1], ["a", "b", "c", "d"], [True] * 4, [np.float64(1)] * 4, [torch.tensor(1.0)] * 4):
        for state in ((hidden, listed), {"a": [hidden], "b": {"c": listed}}, (hidden, deque(listed)), [listed]):
            with pytest.raises(
                ValueError, match=rf"holds a list of {len(listed)} numbers or texts, .* make it a tensor"
            ):
                select(state, keep, samples=4)
    shared = {"size": (2, 3), "layer": [hidden, 3], "nothing": [], "caches": [None, None]}
    kept = select(shared, keep, samples=4)
    assert kept["layer"][0].tolist() == [1, 2]
    assert {**kept, "layer": 0} == {**shared, "layer": 0}


def test_a_second_axis_as_long_as_there_are_samples_might_be_the_sample():
    keep = torch.tensor([1, 2])
    for state in (torch.zeros(1, 4, 3), (torch.zeros(4, 3), (torch.zeros(1, 4, 3), torch.zeros(1, 4, 4)))):
        with pytest.raises(ValueError, match=r"a tensor \[1, 4, 3\], .* its second axis is the sample; bring"):
            select(state, keep, samples=4)
    positions, mask = torch.zeros(1, 4, 3), torch.zeros(1, 4, 4, 4)  # of texts that happen to be as long
    kept = select((torch.zeros(4, 4, 3), positions, mask, torch.zeros(1, 1, 4, 3)), keep, samples=4)
    assert [part.shape[0] for part in kept] == [2, 1, 1, 1]
    assert select(torch.zeros(1, 1, 3), torch.tensor([0]), samples=1).shape == (1, 1, 3)


class Recurrent(nn.Module):
    """A stage that passes on what it remembers, with the sample second, as recurrent networks have it."""

    def __init__(self):
        super().__init__()
        self.inner = nn.GRU(6, 6, batch_first=True)

    def forward(self, state):
        x, memory = state if isinstance(state, tuple) else (state, None)
        return self.inner(x, memory)


def test_a_recurrent_network_whose_memory_would_stay_behind_is_refused():
    torch.manual_seed(0)
    model = MultiExit([Recurrent() for _ in range(3)], [Reading(6, 3) for _ in range(3)]).eval()
    for samples in (2, 7):
        with pytest.raises(ValueError, match=rf"a tensor \[1, {samples}, 6\], .* its second axis is the sample"):
            infer(model, torch.randn(samples, 5, 6), Deciding(torch.arange(samples) > 0))


class Says(nn.Module):
    """A head that says what it is told to, given how many samples there are."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, x):
        return self.says(len(x))


HEADS = {
    "[C] for one sample": lambda n: torch.zeros(3),
    "no axis": lambda n: torch.tensor(1.0),
    "one for all": lambda n: torch.zeros(1, 3),
    "one too many": lambda n: torch.zeros(n + 1, 3),
    "a part for all": lambda n: {"answer": torch.zeros(n, 3), "score": torch.zeros(1)},
}


@pytest.mark.parametrize("says", HEADS.values(), ids=HEADS)
def test_a_head_that_does_not_say_one_thing_of_each_sample_is_refused(says):
    model = MultiExit([nn.Identity(), nn.Identity()], [Says(says), Says(lambda n: torch.zeros(n, 3))])
    with pytest.raises(ValueError, match=r"exit 0 says .* of 5 samples; the first axis is the sample"):
        infer(model, torch.zeros(5, 6), MaxConfidence(0.9))


def test_one_sample_in_one_answer_out_for_values_in_a_column():
    model = MultiExit([nn.Identity() for _ in range(6)], [nn.Linear(3, 1) for _ in range(6)])
    with pytest.raises(ValueError, match=r"one value per sample, \[n\], but the exit says \[1, 1\]"):
        infer(model, torch.zeros(1, 3), Patience(1, tolerance=0.5))


class Inner(nn.Module):
    """What a part says of the tensor in a dictionary."""

    def __init__(self, says):
        super().__init__()
        self.says = says

    def forward(self, state):
        return self.says(state)


@pytest.mark.parametrize(
    ("stage", "head", "told"),
    [
        (lambda x: x, lambda x: x["ids"][0], r"says \[48\] of 1"),  # its samples are lost, and 48 values remain
        (lambda x: {"ids": x["ids"][:0]}, lambda x: x["ids"].sum(dim=1), r"says \[0\] of 1"),
    ],
)
def test_how_many_samples_there_are_the_input_tells(stage, head, told):
    model = MultiExit([Inner(stage), nn.Identity()], [Inner(head), Inner(head)])
    with pytest.raises(ValueError, match=told):
        infer(model, {"ids": torch.ones(1, 48), "mask": None}, FixedExit(0))


class Deciding:
    """A rule that says what it is told to."""

    def __init__(self, stop):
        self.stop = stop

    def start(self):
        return ()

    def step(self, state, output):
        return (), self.stop


STOPS = [
    *(torch.zeros(3, dtype=torch.bool), torch.zeros(4, 1, dtype=torch.bool), torch.zeros((), dtype=torch.bool)),
    *(torch.zeros(4, dtype=torch.int64), torch.zeros(4), [True] * 4, True, np.zeros(4, dtype=bool)),
]


@pytest.mark.parametrize("stop", STOPS, ids=repr)
def test_a_rule_that_does_not_say_of_each_sample_whether_it_stops_is_refused(stop):
    model = MultiExit([nn.Identity(), nn.Identity()], [nn.Linear(6, 3), nn.Linear(6, 3)])
    for run in (
        lambda: infer(model, torch.zeros(4, 6), Deciding(stop)),
        lambda: replay(Deciding(stop), torch.zeros(2, 4, 3)),
    ):
        with pytest.raises(ValueError, match=r"Deciding must say of each sample whether it stops, bool \[4\], not"):
            run()


def test_a_rule_answers_in_the_library_of_what_it_is_shown():
    wrong = {
        "numpy: it is shown torch": (torch.zeros(2, 4, 3), np.zeros(4, dtype=bool)),
        "torch: it is shown numpy": (np.zeros((2, 4, 3)), torch.zeros(4, dtype=torch.bool)),
    }
    for told, (outputs, stop) in wrong.items():
        with pytest.raises(ValueError, match=rf"stops, bool \[4\], not .*bool \[4\] of {told}, and answers with"):
            replay(Deciding(stop), outputs)


def test_costs_are_one_for_each_exit(model):
    for costs in ([1.0], [1.0] * 5, np.ones(3)):
        with pytest.raises(ValueError, match="4 exits need as many costs"):
            infer(model, torch.zeros(2, 6), Patience(0), costs)


def test_outputs_in_another_order_are_refused_where_it_can_be_told():
    outputs = torch.zeros(3, 50, 2)
    assert replay(Patience(9), outputs, exits=3).tolist() == [2] * 50
    with pytest.raises(ValueError, match="3 exits, not 50"):
        replay(Patience(9), outputs.transpose(0, 1), exits=3)
    with pytest.raises(ValueError, match="each of 3 samples has one exit"):
        answered(Patience(9), outputs.transpose(0, 1), np.zeros(50, dtype=np.int64))
    for wrong in (torch.zeros(3), torch.zeros(0, 5, 2), {"answer": outputs, "score": torch.zeros(50, 3)}):
        with pytest.raises(ValueError, match=r"outputs are \[exits, samples"):
            replay(Patience(9), wrong)


class Normalised(nn.Module):
    """A stage with what depends on the mode: batch normalisation, inside something else, and dropout."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5))
        self.fails = False

    def forward(self, x):
        if self.fails:
            raise RuntimeError("out of memory")
        return x + self.inner(x)


def test_infer_is_in_evaluation_mode_and_leaves_every_part_in_its_own():
    torch.manual_seed(0)
    model = MultiExit([Normalised() for _ in range(3)], [nn.Linear(6, 3) for _ in range(3)])
    model.stages[1].eval()
    model.stages[2].inner[2].eval()
    modes = [part.training for part in model.modules()]
    assert len(set(modes)) == 2
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    x, seen = torch.randn(20, 6), []
    hook = model.stages[0].inner[1].register_forward_hook(lambda part, args, out: seen.append(part.training))
    found = infer(model, x, MaxConfidence(0.5))
    examples = Examples(list(x), torch.zeros(20))
    outputs = all_outputs(model, examples, Bench(), "")
    exit_costs(model, x[:1])
    assert not any(seen)
    assert [part.training for part in model.modules()] == modes
    model.stages[2].fails = True
    with pytest.raises(RuntimeError, match="out of memory"):
        infer(model, x, MaxConfidence(2.0))
    hook.remove()
    assert [part.training for part in model.modules()] == modes
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    model.stages[2].fails = False
    expected = infer(model.eval(), x, MaxConfidence(0.5))
    assert torch.equal(found.outputs, expected.outputs)
    assert torch.equal(outputs, all_outputs(model, examples, Bench(), ""))


def test_a_mode_is_put_back_even_if_it_was_changed_inside():
    model = nn.Sequential(nn.Dropout(), nn.Dropout().eval())
    with evaluating(model):
        model[0].train()
    assert [part.training for part in model.modules()] == [True, True, False]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_networks_of_any_precision_run(dtype, policy):
    torch.manual_seed(0)
    model = MultiExit([Pair() for _ in range(4)], [Head(6, 3) for _ in range(4)]).eval().to(dtype)
    x = torch.randn(40, 6).to(dtype)
    table = exit_costs(model, x[:1])
    with MacCounter() as counter:
        found = infer(model, x, policy, table)
    outputs = all_outputs(model, Examples(list(x), torch.zeros(40)), Bench(), "")
    assert outputs.dtype == dtype
    exits = replay(policy, outputs)
    assert (found.exits.numpy() == exits).mean() > 0.9  # a smaller batch may round otherwise
    assert counter.macs == int(found.macs.sum())
    before = Contents(nn.Module()).of(model, "model")
    assert before != Contents(nn.Module()).of(model.float(), "model")
    assert digest(Examples(list(x), torch.zeros(40))) != digest(Examples(list(-x), torch.zeros(40)))


class FarAway(torch.overrides.TorchFunctionMode):
    """Stands for another device, which is not at hand: no tensor can be read by numpy before it was brought to the CPU.

    That operations do not mix devices is not seen by it.
    """

    def __init__(self):
        super().__init__()
        self.near = set()
        self.held = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in (torch.Tensor.numpy, torch.Tensor.__array__) and id(args[0]) not in self.near:
            raise TypeError("can't convert a far tensor to numpy; use Tensor.cpu() first")
        out = func(*args, **(kwargs or {}))
        if func is torch.Tensor.cpu or (func is torch.Tensor.to and "cpu" in map(str, args[1:])):
            self.near.add(id(out))
            self.held.append(out)
        return out


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_nothing_reads_a_tensor_of_another_device_as_it_is(model, policy):
    x, table = torch.randn(10, 6), exit_costs(model, torch.randn(1, 6))
    with torch.inference_mode():
        outputs = model(x)
    with FarAway():
        with pytest.raises(TypeError, match="far tensor"):
            outputs.numpy()
        exits = replay(policy, outputs)
        found = infer(model, x, policy, table)
        assert not_finite(outputs, exits).tolist() == []
        answered(policy, outputs, exits)
        Contents(nn.Module()).of(model, "model")
    assert found.exits.tolist() == exits.tolist()


def test_a_network_is_where_its_weights_are(model):
    assert device_of(model).type == "cpu"
    assert device_of(nn.Linear(2, 2, device="meta")).type == "meta"
    assert device_of(nn.Identity()).type == "cpu"


def test_an_empty_batch_has_no_answers(model):
    found = infer(model, torch.zeros(0, 6), MaxConfidence(0.5))
    assert found.exits.tolist() == found.not_finite.tolist() == []
    assert found.outputs.shape == (0, 3)
