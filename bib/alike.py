"""Whether two values of a field say the same: case, accents and marks are no difference."""

from __future__ import annotations

import unicodedata


def folded(text: str) -> str:
    """Return letters and digits only, without accents or case."""
    return "".join(sign for sign in unicodedata.normalize("NFKD", text).casefold() if sign.isalnum())


def mark(field: str, value: str) -> str:
    """Return what of a field is compared."""
    if field == "authors":  # full names and initials are one
        return " ".join(folded(name.split()[-1]) for name in value.split("; ") if name.split())
    return folded(value)


def is_other(field: str, said: str, own: str) -> bool:
    """Tell whether a service says of a field otherwise than a record. Case and marks are no difference."""
    untold = ("", "misc") if field == "type" else ("",)  # of a preprint there is no more to say
    return said not in untold and mark(field, said) != mark(field, own)
