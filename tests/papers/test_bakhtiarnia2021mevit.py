"""What only Multi-Exit ViT promises: what each of the seven branches reads and computes, its cost, and its training."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.vision_transformer import Embedding, Layout
from eelit.methods.claims import bakhtiarnia2021mevit as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.records import Baseline, OperatingPoint, Outcome
from eelit.methods.harness import registry, runner
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.papers.bakhtiarnia2021mevit import BRANCHES, Affine, MultiExitViT, on_grid
from eelit.methods.policies.fixed_exit import FixedExit

KEY = "bakhtiarnia2021mevit"
KINDS = tuple(BRANCHES)
SMALL = Layout(g=4, d=6, heads=2, filters=3)


def tiny(variant="MLP-EE", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def branch(kind, layout=SMALL, classes=5):
    torch.manual_seed(0)
    found = BRANCHES[kind](layout, classes).eval()
    for p in found.parameters():  # so that no weight is 0 or 1 by its making
        p.data += 0.3 * torch.randn(p.shape)
    return found


@pytest.fixture(scope="module")
def Z():
    """Class token and 16 patches of three images."""
    return torch.randn(3, 17, 6, generator=torch.Generator().manual_seed(1))


# Tokens and their places.


def test_patches_return_to_the_places_that_they_were_cut_from():
    """The j-th patch, which holds nothing but j, stands in row j // g and column j % g."""
    g, d = 3, 2
    P = torch.arange(9.0)[:, None].expand(9, d)[None]
    placed = on_grid(P, g)
    assert placed.shape == (1, d, g, g)
    assert all(torch.equal(channel, torch.arange(9.0).reshape(3, 3)) for channel in placed[0])
    assert not torch.equal(P.reshape(1, d, g, g), placed)  # what re-implementations do


def test_an_image_becomes_its_patches_row_by_row_behind_a_class_token():
    """With weights of 1 a token is the sum of its patch: of the patch of row r and column c, 4 (10 r + c)."""
    embedding = Embedding(1, 2, Layout(g=3, d=2, heads=1, filters=1))
    with torch.no_grad():
        embedding.patches.weight.fill_(1.0)
        embedding.patches.bias.zero_()
    rows = torch.arange(6)[:, None] // 2 * 10.0 + torch.arange(6) // 2
    tokens = embedding(rows[None, None].expand(2, 1, 6, 6)) - embedding.positions
    assert tokens.shape == (2, 10, 2)
    assert torch.allclose(tokens[:, 0], embedding.token[0])
    by_hand = [4.0 * (10 * r + c) for r in range(3) for c in range(3)]
    assert tokens[1, 1:, 0].tolist() == pytest.approx(by_hand, abs=1e-4)


def test_positions_and_class_token_are_small_at_first_and_differ_everywhere():
    torch.manual_seed(0)
    embedding = Embedding(1, 2, Layout(g=12, d=20, heads=1, filters=1)).requires_grad_(False)
    assert float(embedding.positions.detach().std()) == pytest.approx(0.02, rel=0.1)
    assert float(embedding.token.std()) == pytest.approx(0.02, rel=0.5)
    assert embedding.positions.unique().numel() == embedding.positions.numel()


# What the branches read.


@pytest.mark.parametrize("kind", KINDS)
def test_which_tokens_a_branch_reads(kind, Z):
    reads_c = kind in ("MLP-EE", "CNN-Add-EE", "CNN-Project-EE", "ViT-EE")
    other_c, other_P = Z.clone(), Z.clone()
    other_c[:, 0] += 1
    other_P[:, 1:] += torch.randn(3, 16, 6)
    b = branch(kind)
    with torch.no_grad():
        assert b(Z).shape == (3, 5)
        assert torch.equal(b(other_c), b(Z)) is not reads_c
        assert torch.equal(b(other_P), b(Z)) is (kind == "MLP-EE")


@pytest.mark.parametrize("kind", KINDS)
def test_which_branches_know_where_patches_stand(kind, Z):
    order = torch.cat([torch.zeros(1, dtype=torch.int64), 1 + torch.randperm(16)])
    b = branch(kind)
    with torch.no_grad():
        assert torch.allclose(b(Z[:, order]), b(Z), atol=1e-5) is (kind in ("MLP-EE", "ViT-EE"))


def test_adding_a_class_token_of_zeros_is_ignoring_it(Z):
    ignore, add = branch("CNN-Ignore-EE"), branch("CNN-Add-EE")
    add.load_state_dict(ignore.state_dict())
    none = torch.cat([torch.zeros(3, 1, 6), Z[:, 1:]], dim=1)
    with torch.no_grad():
        assert torch.equal(add(none), ignore(none))
        assert torch.allclose(add(Z), ignore(Z[:, :1] + Z), atol=1e-6)


# What they compute, anew.


def cnn(b, maps):
    convolution, _, _, _, dense = b.cnn
    x = F.conv2d(F.pad(maps, (1, 1, 1, 1)), convolution.weight, convolution.bias)
    x = torch.where(x > 0, x, x.exp() - 1)
    n, channels, g, _ = x.shape
    x = x.reshape(n, channels, g // 2, 2, g // 2, 2).amax(dim=(3, 5))
    return x.reshape(n, -1) @ dense.weight.T + dense.bias


def gelu(x):
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def normalised(norm, x):
    centred = x - x.mean(dim=-1, keepdim=True)
    return centred / (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias


def dense(layer, x):
    return x @ layer.weight.T + layer.bias


def two(layers, x):
    return dense(layers[2], gelu(dense(layers[0], x)))


def mixer(b, c, P):
    P = P + two(b.across_patches, normalised(b.norms[0], P).mT).mT
    P = P + two(b.across_channels, normalised(b.norms[1], P))
    return dense(b.dense, normalised(b.norms[2], P).mean(dim=1))


def resmlp(b, c, P):
    scaled = [lambda x, a=a: a.alpha * x + a.beta for a in (*b.before, *b.after)]
    P = P + scaled[2](dense(b.across_patches, scaled[0](P).mT).mT)
    P = P + scaled[3](two(b.across_channels, scaled[1](P)))
    return dense(b.dense, (b.last.alpha * P + b.last.beta).mean(dim=1))


def vit(b, c, P):
    x, a = torch.cat([c, P], dim=1), b.layer.self_attn
    q, k, v = (
        part.unflatten(2, (2, 3)).transpose(1, 2)
        for part in (normalised(b.layer.norm1, x) @ a.in_proj_weight.T + a.in_proj_bias).chunk(3, dim=2)
    )
    read = (q @ k.mT / math.sqrt(3)).softmax(dim=-1) @ v
    x = x + dense(a.out_proj, read.transpose(1, 2).flatten(2))
    x = x + dense(b.layer.linear2, gelu(dense(b.layer.linear1, normalised(b.layer.norm2, x))))
    return dense(b.head[1], normalised(b.head[0], x[:, 0]))


def placed(P):
    return P.transpose(1, 2).reshape(len(P), 6, 4, 4)


FORMULAS = {
    "MLP-EE": lambda b, c, P: two(b, c[:, 0]),
    "CNN-Ignore-EE": lambda b, c, P: cnn(b, placed(P)),
    "CNN-Add-EE": lambda b, c, P: cnn(b, placed(P + c)),
    "CNN-Project-EE": lambda b, c, P: cnn(
        b, placed(gelu(dense(b.projection[0], torch.cat([P, c.expand(-1, 16, -1)], dim=2))))
    ),
    "ViT-EE": vit, "MLP-Mixer-EE": mixer, "ResMLP-EE": resmlp,
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_computes_its_formula(kind, Z):
    b = branch(kind)
    with torch.no_grad():
        assert torch.allclose(b(Z), FORMULAS[kind](b, Z[:, :1], Z[:, 1:]), atol=1e-4)


def test_affine_maps_begin_as_what_they_scale_by():
    x = torch.randn(2, 3)
    assert torch.equal(Affine(3)(x), x)
    assert torch.allclose(Affine(3, 0.1)(x), 0.1 * x)
    b = BRANCHES["ResMLP-EE"](SMALL, 5)
    scales = [float(a.alpha[0].detach()) for a in (*b.before, *b.after, b.last)]
    assert scales == pytest.approx([1, 1, 0.1, 0.1, 1])


# What they cost.


def macs_of(kind, g, d, filters, classes):
    T, N = g * g + 1, g * g
    convolved = N * 9 * d * filters + filters * (g // 2) ** 2 * classes
    return {
        "MLP-EE": d * d + d * classes,
        "CNN-Ignore-EE": convolved,
        "CNN-Add-EE": convolved,
        "CNN-Project-EE": N * 2 * d * d + convolved,
        "ViT-EE": 12 * d * d * T + 2 * T * T * d + d * classes,
        "MLP-Mixer-EE": d * 2 * N * (d // 2) + N * 8 * d * d + d * classes,
        "ResMLP-EE": d * N * N + N * 8 * d * d + d * classes,
    }[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_a_branch_costs_the_layers_before_it_and_itself(kind):
    """Attention counted: 4 d² a token for its projections, 8 d² for the MLP, 2 T² d for who looks at whom."""
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 8, 8)), classes=10)
    model = tiny(kind, layers=3).build(pictures, 0)
    every, alone = costs.both_costs(model, torch.zeros(1, 1, 8, 8))
    d, T, own = 16, 17, macs_of(kind, 4, 16, 8, 10)
    embedded, layer = 16 * 4 * d, 12 * d * d * T + 2 * T * T * d
    reached = [embedded + layer * depth for depth in (1, 2, 3)]
    assert alone == [reached[0] + own, reached[1] + own, reached[2] + d * 10]
    assert every == [reached[0] + own, reached[1] + 2 * own, reached[2] + 2 * own + d * 10]


# The network.


def test_all_kinds_sit_on_the_same_network(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    plain = [tiny(kind).build(ready.data, 0).plain_network().state_dict() for kind in KINDS]
    assert all(torch.equal(plain[0][name], other[name]) for other in plain for name in plain[0])
    _, _, other = prepared(KEY, "CNN-Add-EE")
    with torch.inference_mode():
        assert torch.equal(ready.model.full(x), other.model.full(x))


def test_the_default_network_cuts_both_sizes_of_pictures_into_patches_and_has_six_exits():
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    model = MultiExitViT().build(pictures, 0)
    assert model.exits == 6
    with torch.no_grad():
        assert next(iter(model.states(torch.zeros(2, 1, 48, 48)))).shape == (2, 17, 128)
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 28, 28)), classes=10)
    plain = runner.given(MultiExitViT(), TRACKS["images-plain"].settings).build(pictures, 0)
    assert next(iter(plain.states(torch.zeros(2, 1, 28, 28)))).shape == (2, 17, 128)
    assert not model.training
    assert not any(isinstance(part, torch.nn.Dropout) and part.p for part in model.modules())


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid": 3}, "images of 8×8 pixels cannot be cut into 3 patches a side"),
        ({"heads": 3}, "3 heads of attention cannot share a width of 16"),
        ({"branch": "SVM-EE"}, "no branch 'SVM-EE'; there are MLP-EE, CNN-Ignore-EE"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, said):
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 8, 8)), classes=10)
    with pytest.raises(ValueError, match=said):
        tiny(**settings).build(pictures, 0)


@pytest.mark.parametrize("spread", [0.02, 1.0])
def test_positions_are_spread_as_widely_as_is_set(spread):
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    embedding = MultiExitViT(spread=spread).build(pictures, 0).stages[0][0]
    assert float(embedding.positions.detach().std()) == pytest.approx(spread, rel=0.1)
    assert embedding.positions.requires_grad
    assert MultiExitViT().spread == 1.0


def test_oblong_images_are_refused():
    with pytest.raises(ValueError, match="images of 8×6 pixels"):
        tiny().layout(torch.Size((1, 8, 6)))


# The training.


@pytest.mark.parametrize("kind", ["MLP-EE", "MLP-Mixer-EE"])
def test_classifier_wise_training_trains_the_network_by_itself_and_then_branches_alone(wired, kind):
    method = tiny(kind, epochs=1.5, batch=20, head_epochs=2.0, rate=3e-3, head_rate=7e-3)
    model, (first, second) = wired(method)
    branches = model.heads[:-1]
    theirs = {id(p) for p in branches.parameters()}
    assert first.rates == {id(p): 3e-3 for p in model.parameters() if id(p) not in theirs}
    assert second.rates == dict.fromkeys(theirs, 7e-3)
    assert [(len(s.train), s.epochs, s.batch, s.steps) for s in (first, second)] == [
        (400, 1.5, 20, 30), (400, 2.0, 20, 40),
    ]  # fmt: skip
    x, y = torch.stack(second.train.inputs[:12]), second.train.targets[:12]
    with torch.no_grad():
        *early, last = (F.cross_entropy(logits, y).item() for logits in model(x))
    assert first.loss(first.batch_of(torch.arange(12), x)).item() == pytest.approx(last, rel=1e-5)
    found = second.loss(second.batch_of(torch.arange(12), x))
    assert len(early) == 5
    assert found.item() == pytest.approx(sum(early), rel=1e-5)


def test_no_branch_has_a_say_in_another(wired):
    """What moves a branch is the gradient of its own loss, whatever the others are."""
    model, (_, stage) = wired(tiny("CNN-Project-EE"))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    weights = list(model.heads[2].parameters())
    together = torch.autograd.grad(stage.loss(stage.batch_of(torch.arange(12), x)), weights)
    alone = torch.autograd.grad(F.cross_entropy(model(x)[2], y), weights)
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(together, alone, strict=True))


def test_end_to_end_the_last_exit_weighs_twice_an_early_one(one_stage):
    model, stage = one_stage(tiny("end-to-end", epochs=1.5, batch=20, rate=3e-3))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    with torch.no_grad():
        *early, last = (F.cross_entropy(logits, y).item() for logits in model(x))
    found = stage.loss(stage.batch_of(torch.arange(12), x)).item()
    assert found == pytest.approx(sum(early) + 2 * last, rel=1e-5)
    assert stage.rates == {id(p): 3e-3 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (400, 1.5, 20, 30)


# The exit rule.


@pytest.mark.parametrize(
    ("time", "exit_"), [(0.0, 0), (0.1, 0), (0.2, 0), (0.29, 0), (0.3, 1), (0.99, 2), (1.0, 3), (2.0, 3)]
)
def test_the_deepest_exit_within_the_time_answers(time, exit_):
    spent = np.array([[20.0], [30.0], [90.0], [100.0]]).repeat(3, axis=1)
    ready = SimpleNamespace(split=lambda name: {"validation": SimpleNamespace(costs=spent)}[name])
    assert tiny().policy(time, ready) == FixedExit(exit_)


@pytest.mark.parametrize("variant", MultiExitViT.variants)
@pytest.mark.parametrize("scale", ["tiny", "smoke", "default"])
def test_each_time_reaches_an_exit_of_its_own(variant, scale):
    method = registry.get(KEY).variant(variant, scale)
    image = torch.zeros(1, 1, *([8, 8] if scale == "tiny" else [48, 48]))
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=image), classes=10)
    every = np.array(costs.exit_costs(method.build(pictures, 0), image), dtype=float)[:, None]
    ready = SimpleNamespace(split=lambda name: SimpleNamespace(costs=every))
    assert [method.policy(time, ready).exit for time in method.knobs] == [0, 1, 2, 3, 4, 5]


# What is claimed.


def kind_of(held, test=None):
    """A kind with these pairs of cost and accuracy, the last of them the network's own exit."""
    validation, seen = (
        [OperatingPoint(knob=i, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for i, (c, q) in enumerate(found)]
        for found in (held, test or held)
    )
    return Baseline(name="kind", validation=validation, test=seen)


LAST = (1.0, 0.9)


def test_a_kind_is_at_its_best_where_validation_data_say_so():
    """After layer 2 it gains 0.1 over what costs no more, and 0.02 is left of that on test data."""
    a = kind_of([(0.3, 0.5), (0.5, 0.8), LAST], [(0.3, 0.9), (0.5, 0.72), LAST])
    b = kind_of([(0.2, 0.6), (0.5, 0.7), LAST], [(0.2, 0.4), (0.5, 0.7), LAST])
    assert claimed.best_place({"a": a, "b": b}, "a") == (2, pytest.approx(0.02))
    assert claimed.best_place({"a": a, "b": b}, "b") == (1, None)  # nothing else is so cheap
    assert claimed.all_useful({"a": a, "b": b}).holds


def test_the_network_without_branches_is_a_rival_too():
    dear = kind_of([(0.3, 0.6), (1.0, 0.75), LAST])
    cheap = kind_of([(0.2, 0.7), (0.4, 0.7), LAST])
    assert claimed.best_place({"dear": dear, "cheap": cheap}, "dear") == (1, pytest.approx(-0.1))
    assert not claimed.all_useful({"dear": dear, "cheap": cheap}).holds


@pytest.mark.parametrize(("gain", "holds"), [(0.011, True), (0.009, False)])
def test_the_best_kind_at_each_depth_must_be_worth_half_a_point_on_average(gain, holds):
    """Validation data choose b after layer 1, a after layer 2, and a on the whole."""
    a = kind_of([(0.3, 0.5), (0.6, 0.8), LAST])
    b = kind_of([(0.3, 0.52), (0.6, 0.7), LAST], [(0.3, 0.5 + gain), (0.6, 0.7), LAST])
    found = claimed.none_wins({"a": a, "b": b})
    assert found.holds is holds
    assert found.measured == f"{gain / 2:+.4f} with b, a, instead of a"


@pytest.mark.parametrize(("early", "late", "holds"), [(0.03, 0.01, True), (0.015, 0.0, False), (0.03, 0.02, False)])
def test_patches_must_pay_near_the_image_and_less_near_the_end(early, late, holds):
    kinds = {"MLP-EE": kind_of([(0.3, 0.5), (0.6, 0.8), LAST])}
    kinds |= {name: kind_of([(0.3, 0.5 + early), (0.6, 0.8 + late), LAST]) for name in ("a", "b")}
    assert claimed.patches_pay(kinds).holds is holds


@pytest.mark.parametrize(("last", "undecided"), [(0.9, False), (0.8101, False), (0.8099, True), (0.7, True)])
def test_a_network_whose_depth_is_worth_nothing_decides_nothing(last, undecided, monkeypatch):
    """The best of all branches after the first layer has 0.8 on validation data; a later one may have more."""
    kinds = {
        name: kind_of([(0.3, early), (0.6, 0.85), (1.0, last)], [(0.3, 0.1), (0.6, 0.1), (1.0, 0.1)])
        for name, early in (("MLP-EE", 0.5), ("a", 0.8))
    }
    reason = claimed.why_undecided(kinds)
    assert bool(reason) is undecided
    assert (
        not undecided or f"its own exit reaches {last:.4f}, and the best branch after the first layer 0.8000" in reason
    )
    monkeypatch.setattr(claimed, "BRANCHES", {"MLP-EE": None})
    monkeypatch.setattr(claimed, "why_undecided", lambda _: "too little")
    monkeypatch.setattr(MultiExitViT, "static", lambda self, split: kinds["MLP-EE"].test)
    for name in ("all_useful", "none_wins", "patches_pay"):
        monkeypatch.setattr(claimed, name, lambda _: Outcome(name="x", statement="x", holds=True, measured="x"))
    found = claimed.claims(MultiExitViT(), SimpleNamespace(split=str), None, None)
    assert [outcome.not_comparable for outcome in found] == ["too little"] * 3


def test_kinds_are_compared_once_on_the_same_training(monkeypatch):
    asked, seen = [], []
    method = MultiExitViT()
    monkeypatch.setattr(MultiExitViT, "prepare", lambda self, bench: asked.append(self) or SimpleNamespace(split=str))
    monkeypatch.setattr(MultiExitViT, "static", lambda self, split: kind_of([(0.3, 0.5), LAST]).test)
    for name in ("all_useful", "none_wins", "patches_pay"):
        monkeypatch.setattr(claimed, name, lambda kinds: seen.append(list(kinds)) or claimed.Outcome.model_construct())
    claimed.claims(method, SimpleNamespace(split=str), None, None)
    assert asked == [method.replace({"branch": name}) for name in KINDS[1:]]
    assert seen == [list(KINDS)] * 3
    for variant in ("CNN-Add-EE", "end-to-end"):
        assert claimed.claims(method.variant(variant), None, None, None) == []
