"""The code beside each section is the code that runs, from the file and line that it says."""

from pathlib import Path

import pytest
from lxml import html

from eelit.methods.harness import registry
from eelit.site.generator.listings import beside

ROOT = Path(__file__).parents[1]
KEYS = registry.keys()


@pytest.mark.parametrize("key", KEYS)
def test_listings_are_what_stands_in_the_sources(key):
    found = beside(registry.describe(key))
    assert "Training" in found or "Exit rule" in found
    for listings in found.values():
        for one in listings:
            lines = (ROOT / one.path).read_text(encoding="utf-8").splitlines()
            shown = html.fromstring(str(one.code)).text_content().strip().splitlines()
            standing = [line.strip() for line in lines[one.line - 1 : one.line - 1 + len(shown)]]
            assert [line.strip() for line in shown] == standing
            assert one.shared == (one.path != f"methods/papers/{key}.py")


def test_a_rule_and_a_recipe_that_others_share_are_shown_where_they_are_used():
    found = {
        section: {one.name for one in listings}
        for section, listings in beside(registry.describe("zhou2020pabee")).items()
    }
    assert "Patience" in found["Exit rule"]
    assert {"train", "train_joint"} <= found["Training"]  # `train` is the family's
    assert "build" in found["Model"]
