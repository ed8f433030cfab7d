"""The cache of trained weights knows what a training depends on."""

import importlib.util
import re

import torch
from torch import nn

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.weights import sources_of, trained
from eelit.methods.harness import runner
from eelit.methods.papers.zhu2021leebert import LeeBert
from eelit.methods.recipes.fit import fit
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
    learned = []
    for probability in (0.1, 0.5, 0.1):
        bench = Bench(cache=tmp_path)
        layer = nn.Sequential(nn.Linear(2, 2), nn.Dropout(probability))
        nn.init.ones_(layer[0].weight)
        nn.init.zeros_(layer[0].bias)
        trained(layer, lambda: learned.append(1), bench, data="none", settings={})
    assert len(learned) == 2


def test_damaged_weights_are_trained_anew(tmp_path):
    train_once(tmp_path, 3.0)
    (kept,) = (tmp_path / "weights").glob("*.safetensors")
    kept.write_bytes(kept.read_bytes()[:20])
    assert not train_once(tmp_path, 3.0)
    assert train_once(tmp_path, 3.0)


def test_a_training_counts_once_however_often_it_is_used(tmp_path):
    bench = Bench(cache=tmp_path)
    for learns in (True, True, False):
        model = Layer(2, 2)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda: None, bench, data="none", settings={"learns": learns}, learns=learns)
    assert len(bench.trainings) == 1


def test_what_only_claims_are_compared_with_is_no_training_of_the_method():
    bench = Bench()
    bench.trainings["of another variant"] = 1.0

    class Fake:
        def prepare(self, bench):
            bench.trainings["own"] = 2.0
            return "prepared"

    assert runner._prepared(Fake(), bench) == ("prepared", {"own": 2.0})
    assert bench.trainings == {"of another variant": 1.0, "own": 2.0}


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
    trainings = []
    for steps in (1, float("inf"), 1):
        model, bench = Layer(2, 2), Bench(cache=tmp_path, most_steps=steps)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        trained(model, lambda: trainings.append(1), bench, data="none", settings={})
    assert len(trainings) == 2
