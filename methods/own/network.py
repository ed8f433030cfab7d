"""Your own network with exits: trained by a recipe, asked for all that its exits say, run with a rule, kept."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine import evaluate
from eelit.methods.engine.costs import both_costs
from eelit.methods.engine.method import silent
from eelit.methods.engine.multi_exit import MultiExit, device_of, evaluating
from eelit.methods.own.batches import NO_BATCH, Inputs, inputs_of, on, parted, samples_of
from eelit.methods.own.logits import Logits
from eelit.methods.own.saved import SavedRule, Skipping, WrongRule
from eelit.methods.policies.base import ANSWER, Policy, Routing, said

if TYPE_CHECKING:
    from eelit.methods.own.stream import Streamed
    from eelit.methods.own.training import Trained

Progress = Callable[[str, float | None], None]


@dataclass(frozen=True)
class Made:
    """How exits were put on a model, as `attach` was told, to do it again."""

    after: tuple[str | int, ...]
    auto: bool  # whether new heads are those that `attach` makes itself
    keep_head: bool
    outputs: int | None


@dataclass(frozen=True)
class Inferred(evaluate.Inference):
    """What `Network.infer` returns: where samples left and what they are told, and who is told nothing."""

    rejected: Tensor  # [N], bool: of a rule that refuses, who gets no answer

    @property
    def predicted(self) -> Tensor:
        """The classes ``[N]``, or the values."""
        return self.answers.argmax(dim=-1) if self.answers.dim() == 2 else self.answers


class Network:
    """A network of yours with exits, made by `attach`.

    `model` is the `MultiExit` and `original` the model it was made of; they share their weights. `places` says where
    each exit stands, the last one included.
    """

    def __init__(
        self,
        model: MultiExit,
        original: nn.Module,
        made: Made,
        places: Sequence[str],
        outputs: int,
        *,
        probe: Inputs | None = None,
    ) -> None:
        self.model, self.original, self.made = model, original, made
        self.places, self.outputs, self.probe = tuple(places), outputs, probe
        self._costs: dict[Any, tuple[list[int], list[int]]] = {}

    def __repr__(self) -> str:
        return f"<Network: {type(self.original).__name__}, exits {', '.join(self.places)}>"

    @property
    def exits(self) -> int:
        """E, the last exit included."""
        return self.model.exits

    def to(self, device: torch.device | str) -> Network:
        """Bring the network, and the model that it was made of, to a device."""
        self.original.to(device)
        self.model.to(device)
        return self

    def fit(
        self,
        loader: Iterable[Any],
        recipe: str = "pabee",
        *,
        device: torch.device | str | None = None,
        freeze: str | Sequence[str] = (),
        seed: int = 0,
        progress: Progress = silent,
        **settings: Any,
    ) -> Trained:
        """Train on your own data by the recipe of a registered method; returns what was done.

        Args:
            loader: yields batches with labels, and can be passed several times, as a `DataLoader` can; its batches are
                taken as they come.
            recipe: a key such as ``"zhou2020pabee"`` or a short name of `recipes.RECIPES`, such as ``"pabee"``.
            device: where to train; the network stays there.
            freeze: ``"network"`` for all but the new heads, or names of modules of the model, which do not learn.
            seed: of dropout, and of a loader that draws its order from torch.
            progress: told what is trained, and which share is done.
            settings: those of the recipe that shall differ from the method's (``epochs``, ``rate`` …).

        Raises `ValueError` for a recipe there is not, with those there are, or settings that it has not.
        """
        from eelit.methods.own.training import train

        if device is not None:
            self.to(device)
        return train(self, loader, recipe, freeze=freeze, seed=seed, progress=progress, settings=settings)

    @torch.inference_mode()
    def collect(self, loader: Iterable[Any], *, costs: Sequence[float] | None = None, unit: str = "") -> Logits:
        """Return what all exits say of all samples, with their labels, if there are some, and costs.

        Costs are multiply-accumulates, counted for each shape of a batch with its padding, or those that are given
        ``[E]``, in a ``unit`` of their own. Raises `UncountedOperation` where the network does something that cannot be
        counted; then give ``costs``.
        """
        found: list[dict[str, NDArray[Any]]] = []
        labels: list[Tensor] = []
        spent: list[tuple[int, list[int], list[int]]] = []
        for batch in loader:
            inputs, target = parted(batch)
            inputs, n = on(device_of(self.model), inputs), samples_of(inputs)
            with evaluating(self.model):
                out = self.model(inputs)
            parts = out if isinstance(out, Mapping) else {ANSWER: out}
            found.append({name: _host(part) for name, part in parts.items()})
            labels += [] if target is None else [target.reshape(-1).cpu()]
            spent += [] if costs is not None else [(n, *self.costs(inputs))]
        if not found:
            raise ValueError(NO_BATCH)
        z = {name: np.concatenate([part[name] for part in found], axis=1) for name in found[0]}
        answers, known = z.pop(ANSWER), _costs(spent) if costs is None else {"costs": costs, "unit": unit or None}
        axes = "enc" if answers.ndim == 3 else "en"
        told = torch.cat(labels).numpy() if labels else None
        return Logits(answers, told, axes=axes, kind="logits" if answers.ndim == 3 else "values", extra=z, **known)

    def costs(self, inputs: Any) -> tuple[list[int], list[int]]:
        """Return the MACs of one sample of inputs of this shape, up to each exit with all heads before, ``[E]``.

        The second ``[E]`` are those of a network that has no head but the one at this exit.
        """
        inputs = inputs_of(inputs)
        parts = inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]
        shape = tuple((name, part.shape[1:], part.dtype) for name, part in parts)
        if shape not in self._costs:
            one: Any = {name: part[:1] for name, part in parts} if isinstance(inputs, Mapping) else inputs[:1]
            self._costs[shape] = both_costs(self.model, on(device_of(self.model), one))  # type: ignore[arg-type]
        return self._costs[shape]

    def infer(self, batch: Any, rule: SavedRule | Policy, *, count: bool = True) -> Inferred:
        """Run a batch, where each sample leaves as soon as the rule says so, and nothing behind is run for it.

        ``batch`` is as the model takes it, a tensor or a dictionary with masks; labels in it are left aside. ``rule``
        is what `calibrate` gave or `load_rule` read, or any policy. ``count`` tells MACs per sample, unless a policy
        finds its own way through the exits. Raises `WrongRule` for a rule of another network.
        """
        inputs = on(device_of(self.model), inputs_of(batch))
        policy = self.policy(rule)
        found = evaluate.infer(self.model, inputs, policy)
        table = self.spent(inputs, policy) if count else np.array([])
        macs = table[found.exits.cpu().numpy()] if len(table) else table
        rejected = torch.zeros_like(found.exits, dtype=torch.bool)
        if isinstance(rule, SavedRule) and rule.reject_below > -math.inf:
            rejected = (found.exits == self.exits - 1) & torch.as_tensor(rule.rejected(said(found.outputs)))
        return Inferred(found.exits, found.outputs, macs, found.not_finite, rejected)

    def policy(self, rule: SavedRule | Policy) -> Policy:
        """Return the policy of a rule, without its refusals. Raises `WrongRule` for a rule of another network."""
        if not isinstance(rule, SavedRule):
            return rule
        classes = 0 if self.outputs == 1 else self.outputs
        if (rule.exits, rule.classes) != (self.exits, classes):
            raise WrongRule(
                f"the rule is for {rule.exits} exits and {rule.classes} classes, but the network has {self.exits} and "
                f"{classes}"
            )
        return replace(rule, reject_below=-math.inf).policy

    def infer_stream(self, batches: Iterable[Any], rule: SavedRule | Policy, **options: Any) -> Iterator[Streamed]:
        """Run batches that come one after the other, survivors joined again; see `stream.infer_stream`."""
        from eelit.methods.own.stream import infer_stream

        return infer_stream(self, batches, rule, **options)

    def spent(self, inputs: Any, policy: Policy) -> NDArray[np.float64]:
        """Return the MACs of all that is run for a sample up to each exit ``[E]``; empty if the way there is not known.

        ``inputs`` are of the shape that is meant.
        """
        if isinstance(policy, Routing) and not isinstance(policy, Skipping):
            return np.array([])
        every, cut = (np.array(part, dtype=np.float64) for part in self.costs(inputs))
        if isinstance(policy, Skipping):  # of heads, those at exits that are asked are run, and the first
            before = every - cut  # of all earlier heads together
            asked = np.isin(np.arange(self.exits), [0, *policy.exits])
            every = cut + np.concatenate([[0.0], np.cumsum(np.diff(before) * asked[:-1])])
        return every

    def export(self, folder: str | Path, example: Any) -> None:
        """Write one ONNX file per exit, proved by running them; see `export.export`, and `deployed.run` to run them."""
        from eelit.methods.own.export import export

        export(self, folder, example)

    def save(self, folder: str | Path) -> None:
        """Write weights (safetensors) and what else is needed to make the network again (JSON), whole or not at all."""
        from eelit.methods.own.kept import save

        save(self, Path(folder))


def _host(part: Tensor) -> NDArray[Any]:
    found: NDArray[Any] = (part.float() if part.dtype == torch.bfloat16 else part).cpu().numpy()
    return found


def _costs(spent: Sequence[tuple[int, list[int], list[int]]]) -> dict[str, Any]:
    """Return costs for `Logits`: one for each exit if all batches were of one shape, else one for each sample, too."""
    sizes = [n for n, _, _ in spent]
    every, cut = (np.array(part, dtype=np.float64) for part in zip(*((a, b) for _, a, b in spent), strict=True))
    plain = np.average(cut, axis=0, weights=sizes)
    alike = bool((every == every[0]).all())
    return {"costs": every[0] if alike else np.repeat(every.T, sizes, axis=1), "plain_costs": plain, "unit": "MACs"}
