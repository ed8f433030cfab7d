"""A network of yours as one ONNX file per exit: the stage with its head, from the state before to what it says."""

from __future__ import annotations

import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from eelit.methods.data.cache import write
from eelit.methods.engine.multi_exit import MultiExit, evaluating, select
from eelit.methods.own.batches import Inputs, inputs_of, samples_of
from eelit.methods.own.deployed import NAME, stages_in
from eelit.methods.own.refusals import CannotExport

if TYPE_CHECKING:
    from eelit.methods.own.network import Network

OPSET = 18
CLOSE = 1e-3  # share of the largest number by which onnxruntime may differ


class _Step(nn.Module):
    """A stage with its head, from flat tensors to what the head says and the flat tensors of the next state."""

    def __init__(self, network: MultiExit, i: int, names: list[str], structure: Any) -> None:
        super().__init__()
        self.whole = network  # some of whose modules a head reads through without owning them
        self.stage, self.head = network.stages[i], network.heads[i]
        self._last, self._structure, self._names = i == network.exits - 1, structure, names

    def forward(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Return the answer, then the next state."""
        state = self.stage(pytree.tree_unflatten(list(parts), self._structure))
        answer = self.head(state)
        return (answer,) if self._last else (answer, *pytree.tree_leaves(state))


@torch.no_grad()
def export(network: Network, folder: str | Path, example: Any) -> None:
    """Write one file per exit, and their names; proved by running them on other numbers of samples than the example's.

    The first file takes the network's inputs by their names, each other one the state that the file before gives. Each
    holds a stage and its head: its first output is what the exit says (``answer_0`` …), the others are the next state
    (``state_0_0`` …), which the last file does not have. ``stages.json`` names files, inputs and outputs in order.

    Sizes but the number of samples are those of the example. Raises `CannotExport` if what onnxruntime says differs, or
    if something in the network has no counterpart, and then leaves the folder as it was; and `ImportError` without the
    packages that ``eelit[onnx]`` brings.
    """
    place, inputs = Path(folder), inputs_of(example)
    if samples_of(inputs) < 2:
        raise CannotExport("the example is of two samples at least, since their number must be told from other sizes")
    named: Any = dict(inputs) if isinstance(inputs, Mapping) else {"inputs": inputs}
    model, told = network.model.cpu(), []
    place.parent.mkdir(parents=True, exist_ok=True)
    with (
        TemporaryDirectory(prefix=f".{place.name}-", dir=place.parent) as made,
        evaluating(model),
        warnings.catch_warnings(),
    ):
        aside = Path(made)
        warnings.simplefilter("ignore")
        state: Any = _masked(inputs)
        names, gives = list(named), dict[str, list[str]]()
        for i in range(model.exits):
            parts, structure = pytree.tree_flatten(state)
            if not all(isinstance(part, Tensor) and part.dim() for part in parts):
                raise CannotExport(f"the state before exit {i + 1} holds what is no tensor")
            state = model.stages[i](state)
            if not isinstance(model.heads[i](state), Tensor):
                raise CannotExport(f"exit {i + 1} says more than its answer")
            step = _Step(model, i, names, structure).eval()
            following = [f"state_{i}_{k}" for k in range(len(pytree.tree_leaves(state)))] if i < model.exits - 1 else []
            told.append(f"stage-{i}.onnx")
            gives[told[-1]] = [f"answer_{i}", *following]
            content = _written(step, parts, names, gives[told[-1]], samples_of(inputs))
            write(aside / told[-1], content)
            names = following
        about: dict[str, Any] = {"stages": told}
        about["inputs"] = {name: [str(t.dtype), list(t.shape[1:])] for name, t in named.items()}
        about["outputs"] = gives
        write(aside / NAME, json.dumps(about, indent=1).encode() + b"\n")
        for each in (inputs, _masked(inputs)):
            _prove(network, aside, each)
        place.mkdir(exist_ok=True)
        for name in (*told, NAME):
            os.replace(aside / name, place / name)


def example_in(path: str | Path) -> Inputs:
    """Return the inputs in a file: of ``.npz`` the arguments of a network by their names, of ``.npy`` its one array."""
    held = np.load(path, allow_pickle=False)
    if isinstance(held, np.ndarray):
        return torch.as_tensor(held)
    with held as found:
        named = {name: torch.as_tensor(found[name]) for name in found.files}
    return next(iter(named.values())) if len(named) == 1 else named


def _masked(inputs: Inputs) -> Inputs:
    """Return the example with one token masked where none is: transformers drops a mask of ones, and graphs lack it."""
    if not isinstance(inputs, Mapping):
        return inputs
    mask = inputs.get("attention_mask")
    if mask is None or mask.dim() != 2 or mask.shape[1] < 2 or not bool(mask.all()):
        return inputs
    mask = mask.clone()
    mask[0, -1] = 0
    return {**inputs, "attention_mask": mask}


def _written(step: nn.Module, parts: list[Any], names: list[str], gives: list[str], samples: int) -> bytes:
    target: Any = io.BytesIO()
    axes = {name: {0: "samples"} for name, part in zip(names, parts, strict=True) if len(part) == samples}
    axes |= {name: {0: "samples"} for name in gives}
    try:
        torch.onnx.export(
            step, tuple(parts), target, input_names=names, output_names=gives, dynamic_axes=axes, opset_version=OPSET,
            dynamo=False,
        )  # fmt: skip
    except ImportError:
        raise
    except Exception as error:
        first = (str(error).strip().splitlines() or [""])[0]
        raise CannotExport(f"a stage has no counterpart in ONNX ({type(error).__name__}: {first})") from error
    return target.getvalue()


def _prove(network: Network, place: Path, inputs: Inputs) -> None:
    stages, n = stages_in(place), samples_of(inputs)
    for rows in (torch.arange(n), torch.arange(n - 1), torch.arange(n + 3) % n, torch.tensor([n - 1])):
        some = select(inputs, rows, n)
        wanted = network.model(some).numpy()
        state = {
            name: part.numpy() for name, part in (some.items() if isinstance(some, Mapping) else [("inputs", some)])
        }
        for i, stage in enumerate(stages):
            given = {each.name: state[each.name] for each in stage.get_inputs()}
            try:
                found, *parts = stage.run(None, given)
            except Exception as error:  # those of onnxruntime have no class in common
                first = str(error).strip().partition("\n")[0]
                raise CannotExport(f"onnxruntime cannot run exit {i + 1} of {len(rows)} samples: {first}") from error
            state = dict(zip((each.name for each in stage.get_outputs()[1:]), parts, strict=True))
            gap = float(np.abs(found - wanted[i]).max()) if found.shape == wanted[i].shape else np.inf
            if not gap <= CLOSE * max(1e-3, float(np.abs(wanted[i]).max())):
                raise CannotExport(f"what onnxruntime says at exit {i + 1} of {len(rows)} samples differs by {gap:.2g}")
