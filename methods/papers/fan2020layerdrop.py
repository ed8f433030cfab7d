"""Reducing Transformer Depth on Demand with Structured Dropout (LayerDrop).

Idea
    When whole layers are skipped at random while a Transformer is trained, the others learn to do without them. The
    network then contains usable networks of every smaller depth: choose a depth at deployment and keep that many layers
    at even distances, without further training or tuning. Depth is the same for all inputs, so this is not early exit;
    it is the fixed-depth baseline that exits have to beat, and a training method that makes networks robust to missing
    layers.

Model
    Encoder and decoder, x_{l+1} = layer_l(x_l). To drop layer l, a whole block, means x_{l+1} = x_l. One output layer
    after the last block of the decoder, no other.

Training
    For every batch and layer u_l ~ U(0, 1) is drawn independently; layer l is executed if u_l > p, for all of the batch
    or for none. Nothing is rescaled, in training or after it; all layers may be dropped at once. The loss is that of
    the task, - sum_t log p(y_t | y_{<t}, x). A dropped layer gets no gradient.

Exit rule
    None that looks at the input: r of the N blocks of the decoder are kept, for all sentences and tokens; r is the
    knob. Every other: of depths d = 1 ... N those with d = 0 mod m are dropped, m = N / (N - r), if m is a whole number
    of 2 or more; else blocks round(i N / r), i = 0 ... r - 1, counted from 0, are kept.

Skipped
    The blocks that are not kept, for every input, with their weights: they are cut out of the network.

Deviations
    1. The task is spelling to phonemes: letters of English words, and their pronunciations in the CMU Pronouncing
       Dictionary (the first of each, stress left out), not WMT'16 English-German with 6 + 6 or 12 + 6 blocks of width
       1024, language models, summaries or BERT. Verses of public-domain Bibles in two languages were tried on this
       network, trained as elbayad2020depth aligns its exits: after 1.9 passes over 7,427 short ones, in 73 seconds, a
       third of the time that a variant is trained for there, BLEU was 3.0, too little to compare by. No longer trial
       was made, and none with dropped layers. Here BLEU is that of phonemes.
    2. Muon and AdamW for a few epochs; blocks normalise their inputs. The paper: fairseq's Transformer and recipes.
    3. Greedy search; and the encoder is never pruned: the paper prunes decoder layers alone where it generates.
    4. Where the paper's rule for every other layer says nothing (m not whole, or below 2) blocks are spread evenly; the
       paper's own models of 3 of 12 layers must be such. That d counts from 1 is inferred from the released recipe.
    5. Of three ways to choose blocks only the recommended one, and the first r for comparison; no search on validation
       data, and no learned rates, which the paper finds to be hardly better and whose network could not be read. Only
       whole layers are dropped.
    6. At p = 0 nothing is drawn and no layer is dropped; with u > 0 alone, one would be dropped in very rare cases.
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
from eelit.methods.engine.method import Bench
from eelit.methods.engine.translations import PAD, TranslationData, shifted, trimmed
from eelit.methods.families.pruning import PruningMethod
from eelit.methods.families.translation import SpokenWords
from eelit.methods.policies.base import checked
from eelit.methods.recipes.fit import Batch
from eelit.methods.recipes.translating import train_all

Keep = Literal["every other", "first"]


def draw_layers(layers: int, p: float) -> list[bool]:
    """Return which of the layers are executed this time."""
    return (torch.rand(layers) > p).tolist() if p else [True] * layers


def dropped_loss(model: Translator, batch: Batch, p: float, encoder_p: float) -> Tensor:
    """Return the loss after the last block, a mean over tokens, with layers dropped at random."""
    references = trimmed(batch.targets)
    read, words = model.encode(trimmed(batch.inputs), draw_layers(len(model.encoder), encoder_p))
    states = model.decode(read, words, shifted(references), run=draw_layers(model.exits, p))
    real = references != PAD
    return F.cross_entropy(model.head(states[-1][real]), references[real])


def every_other(blocks: int, number: int) -> tuple[int, ...]:
    """Return which blocks (from 0) are kept if ``number`` of them are to be, at even distances."""
    dropped = blocks - number
    if dropped and blocks % dropped == 0 and blocks >= 2 * dropped:
        return tuple(i for i in range(blocks) if (i + 1) % (blocks // dropped))
    return tuple(int(i * blocks / number + 0.5) for i in range(number))


@dataclass(frozen=True)
class LayerDrop(SpokenWords, PruningMethod):
    """Layers dropped at random while training, and cut out afterwards."""

    drop_rate: float = 0.2  # p in the decoder; the paper: 0.2, for very small depths up to 0.5; 0: nothing is dropped
    encoder_drop_rate: float = 0.2  # p in the encoder; the paper: 0.2
    keep: Keep = "every other"  # which blocks are kept; the paper: every other
    corpus: str = "cmudict"  # data; the paper: WMT'16 and others
    train_size: int = 12000  # pairs; the paper: 4.5 million
    longest: int = 10  # letters of a word
    encoders: int = 2  # blocks of the encoder; the paper: 6 and 12
    blocks: int = 6  # N, blocks of the decoder; the paper: 6
    width: int = 64  # of the states; the paper: 1024
    heads: int = 4  # of attention; the paper: 16
    inner: int = 128  # width inside the feed-forward parts; the paper: 4096
    dropout: float = 0.05  # share; the paper: a little less than without LayerDrop
    epochs: float = 4.0  # passes over the pairs
    batch: int = 64  # pairs of a step
    rate: float = 1e-2  # of Muon, for the blocks' matrices
    other_rate: float = 4e-3  # of AdamW, for all else

    data: ClassVar[tuple[str, ...]] = ("cmudict",)
    knobs: ClassVar[tuple[float, ...]] = (1, 2, 3, 4, 5, 6)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "every other": {},
        "first blocks": {"keep": "first"},
        "trained without": {"drop_rate": 0.0, "encoder_drop_rate": 0.0},
    }
    tiny: ClassVar[Mapping[str, Any]] = {
        "corpus": "made", "train_size": 600, "longest": 6, "encoders": 1, "blocks": 4, "width": 32, "heads": 2,
        "inner": 32, "dropout": 0.0, "epochs": 5.0, "batch": 32,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {
        "train_size": 4000, "longest": 7, "encoders": 1, "width": 48, "inner": 64, "epochs": 3.0,
    }  # fmt: skip
    full: ClassVar[Mapping[str, Any]] = {"epochs": 40.0}
    others: ClassVar[Mapping[str, Any]] = {"heads": 4, "dropout": 0.2}

    def __post_init__(self) -> None:
        """Refuse shares that are none, and rules that there are not."""
        for name in ("drop_rate", "encoder_drop_rate"):
            checked("LayerDrop", name, getattr(self, name), least=0, most=1)
        if self.keep not in ("every other", "first"):
            raise ValueError(f"LayerDrop: blocks are kept by 'every other' or 'first', not by {self.keep!r}")

    def train(self, model: Translator, data: TranslationData, bench: Bench) -> None:
        """Everything, with layers dropped at random."""
        p, encoder_p = self.drop_rate, self.encoder_drop_rate

        def loss(batch: Batch) -> Tensor:
            return dropped_loss(model, batch, p, encoder_p)

        train_all(
            model, data, bench, loss, label="training with layers dropped", epochs=self.epochs, batch=self.batch,
            rate=self.rate, other_rate=self.other_rate,
        )  # fmt: skip

    def kept(self, blocks: int, number: int) -> tuple[int, ...]:
        """Return those of the rule."""
        checked("LayerDrop", "number of blocks kept", number, whole=True, least=1, most=blocks)
        return tuple(range(number)) if self.keep == "first" else every_other(blocks, number)
