"""Training early-exit architectures for automatic speech recognition (Early-exit ASR).

Idea
    A speech recogniser with a head after every few layers of its encoder, all trained together from the start, is
    better at its low exits than large pre-trained encoders that are fine-tuned with exits, and its full depth gains
    from the other heads. An utterance stops when the frames are certain on average or, better, when the best transcript
    is far ahead of the others.

Model
    Log energies in mel bands, two convolutions along time with a stride of 2 and no activation between them,
    sinusoidal positions, then M groups of conformer layers:
    x + FF(x)/2, + attention, + convolution module (gated, depthwise, normalised over the batch), + FF/2, layer norm.
    After group m: log P_m(v | t) = log softmax(W_m x + b_m), v = 0 the blank of connectionist temporal classification
    (CTC). A transcript's probability is that of all paths through the frames that say it, with repetitions merged and
    blanks removed. The answer is the first of the N best transcripts that a beam search finds.

Training
    From random weights, all exits at once: L = sum_m CTC(P_m, y), all weights 1.

Exit rule
    Of whole utterances, strictly, at exit m = 1 … M - 1:
    ``entropy``: xi_m = -1/(T |V|) sum_t sum_v P_m(v|t) ln P_m(v|t);   stop if xi_m < theta.
    ``sentence confidence``: the N best transcripts at exit m have log scores s_1 >= … >= s_N;
    Phi_m = exp(s_1) / sum_n exp(s_n);   stop if Phi_m > theta.

Skipped
    All groups of layers above the exit, and their heads.

Deviations
    1. 464 prompts of a telephone system, at most four seconds each, read by one speaker, in synthetic noise of 10 to 30
       dB, instead of read sentences of thousands of speakers. 277 recordings are for training, 47 for validation and
       140 for test, and no text is in two parts. Packages hold five sentences of one more speaker, too few for a part
       of their own. Each recording comes several times, at another speed and in other noise. A unit is one of 26
       letters, the apostrophe and the space; a word is whatever stands between spaces, from no fixed vocabulary. All
       are as long as the longest, with noise where nothing is said: no frame is padding, which the released code treats
       as speech.
    2. The encoder is that of Whisper tiny.en, four layers, which others pre-trained, with a head behind each. It is
       frozen and the heads alone learn, two linear layers and a convolution each, since 11 minutes of speech are too
       few to tune it; the paper tunes wav2vec 2.0 and WavLM, all layers, with linear heads. The conformer from scratch
       is trained in the claims: 4 exits, a layer each, 96 wide, against 6 exits of two layers, 256 wide. From so
       little speech it does not learn to read: with seed 0, 68 % of the letters are wrong at its last exit. So three of
       the claims, those on conformers, could not be tried: they are marked as not comparable. Each branch of a layer
       starts a tenth as strong as usual; otherwise, in so few steps, low exits learn and deep ones do not. Both hear
       Whisper's 80 mel bands, of which the upper ones are empty at 8 kHz. AdamW with a linear schedule, not Noam's; no
       averaged checkpoints.
    3. Of the paper's ways of training there are no attention decoders.
    4. The released code prints the WER of each exit and makes no exit decision, so the strict tests are ours. It
       forgets the minus sign of xi. Its beam is 10 wide and lists one hypothesis, of which Phi is always 1; comments
       there name 300 and 500, and the N of the paper is not known. As Phi is 1/N or more, lists must be long. Here
       N = ``hypotheses`` = 50, the beam is as wide, and one search gives Phi and the answer, under both rules. On
       validation data the character error rate with a beam of 10 or 100 differs by at most 0.002 at every exit, and the
       best path, the likeliest unit of each frame, has 0.003 to 0.013 more. The search has no lexicon and no language
       model. It follows a frame's blank alone where that has a probability above 0.999, and otherwise units of at least
       0.001.
    5. Quality is 1 - CER, the character error rate, with the word error rate (WER) beside it at each setting:
       insertions, deletions and substitutions divided by the letters, or words, said; CER is taken from 1. Both can be
       above 1 if there are many insertions. With so little speech most words come out with a wrong letter, so the WER
       alone would tell exits apart badly.
    6. A beam search has no multiply-accumulates, so it costs nothing here, though it takes time. Where the claims
       compare encoders, all are read by the best path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from eelit.methods.backbones import whisper
from eelit.methods.data.recordings import LETTERS
from eelit.methods.engine import tasks
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.metrics import Score
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Beside, Chance
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import ClasslessExitMethod, Prepared
from eelit.methods.policies.base import ANSWER, checked
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.two_stage import frozen_states

CERTAINTY, CONFIDENCE = "certainty", "confidence"
"""What heads say beside log probabilities: -xi, or Phi."""
NONE = -1
"""Stands for a letter where a transcript has no more."""
SPACE = LETTERS.index(" ")
"""The letter between words."""
SECONDS = {"sentences": 4.0, "short sentences": 2.0}
"""How long the longest prompts of a corpus take."""
SURE, LEAST = 0.999, 0.001
"""Probability of the blank above which a frame is nothing else, and of units below which they are not followed."""


def frame_entropy(log_p: Tensor) -> Tensor:
    """Return ``xi = -1/(T |V|) sum p ln p`` ``[N]`` of log probabilities ``[N, T, V]``."""
    return -(log_p.exp() * log_p.clamp_min(-1e4)).mean(dim=(1, 2))


def n_best(log_p: NDArray[np.floating], n: int) -> list[tuple[tuple[int, ...], float]]:
    """Return the ``n`` best transcripts with their log scores, best first, of one utterance's ``[T, V]``.

    A beam of ``n`` prefixes; each has the probability of all paths that lead to it, apart for those that end in a blank
    and those that do not.
    """
    beam: dict[tuple[int, ...], tuple[float, float]] = {
        (): (1.0, 0.0)
    }  # prefix -> probability that it ends in a blank, and in its last unit
    scale = 0.0  # log of what both are divided by
    for row in np.exp(np.asarray(log_p, dtype=np.float64)):
        units = [] if row[0] > SURE else [v for v in np.flatnonzero(row >= LEAST).tolist() if v]
        found: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, unit) in beam.items():
            found.setdefault(prefix, [0.0, 0.0])[0] += (blank + unit) * row[0]
            for v in units:
                again = bool(prefix) and v == prefix[-1]
                if again:
                    found[prefix][1] += unit * row[v]
                found.setdefault((*prefix, v), [0.0, 0.0])[1] += (blank if again else blank + unit) * row[v]
        likely = [item for item in found.items() if sum(item[1]) > 0]
        kept = sorted(likely, key=lambda item: (-sum(item[1]), item[0]))[:n]
        total = sum(sum(pair) for _, pair in kept)
        scale += math.log(total)
        beam = {prefix: (pair[0] / total, pair[1] / total) for prefix, pair in kept}
    ranked = sorted(((prefix, sum(pair)) for prefix, pair in beam.items()), key=lambda item: (-item[1], item[0]))
    return [(prefix, math.log(p) + scale) for prefix, p in ranked]


def searched(log_p: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Return the best transcripts ``[N, T]`` of log probabilities ``[N, T, V]``, and ``Phi`` ``[N]``.

    Phi is the share that the best of the ``n`` best transcripts has of their probability. Letters count from 0, with
    `NONE` behind the last; both are NaN where a log probability is not finite.
    """
    said, phi = torch.full(log_p.shape[:2], float(NONE), dtype=log_p.dtype), torch.full(log_p.shape[:1], math.nan)
    for i, each in enumerate(log_p.detach().cpu().numpy()):
        if not np.isfinite(each).all():
            said[i] = math.nan
            continue
        found = n_best(each, n)
        best, most = found[0]
        said[i, : len(best)] = torch.tensor(best, dtype=said.dtype) - 1
        phi[i] = 1 / sum(math.exp(score - most) for _, score in found)
    return said.to(log_p.device), phi.to(log_p)


def best_path(log_p: Tensor) -> Tensor:
    """Return the transcripts ``[N, T]`` that the likeliest paths through ``[N, T, V]`` say, as `searched` does."""
    path = log_p.argmax(dim=-1)
    new = path > 0
    new[:, 1:] = new[:, 1:] & (path[:, 1:] != path[:, :-1])
    order = (~new).to(torch.int8).argsort(dim=1, stable=True)
    said = torch.where(new, path - 1, NONE).gather(1, order).to(log_p)
    return said.masked_fill(~log_p.isfinite().flatten(1).all(dim=1, keepdim=True), math.nan)


def letters_of(transcripts: Tensor) -> list[list[int]]:
    """Return the letters of each of ``[N, most]``, without what is `NONE` or NaN."""
    return [[int(letter) for letter in row if letter >= 0] for row in transcripts.tolist()]


def edits(said: Sequence[Any], meant: Sequence[Any]) -> int:
    """Return the least number of insertions, deletions and substitutions between two transcripts."""
    row = list(range(len(meant) + 1))
    for i, a in enumerate(said, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(meant, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def words(letters: list[int]) -> list[tuple[int, ...]]:
    """Return the words of a transcript: what stands between spaces, each of its letters."""
    found: list[list[int]] = [[]]
    for letter in letters:
        if letter == SPACE:
            found.append([])
        else:
            found[-1].append(letter)
    return [tuple(word) for word in found if word]


def word_errors(said: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Return how many edits make the words of each transcript those that were said, and how many these are, ``[N]``."""
    meant = [words(letters) for letters in letters_of(targets)]
    wrong = [edits(words(a), b) for a, b in zip(letters_of(said), meant, strict=True)]
    return torch.tensor(wrong, dtype=torch.float64), torch.tensor([*map(len, meant)], dtype=torch.float64)


def word_error_rate(said: Tensor, targets: Tensor) -> float:
    """Return the WER of transcripts ``[N, most]``, the words of all targets ``[N, most]`` taken together."""
    wrong, every = word_errors(said, targets)
    return float(wrong.sum() / every.sum())


def letter_accuracy(said: Tensor, targets: Tensor) -> float:
    """Return ``1 - CER`` of transcripts ``[N, most]``, the letters of all targets ``[N, most]`` taken together."""
    meant = letters_of(targets)
    return 1 - sum(map(edits, letters_of(said), meant)) / sum(map(len, meant))


class FrontEnd(nn.Module):
    """From energies ``[N, bands, T]`` to frames ``[N, T / reduction, width]`` with positions added."""

    def __init__(self, bands: int, width: int, reduction: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv1d(bands, width, 3, stride=2, padding=1),
            nn.Conv1d(width, width, 3, stride=reduction // 2, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Shorten, and add sines and cosines."""
        x = self.convolutions(x).transpose(1, 2)
        places, width = torch.arange(x.shape[1], device=x.device)[:, None], x.shape[2]
        angles = places * torch.exp(torch.arange(0, width, 2, device=x.device) * (-math.log(10_000.0) / width))
        return x + torch.stack([angles.sin(), angles.cos()], dim=2).flatten(1).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention over all frames."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.enter, self.leave = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return frames ``[N, T, width]``."""
        q, k, v = self.enter(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.leave(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Convolution(nn.Module):
    """The convolution module: gated, then depthwise along time."""

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(width, 2 * width), nn.Linear(width, width)
        self.depthwise = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=width)
        self.norm = nn.BatchNorm1d(width)

    def forward(self, x: Tensor) -> Tensor:
        """Return frames ``[N, T, width]``."""
        x, gate = self.enter(x).transpose(1, 2).chunk(2, dim=1)
        x = self.depthwise(x * gate.sigmoid())
        return self.leave(F.silu(self.norm(x)).transpose(1, 2))


def feed_forward(width: int) -> nn.Sequential:
    """Return two linear layers, four times as wide between them."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.SiLU(), nn.Dropout(0.1), nn.Linear(4 * width, width))


class ConformerLayer(nn.Module):
    """Half a feed-forward block, attention, convolution, the other half; each behind a layer norm."""

    def __init__(self, width: int, heads: int, kernel: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            [feed_forward(width), Attention(width, heads), Convolution(width, kernel), feed_forward(width)]
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(5))
        self.dropout = nn.Dropout(0.1)
        with torch.no_grad():  # a layer that has learnt nothing changes little
            for part in self.parts:
                last = part[-1] if isinstance(part, nn.Sequential) else part.get_submodule("leave")
                for weight in last.parameters():
                    weight.mul_(0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Return frames ``[N, T, width]``."""
        for part, norm, share in zip(self.parts, self.norms, (0.5, 1.0, 1.0, 0.5), strict=False):
            x = x + share * self.dropout(part(norm(x)))
        found: Tensor = self.norms[-1](x)
        return found


class CtcHead(nn.Linear):
    """An exit: log probabilities of units, of which 0 is the blank."""

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities ``[N, T, V]`` of units for states ``[N, T, d]``."""
        return super().forward(x).log_softmax(dim=-1)


class FrozenHead(nn.Module):
    """An exit of an encoder that does not change: a small network along time, then log probabilities of units."""

    def __init__(self, d: int, width: int, units: int) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.LayerNorm(d), nn.Linear(d, width), nn.GELU())
        self.along = nn.Sequential(nn.Conv1d(width, width, 9, padding=4), nn.GELU())
        self.units = CtcHead(width, units)

    def forward(self, x: Tensor) -> Tensor:
        """Return log probabilities ``[N, T, V]`` of units for states ``[N, T, d]``."""
        x = self.enter(x)
        found: Tensor = self.units(x + self.along(x.mT).mT)
        return found


class Telling(nn.Module):
    """A trained head that reads, and tells how certain it is: -xi, and Phi if there are ``hypotheses``."""

    def __init__(self, head: nn.Module, hypotheses: int) -> None:
        super().__init__()
        self.head, self.hypotheses = head, hypotheses

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return transcripts ``[N, T]`` as the answer, and certainties ``[N]``."""
        log_p = self.head(x)
        found = {CERTAINTY: -frame_entropy(log_p)}
        if not self.hypotheses:
            return {ANSWER: best_path(log_p), **found}
        said, phi = searched(log_p, self.hypotheses)
        return {ANSWER: said, CONFIDENCE: phi, **found}


def ctc(log_p: Tensor, targets: Tensor) -> Tensor:
    """Return the CTC loss of log probabilities ``[N, T, V]``: per letter, then the mean over words.

    What is too long for its frames counts nothing.
    """
    lengths, frames = (targets != NONE).sum(dim=1), torch.full((len(log_p),), log_p.shape[1])
    return F.ctc_loss(log_p.transpose(0, 1), (targets + 1).clamp_min(1), frames, lengths, zero_infinity=True)


@dataclass(frozen=True)
class EarlyExitAsr(ClasslessExitMethod):
    """An encoder with CTC exits; an utterance stops where its frames are certain on average."""

    corpus: str = "sentences"  # prompts, or the short ones; the paper's: LibriSpeech
    train_size: int = 800  # utterances for training
    held_size: int = 280  # utterances for tests, and half as many for validation
    encoder: str = "whisper"  # pre-trained and frozen, or conformer, from scratch; the paper has both kinds
    letters: int = len(LETTERS)  # units beside the blank; the paper's: 256 pieces of words
    groups: int = 4  # M, exits; the paper's: 6
    layers: int = 1  # layers in a group; the paper's: 2
    width: int = 96  # of a conformer's frames, and of a frozen encoder's heads; the paper's: 256
    heads: int = 4  # of attention; the paper's: 8 in its code
    kernel: int = 3  # frames that a depthwise convolution sees, odd; the paper's: 31
    reduction: int = 4  # frames that become one: 2 or 4; the paper's: 4
    joint: bool = True  # whether all exits are trained, or the last alone, as an ordinary conformer
    epochs: float = 15.0  # passes over the training data
    batch: int = 16  # utterances in a step; the paper's: 64
    rate: float = 3e-3  # largest learning rate of AdamW
    hypotheses: int = 50  # N, transcripts that the search lists, as wide; 0: best path; the paper's is not known

    data: ClassVar[tuple[str, ...]] = ("prompts", "prompt-texts", "whisper-tiny-en")
    knob: ClassVar[str] = "theta"
    knobs: ClassVar[tuple[float, ...]] = (
        math.inf, 0.05, 0.025, 0.018, 0.013, 0.011, 0.009, 0.0075, 0.006, 0.005, 0.004, 0.003, 0.0025, 0.002, 0.0015,
        0.001, 0.0007, 0.0004, 0.0,
    )  # fmt: skip
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "encoder": "conformer", "letters": 5, "train_size": 400, "held_size": 240, "groups": 3,
        "width": 16, "heads": 2, "epochs": 10.0, "rate": 1e-2, "hypotheses": 8,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "corpus": "short sentences", "train_size": 160, "held_size": 64, "groups": 2, "layers": 2, "width": 48,
        "epochs": 30.0, "rate": 1e-2, "hypotheses": 10,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"train_size": 1600, "epochs": 30.0}
    others: ClassVar[Mapping[str, Any]] = {"heads": 4, "reduction": 2, "kernel": 5}

    def __post_init__(self) -> None:
        """Refuse what cannot be built."""
        checked("EarlyExitAsr", "groups", self.groups, whole=True, least=1)
        checked("EarlyExitAsr", "layers", self.layers, whole=True, least=1)
        depth = self.groups * self.layers
        if self.encoder not in ("whisper", "conformer") or (self.encoder == "whisper" and depth > whisper.LAYERS):
            raise ValueError(
                f"EarlyExitAsr: encoder is whisper, of at most {whisper.LAYERS} layers, or conformer, not "
                f"{self.encoder} of {depth}"
            )
        if self.reduction not in (2, 4) or self.kernel % 2 == 0 or self.width % (2 * self.heads):
            raise ValueError(
                "EarlyExitAsr: reduction is 2 or 4, kernel odd, width a multiple of twice the heads, not "
                f"{self.reduction}, {self.kernel}, {self.width} and {self.heads}"
            )

    @property
    def quality(self) -> str:
        """Character error rate, taken from 1."""
        return "1 - CER"

    def load(self) -> Data:
        """Return utterances as energies in bands, and their letters."""
        held = {"validation": self.held_size // 2, "test": self.held_size}
        if self.corpus in SECONDS:
            return tasks.sentences(train=self.train_size, **held, seconds=SECONDS[self.corpus])
        return tasks.spelled(self.corpus, letters=self.letters, train=self.train_size, **held)

    def build(self, data: Data, seed: int) -> MultiExit:
        """Return the encoder with a head behind each group."""
        torch.manual_seed(seed)
        if self.encoder == "whisper":
            stem, layers = whisper.encoder()
            heads = [FrozenHead(whisper.WIDTH, self.width, self.letters + 1) for _ in range(self.groups)]
            each = [nn.Sequential(*layers[m * self.layers : (m + 1) * self.layers]) for m in range(self.groups)]
            return MultiExit([each[0].insert(0, stem), *each[1:]], heads)
        front = FrontEnd(len(data.train.inputs[0]), self.width, self.reduction)
        stages = [
            nn.Sequential(*(ConformerLayer(self.width, self.heads, self.kernel) for _ in range(self.layers)))
            for _ in range(self.groups)
        ]
        stages[0].insert(0, front)
        return MultiExit(stages, [CtcHead(self.width, self.letters + 1) for _ in stages])

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train all exits at once, or the last alone; of a frozen encoder, all heads."""
        if self.encoder == "whisper":
            self.train_heads(model, data, bench)
            return
        joint, train = self.joint, data.train
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}
        parts = model if joint else nn.ModuleList([model.stages, model.heads[-1]])

        def loss(batch: Batch) -> Tensor:
            if not joint:
                return ctc(model.full(batch.inputs), batch.targets)
            return torch.stack([ctc(log_p, batch.targets) for log_p in model(batch.inputs)]).sum()

        def learn() -> None:
            model.train()
            fit(parts.parameters(), train, loss, bench, label="recognition", **options)
            model.eval()

        trained(model, learn, bench, data=data.digest, settings=options)

    def train_heads(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Train the heads on states of the frozen encoder, which are computed once."""
        heads, train = model.heads, data.train
        options: dict[str, Any] = {"epochs": self.epochs, "batch": self.batch, "rate": self.rate}

        def loss(batch: Batch) -> Tensor:
            each = [ctc(head(state), batch.targets) for head, state in zip(heads, batch.inputs, strict=True)]
            return torch.stack(each).sum()

        def learn() -> None:
            beyond = MultiExit([*model.stages, nn.Identity()], [*heads, nn.Identity()])  # the last state counts, too
            states = frozen_states(beyond, train, bench)
            heads.train()
            fit(heads.parameters(), states, loss, bench, label="recognition from frozen states", **options)
            model.eval()

        trained(model, learn, bench, data=data.digest, settings={"train": len(train), **options})

    def deployed(self, model: MultiExit) -> MultiExit:
        """Return the network whose heads also say how certain they are."""
        return MultiExit(model.stages, [Telling(head, self.hypotheses) for head in model.heads]).eval()

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """Return the rule: ``-xi > -theta``."""
        return ScoreThreshold(-knob, of=CERTAINTY)

    @property
    def score(self) -> Score:
        """1 - CER of transcripts ``[N, T]``."""
        return letter_accuracy

    def beside(self, prepared: Prepared, knobs: Sequence[float]) -> Beside:
        """Return the word error rate at each knob and at both ends, on test data."""
        seen = prepared.split("test")
        (first, every), (last, _) = (word_errors(seen.answers[m], seen.targets) for m in (0, -1))
        n, lead = len(every), float((first - last).sum() / every.sum())
        spread = float((first - last - lead * every).std()) / float(every.mean())  # of a ratio of two sums
        left = (seen.at(replay(self.rule(knob, prepared), seen.outputs)) for knob in knobs)
        return Beside(
            name="word error rate",
            meaning=f"insertions, deletions and substitutions of words, divided by the {int(every.sum())} words of {n} "
            "test utterances; lower is better",
            values=[word_error_rate(said, seen.targets) for said in left],
            cheap=float(first.sum() / every.sum()),
            full=float(last.sum() / every.sum()),
            error=spread / math.sqrt(n),
        )

    def chance(self, prepared: Prepared, bench: Bench) -> Chance:
        """Return what the best transcript reaches that is the same for all: a letter said once, or more often."""
        targets = prepared.split("test").targets
        most, n = targets.shape[1], int((targets != NONE).sum())
        constant = [[letter] * k + [NONE] * (most - k) for letter in range(self.letters) for k in range(most + 1)]
        best = max(letter_accuracy(torch.tensor(each).expand_as(targets), targets) for each in constant)
        error = math.sqrt(max(best * (1 - best), 1 / n) / n)
        return Chance(what=f"the best transcript that never changes, of {n} letters", quality=best, error=error)


@dataclass(frozen=True)
class SentenceConfidence(EarlyExitAsr):
    """The same encoder; an utterance stops where its best transcript leads the others."""

    knobs: ClassVar[tuple[float, ...]] = (
        0.0, 0.05, 0.07, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.43, 0.5, 0.6, 0.7, 0.85, 1.0,
    )  # fmt: skip
    variants: ClassVar[Mapping[str, Mapping[str, Any] | type[EarlyExitAsr]]] = {
        "sentence confidence": {},
        "entropy": EarlyExitAsr,
    }

    def __post_init__(self) -> None:
        """Refuse lists of one, whose share is always 1."""
        super().__post_init__()
        checked("SentenceConfidence", "hypotheses", self.hypotheses, whole=True, least=2)

    def policy(self, knob: float, prepared: Prepared) -> ScoreThreshold:
        """Return the rule: ``Phi > theta``."""
        return ScoreThreshold(knob, of=CONFIDENCE)
