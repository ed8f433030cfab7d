"""What the rows of a leaderboard were tested on, in words; the digest alone tells nobody anything."""

from __future__ import annotations

from eelit.methods.harness.track import Row

CORPORA = {
    "rotten-tomatoes": "sentences of Rotten Tomatoes",
    "imdb": "IMDB reviews",
    "tweet-sentiment": "tweets to airlines",
    "brown": "sentences of the Brown corpus",
    "newsgroups": "pairs of 20 Newsgroups postings",
}
"""The setting `corpus` or `stream` → what its examples are."""


def heading(row: Row) -> str:
    """Return the title of a group of rows: what is measured, and on which kind of data."""
    return f"{row.quality[:1].upper()}{row.quality[1:]}, {'stream of ' if _is_stream(row) else ''}{_kind(row)}"


def examples(row: Row) -> str:
    """Return how many examples the figures come from, and of which kind."""
    count = row.settings.get("reviews", "") if _is_stream(row) else row.sizes.rpartition("/")[2].strip()
    number = f"{int(count):,} " if count.isdecimal() else ""
    return f"a stream of {number}{_kind(row)}" if _is_stream(row) else f"{number}test {_kind(row)}"


def _is_stream(row: Row) -> bool:
    return "stream" in row.settings


def _kind(row: Row) -> str:
    name = row.settings.get("stream", row.settings.get("corpus", "")).strip("'\"")
    return CORPORA.get(name, f"examples of {name}" if name else "examples")
