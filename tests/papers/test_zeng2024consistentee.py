"""What only ConsistentEE promises: rewards by hardness, gradients only where a sample leaves, policies that decide."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.claims.zeng2024consistentee import baselines, claims, pabee
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.zeng2024consistentee import (
    ConsistentEE,
    ExitPolicyNetwork,
    log_exit_probabilities,
    memorised_layer,
    policy_loss,
    reward,
    sampled_exits,
    task_loss,
    train_policies,
)
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.joint import losses_of

KEY = "zeng2024consistentee"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
PHASES = {"trajectories": 8, "batch": 32, "rate": 3e-3, "joint_epochs": 0.01, "joint_rate": 0.0}


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def test_memorised_layer_by_hand():
    right = torch.tensor([[0, 1, 0, 1, 1, 1], [1] * 6, [1, 1, 1, 1, 1, 0], [0] * 5 + [1]], dtype=torch.bool).T
    assert memorised_layer(right).tolist() == [4, 1, 6, 6]


def test_exit_probabilities_sum_to_one():
    leave = torch.randn(5, 40, dtype=torch.float64) * 3
    p, pi = log_exit_probabilities(leave).exp(), leave.sigmoid()
    assert torch.allclose(p.sum(dim=0), torch.ones(40, dtype=torch.float64))
    assert torch.allclose(p[2], pi[2] * (1 - pi[0]) * (1 - pi[1]))
    assert torch.allclose(p[5], (1 - pi).prod(dim=0))


def test_exits_are_drawn_with_these_probabilities():
    torch.manual_seed(0)
    leave = torch.tensor([[-1.0, 50.0], [0.5, 0.0], [0.0, 0.0]])
    exits = sampled_exits(leave, 20_000)
    shares = torch.stack([(exits == e).double().mean(dim=0) for e in range(4)])
    assert torch.allclose(shares, log_exit_probabilities(leave).exp().double(), atol=0.015)
    assert (exits[:, 1] == 0).all()


def test_reward_by_hand():
    losses = torch.tensor([[0.9, 0.8], [0.5, 0.7], [0.1, 0.6]])
    exits, memorised = torch.tensor([[0, 1], [2, 2]]), torch.tensor([1, 3])
    guided = reward(losses, exits, memorised, alpha=0.3, guided=True)
    assert torch.allclose(guided, torch.tensor([[-0.9 - 0.2, -0.7], [-0.1 - 0.6, -0.6]]))
    plain = reward(losses, exits, memorised, alpha=0.3, guided=False)
    assert torch.allclose(plain, torch.tensor([[-0.9 - 0.3, -0.7 - 0.6], [-0.1 - 0.9, -0.6 - 0.9]]))


def test_without_a_price_only_the_loss_counts_and_the_hardest_never_pay():
    losses, exits = torch.rand(6, 30), torch.randint(6, (8, 30))
    any_layer = torch.randint(1, 7, (30,))
    assert torch.equal(reward(losses, exits, any_layer, alpha=0.0, guided=True), -losses.gather(0, exits))
    hardest = torch.full((30,), 6)
    for alpha in (0.1, 1.0, 10.0):
        assert torch.allclose(reward(losses, exits, hardest, alpha=alpha, guided=True), -losses.gather(0, exits))


def test_one_trajectory_teaches_nothing():
    leave = torch.randn(5, 20, requires_grad=True)
    policy_loss(leave, sampled_exits(leave, 1), torch.randn(1, 20)).backward()
    assert float(leave.grad.abs().max()) == 0.0


def test_what_earned_more_than_average_becomes_likelier():
    leave = torch.zeros(1, 1, requires_grad=True)
    policy_loss(leave, torch.tensor([[0], [1]]), torch.tensor([[2.0], [1.0]])).backward()
    # - 1/2 (0.5 * d log pi - 0.5 * d log(1 - pi)) at pi = 1/2 is - 1/2 (0.25 + 0.25)
    assert float(leave.grad) == pytest.approx(-0.25)


# How it is trained.


def tiny(variant="hardness-guided", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def rows(stage, n=12):
    """A batch of samples that are not the first ones, as one phase meets it."""
    index = torch.arange(40, 40 + n)
    return stage.batch_of(index, torch.stack([stage.train.inputs[i] for i in index.tolist()]))


def walks(pi, trajectories):
    """Exits ``[K][n]`` from 0, decided layer by layer with the random numbers that come next."""
    chance = torch.rand(trajectories, *pi.shape)
    return [
        [next((i for i in range(len(pi)) if chance[k, i, x] < pi[i, x]), len(pi)) for x in range(pi.shape[1])]
        for k in range(trajectories)
    ]


def by_the_equations(pi, losses, memorised, exits, method):
    """L_pi and L_task, term by term, from pi ``[L - 1, n]``, losses ``[L, n]``, ml ``[n]`` and exits ``[K][n]``."""
    depth, policy, task, count = len(losses), 0.0, 0.0, len(exits) * len(memorised)
    for x, ml in enumerate(memorised):
        price = method.alpha * (1 - ml / depth) if method.guided else method.alpha
        rewards = [-losses[walk[x], x].item() - price * (walk[x] + 1) for walk in exits]
        for walk, earned in zip(exits, rewards, strict=True):
            e = walk[x]
            log_p = sum(math.log(1 - pi[i, x].item()) for i in range(e))
            log_p += math.log(pi[e, x].item()) if e < depth - 1 else 0.0
            policy -= (earned - sum(rewards) / len(rewards)) * log_p / count
            task += losses[e, x].item() / count
    return policy, task


def hardness(right):
    """ml(x) of each column by its definition."""
    depth = len(right)
    return [next((i + 1 for i in range(depth) if all(column[i:])), depth) for column in right.T.tolist()]


@torch.no_grad()
def by_hand(model, x, y):
    """pi ``[L - 1, n]``, losses ``[L, n]`` and who is right ``[L, n]``, through the modules one by one."""
    pi, losses, right, state = [], [], [], x
    for stage, head in zip(model.stages, model.heads, strict=True):
        state = stage(state)
        own = head if head is model.heads[-1] else head.classifier
        pooled = torch.tanh(state.mean(dim=1) @ own.pooler.weight.T + own.pooler.bias)
        logits = pooled @ own.classifier.weight.T + own.classifier.bias
        losses.append(F.cross_entropy(logits, y, reduction="none"))
        right.append(logits.argmax(-1) == y)
        if head is not model.heads[-1]:
            policy = head.policy
            pi.append(torch.sigmoid(policy.W2(F.gelu(policy.W1(pooled))))[:, 0])
    return torch.stack(pi), torch.stack(losses), torch.stack(right)


SETTINGS = [
    {}, {"trajectories": 3}, {"alpha": 0.7}, {"alpha": 0.0}, {"guided": False},
]  # fmt: skip


@pytest.mark.parametrize("variant", ConsistentEE.variants)
def test_three_phases_each_with_its_data_parameters_rate_and_length(wired, variant):
    method = tiny(variant, train_size=200, batch=20, policy_epochs=2.5, joint_epochs=1.5, joint_rate=7e-4)
    model, (joint, policies, all_together) = wired(method)
    targets, inputs = method.load().train.targets, method.load().train.inputs
    for phase in (joint, policies, all_together):
        assert torch.equal(phase.train.targets, targets)
    assert all(
        torch.equal(a, b) for phase in (joint, all_together) for a, b in zip(phase.train.inputs, inputs, strict=True)
    )
    names = dict(model.named_parameters())
    ours = {name for name in names if ".policy." in name}
    heads = {name for name in names if name.startswith("heads") and name not in ours}
    rest = set(names) - ours - heads
    rates = [{name: phase.rates.get(id(p)) for name, p in names.items()} for phase in (joint, policies, all_together)]
    assert rates[0] == dict.fromkeys(rest, 2e-3) | dict.fromkeys(heads, 5e-3) | dict.fromkeys(ours)
    assert rates[1] == dict.fromkeys(rest | heads) | dict.fromkeys(ours, 3e-3)
    assert rates[2] == dict.fromkeys(names, 7e-4)
    assert [(phase.steps, phase.epochs, phase.batch) for phase in (joint, policies, all_together)] == [
        (60, 6.0, 20), (25, 2.5, 20), (15, 1.5, 20)
    ]  # fmt: skip
    assert [len(phase.learning) > 0 for phase in (joint, policies, all_together)] == [True, False, True]


@pytest.mark.parametrize("variant", ConsistentEE.variants)
def test_phase_1_weighs_the_classifiers_by_depth(wired, variant):
    model, (joint, *_) = wired(tiny(variant, train_size=120))
    batch = rows(joint)
    _, losses, _ = by_hand(model, batch.inputs, batch.targets)
    meant = sum(i * loss for i, loss in enumerate(losses.mean(dim=1).tolist(), 1)) / 10
    assert joint.loss(batch).item() == pytest.approx(meant, rel=1e-5)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_phase_2_is_reinforce_on_the_frozen_network(wired, settings):
    method = tiny(train_size=120, **settings)
    model, (_, policies, _) = wired(method)
    batch = rows(policies)
    x = torch.stack([method.load().train.inputs[i] for i in batch.index.tolist()])
    pi, losses, right = by_hand(model, x, batch.targets)
    torch.manual_seed(5)
    exits = walks(pi, method.trajectories)
    meant, _ = by_the_equations(pi, losses, hardness(right), exits, method)
    torch.manual_seed(5)
    found = policies.loss(batch)
    assert found.item() == pytest.approx(meant, rel=1e-4, abs=1e-6)
    found.backward()
    assert all(head.policy.W1.weight.grad.abs().sum() > 0 for head in model.early)
    assert all(p.grad is None for p in model.without_policies().parameters())


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_phase_3_adds_the_loss_at_the_exit_taken_and_at_no_other(wired, settings):
    method = tiny(train_size=120, **settings)
    model, (_, _, together) = wired(method)
    batch = rows(together)
    pi, losses, right = by_hand(model, batch.inputs, batch.targets)
    torch.manual_seed(6)
    exits = walks(pi, method.trajectories)
    assert {0, 1, 2, 3} == {e for walk in exits for e in walk}
    policy, task = by_the_equations(pi, losses, hardness(right), exits, method)
    torch.manual_seed(6)
    assert together.loss(batch).item() == pytest.approx(policy + task, rel=1e-5)
    assert task != pytest.approx(float(losses.mean()), rel=1e-3)


def test_in_phase_3_classifiers_where_nobody_leaves_learn_nothing(wired):
    model, (_, _, together) = wired(tiny(train_size=120))
    for layer, head in enumerate(model.early):
        head.policy.W2.bias.data.fill_(50.0 if layer == 1 else -50.0)
    together.loss(rows(together)).backward()
    classifiers = [*(head.classifier for head in model.early), model.heads[-1]]
    gradients = [classifier.classifier.weight.grad for classifier in classifiers]
    assert [grad is not None and float(grad.abs().sum()) > 0 for grad in gradients] == [False, True, False, False]


def test_the_reward_is_no_way_for_gradients(wired):
    """What classifiers learn in phase 3 is the gradient of L_task alone."""
    model, (_, _, together) = wired(tiny(train_size=120, alpha=0.0))
    batch, weight = rows(together), model.early[0].classifier.classifier.weight
    torch.manual_seed(6)
    together.loss(batch).backward()
    found = weight.grad.clone()
    model.zero_grad()
    _, answers, leave = model.decisions(batch.inputs)
    torch.manual_seed(6)
    task_loss(losses_of(answers, batch.targets), sampled_exits(leave, 8)).backward()
    assert torch.allclose(found, weight.grad, atol=1e-7)


def test_hardness_is_found_once_after_phase_1(wired):
    """Phase 3 pays by how far inputs were memorised before it began."""
    model, (_, _, together) = wired(tiny(train_size=120, alpha=5.0))
    batch = rows(together)
    _, _, right = by_hand(model, batch.inputs, batch.targets)
    before = hardness(right)
    model.heads[-1].classifier.bias.data.copy_(torch.linspace(-3, 3, 10))
    pi, losses, now = by_hand(model, batch.inputs, batch.targets)
    assert hardness(now) != before
    torch.manual_seed(6)
    exits = walks(pi, 8)
    torch.manual_seed(6)
    found = together.loss(batch).item()
    assert found == pytest.approx(sum(by_the_equations(pi, losses, before, exits, tiny(alpha=5.0))), rel=1e-4)


def test_a_policy_is_two_layers_with_a_gelu_between():
    policy = ExitPolicyNetwork(3)
    assert policy.W1.out_features == 32
    pooled = torch.randn(4, 3)
    hidden = pooled @ policy.W1.weight.T + policy.W1.bias
    gelu = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    assert torch.allclose(policy(pooled), (gelu @ policy.W2.weight.T + policy.W2.bias)[:, 0], atol=1e-6)


# What it decides.


def test_thresholds_at_the_two_ends_and_strictness():
    policy, answers = ConsistentEE().policy(0.5, None), torch.zeros(4, 2, 3)
    leave = torch.tensor([[0.5, 0.9], [0.51, 0.0], [0.0, 0.0], [torch.nan] * 2])
    assert replay(policy, {"answer": answers, "leave": leave}).tolist() == [1, 0]
    leave[:-1] = 0.0
    assert replay(policy, {"answer": answers, "leave": leave}).tolist() == [3, 3]
    leave[0] = 0.6
    assert replay(policy, {"answer": answers, "leave": leave}).tolist() == [0, 0]


def test_policies_that_never_leave_are_the_full_model(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    found = infer(ready.model, x, method.policy(1.0, ready))
    with torch.inference_mode():
        assert torch.equal(found.answers, ready.model.without_policies().full(x))


def test_a_higher_price_means_earlier_exits(prepared):
    method, _, ready = prepared(KEY)
    depths = []
    for alpha in (0.0, 0.1, 3.0):
        model = method.build(ready.data, seed=0)
        model.load_state_dict(ready.model.state_dict())
        train_policies(model, ready.data, Bench(), alpha=alpha, guided=False, epochs=3.0, **PHASES)
        with torch.inference_mode():
            outputs = model(torch.stack(list(ready.data.validation.inputs)))
        depths.append(replay(method.policy(0.5, ready), outputs).mean())
    assert all(later <= earlier for earlier, later in pairwise(depths))
    assert depths[-1] < 0.1
    assert depths[0] > 1.0


@pytest.mark.parametrize("variant", ConsistentEE.variants)
def test_nobody_leaves_earlier_at_a_higher_threshold(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    exits = [replay(method.policy(knob, ready), ready.split("validation").outputs) for knob in method.knobs]
    assert all((earlier <= later).all() for earlier, later in pairwise(exits))
    means = [float(each.mean()) for each in exits]
    assert means[0] == 0.0
    assert means[-1] == 3.0
    assert len(set(means)) > 4


def test_the_first_phase_is_pabees(prepared):
    """Same network, same weights at the start, under the same names: the cache serves both."""
    method, _, ready = prepared(KEY)
    ours, theirs = method.build(ready.data, seed=0).without_policies(), text_exits("tiny", 10, seed=0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())
    same = ("encoder", "corpus", "train_size", "epochs", "batch", "rate", "head_rate")
    assert all(getattr(type(method)(), name) == getattr(Pabee(), name) for name in same)


def test_what_is_trained_is_what_the_exits_say(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:8]))
    with torch.inference_mode():
        outputs, (pooled, answers, leave) = ready.model(x), ready.model.decisions(x)
        pi, _, _ = by_hand(ready.model, x, ready.data.test.targets[:8])
    assert torch.allclose(method.answers(outputs, ready), answers, atol=1e-6)
    assert torch.allclose(outputs["leave"][:-1], leave.sigmoid(), atol=1e-6)
    assert torch.allclose(outputs["leave"][:-1], pi, atol=1e-6)
    assert outputs["leave"][-1].isnan().all()
    assert pooled.shape == (3, 8, 32)


def test_agrees_with_the_released_memorised_layers(golden):
    right = torch.tensor(golden["guesses"]) == torch.tensor(golden["truth"])
    assert memorised_layer(right).tolist() == golden["sample_layers"]


def test_agrees_with_the_released_trajectories(golden):
    """Exits and their losses; log P too, but for the last layer's policy, on which nothing depends (see above)."""
    pi, logits = torch.tensor(golden["pi"], dtype=torch.float64), torch.tensor(golden["logits"], dtype=torch.float64)
    outputs = {"answer": logits, "leave": pi}
    exits = torch.as_tensor(replay(ConsistentEE().policy(0.5, None), outputs))
    assert (exits + 1).tolist() == golden["layers"]
    targets = torch.tensor(golden["labels"]).repeat(golden["trajectories"])
    losses = losses_of(logits, targets)
    assert losses.gather(0, exits[None])[0].tolist() == pytest.approx(golden["losses"], rel=1e-5)
    assert float(task_loss(losses, exits[None])) == pytest.approx(golden["task_loss"], rel=1e-5)
    ours = log_exit_probabilities(pi[:-1].logit()).gather(0, exits[None])[0].numpy()
    released, last = np.array(golden["log_probabilities"]), (exits == len(pi) - 1).numpy()
    assert ours[~last] == pytest.approx(released[~last], abs=1e-5)
    assert last.any()
    at_last = np.where(pi[-1] > 0.5, pi[-1].log(), (1 - pi[-1]).log())
    assert (ours + at_last)[last] == pytest.approx(released[last], abs=1e-5)


@pytest.mark.parametrize(("form", "alpha", "guided"), [("loss_alone", 0, False), ("one_price", 0.02785, False),
                                                       ("guided", 0.03, True)])  # fmt: skip
def test_agrees_with_the_released_rewards_and_policy_loss(golden, form, alpha, guided):
    k = golden["trajectories"]
    exits = torch.tensor(golden["layers"]).reshape(k, -1) - 1
    pi = torch.tensor(golden["pi"], dtype=torch.float64)
    losses = torch.zeros(len(pi), exits.shape[1], dtype=torch.float64)
    earned = []
    for trajectory, at in enumerate(exits):  # each copy of a sample has logits of its own here
        own = losses.scatter(0, at[None], torch.tensor(golden["losses"]).reshape(k, -1)[trajectory][None].double())
        earned.append(reward(own, at[None], torch.tensor(golden["memorised"]), alpha=alpha, guided=guided)[0])
    rewards = torch.stack(earned)
    assert rewards.flatten().tolist() == pytest.approx(golden["rewards"][form]["rewards"], rel=1e-5)
    ours = log_exit_probabilities(pi[:-1].logit()).gather(0, exits.reshape(1, -1))[0].reshape(k, -1)
    at_last = torch.where(pi[-1] > 0.5, pi[-1].log(), (1 - pi[-1]).log()).reshape(k, -1)
    released = torch.where(exits == len(pi) - 1, ours + at_last, ours)  # with a policy at the last layer, as there
    advantage = rewards - rewards.mean(dim=0)
    assert -float((advantage * released).mean()) == pytest.approx(golden["rewards"][form]["policy_loss"], rel=1e-5)


# What is claimed.


def against(prepared, made, monkeypatch, patient, sure, answers=None):
    """Return the outcomes, with what two rules are said to reach on PABEE's network, and what its exits answer."""
    method, bench, ready = prepared(KEY)
    said = ready.split("test").answers if answers is None else answers
    joint = SimpleNamespace(split=lambda name: SimpleNamespace(answers=said))
    monkeypatch.setattr(Pabee, "prepare", lambda self, bench: joint)
    monkeypatch.setattr(Pabee, "sweep", lambda self, ready, bench, split, knobs: made(patient).test)
    monkeypatch.setattr(Pabee, "baselines", lambda self, ready, bench: [made(0.0, "static exit"), made(sure)])
    curve = SimpleNamespace(full_quality=0.5)
    return {outcome.name: outcome for outcome in claims(method, ready, bench, curve)}


@pytest.mark.parametrize(("patient", "sure"), [(-0.006, 0.1), (0.1, -0.006), (-0.004, -0.006)])
def test_rivals_stand_on_the_jointly_trained_network_and_are_beaten_by_half_a_point(
    prepared, made, monkeypatch, patient, sure
):
    method, _, ready = prepared(KEY)
    ours = method.trial(ScoreThreshold(0.5, "leave"), ready.split("test")).quality
    found = against(prepared, made, monkeypatch, ours + patient, ours + sure)
    assert found["better than patience"].holds is (patient < -0.005)
    assert found["better than the surest exit"].holds is (sure < -0.005)
    assert found["better than patience"].measured == f"{ours:.4f} and {ours + patient:.4f}"


def test_a_rival_may_cost_no_more(prepared, made, monkeypatch):
    """A rule that never saves anything is no rival at the cost of threshold 0.5, which saves something."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(Pabee, "prepare", lambda self, bench: None)
    monkeypatch.setattr(Pabee, "sweep", lambda self, ready, bench, split, knobs: made(1.0, speed_up=1.0).test)
    monkeypatch.setattr(Pabee, "baselines", lambda self, ready, bench: [made(0.4)])
    found = dict(baselines(method, ready, None, bench))
    assert found["patience"] is None
    assert found["the surest exit"].quality == pytest.approx(0.4)


def test_the_rivals_network_is_pabees_trained_for_as_many_epochs_as_ours():
    """Phase 2 trains policies alone; the network itself learns in phases 1 and 3."""
    assert pabee(ConsistentEE()) == Pabee(epochs=1.5)
    assert pabee(ConsistentEE(epochs=2.0, joint_epochs=1.0, rate=7e-5)) == Pabee(epochs=3.0, rate=7e-5)


def test_exits_specialise_if_they_serve_their_own_inputs_better_than_exits_that_serve_all(prepared, made, monkeypatch):
    _, _, ready = prepared(KEY)
    targets = ready.split("test").targets
    right = torch.nn.functional.one_hot(targets, ready.data.classes).float().expand(ready.model.exits, -1, -1)
    assert not against(prepared, made, monkeypatch, 0.0, 0.0)["exits specialise"].holds  # the same exits
    assert not against(prepared, made, monkeypatch, 0.0, 0.0, right)["exits specialise"].holds
    assert against(prepared, made, monkeypatch, 0.0, 0.0, -right)["exits specialise"].holds
