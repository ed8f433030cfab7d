"""What a function closes over, hashed by what it holds: tensors and arrays by their values, objects by their parts.

A training is a function made anew for each call, and what distinguishes two of them stands in what they close over:
the data with its labels, weights of losses, numbers of steps. A value of a kind that is not known here (a tokenizer, an
open file) cannot be told apart from another: `Contents.untold` names it, and whoever asks decides what that means.
"""

from __future__ import annotations

import dis
import hashlib
import random
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, partial
from inspect import unwrap
from itertools import pairwise
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, MethodType, ModuleType, NoneType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.engine.examples import withheld
from eelit.methods.engine.method import Bench

PLAIN = (bool, int, float, str, tuple)
"""Types of values, at the top of a module or in a layer, that a training may depend on."""
SAID = (
    *(NoneType, bool, int, float, complex, str, bytes, range, slice, Enum, Path, re.Pattern, np.generic, np.dtype),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Types whose ``repr`` says all that there is to a value."""
NAMED = (FunctionType, BuiltinFunctionType, type, ModuleType, type(torch.sigmoid), np.ufunc)
"""Types of values that go by their name; the source of functions and classes is looked at by whoever follows them."""
LIBRARIES = {"filelock", "lightgbm", "numpy", "safetensors", "sklearn", "torch", "transformers"}
"""Packages whose source says nothing about a training that their version does not say."""
BESIDE = (Bench, type(withheld()))
"""Types of values that change no training: a bench, but for its seed and its steps, and test data out of reach."""
OPAQUE = LIBRARIES | {"builtins", "io", "threading", "tokenizers"}
"""Packages whose objects do not show in their attributes all that they hold."""


class Contents:
    """Digests of values by what they hold, each computed once.

    Parts of ``model``, whose weights are known already, go by their names in it. ``code`` collects the functions and
    classes that are met, for their source to be looked at; ``untold`` says where values lie that cannot be told apart.
    """

    def __init__(self, model: nn.Module) -> None:
        self.code: list[object] = []
        self.untold: dict[str, None] = {}
        parts = [*model.named_modules(), *model.named_parameters(), *model.named_buffers()]
        self._names = {id(part): name for name, part in parts}
        self._known: dict[int, tuple[str, object]] = {}  # the value too, lest its number be another's
        self._circles = 0

    def of(self, value: object, place: str, above: tuple[int, ...] = ()) -> str:
        """Return the digest of a value with all that it is made of; ``place`` says where it lies, for people."""
        if id(value) in self._names:
            return f"the model's {self._names[id(value)]}"
        if isinstance(value, SAID):
            return f"{type(value).__qualname__} {value!r}"
        if isinstance(value, BESIDE):
            return type(value).__qualname__
        if id(value) in self._known:
            return self._known[id(value)][0]
        if id(value) in above:  # what is met on the way round a circle depends on where one enters it
            self._circles += 1
            return f"{len(above) - above.index(id(value))} above"
        before = self._circles
        digest = hashlib.blake2b(digest_size=16)
        for part in self._parts(value, place, (*above, id(value))):
            digest.update(
                f"{len(part)} {part}\n".encode(errors="surrogatepass") if isinstance(part, str) else part.data
            )
        if self._circles == before:
            self._known[id(value)] = digest.hexdigest(), value
        return digest.hexdigest()

    def _parts(self, value: Any, place: str, above: tuple[int, ...]) -> Iterator[str | NDArray[Any]]:
        """Yield what a value is, as text or bytes, one part after the other."""
        yield type(value).__qualname__
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta":
            yield from (f"{value.dtype} {tuple(value.shape)}", bytes_of(value))
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            yield from (f"{value.dtype} {value.shape}", np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        elif isinstance(value, set | frozenset):  # which has no order, but by chance
            yield from sorted(self.of(part, place, above) for part in value)
        else:
            inside = self._inside(value)
            if inside is None:
                self.untold[f"{place} ({type(value).__module__}.{type(value).__qualname__})"] = None
            for name, part in inside or []:
                yield from (name, self.of(part, f"{place}, {name}" if name else place, above))

    def _inside(self, value: Any) -> list[tuple[str, object]] | None:
        """Return the parts of what is no tensor, its name and source among them if it has some."""
        if not isinstance(value, NAMED) or _is_bound(value):
            if not _is_container(value) and not isinstance(value, NAMED):
                self.code.append(type(value))
            return parts_of(value)
        self.code.append(value)
        found: list[tuple[str, object]] = [("name", f"{getattr(value, '__module__', '')}.{_name(value)}")]
        if isinstance(value, FunctionType) and not foreign(value):
            inside = unwrap(value)
            for code in codes(inside.__code__):  # of two functions without a name in one line
                constants = tuple(each for each in code.co_consts if not isinstance(each, CodeType))
                found += [("code", code.co_code), ("names", code.co_names), ("constants", constants)]
            found += closed_over(inside)
        return found


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", getattr(value, "__name__", "")))


def foreign(thing: FunctionType | type) -> bool:
    """Tell whether a function or class is of the standard library, or of one whose version says all of it."""
    top = (thing.__module__ or "").partition(".")[0]
    return top in sys.stdlib_module_names or top in LIBRARIES


def bytes_of(tensor: Tensor) -> Any:
    """Return the values of a tensor of any type, on any device, as an array of bytes."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).cpu().numpy()


def parts_of(value: Any) -> list[tuple[str, object]] | None:
    """Return what a value is made of, each part with its name.

    None if the value is opaque: nothing that can be looked at says what it will do.
    """
    if isinstance(value, Mapping):
        return [part for key in value for part in (("key", key), ("value", value[key]))]
    if isinstance(value, Iterable) and _is_container(value):
        return [("", part) for part in value]
    if isinstance(value, partial):
        return [("function", value.func), ("arguments", value.args), ("options", value.keywords)]
    if isinstance(value, MethodType):
        return [("function", value.__func__), ("of", value.__self__)]
    if _is_bound(value):
        return [("function", value.__name__), ("of", value.__self__)]
    if isinstance(value, nn.Module):
        return _parts_of_module(value)
    if (state := _state(value)) is not None:
        return [("state", state)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    if hasattr(value, "__dict__") and type(value).__module__.partition(".")[0] not in OPAQUE:
        return sorted(vars(value).items())
    return None


def _is_bound(value: object) -> bool:
    """Whether a value is a function of the interpreter's that belongs to an object, such as ``found.append``."""
    return isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType | NoneType)


def _is_container(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset | Mapping) or type(value).__name__ == "deque"


def _parts_of_module(module: nn.Module) -> list[tuple[str, object]]:
    tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
    layers = {f"{type(m).__module__}.{type(m).__qualname__}": type(m) for m in module.modules()}
    return [*tensors, ("attributes", attributes_of(module)), *sorted(layers.items())]


def _state(value: Any) -> object | None:
    """Return the state of what draws random numbers; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return dict(value.bit_generator.state)
    return value.get_state() if isinstance(value, np.random.RandomState) else None


def attributes_of(model: nn.Module) -> list[str]:
    """Return the plain attributes of each module, except whether it is in training mode."""
    return [
        f"{name} {sorted((k, v) for k, v in vars(module).items() if isinstance(v, PLAIN) and k != 'training')}"
        for name, module in model.named_modules()
    ]


def closed_over(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function closes over, and the defaults of one that is made inside another, each with its name.

    Of an object of whose fields it reads some and does nothing else with it, only these: so a training that reads a
    method's rate does not depend on the method's policy.
    """
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        if cell == CellType() or isinstance(cell.cell_contents, BESIDE):
            continue
        value = cell.cell_contents
        read = _read_of(function.__code__, name)
        held = getattr(value, "__dict__", {}) if is_dataclass(value) and not isinstance(value, type) else {}
        if read is not None and read <= held.keys():
            yield from ((f"{name}.{field}", held[field]) for field in sorted(read))
        else:
            yield name, value
    if "<locals>" in function.__qualname__:
        defaults = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
        yield from ((name, given) for name, given in defaults.items() if given)


@cache
def _read_of(code: CodeType, name: str) -> set[str] | None:
    """Return the attributes that code reads of what it closes over under a name; None if it does anything else.

    That is told by the code alone, and taking it apart is most of what a digest costs.
    """
    found: set[str] = set()
    for each in (each for each in codes(code) if name in each.co_freevars):
        steps = list(dis.get_instructions(each))
        for step, after in pairwise(steps):
            if step.argval != name or "DEREF" not in step.opname:
                continue
            if step.opname != "LOAD_DEREF" or after.opname not in ("LOAD_ATTR", "LOAD_METHOD"):
                return None
            found.add(after.argval)
    return found


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield the code of a function and of all functions defined inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)
