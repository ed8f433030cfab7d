"""FREE: exact parallel decoding, the released code's numbers, and a threshold that is estimated from text to text."""

import json
import math
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import beta as beta_law

from eelit.methods.backbones.decoder import small_decoder
from eelit.methods.backbones.decoding import generate
from eelit.methods.claims import bae2023free as claimed
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.records import Curve, OperatingPoint, Samples
from eelit.methods.families.speculative import PassCosts, weights_read
from eelit.methods.harness import registry
from eelit.methods.papers.bae2023free import (
    Threshold,
    Trace,
    beta_laws,
    decode,
    deep_pass,
    end_weights,
    follow,
    layer_loss,
    leaves_above,
    matched,
    moments,
    teachers,
    threshold_for,
)
from eelit.methods.papers.bae2023free import Waiting as Held
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.recipes.language import MuonAndAdam

KEY = "bae2023free"
GOLDEN = json.loads((Path(__file__).parent.parent / f"data/golden/{KEY}.json").read_text(encoding="utf-8"))
GRID = [float(x) for x in np.linspace(0.3, 0.9, 10)]
PROMPTS = torch.randint(0, 40, (6, 9), generator=torch.Generator().manual_seed(2))
LENGTH, SHALLOW = 7, 2


@cache
def model():
    """A random decoder with larger matrices: as they start out they hardly change the state."""
    found = small_decoder(vocabulary=40, layers=5, width=24, heads=4, inner=40, reach=64, seed=1)
    others = {id(p) for p in found.vectors()}
    for p in found.language_model.parameters():
        p.data *= 1 if id(p) in others else 12
    return found


def read(prompts=PROMPTS):
    with torch.inference_mode():
        return model().read(prompts[:, :-1], prompts.shape[1] - 1 + LENGTH)


def followed(*thresholds):
    rules = [leaves_above(threshold) for threshold in thresholds]
    return follow(model(), read(), PROMPTS[:, -1], LENGTH, SHALLOW, rules)


def decoded(row, threshold, shallow=SHALLOW):
    cache = read(PROMPTS[row : row + 1])
    return decode(model(), cache, PROMPTS[row, -1:], LENGTH, shallow, leaves_above(threshold)), cache


def middle():
    """A threshold at which some tokens leave, and some that have left wait for a deep pass."""
    (trace,) = followed(1.0)
    return float(trace.confidence.median())


# Synchronised parallel decoding


@pytest.mark.parametrize("row", range(len(PROMPTS)))
def test_parallel_decoding_writes_what_the_definition_says(row):
    for threshold, expected in zip((-1.0, middle(), 1.0), followed(-1.0, middle(), 1.0), strict=True):
        found, _ = decoded(row, threshold)
        assert found.tokens[0].equal(expected.tokens[row])
        assert found.exits[0].equal(expected.exits[row])
        for mine, theirs in zip(found.pairs(0), expected.pairs(row), strict=True):
            assert mine == pytest.approx(theirs, abs=1e-5)


def test_some_tokens_wait_and_are_taken_along():
    (trace,) = followed(middle())
    assert 0.2 < float(trace.exits.double().mean()) < 0.8
    assert any(len(trace.pairs(n)[0]) for n in range(len(PROMPTS)))


@torch.inference_mode()
def test_deep_caches_are_those_of_a_full_forward_after_each_deep_pass():
    threshold, checked = middle(), 0
    for row in range(len(PROMPTS)):
        found, cache = decoded(row, threshold)
        deep = found.exits[0].nonzero().flatten()
        if not len(deep):
            continue
        n = PROMPTS.shape[1] + int(deep[-1])  # tokens of the prompt, and those fed in up to the last deep pass
        text = torch.cat([PROMPTS[row : row + 1], found.tokens], dim=1)[:, :n]
        full = model().read(text, n)
        for i, (ours, theirs) in enumerate(zip(cache.layers, full.layers, strict=True)):
            for part in ("keys", "values"):
                mine, wanted = getattr(ours, part)[:, :, :n], getattr(theirs, part)
                assert torch.allclose(mine, wanted, atol=1e-4), f"layer {i}"
                checked += 1
    assert checked


@torch.inference_mode()
def test_shallow_caches_are_always_complete_and_deep_ones_are_not_written_ahead():
    found, cache = decoded(0, -1.0)
    n = PROMPTS.shape[1] - 1
    text = torch.cat([PROMPTS[:1], found.tokens], dim=1)[:, :-1]
    full = model().read(text, text.shape[1])
    for i in range(5):
        mine, wanted = cache.layers[i].keys[:, :, : text.shape[1]], full.layers[i].keys
        assert torch.allclose(mine[:, :, :n], wanted[:, :, :n], atol=1e-5)
        if i < SHALLOW:
            assert torch.allclose(mine, wanted, atol=1e-5)
        else:
            assert not mine[:, :, n:].any()


@torch.inference_mode()
def test_one_pass_over_several_tokens_says_what_one_pass_each_says():
    net, ids = model(), PROMPTS[:1]
    states = net.states(ids)[SHALLOW - 1]
    cache = net.read(ids[:, :4], 9)
    cache.advance(ids[:, 4:])  # the shallow part has gone ahead
    waiting = Held([ids[:, i : i + 1] for i in range(4, 9)], [states[:, i : i + 1] for i in range(4, 9)], [])
    together = deep_pass(net, cache, SHALLOW, waiting)
    assert cache.position == 9
    assert torch.allclose(together, net(ids)[-1, 0, 4:], atol=1e-4)


def test_ends_are_the_full_model_and_the_shallow_part_alone():
    never, always = followed(1.0, -1.0)
    full = generate(model(), read(), PROMPTS[:, -1], LENGTH, None)
    assert never.tokens.equal(full.tokens)
    assert (never.exits == 1).all()
    assert (always.exits == 0).all()
    text = torch.cat([PROMPTS, always.tokens], dim=1)
    with torch.inference_mode():
        shallow = model()(text)[SHALLOW - 1].argmax(dim=-1)
    assert always.tokens.equal(shallow[:, PROMPTS.shape[1] - 1 : -1])


def test_deep_layers_are_never_run_when_all_leave():
    calls = []
    layers = model().language_model.model.layers
    hooks = [layer.mlp.register_forward_hook(lambda *_, i=i: calls.append(i)) for i, layer in enumerate(layers)]
    for threshold in (-1.0, 1.0):
        cache = read(PROMPTS[:1])
        calls.clear()
        decode(model(), cache, PROMPTS[0, -1:], LENGTH, SHALLOW, leaves_above(threshold))
        run = [calls.count(i) for i in range(5)]
        assert run == [LENGTH] * SHALLOW + [LENGTH if threshold == 1.0 else 0] * 3
    for hook in hooks:
        hook.remove()


def test_weights_read_are_those_of_the_modules_once_a_pass():
    costs, net = PassCosts.of(model()), model().language_model
    of = [sum(p.numel() for p in layer.parameters()) for layer in net.model.layers]
    assert costs.layers.tolist() == of
    assert costs.head == net.lm_head.weight.numel() + net.model.norm.weight.numel()
    assert costs.full == sum(of) + costs.head
    cache, rule = read(PROMPTS[:1]), leaves_above(middle())
    with weights_read(model()) as counted:
        found = decode(model(), cache, PROMPTS[0, -1:], LENGTH, SHALLOW, rule)
    passes = int(found.exits.sum())
    assert 0 < passes < LENGTH
    assert counted.weights == LENGTH * (sum(of[:2]) + costs.head) + passes * (sum(of[2:]) + costs.head)


def test_equal_confidence_is_no_exit_and_what_is_not_finite_neither():
    assert not leaves_above(0.0).step((), torch.zeros(1, 4))[1][0]
    assert leaves_above(math.nextafter(0.0, -1)).step((), torch.zeros(1, 4))[1][0]
    assert not leaves_above(-1.0).step((), torch.full((1, 4), math.nan))[1][0]
    assert GOLDEN["confidence"]["not_finite_exits"]  # the released comparison lets it out


def test_a_broken_shallow_part_lets_nobody_out_and_yields_no_pair(monkeypatch):
    net = small_decoder(vocabulary=40, layers=3, width=24, heads=4, inner=40, reach=64, seed=1)
    head, broken = type(net).head, [True]

    def nothing(self, states):
        said = head(self, states)
        broken[0] = not broken[0]
        return said if broken[0] else torch.full_like(said, math.nan)  # the shallow part asks first

    monkeypatch.setattr(type(net), "head", nothing)
    with torch.inference_mode():
        cache = net.read(PROMPTS[:1, :-1], 12)
    (expected,) = follow(net, cache, PROMPTS[:1, -1], 3, 1, [leaves_above(-1.0)])
    found = decode(net, cache.copy(), PROMPTS[0, -1:], 3, 1, leaves_above(-1.0))
    for trace in (expected, found):
        assert trace.exits.tolist() == [[1, 1, 1]]
        assert trace.not_finite.all()
        assert trace.confidence.isnan().all()
    assert found.tokens.equal(expected.tokens)


# The released code's numbers


def test_confidence_and_decisions_are_the_released_ones():
    known = GOLDEN["confidence"]
    for row in (*known["rows"], known["equal"]):
        logits = torch.tensor([row["logits"]])
        rule = leaves_above(row.get("threshold", known["threshold"]))
        assert bool(rule.step((), logits)[1][0]) == row["exits"]
        first, second = logits.softmax(dim=-1)[0].sort(descending=True).values[:2].tolist()
        assert first - second == pytest.approx(row["confidence"], abs=1e-6)
    assert {row["exits"] for row in known["rows"]} == {True, False}


@pytest.mark.parametrize("known", GOLDEN["losses"], ids=lambda known: f"{known['layers']}-{known['shallow']}")
def test_losses_are_the_released_ones(known):
    layers, shallow = known["layers"], known["shallow"]
    hidden, head = torch.tensor(known["hidden"]), torch.tensor(known["head"])
    ends = (hidden @ head.T)[[shallow - 1, -1]].flatten(1, 2)
    both = weighted(exit_losses(ends, torch.tensor(known["labels"]).flatten()), end_weights(layers, shallow))
    assert both.item() == pytest.approx(known["shallowdeep_ce"], abs=1e-4)
    total = both + 0.5 * layer_loss(hidden, shallow)
    assert total.item() == pytest.approx(known["shallowdeep_kd_dyna"], abs=1e-4)


@pytest.mark.parametrize("known", GOLDEN["mixture"], ids=lambda known: f"{len(known['same'])}-{sum(known['same'])}")
def test_beta_laws_and_thresholds_are_the_released_ones(known):
    laws = beta_laws(np.array(known["confidence"]), np.array(known["same"], dtype=bool))
    assert [law[0] for law in laws] == pytest.approx(known["alphas"], rel=1e-4)
    assert [law[1] for law in laws] == pytest.approx(known["betas"], rel=1e-4)
    assert threshold_for(laws, 0.4, GRID) == pytest.approx(known["threshold"])


def test_thresholds_of_given_laws_are_the_released_ones():
    found = set()
    for known in GOLDEN["laws"]:
        laws = list(zip(known["alphas"], known["betas"], strict=True))
        assert threshold_for(laws, known["zeta"], GRID) == pytest.approx(known["threshold"])
        found.add(round(known["threshold"], 3))
    assert len(found) > 4


@pytest.mark.parametrize("known", GOLDEN["decoding"], ids=lambda known: f"{known['threshold']}-{known['adaptive']}")
def test_decoding_is_the_released_one(known):
    """Tokens, deep passes, pairs and thresholds of a small T5, from what its two parts say of the whole text."""
    threshold = Threshold(known["threshold"], 0.4, GRID, 300 if known["adaptive"] else 0)
    same = []
    for text in known["texts"]:
        assert threshold.now == pytest.approx(text["threshold"], abs=1e-6)
        early, late = torch.tensor(text["shallow_logits"]), torch.tensor(text["deep_logits"])
        stop = leaves_above(threshold.now).step((), early)[1]
        said, full = early.argmax(dim=-1), late.argmax(dim=-1)
        assert (~stop).long().tolist() == text["deep"]
        assert torch.where(stop, said, full).tolist() == text["tokens"]
        p = early.double().softmax(dim=-1).sort(descending=True).values
        trace = Trace(
            said[None], (~stop).long()[None], stop[None] & False, (p[:, 0] - p[:, 1])[None], (said == full)[None]
        )
        pairs = trace.pairs(0)
        if known["adaptive"]:
            assert pairs[0] == pytest.approx(np.array(text["pairs"]), abs=1e-4)
            same += pairs[1].tolist()
        assert text["calls"] == [len(stop), *[int((~stop).sum())] * 1, *text["calls"][2:]]
        threshold.learn(*pairs)
    assert same == [bool(each) for each in known["same"]]


# The threshold


def test_moments_and_thresholds_by_hand():
    x = np.array([0.5 - 0.05**0.5, 0.5 + 0.05**0.5])  # mean 0.5, variance 0.05
    assert moments(x, np.ones(2)) == pytest.approx((2, 2))
    assert moments(np.array([0.2, 0.6]), np.array([3.0, 1.0])) == pytest.approx((0.3 * 6, 0.7 * 6))
    for laws, wanted in (([(1, 2), (2, 1)], 0.4333), ([(2, 2), (5, 1.2)], 0.6333), ([(1, 1), (8, 1)], 0.7667)):
        for order in (laws, laws[::-1]):  # the law of the larger mean is that of agreement, whichever comes first
            assert threshold_for(order, 0.4, GRID) == pytest.approx(wanted, abs=1e-4)
        share = beta_law.pdf(GRID, *laws[1]) / (beta_law.pdf(GRID, *laws[0]) + beta_law.pdf(GRID, *laws[1]))
        assert min(x for x, passes in zip(GRID, share > 0.4, strict=True) if passes) == pytest.approx(wanted, abs=1e-4)


def test_without_a_law_or_a_passing_point_the_highest_threshold_is_taken():
    assert threshold_for([(2, 2), (2, 2)], 0.4, GRID) == GRID[0]  # half everywhere
    assert threshold_for([(2, 2), (2, 2)], 0.5, GRID) == GRID[-1]  # not above
    for rounded in ((2 + 1e-9, 2), (2 - 1e-9, 2), (2, 2 + 1e-9), (2, 2 - 1e-9)):  # nor by rounding alone
        assert threshold_for([(2, 2), rounded], 0.5, GRID) == GRID[-1]
    assert threshold_for([(1, 2), (2, 1)], 1.0, GRID) == GRID[-1]
    assert threshold_for([(1, 2), (2, 1)], 0.0, GRID) == GRID[0]
    assert threshold_for(beta_laws(np.array([0.7]), np.array([True])), 0.4, GRID) == GRID[-1]
    steep = threshold_for([(3000.0, 1.0), (1.0, 3000.0)], 0.4, GRID)  # the released division: 0 by 0, and so 0.9
    assert steep == min(x for x in GRID if x >= 0.5)


def test_a_pair_weighs_little_in_the_other_law_and_is_kept_off_the_ends():
    confidence, same = np.array([0.0, 0.4, 1.0, 0.9]), np.array([False, False, True, True])
    cut = np.array([1e-4, 0.4, 1 - 1e-4, 0.9])
    low, high = beta_laws(confidence, same)
    assert low == pytest.approx(moments(cut, np.array([0.9995, 0.9995, 0.0005, 0.0005])))
    assert high == pytest.approx(moments(cut, np.array([0.0005, 0.0005, 0.9995, 0.9995])))


def test_the_threshold_is_estimated_after_each_text_from_all_pairs_so_far_until_updates_end():
    rng = np.random.default_rng(0)
    none = (np.zeros(0), np.zeros(0, dtype=bool))
    texts = [(rng.beta(2, 2, 20), rng.random(20) < 0.3), (rng.beta(5, 1.2, 20), rng.random(20) < 0.9)]
    found = Threshold(0.9, 0.4, GRID, 2)
    found.learn(*none)
    assert (found.now, found.updates) == (0.9, 2)  # nothing is known: nothing is estimated, and no update is used up
    found.learn(*texts[0])
    assert found.now == threshold_for(beta_laws(*texts[0]), 0.4, GRID)
    found.learn(*texts[1])
    both = [np.concatenate(part) for part in zip(*texts, strict=True)]
    after = found.now
    assert after == threshold_for(beta_laws(*both), 0.4, GRID)
    found.learn(np.full(50, 0.31), np.ones(50, dtype=bool))
    assert (found.now, found.updates) == (after, 0)
    fixed = Threshold(0.7)
    fixed.learn(*texts[0])
    assert fixed.now == 0.7


def test_pairs_are_of_deep_passes_that_took_tokens_along():
    c = torch.tensor([[0.1, 0.2, 0.3, 0.4, math.nan, 0.6, 0.7, 0.8]], dtype=torch.float64)
    exits = torch.tensor([[1, 0, 0, 1, 0, 1, 1, 0]])
    same = torch.tensor([[True, False, True, True, True, False, True, True]])
    trace = Trace(exits, exits, exits > 1, c, same)
    confidence, agree = trace.pairs(0)
    assert confidence.tolist() == [0.2, 0.3, 0.4, 0.6]  # not the pass for one token, the rest at the end, or NaN
    assert agree.tolist() == [False, True, True, False]


def test_streams_of_texts_are_followed_one_by_one(prepared):
    """Each text is written with the threshold that the pairs of those before it give."""
    method, _, ready = prepared(KEY, "adaptive")
    (found,) = method.texts(ready, "validation", [0.4])
    threshold = Threshold(method.initial, 0.4, method.grid, method.updates)
    seen = []
    for n, prompt in enumerate(ready.openings("validation")):
        seen.append(threshold.now)
        with torch.inference_mode():
            text_cache = ready.read(prompt[None])
        rule = leaves_above(threshold.now)
        (trace,) = follow(ready.model, text_cache, prompt[-1:], ready.length, method.shallow, [rule])
        assert trace.tokens[0].equal(found.tokens[n])
        assert trace.exits[0].equal(found.exits[n])
        threshold.learn(*trace.pairs(0))
    assert seen[0] == method.initial
    assert len(set(seen)) > 1
    assert set(seen) <= {method.initial, *method.grid}
    assert len(set(seen[method.updates + 1 :])) == 1
    costs, passes = PassCosts.of(ready.model), found.exits.sum(dim=1)
    shallow, deep = costs.layers[: method.shallow].sum(), costs.layers[method.shallow :].sum()
    assert found.read.tolist() == (6 * (shallow + costs.head) + passes.numpy() * (deep + costs.head)).tolist()


# Training


def test_teachers_are_evenly_spaced_and_the_last_is_the_last():
    assert teachers(24, 6) == [3, 7, 11, 15, 19, 23]
    assert teachers(24, 8) == [2, 5, 8, 11, 14, 17, 20, 23]
    assert teachers(12, 3) == [3, 7, 11]
    assert teachers(6, 2) == [2, 5]
    assert teachers(5, 2) == [2, 4]


def test_layers_are_matched_from_the_last_back_each_below_the_one_before():
    gaps = torch.tensor([[5.0, 1.0, 2.0], [1.0, 2.0, 3.0], [4.0, 2.0, 3.0]])
    assert matched(gaps) == [0, 0, 1]  # none is left below the first
    assert matched(torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [3.0, 2.0, 1.0]])) == [0, 1, 2]
    assert matched(torch.tensor([[3.0, 2.0, 1.0], [1.0, 2.0, 3.0]])) == [0, 0]


def test_teachers_learn_nothing_from_the_distillation():
    states = torch.randn(4, 2, 3, 5, generator=torch.Generator().manual_seed(0), requires_grad=True)
    layer_loss(states, 1).backward()
    assert states.grad[0].abs().sum() > 0
    assert not states.grad[1:].any()


@pytest.mark.parametrize("variant", ["threshold", "adaptive"])
def test_both_ends_and_the_layers_between_are_trained_together(prepared, variant, wired):
    method = prepared(KEY, variant)[0]
    net, (stage,) = wired(method)
    data = method.load()
    x = torch.stack(data.train.inputs[3:6])
    assert (stage.epochs, stage.batch, len(stage.train)) == (1, 8, 800)
    assert isinstance(stage.optimiser, MuonAndAdam)
    matrices = {id(p) for name, p in net.language_model.named_parameters() if name.endswith("_proj.weight")}
    assert stage.rates == {id(p): 1e-2 if id(p) in matrices else 8e-3 for p in net.language_model.parameters()}
    with torch.no_grad():
        states = net.states(x[:, :-1])
        normed = net.language_model.model.norm(states)
        said = net.language_model.lm_head(normed).log_softmax(dim=-1)
        rows, columns = torch.meshgrid(torch.arange(3), torch.arange(24), indexing="ij")
        ce = [-said[i, rows, columns, x[:, 1:]].mean() for i in (1, 3)]
        gaps = [[float((normed[j] - normed[i]).square().mean()) for i in (0, 1)] for j in (1, 3)]
    second = min((0, 1), key=lambda i: gaps[1][i])
    expected = (2 * ce[0] + 4 * ce[1]) / 6 + 0.5 * (gaps[0][0] + gaps[1][second]) / 2  # 0 is all that is left below
    loss = stage.loss(stage.batch_of(torch.arange(3, 6), x))
    assert loss.item() == pytest.approx(float(expected), rel=1e-4)


def test_variants_share_one_training(prepared):
    trainings = [set(prepared(KEY, variant)[1].trainings) for variant in ("threshold", "adaptive")]
    assert trainings[0] == trainings[1]


@pytest.mark.parametrize("shallow", [0, 4])
def test_the_shallow_part_is_a_part(prepared, shallow):
    method = prepared(KEY)[0].replace({"shallow": shallow})
    with pytest.raises(ValueError, match="from 1 to 3 of 4 layers"):
        method.build(method.load(), 0)


# Measuring and claims


def test_a_cache_goes_back_no_further_than_its_start_and_never_ahead():
    cache = read()
    cache.rewind(3)
    assert cache.position == 3
    for position in (-1, 4):
        with pytest.raises(ValueError, match="cannot go back"):
            cache.rewind(position)


def test_a_padded_cache_forgets_its_padding_with_the_tokens():
    ids, mask = PROMPTS[:2], torch.ones_like(PROMPTS[:2])
    mask[0, :3] = 0
    with torch.inference_mode():
        cache = model().read(ids, 12, mask)
    cache.rewind(5)
    assert cache.padding.tolist() == mask[:, :5].tolist()


def test_test_texts_are_out_of_reach_of_what_chooses(prepared):
    method, bench, ready = prepared(KEY)
    method.sweep(ready, bench, "test", [0.2])
    with pytest.raises(TestDataAsked):
        method.texts(ready.for_choosing, "test", [0.2])
    assert method.texts(ready.for_choosing, "validation", [0.2])


def test_what_is_known_is_not_written_again(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    first = method.texts(ready, "validation", [0.2, 0.3])
    monkeypatch.setattr(type(method), "replay", None)
    again = method.texts(ready, "validation", [0.3, 0.2])
    assert again[0] is first[1]
    assert again[1] is first[0]


def test_knobs_are_named_for_what_they_set():
    main = registry.get(KEY)
    assert main.variant("threshold").knob == "softmax-diff threshold"
    assert main.variant("adaptive").knob == "zeta"
    assert main.grid == pytest.approx(np.linspace(0.02, 0.2, 10))


@pytest.mark.parametrize("variant", ["threshold", "adaptive"])
def test_bits_of_true_texts_are_those_of_whichever_part_decides(prepared, variant):
    """Token by token, by the network's own forward, at the lambda of each text."""
    method, _, ready = prepared(KEY, variant)
    passages, length = ready.passages("test"), ready.length
    text = torch.cat([passages.prompts, passages.references], dim=1)
    with torch.no_grad():
        said = ready.model(text[:, :-1])[[1, -1]][:, :, -length:].double().softmax(dim=-1)
    p = said.gather(3, passages.references.expand(2, -1, -1)[..., None])[..., 0]
    best = said[0].topk(2, dim=-1).values
    lead = best[..., 0] - best[..., 1]
    found = ready.method.beside(ready, method.knobs)
    (texts,) = method.texts(ready, "test", [method.knobs[2]])
    shallow = lead > texts.lambdas[:, None]
    assert 0 < shallow.double().mean() < 1
    assert found.values[2] == pytest.approx(-torch.where(shallow, p[0], p[1]).log2().mean().item(), rel=1e-4)
    assert found.cheap == pytest.approx(-p[0].log2().mean().item(), rel=1e-4)
    assert found.full == pytest.approx(-p[1].log2().mean().item(), rel=1e-4)
    apart = (p[1].log2() - p[0].log2()).mean(dim=1)
    assert found.lead == pytest.approx(apart.mean().item(), rel=1e-3)
    assert found.error == pytest.approx(apart.std().item() / len(apart) ** 0.5, rel=1e-3)
    if variant == "threshold":
        assert (found.values[0], found.values[-1]) == (found.cheap, found.full)
        assert set(texts.lambdas.tolist()) == {method.knobs[2]}
    else:
        assert len(set(texts.lambdas.tolist())) > 1


def swept(method, ready, bench):
    """The method's curve, nothing executed."""
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    return Curve(
        variant="", knob=method.knob, quality="", unit="", full_quality=1, full_cost=method.plain_cost(ready),
        validation=held, test=test, executions=[], beside=method.beside(ready, method.knobs),
    )  # fmt: skip


@pytest.mark.parametrize("variant", ["threshold", "adaptive"])
def test_claims(prepared, variant):
    method, bench, ready = prepared(KEY, variant)
    curve = swept(method, ready, bench)
    found = {outcome.name: outcome for outcome in claimed.claims(method, ready, bench, curve)}
    assert len(found) == 3
    if variant == "threshold":
        last, first = (claimed.copied_states(method, ready, knob) for knob in (1.0, -1.0))
        assert (last == 1.0).all()  # nobody leaves
        assert first.mean() < 1.0
        (shallow,) = method.sweep(ready, bench, "test", [-1.0])
        assert first.tolist() == pytest.approx(shallow.samples.quality.tolist())  # deep states are read by nobody


def curve_of(*points):
    """Return a curve of two hundred texts, all of which keep as much."""
    made = [
        OperatingPoint(
            knob=k, quality=q, cost=1 / s, speed_up=s, exits=[e, 1 - e], samples=Samples(np.full(200, q), None)
        )
        for k, q, s, e in points
    ]
    return Curve(
        variant="", knob="threshold", quality="", unit="", full_quality=1, full_cost=1, validation=made, test=made,
        executions=[],
    )  # fmt: skip


def test_claims_can_fail(monkeypatch):
    good, bad = curve_of((0.1, 0.99, 1.6, 0.5), (1, 1, 1, 0)), curve_of((0.1, 0.99, 1.5, 0.5), (1, 1, 1, 0))
    assert claimed.faster(good).holds
    assert not claimed.faster(bad).holds
    method = SimpleNamespace()
    uneven = 0.97 + np.tile([0.2, -0.2], 100)  # as good on the mean, beyond no doubt
    for kept, holds in ((np.full(200, 0.97), True), (np.full(200, 0.985), False), (uneven, False)):
        monkeypatch.setattr(claimed, "copied_states", lambda *_, kept=kept: kept)
        assert claimed.exact_states(method, None, good).holds is holds
    assert not claimed.exact_states(method, None, curve_of((1, 1, 1, 0.1))).holds


def test_the_estimate_is_compared_at_equal_cost(prepared, monkeypatch):
    method, bench, ready = prepared(KEY, "adaptive")
    curve = swept(method, ready, bench)
    even, moved = claimed.as_good_as_set(method, ready, bench, curve)
    gain, error = (float(even.measured.split()[i]) for i in (0, 2))
    assert even.holds == (gain - 2 * error >= -0.02)
    worse = [point.model_copy(update={"samples": Samples(point.samples.quality - 0.3, None)}) for point in curve.test]
    assert not claimed.as_good_as_set(method, ready, bench, curve.model_copy(update={"test": worse}))[0].holds
    dear = [point.model_copy(update={"speed_up": point.speed_up / 10}) for point in curve.validation]
    none = claimed.as_good_as_set(method, ready, bench, curve.model_copy(update={"validation": dear}))[0]
    assert (none.holds, none.measured) == (False, "no setting is as cheap")
    assert "fewer weights" in moved.measured
