"""Policies on stored outputs: as they decide exit by exit, whatever is stored; every one is tried or has its reason."""

import itertools
import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from exit_rules import rules as all_policies
from hypothesis import given, settings
from hypothesis import strategies as st
from speaking import speaking
from stored import digits, made

from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.own import rules
from eelit.methods.own.compare import compare
from eelit.methods.own.curves import halves, tried
from eelit.methods.own.decide import STOPS, decide
from eelit.methods.own.logits import Logits, WrongLogits
from eelit.methods.own.scores import Scores
from eelit.methods.own.settings import KINDS, policy_of, settings_of
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.fixed_exit import SoleExit
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.predicted_class import PredictedClass
from eelit.methods.policies.temperature import fit_temperature

EVERY = st.sampled_from(list(rules.RULES))
VALUES = "patience-of-values"
QUICK = settings(max_examples=250, deadline=None, derandomize=True, database=None)


def test_every_policy_is_tried_or_has_its_reason():
    made_of = {rule.policy for rule in rules.RULES.values()} | {"ScoreThreshold", "GateConfidence", "StateSimilarity"}
    assert made_of | set(rules.LEFT_OUT) == all_policies()
    assert not made_of & set(rules.LEFT_OUT)
    assert made_of == set(KINDS)


@st.composite
def stored_outputs(draw):
    """Outputs of few exits and samples: ties, one exit or one sample, any precision, perhaps what is not finite."""
    shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 6), st.integers(2, 4)))
    wild = st.sampled_from([math.nan, math.inf, -math.inf, 60000.0])
    plain = st.integers(-3, 3).map(float) | st.floats(-8, 8, width=16)
    elements = plain | wild if draw(st.booleans()) else plain
    z = draw(arrays.arrays(np.float64, shape, elements=elements, fill=st.nothing()))
    kind = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    labels = draw(arrays.arrays(np.int64, shape[1], elements=st.integers(0, shape[2] - 1)))
    return z.astype(kind), labels


def as_read_by(name, outputs):
    """Return outputs as a policy reads them: the first column as values for the one that compares values."""
    z, y = outputs
    return (z[..., 0], y + np.arange(len(y)) / 8) if name == VALUES else (z, y)


def stored(z, y):
    return Logits(z, y, axes="enc" if z.ndim == 3 else "en", kind="logits" if z.ndim == 3 else "values")


def some_settings(name, z, y, count=6):
    data = stored(z, y)
    if name == VALUES and len(y) < 2:  # labels without any variance
        return None, []
    rule = rules.RULES[name]
    if not rule.suits(data):
        return None, []
    scores = Scores(data)
    return scores, rule.settings(scores, np.arange(data.samples), count)


@QUICK
@given(EVERY, stored_outputs())
def test_every_policy_decides_as_it_does_exit_by_exit(name, outputs):
    z, y = as_read_by(name, outputs)
    scores, every = some_settings(name, z, y)
    for policy in every:
        found = decide(policy, scores)
        exits = replay(policy, z)
        assert found.exits.tolist() == exits.tolist(), policy
        if np.isfinite(z).all() and name != VALUES:
            told = np.asarray(answered(policy, torch.as_tensor(z.astype(scores.confidence.dtype)), exits))
            assert found.gain.tolist() == (told.argmax(axis=-1) == y).tolist(), policy


@QUICK
@given(EVERY, stored_outputs())
def test_every_policy_really_skips_where_its_replay_stops(name, outputs):
    z, y = as_read_by(name, outputs)
    _, every = some_settings(name, z, y, 4)
    said = torch.as_tensor(z)
    for policy in every:
        found = infer(speaking(said), torch.arange(len(y)), policy)
        assert found.exits.tolist() == replay(policy, said).tolist(), policy


@QUICK
@given(EVERY, stored_outputs(), st.randoms(use_true_random=False))
def test_the_order_of_samples_changes_nothing(name, outputs, chance):
    z, y = as_read_by(name, outputs)
    scores, every = some_settings(name, z, y)
    order = list(range(len(y)))
    chance.shuffle(order)
    if every:
        other = Scores(stored(z[:, order], y[order]))
        for policy in every:
            assert decide(policy, other).exits.tolist() == decide(policy, scores).exits[order].tolist()


@QUICK
@given(st.sampled_from([name for name, rule in rules.RULES.items() if rule.single]), stored_outputs())
def test_a_stricter_threshold_stops_nobody_sooner(name, outputs):
    """But for the two rules that the threshold alone does not order."""
    z, y = outputs
    scores, every = some_settings(name, z, y, 9)
    if every and name not in ("sole-class", "budgeted"):
        exits = [decide(policy, scores).exits for policy in every]
        assert all((after >= before).all() for before, after in itertools.pairwise(exits)), name


@pytest.mark.parametrize("name", list(rules.RULES))
def test_ends_are_the_first_exit_and_the_full_model_and_no_setting_is_lost(name):
    z, y = made(4, 80, 2) if name == "class-thresholds" else made(4, 80)
    z, y = (z[..., 0], y * 1.0) if name == VALUES else (z, y)
    scores = Scores(Logits(z, y, axes="en" if z.ndim == 2 else "enc"))
    rule = rules.RULES[name]
    every = rule.settings(scores, np.arange(0, 80, 2), 50)
    assert 3 < len(every) <= 50
    assert (decide(every[0], scores).exits == 0).all() or name == "sole-class"  # no other class may be likely
    assert (decide(every[-1], scores).exits == 3).all() or name == "voting"  # unanimity is one vote short
    for policy in every:
        assert type(policy).__name__ == rule.policy
        assert policy_of(rule.policy, settings_of(policy)) == policy


def test_settings_follow_from_the_choosing_half_alone():
    z, y = made(4, 100, 4)
    rows = np.arange(50)
    other = z.copy()
    other[:, 50:] = np.random.default_rng(5).normal(size=other[:, 50:].shape)
    for rule in rules.suited(Logits(z, y)):
        ours, theirs = (rule.settings(Scores(Logits(part, y)), rows, 12) for part in (z, other))
        assert ours == theirs, rule.name


def test_temperatures_are_those_of_the_policy():
    z, y = digits()
    scores = Scores(Logits(z, y))
    found = rules.temperatures(scores, np.arange(600))
    for e, heat in enumerate(found):
        assert heat == pytest.approx(fit_temperature(z[e, :600], y[:600]), rel=2e-3)


def test_a_policy_that_is_not_known_is_asked_exit_by_exit():
    z, y = made(4, 50, 3)
    scores = Scores(Logits(z, y, extra={"gate": z[..., 0]}))
    for policy in (
        FlexiblePatience(0.3, 1, "js"),
        PredictedClass([[0.2, 0.5, 0.4]] * 3),
        ClassExclusion((0.1, 0.2, 0.3)),
    ):
        found = decide(policy, scores) if not isinstance(policy, ClassExclusion) else None
        if found is not None:
            assert found.exits.tolist() == replay(policy, z).tolist()
    assert PredictedClass in STOPS
    with pytest.raises(ValueError, match="one beta for all exits"):
        decide(ClassExclusion((0.1, 0.2, 0.3)), scores)
    with pytest.raises(ValueError, match="names the exit to ask next"):
        decide(SoleExit(1), scores)


def test_extra_columns_make_rules_of_their_own():
    z, y = made(4, 80, 3)
    rng = np.random.default_rng(0)
    extra = {"trust": z.max(axis=-1), "gate": rng.normal(size=(4, 80, 2)), "state": rng.normal(size=(4, 80, 6))}
    data = Logits(z, y, extra=extra)
    names = [rule.name for rule in rules.of_extra(data)]
    assert names == ["score:trust", "gate", "state-similarity"]
    scores = Scores(data)
    activation = rules.RULES["activation"].settings(scores, np.arange(80), 10)
    trust = rules.suited(data, ["score:trust"])[0].settings(scores, np.arange(80), 10)
    for ours, theirs in zip(activation, trust, strict=True):
        assert (decide(ours, scores).exits == decide(theirs, scores).exits).all()
    for rule in rules.of_extra(data)[1:]:
        exits = [decide(policy, scores).exits for policy in rule.settings(scores, np.arange(80), 8)]
        assert (exits[0] == 0).all()
        assert (exits[-1] == 3).all()
    with pytest.raises(ValueError, match="`nobody` is not known; choose among max-confidence"):
        rules.suited(data, ["nobody"])
    with pytest.raises(ValueError, match="does not suit"):
        rules.suited(data, ["class-thresholds"])


# Side by side


@pytest.fixture(scope="module")
def compared():
    z, y = digits()
    costs = np.array([6.0, 12, 20, 36, 64])
    return compare(Logits(z, y, costs, unit="pixels"), settings=20)


def test_nothing_lies_above_the_oracle_and_chance_lies_below_what_looks(compared):
    best = dict(compared.oracle)
    for line in compared.lines:
        if line.name in ("mean-so-far", "voting", "surest", "class-exclusion"):
            continue  # they make answers of several exits, of which the oracle takes one
        for point in line.points:
            reachable = max(quality for share, quality in best.items() if share <= point.share + 0.02)
            assert point.quality <= reachable + 0.02, line.name
    area = {line.name: line.area for line in compared.lines}
    assert area["max-confidence"] > area["static"] + 0.02
    assert max(quality for _, quality in compared.random) <= max(quality for _, quality in compared.static) + 1e-9


def test_curves_are_told_on_the_half_on_which_nothing_was_chosen(compared):
    z, y = digits()
    parts = halves(Logits(z, y))
    assert not set(parts.choosing) & set(parts.telling)
    assert len(parts.choosing) + len(parts.telling) == len(y)
    (line,) = (line for line in compared.lines if line.name == "max-confidence")
    policy = policy_of(line.policy, line.points[7].settings)
    exits = replay(policy, z)
    right = z[exits, np.arange(len(y))].argmax(axis=-1) == y
    assert line.points[7].quality == pytest.approx(right[parts.telling].mean())
    assert line.points[7].chosen_quality == pytest.approx(right[parts.choosing].mean())
    assert line.points[7].share == pytest.approx(np.array([6, 12, 20, 36, 64])[exits][parts.telling].mean() / 64)


def test_struck_out_is_whose_equal_stands_beside_it_everywhere(compared):
    by_name = {line.name: line for line in compared.lines}
    struck = [line for line in compared.lines if line.dominated_by]
    assert struck
    for line in struck:
        rival = by_name[line.dominated_by]
        assert not rival.dominated_by
        assert rival.area >= line.area
        for share, reached in line.at.items():
            if reached is not None:
                assert rival.at[share].quality >= reached.quality - 0.01
    assert not compared.best[0].dominated_by


def test_mixtures_are_those_of_the_tracks():
    from eelit.methods.engine.operating_points import at
    from eelit.methods.engine.records import OperatingPoint
    from eelit.methods.own.curves import within

    rng = np.random.default_rng(0)
    for _ in range(30):
        cost, held, test = rng.uniform(0.1, 1.2, 7), rng.random(7), rng.random(7)
        points = [
            [
                OperatingPoint(knob=0, quality=q, cost=c, speed_up=1 / c, exits=[1.0])
                for q, c in zip(part, cost, strict=True)
            ]
            for part in (held, test)
        ]
        for share in (0.05, 0.3, 0.6, 1.0):
            wanted, found = at(*points, share), within((cost, held), (cost, test), share, mix=True)
            assert (found is None) == (wanted is None)
            if wanted is not None:
                assert found == pytest.approx((wanted.share, wanted.quality))


def test_groups_are_never_divided_and_few_samples_are_refused():
    z, y = made(3, 200, 4)
    groups = np.repeat(np.arange(25), 8)
    data = Logits(z, y, groups=groups)
    parts = halves(data, 3)
    assert not set(groups[parts.choosing]) & set(groups[parts.telling])
    assert (halves(data, 3).choosing == parts.choosing).all()
    assert (halves(data, 4).choosing != parts.choosing).any()
    with pytest.raises(WrongLogits, match="12 groups of samples, and at least 20"):
        halves(Logits(z[:, :96], y[:96], groups=groups[:96]))


def test_heads_that_are_never_asked_are_not_paid():
    from eelit.methods.own.curves import Setting, costs_under

    z, y = made(4, 30, 3)
    heads, trunk = np.array([0.5, 0.25, 0.125, 0.0625]), np.array([1.0, 2, 3, 4])
    data = Logits(z, y, trunk + np.cumsum(heads), plain_costs=trunk + heads, axes="enc")
    scores = Scores(data)
    policy = rules.RULES["max-confidence"].settings(scores, np.arange(30), 9)[4]
    for enabled in ((0, 1, 2, 3), (1, 3), (0, 3), (3,)):
        done = decide(policy, scores, enabled)
        assert set(done.exits) <= set(enabled)
        spent = costs_under(data, Setting("x", policy, done, enabled))
        by_hand = [trunk[e] + sum(heads[i] for i in enabled if i <= e) for e in done.exits]
        assert spent == pytest.approx(by_hand)
    some = list(tried(rules.RULES["max-confidence"], scores, np.arange(30), 9, disable=True))
    assert any(len(setting.enabled) < 4 for setting in some)


def test_costs_per_sample_are_paid_per_sample():
    z, y = made(3, 60, 4)
    costs = np.cumsum(np.random.default_rng(0).uniform(1, 2, (3, 60)), axis=0)
    found = compare(Logits(z, y, costs), ["max-confidence"], settings=9)
    rows = halves(Logits(z, y)).telling
    for point in found.lines[0].points:
        exits = replay(policy_of("MaxConfidence", point.settings), z)
        assert point.share == pytest.approx(costs[exits, np.arange(60)][rows].mean() / costs[-1].mean())
