"""Small grey pictures in ten classes: Fashion-MNIST, plain or cluttered; scikit-learn's digits for unit tests only."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Rows, Split, divide, labelled, shuffled

ITEM = "fashion-mnist"
CLASSES = (
    "T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot",
)  # fmt: skip
MEAN, STD = 0.2860, 0.3530  # of the 60,000 training pictures, on a scale of 0 to 1
OFFICIAL_TRAIN, OFFICIAL_TEST = 60_000, 10_000
CANVAS, PIECES, PIECE = 48, 8, 9
"""Side of the canvas of a cluttered picture, how many pieces of other pictures lie on it, and their side, in pixels."""
MISSING = 0.15
"""Share of views in which a camera sees nothing."""
SHIFTED = 7
"""Part of its side by which the picture is shifted more or less than the camera's own shift."""
CLUTTERED_MEAN, CLUTTERED_STD = 0.1844, 0.3204  # of the 60,000 training pictures, cluttered, on a scale of 0 to 1
R52 = (2840, 1596, 253, 251, 206, 190, 123, 108, 97, 90)
"""Training documents in the ten largest classes of Reuters R52: a long tail that nobody made.

They are earn, acq, crude, trade, money-fx, interest, money-supply, ship, sugar and coffee, counted in data/R52.txt of
yao8839836/text_gcn at 962223652e9bb164ac2d83cd09fc7b8845ce860b (the collection: cardoso2007improving).
"""


@dataclass(frozen=True)
class Pictures:
    """`n` pictures float32 `[n, 1, height, width]`, labels int64 `[n]`, and the rows of the source `[n]`."""

    images: NDArray[np.float32]
    labels: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def fashion_mnist(
    train: int = 12_000, validation: int = 5_000, test: int = 10_000, *, seed: int = 0
) -> Split[Pictures]:
    """28×28 pictures with mean 0 and deviation 1 over the official training part, from which validation is cut.

    Test pictures are the official ones; their rows are counted on from 60,000. Labels index `CLASSES`.
    """
    if test > OFFICIAL_TEST:
        raise ValueError(f"{ITEM} has {OFFICIAL_TEST} test pictures, not {test}")
    cut = divide(range(OFFICIAL_TRAIN), train, validation, 0, seed=seed, item=ITEM)
    held_out = shuffled(range(OFFICIAL_TRAIN, OFFICIAL_TRAIN + OFFICIAL_TEST), seed)[:test]
    rows = labelled(ITEM, cut.train.tolist(), cut.validation.tolist(), held_out)
    pixels, labels = _source()
    return _pictures(pixels, labels, rows, 255.0, MEAN, STD)


def cluttered_fashion_mnist(
    train: int = 12_000, validation: int = 5_000, test: int = 10_000, *, seed: int = 0
) -> Split[Pictures]:
    """The rows of `fashion_mnist`, each somewhere on a 48×48 canvas that eight pieces of other pictures clutter.

    In the manner of the cluttered MNIST of mnih2014recurrent: pieces of 9×9 pixels are cut from random places of random
    training pictures, and where things overlap the brighter pixel is seen. A row's canvas follows the seed and the row
    alone, whatever else is asked for. Mean 0 and deviation 1 over the official training part.
    """
    plain = fashion_mnist(train, validation, test, seed=seed)
    pixels, labels = _source()
    rows = Rows(plain.train.rows, plain.validation.rows, plain.test.rows, f"cluttered {seed} {plain.digest}")
    canvases = np.zeros((len(pixels), CANVAS, CANVAS), dtype=np.uint8)
    every = np.concatenate([rows.train, rows.validation, rows.test])
    canvases[every] = _cluttered(pixels, every, seed)
    return _pictures(canvases, labels, rows, 255.0, CLUTTERED_MEAN, CLUTTERED_STD)


def _cluttered(pixels: NDArray[np.uint8], rows: NDArray[np.int64], seed: int) -> NDArray[np.uint8]:
    """Return the canvases ``[n, 48, 48]`` of some rows: the picture somewhere, and pieces of training pictures."""
    random, total = np.random.default_rng(seed), len(pixels)
    side = pixels.shape[1]
    corners = random.integers(0, CANVAS - side + 1, (total, 2))[rows]
    canvases = np.zeros((len(rows), CANVAS, CANVAS), dtype=np.uint8)
    canvases[_window(np.arange(len(rows)), corners, side)] = pixels[rows]
    for _ in range(PIECES):
        others = random.integers(0, OFFICIAL_TRAIN, total)[rows]
        cut = random.integers(0, side - PIECE + 1, (total, 2))[rows]
        put = _window(np.arange(len(rows)), random.integers(0, CANVAS - PIECE + 1, (total, 2))[rows], PIECE)
        canvases[put] = np.maximum(canvases[put], pixels[_window(others, cut, PIECE)])
    return canvases


def _window(pictures: NDArray[np.int64], corners: NDArray[np.int64], side: int) -> tuple[NDArray[np.int64], ...]:
    """Return the indices of a square ``[n, side, side]`` in each picture ``[n]``, given its corner ``[n, 2]``."""
    across = np.arange(side)
    return pictures[:, None, None], corners[:, :1, None] + across[:, None], corners[:, 1:, None] + across


def _source() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All pictures ``[70000, 28, 28]`` and labels, the training part first."""
    folder = fetch.path(ITEM)
    pixels = np.concatenate([_idx(folder / f"{part}-images-idx3-ubyte") for part in ("train", "t10k")])
    labels = np.concatenate([_idx(folder / f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")])
    return pixels, labels


def digits(train: int = 1_000, validation: int = 300, test: int = 497, *, seed: int = 0) -> Split[Pictures]:
    """scikit-learn's 1,797 digits of 8×8 pixels, values 0 to 1. For unit tests only: too easy to show a method on."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = shuffled(range(len(source.target)), seed)
    held = test + validation
    if held + train > len(order):
        raise ValueError(f"digits has {len(order)} pictures, not {train} + {validation} + {test}")
    parts = [np.array(part, dtype=np.int64) for part in (order[held : held + train], order[test:held], order[:test])]
    return _pictures(source.images, source.target, Rows(parts[0], parts[1], parts[2], f"digits {seed}"), 16.0, 0.0, 1.0)


def long_tailed(
    source: str, train: int, validation: int, test: int = 10_000, *, tail: Sequence[int] = R52, seed: int = 0
) -> Split[Pictures]:
    """Pictures of which few classes have most for training, class c ``apportioned(tail, train)[c]``; others balanced.

    ``fashion-mnist`` and ``cluttered`` are as in the loaders so named: the official test pictures, 1,000 of each class,
    and as many of each class for validation, cut from the training part. ``digits`` are for unit tests only: those of
    `digits`, of whose training part some are taken. Raises `ValueError` for another source, a tail of anything but ten
    numbers above 0, or too few pictures.
    """
    if len(tail) != len(CLASSES) or not all(0 < count < math.inf for count in tail):
        raise ValueError(f"a tail has a number above 0 for each of {len(CLASSES)} classes, not {list(tail)}")
    wanted = apportioned(tail, train)
    if source == "digits":
        whole = digits(test=min(test, 497), seed=seed)
        taken, _ = _of_each_class(range(len(whole.train)), whole.train.labels, wanted)
        part = Pictures(whole.train.images[taken], whole.train.labels[taken], whole.train.rows[taken])
        return Split(part, whole.validation, whole.test, f"long-tailed {wanted} {whole.digest}")
    if source not in ("fashion-mnist", "cluttered"):
        raise ValueError(f"no long-tailed images {source!r}; there are fashion-mnist, cluttered and digits")
    pixels, labels = _source()
    even = apportioned([1] * len(tail), validation)
    held, left = _of_each_class(shuffled(range(OFFICIAL_TRAIN), seed), labels, even)
    drawn, _ = _of_each_class(left, labels, wanted)
    rows = labelled(ITEM, drawn, held, fashion_mnist(0, 0, test, seed=seed).test.rows.tolist())
    if source == "fashion-mnist":
        return _pictures(pixels, labels, rows, 255.0, MEAN, STD)
    rows = Rows(rows.train, rows.validation, rows.test, f"cluttered {seed} {rows.digest}")
    every = np.concatenate([rows.train, rows.validation, rows.test])
    canvases = np.zeros((len(pixels), CANVAS, CANVAS), dtype=np.uint8)
    canvases[every] = _cluttered(pixels, every, seed)
    return _pictures(canvases, labels, rows, 255.0, CLUTTERED_MEAN, CLUTTERED_STD)


def apportioned(tail: Sequence[int], total: int) -> list[int]:
    """Return whole numbers proportional to a tail that add up to a total; what is left goes to the largest rests."""
    exact = [total * count / sum(tail) for count in tail]
    found = [math.floor(count) for count in exact]
    rests = sorted(range(len(tail)), key=lambda c: (found[c] - exact[c], c))
    for c in rests[: total - sum(found)]:
        found[c] += 1
    return found


def _of_each_class(rows: Iterable[int], labels: NDArray, sizes: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the first ``sizes[c]`` of the rows of each class c, and all others, both in their order.

    Raises `ValueError` if there are too few.
    """
    wanted, taken, left = list(sizes), [], []
    for row in rows:
        label = int(labels[row])
        if wanted[label] > 0:
            wanted[label] -= 1
            taken.append(row)
        else:
            left.append(row)
    if any(wanted):
        raise ValueError(f"there are too few pictures for {list(sizes)} of the classes: {wanted} are missing")
    return taken, left


def _pictures(
    pixels: NDArray, labels: NDArray, rows: Rows, white: float, mean: float, deviation: float
) -> Split[Pictures]:
    def part(numbers: NDArray[np.int64]) -> Pictures:
        scaled = (pixels[numbers].astype(np.float32) / np.float32(white) - np.float32(mean)) / np.float32(deviation)
        return Pictures(scaled[:, np.newaxis], labels[numbers].astype(np.int64), numbers)

    return Split(part(rows.train), part(rows.validation), part(rows.test), rows.digest)


def _idx(path: Path) -> NDArray[np.uint8]:
    """An IDX file of bytes: two zeros, type 8, number of axes, big-endian lengths, values."""
    raw = path.read_bytes()
    shape = np.frombuffer(raw, dtype=">i4", count=raw[3], offset=4).tolist()
    return np.frombuffer(raw, dtype=np.uint8, count=math.prod(shape), offset=4 + 4 * raw[3]).reshape(shape)


def views(source: str, cameras: int, train: int = 12_000, validation: int = 5_000, *, seed: int = 0) -> Split[Pictures]:
    """The pictures of `fashion_mnist` or `digits` as several cameras see them: bytes ``[n, cameras, 1, side, side]``.

    No camera sees the whole picture: on its canvas, an eighth wider and higher, the picture is shifted by about a third
    of its side, in a direction that is the camera's own, and by up to a seventh more or less, anew for each picture;
    what leaves the canvas is lost. On it lie four pieces of other training pictures, a third as wide and high; on
    digits, which are small, none. About every seventh view is all black: the camera sees nothing. A row's views follow
    the seed and the row alone, whatever else is asked for.
    """
    if source == "digits":
        plain, (pixels, labels), pieces = digits(train), _digits(), 0
    else:
        plain, (pixels, labels), pieces = fashion_mnist(train, validation, seed=seed), _source(), 4

    def part(rows: NDArray[np.int64]) -> Pictures:
        seen: Any = np.stack([_view(pixels, rows, (i, cameras), pieces, seed) for i in range(cameras)], axis=1)
        return Pictures(seen[:, :, np.newaxis], labels[rows].astype(np.int64), rows)

    parts = [part(each.rows) for each in (plain.train, plain.validation, plain.test)]
    return Split(parts[0], parts[1], parts[2], f"{cameras} views within 1/{SHIFTED} {seed} {plain.digest}")


def _view(
    pixels: NDArray[np.uint8], rows: NDArray[np.int64], which: tuple[int, int], pieces: int, seed: int
) -> NDArray[np.uint8]:
    """Return what one of the cameras sees of some rows ``[n, side, side]``."""
    camera, cameras = which
    random, total, side = np.random.default_rng([seed, camera]), len(pixels), pixels.shape[1]
    canvas, piece, jitter = round(side * 8 / 7), round(side / 3), max(1, round(side / SHIFTED))
    angle, border = 2 * math.pi * camera / cameras, side // 2
    middle = np.rint(np.array([math.sin(angle), math.cos(angle)]) * side / 3 + (canvas - side) / 2).astype(np.int64)
    corners = middle + random.integers(-jitter, jitter + 1, (total, 2))[rows] + border
    whole = np.zeros((len(rows), canvas + 2 * border, canvas + 2 * border), dtype=np.uint8)
    whole[_window(np.arange(len(rows)), corners, side)] = pixels[rows]
    seen = whole[:, border : border + canvas, border : border + canvas].copy()
    for _ in range(pieces):
        cut = random.integers(0, side - piece + 1, (total, 2))[rows]
        put = _window(np.arange(len(rows)), random.integers(0, canvas - piece + 1, (total, 2))[rows], piece)
        other = pixels[_window(random.integers(0, OFFICIAL_TRAIN, total)[rows], cut, piece)]
        seen[put] = np.maximum(seen[put], other)
    seen[random.random(total)[rows] < MISSING] = 0
    return seen


def _digits() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """All digits ``[1797, 8, 8]``, white being 255, and labels."""
    from sklearn.datasets import load_digits

    source = load_digits()
    return np.rint(source.images * (255 / 16)).astype(np.uint8), source.target.astype(np.uint8)
