"""What only MetaDistil promises: lessons as in the released code, the slope through the trial, what a round does."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import zhou2022metadistil as claimed
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers import zhou2022metadistil as paper
from eelit.methods.papers.zhou2022metadistil import (
    Lesson,
    MetaDistil,
    Reader,
    endless,
    matched,
    says,
    teach_better,
    teaching_slopes,
)
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "zhou2022metadistil"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def double():
    """Numbers of 64 bits, so that slopes can be held against differences."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


class Mean(nn.Module):
    """A head on ``[N, T, d]``, with dropout."""

    def __init__(self):
        super().__init__()
        self.drop, self.line = nn.Dropout(0.5), nn.Linear(4, 3)

    def forward(self, state):
        return self.line(self.drop(state.mean(dim=1)))


def reader(layers, seed):
    torch.manual_seed(seed)
    stages = [nn.Sequential(nn.Embedding(9, 4) if i == 0 else nn.Identity(), nn.Linear(4, 4), nn.Tanh())
              for i in range(layers)]  # fmt: skip
    return Reader(stages, Mean())


def batches():
    torch.manual_seed(5)
    return (
        (torch.randint(9, (6, 3)), torch.randint(3, (6,))),
        (torch.randint(9, (5, 2)), torch.randint(3, (5,))),
    )


def lesson(alpha=0.5, beta=2.0, temperature=3.0, pairs=((0, 1),)):
    return Lesson(alpha, beta, temperature, pairs)


# Lessons.


def test_lessons_are_those_of_the_released_code(golden):
    """Three losses, their sum, and its slopes in the logits of both."""
    z_T, z_S = (torch.tensor(golden[f"{who}_logits"], requires_grad=True) for who in ("teacher", "student"))
    y = torch.tensor(golden["classes"])
    taught, read = (
        [F.normalize(torch.tensor(each), dim=-1) for each in golden[f"{who}_first_tokens"]]
        for who in ("teacher", "student")
    )
    pairs = tuple(matched(3, 6))
    for case in golden["cases"]:
        weights = {name: case[name] for name in ("alpha", "beta", "temperature")}
        found = Lesson(**weights, pairs=pairs).loss((z_S, read), (z_T, taught), y)
        assert found.item() == pytest.approx(case["total"], rel=1e-5)
        for part, alpha in (("cross_entropy", 0.0), ("soft", 1.0)):
            alone = Lesson(alpha, 0.0, case["temperature"], pairs).loss((z_S, read), (z_T, taught), y)
            assert alone.item() == pytest.approx(case[part], rel=1e-5)
        slopes = torch.autograd.grad(found, [z_T, z_S])
        for slope, name in zip(slopes, ("teacher_slopes", "student_slopes"), strict=True):
            assert torch.allclose(slope, torch.tensor(case[name]), atol=1e-6)


def test_layers_are_matched_as_in_the_released_code(golden):
    for sizes, order in golden["order"].items():
        teacher, student = map(int, sizes.split())
        assert matched(student, teacher) == list(enumerate(order))


def test_a_student_with_as_many_layers_follows_each_and_one_of_a_single_layer_none():
    assert matched(4, 4) == [(0, 0), (1, 1), (2, 2)]
    assert matched(1, 4) == []
    for layers in (0, 5):
        with pytest.raises(ValueError, match="1 to 4"):
            matched(layers, 4)


def test_a_lesson_by_hand():
    """Student (1/2, 1/2), teacher (3/4, 1/4) at T = 2: soft 4 · 1/16; cross-entropy ln 2; layers (1, 0) and (0, 1)."""
    z_S, z_T = torch.zeros(1, 2), torch.tensor([[2 * math.log(3), 0.0]])
    read, taught = [torch.tensor([[1.0, 0.0]])], [torch.tensor([[0.5, 0.5]]), torch.tensor([[0.0, 1.0]])]
    found = lesson(0.25, 0.1, 2.0).loss((z_S, read), (z_T, taught), torch.tensor([0]))
    assert found.item() == pytest.approx(0.25 * 0.25 + 0.75 * math.log(2) + 0.1 * 1.0)


def test_a_network_says_what_it_reads_of_inner_layers_at_length_one():
    network, (x, _) = reader(3, 0).eval(), batches()[0]
    z, read = says(network, x)
    assert torch.equal(z, network(x))
    assert len(read) == 2
    for i, each in enumerate(read):
        state = x
        for stage in network.stages[: i + 1]:
            state = stage(state)
        mean = state.mean(dim=1)
        assert torch.allclose(each, mean / mean.norm(dim=-1, keepdim=True), atol=1e-6)


# Teaching.


@pytest.mark.usefixtures("double")
def test_the_slope_through_the_trial_is_what_differences_say():
    """L_Q as a function of the teacher: the trial written out anew for each of her weights, a little up and down."""
    student, teacher, (taught, quiz), xi = reader(2, 1), reader(3, 2), batches(), 0.3
    student.eval()
    teacher.eval()
    found = teaching_slopes(student, teacher, lesson(), taught, quiz, xi)

    def quiz_loss():
        trial = reader(2, 1).eval()
        trial.load_state_dict(student.state_dict())
        loss = lesson().loss(says(trial, taught[0]), says(teacher, taught[0]), taught[1])
        down = torch.autograd.grad(loss, [*trial.parameters()])
        with torch.no_grad():
            for weight, slope in zip(trial.parameters(), down, strict=True):
                weight.sub_(xi * slope)
            return F.cross_entropy(trial(quiz[0]), quiz[1]).item()

    checked = 0
    for p, slope in zip(teacher.parameters(), found, strict=True):
        flat = p.detach().reshape(-1)
        for i in range(0, len(flat), 5):
            was = flat[i].item()
            sides = []
            for step in (1e-5, -1e-5):
                flat[i] = was + step
                sides.append(quiz_loss())
            flat[i] = was
            assert (sides[0] - sides[1]) / 2e-5 == pytest.approx(slope.reshape(-1)[i].item(), abs=1e-7)
            checked += abs(slope.reshape(-1)[i].item()) > 1e-5
    assert checked > 5


@pytest.mark.parametrize(
    ("weights", "xi"), [({"alpha": 0.0, "beta": 0.0}, 0.3), ({}, 0.0)], ids=["teaches nothing", "no trial"]
)
def test_a_teacher_without_influence_has_no_slope(weights, xi):
    student, teacher, (taught, quiz) = reader(2, 1), reader(3, 2), batches()
    slopes = teaching_slopes(student, teacher, lesson(**weights), taught, quiz, xi)
    assert not any(slope.any() for slope in slopes)


def test_to_first_order_the_slope_grows_with_the_step_on_trial():
    student, teacher, (taught, quiz) = reader(2, 1).eval(), reader(3, 2).eval(), batches()
    one, two = (teaching_slopes(student, teacher, lesson(), taught, quiz, xi) for xi in (1e-4, 2e-4))
    for a, b in zip(one, two, strict=True):
        assert torch.allclose(2 * a, b, rtol=1e-2, atol=1e-9)


def test_a_trial_leaves_no_trace():
    student, teacher, (taught, quiz) = reader(2, 1).train(), reader(3, 2).train(), batches()
    before = [p.detach().clone() for p in (*student.parameters(), *teacher.parameters())]
    teaching_slopes(student, teacher, lesson(), taught, quiz, 0.5)
    after = [*student.parameters(), *teacher.parameters()]
    assert all(torch.equal(p, was) for p, was in zip(after, before, strict=True))
    assert all(p.grad is None for p in after)
    assert student.training
    assert teacher.training


def test_the_trial_is_made_with_dropout_and_quiz_and_teacher_are_without():
    student, teacher, (taught, quiz) = reader(2, 1).train(), reader(3, 2).train(), batches()
    seen = []
    for name, network in (("student", student), ("teacher", teacher)):
        network.head.drop.register_forward_hook(lambda part, x, out, name=name: seen.append((name, part.training)))
    teaching_slopes(student, teacher, lesson(), taught, quiz, 0.5)
    assert seen == [("student", True), ("teacher", False), ("student", False)]


def test_a_teacher_steps_down_clipped_slopes():
    teacher = nn.Linear(2, 1, bias=False)
    was = teacher.weight.detach().clone()
    teach_better(teacher, [torch.tensor([[3.0, -4.0]])], torch.optim.SGD(teacher.parameters(), lr=0.5))
    assert torch.allclose(teacher.weight, was - 0.5 * torch.tensor([[0.6, -0.8]]), atol=1e-6)
    assert teacher.weight.grad is None


def test_a_better_teacher_gives_a_better_quiz():
    """In the trial that follows: that is all that a step along the slope promises."""
    student, teacher, (taught, quiz) = reader(2, 1).eval(), reader(3, 2).eval(), batches()

    def quiz_loss():
        down = torch.autograd.grad(
            lesson().loss(says(student, taught[0]), says(teacher, taught[0]), taught[1]), [*student.parameters()]
        )
        named = zip(student.named_parameters(), down, strict=True)
        ahead = {name: p - 0.5 * slope for (name, p), slope in named}
        return F.cross_entropy(torch.func.functional_call(student, ahead, (quiz[0],)), quiz[1]).item()

    before = quiz_loss()
    slopes = teaching_slopes(student, teacher, lesson(), taught, quiz, 0.5)
    teach_better(teacher, slopes, torch.optim.SGD(teacher.parameters(), lr=0.5))
    assert quiz_loss() < before


# A round, as `fit` has it.


def test_stages_their_data_rates_and_length(wired):
    method = tiny()
    model, (first, second) = wired(method)
    student, teacher = (member.network for member in model.members)
    tutor, data = model.tutor, method.load().train
    heads = {id(p) for each in (student, teacher) for p in each.head.parameters()}
    for stage, network in ((first, teacher), (second, student)):
        assert stage.rates == {id(p): 2e-2 if id(p) in heads else 8e-3 for p in network.parameters()}
        assert (stage.epochs, stage.batch) == (8.0, 64)
    assert torch.equal(first.train.targets, data.targets)
    assert first.beside == ()
    assert torch.equal(second.train.targets, data.targets[:630])
    assert all(map(torch.equal, second.train.inputs, data.inputs[:630]))
    (adam,) = second.beside
    assert type(adam) is torch.optim.AdamW
    (group,) = adam.param_groups
    assert [id(p) for p in group["params"]] == [id(p) for p in tutor.parameters()]
    assert (group["lr"], group["weight_decay"]) == (method.teacher_rate, 0.0)
    assert second.learning == {f"members.0.network.{name}" for name in ("head.dropout",)} | {
        name for name in second.learning if name.startswith("members.0.network.stages")
    }
    assert all(map(torch.equal, tutor.state_dict().values(), teacher.state_dict().values()))


def rounds(wired, method):
    model, (_, stage) = wired(method)
    model.members[0].network.train()
    data = method.load().train
    batch = stage.batch_of(torch.arange(8), torch.stack(list(data.inputs[:8])), step=stage.steps // 2)
    return model, stage, batch


@pytest.mark.parametrize("pilot", [True, False])
def test_the_student_learns_from_the_teacher_of_after_the_quiz(wired, monkeypatch, pilot):
    """And with dropout as in the trial; without the pilot update from the teacher of before."""
    method = tiny(pilot=pilot)
    model, stage, batch = rounds(wired, method)
    student, tutor = model.members[0].network.eval(), model.tutor
    before = says(tutor, batch.inputs)
    quizzes = []

    def slopes(*given):
        quizzes.append(given)
        return teaching_slopes(*given)

    monkeypatch.setattr(paper, "teaching_slopes", slopes)
    loss = stage.loss(batch)
    after = says(tutor, batch.inputs)
    assert not torch.equal(before[0], after[0])
    plan = Lesson(method.alpha, method.beta, method.temperature, ((0, 1),))
    wanted = plan.loss(says(student, batch.inputs), after if pilot else before, batch.targets)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-6)
    ((network, teacher, told, (x, y), (x_q, y_q), xi),) = quizzes
    assert (network, teacher, told, xi) == (student, tutor, plan, method.trial_rate)
    assert torch.equal(x, batch.inputs)
    assert torch.equal(y, batch.targets)
    known = method.load().train
    kept = {tuple(each.tolist()): int(k) for each, k in zip(known.inputs[630:], known.targets[630:], strict=True)}
    assert len(x_q) == 64 or len(x_q) == 70 % 64
    assert all(kept[tuple(each.tolist())] == int(k) for each, k in zip(x_q, y_q, strict=True))
    assert stage.beside[0].param_groups[0]["lr"] == pytest.approx(method.teacher_rate * (1 - batch.done))
    assert 0.4 < batch.done < 0.6
    slope = torch.autograd.grad(loss, [*student.parameters()])
    assert all(each.abs().sum() > 0 for each in slope[-2:])


def test_the_step_has_the_dropout_of_the_trial(wired, monkeypatch):
    model, stage, batch = rounds(wired, tiny())
    outputs = []
    model.members[0].network.head.register_forward_hook(
        lambda part, x, out: outputs.append(out.detach()) if part.training else None
    )
    stage.loss(batch)
    trial, step = outputs
    assert torch.allclose(trial, step, atol=1e-5)  # attention is computed otherwise


def test_a_teacher_who_stays_makes_it_plain_distillation(wired):
    method = tiny(teacher_rate=0.0, quiz=0.0)
    model, stage, batch = rounds(wired, method)
    assert stage.beside == ()
    assert len(stage.train) == 700
    tutor = {name: tensor.clone() for name, tensor in model.tutor.state_dict().items()}
    student = model.members[0].network.eval()
    plan = Lesson(method.alpha, method.beta, method.temperature, ((0, 1),))
    wanted = plan.loss(says(student, batch.inputs), says(model.tutor, batch.inputs), batch.targets)
    assert stage.loss(batch).item() == pytest.approx(wanted.item(), rel=1e-6)
    assert all(torch.equal(tensor, model.tutor.state_dict()[name]) for name, tensor in tutor.items())


def test_a_step_on_trial_of_no_length_teaches_nothing(wired):
    model, stage, batch = rounds(wired, tiny(trial_rate=0.0))
    tutor = [p.detach().clone() for p in model.tutor.parameters()]
    stage.loss(batch)
    assert all(torch.equal(p, was) for p, was in zip(model.tutor.parameters(), tutor, strict=True))


def test_quizzes_go_on_for_ever_in_other_orders():
    examples = Examples(list(torch.arange(20).reshape(10, 2)), torch.arange(10))
    source = endless(examples, 4, 0, torch.device("cpu"))
    passes = [[next(source) for _ in range(3)] for _ in range(2)]
    orders = [torch.cat([y for _, y in each]).tolist() for each in passes]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(10))
    assert orders[0] != orders[1]
    assert all(torch.equal(x[:, 0], 2 * y) for each in passes for x, y in each)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"alpha": 1.5}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"temperature": 0.0}, "temperature"),
        ({"trial_rate": math.inf}, "trial_rate"),
        ({"teacher_rate": -1.0}, "teacher_rate"),
        ({"quiz": 0.95}, "quiz"),
        ({"quiz": 0.0}, "kept for it"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        MetaDistil(**settings)


# What is used.


def test_student_and_teacher_start_as_they_were_pretrained():
    """The student's layers are the teacher's first; heads are drawn apart, each with a copy of the pooler."""
    model = tiny(layers=3).build(tiny().load(), 0)
    student, teacher = (member.network for member in model.members)
    assert (len(student.stages), len(teacher.stages)) == (3, 4)
    assert not torch.equal(student.head.classifier.weight, teacher.head.classifier.weight)
    assert not {id(p) for p in student.parameters()} & {id(p) for p in teacher.parameters()}
    assert not {id(p) for p in model.tutor.parameters()} & {id(p) for p in teacher.parameters()}
    with pytest.raises(ValueError, match="1 to 4"):
        tiny(layers=5).build(tiny().load(), 0)


def test_the_teacher_who_answers_is_the_fine_tuned_one(prepared):
    """The other one has learnt something else meanwhile, and is asked by nobody."""
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    teacher = ready.model.members[1].network
    with torch.inference_mode():
        assert torch.equal(ready.model.run(x, method.policy(1.1, ready)).outputs, teacher(x))
        assert torch.equal(ready.model.run(x, method.policy(0.0, ready)).outputs, ready.model.members[0].network(x))
        assert not torch.equal(teacher(x), ready.model.tutor(x))
    assert method.policy(0.7, ready) == MaxConfidence(0.7)


def test_the_fine_tuned_teacher_is_the_same_whatever_she_teaches(prepared):
    method, bench, ready = prepared(KEY)
    other = method.replace({"teacher_rate": 0.0, "quiz": 0.0}).prepare(bench)
    theirs = other.model.members[1].state_dict()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ready.model.members[1].state_dict().items())
    assert all(map(torch.equal, other.model.tutor.state_dict().values(), theirs.values()))


# What is claimed.


@pytest.mark.parametrize(
    ("fixed", "late", "labels", "held"),
    [
        (0.70, 0.70, 0.70, {"better than a fixed teacher", "the pilot update helps", "better than labels alone"}),
        (0.746, 0.70, 0.75, {"the pilot update helps"}),
        (0.70, 0.746, 0.70, {"better than a fixed teacher", "better than labels alone"}),
    ],
)
def test_each_comparison_needs_half_a_point_and_differs_by_the_teacher_alone(
    prepared, monkeypatch, fixed, late, labels, held
):
    method, _, ready = prepared(KEY)
    asked = {}
    said = iter((fixed, late, labels))
    monkeypatch.setattr(MetaDistil, "prepare", lambda self, bench: asked.setdefault(self, next(said)))
    monkeypatch.setattr(claimed, "alone", lambda who, what: np.full(9, 0.75 if what is ready else what))
    found = claimed.claims(method, ready, Bench(), None)
    assert {o.name for o in found if o.holds} - {"the teacher learns to teach, and still knows the answers"} == held
    all_taught = {"teacher_rate": 0.0, "quiz": 0.0}
    assert list(asked) == [
        method.replace(all_taught),
        method.replace({"pilot": False}),
        method.replace({**all_taught, "alpha": 0.0, "beta": 0.0}),
    ]


def test_half_a_point_within_two_standard_errors_is_none():
    ours, theirs = np.ones(200), np.ones(200)
    theirs[:3] = 0  # by 0.015 ± 0.0086
    assert not claimed.better("", ours, theirs, "").holds
    theirs[:6] = 0  # by 0.03 ± 0.0121
    found = claimed.better("", ours, theirs, "")
    assert found.holds
    assert found.measured == "1.0000 and 0.9700 (+0.0300 ± 0.0121)"


def test_who_is_measured_is_the_student_alone(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    right = (seen.answers[0].argmax(dim=-1) == seen.targets).double().mean().item()
    assert claimed.alone(method, ready).mean() == pytest.approx(right)


@pytest.mark.parametrize(
    ("moved", "changed", "holds"),
    [
        (0.04, 0, True),
        (0.04, 5, True),
        (0.04, -5, True),
        (0.04, 30, False),  # she is better by three points
        (0.04, -30, False),  # she has forgotten as much
        (0.04, -17, False),  # which may be two points
        (0.005, 0, False),  # her labels hardly moved
    ],
)
def test_a_teacher_has_learnt_to_teach_if_her_labels_moved_and_she_knows_as_much(
    prepared, monkeypatch, moved, changed, holds
):
    """Of a thousand labels, all 0, she has half right, and some more or fewer afterwards."""
    _, _, ready = prepared(KEY)
    every = Examples([torch.zeros(1)] * 1000, torch.zeros(1000, dtype=torch.int64))

    def labels(right, further=0.0):
        p = torch.where(torch.arange(1000) < right, 0.58 + further, 0.42 - further)
        return torch.stack([p, 1 - p], dim=1)

    said = iter((labels(500), labels(500 + changed, moved)))
    monkeypatch.setattr(claimed, "probabilities", lambda network, examples: next(said))
    monkeypatch.setattr(type(ready), "split", lambda self, name: type("Seen", (), {"examples": every}))
    assert claimed.teacher_learns(ready).holds is holds


def test_probabilities_are_in_the_order_of_the_examples():
    network = reader(2, 0).eval()
    x = [torch.tensor([1, 2]), torch.tensor([3, 4, 5]), torch.tensor([6, 7])]
    found = claimed.probabilities(network, Examples(x, torch.zeros(3)))
    with torch.no_grad():
        assert torch.allclose(found, torch.cat([network(each[None]).softmax(dim=-1) for each in x]), atol=1e-6)
