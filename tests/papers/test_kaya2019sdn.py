"""What only Shallow-Deep Networks promise: the invariants of the paper, and the released code on the same numbers."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.internal_classifier import InternalClassifier, condensed
from eelit.methods.claims import kaya2019sdn as claimed
from eelit.methods.engine.evaluate import answered, infer, replay
from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.papers.kaya2019sdn import (
    Overthinking,
    ShallowDeep,
    confusion,
    normalised,
    overthinking,
)
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.surest import Surest
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.recipes.ramped import internal_weights

KEY = "kaya2019sdn"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
C = (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def logits():
    return torch.randn(5, 300, 4, generator=torch.Generator().manual_seed(1)) * 2


def tiny(variant, **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def outcome(policy, p):
    """Exits and answers of samples, from probabilities ``[E, N, C]``."""
    outputs = torch.tensor(p).log()
    exits = replay(policy, outputs)
    return exits.tolist(), answered(policy, outputs, exits).argmax(-1).tolist()


# The exit rule.


def test_the_surest_of_all_answers_where_none_is_sure_enough():
    """The first leaves at exit 2; the second nowhere at 0.9, and the surest is its second classifier, not its last."""
    p = [[[0.6, 0.4], [0.3, 0.7]], [[0.05, 0.95], [0.8, 0.2]], [[0.5, 0.5], [0.4, 0.6]]]
    assert outcome(Surest(0.9), p) == ([1, 2], [1, 0])
    assert outcome(Surest(0.75), p) == ([1, 1], [1, 0])
    assert outcome(Surest(0.65), p) == ([1, 0], [1, 1])


def test_a_threshold_that_is_just_reached_stops():
    z = torch.tensor([[[0.0, 0.0]], [[3.0, 0.0]]])
    assert replay(Surest(0.5), z).tolist() == [0]
    assert replay(Surest(0.5 + 1e-9), z).tolist() == [1]


def test_of_equally_sure_classifiers_the_earliest_answers():
    assert outcome(Surest(0.9), [[[0.8, 0.2]], [[0.2, 0.8]], [[0.5, 0.5]]]) == ([2], [0])


def test_at_both_ends_of_the_threshold(logits):
    assert (replay(Surest(1 / 4), logits) == 0).all()
    exits = replay(Surest(1.1), logits)
    assert (exits == 4).all()
    told = answered(Surest(1.1), logits, exits)
    by_hand = logits.softmax(-1).amax(-1).argmax(0)
    assert torch.equal(told, logits[by_hand, torch.arange(300)])
    assert (told.argmax(-1) != logits[-1].argmax(-1)).any()


@pytest.mark.parametrize("q", [0.3, 0.5, 0.7, 0.9, 0.99])
def test_who_is_sure_leaves_as_under_the_plain_rule_with_the_answer_of_its_exit(logits, q):
    exits = replay(Surest(q), logits)
    assert exits.tolist() == replay(MaxConfidence(q), logits).tolist()
    told, early = answered(Surest(q), logits, exits), torch.as_tensor(exits) < 4
    assert torch.equal(told[early], logits[exits, torch.arange(300)][early])


def test_who_has_no_finite_logits_is_not_the_surest():
    nan, inf = float("nan"), float("inf")
    z = torch.tensor([[[nan, 0.0], [inf, 0.0]], [[0.0, 1.0], [nan, nan]], [[nan, 9.0], [-inf, -inf]]])
    exits = replay(Surest(0.9), z)
    assert exits.tolist() == [2, 2]
    told = answered(Surest(0.9), z, exits)
    assert told[0].tolist() == [0.0, 1.0]
    assert told[1].isnan().all()


def test_execution_answers_by_the_surest_too(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:64]))
    with torch.inference_mode():
        outputs = ready.model(x)
    for q in (0.7, 1.1):
        policy = method.rule(q, ready)
        assert policy == Surest(q)
        found, exits = infer(ready.model, x, policy), replay(policy, outputs)
        assert found.exits.tolist() == exits.tolist()
        assert torch.allclose(found.answers, answered(policy, outputs, exits), atol=1e-5)


# The training.


def test_weights_of_internal_losses_grow_from_almost_nothing_to_the_share_of_the_cost():
    assert internal_weights(C, 0.0) == pytest.approx([0.01] * 6)
    assert internal_weights(C, 0.5) == pytest.approx([0.01 + c / 2 for c in C])
    assert internal_weights(C, 1.0) == pytest.approx(C)
    assert internal_weights((0.005, 0.5), 0.0) == pytest.approx([0.005, 0.01])
    every = [internal_weights(C, t / 20) for t in range(21)]
    assert all(a <= b for early, late in pairwise(every) for a, b in zip(early, late, strict=True))


@pytest.mark.parametrize("step", [0, 70, 151])
def test_sdn_training_weighs_internal_losses_by_how_far_it_is(wired, step):
    model, (stage,) = wired(tiny("SDN training"))
    x, y = torch.stack(stage.train.inputs[:12]), stage.train.targets[:12]
    assert stage.steps == 8 * 19
    with torch.no_grad():
        one, two, last = (F.cross_entropy(logits, y).item() for logits in model(x))
        found = stage.loss(stage.batch_of(torch.arange(12), x, step)).item()
    t = step / 152
    by_hand = min(0.2, 0.01 + 0.2 * t) * one + min(0.6, 0.01 + 0.6 * t) * two + last
    assert found == pytest.approx(by_hand, rel=1e-5)


def test_sdn_training_trains_everything_on_all_training_data(wired):
    model, (stage,) = wired(tiny("SDN training", epochs=1.5, batch=20))
    assert stage.rates == {id(p): 1e-2 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (600, 1.5, 20, 45)
    assert not model.training


def test_the_network_is_in_training_mode_while_it_learns():
    """So that its normalisation learns from the batches, in SDN training and in the first stage."""
    for variant, most in (("SDN training", 1), ("IC-only", 2)):
        method, seen = tiny(variant), []
        model = method.build(data := method.load(), 0)
        norms = [part for part in model.modules() if isinstance(part, nn.BatchNorm2d)]
        bench = Bench(most_steps=1, watch=lambda stage, norms=norms, seen=seen: seen.append(norms[0].training))
        method.train(model, data, bench)
        assert seen == [True, True, False, False][: 2 * most]
        assert {int(norm.num_batches_tracked) for norm in norms} == {1}
        assert not model.training


def test_ic_only_training_trains_the_network_by_itself_and_then_internal_classifiers_alone(wired):
    model, (first, second) = wired(tiny("IC-only", network="vgg", head_epochs=1.5, batch=20))
    x, y = torch.stack(first.train.inputs[:20]), first.train.targets[:20]
    internal = model.heads[:-1]
    plain = {id(p) for p in model.parameters()} - {id(p) for p in internal.parameters()}
    assert first.rates == dict.fromkeys(plain, 1e-2)
    assert second.rates == {id(p): 1e-2 for p in internal.parameters()}
    assert (first.epochs, first.batch, second.epochs, second.batch) == (8.0, 20, 1.5, 20)
    assert len(first.train) == len(second.train) == 600
    with torch.no_grad():
        *losses, last = (F.cross_entropy(logits, y).item() for logits in model(x))
        maps = [condensed(state) for state in model.states(x)][:-1]
    assert first.loss(first.batch_of(torch.arange(20), x)).item() == pytest.approx(last, rel=1e-5)
    assert second.loss(second.batch_of(torch.arange(20), maps)).item() == pytest.approx(sum(losses), rel=1e-5)


def test_internal_classifiers_learn_from_condensed_maps_of_the_frozen_network(wired):
    """Two numbers for each of the 4×4 places, of maps of 8×8 here."""
    model, (first, second) = wired(tiny("IC-only", network="vgg", pixels=1, shares=(0.2,)))
    index, (maps,) = next(second.train.batches(10))
    assert maps.shape == (10, 8, 4, 8)
    x = torch.stack([first.train.inputs[i] for i in index.tolist()])
    with torch.no_grad():
        state = next(iter(model.states(x)))
        assert state.shape == (10, 8, 8, 8)
        assert torch.allclose(model.heads[0](maps), model.heads[0](state), atol=1e-5)


def test_maps_of_the_image_tracks_are_read_at_three_or_four_places_down_and_across():
    """Of 6×6 (cluttered) by windows of 2×2; of 7×7 (plain), too, with a smaller border: the docstring says so."""
    for side, places in ((12, 4), (6, 3), (7, 4), (4, 4)):
        head = InternalClassifier((5, side, side), 10)
        assert head[-1].in_features == 5 * places**2
        x = torch.randn(2, 5, side, side)
        head[0].alpha.data.fill_(0.25)
        corner = x[:, :, : -(-side // 4), : -(-side // 4)].flatten(2)
        assert torch.allclose(head[0](x)[:, :, 0, 0], 0.25 * corner.amax(-1) + 0.75 * corner.mean(-1), atol=1e-6)
    model = ShallowDeep().build(SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10), 0)
    assert [head[-1].in_features for head in model.heads[:-1]] == [128 * 16] * 3 + [256 * 9] * 2


def test_rates_of_both_stages_are_the_settings(wired):
    _, (first, second) = wired(tiny("IC-only", rate=3e-3, head_rate=7e-3))
    assert (set(first.rates.values()), set(second.rates.values())) == ({3e-3}, {7e-3})


def test_a_frozen_network_stays_as_it_was():
    """Running means included, which the released code lets move on."""
    method = tiny("IC-only", train_size=64)
    model, after = method.build(data := method.load(), 0), []

    def watch(stage):
        if stage is None:
            after.append({name: value.clone() for name, value in model.plain_network().state_dict().items()})

    method.train(model, data, Bench(watch=watch))
    first, second = after
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_both_trainings_start_from_the_same_network(prepared):
    method, _, ready = prepared(KEY)
    one, other = (tiny(variant).build(ready.data, 0).state_dict() for variant in ShallowDeep.variants)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert method.frozen
    assert isinstance(ready.model.heads[0], InternalClassifier)
    assert ready.model.exits == 3


@pytest.mark.parametrize("scale", ["smoke", "default"])
def test_the_network_for_cluttered_pictures_has_a_place_for_each_classifier(scale):
    method = registry.get(KEY)
    pictures = SimpleNamespace(train=SimpleNamespace(inputs=torch.zeros(1, 1, 48, 48)), classes=10)
    assert method.variant(next(iter(method.variants)), scale).build(pictures, 0).exits == 6


# Confusion and overthinking.


def test_confusion_by_hand():
    """|0.5 - 0.9| + |0.5 - 0.1| and |0.2 - 0.9| + |0.8 - 0.1|; whoever agrees is not confused at all."""
    p = torch.tensor([[[0.5, 0.5], [0.3, 0.7]], [[0.2, 0.8], [0.3, 0.7]], [[0.9, 0.1], [0.3, 0.7]]])
    assert confusion(p.log()).tolist() == pytest.approx([0.8 + 1.4, 0.0], abs=1e-6)


def test_confusion_lies_between_0_and_twice_the_internal_classifiers(logits):
    found = confusion(logits * 50)
    assert found.min() >= 0
    assert 7 < found.max() <= 8 + 1e-5
    assert confusion(logits[-1:].expand(5, -1, -1)).tolist() == [0.0] * 300
    assert (confusion(logits) > 0).all()


def test_normalised_scores_have_mean_0_and_deviation_1_on_their_reference():
    scores = torch.tensor([1.0, 2.0, 6.0])
    found = normalised(scores, scores)
    assert float(found.mean()) == pytest.approx(0, abs=1e-6)
    assert float((found**2).mean()) == pytest.approx(1)
    assert normalised(torch.tensor([5.0]), torch.tensor([1.0, 3.0])).tolist() == [3.0]


def said(*labels):
    """Logits ``[E, 1, 3]`` of one sample whose classifiers answer so."""
    return torch.eye(3)[list(labels)][:, None] * 4


def test_overthinking_by_hand():
    """Of four images one is right at once, one at classifier 2 alone, one at the end, one never."""
    z = torch.cat([said(0, 0, 0), said(1, 0, 2), said(1, 1, 0), said(1, 2, 1)], dim=1)
    found = overthinking(z, torch.zeros(4, dtype=torch.int64), (0.25, 0.5, 1.0))
    assert found.cumulative == [0.25, 0.5, 0.75]
    assert found.wasted == pytest.approx((0.75 + 0.5 + 0 + 0) / 4)
    assert found.destructive == 0.5
    assert overthinking(said(1, 0), torch.tensor([0]), (0.5, 1.0)) == Overthinking([0.0, 1.0], 0.0, 0.0)


def test_cumulative_accuracy_is_at_least_that_of_every_classifier(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("test")
    found = overthinking(seen.outputs, seen.targets, [0.2, 0.6, 1.0])
    each = (seen.outputs.argmax(-1) == seen.targets).double().mean(dim=1).tolist()
    assert all(a >= max(each[: i + 1]) for i, a in enumerate(found.cumulative))
    assert all(a <= b for a, b in pairwise(found.cumulative))


# The released code.


def test_internal_classifiers_agree_with_the_released_code(golden):
    """With windows, with one window each, and on a map too small for any."""
    for case in golden["heads"]:
        head = InternalClassifier(case["shape"], len(case["bias"]))
        with torch.no_grad():
            head[-1].weight.copy_(torch.tensor(case["weight"]))
            head[-1].bias.copy_(torch.tensor(case["bias"]))
            if case["alpha"] is not None:
                head[0].alpha.fill_(case["alpha"])
            assert torch.allclose(head(torch.tensor(case["x"])), torch.tensor(case["logits"]), atol=1e-4)


def test_losses_and_their_weights_agree_with_the_released_code(golden):
    losses = exit_losses(torch.tensor(golden["logits"]), torch.tensor(golden["targets"]))
    assert float(losses[:-1].sum()) == pytest.approx(golden["loss_ic_only"], rel=1e-5)
    for case in golden["loss_sdn"]:
        assert float(weighted(losses, [*case["weights"], 1.0])) == pytest.approx(case["loss"], rel=1e-5)
    for epoch, weights in enumerate(golden["weights_of_epochs"], 1):
        assert internal_weights(C, epoch / 5) == pytest.approx(weights)


def test_exits_and_answers_agree_with_the_released_code(golden):
    z = torch.tensor(golden["logits"])
    never = 0
    for case in golden["early_exits"]:
        exits = replay(Surest(case["q"]), z)
        assert exits.tolist() == case["exits"]
        assert answered(Surest(case["q"]), z, exits).argmax(-1).tolist() == case["answers"]
        never += sum(left == 3 and told < 3 for left, told in zip(case["exits"], case["told_by"], strict=True))
    assert never > 3  # answers that the released code takes from an internal classifier at the end


def test_confusion_agrees_with_the_released_code_up_to_what_it_adds_to_differences(golden):
    found = confusion(torch.tensor(golden["logits"]))
    assert found.tolist() == pytest.approx(golden["confusion"], abs=3e-5)
    assert normalised(found, found).tolist() == pytest.approx(golden["normalised"], abs=5e-5)


def test_overthinking_agrees_with_the_released_experiments(golden):
    """On 10,000 samples made anew (see `provenance` in the file)."""
    rng, known = np.random.RandomState(3), golden["overthinking"]
    z = rng.standard_normal((7, 10000, 3)).astype(np.float32)
    targets = rng.randint(0, 3, 10000)
    z[:, np.arange(10000), targets] += np.linspace(0.3, 2.0, 7, dtype=np.float32)[:, None]
    found = overthinking(torch.tensor(z), torch.tensor(targets), [*C, 1.0])
    assert found.cumulative == pytest.approx([n / 10000 for n in known["cumulative"]])
    assert 1 - found.wasted == pytest.approx(known["total_comp"] / 10000)
    assert found.destructive == pytest.approx(known["destroyed"] / known["errors"])


# What is claimed.


@pytest.mark.parametrize(
    ("speed_up", "behind", "holds"), [(2.1, 0.009, True), (1.9, 0.009, False), (2.1, 0.011, False)]
)
def test_half_of_the_cost_must_be_saved_by_the_cheapest_threshold_that_loses_little(prepared, speed_up, behind, holds):
    """It is measured against the last classifier, which the last threshold is not."""
    method, _, ready = prepared(KEY)
    full = method.static(ready.split("validation"))[-1].quality

    def points(*triples):
        return [SimpleNamespace(knob=k, quality=q, cost=1 / s, speed_up=s) for k, (q, s) in enumerate(triples)]

    curve = SimpleNamespace(
        validation=points((full - 0.006, 4.0), (full - 0.004, speed_up), (full + 0.1, 1.0)),
        test=points((0.9, 4.0), (0.9 - behind, speed_up), (0.9, 1.0)), full_quality=0.9,
    )  # fmt: skip
    found = claimed.half_saved(method, ready, curve, "")
    assert (found.holds, found.not_comparable) == (holds, "")
    assert "at q = 1" in found.measured
    found = claimed.half_saved(method, ready, curve, "why")
    assert (found.holds, found.not_comparable) == (False, "why")


@pytest.mark.parametrize(("best", "comparable"), [(0.899, True), (0.9, False), (0.92, False)])
def test_where_an_internal_classifier_is_as_good_as_the_last_savings_show_nothing(prepared, best, comparable):
    """Both variants have 0.9 for the last one."""
    method, bench, ready = prepared(KEY)
    alone = [SimpleNamespace(knob=i, quality=q, speed_up=s) for i, q, s in ((1, 0.5, 4.0), (2, best, 2.0), (3, 0.9, 1))]
    curve = SimpleNamespace(
        **{split: method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")},
        full_quality=0.9, baselines=[SimpleNamespace(name="static exit", test=alone)],
    )  # fmt: skip
    found = {each.name: each for each in claimed.claims(method, ready, bench, curve)}
    said = {name for name, each in found.items() if each.not_comparable}
    assert said == (set() if comparable else {"half of the cost saved at equal accuracy"})
    for name in said:
        assert not found[name].holds
        assert f"Classifier 2 by itself, for 50% of the cost, reaches {best:.4f}" in found[name].not_comparable


def test_both_kinds_of_overthinking_must_be_large_enough():
    shares, y = [0.2, 1.0], torch.zeros(10, dtype=torch.int64)
    much = torch.cat([*[said(0, 0)] * 5, *[said(0, 1)] * 2, *[said(1, 1)] * 3], dim=1)
    assert [found.holds for found in claimed.overthought(much, y, shares)] == [True, True]
    little = torch.cat([*[said(0, 0)] * 4, *[said(0, 1)] * 2, *[said(1, 1)] * 4], dim=1)
    assert [found.holds for found in claimed.overthought(little, y, shares)] == [False, False]


def test_separation_by_hand():
    wrong = torch.tensor([True, True, False, False])
    assert claimed.separation(torch.tensor([3.0, 1.0, 1.0, 0.0]), wrong) == pytest.approx((2 + 1 + 0.5) / 4)
    assert claimed.separation(torch.tensor([3.0, 1.0, 1.0, 0.0]), wrong | True) == 0.5


def test_confusion_must_rank_errors_better_than_confidence_does():
    """The last classifier is as sure of its error as of the rest; only the first one tells, or nobody does."""
    y = torch.zeros(3, dtype=torch.int64)
    last = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9]]).log()
    z = torch.stack([torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]]).log(), last])
    train = torch.tensor([[[1.0, 0.0], [0.5, 0.5]], [[0.8, 0.2], [0.8, 0.2]]]).log()  # confusion 0.4 and 0.6
    found = claimed.confused(z, y, train)
    assert found.holds
    # 0, 0.2 and 1.0, of which only the last is of a wrong answer, less 0.5, by 0.1
    assert found.measured == (
        "1.0000 of the pairs, confidence 0.5000; by standard deviations of training images from their mean, wrong "
        "answers +5.00, right ones -4.00"
    )
    assert not claimed.confused(torch.stack([last, last]), y, train).holds


@pytest.mark.parametrize(
    ("gains", "holds"), [([0.02, 0.0, -0.009], True), ([0.01, 0.009, 0.0], False), ([0.1, 0.1, -0.011], False)]
)
def test_sdn_training_is_compared_with_ic_only_training(prepared, monkeypatch, gains, holds):
    method, bench, ready = prepared(KEY, "SDN training")
    asked = []
    monkeypatch.setattr(claimed, "gains_by_exit", lambda m, r, rival, b: asked.append(rival) or gains)
    curve = SimpleNamespace(
        **{split: method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test")},
        full_quality=method.full_model(ready, bench)[0],
        baselines=method.baselines(ready, bench),
    )
    found = claimed.claims(method, ready, bench, curve)
    assert (found[-1].name, found[-1].holds) == ("SDN training makes early exits stronger", holds)
    assert asked == [tiny("IC-only")]
    assert [outcome.name for outcome in claimed.claims(tiny("IC-only"), ready, bench, curve)] == [
        outcome.name for outcome in found[:-1]
    ]
