"""Small drawings in colour, beside coarse maps of the kind of colour in each place.

A map is to a drawing what a semantic map is to a photograph: it says what is where, not what it looks like.
"""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Rows, Split, divide

ITEM = "emoji"
SIDE, BORDER = 32, 1
"""Side of a drawing in pixels, and the border around each on the sheet."""
LEFT_OUT = ("People & Body", "Component")
"""Categories that are not taken: most of the first are a few people in very many variants."""


@dataclass(frozen=True)
class Drawings:
    """`n` drawings `[n, C, side, side]` from -1 to 1, kinds of colour `[n, h, h]` from 0, and rows of the source."""

    pictures: NDArray[np.float32]
    kinds: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)


def drawings(
    source: str, *, side: int, levels: int, coarse: int, train: int, validation: int, test: int, seed: int = 0
) -> Split[Drawings]:
    """Return drawings on white with their maps, of which a place is the mean over ``coarse × coarse`` pixels.

    A smaller ``side`` than the drawings have is reached by means over squares of pixels. Each channel of a place's mean
    is one of ``levels`` equal steps, so there are levels to the power of channels kinds. ``emoji`` (three channels,
    32×32), or for unit tests only ``digits`` and ``inverted-digits`` (scikit-learn's, one channel, 8×8). Raises
    `ValueError` for another source, or for sides and maps that cannot be had.
    """
    if source == "emoji":
        pixels, name = _twemoji(), ITEM
    elif source in ("digits", "inverted-digits"):
        from sklearn.datasets import load_digits

        pixels, name = np.rint(load_digits().images[:, None] * (255 / 16)).astype(np.uint8), ""
        pixels = 255 - pixels if source == "inverted-digits" else pixels
    else:
        raise ValueError(f"no drawings {source!r}; there are emoji, digits and inverted-digits")
    own = pixels.shape[-1]
    if side < 1 or own % side:
        raise ValueError(f"drawings of {own} pixels a side can be had at a whole part of that, not at {side}")
    if levels < 2 or coarse < 1 or side % coarse:
        raise ValueError(f"maps have two levels or more, and places that fill {side} pixels, not {levels} and {coarse}")
    rows = _divided(len(pixels), (train, validation, test), seed, name or source)
    parts = [_part(pixels, part, side, levels, coarse) for part in (rows.train, rows.validation, rows.test)]
    return Split(parts[0], parts[1], parts[2], f"{source} {side} {levels} {coarse} {rows.digest}")


def _divided(count: int, sizes: tuple[int, int, int], seed: int, name: str) -> Rows:
    if name == ITEM:
        return divide(range(count), *sizes, seed=seed, item=name)
    from eelit.methods.data.split import shuffled

    train, validation, test = sizes
    order, held = shuffled(range(count), seed), validation + test
    parts = [np.array(part, np.int64) for part in (order[held : held + train], order[test:held], order[:test])]
    digest = hashlib.sha256(b"".join(part.astype("<i8").tobytes() for part in parts)).hexdigest()[:16]
    return Rows(parts[0], parts[1], parts[2], digest)


def _part(pixels: NDArray[np.uint8], rows: NDArray[np.int64], side: int, levels: int, coarse: int) -> Drawings:
    chosen = _means(pixels[rows].astype(np.float32) / np.float32(255), side)
    return Drawings(chosen * 2 - 1, kinds_of(chosen, levels, coarse), rows)


def kinds_of(pictures: NDArray[np.float32], levels: int, coarse: int) -> NDArray[np.int64]:
    """Return the kind of colour `[n, h, h]` in each place of pictures `[n, C, side, side]` from 0 to 1."""
    steps = np.minimum((_means(pictures, pictures.shape[-1] // coarse) * levels).astype(np.int64), levels - 1)
    found: NDArray[np.int64] = np.einsum("nchw,c->nhw", steps, levels ** np.arange(pictures.shape[1]))
    return found


def _means(pictures: NDArray[np.float32], side: int) -> NDArray[np.float32]:
    """Pictures at a side that divides their own."""
    n, channels, own, _ = pictures.shape
    step = own // side
    found: NDArray[np.float32] = pictures.reshape(n, channels, side, step, side, step).mean(axis=(3, 5))
    return found


def _twemoji() -> NDArray[np.uint8]:
    """All drawings that are taken, on white, in the order of the list: `[n, 3, 32, 32]`."""
    from PIL import Image

    folder = fetch.path(ITEM)
    with Image.open(folder / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGBA"), dtype=np.float32)
    cover = drawn[..., 3:] / np.float32(255)
    on_white = np.rint(drawn[..., :3] * cover + 255 * (1 - cover)).astype(np.uint8)
    listed = json.loads((folder / "emoji.json").read_text(encoding="utf-8"))
    step = SIDE + 2 * BORDER
    corners = [
        (each["sheet_y"] * step + BORDER, each["sheet_x"] * step + BORDER)
        for each in listed
        if each["has_img_twitter"] and each["category"] not in LEFT_OUT
    ]
    cut = np.stack([on_white[top : top + SIDE, left : left + SIDE] for top, left in corners])
    return np.ascontiguousarray(cut.transpose(0, 3, 1, 2))
