"""What only class-specific exits promise: detectors and their rule by hand, thresholds, and the greedy choice."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import bonato2021classspecific as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.search import Judged
from eelit.methods.harness import registry
from eelit.methods.papers.bonato2021classspecific import (
    ClassSpecific,
    Detector,
    greedy,
    levels_within,
    recognised,
    some,
)
from eelit.methods.policies.target_classes import TargetClasses
from eelit.methods.recipes.plain import train_plain

KEY = "bonato2021classspecific"
TWO = ClassSpecific(targets=(1, 3), levels=(0.0, 0.6, 0.8, 1.0))


def tiny(variant="footwear", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def seen(p, y):
    """Return what exits say, as probabilities ``[E, N, C]``, with the classes ``[N]``."""
    return SimpleNamespace(answers=torch.tensor(p).log(), targets=torch.tensor(y))


# Detectors.


def test_a_detector_scores_targets_and_divides_what_is_left_equally():
    """Of 5 classes 1 and 3 are targets: the three others have a third of "other" each."""
    detector, maps = Detector((6, 3, 3), (1, 3), 5), torch.randn(4, 6, 3, 3)
    g, z = detector.g(maps), detector(maps)
    assert g.shape == (4, 3)
    p, q = g.softmax(dim=-1), z.softmax(dim=-1)
    assert torch.allclose(q[:, [1, 3]], p[:, :2], atol=1e-6)
    assert torch.allclose(q[:, [0, 2, 4]], p[:, 2:].expand(-1, 3) / 3, atol=1e-6)


def test_its_cross_entropy_is_that_of_targets_and_other_but_for_a_constant():
    detector, maps, y = Detector((6, 3, 3), (3, 1), 5), torch.randn(5, 6, 3, 3), torch.tensor([0, 1, 2, 3, 4])
    g, z = detector.g(maps), detector(maps)
    other = torch.tensor([2, 1, 2, 0, 2])
    expected = F.cross_entropy(g, other, reduction="none") + math.log(3) * (other == 2)
    assert torch.allclose(F.cross_entropy(z, y, reduction="none"), expected, atol=1e-6)


# The exit rule.


@pytest.mark.parametrize(
    ("p", "thresholds", "stops"),
    [
        ((0.1, 0.7, 0.1, 0.1), (0.6, 0.6), True),
        ((0.1, 0.7, 0.1, 0.1), (0.7 + 1e-9, 0.0), False),  # the other target's threshold is of no use
        ((0.7, 0.1, 0.1, 0.1), (0.0, 0.0), False),  # other
        ((0.3, 0.4, 0.2, 0.1), (0.0, 0.0), False),  # the likeliest class is a target, but "other" is likelier
        ((0.05, 0.5, 0.05, 0.4), (0.6, 0.3), False),  # the second target is above its threshold, but is not the first
        ((0.05, 0.4, 0.05, 0.5), (0.6, 0.3), True),
    ],
)
def test_who_is_recognised_by_hand(p, thresholds, stops):
    z = np.log([[p], [p]])
    rule = TargetClasses((1, 3), [thresholds])
    for outputs in (z, torch.tensor(z)):
        assert replay(rule, outputs).tolist() == [0 if stops else 1]


def test_the_threshold_must_be_exceeded_and_1_never_is():
    z = torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]], dtype=torch.float64)
    assert replay(TargetClasses((1,), [[0.0]]), z).tolist() == [1]  # as likely as "other"
    z = torch.tensor([[[0.0, math.log(3)]]] * 2, dtype=torch.float64)
    assert replay(TargetClasses((1,), [[0.75 - 1e-9]]), z).tolist() == [0]
    assert replay(TargetClasses((1,), [[0.75 + 1e-9]]), z).tolist() == [1]
    sure = torch.tensor([[[-1000.0, 1000.0]]] * 2, dtype=torch.float64)
    assert replay(TargetClasses((1,), [[1.0]]), sure).tolist() == [1]


def test_each_exit_has_thresholds_of_its_own_and_no_more_exits_are_asked():
    z = torch.tensor([[[0.1, 0.9]], [[0.1, 0.9]], [[0.5, 0.5]]]).log()
    assert replay(TargetClasses((1,), [[0.95], [0.8]]), z).tolist() == [1]
    with pytest.raises(ValueError, match="thresholds for 1 exits"):
        replay(TargetClasses((1,), [[0.95]]), z)
    with pytest.raises(ValueError, match="threshold for each of 1 target"):
        TargetClasses((1,), [[0.5, 0.5]])
    with pytest.raises(ValueError, match="whole"):
        TargetClasses((0.5,), [[0.5]])


def test_no_early_exit_ever_answers_a_class_that_is_no_target(prepared):
    """Nor does a higher threshold of one target let more images leave as that target."""
    method, _, ready = prepared(KEY)
    test = ready.split("test")
    exits = replay(method.stop([(0.0,) * 3] * 2), test.outputs)
    early = exits < 2
    answers = test.at(exits).argmax(dim=-1).numpy()
    assert set(answers[early]) == set(method.targets)
    assert early.mean() > 0.1
    for k, s in enumerate(method.targets):
        left = []
        for theta in (0.0, 0.7, 0.9, 0.99, 1.0):
            row = tuple(theta if i == k else 0.0 for i in range(3))
            at = replay(method.stop([row, (1.0,) * 3]), test.outputs)
            left.append(int(((at == 0) & (test.answers[0].argmax(-1).numpy() == s)).sum()))
        assert left == sorted(left, reverse=True)
        assert left[-1] == 0 < left[0]


# Thresholds.


P = [
    [
        [0.1, 0.9, 0.0, 0.0],
        [0.25, 0.7, 0.05, 0.0],
        [0.2, 0.05, 0.1, 0.65],
        [0.04, 0.01, 0.0, 0.95],
        [0.5, 0.3, 0.1, 0.1],
    ],
    [[0.1, 0.9, 0.0, 0.0], [0.6, 0.2, 0.2, 0.0], [0.2, 0.0, 0.1, 0.7], [0.9, 0.05, 0.0, 0.05], [0.5, 0.3, 0.1, 0.1]],
]
"""Image 2 is called 1 by the exit and 0 by the network, image 4 is called 3 and 0; image 5 is other."""


def test_who_recognises_whom_by_hand():
    said, p = recognised(seen(P, [1, 0, 3, 3, 0]), (1, 3))
    assert said[0].tolist() == [[True, False], [True, False], [False, True], [False, True], [False, False]]
    assert p[0, :, 0] == pytest.approx([0.9, 0.7, 0.05, 0.01, 0.3])


@pytest.mark.parametrize(
    ("y", "eps", "expected"),
    [
        ([1, 0, 3, 3, 0], 0.0, [2, 0]),  # of class 1 image 2 is broken unless 0.7 is too little; of 3 one is repaired
        ([1, 0, 3, 3, 0], 0.2, [0, 0]),  # one in five may be broken
        ([1, 1, 3, 3, 0], 0.0, [0, 0]),  # image 2 is repaired
        ([1, 0, 3, 0, 0], 0.0, [2, 3]),  # image 4 is broken up to 0.95: only the last level keeps it
        ([1, 0, 0, 3, 0], 0.0, [2, 0]),  # of class 3 image 3 is wrong either way, and image 4 repaired
        ([0, 1, 1, 3, 0], 0.0, [0, 0]),  # the network is wrong about images 1, 2 and 3
    ],
)
def test_the_least_threshold_that_breaks_no_more_than_it_repairs(y, eps, expected):
    assert levels_within(seen(P, y), (1, 3), (0.0, 0.6, 0.8, 1.0), eps).tolist() == [expected]


# The greedy choice.


def judging(table, asked):
    """Return a judge that knows error and cost of each set of exits."""

    def judge(designs):
        asked.append([tuple(np.flatnonzero(row[:3]).tolist()) for row in designs])
        return np.array([table[kept] for kept in asked[-1]])

    return judge


THETA = np.array([[1], [2], [0]])
TABLE = {
    (): (0.2, 1.0), (0,): (0.25, 0.3), (1,): (0.2, 0.6), (2,): (0.1, 0.7),
    (0, 1): (0.25, 0.25), (1, 2): (0.2, 0.55), (0, 2): (0.3, 0.2), (0, 1, 2): (0.3, 0.26),
}  # fmt: skip


def test_exits_are_added_as_long_as_targets_cost_less_and_nothing_is_lost():
    """Exit 0 is cheapest but loses accuracy; of the others 1 is better; with 2 beside it there is a little to gain."""
    asked = []
    found = greedy(judging(TABLE, asked), THETA, 0.0)
    assert asked == [[()], [(0,), (1,), (2,)], [(0, 1), (1, 2)], [(0, 1, 2)]]
    assert found.scores.tolist() == [list(TABLE[kept]) for step in asked for kept in step]
    assert found.designs[:, 3:].tolist() == [[1, 2, 0]] * 7
    assert found.designs[2].tolist() == [0, 1, 0, 1, 2, 0]


def test_with_more_slack_the_cheaper_exit_is_added_and_one_that_no_longer_pays_is_not():
    asked = []
    greedy(judging(TABLE, asked), THETA, 0.05)
    assert asked == [[()], [(0,), (1,), (2,)], [(0, 1), (0, 2)], [(0, 1, 2)]]
    asked.clear()
    greedy(judging({**TABLE, (0, 1): (0.2, 0.3)}, asked), THETA, 0.05)
    assert asked == [[()], [(0,), (1,), (2,)], [(0, 1), (0, 2)]]  # 0.3 is not less than 0.3


def test_what_is_kept_pays_and_loses_nothing_on_the_images_of_the_search(prepared):
    """Taking the last exit away makes targets dearer, and accuracy over all classes is the network's at least."""
    method, _, ready = prepared(KEY)
    found = ready.fitted
    for knob in method.knobs[:-1]:
        genes = found.designs[method.taken(knob, found)]
        error, T = method.judged(genes[None], ready, "fitting")[0]
        assert error <= found.scores[0, 0] + knob + 1e-9
        assert found.scores[found.scores[:, 0] <= found.scores[0, 0] + knob + 1e-9, 1].min() == T
        assert T < 1
        if genes[:2].all():
            assert (
                min(method.judged(np.array([[*bits, *genes[2:]] for bits in ((1, 0), (0, 1))]), ready, "fitting")[:, 1])
                > T
            )


def test_one_search_for_each_slack(prepared):
    method, _, ready = prepared(KEY)
    one = method.replace({"slacks": (0.0,)}).fit(ready)
    both = method.replace({"slacks": (0.0, 0.05)})
    two = both.fit(ready)
    assert two.designs[: len(one.designs)].tolist() == one.designs.tolist()
    assert not two.designs[0].any()
    assert len({tuple(row) for row in two.designs.tolist()}) == len(two.designs) > len(one.designs)
    held = ready.split("fitting")
    rows = [levels_within(held, method.targets, method.levels, eps) for eps in (0.0, 0.05)]
    assert [row.tolist() for row in both.rows(ready)] == [row.tolist() for row in rows]
    assert {tuple(design[2:5]) for design in two.designs.tolist() if design[0]} <= {tuple(row[0]) for row in rows}
    assert two.scores[0].tolist() == [1 - float((held.answers[-1].argmax(-1) == held.targets).double().mean()), 1.0]


def test_a_random_search_takes_thresholds_by_the_same_rule(prepared):
    """It differs from the greedy one in the sets of exits alone: their thresholds are those of one of the slacks."""
    method, _, ready = prepared(KEY)
    rival, rows = method.rival(ready), method.rows(ready)
    written = method.space(3).written
    possible = {
        tuple(written(np.array([[a, b, *row.ravel()]]))[0].tolist()) for a in (0, 1) for b in (0, 1) for row in rows
    }
    drawn = [tuple(design) for design in rival.designs.tolist()]
    assert not any(drawn[0])
    assert set(drawn) <= possible
    assert len(set(drawn)) == len(drawn) == min(len(ready.fitted.designs), len(possible))
    assert rival.scores.tolist() == method.judged(rival.designs, ready, "fitting").tolist()
    assert method.different(3) == 3 * len(method.slacks) + 1 >= len(possible)


def test_random_sets_are_of_all_exits_and_all_slacks():
    drawn = some(400, 3, [np.full((3, 2), i) for i in range(4)], seed=1)
    assert drawn.shape == (400, 3 + 6)
    assert len({tuple(row) for row in drawn[:, :3].tolist()}) == 8
    assert {tuple(row) for row in drawn[:, 3:].tolist()} == {(i,) * 6 for i in range(4)}
    assert drawn.tolist() == some(400, 3, [np.full((3, 2), i) for i in range(4)], seed=1).tolist()


@pytest.mark.parametrize("targets", [(), (12,), (5, 5), (-1,), (0.5,), tuple(range(10))])
def test_targets_are_some_of_the_classes(prepared, targets):
    method, _, ready = prepared(KEY)
    with pytest.raises(ValueError, match="classes 0 to 9"):
        method.replace({"targets": targets}).build(ready.data, 0)


def test_the_cost_that_is_searched_is_that_of_the_targets(prepared):
    method, _, ready = prepared(KEY)
    held = ready.split("fitting")
    assert method.weighed(held).tolist() == [int(y) in (5, 7, 9) for y in held.targets]
    genes = np.array([[1, 0, *[0] * 6]])
    design = method.design(genes[0].tolist(), 3)
    spent = method.seen(design, ready, "fitting").paid(method.everywhere(design)) / held.full_costs
    ((_, T),) = method.judged(genes, ready, "fitting")
    assert pytest.approx(spent[method.weighed(held).numpy()].mean()) == T
    assert spent.mean() > T


def test_the_design_of_a_slack(prepared):
    method, _, ready = prepared(KEY)
    scores = np.array([[0.2, 1.0], [0.2, 0.9], [0.25, 0.5], [0.1, 0.95], [0.25, 0.5]])
    found = Judged(np.zeros((5, 8), dtype=np.int64), scores)
    assert [method.taken(slack, found) for slack in (0.0, 0.04, 0.05, 1.0)] == [1, 1, 2, 2]
    assert not any(method.chosen(-1.0, ready).kept)
    assert any(method.chosen(0.05, ready).kept)


def test_a_design_is_exits_and_thresholds_of_targets():
    assert TWO.space(3).values == (2, 2, 4, 4, 4, 4)
    assert not any(TWO.design(TWO.space(3).known[0], 3).kept)
    design = TWO.design([0, 1, 0, 1, 2, 3], 3)
    assert (design.kept, design.thresholds) == ((False, True), ((0.0, 0.6), (0.8, 1.0)))
    assert TWO.told(design) == "exit 2 above 0.8 / 1"
    assert TWO.told(TWO.design([0] * 6, 3)) == "no exit"
    assert TWO.everywhere(design) == TargetClasses((1, 3), [(1.0, 1.0), (0.8, 1.0)])
    assert TWO.space(3).written(np.array([[0, 1, 1, 1, 2, 3]])).tolist() == [[0, 1, 0, 0, 2, 3]]


# Training.


@pytest.mark.parametrize("variant", ["footwear", "trousers"])
def test_the_network_is_trained_then_the_detectors_on_its_frozen_maps(stages, variant):
    method = tiny(variant, batch=40, head_epochs=5.0)
    plain, detectors = stages(method)
    assert (plain.epochs, plain.batch, len(plain.train)) == (method.epochs, 40, 600)
    assert (detectors.epochs, detectors.batch, len(detectors.train)) == (5.0, 40, 600)
    assert {*plain.rates.values()} == {method.rate}
    assert {*detectors.rates.values()} == {method.head_rate}
    index, maps = next(detectors.train.batches(16))
    model = method.build(method.load(), 0)
    y = detectors.train.targets[index]
    loss = detectors.loss(detectors.batch_of(index, maps))
    expected = sum(F.cross_entropy(head(m), y) for head, m in zip(model.heads[:-1], maps, strict=True))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    assert not set(plain.rates) & set(detectors.rates)
    assert len(detectors.rates) == sum(1 for head in model.heads[:-1] for _ in head.parameters())
    assert all(isinstance(head, Detector) for head in model.heads[:-1])
    assert model.heads[0].targets.tolist() == list(method.targets)


def test_the_network_stays_bit_for_bit_what_it_was(prepared):
    method, _, ready = prepared(KEY)
    short = method.replace({"epochs": 1.0, "head_epochs": 1.0})
    alone, whole = (short.build(ready.data, 0) for _ in range(2))
    train_plain(alone, ready.data, Bench(), **short.options)
    short.train(whole, ready.data, Bench())
    a, b = alone.plain_network().state_dict(), whole.plain_network().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not torch.equal(alone.heads[0].g[-1].weight, whole.heads[0].g[-1].weight)


def test_without_exits_it_is_the_network(prepared):
    method, _, ready = prepared(KEY)
    point = method.operating_point(method.chosen(-1.0, ready), ready, "test")
    assert (point.quality, point.cost) == method.full_model(ready, ready.bench)
    assert isinstance(ready.model.heads[-1], nn.Sequential)


# What is claimed.


def test_figures_of_targets_and_of_the_others(prepared):
    method, _, ready = prepared(KEY)
    saving, lost, more = claimed.figures(method, ready, 0.05)
    design = method.chosen(0.05, ready)
    ((error, T),) = method.judged(ready.fitted.designs[method.taken(0.05, ready.fitted)][None], ready, "test")
    full, cost = method.full_model(ready, ready.bench)
    assert saving == pytest.approx(1 / T)
    assert lost == pytest.approx(full - (1 - error))
    share = float(method.weighed(ready.split("test")).double().mean())
    mean = method.operating_point(design, ready, "test").cost / cost
    assert mean == pytest.approx(share * T + (1 - share) * (1 + more))


@pytest.mark.parametrize(
    ("found", "holds"),
    [((1.5, 0.005, 0.01), True), ((1.49, 0.0, 0.0), False), ((2.0, 0.006, 0.0), False), ((2.0, 0.0, 0.011), False)],
)
def test_targets_must_be_sooner_nothing_lost_and_others_not_dearer(monkeypatch, found, holds):
    monkeypatch.setattr(claimed, "figures", lambda method, prepared, slack: found if slack == 0 else None)
    assert claimed.sooner("m", "p").holds is holds


@pytest.mark.parametrize(("factor", "holds"), [(0.89, True), (0.91, False)])
def test_the_rival_must_cost_targets_more(prepared, monkeypatch, factor, holds):
    method, bench, ready = prepared(KEY)
    asked = []

    def figures(one, given, slack):
        asked.append((one, slack))
        return (1 / factor if one is method else 1.0), 0.0, 0.0

    monkeypatch.setattr(claimed, "figures", figures)
    found = claimed.sooner_than_all(method, ready, bench)
    assert found.holds is holds
    assert found.measured.startswith(f"{factor:.3f} of the full cost")
    assert [slack for _, slack in asked] == [0.0, 0.0]
    assert asked[1][0] == claimed.AllClasses(**{f.name: getattr(method, f.name) for f in dataclasses.fields(method)})


def rival_of(method):
    return claimed.AllClasses(**{field.name: getattr(method, field.name) for field in dataclasses.fields(method)})


def test_the_rival_has_exits_for_all_classes_trained_as_long(stages):
    plain, heads = stages(rival_of(tiny(batch=40, head_epochs=5.0)))
    assert (plain.epochs, plain.batch, {*plain.rates.values()}) == (8.0, 40, {1e-2})
    assert (heads.epochs, heads.batch, len(heads.train), {*heads.rates.values()}) == (5.0, 40, 600, {2e-2})
    index, maps = next(heads.train.batches(16))
    model = rival_of(tiny()).build(tiny().load(), 0)
    assert [head(each).shape for head, each in zip(model.heads[:-1], maps, strict=True)] == [(16, 10)] * 2
    assert not any(isinstance(head, Detector) for head in model.heads)
    y = heads.train.targets[index]
    expected = sum(F.cross_entropy(head(each), y) for head, each in zip(model.heads[:-1], maps, strict=True))
    assert heads.loss(heads.batch_of(index, maps)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_a_threshold_of_the_rival_must_be_exceeded_and_1_never_is():
    rival = claimed.AllClasses()
    assert rival.each == 1
    z = torch.tensor([[[0.0, math.log(3)]]] * 2, dtype=torch.float64)
    assert replay(rival.stop([(0.75 - 1e-9,)]), z).tolist() == [0]
    assert replay(rival.stop([(0.75 + 1e-9,)]), z).tolist() == [1]
    assert replay(rival.stop([(1.0,)]), torch.tensor([[[-1000.0, 1000.0]]] * 2)).tolist() == [1]
    assert replay(rival.stop([]), z[:1]).tolist() == [0]
    assert rival.design([1, 0, 2, 3], 3).thresholds == ((0.6,), (0.7,))


@pytest.mark.parametrize(
    ("y", "eps", "expected"),
    [
        ([1, 0, 3, 3, 0], 0.0, 0),  # image 2, sure to 0.7, is broken, but image 4, sure to 0.95, is repaired
        ([1, 0, 0, 0, 0], 0.0, 3),  # images 2 and 4 are broken up to 0.7 and 0.95: only the last level keeps both
        ([1, 0, 0, 0, 0], 0.2, 2),  # one in five may be broken
        ([1, 0, 0, 0, 0], 0.4, 0),
        ([1, 1, 3, 0, 0], 0.0, 0),  # image 4 is broken up to 0.95, image 2 repaired up to 0.7
    ],
)
def test_thresholds_of_the_rival_by_hand(y, eps, expected):
    """One for all classes: who answers right in the network's place counts, whatever the class."""
    found = claimed.levels_for_all(seen(P, y), (0.0, 0.6, 0.8, 1.0), eps)
    assert found.tolist() == [[expected]]


def test_the_rival_is_chosen_as_ours_is(prepared):
    """The same network, thresholds by its own answers, the same greedy search."""
    method, bench, ready = prepared(KEY)
    rival = rival_of(method)
    theirs = rival.prepare(bench)
    found, held = theirs.fitted, theirs.split("fitting")
    assert torch.equal(held.answers[-1], ready.split("fitting").answers[-1])
    rows = [levels.tolist() for levels in rival.rows(theirs)]
    assert rows == [claimed.levels_for_all(held, method.levels, eps).tolist() for eps in method.slacks]
    assert found.scores[0].tolist() == ready.fitted.scores[0].tolist()
    genes = found.designs[rival.taken(0.0, found)]
    error, T = rival.judged(genes[None], theirs, "fitting")[0]
    assert error <= found.scores[0, 0] + 1e-9
    assert found.scores[found.scores[:, 0] <= found.scores[0, 0] + 1e-9, 1].min() == T
    saving, _, _ = claimed.figures(rival, theirs, 0.0)
    assert saving == pytest.approx(1 / rival.judged(genes[None], theirs, "test")[0, 1])


def test_all_designs_are_all_sets_of_exits_with_the_thresholds_of_each_slack(prepared):
    method, _, ready = prepared(KEY)
    ready = ready.for_choosing
    every, rows = claimed.all_designs(method, ready), method.rows(ready)
    expected = {
        tuple(method.space(3).written(np.array([[a, b, *row.ravel()]]))[0].tolist())
        for a in (0, 1) for b in (0, 1) for row in rows
    }  # fmt: skip
    assert {tuple(row) for row in every.designs.tolist()} == expected
    assert len(every.designs) == len(expected) <= method.different(3)
    assert not every.designs[0].any()
    assert every.scores.tolist() == method.judged(every.designs, ready, "fitting").tolist()
    assert {tuple(row) for row in ready.fitted.designs.tolist()} <= expected


def test_what_is_compared_is_the_least_time_that_a_slack_allows():
    scores = np.array([[0.2, 1.0], [0.2, 0.9], [0.25, 0.5], [0.1, 0.95]])
    found = Judged(np.zeros((4, 8), dtype=np.int64), scores)
    assert claimed.least_times(TWO.replace({"slacks": (0.0, 0.04, 0.05)}), found) == [0.9, 0.9, 0.5]


def test_no_search_takes_less_time_than_trying_all_designs(prepared):
    method, _, ready = prepared(KEY)
    ready = ready.for_choosing
    best = claimed.least_times(method, claimed.all_designs(method, ready))
    for found in (ready.fitted, *claimed.random_searches(method, ready)):
        each = claimed.least_times(method, found)
        assert all(theirs <= ours for ours, theirs in zip(each, best, strict=True))


@pytest.mark.parametrize(("found", "holds"), [((0.5, 0.4), True), ((0.509, 0.409), True), ((0.5, 0.411), False)])
def test_the_greedy_search_must_come_close_to_trying_all_at_each_slack(found, holds):
    said = claimed.least_of_all(TWO.replace({"slacks": (0.0, 0.05)}), found, (0.5, 0.4), 187)
    assert said.holds is holds
    assert said.measured.endswith(f"of 187 designs; T {found[0]:.3f} at 0, {found[1]:.3f} at 0.05")


@pytest.mark.parametrize(
    ("found", "best", "holds", "reason"),
    [
        ((0.5, 0.4), (0.5, 0.4), True, ""),  # the mean of the random ones is 0.471
        ((0.5, 0.43), (0.5, 0.4), False, ""),
        ((0.5, 0.424), (0.5, 0.424), False, "only 0.0090 of the full cost cheaper"),
    ],
)
def test_the_greedy_search_must_beat_the_mean_of_random_ones_where_that_can_be(found, best, holds, reason):
    said = claimed.sooner_than_random(found, best, [(0.5, 0.4), (0.5, 0.484)], 48)
    assert said.holds is holds
    assert reason in said.not_comparable
    assert bool(said.not_comparable) == bool(reason)
    assert "searches 0.0297); 48 designs judged by each; " in said.measured


def test_all_searches_are_compared_on_the_images_of_the_search(prepared):
    """Test images are out of reach there: their stored outputs are not asked for."""
    method, _, ready = prepared(KEY)
    given = dataclasses.replace(ready, _test=[])
    said = claimed.chosen_well(method, given)
    assert [each.name for each in said] == [
        "close to the least time of all sets of exits",
        "better than a random search",
    ]
    assert not given._test
    assert said[0].measured.split("; ")[0].endswith(f"of {len(claimed.all_designs(method, ready).designs)} designs")
    assert f"{len(ready.fitted.designs)} designs judged by each" in said[1].measured
