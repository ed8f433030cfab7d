"""What only SkipNet promises: routing as released, straight-through gates, the reward to go, and real skipping."""

import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import tiny
from torch.nn import functional as F

from eelit.methods.claims import wang2018skipnet as claimed
from eelit.methods.engine.costs import MacCounter, count
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.families import gates as family
from eelit.methods.families.gates import Prices, Routed
from eelit.methods.papers.wang2018skipnet import (
    GatedResNet,
    constant_gates,
    hybrid_loss,
    reward_to_go,
    sampled,
    straight_through,
)

KEY = "wang2018skipnet"
PATH = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"


def fill(model):
    """Give every weight a value by formula, so that the released network could be given the same."""
    for j, (name, tensor) in enumerate(model.state_dict().items()):
        wave = torch.sin(torch.arange(tensor.numel(), dtype=torch.float64) * (1.3 + 0.17 * j) + j).reshape(tensor.shape)
        if name.endswith("num_batches_tracked"):
            continue
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.5 * wave.abs())
        elif tensor.dim() == 1:
            tensor.copy_(0.2 * wave + (1 if name.endswith("weight") else 0))
        else:
            tensor.copy_(wave * (10 if "gate" in name else 2) / tensor[0].numel() ** 0.5)
    model.gate.proj.bias.data.sub_(1)  # so that pictures differ in their gates


def pictures():
    """Return six pictures ``[6, 3, 32, 32]`` of different grain and strength, by formula."""
    n = torch.arange(3 * 32 * 32, dtype=torch.float64).reshape(1, 3, 32, 32)
    which = torch.arange(6, dtype=torch.float64)[:, None, None, None]
    return (torch.sin(n * (0.013 + 0.31 * which) + which) * (3 - 0.45 * which)).float()


@pytest.fixture(scope="module")
def golden():
    return json.loads(PATH.read_text())


@pytest.fixture(scope="module")
def filled():
    model = GatedResNet((16, 32, 64), 2, 10, channels=3)
    fill(model)
    return model.eval()


@pytest.mark.parametrize("released", ["sp", "rl"])
def test_routing_is_that_of_the_released_networks(filled, golden, released):
    with torch.inference_mode():
        ours = filled(pictures())
    assert ours.gates.tolist() == golden[released]["gates"]
    assert 0 < ours.gates.mean() < 1
    assert torch.allclose(ours.p, torch.tensor(golden[released]["p"]), atol=1e-4)
    assert torch.allclose(ours.logits, torch.tensor(golden[released]["logits"]), atol=1e-4)


def test_reward_to_go_is_that_of_the_released_loop(golden):
    case = golden["reward"]
    ours = reward_to_go(torch.tensor(case["loss"]), torch.tensor(case["gates"]).float(), case["alpha"])
    assert torch.allclose(ours, torch.tensor(case["reward_to_go"]), atol=1e-5)


def test_straight_through_has_the_gradient_of_the_released_gate(filled, golden):
    gate, case = filled.gate, golden["straight_through"]
    hidden, _ = gate.control(torch.sin(torch.arange(60.0).reshape(6, 10)), None)
    p = torch.sigmoid(gate.proj(hidden)[:, 0])
    opened = straight_through(p)
    assert opened.tolist() == pytest.approx(case["gates"])
    assert p.tolist() == pytest.approx(case["p"], abs=1e-4)
    (gradient,) = torch.autograd.grad((opened * torch.arange(1.0, 7)).sum(), gate.proj.bias)
    assert float(gradient) == pytest.approx(case["bias_gradient"], abs=1e-4)


def test_straight_through_is_0_or_1_forward_and_has_gradient_1():
    p = torch.tensor([0.0, 0.2, 0.5, 0.500001, 0.9, 1.0], requires_grad=True)
    opened = straight_through(p)
    assert opened.tolist() == [0, 0, 0, 1, 1, 1]
    opened.sum().backward()
    assert p.grad.tolist() == [1.0] * 6


def test_gates_are_drawn_with_their_probabilities_and_pass_no_gradient():
    p = torch.tensor([0.0, 0.3, 0.8, 1.0], requires_grad=True)
    torch.manual_seed(0)
    drawn = torch.stack([sampled(p) for _ in range(2000)])
    assert set(drawn.flatten().tolist()) == {0.0, 1.0}
    assert drawn.mean(dim=0).tolist() == pytest.approx(p.tolist(), abs=0.03)
    assert not drawn.requires_grad


def test_the_gates_remember_the_blocks_before():
    """One LSTM steps through all blocks: the second gate depends on what the first one saw, and on its own map."""
    gate = GatedResNet((4,), 3, 10).gate
    torch.manual_seed(0)
    first, other, second = torch.randn(3, 5, 4, 6, 6)
    p, state = gate(0, first, None)
    assert p.shape == (5,)
    again, _ = gate(1, second, state)
    h, c = gate.control(gate.embed[0](first.flatten(2).mean(dim=2)))
    h, _ = gate.control(gate.embed[1](second.flatten(2).mean(dim=2)), (h, c))
    assert torch.allclose(again, 1 / (1 + torch.exp(-(h @ gate.proj.weight[0] + gate.proj.bias))), atol=1e-6)
    changed, _ = gate(1, second, gate(0, other, None)[1])
    assert (again - changed).abs().max() > 1e-4


def test_reward_to_go_worked_case():
    found = reward_to_go(torch.tensor([2.0]), torch.tensor([[1.0], [0.0], [0.0]]), 0.3)
    assert found[:, 0].tolist() == pytest.approx([-2 + 0.2, -2 + 0.2, -2 + 0.1])


def test_hybrid_gradient_worked_case():
    p = torch.tensor([[0.8], [0.6], [0.3]], requires_grad=True)
    gates, logits = torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[0.0, 0.0]], requires_grad=True)
    loss = hybrid_loss(logits, torch.tensor([1]), p, gates, alpha=0.3, beta=0.5)
    loss.backward()
    r = [-0.6931472 + 0.2, -0.6931472 + 0.2, -0.6931472 + 0.1]
    assert p.grad[:, 0].tolist() == pytest.approx([-0.5 * r[0] / 0.8, 0.5 * r[1] / 0.4, 0.5 * r[2] / 0.7])
    assert logits.grad[0].tolist() == pytest.approx([0.5, -0.5])  # of the cross-entropy alone


def test_with_alpha_0_and_sure_gates_the_hybrid_gradient_is_the_supervised_one(filled):
    x, targets = pictures(), torch.tensor([0, 3, 1, 4, 9, 2])
    sure = torch.full_like(filled.gate.proj.bias, 200.0)  # the sigmoid is exactly 1, its slope exactly 0
    names, weights = zip(*filled.named_parameters(), strict=True)
    swapped = {name: weight for name, weight in zip(names, weights, strict=True) if name != "gate.proj.bias"}

    def gradients(loss_of):
        out = torch.func.functional_call(filled, {**swapped, "gate.proj.bias": sure}, (x, sampled))
        return torch.autograd.grad(loss_of(out), list(swapped.values()), allow_unused=True)

    hybrid = gradients(lambda out: hybrid_loss(out.logits, targets, out.p, out.gates, alpha=0.0, beta=0.01))
    supervised = gradients(lambda out: F.cross_entropy(out.logits, targets))
    for ours, theirs in zip(hybrid, supervised, strict=True):
        zero = torch.zeros(())
        assert torch.allclose(zero if ours is None else ours, zero if theirs is None else theirs, atol=1e-7)


def test_all_gates_open_is_the_plain_network_and_all_closed_is_the_shortcuts_alone(filled):
    x = pictures()
    with torch.inference_mode():
        for way in (filled, filled.infer):
            assert torch.allclose(way(x, torch.ones_like).logits, filled.plain(x), atol=1e-5)
        inside = filled.enter(x)
        for _, block in filled.gated():
            inside = block.shortcut(inside)
        for way in (filled, filled.infer):
            assert torch.allclose(way(x, torch.zeros_like).logits, filled.answer(inside), atol=1e-5)


def test_batch_mates_do_not_matter_and_the_answer_is_deterministic(filled):
    x = pictures()
    with torch.inference_mode():
        together, again = filled.infer(x), filled.infer(x)
        alone = [filled.infer(one[None]) for one in x]
    assert torch.equal(together.logits, again.logits)
    assert torch.equal(together.gates, torch.cat([one.gates for one in alone], dim=1))
    assert torch.allclose(together.logits, torch.cat([one.logits for one in alone]), atol=1e-5)


def test_skipped_blocks_are_not_computed(filled):
    x, prices = pictures(), Prices.of(filled, pictures()[:1])
    seen = []
    hooks = [
        block.body.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0]))) for block in filled.blocks
    ]
    with torch.inference_mode(), MacCounter() as counter:
        gates = filled.infer(x).gates
    for hook in hooks:
        hook.remove()
    assert seen == [int(n) for n in gates.sum(dim=1) if n]
    assert counter.macs == float(prices.of_gates(gates).sum())


def test_price_of_a_gate_by_hand():
    prices = Prices.of(GatedResNet((8, 8, 16), 2, 10).eval(), torch.zeros(1, 1, 8, 8))
    inputs = [8, 8, 8, 8, 16]  # channels that the gates of the five blocks read
    assert prices.gates == sum(width * 10 + 40 * (10 + 10) + 10 for width in inputs)
    assert prices.blocks.tolist()[0] == 2 * 64 * 8 * 8 * 9
    assert prices.count == 5


def test_price_of_the_full_model_is_that_of_all_blocks_without_gates(filled):
    x = pictures()[:1]
    prices = Prices.of(filled, x)
    assert prices.full == count(lambda: filled.plain(x))
    assert prices.of_gates(torch.ones(5, 1)).item() == prices.full + prices.gates
    closed = count(lambda: filled.infer(x, torch.zeros_like))
    assert prices.of_gates(torch.zeros(5, 1)).item() == prices.always + prices.gates == closed


def test_an_operating_point_by_hand():
    """Three samples that run none, both and the second of two blocks; two of them are right."""
    method, prices = tiny(KEY)[0], Prices(always=100, gates=10, blocks=torch.tensor([20.0, 40.0]).double())
    gates = torch.tensor([[0.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    logits = torch.tensor([[2.0, 1.0], [0.0, 3.0], [0.0, 1.0]])
    point = method.point(prices, Routed(logits, gates, gates), torch.tensor([0, 1, 0]), 2.5)
    assert point.cost == pytest.approx((110 + 170 + 150) / 3)
    assert point.speed_up == pytest.approx(160 / point.cost)
    assert (point.knob, point.quality) == (2.5, pytest.approx(2 / 3))
    assert point.exits == pytest.approx([1 / 3, 1 / 3, 1 / 3])


@pytest.mark.parametrize("differs", ["nowhere", "gates", "answers"])
def test_an_execution_that_differs_from_the_replay_is_told(differs):
    method, bench, prepared = tiny(KEY)
    seen = prepared.seen("test", 2.5)
    if differs == "gates":
        seen = seen._replace(gates=torch.cat([1 - seen.gates[:, :1], seen.gates[:, 1:]], dim=1))
    elif differs == "answers":
        seen = seen._replace(logits=torch.cat([seen.logits[:1] + 1, seen.logits[1:]]))
    other = replace(prepared, _seen={("test", 2.5): seen})
    done = method.execute(other, replace(bench, executed=100), 2.5)  # two batches, of which the first differs
    assert done.agrees == (differs == "nowhere")
    assert done.samples == 100
    assert done.claimed == float(prepared.prices.of_gates(seen.gates[:, :100]).sum())
    assert (done.counted == done.claimed) == (differs != "gates")


def test_what_is_timed_is_real_skipping_beside_the_plain_network(monkeypatch):
    method, bench, prepared = tiny(KEY)
    told = []

    def in_turn(ours, plain, batches, repeats, devices):
        told.append((ours, plain, torch.cat(list(batches)), repeats))
        return 1.0, 2.0

    monkeypatch.setattr(family, "in_turn", in_turn)
    done = method.execute(prepared, bench, math.inf)
    ((ours, plain, x, repeats),) = told
    assert (done.seconds, done.full_seconds, repeats) == (1.0, 2.0, bench.repeats)
    examples = prepared.examples("test")
    assert torch.equal(x, torch.stack(examples.inputs[:48]))
    skipping, full = prepared.network(math.inf).model, prepared.network(-math.inf).model
    assert count(lambda: ours(x)) == count(lambda: skipping.infer(x, torch.zeros_like)) < count(lambda: plain(x))
    with torch.inference_mode():
        assert torch.equal(ours(x).logits, skipping.infer(x, torch.zeros_like).logits)
        assert torch.equal(plain(x), full.plain(x))
        right = full.plain(torch.stack(examples.inputs)).argmax(dim=1) == examples.targets
    assert method.full_model(prepared, bench) == (pytest.approx(right.double().mean().item()), prepared.prices.full)


def test_untrained_network_has_the_released_start_and_open_gates(prepared):
    """Convolutions: normal with variance 2 / (k² · outputs); all gates open; the seed decides."""
    method, _, ready = prepared(KEY)
    wide = GatedResNet((32, 64), 2, 10)
    for k in (1, 3):
        of_size = [
            layer for layer in wide.modules() if isinstance(layer, torch.nn.Conv2d) and layer.kernel_size[0] == k
        ]
        widest = max(of_size, key=lambda layer: layer.weight.numel())
        assert widest.weight.std().item() == pytest.approx((2 / (k * k * widest.out_channels)) ** 0.5, rel=0.05)
    assert wide.gate.proj.bias.tolist() == [1.0]
    assert (wide.gate.control.input_size, wide.gate.control.hidden_size) == (10, 10)
    other_sizes = GatedResNet((8, 16), 1, 10, embed=3, hidden=5).eval()
    assert (other_sizes.gate.control.input_size, other_sizes.gate.control.hidden_size) == (3, 5)
    first, again, other = (method.build(ready.data, seed).stem[0].weight for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("stride", [1, 2])
def test_maps_are_halved_by_the_stem_as_asked_and_between_groups(stride):
    model, x = GatedResNet((8, 16, 32), 3, 10, stride=stride).eval(), torch.zeros(1, 1, 16, 16)
    side, inside = 16 // stride, model.enter(x)
    assert inside.shape == (1, 8, side, side)
    sizes = []
    for _, block in model.gated():
        inside = block(inside, block.shortcut(inside))
        sizes.append((inside.shape[1], inside.shape[2]))
    assert sizes == [(8, side)] * 2 + [(16, side // 2)] * 3 + [(32, side // 4)] * 3
    plain_shortcuts = [isinstance(block.shortcut, torch.nn.Identity) for _, block in model.gated()]
    assert plain_shortcuts == [True, True, False, True, True, False, True, True]


def test_limits_of_alpha_open_and_close_all_gates():
    p = torch.tensor([0.2, 0.9])
    assert constant_gates(float("inf"))(p).tolist() == [0, 0]
    assert constant_gates(float("-inf"))(p).tolist() == [1, 1]
    assert constant_gates(2.0) is None


def test_a_larger_alpha_does_not_run_more_blocks():
    method, bench, prepared = tiny(KEY)
    points = method.sweep(prepared, bench, "test", (8.0, 4.0, 2.0))
    shares = [sum(n * share for n, share in enumerate(p.exits)) / prepared.prices.count for p in points]
    assert all(len(p.exits) == 6 and sum(p.exits) == pytest.approx(1) for p in points)  # 0 … 5 blocks run
    assert shares == sorted(shares)
    assert shares[0] < shares[-1]


# How it is wired.


def begun(train, model):
    """Return the stage that a training begins, whether the network is in training mode then, and the batch to try."""
    found = []
    bench = Bench(most_steps=0, watch=lambda stage: found.append((stage, model.training)) if stage else None)
    train(model, bench)
    ((stage, training),) = found
    assert training
    assert not model.training
    x, y = torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([1, 0, 9, 4])
    return stage, replace(stage.batch_of(torch.arange(4), x), targets=y)


@pytest.fixture
def network():
    """Return the tiny network with gates of which some are open and some closed, and the method with its data."""
    method, _, prepared = tiny(KEY)
    model = method.build(prepared.data, 0)
    fill(model)
    return method, prepared.data, model.eval()


def cross_entropy(logits, targets):
    log_p = torch.log_softmax(logits, dim=-1)
    return torch.stack([-log_p[i, c] for i, c in enumerate(targets.tolist())])


def test_a_training_of_each_stage_and_alpha(stages):
    method, _, prepared = tiny(KEY)
    found = stages(method)
    assert [stage.label for stage in found] == [
        "supervised training with hard gates",
        *(f"hybrid training, alpha {alpha}" for alpha in ("inf", "4", "2.5", "2", "-inf")),
    ]
    assert [stage.epochs for stage in found] == [5.0, *[3.0] * 5]
    assert all(stage.batch == 32 for stage in found)
    assert all(stage.train.targets.tolist() == prepared.data.train.targets.tolist() for stage in found)
    assert all(isinstance(stage.optimiser, torch.optim.AdamW) for stage in found)


def test_supervised_stage_is_cross_entropy_with_hard_gates_and_straight_through_gradients(network):
    method, data, model = network
    stage, batch = begun(lambda model, bench: method.train(model, data, bench), model)
    assert stage.rates == {id(p): method.rate for p in model.parameters()}
    loss = stage.loss(batch)
    with torch.no_grad():
        out = model(batch.inputs)  # gates 1[p > 0.5]
    assert 0 < out.gates.mean() < 1
    assert loss.item() == pytest.approx(cross_entropy(out.logits, batch.targets).mean().item(), rel=1e-5)
    loss.backward()
    gradient = model.gate.proj.bias.grad.clone()
    assert gradient.abs() > 1e-6  # what hard gates alone would not let through
    model.zero_grad()
    soft = model(batch.inputs, lambda p: p + ((p > 0.5).float() - p).detach())
    cross_entropy(soft.logits, batch.targets).mean().backward()
    assert torch.allclose(model.gate.proj.bias.grad, gradient, rtol=1e-4)


@pytest.mark.parametrize("alpha", [4.0, 2.5])
def test_hybrid_stage_is_cross_entropy_and_reinforce(network, alpha):
    """mean L - beta * sum_i log p(g_i) r_i, summed over the batch as well, for the gates that were drawn."""
    method, data, model = network
    stage, batch = begun(lambda model, bench: method.tuned(model, data, bench, alpha), model)
    gate = {id(p) for p in model.gate.parameters()}
    assert stage.rates == {id(p): 1.3e-2 if id(p) in gate else 2e-3 for p in model.parameters()}
    torch.manual_seed(5)
    loss = stage.loss(batch)
    torch.manual_seed(5)
    out = model(batch.inputs, torch.bernoulli)
    g, p, big_l = out.gates, out.p, cross_entropy(out.logits, batch.targets)
    assert 0 < g.mean() < 1
    by_hand = big_l.mean().item()
    for n in range(4):
        for i in range(len(g)):
            r = -big_l[n] + alpha / len(g) * sum(1 - g[j, n] for j in range(i, len(g)))
            by_hand -= method.beta * (torch.log(p[i, n] if g[i, n] else 1 - p[i, n]) * r).item()
    assert loss.item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize(("alpha", "opened"), [(math.inf, 0.0), (-math.inf, 1.0)])
def test_limits_of_the_hybrid_stage_are_cross_entropy_with_constant_gates(network, alpha, opened):
    method, data, model = network
    stage, batch = begun(lambda model, bench: method.tuned(model, data, bench, alpha), model)
    logits = model(batch.inputs, lambda p: torch.full_like(p, opened)).logits
    by_hand = cross_entropy(logits, batch.targets).mean().item()
    assert stage.loss(batch).item() == pytest.approx(by_hand, rel=1e-5)


def test_hybrid_training_starts_from_the_supervised_network_for_each_alpha(monkeypatch):
    method, _, prepared = tiny(KEY)
    starts, tuned = [], type(method).tuned

    def watched(self, model, *rest):
        starts.append({name: t.clone() for name, t in model.state_dict().items()})
        return tuned(self, model, *rest)

    monkeypatch.setattr(type(method), "tuned", watched)
    method.prepare(Bench(most_steps=2))
    assert len(starts) == 5
    assert all(torch.equal(t, starts[0][name]) for start in starts for name, t in start.items())
    untrained = method.build(prepared.data, 0).state_dict()
    assert any(not torch.equal(t, untrained[name]) for name, t in starts[0].items())


@pytest.mark.parametrize("step", ["build", "train", "tuned"])
def test_nothing_that_trains_or_chooses_gates_sees_test_data(step, monkeypatch):
    method, _, prepared = tiny(KEY)
    whole = getattr(type(method), step)

    def looking(self, *given):
        data = next(each for each in given if isinstance(each, type(prepared.data)))
        with pytest.raises(TestDataAsked):
            len(data.test)
        with pytest.raises(TestDataAsked):
            data.test.head(1)
        seen.append(step)
        return whole(self, *given)

    seen = []
    monkeypatch.setattr(type(method), step, looking)
    method.prepare(Bench(most_steps=0))
    assert seen


def test_both_parts_are_measured_up_to_the_limit():
    _, _, prepared = tiny(KEY)
    short = replace(prepared, bench=Bench(test=20))
    assert [len(short.examples(split)) for split in ("validation", "test")] == [20, 20]
    assert short.examples("validation").targets.tolist() == prepared.data.validation.targets[:20].tolist()


# What is claimed.


def ran(**blocks):
    """Return what is prepared where, of 8 blocks, so many ran on average under each alpha `a2`, `a3` …."""
    gates = {float(name[1:]): torch.full((8, 10), count / 8) for name, count in blocks.items()}
    return SimpleNamespace(
        seen=lambda _, alpha: SimpleNamespace(gates=gates[alpha]),
        prices=SimpleNamespace(count=8),
        network=lambda alpha: alpha,
        examples=lambda _: SimpleNamespace(inputs=[torch.zeros(1, 2, 2)], targets=torch.zeros(1, dtype=torch.long)),
    )


@pytest.mark.parametrize(
    ("blocks", "holds"),
    [((4, 5, 6), True), ((4, 4, 6), True), ((5, 4, 6), False), ((6, 6, 6), False), ((5.4, 6, 6), False)],
)
def test_alpha_must_govern_skipping_by_a_tenth(blocks, holds):
    prepared = ran(**dict(zip(("a4", "a3", "a2"), blocks, strict=True)))
    assert claimed.follows(prepared, [4.0, 3.0, 2.0]).holds is holds


@pytest.mark.parametrize(("more", "holds"), [(0.11, True), (0.09, False), (0.0, False), (-1.0, False)])
def test_noisy_pictures_must_run_a_tenth_of_a_block_more(monkeypatch, more, holds):
    monkeypatch.setattr(claimed, "routed", lambda *_: SimpleNamespace(gates=torch.full((8, 10), (4 + more) / 8)))
    assert claimed.noise(ran(a2=4), 2.0).holds is holds
