"""EfficientNet-Lite0: its weights say here what they say in the code that they were published with."""

import pytest
import torch
from sklearn.datasets import load_sample_image
from torch import nn
from torch.nn import functional

from eelit.methods.backbones.efficientnet import ITEM, Picture, network, pretrained
from eelit.methods.data import fetch
from eelit.methods.data.fetch import DataUnavailable
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.families.images import NETWORKS
from eelit.methods.papers.kaya2019sdn import ShallowDeep

OWN = {"network": ITEM, "widths": ShallowDeep.widths, "blocks": ShallowDeep.blocks}


def tiny(**settings):
    return ShallowDeep().variant("SDN training", "tiny").replace({**OWN, **settings})


@pytest.fixture
def classifier():
    """The pretrained network with ImageNet's 1,000 classes."""
    last = nn.Linear(1280, 1000)
    stored = torch.load(fetch.fetch(ITEM) / f"{ITEM}.pth", weights_only=True)
    last.load_state_dict({name: stored[f"_fc.{name}"] for name in ("weight", "bias")})
    return nn.Sequential(pretrained(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), last).eval()


@torch.inference_mode()
def test_its_logits_are_those_of_the_published_code(classifier):
    """Numbers of efficientnet-lite-pytorch 0.1.0, from which these differ by nothing, on a pattern of 96×96 pixels."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(96), indexing="ij")
    pattern = torch.stack([(3 * x + y) % 256, (x + 2 * y) % 256, x * y % 256]).float()
    logits = classifier((pattern[None] - 127) / 128)[0]
    wanted = [-1.6808, 3.6196, 15.9159, 15.7209, 14.4954]
    assert logits[[0, 1, 818, 419, 723]].tolist() == pytest.approx(wanted, abs=1e-3)
    assert logits.argmax() == 818


@torch.inference_mode()
def test_it_knows_what_is_on_a_photograph_however_that_was_normalised(classifier):
    temple = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)
    for image in (temple.float(), temple / 255, (temple / 255 - 0.45) / torch.tensor([0.2, 0.3, 0.4])[:, None, None]):
        assert classifier(Picture([image], (96, 160))(image[None])).argmax() == 442  # a bell cote


def test_it_is_as_large_and_costs_as_much_as_is_published():
    """4.652 million weights and 385 million MACs at 224×224 pixels, with the classifier of 1,000 classes."""
    whole = nn.Sequential(network(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1280, 1000)).eval()
    assert sum(p.numel() for p in whole.parameters()) == 4_652_008
    assert round(costs.count(lambda: whole(torch.zeros(1, 3, 224, 224))) / 1e6) == 385


def test_black_and_white_are_those_of_all_images_in_each_channel():
    images = [torch.rand(3, 6, 6) for _ in range(3)]
    images[0][:, 0, 0], images[1][:, 0, 0] = torch.tensor([-1.0, -2.0, -3.0]), torch.tensor([3.0, 2.0, 1.0])
    picture = Picture(images, (6, 6))
    assert picture(images[0][None])[0, :, 0, 0].tolist() == pytest.approx([-127 / 128] * 3)
    assert picture(images[1][None])[0, :, 0, 0].tolist() == pytest.approx([1.0] * 3)
    for size in ((64, 96), (4, 3)):
        wanted = functional.interpolate(images[2][None], size, mode="bilinear", antialias=True)
        found = (Picture(images, size)(images[2][None]) + 127 / 128) * 128 / 255
        low, high = torch.tensor([-1.0, -2.0, -3.0])[:, None, None], torch.tensor([3.0, 2.0, 1.0])[:, None, None]
        assert torch.allclose(found * (high - low) + low, wanted, atol=1e-5)
    grey = Picture([torch.eye(28)[None]], (64, 96))(torch.full((2, 1, 28, 28), 127 / 255))
    assert grey.shape == (2, 3, 64, 96)
    assert grey.abs().max() < 1e-5


@pytest.mark.parametrize(("pixels", "side"), [(1, 64), (2, 32), (4, 32)])
def test_units_one_after_the_other_are_the_pretrained_network(untrained, pixels, side):
    images = [torch.zeros(1, 28, 28), torch.ones(1, 28, 28)]
    model = NETWORKS[ITEM](
        (1, 28, 28), 10, shares=(0.3, 0.7), head=lambda shape: nn.Flatten(), seed=0, pixels=pixels, half=False,
        images=images,
    )  # fmt: skip
    units, x = [unit for stage in model.stages for unit in stage], torch.rand(2, 1, 28, 28)
    assert len(units) == 1 + 16 + 1
    whole = nn.Sequential(Picture(images, (side, side)), pretrained(), model.heads[-1]).eval()
    with torch.inference_mode():
        assert torch.equal(nn.Sequential(*units, model.heads[-1])(x), whole(x))
        assert torch.equal(model.full(x), whole(x))
    assert torch.equal(units[0][2].weight, torch.load(untrained / f"{ITEM}.pth", weights_only=True)["0"])
    assert units[-1](units[-2](torch.zeros(1, 192, 2, 2))).shape == (1, 1280, 2, 2)


def test_a_method_trains_all_of_it_and_replay_is_what_really_runs(untrained, stages):
    method = tiny(train_size=64, epochs=1.0)
    (joint,) = stages(method)
    assert len(joint.rates) == len(list(method.build(method.load(), 0).parameters()))
    prepared = method.prepare(Bench(executed=16))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in prepared.model.modules())
    policy, seen = method.policy(0.2, prepared), prepared.split("test")
    found = infer(prepared.model, torch.stack(list(seen.examples.inputs[:16])), policy)
    assert found.exits.tolist() == replay(policy, seen.outputs)[:16].tolist()


def test_without_its_weights_the_command_that_fetches_them_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    with pytest.raises(DataUnavailable, match=f"{ITEM} is not in the cache .* run `eelit data fetch {ITEM}`"):
        tiny().prepare(Bench())


def test_settings_that_it_has_not_are_refused_when_they_are_changed(untrained):
    for name, value in (("widths", (8, 16)), ("blocks", 1)):
        with pytest.raises(ValueError, match=f"the {name} of {ITEM} are fixed: leave that setting at "):
            tiny(**{name: value}).prepare(Bench(most_steps=0))


def test_images_of_other_channels_are_refused():
    with pytest.raises(ValueError, match="reads grey or RGB images, not 2 channels"):
        NETWORKS[ITEM]((2, 8, 8), 10, shares=(), head=nn.Identity, seed=0, pixels=1, half=False, images=[])
