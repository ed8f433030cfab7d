"""Photographed solar cells, sound or defective: electroluminescence pictures whose labels are experts' judgments.

Cells that the experts were not sure about are left out: 401 of 2,624.
Which module a cell is from is not told, but cells come in the order of their modules, most of which have 60. So blocks
of that many neighbours stay together: of each five blocks three are for training, one for validation, one for test.
Where a module has another number of cells, neighbouring blocks may share one.
"""

import hashlib
import io
import itertools
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.derived import arrays
from eelit.methods.data.split import Split, shuffled, source_digest

ITEM = "solar-cells"
CLASSES = ("sound", "defective")
BLOCK = 60
"""Neighbours that stay together; a run of one type of cell, mono- or polycrystalline, begins with a new block."""
PARTS = ("train", "validation", "train", "test", "train")
"""What blocks are for, over and over."""
PICTURE = re.compile(rb"== (cell\d+\.png)\n(?=\x89PNG)")
"""What stands before each picture of the joined file."""
POSES = 8
"""Ways to turn and mirror a square."""


@dataclass(frozen=True)
class Cells:
    """`n` pictures float32 `[n, 1, side, side]`, and the class of each int64 `[n]`.

    Each picture has mean 0 and deviation 1, since modules differ in how bright they are.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def cells(*, side: int, train: int, seed: int = 0) -> Split[Cells]:
    """Return cells as pictures of a side.

    Those for training come in all poses, and `train` of these are taken, as many sound ones as defective ones; held-out
    cells are all there, as they are, in an order without meaning. Raises `ValueError` for a side above 300, or more
    training pictures than there are.
    """
    if not 8 <= side <= 300:
        raise ValueError(f"pictures have sides from 8 to 300 pixels, not {side}")
    kept = arrays("sure-solar-cells", f"{side} {BLOCK} {PARTS} {source_digest(ITEM)}", lambda: _read(side))
    labels, grey = kept["labels"], kept["images"].astype(np.float32)
    pictures = (grey - grey.mean(axis=(1, 2), keepdims=True)) / grey.std(axis=(1, 2), keepdims=True)
    rows = {name: shuffled(np.flatnonzero(kept["parts"] == name).tolist(), seed) for name in PARTS}
    turned = [divmod(i, POSES) for i in shuffled(range(POSES * len(labels)), seed)]
    known = {*rows["train"]}
    of_class = [[(row, pose) for row, pose in turned if row in known and labels[row] == c] for c in range(2)]
    most = 2 * min(map(len, of_class))
    if train > most:
        raise ValueError(f"there are {most} training pictures, not {train}")
    chosen = [pair for both in zip(*of_class, strict=False) for pair in both][:train]

    def part(which: list[tuple[int, int]]) -> Cells:
        images = np.stack([posed(pictures[row], pose) for row, pose in which])[:, None]
        return Cells(images, labels[[row for row, _ in which]])

    held, test = (part([(row, 0) for row in rows[name]]) for name in ("validation", "test"))
    digest = hashlib.sha256(f"{side} {train} {seed} {source_digest(ITEM)} {BLOCK} {PARTS}".encode()).hexdigest()[:16]
    return Split(part(chosen), held, test, digest)


def posed(picture: NDArray[np.float32], pose: int) -> NDArray[np.float32]:
    """Return a picture ``[side, side]`` turned by 90° ``pose % 4`` times, and mirrored from pose 4 on."""
    turned = np.rot90(picture, pose % 4)
    return turned[:, ::-1] if pose >= 4 else turned


def parts_of(kinds: list[str]) -> list[str]:
    """Return what each cell is for, from the type of each, in their order."""
    found, block = list[str](), 0
    for _, run in itertools.groupby(kinds):
        size = len(list(run))
        found += [PARTS[(block + i // BLOCK) % len(PARTS)] for i in range(size)]
        block += -(-size // BLOCK)
    return found


def _read(side: int) -> dict[str, NDArray[Any]]:
    from PIL import Image

    folder = fetch.path(ITEM)
    told = [line.split() for line in (folder / "labels.csv").read_text(encoding="utf-8").splitlines() if line.strip()]
    raw = (folder / "cells.png").read_bytes()
    marks = list(PICTURE.finditer(raw))
    ends = [mark.start() for mark in marks[1:]] + [len(raw)]
    names = [f"images/{mark[1].decode()}" for mark in marks]
    if names != [name for name, *_ in told]:
        raise ValueError(f"the pictures of {ITEM} are not those that its labels tell of")
    shown = [Image.open(io.BytesIO(raw[m.end() : end])).convert("L") for m, end in zip(marks, ends, strict=True)]
    likely = np.array([float(each) for _, each, _ in told])
    sure = (likely == 0) | (likely == 1)
    return {
        "images": np.stack([np.asarray(each.resize((side, side), Image.Resampling.BOX)) for each in shown])[sure],
        "labels": likely[sure].astype(np.int64),
        "parts": np.array(parts_of([kind for *_, kind in told]))[sure],
    }
