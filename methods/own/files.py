"""Read what exits said from a file, and write it: .npz, .npy, .safetensors, .csv or .parquet. Nothing is unpickled.

Large arrays stay in the file and are read piece by piece: those of .npy and .safetensors, and of an .npz that was
written without compression, as `numpy.savez` does.
"""

from __future__ import annotations

import json
import os
import struct
import uuid
import warnings
import zipfile
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.own.logits import KINDS, RAGGED, Logits, WrongLogits
from eelit.methods.own.shipped import PREFIX, shipped

Parts = dict[str, NDArray[Any]]
OUTPUTS = ("logits", "probabilities", "values", "z")
"""Names of the outputs in a file of several arrays; the first three also say what they are."""
KNOWN = {"labels", "targets", "costs", "plain_costs", "groups", "lengths", "unit", "axes", "kind"}
"""Other names with a meaning; arrays of any other name are what exits said beside their answer."""
COLUMNS = {"label": "labels", "target": "labels", "group": "groups"}
"""Columns of a table that are of the sample alone, and what they are called elsewhere."""
ALIKE = 0.8
"""Likeness (as `difflib` has it) from which on an unknown name is taken for a known one that was misspelt."""
TENSORS = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1",
    "U8": "|u1", "U16": "<u2", "U32": "<u4", "BOOL": "|b1",
}  # fmt: skip
LONGEST_HEADER = 100_000_000


def read(path: str | Path, **given: Any) -> Logits:
    """Return what a file says; what is ``given`` (arguments of `Logits`, by name) goes before what stands in it.

    A file of several arrays (.npz, .safetensors) holds the outputs as ``logits``, ``probabilities``, ``values`` or
    ``z``, and may hold ``labels``, ``costs``, ``plain_costs``, ``groups`` or ``lengths``, ``unit``, ``axes`` and
    ``kind``; what else has exits and samples is what exits said beside their answer. Of what has one entry for each
    sample, such as its name, a warning says that it is not read; a name that is nearly a known one is refused. A table
    (.csv, .parquet) has a line for each sample and exit: columns ``sample``, ``exit``, then ``z0``, ``z1``, … or
    ``p0``, … or ``value``, perhaps ``label``, ``cost`` and ``group``; other columns are extra. ``example:NAME`` are
    outputs that come with eelit (`shipped`).
    Raises `WrongLogits` in one sentence, `OSError` for no file.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     np.savez(f"{folder}/said.npz", logits=np.zeros((2, 5, 3)), labels=[0, 1, 2, 0, 1])
    ...     data = read(f"{folder}/said.npz", costs=[1, 4])  # costs that the file does not hold
    ...     (data.name, data.exits, data.samples, data.classes, data.full_cost)
    ('said.npz', 2, 5, 3, 4.0)
    """
    place = _place(path)
    reader = READERS.get(place.suffix.lower())
    if reader is None:
        raise WrongLogits(f"{place} is of no kind that is read here; known are {', '.join(READERS)}")
    with place.open("rb"):  # the system says best why a file cannot be read
        pass
    parts, words = reader(place)
    outputs = _outputs(parts, place)
    for name in set(words.get("bfloat16", ())) - {outputs}:
        parts[name] = (parts[name].astype(np.uint32) << 16).view(np.float32)
    arguments: dict[str, Any] = {
        "z": parts.pop(outputs),
        "labels": parts.pop("labels", parts.pop("targets", None)),
        "kind": outputs if outputs in KINDS else words.get("kind") or _word(parts.get("kind")),
        "bfloat16": outputs in words.get("bfloat16", ()),
        "name": str(path) if str(path).startswith(PREFIX) else place.name,
    }
    arguments |= {name: parts.pop(name, None) for name in ("costs", "plain_costs", "groups", "lengths")}
    arguments |= {name: words.get(name) or _word(parts.pop(name, None)) for name in ("unit", "axes")}
    parts.pop("kind", None)
    _spelt(parts, {*KNOWN, *OUTPUTS}, place)
    arguments["extra"] = {
        name: part for name, part in parts.items() if part.ndim in (2, 3) and part.dtype.kind in "biuf"
    }
    arguments |= {name: value for name, value in given.items() if value is not None}
    data = Logits(**arguments)
    for name in sorted(set(parts) - set(arguments["extra"])):
        told = f"{place} holds `{name}` {list(parts[name].shape)}, which means nothing here"
        if parts[name].shape != (data.samples,):
            raise WrongLogits(told)
        warnings.warn(f"{told} and is not read", stacklevel=2)
    return data


def write(data: Logits, path: str | Path) -> None:
    """Write an .npz that `read` reads, and of which large arrays stay in the file: aside, then renamed.

    Raises `WrongLogits` if what exits said beside their answer has a name that means something else, `OSError`.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     write(Logits(np.eye(3)[None].repeat(2, axis=0), kind="logits"), f"{folder}/said.npz")
    ...     read(f"{folder}/said.npz").z[1, 2].tolist()
    [0.0, 0.0, 1.0]
    """
    place = Path(path)
    if place.suffix.lower() != ".npz":
        raise WrongLogits(f"{place} is not written; outputs are written as .npz")
    if taken := sorted(set(data.extra) & {*KNOWN, *OUTPUTS}):
        raise WrongLogits(f"`{taken[0]}` means something else in a file; give it another name")
    z = np.stack([data.read(e, 0, data.samples) for e in range(data.exits)]) if data.bfloat16 else data.z
    parts: Parts = {data.kind: z, "costs": data.costs, "unit": np.array(data.unit), **data.extra}
    parts["axes"] = np.array("en" if data.kind == "values" else "enc")
    named = {"labels": data.labels, "plain_costs": data.plain_costs, "groups": data.groups}
    parts |= {name: part for name, part in named.items() if part is not None}
    temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.npz")
    try:
        np.savez(temporary, **parts)  # type: ignore[arg-type]  # an array by the name `allow_pickle` is no part
        os.replace(temporary, place)
    finally:
        temporary.unlink(missing_ok=True)


def array(path: str | Path) -> NDArray[Any]:
    """Return the single array of an .npy or .npz file, or the numbers of a text. Raises `WrongLogits`, `OSError`."""
    place = Path(path)
    with place.open("rb"):
        pass
    if place.suffix.lower() in (".npy", ".npz"):
        parts, _ = READERS[place.suffix.lower()](place)
        if len(parts) != 1:
            raise WrongLogits(f"{place} holds {len(parts)} arrays; one is wanted")
        return next(iter(parts.values()))
    try:
        return np.loadtxt(place, delimiter="," if "," in place.read_text(encoding="utf-8") else None)
    except (ValueError, UnicodeDecodeError) as error:
        raise WrongLogits(f"{place} holds no numbers, one a line: {error}") from error


def _place(path: str | Path) -> Path:
    """Return where a file lies, also one that comes with eelit. Raises `WrongLogits` if there is none of the name."""
    if not str(path).startswith(PREFIX):
        return Path(path)
    known, name = shipped(), str(path).removeprefix(PREFIX)
    if name not in known:
        raise WrongLogits(f"there is no example {name!r}; there are {', '.join(each.word for each in known.values())}")
    return known[name].path


def _outputs(parts: Parts, place: Path) -> str:
    found = [name for name in OUTPUTS if name in parts]
    if not found:
        found = [name for name, part in parts.items() if part.ndim == 3 and name not in KNOWN]
    if len(found) != 1:
        named = "several arrays that may be the outputs" if found else "no array of outputs"
        raise WrongLogits(f"{place} holds {named} ({', '.join(sorted(parts))}); call one of them `logits`")
    return found[0]


def _spelt(names: Iterable[str], known: Iterable[str], place: Path) -> None:
    """Refuse a name that is nearly a known one: it would be taken for what exits said beside their answer."""
    plain = {name.replace("_", ""): name for name in known}
    for name in names:
        if alike := get_close_matches(name.lower().replace("_", ""), plain, 1, ALIKE):
            raise WrongLogits(f"{place} holds `{name}`, which means nothing here; write `{plain[alike[0]]}`")


def _word(part: NDArray[Any] | None) -> str | None:
    if part is None:
        return None
    if part.dtype.kind not in "US" or part.size != 1:
        raise WrongLogits("`unit`, `axes` and `kind` are one word each")
    word = part.reshape(-1)[0]
    return word.decode() if isinstance(word, bytes) else str(word)


def _npy(place: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        return {"z": np.load(place, mmap_mode="r", allow_pickle=False)}, {}
    except (ValueError, EOFError, OSError) as error:
        raise _unreadable(place, error) from error


def _npz(place: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        with zipfile.ZipFile(place) as archive:
            entries = [entry for entry in archive.infolist() if entry.filename.endswith(".npy")]
            mapped = {entry.filename[:-4]: _mapped(place, entry) for entry in entries}
        with np.load(place, allow_pickle=False) as found:
            parts = {name: found[name] if part is None else part for name, part in mapped.items()}
        if wrong := [name for name, part in parts.items() if not isinstance(part, np.ndarray)]:
            raise ValueError(f"`{wrong[0]}` is no array of numpy")
        return parts, {}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile, struct.error, KeyError, NotImplementedError) as error:
        raise _unreadable(place, error) from error


def _mapped(place: Path, entry: zipfile.ZipInfo) -> NDArray[Any] | None:
    """Return an array as it lies in the file; None if it must be read whole (compressed, small, of another form)."""
    if entry.compress_type != zipfile.ZIP_STORED or entry.file_size < 1 << 20 or entry.flag_bits & 1:
        return None
    with place.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)
        if header[:4] != b"PK\x03\x04":
            return None
        name, more = struct.unpack("<HH", header[26:30])
        file.seek(entry.header_offset + 30 + name + more)
        version = np.lib.format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            return None
        header_of = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header_of(file)
        if dtype.hasobject:
            raise ValueError("it holds pickled objects, which are not read")
        return np.memmap(place, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def _safetensors(place: Path) -> tuple[Parts, dict[str, Any]]:
    """Read the header ourselves: numpy has no bfloat16, and arrays are to stay in the file."""
    size = place.stat().st_size
    try:
        with place.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(LONGEST_HEADER, size - 8):
                raise ValueError("its header is longer than the file")
            header = json.loads(file.read(length))
        if not isinstance(header, dict):
            raise ValueError("its header is no dictionary")
        words: dict[str, Any] = {str(k): str(v) for k, v in dict(header.pop("__metadata__", {})).items()}
        words["bfloat16"] = tuple(name for name, told in header.items() if told["dtype"] == "BF16")
        return {name: _tensor(place, 8 + length, size, told) for name, told in header.items()}, words
    except (ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise _unreadable(place, error) from error


def _tensor(place: Path, start: int, size: int, told: Mapping[str, Any]) -> NDArray[Any]:
    first, last = (int(offset) for offset in told["data_offsets"])
    if told["dtype"] not in TENSORS:
        raise ValueError(f"numbers of kind {told['dtype']} are not read")
    kind, shape = np.dtype(TENSORS[told["dtype"]]), tuple(int(n) for n in told["shape"])
    count = int(np.prod(shape, dtype=object)) if shape else 1
    if (
        not 0 <= first <= last
        or start + last > size
        or min(shape, default=0) < 0
        or last - first != kind.itemsize * count
    ):
        raise ValueError("an array does not fit into the file")
    if not count:
        return np.zeros(shape, kind)
    return np.memmap(place, kind, "r", start + first, shape)


def _csv(place: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        with place.open(encoding="utf-8-sig") as file:
            header = file.readline()
            names = [name.strip().strip('"') for name in header.split(",")]
            if len(names) == 1 and ";" in header:
                raise WrongLogits(
                    f"{place} has its columns apart by semicolons; write commas, and decimals with a point"
                )
            lines = file.readlines()
            if not any(line.strip() for line in lines):
                raise WrongLogits(f"{place} holds names of columns, and no line below them")
            rows = np.loadtxt(lines, delimiter=",", ndmin=2, dtype=np.float64)
    except WrongLogits:
        raise
    except (ValueError, UnicodeDecodeError) as error:
        raise _unreadable(place, error) from error
    if rows.shape[1:] != (len(names),):
        raise WrongLogits(f"{place} has {len(names)} names of columns and {rows.shape[1]} columns")
    return _table(dict(zip(names, rows.T, strict=True)), place), {}


def _parquet(place: Path) -> tuple[Parts, dict[str, Any]]:
    try:
        from pyarrow import parquet
    except ImportError:
        raise WrongLogits(
            f"{place} is read by pyarrow, which is not installed: `pip install pyarrow`, or write a .npz or .csv"
        ) from None
    try:
        found = parquet.read_table(place)
        columns = {name: np.asarray(found[name].to_numpy()) for name in found.column_names}
    except Exception as error:  # pyarrow has errors of its own for every kind of damage
        raise _unreadable(place, error) from error
    for name, column in columns.items():
        if column.dtype.kind not in "biuf":
            raise WrongLogits(f"{place}: column `{name}` holds no plain numbers; one column for each class is read")
    return _table(columns, place), {}


def _table(columns: Parts, place: Path) -> Parts:
    """Return arrays ``[E, N, ...]`` from columns with a line for each sample and exit."""
    for name in ("sample", "exit"):
        if name not in columns:
            raise WrongLogits(f"{place} has no column `{name}`; a table has a line for each sample and exit")
    exits, e = np.unique(columns.pop("exit"), return_inverse=True)
    samples, n = np.unique(columns.pop("sample"), return_inverse=True)
    order = np.lexsort((n, e))
    if len(order) != len(exits) * len(samples) or (np.diff(e[order] * len(samples) + n[order]) != 1).any():
        raise WrongLogits(
            f"{place} has {len(order)} lines for {len(exits)} exits and {len(samples)} samples; each pair needs one"
        )
    shaped = {name: column[order].reshape(len(exits), len(samples)) for name, column in columns.items()}
    found = _classes(shaped, place)
    _spelt(shaped.keys() - {*COLUMNS, "cost"}, {*COLUMNS, "cost", "value"}, place)
    for column, name in COLUMNS.items():
        if column in shaped:
            several = shaped.pop(column)
            if name in found:
                raise WrongLogits(f"{place} has two columns for the {name}; leave out `{column}` or the other")
            if (several != several[0]).any():
                raise WrongLogits(f"{place}: a sample has another {column} at another exit")
            found[name] = several[0].astype(np.int64) if name == "groups" else several[0]
    if "cost" in shaped:
        costs = shaped.pop("cost")
        found["costs"] = costs[:, 0] if (costs == costs[:, :1]).all() else costs
    return found | shaped | {"axes": np.array("en" if "values" in found else "enc")}


def _classes(shaped: Parts, place: Path) -> Parts:
    if "value" in shaped:
        return {"values": shaped.pop("value")}
    for letter, name in (("z", "logits"), ("p", "probabilities")):
        numbers = sorted(int(column[1:]) for column in shaped if column[:1] == letter and column[1:].isdecimal())
        if numbers:
            columns = [f"{letter}{i}" for i in range(len(numbers))]
            if not set(columns) <= set(shaped):
                raise WrongLogits(f"{place} lacks some of the columns {letter}0 to {letter}{numbers[-1]}")
            return {name: np.stack([shaped.pop(column) for column in columns], axis=-1)}
    raise WrongLogits(f"{place} has no columns z0, z1, … (logits), p0, p1, … (probabilities) or `value`")


def _unreadable(place: Path, error: Exception) -> WrongLogits:
    why = " ".join(str(error).split()).rstrip(".") or type(error).__name__
    pickled = "allow_pickle" in why or "pickled" in why
    said = f"it holds pickled objects, which are not read; {RAGGED}" if pickled else why
    return WrongLogits(f"{place} cannot be read as {place.suffix}: {said}")


READERS: dict[str, Callable[[Path], tuple[Parts, dict[str, Any]]]] = {
    ".npz": _npz, ".npy": _npy, ".safetensors": _safetensors, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
