"""What only cascaded inference promises: thresholds from a tolerance by hand, and agreement with the released code."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import berestizshevsky2019cascade as claimed
from eelit.methods.claims.berestizshevsky2019cascade import kept, own_thresholds, saving
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.berestizshevsky2019cascade import CascadedInference, pooled, residual_accuracy, threshold
from eelit.methods.policies.base import softmax
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain

KEY = "berestizshevsky2019cascade"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
INF = float("inf")


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def curve_of(logits, labels):
    """Return the curve of one classifier from its logits ``[N, C]``."""
    p = softmax(np.array(logits))
    return residual_accuracy(p.max(axis=1), p.argmax(axis=1) == np.array(labels))


# The threshold.


def test_the_curve_and_its_thresholds_by_hand():
    """Of four images, in any order, the second and the fourth by confidence are right."""
    curve = residual_accuracy(np.array([0.8, 0.4, 0.9, 0.6]), np.array([False, False, True, True]))
    assert curve.confidences.tolist() == [0.4, 0.6, 0.8, 0.9]
    assert curve.accuracies.tolist() == pytest.approx([0.5, 2 / 3, 0.5, 1.0])
    assert [threshold(curve, epsilon) for epsilon in (0.0, 0.33, 0.35, 0.49)] == [0.9, 0.9, 0.6, 0.6]
    assert [threshold(curve, epsilon) for epsilon in (0.5, 1.0, -0.01)] == [0.0, 0.0, INF]


def test_the_least_confidence_that_is_admitted_counts_though_a_larger_one_is_not():
    """The curve falls from 0.75 to 0.5 in between: within 0.3 of its peak is the first place, not the third."""
    curve = residual_accuracy(np.array([0.3, 0.5, 0.6, 0.7, 0.9]), np.array([False, True, True, False, True]))
    assert curve.accuracies.tolist() == pytest.approx([0.6, 0.75, 2 / 3, 0.5, 1.0])
    assert threshold(curve, 0.3) == 0.5


def test_images_of_one_confidence_have_one_place():
    """Whichever of the two at 0.9 comes first, half of those who are so sure are right."""
    for right in ([True, True, False], [True, False, True]):
        curve = residual_accuracy(np.array([0.5, 0.9, 0.9]), np.array(right))
        assert curve.confidences.tolist() == [0.5, 0.9]
        assert curve.accuracies.tolist() == pytest.approx([2 / 3, 0.5])


def test_who_has_no_finite_confidence_is_left_out():
    curve = residual_accuracy(np.array([0.9, np.nan, 0.5]), np.array([True, False, False]))
    assert curve.confidences.tolist() == [0.5, 0.9]
    assert curve.accuracies.tolist() == [0.5, 1.0]


@pytest.mark.parametrize("seed", range(5))
def test_a_larger_tolerance_never_raises_a_threshold_and_is_kept_where_the_curve_was_drawn(seed):
    rng = np.random.default_rng(seed)
    sure = rng.uniform(0.1, 1.0, 200)
    right = rng.random(200) < sure
    curve = residual_accuracy(sure, right)
    found = [threshold(curve, epsilon) for epsilon in np.linspace(0, 0.6, 61)]
    assert all(a >= b for a, b in pairwise(found))
    assert len(set(found)) > 5
    for epsilon, level in zip(np.linspace(0, 0.6, 61), found, strict=True):
        assert right[sure >= level].mean() >= curve.accuracies.max() - epsilon
    everything = curve.accuracies.max() - right.mean()
    assert threshold(curve, everything + 1e-9) == 0.0
    assert threshold(curve, everything - 1e-3) > 0.0


def test_a_confidence_equal_to_the_threshold_leaves_and_one_of_a_share_of_all_classes_always_does():
    logits = np.log(np.array([[[0.75, 0.25]], [[0.5, 0.5]]]))
    sure = float(softmax(logits[0])[0, 0])
    assert replay(MaxConfidence((sure,)), logits).tolist() == [0]
    assert replay(MaxConfidence((np.nextafter(sure, 1),)), logits).tolist() == [1]
    flat = np.zeros((3, 4, 8))
    assert replay(MaxConfidence((1 / 8, 1 / 8)), flat).tolist() == [0] * 4


def test_agrees_with_the_released_thresholds_and_cascade(golden):
    """See `provenance` in the file; where all may leave, the released threshold is the least confidence seen."""
    labels, macs = golden["labels"], np.cumsum(golden["macs"])
    curves = [curve_of(logits, labels) for logits in golden["logits"]]
    test, targets = np.array(golden["test_logits"]), np.array(golden["test_labels"])
    for case in golden["cases"]:
        ours = [threshold(curve, case["epsilon"]) for curve in curves]
        seen = [level or curve.confidences[0] for level, curve in zip(ours, curves, strict=True)]
        assert seen == pytest.approx(case["deltas"], abs=1e-9)
        exits = replay(MaxConfidence(seen[:-1]), test)
        assert [int((exits >= m).sum()) for m in range(3)] == case["asked"]
        answers = test.argmax(axis=-1)[exits, np.arange(len(targets))]
        assert (answers == targets).mean() == pytest.approx(case["accuracy"])
        assert macs[exits].mean() == pytest.approx(case["cost"])


# What is built and trained.


def test_a_classifier_reads_means_over_windows_of_the_side_of_the_last_map():
    """Maps of 24, 12 and 6 pixels: 16, 4 and 1 places, then 64 units, normalised, and the classes."""
    for channels, side, count in ((48, 24, 16), (96, 12, 4), (192, 6, 1)):
        head = CascadedInference().head((channels, side, side), 10)
        assert [type(part).__name__ for part in head[1:]] == ["Flatten", "Linear", "BatchNorm1d", "ReLU", "Linear"]
        assert (head[2].in_features, head[2].out_features) == (channels * count, 64)
        assert (head[5].in_features, head[5].out_features) == (64, 10)
        maps = torch.randn(2, channels, side, side)
        means = F.avg_pool2d(maps, 6)
        assert torch.allclose(head[0](maps), means, atol=1e-6)
        assert torch.allclose(pooled(maps, 6), means, atol=1e-6)
        head.eval()
        assert torch.allclose(head(means), head(maps), atol=1e-5)


def test_maps_of_plain_images_are_no_multiple_of_the_window():
    """Maps of 7×7: four windows of 4×4 places that overlap by one; of 4×4: one window."""
    maps = torch.randn(2, 3, 7, 7)
    found = pooled(maps, CascadedInference().window)
    assert found.shape == (2, 3, 2, 2)
    assert torch.allclose(found[:, :, 1, 0], maps[:, :, 3:, :4].mean(dim=(2, 3)), atol=1e-6)
    assert torch.allclose(pooled(maps[:, :, :4, :4], 6)[:, :, 0, 0], maps[:, :, :4, :4].mean(dim=(2, 3)), atol=1e-6)


@pytest.fixture
def begun(wired):
    chosen = {"batch": 50, "epochs": 1.5, "head_epochs": 2.5, "rate": 3e-3, "head_rate": 7e-3}
    return wired(registry.get(KEY).variant("training images", "tiny").replace(chosen))


def test_the_first_stage_trains_the_plain_network_alone(begun):
    model, (stage, _) = begun
    index = torch.arange(5, 25)
    x, y = torch.stack([stage.train.inputs[i] for i in range(5, 25)]), stage.train.targets[5:25]
    with torch.no_grad():
        expected = float(F.cross_entropy(model.full(x), y))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected, rel=1e-4)
    plain = [*model.stages.parameters(), *model.heads[-1].parameters()]
    assert stage.rates == {id(p): 3e-3 for p in plain}
    assert (stage.epochs, stage.batch, len(stage.train)) == (1.5, 50, 600)


def test_the_second_stage_trains_the_classifiers_alone_on_frozen_means(begun):
    model, (first, stage) = begun
    assert stage.rates == {id(p): 7e-3 for p in model.heads[:-1].parameters()}
    assert (stage.epochs, stage.batch, len(stage.train)) == (2.5, 50, 600)
    assert torch.equal(stage.train.targets, first.train.targets)
    index, read = next(stage.train.batches(50))
    x, y = torch.stack([first.train.inputs[i] for i in index]), stage.train.targets[index]
    with torch.no_grad():
        maps = list(model.states(x))[:-1]
        losses = [float(F.cross_entropy(head(each), y)) for head, each in zip(model.heads, maps, strict=False)]
    assert all(torch.allclose(a, pooled(b, 2), atol=1e-5) for a, b in zip(read, maps, strict=True))
    model.heads.eval()  # so that the loss does not depend on which images share a batch
    assert stage.loss(stage.batch_of(index, read)).item() == pytest.approx(sum(losses), rel=1e-4)


def test_the_full_network_stays_bit_for_bit_what_the_first_stage_made_of_it(prepared):
    method, _, ready = prepared(KEY)
    short = method.replace({"epochs": 0.2, "head_epochs": 0.2})
    alone, both = short.build(ready.data, 0), short.build(ready.data, 0)
    train_plain(alone, ready.data, Bench(), **short.options)
    short.train(both, ready.data, Bench())
    a, b = alone.plain_network().state_dict(), both.plain_network().state_dict()
    assert all(torch.equal(a[name], b[name]) for name in a)
    x = torch.stack(list(ready.data.validation.inputs[:8]))
    assert torch.equal(alone.full(x), both.full(x))
    moved = zip(alone.heads[:-1].parameters(), both.heads[:-1].parameters(), strict=True)
    assert not any(torch.equal(p, q) for p, q in moved)


# Where the curves are drawn.


@pytest.mark.parametrize(
    ("variant", "part", "images"), [("training images", "train", 600), ("held out", "fitting", 150)]
)
def test_curves_are_drawn_on_all_images_of_their_part(prepared, variant, part, images):
    method, bench, _ = prepared(KEY, variant)
    ready = method.prepare(replace(bench, test=None))
    seen = ready.split(part)
    assert len(seen.targets) == images
    for m, curve in enumerate(ready.fitted):
        by_hand = curve_of(seen.outputs[m].double().numpy(), seen.targets.numpy())
        assert curve.confidences == pytest.approx(by_hand.confidences)
        assert curve.accuracies == pytest.approx(by_hand.accuracies)
    assert len(ready.fitted) == ready.model.exits - 1
    rule = method.rule(0.02, ready)
    assert rule == MaxConfidence([threshold(curve, 0.02) for curve in ready.fitted])


def test_variants_share_their_training(prepared):
    ours, theirs = (prepared(KEY, variant)[2].bench.trainings for variant in CascadedInference.variants)
    assert set(ours) == set(theirs)


def test_the_ends_of_the_knob_stop_everybody_and_nobody(prepared):
    method, _, ready = prepared(KEY)
    exits = ready.model.exits
    assert method.rule(method.knobs[0], ready) == MaxConfidence([0.0] * (exits - 1))
    assert method.rule(method.knobs[-1], ready) == MaxConfidence([INF] * (exits - 1))


def test_normalisation_is_folded_in_what_is_deployed(prepared):
    _, _, ready = prepared(KEY)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ready.model.modules())


# What is claimed.


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


def cut_off(best=0.89):
    """Return the baseline of exits by themselves, of which the second is the best before the whole network."""
    return [SimpleNamespace(name="static exit", test=points((1, 0.5, 4.0), (2, best, 2.0), (3, 0.9, 1.0)))]


@pytest.mark.parametrize(
    ("speed_up", "test", "holds"), [(1.2, 0.886, True), (1.17, 0.886, False), (1.2, 0.884, False), (1.2, 0.91, True)]
)
def test_fifteen_percent_must_be_saved_by_the_tolerance_chosen_on_validation_images(speed_up, test, holds):
    curve = SimpleNamespace(
        validation=points((0.2, 0.88, 2.0), (0.1, 0.895, speed_up), (-1.0, 0.9, 1.0)),
        test=points((0.2, 0.9, 2.0), (0.1, test, speed_up), (-1.0, 0.9, 1.0)),
        full_quality=0.9,
        baselines=cut_off(),
    )
    found = saving(curve)
    assert found.holds is holds
    assert "tolerance 0.1" in found.measured


@pytest.mark.parametrize(
    ("qualities", "holds", "told"),
    [((0.79, 0.795, 0.895), True, "0.1: accuracy -0.1100"), ((0.79, 0.88, 0.885), False, "0: accuracy -0.0150")],
)
def test_every_tolerance_up_to_a_tenth_must_be_kept(qualities, holds, told):
    """Those of 0.3 and below 0 are not asked."""
    early, *late = [(knob, quality, 1.5) for knob, quality in zip((0.1, 0.1, 0.0), qualities, strict=True)]
    swept = points((0.3, 0.1, 2.0), early, *late, (-1.0, 0.1, 1.0))
    found = kept(SimpleNamespace(test=swept, full_quality=0.9, baselines=cut_off()))
    assert found.holds is holds
    assert told in found.measured


@pytest.mark.parametrize(("best", "comparable"), [(0.899, True), (0.9, False), (0.92, False)])
def test_where_one_exit_is_as_good_as_the_network_thresholds_show_nothing(best, comparable):
    swept = points((0.1, 0.9, 2.0), (-1.0, 0.9, 1.0))
    curve = SimpleNamespace(validation=swept, test=swept, full_quality=0.9, baselines=cut_off(best))
    for found in (saving(curve), kept(curve)):
        assert (found.holds, found.not_comparable == "") == (comparable, comparable)
        if not comparable:
            assert f"Classifier 2 by itself, for 50% of the cost, reaches {best:.4f}" in (found.not_comparable)


def test_own_thresholds_are_compared_with_one_for_all_at_equal_cost(prepared, monkeypatch):
    """Ours first: those of all tolerances but the ends; the rivals have one threshold for all exits."""
    method, _, ready = prepared(KEY)
    given = []
    monkeypatch.setattr(
        claimed, "gains_at_equal_cost", lambda *args: given.extend([*args[:2], *map(list, args[2:])]) or [0.006]
    )
    found = own_thresholds(method, ready)
    assert given[:2] == [method, ready]
    inner = method.knobs[1:-1]
    assert given[2] == [MaxConfidence([threshold(curve, knob) for curve in ready.fitted]) for knob in inner]
    assert given[3] == [MaxConfidence(shared) for shared in claimed.SHARED]
    assert (found.name, found.holds) == ("better than one threshold for all", True)
