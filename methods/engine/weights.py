"""The cache of what training makes, each outcome under a name that holds all that it depends on."""

from __future__ import annotations

import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import __version__ as torch_version
from torch import nn

from eelit.methods.data.cache import keep, kept
from eelit.methods.data.progress import say
from eelit.methods.engine.contents import PLAIN, Contents, attributes_of, bytes_of, closed_over, codes, foreign
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench


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
    with their plain attributes (a scale, a probability of dropout) and of the training (see `sources_of`), what the
    training closes over, which holds the data with its labels (see `Contents`), the settings, the data's digest, the
    seed, and the versions of torch and transformers. So methods that train alike share one training, and a changed line
    of code, a label that was flipped, or a setting that nobody named trains anew. What closes over something that
    cannot be told apart is trained every time, and said to be. Two processes do not train the same thing twice. The
    bench is told under this name how long the training took, if ``train()`` learns something; another long computation
    whose outcome is worth keeping is no preparation.
    """
    start = time.perf_counter()
    name, untold = _digest(model, train, bench, data, settings)
    if bench.cache is None or untold:
        if bench.cache is not None:
            say(f"a training is not kept, for it depends on what cannot be told apart by its content: {untold}")
        train()
        if learns:
            bench.trainings[name] = time.perf_counter() - start
            bench.prepared_seconds += bench.trainings[name]
            bench.prepared_from_cache = False
        return
    path = bench.cache / "weights" / f"{name}.kept"
    took = _loaded(model, path)
    if took is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            took = _loaded(model, path)  # another process may have trained it while this one waited
            if took is None:
                began = time.perf_counter()
                train()
                bench.prepared_from_cache &= not learns
                took = time.perf_counter() - began
                _save(model, path, took)
    if learns:
        bench.trainings[name] = took
        bench.prepared_seconds += time.perf_counter() - start


def _loaded(model: nn.Module, path: Path) -> float | None:
    """Load the weights if they are there and whole, and return how long it took to train them, in seconds."""
    content = kept(path)
    if content is None:
        return None
    with suppress(SafetensorError, RuntimeError):  # of another version of the format
        model.load_state_dict(load(content))
        size = int.from_bytes(content[:8], "little")
        return float(json.loads(content[8 : 8 + size])["__metadata__"]["seconds"])
    return None


def _save(model: nn.Module, path: Path, seconds: float) -> None:
    weights = {name: t.detach().clone().contiguous() for name, t in model.state_dict().items()}
    keep(path, save(weights, metadata={"seconds": f"{seconds:.3f}"}))


def _digest(
    model: nn.Module, train: Callable[[], None], bench: Bench, data: str, settings: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the name of a training, and where it closes over what cannot be told apart; empty if nowhere."""
    h = hashlib.blake2b(digest_size=16)
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(bytes_of(tensor))
    h.update("\n".join(attributes_of(model)).encode())
    contents = Contents(model)
    h.update(contents.of(train, "the training").encode())
    h.update("\n".join(reached([train, Examples, *{type(m) for m in model.modules()}], contents)).encode())
    versions = [torch_version, version("transformers")]
    facts = {"seed": bench.seed, "data": data, "settings": settings, "versions": versions}
    if bench.most_steps < math.inf:  # a training that was cut short is another
        facts["steps"] = bench.most_steps
    h.update(json.dumps(facts, sort_keys=True, default=str).encode())
    return h.hexdigest(), "; ".join(contents.untold)


def sources_of(things: Iterable[object]) -> list[str]:
    """Return the source of functions and classes, and of all functions, classes and plain values that they use, sorted.

    Followed are names in their code and what they close over, not attributes; the standard library and the libraries
    in `LIBRARIES` are left out. So a changed docstring of a paper or an unused function beside
    a used one does not count, and a changed loss does.
    """
    return reached(things, Contents(nn.Module()))


def reached(things: Iterable[object], contents: Contents) -> list[str]:
    """Return `sources_of` the things, with a digest of whatever the functions that are met close over."""
    found: dict[int, str] = {}
    values: set[str] = set()
    queue = [*things, *contents.code]
    while queue:
        thing = queue.pop()
        if not isinstance(thing, FunctionType | type) or id(thing) in found or foreign(thing):
            continue
        plain = inspect.unwrap(thing)
        code = plain.__code__ if isinstance(plain, FunctionType) else None
        found[id(thing)] = _source(code or plain, code.co_filename if code else "")
        inside = list(vars(thing).values()) if isinstance(thing, type) else [thing]
        # unwrapped, since torch wraps an optimiser's step when it is first used: the name must not tell whether it was
        for function in (inspect.unwrap(f) for f in inside if isinstance(f, FunctionType)):
            named = {name for code in codes(function.__code__) for name in code.co_names}
            used = {name: function.__globals__[name] for name in named if name in function.__globals__}
            values |= {f"{name} = {value!r}" for name, value in used.items() if isinstance(value, PLAIN)}
            contents.code.clear()
            for name, value in closed_over(function):
                place = f"{name} in {function.__qualname__}"
                values.add(f"{place}: {contents.of(value, place)}")
            queue += [*used.values(), *contents.code]
        queue += thing.__bases__ if isinstance(thing, type) else ()
    return sorted([*found.values(), *values])


@cache
def _source(code: CodeType | type, file: str) -> str:
    """Return the source of a class or of a function's code, read once: reading it takes longer than all the rest.

    Code that stands in two files is equal, though what is written around it may differ: hence ``file``.
    """
    try:
        return inspect.getsource(code)
    except OSError:  # what a decorator generated has no source of its own: its class tells all
        return ""
