"""What only GFNet promises: the pixels of a look, PPO by hand and as in the released code, three stages, budgets."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import wang2020gfnet as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers import wang2020gfnet as paper
from eelit.methods.papers.wang2020gfnet import (
    GlanceAndFocus,
    Proposal,
    answers_of,
    anywhere,
    cut_out,
    drawn,
    log_density,
    parts_of,
    policy_loss,
    ppo_loss,
    returns,
    thumbnail,
    where_policy_says,
)
from eelit.methods.policies.base import softmax
from eelit.methods.policies.budgeted_thresholds import exit_shares, ratio_within, thresholds_for
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "wang2020gfnet"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


@pytest.fixture
def built():
    """A network with nothing learned, ten images and their classes."""
    method = tiny()
    data = method.load()
    return method.build(data, 0), torch.stack(list(data.train.inputs[:10])), data.train.targets[:10]


# What is looked at.


def test_a_piece_has_its_corner_where_the_action_says_rows_first():
    """An image of 10 (row) + column; of 6 pixels, 4 a piece: there are three corners a side."""
    x = (10 * torch.arange(6.0)[:, None] + torch.arange(6.0))[None, None].repeat(3, 1, 1, 1)
    a = torch.tensor([[0.0, 1.0], [0.5, 0.49], [0.99, 0.0]])
    found = cut_out(x, a, 4)
    assert found.shape == (3, 1, 4, 4)
    assert found[:, 0, 0, 0].tolist() == [2.0, 10.0, 10.0]
    assert torch.equal(found[1, 0], x[1, 0, 1:5, 0:4])


@pytest.mark.parametrize("channels", [1, 3])
def test_pieces_lie_in_the_image_whatever_the_action(channels):
    x = torch.randn(2, channels, 7, 7)
    for a in (0.0, 0.3, 0.999, 1.0):
        piece, corner = cut_out(x, torch.full((2, 2), a), 5), math.floor(a * 2)
        assert torch.equal(piece, x[:, :, corner : corner + 5, corner : corner + 5])
    assert torch.equal(cut_out(x, torch.full((2, 2), math.nan), 5), x[:, :, :5, :5])
    assert torch.equal(cut_out(x, torch.tensor([[1.5, -0.5]] * 2), 5), x[:, :, 2:, :5])


def test_a_thumbnail_is_the_mean_over_squares():
    x = torch.randn(2, 1, 8, 8)
    assert torch.allclose(thumbnail(x, 4), x.reshape(2, 1, 4, 2, 4, 2).mean(dim=(3, 5)), atol=1e-6)


def test_pieces_are_those_of_the_released_code(golden):
    for case in golden["patches"]:
        x = torch.arange(2 * 3 * case["side"] ** 2, dtype=torch.float32).reshape(2, 3, case["side"], case["side"])
        found = cut_out(x, torch.tensor(case["actions"]), case["size"])
        assert found[:, :, 0, 0].tolist() == case["first"]
        assert found[:, :, -1, -1].tolist() == case["last"]


def test_encoders_run_on_looks_and_never_on_whole_images(built):
    model, x, _ = built
    seen = []
    for part in (parts_of(model).glance.encoder, parts_of(model).focus.encoder):
        part.register_forward_hook(lambda part, given, out: seen.append(tuple(given[0].shape)))
    with torch.no_grad():
        model(x)
    assert seen == [(10, 1, 4, 4)] * 3


# What a look tells.


def test_looks_by_hand(built):
    """Each step anew: the policy reads the last map, the piece is cut, the GRUs remember, one layer answers."""
    model, x, _ = built
    glance, focus, answer = parts_of(model)
    pi = focus.policy
    with torch.no_grad():
        said = model(x)
        e = glance.encoder.maps(thumbnail(x, 4))
        c, s = glance.memory(e.mean(dim=(2, 3)), torch.zeros(10, 16)), torch.zeros(10, 8)
        for z in said:
            assert torch.allclose(z, c @ answer.linear.weight.T + answer.linear.bias, atol=1e-5)
            s = pi.gru(pi.encode(e), s)
            mu = torch.sigmoid(s @ pi.actor.weight.T + pi.actor.bias)
            e = focus.encoder.maps(cut_out(x, mu, 4))
            c = focus.memory(e.mean(dim=(2, 3)), c)
    assert len(said) == 3


def test_what_is_shared(built):
    """One classifier for all looks, one encoder for all closer ones; the glance has its own, which starts alike."""
    model, _, _ = built
    assert len({id(stage) for stage in model.stages}) == len({*map(id, model.heads)}) + 1 == 2
    glance, focus, _ = parts_of(model)
    assert glance.memory is focus.memory
    assert glance.encoder is not focus.encoder
    one, other = glance.encoder.state_dict(), focus.encoder.state_dict()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("looks", [2, 4])
def test_there_are_as_many_exits_as_looks(looks):
    model = tiny(looks=looks).build(tiny().load(), 0)
    assert model.exits == looks
    assert not model.training


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"looks": 1}, "looks"), ({"zoom": 0.0}, "zoom"), ({"zoom": 1.1}, "zoom"), ({"r": -1.0}, "r"),
        ({"r": math.inf}, "r"), ({"std": 0.0}, "std"), ({"std": math.inf}, "std"), ({"gamma": 1.1}, "gamma"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(settings, name):
    with pytest.raises(ValueError, match=f"{name} is one"):
        tiny(**settings).prepare(Bench(most_steps=0))


def test_a_look_costs_an_encoder_the_policy_and_the_classifier(built):
    """h = 4; maps are 16 channels of 2×2 places; GRUs of d units on n inputs cost 3 d (n + d)."""
    model, x, _ = built
    encoder = costs.count(lambda: parts_of(model).glance.encoder(torch.zeros(1, 1, 4, 4)))
    memory, answer = 3 * 16 * (16 + 16), 16 * 10
    policy = 4 * 16 * 32 + 128 * 8 + 3 * 8 * (8 + 8) + 8 * 2
    every, alone = costs.both_costs(model, x[:1])
    first, more = encoder + memory, encoder + memory + policy
    assert alone == [first + answer, first + more + answer, first + 2 * more + answer]
    assert every == [first + answer, first + more + 2 * answer, first + 2 * more + 3 * answer]


def test_default_encoders_see_a_quarter_of_the_pixels():
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    model = GlanceAndFocus().build(pictures, 0)
    state = model.stages[0](torch.zeros(2, 1, 48, 48))
    assert (parts_of(model).glance.h, parts_of(model).focus.h) == (24, 24)
    assert state["e"].shape == (2, 160, 3, 3)
    assert state["c"].shape == (2, 128)
    assert state["s"].tolist() == [[0.0] * 64] * 2


def test_looks_that_would_follow_are_not_taken(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:4]))
    every = costs.exit_costs(ready.model, x[:1])
    for policy, exit_ in ((MaxConfidence(0.0), 0), (MaxConfidence(2.0), 2)):
        assert costs.count(lambda policy=policy: infer(ready.model, x, policy)) == 4 * every[exit_]


# Where to look: PPO.


def test_returns_are_discounted_and_standardised_over_all():
    rewards = torch.tensor([[1.0, 0.0], [2.0, -1.0], [4.0, 0.5]])
    R = torch.tensor([[1 + 0.7 * (2 + 0.7 * 4), 0.7 * (-1 + 0.7 * 0.5)], [2 + 0.7 * 4, -1 + 0.7 * 0.5], [4.0, 0.5]])
    assert torch.allclose(returns(rewards, 0.7), (R - R.mean()) / (R.std() + 1e-5), atol=1e-6)
    assert returns(torch.ones(1, 1), 0.7).tolist() == [[0.0]]  # one look of one image says nothing
    plain = returns(rewards, 1.0)
    assert float(plain.mean()) == pytest.approx(0, abs=1e-6)
    assert float(plain.std()) == pytest.approx(1, abs=1e-4)


def test_the_loss_of_ppo_by_hand():
    """Ratios 2, 1/2, 1.1 with advantages 1, 1, -1: clipped to 1.2; kept; kept."""
    ratio = torch.tensor([[2.0, 0.5, 1.1]])
    V, R = torch.tensor([[0.5, -1.0, 2.0]]), torch.tensor([[1.5, 0.0, 1.0]])
    found = ppo_loss(ratio.log() - 3.0, torch.full((1, 3), -3.0), V, R)
    assert found.item() == pytest.approx(-(1.2 + 0.5 - 1.1) / 3 + 0.5, rel=1e-5)
    found = ppo_loss(torch.tensor([[0.5]]).log(), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([[-2.0]]))
    assert found.item() == pytest.approx(0.8 * 2 + 0.5 * 4, rel=1e-5)  # -min(-1, -1.6)


def test_what_a_state_is_worth_learns_from_returns_alone():
    log_p, V = torch.zeros(1, 2, requires_grad=True), torch.tensor([[0.5, -1.0]], requires_grad=True)
    R = torch.tensor([[1.5, 0.0]])
    slope_p, slope_V = torch.autograd.grad(ppo_loss(log_p, log_p.detach(), V, R), [log_p, V])
    assert torch.allclose(slope_V, (V - R).detach() / 2)
    assert torch.allclose(slope_p, -(R - V).detach() / 2)


def test_densities_are_those_of_a_normal_distribution_up_to_a_constant():
    mu, a = torch.rand(5, 2, requires_grad=True), torch.rand(5, 2)
    theirs = torch.distributions.Normal(mu, 0.1).log_prob(a).sum(-1)
    ours = log_density(a, mu, 0.1)
    assert torch.allclose(ours - ours[0], theirs - theirs[0], atol=1e-4)
    slopes = [torch.autograd.grad(each.sum(), mu, retain_graph=True)[0] for each in (ours, theirs)]
    assert torch.allclose(*slopes, atol=1e-4)


def test_places_are_drawn_around_the_mean_and_cut_to_the_image():
    torch.manual_seed(0)
    mu = torch.full((4000, 2), 0.5, requires_grad=True)
    found = drawn(mu, 0.1)
    assert not found.requires_grad
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(found.std()) == pytest.approx(0.1, abs=0.01)
    edge = drawn(torch.ones(4000, 2), 0.1)
    assert float(edge.max()) == 1.0
    assert float((edge == 1).double().mean()) == pytest.approx(0.5, abs=0.05)


def test_the_policy_and_its_loss_agree_with_the_released_code(golden):
    """Means, values and slopes of all weights, where the policy is another than the one that drew (`provenance`)."""
    case = golden["ppo"]
    pi = Proposal(case["shape"], case["hidden"])
    given = {name: torch.tensor(value) for name, value in case["weights"].items()}
    names = {
        "encode.0.weight": "state_encoder.0.weight", "encode.3.weight": "state_encoder.3.weight",
        "encode.3.bias": "state_encoder.3.bias", "actor.weight": "actor.0.weight", "actor.bias": "actor.0.bias",
        "critic.weight": "critic.0.weight", "critic.bias": "critic.0.bias",
        **{f"gru.{kind}_{which}": f"gru.{kind}_{which}_l0" for kind in ("weight", "bias") for which in ("ih", "hh")},
    }  # fmt: skip
    pi.load_state_dict({ours: given[theirs] for ours, theirs in names.items()})
    states, actions = torch.tensor(case["states"]), torch.tensor(case["actions"])
    s, log_p, V = torch.zeros(states.shape[1], case["hidden"]), [], []
    for e, a, means in zip(states, actions, torch.tensor(case["means"]), strict=True):
        mu, s = pi(e, s)
        assert torch.allclose(mu, means, atol=1e-5)
        log_p.append(log_density(a, mu, 0.1))
        V.append(pi.worth(s))
    assert torch.allclose(torch.stack(V), torch.tensor(case["values"]), atol=1e-5)
    constant = -2 * math.log(0.1) - math.log(2 * math.pi)
    before = torch.tensor(case["logprobs"]) - constant
    ratios = (torch.stack(log_p) - before).exp()
    assert ((ratios < 0.8).any(), (ratios > 1.2).any()) == (True, True)
    R = returns(torch.tensor(case["rewards"]), 0.7)
    assert torch.allclose(R, torch.tensor(case["returns"]), atol=1e-5)
    found = ppo_loss(torch.stack(log_p), before, torch.stack(V), R)
    entropy = 1 + math.log(2 * math.pi) + 2 * math.log(0.1)
    assert found.item() - 0.01 * entropy == pytest.approx(case["loss"], rel=1e-4)
    found.backward()
    for ours, theirs in names.items():
        assert torch.allclose(pi.get_parameter(ours).grad, torch.tensor(case["slopes"][theirs]), atol=1e-4), ours


def test_the_classifier_agrees_with_the_released_code(golden):
    case = golden["classifier"]
    features = torch.tensor(case["features"])
    memory, linear = nn.GRUCell(features.shape[2], 4), nn.Linear(4, 3)
    given = {name: torch.tensor(value) for name, value in case["weights"].items()}
    memory.load_state_dict({name: given[f"rnn.{name}_l0"] for name in memory.state_dict()})
    linear.load_state_dict({name: given[f"fc.{name}"] for name in linear.state_dict()})
    c = None
    for e, theirs in zip(features, case["logits"], strict=True):
        c = memory(e, c)
        assert torch.allclose(linear(c), torch.tensor(theirs), atol=1e-5)


def test_a_policy_is_drawn_to_where_looks_bring_something():
    """A reward for looking near the first corner moves the mean there."""
    torch.manual_seed(0)
    pi = Proposal((3, 2, 2), 8)
    optimiser, e = torch.optim.Adam(pi.parameters(), 1e-2), torch.randn(32, 3, 2, 2)
    for _ in range(120):
        mu, s = pi(e, torch.zeros(32, 8))
        a = drawn(mu, 0.1)
        log_p, reward = log_density(a, mu, 0.1)[None], -((a - torch.tensor([0.2, 0.9])) ** 2).sum(-1)[None]
        optimiser.zero_grad()
        ppo_loss(log_p, log_p.detach(), pi.worth(s)[None], returns(reward, 0.7)).backward()
        optimiser.step()
    assert pi(e, torch.zeros(32, 8))[0].mean(0).tolist() == pytest.approx([0.2, 0.9], abs=0.1)


def test_rewards_are_gains_of_the_true_class_and_add_up(built, monkeypatch):
    """What all looks bring is the last probability less the first; pieces lie where the policy drew them."""
    model, x, y = built
    asked, places, looked = [], [], []
    monkeypatch.setattr(paper, "ppo_loss", lambda *given: asked.append(given) or given[0].sum())
    monkeypatch.setattr(paper, "returns", lambda rewards, gamma: asked.append((rewards, gamma)) or rewards)
    draw, cut = paper.drawn, paper.cut_out
    monkeypatch.setattr(paper, "drawn", lambda mu, std: places.append((mu, std, draw(mu, std))) or places[-1][2])
    monkeypatch.setattr(paper, "cut_out", lambda x, a, h: looked.append(a) or cut(x, a, h))
    policy_loss(model, x, y, 0.3, 0.6)
    (rewards, gamma), (log_p, before, V, _) = asked
    assert gamma == 0.6
    assert all(torch.equal(a, given) for a, (_, std, given) in zip(looked, places, strict=True) if std == 0.3)
    glance, focus, answer = parts_of(model)
    with torch.no_grad():
        state = glance(x)
        p, s = [answer(state).softmax(-1)[torch.arange(10), y]], state["s"]
        for (mu, _, a), ours, worth in zip(places, log_p, V, strict=True):
            mean, s = focus.policy(state["e"], s)
            assert torch.allclose(mean, mu, atol=1e-6)
            assert torch.allclose(ours, -((a - mu) ** 2).sum(-1) / 0.18, atol=1e-4)
            assert torch.allclose(worth, focus.policy.worth(s), atol=1e-6)
            state = focus.look(state, a)
            p.append(answer(state).softmax(-1)[torch.arange(10), y])
    assert torch.allclose(rewards, torch.stack(p).diff(dim=0), atol=1e-6)
    assert torch.allclose(rewards.sum(0), p[-1] - p[0], atol=1e-6)
    assert torch.equal(before, log_p)
    assert log_p.requires_grad
    assert not before.requires_grad


# Three stages.


def test_stages_train_their_parts_at_their_rates_for_their_time(wired):
    settings = {"epochs": 1.5, "policy_epochs": 2.0, "tune_epochs": 0.5, "batch": 20}
    model, found = wired(tiny(**settings, rate=3e-3, policy_rate=5e-3, tune_rate=7e-4))
    policy = {id(p) for p in parts_of(model).focus.policy.parameters()}
    others = {id(p) for p in model.parameters()} - policy
    assert [stage.rates for stage in found] == [
        dict.fromkeys(others, 3e-3), dict.fromkeys(policy, 5e-3), dict.fromkeys(others, 7e-4),
    ]  # fmt: skip
    assert [(stage.epochs, stage.batch, stage.steps) for stage in found] == [
        (1.5, 20, 30),
        (2.0, 20, 40),
        (0.5, 20, 10),
    ]
    assert [type(stage.optimiser) for stage in found] == [torch.optim.AdamW, torch.optim.Adam, torch.optim.AdamW]
    assert found[1].optimiser.param_groups[0]["weight_decay"] == 0
    assert all(torch.equal(stage.train.targets, tiny().load().train.targets) for stage in found)


@pytest.mark.parametrize(("number", "onward"), [(0, anywhere), (2, where_policy_says(0.3))])
def test_both_classifiers_learn_from_every_look(wired, number, onward):
    """Random places, or those around the policy's: the same ones from the same seed."""
    model, found = wired(tiny(r=0.4, std=0.3))
    stage = found[number]
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    model.eval()
    with torch.no_grad():
        torch.manual_seed(5)
        loss = stage.loss(stage.batch_of(torch.arange(12), x)).item()
        torch.manual_seed(5)
        z, own = answers_of(model, x, onward)
        by_hand = sum(F.cross_entropy(a, y) + 0.4 * F.cross_entropy(b, y) for a, b in zip(z, own, strict=True)) / 3
    assert loss == pytest.approx(by_hand.item(), rel=1e-5)


def test_the_policy_learns_from_its_own_loss_alone(wired):
    model, (_, stage, _) = wired(tiny(std=0.2, gamma=0.5))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    torch.manual_seed(5)
    found = stage.loss(stage.batch_of(torch.arange(12), x))
    torch.manual_seed(5)
    assert found.item() == pytest.approx(policy_loss(model, x, y, 0.2, 0.5).item(), rel=1e-5)
    found.backward()
    moved = {id(p) for p in model.parameters() if p.grad is not None}
    assert moved == {id(p) for p in parts_of(model).focus.policy.parameters()}


def test_own_classifiers_read_the_map_of_their_look(built):
    """Looks anywhere: each encoder's classifier is asked about the map that the encoder has just made."""
    model, x, _ = built
    glance, focus, _ = parts_of(model)
    with torch.no_grad():
        torch.manual_seed(1)
        _, own = answers_of(model, x, anywhere)
        torch.manual_seed(1)
        places = [torch.rand(10, 2) for _ in range(2)]
        by_hand = [glance.encoder.own(glance.encoder(thumbnail(x, 4)))]
        by_hand += [focus.encoder.own(focus.encoder(cut_out(x, a, 4))) for a in places]
    assert torch.allclose(own, torch.stack(by_hand), atol=1e-5)


def test_chosen_looks_follow_the_policy_with_its_memory(built):
    """Without noise they are those of the network in use."""
    model, x, _ = built
    with torch.no_grad():
        z, _ = answers_of(model, x, where_policy_says(0.0))
        assert torch.allclose(z, model(x), atol=1e-6)
        noisy, _ = answers_of(model, x, where_policy_says(0.3))
    assert torch.allclose(noisy[0], z[0], atol=1e-6)
    assert not torch.allclose(noisy[1], z[1], atol=1e-3)


def test_no_gradient_reaches_the_policy_where_it_is_frozen_nor_encoders_through_it(built):
    model, x, _ = built
    glance, focus, _ = parts_of(model)
    answers_of(model, x, where_policy_says(0.1))[0].sum().backward()
    assert all(p.grad is None for p in focus.policy.parameters())
    assert all(p.grad is not None for p in focus.encoder.maps.parameters())
    model.zero_grad()
    focus.policy(glance(x)["e"], torch.zeros(10, 8))[0].sum().backward()
    assert all(p.grad is None for p in glance.encoder.parameters())


def test_what_moves_in_each_stage():
    method, ends, modes = tiny(train_size=64, epochs=1.0, policy_epochs=1.0, tune_epochs=1.0), [], []
    model = method.build(data := method.load(), 0)

    def watch(stage):
        modes.append(model.training)
        if stage is None:
            ends.append({name: value.clone() for name, value in model.state_dict().items()})

    before = {name: value.clone() for name, value in model.state_dict().items()}
    method.train(model, data, Bench(watch=watch))
    for then, now, of_policy in zip([before, *ends], ends, (False, True, False), strict=False):
        moved = {name for name in now if not torch.equal(then[name], now[name])}
        assert moved == {name for name in now if (".policy." in name) is of_policy}
    assert modes == [True, True, False, False, True, True]
    assert not model.training


# Budgets.


def test_thresholds_are_those_of_the_fitting_half_alone(prepared):
    method, _, ready = prepared(KEY)
    fitting = ready.split("fitting")
    assert len(fitting.targets) == 150
    spent, p = fitting.costs[:, 0], fitting.outputs.softmax(dim=-1).amax(dim=-1).numpy()
    for budget in (0.5, 0.7, 0.9):
        shares = exit_shares(ratio_within(budget * spent[-1], spent), 3)
        assert method.rule(budget, ready).threshold == pytest.approx(thresholds_for(p, shares), abs=1e-5)
        left = np.bincount(replay(method.rule(budget, ready), fitting.outputs), minlength=3)
        assert left[:2].tolist() == np.floor(150 * shares[:2]).tolist()
    assert method.rule(spent[0] / spent[-1], ready) == MaxConfidence(0.0)
    assert (ratio_within(spent[0], spent), ratio_within(spent[-1], spent)) == (0, math.inf)
    assert method.rule(1.0, ready).threshold == (math.inf, math.inf)


def test_thresholds_agree_with_the_released_code(golden):
    """For their shares, found and applied to the same probabilities."""
    rng = np.random.RandomState(5)
    z = rng.standard_normal((4, 80, 5)) * np.array([1, 1.5, 2, 3])[:, None, None]
    for case in golden["thresholds"]:
        shares = exit_shares(case["b"], 4)
        assert shares == pytest.approx(case["shares"], abs=1e-6)
        found = thresholds_for(softmax(z).max(-1), shares)
        assert found == pytest.approx([math.inf if t is None else t for t in case["thresholds"]], abs=1e-6)
        exits = replay(MaxConfidence(found), z)
        assert np.bincount(exits, minlength=4) @ np.array(golden["flops"]) / 80 == pytest.approx(
            case["flops"], rel=1e-5
        )
        right = z.argmax(-1)[exits, np.arange(80)] == np.array(golden["targets"])
        assert 100 * right.mean() == pytest.approx(case["accuracy"], rel=1e-5)


# What is claimed.


def test_places_elsewhere_are_as_good_as_random_and_the_images_own():
    x = torch.randn(2000, 1, 8, 8)
    turn = torch.zeros(2000)
    found = claimed.place_of(x, turn)
    assert ((found >= 0) & (found < 1)).all()
    assert found.mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.03)
    assert found.std(0).tolist() == pytest.approx([0.29, 0.29], abs=0.02)
    assert abs(float(torch.corrcoef(found.T)[0, 1])) < 0.1
    assert torch.equal(claimed.place_of(x[7:8], turn[:1]), found[7:8])


def test_where_an_image_is_looked_at_says_nothing_of_where_it_is_looked_at_next():
    """Rows and columns of three turns: no two go together, nor does one less the other, on the ring, stay the same."""
    x = torch.randn(2000, 1, 8, 8)
    places = torch.cat([claimed.place_of(x, torch.full((2000,), turn)) for turn in (0.0, 1.0, 2.0)], dim=1)
    assert float((torch.corrcoef(places.T) - torch.eye(6)).abs().max()) < 0.1
    for a in range(6):
        for b in range(a):
            apart = (places[:, a] - places[:, b]).remainder(1)
            assert float(apart.std()) == pytest.approx(0.29, abs=0.02)


def test_looks_elsewhere_go_elsewhere(built, monkeypatch):
    model, x, _ = built
    glance, focus, answer = parts_of(model)
    looked, cut = [], paper.cut_out
    monkeypatch.setattr(paper, "cut_out", lambda x, a, h: looked.append(a) or cut(x, a, h))
    with torch.no_grad():
        for kind in (claimed.Central, claimed.Anywhere):
            other = kind(focus.policy, focus.encoder, focus.memory, focus.h)
            MultiExit([glance, other, other], [answer] * 3)(x)
    assert [a.tolist() for a in looked[:2]] == [[[0.5, 0.5]] * 10] * 2
    assert torch.equal(looked[2], claimed.place_of(x, torch.zeros(10)))
    assert torch.equal(looked[3], claimed.place_of(x, torch.ones(10)))


def test_rivals_share_the_first_stage_and_train_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(paper, "train_looks", lambda model, onward, *given, **o: asked.append((model, onward, o)))
    for kind, onward in ((claimed.Anywhere, anywhere), (claimed.Central, claimed.at_centre)):
        asked.clear()
        found = claimed.elsewhere(method, ready, bench, kind, onward)
        (first, warm, one), (second, tuned, other) = asked
        assert (warm, tuned) == (anywhere, onward)
        assert (one["epochs"], one["rate"], one["batch"], one["r"]) == (4.0, 1e-2, 32, 1.0)
        assert (other["epochs"], other["rate"], other["batch"], other["r"]) == (1.0, 1e-3, 32, 1.0)
        assert found.model is second
        assert type(parts_of(second).focus) is kind
        assert parts_of(second).focus.encoder is parts_of(first).focus.encoder
        assert parts_of(second).glance is parts_of(first).glance
        assert second.exits == 3


def test_whole_images_are_seen_by_the_same_form_of_encoder_trained_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(claimed, "train_plain", lambda *given, **options: asked.append((given, options)))
    found = claimed.whole_images(method, ready, bench)
    (((model, data, _), options),) = asked
    assert found.model is model
    assert options == {"epochs": 5.0, "batch": 32, "rate": 1e-2}
    assert torch.equal(data.train.targets, ready.data.train.targets)
    one, other = (claimed_size(part) for part in (model.stages[0], parts_of(ready.model).focus.encoder.maps))
    assert one == other


def claimed_size(part):
    return sum(p.numel() for p in part.parameters() if p.dim() == 4)


def curve_of(*points):
    made = [OperatingPoint(knob=k, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for k, q, c in points]
    return SimpleNamespace(validation=made, test=made)


@pytest.mark.parametrize(("gains", "holds"), [((-0.5, 0.015, 0.005), True), ((0.5, 0.014, 0.005), False)])
def test_where_the_policy_says_closer_looks_must_be_better(gains, holds):
    found = claimed.better("random", [0.5 + gain for gain in gains], [0.5] * 3)
    assert found.holds is holds
    assert found.measured == "by look " + ", ".join(f"{gain:+.4f}" for gain in gains)


@pytest.mark.parametrize(
    ("cost", "quality", "test", "holds"),
    [(79.0, 0.796, 0.80, True), (81.0, 0.796, 0.80, False), (79.0, 0.796, 0.81, False), (60.0, 0.794, 0.8, False)],
)
def test_a_fifth_must_be_saved_beside_whole_images(cost, quality, test, holds):
    curve = curve_of((0.0, 0.5, 20.0), (0.5, quality, cost), (1.0, 0.9, 110.0))
    assert claimed.cheaper(curve, 0.80, test, 100.0).holds is holds


@pytest.mark.parametrize(("cost", "holds"), [(52.4, True), (52.6, False)])
def test_budgets_must_be_kept(cost, holds):
    ready = SimpleNamespace(split=lambda name: {"test": SimpleNamespace(costs=np.full((3, 1), 100.0))}[name])
    assert claimed.keeps_budget(ready, curve_of((0.0, 0.5, 30.0), (0.5, 0.6, cost), (1.0, 0.7, 100.0))).holds is holds


def test_all_rivals_are_tried(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(claimed, "elsewhere", lambda *given: asked.append(given[3:]) or ready)
    monkeypatch.setattr(claimed, "whole_images", lambda *given: ready)
    points = method.sweep(ready, bench, "test", method.knobs)
    found = claimed.claims(method, ready, bench, SimpleNamespace(validation=points, test=points))
    assert [o.name for o in found] == [
        "better than random looks", "better than central looks", "cheaper than whole images at equal accuracy",
        "the budget is kept",
    ]  # fmt: skip
    assert asked == [(claimed.Anywhere, anywhere), (claimed.Central, claimed.at_centre)]
    assert found[0].measured == "by look +0.0000, +0.0000, +0.0000"
    assert "of the MACs saved" in found[2].measured


def test_places_as_good_as_random_are_counted_as_work_without_products():
    """On a track the rival's cost is counted from outside, and an operation that the counter does not know ends it."""
    x, turn = torch.rand(20, 1, 4, 4), torch.ones(20)
    assert costs.count(lambda: claimed.place_of(x, turn)) == 0
    numbers = torch.tensor([-5, 0, 5, claimed.PRIME, (claimed.PRIME - 1) ** 2])
    assert torch.equal(claimed.rest(numbers), numbers.remainder(claimed.PRIME))
