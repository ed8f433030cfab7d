"""How claims compare two rules at equal cost, and when one exit by itself does as well."""

from types import SimpleNamespace

import pytest

from eelit.methods.claims.alone import reached_alone
from eelit.methods.claims.comparisons import COSTS, better_than, gains, gains_of_mixtures, on_average
from eelit.methods.engine.records import Baseline, OperatingPoint


def side(*settings, full=1.0):
    """Return settings by cost and quality, on validation data and, where it differs, on test data."""
    held, test = (
        [
            OperatingPoint(knob=i, quality=quality[n], cost=cost, speed_up=full / cost, exits=[1.0])
            for i, (cost, *quality) in enumerate((*setting, setting[-1])[:3] for setting in settings)
        ]
        for n in (0, 1)
    )
    return Baseline(name="x", validation=held, test=test)


FINE = side((0.2, 0.6), (0.4, 0.7), (0.6, 0.8), (0.8, 0.9), (1.0, 1.0))
COARSE = side((0.2, 0.6), (1.0, 1.0))


def test_a_coarse_knob_loses_nothing_by_its_gaps():
    """Between its two settings it is as good as the other, which has a setting there."""
    assert gains_of_mixtures(COARSE, FINE) == pytest.approx([0.0] * COSTS)
    assert gains_of_mixtures(FINE, COARSE) == pytest.approx([0.0] * COSTS)
    assert sum(gains(COARSE, FINE)) < -0.5  # setting by setting it would


def test_what_one_side_gains_the_other_loses():
    ours, theirs = side((0.1, 0.5), (0.5, 0.7), (0.9, 0.95)), side((0.3, 0.55), (0.4, 0.8), (1.0, 0.9))
    found = gains_of_mixtures(ours, theirs)
    assert found == pytest.approx([-gain for gain in gains_of_mixtures(theirs, ours)])
    assert max(found) > 0 > min(found)
    assert set(gains_of_mixtures(ours, ours)) == {0.0}


def test_costs_are_compared_that_both_reach():
    """From 0.4, the cheapest of theirs, to 0.8, the dearest of ours: what else either has does not count."""
    ours = side((0.2, 0.1), (0.4, 0.5), (0.8, 0.9))
    theirs = side((0.4, 0.4), (0.8, 0.6), (1.0, 0.99))
    found = gains_of_mixtures(ours, theirs)
    assert len(found) == COSTS
    assert found[0] == pytest.approx(0.5 - 0.4)
    assert found[-1] == pytest.approx(0.9 - (0.4 + 0.59 * 2 / 3))  # their mixture of the first and the last is better
    assert gains_of_mixtures(side((0.2, 0.9)), side((0.4, 0.1))) == []
    assert gains_of_mixtures(side((0.4, 0.9)), side((0.4, 0.1), (0.9, 0.2))) == pytest.approx([0.8])


def test_where_settings_are_many_does_not_weigh_more():
    ours = side((0.0001, 0.5), (1.0, 0.5))
    at_the_end = [(0.99 + i / 1000, 1.0) for i in range(11)]
    found = gains_of_mixtures(ours, side((0.0001, 0.0), *at_the_end))
    assert sum(found) / len(found) == pytest.approx(0.0, abs=0.02)


def test_full_models_may_cost_different():
    """The same settings, said of a full model of another cost, gain nothing; and one in MACs as well as in shares."""
    other = side((0.2, 0.6), (0.4, 0.7), (0.6, 0.8), (0.8, 0.9), (1.0, 1.0), full=7.0)
    assert set(gains_of_mixtures(FINE, other)) == {0.0}
    ours, theirs = (side((2e6, 0.5), (8e6, quality), full=1e7 * quality) for quality in (0.8, 0.7))
    found = gains_of_mixtures(ours, theirs)
    assert (found[0], found[-1]) == pytest.approx((0.0, 0.1))


def test_mixtures_are_chosen_on_validation_data_and_seen_on_test_data():
    ours, theirs = side((0.2, 0.5), (1.0, 0.9, 0.3)), side((0.2, 0.5, 0.4), (0.6, 0.6, 0.99), (1.0, 0.8, 0.4))
    found = gains_of_mixtures(ours, theirs)
    assert found[0] == pytest.approx(0.5 - 0.4)
    assert found[-1] == pytest.approx(0.3 - 0.4)
    assert found[COSTS // 2] == pytest.approx(0.4 - 0.4)  # on validation data the ends together are better than 0.6


@pytest.mark.parametrize(("found", "holds"), [([0.01, 0.0], True), ([0.008, 0.0], False), ([], False)])
def test_better_means_half_a_point_on_average(found, holds):
    outcome = better_than("patience", found, "Here")
    assert (outcome.name, outcome.holds) == ("better than patience", holds)
    assert outcome.statement.startswith("Here, accuracy on test data is on average half a point higher at equal cost")
    assert outcome.measured == on_average(found)


def test_that_nothing_can_be_compared_is_told():
    assert on_average([]) == "no cost that both reach"
    assert on_average([0.1, -0.05]) == "+0.0250 on average over 2 costs"


# What one exit reaches by itself.


def curve(*exits):
    baseline = side(*exits)
    return SimpleNamespace(full_quality=exits[-1][-1], baselines=[baseline.model_copy(update={"name": "static exit"})])


def test_an_exit_that_is_as_good_as_the_whole_network_needs_no_rule():
    assert reached_alone(curve((0.2, 0.5), (0.5, 0.79), (1.0, 0.8)), "Exit") == ""
    assert reached_alone(curve((0.2, 0.5), (0.5, 0.8), (0.7, 0.9), (1.0, 0.8)), "Exit") == (
        "Exit 1 by itself, for 50% of the cost, reaches 0.8000, and the whole network 0.8000: no rule is needed "
        "to save."
    )


def test_an_exit_that_saves_as_much_and_loses_as_little_needs_no_rule():
    alone = curve((0.2, 0.5), (0.5, 0.79), (0.7, 0.795), (1.0, 0.8))
    for lost, speed_up, says in ((0.02, 2.0, 1), (0.006, 1.4, 2), (0.006, 1.5, None), (0.001, 1.0, None)):
        found = reached_alone(alone, "Branch", lost=lost, speed_up=speed_up)
        assert found.startswith(f"Branch {says} by itself" if says else "")
        assert bool(found) == (says is not None)
    assert reached_alone(alone, "Branch", whole=0.79).endswith("the whole network 0.7900: no rule is needed to save.")
    assert reached_alone(alone, "Branch", lost=0.02, speed_up=2.0, whole=0.82) == ""
