"""What only the voting exit promises: votes that are never taken back, a majority at the end, exits pushed apart."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.backbones.encoder import encoder
from eelit.methods.claims import sun2021ensemble as claimed
from eelit.methods.claims.comparisons import disagreement, oracle
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.sun2021ensemble import VotingExit, diversities
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.voting import Voting
from eelit.methods.recipes.fit import Batch

KEY = "sun2021ensemble"
L = 6


@pytest.fixture(scope="module")
def logits():
    return torch.randn(L, 400, 3, generator=torch.Generator().manual_seed(1))


def said(*labels, classes=3):
    """Logits ``[E, 1, C]`` of one sample whose exits answer so."""
    return torch.eye(classes)[list(labels)][:, None] * 4


def outcome(policy, outputs):
    """Exit and answer of the only sample."""
    exits = replay(policy, outputs)
    return exits[0], int(answered(policy, outputs, exits).argmax())


# The exit rule.


def test_votes_by_hand():
    z = said(0, 1, 1, 0, 2, 0)
    assert [outcome(Voting(tau), z) for tau in (1, 2, 3, 4)] == [(0, 0), (2, 1), (5, 0), (5, 0)]


def test_one_vote_stops_at_the_first_exit_and_more_than_all_never(logits):
    assert (replay(Voting(1), logits) == 0).all()
    for tau in (L + 1, 100):
        assert (replay(Voting(tau), logits) == L - 1).all()


def test_majority_answers_at_the_end_and_not_the_last_exit():
    assert outcome(Voting(7), said(1, 1, 1, 1, 2, 2)) == (5, 1)
    assert outcome(Voting(5), said(1, 1, 1, 1, 2, 2)) == (5, 1)


def test_of_equal_votes_the_deeper_wins():
    assert outcome(Voting(7), said(1, 2, 2, 1, 0, 0)) == (5, 0)
    assert outcome(Voting(7), said(2, 1, 2, 1, 2, 1)) == (5, 1)
    assert outcome(Voting(7), said(0, 0, 1, 1, 2, 1)) == (5, 1)
    assert outcome(Voting(7), said(2, 2, 0, 0, 0, 2)) == (5, 2)


@pytest.mark.parametrize("tau", range(1, L + 1))
def test_tau_layers_at_least_and_with_two_classes_twice_tau_less_one_at_most(tau, logits):
    exits = replay(Voting(tau), logits) + 1
    assert exits.min() >= tau
    assert exits.max() <= L
    two = replay(Voting(tau), logits[..., :2]) + 1
    assert two.max() <= min(L, 2 * tau - 1)


def test_nobody_leaves_earlier_when_more_votes_are_asked(logits):
    exits = [replay(Voting(tau), logits) for tau in range(1, L + 2)]
    assert all((less <= more).all() for less, more in pairwise(exits))


@pytest.mark.parametrize("tau", range(1, L))
def test_winner_has_exactly_tau_votes_and_the_exit_itself_gave_the_last(tau, logits):
    policy = Voting(tau)
    exits = replay(policy, logits)
    answers = answered(policy, logits, exits).argmax(-1)
    labels = logits.argmax(-1)
    for n in range(logits.shape[1]):
        if exits[n] < L - 1:
            assert int((labels[: exits[n] + 1, n] == answers[n]).sum()) == tau
            assert int(labels[exits[n], n]) == int(answers[n])


@pytest.mark.parametrize("patience", range(L))
def test_patience_is_never_earlier_than_as_many_votes(patience, logits):
    assert (replay(Patience(patience), logits) >= replay(Voting(patience + 1), logits)).all()


def test_a_stray_answer_does_not_wipe_out_the_count():
    z = said(0, 0, 1, 0, 2, 2)
    assert replay(Voting(3), z).tolist() == [3]
    assert replay(Patience(2), z).tolist() == [5]


def test_votes_divided_by_depth():
    """After layers 1, 2, 3, 4 the leader has 1, 1, 2, 3 votes; divided by the root of the depth 1, .71, 1.15, 1.5."""
    z = said(0, 1, 1, 1, 1, 1)
    assert replay(Voting(1.1, 0.5), z).tolist() == [2]
    assert replay(Voting(1.4, 0.5), z).tolist() == [3]
    assert replay(Voting(3, 0.5), z).tolist() == [5]
    assert outcome(Voting(1.1, 0.5), z) == (2, 1)


def test_votes_are_pure_the_same_in_numpy_and_independent_of_batch_mates(logits):
    policy = Voting(3)
    state, _ = policy.step(policy.start(), logits[0])
    before = [part.clone() for part in state]
    policy.step(state, logits[1])
    assert all(torch.equal(a, b) for a, b in zip(before, state, strict=True))
    exits = replay(policy, logits)
    assert (exits == replay(policy, logits.numpy())).all()
    together = answered(policy, logits, exits)
    for n in range(0, 400, 7):
        alone = logits[:, n : n + 1]
        assert torch.equal(answered(policy, alone, replay(policy, alone))[0], together[n])


# The loss.


def test_diversity_by_hand():
    """p_1 = (1/2, 1/2), p_2 = (3/4, 1/4), p_3 = (1/4, 3/4): D_2 from p_1; D_3 from p_1, which it resembles more."""
    p = torch.tensor([[[0.5, 0.5]], [[0.75, 0.25]], [[0.25, 0.75]]])
    from_first = -(math.log(0.75) + math.log(0.25)) / 2  # 0.837, beyond ln 2
    assert diversities(p.log()).tolist() == pytest.approx([math.log(2)] * 2)
    sharp = torch.tensor([[[0.9, 0.1]], [[0.2, 0.8]], [[0.8, 0.2]]])
    d2 = -(0.9 * math.log(0.2) + 0.1 * math.log(0.8))
    d3 = min(-(0.9 * math.log(0.8) + 0.1 * math.log(0.2)), -(0.2 * math.log(0.8) + 0.8 * math.log(0.2)))
    assert from_first > math.log(2) > d3
    assert diversities(sharp.log()).tolist() == pytest.approx([min(d2, math.log(2)), d3])


def test_each_sample_has_its_own_likest_predecessor():
    one, other = [[0.9, 0.1], [0.1, 0.9]], [[0.1, 0.9], [0.9, 0.1]]
    p = torch.tensor([one, other, one])
    same = -(0.9 * math.log(0.9) + 0.1 * math.log(0.1))
    assert float(diversities(p.log())[1]) == pytest.approx(same)
    mixed = torch.tensor([one, other, [one[0], one[0]]])
    assert float(diversities(mixed.log())[1]) == pytest.approx(same)


def test_equal_certain_answers_have_no_diversity_and_no_term_exceeds_the_bound():
    certain = torch.tensor([[[1000.0, 0.0, 0.0]]] * 3)
    assert diversities(certain).tolist() == [0.0, 0.0]
    opposed = torch.tensor([[[1000.0, 0.0, 0.0]], [[0.0, 1000.0, 0.0]]])
    assert diversities(opposed).tolist() == pytest.approx([math.log(3)])


def test_only_the_later_exit_is_pushed_away():
    z = (torch.tensor([[[2.0, 0.0]], [[1.5, 0.0]]])).requires_grad_()
    diversities(z).sum().backward()
    assert z.grad[0].abs().sum() == 0
    # More diversity means less of class 0, of which exit 1 is sure.
    assert z.grad[1, 0, 0] < 0 < z.grad[1, 0, 1]


# The training.

SAID = [  # what four exits give to two samples: probabilities of two classes
    [[0.9, 0.1], [0.5, 0.5]],
    [[0.2, 0.8], [0.6, 0.4]],
    [[0.8, 0.2], [0.3, 0.7]],
    [[0.7, 0.3], [0.1, 0.9]],
]


def entropy_between(q, p):
    """``-sum_c q(c) ln p(c)``, at most ln 2."""
    return min(-sum(a * math.log(b) for a, b in zip(q, p, strict=True)), math.log(2))


@pytest.mark.parametrize(
    ("variant", "weight"), [("diverse", 0.1), ("plain", 0.0), ("diverse", 0.7)], ids=["as it is", "plain", "stronger"]
)
def test_training_minimises_the_loss_of_the_paper(one_stage, variant, weight):
    """Exits weigh 1, 2, 3, 4 tenths; off goes lambda / 4 times the sum of each one's distance from its likest."""
    method = registry.get(KEY).variant(variant, "tiny")
    assert method.diversity == (weight if weight != 0.7 else 0.1)
    model, stage = one_stage(method.replace({"diversity": weight}))
    asked = []
    model.forward = lambda x: asked.append(x) or torch.tensor(SAID).log()
    batch = Batch(torch.tensor([5, 17]), torch.zeros(2, 17), torch.tensor([0, 1]), 0, 0.0)
    wrong = [-(math.log(p[0][0]) + math.log(p[1][1])) / 2 for p in SAID]
    apart = [
        sum(min(entropy_between(earlier[n], SAID[i][n]) for earlier in SAID[:i]) for n in range(2)) / 2
        for i in range(1, 4)
    ]
    by_hand = (wrong[0] + 2 * wrong[1] + 3 * wrong[2] + 4 * wrong[3]) / 10 - weight / 4 * sum(apart)
    assert float(stage.loss(batch)) == pytest.approx(by_hand, rel=1e-5)
    assert [each is batch.inputs for each in asked] == [True]


@pytest.mark.parametrize("variant", ["diverse", "plain"])
def test_all_weights_learn_from_all_training_sentences_heads_at_their_own_rate(one_stage, variant):
    method = registry.get(KEY).variant(variant, "tiny")
    model, stage = one_stage(method)
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {
        id(p): method.head_rate if id(p) in heads else method.rate for p in model.parameters() if p.requires_grad
    }
    assert method.head_rate != method.rate
    known = method.load().train
    assert torch.equal(stage.train.targets, known.targets)
    assert all(map(torch.equal, stage.train.inputs, known.inputs))
    assert isinstance(stage.optimiser, torch.optim.AdamW)
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)
    assert not model.training  # when it is used


def test_the_knob_is_the_number_of_votes_and_the_power_is_passed_on():
    assert VotingExit().policy(3, None) == Voting(3, 0.0)
    assert VotingExit(power=0.5).policy(3, None) == Voting(3, 0.5)


# The network and what is measured of it.


def test_variant_without_diversity_is_trained_as_pabee(prepared):
    shared = ("encoder", "corpus", "train_size", "epochs", "batch", "rate", "head_rate")
    assert all(getattr(VotingExit(), name) == getattr(Pabee(), name) for name in shared)
    _, _, ours = prepared(KEY, "plain")
    _, _, theirs = prepared("zhou2020pabee")
    other = theirs.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in ours.model.state_dict().items())
    names = []
    for method in (
        registry.get(KEY).variant("plain", "tiny"),
        registry.get("zhou2020pabee").variant("classification", "tiny"),
    ):
        bench = Bench(most_steps=0)
        method.prepare(bench)
        names.append(list(bench.trainings))
    assert names[0] == names[1]  # so that one training in the cache serves both


def test_exits_read_the_mean_token_through_one_pooler_that_starts_as_pretrained(prepared):
    method, _, ready = prepared(KEY)
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    fresh = method.build(ready.data, 0)
    assert len({id(head.pooler) for head in fresh.heads}) == 1
    assert torch.equal(fresh.heads[0].pooler.weight, pretrained.weight)
    assert torch.equal(fresh.heads[0].pooler.bias, pretrained.bias)
    x = torch.stack(list(ready.data.test.inputs[:3]))
    with torch.inference_mode():
        for head, hidden, said in zip(ready.model.heads, ready.model.states(x), ready.model(x), strict=True):
            pooled = torch.tanh(hidden.mean(dim=1) @ head.pooler.weight.T + head.pooler.bias)
            assert torch.allclose(said, pooled @ head.classifier.weight.T + head.classifier.bias, atol=1e-5)


def test_strong_diversity_pushes_exits_apart(prepared):
    """At a weight of 3 instead of 0.1, neighbouring exits of the tiny network disagree more than without."""
    method, bench, _ = prepared(KEY)
    apart, plain = (
        disagreement(method.replace({"diversity": weight}).prepare(bench).split("test").outputs)
        for weight in (3.0, 0.0)
    )
    assert apart > plain + 0.05


def test_oracle_leaves_at_the_first_right_exit():
    z = torch.cat([said(0, 1, 1), said(1, 1, 1), said(2, 2, 0), said(2, 0, 2)], dim=1)
    targets = torch.tensor([1, 1, 1, 2])
    exits = oracle(z, targets)
    assert exits.tolist() == [1, 0, 2, 0]
    found = z[torch.as_tensor(exits), torch.arange(4)].argmax(-1) == targets
    assert found.tolist() == (z.argmax(-1) == targets).any(dim=0).tolist()


def test_disagreement_by_hand():
    assert disagreement(torch.cat([said(0, 1, 1), said(2, 2, 2)], dim=1)) == pytest.approx(1 / 4)


def test_execution_answers_as_replay_does_and_drops_who_has_left(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        outputs = ready.model(x)
    changed = 0
    for tau in (2, 3, 7):
        policy = method.policy(tau, ready)
        found, exits = infer(ready.model, x, policy), replay(policy, outputs)
        assert found.exits.tolist() == exits.tolist()
        assert torch.equal(found.outputs, answered(policy, outputs, exits))
        changed += int((found.outputs.argmax(-1) != outputs[found.exits, torch.arange(64)].argmax(-1)).sum())
    assert changed > 0
    assert len(set(np.unique(replay(method.policy(2, ready), outputs)))) > 1


def test_claims_try_the_rule_of_the_variant(prepared, monkeypatch):
    """Votes divided by a power of the depth are compared as such, not as plain votes."""
    method, bench, ready = prepared(KEY)
    asked = set()
    monkeypatch.setattr(claimed, "Voting", lambda *given: asked.add(given) or Voting(*given))
    method = method.replace({"power": 0.5})
    curve = SimpleNamespace(test=method.sweep(ready, bench, "test", method.knobs))
    monkeypatch.setattr(type(method), "prepare", lambda self, bench: ready)
    assert len(claimed.claims(method, ready, bench, curve)) == 3
    assert asked == {(tau, 0.5) for tau in method.knobs}


@pytest.mark.parametrize(
    ("differ", "gain", "holds"), [(0.011, 0.006, True), (0.009, 0.006, False), (0.0, 0.006, False), (0.02, 0.0, False)]
)
def test_diverse_exits_must_differ_a_point_more_often_and_vote_half_a_point_better(monkeypatch, differ, gain, holds):
    differing, qualities = iter([0.06 + differ, 0.06]), iter([0.8 + gain, 0.8 + gain, 0.8, 0.8])
    monkeypatch.setattr(claimed, "disagreement", lambda _: next(differing))
    ready = SimpleNamespace(split=lambda _: SimpleNamespace(outputs=None), data=SimpleNamespace(classes=3))
    method = SimpleNamespace(
        knobs=(1,),
        power=1.5,
        trial=lambda *_: SimpleNamespace(quality=next(qualities)),
        replace=lambda _: SimpleNamespace(prepare=lambda _: ready),
    )
    assert claimed.diverse_exits_vote_better(method, ready, None).holds is holds
