"""The data of the page "See it decide": what the exits said of some test samples, and the samples themselves."""

import json
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eelit.methods.own.rules import RULES
from eelit.methods.own.shipped import shipped
from eelit.site.generator import seen

ROOT = Path(__file__).parents[1]
SAMPLES = 200


@pytest.fixture(params=seen.TITLES)
def example(request):
    return seen.seen(ROOT, request.param)


def read_script(example):
    """Return what a browser would find."""
    before, _, data = example.script.partition(" = ")
    assert before == f'(window.eelitSeen ??= {{}})["{example.example.name}"]'
    assert data.endswith(";\n")
    return json.loads(data[:-2])


def test_the_script_holds_what_the_exits_said_to_the_last_bit(example):
    told = read_script(example)
    shape = told["exits"], told["samples"], len(told["classes"])
    z = np.frombuffer(b64decode(told["logits"]), dtype="<f2").reshape(shape)
    assert shape[:2] == (6, SAMPLES)
    assert np.isfinite(z).all()
    stored = np.load(example.example.path)
    first = example.example.splits.get("validation", 0)  # before the test part, of which these are the first
    assert np.array_equal(z, stored["logits"][:, first : first + SAMPLES])
    assert told["labels"] == stored["labels"][first : first + SAMPLES].tolist()
    assert set(told["labels"]) == set(range(len(told["classes"])))


def test_costs_grow_from_exit_to_exit(example):
    costs = np.array(read_script(example)["costs"])
    assert costs.shape == (6, SAMPLES)
    assert (np.diff(costs, axis=0) > 0).all()
    assert (costs[0] > 0).all()


def test_each_label_has_its_sample(example):
    told = read_script(example)
    if example.is_text:
        assert len(told["texts"]) == len(set(told["texts"])) == SAMPLES
        assert all(text.strip() for text in told["texts"])
        assert len(told["marks"]) == len(told["classes"])
        return
    side, across = told["side"], told["across"]
    with Image.open(example.picture) as sheet:
        assert (sheet.mode, sheet.size) == ("L", (across * side, SAMPLES // across * side))
        pixels = np.asarray(sheet).reshape(-1, side, across, side).transpose(0, 2, 1, 3).reshape(SAMPLES, -1)
    assert len(np.unique(pixels, axis=0)) == SAMPLES
    assert told["picture"] == f"seen/{example.example.name}.png"


def test_what_a_reader_has_to_load_is_small():
    every = [seen.seen(ROOT, name) for name in seen.TITLES]
    assert all(len(each.script.encode()) < 50_000 for each in every)
    assert all(each.picture.stat().st_size < 170_000 for each in every if not each.is_text)


def test_the_page_names_data_set_licence_and_terms(example):
    found = dict(seen.pages(lambda template, **values: repr(values["examples"]), ROOT, {}))
    assert set(found) == {
        seen.PAGE,
        *(f"seen/{name}.js" for name in seen.TITLES),
        *(f"seen/{name}.png" for name in seen.TITLES if name != "text"),
    }
    template = (ROOT / "site/generator/templates/seen.md.j2").read_text(encoding="utf-8")
    for fact in ("citation", "licence", "terms"):
        assert getattr(example.item, fact)
        assert f"each.item.{fact}" in template
    assert example.item.name == example.example.data


def test_figures_of_single_exits_are_those_of_the_samples_shown():
    costs, right, sure = zip(*seen.seen(ROOT, "images").exits, strict=True)
    assert costs[-1] == 1
    assert list(costs) == sorted(costs)
    z = np.load(shipped()["images"].path)["logits"][:, :SAMPLES].astype(np.float64)
    labels = np.load(shipped()["images"].path)["labels"][:SAMPLES]
    assert right == pytest.approx((z.argmax(axis=-1) == labels).mean(axis=1))
    assert all(1 / 10 < each < 1 for each in sure)


def test_rules_on_offer_need_logits_alone():
    assert set(seen.CHOICES) <= set(RULES)
    fitted = {"calibrated-confidence", "budgeted", "percentile-entropy", "conformal"}
    several = {"class-exclusion", "class-thresholds", "patience-of-values"}  # a knob for each exit or class, or values
    assert set(RULES) - set(seen.CHOICES) == fitted | several
