"""Policies on numpy and torch: the worked cases, purity, and no torch behind numpy's back."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from exit_rules import CASES, EXITS

from eelit.methods.engine.costs import decision_costs
from eelit.methods.engine.evaluate import followed, replay
from eelit.methods.policies.bandit import Ucb1
from eelit.methods.policies.base import entropy, softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within
from eelit.methods.policies.class_exclusion import ClassExclusion
from eelit.methods.policies.class_thresholds import ClassThresholds
from eelit.methods.policies.conformal import conformal_threshold, independent_thresholds, naive_threshold
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.policies.fixed_exit import FixedExit, MeanSoFar, SoleExit
from eelit.methods.policies.flexible_patience import FlexiblePatience
from eelit.methods.policies.forecast import Forecast
from eelit.methods.policies.learn_then_test import learn_then_test
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.score_proximity import ScoreProximity
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.sole_class import SoleClass
from eelit.methods.policies.temperature import Tempered, calibration_error, expected_error, fit_temperature, mean_nll
from eelit.methods.policies.voting import Voting
from eelit.methods.policies.window_uncertainty import Together, WindowUncertainty

LIBRARIES = {"numpy": np.asarray, "torch": torch.as_tensor}


@pytest.fixture(params=LIBRARIES)
def array(request):
    return LIBRARIES[request.param]


@pytest.fixture
def logits():
    return np.random.default_rng(0).normal(scale=3, size=(6, 50, 4))


def labels_to_logits(*labels):
    """One sample whose exits predict these labels."""
    return np.eye(3)[list(labels)][:, None, :] * 5


POLICIES = [
    MaxConfidence(0.9),
    MaxConfidence((0.9, 0.8, 0.7, 0.6, 0.5)),
    Entropy(0.4),
    Entropy((0.1,) * 5),
    Patience(2),
    Patience(1, tolerance=1.0),
    ScoreThreshold(0.5),
    ScoreThreshold((0.5, 0.4, 0.3, 0.2, 0.1)),
    ClassThresholds(0.9, 0.6),
    SoleClass(0.5),
    SoleClass((0.9, 0.8, 0.7, 0.6, 0.5)),
]


def told(policy, logits, convert=lambda values: values):
    """Return logits, or one value per sample, or what exits say that give a score beside them."""
    if getattr(policy, "tolerance", None) is not None:
        return convert(logits[..., 0])
    if isinstance(policy, ClassThresholds):
        return convert(logits[..., :2])
    if not isinstance(policy, ScoreThreshold):
        return convert(logits)
    return {"answer": convert(logits), "score": convert(1 / (1 + np.exp(-logits[..., 0])))}


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_numpy_and_torch_agree(policy, logits):
    assert (replay(policy, told(policy, logits)) == replay(policy, told(policy, logits, torch.as_tensor))).all()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_policy_is_pure(policy, logits, array):
    outputs = [told(policy, exit_logits, array) for exit_logits in logits]
    state, first = policy.step(policy.start(), outputs[0])
    before = [np.asarray(part).copy() for part in state]
    _, one = policy.step(state, outputs[1])
    _, again = policy.step(state, outputs[1])
    assert (np.asarray(one) == np.asarray(again)).all()
    assert all((np.asarray(part) == old).all() for part, old in zip(state, before, strict=True))
    _, afresh = policy.step(policy.start(), outputs[0])
    assert (np.asarray(first) == np.asarray(afresh)).all()


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_batch_mates_do_not_matter(policy, logits, array):
    together = replay(policy, told(policy, logits, array))
    alone = [replay(policy, told(policy, logits[:, i : i + 1], array))[0] for i in range(logits.shape[1])]
    assert together.tolist() == alone


def test_confidence_is_greater_or_equal(array):
    output = array(np.log([[0.75, 0.25]]))
    assert bool(MaxConfidence(0.75 - 1e-12).step((), output)[1][0])
    assert not bool(MaxConfidence(0.75 + 1e-12).step((), output)[1][0])
    assert bool(MaxConfidence(0.0).step((), output)[1][0])


def test_entropy_is_strictly_less(array):
    output = array(np.zeros((1, 2)))
    assert not bool(Entropy(0.0).step((), array(np.array([[1000.0, -1000.0]])))[1][0])
    assert bool(Entropy(float(np.log(2)) + 1e-9).step((), output)[1][0])
    assert not bool(Entropy(float(np.log(2)) - 1e-9).step((), output)[1][0])


def test_entropy_worked_cases(array):
    assert float(entropy(array(np.zeros((1, 2))))[0]) == pytest.approx(np.log(2))
    assert float(entropy(array(np.array([[1000.0, -1000.0]])))[0]) == 0.0
    assert np.asarray(softmax(array(np.array([[0.0, np.log(3)]]))))[0].tolist() == pytest.approx([0.25, 0.75])


def test_threshold_per_exit():
    same = np.tile(np.log([[0.8, 0.2]]), (3, 1, 1))
    assert replay(MaxConfidence((0.9, 0.7)), same).tolist() == [1]
    assert replay(MaxConfidence((0.9, 0.9)), same).tolist() == [2]


@pytest.mark.parametrize(
    ("labels", "patience", "stops"),
    [
        ((0, 1, 1, 1), 2, 3), ((0, 0, 1, 1, 1), 2, 4), ((0, 0, 1, 1, 1), 1, 1), ((0, 1, 0, 1), 1, 3), ((2, 2, 2), 0, 0),
        ((1, 2, 2, 2), 1, 2),
    ],
)  # fmt: skip
def test_patience_counts_consecutive_agreements(labels, patience, stops, array):
    assert replay(Patience(patience), array(labels_to_logits(*labels))).tolist() == [stops]


def values(*said):
    """One sample whose exits say these values."""
    return np.array(said)[:, None]


@pytest.mark.parametrize(
    ("said", "patience", "stops"),
    [
        ((0.0, 0.5, 0.55, 0.58, 0.9), 2, 3), ((0.0, 0.5, 0.55, 0.9, 0.95, 0.9, 0.3), 2, 5), ((0.9, 0.1), 0, 0),
        ((0.3, -0.3, -0.31, 0.9), 1, 2), ((0.5, 0.01, 0.9, 0.85, 0.0), 1, 3),
    ],
)  # fmt: skip
def test_patience_counts_values_closer_than_the_tolerance(said, patience, stops, array):
    """What counts is the distance from the value before, up or down: not how large either is, nor their sum."""
    assert replay(Patience(patience, tolerance=0.1), array(values(*said))).tolist() == [stops]


def test_tolerance_is_strict(array):
    steps = array(values(0.0, 0.25, 0.5, 0.75))
    assert replay(Patience(1, tolerance=0.25), steps).tolist() == [3]
    assert replay(Patience(1, tolerance=0.25 + 1e-12), steps).tolist() == [1]
    assert replay(Patience(1, tolerance=0.0), array(values(0.3, 0.3, 0.3))).tolist() == [2]
    assert replay(Patience(2, tolerance=np.inf), steps).tolist() == [2]


@pytest.mark.parametrize("classes", [1, 4])
def test_a_tolerance_does_not_compare_logits(classes, array):
    with pytest.raises(ValueError, match="one value per sample"):
        Patience(1, tolerance=0.1).step((), array(np.zeros((5, classes))))


WRONG = {
    "patience": (lambda: Patience(2.5), "Patience: patience is one whole number of at least 0, not 2.5"),
    "whole as float": (lambda: Patience(2.0), "Patience: patience is one whole number"),
    "truth": (lambda: Patience(True), "Patience: patience is one whole number of at least 0, not True"),
    "below": (lambda: Patience(-1), "Patience: patience is one whole number of at least 0, not -1"),
    "endless": (lambda: Patience(math.inf), "Patience: patience is one whole number"),
    "tolerance": (lambda: Patience(1, tolerance=-0.1), "Patience: tolerance is one number of at least 0, not -0.1"),
    "no patience": (lambda: PatientConfidence(0.5, 0), "PatientConfidence: patience is one whole number of at least 1"),
    "exit": (lambda: FixedExit(0.5), "FixedExit: exit is one whole number of at least 0, not 0.5"),
    "flexible": (lambda: FlexiblePatience(0.1, 1.5), "FlexiblePatience: patience is one whole number of at least 0"),
    "distance": (
        lambda: FlexiblePatience(0.1, 1, "foo"),
        "FlexiblePatience: distance is one of 'kl', 'rekl', 'bikl', 'js', not 'foo'",
    ),
    "no name": (lambda: FlexiblePatience(0.1, 1, ["kl"]), "FlexiblePatience: distance is one of"),
    "rounds": (lambda: Forecast((1.0,), 0), "Forecast: rounds is one whole number of at least 1, not 0"),
    "broken rounds": (lambda: Forecast((1.0,), 1.5), "Forecast: rounds is one whole number of at least 1, not 1.5"),
    "k": (lambda: ScoreProximity(0.1, 2.5), "ScoreProximity: k is one whole number of at least 1, not 2.5"),
    "no k": (lambda: ScoreProximity(0.1, 0), "ScoreProximity: k is one whole number of at least 1, not 0"),
    "documents": (
        lambda: DocumentThreshold("place", 1),
        "DocumentThreshold: rule is one of 'score', 'capacity', 'rank', 'proximity', not 'place'",
    ),
    "best of none": (
        lambda: DocumentThreshold("rank", 1, 0),
        "DocumentThreshold: k is one whole number of at least 1, not 0",
    ),
    "window": (lambda: WindowUncertainty(0.5, 3.0), "WindowUncertainty: window is one whole number of at least 1"),
    "even window": (lambda: WindowUncertainty(0.5, 2), "WindowUncertainty: window is an odd number, not 2"),
    "negative window": (lambda: WindowUncertainty(0.5, -1), "WindowUncertainty: window is one whole number of at leas"),
    "temperature 0": (
        lambda: Tempered(0, MaxConfidence(0.5)),
        "Tempered: temperatures is one finite number, or one per exit, above 0, not 0",
    ),
    "cold": (lambda: Tempered((1, -1), MaxConfidence(0.5)), r"Tempered: temperatures is one .* not \(1, -1\)"),
    "hot": (lambda: Tempered(math.inf, MaxConfidence(0.5)), "Tempered: temperatures is one finite number"),
    "no policy": (lambda: Tempered(1.0, 0.5), "Tempered: policy is an exit policy, with start and step, not 0.5"),
    "words": (lambda: Together(None), "Together: words is an exit policy, with start and step, not None"),
    "assembling": (lambda: Tempered(1.0, Voting(2)), "Tempered: policy .* but Voting makes the answer from several"),
    "routing": (lambda: Together(Forecast((1.0,))), "Together: words .* but Forecast says which exit is next"),
    "power": (lambda: Voting(2, math.inf), "Voting: power is one finite number, not inf"),
    "beta": (lambda: ClassExclusion((0.5, 1.5)), "ClassExclusion: beta is one .*, of at least 0 and of at most 1, not"),
    "arms": (lambda: Ucb1(0), "Ucb1: arms is one whole number of at least 1, not 0"),
    "exploring": (lambda: Ucb1(2, math.nan), "Ucb1: beta is one finite number of at least 0, not nan"),
    "ratio": (lambda: exit_shares(-1.0, 3), "exit_shares: ratio is one number of at least 0, not -1.0"),
    "budget": (lambda: ratio_within(math.nan, [1, 2]), "ratio_within: budget is one number, not nan"),
    "conformal": (lambda: conformal_threshold(np.ones(3), 1.5), "conformal_threshold: tolerance is one number of at l"),
    "independent": (
        lambda: independent_thresholds(np.ones((1, 3)), np.ones((1, 3), dtype=bool), -1),
        "tolerance is one",
    ),
    "naive": (lambda: naive_threshold(math.nan), "naive_threshold: tolerance is one number of at least 0 and of at mo"),
    "error": (lambda: learn_then_test(np.zeros((1, 9)), 0.1, 2.0), "learn_then_test: error is one number of at least"),
    "share": (lambda: percentile_thresholds([np.ones(3)], math.nan), "percentile_thresholds: share is one number, not"),
    "bins": (lambda: expected_error(np.ones(3), np.ones(3), 0), "expected_error: bins is one whole number of at least"),
    "one class": (lambda: fit_temperature(np.zeros((4, 1)), np.zeros(4, dtype=int)), "of at least two classes"),
    "one class at each exit": (lambda: calibration_error(np.zeros((2, 4, 1)), np.zeros(4)), "of at least two classes"),
    "likelihood of one class": (lambda: mean_nll(np.zeros((4, 1)), np.zeros(4, dtype=int)), "of at least two classes"),
}


@pytest.mark.parametrize("case", WRONG)
def test_settings_with_which_a_rule_cannot_work_are_refused(case):
    make, told = WRONG[case]
    with pytest.raises(ValueError, match=told):
        make()


def test_policies_import_neither_torch_nor_transformers():
    code = (
        "import sys, numpy as np\n"
        "from eelit.methods.policies import entropy, max_confidence, patience\n"
        "max_confidence.MaxConfidence(0.5).step((), np.zeros((2, 3)))\n"
        "patience.Patience(1).step((), np.zeros((2, 3)))\n"
        "assert not {'torch', 'transformers'} & set(sys.modules), 'torch was imported'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# Fixed exits.


def test_an_exit_that_is_known_beforehand_is_asked_alone(array, logits):
    """The first exit is asked, then the fixed one; who has no finite answer there goes on to the next."""
    broken = logits.copy()
    broken[3, 7] = np.nan
    outputs = array(broken)
    exits = replay(SoleExit(3), outputs)
    assert (np.delete(exits, 7) == 3).all()
    assert exits[7] == 4
    visited = followed(SoleExit(3), outputs).visited.numpy()
    assert visited[:, 0].tolist() == [True, False, False, True, False, False]
    assert visited[:, 7].tolist() == [True, False, False, True, True, False]
    assert (replay(SoleExit(0), outputs) == 0).all()
    assert (replay(SoleExit(5), outputs) == 5).all()
    assert (replay(FixedExit(2), outputs) == replay(SoleExit(2), outputs)).all()


def test_the_mean_so_far_is_that_of_probabilities(array):
    p = np.array([[[0.7, 0.2, 0.1]], [[0.1, 0.3, 0.6]], [[0.1, 0.1, 0.8]]])
    policy, outputs = MeanSoFar(1), array(np.log(p))
    state, stop = policy.step(policy.start(), outputs[0])
    assert np.exp(np.asarray(policy.answer(state, outputs[0]))) == pytest.approx(p[0])
    assert stop.tolist() == [False]
    state, stop = policy.step(state, outputs[1] + 5)  # logits, not logarithms of probabilities
    assert np.exp(np.asarray(policy.answer(state, outputs[1]))) == pytest.approx((p[0] + p[1]) / 2)
    assert stop.tolist() == [True]
    state, _ = policy.step(state, outputs[2])
    assert np.exp(np.asarray(policy.answer(state, outputs[2]))) == pytest.approx(p.mean(axis=0))


def test_an_exit_that_is_not_finite_has_no_part_in_the_mean(array):
    outputs = array(np.array([[[0.0, 0.0], [np.nan, 0.0]], [[np.inf, 0.0], [np.nan, 0.0]], [[0.0, np.log(3)]] * 2]))
    policy, found = MeanSoFar(1), []
    state = policy.start()
    for output in outputs:
        state, stop = policy.step(state, output)
        found.append((np.asarray(stop).tolist(), np.exp(np.asarray(policy.answer(state, output)))))
    assert [stop for stop, _ in found] == [[False, False], [False, False], [True, True]]
    assert found[1][1][0] == pytest.approx([0.5, 0.5])
    assert np.isnan(found[1][1][1]).all()
    assert found[2][1][0] == pytest.approx([0.375, 0.625])
    assert found[2][1][1] == pytest.approx([0.25, 0.75])


def test_the_mean_of_certain_exits_stays_finite(array):
    policy, certain = MeanSoFar(0), array(np.array([[2000.0, -2000.0]]))
    state, _ = policy.step(policy.start(), certain)
    assert np.isfinite(np.asarray(policy.answer(state, certain))).all()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_every_rule_computes_can_be_counted(case):
    assert len(decision_costs(case.middle, case.outputs())) == EXITS
