"""Tokens that are drawn, where `backbones.decoding.generate` takes the likeliest; they leave early in the same way.

A token is drawn from the logits of the exit at which it leaves, which are also what its policy has seen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.decoding import Ending, Generation, look, sound_of
from eelit.methods.backbones.own_forward import HIDDEN
from eelit.methods.backbones.row_cache import RowCache
from eelit.methods.engine.multi_exit import select
from eelit.methods.engine.routing import decide
from eelit.methods.policies.base import Policy, exact, finite, settle


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: with probabilities ``softmax(logits / temperature)``, of some tokens alone if asked for.

    What a text draws follows from the seed and its number among the prompts: not from what other texts draw, nor from
    when they end.
    """

    temperature: float = 1.0  # above 0; the lower, the likelier the likeliest
    top_k: int | None = None  # only so many likeliest tokens, and those that are as likely as the last of them
    top_p: float = 1.0  # only the fewest likeliest tokens that together have this probability
    seed: int = 0

    def __post_init__(self) -> None:
        settle(self, "temperature", above=0, finite=True)
        settle(self, "top_p", above=0, most=1)
        settle(self, "seed", whole=True, least=0)
        if self.top_k is not None:
            settle(self, "top_k", whole=True, least=1)

    def noise(self, texts: int, tokens: int) -> Iterator[Tensor]:
        """Yield for each step what decides among the tokens ``[N, V]``: the largest sum of logit and noise is drawn."""
        seeds = [np.random.SeedSequence([self.seed, i]).generate_state(1, np.uint64)[0] for i in range(texts)]
        generators = [torch.Generator().manual_seed(int(seed >> np.uint64(1))) for seed in seeds]
        while True:
            draws = [torch.empty(tokens, dtype=torch.float64).exponential_(generator=each) for each in generators]
            yield -torch.stack(draws).log()  # Gumbel's distribution

    def draw(self, logits: Tensor, noise: Tensor) -> Tensor:
        """Return a token ``[n]`` for each of logits ``[n, V]``."""
        z: Tensor = exact(logits) / self.temperature
        if self.top_k is not None:
            least = z.topk(min(self.top_k, z.shape[-1]), dim=-1).values[:, -1:]
            z = z.masked_fill(z < least, -torch.inf)
        if self.top_p < 1:
            ordered, place = z.sort(dim=-1, descending=True, stable=True)
            p = ordered.softmax(dim=-1)
            unneeded = p.cumsum(dim=-1) - p >= self.top_p  # those before have it already
            z = z.masked_fill(torch.zeros_like(unneeded).scatter(-1, place, unneeded), -torch.inf)
        return (z + noise.to(z)).argmax(dim=-1)


@torch.inference_mode()
def write(
    model: ExitDecoder,
    cache: RowCache,
    last: Tensor,
    length: int,
    policy: Policy | None,
    sampling: Sampling,
    ending: Ending,
) -> Generation:
    """Generate as `generate` does, with tokens that are drawn."""
    tokens = last.new_full((len(last), length), ending.pad)
    exits, flawed = torch.full_like(tokens, -1), torch.zeros_like(tokens, dtype=torch.bool)
    alive = torch.ones_like(last, dtype=torch.bool)
    noise: Iterator[Tensor] | None = None
    for step in range(length):
        rows = alive.nonzero().flatten()
        if not len(rows):
            break
        leaving = list(_leaving(model, cache, last, rows, policy))
        noise = noise or sampling.noise(len(last), leaving[0][2].shape[-1])
        drawn = next(noise).to(last.device)
        for exit_, out, logits, bad in leaving:
            tokens[out, step], exits[out, step] = sampling.draw(logits, drawn[out]), exit_
            flawed[out, step] = bad | ~finite(logits)
        last = tokens[:, step]
        alive = ending.alive(last, alive)
    return Generation(tokens, exits, flawed)


def _leaving(
    model: ExitDecoder, cache: RowCache, ids: Tensor, rows: Tensor, policy: Policy | None
) -> Iterator[tuple[int, Tensor, Tensor, Tensor]]:
    """Run one token ``[N]`` at some rows ``[n]``; yield who leaves at which exit with which logits, and met what bad.

    Later layers get keys and values of those who have left, and do nothing else for them.
    """
    cache.rows = rows if len(rows) < len(ids) else None
    state, rest, memory = model.start(ids[rows, None], cache), rows, policy.start() if policy else ()
    bad = torch.zeros_like(rows, dtype=torch.bool)
    for i in range(model.exits):
        cache.rows = rest if len(rest) < len(ids) else None
        state = model.layer(i, state, cache)
        if i == model.exits - 1:
            yield i, rest, model.head(state[HIDDEN][:, 0]), bad
            break
        if policy is None:
            continue
        seen = look(model, state, "logits")
        memory, stop, sound = decide(policy, memory, seen, sound_of(seen, "logits"))
        bad = bad | ~sound
        out, keep = stop.nonzero().flatten(), (~stop).nonzero().flatten()
        if not len(out):
            continue
        yield i, rest[out], seen[out], bad[out]
        cache.rows, gone = rest[out], select(state, out)
        for skipped in range(i + 1, model.exits):
            model.fill(skipped, gone, cache)
        if not len(keep):
            break
        rest, state, memory, bad = rest[keep], select(state, keep), select(memory, keep), bad[keep]
    cache.advance(ids[:, None])
