"""Texts and sentences as the word pieces of MiniLM-L6's own tokenizer (BERT's uncased vocabulary of 30,522)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from eelit.methods.data import fetch

PAD, CLS, SEP = 0, 101, 102


def token_ids(texts: Sequence[str], max_length: int = 40) -> list[NDArray[np.int64]]:
    """One array `[length]` per text, from `[CLS]` to `[SEP]`, cut at `max_length` with both, unpadded."""
    tokenizer = Tokenizer.from_file(str(fetch.path("minilm-l6") / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    return [np.array(encoding.ids, dtype=np.int64) for encoding in tokenizer.encode_batch_fast(list(texts))]


def word_pieces(sentences: Sequence[Sequence[str]], max_length: int = 40) -> list[NDArray[np.int64]]:
    """One array `[2, length]` per sentence: its ids from `[CLS]` to `[SEP]`, and the number of the word each is of.

    The two special tokens have number -1. A sentence that is too long loses its last words, whole words only.
    """
    tokenizer = Tokenizer.from_file(str(fetch.path("minilm-l6") / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encodings = tokenizer.encode_batch([list(words) for words in sentences], is_pretokenized=True)
    return [_cut(np.array([e.ids, [-1 if w is None else w for w in e.word_ids]]), max_length) for e in encodings]


def _cut(pieces: NDArray[np.int64], max_length: int) -> NDArray[np.int64]:
    """Cut `[2, length]` at the end of a word, the last token kept."""
    if pieces.shape[1] <= max_length:
        return pieces
    end = max_length - 1
    while pieces[1, end] == pieces[1, end - 1]:
        end -= 1
    return np.concatenate([pieces[:, :end], pieces[:, -1:]], axis=1)
