"""What exit rules compare, computed once for all of them: confidence, entropy, margins, distances between exits.

Every figure is made by the operations of `eelit.methods.policies`, in the same order and precision, so that a rule that
is asked here decides as it does exit by exit; the outputs are read in pieces that fit a processor's cache, by several
threads, and are never held whole.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.logits import Logits, WrongLogits

PIECE = 1 << 16  # numbers that are worked on at a time: 256 kB of float32
AHEAD = (
    16  # classes, the likeliest at the last exit, among which the answer left by excluded classes is looked for first
)

Array = NDArray[Any]


class Scores:
    """Scores ``[E, N]`` of all exits and samples, computed when first asked for; with temperatures, of ``z / T``."""

    def __init__(
        self, logits: Logits, temperatures: Sequence[float] | None = None, *, threads: int | None = None
    ) -> None:
        self.logits = logits
        self.temperatures = temperatures
        self.threads = threads or _threads()
        self._kept: dict[str, Array] = {}
        self._tempered: dict[tuple[float, ...], Scores] = {}
        self._many: dict[int, tuple[Array, Array]] = {}  # sample → all its classes as in `_excluded`

    # What each exit says by itself

    @property
    def predicted(self) -> Array:
        """Number of the likeliest class ``[E, N]``, -1 where the logits are not finite; the value, for values."""
        return self._of("predicted")

    @property
    def usable(self) -> Array:
        """Where the logits mean something ``[E, N]`` (see `eelit.methods.policies.base.usable`)."""
        return self._of("usable")

    @property
    def first(self) -> Array:
        """Largest logit."""
        return self._of("first")

    @property
    def second(self) -> Array:
        """Second largest logit."""
        return self._of("second")

    @property
    def confidence(self) -> Array:
        """Largest probability."""
        return self._of("confidence")

    @property
    def runner_up(self) -> Array:
        """Second largest probability."""
        return self._of("runner_up")

    @property
    def entropy(self) -> Array:
        """Entropy in nats."""
        return self._of("entropy")

    @property
    def distance(self) -> Array:
        """Divergence ``KL(previous || present)`` of each exit's probabilities; NaN at the first exit."""
        return self._of("distance", self._distances)

    @property
    def together(self) -> Array:
        """Likeliest class by the mean of the probabilities of all exits so far."""
        return self._of("together", self._ensembles)

    @property
    def excluded(self) -> Array:
        """How likely, beside the likeliest, the best class still is that is not the answer (`ClassExclusion`).

        The logarithm of the ``beta`` below which a second class remains at this exit, the same at all exits.
        """
        return self._of("excluded", self._exclusions)

    def left_by_exclusion(self, limit: float) -> Array:
        """Return the answer ``[N]`` of the last exit among the classes that remain for a logarithm of ``beta``."""
        self._of("excluded", self._exclusions)
        classes, strength = self._kept["ahead"], self._kept["strength"]
        holds = strength > limit
        found = np.where(holds.any(axis=1), classes[np.arange(len(classes)), holds.argmax(axis=1)], -1)
        for i in np.flatnonzero(~holds.any(axis=1)):
            if int(i) in self._many:
                order, all_strengths = self._many[int(i)]
                found[i] = order[int(np.argmax(all_strengths > limit))]
        return np.where(self._kept["told"], found, -1)

    def tempered(self, temperatures: Sequence[float]) -> Scores:
        """Return the scores of ``z / temperature``, one temperature per exit."""
        key = tuple(map(float, temperatures))
        if key not in self._tempered:
            self._tempered[key] = Scores(self.logits, key, threads=self.threads)
        return self._tempered[key]

    # What an answer is worth

    @property
    def gain(self) -> Array:
        """What the answer of each exit is worth ``[E, N]``, whose mean is the quality (see `worth`)."""
        if "gain" not in self._kept:
            self._kept["gain"] = np.stack([self.worth(answer) for answer in self.predicted])
        return self._kept["gain"]

    @property
    def quality_is(self) -> str:
        """What the mean of `gain` is called."""
        if self.logits.kind == "values":
            return "R²" if self.logits.labels is not None else "R² against the last exit"
        return "accuracy" if self.logits.labels is not None else "agreement with the last exit"

    @property
    def truth(self) -> Array:
        """The labels, or what the last exit answers."""
        return self.predicted[-1] if self.logits.labels is None else self.logits.labels

    def worth(self, answers: Array) -> Array:
        """Return what answers ``[N]`` are worth: 1 for the right class, else 0; of values 1 - (error² / variance)."""
        if self.logits.kind != "values":
            return np.asarray((answers == self.truth) & (answers >= 0), dtype=np.float32)
        known = self.truth[np.isfinite(self.truth)]
        variance = float(np.var(known)) if len(known) else 0.0
        if variance == 0:
            raise WrongLogits("all labels are the same value, so that no answer explains any of their variance")
        off = np.nan_to_num(answers - self.truth, nan=math.sqrt(variance), posinf=0.0, neginf=0.0)
        told = np.isfinite(answers)
        return np.where(told, 1 - off**2 / variance, 0.0)  # no answer is worth what the mean of all labels is

    @property
    def not_finite(self) -> int:
        """Of how many samples some exit said what is not finite."""
        return int((~self.usable).any(axis=0).sum())

    # How they are computed

    def _of(self, name: str, fill: Callable[[], None] | None = None) -> Array:
        if name not in self._kept:
            (fill or self._basic)()
        return self._kept[name]

    def logits_at(self, exit_: int, start: int, stop: int) -> Array:
        """Return logits ``[n, C]``, or values ``[n]``, of some samples at an exit, as rules are shown them."""
        z = self.logits.read(exit_, start, stop)
        if self.temperatures is None:
            return z
        return z / np.asarray(self.temperatures[exit_], dtype=z.dtype)

    def in_pieces(self, work: Callable[[int, int], None]) -> None:
        """Do work on one piece of the samples after the other, by several threads."""
        size = max(1, PIECE // max(1, self.logits.classes))

        def piece(start: int) -> None:
            with np.errstate(all="ignore"):  # each thread has its own; what is not finite is seen to
                work(start, min(start + size, self.logits.samples))

        starts = range(0, self.logits.samples, size)
        if self.threads == 1 or len(starts) == 1:
            for start in starts:
                piece(start)
            return
        with ThreadPoolExecutor(self.threads) as pool:
            for _ in pool.map(piece, starts):
                pass

    def _room(self, name: str, dtype: Any, exits: int | None = None) -> Array:
        shape = (self.logits.exits if exits is None else exits, self.logits.samples)
        found = self._kept[name] = np.zeros(shape, dtype=dtype)
        return found

    def _precision(self) -> Any:
        return self.logits.read(0, 0, 0 if self.logits.kind != "probabilities" else 1).dtype

    def _basic(self) -> None:
        if self.logits.kind == "values":
            self._values()
            return
        kind = self._precision()
        predicted, usable = self._room("predicted", np.int32), self._room("usable", np.bool_)
        names = ("first", "second", "confidence", "runner_up", "entropy")
        rooms = [self._room(name, kind) for name in names]

        def work(start: int, stop: int) -> None:
            for e in range(self.logits.exits):
                z = self.logits_at(e, start, stop)
                known, best, found = basic(z)
                predicted[e, start:stop] = np.where(known, best, -1)
                usable[e, start:stop] = known
                for room, part in zip(rooms, found, strict=True):
                    room[e, start:stop] = part

        self.in_pieces(work)

    def _values(self) -> None:
        predicted, usable = self._room("predicted", np.float64), self._room("usable", np.bool_)
        for e in range(self.logits.exits):
            found = self.logits.read(e, 0, self.logits.samples)
            usable[e] = np.isfinite(found)
            predicted[e] = np.where(usable[e], found, np.nan)

    def _distances(self) -> None:
        distance = self._room("distance", self._precision())

        def work(start: int, stop: int) -> None:
            p = log_p = None
            for e in range(self.logits.exits):
                log_q = log_softmax(self.logits_at(e, start, stop))
                q = np.exp(log_q)
                if p is None or log_p is None:
                    distance[e, start:stop] = np.nan
                else:
                    log_p -= log_q
                    log_p[p == 0] = 0.0
                    np.multiply(p, log_p, out=log_p)
                    far = log_p.sum(axis=-1)
                    distance[e, start:stop] = np.where(far < 0, 0.0, far)
                p, log_p = q, log_q

        self.in_pieces(work)

    def _ensembles(self) -> None:
        found = self._room("together", np.int32)

        def work(start: int, stop: int) -> None:
            total = of = None
            for e in range(self.logits.exits):
                z = self.logits_at(e, start, stop)
                known = np.abs(z.max(axis=-1)) < math.inf
                p = np.exp(log_softmax(z))
                p[~known] = 0.0
                total = p if total is None else total + p
                of = known.astype(p.dtype) if of is None else of + known
                mean = total / of[:, None]
                least = np.finfo(mean.dtype).smallest_normal
                best = np.log(np.where(mean < least, least, mean)).argmax(axis=-1)
                found[e, start:stop] = np.where(of > 0, best, -1)

        self.in_pieces(work)

    def _exclusions(self) -> None:
        """Keep, for each class, the least of its strengths since it last led: below it, the class is struck out."""
        exits, classes = self.logits.exits, self.logits.classes
        excluded = self._room("excluded", np.float64)
        ahead = min(AHEAD, classes)
        order = self._kept["ahead"] = np.zeros((self.logits.samples, ahead), dtype=np.int32)
        strength = self._kept["strength"] = np.zeros((self.logits.samples, ahead))
        told = self._kept["told"] = np.ones(self.logits.samples, dtype=np.bool_)

        def work(start: int, stop: int) -> None:
            n = stop - start
            rows, lowest = np.arange(n), np.full((n, classes), math.inf)
            for e in range(exits - 1):
                z = self.logits_at(e, start, stop)
                known = np.abs(z.max(axis=-1)) < math.inf
                best = z.argmax(axis=-1)
                score = log_sigmoid(z)
                score -= score.max(axis=-1, keepdims=True)
                score[~known] = math.inf
                np.minimum(lowest, score, out=lowest)
                lowest[rows, best] = np.where(known, -math.inf, lowest[rows, best])
                excluded[e, start:stop] = np.where(known, lowest.max(axis=-1), math.inf)
                lowest[rows[known], best[known]] = math.inf
            z = self.logits_at(exits - 1, start, stop)
            told[start:stop] = np.abs(z.max(axis=-1)) < math.inf
            self._look_ahead(z, lowest, start, order, strength)

        self.in_pieces(work)

    def _look_ahead(self, z: Array, lowest: Array, start: int, order: Array, strength: Array) -> None:
        """Note the likeliest classes of the last exit, best first, and how strong each was at the exits before."""
        rows, ahead = np.arange(len(z)), order.shape[1]
        held = z.copy()
        for t in range(ahead):
            best = held.argmax(axis=-1)  # of equal ones the first, as an answer is read
            order[start + rows, t] = best
            strength[start + rows, t] = lowest[rows, best]
            held[rows, best] = -math.inf
        for i in np.flatnonzero((strength[start : start + len(z)] < math.inf).all(axis=1)):
            classes = np.argsort(-z[i], kind="stable")
            self._many[start + int(i)] = classes, lowest[i][classes]


def basic(z: Array) -> tuple[Array, Array, list[Array]]:
    """Return whose logits ``[n, C]`` are usable, the likeliest class, and five scores ``[n]``; ``z`` is used up.

    The scores are the two largest logits, the two largest probabilities, and the entropy.
    """
    rows, best = np.arange(len(z)), z.argmax(axis=-1)
    first = z[rows, best]
    known = np.abs(first) < math.inf
    log_p = z - first[:, None]
    p = np.exp(log_p)
    log_p -= np.log(p.sum(axis=-1, keepdims=True))
    np.exp(log_p, out=p)
    confidence = p.max(axis=-1)
    if not (log_p.min(initial=0.0) > -80):  # where a probability may be 0, its logarithm counts nothing
        log_p[p == 0] = 0.0
    np.multiply(p, log_p, out=log_p)
    entropy = -log_p.sum(axis=-1)
    p[rows, best] = 0.0
    runner_up = p.max(axis=-1)
    z[rows, best] = -math.inf
    second = z.max(axis=-1)
    nan = np.asarray(math.nan, dtype=z.dtype)
    found = [np.where(known, part, nan) for part in (first, second, confidence, runner_up, entropy)]
    return known, best, found


def log_softmax(z: Array) -> Array:
    """Return the logarithm of the softmax of logits ``[n, C]`` of float32 or float64 (see `policies.base`)."""
    found = z - z.max(axis=-1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=-1, keepdims=True))
    return found


def log_sigmoid(z: Array) -> Array:
    """Return the logarithm of the sigmoid in float64, finite even where the sigmoid underflows."""
    wide = z.astype(np.float64)
    found = np.abs(wide)
    np.negative(found, out=found)
    np.exp(found, out=found)
    np.log1p(found, out=found)
    return np.minimum(wide, 0.0) - found


def _threads() -> int:
    asked = os.environ.get("OMP_NUM_THREADS", "")
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(int(asked) if asked.isdigit() else here, here, 8))
