"""Put exits on each architecture that the tests know, and write down for the site how that ends.

`python tests/record_architectures.py` writes `site/examples/architectures.json`, in a minute.
"""

import json
from pathlib import Path

import test_architectures as tried

from eelit.methods.backbones.own_forward import CannotAttach
from eelit.methods.own.attach import attach

PLACE = Path(__file__).resolve().parents[1] / "site" / "examples" / "architectures.json"
KINDS = {
    "language models": (tried.DECODERS, tried.REFUSED, {}),
    "encoders": (tried.ENCODERS, tried.REFUSED_ENCODERS, {"outputs": 3, "keep_head": False}),
}


def row(name: str, kind: str, architecture: str, settings: dict, options: dict) -> dict[str, str]:
    """Return what is told of an architecture: why it is refused, or nothing."""
    refused = ""
    try:
        attach(tried.made(architecture, settings), **options)
    except CannotAttach as error:
        refused = str(error).partition(": ")[2].partition(" (")[0]
    return {"name": name, "kind": kind, "class": architecture.rpartition(".")[2], "refused": refused}


def rows() -> list[dict[str, str]]:
    """Return a row for each architecture."""
    return [
        row(name, kind, *about[:2], options)
        for kind, (*groups, options) in KINDS.items()
        for group in groups
        for name, about in group.items()
    ]


if __name__ == "__main__":
    PLACE.write_text(json.dumps(rows(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
