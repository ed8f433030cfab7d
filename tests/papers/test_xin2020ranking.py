"""What only early-exit monoBERT promises: a threshold for each side, and rankings that mix depths."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.claims.xin2020ranking import claims, two_thresholds, within_half
from eelit.methods.data import fetch, newsgroups
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.metrics import mrr, ndcg
from eelit.methods.engine.pairs import graded_pairs, joined
from eelit.methods.harness import registry
from eelit.methods.papers.xin2020ranking import RelevanceHead, segments
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.recipes.joint import exit_losses

KEY = "xin2020ranking"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
OFF = 1.00001


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(scale=2, size=(6, 300, 2)) + np.array([1.0, 0.0])


def p_of(logits):
    return np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)


def test_both_sides_off_is_the_full_model(logits):
    assert (replay(ClassThresholds(OFF, OFF), logits) == 5).all()


def test_both_thresholds_below_one_half_stop_all_at_the_first_layer(logits):
    assert (replay(ClassThresholds(0.49, 0.49), logits) == 0).all()


def test_either_test_is_strict():
    even = np.zeros((3, 1, 2))  # p = (0.5, 0.5) at every layer
    assert replay(ClassThresholds(0.5, 0.5), even).tolist() == [2]
    assert replay(ClassThresholds(0.5, 0.4999), even).tolist() == [0]
    assert replay(ClassThresholds(0.4999, 0.5), even).tolist() == [0]


def test_each_threshold_by_itself_is_monotone(logits):
    grid = (0.49, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, OFF)
    for fixed in grid:
        by_negative = [replay(ClassThresholds(fixed, moved), logits).mean() for moved in grid]
        by_positive = [replay(ClassThresholds(moved, fixed), logits).mean() for moved in grid]
        for depths in (by_negative, by_positive):
            assert all(earlier <= later for earlier, later in pairwise(depths))


@pytest.mark.parametrize(
    "rule", [ClassThresholds(0.9, 0.7), ClassThresholds(0.7, 0.9), ClassThresholds(OFF, 0.8), ClassThresholds(0.8, OFF)]
)
def test_who_leaves_has_passed_a_threshold_there_and_none_before(logits, rule):
    exits, p = replay(rule, logits), p_of(logits)
    passed = (p[..., 1] > rule.positive) | (p[..., 0] > rule.negative)
    for i, exit_ in enumerate(exits.tolist()):
        assert exit_ == 5 or passed[exit_, i]
        assert not passed[:exit_, i].any()
    scores = p[exits, np.arange(300), 1][exits < 5]
    if rule.positive > 1:
        assert (scores < 1 - rule.negative).all()
    if rule.negative > 1:
        assert (scores > rule.positive).all()


def test_two_thresholds_are_not_one():
    """A pair that is sure to be irrelevant and one that is as sure to be relevant: only the first may go."""
    outputs = np.zeros((3, 2, 2))
    outputs[:, 0, 0] = outputs[:, 1, 1] = 2.0  # p = 0.88 for no, and for yes
    assert replay(ClassThresholds(0.9, 0.8), outputs).tolist() == [0, 2]
    assert replay(ClassThresholds(0.8, 0.9), outputs).tolist() == [2, 0]


def test_the_knob_is_the_negative_threshold_and_the_positive_one_lies_above(prepared):
    method, _, ready = prepared(KEY)
    chosen = method.policy(0.8, ready)
    assert chosen == ClassThresholds(chosen.positive, 0.8)
    assert chosen.positive == pytest.approx(0.98)
    assert method.policy(1.1, ready).positive > 1
    assert all(method.policy(knob, ready).positive >= knob for knob in method.knobs[:-1])


def test_mrr_by_hand():
    scores = np.array([0.9, 0.8, 0.7, 0.9, 0.8, 0.7, 0.1, 0.2, 0.3])
    hit = np.array([0, 1, 1, 0, 0, 0, 0, 0, 1])
    assert mrr(scores, hit, np.array([3, 3, 3])) == pytest.approx((1 / 2 + 0 + 1) / 3)
    assert mrr(scores, hit, np.array([3, 3, 3]), k=1) == pytest.approx(1 / 3)


def test_quality_is_ndcg_over_whole_queries_sorted_by_relevance(prepared):
    method, _, _ = prepared(KEY)
    outputs, grades = torch.randn(45, 2), torch.randint(3, (45,))
    scores = outputs.softmax(-1)[:40, 1].double().numpy()
    assert method.score(outputs, grades) == pytest.approx(ndcg(scores, grades[:40].numpy(), np.array([20, 20])))
    assert method.labels(torch.tensor([0, 1, 2])).tolist() == [0, 0, 1]


def test_real_and_simulated_exit_give_the_same_ranking(prepared):
    method, _, ready = prepared(KEY)
    seen, rule = ready.split("test"), ClassThresholds(0.97, 0.9)
    found = infer(ready.model, torch.stack(list(seen.examples.inputs)), rule)
    exits = replay(rule, seen.outputs)
    assert found.exits.tolist() == exits.tolist()
    assert 0 < exits.mean() < 3
    quality = method.score(found.outputs, seen.targets)
    assert quality == pytest.approx(method.score(seen.at(exits), seen.targets), abs=1e-6)


def test_every_head_has_a_pooler_of_its_own(prepared):
    method, _, ready = prepared(KEY)
    poolers = [head.pooler for head in method.build(ready.data, seed=0).heads]
    assert len({id(pooler) for pooler in poolers}) == ready.model.exits


def test_heads_compare_the_mean_tokens_of_query_and_document():
    head = RelevanceHead(2).eval()
    document = torch.tensor([[0, 0, 1]])
    hidden = torch.tensor([[[3.0, 0.0], [1.0, 0.0], [0.0, 5.0]]])
    root = 2**0.5  # u = (√2, 0), v = (0, √2)
    by_hand = head.classifier(torch.tanh(head.pooler(torch.tensor([[root, root, 0.0, 0.0]]))))
    assert torch.allclose(head((hidden, document)), by_hand, atol=1e-6)
    assert torch.allclose(head((7 * hidden, document)), by_hand, atol=1e-6)  # only directions count


def test_the_network_is_told_query_from_document(prepared):
    _, _, ready = prepared(KEY)
    ids = torch.tensor([[2, 9, 8, 3, 7, 3], [2, 9, 3, 8, 7, 3]])
    assert segments(ids, 3).tolist() == [[0, 0, 0, 0, 1, 1], [0, 0, 0, 1, 1, 1]]
    embed = ready.model.stages[0].layer.embeddings
    with torch.inference_mode():
        alike = embed.embeddings(input_ids=ids, token_type_ids=segments(ids, 3))
        assert torch.equal(embed(input_ids=ids), alike)
        assert not torch.allclose(embed(input_ids=ids), embed.embeddings(input_ids=ids))


def test_training_is_balanced_and_held_out_queries_are_not(prepared):
    method, _, ready = prepared(KEY)
    data = ready.data
    assert set(data.train.targets.tolist()) == {0, 1}
    assert int(data.train.targets.sum()) * 2 == len(data.train)
    for part in (data.validation, data.test):
        grades = part.targets.reshape(-1, method.candidates)
        assert ((grades == 2).sum(dim=1) == 2).all()


def test_agrees_with_the_released_exits_sweep_and_measure(golden):
    """Layers of the released loop and of its offline sweep, and MRR@10 of its run files (see `provenance`)."""
    logits, labels = torch.tensor(golden["logits"]), torch.tensor(golden["labels"])
    p = logits.double().softmax(-1)[..., 1].numpy()
    sizes = np.full(len(labels) // golden["candidates"], golden["candidates"])
    for run in golden["runs"]:
        exits = replay(ClassThresholds(run["positive"], run["negative"]), logits)
        assert (exits + 1).tolist() == run["layers"] == run["simulated"]
        assert exits.mean() + 1 == pytest.approx(run["mean_layer"])
        assert mrr(p[exits, np.arange(len(labels))], labels.numpy(), sizes) == pytest.approx(run["mrr"])
    assert float(exit_losses(logits, labels).sum()) == pytest.approx(golden["loss"], rel=1e-6)


# How it is wired.


def test_all_layers_and_heads_learn_together_and_weigh_alike(prepared, stages, monkeypatch):
    method, _, ready = prepared(KEY)
    method = method.replace({"rate": 2e-3})
    built, build = [], type(method).build
    monkeypatch.setattr(type(method), "build", lambda *given: built.append(build(*given)) or built[-1])
    (stage,) = stages(method)
    (model,) = built
    ids, y = torch.randint(4, 64, (5, 15)), torch.tensor([1, 0, 0, 1, 0])
    ids[:, [0, 7, 14]] = torch.tensor([2, 3, 3])
    log_p = torch.log_softmax(model(ids), dim=-1)
    by_hand = -sum(log_p[e, i, c].item() / 5 for e in range(4) for i, c in enumerate(y.tolist()))
    loss = stage.loss(replace(stage.batch_of(torch.arange(5), ids), targets=y))
    assert loss.item() == pytest.approx(by_hand, rel=1e-5)
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {id(p): 4e-3 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch) == (4.0, 32)
    assert stage.train.targets.tolist() == ready.data.train.targets.tolist()


def test_it_names_the_data_that_it_loads():
    method = registry.get(KEY).replace({"train_size": 4, "validation_queries": 1, "test_queries": 1})
    for item in method.data:
        fetch.fetch(item)
    with pytest.MonkeyPatch.context() as patch:
        asked, path = set(), fetch.path
        patch.setattr(fetch, "path", lambda name: asked.add(name) or path(name))
        patch.setattr(newsgroups, "_read", newsgroups._read.__wrapped__)
        method.build(method.load(), seed=0)
    assert asked == set(method.data)


def test_the_network_starts_from_the_seed_and_hears_of_the_separator_of_its_texts(prepared):
    method, _, ready = prepared(KEY)
    first, again, other = (method.build(ready.data, seed) for seed in (0, 0, 1))
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert any(not torch.equal(a, c) for a, _, c in pairs)
    assert [stage.separator for stage in first.stages] == [3] * 4
    assert first.stages[0].layer.embeddings.separator == 3
    assert not first.training


def test_layers_pass_on_which_tokens_are_the_document(prepared):
    _, _, ready = prepared(KEY)
    ids = torch.tensor([[2, 9, 8, 3, 7, 3]])
    for hidden, document in ready.model.states(ids):
        assert hidden.shape == (1, 6, 32)
        assert document.tolist() == [[0, 0, 0, 0, 1, 1]]


def test_pairs_are_cut_and_joined():
    for item in registry.get(KEY).data:
        fetch.fetch(item)
    q, d = np.array([101, 7, 8, 102]), np.array([101, 9, 102])
    assert joined([q], [d])[0].tolist() == [101, 7, 8, 102, 9, 102]
    data = graded_pairs("newsgroups", train=40, validation=4, test=4, candidates=20, query=16, document=38)
    x = data.test.inputs[0]
    assert len(x) <= 1 + 16 + 1 + 38 + 1
    assert x[0] == 101
    assert (x == 102).sum() == 2
    assert max(len(x) for x in data.train.inputs) == 57
    assert int(segments(x[None], 102).sum()) == len(x) - 1 - int((x == 102).nonzero()[0])


# What is claimed.


@pytest.mark.parametrize(
    ("quality", "speed_up", "holds"), [(0.8, 2.5, True), (0.791, 2.6, True), (0.8, 2.4, False), (0.789, 2.6, False)]
)
def test_as_fast_as_the_paper_says_at_little_loss(prepared, made, quality, speed_up, holds):
    """The full model is said to have 0.8."""
    method, bench, ready = prepared(KEY)
    curve = SimpleNamespace(full_quality=0.8, validation=made(0.8).test, test=made(quality, speed_up=speed_up).test)
    found = claims(method, ready, bench, curve)[0]
    assert (found.name, found.holds) == ("faster at little loss", holds)


def test_a_threshold_that_costs_too_much_is_none_at_half_the_cost(prepared, monkeypatch):
    """Where no rule is within half the cost, the first was taken for one that is, and two thresholds could win so."""
    method, _, ready = prepared(KEY)
    assert within_half(method, [ClassThresholds(OFF, OFF)], ready) is None
    fast = within_half(method, [ClassThresholds(OFF, OFF), ClassThresholds(0.5, 0.5)], ready)
    assert fast == method.trial(ClassThresholds(0.5, 0.5), ready.split("test"))
    monkeypatch.setattr(type(method), "knobs", (OFF, OFF + 1))
    found = two_thresholds(method, ready)
    assert (found.holds, found.measured) == (False, "none at half the cost and none at half the cost")
