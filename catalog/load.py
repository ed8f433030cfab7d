"""Read bibliography, taxonomy and entries, keep what is sound and report everything that is not."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydantic import ValidationError

from eelit.bib.citations import Citations, ReferenceLists, read_citations, read_reference_lists
from eelit.bib.files import JOURNAL, SpoiltJournal, finish
from eelit.bib.problems import Problem, did_you_mean, shown
from eelit.bib.read import Bibliography, read_bibliography
from eelit.catalog.explain import explain
from eelit.catalog.faults import CatalogueFault, writing
from eelit.catalog.schema import FACETS, Entry, Taxonomy, TaxonomyTerm
from eelit.catalog.skeleton import unfinished
from eelit.catalog.sources import Sources
from eelit.catalog.yaml_lines import Located, read_yaml


@dataclass
class Loaded:
    """Everything that could be read. `problems` are those that keep a part from being used."""

    sources: Sources
    bibliography: Bibliography
    citations: Citations
    lists: ReferenceLists
    taxonomy: Taxonomy | None = None
    taxonomy_file: Located | None = None
    entries: dict[str, Entry] = field(default_factory=dict)
    files: dict[str, Located] = field(default_factory=dict)
    unreadable: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def terms(self, facet: str) -> dict[str, TaxonomyTerm]:
        """Return the terms of a facet by name."""
        terms: list[TaxonomyTerm] = getattr(self.taxonomy, facet, [])
        return {term.term: term for term in terms}

    def known(self) -> set[str]:
        """Return the keys that have a record or an entry, sound or not: what is amiss is said there, and only there."""
        return {*self.bibliography.records, *self.bibliography.broken, *self.known_entries()}

    def known_entries(self) -> set[str]:
        """Return the keys that have an entry, sound or not."""
        return {*self.entries, *self.unreadable}


def load(sources: Sources) -> Loaded:
    """Read all sources, after what a run that was killed had begun to write is written."""
    finish_writing(sources)
    loaded = Loaded(
        sources,
        read_bibliography(sources.bibliography),
        read_citations(sources.citations),
        read_reference_lists(sources.reference_lists),
    )
    loaded.problems += loaded.bibliography.problems + loaded.citations.problems + loaded.lists.problems
    _load_taxonomy(loaded)
    for path in sorted(sources.entries.glob("*.yaml")):
        located, problems = read_yaml(path)
        entry = None
        if located:
            entry, faults = validate(located)
            problems += faults or list(_faults_of_joins(loaded, entry, located))
            if entry and entry.key not in loaded.entries:
                loaded.entries[entry.key] = entry
                loaded.files[entry.key] = located
        problems += _missing_record(loaded, entry.key if entry else path.stem, located or Located(path, None, {}))
        if problems:
            loaded.unreadable.add(path.stem)
        loaded.problems += problems
    return loaded


def finish_writing(sources: Sources) -> None:
    """Write what a run that was killed had begun to write into several files, and tell it."""
    for folder in (sources.bibliography.parent, sources.entries):
        journal = folder / JOURNAL
        if not os.path.lexists(journal):
            continue
        try:
            with writing(journal, "finish what a run that was killed had begun to write"):
                put, changed = finish(journal)
        except SpoiltJournal as error:
            raise CatalogueFault(f"{error}; delete it, and look at the changes with `git diff`") from error
        told = [f"wrote {', '.join(map(shown, put))}, as a run that was killed had begun to"] if put else []
        told += [f"{shown(path)} was changed since a run that would write it was killed; repeat it" for path in changed]
        for sentence in told:
            print(f"eelit: {sentence}", file=sys.stderr)


def validate(located: Located) -> tuple[Entry | None, list[Problem]]:
    """Return the entry that a file holds, or what is wrong with it."""
    try:
        return Entry.model_validate(located.data), []
    except ValidationError as error:
        return None, [*explain(located, error, Entry), *unfinished(located)]


def _load_taxonomy(loaded: Loaded) -> None:
    located, problems = read_yaml(loaded.sources.taxonomy)
    loaded.problems += problems
    if located is None:
        return
    try:
        loaded.taxonomy = Taxonomy.model_validate(located.data)
        loaded.taxonomy_file = located
    except ValidationError as error:
        loaded.problems += explain(located, error, TaxonomyTerm)


def _faults_of_joins(loaded: Loaded, entry: Entry | None, located: Located) -> Iterator[Problem]:
    """Yield what keeps a valid entry from being used: its name and its terms."""
    if entry is None:
        return
    stem = located.path.stem
    if entry.key != stem:
        yield located.problem(("key",), f"the key is `{entry.key}` but the file is `{stem}.yaml`; make them the same")
    if entry.key in loaded.entries:
        first = loaded.files[entry.key].path.name
        yield located.problem(("key",), f"the key `{entry.key}` is already used by {first}; each work has one entry")
    if loaded.taxonomy is not None:
        yield from _unknown_terms(loaded, entry, located)


def _missing_record(loaded: Loaded, key: str, located: Located) -> Iterator[Problem]:
    """Yield that the bibliography has no such record, whatever state the entry is in; a broken record is said there."""
    known = loaded.bibliography.records
    unread = loaded.bibliography.problems and not known
    if key not in known and key not in loaded.bibliography.broken and not unread:
        hint = did_you_mean(key, tuple(known))
        yield located.problem(("key",), f"`{key}` is not in {loaded.sources.bibliography.name}; add it{hint}")


def _unknown_terms(loaded: Loaded, entry: Entry, located: Located) -> Iterator[Problem]:
    for facet in FACETS:
        terms = loaded.terms(facet)
        for index, term in enumerate(getattr(entry, facet)):
            if term not in terms:
                other = [name for name in FACETS if term in loaded.terms(name)]
                hint = f"; it belongs to `{other[0]}`" if other else did_you_mean(term, tuple(terms))
                yield located.problem((facet, index), f"unknown {facet} term `{term}`{hint or '; see taxonomy.yaml'}")
