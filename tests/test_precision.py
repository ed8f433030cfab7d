"""Rules decide alike in every precision and library, take settings of any kind, and refuse what they cannot read."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exit_rules import CASES, PRECISIONS, decisions

from eelit.methods.engine.evaluate import replay
from eelit.methods.papers.xin2021berxit import LearningToExit
from eelit.methods.policies.base import entropy, exact, on_host, softmax
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.state_similarity import StateSimilarity, cosine
from eelit.methods.policies.temperature import Tempered

HALF = ("numpy-float16", "torch-float16", "torch-bfloat16")


@pytest.mark.parametrize("precision", HALF)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_half_precision_decides_as_the_same_numbers_in_float32(case, precision):
    for seed in range(4):
        outputs = PRECISIONS[precision](case.outputs(seed))
        wide = PRECISIONS[f"{precision.partition('-')[0]}-float32"](on_host(outputs))
        assert (decisions(case.middle, outputs) == decisions(case.middle, wide)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_no_decision_of_ten_thousand_depends_on_the_precision_that_scores_are_computed_in(precision):
    logits = PRECISIONS[precision](np.random.default_rng(0).normal(size=(10_000, 2)))
    sure = np.exp(on_host(logits)).max(axis=1) / np.exp(on_host(logits)).sum(axis=1)
    _, stop = MaxConfidence(0.7).step((), logits)
    assert (np.asarray(stop) == (sure >= 0.7)).all()


@pytest.mark.parametrize("precision", PRECISIONS)
def test_entropy_over_a_vocabulary(precision):
    uniform = PRECISIONS[precision](np.zeros((1, 128_256)))
    assert float(entropy(uniform)[0]) == pytest.approx(math.log(128_256), rel=1e-4)
    assert not Entropy(11.0).step((), uniform)[1][0]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_state_resembles_itself(precision):
    state = np.random.default_rng(0).normal(size=(4, 768))
    state = PRECISIONS[precision](state / np.linalg.norm(state, axis=1, keepdims=True))
    assert np.asarray(cosine(state, state)).tolist() == pytest.approx([1] * 4, abs=1e-5)
    policy = StateSimilarity(0.999)
    memory, _ = policy.step((), state)
    assert np.asarray(policy.step(memory, state)[1]).all()
    memory = policy.step((), 0 * state)[0]
    assert not np.asarray(policy.step(memory, state)[1]).any()  # no direction, no resemblance


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threshold", [1 + 1e-9, 1.003])
def test_what_is_above_1_never_stops(precision, threshold):
    certain = PRECISIONS[precision]([[100.0, 0.0]])
    assert MaxConfidence(1.0).step((), certain)[1][0]
    assert not MaxConfidence(threshold).step((), certain)[1][0]
    assert not MaxConfidence((threshold, 0.0)).step((), certain)[1][0]
    assert not GateConfidence(threshold).step((), PRECISIONS[precision]([1.0]))[1][0]
    assert not ScoreThreshold(1 - 1e-9).step((), PRECISIONS[precision]([1 - 2e-3]))[1][0]


class OnMps(np.ndarray):
    """Stands for an array on a device that knows no float64; it is none."""

    device = SimpleNamespace(type="mps")


def test_a_device_without_float64_compares_in_float32():
    there = np.zeros(2, dtype=np.float16).view(OnMps)
    assert exact(there).dtype == np.float32
    assert exact(np.zeros(2, dtype=np.float16)).dtype == np.float64


ONE = [0.7, np.float32(0.7), np.float64(0.7), np.array(0.7), torch.tensor(0.7), torch.tensor(0.7, requires_grad=True)]
SEVERAL = [(0.9, 0.7, 0.5), [0.9, 0.7, 0.5], [np.float64(0.9), torch.tensor(0.7), 0.5], np.array([0.9, 0.7, 0.5])]
SEVERAL += [torch.tensor([0.9, 0.7, 0.5], dtype=torch.float64)]


@pytest.mark.parametrize("library", ["numpy-float32", "torch-float32"])
def test_thresholds_may_be_scalars_and_sequences_of_any_library(library):
    outputs = PRECISIONS[library](np.random.default_rng(0).normal(size=(4, 60, 3)))
    for given in ONE:
        assert (replay(MaxConfidence(given), outputs) == replay(MaxConfidence(0.7), outputs)).all()
        assert MaxConfidence(given).threshold == pytest.approx(0.7)
        assert type(MaxConfidence(given).threshold) is float
    expected = replay(MaxConfidence(SEVERAL[0]), outputs)
    assert len(set(expected.tolist())) > 2
    for given in SEVERAL:
        policy = MaxConfidence(given)
        assert (replay(policy, outputs) == expected).all()
        assert policy.threshold == pytest.approx((0.9, 0.7, 0.5))
        assert hash(policy)
    assert replay(Patience(torch.tensor(1)), outputs).tolist() == replay(Patience(1), outputs).tolist()
    assert MaxConfidence(np.array([0.5, 0.5])) == MaxConfidence((0.5, 0.5))
    assert (replay(Tempered([2, 2, 2], Entropy(1.0)), outputs) == replay(Tempered(2, Entropy(1.0)), outputs)).all()


@pytest.mark.parametrize("library", ["numpy-float32", "torch-float32"])
def test_a_sequence_that_ends_too_early_says_so(library):
    outputs = PRECISIONS[library](np.zeros((5, 3, 2)))
    for policy in (MaxConfidence([1.0, 1.0]), Entropy((0.0,)), Tempered((1.0, 1.0), MaxConfidence(1.1))):
        with pytest.raises(ValueError, match=r"thresholds for \d exits, but is asked at a later one"):
            replay(policy, outputs)
    assert replay(MaxConfidence([1.0] * 4), outputs).tolist() == [4, 4, 4]  # the last exit needs none


@pytest.mark.parametrize("given", [float("nan"), "0.5", None, [], [[0.5, 0.4]], [0.5, "x"], np.zeros((2, 2)), 1j])
def test_what_is_no_threshold_is_refused(given):
    with pytest.raises(ValueError, match="MaxConfidence: threshold is one number, or one per exit, not"):
        MaxConfidence(given)


@pytest.mark.parametrize("given", [[0.5], (0.5, 0.4), np.array([1.0, 2.0]), "2", float("nan")])
def test_what_holds_for_all_exits_is_one_number(given):
    with pytest.raises(ValueError, match="PatientConfidence: uncertainty is one number, not"):
        PatientConfidence(given, 2)
    with pytest.raises(ValueError, match="Patience: patience is one number, not"):
        Patience(given)


@pytest.mark.parametrize("kind", ["bool", "int8", "int64", "uint8", "float16"])
def test_a_gate_of_whole_numbers_is_compared_as_a_number(kind):
    gate = np.array([0, 1, 1, 0]).astype(kind)
    for policy in (GateConfidence(0.5), GateConfidence((0.5, 0.5)), ScoreThreshold(0.5, of="gate")):
        for told in (gate, torch.as_tensor(gate)):
            assert np.asarray(policy.step((), {"gate": told})[1]).tolist() == [False, True, True, False]
    assert not np.asarray(GateConfidence(1.5).step((), gate)[1]).any()


def test_entropies_of_one_name_have_one_unit():
    undecided = np.zeros((1, 8))
    assert not Entropy(1.1).step((), undecided)[1][0]  # nats: ln 8 is 2.08
    assert PatientConfidence(uncertainty=1.1, patience=1).step((), undecided)[1][0]  # a share of ln 8
    assert not hasattr(PatientConfidence(0.5, 1), "threshold")


WRONG = {
    "logits": [(4,), (4, 1), (2, 3, 4, 5), ()],
    "pair": [(4, 3), (4, 1), (4, 2, 2)],
    "values": [(4, 1), (4, 5), ()],
    "state": [(4,), (2, 3, 4)],
    "words": [(4,), (4, 2, 1)],
}


@pytest.mark.parametrize("library", ["numpy-float32", "torch-float32"])
@pytest.mark.parametrize("case", [case for case in CASES if type(case.eager).__name__ != "FixedExit"], ids=str)
def test_a_rule_that_is_shown_something_else_says_what_it_reads(case, library):
    for shape in WRONG[case.reads]:
        with pytest.raises(ValueError, match=r"the policy reads .*\[n.*\].*, but the exit says \["):
            case.eager.step((), PRECISIONS[library](np.ones(shape)))
    with pytest.raises(ValueError, match="the policy reads"):
        case.eager.step((), {"something else": PRECISIONS[library](np.ones((4, 3)))})
    with pytest.raises(ValueError, match="but the exit says tuple"):
        case.eager.step((), (1.0, 2.0))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_rules_bring_nothing_of_the_cpu_to_another_device(case):
    """On torch's device without memory, which like a real one refuses to mix; it has no numbers to compare."""
    policy, state = case.middle, case.middle.start()
    for output in torch.as_tensor(case.outputs(), dtype=torch.float16).to("meta"):
        state, stop = policy.step(state, output)
        assert (stop.device.type, stop.dtype) == ("meta", torch.bool)
        assert stop.shape == output.shape[: 2 if case.reads == "words" else 1]
        assert all(part.device.type == "meta" for part in state)


def test_integers_are_logits_too():
    assert softmax(np.array([[0, 0]])).tolist() == [[0.5, 0.5]]
    with pytest.raises(ValueError, match="real numbers"):
        softmax(np.array([[1j, 0]]))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_what_a_head_says_of_itself_is_computed_in_float32(dtype):
    """A sigmoid in half precision gives the same certainty to answers that differ."""
    unit = LearningToExit(2).to(dtype)
    with torch.no_grad():
        unit.linear.weight.copy_(torch.tensor([[1.0, 0.0]]))
        unit.linear.bias.zero_()
    p = torch.tensor([[6.0, 0.0], [6.03125, 0.0], [6.0625, 0.0]]).to(dtype)
    said = unit(p)
    assert said.dtype == torch.float32
    assert said.tolist() == pytest.approx(torch.sigmoid(p[:, 0].float()).tolist())
