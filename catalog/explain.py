"""Faults that pydantic finds in an entry, said so that a curator knows what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from eelit.bib.problems import Problem, did_you_mean
from eelit.catalog import schema
from eelit.catalog.baselines import REFERENCES
from eelit.catalog.yaml_lines import Located, Place, short

TARGET = "`target` is a key of the catalogue, or `external: {title, year, id}`"
OVER = (
    f"`over` lists keys of the catalogue, `external: {{title, year, id}}`, or what is not a work: "
    f"{', '.join(REFERENCES)}"
)
MOST = 100
"""Faults of one file that are told; a file with more of them is none of ours, and to look for hints takes time."""
# What the fields of nested parts are called, for did-you-mean; the entry's own fields come first.
PARTS: dict[str, type[BaseModel]] = {
    "relations": schema.Relation,
    "external": schema.External,
    "cost": schema.Cost,
    "reported": schema.Reported,
    "claims": schema.Claim,
    "code": schema.Code,
    "unverified": schema.Unverified,
    "errors": schema.SeedError,
    "seed": schema.Seed,
    "implementation": schema.Implementation,
}


def explain(located: Located, error: ValidationError, model: type[BaseModel], prefix: Place = ()) -> list[Problem]:
    """Return one problem per fault, each with the line it stands on."""
    problems: dict[tuple[Place, str], Problem] = {}
    faults = error.errors(include_url=False)
    for fault in faults[:MOST]:
        place = prefix + _place_in_file(located, prefix, fault["loc"])
        union = {"target": TARGET, "over": OVER}.keys() & set(fault["loc"][:-1])
        if union and "external" not in place[len(prefix) :]:
            message = {"target": TARGET, "over": OVER}[union.pop()]
        else:
            message = "; ".join(_sentences(place, dict(fault), model))
        problems[place, message] = located.problem(place, message)
    if len(faults) > MOST:
        problems[(), ""] = located.problem((), f"the file has {len(faults) - MOST} more faults; correct these first")
    return list(problems.values())


def _place_in_file(located: Located, prefix: Place, loc: Place) -> Place:
    """Drop the names of union branches, which pydantic puts between the names of fields."""
    place: Place = ()
    for position, part in enumerate(loc):
        if (*prefix, *place, part) in located.lines or position == len(loc) - 1:
            place = (*place, part)
    return place


def _sentences(place: Place, fault: dict[str, Any], model: type[BaseModel]) -> Iterator[str]:
    name = _spelled(place)
    given = short(fault.get("input"))
    match fault["type"]:
        case "missing":
            yield f"the field `{name}` is missing; add it"
        case "extra_forbidden":
            known = tuple(_model_at(place, model).model_fields)
            yield f"unknown field `{name}`{did_you_mean(str(place[-1]), known) or '; known are ' + ', '.join(known)}"
        case "literal_error":
            allowed = str(fault["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
            yield f"`{name}` cannot be `{given}` (allowed: {allowed}){did_you_mean(given, allowed.split(', '))}"
        case "too_short":
            yield f"`{name}` is empty; name at least one"
        case "string_pattern_mismatch" if place[-1:] == ("key",):
            yield f"`{given}` is not a key; a key is surname, year and a word, in small letters, as `zhou2020pabee`"
        case "string_pattern_mismatch":
            yield f"`{name}` cannot be `{given}`; use small letters, digits and single hyphens"
        case "string_type" | "int_type" | "float_type" | "bool_type" | "list_type" | "model_type":
            yield f"`{name}` holds `{given}`, which is {type(fault['input']).__name__}; {_lower(fault['msg'])}"
        case _:
            yield f"`{name}`: {_lower(str(fault['msg']).removeprefix('Value error, '))}" if name else fault["msg"]


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:]


def _spelled(place: Place) -> str:
    """Return `reported[0].cost.unit` for a place."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{short(part)}" if text else short(part)
    return text


def _model_at(place: Place, model: type[BaseModel]) -> type[BaseModel]:
    names = [part for part in place[:-1] if isinstance(part, str)]
    return PARTS.get(names[-1], model) if names else model
