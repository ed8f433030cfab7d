"""What only CATs promises: agreement with the full model at any tolerance, whatever the score, on worked cases."""

import json
import math
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from eelit.methods.claims.schuster2021cats import claims, largest_probabilities
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Examples, parted
from eelit.methods.engine.method import Bench
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.harness import registry
from eelit.methods.papers.schuster2021cats import (
    Cats,
    EarlyHead,
    MetaConsistencyClassifier,
    balanced_loss,
    consistency_loss,
    frozen,
    scores_and_consistency,
    set_temperatures,
    train_added,
)
from eelit.methods.policies.conformal import (
    conformal_threshold,
    independent_thresholds,
    kept,
    naive_threshold,
    resampled,
    shared_threshold,
    worst_misleading,
)
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.policies.temperature import mean_nll

KEY = "schuster2021cats"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"
TOLERANCES = (0.0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.0)


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


@pytest.fixture(scope="module")
def made():
    """Scores and consistency ``[5, 400]``: deeper exits agree more often, and the score knows a little of it."""
    rng = np.random.default_rng(0)
    consistent = rng.random((5, 400)) < np.linspace(0.4, 0.9, 5)[:, None]
    return np.clip(0.5 * rng.random((5, 400)) + 0.4 * consistent, 0, 1), consistent


def test_only_inconsistent_exits_can_mislead():
    scores = np.array([[0.9, 0.2], [0.4, 0.3], [0.8, 0.1]])
    consistent = np.array([[True, True], [False, True], [False, True]])
    assert worst_misleading(scores, consistent).tolist() == [0.8]  # the second example cannot be misled


def test_rank_is_the_textbooks_where_the_released_code_is_one_step_more_cautious():
    scores = np.array([0.9, 0.2, 0.5])
    assert conformal_threshold(scores, 0.5) == 0.5  # the second smallest of four
    assert np.quantile([*scores, np.inf], 0.5, method="higher") == 0.9
    assert conformal_threshold(np.arange(9) / 10, 0.7) == 0.2  # rank 3, in spite of 10 * (1 - 0.7) > 3
    assert conformal_threshold(scores, 0.24) == math.inf
    assert conformal_threshold(scores, 0.25) == 0.9


def test_no_tolerance_is_full_depth_and_full_tolerance_the_first_exit(made):
    scores, consistent = made
    assert shared_threshold(scores, consistent, 0.0) == math.inf
    assert independent_thresholds(scores, consistent, 0.0) == (math.inf,) * 5
    assert kept(scores, consistent, math.inf) == (1.0, 6.0)  # the last exit always agrees with itself
    assert shared_threshold(scores, consistent, 1.0) == -math.inf
    assert kept(scores, consistent, -math.inf)[1] == 1.0
    assert kept(scores, consistent, independent_thresholds(scores, consistent, 1.0))[1] == 1.0


@pytest.mark.parametrize("fit", [shared_threshold, independent_thresholds])
def test_more_tolerance_means_lower_thresholds_and_earlier_exits(made, fit):
    thresholds = [np.asarray(fit(*made, tolerance)) for tolerance in TOLERANCES]
    assert all((later <= earlier).all() for earlier, later in pairwise(thresholds))
    depths = [kept(*made, fit(*made, tolerance))[1] for tolerance in TOLERANCES]
    assert all(later <= earlier for earlier, later in pairwise(depths))
    assert depths[-1] < depths[2] < depths[0]


@pytest.mark.parametrize("fit", [shared_threshold, independent_thresholds])
@pytest.mark.parametrize("score", ["good", "random", "wrong"])
def test_the_promise_holds_for_any_score(made, fit, score):
    scores, consistent = made
    chance = np.random.default_rng(3).random(scores.shape)
    used = {"good": scores, "random": chance, "wrong": 1 - scores}[score]
    for tolerance in TOLERANCES:
        same, _ = resampled(used, consistent, tolerance, fit, repeats=200)
        assert same >= 1 - tolerance - 0.005


def test_a_good_score_saves_more_and_bonferroni_is_more_cautious(made):
    scores, consistent = made
    chance = np.random.default_rng(3).random(scores.shape)
    good, poor = (resampled(used, consistent, 0.2)[1] for used in (scores, chance))
    assert good < poor - 0.5
    same, depth = resampled(scores, consistent, 0.2, independent_thresholds)
    assert depth > good
    assert same > resampled(scores, consistent, 0.2)[0]


def test_without_calibration_the_promise_can_be_broken(made):
    _, consistent = made
    boastful = np.full(consistent.shape, 0.95)
    assert kept(boastful, consistent, naive_threshold(0.1))[0] < 0.5
    assert resampled(boastful, consistent, 0.1)[0] >= 0.9


def test_the_policy_looks_at_the_score_alone_and_strictly():
    scores = np.array([[0.5, 0.5 + 1e-9, 0.2], [0.6, 0.1, 0.3], [np.nan, np.nan, np.nan]])
    outputs = {"answer": np.random.default_rng(0).normal(size=(3, 3, 4)), "score": scores}
    assert replay(ScoreThreshold(0.5), outputs).tolist() == [1, 0, 2]
    in_torch = {name: torch.as_tensor(part) for name, part in outputs.items()}
    assert replay(ScoreThreshold(0.5), in_torch).tolist() == [1, 0, 2]
    assert replay(ScoreThreshold((0.5, 0.2)), outputs).tolist() == [1, 0, 1]
    assert replay(ScoreThreshold(math.inf), outputs).tolist() == [2, 2, 2]
    assert replay(ScoreThreshold(-math.inf), outputs).tolist() == [0, 0, 0]


def test_parts_are_disjoint_and_complete():
    parts = parted(Examples(list(torch.arange(10)[:, None]), torch.arange(10)), {"a": 0.7, "b": 0.125, "c": 0.175})
    assert [part.targets.tolist() for part in parts.values()] == [[0, 1, 2, 3, 4, 5, 6], [7], [8, 9]]


def test_every_step_has_data_of_its_own_and_none_is_test_data(prepared):
    _, _, ready = prepared(KEY)
    data = ready.data
    parts = [data.train, *data.more.values(), ready.split("fitting").examples, ready.split("validation").examples]
    assert [len(part) for part in parts] == [700, 125, 50, 125, 150, 150]
    assert list(data.more) == ["heads", "temperatures", "score"]
    rows = [x.data_ptr() for part in (*parts, data.test) for x in part.inputs]
    assert len(set(rows)) == len(rows) == 1000 + 300 + 400


@pytest.mark.parametrize("epsilon", [0.0, 0.125, 0.25, 0.75, 1.0])
def test_thresholds_come_from_the_calibration_half_of_the_validation_data(prepared, epsilon):
    method, _, ready = prepared(KEY)
    seen, worst = ready.split("fitting"), []
    for i in range(len(seen.targets)):
        answers = seen.outputs["answer"][:, i].argmax(-1).tolist()
        misleading = [float(seen.outputs["score"][k, i]) for k in range(3) if answers[k] != answers[3]]
        worst += [max(misleading)] if misleading else []
    assert 10 < len(worst) < 150
    assert sorted(method.fit(ready)) == pytest.approx(sorted(worst))
    rank = math.ceil((len(worst) + 1) * (1 - epsilon))
    tau = sorted([*worst, math.inf])[rank - 1] if rank else -math.inf
    chosen = method.policy(epsilon, ready)
    assert chosen == ScoreThreshold(chosen.threshold, "score")
    assert chosen.threshold == pytest.approx(tau)


# How it is trained.


def tiny(**settings):
    return registry.get(KEY).variant("", "tiny").replace(settings)


def some(stage, n=40):
    """A batch of samples that are not the first ones."""
    index = torch.arange(20, 20 + n)
    return stage.batch_of(index, torch.stack([stage.train.inputs[i] for i in index.tolist()]))


@torch.no_grad()
def mean_tokens(model, part):
    """h_k of each layer but the last ``[N, l - 1, d]``, and the logits of F, through the layers one by one."""
    state, means = torch.stack(list(part.inputs)), []
    for layer in model.layers:
        state = layer(state)
        means.append(state.mean(dim=1))
    return torch.stack(means[:-1], dim=1), model.heads[-1](state)


def test_three_stages_each_with_its_part_parameters_rate_and_length(wired):
    method = tiny(batch=20, early_epochs=2.5, early_rate=7e-3, head_rate=6e-3)
    model, (network, heads, score) = wired(method)
    data = method.load()
    assert torch.equal(network.train.targets, data.train.targets)
    assert all(torch.equal(a, b) for a, b in zip(network.train.inputs, data.train.inputs, strict=True))
    for stage, part in ((heads, data.part("heads")), (score, data.part("score"))):
        assert torch.equal(stage.train.targets, part.targets)
        assert torch.allclose(torch.stack(list(stage.train.inputs)), mean_tokens(model, part)[0], atol=1e-6)
    own = {id(p) for layer in model.layers for p in layer.parameters()}
    last = {id(p) for p in model.heads[-1].parameters()}
    early = {id(p) for head in model.early for p in head.parameters()}
    assert network.rates == dict.fromkeys(own, 4e-3) | dict.fromkeys(last, 6e-3)
    assert heads.rates == dict.fromkeys(early, 7e-3)
    assert score.rates == {id(p): 7e-3 for p in model.meta.parameters()}
    assert [(s.steps, s.epochs, s.batch) for s in (network, heads, score)] == [
        (210, 6.0, 20),
        (18, 2.5, 20),
        (18, 2.5, 20),
    ]
    learning = [{name for name in s.learning if "layer." not in name} for s in (network, heads, score)]
    names = {f"stages.{k}.head.dropout" for k in range(3)}
    assert learning == [{"heads.3.dropout"}, names, {f"heads.{k}.meta.dropout" for k in range(1)}]


def test_the_network_learns_labels_by_its_last_head_alone(wired):
    model, (network, *_) = wired(tiny())
    batch = some(network)
    with torch.no_grad():
        meant = F.cross_entropy(model.full(batch.inputs), batch.targets)
    loss = network.loss(batch)
    assert loss.item() == pytest.approx(float(meant), rel=1e-5)
    loss.backward()
    assert all(p.grad is None for head in model.early for p in head.parameters())


def test_early_heads_learn_labels_all_alike(wired):
    model, (_, heads, _) = wired(tiny())
    batch = some(heads)
    for k, head in enumerate(model.early):
        head.temperature.fill_(1.0)
        head.outer.bias.data[k] += k  # so that their losses differ
    losses = []
    for k, head in enumerate(model.early):
        h = batch.inputs[:, k]
        z = torch.tanh(h @ head.inner.weight.T + head.inner.bias) @ head.outer.weight.T + head.outer.bias
        losses.append(F.cross_entropy(z, batch.targets).item())
    assert heads.loss(batch).item() == pytest.approx(sum(losses) / 3, rel=1e-5)
    assert max(losses) > min(losses) + 0.01


def test_the_score_learns_agreement_with_the_full_model_and_not_the_labels(wired, prepared, monkeypatch):
    """At each exit both classes weigh the same, then exits do."""
    method, build = tiny(), Cats.build
    trained = prepared(KEY)[2].model.state_dict()

    def built(self, data, seed):
        model = build(self, data, seed)
        model.load_state_dict(trained)
        return model

    monkeypatch.setattr(Cats, "build", built)
    model, (_, _, score) = wired(method)
    batch, part = some(score), method.load().part("score")
    h, full = mean_tokens(model, part)
    rows, meant, by_labels = batch.index, [], []
    logits = torch.stack([head(h[rows, k])[1] for k, head in enumerate(model.early)], dim=1).detach()
    for k, head in enumerate(model.early):
        with torch.no_grad():
            yes = model.meta(head(h[rows, k])[0], logits[:, : k + 1]).log_softmax(-1)
        same = logits[:, k].argmax(-1) == full[rows].argmax(-1)
        right = logits[:, k].argmax(-1) == part.targets[rows]
        assert 0 < same.sum() < len(rows)
        for found, positive in ((meant, same), (by_labels, right)):
            each = torch.where(positive, -yes[:, 1], -yes[:, 0])
            found.append(float((each[positive].mean() + each[~positive].mean()) / 2))
    assert score.loss(batch).item() == pytest.approx(np.mean(meant), rel=1e-5)
    assert np.mean(meant) != pytest.approx(np.nanmean(by_labels), rel=1e-4)


def test_nothing_but_the_added_parts_changes_after_the_networks_own_training(prepared):
    method, _, ready = prepared(KEY)
    model = method.build(ready.data, seed=1)
    own = [*(p for layer in model.layers for p in layer.parameters()), *model.heads[-1].parameters()]
    before = [p.clone() for p in own]
    x = torch.stack(list(ready.data.test.inputs[:16]))
    with torch.inference_mode():
        full = model.full(x)
    train_added(model, ready.data, Bench(), epochs=2, batch=32, rate=1e-2)
    with torch.inference_mode():
        assert torch.equal(model.full(x), full)
    assert all(torch.equal(p, q) for p, q in zip(own, before, strict=True))
    assert not model.training


def test_temperatures_are_the_likeliest_on_their_own_part(prepared):
    _, _, ready = prepared(KEY)
    part = ready.data.part("temperatures")
    h, _ = mean_tokens(ready.model, part)
    for k, head in enumerate(ready.model.early):
        with torch.no_grad():
            z = (head(h[:, k])[1] * head.temperature).double()
        best = mean_nll(z / float(head.temperature), part.targets)
        assert best < mean_nll(z, part.targets)
        assert all(best <= mean_nll(z / (float(head.temperature) * f), part.targets) for f in (0.98, 1.02))


def test_a_temperature_is_set_for_heads_that_do_not_drop_out(wired):
    model, _ = wired(tiny())
    part = Examples([torch.full((17,), 3), torch.full((17,), 5)] * 20, torch.tensor([1, 2] * 20))
    model.early[0].train()
    for head in model.early:
        head.temperature.fill_(1.0)
    set_temperatures(model, part)
    first = [float(head.temperature) for head in model.early]
    for head in model.early:
        head.temperature.fill_(1.0)
    set_temperatures(model, part)
    assert [float(head.temperature) for head in model.early] == first


def test_frozen_states_are_in_the_order_of_the_examples(wired):
    """However long their inputs are, which go together in batches."""
    model, _ = wired(tiny())
    lengths = [5, 3, 5, 4, 3]
    part = Examples([torch.arange(n) % 30 for n in lengths], torch.tensor([0, 1, 2, 3, 4]))
    h, full = frozen(model, part)
    for i in range(5):
        alone, answer = mean_tokens(model, Examples([part.inputs[i]], part.targets[i : i + 1]))
        assert torch.allclose(h[i], alone[0], atol=1e-5)
        assert torch.allclose(full[i], answer[0], atol=1e-5)


def test_exits_say_the_early_answers_and_their_scores(prepared):
    _, _, ready = prepared(KEY)
    model, part = ready.model, ready.data.test.head(16)
    h, full = mean_tokens(model, part)
    with torch.inference_mode():
        outputs = model(torch.stack(list(part.inputs)))
        pairs = [head(h[:, k]) for k, head in enumerate(model.early)]
        logits = torch.stack([z for _, z in pairs], dim=1)
        for k, (features, z) in enumerate(pairs):
            assert torch.allclose(outputs["answer"][k], z, atol=1e-5)
            yes = model.meta(features, logits[:, : k + 1]).softmax(-1)[:, 1]
            assert torch.allclose(outputs["score"][k], yes, atol=1e-5)
    assert torch.allclose(outputs["answer"][3], full, atol=1e-5)
    assert outputs["score"][3].isnan().all()


def test_an_early_head_is_two_layers_over_a_temperature():
    head = EarlyHead(5, 3).eval()
    head.temperature.fill_(2.5)
    h = torch.randn(4, 5)
    features, logits = head(h)
    assert torch.allclose(features, torch.tanh(h @ head.inner.weight.T + head.inner.bias))
    assert features.shape == (4, 32)
    assert torch.allclose(logits, (features @ head.outer.weight.T + head.outer.bias) / 2.5, atol=1e-6)


def test_classes_weigh_the_same_however_rare():
    logits, labels = torch.randn(8, 2), torch.tensor([1, 1, 1, 1, 1, 1, 1, 0])
    each = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    assert float(balanced_loss(logits, labels)) == pytest.approx(float((each[:7].mean() + each[7]) / 2))
    for only in (0, 1):
        alike = torch.full((8,), only)
        plain = torch.nn.functional.cross_entropy(logits, alike)
        assert float(balanced_loss(logits, alike)) == pytest.approx(float(plain))


def test_agrees_with_the_released_calibration(golden):
    """Same exits from the released threshold; ours is that one or one step below it (see `provenance`)."""
    scores, consistent = np.array(golden["scores"]).T, np.array(golden["consistent"], dtype=bool).T
    test = np.array(golden["test_scores"]).T
    outputs = np.concatenate([test, np.zeros((1, test.shape[1]))])
    worst = np.sort(np.append(worst_misleading(scores, consistent), np.inf))
    for key, exits in golden["shared"].items():
        released = math.inf if golden["thresholds"][key] is None else golden["thresholds"][key]
        assert replay(ScoreThreshold(released), outputs).tolist() == exits
        ours = shared_threshold(scores, consistent, float(key))
        assert int(np.searchsorted(worst, released) - np.searchsorted(worst, ours)) in (0, 1)
        assert replay(ScoreThreshold(naive_threshold(float(key))), outputs).tolist() == golden["naive"][key]
        each = independent_thresholds(scores, consistent, float(key))
        assert replay(ScoreThreshold(each), outputs).tolist() == golden["independent"][key]


def test_agrees_with_the_released_score_and_its_loss(golden):
    logits, features = torch.tensor(golden["logits"]), torch.tensor(golden["features"])
    meta = MetaConsistencyClassifier(classes=3, exits=6, dropout=0.0)
    meta.load_state_dict(
        {name: torch.tensor(golden[name.replace(".", "_")]) for name in meta.state_dict()}  # inner_weight, …
    )
    with torch.inference_mode():
        found = torch.stack([meta(features[:, k], logits[:, : k + 1]) for k in range(5)], dim=1)
        assert torch.allclose(found, torch.tensor(golden["meta_logits"]), atol=1e-5)
        said = logits.argmax(-1)
        loss = consistency_loss(meta, features, logits, said[:, :-1] == said[:, -1:])
    assert float(loss) == pytest.approx(golden["meta_loss"], rel=1e-5)


# What is claimed.


def test_claims_are_about_thresholds_from_other_data(prepared, monkeypatch):
    method, bench, ready = prepared(KEY)
    found = {outcome.name: outcome for outcome in claims(method, ready, bench, None)}
    assert list(found) == [
        "promise kept", "promise kept by any score", "calibration is needed", "the learned score saves most",
        "one threshold saves more",
    ]  # fmt: skip
    (s, same), (s0, same0) = (scores_and_consistency(ready.split(name)) for name in ("test", "fitting"))
    held, depth = kept(s, same, shared_threshold(s0, same0, 0.1))
    assert found["promise kept"].measured == f"{held:.4f}"
    ours = method.trial(method.rule(0.1, ready), ready.split("test"))
    assert depth == pytest.approx(sum(share * k for k, share in enumerate(ours.exits, 1)))
    assert found["one threshold saves more"].measured.startswith(f"mean exit {depth:.2f}, ")


def test_scores_consistency_and_probabilities_by_hand():
    answers = torch.tensor([[[0.0, 0.0], [3.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]], [[0.0, 5.0], [0.0, 1.0]]])
    said = {"answer": answers, "score": torch.tensor([[0.1, 0.2], [0.3, 0.4], [torch.nan, torch.nan]])}
    seen = StoredOutputs(SimpleNamespace(), said, np.zeros((3, 2)), np.zeros((3, 2)))
    scores, same = scores_and_consistency(seen)
    assert scores == pytest.approx(np.array([[0.1, 0.2], [0.3, 0.4]]))
    assert same.tolist() == [[False, False], [True, True]]
    assert largest_probabilities(seen)[0].tolist() == pytest.approx([0.5, math.e**3 / (1 + math.e**3)])
