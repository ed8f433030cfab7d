"""What a policy is, what an exit says, and the array operations that policies share.

Three promises are kept here, so that each policy keeps them:

- What is not finite is no certainty. Logits that hold NaN or +inf, or nothing but -inf (`usable`), have NaN for every
  probability, and values that are not finite are read as NaN (`values_of`): no comparison with NaN holds, so nobody
  stops by it. A policy that counts asks `usable` or `finite` besides. A class masked by -inf has probability 0.
- Scores are computed in float32 at least, also from float16 and bfloat16 (`widened`); float64 stays.
- Scores are compared with thresholds in float64 (`exact`), so that a threshold means the same in any precision.

As what is not finite is seen to, numpy is not to warn of it (`quiet`): a warning may be an error to whoever calls.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Protocol, TypeAlias, TypedDict, Unpack, runtime_checkable

import numpy as np
from array_api_compat import array_namespace, is_array_api_obj, to_device
from numpy.typing import NDArray

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""
Output: TypeAlias = Any
"""What one exit says: an array, its answer; or arrays by name, the answer under `ANSWER`, the sample always first."""
State: TypeAlias = tuple[Array, ...]
"""What a policy remembers: arrays with the sample as first axis; empty before the first exit."""
PerExit: TypeAlias = float | Sequence[float] | Array
"""A setting that is one number for all exits, or one per exit (the last exit needs none); kept as Python's numbers."""

ANSWER = "answer"
"""The name of the answer in an output that says more than it."""
quiet = np.errstate(invalid="ignore", over="ignore")
"""Decorates what gives NaN, or nobody's stop, for what is not finite."""
WORDS = {1: "values [n]", 2: "logits [n, C]", 3: "logits [n, W, C]"}


class Policy(Protocol):
    """A rule that decides after each exit which samples stop there (see the package's docstring)."""

    def start(self) -> State:
        """Return the state before the first exit."""
        ...

    def step(self, state: State, output: Output) -> tuple[State, Array]:
        """Take one exit's output, ``[n, C]`` or ``[n]``; return the new state and who stops, a boolean ``[n]``."""
        ...


@runtime_checkable
class Assembling(Policy, Protocol):
    """A policy that makes the answer from several exits, instead of taking that of the exit where a sample stops."""

    def answer(self, state: State, output: Output) -> Array:
        """Return the answer ``[n, C]``, from the state after the step of the exit that gave ``output``."""
        ...


@runtime_checkable
class Routing(Policy, Protocol):
    """A policy that says which exit, or member of a cascade, is asked next.

    Those between are passed over, and cost nothing; but the layers of the network between two exits are run.
    """

    def route(self, state: State, output: Output) -> Array:
        """Return the number ``[n]`` (from 0) of the exit or member to ask next, from the state after this step.

        It must be a later one. A policy that needs to know where it is keeps that in its state: it is asked only where
        a sample is sent. It does not assemble its answer in a network with exits.
        """
        ...


def said(output: Output, name: str = ANSWER) -> Array:
    """Return one named part of what an exit says; an array by itself is whatever is asked for.

    Raises `ValueError` if the exit says something else under other names only.
    """
    if not isinstance(output, Mapping):
        return output
    if name not in output:
        raise ValueError(f"the policy reads {name!r}, but the exit says only {', '.join(map(repr, output))}")
    return output[name]


def logits_of(output: Output, name: str = ANSWER, *, axes: tuple[int, ...] = (2,), classes: int | None = None) -> Array:
    """Return the logits ``[n, C]`` that an exit gives, `widened`; ``[n, W, C]`` of words where ``axes`` has 3.

    Raises `ValueError` for anything else: another number of axes, a single class (that is a value, to be given as
    ``[n]``), or not as many classes as asked for.
    """
    found = said(output, name)
    if (
        getattr(found, "ndim", None) not in axes
        or found.shape[-1] < 2
        or found.shape[-1] != (classes or found.shape[-1])
    ):
        wanted = " or ".join(WORDS[n] for n in axes)
        many = f"of {classes} classes" if classes else "of at least two classes"
        raise ValueError(f"the policy reads {wanted} {many}, {not_that(found)}")
    return widened(found)


def values_of(output: Output, name: str = ANSWER) -> Array:
    """Return the values ``[n]`` that an exit gives, `widened`, NaN where they are not finite.

    Raises `ValueError` for anything else, ``[n, 1]`` included: it would be taken for n values of one sample each.
    """
    found = said(output, name)
    if getattr(found, "ndim", None) != 1:
        raise ValueError(f"the policy reads one value per sample, [n], {not_that(found)}")
    xp, found = array_namespace(found), widened(found)
    return xp.where(_bounded(found), found, math.nan)


def not_that(found: Any) -> str:
    """Return the end of an error about what an exit says instead of what a policy reads."""
    shape = getattr(found, "shape", None)
    return f"but the exit says {type(found).__name__}" if shape is None else f"but the exit says {list(shape)}"


def widened(values: Array) -> Array:
    """Return numbers as scores are computed from: float32 for half precision and short integers, float64 for others.

    float32 and float64 stay as they are. Raises `ValueError` for complex numbers.
    """
    xp = array_namespace(values)
    if values.dtype in (xp.float32, xp.float64):
        return values
    if xp.isdtype(values.dtype, "complex floating"):
        raise ValueError("the policy reads real numbers, but the exit says complex ones")
    return xp.astype(values, xp.float32 if values.dtype.itemsize < 4 else xp.float64)


def exact(scores: Array) -> Array:
    """Return scores as they are compared with a threshold: in float64, or float32 on a device that has no float64."""
    xp = array_namespace(scores)
    if scores.dtype == xp.float64:
        return scores
    return widened(scores) if getattr(scores.device, "type", "") == "mps" else xp.astype(scores, xp.float64)


def on_host(values: Array) -> NDArray[np.float64]:
    """Return numbers of any library, precision and device as numpy's float64."""
    return np.asarray(to_device(exact(values), "cpu") if is_array_api_obj(values) else values, dtype=np.float64)


@quiet
def _bounded(values: Array) -> Array:
    """Return which of the values are finite, in half of the operations that torch's ``isfinite`` takes."""
    return array_namespace(values).abs(values) < math.inf


@quiet
def usable(logits: Array) -> Array:
    """Return whose logits ``[..., C]`` mean something, ``[...]``: no NaN, no +inf, and not -inf for all classes."""
    xp = array_namespace(logits)
    return _bounded(xp.max(logits, axis=-1))


def finite(output: Output) -> Array:
    """Return for which samples ``[n]`` all that an exit says means something: `usable` logits, finite values.

    Whole numbers always do. In anything but values ``[n]``, -inf is taken for a mask.
    """
    every = list(output.values()) if isinstance(output, Mapping) else [output]
    xp, found = array_namespace(every[0]), None
    for part in every:
        if not xp.isdtype(part.dtype, "real floating"):
            continue
        here = _bounded(part) if part.ndim == 1 else usable(part)
        if here.ndim > 1:
            here = xp.all(xp.reshape(here, (here.shape[0], math.prod(here.shape[1:]))), axis=1)
        found = here if found is None else found & here
    return xp.ones((every[0].shape[0],), dtype=xp.bool, device=every[0].device) if found is None else found


@quiet
def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis; finite even where a probability underflows.

    It is computed in float32 at least, -inf for a class masked by -inf, and NaN where the logits are not `usable`
    (infinity less infinity is NaN).
    """
    xp, logits = array_namespace(logits), widened(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def softmax(logits: Array) -> Array:
    """Class probabilities ``[n, C]`` of logits ``[n, C]``; NaN where the logits are not `usable`."""
    xp = array_namespace(logits)
    return xp.exp(log_softmax(logits))


@quiet
def entropy(logits: Array) -> Array:
    """Entropy ``[n]`` in nats of the softmax of logits ``[n, C]``; ``[1000, -1000]`` gives 0, not NaN.

    NaN where the logits are not `usable`.
    """
    xp = array_namespace(logits)
    log_p = log_softmax(logits)
    p = xp.exp(log_p)
    return -xp.sum(p * xp.where(p == 0, 0.0, log_p), axis=-1)


def uncertainty(logits: Array) -> Array:
    """Entropy of the softmax of ``[..., C]`` logits divided by its maximum ``ln C``: 0 for certain, 1 for uniform."""
    return entropy(logits) / math.log(logits.shape[-1])


def threshold_at(state: State, threshold: float | Sequence[float], like: Array) -> tuple[State, Array]:
    """Return the state that counts exits, and each sample's threshold at its present exit, to compare with ``like``.

    A single number holds for all exits. Of a sequence, which gives one per exit (the last exit needs none), that is
    ``[n]`` for ``like [n]``, and ``[n, 1]`` for ``[n, W]``. Raises `ValueError` if the sequence ends too early.
    """
    if isinstance(threshold, int | float):
        return (), threshold
    xp = array_namespace(like)
    index = state[0] if state else xp.zeros((like.shape[0],), dtype=xp.int64, device=like.device)
    values = xp.asarray(threshold, dtype=like.dtype, device=like.device)
    try:
        found = xp.take(values, index, axis=0)
    except IndexError:
        raise ValueError(
            f"the policy has thresholds for {len(threshold)} exits, but is asked at a later one; only the last exit "
            "needs none (are the outputs [exits, samples, ...]?)"
        ) from None
    return (index + 1,), xp.reshape(found, (like.shape[0], *[1] * (like.ndim - 1)))


def rows_at(thresholds: Sequence[Sequence[float]], index: Array, like: Array) -> Array:
    """Return the thresholds ``[n, W]`` of the exits ``[n]``: W for each exit but the last, to compare with ``like``.

    Raises `ValueError` if there are too few exits.
    """
    xp = array_namespace(like)
    values = xp.asarray(thresholds, dtype=like.dtype, device=like.device)
    try:
        return xp.take(values, index, axis=0)
    except (IndexError, RuntimeError):
        raise ValueError(
            f"the policy has thresholds for {len(thresholds)} exits, but is asked at a later one; only the last exit "
            "needs none (are the outputs [exits, samples, ...]?)"
        ) from None


class Limits(TypedDict, total=False):
    """What may be asked of a setting (see `checked`)."""

    per_exit: bool
    whole: bool
    least: float
    above: float
    most: float
    finite: bool


def settle(policy: Any, *names: str, **limits: Unpack[Limits]) -> None:
    """Turn settings of a frozen policy, as it is made, into Python's numbers, whichever library they come from.

    See `checked` for what may be asked of them, and for what `ValueError` is raised.
    """
    for name in names:
        found = checked(type(policy).__name__, name, getattr(policy, name), **limits)
        object.__setattr__(policy, name, found)


def checked(
    owner: str,
    name: str,
    given: Any,
    *,
    per_exit: bool = False,
    whole: bool = False,
    least: float = -math.inf,
    above: float = -math.inf,
    most: float = math.inf,
    finite: bool = False,
) -> Any:
    """Return a setting ``name`` of ``owner`` as Python's number, whichever library it comes from.

    With ``per_exit`` it may also be a sequence (list, tuple, array, tensor), and becomes a tuple. Raises `ValueError`
    for what is no number, or is NaN, is not ``whole`` (a type of whole numbers, not 3.0) or not ``finite``, below
    ``least``, not ``above`` something, or over ``most``.
    """
    listed = given.tolist() if hasattr(given, "tolist") else given
    several = per_exit and isinstance(listed, Sequence) and not isinstance(listed, str | bytes | bytearray)
    numbers = [_number(each) for each in listed] if several else [_number(listed)]
    if not numbers or not all(
        each is not None
        and least <= each <= most
        and (each > above or above == -math.inf)
        and (isinstance(each, int) or not whole)
        and (math.isfinite(each) or not finite)
        for each in numbers
    ):
        kind = f"one {'finite ' * finite}{'whole ' * whole}number{', or one per exit' * per_exit}"
        limits = {"of at least": least, "above": above, "of at most": most}
        told = " and ".join(f"{word} {limit:g}" for word, limit in limits.items() if math.isfinite(limit))
        raise ValueError(
            f"{owner}: {name} is {kind}{',' * (per_exit and bool(told))}{' ' * bool(told)}{told}, not {given!r}"
        )
    return tuple(numbers) if several else numbers[0]


def _number(given: Any) -> float | None:
    """Return a scalar of any library as Python's number; None for anything else, truth values too, and for NaN."""
    found = given.item() if hasattr(given, "item") and getattr(given, "ndim", 0) == 0 else given
    if isinstance(found, bool):
        return None
    if isinstance(found, int):
        return found
    return float(found) if isinstance(found, Real) and not math.isnan(found) else None


def choose(policy: Any, name: str, among: Iterable[str]) -> None:
    """Raise `ValueError` unless a setting is one of some names."""
    given = getattr(policy, name)
    if not (isinstance(given, str) and given in among):
        raise ValueError(f"{type(policy).__name__}: {name} is one of {', '.join(map(repr, among))}, not {given!r}")


def asks(policy: Any, name: str) -> None:
    """Raise `ValueError` unless a setting is a rule of which nothing is lost if only its decisions are asked for."""
    inner, own = getattr(policy, name), type(policy).__name__
    if not (callable(getattr(inner, "start", None)) and callable(getattr(inner, "step", None))):
        raise ValueError(f"{own}: {name} is an exit policy, with start and step, not {inner!r}")
    if isinstance(inner, Assembling | Routing):
        does = "makes the answer from several exits" if isinstance(inner, Assembling) else "says which exit is next"
        raise ValueError(
            f"{own}: {name} is a policy that decides who stops and no more, but {type(inner).__name__} {does}"
        )
