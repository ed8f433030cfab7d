"""What the pages of tracks say of the accuracy of each exit: which row shows it, and the sentence from its figures."""

from types import SimpleNamespace

import pytest

from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import depth


def of(*qualities):
    count = len(qualities)
    return depth.Depth(SimpleNamespace(), [((i + 1) / count, quality) for i, quality in enumerate(qualities)])


@pytest.mark.parametrize(
    ("qualities", "enough", "said"),
    [
        (
            (0.841, 0.849, 0.856, 0.839), 1,
            "Depth is worth little here: exit 1, at 25 % of the cost, reaches 0.841, the last exit 0.839, and exit 3, "
            "the most accurate, 0.856.",
        ),
        ((0.695, 0.698, 0.7, 0.7), 1, "exit 1, at 25 % of the cost, reaches 0.695, the last exit 0.700. To be"),
        ((0.5, 0.694, 0.7, 0.7), 3, "rises from 0.500 at exit 1 to 0.700 at exit 3, at 75 % of the cost,"),
        ((0.5, 0.695, 0.71, 0.7), 2, "last exit's 0.700 or above it, and exit 3, the most accurate, 0.710."),
        ((0.5, 0.6, 0.65, 0.7), 4, "Accuracy rises up to the last exit, from 0.500 to 0.700"),
    ],
)  # fmt: skip
def test_the_sentence_says_from_which_exit_on_little_is_won(qualities, enough, said):
    found = of(*qualities)
    assert found.enough == enough
    assert said in found.said


def row(key, variant, rule="", exits=((0.5, 0.8), (1.0, 0.9))):
    return SimpleNamespace(key=key, variant=variant, rule=rule, baselines={"static exit": list(exits)} if exits else {})


def on(name, *rows):
    return depth.of_track(SimpleNamespace(boards={name: SimpleNamespace(rows=rows)}), name)


@pytest.mark.parametrize("name", TRACKS)
def test_the_row_is_one_whose_exits_are_trained_together(name):
    key, variant = depth.TOGETHER[TRACKS[name].item]
    wanted = row(key, variant)
    found = on(name, row(key, "another"), row(key, variant, "max-confidence"), wanted)
    assert found.row is wanted
    assert found.exits == [(0.5, 0.8), (1.0, 0.9)]
    assert on(name, row(key, "another"), row("other2020key", variant)) is None
    assert on(name, row(key, variant, exits=())) is None
