"""The Brown corpus: tagged sentences, plain text, and that text as byte-pair tokens for language models.

The 500 texts are divided by file, in order of name: of each ten the ninth is validation, the tenth is test. Files
follow their genres, so every part holds every genre of ten texts or more.
"""

import re
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from eelit.methods.data import fetch
from eelit.methods.data.derived import arrays, derived
from eelit.methods.data.memory_cache import in_memory
from eelit.methods.data.split import Split, labelled, source_digest

ITEM = "brown"
END = "<|end|>"  # closes each text of the corpus in the token stream; id 0
Sentence = tuple[tuple[str, str], ...]  # (word, raw tag)


@dataclass(frozen=True)
class Sentences:
    """Sentences as words, and for each the indices of its tags `[length]` in `tagset()`."""

    words: tuple[tuple[str, ...], ...]
    tags: tuple[NDArray[np.int64], ...]

    def __len__(self) -> int:
        return len(self.words)


def sentences() -> Split[Sentences]:
    """57,340 sentences with reduced tags (see `reduce_tag`), about 1.16 million words."""
    index = {tag: i for i, tag in enumerate(tagset())}

    def part(files: list[tuple[Sentence, ...]]) -> Sentences:
        every = [sentence for file in files for sentence in file]
        words = tuple(tuple(word for word, _ in sentence) for sentence in every)
        tags = [np.array([index[reduce_tag(tag)] for _, tag in sentence], dtype=np.int64) for sentence in every]
        return Sentences(words, tuple(tags))

    train, validation, test = _parts()
    return Split(part(train), part(validation), part(test), split_digest())


@in_memory()
def tagset() -> tuple[str, ...]:
    """The reduced tags of the whole corpus, sorted."""
    return tuple(sorted({reduce_tag(tag) for file in _files() for sentence in file for _, tag in sentence}))


@in_memory()
def reduce_tag(tag: str) -> str:
    """The plain part of speech: no marks of foreign words, headlines, titles and citations, negation or genitive.

    Of a contraction the first tag counts: `fw-nn-tl` and `nn$` are `nn`, `ppss+bem` is `ppss`, `bedz*` is `bedz`.
    """
    plain = re.sub(r"(-(hl|tl|nc))+$", "", tag.removeprefix("fw-").split("+")[0])
    return plain.rstrip("*$") or plain


def documents() -> Split[tuple[str, ...]]:
    """The texts as plain strings, a sentence per line, words and punctuation parted by spaces; 6.1 M characters."""
    train, validation, test = ([_plain(file) for file in part] for part in _parts())
    return Split(tuple(train), tuple(validation), tuple(test), split_digest())


def tokenizer(vocabulary: int = 2000) -> Tokenizer:
    """Byte-level byte-pair encoding learnt from the training texts; deterministic, kept in the cache."""
    learnt = derived("brown-bpe", _depends(vocabulary), lambda: _learn(vocabulary).to_str().encode())
    return Tokenizer.from_str(learnt.decode())


def token_stream(vocabulary: int = 2000) -> Split[NDArray[np.int64]]:
    """Each part as one array of token ids, every text closed by `END` (id 0); kept in the cache."""

    def make() -> dict[str, NDArray[np.int32]]:
        encoder, texts = tokenizer(vocabulary), documents()
        return {part: _encode(encoder, getattr(texts, part)) for part in ("train", "validation", "test")}

    ids = {part: found.astype(np.int64) for part, found in arrays("brown-ids", _depends(vocabulary), make).items()}
    return Split(ids["train"], ids["validation"], ids["test"], split_digest())


@in_memory()
def split_digest() -> str:
    """Identifies the corpus and which files make up each part."""
    parts = _numbers()
    return labelled(ITEM, *parts).digest


def _numbers() -> tuple[list[int], list[int], list[int]]:
    every = range(len(_files()))
    return [i for i in every if i % 10 < 8], [i for i in every if i % 10 == 8], [i for i in every if i % 10 == 9]


def _parts() -> list[list[tuple[Sentence, ...]]]:
    return [[_files()[i] for i in part] for part in _numbers()]


@in_memory()
def _files() -> tuple[tuple[Sentence, ...], ...]:
    """The 500 texts in order of file name."""
    files: list[list[Sentence]] = []
    with (fetch.path(ITEM) / "brown.txt").open(encoding="latin-1") as stream:
        for line in stream:
            if line.startswith("== "):
                files.append([])
            elif line.strip():
                files[-1].append(tuple(_pair(token) for token in line.split()))
    return tuple(tuple(file) for file in files)


@in_memory()
def _pair(token: str) -> tuple[str, str]:
    """Return word and tag, of equal tokens the same object: of a million small ones not all memory is given back."""
    word, _, tag = token.rpartition("/")
    return word, tag


def _plain(file: tuple[Sentence, ...]) -> str:
    lines = (" ".join(word for word, _ in sentence) for sentence in file)
    return "\n".join(lines).replace("``", '"').replace("''", '"') + "\n"


def _learn(vocabulary: int) -> Tokenizer:
    learnt = Tokenizer(models.BPE())
    learnt.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    learnt.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[END], initial_alphabet=sorted(alphabet), show_progress=False
    )
    learnt.train_from_iterator(documents().train, trainer)
    return learnt


def _encode(encoder: Tokenizer, texts: tuple[str, ...]) -> NDArray[np.int32]:
    end = encoder.token_to_id(END)
    pieces = [[*encoding.ids, end] for encoding in encoder.encode_batch_fast(list(texts))]
    return np.concatenate([np.array(piece, dtype=np.int32) for piece in pieces])


def _depends(vocabulary: int) -> str:
    return f"{source_digest(ITEM)} {split_digest()} {vocabulary} {END} {tokenizers.__version__}"
