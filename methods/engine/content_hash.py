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
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache, cached_property, partial
from importlib.metadata import entry_points, packages_distributions, version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from types import BuiltinFunctionType, CellType, CodeType, FunctionType, GenericAlias, MethodType, ModuleType, NoneType
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods import GROUP
from eelit.methods.engine.examples import withheld
from eelit.methods.engine.method import Bench

SAID = (
    *(NoneType, bool, int, float, complex, str, bytes, range, Path, re.Pattern, np.generic, np.dtype, GenericAlias),
    *(torch.dtype, torch.device, torch.layout, torch.memory_format),
)
"""Types whose ``repr`` says all that there is to a value."""
NAMED = (
    *(FunctionType, BuiltinFunctionType, type, ModuleType, type(torch.sigmoid), np.ufunc),
    *(torch._ops.OperatorBase, torch._ops.OpOverloadPacket),
)
"""Types of values that go by their name; the source of functions and classes is looked at by whoever follows them."""
LIBRARIES = {"filelock", "lightgbm", "numpy", "safetensors", "sklearn", "torch", "transformers"}
"""Packages whose source says nothing about a training that their version does not say."""
BESIDE = (Bench, type(withheld()))
"""Types of values that change no training: a bench, but for its seed and its steps, and test data out of reach."""
OPAQUE = LIBRARIES | {"builtins", "io", "threading", "tokenizers"}
"""Packages whose objects do not show in their attributes all that they hold."""
RUN = ("_forward_pre_hooks", "_forward_hooks", "_backward_pre_hooks", "_backward_hooks")
"""Where a module holds the hooks that are called when it runs, forward or backward, under numbers that tell nothing."""
KEPT_BY_TORCH = vars(nn.Module()).keys() - {"_is_full_backward_hook"}
"""What torch itself keeps in every module: tensors and parts, which are looked at by name, its hooks and its mode."""
WHENCE = ("name_or_path", "_name_or_path")
"""Where transformers says from where it has read a model: that is no part of what was read."""
Part: TypeAlias = str | NDArray[Any]
"""What a digest is made of: text, or an array of bytes."""


class Contents:
    """Digests of values by what they hold, each computed once.

    Parts of ``model`` go by their names in it: what they are, `of_model` says. ``code`` collects the functions and
    classes that are met, for their source to be looked at; ``untold`` says where values lie that cannot be told apart.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
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
        digest = _digest(self._parts(value, place, (*above, id(value))))
        if self._circles == before:
            self._known[id(value)] = digest, value
        return digest

    def of_model(self, place: str) -> str:
        """Return the digest of the model with its tensors, persistent or not, its attributes and its hooks."""
        return _digest(self._parts_of_module(self.model, place, (id(self.model),)))

    def beside_weights(self) -> dict[str, str]:
        """Return the digests of what the model holds beside its tensors, by where it lies."""
        return {
            f"{attribute} of {name or type(part).__qualname__}": self.of(value, attribute)
            for name, part in self.model.named_modules()
            for attribute, value in held_by(part)
        }

    def _parts(self, value: Any, place: str, above: tuple[int, ...]) -> Iterator[Part]:
        """Yield what a value is, as text or bytes, one part after the other."""
        yield type(value).__qualname__
        if isinstance(value, Tensor) and value.layout == torch.strided and value.device.type != "meta":
            yield from self._parts_of_tensor(value, place, above)
        elif isinstance(value, np.ndarray) and not value.dtype.hasobject:
            yield from (f"{value.dtype} {value.shape}", np.ascontiguousarray(value).reshape(-1).view(np.uint8))
        elif isinstance(value, set | frozenset):  # which has no order, but by chance
            yield from sorted(self.of(part, place, above) for part in value)
        elif isinstance(value, nn.Module):
            yield from self._parts_of_module(value, place, above)
        elif isinstance(value, list | tuple) and self._are_alike(value):  # one by one, samples would take far longer
            yield f"{len(value)} of {value[0].dtype} {tuple(value[0].shape)}"
            yield bytes_of(torch.stack([*value]))
        else:
            inside = self._inside(value)
            if inside is None:
                self.untold[f"{place} ({type(value).__module__}.{type(value).__qualname__})"] = None
            for name, part in inside or []:
                yield from (name, self.of(part, f"{place}, {name}" if name else place, above))

    def _are_alike(self, values: list[Any] | tuple[Any, ...]) -> bool:
        """Whether values are plain tensors of one type and shape, such as samples, with nothing more to tell of any."""
        first = values[0] if values else None
        if type(first) is not Tensor or first.layout != torch.strided or first.device.type == "meta":
            return False
        told = (first.dtype, first.shape, first.device)
        return all(
            type(each) is Tensor
            and (each.dtype, each.shape, each.device) == told
            and not (each.requires_grad or each.layout != torch.strided or each._backward_hooks or vars(each))
            and id(each) not in self._names
            for each in values
        )

    def _parts_of_tensor(self, tensor: Tensor, place: str, above: tuple[int, ...]) -> Iterator[Part]:
        """Yield a tensor's values, whether it learns, and what hangs on it: attributes, and hooks for its gradient."""
        yield f"{tensor.dtype} {tuple(tensor.shape)} {'learns' if tensor.requires_grad else ''}"
        yield bytes_of(tensor)
        hooks = [getattr(tensor, name, None) for name in ("_backward_hooks", "_post_accumulate_grad_hooks")]
        hanging = [("hooks", [*each.values()]) for each in hooks if each]
        for name, part in [*sorted(getattr(tensor, "__dict__", {}).items()), *hanging]:
            yield from (name, self.of(part, f"{place}, {name}", above))

    def _parts_of_module(self, module: nn.Module, place: str, above: tuple[int, ...]) -> Iterator[Part]:
        """Yield a module's tensors and what all its parts hold beside them; what it has twice, under its first name."""
        first: dict[int, str] = {}
        tensors = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
        for name, tensor in tensors:
            yield f"{name}: {first.setdefault(id(tensor), name)}"
            if first[id(tensor)] == name:
                yield from self._parts_of_tensor(tensor, f"{place}, {name}", above)
        for name, part in module.named_modules(remove_duplicate=False):
            yield f"{name}: {first.setdefault(id(part), name)} {type(part).__module__}.{type(part).__qualname__}"
            if first[id(part)] != name:
                continue
            self.code.append(type(part))
            for attribute, value in held_by(part):
                where = f"{place}, {attribute} of {name or type(part).__qualname__}"
                yield from (attribute, self.of(value, where, above))

    def _inside(self, value: Any) -> list[tuple[str, object]] | None:
        """Return the parts of what is no tensor, its name and source among them if it has some."""
        if not _is_named(value) or _is_bound(value):
            if not _is_container(value) and not _is_named(value):
                self.code.append(type(value))
            return parts_of(value)
        self.code.append(value)
        found: list[tuple[str, object]] = [("name", f"{getattr(value, '__module__', '')}.{_name(value)}")]
        for inside in layers_of(value) if isinstance(value, FunctionType) else ():
            for code in codes(inside.__code__):  # of two functions without a name in one line
                constants = tuple(each for each in code.co_consts if not isinstance(each, CodeType))
                found += [("code", code.co_code), ("names", code.co_names), ("constants", constants)]
            found += closed_over(inside)
        return found


def _digest(parts: Iterable[Part]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(f"{len(part)} {part}\n".encode(errors="surrogatepass") if isinstance(part, str) else part.data)
    return found.hexdigest()


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", getattr(value, "__name__", "")))


def foreign(thing: FunctionType | type | ModuleType) -> bool:
    """Tell whether something is of the standard library, or of a package whose version says all of it.

    A function is where its code is: one that a library has wrapped bears the name of the one inside.
    """
    return _is_library(home_of(thing))


def home_of(thing: FunctionType | type | ModuleType) -> str:
    """Return the top-level package that something is of."""
    if isinstance(thing, ModuleType):
        home = thing.__name__
    else:
        home = thing.__globals__.get("__name__", "") if isinstance(thing, FunctionType) else thing.__module__
    return (home or "").partition(".")[0]


@cache
def _is_library(top: str) -> bool:
    """Whether a top-level package is of Python's or installed beside it; not ours, nor one that offers methods."""
    if top in sys.stdlib_module_names or top in LIBRARIES:
        return True
    if top in {"", "__main__", "eelit"} | {point.value.partition(".")[0] for point in entry_points(group=GROUP)}:
        return False
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):  # what is not imported as usual
        return False
    places = [*(spec.submodule_search_locations or []), spec.origin] if spec else []
    return any(place and {"site-packages", "dist-packages"} & {*Path(place).parts} for place in places)


@cache
def version_of(top: str) -> str:
    """Return the versions of what installed a top-level package; empty for Python's own, and for what none did."""
    if top in sys.stdlib_module_names:
        return ""
    return ", ".join(f"{name} {version(name)}" for name in sorted({*packages_distributions().get(top, [])}))


def layers_of(function: FunctionType) -> Iterator[FunctionType]:
    """Yield a function, and those that its decorators wrapped one in the other, without those of libraries.

    Torch wraps an optimiser's step when it is first used, say: what is found must not tell whether it was.
    """
    layer: Any = function
    while isinstance(layer, FunctionType):
        if not foreign(layer):
            yield layer
        layer = getattr(layer, "__wrapped__", None)


def held_by(module: nn.Module) -> Iterator[tuple[str, object]]:
    """Yield what a module holds beside tensors and parts: attributes, but for its mode, and hooks in their order."""
    own = vars(module)
    yield from ((name, own[name]) for name in sorted(own.keys() - KEPT_BY_TORCH - {*WHENCE}))
    yield from ((name, [*own[name].values()]) for name in RUN if own.get(name))


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
    if isinstance(value, slice):
        return [("slice", (value.start, value.stop, value.step))]
    if isinstance(value, Enum):
        return [("name", value.name), ("value", value.value)]
    if isinstance(value, weakref.ref):
        return [("to", value())]
    if (state := _state(value)) is not None:
        return [("state", state)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    top = type(value).__module__.partition(".")[0]
    if hasattr(value, "__dict__") and (top not in OPAQUE or _is_config(value)):
        return [(name, part) for name, part in sorted(vars(value).items()) if not (top in LIBRARIES and name in WHENCE)]
    return None


def _is_config(value: object) -> bool:
    """Whether a value is a configuration of transformers, which is nothing but its attributes."""
    return type(value).__module__.startswith("transformers.") and type(value).__name__.endswith("Config")


def _is_named(value: object) -> bool:
    """Whether a value goes by its name: a module, a class, a function; of those each package in Cython has its own."""
    return isinstance(value, NAMED) or type(value).__name__ == "cython_function_or_method"


def _is_bound(value: object) -> bool:
    """Whether a value is a function of the interpreter's that belongs to an object, such as ``found.append``."""
    return isinstance(value, BuiltinFunctionType) and not isinstance(value.__self__, ModuleType | NoneType)


def _is_container(value: object) -> bool:
    return isinstance(value, list | tuple | set | frozenset | Mapping) or type(value).__name__ == "deque"


def _state(value: Any) -> object | None:
    """Return the state of what draws random numbers; None for anything else."""
    if isinstance(value, torch.Generator):
        return value.get_state()
    if isinstance(value, random.Random):
        return value.getstate()
    if isinstance(value, np.random.Generator):
        return dict(value.bit_generator.state)
    return value.get_state() if isinstance(value, np.random.RandomState) else None


def closed_over(function: FunctionType) -> Iterator[tuple[str, object]]:
    """Yield what a function closes over, and the defaults of its arguments, each with its name.

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
    defaults = {"defaults": function.__defaults__, "keyword defaults": function.__kwdefaults__}
    yield from ((name, given) for name, given in defaults.items() if given)


def used_by(thing: FunctionType | type) -> Iterator[tuple[str, object]]:
    """Yield what a function or class uses, each with its name: what it names, closes over, derives from and holds.

    Of a module of ours that it names, what it reads there.
    """
    if isinstance(thing, type):
        for name, value in vars(thing).items():
            functions = _functions_in(value)
            yield from ((f"{thing.__qualname__}.{name}", function) for function in functions)
            if not functions and not name.startswith("__") and name != "_abc_impl" and not _is_slot(value):
                yield f"{thing.__qualname__}.{name}", value
        yield from ((base.__qualname__, base) for base in thing.__bases__)
        return
    named = {name for code in codes(thing.__code__) for name in code.co_names}
    for name, value in ((name, thing.__globals__[name]) for name in sorted(named & thing.__globals__.keys())):
        yield name, value
        if isinstance(value, ModuleType) and not foreign(value):
            yield from ((f"{name}.{each}", vars(value)[each]) for each in sorted(named & vars(value).keys()))
    yield from ((f"{name} in {thing.__qualname__}", value) for name, value in closed_over(thing))
    if hasattr(thing, "__wrapped__"):
        yield thing.__qualname__, thing.__wrapped__


def _functions_in(value: Any) -> list[object]:
    """Return the functions that an entry of a class is made of; none if it is a value."""
    if isinstance(value, property):
        return [each for each in (value.fget, value.fset, value.fdel) if each is not None]
    if isinstance(value, cached_property):
        return [value.func]
    if getattr(value, "hooked", False):  # by torch, around an optimiser's step, when the first one is made
        return [value.__wrapped__]
    return (
        [value.__func__] if isinstance(value, staticmethod | classmethod) else [value] * isinstance(value, FunctionType)
    )


def _is_slot(value: object) -> bool:
    """Whether an entry of a class only says where its objects have a value."""
    return hasattr(type(value), "__get__") and type(value).__module__ in ("builtins", "_collections")


@cache
def _read_of(code: CodeType, name: str) -> set[str] | None:
    """Return the attributes that code reads of what it closes over under a name; None if it does anything else.

    That is told by the code alone.
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
