"""What the skeleton of an entry holds where a person has to write: while it stands there, the entry is not done."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from eelit.bib.problems import Problem
from eelit.catalog.yaml_lines import Located

PLACEHOLDERS: Mapping[str, str] = {
    "idea": "What the work does and why, as you would put it to a reader who knows the field: three to five sentences.",
    "exit_rule": "When inference stops: direction and strictness of the test.",
    "skipped": "Which computation is saved.",
    "says": "what the paper claims to gain, in your own words, with its figure if there is one",
    "source": "where it says so",
    "untried": "no outcome tries it yet",
    "sources": "what was read, e.g. the address of the paper",
    "reason": "what the implementation rests on",
}
"""Field → its text in the skeleton."""


def unfinished(located: Located) -> Iterator[Problem]:
    """Yield the places of a file where the skeleton's text still stands."""
    texts = {" ".join(text.split()) for text in PLACEHOLDERS.values()}
    for place, text in located.texts():
        if " ".join(text.split()) in texts:
            field = next(name for name in reversed(place) if isinstance(name, str))
            yield located.problem(place, f"`{field}` still has the text of the template; write your own")
