"""The Right Tool for the Job: Matching Model and Instance Complexities (Sledgehammer).

Idea
    Fine-tune one encoder with a few heads, and let easy inputs leave early. Each head's confidence is calibrated on
    held-out data, so that one threshold means the same at all depths; it is chosen at run time, without new training.

Model
    Heads after a few layers k_1 < … < k_m = n, each reading a learned mixture of all layers so far:
    o_l = dropout(tanh pooler of layer l), one pooler for all;  r_j = sum_{l <= k_j} a_j,l o_l;  z_j = V_j r_j + b_j.
    The a_j have length 1 and start in random directions.

Training
    Backbone and heads together, all exits alike: L = sum_j cross-entropy(z_j, y).
    Then each head gets the temperature T_j > 0 for which softmax(z_j / T_j) is most likely on validation data.

Exit rule
    Stop at the first exit with max softmax(z_j / T_j) >= c. The last exit always answers. c = 0 stops at the first
    exit, c > 1 never stops; at c = 1 an exit whose confidence rounds to 1 still stops. T_j never changes an answer.

Skipped
    All layers after the exit, with their pooling and their heads.

Deviations
    1. MiniLM (6 layers) on 4,000 sentences of Rotten Tomatoes, one epoch at higher rates (warm-up, decay, clipping),
       not BERT-large on five data sets. Not run: its rivals, models cut at each depth.
    2. The pooler reads the mean over tokens instead of the class token: MiniLM was pretrained that way.
    3. The a_j learn, as meant, being divided by their length at each use. The released code puts rescaled copies in
       their place at each step, which its optimiser does not know: its mixtures stay as random as they began.
    4. T_j is found by bisection, there being one optimum; the released search (ten rates of Adam) can stop short.
    5. The plain full model keeps its mixture, which pools all layers, not the last alone: less than 1% dearer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from eelit.methods.backbones.encoder import encoder, pooler_of, stages_of
from eelit.methods.engine.examples import Data
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.engine.stored_outputs import CONFIDENCES
from eelit.methods.families.exits import Prepared
from eelit.methods.families.text import TextMethod
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.temperature import Tempered, calibration_error, fit_temperature
from eelit.methods.recipes.joint import train_joint


class Layers(nn.Module):
    """Some layers; the state is the hidden states ``[N, T, d]`` and what was pooled so far ``[N, layers, d]``."""

    def __init__(self, layers: Sequence[nn.Module], pooler: nn.Linear) -> None:
        super().__init__()
        self.layers, self.pooler, self.dropout = nn.ModuleList(layers), pooler, nn.Dropout(0.1)

    def forward(self, state: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Run the layers, pooling after each; the first stage takes token ids ``[N, T]``."""
        hidden, pooled = (state, []) if isinstance(state, Tensor) else (state[0], [state[1]])
        for layer in self.layers:
            hidden = layer(hidden)
            pooled.append(self.dropout(torch.tanh(self.pooler(hidden.mean(dim=1))))[:, None])
        return hidden, torch.cat(pooled, dim=1)


class Mix(nn.Module):
    """A mixture, with learned weights of unit length, of what the layers so far have pooled."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(torch.randn(layers))

    def forward(self, state: tuple[Tensor, Tensor]) -> Tensor:
        """From the state of `Layers` to ``[N, d]``."""
        return torch.einsum("l,nld->nd", self.direction / self.direction.square().sum().sqrt(), state[1])


@dataclass(frozen=True)
class RightTool(TextMethod):
    """Calibrated confidence at a few exits."""

    encoder: str = "minilm-l6"  # backbone; the paper: BERT-large
    corpus: str = "rotten-tomatoes"  # data; the paper: AG News, IMDB, SST, SNLI, MultiNLI
    layers: tuple[int, ...] = (1, 2, 4, 6)  # number of layers before each classifier; the paper: 1, 5, 13, 24
    train_size: int = 4000  # training sentences
    epochs: float = 1.0  # passes over them; the paper: 2
    batch: int = 32  # the paper: 72
    rate: float = 1e-4  # learning rate; the paper: drawn from 2e-5, 3e-5, 5e-5
    head_rate: float = 1e-3  # learning rate of heads; the paper: the same as of the rest
    calibrated: bool = True  # False: all temperatures 1

    data: ClassVar[tuple[str, ...]] = ("minilm-l6", "movie-reviews")
    knob: ClassVar[str] = "threshold"
    knobs: ClassVar[tuple[float, ...]] = CONFIDENCES
    variants: ClassVar[Mapping[str, Mapping[str, Any]]] = {"calibrated": {}, "uncalibrated": {"calibrated": False}}
    tiny: ClassVar[Mapping[str, Any]] = {
        "encoder": "tiny", "corpus": "digits", "layers": (1, 2, 4), "train_size": 900,
        "epochs": 6.0, "rate": 5e-3, "head_rate": 1e-2,
    }  # fmt: skip

    def build(self, data: Data, seed: int) -> MultiExit:
        """A stage up to each classifier, and one pooler for all layers."""
        torch.manual_seed(seed)
        model = encoder(self.encoder)
        every, pooler = stages_of(model), pooler_of(model)
        stages = [Layers(every[a:b], pooler) for a, b in zip((0, *self.layers), self.layers, strict=False)]
        heads = [nn.Sequential(Mix(k), nn.Linear(pooler.out_features, data.classes or 1)) for k in self.layers]
        return MultiExit(stages, heads).eval()

    def train(self, model: MultiExit, data: Data, bench: Bench) -> None:
        """Joint training on the plain sum of the losses."""
        train_joint(model, data, bench, weights=[1.0] * model.exits, optimiser=torch.optim.Adam, **self.options)

    def policy(self, knob: float, prepared: Prepared) -> Tempered:
        """The knob is the threshold c; the temperatures come from validation data."""
        held = prepared.split("validation")
        found = (fit_temperature(z, held.targets) if self.calibrated else 1.0 for z in held.outputs)
        return Tempered(tuple(found), MaxConfidence(knob))

    def shown(self, outputs: Tensor, prepared: Prepared) -> Tensor:
        """Each exit's logits over its temperature."""
        return outputs / torch.tensor(self.policy(0, prepared).temperatures)[:, None, None]

    def claims(self, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
        """Faster at the same accuracy, the threshold chosen on validation; confidence means what it says."""
        tried = self.sweep(prepared, bench, "validation", self.knobs)
        kept = max((p for p in tried if p.quality >= tried[-1].quality), key=lambda p: p.speed_up)
        seen, best = prepared.split("test"), self.sweep(prepared, bench, "test", [kept.knob])[0]
        before, after = (calibration_error(z, seen.targets) for z in (seen.outputs, self.shown(seen.outputs, prepared)))
        return [
            Outcome(
                name="faster at the same accuracy",
                statement="A threshold that costs no validation accuracy is 5× faster, the paper's figure for the "
                "best of its five data sets, and loses a point at most on test data.",
                holds=best.quality >= curve.full_quality - 0.01 and best.speed_up >= 5,
                measured=f"{best.quality:.4f} / {curve.full_quality:.4f} at {best.knob:g}, {best.speed_up:.2f}× faster",
            ),
            Outcome(
                name="calibration carries over",
                statement="On new data, the temperatures bring confidence nearer to accuracy.",
                holds=after < before,
                measured=f"expected calibration error, mean over exits: {before:.4f} before, {after:.4f} after",
            ),
        ][: 1 + self.calibrated]
