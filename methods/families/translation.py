"""Translation in which every token leaves the decoder at a block of its own (`eelit.methods.backbones.translator`).

Quality is BLEU with the references. The source is read in full before the first token is chosen: the encoder, the keys
and values that all blocks compute from its outputs, and whatever is predicted from the source as a whole. Costs are
MACs per token, the end of a sentence included, without that reading. A block that is skipped for a token computes keys
and values from its copied state (`eelit.methods.backbones.decoding`).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from torch import Tensor

from eelit.methods.backbones.decoding import Ending, Generation, Reads, StepPolicy, TokenCosts, always, generate, replay
from eelit.methods.backbones.translator import SourceCache, Translator
from eelit.methods.engine import chance, costs, measured, tasks
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench, Method, Split
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.records import Baseline, Chance, Execution, ExitFacts, OperatingPoint
from eelit.methods.engine.timing import devices_of, in_turn
from eelit.methods.engine.translations import BEGIN, END, PAD, TranslationData, shifted, trimmed
from eelit.methods.policies.base import Policy
from eelit.methods.policies.fixed_exit import FixedExit

ROWS = 800
"""Sentences that are replayed in one batch, if a split has so few that several knobs fit."""
ENDING = Ending((END,), PAD)
X = TypeVar("X")


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Return the corpus BLEU of texts with one reference each, from 0 to 100: 4-grams, tokens of the standard 13a."""
    return float(BLEU().corpus_score(list(texts), [list(references)]).score)


class Matches:
    """What BLEU counts in each text with its reference ``[N, 10]``, so that it can be had of any choice of texts.

    The lengths of both, the sequences of one to four words that both have, and those that the text has.
    """

    def __init__(self, texts: Sequence[str], references: Sequence[str]) -> None:
        single = BLEU(effective_order=True)  # which changes scores of single texts, and no count
        found = [single.sentence_score(text, [known]) for text, known in zip(texts, references, strict=True)]
        self.counts = np.array([[x.sys_len, x.ref_len, *x.counts, *x.totals] for x in found], dtype=np.int64)

    def score(self, times: NDArray[np.int64] | None = None) -> float:
        """Return the corpus BLEU, from 0 to 100, of the texts, each taken so many ``times [N]``, or once."""
        said, known, *rest = (self.counts.sum(axis=0) if times is None else times @ self.counts).tolist()
        return float(BLEU.compute_bleu(rest[:4], rest[4:], said, known, smooth_method="exp").score)


@dataclass
class Prepared:
    """A trained model with its sentences; translations are made once, when first asked for."""

    method: Translates
    model: Translator
    data: TranslationData
    bench: Bench
    runs: dict[tuple[str, object], Generation] = field(default_factory=dict)
    caches: dict[str, SourceCache] = field(default_factory=dict)  # split → its sources, read
    tables: dict[str, TokenCosts] = field(default_factory=dict)

    @property
    def length(self) -> int:
        """Tokens that a translation has at most: as many as the longest reference for training."""
        return self.data.train.targets.shape[1]

    def examples(self, split: Split) -> Examples:
        """Return the split, up to the bench's limit; the test split is out of reach of what chooses."""
        return self.data.part(split).head(self.bench.test)

    def sources(self, split: Split) -> Tensor:
        """Return the sources ``[N, s]`` of the split, where the model is."""
        return torch.stack(list(self.examples(split).inputs)).to(device_of(self.model))

    def begin(self, sources: Tensor) -> Tensor:
        """Return the token ``[N]`` that every translation starts from."""
        return torch.full_like(sources[:, 0], BEGIN)

    def costs(self, split: Split) -> TokenCosts:
        """Return the cost table; sources of a split are padded to one length, and padding is attended to as well."""
        if split not in self.tables:
            cache = self.model.read(self.sources(split)[:1], 3)
            self.tables[split] = TokenCosts.behind(self.model, cache, self.method.reads)
        return self.tables[split]

    def run(self, split: Split, policies: Mapping[object, StepPolicy], reads: Reads | None = None) -> list[Generation]:
        """Replay policies on the split, several in one batch; their names tell which are known already."""
        sources = self.sources(split)
        missing = [name for name in policies if (split, name) not in self.runs]
        if missing and split not in self.caches:
            self.caches[split] = self.model.read(sources, self.length)
        at_once = max(1, ROWS // len(sources))
        for i in range(0, len(missing), at_once):
            self.bench.progress(f"translating {len(sources)} {split} sentences", i / len(missing))
            names = missing[i : i + at_once]
            chosen, shown = [policies[name] for name in names], reads or self.method.reads
            begin, cache = self.begin(sources), self.caches[split]
            found = replay(self.model, cache, begin, self.length, chosen, shown, ENDING)
            self.runs.update({(split, name): run for name, run in zip(names, found, strict=True)})
        return [self.runs[split, name] for name in policies]

    def full(self, split: Split) -> Generation:
        """Return plain greedy translations of the split."""
        sources = self.sources(split)
        if (split, "full") not in self.runs:
            begin, cache = self.begin(sources), self.model.read(sources, self.length)
            self.runs[split, "full"] = generate(self.model, cache, begin, self.length, None, ending=ENDING)
        return self.runs[split, "full"]

    def fixed(self, split: Split) -> list[Generation]:
        """Return the translations of the split with every token leaving at block 1, at block 2 … at the last."""
        exits = range(self.model.exits)
        return self.run(split, {f"block {i + 1}": always(FixedExit(i)) for i in exits}, "state")

    def quality(self, split: Split, run: Generation) -> float:
        """Return the BLEU of translations of the split with its references."""
        references = self.examples(split).targets[: len(run.tokens)]
        return bleu(self.data.spelt(run.tokens), self.data.spelt(references))

    def matches(self, split: Split, run: Generation) -> Matches:
        """Return what BLEU counts in translations of the split."""
        return Matches(self.data.spelt(run.tokens), self.data.spelt(self.examples(split).targets[: len(run.tokens)]))

    @property
    def for_choosing(self) -> Prepared:
        """The same with the test data out of reach: all that a policy may be made from."""
        return replace(self, data=self.data.without_test())


class Translates(Method):
    """A method that translates: how to build and train, and what the whole network is worth and costs."""

    @property
    def quality(self) -> str:
        """BLEU with one reference."""
        return "BLEU"

    @property
    def reads(self) -> Reads:
        """What a policy is shown after a block, if there is one."""
        return "state"

    @abstractmethod
    def load(self) -> TranslationData:
        """Return the data of the experiment."""

    @abstractmethod
    def build(self, data: TranslationData, seed: int) -> Translator:
        """Return the untrained network; everything random follows the seed."""

    @abstractmethod
    def train(self, model: Translator, data: TranslationData, bench: Bench) -> None:
        """Train the network in place (with `recipes`, which cache)."""

    def prepare(self, bench: Bench) -> Prepared:
        """Load the data, build and train; neither sees the test sentences."""
        data = self.load()
        known = data.without_test()
        model = self.build(known, bench.seed)
        self.train(model, known, bench)
        bench.data["sentences"] = data.digest
        return Prepared(self, model.eval(), data, bench)

    def plain_cost(self, prepared: Prepared, split: Split) -> float:
        """Return mean MACs per token of the full model, without exits, on its own translations."""
        return cut_cost(prepared, split, prepared.full(split), prepared.model.exits)

    def full_model(self, prepared: Prepared, bench: Bench) -> tuple[float, float]:
        """Return the BLEU of plain greedy translation, and its MACs per token."""
        return prepared.quality("test", prepared.full("test")), self.plain_cost(prepared, "test")

    @torch.inference_mode()
    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return how often the commonest token comes next, and how often the full model says rightly which.

        BLEU has no such level: one sentence said of all sources has hardly any 4-gram of the references.
        """
        references = trimmed(prepared.examples("test").targets)
        states = prepared.model.states(prepared.sources("test"), shifted(references).to(device_of(prepared.model)))
        said, words = prepared.model.head(states[-1]).argmax(dim=-1).cpu(), references != PAD
        level = chance.of_classes(references[words], "tokens")
        return level.model_copy(update={"reached": float((said == references)[words].double().mean())})


class SpokenWords(Translates):
    """A method that translates words into how they are spoken, by an encoder-decoder as its settings say."""

    corpus: str
    train_size: int
    longest: int  # letters of a word
    encoders: int  # blocks of the encoder
    blocks: int  # of the decoder
    width: int
    heads: int
    inner: int
    dropout: float

    def load(self) -> TranslationData:
        """Words and how they are spoken."""
        return tasks.translation(self.corpus, train=self.train_size, longest=self.longest)

    def build(self, data: TranslationData, seed: int) -> Translator:
        """Return an untrained encoder-decoder."""
        layout = ("encoders", "blocks", "width", "heads", "inner", "dropout")
        sizes: dict[str, Any] = {name: getattr(self, name) for name in layout}
        return Translator(vocabulary=data.vocabulary, **sizes, reach=8 * self.longest, seed=seed)


class TranslationMethod(Translates):
    """A method with exits per token: which policy a knob means."""

    @property
    @abstractmethod
    def reads(self) -> Reads:
        """What the policy is shown after a block."""

    @abstractmethod
    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """Return the policy at one knob, of every token. Test data are out of reach."""

    def rule(self, knob: float, prepared: Prepared) -> StepPolicy:
        """Return the policy of all tokens at one knob, made without sight of the test data."""
        return always(self.policy(knob, prepared.for_choosing))

    def sweep(self, prepared: Prepared, bench: Bench, split: Split, knobs: Sequence[float]) -> list[OperatingPoint]:
        """Translate the split at every knob."""
        runs = prepared.run(split, {knob: self.rule(knob, prepared) for knob in knobs})
        table, plain, found = prepared.costs(split), self.plain_cost(prepared, split), []
        for knob, run in zip(knobs, runs, strict=True):
            exits = run.exits.cpu().numpy()
            cost = float(table.claimed(exits, 0).sum() / (exits >= 0).sum())
            found.append(point(prepared, split, knob, run, cost, plain))
        return found

    def baselines(self, prepared: Prepared, bench: Bench) -> list[Baseline]:
        """Return what the same decoder does when it is cut off for good after each block but the last."""
        found = {}
        for split in ("validation", "test"):
            plain = self.plain_cost(prepared, split)
            runs = enumerate(prepared.fixed(split)[:-1], start=1)
            found[split] = [
                point(prepared, split, depth, run, cut_cost(prepared, split, run, depth), plain) for depth, run in runs
            ]
        return [Baseline(name="one depth for all", **found)]

    def each_exit(self, prepared: Prepared, bench: Bench) -> tuple[list[ExitFacts], float | None]:
        """Return what the decoder cut off after each block does on test data."""
        found = [
            ExitFacts(quality=prepared.quality("test", run), cost=cut_cost(prepared, "test", run, depth))
            for depth, run in enumerate(prepared.fixed("test"), start=1)
        ]
        return found, None

    def execute(self, prepared: Prepared, bench: Bench, knob: float) -> Execution:
        """Really skip, on test sentences: once counted from outside, then timed in turn with plain translation."""
        steps, length, model = self.rule(knob, prepared), prepared.length, prepared.model
        (expected,) = prepared.run("test", {knob: steps})
        sources = prepared.sources("test")[: -(-bench.executed // length)]
        begin, cache, expected = prepared.begin(sources), model.read(sources, length), expected.head(len(sources))

        def ours(opened: SourceCache) -> Generation:
            return generate(model, opened.copy(), begin, length, steps, self.reads, ENDING)

        def plain(opened: SourceCache) -> Generation:
            return generate(model, opened.copy(), begin, length, None, ending=ENDING)

        claimed = float(prepared.costs("test").claimed(expected.exits.cpu().numpy(), 0).sum())
        return executed(knob, expected, claimed, ours, plain, cache, bench.repeats, devices_of(model))


def executed(
    knob: float,
    expected: Generation,
    claimed: float,
    ours: Callable[[X], Generation],
    plain: Callable[[X], Generation],
    opened: X,
    repeats: int,
    devices: Collection[torch.device],
) -> Execution:
    """Translate in our way, counted from outside, then in turn with the plain one, timed.

    Both start from copies of what is known once the sources were read, ``opened``; to copy it is timed with both.
    """
    with costs.MacCounter() as counter:
        found = ours(opened)
    seconds, full_seconds = in_turn(ours, plain, [opened], repeats, devices)
    return Execution(
        knob=knob,
        samples=int((expected.exits >= 0).sum()),
        claimed=claimed,
        counted=counter.macs,
        agrees=all(
            torch.equal(getattr(found, part), getattr(expected, part)) for part in ("tokens", "exits", "not_finite")
        ),
        seconds=seconds,
        full_seconds=full_seconds,
        not_finite=int(found.not_finite.sum()),
    )


def point(prepared: Prepared, split: Split, knob: float, run: Generation, cost: float, plain: float) -> OperatingPoint:
    """Return what translations of a split are worth, given what they and the full model's cost per token."""
    exits: NDArray[np.int64] = run.exits.cpu().numpy()
    quality = prepared.quality(split, run)  # of the whole corpus: BLEU is no mean over sentences
    return measured.point(knob, quality, exits[exits >= 0], count=prepared.model.exits, cost=cost, full=plain)


def cut_cost(prepared: Prepared, split: Split, run: Generation, depth: int) -> float:
    """Return mean MACs per token of translations by a decoder of so many blocks, without exits."""
    said = run.exits.cpu().numpy() >= 0
    return float((said * prepared.costs(split).plain(depth, 0, prepared.length)).sum() / said.sum())
