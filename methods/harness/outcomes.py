"""Outcomes of test samples, stored beside a result: the score of each answer at each knob, and where the sample left.

The file is an `.npz` (a zip of arrays, compressed by LZMA, no pickles), named like its result, which holds its digest.
For the curve number i of the result there are ``i.quality [K, N]`` and ``i.exits [K, N]`` (of samples, tokens or
documents) of its K knobs, and ``i.j.quality`` of the baseline number j; right and wrong are bits along the samples, of
which the curve has ``samples[i]``. There is none where quality is no mean over samples. Where the samples of a baseline
leave is not stored: it is known for a fixed exit, and not needed for the others.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.engine.records import Curve, OperatingPoint, Result, Unreadable

SUFFIX = ".samples.npz"
"""What the file's name has instead of the result's ``.json``."""


def packed(result: Result) -> bytes:
    """Return the file for a result that was just measured; empty if the outcomes of samples are not known."""
    arrays: dict[str, NDArray[Any]] = {}
    counts = []
    for i, curve in enumerate(result.curves):
        qualities = {f"{i}": _qualities(curve.test)}
        qualities |= {f"{i}.{j}": _qualities(baseline.test) for j, baseline in enumerate(curve.baselines)}
        known = {name: quality for name, quality in qualities.items() if quality is not None}
        arrays |= {f"{name}.quality": _packed(quality) for name, quality in known.items()}
        exits = _stacked([point.samples.exits if point.samples else None for point in curve.test])
        if exits is not None:
            arrays[f"{i}.exits"] = exits
        counts.append(max((quality.shape[1] for quality in known.values()), default=0))
    return _zipped({"samples": np.array(counts), **arrays}) if arrays else b""


def digest(content: bytes) -> str:
    """Return 16 hexadecimal digits by which a result knows its file."""
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def _qualities(points: Sequence[OperatingPoint]) -> NDArray[Any] | None:
    return _stacked([point.samples.quality if point.samples else None for point in points])


def _stacked(rows: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    """Return what is known of all samples at all knobs ``[K, N]``; None unless it is known at each, of as many."""
    known = [row for row in rows if row is not None]
    alike = len({row.shape for row in known}) == 1
    return np.stack(known) if len(known) == len(rows) and alike else None


def _packed(quality: NDArray[Any]) -> NDArray[Any]:
    return np.packbits(quality, axis=1) if quality.dtype == np.bool_ else quality.astype(np.float32)


def _zipped(arrays: dict[str, NDArray[Any]]) -> bytes:
    """Return the arrays as `numpy.savez` writes them, but smaller, and without the time."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array, allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), member.getvalue(), zipfile.ZIP_LZMA)
    return file.getvalue()


@dataclass(frozen=True)
class Outcomes:
    """The file of one result; an array is unpacked when it is asked for."""

    path: Path
    content: bytes
    curves: Sequence[Curve]

    @classmethod
    def beside(cls, path: Path, result: Result) -> Outcomes:
        """Return what is kept beside a result's file. Raises `Unreadable`, also if it belongs to another result."""
        place = path.with_suffix(SUFFIX)
        try:
            content = place.read_bytes()
        except OSError as error:
            raise Unreadable(place, f"it cannot be read ({error.strerror or error})") from error
        if digest(content) != result.samples:
            raise Unreadable(place, f"it is damaged, or not the file that {path.name} was written with")
        return cls(place, content, result.curves)

    @cached_property
    def _arrays(self) -> Any:
        return np.load(io.BytesIO(self.content), allow_pickle=False)

    def quality(self, variant: str, rule: str = "") -> NDArray[Any] | None:
        """Return the score of each sample at each knob ``[K, N]`` of a variant, or of a baseline."""
        i = [curve.variant for curve in self.curves].index(variant)
        rules = [baseline.name for baseline in self.curves[i].baselines]
        name = f"{i}.{rules.index(rule)}.quality" if rule else f"{i}.quality"
        if name not in self._arrays:
            return None
        found: NDArray[Any] = self._arrays[name]
        if found.dtype == np.uint8:
            found = np.unpackbits(found, axis=1, count=int(self._arrays["samples"][i])).astype(bool)
        return found

    def exits(self, variant: str) -> NDArray[np.uint8] | None:
        """Return at which exit each sample (or token, document) left at each knob, ``[K, N]``."""
        name = f"{[curve.variant for curve in self.curves].index(variant)}.exits"
        found: NDArray[np.uint8] | None = self._arrays.get(name)
        return found
