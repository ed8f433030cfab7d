"""What only BPNet promises: its designs and their figures by hand, the search against all designs, and its training."""

from itertools import product
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.half_precision import LearnsInHalf
from eelit.methods.backbones.internal_classifier import InternalClassifier
from eelit.methods.backbones.normalisation import folded
from eelit.methods.claims import park2020bpnet as claimed
from eelit.methods.engine import costs
from eelit.methods.engine.pareto import front
from eelit.methods.families.designs import Design
from eelit.methods.harness import registry
from eelit.methods.papers.park2020bpnet import BranchPruned
from eelit.methods.policies.max_confidence import MaxConfidence

KEY = "park2020bpnet"
SMALL = BranchPruned(levels=(0.0, 0.6, 0.9))


def stored(p, y, spent, own):
    """Return a prepared network of which all exits say p ``[E, N, C]``, with the costs of blocks and of branches."""
    answers, rows = torch.tensor(p).log(), len(y)
    alone = np.cumsum(spent) + own
    every = np.cumsum(spent) + np.cumsum(own)
    held = SimpleNamespace(
        answers=answers, outputs=answers, targets=torch.tensor(y), examples=[None] * rows,
        costs=np.repeat(every[:, None], rows, axis=1), static_costs=np.repeat(alone[:, None], rows, axis=1),
    )  # fmt: skip
    held.full_costs = held.static_costs[-1]
    ready = SimpleNamespace(model=SimpleNamespace(exits=len(p)), bench=SimpleNamespace(seed=0))
    ready.split = lambda part: held
    ready.networks = (ready,)
    return ready


P = [
    [[0.95, 0.05], [0.7, 0.3], [0.55, 0.45], [0.62, 0.38]],
    [[0.5, 0.5], [0.2, 0.8], [0.85, 0.15], [0.92, 0.08]],
    [[0.9, 0.1], [0.1, 0.9], [0.3, 0.7], [0.2, 0.8]],
]
Y = [0, 1, 1, 0]


def test_error_and_time_of_designs_by_hand():
    """Blocks cost 10, 20 and 30, branches 1 and 2, the output layer 3: the full model 63."""
    ready = stored(P, Y, spent=[10, 20, 30], own=[1, 2, 3])
    nothing, first, second, both = [0, 0, 0, 0], [1, 0, 0, 0], [0, 1, 0, 2], [1, 1, 1, 2]
    judged = SMALL.judged(np.array([nothing, first, second, both]), ready, "fitting")
    # Without branches the last exit errs on image 4; branch 1 at 0 takes all, and errs on images 2 and 3.
    # Branch 2 at 0.9 takes image 4, and is right; those that go on have paid for it.
    # Branch 1 at 0.6 takes images 1, 2 and 4; image 3 goes on to the end.
    expected = [
        (1 / 4, 63 / 63),
        (2 / 4, 11 / 63),
        (0.0, (32 + 3 * 65) / 4 / 63),
        (1 / 4, (3 * 11 + 66) / 4 / 63),
    ]
    assert judged == pytest.approx(np.array(expected))


def test_the_search_finds_what_trying_all_masks_and_thresholds_finds():
    """No point that it returns is dominated by another, and of a space so small it misses none of the front."""
    rng = np.random.default_rng(3)
    y = rng.integers(0, 3, 60)
    z = rng.normal(size=(4, 60, 3)) + 2.0 * np.eye(3)[y] * np.array([0.4, 0.8, 1.2, 1.6])[:, None, None]
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    method = BranchPruned(levels=(0.0, 0.5, 0.7), population=20, generations=15)
    ready = stored(p, y, spent=[10, 10, 10, 10], own=[2, 2, 2, 2])
    every = np.array([[*m, *th] for m in product((0, 1), repeat=3) for th in product(range(3), repeat=3)])
    scores = method.judged(every, ready, "fitting")
    best = scores[front([tuple(pair) for pair in scores.tolist()])]
    found = method.fit(ready)
    assert found.scores[found.front] == pytest.approx(best)
    assert len(best) > 5
    alone = [
        genes for genes in every[:, :3][front([tuple(pair) for pair in scores.tolist()])].tolist() if sum(genes) < 3
    ]
    assert len(alone) > len(best) / 2  # where branches cost something, the front has few of them


def test_both_ends_are_known_to_every_search():
    """The network without branches, and the first branch, at which everything leaves."""
    nothing, first = SMALL.space(4).known
    assert SMALL.design(nothing, 4).kept == (False, False, False)
    design = SMALL.design(first, 4)
    assert (design.kept, design.thresholds[0]) == ((True, False, False), 0.0)
    assert SMALL.space(4).values == (2, 2, 2, 3, 3, 3)


def test_a_design_is_a_mask_and_thresholds():
    design = SMALL.design([1, 0, 1, 2, 1, 0], 4)
    assert (design.kept, design.thresholds, design.network) == ((True, False, True), (0.9, 0.6, 0.0), 0)
    assert SMALL.told(design) == "branch 1 at 0.9, branch 3 at 0"
    assert SMALL.told(SMALL.design([0] * 6, 4)) == "no branch"
    assert SMALL.everywhere(design) == MaxConfidence((0.9, 1.1, 0.0))
    assert SMALL.stop([]) == MaxConfidence(1.1)


def test_thresholds_without_effect_are_not_searched():
    written = SMALL.space(3).written(np.array([[0, 1, 2, 2], [1, 0, 1, 1]]))
    assert written.tolist() == [[0, 1, 0, 2], [1, 0, 1, 0]]


def test_knobs_are_budgets_and_the_last_is_the_full_model(prepared):
    method, _, ready = prepared(KEY)
    for knob in method.knobs[1:-1]:
        held = method.judged(np.array([method_genes(method, ready, knob)]), ready, "fitting")[0]
        assert held[1] <= knob
        better = ready.fitted.scores[(ready.fitted.scores[:, 1] <= knob), 0]
        assert held[0] == better.min()
    assert not any(method.chosen(1.0, ready).kept)
    assert method.chosen(0.0, ready) == method.design(ready.fitted.designs[ready.fitted.front[0]].tolist(), 3)


def method_genes(method, ready, knob):
    return ready.fitted.designs[method.taken(knob, ready.fitted)].tolist()


def test_a_branch_is_a_convolution_to_a_quarter_of_the_channels_and_costs_two_percent():
    """Of maps of 12×12 and 6×6 places, 128 and 256 channels: what every image pays that passes."""
    method = BranchPruned(images="cluttered")
    for half in (True, False):
        head = method.replace({"half": half}).head((128, 12, 12), 10)
        assert isinstance(head[0], LearnsInHalf) == half
        conv, norm, relu = [part for part in head[0].modules() if not isinstance(part, nn.Sequential)]
        assert (conv.weight.shape, conv.padding) == ((32, 128, 3, 3), (1, 1))
        assert isinstance(norm, nn.BatchNorm2d)
        assert isinstance(relu, nn.ReLU)
        assert isinstance(head[1], InternalClassifier)
        assert head(torch.zeros(2, 128, 12, 12)).shape == (2, 10)
    assert method.head((3, 4, 4), 10)[1][-1].in_features == 1 * 4 * 4
    full = 246e6
    for shape in ((128, 12, 12), (256, 6, 6)):
        head = folded(method.head(shape, 10))
        assert not any(isinstance(part, nn.BatchNorm2d) for part in head.modules())
        assert 0.02 < costs.count(lambda head=head, shape=shape: head(torch.zeros(1, *shape))) / full < 0.025


def test_network_and_branches_learn_together_all_weighing_alike(one_stage):
    method = registry.get(KEY).variant("", "tiny").replace({"batch": 40})
    model, stage = one_stage(method)
    index = torch.arange(16)
    x = torch.stack(list(stage.train.inputs[:16]))
    expected = sum(F.cross_entropy(z, stage.train.targets[:16]) for z in model(x))
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-5)
    assert stage.rates == {id(p): method.rate for p in model.parameters()}
    assert (stage.epochs, stage.batch, len(stage.train)) == (method.epochs, 40, 600)


# What is claimed.


def points(*triples):
    return [SimpleNamespace(knob=k, quality=q, speed_up=s, cost=1 / s) for k, q, s in triples]


@pytest.mark.parametrize(
    ("speed_up", "test", "holds"), [(1.5, 0.896, True), (1.4, 0.91, False), (1.5, 0.894, False), (3.0, 0.95, True)]
)
def test_a_third_must_be_saved_where_nothing_is_lost(speed_up, test, holds):
    curve = SimpleNamespace(
        validation=points((0.2, 0.89, 4.0), (0.5, 0.9, speed_up), (0.8, 0.95, 1.2), (1.0, 0.9, 1.0)),
        test=points((0.2, 0.95, 4.0), (0.5, test, speed_up), (0.8, 0.5, 1.2), (1.0, 0.9, 1.0)),
        baselines=[SimpleNamespace(name="static exit", test=points((1, 0.899, 4.0), (2, 0.9, 1.0)))],
        full_quality=0.9,
    )
    found = claimed.faster(curve, 0.9511)
    assert (found.holds, found.not_comparable) == (holds, "")
    assert "budget 0.5" in found.measured
    assert found.measured.endswith("without branches: 0.9511")
    curve.baselines[0].test = points((1, 0.9, 4.0), (2, 0.9, 1.0))
    found = claimed.faster(curve, 0.9511)
    assert not found.holds
    assert found.not_comparable.startswith("Branch 1 by itself, for 25% of the cost, reaches 0.9000")


def test_where_all_branches_stay_thresholds_alone_are_searched(prepared):
    method, _, ready = prepared(KEY)
    rival = claimed.AllKept(**claimed.settings(method))
    assert rival.space(3).values == (12, 12)
    assert rival.design([3, 5], 3) == Design((True, True), (method.levels[3], method.levels[5]))
    found = rival.fit(ready.for_choosing)
    assert found.designs.shape[1] == 2
    assert len(found.designs) > 24
    as_ours = np.concatenate([np.ones_like(found.designs), found.designs], axis=1)
    assert found.scores.tolist() == method.judged(as_ours, ready, "fitting").tolist()
    assert found.scores[0].tolist() == method.judged(np.array([[1, 0, 0, 0]]), ready, "fitting")[0].tolist()


@pytest.mark.parametrize(("gain", "held", "holds"), [(0.003, 0.0, True), (0.002, 0.1, False), (0.003, -0.001, False)])
def test_pruned_must_be_worth_more_than_all_kept(prepared, monkeypatch, gain, held, holds):
    method, _, ready = prepared(KEY)
    ours = ready.fitted
    monkeypatch.setattr(
        claimed.AllKept, "fit", lambda self, given: SimpleNamespace(hypervolume=ours.hypervolume - gain)
    )
    monkeypatch.setattr(claimed, "worth", lambda one, given, found: 0.6 + held * (found is ours))
    found = claimed.better_than_all_kept(method, ready)
    assert found.holds is holds
    assert found.measured.startswith(f"{gain:+.4f} on the images of the search, {held:+.4f} on test images; ")


def test_the_network_alone_learns_as_long_without_branches(stages):
    method = registry.get(KEY).variant("", "tiny").replace({"batch": 40})
    (stage,) = stages(claimed.Alone(**claimed.settings(method)))
    assert stage.label == "training the plain network"
    assert (stage.epochs, stage.batch, len(stage.train), {*stage.rates.values()}) == (
        method.epochs, 40, 600, {method.rate},
    )  # fmt: skip


@pytest.mark.parametrize(("ours", "holds"), [(0.806, True), (0.804, False)])
def test_the_rival_is_one_threshold_for_all_branches(made, ours, holds):
    static, rival = made(0.99, "static exit", points=4), made(0.8, points=4)
    own = made(ours)
    curve = SimpleNamespace(validation=own.validation, test=own.test, baselines=[static, rival])
    found = claimed.better_than_by_hand(curve)
    assert found.holds is holds
    assert found.measured.endswith("over 1 costs")  # all of them are said to cost the same


def test_four_claims_are_tried(monkeypatch):
    rival = SimpleNamespace(prepare=lambda bench: "alone", full_model=lambda *given: (given, 1e9))
    monkeypatch.setattr(claimed, "settings", lambda method: {})
    monkeypatch.setattr(claimed, "Alone", lambda: rival)
    for name in ("faster", "better_than_all_kept", "better_than_by_hand", "beside_random_search"):
        monkeypatch.setattr(claimed, name, lambda *given, name=name: (name, *given))
    method, ready = SimpleNamespace(best_of_all=lambda *given: given), SimpleNamespace(for_choosing="held")
    assert claimed.claims(method, ready, "b", "c") == [
        ("faster", "c", ("alone", "b")), ("better_than_all_kept", method, ready),
        ("better_than_by_hand", "c"), ("beside_random_search", method, ready, ("held", "fitting")),
    ]  # fmt: skip


def test_the_best_of_all_branches_and_thresholds_is_that_of_trying_each(prepared):
    _, _, ready = prepared(KEY)
    method = registry.get(KEY).variant("", "tiny").replace({"levels": (0.0, 0.5, 0.8)})
    every = np.array([[*m, *th] for m in product((0, 1), repeat=2) for th in product(range(3), repeat=2)])
    scores = method.judged(every, ready, "fitting")
    best = method.best_of_all(ready.for_choosing, "fitting")
    assert best.scores == pytest.approx(scores[front([tuple(pair) for pair in scores.tolist()])])
    assert BranchPruned().different(6) == 13**5
