"""The walk-throughs run and give what their pages show; the outputs that are shipped, and every command on them."""

import json
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import bench_logits
import numpy as np
import promises
import pytest
import torch
from click.testing import CliRunner
from markupsafe import escape

from eelit.methods import WrongLogits, calibrate, read
from eelit.methods.data import fetch, manifest
from eelit.methods.engine.records import Machine
from eelit.methods.harness import bench, own_speed, registry
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.own.deployed import program
from eelit.methods.own.recipes import LEFT_OUT, RECIPES
from eelit.methods.own.shipped import folder, shipped
from eelit.site.generator import own, pages
from eelit.site.generator.markup import prose

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "site" / "examples"
MOST_LINES = 30
MOST_BYTES = 150_000
WALKS = own.WALKS
NUMBER = re.compile(r"(\d+(?:\.\d+)?)(%?)")


def told(text):
    """Return a text without its numbers, and these with their units: percent, or nothing."""
    return NUMBER.sub(r"#\2", text), [(float(number), unit) for number, unit in NUMBER.findall(text)]


def alike(said, page, tolerance, exits):
    """Whether two texts say the same but for rounding: shares within the tolerance, counts exactly, depths in between.

    A mean number of layers is a share of all of them.
    """
    (words, numbers), (wanted, others) = told(said), told(page)
    room = {"%": 100 * tolerance, "": tolerance * exits}
    return words == wanted and all(
        abs(a - b) <= (0 if unit == "" and b == int(b) else room[unit] + 1e-9)
        for (a, unit), (b, _) in zip(numbers, others, strict=True)
    )


# Walk-throughs


@pytest.fixture(scope="module")
def record():
    for item in ("minilm-l6", "movie-reviews"):  # as the page says, `eelit data fetch`
        fetch.fetch(item)
    return runpy.run_path(str(EXAMPLES / "record.py"))["record"]


@pytest.fixture
def threads():
    """Return a function that sets torch's number of threads for one test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize(("name", "count"), [*((name, 1) for name in WALKS), ("cnn", 2)])
def test_a_walk_through_runs_and_gives_what_its_page_shows(record, threads, name, count):
    """Sums may be rounded otherwise, so that a few samples go another way: no more than the page says.

    The pages were recorded with one thread; a network that is trained from the beginning feels a second one most.
    """
    threads(count)
    tolerance = own.TOLERANCE[name]
    ran, page = record(name), json.loads((EXAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    assert ran.keys() == page.keys()
    same = ("quality", "exits", "samples", "rule", "promise", "proved")
    assert {part: ran[part] for part in same} == {part: page[part] for part in same}
    assert alike(ran["said"], page["said"], tolerance, page["exits"]), ran["said"]
    assert ran["measured"] == pytest.approx(page["measured"], abs=tolerance)
    assert ran["cut"] == pytest.approx(page["cut"], abs=tolerance)
    assert ran["cut"]["exit"] == page["cut"]["exit"]
    assert list(ran["lines"]) == list(page["lines"])
    for share, quality, setting in (point for line in ran["lines"].values() for point in line):
        assert 0 < share < 1.1
        assert 0 < quality <= 1
        assert setting
    exits, shown = (np.array([point[:2] for point in of["lines"]["one exit for all"]]) for of in (ran, page))
    np.testing.assert_allclose(exits, shown, atol=tolerance)
    assert len(exits) == ran["exits"]


def test_what_is_said_is_compared_by_what_the_numbers_mean():
    page = "77.0% of 200 reviews right, after 2.9 of 6 layers"
    assert alike("75.5% of 200 reviews right, after 3.0 of 6 layers", page, 0.02, 6)
    for other in (
        "74.9% of 200 reviews right, after 2.9 of 6 layers",
        "77.0% of 201 reviews right, after 2.9 of 6 layers",
        "77.0% of 200 reviews right, after 2.7 of 6 layers",
        "77.0 of 200 reviews right, after 2.9 of 6 layers",
    ):
        assert not alike(other, page, 0.02, 6), other


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

    values = {"advice": own.advice(), "shipped": shipped(), "limits": own.advising, "walks": [], "measured": None}
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
    text = rendered(f"{name}.md.j2", walk=page, **own.values(ROOT))
    assert f"by more than {100 * page.tolerance:.1f} points from the figures on this page" in text
    assert f"```python\n{(EXAMPLES / f'{name}.py').read_text(encoding='utf-8').rstrip()}\n```" in text
    assert escape(page.said) in text
    assert text.count("<svg class") == 1 + 2 * len(page.lines)  # the picture, and each line's swatch twice
    assert escape(page.promise) in text
    assert text == rendered(f"{name}.md.j2", walk=page, **own.values(ROOT))


def test_verdicts_of_the_shipped_outputs_differ():
    """Three networks, three answers: else the page would have nothing to compare."""
    assert len({advice.verdict for advice in own.advice().values()}) == len(shipped())


def test_a_page_says_plainly_whether_cutting_the_network_off_does_as_well():
    page = own.walk(ROOT, "hugging_face")
    cut = {"exit": 3, "share": 0.5, "quality": 0.685, "gain": 0.02, "gain_error": 0.011}
    plain, better = "does as well.", "The rule gains 0.023 ± 0.011 over it."
    for gain, said, unsaid in ((0.02, plain, better), (0.023, better, plain), (-0.05, plain, better)):
        walk = replace(page, cut=cut | {"gain": gain})
        text = rendered("hugging_face.md.j2", walk=walk, **own.values(ROOT))
        assert said in text
        assert unsaid not in text
    assert "cut off after exit 3, for 50.0 % of the cost, has accuracy 0.685." in text
    assert "it gains −0.050 ± 0.011." in text


def test_the_text_walk_through_stands_beside_what_more_data_gave():
    """Both rows are of PABEE's network, though its weights may be another method's, too."""
    rows = own.longer(bench.board(own.LONGER[0]))
    assert {"max-confidence", "static exit"} <= rows.keys()
    assert rows["max-confidence"].at[0.5].mean > rows["static exit"].at[0.5].mean
    site = SimpleNamespace(methods={}, works={}, boards={"text": bench.board("text")})
    page = own.walk(ROOT, "hugging_face")
    text = pages.environment().get_template("hugging_face.md.j2").render(site=site, walk=page, **own.values(ROOT))
    assert f"by the same recipe on 4000, with {len(rows['max-confidence'].seeds)} seeds" in text
    assert f"reaches accuracy {rows['max-confidence'].at[0.5].mean:.3f} ±" in text


def test_the_page_lists_every_recipe_and_the_loop_that_the_command_prints():
    text = rendered("hugging_face.md.j2", walk=own.walk(ROOT, "hugging_face"), **own.values(ROOT))
    for name, recipe in RECIPES.items():
        assert f"<code>{name}</code></th><td><code>{recipe.key}</code></td><td>{prose(recipe.says)}" in text
    for key, why in LEFT_OUT.items():
        assert f"<dt><code>{key}</code></dt><dd>{prose(why[:1].upper() + why[1:])}." in text
    assert f"<pre><code>{escape(program('onnx'))}</code></pre>" in text


# What was measured


def timing(**other):
    values = {
        "exits": 12, "samples": 10_000, "classes": 1_000, "numbers": "float32", "mapped": False, "settings": 50,
        "scores": 1.04, "everything": 5.5, "memory": 0.42, "scores_limit": 2.0, "everything_limit": 10.0,
        "memory_limit": 2.0,
    }  # fmt: skip
    return own_speed.Timing(**(values | other))


def promise(**other):
    values = {
        "method": "Learn then Test", "risk": 0.05, "delta": 0.1, "draws": 1000, "samples": 300, "found": 0.0213,
        "deviation": 0.0095, "promised": 990,
    }  # fmt: skip
    return own_speed.Promise(**(values | other))


def measured(**other):
    mean = {"method": "conformal risk control", "delta": None, "found": 0.0431, "deviation": 0.0004, "promised": 1000}
    values = {
        "created": datetime(2026, 12, 1, tzinfo=UTC), "commit": "abc", "versions": {"numpy": "2", "python": "3.11"},
        "machine": Machine(system="s", processor="a made-up processor", cores=2, threads=2, load=0.1),
        "timings": [timing()], "promises": [promise(), promise(**mean)],
    }  # fmt: skip
    return own_speed.OwnSpeed(**(values | other))


def worth_it(found):
    values = {"advice": own.advice(), "shipped": shipped(), "limits": own.advising, "walks": []}
    lines = [own.Line("a", [(1.0, 0.5, "exit 1"), (1.1, 0.6, "b")])]
    return rendered("worth_it.md.j2", measured=found, lines=lines, **values)


def test_what_was_measured_is_kept_whole_and_shown(tmp_path):
    assert own_speed.stored(tmp_path) is None
    assert own_speed.keep(measured(), tmp_path) == tmp_path / "own" / "logits.json"
    assert own_speed.stored(tmp_path) == measured()
    text = worth_it(measured())
    assert "10,000 × 12 × 1,000" in text
    assert '<td class="num">5.5 <span class="ee-muted">(10)</span></td>' in text
    assert "<td>2.1 % of the draws</td><td>12.8 %</td>" in text
    assert "<td>at most 5 % of the samples are lost on average</td>" in text
    assert "<td>4.3 % lost on average</td><td>5.1 %</td>" in text
    assert "In 990 and 1,000 of the 1,000 draws" in text
    assert "a made-up processor, 2 threads, load 0.1" in text
    assert "2026-12-01, commit abc" in text
    assert "python tests/bench_logits.py" in text
    assert not re.search("limit missed|not kept", text)
    assert "#measured" not in worth_it(None)


@pytest.mark.parametrize("other", [{"scores": 2.1}, {"everything": 10.1}, {"memory": 2.1}])
def test_a_missed_limit_is_said(other):
    assert timing().within
    assert not timing(**other).within
    assert "limit missed" in worth_it(measured(timings=[timing(**other)]))
    assert timing(scores=99.0, everything=99.0, scores_limit=None, everything_limit=None).within


def test_a_promise_that_is_not_kept_is_said():
    assert promise(found=0.128).kept
    assert not promise(found=0.13).kept
    assert not promise(delta=None, deviation=0.001, found=0.054).kept
    assert "not kept" in worth_it(measured(promises=[promise(found=0.13)]))


def test_stored_figures_are_those_of_what_is_promised():
    """What the page shows was measured on this machine or that, but always the same sizes and goals."""
    found = own_speed.stored(bench.folder())
    assert found is not None
    assert [(each.samples, each.exits, each.classes, each.mapped) for each in found.timings] == [
        (*bench_logits.SIZE, False),
        (*bench_logits.LARGE, True),
    ]
    assert [(each.draws, each.risk, each.delta) for each in found.promises] == [
        (promises.TIMES, promises.RISK, promises.DELTA),
        (promises.TIMES, promises.RISK, None),
    ]
    assert all(each.kept for each in found.promises)


def test_damaged_figures_are_told_and_the_page_is_built(monkeypatch, tmp_path, capsys):
    own_speed.keep(measured(), tmp_path).write_text("{", encoding="utf-8")
    monkeypatch.setattr(bench, "folder", lambda: tmp_path)
    assert own.measured() is None
    assert "logits.json" in capsys.readouterr().err


def test_a_small_size_is_measured_and_judged():
    held, mapped = bench_logits.held(200, 3, 10), bench_logits.mapped(200, 3, 10)
    assert held.within
    assert (held.mapped, mapped.mapped, mapped.scores_limit) == (False, True, None)
    assert "200 × 3 × 10, float32 in memory" in bench_logits.told(held)
    assert "beyond" not in bench_logits.told(mapped)
