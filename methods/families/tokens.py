"""Text generation in which every token leaves the decoder at a layer of its own (`eelit.methods.backbones.decoding`).

Quality is how much of the full model's own text is kept. The prompt is read in full before the first token is chosen;
costs are MACs per generated token, without that reading.
"""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.backbones.decoder import ExitDecoder, RowCache
from eelit.methods.backbones.decoding import Generation, Reads, StepPolicy, TokenCosts, always, generate, replay
from eelit.methods.engine import costs
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.passages import LanguageData, Passages
from eelit.methods.engine.records import Curve, Execution, OperatingPoint, Outcome
from eelit.methods.policies.base import Policy, State
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.learn_then_test import learn_then_test, share_missed

ROWS = 400
"""Texts that are replayed in one batch, if a split has so few prompts that several knobs fit."""


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


@dataclass
class Prepared:
    """A trained model with its passages; texts are generated once, when first asked for."""

    model: ExitDecoder
    data: LanguageData
    bench: Bench
    reads: Reads
    runs: dict[tuple[str, object], Generation] = field(default_factory=dict)
    caches: dict[str, RowCache] = field(default_factory=dict)  # split → its prompts, read

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
        """Return as many passages as make up the bench's number of samples (tokens), in either split."""
        most = None if self.bench.test is None else max(1, self.bench.test // self.length)
        return (self.data.test if split == "test" else self.data.validation).head(most)

    def run(self, split: Split, policies: Mapping[object, StepPolicy], reads: Reads | None = None) -> list[Generation]:
        """Replay policies on the split, several in one batch; their names tell which are known already."""
        prompts = self.passages(split).prompts
        missing = [name for name in policies if (split, name) not in self.runs]
        if missing and split not in self.caches:
            self.caches[split] = self.read(prompts)
        at_once = max(1, ROWS // len(prompts))
        for i in range(0, len(missing), at_once):
            self.bench.progress(f"continuing {len(prompts)} {split} passages", i / len(missing))
            names = missing[i : i + at_once]
            chosen, shown = [policies[name] for name in names], reads or self.reads
            found = replay(self.model, self.caches[split], prompts[:, -1], self.length, chosen, shown)
            self.runs.update({(split, name): run for name, run in zip(names, found, strict=True)})
        return [self.runs[split, name] for name in policies]

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
    """A method that generates text with exits per token: how to build and train, and which policy a knob means."""

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

    def all_steps(self, prepared: Prepared, knobs: Sequence[float]) -> dict[object, StepPolicy]:
        """Return the policies of all steps at each knob."""
        return {knob: self.steps(knob, prepared.length) for knob in knobs}

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train."""
        data = self.load()
        model = self.build(data, bench.seed)
        self.train(model, data, bench)
        bench.data["passages"] = data.digest
        return Prepared(model.eval(), data, bench, self.reads)

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Generate all texts of the split at every knob."""
        prepared.run(split, self.all_steps(prepared, knobs))
        return [self.point(prepared, split, knob) for knob in knobs]

    def point(self, prepared: Prepared, split: Split, knob: float) -> OperatingPoint:
        """Generate all texts of the split at one knob."""
        (run,) = prepared.run(split, self.all_steps(prepared, [knob]))
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
        runs = prepared.run(split, self.all_steps(prepared, knobs))
        return np.stack([prepared.losses(split, run) for run in runs])

    def gains(self, prepared: Prepared, curve: Curve) -> dict[str, list[float]]:
        """Return how much more of the text is kept than by decoders of 2 … L - 1 layers, at their layers and MACs.

        Between operating points of the curve (on test data) quality is interpolated.
        """
        shallow = self.shallow(prepared, "test")
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
        """Return (quality, MACs per token) of decoders cut off for good after 2 … L - 1 layers, without exits."""
        depths = range(2, prepared.model.exits)
        runs = prepared.run(split, {f"{depth} layers": always(FixedExit(depth - 1)) for depth in depths}, "state")
        macs = [prepared.costs.plain(depth, prepared.start, prepared.length).mean() for depth in depths]
        return [(float(1 - prepared.losses(split, run).mean()), float(c)) for run, c in zip(runs, macs, strict=True)]

    def oracle(self, prepared: Prepared, split: Split) -> tuple[float, float]:
        """Return (quality, mean layers) when each token leaves at the first layer that agrees with the full text."""
        wanted = prepared.full(split).tokens
        (run,) = prepared.run(split, {"oracle": lambda step: FirstRight(wanted[:, step])}, "logits")
        return float(1 - prepared.losses(split, run).mean()), float(run.exits.double().mean()) + 1

    def risk_claims(
        self, prepared: Prepared, order: Sequence[float], tolerance: float, error: float, seed: int
    ) -> list[Outcome]:
        """Calibrate the knob, tested in the given order from the safest on, and see whether the tolerance is kept."""
        held, test = self.losses(prepared, "validation", order), self.losses(prepared, "test", order)
        point = self.point(prepared, "test", order[learn_then_test(held, tolerance, error) or 0])
        missed = share_missed(np.concatenate([held, test], axis=1), tolerance, error, seed=seed)
        return [
            Outcome(
                name="the calibrated threshold keeps the tolerance",
                statement=f"The threshold proved safe on validation loses at most {tolerance:g} on test prompts.",
                holds=1 - point.quality <= tolerance,
                measured=f"loss {1 - point.quality:.3f} at {self.knob} {point.knob:g}, speed-up {point.speed_up:.2f}×",
            ),
            Outcome(
                name="the tolerance is seldom missed",
                statement=f"Calibrated on random halves, it is missed on the others at most {error:.0%} of the time.",
                holds=missed <= error,
                measured=f"missed in {missed:.1%} of 200 repetitions",
            ),
        ]

    def depth_claims(self, prepared: Prepared, curve: Curve) -> list[Outcome]:
        """Compare depth by the token with one depth for all, and ask an oracle how little depth would do."""
        found, layers = [], prepared.model.exits
        for name, gains in self.gains(prepared, curve).items():
            told = ", ".join(f"{gain:+.3f} ({i} layers)" for i, gain in enumerate(gains, start=2))
            found.append(
                Outcome(
                    name=f"better than a shallow decoder at equal {name}",
                    statement="On the mean, exits by the token keep more of the text than a decoder with fewer layers.",
                    holds=sum(gains) > 0,
                    measured=f"difference in ROUGE-L: {told}",
                )
            )
        if self.reads == "logits":
            kept, depth = self.oracle(prepared, "test")
            found.append(
                Outcome(
                    name="few layers would do",
                    statement="An oracle needs under half of the layers; copying its states hardly changes the text.",
                    holds=depth < layers / 2 and kept > 0.9,
                    measured=f"{depth:.2f} of {layers} layers per token, ROUGE-L {kept:.3f}",
                )
            )
        return found

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Really skip, on test passages: once counted from outside, then timed in turn with plain generation."""
        steps, length = self.steps(knob, prepared.length), prepared.length
        (expected,) = prepared.run("test", {knob: steps})
        prompts = prepared.passages("test").prompts[: -(-bench.executed // length)]
        expected, cache, last = expected.head(len(prompts)), prepared.read(prompts), prompts[:, -1]
        with costs.MacCounter() as counter:
            found = generate(prepared.model, cache.copy(), last, length, steps, self.reads)
        exits = expected.exits.numpy()
        seconds: dict[bool, list[float]] = {True: [], False: []}
        for ours in (True, False) * 2:
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
