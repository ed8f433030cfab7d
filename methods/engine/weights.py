"""The cache of what training makes, each outcome under a name that holds all that it depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CellType, CodeType, FunctionType
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench

LIBRARIES = {"filelock", "lightgbm", "numpy", "safetensors", "sklearn", "torch", "transformers"}
"""Packages whose source says nothing about a training that their version does not say."""
PLAIN = (bool, int, float, str, tuple)
"""Types of values, at the top of a module or in a layer, that a training may depend on."""


def trained(
    model: nn.Module,
    train: Callable[[], None],
    bench: Bench,
    *,
    data: str,
    settings: Mapping[str, Any],
    learns: bool = True,
) -> None:
    """Run ``train()``, which trains ``model`` in place, unless the cache already has its outcome.

    The name in the cache is a hash of all that the outcome depends on: the weights before, the source of the layers
    with their plain attributes (a scale, a probability of dropout) and of the training (see `sources_of`), the
    settings, the data's digest, the seed, and the versions of torch and transformers. So methods that train alike share
    one training, and a changed line of code trains anew. Two processes do not train the same thing twice. The bench is
    told under this name how long the training took, if ``train()`` learns something; another long computation whose
    outcome is worth keeping is no preparation.
    """
    start = time.perf_counter()
    name = _digest(model, train, bench, data, settings)
    if bench.cache is None:
        train()
        if learns:
            bench.trainings[name] = time.perf_counter() - start
            bench.prepared_seconds += bench.trainings[name]
            bench.prepared_from_cache = False
        return
    path = bench.cache / "weights" / f"{name}.safetensors"
    if not _loaded(model, path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not _loaded(model, path):  # another process may have trained it while this one waited
                began = time.perf_counter()
                train()
                bench.prepared_from_cache &= not learns
                _save(model, path, time.perf_counter() - began)
    if learns:
        bench.trainings[name] = _seconds(path)
        bench.prepared_seconds += time.perf_counter() - start


def _loaded(model: nn.Module, path: Path) -> bool:
    """Load the weights if they are there and whole; a damaged file is as good as none and will be replaced."""
    if not path.exists():
        return False
    try:
        model.load_state_dict(load_file(path))
    except (SafetensorError, RuntimeError):
        return False
    return True


def _seconds(path: Path) -> float:
    """Return how long it took to train what is in the file."""
    with safe_open(path, framework="pt") as file:
        return float((file.metadata() or {}).get("seconds", 0.0))


def _save(model: nn.Module, path: Path, seconds: float) -> None:
    """Write aside, then rename: an interrupted run leaves no half-written weights."""
    handle, aside = tempfile.mkstemp(dir=path.parent, suffix=".part")
    os.close(handle)
    try:
        weights = {name: t.detach().clone().contiguous() for name, t in model.state_dict().items()}
        save_file(weights, aside, metadata={"seconds": f"{seconds:.3f}"})
        os.replace(aside, path)
    finally:
        Path(aside).unlink(missing_ok=True)


def _digest(model: nn.Module, train: Callable[[], None], bench: Bench, data: str, settings: Mapping[str, Any]) -> str:
    h = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    h.update("\n".join(attributes_of(model)).encode())
    layers = {type(m) for m in model.modules()}
    h.update("\n".join(sources_of([train, Examples, *layers])).encode())
    versions = [torch.__version__, version("transformers")]
    facts = {"seed": bench.seed, "data": data, "settings": settings, "versions": versions}
    if bench.most_steps < math.inf:  # a training that was cut short is another
        facts["steps"] = bench.most_steps
    h.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return h.hexdigest()


def attributes_of(model: nn.Module) -> list[str]:
    """Return the plain attributes of each module, except whether it is in training mode."""
    return [
        f"{name} {sorted((k, v) for k, v in vars(module).items() if isinstance(v, PLAIN) and k != 'training')}"
        for name, module in model.named_modules()
    ]


def sources_of(things: Iterable[object]) -> list[str]:
    """Return the source of functions and classes, and of all functions, classes and plain values that they use, sorted.

    Followed are names in their code and what they close over, not attributes; the standard library and the libraries
    in `LIBRARIES` are left out. So a changed docstring of a paper or an unused function beside
    a used one does not count, and a changed loss does.
    """
    found: dict[int, str] = {}
    constants: set[str] = set()
    queue = list(things)
    while queue:
        thing = queue.pop()
        if not isinstance(thing, FunctionType | type) or id(thing) in found or _foreign(thing):
            continue
        plain = inspect.unwrap(thing)
        code = plain.__code__ if isinstance(plain, FunctionType) else None
        found[id(thing)] = _source(code or plain, code.co_filename if code else "")
        inside = list(vars(thing).values()) if isinstance(thing, type) else [thing]
        # unwrapped, since torch wraps an optimiser's step when it is first used: the name must not tell whether it was
        for function in (inspect.unwrap(f) for f in inside if isinstance(f, FunctionType)):
            named = {name for code in _codes(function.__code__) for name in code.co_names}
            used = {name: function.__globals__[name] for name in named if name in function.__globals__}
            constants |= {f"{name} = {value!r}" for name, value in used.items() if isinstance(value, PLAIN)}
            queue += used.values()
            queue += [cell.cell_contents for cell in function.__closure__ or () if cell != CellType()]
        queue += thing.__bases__ if isinstance(thing, type) else ()
    return sorted([*found.values(), *constants])


@cache
def _source(code: CodeType | type, file: str) -> str:
    """Return the source of a class or of a function's code, read once: reading it takes longer than all the rest.

    Code that stands in two files is equal, though what is written around it may differ: hence ``file``.
    """
    try:
        return inspect.getsource(code)
    except OSError:  # what a decorator generated has no source of its own: its class tells all
        return ""


def _foreign(thing: FunctionType | type) -> bool:
    top = thing.__module__.partition(".")[0]
    return top in sys.stdlib_module_names or top in LIBRARIES


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of all functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
