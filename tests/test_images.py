"""The contract for images, tried with an invented method: internal classifiers at cost shares, in one or two stages."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.families.images import NETWORKS, ImageMethod
from eelit.methods.harness import conformance, registry, runner
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads

SHARES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Shallow(ImageMethod):
    """What shallow-deep networks do: heads on a frozen network, or everything together."""

    two_stage: bool = True
    network: str = "resnet"
    pixels: int = 2
    widths: tuple[int, ...] = (64, 128, 256)
    blocks: int = 3
    shares: tuple[float, ...] = SHARES
    images: str = "fashion-mnist"
    train_size: int = 12000
    half: bool = False
    epochs: float = 4.0
    batch: int = 64
    rate: float = 1e-3

    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = (0.0, 0.5, 0.7, 0.9, 0.99, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "two stages": {}, "joint": {"two_stage": False}, "plain": {"two_stage": False, "network": "vgg"},
    }  # fmt: skip

    def train(self, model, data, bench):
        if self.two_stage:
            train_plain(model, data, bench, **self.options)
            train_heads(model, data, bench, **{**self.options, "epochs": 3.0})
        else:
            super().train(model, data, bench)

    def policy(self, knob, prepared):
        return MaxConfidence(knob)


def tiny(variant):
    return Shallow().variant(variant, "tiny")


@pytest.fixture(scope="module")
def ready():
    """Return variant → (method, bench, prepared), trained once."""
    found = {}

    def of(variant):
        if variant not in found:
            method, bench = tiny(variant), Bench(executed=48, cache=Path(os.environ["EELIT_TEST_CACHE"]))
            found[variant] = method, bench, method.prepare(bench)
        return found[variant]

    return of


def test_where_exits_stand_changes_nothing_of_the_plain_network_and_its_training(tmp_path):
    """However many heads there are, and of whichever kind, the plain network is trained once."""
    method, bench = tiny("two stages"), Bench(cache=tmp_path, most_steps=2)
    data = method.load()
    for shares in ((0.2, 0.6), (0.6,)):
        model = method.replace({"shares": shares}).build(data, seed=0)
        train_plain(model, data, bench, **method.options)
    other = NETWORKS["resnet"](
        data.train.inputs[0].shape, 10, widths=method.widths, blocks=1, shares=(0.6,), seed=0, pixels=2, half=False,
        head=lambda shape: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(shape[0], 10)),
    ).to(memory_format=torch.channels_last)  # fmt: skip
    train_plain(other, data, bench, **method.options)
    assert len(bench.trainings) == 1
    assert len(list((tmp_path / "weights").glob("*.kept"))) == 1
    assert torch.equal(model.full(data.train.inputs[0][None]), other.full(data.train.inputs[0][None]))


def test_what_is_measured_and_executed_is_the_folded_network(ready):
    model = ready("joint")[2].model
    assert not any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert not model.training


@pytest.mark.parametrize("variant", Shallow.variants)
def test_the_rules_of_all_methods_are_kept(ready, variant):
    method, bench, prepared = ready(variant)
    curve = runner.measure(method, prepared, bench, variant)
    assert [rule.name for rule in conformance.of_curve(method, curve) if not rule.holds] == []
    assert curve.full_quality > 0.7
    assert curve.each_exit[0].quality > 0.3


@pytest.mark.parametrize("variant", Shallow.variants)
def test_replay_is_what_really_runs_whoever_the_batch_mates_are(ready, variant):
    _, _, prepared = ready(variant)
    seen, policy = prepared.split("test"), MaxConfidence(0.7)
    x, exits = torch.stack(list(seen.examples.inputs[:40])), replay(policy, seen.outputs)[:40]
    assert len(set(exits.tolist())) > 1
    assert infer(prepared.model, x, policy).exits.tolist() == exits.tolist()
    assert [int(infer(prepared.model, one, policy).exits) for one in x.split(1)] == exits.tolist()


def test_stages_of_training_hold_what_they_should(stages):
    plain, heads = stages(tiny("two stages"))
    assert len(plain.train) == len(heads.train) == 600
    assert (plain.epochs, heads.epochs) == (8.0, 3.0)
    model = Shallow().variant("two stages", "tiny").build(tiny("two stages").load(), 0)
    assert len(heads.rates) == len(list(model.heads[:-1].parameters()))
    assert len(plain.rates) == len(list(model.plain_network().parameters()))
    (joint,) = stages(tiny("joint"))
    assert len(joint.rates) == len(list(model.parameters()))
    index = torch.arange(4)
    batch = joint.batch_of(index, torch.stack(joint.train.inputs[:4]))
    assert joint.loss(batch).item() > plain.loss(batch).item()


def test_an_unknown_network_is_refused():
    with pytest.raises(ValueError, match="no network 'nonsense'; there are resnet, vgg, efficientnet-lite0"):
        tiny("joint").replace({"network": "nonsense"}).prepare(Bench())


def pictures(side):
    """Return data of two pictures of this size, in ten classes."""
    return SimpleNamespace(
        train=SimpleNamespace(inputs=[torch.zeros(1, side, side), torch.ones(1, side, side)]), classes=10
    )


NAMING = {
    info.key: setting.meaning
    for info in registry.described()[0]
    for setting in info.settings
    if setting.name == "network" and "resnet, or vgg" in setting.meaning
}
"""Methods that offer both networks, and what they say of them."""


@pytest.mark.parametrize("key", NAMING)
def test_a_plain_network_has_room_for_the_exits_with_the_blocks_that_its_setting_names(key):
    """On the images of either track; with fewer blocks there are too few layers."""
    (blocks,) = re.findall(r"vgg with blocks = (\d)", NAMING[key])
    method = registry.get(key).replace({"network": "vgg", "blocks": int(blocks)})
    for side in (48, 28):
        assert method.build(pictures(side), 0).exits == len(method.shares) + 1
    with pytest.raises(ValueError, match="need more places"):
        method.replace({"blocks": int(blocks) - 1}).build(pictures(28), 0)


def test_more_than_one_method_offers_a_plain_network():
    assert len(NAMING) > 5


def test_the_pretrained_network_takes_the_default_scale_of_a_method(untrained):
    method = registry.get("kaya2019sdn").replace({"network": "efficientnet-lite0", "pixels": 1, "half": False})
    assert method.build(pictures(48), 0).exits == len(method.shares) + 1
    with pytest.raises(ValueError, match="the widths of efficientnet-lite0 are fixed"):
        registry.get("kaya2019sdn").variant("IC-only", "smoke").replace({"network": "efficientnet-lite0"}).build(
            pictures(48), 0
        )
