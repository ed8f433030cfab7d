"""The command line starts fast: at most 8 times as long as Python alone; `make bench` measures it more thoroughly."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path

import pytest

LIMIT = 8.0


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_startup", Path(__file__).with_name("bench_startup.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_real_catalogue(bench, database):
    assert bench.multiple(database, 7)[0] < LIMIT


def test_many_works(bench, tmp_path):
    many = tmp_path / "many.sqlite"
    bench.synthetic(many, 5_000)
    assert bench.multiple(many, 7)[0] < LIMIT
    environment = os.environ | {"EELIT_DB": str(many)}
    words = [*bench.COMMAND, "--format", "json"]
    found = json.loads(subprocess.run(words, env=environment, capture_output=True, check=True).stdout)
    assert len(found["works"]) == 50
    assert found["total"] == found["counts"]["policy"]["patience"] > 100
