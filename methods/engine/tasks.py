"""The data of the experiments: texts as token ids, images, graded queries, text to continue, spectra of sound."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from eelit.methods.data.memory_cache import in_memory
from eelit.methods.engine.audio import heard_by_whisper, log_mel, spectrum
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.passages import LanguageData, language_data
from eelit.methods.engine.queries import Queries, RankingData
from eelit.methods.engine.translations import END, TranslationData, translation_data

CLASSES = {"rotten-tomatoes": 2, "imdb": 2, "20-newsgroups": 20, "tweet-sentiment": None}
"""How many classes the texts of a corpus have; None: one real value each."""


@in_memory(8)
def text(corpus: str, *, train: int, length: int = 40, test: int | None = None) -> Data:
    """Return texts as int64 token ids of at most ``length`` tokens, with ``test`` test texts if that is given.

    ``rotten-tomatoes`` (sentences, 2 classes), ``imdb`` (reviews, 2 classes), ``20-newsgroups`` (messages, 20 classes),
    ``tweet-sentiment`` (tweets, one real value in [-1, 1]), or for unit tests only ``digits`` (scikit-learn's 8×8
    pictures as 16 tokens of 33 grey levels, 10 classes) and ``digit-values`` (the same, to be read as a real value from
    -1 to 1).
    """
    if corpus in ("digits", "digit-values"):
        return _digit_tokens(train, length, test, values=corpus == "digit-values")
    from eelit.methods.data import newsgroups, sentiment
    from eelit.methods.data import text as texts
    from eelit.methods.data.tokens import token_ids

    sizes = {"train": train} if test is None else {"train": train, "test": test}
    if corpus == "tweet-sentiment":
        split = sentiment.tweets(**sizes)
    elif corpus == "rotten-tomatoes":
        split = texts.rotten_tomatoes(**sizes)
    elif corpus == "imdb":
        split = texts.imdb(**sizes)
    elif corpus == "20-newsgroups":
        split = newsgroups.topics(**sizes)
    else:
        raise ValueError(f"no corpus {corpus!r}; there are {', '.join(CLASSES)} and digits")
    parts = [
        examples(token_ids(part.texts, max_length=length), part.targets)
        for part in (split.train, split.validation, split.test)
    ]
    return data(parts, classes=CLASSES[corpus])


@in_memory(1)  # the cluttered ones take 220 MB
def images(source: str, *, train: int, validation: int = 2000) -> Data:
    """Return images ``[1, H, W]`` in 10 classes.

    ``cluttered`` (Fashion-MNIST somewhere on a canvas of 48×48 among pieces of other pictures) or ``fashion-mnist``
    (28×28), both with mean 0, deviation 1 and 10,000 test images; or ``digits`` (scikit-learn's 8×8 pictures, values 0
    to 1, its own 300 for validation; unit tests only).
    """
    from eelit.methods.data import images as pictures

    if source == "digits":
        split = pictures.digits(train=train)
    elif source == "fashion-mnist":
        split = pictures.fashion_mnist(train=train, validation=validation)
    elif source == "cluttered":
        split = pictures.cluttered_fashion_mnist(train=train, validation=validation)
    else:
        raise ValueError(f"no images {source!r}; there are cluttered, fashion-mnist and digits")
    parts = [examples(part.images, part.labels) for part in (split.train, split.validation, split.test)]
    return data(parts, classes=10)


@in_memory(2)
def views(source: str, *, cameras: int, train: int, validation: int = 2000) -> Data:
    """Return pictures as several cameras see them, bytes ``[cameras, 1, side, side]`` as they come, in 10 classes.

    ``fashion-mnist`` (side 32, 10,000 test pictures) or ``digits`` (side 9; unit tests only).
    """
    from eelit.methods.data import images as pictures

    if source not in ("fashion-mnist", "digits"):
        raise ValueError(f"no views of {source!r}; there are fashion-mnist and digits")
    split = pictures.views(source, cameras, train, validation)
    return data(
        [examples(part.images, part.labels) for part in (split.train, split.validation, split.test)], classes=10
    )


@in_memory(1)
def long_tailed(source: str, *, train: int, tail: tuple[int, ...], validation: int = 2000) -> Data:
    """Return images as `images` does, of which class c has a share proportional to ``tail[c]`` for training.

    Validation and test images are balanced.
    """
    from eelit.methods.data import images as pictures

    split = pictures.long_tailed(source, train, validation, tail=tail)
    parts = [examples(part.images, part.labels) for part in (split.train, split.validation, split.test)]
    return data(parts, classes=10)


@in_memory(2)
def tagging(corpus: str, *, train: int, held: int, length: int = 40) -> Data:
    """Return sentences as ``[2, T]``: ids of T word pieces and the number of the word that each is of (specials: -1).

    Targets ``[N, length]`` hold the tag of word 0, 1 …, and -100 where there is no more word. ``brown`` (80 parts of
    speech; ``held`` sentences for validation and as many for test) or ``made`` (5 tags; unit tests only).
    """
    if corpus == "made":
        sentences = _made_tags(train + 2 * held)
        bounds = (0, train, train + held, train + 2 * held)
        cut = [sentences[a:b] for a, b in pairwise(bounds)]
        return data([_tagged([x for x, _ in part], [tags for _, tags in part], length) for part in cut], classes=5)
    if corpus != "brown":
        raise ValueError(f"no tagged corpus {corpus!r}; there are brown and made")
    from eelit.methods.data import brown
    from eelit.methods.data.split import shuffled
    from eelit.methods.data.tokens import word_pieces

    found, parts = brown.sentences(), []
    for part, size in ((found.train, train), (found.validation, held), (found.test, held)):
        rows = shuffled(range(len(part)), seed=0)[:size]
        parts.append(_tagged(word_pieces([part.words[i] for i in rows], length), [part.tags[i] for i in rows], length))
    return data(parts, classes=len(brown.tagset()))


def _tagged(inputs: Sequence[NDArray[np.int64]], tags: Sequence[NDArray[np.int64]], length: int) -> Examples:
    targets = np.full((len(inputs), length), -100)
    for row, x, found in zip(targets, inputs, tags, strict=True):
        words = int(x[1].max()) + 1
        row[:words] = found[:words]
    return examples(inputs, targets)


@in_memory(2)
def queries(source: str, *, train: int, validation: int) -> RankingData:
    """Return graded queries: ``movielens`` (users as queries, films as documents), or ``made`` (unit tests only)."""
    if source == "made":
        return _made_queries(train, validation, test=40)
    if source != "movielens":
        raise ValueError(f"no queries {source!r}; there are movielens and made")
    from eelit.methods.data import movielens

    split = movielens.queries(train=train, validation=validation)
    ours, held, last = (
        Queries(q.features, q.grades, q.sizes, q.mean_rating) for q in (split.train, split.validation, split.test)
    )
    return RankingData(ours, held, last, split.digest)


@in_memory(4)
def table(source: str, *, rows: int = 0, features: int = 0, noise: float = 0.0) -> Data:
    """Return rows of a table, a vector of numbers each, and their classes.

    ``breast cancer`` or ``wine`` (scikit-learn's, whole), ``satellite`` (of mlbench, whole), or ``cube`` (made: so many
    rows and features).
    """
    from eelit.methods.data import tables

    split = tables.table(source, rows=rows, features=features, noise=noise)
    parts = [examples(part.features, part.labels) for part in (split.train, split.validation, split.test)]
    return data(parts, classes=int(split.train.labels.max()) + 1)


@in_memory(2)
def sensing(source: str, *, m: int, n: int, train: int, held: int) -> Data:
    """Return measurements ``[m]`` and, as targets, the codes ``[n]`` that they are of.

    ``made`` codes, those of ``speech``, or those of ``digits`` (unit tests only).
    """
    from eelit.methods.data import sensing as measurements

    split = measurements.compressed_sensing(source, m=m, n=n, train=train, held=held)
    return data([examples(part.y, part.x) for part in (split.train, split.validation, split.test)], classes=None)


@in_memory(2)
def language(corpus: str, *, vocabulary: int, **cut: int) -> LanguageData:
    """Return running text for a language model: ``brown`` (byte-pair tokens), or ``made`` (unit tests only).

    ``cut`` says how many windows and passages of which length (see `language_data`).
    """
    if corpus == "made":
        streams = _made_words(vocabulary)
    elif corpus == "brown":
        from eelit.methods.data import brown

        split = brown.token_stream(vocabulary)
        streams = split.train, split.validation, split.test
    else:
        raise ValueError(f"no corpus {corpus!r} of running text; there are brown and made")
    return language_data(streams, vocabulary, **cut)


@in_memory(2)
def translation(corpus: str, *, train: int, longest: int) -> TranslationData:
    """Return pairs to translate: ``cmudict`` (English words and how they are spoken), or ``made`` (unit tests only).

    Sources have at most ``longest`` tokens; there are 800 pairs of ``cmudict`` in each held-out part.
    """
    if corpus == "made":
        return _made_translations(train, longest)
    if corpus != "cmudict":
        raise ValueError(f"nothing to translate is called {corpus!r}; there are cmudict and made")
    from eelit.methods.data import pronunciations

    split = pronunciations.pronunciations(train=train, longest=longest)
    parts = [(part.words, part.sounds) for part in (split.train, split.validation, split.test)]
    return translation_data(parts, pronunciations.PIECES)


@in_memory(2)
def mixtures(source: str, *, train: int, validation: int = 120, test: int = 240, samples: int = 8000) -> Data:
    """Return spectra ``[2, F, T]`` of sound in noise at -5 to 15 dB, to be cleaned.

    Targets ``[N, samples]`` are the clean waves. ``prompts`` (recorded speech in music, babble and made noise) or
    ``made`` (chords that rise and fall, in white noise; unit tests only).
    """
    if source == "made":
        noisy, clean = _made_sounds(train + validation + test, samples)
        bounds = (0, train, train + validation, len(noisy))
        waves = [(noisy[a:b], clean[a:b]) for a, b in pairwise(bounds)]
    elif source == "prompts":
        from eelit.methods.data import recordings

        split = recordings.mixtures(train, validation, test, samples)
        waves = [(part.noisy, part.clean) for part in (split.train, split.validation, split.test)]
    else:
        raise ValueError(f"no sound {source!r} in noise; there are prompts and made")
    parts = [Examples(list(spectrum(torch.as_tensor(x))), torch.as_tensor(y)) for x, y in waves]
    return data(parts, classes=None)


@in_memory(2)
def spelled(source: str, *, letters: int, train: int, bands: int = 40, validation: int = 120, test: int = 240) -> Data:
    """Return words of two to four letters as log energies ``[bands, T]``, each band of mean 0, to be read in order.

    Targets ``[N, 4]`` hold the letters' numbers, and -1 where there is no more letter. ``prompts`` (recorded digits and
    letters in noise), or ``made`` (scikit-learn's pictures of digits side by side, of which a column is four frames
    of 8 bands; unit tests only).
    """
    sizes = (train, validation, test)
    if source == "made":
        return data([_digit_rows(part, n, letters) for part, n in enumerate(sizes)], classes=letters)
    if source != "prompts":
        raise ValueError(f"no source {source!r} of spelled words; there are prompts and made")
    from eelit.methods.data import recordings

    split = recordings.utterances(*sizes, letters)
    parts = []
    for part in (split.train, split.validation, split.test):
        heard = log_mel(torch.as_tensor(part.waves), bands, recordings.RATE)
        heard = (heard - heard.mean(dim=2, keepdim=True)) / heard.std()
        parts.append(Examples(list(heard), torch.as_tensor(part.letters)))
    return data(parts, classes=letters)


@in_memory(2)
def sentences(*, train: int, validation: int = 140, test: int = 280, seconds: float = 4.0) -> Data:
    """Return recorded sentences in noise as Whisper hears them ``[80, 100 seconds]``, to be written down.

    Targets ``[N, most]`` hold the places of their letters in `recordings.LETTERS`, and -1 where there is no more. Of
    four seconds there are 277 recordings for training, 47 for validation and 140 for test, with other texts; each comes
    several times, at another speed in other noise.
    """
    from eelit.methods.data import recordings

    split = recordings.sentences(train, validation, test, seconds)
    parts = []
    for part in (split.train, split.validation, split.test):
        columns = [heard_by_whisper(wave, recordings.RATE) for wave in torch.as_tensor(part.waves).split(100)]
        parts.append(Examples(list(torch.cat(columns)), torch.as_tensor(part.letters)))
    return data(parts, classes=len(recordings.LETTERS))


def examples(inputs: Sequence[NDArray[np.generic]] | NDArray[np.generic], targets: NDArray[np.generic]) -> Examples:
    """Turn arrays into `Examples`."""
    return Examples([torch.as_tensor(x) for x in inputs], torch.as_tensor(targets))


def data(parts: Sequence[Examples], classes: int | None) -> Data:
    """Join train, validation and test with a digest of all that they hold."""
    h = hashlib.blake2b(digest_size=8)
    for part in parts:
        h.update(part.targets.numpy().tobytes())
        for x in part.inputs:
            h.update(x.numpy().tobytes())
    train, validation, test = parts
    return Data(train, validation, test, classes, h.hexdigest())


def _digit_tokens(train: int, length: int, test: int | None, *, values: bool) -> Data:
    """Pictures as 16 tokens, each the mean grey of 2×2 pixels in 32 levels, behind a class token of its own.

    There are 300 for validation and at most 400 for tests.
    """
    from sklearn.datasets import load_digits

    pictures = load_digits()
    greys = pictures.images.reshape(-1, 4, 2, 4, 2).mean(axis=(2, 4)).reshape(-1, 16) * 2
    ids = np.concatenate([np.full((len(greys), 1), 33), greys.round()], axis=1).astype(np.int64)
    order = np.random.default_rng(0).permutation(len(ids))
    tested = order[train + 300 :][: min(400, test or 400)]
    cut, ids = (order[:train], order[train : train + 300], tested), ids[:, :length]
    targets = (pictures.target / 4.5 - 1).astype(np.float32) if values else pictures.target.astype(np.int64)
    return data([examples(ids[part], targets[part]) for part in cut], classes=None if values else 10)


def _made_tags(sentences: int) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Sentences of five to eight made words: most words have one tag, some that of the word before them.

    A word is one piece, or two, of which the second says nothing.
    """
    rng, found = np.random.default_rng(0), []
    for _ in range(sentences):
        words = np.where(
            rng.random(n := int(rng.integers(5, 9))) < 0.3, rng.integers(43, 53, n), rng.integers(3, 43, n)
        )
        ids, numbers, tags = [1], [-1], [0]
        for number, word in enumerate(words.tolist()):
            long = rng.random() < 0.2
            ids += [word, int(rng.integers(53, 64))] if long else [word]
            numbers += [number] * (2 if long else 1)
            tags.append(tags[-1] if word >= 43 else word % 5)
        found.append((np.array([[*ids, 2], [*numbers, -1]]), np.array(tags[1:])))
    return found


def _made_queries(train: int, validation: int, test: int) -> RankingData:
    """Six numbers per document; the grade follows a sum and a product of them, and noise."""
    rng = np.random.default_rng(0)

    def part(n: int) -> Queries:
        sizes = rng.integers(20, 61, n)
        x = rng.normal(size=(int(sizes.sum()), 6))
        latent = x[:, 0] + x[:, 1] * x[:, 2] + 0.5 * np.abs(x[:, 3]) + 0.5 * rng.normal(size=len(x))
        return Queries(x.astype(np.float32), np.digitize(latent, [0.5, 1.5, 2.5, 3.5]), sizes, x[:, 0])

    return RankingData(part(train), part(validation), part(test), f"made {train} {validation} {test}")


def _digit_rows(part: int, n: int, kinds: int) -> Examples:
    """Two to four of the pictures of a part side by side, four times as wide, with gaps, in noise of some strength.

    Each three pictures in four are for training, every eighth one for validation and for test.
    """
    from sklearn.datasets import load_digits

    rng, source = np.random.default_rng(part), load_digits()
    mine = np.array([0, 0, 0, 0, 0, 0, 1, 2])[np.arange(len(source.target)) % 8] == part
    pool, wide = np.flatnonzero(mine & (source.target < kinds)), source.images.repeat(4, axis=2) / 8 - 0.6
    rows, targets = rng.normal(size=(n, 8, 176)) * rng.uniform(0.0, 1.0, (n, 1, 1)), np.full((n, 4), -1)
    for row, target in zip(rows, targets, strict=True):
        place = 0
        for k, chosen in enumerate(rng.choice(pool, int(rng.integers(2, 5)))):
            place += int(rng.integers(0, 9))
            row[:, place : place + 32] += wide[chosen]
            target[k], place = source.target[chosen], place + 32
    return examples(rows.astype(np.float32), targets)


def _made_sounds(n: int, samples: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Chords of four overtones whose pitch and loudness waver, in white noise; both parts times one factor."""
    rng, t = np.random.default_rng(0), np.arange(samples) / 8000
    pitch = rng.uniform(150, 400, (n, 1)) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(2, 6, (n, 1)) * t))
    phase = 2 * np.pi * np.cumsum(pitch, axis=1) / 8000
    clean = np.add.reduce([np.sin(k * phase) / k for k in range(1, 5)])
    clean = clean * (0.6 + 0.4 * np.sin(2 * np.pi * (rng.uniform(2, 8, (n, 1)) * t + rng.random((n, 1)))))
    clean /= np.sqrt((clean**2).mean(axis=1, keepdims=True))
    noisy = clean + 10 ** (-rng.uniform(-5, 15, (n, 1)) / 20) * rng.standard_normal((n, samples))
    scale = 1 / np.sqrt((noisy**2).mean(axis=1, keepdims=True))
    return (noisy * scale).astype(np.float32), (clean * scale).astype(np.float32)


@in_memory(2)
def _made_words(vocabulary: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Three streams of made words: the next word follows from the one before, with noise; its letters are fixed."""
    rng = np.random.default_rng(0)
    words = [rng.integers(0, vocabulary, size) for size in rng.integers(2, 6, 24)]
    likely = rng.dirichlet(np.full(len(words), 0.1), size=len(words))

    def stream(length: int) -> NDArray[np.int64]:
        word, text = 0, []
        for _ in range(length):
            word = rng.choice(len(words), p=likely[word])
            text.append(words[word])
        return np.concatenate(text)

    return stream(6000), stream(1000), stream(1000)


def _made_translations(train: int, longest: int) -> TranslationData:
    """Sentences of 20 made words, each with one translation, but a third of them mean another by the word before."""
    rng, words, parts = np.random.default_rng(0), 20, []
    meanings = rng.permutation(words)
    for n in (train, 60, 60):
        sources = np.zeros((n, longest + 1), dtype=np.int64)
        references = np.zeros_like(sources)
        for source, reference in zip(sources, references, strict=True):
            found = rng.integers(0, words, rng.integers(3, longest + 1))
            before = np.concatenate([[0], found[:-1]])
            said = meanings[np.where(found % 3 == 2, (found + before) % words, found)]
            source[: len(found)], reference[: len(found)] = 3 + found, 3 + words + said
            source[len(found)] = reference[len(found)] = END
        parts.append((sources, references))
    return translation_data(parts, ["", "", "", *(f" {i}" for i in range(2 * words))])
