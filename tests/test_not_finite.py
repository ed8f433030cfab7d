"""NaN and infinity are no certainty: whoever has one goes on, under every rule, and is told of."""

import ast
import copy
import dataclasses
import math
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from exit_rules import CASES, EXITS, INF, PRECISIONS, SAMPLES, decisions, rules
from torch import nn

from eelit.methods import families
from eelit.methods.backbones.decoder import small_decoder
from eelit.methods.backbones.decoding import always, generate, sound_of
from eelit.methods.backbones.decoding import replay as replay_tokens
from eelit.methods.claims.bajpai2023splitee import mean_rewards, regret
from eelit.methods.engine.evaluate import answered, infer, not_finite, replay
from eelit.methods.engine.multi_exit import MultiExit, said_at, stacked
from eelit.methods.engine.routing import follow
from eelit.methods.families import tagging
from eelit.methods.families.gates import hard
from eelit.methods.families.skimming import decided
from eelit.methods.families.split import Stored
from eelit.methods.papers.bajpai2023splitee import SplitRule
from eelit.methods.policies.base import log_softmax, softmax, usable
from eelit.methods.policies.budgeted_thresholds import thresholds_for
from eelit.methods.policies.conformal import conformal_threshold, independent_thresholds, kept, worst_misleading
from eelit.methods.policies.continuation import ContinuationThreshold
from eelit.methods.policies.document_threshold import DocumentThreshold
from eelit.methods.policies.entropy import Entropy, percentile_thresholds
from eelit.methods.policies.flexible_patience import DISTANCES
from eelit.methods.policies.gate_confidence import GateConfidence
from eelit.methods.policies.learn_then_test import learn_then_test
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.patient_confidence import PatientConfidence
from eelit.methods.policies.score_proximity import ScoreProximity
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.state_similarity import StateSimilarity
from eelit.methods.policies.temperature import calibration_error, fit_temperature
from eelit.methods.policies.token_gate import TokenGate
from eelit.methods.policies.voting import Voting

NAN = float("nan")
BAD = {
    "NaN": ([NAN], True),
    "+inf": ([INF], True),
    "+inf and -inf": ([INF, -INF], True),
    "-inf": ([-INF], False),  # in logits a mask, unless it is all there is
    "nothing but -inf": ([-INF] * 99, True),
}
"""Name → values put in places of a sample's output, and whether they are no mask in logits either."""
pytestmark = pytest.mark.filterwarnings("error::RuntimeWarning")  # as somebody's pipeline may have it


def test_every_rule_of_the_library_is_tried():
    assert {type(case.eager).__name__ for case in CASES} == rules()


def placed(case, values, rng):
    """Return outputs ``[E, N, ...]`` with the values somewhere in some samples (or words), and in which."""
    outputs = case.outputs(seed=int(rng.integers(99)))
    where = rng.random(outputs.shape[: 3 if case.reads == "words" else 2]) < 0.4
    flat = outputs.reshape(*where.shape, -1)
    for place in zip(*where.nonzero(), strict=True):
        slots = rng.permutation(flat.shape[-1])[: len(values)]
        flat[place][slots] = values[: len(slots)]
    return outputs, where


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_nobody_stops_by_what_is_not_finite(case, precision):
    rng = np.random.default_rng(0)
    for name, (values, never) in BAD.items():
        if not never and case.reads not in ("values", "state"):
            continue
        outputs, where = placed(case, values, rng)
        for rule in (case.eager, case.middle):
            stops = decisions(rule, PRECISIONS[precision](outputs))
            assert not stops[where].any(), (name, rule)
        if case.alone and case.reads != "words":
            fine = ~where.any(axis=0)
            clean = np.where(where.reshape(*where.shape, *[1] * (outputs.ndim - 2)), 0.0, outputs)
            expected = decisions(case.middle, PRECISIONS[precision](clean))
            assert (decisions(case.middle, PRECISIONS[precision](outputs))[:, fine] == expected[:, fine]).all(), name


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("case", [case for case in CASES if case.reads in ("logits", "words")], ids=str)
def test_a_class_masked_by_minus_infinity_has_no_probability_and_that_is_all(case, precision):
    for seed in range(3):
        outputs = case.outputs(seed)
        outputs[..., 1] = -200.0  # its probability underflows to 0
        masked = np.where(outputs == -200.0, -INF, outputs)
        for rule in (case.eager, case.middle):
            expected = decisions(rule, PRECISIONS[precision](outputs))
            assert (decisions(rule, PRECISIONS[precision](masked)) == expected).all(), rule


@pytest.mark.parametrize("precision", PRECISIONS)
def test_probabilities_of_what_is_not_finite_are_nan_and_of_a_mask_0(precision):
    logits = PRECISIONS[precision]([[0, 0, -INF], [NAN, 0, 0], [INF, 0, 0], [-INF, -INF, -INF], [INF, INF, NAN]])
    p = np.asarray(softmax(logits))
    assert p[0].tolist() == pytest.approx([0.5, 0.5, 0.0])
    assert np.isnan(p[1:]).all()
    assert np.asarray(usable(logits)).tolist() == [True, False, False, False, False]


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_finite_under_one_mask_and_infinite_or_bounded_under_two(name):
    one = log_softmax(np.array([[1.0, 0.0, -INF]]))
    assert 0 < DISTANCES[name](one, log_softmax(np.array([[0.0, 1.0, -INF]])))[0] < 1
    other = DISTANCES[name](one, log_softmax(np.array([[-INF, 0.0, 1.0]])))[0]
    assert other == (pytest.approx(other, abs=math.log(2)) if name == "js" else INF)


def test_an_answer_that_is_not_finite_agrees_with_nothing():
    def labels(*each):
        return np.array([[[NAN] * 3 if label is None else np.eye(3)[label] * 5] for label in each])

    assert replay(Patience(1), labels(1, 1, 1)).tolist() == [1]
    assert replay(Patience(1), labels(1, None, 1, 1, 0)).tolist() == [3]
    assert replay(Patience(1), labels(0, None, None, 0, 2)).tolist() == [4]
    assert replay(Patience(2), labels(1, 1, None, 1, 1, 1, 0)).tolist() == [5]
    assert replay(PatientConfidence(0.5, 2), labels(1, None, 1, 1, 1)).tolist() == [3]
    values = np.array([[0.0], [0.0], [INF], [INF], [0.0], [0.0], [0.0]])
    assert replay(Patience(2, tolerance=0.1), values).tolist() == [6]


def test_who_has_no_finite_logits_has_no_vote():
    votes = torch.tensor([[[1.0, 0], [NAN, 0]], [[NAN, 1], [INF, 0]], [[0, 1], [0, NAN]], [[0, 1], [-INF, -INF]]])
    exits = replay(Voting(3), votes)
    assert exits.tolist() == [3, 3]
    told = answered(Voting(3), votes, exits)
    assert told[0].argmax() == 1
    assert told[1].isnan().all()


def test_a_rival_without_a_finite_score_is_none():
    scores = np.array([NAN, 3.0, 2.0, 1.0, INF, 0.0])
    assert ScoreProximity(0, 2).step((), scores)[1].tolist() == [False, False, False, True, False, True]
    assert ScoreProximity(0, 9).step((), scores)[1].tolist() == [False] * 6
    assert ScoreProximity(0, 2).step((), np.array([NAN, NAN]))[1].tolist() == [False, False]
    assert ScoreProximity(0, 2).step((), np.zeros(0))[1].tolist() == []
    for rule in ("score", "capacity", "rank", "proximity"):
        assert DocumentThreshold(rule, -INF, 2).step((), scores)[1].tolist() == np.isfinite(scores).tolist()
        assert DocumentThreshold(rule, -INF, 2).step((), np.zeros(0))[1].tolist() == []
    assert DocumentThreshold("proximity", 0, 2).step((), scores)[1].tolist() == [False, False, False, True, False, True]
    assert DocumentThreshold("rank", 2).step((), scores)[1].tolist() == [False, False, False, True, False, True]


class Sure(nn.Linear):
    """A head that is sure of class 0, but for what the input's last number says."""

    def __init__(self, *, more=False):
        super().__init__(4, 3)
        self.more = more

    def forward(self, state):
        x, at = state
        answer = super().forward(x) * 0.1 + torch.tensor([5.0, 0, 0])
        answer = torch.where((x[:, -1:] == at), torch.tensor([NAN, INF, 0]), answer)
        return {"answer": answer, "score": torch.where(x[:, 0] == at, INF, x[:, 1])} if self.more else answer


class Step(nn.Module):
    def __init__(self, at):
        super().__init__()
        self.at = at

    def forward(self, state):
        return (state[0] if self.at else state), self.at


def network(**more):
    torch.manual_seed(0)
    return MultiExit([Step(i) for i in range(4)], [*(Sure(**more) for _ in range(3)), Sure()]).eval()


@pytest.mark.parametrize(
    "policy", [MaxConfidence(0.5), Entropy(0.5), Patience(0), PatientConfidence(0.9, 1), Voting(1)], ids=repr
)
def test_infer_says_of_whom_an_exit_said_something_not_finite(policy):
    x = torch.rand(8, 4) * 0.1 + 0.05
    x[1, -1], x[4, -1], x[6, -1], x[7, -1] = 0, 1, 0, 3
    model = network()
    found = infer(model, x, policy)
    assert found.exits.tolist() == [0, 1, 0, 0, 0, 0, 1, 0]
    assert found.not_finite.tolist() == [1, 6]  # who left before the bad exit never met it
    outputs = model(x)
    assert replay(policy, outputs).tolist() == found.exits.tolist()
    assert not_finite(outputs, found.exits.numpy()).tolist() == [1, 6]
    assert found.outputs.isfinite().all()
    alone = infer(model, x[[0, 2, 3, 5]], policy)
    assert torch.equal(alone.outputs, found.outputs[[0, 2, 3, 5]])
    assert alone.not_finite.tolist() == []


def test_the_last_exit_answers_whatever_it_says():
    x = torch.full((3, 4), 0.5)
    x[1, -1] = 3
    found = infer(network(), x, MaxConfidence(1.1))
    assert found.exits.tolist() == [3, 3, 3]
    assert found.not_finite.tolist() == [1]
    assert found.outputs[1].isnan().any()


class Always:
    """Somebody's rule that stops everybody, whatever an exit says."""

    def start(self):
        return ()

    def step(self, state, output):
        return (), torch.ones(SAMPLES, dtype=torch.bool)


def test_no_rule_from_elsewhere_can_stop_them_either():
    outputs = torch.zeros(EXITS, SAMPLES, 3)
    outputs[0, 2, 1] = NAN
    outputs[:3, 4, 0] = INF
    assert replay(Always(), outputs).tolist() == [0, 0, 1, 0, 3, 0]
    assert not_finite(outputs, replay(Always(), outputs)).tolist() == [2, 4]


def test_what_an_exit_says_beside_its_answer_counts_too():
    x = torch.full((4, 4), 0.5)
    x[2, 0] = 0
    model = network(more=True)
    outputs = model(x)
    assert outputs["score"][-1].isnan().all()  # the last exit says less, which is no fault
    assert not_finite(outputs, np.full(4, 3)).tolist() == [2]
    for policy, exits in ((MaxConfidence(0.5), [0] * 4), (ScoreThreshold(0.2), [0, 0, 1, 0])):  # who reads it goes on
        found = infer(model, x, policy)
        assert found.exits.tolist() == replay(policy, outputs).tolist() == exits
        assert found.not_finite.tolist() == not_finite(outputs, found.exits.numpy()).tolist() == [2]


def test_what_an_exit_does_not_say_is_no_fault_of_its_answer():
    model = network(more=True)
    model.heads[0] = Sure()
    x = torch.full((4, 4), 0.5)
    found = infer(model, x, MaxConfidence(0.5))
    assert found.exits.tolist() == replay(MaxConfidence(0.5), model(x)).tolist() == [0] * 4
    assert found.not_finite.tolist() == not_finite(model(x), found.exits.numpy()).tolist() == []


def test_what_an_exit_says_of_nobody_is_told_from_what_is_not_finite_of_all():
    parts = {"certainty": torch.full((4,), NAN), "features": torch.full((4, 2), NAN)}
    answers = torch.eye(3)[[0, 1, 2, 0]]
    for name, part in parts.items():
        for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
            said = {"answer": answers, name: part.to(dtype)}
            fine = {"answer": answers, name: torch.zeros_like(part, dtype=dtype)}
            outputs = stacked([answers, said, fine, answers])
            assert outputs[name][[0, 1, 3]].isnan().all()
            found = [outputs, {part: values.clone() for part, values in outputs.items()}]
            if dtype != torch.bfloat16:
                found.append({part: values.numpy() for part, values in outputs.items()})
            for each in found:
                assert not_finite(each, np.full(4, 3)).tolist() == [0, 1, 2, 3]
                assert not_finite(each, np.array([0, 1, 2, 0])).tolist() == [1, 2]
                assert [*said_at(each, 0)] == [*said_at(each, 3)] == ["answer"]
            less = stacked([answers, fine, fine, answers])
            assert not_finite(less, np.full(4, 3)).tolist() == []
    wider = stacked(
        [
            {"answer": answers, "certainty": torch.zeros(4)},
            {"answer": answers, "certainty": parts["certainty"].half()},
            answers,
        ]
    )
    assert not_finite(wider, np.full(4, 2)).tolist() == [0, 1, 2, 3]


class Certain(nn.Linear):
    """A head whose certainty is NaN, whatever it reads."""

    def forward(self, state):
        answer = super().forward(state)
        return {"answer": answer, "certainty": 0 * answer[:, 0] / 0}


def test_replay_tells_of_a_certainty_that_is_never_finite_as_inference_does():
    torch.manual_seed(0)
    model = MultiExit([nn.Identity()] * 3, [Certain(4, 3), Certain(4, 3), nn.Linear(4, 3)]).eval()
    x = torch.randn(5, 4)
    outputs = model(x).items()
    for policy in (MaxConfidence(0.0), MaxConfidence(2.0)):
        found = infer(model, x, policy)
        told = not_finite({name: part.detach() for name, part in outputs}, found.exits.numpy())
        assert told.tolist() == found.not_finite.tolist() == [0, 1, 2, 3, 4]


def test_a_cascade_goes_on_with_them():
    said = torch.tensor([[[5.0, 0], [NAN, 0], [0, INF]], [[0, 5.0], [0, 5], [NAN, NAN]], [[0, 9.0], [0, 9], [1, 0]]])
    course = follow(MaxConfidence(0.5), lambda i, rows: said[i, rows], 3, 3)
    assert course.exits.tolist() == [0, 1, 2]
    assert course.not_finite.tolist() == [1, 2]
    assert course.visited.sum(dim=0).tolist() == [1, 2, 3]


def test_a_gate_that_gives_no_number_skips_nothing():
    assert hard(torch.tensor([0.5, 0.51, NAN, 0.0])).tolist() == [0, 1, 1, 0]


def test_a_stay_that_is_masked_leaves_at_every_margin_but_that_at_which_nobody_leaves():
    logits = np.array([[3.0, -INF], [-INF, 3.0], [-INF, -INF]])
    assert TokenGate(-1e300).step((), logits)[1].tolist() == [True, False, False]
    assert TokenGate(-INF).step((), logits)[1].tolist() == [False, False, False]
    assert TokenGate(INF).step((), logits)[1].tolist() == [True, True, False]


def test_every_family_reports_them():
    for path in Path(families.__file__).parent.glob("*.py"):
        calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
        for call in (call for call in calls if getattr(call.func, "id", "") == "Execution"):
            assert "not_finite" in {keyword.arg for keyword in call.keywords}, path.name


def spoilt(module, at):
    """Let a module say NaN of some rows, which follow from what it says of each."""

    def spoil(_, args, out):
        return torch.where(out[..., :1] > at, NAN, out)

    return module.register_forward_hook(spoil)


def middle(module, run):
    """Return the median of the first numbers that the module says during ``run()``."""
    seen = []
    with module.register_forward_hook(lambda _, args, out: seen.append(out[..., 0].flatten())):
        run()
    return torch.cat(seen).median().item()


class Sign(nn.Module):
    """A gate that is sure, or gives NaN, by the sign of the state's first number."""

    def forward(self, states):
        sure = torch.tensor([0.0, 5.0]).expand(*states.shape[:-1], 2)
        return torch.where(states[..., :1] > 0, NAN, sure)


@pytest.mark.parametrize("reads", ["gate", "state", "logits"])
def test_a_token_goes_on_with_them(reads):
    model = small_decoder(vocabulary=32, layers=3, width=32, heads=2, inner=48, reach=16, seed=0)
    model.gate = Sign()
    prompts = torch.randint(0, 32, (6, 5), generator=torch.Generator().manual_seed(0))
    rule = {"gate": GateConfidence(0.5), "state": StateSimilarity(-2.0), "logits": MaxConfidence(0.0)}[reads]
    cache, last = model.read(prompts[:, :-1], 16), prompts[:, -1]
    with nullcontext() if reads == "gate" else spoilt(model.language_model.model.layers[0], 0.0):
        (expected,) = replay_tokens(model, cache, last, 4, [always(rule)], reads)
        found = generate(model, cache.copy(), last, 4, always(rule), reads)
    for run in (found, expected):
        assert torch.equal(run.not_finite, run.exits > 0)
    assert 0 < found.not_finite.double().mean() < 1
    assert torch.equal(found.exits, expected.exits)


def test_minus_infinity_is_a_mask_in_logits_and_none_in_a_state():
    shown = torch.tensor([[0.0, -INF], [0.0, 1.0], [NAN, 0.0]])
    assert sound_of(shown, "logits").tolist() == sound_of(shown, "gate").tolist() == [True, True, False]
    assert sound_of(shown, "state").tolist() == [False, True, False]


def test_a_word_goes_on_with_them(prepared):
    method, bench, ready = prepared("li2021tokee")
    model, x = copy.deepcopy(ready.model), next(ready.data.test.batches(8))[1]
    rule = MaxConfidence(0.0)
    with torch.inference_mode(), spoilt(model.heads[0], middle(model.heads[0], lambda: model(x))):
        runs = model.infer(x, rule), tagging.replay(model, x, rule)
        runs += (tagging.stopped(rule, model(x), runs[0].exits >= 0),)
        done = method.execute(dataclasses.replace(ready, model=model, _seen={}), bench, 1.1)
    for run in runs:
        assert torch.equal(run.not_finite, run.exits > 0)
        assert 0 < run.not_finite.sum() < (run.exits == 0).sum() * 2
    assert done.agrees
    assert 0 < done.not_finite <= done.samples


def test_a_token_that_is_skimmed_stays_with_them(prepared):
    method, bench, ready = prepared("guan2022transkimmer")
    model, x = copy.deepcopy(ready.model), next(ready.data.test.batches(8))[1]
    everybody = decided(TokenGate(INF))
    at = middle(model.predictors[0], lambda: model.infer(x, everybody))
    with spoilt(model.predictors[0], at):
        found = model.infer(x, everybody)
        done = method.execute(dataclasses.replace(ready, model=model, _seen={}), bench, INF)
    assert 0 < (found.layers[:, 1:] > 0).double().mean() < 1
    assert torch.equal(found.not_finite, (found.layers[:, 1:] > 0).any(dim=1))
    assert done.agrees
    assert 0 < done.not_finite <= done.samples
    with spoilt(model.head.classifier, -INF):
        assert model.infer(x, everybody).not_finite.all()


def test_an_image_whose_gate_or_answer_is_not_finite_is_told_of(prepared):
    method, bench, ready = prepared("wang2018skipnet")
    network = copy.deepcopy(ready.network(2.5))
    x = next(ready.data.test.batches(64))[1]
    at = middle(network.model.gate.proj, lambda: network.model(x))
    with torch.inference_mode(), spoilt(network.model.gate.proj, at):
        found = network.model.infer(x)
        changed = dataclasses.replace(ready, _networks={**ready._networks, 2.5: network}, _seen={})
        done = method.execute(changed, bench, 2.5)
    assert (found.gates[found.p.isnan()] == 1).all()
    assert torch.equal(found.not_finite, found.p.isnan().any(dim=0))
    assert 0 < found.not_finite.double().mean() <= 1
    assert done.agrees
    assert 0 < done.not_finite <= done.samples
    with torch.inference_mode(), spoilt(network.model.head, -INF):
        assert network.model.infer(x).not_finite.all()


@pytest.mark.parametrize("whom", ["some", "all"])
def test_an_image_of_which_an_exit_says_nothing_finite_goes_on_and_is_told_of(prepared, whom):
    """At the knob at which the others leave at once; of some images, or of all, the first exit says NaN."""
    method, bench, ready = prepared("teerapittayanon2016branchynet")
    model, x = copy.deepcopy(ready.model), torch.stack(ready.data.test.inputs[:64])
    with torch.inference_mode():
        at = middle(model.heads[0], lambda: model(x)) if whom == "some" else -INF
    unkept = dataclasses.replace(ready.bench, cache=None)  # what exits say is kept under the names of weights
    changed = dataclasses.replace(ready, model=model, bench=unkept, _test=[], _fitted=[ready.fitted])
    with spoilt(model.heads[0], at):
        done = method.execute(changed, bench, method.knobs[0])
        nothing = changed.split("test").outputs[0, :48].isnan().any(dim=-1)
    assert done.agrees
    assert (done.samples, done.not_finite) == (48, int(nothing.sum()))
    assert bool(nothing.all()) == (whom == "all")
    assert nothing.any()


def test_a_document_stays_with_them(prepared):
    method, bench, ready = prepared("busolin2021lear")

    def predictor(queries, partial):
        return np.where(np.arange(len(partial)) % 7 == 0, NAN, 0.5)

    sentinel = dataclasses.replace(ready.sentinel, predictor=predictor)
    queries = ready.split("test").queries.head(4)
    found = sentinel.traverse(queries, ContinuationThreshold(1.0))
    assert found.not_finite.tolist() == (np.arange(len(found.exits)) % 7 == 0).tolist()
    assert ((found.exits == 0) == ~found.not_finite).all()
    done = method.execute(dataclasses.replace(ready, sentinel=sentinel, _seen={}), bench, 1.0)
    assert done.agrees
    assert 0 < done.not_finite <= done.samples


def test_a_device_that_is_not_sure_asks_the_cloud_and_the_bandit_forgets_it():
    rule = SplitRule(layers=(0, 1), alpha=0.5, lam=0.1, o=0.1)
    sure = np.array([[NAN, 0.9, INF, 0.9, 0.9], [0.9] * 5, [0.9, 0.9, NAN, 0.9, 0.9]])
    told = rule.drive(Stored(sure), 5)
    assert told.cuts[0] == 0
    assert told.offloaded[:3].tolist() == [True, False, False] or told.offloaded[0]
    assert np.isfinite(told.tally.means).all()
    stuck = SplitRule(layers=(0,), alpha=0.5, lam=0.1, o=0.1).drive(Stored(sure), 5)
    assert stuck.offloaded.tolist() == [True, False, True, False, False]
    assert stuck.not_finite.tolist() == [True, False, True, False, False]


@pytest.mark.parametrize("beta", [0.0, 1.0])
@pytest.mark.parametrize("side", ["none", "observed", "released"])
def test_an_arm_whose_reward_can_never_be_told_is_not_played_for_ever(beta, side):
    n = 400
    sure = np.stack([np.full(n, NAN), np.full(n, 0.8), np.full(n, 0.6), np.full(n, NAN)])
    rule = SplitRule(layers=(0, 1, 2), alpha=0.5, lam=0.1, o=0.1, side=side, beta=beta)
    told = rule.drive(Stored(sure), n)
    played = np.bincount(told.cuts, minlength=3)
    assert played.argmax() == 1
    assert 1 <= played[0] < 0.1 * n
    assert np.isfinite(told.tally.means).all()
    assert told.tally.untold.tolist()[1:] == [0, 0]
    assert played[0] <= told.tally.untold[0]


def test_an_arm_is_forgiven_what_once_could_not_be_told():
    sure = np.stack([np.full(300, 0.9), np.full(300, 0.6), np.full(300, 0.6)])
    sure[0, :3] = NAN
    sure[2, :3] = NAN
    told = SplitRule(layers=(0, 1), alpha=0.5, lam=0.1, o=0.1).drive(Stored(sure), 300)
    assert np.bincount(told.cuts[-50:]).argmax() == 0


def test_a_bandit_that_never_earns_anything_tries_all_arms():
    nothing = np.full((3, 60), NAN)
    told = SplitRule(layers=(0, 1), alpha=0.5, lam=0.1, o=0.1).drive(Stored(nothing), 60)
    assert np.bincount(told.cuts).tolist() == [30, 30]


def test_an_execution_on_device_and_cloud_tells_of_them(prepared):
    method, bench, ready = prepared("bajpai2023splitee")
    model = copy.deepcopy(ready.model)
    stream = copy.copy(ready.streams["test"])
    with spoilt(model.heads[0], -INF), torch.inference_mode():
        stream.outputs = torch.where(torch.arange(model.exits)[:, None, None] == 0, NAN, stream.outputs)
        stream.__post_init__()
        done = method.execute(dataclasses.replace(ready, model=model, streams={"test": stream}), bench, 0.0)
    assert done.agrees  # at alpha 0 the first exit is the only arm
    assert done.not_finite == done.samples
    assert done.counted > done.samples  # all were sent


def test_regret_leaves_out_what_cannot_be_told():
    rule = SplitRule(layers=(0, 1), alpha=0.5, lam=0.1, o=0.1)
    sure = np.array([[0.9, 0.9, NAN], [0.8, NAN, NAN]])
    # arm 1: 0.9 - 0.1 twice, and what is unsure is sent for nothing; arm 2: 0.8 - 0.2 once
    assert mean_rewards(rule, sure) == pytest.approx([0.8, 0.6])
    assert regret(rule, sure, np.array([0, 1, 0])) == pytest.approx([0, 0.2, 0.2])
    nothing = regret(rule, np.array([[0.9, 0.9], [NAN, NAN]]), np.array([0, 1]))
    assert nothing[0] == 0
    assert np.isnan(nothing[1])


def test_thresholds_are_fitted_on_what_is_finite():
    scores = np.array([[0.9, NAN, 0.2, INF], [0.1, 0.8, 0.3, 0.4]])
    same = np.array([[False, False, True, False], [True, True, True, True]])
    assert worst_misleading(scores, same).tolist() == [0.9, -INF, -INF]
    assert conformal_threshold(np.array([0.5, NAN]), 0.5) == 0.5
    assert independent_thresholds(scores, same, 0.9)[0] in (0.9, -INF)
    assert kept(scores, same, 0.0) == (1 - 1 / 4, (1 + 2 + 1 + 2) / 4)
    h = np.array([0.1, NAN, 0.3, 0.2])
    assert percentile_thresholds([h], 0.5) == (0.3,)
    assert percentile_thresholds([h], 0.9) == (INF,)
    confidence = np.array([[0.9, NAN, 0.5, INF], [0.1, 0.8, 0.9, 0.2], [1.0] * 4])
    assert thresholds_for(confidence, np.array([0.25, 0.25, 0.5])) == (0.9, 0.9)
    assert learn_then_test(np.array([[0.0] * 99, [NAN] + [0.0] * 98]), 0.5, 0.05) == 0
    assert learn_then_test(np.array([[NAN] * 9]), 0.5, 0.05) is None


def test_a_temperature_is_fitted_on_what_is_finite_and_under_masks():
    rng = np.random.default_rng(0)
    logits, targets = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    logits[np.arange(200), targets] += 1
    best = fit_temperature(logits, targets)
    assert 0.1 < best < 10
    broken = np.concatenate([logits, [[NAN, 0, 0], [INF, 0, 0]]])
    assert fit_temperature(broken, np.append(targets, [0, 1])) == best
    masked = np.concatenate([logits, np.full((200, 1), -INF)], axis=1)
    assert fit_temperature(masked, targets) == pytest.approx(best)
    assert fit_temperature(torch.as_tensor(logits).bfloat16(), torch.as_tensor(targets)) == pytest.approx(
        best, rel=0.05
    )
    with pytest.raises(ValueError, match="no sample has finite logits"):
        fit_temperature(np.full((2, 3), NAN), np.array([0, 1]))
    error = calibration_error(logits[None], targets)
    assert calibration_error(broken[None], np.append(targets, [0, 1])) == pytest.approx(error)
    assert math.isnan(calibration_error(np.full((1, 2, 3), NAN), np.array([0, 1])))
