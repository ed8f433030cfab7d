"""Differences by which claims are tried: sample by sample, or on the same resamples."""

import math
from types import SimpleNamespace

import numpy as np
import pytest

from eelit.methods.claims.leads import lead, nothing_to_lose
from eelit.methods.claims.paired import Difference, gains_of_mixtures, mean_gain, of_bleu, over_samples, resampled, told
from eelit.methods.claims.resampling import joint_lead
from eelit.methods.engine.records import Baseline, Chance, OperatingPoint, Samples
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


# What a full model leads by.


def led(first, last, *, chance=None, samples=True):
    """Return a curve of two settings, whose test samples are worth so much, or of which only the mean is known."""
    ends = [np.array(each, dtype=float) for each in (first, last)]
    test = [
        OperatingPoint(knob=i, quality=each.mean(), cost=1 + i, speed_up=2 - i, exits=[1.0 - i, i],
                       samples=Samples(each if samples else None))
        for i, each in enumerate(ends)
    ]  # fmt: skip
    return SimpleNamespace(test=test, full_quality=test[1].quality, chance=chance, quality="dB")


def by_chance(quality, **changed):
    return Chance(**{"what": "x", "quality": quality, "error": 0.01, **changed})


def test_a_lead_is_taken_sample_by_sample():
    found, how = lead(led([0, 0, 0, 0], [1, 1, 1, 0]))
    assert (found.mean, found.error) == pytest.approx((0.75, 0.25))
    assert how == "sample by sample over 4"
    far = led([0, 0, 0, 0], [1, 1, 1, 1])
    far.full_quality = 0.5  # the last setting is not the full model
    assert lead(far) == (Difference(0.5, 0.0), "")


def test_where_the_eager_end_is_worse_than_chance_the_lead_is_over_chance():
    """As of a detector whose first exit rejects everything."""
    found, how = lead(led([0, 0, 0, 0], [0.3, 0.3, 0.3, 0.3], chance=by_chance(0.2)))
    assert (found.mean, found.error) == pytest.approx((0.1, 0.01 * 2**0.5))
    assert "independently" in how
    joint = Difference(0.3, 0.0)  # over nothing
    assert lead(led([0, 0], [0.3, 0.3], chance=by_chance(0.2)), joint)[0].mean == pytest.approx(0.1)
    other = led([0, 0], [0.3, 0.3], chance=by_chance(0.2, reached=0.3))  # in another measure
    assert lead(other)[0].mean == pytest.approx(0.3)


def test_without_samples_the_lead_is_what_was_resampled_or_as_sure_as_chance_is():
    bare = led([0.1], [0.5], chance=by_chance(0.05), samples=False)
    assert lead(bare, Difference(0.4, 0.03)) == (Difference(0.4, 0.03), "by resampling")
    assert lead(bare)[0].error == pytest.approx(0.01 * 2**0.5)


@pytest.mark.parametrize(
    ("first", "last", "empty"),
    [
        ([9.0, 9.0, 9.0], [9.35, 9.35, 9.35], False),
        ([9.0, 9.0, 9.0], [9.25, 9.25, 9.25], True),  # less than may be lost
        ([9.0, 9.0, 9.0], [9.0, 9.0, 10.5], True),  # more, but by chance
        ([9.0, 9.0, 9.0], [8.0, 8.0, 8.0], True),
    ],
)
def test_where_a_claim_allows_as_much_loss_as_there_can_be_it_says_nothing(first, last, empty):
    told = nothing_to_lose(led(first, last), 0.3)
    assert bool(told) is empty
    assert ("0.3 may be lost" in told) is empty


@pytest.mark.parametrize("key", ["yu2023dtn", "elbayad2020depth", "fan2020layerdrop"])
def test_what_is_no_mean_over_samples_has_an_error_by_resampling(prepared, key):
    """F1, and BLEU of exits and of blocks that are left out: the lead is that of the curve."""
    method, bench, ready = prepared(key)
    test = method.sweep(ready, bench, "test", method.knobs[:1])
    curve = SimpleNamespace(test=test, full_quality=method.full_model(ready, bench)[0])
    found = joint_lead(method, ready, curve)
    assert found.mean == pytest.approx(curve.full_quality - test[0].quality, abs=1e-6)
    assert 0 < found.error < 20
    single = test[0].model_copy(update={"samples": Samples(np.ones(3))})
    assert joint_lead(method, ready, SimpleNamespace(test=[single], full_quality=1.0)) is None
