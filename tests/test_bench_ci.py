"""What `make bench` says of the cost of a CI run: all its steps, limits compared, and no figures of a failed step."""

import re
import sys
from pathlib import Path

import bench_ci
import pytest
from bench_ci import ROOT, STEPS, Run, Step


def runs(*codes, smoked=20.0):
    """Four steps of a run with as many methods as are said to `report`: two in each command."""
    steps = [
        Step("site", "eelit smoke", name="smoke tests", limit=15),
        Step("site", "eelit site build"),
        Step("test", "mypy"),
        Step("test", "pytest", name="tests of methods", limit=6),
    ]
    return [Run(step, cpu, 2.0, code) for step, cpu, code in zip(steps, (smoked, 30.0, 5.0, 8.0), codes, strict=True)]


def rows(said):
    """Return the words of each line."""
    return [line.split() for line in said.splitlines()]


def test_a_run_within_the_limits_is_a_table_with_all_totals(capsys):
    """With 2 methods; what does not grow in proportion comes to at most 40 times as much with 80, at least as now."""
    assert bench_ci.report(runs(0, 0, 0, 0), 2) == 0
    said, wrong = capsys.readouterr()
    assert rows(said)[1:] == [
        ["make", "site"],
        ["smoke", "tests", "20", "2.0", "10.0", "15", "800"],
        ["eelit", "site", "build", "30", "2.0", "30", "to", "1200"],
        ["together", "50", "4.0", "830", "to", "2000"],
        ["make", "test"],
        ["mypy", "5.0", "2.0", "5.0", "to", "200"],
        ["tests", "of", "methods", "8.0", "2.0", "4.0", "6", "320"],
        ["together", "13", "4.0", "325", "to", "520"],
        ["both", "63", "8.0", "1155", "to", "2520,", "at", "most", "21", "minutes", "of", "two", "cores"],
    ]
    assert not wrong


def test_with_eighty_methods_it_comes_to_what_it_costs(capsys):
    bench_ci.report(runs(0, 0, 0, 0), 80)
    assert ["both", "63", "8.0", "63,", "at", "most", "1", "minutes", "of", "two", "cores"] in rows(
        capsys.readouterr().out
    )


def test_with_more_methods_than_eighty_it_comes_to_less(capsys):
    bench_ci.report(runs(0, 0, 0, 0), 160)
    said = rows(capsys.readouterr().out)
    assert ["eelit", "site", "build", "30", "2.0", "15", "to", "30"] in said
    assert ["smoke", "tests", "20", "2.0", "0.1", "15", "10"] in said


@pytest.mark.parametrize(("smoked", "exceeded"), [(30.0, False), (30.2, True)])
def test_a_limit_that_is_exceeded_is_named(smoked, exceeded, capsys):
    assert bench_ci.report(runs(0, 0, 0, 0, smoked=smoked), 2) == 0
    said = "limit exceeded: smoke tests: 15.1 CPU s a method, more than 15"
    assert (said in capsys.readouterr().out.splitlines()) is exceeded


def test_a_failed_step_has_no_figures_and_fails(capsys):
    assert bench_ci.report(runs(0, 0, 3, 0, smoked=40.0), 2) == 1
    said, wrong = capsys.readouterr()
    assert "  mypy" + " " * 28 + "  failed: ended with 3" in said.splitlines()
    assert [row[:2] for row in rows(said) if row[0] in ("together", "both")] == [["together", "70"]]  # that of the site
    assert "limit exceeded: smoke tests" in said
    assert wrong == "failed, so not measured: mypy\n"


@pytest.mark.parametrize("target", ["site", "test"])
def test_the_steps_are_those_of_the_makefile(target):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    recipe = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", text, re.MULTILINE)[1]
    commands = re.findall(r"\$\(BIN\)/(.*?)\s*(?:;|&&|\n)", recipe)
    assert commands == list(dict.fromkeys(step.command for step in STEPS if step.target == target))


def test_every_test_is_run_once():
    """The tests of methods are run apart, and left out of the others."""
    methods, others = (set(step.more) - {"-q"} for step in STEPS if "pytest" in step.command)
    assert {f"--ignore={path}" for path in methods} == others
    assert methods
    assert all((ROOT / path).exists() for path in methods)


@pytest.mark.parametrize("code", [0, 5])
def test_a_command_is_measured_whatever_it_ends_with(code):
    step = Step("test", Path(sys.executable).name, ("-c", f"sum(range(3 * 10**6)); raise SystemExit({code})"))
    found = bench_ci.run(step)
    assert (found.step, found.code) == (step, code)
    assert found.cpu > 0
    assert found.clock > 0


def test_the_site_is_made_with_a_cache_of_data_alone(monkeypatch, tmp_path):
    """Weights and reports of earlier runs are not there; the tests have caches of their own."""
    for part in ("data", "weights", "smoke"):
        (tmp_path / part).mkdir()
    told = []

    def run(step, **environment):
        cache = environment.get("EELIT_CACHE")
        told.append((step.target, cache and {path.name for path in Path(cache).iterdir()}))

    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    monkeypatch.setattr(bench_ci, "run", run)
    bench_ci.measured()
    assert told == [(step.target, {"data"} if step.target == "site" else None) for step in STEPS]
