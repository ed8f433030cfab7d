"""The page on which samples leave at their exits as a reader chooses a policy, and the data that it computes from.

`assets/decide.js` decides there as `eelit.methods.engine.evaluate.replay` does. The outputs are those that come with
eelit; the samples that they are of were written down by `site/samples/make.py`.
"""

from __future__ import annotations

import json
import math
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import manifest
from eelit.methods.own.files import read
from eelit.methods.own.logits import Logits
from eelit.methods.own.rules import RULES, Rule
from eelit.methods.own.shipped import Shipped, shipped
from eelit.site.generator.collection import Work
from eelit.site.generator.plots import data_block

PAGE = "see-it-decide.md"
FOLDER = "seen"
"""Where the data of the page lie in the site."""
SAMPLES = "site/samples"
"""Folder of the checkout that holds sentences and pictures."""
TITLES = {"text": "Sentences", "images": "Cluttered pictures", "images-plain": "Plain pictures"}
"""Outputs that come with eelit → what the page calls their samples."""
FIRST = "images"
"""The example with which the page opens."""
CHOICES = (
    "max-confidence", "entropy", "margin", "raw-margin", "activation", "sole-class", "patience", "flexible-patience",
    "patient-confidence", "voting", "surest", "mean-so-far", "static",
)  # fmt: skip
"""Rules of `eelit compare --logits` that the page offers: all that need logits alone and nothing fitted to others."""


@dataclass(frozen=True)
class Seen:
    """Some test samples, what all exits said of them, and what it costs to leave at each exit."""

    example: Shipped
    facts: dict[str, Any]  # what `make.py` wrote down
    folder: Path

    @cached_property
    def rows(self) -> slice:
        """Which samples of the outputs they are."""
        first = int(self.facts["first"])
        return slice(first, first + int(self.facts["count"]))

    @cached_property
    def outputs(self) -> Logits:
        """The outputs of all exits on all samples of the example."""
        return read(self.example.word)

    @property
    def z(self) -> NDArray[np.float16]:
        """Logits ``[E, N, C]`` of the samples shown, in half precision as they are stored."""
        found: NDArray[np.float16] = self.outputs.z[:, self.rows]
        return found

    @property
    def labels(self) -> NDArray[np.int64]:
        """Their labels ``[N]``."""
        if self.outputs.labels is None:
            raise ValueError(f"{self.example.word} has no labels")
        return np.asarray(self.outputs.labels[self.rows], dtype=np.int64)

    @property
    def costs(self) -> NDArray[np.float64]:
        """Multiply-accumulates ``[E, N]`` of each sample up to each exit."""
        costs = np.asarray(self.outputs.costs, dtype=np.float64)
        return costs[:, self.rows] if costs.ndim == 2 else np.repeat(costs[:, None], len(self.labels), axis=1)

    @property
    def title(self) -> str:
        """What the page calls the samples."""
        return TITLES[self.example.name]

    @property
    def is_text(self) -> bool:
        """Whether the samples are sentences, and not pictures."""
        return "texts" in self.facts

    @property
    def item(self) -> manifest.Item:
        """The data set that the samples are of."""
        return manifest.get(self.example.data)

    @property
    def picture(self) -> Path:
        """The PNG that holds the pictures."""
        return self.folder / f"{self.example.name}.png"

    @property
    def exits(self) -> list[tuple[float, float, float]]:
        """Return of each exit by itself: its cost as a share of the last one's, accuracy, mean largest probability."""
        z = self.z.astype(np.float64)
        p = np.exp(z - z.max(axis=-1, keepdims=True))
        p /= p.sum(axis=-1, keepdims=True)
        costs = self.costs.mean(axis=1)
        right = (z.argmax(axis=-1) == self.labels).mean(axis=1)
        return list(
            zip((costs / costs[-1]).tolist(), right.tolist(), p.max(axis=-1).mean(axis=1).tolist(), strict=True)
        )

    @property
    def script(self) -> str:
        """The data as a script, which a page from disk may load: logits are the bytes of float16, lowest byte first."""
        z = self.z
        told: dict[str, Any] = {
            "exits": z.shape[0],
            "samples": z.shape[1],
            "classes": self.facts["classes"],
            "logits": b64encode(z.astype("<f2").tobytes()).decode(),
            "labels": self.labels.tolist(),
            "costs": np.rint(self.costs).astype(np.int64).tolist(),
            **{name: self.facts[name] for name in ("texts", "marks", "side", "across") if name in self.facts},
        }
        if not self.is_text:
            told["picture"] = f"{FOLDER}/{self.example.name}.png"
        text = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
        return f"(window.eelitSeen ??= {{}})[{json.dumps(self.example.name)}] = {text};\n"


def seen(root: Path, name: str) -> Seen:
    """Return the samples of an example in the checkout ``root``."""
    folder = root / SAMPLES
    facts = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    return Seen(shipped()[name], facts, folder)


def pages(render: Callable[..., str], root: Path, works: Mapping[str, Work]) -> Iterator[tuple[str, str | bytes]]:
    """Yield the page, and its data: a script for each example, and a PNG where the samples are pictures.

    Rules name their work if it is one of ``works``.
    """
    every = {name: seen(root, name) for name in TITLES}
    shown = max(len(each.labels) for each in every.values())
    values = {
        "scripts": [*(f"{FOLDER}/{name}.js" for name in TITLES), "assets/decide.js"],
        "words": data_block({name: _words(RULES[name], works) for name in CHOICES}, "ee-rules"),
        "shown": shown,
        "error": 1.96 * math.sqrt(0.8 * 0.2 / shown),
    }
    yield PAGE, render("seen.md.j2", examples=every, first=FIRST, rules=CHOICES, **values)
    for name, each in every.items():
        yield f"{FOLDER}/{name}.js", each.script
        if not each.is_text:
            yield f"{FOLDER}/{name}.png", each.picture.read_bytes()


def _words(rule: Rule, works: Mapping[str, Work]) -> dict[str, str]:
    """Return what the page's script says of a rule: a sentence, and the work that it comes from with its page."""
    work = works.get(rule.source)
    named, page = (work.entry.short_name, f"papers/{rule.source}.html") if work else ("", "")
    return {"says": rule.says, "source": named, "page": page}
