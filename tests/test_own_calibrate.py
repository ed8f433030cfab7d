"""Calibrating: promises hold on real data, drawn anew a thousand times; rules are kept, read and applied."""

import itertools
import json
import math
import re

import numpy as np
import promises
import pytest
import torch
from promises import TIMES
from stored import COSTS, made
from torch import nn

from eelit.methods.engine.evaluate import followed, infer, replay
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.harness import bench, own_speed
from eelit.methods.own import calibrate as calibrating
from eelit.methods.own import guarantees, rules
from eelit.methods.own.advise import DROP, WORTH, WORTH_A_LOSS, _cut_off, _saving, _waiting, advise
from eelit.methods.own.calibrate import CannotPromise, calibrate
from eelit.methods.own.compare import compare, without_loss
from eelit.methods.own.curves import halves
from eelit.methods.own.decide import decide
from eelit.methods.own.files import read
from eelit.methods.own.logits import Logits, WrongLogits, standard_error
from eelit.methods.own.saved import Mixture, SavedRule, Skipping, WrongRule, drawn, load_rule
from eelit.methods.own.scores import Scores
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.temperature import Tempered


@pytest.fixture(scope="module")
def real():
    return promises.real()


def as_shown(found, which):
    """Check that the site shows what is found here: rates within half a point, draws within 20 of 1,000."""
    shown = own_speed.stored(bench.folder()).promises[which]
    assert shown.method == found.method
    assert (shown.found, shown.deviation) == pytest.approx((found.found, found.deviation), abs=0.005)
    assert shown.promised == pytest.approx(found.promised, abs=20)


def test_learn_then_test_is_missed_no_more_often_than_delta(real):
    """The margin is three standard deviations of a share of 1,000 draws: 0.1 + 3 √(0.1 · 0.9 / 1000) = 0.128."""
    found, rules_ = promises.learn_then_test(real)
    assert found.promised > 0.8 * TIMES
    assert found.limit == pytest.approx(0.1285, abs=1e-4)
    assert found.kept
    as_shown(found, 0)
    assert max(rule.promise["measured_loss"] for rule in rules_) <= found.risk  # proved on the half where it is told


def test_conformal_risk_control_keeps_the_mean_risk(real):
    """The margin is three standard errors of the mean over 1,000 draws."""
    found, lost = promises.conformal_risk_control(real)
    assert found.kept
    as_shown(found, 1)
    assert found.found > 0.3 * found.risk  # and it is not kept by never leaving
    assert max(lost) > found.risk  # on average, not each time


@pytest.fixture(scope="module")
def shipped_lost():
    """Return outputs that come with eelit, and a function: rule → its loss on all of them, from which is drawn."""
    data = read("example:images")
    scores = Scores(data, threads=1)

    def drop(rule):
        lost = scores.gain[-1] - decide(rule.parts[0][1], scores, rule.enabled).gain
        return float(np.maximum(lost, 0).mean())

    return data, drop


@pytest.mark.parametrize(
    ("policy", "goal", "limit"),
    [("auto", {"risk": 0.05, "delta": 0.2}, 0.05), ("max-confidence", {"max_drop": 0.06, "confidence": 0.8}, 0.06)],
    ids=str,
)
def test_promises_hold_on_a_shipped_file_whichever_policy_is_taken(shipped_lost, policy, goal, limit):
    """The margin is three standard deviations: with 100 draws 0.2 + 3 √(0.2 · 0.8 / 100) = 0.32."""
    (data, drop), times, rng = shipped_lost, 100, np.random.default_rng(4)
    missed = taken = 0
    for seed in range(times):
        rows = rng.integers(0, data.samples, 300)
        costs = data.costs[:, rows] if data.costs.ndim == 2 else data.costs
        drawn_ = Scores(Logits(data.z[:, rows], data.labels[rows], costs, axes="enc", kind=data.kind), threads=1)
        try:
            rule = calibrate(drawn_, policy, seed=seed, settings=6 if policy == "auto" else 30, **goal)
        except CannotPromise:
            continue
        taken += 1
        missed += drop(rule) > limit
    assert taken > times / 2
    assert missed / times <= 0.2 + 3 * math.sqrt(0.2 * 0.8 / times)


def test_taking_what_looked_good_enough_would_break_both_promises(real):
    """So the two tests above can fail: the boldest setting within the risk, as measured, misses it half the time."""
    risk, scores = 0.05, Scores(real, threads=1)
    every = rules.RULES["max-confidence"].settings(scores, np.arange(real.samples), 200)
    lost = np.stack([np.maximum(scores.gain[-1] - decide(policy, scores).gain, 0) for policy in reversed(every)])
    rng, missed, proved = np.random.default_rng(2), 0, 0
    for _ in range(TIMES):
        losses = lost[:, rng.integers(0, real.samples, 150)]
        naive = np.flatnonzero(losses.mean(axis=1) <= risk)[-1]
        missed += lost[naive].mean() > risk
        tested = guarantees.controlled(losses, risk)
        proved += tested is not None and lost[tested].mean() > risk
    assert missed / TIMES > 0.3
    assert proved < missed


@pytest.mark.parametrize("p_value", [guarantees.binomial, guarantees.hoeffding_bentkus])
@pytest.mark.parametrize("correction", ["fixed-sequence", "bonferroni"])
def test_a_setting_just_above_the_risk_is_rarely_proved(real, correction, p_value):
    """The hardest case: real losses whose mean over the population is the risk that must not be exceeded."""
    scores, delta = Scores(real, threads=1), 0.2
    policy = rules.RULES["max-confidence"].settings(scores, np.arange(real.samples), 40)[24]
    lost = np.maximum(scores.gain[-1] - decide(policy, scores).gain, 0)
    risk, rng, proved = float(lost.mean()) - 1e-9, np.random.default_rng(3), 0
    assert 0.01 < risk < 0.15
    for _ in range(TIMES):
        losses = np.stack([np.zeros(300), lost[rng.integers(0, real.samples, 300)]])
        proved += guarantees.proved(losses, risk, delta, correction, p_value) == 1
    assert proved / TIMES <= delta + 3 * math.sqrt(delta * (1 - delta) / TIMES)
    assert proved / TIMES > 0.05 * delta  # and not for want of trying
    if (correction, p_value) == ("fixed-sequence", guarantees.binomial):
        assert proved / TIMES > 0.6 * delta  # an exact test leaves little of what is allowed


def test_losses_of_samples_are_tested_exactly_and_means_of_groups_are_not(real):
    """Of one seed after the other the exact test proves what the bound proves, and more."""
    groups = np.arange(real.samples) // 2
    told = calibrate(Logits(real.z, real.labels, COSTS, groups=groups), risk=0.05, delta=0.1, settings=12)
    n = told.promise["losses_on"]
    for row in told.table_:
        assert row["p_value"] == guarantees.hoeffding_bentkus(row["tested_loss"], n, 0.05)
    spent = {guarantees.binomial: [], guarantees.hoeffding_bentkus: []}
    for name, seed in itertools.product(("text", "images", "images-plain"), range(3)):
        scores = Scores(read(f"example:{name}"))
        task = calibrating._task(scores, "max-confidence", "drop", seed, 50, lambda message, share: None)
        path = calibrating.path(task)
        losses = task.told(np.stack([task.losses(setting) for setting in path]))
        for p_value, costs in spent.items():
            chosen = guarantees.proved(losses, 0.02, 0.1, p_value=p_value)
            costs.append(task.costs(path[chosen])[task.parts.telling].mean())
    exact, bound = (np.array(costs) for costs in spent.values())
    assert (exact <= bound).all()
    assert (bound - exact).mean() > 0.01


def test_candidates_of_bonferroni_and_of_the_fixed_sequence():
    losses = np.zeros((3, 200))
    losses[1, :40] = 1
    assert guarantees.proved(losses, 0.05, 0.1) == 0  # stops at the first that fails
    assert guarantees.proved(losses, 0.05, 0.1, "bonferroni") == 2
    assert guarantees.proved(losses[1:2], 0.05, 0.1) is None
    assert guarantees.controlled(losses, 0.05) == 0
    assert guarantees.controlled(losses, 0.21) == 2
    assert guarantees.controlled(np.zeros((2, 18)), 0.05) is None  # 1 / 19 is above it
    assert guarantees.controlled(np.zeros((2, 19)), 0.05) == 1
    assert (guarantees.least_samples(0.05), guarantees.least_samples(0.05, 0.1)) == (19, 45)
    assert guarantees.proved(np.zeros((1, 45)), 0.05, 0.1) == 0
    assert guarantees.proved(np.zeros((1, 44)), 0.05, 0.1) is None
    with pytest.raises(ValueError, match="bonferroni"):
        guarantees.proved(losses, 0.05, 0.1, "holm")


def test_a_share_of_answers_is_refused_and_no_more():
    rng, refused = np.random.default_rng(0), []
    for _ in range(TIMES):
        scores = rng.random(60)
        refused.append(guarantees.rejecting(scores[:59], 0.1) > scores[59])
    assert np.mean(refused) <= 0.1 + 3 * math.sqrt(0.09 / TIMES)
    assert np.mean(refused) > 0.06
    assert guarantees.rejecting(np.arange(8.0), 0.1) == -math.inf
    assert guarantees.rejecting(np.arange(9.0), 0.1) == 0


def test_losses_of_a_group_count_once():
    values = np.array([[1.0, 0, 0, 1], [0, 0, 0, 1]])
    assert guarantees.by_group(values, np.array([5, 5, 5, 9])).tolist() == [[1 / 3, 1], [0, 1]]
    z, y = made(4, 400, 4)
    rule = calibrate(Logits(z, y, groups=np.repeat(np.arange(100), 4)), risk=0.2, delta=0.1, settings=8)
    assert rule.promise["losses_on"] == 50


@pytest.mark.parametrize("policy", ["auto", "max-confidence", "patience", "budgeted", "surest"])
def test_the_budget_is_kept_and_nearly_spent(real, policy):
    rule = calibrate(real, policy, budget=0.4, settings=16)
    assert rule.budget_met_
    measured = rule.promise["measured"]
    assert measured["share"] <= 0.4 + 3 * measured["share_error"]
    assert measured["quality"] > 0.7
    told = halves(real).telling
    found = rule.apply(real)
    right = found.answers[told] == real.labels[told]
    assert right.mean() == pytest.approx(measured["quality"], abs=0.03 if len(rule.parts) == 2 else 1e-6)
    assert np.array(COSTS)[found.exits[told]].mean() / 64 == pytest.approx(measured["share"], abs=0.02)


def test_what_cannot_be_promised_says_what_could_be(real):
    for goal, said in (
        ({"budget": 0.05}, "9.4% is the least that can be promised"),
        ({"risk": 0.001, "delta": 0.05}, "at least 2995 samples without any loss are needed on this half"),
        ({"mean_risk": 0.0001}, "is the least that could be"),
        ({"reject": 0.0005}, "samples on this half are needed"),
    ):
        with pytest.raises(CannotPromise) as error:
            calibrate(real, settings=8, **goal)
        assert said in str(error.value)
        assert "\n" not in str(error.value)
    z, y = made(3, 200, 4)
    z[:-1] = z[:-1, ::-1]  # early exits speak of other samples
    with pytest.raises(CannotPromise, match="least drop at which something is saved"):
        calibrate(Logits(z, y), "max-confidence", max_drop=0.0, settings=8)


@pytest.mark.parametrize(
    ("goals", "said"),
    [
        ({}, "exactly one of budget"),
        ({"budget": 0.5, "risk": 0.1}, "not 2"),
        ({"risk": 0.1}, "go together"),
        ({"budget": 0.5, "delta": 0.1}, "go together"),
        ({"budget": 0.5, "confidence": 0.9}, "goes with max_drop"),
        ({"budget": math.nan}, "above 0"),
        ({"budget": -1.0}, "above 0"),
        ({"budget": 2.0}, "above 0 and at most 1, not 2"),
        ({"risk": 1.5, "delta": 0.1}, "below 1"),
        ({"budget": 0.5, "loss": "error"}, "for risk and mean_risk"),
        ({"max_drop": 0.0, "confidence": 0.9}, "above 0"),
    ],
)
def test_goals_that_mean_nothing_are_refused(real, goals, said):
    with pytest.raises(ValueError, match=said):
        calibrate(real, "max-confidence", settings=4, **goals)


def test_a_drop_is_kept_with_and_without_a_proof(real):
    plain = calibrate(real, max_drop=0.02, settings=12)
    sure = calibrate(real, max_drop=0.02, confidence=0.9, settings=12)
    assert plain.promise["measured"]["drop"] <= 0.02 + 2 * plain.promise["measured"]["drop_error"]
    assert "where the rule was chosen, two standard errors included (no proof)" in plain.promise["text"]
    scores, choosing = Scores(real), halves(real).choosing
    lost = (scores.gain[-1] - decide(plain.parts[0][1], scores, plain.enabled).gain)[choosing]
    assert lost.mean() + 2 * lost.std(ddof=1) / math.sqrt(len(lost)) <= 0.02 + 1e-9
    assert (plain.promise["proved"], sure.promise["proved"]) == (False, True)
    assert sure.promise["measured_loss"] < 0.02
    assert plain.promise["measured"]["saved"] >= sure.promise["measured"]["saved"] > 0


def test_the_error_of_a_mixture_is_that_of_samples_of_which_each_draws_one(real):
    """A share of the samples costs an eighth, the others all of it; whose turn it is, is drawn."""
    rule = calibrate(real, "static", budget=0.6, settings=12)
    assert len(rule.parts) == 2
    told = halves(real).telling
    spent = np.array(COSTS)[rule.apply(real).exits[told]] / 64
    assert rule.promise["measured"]["share_error"] == pytest.approx(spent.std() / math.sqrt(len(told)), rel=0.15)


@pytest.mark.parametrize(
    "goal", [{"budget": 0.45}, {"max_drop": 0.02}, {"reject": 0.1}, {"mean_risk": 0.05}, {"risk": 0.05, "delta": 0.1},
             {"risk": 0.05, "delta": 0.1, "correction": "bonferroni"}], ids=str,
)  # fmt: skip
def test_the_table_says_which_setting_was_chosen_and_what_was_tested(real, goal):
    rule = calibrate(real, settings=12, **goal)
    (row,) = (row for row in rule.table_ if row["chosen"])
    assert row["rule"] == rule.rule
    written = json.loads(rule.to_json())
    assert [part["settings"] for part in row["mixture"]] == [part["settings"] for part in written["mixture"]]
    if "measured_loss" not in rule.promise:
        return
    assert row["tested_loss"] == rule.promise["measured_loss"]
    assert row["proved"]
    n, delta = rule.promise["losses_on"], 0.1 / (len(rule.table_) if "correction" in goal else 1)
    for row in rule.table_:
        if "delta" in goal:
            lost = round(n * row["tested_loss"])
            exact = sum(math.comb(n, k) * 0.05**k * 0.95 ** (n - k) for k in range(lost + 1))
            assert row["p_value"] == pytest.approx(exact, rel=1e-9)
            assert not row["proved"] or row["p_value"] <= delta
        else:
            assert not row["proved"] or (n * row["tested_loss"] + 1) / (n + 1) <= row["bound"] <= 0.05
    assert not all(row["proved"] for row in rule.table_)


def test_an_error_may_be_promised_instead_of_a_drop(real):
    wrong = 1 - float(Scores(real).gain[-1].mean())
    rule = calibrate(real, "max-confidence", mean_risk=wrong + 0.05, loss="error", settings=12)
    assert "the rule is wrong" in rule.promise["text"]
    with pytest.raises(CannotPromise):
        calibrate(real, "max-confidence", mean_risk=wrong / 2, loss="error", settings=12)


def test_who_is_refused_is_who_the_last_exit_is_least_sure_of(real):
    rule = calibrate(real, "max-confidence", reject=0.1, settings=20)
    found = rule.apply(real)
    told, scores, measured = halves(real).telling, Scores(real), rule.promise["measured"]
    assert measured["refused"] == found.rejected[told].mean()
    right = (found.answers == real.labels)[told][~found.rejected[told]].mean()
    sure_full = scores.confidence[-1][told].astype(np.float64)
    full = scores.gain[-1][told][sure_full >= guarantees.rejecting(sure_full, 0.1)].mean()
    assert (measured["quality_of_answered"], measured["full_quality_of_answered"]) == pytest.approx((right, full))
    assert measured["drop_of_answered"] == pytest.approx(full - right, abs=1e-6)
    last = found.exits == real.exits - 1
    sure = Scores(real).confidence[-1]
    assert (found.rejected == (last & (sure < rule.reject_below))).all()
    assert 0.04 < found.rejected.mean() < 0.14
    kept = ~found.rejected
    assert (found.answers == real.labels)[kept].mean() > Scores(real).gain[-1].mean()
    assert rule.rejected(real.z[-1]).tolist() == (sure < rule.reject_below).tolist()
    with pytest.raises(ValueError, match="refuses"):
        rule.policy  # noqa: B018


def test_the_error_of_what_is_lost_among_the_answered_is_that_of_samples_drawn_anew(real):
    """The full model refuses other samples, so the two means are over samples that are the same only in part."""
    scores, parts = Scores(real), halves(real)
    (setting,) = calibrating.tried(rules.RULES["max-confidence"], scores, parts.choosing, 4)[1:2]
    task, rows = calibrating.Task(scores, parts, [setting], "drop"), parts.telling
    sure = scores.confidence[-1][rows].astype(np.float64)
    who = (setting.decided.exits[rows] < 4) | (sure > 0.5), sure > 0.7
    found = calibrating._of_answered(task, setting, rows, who)
    gains, rng = (setting.decided.gain[rows], scores.gain[-1][rows]), np.random.default_rng(0)
    drops = []
    for _ in range(2000):
        again = rng.integers(0, len(rows), len(rows))
        own, full = (gain[again][answered[again]].mean() for gain, answered in zip(gains, who, strict=True))
        drops.append(full - own)
    assert found["drop_of_answered_error"] == pytest.approx(np.std(drops), rel=0.1)
    assert found["drop_of_answered"] == pytest.approx(gains[1][who[1]].mean() - gains[0][who[0]].mean(), abs=1e-6)


def test_refusing_chooses_with_room_for_error_and_tells_where_it_was_not_enough():
    """What only looked as right as the full model, of hundreds of settings, is less right on the other half."""
    told = []
    for name, seed in itertools.product(("text", "images", "images-plain"), range(3)):
        rule = calibrate(f"example:{name}", reject=0.1, seed=seed, settings=25)
        m = rule.promise["measured"]
        told.append(m["drop_of_answered"] / max(m["drop_of_answered_error"], 1e-9))
        assert rule.budget_met_ == (told[-1] <= 2)
        assert rule.promise["as_measured"] == (m["drop_of_answered"] <= 1e-9)
        assert m["refused"] < 0.13
    assert np.mean(np.array(told) <= 2) > 0.85  # most of these were missed where no room was left
    assert len(set(np.array(told) <= 0)) == 2


def test_where_fewer_reach_the_last_exit_than_may_be_refused_all_of_them_are(tmp_path):
    """The limit is a number, which JSON can hold, and no infinity."""
    labels, sure = np.arange(400) % 5, np.arange(400) % 7 != 3
    first = np.where(sure, 6.0, 0.1)[:, None] * np.eye(5)[np.where(sure, labels, (labels + 1) % 5)]
    rule = calibrate(
        Logits(np.stack([first, 6 * np.eye(5)[labels]]), labels, costs=[1, 4]), "max-confidence", reject=0.2, settings=9
    )
    rule.save(tmp_path / "rule.json")
    found = load_rule(tmp_path / "rule.json").apply(np.stack([first, 6 * np.eye(5)[labels]]))
    assert (found.exits == np.where(sure, 0, 1)).all()
    assert (found.rejected == ~sure).all()


def test_values_have_budgets_and_no_risks():
    y = np.linspace(0, 1, 200)
    z = y + np.random.default_rng(0).normal(size=(4, 200)) * np.array([0.3, 0.1, 0.05, 0.01])[:, None]
    data = Logits(z, y, axes="en")
    rule = calibrate(data, budget=0.8, settings=12)
    assert np.abs(rule.apply(data).answers - y).mean() < 0.1
    for goal in (
        {"risk": 0.1, "delta": 0.1},
        {"mean_risk": 0.1},
        {"reject": 0.1},
        {"max_drop": 0.1, "confidence": 0.9},
    ):
        with pytest.raises(WrongLogits, match="no bound"):
            calibrate(data, **goal)


@pytest.mark.parametrize("ask", [advise, compare, lambda data: calibrate(data, budget=0.5)])
def test_a_file_is_read_and_what_is_no_output_is_one_sentence(ask):
    assert ask("example:images-plain")
    with pytest.raises(
        WrongLogits, match=r"as Logits\(z, labels, costs=\[…\]\), or as the name of a file, not as a ndarr"
    ):
        ask(np.zeros((3, 40, 2)))
    z, y = made(1, 40, 2)
    with pytest.raises(WrongLogits, match="there is only one exit"):
        ask(Logits(z, y))


def test_nothing_is_said_of_outputs_that_are_not_finite(real):
    for exits, count, why in ((slice(-1, None), 20, "the last exit"), (slice(2, 3), 200, "some exit")):
        z = real.z.copy()
        z[exits, :count] = np.nan
        data = Logits(z, real.labels, COSTS)
        found = advise(data, settings=6)
        assert (found.verdict, found.worth_it, found.not_finite) == ("no verdict", False, count)
        assert found.reason.startswith(why)
        with pytest.raises(WrongLogits, match=f"nothing can be promised: {why}"):
            calibrate(data, budget=0.5, settings=6)
    z = real.z.copy()
    z[1, :5] = np.nan
    assert advise(Logits(z, real.labels, COSTS), settings=6).worth_it


def test_of_no_samples_none_is_drawn():
    assert drawn(np.zeros((0, 4))).shape == (0,)
    mixed = Mixture(Patience(1), Patience(2), 0.5)
    assert mixed.step(mixed.start(), np.zeros((0, 4)))[1].shape == (0,)


def test_a_mixture_of_values_has_no_share_of_nobody():
    y = np.linspace(0, 1, 200)
    z = y + np.random.default_rng(0).normal(size=(4, 200)) * np.array([0.3, 0.1, 0.05, 0.01])[:, None]
    for budget in (0.25, 0.5, 0.6, 0.75, 1.0):
        rule = calibrate(Logits(z, y, axes="en"), "static", budget=budget)
        assert all(weight > 0.001 for weight, _ in rule.parts)


# Kept and applied


GOALS = [{"budget": 0.45}, {"max_drop": 0.02}, {"risk": 0.05, "delta": 0.1}, {"reject": 0.1}]


@pytest.mark.parametrize(
    ("name", "goal"), list(itertools.product(["max-confidence", "calibrated-confidence"], GOALS)), ids=str
)
def test_a_rule_is_read_as_it_was_written(real, tmp_path, name, goal):
    rule = calibrate(real, name, settings=40, **goal)
    rule.save(tmp_path / "rule.json")
    again = load_rule(tmp_path / "rule.json")
    assert again == rule
    assert [path.name for path in tmp_path.iterdir()] == ["rule.json"]
    assert (tmp_path / "rule.json").stat().st_size < 4000
    for ours, theirs in zip(vars(rule.apply(real)).values(), vars(again.apply(real)).values(), strict=True):
        assert (ours == theirs).all()
    assert again.data["digest"] == real.digest()
    assert again.versions["numpy"] == np.__version__


def by_hand(rule, z):
    """Ask a rule exit by exit, of its enabled exits alone, one sample at a time."""
    found = []
    for n in range(z.shape[1]):
        state = rule.start()
        for e in rule.enabled[:-1]:
            state, stop = rule.step(state, z[e, n : n + 1])
            if stop[0]:
                break
        else:
            e = rule.exits - 1
        found.append(e)
    return found


def network(z):
    """Return a network whose exits say stored logits ``[E, N, C]`` of the numbers of samples."""

    class Head(nn.Module):
        def __init__(self, said):
            super().__init__()
            self.said, self.asked = said, 0

        def forward(self, number):
            self.asked += len(number)
            return self.said[number]

    return MultiExit([nn.Identity() for _ in z], [Head(torch.as_tensor(said)) for said in z])


@pytest.mark.parametrize("goal", [{"budget": 0.45}, {"risk": 0.15, "delta": 0.1}], ids=str)
@pytest.mark.parametrize(
    "name",
    ["max-confidence", "budgeted", "patience", "calibrated-confidence", "percentile-entropy", "static", "mean-so-far"],
)
def test_stored_stepped_and_really_skipping_agree(real, name, goal):
    rule = calibrate(real, name, settings=12, **goal)
    z = real.z[:, :200]
    exits = rule.apply(z).exits.tolist()
    assert by_hand(rule, z) == exits
    model = network(z)
    found = infer(model, torch.arange(200), rule.policy)
    assert found.exits.tolist() == exits
    assert found.answers.argmax(dim=-1).tolist() == rule.apply(z).answers.tolist()
    asked = [head.asked for head in model.heads]
    for e, count in enumerate(asked):
        if e and e not in rule.enabled:
            assert count == 0


def test_exits_at_which_nobody_left_are_not_asked():
    inner = MaxConfidence((0.6, 0.7))
    skipping = Skipping(inner, (1, 3, 4))
    z, _ = made(5, 60, 3)
    wanted = np.full(60, 4)
    for e, limit in ((3, 0.7), (1, 0.6)):
        wanted[decide(MaxConfidence(limit), Scores(Logits(z[[e, 4]]))).exits == 0] = e
    course = followed(skipping, z)
    assert course.exits.tolist() == wanted.tolist()
    assert not course.visited[2].any()
    assert course.visited[0].all()


def test_a_mixture_draws_by_the_sample_and_evenly():
    z, y = made(3, 4000, 5)
    chance = drawn(z[0])
    assert (drawn(torch.as_tensor(z[0])) == chance).all()
    assert (drawn(z[0, 5:6]) == chance[5:6]).all()
    counts = np.histogram(chance, 10, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 27.9  # of nine degrees of freedom above this in one of 1,000
    right = (z[0].argmax(axis=-1) == y)[chance < 0.5]
    assert abs(right.mean() - (z[0].argmax(axis=-1) == y).mean()) < 0.05
    mixed = Mixture(Patience(1), Patience(2), 0.25)
    exits = replay(mixed, z)
    one, two = replay(Patience(1), z), replay(Patience(2), z)
    assert exits.tolist() == np.where(chance < 0.25, two, one).tolist()


def test_thresholds_of_exits_that_are_not_asked_are_left_out(real):
    rule = SavedRule("x", ((1.0, MaxConfidence((0.9, 0.8, 0.7, 0.6))),), 5, (1, 3, 4), 10, "logits")
    z = real.z[:, :100]
    assert by_hand(rule, z) == rule.apply(z).exits.tolist()
    assert rule.apply(z).exits.tolist() == decide(MaxConfidence((9, 0.8, 9, 0.6)), Scores(Logits(z))).exits.tolist()
    heated = Tempered((9.0, 0.7, 9.0, 0.3, 1.0), MaxConfidence((0.9, 0.7, 0.1, 0.8)))
    rule = SavedRule("x", ((1.0, heated),), 5, (1, 3, 4), 10, "logits")
    assert len(set(by_hand(rule, z))) == 3
    assert by_hand(rule, z) == rule.apply(z).exits.tolist()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda rule: "[]", "no rule that"),
        (lambda rule: "{", "no JSON"),
        (lambda rule: {**rule, "format": "x"}, "no rule that"),
        (lambda rule: {**rule, "version": 2}, "version 2"),
        (lambda rule: {**rule, "policy": "os.system"}, "no policy 'os.system'"),
        (lambda rule: {**rule, "enabled": [0, 1]}, "the last of 5 exits"),
        (lambda rule: {**rule, "enabled": [4, 0]}, "rise"),
        (lambda rule: {**rule, "exits": "5"}, "exits are a number"),
        (lambda rule: {**rule, "mixture": []}, "sum to 1"),
        (lambda rule: {**rule, "mixture": [{"weight": 1, "settings": {"limit": 1}}]}, "has not these settings"),
        (lambda rule: {**rule, "mixture": [{"weight": 1, "settings": {"threshold": "x"}}]}, "threshold is one number"),
        (lambda rule: {name: value for name, value in rule.items() if name != "kind"}, "'kind' is missing"),
    ],
)
def test_files_that_are_no_rules_are_one_sentence(real, tmp_path, change, said):
    rule = json.loads(calibrate(real, "max-confidence", max_drop=0.02, settings=6).to_json())
    found = change(rule)
    (tmp_path / "rule.json").write_text(found if isinstance(found, str) else json.dumps(found))
    with pytest.raises(WrongRule, match=said) as error:
        load_rule(tmp_path / "rule.json")
    assert "\n" not in str(error.value)


def test_a_rule_for_other_outputs_is_refused(real):
    rule = calibrate(real, "max-confidence", max_drop=0.02, settings=6)
    with pytest.raises(WrongRule, match="5 exits and 10 classes, but the outputs have 5 and 9"):
        rule.apply(real.z[..., :9])
    with pytest.raises(WrongRule, match="5 exits and 10 classes, but the outputs have 4 and 10"):
        rule.apply(Logits(real.z[:4]))
    with pytest.raises(WrongRule, match=r"5 exits of logits: outputs \[4, 1397, 10\] have 4 exits, not 5"):
        rule.apply(real.z[:4])


def test_axes_of_few_new_samples_are_told_by_the_rule(real):
    rule = calibrate(real, "max-confidence", max_drop=0.02, settings=6)
    wanted = rule.apply(real).exits[:3].tolist()
    assert rule.apply(real.z[:, :3]).exits.tolist() == wanted
    assert rule.apply(real.z[:, :3].transpose(1, 0, 2)).exits.tolist() == wanted
    with pytest.raises(WrongRule, match="may have exits or samples first"):
        rule.apply(real.z[:, :5])
    assert rule.apply(real.z[:, :5], axes="enc").exits.tolist()[:3] == wanted


def test_probabilities_are_given_to_a_rule_for_logits_by_name(real):
    """Taken for logits they would all look unsure; by their logarithms they decide as the logits do."""
    p = np.exp(real.z - real.z.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    for name in ("max-confidence", "raw-margin", "calibrated-confidence", "patience"):
        rule = calibrate(real, name, budget=0.5, settings=12)
        with pytest.raises(WrongRule, match="sum to 1: say by kind whether they are probabilities"):
            rule.apply(p)
        found = rule.apply(p, kind="probabilities")
        if len(rule.parts) == 1:
            assert (found.exits != rule.apply(real).exits).mean() < 0.002  # but for rounding
        assert (rule.apply(p, kind="logits").exits != found.exits).any() or name == "patience"
    for name in ("activation", "sole-class", "class-exclusion"):
        rule = calibrate(real, name, budget=0.5, settings=12)
        with pytest.raises(WrongRule, match=f"`{name}` reads how large logits are, which probabilities do not tell"):
            rule.apply(p, kind="probabilities")
        with pytest.raises(WrongRule, match="do not tell"):
            rule.apply(Logits(p, real.labels))
    rule = calibrate(Logits(p, real.labels, COSTS), "max-confidence", budget=0.5, settings=12)
    with pytest.raises(ValueError, match="are no probabilities"):
        rule.apply(real.z)


def test_a_rule_that_reads_another_column_asks_for_it(real):
    gate = Scores(real).confidence.astype(np.float32)
    rule = calibrate(Logits(real.z, real.labels, COSTS, extra={"gate": gate}), "score:gate", budget=0.5, settings=12)
    with pytest.raises(WrongRule, match="`score:gate` reads what the exits said beside their answer; give it by extra"):
        rule.apply(real.z)
    assert len(set(rule.apply(real.z, extra={"gate": gate}).exits.tolist())) > 1


def test_the_path_saves_ever_more_and_follows_from_the_choosing_half(real):
    scores, parts = Scores(real), halves(real)
    every = calibrating.tried(rules.RULES["margin"], scores, parts.choosing, 20, disable=True)
    task = calibrating.Task(scores, parts, every, "drop")
    found = calibrating.path(task)
    costs = [float(task.costs(setting)[parts.choosing].mean()) for setting in found]
    lost = [float(task.losses(setting)[parts.choosing].mean()) for setting in found]
    y = real.labels.copy()
    y[parts.telling] = np.random.default_rng(0).integers(0, 10, len(parts.telling))
    other = Scores(Logits(real.z, y, COSTS))
    again = calibrating.tried(rules.RULES["margin"], other, parts.choosing, 20, disable=True)
    task = calibrating.Task(other, parts, again, "drop")
    assert [setting.policy for setting in calibrating.path(task)] == [setting.policy for setting in found]
    assert costs == sorted(costs, reverse=True)
    assert lost == sorted(lost)
    assert costs[0] < 1


# Advice


def test_exits_that_know_when_they_are_right_are_worth_it(real):
    found = advise(real, settings=16)
    assert found.worth_it
    assert found.lossless.share > 0.1
    assert found.oracle_saves > found.lossless.share
    gain = Scores(real).gain[:, halves(real).telling]
    assert found.overthinking == pytest.approx(((gain[:-1].max(axis=0) == 1) & (gain[-1] == 0)).mean())
    assert [e.quality for e in found.exits] == pytest.approx(gain.mean(axis=1).tolist())
    assert found.heads_share is None
    batches = list(found.lossless.batches.values())
    assert batches == sorted(batches, reverse=True)
    assert batches[1] < batches[0] - 0.05
    assert batches[0] == pytest.approx(found.lossless.share)


def test_what_a_batch_that_waits_saves_is_what_drawn_batches_save(real):
    scores, rows = Scores(real), np.arange(real.samples)
    (setting,) = calibrating.tried(rules.RULES["max-confidence"], scores, rows, 3)[1:2]
    costs, rng = np.array(COSTS) / COSTS[-1], np.random.default_rng(0)
    for batch in (1, 4, 16):
        drawn_ = rng.choice(setting.decided.exits, (4000, batch)).max(axis=1)
        error = costs[drawn_].std() / math.sqrt(4000)
        assert abs(_waiting(scores, setting, rows, batch) - (1 - costs[drawn_].mean())) < 4 * error


def verdict(ease, plain=None, samples=3000):
    z, y = made(4, samples, 5, seed=3)
    rng = np.random.default_rng(4)
    z = rng.normal(size=z.shape) + np.asarray(ease)[:, None, None] * np.eye(5)[y]
    return advise(
        Logits(z.astype(np.float32), y, None if plain is None else [1.2, 2.4, 3.6, 4.8], plain_costs=plain), settings=12
    )


def test_exits_that_are_too_weak_are_not_worth_it():
    found = verdict([-9, -9, -9, 6], [1.2, 2.2, 3.2, 4.2])
    assert found.verdict == "not worth it"
    assert "too weak" in found.reason
    assert found.heads_share == pytest.approx(4.8 / 4.2 - 1)
    assert [e.head_share for e in found.exits] == pytest.approx([0.2 / 4.2] * 3 + [None])


def test_where_the_first_exits_are_as_good_the_network_is_cut_off():
    found = verdict([5, 5, 5, 5])
    assert found.verdict == "cut the network off"
    assert found.static_saves == pytest.approx(0.75)


def test_exits_that_do_not_know_when_they_are_right_are_not_worth_it():
    z, y = made(4, 3000, 2, seed=3)
    rng = np.random.default_rng(4)
    right = rng.random(z.shape[:2]) < np.array([0.6, 0.62, 0.64, 0.9])[:, None]
    z = np.eye(2)[np.where(right, y, 1 - y)] * rng.exponential(size=z.shape[:2])[..., None]
    found = advise(Logits(z, y), settings=12)
    assert found.verdict == "not worth it"
    assert "do not know when they are right" in found.reason
    assert found.oracle_saves > 0.3


def test_few_samples_do_not_tell():
    found = verdict([1.5, 1.8, 2.1, 2.4], samples=100)
    assert found.verdict == "too few samples to tell"
    assert "collect more" in found.reason


def test_a_setting_that_only_looked_good_where_it_was_chosen_hides_no_other():
    """The cheapest setting that lost nothing on one half loses too much on the other; a safer one is worth it."""
    found = advise(read("example:text"))
    assert found.lossless.drop > 2 * found.lossless.drop_error
    assert found.verdict == "worth it at a small loss"
    assert found.small_loss.share > WORTH_A_LOSS
    assert found.small_loss.drop + 2 * found.small_loss.drop_error <= found.small_loss.bound <= DROP
    verdicts = {advise(read("example:text"), seed=seed, settings=20).worth_it for seed in range(3)}
    assert verdicts == {True}


@pytest.mark.parametrize("seed", range(4))
def test_what_is_worth_it_loses_little_with_room_for_error(seed):
    """A loss that is merely not told from none is no reason: 0.0117 ± 0.0076 may as well be 0.02."""
    found = advise(read("example:images"), seed=seed, settings=20)
    sure = [s for s in (found.lossless, found.small_loss) if s and s.drop + 2 * s.drop_error <= DROP]
    assert found.worth_it == any(s.share >= WORTH_A_LOSS or (s.share >= WORTH and s.drop <= s.drop_error) for s in sure)
    if not found.worth_it:
        assert found.verdict == "too few samples to tell"
        assert "may be above or below the 0.01" in found.reason


def test_errors_are_those_of_groups_where_samples_belong_together(real):
    """Samples that are there four times tell no more than once, if the data say so."""
    z, rng = real.z.copy(), np.random.default_rng(2)
    z[3] = z[4] + rng.normal(size=z[4].shape, scale=0.3)  # on average as good as the last
    z, y, costs = z.repeat(4, axis=1), real.labels.repeat(4), real.costs
    groups = np.random.default_rng(0).permutation(real.samples).repeat(4) * 10  # names of any kind
    told, untold = (Logits(z, y, costs, groups=each) for each in (groups, None))
    parts = halves(told)
    found = []
    for scores in (Scores(told), Scores(untold)):
        (setting,) = calibrating.tried(rules.RULES["max-confidence"], scores, parts.choosing, 3)[1:2]
        saving = _saving(scores, setting, parts)
        _, drop, error = _cut_off(scores, parts)
        assert error
        _, compared, loses = without_loss(scores, [setting], (np.zeros(1), np.ones(1)), parts)
        assert (saving.drop, saving.drop_error) == pytest.approx((compared, loses))
        found.append((drop, error, saving.drop, saving.drop_error, saving.bound - saving.drop))
    assert found[0] == pytest.approx(
        [found[1][0], 2 * found[1][1], found[1][2], *(2 * e for e in found[1][3:])], rel=2e-3
    )
    advice = [advise(each, settings=6) for each in (told, untold)]
    assert [(each.samples, each.groups) for each in advice] == [(len(y), real.samples), (len(y), None)]


def test_the_error_of_a_mean_over_groups_is_that_of_groups_drawn_anew():
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, 80)
    groups = np.arange(80).repeat(sizes)
    values = (rng.random(80) < 0.3).repeat(sizes) + 0.3 * rng.normal(size=len(groups))
    sums, drawn_ = np.bincount(groups, values), rng.integers(0, 80, (4000, 80))
    means = sums[drawn_].sum(axis=1) / sizes[drawn_].sum(axis=1)
    assert standard_error(values, groups) == pytest.approx(means.std(), rel=0.1)
    assert standard_error(values, groups) > 1.5 * standard_error(values)
    assert standard_error(values, rng.permutation(len(values))) == pytest.approx(standard_error(values))
    assert standard_error(values, np.zeros(len(values))) == math.inf


def test_few_groups_without_a_loss_prove_little():
    z, y = made(2, 4000, 4, seed=3)
    z[:] = 9 * np.eye(4)[y]
    found = [advise(Logits(z, y, groups=groups), settings=6) for groups in (None, np.arange(4000) // 100)]
    assert [each.lossless.bound for each in found] == [pytest.approx(3 / 2000), pytest.approx(3 / 20)]


def test_a_few_samples_without_a_loss_prove_nothing():
    """Of 30 samples none is lost, and yet one of ten may be."""
    labels, sure = np.arange(60) % 5, np.arange(60) % 4 > 0
    first = np.where(sure, 6.0, 0.1)[:, None] * np.eye(5)[np.where(sure, labels, (labels + 1) % 5)]
    found = advise(Logits(np.stack([first, 6 * np.eye(5)[labels]]), labels, costs=[1, 4]), settings=9)
    assert (found.lossless.drop, found.lossless.drop_error) == (0.0, 0.0)
    assert found.lossless.bound == pytest.approx(0.1)
    assert found.verdict == "too few samples to tell"


def test_the_least_samples_that_are_named_are_those_of_the_correction():
    """Bonferroni tests each of K candidates at its share of delta, which takes more samples without a loss."""
    with pytest.raises(CannotPromise) as error:
        calibrate("example:text", "max-confidence", risk=0.002, delta=0.05, correction="bonferroni", settings=12)
    needed = int(re.search(r"at least (\d+) samples without any loss", str(error.value))[1])
    losses = [1 - 0.002] * needed  # chance that none of n is lost at the risk: at most delta / K
    candidates = [k for k in range(2, 13) if math.prod(losses) <= 0.05 / k < math.prod(losses[1:])]
    assert candidates
    assert needed > guarantees.least_samples(0.002, 0.05) == 1497


@pytest.mark.parametrize("name", ["text", "images"])
@pytest.mark.parametrize(
    "how",
    [{"delta": 0.05}, {"delta": 0.05, "correction": "bonferroni"}, {}],
    ids=["fixed-sequence", "bonferroni", "mean-risk"],
)
def test_the_risk_that_could_be_promised_is_granted(name, how):
    goal = "risk" if how else "mean_risk"
    for seed in range(6):
        logits = read(f"example:{name}")
        with pytest.raises(CannotPromise) as found:
            calibrate(logits, **{goal: 1e-4}, **how, seed=seed)
        could = float(re.search(r"([\d.]+)% is the least that could be", str(found.value))[1]) / 100
        calibrate(logits, **{goal: could}, **how, seed=seed)
        with pytest.raises(CannotPromise):
            calibrate(logits, **{goal: could - 2e-4}, **how, seed=seed)


def test_a_rule_is_printed_without_its_table(real):
    rule = calibrate(real, budget=0.5, settings=6)
    assert len(rule.table_) > 5
    assert len(repr(rule)) < 1500
    assert "table_" not in repr(rule)
