"""The registry × the rules that every method keeps, each variant in its tiny setting, trained once per session."""

import copy
import dataclasses
import hashlib
import os
import typing
import warnings
from functools import cache, cached_property, partial
from itertools import pairwise
from pathlib import Path
from types import FunctionType, MethodType, SimpleNamespace

import numpy as np
import pytest
import torch
from lengths import MOST, lengths

from eelit.methods.backbones import encoder
from eelit.methods.engine import pairs, tasks, weights
from eelit.methods.engine.cascade import Cascade, StoredMembers
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench, Method, Scale
from eelit.methods.engine.passages import Passages
from eelit.methods.engine.queries import Queries
from eelit.methods.families.gates import GateMethod
from eelit.methods.families.skimming import SkimMethod
from eelit.methods.families.stepwise import StepwiseMethod
from eelit.methods.families.tagging import TagMethod
from eelit.methods.families.tokens import GenerationMethod
from eelit.methods.harness import conformance, registry, runner
from eelit.methods.papers import xin2020ranking
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.recipes.fit import fit

KEYS = registry.keys()
VARIANTS = [(key, variant) for key in KEYS for variant in registry.get(key).variants]
STEPWISE = [
    (key, variant) for key, variant in VARIANTS if isinstance(registry.get(key).variant(variant), StepwiseMethod)
]
SECTIONS = ("Idea", "Training", "Exit rule", "Skipped", "Deviations")
LONG = 320
"""Lines above which a paper's file is worth a second look."""

every_variant = pytest.mark.parametrize(("key", "variant"), VARIANTS)


@pytest.fixture(scope="module")
def curves(prepared):
    found = {}

    def curve(key, variant):
        if (key, variant) not in found:
            method, bench, ready = prepared(key, variant)
            found[key, variant] = runner.measure(method, ready, bench, variant)
        return found[key, variant]

    return curve


FITTED_FOR_EACH_KNOB = {
    "baccarelli2020cdnn": "places of exits, from what held-out samples take",
    "bolukbasi2017adaptive": "decisions, learned anew for each lambda",
    "bonato2021classspecific": "a design, chosen by its cost on other images",
    "daghero2020class": "thresholds, searched anew for each allowed loss",
    "tan2021latency": "thresholds, searched anew for each latency",
    "wang2018idk": "thresholds of all stages, or networks of their own",
    "wang2024exclusion": "betas, searched anew for each tolerance",
    "xu2024iovt": "an agent, trained anew for each weight of accuracy",
}
"""Exempt from monotone cost, which they may keep on the data at hand: what fits held-out data may not fit others.

Any other method whose cost happens to be monotone needs no exemption.
"""
BROKEN_AT_FULL_SIZE = {
    ("kim2023bild", "aligned"): "cost falls from 494 to 485 thousand weights a token over four knobs"
}
"""Exempt from monotone cost, which they keep in the tiny setting and not in the default one: what was seen there."""


def kept_by_luck(method, ready, curve, rule):
    """Return whether a variant keeps a rule that it need not on the data at hand, though it could not promise that."""
    if rule.name == "cost_is_monotone":
        return method.key in FITTED_FOR_EACH_KNOB or (method.key, curve.variant) in BROKEN_AT_FULL_SIZE
    return rule.name == "never_answers_as_the_full_model" and not answers_as_the_full_model(method, ready, curve)


def answers_as_the_full_model(method, ready, curve):
    """Return whether the last knob gives each sample the full model's answer; equal qualities may be a coincidence."""
    if curve.test[-1].exits[-1] < 1:
        return False
    seen, policy = ready.split("test"), method.policy(method.knobs[-1], ready)
    said = seen.read(answered(policy, seen.outputs, replay(policy, seen.outputs)))
    return torch.equal(said.argmax(dim=-1), seen.answers[-1].argmax(dim=-1))


@pytest.mark.parametrize("rule", conformance.RULES, ids=[rule.name for rule in conformance.RULES])
@every_variant
def test_rule(key, variant, rule, curves, prepared):
    method = registry.get(key).variant(variant, "tiny")
    holds, measured = rule.check(method, curves(key, variant))
    if conformance.exemption(method, variant, rule) is None:
        assert holds, f"{rule.statement} {measured}"
    elif holds:
        told = f"{key} keeps “{rule.statement}” ({measured}): the exemption is no longer needed"
        assert kept_by_luck(method, prepared(key, variant)[2], curves(key, variant), rule), told


@pytest.mark.parametrize("key", FITTED_FOR_EACH_KNOB)
def test_what_is_fitted_for_each_knob_is_exempt_from_monotone_cost(key):
    exempt = {name for kind in (registry.get(key), *map(registry.get(key).variant, registry.get(key).variants))
              for name in kind.exempt}  # fmt: skip
    assert any(name.endswith("cost_is_monotone") for name in exempt)


@pytest.mark.parametrize(("key", "variant", "same"), [
    ("phuong2019distillation", "anytime", False), ("phuong2019distillation", "budget", True),
    ("kaya2019sdn", "IC-only", False),
])  # fmt: skip
def test_qualities_that_coincide_are_told_from_equal_answers(key, variant, same, curves, prepared):
    method, _, ready = prepared(key, variant)
    assert answers_as_the_full_model(method, ready, curves(key, variant)) is same


def test_an_exemption_of_one_variant_frees_no_other():
    method = registry.get("phuong2019distillation")
    rule = next(rule for rule in conformance.RULES if rule.name == "never_answers_as_the_full_model")
    assert conformance.exemption(method, "budget", rule) is None
    assert "mean of all exits" in conformance.exemption(method, "anytime", rule)


@every_variant
def test_what_was_learnt_is_better_than_chance(key, variant, curves):
    assert curves(key, variant).chance is not None, "its family says in `chance` what that is"
    assert conformance.at_chance(curves(key, variant)) is None


NO_MEAN = {
    "Pearson's r", "mean F1 of the classes", "F1 of detections", "1 - CER", "-NMSE (dB)", "BLEU",
}  # fmt: skip
"""Qualities of all samples together: they are no mean of what each is worth."""
OF_CLIENTS = "li2023esfedavg"
"""Its points are put together from those of clients, and it is on no track: nothing is told of single samples."""


@every_variant
def test_what_is_told_of_samples_makes_the_point(key, variant, curves):
    """Differences between methods, and from baselines, are computed sample by sample."""
    curve = curves(key, variant)
    every = [*curve.validation, *curve.test, *(point for rule in curve.baselines for point in rule.test)]
    if key == OF_CLIENTS:
        assert all(point.samples is None for point in every)
        return
    for point in every:
        quality, exits = point.samples.quality, point.samples.exits
        assert (quality is None) == (curve.quality in NO_MEAN)
        if quality is not None:
            assert point.quality == pytest.approx(quality.mean())
        if exits is not None:  # who left at none has the number of exits
            shares = np.bincount(exits, minlength=len(point.exits))[: len(point.exits)] / len(exits)
            assert point.exits == pytest.approx(shares.tolist())
    assert len({len(point.samples.quality) for point in curve.test if point.samples.quality is not None}) <= 1


KNOB_BY_KNOB = (GateMethod, SkimMethod, TagMethod)
"""Families whose network is trained, or run by itself, for each knob."""


@pytest.fixture
def few_knobs(monkeypatch):
    """Leave a method that trains or runs a network for each knob three of them."""

    def few(key):
        main = registry.get(key)
        for kind in {type(main.variant(variant, "tiny")) for variant in main.variants}:
            if issubclass(kind, KNOB_BY_KNOB):
                knobs = kind.knobs
                monkeypatch.setattr(kind, "knobs", (knobs[0], knobs[len(knobs) // 2], knobs[-1]))

    return few


def stops(policy, seen):
    """Return the exit, or the member of a cascade, at which each sample stops."""
    return seen.followed(policy).exits.numpy() if isinstance(seen, StoredMembers) else replay(policy, seen.outputs)


def run(ready, x, policy):
    """Run a network with exits, or a cascade."""
    return ready.model.run(x, policy) if isinstance(ready.model, Cascade) else infer(ready.model, x, policy)


def undecided(method, ready):
    """Return test inputs of one shape, at most eight for each exit, and the policy that scatters them most."""
    seen = ready.split("test")
    pool, members = seen.examples.filled(200, 200), len(seen.costs)
    for knobs in (method.knobs, [sum(pair) / 2 for pair in pairwise(method.knobs)]):
        policies = [method.rule(knob, ready) for knob in knobs]
        exits, policy = max(
            ((stops(policy, seen)[pool], policy) for policy in policies), key=lambda found: len(set(found[0]))
        )
        if len(set(exits)) > 1:
            break
    chosen = np.sort(np.concatenate([np.flatnonzero(exits == i)[:8] for i in range(members)]))
    return torch.stack([seen.examples.inputs[i] for i in pool[chosen].tolist()]), policy


@pytest.mark.parametrize(("key", "variant"), STEPWISE)
def test_what_a_sample_gets_does_not_depend_on_its_batch_mates(key, variant, prepared):
    method, _, ready = prepared(key, variant)
    x, policy = undecided(method, ready)
    together = run(ready, x, policy)
    assert len(set(together.exits.tolist())) > 1 or isinstance(policy, FixedExit)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mixed, alone = run(ready, x[order], policy), [run(ready, one, policy) for one in x.split(1)]
    assert torch.equal(mixed.exits, together.exits[order])
    assert torch.equal(torch.cat([one.exits for one in alone]), together.exits)
    assert torch.allclose(mixed.answers, together.answers[order], atol=1e-5)
    assert torch.allclose(torch.cat([one.answers for one in alone]), together.answers, atol=1e-5)


NO_WORD = -100
"""What stands for a tag where a sentence has no more words."""
LABELS = {Examples: "targets", Queries: "grades", Passages: "references"}
"""Where the labels are of each kind of samples."""


def relabelled(loaded, part):
    """Return loaded data in which samples of a part have each other's labels: all of the test part, half of validation.

    It is the later half, on which no rule is fitted.
    """
    if isinstance(loaded, tuple):  # labelled data of one domain, and a stream of another as test data
        data, stream = loaded
        return (data, exchanged(stream, 0)) if part == "test" else (relabelled(data, part), stream)
    held = getattr(loaded, part)
    start = 0 if part == "test" else (len(held) + 1) // 2
    return dataclasses.replace(loaded, **{part: exchanged(held, start)})


def exchanged(held, start):
    """Return samples that have each other's labels from number ``start`` on."""
    labels = getattr(held, LABELS[type(held)])
    first = int(held.sizes[:start].sum()) if isinstance(held, Queries) else start
    others = labels[[*range(first), *np.roll(np.arange(first, len(labels)), 1)]]
    if (labels == NO_WORD).any():  # tags, of as many words as each sentence has
        others, words = labels.clone(), labels >= 0
        words[:first] = False
        others[words] = labels[words].roll(1)
    assert (others != labels).any()
    return dataclasses.replace(held, **{LABELS[type(held)]: others})


@pytest.mark.parametrize("part", ["test", "validation"])
@every_variant
def test_decisions_are_blind_to_labels_that_they_must_not_know(key, variant, part, prepared, curves, monkeypatch):
    """To those of test data; and to those on which knobs are chosen, since what is fitted is fitted apart from them.

    At four knobs at most, spread over those between the ends: a rule is fitted once for all of them.
    """
    method, bench, ready = prepared(key, variant)
    curve, load = curves(key, variant), type(method).load
    some = slice(1, -1, -(-(len(method.knobs) - 2) // 4))
    monkeypatch.setattr(type(method), "load", lambda self: relabelled(load(self), part))
    other = method.prepare(dataclasses.replace(bench, trainings={}))
    for split in ("validation", "test"):
        ours, theirs = getattr(curve, split)[some], method.sweep(other, bench, split, method.knobs[some])
        assert [(p.cost, p.exits) for p in theirs] == [(p.cost, p.exits) for p in ours]
        if split != part:
            assert theirs == ours
        elif not isinstance(method, GenerationMethod):  # there quality is how much of the full model's own text is kept
            assert theirs != ours
    assert repr(getattr(other, "fitted", None)) == repr(getattr(ready, "fitted", None))


EQUAL: dict[tuple[str, str], tuple[list[float], str]] = {
    ("bonato2021classspecific", "footwear"): ([0.005, 0.0], "one of 150 digits is more than these slacks"),
    ("bonato2021classspecific", "trousers"): (
        [0.02, 0.005, 0.0],
        "few digits are of the one class, and those are easy",
    ),
    ("bolukbasi2017adaptive", "network selection"): ([0.03], "nobody is sent on to networks of 25 thousand MACs yet"),
    ("daghero2020class", "margin"): ([0.0, -0.004, -0.006], "one of 150 digits is more than these losses are apart"),
    ("daghero2020class", "max probability"): (
        [0.0, -0.004, -0.006],
        "one of 150 digits is more than these losses are apart",
    ),
    ("huang2018msdnet", "anytime"): ([0.6, 0.7, 0.8, 0.9], "the same exit is the last that these budgets reach"),
    ("li2023coaxnn", ""): ([0.5, 0.6, 0.7], "no design that costs so much did better on 150 digits"),
    ("park2020bpnet", ""): ([0.3, 0.6], "no design that costs so much did better on 150 digits"),
    ("schuster2022calm", "state"): ([0.05, 0.1, 0.2, 0.5, 0.6, 0.7], "cosines of neighbouring states lie above"),
    ("wang2018idk", "cost-aware"): ([0.1, 0.0], "between eight sets of networks, one for each price, there are gaps"),
    ("xin2020ranking", ""): ([0.52, 0.55, 0.6], "probabilities of so few pairs leave gaps"),
}
"""Knobs that come out like the one before them: key and variant → the knobs, and why that is no fault."""


@every_variant
def test_every_knob_has_an_effect(key, variant, curves):
    """Neighbours differ somewhere, unless all samples leave at one exit and are at either end of the knob.

    Else a knob is cut off, rounded or ignored beyond some value.
    """
    curve = curves(key, variant)
    points = list(zip(curve.validation, curve.test, strict=True))

    def seen(both):
        return [(point.cost, point.quality, point.exits) for point in both]

    ends = [seen(both) for both in (points[0], points[-1]) if all(max(point.exits) == 1 for point in both)]
    idle = [b[0].knob for a, b in pairwise(points) if seen(a) == seen(b) and seen(b) not in ends]
    assert idle == EQUAL.get((key, variant), ([], ""))[0]
    assert any(seen(both) not in (seen(points[0]), seen(points[-1])) for both in points), "nothing leaves in between"


OTHER = "minilm-l6"
"""The name of a second encoder, and of a second set of data of each kind, which only `elsewhere` offers."""


@pytest.fixture(scope="module")
def other_encoder(tmp_path_factory):
    torch.manual_seed(1)
    encoder.encoder("tiny").save_pretrained(folder := tmp_path_factory.mktemp("encoder"))
    return folder


@pytest.fixture
def elsewhere(monkeypatch, other_encoder):
    """Offer an encoder with other weights, and the data of the tests in another order, under another name.

    All tests that share a look at a method ask for it: the names of trainings hold where an encoder comes from.
    """
    monkeypatch.setattr(encoder.fetch, "path", lambda name: {OTHER: other_encoder}[name])

    def exchanging(load, own, name, **sizes):
        found = load(own if name == OTHER else name, **sizes)
        if name != OTHER:
            return found
        train = found.train
        if isinstance(train, Examples):
            train = dataclasses.replace(train, inputs=train.inputs[::-1], targets=train.targets.flip(0))
        return dataclasses.replace(found, train=train, validation=found.test, test=found.validation)

    for home, name, own in SOURCES:
        monkeypatch.setattr(home, name, partial(exchanging, getattr(home, name), own))
    monkeypatch.setitem(pairs.SEPARATOR, OTHER, pairs.SEPARATOR["made"])


SOURCES = [
    *((tasks, "text", "digits"), (tasks, "images", "digits"), (tasks, "tagging", "made"), (tasks, "queries", "made")),
    *((tasks, "language", "made"), (tasks, "views", "digits"), (tasks, "long_tailed", "digits")),
    (tasks, "translation", "made"),
    *((tasks, "mixtures", "made"), (tasks, "spelled", "made")),
    (xin2020ranking, "graded_pairs", "made"),
]
"""Where methods ask for data: module, function, and the name of what it has for tests."""


def alternatives(method, field):
    """Return what is valid in place of a setting's value."""
    value = getattr(method, field)
    if field in method.others:
        return [method.others[field]]
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1, 2 * value + 1, value // 2]
    if isinstance(value, float):
        return [value * 0.5, value + 0.25]
    main = registry.get(method.key)
    used = (main.variant(name, "tiny") for name in main.variants)
    known = [getattr(each, field) for each in used if getattr(each, field, value) != value]
    return [*known, *[OTHER] * (field in ("encoder", "corpus", "stream", "images"))]


REFUSED = {
    ("wright2024asr", "encoder"): "the other encoder is Whisper's, whose weights the tests do not have",
    ("dai2020epnet", "network"): "the plain network of the tests has too few places for the method's shares",
    ("li2023coaxnn", "network"): "filters are removed from residual blocks, and the tests know one residual network",
}
"""Settings of which no other value is valid in the tests: key and setting → why all others are refused."""


class Differs(Exception):
    """A training is named and run otherwise than the one that it is compared with: no step need be made to tell."""


class Look:
    """What a method does with two steps of each training; what follows from them is looked at when asked for.

    It raises `Differs` as soon as a training is another than ``base`` had, if that is given.
    """

    def __init__(self, method, base=None):
        self.method, self.base = method, base
        self.names, self.course, self.moved = [], [], []
        self._models, self._frozen = [], []
        self.bench = Bench(most_steps=2, test=48, executed=8, watch=self._watch)
        named, build = weights._digest, getattr(type(method), "build", None)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(weights, "_digest", lambda model, *given: self._training(model, named(model, *given)))
            if build:
                patch.setattr(type(method), "build", lambda *given: self._noted(self._models, build(*given)))
            self.ready = method.prepare(self.bench)
        self._models, self._frozen = [], []
        self.trainings = frozenset(self.bench.trainings)  # by the names under which their outcome would be kept
        found = hashlib.blake2b()
        for model in networks(self.ready):
            for tensor in model.state_dict().values():
                found.update(tensor.numpy().tobytes())
        self.weights = found.hexdigest()

    @staticmethod
    def _noted(notes, found):
        notes.append(found)
        return found

    def _training(self, model, name):
        """Note the name of a training, and its network: of those that are trained some are copies of what was built."""
        self._models.append(model)
        return self._noted(self.names, name)

    def _watch(self, stage):
        """Note how a stage is trained, and afterwards whether it changed anything that it does not train.

        That is looked at in what was built, in what any training so far was given, and in what the loss reads.
        """
        if not stage:
            self.moved += [self.course[-1]] * any(not torch.equal(now, then) for now, then in self._frozen)
            return
        groups = [group for each in (stage.optimiser, *stage.beside) for group in each.param_groups]
        trained = {id(p): tuple(p.shape) for group in groups for p in group["params"]}
        models = {id(model): model for model in (*self._models, *networks_read(stage.loss))}.values()
        frozen = [p for model in models for p in model.parameters() if id(p) not in trained]
        frozen += [b for model in models for b in buffers_of_frozen(model, trained)]
        self._frozen = [(tensor, tensor.detach().clone()) for tensor in {id(t): t for t in frozen}.values()]
        self.course.append(f"{stage.steps} {sorted(stage.rates.values())} {stage.optimiser} {[*trained.values()]}")
        pairs = [(self.names, self.base.names), (self.course, self.base.course)] if self.base else [([], [])]
        if all(ours != theirs[: len(ours)] for ours, theirs in pairs):
            raise Differs

    @cached_property
    def decided(self):
        """What is decided, counted and fitted: dearer than a training so short, and of no interest if that differs."""
        return Decisions(self.method, self.ready, self.bench)

    def differs_from(self, other):
        """Tell whether anything that is trained, decided, counted or fitted is another."""
        trained = (self.course, self.weights) != (other.course, other.weights)
        return trained or self.decided.differ_from(other.decided)


@cache
def look_at(method):
    """Return the look at a method's own settings, which several tests share."""
    return Look(method)


def networks_read(thing):
    """Yield the networks that a function closes over, itself or by other functions."""
    todo, seen = [thing], set()
    while todo:
        thing = todo.pop()
        if id(thing) in seen:
            continue
        seen.add(id(thing))
        if isinstance(thing, torch.nn.Module):
            yield thing
        elif isinstance(thing, FunctionType):
            todo += [cell.cell_contents for cell in thing.__closure__ or ()]
        elif isinstance(thing, MethodType):
            todo += [thing.__func__, thing.__self__]
        elif isinstance(thing, partial):
            todo += [thing.func, *thing.args, *thing.keywords.values()]
        elif isinstance(thing, list | tuple):
            todo += thing


def buffers_of_frozen(model, trained):
    """Yield the buffers, such as running statistics, of modules that have parameters, none of which is trained."""
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(id(p) in trained for p in own):
            yield from module.buffers()


class Decisions:
    """What is decided and counted at all knobs, and fitted; each part is looked at when it is asked for.

    The knob in the middle comes first: where decisions differ, that one mostly tells.
    """

    ON_VALIDATION = (0, 2)
    """Which parts are those of validation data."""

    def __init__(self, method, ready, bench):
        middle = len(method.knobs) // 2
        cut = (method.knobs[middle : middle + 1], method.knobs[:middle] + method.knobs[middle + 1 :])
        self._asked = [
            *(partial(method.sweep, ready, bench, split, knobs) for knobs in cut for split in ("validation", "test")),
            partial(method.full_model, ready, bench),
            lambda: getattr(ready, "fitted", None),
        ]
        self._told = {}

    def part(self, number):
        if number not in self._told:
            self._told[number] = repr(self._asked[number]())
        return self._told[number]

    def differ_from(self, other):
        return any(self.part(number) != other.part(number) for number in range(len(self._asked)))


@cache
def fully_trained(method):
    """Return the `Decisions` of a method whose training is not cut short: those of one that knows nothing are alike."""
    bench = Bench(test=100, executed=8, cache=Path(os.environ["EELIT_TEST_CACHE"]))
    return Decisions(method, method.prepare(bench), bench)


def networks(ready):
    """Yield the networks in what a method prepared, those of single knobs included."""
    for value in vars(ready).values():
        for each in value.values() if isinstance(value, dict) else [value]:
            model = getattr(each, "model", each)
            if isinstance(model, torch.nn.Module):
                yield model


@pytest.mark.parametrize("key", KEYS)
def test_every_setting_has_an_effect(key, few_knobs, elsewhere):
    """In some variant, another valid value changes what is trained, decided or counted.

    That a value is refused is no effect: a setting may be checked and then not used.
    What is trained otherwise is kept under another name: else the cache gave one setting the weights of the other.
    """
    few_knobs(key)
    main = registry.get(key)
    first, *others = dict.fromkeys(main.variant(name, "tiny") for name in main.variants)
    variants = [first, *reversed(others)]  # what does nothing in the first is most often for the last
    seen = {method: look_at(method) for method in variants}
    fields = dict.fromkeys(field.name for method in variants for field in dataclasses.fields(method))
    idle = [field for field in fields if not any(has_effect(field, method, seen) for method in variants)]
    idle = [field for field in idle if not any(has_effect_when_trained(field, method) for method in variants)]
    assert idle == [field for each, field in REFUSED if each == key]
    kept = {}
    for method, look in seen.items():
        first = kept.setdefault(look.trainings, method)
        assert not look.trainings or seen[first].weights == look.weights, f"trained under one name: {first}, {method}"


def has_effect(field, method, seen):
    """Return whether some other value of a setting changes what is looked at; note what was seen."""

    def differs(changed):
        try:
            seen[changed] = seen.get(changed) or Look(changed, base=seen[method])
        except Differs:
            return True
        return seen[changed].differs_from(seen[method])

    return any_changes(field, method, differs)


def has_effect_when_trained(field, method):
    """Return whether some other value of a setting changes what is decided after a whole training."""
    return any_changes(field, method, lambda changed: fully_trained(changed).differ_from(fully_trained(method)))


def any_changes(field, method, differs):
    """Return whether the method is another with some other value of a setting; that one is refused tells nothing."""
    for other in alternatives(method, field) if hasattr(method, field) else []:
        try:
            if differs(method.replace({field: other})):
                return True
        except (ValueError, KeyError):
            continue
    return False


@every_variant
def test_what_a_stage_does_not_train_stays_as_it_is(key, variant, few_knobs, elsewhere):
    few_knobs(key)
    assert look_at(registry.get(key).variant(variant, "tiny")).moved == []


class Careless:
    """Trains the weight of a copy of what was built, and moves something else."""

    def __init__(self, moves):
        self.moves = moves

    def build(self):
        return torch.nn.Linear(2, 2)

    def prepare(self, bench):
        built = self.build()
        first, second, teacher = (copy.deepcopy(built) for _ in range(3))
        moved = {"nothing": torch.zeros(1), "the copy": second.bias, "a teacher": teacher.weight,
                 "what was trained before": first.weight, "what was built": built.weight}[self.moves]  # fmt: skip
        examples = Examples(list(torch.ones(8, 2)), torch.zeros(8))

        def train(student):
            def loss(batch):
                if student is second:
                    moved.data += 1
                return (student(batch.inputs) - reads(batch.inputs)).square().mean()

            def reads(x):
                return teacher(x).detach()

            def train():
                fit([student.weight], examples, loss, bench, label="", epochs=1, batch=4, rate=0.1)

            weights.trained(student, train, bench, data="", settings={})

        train(first)
        train(second)
        return SimpleNamespace(model=second)


@pytest.mark.parametrize("moves", ["nothing", "the copy", "a teacher", "what was trained before", "what was built"])
def test_it_is_noticed_what_a_stage_moves_that_it_does_not_train(moves):
    assert len(Look(Careless(moves)).moved) == (moves != "nothing")


@every_variant
def test_same_seed_same_operating_points(key, variant, few_knobs, elsewhere):
    """Two trainings, each stage cut short: what is not seeded differs from the first step."""
    few_knobs(key)
    method = registry.get(key).variant(variant, "tiny")
    once, again = looks = look_at(method), Look(method)
    assert (once.names, once.course, once.weights) == (again.names, again.course, again.weights)
    swept = [[look.decided.part(number) for number in Decisions.ON_VALIDATION] for look in looks]
    assert swept[0] == swept[1]


@pytest.mark.parametrize("key", KEYS)
def test_source_tells_everything(key):
    info = registry.describe(key)
    assert info.title.endswith(").")
    assert [section for section in SECTIONS if not info.sections.get(section)] == []
    assert info.deviations
    assert info.settings
    assert [setting.name for setting in info.settings if not setting.meaning] == []
    if (lines := len(info.source.splitlines())) > LONG:
        warnings.warn(f"{info.path.name} has {lines} lines; most methods need at most {LONG}", stacklevel=1)


@pytest.mark.parametrize("key", KEYS)
def test_configuration_is_frozen_and_a_method(key):
    method = registry.get(key)
    assert isinstance(method, Method)
    field = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field, None)
    assert method.key == key
    for variant in method.variants:
        for scale in typing.get_args(Scale):
            assert method.variant(variant, scale).key == key
    assert set(method.tiny_variants) <= set(method.variants)
    rules, own = {rule.name for rule in conformance.RULES}, [name for name in method.variants if name]
    assert set(method.exempt) <= rules | {f"{name}: {rule}" for name in own for rule in rules}


@pytest.mark.parametrize("key", KEYS)
def test_functions_are_short(key):
    for name, lines in lengths(registry.describe(key).source):
        assert lines <= MOST, f"{name} is longer than {MOST} lines"
