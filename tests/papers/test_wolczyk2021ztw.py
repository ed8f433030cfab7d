"""What only Zero Time Waste promises: the invariants of the paper, and the released code on the same numbers."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import InternalClassifier, condensed
from eelit.methods.claims import wolczyk2021ztw as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.kaya2019sdn import ShallowDeep
from eelit.methods.papers.wolczyk2021ztw import CascadedClassifier, Ensemble, ZeroTimeWaste, cascaded
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.joint import exit_losses

KEY = "wolczyk2021ztw"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def tiny(variant="ZTW", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def ensemble(omega, beta, *, geometric=True):
    """An ensemble with these numbers."""
    found = Ensemble(len(omega), len(beta), geometric=geometric)
    with torch.no_grad():
        found.omega.copy_(torch.tensor(omega))
        found.beta.copy_(torch.tensor(beta))
    return found


def classifier(shape, classes, reads):
    torch.manual_seed(0)
    return CascadedClassifier(InternalClassifier(shape, classes), reads)


def q_of(members, p):
    """The answer ``[N, C]`` of an ensemble to probabilities ``[N, m, C]``."""
    with torch.no_grad():
        return members((torch.tensor(p).log(),)).softmax(-1)


# Ensembles.


def test_geometric_ensemble_by_hand():
    """q ~ b p_1^(w_1/2) p_2^(w_2/2) with w = (2, 4), b = (1, 3): .5 · .2², 3 · .5 · .8²."""
    found = q_of(ensemble([math.log(2), math.log(4)], [0.0, math.log(3)]), [[[0.5, 0.5], [0.2, 0.8]]])
    a, b = 0.5 * 0.04, 3 * 0.5 * 0.64
    assert found[0].tolist() == pytest.approx([a / (a + b), b / (a + b)], rel=1e-5)


def test_additive_ensemble_by_hand():
    """q ~ w_1 p_1 + w_2 p_2 + b with w = (2, 4), b = (1, 3)."""
    members = ensemble([math.log(2), math.log(4)], [0.0, math.log(3)], geometric=False)
    found = q_of(members, [[[0.5, 0.5], [0.2, 0.8]]])
    assert found[0].tolist() == pytest.approx([(1 + 0.8 + 1) / 10, (1 + 3.2 + 3) / 10], rel=1e-5)
    logits = members((torch.tensor([[[0.5, 0.5], [0.2, 0.8]]]).log(),))
    assert logits.exp().sum().item() == pytest.approx(1)


def test_alone_and_among_equals_the_geometric_ensemble_says_the_same():
    p = [[[0.1, 0.2, 0.7]], [[0.6, 0.3, 0.1]]]
    assert torch.allclose(q_of(ensemble([0.0], [0.0] * 3), p), torch.tensor(p)[:, 0])
    three = [each * 3 for each in p]
    assert torch.allclose(q_of(ensemble([0.0] * 3, [0.0] * 3), three), torch.tensor(p)[:, 0])


def test_one_classifier_can_veto_a_class_in_the_geometric_ensemble_alone():
    p = [[[0.5, 0.5, 0.0], [0.1, 0.1, 0.8]]]
    assert q_of(ensemble([0.0, 2.0], [0.0] * 3), p)[0, 2] == 0
    assert q_of(ensemble([0.0, 2.0], [0.0] * 3, geometric=False), p)[0, 2] > 0.3


def test_without_weight_on_the_others_the_last_speaks_for_itself():
    """omega_m(m) = ln m, all others at -infinity: Shallow-Deep Networks."""
    z = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    members = ensemble([-200.0, -200.0, math.log(3)], [0.0] * 5)
    assert torch.allclose(members((z,)).softmax(-1), z[:, -1].softmax(-1), atol=1e-6)


def test_ensembles_start_near_the_plain_mean():
    torch.manual_seed(0)
    found = Ensemble(5000, 4, geometric=True)
    assert found.omega.std().item() == pytest.approx(0.01, rel=0.05)
    assert found.omega.mean().item() == pytest.approx(0, abs=1e-3)
    assert found.beta.tolist() == [0.0] * 4


# Connections.


def test_a_classifier_reads_the_logits_of_the_one_before_beside_its_map():
    one, two = classifier((2, 8, 8), 3, 0), classifier((4, 4, 4), 3, 3)
    x, y = torch.randn(5, 2, 8, 8), torch.randn(5, 4, 4, 4)
    first, second = cascaded([one, two], [x, y])
    assert torch.allclose(first, one.linear(one.pool(x).flatten(1)))
    W, c = two.linear.weight, two.linear.bias
    assert W.shape == (3, 4 * 16 + 3)
    assert torch.allclose(second, y.flatten(1) @ W[:, :64].T + first @ W[:, 64:].T + c, atol=1e-5)


def test_of_several_classifiers_each_reads_the_one_right_before_it():
    """Not the first, whether the network is run or classifiers learn on its maps."""
    method = tiny(blocks=2, shares=(0.2, 0.5, 0.8))
    model = method.build(data := method.load(), 0)
    x = torch.stack(data.train.inputs[:6])
    with torch.no_grad():
        *states, _ = model.states(x)
        maps, z = [state[0] for state in states], []
        for each, of in zip(model.classifiers, maps, strict=True):
            z.append(each(of, z[-1] if z else None))
        assert len(z) == 3
        assert torch.allclose(states[-1][1], torch.stack(z, dim=1), atol=1e-5)
        assert torch.allclose(cascaded(model.classifiers, maps), torch.stack(z), atol=1e-5)


def test_no_gradient_passes_to_the_classifier_before():
    one, two = classifier((2, 8, 8), 3, 0), classifier((4, 4, 4), 3, 3)
    z = cascaded([one, two], [torch.randn(5, 2, 8, 8), torch.randn(5, 4, 4, 4)])
    exit_losses(z, torch.tensor([0, 1, 2, 0, 1]))[1].backward()
    assert not any(p.grad is not None and p.grad.any() for p in one.parameters())
    assert two.linear.weight.grad[:, 64:].abs().sum() > 0


@pytest.mark.parametrize("variant", ZeroTimeWaste.variants)
def test_exits_are_ensembles_of_connected_classifiers_and_the_last_the_network_s_own(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    model, x = ready.model, torch.stack(list(ready.data.test.inputs[:8]))
    with torch.inference_mode():
        outputs, maps, state = model(x), [], x
        for body in model.bodies:
            state = body(state)
            maps.append(state)
        z, own = [], None
        for each, of in zip(model.classifiers, maps[:-1], strict=True):
            phi = of.flatten(1)  # 4×4 pixels are not pooled
            linear = each.linear
            joined = torch.cat([phi, own], dim=1) if own is not None and method.cascade else phi
            own = joined @ linear.weight.T + linear.bias
            z.append(own)
            log_p, w, m = torch.stack(z).log_softmax(-1), model.heads[len(z) - 1].omega.exp(), len(z)
            beta = model.heads[m - 1].beta
            if method.geometric:
                said = (w[:, None, None] * log_p).sum(0) / m + beta
            else:
                said = (w[:, None, None] * log_p.exp()).sum(0) + beta.exp()
                said = (said / said.sum(1, keepdim=True)).log()
            assert torch.allclose(outputs[m - 1], said, atol=1e-4)
        assert torch.allclose(outputs[-1], model.heads[-1](maps[-1]), atol=1e-5)
        assert torch.allclose(outputs[-1], model.full(x), atol=1e-5)
    assert [each.reads for each in model.classifiers] == [0, 10 if method.cascade else 0]


def test_without_a_sure_exit_the_frozen_network_answers(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    assert method.rule(0.7, ready) == MaxConfidence(0.7)
    found = infer(ready.model, x, method.rule(1.1, ready))
    with torch.inference_mode():
        assert torch.equal(found.outputs, ready.model.full(x))
    assert (infer(ready.model, x, method.rule(1 / 10, ready)).exits == 0).all()


def test_the_trained_network_really_stops(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, method.rule(0.9, ready))
    assert found.exits.tolist() == replay(MaxConfidence(0.9), outputs).tolist()
    assert len(set(found.exits.tolist())) > 1


def test_what_recycling_costs_is_counted():
    """Beside Shallow-Deep Networks: C more inputs to a classifier, and m numbers for each class in an ensemble."""
    data = tiny().load()
    x = data.train.inputs[0][None]
    shared = {name: getattr(tiny(), name) for name in claimed.SHARED}
    (plain, cut), (ours, full) = (
        costs.both_costs(method.build(data, 0), x) for method in (ShallowDeep().replace(shared), tiny())
    )
    assert [b - a for a, b in zip(plain, ours, strict=True)] == [10, 10 + 100 + 20, 10 + 100 + 20]
    assert full[-1] == cut[-1]  # the plain network has none of it


@pytest.mark.parametrize("scale", ["smoke", "default"])
def test_the_network_for_cluttered_pictures_has_a_place_for_each_classifier(scale):
    method = registry.get(KEY)
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    assert method.variant(next(iter(method.variants)), scale).build(pictures, 0).exits == 6


# The training.


def test_three_stages_train_network_classifiers_and_ensembles_one_after_the_other(wired):
    method = tiny(batch=20, head_epochs=1.5, ensemble_epochs=2.5, rate=3e-3, head_rate=7e-3, ensemble_rate=9e-3)
    model, (first, second, third) = wired(method)
    internal = {id(p) for each in model.classifiers for p in each.parameters()}
    ensembles = {id(p) for p in model.heads[:-1].parameters()}
    assert second.rates == dict.fromkeys(internal, 7e-3)
    assert third.rates == dict.fromkeys(ensembles, 9e-3)
    assert first.rates == dict.fromkeys({id(p) for p in model.parameters()} - internal - ensembles, 3e-3)
    told = [(stage.epochs, stage.batch, len(stage.train)) for stage in (first, second, third)]
    assert told == [(8.0, 20, 600), (1.5, 20, 600), (2.5, 64, 600)]
    assert [type(stage.optimiser) for stage in (first, second, third)] == [
        torch.optim.AdamW, torch.optim.AdamW, torch.optim.Adam,
    ]  # fmt: skip
    assert all(torch.equal(stage.train.targets, first.train.targets) for stage in (second, third))


@pytest.mark.parametrize("variant", ZeroTimeWaste.variants)
def test_losses_of_the_three_stages(wired, variant):
    """Of the last exit; of what internal classifiers say themselves; of the ensembles, but not of the last exit."""
    model, (first, second, third) = wired(tiny(variant, network="vgg"))
    for each in model.heads[:-1]:
        torch.nn.init.normal_(each.omega)
    index = torch.arange(30, 50)
    x, y = torch.stack(first.train.inputs[30:50]), first.train.targets[30:50]
    with torch.no_grad():
        *said, last = (F.cross_entropy(logits, y).item() for logits in model(x))
        *states, _ = model.states(x)
        z = states[-1][1]
        own = [F.cross_entropy(z[:, j], y).item() for j in range(2)]
        maps = [condensed(state) for state, _ in states]
    assert first.loss(first.batch_of(index, x)).item() == pytest.approx(last, rel=1e-5)
    assert second.loss(second.batch_of(index, maps)).item() == pytest.approx(sum(own), rel=1e-5)
    kept = [(z[:, :1],), (z,)]
    assert third.loss(third.batch_of(index, kept)).item() == pytest.approx(sum(said), rel=1e-5)
    assert sum(said) != pytest.approx(sum(own), rel=1e-3)


def test_frozen_stages_read_what_the_stages_before_made(wired):
    model, (first, second, third) = wired(tiny(network="vgg"))
    for stage, read in ((second, lambda state: [condensed(state[0])]), (third, lambda state: [state[1]])):
        index, stored = next(stage.train.batches(10))
        x = torch.stack([first.train.inputs[i] for i in index.tolist()])
        with torch.no_grad():
            *states, _ = model.states(x)
        for kept, state in zip(stored, states, strict=True):
            (now,) = read(state)
            assert torch.allclose(kept[0] if isinstance(kept, tuple) else kept, now, atol=1e-5)


def test_without_connections_classifiers_are_those_of_shallow_deep_networks():
    """Network, start, loss and data are the same, so what is learned is."""
    method = tiny("no cascade", train_size=96, epochs=1.0, head_epochs=1.0, ensemble_epochs=0.1)
    shallow = ShallowDeep().replace({name: getattr(method, name) for name in claimed.SHARED})
    data = method.load()
    ours, theirs = method.build(data, 0), shallow.build(data, 0)
    bench = Bench()
    method.train(ours, data, bench)
    shallow.train(theirs, data, bench)
    x = data.train.inputs[0][None]
    with torch.no_grad():
        assert torch.equal(ours.full(x), theirs.full(x))
        *_, (_, z), _ = ours.states(x)
        assert torch.allclose(z[0], theirs(x)[:-1, 0], atol=1e-6)


def test_the_network_is_trained_once_for_both_papers(tmp_path):
    """Whatever reads it: the cache has one training of it."""
    method = tiny(train_size=64)
    shallow = ShallowDeep().replace({name: getattr(method, name) for name in claimed.SHARED})
    bench, counts = Bench(cache=tmp_path, most_steps=1), []
    for each in (method, shallow, tiny("no cascade", train_size=64)):
        each.train(each.build(data := each.load(), 0), data, bench)
        counts.append(len(bench.trainings))
    assert counts == [3, 4, 6]


# The released code.


def test_classifiers_and_their_gradients_agree_with_the_released_code(golden):
    found, maps = [], []
    for m, case in enumerate(golden["classifiers"]):
        each = classifier(case["shape"], len(case["bias"]), 3 if m else 0)
        with torch.no_grad():
            each.linear.weight.copy_(torch.tensor(case["weight"]))
            each.linear.bias.copy_(torch.tensor(case["bias"]))
            each.pool.alpha.fill_(case["alpha"])
        found.append(each)
        maps.append(torch.tensor(case["x"]))
    z = cascaded(found, maps)
    assert torch.allclose(z, torch.tensor(golden["z"]), atol=2e-3)
    loss = exit_losses(z, torch.tensor(golden["targets"])).sum()
    loss.backward()
    assert loss.item() == pytest.approx(golden["loss"], rel=1e-3)
    for each, theirs in zip(found, golden["gradients"], strict=True):
        assert torch.allclose(each.linear.weight.grad, torch.tensor(theirs), atol=1e-3)


@pytest.mark.parametrize("kind", ["geometric", "additive"])
def test_ensembles_agree_with_the_released_code_and_with_the_later_one(golden, kind):
    """The first adds 1e-6 to what it sums up; where the numbers are not small that is all that differs."""
    known = golden["ensembles"]
    members = ensemble(known["omega"], known["beta"], geometric=kind == "geometric")
    with torch.no_grad():
        found = members((torch.tensor(known["z"]),))
    assert torch.allclose(found, torch.tensor(known[kind]), atol=5e-5)
    assert torch.allclose(found, torch.tensor(known[f"later_{kind}"]), atol=2e-5)


def test_the_start_of_ensembles_agrees_with_the_released_code(golden):
    assert golden["ensembles"]["start"] == {"omega_deviation": 0.01}


# What is claimed.


def test_rivals_are_on_the_same_network_and_each_is_compared_at_equal_cost(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    asked, judged = [], []
    gains = {"SDN": [0.006, 0.006], "PABEE": [0.004], "additive ensembles": [0.005], "no cascade": []}

    def compared(ours, theirs):
        judged.append((ours, theirs))
        return list(gains.values())[len(judged) - 1]

    monkeypatch.setattr(claimed, "points_of", lambda rival, ready, bench: asked.append(rival) or rival)
    monkeypatch.setattr(claimed, "tried", lambda rival, ready, rules: (rival, list(rules)))
    monkeypatch.setattr(claimed, "gains_of_mixtures", compared)
    monkeypatch.setattr(ShallowDeep, "prepare", lambda self, bench: SimpleNamespace())
    monkeypatch.setattr(type(method), "prepare", lambda self, bench: SimpleNamespace())
    found = claimed.claims(method, ready, bench, None)
    assert [(o.name, o.holds) for o in found] == [
        ("better than SDN", True), ("better than PABEE", False), ("better than additive ensembles", True),
        ("better than no cascade", False),
    ]  # fmt: skip
    shallow, additive, apart = asked
    assert isinstance(shallow, ShallowDeep)
    assert shallow.frozen
    assert all(getattr(shallow, name) == getattr(method, name) for name in claimed.SHARED)
    assert (additive, apart) == (method.replace({"geometric": False}), method.replace({"cascade": False}))
    assert {id(ours) for ours, _ in judged} == {id(judged[0][0])}
    assert judged[0][0] == (method, [MaxConfidence(knob) for knob in method.knobs[1:-1]])
    assert [theirs for _, theirs in judged] == [shallow, (shallow, [Patience(1)]), additive, apart]


@pytest.mark.parametrize("variant", ["additive", "no cascade"])
def test_ablations_are_compared_with_others_alone(prepared, monkeypatch, variant):
    method, bench, ready = prepared(KEY, variant)
    monkeypatch.setattr(claimed, "gains_of_mixtures", lambda ours, theirs: [0.0])
    found = claimed.claims(method, ready, bench, None)
    assert [outcome.name for outcome in found] == ["better than SDN", "better than PABEE"]
