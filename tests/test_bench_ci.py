"""What `make bench` says of the cost of a CI run: limits are compared, and a failed run has no figures."""

import sys

import bench_ci
import pytest
from bench_ci import Run


def runs(*codes, smoked=20.0):
    names, limits, cpu = ("smoke tests", "tests of methods", "all other tests"), (15, 6, None), (smoked, 8.0, 30.0)
    return [Run(name, s, 2.0, code, limit) for name, s, code, limit in zip(names, cpu, codes, limits, strict=True)]


def test_a_run_within_the_limits_is_a_table(capsys):
    assert bench_ci.report(runs(0, 0, 0), 2) == 0
    said, wrong = capsys.readouterr()
    lines = [line.split() for line in said.splitlines()]
    assert lines[1] == ["smoke", "tests", "20", "2", "10.0", "15", "800"]
    assert lines[2] == ["tests", "of", "methods", "8", "2", "4.0", "6", "320"]
    assert lines[3] == ["all", "other", "tests", "30", "2", "30"]
    assert said.splitlines()[4].endswith(" 1150, 10 minutes of two cores")
    assert len(lines) == 5
    assert not wrong


@pytest.mark.parametrize(("smoked", "exceeded"), [(30.0, False), (30.2, True)])
def test_a_limit_that_is_exceeded_is_named(smoked, exceeded, capsys):
    assert bench_ci.report(runs(0, 0, 0, smoked=smoked), 2) == 0
    said = "limit exceeded: smoke tests take 15.1 CPU s a method, more than 15"
    assert (said in capsys.readouterr().out.splitlines()) is exceeded


def test_a_failed_run_has_no_figures_and_fails(capsys):
    assert bench_ci.report(runs(0, 3, 0, smoked=40.0), 2) == 1
    said, wrong = capsys.readouterr()
    assert "tests of methods" + " " * 18 + "  failed: ended with 3" in said.splitlines()
    assert "together" not in said  # a sum without it would be too small
    assert "limit exceeded: smoke tests" in said
    assert wrong == "failed, so not measured: tests of methods\n"


@pytest.mark.parametrize("code", [0, 5])
def test_a_command_is_measured_whatever_it_ends_with(code):
    found = bench_ci.run("toy", [sys.executable, "-c", f"sum(range(3 * 10**6)); raise SystemExit({code})"], limit=1)
    assert (found.name, found.code, found.limit) == ("toy", code, 1)
    assert found.cpu > 0
    assert found.clock > 0
