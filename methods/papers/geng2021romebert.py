"""RomeBERT: Robust Training of Multi-Exit BERT (RomeBERT).

Idea
    On a frozen encoder the first exits stay weak. So train encoder and exits together, in one stage, and let the last
    exit teach the others with its softened predictions. Where early exits and last exit would push the shared layers in
    opposite directions, one of them gives way to the other.

Model
    A head after each of n layers, of one shape, each with its own parameters: z_i = V_i dropout(tanh(W_i h_i + b_i)) +
    c_i. Every W_i, b_i starts as a copy of the pretrained pooler.

Training
    L_last = CE(z_n, y);
    L_early = sum_{i<n} (1 - gamma) CE(z_i, y) + gamma T^2 KL(softmax(z_n/T) || softmax(z_i/T)), z_n held fixed here.
    One stage, all parameters: L_early + L_last.
    Gradient regularisation: A and B are the gradients of L_early and L_last in the weight matrices of layers 1 … n-1.
    Where <A, B> < 0, B becomes B - <A, B> / <A, A> A: the component against A is removed. Update with A + B. All else
    (last layer, embeddings, norms, biases, heads) gets the plain sum. For large tasks (MNLI, QQP) the released code
    swaps the roles: L_last leads and L_early gives way.

Exit rule
    H_i = -sum_k q_k ln q_k with q = softmax(z_i), in nats. Stop at the first exit with H_i < S (strictly).
    S = 0 never stops, S > ln K always stops at the first (K classes). One S serves all layers.

Skipped
    All layers after the exit, with their heads.

Deviations
    1. MiniLM (6 layers, 384 wide) on Rotten Tomatoes, 4,000 training sentences of at most 40 tokens, one epoch, instead
       of BERT and RoBERTa (12 layers) on six GLUE tasks, 128 tokens, three and ten epochs: what two cores can train.
    2. Heads read the mean over tokens instead of the class token: MiniLM was pretrained that way, and its class token
       is all but the same for every sentence before the last layer.
    3. Learning rate 1e-4 (heads: 1e-3) instead of 2e-5, since there is only one epoch. It warms up for 10 % of the
       steps, and weights decay by 0.01; the released code does neither. Gradients are clipped at norm 1, as there.
    4. KL is a sum over classes and a mean over samples. The released code's mean is over classes too, which makes it
       weaker by the number of classes (2 of sentences): its gamma of 0.9 is not quite ours.
    5. The released code, as DeeBERT's, has an exit head at the last layer beside the real one: no loss ever trains it,
       yet it may answer. Here the last layer has its real head alone.
    6. "The last layer" is the last one. The released code leaves out layer 12 by name, whatever the network's depth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.weights import trained
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import NATS, TextMethod
from eelit.methods.policies.entropy import Entropy
from eelit.methods.recipes.distillation import divergence
from eelit.methods.recipes.fit import Batch, fit
from eelit.methods.recipes.joint import exit_losses


def distillation_losses(z: Tensor, y: Tensor, *, gamma: float, temperature: float) -> tuple[Tensor, Tensor]:
    """Return ``L_early`` and ``L_last`` from the logits ``z [n, N, C]`` of all exits and the targets ``y [N]``."""
    ce = exit_losses(z, y)
    taught = divergence(z[:-1], z[-1], temperature)  # T^2 KL, the last exit's answers held fixed
    return ((1 - gamma) * ce[:-1] + gamma * taught).sum(), ce[-1]


def projection_coefficient(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    """Return ``<A, B> / <A, A>`` if ``<A, B> < 0``, else 0: how much of A to take off B.

    A and B are gradients of the same parameters, each read as one long vector. What is left of B is at a right angle
    to A where they conflicted, and B itself where they did not.
    """
    inner = sum(float((u * v).sum()) for u, v in zip(a, b, strict=True))
    return inner / sum(float((u * u).sum()) for u in a) if inner < 0 else 0.0


def with_projected_gradient(
    leading: Tensor, other: Tensor, parameters: Sequence[nn.Parameter], shared: Sequence[nn.Parameter]
) -> tuple[Tensor, bool]:
    """Return a stand-in for ``leading + other`` with the regularised gradient, and whether the two conflicted.

    Its gradient is A + B in all ``parameters``, but in those also in ``shared`` B gives way to A. It is linear in the
    parameters, with this gradient as its slope, for the training loop to differentiate; its value means nothing.
    """
    a, b = (torch.autograd.grad(loss, parameters, retain_graph=True) for loss in (leading, other))
    chosen = {id(p) for p in shared}
    pairs = [(u, v) for p, u, v in zip(parameters, a, b, strict=True) if id(p) in chosen]
    off = projection_coefficient([u for u, _ in pairs], [v for _, v in pairs])
    slopes = [u + v - off * u if id(p) in chosen else u + v for p, u, v in zip(parameters, a, b, strict=True)]
    return torch.stack([(slope * p).sum() for slope, p in zip(slopes, parameters, strict=True)]).sum(), off < 0


def shared_matrices(model: MultiExit) -> list[nn.Parameter]:
    """Return the weight matrices of layers 1 … n-1: no embeddings, norms, biases or heads."""
    return [p for stage in model.stages[:-1] for p in stage.get_submodule("layer").parameters() if p.dim() > 1]


def train_distilled(
    model: MultiExit, data: Data, bench: Bench, *, gamma: float, temperature: float, leads: str | None,
    head_rate: float, **options: Any,
) -> None:  # fmt: skip
    """Minimise ``L_early + L_last`` over all parameters; ``options`` are those of `fit`, heads learn at ``head_rate``.

    With ``leads`` ("early" or "last") the gradient of the other loss gives way to this one in `shared_matrices`. The
    model's buffer ``conflicts`` then tells in which share of the steps it had to. Raises `KeyError` for another word.
    """
    everything, shared, conflicts = list(model.parameters()), shared_matrices(model), list[bool]()

    def loss(batch: Batch) -> Tensor:
        early, last = distillation_losses(model(batch.inputs), batch.targets, gamma=gamma, temperature=temperature)
        if leads is None:
            return early + last
        leading, other = {"early": (early, last), "last": (last, early)}[leads]
        stand_in, conflict = with_projected_gradient(leading, other, everything, shared)
        conflicts.append(conflict)
        return stand_in

    def train() -> None:
        model.train()
        fit(
            everything, data.train, loss, bench, label="training all exits, the last teaching the others",
            faster=model.heads.parameters(), faster_rate=head_rate, **options,
        )  # fmt: skip
        if conflicts:
            model.get_buffer("conflicts").fill_(sum(conflicts) / len(conflicts))

    how = {"gamma": gamma, "temperature": temperature, "leads": leads, "head_rate": head_rate}
    trained(model, train, bench, data=data.digest, settings={**how, "train": len(data.train), **options})
    model.eval()


@dataclass(frozen=True)
class RomeBert(TextMethod):
    """Self-distillation with gradient regularisation."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT and RoBERTa, base size
    corpus: str = "rotten-tomatoes"  # data; the paper: MRPC, RTE, SST-2, QNLI, MNLI, QQP
    train_size: int = 4000  # training sentences
    length: int = 40  # most word pieces of a sentence
    epochs: float = 1.0  # passes over them; the paper: 3 (BERT), 10 (RoBERTa)
    batch: int = 8  # the paper: 8
    rate: float = 1e-4  # learning rate; the paper: 2e-5
    head_rate: float = 1e-3  # learning rate of the heads, which start from nothing; the paper: 2e-5
    gamma: float = 0.9  # share of the teacher in what early exits learn; the paper: 0.9
    temperature: float = 3.0  # T of teacher and pupils; the paper: 3
    leads: str | None = "early"  # whose gradient is kept: early (small tasks), last (large), None: no regularisation

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "entropy threshold"
    knobs: ClassVar[tuple[float, ...]] = (2.4, 1.5, 0.69, 0.67, 0.65, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05, 0.01, 0.0)
    many: ClassVar[tuple[float, ...]] = NATS
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"SD + GR": {}, "SD only": {"leads": None}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "train_size": 900, "epochs": 8.0, "batch": 64, "rate": 6e-3,
        "head_rate": 2e-2, "gamma": 0.3,
    }  # fmt: skip
    smoke: ClassVar[Mapping[str, Any]] = {**TextMethod.smoke, "batch": 32}  # as DeeBERT, which is trained once for both

    def build(self, data: Data, seed: int) -> MultiExit:
        """A head after every layer, each with its own copy of the pretrained pooler."""
        model = text_exits(self.encoder, data.classes, seed=seed, shared_pooler=False)
        model.register_buffer("conflicts", torch.zeros(()))  # share of training steps whose gradients conflicted
        return model

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """One stage; the last exit teaches the others."""
        how: dict[str, Any] = {"gamma": self.gamma, "temperature": self.temperature, "leads": self.leads}
        train_distilled(model, data, bench, **how, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> Entropy:
        """The knob is S in nats."""
        return Entropy(knob)
