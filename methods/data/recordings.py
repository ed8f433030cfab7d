"""Recorded prompts of a telephone system, in noise: a second of speech to be cleaned, and spelled words to be read.

One speaker, 8 kHz. Speech to be cleaned is in noise of three kinds: recorded music; babble of six voices, which are
other prompts at other speeds; and made noise, whose power falls with frequency as f^-a, a drawn from 0 (white) to 2,
and whose level wavers. Sentences and spelled words are in made noise alone. Recordings themselves, not pieces of them,
are divided into training, validation and test, and so is the music; of sentences, also what is said: no text is in two
parts. Only the spelled words are of one recording of each letter, which all parts share, at another speed and in other
noise.
"""

import io
import re
import wave as riff
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.memory_cache import in_memory
from eelit.methods.data.split import Split, divide, labelled, source_digest

ITEM = "prompts"
TEXTS = "prompt-texts"
RATE = 8000  # samples a second
SOUND = re.compile(rb"== ([^\n]+)\.wav\n(?=RIFF)")
"""What stands before each recording of a joined file."""
QUIET = 0.02  # root mean square, of 1 at most, below which a recording is a pause, not speech
TONES = ("ascending-2tone", "beep", "beeperr", "descending-2tone")
"""Recordings without speech."""
SLOWEST, FASTEST = 0.85, 1.2  # of the recorded speed
MUSIC = "music"
PLAYED = (
    ("macroform-cold_day", "macroform-robot_dity", "macroform-the_simplicity"),
    ("manolo_camp-morning_coffee",),
    ("reno_project-system",),
)
"""Pieces of music that are noise in training, in validation and in tests."""
VOICES = 6
"""How many talk at once in babble."""
SPELLED = (*"0123456789", *"abcdefghijklmnopqrstuvwxyz")
"""What utterances are spelled of: ten digits and the letters, each a class of its own."""

SAID = re.compile(r"([\w./-]+): (.+)")
"""A line of the texts: which recording, and what is said."""
SILENT = ("pls-try-call-later",)
"""What has a text, but no recording."""
LETTERS = " abcdefghijklmnopqrstuvwxyz'"
"""What sentences are written in, each a unit of its own."""
NUMBERS = {
    str(i): word
    for i, word in enumerate((
        "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"
    ))
}  # fmt: skip
"""How numbers are said that are written as such."""
QUIETER = (10.0, 30.0)  # by how many dB sentences are louder than their noise, drawn evenly between these
LOUD = 0.05  # root mean square of a sentence in noise, of 1 at most: as recorders are set
OF_TEN = (6, 1, 3)
"""Of ten texts, how many are for training, validation and test."""

Wave = NDArray[np.float32]


@dataclass(frozen=True)
class Mixtures:
    """Pieces of speech in noise, and the speech alone, each `[n, samples]`; both of a row share one factor.

    It makes the root mean square of what is in noise 1. `levels` is by how many dB the speech is louder than the noise.
    """

    noisy: Wave
    clean: Wave
    levels: NDArray[np.float32]  # [n]
    rows: NDArray[np.int64]  # [n], which recording
    kinds: NDArray[np.int64]  # [n], of the noise: 0 made, 1 music, 2 babble

    def __len__(self) -> int:
        return len(self.levels)


@dataclass(frozen=True)
class Utterances:
    """Words spelled out loud, of one length `[n, samples]`, and the numbers of their letters, filled up with -1."""

    waves: Wave
    letters: NDArray[np.int64]  # [n, most]
    levels: NDArray[np.float32]  # [n], by how many dB the speech is louder than the noise

    def __len__(self) -> int:
        return len(self.levels)


def mixtures(
    train: int = 400, validation: int = 120, test: int = 240, samples: int = RATE, *, seed: int = 0
) -> Split[Mixtures]:
    """Pieces of the recordings that are as long at least, at -5 to 15 dB; several may be of one recording.

    Of each ten recordings six are for training, two for validation, two for test. Asking for fewer pieces leaves the
    others as they are.
    """
    every = _spoken()
    long = [i for i, wave in enumerate(every) if len(wave) >= samples]
    if len(long) < 10:
        raise ValueError(f"{ITEM} has {len(long)} recordings of {samples} samples, which are too few")
    held = len(long) // 5
    rows = divide(range(len(long)), len(long) - 2 * held, held, held, seed=seed, item=ITEM)

    def part(chosen: NDArray[np.int64], n: int, number: int) -> Mixtures:
        recordings, voices = np.array(long)[chosen[np.arange(n) % len(chosen)]], [every[long[i]] for i in chosen]
        noises, made = (partial(noise, samples), partial(music, number, samples), partial(babble, voices, samples)), []
        for i, row in enumerate(recordings):
            random = np.random.default_rng([seed, number, i])
            kind = int(random.integers(len(noises)))
            made.append((*mixture(every[row], noises[kind](random), random), kind))
        noisy, clean, levels, kinds = zip(*made, strict=True)
        loud = np.array(levels, dtype=np.float32)
        return Mixtures(np.stack(noisy), np.stack(clean), loud, recordings, np.array(kinds))

    sizes = zip((rows.train, rows.validation, rows.test), (train, validation, test), strict=True)
    parts = [part(chosen, n, number) for number, (chosen, n) in enumerate(sizes)]
    digest = f"{train} {validation} {test} {samples} {rows.digest} {source_digest(MUSIC)}"
    return Split(parts[0], parts[1], parts[2], digest)


def moments(samples: int, sizes: tuple[int, int, int], *, seed: int = 0) -> list[Wave]:
    """Moments of speech `[n, samples]` for training, validation and tests, in a Hann window, of root mean square 1.

    They begin anywhere in a recording where it is not quiet; the parts have other recordings.
    """
    every = [wave for wave in _spoken() if len(wave) >= samples]
    held, window = len(every) // 5, np.hanning(samples)
    rows = divide(range(len(every)), len(every) - 2 * held, held, held, seed=seed, item=ITEM)
    parts = []
    for number, (chosen, n) in enumerate(zip((rows.train, rows.validation, rows.test), sizes, strict=True)):
        random, found = np.random.default_rng([seed, number]), list[NDArray[np.floating]]()
        while len(found) < n:
            wave = every[chosen[random.integers(len(chosen))]]
            start = int(random.integers(len(wave) - samples + 1))
            moment = wave[start : start + samples] * window
            if _level(moment) > QUIET:
                found.append(moment / _level(moment))
        parts.append(np.array(found, dtype=np.float32))
    return parts


def utterances(
    train: int = 800, validation: int = 200, test: int = 400, letters: int = 36, most: int = 4, *, seed: int = 0
) -> Split[Utterances]:
    """Words of two to `most` letters drawn from the first of `SPELLED`, at 0 to 20 dB, all of one length in samples.

    Asking for fewer words leaves the others as they are.
    """
    if not 2 <= letters <= len(SPELLED) or most < 2:
        raise ValueError(f"words are of 2 letters or more, of 2 to {len(SPELLED)} kinds, not {most} of {letters}")
    sounds = {name: trimmed(wave) for file in ("letters.wav", "digits.wav") for name, wave in _sounds(file)}
    spoken = [sounds[name] for name in SPELLED[:letters]]
    parts = []
    for number, n in enumerate((train, validation, test)):
        made = [utterance(spoken, most, np.random.default_rng([seed, number, i])) for i in range(n)]
        waves, said, levels = zip(*made, strict=True)
        parts.append(Utterances(np.stack(waves), np.stack(said), np.array(levels, dtype=np.float32)))
    digest = labelled(ITEM, range(train), range(validation), range(test)).digest
    return Split(parts[0], parts[1], parts[2], f"{letters} {most} {seed} {digest}")


@dataclass(frozen=True)
class Sentences:
    """Sentences in noise, of one length `[n, samples]`, and their letters as places in `LETTERS`, filled up with -1."""

    waves: Wave
    letters: NDArray[np.int64]  # [n, most]
    levels: NDArray[np.float32]  # [n], by how many dB the speech is louder than the noise
    rows: NDArray[np.int64]  # [n], which recording

    def __len__(self) -> int:
        return len(self.levels)


def sentences(
    train: int = 1600, validation: int = 120, test: int = 400, seconds: float = 4.0, *, seed: int = 0
) -> Split[Sentences]:
    """Prompts that last at most so long, in noise at 10 to 30 dB, at speeds of their own; several are of one recording.

    Recordings with the same text are in one part. Asking for fewer leaves the others as they are.
    """
    said = [(number, text) for number, text in enumerate(texts()) if text]
    sounds = {number: trimmed(wave) for number, (_, wave) in enumerate(_sounds("prompts.wav")) if _level(wave) > QUIET}
    most = int(seconds * RATE)
    known = [(number, text) for number, text in said if number in sounds and len(sounds[number]) / SLOWEST <= most]
    distinct = sorted({text for _, text in known})
    rows = divide(range(len(distinct)), *(len(distinct) * share // 10 for share in OF_TEN), seed=seed, item=TEXTS)
    longest = max(len(text) for text in distinct)

    def part(chosen: NDArray[np.int64], n: int, number: int) -> Sentences:
        mine = {distinct[i] for i in chosen}
        pool = [(row, text) for row, text in known if text in mine]
        waves, levels = np.empty((n, most), dtype=np.float32), np.empty(n, dtype=np.float32)
        letters, which = np.full((n, longest), -1, dtype=np.int64), np.empty(n, dtype=np.int64)
        for i in range(n):
            random = np.random.default_rng([seed, number, i])
            which[i], text = pool[i % len(pool)]
            waves[i], levels[i] = _in_noise(sounds[int(which[i])], most, random)
            letters[i, : len(text)] = [LETTERS.index(letter) for letter in text]
        return Sentences(waves, letters, levels, which)

    sizes = zip((rows.train, rows.validation, rows.test), (train, validation, test), strict=True)
    parts = [part(chosen, n, number) for number, (chosen, n) in enumerate(sizes)]
    digest = f"{train} {validation} {test} {seconds} {source_digest(ITEM)} {rows.digest}"
    return Split(parts[0], parts[1], parts[2], digest)


def texts() -> list[str]:
    """What each of the prompts says, in the order of the recordings; empty where letters cannot tell it.

    Raises `ValueError` if texts and recordings do not go together.
    """
    lines = (fetch.path(TEXTS) / "core-sounds-en.txt").read_text(encoding="utf-8").splitlines()
    told = {found[1]: found[2] for found in map(SAID.fullmatch, lines) if found}
    names = sorted((name for name in told if name not in SILENT), key=lambda name: f"{name}.wav")
    if [name.rpartition("/")[2] for name in names] != [name for name, _ in _sounds("prompts.wav")]:
        raise ValueError(f"the texts of {TEXTS} are not those of the recordings of {ITEM}")
    return [in_letters(told[name]) for name in names]


def in_letters(text: str) -> str:
    """The text in `LETTERS`, numbers up to twelve in words; empty if it has others, or says what is heard in brackets.

    >>> in_letters("Press 1, or wait -- that's all.")
    "press one or wait that's all"
    """
    said = re.sub(r"\d+", lambda found: NUMBERS.get(found[0], found[0]), text.lower())
    said = " ".join(re.sub(r"[-.,:;!?\"/]", " ", said).split())
    return said if set(said) <= set(LETTERS) else ""


def _in_noise(wave: Wave, samples: int, random: np.random.Generator) -> tuple[Wave, float]:
    """The recording at a speed of its own, somewhere in noise of so many samples, and its level in dB above that.

    The root mean square of both together is `LOUD`.
    """
    word = at_speed(wave, float(random.uniform(SLOWEST, FASTEST)))
    clean, place = np.zeros(samples, dtype=np.float32), int(random.integers(samples - len(word) + 1))
    clean[place : place + len(word)] = word
    level = float(random.uniform(*QUIETER))
    noisy = clean + _level(word) * 10 ** (-level / 20) * noise(samples, random)
    return (noisy * (LOUD / _level(noisy))).astype(np.float32), level


def mixture(wave: Wave, around: Wave, random: np.random.Generator) -> tuple[Wave, Wave, float]:
    """A piece of a recording in noise of level 1 and as long, the piece alone, and its level in dB above the noise."""
    clean = _loudest(wave, len(around), random)
    level = float(random.uniform(-5, 15))
    noisy = clean + _level(clean) * 10 ** (-level / 20) * around
    scale = np.float32(1 / _level(noisy))
    return (noisy * scale).astype(np.float32), clean * scale, level


def utterance(spoken: list[Wave], most: int, random: np.random.Generator) -> tuple[Wave, NDArray[np.int64], float]:
    """Two to `most` of the recordings one after the other, each at a speed of its own, in noise; and their numbers.

    There is room for `most` of the longest at the slowest speed, with pauses of up to a fifth of a second.
    """
    room = int(most * (max(map(len, spoken)) / SLOWEST + RATE / 5))
    count = int(random.integers(2, most + 1))
    letters = np.full(most, -1, dtype=np.int64)
    letters[:count] = random.integers(0, len(spoken), count)
    clean, place = np.zeros(room, dtype=np.float32), 0
    for letter in letters[:count]:
        place += int(random.integers(0, RATE // 5))
        word = at_speed(spoken[letter], float(random.uniform(SLOWEST, FASTEST)))
        clean[place : place + len(word)] = word
        place += len(word)
    level = float(random.uniform(0, 20))
    noisy = clean + _level(clean[:place]) * 10 ** (-level / 20) * noise(room, random)
    return (noisy / _level(noisy)).astype(np.float32), letters, level


def at_speed(wave: Wave, speed: float) -> Wave:
    """The recording played at another speed, pitch included: its samples are drawn between its own."""
    places = np.arange(int(len(wave) / speed)) * speed
    return np.interp(places, np.arange(len(wave)), wave).astype(np.float32)


def trimmed(wave: Wave) -> Wave:
    """The recording without silence at both ends: frames of 10 ms below a twentieth of the loudest one's level."""
    frames = wave[: len(wave) // 80 * 80].reshape(-1, 80)
    levels = np.sqrt((frames**2).mean(axis=1))
    loud = np.flatnonzero(levels > levels.max() / 20)
    return wave[80 * loud[0] : 80 * (loud[-1] + 1)]


def noise(samples: int, random: np.random.Generator) -> Wave:
    """Noise of level 1: power falls as f^-a, a from 0 to 2; the level rises and falls one to four times a second."""
    size = 1 << (samples - 1).bit_length()  # transforms of other lengths can take ten times as long
    spectrum = np.fft.rfft(random.standard_normal(size))
    spectrum *= np.maximum(np.fft.rfftfreq(size, 1 / RATE), 50.0) ** (-random.uniform(0, 2) / 2)
    phase = 2 * np.pi * (random.uniform(1, 4) * np.arange(samples) / RATE + random.random())
    made = np.fft.irfft(spectrum, size)[:samples] * (1 + random.uniform(0, 0.8) * np.sin(phase))
    return (made / _level(made)).astype(np.float32)


def music(part: int, samples: int, random: np.random.Generator) -> Wave:
    """A piece of music of level 1: in training (0) of three, in validation (1) and tests (2) of one other each."""
    played = PLAYED[part]
    found = _loudest(_played(played[int(random.integers(len(played)))]), samples, random)
    return found / np.float32(_level(found))


def babble(voices: Sequence[Wave], samples: int, random: np.random.Generator) -> Wave:
    """Six of the recordings at once, equally loud, each at a speed of its own and from any place on; of level 1."""
    found = np.zeros(samples, dtype=np.float32)
    for row in random.integers(0, len(voices), VOICES):
        voice = at_speed(voices[row], float(random.uniform(SLOWEST, FASTEST)))
        found += np.resize(np.roll(voice, int(random.integers(len(voice)))), samples) / np.float32(_level(voice))
    return found / np.float32(_level(found))


def _loudest(wave: Wave, samples: int, random: np.random.Generator) -> Wave:
    """The loudest piece of four at random places, since many recordings begin and end in silence."""
    starts = random.integers(0, len(wave) - samples + 1, 4)
    return max((wave[start : start + samples] for start in starts), key=_level)


def _level(wave: NDArray[np.floating]) -> float:
    """The root mean square."""
    return float(np.sqrt(np.mean(np.square(wave, dtype=np.float64))))


def _spoken() -> list[Wave]:
    """All recordings of speech."""
    return [wave for name, wave in _sounds("prompts.wav") if name not in TONES and _level(wave) > QUIET]


@in_memory()
def _sounds(file: str) -> tuple[tuple[str, Wave], ...]:
    """Names and samples, from -1 to 1, of all recordings that a file joins."""
    raw = (fetch.path(ITEM) / file).read_bytes()
    found = list(SOUND.finditer(raw))
    ends = [mark.start() for mark in found[1:]] + [len(raw)]
    return tuple((mark[1].decode(), samples_of(raw[mark.end() : end])) for mark, end in zip(found, ends, strict=True))


@in_memory()
def _played(name: str) -> Wave:
    """The samples of a piece of music."""
    return samples_of((fetch.path(MUSIC) / f"{name}.wav").read_bytes())


def samples_of(raw: bytes) -> Wave:
    """The samples, from -1 to 1, of a WAV file of 16 bits, one channel and 8 kHz; `ValueError` for any other."""
    with riff.open(io.BytesIO(raw)) as sound:
        kind = (sound.getnchannels(), sound.getsampwidth(), sound.getframerate())
        if kind != (1, 2, RATE):
            raise ValueError(f"a recording has 1 channel, 2 bytes a sample and {RATE} samples a second, not {kind}")
        return np.frombuffer(sound.readframes(sound.getnframes()), dtype="<i2").astype(np.float32) / np.float32(32768)
