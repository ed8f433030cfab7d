"""Rules decide alike in every precision and library, take settings of any kind, and refuse what they cannot read."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from exit_rules import CASES, PRECISIONS, decisions
from torch import nn

from eelit.methods.backbones.attached import MeanHead
from eelit.methods.engine.evaluate import replay
from eelit.methods.families.gates import hard
from eelit.methods.families.skimming import decided
from eelit.methods.papers.guan2022transkimmer import SkimmingEncoder, SkimPredictor, sampled
from eelit.methods.papers.schuster2021cats import MetaConsistencyClassifier, ScoredExit
from eelit.methods.papers.wang2018skipnet import GatedResNet, RecurrentGate
from eelit.methods.papers.xin2020ranking import scaled_mean
from eelit.methods.papers.xin2021berxit import LearningToExit
from eelit.methods.papers.zeng2024consistentee import sampled_exits
from eelit.methods.policies.base import entropy, exact, on_host, softmax
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.fixed_exit import FixedExit, SoleExit
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.state_similarity import StateSimilarity, cosine
from eelit.methods.policies.temperature import Tempered
from eelit.methods.policies.token_gate import TokenGate

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


@pytest.mark.parametrize("precision", [name for name in PRECISIONS if "16" not in name])
def test_how_long_states_are_changes_no_resemblance(precision):
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=(2, 6, 768))
    expected = (one * other).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    for a, b in ((1, 1), (1e30, 1e30), (1e-30, 1e-30), (1e30, 1e-30), (1e-36, 1e36), (1e30, 1)):
        found = np.asarray(cosine(*(PRECISIONS[precision](scale * state) for scale, state in ((a, one), (b, other)))))
        assert found.tolist() == pytest.approx(expected, abs=1e-6), (a, b)
    states = PRECISIONS[precision](one * np.array([1e30, 1e-30, 0, 1, np.inf, np.nan])[:, None])
    found = np.asarray(cosine(states, states))
    assert found[[0, 1, 3]].tolist() == pytest.approx([1] * 3, abs=1e-6)
    assert np.isnan(found[[2, 4, 5]]).all()
    policy = StateSimilarity(0.999)
    memory, _ = policy.step((), states)
    assert np.asarray(policy.step(memory, states)[1]).tolist() == [True, True, False, True, False, False]


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


NO_THRESHOLD = [float("nan"), "0.5", None, [], [[0.5, 0.4]], [0.5, "x"], np.zeros((2, 2)), 1j]
NO_ORDER = [{0.5: 1, 0.9: 2}, {0.5, 0.9}, {0.5: 1}.keys(), bytearray(b"12")]  # they say of no exit which it has


@pytest.mark.parametrize("given", [*NO_THRESHOLD, *NO_ORDER])
def test_what_is_no_threshold_is_refused(given):
    with pytest.raises(ValueError, match="MaxConfidence: threshold is one number, or one per exit, not"):
        MaxConfidence(given)


@pytest.mark.parametrize("given", [[0.5], (0.5, 0.4), np.array([1.0, 2.0]), "2", float("nan")])
def test_what_holds_for_all_exits_is_one_number(given):
    with pytest.raises(ValueError, match="PatientConfidence: uncertainty is one number, not"):
        PatientConfidence(given, 2)
    with pytest.raises(ValueError, match="Patience: patience is one whole number of at least 0, not"):
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
@pytest.mark.parametrize("case", [case for case in CASES if type(case.eager) not in (FixedExit, SoleExit)], ids=str)
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


HALVES = pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])


@HALVES
def test_a_gate_opens_by_its_probability_in_float32(dtype):
    gate = RecurrentGate((4,), 3, 3).to(dtype)
    with torch.no_grad():
        gate.proj.weight.zero_()
        gate.proj.bias.fill_(1e-4)  # in half precision the sigmoid of this is 0.5, at which a block is skipped
        p, _ = gate(0, torch.randn(5, 4, 2, 2).to(dtype), None)
    assert p.dtype == torch.float32
    assert hard(p).tolist() == [1] * 5


@HALVES
@torch.inference_mode()
def test_a_gated_network_runs_in_half_precision(dtype):
    torch.manual_seed(0)
    model, x = GatedResNet((4, 8), 2, 3).eval().to(dtype), torch.randn(6, 1, 8, 8).to(dtype)
    every, skipping = (run(x, lambda p: hard(p - p.median() + 0.5)) for run in (model, model.infer))
    assert every.logits.dtype == skipping.logits.dtype == dtype
    assert 0 < every.gates.mean() < 1
    assert torch.equal(every.gates, skipping.gates)


@HALVES
def test_a_score_of_consistency_sees_how_far_classes_are_apart(dtype):
    exit_, seen = ScoredExit(MetaConsistencyClassifier(2, 4)).eval().to(dtype), []
    exit_.meta.inner.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    logits = torch.tensor([[[0.01, 0.0]]]).to(dtype)
    said = exit_((None, torch.zeros(1, 32).to(dtype), logits))
    top, lead = seen[0][0, 2 + 32 : 2 + 32 + 2].tolist()  # behind the class and the features
    p = logits[0, 0].double().softmax(dim=0).tolist()
    assert lead == pytest.approx(p[0] - p[1], rel=torch.finfo(dtype).eps)
    assert top == pytest.approx(p[0], rel=torch.finfo(dtype).eps)
    assert said["score"].dtype == torch.float32


@HALVES
@pytest.mark.parametrize("draw", [sampled, lambda logits: sampled_exits(logits.T, 50)], ids=["tokens", "exits"])
def test_what_is_drawn_in_training_is_drawn_as_the_same_numbers_in_float32(dtype, draw):
    logits, found = (3 * torch.randn(400, 2, generator=torch.Generator().manual_seed(0))).to(dtype), []
    for given in (logits, logits.float()):
        torch.manual_seed(0)
        found.append(draw(given))
    assert torch.equal(found[0].long(), found[1].long())


class Hidden(nn.Module):
    def forward(self, state):
        return state["hidden"]


@torch.inference_mode()
def test_a_long_text_of_large_numbers_has_a_mean_in_half_precision():
    hidden, mask = torch.full((2, 400, 8), 300.0).half(), torch.ones(2, 400, dtype=torch.int64)
    head = MeanHead(Hidden(), 8, 2).half()
    nn.init.eye_(head.classifier.weight)
    nn.init.zeros_(head.classifier.bias)
    for state in ({"hidden": hidden}, {"hidden": hidden, "mask": mask}):
        assert head(state).tolist() == [[300.0] * 2] * 2
    assert scaled_mean(hidden, mask).tolist() == pytest.approx(np.ones((2, 8)))


@torch.inference_mode()
def test_a_skimming_network_runs_in_half_precision():
    model, x = SkimmingEncoder("tiny", 2, SkimPredictor, seed=0).half(), torch.arange(24).reshape(2, 12)
    masked, removed = model(x, decided(TokenGate(9.9))), model.infer(x, decided(TokenGate(9.9)))
    assert masked[0].dtype == removed.logits.dtype == torch.float16
    assert 0 < masked[1].mean() < 1
    assert torch.equal(masked[1].sum(dim=0).long(), removed.layers)
