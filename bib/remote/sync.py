"""Bring the bibliography up to date: who cites whom inside the collection, what is new, what records lack.

Nothing here writes. Which work a service speaks of is settled first, by identifier and then by title, first author and
year; where these do not go together the answer is set aside and told. An edge is kept with every service that tells of
it, its address and the date. What a service does not list proves nothing, unless its list is complete.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial

from eelit.bib.alike import folded, is_other
from eelit.bib.citations import Citations, ReferenceLists
from eelit.bib.decided import is_quoted
from eelit.bib.record import Record
from eelit.bib.remote import arxiv, crossref, dblp, openalex, semanticscholar
from eelit.bib.remote.said import ARXIV_DOI, YEARS_APART, Said, bare_arxiv, bare_doi, grouped, is_same, plain
from eelit.bib.remote.services import ARXIV, CROSSREF, OPENALEX, SEMANTIC_SCHOLAR
from eelit.bib.remote.web import Unanswered, Web

LONG_TITLE = 25
"""Letters of a title that are not found in another reference by chance."""
FILLED = ("doi", "arxiv", "pages", "volume", "number")
"""What may be written into a record that lacks it."""
COMPARED = ("title", "authors", "year", "doi", "arxiv", "pages", "volume")


@dataclass(frozen=True)
class FoundEdge:
    """A citation that services tell of: evidence names each, with address and date."""

    citing: str
    cited: str
    evidence: str
    services: tuple[str, ...]


@dataclass(frozen=True)
class FoundList:
    """A list of references that a service gave."""

    key: str
    complete: bool
    source: str
    references: int


@dataclass(frozen=True)
class NewWork:
    """A work that is not in the collection and cites several of it."""

    title: str
    year: int | None
    id: str
    cites: tuple[str, ...]


@dataclass(frozen=True)
class Cut:
    """A work of which not all that cite it were looked at, but only so many."""

    key: str
    seen: int
    of: int


@dataclass(frozen=True)
class Filled:
    """A field that a record lacks, and who says what it is."""

    key: str
    name: str
    value: str
    services: tuple[str, ...]


@dataclass(frozen=True)
class Differing:
    """A field of a record that services tell otherwise: each service with its value."""

    key: str
    name: str
    values: tuple[tuple[str, str], ...]


@dataclass
class Report:
    """What a run found."""

    edges: list[FoundEdge] = field(default_factory=list)
    lists: list[FoundList] = field(default_factory=list)
    new: list[NewWork] = field(default_factory=list)
    cut: list[Cut] = field(default_factory=list)
    filled: list[Filled] = field(default_factory=list)
    differing: list[Differing] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)  # sentences for a person to judge
    troubles: list[str] = field(default_factory=list)  # what could not be asked
    notes: Mapping[str, str] = field(default_factory=dict)  # key → what people have written of their decisions
    by_way: str = ""  # of a mirror, that told what is filled in
    unmatched: int = 0  # references of which too little is told to say that they are none of ours
    elsewhere: dict[tuple[str, str], list[Said]] = field(default_factory=dict)  # key, identifier → where it leads

    def doubt(self, sentence: str, key: str, *quotes: str) -> None:
        """Note a sentence once, unless a person's notes about the work quote what it rests on."""
        if sentence not in self.doubts and not self.is_decided(key, *quotes):
            self.doubts.append(sentence)

    def is_decided(self, key: str, *quotes: str) -> bool:
        """Tell whether a person's notes about the work quote all of these."""
        return is_quoted(quotes, self.notes.get(key, ""))

    def leads_elsewhere(self, key: str, name: str, said: Said) -> None:
        """Note that an identifier leads to another work: one sentence for all services that say so."""
        told = self.elsewhere.setdefault((key, name), [])
        if self.is_decided(key, said.title) or any(said.service == each.service for each in told):
            return
        before, after = _another(key, name, told), _another(key, name, [*told, said])
        told.append(said)
        if before in self.doubts:
            self.doubts[self.doubts.index(before)] = after
        else:
            self.doubts.append(after)


@dataclass(frozen=True)
class _Line:
    """One line of a list of references, as a service tells it; what it does not tell is empty."""

    doi: str = ""
    arxiv: str = ""
    title: str = ""
    year: str = ""
    author: str = ""  # the first
    text: str = ""


@dataclass
class Ours:
    """All works by whatever services call them."""

    records: Mapping[str, Record]
    numbers: dict[str, str] = field(default_factory=dict)  # OpenAlex's → key
    known: dict[str, list[openalex.Work]] = field(default_factory=lambda: defaultdict(list))
    unheard: set[str] = field(default_factory=set)  # works of which OpenAlex could not be asked
    scholars: Mapping[str, Said] | None = None  # what Semantic Scholar says by name, if it was asked for all at once

    def __post_init__(self) -> None:
        self.by_doi = {record.doi.lower(): key for key, record in self.records.items() if record.doi}
        self.by_arxiv = {record.arxiv: key for key, record in self.records.items() if record.arxiv}
        self.by_title: dict[str, list[str]] = defaultdict(list)
        for key, record in self.records.items():
            self.by_title[folded(record.title)].append(key)

    def accept(self, key: str, work: openalex.Work, said: Said) -> None:
        """Take a work of OpenAlex for ours: from now on it goes by its identifiers, too."""
        self.numbers[work.number] = key
        self.known[key].append(work)
        if said.doi:
            self.by_doi.setdefault(said.doi.lower(), key)
        if said.arxiv:
            self.by_arxiv.setdefault(said.arxiv, key)

    def named(self, doi: str, arxiv_id: str) -> str:
        """Return the key of the work with this DOI or arXiv id."""
        arxiv_id = arxiv_id or bare_arxiv(doi)
        return self.by_doi.get(doi.lower(), "") or self.by_arxiv.get(arxiv_id, "")

    def titled(self, title: str, year: str, author: str = "") -> str:
        """Return the key of the work with this title, if year and author do not speak against it."""
        for key in self.by_title.get(folded(title), []):
            record = self.records[key]
            near = not year[:4].isdecimal() or abs(int(year[:4]) - record.year) <= YEARS_APART
            family = folded(record.authors[0].family)
            if near and (not author or family in folded(author) or folded(author) in family):
                return key
        return ""

    def meant(self, line: _Line) -> tuple[str, str]:
        """Return the key of the work that a reference means, and what speaks against that; both may be empty."""
        if key := self.named(line.doi, line.arxiv):
            return key, ""
        by_author = self.titled(line.title, line.year, line.author)
        key = by_author or self.titled(line.title, line.year) or self.within(line.text)
        if not key:
            return "", ""
        record = self.records[key]
        if line.doi and not bare_arxiv(line.doi) and record.doi:
            return key, f"with the DOI {line.doi} instead of {record.doi}"
        preprint = line.arxiv or bare_arxiv(line.doi)
        if preprint and record.arxiv:
            return key, f"as arXiv:{preprint} instead of arXiv:{record.arxiv}"
        if line.author and not by_author and line.title:
            return key, f"by {line.author} instead of {record.authors[0]}"
        return key, ""

    def within(self, text: str) -> str:
        """Return the key of the work whose long title and first author stand in a reference's text."""
        whole = folded(text)
        for title, keys in self.by_title.items():
            if len(title) >= LONG_TITLE and title in whole:
                record = self.records[keys[0]]
                years = [int(year) for year in re.findall(r"(?:19|20)\d\d", text)]
                near = not years or any(abs(year - record.year) <= YEARS_APART for year in years)
                if near and folded(record.authors[0].family) in whole:
                    return keys[0]
        return ""


def identify(
    web: Web, records: Mapping[str, Record], report: Report, tell: Callable[[str], None],
    wanted: Mapping[str, Record] | None = None,
) -> Ours:  # fmt: skip
    """Ask OpenAlex which of its works are ours (all, or those that are wanted); those that only look so are told."""
    found, wanted = Ours(records), records if wanted is None else wanted
    for number, (key, record) in enumerate(wanted.items(), start=1):
        tell(f"who is who: {number} of {len(wanted)}")
        found.unheard.add(key)
        with _noting(report):
            for name, work in _works(web, record):
                said = openalex.said(web, work)
                if _is_ours(record, said):
                    found.accept(key, work, said)
                else:
                    report.leads_elsewhere(key, name, said)
            found.unheard.remove(key)
    return found


@contextmanager
def _noting(report: Report) -> Iterator[None]:
    """Keep a failure as a trouble of the report, once, and go on."""
    try:
        yield
    except Unanswered as error:
        if str(error) not in report.troubles:
            report.troubles.append(str(error))


def _works(web: Web, record: Record) -> Iterator[tuple[str, openalex.Work]]:
    """Yield OpenAlex's works for a record, each with what led to it: published version and preprint may be two."""
    names = {record.doi.lower(): record.doi} if record.doi else {}
    names |= {f"{ARXIV_DOI}{record.arxiv}".lower(): f"arXiv:{record.arxiv}"} if record.arxiv else {}
    seen = set()
    for doi, name in names.items():
        work = openalex.work(web, doi)
        if work and work.number not in seen:
            seen.add(work.number)
            yield name, work
    if not seen:
        for work in openalex.works_by_title(web, record.title):
            if is_same(record, openalex.said(web, work)):
                yield record.title, work


def _is_ours(record: Record, said: Said) -> bool:
    """Tell whether what an identifier led to is the work: the same title, or the same first author under another."""
    if is_same(record, said):
        return True
    if not said.authors or not record.authors or said.year is None:
        return False
    same_author = folded(said.authors[0].family) == folded(record.authors[0].family)
    return same_author and abs(said.year - record.year) <= YEARS_APART and _shares_words(record.title, said.title)


def _is_right(key: str, record: Record, said: Said, report: Report) -> bool:
    """Tell whether what an identifier led to is the work, and Crossref speaks of its DOI; else say so."""
    if not _is_ours(record, said):
        report.leads_elsewhere(key, f"arXiv:{record.arxiv}" if said.service == ARXIV.label else record.doi, said)
        return False
    if said.service == CROSSREF.label and said.doi != record.doi.lower():
        says = f"{said.service} answers to the DOI {record.doi} of `{key}` with {said.doi}; check which is right"
        report.doubt(says, key, said.doi)
        return False
    return True


def _shares_words(one: str, other: str) -> bool:
    """Tell whether half of the words of the shorter title are in the other: versions are retitled, works are not."""
    words = [set(re.findall(r"\w+", text.casefold())) for text in (one, other)]
    return len(words[0] & words[1]) * 2 >= min(map(len, words))


def _another(key: str, name: str, saids: Sequence[Said]) -> str:
    told = grouped((f"“{said.title}” ({said.year})", said.service) for said in saids)
    return f"{name} of `{key}` leads to another work: {told}; check the identifier"


def citations(
    web: Web, ours: Ours, keys: Sequence[str], known: Citations, lists: ReferenceLists, report: Report,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    """Add to the report which works of the collection these cite, and which lists of references are complete."""
    cites = {(edge.citing, edge.cited) for edge in known.edges if edge.is_citation}
    names = {name for key in keys if (name := _scholars_name(ours.records[key]))}
    with suppress(Unanswered):  # then each is asked for by itself, which says so if it is in vain
        ours.scholars = semanticscholar.by_ids(web, names) if len(names) > 1 else None
    for number, key in enumerate(keys, start=1):
        tell(f"whom they cite: {number} of {len(keys)}")
        told: dict[str, list[_List]] = defaultdict(list)
        given, heard = _lists(web, ours, key, report)
        for each in given:
            for other in each.cited - {key}:
                told[other].append(each)
        before = {cited for citing, cited in cites if citing == key}
        for each in given:
            complete = heard and _is_complete(each, given)
            for cited in sorted(before - told.keys()) if complete else ():
                report.doubt(
                    f"`{key}` → `{cited}` is known here, but not in {each.label}'s list, which seems to be complete; "
                    "check it",
                    key,
                    cited,
                )
            _keep_list(each.found(key, given, complete=complete and before <= each.cited), lists, report)
        _keep_edges(key, told, cites, lists, report)


def _is_complete(one: _List, given: Sequence[_List]) -> bool:
    """Tell whether a list holds all that the work refers to, as far as others confirm it.

    That a publisher's list is as long as it says itself proves nothing: it counts what was deposited. Others must give
    a list too, none of them longer, and none with a work of ours that this one lacks.
    """
    others = [other for other in given if other.label != one.label]
    return one.whole and bool(others) and all(other.cited <= one.cited and other.count <= one.count for other in others)


def _keep_edges(
    key: str, told: Mapping[str, list[_List]], cites: Collection[tuple[str, str]], lists: ReferenceLists,
    report: Report,
) -> None:  # fmt: skip
    for cited in sorted(told):
        if (key, cited) in cites:
            continue
        services = tuple(each.label for each in told[cited])
        read = key in lists.complete and f"({CROSSREF.label}, " not in lists.sources[key]
        if read and len(services) == 1:
            report.doubt(
                f"{services[0]} alone says that `{key}` cites `{cited}`, which the list that was read to its end does "
                "not hold; check it",
                key,
                cited,
            )
            continue
        evidence = "; ".join(f"{each.address} ({each.label}, {each.day})" for each in told[cited])
        report.edges.append(FoundEdge(key, cited, evidence, services))


def _keep_list(found: FoundList, lists: ReferenceLists, report: Report) -> None:
    """Keep a list if it tells more than what is known of it: a complete one before one that is not, else the longer."""
    if found.key in lists.complete or (found.key in lists.lines and not found.complete):
        return
    before = next((other for other in report.lists if other.key == found.key), None)
    if before and (before.complete, before.references) >= (found.complete, found.references):
        return
    if before:
        report.lists.remove(before)
    report.lists.append(found)


@dataclass(frozen=True)
class _List:
    """What one service gives as the list of references of a work."""

    label: str
    address: str
    day: str  # on which the service said so
    cited: set[str]  # works of ours
    count: int  # all works
    whole: bool = False  # as long as the service says that it is, and each line names a work

    def found(self, key: str, given: Sequence[_List], *, complete: bool) -> FoundList:
        """Return what is kept of it; of a complete one, who confirms that."""
        others = dict.fromkeys(other.label for other in given if other.label != self.label)
        confirmed = f"; no more at {', '.join(others)}" if complete else ""
        return FoundList(key, complete, f"{self.address} ({self.label}, {self.day}{confirmed})", self.count)


def _lists(web: Web, ours: Ours, key: str, report: Report) -> tuple[list[_List], bool]:
    """Return the lists of references that services give of a work, and whether all could be asked.

    An empty list is none.
    """
    given, heard = [], key not in ours.unheard
    for work in ours.known.get(key, []):
        if work.references:
            cited = {ours.numbers[number] for number in work.references if number in ours.numbers}
            address = openalex.address(web, work)
            given.append(_List(OPENALEX.label, address, work.said_on, cited, len(work.references)))
    for ask in (_from_crossref, _from_semantic_scholar):
        answered = False
        with _noting(report):
            found = ask(web, ours, key, report)
            given += [found] if found else []
            answered = True
        heard = heard and answered
    return given, heard


def _from_crossref(web: Web, ours: Ours, key: str, report: Report) -> _List | None:
    record = ours.records[key]
    work = crossref.work(web, record.doi) if record.doi else None
    if work is None or not _is_right(key, record, crossref.said(web, work), report) or not work.reference:
        return None
    cited, vague = set(), 0
    for reference in work.reference:
        text = plain(reference.unstructured)
        line = _Line(bare_doi(reference.doi), "", reference.title, reference.year, plain(reference.author), text)
        other, against = ours.meant(line)
        if against:
            says = _perhaps(key, other, CROSSREF.label, against, crossref.address(web, record.doi))
            report.doubt(says, key, other)
        cited |= {other} if other and not against else set()
        vague += bool(against) or not (other or reference.title or text)  # a DOI alone may be another one of ours
    report.unmatched += vague
    whole = work.count == len(work.reference) and not vague
    return _List(CROSSREF.label, crossref.address(web, record.doi), work.said_on, cited, len(work.reference), whole)


def _from_semantic_scholar(web: Web, ours: Ours, key: str, report: Report) -> _List | None:
    record = ours.records[key]
    name = _scholars_name(record)
    ask = partial(semanticscholar.by_id, web) if ours.scholars is None else ours.scholars.get
    said = ask(name) if name else None
    if said and not _is_ours(record, said):
        report.leads_elsewhere(key, record.doi or f"arXiv:{record.arxiv}", said)
        return None
    papers = semanticscholar.references(web, name) if said else None
    if not papers:
        return None
    cited, address = set(), semanticscholar.address(web, name)
    for paper in papers:
        author = plain(paper.authors[0].name) if paper.authors else ""
        other, against = ours.meant(_Line(paper.doi, paper.arxiv, plain(paper.title), str(paper.year or ""), author))
        if against:
            report.doubt(_perhaps(key, other, SEMANTIC_SCHOLAR.label, against, address), key, other)
        cited |= {other} if other and not against else set()
    return _List(SEMANTIC_SCHOLAR.label, address, min(paper.said_on for paper in papers), cited, len(papers))


def _scholars_name(record: Record) -> str:
    """Return what Semantic Scholar calls a work, or nothing."""
    return f"DOI:{record.doi}" if record.doi else f"ARXIV:{record.arxiv}" if record.arxiv else ""


def _perhaps(key: str, other: str, label: str, against: str, address: str) -> str:
    return f"`{key}` may cite `{other}`: {label} lists a work of that title, but {against} ({address}); check it"


def new_works(
    web: Web, ours: Ours, keys: Sequence[str], report: Report, tell: Callable[[str], None], *, least: int,
    pages: int,
) -> None:  # fmt: skip
    """Add to the report the works outside that cite at least so many of ours, the most first."""
    found: dict[str, openalex.Work] = {}
    cites: dict[str, set[str]] = defaultdict(set)
    for number, key in enumerate(keys, start=1):
        tell(f"who cites them: {number} of {len(keys)}")
        numbers = sorted(other for other, name in ours.numbers.items() if name == key)
        seen = count = 0
        with _noting(report):
            for page in openalex.citing(web, numbers, pages) if numbers else ():
                seen, count = seen + len(page.results), max(count, page.meta.count or 0)
                for work in page.results:
                    if _is_new(ours, work, openalex.said(web, work)):
                        found[work.number] = work
                        known = (ours.numbers[other] for other in work.references if other in ours.numbers)
                        cites[work.number] |= {key, *known}
        if count > seen:
            report.cut.append(Cut(key, seen, count))
    for name, work in found.items():
        if len(cites[name]) >= least:
            said = openalex.said(web, work)
            shown = said.doi or (f"arXiv:{said.arxiv}" if said.arxiv else work.number)
            report.new.append(NewWork(said.title, said.year, shown, tuple(sorted(cites[name]))))
    report.new.sort(key=lambda work: (-len(work.cites), -(work.year or 0), work.title))


def _is_new(ours: Ours, work: openalex.Work, said: Said) -> bool:
    author = said.authors[0].family if said.authors else ""
    known = work.number in ours.numbers or ours.named(said.doi, said.arxiv)
    return bool(said.title) and not (known or ours.titled(said.title, str(said.year or ""), author))


def metadata(web: Web, ours: Ours, keys: Sequence[str], report: Report, tell: Callable[[str], None]) -> None:
    """Add to the report what these records lack, and where services say otherwise."""
    preprints: dict[str, Said] = {}
    report.by_way = web.manners.by_way
    with _noting(report):
        preprints = arxiv.by_ids(web, [ours.records[key].arxiv for key in keys])
    for number, key in enumerate(keys, start=1):
        tell(f"what they are: {number} of {len(keys)}")
        record = ours.records[key]
        saids: list[Said] = [openalex.said(web, work) for work in ours.known.get(key, [])]
        for ask in (_crossref_says, lambda _, record: preprints.get(record.arxiv), _dblp_says):
            with _noting(report):
                said = ask(web, record)
                if said and _is_right(key, record, said, report):
                    saids.append(said)
        _compare(key, record, saids, report)


def _crossref_says(web: Web, record: Record) -> Said | None:
    return crossref.by_doi(web, record.doi) if record.doi else None


def _dblp_says(web: Web, record: Record) -> Said | None:
    return next((said for said in dblp.by_title(web, record.title) if is_same(record, said)), None)


def _compare(key: str, record: Record, saids: Sequence[Said], report: Report) -> None:
    for name in FILLED:
        told = [(said.service, value) for said in saids if (value := _telling(said, name, record))]
        values = sorted({value for _, value in told})
        if not getattr(record, name) and len(values) == 1:
            report.filled.append(Filled(key, name, values[0], tuple(dict(told))))
        elif not getattr(record, name) and values and not report.is_decided(key, name, *values):
            report.doubt(f"`{key}` has no {name}, and services differ: {', '.join(values)}", key)
            report.differing.append(Differing(key, name, tuple(told)))
    published = [said for said in saids if said.venue and not said.preprint]
    if record.type == "misc" and not record.venue and published:
        report.doubt(_published(key, published), key, *(said.venue for said in published))
    for name in COMPARED:
        own = "; ".join(map(str, record.authors)) if name == "authors" else str(getattr(record, name))
        others = [
            (other, said) for said in saids
            if own and is_other(name, other := _telling(said, name, record), own)
            and not report.is_decided(key, name, other)
        ]  # fmt: skip
        if others:
            where = grouped((f"“{other}”", f"{said.service} ({said.address})") for other, said in others)
            report.doubt(f"{name} of `{key}` is “{own}”, but {where}", key)
            report.differing.append(Differing(key, name, tuple((said.service, other) for other, said in others)))


def _published(key: str, saids: Sequence[Said]) -> str:
    told = [
        f"{', '.join(part for part in (said.venue, said.text('year'), said.pages) if part)} ({said.service})"
        for said in saids
    ]
    remedy = "change its type, and add venue, year and pages"
    return f"`{key}` is a preprint here, but published by now: {'; '.join(told)}; {remedy}"


def _telling(said: Said, name: str, record: Record) -> str:
    """Return what a service says of a field if it may know: a preprint knows nothing of pages, a paper of no volume."""
    if name in ("pages", "volume", "number") and (said.preprint or record.type == "misc"):
        return ""
    if name in ("volume", "number") and record.type != "article":
        return ""
    published = bool(said.venue) and not said.preprint
    if name == "year" and (published if record.type == "misc" else said.preprint):  # that of another version
        return ""
    return said.text(name)
