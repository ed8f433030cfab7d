"""Make the samples beside this file again, which the page "See it decide" shows: python site/samples/make.py.

They are the first test samples of each of the outputs that come with eelit, in the order of the split, so that nobody
chose them: sentences as text, pictures as one PNG in which they lie row by row. No network is asked.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from eelit.methods.data import images, text
from eelit.methods.own.files import read
from eelit.methods.own.shipped import Shipped, shipped

SHOWN = 200
ACROSS = 20
"""Pictures in a row of the PNG."""
FOLDER = Path(__file__).parent


def sentences(example: Shipped) -> tuple[dict[str, Any], NDArray[np.int64]]:
    """Return what is written down of the sentences, and their labels."""
    part = text.rotten_tomatoes().test
    facts = {"classes": ["negative", "positive"], "marks": ["\N{MINUS SIGN}", "+"], "texts": list(part.texts[:SHOWN])}
    return facts, part.targets[:SHOWN].astype(np.int64)


def pictures(load: Callable[..., Any], mean: float, deviation: float) -> Callable[[Shipped], Any]:
    """Return what does the same for pictures, which it writes into a PNG."""

    def written(example: Shipped) -> tuple[dict[str, Any], NDArray[np.int64]]:
        part = load(train=1, validation=1, test=example.splits["test"]).test
        grey = np.rint((part.images[:SHOWN, 0] * deviation + mean) * 255).astype(np.uint8)
        side = grey.shape[1]
        sheet = grey.reshape(-1, ACROSS, side, side).transpose(0, 2, 1, 3).reshape(-1, ACROSS * side)
        Image.fromarray(sheet).save(FOLDER / f"{example.name}.png", optimize=True)
        return {"classes": list(images.CLASSES), "side": side, "across": ACROSS}, part.labels[:SHOWN]

    return written


SOURCES: dict[str, Callable[[Shipped], tuple[dict[str, Any], NDArray[np.int64]]]] = {
    "text": sentences,
    "images": pictures(images.cluttered_fashion_mnist, images.CLUTTERED_MEAN, images.CLUTTERED_STD),
    "images-plain": pictures(images.fashion_mnist, images.MEAN, images.STD),
}


def make(example: Shipped) -> None:
    """Write the samples of an example. Raises `ValueError` if they are not those that its outputs are of."""
    facts, labels = SOURCES[example.name](example)
    first = sum(example.splits.values()) - example.splits["test"]  # the test part is the last one
    stored = read(example.word).labels
    if stored is None or not np.array_equal(stored[first : first + SHOWN], labels):
        raise ValueError(f"the labels of {example.word} are not those of the data as they are read now")
    told = {"first": first, "count": SHOWN, **facts}
    (FOLDER / f"{example.name}.json").write_text(
        json.dumps(told, ensure_ascii=False, indent=1) + "\n", encoding="utf-8"
    )


for each in shipped().values():
    make(each)
