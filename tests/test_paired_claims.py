"""Differences by which claims are tried: sample by sample, or on the same resamples."""

import math

import numpy as np
import pytest

from eelit.methods.claims.paired import Difference, gains_of_mixtures, mean_gain, of_bleu, over_samples, resampled, told
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.families.translation import Matches


def test_what_is_common_to_both_sides_cancels():
    hard = np.random.default_rng(0).normal(size=400)
    found = over_samples(hard + 0.1, hard)
    assert found.mean == pytest.approx(0.1)
    assert found.error == pytest.approx(0, abs=1e-12)
    apart = np.tile([0.3, -0.1], 200)
    found = over_samples(hard + apart, hard)
    assert (found.mean, found.error) == pytest.approx((0.1, apart.std(ddof=1) / 20))
    assert over_samples(np.array([1.0]), 0.0).error == math.inf


@pytest.mark.parametrize(
    ("mean", "error", "gains", "keeps"),
    [(0.1, 0.04, True, True), (0.1, 0.06, False, True), (0.04, 0.01, False, True), (-0.01, 0.02, False, True),
     (-0.01, 0.03, False, False), (math.nan, 0.0, False, False)],
)  # fmt: skip
def test_bars_are_passed_beyond_two_standard_errors(mean, error, gains, keeps):
    found = Difference(mean, error)
    assert found.gains(0.05) is gains
    assert found.keeps(0.05) is keeps


def test_resampled_means_have_the_error_of_means():
    values = np.random.default_rng(1).normal(size=300)
    found = resampled(lambda times: float(times @ values / times.sum()), 300)
    known = over_samples(values)
    assert found.mean == pytest.approx(known.mean)
    assert found.error == pytest.approx(known.error, rel=0.15)


def test_bleu_of_the_same_sentences_is_compared_on_the_same_resamples():
    right, wrong = "a b c d e", "v w x y z"
    ours = Matches([right] * 60 + [wrong] * 40, [right] * 100)
    theirs = Matches([right] * 50 + [wrong] * 50, [right] * 100)
    assert of_bleu([ours], [ours]) == Difference(0.0, 0.0, 2)
    found = of_bleu([ours], [theirs])
    assert found.mean == pytest.approx(ours.score() - theirs.score())
    mixed = Matches([right] * 60 + [wrong] * 40, [right] * 100)
    mixed.counts = np.random.default_rng(0).permutation(mixed.counts)  # the same BLEU of other sentences
    assert of_bleu([mixed], [theirs]).mean == pytest.approx(found.mean)
    assert found.error < of_bleu([mixed], [theirs]).error
    both = of_bleu([ours, theirs], [theirs, theirs])
    assert (both.mean, both.error) == pytest.approx((found.mean / 2, found.error / 2))


def baseline(*each):
    made = [
        OperatingPoint(
            knob=k, quality=np.mean(q), cost=c, speed_up=1 / c, exits=[1.0], samples=Samples(np.array(q), None)
        )
        for k, (q, c) in enumerate(each)
    ]
    return Baseline(name="", validation=made, test=made)


def test_mixtures_are_compared_sample_by_sample_at_given_costs_or_at_those_of_the_other():
    ours, theirs = baseline(([0.0, 1.0], 0.2), ([1.0, 1.0], 1.0)), baseline(([0.5, 0.5], 0.6), ([1.0, 1.0], 1.0))
    at_theirs = gains_of_mixtures(ours, theirs)
    assert [each.tolist() for each in at_theirs] == [pytest.approx([0.0, 0.5]), pytest.approx([0.0, 0.0])]
    (half,) = gains_of_mixtures(ours, theirs, (0.1, 0.8))  # nobody is as cheap as 0.1
    assert half.tolist() == pytest.approx([0.75 - 0.75, 1.0 - 0.75])
    assert mean_gain(at_theirs).mean == pytest.approx(0.125)
    assert told(at_theirs).endswith("on the mean, from +0.000 to +0.250")
    assert told([]) == "no setting is as cheap"
    assert not mean_gain([]).keeps(1.0)
