"""Text generation in which every token leaves the decoder at a layer of its own (`eelit.methods.backbones.decoding`).

Quality is how much of the full model's own text is kept. The prompt is read in full before the first token is chosen;
costs are MACs per generated token, without that reading.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.backbones.decoder import ExitDecoder
from eelit.methods.backbones.decoding import Generation, Reads, StepPolicy, TokenCosts, generate
from eelit.methods.engine import chance, costs, tasks
from eelit.methods.engine.measured import point
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.passages import LanguageData, Passages
from eelit.methods.engine.records import Chance, Execution, OperatingPoint
from eelit.methods.engine.timing import devices_of, in_turn
from eelit.methods.families.generation import Writing
from eelit.methods.policies.base import Policy

if TYPE_CHECKING:
    from eelit.methods.backbones.row_cache import RowCache


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
class Prepared(Writing["RowCache"]):
    """A trained model with its passages."""

    method: GenerationMethod
    model: ExitDecoder
    data: LanguageData
    _fitted: list[Any] = field(default_factory=list)  # empty, or what `GenerationMethod.fit` returned

    rows: ClassVar[int] = 400
    doing: ClassVar[tuple[str, str]] = ("continuing", "passages")

    @cached_property
    def costs(self) -> TokenCosts:
        """The multiply-accumulates of each part of the decoder, of which costs of tokens are made."""
        return TokenCosts.of(self.model, self.method.reads)

    @property
    def length(self) -> int:
        """Tokens to generate after each prompt."""
        return self.data.validation.references.shape[1]

    @property
    def start(self) -> int:
        """Position of the prompt's last token, the first that is fed in to generate."""
        return self.data.validation.prompts.shape[1] - 1

    def passages(self, part: str) -> Passages:
        """Return as many passages of a part as make up the bench's number of samples (tokens).

        ``fitting`` is the share of the validation passages on which the method fits its rule (``fits_on``), and
        ``validation`` the rest, on which knobs are chosen. ``test`` is out of reach of what chooses.
        """
        held = self.data.validation
        fitting = round(self.method.fits_on * len(held))
        parts = {"fitting": held.head(fitting), "validation": held.after(fitting)}
        most = None if self.bench.test is None else max(1, self.bench.test // self.length)
        return (self.data.test if part == "test" else parts[part]).head(most)

    def openings(self, split: str) -> Tensor:
        """Return the prompts of the passages, where the model is."""
        return self.passages(split).prompts.to(device_of(self.model))

    def read(self, openings: Tensor) -> RowCache:
        """Read all of the prompts but their last token."""
        return self.model.read(openings[:, :-1], openings.shape[1] - 1 + self.length)

    def first(self, openings: Tensor) -> Tensor:
        """Return the prompts' last tokens."""
        return openings[:, -1]

    def losses(self, split: str, generation: Generation) -> NDArray[np.float64]:
        """Return what each text ``[N]`` loses against the full model's: 1 - ROUGE-L."""
        return 1 - rouge_l(generation.tokens.cpu().numpy(), self.full(split).tokens.cpu().numpy())

    @property
    def fitted(self) -> Any:
        """What the method's rule was fitted to, once for all knobs, without sight of the test data."""
        if not self._fitted:
            self._fitted.append(self.method.fit(self.for_choosing))
        return self._fitted[0]


class GenerationMethod(Method):
    """A method that continues prompts: how to build and train its decoder, and what its texts are compared with.

    The settings are fields of the method, where they stand beside the paper's values.
    """

    fits_on: ClassVar[float] = 0.0  # share of the validation passages that `fit` has for itself

    corpus: str
    vocabulary: int
    windows: int
    context: int
    prompt: int
    length: int
    passages: int

    @property
    def quality(self) -> str:
        """Textual consistency: how much of the full model's own text is kept."""
        return "ROUGE-L with the full model's text"

    @property
    def reads(self) -> Reads:
        """What the rule is shown after a layer: logits, if the family does not say otherwise."""
        return "logits"

    def load(self) -> LanguageData:
        """Return windows of running text, and passages of other texts to continue."""
        names = ("vocabulary", "windows", "context", "prompt", "length", "passages")
        return tasks.language(self.corpus, **{name: getattr(self, name) for name in names})

    @abstractmethod
    def build(self, data: LanguageData, seed: int) -> Any:
        """Return the untrained decoder; everything random follows the seed."""

    @abstractmethod
    def train(self, model: Any, data: LanguageData, bench: Bench) -> None:
        """Train the decoder in place (with `recipes`, which cache)."""

    def fit(self, prepared: Prepared) -> Any:
        """Return what is fitted beyond weights (a threshold, a calibration), from ``prepared.passages("fitting")``.

        It is called once for all knobs, and the share ``fits_on`` of the validation data is there for it alone. Test
        data are out of reach.
        """
        return None

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test passages."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["passages"] = data.digest
        return Prepared(self, model.eval(), data, bench)

    @abstractmethod
    def plain_cost(self, prepared: Prepared) -> float:
        """Return the mean cost per token of the full model by itself."""

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return 1 (the full model's text is its own), and the cost per token of plain greedy generation."""
        return float(1 - prepared.losses("test", prepared.full("test")).mean()), self.plain_cost(prepared)

    @torch.inference_mode()
    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return how often the commonest token comes next, and how often the full model says rightly which.

        Its quality says nothing of the model: however bad that is, it keeps its own text.
        """
        passages = prepared.passages("test")
        text = torch.cat([passages.prompts, passages.references], dim=1)
        logits = prepared.model(text[:, :-1].to(device_of(prepared.model)))[-1]
        said, true = logits.argmax(dim=-1).cpu(), text[:, 1:]
        level = chance.of_classes(true.flatten(), "tokens")
        return level.model_copy(update={"reached": float((said == true).double().mean())})


class TokenMethod(GenerationMethod):
    """A method that generates text with exits per token: which policy a knob means."""

    @property
    @abstractmethod
    def reads(self) -> Reads:
        """What the policy is shown after a layer."""

    @abstractmethod
    def policy(self, knob: float, step: int, prepared: Prepared) -> Policy:
        """Return the policy at one knob for the token number ``step`` (from 0) of ``prepared.length``.

        Test data are out of reach.
        """

    def rule(self, knob: float, prepared: Prepared) -> StepPolicy:
        """Return the policies of all steps at one knob, made without sight of the test data."""
        known = prepared.for_choosing
        return lambda step: self.policy(knob, step, known)

    def rules(self, prepared: Prepared, knobs: Sequence[float]) -> dict[object, StepPolicy]:
        """Return the policies of all steps at each knob."""
        return {knob: self.rule(knob, prepared) for knob in knobs}

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Generate all texts of the split at every knob."""
        prepared.run(split, self.rules(prepared, knobs))
        return [self.point(prepared, split, knob) for knob in knobs]

    def point(self, prepared: Prepared, split: Split, knob: float) -> OperatingPoint:
        """Generate all texts of the split at one knob."""
        (run,) = prepared.run(split, self.rules(prepared, [knob]))
        exits = run.exits.cpu().numpy()
        cost = float(prepared.costs.claimed(exits, prepared.start).mean())
        worth, full = 1 - prepared.losses(split, run), self.plain_cost(prepared)
        return point(knob, worth, exits, count=prepared.model.exits, cost=cost, full=full)

    def losses(self, prepared: Prepared, split: str, knobs: Sequence[float]) -> NDArray[np.float64]:
        """Return what every text of the split loses at each knob, ``[K, N]``, for calibration."""
        runs = prepared.run(split, self.rules(prepared, knobs))
        return np.stack([prepared.losses(split, run) for run in runs])

    def plain_cost(self, prepared: Prepared) -> float:
        """Return mean MACs per token of the full model without exits."""
        return float(prepared.costs.plain(prepared.model.exits, prepared.start, prepared.length).mean())

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Really skip, on test passages: once counted from outside, then timed in turn with plain generation."""
        steps, length, model = self.rule(knob, prepared), prepared.length, prepared.model
        (expected,) = prepared.run("test", {knob: steps})
        prompts = prepared.openings("test")[: -(-bench.executed // length)]
        expected, cache, first = expected.head(len(prompts)), prepared.read(prompts), prepared.first(prompts)

        def ours(fresh: RowCache) -> Generation:
            return generate(model, fresh, first, length, steps, self.reads)

        def plain(fresh: RowCache) -> Generation:
            return generate(model, fresh, first, length, None)

        with costs.MacCounter() as counter:
            found = ours(cache.copy())
        seconds, full_seconds = in_turn(
            ours, plain, [cache], bench.repeats, devices_of(model), lambda held: held.copy()
        )
        exits = expected.exits.cpu().numpy()
        return Execution(
            knob=knob,
            samples=exits.size,
            claimed=float(prepared.costs.claimed(exits, prepared.start).sum()),
            counted=counter.macs,
            agrees=found.agrees(expected),
            seconds=seconds,
            full_seconds=full_seconds,
            not_finite=int(found.not_finite.sum()),
        )
