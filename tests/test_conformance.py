"""The registry × the rules that every method keeps, each method in its tiny setting, trained once per session."""

import ast
import dataclasses
from itertools import pairwise

import numpy as np
import pytest
import torch

from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Method
from eelit.methods.families.exits import ExitMethod
from eelit.methods.harness import conformance, registry, runner

KEYS = registry.keys()
WITH_EXITS = [key for key in KEYS if isinstance(registry.get(key), ExitMethod)]
SECTIONS = ("Idea", "Training", "Exit rule", "Skipped", "Deviations")


@pytest.fixture(scope="module")
def curves(prepared):
    found = {}

    def curve(key):
        if key not in found:
            method, bench, ready = prepared(key)
            found[key] = runner.measure(method, ready, bench, "")
        return found[key]

    return curve


@pytest.mark.parametrize("rule", conformance.CURVE_CHECKS, ids=[rule[0] for rule in conformance.CURVE_CHECKS])
@pytest.mark.parametrize("key", KEYS)
def test_rule(key, rule, curves):
    name, statement, check = rule
    holds, measured = check(registry.get(key), curves(key))
    exempt = registry.get(key).exempt
    if name in exempt:
        assert not holds, f"{key} keeps “{statement}” ({measured}): the exemption is no longer needed"
    else:
        assert holds, f"{statement} {measured}"


@pytest.mark.parametrize("key", KEYS)
def test_same_seed_same_operating_points(key, prepared):
    method, bench, ready = prepared(key)
    again = method.prepare(dataclasses.replace(bench, prepared_seconds=0.0, cache=None))  # None: really trained again
    knobs = [method.knobs[0], method.knobs[len(method.knobs) // 2], method.knobs[-1]]
    assert method.sweep(again, bench, "validation", knobs) == method.sweep(ready, bench, "validation", knobs)


def undecided(method, ready):
    """Return test inputs of one shape, at most eight for each exit, and the policy that scatters them most."""
    seen = ready.split("test")
    pool = seen.examples.filled(200, 200)
    for knobs in (method.knobs, [sum(pair) / 2 for pair in pairwise(method.knobs)]):
        policies = [method.policy(knob, ready) for knob in knobs]
        exits, policy = max(
            ((replay(policy, seen.outputs)[pool], policy) for policy in policies), key=lambda found: len(set(found[0]))
        )
        if len(set(exits)) > 1:
            break
    chosen = np.sort(np.concatenate([np.flatnonzero(exits == i)[:8] for i in range(len(seen.outputs))]))
    return torch.stack([seen.examples.inputs[i] for i in pool[chosen].tolist()]), policy


@pytest.mark.parametrize("key", WITH_EXITS)
def test_what_a_sample_gets_does_not_depend_on_its_batch_mates(key, prepared):
    method, _, ready = prepared(key)
    x, policy = undecided(method, ready)
    together = infer(ready.model, x, policy)
    assert len(set(together.exits.tolist())) > 1
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    mixed, alone = infer(ready.model, x[order], policy), [infer(ready.model, one, policy) for one in x.split(1)]
    assert torch.equal(mixed.exits, together.exits[order])
    assert torch.equal(torch.cat([one.exits for one in alone]), together.exits)
    assert torch.allclose(mixed.outputs, together.outputs[order], atol=1e-5)
    assert torch.allclose(torch.cat([one.outputs for one in alone]), together.outputs, atol=1e-5)


@pytest.mark.parametrize("key", KEYS)
def test_source_tells_everything(key):
    info = registry.describe(key)
    assert info.title.endswith(").")
    assert [section for section in SECTIONS if not info.sections.get(section)] == []
    assert info.deviations
    assert info.settings
    assert [setting.name for setting in info.settings if not setting.meaning] == []
    assert len(info.source.splitlines()) <= 150


@pytest.mark.parametrize("key", KEYS)
def test_configuration_is_frozen_and_a_method(key):
    method = registry.get(key)
    assert isinstance(method, Method)
    field = dataclasses.fields(method)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(method, field, None)
    assert method.key == key
    for settings in [*method.variants.values(), method.tiny, method.smoke, method.full]:
        method.replace(settings)


@pytest.mark.parametrize("key", KEYS)
def test_functions_are_short(key):
    for node in ast.walk(ast.parse(registry.describe(key).source)):
        if isinstance(node, ast.FunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 40, f"{node.name} is longer than 40 lines"
