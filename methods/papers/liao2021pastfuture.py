"""A Global Past-Future Early Exit Method for Accelerating Inference of Pre-trained Language Models (Past-Future).

Idea
    An ordinary exit sees only its own layer: it discards what lower layers found and does not know what deeper ones
    would add. Here each exit sees all layers: the states of past layers, and imitations of future ones, which small
    linear maps compute from the current state. A gate weighs the real states against the imitated ones; the entropy of
    the prediction decides.

Model
    n layers, each with a tanh pooler of its own: h_k. Imitation, for every target layer k and from any i < k:
    g_k = tanh(h_i U_k + r_k).  View of exit i: g_k = h_k for k <= i, imitated for k > i.
    g_k A_k + a_k = (s_k, t_k): scores and gate features. lam_i = sigmoid(G tanh(mean_{k <= i} t_k) + b), per class.
    z_i = 2 lam_i * sum_{k <= i} s_k + (2 - 2 lam_i) * sum_{k > i} s_k.  U, r, A, a, G, b serve all exits.

Training
    L = (L_ce + L_cos) / 2, all together:  L_ce = sum_i i * CE(z_i, y) / sum_i i;  L_cos is the mean over exits i < n
    of the mean over k > i of 1 - cos(h_k, g_k), the true h_k without gradient.
    States of earlier layers enter an exit without gradient: each exit trains the layers through its own alone. The
    outputs of the m lowest layers let no gradient pass with probability 1 - step / steps.

Exit rule
    Stop at the first exit with H(softmax z_i) < S (strictly, in nats). S = 0 never stops, S > ln K always at the first.

Skipped
    All layers after the exit; their states are imitated, at a cost of n - i products d x d at exit i.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, one epoch at rate
       1e-4 (poolers and view: 1e-3) in batches of 8, instead of BERT, RoBERTa and ALBERT (12 layers) on six GLUE tasks,
       128 tokens, three to five epochs at 1e-5 to 5e-5 in batches of 16 to 128. The rate warms up for 10 % of the steps
       and weights decay by 0.01; the released code does neither. Gradients are clipped at norm 1, as there.
    2. Poolers read the mean over tokens instead of the class token, as MiniLM was pretrained, and start as copies of
       the pretrained pooler; the released ones start at random.
    3. Entropy comes from log-softmax: an underflowing probability counts 0; the released code gives NaN, and the most
       certain sample goes on. Each sample decides for itself, not a whole batch as there. One protected layer of 6, not
       1 to 3 of 12.
    4. The full model that speed-ups refer to pools all layers, as its last exit reads them all: 0.3 % costlier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias, cast

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder, pooler_of, stages_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import NATS, TextMethod
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import depth_weights, exit_losses, weighted

State: TypeAlias = tuple[Tensor, Tensor]
"""Hidden states of the present layer ``[N, T, d]``, and the pooled states h_1 … h_i of all so far ``[N, i, d]``."""


class PooledLayer(nn.Module):
    """Layer k with its own pooler: ``h_k = tanh(P_k v + q_k)`` of the mean v over its tokens."""

    def __init__(self, layer: nn.Module, pooler: nn.Linear) -> None:
        super().__init__()
        self.layer, self.pooler = layer, pooler

    def pool(self, hidden: Tensor) -> Tensor:
        """Return ``h_k [N, d]`` from hidden states ``[N, T, d]``."""
        return torch.tanh(self.pooler(hidden.mean(dim=1)))

    def forward(self, state: Tensor | State) -> State:
        """Run the layer and pool; the first takes token ids ``[N, T]``."""
        hidden = self.layer(state if isinstance(state, Tensor) else state[0])
        own = self.pool(hidden)[:, None]
        return hidden, own if isinstance(state, Tensor) else torch.cat([state[1], own], dim=1)


class GlobalClassifier(nn.Module):
    """What all exits share: imitation of layers to come (U, r), a classifier of all layers (A, a), a gate (G, b)."""

    def __init__(self, layers: int, width: int, classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.U = nn.Parameter(torch.randn(layers, width, width) * 0.02)
        self.r = nn.Parameter(torch.zeros(layers, width))
        self.A = nn.Parameter(torch.randn(layers, width, 2 * classes) * 0.02)
        self.a = nn.Parameter(torch.zeros(layers, 2 * classes))
        self.gate = nn.Linear(classes, classes)  # G, b
        self.dropout = nn.Dropout(dropout)

    def imitate(self, h_i: Tensor, i: int) -> Tensor:
        """Return ``g_k = tanh(h_i U_k + r_k)`` for k = i + 1 … n, ``[N, n - i, d]``, from ``h_i [N, d]``."""
        return torch.tanh(torch.einsum("nd,kde->nke", h_i, self.U[i:]) + self.r[i:])

    def forward(self, past: Tensor, future: Tensor) -> Tensor:
        """Return ``z_i [N, C]`` from the states passed ``[N, i, d]`` and the imagined ones ``[N, n - i, d]``."""
        i, g = past.shape[1], self.dropout(torch.cat([past, future], dim=1))
        s, t = (torch.einsum("nkd,kdc->nkc", g, self.A) + self.a).chunk(2, dim=-1)
        lam = torch.sigmoid(self.gate(torch.tanh(t[:, :i].mean(dim=1))))
        return 2 * lam * s[:, :i].sum(dim=1) + (2 - 2 * lam) * s[:, i:].sum(dim=1)


class GlobalExit(nn.Module):
    """Exit i: its own and earlier states, the imagined later ones, one answer."""

    def __init__(self, classifier: GlobalClassifier, i: int) -> None:
        super().__init__()
        self.classifier, self.i = classifier, i

    def forward(self, state: State) -> Tensor:
        """From the state of `PooledLayer` to logits ``[N, C]``."""
        _, past = state
        return cast(Tensor, self.classifier(past, self.classifier.imitate(past[:, -1], self.i)))


def global_exits(layers: Sequence[nn.Module], poolers: Iterable[nn.Linear], classifier: GlobalClassifier) -> MultiExit:
    """Return layers with an exit of global view behind each."""
    stages = [PooledLayer(layer, pooler) for layer, pooler in zip(layers, poolers, strict=True)]
    return MultiExit(stages, [GlobalExit(classifier, i) for i in range(1, len(stages) + 1)]).eval()


def past_future_encoder(name: str, classes: int, *, seed: int) -> MultiExit:
    """Return a text encoder with such exits; each layer's pooler starts as a copy of the pretrained one."""
    torch.manual_seed(seed)
    model = encoder(name)
    layers = stages_of(model)
    width = pooler_of(model).out_features
    return global_exits(layers, [pooler_of(model) for _ in layers], GlobalClassifier(len(layers), width, classes))


def training_pass(
    model: MultiExit, x: Any, protected: Callable[[int], bool] = lambda k: False
) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Return ``z [n, N, C]``, ``h [N, n, d]`` and, for each exit i, the imagined states ``[N, n - i, d]``.

    States of earlier layers enter an exit without gradient. The output of layer k (from 1) lets no gradient pass where
    ``protected(k)``, which is asked once for each layer.
    """
    classifier = cast(GlobalExit, model.heads[0]).classifier
    z: list[Tensor] = []
    h: list[Tensor] = []
    imagined: list[Tensor] = []
    hidden = x
    for i, stage in enumerate(cast(Iterable[PooledLayer], model.stages), 1):
        hidden = stage.layer(hidden)
        if protected(i):
            hidden = hidden.detach()
        h_i = stage.pool(hidden)
        imagined.append(classifier.imitate(h_i, i))
        past = [*(h_k.detach() for h_k in h), h_i]
        z.append(classifier(torch.stack(past, dim=1), imagined[-1]))
        h.append(h_i)
    return torch.stack(z), torch.stack(h, dim=1), imagined


def imitation_loss(h: Tensor, imagined: Sequence[Tensor]) -> Tensor:
    """``L_cos``: the mean over exits i < n of the mean over k > i, and samples, of ``1 - cos(h_k, g_k)``.

    The true states ``h [N, n, d]`` are fixed targets: no gradient passes to them.
    """
    true = h.detach()
    apart = [1 - torch.cosine_similarity(true[:, i:], g, dim=-1) for i, g in enumerate(imagined[:-1], 1)]
    return torch.stack([each.mean() for each in apart]).mean()


def past_future_loss(model: MultiExit, batch: Batch, m: int) -> Tensor:
    """``L = (L_ce + L_cos) / 2``, the m lowest layers protected with probability ``1 - step / steps``."""
    z, h, imagined = training_pass(model, batch.inputs, lambda k: k <= m and float(torch.rand(())) > batch.done)
    L_ce = weighted(exit_losses(z, batch.targets), depth_weights(model.exits))  # i / sum_i i
    return (L_ce + imitation_loss(h, imagined)) / 2


@dataclass(frozen=True)
class PastFuture(TextMethod):
    """Exits with a global view, stopped by entropy."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-base, RoBERTa-base, ALBERT-base
    corpus: str = "rotten-tomatoes"  # data; the paper: MRPC, SST-2, QNLI, MNLI, QQP, RTE
    local: bool = False  # True: exits that see their own layer alone, trained as PABEE's, for comparison
    protected: int = 1  # m, lowest layers that are protected at first; the paper: 1 to 3
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence; the paper: 128
    epochs: float = 1.0  # passes over them; the paper: 3 to 5
    batch: int = 8  # the paper: 16 to 128
    rate: float = 1e-4  # learning rate; the paper: 1e-5 to 5e-5
    head_rate: float = 1e-3  # learning rate of poolers, imitation, classifier and gate; the paper: as of the rest

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (
        2.4, 1.7, 1.2, 0.69, 0.68, 0.66, 0.63, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.001, 0.0
    )  # fmt: skip
    many: ClassVar[tuple[float, ...]] = NATS
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"past and future": {}, "local": {"local": True}}
    # Twice the sentences of other methods: with fewer its exits stay near chance.
    smoke: ClassVar[Mapping[str, Any]] = {**TextMethod.smoke, "train_size": 480, "length": 40}
    smoke_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"local": TextMethod.smoke}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 8.0, "rate": 2e-3, "head_rate": 0.04,
        "batch": 32,
    }  # fmt: skip
    # As SplitEE's, which is trained once for both.
    tiny_variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"local": {"rate": 6e-3, "head_rate": 2e-2, "batch": 64}}

    def build(self, data: Data, seed: int) -> MultiExit:
        """Exits with a global view (of classes: regression is not in the paper); for comparison PABEE's network."""
        if self.local:
            return super().build(data, seed)
        return past_future_encoder(self.encoder, data.classes or 1, seed=seed)

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """All weights together, imitation among them; for comparison PABEE's training."""
        if self.local:
            super().train(model, data, bench)
            return

        def loss(batch: Batch) -> Tensor:
            return past_future_loss(model, batch, self.protected)

        def train() -> None:
            model.train()
            poolers = [p for stage in model.stages for p in cast(PooledLayer, stage).pooler.parameters()]
            fit(
                model.parameters(), data.train, loss, bench, label="training exits with a global view",
                epochs=self.epochs, batch=self.batch, rate=self.rate, faster=[*poolers, *model.heads.parameters()],
                faster_rate=self.head_rate,
            )  # fmt: skip

        settings = {"protected": self.protected, "train": len(data.train), **self.options}
        trained(model, train, bench, data=data.digest, settings=settings)
        model.eval()

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is S."""
        return Entropy(knob)
