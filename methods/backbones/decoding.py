"""Two ways to generate text with exits per token, which must agree: `generate`, which really skips, and `replay`.

Tokens are chosen greedily. A policy is asked after each layer but the last, for each text on its own. When it stops a
token at layer i, the later layers get their keys and values from the state after layer i, so that later tokens can
attend to it there, and do nothing else for it.

A text that has come to an end-of-text token, if one is named, gets padding from there on, which no layer runs for.

`generate` drops rows that have left, and later layers never see them. `replay` runs every layer for every row, and
holds the state of a row that has left.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.backbones.own_forward import HIDDEN, State
from eelit.methods.engine import costs
from eelit.methods.engine.multi_exit import select
from eelit.methods.engine.routing import decide
from eelit.methods.policies.base import Policy, finite

if TYPE_CHECKING:
    from eelit.methods.backbones.decoder import ExitDecoder

StepPolicy = Callable[[int], Policy]
"""From the number of the token to be generated (from 0) to the policy for it."""
Reads = Literal["logits", "state", "gate", "forecast"]
"""What a policy sees after a layer: vocabulary logits ``[n, V]``, the state ``[n, d]``, or what the gate says.

``forecast`` is what a decoder carries along in its state under `FORECAST`, said before its first layer.
"""
FORECAST = "forecast"


class Cache(Protocol):
    """Keys and values by row, as `generate` uses them."""

    rows: Tensor | None
    """The rows that are meant, int64 ``[n]``; None: all."""

    def advance(self, ids: Tensor) -> None:
        """Go on behind ids ``[N, 1]``."""
        ...

    def copy(self, times: int = 1) -> Self:
        """Return a cache with the same rows ``times`` times."""
        ...


C = TypeVar("C", bound=Cache)
C_contra = TypeVar("C_contra", bound=Cache, contravariant=True)


class Decoder(Protocol[C_contra]):
    """A decoder with exits, as `generate` uses it: `ExitDecoder`, or one that reads a source besides."""

    @property
    def exits(self) -> int:
        """Number of exits: of layers."""
        ...

    @property
    def windows(self) -> list[int | None]:
        """How many positions each layer looks back to (None: all)."""
        ...

    @property
    def width(self) -> int:
        """Size of a state, d."""
        ...

    @property
    def gate(self) -> Callable[..., Tensor]:
        """From states ``[n, d]`` to what a policy shall see of them."""
        ...

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield the weights."""
        ...

    def start(self, ids: Tensor, cache: C_contra) -> State:
        """Map token ids ``[n, 1]`` to the state before the first layer."""
        ...

    def layer(self, i: int, state: State, cache: C_contra) -> State:
        """Run layer ``i``."""
        ...

    def fill(self, i: int, state: State, cache: C_contra) -> None:
        """Give layer ``i`` the keys and values of a state that skips it."""
        ...

    def head(self, states: Tensor) -> Tensor:
        """Map states ``[..., d]`` after any layer to logits ``[..., V]``."""
        ...


def always(policy: Policy) -> StepPolicy:
    """Return the same policy for every token."""
    return lambda step: policy


@dataclass(frozen=True)
class Generation:
    """Generated tokens ``[N, T]`` and the exit (from 0) of each ``[N, T]``, -1 for padding behind the end of a text.

    ``not_finite [N, T]``: of which tokens a layer that was looked at, or the head at last, said what is not finite.
    """

    tokens: Tensor
    exits: Tensor
    not_finite: Tensor

    def head(self, n: int) -> Generation:
        """Return the first ``n`` texts."""
        return Generation(self.tokens[:n], self.exits[:n], self.not_finite[:n])

    def agrees(self, other: Generation) -> bool:
        """Return whether another way to write has come to the same, token by token."""
        pairs = ((self.tokens, other.tokens), (self.exits, other.exits), (self.not_finite, other.not_finite))
        return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@dataclass(frozen=True)
class Ending:
    """Which tokens end a text, and the token that stands behind its end."""

    ends: tuple[int, ...] = ()
    pad: int = 0

    def alive(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Return which texts ``[N]`` go on behind ``tokens [N]``, of those that did ``before [N]``."""
        for end in self.ends:
            before = before & (tokens != end)
        return before


@torch.inference_mode()
def generate(
    model: Decoder[C],
    cache: C,
    last: Tensor,
    length: int,
    policy: StepPolicy | None,
    reads: Reads = "logits",
    ending: Ending = Ending(),
) -> Generation:
    """Generate ``length`` tokens after ``last [N]``, the cache holding all before it; rows that have left are not run.

    Without a policy this is plain greedy generation: all layers, and the head once per token.
    """
    tokens = last.new_full((len(last), length), ending.pad)
    exits = torch.full_like(tokens, -1)
    alive, flawed = torch.ones_like(last, dtype=torch.bool), torch.zeros_like(tokens, dtype=torch.bool)
    for step in range(length):
        rows = alive.nonzero().flatten()
        if not len(rows):
            break
        rule = policy(step) if policy else None
        said, left, bad = _next_token(model, cache, last, rows, rule, reads)
        tokens[rows, step], exits[rows, step], flawed[rows, step] = said, left, bad
        last = tokens[:, step]
        alive = ending.alive(last, alive)
    return Generation(tokens, exits, flawed)


def _next_token(
    model: Decoder[C], cache: C, ids: Tensor, rows: Tensor, policy: Policy | None, reads: Reads
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the tokens ``[n]`` after ids ``[N]`` at some rows ``[n]``, and the exits ``[n]`` that decided them.

    The third is of which of them something said is not finite ``[n]``.
    """
    cache.rows = rows if len(rows) < len(ids) else None
    state, tokens, exits = model.start(ids[rows, None], cache), torch.empty_like(ids), torch.empty_like(ids)
    rest, memory, final = rows, policy.start() if policy else (), model.exits - 1
    flawed = torch.zeros_like(ids, dtype=torch.bool)
    for i in range(model.exits):
        cache.rows = rest if len(rest) < len(ids) else None
        state = model.layer(i, state, cache)
        seen: Tensor | None = None
        if i == final:
            out = torch.arange(len(rest), device=ids.device)
        elif policy is None:
            continue
        else:
            seen = look(model, state, reads)
            memory, stop, sound = decide(policy, memory, seen, sound_of(seen, reads))
            flawed[rest] |= ~sound
            out = stop.nonzero().flatten()
        if not len(out):
            continue
        logits = seen[out] if seen is not None and reads == "logits" else model.head(state[HIDDEN][out, 0])
        tokens[rest[out]], exits[rest[out]] = logits.argmax(dim=-1), i
        flawed[rest[out]] |= ~finite(logits)
        cache.rows, leaving = rest[out], select(state, out) if i < final else state
        for skipped in range(i + 1, model.exits):
            model.fill(skipped, leaving, cache)
        if len(out) == len(rest):
            break
        keep = (~stop).nonzero().flatten()
        rest, state, memory = rest[keep], select(state, keep), select(memory, keep)
    cache.advance(ids[:, None])
    return tokens[rows], exits[rows], flawed[rows]


def look(model: Decoder[C], state: State, reads: Reads) -> Tensor:
    """Return what the policy is shown of the state of single tokens, ``[n, 1, d]``, after a layer."""
    if reads == "forecast":
        return state[FORECAST]
    hidden = state[HIDDEN][:, 0]
    if reads == "state":
        return hidden
    return model.gate(hidden) if reads == "gate" else model.head(hidden)


def sound_of(shown: Tensor, reads: Reads) -> Tensor:
    """Return whether what the policy is shown is finite ``[n]``; in logits -inf is a mask, in a state it is none."""
    return shown.isfinite().all(dim=-1) if reads == "state" else finite(shown)


@torch.inference_mode()
def replay(
    model: Decoder[C],
    cache: C,
    last: Tensor,
    length: int,
    policies: Sequence[StepPolicy],
    reads: Reads = "logits",
    ending: Ending = Ending(),
) -> list[Generation]:
    """Generate ``length`` tokens after ``last [N]`` with each policy, all layers for all rows, states held after exits.

    It is the definition written down: a layer that is given the held state makes the same keys and values of it as any
    other, and what else it makes of it is thrown away. The policies' texts are rows of one batch. Cache and ``last``
    are as for `generate`; the cache is left as it was.
    """
    own, n = cache.copy(len(policies)), len(last)
    last, alive = last.repeat(len(policies)), torch.ones(n * len(policies), dtype=torch.bool, device=last.device)
    tokens, exits, flawed = [], [], []
    for step in range(length):
        said, left, bad = _held(model, own, last, [policy(step) for policy in policies], reads)
        last = torch.where(alive, said, ending.pad)
        tokens.append(last)
        exits.append(torch.where(alive, left, -1))
        flawed.append(alive & bad)
        alive = ending.alive(last, alive)
    every = zip(*(torch.stack(each, dim=1).split(n) for each in (tokens, exits, flawed)), strict=True)
    return [Generation(*each) for each in every]


def _held(
    model: Decoder[C], cache: C, ids: Tensor, rules: Sequence[Policy], reads: Reads
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the token ``[P N]`` after each of ids ``[P N]``, N rows for each rule, and its exit ``[P N]``.

    The third is of which of them something said is not finite ``[P N]``.
    """
    state, memories = model.start(ids[:, None], cache), [rule.start() for rule in rules]
    parts = torch.arange(len(ids), device=ids.device).split(len(ids) // len(rules))
    gone, left = torch.zeros_like(ids, dtype=torch.bool), torch.full_like(ids, model.exits - 1)
    flawed = gone
    for i in range(model.exits):
        before, state = state[HIDDEN], model.layer(i, state, cache)
        state[HIDDEN] = torch.where(gone[:, None, None], before, state[HIDDEN])
        if i < model.exits - 1:
            seen = look(model, state, reads)
            sound = sound_of(seen, reads)
            asked = zip(rules, memories, parts, strict=True)
            answers = [decide(rule, memory, seen[p], sound[p]) for rule, memory, p in asked]
            memories, stop = [memory for memory, _, _ in answers], torch.cat([stop for _, stop, _ in answers])
            flawed = flawed | ~gone & ~sound
            left[stop & ~gone] = i
            gone = gone | stop
    cache.advance(ids[:, None])
    logits = model.head(state[HIDDEN][:, 0])
    return logits.argmax(dim=-1), left, flawed | ~finite(logits)


@dataclass(frozen=True)
class TokenCosts:
    """MACs of the parts of a decoder, for one token; what a layer costs is a number for each layer, ``[E]``."""

    exits: int
    start: int  # what is before the first layer
    layer: NDArray[np.int64]  # all but attending
    fill: NDArray[np.int64]  # its keys and values alone, for a token that skips it
    attention: NDArray[np.int64]  # per position attended to
    window: NDArray[np.int64]  # positions attended to at most
    head: int
    look: int  # one question to the policy
    shared: bool  # whether looking runs the head, so that a token that leaves early needs it no more

    @classmethod
    def of(cls, model: ExitDecoder, reads: Reads) -> TokenCosts:
        """Count what the parts execute for one token, behind none and behind one."""
        return cls.behind(model, model.new_cache(1, 2), reads)

    @classmethod
    def behind(cls, model: Decoder[C], cache: C, reads: Reads) -> TokenCosts:
        """Count the same with an empty cache of one row, which has room for three tokens and is used up."""
        start, first, second, fill = _counted(model, cache)
        vector = next(model.parameters()).new_zeros(1, model.width)
        head, gate = costs.count(lambda: model.head(vector)), costs.count(lambda: model.gate(vector))
        return cls(
            exits=model.exits,
            start=int(start[0]),
            layer=2 * first - second,
            fill=fill,
            attention=second - first,
            window=np.array([window or np.iinfo(np.int64).max for window in model.windows]),
            head=head,
            look={"logits": head, "state": 0, "gate": gate, "forecast": 0}[reads],
            shared=reads == "logits",
        )

    def _layers(self, start: int, length: int) -> NDArray[np.int64]:
        """Return the MACs ``[T, E]`` of all layers up to each, for tokens from position ``start`` on."""
        seen = np.minimum(start + 1 + np.arange(length)[:, None], self.window)
        return self.start + np.cumsum(self.layer + self.attention * seen, axis=1)

    def claimed(self, exits: NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """Return the MACs ``[N, T]`` of tokens that left at ``exits [N, T]``, fed in from position ``start`` on.

        Padding behind the end of a text costs nothing.
        """
        run, final = exits + 1, exits == self.exits - 1
        filled = self.fill.sum() - np.cumsum(self.fill)[exits]
        looks = np.minimum(run, self.exits - 1)
        heads = np.where(final | (not self.shared), self.head, 0)
        work = (
            self._layers(start, exits.shape[1])[np.arange(exits.shape[1]), exits] + filled + looks * self.look + heads
        )
        return np.where(exits < 0, 0, work).astype(np.float64)

    def plain(self, depth: int, start: int, length: int) -> NDArray[np.float64]:
        """Return the MACs ``[T]`` of tokens in a decoder of ``depth`` layers without exits."""
        return (self._layers(start, length)[:, depth - 1] + self.head).astype(np.float64)


@torch.inference_mode()
def _counted(model: Decoder[C], cache: C) -> list[NDArray[np.int64]]:
    """Return the MACs before the layers ``[1]``, and of each ``[E]`` for a first token, a second, and to fill it."""
    ids = torch.zeros((1, 1), dtype=torch.int64, device=next(model.parameters()).device)
    found = [[costs.count(lambda: model.start(ids, cache))]]
    for _ in range(2):
        state = model.start(ids, cache)
        found.append([costs.count(partial(model.layer, i, state, cache)) for i in range(model.exits)])
        cache.advance(ids)
    state = model.start(ids, cache)
    found.append([costs.count(partial(model.fill, i, state, cache)) for i in range(model.exits)])
    return [np.array(macs, dtype=np.int64) for macs in found]
