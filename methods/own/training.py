"""Recipes of registered methods, by name, on your own network and data.

A recipe says which losses, in which stages, over which weights. Its numbers (epochs, rates) are the settings of the
method that it is named after, unless you say others; the order and size of batches are your loader's. Where a paper
gives its heads a form of their own, that is not part of it: heads are those that `attach` was told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn

from eelit.methods.engine.examples import Data, Examples, withheld
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit, device_of
from eelit.methods.harness import registry
from eelit.methods.own.batches import Labelled, inputs_of, on
from eelit.methods.recipes.joint import depth_weights, train_joint
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

    def plain(self, **options: Any) -> None:
        """Train the plain network, if it is not frozen."""
        if any(p.requires_grad for p in self.model.plain_network().parameters()):
            train_plain(self.model, self.data, self.bench, **options)

    def heads(self, **options: Any) -> None:
        """Train the heads before the last on the frozen network."""
        train_parts(self.model, self.model.heads[:-1].parameters(), self.data, self.bench, **options)


@dataclass(frozen=True)
class Recipe:
    """A way of training that a registered method has."""

    key: str
    says: str
    numbers: tuple[str, ...]  # the settings of the method that count
    run: Callable[[Job], None]


def _pabee(job: Job) -> None:
    weights = depth_weights(job.model.exits)
    options = job.options("epochs", "rate", head_rate=job.numbers.head_rate)
    train_joint(job.model, job.data, job.bench, weights=weights, **options)


def _equal(job: Job) -> None:
    options = job.options("epochs", "rate", head_rate=job.numbers.head_rate, optimiser=torch.optim.Adam)
    train_joint(job.model, job.data, job.bench, weights=[1.0] * job.model.exits, **options)


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


RECIPES: dict[str, Recipe] = {
    "pabee": Recipe(
        "zhou2020pabee", "Everything together; the loss of exit i of E weighs i / (1 + … + E).",
        ("epochs", "rate", "head_rate"), _pabee,
    ),
    "right-tool": Recipe(
        "schwartz2020right", "Everything together; all losses weigh the same.",
        ("epochs", "rate", "head_rate"), _equal,
    ),
    "deebert": Recipe(
        "xin2020deebert", "First the network by itself; then it is frozen, and the heads before the last learn.",
        ("epochs", "rate", "ramp_epochs", "ramp_rate"), _deebert,
    ),
    "sdn": Recipe(
        "kaya2019sdn", "IC-only: first the network by itself; then it is frozen, and the heads before the last learn.",
        ("epochs", "rate", "head_epochs", "head_rate"), _frozen,
    ),
    "sdn-training": Recipe(
        "kaya2019sdn", "Everything together; losses before the last grow to the share of the cost at their exits.",
        ("epochs", "rate"), _ramped,
    ),
    "branchynet": Recipe(
        "teerapittayanon2016branchynet", "First the network by itself, then everything together.",
        ("trunk_epochs", "epochs", "rate", "branch_weight", "last_weight"), _branchynet,
    ),
}  # fmt: skip
"""Short name → recipe; a method's key serves, too."""


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
        why = "a method is registered, but its training is not offered as a recipe for your own network:"
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
    numbers = {each: settings.get(each, getattr(method, each)) for each in found.numbers}
    examples = Labelled(loader, values=network.outputs == 1)
    data = Data(cast(Examples, examples), withheld(), withheld(), network.outputs, "")
    stages: list[Any] = []
    bench = Bench(seed=seed, progress=progress, watch=lambda stage: stages.append(stage) if stage else None)
    shares = _shares(network, loader) if found.run is _ramped else []
    with frozen(_parts(network, freeze)):
        found.run(Job(network.model, data, bench, SimpleNamespace(**numbers), shares))
    network.model.eval()
    told = tuple(stage.label for stage in stages)
    return Trained(name, found.key, numbers, told, sum(stage.steps for stage in stages))


def _shares(network: Network, loader: Iterable[Any]) -> list[float]:
    first = on(device_of(network.model), inputs_of(next(iter(loader))))
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
