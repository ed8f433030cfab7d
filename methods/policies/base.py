"""What a policy is, what an exit says, and the few array operations that several policies share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, TypeAlias, runtime_checkable

from array_api_compat import array_namespace

Array: TypeAlias = Any
"""A numpy array or a torch tensor."""
Output: TypeAlias = Any
"""What one exit says: an array, its answer; or arrays by name, the answer under `ANSWER`, the sample always first."""
State: TypeAlias = tuple[Array, ...]
"""What a policy remembers: arrays with the sample as first axis; empty before the first exit."""

ANSWER = "answer"
"""The name of the answer in an output that says more than it."""


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
    """A policy that, in a cascade, says which member comes next; those between are passed over, and cost nothing."""

    def route(self, state: State, output: Output) -> Array:
        """Return the number ``[n]`` (from 0) of the member to ask next, from the state after the step for ``output``.

        It must be a later one. A policy that needs to know where it is keeps that in its state: it is asked only by the
        members that a sample visits.
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


def log_softmax(logits: Array) -> Array:
    """Logarithm of the softmax over the last axis; finite even where a probability underflows."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=-1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=-1, keepdims=True))


def softmax(logits: Array) -> Array:
    """Class probabilities ``[n, C]`` of logits ``[n, C]``."""
    xp = array_namespace(logits)
    return xp.exp(log_softmax(logits))


def entropy(logits: Array) -> Array:
    """Entropy ``[n]`` in nats of the softmax of logits ``[n, C]``; ``[1000, -1000]`` gives 0, not NaN."""
    xp = array_namespace(logits)
    log_p = log_softmax(logits)
    p = xp.exp(log_p)
    return -xp.sum(xp.where(p > 0, p * log_p, xp.zeros_like(p)), axis=-1)


def threshold_at(state: State, threshold: float | tuple[float, ...], like: Array) -> tuple[State, Array]:
    """Return the state that counts exits, and each sample's threshold at its present exit, to compare with ``like``.

    That is ``[n]`` for ``like [n]``, and ``[n, 1]`` for ``[n, W]``. A single number holds for all exits; a tuple gives
    one per exit (the last exit needs none).
    """
    xp = array_namespace(like)
    shape = (like.shape[0], *[1] * (like.ndim - 1))
    if isinstance(threshold, int | float):
        return (), xp.full(shape, float(threshold), dtype=like.dtype, device=like.device)
    index = state[0] if state else xp.zeros((like.shape[0],), dtype=xp.int64, device=like.device)
    values = xp.asarray(threshold, dtype=like.dtype, device=like.device)
    return (index + 1,), xp.reshape(xp.take(values, index, axis=0), shape)
