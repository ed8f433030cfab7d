"""Make tests/data/sheet_shingles.bin: what entries must not copy, as hashes from which nothing can be read.

Usage: python tests/make_sheet_shingles.py FOLDER_OF_FACT_SHEETS
"""

import hashlib
import re
import sys
from pathlib import Path

import yaml

WORDS = 8
SIZE = 5  # bytes per hash: small enough for the repository, large enough that chance hits are rare
BIBLIOGRAPHIC = ("title", "authors", "venue")  # facts that have one wording only
TARGET = Path(__file__).parent / "data" / "sheet_shingles.bin"


def strings(value):
    """Yield every text inside nested lists and mappings."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


def shingles(text):
    """Return the hashes of all runs of eight words, with the words."""
    words = re.findall(r"[a-z0-9]+", text.lower())
    runs = [" ".join(words[start : start + WORDS]) for start in range(len(words) - WORDS + 1)]
    return {hashlib.blake2b(run.encode(), digest_size=SIZE).digest(): run for run in runs}


def main(folder):
    """Write the sorted hashes of all sheets."""
    found = set()
    for path in sorted(Path(folder).glob("*.yaml")):
        sheet = yaml.safe_load(path.read_text(encoding="utf-8"))
        for name, value in sheet.items():
            if name not in BIBLIOGRAPHIC:
                for text in strings(value):
                    found.update(shingles(text))
    TARGET.write_bytes(b"".join(sorted(found)))
    print(f"{len(found)} shingles, {TARGET.stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
