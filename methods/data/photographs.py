"""Photographs compressed as JPEG at several qualities, in square pieces, beside what they were.

Training, validation and test pieces come from different photographs. A photograph is made grey and compressed as a
whole; pieces are cut at multiples of 8 pixels, so that the blocks of the codec lie in all of them alike.
"""

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.derived import arrays
from eelit.methods.data.split import Split, shuffled, source_digest

ITEMS = ("photographs", "more-photographs")
"""Those of scikit-image, which were never compressed with losses; and larger ones, which were."""
BLOCK = 8
"""Side of the blocks that JPEG compresses one by one, in pixels."""
SCIKIT_LEARN = ("china", "flower")
"""Photographs that scikit-learn brings: they were JPEG before, so each 2×2 pixels are averaged."""
MORE = (
    "aitzgorri", "bridge", "dragonfly", "free", "friends", "greentock", "life", "picosdeeuropa", "picture-0b",
    "picture-1a", "seeding", "sunset", "wine",
)  # fmt: skip
"""The larger photographs, in the order of their names: they go to training, validation and tests in turn."""
SHORTER = 400
"""To how many pixels the shorter side of a larger photograph is reduced, or a few more: n×n pixels are averaged."""
SOURCES = {
    "photographs": (("astronaut", "brick", "grass", "gravel", "moon", *SCIKIT_LEARN, *MORE[0::3]),
                    ("camera", "coins", *MORE[1::3]), ("chelsea", "coffee", *MORE[2::3])),
    "china": (("china",), ("flower",), ("flower",)),
    "flower": (("flower",), ("china",), ("china",)),
}  # fmt: skip
"""Name of a source → photographs for training, validation, and tests.

If validation and tests share one photograph, validation has its left half and tests have the right one.
"""


@dataclass(frozen=True)
class Compressed:
    """`n` pieces as they were compressed and as they had been, float32 `[n, side, side]` from 0 to 1, and how."""

    compressed: NDArray[np.float32]
    clean: NDArray[np.float32]
    levels: NDArray[np.int64]  # [n], number of the quality with which each was compressed

    def __len__(self) -> int:
        return len(self.levels)


def compressed(
    source: str, qualities: Sequence[int], *, side: int, train: int, test_side: int = 64, seed: int = 0
) -> Split[Compressed]:
    """Return pieces of photographs, every place at each of the JPEG qualities in turn.

    ``train`` places for training are drawn at random and may overlap; those for validation and tests, of ``test_side``
    pixels, lie side by side. Raises `ValueError` for an unknown source, or sides and qualities that cannot be had.
    """
    if source not in SOURCES:
        raise ValueError(f"no photographs {source!r}; there are {', '.join(SOURCES)}")
    if min(side, test_side) < 2 * BLOCK or side % BLOCK or test_side % BLOCK:
        raise ValueError(f"pieces have sides of at least two blocks of {BLOCK} pixels, not {side} and {test_side}")
    if not qualities or not all(1 <= quality <= 95 for quality in qualities):
        raise ValueError(f"JPEG has qualities from 1 to 95, not {list(qualities)}")
    learnt, held, tested = ([_grey(name) for name in names] for names in SOURCES[source])
    if SOURCES[source][1] == SOURCES[source][2]:
        held, tested = [_half(picture, 0) for picture in held], [_half(picture, 1) for picture in tested]
    parts = (
        _pieces(learnt, qualities, _drawn(learnt, side, train, seed), side),
        _pieces(held, qualities, _tiled(held, test_side, seed), test_side),
        _pieces(tested, qualities, _tiled(tested, test_side, seed), test_side),
    )
    return Split(parts[0], parts[1], parts[2], _digest(source, parts))


def _grey(name: str) -> NDArray[np.uint8]:
    """A photograph `[height, width]`, cut to whole blocks."""
    from PIL import Image

    if name in SCIKIT_LEARN:
        from sklearn.datasets import load_sample_image

        picture = Image.fromarray(load_sample_image(f"{name}.jpg")).convert("L").reduce(2)
    elif name in MORE:
        picture = Image.fromarray(_reduced(name))
    else:
        picture = Image.open(fetch.path(ITEMS[0]) / f"{name}.png").convert("L")
    height, width = (length // BLOCK * BLOCK for length in (picture.height, picture.width))
    return np.asarray(picture, dtype=np.uint8)[:height, :width]


def _reduced(name: str) -> NDArray[np.uint8]:
    """A larger photograph in grey, reduced; kept, as reading all of them takes seconds."""
    from PIL import Image

    def read() -> dict[str, NDArray[Any]]:
        large = Image.open(fetch.path(ITEMS[1]) / f"{name}.jpg").convert("L")
        return {"grey": np.asarray(large.reduce(min(large.size) // SHORTER))}

    return arrays(f"photograph-{name}", f"{SHORTER} {source_digest(ITEMS[1])}", read)["grey"]


def _half(picture: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    middle = picture.shape[1] // 2 // BLOCK * BLOCK
    return picture[:, middle:] if number else picture[:, :middle]


def _drawn(pictures: Sequence[NDArray[np.uint8]], side: int, n: int, seed: int) -> list[tuple[int, int, int]]:
    """Number of the photograph, top and left of `n` random places on multiples of a block."""
    random, found = np.random.default_rng(seed), []
    for i in range(n):
        number = i % len(pictures)
        top, left = (int(random.integers((length - side) // BLOCK + 1)) * BLOCK for length in pictures[number].shape)
        found.append((number, top, left))
    return found


def _tiled(pictures: Sequence[NDArray[np.uint8]], side: int, seed: int) -> list[tuple[int, int, int]]:
    """All places side by side, in an order of chance, so that the first few come from everywhere."""
    every = [
        (number, top, left)
        for number, picture in enumerate(pictures)
        for top in range(0, picture.shape[0] - side + 1, side)
        for left in range(0, picture.shape[1] - side + 1, side)
    ]
    return [every[i] for i in shuffled(range(len(every)), seed)]


def _pieces(
    pictures: Sequence[NDArray[np.uint8]], qualities: Sequence[int], places: Sequence[tuple[int, int, int]], side: int
) -> Compressed:
    spoilt = [[_jpeg(picture, quality) for quality in qualities] for picture in pictures]

    def cut(picture: NDArray[np.uint8], top: int, left: int) -> NDArray[np.float32]:
        return picture[top : top + side, left : left + side].astype(np.float32) / np.float32(255)

    levels = np.tile(np.arange(len(qualities)), len(places))
    before = [cut(pictures[number], top, left) for number, top, left in places for _ in qualities]
    after = [cut(each, top, left) for number, top, left in places for each in spoilt[number]]
    spoilt_pieces, clean_pieces = (np.array(each, np.float32).reshape(-1, side, side) for each in (after, before))
    return Compressed(spoilt_pieces, clean_pieces, levels)


def _jpeg(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """What is left of a photograph that was compressed."""
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), dtype=np.uint8)


def _digest(source: str, parts: Sequence[Compressed]) -> str:
    fetched = "".join(source_digest(item) for item in ITEMS) if source == "photographs" else source
    found = hashlib.sha256(fetched.encode())
    for part in parts:
        content: tuple[NDArray[Any], ...] = (part.compressed, part.clean, part.levels)
        for array in content:
            found.update(array.tobytes())
    return found.hexdigest()[:16]
