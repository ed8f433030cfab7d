"""What holds for every exit rule whatever it is shown: order, company, ties, precision, strictness, NaN, few of all."""

import dataclasses
import math

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from exit_rules import CASES, CLASSES, EXITS, GATES, INF, PRECISIONS, SHAPES, decisions, rules
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from speaking import speaking

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.families.split import Stored
from eelit.methods.papers.bajpai2023splitee import SplitRule
from eelit.methods.policies.activation import Activation
from eelit.methods.policies.bandit import Ucb1
from eelit.methods.policies.base import Routing
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.conformal import conformal_threshold, independent_thresholds, kept, shared_threshold
from eelit.methods.policies.continuation import ContinuationThreshold
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.dont_know import DontKnow
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.policies.exit_probability import ExitProbability
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar, SoleExit
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.learn_then_test import hoeffding, hoeffding_bentkus, learn_then_test
from eelit.methods.policies.likeliest_depth import LikeliestDepth
from eelit.methods.policies.margin import Margin
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.predicted_class import PredictedClass
from eelit.methods.policies.priced_gain import PricedGain
from eelit.methods.policies.raw_margin import RawMargin
from eelit.methods.policies.score_proximity import ScoreProximity
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.policies.state_similarity import StateSimilarity
from eelit.methods.policies.surest import Surest
from eelit.methods.policies.target_classes import TargetClasses
from eelit.methods.policies.temperature import Tempered, expected_error, fit_temperature
from eelit.methods.policies.token_gate import TokenGate
from eelit.methods.policies.voting import Voting
from eelit.methods.policies.window_uncertainty import SentenceUncertainty, Together, WindowUncertainty

pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")
FEW = settings(
    max_examples=8, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
SOME = settings(FEW, max_examples=40)
EVERY = pytest.mark.parametrize("case", CASES, ids=str)
SEVERAL = st.integers(1, 5)
PLAIN = st.integers(-3, 3).map(float) | st.floats(-8, 8, width=16)
"""Numbers that every precision holds, with many that are equal."""


@st.composite
def shown(draw, reads, exits=None, samples=SEVERAL):
    """Outputs ``[E, N, ...]`` of few exits and samples."""
    shape = (exits or draw(st.integers(1, EXITS)), draw(samples), *SHAPES[reads])
    return draw(arrays.arrays(np.float64, shape, elements=PLAIN, fill=PLAIN))


def either(case):
    return st.sampled_from([case.eager, case.middle])


def stops(rule, outputs):
    """Return the first exit that would stop each sample, or word; the number of exits where none does."""
    found = decisions(rule, outputs)
    return np.where(found.any(axis=0), found.argmax(axis=0), len(found))


def in_order(rule):
    """Whether it says that the order of the candidates of a query matters."""
    return isinstance(rule, DocumentThreshold) and rule.rule == "capacity"


@EVERY
@FEW
@given(st.data())
def test_the_order_of_samples_changes_nothing(case, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads))
    order = data.draw(st.permutations(range(outputs.shape[1])))
    if not in_order(rule):
        assert (decisions(rule, outputs[:, order]) == decisions(rule, outputs)[:, order]).all()


@EVERY
@FEW
@given(st.data())
def test_one_sample_is_decided_upon_as_among_others(case, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads))
    if case.alone:
        alone = [decisions(rule, outputs[:, i : i + 1]) for i in range(outputs.shape[1])]
        assert (np.concatenate(alone, axis=1) == decisions(rule, outputs)).all()


@EVERY
@FEW
@given(st.data())
def test_samples_that_are_equal_have_equal_fates(case, data):
    rule, one = data.draw(either(case)), data.draw(shown(case.reads, samples=st.just(1)))
    found = decisions(rule, np.repeat(one, 4, axis=1))
    assert (found == found[:, :1]).all()


@EVERY
@pytest.mark.parametrize("number", [0.0, 2.5])
def test_where_all_that_is_said_is_equal_everybody_stops_or_nobody(case, number):
    """No class is likelier, no exit says anything new: what is left is how a rule treats ties."""
    outputs = np.full((EXITS, 3, *SHAPES[case.reads]), number)
    for rule in (case.eager, case.middle):
        found = decisions(rule, outputs)
        assert (found == found[:, :1]).all()
        for name in ("numpy-float16", "torch-bfloat16", "torch-float32"):
            assert (decisions(rule, PRECISIONS[name](outputs)) == found).all(), name


@EVERY
def test_no_sample_is_no_trouble(case):
    for name in ("numpy-float32", "torch-float32"):
        outputs = PRECISIONS[name](case.outputs()[:, :0])
        for rule in (case.eager, case.middle):
            assert decisions(rule, outputs).shape == tuple(outputs.shape[: 3 if case.reads == "words" else 2])


@EVERY
@FEW
@given(st.data())
def test_a_rule_remembers_nothing_but_its_state_and_changes_nothing_that_it_is_shown(case, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads))
    before, state = outputs.copy(), rule.start()
    for output in outputs:
        held = [np.array(part) for part in state]
        after, stop = rule.step(state, output)
        again, same = rule.step(state, output)
        assert (stop == same).all()
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(after, again, strict=True))
        assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(held, state, strict=True))
        state = after
    assert np.array_equal(outputs, before)


@EVERY
@pytest.mark.parametrize("precision", ["numpy-float16", "torch-float16", "torch-bfloat16"])
@settings(FEW, max_examples=4)
@given(st.data())
def test_half_precision_decides_as_the_same_numbers_do(case, precision, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads))
    half = PRECISIONS[precision](outputs)
    single = half.astype(np.float32) if isinstance(half, np.ndarray) else half.float()
    assert (decisions(rule, half) == decisions(rule, single)).all()


@EVERY
@FEW
@given(st.data())
def test_what_is_not_finite_stops_nobody_and_concerns_nobody_else(case, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads))
    where = data.draw(arrays.arrays(bool, outputs.shape[: 3 if case.reads == "words" else 2]))
    bad = data.draw(st.sampled_from([math.nan, INF]))
    broken = outputs.copy()
    broken.reshape(*where.shape, -1)[where, -1] = bad
    found = decisions(rule, broken)
    assert not found[where].any()
    if case.alone and case.reads != "words":
        fine = ~where.any(axis=0)
        assert (found[:, fine] == decisions(rule, outputs)[:, fine]).all()


@pytest.mark.parametrize("case", [case for case in CASES if case.reads != "words"], ids=str)
@FEW
@given(st.data())
def test_one_exit_answers_whatever_the_rule_is(case, data):
    rule, outputs = data.draw(either(case)), data.draw(shown(case.reads, exits=1))
    assert replay(rule, outputs).tolist() == [0] * outputs.shape[1]
    numbers = torch.arange(outputs.shape[1])
    assert infer(speaking(torch.as_tensor(outputs)), numbers, rule).exits.tolist() == [0] * outputs.shape[1]


@pytest.mark.parametrize("case", [case for case in CASES if case.reads in ("logits", "pair", "words")], ids=str)
@pytest.mark.parametrize("name", ["numpy-float32", "torch-float16"])
def test_one_class_is_no_choice(case, name):
    """Rules that read a distribution refuse one of a single class; those that read none do not look."""
    outputs = PRECISIONS[name](case.outputs()[..., :1])
    if type(case.eager) in (FixedExit, SoleExit):
        assert decisions(case.eager, outputs).all()
    else:
        with pytest.raises(ValueError, match="the policy reads"):
            case.eager.step(case.eager.start(), outputs[0])


def exits_for(rule):
    """How many exits a rule that names the next one needs: one behind those that it has settings for."""
    return EXITS + 1 if isinstance(rule, Routing) else None


@pytest.mark.parametrize("case", [case for case in CASES if case.alone and case.reads != "words"], ids=str)
@FEW
@given(st.data())
def test_what_is_really_skipped_is_what_replay_says(case, data):
    rule = data.draw(either(case))
    said = torch.as_tensor(data.draw(shown(case.reads, exits_for(rule))))
    if data.draw(st.booleans()):
        said = said.half()
    found = infer(speaking(said), torch.arange(said.shape[1]), rule)
    assert found.exits.tolist() == replay(rule, said).tolist()


# Strictness


ORDERED = {
    "MaxConfidence": ("logits", lambda s: MaxConfidence(1.1 * s)),
    "MaxConfidence of words": ("words", lambda s: MaxConfidence((1.1 * s, 0.7, 1.1 * s, 0.5))),
    "Entropy": ("logits", lambda s: Entropy(2 * (1 - s))),
    "Margin": ("logits", lambda s: Margin(1.1 * s)),
    "RawMargin": ("logits", lambda s: RawMargin(6 * s)),
    "Activation": ("logits", lambda s: Activation(8 * s - 4)),
    "Surest": ("logits", lambda s: Surest(1.1 * s)),
    "DontKnow": ("logits", lambda s: DontKnow(GATES, 1 - s)),
    "Patience": ("logits", lambda s: Patience(round(4 * s))),
    "Patience of values": ("values", lambda s: Patience(2, tolerance=4 * (1 - s))),
    "FlexiblePatience": ("logits", lambda s: FlexiblePatience(0.5, round(3 * s))),
    "FlexiblePatience by distance": ("logits", lambda s: FlexiblePatience(2 * (1 - s), 1, "js")),
    "PatientConfidence": ("logits", lambda s: PatientConfidence(1.2 * (1 - s), 2)),
    "PatientConfidence by patience": ("logits", lambda s: PatientConfidence(0.8, 1 + round(3 * s))),
    "Voting": ("logits", lambda s: Voting(1 + 4 * s)),
    "ClassExclusion": ("logits", lambda s: ClassExclusion((1 - s,) * EXITS)),
    "ClassThresholds": ("pair", lambda s: ClassThresholds(s, 1.1 * s)),
    "PredictedClass": ("logits", lambda s: PredictedClass([[2.1 * s - 1] * CLASSES] * EXITS)),
    "TargetClasses": ("logits", lambda s: TargetClasses((1, 3), [[1.1 * s, s]] * EXITS)),
    "Tempered": ("logits", lambda s: Tempered(2.0, MaxConfidence(1.1 * s))),
    "LikeliestDepth": ("logits", LikeliestDepth),
    "ScoreThreshold": ("values", lambda s: ScoreThreshold(8 * s - 4)),
    "ExitProbability": ("values", lambda s: ExitProbability(1.1 * s)),
    "ContinuationThreshold": ("values", lambda s: ContinuationThreshold(1 - s)),
    "GateConfidence": ("pair", lambda s: GateConfidence(1.1 * s)),
    "StateSimilarity": ("state", lambda s: StateSimilarity(2.1 * s - 1)),
    "TokenGate": ("pair", lambda s: TokenGate(4 - 8 * s)),
    "ScoreProximity": ("values", lambda s: ScoreProximity(8 * s - 4, 2)),
    **{
        f"DocumentThreshold by {rule}": ("values", lambda s, rule=rule: DocumentThreshold(rule, 8 * s - 3, 2))
        for rule in ("score", "capacity", "rank", "proximity")
    },
    "FixedExit": ("logits", lambda s: FixedExit(round(4 * s))),
    "SoleExit": ("logits", lambda s: SoleExit(round(4 * s))),
    "MeanSoFar": ("logits", lambda s: MeanSoFar(round(4 * s))),
    "WindowUncertainty": ("words", lambda s: WindowUncertainty(1.2 * (1 - s), 3)),
    "SentenceUncertainty": ("words", lambda s: SentenceUncertainty(1.2 * (1 - s))),
    "Together": ("words", lambda s: Together(MaxConfidence(1.1 * s))),
}
"""Name → what a rule reads, and from how strict it shall be, 0 to 1, to the rule."""
NOT_ORDERED = {
    "SoleClass": "several classes may reach a low threshold",
    "LinearChoice": "it has weights, and no threshold",
    "Forecast": "thresholds also say which exit is asked next",
    "PricedGain": "the gain may fall with the price, as each exit has it",
}


def test_every_rule_is_ordered_by_its_setting_or_has_its_reason():
    names = {name.split()[0] for name in ORDERED}
    assert names | set(NOT_ORDERED) == rules()
    assert not names & set(NOT_ORDERED)


@pytest.mark.parametrize("name", ORDERED)
@settings(FEW, max_examples=20)
@given(st.data())
def test_a_stricter_rule_stops_nobody_sooner(name, data):
    reads, make = ORDERED[name]
    outputs = data.draw(shown(reads, exits_for(make(1.0))))
    lax, strict = sorted(data.draw(st.tuples(*[st.integers(0, 8)] * 2)))
    found = [
        replay(rule, outputs) if isinstance(rule, Routing) else stops(rule, outputs)
        for rule in (make(lax / 8), make(strict / 8))
    ]
    assert (found[1] >= found[0]).all(), (lax, strict)


@pytest.mark.parametrize(
    ("reads", "make"),
    [("logits", SoleClass), ("pair", lambda price: PricedGain(price, (1.0, 0.0)))],
    ids=["SoleClass", "PricedGain"],
)
def test_what_is_not_ordered_is_not(reads, make):
    """So that a rule is not in this list out of caution."""
    outputs = np.random.default_rng(0).normal(scale=2, size=(EXITS, 200, *SHAPES[reads]))
    steps = np.diff([stops(make(t), outputs) for t in (-2.0, 0.1, 0.5, 0.9, 3.0)], axis=0)
    assert (steps > 0).any()
    assert (steps < 0).any()


# What is fitted


SCORES = arrays.arrays(
    np.float64, st.integers(1, 12), elements=st.integers(0, 4).map(lambda k: k / 4) | st.floats(0, 1, width=16)
)
SHARE = st.integers(0, 16).map(lambda k: k / 16)


@SOME
@given(SCORES, SHARE, SHARE, st.randoms(use_true_random=False), st.booleans())
def test_a_conformal_threshold_is_passed_by_no_more_than_tolerated(scores, a, b, chance, broken):
    low, high = sorted((a, b))
    if broken:
        scores[0] = math.nan
    shuffled = scores.copy()
    chance.shuffle(shuffled)
    threshold = conformal_threshold(scores, high)
    assert conformal_threshold(shuffled, high) == threshold
    assert conformal_threshold(scores, low) >= threshold
    assert (scores > threshold).sum() + (threshold < INF) <= (len(scores) + 1) * high + 1e-6


@SOME
@given(st.integers(1, 3), st.integers(1, 10), SHARE, st.data())
def test_conformal_thresholds_keep_the_promise_on_their_own_samples(exits, n, tolerance, data):
    scores = data.draw(arrays.arrays(np.float64, (exits, n), elements=PLAIN))
    consistent = data.draw(arrays.arrays(bool, (exits, n)))
    shared = shared_threshold(scores, consistent, tolerance)
    each = independent_thresholds(scores, consistent, tolerance)
    misled = int((~consistent).any(axis=0).sum())
    wrong = n - round(kept(scores, consistent, shared)[0] * n)
    assert wrong <= (misled + 1) * tolerance + 1e-6
    assert len(each) == exits
    if tolerance < 1:
        strict = independent_thresholds(scores, consistent, tolerance / 2)
        assert all(s >= t for s, t in zip(strict, each, strict=True))
        order = data.draw(st.permutations(range(n)))
        assert independent_thresholds(scores[:, order], consistent[:, order], tolerance) == each


@SOME
@given(st.integers(1, 4), st.integers(1, 10), SHARE, SHARE, st.data())
def test_percentiles_let_no_more_leave_than_asked(exits, n, a, b, data):
    low, high = sorted((a, b))
    entropies = list(data.draw(arrays.arrays(np.float64, (exits, n), elements=st.floats(0, 2, width=16))))
    entropies[0][0] = data.draw(st.sampled_from([0.5, math.nan]))
    found = percentile_thresholds(entropies, high)
    for h, threshold in zip(entropies, found, strict=True):
        assert (h < threshold).sum() <= high * n + 1e-6
    assert all(x <= y for x, y in zip(percentile_thresholds(entropies, low), found, strict=True))
    order = data.draw(st.permutations(range(n)))
    assert percentile_thresholds([h[order] for h in entropies], high) == found


@SOME
@given(st.integers(1, 5), st.integers(1, 10), st.integers(-3, 3), st.data())
def test_shares_are_shares_and_thresholds_let_at_least_so_many_leave(exits, n, power, data):
    ratio = data.draw(st.sampled_from([0.0, math.exp(power / 2), INF]))
    shares = exit_shares(ratio, exits)
    assert shares.sum() == pytest.approx(1)
    depth = shares @ np.arange(exits)
    assert exit_shares(min(2 * ratio, INF), exits) @ np.arange(exits) >= depth - 1e-9
    confidence = data.draw(arrays.arrays(np.float64, (exits, n), elements=st.floats(0, 1, width=16)))
    confidence[0, 0] = data.draw(st.sampled_from([0.5, math.nan]))
    thresholds, inside = thresholds_for(confidence, shares), np.ones(n, dtype=bool)
    assert len(thresholds) == exits - 1
    for sure, share, threshold in zip(confidence[:-1], shares, thresholds, strict=False):
        leaving, least = inside & (sure >= threshold), math.floor(n * share + 1e-9)
        assert leaving.sum() >= least or threshold == INF
        assert (sure[leaving] > threshold).sum() < max(1, least)  # the others are equal
        inside &= ~leaving
    order = data.draw(st.permutations(range(n)))
    assert thresholds_for(confidence[:, order], shares) == thresholds


@SOME
@given(st.lists(st.floats(0.1, 5), min_size=1, max_size=5), st.floats(0, 12))
def test_a_ratio_keeps_within_the_budget_and_uses_it(steps, budget):
    costs = np.cumsum(steps)
    ratio = ratio_within(budget, costs)
    spent = float(exit_shares(ratio, len(costs)) @ costs)
    if costs[0] <= budget < costs[-1]:
        assert spent == pytest.approx(budget, rel=1e-6)
    else:
        assert spent == pytest.approx(costs[0] if budget < costs[0] else costs[-1])


@SOME
@given(st.integers(1, 4), st.integers(1, 30), SHARE, SHARE, st.sampled_from([hoeffding, hoeffding_bentkus]), st.data())
def test_more_tolerance_or_error_never_proves_less_safe(candidates, n, a, b, p_value, data):
    losses = data.draw(
        arrays.arrays(np.float64, (candidates, n), elements=st.integers(0, 8).map(lambda k: k / 64), fill=st.just(0.0))
    )
    low, high = sorted((a * 0.9 + 0.05, b * 0.9 + 0.05))

    def proved(tolerance, error, given=losses):
        found = learn_then_test(given, tolerance, error, p_value)
        return -1 if found is None else found

    assert proved(low, 0.1) <= proved(high, 0.1)
    assert proved(high, low) <= proved(high, high)
    order = data.draw(st.permutations(range(n)))
    assert proved(high, 0.1, losses[:, order]) == proved(high, 0.1)
    broken = losses.copy()
    at = data.draw(st.integers(0, candidates - 1))
    broken[at, 0] = math.nan
    assert proved(high, 0.1, broken) == min(proved(high, 0.1), at - 1)


@SOME
@given(st.integers(2, 12), st.integers(2, 4), st.data())
def test_a_temperature_goes_with_the_scale_and_not_with_the_order(n, classes, data):
    z = data.draw(arrays.arrays(np.float64, (n, classes), elements=st.integers(-6, 6).map(lambda k: k / 2)))
    y = data.draw(arrays.arrays(np.int64, n, elements=st.integers(0, classes - 1)))
    found = fit_temperature(z, y)
    assert 0.01 <= found <= 100
    order = data.draw(st.permutations(range(n)))
    assert fit_temperature(z[order], y[order]) == pytest.approx(found, rel=1e-6)
    if 0.03 < found < 30:
        assert fit_temperature(2 * z, y) == pytest.approx(2 * found, rel=1e-6)
    more = np.concatenate([z, np.full((1, classes), math.nan)])
    assert fit_temperature(more, np.append(y, 0)) == found


@SOME
@given(SCORES, st.data())
def test_a_calibration_error_is_a_share(sure, data):
    right = data.draw(arrays.arrays(bool, len(sure)))
    found = expected_error(sure, right)
    assert 0 <= found <= 1
    assert expected_error(sure[::-1], right[::-1]) == pytest.approx(found)
    assert expected_error(np.append(sure, math.nan), np.append(right, False)) == pytest.approx(found)
    assert expected_error(right.astype(float), right) == 0


@SOME
@given(st.integers(1, 4), st.lists(st.floats(-1, 1) | st.just(math.nan), max_size=12))
def test_a_bandit_tries_every_arm_first_and_keeps_its_books(arms, rewards):
    bandit = Ucb1(arms)
    tally, played = bandit.start(), []
    for reward in rewards:
        before = dataclasses.replace(tally, counts=tally.counts.copy(), means=tally.means.copy())
        played.append(bandit.choose(tally))
        after = bandit.update(tally, {played[-1]: reward})
        assert (tally.counts == before.counts).all()
        assert (tally.means == before.means).all()
        tally = after
    assert played[:arms] == list(range(min(arms, len(rewards))))
    assert tally.rounds == len(rewards)
    assert (tally.counts + tally.untold == np.bincount(played, minlength=arms)).all()
    for arm in range(arms):
        own = [r for a, r in zip(played, rewards, strict=True) if a == arm and not math.isnan(r)]
        assert tally.means[arm] == pytest.approx(np.mean(own) if own else 0)


@SOME
@given(st.integers(1, 12), st.integers(0, 12), st.sampled_from(["none", "observed", "released"]), st.data())
def test_a_stream_that_is_interrupted_goes_on_as_if_it_had_not_been(n, cut, side, data):
    confidences = data.draw(arrays.arrays(np.float64, (4, n), elements=SHARE | st.just(math.nan), fill=st.just(0.5)))
    rule, cut = SplitRule((0, 1, 3), 0.7, 0.1, 0.2, side), min(cut, n)
    whole, first = rule.drive(Stored(confidences), n), rule.drive(Stored(confidences), cut)
    rest = rule.drive(Stored(confidences[:, cut:]), n - cut, first.tally)
    for name in ("cuts", "offloaded", "not_finite"):
        assert np.concatenate([getattr(first, name), getattr(rest, name)]).tolist() == getattr(whole, name).tolist()
    assert (rest.tally.counts == whole.tally.counts).all()
    assert not whole.offloaded[whole.cuts == 3].any()
    deeper = np.minimum(whole.cuts + 1, 3)
    assert (rule.costs(deeper, whole.offloaded) >= rule.costs(whole.cuts, whole.offloaded)).all()
