"""What the rows of a leaderboard were trained with and tested on, and how certain they are, in words."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from eelit.methods.harness import registry
from eelit.methods.harness.bench import Board
from eelit.methods.harness.summary import Row

CORPORA = {
    "rotten-tomatoes": "sentences of Rotten Tomatoes",
    "imdb": "IMDB reviews",
    "tweet-sentiment": "tweets to airlines",
    "brown": "sentences of the Brown corpus",
    "newsgroups": "pairs of 20 Newsgroups postings",
    "20-newsgroups": "messages of 20 Newsgroups",
    "cluttered": "cluttered pictures of clothes",
    "fashion-mnist": "pictures of clothes",
}
"""The setting `corpus`, `images` or `stream` → what its examples are."""


def heading(row: Row) -> str:
    """Return the title of a group of rows: what is measured, on which kind of data, and at which cost if not MACs."""
    paid = "" if row.unit == "MACs" or _is_stream(row) else f", cost in {row.unit}"
    return f"{row.quality[:1].upper()}{row.quality[1:]}, {'stream of ' if _is_stream(row) else ''}{_kind(row)}{paid}"


def examples(row: Row) -> str:
    """Return how many examples the figures come from, and of which kind."""
    count = row.settings.get("reviews", "") if _is_stream(row) else row.sizes.rpartition("/")[2].strip()
    number = f"{int(count):,} " if count.isdecimal() else ""
    return f"a stream of {number}{_kind(row)}" if _is_stream(row) else f"{number}test {_kind(row)}"


def trained(row: Row, board: Board) -> str:
    """Return in what a row's training differs from the track's, each setting as the method's source explains it."""
    meant = {setting.name: setting.meaning.partition(";")[0] for setting in registry.describe(row.key).settings}
    said = []
    for name, value in board.unusual(row).items():
        meaning = meant.get(name, ":")  # a colon follows on whose value it is: no meaning stands there
        told = f"{name.replace('_', ' ')} {value.removesuffix('.0')}"
        said.append(told if ":" in meaning else f"{told} ({meaning})")
    return ", ".join(said)


def uncertain(group: Sequence[Row], share: float) -> list[str]:
    """Return sentences on how certain the figures of a group are."""
    standings = [row.standings.get(share) for row in group]
    known = [each for each in standings if each]
    if not known:
        return ["no intervals: no outcomes of single test samples are stored"]
    error = median(each.sampling for each in known)
    said = [f"the {known[0].samples:,} test samples alone cause a standard error of about {error:.4f}"]
    if any(each.quality.seeds == 1 for each in known):
        said.append("where only one seed was measured, the interval covers other test samples only")
    if len(known) < len(standings):
        said.append("rows without an interval have no stored outcomes of test samples, or the share is out of reach")
    return said


def _is_stream(row: Row) -> bool:
    return "stream" in row.settings


def _kind(row: Row) -> str:
    named = (row.settings[setting] for setting in ("stream", "corpus", "images") if setting in row.settings)
    name = next(named, "").strip("'\"")
    kind = CORPORA.get(name, f"examples of {name}" if name else "examples")
    return kind if row.settings.get("tail", "()") == "()" else f"{kind}, few training pictures of most classes"
