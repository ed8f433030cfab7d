"""Heads of exits on your own network: new ones, and the trained one that it has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from eelit.methods.backbones.attached import MASK, Reading
from eelit.methods.backbones.own_forward import HIDDEN, CannotAttach, in_place_of
from eelit.methods.own.cutting import AT, quoted
from eelit.methods.policies.base import widened

Factory = Callable[[Sequence[int], int], nn.Module]
"""From the shape of one sample's state, without the sample axis, and the number of outputs to a head.

The head is given the states ``[N, ...]``, and the mask ``[N, T]``, or None, if its forward takes a ``mask``.
"""
CARRIED = "input "
"""How the names of a model's inputs begin that a state carries along for the trained head."""


class Mean(nn.Module):
    """A linear head on the mean: over places of a map ``[N, C, H, W]``, or over tokens ``[N, T, d]`` but padding."""

    def __init__(self, shape: Sequence[int], outputs: int) -> None:
        super().__init__()
        self.channels_first = len(shape) > 2
        self.classifier = nn.Linear(shape[0] if self.channels_first else shape[-1], outputs)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return logits ``[N, C]``; a mask that is of no tokens, as another network's may be, is left aside."""
        if self.channels_first:
            x = x.flatten(2).mean(dim=2)
        elif x.dim() > 2 and (mask is None or mask.shape != x.shape[:2]):
            x = x.mean(dim=1)
        elif x.dim() > 2 and mask is not None:
            wide = widened(x)  # the sum over a long text leaves the range of half precision
            weights = mask.to(wide)
            x = ((weights[..., None] * wide).sum(dim=1) / weights.sum(dim=1, keepdim=True)).to(x.dtype)
        out: Tensor = self.classifier(x)
        return out


class ExitHead(nn.Module):
    """A head on what an exit reads of a state; values ``[N]`` where it has one output.

    What is read is the network's own, so a module in between, a final norm, is no part of the head.
    """

    def __init__(self, head: nn.Module, reading: Reading | None) -> None:
        super().__init__()
        self.head = head
        self._reading = [reading]
        self._masked = "mask" in inspect.signature(head.forward).parameters

    def forward(self, state: Mapping[str, Any]) -> Any:
        """Read the state after a stage."""
        (reading,) = self._reading
        x = state[AT] if reading is None else reading(dict(state))
        out = self.head(x, mask=state.get(MASK)) if self._masked else self.head(x)
        return out.squeeze(-1) if isinstance(out, Tensor) and out.dim() == 2 and out.shape[1] == 1 else out


class Whole(nn.Module):
    """Stands for a head at the end of a network whose last part has its own head inside."""

    def forward(self, state: Mapping[str, Any]) -> Tensor:
        """Return the network's answer."""
        out = state[AT]
        found: Tensor = out["logits"] if isinstance(out, Mapping) else out
        return found.squeeze(-1) if found.dim() == 2 and found.shape[1] == 1 else found


class TrainedHead(nn.Module):
    """The head that a model of transformers has: its own forward, with what an exit reads in the place of its body."""

    def __init__(self, task: Any, reading: Reading, answer: type, pooler: Callable[[Tensor], Tensor] | None) -> None:
        super().__init__()
        body = task.base_model
        self.parts = nn.ModuleDict({name: part for name, part in task.named_children() if part is not body})
        self._task, self._reading, self._pooler, self._answer = [task], [reading], [pooler], answer

    def forward(self, state: Mapping[str, Any]) -> Tensor:
        """Read the state after the last stage."""
        (task,), (reading,), (pooler,) = self._task, self._reading, self._pooler
        task.training = self.training
        hidden = reading(dict(state))
        told = {"last_hidden_state": hidden} | ({} if pooler is None else {"pooler_output": pooler(hidden)})
        inputs = {name.removeprefix(CARRIED): part for name, part in state.items() if name.startswith(CARRIED)}
        with in_place_of({task.base_model: lambda *_, **__: self._answer(**told)}):
            out: Tensor = task(**inputs).logits
        return out.squeeze(-1) if out.dim() == 2 and out.shape[1] == 1 else out


def trained_head(task: Any, reading: Reading, probe: Mapping[str, Tensor]) -> TrainedHead:
    """Return the head of a model of transformers. Raises `CannotAttach` if it reads what cannot be made for it."""
    out = task.base_model(**probe)
    pooled = getattr(out, "pooler_output", None)
    pooler: Callable[[Tensor], Tensor] | None = None
    if pooled is not None:
        ways = [_pooled, _first_pooled]
        fitting = [way for way in ways if _gives(partial(way, task.base_model), out.last_hidden_state, pooled)]
        pooler = partial(fitting[0], task.base_model) if fitting else None
        if pooler is None:
            raise CannotAttach(task, "how its head's pooled input is made cannot be seen; try keep_head=False")
    return TrainedHead(task, reading, type(out), pooler)


def _pooled(body: Any, hidden: Tensor) -> Tensor:
    found: Tensor = body.pooler(hidden)
    return found


def _first_pooled(body: Any, hidden: Tensor) -> Tensor:
    """ALBERT's way."""
    found: Tensor = body.pooler_activation(body.pooler(hidden[:, 0]))
    return found


def _gives(way: Callable[[Tensor], Tensor], hidden: Tensor, wanted: Tensor) -> bool:
    try:
        return torch.equal(way(hidden), wanted)
    except (AttributeError, TypeError, RuntimeError):
        return False


class Carrying(nn.Module):
    """The first stage of an encoder, whose states also carry the inputs that the trained head may ask for.

    It holds what the network has behind its layers, since exits read through it but do not own it.
    """

    def __init__(self, stage: nn.Module, reading: Reading, names: Sequence[str], known: frozenset[str] | None) -> None:
        super().__init__()
        self.stage, self.reading = stage, reading
        self._names, self._known = tuple(names), known

    def forward(self, inputs: Any) -> dict[str, Tensor]:
        """Map inputs to the state after the first layer. Raises `ValueError` for an input that the encoder has not."""
        if self._known is not None and isinstance(inputs, Mapping) and (odd := sorted(inputs.keys() - self._known)):
            raise ValueError(f"the encoder reads no {quoted(odd)}; leave it out of the batch")
        state: dict[str, Tensor] = self.stage(inputs)
        named = inputs if isinstance(inputs, Mapping) else {self._names[0]: inputs} if self._names else {}
        return {**state, **{f"{CARRIED}{name}": named[name] for name in self._names if name in named}}


def made_in(dtype: torch.dtype, factory: Factory, shape: Sequence[int], outputs: int) -> nn.Module:
    """Return the head that a function makes, its weights of the precision of the states that it reads."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype if dtype.is_floating_point else before)
    try:
        return factory(shape, outputs)
    finally:
        torch.set_default_dtype(before)


def arguments_of(module: nn.Module) -> frozenset[str] | None:
    """Return the names of a module's inputs, None if its forward names none: some drop in silence what they lack."""
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    names = (name for name, each in inspect.signature(module.forward).parameters.items() if each.kind in kinds)
    return frozenset(names) or None


def shape_of(state: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the shape of what an exit reads of a state, without the sample axis."""
    return tuple((state[AT] if AT in state else state[HIDDEN]).shape[1:])
