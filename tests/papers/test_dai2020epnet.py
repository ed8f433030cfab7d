"""What only EPNet promises: actions worth what they earn, prices that govern, and branches that weigh nothing."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.resnet import residual_exits
from eelit.methods.claims import dai2020epnet as tried
from eelit.methods.engine.costs import both_costs, exit_costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.dai2020epnet import (
    PRICES,
    Controller,
    EpNet,
    ExitUnit,
    controller_loss,
    shares_of_cost,
    state_of,
    without_controllers,
    worth_of_going_on,
)
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.priced_gain import PricedGain
from eelit.methods.recipes.fit import fit

KEY = "dai2020epnet"


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


# What a controller reads and says.


def test_state_by_hand():
    p = torch.tensor([[0.25, 0.5, 0.25], [1.0, 0.0, 0.0]], dtype=torch.float64)
    assert state_of(p.log() + 3).tolist() == [pytest.approx([0.5, 0.25, 0.25, 1.5 * math.log(2)]), [1, 0, 0, 0]]


def test_which_class_it_is_makes_no_difference():
    unit, z = ExitUnit((3, 4, 4), 5), torch.randn(6, 5)
    assert torch.allclose(state_of(z), state_of(z.roll(2, dims=1)))
    assert unit.controller(state_of(z))[1].shape == (6, len(PRICES))


def test_a_unit_reads_the_mean_of_the_map_and_says_what_leaving_gains_at_each_price():
    unit, x = ExitUnit((3, 4, 6), 5), torch.randn(7, 3, 4, 6)
    found, label, inner = unit(x), unit.label[-1], unit.controller
    z = x.mean(dim=(2, 3)) @ label.weight.T + label.bias
    assert torch.allclose(found["answer"], z, atol=1e-6)
    hidden = (state_of(z) @ inner.hidden.weight.T + inner.hidden.bias).clamp(min=0)
    Q = hidden @ inner.values.weight.T + inner.values.bias
    assert Q.shape == (7, 1 + len(PRICES))
    assert (Q[:, 2:] < 0).any()
    for j in range(len(PRICES)):
        go_on = Q[:, 1] + Q[:, 2 : 2 + j].abs().sum(dim=1)
        assert torch.allclose(found["gain"][:, j], Q[:, 0] - go_on, atol=1e-5)
    assert hidden.shape == (7, 32)


def test_what_controllers_say_teaches_label_parts_nothing():
    unit = ExitUnit((3, 4, 4), 5)
    unit(torch.randn(7, 3, 4, 4))["gain"].sum().backward()
    assert unit.label[-1].weight.grad is None
    assert unit.controller.values.weight.grad.abs().sum() > 0


# The exit rule.


def gains(*by_branch, price=0.5):
    """What branches say of one sample; the last has no controller. At other prices they say the opposite."""
    at_price = torch.tensor([known == price for known in PRICES])
    said_by = torch.tensor([*by_branch, torch.nan])[:, None, None]
    return {"answer": torch.zeros(len(said_by), 1, 3), "gain": torch.where(at_price, said_by, -said_by)}


@pytest.mark.parametrize(
    ("said_by", "exit_"),
    [((0.1, 0.2), 0), ((-0.1, 0.2), 1), ((-0.1, -0.2), 2), ((0.0, 1e-9), 1), ((math.nan, math.inf), 2)],
)
def test_leaves_where_leaving_is_worth_more_strictly(said_by, exit_):
    assert replay(EpNet().policy(0.5, None), gains(*said_by)).tolist() == [exit_]


def test_each_price_reads_its_own_worth():
    for price in PRICES:
        assert replay(EpNet().policy(price, None), gains(-1.0, 1.0, price=price)).tolist() == [1]


def test_at_the_infinite_prices_controllers_are_not_heeded():
    for said_by in ((0.1, 0.2), (-5.0, -7.0)):
        assert replay(EpNet().policy(math.inf, None), gains(*said_by)).tolist() == [0]
        assert replay(EpNet().policy(-math.inf, None), gains(*said_by)).tolist() == [2]
    assert replay(EpNet().policy(math.inf, None), gains(math.nan, 0.0)).tolist() == [1]


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
@pytest.mark.parametrize(
    ("price", "gain"), [(0.5, 2.0), (0.25, 1.5), (1.0, -1.0), (0.75, 0.5), (2.0, -7.0), (-1.0, -1.0)]
)
def test_between_prices_and_beyond_them_the_gain_lies_on_a_line(array, price, gain):
    """Known at 1/2, 0 and 1, in this order."""
    told = np.array([[2.0, 1.0, -1.0]])
    for less, stops in ((gain - 1e-6, True), (gain + 1e-6, False)):
        assert PricedGain(price, (0.5, 0.0, 1.0)).step((), array(told - less))[1].tolist() == [stops]


@pytest.mark.parametrize("prices", [0.5, (0.5,), (0.5, 0.5, 1.0), (0.5, math.inf)])
def test_prices_that_make_no_line_are_refused(prices):
    with pytest.raises(ValueError, match="PricedGain: prices are two at least, finite and all different, not"):
        PricedGain(0.5, prices)


def test_whoever_always_goes_on_gets_the_answer_of_the_network_itself(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:40]))
    found = infer(ready.model, x, method.rule(-math.inf, ready))
    with torch.inference_mode():
        assert torch.allclose(found.answers, ready.model.full(x), atol=1e-5)
    assert (found.exits == ready.model.exits - 1).all()


# What is learned.


def at(price):
    return PRICES.index(price)


def test_worth_of_going_on_by_hand():
    """Three branches, two images; at the last who goes on gets there what is right there."""
    leave = torch.tensor([[0.9, 0.1], [0.6, 0.3]])
    go_on = torch.zeros(2, 2, len(PRICES))
    go_on[1, 0, at(0.5)], go_on[1, 0, at(1.0)] = 0.8, -0.2
    r, c = torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]]), torch.tensor([0.3, 0.2, 0.5])
    found = worth_of_going_on(leave, go_on, r, c)
    assert found[:, :, at(0.5)].tolist() == [pytest.approx([0.8 - 0.1, 0.3 - 0.1]), pytest.approx([1 - 0.25, -0.25])]
    assert found[:, :, at(1.0)].tolist() == [pytest.approx([0.6 - 0.2, 0.3 - 0.2]), pytest.approx([0.5, -0.5])]
    assert found[:, :, at(0.0)].tolist() == [pytest.approx([0.6, 0.3]), [1, 0]]


def test_loss_by_hand_and_no_gradient_through_what_comes_later():
    draw = torch.Generator().manual_seed(0)
    leave = torch.rand(3, 8, generator=draw, dtype=torch.float64).requires_grad_()
    go_on = torch.rand(3, 8, len(PRICES), generator=draw, dtype=torch.float64).requires_grad_()
    r = (torch.rand(4, 8, generator=draw) < 0.5).double()
    c = torch.tensor([0.3, 0.2, 0.4, 0.1], dtype=torch.float64)
    found = controller_loss(leave, go_on, r, c)
    first, second = [], []
    slope = torch.zeros_like(go_on)
    with torch.no_grad():
        for k in range(3):
            for i in range(8):
                first.append((leave[k, i] - r[k, i]) ** 2)
                for j, price in enumerate(PRICES):
                    later = max(leave[k + 1, i], go_on[k + 1, i, j]) if k < 2 else r[3, i]
                    error = go_on[k, i, j] - (later - price * c[k + 1])
                    second.append(error**2)
                    slope[k, i, j] = 2 * error / go_on.numel()
    assert float(found.detach()) == pytest.approx(float(sum(first) / len(first) + sum(second) / len(second)))
    found.backward()
    assert torch.allclose(leave.grad, 2 * (leave - r[:3]).detach() / leave.numel())
    assert torch.allclose(go_on.grad, slope)


def induction(r, c, price):
    """The best return of each image ``[n]``, by backward induction on what is right, ``[K, n]``."""
    V = r[-1]
    for k in range(len(r) - 2, -1, -1):
        V = torch.maximum(r[k], V - price * c[k + 1])
    return V


def earned(exits, r, c, price):
    """What images earn that leave at these exits, the first branch being paid for by all."""
    exits = torch.as_tensor(exits)
    return r.gather(0, exits[None])[0] - price * (c.cumsum(0)[exits] - c[0])


def test_who_knows_what_is_right_earns_at_least_as_much_at_every_price(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    r = (seen.answers.argmax(dim=-1) == seen.targets).double()
    c = shares_of_cost(ready.model, seen.examples.inputs[0][None]).double()
    for price in PRICES:
        best = induction(r, c, price)
        found = earned(replay(method.rule(price, ready), seen.outputs), r, c, price)
        assert (best >= found - 1e-9).all()
        assert found.mean() >= earned(torch.zeros(len(found), dtype=torch.int64), r, c, price).mean() - 0.02


def learned(sure, right, c, steps=600):
    """Controllers of two branches after a training on images of which so much is known: Q of either action."""
    torch.manual_seed(0)
    z = torch.stack([torch.tensor(sure) * scale for scale in (1.0, 2.0)])[..., None] * torch.tensor([1.0, 0.0, 0.0])
    s, r = state_of(z), torch.tensor(right)
    inner = [Controller(3) for _ in s]

    def values(states):
        said_by = [each(part) for each, part in zip(inner, states, strict=True)]
        return tuple(torch.stack(part) for part in zip(*said_by, strict=True))

    walks = Examples(list(s.transpose(0, 1)), torch.zeros(len(sure), dtype=torch.int64))
    parameters = [p for each in inner for p in each.parameters()]

    def loss(batch):
        return controller_loss(*values(batch.inputs.transpose(0, 1)), r[:, batch.index], torch.tensor(c))

    fit(parameters, walks, loss, Bench(), label="", epochs=steps, batch=len(sure), rate=4e-2)
    with torch.no_grad():
        return values(s)


def test_iteration_finds_what_either_action_is_worth():
    """An image that is right at once; one that only the last knows; two that look alike, one of which it knows."""
    sure, right = [4.0, 1.0, -2.0, -2.0], [[1.0, 0.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0]]
    leave, go_on = learned(sure, right, [0.2, 0.3, 0.5])
    assert leave.flatten().tolist() == pytest.approx([1, 0, 0, 0] * 2, abs=0.05)
    for price in (0.5, 1.0):
        last = [1 - 0.5 * price, 1 - 0.5 * price, 0.5 - 0.5 * price]
        first = [max(now, later) - 0.3 * price for now, later in zip((1, 0, 0), last, strict=True)]
        for found, best in zip(go_on[:, :, at(price)].tolist(), (first, last), strict=True):
            assert found == pytest.approx([*best, best[-1]], abs=0.05)


# How it is trained.


def rows(stage):
    """A batch of samples that are not the first ones, as a stage meets it."""
    index = torch.arange(40, 60)
    return stage.batch_of(index, torch.stack([stage.train.inputs[i] for i in index.tolist()]))


def test_two_stages_each_with_its_data_parameters_rate_and_length(wired):
    method = tiny(train_size=200, batch=20, epochs=1.5, controller_epochs=2.5, rate=3e-3, controller_rate=7e-3)
    model, (together, apart) = wired(method)
    controllers = {id(p) for unit in model.heads[:-1] for p in unit.controller.parameters()}
    rest = {id(p) for p in model.parameters()} - controllers
    assert together.rates == dict.fromkeys(rest, 3e-3)
    assert apart.rates == dict.fromkeys(controllers, 7e-3)
    train, held = method.load().train, method.load().validation
    assert torch.equal(together.train.targets, train.targets)
    assert torch.equal(apart.train.targets, held.targets[: len(held) // 2])
    assert all(type(stage.optimiser) is torch.optim.AdamW for stage in (together, apart))
    assert all(torch.equal(a, b) for a, b in zip(together.train.inputs, train.inputs, strict=True))
    steps = round(2.5 * math.ceil(len(apart.train) / 20))
    assert [(s.epochs, s.batch, s.steps) for s in (together, apart)] == [(1.5, 20, 15), (2.5, 20, steps)]


def test_prices_are_judged_on_other_images_than_controllers_learn_from(prepared):
    _, _, ready = prepared(KEY)
    fitting, judged = (ready.split(name).examples for name in ("fitting", "validation"))
    held = ready.data.validation
    assert len(fitting) == len(judged) == len(held) // 2
    assert torch.equal(torch.cat([fitting.targets, judged.targets]), held.targets)


@torch.no_grad()
def by_hand(model, x):
    """Logits of all branches ``[K, n, C]``, through the modules one by one."""
    states = list(model.states(x))
    return torch.stack([*(unit.label(s) for unit, s in zip(model.heads, states[:-1], strict=False)), model.full(x)])


def test_stage_1_is_the_sum_of_all_cross_entropies_in_training_mode(wired):
    model, (together, _) = wired(tiny(train_size=120))
    batch = rows(together)
    expected = sum(float(F.cross_entropy(z, batch.targets)) for z in by_hand(model, batch.inputs))
    assert float(together.loss(batch).detach()) == pytest.approx(expected, rel=1e-5)
    modes = []
    method = tiny(train_size=64)
    network = method.build(data := method.load(), 0)
    method.train(network, data, Bench(most_steps=1, watch=lambda stage: modes.append(network.stages[0].training)))
    assert modes == [True, True, False, False]
    assert not any(part.training for part in network.modules())


def test_stage_2_learns_from_what_the_frozen_branches_say_of_held_out_images(wired):
    method = tiny(train_size=120)
    model, (_, apart) = wired(method)
    model.eval()
    batch, x = rows(apart), torch.stack(method.load().validation.inputs[40:60])
    z = by_hand(model, x)
    assert torch.allclose(batch.inputs, state_of(z[:-1]).transpose(0, 1), atol=1e-5)
    spent, full = exit_costs(model, x[:1]), both_costs(model, x[:1])[1][-1]
    c = torch.tensor([spent[0], *(b - a for a, b in pairwise(spent))]) / full
    said_by = [unit.controller(state_of(each)) for unit, each in zip(model.heads, z[:-1], strict=False)]
    leave, go_on = (torch.stack(part) for part in zip(*said_by, strict=True))
    expected = controller_loss(leave, go_on, (z.argmax(dim=-1) == batch.targets).float(), c)
    found = apart.loss(batch)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found.backward()
    assert all(p.grad is not None for unit in model.heads[:-1] for p in unit.controller.parameters())
    assert all(p.grad is None for p in without_controllers(model).parameters())


def test_no_image_leaves_later_at_a_higher_price(prepared):
    method, _, ready = prepared(KEY)
    outputs = ready.split("validation").outputs
    exits = [replay(method.rule(price, ready), outputs) for price in (math.inf, 3.0, *PRICES, -0.1, -math.inf)]
    assert all((a <= b).all() for a, b in pairwise(exits))
    depths = [float(each.mean()) for each in exits]
    assert depths[0] == 0
    assert depths[1] < 0.5 < depths[-2]
    assert depths[-1] == ready.model.exits - 1


def test_branches_are_light_and_stand_behind_every_block_but_the_last():
    method = EpNet()
    model = residual_exits(
        (1, 48, 48), 10, widths=method.widths, blocks=method.blocks, shares=method.shares,
        head=lambda shape: method.head(shape, 10), seed=0, pixels=method.pixels, half=method.half,
    )  # fmt: skip
    x = torch.zeros(1, 1, 48, 48)
    reached, alone = both_costs(model, x)
    assert reached[-1] - alone[-1] < 0.005 * alone[-1]
    assert [len(stage) for stage in model.stages] == [2, 1, 1, 1, 1, 1]  # the stem goes with the first block
    assert float(shares_of_cost(model, x).sum()) == pytest.approx(reached[-1] / alone[-1])


def test_logits_that_are_not_finite_make_nobody_leave(prepared):
    method, _, ready = prepared(KEY)
    unit = ready.model.heads[0]
    said_by = unit(torch.full((2, unit.label[-1].in_features, 4, 4), math.nan))
    assert said_by["gain"].isnan().all()
    for price in PRICES:
        policy = method.rule(price, ready)
        assert not policy.step(policy.start(), said_by)[1].any()


# What is claimed.


def points(*pairs):
    return [
        OperatingPoint(knob=i, quality=q, cost=cost, speed_up=1 / cost, exits=[1.0])
        for i, (cost, q) in enumerate(pairs)
    ]


def alone(*pairs):
    """What branches reach by themselves, by cost and quality, as a baseline of a curve."""
    return [Baseline(name="static exit", validation=points(*pairs), test=points(*pairs))]


@pytest.mark.parametrize(
    ("costs", "holds"), [((0.3, 0.4, 0.6), True), ((0.3, 0.4, 0.59), False), ((0.3, 0.7, 0.59), False)]
)
def test_falling_prices_must_buy_a_third_of_the_computation(costs, holds):
    ends = (0.1, 0.5), (1.0, 0.5)
    assert tried.governed(points(ends[0], *((cost, 0.8) for cost in costs), ends[1])).holds is holds


@pytest.mark.parametrize(("cost", "test", "holds"), [(0.7, 0.891, True), (0.71, 0.9, False), (0.7, 0.889, False)])
def test_a_third_must_be_saved_by_the_cheapest_price_that_loses_little(cost, test, holds):
    curve = SimpleNamespace(
        validation=points((0.3, 0.894), (cost, 0.895), (1.0, 0.9)),
        test=points((0.3, 0.9), (cost, test), (1.0, 0.9)), full_quality=0.9,
        baselines=alone((0.3, 0.8), (0.8, 0.9), (1.0, 0.9)),
    )  # fmt: skip
    found = tried.saves(curve)
    assert (found.holds, found.not_comparable) == (holds, "")
    assert "at price 1" in found.measured


@pytest.mark.parametrize(
    ("cost", "quality", "comparable"), [(0.69, 0.891, False), (0.71, 0.891, True), (0.69, 0.889, True)]
)
def test_where_one_branch_alone_saves_a_third_at_little_loss_no_policy_is_needed(cost, quality, comparable):
    curve = SimpleNamespace(
        validation=points((0.5, 0.9), (1.0, 0.9)), test=points((0.5, 0.9), (1.0, 0.9)), full_quality=0.9,
        baselines=alone((0.3, 0.8), (cost, quality), (1.0, 0.9)),
    )  # fmt: skip
    found = tried.saves(curve)
    assert (found.holds, found.not_comparable == "") == (comparable, comparable)


def test_rivals_are_thresholds_on_the_same_branches_and_half_the_branches_trained_alike(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    rules, asked, compared = [], [], []
    nothing = Baseline(name="x", validation=points((0.5, 0.9)), test=points((0.5, 0.9)))
    monkeypatch.setattr(tried, "tried", lambda *given: rules.append((given[:2], given[2])) or nothing)
    monkeypatch.setattr(EpNet, "prepare", lambda self, bench: asked.append(self) or "trained")
    monkeypatch.setattr(tried, "points_of", lambda rival, trained, bench: asked.append((rival, trained)) or nothing)
    monkeypatch.setattr(tried, "gains_of_mixtures", lambda ours, theirs: compared.append((ours, theirs)) or [0.006])
    curve = SimpleNamespace(
        validation=points((0.5, 0.9)), test=points((0.5, 0.9)) * 4, full_quality=0.9,
        baselines=alone((0.3, 0.8), (1.0, 0.9)),
    )  # fmt: skip
    found = tried.claims(wide := method.replace({"shares": (0.2, 0.4, 0.6)}), ready, bench, curve)
    assert [outcome.name for outcome in found] == [
        "better than thresholds on confidence", "better than thresholds on entropy", "better than few branches",
        "less computation at equal accuracy", "the price governs the cost",
    ]  # fmt: skip
    assert all(given == (wide, ready) for given, _ in rules)
    ours, *theirs = (list(each) for _, each in rules)
    assert ours == [wide.policy(price, ready) for price in PRICES]
    assert {type(rule) for rule in theirs[0]} == {MaxConfidence}
    assert {type(rule) for rule in theirs[1]} == {Entropy}
    few = wide.replace({"shares": (0.4,)})
    assert asked == [few, (few, "trained")]
    assert [outcome.holds for outcome in found[:3]] == [True] * 3
