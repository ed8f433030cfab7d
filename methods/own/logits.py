"""What all exits said of some samples, whichever framework computed it: arrays, checked, read piece by piece."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["logits", "probabilities", "values"]
KINDS: tuple[Kind, ...] = ("logits", "probabilities", "values")
AXES = {"enc": (0, 1, 2), "nec": (1, 0, 2), "en": (0, 1), "ne": (1, 0)}
"""How the axes of an array may be named: exits, samples (``n``), classes; the place of each in this order."""
LOOKED_AT = 1 << 22  # numbers that are looked at together to tell probabilities from logits
SLACK = 0.02  # by which probabilities may miss a sum of 1, as those of half precision do
RAGGED = "store the tokens of all texts one after the other as samples, and beside them `lengths`, the tokens per text"


class WrongLogits(ValueError):
    """What was given cannot be the outputs of a network with exits; the message is one sentence."""


class Logits:
    """What all exits said: ``z``, and what else is known of the samples.

    Args:
        z: logits or probabilities ``[E, N, C]`` of E exits, N samples and C classes, or values ``[E, N]``; an array
            of any library on the host, also one that lies in a file (`numpy.memmap`), which is read piece by piece.
        labels: classes ``[N]`` from 0, or values ``[N]``. Without them the last exit's answer stands for the truth.
        costs: cumulative costs, up to and including each exit and its head, ``[E]`` or per sample ``[E, N]``, in any
            unit. Without them an exit costs its number, from 1.
        axes: ``"enc"`` or ``"nec"`` (samples first), ``"en"`` or ``"ne"`` for values. Without it the labels, costs
            and exits tell; else the smaller of the two sizes is taken for the exits.
        kind: ``"logits"``, ``"probabilities"`` or ``"values"``. Without it a look at the samples tells, where it can.
        unit: what the costs are counted in, as it is to be shown (``"MACs"``, ``"ms"``, ``"J"``).
        plain_costs: the same costs ``[E]`` of a network that has no head but the one at this exit, if known.
        groups: which samples belong together ``[N]`` (tokens of a text, frames of a film): they are never divided
            between halves, and count once together where something is promised.
        lengths: the same as numbers of samples that follow each other.
        extra: what else each exit said, by name, ``[E, N]`` or ``[E, N, K]`` in the order of `z`'s first axes.
        exits: how many exits there are, where that is known; so axes can be told of few samples.
        name: what it is called in reports, the file for instance.

    Raises `WrongLogits`, a `ValueError`, in one sentence for shapes, labels, costs or numbers that cannot be meant.

    >>> z = np.zeros((2, 5, 3))  # 2 exits, 5 samples, 3 classes
    >>> data = Logits(z, labels=[0, 1, 2, 0, 1], costs=[1.0, 2.5], unit="GMACs")
    >>> data.exits, data.samples, data.classes, data.kind, data.full_cost
    (2, 5, 3, 'logits', 2.5)
    >>> Logits(z, labels=[0, 1, 2, 0, 3])
    Traceback (most recent call last):
    eelit.methods.own.logits.WrongLogits: label 4 is 3, but classes are whole numbers from 0 to 2
    """

    def __init__(
        self,
        z: Any,
        labels: Any = None,
        costs: Any = None,
        axes: str | None = None,
        *,
        kind: str | None = None,
        unit: str | None = None,
        plain_costs: Any = None,
        groups: Any = None,
        lengths: Any = None,
        extra: Mapping[str, Any] | None = None,
        exits: int | None = None,
        name: str = "",
        bfloat16: bool = False,
    ) -> None:
        self.name = name
        self.bfloat16 = bfloat16  # the array holds the upper halves of float32 numbers as whole ones
        array = _array(z, "the outputs")
        given = None if labels is None else _array(labels, "labels").reshape(-1)
        places, self.axes_by = _places(array, given, costs, axes, exits)
        self.axes = next(word for word, order in AXES.items() if order == places)
        self.z = array.transpose(places)
        if exits is not None and self.exits != exits:
            raise WrongLogits(f"outputs {list(array.shape)} have {self.exits} exits, not {exits}")
        if not self.exits or not self.samples:
            raise WrongLogits(f"there are no outputs: {self.exits} exits and {self.samples} samples")
        self.kind = self._kind(kind)
        self.labels = None if given is None else self._labels(given)
        self.costs, self.unit = self._costs(costs, unit)
        self.plain_costs = None if plain_costs is None else self._cumulative(plain_costs, "plain_costs")
        if self.plain_costs is not None and self.plain_costs.ndim > 1:
            raise WrongLogits(
                f"plain_costs are one number per exit, [{self.exits}], not {list(self.plain_costs.shape)}"
            )
        self.groups = self._groups(groups, lengths)
        self.extra = {key: self._extra(key, part, places) for key, part in (extra or {}).items()}

    @classmethod
    def ragged(cls, parts: Sequence[Any], labels: Sequence[Any] | None = None, **more: Any) -> Logits:
        """Return the tokens of texts of unequal length as samples that belong together, ``[E, W_i, C]`` of text i."""
        arrays = [_array(part, f"text {i}") for i, part in enumerate(parts)]
        if not arrays or len({(part.shape[0], *part.shape[2:]) for part in arrays if part.ndim > 1}) != 1:
            raise WrongLogits("texts are arrays [exits, tokens, classes] with the same exits and classes")
        given = None if labels is None else np.concatenate([np.asarray(each).reshape(-1) for each in labels])
        axes = "enc" if arrays[0].ndim == 3 else "en"
        lengths = [part.shape[1] for part in arrays]
        return cls(np.concatenate(arrays, axis=1), given, axes=axes, lengths=lengths, **more)

    @property
    def exits(self) -> int:
        """E, the last exit included."""
        return int(self.z.shape[0])

    @property
    def samples(self) -> int:
        """N."""
        return int(self.z.shape[1])

    @property
    def classes(self) -> int:
        """C; 0 for values."""
        return int(self.z.shape[2]) if self.z.ndim == 3 else 0

    @property
    def full_cost(self) -> float:
        """Mean cost of the full model: without the heads of earlier exits, if that is known."""
        return float(self.costs[-1].mean() if self.plain_costs is None else self.plain_costs[-1])

    def __repr__(self) -> str:
        classes = f", {self.classes} classes" if self.classes else ""
        return f"<Logits: {self.kind} of {self.exits} exits, {self.samples} samples{classes}>"

    @property
    def as_read(self) -> str:
        """What the array was taken for, in a sentence."""
        classes = f", {self.classes} classes" if self.classes else ""
        return (
            f"Read as {self.kind}: {self.exits} exits, {self.samples} samples{classes}; axes `{self.axes}`, "
            f"{self.axes_by}."
        )

    def read(self, exit_: int, start: int, stop: int) -> NDArray[Any]:
        """Return what an exit said of some samples as logits ``[n, C]`` or values ``[n]``, in float32 or float64.

        It is a copy. Of probabilities it is the logarithm. Raises `WrongLogits` for probabilities that are none.
        """
        found = self._wide(self.z[exit_, start:stop])
        return self._logarithms(found, exit_, start) if self.kind == "probabilities" else found

    def _wide(self, found: NDArray[Any]) -> NDArray[Any]:
        """Return a copy in float32 or float64."""
        if self.bfloat16:
            found = (np.ascontiguousarray(found).astype(np.uint32) << 16).view(np.float32)
        wide = np.float32 if found.dtype in (np.float16, np.float32) or found.dtype.itemsize < 4 else np.float64
        return np.array(found, dtype=wide, order="C")

    def _logarithms(self, p: NDArray[Any], exit_: int, start: int) -> NDArray[Any]:
        with np.errstate(invalid="ignore", divide="ignore"):
            total = p.sum(axis=1)
            wrong = (np.abs(total - 1) > SLACK) | (p.min(axis=1) < 0)  # NaN is reported, not refused
            if wrong.any():
                i = int(np.argmax(wrong))
                raise WrongLogits(
                    f"what exit {exit_ + 1} says of sample {start + i} are no probabilities: they sum to "
                    f"{total[i]:.4g} and the "
                    f"least is {p[i].min():.4g}; say kind `logits` if they are meant to be logits"
                )
            return np.log(p)

    def digest(self) -> str:
        """Identify the data: their shape, and the contents of labels, costs and some hundred samples of all exits."""
        h = hashlib.blake2b(repr((self.z.shape, str(self.z.dtype), self.kind)).encode(), digest_size=16)
        step = max(1, self.samples // 256)
        h.update(np.ascontiguousarray(self.z[:, ::step]).tobytes())
        for part in (self.labels, self.costs):
            h.update(b"" if part is None else np.ascontiguousarray(part).tobytes())
        return h.hexdigest()

    def _kind(self, kind: str | None) -> Kind:
        if self.z.ndim == 2:
            if kind not in (None, "values"):
                raise WrongLogits(f"{kind} have three axes, exits, samples and classes, not {list(self.z.shape)}")
            return "values"
        if kind == "values":
            raise WrongLogits(f"values have two axes, exits and samples, not {list(self.z.shape)}")
        if self.classes < 2:
            raise WrongLogits(
                "there is one number per sample and exit: give logits of two classes (0 and the logit) or, for values, "
                "an array without the last axis"
            )
        if kind is not None:
            return _named(kind)
        rows, shares, beyond, odd = self._looked_at()
        if shares == rows:
            return "probabilities" if rows else "logits"
        if beyond and shares <= rows / 2:
            return "logits"
        raise WrongLogits(
            f"outputs may be probabilities or logits, since {shares} of {rows} rows sum to 1, but {odd}; say which "
            "with kind"
        )

    @property
    def sum_to_one(self) -> bool:
        """Whether all numbers are from 0 to 1 and sum to 1 over the classes, as those of probabilities do."""
        rows, shares, _, _ = self._looked_at()
        return 0 < rows == shares

    def _looked_at(self) -> tuple[int, int, bool, str]:
        """Return how many rows tell anything, how many of these are probabilities, whether one goes beyond 0 and 1.

        At the first that does the look ends. A row of zeros tells nothing. Last comes, in words, the first row that is
        no probabilities.
        """
        rows = shares = 0
        odd, beyond, step = "", False, max(1, LOOKED_AT // (self.exits * self.classes))
        for start in range(0, self.samples, step):
            part = self._wide(self.z[:, start : start + step])
            with np.errstate(all="ignore"):
                total, least, most = part.sum(axis=-1), part.min(axis=-1), part.max(axis=-1)
            telling = np.isfinite(total) & ((least != 0) | (most != 0))
            whole = telling & (least >= 0) & (np.abs(total - 1) <= SLACK)
            rows, shares = rows + int(telling.sum()), shares + int(whole.sum())
            others = telling & ~whole
            if not odd and others.any():
                e, n = (int(i) for i in np.argwhere(others)[0])
                odd = f"what exit {e + 1} says of sample {start + n} is from {least[e, n]:.4g} to {most[e, n]:.4g} and "
                odd += f"sums to {total[e, n]:.4g}"
            if (others & ((least < 0) | (most > 1))).any():
                beyond = True
                break
        return rows, shares, beyond, odd

    def _labels(self, given: NDArray[Any]) -> NDArray[Any]:
        if len(given) != self.samples:
            raise WrongLogits(f"there are {len(given)} labels for {self.samples} samples")
        if given.dtype.kind not in "biuf":
            raise WrongLogits(f"labels are numbers, not {given.dtype}")
        wide = given.astype(np.float64)
        if not np.isfinite(wide).all():
            raise WrongLogits(f"label {int(np.argmin(np.isfinite(wide)))} is {wide[~np.isfinite(wide)][0]}, not finite")
        if self.kind == "values":
            return wide
        wrong = (wide != np.floor(wide)) | (wide < 0) | (wide >= self.classes)
        if wrong.any():
            i = int(np.argmax(wrong))
            raise WrongLogits(
                f"label {i} is {given[i]}, but classes are whole numbers from 0 to {self.classes - 1}"
                f"{' (are they counted from 1?)' if wide.min() >= 1 and wide.max() == self.classes else ''}"
            )
        return wide.astype(np.int64)

    def _costs(self, given: Any, unit: str | None) -> tuple[NDArray[np.float64], str]:
        if given is None:
            return np.arange(1, self.exits + 1, dtype=np.float64), unit or "exits"
        return self._cumulative(given, "costs"), unit or "cost"

    def _cumulative(self, given: Any, name: str) -> NDArray[np.float64]:
        found = _array(given, name)
        if found.dtype.kind not in "biuf":
            raise WrongLogits(f"{name} are numbers, not {found.dtype}")
        wide = found.astype(np.float64)
        if wide.ndim == 2 and wide.shape != (self.exits, self.samples) and wide.shape == (self.samples, self.exits):
            wide = wide.T
        if wide.shape not in ((self.exits,), (self.exits, self.samples)):
            raise WrongLogits(
                f"{name} are one number per exit, [{self.exits}], or per exit and sample, "
                f"[{self.exits}, {self.samples}], not {list(found.shape)}"
            )
        if not np.isfinite(wide).all() or wide.min() <= 0:
            raise WrongLogits(f"{name} are finite numbers above 0; {wide.flat[_first_bad(wide)]} is none")
        if (np.diff(wide, axis=0) < 0).any():
            i = int(np.argwhere(np.diff(wide, axis=0) < 0)[0][0])
            raise WrongLogits(
                f"{name} are cumulative, but exit {i + 2} costs less than exit {i + 1}; give the sums from the first "
                "exit on"
            )
        return wide

    def _groups(self, groups: Any, lengths: Any) -> NDArray[np.int64] | None:
        if groups is not None and lengths is not None:
            raise WrongLogits("`groups` and `lengths` say the same; give one of them")
        if lengths is not None:
            sizes = _array(lengths, "lengths").reshape(-1)
            if sizes.dtype.kind not in "iu" or (len(sizes) and sizes.min() < 0) or int(sizes.sum()) != self.samples:
                raise WrongLogits(
                    f"lengths are whole numbers whose sum is that of the samples, {self.samples}, not {sizes.sum()}"
                )
            return np.repeat(np.arange(len(sizes)), sizes)
        if groups is None:
            return None
        found = _array(groups, "groups").reshape(-1)
        if len(found) != self.samples:
            raise WrongLogits(f"there are {len(found)} groups named for {self.samples} samples")
        return np.unique(found, return_inverse=True)[1].astype(np.int64)

    def _extra(self, name: str, given: Any, places: tuple[int, ...]) -> NDArray[Any]:
        found = _array(given, f"`{name}`")
        if found.dtype.kind not in "biuf" or found.ndim not in (2, 3):
            raise WrongLogits(f"`{name}` is an array of numbers [exits, samples] with one axis more at most")
        found = found.transpose(*places[:2], *range(2, found.ndim))
        if found.shape[:2] != (self.exits, self.samples):
            raise WrongLogits(
                f"`{name}` is of {list(found.shape[:2])} exits and samples, but the outputs are of "
                f"[{self.exits}, {self.samples}]"
            )
        return found


def _array(given: Any, what: str) -> NDArray[Any]:
    """Return numpy's array of what is given, without a copy where there is none to make."""
    if hasattr(given, "detach"):  # a tensor of torch, which this module does not import
        given = given.detach().cpu()
        given = given.float() if "bfloat16" in str(given.dtype) else given
    try:
        found = given if isinstance(given, np.ndarray) else np.asarray(given)
    except (ValueError, TypeError) as error:  # lists of unequal lengths
        raise WrongLogits(f"{what} are no array of numbers, each row as long as the others; {RAGGED}") from error
    if found.dtype.hasobject:
        raise WrongLogits(f"{what} are an array of objects, which is ragged or pickled, and is not read; {RAGGED}")
    return found


def _named(kind: str) -> Kind:
    for known in KINDS:
        if known == kind:
            return known
    raise WrongLogits(f"kind is one of {', '.join(KINDS)}, not {kind}")


def _first_bad(values: NDArray[np.float64]) -> int:
    return int(np.argmax(~(np.isfinite(values) & (values > 0))))


def _places(
    array: NDArray[Any], labels: NDArray[Any] | None, costs: Any, axes: str | None, exits: int | None
) -> tuple[tuple[int, ...], str]:
    """Return the places of exits, samples and classes, and what they follow from.

    Raises `WrongLogits` where they cannot be told.
    """
    if array.ndim not in (2, 3):
        tokens = f"; {RAGGED}" if array.ndim == 4 else ""
        raise WrongLogits(
            f"outputs have three axes (exits, samples, classes), or two for values, not {array.ndim}{tokens}"
        )
    if array.dtype.kind not in "biuf":
        raise WrongLogits(f"outputs are real numbers, not {array.dtype}")
    if axes is not None:
        if axes not in AXES or len(axes) != array.ndim:
            named = ", ".join(f"`{name}`" for name in AXES if len(name) == array.ndim)
            raise WrongLogits(f"axes of an array {list(array.shape)} are one of {named}, not `{axes}`")
        return AXES[axes], "as stated"
    first, second = array.shape[:2]
    known = _known_exits(costs) if exits is None else {exits}
    samples = None if labels is None else len(labels)
    ways = _ways(first, second, samples, known) or _ways(first, second, samples, None)  # costs are checked later
    if not ways:
        raise WrongLogits(f"outputs {list(array.shape)} fit {samples} labels neither with exits nor with samples first")
    if len(ways) == 2 and first == second:
        raise WrongLogits(f"outputs {list(array.shape)} may have exits or samples first; say which with axes")
    chosen = ways[0] if len(ways) == 1 or first < second else ways[1]
    told = [what for what, given in (("labels", labels), ("costs", costs), ("exits", exits)) if given is not None]
    by = f"by the number of {' and '.join(told)}" if len(ways) == 1 else "the smaller one taken for the exits"
    return (*chosen, 2) if array.ndim == 3 else chosen, by


def _ways(first: int, second: int, samples: int | None, exits: set[int] | None) -> list[tuple[int, int]]:
    """Return how exits and samples may lie in the first two axes."""
    return [
        places
        for places, n, e in (((0, 1), second, first), ((1, 0), first, second))
        if (samples is None or n == samples) and (exits is None or e in exits)
    ]


def _known_exits(costs: Any) -> set[int] | None:
    """Return how many exits there may be, going by the costs."""
    if costs is None:
        return None
    shape = _array(costs, "costs").shape
    return set(shape) if shape else None


def standard_error(values: NDArray[Any], groups: NDArray[np.int64] | None = None) -> float:
    """Return the standard error of the mean of values ``[n]``; infinite for a single one.

    Values of a group ``[n]`` may depend on each other, those of two groups do not: then groups are what is drawn, and
    the mean is a ratio of their sums to their sizes.
    """
    if groups is None:
        return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.inf
    _, place = np.unique(groups, return_inverse=True)
    apart = np.bincount(place, weights=values - values.mean())
    drawn = len(apart)
    return math.sqrt(drawn / (drawn - 1) * float((apart**2).sum())) / len(values) if drawn > 1 else math.inf
