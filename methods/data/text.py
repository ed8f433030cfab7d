"""Film reviews with positive (1) or negative (0) labels: Rotten Tomatoes sentences and long IMDB reviews."""

import csv
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Split, divide

ITEM = "movie-reviews"


@dataclass(frozen=True)
class Texts:
    """`n` raw strings, their targets `[n]`, and the rows of the source they come from `[n]`."""

    texts: tuple[str, ...]
    targets: NDArray[np.int64] | NDArray[np.float32]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.texts)


def rotten_tomatoes(train: int = 4000, validation: int = 1000, test: int = 2000, *, seed: int = 0) -> Split[Texts]:
    """8,530 lower-case sentences, half of them positive; no official test part, so the split is by hash."""
    return _reviews("rotten_tomatoes", train, validation, test, seed)


def imdb(train: int = 4000, validation: int = 1000, test: int = 5000, *, seed: int = 0) -> Split[Texts]:
    """24,904 different reviews of some 230 words, with `<br />` marks, half of them positive; split by hash."""
    return _reviews("imdb", train, validation, test, seed)


def _reviews(
    source: Literal["rotten_tomatoes", "imdb"], train: int, validation: int, test: int, seed: int
) -> Split[Texts]:
    texts, labels = _read(source)
    rows = divide(texts, train, validation, test, seed=seed, item=ITEM)

    def part(numbers: NDArray[np.int64]) -> Texts:
        chosen = tuple(texts[row] for row in numbers.tolist())
        return Texts(chosen, np.array([labels[row] for row in numbers.tolist()], dtype=np.int64), numbers)

    return Split(part(rows.train), part(rows.validation), part(rows.test), rows.digest)


def _read(source: str) -> tuple[dict[int, str], dict[int, int]]:
    """Texts and labels by row number; of equal texts only the first is kept."""
    texts: dict[int, str] = {}
    labels: dict[int, int] = {}
    seen: set[str] = set()
    with (fetch.path(ITEM) / "reviews.csv").open(encoding="utf-8", newline="") as stream:
        for row, entry in enumerate(csv.DictReader(stream)):
            if entry["source"] == source and entry["text"] not in seen:
                seen.add(entry["text"])
                texts[row], labels[row] = entry["text"], int(entry["label"])
    return texts, labels
