"""What the paper promises: a code of sets, values with STOP, rewards of episodes, and features that nobody reads."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import tiny
from torch.nn import functional as F

from eelit.methods.claims import shim2018jafa as claimed
from eelit.methods.data import tables
from eelit.methods.engine.evaluate import infer
from eelit.methods.engine.examples import Examples, TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.families.acquisition import FeatureCounter
from eelit.methods.harness import registry
from eelit.methods.papers.shim2018jafa import (
    Agent,
    Buyer,
    Episodes,
    History,
    allowed,
    returns,
    tokens,
    value_loss,
)  # fmt: skip
from eelit.methods.policies.score_threshold import ScoreThreshold

KEY = "shim2018jafa"
GOLDEN = json.loads((Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json").read_text())
INF = float("inf")


@pytest.fixture(scope="module")
def trained():
    return tiny(KEY, "CUBE")


@pytest.fixture
def agent():
    torch.manual_seed(3)
    return Agent(5, 3, 16, 5)


def filled(*parts):
    """Set weights as they were when the released code was run."""
    i = 0
    for part in parts:
        for p in part.parameters():
            p.data = (torch.sin(torch.arange(p.numel(), dtype=torch.float32) * 0.7 + i) * 0.5).reshape(p.shape)
            i += 1


@torch.no_grad()
def test_codes_and_values_are_those_of_the_released_code(agent):
    filled(agent.encoder)
    filled(agent.shared, agent.advantage, agent.value)
    x = torch.tensor(GOLDEN["x"])
    known = torch.zeros_like(x, dtype=torch.bool)
    for row, order in zip(known, GOLDEN["orders"], strict=True):
        row[order] = True
    code = agent.encode(x, known)
    assert code.numpy() == pytest.approx(np.array(GOLDEN["codes"]), abs=1e-4)
    assert agent.values(code).numpy() == pytest.approx(np.array(GOLDEN["values"]), abs=1e-4)
    assert (code[3] == 0).all()  # nothing is known


@torch.no_grad()
def test_the_order_of_a_set_does_not_matter_and_what_is_unknown_is_not_read(agent):
    x, known = torch.randn(6, 5), torch.rand(6, 5) < 0.6
    order = torch.randperm(5)
    code = agent.encode(x, known)
    assert torch.allclose(agent.encoder(tokens(x)[:, order], known[:, order]), code, atol=1e-5)
    assert torch.equal(agent.encode(x.masked_fill(~known, float("nan")), known), code)
    assert not torch.allclose(agent.encode(x + 1, known), code)


def test_a_token_is_the_value_and_which_feature_it_is():
    assert tokens(torch.tensor([[0.5, -2.0]])).tolist() == [[[0.5, 1, 0], [-2.0, 0, 1]]]


@torch.no_grad()
def test_the_mean_of_all_values_is_that_of_the_state(agent):
    code = torch.randn(4, 32)
    q, v = agent.values(code), agent.value(agent.shared(code))
    assert torch.allclose(q.mean(dim=-1, keepdim=True), v, atol=1e-6)
    assert q.shape == (4, 6)


def test_what_is_bought_is_not_bought_again_and_nobody_stops_with_nothing():
    known = torch.tensor([[False, False], [True, False], [True, True]])
    assert allowed(known).tolist() == [[True, True, False], [False, True, True], [False, False, True]]


def test_returns_are_the_rewards_up_to_the_end_and_what_comes_after():
    rewards = torch.tensor([[-0.1, -0.1], [-0.7, -0.1], [-0.1, -0.1]])
    over = torch.tensor([[False, False], [True, False], [False, False]])
    found = returns(rewards, over, torch.tensor([-0.5, -0.4]))
    assert found.numpy() == pytest.approx(np.array([[-0.8, -0.7], [-0.7, -0.6], [-0.6, -0.5]]))


@torch.no_grad()
def test_an_episode_pays_for_each_feature_and_earns_the_log_likelihood(agent):
    rows, targets = torch.randn(9, 5), torch.randint(0, 3, (9,))
    episodes = Episodes(rows, targets, 0.05, 4, seed=0)
    who = episodes.who.clone()
    reward, over = episodes.step(agent, episodes.code(agent), torch.tensor([0, 4, 2, 2]))
    assert reward.tolist() == pytest.approx([-0.05] * 4)
    assert not over.any()
    assert episodes.known.nonzero().tolist() == [[0, 0], [1, 4], [2, 2], [3, 2]]
    known = episodes.known.clone()
    reward, over = episodes.step(agent, episodes.code(agent), torch.tensor([5, 1, 5, 0]))
    logits = agent.classifier(agent.encode(rows[who], known))
    gained = -F.cross_entropy(logits, targets[who], reduction="none")
    assert torch.allclose(reward, torch.stack([gained[0], torch.tensor(-0.05), gained[2], torch.tensor(-0.05)]))
    assert over.tolist() == [True, False, True, False]
    assert episodes.known.sum(dim=1).tolist() == [0, 2, 0, 2]  # the first and third are new
    assert episodes.who[[1, 3]].tolist() == who[[1, 3]].tolist()


def test_actions_are_allowed_and_the_best_where_nothing_is_tried(agent):
    episodes = Episodes(torch.randn(9, 5), torch.zeros(9, dtype=torch.int64), 0.05, 64, seed=0)
    for _ in range(6):
        code = episodes.code(agent)
        tried = episodes.act(agent, code, torch.ones(64))
        assert allowed(episodes.known).gather(1, tried[:, None]).all()
        best = episodes.act(agent, code, torch.zeros(64))
        q = agent.values(agent.encode(episodes.rows[episodes.who], episodes.known))
        assert (best == q.masked_fill(~allowed(episodes.known), -INF).argmax(dim=1)).all()
        with torch.no_grad():
            episodes.step(agent, code, tried)
    assert len(set(tried.tolist())) > 1


def test_a_history_holds_what_was_seen_and_bootstraps_from_the_target(agent):
    torch.manual_seed(9)
    target = Agent(5, 3, 16, 5)
    rows, targets = torch.randn(30, 5), torch.randint(0, 3, (30,))
    one, two = (Episodes(rows, targets, 0.05, 8, seed=1) for _ in range(2))
    found = one.play(agent, target, 3, 0.5)
    assert found.returns.shape == (24,)
    assert found.known[:8].sum() == 0  # every episode began with nothing
    with torch.no_grad():
        rewards, over = [], []
        for _ in range(3):
            code = two.code(agent)
            reward, end = two.step(agent, code, two.act(agent, code, torch.linspace(0.05, 0.5, 8)))
            rewards.append(reward)
            over.append(end)
        best = two.act(agent, two.code(agent), torch.zeros(8))  # chosen by the agent, told by the target
        after = target.values(target.encode(rows[two.who], two.known)).gather(1, best[:, None])[:, 0]
    wanted = returns(torch.stack(rewards), torch.stack(over), after)
    assert torch.allclose(found.returns, wanted.flatten())


def test_the_loss_of_values_is_smooth_l1_to_returns_and_of_stop_to_the_log_likelihood(agent):
    x, known, y = torch.randn(4, 5), torch.rand(4, 5) < 0.5, torch.tensor([0, 1, 2, 0])
    history = History(x, known, torch.tensor([0, 1, 5, 2]), torch.tensor([0.1, -3.0, 0.0, 1.0]), y)
    code = agent.encode(x, known)
    q, p = agent.values(code), agent.classifier(code).log_softmax(dim=-1)
    gaps = [q[i, a] - r for i, (a, r) in enumerate(zip([0, 1, 5, 2], [0.1, -3.0, 0.0, 1.0], strict=True))]
    gaps += [q[i, 5] - p[i, y[i]] for i in range(4)]
    parts = [0.5 * float(g.detach()) ** 2 if abs(float(g.detach())) < 1 else abs(float(g.detach())) - 0.5 for g in gaps]
    loss = value_loss(agent, history)
    assert loss.item() == pytest.approx(np.mean(parts), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in agent.classifier.parameters())  # what stopping earns is a fixed target
    assert agent.encoder.cell.weight_ih.grad.abs().sum() > 0


def test_unbought_features_are_never_read_and_none_is_bought_twice(trained):
    _, _, ready = trained
    x = torch.stack([*ready.data.test.inputs[:50]])
    policy = ScoreThreshold(0.0)
    with FeatureCounter() as counter:
        found = infer(ready.model, x, policy)
    assert counter.features == int((found.exits + 1).sum())
    state, known = x, torch.zeros_like(x, dtype=torch.bool)
    with torch.inference_mode():
        for t, stage in enumerate(ready.model.stages):
            state = stage(state)
            assert (state["known"].sum(dim=1) == t + 1).all()
            assert (state["known"] | ~known).all()
            known = torch.where((found.exits >= t)[:, None], state["known"], known)
    again = infer(ready.model, x.masked_fill(~known, float("nan")), policy)
    assert torch.equal(again.exits, found.exits)
    assert torch.equal(again.answers, found.answers)


def test_stopping_is_preferred_only_where_it_is_worth_strictly_more(trained):
    method, _, ready = trained
    seen = ready.split("test")
    scores = seen.outputs["score"]
    for knob in (-0.05, 0.0, 0.05):
        first = [next((t for t in range(9) if scores[t, i] > knob), 9) for i in range(scores.shape[1])]
        (point,) = method.sweep(ready, Bench(), "test", [knob])
        assert point.cost == pytest.approx(np.mean(first) + 1)
        assert point.speed_up == pytest.approx(10 / point.cost)


def test_two_networks_with_the_same_agent_answer_from_all_features_alike(trained):
    _, _, ready = trained
    assert isinstance(ready.model, Buyer)
    x = torch.stack([*ready.data.test.inputs[:20]])
    agent = ready.model.agent
    with torch.inference_mode():
        whole = agent.classifier(agent.encode(x, torch.ones_like(x, dtype=torch.bool)))
        assert torch.allclose(ready.model.full(x), whole, atol=1e-5)


# Training


def test_stages_train_what_they_should(wired):
    method = registry.get(KEY).variant("CUBE", "tiny")
    model, (first, second) = wired(method)
    agent = model.agent

    def ids(*parts):
        return {id(p) for part in parts for p in part.parameters()}

    assert first.rates.keys() == ids(agent.encoder, agent.classifier)
    assert second.rates.keys() == ids(agent.encoder, agent.shared, agent.advantage, agent.value)
    beside = {id(p) for group in second.beside[0].param_groups for p in group["params"]}
    assert beside == ids(agent.encoder, agent.classifier)
    assert (first.steps, second.steps) == (method.first, method.updates)
    assert {*first.rates.values(), *second.rates.values()} == {method.rate}
    assert first.batch == second.batch == method.envs


def test_pre_training_is_on_all_features_and_on_random_halves(wired):
    model, (first, _) = wired(registry.get(KEY).variant("CUBE", "tiny"))
    x, y = torch.rand(40, 10), torch.randint(0, 8, (40,))
    torch.manual_seed(0)
    loss = first.loss(SimpleNamespace(inputs=x, targets=y)).item()
    torch.manual_seed(0)
    half = torch.rand_like(x) < 0.5
    parts = [
        F.cross_entropy(model.agent.classifier(model.agent.encode(x, known)), y)
        for known in (torch.ones_like(half), half)
    ]
    assert loss == pytest.approx(float(sum(parts)) / 2, rel=1e-5)


@pytest.fixture
def joint(wired, monkeypatch):
    """Return the method, its agent, its joint stage, and a list of what its episodes are asked and tell."""
    method, played, play = registry.get(KEY).variant("CUBE", "tiny"), [], Episodes.play

    def noted(self, agent, target, steps, eps):
        was, told = copy.deepcopy(target), play(self, agent, target, steps, eps)
        played.append(SimpleNamespace(agent=agent, target=was, steps=steps, eps=eps, told=told))
        return told

    monkeypatch.setattr(Episodes, "play", noted)
    model, (_, stage) = wired(method)
    return method, model.agent, stage, played


def some_rows(step=0, done=0.0):
    g = torch.Generator().manual_seed(4)
    x, y = torch.rand(16, 10, generator=g), torch.randint(0, 8, (16,), generator=g)
    return SimpleNamespace(inputs=x, targets=y, step=step, done=done)


def log_likelihood(agent, code, y):
    logits = agent.classifier(code)
    return logits[torch.arange(len(y)), y] - logits.exp().sum(dim=1).log()


def test_the_classifiers_step_is_on_the_states_met_and_on_complete_rows(joint):
    """Its slopes are those of the mean of both, of the classifier and of the encoder, and Adam follows them."""
    method, agent, stage, played = joint
    before, batch, (beside,), slopes = copy.deepcopy(agent), some_rows(), stage.beside, {}
    own = [p for group in beside.param_groups for p in group["params"]]
    beside.register_step_pre_hook(lambda *_: slopes.update({id(p): p.grad.clone() for p in own}))
    stage.loss(batch)
    train = method.load().train
    episodes = Episodes(torch.stack([*train.inputs]), train.targets, method.price, method.envs, 0)
    met = episodes.play(before, before, method.steps, 1.0)
    told = played[0].told
    for name in ("values", "known", "actions", "returns", "targets"):
        assert torch.equal(getattr(told, name), getattr(met, name))
    assert len(met.targets) == 4 * 64
    assert 0.1 < met.known.float().mean() < 0.9
    every = torch.cat([met.known, torch.ones(16, 10, dtype=torch.bool)])
    code = before.encode(torch.cat([met.values, batch.inputs]), every)
    by_hand = -log_likelihood(before, code, torch.cat([met.targets, batch.targets])).mean()
    names = [name for name, _ in before.named_parameters() if name.startswith(("classifier", "encoder"))]
    wanted = torch.autograd.grad(by_hand, [before.get_parameter(name) for name in names])
    assert slopes.keys() == {id(agent.get_parameter(name)) for name in names}
    for name, slope in zip(names, wanted, strict=True):
        found = slopes[id(agent.get_parameter(name))]
        assert torch.allclose(found, slope, rtol=1e-3, atol=1e-6)
        moved = before.get_parameter(name) - method.rate * found / (found.abs() + 1e-8)
        assert torch.allclose(agent.get_parameter(name), moved, atol=1e-6)


def test_the_loss_of_a_joint_step_is_that_of_values_once_the_classifier_has_moved(joint):
    _, agent, stage, played = joint
    values = {name: p.clone() for name, p in agent.named_parameters() if not name.startswith(("classifier", "encoder"))}
    loss = stage.loss(some_rows())
    assert all(p.grad is None for p in agent.parameters())  # nothing of the classifier's step is left over
    assert all(torch.equal(agent.get_parameter(name), p) for name, p in values.items())
    met = played[0].told
    code = agent.encode(met.values, met.known)
    q = agent.values(code)
    gaps = torch.cat([
        q[torch.arange(len(q)), met.actions] - met.returns, q[:, 10] - log_likelihood(agent, code, met.targets)
    ])  # fmt: skip
    by_hand = torch.where(gaps.abs() < 1, gaps**2 / 2, gaps.abs() - 0.5).mean()
    assert loss.item() == pytest.approx(by_hand.item(), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for p in agent.classifier.parameters())
    assert all(p.grad.abs().sum() > 0 for p in [agent.encoder.cell.weight_ih, agent.value[-1].bias])


@pytest.mark.parametrize(("done", "eps"), [(0.0, 1.0), (0.25, 0.55), (0.4, 0.28), (0.5, 0.1), (0.95, 0.1)])
def test_fewer_actions_are_drawn_at_random_as_the_training_goes_on(joint, done, eps):
    method, agent, stage, played = joint
    stage.loss(some_rows(step=1, done=done))
    (asked,) = played
    assert asked.eps == pytest.approx(eps)
    assert asked.steps == method.steps == 4
    assert asked.agent is agent


def test_the_target_copy_is_renewed_every_so_many_updates(joint):
    method, agent, stage, played = joint
    assert method.refresh == 10
    at = {}
    for step in (0, 1, 9, 10, 11, 20):
        at[step] = [p.clone() for p in agent.parameters()]
        stage.loss(some_rows(step=step))
    for asked, since in zip(played, (0, 0, 0, 10, 10, 20), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(asked.target.parameters(), at[since], strict=True))
    assert not torch.equal(at[0][0], at[10][0])


def test_both_stages_learn_from_all_training_rows_and_with_adam(wired):
    method = registry.get(KEY).variant("CUBE", "tiny")
    _, stages = wired(method)
    rows = method.load().train
    for stage in stages:
        assert torch.equal(torch.stack([*stage.train.inputs]), torch.stack([*rows.inputs]))
        assert torch.equal(stage.train.targets, rows.targets)
        assert all(type(each) is torch.optim.Adam for each in (stage.optimiser, *stage.beside))
    (group,) = stages[1].beside[0].param_groups
    assert group["lr"] == method.rate


@pytest.mark.parametrize(("worth", "bought"), [(50.0, 1), (-50.0, 5)])
def test_who_finds_stopping_worth_most_buys_one_feature_and_who_finds_it_worth_least_all(agent, worth, bought):
    agent.advantage[-1].bias.data[-1] = worth
    found = infer(Buyer(agent, 5), torch.randn(7, 5), registry.get(KEY).policy(0.0, None))
    assert found.exits.tolist() == [bought - 1] * 7


@pytest.mark.parametrize(("setting", "value"), [("price", -0.1), ("rounds", 0), ("updates", 0)])
def test_bad_settings_are_refused(setting, value):
    with pytest.raises(ValueError, match="at least"):
        registry.get(KEY).replace({setting: value})


# Data


def test_cube_has_its_corner_at_the_places_of_the_class():
    x, labels = tables.cube(4000, 12, 0.0, seed=1)
    assert sorted(set(labels.tolist())) == list(range(8))
    for row, k in zip(x[:200], labels, strict=False):
        assert row[k : k + 3].tolist() == [k & 1, k >> 1 & 1, k >> 2 & 1]
    others = np.concatenate([np.delete(row, [k, k + 1, k + 2]) for row, k in zip(x, labels, strict=True)])
    assert others.min() >= 0
    assert others.max() <= 1
    assert others.mean() == pytest.approx(0.5, abs=0.01)
    noisy = tables.cube(4000, 12, 0.3, seed=1)[0]
    assert np.std([row[k] - (k & 1) for row, k in zip(noisy, labels, strict=True)]) == pytest.approx(0.3, abs=0.02)
    with pytest.raises(ValueError, match="at least 10 features, not 9"):
        tables.cube(10, 9, 0.1, seed=0)


def test_tables_are_cut_in_a_half_and_two_quarters_and_standardised_by_the_first():
    split = tables.table("breast cancer", rows=0, features=0, noise=0)
    assert [len(part) for part in (split.train, split.validation, split.test)] == [285, 142, 142]
    assert split.train.features.mean(axis=0) == pytest.approx(np.zeros(30), abs=1e-5)
    assert split.train.features.std(axis=0) == pytest.approx(np.ones(30), abs=1e-4)
    assert len(tables.table("wine", rows=0, features=0, noise=0).train.features[0]) == 13
    with pytest.raises(ValueError, match="no table 'x'; there are cube, breast cancer, wine, satellite"):
        tables.table("x", rows=0, features=0, noise=0)


# What is claimed


def test_a_rival_reads_only_what_is_known():
    torch.manual_seed(0)
    rival, x, known = claimed.Masked(4, 3), torch.randn(6, 4), torch.rand(6, 4) < 0.5
    assert torch.equal(rival(x.masked_fill(~known, INF), known), rival(x, known))
    assert not torch.allclose(rival(torch.zeros(6, 4), known), rival(torch.zeros(6, 4), ~known))


def test_a_rival_is_as_wide_as_the_classifier_of_the_agent(agent):
    def hidden(network):
        return [layer.out_features for layer in network if isinstance(layer, torch.nn.Linear)][:-1]

    assert hidden(claimed.Masked(5, 3).layers) == hidden(agent.classifier) == [32, 32]


def test_prefixes_are_of_all_lengths_in_the_order():
    torch.manual_seed(0)
    found = claimed.prefixes(claimed.always(torch.tensor([2, 0, 1])))(300)
    rows, counts = found.unique(dim=0, return_counts=True)
    assert rows.tolist() == [[False, False, True], [True, False, True], [True, True, True]]
    assert counts.min() > 60
    drawn = claimed.prefixes(claimed.random_order(3))(300)
    assert len(drawn.unique(dim=0)) == 7


def test_orders_put_first_what_tells_most():
    x = torch.randn(900, 3, generator=torch.Generator().manual_seed(0))
    rows = Examples(list(x), (x[:, 1] + 0.6 * x[:, 2] > 0).long())

    def one_feature(x, known):
        return torch.where(known, x, 0.0) @ torch.tensor([[0.0, 0.0], [-1.5, 1.5], [-0.9, 0.9]])

    assert claimed.by_information(rows).tolist() == [1, 2, 0]
    assert claimed.greedy_order(one_feature, rows).tolist() == [1, 2, 0]


def test_rivals_are_trained_for_as_long_on_as_many_states_of_the_same_rows(trained, monkeypatch):
    method, _, ready = trained
    stages, seen, greedy = [], [], claimed.greedy_order
    monkeypatch.setattr(claimed, "greedy_order", lambda model, rows: seen.append(rows) or greedy(model, rows))
    found = claimed.rivals(
        method, ready.data.without_test(), Bench(most_steps=0, watch=lambda s: s and stages.append(s))
    )
    names = ["features by mutual information", "features chosen one by one", "random orders"]
    assert [rival.name for rival in found] == names
    for stage in stages:
        assert torch.equal(stage.train.targets, ready.data.train.targets)
        assert (stage.steps, stage.batch) == (method.first + method.updates, method.envs)
        assert {*stage.rates.values()} == {method.rate}
        assert type(stage.optimiser) is torch.optim.Adam
    assert len(stages) == 3
    assert [rows.targets.equal(ready.data.validation.targets) for rows in seen] == [True]
    orders = [rival.order(30) for rival in found]
    assert all(order.sort(dim=1).values.equal(torch.arange(10).expand(30, 10)) for order in orders)
    assert [len(order.unique(dim=0)) for order in orders[:2]] == [1, 1]
    assert len(orders[2].unique(dim=0)) > 20


def test_the_loss_of_a_rival_is_on_five_states_of_each_row(trained, monkeypatch):
    method, _, ready = trained
    asked, stages = [], []

    def masks(n):
        asked.append(n)
        return torch.ones(n, 10, dtype=torch.bool)

    model = claimed.fitted(method, ready.data, Bench(most_steps=0, watch=lambda s: s and stages.append(s)), masks)
    x, y = torch.rand(8, 10), torch.randint(0, 8, (8,))
    loss = stages[0].loss(SimpleNamespace(inputs=x, targets=y))
    assert asked == [40]
    assert loss.item() == pytest.approx(F.cross_entropy(model(x, torch.ones(8, 10, dtype=torch.bool)), y).item())


def test_a_rival_ends_with_all_features_and_each_of_its_rows_is_told(trained):
    _, _, ready = trained
    rival = claimed.Rival("x", claimed.Masked(10, 8).eval(), claimed.always(torch.arange(9, -1, -1)))
    right = claimed.right_in_order(ready, rival, "test")
    seen = ready.split("test")
    x = torch.stack([*seen.examples.inputs])
    first = torch.arange(10).expand(len(x), 10) == 9
    with torch.inference_mode():
        for row, known in ((right[0], first), (right[-1], torch.ones_like(first))):
            assert (row == (rival.classifier(x, known).argmax(dim=1) == seen.targets).numpy()).all()
    found = claimed.points(right)
    assert [point.cost for point in found] == list(range(1, 11))
    assert [point.speed_up for point in found] == pytest.approx([10 / t for t in range(1, 11)])
    assert found[3].quality == pytest.approx(right[3].mean())


def test_what_the_agent_answers_right_is_told_for_each_knob(trained):
    method, _, ready = trained
    right = claimed.right_of_agent(method, ready, "test")
    found = method.sweep(ready, Bench(), "test", method.knobs)
    assert right.mean(axis=1).tolist() == pytest.approx([point.quality for point in found])


def points(*pairs):
    return [OperatingPoint(knob=k, quality=q, cost=c, speed_up=10 / c, exits=[1.0]) for k, q, c in pairs]


def own_rule(wrong, cost, lead=1.0, n=1000):
    """Its curve and rows: right with all features but for ten; the paper's rule is wrong at so many rows more."""
    every, first, own = np.ones(n), np.ones(n), np.ones(n)
    every[:10], own[: 10 + wrong], first[: 10 + round(lead * n)] = 0, 0, 0
    right = np.stack([first, own, every])
    each = [
        OperatingPoint(knob=k, quality=row.mean(), cost=c, speed_up=10 / c, exits=[1.0])
        for k, row, c in zip((-1, 0, INF), right, (1, cost, 10), strict=True)
    ]
    chance = SimpleNamespace(quality=0.0, error=0.0, reached=None)
    curve = SimpleNamespace(test=each, full_quality=each[-1].quality, full_cost=10, chance=chance, quality="accuracy")
    return curve, right


@pytest.mark.parametrize(("wrong", "cost", "holds"), [(10, 5, True), (15, 5, False), (0, 5.1, False)])
def test_sparing_has_two_bars(wrong, cost, holds):
    """Fifteen of a thousand are less than two points, but two standard errors, of 0.0038, are more with them."""
    found = claimed.sparing(*own_rule(wrong, cost))
    assert found.holds == holds
    assert not found.not_comparable
    assert found.measured.endswith(f"({-wrong / 1000 + 0.0:+.4f} ± {(wrong * (1000 - wrong) / 999e6) ** 0.5:.4f})")


def test_where_one_feature_is_nearly_as_good_as_all_sparing_proves_nothing():
    assert claimed.sparing(*own_rule(0, 5, lead=0.019)).not_comparable
    assert not claimed.sparing(*own_rule(0, 5, lead=0.03)).not_comparable


@pytest.mark.parametrize(("lead", "spread", "holds"), [(0.012, 0.0, True), (0.009, 0.0, False), (0.012, 0.5, False)])
def test_better_means_by_a_hundredth_and_two_standard_errors_on_average(lead, spread, holds):
    """Rows of both sides are the same at all costs; ours are right for a share ``lead`` more, or are so by luck."""
    n = 1000
    noise = spread * np.random.default_rng(0).choice([-1.0, 1.0], n)
    noise -= noise.mean()
    ours = points((0, 0.5 + lead, 1), (1, 0.5 + lead, 10)), np.tile(0.5 + lead + noise, (2, 1))
    theirs = points((0, 0.5, 1), (1, 0.5, 10)), np.full((2, n), 0.5)
    found = claimed.better("x", ours, theirs)
    assert found.holds == holds
    assert found.measured.startswith(f"{lead:+.4f} ± {spread / n**0.5:.4f} on average, above at 10 of 10")


def test_settings_are_chosen_on_validation_data():
    """Of two settings of the rival the one that looks worse there is better on test rows, and is not taken."""
    ours = points((0, 0.6, 1), (1, 0.6, 10)), np.full((2, 50), 0.6)
    theirs = points((0, 0.5, 1), (1, 0.4, 1)), np.stack([np.full(50, 0.5), np.full(50, 0.9)])
    assert claimed.better("x", ours, theirs).measured.startswith("+0.1000")


def test_each_rival_is_told_by_its_own_name(trained, monkeypatch):
    method, bench, ready = trained
    asked, chosen_on = [], []

    def rivals(method, data, bench):
        asked.append(data)
        return [SimpleNamespace(name=name, quality=q) for name, q in (("strong", 0.95), ("weak", 0.0))]

    def right_in_order(prepared, rival, split):
        return np.full((10, len(ready.split(split).targets)), rival.quality / (2 if split == "validation" else 1))

    def points(right):
        chosen_on.append(float(right.mean()))
        return told(right)

    told = claimed.points
    monkeypatch.setattr(claimed, "rivals", rivals)
    monkeypatch.setattr(claimed, "right_in_order", right_in_order)
    monkeypatch.setattr(claimed, "points", points)
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    chance = SimpleNamespace(quality=0.0, error=0.0, reached=None)
    curve = SimpleNamespace(
        validation=held, test=test, full_quality=test[-1].quality, full_cost=2, chance=chance, quality="accuracy"
    )
    found = claimed.claims(method, ready, bench, curve)
    assert {outcome.name: outcome.holds for outcome in found} == {
        "half of the features suffice": False, "better than strong": False, "better than weak": True
    }  # fmt: skip
    assert chosen_on == pytest.approx([0.95 / 2, 0.0]), "on validation rows"
    with pytest.raises(TestDataAsked):
        len(asked[0].test.targets)
