"""The MovieLens ratings as numpy arrays, read from R's own file formats without R."""

import bz2
import gzip
import lzma
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.derived import arrays
from eelit.methods.data.split import source_digest

ITEM = "movielens"


@dataclass(frozen=True)
class Ratings:
    """`n` ratings of `F` films by `U` users, ordered by user and film; users and films are numbered from 0."""

    user: NDArray[np.int64]  # [n]
    film: NDArray[np.int64]  # [n]
    stars: NDArray[np.float64]  # [n], 0.5 to 5 in halves
    time: NDArray[np.int64]  # [n], seconds since 1970
    year: NDArray[np.float64]  # [F], not a number where unknown (5 films)
    genres: NDArray[np.float64]  # [F, G], 1 where the film has the genre
    genre_names: tuple[str, ...]  # G of them, sorted; one stands for none listed


def ratings() -> Ratings:
    """All 100,004 ratings of 9,066 films by 671 users; every user has rated at least 20."""
    folder = fetch.path(ITEM)
    kept = arrays("movielens", source_digest(ITEM), lambda: _parsed(folder))
    names = tuple(str(name) for name in kept.pop("genre_names"))
    return Ratings(**kept, genre_names=names)


def _parsed(folder: Path) -> dict[str, NDArray[Any]]:
    table = _table(folder)
    user = np.unique(table["userId"].to_numpy(dtype=np.int64), return_inverse=True)[1]
    _, first, film = np.unique(table["movieId"].to_numpy(dtype=np.int64), return_index=True, return_inverse=True)
    order = np.lexsort((film, user))
    listed = [set(text.split("|")) for text in table["genres"].astype(str).to_numpy()[first]]
    names = sorted(set[str]().union(*listed))
    return {
        "user": user[order],
        "film": film[order],
        "stars": table["rating"].to_numpy(dtype=np.float64)[order],
        "time": table["timestamp"].to_numpy(dtype=np.int64)[order],
        "year": table["year"].to_numpy(dtype=np.float64, na_value=np.nan)[first],
        "genres": np.array([[name in film_genres for name in names] for film_genres in listed], dtype=np.float64),
        "genre_names": np.array(names),
    }


def _table(folder: Path) -> Any:
    """The data frame, from whichever of its two wrappings the cache holds."""
    whole = folder / "movielens.rda"
    if whole.exists():
        return _value(lzma.decompress(whole.read_bytes()), ".rda")["movielens"]
    index = _value(gzip.decompress((folder / "Rdata.rdx").read_bytes()), ".rds")
    offset, length = (int(number) for number in index["variables"]["movielens"])
    packed = (folder / "Rdata.rdb").read_bytes()[offset : offset + length]
    return _value(_unpacked(packed), ".rds")


def _value(serialised: bytes, form: str) -> Any:
    import rdata  # with pandas, a second to load, and only needed the first time

    return rdata.conversion.convert(rdata.parser.parse_data(serialised, extension=form))


def _unpacked(packed: bytes) -> bytes:
    """An object of a lazy-load database: four bytes of length, then a letter for the compression (none for zlib)."""
    if packed[4:5] == b"Z":
        return lzma.decompress(packed[5:], lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}])
    if packed[4:5] == b"2":
        return bz2.decompress(packed[5:])
    return zlib.decompress(packed[4:])
