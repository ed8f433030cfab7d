"""Texts as the word pieces of MiniLM-L6's own tokenizer (BERT's uncased vocabulary of 30,522)."""

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
