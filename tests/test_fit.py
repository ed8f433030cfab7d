"""The cache of trained weights knows what a training depends on."""

import importlib.util
import math
import os
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import lru_cache, partial, wraps
from importlib.metadata import EntryPoint
from typing import ClassVar, NamedTuple

import click
import numpy as np
import pytest
import requests
import torch
from safetensors.torch import load, save
from torch import nn

from eelit.methods import GROUP
from eelit.methods.data.cache import keep, kept
from eelit.methods.engine import content_hash
from eelit.methods.engine.content_hash import Contents
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Effort
from eelit.methods.engine.weights import reached, sources_of, trained
from eelit.methods.harness import runner
from eelit.methods.papers.zhu2021leebert import LeeBert
from eelit.methods.recipes.fit import fit
from eelit.methods.recipes.joint import train_joint
from eelit.methods.recipes.two_stage import train_heads


def halve(x):
    return x / 2


def loss(x):
    def inner():
        return halve(x)

    return inner()


def idle(x):
    return x


class Layer(nn.Linear):
    def forward(self, x):
        return loss(super().forward(x))


def closed_over(function):
    def inner(x):
        return function(x)

    return inner


def names(things):
    found = [re.search(r"^(?:def|class) (\w+)", source, re.MULTILINE) for source in sources_of(things)]
    return {match[1] for match in found if match}


def test_what_a_function_uses_counts_however_deep():
    assert names([loss]) == {"loss", "halve"}
    assert names([Layer]) == {"Layer", "loss", "halve"}
    assert "halve" in names([closed_over(halve)])
    assert "idle" not in names([closed_over(loss)])


def test_equal_code_in_two_files_is_read_in_each(tmp_path):
    found = []
    for said in ("one", "two"):
        path = tmp_path / f"{said}.py"
        path.write_text(f"def f(x):\n    return x  # {said}\n")
        spec = importlib.util.spec_from_file_location(said, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append(module.f)
    assert found[0].__code__ == found[1].__code__
    assert [sources_of([f]) for f in found] == [[f"def f(x):\n    return x  # {said}\n"] for said in ("one", "two")]
    assert names([torch.inference_mode()(loss)]) == {"loss", "halve"}, "what is decorated is read as it was"


def test_the_loss_that_one_recipe_takes_from_another_counts():
    assert {"exit_losses", "fit", "frozen_states"} <= names([train_heads])


def test_a_number_at_the_top_of_a_module_counts():
    assert "REACH = 0.01" in sources_of([LeeBert.train])
    assert "READ = 64" in sources_of([train_heads])


def test_libraries_do_not_count():
    assert names([nn.Linear, torch.nn.functional.relu, sorted]) == set()


def train_once(tmp_path, made, seed=0, **settings):
    """Return whether weights came from the cache."""
    model, bench = Layer(2, 2), Bench(seed=seed, cache=tmp_path)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)

    def train():
        nn.init.constant_(model.weight, made)

    trained(model, train, bench, data="none", settings=settings)
    assert model.weight.unique().tolist() == [made]
    return bench.prepared_from_cache


def test_weights_are_kept_by_seed_and_settings_and_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    assert not train_once(tmp_path, 3.0)
    monkeypatch.setattr("eelit.methods.engine.weights.FileLock", None)  # a known outcome needs no lock
    assert train_once(tmp_path, 3.0)
    monkeypatch.undo()
    assert not train_once(tmp_path, 3.0, seed=1)
    assert not train_once(tmp_path, 3.0, rate=1.0)


def test_weights_are_kept_by_what_the_layers_were_told(tmp_path):
    """Two layers that differ in a number alone, not in a weight, are not trained alike."""
    known = []
    for probability in (0.1, 0.5, 0.1):
        bench = Bench(cache=tmp_path)
        layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(probability))
        nn.init.ones_(layer[0].weight)
        nn.init.zeros_(layer[0].bias)
        trained(layer, lambda: None, bench, data="none", settings={})
        known.append(bench.prepared_from_cache)
    assert known == [False, False, True]


def flipped(content):
    """Return the content with the highest bit of the last number's exponent flipped: a weight of 3 becomes huge."""
    return content[:-1] + bytes([content[-1] ^ 0x40])


@pytest.mark.parametrize("damage", [flipped, lambda content: content[:20], lambda content: content[:-4], lambda _: b""])
def test_damaged_weights_are_trained_anew_and_said_to_be(tmp_path, capsys, damage):
    train_once(tmp_path, 3.0)
    (kept,) = (tmp_path / "weights").glob("*.kept")
    kept.write_bytes(damage(kept.read_bytes()))
    assert not train_once(tmp_path, 3.0)
    said = capsys.readouterr().err
    assert f"{kept} is damaged" in said
    assert said.count("\n") == 1
    assert train_once(tmp_path, 3.0)


def jointly(cache, labels=(0, 1, 0, 1), weights=(1.0, 2.0)):
    """Train two exits on four samples, whose digest is always said to be the same; return whether that was known."""
    torch.manual_seed(0)
    model = MultiExit([nn.Linear(3, 3), nn.Linear(3, 3)], [nn.Linear(3, 2), nn.Linear(3, 2)])
    part, bench = Examples([torch.eye(3)[i % 3] for i in range(4)], torch.tensor(labels)), Bench(cache=cache)
    data = Data(part, part, part, 2, "always the same").without_test()
    train_joint(model, data, bench, weights=weights, epochs=1.0, batch=2, rate=0.1)
    return bench.prepared_from_cache


def test_other_labels_under_the_same_digest_are_another_training(tmp_path):
    assert not jointly(tmp_path)
    assert jointly(tmp_path)
    assert not jointly(tmp_path, labels=(0, 1, 1, 1))


@dataclass(frozen=True)
class Recipe:
    """Settings of which a training reads one."""

    rate: float = 0.1
    knob: float = 0.5

    def doubled(self):
        return 2 * self.rate


def closing_over(cache, value, read=lambda value: value):
    """Train with something that only the enclosing function knows; return whether the outcome was known."""
    model, bench = Layer(2, 2), Bench(cache=cache)
    nn.init.ones_(model.weight)
    nn.init.zeros_(model.bias)

    def train():
        read(value)

    trained(model, train, bench, data="none", settings={})
    return bench.prepared_from_cache


def generator(seed):
    return torch.Generator().manual_seed(seed)


def scaled(by):
    return lambda x: by * x


UNLIKE = {
    "number": (2, 3),
    "truth": (1, True),
    "text": ("a", "b"),
    "tensor": (torch.ones(2), torch.tensor([1.0, 2.0])),
    "shape": (torch.ones(4), torch.ones(2, 2)),
    "half": (torch.ones(2).bfloat16(), torch.zeros(2).bfloat16()),
    "array": (np.arange(3), np.arange(3)[::-1]),
    "list": ([1, [2, 3]], [[1, 2], 3]),
    "dictionary": ({"a": 1}, {"a": 2}),
    "set": ({1, 2}, {1, 3}),
    "set in code": (lambda x: x in {"a", "b"}, lambda x: x in {"a", "c"}),
    "function": (halve, idle),
    "nameless function": (lambda x: x + 1, lambda x: x + 2),
    "closure": (scaled(2), scaled(3)),
    "partial": (partial(scaled, 2), partial(scaled, 3)),
    "bound method": ([1].append, [2].append),
    "object": (Recipe(rate=0.1), Recipe(rate=0.2)),
    "method": (Recipe(rate=0.1).doubled, Recipe(rate=0.2).doubled),
    "generator": (generator(1), generator(2)),
    "random numbers": (np.random.default_rng(1), np.random.default_rng(2)),
    "layer": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "class": (Layer, nn.Linear),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_what_a_training_closes_over_tells_it_from_another(tmp_path, kind):
    one, other = UNLIKE[kind]
    assert not closing_over(tmp_path, one)
    assert closing_over(tmp_path, one)
    assert not closing_over(tmp_path, other)


def double(module, *given):
    """A hook for any occasion: what it returns takes the place of the last that it is given."""
    return tuple(2 * each for each in given[-1]) if isinstance(given[-1], tuple) else 2 * given[-1]


def same(module, *given):
    return None


HOOKS = (double, same)
HELD = {
    "persistent buffer": lambda part, i: part.register_buffer("held", torch.tensor([i])),
    "buffer that is not persistent": lambda part, i: part.register_buffer("held", torch.tensor([i]), persistent=False),
    "list": lambda part, i: setattr(part, "held", [1.0, i]),
    "tuple": lambda part, i: setattr(part, "held", (1.0, i)),
    "dictionary": lambda part, i: setattr(part, "held", {"rate": [i]}),
    "tensor": lambda part, i: setattr(part, "held", torch.tensor([i])),
    "array": lambda part, i: setattr(part, "held", np.array([i])),
    "function": lambda part, i: setattr(part, "held", (halve, idle)[i]),
    "closure": lambda part, i: setattr(part, "held", scaled(i)),
    "object": lambda part, i: setattr(part, "held", Recipe(rate=i)),
    "layer that is no part": lambda part, i: setattr(part, "held", [nn.Dropout(0.1 + i / 2)]),
    "own forward": lambda part, i: setattr(part, "forward", (halve, idle)[i]),
    "hook before": lambda part, i: part.register_forward_pre_hook(HOOKS[i]),
    "hook after": lambda part, i: part.register_forward_hook(HOOKS[i]),
    "hook of gradients before": lambda part, i: part.register_full_backward_pre_hook(HOOKS[i]),
    "hook of gradients": lambda part, i: part.register_full_backward_hook(HOOKS[i]),
    "weight's hook": lambda part, i: part.weight.register_hook(scaled(i)),
    "weight's rate": lambda part, i: setattr(part.weight, "rate", i),
    "weight that learns": lambda part, i: part.weight.requires_grad_(bool(i)),
    "weight in two places": lambda part, i: setattr(part, "held", part.weight if i else nn.Parameter(torch.ones(2, 2))),
}
"""Kind of what hangs on a module, beside its weights → what gives it one or another of that kind."""


def holding(cache, kind, where, i):
    """Train a network that holds something, or a part of it does, or a loss; return whether the outcome was known."""
    model, loss, bench = nn.Sequential(Layer(2, 2), Layer(2, 2)), Layer(2, 2), Bench(cache=cache)
    for weight in [*model.parameters(), *loss.parameters()]:
        nn.init.ones_(weight)
    network = model[0] if where == "network" else model
    HELD[kind]({"network": model[0], "part": model[1], "loss": loss}[where], i)
    trained(network, lambda: loss, bench, data="none", settings={})
    return bench.prepared_from_cache


@pytest.mark.parametrize("where", ["network", "part", "loss"])
@pytest.mark.parametrize("kind", HELD)
def test_whatever_hangs_on_a_module_tells_it_from_another(tmp_path, kind, where):
    assert not holding(tmp_path, kind, where, 0)
    assert holding(tmp_path, kind, where, 0)
    assert not holding(tmp_path, kind, where, 1)


def test_what_hangs_on_a_network_and_cannot_be_told_apart_is_said(tmp_path, capsys):
    for _ in range(2):
        model, bench = nn.Sequential(Layer(2, 2)), Bench(cache=tmp_path)
        model[0].stream = iter([1])
        trained(model, lambda: None, bench, data="none", settings={})
        assert not bench.prepared_from_cache
        assert "the network, stream of 0 (builtins.list_iterator)" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.kept"))


def test_buffers_that_are_not_persistent_come_back_from_the_cache(tmp_path):
    for known in (False, True):
        model, bench = nn.BatchNorm1d(2), Bench(cache=tmp_path)
        model.register_buffer("seen", torch.zeros(2), persistent=False)
        trained(model, lambda model=model: model.seen.add_(3), bench, data="none", settings={})
        assert bench.prepared_from_cache == known
        assert model.seen.tolist() == [3, 3]


def test_a_training_that_changes_more_than_weights_is_not_kept(tmp_path, capsys):
    for _ in range(2):
        model, bench = nn.Sequential(Layer(2, 2)), Bench(cache=tmp_path)
        model[0].factors = [1.0]
        trained(model, lambda model=model: model[0].factors.append(2.0), bench, data="none", settings={})
        assert model[0].factors == [1.0, 2.0]
        assert not bench.prepared_from_cache
        assert "not kept, for it changes what is no weight: factors of 0\n" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.kept"))


FACTORS = {"first": [1.0, 2.0]}
ORDER = (halve, idle)


class Held:
    """A class of which a training reads more than its code says."""

    factors: ClassVar[list[float]] = [1.0]

    @staticmethod
    def still():
        return FACTORS

    @property
    def told(self):
        return FACTORS


def by_name():
    return FACTORS["first"]


def by_class():
    return Held.factors


def by_static_method():
    return Held.still()


def by_property():
    return Held().told


def by_module():
    return here.FACTORS


def by_default(factors=FACTORS):
    return factors


def by_order():
    return ORDER[0]


def times(factors):
    def decorate(function):
        @wraps(function)
        def multiplied():
            return factors["first"][0] * function()

        return multiplied

    return decorate


@times(FACTORS)
def by_decorator():
    return 1.0


@lru_cache
def by_cache():
    return FACTORS


def by_cached():
    return by_cache()


here = sys.modules[__name__]
CHANGES = {
    by_name: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
    by_class: lambda patch: patch.setattr(Held, "factors", [2.0]),
    by_static_method: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
    by_property: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
    by_module: lambda patch: patch.setitem(FACTORS, "second", [1.0, 3.0]),
    by_default: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
    by_order: lambda patch: patch.setattr(here, "ORDER", (idle, halve)),
    by_decorator: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
    by_cached: lambda patch: patch.setitem(FACTORS, "first", [1.0, 3.0]),
}
"""Training that reads something outside of it → what changes that."""


@pytest.mark.parametrize("train", CHANGES, ids=lambda train: train.__name__)
def test_what_the_code_of_a_training_reads_outside_of_it_counts(tmp_path, monkeypatch, train):
    def known():
        model, bench = Layer(2, 2), Bench(cache=tmp_path)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, train, bench, data="none", settings={})
        return bench.prepared_from_cache

    assert not known()
    assert known()
    CHANGES[train](monkeypatch)
    assert not known()


MADE = """
from enum import Enum

from torch import nn

from eelit.methods.engine.content_hash import Contents
from eelit.methods.engine.weights import reached


class Side(Enum):
    LEFT = len


def first():
    return KNOWN


def second(module, args, out):
    return out


KNOWN = {"functions": (first, second), "names": {"a", "b", "c", "d"}, "kinds": frozenset({int, str, Side})}


def name():
    model = nn.Sequential(nn.LSTM(2, 2), nn.Linear(2, 2))
    for weight in model.parameters():
        nn.init.ones_(weight)
    model[0].register_forward_hook(second)
    model[1].known, model[1].side = KNOWN, Side.LEFT
    contents = Contents(model)
    found = [contents.of_model("here"), contents.of(first, "here"), *reached([first], contents)]
    assert not contents.untold
    return repr(found)
"""


class Pair(NamedTuple):
    first: int


OPERATIONS = {torch.ops.aten.add: torch.ops.aten.mul.Tensor}


def test_operations_of_torch_and_fields_by_name_can_be_told():
    contents = Contents(nn.Module())
    told = reached([Pair], contents), contents.of([OPERATIONS, dict[str, int], np.random.permutation], "")
    assert told
    assert not contents.untold
    assert contents.of([OPERATIONS], "") != contents.of([{torch.ops.aten.add: torch.ops.aten.sub.Tensor}], "")


def test_another_process_gives_a_training_the_same_name(tmp_path, monkeypatch):
    (tmp_path / "made_training.py").write_text(MADE)
    monkeypatch.syspath_prepend(tmp_path)
    ours = importlib.import_module("made_training").name()
    code = "import made_training; print(made_training.name())"
    env = {**os.environ, "PYTHONHASHSEED": "12", "PYTHONPATH": str(tmp_path)}
    theirs = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert theirs.stdout == f"{ours}\n"


def test_of_an_object_only_what_the_training_reads_counts(tmp_path):
    def rated(recipe):
        model, bench = Layer(2, 2), Bench(cache=tmp_path)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)

        def train():
            for _ in range(2):
                loss(recipe.rate)

        trained(model, train, bench, data="none", settings={})
        return bench.prepared_from_cache

    assert not rated(Recipe())
    assert rated(Recipe(knob=0.9))
    assert not rated(Recipe(rate=0.2))
    # used as a whole, by a method of its own or by another function, it counts as a whole
    assert not closing_over(tmp_path, Recipe(), read=lambda recipe: recipe.doubled())
    assert not closing_over(tmp_path, Recipe(knob=0.9), read=lambda recipe: recipe.doubled())


def test_whom_a_training_tells_of_its_progress_does_not_count(tmp_path):
    def told(progress):
        model, bench = Layer(2, 2), Bench(cache=tmp_path, progress=progress)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda: bench.progress("", None), bench, data="none", settings={})
        return bench.prepared_from_cache

    said = []
    assert not told(lambda *words: said.append(words))
    assert told(lambda *_: None)


def test_parts_of_the_network_that_is_trained_are_told_by_their_places():
    layer = Layer(2, 2)
    assert Contents(layer).of([layer.weight], "") != Contents(layer).of([layer.bias], "")
    assert Contents(layer).of(layer, "") == Contents(replaced := Layer(2, 2)).of(replaced, "")


def other_number(samples):
    samples[3] = samples[3] + 1e-6


def other_place(samples):
    samples[0], samples[1] = samples[1], samples[0]


def other_shape(samples):
    samples[:] = [sample.T.contiguous() for sample in samples]


def other_type(samples):
    samples[:] = [sample.view(torch.int32) for sample in samples]


def one_fewer(samples):
    samples.pop()


def one_that_learns(samples):
    samples[2].requires_grad_()


def one_with_a_mark(samples):
    samples[2].mark = 1


def one_of_the_model(samples):
    samples[2] = samples[2].detach().clone()


def samples_named(changing=None, network=None):
    samples = list(torch.arange(24.0).reshape(4, 2, 3).clone().unbind())
    if changing:
        changing(samples)
    if changing is one_of_the_model:
        network.register_buffer("kept", samples[2])
    return Contents(network or nn.Linear(2, 2)).of(samples, "samples")


@pytest.mark.parametrize(
    "changing",
    [
        *(other_number, other_place, other_shape, other_type, one_fewer, one_that_learns, one_with_a_mark),
        one_of_the_model,
    ],
)
def test_samples_are_told_apart_though_they_are_looked_at_together(changing):
    assert samples_named() == samples_named()
    assert samples_named(changing, nn.Linear(2, 2)) != samples_named()


def test_sets_have_no_order():
    one, other = {halve, idle, loss}, {loss, idle, halve}
    assert Contents(Layer(2, 2)).of(one, "") == Contents(Layer(2, 2)).of(other, "")


def test_what_contains_itself_has_an_end():
    one, other = [1], [2]
    one.append(one)
    other.append(other)
    contents = Contents(Layer(2, 2))
    assert contents.of(one, "") != contents.of(other, "")


def test_what_cannot_be_told_apart_is_said_and_trained_every_time(tmp_path, capsys):
    assert not closing_over(tmp_path, (i for i in range(3)))
    assert not closing_over(tmp_path, [iter([1])])
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2
    assert "a training is not kept" in said[0]
    assert "value in closing_over.<locals>.train (builtins.generator)" in said[0] or "(builtins.generator)" in said[0]
    assert not list(tmp_path.rglob("*.kept"))


def test_in_which_order_functions_are_met_does_not_matter():
    things = [closed_over(halve), closed_over(idle), loss, Layer]
    found = [reached(order, Contents(nn.Module())) for order in (things, things[::-1])]
    assert found[0] == found[1]


def test_a_training_counts_once_however_often_it_is_used(tmp_path):
    bench = Bench(cache=tmp_path)
    for learns in (True, True, False):
        model = Layer(2, 2)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda: None, bench, data="none", settings={"learns": learns}, learns=learns)
    assert len(bench.trainings) == 1


def test_what_a_training_took_is_told_from_the_cache_too(tmp_path):
    examples, told = Examples([torch.randn(2) for _ in range(6)], torch.arange(6)), []
    for cache in (tmp_path, tmp_path, None):
        model, bench = Layer(2, 2), Bench(cache=cache, steps=100)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)

        def train(model=model, bench=bench):
            options = {"label": "l", "epochs": 2, "batch": 2, "rate": 0.1}
            fit(model.parameters(), examples, lambda batch: model(batch.inputs).sum(), bench, **options)
            end = time.process_time() + 0.05
            while time.process_time() < end:
                time.sleep(0.05)  # of the wall clock, which does not count
                math.factorial(5000)

        trained(model, train, bench, data="none", settings={})
        told += bench.trainings.values()
    assert [effort.steps for effort in told] == [6, 6, 6]
    assert told[0] == told[1], "as it was when it was done"
    assert 0.05 <= told[0].seconds < 0.3


def test_weights_that_do_not_say_what_they_took_are_trained_anew(tmp_path):
    found = []
    for _ in range(2):
        model, bench = Layer(2, 2), Bench(cache=tmp_path)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda model=model: model.weight.data.add_(1), bench, data="none", settings={})
        found.append(model.weight.unique().tolist())
        (path,) = (tmp_path / "weights").glob("*.kept")
        keep(path, save({name: tensor + 5 for name, tensor in load(kept(path)).items()}, metadata={"seconds": "1.0"}))
    assert found == [[2.0], [2.0]], "an older file leaves nothing in the network"


def test_what_only_claims_are_compared_with_is_no_training_of_the_method():
    bench = Bench()
    bench.trainings["of another variant"] = Effort(seconds=1.0, steps=3)

    class Fake:
        def prepare(self, bench):
            bench.trainings["own"] = Effort(seconds=2.0, steps=5)
            return "prepared"

    own = {"own": Effort(seconds=2.0, steps=5)}
    assert runner._prepared(Fake(), bench) == ("prepared", own)
    assert bench.trainings == {"of another variant": Effort(seconds=1.0, steps=3), **own}


def test_the_loss_is_told_which_samples_these_are_and_how_far_the_training_is():
    torch.manual_seed(0)
    data, told = Examples([torch.randn(3) for _ in range(10)], torch.arange(10)), []
    head = nn.Linear(3, 1)

    def loss(batch):
        told.append(batch)
        return head(batch.inputs).sum()

    fit(head.parameters(), data, loss, Bench(), label="", epochs=2.5, batch=4, rate=0.0)
    steps = round(2.5 * 3)
    assert [batch.step for batch in told] == list(range(steps))
    assert [batch.done for batch in told] == [step / steps for step in range(steps)]
    for batch in told:
        assert torch.equal(batch.targets, batch.index)
        assert torch.equal(batch.inputs, torch.stack([data.inputs[i] for i in batch.index.tolist()]))
    assert sorted(i for batch in told[:3] for i in batch.index.tolist()) == list(range(10))


def test_a_training_that_is_cut_short_is_as_far_as_the_whole_one_was():
    data, head, done, stages = Examples([torch.ones(3)] * 10, torch.zeros(10)), nn.Linear(3, 1), [], []

    def loss(batch):
        done.append(batch.done)
        return head(batch.inputs).sum()

    bench = Bench(most_steps=2, watch=lambda stage: stages.append(stage) if stage else None)
    fit(head.parameters(), data, loss, bench, label="", epochs=2.0, batch=5, rate=0.0)
    assert done == [0.0, 0.25]
    assert stages[0].batch_of(torch.tensor([3]), torch.ones(1, 3), step=3).done == 0.75


def test_a_training_that_was_cut_short_is_another(tmp_path):
    known = []
    for steps in (1, float("inf"), 1):
        model, bench = Layer(2, 2), Bench(cache=tmp_path, most_steps=steps)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda: None, bench, data="none", settings={})
        known.append(bench.prepared_from_cache)
    assert known == [False, False, True]


def test_packages_that_are_installed_count_by_their_version_and_those_that_offer_methods_by_their_source(monkeypatch):
    """A training may reach whatever loads its data: the loader's own libraries hold locks, which nobody can tell."""
    theirs = (requests.get, requests.RequestException, click.Command, os.walk)
    assert all(content_hash.foreign(thing) for thing in theirs)
    assert not any(content_hash.foreign(thing) for thing in (fit, Contents, LeeBert, runner.run))
    offered = EntryPoint("anotherkey", "click.core:Command", GROUP)
    monkeypatch.setattr(content_hash, "entry_points", lambda group: [offered] if group == GROUP else [])
    content_hash._is_library.cache_clear()
    assert not content_hash.foreign(click.Command)
    assert content_hash.foreign(requests.get)
    content_hash._is_library.cache_clear()


def test_another_version_of_a_package_that_a_training_reaches_is_another_training(monkeypatch):
    def name():
        content_hash.version_of.cache_clear()
        return reached([lambda: requests.get("")], Contents(nn.Module()))

    first = name()
    assert any(said.startswith("requests ") for said in first)
    assert name() == first
    monkeypatch.setattr(content_hash, "version", lambda package: "0.0.0")
    assert name() != first
    content_hash.version_of.cache_clear()
