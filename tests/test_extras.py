"""What says which extra of the package is missing: one sentence, the exit code of wrong usage, nothing half done."""

import os

import pytest

from eelit.catalog import extras
from eelit.catalog.faults import USAGE


@pytest.fixture
def lacking(monkeypatch):
    """Return a function that makes packages look as if they were not installed."""
    find = extras.find_spec

    def lack(*names):
        monkeypatch.setattr(extras, "find_spec", lambda name: None if name in names else find(name))

    return lack


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (("scipy",), "scipy is needed for this and not installed: pip install 'eelit[run]'"),
        (("scipy", "torch"), "torch and scipy are needed"),
        (("scipy", "torch", "PIL"), "torch, PIL and scipy are needed"),
        (("scipy", "torch", "PIL", "rdata"), "torch, PIL, rdata and 1 more package are needed"),
        (("scipy", "torch", "PIL", "rdata", "simpy"), "torch, PIL, rdata and 2 more packages are needed"),
    ],
)
def test_the_sentence_names_what_is_missing_and_the_extra(lacking, names, said):
    lacking(*names)
    with pytest.raises(extras.Missing) as raised:
        extras.demand("run")
    assert str(raised.value).startswith(said)
    assert raised.value.code == USAGE


def test_only_what_is_asked_for_is_demanded(lacking):
    lacking("mkdocs")
    extras.demand("run")
    extras.demand("site", "pybtex", "yaml")
    with pytest.raises(extras.Missing, match=r"^mkdocs is needed"):
        extras.demand("site")


@pytest.mark.parametrize(
    ("module", "gone", "extra"),
    [
        ("torch.nn", "torch", "run"),
        ("torch", "torch", "run"),
        ("scipy.sparse", "scipy", "measures"),
        ("matplotlib", "matplotlib", "plot"),
        ("pybtex.database", "pybtex", "site"),
        ("ruamel.yaml", "ruamel.yaml", "site"),
        ("torch.no_such_part", "", ""),  # torch is there: that is a fault, and no missing package
        ("torchvision", "torchvision", ""),  # none of ours
        (None, "", ""),
    ],
)
def test_an_import_that_fails_is_told_from_a_fault(lacking, module, gone, extra):
    lacking(gone)
    found = extras.missing(ModuleNotFoundError("No module", name=module))
    assert (found is not None) == bool(extra)
    if found is not None:
        assert str(found) == f"{gone} is needed for this and not installed: pip install 'eelit[{extra}]'"


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        *((words, "run") for words in (["run", "pabee"], ["smoke"], ["bench"])),
        *(
            (words, "site")
            for words in (["check"], ["build"], ["add", "10.1/2"], ["sync"], ["doctor"], ["new", "a2027b"])
        ),
        *((["site", *words], "site") for words in (["build"], ["serve"], ["bundle"])),
        (["mcp"], "mcp"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else value,
)
def test_a_command_says_so_before_it_does_anything(eelit, database, lacking, monkeypatch, tmp_path, words, extra):
    monkeypatch.setenv("EELIT_DB", str(database))
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    lacking("joblib", "pydantic")  # which all three extras bring
    found = eelit(*words)
    assert (found.exit_code, found.stdout) == (USAGE, "")
    assert found.stderr.endswith(f"are needed for this and not installed: pip install 'eelit[{extra}]'\n")
    assert found.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_package_missing_in_the_middle_is_no_failed_run(eelit, database, lacking, monkeypatch):
    def measure(*_):
        raise ModuleNotFoundError("No module named 'scipy'", name="scipy")

    monkeypatch.setenv("EELIT_DB", str(database))
    monkeypatch.setattr("eelit.bib.measures.measures", measure)
    broken = eelit("graph", "--measures")
    assert broken.exit_code == 4  # scipy is installed: a fault of ours
    lacking("scipy")
    found = eelit("graph", "--measures")
    assert found.exit_code == USAGE
    assert found.stderr == "eelit: scipy is needed for this and not installed: pip install 'eelit[measures]'\n"


def test_a_picture_is_refused_before_anything_is_computed(eelit, lacking, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    lacking("matplotlib")
    found = eelit("compare", "--logits", "none.npz", "--out", "report.html")
    assert found.exit_code == USAGE
    assert found.stderr == "eelit: matplotlib is needed for this and not installed: pip install 'eelit[plot]'\n"


def test_a_checkout_that_cannot_be_built_here_goes_on_with_what_was_built(tree, eelit, lacking, capfd):
    lacking("sqlmodel")
    gone = "no new one is built: sqlmodel is needed for this and not installed: pip install 'eelit[site]'\n"
    found = eelit("find", "--limit", "1")
    assert found.exit_code == USAGE
    assert found.stdout == ""
    assert found.stderr == f"eelit: there is no catalogue yet; {gone}"
    lacking()
    assert eelit("find", "--limit", "1").exit_code == 0
    os.utime(tree / "bib" / "early-exit.bib")
    lacking("sqlmodel")
    capfd.readouterr()
    found = eelit("find", "--limit", "1", "--format", "keys")
    assert found.exit_code == 0
    assert found.stdout.count("\n") == 1
    assert found.stderr.startswith(
        f"eelit: the catalogue is older than its sources; {gone}"
        "eelit: going on with the catalogue as it was built before\n"
    )
