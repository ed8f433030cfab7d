"""The walk-throughs run and give what their pages show; the outputs that are shipped, and every command on them."""

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from markupsafe import escape

from eelit.methods import WrongLogits, calibrate, read
from eelit.methods.data import fetch, manifest
from eelit.methods.harness import registry
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.own.shipped import folder, shipped
from eelit.site.generator import own, pages

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "site" / "examples"
MOST_LINES = 30
MOST_BYTES = 150_000
WALKS = own.WALKS
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def told(text):
    return NUMBER.sub("#", text), [float(number) for number in NUMBER.findall(text)]


# Walk-throughs


@pytest.fixture(scope="module")
def record():
    for item in ("minilm-l6", "movie-reviews"):  # as the page says, `eelit data fetch`
        fetch.fetch(item)
    return runpy.run_path(str(EXAMPLES / "record.py"))["record"]


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_through_runs_and_gives_what_its_page_shows(record, name):
    """Another processor may round otherwise, so that a few samples go another way."""
    ran, page = record(name), json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    assert ran.keys() == page.keys()
    same = ("quality", "exits", "samples", "rule", "promise", "proved")
    assert {part: ran[part] for part in same} == {part: page[part] for part in same}
    words, numbers = told(ran["said"])
    assert (words, numbers) == (told(page["said"])[0], pytest.approx(told(page["said"])[1], rel=0.1))
    assert ran["measured"] == pytest.approx(page["measured"], abs=0.05)
    assert list(ran["lines"]) == list(page["lines"])
    for share, quality, setting in (point for line in ran["lines"].values() for point in line):
        assert 0 < share < 1.1
        assert 0 < quality <= 1
        assert setting
    exits, shown = (np.array([point[:2] for point in of["lines"]["one exit for all"]]) for of in (ran, page))
    np.testing.assert_allclose(exits, shown, atol=0.05)
    assert len(exits) == ran["exits"]


@pytest.mark.parametrize("name", WALKS)
def test_a_page_shows_a_rule_that_saves_something_and_is_no_worse_than_its_picture(name):
    page = own.walk(ROOT, name)
    (chosen,) = next(line.points for line in page.lines if line.name == "the rule")
    assert chosen[:2] == (page.measured["share"], page.measured["quality"])
    assert page.measured["share"] < 0.9
    assert page.measured["quality"] >= page.measured["full_quality"] - 0.05
    static = next(line.points for line in page.lines if line.name == "one exit for all")
    assert static[-1][1] > static[0][1]  # depth matters here


@pytest.mark.parametrize("name", WALKS)
def test_a_walk_through_is_short_and_takes_from_eelit_what_is_offered(name):
    code = (EXAMPLES / f"{name}.py").read_text(encoding="utf-8")
    assert 10 < own.lines_of_code(code) < MOST_LINES
    imported = set(re.findall(r"^from (eelit\S*) import", code, re.MULTILINE))
    assert "eelit.methods" in imported
    assert imported <= {"eelit.methods", "eelit.methods.data"}  # data stand for the reader's own


def test_lines_of_code_are_counted_without_what_is_no_code():
    assert own.lines_of_code('"""Says."""\n\nimport a\n# why\nb = 1  # one\n\n\nc = 2\n') == 3


def test_every_program_is_shown_or_makes_what_is_shown():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == {*WALKS, "record", "logits"}
    assert {path.stem for path in EXAMPLES.glob("*.json")} == {*WALKS, "architectures"}


def test_logits_from_anywhere_need_no_torch(tmp_path):
    program = f"""
import runpy, sys
runpy.run_path({str(EXAMPLES / "any_framework.py")!r})
assert "torch" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == own.walk(ROOT, "any_framework").said
    assert {path.name for path in tmp_path.iterdir()} == {"logits.npz", "rule.json"}


# What is shipped


@pytest.mark.parametrize("name", shipped())
def test_shipped_outputs_are_small_and_say_where_they_are_from(name):
    example = shipped()[name]
    assert example.path.stat().st_size <= MOST_BYTES
    assert example.method in set(registry.keys())
    assert example.variant in registry.get(example.method).variants
    assert TRACKS[example.track].item in registry.describe(example.method).data
    assert manifest.get(example.data)
    assert example.licence in (ROOT / "LICENSE-DATA").read_text(encoding="utf-8")
    assert "methods/own/outputs/" in (ROOT / "LICENSE-DATA").read_text(encoding="utf-8")
    data = read(example.word)
    assert data.name == example.word
    assert data.samples == sum(example.splits.values())
    assert data.unit == "MACs"
    assert data.z.dtype == np.float16
    assert (np.diff(data.costs, axis=0) > 0).all()
    assert data.plain_costs[-1] < data.costs[-1].mean()  # heads cost something


def test_nothing_else_is_shipped():
    assert {path.name for path in folder().iterdir()} == {"outputs.toml", *(f"{name}.npz" for name in shipped())}


@pytest.mark.parametrize("name", shipped())
def test_shipped_outputs_are_as_right_as_the_benchmark_measured(name):
    """The results of the track hold how right each exit is on all test samples; these are the first of them, or all.

    How many threads trained a network changes its last bits, so answers may differ by chance, but no more than that.
    """
    example = shipped()[name]
    data, tested = read(example.word), example.splits["test"]
    right = (data.z[:, -tested:].argmax(axis=2) == data.labels[-tested:]).mean(axis=1)
    results = sorted((ROOT / "methods/results" / example.track / example.method).glob(f"seed{example.seed}-*.json"))
    curves = [curve for path in results for curve in json.loads(path.read_text(encoding="utf-8"))["curves"]]
    measured = [
        [exit_["quality"] for exit_ in curve["each_exit"]] for curve in curves if curve["variant"] == example.variant
    ]
    assert measured
    assert min(np.abs(right - np.array(each)).max() for each in measured) <= 3 * np.sqrt(0.25 / tested)


def test_an_example_that_there_is_not_is_named_with_those_there_are(eelit):
    with pytest.raises(WrongLogits, match="no example 'none'; there are example:text, example:images"):
        read("example:none")
    found = eelit("advise", "--logits", "example:none")
    assert (found.exit_code, found.stderr.count("\n")) == (3, 1)
    for word in (each.word for each in shipped().values()):
        assert word in "".join(eelit("advise", "--help").stdout.split())  # wherever lines are broken


def documented():
    """Return every command on shipped outputs that the README, the pages or a command's help show, without comments."""
    from eelit.site.generator.commands import commands

    values = {"advice": own.advice(), "shipped": shipped(), "limits": own.advising, "walks": [], "lines": []}
    page = rendered("worth_it.md.j2", **(values | {"lines": [own.Line("a", [(1.0, 0.5, "exit 1"), (1.1, 0.6, "b")])]}))
    texts = [(ROOT / "README.md").read_text(encoding="utf-8"), page]
    texts += [example for command in commands() for example in command.examples]
    found = re.findall(r"eelit ((?:advise|compare|calibrate)[^`<\n#]*example:[^`<\n#]*)", "\n".join(texts))
    return sorted({" ".join(command.split()) for command in found})


def rendered(template, **values):
    site = SimpleNamespace(methods={}, works={}, boards={})
    return pages.environment().get_template(template).render(site=site, **values)


def test_every_command_on_shipped_outputs_runs_as_it_stands(monkeypatch, tmp_path):
    from eelit.cli.group import eelit

    monkeypatch.chdir(tmp_path)
    commands = documented()
    assert {command.split()[0] for command in commands} == {"advise", "compare", "calibrate"}
    for command in commands:
        found = CliRunner().invoke(eelit, command.split(), prog_name="eelit")
        assert found.exit_code == 0, f"{command}: {found.stderr}"


def test_a_promise_on_shipped_outputs_is_kept_where_nothing_was_chosen():
    data = read("example:images-plain")
    rule = calibrate(data, "max-confidence", risk=0.05, delta=0.1)
    assert rule.promise["proved"]
    assert rule.promise["measured_loss"] <= 0.05
    exits = rule.apply(data).exits
    assert data.costs[exits, np.arange(data.samples)].mean() < 0.7 * data.full_cost


# Pages


def test_the_page_tells_what_the_command_says(eelit):
    found = {name: json.loads(json.dumps(vars(advice), default=str)) for name, advice in own.advice().items()}
    printed = json.loads(eelit("advise", "--logits", "example:text", "--format", "json").stdout)
    assert printed["verdict"] == found["text"]["verdict"]
    assert printed["oracle_saves"] == pytest.approx(found["text"]["oracle_saves"])
    texts = dict(own.pages(rendered, ROOT))
    assert set(texts) == {"own/worth-it.md", *(f"own/{name.replace('_', '-')}.md" for name in WALKS)}
    for name, advice in found.items():
        verdict = advice["verdict"].capitalize()
        assert f"<strong>{verdict}</strong>" in texts["own/worth-it.md"], name
        assert f"{100 * advice['oracle_saves']:.1f} %" in texts["own/worth-it.md"], name


@pytest.mark.parametrize("name", WALKS)
def test_a_page_has_the_program_as_it_stands_what_it_prints_and_a_picture(name):
    page = own.walk(ROOT, name)
    text = rendered(f"{name}.md.j2", walk=page, architectures=own.architectures(ROOT))
    assert f"```python\n{(EXAMPLES / f'{name}.py').read_text(encoding='utf-8').rstrip()}\n```" in text
    assert escape(page.said) in text
    assert text.count("<svg class") == 1 + 2 * len(page.lines)  # the picture, and each line's swatch twice
    assert escape(page.promise) in text
    assert text == rendered(f"{name}.md.j2", walk=page, architectures=own.architectures(ROOT))


def test_verdicts_of_the_shipped_outputs_differ():
    """Three networks, three answers: else the page would have nothing to compare."""
    assert len({advice.verdict for advice in own.advice().values()}) == len(shipped())
