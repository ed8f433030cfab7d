"""The registry: what is listed without importing, and what is told of a method from its source."""

import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint

import click
import pytest

from eelit.cli.command import MethodName
from eelit.cli.run import method_key
from eelit.methods.harness import registry


def test_listing_and_describing_import_no_torch():
    code = (
        "import sys\n"
        "from eelit.methods.harness import registry\n"
        "assert 'zhou2020pabee' in registry.keys()\n"
        "assert registry.describe('zhou2020pabee').deviations\n"
        "assert not {'torch', 'numpy', 'transformers'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_description_of_pabee():
    info = registry.describe("zhou2020pabee")
    assert info.title == "BERT Loses Patience: Fast and Robust Inference with Early Exit (PABEE)."
    assert list(info.sections) == ["Idea", "Model", "Training", "Exit rule", "Skipped", "Deviations"]
    assert len(info.deviations) == 6
    assert info.deviations[4].startswith("Each sample has its own counter.")
    assert "minilm-l6" in info.data
    (rate,) = [setting for setting in info.settings if setting.name == "rate"]
    assert (rate.type, rate.default, rate.meaning) == ("float", "0.0001", "learning rate; the paper: 2e-5")


def test_unknown_method():
    for ask in (registry.get, registry.describe):
        with pytest.raises(registry.UnknownMethod, match="no method is registered under the key 'nobody2000nothing'"):
            ask("nobody2000nothing")


@pytest.fixture
def theirs(monkeypatch, tmp_path):
    """Register methods of other packages, each of which is bad in a way of its own, and one that is good."""
    folder = tmp_path / "their_methods"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "good.py").write_text('"""A Good One (Good)."""\n')
    (folder / "torn.py").write_text("def (:")
    (folder / "binary.py").write_bytes(b"\xff\xfe")
    (tmp_path / "their_angry_package").mkdir()
    (tmp_path / "their_angry_package" / "__init__.py").write_text("1 / 0")
    (tmp_path / "their_leaving_package").mkdir()
    (tmp_path / "their_leaving_package" / "__init__.py").write_text("import sys\nsys.exit(7)\n")
    does = {
        "leaving_at_once": "import os\nos._exit(7)\n",
        "raising": "raise BaseException('no')\n",
        "cancelling": "import asyncio\nraise asyncio.CancelledError\n",
    }
    for name, text in does.items():
        (tmp_path / f"their_{name}_package").mkdir()
        (tmp_path / f"their_{name}_package" / "__init__.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    values = {
        "smith2027Good": "their_methods.good:Good",
        "smith2027module": "their_methods.missing:Lost",
        "smith2027package": "their_missing_package.some.module:Lost",
        "smith2027torn": "their_methods.torn:Torn",
        "smith2027binary": "their_methods.binary:Binary",
        "smith2027angry": "their_angry_package.angry:Angry",
        "smith2027leaving": "their_leaving_package.leaving:Leaving",
        **{f"smith2027{name}": f"their_{name}_package.module:Lost" for name in does},
        "smith2027builtin": "sys:version",
        "smith2027value": "not a value",
    }
    points = {name: EntryPoint(name, value, registry.GROUP) for name, value in values.items()}
    monkeypatch.setattr(registry, "_theirs", lambda: points)
    yield sorted(set(values) - {"smith2027Good"})
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def test_a_bad_method_of_another_package_hides_no_other(theirs):
    found, broken = registry.described()
    assert {"zhou2020pabee", "smith2027Good"} <= {info.key for info in found}
    assert len(found) + len(broken) == len(registry.keys())
    said = [str(fault) for fault in broken]
    assert all(any(f"the method `{key}`" in line for line in said) for key in theirs)
    assert all("mend or remove another package" in line and "\n" not in line for line in said)


def test_a_method_under_one_of_our_keys_is_left_out_and_told(monkeypatch):
    point = EntryPoint("zhou2020pabee", "their_methods.other:Other", registry.GROUP)
    monkeypatch.setattr(registry, "_theirs", lambda: {point.name: point})
    found, (fault,) = registry.described()
    assert [info.key for info in found] == registry.keys()
    assert "`zhou2020pabee`" in str(fault)
    assert "offer it under another" in str(fault)


@pytest.mark.parametrize(
    "key",
    [
        *("smith2027module", "smith2027package", "smith2027torn", "smith2027angry", "smith2027leaving"),
        *("smith2027leaving_at_once", "smith2027raising", "smith2027cancelling"),
    ],
)
def test_a_bad_method_says_why_when_it_is_asked_for(theirs, key):
    for ask in (registry.get, registry.describe):
        with pytest.raises(registry.BrokenMethod, match=f"the method `{key}`, which another package offers as `their_"):
            ask(key)


def test_an_own_method_that_cannot_be_read_hides_no_other(monkeypatch, tmp_path):
    torn = tmp_path / "smith2027torn.py"
    torn.write_text("def (:")
    own = registry._own()
    monkeypatch.setattr(registry, "_own", lambda: own | {"smith2027torn": torn})
    found, (fault,) = registry.described()
    assert len(found) == len(own)
    assert str(fault).endswith(f"; mend {torn}")
    assert "SyntaxError" in str(fault)


def test_methods_lists_the_others_and_says_what_is_wrong_with_the_bad_ones(theirs, eelit):
    found = eelit("methods", "--format", "keys")
    assert found.exit_code == 0
    assert {"zhou2020pabee", "smith2027Good"} <= set(found.stdout.split())
    assert found.stderr.count("\n") == len(theirs)
    assert "eelit: the method `smith2027package`, which another package offers as" in found.stderr


def test_claims_that_leave_the_process_are_the_fault_of_their_package(theirs, monkeypatch):
    point = EntryPoint("smith2027Good", "their_leaving_package.claims:claims", registry.CLAIMS)
    monkeypatch.setattr(registry, "entry_points", lambda **_: [point])
    with pytest.raises(registry.BrokenMethod, match="SystemExit: 7"):
        registry.claims("smith2027Good")


def test_learning_is_found_beside_the_claims():
    assert registry.learning("ju2021dee").__module__ == "eelit.methods.claims.ju2021dee"
    assert registry.learning("zhou2020pabee") is None
    assert registry.learning("smith2027unknown") is None


@pytest.fixture
def talking(monkeypatch, tmp_path):
    """Register a good method and claims in a package that prints when it is imported, past Python too."""
    folder = tmp_path / "their_talking_package"
    folder.mkdir()
    (folder / "__init__.py").write_text("import os\nprint('hello')\nos.write(1, b'from below\\n')\n")
    imports = "from eelit.methods.papers.zhou2020pabee import Pabee"
    (folder / "good.py").write_text(f'"""A Good One (Good)."""\n{imports}\n\n\ndef claims(*_):\n    return []\n')
    monkeypatch.syspath_prepend(tmp_path)
    values = {registry.GROUP: "their_talking_package.good:Pabee", registry.CLAIMS: "their_talking_package.good:claims"}
    points = {group: EntryPoint("smith2027talking", value, group) for group, value in values.items()}
    monkeypatch.setattr(registry, "_theirs", lambda: {"smith2027talking": points[registry.GROUP]})
    monkeypatch.setattr(registry, "entry_points", lambda group, **_: [points[group]])
    yield "smith2027talking"
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


@pytest.mark.parametrize("ask", ["get", "describe", "claims"])
def test_what_a_package_prints_when_it_is_imported_never_stands_on_stdout(talking, capfd, ask):
    print("before")
    assert getattr(registry, ask)(talking)
    print("after")
    told = capfd.readouterr()
    assert told.out == "before\nafter\n"
    assert sorted(told.err.split("\n")) == ["", "from below", "hello"]


def test_a_list_for_programs_is_one_document_whatever_packages_print(talking, eelit, capfd):
    found = eelit("methods", "--format", "json")
    assert talking in {each["key"] for each in json.loads(found.stdout)}
    assert "hello\n" in found.stderr
    assert "from below\n" in capfd.readouterr().err


def test_an_interruption_while_a_package_is_imported_is_the_users(talking, monkeypatch):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(importlib.util, "find_spec", interrupt)
    exits = os._exit
    with pytest.raises(KeyboardInterrupt):
        registry.describe(talking)
    assert os._exit is exits


@pytest.mark.parametrize("name", ["smith2027good", "SMITH2027GOOD", "smith2027Good"])
def test_keys_of_other_packages_are_found_in_any_case(theirs, name):
    assert registry.resolve(name) == "smith2027Good"
    assert method_key(name) == "smith2027Good"
    assert registry.resolve("nobody2000nothing") is None


def test_a_bad_method_that_is_run_is_one_sentence(theirs, eelit):
    found = eelit("run", "SMITH2027torn")
    assert found.exit_code == 4
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("eelit: the method `smith2027torn`, which another package offers")


def test_the_shell_completes_what_runs_and_nothing_else(theirs, methodless, eelit, monkeypatch):
    assert eelit("build").exit_code == 0

    def complete(start):
        context = click.Context(click.Command("run"))
        return [item.value for item in MethodName().shell_complete(context, click.Argument(["method"]), start)]

    assert complete("SMITH2027g") == ["smith2027Good"]
    assert complete("pab") == ["PABEE"]
    assert complete("zhou2020p") == ["zhou2020pabee"]
    assert complete("doe") == complete("Plain") == []  # in the catalogue, but without a method
    monkeypatch.setenv("EELIT_DB", "/nowhere/none.sqlite")
    assert complete("zhou2020p") == ["zhou2020pabee"]


def test_what_a_method_needs_is_told_where_its_family_says_it_too():
    every = registry.keys()
    for key in every:
        assert set(registry.describe(key).data) >= set(registry.get(key).data), key
    assert registry.describe("kaya2019sdn").data == ["fashion-mnist"]
