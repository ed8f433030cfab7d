"""Scripts by others that the site serves: whole, as they were published, with their licence."""

import hashlib
import tomllib
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "site" / "theme" / "assets" / "vendor"
SCRIPTS = tomllib.loads((FOLDER / "vendor.toml").read_text(encoding="utf-8"))["script"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script["name"])
def test_a_script_is_the_published_one_and_has_its_licence(script):
    assert hashlib.sha256((FOLDER / script["file"]).read_bytes()).hexdigest() == script["sha256"]
    assert script["file"].startswith(f"{script['name']}-{script['version']}")
    assert script["package"] == f"{script['name']}@{script['version']}"
    licence = (FOLDER / script["licence_file"]).read_text(encoding="utf-8")
    marks = {"MIT": "Permission is hereby granted", "BSD-3-Clause": "Redistribution and use in source and binary forms"}
    assert marks[script["licence"]] in licence


def test_nothing_lies_there_that_is_not_listed():
    listed = {name for script in SCRIPTS for name in (script["file"], script["licence_file"])} | {"vendor.toml"}
    assert {path.name for path in FOLDER.iterdir()} == listed
