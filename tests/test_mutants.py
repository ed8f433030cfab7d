"""The tool that tries tests by mistakes in the code: on a toy module with a test that sees one mistake of two."""

import argparse
import ast
import importlib
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import mutants
import pytest
import torch
from mutants import (
    Clean,
    Fate,
    Importer,
    Mutant,
    behind,
    clean_run,
    local_imports,
    mutated,
    named_after,
    own_cache,
    possible,
    sample,
    traced,
    tried,
)
from mutations import Mutation, mutations, signatures

TOY = '''
"""A toy."""

LIMIT = 3


class Toy:
    share: float = 0.5  # a setting

    def near(self, x: int, bench) -> bool:
        """Text stays: 1 < 2."""
        bench.progress("at 0", 0.5)
        if x > 7:
            raise ValueError(f"{x + 1} is too much")
        return self.share * x <= LIMIT

    def claims(self) -> bool:
        return 1 < 2


def loss(outputs, data):
    seen = (outputs - 1).detach()
    return seen[0] + (data).train.size(dim=1)


def close(outputs, data):
    return where(loss(outputs, data), near(1, outputs, bench=data, far=True), 0)
'''


def told(name, known=None):
    return {m.change.partition(" → ")[2] for m in mutations(TOY, {name}, known)}


def test_mistakes_are_those_that_reviewers_fear():
    assert told("loss") == {
        "seen = (outputs - 1)",
        "seen = (outputs + 1).detach()",
        "seen = (outputs - 0).detach()",
        "return seen[-1] + (data).train.size(dim=1)",
        "return seen[0] - (data).train.size(dim=1)",
        "return (seen[0])",
        "return seen[0] + (data).validation.size(dim=1)",
        "return seen[0] + (data).train.size()",
        "return seen[0] + (data).train.size(dim=0)",
    }


def test_what_a_type_checker_reports_is_left_to_it():
    typed = ast.parse("def loss(outputs: Tensor, data: Data): ...\ndef near(x: int, y: int, *, bench, far=False): ...")
    everything = {
        "return where(loss(outputs, data), 0, near(1, outputs, bench=data, far=True))",
        "return where(loss(data, outputs), near(1, outputs, bench=data, far=True), 0)",
        "return where(loss(outputs, data), near(outputs, 1, bench=data, far=True), 0)",
        "return where(loss(outputs, data), near(0, outputs, bench=data, far=True), 0)",
        "return where(loss(outputs, data), near(1, outputs, far=True), 0)",
        "return where(loss(outputs, data), near(1, outputs, bench=data), 0)",
        "return where(loss(outputs, data), near(1, outputs, bench=data, far=False), 0)",
        "return where(loss(outputs, data), near(1, outputs, bench=data, far=True), 1)",
    }
    assert told("close") == everything
    assert everything - told("close", signatures([typed])) == {
        "return where(loss(data, outputs), near(1, outputs, bench=data, far=True), 0)",
        "return where(loss(outputs, data), near(1, outputs, far=True), 0)",
    }


def test_messages_claims_docstrings_and_defaults_stay():
    assert told("Toy") == {
        "if x >= 7:",
        "if x > 8:",
        "return self.share * x < LIMIT",
        "return self.share / x <= LIMIT",
        "return (x) <= LIMIT",
        "return (0.5) * x <= LIMIT",
    }


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Return the mutants of a toy module that can be imported."""
    path = tmp_path / "toy_to_mutate.py"
    path.write_text(
        "def most(a, b):\n    return a if a >= b else b\n\n\ndef twice(a):\n    return a * 2\n", encoding="utf-8"
    )
    monkeypatch.syspath_prepend(tmp_path)
    return [Mutant("toy_to_mutate", path, 0, m) for m in mutations(path.read_text(encoding="utf-8"))]


def in_children(mutants, folder, name, look):
    """Return what the look says of each mutant's module, each in a child of its own."""

    def work(mutant):
        def looked(place):
            for module in [module for module in sys.modules if module.partition(".")[0] == "eelit"]:
                del sys.modules[module]
            sys.meta_path.insert(0, Importer(mutant))
            return Fate(str(look(importlib.import_module(name), place)))

        return looked

    found = dict(tried([work(mutant) for mutant in mutants], folder / "children", 2, 60))
    assert not [fate.output for fate in found.values() if fate.fate == "crashed"]
    return {after(mutant): found[i].fate for i, mutant in enumerate(mutants)}


def after(mutant):
    return mutant.mutation.change.partition(" → ")[2]


def test_one_mistake_is_seen_and_another_is_not(toy, tmp_path):
    before = toy[0].path.read_text()

    def right(module, _):
        return (module.most(1, 2), module.twice(2)) == (2, 4)

    assert in_children(toy, tmp_path, "toy_to_mutate", right) == {
        "return a if a > b else b": "True",  # nothing shows it
        "return a if not (a >= b) else b": "False",
        "return a / 2": "False",
        "return a * 3": "False",
    }
    assert toy[0].path.read_text() == before
    assert "toy_to_mutate" not in sys.modules
    assert not list(tmp_path.glob("__pycache__/toy*"))


def test_a_mutant_shows_its_own_source(toy, tmp_path):
    shown = in_children(toy, tmp_path, "toy_to_mutate", lambda module, _: inspect.getsource(module))
    assert all(mistake in source for mistake, source in shown.items())


RECIPE = """
from eelit.methods.engine.weights import trained


def loss(x):
    return x.sum()


def train_toy(model, bench, weight):
    w = weight * 3

    def train():
        loss(model.weight) + w

    trained(model, train, bench, data="", settings={})
"""
NAMED = {  # what is mistaken → whether the name of the trained weights tells
    "": False,
    "return x.mean()": True,  # the loss
    "loss(model.weight) - w": True,  # what is minimised
    "w = weight * 4": True,  # what that closes over
}


def named(recipe, place):
    """Return the name of the weights that the recipe leaves in the cache."""
    from eelit.methods.engine.method import Bench

    model = torch.nn.Linear(1, 1, bias=False)
    model.weight.data.zero_()
    recipe.train_toy(model, Bench(cache=place), 2)
    return next((place / "weights").glob("*.kept")).name


def test_a_mutated_loss_gives_trained_weights_another_name(tmp_path, monkeypatch):
    path = tmp_path / "recipe_to_mutate.py"
    path.write_text(RECIPE, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    every = [Mutant(path.stem, path, 0, m) for m in (Mutation(0, 0, "", 1, (1, 1), "", ""), *mutations(RECIPE))]
    names = in_children([mutant for mutant in every if after(mutant) in NAMED], tmp_path, path.stem, named)
    assert {mistake: name != names[""] for mistake, name in names.items()} == NAMED


def test_a_mutant_has_the_weights_of_the_clean_run_unless_it_may_train_otherwise(toy, tmp_path):
    (tmp_path / "clean" / "weights").mkdir(parents=True)
    (tmp_path / "clean" / "weights" / "a.safetensors").touch()
    for line in (1, 2):
        folder = own_cache(toy[0], Clean(preparing={(str(toy[0].path), line)}), tmp_path)
        assert bool([*folder.rglob("*.safetensors")]) is (line == 1)
        shutil.rmtree(folder)
    assert own_cache(toy[0], Clean(), tmp_path) != own_cache(toy[1], Clean(), tmp_path)


def test_a_mutant_that_hangs_or_crashes_does_not_hold_up_the_others(tmp_path):
    def hangs(place):
        while True:
            pass

    found = dict(tried([hangs, lambda place: 1 / 0, lambda place: Fate("survived")], tmp_path, jobs=2, seconds=0.5))
    assert [found[i].fate for i in range(3)] == ["timed out", "crashed", "survived"]
    assert "ZeroDivisionError" in found[1].output


STOPPED = """
import os, signal, sys, time
from pathlib import Path
import mutants

def works(place):
    os.write(int(sys.argv[2]), b"began")
    time.sleep(10)
    os.write(int(sys.argv[2]), b"ended")

signal.signal(signal.SIGTERM, mutants.stopped)
list(mutants.tried([works], Path(sys.argv[1]), 1, 60))
"""


def test_who_is_stopped_takes_the_children_along(tmp_path):
    seen, said = os.pipe()
    words = [sys.executable, "-c", STOPPED, tmp_path, str(said)]
    process = subprocess.Popen(words, cwd=Path(__file__).parent, pass_fds=[said])
    os.close(said)
    assert os.read(seen, 9) == b"began"
    process.terminate()
    assert process.wait() == 128 + signal.SIGTERM
    assert os.read(seen, 9) == b""  # nobody is left who could say more
    os.close(seen)


def test_only_executed_lines_count_and_training_is_told_apart(monkeypatch, tmp_path):
    source = "def train(x):\n    return used(x)\n\n\ndef used(x):\n    if x:\n        return 1\n    return 2\n"
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    path = str(tmp_path / "methods" / "toy.py")
    code = {}
    exec(compile(source, path, "exec"), code)
    with traced() as clean:
        code["used"](0)
        code["train"](1)
    assert {line for _, line in clean.lines} == {2, 6, 7, 8}
    assert {line for _, line in clean.preparing} == {2, 6, 7}


def test_what_is_shared_is_tried_by_the_tests_named_after_the_module_or_its_room(monkeypatch, tmp_path):
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    for name in ("encoder", "policies", "patience", "other"):
        (tmp_path / "tests" / f"test_{name}.py").touch()

    def names(module):
        return [Path(file).stem for file in named_after(tmp_path / "methods" / f"{module}.py")]

    assert names("backbones/encoder") == ["test_encoder"]
    assert names("policies/patience") == ["test_patience", "test_policies"]
    assert names("policies/entropy") == ["test_policies"]
    assert names("papers/zhou2020pabee") == []


def test_mistakes_are_put_into_the_method_and_the_rooms_that_it_uses():
    places = [path.relative_to(mutants.ROOT / "methods").as_posix() for path in mutated("zhang2022pceebert")]
    assert {"papers/zhang2022pceebert.py", "backbones/encoder.py", "policies/patient_confidence.py"} <= {*places}
    assert {place.partition("/")[0] for place in places} == {"papers", *mutants.ROOMS}
    assert "recipes/fit.py" not in places
    assert {mutant.path for mutant in possible("zhang2022pceebert", set())} <= {*mutated("zhang2022pceebert")}


def test_tests_of_what_is_shared_have_to_pass_but_what_they_execute_is_not_the_methods(monkeypatch, tmp_path):
    from eelit.methods.policies import entropy, patience

    def run(files, *_):
        rule = patience.Patience(0) if files == ["own"] else entropy.Entropy(0.0)
        rule.step((), torch.zeros(1, 2))
        return Fate("survived") if files == ["own"] else Fate("killed", ["shared fails"])

    monkeypatch.setattr(mutants, "run", run)
    clean, fate = clean_run(["own"], [], "zhang2022pceebert", tmp_path, tmp_path)
    assert fate.fate == "survived"
    clean, fate = clean_run(["own"], ["shared"], "zhang2022pceebert", tmp_path, tmp_path)
    assert (fate.fate, fate.by) == ("killed", ["shared fails"])
    files = {path for path, _ in clean.lines}
    assert patience.__file__ in files
    assert entropy.__file__ not in files


def test_two_thirds_of_a_sample_are_the_methods_own_and_it_is_always_the_same():
    every = [Mutant(f"m{tier}", Path(f"/m{tier}.py"), tier, m) for tier in range(3) for m in mutations(TOY)]
    chosen = sample(every, 9, seed=1)
    assert [m.tier for m in chosen] == [0] * 6 + [1] * 3
    assert chosen == sample(every, 9, seed=1) != sample(every, 9, seed=2)
    assert len({m.place for m in chosen if m.tier == 0}) == 5  # all lines, before a third mistake in one
    assert len(sample(every, 1000, seed=1)) == len(every)
    assert set(sample(every[:1] + every[2:], 9, seed=1)) >= set(chosen) - {every[1]}
    assert [m.tier for m in sample([m for m in every if m.tier != 1], 9, seed=1)] == [0] * 6 + [2] * 3


def test_what_decides_is_the_method_its_claims_and_its_tests_and_no_other_paper():
    tests = [mutants.ROOT / "tests" / name for name in ("papers/test_zhang2022pceebert.py", "test_conformance.py")]
    found = {path.relative_to(mutants.ROOT).as_posix() for path in behind("zhang2022pceebert", map(str, tests))}
    assert {
        "methods/papers/zhang2022pceebert.py",
        "methods/claims/zhang2022pceebert.py",
        "methods/backbones/encoder.py",
        "methods/harness/conformance.py",  # by which `test_conformance` judges
        "methods/data/cache.py",
        "tests/papers/test_zhang2022pceebert.py",
        "tests/test_conformance.py",
        "tests/conftest.py",
    } <= found
    assert "methods/papers/moos2023ball.py" not in found
    assert "methods/claims/moos2023ball.py" not in found


def test_modules_beside_the_tests_decide_too(monkeypatch, tmp_path):
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    (tmp_path / "tests").mkdir()
    for name, text in (("test_a", "import b, os"), ("b", "from c.d import e"), ("c", ""), ("other", "import b")):
        (tmp_path / "tests" / f"{name}.py").write_text(text)
    assert {path.stem for path in local_imports([tmp_path / "tests" / "test_a.py"])} == {"test_a", "b", "c"}


@pytest.fixture
def trial(monkeypatch, tmp_path):
    """Return what tries a method in a checkout of two papers, and does something meanwhile; returns the exit code."""
    monkeypatch.setattr(mutants, "ROOT", tmp_path)
    papers = tmp_path / "methods" / "papers"
    papers.mkdir(parents=True)
    own = papers / "ours.py"
    own.write_text("def most(a, b):\n    return a if a >= b else b\n")
    mutant = Mutant("ours", own, 0, mutations(own.read_text())[0])
    clean = Clean(lines=mutant.lines)
    monkeypatch.setattr(mutants, "mutated", lambda _: [own])
    monkeypatch.setattr(mutants, "behind", lambda *_: [own])
    monkeypatch.setattr(mutants, "possible", lambda *_: [mutant])
    monkeypatch.setattr(mutants, "clean_run", lambda *_: (clean, Fate("survived")))

    def run(meanwhile, out=None):
        def tried(*_):
            meanwhile(papers)
            yield 0, Fate("killed", ["a"])

        monkeypatch.setattr(mutants, "tried", tried)
        asked = argparse.Namespace(key="ours", seed=0, n=1, jobs=1, anyway=False, out=out)
        return mutants.on_trial(asked, [], tmp_path / "work")

    return run


def test_another_papers_file_spoils_no_trial(trial, capsys):
    assert trial(lambda papers: (papers / "another.py").write_text("x = 1")) == 0
    said = capsys.readouterr()
    assert said.out.endswith("1 of 1 killed\n")
    assert not said.err


@pytest.mark.parametrize("change", [lambda path: path.write_text("most = max"), Path.unlink], ids=["edited", "gone"])
def test_what_changed_meanwhile_is_told_below_the_table(trial, change, tmp_path, capsys):
    assert trial(lambda papers: change(papers / "ours.py"), tmp_path / "out.json") == mutants.CHANGED == 3
    said = capsys.readouterr()
    assert "killed by a" in said.out
    assert said.out.endswith("1 of 1 killed\n")
    assert said.err == "changed meanwhile, so try again to be sure: methods/papers/ours.py\n"
    assert json.loads((tmp_path / "out.json").read_text())["changed"] == ["methods/papers/ours.py"]


def test_unknown_key_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mutants.py", "nobody2030nothing"])
    assert mutants.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
