"""The contract for images, tried with an invented method: internal classifiers at cost shares, in one or two stages."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import nn

from eelit.methods.backbones.internal_classifier import InternalClassifier, MixedPool, at_shares, condensed
from eelit.methods.backbones.normalisation import convolution, folded
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.families.images import NETWORKS, ImageMethod
from eelit.methods.harness import conformance, runner
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.two_stage import train_heads

IMAGE, SHARES = (1, 28, 28), (0.2, 0.4, 0.6, 0.8)


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


def network(name, **settings):
    chosen = {"widths": (8, 16, 24), "blocks": 3, "shares": SHARES, "seed": 0, "pixels": 2, "half": False, **settings}
    return NETWORKS[name](IMAGE, 10, head=lambda shape: InternalClassifier(shape, 10), **chosen)


@pytest.mark.parametrize("name", NETWORKS)
def test_exits_stand_nearest_to_their_shares_of_the_counted_cost(name):
    model = network(name)
    bare = MultiExit(model.stages, [*(nn.Identity() for _ in SHARES), model.heads[-1]])
    reached, cut = costs.both_costs(bare, torch.zeros(1, *IMAGE))
    found = [cost / cut[-1] for cost in reached[:-1]]
    units = [unit for stage in model.stages for unit in stage]
    every = [costs.count(lambda k=k: nn.Sequential(*units[:k])(torch.zeros(1, *IMAGE))) for k in range(1, len(units))]
    assert found == [min((cost / cut[-1] for cost in every), key=lambda part: abs(part - share)) for share in SHARES]
    assert model.exits == len(SHARES) + 1


def test_shares_must_rise_and_have_places_of_their_own():
    units = [nn.Sequential(nn.Conv2d(1, 4, 3, padding=1)), *(nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))]
    last = nn.Sequential(nn.Flatten(), nn.Linear(4 * 64, 10))
    one, other, head = 36 * 64, 144 * 64, 2560
    full = one + 3 * other + head
    assert at_shares(units, last, (1, 8, 8), [(one + other) / full, 0.99]) == [1, 2]
    for shares, said in (((0.5, 0.4), "rising"), ((0.0, 0.5), "rising"), ((0.5, 1.0), "rising")):
        with pytest.raises(ValueError, match=said):
            at_shares(units, last, (1, 8, 8), shares)
    with pytest.raises(ValueError, match=r"need more places; there are 7%, 35%, 64%$"):
        at_shares(units, last, (1, 8, 8), (0.33, 0.36))


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
    )  # fmt: skip
    train_plain(other, data, bench, **method.options)
    assert len(bench.trainings) == 1
    assert len(list((tmp_path / "weights").glob("*.kept"))) == 1
    assert torch.equal(model.full(data.train.inputs[0][None]), other.full(data.train.inputs[0][None]))


@pytest.mark.parametrize("name", NETWORKS)
def test_what_learns_in_half_precision_answers_in_float32_and_alike(name):
    plain, half = network(name), network(name, half=True)
    assert list(plain.state_dict()) != list(half.state_dict())  # each unit stands in one that learns in half
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), half.parameters(), strict=True))
    x = torch.rand(4, *IMAGE)
    assert torch.equal(plain(x), half(x))
    assert torch.equal(folded(plain)(x), folded(half)(x))
    assert not any(isinstance(part, nn.BatchNorm2d) for part in folded(half).modules())
    met = []
    for part in half.modules():
        if isinstance(part, nn.Conv2d):
            part.register_forward_hook(lambda _, inputs, output: met.append(output.dtype))
    half(x)
    assert set(met) == {torch.float32}
    met.clear()
    outputs = half.train()(x)
    assert (set(met), outputs.dtype) == ({torch.bfloat16}, torch.float32)
    outputs.square().sum().backward()
    assert {p.grad.dtype for p in half.parameters() if p.grad is not None} == {torch.float32}
    assert torch.allclose(outputs, plain.train()(x), atol=0.1)
    assert not torch.equal(outputs, plain(x))


@pytest.mark.parametrize(("pixels", "kernel", "side"), [(1, 3, 12), (2, 3, 6), (4, 4, 3)])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_first_convolution_makes_a_place_of_a_square_of_pixels(name, pixels, kernel, side):
    model = network(name, pixels=pixels)
    first = next(part for part in model.modules() if isinstance(part, nn.Conv2d))
    assert first.kernel_size == (kernel, kernel)
    assert first(torch.zeros(1, 1, 12, 12)).shape[2:] == (side, side)
    image = torch.rand(1, 1, 12, 12, requires_grad=True)
    first(image)[0, 0, 1, 1].backward()
    seen = image.grad[0, 0].nonzero()
    low, high = (pixels, 2 * pixels - 1) if pixels == 4 else (pixels - 1, pixels + 1)
    assert (seen.min().item(), seen.max().item()) == (low, high)


def test_samples_that_go_on_lie_in_memory_as_before():
    """Channels last in memory are what convolutions are fast for; `index_select` alone would put them first."""
    x = torch.rand(6, 8, 5, 5).to(memory_format=torch.channels_last)
    keep = torch.tensor([4, 0, 5])
    found = select(x, keep, 6)
    assert torch.equal(found, x.index_select(0, keep))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert select(x.contiguous(), keep, 6).is_contiguous()


def test_mixed_pooling_by_hand():
    pool, x = MixedPool(2), torch.arange(9.0).reshape(1, 1, 3, 3)
    # Windows of 2×2, smaller at the border: {0, 1, 3, 4}, {2, 5}, {6, 7}, {8}.
    most, mean = torch.tensor([[4.0, 5.0], [7.0, 8.0]]), torch.tensor([[2.0, 3.5], [6.5, 8.0]])
    for alpha in (0.0, 0.25, 1.0):
        pool.alpha.data.fill_(alpha)
        assert torch.allclose(pool(x)[0, 0], alpha * most + (1 - alpha) * mean)
    assert torch.equal(MixedPool(3)(x), x)
    assert 0 <= pool.alpha.item() <= 1
    assert pool.alpha.requires_grad


@pytest.mark.parametrize("side", [1, 2, 4, 5])
@pytest.mark.parametrize("size", [3, 5, 7, 8, 9, 13, 24, 28])
def test_a_condensed_map_is_pooled_as_the_map_itself(size, side):
    pool, x = MixedPool(side), torch.randn(2, 3, size, size)
    less = condensed(x, side)
    for alpha in (0.0, 0.3, 1.0, 1.5):
        pool.alpha.data.fill_(alpha)
        assert torch.allclose(pool(less), pool(x), atol=1e-5)
    places = pool(x).shape[2] * pool(x).shape[3]
    assert less[0, 0].numel() == (2 * places if size > side else size * size)


@pytest.mark.parametrize(("side", "size"), [(28, 16), (14, 16), (9, 9), (4, 16), (3, 9)])
def test_an_internal_classifier_is_linear_in_at_most_sixteen_places(side, size):
    head = InternalClassifier((5, side, side), 10)
    assert head[-1].in_features == 5 * size
    assert head(torch.zeros(2, 5, side, side)).shape == (2, 10)


@pytest.mark.parametrize("name", NETWORKS)
def test_folding_changes_no_answer_and_leaves_no_normalisation(name):
    model = network(name)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, nn.BatchNorm2d):
                for tensor in (part.weight, part.bias, part.running_mean):
                    tensor.normal_()
                part.running_var.uniform_(0.5, 2.0)
    x, before = torch.randn(8, *IMAGE), {k: v.clone() for k, v in model.state_dict().items()}
    less = folded(model)
    with torch.inference_mode():
        assert torch.allclose(less(x), model(x), rtol=1e-3, atol=1e-3)
        assert torch.allclose(less.full(x), model.full(x), rtol=1e-3, atol=1e-3)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in less.modules())
    assert any(isinstance(part, nn.BatchNorm2d) for part in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert costs.both_costs(less, x[:1]) == costs.both_costs(model, x[:1])


def test_a_normalisation_that_follows_no_convolution_is_not_folded():
    layers = nn.Sequential(nn.BatchNorm2d(1), *convolution(1, 2), nn.ReLU(), nn.BatchNorm2d(2))
    assert [type(layer).__name__ for layer in folded(layers)] == ["BatchNorm2d", "Conv2d", "ReLU", "BatchNorm2d"]


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
    with pytest.raises(ValueError, match="no network 'nonsense'; there are resnet and vgg"):
        tiny("joint").replace({"network": "nonsense"}).prepare(Bench())
