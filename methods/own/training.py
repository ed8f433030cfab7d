"""Recipes of registered methods, by name, on your own network and data.

A recipe says which losses, in which stages, over which weights. Its numbers (epochs, rates) are the settings of the
method that it is named after, unless you say others; the order and size of batches are your loader's. Where a paper
gives its heads a form of their own, that is not part of it: heads are those that `attach` was told. `recipes` lists
them; each reuses the losses and loops that its method has.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from eelit.methods.engine.examples import Data, Examples, withheld
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.harness import registry
from eelit.methods.own.batches import NO_BATCH, Labelled, inputs_of, on
from eelit.methods.own.recipes import LEFT_OUT, RECIPES, Recipe
from eelit.methods.policies.base import said
from eelit.methods.recipes.fit import Batch, Loss, Stage, fit
from eelit.methods.recipes.joint import depth_weights, exit_losses, train_joint
from eelit.methods.recipes.plain import train_plain
from eelit.methods.recipes.ramped import train_ramped
from eelit.methods.recipes.two_stage import train_parts

if TYPE_CHECKING:
    from eelit.methods.own.network import Network

NETWORK = "network"
"""What ``freeze`` is called that leaves the new heads alone to learn."""


@dataclass(frozen=True)
class Job:
    """What a recipe works on: a network, data, a bench, and its numbers."""

    model: MultiExit
    data: Data
    bench: Bench
    numbers: Any
    shares: list[float]  # of the cost of the plain network that is spent at each exit but the last

    def options(self, epochs: str, rate: str, **more: Any) -> dict[str, Any]:
        """Return options of `fit`."""
        return {"epochs": getattr(self.numbers, epochs), "batch": 1, "rate": getattr(self.numbers, rate), **more}

    @property
    def learning(self) -> list[nn.Parameter]:
        """The weights of the network that are not frozen."""
        return [p for p in self.model.parameters() if p.requires_grad]

    def outputs(self, batch: Batch) -> Tensor:
        """Return what all exits answer, ``[E, N, C]`` or ``[E, N]``."""
        found: Tensor = said(self.model(batch.inputs))
        return found

    def plain(self, **options: Any) -> None:
        """Train the plain network, if it is not frozen."""
        if any(p.requires_grad for p in self.model.plain_network().parameters()):
            train_plain(self.model, self.data, self.bench, **options)

    def heads(self, **options: Any) -> None:
        """Train the heads before the last on the frozen network."""
        train_parts(self.model, self.model.heads[:-1].parameters(), self.data, self.bench, **options)

    def together(self, loss: Loss, label: str, parameters: Sequence[nn.Parameter] = (), **options: Any) -> None:
        """Minimise a loss of all exits over everything, heads at their own rate if the recipe has one.

        ``parameters`` learn beside the network, at the rate ``faster_rate`` if given.
        """
        if hasattr(self.numbers, "head_rate"):
            options |= {"faster": self.model.heads.parameters(), "faster_rate": self.numbers.head_rate}
        self.model.train()
        everything = [*self.model.parameters(), *parameters]
        fit(everything, self.data.train, loss, self.bench, label=label, **self.options("epochs", "rate"), **options)
        self.model.eval()


def _pabee(job: Job) -> None:
    weights = depth_weights(job.model.exits)
    options = job.options("epochs", "rate", head_rate=job.numbers.head_rate)
    train_joint(job.model, job.data, job.bench, weights=weights, **options)


def _equal(job: Job) -> None:
    options = job.options("epochs", "rate", head_rate=job.numbers.head_rate, optimiser=torch.optim.Adam)
    train_joint(job.model, job.data, job.bench, weights=[1.0] * job.model.exits, **options)


def _msdnet(job: Job) -> None:
    sgd: dict[str, Any] = {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4}
    options = job.options("epochs", "rate", optimiser=torch.optim.SGD, options=sgd)
    train_joint(job.model, job.data, job.bench, weights=[1.0] * job.model.exits, **options)


def _dynexit(job: Job) -> None:
    from eelit.methods.papers.wang2019dynexit import SparingAdamW, ratio

    raw = nn.Parameter(torch.zeros(job.model.exits, device=device_of(job.model)))

    def loss(batch: Batch) -> Tensor:
        return (ratio(raw) * exit_losses(job.outputs(batch), batch.targets)).sum()

    how: dict[str, Any] = {"optimiser": SparingAdamW, "options": {"fused": True}}
    how |= {"faster": [raw], "faster_rate": job.numbers.weight_rate}
    job.together(loss, "training all exits and their weights", [raw], **how)


def _berxit(job: Job) -> None:
    from eelit.methods.papers.xin2021berxit import alternating_loss

    def loss(batch: Batch) -> Tensor:
        return alternating_loss(exit_losses(job.outputs(batch), batch.targets), batch.step)

    job.together(loss, "training the last exit and all exits in turn")


def _romebert(job: Job) -> None:
    from eelit.methods.papers.geng2021romebert import distillation_losses, with_projected_gradient

    leads = job.numbers.leads
    if leads not in ("early", "last", None):
        raise ValueError(f'leads is "early", "last" or None, not {leads!r}')
    how = {"gamma": job.numbers.gamma, "temperature": job.numbers.temperature}
    shared, used = _matrices(job.model), list[nn.Parameter]()

    def loss(batch: Batch) -> Tensor:
        early, last = distillation_losses(job.outputs(batch), batch.targets, **how)
        if leads is None:
            return early + last
        if not used:  # a network may have weights that no exit depends on
            slopes = torch.autograd.grad(early + last, job.learning, retain_graph=True, allow_unused=True)
            used.extend(p for p, slope in zip(job.learning, slopes, strict=True) if slope is not None)
        leading, other = (early, last) if leads == "early" else (last, early)
        return with_projected_gradient(leading, other, used, shared)[0]

    job.together(loss, "training all exits, the last teaching the others")


def _matrices(model: MultiExit) -> list[nn.Parameter]:
    """Return the matrices and kernels that early and last losses share: no norms, biases or embeddings.

    The first stage of an encoder holds the whole of it. That is no matter: on what stands behind the early exits their
    losses do not depend, so that nothing is taken off there.
    """
    modules = [module for stage in model.stages[:-1] for module in stage.modules()]
    found = [p for module in modules if not isinstance(module, nn.Embedding) for p in module.parameters(recurse=False)]
    return [p for p in found if p.dim() > 1]


def _distillation(job: Job) -> None:
    from eelit.methods.papers.phuong2019distillation import Annealing, distillation_loss

    numbers = job.numbers
    annealing = Annealing(numbers.tau, numbers.multiplier, numbers.mu)

    def loss(batch: Batch) -> Tensor:
        z = job.outputs(batch)
        found = distillation_loss(z, batch.targets, annealing.tau, numbers.C)
        annealing.after(z[-1])
        return found

    job.together(loss, "training exits on labels and on the last")


def _diverse(job: Job) -> None:
    from eelit.methods.papers.sun2021ensemble import diverse_loss

    def loss(batch: Batch) -> Tensor:
        return diverse_loss(job.outputs(batch), batch.targets, job.numbers.diversity)

    job.together(loss, "training diverse exits")


def _deebert(job: Job) -> None:
    job.plain(**job.options("epochs", "rate", head_rate=job.numbers.ramp_rate))
    job.heads(**job.options("ramp_epochs", "ramp_rate"))


def _frozen(job: Job) -> None:
    job.plain(**job.options("epochs", "rate"))
    job.heads(**job.options("head_epochs", "head_rate"))


def _ramped(job: Job) -> None:
    train_ramped(job.model, job.data, job.bench, C=job.shares, **job.options("epochs", "rate"))


def _branchynet(job: Job) -> None:
    adam: dict[str, Any] = {"optimiser": torch.optim.Adam, "options": {"betas": (0.99, 0.999)}}
    job.plain(**job.options("trunk_epochs", "rate", **adam))
    weights = [job.numbers.branch_weight] * (job.model.exits - 1) + [job.numbers.last_weight]
    train_joint(job.model, job.data, job.bench, weights=weights, **job.options("epochs", "rate", **adam))


def _layer_wise(job: Job) -> None:
    from eelit.methods.papers.baccarelli2020cdnn import train_layer_wise

    for i, part in enumerate(zip(job.model.stages, job.model.heads, strict=True), 1):
        if not any(p.requires_grad for module in part for p in module.parameters()):
            raise ValueError(f"the recipe layer-wise trains each exit in turn, but at exit {i} everything is frozen")
    train_layer_wise(job.model, job.data, job.bench, **job.options("epochs", "rate"))


RUN: dict[str, Callable[[Job], None]] = {
    "pabee": _pabee,
    "right-tool": _equal,
    "msdnet": _msdnet,
    "dynexit": _dynexit,
    "sdn": _frozen,
    "sdn-training": _ramped,
    "berxit": _berxit,
    "romebert": _romebert,
    "distillation": _distillation,
    "diverse": _diverse,
    "branchynet": _branchynet,
    "deebert": _deebert,
    "layer-wise": _layer_wise,
}
"""Short name of a recipe → what runs it."""


@dataclass(frozen=True)
class Trained:
    """What `Network.fit` did: the recipe by its short name, the method's key, the numbers, and the stages."""

    recipe: str
    key: str
    settings: Mapping[str, Any]
    stages: tuple[str, ...]
    steps: int


def named(recipe: str) -> tuple[str, Recipe]:
    """Return a recipe by its short name or its method's key. Raises `ValueError` with those there are."""
    for name, found in RECIPES.items():
        if recipe in (name, found.key):
            return name, found
    told = ", ".join(f"{name} ({found.key})" for name, found in RECIPES.items())
    why = "there is no recipe"
    if recipe in set(registry.keys()):
        try:
            from eelit.methods.families.text import JointText

            if getattr(registry.get(recipe), "train", None) is JointText.train:
                return "pabee", RECIPES["pabee"]
        except ImportError:
            pass
        because = f" ({LEFT_OUT[recipe]})" if recipe in LEFT_OUT else ""
        why = f"a method is registered, but its training is not offered as a recipe for your own network{because}:"
    raise ValueError(f"{why} {recipe!r}; choose among {told}")


def train(
    network: Network,
    loader: Iterable[Any],
    recipe: str,
    *,
    freeze: str | Sequence[str],
    seed: int,
    progress: Callable[[str, float | None], None],
    settings: Mapping[str, Any],
) -> Trained:
    """Train a network of yours; see `Network.fit`."""
    name, found = named(recipe)
    method: Any = registry.get(found.key)
    method = method() if isinstance(method, type) else method
    unknown = sorted(settings.keys() - {*found.numbers})
    if unknown:
        more = "; the size of batches is the loader's" if "batch" in unknown else ""
        raise ValueError(f"the recipe {name} has the settings {', '.join(found.numbers)}, not {unknown[0]!r}{more}")
    if not found.values and network.outputs == 1:
        raise ValueError(f"the recipe {name} needs classes, but the network gives values")
    numbers = {each: settings.get(each, getattr(method, each)) for each in found.numbers}
    examples = Labelled(loader, classes=network.outputs)
    data = Data(cast(Examples, examples), withheld(), withheld(), network.outputs, "")
    stages: list[Stage] = []
    bench = Bench(seed=seed, progress=progress, watch=watched(stages))
    shares = _shares(network, loader) if name == "sdn-training" else []
    with frozen(_parts(network, freeze)):
        RUN[name](Job(network.model, data, bench, SimpleNamespace(**numbers), shares))
    network.model.eval()
    told = tuple(stage.label for stage in stages)
    return Trained(name, found.key, numbers, told, sum(stage.steps for stage in stages))


def watched(stages: list[Stage]) -> Callable[[Stage | None], None]:
    """Return what notes each stage as it begins, and has it stop before weights become NaN."""

    def watch(stage: Stage | None) -> None:
        if stage is not None:
            stages.append(stage)
            for optimiser in (stage.optimiser, *stage.beside):
                optimiser.register_step_pre_hook(_finite)

    return watch


def _finite(optimiser: torch.optim.Optimizer, *_: Any) -> None:
    """Raise `ValueError` if a loss was not finite, which its gradients then are not either."""
    slopes = (p.grad for group in optimiser.param_groups for p in group["params"] if p.grad is not None)
    if not all(bool(slope.isfinite().all()) for slope in slopes):
        raise ValueError(
            "the loss, or its gradient, is not finite; training stopped before that step: try a lower rate, and look "
            "at the inputs"
        )


def _shares(network: Network, loader: Iterable[Any]) -> list[float]:
    batch = next(iter(loader), None)
    if batch is None:
        raise ValueError(NO_BATCH)
    first = on(device_of(network.model), inputs_of(batch))
    _, cut = network.costs(first)
    return [cost / cut[-1] for cost in cut[:-1]]


@contextmanager
def frozen(parts: Sequence[nn.Module]) -> Iterator[None]:
    """Keep parts from learning: their weights, and what batch normalisation knows of the data."""
    held = {id(p): p for part in parts for p in part.parameters() if p.requires_grad}
    still = {id(module): module for part in parts for module in part.modules()}
    modes = {number: module.training for number, module in still.items()}
    for p in held.values():
        p.requires_grad_(False)
    for module in still.values():
        module.training = False
        vars(module)["train"] = lambda mode=True, module=module: module
    try:
        yield
    finally:
        for p in held.values():
            p.requires_grad_(True)
        for number, module in still.items():
            del vars(module)["train"]
            module.training = modes[number]


def _parts(network: Network, freeze: str | Sequence[str]) -> list[nn.Module]:
    if freeze == NETWORK:
        new = network.model.heads[: network.exits - network.made.keep_head]
        return [*network.model.stages, *(head for head in network.model.heads if head not in set(new))]
    return modules_named(network.original, freeze, f"say {NETWORK!r}, or ")


def modules_named(model: nn.Module, freeze: str | Sequence[str], otherwise: str = "") -> list[nn.Module]:
    """Return the modules of a model that shall not learn. Raises `ValueError` for a name that none of them has."""
    known = dict(model.named_modules())
    names = [freeze] if isinstance(freeze, str) else list(freeze)
    told = ", ".join(list(known)[1:9])
    for name in names:
        if name not in known:
            raise ValueError(f"there is no module {name!r} to freeze; {otherwise}name one of {told}, …")
    return [known[name] for name in names]
