"""What only EECE promises: classes are struck out, the one that is left is the answer, betas are searched."""

import json
import math
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import wang2024exclusion as tried
from eelit.methods.engine.costs import decision_costs, exit_costs
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.harness import registry
from eelit.methods.papers.wang2024exclusion import ClassExclusionExits, HeldOut, exclusion_loss, head_weights, searched
from eelit.methods.policies.class_exclusion import ClassExclusion

KEY = "wang2024exclusion"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
INF = math.inf


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def logits():
    return torch.tensor(np.random.default_rng(1).normal(scale=2, size=(4, 200, 6)))


def of_scores(*exits):
    """Logits ``[E, 1, C]`` of one sample whose heads have these sigmoids."""
    s = np.array(exits)
    return np.log(s / (1 - s))[:, None]


def remaining(beta, outputs):
    """Which classes remain ``[E, n, C]`` after each exit, if nobody stops."""
    return torch.stack(tried.remaining_classes(ClassExclusion(beta), torch.as_tensor(outputs)))


# The rule.


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_worked_case(array):
    """0.2 of 0.8 strikes out what is at most 0.16, 0.5 of 0.6 what is at most 0.3."""
    outputs = array(of_scores([0.8, 0.5, 0.16, 0.1], [0.3, 0.6, 0.9, 0.5], [0.4, 0.3, 0.2, 0.1]))
    policy = ClassExclusion((0.2, 0.5))
    state, stop = policy.step((), outputs[0])
    assert state[0].tolist() == [[True, True, False, False]]
    assert not bool(stop[0])
    state, stop = policy.step(state, outputs[1])
    assert state[0].tolist() == [[False, True, True, False]]  # the third is back, for it is the best; the first goes
    assert not bool(stop[0])
    state, _ = policy.step(state, outputs[2])
    assert state[0].tolist() == [[False, True, True, False]]  # the last exit changes nothing
    found = np.asarray(policy.answer(state, outputs[2]))[0]
    assert found.argmax() == 1  # not the first, which would be the best of all
    assert np.isneginf(found[[0, 3]]).all()


def test_a_class_at_the_limit_goes():
    """The test is strict: a class that reaches exactly beta times the best is struck out."""
    best, other = 0.0, math.log(1 / 3)  # sigmoids 1/2 and 1/4
    outputs = torch.tensor([[[best, other]], [[1.0, 2.0]]], dtype=torch.float64)
    assert replay(ClassExclusion((0.5 + 1e-9,)), outputs).tolist() == [0]
    assert replay(ClassExclusion((0.5 - 1e-9,)), outputs).tolist() == [1]
    assert replay(ClassExclusion((0.5,)), torch.zeros(2, 1, 2)).tolist() == [1]
    assert replay(ClassExclusion((1.0,)), torch.zeros(2, 1, 2)).tolist() == [0]


def test_with_all_betas_0_the_plain_network_answers(logits):
    wild = torch.cat([logits[:3] * 1000, logits[3:]])  # sigmoids that underflow to 0 are no reason
    policy = ClassExclusion((0.0,) * 3)
    exits = replay(policy, wild)
    assert (exits == 3).all()
    assert remaining((0.0,) * 3, wild).all()
    assert torch.equal(answered(policy, wild, exits), wild[-1])


def test_with_beta_1_everything_leaves_at_the_first_head_with_its_best_class(logits):
    policy = ClassExclusion((1.0, 0.0, 0.0))
    exits = replay(policy, logits)
    assert (exits == 0).all()
    assert torch.equal(answered(policy, logits, exits).argmax(dim=-1), logits[0].argmax(dim=-1))
    near = replay(ClassExclusion((0.99, 0.0, 0.0)), logits)
    top = logits[0].sigmoid().topk(2, dim=-1).values
    assert (torch.as_tensor(near == 0) == (top[:, 1] <= 0.99 * top[:, 0])).all()


@pytest.mark.parametrize("beta", [(0.1, 0.2, 0.3), (0.5, 0.01, 0.9), (0.99, 0.99, 0.99)])
def test_something_always_remains_and_nothing_but_the_best_returns(logits, beta):
    found = remaining(beta, logits)
    assert found.any(dim=-1).all()
    for i, (before, after) in enumerate(pairwise(found)):
        new = after & ~before
        assert new.sum(dim=-1).max() <= 1
        rows, classes = new.nonzero(as_tuple=True)
        if i + 1 < len(beta):
            assert torch.equal(logits[i + 1][rows].argmax(dim=-1), classes)
    assert torch.equal(found[-1], found[-2])


def test_a_sample_leaves_exactly_when_one_class_is_left_and_that_is_its_answer(logits):
    beta = (0.7, 0.5, 0.7)
    policy, found = ClassExclusion(beta), remaining(beta, logits)
    exits = torch.as_tensor(replay(policy, logits))
    single = found[:3].sum(dim=-1) == 1
    expected = torch.where(single.any(dim=0), single.int().argmax(dim=0), 3)
    assert torch.equal(exits, expected)
    assert sorted(set(exits.tolist())) == [0, 1, 2, 3]
    told = answered(policy, logits, exits.numpy())
    for i in range(3):
        here = exits == i
        assert torch.equal(told[here].argmax(dim=-1), logits[i][here].argmax(dim=-1))
        assert (told[here].isfinite().sum(dim=-1) == 1).all()
    last = exits == 3
    masked = torch.where(found[2], logits[3], -INF)
    assert torch.equal(told[last], masked[last])
    assert (masked[last].argmax(dim=-1) != logits[3][last].argmax(dim=-1)).any()


def test_what_remains_is_per_sample_not_per_batch(logits):
    """The released search puts the best class of each sample of a batch back into what remains of all."""
    policy = ClassExclusion((0.3, 0.5, 0.7))
    together = replay(policy, logits).tolist()
    assert together == [int(replay(policy, one)[0]) for one in logits.split(1, dim=1)]


def test_a_class_struck_out_does_not_win_where_all_others_are_negative():
    """The released search multiplies logits by 0 and 1, so that 0 wins over the remaining -1."""
    outputs = torch.tensor([[[2.0, 1.9, -9.0]], [[-1.0, -2.0, -3.0]]])
    policy = ClassExclusion((0.5,))
    assert answered(policy, outputs, replay(policy, outputs))[0].tolist() == [-1.0, -2.0, -INF]


def test_an_exit_that_is_not_finite_strikes_nothing_out():
    nan = torch.tensor([[[3.0, 2.9, -9.0]], [[math.nan, 0.0, 0.0]], [[-1.0, -2.0, 5.0]]])
    policy = ClassExclusion((0.5, 0.5))
    exits = replay(policy, nan)
    assert exits.tolist() == [2]
    assert answered(policy, nan, exits)[0].tolist() == [-1.0, -2.0, -INF]


@pytest.mark.parametrize("given", [0.5, "0.5", [], [0.1, math.nan]])
def test_each_head_has_a_beta_of_its_own(given):
    with pytest.raises(ValueError, match="beta is one number"):
        ClassExclusion(given)
    assert ClassExclusion(np.array([0.25, 0.5])) == ClassExclusion((0.25, 0.5))


def test_the_rule_multiplies_nothing(logits):
    assert decision_costs(ClassExclusion((0.1, 0.2, 0.3)), logits) == [0] * 4


# The loss and how it is trained.


def test_later_heads_weigh_more():
    assert head_weights(6) == pytest.approx([1 / 7, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2])


def by_the_equation(outputs, y, c):
    """L, sample by sample and class by class."""
    *u, z = outputs.double()
    N, (n, C) = len(u), z.shape
    total = sum(-float(z[i, y[i]] - z[i].logsumexp(dim=0)) for i in range(n)) / n
    for number, scores in enumerate(u):
        s = 1 / (1 + (-scores).exp())
        terms = [-c * s[i, k].log() if k == y[i] else -(1 - s[i, k]).log() for i in range(n) for k in range(C)]
        total += float(sum(terms)) / len(terms) / (N - number + 1)
    return total


@pytest.mark.parametrize("c", [36.0, 1.0, 396.0])
def test_loss_on_fixed_numbers(c):
    outputs, y = torch.randn(4, 5, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 1, 1, 0])
    assert float(exclusion_loss(outputs, y, c)) == pytest.approx(by_the_equation(outputs, y, c), rel=1e-5)


def test_loss_by_hand():
    """One head, all scores 1/2: (36 ln 2 + ln 2) / 2 classes, halved; z undecided between two: ln 2."""
    found = float(exclusion_loss(torch.zeros(2, 1, 2), torch.tensor([1]), 36.0))
    assert found == pytest.approx(math.log(2) * (1 + 37 / 2 / 2))


def test_network_and_heads_learn_together_from_all_training_images(one_stage):
    method = registry.get(KEY).variant("", "tiny").replace({"batch": 20, "epochs": 1.5, "pos_weight": 11.0})
    model, stage = one_stage(method)
    index = torch.arange(5, 17)
    x, y = torch.stack([stage.train.inputs[i] for i in index.tolist()]), stage.train.targets[index]
    batch = stage.batch_of(index, x)
    model.eval()
    assert stage.loss(batch).item() == pytest.approx(by_the_equation(model(x).detach(), y, 11.0), rel=1e-4)
    assert torch.equal(stage.train.targets, method.load().train.targets)
    assert stage.rates == {id(p): method.rate for p in model.parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, round(1.5 * method.train_size / 20))
    assert type(stage.optimiser) is torch.optim.AdamW


def test_heads_are_linear_in_the_mean_of_the_map():
    method = registry.get(KEY)
    head, x = method.head((3, 6, 6), 10), torch.randn(2, 3, 6, 6)
    assert torch.allclose(head(x), head[-1](x.mean(dim=(2, 3))), atol=1e-6)
    quarters = method.replace({"side": 2}).head((3, 6, 6), 10)
    assert torch.allclose(quarters[0](x)[0, 0, 1, 0], x[0, 0, 3:, :3].mean())
    assert quarters[-1].in_features == 12
    assert method.replace({"side": 4}).head((3, 2, 2), 10)[-1].in_features == 12


# The search.


def table(**least):
    """An accuracy that falls by 0.1 once the beta of a head reaches a number, ``h0``, ``h1`` …; and what was asked."""
    asked = []

    def accuracy_of(betas):
        asked.append(betas)
        return 0.9 - 0.1 * sum(beta >= least[f"h{i}"] for i, beta in enumerate(betas))

    return accuracy_of, asked


def test_betas_rise_one_after_the_other_until_too_much_is_lost():
    accuracy_of, asked = table(h0=0.105, h1=0.005, h2=0.305)
    assert searched(accuracy_of, 3, 0.05) == (0.1, 0.01, 0.01)
    assert asked[0] == (0.0, 0.0, 0.0)
    assert asked[1:12] == [(step / 100, 0.0, 0.0) for step in range(1, 12)]  # the first head alone, to what is too much
    assert asked[12:] == [(0.1, 0.01, 0.0), (0.1, 0.01, 0.01)]  # 0.01 is the least, though it costs too much


def test_what_may_be_lost_is_lost_once():
    accuracy_of, _ = table(h0=0.105, h1=0.205)
    assert searched(accuracy_of, 2, 0.15) == (0.99, 0.2)


def test_a_beta_is_0_99_at_most():
    assert searched(lambda betas: 0.5, 2, 0.001) == (0.99, 0.99)


def test_a_search_begins_at_0_01_and_goes_on_where_striking_out_helps():
    assert searched(lambda betas: 0.5 + 0.1 * betas[0], 1, 0.0) == (0.99,)


def test_accuracy_must_stay_above_what_may_be_lost():
    reached = {0.0: 0.75, 0.01: 0.75, 0.02: 0.5}
    assert searched(lambda betas: reached.get(betas[0], 0.0), 1, 0.25) == (0.01,)
    assert searched(lambda betas: reached.get(betas[0], 0.0), 1, 0.26) == (0.02,)


def test_accuracy_is_that_of_the_rule(logits):
    y, beta = torch.randint(6, (200,), generator=torch.Generator().manual_seed(0)), (0.3, 0.5, 0.7)
    held, policy = HeldOut(logits.numpy(), y.numpy()), ClassExclusion(beta)
    right = answered(policy, logits, replay(policy, logits)).argmax(dim=-1) == y
    assert held.accuracy_of(beta) == pytest.approx(float(right.double().mean()))
    assert held.accuracy_of(beta) == held.reached[beta]


def test_betas_are_searched_on_the_fitting_half_alone(prepared):
    method, _, ready = prepared(KEY)
    fitting = ready.split("fitting")
    assert len(fitting.targets) == len(ready.split("validation").targets) == 150
    for tolerance in (0.05, 0.001, 0.0):
        beta = method.rule(tolerance, ready).beta
        held = HeldOut(fitting.outputs.numpy(), fitting.targets.numpy())
        assert beta == searched(held.accuracy_of, 2, tolerance)
        assert all(0.01 <= each <= 0.99 for each in beta)
    assert method.rule(1.0, ready) == ClassExclusion((1.0, 1.0))
    assert method.rule(-1.0, ready) == ClassExclusion((0.0, 0.0))


def test_betas_cannot_be_searched_on_test_data(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    monkeypatch.setattr(type(method), "fit", lambda self, given: given.split("test"))
    with pytest.raises(TestDataAsked):
        method.rule(0.01, replace(ready, _fitted=[]))


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        outputs = ready.model(x)
    policy = max((method.rule(knob, ready) for knob in method.knobs), key=lambda rule: len(set(replay(rule, outputs))))
    found, exits = infer(ready.model, x, policy, exit_costs(ready.model, x[:1])), replay(policy, outputs)
    assert found.exits.tolist() == exits.tolist()
    assert torch.equal(found.answers.argmax(dim=-1), answered(policy, outputs, exits).argmax(dim=-1))
    assert len(set(exits.tolist())) > 1


# The released code.


def test_agrees_with_the_released_code(golden):
    """Remaining classes, loss and searched betas, of images one by one (see `provenance` in the file)."""
    u = torch.tensor(golden["logits"])
    for case in golden["exclusions"]:
        beta = tuple(case["beta"])
        found = remaining(beta, torch.cat([u, u[:1]]))[: len(beta)]
        exits = torch.as_tensor(replay(ClassExclusion(beta), torch.cat([u, u[:1]])))
        assert exits.tolist() == case["exits"]
        at_exit = found[exits.clamp(max=len(beta) - 1), torch.arange(len(exits))]
        assert [row.nonzero().flatten().tolist() for row in at_exit] == case["remaining"]
    for case in golden["losses"]:
        outputs = torch.cat([u, torch.tensor(golden["last"])[None]])
        y, c = torch.tensor(golden["labels"]), case["pos_weight"]
        plain, heads = F.cross_entropy(outputs[-1], y), exclusion_loss(outputs, y, 1.0)
        assert float(plain + c * (heads - plain)) == pytest.approx(case["loss"], rel=1e-5)  # all terms c times
        assert (float(exclusion_loss(outputs, y, c)) == pytest.approx(case["loss"], rel=1e-5)) is (c == 1)


def test_searches_as_the_released_code_does(golden):
    """Where all last logits are positive, so that masking by 0 does no harm, and no search reaches its upper end."""
    outputs = np.concatenate([golden["logits"], [golden["last"]]])
    held = HeldOut(outputs, np.array(golden["labels"]))
    assert (outputs[-1] > 0).all()
    for case in golden["searches"]:
        found = searched(held.accuracy_of, len(outputs) - 1, case["tolerance"])
        assert found == pytest.approx(case["beta"], abs=1e-9)
    assert len({tuple(case["beta"]) for case in golden["searches"]}) > 2


def test_the_released_search_lets_batch_mates_bring_classes_back(golden):
    """A trap: the same images in one batch keep other classes than one by one."""
    assert golden["in_one_batch"]["remaining"] != golden["exclusions"][0]["remaining"]
    assert golden["in_one_batch"]["beta"] == golden["exclusions"][0]["beta"]


# What is claimed.


@pytest.mark.parametrize(
    ("quality", "speed", "holds"), [(0.895, 1.4, True), (0.88, 1.4, False), (0.895, 1.3, False)]
)  # fmt: skip
def test_what_is_chosen_on_validation_data_must_save_a_quarter_and_lose_a_point_at_most(
    quality, speed, holds, monkeypatch
):
    def points(*pairs):
        return [
            SimpleNamespace(knob=knob, quality=q, speed_up=s, cost=1 / s)
            for knob, (q, s) in zip((0.1, 0.01, -1.0), pairs, strict=True)
        ]

    monkeypatch.setattr(tried, "Baseline", lambda **given: None)
    monkeypatch.setattr(tried, "few_are_left", lambda *given: given[-1])
    monkeypatch.setattr(tried, "surer", lambda *given: None)
    held, test = points((0.7, 3.0), (0.893, 1.5), (0.9, 1.0)), points((0.9, 3.0), (quality, speed), (0.9, 1.0))
    curve = SimpleNamespace(validation=held, test=test, full_quality=0.9)
    found, knob, _ = tried.claims(ClassExclusionExits(), None, None, curve)
    assert found.holds is holds
    assert knob == 0.01


def test_few_classes_are_left_where_the_true_one_is_among_them(prepared):
    method, _, ready = prepared(KEY)
    nothing_left_out = tried.few_are_left(method, ready, -1.0)
    seen = ready.split("test")
    known = int((seen.outputs[-1].argmax(-1) == seen.targets).sum())
    assert not nothing_left_out.holds
    assert nothing_left_out.measured == (
        "10.00 of 10 left for the 400 images that reach the last layer, the true one for 100.0% of the "
        f"{known} that it has right; left after each head: 10.00, 10.00"
    )
    policy = method.rule(0.01, ready)
    last = torch.as_tensor(replay(policy, seen.outputs)) == 2
    left = remaining(policy.beta, seen.outputs)[1][last].sum(dim=-1).double().mean()
    assert f"{left:.2f} of 10 left" in tried.few_are_left(method, ready, 0.01).measured


@pytest.mark.parametrize(("lost", "holds"), [(1, True), (2, False)])
def test_the_true_class_is_asked_for_where_images_leave_of_those_that_the_last_layer_has_right(lost, holds):
    """Of 60 images in four classes the last layer has 50 right, 30 leave at once, and ``lost`` of these are wrong."""
    sure = torch.tensor([9.0, -9, -9, -9])
    torn = torch.tensor([1.0, 1, -9, -9])
    first = torch.cat([sure.expand(30, 4), torn.expand(30, 4)])
    last = torch.tensor([3.0, 2, 1, 0]).expand(60, 4).clone()
    last[:lost], targets = torch.tensor([0.0, 3, 2, 1]), torch.zeros(60, dtype=torch.int64)
    targets[:lost], targets[50:] = 1, 2
    outputs = torch.stack([first, last])
    seen = SimpleNamespace(outputs=outputs, answers=outputs, targets=targets)
    rule = SimpleNamespace(rule=lambda tolerance, ready: ClassExclusion((0.5,)))
    found = tried.few_are_left(rule, SimpleNamespace(split=lambda name: seen), 0.01)
    assert found.holds is holds
    assert found.measured == (
        f"2.00 of 4 left for the 30 images that reach the last layer, the true one for {1 - lost / 50:.1%} of the 50 "
        "that it has right; left after each head: 1.50"
    )


def test_the_rival_has_the_same_heads_and_weights_but_cross_entropies(one_stage):
    method = registry.get(KEY).variant("", "tiny")
    rival = tried.Confident(**{field.name: getattr(method, field.name) for field in fields(method)})
    model, stage = one_stage(rival)
    x, y = torch.stack(stage.train.inputs[:7]), stage.train.targets[:7]
    model.eval()
    log_p = torch.log_softmax(model(x).detach(), dim=-1)[:, torch.arange(7), y].mean(dim=1)
    expected = -(log_p[0] / 3 + log_p[1] / 2 + log_p[2])
    assert stage.loss(stage.batch_of(torch.arange(7), x)).item() == pytest.approx(float(expected), rel=1e-4)
    assert rival.key == method.key


def side(*settings, name="x"):
    """Settings by knob, cost and accuracy, on validation data and of 2,000 test images, the first ones being right."""
    held = [OperatingPoint(knob=k, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for k, c, q, _ in settings]
    test = [
        point.model_copy(update={"quality": q, "samples": Samples(np.arange(2000) < round(2000 * q), np.zeros(2000))})
        for point, (*_, q) in zip(held, settings, strict=True)
    ]
    return Baseline(name=name, validation=held, test=test)


def test_the_rival_may_cost_what_exclusion_costs_on_validation_data():
    """On test data ours happens to be dearer, which gives the rival nothing more to spend."""
    ours, theirs = side((0.001, 0.4, 0.6, 0.6)), side((0.5, 0.4, 0.6, 0.6), (0.9, 0.8, 0.7, 0.7))
    dearer = [point.model_copy(update={"cost": 0.8, "speed_up": 1 / 0.8}) for point in ours.test]
    (found,) = tried.at_the_cost_of(ours.model_copy(update={"test": dearer}), theirs)
    assert found.mean() == pytest.approx(0.0)


@pytest.mark.parametrize(
    ("ours", "holds", "told"),
    [(0.66, True, "+0.0100 ± 0.0035"), (0.654, False, "+0.0040 ± 0.0035"), (0.60, False, "-0.0500 ± 0.0034")],
)
def test_exclusion_is_judged_at_the_tolerance_of_the_paper_and_the_curve_told(monkeypatch, ours, holds, told):
    """At its cost of 0.6 the rival mixes two thresholds; our other tolerances lose by far, and decide nothing."""
    theirs = side((0.1, 0.1, 0.3, 0.3), (0.5, 0.4, 0.6, 0.6), (0.9, 0.8, 0.7, 0.7), (1.1, 1.0, 0.7, 0.7))
    asked = []
    monkeypatch.setattr(tried.Confident, "prepare", lambda self, bench: None)
    other = theirs.model_copy(update={"name": "max-confidence"})
    monkeypatch.setattr(tried.Confident, "baselines", lambda *given: [theirs, other])
    monkeypatch.setattr(tried, "gains_of_mixtures", lambda *sides: asked.append(sides) or [-0.2])
    points = side((1.0, 0.1, 0.3, 0.3), (0.1, 0.5, 0.2, 0.2), (0.001, 0.6, 0.65, ours), (-1.0, 1.0, 0.7, 0.7))
    found = tried.surer(ClassExclusionExits(), None, points)
    assert found.holds is holds
    assert found.measured == (
        f"{told} at 0.001; over the whole curve, whose other tolerances are ours, -0.2000 on average over 1 costs"
    )
    assert [[point.knob for point in each.validation] for each in asked[0]] == [[0.1, 0.001], [0.5, 0.9]]


def test_what_no_threshold_costs_as_little_as_is_not_won(monkeypatch):
    monkeypatch.setattr(tried.Confident, "prepare", lambda self, bench: None)
    monkeypatch.setattr(
        tried.Confident, "baselines",
        lambda *given: [side((0.5, 0.4, 0.6, 0.6), (0.9, 0.8, 0.7, 0.7), name="max-confidence")],
    )  # fmt: skip
    found = tried.surer(ClassExclusionExits(), None, side((0.001, 0.3, 0.9, 0.9)))
    assert not found.holds
    assert found.measured.startswith("no threshold is as cheap at 0.001; ")


def test_the_tolerance_of_the_paper_is_tried():
    assert tried.TOLERANCE in ClassExclusionExits.knobs
