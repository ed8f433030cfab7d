"""What only SnaPEA promises: sums stop where they must, exact mode to the last bit, parameters within a budget."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import akhlaghi2018snapea as claimed
from eelit.methods.engine.costs import MacCounter, count
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.operating_points import at
from eelit.methods.engine.records import Baseline
from eelit.methods.families.dot_products import run, windows
from eelit.methods.papers.akhlaghi2018snapea import (
    Candidates,
    Choice,
    Path,
    PlainConvolutions,
    Set,
    SnaPEA,
    Sorted,
    guessing,
    in_order,
    merit,
    profiled,
    read,
    relaxed,
    speculated,
)

KEY = "akhlaghi2018snapea"
INF = math.inf


def kernel(w, *, first=(), bias=0.0, Th=-INF):
    """Return one kernel read with the weights at the places in ``first`` as speculation weights."""
    w = torch.tensor(w, dtype=torch.float32)
    index, start = in_order(w, torch.tensor(first, dtype=torch.int64))
    choice = Choice.of(1, len(first), Th)
    return Sorted(index[None], w[index][None], torch.tensor([bias]), choice, torch.tensor([start]))


def both(kernels, x):
    """Return output and products of a kernel for one window, the same followed and really stopped."""
    x = torch.tensor(x, dtype=torch.float32)[:, None]
    found = [how(x) for how in (kernels.followed, kernels.stopped)]
    ours, theirs = [(float(s.output), int(s.macs), bool(s.guessed)) for s in found]
    assert ours == theirs or math.isnan(ours[0])
    return ours[:2]


# One dot product.


def test_the_figure_of_the_paper():
    w, x = [-5, 1, -1], [1, 2, 6]
    exact = kernel(w)
    assert exact.weight.tolist() == [[1, -5, -1]]
    assert exact.start.tolist() == [1]
    assert both(exact, x) == (0, 2)
    assert both(kernel(w, first=[1], Th=2.0), x) == (0, 1)
    assert both(kernel(w, first=[1], Th=1.999), x) == (0, 2)


def test_worked_cases():
    assert both(kernel([1, -3, 2]), [1, 2, 1]) == (0, 3)
    assert both(kernel([1, -3, -2]), [1, 2, 1]) == (0, 2)
    assert both(kernel([1, -3, 2]), [4, 1, 1]) == (3, 3)


def test_a_sum_of_just_0_goes_on_and_one_of_just_the_threshold_stops():
    assert both(kernel([2, -2, -1]), [1, 1, 0]) == (0, 3)
    assert both(kernel([2, -2, -1]), [1, 1, 1]) == (0, 3)
    assert both(kernel([3, -2, -1], first=[0], Th=3.0), [1, 1, 0]) == (0, 1)
    assert both(kernel([3, -2, -1], first=[0], Th=2.9), [1, 1, 0]) == (1, 3)


def test_no_sum_stops_before_the_first_negative_weight():
    """It may begin below 0, by the bias or by speculation weights, and rise."""
    assert both(kernel([1, 1, -1], bias=-3.0), [2, 2, 0]) == (1, 3)
    assert both(kernel([1, 1, -1, -1], bias=-3.0), [1, 1, 0, 0]) == (0, 3)
    negative_first = kernel([-4, 3, 2, -1, -0.5], first=[0])
    assert negative_first.weight.tolist() == [[-4, 3, 2, -1, -0.5]]
    assert negative_first.start.tolist() == [3]
    assert both(negative_first, [1, 1, 1, 0, 0]) == (1, 5)
    assert both(negative_first, [2, 1, 1, 0, 0]) == (0, 4)


def test_a_bias_counts_from_the_start():
    assert both(kernel([1, -1, -1], bias=0.5), [1, 1, 1]) == (0, 3)
    assert both(kernel([1, -1, -1], bias=-0.5), [1, 1, 1]) == (0, 2)


def test_zeros_are_read_before_the_sign_check():
    index, start = in_order(torch.tensor([0.0, -1.0, 2.0, -3.0]), torch.tensor([], dtype=torch.int64))
    assert index.tolist() == [2, 0, 3, 1]
    assert start == 2


def test_what_is_not_finite_is_never_taken_for_certain():
    w = [1, -2, -3]
    for bad in (math.nan, INF):
        for place in range(3):
            x = [1.0, 1.0, 1.0]
            x[place] = bad
            assert both(kernel(w), x)[1] == 3
            assert both(kernel(w, first=[0], Th=INF), x)[1] == 3
    assert math.isnan(both(kernel(w), [1, math.nan, 1])[0])
    assert both(kernel(w, bias=INF), [1, 1, 1]) == (INF, 3)
    assert both(kernel(w, first=[0], bias=INF, Th=INF), [1, 1, 1]) == (INF, 3)


# Speculation weights.


def test_speculation_weights_are_the_largest_of_neighbouring_groups():
    w = torch.tensor([0.1, -0.9, 0.5, -0.3, 0.7, 0.2])
    assert w[speculated(w, 1)].tolist() == pytest.approx([-0.9])
    assert w[speculated(w, 2)].tolist() == pytest.approx([-0.9, -0.3])
    assert w[speculated(w, 3)].tolist() == pytest.approx([-0.9, 0.5, 0.2])
    assert w[speculated(w, 2, spread=False)].tolist() == pytest.approx([-0.9, 0.7])
    assert len(speculated(w, 0)) == len(speculated(w, 0, spread=False)) == 0


@pytest.mark.parametrize("N", [0, 1, 3, 7, 18])
def test_every_weight_is_read_once_speculation_first_then_by_sign(N):
    conv = convolution(2, 5)
    kernels = read(conv, Choice.of(5, N))
    w = conv.weight.detach().flatten(1)
    for row, index, weight, start in zip(w, kernels.index, kernels.weight, kernels.start, strict=True):
        assert sorted(index.tolist()) == list(range(18))
        assert torch.equal(row[index], weight)
        assert index[:N].tolist() == speculated(row, N).tolist()
        assert (weight[N:start] >= 0).all()
        assert (weight[start:] < 0).all()
        for part in (weight[N:start], weight[start:]):
            assert (part.abs().diff() <= 0).all()
    assert kernels.may_stop


def test_without_a_choice_nothing_stops():
    conv = convolution(2, 5)
    kernels = read(conv, None)
    x = windows(conv, torch.rand(3, 2, 6, 6))
    assert not kernels.may_stop
    for sums in (kernels.followed(x), kernels.stopped(x)):
        assert (sums.macs == 18).all()
        assert not sums.guessed.any()


# Whole layers.


def convolution(before, width, *, seed=0):
    torch.manual_seed(seed)
    return nn.Conv2d(before, width, 3, 1, 1)


@pytest.fixture
def layer():
    conv = convolution(4, 6)
    return conv, torch.rand(5, 4, 7, 7, generator=torch.Generator().manual_seed(1)).round(decimals=1)


def test_windows_are_what_a_convolution_reads(layer):
    conv, x = layer
    ours = conv.weight.flatten(1) @ windows(conv, x) + conv.bias[:, None]
    assert torch.allclose(ours.view(6, 5, 7, 7).transpose(0, 1), conv(x), atol=1e-5)
    strided = nn.Conv2d(4, 3, 3, 2, 1)
    ours = strided.weight.flatten(1) @ windows(strided, x) + strided.bias[:, None]
    assert torch.allclose(ours.view(3, 5, 4, 4).transpose(0, 1), strided(x), atol=1e-5)


def test_exact_mode_is_to_the_last_bit_the_same_sum_that_does_not_stop(layer):
    """Added up here one by one, in the order of the list; another order differs in the last bits."""
    conv, x = layer
    cut, kernels = windows(conv, x), read(conv, Choice.of(6))
    s = kernels.bias[:, None].expand(6, cut.shape[1])
    for j in range(36):
        s = s + kernels.weight[:, j, None] * cut[kernels.index[:, j]]
    for sums in (kernels.followed(cut), kernels.stopped(cut)):
        assert torch.equal(sums.output, torch.relu(s))
        assert 0 < (sums.macs < 36).float().mean() < 1
        assert (sums.macs[s > 0] == 36).all()
    whole = torch.relu(conv(x)).transpose(0, 1).flatten(1)
    assert torch.allclose(s.relu(), whole, atol=1e-5)
    assert not torch.equal(s.relu(), whole)


def whole_numbers(model):
    """Give each convolution small multiples of a half, so that every sum is exact in single precision."""
    random = torch.Generator().manual_seed(2)
    for conv in model if isinstance(model, list) else model.convs:
        conv.weight.data = torch.randint(-4, 4, conv.weight.shape, generator=random) / 2
        conv.bias.data = torch.randint(-9, 10, conv.bias.shape, generator=random) / 2


def test_exact_mode_is_to_the_last_bit_what_torch_computes_where_no_sum_is_rounded():
    """With whole numbers and halves the order of the sum has no say: one result is right, and both must give it."""
    conv = convolution(4, 6)
    whole_numbers([conv])
    x = torch.randint(0, 9, (5, 4, 7, 7), generator=torch.Generator().manual_seed(1)) / 4
    expected = torch.relu(F.conv2d(x, conv.weight, conv.bias, padding=1))
    assert 0.2 < (expected == 0).float().mean() < 0.8
    for sums in (
        read(conv, Choice.of(6)).followed(windows(conv, x)),
        read(conv, Choice.of(6)).stopped(windows(conv, x)),
    ):
        assert torch.equal(sums.output.view(6, 5, 7, 7).transpose(0, 1), expected)
        assert (sums.macs < 36).float().mean() > 0.1


@pytest.mark.parametrize("really", [True, False])
def test_a_network_in_exact_mode_says_to_the_last_bit_what_torch_says_where_no_sum_is_rounded(really):
    torch.manual_seed(0)
    model = PlainConvolutions(1, 10, (3, 4), 1, 2).eval()
    whole_numbers(model)
    x = torch.randint(-4, 5, (6, 1, 8, 8), generator=torch.Generator().manual_seed(3)).float()
    lists = [read(model.layer(i), choice) for i, choice in enumerate((None, Choice.of(3), Choice.of(4)))]
    found = run(model, x, lists, really=really)
    assert found.ends[:, 1].sum() > 0
    with torch.no_grad():
        assert torch.equal(found.answers, model(x))


def test_a_sum_is_stopped_at_its_first_value_below_0(layer):
    conv, x = layer
    cut, kernels = windows(conv, x), read(conv, Choice.of(6))
    products = cut[kernels.index].transpose(1, 2).double() * kernels.weight.double()[:, None]  # [K, W, m]
    sums = kernels.bias.double()[:, None, None] + products.cumsum(dim=2)
    place = torch.arange(36)
    ended = (sums < 0) & (place >= kernels.start[:, None, None])
    first = torch.where(ended.any(dim=2), ended.int().argmax(dim=2) + 1, 36)
    found = kernels.followed(cut).macs
    close = (sums.abs() < 1e-5).any(dim=2)  # where rounding may have a say
    assert close.float().mean() < 0.05
    assert torch.equal(found[~close].long(), first[~close])


@pytest.mark.parametrize("Th", [-1.0, 0.1, INF])
def test_replay_is_execution_bit_for_bit_and_each_product_is_counted(layer, Th):
    conv, x = layer
    cut = windows(conv, x)
    mixed = Choice(torch.tensor([0, 1, 2, 4, 8, 36]), torch.full((6,), Th, dtype=torch.float64))
    kernels = read(conv, mixed)
    followed = kernels.followed(cut)
    with MacCounter() as counter:
        stopped = kernels.stopped(cut)
    for ours, theirs in zip(followed, stopped, strict=True):
        assert torch.equal(ours, theirs)
    assert counter.macs == int(followed.macs.sum())
    assert not followed.guessed[0].any()
    assert (followed.macs[followed.guessed] == mixed.N[:, None].expand_as(followed.macs)[followed.guessed]).all()
    if Th == INF:
        assert followed.guessed[1:].all()


def test_products_never_rise_and_lost_positives_never_fall_with_the_threshold(layer):
    conv, x = layer
    cut = windows(conv, x)
    exact = read(conv, Choice.of(6)).followed(cut)
    before = None
    for Th in (-INF, -0.5, 0.0, 0.2, 0.5, INF):
        found = read(conv, Choice.of(6, 3, Th)).followed(cut)
        same = torch.isclose(found.output, exact.output, atol=1e-5)
        assert (same | (found.output == 0)).all()
        assert (found.macs <= 36).all()
        if before:
            assert (found.macs <= before.macs).all()
            assert ((found.output == 0) | (before.output > 0)).all()
        else:
            assert same.all()
            assert not found.guessed.any()
        before = found


def test_whole_convolutions_foresee_what_sums_do(layer):
    """The fast form in which thresholds are judged, beside the sums themselves."""
    torch.manual_seed(3)
    model = PlainConvolutions(1, 10, (4, 5), 1, 2).eval()
    x = torch.randn(6, 1, 8, 8)
    plan = (Choice.of(4, 2, 0.1), Choice.of(5, 3, 0.05))
    lists = [read(model.layer(i), choice) for i, choice in enumerate((None, *plan))]
    found = run(model, x, lists)
    assert found.ends[:, 0].sum() > 0
    assert torch.allclose(found.answers, guessing(model, x, plan), atol=1e-4)
    assert torch.allclose(guessing(model, x, (None, Choice.of(5))), model(x), atol=1e-5)
    top = [read(model.layer(i), choice, spread=False) for i, choice in enumerate((None, *plan))]
    assert torch.allclose(run(model, x, top).answers, guessing(model, x, plan, spread=False), atol=1e-4)


# The network.


def test_a_convolution_that_may_stop_refuses_inputs_below_0():
    torch.manual_seed(0)
    model = PlainConvolutions(1, 10, (3,), 1, 1).eval()
    x = torch.randn(2, 1, 6, 6)
    never, exact = read(model.layer(0), None), read(model.layer(0), Choice.of(3))
    rest = read(model.layer(1), Choice.of(3))
    assert run(model, x, [never, rest]).answers.isfinite().all()
    with pytest.raises(ValueError, match="a convolution that may stop reads an input below 0"):
        run(model, x, [exact, rest])
    with pytest.raises(ValueError, match="reads an input below 0"):
        run(model, x, [exact, rest], really=False)
    assert torch.allclose(run(model, x.abs(), [exact, rest]).answers, model(x.abs()), atol=1e-5)


def test_products_and_ends_are_those_of_each_image():
    torch.manual_seed(0)
    model = PlainConvolutions(1, 10, (3, 4), 1, 2).eval()
    x = torch.randn(3, 1, 8, 8)
    lists = [read(model.layer(i), c) for i, c in enumerate((None, Choice.of(3, 2, 0.0), Choice.of(4)))]
    found = run(model, x, lists)
    assert found.macs[0].tolist() == [3 * 9 * 16] * 3
    assert found.ends.sum(dim=1).tolist() == [3 * 16 + 4 * 4] * 3
    for i in range(3):
        alone = run(model, x[i : i + 1], lists)
        assert torch.equal(alone.macs[:, 0], found.macs[:, i])
        assert torch.equal(alone.ends[0], found.ends[i])
    whole = run(model, x, [read(model.layer(i), None) for i in range(3)])
    head = count(lambda: model.head(torch.zeros(1, 4)))
    assert (whole.macs.sum(dim=0) + head).tolist() == [count(lambda: model(x[:1]))] * 3
    assert whole.ends[:, :2].sum() == 0


def test_the_network_is_trained_by_cross_entropy_for_its_epochs(stages):
    method = SnaPEA(images="digits", train_size=64, pixels=2, widths=(4,), blocks=1, epochs=2.0, batch=16, rate=5e-3)
    (stage,) = stages(method)
    assert stage.steps == 8
    assert set(stage.rates.values()) == {5e-3}
    index = torch.arange(8)
    x = torch.stack(list(method.load().train.inputs[:8]))
    loss = stage.loss(stage.batch_of(index, x))
    torch.manual_seed(0)
    model = PlainConvolutions(1, 10, (4,), 1, 2)
    assert loss.item() == pytest.approx(F.cross_entropy(model(x), method.load().train.targets[:8]).item())
    assert len(stage.rates) == len(list(model.parameters()))


# The three passes.


def test_a_kernel_is_profiled_by_hand():
    """Windows with pre-activations 1, 3, -1 and -2; N = 1 reads the first weight alone."""
    conv = nn.Conv2d(1, 1, (1, 1))
    conv.weight.data = torch.tensor([2.0, -1.0]).view(1, 2, 1, 1)
    conv.bias.data.zero_()
    x = torch.tensor([[1.0, 2.0, 0.0, 0.5], [1.0, 1.0, 1.0, 3.0]])
    found = profiled(conv, x, [1], [0.0, 1.0])
    assert found.N[:, 0].tolist() == [1, 1, 0]
    assert found.Th[:, 0].tolist() == [0.0, 1.0, -INF]
    assert found.macs[:, 0].tolist() == [7, 6, 8]  # s_1 = 2, 4, 0, 1: one, then two windows stop at the first product
    assert found.error[:, 0].tolist() == [0, 0, 0]
    conv.weight.data = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1)
    found = profiled(conv, torch.tensor([[3.0, 1.0, 9.0], [1.0, 1.0, 4.0]]), [1], [1.0])
    assert found.Th[0].tolist() == [-2.0]  # s_1 = -2, -2, -8 and sums 1, -1, 1
    assert found.error[0].tolist() == [1.0]
    assert found.macs[:, 0].tolist() == [3, 6]


def test_each_kernel_takes_its_cheapest_candidate_within_the_limit():
    N, Th = torch.tensor([[1, 1], [2, 2], [0, 0]]), torch.tensor([[0.5, 0.6], [0.1, 0.2], [-INF, -INF]])
    macs = torch.tensor([[10.0, 12.0], [15.0, 11.0], [20.0, 30.0]])
    error = torch.tensor([[0.3, 0.1], [0.1, 0.2], [0.0, 0.0]])
    found = Candidates(N, Th, macs, error)
    choice, spent = found.within(0.3)
    assert (choice.N.tolist(), spent) == ([1, 2], 21)
    choice, spent = found.within(0.1)
    assert (choice.N.tolist(), choice.Th.tolist(), spent) == ([2, 1], pytest.approx([0.1, 0.6]), 27)
    assert found.within(0.05)[0].N.tolist() == [0, 0]


def sets(*pairs):
    return [Set(Choice.of(1, i), macs, alone) for i, (macs, alone) in enumerate(pairs)]


def test_merit_is_accuracy_regained_by_product_added():
    a, b, c = sets((10, 0.5), (20, 0.7), (100, 0.7))
    assert merit(a, b)[0] == pytest.approx(0.02)
    assert merit(b, c) == (0.0, -80)
    assert merit(b, a._replace(macs=21)) == (0.0, -1)


def test_layers_are_relaxed_by_merit_to_the_end():
    layers = [sets((10, 0.5), (20, 0.9), (50, 0.9)), sets((10, 0.8), (20, 0.9))]
    seen = []

    def judge(plan):
        seen.append(tuple(int(choice.N) for choice in plan))
        return len(seen) / 10

    plans, accuracies = relaxed(layers, judge)
    assert seen == [(0, 0), (1, 0), (1, 1), (2, 1)]
    assert accuracies == [0.1, 0.2, 0.3, 0.4]
    assert [tuple(int(choice.N) for choice in plan) for plan in plans] == seen


def test_the_first_state_within_the_budget_is_taken():
    path = Path(((1,), (2,), (3,), (4,)), (0.5, 0.85, 0.8, 0.9), ())
    assert path.within(0.05) == (2,)
    assert path.within(0.1) == (2,)
    assert path.within(0.4) == (1,)
    assert path.within(0.04) == (4,)
    assert path.within(0.0) == (4,)


def test_what_is_fitted_goes_from_loose_to_exact_and_never_sees_test_data(prepared):
    method, _, ready = prepared(KEY)
    path = ready.fitted
    assert not any(choice.N.any() for choice in path.plans[-1])
    assert any(choice.N.any() for choice in path.plans[0])
    whole = guessing(ready.model, torch.stack(list(ready.examples("fitting").inputs)), (None,) * 2)
    right = (whole.argmax(dim=1) == ready.examples("fitting").targets).float().mean()
    assert path.accuracies[-1] == pytest.approx(float(right))
    assert len(ready.examples("fitting")) == len(ready.examples("validation")) == 150
    blind = replace(ready, data=ready.data.without_test())
    assert method.fit(blind).accuracies == path.accuracies
    with pytest.raises(TestDataAsked):
        blind.examples("test")
    costs = [sum(int(method_macs(each, choice)) for each, choice in zip(path.candidates, plan, strict=True))
             for plan in path.plans]  # fmt: skip
    assert costs == sorted(costs)


def test_kernels_are_never_read_from_test_data(prepared, monkeypatch):
    """Neither where they are followed and executed and timed, nor from what was computed before."""
    method, bench, ready = prepared(KEY)
    ready.at("test", 0.05)
    for ask in (lambda part: ready.for_choosing.at(part, 0.05), ready.for_choosing.examples):
        assert ask("validation") is not None
        with pytest.raises(TestDataAsked):
            ask("test")
    assert ready.for_choosing.fitted is ready.fitted
    lists = type(method).lists

    def peeking(self, knob, prepared):
        prepared.examples("test")
        return lists(self, knob, prepared)

    monkeypatch.setattr(type(method), "lists", peeking)
    for use in (
        lambda: method.sweep(ready, bench, "validation", [0.11]),
        lambda: method.execute(ready, bench, 0.05),
        lambda: method.time(ready, bench, 0.05, 1),
    ):
        with pytest.raises(TestDataAsked):
            use()


def method_macs(candidates, choice):
    """Return the products of a layer under a choice, as they were profiled."""
    found = (candidates.N == choice.N) & (candidates.Th == choice.Th)
    return torch.where(found, candidates.macs, INF).amin(dim=0).sum()


def test_knobs_name_plans(prepared):
    method, _, ready = prepared(KEY)
    assert all((choice.N == 1).all() and (choice.Th == INF).all() for choice in method.plan(INF, ready))
    assert all((choice.N == 0).all() for choice in method.plan(0.0, ready))
    assert method.plan(-1.0, ready) == (None, None)
    assert method.plan(0.05, ready) is ready.fitted.within(0.05)
    assert not method.lists(INF, ready)[0].may_stop
    with pytest.raises(ValueError, match="not NaN"):
        method.plan(math.nan, ready)


def test_exact_mode_answers_as_the_whole_network_and_costs_less(prepared):
    _, _, ready = prepared(KEY)
    exact, never = ready.at("test", 0.0), ready.at("test", -1.0)
    assert torch.equal(exact.answers, never.answers)
    assert exact.ends[:, 0].sum() == 0
    assert (exact.macs <= never.macs).all()
    assert torch.equal(exact.macs[0], never.macs[0])  # the first convolution never stops
    assert (ready.spent(never) == ready.full).all()
    assert (ready.spent(exact) < ready.full).all()


def test_one_quantile_is_swept_beside(prepared):
    method, bench, ready = prepared(KEY)
    (found,) = method.baselines(ready, bench)
    assert [point.knob for point in found.test] == list(method.quantiles)
    costs = [point.cost for point in found.test]
    assert costs == sorted(costs, reverse=True)
    rows = ready.fitted.candidates[0]
    assert (rows.N[-1 - len(method.quantiles) : -1] == max(method.sizes)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sizes": ()}, "speculation weights"),
        ({"sizes": (0, 2)}, "speculation weights"),
        ({"quantiles": ()}, "quantiles"),
        ({"quantiles": (0.5, 1.1)}, "quantiles"),
        ({"quantiles": (math.nan,)}, "quantiles"),
        ({"limits": (0.1, 0.2)}, "limits"),
        ({"limits": (0.1, -0.1)}, "limits"),
        ({"limits": (math.nan,)}, "limits"),
        ({"profiled": 0}, "profiled"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SnaPEA(**settings)
    SnaPEA(limits=(0.1, 0.0))


# What is claimed.


def test_claims_look_at_what_they_say(prepared, made):
    method, bench, ready = prepared(KEY)
    points = {part: method.sweep(ready, bench, part, method.knobs) for part in ("validation", "test")}
    rival = Baseline(name="q", validation=points["validation"][:1], test=points["test"][:1])
    curve = type("Curve", (), points | {"baselines": [rival], "full_quality": points["test"][-1].quality})
    unchanged = claimed.unchanged(method, ready, bench)
    images = len(ready.examples("test").head(bench.executed))
    assert unchanged.holds
    assert f"equal for {images} of {images} images" in unchanged.measured
    assert f"the class is the same for {images} of them" in unchanged.measured
    assert float(unchanged.measured.rpartition(" ")[2]) < 1e-3
    saved = claimed.saved(curve)
    assert saved.holds == (points["test"][-2].speed_up >= 1.28)
    halved = claimed.halved(method, ready, curve)
    assert "of 2 convolutions" in halved.measured
    mixed = at([points["validation"][i] for i in (0, -2)], [points["test"][i] for i in (0, -2)],
               1 / points["test"][3].speed_up)  # fmt: skip
    assert claimed.chosen(curve).measured.startswith(f"{points['test'][3].quality - mixed.quality:+.4f}")


def test_claims_can_fail_and_hold():
    def path(error):
        return Path((), (), (Candidates(*(torch.zeros(2, 1),) * 3, torch.tensor([[error], [0.0]])),))

    assert claimed.spread(path(0.1), path(0.106)).holds
    assert not claimed.spread(path(0.1), path(0.104)).holds
    assert "reconstruction" in claimed.spread(path(0.1), path(0.104)).not_comparable

    def curve(*seconds):
        done = [type("Done", (), {"knob": k, "seconds": s, "full_seconds": 1.0}) for k, s in zip((0.1, -1), seconds)]  # noqa: B905
        return type("Curve", (), {"executions": done})

    assert claimed.faster(curve(0.9, 5.0)).holds
    assert not claimed.faster(curve(1.1, 0.5)).holds
    assert "emulation" in claimed.faster(curve(0.9, 5.0)).not_comparable


@pytest.mark.parametrize(
    ("changed", "holds"),
    [
        ({}, True), ({"early": 101.0}, False), ({"density": 1.0}, False), ({"whole": 99.0}, False),
        ({"same": 0.99}, False),
    ],
)  # fmt: skip
def test_pruning_must_leave_exact_mode_something_to_save_and_add_to_it(changed, holds):
    found = claimed.Pruned(density=0.5, early=100.0, never=128.0, whole=200.0, accuracy=0.8, same=1.0)
    assert claimed.with_pruning(found._replace(**changed)).holds is holds


def test_the_least_weights_of_each_kernel_leave_its_list():
    """They are read as 2, 0.5, -3, -1 and 4, 1, -0.5, -0.25; the check begins at the first below 0 that is left."""
    conv = nn.Conv2d(4, 2, 1)
    conv.weight.data = torch.tensor([[-1.0, 0.5, -3.0, 2.0], [4.0, 1.0, -0.25, -0.5]]).view(2, 4, 1, 1)
    found = claimed.pruned(read(conv, Choice.of(2)), 0.6)
    assert found.weight.tolist() == [[2, -3, -1], [4, 1, -0.5]]
    assert found.index.tolist() == [[3, 2, 0], [0, 1, 3]]
    assert (found.start.tolist(), found.m) == ([1, 2], 3)
    few = claimed.pruned(read(conv, Choice.of(2)), 0.1)
    assert (few.weight.tolist(), few.start.tolist()) == ([[-3], [4]], [0, 1])
    never = claimed.pruned(read(conv, None), 0.6)
    assert (never.index.tolist(), never.start.tolist(), never.may_stop) == (found.index.tolist(), [3, 3], False)


def test_a_pruned_network_is_the_one_with_zeros_and_reads_none(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.examples("test").inputs[:20]))
    before = {name: value.clone() for name, value in ready.model.state_dict().items()}
    lists = [[claimed.pruned(each, 0.5) for each in method.rule(knob, ready)] for knob in (0.0, -1.0)]
    early, never = (run(ready.model, x, each) for each in lists)
    with torch.no_grad():
        zeros = claimed.filled(ready.model, lists[0])
        assert torch.allclose(zeros(x), never.answers, atol=1e-4)
        assert not torch.allclose(zeros(x), ready.model(x), atol=1e-2)
    assert torch.equal(early.answers, never.answers)
    assert all(torch.equal(value, before[name]) for name, value in ready.model.state_dict().items())
    whole = run(ready.model, x, method.rule(-1.0, ready)).macs
    assert (never.macs <= 0.56 * whole).all()  # of 9 weights 5 are left, of more half
    assert (early.macs <= never.macs).all()
    assert early.macs[1:].sum() < never.macs[1:].sum()


def test_as_much_is_pruned_as_held_out_images_allow(prepared, monkeypatch):
    """The first density whose network is nearly as good; what is looked at are the images of the fitting alone."""
    method, _, ready = prepared(KEY)
    never, asked = method.rule(-1.0, ready), []
    filled, held = claimed.filled, ready.examples("fitting")
    least = (ready.model(torch.stack(list(held.inputs))).argmax(dim=1) == held.targets).float().mean() - claimed.FREE

    def right(density):
        model = filled(ready.model, [claimed.pruned(each, density) for each in never])
        return (model(torch.stack(list(held.inputs))).argmax(dim=1) == held.targets).float().mean()

    with torch.no_grad():
        good = [density for density in claimed.DENSITIES if right(density) >= least - 1e-6]
    monkeypatch.setattr(claimed, "filled", lambda model, lists: asked.append(lists[0].m) or filled(model, lists))
    assert 0.1 < claimed.sparsest(ready, never) == min(good, default=1.0)
    assert asked == sorted(asked)
    with pytest.raises(TestDataAsked):
        ready.for_choosing.examples("test")
    found = claimed.of_pruned(method, ready)
    assert (found.density, found.same) == (claimed.sparsest(ready, never), 1)
    assert found.early < min(found.never, found.whole)
    assert found.whole == pytest.approx(float(ready.spent(ready.at("test", 0.0)).double().mean()))
    monkeypatch.setattr(claimed, "FREE", -2.0)
    assert claimed.sparsest(ready, never) == 1.0
