"""What only ConsistentEE promises: rewards by hardness, gradients only where a sample leaves, policies that decide."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.papers.zeng2024consistentee import ConsistentEE
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.policy_gradient import (
    draw,
    exit_losses_each,
    log_exit_probabilities,
    memorised_layer,
    policy_loss,
    reward,
    task_loss,
    train_choosing,
)

KEY = "zeng2024consistentee"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
PHASES = {"trajectories": 8, "batch": 32, "rate": 3e-3, "joint_epochs": 0.0, "joint_rate": 0.0}


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
    exits = draw(leave, 20_000)
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
    policy_loss(leave, draw(leave, 1), torch.randn(1, 20)).backward()
    assert float(leave.grad.abs().max()) == 0.0


def test_what_earned_more_than_average_becomes_likelier():
    leave = torch.zeros(1, 1, requires_grad=True)
    policy_loss(leave, torch.tensor([[0], [1]]), torch.tensor([[2.0], [1.0]])).backward()
    # - 1/2 (0.5 * d log pi - 0.5 * d log(1 - pi)) at pi = 1/2 is - 1/2 (0.25 + 0.25)
    assert float(leave.grad) == pytest.approx(-0.25)


def test_other_classifiers_get_no_gradient(prepared):
    _, _, ready = prepared(KEY)
    model = ready.model
    x, y = torch.stack(list(ready.data.train.inputs[:4])), ready.data.train.targets[:4]
    model.zero_grad()
    outputs, leave = model.both(x)
    exits = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1]])
    each = exit_losses_each(outputs, y)
    (task_loss(each, exits) + policy_loss(leave, exits, torch.randn(2, 4))).backward()
    grads = [head.plain.classifier.weight.grad for head in model.heads]
    assert grads[1].abs().sum() > 0
    assert [grad is None or float(grad.abs().sum()) == 0.0 for grad in grads] == [True, False, True, True]
    model.zero_grad()


def test_thresholds_at_the_two_ends_and_strictness():
    outputs = torch.zeros(4, 2, 3)
    outputs[:, :, -1] = torch.tensor([[0.5, 0.9], [0.51, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert replay(ScoreThreshold(0.5), outputs).tolist() == [1, 0]
    outputs[:-1, :, -1] = 0.0
    assert replay(ScoreThreshold(0.5), outputs).tolist() == [3, 3]
    outputs[0, :, -1] = 0.6
    assert replay(ScoreThreshold(0.5), outputs).tolist() == [0, 0]


def test_policies_that_never_leave_are_the_full_model(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    found = infer(ready.model, x, method.policy(1.0, ready))
    with torch.inference_mode():
        assert torch.equal(method.answers(found.outputs), ready.model.plain().full(x))


def test_a_higher_price_means_earlier_exits(prepared):
    method, _, ready = prepared(KEY)
    depths = []
    for alpha in (0.0, 0.1, 3.0):
        model = method.build(ready.data, seed=0)
        model.load_state_dict(ready.model.state_dict())
        train_choosing(model, ready.data, Bench(), alpha=alpha, guided=False, epochs=3.0, **PHASES)
        with torch.inference_mode():
            outputs = model(torch.stack(list(ready.data.validation.inputs)))
        depths.append(replay(ScoreThreshold(0.5), outputs).mean())
    assert all(later <= earlier for earlier, later in pairwise(depths))
    assert depths[-1] < 0.1
    assert depths[0] > 1.0


@pytest.mark.parametrize("variant", ["hardness-guided", "one price for all"])
def test_nobody_leaves_earlier_at_a_higher_threshold(prepared, variant):
    method, _, ready = prepared(KEY)
    changed = method.replace(method.variants[variant])
    model = ready.model
    if not changed.guided:
        model = method.build(ready.data, seed=0)
        model.load_state_dict(ready.model.state_dict())
        train_choosing(model, ready.data, Bench(), alpha=changed.alpha, guided=False, epochs=1.0, **PHASES)
    with torch.inference_mode():
        outputs = model(torch.stack(list(ready.data.validation.inputs)))
    exits = [replay(changed.policy(knob, ready), outputs) for knob in method.knobs]
    assert all((earlier <= later).all() for earlier, later in pairwise(exits))
    means = [float(each.mean()) for each in exits]
    assert means[0] == 0.0
    assert means[-1] == 3.0
    assert len(set(means)) > 4


def test_the_second_phase_moves_policies_alone(prepared):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, seed=2)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    train_choosing(model, ready.data, Bench(), alpha=0.1, guided=True, epochs=0.5, **PHASES)
    moved = {name for name, t in model.state_dict().items() if not torch.equal(before[name], t)}
    assert moved
    assert all(".policy." in name for name in moved)


def test_the_first_phase_is_pabees(prepared):
    """Same network, same weights at the start, under the same names: the cache serves both."""
    method, _, ready = prepared(KEY)
    ours, theirs = method.build(ready.data, seed=0).plain(), text_exits("tiny", 10, seed=0)
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    assert all(torch.equal(t, theirs.state_dict()[name]) for name, t in ours.state_dict().items())
    same = ("encoder", "corpus", "train_size", "epochs", "batch", "rate", "head_rate")
    assert all(getattr(type(method)(), name) == getattr(Pabee(), name) for name in same)


def test_both_says_what_the_heads_say(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:8]))
    with torch.inference_mode():
        outputs, (answers, leave) = ready.model(x), ready.model.both(x)
    assert torch.allclose(method.answers(outputs), answers, atol=1e-6)
    assert torch.allclose(outputs[:-1, :, -1], leave.sigmoid(), atol=1e-6)
    assert (outputs[-1, :, -1] == 1).all()


def test_agrees_with_the_released_memorised_layers(golden):
    right = torch.tensor(golden["guesses"]) == torch.tensor(golden["truth"])
    assert memorised_layer(right).tolist() == golden["sample_layers"]


def test_agrees_with_the_released_trajectories(golden):
    """Exits and their losses; log P too, but for the last layer's policy, on which nothing depends (see above)."""
    pi, logits = torch.tensor(golden["pi"], dtype=torch.float64), torch.tensor(golden["logits"], dtype=torch.float64)
    outputs = torch.cat([logits, pi[:, :, None]], dim=2)
    exits = torch.as_tensor(replay(ScoreThreshold(0.5), outputs))
    assert (exits + 1).tolist() == golden["layers"]
    targets = torch.tensor(golden["labels"]).repeat(golden["trajectories"])
    losses = exit_losses_each(logits, targets)
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
    outputs = method.answers(ready.split("test").outputs) if answers is None else answers
    joint = SimpleNamespace(split=lambda name: SimpleNamespace(outputs=outputs))
    monkeypatch.setattr(Pabee, "prepare", lambda self, bench: joint)
    monkeypatch.setattr(Pabee, "sweep", lambda self, ready, bench, split, knobs: made(patient).test)
    monkeypatch.setattr(Pabee, "baselines", lambda self, ready, bench: [made(0.0, "static exit"), made(sure)])
    curve = SimpleNamespace(full_quality=0.5)
    return {outcome.name: outcome for outcome in method.claims(ready, bench, curve)}


@pytest.mark.parametrize(("patient", "sure"), [(-0.006, 0.1), (0.1, -0.006), (-0.004, -0.006)])
def test_rivals_stand_on_the_jointly_trained_network_and_are_beaten_by_half_a_point(
    prepared, made, monkeypatch, patient, sure
):
    method, _, ready = prepared(KEY)
    ours = method.trial(ScoreThreshold(0.5), ready.split("test")).quality
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
    rivals = dict(method.rivals(ready, None, bench))
    assert rivals["patience"] is None
    assert rivals["the surest exit"].quality == pytest.approx(0.4)


def test_the_rivals_network_is_that_of_pabees_own_row():
    """So the cache serves both; and the settings are those of our first phase."""
    assert ConsistentEE().pabee == Pabee()
    assert ConsistentEE(rate=7e-5).pabee == Pabee(rate=7e-5)


def test_exits_specialise_if_they_serve_their_own_inputs_better_than_exits_that_serve_all(prepared, made, monkeypatch):
    _, _, ready = prepared(KEY)
    targets = ready.split("test").targets
    right = torch.nn.functional.one_hot(targets, ready.data.classes).float().expand(ready.model.exits, -1, -1)
    assert not against(prepared, made, monkeypatch, 0.0, 0.0)["exits specialise"].holds  # the same exits
    assert not against(prepared, made, monkeypatch, 0.0, 0.0, right)["exits specialise"].holds
    assert against(prepared, made, monkeypatch, 0.0, 0.0, -right)["exits specialise"].holds
