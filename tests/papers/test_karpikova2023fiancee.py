"""What only FIANCEE promises: generator and branches, the look-up, the predictor's rule, and how each is trained."""

import copy
import dataclasses
import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import karpikova2023fiancee as claimed
from eelit.methods.data import drawings
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.families.exit_prediction import PredictedExits, Prepared, Seen, run
from eelit.methods.harness import registry
from eelit.methods.papers import karpikova2023fiancee as paper
from eelit.methods.papers.karpikova2023fiancee import (
    Branch,
    Database,
    Discriminator,
    Features,
    Fiancee,
    Module,
    Predictor,
    Spade,
    Terms,
    all_pictures,
    first_within,
    resized,
    shortfalls,
    train_generator,
)

KEY = "karpikova2023fiancee"


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


@pytest.fixture(scope="module")
def built():
    method = tiny()
    return method, method.build(method.load(), 0).eval()


# The rule.


@pytest.mark.parametrize(
    ("T", "exits"),
    [(-0.1, [3, 3, 3]), (0.0, [3, 1, 3]), (0.1, [2, 0, 3]), (0.2, [0, 0, 3]), (0.4, [0, 0, 0]), (math.inf, [0, 0, 0])],
)
def test_the_first_exit_that_is_foretold_to_be_within(T, exits):
    """T itself is within; the last exit has no forecast."""
    qhat = torch.tensor([[0.2, 0.3, 0.1], [0.1, 0.0, 0.05], [0.4, 0.4, 0.5]], dtype=torch.float64)
    assert first_within(qhat, T).tolist() == exits


def test_what_is_not_a_number_is_not_within():
    nan = math.nan
    qhat = torch.tensor([[nan, nan], [nan, 0.1], [math.inf, 0.3]])
    assert first_within(qhat, 0.2).tolist() == [2, 1, 2]
    assert first_within(qhat, math.inf).tolist() == [2, 1, 0]


def test_the_exit_never_rises_with_the_threshold():
    qhat = torch.rand(200, 3, generator=torch.Generator().manual_seed(0))
    exits = [first_within(qhat, T) for T in (-1.0, 0.0, 0.1, 0.3, 0.5, 0.9, math.inf)]
    assert all((a >= b).all() for a, b in pairwise(exits))
    assert (exits[0] == 3).all()
    assert not exits[-1].any()


def test_the_predictor_says_a_number_that_is_not_negative_of_each_branch():
    P = Predictor(3, 4, 5, 2)
    found = P(torch.rand(7, 3, 4, 4))
    assert found.shape == (7, 2)
    nn.init.constant_(P[-2].bias, -1000.0)
    assert (P(torch.rand(7, 3, 4, 4)) >= 0).all()
    assert math.log1p(math.exp(paper.STARTS_AT)) == pytest.approx(0.05, abs=0.005)
    assert Predictor(3, 4, 5, 2)[-2].bias.tolist() == [paper.STARTS_AT] * 2


# The network.


def test_sides_change_by_means_and_by_repeating():
    x = torch.tensor([[[[1.0, 3.0], [5.0, 7.0]]]])
    assert resized(x, 1).tolist() == [[[[4.0]]]]
    assert resized(x, 2) is x
    assert resized(x, 4)[0, 0].tolist() == [[1, 1, 3, 3], [1, 1, 3, 3], [5, 5, 7, 7], [5, 5, 7, 7]]


def spaded(layer, x, m):
    """spade written out: norm over channels and places, then a linear map of m at each place."""
    flat = x.flatten(1)
    deviation = (flat.var(dim=1, correction=0) + 1e-5).sqrt()
    normed = (x - flat.mean(dim=1)[:, None, None, None]) / deviation[:, None, None, None]
    read = torch.einsum("oi,nihw->nohw", layer.both.weight[:, :, 0, 0], resized(m, x.shape[-1]))
    read = read + layer.both.bias[:, None, None]
    half = x.shape[1]
    return (1 + read[:, :half]) * normed + read[:, half:]


def test_a_map_scales_and_shifts_what_is_normed():
    torch.manual_seed(0)
    layer, x, m = Spade(3, 2), torch.randn(2, 3, 4, 4), torch.rand(2, 2, 2, 2)
    assert torch.allclose(layer(x, m), spaded(layer, x, m), atol=1e-5)


def test_a_module_is_a_residual_block():
    torch.manual_seed(0)
    block, x, m = Module(3, 5, 2), torch.randn(2, 3, 4, 4), torch.rand(2, 2, 4, 4)
    inner = block.two(block.one(spaded(block.spade, x, m).relu()).relu())
    assert torch.allclose(block(x, m), block.short(x) + inner, atol=1e-5)


def test_the_generator_doubles_sides_and_each_module_reads_the_map(built):
    method, model = built
    m = torch.stack(list(method.load().test.inputs[:4]))
    states = list(model.states(m))
    assert [x.shape[1:] for _, x, _ in states] == [(12, 2, 2), (10, 4, 4), (8, 8, 8)]
    assert all(torch.equal(state[0], m) and torch.equal(state[2], states[0][1]) for state in states)
    x_1 = model.stages[0].module(resized(m, 2), m)
    x_2 = model.stages[1].module(resized(x_1, 4), m)
    assert torch.equal(states[1][1], x_2)
    drawn = model.heads[-1].drawn[1]
    with torch.no_grad():
        y = torch.tanh(drawn(model.stages[2].module(resized(x_2, 8), m).relu()))
        assert torch.allclose(model.full(m), y, atol=1e-6)
    assert y.shape == (4, 1, 8, 8)


def test_branches_have_what_is_left_and_are_lighter_by_their_factor(built):
    method, model = built
    assert method.scales == (4.0, 3.0)
    shapes = [[(m.short.in_channels, m.short.out_channels) for m in head.lighter] for head in model.heads[:-1]]
    assert shapes == [[(12 + 1, 2), (2, 2)], [(10 + 1, 3)]]
    assert [head.sides for head in model.heads[:-1]] == [(4, 8), (8,)]


def test_a_branch_reads_the_picture_that_was_looked_up_beside_its_map(built):
    method, model = built
    model, branch = copy.deepcopy(model), None
    data = method.load().train
    paper.remember(model, data.head(method.database))
    m, branch = torch.stack(list(data.inputs[40:44])), model.heads[0]
    state = next(iter(model.states(m)))
    with torch.no_grad():
        G = branch.database(state[2])
        x = branch.lighter[0](torch.cat([resized(state[1], 4), resized(G, 4)], dim=1), m)
        x = branch.lighter[1](resized(x, 8), m)
        assert torch.allclose(branch(state), torch.tanh(branch.drawn[1](x.relu())), atol=1e-6)
        branch.database.pictures.zero_()
        assert not torch.allclose(branch(state), torch.tanh(branch.drawn[1](x.relu())), atol=1e-3)


def test_the_nearest_key_answers():
    torch.manual_seed(0)
    base, keys = Database(20, 12, (1, 2, 2)), torch.randn(20, 3, 2, 2) * torch.rand(20, 1, 1, 1) * 5
    base.fill(keys, torch.arange(20.0).reshape(20, 1, 1, 1).expand(20, 1, 2, 2))
    asked = torch.randn(50, 3, 2, 2)
    nearest = torch.cdist(asked.flatten(1), keys.flatten(1)).argmin(dim=1)
    assert torch.equal(base(asked)[:, 0, 0, 0].long(), nearest)
    assert torch.equal(base(keys)[:, 0, 0, 0].long(), torch.arange(20))


def test_one_database_of_the_first_training_pictures(prepared):
    method, _, ready = prepared(KEY)
    bases = {id(head.database) for head in ready.model.heads[:-1]}
    assert len(bases) == 1
    base, first = ready.model.heads[0].database, ready.data.train.head(method.database)
    assert torch.equal(base.pictures, first.targets)
    with torch.no_grad():
        x_1 = ready.model.stages[0](torch.stack(list(first.inputs)))[2]
    assert torch.allclose(base.keys, x_1.flatten(1), atol=1e-5)


def test_without_a_database_nothing_is_looked_up():
    method = tiny(guided=False)
    model = method.build(method.load(), 0)
    assert [head.database for head in model.heads[:-1]] == [None, None]
    assert model.heads[0].lighter[0].short.in_channels == 12
    assert isinstance(model.heads[0], Branch)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"scales": (2.0,)}, "all of 3 modules but one"),
        ({"scales": (2.0, 0.5)}, "scales of 1 or more"),
        ({"database": 260}, "database"),
        ({"a": -1.0}, "a is one finite number"),
        ({"widths": (4,) * 5, "scales": (1.0,) * 4}, "halved 4 times, not 8"),
    ],
)
def test_what_cannot_be_meant_is_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        tiny(**settings).build(tiny().load(), 0)


# Distances and losses.


def test_a_distance_by_hand():
    """At each place of each kind of maps |phi(y) - phi(z)|², both of length 1; the mean over places, then kinds."""
    phi = Features((2, 3), 1)
    y, z = torch.rand(2, 2, 1, 4, 4) * 2 - 1
    expected = torch.zeros(2)
    for part_y, part_z in zip(phi(y), phi(z), strict=True):
        assert torch.allclose(part_y.norm(dim=1).amax(), torch.tensor(1.0), atol=1e-5)
        expected += ((part_y - part_z) ** 2).sum(dim=1).flatten(1).mean(dim=1) / 2
    assert torch.allclose(phi.distance(y, z), expected, atol=1e-6)
    assert phi.distance(y, y).tolist() == [0, 0]
    assert not any(p.requires_grad for p in phi.parameters())
    raw = phi.parts[0](y)
    assert torch.allclose(phi(y)[0], raw / raw.norm(dim=1, keepdim=True).clamp_min(1e-12), atol=1e-6)


def test_pictures_are_compared_at_two_sides_of_the_pretrained_network(untrained):
    phi = Features((), 3)
    assert [part.shape[1:] for part in phi(torch.rand(1, 3, 32, 32))] == [(16, 16, 16), (24, 8, 8)]


def test_making_phi_leaves_chance_as_it_is():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    Features((4,), 1)
    assert torch.equal(torch.rand(3), expected)


class Judge(Discriminator):
    """Says the mean of the picture, whatever the map."""

    def of(self, m, y):
        return y.mean(dim=(1, 2, 3))


def test_hinge_by_hand():
    """1 - 0.5 and nothing for 2 of the real ones; of two sets of fakes 1 + 0.5 and 0 (below -1)."""
    D, m = Judge(2, 2), torch.zeros(2, 1, 4, 4)

    def flat(*values):
        return torch.tensor(values).reshape(2, 1, 1, 1).expand(2, 1, 4, 4)

    found = D.loss(m, flat(0.5, 2.0), [flat(0.5, 0.5), flat(-3.0, -1.0)])
    assert found.item() == pytest.approx(0.25 + (1.5 + 0.0) / 2)


def test_the_discriminator_sees_the_map_beside_the_picture():
    D, m, y = Discriminator(3, 4), torch.rand(2, 2, 4, 4), torch.rand(2, 1, 8, 8)
    assert torch.equal(D.of(m, y), D(torch.cat([resized(m, 8), y], dim=1)))


def looked(terms, data, m, real, fakes):
    """L_GAN by the formula, after a step of D that starts as in training."""
    torch.manual_seed(0)
    D = Discriminator(m.shape[1] + real.shape[1], terms.width)
    adam = torch.optim.Adam(D.parameters(), lr=terms.rate, betas=(0.5, 0.999))
    judged = [D(torch.cat([resized(m, 8), y.detach()], dim=1)) for y in (real, *fakes)]
    hinge = F.relu(1 - judged[0]).mean() + sum(F.relu(1 + each).mean() for each in judged[1:]) / len(fakes)
    hinge.backward()
    adam.step()
    return -sum(D(torch.cat([resized(m, 8), y], dim=1)).mean() for y in fakes).item()


def test_training_stage_by_stage(wired):
    """Each loss by its formula, what it is trained on, which parameters at which rates, and for how long."""
    method = tiny(a=0.5, b=2.0, c=0.3)
    model, (first, second, third) = wired(method)
    train, phi = method.load().train, paper.features_of(method.feature_widths, 1)
    terms = Terms(0.5, 2.0, 0.3, method.critic, method.critic_rate)
    rest = train.at(torch.arange(method.database, len(train)))

    assert torch.equal(first.train.targets, train.targets)
    index = torch.arange(4)
    m, real = torch.stack(list(train.inputs[:4])), train.targets[:4]
    *_, y_n = all_pictures(model, m)
    near = 0.5 * phi.distance(y_n, real).mean() + 2 * (y_n - real).abs().mean()
    expected = near.item() + 0.3 * looked(terms, train, m, real, [y_n])
    assert first.loss(first.batch_of(index, m)).item() == pytest.approx(expected, rel=1e-4)
    generator = [*model.stages.parameters(), *model.heads[-1].parameters()]
    assert first.rates == {id(p): method.rate for p in generator}
    assert (first.epochs, first.batch) == (method.epochs, method.batch)

    assert torch.equal(second.train.targets, rest.targets)
    m, real = torch.stack(list(rest.inputs[:4])), rest.targets[:4]
    *y, y_n = all_pictures(model, m)
    near = sum(0.5 * phi.distance(each, y_n).mean() + 2 * (each - y_n).abs().mean() for each in y)
    expected = near.item() + 0.3 * looked(terms, rest, m, real, y)
    assert second.loss(second.batch_of(index, m)).item() == pytest.approx(expected, rel=1e-4)
    assert second.rates == {id(p): method.rate for p in model.heads[:-1].parameters()}
    assert (second.epochs, second.batch) == (method.branch_epochs, method.batch)
    for stage in (first, second):
        (adam,) = stage.beside
        assert (adam.defaults["lr"], adam.defaults["betas"]) == (method.critic_rate, (0.5, 0.999))

    assert torch.equal(third.train.targets, rest.targets)
    q = torch.stack([phi.distance(each, y_n) for each in y], dim=1)
    expected = ((model.predictor(m) - q) ** 2).mean().item()
    assert third.loss(third.batch_of(index, m)).item() == pytest.approx(expected, rel=1e-4)
    assert third.rates == {id(p): method.predictor_rate for p in model.predictor.parameters()}
    assert (third.epochs, third.batch, third.beside) == (method.predictor_epochs, method.batch, ())


# What is trained keeps the promises.


def test_the_generator_is_bit_for_bit_what_it_was_before_branches_and_predictor(prepared):
    method, bench, ready = prepared(KEY)
    data = method.load().without_test()
    alone = method.build(data, bench.seed).plain_network()
    terms = Terms(method.a, method.b, method.c, method.critic, method.critic_rate)
    features = paper.features_of(method.feature_widths, 1)
    options = {"epochs": method.epochs, "batch": method.batch, "rate": method.rate}
    train_generator(alone, data, dataclasses.replace(bench, trainings={}), features, terms, **options)
    pairs = zip(alone.parameters(), ready.model.plain_network().parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_ends_of_the_threshold(prepared):
    """Below 0 the whole generator draws everything, to the last bit; without a limit the first branch does."""
    method, _, ready = prepared(KEY)
    m = torch.stack(list(ready.data.test.inputs[:16]))
    never, first = (run(ready.model, m, method.rule(T)) for T in (-1e-9, math.inf))
    with torch.inference_mode():
        assert torch.equal(never.answers, ready.model.full(m))
        state = ready.model.stages[0](m)
        assert torch.equal(first.answers, ready.model.heads[0](state))
    assert (never.exits == 2).all()
    assert not first.exits.any()


def test_an_empty_database_changes_no_whole_picture(prepared):
    method, _, ready = prepared(KEY)
    model, m = copy.deepcopy(ready.model), torch.stack(list(ready.data.test.inputs[:16]))
    model.heads[0].database.pictures.zero_()
    with torch.inference_mode():
        assert torch.equal(run(model, m, method.rule(-1.0)).answers, run(ready.model, m, method.rule(-1.0)).answers)
        assert not torch.equal(run(model, m, method.rule(math.inf)).answers, model.full(m))


def test_who_foretells_perfectly_keeps_every_threshold(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    q = torch.stack([method.distances(y, seen.answers[-1]) for y in seen.answers])
    assert not q[-1].any()
    perfect = dataclasses.replace(seen, forecasts=q[:-1].T)
    for T in (0.0, 0.02, 0.04, 0.06, 0.1):
        exits, _ = perfect.gone(method.rule(T))
        far = q[torch.as_tensor(exits), torch.arange(len(exits))]
        assert (far <= T).all()
    middle = float(q[0].median())
    assert len(set(perfect.gone(method.rule(middle))[0].tolist())) > 1


def test_shortfalls_are_distances_from_the_whole_picture(prepared):
    method, _, ready = prepared(KEY)
    part, phi = ready.data.validation.head(70), paper.features_of(method.feature_widths, 1)
    found = shortfalls(ready.model.exits_alone(), part, phi)
    seen = ready.split("validation")
    expected = torch.stack([phi.distance(y[:70], seen.answers[-1][:70]) for y in seen.answers[:-1]], dim=1)
    assert torch.allclose(found, expected, atol=1e-5)


def test_depth_matters_and_the_predictor_knows_whom(prepared):
    """The whole generator is clearly nearer to the drawings than the first branch, and forecasts follow the truth."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    quality = [point.quality for point in seen.cut_off(method.score)]
    assert quality[-1] > quality[0] + 0.005
    q = method.distances(seen.answers[0], seen.answers[-1])
    assert torch.corrcoef(torch.stack([seen.forecasts[:, 0], q]))[0, 1] > 0.3


def test_quality_is_nearness_to_the_drawing(prepared):
    method, bench, ready = prepared(KEY)
    y = ready.split("test").targets
    assert method.score(y, y) == 1
    phi = paper.features_of(method.feature_widths, 1)
    assert method.score(y.roll(1, 0), y) == pytest.approx(1 - phi.distance(y.roll(1, 0), y).mean().item(), abs=1e-5)
    mean = ready.data.train.targets.mean(dim=0)
    found = 1 - phi.distance(mean.expand_as(y), y)
    chance = method.chance(ready, bench)
    assert chance.quality == pytest.approx(found.mean().item(), abs=1e-5)
    assert chance.error == pytest.approx(found.std().item() / len(y) ** 0.5, rel=1e-3)


# A network whose exit is named beforehand.


class Says(nn.Module):
    """Says a number, but what is not one of inputs that it must not be asked of."""

    def __init__(self, number, never=()):
        super().__init__()
        self.number, self.never, self.linear, self.asked = number, never, nn.Linear(2, 1, bias=False), 0

    def forward(self, x):
        self.asked += len(x)
        bad = sum((x[:, 0] == each).float() for each in self.never) if self.never else torch.zeros(len(x))
        return torch.where(bad > 0, math.nan, self.number + 0 * self.linear(x)[:, 0])[:, None, None]


class Adds(nn.Module):
    """Passes a state on, and counts whom."""

    def __init__(self):
        super().__init__()
        self.linear, self.run = nn.Linear(2, 3, bias=False), 0

    def forward(self, x):
        self.run += len(x)
        return x + 0 * self.linear(x).sum(dim=1, keepdim=True)


class Foretells(nn.Module):
    """Says the second number of an input of each branch, and costs two products."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 1, bias=False)

    def forward(self, x):
        return (x[:, 1:] + 0 * self.linear(x)).expand(-1, 2)


def made():
    heads = [Says(10.0, never=(3.0, 4.0)), Says(20.0, never=(4.0,)), Says(30.0)]
    return PredictedExits([Adds(), Adds(), Adds()], heads, Foretells())


def named(said):
    """To the exit that was said."""
    return said[:, 0].long()


ASKED = torch.tensor([[0.0, 0], [1, 1], [2, 2], [3, 0], [4, 0], [5, 2], [4, 1]])


def test_only_what_somebody_needs_is_run():
    model = made()
    found = run(model, ASKED[:3], named)
    assert found.exits.tolist() == [0, 1, 2]
    assert found.answers[:, 0, 0].tolist() == [10, 20, 30]
    assert [stage.run for stage in model.stages] == [3, 2, 1]
    assert [head.asked for head in model.heads] == [1, 1, 1]
    model = made()
    run(model, ASKED[:1].expand(5, 2), named)
    assert [stage.run for stage in model.stages] == [5, 0, 0]


def test_what_a_drawing_gets_does_not_depend_on_its_batch_mates(prepared):
    method, _, ready = prepared(KEY)
    q = ready.split("test").forecasts
    rule = method.rule(float(q[:, 0].median()))
    m = torch.stack(list(ready.data.test.inputs[:24]))
    together = run(ready.model, m, rule)
    assert len(set(together.exits.tolist())) > 1
    order = torch.randperm(24, generator=torch.Generator().manual_seed(0))
    mixed, alone = run(ready.model, m[order], rule), [run(ready.model, one, rule) for one in m.split(1)]
    assert torch.equal(mixed.exits, together.exits[order])
    assert torch.equal(torch.cat([one.exits for one in alone]), together.exits)
    assert torch.allclose(mixed.answers, together.answers[order], atol=1e-5)
    assert torch.allclose(torch.cat([one.answers for one in alone]), together.answers, atol=1e-5)


def test_what_is_not_finite_is_not_the_last_word():
    """Number 3 goes on to the second exit, number 4 to the last."""
    found = run(made(), ASKED, named)
    assert found.exits.tolist() == [0, 1, 2, 1, 2, 2, 2]
    assert found.answers[:, 0, 0].tolist() == [10, 20, 30, 20, 30, 30, 30]
    assert found.not_finite.tolist() == [False, False, False, True, True, False, True]


def test_tables_and_running_agree_to_the_last_product():
    model, bench = made(), Bench()
    examples = Examples(list(ASKED), torch.zeros(len(ASKED), 1, 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Prepared, "split", Prepared._look)
        seen = Prepared(model, None, bench, None).split(examples, "made")
    assert isinstance(seen, Seen)
    exits, spent = seen.gone(named)
    with MacCounter() as counter:
        found = run(model, ASKED, named)
    assert exits.tolist() == found.exits.tolist()
    assert spent.sum() == counter.macs
    assert spent.tolist() == [2 + each for each in (8, 14, 20, 6 * 2 + 2 * 2, 6 * 3 + 2 * 3, 20, 6 * 3 + 2 * 2)]


# The drawings.


def test_kinds_of_colour_by_hand():
    """Means over 2×2 pixels, each channel in two steps: red counts 1, green 2."""
    picture = np.zeros((1, 2, 4, 4), np.float32)
    picture[0, 0, :2, :2] = [[1.0, 0.4], [0.4, 0.4]]  # 0.55
    picture[0, 1, :2, 2:] = [[0.4, 0.4], [0.4, 0.7]]  # 0.475
    picture[0, 1, 2:, :2] = 0.5
    assert drawings.kinds_of(picture, 2, 2).tolist() == [[[1, 0], [2, 0]]]
    assert drawings.kinds_of(picture, 3, 2).tolist() == [[[1, 3], [3, 0]]]
    assert drawings.kinds_of(np.ones((1, 3, 2, 2), np.float32), 2, 2).tolist() == [[[7]]]


def test_drawings_and_maps_of_a_part():
    found = drawings.drawings("digits", side=8, levels=3, coarse=2, train=30, validation=10, test=20)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [30, 10, 20]
    assert found.test.pictures.shape == (20, 1, 8, 8)
    assert (found.test.pictures.min(), found.test.pictures.max()) == (-1, 1)
    assert found.test.kinds.shape == (20, 4, 4)
    assert len({*found.train.rows, *found.validation.rows, *found.test.rows}) == 60
    fewer = drawings.drawings("digits", side=8, levels=3, coarse=2, train=5, validation=10, test=20)
    assert (fewer.train.rows == found.train.rows[:5]).all()
    assert fewer.digest != found.digest
    other = drawings.drawings("inverted-digits", side=8, levels=3, coarse=2, train=30, validation=10, test=20)
    assert np.allclose(other.test.pictures, -found.test.pictures, atol=1e-6)
    half = drawings.drawings("digits", side=4, levels=3, coarse=2, train=30, validation=10, test=20)
    assert half.test.pictures[0, 0, 0, 1] == pytest.approx(found.test.pictures[0, 0, :2, 2:4].mean(), abs=1e-6)
    assert half.test.kinds.shape == (20, 2, 2)
    data = tiny().load()
    assert data.train.inputs[0].shape == (3, 4, 4)
    assert torch.equal(data.train.inputs[0].sum(dim=0), torch.ones(4, 4))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"source": "x"}, "no drawings 'x'"),
        ({"levels": 1}, "not 1 and 2"),
        ({"coarse": 3}, "fill 8 pixels"),
        ({"side": 3}, "not at 3"),
    ],
)
def test_drawings_that_there_are_not(settings, said):
    with pytest.raises(ValueError, match=said):
        drawings.drawings(
            **{"source": "digits", "side": 8, "levels": 2, "coarse": 2} | settings, train=1, validation=1, test=1
        )


# What is claimed.


def test_borders_between_kinds():
    """A map of 2×2: two of four neighbourings differ."""
    m = torch.tensor([[[1.0, 0], [1, 0]], [[0, 1], [0, 1]]])[None]
    assert claimed.borders(m).tolist() == [0.5]
    assert claimed.borders(torch.tensor([1.0, 0])[:, None, None].expand(2, 4, 4)[None]).tolist() == [0]


def test_outcomes_follow_what_is_measured(prepared):
    """Perfect forecasts of distances that differ widely keep all that they promise."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    n = len(seen.examples)
    q = torch.zeros(3, n)
    q[0], q[1] = torch.arange(n) / n, torch.arange(n) / n / 10
    perfect = claimed.Tried(dataclasses.replace(seen, forecasts=q[:-1].T), q)
    assert claimed.saved(method, perfect, 0.5).holds
    assert claimed.kept(method, perfect, 0.5).holds
    assert claimed.better_than_fixed(method, perfect, 0.5).holds
    wrong = claimed.Tried(dataclasses.replace(seen, forecasts=q[:-1].flip(1).T), q)
    assert not claimed.kept(method, wrong, 0.5).holds
    assert not claimed.better_than_fixed(method, wrong, 0.5).holds
    assert not claimed.saved(method, perfect, -1.0).holds
    rich = claimed.borders(torch.stack(list(seen.examples.inputs)))
    by_richness = torch.stack([rich, rich], dim=1).float()
    simple = claimed.Tried(dataclasses.replace(seen, forecasts=by_richness), q)
    assert claimed.simple_first(method, simple, float(rich.median())).holds
    assert not claimed.simple_first(method, perfect, math.inf).holds


def test_what_is_as_good_on_the_mean_may_be_so_by_chance(prepared):
    """At half of the cost, distances that differ by much more than they are smaller on the mean."""
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    n = len(seen.examples)
    q = torch.zeros(3, n, dtype=torch.float64)
    q[0], q[1] = 0.5, torch.tensor([0.0, 0.85]).repeat(n)[:n]
    forecasts = torch.tensor([0.9, 0.1]).expand(n, 2)
    test = claimed.Tried(dataclasses.replace(seen, forecasts=forecasts), q)  # all leave at the second exit
    worse = claimed.better_than_fixed(method, test, 0.2)  # what is fixed is hardly another exit
    assert not worse.holds
    assert "undecided" not in worse.measured
    either = torch.tensor([[0.1, 0.1], [0.9, 0.1]]).repeat(n, 1)[:n]  # every second leaves at the first exit
    anywhere = torch.rand(3, n, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    unsure = claimed.Tried(dataclasses.replace(seen, forecasts=either), anywhere**8)
    found = claimed.better_than_fixed(method, unsure, 0.2)
    assert not found.holds
    assert found.measured.endswith("within two standard errors: undecided")
    assert not claimed.saved(method, test, 0.43).holds  # 0.425 on the mean
    assert claimed.saved(method, test, 0.43).not_comparable == ""
    assert "first exit alone" in claimed.saved(method, test, 0.5).not_comparable
    assert not claimed.kept(method, test, 0.2).holds


def test_a_fixed_exit_at_a_cost_lies_between_two():
    q = np.array([[4.0, 2.0], [2.0, 1.0], [0.0, 0.0]])
    costs = np.array([0.2, 0.6, 1.0])
    assert claimed.between(0.3, costs, q).tolist() == pytest.approx([3.5, 1.75])
    assert claimed.between(0.1, costs, q).tolist() == [4.0, 2.0]
    assert claimed.between(1.1, costs, q).tolist() == [0.0, 0.0]


def test_the_measure_names_the_network_that_compares():
    assert registry.get(KEY).quality == "1 - EfficientNet-Lite0 distance to the drawing"
    assert tiny().quality == "1 - random-feature distance to the drawing"


def test_the_database_is_weighed_against_branches_without(prepared):
    method, bench, ready = prepared(KEY)
    test = claimed.Tried.of(method, ready.split("test"))
    far = dataclasses.replace(test, q=test.q * 0.1)
    found = claimed.helped(method, ready, bench, far)
    assert "nearer by +" in found.measured
    assert not claimed.helped(method, ready, bench, dataclasses.replace(test, q=test.q * 10)).holds


def test_all_outcomes_are_tried_at_the_distance_that_every_second_validation_drawing_keeps(monkeypatch):
    held, test = (SimpleNamespace(q=torch.tensor(q)) for q in ([[0.1, 0.2, 0.9], [0.5] * 3], [[0.7] * 3, [0.3] * 3]))
    monkeypatch.setattr(claimed.Tried, "of", lambda method, seen: {"validation": held, "test": test}[seen])
    asked = []
    for name in ("saved", "kept", "better_than_fixed", "simple_first", "helped"):
        monkeypatch.setattr(claimed, name, lambda *given, name=name: asked.append((name, given)) or name)
    prepared = SimpleNamespace(split=lambda name: name)
    found = claimed.claims("method", prepared, "bench", None)
    assert found == ["saved", "kept", "better_than_fixed", "simple_first", "helped"]
    T = pytest.approx(0.2)
    assert asked == [
        *((name, ("method", test, T)) for name in found[:-1]), ("helped", ("method", prepared, "bench", test))
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("with_it", "holds"), [([0.4, 0.45], True), ([0.45, 0.4], False), ([0.495, 0.5], False), ([0.6, 0.7], False)]
)
def test_branches_without_the_database_are_trained_on_the_same_generator(prepared, monkeypatch, with_it, holds):
    """Each branch of theirs is half a unit away from the whole generator."""
    method, bench, ready = prepared(KEY)
    seen, asked = ready.split("test"), []
    n = len(seen.examples)
    monkeypatch.setattr(Fiancee, "train_exits", lambda self, model, data, bench: asked.append((self, model)))
    monkeypatch.setattr(claimed, "shortfalls", lambda model, examples, features: torch.full((n, 2), 0.5))
    q = torch.stack([torch.full((n,), far) for far in (*with_it, 0.0)])
    assert claimed.helped(method, ready, bench, claimed.Tried(seen, q)).holds is holds
    ((rival, model),) = asked
    assert rival == method.replace({"guided": False})
    assert rival != method
    ours = ready.model.stages.state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in model.stages.state_dict().items())


def test_settings_are_a_method():
    assert isinstance(registry.get(KEY), Fiancee)
