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
from types import CodeType, FunctionType, ModuleType
from typing import Any

from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch import __version__ as torch_version

from eelit.methods.data.cache import keep, kept
from eelit.methods.data.progress import say
from eelit.methods.engine.content_hash import SAID, Contents, foreign, home_of, used_by, version_of
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import Effort


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

    The name in the cache is a hash of all that the outcome depends on: the weights and buffers before, the source of
    the layers with their attributes (a scale, a list of thresholds) and hooks, and that of the training with the values
    at the top of modules and in classes that it reads (see `sources_of`), what the training closes over, which holds
    the data with its labels (see `Contents`), the settings, the data's digest, the seed, and the versions of torch and
    transformers. So methods that train alike share one training, and a changed line of code, a label that was flipped,
    or a setting that nobody named trains anew. What depends on something that cannot be told apart, or changes
    something of the network that is no weight, is trained every time, and said to be. Two processes do not train the
    same thing twice. The bench is told under this name what the training took, if ``train()`` learns something;
    another long computation whose outcome is worth keeping is no preparation.
    """
    start = time.perf_counter()
    name, untold = _digest(model, train, bench, data, settings)
    if bench.cache is None or untold:
        if bench.cache is not None:
            say(f"a training is not kept, for it depends on what cannot be told apart by its content: {untold}")
        effort = _done(train, bench)
        if learns:
            bench.trainings[name] = effort
            bench.prepared_seconds += time.perf_counter() - start
            bench.prepared_from_cache = False
        return
    path = bench.cache / "weights" / f"{name}.kept"
    took = _loaded(model, path)
    if took is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            took = _loaded(model, path)  # another process may have trained it while this one waited
            if took is None:
                before = Contents(model).beside_weights()
                took = _done(train, bench)
                bench.prepared_from_cache &= not learns
                after = Contents(model).beside_weights()
                changed = sorted(place for place, _ in before.items() ^ after.items())
                if changed:
                    say(
                        f"a training is not kept, for it changes what is no weight: {', '.join(dict.fromkeys(changed))}"
                    )
                else:
                    _save(model, path, took)
    if learns:
        bench.trainings[name] = took
        bench.prepared_seconds += time.perf_counter() - start


def _done(train: Callable[[], None], bench: Bench) -> Effort:
    """Train, and return what it took."""
    began, before = time.process_time(), bench.steps
    train()
    return Effort(seconds=round(time.process_time() - began, 3), steps=bench.steps - before)


def _loaded(model: nn.Module, path: Path) -> Effort | None:
    """Load the weights if they are there and whole, and return what training them took."""
    content = kept(path)
    if content is None:
        return None
    with suppress(SafetensorError, RuntimeError, KeyError):  # of another version of the format
        size = int.from_bytes(content[:8], "little")
        told = json.loads(content[8 : 8 + size])["__metadata__"]
        effort = Effort(seconds=float(told["processor seconds"]), steps=int(told["steps"]))
        found, beside = load(content), _beside(model)
        model.load_state_dict({name: tensor for name, tensor in found.items() if name not in beside})
        for name, buffer in beside.items():
            buffer.copy_(found[name])
        return effort
    return None


def _save(model: nn.Module, path: Path, effort: Effort) -> None:
    every = {**model.state_dict(), **_beside(model)}
    weights = {name: t.detach().clone().contiguous() for name, t in every.items()}
    keep(path, save(weights, metadata={"processor seconds": str(effort.seconds), "steps": str(effort.steps)}))


def _beside(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that a network's state leaves out, though a training may change them."""
    state = model.state_dict()
    return {name: buffer for name, buffer in model.named_buffers() if name not in state}


def _digest(
    model: nn.Module, train: Callable[[], None], bench: Bench, data: str, settings: Mapping[str, Any]
) -> tuple[str, str]:
    """Return the name of a training, and where it closes over what cannot be told apart; empty if nowhere."""
    contents = Contents(model)
    facts = {"seed": bench.seed, "data": data, "settings": dict(sorted(settings.items())), "versions": _versions()}
    if bench.most_steps < math.inf:  # a training that was cut short is another
        facts["steps"] = bench.most_steps
    told = [contents.of_model("the network"), contents.of(train, "the training"), contents.of(facts, "the settings")]
    told += reached([train, Examples], contents)
    return hashlib.blake2b("\n".join(told).encode(), digest_size=16).hexdigest(), "; ".join(contents.untold)


@cache  # reading them takes longer than two steps of a small network
def _versions() -> list[str]:
    """Return the versions of what every training rests on."""
    return [torch_version, *(version(name) for name in ("transformers", "numpy", "scikit-learn", "lightgbm"))]


def sources_of(things: Iterable[object]) -> list[str]:
    """Return the source of functions and classes, and of all functions, classes and values that they use, sorted.

    Followed are names in their code, those of modules of ours among them, what they close over, the defaults of their
    arguments, and what a class holds; the standard library and the libraries in `LIBRARIES` are left out. So a changed
    docstring of a paper or an unused function beside a used one does not count, and a changed loss does.
    """
    return reached(things, Contents(nn.Module()))


def reached(things: Iterable[object], contents: Contents) -> list[str]:
    """Return `sources_of` the things and of the code met in ``contents``, with a digest of whatever values they use."""
    found: dict[int, FunctionType | type] = {}
    values: set[str] = set()
    methods: set[int] = set()  # whose source stands in that of their class
    queue = [*things, *contents.code]
    while queue:
        thing = queue.pop()
        if not isinstance(thing, FunctionType | type) or id(thing) in found:
            continue
        if foreign(thing):
            values.add(version_of(home_of(thing)))
            queue += [thing.__wrapped__] if hasattr(thing, "__wrapped__") else []
            continue
        found[id(thing)] = thing
        contents.code.clear()
        for place, value in used_by(thing):
            if isinstance(value, FunctionType | type):
                queue.append(value)
                methods |= {id(value)} if _is_written_in(thing, value) else set()
            elif isinstance(value, ModuleType):
                values |= {version_of(home_of(value))} if foreign(value) else set()
            else:
                said = f" = {value!r}" if isinstance(value, SAID) else f": {contents.of(value, place)}"
                values.add(f"{place}{said}")
        queue += contents.code
    return sorted([*(_source_of(thing) for place, thing in found.items() if place not in methods), *values])


def _is_written_in(owner: FunctionType | type, value: FunctionType | type) -> bool:
    """Whether a function's code stands in that of a class."""
    if isinstance(owner, FunctionType) or isinstance(value, type):
        return False
    return value.__code__.co_qualname.startswith(f"{owner.__qualname__}.") and value.__module__ == owner.__module__


def _source_of(thing: FunctionType | type) -> str:
    return _source(thing, "") if isinstance(thing, type) else _source(thing.__code__, thing.__code__.co_filename)


@cache
def _source(code: CodeType | type, file: str) -> str:
    """Return the source of a class or of a function's code, read once: reading it takes longer than all the rest.

    Code that stands in two files is equal, though what is written around it may differ: hence ``file``.
    """
    try:
        return inspect.getsource(code)
    except (OSError, TypeError):  # what a decorator generated, or was compiled: its class tells all, or its version
        return ""
