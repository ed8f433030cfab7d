"""What only adaptive networks promise: costs, labels and weights of decisions by hand, learned from the last back."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import condensed
from eelit.methods.claims import bolukbasi2017adaptive as claimed
from eelit.methods.engine.costs import decision_costs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers import bolukbasi2017adaptive as paper
from eelit.methods.papers.bolukbasi2017adaptive import (
    AdaptiveExits,
    NetworkSelection,
    Seen,
    cheapest_action,
    extra_errors,
    learned,
    rule_at,
    scores,
)
from eelit.methods.papers.wang2018idk import IdkCascade
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.linear_choice import LinearChoice, features
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain

KEY = "bolukbasi2017adaptive"
INF = float("inf")
EXITS, SELECTION = "early exits", "network selection"


# What a decision reads, and what it does.


def test_features_by_hand():
    p = np.array([[0.7, 0.2, 0.1], [1 / 3, 1 / 3, 1 / 3]])
    H = -(0.7 * math.log(0.7) + 0.2 * math.log(0.2) + 0.1 * math.log(0.1))
    found = features(np.log(p) + 5)
    assert found[0].tolist() == pytest.approx([0.7, 0.5, H])
    assert found[1].tolist() == pytest.approx([1 / 3, 0.0, math.log(3)], abs=1e-12)
    shuffled = features(np.log(p[:1, [2, 0, 1]]))
    assert shuffled.tolist() == pytest.approx(features(np.log(p[:1])))
    assert features(torch.zeros(4, 5, 3)).shape == (4, 5, 3)


def constant(*added):
    """Return a rule whose scores depend on nothing."""
    return tuple((0.0, 0.0, 0.0, b) for b in added)


def test_the_largest_score_decides_and_of_equal_ones_the_first():
    z = np.zeros((4, 1, 3))
    for scored, exit_ in (((1.0, 0.0, 0.0), 0), ((0.0, 1.0, 0.5), 1), ((0.0, 0.5, 1.0), 2), ((0.0, 0.0, 0.0), 0)):
        rules = (constant(*scored), constant(1.0, 0.0, 0.0), constant(1.0, 0.0))
        assert replay(LinearChoice(rules), z).tolist() == [exit_]
    assert replay(LinearChoice((constant(0.0, 1.0), constant(0.0, 1.0), constant(0.0, 1.0))), z).tolist() == [3]


def test_who_jumps_meets_the_rule_of_the_place_where_it_lands():
    """From the first to the third, which sends on: the second's rule, which would stop, is not asked."""
    rules = (constant(0.0, 0.0, 1.0), constant(1.0, 0.0, 0.0), constant(0.0, 1.0))
    policy, z = LinearChoice(rules), np.zeros((2, 3))
    state, stop = policy.step((), z)
    assert policy.route(state, z).tolist() == [2, 2]
    assert not stop.any()
    state, stop = policy.step(state, z)
    assert policy.route(state, z).tolist() == [3, 3]
    assert not stop.any()


def test_scores_are_linear_in_the_features():
    z = np.log(np.array([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]]))
    read = features(z)
    rows = ((0.0, 0.0, 0.0, 0.1), (1.0, -2.0, 0.5, -0.3))
    by_hand = read @ [1.0, -2.0, 0.5] - 0.3
    assert scores(rows, read)[1].tolist() == pytest.approx(by_hand.tolist())
    assert LinearChoice((rows,)).step((), z)[1].tolist() == (by_hand <= 0.1).tolist()
    assert len(set((by_hand <= 0.1).tolist())) == 2


def test_what_a_decision_multiplies_is_counted():
    rules = (constant(0.0, 1.0), constant(0.0, 1.0))
    assert decision_costs(LinearChoice(rules), torch.zeros(3, 1, 5)) == [6, 12, 12]


# What a decision learns.


def test_only_mistakes_that_the_whole_network_avoids_are_charged():
    """Both right, wrong where the last is right, right where the last is wrong, both wrong."""
    z = F.one_hot(torch.tensor([[0, 1, 0, 1], [0, 0, 1, 1]]), 2).float()
    assert extra_errors(z, torch.zeros(4, dtype=torch.int64)).tolist() == [[0, 1, 0, 0], [0, 0, 0, 0]]


@pytest.fixture(scope="module")
def drawn():
    """Features ``[3, 400, 3]`` of four exits, extra errors that follow from them, and times."""
    rng = np.random.default_rng(0)
    sigma = rng.random((3, 400, 3))
    extra = np.concatenate([rng.random((3, 400)) > sigma[:, :, 0] * [[0.9], [1.0], [1.1]] + 0.1, np.zeros((1, 400))])
    return Seen(sigma, extra.astype(float), np.array([[0.1], [0.2], [0.3], [0.4]]) * np.ones((4, 400)))


def test_two_actions_are_weighted_logistic_regression(drawn):
    """The label is the cheaper action, the weight by how much; samples without a weight have no say."""
    sigma, c_0, c_1 = drawn.sigma[0], 2.0 * drawn.extra[0], drawn.time[1] + drawn.sigma[0, :, 1]
    c_0[:50] = c_1[:50]
    beta, w = (c_0 >= c_1).astype(int), np.abs(c_0 - c_1)
    keep = w > 0
    mean, deviation = sigma.mean(axis=0), sigma.std(axis=0)
    known = LogisticRegression(max_iter=1000)
    known.fit(((sigma - mean) / deviation)[keep], beta[keep], sample_weight=w[keep] / w[keep].mean())
    found = scores(cheapest_action(sigma, np.stack([c_0, c_1])), sigma)
    expected = known.decision_function((sigma - mean) / deviation)
    assert (found[1] - found[0]).tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert keep.sum() == 350


def test_samples_whose_actions_cost_the_same_cannot_influence_the_rule(drawn):
    c = np.stack([2.0 * drawn.extra[0], drawn.time[1] + 0.3])
    c[:, 100:] = 0.7
    one = cheapest_action(drawn.sigma[0], c)
    others = c.copy()
    others[:, 100:] = 0.2  # other costs, still equal
    assert cheapest_action(drawn.sigma[0], others) == one


def test_of_several_actions_each_weighs_what_it_saves_against_the_dearest():
    """Two samples of each kind: the middle action is worth 1 to the first kind and 2 to the second."""
    sigma = np.array([[0.0, 0, 0], [0.1, 0, 0], [1.0, 0, 0], [1.1, 0, 0]])
    c = np.array([[3.0, 3.0, 0.0, 0.0], [2.0, 2.0, 1.0, 1.0], [0.0, 0.0, 3.0, 3.0]])
    rows = np.array(cheapest_action(sigma, c))
    deviation = sigma.std(axis=0) + 1e-12
    w = np.array([[0, 0, 3.0, 3.0], [1, 1, 2, 2], [3, 3, 0, 0]])
    w = w / w[w > 0].mean()

    def loss(rows):
        weights = torch.tensor(rows[:, :3] * deviation)
        z = torch.tensor(rows[:, :3] @ sigma.T + rows[:, 3:])
        return float(-(torch.tensor(w) * z.log_softmax(dim=0)).sum() + (weights**2).sum() / 2)

    assert scores(rows, sigma).argmax(axis=0).tolist() == [2, 2, 0, 0]
    rng = np.random.default_rng(0)
    for _ in range(200):
        other = rows + 0.1 * rng.normal(size=rows.shape) / np.append(deviation, 1.0)
        other[:, 1:3] = rows[:, 1:3]
        assert loss(other) > loss(rows) - 1e-4


def test_an_action_that_is_never_worth_while_is_never_taken(drawn):
    sigma, none = drawn.sigma[0], np.zeros(400)
    rows = cheapest_action(sigma, np.stack([none, none + 1, none + 1]))
    assert rows == (constant(0.0)[0], constant(-INF)[0], constant(-INF)[0])
    rows = cheapest_action(sigma, np.stack([none + 1, none, none + 1]))
    assert scores(rows, sigma).argmax(axis=0).tolist() == [1] * 400
    assert cheapest_action(sigma, np.ones((2, 400))) == (constant(0.0)[0], constant(-INF)[0])


def test_decisions_are_learned_from_the_last_to_the_first_each_from_what_the_later_ones_do(drawn):
    lam = 1.5
    rules = learned(drawn, lam, jumps=False)
    V = np.zeros(400)
    for k in (2, 1, 0):
        c = np.stack([lam * drawn.extra[k], drawn.time[k + 1] + V])
        assert rules[k] == cheapest_action(drawn.sigma[k], c)
        taken = scores(rules[k], drawn.sigma[k]).argmax(axis=0)
        assert 0 < taken.mean() < 1
        V = np.where(taken == 0, c[0], c[1])
    later = drawn._replace(extra=np.where(np.arange(4)[:, None] > 0, 0.0, drawn.extra))
    assert learned(later, lam, jumps=False)[0] != rules[0]  # the first depends on the later ones
    sooner = drawn._replace(extra=np.where(np.arange(4)[:, None] < 1, 0.0, drawn.extra))
    assert learned(sooner, lam, jumps=False)[1:] == rules[1:]  # but not they on it


def test_with_jumps_each_decision_may_name_any_that_is_behind(drawn):
    rules = learned(drawn, 1.5, jumps=True)
    assert [len(rows) for rows in rules] == [4, 3, 2]
    assert [len(rows) for rows in learned(drawn, 1.5, jumps=False)] == [2, 2, 2]
    c = np.stack([1.5 * drawn.extra[2], drawn.time[3]])
    V_2 = c[scores(rules[2], drawn.sigma[2]).argmax(axis=0), np.arange(400)]
    c = np.stack([1.5 * drawn.extra[1], drawn.time[2] + V_2, drawn.time[3]])
    assert rules[1] == cheapest_action(drawn.sigma[1], c)


def test_at_the_ends_of_the_price(drawn):
    assert all(rows[1][-1] == -INF for rows in learned(drawn, 0.0, jumps=False))
    assert rule_at(INF, drawn, jumps=True) == FixedExit(3)
    assert isinstance(rule_at(1e6, drawn, jumps=True), LinearChoice)


def test_at_a_huge_price_no_mistake_that_the_last_one_avoids_is_ever_the_cheaper_action(drawn, monkeypatch):
    """It costs all of the price, however much; where the last is wrong, too, an answer is free."""
    asked = []
    monkeypatch.setattr(paper, "cheapest_action", lambda sigma, c: asked.append(c) or cheapest_action(sigma, c))
    learned(drawn, 1e9, jumps=True)
    for k, c in zip((2, 1, 0), asked, strict=True):
        wrong = drawn.extra[k] > 0
        assert c[0].tolist() == (1e9 * drawn.extra[k]).tolist()
        assert (c[:, wrong].argmin(axis=0) > 0).all()
        assert (c[:, ~wrong].argmin(axis=0) == 0).all()
        assert (c.max(axis=0) - c[-1])[wrong] == pytest.approx(1e9, abs=1)  # what the way to the last one weighs


@pytest.mark.parametrize("variant", [EXITS, SELECTION])
@pytest.mark.parametrize("lam", [0.3, 1.5, 6.0])
def test_what_is_minimised_is_the_time_spent_and_the_price_of_extra_errors(prepared, variant, lam):
    """The value of the first decision, learned backwards, is that of what all decisions really do."""
    method, _, ready = prepared(KEY, variant)
    seen, known = ready.split("fitting"), ready.fitted
    policy = method.policy(lam, ready)
    point = method.trial(policy, seen)
    right = seen.answers.argmax(-1) == seen.targets
    if variant == EXITS:
        exits = replay(policy, seen.outputs)
        computed = 6 * np.minimum(exits + 1, len(known.sigma))
        spent = seen.costs[exits, np.arange(len(exits))]
    else:
        course = seen.followed(policy)
        exits, computed = course.exits.numpy(), course.decisions
        spent = (seen.static_costs * course.visited.numpy()).sum(axis=0)
    extra = right[-1].numpy() & ~right.numpy()[exits, np.arange(len(exits))]
    value = (spent / seen.full_costs + lam * extra).mean()
    assert point.cost == pytest.approx(spent.mean() + computed.mean())
    rules, V = policy.rules, np.zeros((len(known.extra), len(exits)))
    for k in reversed(range(len(rules))):
        ahead = range(k + 1, k + len(rules[k]))
        c = np.stack([lam * known.extra[k], *(known.time[j] + V[j] for j in ahead)])
        V[k] = c[scores(rules[k], known.sigma[k]).argmax(axis=0), np.arange(len(exits))]
    assert known.time[0].mean() + V[0].mean() == pytest.approx(value)


def test_times_are_of_the_whole_network(prepared):
    """Among exits the way from one to the next, with its head; among models all of each."""
    method, _, ready = prepared(KEY, EXITS)
    seen, known = ready.split("fitting"), ready.fitted
    assert known.time.cumsum(axis=0)[:, 0].tolist() == pytest.approx((seen.costs[:, 0] / seen.full_costs[0]).tolist())
    method, _, ready = prepared(KEY, SELECTION)
    seen, known = ready.split("fitting"), ready.fitted
    assert known.time[:, 3].tolist() == pytest.approx((seen.static_costs[:, 3] / seen.full_costs[0]).tolist())
    assert known.time[-1].tolist() == [1.0] * len(seen.targets)
    assert method.fits_on == 0.5
    assert len(seen.targets) == 150


def test_settings_that_allow_no_jump_ask_every_model_in_turn(prepared):
    method, _, ready = prepared(KEY, SELECTION)
    seen = ready.split("test")
    jumping = [seen.followed(method.rule(lam, ready)) for lam in method.knobs[1:-1]]
    passed_over = [bool((~c.visited & (torch.arange(4)[:, None] < c.exits)).any()) for c in jumping]
    assert any(passed_over)
    stepwise = method.replace({"jumps": False})
    for lam in method.knobs:
        course = seen.followed(stepwise.rule(lam, ready))
        assert torch.equal(course.visited, torch.arange(4)[:, None] <= course.exits)


def test_one_model_leaves_nothing_to_choose():
    method = registry.get(KEY).variant(SELECTION, "tiny").replace({"members": ("large",)})
    with pytest.raises(ValueError, match="so few members: 1"):
        method.build(method.load(), 0)


# What is trained.


@pytest.fixture
def begun(wired):
    chosen = {"batch": 50, "epochs": 1.5, "head_epochs": 2.5, "rate": 3e-3, "head_rate": 7e-3}
    return wired(registry.get(KEY).variant(EXITS, "tiny").replace(chosen))


def test_the_network_learns_first_and_alone(begun):
    model, (stage, _) = begun
    plain = [*model.stages.parameters(), *model.heads[-1].parameters()]
    assert stage.rates == {id(p): 3e-3 for p in plain}
    assert (stage.epochs, stage.batch, len(stage.train)) == (1.5, 50, 600)
    x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
    with torch.no_grad():
        expected = float(F.cross_entropy(model.full(x), y))
    assert stage.loss(stage.batch_of(torch.arange(20), x)).item() == pytest.approx(expected, rel=1e-4)


def test_the_exits_learn_on_its_frozen_maps(begun):
    model, (first, stage) = begun
    assert stage.rates == {id(p): 7e-3 for p in model.heads[:-1].parameters()}
    assert (stage.epochs, stage.batch, len(stage.train)) == (2.5, 50, 600)
    index, read = next(stage.train.batches(50))
    x, y = torch.stack([first.train.inputs[i] for i in index]), stage.train.targets[index]
    with torch.no_grad():
        maps = list(model.states(x))[:-1]
        losses = [float(F.cross_entropy(head(each), y)) for head, each in zip(model.heads, maps, strict=False)]
    assert all(torch.allclose(a, condensed(b), atol=1e-5) for a, b in zip(read, maps, strict=True))
    assert stage.loss(stage.batch_of(index, read)).item() == pytest.approx(sum(losses), rel=1e-4)


def test_the_network_stays_as_it_was_trained(prepared):
    method, _, ready = prepared(KEY, EXITS)
    short = method.replace({"epochs": 0.2, "head_epochs": 0.2})
    alone, both = short.build(ready.data, 0), short.build(ready.data, 0)
    train_plain(alone, ready.data, Bench(), **short.options)
    short.train(both, ready.data, Bench())
    a, b = alone.plain_network().state_dict(), both.plain_network().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_exits_are_trained_under_the_name_of_those_of_shallow_deep_networks():
    """Whose rows have the same exits on the same frozen network: rules are compared on equal weights."""
    names = []
    for key, variant in ((KEY, EXITS), ("kaya2019sdn", "IC-only")):
        bench = Bench(most_steps=0)
        registry.get(key).variant(variant, "tiny").prepare(bench)
        names.append(set(bench.trainings))
    assert names[0] == names[1]
    ours, theirs = AdaptiveExits(), registry.get("kaya2019sdn")
    for name in ("head_epochs", "head_rate", "network", "widths", "blocks", "shares", "epochs", "rate", "batch"):
        assert getattr(ours, name) == getattr(theirs, name)


# What is claimed.


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


def curve(held, test, alone=((1, 0.1, 9.0), (2, 0.9, 1.0))):
    """``alone``: each exit or model by itself."""
    fixed = SimpleNamespace(name="static exit", test=points(*alone))
    return SimpleNamespace(
        validation=points(*held), test=points(*test), full_quality=test[-1][1], baselines=[fixed]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("tried", "allowed", "speed_up"),
    [
        (lambda curve: claimed.faster_for(curve, "8 % faster for a point"), 0.01, 1.08),
        (lambda curve: claimed.faster_for(curve, "18 % faster for two points"), 0.02, 1.18),
        (lambda curve: claimed.faster_for(curve, "22 % faster for five points"), 0.05, 1.22),
        (claimed.faster_within_a_point, 0.01, 2.8),
    ],
)
@pytest.mark.parametrize(
    ("faster", "behind", "holds"), [(0.01, 0.004, True), (-0.01, 0.004, False), (0.01, 0.006, False)]
)
def test_speed_is_asked_for_at_the_loss_that_validation_images_allow(tried, allowed, speed_up, faster, behind, holds):
    held = [(0.0, 0.9 - allowed - 0.001, 9.0), (2.0, 0.9 - allowed, speed_up + faster), (INF, 0.9, 1.0)]
    found = tried(curve(held, [(0.0, 0.9, 9.0), (2.0, 0.9 - allowed - behind, speed_up + faster), (INF, 0.9, 1.0)]))
    assert found.holds is holds
    assert "lambda 2:" in found.measured
    assert not found.not_comparable


@pytest.mark.parametrize(
    ("tried", "allowed", "speed_up", "part"),
    [
        (lambda curve: claimed.faster_for(curve, "22 % faster for five points"), 0.05, 1.22, "Exit"),
        (claimed.faster_within_a_point, 0.01, 2.8, "Model"),
    ],
)
@pytest.mark.parametrize(("worse", "slower", "says"), [(0.0, 0.0, True), (0.001, 0.0, False), (0.0, 0.01, False)])
def test_what_one_exit_or_model_reaches_alone_is_no_success(tried, allowed, speed_up, part, worse, slower, says):
    """It loses as little, and is as fast; else it takes nothing away."""
    points = [(2.0, 0.9 - allowed, speed_up + 0.01), (INF, 0.9, 1.0)]
    alone = [(1, 0.1, 9.0), (2, 0.9 - allowed + 1e-9 - worse, speed_up - slower), (3, 0.9, 1.0)]
    found = tried(curve(points, points, alone))
    assert found.not_comparable.startswith(f"{part} 2 by itself" if says else "")
    assert (found.holds, bool(found.not_comparable)) == (not says, says)


def test_each_model_of_the_rival_has_a_threshold_of_its_own(prepared):
    """On the images on which decisions learn, replayed, the rules are as cheap as the search on its grid found."""
    method, _, ready = prepared(KEY, SELECTION)
    found = claimed.own_thresholds(ready)
    assert all(isinstance(rule, MaxConfidence) and len(rule.threshold) == len(ready.model) - 1 for rule in found)
    assert len({*found}) == len(found) > 3
    assert any(len({*rule.threshold}) > 1 for rule in found)
    seen, search = ready.split("fitting"), IdkCascade(augment="probability").fit(ready.for_choosing)
    full = method.trial(FixedExit(len(ready.model) - 1), seen).quality
    reached = [method.trial(rule, seen) for rule in found]
    for eps in (0.0, 0.1, 0.4):
        cheapest = min(point.cost for point in reached if point.quality >= (1 - eps) * full - 1e-9)
        assert cheapest == pytest.approx(float(search.cost[search.cheapest(eps)]))


def test_learned_decisions_are_compared_with_thresholds_and_jumps_with_a_chain(prepared, monkeypatch, made):
    measured = curve([(INF, 0.9, 1.0)], [(INF, 0.9, 1.0)])
    asked, own = [], []
    monkeypatch.setattr(claimed, "tried", lambda method, ready, policies: asked.append([*policies]) or made(0.8))
    method, bench, ready = prepared(KEY, EXITS)
    names = [outcome.name for outcome in claimed.claims(method, ready, bench, measured)]
    assert names == [*claimed.FASTER, "better than one threshold of confidence"]
    assert [len(each) for each in asked] == [len(method.knobs) - 2, len(claimed.THRESHOLDS)]
    method, bench, ready = prepared(KEY, SELECTION)
    monkeypatch.setattr(claimed, "own_thresholds", lambda ready: own.append(ready) or [MaxConfidence(0.3)])
    names = [outcome.name for outcome in claimed.claims(method, ready, bench, measured)]
    assert names[1:] == ["better than a threshold of confidence for each model", "better than a chain without jumps"]
    assert (own, asked[3]) == ([ready], [MaxConfidence(0.3)])
    assert asked[2] == [method.rule(lam, ready) for lam in method.knobs[1:-1]]
    assert asked[4] == [method.replace({"jumps": False}).rule(lam, ready) for lam in method.knobs[1:-1]]


def test_policies_are_replayed_on_both_parts(prepared):
    method, _, ready = prepared(KEY, SELECTION)
    found = claimed.tried(method, ready, [FixedExit(1)])
    assert found.test == [method.trial(FixedExit(1), ready.split("test"))]
    assert found.validation == [method.trial(FixedExit(1), ready.split("validation"))]


@pytest.mark.parametrize(("gain", "holds"), [(0.006, True), (0.004, False)])
def test_jumps_must_bring_half_a_point(made, gain, holds):
    assert claimed.passing_over(made(0.8 + gain), made(0.8)).holds is holds


def test_passing_the_small_network_over_saves_a_part_of_the_large_ones_cost_that_counts():
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    small, large = (
        NetworkSelection().member(name, pictures, 0).costs(torch.zeros(1, 1, 48, 48)) for name in ("small", "large")
    )
    assert 0.2 <= small[0] / large[0] <= 0.4


def test_network_selection_is_a_method_of_cascades():
    assert isinstance(registry.get(KEY).variant(SELECTION), NetworkSelection)
