"""Speculative Decoding with Big Little Decoder (BiLD).

Idea
    A small decoder writes most words of a text as well as a large one. So let the small one write, and hand over to the
    large one where it is not confident. The large one reads in one parallel pass what was written since its last turn;
    a word that it considers very unlikely is discarded together with all words after it. Two thresholds trade quality
    for speed.

Model
    Two decoders over the same vocabulary: S, small, and B, big, each with keys and values of its own. The paper:
    T5-small and T5-large, mT5-small and mT5-large.

Training
    Each by itself: cross-entropy of the next token. Then S learns on, by cross-entropy, from what comes after prompts
    of training texts: in "aligned" (prediction alignment) what B writes there, greedily; in "unaligned" the true text.

Exit rule
    Fallback: p = p_S(. | y_1 … y_n); S writes argmax p if max p >= alpha_FB. Where max p < alpha_FB, strictly, or after
    n_max = 10 tokens in a row, B takes over. The first token is always B's.
    Rollback: in its turn B reads all tokens since its last turn in one pass, with d_i = -ln p_B(y_i | y_1 … y_{i-1}).
    At the first i with d_i > alpha_RB, strictly, where argmax p_B is not y_i itself, y_i and all tokens after it are
    deleted from the text and from both caches, and B writes argmax p_B there. Otherwise it writes the next token. Then
    S goes on. With alpha_FB > 1, B writes alone.
    The paper's (alpha_RB, alpha_FB) on IWSLT 2017 are (2, 0.6) and (3, 0.5), aligned (3, 0.9) and (4, 0.6).

Skipped
    Passes of B: one for each of its turns, however many tokens it reads. Tokens of S that are deleted, and steps at
    which it falls back, are paid for.

Deviations
    1. B is a decoder of 6 Llama layers, 128 wide (1.3 million weights), S one of 2 layers, 64 wide (0.1 million),
       trained from scratch by Muon and AdamW on 4,800 windows of 64 tokens of the Brown corpus (vocabulary 512), not
       pretrained T5 on two translation and two summarisation sets.
    2. Decoder only: the prompt stands where the encoders' input stood. Both read it, and that is not counted.
    3. All texts have 16 tokens, the end of a text being a token like any other, and quality is how much of B's own text
       is kept: an open continuation has no reference that models of this size would meet. Beside it stands how many
       bits per token the true texts take at each knob, which says whether B is worth keeping: the tokens so far are the
       true ones, and B is taken to read all of them.
    4. Cost is weights read (see `families.speculative`), since what the paper gains is time at batch size 1.
    5. alpha_FB is mostly lower than the paper's: such models are seldom confident of the next token. alpha_RB is 2, of
       the paper's 2 to 6 the best on validation texts. In "unaligned" a validation text has 2.5 rollbacks at alpha_FB =
       0, 2.0 at 0.1, 0.19 at 0.2 and 0.015 at 0.3, so nothing is said of rollback at 0.25 and above.
    6. The paper rolls back from the first i with d_i > alpha_RB whatever B would write there; where that is y_i again,
       the tokens after it are discarded for nothing, so here such a token is skipped and the next is checked. The
       setting ``released`` follows the released loop, which in this case checks no later token in the turn either, and
       which after a rollback lets B write one more token in a separate pass.
    7. A text may end before B has read the last tokens, as in the released code, unless ``verified`` is set. In that
       code a threshold of 0 also counts as not given, and becomes 0.6 or 5; here 0 is 0.
    8. Alignment takes 800 training windows once, with AdamW; the paper's calibration texts were not released, and how
       long it trained was read in a reproduction alone (500,000 steps). "unaligned" learns on from the true texts of
       the same windows for as many steps, which the paper's unaligned models do not: so alignment is compared at equal
       data and steps.
    9. Outputs of S that are not finite are never trusted. Where B's outputs are not finite nothing can be rolled back;
       the affected tokens, read or written, are reported.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones.decoder import ExitDecoder, small_decoder
from eelit.methods.backbones.decoding import generate
from eelit.methods.backbones.own_forward import HIDDEN
from eelit.methods.backbones.row_cache import RowCache
from eelit.methods.engine.examples import Examples
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.passages import LanguageData
from eelit.methods.engine.weights import trained
from eelit.methods.families.speculative import PassCosts, SpeculativeMethod, Texts, true_states
from eelit.methods.families.tokens import Prepared
from eelit.methods.policies.base import exact, finite, softmax
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.language import train_language


class Pair(nn.Module):
    """The large and the small decoder."""

    def __init__(self, large: ExitDecoder, small: ExitDecoder) -> None:
        super().__init__()
        self.large, self.small = large, small


@dataclass(frozen=True)
class Rules:
    """All that decides but alpha_FB."""

    rollback: float  # alpha_RB
    in_a_row: int  # n_max
    released: bool = False
    verified: bool = False


def sure(logits: Tensor, fallback: Tensor | float) -> Tensor:
    """Return for which logits ``[n, V]`` the small model writes its token; never for what is not finite."""
    written: Tensor = exact(softmax(logits).max(dim=-1).values) >= fallback
    return written


def unlikely(logits: Tensor, tokens: Tensor, rollback: float) -> tuple[Tensor, Tensor]:
    """Return by the large model's logits ``[n, V]`` of which tokens ``[n]`` d > alpha_RB, and which are not its own."""
    lost = F.cross_entropy(logits.double(), tokens, reduction="none")
    return lost > rollback, logits.argmax(dim=-1) != tokens


def first_wrong(logits: Tensor, tokens: Tensor, rules: Rules) -> int | None:
    """Return the first of tokens ``[k]`` that is to be rolled back; None if none is."""
    over, differs = unlikely(logits, tokens, rules.rollback)
    wrong = (over if rules.released else over & differs).nonzero().flatten()
    return int(wrong[0]) if len(wrong) and differs[wrong[0]] else None


def taken_over(small: Tensor, large: Tensor, fallback: float, rules: Rules) -> Tensor:
    """Return by logits ``[N, T, V]`` of both models on given texts whether each token ``[N, T]`` is the large one's."""
    said = small.argmax(dim=-1)
    over, differs = (each.view_as(said) for each in unlikely(large.flatten(0, 1), said.flatten(), rules.rollback))
    written = sure(small.flatten(0, 1), fallback).view_as(said) & ~(over & differs)
    taken, pending = torch.ones_like(written), torch.zeros_like(said[:, 0])
    for t in range(1, said.shape[1]):  # the first token is the large model's
        own = written[:, t] & (pending < rules.in_a_row)
        pending = torch.where(own, pending + 1, 0)
        taken[:, t] = ~own
    return taken


class KnowsText(Protocol):
    """One of the models with what it knows of a text."""

    def read(self, text: Tensor) -> Tensor:
        """Read on to the end of the text ``[n]``; return logits ``[k, V]`` behind each token that it had not read."""
        ...

    def forget(self, kept: int) -> None:
        """Forget all behind the first ``kept`` tokens of the text."""
        ...


def in_one_pass(model: ExitDecoder, ids: Tensor, cache: RowCache) -> Tensor:
    """Read tokens ``[n, k]`` on, at the cache's rows; return the logits ``[n, k, V]`` behind each."""
    state = model.start(ids, cache)
    for i in range(model.exits):
        state = model.layer(i, state, cache)
    cache.advance(ids)
    return model.head(state[HIDDEN])


class Reader(KnowsText):
    """A decoder with its cache, which holds all that is before the text."""

    def __init__(self, model: ExitDecoder, cache: RowCache) -> None:
        self.model, self.cache, self.start = model, cache, cache.position

    def read(self, text: Tensor) -> Tensor:
        """Read the tokens that are not yet cached in one pass; return the logits ``[k, V]`` behind each."""
        return in_one_pass(self.model, text[None, self.cache.position - self.start :], self.cache)[0]

    def forget(self, kept: int) -> None:
        """Drop all cached keys and values behind the first ``kept`` tokens of the text."""
        self.cache.rewind(min(self.cache.position, self.start + kept))


@torch.inference_mode()
def write_together(
    large: KnowsText, small: KnowsText, last: Tensor, length: int, fallback: float, rules: Rules
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a text behind ``last [1]``: tokens ``[T]``, whose they are (1: the large model's), what is not finite."""
    text = torch.cat([last, last.new_zeros(length)])  # the token before it, then its own
    exits, flawed = last.new_zeros(length), torch.zeros_like(text[1:], dtype=torch.bool)
    n, pending, again = 0, 0, True  # tokens, those of the small model since the large one's turn, whether that is next
    while n < length or (rules.verified and pending):
        if n < length:
            flawed[n] = False
            if not again and pending < rules.in_a_row:
                said = small.read(text[: n + 1])[-1:]
                flawed[n] = ~finite(said)[0]
                if sure(said, fallback)[0]:
                    n, pending = n + 1, pending + 1
                    text[n], exits[n - 1] = said.argmax(), 0
                    continue
        said = large.read(text[: n + 1])[-1 - pending :]
        flawed[n - pending : n] |= ~finite(said[:-1])
        wrong = first_wrong(said[:-1], text[n + 1 - pending : n + 1], rules)
        again = wrong is not None and rules.released
        if wrong is not None:
            n += wrong - pending
            large.forget(n + 1)
            small.forget(n + 1)
            flawed[n], said = False, said[: wrong + 1]
        if n < length:
            flawed[n] |= ~finite(said[-1:])[0]
            n += 1
            text[n], exits[n - 1] = said[-1].argmax(), 1
        pending = 0
    return text[1:], exits, flawed


@dataclass(frozen=True)
class Written(Texts):
    """Texts with the passes of the small and the large model ``[N, 2]``, and how often one was rolled back ``[N]``."""

    passes: Tensor
    rolled: Tensor


class InStep:
    """Many texts in step, token by token, by the definition: both models read every token.

    Whether a token of the small model will be rolled back is known as it is written, as the large model's distribution
    is at hand. What the small model would still write behind it, in vain, is followed apart (`vain`).
    """

    def __init__(self, pair: Pair, caches: tuple[RowCache, RowCache], last: Tensor, length: int, rules: Rules) -> None:
        self.pair, (self.large, self.small), self.last, self.rules = pair, caches, last, rules
        self.length, nothing = length, torch.zeros_like(last)
        self.tokens, self.exits = last.new_zeros(len(last), length), last.new_zeros(len(last), length)
        self.flawed = torch.zeros_like(self.tokens, dtype=torch.bool)
        self.doubtful = self.flawed.clone()  # tokens of which the large model will say what is not finite
        self.pending, self.rolled, self.passes = nothing.clone(), nothing.clone(), last.new_zeros(len(last), 2)
        self.again, self.passed, self.done = nothing == 0, nothing > 0, nothing > 0

    def step(self, t: int, fallback: Tensor) -> None:
        """Write token ``t`` of all texts that have not come to their end."""
        said = in_one_pass(self.pair.small, self.last[:, None], self.small)[:, 0]
        full = in_one_pass(self.pair.large, self.last[:, None], self.large)[:, 0]
        asked = ~self.done & ~self.again & (self.pending < self.rules.in_a_row)
        own = asked & sure(said, fallback)
        turn = ~self.done & ~own
        token, better = said.argmax(dim=-1), full.argmax(dim=-1)
        over, differs = unlikely(full, token, self.rules.rollback)
        over &= own & ~self.passed
        wrong = over & differs
        if self.rules.released:
            self.passed |= over & ~differs
        self.passes += torch.stack([asked, turn], dim=1).long()
        self.flawed[:, t] = torch.where(self.done, self.flawed[:, t], asked & ~finite(said) | turn & ~finite(full))
        self.tokens[:, t] = torch.where(self.done, self.tokens[:, t], torch.where(own, token, better))
        self.exits[:, t] = torch.where(self.done, self.exits[:, t], turn.long())
        self.doubtful[:, t] = own & ~finite(full)
        self.checked(turn)
        self.pending = torch.where(own, self.pending + 1, 0)
        self.passed &= own
        self.again = torch.zeros_like(self.again)
        rows = wrong.nonzero().flatten()
        if len(rows):
            self.vain(t, rows, better, fallback)
        self.last = self.tokens[:, t]

    def checked(self, rows: Tensor) -> None:
        """Tell of the tokens of rows ``[n]`` or ``[N]`` that the large model reads in its turn."""
        self.flawed[rows] |= self.doubtful[rows]
        self.doubtful[rows] = False

    def vain(self, t: int, rows: Tensor, better: Tensor, fallback: Tensor) -> None:
        """Follow the small model behind token ``t`` of some rows, until the large model's turn or the text's end."""
        cache, ids, count = self.small.copy(), self.tokens[rows, t], self.pending[rows].clone()
        going, taken = torch.ones_like(rows, dtype=torch.bool), []
        for _ in range(t + 1, self.length):
            going = going & (count < self.rules.in_a_row)
            cache.rows = rows
            said = in_one_pass(self.pair.small, ids[:, None], cache)[:, 0]
            self.passes[rows, 0] += going.long()
            going = going & sure(said, fallback[rows])
            ids, count = said.argmax(dim=-1), count + 1
            taken.append(ids)
            if not going.any():
                break
        rolled = torch.ones_like(going) if self.rules.verified else ~going
        back, ended = rows[rolled], rows[~rolled]
        self.tokens[back, t], self.exits[back, t], self.pending[back] = better[back], 1, 0
        self.checked(back)
        self.passes[back, 1] += 1
        self.rolled[back] += 1
        self.again[back] = self.rules.released
        self.done[ended] = True
        if len(ended) and taken:
            self.tokens[ended, t + 1 :] = torch.stack(taken, dim=1)[~rolled]


@torch.inference_mode()
def follow(
    pair: Pair, caches: tuple[RowCache, RowCache], last: Tensor, length: int, knobs: Sequence[float], rules: Rules
) -> list[tuple[Tensor, ...]]:
    """Write texts behind ``last [N]`` at each alpha_FB; the caches stay as they were.

    Of each: tokens, exits and what is not finite ``[N, T]``, passes ``[N, 2]`` and rollbacks ``[N]``.
    """
    large, small = (cache.copy(len(knobs)) for cache in caches)
    course = InStep(pair, (large, small), last.repeat(len(knobs)), length, rules)
    fallback = torch.tensor(knobs, dtype=torch.float64, device=last.device).repeat_interleave(len(last))
    for t in range(length):
        course.step(t, fallback)
    if rules.verified:
        course.checked(course.pending > 0)
        course.passes[:, 1] += (course.pending > 0).long()
    parts = (course.tokens, course.exits, course.flawed, course.passes, course.rolled)
    return list(zip(*(part.split(len(last)) for part in parts), strict=True))


@dataclass
class PreparedPair(Prepared):
    """A large decoder, whose texts are wanted, and the small one with the same prompts."""

    small: Prepared = field(kw_only=True)

    @property
    def for_choosing(self) -> Self:
        """The same with the test data out of reach."""
        return replace(super().for_choosing, small=self.small.for_choosing)


def next_token_loss(model: ExitDecoder, x: Tensor, y: Tensor) -> Tensor:
    """Return the cross-entropy of the last layer's logits."""
    return F.cross_entropy(model.head(model.states(x)[-1]).flatten(0, 1), y.flatten())


def as_they_are(windows: Sequence[Tensor]) -> Examples:
    """Return windows with their true continuations."""
    return Examples(list(windows), torch.zeros(len(windows)))


def continued(large: ExitDecoder, windows: Sequence[Tensor], prompt: int) -> Examples:
    """Return windows of which the large model has written, greedily, all but the first ``prompt`` tokens."""
    texts = torch.stack(list(windows)).to(next(large.parameters()).device)
    found = []
    for part in texts.split(Prepared.rows):
        cache = large.read(part[:, : prompt - 1], part.shape[1])
        written = generate(large, cache, part[:, prompt - 1], part.shape[1] - prompt, None).tokens
        found.append(torch.cat([part[:, :prompt], written], dim=1).cpu())
    return Examples(list(torch.cat(found).clone()), torch.zeros(len(texts)))


def learn_on(
    small: ExitDecoder,
    targets: Examples,
    bench: Bench,
    data: str,
    *,
    prompt: int,
    rate: float,
    batch: int,
    aligned: bool,
) -> None:
    """Let the small model learn on from what stands behind prompts, written by the large one if ``aligned``."""

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        logits = small.head(small.states(x[:, :-1])[-1][:, prompt - 1 :])
        return F.cross_entropy(logits.flatten(0, 1), x[:, prompt:].flatten())

    def train() -> None:
        small.train()
        fit(
            small.language_model.parameters(), targets, loss, bench,
            label="aligning the small decoder" if aligned else "training the small decoder on",
            epochs=1, batch=batch, rate=rate,
        )  # fmt: skip

    trained(small, train, bench, data=data, settings={"prompt": prompt, "rate": rate, "batch": batch})
    small.eval()


@dataclass(frozen=True)
class Bild(SpeculativeMethod):
    """A small decoder that writes, and a large one that corrects it."""

    rollback: float = 2.0  # alpha_RB; the paper: 2 to 6, by data set
    in_a_row: int = 10  # n_max: tokens that S writes in a row at most; the released code: 10
    aligned: bool = False  # whether S learns on from B's continuations, else from the true ones for as many steps
    released: bool = False  # whether to check and to go on after a rollback as the released loop does
    verified: bool = False  # whether the large model reads the end of a text; the released code: no
    corpus: str = "brown"  # data; the paper: IWSLT 2017, WMT 2014, XSUM, CNN/DailyMail
    vocabulary: int = 512  # byte-pair tokens; T5: 32,000
    layers: int = 6  # of B; T5-large: 24
    width: int = 128  # of B; T5-large: 1,024
    small_layers: int = 2  # of S; T5-small: 6
    small_width: int = 64  # of S; T5-small: 512
    windows: int = 4800  # training windows
    context: int = 64  # tokens in each
    prompt: int = 32  # tokens to be continued
    length: int = 16  # generated tokens
    passages: int = 400  # at most, in validation and in test
    batch: int = 8  # windows
    rate: float = 5e-3  # of Muon
    other_rate: float = 4e-3  # of AdamW
    align_windows: int = 800  # training windows from whose continuations S learns on
    align_rate: float = 1e-3  # of AdamW, for that

    data: ClassVar[tuple[str, ...]] = ("brown",)
    knob: ClassVar[str] = "fallback threshold"
    knobs: ClassVar[tuple[float, ...]] = (0, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 0.75, 0.9, 1.1)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"unaligned": {}, "aligned": {"aligned": True}}
    exempt: ClassVar[Mapping[str, str]] = {
        "eager_is_the_first_exit": "the large model writes the first token and takes over after ten, whatever the knob",
        "aligned: cost_is_monotone": "a bolder small model is rolled back more often, which costs passes of both",
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "vocabulary": 32, "layers": 2, "width": 40, "small_layers": 1, "small_width": 16,
        "windows": 280, "context": 24, "batch": 8, "rate": 1e-2, "other_rate": 8e-3, "prompt": 8, "length": 6,
        "passages": 24, "in_a_row": 4, "rollback": 1.0, "align_windows": 80,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "width": 32, "small_width": 24, "passages": 5, "in_a_row": 2, "rollback": 3.0, "align_windows": 40,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "vocabulary": 300, "layers": 4, "width": 96, "small_layers": 1, "small_width": 48, "windows": 1600,
        "context": 32, "prompt": 16, "length": 8, "batch": 16, "rate": 1e-2, "other_rate": 8e-3, "align_windows": 320,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"windows": 24000, "align_windows": 4800}

    def build(self, data: LanguageData, seed: int) -> Pair:
        """Both decoders. Raises `ValueError` for thresholds and turns that mean nothing."""
        if math.isnan(self.rollback) or self.rollback < 0 or self.in_a_row < 1:
            raise ValueError(f"alpha_RB is at least 0 and n_max at least 1, not {self.rollback:g} and {self.in_a_row}")
        reach = max(self.context + 1, self.prompt + self.length)
        large, small = (
            small_decoder(
                vocabulary=data.vocabulary, layers=layers, width=width, heads=4, inner=3 * width, reach=reach, seed=seed
            )
            for layers, width in ((self.layers, self.width), (self.small_layers, self.small_width))
        )
        return Pair(large, small)

    def train(self, model: Pair, data: LanguageData, bench: Bench) -> None:
        """Each by itself; then the small one on continuations, those of the large one if it is to be aligned."""
        for name, each in (("large", model.large), ("small", model.small)):
            train_language(
                each, data, bench, next_token_loss, label=f"training the {name} decoder", rate=self.rate,
                other_rate=self.other_rate, batch=self.batch, settings={},
            )  # fmt: skip
        windows = data.train.inputs[: self.align_windows]
        learn_on(
            model.small, continued(model.large, windows, self.prompt) if self.aligned else as_they_are(windows), bench,
            data.digest, prompt=self.prompt, rate=self.align_rate, batch=self.batch, aligned=self.aligned,
        )  # fmt: skip

    def prepare(self, bench: Bench) -> PreparedPair:
        """Load the data, build and train; neither sees the test passages."""
        data = self.load()
        known = data.without_test()
        pair = self.build(known, bench.seed)
        self.train(pair, known, bench)
        bench.data["passages"] = data.digest
        large, small = pair.large.eval(), Prepared(self, pair.small.eval(), data, bench)
        return PreparedPair(self, large, data, bench, small=small)

    @property
    def rules(self) -> Rules:
        """All that decides but the knob."""
        return Rules(self.rollback, self.in_a_row, self.released, self.verified)

    def replay(self, prepared: PreparedPair, split: Split, knobs: Sequence[float]) -> list[Texts]:
        """All texts in step, and the weights that their passes read."""
        large, small = self.readers(prepared)
        first, caches = large.first(large.openings(split)), (large.opened(split), small.opened(split))
        pair = Pair(large.model, small.model)
        each, found = torch.tensor([PassCosts.of(small.model).full, PassCosts.of(large.model).full]), list[Texts]()
        for some in prepared.batches(split, knobs):
            for tokens, exits, flawed, passes, rolled in follow(pair, caches, first, large.length, some, self.rules):
                found.append(Written(tokens, exits, flawed, (passes.cpu() * each).sum(dim=1), passes, rolled))
        return found

    def ends(self, prepared: PreparedPair, split: Split) -> tuple[Tensor, Tensor]:
        """What S and B predict."""
        large, small = (each.model.head(true_states(each, each.model, split)[-1]) for each in self.readers(prepared))
        return small, large

    def asked(self, prepared: PreparedPair, split: Split, knob: float, cheap: Tensor, costly: Tensor) -> Tensor:
        """Where B takes over, or would roll back what S writes: a true text goes on, so B reads all of it."""
        return taken_over(cheap, costly, knob, self.rules)

    def readers(self, prepared: PreparedPair) -> list[Prepared]:
        """Return the large model, then the small one."""
        return [prepared, prepared.small]

    def write(
        self, prepared: PreparedPair, opened: Sequence[tuple[RowCache, ...]], first: Tensor, knob: float
    ) -> Texts:
        """Text by text, each model reading what it has not read."""
        models = [each.model for each in self.readers(prepared)]
        found = []
        for caches, last in zip(opened, first.split(1), strict=True):
            large, small = (Reader(model, cache) for model, cache in zip(models, caches, strict=True))
            found.append(write_together(large, small, last, prepared.length, knob, self.rules))
        return Texts.of(found)
