"""What only CATs promises: agreement with the full model at any tolerance, whatever the score, on worked cases."""

import json
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.backbones.consistency import HIDDEN, Meta
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Examples, parted
from eelit.methods.engine.method import Bench
from eelit.methods.papers.schuster2021cats import judged
from eelit.methods.policies.conformal import (
    conformal_threshold,
    independent_thresholds,
    kept,
    naive_threshold,
    resampled,
    shared_threshold,
    worst_misleading,
)
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.consistency import balanced_loss, consistency_loss, train_consistency

KEY = "schuster2021cats"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
TOLERANCES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def made():
    """Scores and consistency ``[5, 400]``: deeper exits agree more often, and the score knows a little of it."""
    rng = np.random.default_rng(0)
    consistent = rng.random((5, 400)) < np.linspace(0.4, 0.9, 5)[:, None]
    return np.clip(0.5 * rng.random((5, 400)) + 0.4 * consistent, 0, 1), consistent


def test_only_inconsistent_exits_can_mislead():
    scores = np.array([[0.9, 0.2], [0.4, 0.3], [0.8, 0.1]])
    consistent = np.array([[True, True], [False, True], [False, True]])
    assert worst_misleading(scores, consistent).tolist() == [0.8]  # the second example cannot be misled


def test_rank_is_the_textbooks_where_the_released_code_is_one_step_more_cautious():
    scores = np.array([0.9, 0.2, 0.5])
    assert conformal_threshold(scores, 0.5) == 0.5  # the second smallest of four
    assert np.quantile([*scores, np.inf], 0.5, method="higher") == 0.9
    assert conformal_threshold(np.arange(9) / 10, 0.7) == 0.2  # rank 3, in spite of 10 * (1 - 0.7) > 3
    assert conformal_threshold(scores, 0.24) == math.inf
    assert conformal_threshold(scores, 0.25) == 0.9


def test_no_tolerance_is_full_depth_and_full_tolerance_the_first_exit(made):
    scores, consistent = made
    assert shared_threshold(scores, consistent, 0.0) == math.inf
    assert independent_thresholds(scores, consistent, 0.0) == (math.inf,) * 5
    assert kept(scores, consistent, math.inf) == (1.0, 6.0)  # the last exit always agrees with itself
    assert shared_threshold(scores, consistent, 1.0) == -math.inf
    assert kept(scores, consistent, -math.inf)[1] == 1.0
    assert kept(scores, consistent, independent_thresholds(scores, consistent, 1.0))[1] == 1.0


@pytest.mark.parametrize("fit", [shared_threshold, independent_thresholds])
def test_more_tolerance_means_lower_thresholds_and_earlier_exits(made, fit):
    thresholds = [np.asarray(fit(*made, tolerance)) for tolerance in TOLERANCES]
    assert all((later <= earlier).all() for earlier, later in pairwise(thresholds))
    depths = [kept(*made, fit(*made, tolerance))[1] for tolerance in TOLERANCES]
    assert all(later <= earlier for earlier, later in pairwise(depths))
    assert depths[-1] < depths[2] < depths[0]


@pytest.mark.parametrize("fit", [shared_threshold, independent_thresholds])
@pytest.mark.parametrize("score", ["good", "random", "wrong"])
def test_the_promise_holds_for_any_score(made, fit, score):
    scores, consistent = made
    chance = np.random.default_rng(3).random(scores.shape)
    used = {"good": scores, "random": chance, "wrong": 1 - scores}[score]
    for tolerance in TOLERANCES:
        same, _ = resampled(used, consistent, tolerance, fit, repeats=200)
        assert same >= 1 - tolerance - 0.005


def test_a_good_score_saves_more_and_bonferroni_is_more_cautious(made):
    scores, consistent = made
    chance = np.random.default_rng(3).random(scores.shape)
    good, poor = (resampled(used, consistent, 0.2)[1] for used in (scores, chance))
    assert good < poor - 0.5
    same, depth = resampled(scores, consistent, 0.2, independent_thresholds)
    assert depth > good
    assert same > resampled(scores, consistent, 0.2)[0]


def test_without_calibration_the_promise_can_be_broken(made):
    _, consistent = made
    boastful = np.full(consistent.shape, 0.95)
    assert kept(boastful, consistent, naive_threshold(0.1))[0] < 0.5
    assert resampled(boastful, consistent, 0.1)[0] >= 0.9


def test_the_policy_looks_at_the_last_column_alone_and_strictly():
    scores = np.array([[0.5, 0.5 + 1e-9, 0.2], [0.6, 0.1, 0.3], [0.0, 0.0, 0.0]])
    outputs = np.concatenate([np.random.default_rng(0).normal(size=(3, 3, 4)), scores[..., None]], axis=-1)
    assert replay(ScoreThreshold(0.5), outputs).tolist() == [1, 0, 2]
    assert replay(ScoreThreshold(0.5), torch.as_tensor(outputs)).tolist() == [1, 0, 2]
    assert replay(ScoreThreshold((0.5, 0.2)), outputs).tolist() == [1, 0, 1]
    assert replay(ScoreThreshold(math.inf), outputs).tolist() == [2, 2, 2]
    assert replay(ScoreThreshold(-math.inf), outputs).tolist() == [0, 0, 0]


def test_parts_are_disjoint_and_complete():
    parts = parted(Examples(list(torch.arange(10)[:, None]), torch.arange(10)), {"a": 0.7, "b": 0.125, "c": 0.175})
    assert [part.targets.tolist() for part in parts.values()] == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]


def test_every_step_has_data_of_its_own_and_none_is_test_data(prepared):
    method, _, ready = prepared(KEY)
    sizes = {name: len(ready.data.part(name)) for name in ("train", "heads", "scaling", "meta", "calibration")}
    assert sizes == {"train": 700, "heads": 125, "scaling": 50, "meta": 125, "calibration": 150}
    parts = [ready.data.part(name) for name in (*sizes, "validation", "test")]
    rows = [x.data_ptr() for part in parts for x in part.inputs]
    assert len(set(rows)) == len(rows) == 1000 + 300 + 400
    threshold = method.policy(0.2, ready).threshold
    scores, consistent, _ = judged(ready.split("calibration"))
    assert threshold == shared_threshold(scores, consistent, 0.2)


def test_the_network_never_changes_after_its_own_training(prepared):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, seed=1)
    own = [*(p for layer in model.layers for p in layer.parameters()), *model.heads[-1].parameters()]
    before = [p.clone() for p in own]
    x = torch.stack(list(ready.data.test.inputs[:16]))
    with torch.inference_mode():
        said = model.full(x)
    train_consistency(model, ready.data, Bench(), epochs=2, meta_epochs=2, batch=32, rate=1e-2)
    with torch.inference_mode():
        assert torch.equal(model.full(x), said)
    assert all(torch.equal(p, q) for p, q in zip(own, before, strict=True))
    assert {float(ramp.temperature) for ramp in model.ramps} != {1.0}


def test_a_temperature_changes_no_answer(prepared):
    _, _, ready = prepared(KEY)
    means, _ = ready.model.read(torch.stack(list(ready.data.test.inputs[:32])))
    ramp = ready.model.ramps[0]
    _, logits = ramp(means[:, 0])
    plain = ramp.outer(torch.tanh(ramp.inner(means[:, 0])))
    assert torch.equal(plain.argmax(-1), logits.argmax(-1))
    assert torch.allclose(plain / ramp.temperature, logits)


def test_classes_weigh_the_same_however_rare():
    logits, labels = torch.randn(8, 2), torch.tensor([1, 1, 1, 1, 1, 1, 1, 0])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(balanced_loss(logits, labels)) == pytest.approx(float((each[:7].mean() + each[7]) / 2))
    ones = torch.ones(8, dtype=torch.long)
    plain = torch.nn.functional.cross_entropy(logits, ones)
    assert float(balanced_loss(logits, ones)) == pytest.approx(float(plain))


def test_agrees_with_the_released_calibration(golden):
    """Same exits from the released threshold; ours is that one or one step below it (see `provenance`)."""
    scores, consistent = np.array(golden["scores"]).T, np.array(golden["consistent"], dtype=bool).T
    test = np.array(golden["test_scores"]).T
    outputs = np.concatenate([test, np.zeros((1, test.shape[1]))])[..., None]
    worst = np.sort(np.append(worst_misleading(scores, consistent), np.inf))
    for key, exits in golden["shared"].items():
        released = math.inf if golden["thresholds"][key] is None else golden["thresholds"][key]
        assert replay(ScoreThreshold(released), outputs).tolist() == exits
        ours = shared_threshold(scores, consistent, float(key))
        assert int(np.searchsorted(worst, released) - np.searchsorted(worst, ours)) in (0, 1)
        assert replay(ScoreThreshold(naive_threshold(float(key))), outputs).tolist() == golden["naive"][key]
        each = independent_thresholds(scores, consistent, float(key))
        assert replay(ScoreThreshold(each), outputs).tolist() == golden["independent"][key]


def test_agrees_with_the_released_score_and_its_loss(golden):
    logits, features = torch.tensor(golden["logits"]), torch.tensor(golden["features"])
    meta = Meta(classes=3, exits=6, dropout=0.0)
    meta.load_state_dict(
        {name: torch.tensor(golden[name.replace(".", "_")]) for name in meta.state_dict()}  # inner_weight, …
    )
    with torch.inference_mode():
        found = torch.stack([meta(features[:, k], logits[:, : k + 1]) for k in range(5)], dim=1)
        assert torch.allclose(found, torch.tensor(golden["meta_logits"]), atol=1e-5)
        said = logits.argmax(-1)
        seen = torch.cat([features, logits[:, :-1]], dim=2)
        assert seen.shape[2] == HIDDEN + 3
        loss = consistency_loss(meta, seen, said[:, :-1] == said[:, -1:])
    assert float(loss) == pytest.approx(golden["meta_loss"], rel=1e-5)
