"""Patches of 32×32 pixels in colour, of which a few show a ball: emoji, or drawn discs, on photographs.

Each part of the data takes its backgrounds from other photographs, and its drawings perhaps from other makers.
Patches without the ball are photographs alone, or show another round thing, which lies anywhere, as the ball does.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Split, source_digest

BACKGROUNDS = "photographs"
SIDE = 32
BALL = "26bd"
"""The soccer ball."""
OTHERS = (
    "1f30d", "1f315", "1f345", "1f34a", "1f34e", "1f36a", "1f3b1", "1f3c0", "1f3d0", "1f534", "1f535", "1f600", "26aa",
    "26be",
)  # fmt: skip
"""Round things: globe, moon, tomato, tangerine, apple, cookie, eight ball, basket and volley ball, red and blue circle,
face, white circle, baseball. Tennis balls and yarn are left out: some makers add a racket or needles."""
MAKERS = {"emoji": "png", "emoji-noto": "png", "emoji-fluent": "webp"}
"""Items with drawings of these things, and the kind of their files."""
DRAWN_BY = {
    "makers": ((*MAKERS,), (*MAKERS,), (*MAKERS,)),
    "unseen-maker": (("emoji", "emoji-fluent"), ("emoji", "emoji-fluent"), ("emoji-noto",)),
}
"""Name of a source → makers whose drawings are in training, validation and test patches."""
SCENES = (("astronaut", "camera", "coins", "grass"), ("coffee", "brick"), ("chelsea", "gravel", "moon"))
"""Photographs behind the drawings, for training, validation and test."""
DECOYS = 0.4  # of the patches without the ball that show another round thing
ZOOM, JITTER = 1.5, 0.25  # side of a patch in diameters expected of the ball; how far the real ones are off, as a share


@dataclass(frozen=True)
class Patches:
    """`n` patches float32 `[n, 3, 32, 32]`, and `[n, 3]`: 1 for a ball, else 0, and where its centre lies."""

    images: NDArray[np.float32]
    spots: NDArray[np.float32]  # the centre is given across and down, as shares of the side

    def __len__(self) -> int:
        return len(self.spots)


Things = tuple[Sequence[Any], Sequence[Any]]
"""Drawings of the ball, and of other round things."""


def patches(source: str, *, share: float, train: int, validation: int, test: int, seed: int = 0) -> Split[Patches]:
    """Return patches of which a share shows the ball.

    ``makers`` has the drawings of all of them in all parts; in ``unseen-maker`` those in the test are another one's;
    ``drawn`` and ``drawn-dark`` are discs on scikit-learn's photographs, for unit tests only. Raises `ValueError` for
    another source or a share that is none.
    """
    if not 0 < share < 1:
        raise ValueError(f"the share of patches with a ball lies between 0 and 1, not at {share}")
    things: list[Things]
    if source in DRAWN_BY:
        grounds = [[_photographs(name) for name in scenes] for scenes in SCENES]
        things = [
            ([_emoji(maker, BALL) for maker in makers], [_emoji(maker, n) for maker in makers for n in OTHERS])
            for makers in DRAWN_BY[source]
        ]
        depends = source + "".join(source_digest(item) for item in (*MAKERS, BACKGROUNDS))
    elif source in ("drawn", "drawn-dark"):
        grounds, dark = [[photograph] for photograph in _of_scikit_learn()], source == "drawn-dark"
        things = [([_disc(dark, spots=True)], [_disc(dark, spots=False), _disc(not dark, spots=False)])] * 3
        depends = source
    else:
        raise ValueError(f"no balls {source!r}; there are makers, unseen-maker, drawn and drawn-dark")
    parts = [
        _part(ground, shown, share, n, np.random.default_rng([seed, number]))
        for number, (ground, shown, n) in enumerate(zip(grounds, things, (train, validation, test), strict=True))
    ]
    found = hashlib.sha256(depends.encode())
    for part in parts:
        for array in (part.images, part.spots):
            found.update(array.tobytes())
    return Split(parts[0], parts[1], parts[2], found.hexdigest()[:16])


def _photographs(name: str) -> Any:
    from PIL import Image

    return Image.open(fetch.path(BACKGROUNDS) / f"{name}.png").convert("RGB")


def _of_scikit_learn() -> list[Any]:
    """A photograph for training, and both halves of another."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    china, flower = (Image.fromarray(load_sample_image(f"{name}.jpg")) for name in ("china", "flower"))
    middle = flower.width // 2
    return [china, flower.crop((0, 0, middle, flower.height)), flower.crop((middle, 0, flower.width, flower.height))]


def _emoji(item: str, name: str) -> Any:
    from PIL import Image

    return Image.open(fetch.path(item) / f"{name}.{MAKERS[item]}").convert("RGBA").resize((64, 64))


def _disc(dark: bool, *, spots: bool) -> Any:
    """A disc of 64 pixels with or without five spots, on nothing."""
    from PIL import Image, ImageDraw

    body, spot = ((20, 20, 20), (240, 240, 240)) if dark else ((240, 240, 240), (20, 20, 20))
    picture = Image.new("RGBA", (64, 64))
    draw = ImageDraw.Draw(picture)
    draw.ellipse((1, 1, 62, 62), fill=(*body, 255))
    for angle in np.arange(5) * 2 * np.pi / 5 if spots else []:
        across, down = 32 + 19 * np.cos(angle), 32 + 19 * np.sin(angle)
        draw.ellipse((across - 8, down - 8, across + 8, down + 8), fill=(*spot, 255))
    return picture


def _part(grounds: Sequence[Any], things: Things, share: float, n: int, random: np.random.Generator) -> Patches:
    images, spots = np.empty((n, 3, SIDE, SIDE), np.float32), np.zeros((n, 3), np.float32)
    balls, others = things
    for i in range(n):
        ground = _one_of(grounds, random)
        zoom = int(random.integers(SIDE, 3 * SIDE))
        left, top = (int(random.integers(length - zoom + 1)) for length in ground.size)
        patch = ground.crop((left, top, left + zoom, top + zoom)).resize((SIDE, SIDE))
        shows, decoy = random.random() < share, random.random() < DECOYS
        if shows or decoy:
            across, down = _place(patch, _one_of(balls if shows else others, random), random)
        if shows:
            spots[i] = 1, across / SIDE, down / SIDE
        light = random.uniform(0.6, 1.2)
        pixels = np.asarray(patch, dtype=np.float32).transpose(2, 0, 1) * np.float32(light / 255)
        noise = random.normal(0, 0.02, pixels.shape).astype(np.float32)
        images[i] = ((pixels + noise).clip(0, 1) - 0.5) * 4
    return Patches(images, spots)


def _one_of(things: Sequence[Any], random: np.random.Generator) -> Any:
    return things[int(random.integers(len(things)))] if len(things) > 1 else things[0]


def _place(patch: Any, thing: Any, random: np.random.Generator) -> tuple[float, float]:
    """Put a thing on a patch, turned and of about the expected size; return its centre, across and down, in pixels."""
    size = round(SIDE / ZOOM * random.uniform(1 - JITTER, 1 + JITTER))
    turned = thing.rotate(float(random.uniform(0, 360)), resample=2).resize((size, size))
    left, top = (int(random.integers(-size // 4, SIDE - size + size // 4 + 1)) for _ in range(2))
    patch.paste(turned, (left, top), turned)
    return left + size / 2, top + size / 2
