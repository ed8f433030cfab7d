"""Reducing Transformer Depth on Demand with Structured Dropout (LayerDrop).

Idea
    Skip whole layers at random while a Transformer is trained, and the others learn to do without them. The one network
    then holds usable ones of every smaller depth: choose a depth when it is deployed, keep that many layers at even
    distances, and neither train again nor tune. Depth is the same for all inputs, so this is no early exit; it is the
    fixed depth that exits have to beat, and a training that makes networks fit for losing layers.

Model
    Encoder and decoder, x_{l+1} = layer_l(x_l). To drop layer l, a whole block, means x_{l+1} = x_l. One output layer
    behind the last block of the decoder, no other.

Training
    For every batch and layer u_l ~ U(0, 1) by itself; layer l is executed if u_l >= p, for the whole batch alike.
    Nothing is rescaled, neither now nor later; all layers may be dropped at once. The loss is that of the task,
    - sum_t log p(y_t | y_{<t}, x). A dropped layer gets no gradient.

Exit rule
    None that looks at the input: r of the N blocks of the decoder are kept, for all sentences and tokens; r is the
    knob. Every other: of depths d = 1 … N those with d = 0 mod m are dropped, m = N / (N - r), if m is a whole number
    of 2 or more; else blocks round(i N / r), i = 0 … r - 1, counted from 0, are kept.

Skipped
    The blocks that are not kept, for every input, with their weights: they are cut out of the network.

Deviations
    1. Spelling translated into sound, letters of English words into phonemes of the CMU Pronouncing Dictionary (stress
       left out, the first pronunciation of each), and a small network trained for minutes, not WMT'16 English-German
       with 6 + 6 or 12 + 6 blocks 1024 wide, language models, summaries or BERT. BLEU is that of phonemes.
    2. Muon and AdamW for few epochs; blocks normalise what they read. The paper: fairseq's Transformer and recipes.
    3. Greedy search, and the encoder always in full: as the paper has it, generation is pruned in the decoder alone.
    4. Where the paper's rule for every other layer says nothing (m not whole, or below 2) blocks are spread evenly; the
       paper's own models of 3 of 12 layers must be such. That d counts from 1 is inferred from the released recipe.
    5. Of three ways to choose blocks the recommended one alone; no search on validation data, and no learnt rates,
       which the paper finds to be hardly better and whose network could not be read. Whole layers alone are dropped.
    6. u >= p, not u > p, so that p = 0 drops nothing: the two differ with a probability of 0.
    7. Costs begin when the source has been read, as for other methods of the family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.translator import Translator
from eelit.methods.engine import tasks
from eelit.methods.engine.method import Bench
from eelit.methods.engine.translations import PAD, TranslationData, shifted, trimmed
from eelit.methods.families.pruning import PruningMethod
from eelit.methods.policies.base import checked
from eelit.methods.recipes.fit import Batch
from eelit.methods.recipes.translating import train_all

Keep = Literal["every other", "first"]


def drawn(layers: int, rate: float) -> list[bool]:
    """Return which of the layers are executed this time."""
    return (torch.rand(layers) >= rate).tolist()


def dropped_loss(model: Translator, batch: Batch, rate: float, encoder_rate: float) -> Tensor:
    """Return the loss behind the last block, a mean over tokens, with layers dropped at random."""
    references = trimmed(batch.targets)
    read, words = model.understand(trimmed(batch.inputs), drawn(len(model.encoder), encoder_rate))
    states = model.followed(read, words, shifted(references), run=drawn(model.exits, rate))
    real = references != PAD
    return F.cross_entropy(model.head(states[-1][real]), references[real])


def every_other(blocks: int, number: int) -> tuple[int, ...]:
    """Return which blocks (from 0) are kept if ``number`` of them are to be, at even distances."""
    dropped = blocks - number
    if dropped and blocks % dropped == 0 and blocks >= 2 * dropped:
        return tuple(i for i in range(blocks) if (i + 1) % (blocks // dropped))
    return tuple(int(i * blocks / number + 0.5) for i in range(number))


@dataclass(frozen=True)
class LayerDrop(PruningMethod):
    """Layers dropped at random while training, and cut out afterwards."""

    rate: float = 0.2  # p in the decoder; the paper: 0.2, for very small depths up to 0.5; 0: nothing is dropped
    encoder_rate: float = 0.2  # p in the encoder; the paper: 0.2
    keep: Keep = "every other"  # which blocks are kept; the paper: every other
    corpus: str = "cmudict"  # data; the paper: WMT'16 and others
    train_size: int = 20000  # pairs; the paper: 4.5 million
    longest: int = 10  # letters of a word
    encoders: int = 2  # blocks of the encoder; the paper: 6 and 12
    blocks: int = 6  # N, blocks of the decoder; the paper: 6
    width: int = 64  # of the states; the paper: 1024
    heads: int = 4  # of attention; the paper: 16
    inner: int = 128  # width inside the feed-forward parts; the paper: 4096
    dropout: float = 0.05  # share; the paper: a little less than without LayerDrop
    epochs: float = 6.0  # passes over the pairs
    batch: int = 64  # pairs of a step
    rate_of_muon: float = 1e-2  # for the blocks' matrices
    rate_of_adam: float = 4e-3  # for all else

    data: ClassVar[tuple[str, ...]] = ("cmudict",)
    knobs: ClassVar[tuple[float, ...]] = (1, 2, 3, 4, 5, 6)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "every other": {},
        "first blocks": {"keep": "first"},
        "trained without": {"rate": 0.0, "encoder_rate": 0.0},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "train_size": 600, "longest": 6, "encoders": 1, "blocks": 4, "width": 32, "heads": 2,
        "inner": 32, "dropout": 0.0, "epochs": 6.0, "batch": 16,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 4000, "longest": 7, "encoders": 1, "width": 48, "inner": 64, "epochs": 3.0,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"epochs": 40.0}
    others: ClassVar[Mapping[str, Any]] = {"heads": 4, "dropout": 0.2}

    def __post_init__(self) -> None:
        """Refuse shares that are none, and rules that there are not."""
        for name in ("rate", "encoder_rate"):
            checked("LayerDrop", name, getattr(self, name), least=0, most=1)
        if self.keep not in ("every other", "first"):
            raise ValueError(f"LayerDrop: blocks are kept by 'every other' or 'first', not by {self.keep!r}")

    def load(self) -> TranslationData:
        """Sentences in two languages."""
        return tasks.translation(self.corpus, train=self.train_size, longest=self.longest)

    def build(self, data: TranslationData, seed: int) -> Translator:
        """Encoder and decoder."""
        layout = ("encoders", "blocks", "width", "heads", "inner", "dropout")
        sizes: dict[str, Any] = {name: getattr(self, name) for name in layout}
        return Translator(vocabulary=data.vocabulary, **sizes, reach=8 * self.longest, seed=seed)

    def train(self, model: Translator, data: TranslationData, bench: Bench) -> None:
        """Everything, with layers dropped at random."""
        rate, encoder_rate = self.rate, self.encoder_rate

        def loss(batch: Batch) -> Tensor:
            return dropped_loss(model, batch, rate, encoder_rate)

        train_all(
            model, data, bench, loss, label="training with layers dropped", epochs=self.epochs, batch=self.batch,
            rate=self.rate_of_muon, other_rate=self.rate_of_adam,
        )  # fmt: skip

    def kept(self, blocks: int, number: int) -> tuple[int, ...]:
        """Those of the rule."""
        checked("LayerDrop", "number of blocks kept", number, whole=True, least=1, most=blocks)
        return tuple(range(number)) if self.keep == "first" else every_other(blocks, number)
