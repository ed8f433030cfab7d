"""Parts of networks for images that several papers use: where exits stand, what their heads read, what is folded."""

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.backbones.bag_of_features import BagOfFeatures
from eelit.methods.backbones.internal_classifier import InternalClassifier, MixedPool, at_shares, condensed
from eelit.methods.backbones.normalisation import convolution, folded
from eelit.methods.engine import costs
from eelit.methods.engine.multi_exit import MultiExit, select
from eelit.methods.families.images import NETWORKS

IMAGE, SHARES = (1, 28, 28), (0.2, 0.4, 0.6, 0.8)


@pytest.fixture(autouse=True)
def offline(untrained):
    """Networks that are pretrained have random weights here."""


def network(name, **settings):
    chosen = {"shares": SHARES, "seed": 0, "pixels": 2, "half": False, **settings}
    if name == "efficientnet-lite0":
        chosen |= {"images": [torch.zeros(IMAGE), torch.ones(IMAGE)]}
    else:
        chosen = {"widths": (8, 16, 24), "blocks": 3, **chosen}
    return NETWORKS[name](IMAGE, 10, head=lambda shape: InternalClassifier(shape, 10), **chosen)


# Networks, and where exits stand.


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


@pytest.mark.parametrize(("name", "each"), [("resnet", 2), ("vgg", 1)])
def test_a_network_has_so_many_blocks_of_each_width_and_halves_the_map_between_them(name, each):
    model, sides = network(name, pixels=1), []
    for stage in model.stages:
        for unit in stage:
            unit.register_forward_hook(lambda _, args, out: sides.append((out.shape[1], out.shape[2])))
    model.full(torch.zeros(1, *IMAGE))
    assert sides == [(8, 28)] * (name == "resnet") + [(8, 28)] * 3 + [(16, 14)] * 3 + [(24, 7)] * 3
    wide = [part for part in model.stages.modules() if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3)]
    assert len(wide) == 9 * each + (name == "resnet")


# What heads read.


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
    first = 1 if name == "efficientnet-lite0" else None  # behind it rounding adds up through 50 normalisations
    assert torch.allclose(outputs[:first], plain.train()(x)[:first], atol=0.1)
    assert not torch.equal(outputs, plain(x))


@pytest.mark.parametrize(("pixels", "kernel", "side"), [(1, 3, 12), (2, 3, 6), (4, 4, 3)])
@pytest.mark.parametrize("name", ["resnet", "vgg"])
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


def test_what_is_longer_than_wide_is_pooled_in_both_directions():
    """Also where one side is no longer than it may be."""
    pool, x = MixedPool(2), torch.arange(8.0).reshape(1, 1, 4, 2)
    pool.alpha.data.fill_(1.0)
    assert pool(x)[0, 0].tolist() == [[2.0, 3.0], [6.0, 7.0]]
    assert pool(x.mT)[0, 0].tolist() == [[2.0, 6.0], [3.0, 7.0]]


# Bags of features.


def test_pooling_by_hand():
    bag = BagOfFeatures(1, 2)
    with torch.no_grad():
        bag.codebook.weight.copy_(torch.tensor([1.0, -1.0]).reshape(2, 1, 1, 1))
        bag.codebook.bias.zero_()
    t = np.tanh(1.0)
    # A position with x = 1 is similar (1 + t) / 2 and (1 - t) / 2 to the codewords, one with x = 0 alike to both.
    x = torch.tensor([[[[1.0, 0.0]]]])
    assert bag(x)[0].tolist() == pytest.approx([((1 + t) + 1) / 2, ((1 - t) + 1) / 2], rel=1e-6)
    with torch.no_grad():
        bag.s.fill_(2.0)
        bag.t.fill_(0.5)
        bag.n_1.fill_(3.0)
        bag.n_2.fill_(10.0)
    a = [(1 + np.tanh(2 * v + 0.5)) / 2 for v in (1, -1)]
    assert bag(x[..., :1])[0].tolist() == pytest.approx([10 * 3 * each / sum(a) for each in a], rel=1e-6)


def test_a_histogram_sums_to_the_number_of_codewords_whatever_the_map():
    torch.manual_seed(0)
    bag = BagOfFeatures(3, 7)
    for side in (1, 5, 12):
        histogram = bag(torch.randn(4, 3, side, side))
        assert histogram.shape == (4, 7)
        assert torch.allclose(histogram.sum(dim=1), torch.tensor(7.0))
    assert (bag(torch.randn(2, 3, 4, 4)) > 0).all()


def test_a_histogram_does_not_know_where_in_its_region_a_feature_is():
    torch.manual_seed(0)
    one, four, x = BagOfFeatures(3, 5), BagOfFeatures(3, 5, side=2), torch.randn(2, 3, 4, 4)
    order = torch.randperm(16)
    mixed = x.flatten(2)[..., order].reshape(x.shape)
    assert torch.allclose(one(mixed), one(x), atol=1e-6)
    assert four(x).shape == (2, 20)
    assert not torch.allclose(four(mixed), four(x), atol=1e-3)
    within = x.flip(2)[:, :, [1, 0, 3, 2]].flip(2)  # rows change places inside their halves
    assert torch.allclose(four(within), four(x), atol=1e-6)


# Normalisation.


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
