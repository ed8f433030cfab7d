"""The track with many classes of texts: which methods are on it, what they are measured on, and that each of them runs.

That decisions are blind to labels of test data is tested for all methods in `test_conformance`; what is loaded here, in
`test_data_loaders`.
"""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import usual
from eelit.methods.engine.stored_outputs import CONFIDENCES, LOW, StoredOutputs, baselines_of
from eelit.methods.families.text import NATS, TextMethod
from eelit.methods.harness import bench, conformance, registry, runner
from eelit.methods.harness.tracks import TRACKS
from eelit.methods.policies.entropy import Entropy
from eelit.methods.policies.margin import Margin
from eelit.methods.policies.max_confidence import MaxConfidence

TRACK = TRACKS["text-topics"]
MEMBERS = bench.members("text-topics")


def variants(key):
    """Return the variants of a method that have the task of the track, at full scale, by name."""
    main = registry.get(key)
    every = {name: main.variant(name, "full") for name in main.variants}
    return {name: method for name, method in every.items() if TRACK.takes(runner._settings(method))}


ROWS = [(key, name) for key in MEMBERS for name in variants(key)]


def test_methods_that_classify_single_sentences_are_on_the_track():
    assert {*bench.members("text")} - {*MEMBERS} == {"bajpai2023splitee", "li2021tokee", "xin2020ranking"}
    left_out = [(key, name) for key in MEMBERS for name in registry.get(key).variants if (key, name) not in ROWS]
    assert left_out == [("xin2021berxit", "regression"), ("zhou2020pabee", "regression")]
    for told in ("regression", "ranking", "tagging", "stream of reviews"):
        assert told in TRACK.conditions


def test_other_tracks_take_all_variants():
    for name in ("text", "images", "images-plain"):
        assert all(TRACKS[name].takes(settings) for settings in ({}, {"corpus": "'imdb'", "stream": "'imdb'"}))
    assert TRACK.takes({"corpus": "'rotten-tomatoes'"})
    assert not TRACK.takes({"corpus": "'rotten-tomatoes'", "stream": "'imdb'"})
    assert not TRACK.takes({"corpus": "'brown'"})
    assert not TRACK.takes({})


@pytest.mark.parametrize(("key", "name"), ROWS)
def test_a_row_differs_from_that_of_the_other_text_track_by_its_data_alone(key, name):
    own = variants(key)[name]
    row = runner.given(own, TRACK.settings)
    assert row.corpus == "20-newsgroups"
    assert getattr(row, "held", 4000) == 4000  # of no row fewer test messages are used
    assert row == own.replace({key: value for key, value in TRACK.settings.items() if hasattr(own, key)})
    assert (row.train_size, row.length) == (4000, 40)
    assert {*TRACK.settings} == {"corpus", "held"}


def test_the_conditions_are_those_of_the_data():
    assert TRACK.sizes == "4000 / 1000 / 4000"
    for told in ("first 40 tokens of 4,000 messages", "1,000 validation messages", "4,000 of the 7,514 test messages"):
        assert told in TRACK.conditions
    assert math.sqrt(0.6 * 0.4 / 4000) == pytest.approx(0.008, abs=5e-4)
    assert all("order" in TRACKS[name].conditions and "identically" in TRACKS[name].conditions for name in TEXTS)


TEXTS = ("text", "text-topics")


def orders(classes):
    """Return how entropy, margin and largest probability order 50 random inputs, the surest first."""
    p = torch.randn(50, classes, generator=torch.Generator().manual_seed(0)).mul(2).softmax(dim=-1)
    first, second = p.topk(2).values.T
    return [list(np.argsort(by.numpy())) for by in (-(p * p.log()).sum(dim=-1), second - first, -first)]


def test_what_the_pages_say_of_two_classes_is_true_and_of_many_is_not():
    by_entropy, by_margin, by_probability = orders(2)
    assert by_entropy == by_margin == by_probability
    assert len({tuple(order) for order in orders(20)}) == 3


@pytest.mark.parametrize("h", [0.1, 0.5])
def test_with_two_classes_each_threshold_has_its_like_in_the_other_rules(h):
    """The same samples stop at entropy H(p), at largest probability p, and at margin 2p - 1."""
    logits = torch.randn(200, 2, generator=torch.Generator().manual_seed(1))
    p = next(p for p in np.linspace(0.5, 1, 100_001)[1:-1] if -(p * np.log(p) + (1 - p) * np.log(1 - p)) < h)
    stops = [rule.step((), logits)[1].tolist() for rule in (Entropy(h), MaxConfidence(p), Margin(2 * p - 1))]
    assert stops[0] == stops[1] == stops[2]
    assert 0 < sum(stops[0]) < 200


# Knobs for many classes


def test_knobs_follow_the_classes():
    method = registry.get("xin2020deebert")
    topics = method.replace({"corpus": "20-newsgroups"})
    assert (method.knobs, topics.knobs) == (type(method).knobs, NATS)
    assert topics.replace({"corpus": "rotten-tomatoes"}).knobs == type(method).knobs
    assert method.replace({"corpus": "digits"}).knobs == type(method).knobs
    pabee = registry.get("zhou2020pabee")
    assert pabee.replace({"corpus": "20-newsgroups"}).knobs == pabee.knobs


def test_thresholds_in_nats_reach_from_all_to_none():
    assert NATS[0] > math.log(20) > NATS[1]
    assert NATS[-1] == 0


def test_knobs_for_many_classes_are_in_the_order_of_those_for_two_and_have_their_ends():
    found = [method for key in MEMBERS if isinstance(method := registry.get(key), TextMethod) and method.many]
    assert len(found) == 6
    for method in found:
        rising = method.knobs[-1] > method.knobs[0]
        assert list(method.many) == sorted({*method.many}, reverse=not rising)
        assert method.many[-1] == method.knobs[-1]
        assert method.many[0] >= method.knobs[0] if not rising else method.many[0] == method.knobs[0]


def stored(logits, targets):
    costs = np.arange(1.0, len(logits) + 1)[:, None] * np.ones((1, logits.shape[1]))
    return StoredOutputs(Examples([torch.zeros(1)] * len(targets), targets), logits, costs, costs)


@pytest.mark.parametrize(
    ("classes", "low"),
    [(2, []), (3, [0.35, 0.4, 0.45, 0.5]), (4, [c for c in LOW if c > 0.25]), (10, [*LOW[1:]]), (20, [*LOW])],
)
def test_the_baseline_has_low_thresholds_where_a_largest_probability_can_be_below_them(classes, low):
    """Each of them stops where the largest probability is at least so much."""
    logits = torch.randn(3, 60, classes, generator=torch.Generator().manual_seed(0)) / 2
    held, test = (stored(some, torch.arange(some.shape[1]) % classes) for some in logits.split(30, dim=1))
    static, surest = baselines_of(held, test, usual)
    assert [static.name, surest.name] == ["static exit", "max-confidence"]
    assert [point.knob for point in static.test] == [1, 2, 3]
    for seen, points in ((held, surest.validation), (test, surest.test)):
        assert [point.knob for point in points] == sorted([*low, *CONFIDENCES])
        sure = seen.outputs.softmax(dim=-1).amax(dim=-1)
        for point in points:
            assert point.exits[0] == pytest.approx(float((sure[0] >= point.knob).double().mean()))


def test_values_have_no_thresholds_on_a_probability():
    seen = stored(torch.randn(3, 8), torch.randn(8))
    assert [each.name for each in baselines_of(seen, seen, usual)] == ["static exit"]


# Each row runs with 20 classes


@pytest.fixture
def twenty(monkeypatch):
    """Offer digits in 20 classes, the dark ones and the light ones of each digit, as the data of the track."""
    load = tasks.text

    def text(corpus, *, train, length=40, test=None):
        if corpus != "20-newsgroups":
            return load(corpus, train=train, length=length, test=test)
        found = load("digits", train=train, length=length, test=test)

        def part(of):
            light = torch.stack([x[1:].sum() for x in of.inputs])
            return dataclasses.replace(of, targets=of.targets + 10 * (light > light.median()))

        halves = {name: part(getattr(found, name)) for name in ("train", "validation", "test")}
        return dataclasses.replace(found, **halves, classes=20, digest="digits in 20 classes")

    monkeypatch.setattr(tasks, "text", text)


@pytest.mark.parametrize(("key", "name"), ROWS)
def test_a_row_runs_with_20_classes_and_keeps_the_rules(key, name, twenty):
    """After a few steps of training: all rules of the contract, from all at the first exit to the full model."""
    method = runner.given(registry.get(key).variant(name, "tiny"), {**TRACK.settings, "held": 120, "train_size": 300})
    conditions = Bench(test=120, executed=24, repeats=1, most_steps=8)
    ready = method.prepare(conditions)
    curve = runner.measure(method, ready, conditions, name)
    broken = [each for each in conformance.of_curve(method, curve) if not each.holds]
    assert not broken
    seen = ready.depths("test") if hasattr(ready, "depths") else ready.split("test")
    assert (seen.answers.shape[-1], len(seen.examples)) == (20, 120)
    assert [point.knob for point in curve.test] == list(method.knobs)
    (surest,) = (each for each in curve.baselines if each.name == "max-confidence")
    assert {*LOW} <= {point.knob for point in surest.test}
    if (key, name) == ("schwartz2020right", "uncalibrated"):  # the same rule gains nothing over itself
        assert (curve.validation, curve.test) == (surest.validation, surest.test)


def test_a_run_of_the_track_has_its_data_and_those_variants_alone(twenty, monkeypatch, tmp_path):
    fetched = []
    monkeypatch.setattr(runner.fetch, "fetch", lambda item, progress: fetched.append(item))
    monkeypatch.setattr(runner, "cache_root", lambda: tmp_path)
    small = {**TRACK.settings, "encoder": "tiny", "train_size": 64}
    found = runner.run("zhou2020pabee", scale="smoke", settings=small, among=TRACK.takes, items=TRACK.items)
    assert [curve.variant for curve in found.curves] == ["classification"]
    assert fetched == ["minilm-l6", "newsgroups"] == [*found.data][:2]
    assert found.data["classification: examples"] == "digits in 20 classes"
    assert found.settings["corpus"] == "'20-newsgroups'"
    assert found.settings["tolerance"] == "None"


def test_results_of_the_track_are_current_with_its_data_whatever_else_a_method_needs(monkeypatch, tmp_path):
    from eelit.methods.data import manifest

    result = SimpleNamespace(
        code=bench.code("zhou2020pabee"), seed=0, created=0, shape=(), samples="",
        settings={"corpus": "'20-newsgroups'"}, curves=[SimpleNamespace(variant="classification")],
        data={item: manifest.get(item).version for item in TRACK.items},
    )  # fmt: skip
    monkeypatch.setattr(bench, "_read_all", lambda paths, key: ({tmp_path: result}, []))
    assert bench.stored("text-topics", "zhou2020pabee").current
    result.data["movie-reviews"] = "older"
    assert bench.stored("text-topics", "zhou2020pabee").current
    result.data["newsgroups"] = "older"
    assert not bench.stored("text-topics", "zhou2020pabee").current
