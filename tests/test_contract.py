"""The contract, tried with invented methods: what exits say, what decisions cost, what fitting sees, two families."""

import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.engine import tasks
from eelit.methods.engine.costs import MacCounter, UncountedOperation, decision_costs
from eelit.methods.engine.evaluate import answered, followed, infer, replay
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.exit_outputs import all_outputs, remembered
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, at_exit, joined, of_samples, stacked
from eelit.methods.engine.records import Beside, Learning, Lost
from eelit.methods.families.exits import ExitMethod
from eelit.methods.harness import bench, conformance, registry, runner
from eelit.methods.policies.base import said, softmax, values_of
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.voting import Voting
from eelit.methods.recipes.joint import train_joint


class Detecting(nn.Module):
    """A head that says classes, how sure it is, four boxes, and a whole number."""

    def __init__(self):
        super().__init__()
        self.classes, self.boxes = nn.Linear(6, 3), nn.Linear(6, 16)

    def forward(self, state):
        answer = 4 * self.classes(state)
        boxes, found = self.boxes(state).reshape(-1, 4, 4), (state > 0).sum(dim=1)
        return {"answer": answer, "certainty": softmax(answer).amax(dim=1), "boxes": boxes, "found": found}


@pytest.fixture
def model():
    """Three exits that say much, and a last one that says no more than its answer."""
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    return MultiExit(stages, [Detecting(), Detecting(), Detecting(), nn.Linear(6, 3)]).eval()


@pytest.fixture
def x():
    """Forty samples."""
    return torch.randn(40, 6, generator=torch.Generator().manual_seed(0))


def test_what_the_last_exit_does_not_say_is_nan(model, x):
    with torch.inference_mode():
        outputs = model(x)
    assert {name: tuple(part.shape) for name, part in outputs.items()} == {
        "answer": (4, 40, 3), "certainty": (4, 40), "boxes": (4, 40, 4, 4), "found": (4, 40),
    }  # fmt: skip
    for name in ("certainty", "boxes", "found"):
        assert outputs[name][3].isnan().all()
        assert not outputs[name][:3].isnan().any()
    assert not outputs["answer"].isnan().any()
    assert at_exit(outputs, 1)["boxes"].shape == (40, 4, 4)
    assert of_samples(outputs, slice(5))["boxes"].shape == (4, 5, 4, 4)


@pytest.mark.parametrize("policy", [ScoreThreshold(0.7, of="certainty"), MaxConfidence(0.7), Voting(2)], ids=repr)
def test_replay_and_inference_agree_on_all_that_is_said(model, x, policy):
    with torch.inference_mode():
        outputs = model(x)
    exits, found = replay(policy, outputs), infer(model, x, policy)
    assert len(set(exits.tolist())) > 2
    assert replay(policy, {name: part.numpy() for name, part in outputs.items()}).tolist() == exits.tolist()
    assert found.exits.tolist() == exits.tolist()
    told = answered(policy, outputs, exits)
    for name, part in told.items():
        assert torch.allclose(found.outputs[name].float(), part.float(), atol=1e-5, equal_nan=True), name
    early = torch.as_tensor(exits < 3)
    assert torch.equal(found.outputs["boxes"].isnan().flatten(1).all(dim=1), ~early)
    own = outputs["answer"][torch.as_tensor(exits), torch.arange(40)]
    assert torch.allclose(found.answers, own, atol=1e-5) != isinstance(policy, Voting)


class Value(nn.Linear):
    """A head that says one value, as it is, by name, or with another."""

    says = "value"

    def forward(self, state):
        value = super().forward(state).squeeze(-1)
        return {"value": value, "named": {"answer": value}, "scored": {"answer": value, "score": -value}}[self.says]


@dataclass(frozen=True)
class Summed(ScoreThreshold):
    """Goes by the sum of the scores, and answers with it."""

    def step(self, state, output):
        total = values_of(output, self.of) + (state[0] if state else 0)
        return (total,), total > self.threshold

    def answer(self, state, output):
        return state[0]


@dataclass(frozen=True)
class Passing(ScoreThreshold):
    """Goes by the score alone, and passes an exit over where it is low."""

    def start(self):
        return ()

    def step(self, state, output):
        score = values_of(output, self.of)
        here = state[0] if state else torch.zeros(len(score), dtype=torch.int64)
        return (here + 1 + ((score < 0) & (here < 1)).long(),), score > self.threshold

    def route(self, state, output):
        return state[0]


@pytest.mark.parametrize("kind", [ScoreThreshold, Summed, Passing])
@pytest.mark.parametrize("says", ["scored value scored", "named scored value", "value named scored"])
def test_an_exit_before_the_last_that_says_less_is_read_alike_in_replay_and_inference(x, kind, says):
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)]
    model = MultiExit(stages, [Value(6, 1) for _ in range(4)]).eval()
    for head, each in zip(model.heads, [*says.split(), "value"], strict=True):
        head.says = each
    with torch.inference_mode():
        outputs = model(x)
    seen = set()
    for threshold in (-0.5, 0.0, 0.5):
        policy = kind(threshold)
        exits, found = replay(policy, outputs), infer(model, x, policy)
        assert found.exits.tolist() == exits.tolist()
        assert torch.allclose(found.answers, said(answered(policy, outputs, exits)), atol=1e-6)
        assert decision_costs(policy, outputs) == [0] * 4
        seen |= set(exits.tolist())
    assert len(seen) > 2


def test_certainty_is_what_is_read_and_not_the_answer(model, x):
    with torch.inference_mode():
        outputs = model(x)
    by_hand = (outputs["certainty"][:3] > 0.7).int().argmax(dim=0)
    by_hand[~(outputs["certainty"][:3] > 0.7).any(dim=0)] = 3
    assert replay(ScoreThreshold(0.7, of="certainty"), outputs).tolist() == by_hand.tolist()
    with pytest.raises(ValueError, match="the policy reads 'score', but the exit says only 'answer', 'certainty'"):
        replay(ScoreThreshold(0.7), outputs)
    with pytest.raises(ValueError, match=r"one value per sample, \[n\], but the exit says \[40, 4, 4\]"):
        replay(ScoreThreshold(0.7, of="boxes"), outputs)


def test_outputs_of_some_samples_are_joined_whoever_says_less():
    full = {"answer": torch.ones(2, 3), "count": torch.tensor([4, 5])}
    both = joined([full, torch.zeros(1, 3)])
    assert both["answer"].tolist() == [[1.0] * 3, [1.0] * 3, [0.0] * 3]
    assert both["count"][:2].tolist() == [4, 5]
    assert both["count"][2].isnan()
    assert torch.equal(stacked([torch.zeros(2, 3), torch.ones(2, 3)])[1], torch.ones(2, 3))
    assert stacked([full, full])["count"].dtype == torch.int64


def test_the_cache_keeps_all_that_is_said(model, x, tmp_path):
    told: list[str] = []
    examples = Examples(list(x), torch.zeros(40, dtype=torch.int64))
    bench = Bench(cache=tmp_path, progress=lambda label, share: told.append(label))
    fresh = all_outputs(model, examples, Bench(), "")
    first = remembered(model, examples, bench, "test")
    assert told == ["all exits on 40 test samples"]
    again = remembered(model, examples, bench, "test")
    assert len(told) == 1  # a second time nothing is run but a sample, which shows the shapes
    for found in (first, again):
        assert found.keys() == fresh.keys()
        assert all(torch.equal(found[name].nan_to_num(7), fresh[name].nan_to_num(7)) for name in fresh)
    assert bench.trainings == {}


@dataclass(frozen=True)
class Weighing:
    """A rule that multiplies what it is told by a matrix, and stops when the first result is large."""

    threshold: float

    def start(self):
        return ()

    def step(self, state, output):
        answer = said(output)
        return state, softmax(answer @ torch.eye(answer.shape[1])).amax(dim=1) > self.threshold


@dataclass(frozen=True)
class Averaging(Weighing):
    """The same, with an answer that is assembled by a multiplication, too."""

    def step(self, state, output):
        total = said(output) + (state[0] if state else 0)
        return (total,), super().step((), total)[1]

    def answer(self, state, output):
        return state[0] @ torch.ones(state[0].shape[1], 10)[:, : state[0].shape[1]]


@dataclass(frozen=True)
class Digits(ExitMethod):
    """Three exits on digits, under whichever rule."""

    rule_class: type = Weighing

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.9, 1.1)
    data: ClassVar[tuple[str, ...]] = ()

    def load(self):
        return tasks.images("digits", train=300)

    def build(self, data, seed):
        torch.manual_seed(seed)
        stages = [nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())]
        stages += [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(2)]
        return MultiExit(stages, [nn.Linear(32, 10) for _ in range(3)])

    def train(self, model, data, bench):
        train_joint(model, data, bench, weights=[1.0] * 3, epochs=8.0, batch=32, rate=1e-2)

    def policy(self, knob, prepared):
        return self.rule_class(knob)


@pytest.mark.parametrize(("rule", "each", "last"), [(Weighing, 100, 0), (Averaging, 200, 200)])
def test_what_a_policy_computes_is_claimed_and_counted(rule, each, last):
    """The matrices of both rules are 10 × 10; at the last exit only a rule that assembles the answer is asked."""
    method, bench = Digits(rule), Bench(test=100, executed=60, repeats=1)
    prepared = method.prepare(bench)
    seen, policy = prepared.split("test"), rule(0.5)
    assert decision_costs(policy, seen.outputs) == [each, 2 * each, 2 * each + last]
    assert (seen.costs_under(policy) - seen.costs).T.tolist() == [[each, 2 * each, 2 * each + last]] * 100
    assert decision_costs(MaxConfidence(0.5), seen.outputs) == [0, 0, 0]
    exits = replay(policy, seen.outputs)
    assert {0, 2} <= set(exits.tolist())
    paid = seen.costs_under(policy)[exits, np.arange(100)]
    assert seen.under(policy, method.score).cost == pytest.approx(paid.mean())
    done = method.execute(prepared, bench, 0.5)
    assert done.agrees
    assert done.counted == done.claimed == paid[:60].sum()
    with MacCounter() as counter:
        infer(prepared.model, torch.stack(list(seen.examples.inputs[:60])), policy)
    assert counter.macs == done.counted


@dataclass(frozen=True)
class InNumpy(Weighing):
    """The same, multiplied in numpy, where nothing is counted."""

    how: str

    def step(self, state, output):
        answer, matrix = said(output), np.eye(10, dtype=np.float32)
        found = {
            "numpy": lambda: answer.numpy() @ matrix,
            "cpu": lambda: answer.detach().cpu().numpy() @ matrix,
            "asarray": lambda: np.asarray(answer) @ matrix,
            "dot": lambda: np.dot(answer, matrix),
            "einsum": lambda: np.einsum("nc,cd->nd", answer, matrix),
            "dlpack": lambda: np.from_dlpack(answer) @ matrix,
        }[self.how]()
        return state, softmax(torch.as_tensor(found)).amax(dim=1) > self.threshold

    def route(self, state, output):
        return torch.full((len(said(output)),), 2)


@pytest.mark.parametrize("how", ["numpy", "cpu", "asarray", "dot", "einsum", "dlpack"])
def test_a_policy_that_multiplies_where_nothing_is_counted_is_refused(how):
    outputs, policy = torch.randn(3, 4, 10), InNumpy(0.5, how)
    for shown in (outputs, outputs.numpy(), {"answer": outputs, "more": outputs}):
        with pytest.raises(UncountedOperation, match="it must compute in the library of what it is shown"):
            decision_costs(policy, shown)
    with pytest.raises(UncountedOperation):
        followed(policy, outputs)  # as it routes
    assert decision_costs(Weighing(0.5), outputs.numpy()) == [100, 200, 200]


@dataclass(frozen=True)
class Fitted(Digits):
    """A rule whose threshold is fitted, and that tells what it was fitted on."""

    reach: str = ""  # what it asks for that it must not

    fits_on: ClassVar[float] = 0.3
    calls: ClassVar[list[Any]] = []

    def fit(self, prepared):
        self.ask(prepared, "fit")
        seen = prepared.split("fitting")
        self.calls.append(seen.examples)
        return float(softmax(seen.answers[0]).amax(dim=1).median())

    def policy(self, knob, prepared):
        self.ask(prepared, "policy")
        return MaxConfidence(knob * prepared.fitted)

    def train(self, model, data, bench):
        if self.reach == "train":
            len(data.test)

    def build(self, data, seed):
        if self.reach == "build":
            data.part("test")
        return super().build(data, seed)

    def ask(self, prepared, where):
        place, _, how = self.reach.partition(" ")
        if place == where:
            ways = {
                "split": lambda: prepared.split("test"), "inputs": lambda: prepared.data.test.inputs,
                "len": lambda: len(prepared.data.test), "part": lambda: prepared.data.part("test"),
                "again": lambda: prepared.for_choosing.split("test"),
            }  # fmt: skip
            ways[how]()


@pytest.fixture
def calls():
    """What rules were fitted on in this test."""
    Fitted.calls.clear()
    return Fitted.calls


def test_a_rule_is_fitted_once_on_a_part_of_validation_data_of_its_own(calls):
    method, bench = Fitted(), Bench(test=250)
    prepared = method.prepare(bench)
    for split in ("validation", "test"):
        method.sweep(prepared, bench, split, method.knobs)
    method.rule(0.7, prepared)
    (fitting,) = calls
    held, whole = prepared.split("validation").examples, prepared.data.validation
    assert (len(fitting), len(held), len(whole)) == (90, 210, 300)
    both = [*fitting.inputs, *held.inputs]
    assert all(a is b for a, b in zip(both, whole.inputs, strict=True))
    assert prepared.fitted == prepared.for_choosing.fitted
    assert len(calls) == 1
    assert method.rule(1.0, prepared).threshold == prepared.fitted
    method.sweep(method.prepare(bench), bench, "validation", [0.5])
    assert len(calls) == 2


WAYS = ("split", "inputs", "len", "part", "again")


@pytest.mark.parametrize(
    "reach", ["build", "train", *(f"{place} {way}" for place in ("fit", "policy") for way in WAYS)]
)
def test_whatever_builds_trains_fits_or_chooses_cannot_have_test_data(calls, reach):
    method, bench = Fitted(reach=reach), Bench()

    def go():
        prepared = method.prepare(bench)
        prepared.split("test")  # that they were looked at before makes them no more reachable
        method.sweep(prepared, bench, "validation", method.knobs)

    with pytest.raises(TestDataAsked):
        go()


def test_fitting_is_protected_whoever_asks_first(calls):
    """Claims have all of what was prepared, and may be the first to ask for what the rule was fitted to."""
    prepared = Fitted(reach="fit split").prepare(Bench())
    with pytest.raises(TestDataAsked):
        _ = prepared.fitted


def test_choosing_shares_what_was_computed_but_never_the_test_outputs(calls):
    prepared = Fitted().prepare(Bench())
    choosing = prepared.for_choosing
    held = choosing.split("validation")
    assert prepared.split("validation") is held
    prepared.split("test")
    assert prepared.split("test") is prepared.split("test")
    reachable = [part for value in vars(choosing).values() if isinstance(value, dict) for part in value]
    assert "test" not in reachable
    assert choosing._test == []


PAPER = '''"""Two Kinds of Exits (Twofold).

Idea
    One variant exits; the other asks two models in turn.

Training
    Equal weights.

Exit rule
    The largest probability is at least the threshold.

Skipped
    Everything behind.

Deviations
    1. There is no such paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from sklearn.linear_model import LogisticRegression
from torch import nn

from eelit.methods.engine import tasks
from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.members import Estimator, Network
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.cascades import CascadeMethod, fit_estimator, train_network
from eelit.methods.families.exits import ExitMethod
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.joint import train_joint


class OnDigits:
    """What both have in common."""

    def load(self):
        return tasks.images("digits", train=400)

    def policy(self, knob, prepared):
        return MaxConfidence(knob)


@dataclass(frozen=True)
class InTurn(OnDigits, CascadeMethod):
    """Two models."""

    width: int = 64  # of the second model

    data: ClassVar[tuple[str, ...]] = ("movie-reviews",)
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.9, 1.1)

    def build(self, data, seed):
        torch.manual_seed(seed)
        layers = nn.Linear(64, self.width), nn.ReLU(), nn.Linear(self.width, 10)
        return Cascade([Estimator(LogisticRegression(max_iter=200), 10), Network(nn.Sequential(nn.Flatten(), *layers))])

    def train(self, model, data, bench):
        fit_estimator(model.members[0], data, bench)
        train_network(model.members[1], data, bench, epochs=8.0, batch=32, rate=1e-2)


@dataclass(frozen=True)
class Twofold(OnDigits, ExitMethod):
    """Exits."""

    depth: int = 3  # number of exits

    data: ClassVar[tuple[str, ...]] = ()
    knob: ClassVar[str] = "confidence"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.8, 1.1)
    variants: ClassVar[Mapping[str, Any]] = {"exits": {}, "in turn": InTurn}

    def build(self, data, seed):
        torch.manual_seed(seed)
        first = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU())
        rest = [nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(self.depth - 1)]
        return MultiExit([first, *rest], [nn.Linear(32, 10) for _ in range(self.depth)])

    def train(self, model, data, bench):
        train_joint(model, data, bench, weights=[1.0] * self.depth, epochs=5.0, batch=32, rate=1e-2)
'''


@pytest.fixture
def paper(tmp_path, monkeypatch):
    """Register an invented paper whose variants belong to two families, and return its key."""
    key = "smith2027twofold"
    path = tmp_path / f"{key}.py"
    path.write_text(PAPER, encoding="utf-8")
    name = f"eelit.methods.papers.{key}"
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(PAPER, str(path), "exec"), module.__dict__)
    monkeypatch.setattr(registry, "_own", lambda: {key: path})
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("eelit.methods.data.fetch.fetch", lambda item, progress: None)
    return key


def test_variants_of_one_paper_may_be_of_several_families(paper, monkeypatch):
    method = registry.get(paper)
    assert type(method).__name__ == "Twofold"
    assert [type(method.variant(name)).__name__ for name in method.variants] == ["Twofold", "InTurn"]
    assert method.variant("in turn").key == method.key == paper
    monkeypatch.setattr(
        conformance, "no_lead", lambda curve, joint: f"of {curve.variant}" if curve.variant == "exits" else None
    )
    result = runner.run(paper, scale="smoke")
    assert [curve.warnings for curve in result.curves] == [["of exits"], []]
    assert [(curve.variant, curve.knob) for curve in result.curves] == [
        ("exits", "confidence"),
        ("in turn", "threshold"),
    ]
    assert [len(point.exits) for curve in result.curves for point in curve.test[:1]] == [3, 2]
    assert result.settings == {"depth": "3", "width": "64"}
    assert {name.partition(": ")[0] for name in result.data if ": " in name} == {"exits", "in turn"}
    assert [check.name for check in result.checks if not check.holds] == []
    assert len(result.checks) == 2 * len(conformance.RULES)
    some = result.curves[0].test[0].knob  # chosen knobs need not begin at the first exit
    assert runner.run(paper, scale="smoke", variant="exits", knobs=[some]).curves[0].warnings == []
    (one,) = runner.run(paper, scale="smoke", variant="in turn").curves
    assert one.variant == "in turn"
    assert [point.cost for point in one.test] == [point.cost for point in result.curves[1].test]


def test_what_is_learnt_stands_beside_the_claims_and_is_kept_of_each_variant(paper, monkeypatch):
    def learning(method, prepared, bench, curve):
        line = Lost(rule=type(method).__name__, times=[0, 1], values=[0, curve.test[0].cost])
        return [Learning(title=curve.variant, time="samples", unit="MACs", lines=[line])]

    assert registry.learning(paper) is None
    monkeypatch.setattr(registry, "_claims", lambda key: SimpleNamespace(claims=None, learning=learning))
    curves = runner.run(paper, scale="smoke").curves
    assert [curve.learning[0].title for curve in curves] == ["exits", "in turn"]
    assert [curve.learning[0].lines[0].rule for curve in curves] == ["Twofold", "InTurn"]
    assert curves[0].learning[0].lines[0].values == [0, curves[0].test[0].cost]


def test_a_measure_beside_the_quality_may_stand_beside_the_claims_but_smoke_tests_do_without(paper, monkeypatch):
    def beside_curve(method, prepared, bench, curve):
        values = [point.knob for point in curve.test]
        return Beside(name="knobs", meaning=curve.variant, values=values, cheap=2.0, full=1.0, error=0.0)

    assert registry.beside_curve(paper) is None
    module = SimpleNamespace(claims=lambda *_: [], beside_curve=beside_curve)
    monkeypatch.setattr(registry, "_claims", lambda key: module)
    assert [curve.beside for curve in runner.run(paper, scale="smoke").curves] == [None, None]
    found = [curve.beside for curve in runner.run(paper).curves]
    assert [each.meaning for each in found] == ["exits", "in turn"]


def test_a_paper_of_several_families_is_described_whole(paper):
    info = registry.describe(paper)
    assert info.title == "Two Kinds of Exits (Twofold)."
    assert [(setting.name, setting.meaning) for setting in info.settings] == [
        ("depth", "number of exits"), ("width", "of the second model"),
    ]  # fmt: skip
    assert info.data == ["movie-reviews"]


WITHOUT_FULL = {
    "wang2018edge": "the default recipe has the paper's images, and its budgets are knobs",
    **dict.fromkeys(("moos2023ball", "shim2018jafa", "yu2023dtn"), "there is none yet"),
}
"""Methods on no track that have no longer recipe, and why."""


def test_methods_on_no_track_have_a_longer_recipe():
    """On a track, the default recipe is the track's."""
    tracked = {key for name in bench.TRACKS for key in bench.members(name)}
    apart = {info.key for info in registry.described()[0]} - tracked
    assert len(apart) > 10
    without = {key for key in apart if not registry.get(key).full}
    assert without <= set(WITHOUT_FULL)
