"""What only Transkimmer promises: who left does not come back or count, removal is masking, and gates learn."""

import json
import math
from pathlib import Path

import pytest
import torch
from torch import nn

from eelit.methods.backbones.token_layer import LayerPrice, alike
from eelit.methods.claims import guan2022transkimmer as claimed
from eelit.methods.engine.costs import count
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.families.skimming import Prices, after_each, decided
from eelit.methods.harness import registry
from eelit.methods.papers.guan2022transkimmer import SkimmingEncoder, SkimPredictor, sampled, skim_loss
from eelit.methods.policies.token_gate import TokenGate
from eelit.methods.recipes.joint import exit_losses

KEY = "guan2022transkimmer"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
KEEP_ALL, RULE = decided(TokenGate(-math.inf)), decided(TokenGate(0.0))


def wave(shape, j, scale):
    """Return numbers by formula, so that the released network could be given the same."""
    n = torch.arange(math.prod(shape), dtype=torch.float64)
    return (torch.sin(n**1.5 * (1.3 + 0.17 * j) + j).reshape(shape) * scale).float()


class Given(nn.Module):
    """Stands in for the embeddings and returns fixed states."""

    def __init__(self, states):
        super().__init__()
        self.states = states

    def forward(self, input_ids):
        return self.states[: len(input_ids)].clone()


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture
def filled():
    """The tiny encoder with the weights, states and biases that the released network had for the golden numbers."""
    model = SkimmingEncoder("tiny", 2, SkimPredictor, seed=0)
    j = 0
    for layer, predictor in zip(model.layers, model.predictors, strict=True):
        after, out = layer.after_attention, layer.output
        modules = [layer.query, layer.key, layer.value, after.dense, after.LayerNorm]
        modules += [layer.intermediate.dense, out.dense, out.LayerNorm, *(m for m in predictor if list(m.parameters()))]
        for module in modules:
            for kind, p in (("weight", module.weight), ("bias", module.bias)):
                one = 1.0 if kind == "weight" and p.dim() == 1 else 0.0
                scale = 0.2 if p.dim() == 1 else (6 if len(p) == 2 else 2) / p.shape[1] ** 0.5
                p.data.copy_(one + wave(p.shape, j, scale))
                j += 1
    for predictor, bias in zip(model.predictors, (4, 4, 2, 2), strict=True):
        predictor[-1].bias.data.copy_(torch.tensor([0.0, bias]))
    model.embeddings = Given(wave((3, 9, 32), 5, 1.0))
    return model.eval()


@pytest.fixture
def leaving(filled):
    """The same network, and what it says with tokens really removed; tokens leave before every layer."""
    x = torch.zeros(3, 9, dtype=torch.int64)
    found = filled.infer(x, RULE)
    assert set(found.layers[:, 1:].flatten().tolist()) == {0, 1, 2, 3, 4}
    return filled, x, found


def test_masks_states_and_loss_are_those_of_the_released_network_once_it_normalises(filled, golden):
    seen = {}
    filled.head.register_forward_hook(lambda module, args, out: seen.update(left=args[0]))
    with torch.no_grad():
        _, masks = filled(torch.zeros(3, 9, dtype=torch.int64), RULE)
        logits = filled.predictors[0](filled.embeddings(torch.zeros(3, 9))[:, 1:])
    case = golden["normalised"]
    assert masks.int().tolist() == case["masks"]
    assert torch.allclose(seen["left"][..., :3], torch.tensor(case["output"]), atol=1e-4)
    assert float(skim_loss(masks)) == pytest.approx(case["skim_loss"], abs=1e-6)
    assert torch.allclose(logits, torch.tensor(case["first_logits"]), atol=1e-4)
    assert golden["released"]["masks"][0] == case["masks"][0]


def test_trap_masking_after_the_softmax_is_not_removing(leaving, golden):
    _, _, found = leaving
    removed = [[[int(n > i) for n in text] for text in found.layers.tolist()] for i in range(4)]
    assert removed == golden["normalised"]["masks"]
    assert removed != golden["released"]["masks"]


def test_all_kept_is_the_plain_network_at_skim_loss_one(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    with torch.no_grad():
        logits, masks = ready.model(x, KEEP_ALL)
        plain = ready.model.plain(x)
    assert torch.allclose(logits, plain, atol=1e-5)
    assert torch.allclose(ready.model.infer(x, KEEP_ALL).logits, plain, atol=1e-5)
    assert float(skim_loss(masks)) == 1.0
    target = ready.data.test.targets[:16]
    loss = exit_losses(logits[None], target)[0] + 0.5 * skim_loss(masks)
    assert float(loss) == pytest.approx(float(exit_losses(plain[None], target)[0]) + 0.5, abs=1e-5)


def test_plain_network_is_that_of_transformers():
    from eelit.methods.backbones.encoder import encoder, stages_of

    model = SkimmingEncoder("tiny", 2, SkimPredictor, seed=3)
    torch.manual_seed(3)
    state = x = torch.arange(20).reshape(2, 10)
    for stage in stages_of(encoder("tiny").eval()):
        state = stage(state)
    assert torch.allclose(model.head(state), model.plain(x), atol=1e-6)


def test_nobody_comes_back_and_the_first_token_always_stays(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    for margin in (math.inf, 4.0, 0.0, -4.0):
        _, masks = ready.model(x, decided(TokenGate(margin)))
        assert (masks[1:] <= masks[:-1]).all()
        assert (masks[:, :, 0] == 1).all()
    everyone_else = ready.model(x, decided(TokenGate(math.inf)))[1][:, :, 1:]
    assert (everyone_else == 0).all()


def test_who_leaves_ends_with_exactly_the_state_before_that_layer(filled):
    x, seen = torch.zeros(3, 9, dtype=torch.int64), {}
    before = []
    filled.head.register_forward_hook(lambda module, args, out: seen.update(left=args[0]))
    for layer in filled.layers:
        layer.register_forward_pre_hook(lambda module, args: before.append(args[0]))
    with torch.no_grad():
        _, masks = filled(x, RULE)
    layers = masks.sum(dim=0).long()
    for text, token in (layers < 4).nonzero().tolist():
        assert torch.equal(seen["left"][text, token], before[layers[text, token]][text, token])


def test_removing_gives_the_kept_tokens_the_states_that_masking_gives(leaving):
    model, x, found = leaving
    seen = []
    model.head.register_forward_hook(lambda module, args, out: seen.append(args[0]))
    with torch.no_grad():
        logits, masks = model(x, RULE)
    again = model.infer(x, RULE)
    assert torch.equal(masks.sum(dim=0).long(), found.layers)
    assert torch.allclose(seen[0], seen[1], atol=1e-5)
    assert torch.allclose(again.logits, logits, atol=1e-5)


def test_no_batch_mate_matters(leaving):
    model, _, found = leaving
    states = model.embeddings.states
    for i in range(3):
        model.embeddings = Given(states[i : i + 1])
        alone = model.infer(torch.zeros(1, 9, dtype=torch.int64), RULE)
        assert torch.equal(alone.layers[0], found.layers[i])
        assert torch.allclose(alone.logits[0], found.logits[i], atol=1e-5)


def test_macs_are_those_of_the_tokens_left(leaving):
    model, x, found = leaving
    counted = count(lambda: model.infer(x, RULE))
    assert counted == sum(Prices.of(model).of_layers(layers) for layers in found.layers)
    assert counted < count(lambda: model.plain(x))


def test_macs_by_hand():
    model = SkimmingEncoder("tiny", 2, SkimPredictor, seed=0)  # 32 wide, 64 inside, 4 layers
    prices = Prices.of(model)
    assert prices.layer == LayerPrice(asking=2 * 32 * 32 + 2 * 32 * 64, asked=2 * 32 * 32, pair=2 * 32)
    assert prices.predictor == 32 * 32 + 32 * 2
    assert prices.head == 32 * 32 + 32 * 2
    layer = {k: k * 4 * 32 * 32 + k * 2 * 32 * 64 + k * k * 2 * 32 for k in (1, 2, 3)}
    # three tokens: one leaves before layer 1, one before layer 3; the predictors are asked 2, 1, 1 and 0 times
    by_hand = 2 * layer[2] + 2 * layer[1] + (2 + 1 + 1 + 0) * prices.predictor + prices.head
    assert prices.of_layers(torch.tensor([4, 2, 0])) == by_hand
    assert prices.full(3) == 4 * layer[3] + prices.head


def test_the_likelier_of_the_two_decides_and_a_tie_leaves():
    logits = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [-3.0, -2.9]])
    assert TokenGate().step((), logits)[1].tolist() == [False, True, True, False]
    assert TokenGate().step((), logits)[1].tolist() == (logits.argmax(dim=1) == 0).tolist()
    assert TokenGate(1.0).step((), logits)[1].tolist() == [True, True, True, True]
    assert TokenGate(-1.0).step((), logits)[1].tolist() == [False, True, False, False]
    assert TokenGate(math.inf).step((), logits.numpy())[1].all()
    assert not TokenGate(-math.inf).step((), logits.numpy())[1].any()


def test_gradients_reach_the_predictors_through_task_and_through_price(prepared):
    method, _, ready = prepared(KEY)
    model = method.replace({"bias": 0.0}).build(ready.data, seed=1)
    x, targets = torch.stack(list(ready.data.train.inputs[:16])), ready.data.train.targets[:16]
    torch.manual_seed(0)
    outputs, masks = model(x, sampled)
    for loss in (exit_losses(outputs[None], targets)[0], skim_loss(masks)):
        model.zero_grad()
        loss.backward(retain_graph=True)
        assert all(float(predictor[-1].weight.grad.abs().sum()) > 0 for predictor in model.predictors)


def test_drawn_masks_are_zero_or_one_and_the_price_pulls_towards_skipping():
    torch.manual_seed(0)
    logits = torch.zeros(4000, 2, requires_grad=True)
    drawn = sampled(logits)
    assert set(drawn.tolist()) == {0.0, 1.0}
    assert float(drawn.detach().mean()) == pytest.approx(0.5, abs=0.03)
    drawn.mean().backward()
    assert float(logits.grad[:, 1].sum()) > 0  # descent lowers the logit for keeping
    assert float(sampled(torch.tensor([-1.0, 1.0]).expand(4000, 2)).mean()) == pytest.approx(0.881, abs=0.02)


@torch.no_grad()
def test_at_the_start_nearly_all_is_kept():
    torch.manual_seed(0)
    logits = SkimPredictor(32)(torch.randn(500, 32))
    keep = torch.sigmoid(logits[:, 1] - logits[:, 0])
    assert float(keep.min()) > 0.999
    zero = SkimPredictor(32)
    zero[-1].weight.data.zero_()
    logits = zero(torch.randn(1, 32))[0]
    assert float(torch.sigmoid(logits[1] - logits[0])) == pytest.approx(1 / (1 + math.exp(-10)))


def test_nothing_is_drawn_at_inference(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        found.append(ready.model.infer(x, RULE))
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(found[0].logits, found[1].logits)
    assert torch.equal(found[0].layers, found[1].layers)


@pytest.mark.parametrize(("variant", "price"), [("lambda 0.5", 0.05), ("lambda 0.1", 0.01)])
def test_training_minimises_task_and_price_of_tokens_drawn(one_stage, variant, price):
    """L = L_task + lambda / L sum_l mean_j m^l_j, with noise -log(-log u) of each token's two logits drawn anew."""
    method = registry.get(KEY).variant(variant, "tiny")
    assert method.price == price
    model, stage = one_stage(method.replace({"bias": 0.0}))
    index = torch.arange(16)
    x, masks = torch.stack([stage.train.inputs[i] for i in index]), []
    batch = stage.batch_of(index, x)

    def drawn(logits):
        noise = -torch.empty_like(logits).exponential_().log()
        stay = ((logits + noise)[:, 1] > (logits + noise)[:, 0]).float()
        before = masks[-1][:, 1:] if masks else torch.ones(16, x.shape[1] - 1)
        masks.append(torch.cat([torch.ones(16, 1), before * stay.view(16, -1)], dim=1))
        return stay

    losses = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        masks.clear()
        with torch.no_grad():
            answers, _ = model(x, drawn)
        task = -answers.log_softmax(dim=1)[index, batch.targets].mean()
        kept = sum(float(mask.sum()) for mask in masks) / (len(model.layers) * x.numel())
        assert 0.1 < kept < 0.9
        torch.manual_seed(seed)
        losses.append(stage.loss(batch).item())
        assert losses[-1] == pytest.approx(task.item() + price * kept, rel=1e-5)
    assert losses[0] == losses[2] != losses[1]


def test_everything_learns_together_heads_and_predictors_faster(one_stage):
    """With dropout, which is off again when the network is used."""
    method = registry.get(KEY).variant("lambda 0.5", "tiny")
    model, stage = one_stage(method)
    known = method.load().train
    assert torch.equal(stage.train.targets, known.targets)
    assert all(map(torch.equal, stage.train.inputs, known.inputs))
    assert (len(stage.train), stage.batch, stage.epochs) == (900, 32, 4.0)
    new = {id(p) for part in (model.head, model.predictors) for p in part.parameters()}
    assert stage.rates == {id(p): 5e-3 if id(p) in new else 2e-3 for p in model.parameters()}
    assert isinstance(stage.optimiser, torch.optim.AdamW)
    assert [predictor[-1].bias.tolist() for predictor in model.predictors] == [[-5.0, 5.0]] * 4
    assert not model.training


def test_at_most_so_many_texts_are_held_out_for_validation_and_for_test():
    """The first of each; what is learned from stays whole."""
    method = registry.get(KEY).variant("lambda 0.5", "tiny")
    everything, few = (method.replace({"held": held}).load() for held in (2000, 20))
    assert (len(everything.train), len(everything.validation), len(everything.test)) == (900, 300, 400)
    for part, size in (("train", 900), ("validation", 20), ("test", 20)):
        kept, all_of_it = getattr(few, part), getattr(everything, part)
        assert len(kept) == size
        assert torch.equal(kept.targets, all_of_it.targets[:size])
        assert all(map(torch.equal, kept.inputs, all_of_it.inputs[:size]))


def test_what_chooses_and_trains_sees_no_test_data(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    ready.seen("test", 0.0)
    for ask in (lambda split: ready.for_choosing.seen(split, 0.0), ready.for_choosing.depths):
        ask("validation")
        with pytest.raises(TestDataAsked):
            ask("test")
    monkeypatch.setattr(type(method), "train", lambda self, model, data, bench: data.test.targets)
    with pytest.raises(TestDataAsked):
        method.prepare(Bench())
    monkeypatch.undo()
    monkeypatch.setattr(
        type(method), "policy", lambda self, knob, prepared: prepared.examples("test") and TokenGate(knob)
    )
    for use in (lambda: method.sweep(ready, bench, "validation", [0.5]), lambda: method.execute(ready, bench, 0.0)):
        with pytest.raises(TestDataAsked):
            use()


def test_samples_are_grouped_by_how_many_rows_they_have():
    groups = {tuple(samples.tolist()): rows.tolist() for samples, rows in alike([2, 0, 1, 2])}
    assert groups == {(2,): [[2]], (0, 3): [[0, 1], [3, 4]]}


def test_lots_keep_as_many_as_told(leaving):
    model, x, found = leaving
    layers = found.layers[:, 1:].flip(1)
    again = model.infer(x, claimed.given(layers.flatten()))
    assert torch.equal(again.layers[:, 1:], layers)


def test_one_network_gets_cheaper_with_the_margin(prepared):
    method, bench, ready = prepared(KEY)
    points = method.sweep(ready, bench, "test", method.knobs)
    rule = points[method.knobs.index(0.0)]
    assert 0 < rule.exits[-1] < 1
    assert points[0].speed_up > rule.speed_up > 1


def test_simpler_rules_let_all_tokens_leave_together(prepared):
    """Cut after the last layer it is the plain network; asked all the way down it costs a head per layer more."""
    method, bench, ready = prepared(KEY)
    static, sure = method.baselines(ready, bench)
    quality, cost = method.full_model(ready, bench)
    assert (static.test[-1].quality, static.test[-1].cost) == (pytest.approx(quality), pytest.approx(cost))
    layers, head = len(static.test), ready.prices.head
    assert sure.test[0].exits == [1.0] + [0.0] * (layers - 1)
    assert sure.test[-1].cost == pytest.approx(cost + (layers - 1) * head)
    x = ready.data.test.inputs[0][None]
    assert count(lambda: after_each(ready.model, x)) == ready.prices.cut(x.shape[1], layers, heads=layers)
    facts, _ = method.each_exit(ready, bench)
    assert [fact.quality for fact in facts] == [point.quality for point in static.test]
    assert all(fact.calibration_error is not None for fact in facts)


def test_claims_can_be_tried(prepared):
    from eelit.methods.harness import runner

    method, bench, ready = prepared(KEY)
    curve = runner.measure(method, ready, bench, "", [0.0])
    found = claimed.claims(method, ready, bench, curve)
    assert [outcome.name for outcome in found] == ["faster at less than one point", "the predictors know whom to skim"]


def test_timing_tells_what_was_saved(prepared):
    method, bench, ready = prepared(KEY)
    knob = method.knobs[0]
    (point,) = method.sweep(ready, bench, "test", [knob])
    for batch in (1, 32):
        timing = method.time(ready, bench, knob, batch)
        assert timing.saved == pytest.approx(1 - 1 / point.speed_up, abs=0.02)
        assert timing.seconds > 0
