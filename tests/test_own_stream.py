"""A stream of samples: each is told what `infer` tells it, whoever is joined with it, and nobody waits for ever."""

import threading
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import speaking
from test_evaluate import Hopping
from test_own_attach import CLASSES, bert, cnn, images, llama, texts
from torch import nn

from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.own.attach import attach
from eelit.methods.own.saved import SavedRule, WrongRule
from eelit.methods.own.stream import Stream, infer_stream
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar, SoleExit
from eelit.methods.policies.forecast import Forecast
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.voting import Voting

N = 24


class Step(nn.Module):
    """A stage whose state has parts of its own, a mask that all share, a number and a tensor without axes."""

    def __init__(self, first):
        super().__init__()
        self.linear, self.first = nn.Linear(6, 6), first

    def forward(self, state):
        if self.first:
            state = {"x": state, "mask": torch.tensor([[1.0, 1, 1, 1, 1, 0]]), "scale": torch.tensor(2.0), "n": 3}
        x = torch.tanh(self.linear(state["x"] * state["mask"])) * state["scale"]
        return {**state, "x": x}


class Read(nn.Linear):
    def forward(self, state):
        return super().forward(state["x"]) * 2


def nested():
    torch.manual_seed(0)
    return MultiExit([Step(i == 0) for i in range(4)], [Read(6, CLASSES) for _ in range(4)]).eval()


@cache
def case(name):
    """Return a network and all of the samples, once for all tests; nothing changes them."""
    if name == "nested":
        return nested(), torch.randn((N, 6), generator=torch.Generator().manual_seed(3)) * 2
    if name == "images":
        x = torch.randn((N, 1, 6, 6), generator=torch.Generator().manual_seed(4))
        network = attach(cnn(), probe=images())
        for head in list(network.model.heads)[:-1]:
            head.head.classifier.weight.data *= 6  # so that they are not all equally sure
            head.head.classifier.bias.data.zero_()
        return network, x * torch.linspace(0.1, 4, N)[:, None, None, None]
    batch = texts(N)
    batch["attention_mask"][::3, 5:] = 0
    batch["input_ids"] = batch["input_ids"] * batch["attention_mask"]
    return attach(bert()), batch


def parts_of(batch, size):
    return [select(batch, rows) if size > 1 else one(batch, int(rows[0])) for rows in torch.arange(N).split(size)]


def one(batch, row):
    return {k: v[row : row + 1] for k, v in batch.items()} if isinstance(batch, dict) else batch[row : row + 1]


@cache
def middle(name):
    """Return the threshold at which samples leave at most exits, halfway between two confidences that are apart."""
    network, batch = case(name)
    with torch.inference_mode():
        outputs = getattr(network, "model", network)(batch)
    sure = outputs.softmax(dim=-1).amax(dim=-1)[:-1].flatten().sort().values
    limits = [float(a + b) / 2 for a, b in pairwise(sure) if b - a > 1e-4]
    return max(limits, key=lambda limit: len(set(replay(MaxConfidence(limit), outputs))))


def rules(name):
    limit, exits = middle(name), case(name)[0].exits
    some = (1, exits - 1)
    return {
        "confidence": MaxConfidence(limit),
        "patience": Patience(1),
        "assembling": MeanSoFar(2),
        "routing": SoleExit(2),
        "forecast": Forecast((limit,) * (exits - 1), 1),
        "saved": SavedRule("max-confidence", ((1.0, MaxConfidence(limit)),), exits, some, CLASSES, "logits"),
    }


def expected(network, batch, rule):
    if hasattr(network, "infer"):
        return network.infer(batch, rule)
    return infer(network, batch, rule.policy if isinstance(rule, SavedRule) else rule)


def together(told):
    return {
        "exits": torch.cat([each.exits for each in told]).tolist(),
        "samples": np.concatenate([each.samples for each in told]).tolist(),
        "macs": np.concatenate([each.macs for each in told]).tolist(),
        "answers": torch.cat([each.answers for each in told]),
    }


@pytest.mark.parametrize("rule", ["confidence", "patience", "assembling", "routing", "forecast", "saved"])
@pytest.mark.parametrize("name", ["nested", "images", "texts"])
def test_everybody_is_told_what_infer_tells_whatever_comes_together(name, rule):
    network, batch = case(name)
    chosen = rules(name)[rule]
    wanted = expected(network, batch, chosen)
    for size in (1, 3, 8, N):
        for limits in ({"waiting": 0}, {"batch": 4, "waiting": 9}, {"batch": 5}):
            parts = parts_of(batch, size)
            told = list(infer_stream(network, parts, chosen, **limits))
            assert [len(each.exits) for each in told] == [len(p) for p in torch.arange(N).split(size)]
            found = together(told)
            assert found["samples"] == list(range(N))
            assert found["exits"] == wanted.exits.tolist(), (size, limits)
            assert found["macs"] == wanted.macs.tolist()
            torch.testing.assert_close(found["answers"], wanted.answers, atol=1e-5, rtol=1e-4)


def test_rules_stop_at_several_exits_here():
    for name in ("nested", "images", "texts"):
        network, batch = case(name)
        assert len(expected(network, batch, rules(name)["confidence"]).exits.unique()) > 2, name


@pytest.mark.parametrize("name", ["nested", "texts"])
def test_answers_may_come_as_soon_as_they_are_there(name):
    network, batch = case(name)
    rule = rules(name)["confidence"]
    wanted, pulled = expected(network, batch, rule), []

    def source():
        for i, part in enumerate(parts_of(batch, 1)):
            pulled.append(i)
            yield part

    told, early = [], 0
    for each in infer_stream(network, source(), rule, batch=4, ordered=False):
        told.append(each)
        early += len(pulled) < N
        assert len(set(each.exits.tolist())) == 1
    found = together(told)
    assert early > 1
    assert found["samples"] != sorted(found["samples"])
    assert sorted(found["samples"]) == list(range(N))
    assert found["exits"] == wanted.exits[found["samples"]].tolist()
    torch.testing.assert_close(found["answers"], wanted.answers[found["samples"]], atol=1e-5, rtol=1e-4)


def test_stages_are_run_for_many_and_only_for_those_who_go_on():
    network, batch = case("nested")
    rule, sizes = rules("nested")["confidence"], [[] for _ in range(4)]
    exits = infer(network, batch, rule).exits.numpy()
    hooks = [
        stage.register_forward_hook(lambda m, args, out, i=i: sizes[i].append(len(out["x"])))
        for i, stage in enumerate(network.stages)
    ]
    with MacCounter() as counter:
        list(infer_stream(network, batch.split(1), rule, batch=6, waiting=1000))
    with MacCounter() as alone:
        for part in batch.split(1):
            infer(network, part, rule)
    for hook in hooks:
        hook.remove()
    joined = [held[: -int((exits >= i).sum())] for i, held in enumerate(sizes)]  # without those of `infer`
    assert [sum(held) for held in joined] == [int((exits >= i).sum()) for i in range(4)]
    assert all(size >= 6 for held in joined for size in held[:-1])  # the last is the end of the stream
    assert counter.macs == alone.macs


@pytest.mark.parametrize("waiting", [0, 1, 5, 12])
def test_nobody_waits_for_more_samples_than_allowed(waiting):
    network, batch = case("nested")
    rule, pulled, longest = rules("nested")["confidence"], [], 0

    def source():
        for i, part in enumerate(batch.split(1)):
            pulled.append(i)
            yield part

    for each in infer_stream(network, source(), rule, batch=1000, waiting=waiting, ordered=False):
        longest = max(longest, int((len(pulled) - 1 - each.samples).max()))
    assert longest == waiting


def test_nobody_waits_longer_than_allowed():
    network, batch = case("nested")
    rule, now = rules("nested")["confidence"], [100.0]
    exits = infer(network, batch, rule).exits
    early, late = batch[exits == 0], batch[exits > 1]
    stream = Stream(network, rule, batch=3, waiting=1000, seconds=5.0, clock=lambda: now[0])
    assert stream.patience() == float("inf")
    assert stream.push(torch.cat([early[:1], late[:2]])) == []
    now[0] += 3
    assert stream.push(late[2:3]) == []
    assert (stream.patience(), stream.inside) == (2.0, 3)
    now[0] += 1.9
    assert stream.poll() == []
    now[0] += 0.1
    assert [each.samples.tolist() for each in stream.poll()] == [[0, 1, 2]]
    assert (stream.patience(), stream.inside) == (3.0, 1)  # who came later and is before another stage waits
    assert [each.samples.tolist() for each in stream.push(late[3:4], came=now[0] - 6)] == [[3], [4]]
    assert (stream.patience(), stream.inside) == (float("inf"), 0)
    assert stream.finish() == []


def test_waiting_ends_though_nothing_comes():
    network, batch = case("nested")
    answered = threading.Event()

    def source():
        yield batch[:3]
        assert answered.wait(50)  # the stream stands still until somebody is answered
        yield batch[3:4]

    found = []
    for each in infer_stream(network, source(), Patience(1), batch=1000, waiting=1000, seconds=0.01):
        found.append(each.samples.tolist())
        answered.set()
    assert found == [[0, 1, 2], [3]]


class Broken(Exception):
    pass


@pytest.mark.parametrize("seconds", [float("inf"), 1000.0])
@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("wrong", ["raises", "no batch", "empty"])
def test_nothing_is_lost_when_the_stream_breaks(wrong, ordered, seconds):
    network, batch = case("texts")
    rule = rules("texts")["confidence"]
    wanted = network.infer(batch, rule).exits.tolist()

    def source():
        yield from parts_of(batch, 5)
        if wrong == "raises":
            raise Broken("the line is dead")
        yield "text" if wrong == "no batch" else {name: part[:0] for name, part in batch.items()}
        raise AssertionError("it is not read on")

    found, answers = (
        {},
        infer_stream(network, source(), rule, batch=1000, waiting=1000, seconds=seconds, ordered=ordered),
    )
    kind = {"raises": (Broken, "the line is dead"), "no batch": (ValueError, "a tensor, a pair or a dictionary"),
            "empty": (ValueError, "at least one sample")}[wrong]  # fmt: skip
    with pytest.raises(kind[0], match=kind[1]):  # noqa: PT012 - all that comes before is looked at
        for each in answers:
            found.update(zip(each.samples.tolist(), each.exits.tolist(), strict=True))
    assert [found[i] for i in range(N)] == wanted


def test_a_stream_that_is_left_is_read_no_further():
    network, batch = case("nested")

    def endless():
        while True:
            yield batch[:4]

    before = set(threading.enumerate())
    answers = infer_stream(network, endless(), FixedExit(0), batch=4, seconds=100.0)
    next(answers)
    (reader,) = [each for each in threading.enumerate() if each not in before and each.name == "eelit-stream"]
    answers.close()
    reader.join(50)
    assert not reader.is_alive()


def test_texts_of_unlike_lengths_meet_only_their_like():
    network, _ = case("texts")
    rule = rules("texts")["confidence"]
    parts = [texts(2, length=(9, 5, 7)[i % 3], seed=i) for i in range(9)]
    parts[4] = {"input_ids": parts[4]["input_ids"].clamp(min=1)}  # no mask
    wanted = [network.infer(part, rule) for part in parts]
    told = list(infer_stream(network, parts, rule, batch=4))
    assert [each.exits.tolist() for each in told] == [each.exits.tolist() for each in wanted]
    assert [each.macs.tolist() for each in told] == [each.macs.tolist() for each in wanted]
    for ours, theirs in zip(told, wanted, strict=True):
        torch.testing.assert_close(ours.answers, theirs.answers, atol=1e-5, rtol=1e-4)


def test_labels_are_left_aside_and_values_are_answers_too():
    torch.manual_seed(0)
    network = attach(cnn(), ["layer1"], keep_head=False, outputs=1, probe=images())
    pairs = [(part, torch.zeros(len(part))) for part in images().split(2)]
    rule = Patience(0, tolerance=1.0)
    told = list(network.infer_stream(pairs, rule, batch=3))
    torch.testing.assert_close(torch.cat([each.predicted for each in told]), network.infer(images(), rule).predicted)


def test_who_is_refused_and_who_met_what_is_not_finite_is_told():
    network, batch = attach(cnn(), ["layer1"], probe=images()), images().clone()
    sure = network.model(batch)[1].softmax(dim=-1).amax(dim=-1).detach()
    below = float(sure.sort().values[2:4].mean())
    rule = SavedRule("static", ((1.0, FixedExit(1)),), 2, (0, 1), CLASSES, "logits", reject_below=below)
    wanted = network.infer(batch, rule).rejected.tolist()
    assert sum(wanted) == 3
    told = list(network.infer_stream(batch.split(2), rule, batch=3))
    assert torch.cat([each.rejected for each in told]).tolist() == wanted
    plain = nested()
    x = case("nested")[1][:6].clone()
    x[4, 0] = float("nan")
    told = list(infer_stream(plain, x.split(2), MaxConfidence(0.0), batch=4))
    assert [each.not_finite.tolist() for each in told] == [[], [], [0]]
    assert told[2].exits.tolist() == [3, 0]


def test_heads_that_say_more_and_costs_that_are_given():
    class Scored(Read):
        def forward(self, state):
            answer = super().forward(state)
            return {"answer": answer, "score": answer.amax(dim=-1)}

    torch.manual_seed(0)
    network = MultiExit([Step(i == 0) for i in range(3)], [Scored(6, 3), Scored(6, 3), Read(6, 3)]).eval()
    x, costs = case("nested")[1], [1.0, 2.0, 4.0]
    with torch.inference_mode():
        limit = float(network(x)["answer"].softmax(dim=-1).amax(dim=-1)[0].sort().values[9:11].mean())
    wanted = infer(network, x, MaxConfidence(limit), costs)
    told = list(infer_stream(network, x.split(5), MaxConfidence(limit), batch=7, costs=costs))
    assert np.concatenate([each.macs for each in told]).tolist() == wanted.macs.tolist()
    for ours, theirs in zip(told, x.split(5), strict=True):
        alone = infer(network, theirs, MaxConfidence(limit))
        assert set(ours.outputs) == {"answer", "score"}
        torch.testing.assert_close(ours.outputs["answer"], alone.answers, atol=1e-5, rtol=1e-4)


def test_the_network_is_as_before_between_the_answers():
    network, batch = nested().train(), case("nested")[1]
    network.heads[1].eval()
    modes = [module.training for module in network.modules()]
    for _ in infer_stream(network, batch.split(3), Patience(1), batch=4):
        assert [module.training for module in network.modules()] == modes


def test_a_stream_may_be_followed_by_another():
    network, batch = case("nested")
    stream, rule = Stream(network, Patience(1), batch=5), Patience(1)
    outputs = network(batch).detach()
    for start in (0, N):
        told = [each for part in batch.split(4) for each in stream.push(part)] + stream.finish()
        assert together(told)["samples"] == list(range(start, start + N))
        assert together(told)["exits"] == replay(rule, outputs).tolist()
        assert stream.inside == 0


def test_nobody_is_lost_when_the_network_fails_once():
    class Failing(nn.Module):
        fails = False

        def forward(self, x):
            if Failing.fails:
                Failing.fails = False
                raise Broken("no memory")
            return x

    network, batch = case("nested")
    wanted = infer(network, batch, Patience(1)).exits.tolist()
    failing = MultiExit(
        [*network.stages[:2], nn.Sequential(Failing(), network.stages[2]), network.stages[3]], network.heads
    )
    for ordered in (True, False):
        stream, found = Stream(failing, Patience(1), batch=5, ordered=ordered), {}
        for k, part in enumerate(batch.split(4)):
            Failing.fails = k == 3
            try:
                told = stream.push(part)
            except Broken:
                told = stream.poll()
            for each in told:
                found.update(zip(each.samples.tolist(), each.exits.tolist(), strict=True))
        for each in stream.finish():
            found.update(zip(each.samples.tolist(), each.exits.tolist(), strict=True))
        assert not Failing.fails
        assert [found[i] for i in range(N)] == wanted


@pytest.mark.parametrize("sure", [0.6, 0.8])
def test_samples_that_go_different_ways_are_joined_where_they_meet(sure):
    said = torch.randn((4, N, 3), generator=torch.Generator().manual_seed(6))
    said[1, ::5, 0] = float("nan")
    network, numbers, policy = speaking(said), torch.arange(N), Hopping(sure)
    wanted = infer(network, numbers, policy)
    assert len(wanted.exits.unique()) > 2
    for size in (1, 2, 7):
        for batch in (2, 4, 11):
            told = list(infer_stream(network, numbers.split(size), policy, batch=batch))
            assert together(told)["exits"] == wanted.exits.tolist(), (size, batch)
            assert torch.equal(together(told)["answers"].nan_to_num(9), wanted.answers.nan_to_num(9))
            bad = [i for each in told for i in each.samples[each.not_finite.numpy()].tolist()]
            assert bad == wanted.not_finite.tolist()


RULES = [MaxConfidence(0.7), Patience(1), Voting(2), Surest(0.9), MeanSoFar(1), Hopping(0.8), SoleExit(2), FixedExit(9)]


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=9), st.integers(1, 7), st.integers(0, 12), st.booleans(),
    st.sampled_from(RULES), st.integers(0, 9),
)  # fmt: skip
def test_however_samples_come_and_wait_they_are_told_the_same(sizes, batch, waiting, ordered, policy, seed):
    total, rng = sum(sizes), np.random.default_rng(seed)
    said = rng.normal(scale=2, size=(4, total, 3))
    said[rng.random((4, total)) < 0.1] = np.nan
    network, numbers = speaking(torch.as_tensor(said)), torch.arange(total)
    wanted, longest, pulled = infer(network, numbers, policy), 0, 0
    found = []
    stream = Stream(network, policy, batch=batch, waiting=waiting, ordered=ordered)
    for part in numbers.split(sizes):
        pulled += len(part)
        found += stream.push(part)
        waits = set(range(pulled)) - {i for each in found for i in each.samples.tolist()}
        longest = max(longest, pulled - 1 - min(waits, default=pulled - 1))
    found += stream.finish()
    told = together(found)
    assert longest <= (waiting if not ordered else waiting + max(sizes) - 1)  # in order, one waits for those before it
    assert sorted(told["samples"]) == list(range(total))
    assert told["exits"] == wanted.exits[told["samples"]].tolist()
    assert torch.equal(told["answers"].nan_to_num(9), wanted.answers[told["samples"]].nan_to_num(9))
    bad = [i for each in found for i in each.samples[each.not_finite.numpy()].tolist()]
    assert sorted(bad) == wanted.not_finite.tolist()
    if ordered:
        assert [len(each.samples) for each in found] == sizes
        assert told["samples"] == list(range(total))


def test_what_an_earlier_exit_has_said_is_not_forgotten():
    said = torch.zeros(3, 4, 2)
    said[0, 1] = float("nan")
    said[1, 2] = float("inf")
    told = list(infer_stream(speaking(said), torch.arange(4).split(1), MaxConfidence(0.9), batch=3))
    assert [each.not_finite.tolist() for each in told] == [[], [0], [0], []]


def test_what_all_samples_of_a_batch_share_may_differ_between_batches():
    class Masked(nn.Module):
        def forward(self, state):
            return {**state, "x": state["x"] * state["mask"] * state["scale"]}

    torch.manual_seed(0)
    network, x = MultiExit([Masked() for _ in range(3)], [Read(6, 3) for _ in range(3)]), case("nested")[1]
    parts = [
        {"x": part, "mask": torch.rand(1, 6).round() if k % 4 else torch.ones(1, 6), "scale": torch.tensor(1.0 + k % 2)}
        for k, part in enumerate(x.split(2))
    ]
    policy = MaxConfidence(0.8)
    wanted = [infer(network, part, policy) for part in parts]
    told = list(infer_stream(network, parts, policy, batch=5))
    assert len(set(together(told)["exits"])) > 1
    for ours, theirs in zip(told, wanted, strict=True):
        assert ours.exits.tolist() == theirs.exits.tolist()
        torch.testing.assert_close(ours.answers, theirs.answers)


def test_states_of_unlike_shapes_are_run_by_themselves():
    class Longest(nn.Module):
        """Cuts off what is 0 for all samples, as some networks do with padding."""

        def forward(self, x):
            return x[:, : int(x.abs().sum(dim=0).nonzero().max()) + 1]

    class Sum(nn.Module):
        def forward(self, x):
            return torch.stack([x.sum(dim=1), -x.sum(dim=1)], dim=1)

    widths = []
    network = MultiExit([Longest(), nn.Identity(), nn.Identity()], [Sum(), Sum(), Sum()])
    network.stages[1].register_forward_hook(lambda module, args, out: widths.append(tuple(out.shape)))
    x = torch.full((6, 5), 0.01)
    x[:3, 3:] = 0
    x[[0, 3]] *= 1000  # who are sure at once
    found = together(list(infer_stream(network, x.split(3), MaxConfidence(0.9), batch=3)))
    assert found["exits"] == [0, 2, 2, 0, 2, 2]
    assert sorted(widths) == [(2, 3), (2, 5)]
    torch.testing.assert_close(found["answers"][:, 0], x.sum(dim=1))


@pytest.mark.parametrize(
    ("network", "rule", "options", "told"),
    [
        (
            "nested",
            DocumentThreshold("rank", 2),
            {},
            "DocumentThreshold compares the samples of a batch with each other",
        ),
        ("nested", Patience(1), {"batch": 0}, "at least one sample"),
        ("nested", Patience(1), {"waiting": -1}, "waits for none or some"),
        ("nested", Patience(1), {"seconds": float("nan")}, "waits for none or some"),
        ("nested", Patience(1), {"costs": [1.0, 2.0]}, "4 exits need as many costs, not 2"),
        ("nested", SoleExit(1), {"costs": [1.0] * 4}, "passes exits over"),
        ("llama", Patience(1), {}, "answers each sample once, not a TokenNetwork"),
    ],
)
def test_what_cannot_be_run_as_a_stream_is_refused_at_once(network, rule, options, told):
    made = attach(llama()) if network == "llama" else case(network)[0]
    with pytest.raises(ValueError, match=told):
        infer_stream(made, [], rule, **options)


def test_rules_of_other_networks_are_refused():
    rule = SavedRule("max-confidence", ((1.0, MaxConfidence(0.5)),), 2, (0, 1), CLASSES, "logits")
    for network in (case("nested")[0], case("images")[0]):
        with pytest.raises(WrongRule, match="the rule is for 2 exits"):
            infer_stream(network, [], rule)


def test_a_head_that_does_not_speak_of_each_sample_is_told():
    network = MultiExit([nn.Identity(), nn.Identity()], [nn.Flatten(0), nn.Identity()])
    with pytest.raises(ValueError, match=r"exit 1 says \[12\] of 4 samples"):
        list(infer_stream(network, [torch.ones(4, 3)], Patience(1)))


def test_an_empty_stream_says_nothing():
    assert list(infer_stream(case("nested")[0], [], Patience(1))) == []
    assert list(infer_stream(case("nested")[0], iter([]), Patience(1), seconds=1.0)) == []
