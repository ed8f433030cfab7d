"""What only DDNN promises: binary parts, merged views, bytes by its formula, machines apart, and the released code."""

import json
import math
import pickle
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from loopback import Counting, Told, process
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import teerapittayanon2017ddnn as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families.multi_device import Camera, Devices, Local, Server, Sides
from eelit.methods.families.tiers import Plan
from eelit.methods.harness import registry
from eelit.methods.papers.teerapittayanon2017ddnn import (
    FC,
    BinaryConvolution,
    BinaryLinear,
    Cloud,
    ConvP,
    Merge,
    binary,
    clip,
    losses,
)
from eelit.methods.policies.base import uncertainty
from eelit.methods.policies.entropy import Entropy
from eelit.methods.world.machines import Link
from eelit.methods.world.stream import Always, stream
from eelit.methods.world.traces import steady

KEY = "teerapittayanon2017ddnn"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())["cases"]


# Binary parts.


def test_b_is_plus_one_from_zero_on_and_its_gradient_stops_beyond_one():
    a = torch.tensor([-2.0, -1.0, -0.3, 0.0, 0.5, 1.0, 1.5], requires_grad=True)
    b = binary(a)
    assert b.tolist() == [-1, -1, -1, 1, 1, 1, 1]
    (b * torch.arange(1.0, 8.0)).sum().backward()
    assert a.grad.tolist() == [0, 2, 3, 4, 5, 6, 0]


def test_only_signs_of_weights_are_used():
    torch.manual_seed(0)
    conv, line = BinaryConvolution(2, 3, 3, padding=1), BinaryLinear(5, 2)
    x, v = torch.randn(2, 2, 6, 6), torch.randn(3, 5)
    assert torch.allclose(conv(x), F.conv2d(x, conv.weight.sign(), conv.bias, padding=1))
    assert torch.allclose(line(v), v @ line.weight.sign().T + line.bias)
    with torch.no_grad():
        conv.weight *= 0.01
    assert torch.allclose(conv(x), F.conv2d(x, conv.weight.sign(), conv.bias, padding=1))


def test_weights_are_clipped_and_nothing_else_is():
    part = nn.Sequential(ConvP(1, 2, 2), FC(2, 3))
    with torch.no_grad():
        for parameter in part.parameters():
            parameter.fill_(-3.0)
    clip(part)
    assert {name.split(".", 1)[1]: float(p.detach().max()) for name, p in part.named_parameters()} == {
        "0.weight": -1, "0.bias": -3, "2.weight": -3, "2.bias": -3, "1.weight": -1, "1.bias": -3,
    }  # fmt: skip


@pytest.mark.parametrize(("stride", "side"), [(2, 4), (1, 7)])
def test_maps_are_signs_of_half_the_side_on_devices_and_of_all_in_the_cloud(stride, side):
    h = ConvP(1, 3, stride)(torch.randn(5, 1, 7, 7))
    assert h.shape == (5, 3, side, side)
    assert set(h.unique().tolist()) == {-1.0, 1.0}


def test_merging_by_hand():
    parts = torch.tensor([[[1.0, 5.0], [3.0, 2.0]]])
    assert Merge("MP")(parts).tolist() == [[3, 5]]
    assert Merge("AP")(parts).tolist() == [[2, 3.5]]
    assert Merge("CC")(parts).tolist() == [[1, 5, 3, 2]]
    assert Merge("CC")(torch.zeros(2, 3, 4, 5, 5)).shape == (2, 12, 5, 5)
    with pytest.raises(ValueError, match="MP, AP or CC"):
        Merge("max")


@pytest.mark.parametrize("how", ["MP", "AP"])
def test_the_order_of_devices_does_not_matter_to_maximum_and_mean(how):
    x = torch.randn(4, 5, 3)
    assert torch.allclose(Merge(how)(x), Merge(how)(x[:, [3, 1, 4, 0, 2]]))


# Exit rule and bytes.


def test_entropy_is_zero_where_sure_and_one_where_nothing_is_known():
    for classes in (2, 3, 10):
        sure, even = torch.zeros(1, classes), torch.zeros(1, classes)
        sure[0, 1] = 100
        assert float(uncertainty(sure)) == pytest.approx(0, abs=1e-6)
        assert float(uncertainty(even)) == pytest.approx(1)


def test_the_rule_is_strict_and_means_a_share_of_the_largest_entropy(prepared):
    method, _, ready = prepared(KEY)
    rule = method.policy(0.5, ready)
    assert rule == Entropy(0.5 * math.log(10))
    assert method.policy(0.0, ready).step((), torch.eye(10)[:1] * 1e4)[1].tolist() == [
        False
    ]  # entropy 0 is not below 0
    assert method.policy(1.1, ready).step((), torch.zeros(1, 10))[1].tolist() == [True]


def test_bytes_follow_the_formula(prepared):
    """c = 4 C + (1 - l) f o / 8 with C = 10, f = 32 and o = 5 · 5."""
    method, bench, ready = prepared(KEY)
    for point in method.sweep(ready, bench, "test", method.knobs):
        assert point.cost == pytest.approx(40 + point.exits[1] * 32 * 25 / 8)
    assert method.full_model(ready, bench)[1] == 100
    (fixed,) = method.baselines(ready, bench)
    assert [point.cost for point in fixed.test] == [40, 100]


def test_no_world_is_told_of_where_none_has_a_say(prepared, monkeypatch):
    """Bytes are the same over links a thousand times as slow."""
    method, bench, ready = prepared(KEY)
    assert method.simulation(ready, bench) is None
    before, own = method.sweep(ready, bench, "test", [0.7]), method.world("test", 0)
    assert own.power is None
    slow = replace(own, links=tuple(Link(steady(link.bandwidth.mean / 1000), 1.0) for link in own.links))
    monkeypatch.setattr(type(method), "world", lambda self, split, seed: slow)
    assert method.sweep(ready, bench, "test", [0.7]) == before


def test_an_answer_is_right_as_often_as_both_exits_are_on_what_they_answer(prepared):
    method, bench, ready = prepared(KEY)
    seen, (point,) = ready.split("test"), method.sweep(ready, bench, "test", [0.7])
    local = replay(ready.rule(0.7), seen.outputs) == 0
    right = (seen.answers.argmax(-1) == seen.targets).numpy()
    assert 0.2 < local.mean() < 0.8
    assert point.quality == pytest.approx(
        local.mean() * right[0, local].mean() + (1 - local.mean()) * right[1, ~local].mean()
    )


def test_multiply_accumulates_of_each_machine(prepared):
    """Of one device, as all work at one time: 9 · 32 for each of 9 · 9 places, then 800 · 10 for its scores."""
    _, _, ready = prepared(KEY)
    seen = ready.split("test")
    on, here = (seen.course(Plan((), knob)).legs[0] for knob in (0.0, 1.1))
    assert [leg.macs for leg in here] == [81 * 9 * 32 + 8000, 0]
    assert [leg.macs for leg in on] == [81 * 9 * 32 + 8000, 0, 25 * 9 * (3 * 32 * 16 + 16 * 16) + 16 * 25 * 10]
    assert [leg.macs for leg in seen.course(Plan((), None)).legs[0]][:2] == [81 * 9 * 32, 0]  # nobody scores


# Machines apart.


def test_devices_aggregator_and_cloud_as_processes_say_the_same(prepared):
    """Each process holds its own part alone, and counts its own work; scores and bits cross loopback sockets."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test").one_by_one(12)
    cameras, cloud = method.sides(ready)
    world, plan = method.world("test", 0), Plan((), 0.7)
    own = sum(p.numel() for p in (*cameras[0].block.parameters(), *cameras[0].fc.parameters()))
    assert own < sum(p.numel() for p in ready.model.parameters()) / 3
    with ExitStack() as stack:
        asked = [Told(stack.enter_context(process(Counting(machine)))) for machine in (*cameras, cloud)]
        work = Sides(ready, asked[:-1], asked[-1], seen.examples)
        apart = stream(world, work, Always(plan), method.came(12))
    together = stream(world, seen, Always(plan), method.came(12))
    assert {journey.exit for journey in apart} == {0, 1}
    assert [(a.exit, a.sent, a.returned) for a in apart] == [(b.exit, b.sent, b.returned) for b in together]
    assert torch.allclose(work.answers(apart, torch.Size([10])), seen.told(together), atol=1e-5)
    device, merging, far = ([b.macs[i] for b in together if i < len(b.macs)] for i in range(3))
    for camera in asked[:-1]:
        assert [macs for macs in camera.macs if macs] == device  # a map that is asked for is there already
        assert camera.macs.count(0) == len(far)
    assert [a.macs[1] for a in apart] == merging
    assert asked[-1].macs == far
    assert all(far)


def test_a_device_sends_what_it_is_asked_for():
    torch.manual_seed(0)
    block, fc = ConvP(1, 2, 2).eval(), FC(2 * 9, 3).eval()
    camera = pickle.loads(pickle.dumps(Camera(block, fc, (1, 6, 6))))
    view = torch.randint(0, 256, (1, 6, 6), dtype=torch.uint8)
    scores = np.frombuffer(camera.handle(b"\1" + view.numpy().tobytes()), "<f4")
    h = block((view[None].float() - 127.5) / 127.5)
    assert scores == pytest.approx(fc(h)[0].tolist(), abs=1e-5)
    bits = np.unpackbits(np.frombuffer(camera.handle(b""), np.uint8))[:18]
    assert (bits * 2.0 - 1).tolist() == h.flatten().tolist()
    assert camera.handle(b"\0" + view.numpy().tobytes()) == b""


def test_the_cloud_takes_maps_in_the_order_of_devices():
    torch.manual_seed(0)
    stage, head = Cloud(4, 3, "CC").eval(), FC(3 * 9, 3).eval()
    h = torch.randn(1, 2, 2, 3, 3).sign()
    bits = b"".join(np.packbits(h[0, i].numpy().ravel() > 0).tobytes() for i in range(2))
    message = Server(stage, head, 2, (2, 3, 3)).handle(bits)
    assert message[:2] == bytes([1, 1])
    assert np.frombuffer(message[2:], "<f4") == pytest.approx(head(stage(h))[0].tolist(), abs=1e-5)


# Training.


def test_the_loss_by_hand_leaves_out_views_in_which_nothing_is_seen():
    torch.manual_seed(0)
    model = MultiExit(
        [Devices([ConvP(1, 2, 2) for _ in range(2)]), Cloud(4, 3, "CC")],
        [Local([FC(2 * 9, 3) for _ in range(2)], Merge("MP")), FC(3 * 9, 3)],
    ).eval()
    x, y = torch.randint(1, 256, (5, 2, 1, 6, 6), dtype=torch.uint8), torch.tensor([0, 1, 2, 1, 0])
    x[2, 0] = 0
    h = torch.stack([model.stages[0].each[i](x[:, i].float() / 127.5 - 1) for i in range(2)], dim=1)
    s = [model.heads[0].each[i](h[:, i]) for i in range(2)]
    seen = torch.tensor([True, True, False, True, True])
    by_hand = [
        F.cross_entropy(torch.maximum(s[0], s[1]), y), F.cross_entropy(model.heads[1](model.stages[1](h)), y),
        F.cross_entropy(s[0][seen], y[seen]), F.cross_entropy(s[1], y),
    ]  # fmt: skip
    assert torch.allclose(losses(model, x, y), torch.stack(by_hand))
    x[:, 0] = 0
    assert losses(model, x, y)[2] == 0  # and no NaN where a device sees nothing at all


def test_everything_is_trained_together_by_adam(stages, prepared):
    method, _, _ = prepared(KEY)
    (stage,) = stages(method)
    model = method.build(data := method.load(), 0)
    index, x = next(stage.train.batches(16))
    y = data.train.targets[index]
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(losses(model, x, y).sum().item(), rel=1e-4)
    assert (len(stage.train), stage.epochs, stage.batch) == (600, method.epochs, method.batch)
    assert len(stage.rates) == len(list(model.parameters()))
    assert set(stage.rates.values()) == {method.rate}
    assert type(stage.optimiser) is torch.optim.Adam
    assert {group["weight_decay"] for group in stage.optimiser.param_groups} == {0}


def test_each_step_begins_with_weights_within_bounds(stages, prepared, monkeypatch):
    method, seen = prepared(KEY)[0], []
    build = type(method).build
    monkeypatch.setattr(type(method), "build", lambda *given: seen.append(build(*given)) or seen[-1])
    (stage,) = stages(method)
    weight = seen[0].stages[0].each[0][0].weight
    with torch.no_grad():
        weight.fill_(5.0)
    index, x = next(stage.train.batches(4))
    stage.loss(stage.batch_of(index, x))
    assert float(weight.max()) == 1
    assert not any(float(p.abs().max()) > 1 for p in prepared(KEY)[2].model.parameters() if p.dim() > 1)


def test_each_device_has_its_own_weights_and_the_full_size_is_the_papers():
    method = registry.get(KEY)
    pictures = torch.zeros(1, 6, 1, 32, 32, dtype=torch.uint8)
    model = method.build(SimpleNamespace(train=SimpleNamespace(inputs=pictures), classes=10), 0)
    blocks = model.stages[0].each
    assert len({id(p) for block in blocks for p in block.parameters()}) == 6 * 4
    assert model.stages[0](pictures).shape == (1, 6, 4, 16, 16)  # f o = 1,024 bits: 128 bytes
    assert model.stages[1](torch.ones(1, 6, 4, 16, 16)).shape == (1, 64, 16, 16)


# The released code.


def filled(part, values, conv):
    """Put the released code's numbers into a block."""
    first, norm = part[0 if conv else 1], part[2]
    name = "bconv" if conv else "bl"
    with torch.no_grad():
        first.weight.copy_(torch.tensor(values[f"{name}.W"]))
        first.bias.copy_(torch.tensor(values[f"{name}.b"]))
        norm.weight.copy_(torch.tensor(values["bn.gamma"]))
        norm.bias.copy_(torch.tensor(values["bn.beta"]))
    return first


def of_case(case):
    """Return the released network of a case as ours, and its binary layers with their gradients there."""
    local, features = {"max_pool_concat": ("MP", "CC"), "concat_avg_pool": ("CC", "AP")}[case["merge"]]
    blocks, scores = [ConvP(1, 4, 2) for _ in range(2)], [FC(64, 3) for _ in range(2)]
    cloud, last = Cloud(8 if features == "CC" else 4, 3, features), FC(48, 3)
    more = FC(6, 3) if local == "CC" else nn.Identity()
    layers = [
        (filled(block, each["block"], True), each["block"]["bconv.W.grad"])
        for block, each in zip(blocks, case["devices"], strict=True)
    ]
    layers += [
        (filled(fc, each["scores"], False), each["scores"]["bl.W.grad"])
        for fc, each in zip(scores, case["devices"], strict=True)
    ]
    layers += [
        (filled(cloud.blocks[i + 1], case["cloud"][i], True), case["cloud"][i]["bconv.W.grad"]) for i in range(2)
    ]
    layers.append((filled(last, case["cloud"][2], False), case["cloud"][2]["bl.W.grad"]))
    if local == "CC":
        layers.append((filled(more, case["local"][0], False), case["local"][0]["bl.W.grad"]))
    model = MultiExit([Devices(blocks), cloud], [Local(scores, nn.Sequential(Merge(local), more)), last])
    x = (torch.tensor(case["x"]).transpose(0, 1) + 1) * 127.5  # what `scaled` undoes
    return model, layers, x, torch.tensor(case["y"])


@pytest.mark.parametrize("number", [0, 1])
def test_outputs_loss_and_gradients_agree_with_the_released_code(golden, number):
    case = golden[number]
    model, layers, x, y = of_case(case)
    model.train()
    found = losses(model, x, y)
    expected = torch.tensor(case["train"])  # each device, local, cloud
    by_hand = [F.cross_entropy(z, y) for z in expected]
    assert found.tolist() == pytest.approx([float(by_hand[i]) for i in (2, 3, 0, 1)], abs=2e-3)
    assert float(found.sum()) == pytest.approx(case["loss"], abs=3e-3)
    found.sum().backward()
    for layer, gradient in layers:
        assert torch.allclose(layer.weight.grad, torch.tensor(gradient), atol=1e-5)
    model.eval()
    h = model.stages[0](x)
    local, z = model.heads[0](h), model.heads[1](model.stages[1](h))
    theirs = torch.tensor(case["test"])
    assert torch.allclose(local["views"], theirs[:2].transpose(0, 1), atol=2e-3)
    assert torch.allclose(torch.stack([local["answer"], z]), theirs[2:], atol=2e-3)


@pytest.mark.parametrize("number", [0, 1])
def test_exits_and_what_is_sent_agree_with_the_released_code(golden, number):
    case = golden[number]
    z = torch.tensor(case["test"][2])
    assert uncertainty(z).tolist() == pytest.approx(case["eta"], abs=1e-4)
    for threshold, left in case["exits"].items():
        assert Entropy(float(threshold) * math.log(3)).step((), z)[1].tolist() == left
    model, _, x, _ = of_case(case)
    h = model.stages[0](x)
    assert [model.heads[0](h)["views"].shape[-1], h[0, 0].numel()] == case["communication"]


# What is claimed.


@pytest.mark.parametrize(
    ("sent", "loss", "holds"), [(102.4, 0.02, True), (102.5, 0.0, False), (50.0, 0.021, False)]
)  # fmt: skip
def test_a_tenth_of_the_bytes_at_little_loss(sent, loss, holds):
    found = claimed.spares(sent, 1024, 0.6, loss, 0.8)
    assert found.holds is holds
    assert "60.0% answered locally" in found.measured


@pytest.mark.parametrize(("one", "holds"), [([0.6, 0.65], True), ([0.66, 0.6], False), ([0.6, 0.7], False)])
def test_both_exits_must_gain_by_more_views(one, holds):
    assert claimed.complements([0.7, 0.72], one, 3).holds is holds


@pytest.mark.parametrize(
    ("failed", "holds"), [([0.69, 0.66], True), ([0.69, 0.63], False), ([0.66, 0.66, 0.66], False)]
)  # fmt: skip
def test_no_failure_may_cost_much(failed, holds):
    assert claimed.tolerates(0.7, failed).holds is holds


def test_a_blind_device_is_given_nothing_but_black(prepared):
    """What the claim measures is the network on views of which one is black, and the rest as they were."""
    method, bench, ready = prepared(KEY)
    found = claimed.broken(method, ready, bench, 0.0)
    seen = ready.split("test")
    x = torch.stack(list(seen.examples.inputs)).clone()
    x[:, 1] = 0
    with torch.inference_mode():
        z = ready.model.full(x)
    assert found[1] == pytest.approx(float((z.argmax(-1) == seen.targets).double().mean()), abs=0.005)
    assert len(found) == 3


def test_the_best_camera_is_the_one_whose_scores_are_best_on_validation_data(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("validation")
    each = [(seen.outputs["views"][0][:, i].argmax(-1) == seen.targets).double().mean().item() for i in range(3)]
    assert claimed.best_camera(ready) == max(range(3), key=each.__getitem__)


def test_test_data_choose_no_camera():
    """The second is better on validation data, the first on test data."""
    scores = torch.tensor([[[0.9, 0.1], [0.1, 0.9]]]).repeat(4, 1, 1)  # [N, D, C]: the first says 0, the second 1
    parts = {
        name: SimpleNamespace(outputs={"views": scores[None]}, targets=torch.full((4,), target))
        for name, target in (("validation", 1), ("test", 0))
    }
    assert claimed.best_camera(SimpleNamespace(split=parts.__getitem__)) == 1
