"""What Transkimmer claims: much faster for less than a point, by tokens that its predictors choose well.

Of the paper's figure half is asked, as there are half as many layers: whoever needs the first k of n layers is n / k
times as fast. Sentences of at most 40 tokens are as long as those of several tasks of GLUE and do not put the bar out
of reach: if all tokens but one left at once, which the first knob does, it would be passed more than three times over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eelit.methods.backbones.encoder import text_exits
from eelit.methods.engine.method import Bench, Split
from eelit.methods.engine.records import Curve, Outcome
from eelit.methods.families.skimming import Choice, Prepared, Skimmed, gathered
from eelit.methods.papers.guan2022transkimmer import Transkimmer
from eelit.methods.recipes.plain import train_plain


def claims(method: Transkimmer, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """Much faster at the paper's own rule for less than a point; and which tokens leave is what matters."""
    (point,) = (p for p in curve.test if p.knob == 0)
    plain = accuracy_of_plain(method, prepared, bench)
    mixed = at_random(method, prepared, "test", 0.0)
    return [
        Outcome(
            name="faster at less than one point",
            statement="At margin 0 at least 5.5× faster, half of the paper's mean over GLUE as there are half as many "
            "layers, and within one point of a plain network trained as long.",
            holds=point.speed_up >= 5.5 and point.quality >= plain - 0.01,
            measured=f"{point.speed_up:.2f}×, accuracy {point.quality:.4f}, plain {plain:.4f}",
        ),
        Outcome(
            name="the predictors know whom to skim",
            statement="At margin 0 accuracy is a point better than if as many tokens leave, but drawn at random.",
            holds=point.quality >= mixed + 0.01,
            measured=f"{point.quality:.4f}, at random {mixed:.4f}",
            not_comparable="" if point.speed_up >= 1.1 else "At margin 0 hardly any token leaves.",
        ),
    ]


def accuracy_of_plain(method: Transkimmer, prepared: Prepared, bench: Bench) -> float:
    """Return the test accuracy of the encoder fine-tuned with the same recipe, but without predictors."""
    model = text_exits(method.encoder, prepared.data.classes, seed=bench.seed, shared_pooler=False)
    train_plain(model, prepared.data.without_test(), bench, **method.options)
    examples = prepared.examples("test")
    with torch.inference_mode():
        right = [model.full(x).argmax(dim=1) == examples.targets[index] for index, x in examples.batches(64)]
    return float(torch.cat(right).double().mean())


def at_random(method: Transkimmer, prepared: Prepared, split: Split, knob: float) -> float:
    """Return the quality if as many tokens of each text leave before each layer, but which of them is drawn."""
    seen, draw = prepared.seen(split, knob), torch.Generator().manual_seed(0)
    mixed = [layers[1:][torch.randperm(len(layers) - 1, generator=draw)] for layers in seen.layers]

    def run(index: Tensor, x: Tensor) -> Skimmed:
        return prepared.model.infer(x, given(torch.cat([mixed[i] for i in index.tolist()]).to(x.device)))

    return method.score(gathered(seen.examples, prepared.model, run).logits, seen.examples.targets)


def given(layers: Tensor) -> Choice:
    """Keep each token that may leave for so many layers, ``[m]``, whatever the predictors say."""
    rest, asked = layers, iter(range(int(layers.max()) + 1))

    def choose(logits: Tensor) -> Tensor:
        nonlocal rest
        stay = rest > next(asked, len(layers))
        rest = rest[stay]
        return stay.float()

    return choose
