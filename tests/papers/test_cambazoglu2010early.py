"""What the paper promises: four rules on partial scores, thresholds that keep the top, and real skipping."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny

from eelit.methods.claims import cambazoglu2010early as claimed
from eelit.methods.claims import comparisons
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import ndcg
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.engine.trees import TreeCounter, boosted, scores
from eelit.methods.families.ranking import first_of, positions
from eelit.methods.families.sentinels import descend
from eelit.methods.harness import registry
from eelit.methods.papers.cambazoglu2010early import EarlyRanking, thresholds
from eelit.methods.policies.document_threshold import RULES, DocumentThreshold, criterion
from eelit.methods.policies.score_proximity import ScoreProximity

KEY = "cambazoglu2010early"
GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json").read_text())
INF = float("inf")


@pytest.fixture(scope="module")
def trained():
    return tiny(KEY)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"p = {case['distance']}, k = {case['k']}")
def test_proximity_keeps_orders_and_counts_as_the_notebook_of_others(case):
    values, sizes = np.array([GOLDEN["partial"], GOLDEN["final"]]), np.array(GOLDEN["sizes"])
    found = descend(
        DocumentThreshold("proximity", case["distance"], case["k"]), sizes, 1, lambda j, rows: values[j, rows]
    )
    assert found.exits.tolist() == case["keep"]
    theirs, start = np.array(case["scores"]), 0
    for n in sizes:
        rows = slice(start, start + n)
        assert (np.diff(theirs[rows][np.argsort(found.places[rows])]) <= 0).all()
        start += n
    assert np.array([4, 10])[found.exits].sum() == case["evaluations"]


def test_proximity_is_the_rule_that_stands_alone():
    rng = np.random.default_rng(1)
    for k in (1, 3, 50):
        s = rng.normal(size=20).round(1)
        for distance in (-INF, 0.0, 0.4, INF):
            rules = DocumentThreshold("proximity", distance, k), ScoreProximity(distance, k)
            ours, theirs = (rule.step((), s)[1] for rule in rules)
            assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_criteria_on_a_worked_case(array):
    s = array(np.array([3.0, 5.0, 4.0, 4.0, 1.0]))
    assert criterion("score", s, 2).tolist() == [-3, -5, -4, -4, -1]
    assert criterion("capacity", s, 2).tolist() == [1, 1, 2, 2, 5]  # the better ones that came before
    assert criterion("rank", s, 2).tolist() == [4, 1, 2, 2, 5]
    assert criterion("proximity", s, 2).tolist() == [1, -1, 0, 0, 3]
    assert criterion("proximity", s, 9).tolist() == [-2, -4, -3, -3, 0]  # no more than k: all stay at distance 0


def gone(rule, threshold, values, k=10):
    return DocumentThreshold(rule, threshold, k).step((), np.array(values))[1].tolist()


def test_each_rule_on_a_worked_case_ties_included():
    s = [3.0, 5.0, 4.0, 4.0, 1.0]
    assert gone("score", -4.0, s) == [True, False, False, False, True]  # below 4; 4 itself stays
    assert gone("capacity", 2, s) == [False, False, False, False, True]
    assert gone("capacity", 1, s) == [False, False, True, True, True]
    assert gone("rank", 2, s) == [True, False, False, False, True]
    assert gone("proximity", 0.5, s, k=2) == [True, False, False, False, True]
    assert gone("proximity", 1.0, s, k=2) == [False, False, False, False, True]


@pytest.mark.parametrize("capacity", [1, 3, 5])
def test_capacity_is_a_heap_of_the_best_seen_so_far(capacity):
    s, heap, left = np.random.default_rng(capacity).normal(size=40), [], []
    for value in s:
        left.append(len(heap) == capacity and value < min(heap))
        heap = sorted([*heap, value])[-capacity:]
    assert gone("capacity", capacity, s) == left
    assert not any(left[:capacity])
    assert gone("capacity", capacity, s[::-1]) != left[::-1]  # the order of the stream matters


def test_rank_k_and_proximity_0_keep_the_same_documents():
    rng = np.random.default_rng(0)
    for values in (rng.normal(size=30), rng.normal(size=30).round(0)):
        assert gone("rank", 4, values) == gone("proximity", 0, values, k=4)
    assert sum(gone("rank", 4, rng.normal(size=30))) == 26


def test_a_document_meets_the_threshold_of_its_sentinel_and_the_rivals_that_still_run():
    values = np.array([[1.0, 2, 3, 4], [9, 5, 6, 7], [9, 0, 2, 1]])
    found = descend(DocumentThreshold("rank", (3, 1)), np.array([4]), 2, lambda j, rows: values[j, rows])
    assert found.exits.tolist() == [0, 1, 1, 2]  # the first would have led at the second sentinel
    assert found.places.tolist() == [3, 2, 1, 0]


def test_documents_that_left_rank_below_those_that_went_further_in_order_of_their_last_score():
    values, exits = np.array([9.0, 3, 5, 1, 4, 2]), np.array([0, 0, 2, 2, 1, 1])
    assert positions(values, exits).tolist() == [4, 5, 0, 1, 2, 3]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("recall", [0.3, 0.8, 0.97, 1.0])
def test_thresholds_keep_the_wanted_share_of_the_final_top_and_no_more_than_they_must(trained, rule, recall):
    method, _, ready = trained
    seen, sizes = ready.split("tuning"), ready.tuning.sizes
    found, wanted = thresholds(rule, seen, recall, method.top), first_of(seen.scores[-1], sizes, method.top)
    assert wanted.sum() == np.minimum(sizes, method.top).sum()
    exits = seen.replay(DocumentThreshold(rule, found, method.top)).exits
    for j in range(3):
        lost = (wanted & (exits <= j)).sum()
        assert lost <= (1 - recall) * wanted.sum() * (j + 1) / 3 + 1e-6
    if recall == 1:
        assert (wanted & (exits < 3)).sum() == 0
    first = seen.replay(DocumentThreshold(rule, (np.nextafter(found[0], -INF), INF, INF), method.top)).exits
    assert (wanted & (first == 0)).sum() > (1 - recall) * wanted.sum() / 3  # the next smaller threshold loses too many


@pytest.mark.parametrize("rule", RULES)
def test_at_either_end_nobody_and_everybody_leaves(trained, rule):
    method, _, ready = trained
    method = method.replace({"rule": rule})
    never, always = (method.policy(knob, ready.split("tuning")) for knob in (1.1, 0.0))
    queries, n = ready.data.test, len(ready.data.test.grades)
    for policy, trees in ((never, method.trees), (always, method.every)):
        with TreeCounter() as counter:
            found = ready.sentinels.traverse(queries, policy)
        assert counter.trees == n * trees
        assert len(set(found.exits)) == 1
    assert (ready.sentinels.traverse(queries, never).places == ready.sentinels.full(queries)).all()


def test_fewer_documents_run_from_sentinel_to_sentinel_and_the_speed_up_is_what_was_counted(trained):
    method, bench, ready = trained
    policy, queries = ready.rule(0.8), ready.data.test
    with TreeCounter() as counter:
        found = ready.sentinels.traverse(queries, policy)
    alive = [(found.exits >= j).mean() for j in range(4)]
    assert alive == sorted(alive, reverse=True)
    (point,) = method.sweep(ready, bench, "test", [0.8])
    assert point.speed_up == pytest.approx(len(queries.grades) * method.trees / counter.trees)
    assert point.speed_up > 1
    assert point.exits == pytest.approx([(found.exits == j).mean() for j in range(4)])


@pytest.mark.parametrize("rule", RULES)
def test_a_query_does_not_depend_on_the_others(trained, rule):
    method, _, ready = trained
    policy, queries = method.replace({"rule": rule}).policy(0.8, ready.split("tuning")), ready.data.test.head(5)
    together = ready.sentinels.traverse(queries, policy)
    alone = [ready.sentinels.traverse(queries.part(i, i + 1), policy) for i in range(5)]
    assert together.exits.tolist() == np.concatenate([one.exits for one in alone]).tolist()
    assert together.places.tolist() == np.concatenate([one.places for one in alone]).tolist()


def test_sentinels_stand_every_few_trees_and_partial_scores_add_up(trained):
    method, _, ready = trained
    assert ready.sentinels.after == (15, 30, 45)
    assert ready.sentinels.depths.tolist() == [15, 30, 45, 60]
    seen, ranker = ready.split("test"), ready.sentinels.ranker
    for values, depth in zip(seen.scores, ready.sentinels.depths, strict=True):
        assert values == pytest.approx(scores(ranker, seen.queries.features, 0, int(depth)))
    static = method.static(ready, "test")
    assert [p.cost for p in static] == [15, 30, 45, 60]
    assert [p.speed_up for p in static] == [4, 2, 4 / 3, 1]
    q = seen.queries
    assert static[1].quality == pytest.approx(ndcg(seen.scores[1], q.grades, q.sizes), abs=1e-3)
    assert method.each_exit(ready, Bench())[0][1].quality == static[1].quality
    for every in (0, 60):
        with pytest.raises(ValueError, match="sentinels stand every few of the 60 trees"):
            method.replace({"every": every})


def test_thresholds_and_knobs_are_set_on_queries_of_their_own(trained):
    ready = trained[2]
    held = ready.data.validation
    assert (ready.split("tuning").queries.features == held.part(0, 30).features).all()
    assert (ready.split("validation").queries.features == held.part(30, 60).features).all()


def test_the_ranker_learns_from_grades_of_train_queries_and_sees_no_test_query(monkeypatch):
    calls, known, train = [], [], EarlyRanking.train

    def watched(features, labels, bench, **options):
        calls.append((features, labels, options))
        return boosted(features, labels, bench, **options)

    monkeypatch.setattr("eelit.methods.recipes.lambdamart.boosted", watched)
    monkeypatch.setattr(EarlyRanking, "train", lambda self, data, bench: known.append(data) or train(self, data, bench))
    method = registry.get(KEY).variant("EST", "tiny")
    ready = method.prepare(Bench())
    ((features, labels, options),) = calls
    assert (features == ready.data.train.features).all()
    assert (labels == ready.data.train.grades).all()
    assert options["trees"] == method.trees == ready.sentinels.trees
    settings = {"objective": "lambdarank", "learning_rate": method.rate, "num_leaves": method.leaves}
    assert options["settings"].items() >= settings.items()
    with pytest.raises(TestDataAsked):
        known[0].test.head(1)


# What is claimed.


ALIKE = np.zeros(4)
APART = np.array([0.002, -0.002, 0.002, -0.002])  # a standard error of 0.0012


def points(*pairs, spread=ALIKE):
    return [
        OperatingPoint(knob=i, quality=q, cost=1 / s, speed_up=s, exits=[1.0], samples=Samples(q + spread))
        for i, (q, s) in enumerate(pairs)
    ]


def curve_of(validation, test, **changed):
    full = {"full_quality": test[-1].quality, "chance": None, "quality": "NDCG@10", "variant": ""}
    return SimpleNamespace(validation=validation, test=test, **{**full, **changed})


@pytest.mark.parametrize(
    ("test", "spread", "holds"),
    [
        ((0.797, 4.1), ALIKE, True),
        ((0.797, 4.0), ALIKE, False),
        ((0.795, 4.1), ALIKE, False),
        ((0.9, 9.0), ALIKE, True),
        ((0.799, 4.1), APART, True),
        ((0.797, 4.1), APART, False),  # a loss of 0.003 ± 0.0012, where 0.004 is allowed
    ],
)
def test_the_figure_of_the_abstract_has_a_bar(test, spread, holds):
    held = points((0.5, 9.0), (0.598, 6.0), (0.6, 1.0))
    found = claimed.faster(curve_of(held, [*points((0.6, 20.0), test, spread=spread), *points((0.8, 1.0))]))
    assert found.holds == holds
    assert not found.not_comparable


def test_where_the_first_sentinel_is_as_good_as_all_trees_nothing_is_said():
    held = points((0.5, 9.0), (0.598, 6.0), (0.6, 1.0))
    assert claimed.faster(curve_of(held, points((0.797, 20.0), (0.797, 4.1), (0.8, 1.0)))).not_comparable


@pytest.mark.parametrize(
    ("lead", "spread", "holds"), [(0.0012, ALIKE, True), (0.0008, ALIKE, False), (0.0012, APART, False)]
)
def test_better_means_by_a_thousandth_on_average_and_beyond_chance(lead, spread, holds):
    ours, theirs = points((0.5 + lead, 10.0), (0.8 + lead, 1.0), spread=spread), points((0.5, 10.0), (0.8, 1.0))
    rival = Baseline(name="y", validation=theirs, test=theirs)
    assert claimed.better("x", "y", curve_of(ours, ours), rival).holds == holds


@pytest.mark.parametrize("lead", [0.011, 0.009])
def test_where_the_ensemble_is_hardly_better_than_one_number_nothing_is_said(trained, lead, monkeypatch):
    method, bench, ready = trained
    monkeypatch.setattr(comparisons, "ndcg", lambda *_: 0.7)
    monkeypatch.setattr(claimed, "nothing_to_lose", lambda *_: "")
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    curve = curve_of(held, test, full_quality=0.7 + lead, baselines=method.baselines(ready, bench))
    found = claimed.claims(method, ready, bench, curve)
    names = ["4× at hardly any loss", "better than fewer trees", "better than a fixed score"]
    assert [o.name for o in found] == names
    assert {bool(o.not_comparable) for o in found} == {lead < 0.01}
    monkeypatch.setattr(claimed, "nothing_to_lose", lambda *_: "nothing")
    found = claimed.claims(method, ready, bench, curve)
    assert [o.not_comparable for o in found[:1]] == ["nothing"] or lead < 0.01
    assert {bool(o.not_comparable) for o in found[1:]} == {lead < 0.01}
    assert [o.name for o in claimed.claims(method.replace({"rule": "score"}), ready, bench, curve)] == names[:2]
