"""The registry × the rules that every method keeps, each method in its tiny setting, trained once per session."""

import ast
import dataclasses

import pytest

from eelit.methods import conformance, registry, runner
from eelit.methods.method import Method

KEYS = registry.keys()
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
    again = method.prepare(dataclasses.replace(bench, prepared_seconds=0.0))
    knobs = [method.knobs[0], method.knobs[len(method.knobs) // 2], method.knobs[-1]]
    assert method.sweep(again, bench, "validation", knobs) == method.sweep(ready, bench, "validation", knobs)


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
