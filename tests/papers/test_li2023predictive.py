"""What only Predictive Exit promises: forecasts by hand and as released, heads that are not run, energy by a model."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.bag_of_features import BagOfFeatures
from eelit.methods.claims import li2023predictive as claims
from eelit.methods.engine.costs import count, full_cost
from eelit.methods.engine.evaluate import followed, infer, replay
from eelit.methods.engine.routing import follow
from eelit.methods.papers.li2023predictive import LEVELS, PredictiveExit, keeps_exit, modelled_energy
from eelit.methods.policies.forecast import Forecast, smoothed

KEY = "li2023predictive"
INF = float("inf")
LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor}


@pytest.fixture(scope="module")
def golden():
    return json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())


@pytest.fixture
def vectors():
    """What five exits say of 60 samples in seven classes, ever stronger."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 60, 7)) * np.linspace(1, 3, 6)[:, None, None]


THETA = (2.0, 3.0, 4.0, 5.0, 6.0)


# The forecast.


@pytest.mark.parametrize("array", LIBRARIES.values(), ids=LIBRARIES)
def test_smoothing_by_hand(array):
    v = array(np.array([[0.0, 0, 1, 0, 0]]))
    expected = ([[0, 1, 1, 1, 0]], [[1, 2, 3, 2, 1]], [[3, 6, 7, 6, 3]])
    for told in expected:
        v = smoothed(v)
        assert np.asarray(v).tolist() == told


@pytest.mark.parametrize(
    ("thresholds", "exit_"),
    [
        # After one, two and three rounds the peak is 1, 3 and 7.
        ((9, 0.9, 9, 9, 9, 9), 1),
        ((9, 1, 2.9, 9, 9, 9), 2),  # strictly above: 1 is not
        ((9, 1, 3, 6.9, 9, 9), 3),
        ((9, 1, 3, 7, 9, 9), 4),  # the fourth round gives 19
        ((9, 99, 99, 99, 99, 99), 5),  # the last that has a threshold
    ],
)
def test_a_forecast_counts_the_rounds_until_the_peak_is_above_the_exit_then_reached(thresholds, exit_):
    e = np.array([[0.0, 0, 1, 0, 0]])
    for sign in (1, -1):
        (state,), stop = Forecast(thresholds).step((), sign * e)
        assert (state.tolist(), stop.tolist()) == ([exit_], [False])
    assert Forecast(thresholds, rounds=1).step((), e)[0][0].tolist() == [1]
    assert Forecast(thresholds, rounds=2).step((), e)[0][0].tolist() == [min(exit_, 2)]


def test_nothing_comes_of_nothing_and_no_exit_is_behind_the_last():
    rule, none = Forecast((1.0,) * 12), np.zeros((3, 5))
    assert rule.ahead(none, np.array([0, 2, 9])).tolist() == [8, 8, 8]
    assert rule.step((np.array([0, 2, 9]),), none)[0][0].tolist() == [8, 10, 11]
    assert rule.step((np.array([10, 11, 11]),), none)[0][0].tolist() == [11, 12, 12]  # 12 is the last exit
    assert rule.route((np.array([5]),), none).tolist() == [5]


def test_a_forecast_never_shrinks_with_beta(vectors):
    before = np.zeros(60, dtype=int)
    for beta in (0.1, 0.5, 1.0, 2.0, 5.0, 20.0):
        rule = Forecast(tuple(beta * theta for theta in THETA))
        found = rule.ahead(vectors[0], np.zeros(60, dtype=np.int64))
        assert ((found >= 1) & (found <= 8) & (found >= before)).all()
        before = found
    assert len(set(before.tolist())) > 1


def test_a_forecast_depends_on_which_classes_are_neighbours():
    far, near = (np.array([[*head, -3.0]]) for head in ((2.0, -2.0, 2.0, -2.0), (2.0, 2.0, -2.0, -2.0)))
    assert [float(np.abs(smoothed(v)).max()) for v in (far, near)] == [5.0, 7.0]
    rule = Forecast((9.0, 6.0, 9.0))
    assert [rule.step((), v)[0][0].tolist() for v in (far, near)] == [[2], [1]]


def test_the_test_itself_takes_either_sign_and_equality():
    e = np.array([[1.0, -2.0, 0.5]])
    assert Forecast((2.0, 9.0)).step((), e)[1].tolist() == [True]
    assert Forecast((2.0 + 1e-9, 9.0)).step((), e)[1].tolist() == [False]
    assert Forecast((0.0, 0.0)).step((), np.zeros((1, 3)))[1].tolist() == [True]
    assert Forecast((INF, INF)).step((), 1e300 * e)[1].tolist() == [False]


@pytest.mark.parametrize(("threshold", "rounds"), [(0.5, 8), ((0.5, 0.6), 0), ((0.5, 0.6), 1.5)])
def test_settings_that_mean_nothing_are_refused(threshold, rounds):
    with pytest.raises(ValueError, match=r"Forecast: (threshold is one number per exit|rounds is one whole number)"):
        Forecast(threshold, rounds)


def test_one_round_tests_every_exit_in_turn(vectors):
    exits = replay(Forecast(THETA, rounds=1), vectors)
    passed = np.abs(vectors[:5]).max(axis=-1) >= np.array(THETA)[:, None]
    assert exits.tolist() == np.where(passed.any(axis=0), passed.argmax(axis=0), 5).tolist()
    assert followed(Forecast(THETA, rounds=1), vectors).visited.numpy().tolist() == [
        (exits >= i).tolist() for i in range(6)
    ]


def test_forecasts_ask_no_more_heads_than_testing_every_exit_up_to_the_same(vectors):
    passive, ours = replay(Forecast(THETA, rounds=1), vectors), followed(Forecast(THETA), vectors)
    asked, exits = ours.visited.sum(dim=0).numpy(), ours.exits.numpy()
    assert (asked <= exits + 1).all()
    assert (asked < exits + 1).any()
    assert ((exits == 0) == (passive == 0)).all()
    assert (asked[exits == 0] == 1).all()
    assert (exits >= passive).all()  # what passes a test is found at the first chance by whoever tests all


# The network and its training.


def test_heads_pool_by_themselves_and_are_read_alike(prepared):
    _, _, ready = prepared(KEY)
    *early, last = ready.model.heads
    assert len(early) == 4
    assert len({id(head[0]) for head in early}) == 4
    assert all(isinstance(head[0], BagOfFeatures) and head[1] is early[0][1] for head in early)
    assert [(layer.in_features, layer.out_features) for layer in early[0][1]] == [(64, 16), (16, 10)]
    assert last[-1].out_features == 10


def test_one_region_needs_no_linear_map(prepared):
    method, _, ready = prepared(KEY)
    head = method.replace({"side": 1}).head((5, 4, 4), 10)
    assert [(layer.in_features, layer.out_features) for layer in head[1]] == [(16, 10)]
    x = torch.randn(3, 5, 4, 4)
    assert torch.equal(head(x), head[1](head[0](x)))
    assert ready.model.exits == 5


def test_the_network_learns_first_and_then_the_exits_alone(wired, prepared):
    method, _, _ = prepared(KEY)
    model, (plain, exits) = wired(method)
    index, x, y = torch.arange(20), torch.stack(plain.train.inputs[:20]), plain.train.targets[:20]
    with torch.no_grad():
        full = F.cross_entropy(model.full(x), y).item()
        by_hand = sum(F.cross_entropy(z, y).item() for z in model(x)[:-1])
    assert plain.loss(plain.batch_of(index, x)).item() == pytest.approx(full, rel=1e-5)
    assert exits.loss(exits.batch_of(index, x)).item() == pytest.approx(by_hand, rel=1e-5)
    assert plain.rates == {id(p): 1e-2 for p in model.plain_network().parameters()}
    assert exits.rates == {id(p): 2e-2 for head in model.heads[:-1] for p in head.parameters()}
    assert len(exits.rates) == 4 * 6 + 4
    assert exits.train is plain.train
    assert (len(exits.train), exits.epochs, exits.batch) == (600, 6.0, 32)
    assert (plain.epochs, plain.batch) == (8.0, 32)


def test_mu_is_the_mean_strength_on_training_images(prepared):
    method, _, ready = prepared(KEY)
    with torch.inference_mode():
        z = ready.model(torch.stack(list(ready.data.train.inputs)))
    assert ready.fitted == pytest.approx(z[:-1].abs().amax(dim=-1).mean(dim=1).tolist(), rel=1e-4)
    rule = method.rule(1.3, ready)
    assert rule.threshold == pytest.approx([1.3 * mu for mu in ready.fitted])
    assert rule.rounds == method.rounds
    assert method.replace({"rounds": 8}).rule(1.3, ready).rounds == PredictiveExit().rounds == 8
    assert prepared(KEY, "passive")[0].rule(1.3, ready).rounds == 1


def test_heads_between_forecasts_are_not_run(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    x = torch.stack(list(seen.examples.inputs[:64]))
    courses = [(beta, followed(method.rule(beta, ready), seen.outputs)) for beta in method.knobs[1:-1]]
    beta, course = max(courses, key=lambda found: len(np.unique(found[1].visited[:, :64].numpy(), axis=1).T))
    asked = course.visited[:, :64].sum(dim=1).tolist()
    reached = [int((course.exits[:64] >= i).sum()) for i in range(5)]
    assert all(a <= b for a, b in zip(asked, reached, strict=True))
    assert sum(asked) < sum(reached)
    ran = [0] * 5
    hooks = [
        head.register_forward_hook(lambda _, args, out, i=i: ran.__setitem__(i, ran[i] + len(out)))
        for i, head in enumerate(ready.model.heads)
    ]
    found = infer(ready.model, x, method.rule(beta, ready))
    for hook in hooks:
        hook.remove()
    assert ran == asked
    assert found.exits.tolist() == course.exits[:64].tolist()
    assert (
        count(lambda: infer(ready.model, x, method.rule(beta, ready))) == seen.paid(method.rule(beta, ready))[:64].sum()
    )


def test_never_runs_the_plain_network_and_two_heads(prepared):
    """That of the first exit, and of the last that has a threshold."""
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:3]))
    found = infer(ready.model, x, method.rule(INF, ready))
    assert found.exits.tolist() == [4, 4, 4]
    with torch.inference_mode():
        assert torch.allclose(found.outputs, ready.model.full(x), atol=1e-5)
    heads = claims.layers_and_heads(ready.split("test"))[1]
    assert ready.split("test").paid(method.rule(INF, ready))[0] == full_cost(ready.model, x[:1]) + heads[0] + heads[3]
    assert (infer(ready.model, x, method.rule(0.0, ready)).exits == 0).all()


# The released code.


def test_agrees_with_the_released_code(golden):
    """Exits, which heads are asked, forecasts and strengths (see `provenance` in the file)."""
    e = np.round(np.random.RandomState(3).standard_normal((40, 20, 10)) * np.linspace(1, 4, 20)[None, :, None], 2)
    outputs = np.concatenate([e.transpose(1, 0, 2), np.zeros((1, 40, 10))])
    theta = np.array(golden["theta"])
    assert any(len(set(run["exits"])) > 4 for run in golden["runs"])
    for run in golden["runs"]:
        first = run["start"] - 1  # exits from 0
        rule, said = Forecast(tuple(run["beta"] * theta[first:])), torch.as_tensor(outputs[first:])
        course = follow(rule, lambda i, rows, said=said: said[i, rows], len(said), 40)
        assert (course.exits + first).tolist() == run["exits"]
        asked = [[int(i) + first + 1 for i in column[:-1].nonzero()] for column in course.visited.T]
        assert asked == run["asked"]
    for case in golden["predictions"]:
        rule = Forecast(tuple(case["beta"] * theta))
        found = rule.ahead(outputs[case["layer"] - 1], np.full(40, case["layer"] - 1))
        assert found.tolist() == case["rounds"]
    assert np.abs(e[:, 4]).max(axis=1).tolist() == pytest.approx(golden["strength"], abs=1e-3)


# Energy and placement.


def test_energy_of_a_stated_processor_by_hand():
    levels = ((1.0, 0.5), (2.0, 0.75), (4.0, 1.0))  # Hz, share of the highest voltage
    assert modelled_energy([8.0], 100.0, levels) == (8.0, 2.0)  # nothing is known: the highest level
    assert modelled_energy([8.0, 4.0], 6.0, levels) == (8 + 4 * 0.25, 6.0)  # 4 s are left for 4 MACs at 1 Hz
    assert modelled_energy([8.0, 4.0], 5.9, levels) == (8 + 4 * 0.5625, 4.0)
    assert modelled_energy([8.0, 4.0], 3.0, levels) == (8 + 4, 3.0)
    assert modelled_energy([8.0, 4.0], 2.5, levels) == (8 + 4, 3.0)  # too late anyhow: as fast as can be
    assert modelled_energy([8.0, 4.0, 4.0], 8.0, levels) == (8 + 1 + 4 * 0.5625, 8.0)  # corrected at a second forecast
    assert modelled_energy([8.0, 4.0], 6.0, levels[::-1]) == modelled_energy([8.0, 4.0], 6.0, levels)
    energy, seconds = modelled_energy([1e9], 1.0)
    assert (energy, seconds) == (1e9, 1e9 / max(frequency for frequency, _ in LEVELS))


def test_the_placement_test_by_hand():
    """(0.5 - 0.2) · 10 - (1 - 0.2) · head - (1 - 0.5) · 0.8 = 2.6 - 0.8 · head."""
    assert keeps_exit(0.2, layer=0.8, following=10.0, head=2.59 / 0.8)
    assert not keeps_exit(0.2, layer=0.8, following=10.0, head=2.61 / 0.8)
    assert not keeps_exit(0.2, layer=0.8, following=10.0, head=2.2, wanted=0.3)
    assert not keeps_exit(0.0, layer=5.0, following=5.0, head=0.1)  # never before a layer that is no dearer


# What is claimed.


def point(quality, cost, knob=1.0):
    return SimpleNamespace(knob=knob, quality=quality, cost=cost, speed_up=1 / cost)


@pytest.mark.parametrize(
    ("cost", "loss", "holds"), [(0.49, 0.0, True), (0.491, 0.0, False), (0.49, 0.0021, False), (0.49, 0.0019, True)]
)
def test_forecasts_must_be_two_percent_cheaper_at_equal_accuracy(cost, loss, holds):
    held = [point(0.5, 0.1), point(0.8, 0.5), point(0.9, 1.0)]
    curve = SimpleNamespace(
        validation=[point(0.5, 0.1), point(0.8, 0.45), point(0.79, 0.4)],
        test=[point(0.1, 0.1), point(0.7 - loss, cost), point(0.1, 0.4)],
    )
    test = [point(0.1, 0.1), point(0.7, 0.5), point(0.1, 1.0)]
    assert claims.cheaper(curve, held, test, 1.0).holds is holds


def test_a_rule_saves_nothing_over_itself():
    """Of its betas one is dearer and worse than another: that one is nobody's choice."""
    held = [point(0.5, 0.1), point(0.8, 0.5), point(0.79, 0.6), point(0.85, 0.55), point(0.9, 1.0)]
    test = [point(0.4, 0.1), point(0.7, 0.5), point(0.6, 0.6), point(0.8, 0.55), point(0.9, 1.0)]
    found = claims.cheaper(SimpleNamespace(validation=held, test=test), held, test, 1.0)
    assert not found.holds
    assert found.measured.startswith("+0.0% of the MACs saved, accuracy +0.0000, over 3 accuracies, 0 of which")


def test_a_coarse_knob_pays_nothing_for_its_gaps():
    """Two betas, of which a mixture has every accuracy at the rival's cost; by single betas it would pay the dearer."""
    held = [point(0.5, 0.1), point(0.6, 0.3), point(0.7, 0.5), point(0.9, 0.9), point(0.9, 1.0)]
    coarse = [held[0], held[3]]
    found = claims.cheaper(SimpleNamespace(validation=coarse, test=coarse), held, held, 1.0)
    assert found.measured.startswith("+0.0% of the MACs saved, accuracy +0.0000, over 3 accuracies, 0 of which")


def test_a_mixture_is_the_cheapest_that_is_good_enough_on_validation_data():
    held = [point(0.5, 0.2), point(0.6, 0.5), point(0.8, 0.6), point(0.7, 0.9)]
    mixed = claims.cheapest_mixture(held, 0.65)
    assert (mixed.cheap, mixed.dear, mixed.weight) == (0, 2, pytest.approx(0.5))
    assert mixed.of([each.cost for each in held]) == pytest.approx(0.4)
    for goal, knob in ((0.4, 0), (0.5, 0), (0.8, 2), (0.9, 2)):
        mixed = claims.cheapest_mixture(held, goal)
        assert mixed.of([each.cost for each in held]) == pytest.approx(held[knob].cost)


@pytest.mark.parametrize(("passed", "comparable"), [(0.02, True), (0.0196, False)])
def test_where_heads_cost_too_little_forecasts_show_nothing(passed, comparable):
    held = [point(0.5, 0.1), point(0.8, 0.5), point(0.9, 1.0)]
    curve = SimpleNamespace(validation=[point(0.5, 0.1), point(0.8, 0.4)], test=[point(0.5, 0.1), point(0.8, 0.4)])
    found = claims.cheaper(curve, held, held, passed)
    assert (found.holds, found.not_comparable == "") == (comparable, comparable)


def test_what_forecasts_can_pass_by_lies_between_the_first_head_and_the_next_that_is_asked():
    """Five layers of 1.0 and four heads of 0.1 before the last: at exit 4 and at the end two heads can be left out."""
    alone = np.array([1.1, 2.1, 3.1, 4.1, 5.0])
    every = np.array([1.1, 2.2, 3.3, 4.4, 5.4])
    seen = SimpleNamespace(costs=every[:, None], static_costs=alone[:, None])
    assert claims.passed_by(seen) == pytest.approx(0.2 / 4.4)


def test_who_goes_on_runs_two_heads_so_that_two_thirds_may_be_out_of_reach():
    def course(*asked):
        return SimpleNamespace(visited=torch.tensor(asked, dtype=torch.bool))

    passive = course([1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0])  # 1.75 heads, of which 1.17 are allowed
    found = claims.fewer_heads(course([1, 1, 1, 1], [0, 0, 0, 0], [1, 1, 0, 0], [0, 0, 0, 0]), passive)
    assert not found.holds
    assert found.not_comparable.startswith("Two thirds are 1.17 heads.")
    assert "so 1.50 heads are run" in found.not_comparable
    deeper = course([1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1], [0, 0, 0, 0])  # 3.0, of which 2.0 are
    assert claims.fewer_heads(course([1] * 4, [0] * 4, [1] * 4, [0] * 4), deeper).not_comparable == ""


def test_what_no_forecasts_reach_counts_as_nothing_saved():
    held, test = (
        [point(0.5, 0.1), point(0.8, 0.5), point(0.9, 1.0)],
        [point(0.5, 0.1), point(0.8, 0.5), point(0.9, 1.0)],
    )
    curve = SimpleNamespace(validation=[point(0.79, 0.2)], test=[point(0.8, 0.2)])
    found = claims.cheaper(curve, held, test, 1.0)
    assert not found.holds
    assert (
        found.measured == "+0.0% of the MACs saved, accuracy +0.0000, over 1 accuracies, 1 of which no forecasts have"
    )


def test_forecasts_are_judged_where_about_half_is_saved():
    held = [point(0.5, 0.1, 0.0), point(0.8, 0.4, 0.5), point(0.9, 0.58, 0.7), point(0.9, 1.0, INF)]
    assert claims.half_saved(held) == 0.7


def test_placement_is_told_but_is_no_verdict(prepared):
    """Exits 1 and 3 of five stand before a layer so much dearer that the test keeps them; heads cost 0.1."""
    up_to = np.array([1.0, 5.0, 6.0, 12.0])
    alone, every = np.array([*(up_to + 0.1), 13.0]), np.array([*(up_to + 0.1 * np.arange(1, 5)), 13.4])
    outputs = torch.zeros(5, 10, 3)
    outputs[:, :, 0] = 1.0
    outputs[:, :1] = 0.0  # one image of ten goes on everywhere
    seen = SimpleNamespace(costs=every[:, None], static_costs=alone[:, None], outputs=outputs)
    found = claims.placement(seen, Forecast((0.5,) * 4), 0.5)
    kept = [0.4 * following - 0.9 * 0.1 - 0.5 * layer >= 0 for layer, following in ((1, 4), (4, 1), (1, 6), (6, 1))]
    assert kept == [True, False, True, False]
    assert found.measured == "it keeps exits 1, 3 of 4 at beta = 0.5"
    assert found.not_comparable
    method, _, ready = prepared(KEY)
    assert claims.placement(ready.split("test"), method.rule(1.0, ready), 1.0).not_comparable


def test_fewer_heads_are_two_thirds_and_right_forecasts_beat_the_commonest():
    asked = torch.tensor([[1, 1, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]], dtype=torch.bool)  # the last is no added head
    few, many = SimpleNamespace(visited=asked), SimpleNamespace(visited=torch.ones(4, 3, dtype=torch.bool))
    assert claims.heads_asked(few) == pytest.approx(4 / 3)
    assert claims.fewer_heads(few, many).holds
    assert not claims.fewer_heads(many, many).holds
    # Of ten samples none stops at once, six stop at exit 2 and four at exit 3, as forecast: theirs is the weaker peak.
    outputs = torch.zeros(4, 10, 3)
    outputs[0, :, 0], outputs[0, 6:, 0] = 3.0, 1.5
    outputs[1, :6, 0], outputs[2, :, 0] = 9.0, 9.0
    seen = SimpleNamespace(outputs=outputs)
    found = claims.right_forecasts(seen, Forecast((5.0, 2.0, 2.0)), 1.0)
    assert found.measured.startswith("100.0% right, 60.0% by always")
    assert "exits forecast minus needed: +0: 100.0%; 10 images" in found.measured
    assert found.holds
    other = claims.right_forecasts(seen, Forecast((5.0, 1.0, 2.0)), 1.0)
    assert not other.holds
    assert "exits forecast minus needed: -1: 40.0%, +0: 60.0%" in other.measured


@pytest.mark.parametrize(("one_too_far", "holds"), [(0, False), (1, False), (2, True)])
def test_most_forecasts_must_be_right_or_one_exit_too_far(one_too_far, holds):
    """Of ten samples four are forecast rightly, where the commonest of these exits is that of three."""
    needed = [1, 2, 3, 3, 1, 1, 2, 2, 4, 4]
    forecast = torch.tensor(needed)
    forecast[4:] += 2
    forecast[4 : 4 + one_too_far] -= 1
    outputs = torch.zeros(6, 10, 3)
    outputs[needed, torch.arange(10), 0] = 9.0
    policy = SimpleNamespace(
        threshold=(5.0,) * 5,
        start=lambda: (),
        step=lambda state, said: ((forecast,), torch.zeros(10, dtype=torch.bool)),
    )
    found = claims.right_forecasts(SimpleNamespace(outputs=outputs), policy, 1.0)
    assert found.measured.startswith("40.0% right, 30.0% by always")
    assert found.holds is holds


def test_nothing_modelled_is_told_as_measured(prepared):
    method, bench, ready = prepared(KEY)
    sweeps = {split: method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")}
    found = {each.name: each for each in claims.claims(method, ready, bench, SimpleNamespace(**sweeps))}
    assert list(found) == [
        "fewer heads", "cheaper than testing every exit", "forecasts are right", "placement", "modelled energy",
    ]  # fmt: skip
    assert found["modelled energy"].measured.startswith("modelled: ")
    assert "nothing was measured" in found["modelled energy"].not_comparable
    said = {name for name, each in found.items() if each.not_comparable}
    assert said - {"fewer heads", "cheaper than testing every exit"} == {"placement", "modelled energy"}
    assert ("cheaper than testing every exit" in said) is (claims.passed_by(ready.split("test")) < claims.SAVED)
    half = min(sweeps["validation"], key=lambda p: abs(1 / p.speed_up - 0.5)).knob
    assert found["forecasts are right"].measured.endswith(f"at beta = {half:g}")
    assert claims.claims(*prepared(KEY, "passive")[::2], bench, None) == []


def test_modelled_energy_is_that_of_each_image_s_own_legs(prepared):
    method, _, ready = prepared(KEY)
    seen, policy = ready.split("test"), method.rule(1.0, ready)
    course = followed(policy, seen.outputs)
    deadline = seen.static_costs[-1, 0] / LEVELS[-1][0]
    total, late, paid = 0.0, 0, seen.paid(policy)
    up_to, _ = claims.layers_and_heads(seen)
    for n in range(len(seen.targets)):
        ends = course.visited[:, n].nonzero().flatten().tolist()
        work = [float(seen.static_costs[end, 0]) for end in ends]
        legs = [work[0], *(there - up_to[here] for there, here in zip(work[1:], ends, strict=False))]
        assert sum(legs) == pytest.approx(paid[n])
        used, seconds = modelled_energy(legs, deadline)
        total, late = total + used, late + (seconds > deadline)
    share = total / seen.costs[course.exits.numpy(), 0].sum()
    told = claims.energy(seen, course, course).measured
    assert told == f"modelled: {share:.1%} of the energy; {late / len(seen.targets):.1%} of the images end late"
    assert 0 < late < len(seen.targets)
