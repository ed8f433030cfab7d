"""Sentences to be translated: sources and references as token ids, with the text that tokens stand for."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.examples import Data, Examples, withheld

PAD, BEGIN, END = 0, 1, 2
"""Ids of what fills up, what a translation starts from, and what closes each sentence."""


@dataclass(frozen=True)
class TranslationData(Data):
    """Examples whose inputs are sources ``[s]`` and whose targets are references ``[N, t]``, padded at the end.

    ``classes`` is the size of the joint vocabulary, ``pieces`` the text of each of its tokens.
    """

    pieces: tuple[str, ...] = ()

    @property
    def vocabulary(self) -> int:
        """Number of tokens of both languages."""
        return len(self.pieces)

    def without_test(self) -> TranslationData:
        """Return the same data with the test sentences out of reach: what training and choosing may see."""
        return replace(self, test=withheld())

    def spelt(self, tokens: Tensor) -> list[str]:
        """Return the texts of token ids ``[N, t]``, each up to its end."""
        return ["".join(self.pieces[i] for i in until_end(row)).strip() for row in tokens.tolist()]


def until_end(row: Sequence[int]) -> Sequence[int]:
    """Return the tokens of a sentence before its end."""
    return row[: row.index(END)] if END in row else row


def translation_data(
    parts: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]], pieces: Sequence[str]
) -> TranslationData:
    """Join train, validation and test, each sources ``[N, s]`` and references ``[N, t]``."""
    digest, found = hashlib.blake2b("\n".join(pieces).encode(), digest_size=8), []
    for sources, references in parts:
        digest.update(sources.tobytes() + references.tobytes())
        found.append(Examples(list(torch.as_tensor(sources)), torch.as_tensor(references)))
    train, validation, test = found
    return TranslationData(train, validation, test, len(pieces), digest.hexdigest(), pieces=tuple(pieces))


def shifted(references: Tensor) -> Tensor:
    """Return what the decoder is given to say references ``[n, t]``: each token behind the one before it."""
    return torch.cat([torch.full_like(references[:, :1], BEGIN), references[:, :-1]], dim=1)


def trimmed(ids: Tensor) -> Tensor:
    """Return ids ``[n, t]`` without the columns that are padding in all rows."""
    return ids[:, : int((ids != PAD).sum(dim=1).max())]
