"""The models that cascades on images are made of: what they are, what they cost, and how they are trained."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from torch import nn

from eelit.methods.engine import tasks
from eelit.methods.engine.members import Estimator, Network, flat
from eelit.methods.engine.method import Bench
from eelit.methods.families.image_cascades import MEMBERS, ImageCascadeMethod, Means
from eelit.methods.harness import registry
from eelit.methods.policies.max_confidence import MaxConfidence


@dataclass(frozen=True)
class Chain(ImageCascadeMethod):
    """All four models."""

    members: tuple[str, ...] = MEMBERS
    images: str = "cluttered"
    train_size: int = 6000
    window: int = 4
    trees: int = 200
    depth: int = 12
    comparison: float = 1.0
    small_widths: tuple[int, ...] = (32, 64)
    pixels: int = 4
    widths: tuple[int, ...] = (128, 256)
    blocks: int = 3
    half: bool = True
    epochs: float = 2.0
    batch: int = 32
    rate: float = 2e-3

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.7, 1.1)

    def policy(self, knob, prepared):
        return MaxConfidence(knob)


@pytest.fixture(scope="module")
def trained():
    method, bench = Chain().variant("", "tiny"), Bench(executed=48, repeats=1)
    return method, bench, method.prepare(bench)


def test_models_are_of_four_kinds_from_the_cheapest_to_the_dearest(trained):
    method, _, ready = trained
    linear, forest, small, large = ready.model.members
    assert isinstance(linear.estimator, LogisticRegression)
    assert isinstance(forest.estimator, RandomForestClassifier)
    assert isinstance(small, Network)
    assert isinstance(large, Network)
    own = ready.split("test").static_costs
    assert all((a < b).all() for a, b in pairwise([own[0], own[2], own[3]]))
    assert own.mean(axis=1)[1] < own.mean(axis=1)[2]
    assert (own[0] == 4 * 10).all()  # means over 4×4 of 8×8 pixels, ten classes
    assert own[1].max() <= method.trees * method.depth
    assert forest.estimator.n_estimators == method.trees
    assert max(tree.get_depth() for tree in forest.estimator.estimators_) == method.depth


def test_what_each_costs_is_counted_from_outside(trained):
    method, bench, ready = trained
    for knob in method.knobs:
        done = method.execute(ready, bench, knob)
        assert done.counted == pytest.approx(done.claimed)
        assert done.agrees


def test_a_comparison_has_its_price(trained):
    method, _, ready = trained
    x = torch.stack(list(ready.data.test.inputs[:5]))
    forest = ready.model.members[1]
    dear = Estimator(forest.estimator, 10, comparison=2.5, view=forest.view)
    assert dear.costs(x).tolist() == (2.5 * forest.costs(x)).tolist()
    built = method.replace({"comparison": 2.5}).build(ready.data, 0)
    assert [m.comparison for m in built.members[:2]] == [2.5, 2.5]


def test_means_by_hand():
    x = torch.arange(36.0).reshape(1, 1, 6, 6)
    assert Means(6)(x).tolist() == [[17.5]]
    assert Means(3)(x).tolist() == [[7.0, 10.0, 25.0, 28.0]]
    found = Means(4)(x)  # 4 and 2 rows and columns
    assert found.tolist() == [[10.5, 13.5, 28.5, 31.5]]
    assert np.array_equal(Means(1)(x), flat(x))


def test_a_model_that_there_is_not_is_refused():
    method = Chain().variant("", "tiny").replace({"members": ("linear", "huge")})
    with pytest.raises(ValueError, match="no member 'huge'; there are linear, forest, small, large"):
        method.build(method.load(), 0)


@pytest.mark.parametrize(("setting", "value"), [("window", 0), ("comparison", -1.0), ("comparison", float("nan"))])
def test_numbers_that_are_none_of_theirs_are_refused(setting, value):
    method = Chain().variant("", "tiny").replace({setting: value})
    with pytest.raises(ValueError, match=f"^ImageCascadeMethod: {setting} is one"):
        method.build(method.load(), 0)


def test_the_small_network_is_plain_with_two_convolutions_of_each_width_and_the_large_one_residual(trained):
    method, _, ready = trained
    small, large = (method.member(name, ready.data, 0).network for name in ("small", "large"))
    convolutions = [part.out_channels for part in small.modules() if isinstance(part, nn.Conv2d)]
    assert convolutions == [8, 8, 16, 16]
    assert [part.out_channels for part in large.modules() if isinstance(part, nn.Conv2d)] == [16, 16, 16, 32, 32, 32]
    for network in (small, large):
        first = next(part for part in network.modules() if isinstance(part, nn.Conv2d))
        assert first.stride == (method.pixels, method.pixels)
        assert first.weight.is_contiguous(memory_format=torch.channels_last)


def test_normalisation_is_folded_in_what_is_deployed(trained):
    _, _, ready = trained
    assert not any(isinstance(part, nn.BatchNorm2d) for part in ready.model.modules())
    assert not ready.model.training


def test_each_network_learns_from_all_training_images_by_its_own_loss(wired):
    method = Chain().variant("", "tiny").replace({"epochs": 1.5, "batch": 50, "rate": 3e-3})
    model, stages = wired(method)
    assert len(stages) == 2
    for member, stage in zip(model.members[2:], stages, strict=True):
        assert stage.rates == {id(p): 3e-3 for p in member.parameters()}
        assert (stage.epochs, stage.batch, len(stage.train)) == (1.5, 50, 600)
        x, y = torch.stack(stage.train.inputs[:20]), stage.train.targets[:20]
        model.eval()
        expected = nn.functional.cross_entropy(member(x), y)
        assert stage.loss(stage.batch_of(torch.arange(20), x)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_the_large_network_is_trained_under_the_name_of_the_plain_network_of_other_rows():
    """Its cache serves both: same weights before, same training."""
    sdn = registry.get("kaya2019sdn").variant("IC-only", "tiny").replace({"epochs": 2.0})
    shared = ("images", "train_size", "pixels", "widths", "blocks", "half", "epochs", "batch", "rate")
    ours = Chain().variant("", "tiny").replace({name: getattr(sdn, name) for name in shared})
    trainings = []
    for method in (sdn, ours.replace({"members": ("large",)})):
        bench = Bench(most_steps=0)
        method.prepare(bench)
        trainings.append(set(bench.trainings))
    assert trainings[1] < trainings[0]


def test_data_are_those_of_the_image_tracks():
    assert Chain().data == ("fashion-mnist",)
    assert Chain().variant("", "tiny").load().digest == tasks.images("digits", train=600).digest
