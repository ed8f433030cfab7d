"""What only PABEE promises: the invariants of the paper, on worked cases."""

import json
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.encoder import encoder
from eelit.methods.claims.comparisons import COSTS
from eelit.methods.claims.zhou2020pabee import claims
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.records import Baseline, OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.zhou2020pabee import Pabee
from eelit.methods.policies.patience import Patience
from eelit.methods.recipes.joint import depth_weights, exit_losses

KEY = "zhou2020pabee"
GOLDEN = Path(__file__).parent.parent / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(1).normal(size=(12, 300, 2))


def losses_of(answers, targets):
    """Loss of each exit by itself."""
    if answers[0].dim() == 1:
        return [float(((values - targets) ** 2).mean()) for values in answers]
    return [float(F.cross_entropy(logits, targets)) for logits in answers]


@pytest.mark.parametrize("variant", Pabee.variants)
def test_training_minimises_the_losses_weighed_by_depth(wired, variant):
    """Neither all alike nor the other way round."""
    model, (stage,) = wired(registry.get(KEY).variant(variant, "tiny"))
    index = torch.arange(5, 25)
    x, y = torch.stack(stage.train.inputs[5:25]), stage.train.targets[5:25]
    with torch.no_grad():
        answers = [head(state) for head, state in zip(model.heads, model.states(x), strict=True)]
    losses = losses_of(answers, y)
    found = stage.loss(stage.batch_of(index, x)).item()
    assert found == pytest.approx(sum(i * loss for i, loss in enumerate(losses, 1)) / (1 + 2 + 3 + 4), rel=1e-5)
    assert found != pytest.approx(np.mean(losses), rel=1e-4)
    assert found != pytest.approx(sum(i * loss for i, loss in enumerate(losses[::-1], 1)) / 10, rel=1e-4)


def test_weighted_loss_on_fixed_logits(wired):
    """Cross-entropies of two classes that differ by d are ln(1 + e^-d), or ln(1 + e^d) where the other is right."""
    model, (stage,) = wired(registry.get(KEY).variant("classification", "tiny"))
    by_exit = [(0.0, 0.0), (1.0, -1.0), (2.0, 0.5), (3.0, -2.0)]  # how far the right class is ahead, of two samples
    model.forward = lambda x: torch.tensor([[[d, 0.0] for d in ahead] for ahead in by_exit])
    batch = SimpleNamespace(inputs=None, targets=torch.tensor([0, 0]))
    one, two, three, four = (np.mean([np.log1p(np.exp(-d)) for d in ahead]) for ahead in by_exit)
    assert float(stage.loss(batch)) == pytest.approx((one + 2 * two + 3 * three + 4 * four) / 10, rel=1e-6)


def test_weighted_loss_on_fixed_values(wired):
    model, (stage,) = wired(registry.get(KEY).variant("regression", "tiny"))
    model.forward = lambda x: torch.tensor([[1.0, 2.0], [0.0, 0.0], [0.5, 0.5], [3.0, -1.0]])
    batch = SimpleNamespace(inputs=None, targets=torch.tensor([0.0, 1.0]))
    assert float(stage.loss(batch)) == pytest.approx((1 * 1.0 + 2 * 0.5 + 3 * 0.25 + 4 * 6.5) / 10)


@pytest.mark.parametrize("variant", Pabee.variants)
def test_everything_learns_together_from_all_training_data(wired, variant):
    method = registry.get(KEY).variant(variant, "tiny").replace({"batch": 20, "epochs": 1.5})
    model, (stage,) = wired(method)
    assert len(stage.train) == method.train_size == 900
    assert torch.equal(stage.train.targets, method.load().train.targets)
    heads = {id(p) for p in model.heads.parameters()}
    assert stage.rates == {id(p): 5e-3 if id(p) in heads else 2e-3 for p in model.parameters()}
    assert (stage.epochs, stage.batch, stage.steps) == (1.5, 20, round(1.5 * 900 / 20))
    assert type(stage.optimiser) is torch.optim.AdamW
    assert {name.partition(".")[0] for name in stage.learning} == {"stages", "heads"}
    assert not model.training


@pytest.mark.parametrize("exits", [1, 3, 12])
def test_weights_grow_with_depth_and_sum_to_one(exits):
    total = exits * (exits + 1) / 2
    assert depth_weights(exits) == pytest.approx([i / total for i in range(1, exits + 1)])


@pytest.mark.parametrize("patience", range(13))
def test_nobody_leaves_before_layer_patience_plus_one(logits, patience):
    exits = replay(Patience(patience), logits)
    assert exits.min() >= min(patience, 11)
    if patience >= 11:
        assert (exits == 11).all()


def test_exit_does_not_come_earlier_with_more_patience(logits):
    exits = [replay(Patience(patience), logits) for patience in range(12)]
    assert all((a <= b).all() for a, b in pairwise(exits))


def test_only_the_argmax_matters(logits):
    scale = np.random.default_rng(2).uniform(0.1, 50, size=(12, 300, 1))
    assert (replay(Patience(3), logits) == replay(Patience(3), logits * scale)).all()


def test_counter_is_per_sample_not_per_batch():
    """The released code asks the whole batch to agree, so one undecided sample holds up all others."""
    decided = np.eye(2)[[0, 0, 0, 0]] * 4
    undecided = np.eye(2)[[0, 1, 0, 1]] * 4
    exits = replay(Patience(1), np.stack([decided, undecided], axis=1))
    assert exits.tolist() == [1, 3]


def test_trained_model_really_stops(prepared):
    method, _, ready = prepared(KEY)
    assert isinstance(method, Pabee)
    x = torch.stack(list(ready.data.test.inputs[:32]))
    with torch.inference_mode():
        outputs = ready.model(x)
    found = infer(ready.model, x, method.policy(1, ready))
    assert found.exits.tolist() == replay(Patience(1), outputs).tolist()
    assert len(set(found.exits.tolist())) > 1


def test_one_pooler_serves_all_heads(prepared):
    _, _, ready = prepared(KEY)
    assert len({id(head.pooler) for head in ready.model.heads}) == 1
    assert len({id(head.classifier) for head in ready.model.heads}) == ready.model.exits


def test_the_pooler_starts_as_the_pretrained_one(wired):
    model, _ = wired(registry.get(KEY).variant("classification", "tiny"))
    torch.manual_seed(0)
    pretrained = encoder("tiny").pooler.dense
    for head in model.heads:
        assert torch.equal(head.pooler.weight, pretrained.weight)
        assert torch.equal(head.pooler.bias, pretrained.bias)


def test_regression_answers_values_and_compares_them(prepared):
    method, _, ready = prepared(KEY, "regression")
    assert method.quality == "Pearson's r"
    assert method.policy(2, ready) == Patience(2, method.tolerance)
    seen = ready.split("test")
    assert seen.answers.shape == (4, 400)
    apart = (seen.answers[1:] - seen.answers[:-1]).abs() < method.tolerance
    by_hand = np.where(apart[0], 1, np.where(apart[1], 2, 3))
    assert replay(method.policy(1, ready), seen.outputs).tolist() == by_hand.tolist()
    assert len(set(by_hand.tolist())) == 3


def test_classification_compares_classes(prepared):
    method, _, ready = prepared(KEY, "classification")
    assert method.quality == "accuracy"
    assert method.policy(2.0, ready) == Patience(2, None)


def test_agrees_with_the_released_code():
    """The released exit rule and loss, run on these numbers in batches of one (see `provenance` in the file)."""
    golden = json.loads(GOLDEN.read_text())
    logits, values = np.array(golden["logits"]), np.array(golden["values"])
    for patience, exits in golden["exits_classification"].items():
        assert replay(Patience(int(patience)), logits).tolist() == exits
    for patience, exits in golden["exits_regression"].items():
        assert replay(Patience(int(patience), golden["tolerance"]), values).tolist() == exits
    w = torch.tensor(depth_weights(8))
    ours = (w * exit_losses(torch.tensor(logits), torch.tensor(golden["labels"]))).sum()
    assert float(ours) == pytest.approx(golden["loss_classification"], rel=1e-6)
    ours = (w * exit_losses(torch.tensor(values), torch.tensor(golden["targets"]))).sum()
    assert float(ours) == pytest.approx(golden["loss_regression"], rel=1e-6)


# What is claimed.


@pytest.mark.parametrize(("full", "holds"), [(0.794, True), (0.796, False), (0.80, False), (0.81, False)])
def test_the_patience_that_is_best_on_validation_data_and_saves_a_third_must_gain_half_a_point(full, holds):
    def points(*qualities):
        pairs = zip(qualities, (3.0, 1.5, 1.49, 1.0), strict=True)
        return [SimpleNamespace(knob=i, quality=q, speed_up=s) for i, (q, s) in enumerate(pairs)]

    curve = SimpleNamespace(
        validation=points(0.6, 0.9, 0.95, 0.99),
        test=points(0.95, 0.80, 0.95, 0.95),
        full_quality=full,
        quality="accuracy",
        baselines=[],
    )
    (found,) = claims(Pabee(), None, None, curve)
    assert found.holds is holds
    assert "at patience 1, speed-up 1.50×" in found.measured


@pytest.mark.parametrize(("theirs", "holds"), [(0.80, True), (0.85, False)])
def test_patience_is_compared_with_thresholds_on_the_same_network_at_their_cost(theirs, holds):
    """Settings are chosen on validation data, where thresholds look bad; the ends of either rule are no settings."""

    def points(qualities, costs):
        return [
            OperatingPoint(knob=i, quality=q, cost=c, speed_up=100 / c, exits=[1, 0])
            for i, (q, c) in enumerate(zip(qualities, costs, strict=True))
        ]

    ours, costs = (40, 60, 100), (10, 40, 60, 100)
    rival = Baseline(
        name="max-confidence",
        validation=points((0.1, 0.2, 0.2, 0.9), costs),
        test=points((0.1, theirs, theirs, 0.9), costs),
    )
    curve = SimpleNamespace(
        validation=points((0.8, 0.9, 0.9), ours),
        test=points((0.82, 0.82, 0.9), ours),
        full_quality=0.9,
        quality="accuracy",
        baselines=[rival],
        variant="classification",
    )
    found = {each.name: each for each in claims(Pabee(), None, None, curve)}["better than max-confidence"]
    assert found.holds is holds
    assert found.measured == f"{0.82 - theirs:+.4f} on average over {COSTS} costs"
