"""Accelerating BERT Inference for Sequence Labeling via Early-Exit (SENTEE, TOKEE).

Idea
    A tagger gives one answer per word, and the words of a sentence differ in difficulty. TOKEE lets each word halt at
    its own layer, once it and its neighbours are certain; its state is copied upwards, so that the other words can
    still attend to it. As such sentences do not occur in ordinary training, a second stage trains on halting patterns
    that the model itself produces. SENTEE is the simpler rule: the whole sentence stops with its least certain word.

Model
    h^0 are the embeddings of word pieces. Layer l = 1 … L gives those of word i h_i^l = Layer_l(h^(l-1))_i; once the
    word has halted, h_i^l = h_i^(l-1): nothing is computed for it, while the others' attention still finds it there.
    After layer l a linear classifier of its own reads the first piece of each word i: logits z_i^l, K tags.

Training
    1. Jointly: L = sum_l l CE_l / sum_l l, with CE_l the mean cross-entropy of layer l over words.
    2. TOKEE only, self-sampling: for each sentence a window and a delta are drawn, TOKEE is simulated with the
       uncertainties of the stage 1 model, and the loss is that of stage 1 with the words halted and copied accordingly;
       a word counts in the layers up to the one where it halts. Some sentences halt eagerly, some not at all.

Exit rule
    Uncertainty u_i^l = entropy(softmax(z_i^l)) / ln K, from 0 to 1. TOKEE: word i halts after the first layer at which
    max over |j - i| <= (window - 1) / 2 of u_j^l < delta (strictly), with all its pieces; its tag is argmax z_i^l. The
    window uses the current uncertainty of neighbours, including halted ones. SENTEE: all words stop after the first
    layer at which the maximum over the whole sentence is < delta. At layer L everything stops. The knob is delta: above
    1 all words stop at layer 1, at 0 none before L.

Skipped
    TOKEE: queries, attention and feed-forward work of halted words; keys and values of all tokens are still computed
    from copied states, and all words classified, until the sentence is finished. SENTEE: all later layers.

Deviations
    1. MiniLM on the 80 parts of speech of the Brown corpus, 4,000 sentences of at most 40 pieces, one epoch for each
       stage (SENTEE: one in all) at rate 1e-4, classifiers 1e-2, not BERT-base on named entities and word segmentation
       for 20 epochs (encoder 5e-6, classifiers 5e-5, the encoder frozen for two epochs) and 30 (1e-5, 1e-4). Warm-up
       is 10 % of the steps (there: 3,000 steps), gradients are clipped at norm 1 together (released code: the encoder's
       at 1, the others at 5), and weights decay by 0.01, as there. Accuracy, not F1.
    2. Kinds of sentences are drawn one by one (20 % eager, 40 % never halting); the released script fixes their numbers
       in batches of ten, but our batches, of one length each, are often smaller.
    3. One delta, a share of ln K, for all layers. The released code doubles it in the upper half of the layers, up to
       0.5 there: both in use and where stage 2 draws halts. What stage 2 draws here is that of the lower half, up to
       0.25.
    4. Copied states are bit-identical. The released script normalises them anew with the next layer's norm; its stage 2
       also trains towards the loss of stage 1 (flooding). Neither is done here.
    5. Class and separator tokens continue until their sentence is finished, as in the released code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from eelit.methods.backbones.token_layer import TokenLayer, alike
from eelit.methods.engine import tasks
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import device_of
from eelit.methods.engine.weights import trained
from eelit.methods.families.tagging import Prepared, TagEncoder, TagMethod, of_pieces
from eelit.methods.policies.base import Policy, exact, uncertainty
from eelit.methods.policies.window_uncertainty import (
    SentenceUncertainty,
    WindowUncertainty,
    window_max,
)
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import depth_weights, weighted

READ = 64  # sentences at a time when the uncertainties are stored


class HaltingTagger(TagEncoder):
    """A tagger in which h_i^l = Layer_l(h^(l-1))_i where piece i is active, else h_i^l = h_i^(l-1)."""

    def masked(self, layer: TokenLayer, h: Tensor, active: Tensor) -> Tensor:
        """Return h^l ``[n, T, d]`` from h^(l-1): of what the layer makes of all pieces, only the ``active [n, T]``."""
        return torch.where(active[..., None], layer(h), h)

    def left_out(self, layer: TokenLayer, h: Tensor, active: Tensor) -> Tensor:
        """Return the same, only active pieces asking; asked are the keys and values of all, copied states included."""
        n, T = active.shape
        every = torch.arange(n * T, device=h.device).view(n, T)
        groups = [(asking, every[chosen]) for chosen, asking in alike(active.sum(dim=1).tolist(), h.device)]
        copied = h.clone()
        copied[active] = layer.packed(h[active], h.flatten(0, 1), groups)
        return copied

    def forward(self, x: Tensor, halts: Tensor | None = None) -> Tensor:
        """Return the logits z of all layers ``[L, N, T, K]``; ``halts [N, T]`` says at which (from 0) each word halts.

        Without it none does. All pieces halt with their word; special tokens never do.
        """
        if halts is None:
            return super().forward(x)
        ids, numbers = x.unbind(1)
        h, z, last = self.embeddings(input_ids=ids), [], of_pieces(halts, numbers, len(self.layers))
        for i, (layer, head) in enumerate(zip(self.layers, self.heads, strict=True)):
            h = self.masked(layer, h, last >= i)
            z.append(self.read(head, h, numbers))
        return torch.stack(z)


def tag_losses(logits: Tensor, targets: Tensor, halts: Tensor | None = None) -> Tensor:
    """Return each layer's cross-entropy ``[L]``, the mean over words, for logits ``[L, N, T, K]``.

    Targets ``[N, T]`` are -100 where there is no word. A word that halts, at a layer in ``halts [N, T]`` (from 0), has
    no loss in later layers; the sums are divided by the number of all words all the same.
    """
    layers = len(logits)
    losses = F.cross_entropy(
        logits.flatten(0, 2), targets.repeat(layers, 1).flatten(), reduction="none", ignore_index=-100
    ).view(layers, *targets.shape)
    if halts is not None:
        losses = losses * (halts >= torch.arange(layers, device=halts.device)[:, None, None])
    return losses.sum(dim=(1, 2)) / (targets != -100).sum().clamp_min(1)


def train_tagger(model: TagEncoder, data: Data, bench: Bench, *, head_rate: float, **options: Any) -> None:
    """Minimise ``sum_l l * CE_l / sum_l l``. Classifiers learn at ``head_rate``; ``options`` are those of `fit`."""
    weights = depth_weights(len(model.layers))

    def loss(batch: Batch) -> Tensor:
        x = batch.inputs
        return weighted(tag_losses(model(x), batch.targets[:, : x.shape[-1]]), weights)

    def train() -> None:
        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label="training all layers to tag",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip

    trained(
        model, train, bench, data=data.digest, settings={"train": len(data.train), "head_rate": head_rate, **options}
    )
    model.eval()


def simulate(uncertainties: Tensor, window: int, threshold: float) -> Tensor:
    """Return the layers ``[T]`` (from 0) at which words would halt, from their uncertainties ``[L, T]``, not copied.

    The threshold is a share of ln K, as they are.
    """
    certain = window_max(exact(uncertainties), window) < threshold
    certain[-1] = True
    return certain.long().argmax(dim=0)


@dataclass(frozen=True)
class HaltSampling:
    """How halting patterns are drawn for training."""

    windows: tuple[int, ...]
    thresholds: tuple[float, ...]  # deltas, shares of ln K
    small: float  # share of sentences that take the smallest window or the largest threshold
    full: float  # share of sentences in which no word halts

    def draw(self, uncertainties: Sequence[Tensor], by: torch.Generator) -> Tensor:
        """Return halting layers ``[n, T]`` of sentences, each simulated with a window and a threshold drawn for it."""
        found = []
        for seen in uncertainties:
            kind, coin = torch.rand(2, generator=by).tolist()
            window = self.windows[int(torch.randint(len(self.windows), (1,), generator=by))]
            threshold = self.thresholds[int(torch.randint(len(self.thresholds), (1,), generator=by))]
            if self.full <= kind < self.full + self.small:
                window, threshold = (self.windows[0], threshold) if coin < 0.5 else (window, self.thresholds[-1])
            found.append(simulate(seen, window, 0.0 if kind < self.full else threshold))
        return torch.stack(found)


def train_on_halts(
    model: TagEncoder, data: Data, bench: Bench, drawn: HaltSampling, *, head_rate: float, **options: Any
) -> None:
    """Go on training with words halted and copied as the model itself, as it was before, would halt them.

    What it is uncertain of is computed once; patterns are drawn anew for every batch.
    """
    weights, by = depth_weights(len(model.layers)), torch.Generator().manual_seed(bench.seed)

    def train() -> None:
        stored = stored_uncertainties(model, data.train, bench)

        def loss(batch: Batch) -> Tensor:
            x, halts = batch.inputs, drawn.draw([stored[i] for i in batch.index.tolist()], by).to(batch.inputs.device)
            return weighted(tag_losses(model(x, halts), batch.targets[:, : x.shape[-1]], halts), weights)

        model.train()
        fit(
            model.parameters(), data.train, loss, bench, label="training on sampled halts",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip

    settings = {"train": len(data.train), "head_rate": head_rate, **options}
    trained(model, train, bench, data=data.digest, settings=settings)
    model.eval()


@torch.no_grad()
def stored_uncertainties(model: TagEncoder, examples: Examples, bench: Bench) -> list[Tensor]:
    """Return what each layer is uncertain of, ``[L, T]`` for each sentence, nothing halted, in the host's memory."""
    model.eval()
    found, done = [torch.empty(0)] * len(examples), 0
    for index, x in examples.batches(READ, device=device_of(model)):
        for i, seen in zip(index.tolist(), uncertainty(model(x)).cpu().unbind(1), strict=True):
            found[i] = seen.clone()
        done += len(index)
        bench.progress("uncertainties to sample from", done / len(examples))
    return found


@dataclass(frozen=True)
class Tokee(TagMethod):
    """Early exit for sequence labelling, by word (TOKEE) or by sentence (SENTEE)."""

    level: Literal["word", "sentence"] = "word"  # who stops: single words (TOKEE) or the sentence (SENTEE)
    window: int = 5  # words that must be certain for the one in their middle to halt; released examples: 5 and 15
    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base
    corpus: str = "brown"  # data; the paper: CoNLL-2003, OntoNotes 4, Weibo, ARK Twitter, CTB5, UD
    train_size: int = 4000  # training sentences
    held: int = 1000  # sentences for validation, and as many for test
    epochs: float = 1.0  # of stage 1; released script: 20
    sampling_epochs: float = 1.0  # of stage 2; released script: 30
    batch: int = 10  # released code: 10
    rate: float = 1e-4  # learning rate of the encoder; released script: 5e-6, then 1e-5
    head_rate: float = 1e-2  # learning rate of the classifiers; released script: 5e-5, then 1e-4
    windows: tuple[int, ...] = (5, 7, 9, 11, 13, 15)  # drawn in stage 2; released script: these
    thresholds: tuple[float, ...] = (
        0.01,
        0.03,
        0.05,
        0.1,
        0.15,
        0.2,
        0.25,
    )  # deltas drawn too, shares of ln K; see 3 above

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "brown")
    knob: ClassVar[str] = "delta"
    knobs: ClassVar[tuple[float, ...]] = (1.1, 0.6, 0.4, 0.25, 0.15, 0.1, 0.05, 0.0)
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"TOKEE": {}, "SENTEE": {"level": "sentence"}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "made", "train_size": 660, "held": 60, "epochs": 4.0, "sampling_epochs": 1.0,
        "batch": 32, "rate": 2e-3, "head_rate": 5e-3, "window": 3, "windows": (3, 5),
        "thresholds": (0.1, 0.3, 0.5, 0.97),
    }  # fmt: skip
    others: ClassVar[Mapping[str, Any]] = {"held": 30, "windows": (1,), "thresholds": (0.97,)}
    smoke: ClassVar[Mapping[str, Any]] = {"train_size": 96, "held": 16}

    def load(self) -> Data:
        """Sentences as word pieces, with a tag for each word."""
        return tasks.tagging(self.corpus, train=self.train_size, held=self.held)

    def build(self, data: Data, seed: int) -> HaltingTagger:
        """A linear classifier after every layer."""
        return HaltingTagger(self.encoder, data.classes or 0, seed=seed)

    def train(self, model: TagEncoder, data: Data, bench: Bench) -> None:
        """Jointly; then, for TOKEE, on sampled halts."""
        options: dict[str, Any] = {"batch": self.batch, "rate": self.rate, "head_rate": self.head_rate}
        train_tagger(model, data, bench, epochs=self.epochs, **options)
        if not self.whole:
            drawn = HaltSampling(self.windows, self.thresholds, small=0.2, full=0.4)
            train_on_halts(model, data, bench, drawn, epochs=self.sampling_epochs, **options)

    def policy(self, knob: float, prepared: Prepared) -> Policy:
        """The knob is delta."""
        return SentenceUncertainty(knob) if self.whole else WindowUncertainty(knob, self.window)

    @property
    def whole(self) -> bool:
        """SENTEE stops whole sentences."""
        return self.level == "sentence"
