"""See it decide: the page decides as `replay` does and shows what follows; by mouse, by keyboard and from disk."""

import re
from math import isclose
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from browsing import settle, strike
from playwright.sync_api import expect

from eelit import methods
from eelit.methods.engine.evaluate import answered, replay
from eelit.methods.own.rules import RULES
from eelit.site.generator import seen

ROOT = Path(__file__).parents[2]
PAGE = "see-it-decide.html"
SCHEMES = [(1280, "light", "http"), (390, "dark", "file")]
FIXED = {"flexible-patience": (1,), "patient-confidence": (2,)}  # settings beside the knob


def policy(name, value):
    """Return the policy of the package that a value of the page's knob stands for."""
    return getattr(methods, RULES[name].policy)(value, *FIXED.get(name, ()))


def by_replay(example, name, value, dtype):
    """Return exits, answers, mean share of the cost and accuracy ``[N]`` as the package has them."""
    outputs, samples = torch.from_numpy(example.z.astype(dtype)), np.arange(len(example.labels))
    exits = replay(policy(name, value), outputs)
    answers = answered(policy(name, value), outputs, exits).argmax(dim=-1).numpy()
    cost = example.costs[exits, samples].mean() / example.costs[-1].mean()
    return exits, answers, cost, (answers == example.labels).mean()


@pytest.fixture
def decide(open_page):
    """Return a function: example and rule → what the page decides at each value of the knob."""
    page = open_page(PAGE)
    return lambda name, rule: page.evaluate("([name, rule]) => eelitDecide.curve(name, rule)", [name, rule])


@pytest.mark.parametrize("name", seen.TITLES)
@pytest.mark.parametrize("rule", seen.CHOICES)
def test_the_page_decides_as_replay_does(decide, name, rule):
    example, curve = seen.seen(ROOT, name), decide(name, rule)
    assert len(curve) >= 6
    for setting in curve:
        for dtype in (np.float64, np.float32):
            exits, answers, cost, accuracy = by_replay(example, rule, setting["value"], dtype)
            assert setting["exits"] == exits.tolist(), (setting["value"], dtype)
            assert setting["answers"] == answers.tolist(), (setting["value"], dtype)
        assert isclose(setting["cost"], cost, rel_tol=1e-9)
        assert isclose(setting["accuracy"], accuracy, rel_tol=1e-9)
    costs = [setting["cost"] for setting in curve]
    assert costs[-1] == pytest.approx(1)
    if rule != "sole-class":  # several classes may reach a low threshold
        assert costs == sorted(costs)
        assert len(set(costs)) > 4


def test_page_and_package_know_the_same_rules(open_page):
    page = open_page(PAGE)
    offered = page.locator(".ee-side select").first.locator("option").all_inner_texts()
    assert tuple(offered) == tuple(page.evaluate("eelitDecide.rules")) == seen.CHOICES


def chosen(page):
    """Return what the address says is chosen, of which the page keeps account when a knob is at rest."""
    settle(page)
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def figures(page, side):
    """Return accuracy and cost as they are shown, in percent."""
    texts = page.locator(f".ee-side[data-side={side}] .ee-figures strong").all_inner_texts()
    return [float(re.match(r"[\d.]+", text)[0]) for text in texts[:2]]


def crowds(page, side):
    """Return the samples at each exit, as the tiles stand."""
    read = "rows => rows.map(row => [...row.children].map(tile => Number(tile.dataset.sample)))"
    return page.locator(f".ee-side[data-side={side}] .ee-crowd").evaluate_all(read)


@pytest.mark.parametrize("name", seen.TITLES)
def test_tiles_and_figures_are_those_of_replay_as_the_knob_moves(open_page, name):
    page, example = open_page(f"{PAGE}?data={name}&a=margin&b=voting", still=True), seen.seen(ROOT, name)
    for key in ("End", "Home", "PageUp", "ArrowRight"):
        page.locator(".ee-side[data-side=a] input[type=range]").focus()
        strike(page, key)
        kept = chosen(page)
        for side in "ab":
            exits, answers, cost, accuracy = by_replay(example, kept[side], _number(kept[f"k{side}"]), np.float32)
            wanted = [np.flatnonzero(exits == e).tolist() for e in range(6)]
            assert crowds(page, side) == wanted
            assert figures(page, side) == pytest.approx([100 * accuracy, 100 * cost], abs=0.0501)
            wrong = page.locator(f".ee-side[data-side={side}] .ee-tile.is-wrong")
            assert wrong.count() == (answers != example.labels).sum()


def _number(text):
    value = float(text.replace("Infinity", "inf"))
    return int(value) if value.is_integer() and abs(value) < 100 else value


def test_at_equal_cost_the_other_side_follows_as_closely_as_it_can(open_page):
    page = open_page(f"{PAGE}?data=images&a=max-confidence&b=patience")
    knobs = {side: page.locator(f".ee-side[data-side={side}] input[type=range]") for side in "ab"}
    curves = {
        side: page.evaluate("rule => eelitDecide.curve('images', rule).map(s => s.cost)", rule)
        for side, rule in (("a", "max-confidence"), ("b", "patience"))
    }
    for leader, other, key in (("b", "a", "ArrowRight"), ("a", "b", "Home"), ("a", "b", "PageUp")):
        knobs[leader].focus()
        strike(page, key)
        cost = curves[leader][int(knobs[leader].input_value())]
        found = curves[other][int(knobs[other].input_value())]
        assert abs(found - cost) == min(abs(each - cost) for each in curves[other])
    page.get_by_label("Keep both at equal cost").uncheck()
    before = knobs["b"].input_value()
    knobs["a"].focus()
    strike(page, "End")
    assert knobs["b"].input_value() == before
    assert figures(page, "a")[1] == 100


@pytest.mark.parametrize(("width", "scheme", "over"), SCHEMES)
def test_samples_on_which_the_policies_differ_come_first(open_page, width, scheme, over):
    page = open_page(f"{PAGE}?data=images&a=entropy&b=patience&kb=1", width=width, scheme=scheme, over=over)
    curves = page.evaluate("['entropy', 'patience'].map(rule => eelitDecide.curve('images', rule))")
    a, b = (
        curve[int(page.locator(f".ee-side[data-side={side}] input[type=range]").input_value())]
        for curve, side in zip(curves, "ab", strict=True)
    )
    differ = [i for i in range(200) if a["right"][i] != b["right"][i]]
    assert len(differ) > 4
    shown = page.locator(".ee-samples > li")
    listed = [int(re.search(r"Picture (\d+)", text)[1]) - 1 for text in shown.all_inner_texts()]
    assert listed[: len(differ)] == differ[: len(listed)]
    only_a = sum(a["right"][i] for i in differ)
    expect(page.locator(".ee-decide .ee-status")).to_contain_text(
        f"Only A is right on {only_a} pictures, only B on {len(differ) - only_a}"
    )
    page.get_by_role("button", name="Show all 200 pictures").click()
    expect(shown).to_have_count(200)


def test_a_card_tells_what_every_exit_said(open_page):
    page, example = open_page(f"{PAGE}?data=text&a=max-confidence&b=patience"), seen.seen(ROOT, "text")
    page.locator(".ee-side[data-side=a] .ee-tile[data-sample='17']").click()
    card = page.locator(".ee-chosen")
    expect(card.locator("blockquote")).to_have_text(example.facts["texts"][17].strip())
    z = example.z[:, 17].astype(np.float64)
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    cells = card.locator(".ee-strip li").all_inner_texts()
    assert len(cells) == 6
    for e, cell in enumerate(cells):
        answer = int(z[e].argmax())
        right = "right" if answer == example.labels[17] else "wrong"
        for word in (f"exit {e + 1}", example.facts["classes"][answer], f"{100 * p[e].max():.0f}", right):
            assert word in cell, cell


def test_arrow_keys_go_from_tile_to_tile(open_page):
    page = open_page(f"{PAGE}?data=images&a=max-confidence&b=patience", still=True)
    rows = [row for row in crowds(page, "a") if row]
    every = [i for row in rows for i in row]
    board = page.locator(".ee-side[data-side=a] .ee-board")
    assert board.locator("[tabindex='0']").count() == 1  # one stop of the Tab key
    board.locator("[tabindex='0']").focus()
    focused = "() => Number(document.activeElement.dataset.sample)"
    for key, wanted in (
        ("Home", every[0]), ("ArrowRight", every[1]), ("ArrowDown", rows[1][1]), ("ArrowUp", rows[0][1]),
        ("ArrowLeft", every[0]), ("ArrowLeft", every[0]), ("End", every[-1]), ("ArrowRight", every[-1]),
    ):  # fmt: skip
        strike(page, key)
        assert page.evaluate(focused) == wanted, key
        expect(page.locator(".ee-chosen")).to_contain_text(f"Picture {wanted + 1},")
    assert page.locator(".ee-tile.is-picked").count() == 2  # on both sides


def test_a_run_lets_samples_leave_exit_by_exit(open_page):
    page = open_page(f"{PAGE}?data=text&a=max-confidence&b=patience", still=True)
    done = crowds(page, "a")
    button = page.locator(".ee-start")
    button.click()
    first = crowds(page, "a")
    assert [len(row) for row in first] == [200, 0, 0, 0, 0, 0]
    assert page.locator(".ee-side[data-side=a] .ee-tile.is-going").count() == 200 - len(done[0])
    expect(button).to_have_text("Run from the first exit")  # the run has ended
    assert crowds(page, "a") == done
    button.click()
    expect(button).to_have_text("Stop")
    button.click()
    assert crowds(page, "a") == done


def test_the_address_brings_a_choice_back(open_page):
    page = open_page(f"{PAGE}?data=images-plain&a=surest&b=static&kb=2&lock=no")
    page.locator(".ee-side[data-side=a] input[type=range]").focus()
    for _ in range(3):
        strike(page, "ArrowLeft")
    kept, tiles = chosen(page), crowds(page, "a")
    page.reload()
    settle(page)
    assert chosen(page) == kept
    assert (kept["data"], kept["a"], kept["b"], kept["kb"], kept["lock"]) == (
        "images-plain",
        "surest",
        "static",
        "2",
        "no",
    )
    assert crowds(page, "a") == tiles


@pytest.mark.parametrize("query", ["?data=nonsense&a=nonsense&ka=x&b=&kb=", "?a=patience&ka=nonsense&kb=1e999"])
def test_what_the_address_asks_for_in_vain_changes_nothing(open_page, query):
    page = open_page(PAGE + query)
    assert page.locator(".ee-side[data-side=b] .ee-tile").count() == 200


@pytest.mark.parametrize(("width", "scheme", "over"), SCHEMES)
def test_pictures_are_shown_and_nothing_sticks_out(open_page, width, scheme, over):
    page = open_page(PAGE, width=width, scheme=scheme, over=over)
    for name in seen.TITLES:
        page.locator(f".ee-choose input[value={name}]").check()
        settle(page)
        assert page.locator(".ee-tile").count() == 400
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        if name != "text":
            address = page.locator(".ee-tile").first.evaluate("tile => getComputedStyle(tile).backgroundImage")
            loaded = "async (address) => { const i = new Image(); i.src = address; await i.decode(); return i.width; }"
            side = seen.seen(ROOT, name).facts["side"]
            assert page.evaluate(loaded, address.removeprefix('url("').removesuffix('")')) == 20 * side


def test_without_scripts_the_exits_stand_in_tables(open_page):
    page = open_page(PAGE, javascript=False)
    assert page.locator(".ee-decide").is_hidden()
    tables = page.locator("table")
    assert tables.count() == len(seen.TITLES)
    assert all(table.is_visible() for table in tables.all())
