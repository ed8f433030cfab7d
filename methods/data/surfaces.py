"""Photographed surfaces with defects drawn on them: scratches and pits of known width.

Real are the surfaces (brick, grass and gravel, from the photographs of scikit-image), drawn are the defects: so it is
known how wide each is. Training, validation and test pictures come from different strips of each surface.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Split, source_digest

ITEM = "photographs"
SURFACES = ("brick", "grass", "gravel")
CLASSES = ("sound", "scratch", "pit")
SHARES = (0.5, 0.25, 0.25)  # of the classes
STRIPS = ((0.0, 0.5), (0.5, 0.7), (0.7, 1.0))
"""Where the columns for training, validation and tests begin and end, as shares of a surface's width."""
WIDTHS = (1.0, 10.0)  # of scratches, and radii of pits, in pixels: their logarithms are drawn evenly between these
DEPTHS = (0.35, 0.7)  # by how much a defect is brighter or darker than the surface, on a scale of 0 to 1
CONTRAST = 0.4  # what is left of a surface's own contrast: as under even light
GREY, SPREAD = 0.5, 0.15  # taken off a picture, and what it is divided by


@dataclass(frozen=True)
class Inspected:
    """`n` pictures float32 `[n, 1, side, side]`, the class of each int64 `[n]`, and the size of its defect `[n]`."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    widths: NDArray[np.float32]  # of a scratch, or half that of a pit, in pixels; 0 where there is neither

    def __len__(self) -> int:
        return len(self.labels)


def inspected(source: str, *, side: int, train: int, validation: int, test: int, seed: int = 0) -> Split[Inspected]:
    """Return pictures of surfaces, of which half are sound.

    ``surfaces`` are the photographed ones; ``made`` and ``made-fine`` are noise, for unit tests only. Raises
    `ValueError` for another source, or a side that no strip has.
    """
    if source == "surfaces":
        grounds = [_photographed(name) for name in SURFACES]
    elif source in ("made", "made-fine"):
        grounds = [_noise(4 if source == "made" else 2)]
    else:
        raise ValueError(f"no surfaces {source!r}; there are surfaces, made and made-fine")
    narrowest = min(ground.shape[1] * (end - start) for ground in grounds for start, end in STRIPS)
    if not 8 <= side <= narrowest:
        raise ValueError(f"pictures have sides from 8 to {narrowest:.0f} pixels, not {side}")
    parts = [
        _part([_strip(ground, *strip) for ground in grounds], n, side, np.random.default_rng([seed, number]))
        for number, (strip, n) in enumerate(zip(STRIPS, (train, validation, test), strict=True))
    ]
    found = hashlib.sha256((source_digest(ITEM) if source == "surfaces" else source).encode())
    for part in parts:
        for array in (part.images, part.labels):
            found.update(array.tobytes())
    return Split(parts[0], parts[1], parts[2], found.hexdigest()[:16])


def _photographed(name: str) -> NDArray[np.float64]:
    from PIL import Image

    picture = Image.open(fetch.path(ITEM) / f"{name}.png").convert("L")
    return np.asarray(picture, dtype=np.float64) / 255


def _noise(grain: int) -> NDArray[np.float64]:
    """Noise in squares of some pixels, 160×160 pixels."""
    random = np.random.default_rng(grain)
    return random.random((160 // grain, 160 // grain)).repeat(grain, axis=0).repeat(grain, axis=1)


def _strip(ground: NDArray[np.float64], start: float, end: float) -> NDArray[np.float64]:
    """Columns of a surface, its contrast lowered around the grey of all its pictures."""
    width = ground.shape[1]
    level: NDArray[np.float64] = GREY + CONTRAST * (ground - ground.mean())
    return level[:, round(start * width) : round(end * width)]


def _part(strips: Sequence[NDArray[np.float64]], n: int, side: int, random: np.random.Generator) -> Inspected:
    images = np.empty((n, 1, side, side), dtype=np.float32)
    labels = random.choice(len(CLASSES), size=n, p=SHARES)
    widths = np.zeros(n, dtype=np.float32)
    for i, label in enumerate(labels.tolist()):
        strip = strips[int(random.integers(len(strips)))]
        top, left = (int(random.integers(length - side + 1)) for length in strip.shape)
        picture = strip[top : top + side, left : left + side]
        picture = picture[:: random.choice([-1, 1]), :: random.choice([-1, 1])]
        if label:
            widths[i] = width = float(np.exp(random.uniform(*np.log(WIDTHS))))
            depth = random.choice([-1, 1]) * random.uniform(*DEPTHS)
            draw = _scratch if CLASSES[label] == "scratch" else _pit
            picture = picture + depth * draw(side, width, random)
        images[i, 0] = (picture.clip(0, 1) - GREY) / SPREAD
    return Inspected(images, labels.astype(np.int64), widths)


def _scratch(side: int, width: float, random: np.random.Generator) -> NDArray[np.float64]:
    """How far each pixel is inside of a straight line through most of the picture, 0 to 1."""
    angle, middle = random.uniform(0, np.pi), random.uniform(0.25, 0.75, 2) * side
    down, across = np.mgrid[:side, :side] - middle[:, None, None] + 0.5
    along, off = down * np.sin(angle) + across * np.cos(angle), down * np.cos(angle) - across * np.sin(angle)
    covered = (width / 2 + 0.5 - abs(off)).clip(0, 1)
    found: NDArray[np.float64] = covered * (abs(along) < random.uniform(0.3, 0.6) * side)
    return found


def _pit(side: int, width: float, random: np.random.Generator) -> NDArray[np.float64]:
    """How far each pixel is inside of a disc, 0 to 1; a pit is twice as wide as a scratch of its width."""
    middle = random.uniform(0.15, 0.85, 2) * side
    down, across = np.mgrid[:side, :side] - middle[:, None, None] + 0.5
    found: NDArray[np.float64] = (width + 0.5 - np.hypot(down, across)).clip(0, 1)
    return found
