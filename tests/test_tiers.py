"""One network on several machines: tables say of each what it does, whatever is cut where, by whichever rule."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from eelit.methods.engine import costs
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.families import tiers
from eelit.methods.families.tiers import (
    Executed,
    Machine,
    Plan,
    StoredTiers,
    answer_message,
    crossing,
    on_message,
    read_answer,
    state_sizes,
)
from eelit.methods.policies.base import said
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.policies.surest import Surest
from eelit.methods.world.machines import Computer, Link, Power
from eelit.methods.world.shown import shown
from eelit.methods.world.stream import Always, Journey, World, stream
from eelit.methods.world.traces import steady
from eelit.methods.world.wire import Quantised, Whole

EXITS, SAMPLES, CLASSES = 4, 12, 3


@dataclass(frozen=True)
class Weighing:
    """A rule that multiplies: it stops where a product with the answer is large enough."""

    threshold: float

    def start(self):
        return ()

    def step(self, state, output):
        weights = torch.ones(CLASSES, 2)
        return state, (said(output).softmax(-1) ** 2 @ weights)[:, 0] >= self.threshold


@dataclass(frozen=True)
class Leaping:
    """A rule that passes the exit behind the first one over."""

    threshold: float

    def start(self):
        return ()

    def step(self, state, output):
        n = len(said(output))
        here = state[0] if state else torch.zeros(n, dtype=torch.int64)
        return (torch.where(here == 0, 2, here + 1),), said(output).softmax(-1).amax(-1) >= self.threshold

    def route(self, state, output):
        return state[0]


class Told(nn.Module):
    """A head that says more than its answer."""

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(6, CLASSES)

    def forward(self, x):
        return {"answer": self.line(x), "norm": x.norm(dim=1)}


@pytest.fixture(scope="module", params=["plain heads", "heads that say more"])
def network(request):
    torch.manual_seed(0)
    stages = [nn.Sequential(nn.Linear(5 if i == 0 else 6, 6), nn.ReLU()) for i in range(EXITS)]
    heads = [Told() if request.param != "plain heads" and i < 2 else nn.Linear(6, CLASSES) for i in range(EXITS)]
    for head in heads:
        line = head.line if isinstance(head, Told) else head
        line.weight.data *= 15
    return MultiExit(stages, heads).eval()


@pytest.fixture(scope="module")
def examples():
    return Examples(
        list(torch.randn(SAMPLES, 5, generator=torch.Generator().manual_seed(1))), torch.arange(SAMPLES) % 3
    )


def tables(network, examples, codec, rule, *, single=True):
    every, cut = costs.both_costs(network, examples.inputs[0][None])
    with torch.inference_mode():
        outputs = network(torch.stack(list(examples.inputs)))
    repeated = [np.repeat(np.array(row, dtype=float)[:, None], SAMPLES, axis=1) for row in (every, cut)]
    return StoredTiers(
        examples, outputs, *repeated, said, network, codec, rule, Bench(), "test", single=single
    )  # fmt: skip


RULES = {"confidence": MaxConfidence, "surest": Surest, "patience": lambda t: Patience(int(t)), "product": Weighing}
KNOBS = {"confidence": 0.8, "surest": 0.8, "patience": 1, "product": 0.65}


def executed(network, examples, codec, rule, cuts):
    machines = [Machine(i, network, range(EXITS), rule, codec) for i in range(len(cuts) + 1)]
    return Executed(machines[0], [machine.handle for machine in machines[1:]], examples)


@pytest.mark.parametrize("cuts", [(0,), (1,), (3,), (4,), (1, 3), (0, 2), (2, 2), (0, 0), (4, 4)])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("codec", [Whole(), Quantised(bits=3)], ids=["whole", "quantised"])
def test_tables_say_of_every_machine_what_it_does(network, examples, codec, rule, cuts):
    """Multiply-accumulates, exits and bytes of each leg, and the answer; so the simulation of both is the same."""
    plan = Plan(cuts, float(KNOBS[rule]))
    work, stored = executed(network, examples, codec, RULES[rule], cuts), tables(network, examples, codec, RULES[rule])
    for sample in range(SAMPLES):
        assert list(work.legs(sample, plan)) == list(stored.legs(sample, plan))
    machines = tuple(Computer(steady(100.0)) for _ in (0, *cuts))
    world = World(machines, tuple(Link(steady(1e4), 0.1) for _ in cuts), Power(1, 1, 1))
    journeys = stream(world, stored, Always(plan), [0.0] * SAMPLES)
    assert journeys == stream(world, work, Always(plan), [0.0] * SAMPLES)
    answers = work.answers(journeys, torch.Size([CLASSES]))
    assert torch.allclose(answers, stored.told(journeys), atol=1e-5)
    assert len({journey.exit for journey in journeys}) > 1 or rule == "patience"


@pytest.mark.parametrize("cuts", [(0,), (1,), (2,), (4,), (1, 2)])
@pytest.mark.parametrize("exit_", [0, 1, -1])
def test_a_network_cut_off_asks_one_exit_alone(network, examples, cuts, exit_):
    plan, stored = Plan(cuts, None, exit_), tables(network, examples, Whole(), MaxConfidence)
    work = executed(network, examples, Whole(), MaxConfidence, cuts)
    for sample in range(4):
        legs = list(stored.legs(sample, plan))
        assert legs == list(work.legs(sample, plan))
        assert sum(leg.macs for leg in legs) == stored.static_costs[exit_, sample]
        assert legs[-1].left
    assert set(stored.course(plan).exits.tolist()) == {exit_ % EXITS}


@pytest.mark.parametrize("cuts", [(0,), (1,), (2,), (3,), (1, 2)])
def test_a_rule_may_pass_exits_over(network, examples, cuts):
    plan, stored = Plan(cuts, 0.8), tables(network, examples, Whole(), Leaping)
    work = executed(network, examples, Whole(), Leaping, cuts)
    assert all(list(work.legs(i, plan)) == list(stored.legs(i, plan)) for i in range(SAMPLES))
    assert set(stored.course(plan).exits.tolist()) <= {0, 2, 3}


def test_a_rule_that_passes_over_and_multiplies_is_refused(network, examples):
    class Both(Leaping):
        def step(self, state, output):
            torch.ones(2, 2) @ torch.ones(2, 2)
            return super().step(state, output)

    with pytest.raises(ValueError, match="must not multiply"):
        tables(network, examples, Whole(), Both).course(Plan((1,), 0.8))


def test_costs_of_machines_add_up_to_those_of_the_network(network, examples):
    stored = tables(network, examples, Whole(), Weighing)
    decisions = costs.decision_costs(Weighing(0.65), stored.outputs)
    assert decisions == [6, 12, 18, 18]
    for cuts in [(0,), (2,), (1, 3)]:
        course = stored.course(Plan(cuts, 0.65))
        for sample, legs in enumerate(course.legs):
            left = course.exits[sample]
            assert sum(leg.macs for leg in legs) == stored.costs[left, sample] + decisions[left]


def test_a_lossy_link_changes_what_is_behind_it_and_nothing_before(network, examples):
    stored = tables(network, examples, Quantised(bits=1), MaxConfidence)
    outputs, sizes = stored.crossed((2,))
    same = [torch.allclose(a, b, atol=1e-6) for a, b in zip(said(outputs), said(stored.outputs), strict=True)]
    assert same == [True, True, False, False]
    x = torch.stack(list(examples.inputs))
    with torch.inference_mode():
        state = network.stages[1](network.stages[0](x))
        messages = [Quantised(bits=1).pack(row[None]) for row in state]
        after = network.stages[2](torch.cat([Quantised(bits=1).unpack(message) for message in messages]))
        assert torch.allclose(said(outputs)[2], said(network.heads[2](after)), atol=1e-5)
    assert sizes.tolist() == [[len(message) for message in messages]]
    assert stored.crossed((4,))[0] is stored.outputs
    assert stored.crossed((2, 4))[1].tolist() == [sizes[0].tolist(), [0] * SAMPLES]
    assert stored.crossed((2, 2))[1].tolist() == [sizes[0].tolist()] * 2


def test_what_has_crossed_is_kept_in_the_cache_and_in_batches_the_same(network, examples, tmp_path):
    codec = Quantised(bits=6)
    first = replace(tables(network, examples, codec, Surest, single=False), bench=Bench(cache=tmp_path))
    outputs, sizes = first.crossed((1,))
    (kept,) = tmp_path.rglob("*.kept")
    before = kept.stat().st_mtime_ns
    again = replace(first, _crossed={}, _courses={}).crossed((1,))
    assert kept.stat().st_mtime_ns == before
    alone = crossing(network, codec, examples, (1,), batch=1)
    for found in (again, alone):
        assert torch.allclose(said(found[0]), said(outputs), atol=1e-5)
        assert found[1].tolist() == sizes.tolist()


def test_sizes_of_states_at_each_cut(network, examples):
    sizes = state_sizes(network, Whole(), examples)
    assert sizes.shape == (EXITS, SAMPLES)
    assert sizes[0, 0] == len(Whole().pack(torch.zeros(1, 5)))
    assert set(sizes[1:].flatten().tolist()) == {len(Whole().pack(torch.zeros(1, 6)))}


def test_messages_tell_plan_memory_and_state_or_an_answer():
    """A byte for the kind, eight for the knob, three for exits and the number of cuts, one each, two for a length."""
    message = on_message(Plan((1, 3), 0.5), 2, (), b"state")
    assert len(message) == 1 + 8 + 3 + 2 + 2 + 5
    assert message.endswith(b"state")
    assert read_answer(message) is None
    found = read_answer(answer_message(3, torch.tensor([[0.5, -2.0]])))
    assert (found[0], found[1].tolist()) == (3, [0.5, -2.0])
    assert len(answer_message(3, torch.zeros(1, 7))) == 2 + 28


def test_a_rule_goes_on_behind_the_link_where_it_was(network, examples):
    """Patience counts agreements on the device, the surest answer may be the device's: both cross with the state."""
    stored = tables(network, examples, Whole(), Surest)
    never = Plan((2,), 1.1)
    work = executed(network, examples, Whole(), Surest, (2,))
    world = World((Computer(steady(1e3)),) * 2, (Link(steady(1e6), 0.0),), Power(1, 1, 1))
    journeys = stream(world, work, Always(never), [0.0] * SAMPLES)
    surest = said(stored.outputs).softmax(-1).amax(-1).argmax(0)
    assert (surest < 2).any()
    expected = said(stored.outputs)[surest, torch.arange(SAMPLES)]
    assert torch.allclose(work.answers(journeys, torch.Size([CLASSES])), expected, atol=1e-5)


@pytest.mark.parametrize("cut", [0, 1, 2])
def test_a_device_that_is_left_alone_finishes_or_answers_by_what_it_has(network, examples, cut):
    """Nothing crosses: with an exit behind it the device gives its last answer, else it runs the rest."""
    world = World((Computer(steady(1e3)),) * 2, (Link(steady(0.0), 0.0),), Power(1, 1, 1), patience=1.0, alone=True)
    for plan in (Plan((cut,), 0.9), Plan((cut,), None)):
        stored, work = (
            tables(network, examples, Quantised(), Surest),
            executed(network, examples, Quantised(), Surest, (cut,)),
        )
        journeys = stream(world, stored, Always(plan), [0.0] * SAMPLES)
        assert journeys == stream(world, work, Always(plan), [0.0] * SAMPLES)
        whole = stored.course(Plan((EXITS,), plan.knob)).exits
        own = [exit_ if exit_ < cut or cut == 0 or plan.knob is None else cut - 1 for exit_ in whole.tolist()]
        assert [journey.exit for journey in journeys] == own
        assert torch.allclose(work.answers(journeys, torch.Size([CLASSES])), stored.told(journeys), atol=1e-5)
        first = next(journey for journey in journeys if journey.given_up)
        if plan.knob is None:
            assert sum(first.macs) == stored.static_costs[-1, 0]  # no part is run twice


def test_the_part_of_a_machine_holds_no_other_stage(network):
    machine = Machine(1, network, range(2, 4), MaxConfidence, Whole())
    assert (set(machine.stages), set(machine.heads)) == ({2, 3}, {2, 3})
    with pytest.raises(KeyError):
        machine.handle(on_message(Plan((1,), 0.5), 1, (), Whole().pack(torch.zeros(1, 6))))


def test_samples_are_told_by_their_own_plans(network, examples):
    stored = tables(network, examples, Whole(), MaxConfidence)
    plans = [Plan((1,), 0.0), Plan((1,), 1.1), Plan((1,), None, 1)]
    journeys = [Journey(0.0, plan=plans[i % 3], exit=(0, 3, 1)[i % 3]) for i in range(6)]
    expected = torch.stack([said(stored.outputs)[journey.exit, i] for i, journey in enumerate(journeys)])
    assert torch.equal(stored.told(journeys), expected)


@pytest.mark.parametrize("key", ["leroux2017cascading", "dong2022exitpredictor", "laskaridis2020spinn"])
def test_the_world_that_is_told_of_is_the_one_that_samples_go_through(key, prepared, monkeypatch):
    method, bench, ready = prepared(key)
    told, through = method.simulation(ready, bench), []
    monkeypatch.setattr(tiers, "stream", lambda world, *given: through.append(world) or stream(world, *given))
    for knob in (method.knobs[2], None):
        method.simulated(ready, "test", knob)
    method.execute(ready, bench, method.knobs[2])
    assert len(through) >= 4
    assert [shown(world) for world in through] == [told] * len(through)
    (bandwidth,) = (rate for rate in told.rates if rate.part == "link 1, bandwidth")
    assert len(set(bandwidth.rates)) > 2
    assert method.simulation(ready, replace(bench, seed=1)) != told


def test_what_is_not_finite_stops_nobody_on_either_side(network, examples):
    spoilt = Examples([examples.inputs[0] * math.nan, *examples.inputs[1:]], examples.targets)
    stored = tables(network, spoilt, Quantised(), MaxConfidence)
    work = executed(network, spoilt, Quantised(), MaxConfidence, (1,))
    plan = Plan((1,), 0.0)
    assert stored.course(plan).exits[0] == EXITS - 1
    assert list(work.legs(0, plan)) == list(stored.legs(0, plan))
    assert work.far[0].isnan().all()
