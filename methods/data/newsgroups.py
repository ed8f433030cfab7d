"""20 Newsgroups: messages of which each was posted to one group (`topics`), or that ask for others like it (`pairs`).

Texts are as this version of the collection has them: in lower case, letters only, with everything else replaced by
spaces. Of the header only the subject line is left, at the beginning; quotations, the lines that announce them ("in
article … writes", often with names and addresses) and signatures are still there. The official parts are by date: all
of the test part was posted after the training part.

In `pairs` a document of the same group has grade 2, one of the same top level (`comp.graphics`, `comp.windows.x`) grade
1, any other grade 0. Grades come from labels alone; what is said comes from the text alone. Documents of the official
training part make training and validation queries, which share no document; those of the test part make test queries.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from eelit.methods.data import fetch
from eelit.methods.data.memory_cache import in_memory
from eelit.methods.data.split import Split, labelled, shuffled
from eelit.methods.data.text import Texts

ITEM = "newsgroups"
HELD = 1500  # documents of the training part that validation queries and their candidates come from
SAME, NEAR = 2, 3  # of a held-out query's candidates, how many are of its group, how many of its top level alone
TEST_ROWS = 100_000  # rows of the test part are counted from here on


def topics(train: int = 4000, validation: int = 1000, test: int = 4000, *, seed: int = 0) -> Split[Texts]:
    """Messages and their groups, 0 to 19 in the order of their names; of equal texts one is kept.

    Training and validation messages come from the official training part, test messages from the official test part.
    Asking for less leaves the others as they are.
    """
    texts, groups = _read()
    names = sorted({*groups.values()})
    ours = shuffled((row for row in texts if row < TEST_ROWS), seed)
    later = shuffled((row for row in texts if row >= TEST_ROWS), seed)
    if min(train, validation, test) < 0 or train + validation > len(ours) or test > len(later):
        raise ValueError(f"{ITEM} has {len(ours)} + {len(later)} messages, not {train} + {validation} + {test}")
    rows = labelled(ITEM, ours[validation : validation + train], ours[:validation], later[:test])

    def part(numbers: NDArray[np.int64]) -> Texts:
        chosen = numbers.tolist()
        targets = np.array([names.index(groups[row]) for row in chosen], dtype=np.int64)
        return Texts(tuple(texts[row] for row in chosen), targets, numbers)

    return Split(part(rows.train), part(rows.validation), part(rows.test), rows.digest)


@dataclass(frozen=True)
class Pairs:
    """`n` pairs of a query and a document as raw strings; the pairs of one query follow each other."""

    queries: tuple[str, ...]
    documents: tuple[str, ...]
    grades: NDArray[np.int64]  # [n], 0 to 2
    rows: NDArray[np.int64]  # [n, 2], where query and document come from

    def __len__(self) -> int:
        return len(self.grades)


def pairs(
    train: int = 4000, validation: int = 50, test: int = 100, candidates: int = 20, *, seed: int = 0
) -> Split[Pairs]:
    """Training pairs, half of them of one group, half of two; queries with `candidates` documents to rank.

    In training each query comes with one document of its group and one of another. Held-out queries have 2 of their
    group, 3 of their top level (none where the group stands alone there) and otherwise documents of other top levels,
    in an order that says nothing. Asking for fewer training pairs or queries leaves the others as they are.
    """
    texts, groups = _read()
    ours = shuffled((row for row in texts if row < TEST_ROWS), seed)
    later = shuffled((row for row in texts if row >= TEST_ROWS), seed)
    held, learnt = ours[:HELD], ours[HELD:]
    if (
        train % 2
        or train // 2 > len(learnt)
        or validation > len(held)
        or test > len(later)
        or candidates <= SAME + NEAR
    ):
        raise ValueError(f"{ITEM} cannot give {train} + {validation} × {candidates} + {test} × {candidates} pairs")

    def found(pool: list[int], query: int, start: int, n: int, wanted: tuple[int, ...]) -> list[int]:
        """The first `n` documents of the wanted grades behind a place of the pool, which is walked round once."""
        walk = (pool[(start + step) % len(pool)] for step in range(1, len(pool) + 1))
        fits = (row for row in walk if row != query and grade(groups[query], groups[row]) in wanted)
        return list(islice(fits, n))

    def ranked(pool: list[int], n: int) -> list[tuple[int, int]]:
        chosen = []
        for i, query in enumerate(pool[:n]):
            alike = found(pool, query, i * candidates, SAME, (2,)) + found(pool, query, i * candidates, NEAR, (1,))
            rest = found(pool, query, i * candidates, candidates - len(alike), (0,))
            chosen += [(query, row) for row in shuffled([*alike, *rest], seed + query)]
        return chosen

    def part(chosen: list[tuple[int, int]]) -> Pairs:
        return Pairs(
            tuple(texts[query] for query, _ in chosen),
            tuple(texts[document] for _, document in chosen),
            np.array([grade(groups[query], groups[document]) for query, document in chosen], dtype=np.int64),
            np.array(chosen, dtype=np.int64).reshape(-1, 2),
        )

    learning = [
        (query, row)
        for i, query in enumerate(learnt[: train // 2])
        for wanted in ((2,), (0, 1))
        for row in found(learnt, query, i, 1, wanted)
    ]
    parts = (learning, ranked(held, validation), ranked(later, test))
    digest = labelled(ITEM, *([row for pair in chosen for row in pair] for chosen in parts)).digest
    return Split(part(parts[0]), part(parts[1]), part(parts[2]), digest)


def grade(query: str, document: str) -> int:
    """How much alike two groups are: 2 the same, 1 of one top level, 0 otherwise."""
    return 2 if query == document else int(query.partition(".")[0] == document.partition(".")[0])


@in_memory()
def _read() -> tuple[dict[int, str], dict[int, str]]:
    """Texts and groups by row; of equal texts only the first is kept, the training part before the test part."""
    texts: dict[int, str] = {}
    groups: dict[int, str] = {}
    seen: set[str] = set()
    for name, first in (("train.tab", 0), ("test.tab", TEST_ROWS)):
        with (fetch.path(ITEM) / name).open(encoding="utf-8", newline="") as stream:
            for row, line in enumerate(stream):
                group, tab, text = line.rstrip("\r\n").partition("\t")
                if row > 2 and tab and text and text not in seen:
                    seen.add(text)
                    texts[first + row], groups[first + row] = text, group
    return texts, groups
