"""Recipes on your own network: which loss each stage minimises, over which weights, at which rates."""

import math
from dataclasses import dataclass

import pytest
import torch
from test_own_attach import CLASSES, bert, cnn, images, texts
from torch import nn
from torch.nn import functional as F

from eelit.methods.engine.method import Bench
from eelit.methods.harness import registry
from eelit.methods.own import training
from eelit.methods.own.attach import attach
from eelit.methods.own.recipes import LEFT_OUT, RECIPES
from eelit.methods.recipes.fit import Batch

X = images(12)
Y = torch.arange(12) % CLASSES
DONE = 0.25
"""How far the training is when a stage is asked for its loss."""


def network():
    return attach(cnn(), ["layer1.0", "layer2.0"], probe=images())


@dataclass
class Seen:
    """A stage as it began: its losses at the first two steps, what all exits said then, and what learns at which rate.

    ``slopes`` are those of the first loss.
    """

    label: str
    losses: tuple[float, float]
    outputs: torch.Tensor
    rates: dict
    slopes: dict


def stages_of(monkeypatch, own, recipe, x=X, y=Y, **settings):
    """Train by a recipe, and return its stages as they began."""
    found = []

    def look(stage):
        if stage is not None:
            learning = [p for group in stage.optimiser.param_groups for p in group["params"]]
            first, second = (stage.loss(Batch(torch.arange(len(y)), x, y, step, DONE)) for step in (0, 1))
            slopes = torch.autograd.grad(first, learning, allow_unused=True)
            found.append(
                Seen(
                    stage.label,
                    (first.item(), second.item()),
                    own.model(x).detach(),
                    stage.rates,
                    {id(p): slope for p, slope in zip(learning, slopes, strict=True)},
                )
            )

    def watched(**options):
        told = options.pop("watch")
        return Bench(watch=lambda stage: (look(stage), told(stage)), **options)

    monkeypatch.setattr(training, "Bench", watched)
    own.fit([(x, y)], recipe, **settings)
    return found


def cross_entropies(z, y=Y):
    return [F.cross_entropy(each, y).item() for each in z]


def total(weights, losses):
    return sum(w * loss for w, loss in zip(weights, losses, strict=True))


def taught(z, temperature):
    """``T^2 CE(softmax(z_n / T), softmax(z_i / T))`` of the exits before the last, and the entropy of the teacher."""
    teacher = (z[-1] / temperature).softmax(dim=-1)
    crossed = [-(teacher * (each / temperature).log_softmax(dim=-1)).sum(dim=-1).mean() for each in z[:-1]]
    own = -(teacher * teacher.log()).sum(dim=-1).mean()
    return [temperature**2 * float(each) for each in crossed], temperature**2 * float(own)


def pabee(z, step):
    return total([1 / 6, 2 / 6, 3 / 6], cross_entropies(z))


def equal(z, step):
    return sum(cross_entropies(z))


def dynexit(z, step):
    return sum(cross_entropies(z)) / 3  # all raw weights are 0 as yet


def berxit(z, step):
    return sum(cross_entropies(z)) if step % 2 else cross_entropies(z)[-1]


def sdn_training(z, step):
    _, cut = network().costs(X)
    shares = [cost / cut[-1] for cost in cut[:-1]]
    return total([*(min(c, 0.01 + DONE * c) for c in shares), 1.0], cross_entropies(z))


def romebert(z, step):
    losses, (crossed, own) = cross_entropies(z), taught(z, 3.0)
    return sum(0.1 * ce + 0.9 * (each - own) for ce, each in zip(losses[:-1], crossed, strict=True)) + losses[-1]


def distillation(z, step):
    return 2 / 3 * (0.5 * sum(cross_entropies(z)) + 0.5 * sum(taught(z, 1.0)[0]))


def diverse(z, step):
    p, ln_p = z.softmax(dim=-1), z.log_softmax(dim=-1)
    unlike = [[-(p[j] * ln_p[i]).sum(dim=-1) for j in range(i)] for i in (1, 2)]
    bonus = [torch.stack(each).amin(dim=0).clamp(max=math.log(CLASSES)).mean().item() for each in unlike]
    return pabee(z, step) - 0.1 / 3 * sum(bonus)


def last(z, step):
    return cross_entropies(z)[-1]


def early(z, step):
    return sum(cross_entropies(z)[:-1])


def branchynet(z, step):
    method = registry.get("teerapittayanon2016branchynet")
    return total([method.branch_weight] * 2 + [method.last_weight], cross_entropies(z))


def of_exit(i):
    return lambda z, step: cross_entropies(z)[i]


def everything(model):
    return model.parameters()


def plain(model):
    return model.plain_network().parameters()


def heads(model):
    return model.heads[:-1].parameters()


def part(i):
    return lambda model: nn.ModuleList([model.stages[i], model.heads[i]]).parameters()


WIRED = {
    "pabee": [(pabee, everything)],
    "right-tool": [(equal, everything)],
    "msdnet": [(equal, everything)],
    "dynexit": [(dynexit, everything)],
    "sdn": [(last, plain), (early, heads)],
    "sdn-training": [(sdn_training, everything)],
    "berxit": [(berxit, everything)],
    "romebert": [(romebert, everything)],
    "distillation": [(distillation, everything)],
    "diverse": [(diverse, everything)],
    "branchynet": [(last, plain), (branchynet, everything)],
    "deebert": [(last, plain), (early, heads)],
    "layer-wise": [(of_exit(i), part(i)) for i in range(3)],
}
"""Recipe → for each stage the loss from what all exits say, in plain numbers, and the weights that learn."""
SAID = {"romebert": {"leads": None}, "distillation": {"multiplier": 1.0}}


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_stage_minimises_its_loss_over_its_weights(recipe, monkeypatch):
    own = network()
    stages = stages_of(monkeypatch, own, recipe, **SAID.get(recipe, {}))
    assert len(stages) == len(WIRED[recipe])
    for stage, (loss, learning) in zip(stages, WIRED[recipe], strict=True):
        for step in (0, 1):
            assert stage.losses[step] == pytest.approx(loss(stage.outputs, step), rel=1e-4), (stage.label, step)
        weights = {id(p) for p in learning(own.model)}
        beside = stage.rates.keys() - weights
        assert weights <= stage.rates.keys(), stage.label
        assert len(beside) == (recipe == "dynexit"), stage.label
    quick = RECIPES[recipe].numbers
    if "head_rate" in quick and len(stages) == 1:
        method = registry.get(RECIPES[recipe].key)
        of_heads = {id(p) for p in own.model.heads.parameters()}
        assert {stages[0].rates[p] for p in of_heads} == {method.head_rate}
        assert {rate for p, rate in stages[0].rates.items() if p not in of_heads} == {method.rate}


@pytest.mark.parametrize("recipe", RECIPES)
def test_numbers_are_those_of_the_method(recipe):
    method = registry.get(RECIPES[recipe].key)
    own = network()
    done = own.fit([(X, Y)], recipe)
    assert dict(done.settings) == {name: getattr(method, name) for name in RECIPES[recipe].numbers}
    assert done.key == RECIPES[recipe].key
    assert training.named(done.key)[1].key == done.key


def test_every_recipe_is_run_by_something_and_none_is_both_offered_and_left_out():
    assert training.RUN.keys() == RECIPES.keys() == WIRED.keys()
    assert not LEFT_OUT.keys() & {recipe.key for recipe in RECIPES.values()}
    assert {*LEFT_OUT} <= set(registry.keys())
    assert training.named("kaya2019sdn")[0] == "sdn"  # a key means the first of its method


@pytest.mark.parametrize("leads", ["early", "last"])
def test_where_losses_conflict_one_gives_way_in_the_matrices_they_share(leads, monkeypatch):
    conflicts = 0
    for shift in range(4):
        y, own = (Y * (shift + 1) + Y // 2) % CLASSES, network()
        with torch.no_grad():
            own.model.heads[0].head.classifier.weight.mul_(-9)
        (stage,) = stages_of(monkeypatch, own, "romebert", y=y, leads=leads, rate=0.0, head_rate=0.0)
        own.model.train()
        z = own.model(X)
        teacher = (z[-1].detach() / 3).softmax(dim=-1)
        kl = [9 * F.kl_div((each / 3).log_softmax(dim=-1), teacher, reduction="batchmean") for each in (z[0], z[1])]
        before = sum(0.1 * F.cross_entropy(z[i], y) + 0.9 * kl[i] for i in (0, 1))
        losses = {"early": before, "last": F.cross_entropy(z[-1], y)}
        other = losses.pop("last" if leads == "early" else "early")
        (leading,) = losses.values()
        weights = [*own.model.parameters()]
        a, b = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in (leading, other))
        inside = {id(p) for each in own.model.stages[:2] for p in each.parameters() if p.dim() == 4}
        assert len(inside) == 7  # the stem, two blocks of layer 1 and one of layer 2, with two kernels each
        rows = [i for i, p in enumerate(weights) if id(p) in inside]
        product = sum(float((a[i] * b[i]).sum()) for i in rows)
        off = product / sum(float((a[i] ** 2).sum()) for i in rows) if product < 0 else 0.0
        conflicts += product < 0
        for i, p in enumerate(weights):
            wanted = a[i] + b[i] - off * a[i] if i in rows else a[i] + b[i]
            torch.testing.assert_close(stage.slopes[id(p)], wanted, rtol=1e-3, atol=1e-5)
    assert conflicts, "nothing was seen"


def test_embeddings_are_no_matrices_that_losses_share():
    own = attach(bert(), [2])
    shared = {id(p) for p in training._matrices(own.model)}
    body = own.original.bert
    assert {id(p) for layer in body.encoder.layer[:2] for p in layer.parameters() if p.dim() > 1} <= shared
    assert not shared & {id(p) for p in body.embeddings.parameters()}
    assert own.fit([(texts(), torch.tensor([0, 1, 2, 1]))], "romebert", freeze="network").steps == 1


def test_weights_of_losses_learn_by_themselves_and_do_not_decay(monkeypatch):
    own, seen = network(), []
    monkeypatch.setattr(training, "fit", lambda parameters, *_, **options: seen.append((list(parameters), options)))
    own.fit([(X, Y)], "dynexit")
    ((parameters, options),) = seen
    (raw,) = options["faster"]
    assert raw.shape == (3,)
    assert raw is parameters[-1]
    groups = [{"params": parameters[:-1]}, {"params": [raw], "lr": options["faster_rate"]}]
    step = options["optimiser"](groups, lr=options["rate"], **options["options"])
    assert [group["weight_decay"] > 0 for group in step.param_groups] == [True, False]
    assert options["faster_rate"] == registry.get("wang2019dynexit").weight_rate


def test_the_temperature_of_distillation_rises_while_the_teacher_is_sure(monkeypatch):
    own = network()
    (stage,) = stages_of(monkeypatch, own, "distillation", mu=0.0, multiplier=3.0)
    assert stage.losses[0] == pytest.approx(distillation(stage.outputs, 0), rel=1e-4)
    crossed, z = taught(stage.outputs, 3.0)[0], stage.outputs
    assert stage.losses[1] == pytest.approx(2 / 3 * (0.5 * sum(cross_entropies(z)) + 0.5 * sum(crossed)), rel=1e-4)


@pytest.mark.parametrize("recipe", RECIPES)
def test_networks_that_give_values_learn_too_or_are_refused(recipe):
    own = attach(cnn(classes=1), ["layer1"], probe=images())
    batches = [(X, torch.linspace(0, 1, 12))]
    if RECIPES[recipe].values:
        assert own.fit(batches, recipe).steps
    else:
        with pytest.raises(ValueError, match=f"the recipe {recipe} needs classes, but the network gives values"):
            own.fit(batches, recipe)


def test_what_a_recipe_cannot_do_is_one_sentence():
    with pytest.raises(ValueError, match="trains each exit in turn, but at exit 3 everything is frozen"):
        network().fit([(X, Y)], "layer-wise", freeze="network")
    with pytest.raises(ValueError, match='leads is "early", "last" or None, not \'both\''):
        network().fit([(X, Y)], "romebert", leads="both")
