"""Two ways to generate text with exits per token, which must agree: `generate`, which really skips, and `replay`.

Tokens are chosen greedily. A policy is asked after each layer but the last, for each text on its own. When it stops a
token at layer i, the later layers get their keys and values from the state after layer i, so that later tokens can
attend to it there, and do nothing else for it.

`generate` drops rows that have left, and later layers never see them. `replay` runs every layer for every row, and
holds the state of a row that has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods.backbones.decoder import ExitDecoder, RowCache
from eelit.methods.engine import costs
from eelit.methods.engine.multi_exit import select
from eelit.methods.policies.base import Policy

StepPolicy = Callable[[int], Policy]
"""From the number of the token to be generated (from 0) to the policy for it."""
Reads = Literal["logits", "state", "gate"]
"""What a policy sees after a layer: vocabulary logits ``[n, V]``, the state ``[n, d]``, or what the gate says."""


def always(policy: Policy) -> StepPolicy:
    """Return the same policy for every token."""
    return lambda step: policy


@dataclass(frozen=True)
class Generation:
    """Generated tokens ``[N, T]`` and the exit (from 0) of each ``[N, T]``."""

    tokens: Tensor
    exits: Tensor

    def head(self, n: int) -> Generation:
        """Return the first ``n`` texts."""
        return Generation(self.tokens[:n], self.exits[:n])


@torch.inference_mode()
def generate(
    model: ExitDecoder, cache: RowCache, last: Tensor, length: int, policy: StepPolicy | None, reads: Reads = "logits"
) -> Generation:
    """Generate ``length`` tokens after ``last [N]``, the cache holding all before it; rows that have left are not run.

    Without a policy this is plain greedy generation: all layers, and the head once per token.
    """
    tokens, exits = [], []
    for step in range(length):
        last, left = _next_token(model, cache, last, policy(step) if policy else None, reads)
        tokens.append(last)
        exits.append(left)
    return Generation(torch.stack(tokens, dim=1), torch.stack(exits, dim=1))


def _next_token(
    model: ExitDecoder, cache: RowCache, ids: Tensor, policy: Policy | None, reads: Reads
) -> tuple[Tensor, Tensor]:
    """Return the token ``[N]`` after each of ``ids [N]``, and the exit ``[N]`` at which it was decided."""
    state, tokens, exits = model.embed(ids[:, None]), torch.empty_like(ids), torch.empty_like(ids)
    angles, final = model.angles(cache.position, 1, state), model.exits - 1
    rest, memory = torch.arange(len(ids)), policy.start() if policy else ()
    for i in range(model.exits):
        cache.rows = rest if len(rest) < len(ids) else None
        state = model.layer(i, state, angles, cache)
        seen: Tensor | None = None
        if i == final:
            out = torch.arange(len(rest))
        elif policy is None:
            continue
        else:
            seen = look(model, state[:, 0], reads)
            memory, stop = policy.step(memory, seen)
            out = stop.nonzero().flatten()
        if not len(out):
            continue
        logits = seen[out] if seen is not None and reads == "logits" else model.head(state[out, 0])
        tokens[rest[out]], exits[rest[out]] = logits.argmax(dim=-1), i
        cache.rows = rest[out]
        for skipped in range(i + 1, model.exits):
            model.fill(skipped, state[out], angles, cache)
        if len(out) == len(rest):
            break
        keep = (~stop).nonzero().flatten()
        rest, state, memory = rest[keep], state[keep], select(memory, keep)
    cache.position += 1
    return tokens, exits


def look(model: ExitDecoder, state: Tensor, reads: Reads) -> Tensor:
    """Return what the policy is shown of states ``[n, d]`` after a layer."""
    if reads == "state":
        return state
    shown: Tensor = model.gate(state) if reads == "gate" else model.head(state)
    return shown


@torch.inference_mode()
def replay(
    model: ExitDecoder,
    cache: RowCache,
    last: Tensor,
    length: int,
    policies: Sequence[StepPolicy],
    reads: Reads = "logits",
) -> list[Generation]:
    """Generate ``length`` tokens after ``last [N]`` with each policy, all layers for all rows, states held after exits.

    It is the definition written down: a layer that is given the held state makes the same keys and values of it as any
    other, and what else it makes of it is thrown away. The policies' texts are rows of one batch. Cache and ``last``
    are as for `generate`; the cache is left as it was.
    """
    own, parts = cache.copy(len(policies)), torch.arange(len(last) * len(policies)).split(len(last))
    last, final = last.repeat(len(policies)), model.exits - 1
    tokens, exits = [], []
    for step in range(length):
        state, rules = model.embed(last[:, None]), [policy(step) for policy in policies]
        angles, memories = model.angles(own.position, 1, state), [rule.start() for rule in rules]
        gone, left = torch.zeros_like(last, dtype=torch.bool), torch.full_like(last, final)
        for i in range(model.exits):
            state = torch.where(gone[:, None, None], state, model.layer(i, state, angles, own))
            if i < final:
                seen = look(model, state[:, 0], reads)
                answers = [rule.step(memory, seen[p]) for rule, memory, p in zip(rules, memories, parts, strict=True)]
                memories, stop = [memory for memory, _ in answers], torch.cat([stop for _, stop in answers])
                left[stop & ~gone] = i
                gone = gone | stop
        own.position += 1
        last = model.head(state[:, 0]).argmax(dim=-1)
        tokens.append(last)
        exits.append(left)
    every = zip(
        torch.stack(tokens, dim=1).split(len(parts[0])), torch.stack(exits, dim=1).split(len(parts[0])), strict=True
    )
    return [Generation(t, e) for t, e in every]


@dataclass(frozen=True)
class TokenCosts:
    """MACs of the parts of a decoder, for one token."""

    exits: int
    layer: int  # a layer's linear maps
    fill: int  # its key and value projections
    attention: int  # of one layer, per position attended to
    head: int
    look: int  # one question to the policy
    shared: bool  # whether looking runs the head, so that a token that leaves early needs it no more

    @classmethod
    def of(cls, model: ExitDecoder, reads: Reads) -> TokenCosts:
        """Read the sizes off the weights, all layers being alike, and count the gate."""
        layer = model.language_model.model.layers[0]
        attention, head = layer.self_attn, model.language_model.lm_head.weight.numel()
        gate = costs.count(lambda: model.gate(torch.zeros(1, model.width)))
        linear = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
        return cls(
            exits=model.exits,
            layer=linear,
            fill=attention.k_proj.weight.numel() + attention.v_proj.weight.numel(),
            attention=2 * attention.q_proj.out_features,
            head=head,
            look={"logits": head, "state": 0, "gate": gate}[reads],
            shared=reads == "logits",
        )

    def claimed(self, exits: NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """Return the MACs ``[N, T]`` of tokens that left at ``exits [N, T]``, fed in from position ``start`` on."""
        run, final = exits + 1, exits == self.exits - 1
        seen = start + 1 + np.arange(exits.shape[1])
        looks = np.minimum(run, self.exits - 1)
        heads = np.where(final | (not self.shared), self.head, 0)
        work = run * (self.layer + self.attention * seen) + (self.exits - run) * self.fill + looks * self.look + heads
        return work.astype(np.float64)

    def plain(self, depth: int, start: int, length: int) -> NDArray[np.float64]:
        """Return the MACs ``[T]`` of tokens in a decoder of ``depth`` layers without exits."""
        seen = start + 1 + np.arange(length)
        return (depth * (self.layer + self.attention * seen) + self.head).astype(np.float64)
