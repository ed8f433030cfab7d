"""The code beside each section is the code that runs, from the file and line that it says."""

import ast
import importlib
from functools import cache
from pathlib import Path

import pytest
from lxml import html

from eelit.methods.engine.method import Method
from eelit.methods.harness import registry
from eelit.site.generator.listings import beside

ROOT = Path(__file__).parents[1]
KEYS = registry.keys()


@cache
def listed(key):
    return beside(registry.describe(key))


@pytest.mark.parametrize("key", KEYS)
def test_listings_are_what_stands_in_the_sources(key):
    found = listed(key)
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


def is_method(part):
    return isinstance(part, type) and issubclass(part, Method)


@pytest.mark.parametrize("key", KEYS)
def test_every_part_of_the_papers_own_file_is_shown_once(key):
    info = registry.describe(key)
    tree = ast.parse(info.path.read_text(encoding="utf-8"))
    parts = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    module = importlib.import_module(f"eelit.methods.papers.{key}")
    of_method = {part.name for part in parts if is_method(getattr(module, part.name))}
    shown = [one.name for listings in listed(key).values() for one in listings if not one.shared]
    for part in parts:
        assert shown.count(part.name) == (0 if part.name in of_method else 1), part.name


def test_the_papers_parts_come_first_and_stand_where_they_are_needed():
    found = {
        section: [one.name for one in listings if not one.shared]
        for section, listings in beside(registry.describe("xin2021berxit")).items()
    }
    assert found == {
        "Model": ["LearningToExit", "ExitWithCertainty", "build"],
        "Training": ["alternating_loss", "certainty_loss", "correctness", "train_alternating", "train"],
        "Exit rule": ["policy"],
    }


def test_a_part_that_is_reached_through_a_table_or_another_function_of_the_class_is_shown():
    found = {
        section: [one.name for one in listings if not one.shared]
        for section, listings in beside(registry.describe("teerapittayanon2016branchynet")).items()
    }
    assert {"branchy_lenet", "branchy_alexnet"} <= set(found["Model"])
    assert "train_trunk" in found["Training"]


def test_what_the_method_itself_does_not_need_stands_beside_the_section_that_names_it_or_beside_the_idea():
    assert "modelled_energy" in [one.name for one in beside(registry.describe("li2023predictive"))["Energy"]]
    assert "confusion" in [one.name for one in beside(registry.describe("kaya2019sdn"))["Idea"]]


def test_what_a_method_measures_beside_its_quality_stands_beside_the_exit_rule():
    found = beside(registry.describe("hu2020triplewins"))
    assert {"stored", "beside"} <= {one.name for one in found["Exit rule"]}
    assert "Idea" not in found
