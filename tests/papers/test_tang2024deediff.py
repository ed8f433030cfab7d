"""What only AdaDiff promises: what is noise and when, its losses, a network in which layers join, and images drawn."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.claims import tang2024deediff as claimed
from eelit.methods.claims.paired import Difference
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.harness import registry
from eelit.methods.papers.tang2024deediff import (
    CONFIDENCE,
    AdaDiff,
    Weights,
    drawn,
    image_weights,
    images_in,
    levels,
    noisy,
    put_together,
    u_vit,
    with_noise,
)
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.score_threshold import ScoreThreshold

KEY = "tang2024deediff"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


def small(half=1, **changed):
    return u_vit(8, 2, 16, half, **{"shared": True, "seed": 0, **changed})


# Noise.


def test_noise_grows_from_none_to_all():
    """beta(t) = 0.1 + 19.9 t, whose integral from 0 to t is 0.1 t + 9.95 t²."""
    a, s = levels(torch.tensor([0.0, 0.5, 1.0]))
    assert a.tolist() == pytest.approx([1.0, math.exp(-0.5 * (0.05 + 9.95 / 4)), math.exp(-0.5 * 10.05)])
    assert torch.allclose(a**2 + s**2, torch.ones(3))
    assert s[0] == 0


def test_what_a_network_reads_is_image_noise_and_time():
    x, eps, t = torch.ones(2, 4), torch.full((2, 4), -2.0), torch.tensor([0.0, 0.5])
    read = noisy(x, eps, t)
    a, s = levels(t)
    assert read.shape == (2, 5)
    assert read[:, -1].tolist() == [0.0, 0.5]
    assert read[:, 0].tolist() == pytest.approx((a - 2 * s).tolist())


def test_images_with_noise_follow_the_seed_and_can_be_had_back():
    x = torch.randn(40, 16)
    one, again, other = with_noise(x, 1), with_noise(x, 1), with_noise(x, 2)
    assert torch.equal(one.targets, again.targets)
    assert not torch.equal(one.targets, other.targets)
    assert torch.allclose(images_in(one), x, atol=1e-2)
    t = torch.stack(list(one.inputs))[:, -1]
    assert t.min() < 0.2
    assert t.max() > 0.8


# The network.


def test_patches_are_put_together_row_by_row():
    """An image of 4×4 cut into four patches and back."""
    image = torch.arange(16.0).reshape(4, 4)
    patches = torch.stack([image[:2, :2], image[:2, 2:], image[2:, :2], image[2:, 2:]]).reshape(1, 4, 4)
    assert torch.equal(put_together(patches)[0, 0], image)


@pytest.mark.parametrize("half", [1, 2])
def test_layers_behind_the_middle_join_their_counterparts_the_last_with_the_first(half):
    """The network written out from its parts."""
    model, x = small(half).eval(), torch.randn(3, 65)
    states = list(model.states(x))
    assert [len(kept) for _, kept, _ in states] == [*range(1, half + 1), half, *reversed(range(half))]
    with torch.no_grad():
        tokens = model.stages[0].tokens(x)
        firsts = []
        for layer in model.stages[:half]:
            tokens = layer.block(tokens)
            firsts.append(tokens)
        tokens = model.stages[half].block(tokens)
        for layer, first in zip(model.stages[half + 1 :], reversed(firsts), strict=True):
            tokens = layer.block(layer.join(torch.cat([tokens, first], dim=-1)))
    assert torch.allclose(states[-1][0], tokens, atol=1e-5)


def test_the_first_token_is_the_time_and_the_others_are_patches():
    model = small()
    embed = model.stages[0].tokens
    x = torch.randn(1, 65)
    x[0, -1] = 0.25
    found = (embed(x) - embed.positions)[0].detach()
    waves = [math.exp(-math.log(10000) * k / 8) * 999 * 0.25 for k in range(8)]
    wanted = [math.cos(w) for w in waves] + [math.sin(w) for w in waves]
    assert found[0].tolist() == pytest.approx(wanted, abs=1e-3)
    image = x[0, :-1].reshape(8, 8)
    patch = image[2:4, 4:6].flatten()  # row 1, column 2 of 4×4 patches
    weight, bias = embed.patches.weight.reshape(16, 4), embed.patches.bias
    assert torch.allclose(found[1 + 6], weight @ patch + bias, atol=1e-5)


def test_uncertainties_are_of_single_pixels_and_teach_the_layers_nothing():
    model, x = small(), torch.randn(2, 65)
    state = next(iter(model.states(x)))
    u = model.heads[0].uncertainty(state[0])
    assert u.shape == (2, 64)
    assert ((u > 0) & (u < 1)).all()
    u.sum().backward()
    assert model.heads[0].doubt.weight.grad.abs().sum() > 0
    assert all(p.grad is None for p in model.stages.parameters())


def test_an_exit_says_the_noise_and_how_sure_it_is_and_the_last_the_noise_alone():
    model, x = small(), torch.randn(2, 65)
    states = list(model.states(x))
    said = model.heads[0](states[0])
    assert torch.equal(said["answer"], model.heads[0].estimate(states[0][0], x))
    assert torch.allclose(said[CONFIDENCE], 1 - model.heads[0].uncertainty(states[0][0]).mean(dim=1))
    assert torch.equal(model.heads[-1](states[-1]), model.full(x))


def test_noise_is_read_off_what_was_read_and_what_the_layers_find():
    """By hand: layers that find 0.5 everywhere at t = 0.5 and at t = 0, where the image is clean."""
    model, x = small(), torch.randn(2, 65)
    x[:, -1] = torch.tensor([0.5, 0.0])
    estimate = model.heads[0].estimate
    with torch.no_grad():
        for part in (estimate.line.weight, estimate.line.bias, estimate.smooth.weight):
            part.zero_()
        estimate.smooth.bias.fill_(0.5)
        assert all(torch.equal(state[-1], x) for state in model.states(x))
        found = model.full(x)
    a, s = levels(torch.tensor(0.5))
    assert torch.allclose(found[0], s * x[0, :-1] + 0.5 * a, atol=1e-6)
    assert torch.allclose(found[1], torch.tensor(0.5), atol=1e-6)


def test_one_read_out_or_one_for_each_layer():
    shared, own = small(), small(shared=False)
    assert len({id(head.estimate) for head in shared.heads}) == 1
    assert len({id(head.estimate) for head in own.heads}) == 3
    assert len({id(head.doubt) for head in shared.heads}) == 3


@pytest.mark.parametrize(("patch", "half"), [(3, 1), (2, 0)])
def test_what_is_no_network_is_refused(patch, half):
    with pytest.raises(ValueError, match="must fill 8"):
        u_vit(8, patch, 16, half, shared=True, seed=0)


@pytest.mark.parametrize(
    "settings", [{"lam": -1.0}, {"most": 0.5}, {"beta": math.inf}, {"gamma": math.nan}, {"width": 20}]
)
def test_what_cannot_be_meant_is_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        AdaDiff(**settings)


# The loss.


def test_a_loss_by_hand():
    """Errors 0, 0.5 and 2 have the pseudo targets 0, 0.4621 and 0.9640; where u is 0.25, errors weigh 0.75."""
    eps, g, u = torch.zeros(1, 3), torch.tensor([[0.0, 0.5, -2.0]]), torch.full((1, 3), 0.25)
    simple = (0.25 + 4) / 3
    doubts = sum((0.25 - v) ** 2 for v in (0.0, 0.4621172, 0.9640276)) / 3
    assert Weights(0, 0, 0).loss([g], [u], eps).item() == pytest.approx(simple)
    assert Weights(1, 0, 0).loss([g], [u], eps).item() == pytest.approx(simple + doubts)
    assert Weights(0, 2, 0).loss([g], [u], eps).item() == pytest.approx(simple + 2 * 0.75 * simple)
    assert Weights(0, 0, 3).loss([g], [u], eps).item() == pytest.approx(4 * simple)


def test_losses_are_means_over_layers_and_the_last_one_counts_once_more():
    eps, u = torch.zeros(2, 3), [torch.zeros(2, 3), torch.ones(2, 3)]
    g = [torch.full((2, 3), 3.0), torch.full((2, 3), 1.0)]
    assert Weights(0, 1, 0).loss(g, u, eps).item() == pytest.approx(1 + (9 + 0) / 2)
    assert Weights(0, 0, 1).loss(g, u, eps).item() == pytest.approx(1 + (9 + 1) / 2)


def test_noisy_images_count_more_up_to_a_bound():
    """All terms of an image alike, so that what its uncertainties should be stays as it is."""
    t = torch.tensor([0.0, 0.5, 1.0])
    w = image_weights(t, 20.0)
    assert w.tolist() == pytest.approx([1.0, math.exp(0.05 + 9.95 / 4), 20.0])
    assert image_weights(t, 1.0).tolist() == [1.0, 1.0, 1.0]
    torch.manual_seed(0)
    g, u, eps, w = [torch.randn(2, 3)], [torch.rand(2, 3)], torch.randn(2, 3), torch.tensor([1.0, 4.0])
    one, other = (Weights(1, 2, 3).loss([g[0][i]], [u[0][i]], eps[i]).item() for i in (slice(1), slice(1, 2)))
    assert Weights(1, 2, 3).loss(g, u, eps, w).item() == pytest.approx((one + 4 * other) / 2)


def test_losses_are_those_of_the_released_code():
    """Its loss of layers has weights of equal sum: where all are as certain, 0.75, ours is that much of its."""
    golden = json.loads(GOLDEN.read_text())
    g, eps = torch.tensor(golden["estimates"]), torch.tensor(golden["noise"])
    u = 1 - torch.tensor(golden["certainties"])
    simple = Weights(0, 0, 0).loss(g, u, eps).item()
    assert simple == pytest.approx(np.mean(golden["simple"]), rel=1e-5)
    assert Weights(1, 0, 0).loss(g, u, eps).item() - simple == pytest.approx(
        np.mean(golden["uncertainty_loss"]), rel=1e-4
    )
    alike = Weights(0, 1, 0).loss(g, torch.full_like(u, 0.25), eps).item() - simple
    assert alike == pytest.approx(0.75 * np.mean(golden["layers_loss_if_alike"]), rel=1e-4)


def test_pseudo_targets_have_no_gradient():
    g = torch.tensor([[0.5, -1.0]], requires_grad=True)
    eps, u = torch.zeros(1, 2), torch.full((1, 2), 0.5, requires_grad=True)
    loss = Weights(1, 0, 0).loss([g], [u], eps)
    to_g, to_u = torch.autograd.grad(loss, [g, u])
    assert torch.allclose(to_g, g.detach())  # of the simple loss alone: 2 g / 2
    assert torch.allclose(to_u, 0.5 - g.detach().abs().tanh())


def test_training_draws_noise_anew_and_weighs_all_terms(one_stage):
    method = tiny(lam=0.5, beta=0.25, gamma=2.0, most=3.0)
    model, stage = one_stage(method)
    data = method.load().train
    assert torch.equal(torch.stack(list(stage.train.inputs)), torch.stack(list(data.inputs)))
    assert stage.rates == {id(p): method.rate for p in model.parameters()}
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)
    x = torch.stack(list(data.inputs[:6]))
    batch = stage.batch_of(torch.arange(6), x)
    torch.manual_seed(3)
    loss = stage.loss(batch)
    torch.manual_seed(3)
    eps = torch.randn_like(x)
    t = torch.rand(6)
    each = [(head, state) for head, state in zip(model.heads, model.states(noisy(x, eps, t)), strict=True)]
    g = [head.estimate(tokens, read) for head, (tokens, _, read) in each]
    u = [head.uncertainty(tokens) for head, (tokens, _, _) in each]
    w = image_weights(t, 3.0)
    assert 1 < w.max() <= 3
    assert loss.item() == pytest.approx(Weights(0.5, 0.25, 2.0).loss(g, u, eps, w).item(), rel=1e-5)
    assert stage.loss(batch).item() != pytest.approx(loss.item())


# The data, the rule, and what is measured.


def test_images_have_mean_0_and_deviation_1_and_only_held_ones_have_noise():
    data = tiny(held=20).load()
    x = torch.stack(list(data.train.inputs))
    assert x.shape == (900, 64)
    assert (x.mean().item(), x.std().item()) == pytest.approx((0.0, 1.0), abs=1e-4)
    for part in (data.validation, data.test):
        assert len(part) == 20
        assert part.inputs[0].shape == (65,)
        assert part.targets.shape == (20, 64)
        assert images_in(part).mean().abs() < 0.3
    assert not torch.equal(data.validation.targets, data.test.targets)


def test_squares_of_pixels_are_averaged():
    large, small = (torch.stack(list(tiny(square=side).load().train.inputs)) for side in (1, 2))
    means = large.reshape(900, 4, 2, 4, 2).mean(dim=(2, 4)).flatten(1)
    assert torch.allclose(small, (means - means.mean()) / means.std(), atol=1e-4)


def test_a_border_is_background_and_only_the_chosen_classes_are_taken():
    """Background is the darkest value that there is, whichever that is."""
    every, some = tiny(border=2, held=20).load(), tiny(taken=(3, 8), held=20).load()
    x = torch.stack(list(every.train.inputs)).reshape(900, 12, 12)
    assert torch.equal(x[:, 0], x.min().expand(900, 12))
    assert x[:, 2:-2, 2:-2].std() > x.std()
    assert {*some.train.targets.tolist()} == {3, 8}
    chosen = torch.isin(every.train.targets, torch.tensor([3, 8]))
    assert torch.equal(some.train.targets, every.train.targets[chosen])
    inner = x[chosen][:, 2:-2, 2:-2].flatten(1)
    assert torch.allclose(torch.stack(list(some.train.inputs)), (inner - inner.mean()) / inner.std(), atol=1e-4)
    given = Examples([torch.full((1, 8, 8), level) for level in (-2.0, 3.0)], torch.tensor([0, 1]))
    found, classes = tiny(border=1)._shown(given)
    assert found[1].reshape(10, 10)[0].tolist() == [-2.0] * 10
    assert torch.equal(classes, given.targets)


def test_an_image_exits_where_its_uncertainty_is_below_delta_strictly(prepared):
    method, _, ready = prepared(KEY)
    assert method.policy(0.25, ready) == ScoreThreshold(0.75, of=CONFIDENCE)
    u = np.array([[0.2, 0.3, 0.25, 0.9], [0.9, 0.1, 0.2, 0.9], [0.0, 0.0, 0.0, 0.0]])
    said = {"answer": np.zeros((3, 4, 2)), CONFIDENCE: 1 - u}
    assert replay(method.policy(0.25, ready), said).tolist() == [0, 1, 1, 2]


def test_the_ends_of_the_knob(prepared):
    """delta = 0 is the full model, whatever is said; above 1 all leave at the first layer."""
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:16]))
    never, first = (infer(ready.model, x, method.policy(knob, ready)) for knob in (0.0, 1.1))
    with torch.inference_mode():
        assert torch.equal(never.answers, ready.model.full(x))
    assert (first.exits == 0).all()
    sure = {"answer": np.zeros((2, 1, 3)), CONFIDENCE: np.ones((2, 1))}
    assert replay(method.policy(0.0, ready), sure).tolist() == [1]


def test_deeper_layers_know_more_and_uncertainty_follows_the_error(prepared):
    """The task is not degenerate: the full model explains clearly more than the first exit."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    found = [point.quality for point in method.static(seen)]
    assert found[-1] > found[0] + 0.005
    doubt = 1 - seen.outputs[CONFIDENCE][0]
    errors = (seen.answers[0] - seen.targets).abs().tanh().mean(dim=1)
    assert torch.corrcoef(torch.stack([doubt, errors]))[0, 1] > 0.5


def test_quality_is_the_explained_variance():
    eps = torch.tensor([[1.0, -1.0], [2.0, 0.0]])
    method = AdaDiff()
    assert method.score(eps, eps) == 1.0
    assert method.score(torch.zeros(2, 2), eps) == pytest.approx(0.0, abs=1e-12)
    assert method.score(eps / 2, eps) == pytest.approx(0.75)


def test_chance_is_to_see_no_noise(prepared):
    method, bench, ready = prepared(KEY)
    found = method.chance(ready, bench)
    n = len(ready.split("test").targets)
    assert (found.quality, found.error) == (0.0, pytest.approx(n**-0.5))
    (rival,) = method.baselines(ready, bench)
    assert rival.name == "static exit"
    facts, overthought = method.each_exit(ready, bench)
    assert [fact.quality for fact in facts] == [point.quality for point in rival.test]
    assert overthought is None


# Images.


class Known(nn.Module):
    """Says the noise in x_t exactly, if all images are this one."""

    def __init__(self, image):
        super().__init__()
        self.image = image

    def forward(self, read):
        a, s = levels(read[:, -1:])
        return (read[:, :-1] - a * self.image) / s


def test_who_knows_the_noise_draws_the_image():
    image = torch.randn(9)
    model = MultiExit([nn.Identity(), nn.Identity()], [Known(image), Known(image)])
    found, exits = drawn(model, [None] * 7, torch.randn(4, 9), (-9.0, 9.0))
    assert torch.allclose(found, image.expand(4, 9), atol=1e-3)
    assert exits.tolist() == [[1] * 4] * 7


class Wrong(nn.Module):
    """Says half of what is there to be noise."""

    def forward(self, read):
        return read[:, :-1] / 2


def test_each_step_clips_the_image_that_it_estimates_and_counts_the_rest_as_noise():
    """By hand: two steps, from t = 1 over 0.5 to 0. Left as it is, the first estimate would be 76 times the noise.

    Between them, as DDPM has it for one image and x_1, x_0.5 is normal with the mean below and the deviation ``fresh``.
    """
    noise, span = torch.tensor([[2.0, -0.005, -2.0]]), (-0.5, 1.0)
    model = MultiExit([nn.Identity()], [Wrong()])
    (a, s), (a_half, s_half) = (levels(torch.tensor(t)) for t in (1.0, 0.5))
    inner = ((1 - s / 2) / a * noise).clamp(*span)
    assert inner.tolist() == [[1.0, pytest.approx(-0.005 * (1 - s.item() / 2) / a.item()), -0.5]]
    step = a / a_half  # x_1 = step x_0.5 + noise of variance 1 - step²
    mean = (a_half * (1 - step**2) * inner + step * s_half**2 * noise) / s**2
    fresh = s_half / s * (1 - step**2).sqrt()
    half = mean + fresh * torch.randn(1, 3, generator=torch.Generator().manual_seed(5))
    found, _ = drawn(model, [None] * 2, noise, span, seed=5)
    assert torch.allclose(found, ((1 - s_half / 2) / a_half * half).clamp(*span), atol=1e-4)
    many, _ = drawn(model, [None] * 25, noise, span)
    assert many.min() >= -0.5
    assert many.max() <= 1.0


def test_images_drawn_of_one_seed_have_the_same_noise_in_all_steps(prepared):
    _, _, ready = prepared(KEY)
    noise, span = torch.randn(5, 64), (-1.0, 2.0)
    (one, _), (same, _), (other, _) = (drawn(ready.model, [None] * 4, noise, span, seed) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other, atol=0.1)


def test_images_are_drawn_within_the_values_of_training_images(prepared):
    _, bench, ready = prepared(KEY)
    found = claimed.Drawing.of(ready, "test", claimed.learned(ready, bench), 0)
    x = torch.stack(list(ready.data.train.inputs))
    assert found.span == (x.min().item(), x.max().item())
    again = torch.randn(found.noise.shape, generator=torch.Generator().manual_seed(found.seed))
    assert not torch.equal(again, found.noise)
    plan = [FixedExit(0)] * 2
    x, _ = drawn(ready.model, plan, found.noise, found.span, found.seed)
    with torch.inference_mode():
        assert torch.allclose(found.drawn(plan)[0], found.features(x), atol=1e-5)


def test_images_without_exits_are_those_of_the_whole_network_and_steps_come_from_noise_to_image(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    noise, span = torch.randn(5, 64), (-1.0, 2.0)
    whole, deep = drawn(ready.model, [None] * 4, noise, span)
    same, exits = drawn(ready.model, [method.policy(0.0, ready)] * 4, noise, span)
    assert torch.allclose(whole, same, atol=1e-5)
    assert torch.equal(deep, exits)
    _, first = drawn(ready.model, [method.policy(1.1, ready)] * 4, noise, span)
    assert not first.any()
    _, each = drawn(ready.model, [FixedExit(1), None, FixedExit(0)], noise, span)
    assert each.tolist() == [[1] * 5, [2] * 5, [0] * 5]
    times = []
    monkeypatch.setattr(MultiExit, "full", lambda self, x: times.append(x[0, -1].item()) or torch.zeros(5, 64))
    drawn(ready.model, [None] * 4, noise, span)
    assert times == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_fewer_layers_are_run_the_larger_delta_is(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    depths = [replay(method.rule(knob, ready), seen.outputs) for knob in method.knobs]
    assert all((a <= b).all() for a, b in pairwise(depths))


# What is claimed.


def test_distance_of_frechet():
    """Of one dimension each by itself: (m - n)² + (s - r)²; 0 of anything to itself."""
    torch.manual_seed(0)
    x = torch.randn(4000, 2)
    x = (x - x.mean(dim=0)) @ torch.linalg.inv(torch.linalg.cholesky(x.T.cov())).T
    y = x * torch.tensor([2.0, 0.5]) + torch.tensor([3.0, 0.0])
    assert claimed.frechet(x, x) == pytest.approx(0.0, abs=1e-4)
    assert claimed.frechet(x, y) == pytest.approx(9 + 1 + 0.25, abs=1e-2)


def test_the_distance_of_resampled_images_is_that_of_as_many_copies():
    torch.manual_seed(0)
    x, y = torch.randn(6, 2), torch.randn(6, 2)
    times, taken = np.array([2, 0, 1, 3, 0, 0]), [0, 0, 2, 3, 3, 3]
    assert claimed.frechet(x, y, times) == pytest.approx(claimed.frechet(x[taken], y[taken]))
    assert claimed.frechet(x, y, np.ones(6, dtype=np.int64)) == pytest.approx(claimed.frechet(x, y))


def test_schedules_of_fixed_layers_cost_at_least_as_much_and_hardly_more(monkeypatch):
    monkeypatch.setattr(claimed, "STEPS", 10)
    shares = np.array([0.2, 0.6, 1.0])
    for share, exits in ((0.1, [0] * 10), (0.2, [0] * 10), (0.4, [0] * 5 + [1] * 5), (0.41, [0] * 4 + [1] * 6),
                         (0.6, [1] * 10), (0.96, [1] + [2] * 9), (1.2, [2] * 10)):  # fmt: skip
        plans = [[policy.exit for policy in plan] for plan in claimed.schedules(shares, share)]
        assert plans[0] == exits
        assert plans[-1] == exits[::-1]
        assert share > 1 or shares[exits].mean() >= share - 1e-9


def test_rivals_are_chosen_on_validation_images_and_cost_no_less(prepared, monkeypatch):
    """What ours costs is seen there, with other noise; on test images each is drawn once."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "STEPS", 6)
    monkeypatch.setattr(claimed, "IMAGES", 40)
    monkeypatch.setattr(claimed.Drawing, "nearer", lambda *given: Difference(0.0, 1.0))
    drawings, real = [], claimed.Drawing.drawn

    def draw(self, plan):
        drawings.append((self, plan, real(self, plan)))
        return drawings[-1][-1]

    monkeypatch.setattr(claimed.Drawing, "drawn", draw)
    chosen = next(p for p in method.sweep(ready, bench, "validation", method.knobs) if 0.1 < p.exits[0] < 0.9)
    found = claimed.of_images(method, ready, bench, chosen)
    held, test = drawings[0][0], drawings[-1][0]
    assert not torch.equal(held.noise, test.noise)
    assert held.seed != test.seed
    assert not torch.equal(held.real, test.real)
    ours, *plans = [(plan, exits) for drawing, plan, (_, exits) in drawings if drawing is held]
    seen = ready.split("validation")
    share = seen.costs[ours[1].numpy(), 0].mean() / seen.full_costs[0]
    again, whole, fewer, fixed, shallow = [plan for drawing, plan, _ in drawings if drawing is test]
    assert again == ours[0] == [method.rule(chosen.knob, ready)] * 6
    assert whole == [None] * 6
    assert shallow == [FixedExit(0)] * 6
    assert fewer == [None] * math.ceil(6 * share)
    assert len(fewer) < 6
    assert fixed in [plan for plan, _ in plans]
    assert len(plans) == 2
    nearest = min(plans, key=lambda each: held.distance(real(held, each[0])[0]))
    assert fixed == nearest[0]
    spent = np.mean([seen.static_costs[policy.exit, 0] / seen.full_costs[0] for policy in fixed])
    assert share <= spent <= share + 1 / 6
    assert [outcome.holds for outcome in found[1:3]] == [False, False]
    assert f"in {len(fewer)} steps, not 6" in found[1].measured


def test_normal_images_have_the_mean_and_covariance_of_training_images(prepared):
    _, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.train.inputs))
    noise = torch.randn(20_000, 64, generator=torch.Generator().manual_seed(0))
    found = claimed.normal_images(ready, SimpleNamespace(noise=noise, span=(-99.0, 99.0)))
    assert (found.mean(dim=0) - x.mean(dim=0)).abs().max() < 0.05
    assert (found.T.cov() - x.T.cov()).abs().max() < 0.1
    clipped = claimed.normal_images(ready, SimpleNamespace(noise=noise, span=(-0.5, 1.0)))
    assert (clipped.min(), clipped.max()) == (-0.5, 1.0)


@pytest.mark.parametrize(
    ("over_first", "over_normal", "why"),
    [
        (Difference(30.0, 10.0), Difference(150.0, 10.0), ""),
        (Difference(19.0, 10.0), Difference(150.0, 10.0), "what its first layer draws"),
        (Difference(-9.0, 1.0), Difference(150.0, 10.0), "what its first layer draws"),
        (Difference(30.0, 10.0), Difference(15.0, 10.0), "normal distribution"),
    ],
)
def test_images_must_be_clearly_nearer_than_normal_ones_and_than_the_first_layers(over_first, over_normal, why):
    found = claimed.no_images(over_first, over_normal)
    assert bool(found) is bool(why)
    assert why in found


@pytest.mark.parametrize(("first", "formless"), [(380.0, True), (400.0, False)])
def test_the_first_layers_images_must_be_further_by_more_than_counts_as_as_good(prepared, monkeypatch, first, formless):
    """Those of the whole network are 354 from real ones: up to 389 would be as good."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "STEPS", 2)
    monkeypatch.setattr(claimed, "IMAGES", 20)
    far = {str([FixedExit(0)] * 2): first, str([None] * 2): 354.0}
    real = claimed.Drawing.drawn
    drawn_as = lambda self, plan: (torch.tensor(far.get(str(plan), 354.0)), real(self, plan)[1])  # noqa: E731
    monkeypatch.setattr(claimed.Drawing, "drawn", drawn_as)
    monkeypatch.setattr(  # features are those of noise, of which there are many
        claimed.Drawing, "distance", lambda self, drawn, times=None: float(drawn) if drawn.dim() == 0 else 526.0
    )
    test = method.sweep(ready, bench, "test", [0.0])[0]
    *three, _ = claimed.of_images(method, ready, bench, test)
    assert [bool(each.not_comparable) for each in three] == [formless] * 3


def test_what_is_drawn_at_each_threshold_stands_beside_the_curve(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "STEPS", 3)
    monkeypatch.setattr(claimed, "FEW", 30)
    knobs = [method.knobs[0], 0.5, method.knobs[-1]]
    curve = SimpleNamespace(test=method.sweep(ready, bench, "test", knobs))
    found = claimed.beside_curve(method, ready, bench, curve)
    assert registry.beside_curve(KEY) is claimed.beside_curve
    assert len(found.values) == 3
    assert (found.values[0], found.values[-1]) == pytest.approx((found.cheap, found.full))
    assert found.error > 0
    assert "of 30 images drawn in 3 steps" in found.meaning


def test_features_tell_classes_and_are_learned_from_training_images(prepared):
    _, bench, ready = prepared(KEY)
    features = claimed.learned(ready, bench)
    with torch.inference_mode():
        found = features(torch.stack(list(ready.data.train.inputs)))
    assert found.shape == (900, 32)
    labels = ready.data.train.targets
    centres = torch.stack([found[labels == k].mean(dim=0) for k in range(10)])
    assert (torch.cdist(found, centres).argmin(dim=1) == labels).double().mean() > 0.6


def test_outcomes_follow_what_was_drawn(prepared, monkeypatch):
    """Twice the noise is far from images; to draw by the first layer alone differs in no step."""
    method, bench, ready = prepared(KEY)
    monkeypatch.setattr(claimed, "STEPS", 3)
    monkeypatch.setattr(claimed, "IMAGES", 40)
    test = method.sweep(ready, bench, "test", [1.1])[0]
    kept, _, _, differs = claimed.of_images(method, ready, bench, test)
    assert not differs.holds
    assert "threshold 1.1" in kept.measured
    real = images_in(ready.split("test").examples)[:40]
    steps = torch.tensor([[0] * 40, [2] * 40])
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(bench.seed))
    first = [FixedExit(0)] * 3
    monkeypatch.setattr(claimed, "drawn", lambda model, plan, *given: (noise if plan == first else real, steps))
    kept, fewer, fixed, differs = claimed.of_images(method, ready, bench, test)
    assert differs.holds
    assert not fewer.holds  # as near is not nearer
    assert not any(each.not_comparable for each in (kept, fewer, fixed, differs))
    monkeypatch.setattr(claimed, "drawn", lambda *given: (real, steps))
    *three, differs = claimed.of_images(method, ready, bench, test)
    assert all("no nearer to real images than what its first layer draws" in each.not_comparable for each in three)
    assert not differs.not_comparable
    monkeypatch.setattr(claimed, "drawn", lambda *given: (2 * noise, steps))
    *three, differs = claimed.of_images(method, ready, bench, test)
    assert all("than draws of a normal distribution" in each.not_comparable for each in three)
    assert not differs.not_comparable
    assert not fixed.holds
    assert "distance 0.000 and 0.000" in kept.measured
    assert "other real images: 0.000" not in kept.measured  # those for validation
    costs = ready.split("test").costs[:, 0]
    spent = (costs[0] + costs[2]) / 2 / ready.split("test").full_costs[0]
    assert kept.holds is bool(spent <= 0.6)


def points(*each):
    """Operating points of a knob, a quality, that of fifty images, and a cost of 100."""
    return [
        OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=[1.0], samples=Samples(np.full(50, q), None))
        for k, q, c in each
    ]


@pytest.mark.parametrize(("base", "no_worse"), [(0.909, True), (0.911, False)])
def test_images_are_drawn_at_the_cheapest_threshold_and_the_plain_network_learns_from_its_last_layer_alone(
    monkeypatch, base, no_worse
):
    """Two baselines stand beside; the fixed depth is the one to beat, the other is better than everything."""
    method, asked = tiny(lam=0.1, beta=0.2, gamma=0.3), []
    monkeypatch.setattr(AdaDiff, "prepare", lambda self, bench: asked.append(self) or "plain")
    swept = points((0.0, base, 100))
    monkeypatch.setattr(
        AdaDiff,
        "sweep",
        lambda self, ready, bench, split, knobs: {("plain", "test", (0.0,)): swept}[ready, split, knobs],
    )
    monkeypatch.setattr(claimed, "of_images", lambda *given: asked.append(given) or ["images"])
    held = points((0.3, 0.5, 20), (0.1, 0.875, 40), (0.05, 0.885, 60), (0.0, 0.9, 100))
    test = points((0.3, 0.5, 20), (0.1, 0.88, 40), (0.05, 0.89, 60), (0.0, 0.9, 100))
    fixed, other = points((1, 0.7, 40), (2, 0.9, 100)), points((1, 0.99, 40), (2, 0.99, 100))
    rivals = [
        Baseline(name=name, validation=each, test=each)
        for name, each in (("max-confidence", other), ("static exit", fixed))
    ]
    curve = SimpleNamespace(validation=held, test=test, baselines=rivals, full_quality=0.9)
    found = claimed.claims(method, "prepared", "bench", curve)
    assert asked == [
        (method, "prepared", "bench", test[2]), method.replace({"lam": 0.0, "beta": 0.0, "gamma": 0.0})
    ]  # fmt: skip
    assert found[0].name == "better than a fixed depth"
    assert found[0].holds
    assert found[1] == "images"
    assert found[2].holds is no_worse
    assert found[2].measured == f"0.9000 and {base:.4f} ({0.9 - base:+.4f} ± 0.0000)"


def test_a_depth_fixed_beforehand_is_beaten_by_a_hundredth_on_average():
    fixed = points((1, 0.6, 40), (2, 0.9, 100))
    for gain, holds in ((0.012, True), (0.008, False)):
        ours = points((1, 0.6 + gain, 40), (2, 0.9 + gain, 100))
        rival = Baseline(name="static exit", validation=fixed, test=fixed)
        found = claimed.better_than_fixed(SimpleNamespace(validation=ours, test=ours, baselines=[rival]))
        assert found.holds is holds
        assert found.measured.startswith(f"{gain:+.4f} ± 0.0000 on the mean")
        assert found.measured.endswith("; 4 costs")
    uneven = points((1, 0.612, 40), (2, 0.912, 100))
    for each in uneven:
        each.samples.quality[:] += np.tile([0.1, -0.1], 25)
    assert not claimed.better_than_fixed(SimpleNamespace(validation=uneven, test=uneven, baselines=[rival])).holds
