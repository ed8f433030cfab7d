"""What only Triple Wins promises: attacks and their bounds, the defended losses, thresholds, and the released code."""

import copy
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import hu2020triplewins as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, evaluating
from eelit.methods.engine.records import OperatingPoint, Samples
from eelit.methods.harness import registry
from eelit.methods.papers.hu2020triplewins import (
    ATTACKED,
    ATTACKS,
    STEPS,
    Ball,
    TripleWins,
    attacked,
    average,
    max_average,
    single,
    thresholds_for,
    train_defended,
)
from eelit.methods.policies.base import entropy
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.joint import losses_of

KEY = "hu2020triplewins"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
MAIN = "max-average defence"
BALL = Ball(black=0.0, white=1.0, eps=0.2, g=0.09, S=4)


def tiny(variant=MAIN, **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def seeded(number=11):
    return torch.Generator().manual_seed(number)


def small(exits=3, side=28, seed=5):
    """Exits of a small smooth network for images ``[1, side, side]`` in 4 classes, in double precision."""
    rng = np.random.RandomState(seed)
    convolutions = [nn.Conv2d(1, 3, 4, stride=4), nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3)][:exits]
    stages, heads, x = [], [], torch.zeros(1, 1, side, side)
    for convolution in convolutions:
        stages.append(nn.Sequential(convolution, nn.Tanh()))
        x = stages[-1](x)
        heads.append(nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), 4)))
    model = MultiExit(stages, heads).double()
    for p in model.parameters():
        with torch.no_grad():
            p.copy_(torch.tensor(rng.standard_normal(tuple(p.shape)) * 0.4))
    for head, scale in zip(model.heads, (0.5, 0.6, 1.0), strict=False):  # so that no exit is always the worst to attack
        for p in head.parameters():
            p.data *= scale
    return model


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def images():
    """Five images and their classes."""
    rng = np.random.RandomState(6)
    return torch.tensor(rng.uniform(size=(5, 1, 28, 28))), torch.tensor(rng.randint(0, 4, 5))


# Attacks.


def test_lengths_are_shares_of_the_way_from_black_to_white():
    pictures = Examples([torch.tensor([[[-1.0, 0.5]]]), torch.tensor([[[3.0, 0.0]]])], torch.zeros(2))
    assert Ball.of(pictures, eps=0.1, g=0.02, S=3) == Ball(-1.0, 3.0, pytest.approx(0.4), pytest.approx(0.08), 3)


@pytest.mark.parametrize("attack", [single, average, max_average])
@pytest.mark.parametrize(("black", "white"), [(0.0, 1.0), (0.1, 0.7)])
def test_an_attacked_image_stays_in_the_ball_and_an_image(images, attack, black, white):
    x, y = images
    x = x.clamp(black, white)
    ball = Ball(black, white, eps=0.2, g=0.15, S=4)
    x_adv = attack(small(), x, y, ball, seeded())
    assert (x_adv - x).abs().max() <= 0.2 + 1e-6
    assert (x_adv - x).abs().max() > 0.19
    assert black <= x_adv.min()
    assert x_adv.max() <= white
    assert not x_adv.requires_grad


def test_one_attack_by_hand():
    """Logits (0, 2 x_1 - x_2), class 0: the loss rises with x_1 and falls with x_2; pixels are within 0 and 1."""
    linear = nn.Linear(2, 2, bias=False)
    linear.weight = nn.Parameter(torch.tensor([[0.0, 0.0], [2.0, -1.0]]))
    model = MultiExit([nn.Identity()], [linear])
    x, y = torch.tensor([[0.5, 0.5], [0.95, 0.02]]), torch.tensor([0, 0])
    start = (2 * torch.rand(2, 2, generator=seeded()) - 1) * 0.1
    one = single(model, x, y, Ball(0.0, 1.0, eps=0.1, g=0.03, S=1), seeded())
    moved = x + start + torch.tensor([0.03, -0.03])
    by_hand = torch.minimum(torch.maximum(moved, x - 0.1), x + 0.1).clamp(0, 1)
    assert torch.allclose(one, by_hand, atol=1e-6)
    many = single(model, x, y, Ball(0.0, 1.0, eps=0.1, g=0.03, S=9), seeded())
    assert torch.allclose(many, torch.tensor([[0.6, 0.4], [1.0, 0.0]]), atol=1e-6)


def test_an_attack_starts_anywhere_in_the_ball(images):
    x, y = images
    found = (single(small(), x, y, Ball(-9.0, 9.0, eps=0.2, g=0.0, S=1), seeded()) - x) / 0.2
    assert float(found.mean()) == pytest.approx(0, abs=0.05)
    assert float(found.std()) == pytest.approx(1 / math.sqrt(3), rel=0.03)  # uniform
    again, other = (single(small(), x, y, BALL, seeded(n)) for n in (11, 12))
    assert torch.equal(again, single(small(), x, y, BALL, seeded()))
    assert not torch.equal(again, other)


@pytest.mark.parametrize("S", [1, 3])
def test_each_step_is_one_look_at_the_slope(images, S):
    x, _y = images
    asked = []

    def J(attacked_):
        asked.append(attacked_)
        return attacked_.flatten(1).sum(dim=1)

    climbed = Ball(-9.0, 9.0, eps=1.0, g=0.1, S=S).climb(J, x, seeded())
    assert len(asked) == S
    assert torch.allclose(climbed, (asked[0] + S * 0.1).clamp(x - 1, x + 1))


@pytest.mark.parametrize("attack", [single, average, max_average])
def test_without_a_ball_or_steps_nothing_is_attacked(images, attack):
    x, y = images
    assert torch.equal(attack(small(), x, y, Ball(0.0, 1.0, eps=0.0, g=0.1, S=2)), x)
    assert torch.equal(attack(small(), x, y, Ball(0.0, 1.0, eps=0.1, g=0.1, S=0)), x)


class Untouched(nn.Module):
    """Whatever must not be run."""

    def forward(self, x):
        raise AssertionError("this part has no say in the attack")


@pytest.mark.parametrize("i", [0, 1, 2])
def test_an_attack_on_one_exit_asks_no_other_and_runs_nothing_behind_it(images, i):
    model = small()
    expected = single(model, *images, BALL, seeded(), exit_=i)
    for other in {0, 1, 2} - {i}:
        model.heads[other] = Untouched()
    for behind in range(i + 1, 3):
        model.stages[behind] = Untouched()
    assert torch.equal(single(model, *images, BALL, seeded(), exit_=i), expected)


@pytest.mark.parametrize("attack", ATTACKS.values())
def test_who_evaluates_without_gradients_attacks_with_them(images, attack):
    expected = attack(small(), *images, BALL, seeded())
    with torch.no_grad():
        assert torch.equal(attack(small(), *images, BALL, seeded()), expected)


def test_an_attack_leaves_no_gradient_on_the_network(images):
    model = small()
    max_average(model, *images, BALL, seeded())
    assert all(p.grad is None for p in model.parameters())


def test_the_main_exit_is_attacked_if_no_other_is_named(images):
    found = single(small(), *images, BALL, seeded())
    assert torch.equal(found, single(small(), *images, BALL, seeded(), exit_=2))
    assert not torch.equal(found, single(small(), *images, BALL, seeded(), exit_=1))


def test_an_attack_raises_the_loss_that_it_is_about(images):
    model, (x, y) = small(), images
    with torch.no_grad():
        clean = losses_of(model(x), y)
        for i in range(3):
            assert (losses_of(model(single(model, x, y, BALL, exit_=i)), y)[i] > clean[i]).all()
        assert (losses_of(model(average(model, x, y, BALL)), y).mean(0) > clean.mean(0)).all()


def test_the_average_attack_follows_the_mean_of_all_losses(images):
    """One step by the slope of the mean of three cross-entropies."""
    model, (x, y) = small(), images
    start = (x + (2 * torch.rand(x.shape, generator=seeded()) - 1) * 0.2).requires_grad_()
    mean = sum(F.cross_entropy(logits, y) for logits in model(start)) / 3
    (slope,) = torch.autograd.grad(mean, start)
    by_hand = (start + 0.05 * slope.sign()).clamp(x - 0.2, x + 0.2).clamp(0, 1)
    assert torch.equal(average(model, x, y, Ball(0.0, 1.0, eps=0.2, g=0.05, S=1), seeded()), by_hand.detach())


def test_max_average_takes_for_each_image_the_single_attack_whose_mean_loss_is_largest(images):
    model, (x, y) = small(), images
    rng = seeded()
    every = [single(model, x, y, BALL, rng, exit_=i) for i in range(3)]
    with torch.no_grad():
        means = torch.stack([losses_of(model(x_adv), y).mean(dim=0) for x_adv in every])
    found = max_average(model, x, y, BALL, seeded())
    with torch.no_grad():
        assert torch.allclose(losses_of(model(found), y).mean(dim=0), means.amax(dim=0))
    taken = means.argmax(dim=0).tolist()
    assert len(set(taken)) > 1
    assert all(torch.equal(found[n], every[i][n]) for n, i in enumerate(taken))


def test_losses_that_are_only_compared_leave_no_graph(images):
    """The last thing that max-average asks of the network: what each of the three attacks does to all exits."""
    model, on = small(), []
    model.heads[-1].register_forward_hook(lambda *_: on.append(torch.is_grad_enabled()))
    max_average(model, *images, BALL, seeded())
    assert on == [True] * BALL.S + [False] * 3


def test_with_one_exit_all_attacks_are_the_same(images):
    first, *others = (attack(small(1), *images, BALL, seeded()) for attack in ATTACKS.values())
    assert all(torch.equal(first, other) for other in others)


def test_losses_of_all_exits_by_hand():
    z = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[2.0, 0.0], [0.0, 0.0]]])
    found = losses_of(z, torch.tensor([0, 1]))
    expected = [math.log(2), math.log(1 + math.e), math.log(1 + math.exp(-2)), math.log(2)]
    assert found.shape == (2, 2)
    assert found.flatten().tolist() == pytest.approx(expected)


def test_attacked_examples_keep_their_order_and_their_classes(images):
    """Images of two shapes, which are attacked apart, more than one batch of one; the seed is the attack's."""
    x, y = images
    model = small()
    model.stages[0] = nn.Sequential(nn.AdaptiveAvgPool2d(28), *model.stages[0])
    many = [x[i % 5] if i % 7 else x[i % 5][:, 4:24] for i in range(100)]
    held = Examples(many, y[torch.arange(100) % 5])
    found = attacked(model, held, single, BALL, seed=1)
    assert torch.equal(found.targets, held.targets)
    assert all((a - b).abs().max() <= 0.2 + 1e-9 for a, b in zip(found.inputs, many, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(found.inputs, attacked(model, held, single, BALL, seed=1).inputs, strict=True)
    )
    assert not torch.equal(found.inputs[0], attacked(model, held, single, BALL, seed=2).inputs[0])


def test_a_network_is_attacked_as_it_is_run():
    """In evaluation mode, which it need not be in; its running means stay, and its mode comes back."""
    norm = nn.BatchNorm2d(1)
    model = MultiExit([norm], [nn.Sequential(nn.Flatten(), nn.Linear(4, 3))]).train()
    held = Examples(list(torch.rand(6, 1, 2, 2)), torch.tensor([0, 1, 2, 0, 1, 2]))
    attacked(model, held, single, BALL, seed=0)
    assert int(norm.num_batches_tracked) == 0
    assert model.training
    assert norm.training


def test_attacks_hurt_and_those_on_the_test_more_than_those_of_the_training(prepared):
    method, _bench, ready = prepared(KEY)
    test = ready.split("test").examples.head(64)
    clean = method.score(ready.model(torch.stack(list(test.inputs)))[-1], test.targets)
    found = []
    for S, g in ((method.steps, method.step), (10, 0.03)):
        ball = Ball.of(ready.data.train, eps=method.eps, g=g, S=S)
        assert (ball.black, ball.white) == (0.0, 1.0)
        images = attacked(ready.model, test, ATTACKS["main exit"], ball, seed=0)
        with torch.no_grad():
            found.append(losses_of(ready.model(torch.stack(list(images.inputs))), test.targets)[-1].mean().item())
    assert found[0] < found[1]
    assert method.score(ready.model(torch.stack(list(images.inputs)))[-1], test.targets) < clean


# The defence.


@pytest.mark.parametrize(
    ("defence", "attack"), [("max-average", max_average), ("average", average), ("main exit", single)]
)
def test_a_batch_counts_clean_and_attacked_by_halves(one_stage, defence, attack):
    """Attacked in evaluation mode, and learnt from in training mode, by two passes whose statistics are their own."""
    model, stage = one_stage(tiny(defence=defence))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    torch.manual_seed(3)
    x_adv = attack(model.eval(), x, y, Ball(0.0, 1.0, eps=0.1, g=0.08, S=1))
    before = copy.deepcopy(model.train().state_dict())
    with torch.no_grad():
        clean, harmed = ([F.cross_entropy(f_i, y).item() for f_i in model(each)] for each in (x, x_adv))
    model.load_state_dict(before)
    torch.manual_seed(3)
    found = stage.loss(stage.batch_of(torch.arange(12), x))
    assert found.item() == pytest.approx((sum(clean) + sum(harmed)) / 2, rel=1e-4)
    assert sum(harmed) > sum(clean)
    assert model.training


@pytest.mark.parametrize(("half", "precision"), [(True, torch.bfloat16), (False, torch.float32)])
def test_attacks_of_the_training_are_as_precise_as_its_products(one_stage, half, precision):
    model, stage = one_stage(tiny(half=half))
    found = []
    model.train().heads[0].register_forward_hook(lambda head, x, said: found.append((head.training, said.dtype)))
    stage.loss(stage.batch_of(torch.arange(12), torch.stack(stage.train.inputs[:12])))
    assert {dtype for learning, dtype in found if not learning} == {precision}
    assert {dtype for learning, dtype in found if learning} == {torch.float32}


def test_without_a_ball_the_defence_is_ordinary_joint_training(one_stage):
    model, stage = one_stage(tiny(eps=0.0))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    with torch.no_grad():
        by_hand = sum(F.cross_entropy(f_i, y).item() for f_i in model(x))
    assert stage.loss(stage.batch_of(torch.arange(12), x)).item() == pytest.approx(by_hand, rel=1e-5)


def test_undefended_exits_weigh_alike_and_see_no_attack(one_stage):
    model, stage = one_stage(tiny("undefended"))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    with torch.no_grad():
        by_hand = sum(F.cross_entropy(f_i, y).item() for f_i in model(x))
    assert stage.loss(stage.batch_of(torch.arange(12), x)).item() == pytest.approx(by_hand, rel=1e-5)


@pytest.mark.parametrize("variant", TripleWins.variants)
def test_everything_is_trained_on_all_training_data(one_stage, variant):
    model, stage = one_stage(tiny(variant, epochs=1.5, batch=20, rate=3e-3))
    assert stage.rates == {id(p): 3e-3 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (320, 1.5, 20, 24)


def test_running_means_learn_from_two_passes_a_step_and_no_attack():
    method = tiny(train_size=64)
    model = method.build(data := method.load(), 0)
    method.train(model, data, Bench(most_steps=2))
    norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
    assert {int(norm.num_batches_tracked) for norm in norms} == {4}
    assert not model.training


def test_a_network_without_branches_is_defended_as_usual(one_stage):
    """Half clean, half attacked: the rival of the claims."""
    model, stage = one_stage(tiny(shares=(), defence="main exit"))
    assert model.exits == 1
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    torch.manual_seed(3)
    with evaluating(model):
        x_adv = single(model, x, y, Ball(0.0, 1.0, eps=0.1, g=0.08, S=1))
    with torch.no_grad():
        by_hand = (F.cross_entropy(model(x)[0], y) + F.cross_entropy(model(x_adv)[0], y)).item() / 2
    torch.manual_seed(3)
    assert stage.loss(stage.batch_of(torch.arange(12), x)).item() == pytest.approx(by_hand, rel=1e-4)


def test_an_attack_of_no_name_is_refused():
    with pytest.raises(ValueError, match="no attack 'bribe' to train against; there are none, max-average, average"):
        tiny(defence="bribe").prepare(Bench(most_steps=0))


# Thresholds and the exit rule.


def test_thresholds_by_hand():
    """Two of six leave at branch 1 (0.1, 0.2); of the rest the two with 0.3 and 0.4 at branch 2."""
    H = np.array([[0.9, 0.1, 0.5, 0.2, 0.8, 0.7], [0.4, 0.0, 0.6, 0.1, 0.3, 0.9]])
    assert thresholds_for(H, 1 / 3) == (0.5, 0.6)
    assert thresholds_for(H, 0.5) == (0.7, math.inf)  # three are left, and all of them leave
    assert thresholds_for(H, 0.4) == (0.5, 0.6)  # two and a bit are two
    assert thresholds_for(H, 1.0) == (math.inf, math.inf)
    assert thresholds_for(H, 0.0) == (-1.0, -1.0)
    assert thresholds_for(np.arange(10.0)[None], 0.1 * 3) == (3.0,)  # rounding makes no three a two
    assert thresholds_for(np.arange(100.0)[None], 0.29) == (29.0,)


def test_images_as_sure_as_the_first_that_stays_stay():
    H = np.array([[0.1, 0.2, 0.2, 0.2], [0.5, 0.6, 0.1, 0.3]])
    assert thresholds_for(H, 0.5) == (0.2, 0.6)  # one left; of three the two with 0.1 and 0.3 leave


def test_an_entropy_that_is_not_a_number_stays():
    H = np.array([[math.nan, 0.2, 0.3], [0.3, math.nan, 0.4]])
    assert thresholds_for(H, 1 / 3) == (0.3, 0.4)
    assert thresholds_for(H, 1.0)[0] == math.inf


def test_shares_leave_as_they_were_asked_to():
    """Of 600 held-out images a seventh at each of six branches, the rest at the main exit."""
    z = torch.randn(7, 700, 5, generator=seeded(1), dtype=torch.float64) * 2
    exits = replay(Entropy(thresholds_for(entropy(z[:-1]).numpy(), 1 / 7)), z)
    assert np.bincount(exits).tolist() == [100] * 7


def test_both_ends_of_the_thresholds():
    z = torch.randn(3, 200, 4, generator=seeded(1)) * 30
    assert (replay(Entropy((-1.0, -1.0)), z) == 2).all()
    assert (replay(Entropy((math.log(4) + 1e-6,) * 2), z) == 0).all()
    z[1:] = z[0]
    assert replay(Entropy((float(entropy(z[0])[5]),) * 2), z)[5] == 2  # strictly below


def test_thresholds_are_fitted_on_the_first_half_of_the_validation_images(prepared):
    method, bench, ready = prepared(KEY)
    fitting = ready.split("fitting")
    assert len(fitting.targets) == 150
    p = fitting.outputs[:-1].double().softmax(-1)
    assert np.allclose(ready.fitted, -(p * p.log()).sum(-1).numpy(), atol=1e-5)
    assert method.rule(0.25, ready) == Entropy(thresholds_for(ready.fitted, 0.25))
    (point,) = method.sweep(ready, bench, "test", [1 / 3])
    seen = ready.split("test")
    assert point.cost == pytest.approx(np.dot(point.exits, seen.costs[:, 0]))
    assert seen.costs[0, 0] < point.cost < seen.costs[-1, 0]


# The released code.


def test_attacks_agree_with_the_released_code(golden):
    """Every pixel, seen from six directions, and the losses (see `provenance` in the file)."""
    rng = np.random.RandomState(6)
    x, y = torch.tensor(rng.uniform(size=(5, 1, 28, 28))), torch.tensor(rng.randint(0, 4, 5))
    assert y.tolist() == golden["labels"]
    look = torch.tensor(np.random.RandomState(7).standard_normal((784, 6)))
    ball, model = Ball(0.0, 1.0, golden["eps"], golden["g"], golden["S"]), small()
    for name, known in golden["attacks"].items():
        if name.startswith("exit"):
            found = single(model, x, y, ball, seeded(), exit_=int(name[-1]))
        else:
            found = ATTACKS[name](model, x, y, ball, seeded())
        assert torch.allclose((found - x).flatten(1) @ look, torch.tensor(known["seen"], dtype=x.dtype), atol=1e-6)
        with torch.no_grad():
            assert losses_of(model(found), y).mean(0).tolist() == pytest.approx(known["mean_loss"])


def test_losses_agree_with_the_released_code(golden, images, monkeypatch):
    """What our training would minimise on its images, as they are attacked there."""
    x, y = images
    model, found = small(), []
    ball = {"eps": golden["eps"], "g": golden["g"], "S": golden["S"]}
    monkeypatch.setattr("eelit.methods.papers.hu2020triplewins.Ball.of", lambda train, **given: Ball(0.0, 1.0, **given))
    data = SimpleNamespace(train=Examples(list(x), y), digest="")
    bench = Bench(most_steps=0, watch=lambda stage: found.append(stage) if stage else None)
    train_defended(model, data, bench, defence="average", **ball, half=False, epochs=1.0, batch=5, rate=0.1)
    torch.manual_seed(11)
    loss = found[0].loss(found[0].batch_of(torch.arange(5), x))
    assert loss.item() == pytest.approx(golden["losses"]["defended"], rel=1e-9)
    with torch.no_grad():
        assert losses_of(model(x), y).mean(1).sum().item() == pytest.approx(golden["losses"]["undefended"], rel=1e-9)


def test_thresholds_and_exits_agree_with_the_released_code_up_to_what_it_adds_to_probabilities(golden):
    z, y, flops = torch.tensor(golden["logits"], dtype=torch.float64), golden["targets"], golden["flops"]
    found = thresholds_for(entropy(z[:-1]).numpy(), 1 / 3)
    assert found == pytest.approx(golden["thresholds"], abs=1e-4)
    for case in golden["cases"]:
        exits = replay(Entropy(found if case["T"] == golden["thresholds"] else case["T"]), z)
        shares = np.bincount(exits, minlength=3) / 60
        assert shares.tolist() == pytest.approx(case["exits"], abs=1e-3)
        right = [z[e, n].argmax().item() == y[n] for n, e in enumerate(exits)]
        assert np.mean(right) == pytest.approx(case["accuracy"], abs=1e-5)
        assert float(shares @ flops) == pytest.approx(case["flops"], abs=0.01)


# What is claimed.


def at(quality, cost, knob=0.25, right=None):
    """A point at which so many of 1,000 images are right, the first ones unless it is told which."""
    worth = np.arange(1000) < round(1000 * quality) if right is None else np.asarray(right)
    samples = Samples(worth, np.zeros(len(worth)))
    return OperatingPoint(
        knob=knob, quality=float(worth.mean()), cost=cost, speed_up=1 / cost, exits=[1.0], samples=samples
    )


ALONE = claimed.Rival("trained without exits", 0.82, at(0.8, 1.0))


def curve(*held, alone=(0.1, 0.1, 0.1), **given):
    """A curve by accuracy and cost on validation data, with what exits reach by themselves at 0.25, 0.5 and 1."""
    static = [at(quality, cost, knob) for knob, (quality, cost) in enumerate(zip(alone, (0.25, 0.5, 1.0), strict=True))]
    points = [at(quality, cost, 1 / (2 + i)) for i, (quality, cost) in enumerate(held)]
    found = {"validation": points, "test": points, "baselines": [SimpleNamespace(name="static exit", test=static)]}
    return SimpleNamespace(**{**found, **given})


def test_gains_are_told_with_the_error_of_the_paired_difference():
    """Of 100 images five are won and two are lost: (5 + 2) / 100 - 0.03² times 100 / 99 is the variance."""
    ours, theirs = np.zeros(100), np.zeros(100)
    ours[:5], theirs[5:7] = 1, 1
    found = claimed.gain(ours, theirs)
    assert found.mean == pytest.approx(0.03)
    assert found.error == pytest.approx(math.sqrt((0.07 - 0.0009) * 100 / 99 / 100))
    assert not found.counts  # 0.03 is less than two errors of 0.0264
    assert str(found) == "+0.0300 ± 0.0264"
    ours[7:12] = 1
    assert claimed.gain(ours, theirs).counts
    assert not claimed.Gain(0.0049, 0.001).counts
    assert not claimed.Gain(0.02, 0.011).counts


@pytest.mark.parametrize(("clean", "missed", "holds"), [(0.81, "", True), (0.804, "", False), (0.81, "none: ", False)])
def test_accuracy_must_be_above_that_of_the_network_trained_without_exits(clean, missed, holds):
    found = claimed.more_accurate(at(clean, 0.3), ALONE, missed)
    assert found.holds is holds
    assert found.measured.startswith(
        f"{missed}{clean:.4f} at share 0.25; trained without exits 0.8000 ({clean - 0.8:+.4f} ± "
    )


@pytest.mark.parametrize(("cost", "missed", "holds"), [(0.7, "", True), (0.71, "", False), (0.7, "none: ", False)])
def test_a_third_is_saved_of_the_network_trained_without_exits(cost, missed, holds):
    found = claimed.cheaper(curve(), at(0.81, cost), ALONE, missed)
    assert (found.holds, found.not_comparable) == (holds, "")
    assert found.measured == f"{missed}{1 - cost:.1%} of the MACs of the one trained without exits saved, at share 0.25"


@pytest.mark.parametrize(("alone", "comparable"), [(0.805, False), (0.804, True)])
def test_where_one_exit_is_as_much_more_accurate_and_cheaper_no_rule_is_needed(alone, comparable):
    found = claimed.cheaper(curve(alone=(0.1, alone, 0.9)), at(0.81, 0.5), ALONE, "")
    assert (found.holds, found.not_comparable == "") == (comparable, comparable)


@pytest.mark.parametrize(
    ("accuracy", "cost", "test", "holds"),
    [
        (0.81, 0.449, 0.79, True),
        (0.81, 0.451, 0.79, False),
        (0.81, 0.449, 0.784, False),
        (0.809, 0.449, 0.79, False),
    ],
)
def test_one_fixed_exit_must_cost_more_than_the_share_that_is_as_accurate(accuracy, cost, test, holds):
    cut = claimed.Rival("exit 2", 0.81, at(0.79, 0.5))
    ours = curve((0.3, 0.1), (accuracy, cost), test=[at(0.9, 0.1), at(test, cost, 0.3)])
    found = claimed.beside_one_exit(ours, cut)
    assert found.holds is holds
    missed = "" if accuracy == 0.81 else "no share is that accurate; at the best "
    assert found.measured.startswith(f"{missed}{1 - cost / 0.5:.1%} of the MACs of exit 2 saved, accuracy ")
    assert found.measured.endswith("at share 0.3")


def test_our_own_network_is_cut_off_where_validation_data_say_so(prepared):
    method, _, ready = prepared(KEY)
    held, test = (method.static(ready.split(split)) for split in ("validation", "test"))
    best = int(np.argmax([p.quality for p in held]))
    found = claimed.cut_off(method, ready)
    assert found == (f"exit {best + 1}", held[best].quality, test[best])


def test_test_images_are_attacked_by_more_steps_and_judged_as_the_whole_network_is_run(prepared):
    method, _, ready = prepared(KEY)
    assert TripleWins().steps < STEPS
    found = claimed.stored(method, ready, Bench(), average, "average", 70)
    ball = Ball.of(ready.data.train, eps=method.eps, g=2 / 255, S=10)
    images = attacked(ready.model, ready.split("test").examples.head(70), average, ball, seed=0)
    with torch.no_grad():
        outputs = ready.model(torch.stack(list(images.inputs)))
    assert torch.allclose(found.outputs, outputs, atol=1e-5)
    assert len(found.targets) == 70


@pytest.mark.parametrize("half", [True, False])
def test_attacks_of_the_test_are_as_precise_as_the_training(prepared, half):
    """And what attacked images do to the exits is always computed in full precision."""
    method, bench, ready = prepared(KEY)
    found = []

    def attack(model, x, y, ball, rng):
        found.append(torch.is_autocast_enabled("cpu"))
        return x

    seen = claimed.stored(method.replace({"half": half}), ready, Bench(seed=bench.seed), attack, f"none ({half})", 30)
    assert found == [half]
    assert torch.allclose(seen.outputs, ready.split("test").outputs[:, :30], atol=1e-5)


def test_an_attack_loses_nothing_by_products_in_bfloat16(prepared):
    """The losses of all exits under it are within 2 % of those under one in full precision, and far from clean ones."""
    method, bench, ready = prepared(KEY)
    whole = Bench(seed=bench.seed)
    y = ready.split("test").targets[:100]
    clean = losses_of(ready.split("test").outputs[:, :100], y).mean(1)
    exact, half = (
        losses_of(claimed.stored(method.replace({"half": h}), ready, whole, average, f"{h}", 100).outputs, y).mean(1)
        for h in (False, True)
    )
    assert torch.allclose(half, exact, rtol=0.02)
    assert (exact > 1.1 * clean).all()


def test_every_exit_is_attacked_by_itself_and_max_average_takes_the_worst_of_these(prepared):
    method, bench, ready = prepared(KEY)
    found = claimed.under_attack(method, ready, bench)
    assert list(found) == ["exit 1", "exit 2", "exit 3", "average", "max-average"]
    means = torch.stack([losses_of(found[f"exit {i}"].outputs, found["average"].targets).mean(0) for i in (1, 2, 3)])
    worst, y = found["max-average"], found["max-average"].targets
    assert worst.outputs.shape == found["average"].outputs.shape
    assert torch.allclose(losses_of(worst.outputs, y).mean(0), means.amax(0))
    assert len(set(means.argmax(0).tolist())) > 1
    own = [losses_of(found[f"exit {i}"].outputs, y).mean(1) for i in (1, 2, 3)]
    assert all(int(torch.stack(own)[:, i].argmax()) == i for i in range(3))  # each exit suffers most from its own


def of_exits(*right):
    """What three exits say of 1,000 images in two classes under an attack that leaves such shares of them right."""
    wrong = torch.stack([torch.arange(1000) >= round(1000 * share) for share in right])
    return torch.stack([9.0 * ~wrong, 9.0 * wrong], dim=2)


def robust(ours, theirs, missed=""):
    """Compare exits that all images leave at the first, under attacks of these names, with the rival."""

    def trial(rule, seen, knob):
        return at(0.0, 0.5, knob, right=seen.outputs[rule].argmax(-1).numpy() == 0)

    method = SimpleNamespace(rule=lambda knob, ready: 0, trial=trial)
    seen = {name: SimpleNamespace(outputs=of_exits(share, 0.0, 0.0)) for name, share in ours.items()}
    every = SimpleNamespace(test=[at(0.9, 0.2, 0.5), at(0.95, 0.4, 0.25), at(0.97, 0.8, 0.05)])
    return claimed.more_robust(method, None, every, at(0.9, 0.4), seen, at(theirs, 1.0), missed)


@pytest.mark.parametrize(
    ("worst", "theirs", "missed", "holds"),
    [
        (0.52, 0.5, "", True),
        (0.504, 0.5, "", False),
        (0.52, 0.5, "none: ", False),
    ],
)
def test_the_worst_attack_must_leave_more_than_the_rival_keeps(worst, theirs, missed, holds):
    found = robust({"exit 1": 0.7, "average": worst, "max-average": 0.6}, theirs, missed)
    assert found.holds is holds
    assert found.measured.startswith(
        f"{missed}accuracy and cost under attack: exit 1 0.7000 at 50%, average {worst:.4f} at 50%, max-average 0.6000"
    )
    assert f"trained without exits 0.5000 ({worst - 0.5:+.4f} ± " in found.measured
    beside = [
        f"share {s:g}: {q:.4f} clean, {worst:.4f} attacked, {c:.0%}" for s, q, c in ((0.5, 0.9, 0.2), (0.05, 0.97, 0.8))
    ]
    assert "; ".join([*beside, "1000 images"]) in found.measured


def test_shares_that_are_told_are_tried():
    assert set(claimed.SHARES) < set(TripleWins.knobs)
    assert len(claimed.SHARES) == 3


def test_rivals_are_the_network_without_exits_defended_alike_and_the_exits_without_a_defence(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    everything = np.ones(len(ready.split("test").targets))
    ours = curve((0.999, 0.1), (0.3, 0.9), test=[at(1.0, 0.3, 0.5, everything), at(1.0, 0.9, 0.1, everything)])
    asked, attacks = [], []
    prepare, look = TripleWins.prepare, claimed.stored
    monkeypatch.setattr(
        TripleWins, "prepare", lambda self, b: asked.append(self) or prepare(self, Bench(most_steps=0, test=bench.test))
    )

    def seen(of, there, bench, attack, name, most=ATTACKED):
        attacks.append((of, name, most))
        return look(of, there, bench, lambda model, x, y, ball, rng: x, "", 40)

    monkeypatch.setattr(claimed, "stored", seen)
    found = claimed.claims(method, ready, bench, ours)
    alone, bare = method.replace({"shares": (), "defence": "main exit"}), method.replace({"defence": "none"})
    assert asked == [alone, bare]
    single = [(method, name, 2000) for name in ("exit 1", "exit 2", "exit 3", "average")]
    assert attacks == [*single, (alone, "main exit", 2000), (bare, "average", 500)]
    assert [outcome.name for outcome in found] == [
        "more accurate than without exits", "more robust than without exits", "cheaper than without exits",
        "cheaper than one fixed exit", "exits need the defence",
    ]  # fmt: skip
    assert "at share 0.5" in found[0].measured
    assert claimed.claims(method.replace({"defence": "none"}), None, None, None) == []
    assert len(claimed.claims(method.replace({"defence": "average"}), ready, bench, ours)) == 4


def test_where_no_share_is_accurate_enough_none_is_named_and_nothing_holds(prepared, monkeypatch):
    """What our own network reaches, cut off at one exit, is no reason: the paper's rival alone sets the bar."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "trained_alone", lambda alone, there: ALONE)
    monkeypatch.setattr(claimed, "cut_off", lambda method, there: claimed.Rival("exit 2", 0.99, at(0.99, 0.5)))
    monkeypatch.setattr(TripleWins, "prepare", lambda self, b: ready)
    monkeypatch.setattr(claimed, "under_attack", lambda *_: {"average": ready.split("test")})
    monkeypatch.setattr(claimed, "stored", lambda *_: ready.split("test"))
    monkeypatch.setattr(claimed, "more_robust", lambda *given: given[-1])
    monkeypatch.setattr(claimed, "needed", lambda *given: None)
    for accuracy, said in ((0.825, ""), (0.824, "no share is that accurate; at the best ")):
        ours = curve((accuracy, 0.1), (0.3, 0.9), test=[at(0.9, 0.3, 0.5)] * 2)
        accurate, missed, cheap, fixed, _ = claimed.claims(method, ready, bench, ours)
        assert missed == said
        assert [outcome.measured.startswith("no share") for outcome in (accurate, cheap)] == [bool(said)] * 2
        assert [outcome.holds for outcome in (accurate, cheap)] == [not said] * 2
        assert fixed.measured.startswith("no share")


def test_exits_without_a_defence_must_lose_ten_points(prepared):
    method, bench, ready = prepared(KEY)
    found = claimed.needed(method, ready, bench, 0.25, claimed.stored(method, ready, bench, average, "average"))
    bare = method.replace({"defence": "none"})
    there = bare.prepare(bench)
    theirs = bare.trial(bare.rule(0.25, there), claimed.stored(bare, there, bench, average, "average", 500)).quality
    ours = method.trial(method.rule(0.25, ready), claimed.stored(method, ready, bench, average, "average")).quality
    assert found.measured.startswith(f"{theirs:.4f}, with the defence {ours:.4f} ({ours - theirs:+.4f} ± ")
    assert found.holds is (ours - theirs >= 0.1)


@pytest.mark.parametrize(("test", "attacked"), [(None, 40), (96, 3), (1280, 40)])
def test_a_run_that_measures_on_fewer_images_attacks_one_in_32(prepared, test, attacked):
    method, _, ready = prepared(KEY)
    found = claimed.stored(method, ready, Bench(test=test), lambda model, x, y, ball, rng: x, "", 40)
    assert len(found.targets) == attacked


def test_error_under_attack_stands_beside_the_accuracy_on_clean_images(prepared):
    method, bench, ready = prepared(KEY)
    knobs = method.knobs
    found = method.beside(ready, knobs)
    seen = claimed.stored(method, ready, bench, average, "average")
    ends = [point.quality for point in method.static(seen)]
    assert (found.values[0], found.values[-1]) == pytest.approx((1 - ends[0], 1 - ends[-1]))
    assert (found.cheap, found.full) == pytest.approx((1 - ends[0], 1 - ends[-1]))
    middle = knobs.index(0.25)
    said = replay(method.rule(0.25, ready), seen.outputs)
    answers = seen.answers[torch.as_tensor(said), torch.arange(len(said))].argmax(-1)
    assert found.values[middle] == pytest.approx((answers != seen.targets).double().mean().item())
    clean = [1 - point.quality for point in method.sweep(ready, bench, "test", knobs)]
    assert all(attacked > plain for attacked, plain in zip(found.values, clean, strict=True))
