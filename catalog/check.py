"""Check the whole catalogue and report all problems at once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import count
from pathlib import Path

from eelit.bib.identifiers import ARXIV
from eelit.bib.problems import Problem, did_you_mean
from eelit.bib.read import FIELDS
from eelit.bib.record import Record
from eelit.catalog.baselines import REFERENCES
from eelit.catalog.load import Loaded, load
from eelit.catalog.schema import FACETS, KEY_PATTERN, Entry, ExternalTarget, TaxonomyTerm
from eelit.catalog.skeleton import unfinished
from eelit.catalog.sources import Sources
from eelit.catalog.yaml_lines import Located

DOI = re.compile(r"10\.\d{4,9}/(?:(?!&(?:amp|lt|gt|#\d+);)[^\s\"])+")  # with `<…>`, as old ones have them; never HTML
ACL = re.compile(r"[A-Z]\d\d-\d{4,5}|\d{4}\.[a-z0-9]+-[a-z0-9]+\.\d+")
FIELDS_OF_RECORDS = (*FIELDS, "authors", "venue", "arxiv")  # as people call them in `unverified`
EXTERNAL = "; name it as `external: {title, year, id}`"
INVISIBLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
YEARS_APART = 2
"""Years between a preprint and its version of record that leave no doubt."""
YEARS_AHEAD = 1  # preprints are cited before they appear, but seldom by more than a year


def check(sources: Sources) -> list[Problem]:
    """Return every problem of the sources, in the order of files and lines."""
    return check_loaded(load(sources))


def check_loaded(loaded: Loaded) -> list[Problem]:
    """Return every problem of what was loaded."""
    rules: list[Callable[[Loaded], Iterator[Problem]]] = [
        _missing_entries,
        _unfinished,
        _invisible,
        _identifiers,
        _duplicates,
        _names,
        _seed_lines,
        _unverified_fields,
        _relations,
        _claims,
        _citations,
        _reference_lists,
        _taxonomy,
        _narrower_with_broader,
        _implementations,
    ]
    found = loaded.problems + [problem for rule in rules for problem in rule(loaded)]
    return sorted(set(found))


def losses(loaded: Loaded) -> list[Problem]:
    """Return the problems because of which a work, or a part of one, would be left out."""
    return [problem for problem in (*loaded.problems, *_missing_entries(loaded)) if problem.severity == "error"]


def about(keys: Collection[str], problems: list[Problem], loaded: Loaded) -> list[Problem]:
    """Return the problems of these works: in their own files, their records, and wherever else they are named."""
    rows = dict(zip(loaded.citations.lines, loaded.citations.edges, strict=True))
    unread = {loaded.sources.taxonomy} if loaded.taxonomy is None else set()
    unread |= set() if loaded.bibliography.records else {loaded.bibliography.path}

    def concerns(problem: Problem) -> bool:
        path = Path(problem.path)
        named = set(re.findall(r"`([^`]+)`", problem.message.partition("; did you mean")[0]))
        if path == loaded.citations.path and problem.line in rows:
            named |= {rows[problem.line].citing, rows[problem.line].cited}
        return path in unread or path.stem in keys or not named.isdisjoint(keys)

    return [problem for problem in problems if concerns(problem)]


def _entries(loaded: Loaded) -> Iterator[tuple[Entry, Located]]:
    for key, entry in loaded.entries.items():
        yield entry, loaded.files[key]


def _missing_entries(loaded: Loaded) -> Iterator[Problem]:
    taken = {*loaded.bibliography.records, *loaded.bibliography.broken}
    for key in loaded.bibliography.records:
        if not re.fullmatch(KEY_PATTERN, key):
            yield _in_bibliography(loaded, key, "", f"`{key}` is not a key; {_better_key(key, taken)}")
        elif key not in loaded.entries and key not in loaded.unreadable:
            message = f"`{key}` has no entry; write entries/{key}.yaml (`eelit new {key}` starts it)"
            yield _in_bibliography(loaded, key, "", message)


def _better_key(key: str, taken: set[str]) -> str:
    """Return what to do about a key that nothing here would take; one that is advised is ``taken`` from then on."""
    plain = unicodedata.normalize("NFKD", key).casefold()
    better = re.sub(r"[^a-z0-9]", "", plain)
    if not re.fullmatch(KEY_PATTERN, better):
        return "a key is surname, year and a word, in small letters, as in `zhou2020pabee`; rename it"
    free = next(name for n in count(1) if (name := better if n == 1 else f"{better}{n}") not in taken)
    taken.add(free)
    return f"rename it to `{free}`"


def _in_bibliography(loaded: Loaded, key: str, name: str, message: str, *, warn: bool = False) -> Problem:
    line = loaded.bibliography.line(key, name)
    return Problem(str(loaded.bibliography.path), line, message, "warning" if warn else "error")


def _unfinished(loaded: Loaded) -> Iterator[Problem]:
    for located in loaded.files.values():
        yield from unfinished(located)


def _invisible(loaded: Loaded) -> Iterator[Problem]:
    """Characters that command a terminal, or turn the direction of a text, are no part of what a work says."""
    files = [loaded.taxonomy_file] if loaded.taxonomy_file else []
    for located in [*files, *loaded.files.values()]:
        for place, text in located.texts():
            if found := INVISIBLE.search(text):
                yield located.problem(place, _remove(found[0]))
    for key, record in loaded.bibliography.records.items():
        for name, value in record.tex:
            if found := INVISIBLE.search(value):
                yield _in_bibliography(loaded, key, name, f"in {name} of `{key}`, {_remove(found[0])}")
    for edge, line in zip(loaded.citations.edges, loaded.citations.lines, strict=True):
        if found := INVISIBLE.search(edge.evidence):
            message = f"in the evidence of `{edge.citing}` → `{edge.cited}`, {_remove(found[0])}"
            yield Problem(str(loaded.citations.path), line, message)
    for key, source in loaded.lists.sources.items():
        if found := INVISIBLE.search(source):
            message = f"in the source of the list of `{key}`, {_remove(found[0])}"
            yield Problem(str(loaded.lists.path), loaded.lists.lines[key], message)


def _remove(character: str) -> str:
    return f"the character U+{ord(character):04X} cannot be seen and may act on a terminal; remove it"


def _identifiers(loaded: Loaded) -> Iterator[Problem]:
    for key, record in loaded.bibliography.records.items():
        shapes = [
            ("doi", "DOI", record.doi, DOI, "a DOI starts with `10.`, without https://doi.org/, and holds no HTML"),
            ("eprint", "arXiv id", record.arxiv, ARXIV, "an arXiv id is `2006.04152` or `cs/0112017`, without version"),
            ("acl", "ACL Anthology id", record.acl, ACL, "an ACL Anthology id is `2020.acl-main.204` or `P19-1001`"),
        ]
        for field, name, value, shape, hint in shapes:
            if value and not shape.fullmatch(value):
                yield _in_bibliography(loaded, key, field, f"`{value}` of `{key}` is not a valid {name}; {hint}")


def _duplicates(loaded: Loaded) -> Iterator[Problem]:
    marks: list[tuple[str, str, Callable[[Record], str]]] = [
        ("doi", "DOI", lambda record: record.doi.lower()),
        ("eprint", "arXiv id", lambda record: re.sub(r"\.[A-Z]{2}/", "/", record.arxiv)),  # a subject names nothing
        ("title", "title", lambda record: normalised(record.title)),
    ]
    told: set[tuple[str, str]] = set()  # what they share first is reason enough
    for field, name, mark in marks:
        first: dict[str, str] = {}
        for key, record in loaded.bibliography.records.items():
            value = mark(record)
            other = loaded.bibliography.records[first.setdefault(value, key)]
            if not value or other.key == key or (key, other.key) in told:
                continue
            if field != "title" or _same_author_and_time(record, other):
                told.add((key, other.key))
                message = f"`{key}` has the same {name} as `{first[value]}`; keep one of the two works"
                yield _in_bibliography(loaded, key, field, message)


def _same_author_and_time(one: Record, other: Record) -> bool:
    """Tell whether two works of one title may be one work: people who never met choose the same title at times."""
    families = {normalised(record.authors[0].family) for record in (one, other) if record.authors}
    return len(families) < 2 and abs(one.year - other.year) <= YEARS_APART


def normalised(text: str) -> str:
    """Return letters and digits only, without accents or case, to compare titles and names."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def _names(loaded: Loaded) -> Iterator[Problem]:
    """Short names and aliases should lead to one work."""
    first: dict[str, str] = {}
    for entry, located in _entries(loaded):
        for name in [entry.short_name, *entry.aliases]:
            other = first.setdefault(name.casefold(), entry.key)
            if other != entry.key:
                message = f"the name `{name}` also belongs to `{other}`; on the command line neither will answer to it"
                yield Problem(str(located.path), located.line("short_name"), message, "warning")


def _seed_lines(loaded: Loaded) -> Iterator[Problem]:
    first: dict[int, str] = {}
    for entry, located in _entries(loaded):
        for index, line in enumerate(entry.seed.lines if entry.seed else []):
            if first.setdefault(line, entry.key) != entry.key:
                message = f"line {line} of the seed list is also claimed by `{first[line]}`; it is one work only"
                yield located.problem(("seed", "lines", index), message)


def _unverified_fields(loaded: Loaded) -> Iterator[Problem]:
    known = (*Entry.model_fields, *FIELDS_OF_RECORDS)
    for entry, located in _entries(loaded):
        for index, item in enumerate(entry.unverified):
            if item.field not in known:
                message = (
                    f"`{item.field}` is a field of neither entry nor bibliography{did_you_mean(item.field, known)}"
                )
                yield located.problem(("unverified", index, "field"), message)


def _relations(loaded: Loaded) -> Iterator[Problem]:
    known, titles = loaded.known(), _titles(loaded)
    for entry, located in _entries(loaded):
        for index, relation in enumerate(entry.relations):
            place = ("relations", index, "target")
            if isinstance(relation.target, ExternalTarget):
                if key := titles.get(normalised(relation.target.external.title)):
                    yield located.problem(place, f"this external work is in the catalogue; write `target: {key}`")
            elif relation.target == entry.key:
                yield located.problem(place, f"`{entry.key}` is related to itself; correct the target")
            elif relation.target not in known:
                hint = did_you_mean(relation.target, sorted(known)) or EXTERNAL
                yield located.problem(place, f"the relation leads to `{relation.target}`, which is unknown{hint}")


def _titles(loaded: Loaded) -> dict[str, str]:
    return {normalised(record.title): key for key, record in loaded.bibliography.records.items()}


def _claims(loaded: Loaded) -> Iterator[Problem]:
    """Claims are told once, name baselines that exist, and are tried only where there is a method to try them."""
    known, titles, methods = loaded.known(), _titles(loaded), _methods(loaded)
    for entry, located in _entries(loaded):
        first: dict[str, int] = {}
        for index, claim in enumerate(entry.claims):
            other = first.setdefault(normalised(claim.says), index)
            if other != index and entry.claims[other].over == claim.over:
                yield located.problem(("claims", index), f"this claim is the same as `claims[{other}]`; keep one")
            if claim.tried and entry.key not in methods:
                message = f"`tried` is given, but methods/papers/{entry.key}.py does not exist; say why in `untried`"
                yield located.problem(("claims", index, "tried"), message)
            for position, baseline in enumerate(claim.over):
                if fault := _fault_of_baseline(entry.key, baseline, known, titles):
                    yield located.problem(("claims", index, "over", position), fault)


def _fault_of_baseline(own: str, baseline: str | ExternalTarget, known: set[str], titles: dict[str, str]) -> str:
    if isinstance(baseline, ExternalTarget):
        key = titles.get(normalised(baseline.external.title))
        return f"this external work is in the catalogue; write `{key}`" if key else ""
    if baseline == own:
        return f"`{own}` is claimed to be better than itself; write `own-variant` if a variant is meant"
    if baseline in known or baseline in REFERENCES:
        return ""
    return f"the baseline `{baseline}` is unknown{did_you_mean(baseline, sorted(known)) or EXTERNAL}"


def _citations(loaded: Loaded) -> Iterator[Problem]:
    path, records, known = str(loaded.citations.path), loaded.bibliography.records, loaded.known()
    for line, edge in zip(loaded.citations.lines, loaded.citations.edges, strict=True):
        for key in (edge.citing, edge.cited):
            if key not in known:
                yield Problem(
                    path, line, f"unknown key `{key}`{did_you_mean(key, sorted(known)) or '; remove the row'}"
                )
        if edge.citing not in records or edge.cited not in records or not edge.is_citation:
            continue
        citing, cited = records[edge.citing].year, records[edge.cited].year
        if cited - citing > YEARS_AHEAD:
            message = f"`{edge.citing}` ({citing}) cites `{edge.cited}` ({cited}), which is younger; check both years"
            yield Problem(path, line, message, "warning")


def _reference_lists(loaded: Loaded) -> Iterator[Problem]:
    known = loaded.known()
    for key, line in loaded.lists.lines.items():
        if key not in known:
            hint = did_you_mean(key, sorted(known)) or "; remove the row"
            yield Problem(str(loaded.lists.path), line, f"unknown key `{key}`{hint}")


def _taxonomy(loaded: Loaded) -> Iterator[Problem]:
    located = loaded.taxonomy_file
    if located is None:
        return
    for facet in FACETS:
        terms = loaded.terms(facet)
        seen: set[str] = set()
        listed: list[TaxonomyTerm] = getattr(loaded.taxonomy, facet)
        for index, term in enumerate(listed):
            for field, message in _faults_of_term(loaded, facet, term, terms, seen):
                yield located.problem((facet, index, field), message)
            seen.add(term.term)


def _faults_of_term(
    loaded: Loaded, facet: str, term: TaxonomyTerm, terms: dict[str, TaxonomyTerm], seen: set[str]
) -> Iterator[tuple[str, str]]:
    if term.term in seen:
        yield "term", f"the {facet} term `{term.term}` is defined twice; keep one"
    if term.broader and term.broader not in terms:
        yield (
            "broader",
            f"`{term.term}` has an unknown broader term `{term.broader}`{did_you_mean(term.broader, tuple(terms))}",
        )
    elif term.term in broader_terms(term.term, terms):
        yield "broader", f"`{term.term}` is broader than itself; break the circle"
    if not term.example or term.example in loaded.unreadable:
        return
    entry = loaded.entries.get(term.example)
    if entry is None:
        if term.example not in loaded.known():
            hint = did_you_mean(term.example, tuple(loaded.entries))
            yield "example", f"the example `{term.example}` of `{term.term}` is not in the catalogue{hint}"
    elif not any(term.term in (own, *broader_terms(own, terms)) for own in getattr(entry, facet)):
        yield "example", f"the example `{term.example}` does not carry `{term.term}` or a narrower {facet} term"


def broader_terms(term: str, terms: Mapping[str, TaxonomyTerm]) -> list[str]:
    """Return all terms above this one, nearest first; the term itself is among them only if they form a circle."""
    above: list[str] = []
    current = terms.get(term)
    while current and current.broader and current.broader not in above:
        above.append(current.broader)
        current = terms.get(current.broader)
    return above


def _narrower_with_broader(loaded: Loaded) -> Iterator[Problem]:
    for entry, located in _entries(loaded):
        for facet in FACETS:
            own: list[str] = getattr(entry, facet)
            for term in own:
                for above in broader_terms(term, loaded.terms(facet)):
                    if above in own:
                        line = located.line(facet, own.index(above))
                        message = f"`{above}` is implied by `{term}`; leave it out"
                        yield Problem(str(located.path), line, message, "warning")


def _methods(loaded: Loaded) -> set[str]:
    """Return the keys of the works that have a method here."""
    return {path.stem for path in loaded.sources.methods.glob("*.py") if not path.stem.startswith("_")}


def _implementations(loaded: Loaded) -> Iterator[Problem]:
    """An entry speaks of eelit's own implementation exactly when there is one; those of others are not ours to list."""
    files = _methods(loaded)
    for entry, located in _entries(loaded):
        if entry.implementation and entry.key not in files:
            message = f"`implementation` is given, but methods/papers/{entry.key}.py does not exist; remove the field"
            yield located.problem(("implementation",), message)
        if entry.key in files and not entry.implementation:
            message = f"methods/papers/{entry.key}.py exists; say in `implementation` how far it can be trusted"
            yield located.problem((), message)
        if entry.key in files and not entry.claims:
            message = (
                f"methods/papers/{entry.key}.py exists; say in `claims` what the paper claims to gain, and over what"
            )
            yield located.problem((), message)
    for key in sorted(files - set(loaded.entries) - loaded.unreadable):
        path = loaded.sources.methods / f"{key}.py"
        yield Problem(str(path), 1, f"the method `{key}` has no entry in the catalogue; write entries/{key}.yaml")
