"""What the reconstructed DTN promises: tokens from coarse to fine, and data in which the width of a defect is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import yu2023dtn as claimed
from eelit.methods.claims.paired import Difference
from eelit.methods.data import cells, surfaces
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.yu2023dtn import DynamicTransformer, embedding, macro_f1

KEY = "yu2023dtn"


def tiny(**settings):
    return registry.get(KEY).variant("drawn defects", "tiny").replace(settings)


def network(**settings):
    method = tiny(**{"q": (4, 2, 1), **settings})
    return method.build(method.load().without_test(), seed=0).eval()


# The network.


def test_tokens_become_finer_and_join_those_before():
    x = torch.randn(3, 1, 16, 16)
    shapes = [tuple(Z.shape) for _, Z in network().states(x)]
    assert shapes == [(3, 1 + 4, 16), (3, 1 + 4 + 16, 16), (3, 1 + 4 + 16 + 64, 16)]


def test_a_coarse_stage_sees_means_alone():
    model, x = network(), torch.randn(2, 1, 16, 16)
    blurred = F.interpolate(F.avg_pool2d(x, 4), scale_factor=4)
    same = [torch.allclose(a, b, atol=1e-5) for a, b in zip(model(x), model(blurred), strict=True)]
    assert same == [True, False, False]


def test_every_stage_sees_the_whole_picture():
    model = network()
    x = torch.randn(1, 1, 16, 16, requires_grad=True)
    for output in model(x):
        (slope,) = torch.autograd.grad(output.sum() + output[0, 0], x, retain_graph=True)
        assert (slope.abs() > 0).float().mean() > 0.99


def test_tokens_know_where_they_are():
    model = network()
    x = torch.randn(1, 1, 16, 16)
    assert not torch.allclose(model(x), model(x.flip(-1)), atol=1e-5)


def test_a_head_reads_the_class_token_alone():
    model = network()
    x, Z = model.stages[0](torch.randn(2, 1, 16, 16))
    other = torch.cat([Z[:, :1], torch.randn_like(Z[:, 1:])], dim=1)
    assert torch.equal(model.heads[0]((x, other)), model.heads[0]((x, Z)))


def test_with_one_stage_it_is_an_ordinary_classifier():
    model, x = network(q=(1,)), torch.randn(2, 1, 16, 16)
    assert torch.equal(model(x)[0], model.full(x))


def test_a_token_is_made_of_its_patch_by_halvings_or_by_one_linear_layer():
    x = torch.randn(1, 1, 16, 16)
    halved, linear = embedding(8, 12, 4), embedding(8, 12, 0)
    assert [layer.out_channels for layer in halved if not isinstance(layer, nn.GELU)] == [4, 8, 12]
    assert halved(x).shape == linear(x).shape == (1, 12, 2, 2)
    assert isinstance(halved[-1], nn.Conv2d)
    assert sum(isinstance(layer, nn.GELU) for layer in halved) == 2
    assert isinstance(network(patch=4, q=(4, 1), filters=4).stages[0].patches, nn.Sequential)
    moved = x.clone()
    moved[..., 15, 15] += 1
    assert torch.equal(linear(moved)[..., 0, :], linear(x)[..., 0, :])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"q": (1, 2)}, "from coarse to fine"),
        ({"q": ()}, "from coarse to fine"),
        ({"q": (2, 2)}, "from coarse to fine"),
        ({"q": (3, 1)}, "do not fill 16"),
        ({"q": (1,), "side": 12, "patch": 3, "filters": 4}, "not 3"),
        ({"heads": 3}, "cannot be shared by 3 heads"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        network(**settings)


# Training and rule.


def test_all_stages_weigh_alike(stages):
    method = tiny()
    (stage,) = stages(method)
    assert stage.steps == round(method.epochs * math.ceil(1200 / method.batch))
    assert {*stage.rates.values()} == {method.rate}
    model = method.build(method.load().without_test(), 0)
    index = torch.arange(6)
    x = torch.stack([stage.train.inputs[i] for i in range(6)])
    expected = sum(F.cross_entropy(output, stage.train.targets[:6]) for output in model(x))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(stage.rates) == len([*model.parameters()])


def test_a_probability_that_just_reaches_the_threshold_stops():
    outputs = torch.zeros(3, 1, 2)
    policy = DynamicTransformer().policy
    assert replay(policy(0.5, None), outputs).tolist() == [0]
    assert replay(policy(0.5000001, None), outputs).tolist() == [2]


def test_f1_by_hand():
    answers, targets = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 1, 1, 1, 0])
    assert macro_f1(answers, targets) == pytest.approx((2 / 4 + 4 / 5 + 0) / 3)
    assert macro_f1(targets, targets) == 1


def test_chance_is_what_labels_in_any_order_reach(prepared):
    method, bench, ready = prepared(KEY)
    found, targets = method.chance(ready, bench), ready.split("test").targets
    shares = torch.bincount(targets) / len(targets)
    assert found.quality == pytest.approx(float(shares.mean()), abs=0.03)
    assert 0 < found.error < 0.1


def test_fine_tokens_see_more(prepared):
    method, _, ready = prepared(KEY)
    first, *_, last = method.static(ready.split("test"))
    assert last.quality > first.quality + 0.05


# Data.


def made(**sizes):
    return surfaces.inspected("made", **{"side": 16, "train": 300, "validation": 50, "test": 50, **sizes})


def test_half_of_the_pictures_are_sound_and_the_others_have_a_width():
    part = made().train
    assert part.images.shape == (300, 1, 16, 16)
    shares = np.bincount(part.labels) / 300
    assert np.allclose(shares, surfaces.SHARES, atol=0.08)
    assert ((part.widths > 0) == (part.labels > 0)).all()
    wide = part.widths[part.widths > 0]
    assert surfaces.WIDTHS[0] <= wide.min() < 1.5
    assert 7 < wide.max() <= surfaces.WIDTHS[1]


def test_defects_are_as_wide_as_they_are_said_to_be():
    random = np.random.default_rng(0)
    for width in (1.0, 3.0, 6.0):
        pits = np.mean([surfaces._pit(48, width, random).sum() for _ in range(60)])
        assert pits == pytest.approx(np.pi * width**2, rel=0.25)
        lines = [surfaces._scratch(48, width, random) for _ in range(40)]
        assert 0.2 * 48 * width < np.mean([line.sum() for line in lines]) < 1.2 * 48 * width
        assert max(line.max() for line in lines) > 0.9


def test_more_training_pictures_leave_the_others_as_they_are():
    few, many = made(), made(train=400)
    assert np.array_equal(few.test.images, many.test.images)
    assert np.array_equal(few.train.images, made().train.images)
    assert few.digest != many.digest


def test_what_there_is_not_is_refused():
    with pytest.raises(ValueError, match="no surfaces 'steel'"):
        surfaces.inspected("steel", side=16, train=1, validation=1, test=1)
    with pytest.raises(ValueError, match="sides from 8 to 32"):
        made(side=40)


def test_neighbours_stay_together_and_a_new_type_begins_a_new_block():
    found = cells.parts_of(["mono"] * 70 + ["poly"] * 130)
    assert found == ["train"] * 60 + ["validation"] * 10 + ["train"] * 60 + ["test"] * 60 + ["train"] * 10


def test_poses_are_all_ways_to_turn_and_mirror_a_square():
    square = np.arange(9, dtype=np.float32).reshape(3, 3)
    found = {cells.posed(square, pose).tobytes() for pose in range(cells.POSES)}
    assert len(found) == 8
    assert np.array_equal(cells.posed(square, 0), square)


# Claims.


def test_thirds_are_of_the_defects_alone():
    thin, wide = claimed.thirds(np.array([0, 0, 0, 1, 2, 3, 4, 5, 6], dtype=np.float32))
    assert np.flatnonzero(thin).tolist() == [3, 4]
    assert np.flatnonzero(wide).tolist() == [7, 8]


@pytest.mark.parametrize(
    ("said", "holds"),
    [
        ((0, 0.0, 1.0, 1.0), False),  # nothing is gained
        ((0.0, 1.0, 1.0, 1.0), True),
        ((0.0, 0.05, 1.0, 1.0), False),  # less than ten points
        ((0.0, 0.5, 0.0, 0.5), False),  # as much of the wide ones
    ],
)
def test_thin_defects_must_gain_ten_points_and_more_than_wide_ones(said, holds):
    """Shares of thin and of wide defects that the first and the last stage tell."""
    n = 100
    told = torch.zeros(2, 2 * n, dtype=torch.long)
    for stage, thin, wide in ((0, said[0], said[2]), (1, said[1], said[3])):
        told[stage, : round(n * thin)] = 1
        told[stage, n : n + round(n * wide)] = 1
    widths = np.repeat(np.array([1, 9], dtype=np.float32), n)
    found = claimed.thin_found(F.one_hot(told).float(), torch.ones(2 * n, dtype=torch.long), widths)
    assert found.name == "fine tokens find thin defects"
    assert found.holds is holds
    assert f"thin {said[0]:.1%} and {said[1]:.1%}" in found.measured
    assert f"wide {said[2]:.1%} and {said[3]:.1%}" in found.measured


def test_few_defects_prove_nothing():
    """One of two thin ones more is told: half of them, but with as large an error."""
    told = F.one_hot(torch.tensor([[0, 0, 1, 1, 0], [0, 1, 1, 1, 0]])).float()
    widths = np.array([1, 1, 9, 9, 0], dtype=np.float32)
    assert not claimed.thin_found(told, torch.tensor([1, 1, 1, 1, 0]), widths).holds
    assert not claimed.wide_first(np.array([0, 2, 0, 1, 1]), widths, 0.9).holds


@pytest.mark.parametrize(("stages", "holds"), [((2, 0), True), ((1, 1), False), ((0, 2), False)])
def test_wide_defects_must_leave_a_quarter_of_a_stage_sooner(stages, holds):
    thin, wide = stages
    widths = np.array([0, 1, 1, 9, 9], dtype=np.float32)
    found = claimed.wide_first(np.array([1, thin, thin, wide, wide]), widths, 0.9)
    assert found.name == "wide defects leave sooner"
    assert found.holds is holds
    assert found.measured.startswith(f"wide at stage {wide + 1:.2f}, thin at {thin + 1:.2f} (apart by ")
    assert found.measured.endswith("sound at 2.00, at eta = 0.9")


@pytest.mark.parametrize(("later", "holds"), [(20, False), (45, True)])
def test_a_fifth_of_a_stage_is_too_little(later, holds):
    """Of a hundred thin defects so many leave one stage after the wide ones, none of which differ."""
    widths, exits = np.repeat(np.array([1, 9, 0], dtype=np.float32), [100, 100, 1]), np.zeros(201, dtype=np.int64)
    exits[:later] = 1
    assert claimed.wide_first(exits, widths, 0.9).holds is holds


def test_means_of_two_kinds_are_apart_by_both_errors():
    found = claimed.between(Difference(0.5, 0.03), Difference(0.2, 0.04))
    assert (found.mean, found.error) == pytest.approx((0.3, 0.05))


def test_f1_of_the_same_pictures_is_compared_on_the_same_resamples():
    """By hand: the first says class 1 of everything, so its F1 is (0 + 2/3) / 2; the error is that of draws anew."""
    targets = torch.tensor([0, 1] * 50)
    right, one = F.one_hot(targets).float(), F.one_hot(torch.ones(100, dtype=torch.long)).float()
    found = claimed.in_f1(right, one, targets)
    assert found.mean == pytest.approx(1 - 1 / 3)
    assert found.error == pytest.approx(100 / 150**2 * 5, rel=0.1)  # of k ones F1 is k / (100 + k), and k = 50 ± 5
    same = claimed.in_f1(one, one, targets)
    assert (same.mean, same.error) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("gain", "holds"),
    [(Difference(0.06, 0.02), True), (Difference(0.04, 0.001), False), (Difference(0.06, 0.04), False)],
)
def test_fine_tokens_must_gain_five_points_beyond_chance(gain, holds):
    found = claimed.fine_better(gain, 0.6)
    assert found.holds is holds
    assert found.measured == f"F1 0.6000 at the first stage, {0.6 + gain.mean:.4f} at the last ({gain})"


@pytest.mark.parametrize(
    ("speed_up", "lost", "holds"),
    [
        (1.6, Difference(-0.015, 0.002), True), (1.49, Difference(-0.015, 0.002), False),
        (1.6, Difference(-0.015, 0.004), False), (1.6, Difference(-0.03, 0.002), False),
    ],
)  # fmt: skip
def test_a_third_is_saved_at_two_points_of_f1_errors_included(speed_up, lost, holds):
    test = points((0.5, 0.5, 10), (0.98, 0.88, 62.5))
    curve = SimpleNamespace(test=test, full_quality=0.895, chance=None, quality="F1")
    found = claimed.saved(curve, test[1].model_copy(update={"speed_up": speed_up}), lost, None)
    assert found.holds is holds
    assert not found.not_comparable
    level = SimpleNamespace(test=points((0.5, 0.876, 10)), full_quality=0.895, chance=None, quality="F1")
    assert "0.02 may be lost" in claimed.saved(level, test[1], lost, None).not_comparable


def points(*each):
    """Operating points of a knob, a quality and a cost of 100."""
    return [OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=[1.0]) for k, q, c in each]


@pytest.mark.parametrize("source", ["cells", "surfaces"])
def test_claims_are_tried_at_the_cheapest_eta_that_loses_a_point(monkeypatch, source):
    """An eta that loses a point and a half on validation data would be cheaper; what is told is seen on test data.

    Of the pictures the sound one is told by no stage, the second one by the last, the third one by both.
    """
    asked, exits = [], np.array([1, 2, 0])
    monkeypatch.setattr(claimed, "replay", lambda rule, outputs: asked.append(rule) or exits)
    stages = torch.tensor([[1, 0, 2], [2, 1, 2], [2, 1, 2]])
    seen = SimpleNamespace(outputs=F.one_hot(stages).float(), targets=torch.tensor([0, 1, 2]))
    widths = SimpleNamespace(targets=torch.tensor([0.0, 1.0, 9.0, 5.0]))  # more than were looked at
    prepared = SimpleNamespace(
        split=lambda part: {"test": seen}[part], data=SimpleNamespace(part=lambda name: {"test widths": widths}[name])
    )
    held = points((0.5, 0.5, 10), (0.9, 0.885, 20), (0.98, 0.895, 40), (1.1, 0.9, 100))
    test = points((0.5, 0.5, 10), (0.9, 0.9, 20), (0.98, 0.88, 62.5), (1.1, 0.9, 100))
    method = SimpleNamespace(source=source, rule=lambda eta, prepared: ("rule", eta))
    curve = SimpleNamespace(validation=held, test=test, full_quality=0.895, chance=None, quality="F1")
    found = claimed.claims(method, prepared, None, curve)
    assert asked == [("rule", 0.98)]
    known = ["fine tokens find thin defects", "wide defects leave sooner"] if source == "surfaces" else []
    assert [each.name for each in found] == ["a third saved at equal F1", "fine tokens find more", *known]
    assert found[0].measured.startswith("37.5% of the MACs saved, F1 +0.0000 ± 0.0000, at eta = 0.98")
    assert found[1].measured.startswith("F1 0.3333 at the first stage, 0.5556 at the last (+0.2222 ± ")
    if known:
        assert "thin 0.0% and 100.0% (" in found[2].measured
        assert "wide 100.0% and 100.0% (" in found[2].measured
        assert found[3].measured.startswith("wide at stage 1.00, thin at 3.00")
        assert "sound at 2.00" in found[3].measured
