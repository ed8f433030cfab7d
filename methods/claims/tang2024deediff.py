"""What AdaDiff claims: two fifths saved at hardly a loss, at depths that differ between steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.operating_points import at, cheapest_within
from eelit.methods.engine.records import Curve, OperatingPoint, Outcome
from eelit.methods.families.exits import Prepared
from eelit.methods.papers.tang2024deediff import AdaDiff, drawn, images_in
from eelit.methods.recipes.plain import train_plain

LOSS = 0.02
"""Of explained variance, on validation images, within which a threshold is chosen."""
IMAGES, STEPS = 500, 25
"""How many images are drawn at most, in how many steps."""


class Features(nn.Module):
    """A small convolutional network: 32 numbers by which images are compared, learned in telling their classes."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side
        self.layers = nn.Sequential(
            *(nn.Conv2d(1, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(), nn.Flatten()),
            nn.LazyLinear(32),
        )
        self.layers(torch.zeros(1, 1, side, side))

    def forward(self, x: Tensor) -> Tensor:
        """Map images ``[N, D]`` to ``[N, 32]``."""
        found: Tensor = self.layers(x.reshape(-1, 1, self.side, self.side))
        return found


def claims(method: AdaDiff, prepared: Prepared, bench: Bench, curve: Curve) -> list[Outcome]:
    """On single steps against fixed depths, and on images that are drawn."""
    chosen = cheapest_within(curve.validation, curve.test, LOSS)
    plain = method.replace({"lam": 0.0, "beta": 0.0, "gamma": 0.0})
    base, _ = plain.full_model(plain.prepare(bench), bench)
    return [
        better_than_fixed(curve),
        *of_images(method, prepared, bench, chosen),
        Outcome(
            name="no worse for being taught at every layer",
            statement="The whole network explains no less of the noise than one trained on its last layer alone, but "
            "for a hundredth.",
            holds=curve.full_quality >= base - 0.01,
            measured=f"{curve.full_quality:.4f} and {base:.4f}",
        ),
    ]


def better_than_fixed(curve: Curve) -> Outcome:
    """Compare with the network cut off after a layer, a mixture of two where none costs as much."""
    rival = next(each for each in curve.baselines if each.name == "static exit")
    gains = []
    for share in (0.5, 0.6, 0.7, 0.8):
        ours = at(curve.validation, curve.test, share)
        theirs = at(rival.validation, rival.test, share)
        gains += [ours.quality - theirs.quality] if ours and theirs else []
    gain = sum(gains) / len(gains) if gains else 0.0
    return Outcome(
        name="better than a fixed depth",
        statement="At half to four fifths of the cost, a hundredth more of the noise's variance is explained on "
        "average than by layers that are fixed beforehand, settings of either chosen on validation images.",
        holds=gain >= 0.01,
        measured=f"{gain:+.4f} on average over {len(gains)} costs",
    )


def of_images(method: AdaDiff, prepared: Prepared, bench: Bench, chosen: OperatingPoint) -> list[Outcome]:
    """Draw images of the same noise by the whole network, at the chosen threshold and at a fixed depth of its cost."""
    model, real = prepared.model, images_in(prepared.split("test").examples)[:IMAGES]
    noise = torch.randn(real.shape, generator=torch.Generator().manual_seed(bench.seed))
    features = learned(prepared, bench)
    whole, _ = drawn(model, None, noise, STEPS)
    ours, exits = drawn(model, method.rule(chosen.knob, prepared), noise, STEPS)
    spent = prepared.split("test").costs[:, 0][exits.numpy()].mean() / prepared.split("test").full_costs[0]
    with torch.inference_mode():
        far, near = (frechet(features(x), features(real)) for x in (ours, whole))
        noised = frechet(features(noise), features(real))
    depth = exits.double().mean(dim=1) + 1
    return [
        Outcome(
            name="two fifths saved on images that stay as good",
            statement="At the cheapest threshold that loses at most 0.02 of explained variance on validation images, "
            "images drawn are at most a tenth further from real ones than those of the whole network, for at most 60 % "
            "of its cost. The distance is Fréchet's, between 32 features of a small network that tells the classes.",
            holds=far <= 1.1 * near and spent <= 0.6,
            measured=f"distance {far:.3f} and {near:.3f} (noise: {noised:.3f}) for {spent:.0%} of the cost, at "
            f"threshold {chosen.knob:g}",
        ),
        Outcome(
            name="depth differs between steps",
            statement="While images are drawn at this threshold, the mean exit of some step is a layer deeper than "
            "that of another.",
            holds=float(depth.max() - depth.min()) >= 1,
            measured=f"from layer {float(depth.min()):.2f} to {float(depth.max()):.2f} on average, of {model.exits}; "
            f"{float(depth[0]):.2f} in the first step and {float(depth[-1]):.2f} in the last",
        ),
    ]


def learned(prepared: Prepared, bench: Bench) -> Features:
    """Return the features, learned from the classes of the training images."""
    torch.manual_seed(bench.seed)
    data = prepared.data.without_test()
    features = Features(round(len(data.train.inputs[0]) ** 0.5))
    classes = MultiExit([features], [nn.Sequential(nn.ReLU(), nn.Linear(32, 10))])
    train_plain(classes, data, bench, epochs=3.0, batch=32, rate=3e-3)
    return features


def frechet(x: Tensor, y: Tensor) -> float:
    """Return ``|m_x - m_y|^2 + tr(C_x + C_y - 2 (C_x C_y)^(1/2))`` of features ``[N, d]`` and ``[M, d]``."""
    x, y = x.double(), y.double()
    C_x, C_y = x.T.cov(), y.T.cov()
    values = torch.linalg.eigvals(C_x @ C_y).real.clamp_min(0)
    found = (x.mean(dim=0) - y.mean(dim=0)).square().sum() + C_x.trace() + C_y.trace() - 2 * values.sqrt().sum()
    return max(0.0, float(found))  # what is equal may come out next to it
