"""How English words are spoken: letters, and phonemes of the CMU Pronouncing Dictionary, as pairs to translate."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.memory_cache import in_memory
from eelit.methods.data.split import Split, divide

ITEM = "cmudict"
PAD, BEGIN, END = 0, 1, 2
"""Ids of what fills up, what a translation starts from, and what closes each word and each of its pronunciations."""
PHONEMES = (
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
)  # fmt: skip
"""The 39 of the dictionary, stress left out."""
PIECES = ("", "", "", *string.ascii_lowercase, *(f" {phoneme}" for phoneme in PHONEMES))
"""The text of every token: special ones, letters, phonemes."""
HELD, TESTED = 800, 2400
"""Words of validation, and of test, where small differences of BLEU are to be told."""


@dataclass(frozen=True)
class Spoken:
    """Token ids of words ``[N, s]`` and of how they are spoken ``[N, t]``, each closed by `END`, filled with `PAD`."""

    words: NDArray[np.int64]
    sounds: NDArray[np.int64]


@in_memory()
def entries() -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The words of three letters a to z and more, in order, each with the first of its pronunciations."""
    text = (fetch.path(ITEM) / "cmudict.dict").read_text(encoding="utf-8")
    found = (line.partition("#")[0].split() for line in text.splitlines())
    spoken = ((word, sounds) for word, *sounds in filter(None, found) if re.fullmatch("[a-z]{3,}", word))
    return tuple((word, tuple(sound.rstrip("012") for sound in sounds)) for word, sounds in spoken)


def pronunciations(*, train: int, longest: int) -> Split[Spoken]:
    """Words of at most ``longest`` letters; asking for fewer to train on changes neither test nor validation."""
    every = [entry for entry in entries() if len(entry[0]) <= longest]
    rows = divide(range(len(every)), train, HELD, TESTED, seed=0, item=ITEM)
    parts = [_encoded([every[i] for i in part]) for part in (rows.train, rows.validation, rows.test)]
    return Split(parts[0], parts[1], parts[2], rows.digest)


def _encoded(part: list[tuple[str, tuple[str, ...]]]) -> Spoken:
    letter = {piece: i for i, piece in enumerate(PIECES) if len(piece) == 1}
    phoneme = {piece.strip(): i for i, piece in enumerate(PIECES) if piece.startswith(" ")}
    return Spoken(
        _filled([[letter[a] for a in word] for word, _ in part]),
        _filled([[phoneme[sound] for sound in sounds] for _, sounds in part]),
    )


def _filled(rows: list[list[int]]) -> NDArray[np.int64]:
    found = np.full((len(rows), max(map(len, rows), default=0) + 1), PAD, dtype=np.int64)
    for row, ids in zip(found, rows, strict=True):
        row[: len(ids) + 1] = [*ids, END]
    return found
