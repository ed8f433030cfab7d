"""Running text as token ids: windows to train a language model on, and passages to be continued from a prompt."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from eelit.methods.engine.examples import Examples, withheld


@dataclass(frozen=True)
class Passages:
    """Prompts ``[N, P]`` and how the texts really went on, ``[N, T]``; all of one length: there is no padding."""

    prompts: Tensor
    references: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    def head(self, n: int | None) -> Passages:
        """Return the first ``n`` passages (all if None)."""
        return Passages(self.prompts[:n], self.references[:n])

    def after(self, n: int) -> Passages:
        """Return all but the first ``n`` passages."""
        return Passages(self.prompts[n:], self.references[n:])


@dataclass(frozen=True)
class LanguageData:
    """Training windows ``[context + 1]`` of token ids below ``vocabulary``, and passages of held-out texts."""

    train: Examples
    validation: Passages
    test: Passages
    vocabulary: int
    digest: str

    def without_test(self) -> LanguageData:
        """Return the same data with the test passages out of reach: what training and choosing may see."""
        return replace(self, test=withheld())


def language_data(
    streams: tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]],
    vocabulary: int,
    *,
    windows: int,
    context: int,
    prompt: int,
    length: int,
    passages: int,
) -> LanguageData:
    """Cut train, validation and test streams of token ids into windows and passages.

    ``windows`` training windows of ``context + 1`` tokens, and ``passages`` in each held-out part, of ``prompt`` tokens
    and ``length`` more; fewer if they do not fit without overlap. All are spread evenly and in random order, so that
    the first few are as mixed as the whole.
    """
    train = torch.as_tensor(_spread(streams[0], windows, context + 1))
    held = [torch.as_tensor(_spread(stream, passages, prompt + length)) for stream in streams[1:]]
    digest = hashlib.blake2b(digest_size=8)
    for part in (train, *held):
        digest.update(part.numpy().tobytes())
    validation, test = (Passages(part[:, :prompt], part[:, prompt:]) for part in held)
    return LanguageData(
        Examples(list(train), torch.zeros(len(train))), validation, test, vocabulary, digest.hexdigest()
    )


def _spread(stream: NDArray[np.int64], n: int, size: int) -> NDArray[np.int64]:
    """Return ``n`` pieces ``[n, size]`` of the stream, evenly spread, in random order, without overlap if they fit."""
    n = min(n, len(stream) // size)
    starts = np.linspace(0, len(stream) - size, n).astype(np.int64)
    starts = np.random.default_rng(0).permutation(starts)
    return stream[starts[:, None] + np.arange(size)]
