"""How sure figures are: intervals over seeds and test samples, and what cannot be told from the best."""

import numpy as np
import pytest
from scipy import stats

from eelit.methods.harness import paired
from eelit.methods.harness.paired import difference, holm, intervals, standings


def drawn(seeds, n, *, seed=0.0, sample=0.0, rest=0.0, mean=0.0, rng):
    """Return an outcome whose deviations are of a seed, of a sample with all seeds, and of a sample with one seed."""
    parts = (seed * rng.normal(size=(seeds, 1)), sample * rng.normal(size=n), rest * rng.normal(size=(seeds, n)))
    return dict(enumerate(mean + sum(parts)))


@pytest.mark.parametrize(
    ("seeds", "parts", "least", "most"),
    [
        (3, {"sample": 1.0}, 0.91, 0.98),  # what seeds have in common is not averaged away
        (3, {"sample": 1.0, "rest": 1.0}, 0.93, 1.0),
        (3, {"seed": 0.06, "sample": 1.0, "rest": 1.0}, 0.91, 0.99),
        (3, {"seed": 0.2, "sample": 0.5, "rest": 0.5}, 0.9, 0.99),  # three seeds that make most of the deviation
        (3, {"seed": 0.1}, 0.9, 0.99),  # and all of it
        (5, {"seed": 0.06, "sample": 1.0, "rest": 1.0}, 0.91, 0.99),
        (1, {"sample": 0.7, "rest": 0.7}, 0.91, 0.98),
    ],
)
def test_an_interval_covers_the_truth_as_often_as_it_says(seeds, parts, least, most):
    rng = np.random.default_rng(5)
    found = intervals([drawn(seeds, 150, mean=0.3, rng=rng, **parts) for _ in range(250)])
    assert least <= np.mean([each.low <= 0.3 <= each.high for each in found]) <= most
    rejected = np.mean([paired.Interval(e.mean - 0.3, 0, 0, e.deviation, e.freedom, seeds).p < 0.05 for e in found])
    assert 1 - most - 0.02 <= rejected <= 1 - least + 0.02


def test_with_one_seed_it_is_the_usual_interval_of_a_mean():
    right = np.random.default_rng(1).random(1000) < 0.8
    (found,) = intervals([{0: right}])
    usual = stats.bootstrap((right,), np.mean, n_resamples=2000, rng=2, method="percentile")
    assert (found.mean, found.seeds, found.freedom) == (right.mean(), 1, None)
    assert found.deviation == pytest.approx(usual.standard_error, rel=0.08)
    assert (found.low, found.high) == pytest.approx(tuple(usual.confidence_interval), abs=0.003)
    assert found.deviation == pytest.approx((0.8 * 0.2 / 1000) ** 0.5, rel=0.08)


def test_what_seeds_alone_change_follows_students_t():
    (found,) = intervals([{seed: np.full(50, value) for seed, value in enumerate((0.1, 0.2, 0.6))}])
    error = np.std([0.1, 0.2, 0.6], ddof=1) / 3**0.5
    assert found.mean == pytest.approx(0.3)
    assert found.deviation == pytest.approx(error, rel=0.05)
    assert found.freedom == pytest.approx(2, rel=0.2)
    assert found.high - found.low > 2 * 3 * error  # 4.3 errors to each side, were the resamples normal
    assert found.p == pytest.approx(stats.ttest_1samp([0.1, 0.2, 0.6], 0).pvalue, rel=0.2)


def test_what_is_common_to_two_rows_cancels():
    rng = np.random.default_rng(3)
    ours = {seed: rng.random(2000) < 0.8 for seed in range(3)}
    theirs = {seed: each & (np.arange(2000) % 100 > 0) for seed, each in ours.items()}  # a hundredth answered wrongly
    own, gap = intervals([ours, difference(ours, theirs)])
    assert gap.low < gap.mean < gap.high
    assert gap.deviation < 0.6 * own.deviation
    assert gap.low > 0


def test_a_difference_turned_round_is_the_same_with_its_sign_turned():
    rng = np.random.default_rng(4)
    a, b = ({seed: rng.random(300) < p for seed in range(3)} for p in (0.6, 0.7))
    ahead, behind = intervals([difference(a, b), difference(b, a)])
    assert (ahead.mean, ahead.low, ahead.high) == pytest.approx((-behind.mean, -behind.high, -behind.low))
    assert ahead.p == pytest.approx(behind.p)


def test_rows_that_are_the_same_differ_by_nothing():
    row = {seed: np.random.default_rng(seed).random(100) < 0.5 for seed in range(3)}
    (found,) = intervals([difference(row, row)])
    assert (found.mean, found.low, found.high, found.deviation, found.p) == (0, 0, 0, 0, 1)
    first, second = standings([row, row], [0.5, 0.5])
    assert first.level
    assert second.level


def test_only_seeds_that_both_have_are_compared():
    ours, theirs = {0: np.ones(4), 1: np.ones(4)}, {1: np.zeros(4), 2: np.ones(4)}
    assert [*difference(ours, theirs)] == [1]
    assert intervals([difference(ours, theirs)])[0].mean == 1


def test_order_and_number_of_rows_change_no_interval():
    rng = np.random.default_rng(6)
    rows = [{seed: rng.random(200) < 0.5 for seed in range(3)} for _ in range(4)]
    together, alone = intervals(rows), [intervals([row])[0] for row in rows]
    for one, other in zip(together, alone, strict=True):
        assert (one.mean, one.low, one.high) == pytest.approx((other.mean, other.low, other.high))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_what_cannot_be_told_from_the_best_is_level_with_it():
    rng = np.random.default_rng(7)
    base = rng.random(2000)
    best = {seed: base < 0.8 + 0.001 * seed for seed in range(3)}
    close = {seed: np.where(rng.random(2000) < 0.02, rng.random(2000) < 0.8, best[seed]) for seed in range(3)}
    worse = dict.fromkeys(range(3), base < 0.75)
    means = [float(np.mean([*row.values()])) for row in (worse, best, close)]
    first, second, third = standings([worse, best, close], means)
    assert [first.level, second.level, third.level] == [False, True, True]
    assert (second.behind.mean, second.behind.deviation) == (0, 0)
    assert first.behind.high < 0
    assert first.samples == 2000
    assert first.sampling == pytest.approx((0.75 * 0.25 / 2000) ** 0.5, rel=0.05)
    assert first.quality.mean == pytest.approx(means[0])


def test_a_correction_for_many_comparisons_keeps_equal_rows_together():
    """Of as many rows as a track has, all alike, few are taken for worse than the one that came out best by luck."""
    rng = np.random.default_rng(8)
    rows = [{seed: rng.random(500) < 0.8 for seed in range(3)} for _ in range(60)]
    found = standings(rows, [float(np.mean([*row.values()])) for row in rows])
    assert sum(not each.level for each in found) <= 1


def test_of_rows_without_samples_nothing_is_said():
    row = {0: np.ones(5)}
    assert standings([None, {}], [0.5, 0.4]) == [None, None]
    first, second = standings([None, row], [2.0, 1.0])  # the best row is an old result
    assert first is None
    assert (second.behind, second.level) == (None, None)
    others = standings([row, {0: np.ones(6)}], [1.0, 0.5])  # tested on other samples
    assert others[0].level
    assert others[1] is None


def test_the_same_figures_have_the_same_intervals_again():
    row = {0: np.random.default_rng(9).random(50)}
    assert intervals([row]) == intervals([row])
