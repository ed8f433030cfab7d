"""The map of what has been tried: placement against policy, for all ways of training or for one."""

from __future__ import annotations

import json
from typing import Any

from markupsafe import Markup

from eelit.catalog.gaps import Cell, cells, gaps
from eelit.catalog.schema import Facet
from eelit.site.generator.collection import Collection

SHOWN = 40
"""Most gaps that are listed."""
HEATS = (1, 2, 4, 8, 16)
"""From so many works on, a cell is a shade darker."""
FACETS: tuple[Facet, ...] = ("placement", "policy", "training")


def values(collection: Collection) -> dict[str, Any]:
    """Return what the page's template needs."""
    carried = {
        key: {facet: collection.expanded(work, facet) for facet in FACETS} for key, work in collection.works.items()
    }
    tops = {facet: _terms(collection, facet, deepest=0) for facet in FACETS}
    every = {facet: _terms(collection, facet, deepest=9) for facet in FACETS}
    found = cells(carried, collection.methods, every["placement"], every["policy"])
    by_training = {
        how: _counts(cells(carried, collection.methods, every["placement"], every["policy"], how))
        for how in every["training"]
    }
    broader = {
        facet: {name: term.definition.broader for name, term in collection.terms[facet].items()} for facet in FACETS
    }
    block = json.dumps({"all": _counts(found), **by_training}, separators=(",", ":"))
    return {
        "tops": tops,
        "every": every,
        "cells": found,
        "heat": heat,
        "counts": Markup('<script type="application/json" id="ee-gap-counts">{}</script>').format(Markup(block)),
        "gaps": gaps(carried, every["placement"], every["policy"], every["training"], broader),
        "shown": SHOWN,
    }


def _terms(collection: Collection, facet: Facet, deepest: int) -> list[str]:
    return [name for name, term in collection.terms[facet].items() if term.works and term.depth <= deepest]


def _counts(found: dict[tuple[str, str], Cell]) -> dict[str, list[int]]:
    """Return the cells that hold works: how many, and how many of them run."""
    return {f"{a} {b}": [len(cell.works), len(cell.runs)] for (a, b), cell in found.items() if cell.works}


def heat(count: int) -> int:
    """Return the shade of a cell, from 0 for none."""
    return sum(count >= least for least in HEATS)
