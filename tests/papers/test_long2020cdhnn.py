"""What only the hybrid network promises: few bits by hand and beside the released code, energy, and its two sides."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.resnet import BasicBlock
from eelit.methods.claims import long2020cdhnn as claimed
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.long2020cdhnn import (
    Active,
    EdgeBlock,
    EdgeConvolution,
    FewBits,
    Hybrid,
    HybridNetwork,
    centre,
    edge_convolutions,
    few_bit_macs,
    grid,
    master,
    quantised,
)
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.world.stream import Journey

KEY = "long2020cdhnn"


@pytest.fixture(scope="module")
def golden():
    return json.loads((Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json").read_text())["cases"]


def tiny(variant="one bit", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# Few bits.


def test_one_bit_by_hand():
    """One filter with two inputs: centred over them, then clamped, then two values."""
    w = torch.tensor([[[[0.5, -1.0]], [[-0.1, 3.0]]]])
    own = master(w)
    assert torch.allclose(own, torch.tensor([[[[0.3, -1.0]], [[-0.3, 1.0]]]]))
    assert torch.allclose(quantised(own, 1), torch.tensor([[[[0.65, -0.65]], [[-0.65, 0.65]]]]))
    learns = own.clone().requires_grad_()
    FewBits.apply(learns, 1).backward(torch.tensor([[[[1.0, 0.0]], [[0.0, 2.0]]]]))
    assert torch.allclose(learns.grad, torch.tensor([[[[2.8, -1.5]], [[-1.5, 4.1]]]]))


def test_two_bits_by_hand():
    assert torch.allclose(grid(torch.tensor([-0.4, 0.1, 0.9]), 2), torch.tensor([-1 / 3, 1 / 3, 1.0]))


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
def test_weights_take_few_values_in_each_filter(bits):
    torch.manual_seed(0)
    own = master(torch.randn(5, 4, 3, 3))
    found = quantised(own, bits)
    alpha = own.abs().mean(dim=(1, 2, 3))
    for row, scale in zip(found, alpha, strict=True):
        levels = (row / scale + 1) / 2 * (2**bits - 1)
        assert torch.allclose(levels, levels.round(), atol=1e-3)
        assert row.abs().max() <= scale * (1 + 1e-6)
        if bits == 1:
            assert torch.allclose(row.abs(), scale.expand_as(row))


def test_an_exact_zero_stays_a_zero_with_one_bit():
    assert quantised(torch.tensor([[[[0.0]], [[0.5]]]]), 1).flatten().tolist() == [0.0, 0.25]


def test_gradients_of_activations_pass_within_one():
    a = torch.tensor([-1.5, -1.0, -0.5, 0.0, 0.99, 1.0], requires_grad=True)
    found = Active.apply(a, 1)
    assert found.tolist() == [-1, -1, -1, 0, 1, 1]
    found.sum().backward()
    assert a.grad.tolist() == [0, 0, 1, 1, 1, 0]
    assert Active.apply(torch.tensor([3.1]), 2).item() == pytest.approx(3.0, abs=1e-6)  # not clamped, next step beyond


def test_weights_and_gradients_are_those_of_the_released_code(golden):
    for case in golden["weights"]:
        for given, used, kept, g, gradient in zip(
            *(case[name] for name in ("weights", "used", "kept", "given", "gradients")), strict=True
        ):
            own = master(torch.tensor(given))
            assert torch.allclose(own, torch.tensor(kept), atol=1e-6)
            learns = own.requires_grad_()
            found = FewBits.apply(learns, case["bits"])
            assert torch.allclose(found, torch.tensor(used), atol=1e-6)
            found.backward(torch.tensor(g))
            assert torch.allclose(learns.grad, torch.tensor(gradient), atol=1e-4)


def test_activations_are_those_of_the_released_code(golden):
    for case in golden["activations"]:
        a = torch.tensor(case["a"], requires_grad=True)
        found = Active.apply(a, case["bits"])
        assert torch.allclose(found, torch.tensor(case["out"]), atol=1e-6)
        found.backward(torch.tensor(case["given"]))
        assert a.grad.tolist() == case["gradient"]


def test_loss_and_rule_are_those_of_the_released_code(golden, prepared):
    case = golden["rule"]
    z, y = torch.tensor(case["outputs"]), torch.tensor(case["targets"])
    weights = [*case["weights"], 1 - sum(case["weights"])]
    assert weighted(exit_losses(z, y), weights).item() == pytest.approx(case["loss"], rel=1e-5)
    method, _, ready = prepared(KEY)
    left = replay(method.policy(case["threshold"], ready), z)
    assert left.tolist() == case["left"]
    assert np.bincount(left).tolist() == case["taken"]


# The network.


def test_an_edge_block_by_hand():
    torch.manual_seed(0)
    block = EdgeBlock(4, 6, 2, 1).eval()
    x = torch.randn(3, 4, 6, 6)
    with torch.no_grad():
        for part in block.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.weight.normal_()

    def layer(part, h, stride):
        a = part.norm(h).sign()
        assert set(a.unique().tolist()) <= {-1.0, 0.0, 1.0}
        return F.conv2d(a, quantised(part.conv.weight, 1), part.conv.bias, stride, padding=1)

    h = layer(block.second, layer(block.first, x, 2).relu(), 1)
    by_hand = (block.shortcut(x) + block.norm(h)).relu()
    assert torch.allclose(block(x), by_hand, atol=1e-5)
    assert isinstance(EdgeBlock(4, 4, 1, 1).shortcut, nn.Identity)
    assert block.shortcut[0].weight.shape == (6, 4, 1, 1)


def test_edge_blocks_come_first_and_the_rest_is_exact():
    method = tiny()
    model = method.build(method.load(), 0)
    assert [len(stage) for stage in model.stages] == [2, 2, 1]  # with the first convolution
    kinds = [type(part) for stage in model.stages for part in stage][1:]
    assert kinds == [EdgeBlock] * 3 + [BasicBlock]
    assert len(edge_convolutions(model)) == 6
    assert not edge_convolutions(tiny(bits=32).build(method.load(), 0))
    assert [tuple(model.heads[i][2].weight.shape) for i in (0, 1)] == [(10, 16), (10, 24)]
    sizes = method.head((5, 10, 7), 3)
    assert sizes[2].weight.shape == (3, 5 * 3 * 2)
    assert sizes(torch.zeros(2, 5, 10, 7)).shape == (2, 3)
    head = model.heads[-1]
    assert [type(part) for part in head] == [nn.AdaptiveAvgPool2d, nn.Flatten, nn.BatchNorm1d, nn.Linear]


def test_trained_weights_are_quantised_for_good(prepared):
    """Two values in each filter; answers are those of the network with master copies."""
    method, bench, ready = prepared(KEY)
    data = method.load()
    model = method.build(data, bench.seed)
    method.train(model, data, bench)
    fixed = edge_convolutions(ready.model)
    assert len(fixed) == 6
    for part, own in zip(fixed, edge_convolutions(model), strict=True):
        assert part.fixed
        assert not own.fixed
        assert torch.equal(part.weight, quantised(own.weight, 1).double())
        assert all(len(row.abs().unique()) == 1 for row in part.weight)
        assert own.weight.abs().max() <= 1
    x = torch.stack(data.validation.inputs[:20])
    with torch.inference_mode():
        assert torch.allclose(model(x), ready.model(x), atol=1e-3)


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_sums_of_few_bits_are_the_same_in_any_order(bits):
    """As processors sum in an order of their own; a quantiser would make a whole step of a last bit."""
    torch.manual_seed(0)
    edge = EdgeConvolution(64, 8, 1, bits).double()
    with torch.no_grad():
        edge.weight.copy_(master(edge.weight))
    a = Active.apply(torch.randn(4, 64, 6, 6, dtype=torch.float64), bits)
    by_hand = F.conv2d(a, quantised(edge.weight, bits), edge.bias, padding=1)
    edge.fix()
    found = edge(a)
    assert torch.allclose(found, by_hand, atol=1e-9)
    order = torch.randperm(64)
    edge.steps = edge.steps[:, order]
    assert torch.equal(edge(a[:, order]), found)


def test_what_comes_before_a_quantiser_is_computed_in_double_precision(prepared):
    _, _, ready = prepared(KEY)
    *edge, cloud = ready.model.stages
    assert {p.dtype for stage in edge for p in stage.parameters()} == {torch.float64}
    assert {p.dtype for p in [*cloud.parameters(), *ready.model.heads.parameters()]} == {torch.float32}
    with torch.inference_mode():
        assert edge[0](ready.data.test.inputs[0][None]).dtype == torch.float32


def test_centring_is_made_before_each_step_and_moves_nothing_else():
    torch.manual_seed(0)
    model = nn.Sequential(EdgeConvolution(3, 2, 1, 1), nn.Conv2d(2, 2, 3), EdgeConvolution(2, 2, 1, 32))
    before = [part.weight.detach().clone() for part in model]
    centre(model)
    assert torch.equal(model[0].weight, master(before[0]))
    assert torch.equal(model[1].weight, before[1])
    assert torch.equal(model[2].weight, before[2])


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"bits": 9}, "1 to 8 bits, or 32, not 9"),
        ({"bits": 0}, "1 to 8 bits"),
        ({"exits": (3, 1)}, "rising numbers of the 4 blocks"),
        ({"exits": (1, 4)}, "rising numbers of the 4 blocks"),
        ({"exits": ()}, "rising numbers"),
        ({"loss_weights": (0.3,)}, "has a weight"),
        ({"loss_weights": (0.5, 0.5)}, "less than 1"),
        ({"loss_weights": (-0.1, 0.5)}, "at least 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(wrong, told):
    with pytest.raises(ValueError, match=told):
        tiny(**wrong)


# Exit rule and energy.


def test_ends_of_t_send_everything_or_nothing(prepared):
    method, _, ready = prepared(KEY)
    assert not any(journey.sent for journey in method.simulated(ready, "test", 2.4))
    never = method.simulated(ready, "test", 0.0)
    assert all(journey.sent for journey in never)
    assert {journey.exit for journey in never} == {2}
    rule = method.policy(0.7, ready)
    assert rule.threshold == 0.7
    p = torch.tensor([[0.5, 0.5]]).log()
    assert method.policy(math.log(2) + 1e-6, ready).step((), p)[1].tolist() == [True]
    assert method.policy(math.log(2) - 1e-6, ready).step((), p)[1].tolist() == [False]


def test_few_bits_are_counted_apart(prepared):
    _, _, ready = prepared(KEY)
    x = ready.data.test.inputs[0][None]
    few = few_bit_macs(ready.model, x)
    sides = (4, 4, 2)  # 16 maps of 4×4 places for two blocks, then 24 of 2×2, the first of which reads 16
    by_hand = [2 * 9 * 16 * 16 * sides[0] ** 2, 9 * 2 * 2 * (16 * 24 + 24 * 24) + 2 * 9 * 16 * 16 * sides[1] ** 2, 0]
    assert few == by_hand
    state = x
    for i, stage in enumerate(ready.model.stages):
        with torch.inference_mode(), MacCounter() as counter:
            state = stage(state)
        assert counter.macs == ready.split("test").stages[i, 0] - (i == 2) * 24 * 10
        assert counter.macs >= few[i]


def test_energy_by_hand():
    """Few bits on the edge are cheap, everything else has full precision, in the cloud all."""
    method = tiny(mac=2.0, bits=4)
    plan = Hybrid((2,), 0.5, exact=(100.0, 150.0, 950.0))
    here = Journey(0.0, plan=plan, exit=0, macs=[500.0])
    assert method.price(here) == pytest.approx((100 + 400 / 8) * 2e-6)
    second = Journey(0.0, plan=plan, exit=1, macs=[950.0])
    assert method.price(second) == pytest.approx((150 + 800 / 8) * 2e-6)
    there = Journey(0.0, plan=plan, exit=2, macs=[950.0, 800.0], sent=[9], returned=[9])
    assert method.price(there) == pytest.approx((150 + 800 / 8 + 800) * 2e-6)
    cloud = Journey(0.0, plan=Hybrid((0,), None, exact=(100.0, 150.0, 950.0)), exit=2, macs=[0.0, 1750.0])
    assert method.price(cloud) == pytest.approx(1750 * 2e-6)


def test_exits_on_the_way_are_paid_and_others_are_not(prepared):
    method, bench, ready = prepared(KEY)
    seen, few = ready.split("test"), few_bit_macs(ready.model, ready.data.test.inputs[0][None])
    stages, heads = seen.stages[:, 0], seen.heads[:, 0]
    exact = np.cumsum(stages - few)
    asked = method.scheduler(ready, method.world("test", 0), 0.5).only
    assert asked.exact == pytest.approx(exact + np.cumsum(heads))
    plain = method.scheduler(ready, method.world("test", 0), None).only
    assert plain.exact == pytest.approx(exact)
    first = method.scheduler(ready, method.world("test", 0), None, 0).only
    assert first.exact == pytest.approx(exact + np.array([heads[0], 0, 0]))
    energy = (exact[1] + stages[2] + sum(few) / 32) * 4.6e-6
    assert method.full_model(ready, bench)[1] == pytest.approx(energy)
    device, _ = (base.test[0].cost for base in method.baselines(ready, bench)[1:])
    assert device == pytest.approx(energy)  # what is exact costs as much on either side


def test_the_cloud_alone_runs_the_network_of_full_precision(prepared, monkeypatch):
    """Its own accuracy at its own price: that of few bits would be dearer there and no better."""
    method, bench, ready = prepared(KEY)
    exact, prepare, seen = method.replace({"bits": 32}), HybridNetwork.prepare, []
    other = prepare(exact, bench)

    def noted(self, bench):
        seen.append(self)
        return other

    monkeypatch.setattr(HybridNetwork, "prepare", noted)
    _, device, cloud = method.baselines(ready, bench)
    assert seen == [exact]
    assert (device.name, cloud.name) == ("all on the device", "all on the last machine, full precision")
    quality, cost = exact.full_model(other, bench)
    assert cost == pytest.approx(ready.split("test").stages[:, 0].sum() * 4.6e-6)
    assert (cloud.test[0].quality, cloud.test[0].cost) == (quality, cost)
    assert (device.test[0].quality, device.test[0].cost) == method.full_model(ready, bench)
    for split, (point,) in (("validation", cloud.validation), ("test", cloud.test)):
        assert point.speed_up == pytest.approx(ready.plain(split) / cost)
    seen.clear()
    assert exact.baselines(other, bench)[2].test[0].quality == quality
    assert not seen


def test_what_is_told_of_the_world_is_what_a_joule_depends_on(prepared):
    """A journey with as many multiply-accumulates costs as much as is told, whatever the speeds."""
    _, bench, ready = prepared(KEY)
    method = tiny(mac=2.0, bits=4)
    told = method.simulation(ready, bench)
    assert told.rates == []
    assert told.constants[:2] == [
        "a MAC of full precision: 2 pJ", "a MAC of 4 bits: 0.25 pJ, assumed in proportion to bits",
    ]  # fmt: skip
    exact, few = (
        method.price(Journey(0.0, plan=Hybrid((1,), 0.5, exact=(n,)), exit=0, macs=[1e6])) for n in (1e6, 0.0)
    )
    assert (exact, few) == (pytest.approx(2.0), pytest.approx(0.25))  # microjoules
    assert not any(word in said for said in told.constants for word in ("MACs/s", "Mbit/s", " W "))


def test_each_machine_holds_its_own_blocks_alone(prepared):
    method, bench, ready = prepared(KEY)
    edge, cloud = method.machines(ready)
    assert (set(edge.stages), set(cloud.stages)) == ({0, 1}, {2})
    assert (set(edge.heads), set(cloud.heads)) == ({0, 1}, {2})
    assert not edge_convolutions(cloud.stages[2])
    assert method.execute(ready, bench, 0.5).agrees
    assert method.came(3) == [0, 0.25, 0.5]


# Training.


def test_joint_training_minimises_the_weighted_sum(wired):
    model, (stage,) = wired(tiny(loss_weights=(0.4, 0.3)))
    index, x = next(stage.train.batches(16))
    y = stage.train.targets[index]
    model.eval()
    before = edge_convolutions(model)[0].weight.detach().clone()
    told = stage.loss(stage.batch_of(index, x)).item()
    assert torch.equal(edge_convolutions(model)[0].weight, master(before))
    by_hand = sum(w * F.cross_entropy(z, y) for w, z in zip((0.4, 0.3, 0.3), model(x), strict=True))
    assert told == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(stage.rates) == {id(p) for p in model.parameters()}
    assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 400)


def test_two_stages_train_the_network_and_then_its_exits(wired):
    model, (first, second) = wired(tiny("two stages"))
    index, x = next(first.train.batches(16))
    y = first.train.targets[index]
    model.eval()
    told = first.loss(first.batch_of(index, x)).item()
    assert told == pytest.approx(F.cross_entropy(model(x)[-1], y).item(), rel=1e-4)
    assert set(first.rates) == {id(p) for p in model.plain_network().parameters()}
    by_hand = sum(F.cross_entropy(z, y) for z in model(x)[:-1])
    assert second.loss(second.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(second.rates) == {id(p) for head in model.heads[:-1] for p in head.parameters()}
    assert (set(first.rates.values()), set(second.rates.values())) == ({1e-2}, {1e-2})
    assert [(stage.epochs, stage.batch, len(stage.train)) for stage in (first, second)] == [(8, 32, 400), (4, 32, 400)]


def test_exits_change_nothing_of_the_network_in_two_stages():
    method = tiny("two stages", train_size=64, epochs=1.0, head_epochs=1.0)
    model, after = method.build(data := method.load(), 0), []

    def watch(stage):
        after.append({name: value.clone() for name, value in model.plain_network().state_dict().items()})

    method.train(model, data, Bench(watch=watch))
    _, _, first, second = after  # as the second stage begins, and as it ends
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    assert not moved


# What is claimed.


def point(cost, quality, exits=(0.5, 0.1, 0.4)):
    return OperatingPoint(knob=0.5, quality=quality, cost=cost, speed_up=1, exits=list(exits))


@pytest.mark.parametrize(("cost", "quality", "holds"), [(33.0, 0.881, True), (34.0, 0.9, False), (10.0, 0.879, False)])
def test_two_thirds_of_the_energy_must_be_saved_at_little_loss(cost, quality, holds):
    found = claimed.cheaper(point(cost, quality), 0.9, 100.0, 1)
    assert found.holds is holds
    assert "5.5×" in found.statement
    assert "nothing was measured" in found.not_comparable


@pytest.mark.parametrize(("exits", "holds"), [((0.4, 0.1, 0.5), True), ((0.4, 0.09, 0.51), False)])
def test_half_must_stay_on_the_edge(exits, holds):
    assert claimed.local(point(1, 1, exits)).holds is holds


@pytest.mark.parametrize(("found", "holds"), [([0.01, 0.0], True), ([0.004, 0.005], False), ([], False)])
def test_few_bits_must_be_worth_half_a_point(found, holds):
    assert claimed.beside_whole(found).holds is holds
    assert "nothing was measured" in claimed.beside_whole(found).not_comparable


@pytest.mark.parametrize(("low", "holds"), [(0.889, True), (0.891, False)])
def test_the_cloud_must_be_worth_a_point(low, holds):
    assert claimed.repaired(0.9, low).holds is holds


def test_accuracies_after_few_epochs_say_nothing_of_the_paper():
    """The share that stays on the edge is one at a loss of accuracy, too."""
    exact = claimed.repaired(0.9, 0.88)
    assert claimed.too_early(exact, 150) == exact
    assert "after 2 epochs, and the released code trains for 150" in claimed.too_early(exact, 2).not_comparable
    both = claimed.too_early(claimed.beside_whole([0.1]), 2).not_comparable
    assert both.startswith(f"{claimed.ASSUMED}; accuracies are compared")


def test_rivals_are_trained_with_other_bits_and_else_alike(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    seen = []

    def prepare(self, bench):
        seen.append(self)
        return ready

    monkeypatch.setattr(HybridNetwork, "prepare", prepare)
    swept = [method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")]
    curve = SimpleNamespace(validation=swept[0], test=swept[1], full_quality=method.full_model(ready, bench)[0])
    found = claimed.claims(method, ready, bench, curve)
    assert seen == [method.replace({"bits": 32}), method.replace({"edge": 4})]
    assert len(found) == 4
    assert all("need long training" in outcome.not_comparable for outcome in found)


def test_each_rival_is_measured_by_itself(monkeypatch):
    """A loss counts from the last exit of full precision; energy is that of its network without exits."""
    method, given = tiny(), []
    points = {
        (0.9, 100.0): [(0.5, 30.0), (0.9, 90.0)], (0.88, 50.0): [(0.875, 5.0), (0.892, 20.0), (0.88, 60.0)],
        (0.8, 100.0): [(0.5, 30.0), (0.8, 90.0)],
    }  # fmt: skip

    def swept(best):
        return [
            OperatingPoint(knob=i, quality=q, cost=c, speed_up=1, exits=[0.6, 0.4])
            for i, (q, c) in enumerate(points[best])
        ]

    monkeypatch.setattr(HybridNetwork, "prepare", lambda self, bench: self)
    monkeypatch.setattr(
        HybridNetwork,
        "sweep",
        lambda self, ready, bench, split, knobs: (
            given.append(ready) or swept((0.9, 100.0) if split == "validation" else (0.8, 100.0))
        ),
    )
    monkeypatch.setattr(
        HybridNetwork, "full_model", lambda self, ready, bench: (0.9, 100.0) if ready.bits == 32 else (0.86, 7.0)
    )
    ours = swept((0.88, 50.0))
    curve = SimpleNamespace(validation=ours, test=ours, full_quality=0.88)
    found = claimed.claims(method, None, Bench(), curve)
    assert {ready.bits for ready in given} == {32}
    assert found[0].measured == "5.00× less, accuracy -0.0080, at T = 1"
    assert found[3].measured == "0.8800 and 0.8600"
