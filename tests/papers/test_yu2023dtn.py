"""What the reconstructed DTN promises: tokens from coarse to fine, and data in which the width of a defect is known."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims import yu2023dtn as claimed
from eelit.methods.data import cells, surfaces
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.yu2023dtn import DynamicTransformer, macro_f1

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


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"q": (1, 2)}, "from coarse to fine"),
        ({"q": ()}, "from coarse to fine"),
        ({"q": (2, 2)}, "from coarse to fine"),
        ({"q": (3, 1)}, "do not fill 16"),
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


def test_claims_can_fail():
    widths = np.array([0, 1, 9], dtype=np.float32)
    assert claimed.wide_first(np.array([1, 2, 0]), widths, 0.9).holds
    assert not claimed.wide_first(np.array([1, 1, 1]), widths, 0.9).holds
    targets = torch.tensor([0, 1, 1])
    told = F.one_hot(torch.tensor([[0, 0, 1], [0, 1, 1]])).float()
    assert claimed.thin_found(told, targets, widths).holds
    assert not claimed.thin_found(told[:1], targets, widths).holds


def test_claims_about_cells_can_fail():
    assert claimed.fine_better(0.6, 0.66).holds
    assert not claimed.fine_better(0.6, 0.64).holds


def test_of_cells_no_width_is_asked_for(monkeypatch):
    monkeypatch.setattr(claimed, "replay", lambda rule, outputs: np.array([0, 1, 2]))
    prepared = SimpleNamespace(split=lambda part: {"test": SimpleNamespace(outputs=None)}[part])
    method = SimpleNamespace(
        source="cells", rule=lambda eta, prepared: None, static=lambda seen: points((1, 0.5, 10), (2, 0.9, 100))
    )
    held = points((0.5, 0.9, 10), (1.1, 0.9, 100))
    curve = SimpleNamespace(validation=held, test=held, full_quality=0.9, chance=None, quality="F1")
    found = claimed.claims(method, prepared, None, curve)
    assert [outcome.name for outcome in found] == ["a third saved at equal F1", "fine tokens find more"]
    assert found[1].measured == "F1 0.5000 at the first stage, 0.9000 at the last"


def points(*each):
    """Operating points of a knob, a quality and a cost of 100."""
    return [OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=[1.0]) for k, q, c in each]


def test_all_claims_are_tried_at_the_cheapest_eta_that_loses_a_point(monkeypatch):
    """An eta that loses a point and a half on validation data would be cheaper; what is told is seen on test data."""
    asked, exits = [], np.array([1, 2, 0])
    monkeypatch.setattr(claimed, "replay", lambda rule, outputs: asked.append(rule) or exits)
    told = F.one_hot(torch.tensor([[0, 0, 1], [0, 1, 1]])).float()
    seen = SimpleNamespace(outputs=told, targets=torch.tensor([0, 1, 1]))
    widths = SimpleNamespace(targets=torch.tensor([0.0, 1.0, 9.0, 5.0]))  # more than were looked at
    prepared = SimpleNamespace(
        split=lambda part: {"test": seen}[part], data=SimpleNamespace(part=lambda name: {"test widths": widths}[name])
    )
    held = points((0.5, 0.5, 10), (0.9, 0.885, 20), (0.98, 0.895, 40), (1.1, 0.9, 100))
    test = points((0.5, 0.5, 10), (0.9, 0.9, 20), (0.98, 0.88, 62.5), (1.1, 0.9, 100))
    method = SimpleNamespace(source="surfaces", rule=lambda eta, prepared: ("rule", eta))
    full = {"full_quality": 0.895, "chance": None, "quality": "F1"}
    curve = SimpleNamespace(validation=held, test=test, **full)
    found = claimed.claims(method, prepared, None, curve)
    assert asked == [("rule", 0.98)]
    assert [outcome.name for outcome in found] == [
        "a third saved at equal F1", "fine tokens find thin defects", "wide defects leave sooner"
    ]  # fmt: skip
    assert found[0].measured == "37.5% of the MACs saved, F1 -0.0150, at eta = 0.98"
    assert found[1].measured.endswith("thin 0.0% and 100.0%, wide 100.0% and 100.0%")
    assert found[2].measured == "wide at stage 1.00, thin at 3.00, sound at 2.00, at eta = 0.98"
    assert all(outcome.holds for outcome in found)
    dear = [*test[:2], test[2].model_copy(update={"speed_up": 1.49}), test[3]]
    poor = [*test[:2], test[2].model_copy(update={"quality": 0.87}), test[3]]
    for worse in (dear, poor):
        curve = SimpleNamespace(validation=held, test=worse, **full)
        assert not claimed.claims(method, prepared, None, curve)[0].holds
    assert not found[0].not_comparable
    level = [test[0].model_copy(update={"quality": 0.876}), *test[1:]]
    curve = SimpleNamespace(validation=held, test=level, **full)
    assert "0.02 may be lost" in claimed.claims(method, prepared, None, curve)[0].not_comparable
