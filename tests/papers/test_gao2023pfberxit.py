"""What only PF-BERxiT promises: distances worked by hand, a flexible patience, adapters on an untouched encoder."""

import math
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.backbones.encoder import encoder, text_exits
from eelit.methods.claims import gao2023pfberxit as claimed
from eelit.methods.claims.comparisons import better_than, gains_at_equal_cost, on_the_task_of, points_of
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.gao2023pfberxit import PfBerxit, add_adapters
from eelit.methods.papers.xin2021berxit import Berxit
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.base import entropy
from eelit.methods.policies.flexible_patience import DISTANCES, FlexiblePatience
from eelit.methods.recipes.fit import Batch

KEY = "gao2023pfberxit"
THETAS = (0.0, 1e-4, 0.01, 0.05, 0.2, 1.0, math.inf)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(6, 300, 3))


@pytest.fixture(scope="module")
def pairs():
    rng = np.random.default_rng(2)
    return np.log(rng.dirichlet(np.ones(4), 200)), np.log(rng.dirichlet(np.ones(4), 200))


def distributions(*first):
    """Logits ``[E, 1, 2]`` of one sample that gives the first of two classes these probabilities."""
    return np.log([[[p, 1 - p]] for p in first])


# The distances.


def test_distances_by_hand():
    """p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = ln 2 - ln(3)/2, KL(q||p) = 3/4 ln 3 - ln 2, m = (3/8, 5/8)."""
    p, q = np.log([[0.5, 0.5]]), np.log([[0.25, 0.75]])
    forward, backward = math.log(2) - math.log(3) / 2, 0.75 * math.log(3) - math.log(2)
    js = (0.5 * math.log(4 / 3) + 0.5 * math.log(4 / 5) + 0.25 * math.log(2 / 3) + 0.75 * math.log(6 / 5)) / 2
    for name, by_hand in (("kl", forward), ("rekl", backward), ("bikl", forward + backward), ("js", js)):
        assert float(DISTANCES[name](p, q)[0]) == pytest.approx(by_hand)


@pytest.mark.parametrize("name", DISTANCES)
def test_equal_distributions_are_at_distance_zero_and_no_distance_is_negative(name, pairs):
    p, q = pairs
    assert np.abs(DISTANCES[name](p, p)).max() < 1e-15
    assert (DISTANCES[name](p, q) > 0).all()


def test_two_distances_are_symmetric_and_two_are_not(pairs):
    p, q = pairs
    same = {name: np.allclose(found(p, q), found(q, p)) for name, found in DISTANCES.items()}
    assert same == {"kl": False, "rekl": False, "bikl": True, "js": True}


def test_js_is_at_most_the_logarithm_of_two_and_finite_where_probabilities_vanish():
    p, q = np.array([[0.0, -2000.0, -2000.0]]), np.array([[-2000.0, 0.0, -2000.0]])
    assert float(DISTANCES["js"](p, q)[0]) == pytest.approx(math.log(2))
    assert float(DISTANCES["kl"](p, q)[0]) == pytest.approx(2000)


def test_js_never_exceeds_the_logarithm_of_two(pairs):
    p, q = pairs
    assert (DISTANCES["js"](50 * p, 50 * q) <= math.log(2) + 1e-12).all()


def test_divergences_as_printed_and_coded_by_the_sister_paper_are_no_distances(pairs):
    """F-PABEE's sums lack p log p: two equal distributions are then at their entropy, and its js is that of their mean.

    So undecided exits that agree completely would never count as close, and its js would not compare exits at all.
    """
    p, q = pairs
    middle = np.log((np.exp(p) + np.exp(q)) / 2)
    printed = 0.5 * -(np.exp(p) * middle).sum(-1) + 0.5 * -(np.exp(q) * middle).sum(-1)
    assert np.allclose(printed, entropy(middle))
    assert np.allclose(printed - DISTANCES["js"](p, q), (entropy(p) + entropy(q)) / 2)
    assert np.allclose(-(np.exp(p) * q).sum(-1) - DISTANCES["kl"](p, q), entropy(p))
    flat = np.zeros((4, 1, 2))
    assert replay(FlexiblePatience(0.01, 1, "js"), flat).tolist() == [1]


# The exit rule.


@pytest.mark.parametrize("name", DISTANCES)
def test_zero_never_stops_and_infinity_stops_all_at_layer_t_plus_one(name, logits):
    same = np.repeat(logits[:1], 6, axis=0)
    for t in range(1, 9):
        assert (replay(FlexiblePatience(0.0, t, name), logits) == 5).all()
        assert (replay(FlexiblePatience(0.0, t, name), same) == 5).all()
        assert (replay(FlexiblePatience(math.inf, t, name), logits) == min(t, 5)).all()


def test_zero_never_stops_although_rounding_can_make_a_divergence_negative():
    rng = np.random.default_rng(3)
    near = rng.normal(size=(1, 4000, 5)).astype(np.float32)
    close = np.concatenate([near, near + rng.normal(scale=1e-7, size=near.shape).astype(np.float32), near])
    assert (replay(FlexiblePatience(0.0, 1), close) == 2).all()


def test_as_much_patience_as_exits_never_stops(logits):
    for t in (5, 6, 20):
        assert (replay(FlexiblePatience(math.inf, t), logits) == 5).all()


@pytest.mark.parametrize("name", DISTANCES)
def test_nobody_leaves_later_at_a_higher_threshold_or_earlier_with_more_patience(name, logits):
    for t in range(1, 5):
        exits = [replay(FlexiblePatience(theta, t, name), logits) for theta in THETAS]
        assert all((looser <= tighter).all() for tighter, looser in pairwise(exits))
    for theta in THETAS:
        exits = [replay(FlexiblePatience(theta, t, name), logits) for t in range(1, 7)]
        assert all((less <= more).all() for less, more in pairwise(exits))


def test_counter_starts_at_the_second_exit_and_is_set_back():
    """Steps: none, small, large, small, small: t = 1 leaves at layer 2, t = 2 at layer 5, t = 3 not before the last."""
    z = distributions(0.5, 0.52, 0.9, 0.91, 0.905, 0.2)
    assert [replay(FlexiblePatience(0.01, t), z)[0] for t in (1, 2, 3)] == [1, 4, 5]


def test_threshold_is_strict():
    z = distributions(0.5, 0.25, 0.9)
    d = math.log(2) - math.log(3) / 2
    assert replay(FlexiblePatience(d * (1 - 1e-9), 1), z).tolist() == [2]
    assert replay(FlexiblePatience(d * (1 + 1e-9), 1), z).tolist() == [1]


def test_distributions_matter_and_not_the_answers_alone():
    """The answer flips, hardly: close enough. The answer stays, and becomes much surer: not close."""
    assert replay(FlexiblePatience(0.01, 1), distributions(0.49, 0.51, 0.5)).tolist() == [1]
    assert replay(FlexiblePatience(0.01, 1), distributions(0.6, 0.99, 0.6)).tolist() == [2]


def test_direction_of_kl_is_from_the_earlier_exit_to_the_later():
    """From (1/2, 1/2) to (0.01, 0.99) KL is 1.61, the other way 0.64."""
    z = distributions(0.5, 0.01, 0.5)
    assert replay(FlexiblePatience(1.0, 1, "kl"), z).tolist() == [2]
    assert replay(FlexiblePatience(1.0, 1, "rekl"), z).tolist() == [1]


@pytest.mark.parametrize("name", DISTANCES)
def test_numpy_and_torch_agree_and_batch_mates_do_not_matter(name, logits):
    policy = FlexiblePatience(0.1, 2, name)
    together = replay(policy, logits)
    assert len(set(together.tolist())) > 2
    assert (together == replay(policy, torch.as_tensor(logits))).all()
    assert together.tolist() == [replay(policy, logits[:, i : i + 1])[0] for i in range(300)]


# The network.


def test_adapters_start_without_effect_and_are_as_large_as_they_should_be():
    plain, adapted = (text_exits("tiny", 3, seed=0) for _ in range(2))
    before = sum(p.numel() for p in adapted.parameters())
    add_adapters(adapted, 4, 2.0)
    x = torch.randint(60, (5, 9))
    with torch.inference_mode():
        assert torch.equal(plain(x), adapted(x))
    d, r = 32, 4
    assert sum(p.numel() for p in adapted.parameters()) - before == 4 * (2 * d * r + d + r)


def test_adapter_runs_in_parallel_with_the_feed_forward_part():
    """Computed once more from the parts of the layer: norm(h + FFN(h) + s (W_up relu(W_down h + b) + c))."""
    model = text_exits("tiny", 3, seed=0)
    add_adapters(model, 4, 0.5)
    layer = model.stages[1].layer
    torch.nn.init.normal_(layer.output.up.weight)
    torch.nn.init.normal_(layer.output.up.bias)
    hidden = torch.randn(2, 7, 32)
    with torch.inference_mode():
        h = layer.attention(hidden)[0]
        inner, adapter = layer.output.output, layer.output
        beside = adapter.up(torch.relu(adapter.down(h)))
        by_hand = inner.LayerNorm(h + inner.dense(layer.intermediate(h)) + 0.5 * beside)
        assert torch.allclose(model.stages[1](hidden), by_hand, atol=1e-5)


SAID = [  # what four exits give to two samples: probabilities of three classes
    [[0.5, 0.3, 0.2], [0.2, 0.2, 0.6]],
    [[0.6, 0.3, 0.1], [0.1, 0.2, 0.7]],
    [[0.7, 0.1, 0.2], [0.3, 0.3, 0.4]],
    [[0.8, 0.1, 0.1], [0.1, 0.1, 0.8]],
]


@pytest.mark.parametrize("variant", ["adapters", "fine-tuned"])
def test_exits_weigh_by_their_depth(one_stage, variant):
    """The first sample is of class 0, the second of class 1; exits weigh 1, 2, 3, 4 tenths."""
    model, stage = one_stage(registry.get(KEY).variant(variant, "tiny"))
    asked = []
    model.forward = lambda x: asked.append(x) or torch.tensor(SAID).log()
    batch = Batch(torch.tensor([3, 8]), torch.zeros(2, 17), torch.tensor([0, 1]), 0, 0.0)
    wrong = [-(math.log(p[0][0]) + math.log(p[1][1])) / 2 for p in SAID]
    by_hand = (wrong[0] + 2 * wrong[1] + 3 * wrong[2] + 4 * wrong[3]) / 10
    assert float(stage.loss(batch)) == pytest.approx(by_hand, rel=1e-5)
    assert [each is batch.inputs for each in asked] == [True]


def test_exits_read_the_mean_token_through_one_pooler_that_starts_as_pretrained(prepared):
    method, _, ready = prepared(KEY)
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    fresh = method.build(ready.data, 0)
    assert len({id(head.pooler) for head in fresh.heads}) == 1
    assert torch.equal(fresh.heads[0].pooler.weight, pretrained.weight)
    assert torch.equal(fresh.heads[0].pooler.bias, pretrained.bias)
    x = torch.stack(list(ready.data.test.inputs[:3]))
    with torch.inference_mode():
        for head, hidden, said in zip(ready.model.heads, ready.model.states(x), ready.model(x), strict=True):
            pooled = torch.tanh(hidden.mean(dim=1) @ head.pooler.weight.T + head.pooler.bias)
            assert torch.allclose(said, pooled @ head.classifier.weight.T + head.classifier.bias, atol=1e-5)


@pytest.mark.parametrize("variant", ["adapters", "fine-tuned"])
def test_only_adapters_and_exits_learn_unless_all_is_fine_tuned(one_stage, variant):
    method = registry.get(KEY).variant(variant, "tiny").replace({"rate": 0.003, "head_rate": 0.02})
    model, stage = one_stage(method)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(names) > 70
    learning = {
        name
        for name in names.values()
        if "heads." in name or ".output.up." in name or ".output.down." in name or variant == "fine-tuned"
    }
    assert {name for name, p in model.named_parameters() if p.requires_grad} == learning
    assert sum(".output.up." in name or ".output.down." in name for name in learning) == 16 * (variant == "adapters")
    rates = {names[p]: rate for p, rate in stage.rates.items()}
    assert rates == {name: 0.02 if "heads." in name else 0.003 for name in learning}
    known = method.load().train
    assert torch.equal(stage.train.targets, known.targets)
    assert all(map(torch.equal, stage.train.inputs, known.inputs))
    assert (stage.epochs, stage.batch) == (method.epochs, method.batch)


def test_width_and_scale_of_the_adapters_and_the_distance_are_the_settings():
    method = registry.get(KEY).variant("adapters", "tiny")
    for scale, width in ((1.0, 8), (0.25, 3)):
        model = method.replace({"scale": scale, "adapter": width}).build(SimpleNamespace(classes=10), 0)
        adapters = [stage.layer.output for stage in model.stages]
        assert [(each.scale, each.down.out_features) for each in adapters] == [(scale, width)] * 4
    assert method.policy(0.1, None) == FlexiblePatience(0.1, 1, "kl")
    assert method.replace({"distance": "js", "patience": 2}).policy(0.1, None) == FlexiblePatience(0.1, 2, "js")


def test_fine_tuned_variant_is_trained_as_pabee():
    """Same network, same options, so the cache of weights serves both."""
    ours = PfBerxit().replace(PfBerxit.variants["fine-tuned"])
    shared = ("encoder", "corpus", "train_size", "epochs", "batch", "rate", "head_rate")
    assert all(getattr(ours, name) == getattr(Pabee(), name) for name in shared)
    tiny = {"encoder": "tiny", "corpus": "digits", "train_size": 64}
    data = ours.replace(tiny).load()
    one, other = ours.replace(tiny).build(data, 0), Pabee().replace(tiny).build(data, 0)
    assert one.state_dict().keys() == other.state_dict().keys()
    assert all(torch.equal(p, q) for p, q in zip(one.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(p.requires_grad for p in one.parameters())


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    policy = method.policy(0.1, ready)
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, policy)
    assert found.exits.tolist() == replay(policy, outputs).tolist()
    assert len(set(found.exits.tolist())) > 1


# What is claimed.


def at_all_costs(quality):
    ends = [OperatingPoint(knob=0, quality=quality, cost=c, speed_up=1 / c, exits=[1.0]) for c in (1e-3, 1e30)]
    return Baseline(name="x", validation=ends, test=ends)


@pytest.mark.parametrize(("quality", "holds"), [(0.0, True), (1.0, False)])
def test_it_is_set_against_the_network_that_berxit_trains(prepared, monkeypatch, quality, holds):
    """That network is said to reach the same at all costs."""
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(Berxit, "prepare", lambda self, bench: asked.append(self))
    monkeypatch.setattr(claimed, "points_of", lambda rival, ready, bench: at_all_costs(quality))
    monkeypatch.setattr(claimed, "few_weights_are_better", lambda *_: better_than("nothing", [], ""))
    curve = SimpleNamespace(full_quality=0.5)
    found = {outcome.name: outcome.holds for outcome in claimed.claims(method, ready, bench, curve)}
    assert found["better than BERxiT"] is holds
    assert {"better than patience", "kl better than rekl", "bikl better than rekl"} < found.keys()
    assert asked == [on_the_task_of(method, Berxit())]
    plain = method.replace({"adapter": 0})
    assert "better than BERxiT" not in {o.name for o in claimed.claims(plain, ready, bench, curve)}


def test_berxit_is_trained_as_its_own_row():
    """So the cache serves both."""
    assert on_the_task_of(PfBerxit(), Berxit()) == Berxit()


@pytest.mark.parametrize(
    ("ours", "trained", "holds"),
    [(0.8051, 4, True), (0.8049, 4, False), (0.79, 4, False), (0.9, 6, False)],
)
def test_few_weights_must_beat_all(monkeypatch, ours, trained, holds):
    """The network trained whole has 0.8; of 100 weights some are trained."""
    monkeypatch.setattr(PfBerxit, "prepare", lambda self, bench: None)
    monkeypatch.setattr(PfBerxit, "full_model", lambda self, ready, bench: (0.8, 1.0))
    weights = [torch.nn.Parameter(torch.zeros(n), requires_grad=n == trained) for n in (trained, 100 - trained)]
    ready = SimpleNamespace(model=SimpleNamespace(parameters=lambda: weights))
    found = claimed.few_weights_are_better(PfBerxit(), ready, Bench(), SimpleNamespace(full_quality=ours))
    assert (found.name, found.holds) == ("few weights are better", holds)


@pytest.mark.parametrize(("gains", "holds"), [([0.01, 0.0], True), ([0.008, 0.0], False), ([], False)])
def test_better_means_half_a_point_on_average(gains, holds):
    assert better_than("patience", gains, "Here").holds is holds


def test_points_of_a_rival_are_measured_on_its_own_network(prepared):
    """On the same network both ways of naming a rival give the same gains."""
    method, bench, ready = prepared(KEY)
    berxit, _, theirs = prepared("xin2021berxit")
    points = points_of(berxit, theirs, bench)
    assert [point.knob for point in points.test] == list(berxit.knobs[1:-1])
    assert points.test == berxit.sweep(theirs, bench, "test", berxit.knobs[1:-1])
    assert points.validation == berxit.sweep(theirs, bench, "validation", berxit.knobs[1:-1])
    ours = [method.policy(knob, ready) for knob in method.knobs]
    as_policies = gains_at_equal_cost(method, ready, ours[3:5], iter(ours[1:-1]))
    assert as_policies == gains_at_equal_cost(method, ready, ours[3:5], points_of(method, ready, bench))
    assert len(as_policies) > 0


@pytest.mark.parametrize("distance", ["kl", "js"])
def test_the_rule_that_is_set_against_others_is_the_method_s_own(prepared, made, monkeypatch, distance):
    method, bench, ready = prepared(KEY)
    method, asked = method.replace({"distance": distance}), []

    def gains(method, ready, ours, rivals):
        asked.append({rule.distance for rule in ours})
        return [0.0]

    monkeypatch.setattr(claimed, "gains_at_equal_cost", gains)
    monkeypatch.setattr(claimed, "tried", lambda *_: made(0.5))
    claimed.claims(method.replace({"adapter": 0}), ready, bench, SimpleNamespace(full_quality=0.5))
    assert asked == [{distance}, {"kl"}, {"bikl"}]
