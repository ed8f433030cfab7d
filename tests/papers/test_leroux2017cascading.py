"""What only the cascading network promises: who answers where, what is sent, and that its network stays as it was."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.claims import leroux2017cascading as claimed
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.families.tiers import Plan, Prepared
from eelit.methods.harness import registry
from eelit.methods.papers.leroux2017cascading import pooled
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.world.stream import Always, Journey
from eelit.methods.world.wire import Whole

KEY = "leroux2017cascading"


def tiny(variant="two stages", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


# Exit rule and traffic.


def test_the_rule_by_hand():
    """Sure enough is at or above tau; three output layers."""
    p = np.log([[[0.5, 0.5]], [[0.2, 0.8]], [[0.1, 0.9]]])
    for tau, exit_ in [(0.5, 0), (0.51, 1), (0.8 - 1e-9, 1), (0.81, 2), (1.1, 2)]:
        assert replay(MaxConfidence(tau), p).tolist() == [exit_]


@pytest.fixture
def whole(prepared):
    """The method whose states cross as they are, so that nothing depends on the place of the cut."""
    _, bench, ready = prepared(KEY)
    method = tiny(bits=0)
    return method, bench, Prepared(ready.model, ready.data, bench, method)


def test_what_is_sent_is_the_state_of_whoever_is_not_sure_on_the_device(whole):
    """Bytes = pictures without a local answer × size of h_s with 15 bytes beside; an answer is 42 bytes."""
    method, _, ready = whole
    seen = ready.split("test")
    size = len(Whole().pack(torch.zeros(1, 8, 4, 4))) + 15
    before = 1.0
    for tau in method.knobs:
        journeys = method.simulated(ready, "test", tau)
        passed = [journey for journey in journeys if journey.sent]
        assert {tuple(journey.sent) for journey in passed} <= {(size,)}
        assert {tuple(journey.returned) for journey in passed} <= {(42,)}
        local = float((replay(MaxConfidence(tau), seen.outputs) == 0).mean())
        assert len(passed) == round((1 - local) * len(journeys))
        assert local <= before  # the share that leaves by an output layer falls with tau
        before = local
    assert before == 0


def test_states_cross_in_few_bits_and_pictures_in_eight(prepared):
    """So the cloud sees each picture as it is, and of a state so many levels."""
    codec, generator = tiny(bits=2).codec, torch.Generator().manual_seed(0)
    state = torch.rand(1, 8, 4, 4, generator=generator).relu()
    picture = torch.randint(0, 256, (1, 1, 12, 12), generator=generator) / 255
    assert len(codec.unpack(codec.pack(state)).unique()) == 4
    assert torch.allclose(codec.unpack(codec.pack(picture)), picture, atol=1 / 500)
    assert len(codec.pack(state)) < len(tiny(bits=8).codec.pack(state)) < len(tiny(bits=0).codec.pack(state))
    assert tiny(bits=0).codec == Whole()
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    sizes = [len(method.codec.pack(h)) + 15 for h in ready.model.stages[0](torch.stack(seen.examples.inputs)).split(1)]
    assert [sum(journey.sent) for journey in method.simulated(ready, "test", 1.1)] == sizes


def test_ends_of_tau_send_everything_or_nothing(whole):
    method, bench, ready = whole
    assert not any(journey.sent for journey in method.simulated(ready, "test", 0.0))
    never = method.simulated(ready, "test", 1.1)
    assert all(journey.sent for journey in never)
    assert torch.equal(ready.split("test").told(never), ready.split("test").answers[-1])
    (last,) = method.sweep(ready, bench, "test", [1.1])
    assert last.quality == method.full_model(ready, bench)[0]


@pytest.mark.parametrize("cuts", [(0,), (2,), (3,), (1, 2)])
def test_answers_do_not_depend_on_where_the_network_is_cut(whole, cuts):
    method, _, ready = whole
    machines = len(cuts) + 1
    other = method.replace(
        {"cuts": cuts, "speeds": (3e6, 1e7, 1e8)[:machines],
         "bandwidths": (8e4,) * len(cuts), "round_trips": (0.04,) * len(cuts)}
    )  # fmt: skip
    for tau in (0.0, 0.8, 1.1):
        ours, theirs = (each.simulated(ready, "test", tau) for each in (method, other))
        assert [journey.exit for journey in ours] == [journey.exit for journey in theirs]
        assert torch.equal(ready.split("test").told(ours), ready.split("test").told(theirs))


def test_multiply_accumulates_are_those_up_to_the_exit_wherever_they_are_done(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    for sample, journey in enumerate(method.simulated(ready, "test", 0.8)):
        assert sum(journey.macs) == seen.costs[journey.exit, sample]
        assert len(journey.macs) == (1 if journey.exit == 0 else 2)


def test_time_by_hand(prepared):
    """On the device MACs ÷ speed; a picture that goes on pays the link at that second, the travel and the server."""
    method, _, ready = prepared(KEY)
    world, seen = method.world("test", 0), ready.split("test")
    journeys = method.simulated(ready, "test", 0.8)
    here = next(journey for journey in journeys if journey.exit == 0)
    assert here.milliseconds == pytest.approx(1000 * seen.costs[0, 0] / 3e6)
    there = next(journey for journey in journeys if journey.exit == 2)
    up = there.begun + seen.costs[0, 0] / 3e6
    trace = world.links[0].bandwidth
    arrived = trace.finish(up, 8 * there.sent[0]) + 0.02
    done = arrived + (seen.costs[2, 0] - seen.costs[0, 0]) / 1e8
    assert there.answered == pytest.approx(trace.finish(done, 8 * 42) + 0.02)


def test_bandwidth_wanders_apart_on_each_split_seed_and_link():
    method = registry.get(KEY).replace({"bandwidths": (8e6, 2e6), "round_trips": (0.1, 0.2), "speeds": (1.0, 2.0, 3.0)})
    worlds = [method.world(split, seed) for split, seed in (("test", 0), ("validation", 0), ("test", 1), ("test", 0))]
    first = [world.links[0].bandwidth for world in worlds]
    assert first[0] == first[3]
    assert len({trace.times for trace in first[:3]}) == 3
    assert worlds[0].links[0].bandwidth.times != worlds[0].links[1].bandwidth.times
    for link, mean, travel in zip(worlds[0].links, (8e6, 2e6), (0.1, 0.2), strict=True):
        assert {rate / mean for rate in link.bandwidth.rates} <= {0.5, 0.75, 1.0, 1.5, 2.0}
        assert link.round_trip == travel
    assert [computer.speed.mean for computer in worlds[0].computers] == [1, 2, 3]
    assert method.came(3) == [0, 0.25, 0.5]


def test_each_machine_holds_its_own_parts_alone(prepared):
    method, bench, ready = prepared(KEY)
    device, cloud = method.machines(ready)
    assert (set(device.stages), set(cloud.stages)) == ({0}, {1, 2})
    assert (set(device.heads), set(cloud.heads)) == ({0}, {1, 2})
    assert method.execute(ready, bench, 0.8).agrees


# Network and training.


def test_output_layers_are_one_linear_layer_on_means_over_places():
    torch.manual_seed(0)
    head = tiny().head((6, 10, 10), 3)
    x = torch.randn(2, 6, 10, 10)
    line = head[-1]
    assert (type(head[-1]), line.weight.shape) == (nn.Linear, (3, 6 * 16))
    by_hand = F.adaptive_avg_pool2d(x, 4).flatten(1) @ line.weight.T + line.bias
    assert torch.allclose(head(x), by_hand, atol=1e-6)
    assert torch.allclose(head(pooled(x)), by_hand, atol=1e-6)
    assert tiny().head((6, 3, 2), 3)[-1].weight.shape == (3, 36)  # a small map is read as it is
    assert pooled(torch.zeros(1, 6, 3, 2)).shape == (1, 6, 3, 2)


def test_two_stages_train_the_network_and_then_its_output_layers(wired):
    model, (first, second) = wired(tiny(rate=3e-3, head_rate=7e-3, head_epochs=3.0))
    index, x = next(first.train.batches(16))
    y = first.train.targets[index]
    model.eval()
    assert first.loss(first.batch_of(index, x)).item() == pytest.approx(
        F.cross_entropy(model.full(x), y).item(), rel=1e-4
    )
    assert set(first.rates) == {id(p) for p in model.plain_network().parameters()}
    index, states = next(second.train.batches(16))
    inputs = torch.stack([first.train.inputs[i] for i in index.tolist()])
    targets = second.train.targets[index]
    by_hand = sum(F.cross_entropy(logits, targets) for logits in model(inputs)[:-1])
    assert second.loss(second.batch_of(index, states)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(second.rates) == {id(p) for head in model.heads[:-1] for p in head.parameters()}
    assert (set(first.rates.values()), set(second.rates.values())) == ({3e-3}, {7e-3})
    assert [(stage.epochs, stage.batch, len(stage.train)) for stage in (first, second)] == [(8, 32, 600), (3, 32, 600)]


def test_joint_training_minimises_all_losses_over_everything(wired):
    model, (stage,) = wired(tiny("joint"))
    index, x = next(stage.train.batches(16))
    targets = stage.train.targets[index]
    model.eval()
    by_hand = sum(F.cross_entropy(logits, targets) for logits in model(x))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(by_hand.item(), rel=1e-4)
    assert set(stage.rates) == {id(p) for p in model.parameters()}
    assert (set(stage.rates.values()), stage.epochs, stage.batch, len(stage.train)) == ({1e-2}, 8, 32, 600)


def test_output_layers_change_nothing_of_the_network():
    """Its weights, running means and last answers stay bit for bit."""
    method = tiny(train_size=64)
    model, after = method.build(data := method.load(), 0), []

    def watch(stage):
        if stage is None:
            after.append({name: value.clone() for name, value in model.plain_network().state_dict().items()})

    method.train(model, data, Bench(watch=watch))
    first, second = after
    assert all(torch.equal(first[name], second[name]) for name in first)


# What is claimed.


@pytest.mark.parametrize(("took", "loss", "holds"), [(66.0, 0.02, True), (67.0, 0.0, False), (50.0, 0.021, False)])
def test_a_third_of_the_time_must_be_saved_at_little_loss(took, loss, holds):
    assert claimed.sooner(took, 100.0, loss, 0.7).holds is holds


@pytest.mark.parametrize(
    ("cloud", "device", "holds", "said"),
    [
        (1000.0, 1000.0, True, "sooner than the cloud from 0.0005 to 0.32 Mbit/s, than the device from 0.0005 to 0.32"),
        (1000.0, 400.0, False, "sooner than the cloud from 0.0005 to 0.32 Mbit/s, than the device at none;"),
        (400.0, 1000.0, False, "sooner than the cloud at none, than the device from 0.0005 to 0.32 Mbit/s;"),
        (550.0, 550.0, False, "sooner than the cloud from 0.0005 to 0.32 Mbit/s, than the device from 0.0005 to 0.32"),
    ],
)
def test_at_some_bandwidth_a_tenth_must_be_saved_against_both(monkeypatch, cloud, device, holds, said):
    def simulated(self, ready, split, tau, *, only=None):
        return [Journey(0.0, answered=(0.5 if only is None else cloud / 1000))]

    monkeypatch.setattr(type(tiny()), "simulated", simulated)
    found = claimed.between(tiny(), None, 0.7, device)
    assert found.holds is holds
    assert found.measured.startswith(said)


def test_bandwidths_that_are_tried_are_those_of_the_links(prepared, monkeypatch):
    """The slower the link, the later both are; and the cloud has each picture itself."""
    method, _, ready = prepared(KEY)
    plans = []
    simulate = type(method).simulated
    monkeypatch.setattr(
        type(method),
        "simulated",
        lambda self, *a, only=None: plans.append((self.bandwidths, only)) or simulate(self, *a, only=only),
    )
    claimed.between(method, ready, 0.8, 50.0)
    assert [bandwidths for bandwidths, _ in plans[::2]] == [(8e4 * times,) for times in claimed.TIMES]
    assert {only for _, only in plans} == {None, Always(Plan((0,)))}


@pytest.mark.parametrize(
    ("sent", "holds"),
    [
        ([[], [], [100]], (True, True)), ([[], [100], [100]], (False, True)), ([[], [], [301]], (True, False)),
        ([[], [], [299]], (True, True)),
    ],
)  # fmt: skip
def test_few_pictures_and_few_bytes_must_be_sent(sent, holds):
    journeys = [Journey(0.0, sent=sizes) for sizes in sent]
    pictures = [Journey(0.0, sent=[size]) for size in (150, 250)]
    assert tuple(outcome.holds for outcome in claimed.sparing(journeys, pictures)) == holds


def test_without_a_connection_the_device_answers_at_once(prepared):
    method, _, ready = prepared(KEY)
    own = ready.split("test").answers[0].argmax(-1) == ready.split("test").targets
    alone = float(own.double().mean())
    found = claimed.cut_off(method, ready, 0.95, alone + 0.049)
    assert found.holds
    assert f"accuracy {alone:.4f} instead of" in found.measured
    assert not claimed.cut_off(method, ready, 0.95, alone + 0.051).holds


def test_claims_are_tried_at_the_cheapest_threshold_that_loses_little(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked = []
    simulate = type(method).simulated
    monkeypatch.setattr(
        type(method),
        "simulated",
        lambda self, ready, split, tau, *a, **k: asked.append(tau) or simulate(self, ready, split, tau, *a, **k),
    )

    def points(*qualities):
        return [
            OperatingPoint(knob=k, quality=q, cost=c, speed_up=1, exits=[1])
            for q, k, c in zip(qualities, (0.0, 0.6, 1.1), (1, 2, 3), strict=True)
        ]

    whole = SimpleNamespace(name="all on the device", test=points(0.9, 0.9, 0.9)[2:])
    curve = SimpleNamespace(
        validation=points(0.8, 0.895, 0.9), test=points(0.7, 0.9, 0.9), full_quality=0.9, baselines=[whole]
    )
    found = claimed.claims(method, ready, bench, curve)
    assert {tau for tau in asked if tau is not None} == {0.6}
    assert len(asked) == 2 * (1 + len(claimed.TIMES))  # with links of each bandwidth, and all pictures sent
    assert found[0].measured.endswith("accuracy -0.0000, at tau = 0.6") or found[0].measured.endswith(
        "accuracy +0.0000, at tau = 0.6"
    )
    assert len(found) == 5


def test_a_later_tau_never_answers_sooner(prepared):
    method, _, ready = prepared(KEY)
    every = [method.simulated(ready, "validation", tau) for tau in method.knobs]
    for earlier, later in pairwise(every):
        assert all(a.answered <= b.answered + 1e-9 for a, b in zip(earlier, later, strict=True))
    always = Always(Plan((1,), 0.7))
    assert method.simulated(ready, "validation", None, only=always) == every[method.knobs.index(0.7)]
