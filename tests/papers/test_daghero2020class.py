"""What only class-dependent thresholds promise: the rule by hand, and a search no worse than that for single ones."""

import math
from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import daghero2020class as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.harness import registry
from eelit.methods.papers.daghero2020class import ALWAYS, ClassDependent, Outcome, Search, Seen, worth
from eelit.methods.policies.margin import Margin, margin
from eelit.methods.policies.predicted_class import PredictedClass, max_probability

KEY = "daghero2020class"
VARIANTS = list(ClassDependent.variants)


def tiny(**settings):
    return registry.get(KEY).variant("margin", "tiny").replace(settings)


# The rule.


def logits(*rows):
    return np.log(np.array(rows))


def test_the_threshold_is_that_of_the_predicted_class():
    z = logits([0.7, 0.2, 0.1], [0.2, 0.7, 0.1], [0.4, 0.35, 0.25])[None]
    z = np.concatenate([z, z])
    assert replay(PredictedClass([[0.4, 0.6, 0.0]]), z).tolist() == [0, 1, 1]
    assert replay(PredictedClass([[0.04, 0.4, 0.9]]), z).tolist() == [0, 0, 0]
    assert replay(PredictedClass([[0.6, 0.6, 0.0]], "max probability"), z).tolist() == [0, 0, 1]
    assert replay(PredictedClass([[0.8, 0.6, 0.0]], "max probability"), z).tolist() == [1, 0, 1]


@pytest.mark.parametrize(("name", "score"), [("margin", margin), ("max probability", max_probability)])
def test_just_the_threshold_is_not_enough(name, score):
    z = logits([0.6, 0.3, 0.1])
    found = float(score(z)[0])
    both = np.stack([z, z])
    assert replay(PredictedClass([[found, 0, 0]], name), both).tolist() == [1]
    assert replay(PredictedClass([[np.nextafter(found, 0), 1, 1]], name), both).tolist() == [0]


def test_thresholds_below_0_always_stop_and_1_never_does():
    z = np.random.default_rng(0).normal(scale=30, size=(3, 200, 4))
    z[:, 0] = 0.0  # all classes alike: a margin of 0
    for name in ("margin", "max probability"):
        assert (replay(PredictedClass([[-1e-9] * 4] * 2, name), z) == 0).all()
        assert (replay(PredictedClass([[1.0] * 4] * 2, name), z) == 2).all()
    zero = replay(PredictedClass([[0.0] * 4] * 2), z)
    assert zero[0] == 2
    assert (zero[1:] == 0).all()


def test_equal_thresholds_are_the_single_threshold():
    z = np.random.default_rng(1).normal(scale=2, size=(4, 300, 5))
    for th in (0.1, 0.5, 0.9):
        single = replay(Margin(float(np.nextafter(th, 2))), z)  # that one stops at just the threshold, too
        assert replay(PredictedClass([[th] * 5] * 3), z).tolist() == single.tolist()
        assert len(set(single)) > 1


def test_each_exit_has_its_own_thresholds():
    z = np.stack([logits([0.7, 0.2, 0.1], [0.1, 0.8, 0.1])] * 3)
    assert replay(PredictedClass([[0.9, 0.9, 0.9], [0.4, 0.9, 0.9]]), z).tolist() == [1, 2]
    assert replay(PredictedClass([[0.9, 0.1, 0.9], [0.4, 0.9, 0.9]]), z).tolist() == [1, 0]
    with pytest.raises(ValueError, match="thresholds for 1 exits"):
        replay(PredictedClass([[0.9] * 3]), z)


def test_who_has_no_score_goes_on():
    z = np.array([[[np.nan, 1.0], [np.inf, 1.0], [2.0, 0.0]]] * 2)
    assert replay(PredictedClass([[ALWAYS] * 2]), z).tolist() == [1, 1, 0]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (([[0.5, 0.5], [0.5]],), "as many as any other"),
        (([],), "as many as any other"),
        (([0.5, 0.5],), "as many as any other"),
        (([[math.nan, 0.5]],), "thresholds is one number"),
        (([[0.5, 0.5]], "entropy"), "score is one of"),
    ],
)
def test_thresholds_that_mean_nothing_are_refused(given, message):
    with pytest.raises(ValueError, match=message):
        PredictedClass(*given)


# The search.


@pytest.fixture
def worked():
    """Energies 1 and 10, the big model always right: (class A, .9, right), (A, .4, right), (B, .9, no), (B, .4, no)."""
    S, c = np.array([[0.9, 0.4, 0.9, 0.4]]), np.array([[0, 0, 1, 1]])
    right = np.array([[True, True, False, False], [True] * 4])
    return Search(Seen(S, c, right, np.array([[1.0] * 4, [11.0] * 4])), 2, (1.0, 0.9, 0.3, 0.0, ALWAYS))


def test_the_worked_case(worked):
    assert worked.seen.under(np.array([[0.9, 0.9]])) == (11.0, 1.0)
    assert worked.seen.under(np.array([[0.3, 0.9]])) == (6.0, 1.0)
    assert worked.seen.under(np.array([[0.3, 0.3]])) == (1.0, 0.5)
    single, own = (worked.thresholds(0.0, by_class=by) for by in (False, True))
    assert worked.seen.under(single) == (11.0, 1.0)
    assert worked.seen.under(own) == (6.0, 1.0)
    assert own.tolist() == [[0.3, 1.0]]


def test_an_allowed_loss_buys_the_next_class(worked):
    assert worked.thresholds(0.25).tolist() == [[0.3, 1.0]]  # both of class B would stop at once
    assert worked.seen.under(worked.thresholds(0.5)) == (1.0, 0.5)
    assert worked.thresholds(1.0).tolist() == [[ALWAYS, ALWAYS]]
    assert worked.thresholds(-math.inf).tolist() == [[1.0, 1.0]]
    assert worked.thresholds(-math.inf, by_class=False).tolist() == [[1.0, 1.0]]


def test_proposals_pass_over_thresholds_at_which_nobody_further_stops(worked):
    th = np.array([[1.0, 1.0]])
    assert worked._next(th, (0, 0)) == 0.3  # at 0.9 a score of just 0.9 does not stop yet
    assert worked._next(np.array([[0.3, 1.0]]), (0, 0)) is None


def test_free_savings_come_first_then_the_most_energy_by_accuracy():
    now = Outcome(10.0, 0.9)
    free, more, cheap, dear = Outcome(9.9, 0.9), Outcome(9.0, 0.95), Outcome(8.0, 0.89), Outcome(2.0, 0.8)
    ranked = sorted([dear, free, cheap, more], key=lambda then: worth(now, then))
    assert ranked == [dear, cheap, free, more]  # 80, 200, and two that lose nothing


def made(seed, n=200, classes=4, models=3):
    """Return a search on made inputs whose little models know some classes better than others."""
    rng = np.random.default_rng(seed)
    c = rng.integers(0, classes, size=(models - 1, n))
    S = rng.random((models - 1, n))
    known = 0.5 + 0.5 * c / classes
    right = np.concatenate([rng.random((models - 1, n)) < known * (0.4 + 0.6 * S), rng.random((1, n)) < 0.95])
    energy = np.cumsum(np.array([1.0, 5.0, 50.0])[:models, None] * np.ones((models, n)), axis=0)
    grid = (1.0, 0.8, 0.6, 0.4, 0.2, 0.0, ALWAYS)
    return Search(Seen(S, c, right, energy), classes, grid)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("allowed", [0.0, 0.02, 0.1, 0.3])
def test_class_thresholds_keep_the_loss_and_never_need_more_than_the_best_single_ones(seed, allowed):
    search = made(seed)
    full = search.seen.under(search.never).accuracy
    own, single = (search.seen.under(search.thresholds(allowed, by_class=by)) for by in (True, False))
    assert own.accuracy >= full - allowed - 1e-6
    assert single.accuracy >= full - allowed - 1e-6
    assert own.energy <= single.energy
    tried = [search.seen.under(np.repeat([[a], [b]], 4, axis=1)) for a, b in product(search.grid, repeat=2)]
    assert single.energy == min(found.energy for found in tried if found.accuracy >= full - allowed - 1e-6)
    assert set(search.thresholds(allowed).ravel()) <= set(search.grid)


def test_more_accuracy_than_the_last_model_has_may_be_asked_for():
    """M_1 alone has two of four right, M_2 alone one, and one is right by both."""
    S, c = np.array([[0.9, 0.8, 0.7, 0.6]]), np.array([[0, 1, 2, 3]])
    right = np.array([[True, True, False, True], [False, False, True, True]])
    search = Search(Seen(S, c, right, np.array([[1.0] * 4, [11.0] * 4])), 4, (1.0, 0.5, 0.0, ALWAYS))
    assert search.thresholds(-0.5).tolist() == [[0.5, 0.5, 1.0, 0.5]]
    assert search.seen.under(search.thresholds(-0.5)).accuracy == 1.0
    assert search.seen.under(search.thresholds(-0.25)) == (1.0, 0.75)
    assert search.thresholds(-0.51).tolist() == [[1.0] * 4]


def test_no_proposal_is_left_that_would_keep_the_loss():
    search = made(5)
    th = search.lowered(search.never, 0.05)
    least = search.seen.under(search.never).accuracy - 0.05
    for place in np.ndindex(*th.shape):
        level = search._next(th, place)
        if level is not None:
            changed = th.copy()
            changed[place] = level
            assert search.seen.under(changed).accuracy < least
    assert (search.never == 1).all()


def test_who_has_no_score_always_costs_all_models():
    search = made(0)
    search.seen.S[:, 0] = np.nan
    found = search.seen.under(np.full((2, 4), ALWAYS))
    assert found.energy == pytest.approx((199 * 1.0 + 56.0) / 200)


# The method.


def test_the_grid_falls_from_1_to_what_every_score_is_above():
    assert tiny(step=0.25).grid == (1, 0.75, 0.5, 0.25, 0.0, ALWAYS)
    assert tiny(step=0.4).grid == pytest.approx((1, 0.6, 0.2, 0.0, ALWAYS))
    assert len(tiny(step=0.05).grid) == 22


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"confidence": "entropy"}, "no confidence 'entropy'; there are margin, max probability"),
        ({"step": 0.0}, "between 0 and 1, not 0"),
        ({"step": 1.5}, "between 0 and 1, not 1.5"),
        ({"step": math.nan}, "between 0 and 1, not nan"),
        ({"members": ("large",)}, "at least two models, not 1"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny(**settings)


def test_each_model_is_trained_by_itself(wired):
    model, stages = wired(tiny(epochs=1.5, batch=50, rate=3e-3))
    assert len(model) == 3
    assert [len(stage.train) for stage in stages] == [600, 600]
    for member, stage in zip(model.members[1:], stages, strict=True):
        assert stage.rates == {id(p): 3e-3 for p in member.parameters()}
        x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
        expected = F.cross_entropy(member.eval()(x), y).item()
        assert stage.loss(stage.batch_of(torch.arange(20), x)).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_search_sees_what_the_rule_does_on_images_held_out_for_it(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    search, held = ready.fitted, ready.split("fitting")
    assert search.seen.right.shape == (3, 150)
    for allowed in method.knobs:
        policy = method.rule(allowed, ready)
        assert policy.score == variant
        assert policy.thresholds == tuple(map(tuple, search.thresholds(allowed)))
        point, found = method.trial(policy, held), search.seen.under(search.thresholds(allowed))
        assert (point.cost, point.quality) == pytest.approx(found)
        kept = found.accuracy >= search.seen.right[-1].mean() - allowed - 1e-6
        assert kept or (allowed < 0 and set(policy.thresholds) == {(1.0,) * 10})
    with pytest.raises(TestDataAsked):
        ready.for_choosing.split("test")


def test_every_model_that_was_run_is_paid_for(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    own = seen.static_costs.mean(axis=1)
    point = method.trial(method.rule(0.02, ready), seen)
    reached = [1.0, 1 - point.exits[0], point.exits[2]]
    assert point.cost == pytest.approx(sum(e * share for e, share in zip(own, reached, strict=True)))


def test_the_predicted_class_decides_not_the_true_one(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    found = method.seen(seen)
    assert found.c.tolist() == seen.answers[:-1].argmax(dim=-1).tolist()
    assert found.S[0] == pytest.approx(margin(seen.answers[0].double().numpy()), abs=1e-5)
    th = ready.fitted.thresholds(0.02)
    exits = replay(PredictedClass(th), seen.answers)
    stop = np.take_along_axis(th, found.c, axis=1) < found.S
    assert exits.tolist() == np.where(stop.any(axis=0), stop.argmax(axis=0), 2).tolist()


def test_single_thresholds_are_swept_beside(prepared):
    method, bench, ready = prepared(KEY)
    rival = method.baselines(ready, bench)[-1]
    assert rival.name == "one threshold for each model"
    assert [point.knob for point in rival.test] == list(method.knobs)
    th = ready.fitted.thresholds(0.02, by_class=False)
    assert (th == th[:, :1]).all()
    again = method.trial(PredictedClass(th), ready.split("test"), 0.02)
    assert rival.test[list(method.knobs).index(0.02)] == again


# What is claimed.


def point(knob, quality, cost):
    return SimpleNamespace(knob=knob, quality=quality, cost=cost)


@pytest.mark.parametrize(("cost", "behind", "holds"), [(0.47, 0.004, True), (0.48, 0.0, False), (0.3, 0.006, False)])
def test_a_twentieth_of_the_work_must_be_saved(cost, behind, holds):
    last = point(-math.inf, 0.9, 1.0)
    held = [point(0.05, 0.85, 0.2), point(0.01, 0.895, 0.6), last]
    rival = SimpleNamespace(
        name="one for each", validation=held, test=[point(0.05, 0.9, 0.1), point(0.01, 0.89, 0.5), last]
    )
    ours = [point(0.05, 0.9, 0.1), point(0.01, 0.89 - behind, cost), last]
    lucky = [point(0.0, 0.9, 0.01)] * 3  # on test images alone, which do not choose the rival
    worse = SimpleNamespace(name="worse", validation=[point(0.05, 0.85, 0.3), *held[1:]], test=lucky)
    found = claimed.saving(SimpleNamespace(validation=held, test=ours), [worse, rival])
    assert found.holds is holds
    assert "million by one for each)" in found.measured
    assert "energy" not in found.name + found.statement + found.measured  # nothing but operations is counted


def test_an_accuracy_is_reached_by_a_mixture_of_least_work():
    """Half of the images at 0.8 and half at 0.9 reach 0.85 by 2 of work; the costlier way there is left."""
    points = [point(0.1, 0.8, 1.0), point(0.05, 0.7, 2.0), point(0.0, 0.9, 3.0), point(-math.inf, 0.95, 9.0)]
    mixed = claimed.reaching(points, 0.85)
    assert (mixed.cheap, mixed.dear, mixed.weight) == (0, 2, pytest.approx(0.5))
    assert mixed.of([each.cost for each in points]) == pytest.approx(2.0)
    alone = claimed.reaching(points, 0.75)
    assert alone.of([each.cost for each in points]) == 1.0
    last = claimed.reaching(points, 0.95)
    assert last.of([each.cost for each in points]) == pytest.approx(9.0)


def test_what_must_hold_on_the_images_of_the_search(worked):
    curve = SimpleNamespace(validation=[point(a, 0, 0) for a in (1.0, 0.5, 0.0, -math.inf)])
    found = claimed.contained(worked, curve)
    assert found.holds
    assert found.measured == "from 0.0% to 45.5% fewer"
    alike = Search(worked.seen, 2, (1.0,))
    assert not claimed.contained(alike, curve).holds


def test_classes_must_differ(worked):
    found = claimed.different(worked.seen, worked)
    assert found.holds
    assert found.measured.startswith("right from 0.0% to 100.0%; thresholds from 0.3 to 1")
    alike = worked.seen.right.copy()
    alike[0] = True
    assert not claimed.different(Seen(worked.seen.S, worked.seen.c, alike, worked.seen.energy), worked).holds


@pytest.mark.parametrize(("steps", "holds"), [((12, 16), True), ((12, 15), False), ((16, 20), True)])
def test_thresholds_of_the_grid_are_apart_by_its_steps(worked, steps, holds):
    """0.4 and 0.2 are 0.2 apart, although 1 - 12 * 0.05 - (1 - 16 * 0.05) is a little less; below 0 nothing counts."""
    th = np.array([[1 - i * 0.05 for i in steps]])
    search = SimpleNamespace(classes=worked.classes, thresholds=lambda allowed: th)
    assert claimed.different(worked.seen, search).holds is holds
    lowest = SimpleNamespace(classes=worked.classes, thresholds=lambda allowed: np.array([[0.1, -1.0]]))
    assert not claimed.different(worked.seen, lowest).holds


def test_all_are_tried(prepared):
    method, bench, ready = prepared(KEY)
    points = {part: method.sweep(ready, bench, part, method.knobs) for part in ("validation", "test")}
    curve = SimpleNamespace(**points, baselines=method.baselines(ready, bench))
    assert [found.name for found in claimed.claims(method, ready, bench, curve)] == [
        "class thresholds save work",
        "class thresholds contain the single one",
        "classes differ",
    ]
