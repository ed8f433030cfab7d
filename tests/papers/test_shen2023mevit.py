"""What only MEViT promises: the fine-tuning loss and whom it teaches, both second stages, branches and their places."""

from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.vision_transformer import Embedding
from eelit.methods.claims import shen2023mevit as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry, runner
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.papers.bakhtiarnia2021mevit import MultiExitViT
from eelit.methods.papers.shen2023mevit import FineTunedViT, tuning_loss
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "shen2023mevit"
VARIANTS = ("fine-tuned", "frozen")


def tiny(variant="fine-tuned", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def loss_by_hand(z, y, a, tau):
    """CE of the last exit, and of each branch the mixture of labels and of what the last exit says, softened."""
    found = F.cross_entropy(z[-1], y)
    q = (z[-1] / tau).softmax(-1)
    for z_k in z[:-1]:
        log_p = (z_k / tau).log_softmax(-1)
        kl = (q * (q.log() - log_p)).sum(-1).mean()
        found = found + (1 - a) * F.cross_entropy(z_k, y) + a * tau**2 * kl
    return found.item()


# The loss.


@pytest.mark.parametrize(("a", "tau"), [(0.0, 2.0), (0.3, 1.0), (0.5, 4.0), (1.0, 2.0)])
def test_the_loss_of_fine_tuning(a, tau):
    z, y = torch.randn(4, 9, 5, generator=torch.Generator().manual_seed(0)) * 2, torch.arange(9) % 5
    assert tuning_loss(z, y, a, tau).item() == pytest.approx(loss_by_hand(z, y, a, tau), rel=1e-5)


def test_without_distillation_it_is_the_sum_of_all_losses():
    z, y = torch.randn(3, 6, 4), torch.arange(6) % 4
    assert tuning_loss(z, y, 0.0, 2.0).item() == pytest.approx(sum(F.cross_entropy(e, y) for e in z).item(), rel=1e-5)


def test_a_branch_that_says_what_the_last_exit_says_learns_nothing_from_it():
    z = torch.randn(1, 6, 4).expand(3, -1, -1)
    y = torch.arange(6) % 4
    assert tuning_loss(z, y, 1.0, 2.0).item() == pytest.approx(F.cross_entropy(z[0], y).item(), rel=1e-5)


def test_the_teacher_is_taught_by_labels_alone():
    z, y = torch.randn(3, 6, 4, requires_grad=True), torch.arange(6) % 4
    (slope,) = torch.autograd.grad(tuning_loss(z, y, 0.7, 2.0), z)
    (own,) = torch.autograd.grad(F.cross_entropy(z[-1], y), z)
    assert torch.allclose(slope[-1], own[-1], atol=1e-7)
    assert (slope[:-1].abs().sum(dim=(1, 2)) > 0).all()


# The network.


@pytest.mark.parametrize("branches", [(1, 2), (2,)])
def test_branches_read_the_class_token_after_their_layers(branches):
    method = tiny(branches=branches)
    data = method.load()
    model = method.build(data, 0)
    x = torch.stack(list(data.train.inputs[:4]))
    parts = [part for stage in model.stages for part in stage]
    assert isinstance(parts[0], Embedding)
    assert len(parts) == 1 + 3
    with torch.no_grad():
        Z, seen = parts[0](x), []
        for layer in parts[1:]:
            Z = layer(Z)
            seen.append(Z[:, 0])
        for head, at, said in zip(model.heads, (*branches, 3), model(x), strict=True):
            norm, dense = head
            c = F.layer_norm(seen[at - 1], (32,), norm.weight, norm.bias)
            assert torch.allclose(said, c @ dense.weight.T + dense.bias, atol=1e-5)


def test_where_branches_stand_does_not_change_the_network():
    data = tiny().load()
    one, other = (tiny(branches=b).build(data, 0).plain_network().state_dict() for b in ((1, 2), (2,)))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    ours = registry.get("bakhtiarnia2021mevit").variant("MLP-EE", "tiny")
    ours = ours.replace({"layers": 3, "grid": 2, "width": 32}).build(data, 0).plain_network().state_dict()
    assert all(torch.equal(one[name], ours[name]) for name in one)


def test_the_default_network_is_that_of_the_other_transformer_on_the_track():
    for name in ("width", "layers", "heads", "epochs", "batch", "rate", "train_size", "images", "grid", "spread"):
        assert getattr(FineTunedViT(), name) == getattr(MultiExitViT(), name)
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    model = FineTunedViT().build(pictures, 0)
    assert [len(stage) for stage in model.stages] == [3, 1, 1, 1, 1]
    assert not model.training
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 28, 28)), classes=10)
    plain = runner.given(FineTunedViT(), TRACKS["images-plain"].settings).build(pictures, 0)
    assert next(iter(plain.states(torch.zeros(2, 1, 28, 28)))).shape == (2, 17, 128)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"grid": 3}, "images of 8×8 pixels cannot be cut into 3 patches a side"),
        ({"heads": 3}, "3 heads of attention cannot share a width of 32"),
        ({"branches": (0, 1)}, r"branches stand after some of the layers 1 to 2, not \(0, 1\)"),
        ({"branches": (1, 3)}, r"branches stand after some of the layers 1 to 2, not \(1, 3\)"),
        ({"branches": (2, 1)}, r"branches stand after some of the layers 1 to 2, not \(2, 1\)"),
    ],
)
def test_what_cannot_be_built_is_refused(settings, said):
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 8, 8)), classes=10)
    with pytest.raises(ValueError, match=said):
        tiny(**settings).build(pictures, 0)


def test_oblong_images_are_refused():
    with pytest.raises(ValueError, match="images of 8×4 pixels"):
        tiny().layout(torch.Size((1, 8, 4)))


# How it is trained.


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_first_stage_trains_the_network_by_itself(wired, variant):
    model, (first, _) = wired(tiny(variant, epochs=1.5, batch=20, rate=3e-3))
    branches = {id(p) for p in model.heads[:-1].parameters()}
    assert first.rates == {id(p): 3e-3 for p in model.parameters() if id(p) not in branches}
    assert (len(first.train), first.epochs, first.batch, first.steps) == (400, 1.5, 20, 30)
    x, y = torch.stack(first.train.inputs[:12]), first.train.targets[:12]
    with torch.no_grad():
        last = F.cross_entropy(model.full(x), y).item()
    assert first.loss(first.batch_of(torch.arange(12), x)).item() == pytest.approx(last, rel=1e-5)


def test_fine_tuning_trains_everything_and_branches_faster(wired):
    model, (_, second) = wired(tiny(tune_epochs=2.0, batch=20, tune_rate=3e-4, branch_rate=7e-3, a=0.3, tau=3.0))
    branches = {id(p) for p in model.heads[:-1].parameters()}
    assert second.rates == {id(p): 7e-3 if id(p) in branches else 3e-4 for p in model.parameters()}
    assert (len(second.train), second.epochs, second.batch, second.steps) == (400, 2.0, 20, 40)
    index = torch.tensor([5, 3, 70, 9])
    x, y = torch.stack([second.train.inputs[i] for i in index.tolist()]), second.train.targets[index]
    with torch.no_grad():
        by_hand = loss_by_hand(model(x), y, 0.3, 3.0)
        assert second.loss(second.batch_of(index, x)).item() == pytest.approx(by_hand, rel=1e-5)


def test_on_a_frozen_network_branches_alone_learn_from_class_tokens_and_last_answers(wired):
    model, (_, second) = wired(tiny("frozen", tune_epochs=2.0, batch=20, branch_rate=7e-3, a=0.3, tau=3.0))
    assert second.rates == {id(p): 7e-3 for p in model.heads[:-1].parameters()}
    assert (len(second.train), second.epochs, second.batch, second.steps) == (400, 2.0, 20, 40)
    index = torch.tensor([5, 3, 70, 9])
    inputs = tiny().load().train.inputs
    x, y = torch.stack([inputs[i] for i in index.tolist()]), second.train.targets[index]
    tokens = torch.stack([second.train.inputs[i] for i in index.tolist()])
    assert tokens.shape == (4, 2, 32)
    with torch.no_grad():
        by_hand = loss_by_hand(model(x), y, 0.3, 3.0)
        assert second.loss(second.batch_of(index, tokens)).item() == pytest.approx(by_hand, rel=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_moves_in_the_second_stage(variant):
    method, ends = tiny(variant, train_size=64, epochs=1.0, tune_epochs=1.0), []
    model = method.build(data := method.load(), 0)

    def watch(stage):
        if stage is None:
            ends.append({name: value.clone() for name, value in model.state_dict().items()})

    method.train(model, data, Bench(watch=watch))
    first, second = ends
    moved = {name for name in first if not torch.equal(first[name], second[name])}
    branches = {f"heads.{i}.{j}.{part}" for i in (0, 1) for j in (0, 1) for part in ("weight", "bias")}
    if variant == "frozen":
        assert moved == branches
    else:
        assert moved == set(first)
    assert not model.training


def test_both_variants_start_from_one_network(prepared):
    (_, one, _), (_, other, _) = prepared(KEY), prepared(KEY, "frozen")
    assert len({*one.trainings} & {*other.trainings}) == 1


# The exit rule.


def test_a_threshold_that_is_just_reached_stops(prepared):
    method, _, ready = prepared(KEY)
    z = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 9.0]]])
    assert replay(method.rule(0.5, ready), z).tolist() == [0]
    assert replay(method.rule(0.51, ready), z).tolist() == [1]
    assert replay(method.rule(0.96, ready), z).tolist() == [2]
    assert method.rule(0.7, ready) == MaxConfidence(0.7)


def test_layers_behind_the_exit_are_not_computed(prepared):
    """Each branch passed costs its dense layer; a layer 12 d² a token, and 2 T² d for who looks at whom."""
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:4]))
    d, T = 32, 5
    embedded, layer, head = 4 * 16 * d, 12 * d * d * T + 2 * T * T * d, 10 * d
    for policy, depth in ((MaxConfidence(0.0), 1), (MaxConfidence(2.0), 3)):
        spent = costs.count(lambda policy=policy: infer(ready.model, x, policy))
        assert spent == 4 * (embedded + depth * (layer + head))


# What is claimed.


@pytest.mark.parametrize(
    ("gains", "holds"), [([0.01, 0.0, -0.005], True), ([0.01, -0.001, 0.0], False), ([0.1, 0.1, -0.006], False)]
)
def test_branches_must_gain_and_the_last_exit_must_not_lose(gains, holds):
    assert claimed.lifted(gains).holds is holds


@pytest.mark.parametrize(("gains", "holds"), [([0.01, 0.0, -1.0], True), ([0.004, 0.004, 1.0], False)])
def test_where_kinds_are_alike_branches_must_gain(gains, holds):
    found = claimed.told_apart(gains)
    assert found.holds is holds
    assert found.measured == claimed.told(gains)


def test_gains_are_counted_among_the_images_of_some_classes():
    """Of four images two are tops: ours has both right at exit 1 and one at exit 2, theirs none and one."""
    y = torch.tensor([0, 1, 6, 9])

    def said(*answers):
        return SimpleNamespace(
            targets=y, answers=torch.stack([F.one_hot(torch.tensor(a), 10).float() for a in answers])
        )

    ours = SimpleNamespace(split=lambda name: {"test": said([0, 0, 6, 0], [0, 1, 1, 9])}[name])
    theirs = SimpleNamespace(split=lambda name: {"test": said([1, 1, 1, 9], [1, 9, 6, 0])}[name])
    assert claimed.gains_among((0, 6), ours, theirs) == [1.0, 0.0]
    assert claimed.gains_among((1, 9), ours, theirs) == [-1.0, 1.0]


def curve_of(*points):
    made = [OperatingPoint(knob=k, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for k, q, c in points]
    return SimpleNamespace(validation=made, test=made)


@pytest.mark.parametrize(
    ("cost", "quality", "test", "holds"),
    [(0.69, 0.796, 0.80, True), (0.71, 0.796, 0.80, False), (0.69, 0.796, 0.81, False), (0.5, 0.794, 0.80, False)],
)
def test_a_third_must_be_saved_beside_the_transformer_by_itself(cost, quality, test, holds):
    curve = curve_of((0.1, 0.5, 0.2), (0.5, quality, cost), (1.1, 0.9, 1.0))
    assert claimed.cheaper(curve, 0.80, test).holds is holds


def test_rivals_are_trained_as_long(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked, plain = [], []
    monkeypatch.setattr(claimed, "gains_by_exit", lambda *given: asked.append(given) or [0.01, 0.01, 0.0])
    monkeypatch.setattr(claimed, "gains_among", lambda *given: asked.append(given) or [0.01, 0.01, 0.0])
    monkeypatch.setattr(FineTunedViT, "prepare", lambda self, bench: self)
    monkeypatch.setattr(claimed, "train_plain", lambda *given, **options: plain.append((given, options)))
    curve = curve_of((0.1, 1.0, 0.2), (1.1, 1.0, 1.0))
    found = claimed.claims(method, ready, bench, curve)
    assert [o.name for o in found] == [
        "distillation lifts early branches", "also where kinds are alike",
        "less computation than the transformer by itself",
    ]  # fmt: skip
    assert asked[0] == (method, ready, method.replace({"a": 0.0}), bench)
    assert asked[1] == (claimed.TOPS, ready, method.replace({"a": 0.0}))
    (((model, data, _), options),) = plain
    assert options == {"epochs": 10.0, "batch": 32, "rate": 1e-2}
    assert torch.equal(data.train.targets, ready.data.train.targets)
    fresh = method.build(ready.data, bench.seed).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in model.state_dict().items())
    test = ready.data.test.head(bench.test)
    with torch.no_grad():
        right = (model.full(torch.stack(list(test.inputs))).argmax(-1) == test.targets).double().mean().item()
    assert f"accuracy {1.0 - right:+.4f}" in found[2].measured
