"""Text generation in which every token leaves the decoder at a layer of its own.

Tokens are chosen greedily. A policy is asked after each layer but the last, for each text on its own. When it stops a token
at layer i, the later layers get their keys and values from the state after layer i, so that later tokens can attend to it
there, and do nothing else for it.

Two implementations must agree. `generate` really skips: rows that have left are dropped, and later layers never see them.
`replay` runs every layer for every row, on transformers' own cache, and holds the state of a row that has left.

The prompt is read in full before the first token is chosen; costs are MACs per generated token, without that reading.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from eelit.methods import costs
from eelit.methods.backbones.decoder import ExitDecoder, RowCache
from eelit.methods.method import Bench, Method, Split
from eelit.methods.multi_exit import select
from eelit.methods.passages import LanguageData, Passages
from eelit.methods.policies.base import Policy, State
from eelit.methods.policies.fixed import FixedExit
from eelit.methods.results import Curve, Execution, OperatingPoint

StepPolicy = Callable[[int], Policy]
"""From the number of the token to be generated (from 0) to the policy for it."""
Reads = Literal["logits", "state", "gate"]
"""What the policy is shown after a layer: vocabulary logits ``[n, V]``, the state ``[n, d]``, or the gate's logits ``[n, 2]``."""


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
    shown: Tensor = model.head(state) if reads == "logits" else model.gate(state)
    return shown


@torch.inference_mode()
def read_all(model: ExitDecoder, prompts: Tensor) -> Any:
    """Read all of the prompts ``[N, P]`` but their last token into a cache of transformers' own, for `replay`."""
    from transformers import DynamicCache

    cache, state = DynamicCache(), model.embed(prompts[:, :-1])
    angles = model.angles(0, prompts.shape[1] - 1, state)
    for i in range(model.exits):
        state = model.layer(i, state, angles, cache)
    return cache


@torch.inference_mode()
def replay(
    model: ExitDecoder, cache: Any, last: Tensor, length: int, policy: StepPolicy, reads: Reads = "logits"
) -> Generation:
    """Generate ``length`` tokens after ``last [N]`` by running all layers for all rows, the state held after the exit.

    It is the definition written down: a layer that is given the held state makes the same keys and values of it as any
    other, and what else it makes of it is thrown away. The cache (of `read_all`) is left as it was.
    """
    start, final = cache.get_seq_length(), model.exits - 1
    tokens, exits = [], []
    for step in range(length):
        state, rule = model.embed(last[:, None]), policy(step)
        angles, memory = model.angles(start + step, 1, state), rule.start()
        gone, left = torch.zeros_like(last, dtype=torch.bool), torch.full_like(last, final)
        for i in range(model.exits):
            state = torch.where(gone[:, None, None], state, model.layer(i, state, angles, cache))
            if i < final:
                memory, stop = rule.step(memory, look(model, state[:, 0], reads))
                left[stop & ~gone] = i
                gone = gone | stop
        last = model.head(state[:, 0]).argmax(dim=-1)
        tokens.append(last)
        exits.append(left)
    cache.crop(start)
    return Generation(torch.stack(tokens, dim=1), torch.stack(exits, dim=1))


@dataclass(frozen=True)
class FirstRight:
    """An oracle: stop where the likeliest token is the one wanted, ``[N]``; it knows what it should predict."""

    wanted: Tensor

    def start(self) -> State:
        """Return the empty state."""
        return ()

    def step(self, state: State, output: Tensor) -> tuple[State, Tensor]:
        """Compare the answers of logits ``[N, V]`` with the tokens wanted."""
        return (), output.argmax(dim=-1) == self.wanted


def rouge_l(texts: NDArray[np.int64], others: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return ROUGE-L ``[N]`` of texts ``[N, T]`` with others ``[N, T]``: longest common subsequence ÷ T.

    For texts of equal length precision, recall and F-measure are the same.
    """
    n, length = texts.shape
    common = np.zeros((length + 1, length + 1, n), dtype=np.int64)
    for i in range(length):
        for j in range(length):
            longest = np.maximum(common[i, j + 1], common[i + 1, j])
            common[i + 1, j + 1] = np.where(texts[:, i] == others[:, j], common[i, j] + 1, longest)
    return common[length, length] / length


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
        """Read the sizes off the weights; all layers are alike."""
        layer = model.language_model.model.layers[0]
        attention, head = layer.self_attn, model.language_model.lm_head.weight.numel()
        linear = sum(m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
        return cls(
            exits=model.exits,
            layer=linear,
            fill=attention.k_proj.weight.numel() + attention.v_proj.weight.numel(),
            attention=2 * attention.q_proj.out_features,
            head=head,
            look={"logits": head, "state": 0, "gate": model.gate.weight.numel()}[reads],
            shared=reads == "logits",
        )

    def claimed(self, exits: NDArray[np.int64], start: int) -> NDArray[np.float64]:
        """Return the MACs ``[N, T]`` of tokens that left at ``exits [N, T]``, the first one fed in at position ``start``."""
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


@dataclass
class Prepared:
    """A trained model with its passages; texts are generated once, when first asked for."""

    model: ExitDecoder
    data: LanguageData
    bench: Bench
    reads: Reads
    runs: dict[tuple[str, object], Generation] = field(default_factory=dict)
    caches: dict[str, Any] = field(default_factory=dict)  # split → its prompts, read

    @cached_property
    def costs(self) -> TokenCosts:
        """The cost table."""
        return TokenCosts.of(self.model, self.reads)

    @property
    def length(self) -> int:
        """Tokens to generate after each prompt."""
        return self.data.test.references.shape[1]

    @property
    def start(self) -> int:
        """Position of the prompt's last token, the first that is fed in to generate."""
        return self.data.test.prompts.shape[1] - 1

    def passages(self, split: Split) -> Passages:
        """Return as many test passages as make up the bench's number of samples (tokens); twice as many for validation."""
        most = None if self.bench.test is None else max(1, self.bench.test // self.length)
        if split == "test":
            return self.data.test.head(most)
        return self.data.validation.head(None if most is None else 2 * most)

    def run(self, split: Split, name: object, policy: StepPolicy, reads: Reads | None = None) -> Generation:
        """Replay a policy on the split; ``name`` tells it from others."""
        if (split, name) not in self.runs:
            prompts = self.passages(split).prompts
            self.bench.progress(f"continuing {len(prompts)} {split} passages", None)
            if split not in self.caches:
                self.caches[split] = read_all(self.model, prompts)
            last, shown = prompts[:, -1], reads or self.reads
            self.runs[split, name] = replay(self.model, self.caches[split], last, self.length, policy, shown)
        return self.runs[split, name]

    def full(self, split: Split) -> Generation:
        """Return plain greedy generation on the split."""
        if (split, "full") not in self.runs:
            prompts = self.passages(split).prompts
            self.runs[split, "full"] = generate(
                self.model, self.read(prompts), prompts[:, -1], self.length, policy=None
            )
        return self.runs[split, "full"]

    def read(self, prompts: Tensor) -> RowCache:
        """Read all of the prompts but their last token."""
        return self.model.read(prompts[:, :-1], prompts.shape[1] - 1 + self.length)

    def losses(self, split: Split, generation: Generation) -> NDArray[np.float64]:
        """Return what each text ``[N]`` loses against the full model's: 1 - ROUGE-L."""
        return 1 - rouge_l(generation.tokens.numpy(), self.full(split).tokens.numpy())


class TokenMethod(Method):
    """A method that generates text with exits per token: it says how to build and train, and which policy a knob means."""

    @property
    def quality(self) -> str:
        """Textual consistency: how much of the full model's own text is kept."""
        return "ROUGE-L with the full model's text"

    @property
    @abstractmethod
    def reads(self) -> Reads:
        """What the policy is shown after a layer."""

    @abstractmethod
    def load(self) -> LanguageData:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: LanguageData, seed: int) -> ExitDecoder:
        """Return the untrained decoder; everything random follows the seed."""

    @abstractmethod
    def train(self, model: ExitDecoder, data: LanguageData, bench: Bench) -> None:
        """Train the decoder in place (with `recipes`, which cache)."""

    @abstractmethod
    def policy(self, knob: float, step: int, length: int) -> Policy:
        """Return the policy at one knob for the token number ``step`` (from 0) of ``length``."""

    def steps(self, knob: float, length: int) -> StepPolicy:
        """Return the policies of all steps at one knob."""
        return lambda step: self.policy(knob, step, length)

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train."""
        data = self.load()
        model = self.build(data, bench.seed)
        self.train(model, data, bench)
        bench.data["passages"] = data.digest
        return Prepared(model.eval(), data, bench, self.reads)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Generate all texts of the split at every knob."""
        return [self.point(prepared, split, knob) for knob in knobs]

    def point(self, prepared: Prepared, split: Split, knob: float) -> OperatingPoint:
        """Generate all texts of the split at one knob."""
        run = prepared.run(split, knob, self.steps(knob, prepared.length))
        exits = run.exits.numpy()
        cost = float(prepared.costs.claimed(exits, prepared.start).mean())
        return OperatingPoint(
            knob=knob,
            quality=float(1 - prepared.losses(split, run).mean()),
            cost=cost,
            speed_up=self.plain_cost(prepared) / cost,
            exits=(np.bincount(exits.ravel(), minlength=prepared.model.exits) / exits.size).tolist(),
        )

    def losses(self, prepared: Prepared, split: Split, knobs: Sequence[float]) -> NDArray[np.float64]:
        """Return what every text of the split loses at each knob, ``[K, N]``, for calibration."""
        runs = [prepared.run(split, knob, self.steps(knob, prepared.length)) for knob in knobs]
        return np.stack([prepared.losses(split, run) for run in runs])

    def gains(self, prepared: Prepared, curve: Curve) -> dict[str, list[float]]:
        """Return how much more of the text is kept than by a decoder of 2, 3 … L - 1 layers, at its layers and at its MACs.

        Between operating points of the curve (on test data) quality is interpolated.
        """
        shallow = self.shallow(prepared, "test")[1:-1]
        layers = [float(np.dot(point.exits, np.arange(1, len(point.exits) + 1))) for point in curve.test]
        macs, quality = [point.cost for point in curve.test], [point.quality for point in curve.test]
        return {
            "layers": [float(np.interp(i + 2, layers, quality)) - kept for i, (kept, _) in enumerate(shallow)],
            "MACs": [float(np.interp(cost, macs, quality)) - kept for kept, cost in shallow],
        }

    def plain_cost(self, prepared: Prepared) -> float:
        """Return mean MACs per token of the full model without exits."""
        return float(prepared.costs.plain(prepared.model.exits, prepared.start, prepared.length).mean())

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return 1 (the full model's text is its own), and the MACs per token of plain greedy generation."""
        return float(1 - prepared.losses("test", prepared.full("test")).mean()), self.plain_cost(prepared)

    def shallow(self, prepared: Prepared, split: Split) -> list[tuple[float, float]]:
        """Return (quality, MACs per token) of decoders cut off for good after 1 … L layers, with no exit to ask at."""
        found = []
        for i in range(prepared.model.exits):
            run = prepared.run(split, f"layer {i}", lambda step, i=i: FixedExit(i), "state")
            cost = prepared.costs.plain(i + 1, prepared.start, prepared.length)
            found.append((float(1 - prepared.losses(split, run).mean()), float(cost.mean())))
        return found

    def oracle(self, prepared: Prepared, split: Split) -> tuple[float, float]:
        """Return (quality, mean layers) when each token leaves at the first layer that says what the full model wrote."""
        wanted = prepared.full(split).tokens
        run = prepared.run(split, "oracle", lambda step: FirstRight(wanted[:, step]), "logits")
        return float(1 - prepared.losses(split, run).mean()), float(run.exits.double().mean()) + 1

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Really skip, on test passages: once counted from outside, then timed in turn with plain generation."""
        steps, length = self.steps(knob, prepared.length), prepared.length
        expected = prepared.run("test", knob, steps)
        prompts = prepared.passages("test").prompts[: -(-bench.executed // length)]
        expected, cache, last = expected.head(len(prompts)), prepared.read(prompts), prompts[:, -1]
        with costs.MacCounter() as counter:
            found = generate(prepared.model, cache.copy(), last, length, steps, self.reads)
        exits = expected.exits.numpy()
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for ours in (True, False) * 3:
            fresh = cache.copy()
            start = time.perf_counter()
            generate(prepared.model, fresh, last, length, steps if ours else None, self.reads)
            seconds[ours].append(time.perf_counter() - start)
        return Execution(
            knob=knob,
            samples=exits.size,
            claimed=float(prepared.costs.claimed(exits, prepared.start).sum()),
            counted=counter.macs,
            agrees=torch.equal(found.exits, expected.exits) and torch.equal(found.tokens, expected.tokens),
            seconds=median(seconds[True]),
            full_seconds=median(seconds[False]),
        )
