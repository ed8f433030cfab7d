"""The tool that tries tests by mistakes in the code: on a toy module with a test that sees one mistake of two."""

import ast
import importlib.util
import inspect
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import mutants
import pytest
from mutants import Clean, Fate, Importer, Mutant, own_cache, sample, tried
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
    return {m.told(TOY).partition(" → ")[2] for m in mutations(TOY, {name}, known)}


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


def fates(toy, folder, look):
    """Try all mutants in children."""

    def try_one(mutant, place):
        sys.meta_path.insert(0, Importer(mutant))
        import toy_to_mutate

        return Fate("killed" if look(toy_to_mutate) else "survived")

    found = dict(tried(toy, try_one, folder, jobs=2, seconds=20))
    assert "toy_to_mutate" not in sys.modules
    return {toy[i].mutation.told(toy[i].path.read_text()).partition(" → ")[2]: fate.fate for i, fate in found.items()}


def test_one_mistake_is_seen_and_another_is_not(toy, tmp_path):
    before = toy[0].path.read_text()
    assert fates(toy, tmp_path, lambda module: (module.most(1, 2), module.twice(2)) != (2, 4)) == {
        "return a if a > b else b": "survived",  # nothing shows it
        "return a if not (a >= b) else b": "killed",
        "return a / 2": "killed",
        "return a * 3": "killed",
    }
    assert toy[0].path.read_text() == before
    assert not list(tmp_path.glob("__pycache__/toy*"))


def test_a_mutant_shows_its_own_source(toy, tmp_path):
    """Trained weights are named by it."""
    assert set(fates(toy, tmp_path, lambda module: "return a * 2" not in inspect.getsource(module.twice)).values()) == {
        "survived",
        "killed",
    }


NAMED = {  # what is mistaken → whether the name of the trained weights tells
    "return flat.reshape(exits, n).sum(dim=1)": True,  # the loss
    "lambda index, x: ((exit_losses(model(x), data.train.targets[index]))).sum(),": True,  # what is minimised
    "w = None": False,  # what that closes over, see `own_cache`
}


def test_a_mutated_loss_gives_trained_weights_another_name(tmp_path):
    spec = importlib.util.find_spec("eelit.methods.recipes.joint")
    path = Path(spec.origin)
    text = path.read_text(encoding="utf-8")
    w = text.encode().index(b"torch.tensor(weights)")
    found = [*mutations(text), Mutation(w, w + len("torch.tensor(weights)"), "None", 1, 1, 1, "")]
    chosen = [m for m in found if m.told(text).partition(" → ")[2] in NAMED]
    assert len(chosen) == len(NAMED)

    def name(mutant, place):
        for module in [module for module in sys.modules if module.startswith("eelit")]:
            del sys.modules[module]
        sys.meta_path.insert(0, Importer(mutant))
        import torch

        from eelit.methods.engine.method import Bench
        from eelit.methods.recipes import joint

        joint.fit = print
        model, data = (
            torch.nn.ModuleDict({"heads": torch.nn.Linear(1, 1, bias=False)}),
            SimpleNamespace(digest="", train=[]),
        )
        model.heads.weight.data.zero_()
        joint.train_joint(model, data, Bench(cache=place), weights=[1.0])
        return Fate(next((place / "weights").glob("*.safetensors")).name)

    mutants = [Mutant(spec.name, path, 0, m) for m in (Mutation(0, 0, "", 1, 1, 1, ""), *chosen)]
    names = {i: fate.fate for i, fate in tried(mutants, name, tmp_path, jobs=2, seconds=60)}
    assert {m.told(text).partition(" → ")[2]: names[i] != names[0] for i, m in enumerate(chosen, 1)} == NAMED


def test_a_mutant_has_the_weights_of_the_clean_run_unless_it_may_train_otherwise(toy, tmp_path):
    (tmp_path / "clean" / "weights").mkdir(parents=True)
    (tmp_path / "clean" / "weights" / "a.safetensors").touch()
    for line in (1, 2):
        folder = own_cache(toy[0], Clean(set(), {(str(toy[0].path), line)}, [], set()), tmp_path)
        assert bool([*folder.rglob("*.safetensors")]) is (line == 1)
        shutil.rmtree(folder)
    assert own_cache(toy[0], Clean(set(), set(), [], set()), tmp_path) != own_cache(
        toy[1], Clean(set(), set(), [], set()), tmp_path
    )


def test_a_mutant_that_hangs_or_crashes_does_not_hold_up_the_others(toy, tmp_path, monkeypatch):
    def try_one(mutant, place):
        while mutant is toy[0]:
            pass
        raise ValueError

    found = dict(tried(toy[:2], try_one, tmp_path, jobs=2, seconds=0.5))
    assert [found[i].fate for i in range(2)] == ["timed out", "crashed"]


def test_two_thirds_of_a_sample_are_the_methods_own_and_it_is_always_the_same():
    every = [Mutant(f"m{tier}", Path(f"/m{tier}.py"), tier, m) for tier in range(3) for m in mutations(TOY)]
    chosen = sample(every, 9, seed=1)
    assert [m.tier for m in chosen] == [0] * 6 + [1] * 3
    assert chosen == sample(every, 9, seed=1) != sample(every, 9, seed=2)
    assert len({m.place for m in chosen if m.tier == 0}) == 5  # all lines, before a third mistake in one
    assert len(sample(every, 1000, seed=1)) == len(every)
    assert [m.tier for m in sample([m for m in every if m.tier != 1], 9, seed=1)] == [0] * 6 + [2] * 3


def test_unknown_key_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mutants.py", "nobody2030nothing"])
    assert mutants.main() == 2
    assert capsys.readouterr().err.count("\n") == 1
