"""Fast and Robust Early-Exiting Framework for Autoregressive Language Models (FREE).

Idea
    When a token leaves a decoder early, the deeper layers lack its keys and values, and copies of its shallow state are
    a poor substitute. FREE has one exit. Tokens that left there wait, and the next token that needs all layers takes
    them along in one parallel pass, so all keys and values are exact. At no extra cost, that pass also gives deep
    predictions for the waiting tokens. They show where the shallow part is right, and the threshold is estimated from
    them while the system runs.

Model
    A decoder with L layers; h_t^i is the state of token t after layer i and the final norm. The shallow part is the
    first L_S layers, the deep part all of them, through the one output head: p_S = softmax(W h^{L_S}) and p_D =
    softmax(W h^L). The paper: L_S = 6 of 24, and 8 of 24 for T5-3B.

Training
    L = (L_S CE_S + L_D CE_D) / (L_S + L_D) + a L_KD with L_D = L and a = 0.5. L_KD is the mean, over teacher layers j
    that stand at L / L_S, 2 L / L_S, …, L, of MSE(h^j, h^{m(j)}); no gradient reaches h^j. m(j) is a layer of the
    shallow part: from the last teacher back the nearest one, each strictly below the one before; where none is left
    below, that one again.
    Threshold: each deep pass that takes waiting tokens along yields pairs (c_i, s_i) of all its tokens, s_i = 1 where
    argmax p_S = argmax p_D. After each text (the first 300), on all pairs so far, a Beta density is fitted to the pairs
    with s = 0 and one to those with s = 1 by moments: with weighted mean m and variance v, alpha = m (m(1 - m) / v - 1)
    and beta = alpha (1 - m) / m. c is cut to [0.0001, 0.9999], and a pair weighs 0.9995 in its own density and 0.0005
    in the other. Of 10 values from 0.3 to 0.9 those pass at which f_1(x) / (f_0(x) + f_1(x)) > zeta, f_1 being the
    density of the larger mean; if k pass, lambda is the k-th from above, 0.9 if none does. zeta = 0.4; lambda is 0.9
    before the first estimate. (If the shallow part is never that confident, lambda stays there.)

Exit rule
    c = p_(1) - p_(2), the difference of the two largest probabilities of p_S. The token is argmax p_S if c > lambda,
    strictly, else argmax p_D. With lambda below 0 all tokens leave, with lambda = 1 none.

Skipped
    Layers L_S + 1 … L at the token's own step. They run later, in one pass for all waiting tokens, or never, if the
    text ends first. So hardly any multiply-accumulates are saved, but passes are, and with them reads of the weights.

Deviations
    1. A 6-layer decoder (Llama layers, 128 wide, 1.3 million weights) trained from scratch by Muon and AdamW on 4,800
       windows of 64 tokens of the Brown corpus (307,000 byte-pair tokens, vocabulary 512), not T5, mT5 and LongT5,
       fine-tuned on six data sets, the largest by low-rank adaptation. L_S = 2 of 6.
    2. Decoder only: the prompt takes the place of the encoder's input. All layers read it, and that is not counted.
    3. All texts have 16 tokens, the end of a text being a token like any other, and quality is how much of the full
       model's own text is kept: an open continuation has no reference that a model of this size could match.
       Beside it stands how many bits per token the true texts take at each knob, which says whether the deep part is
       better than the shallow one at all: the tokens so far are the true ones, and an estimated lambda is the one that
       the text was written at. With seed 0 the deep part takes 4.965 bits and the shallow one 5.074, a lead of 0.109 ±
       0.011; it would be 0.189 ± 0.015 with L_S = 1.
    4. Cost is weights read (see `families.speculative`), since what the paper gains is time at batch size 1, not work.
    5. As in the released code L_KD compares states after the final norm, the last layer's too. Where L_S does not
       divide L, teachers stand at the next layer up; the released table has a few pairs of L and L_S alone, and for 24
       and 10 layers another choice.
    6. The blend of given labels and estimated ones is left out of the mixture, as in the released code, which computes
       it and overwrites it. Densities are compared by their logarithms; the released code divides 0 by 0 far out in
       their tails. Pairs that are not finite are left out, and with a confidence that is not finite no token leaves,
       while in the released comparison it does.
    7. The knob of "adaptive" is zeta, which the paper sets once. lambda starts at 0.2 and is estimated between 0.02 and
       0.2, not at 0.9 and between 0.3 and 0.9: so small a decoder is seldom confident of the next token, and at 0.9 no
       token would leave, so that nothing could ever be estimated. Validation and test texts are separate streams; the
       estimate never uses the true texts.
    8. Left out, of the released code: other mappings m(j), a linear map of shallow states before L_KD, confidence by a
       classifier, and rollback, which is kim2023bild's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import beta as beta_law
from torch import Tensor

from eelit.methods.backbones.decoder import ExitDecoder, small_decoder
from eelit.methods.backbones.decoding import Generation
from eelit.methods.backbones.own_forward import HIDDEN
from eelit.methods.backbones.row_cache import RowCache
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.passages import LanguageData
from eelit.methods.engine.routing import decide
from eelit.methods.families.speculative import PassCosts, SpeculativeMethod, Texts, true_states
from eelit.methods.families.tokens import Prepared
from eelit.methods.policies.base import finite
from eelit.methods.policies.margin import Margin, margin
from eelit.methods.recipes.joint import exit_losses, weighted
from eelit.methods.recipes.language import train_language

LAMBDAS = (-1, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7, 1)
ZETAS = (0, 0.4, 0.5, 0.6, 0.8, 0.95, 1)
CLIP = 1e-4
"""Confidences are kept as far from 0 and 1, where Beta densities may have no value."""
OTHER = 0.0005
"""What a pair weighs in the density of the pairs that it does not belong to."""


def teachers(layers: int, shallow: int) -> list[int]:
    """Return the numbers, from 0, of the ``shallow`` teacher layers: evenly spaced, the last layer the last."""
    return [-(-j * layers // shallow) - 1 for j in range(1, shallow + 1)]


def matched(gaps: Tensor) -> list[int]:
    """Return m(j) for gaps ``[K, S]`` between K teacher layers and the S shallow ones."""
    found, below = [], gaps.shape[1]
    for row in reversed(gaps.detach().unbind()):
        below = int(row[:below].argmin()) if below else 0
        found.append(below)
    return found[::-1]


def layer_loss(states: Tensor, shallow: int) -> Tensor:
    """Return L_KD of states ``[L, ..., d]``."""
    taught, students = states[teachers(len(states), shallow)].detach(), states[:shallow]
    gaps = (taught[:, None] - students[None]).square().flatten(2).mean(dim=2)
    chosen = matched(gaps)
    return gaps[range(len(chosen)), chosen].mean()


def end_weights(layers: int, shallow: int) -> list[float]:
    """Return what the losses of the shallow and the deep end weigh."""
    return [shallow / (shallow + layers), layers / (shallow + layers)]


def moments(x: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[float, float]:
    """Return alpha and beta of the Beta law with the weighted mean and variance of x; infinite for equal values."""
    mean = float(np.average(x, weights=weights))
    variance = float(np.average((x - mean) ** 2, weights=weights))
    alpha = mean * (mean * (1 - mean) / variance - 1) if variance > 0 else math.inf
    return alpha, alpha * (1 - mean) / mean


def threshold_for(laws: Sequence[tuple[float, float]], zeta: float, grid: Sequence[float]) -> float:
    """Return the threshold for two Beta laws: as many of the grid from above as pass; the highest if none does."""
    if not all(math.isfinite(value) for law in laws for value in law):
        return grid[-1]
    low, high = sorted(laws, key=lambda law: law[0] / (law[0] + law[1]))
    odds = beta_law.logpdf(grid, *low) - beta_law.logpdf(grid, *high)
    if np.allclose(low, high, rtol=1e-6):
        odds = np.zeros(len(grid))  # all pairs are of one kind, and rounding must not decide at zeta = 1/2
    passing = int((1 / (1 + np.exp(np.minimum(odds, 700.0))) > zeta).sum())
    return grid[min(len(grid) - passing, len(grid) - 1)]


def beta_laws(confidence: NDArray[np.float64], same: NDArray[np.bool_]) -> list[tuple[float, float]]:
    """Return the laws of pairs ``[n]`` on which shallow and deep part differ, and of those on which they agree."""
    x = np.clip(confidence, CLIP, 1 - CLIP)
    return [moments(x, np.where(same == side, 1 - OTHER, OTHER)) for side in (False, True)]


@dataclass
class Threshold:
    """lambda from text to text: estimated anew after each of the next ``updates`` texts, as soon as there are pairs."""

    now: float
    zeta: float = 0.4
    grid: Sequence[float] = ()
    updates: int = 0
    confidence: list[NDArray[np.float64]] = field(default_factory=list)
    same: list[NDArray[np.bool_]] = field(default_factory=list)

    def learn(self, confidence: NDArray[np.float64], same: NDArray[np.bool_]) -> None:
        """Take in the pairs ``[n]`` of a text that has ended."""
        self.confidence.append(confidence)
        self.same.append(same)
        if self.updates and any(len(each) for each in self.confidence):
            laws = beta_laws(np.concatenate(self.confidence), np.concatenate(self.same))
            self.now = threshold_for(laws, self.zeta, self.grid)
            self.updates -= 1


def leaves_above(threshold: float) -> Margin:
    """Return the rule for c > lambda: a margin stops by equality, so its threshold is the next number."""
    return Margin(math.nextafter(threshold, math.inf))


@dataclass(frozen=True)
class Trace(Generation):
    """Texts with c ``[N, T]`` (NaN where a part said what is not finite) and whether both parts say the same."""

    confidence: Tensor
    same: Tensor

    def pairs(self, text: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the pairs that a text yields: those of deep passes that took waiting tokens along."""
        known, first = np.zeros(self.exits.shape[1], dtype=np.bool_), 0
        for step in self.exits[text].nonzero().flatten().tolist():
            known[first : step + 1] = step > first
            first = step + 1
        confidence, same = self.confidence[text].cpu().numpy(), self.same[text].cpu().numpy()
        known &= np.isfinite(confidence)
        return confidence[known], same[known]


@torch.inference_mode()
def follow(
    model: ExitDecoder, cache: RowCache, last: Tensor, length: int, shallow: int, policies: Sequence[Margin]
) -> list[Trace]:
    """Write ``length`` tokens after ``last [N]`` with each rule, all layers run for each token at its own step.

    That is the definition: what waiting tokens get in the end is what they had got at once. The cache stays as it was.
    """
    own, n = cache.copy(len(policies)), len(last)
    last = last.repeat(len(policies))
    parts, steps = torch.arange(len(last), device=last.device).split(n), []
    for _ in range(length):
        state = model.start(last[:, None], own)
        ends = []
        for i in range(model.exits):
            state = model.layer(i, state, own)
            if i in (shallow - 1, model.exits - 1):
                ends.append(model.head(state[HIDDEN][:, 0]))
        own.advance(last[:, None])
        early, late = ends
        stop = torch.cat([decide(rule, (), early[p])[1] for rule, p in zip(policies, parts, strict=True)])
        said, full, sound = early.argmax(dim=-1), late.argmax(dim=-1), (finite(early), finite(late))
        last = torch.where(stop, said, full)
        confidence = torch.where(sound[0] & sound[1], margin(early).double(), math.nan)
        steps.append((last, (~stop).long(), ~sound[0] | ~stop & ~sound[1], confidence, said == full))
    every = zip(*(torch.stack(each, dim=1).split(n) for each in zip(*steps, strict=True)), strict=True)
    return [Trace(*each) for each in every]


@dataclass(frozen=True)
class Streamed(Texts):
    """Texts with the lambda ``[N]`` at which each was written."""

    lambdas: Tensor


@dataclass
class Waiting:
    """Tokens whose deep layers have not run: ids and shallow states by position, and what the shallow part said."""

    ids: list[Tensor] = field(default_factory=list)  # [1, 1]
    states: list[Tensor] = field(default_factory=list)  # [1, 1, d]
    said: list[Tensor] = field(default_factory=list)  # [1, V]


@torch.inference_mode()
def decode(model: ExitDecoder, cache: RowCache, last: Tensor, length: int, shallow: int, policy: Margin) -> Trace:
    """Write one text behind ``last [1]`` by synchronised parallel decoding.

    Where a deep pass does not tell, confidences are NaN: they yield no pair.
    """
    tokens, exits, flawed = last.new_zeros(length), last.new_zeros(length), last.new_zeros(length, dtype=torch.bool)
    confidence, same = torch.full((length,), math.nan, dtype=torch.float64, device=last.device), flawed.clone()
    waiting = Waiting()
    for step in range(length):
        state = model.start(last[:, None], cache)
        for i in range(shallow):
            state = model.layer(i, state, cache)
        early = model.head(state[HIDDEN][:, 0])
        _, stop, sound = decide(policy, (), early)
        waiting.ids.append(last[:, None])
        waiting.states.append(state[HIDDEN])
        waiting.said.append(early)
        cache.advance(last[:, None])
        flawed[step] = ~sound[0]
        if stop[0]:
            last = early.argmax(dim=-1)
        else:
            late = deep_pass(model, cache, shallow, waiting)
            last = late[-1:].argmax(dim=-1)
            exits[step], flawed[step] = 1, flawed[step] | ~finite(late[-1:])[0]
            at, shown = slice(step + 1 - len(late), step + 1), torch.cat(waiting.said)
            sure = torch.where(finite(shown) & finite(late), margin(shown).double(), math.nan)
            confidence[at], same[at] = sure, shown.argmax(dim=-1) == late.argmax(dim=-1)
            waiting = Waiting()
        tokens[step] = last[0]
    return Trace(tokens[None], exits[None], flawed[None], confidence[None], same[None])


def deep_pass(model: ExitDecoder, cache: RowCache, shallow: int, waiting: Waiting) -> Tensor:
    """Run the deep layers for all that wait in one pass, and return p_D's logits ``[k, V]`` of them.

    Positions and masks come from the model's own forward on their ids; the states are those that the shallow part left.
    """
    ids = torch.cat(waiting.ids, dim=1)
    cache.rewind(cache.position - ids.shape[1])
    state = {**model.start(ids, cache), HIDDEN: torch.cat(waiting.states, dim=1)}
    for i in range(shallow, model.exits):
        state = model.layer(i, state, cache)
    cache.advance(ids)
    return model.head(state[HIDDEN][0])


@dataclass(frozen=True)
class Free(SpeculativeMethod):
    """One exit, synchronised parallel decoding, and a threshold as it is set or estimated between texts."""

    adaptive: bool = False  # whether lambda is estimated, and the knob is zeta; the paper: yes, with zeta 0.4
    initial: float = 0.2  # lambda before the first estimate; the paper: 0.9
    lowest: float = 0.02  # least lambda that an estimate may give; the paper: 0.3
    highest: float = 0.2  # largest; the paper: 0.9
    updates: int = 300  # texts after which it is estimated; the released code: 300, for LongT5 100
    shallow: int = 2  # L_S; the paper: 6 of 24 layers, and 8 of 24
    distilled: float = 0.5  # a; the paper: 0.5
    corpus: str = "brown"  # data; the paper: six sets of summaries, answers and translations
    vocabulary: int = 512  # byte-pair tokens; T5: 32,000
    layers: int = 6  # L; the paper: 24, and 12
    width: int = 128  # d; the paper: 1,024, and 768
    windows: int = 4800  # training windows
    context: int = 64  # tokens in each
    prompt: int = 32  # tokens to be continued
    length: int = 16  # generated tokens
    passages: int = 400  # at most, in validation and in test
    batch: int = 8  # windows; the paper: 4 on each of two devices, for SAMSum
    rate: float = 5e-3  # of Muon; the paper: 1e-4, no Muon
    other_rate: float = 4e-3  # of AdamW

    data: ClassVar[tuple[str, ...]] = ("brown",)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"threshold": {}, "adaptive": {"adaptive": True}}
    exempt: ClassVar[Mapping[str, str]] = {
        f"adaptive: {rule}": "an estimated threshold lies within its grid, and the first text has the initial one"
        for rule in ("eager_is_the_first_exit", "never_answers_as_the_full_model", "never_costs_the_full_model")
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "vocabulary": 32, "layers": 4, "width": 32, "windows": 800, "context": 24, "batch": 8,
        "rate": 1e-2, "other_rate": 8e-3, "prompt": 8, "length": 6, "passages": 24, "updates": 12,
        "initial": 0.5, "lowest": 0.05, "highest": 0.5,
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {
        "width": 40, "passages": 5, "shallow": 1, "updates": 1, "initial": 0.001, "lowest": 0.1, "highest": 0.3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "vocabulary": 300, "layers": 4, "shallow": 1, "width": 96, "windows": 1600, "context": 32, "prompt": 16,
        "length": 8, "batch": 16, "rate": 1e-2, "other_rate": 8e-3,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"windows": 24000}

    def build(self, data: LanguageData, seed: int) -> ExitDecoder:
        """A small decoder. Raises `ValueError` unless the shallow part is a part of it."""
        if not 1 <= self.shallow < self.layers:
            raise ValueError(
                f"the shallow part has from 1 to {self.layers - 1} of {self.layers} layers, not {self.shallow}"
            )
        return small_decoder(
            vocabulary=data.vocabulary, layers=self.layers, width=self.width, heads=4, inner=3 * self.width,
            reach=max(self.context, self.prompt + self.length), seed=seed,
        )  # fmt: skip

    def train(self, model: ExitDecoder, data: LanguageData, bench: Bench) -> None:
        """Both ends together, the shallow layers following the deep ones."""
        weights, shallow, share = end_weights(self.layers, self.shallow), self.shallow, self.distilled

        def loss(model: ExitDecoder, x: Tensor, y: Tensor) -> Tensor:
            states = model.states(x)
            logits = model.head(states[[shallow - 1, -1]])
            taught = layer_loss(model.normed(states), shallow)
            return weighted(exit_losses(logits.flatten(1, 2), y.flatten()), weights) + share * taught

        train_language(
            model, data, bench, loss, label="training the shallow and the deep part", rate=self.rate,
            other_rate=self.other_rate, batch=self.batch,
            settings={"shallow": shallow, "distilled": share},
        )  # fmt: skip

    @property
    def knob(self) -> str:  # type: ignore[override]
        """What is set: lambda, or zeta, from which lambda is estimated."""
        return "zeta" if self.adaptive else "softmax-diff threshold"

    @property
    def knobs(self) -> tuple[float, ...]:  # type: ignore[override]
        """Values of zeta if lambda is estimated, else of the threshold lambda; the most eager first."""
        return ZETAS if self.adaptive else LAMBDAS

    @property
    def grid(self) -> tuple[float, ...]:
        """The ten values that an estimate may give."""
        return tuple(float(x) for x in np.linspace(self.lowest, self.highest, 10))

    def threshold(self, knob: float) -> Threshold:
        """Return lambda as it is before the first text."""
        return Threshold(self.initial, knob, self.grid, self.updates) if self.adaptive else Threshold(knob)

    def traces(self, prepared: Prepared, split: Split, thresholds: Sequence[float]) -> dict[float, Trace]:
        """Return the split's texts with each lambda."""
        cache, first = prepared.opened(split), prepared.first(prepared.openings(split))
        found: dict[float, Trace] = {}
        for some in prepared.batches(split, thresholds):
            rules = [leaves_above(each) for each in some]
            every = follow(prepared.model, cache, first, prepared.length, self.shallow, rules)
            found.update(zip(some, every, strict=True))
        return found

    def replay(self, prepared: Prepared, split: Split, knobs: Sequence[float]) -> list[Texts]:
        """Each text with the lambda that those before it have left."""
        thresholds = tuple(dict.fromkeys((self.initial, *self.grid))) if self.adaptive else knobs
        traces, costs = self.traces(prepared, split, thresholds), PassCosts.of(prepared.model)
        return [self.stream(traces, knob, costs) for knob in knobs]

    def stream(self, traces: Mapping[float, Trace], knob: float, costs: PassCosts) -> Streamed:
        """Return the texts at one knob, and the weights that they take: each token's shallow part, each deep pass."""
        threshold, rows, lambdas = self.threshold(knob), [], []
        for n in range(len(next(iter(traces.values())).tokens)):
            trace = traces[threshold.now]
            lambdas.append(threshold.now)
            rows.append((trace.tokens[n], trace.exits[n], trace.not_finite[n]))
            threshold.learn(*trace.pairs(n))
        shallow, deep = (int(part.sum()) + costs.head for part in np.split(costs.layers, [self.shallow]))
        passes = torch.stack([exits.sum() for _, exits, _ in rows])
        found = Texts.of(rows, len(rows[0][0]) * shallow + passes * deep)
        return Streamed(
            found.tokens, found.exits, found.not_finite, found.read, torch.tensor(lambdas, dtype=torch.float64)
        )

    def ends(self, prepared: Prepared, split: Split) -> tuple[Tensor, Tensor]:
        """p_S and p_D, all layers run for each token, as they are in the end."""
        states = true_states(prepared, prepared.model, split)[[self.shallow - 1, -1]]
        shallow, deep = prepared.model.head(states)
        return shallow, deep

    def asked(self, prepared: Prepared, split: Split, knob: float, cheap: Tensor, costly: Tensor) -> Tensor:
        """Where p_S does not lead by more than lambda; an estimate is the one that the text was written at."""
        (texts,) = self.texts(prepared, split, [knob])
        assert isinstance(texts, Streamed)
        rows = zip(texts.lambdas.tolist(), cheap, strict=True)
        return torch.stack([~decide(leaves_above(now), (), logits)[1] for now, logits in rows])

    def write(self, prepared: Prepared, opened: Sequence[tuple[RowCache, ...]], first: Tensor, knob: float) -> Texts:
        """Write text by text, with the shallow part ahead."""
        threshold, rows = self.threshold(knob), []
        for (cache,), last in zip(opened, first.split(1), strict=True):
            rule = leaves_above(threshold.now)
            trace = decode(prepared.model, cache, last, prepared.length, self.shallow, rule)
            rows.append((trace.tokens[0], trace.exits[0], trace.not_finite[0]))
            threshold.learn(*trace.pairs(0))
        return Texts.of(rows)
