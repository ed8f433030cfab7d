"""What only the Right Tool promises: mixtures of layers, temperatures that change no answer, one threshold for all."""

import json
import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import schwartz2020right as claimed
from eelit.methods.claims.schwartz2020right import claims
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.harness import registry
from eelit.methods.papers.schwartz2020right import PooledLayers, RightTool, ScalarMix
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.temperature import Tempered, calibration_error, fit_temperature, mean_nll
from eelit.methods.recipes.joint import exit_losses

KEY = "schwartz2020right"
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"
T = (0.6, 1.3, 1.7, 0.9)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(4, 300, 3)) * 2


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def calibrated(threshold, temperatures=T):
    return Tempered(temperatures, MaxConfidence(threshold))


def weights(mix):
    """Return the a_j, read off what the mixture makes of unit vectors."""
    eye = torch.eye(len(mix.direction))[None]
    return mix((eye, eye)).detach()[0]


def with_direction(values):
    mix = ScalarMix(len(values))
    mix.direction.data = torch.tensor(values)
    return mix


# The exit rule.


def test_zero_stops_at_the_first_exit_and_more_than_one_never(logits):
    assert (replay(calibrated(0.0), logits) == 0).all()
    assert (replay(calibrated(1.01), logits * 100) == 3).all()


def test_a_confidence_that_rounds_to_one_reaches_the_threshold_one():
    """The released calibration sets the threshold to 1 to mean never, which a saturated head does not heed."""
    assert replay(calibrated(1.0), np.array([[[0.0, 900.0]]] * 4)).tolist() == [0]


def test_threshold_is_reached_not_passed():
    tie = np.zeros((4, 1, 2))
    assert replay(calibrated(0.5), tie).tolist() == [0]
    assert replay(calibrated(0.5 + 1e-9), tie).tolist() == [3]


def test_each_exit_has_its_own_temperature():
    """Odds of 9 to 1 become 3 to 1 at temperature 2."""
    same = np.tile(np.log([[0.9, 0.1]]), (3, 1, 1))
    assert replay(calibrated(0.8, (2.0, 1.0, 1.0)), same).tolist() == [1]
    assert replay(calibrated(0.75 - 1e-9, (2.0, 1.0, 1.0)), same).tolist() == [0]
    assert replay(calibrated(0.75 + 1e-9, (2.0, 2.0, 1.0)), same).tolist() == [2]


def test_nobody_leaves_earlier_at_a_higher_threshold(logits):
    exits = [replay(calibrated(c), logits) for c in np.linspace(0, 1.05, 22)]
    assert all((a <= b).all() for a, b in pairwise(exits))
    assert exits[0].mean() < exits[10].mean() < exits[-1].mean()


def test_temperature_one_is_the_uncalibrated_rule(logits):
    for c in (0.4, 0.7, 0.9):
        assert (replay(calibrated(c, (1.0,) * 4), logits) == replay(MaxConfidence(c), logits)).all()


def test_nobody_leaves_a_head_of_boundless_temperature_above_one_in_k(logits):
    hot = calibrated(1 / 3 + 1e-6, (1e9, 1e9, 1.0, 1.0))
    assert replay(hot, logits).min() == 2
    assert (replay(calibrated(1 / 3 - 1e-6, (1e9,) * 4), logits) == 0).all()


def test_a_rule_that_looks_at_answers_alone_does_not_notice_temperatures(logits):
    assert (replay(Tempered(T, Patience(1)), logits) == replay(Patience(1), logits)).all()


def test_one_sure_sample_does_not_take_its_batch_along():
    """The released code compares the largest probability of the whole batch, and so needs batches of one."""
    both = np.tile(np.array([[9.0, 0.0], [0.1, 0.0]]), (4, 1, 1))
    assert replay(calibrated(0.9), both).tolist() == [0, 3]


def test_policy_needs_no_torch():
    code = "import sys; from eelit.methods.policies import temperature; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


# Calibration.


@pytest.mark.parametrize("right", [60, 75, 90])
def test_temperature_makes_confidence_equal_to_accuracy(right):
    """Two classes, a gap of 3 everywhere: the best T has sigmoid(3 / T) = share that is right."""
    z = np.tile([3.0, 0.0], (100, 1))
    y = np.array([0] * right + [1] * (100 - right))
    found = fit_temperature(z, y)
    assert found == pytest.approx(3 / np.log(right / (100 - right)))
    assert calibration_error(z[None] / found, y) == pytest.approx(0, abs=1e-9)


def test_temperature_stays_within_bounds():
    z = np.tile([3.0, 0.0], (10, 1))
    assert fit_temperature(z, np.zeros(10, dtype=int)) == pytest.approx(0.01)
    assert fit_temperature(z, np.ones(10, dtype=int)) == pytest.approx(100)


def test_calibration_error_by_hand():
    """Sure to 0.8 twice and right once: 0.3. Sure to 0.6 twice and always right: 0.4. Half of each."""
    z = np.log([[[0.8, 0.2], [0.8, 0.2], [0.6, 0.4], [0.4, 0.6]]])
    assert calibration_error(z, np.array([0, 1, 0, 1])) == pytest.approx(0.35)


def test_temperatures_are_the_likeliest_on_data_for_fitting_and_change_no_answer(prepared):
    method, _, ready = prepared(KEY)
    held = ready.split("fitting")
    temperatures = method.policy(0.5, ready).temperatures
    assert len(temperatures) == 3
    for z, t in zip(held.outputs, temperatures, strict=True):
        assert t > 0
        assert mean_nll(z / t, held.targets) <= mean_nll(z, held.targets) + 1e-6
        assert mean_nll(z / t, held.targets) <= min(mean_nll(z / (t * f), held.targets) for f in (0.98, 1.02))
        assert ((z / t).argmax(dim=-1) == z.argmax(dim=-1)).all()


def test_knobs_are_chosen_on_other_data_than_temperatures_are_fitted_on(prepared):
    _, _, ready = prepared(KEY)
    fitted, chosen = ready.split("fitting").examples, ready.split("validation").examples
    assert (len(fitted), len(chosen)) == (150, 150)
    assert not {x.data_ptr() for x in fitted.inputs} & {x.data_ptr() for x in chosen.inputs}


def test_temperatures_are_fitted_once_for_all_knobs(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    again, calls = method.prepare(bench), []
    fit = RightTool.fit
    monkeypatch.setattr(RightTool, "fit", lambda self, prepared: calls.append(prepared) or fit(self, prepared))
    method.sweep(again, bench, "validation", method.knobs)
    method.shown(again.split("test").outputs, again)
    assert len(calls) == 1
    with pytest.raises(TestDataAsked):
        calls[0].split("test")
    assert method.rule(0.7, again) == Tempered(method.rule(0.5, ready).temperatures, MaxConfidence(0.7))


def test_what_is_shown_is_scaled_exit_by_exit(prepared):
    method, _, ready = prepared(KEY)
    outputs = ready.split("test").outputs
    for z, scaled, t in zip(outputs, method.shown(outputs, ready), ready.fitted, strict=True):
        assert torch.allclose(scaled, z / t)


def test_uncalibrated_variant_has_temperatures_of_one(prepared):
    method, _, ready = prepared(KEY, "uncalibrated")
    assert method.rule(0.5, ready) == Tempered((1.0,) * 3, MaxConfidence(0.5))
    calibrated, _, other = prepared(KEY)
    assert calibrated.rule(0.5, other).temperatures != (1.0,) * 3


def test_uncalibrated_variant_gains_nothing_over_the_same_rule_as_baseline(prepared):
    """A coarser grid of thresholds than the baseline's made it look worse than itself."""
    plain, bench, ready = prepared(KEY, "uncalibrated")
    surest = next(b for b in plain.baselines(ready, bench) if b.name == "max-confidence")
    for split, points in (("validation", surest.validation), ("test", surest.test)):
        assert plain.sweep(ready, bench, split, plain.knobs) == [p for p in points if p.knob in plain.knobs]


# The network.


def test_mixtures_have_unit_length_before_and_after_every_update():
    torch.manual_seed(0)
    mix, pooled = ScalarMix(4), torch.randn(8, 4, 5)
    step = torch.optim.Adam(mix.parameters(), lr=0.3)
    for _ in range(5):
        assert float(weights(mix).norm()) == pytest.approx(1)
        before = weights(mix)
        step.zero_grad()
        mix((pooled, pooled)).square().sum().backward()
        step.step()
        assert not torch.allclose(weights(mix), before)
    assert abs(float(weights(ScalarMix(1))[0])) == pytest.approx(1)


def test_trained_mixtures_moved_and_have_unit_length(prepared):
    method, bench, ready = prepared(KEY)
    assert isinstance(method, RightTool)
    fresh = method.build(ready.data, bench.seed)
    for head, before, layers in zip(ready.model.heads, fresh.heads, method.layers, strict=True):
        assert len(head[0].direction) == layers
        assert float(weights(head[0]).norm()) == pytest.approx(1)
        assert layers == 1 or not torch.allclose(weights(head[0]), weights(before[0]), atol=1e-4)


def test_a_head_reads_all_layers_up_to_its_own_and_none_above(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:8]))
    with torch.inference_mode():
        states = list(ready.model.states(x))
    assert [pooled.shape[1] for _, pooled in states] == list(method.layers)
    for (_, less), (_, more) in pairwise(states):
        assert torch.equal(more[:, : less.shape[1]], less)
    before = ready.model(x)
    spoilt = method.build(ready.data, 0)
    spoilt.load_state_dict(ready.model.state_dict())
    for parameter in spoilt.stages[1].layers.parameters():
        parameter.data.mul_(-2)
    changed = [not torch.allclose(a, b) for a, b in zip(spoilt(x), before, strict=True)]
    assert changed == [False, True, True]


@pytest.mark.parametrize("variant", RightTool.variants)
def test_all_exits_learn_alike_together_with_the_backbone(wired, variant):
    """The loss is the sum of the cross-entropies: no weights, and no mean."""
    method = registry.get(KEY).variant(variant, "tiny").replace({"train_size": 200, "batch": 16, "epochs": 1.5})
    model, (stage,) = wired(method)
    data = method.load().train
    assert torch.equal(stage.train.targets, data.targets)
    assert all(torch.equal(a, b) for a, b in zip(stage.train.inputs, data.inputs, strict=True))
    heads = {id(p) for part in (model.heads, model.stages[0].pooler) for p in part.parameters()}
    assert stage.rates == {id(p): 1e-2 if id(p) in heads else 5e-3 for p in model.parameters()}
    assert type(stage.optimiser) is torch.optim.Adam
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 16, round(1.5 * 13))
    dropouts = {f"stages.{j}.dropout" for j in range(3)}
    assert dropouts <= stage.learning
    index = torch.arange(7, 27)
    batch = stage.batch_of(index, torch.stack([data.inputs[i] for i in index.tolist()]))
    assert stage.loss(batch).item() == pytest.approx(sum(exit_by_exit(model, method, batch)), rel=1e-5)


@torch.no_grad()
def exit_by_exit(model, method, batch):
    """Cross-entropy of each head, from the layers one by one."""
    hidden, o, losses = batch.inputs, [], []
    pooler = model.stages[0].pooler
    for number, layer in enumerate((layer for stage in model.stages for layer in stage.layers), 1):
        hidden = layer(hidden)
        o.append(torch.tanh(hidden.mean(dim=1) @ pooler.weight.T + pooler.bias))
        if number in method.layers:
            mix, linear = model.heads[method.layers.index(number)]
            a = mix.direction / math.sqrt(sum(float(d) ** 2 for d in mix.direction))
            r = sum(weight * pooled for weight, pooled in zip(a, o, strict=True))
            losses.append(float(F.cross_entropy(r @ linear.weight.T + linear.bias, batch.targets)))
    assert len(losses) == len(method.layers)
    assert len({round(loss, 4) for loss in losses}) == len(losses)
    return losses


def test_layers_pool_with_dropout_while_they_learn():
    layers = PooledLayers([torch.nn.Identity()], torch.nn.Linear(4, 5000)).train()
    _, pooled = layers(torch.randn(2, 3, 4))
    assert 0.08 < float((pooled == 0).double().mean()) < 0.12


def test_heads_share_the_pooler_and_do_not_read_earlier_logits(prepared):
    """The released class feeds earlier logits to later heads unless told not to; its training script tells it."""
    _, _, ready = prepared(KEY)
    poolers = {id(stage.pooler): stage.pooler for stage in ready.model.stages}
    assert len(poolers) == 1
    (pooler,) = poolers.values()
    assert {head[1].in_features for head in ready.model.heads} == {pooler.out_features}


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    policy = method.policy(0.5, ready)
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, policy)
    assert found.exits.tolist() == replay(policy, outputs).tolist()
    assert len(set(found.exits.tolist())) > 1


def test_plain_network_is_hardly_dearer_for_its_mixture():
    """MiniLM and 20 tokens: the poolers of the lower layers, against the layers (12 d² MACs per token and layer)."""
    assert 5 * 384**2 / (6 * 12 * 384**2 * 20) < 0.01


# The released code, run on these numbers (see `provenance` in the file).


def test_heads_loss_and_exits_agree_with_the_released_code(golden):
    pooled, labels = torch.tensor(golden["pooled"]), torch.tensor(golden["labels"])
    found = []
    for layer, direction, w, b in zip(golden["layers"], *(golden[k] for k in ("mix", "weight", "bias")), strict=True):
        mixed = with_direction([3 * a for a in direction])((pooled, pooled[:, : layer + 1]))
        found.append(torch.nn.functional.linear(mixed, torch.tensor(w), torch.tensor(b)))
    ours = torch.stack(found).detach()
    assert torch.allclose(ours, torch.tensor(golden["logits"]), atol=1e-5)
    assert float(exit_losses(ours, labels).sum()) == pytest.approx(golden["loss"], rel=1e-5)
    for threshold, exits in golden["exits"].items():
        policy = calibrated(float(threshold), tuple(golden["temperatures"]))
        assert replay(policy, ours).tolist() == exits


def test_temperatures_agree_with_the_released_search(golden):
    """It may stop a little short: its Adam gives up at the first step after the 51st that gains nothing."""
    labels = np.array(golden["calibration"]["labels"])
    for i, z in enumerate(np.array(golden["calibration"]["logits"])):
        ours = fit_temperature(z, labels)
        for search in ("adam", "lbfgs"):
            theirs = golden["calibration"][search][i]
            assert ours == pytest.approx(theirs, rel=0.03)
            assert mean_nll(z / ours, labels) <= mean_nll(z / theirs, labels) + 1e-12


def test_released_mixtures_do_not_learn(golden):
    """Each step puts new tensors in place of those that the optimiser knows: after five steps nothing has moved."""
    assert golden["mixture_moved"] == 0


# What is claimed.


@pytest.mark.parametrize(
    ("quality", "speed_up", "holds"), [(0.8, 2.5, True), (0.791, 2.6, True), (0.8, 2.4, False), (0.789, 2.6, False)]
)
def test_half_as_fast_as_the_paper_says_at_the_same_accuracy(prepared, made, monkeypatch, quality, speed_up, holds):
    """The full model is said to have 0.8."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(RightTool, "sweep", lambda self, *_: made(quality, speed_up=speed_up).test)
    found = claims(method, ready, bench, SimpleNamespace(full_quality=0.8))[0]
    assert (found.name, found.holds) == ("faster at the same accuracy", holds)


def test_calibration_error_of_each_exit_is_that_of_what_the_policy_sees(prepared):
    told = {}
    for name in RightTool.variants:
        method, bench, ready = prepared(KEY, name)
        seen, t = ready.split("test"), method.rule(0, ready).temperatures
        facts, _ = method.each_exit(ready, bench)
        errors = [calibration_error(z[None] / t_i, seen.targets) for z, t_i in zip(seen.outputs, t, strict=True)]
        assert [fact.calibration_error for fact in facts] == pytest.approx(errors)
        told[name] = [fact.calibration_error for fact in facts]
    assert told["calibrated"] != told["uncalibrated"]


@pytest.mark.parametrize("variant", RightTool.variants)
def test_only_the_calibrated_variant_claims_something_of_calibration(prepared, variant):
    method, bench, ready = prepared(KEY, variant)
    found = claims(method, ready, bench, SimpleNamespace(full_quality=0.5))
    assert [outcome.name for outcome in found][1:] == ["calibration carries over"] * method.calibrated
    if method.calibrated:
        seen = ready.split("test")
        errors = [calibration_error(z, seen.targets) for z in (seen.outputs, method.shown(seen.outputs, ready))]
        assert found[1].holds == (errors[1] <= errors[0] - 0.005)
        assert found[1].measured.endswith(f"{errors[0]:.4f} before, {errors[1]:.4f} after")


@pytest.mark.parametrize(("after", "holds"), [(0.044, True), (0.046, False), (0.05, False)])
def test_temperatures_must_bring_confidence_half_a_point_nearer(prepared, monkeypatch, after, holds):
    method, bench, ready = prepared(KEY, "calibrated")
    errors = iter([0.05, after])
    monkeypatch.setattr(claimed, "calibration_error", lambda *_: next(errors))
    assert claimed.claims(method, ready, bench, SimpleNamespace(full_quality=0.5))[1].holds is holds
