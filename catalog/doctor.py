"""What may be amiss in the catalogue beyond what `check` forbids, each with a remedy; and how to mend what is safe.

A finding need not be a fault: a person judges it. Mended is only what leaves no choice, such as a dash between pages.
"""

from __future__ import annotations

import io
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from pathlib import Path

from eelit.bib.alike import is_other
from eelit.bib.decided import BY_WAY, comment_lines, is_quoted
from eelit.bib.files import Changes
from eelit.bib.identifiers import EN_DASH, is_range, normal_pages
from eelit.bib.problems import Problem, Severity, shown
from eelit.bib.provenance import Told, comments_of_people, provenance
from eelit.bib.record import Record
from eelit.bib.tex import read_tex
from eelit.bib.write import NotWritable, with_field, without_field
from eelit.catalog.check import YEARS_APART, broader_terms, check_loaded, normalised
from eelit.catalog.load import Loaded
from eelit.catalog.schema import FACETS, ExternalTarget

ALIKE = 0.85
"""Share of letters in which two titles of the same first author agree if they may be versions of one work."""
ARXIV_DOI = "10.48550/arxiv."
ACL_DOI = "10.18653/v1/"
PUBLISHED = ("article", "inproceedings", "incollection")
INVALID = "is not a valid "
"""What `check` says of an identifier."""
ABSENT = re.compile(r"^none\b|\bthere is none\b|\bno (?:doi|arxiv id|pages)\b", re.IGNORECASE)
NUMBERED = re.compile(
    r"\b(?:(?:19|20)\d\d|\d+(?:st|nd|rd|th)|annual|(?:thirty|forty|twenty|fifty)?-?(?:first|second|third|fourth|fifth|sixth|"
    r"seventh|eighth|ninth)|tenth|eleventh|twelfth|\w+teenth|twentieth|thirtieth|fortieth)\b",
    re.IGNORECASE,
)
PROCEEDINGS = re.compile(r"\bproc(?:eedings|\.)?(?: of)?(?: the)?\b|^\s*the\b", re.IGNORECASE)
VOLUME = re.compile(r"\(volume[^()]*\)|: (?:main volume|long papers|short papers)", re.IGNORECASE)
LINK = re.compile(r"https?://[^\s\"'{}<>,]+[^\s\"'{}<>,.;:)]")
ACRONYM = re.compile(r"\((?P<acronym>[^()]*?)[ ’']*(?P<year>(?:(?:19|20)?\d\d)?)\)\s*$")
ALONE = re.compile(
    r"(?:(?P<before>.*\S)\s+[-–—]\s+)?(?P<acronym>[A-Z]\w*[A-Z][\w+/-]*?)(?:[ ’']+(?P<year>(?:(?:19|20)?\d\d)?))?$"
)
"""`ICLR`, `ICLR 2020`, `Computer Vision - ECCV 2018`."""
RENAMED = {"nips": "neurips"}
"""Acronyms that a venue has changed, casefolded."""
SMALL = ("a", "an", "the", "of", "on", "in", "for", "and")
"""Words that abbreviated names leave out."""


@dataclass(frozen=True)
class Mend:
    """A change that leaves no choice: a field of a record gets a value (or goes), or an entry's facet loses a term."""

    key: str
    field: str
    value: str | None
    facet_term: str = ""


@dataclass(frozen=True)
class Finding:
    """One thing that may be amiss: where, what, and what to do about it."""

    rule: str
    path: str
    line: int
    says: str
    remedy: str
    severity: Severity = "warning"
    mends: tuple[Mend, ...] = ()

    def __str__(self) -> str:
        remedy = f"; {self.remedy}" if self.remedy else ""
        return f"{shown(self.path)}:{self.line}: {self.rule}: {self.says}{remedy}"


@dataclass(frozen=True)
class Measured:
    """What is known of the results of a method: a file of them, whether of the present code, and their outcomes."""

    path: Path
    current: bool
    outcomes: Collection[str]
    again: str = "eelit bench {}"
    """The command that measures a method again, with braces for its key."""


def findings(loaded: Loaded, measured: Mapping[str, Measured] | None = None) -> list[Finding]:
    """Return all findings in the order of files and lines; those about results only if results are given."""
    found = [
        *_checked(loaded),
        *_missing(loaded),
        *_contradicting(loaded),
        *_told_otherwise(loaded),
        *_identifiers(loaded),
        *_venues(loaded),
        *_versions(loaded),
        *_externals(loaded),
        *_unconnected(loaded),
        *_mirrored(loaded),
        *(_results(loaded, measured) if measured is not None else ()),
        *(_unmeasured(loaded, measured) if measured is not None else ()),
    ]
    return sorted(set(_once(found)), key=lambda each: (each.path, each.line, each.rule, each.says))


def _once(found: Sequence[Finding]) -> Iterator[Finding]:
    """Yield each fault once: an identifier that `check` refuses is told as the finding that mends it, as grave."""
    mends = {(each.path, each.line): each for each in found if each.rule == "identifiers" and each.mends}
    refused = {(each.path, each.line) for each in found if each.rule == "check" and INVALID in each.says}
    for each in found:
        place = each.path, each.line
        if each.rule == "check" and INVALID in each.says and place in mends:
            continue
        yield replace(each, severity="error") if each == mends.get(place) and place in refused else each


def doubts_of_new(record: Record, records: Mapping[str, Record]) -> list[str]:
    """Return what a person should look at before a record is added to these."""
    family = normalised(record.authors[0].family) if record.authors else ""
    same = [other for other in records.values() if other.authors and normalised(other.authors[0].family) == family]
    found = [_version(record, other) for other in same if family and _is_version(record, other)]
    venue = _venue(record.venue)
    renamed = (other for other in records.values() if other.venue and _is_renamed(venue, _venue(other.venue)))
    other = next(renamed, None) if record.venue else None
    return found + ([_renamed(record, other)] if other else [])


def notes(loaded: Loaded) -> dict[str, str]:
    """Return what people have written of their decisions: above a record, and in `unverified` of its entry."""
    found = comments_of_people(loaded.bibliography)
    for key, entry in loaded.entries.items():
        told = [f"{item.field}: {item.note}" for item in entry.unverified]
        found[key] = " ".join([found.get(key, ""), *told]).strip()
    return found


def mended(loaded: Loaded, found: Iterable[Finding]) -> tuple[Changes, list[str]]:
    """Return the files with every mend that can be made without touching anything else, and why others cannot."""
    changes, refused = Changes(), []
    for finding in found:
        for mend in finding.mends:
            path = loaded.sources.entry(mend.key) if mend.facet_term else loaded.bibliography.path
            try:
                changes.put(path, _applied(changes.text(path), mend))
            except NotWritable as error:
                refused.append(f"{error}; correct it by hand")
    return changes, refused


def _applied(text: str, mend: Mend) -> str:
    if mend.facet_term:
        return _without_term(text, mend)
    if mend.value is None:
        return without_field(text, mend.key, mend.field)
    return with_field(text, mend.key, mend.field, mend.value)


def _without_term(text: str, mend: Mend) -> str:
    """Return an entry without a term of a facet, its comments and looks as they were."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 100_000
    yaml.indent(mapping=2, sequence=4, offset=2)

    def written(data: object) -> str:
        out = io.StringIO()
        yaml.dump(data, out)
        return out.getvalue()

    try:
        data = yaml.load(text)
        if written(data) != text:
            raise NotWritable(f"the entry of `{mend.key}` is written in a way that cannot be kept")
        data[mend.field].remove(mend.facet_term)
        return written(data)
    except (YAMLError, KeyError, ValueError) as error:
        raise NotWritable(f"`{mend.field}` of `{mend.key}` cannot be changed") from error


def addresses(loaded: Loaded, keys: Collection[str] = ()) -> Iterator[tuple[str, int, str]]:
    """Yield every address that stands in the catalogue (of these works, or of all), with file and line."""
    seen: set[str] = set()
    for key, record in loaded.bibliography.records.items():
        for label, address in record.links() if not keys or key in keys else []:
            field = {"DOI": "doi", "arXiv": "eprint", "publisher": "url"}.get(label, label.partition(" ")[0].lower())
            if address not in seen:
                seen.add(address)
                yield str(loaded.bibliography.path), loaded.bibliography.line(key, field), address
    for key, located in loaded.files.items():
        for line, text in enumerate(located.path.read_text(encoding="utf-8").splitlines(), start=1):
            for address in LINK.findall(text) if not keys or key in keys else []:
                if address not in seen:
                    seen.add(address)
                    yield str(located.path), line, address


# -- rules -------------------------------------------------------------------------------------------------------------


def _at(loaded: Loaded, rule: str, key: str, field: str, says: str, remedy: str, *mends: Mend) -> Finding:
    """Return a finding about a record."""
    bibliography = loaded.bibliography
    return Finding(rule, str(bibliography.path), bibliography.line(key, field), says, remedy, mends=mends)


def _in_entry(loaded: Loaded, rule: str, key: str, place: tuple[str | int, ...], says: str, remedy: str) -> Finding:
    located = loaded.files[key]
    return Finding(rule, str(located.path), located.line(*place), says, remedy)


def _checked(loaded: Loaded) -> Iterator[Finding]:
    """Yield what `eelit check` reports; two of its warnings can be mended."""
    mends = {**_dashes(loaded), **_implied(loaded)}
    for problem in check_loaded(loaded):
        says, _, remedy = problem.message.partition("; ")
        rule = "check" if problem not in mends else mends[problem][0]
        made = mends[problem][1] if problem in mends else ()
        yield Finding(rule, problem.path, problem.line, says, remedy, problem.severity, made)


def _dashes(loaded: Loaded) -> dict[Problem, tuple[str, tuple[Mend, ...]]]:
    found: dict[Problem, tuple[str, tuple[Mend, ...]]] = {}
    for problem in loaded.bibliography.problems:
        key = next(iter(re.findall(r"^the pages of `([^`]+)` are written", problem.message)), "")
        if key in loaded.bibliography.records:
            pages = dict(loaded.bibliography.records[key].tex)["pages"]
            value = normal_pages(read_tex(pages).text)[0].replace(EN_DASH, "--")
            found[problem] = "pages", (Mend(key, "pages", value),)
    return found


def _implied(loaded: Loaded) -> dict[Problem, tuple[str, tuple[Mend, ...]]]:
    found: dict[Problem, tuple[str, tuple[Mend, ...]]] = {}
    for key, entry in loaded.entries.items():
        for facet in FACETS:
            own: list[str] = getattr(entry, facet)
            for term in own:
                for above in broader_terms(term, loaded.terms(facet)):
                    if above in own:
                        located = loaded.files[key]
                        message = f"`{above}` is implied by `{term}`; leave it out"
                        problem = Problem(str(located.path), located.line(facet, own.index(above)), message, "warning")
                        found[problem] = "implied term", (Mend(key, facet, None, above),)
    return found


def _absent(loaded: Loaded, key: str, name: str) -> bool:
    """Tell whether the entry says already that a field is not known."""
    entry = loaded.entries.get(key)
    return bool(entry and any(item.field == name for item in entry.unverified))


def _missing(loaded: Loaded) -> Iterator[Finding]:
    for key, record in loaded.bibliography.records.items():
        look = f"look it up (`eelit sync --metadata {key}`), or say in `unverified` that there is none"
        if record.type in PUBLISHED and not record.venue:
            yield _at(
                loaded, "missing", key, "", f"`{key}` (@{record.type}) has no venue", "add `booktitle` or `journal`"
            )
        if record.type in PUBLISHED and record.links() and not record.doi and not _absent(loaded, key, "doi"):
            yield _at(loaded, "missing", key, "", f"`{key}` is published and has no DOI", look)
        paged = record.pages or record.articleno or _absent(loaded, key, "pages")
        if record.type in PUBLISHED and record.doi and not paged:
            yield _at(loaded, "missing", key, "", f"`{key}` has a DOI and no pages", look)
        if not record.links():
            yield _at(
                loaded, "missing", key, "", f"`{key}` cannot be found by any identifier", "add a DOI, arXiv id or url"
            )


def _contradicting(loaded: Loaded) -> Iterator[Finding]:
    for key, record in loaded.bibliography.records.items():
        year, posted = record.year, re.match(r"(\d\d)\d\d\.", record.arxiv)
        since = 2000 + int(posted[1]) if posted else year
        far = since > year + 1 or since < year - YEARS_APART
        if far and str(since) not in dict(record.tex).get("note", ""):
            says = f"`{key}` is of {year}, but its preprint arXiv:{record.arxiv} is of {since}"
            ask = f"`eelit doctor --online {key}` asks whether it leads to this work"
            right = f"if it is right, say so: note = {{Preprint posted in {since}}}"
            remedy = f"correct the year, or the identifier ({ask}); {right}"
            yield _at(loaded, "contradiction", key, "year", says, remedy)
        if (ends := re.fullmatch(r"(\d+)–(\d+)", record.pages)) and not is_range(*ends.groups()):
            says = f"the pages of `{key}` go from {ends[1]} to {ends[2]}"
            remedy = f"correct the wrong one, or write `{ends[1]}-{ends[2]}` if it is page {ends[2]} of part {ends[1]}"
            yield _at(loaded, "contradiction", key, "pages", says, remedy)
        told = [int(found) for found in re.findall(r"\b(?:19|20)\d\d\b", record.venue)]
        if told and min(abs(found - year) for found in told) > 1:
            says = f"`{key}` is of {year}, but its venue is “{record.venue}”"
            yield _at(loaded, "contradiction", key, "year", says, "correct one of the two")
        entry = loaded.entries.get(key)
        for index, item in enumerate(entry.unverified if entry else []):
            name = {"eprint": "arxiv"}.get(item.field, item.field)
            if name in ("doi", "arxiv", "pages", "venue") and getattr(record, name) and ABSENT.search(item.note):
                says = f"`unverified` says of `{name}` “{item.note}”, but the bibliography has {getattr(record, name)}"
                yield _in_entry(loaded, "contradiction", key, ("unverified", index), says, "correct the wrong one")


def _told_otherwise(loaded: Loaded) -> Iterator[Finding]:
    """Yield what services told otherwise when they were asked, until the record has it or a person has decided."""
    written = notes(loaded)
    for key, line, told in provenance(loaded.bibliography):
        own = _own(loaded.bibliography.records[key], told)
        if is_other(told.field, told.other, own) and not is_quoted([told.field, told.other], written.get(key, "")):
            ours = f"{told.field} of `{key}` is “{own}”" if own else f"`{key}` has no {told.field}"
            says = f"{ours}, but “{told.other}” at {', '.join(told.services)} ({told.day})"
            remedy = "look at its title page and correct the field, or, if ours is right, say so in a comment above it"
            quoted = f"{remedy}: % {told.field}: not {told.other}"
            yield Finding("services differ", str(loaded.bibliography.path), line, says, quoted)


def _own(record: Record, told: Told) -> str:
    value = getattr(record, told.field, "")
    return "; ".join(map(str, value)) if told.field == "authors" else str(value)


def _identifiers(loaded: Loaded) -> Iterator[Finding]:
    for key, record in loaded.bibliography.records.items():
        yield from _of_arxiv(loaded, key, record)
        doi = record.doi.lower()
        if doi.startswith(ACL_DOI) and record.acl and doi.removeprefix(ACL_DOI) != record.acl.lower():
            says = f"the DOI {record.doi} of `{key}` is not that of the ACL Anthology's {record.acl}"
            yield _at(loaded, "identifiers", key, "doi", says, "correct the wrong one")
        bare = _bare(record.doi)
        if record.doi != bare and not bare.startswith(ARXIV_DOI):
            says = f"the DOI of `{key}` is written {record.doi}"
            yield _at(loaded, "identifiers", key, "doi", says, f"write `{bare}`", Mend(key, "doi", bare))


def _bare(doi: str) -> str:
    """Return a DOI as it is compared: without what makes an address of it, in small letters."""
    return re.sub(r"^(?:https?://(?:dx\.)?doi\.org/|doi:\s*)", "", doi, flags=re.IGNORECASE).lower()


def _unversioned(arxiv_id: str) -> str:
    return re.sub(r"v\d+$", "", arxiv_id)


def _of_arxiv(loaded: Loaded, key: str, record: Record) -> Iterator[Finding]:
    """Yield that arXiv's DOI and the arXiv id do not belong together, or that an id names a version."""
    if version := re.fullmatch(r"(.+?)v\d+", record.arxiv):
        says = f"the arXiv id {record.arxiv} of `{key}` names a version"
        yield _at(loaded, "identifiers", key, "eprint", says, f"write `{version[1]}`", Mend(key, "eprint", version[1]))
    doi = _bare(record.doi)
    if not doi.startswith(ARXIV_DOI):
        return
    named, eprint = _unversioned(doi.removeprefix(ARXIV_DOI)), dict(record.tex).get("eprint", "")
    if eprint and _unversioned(eprint.lower().removeprefix("arxiv:")) != named:
        says = f"the DOI of `{key}` is that of arXiv:{named}, its `eprint` is {record.arxiv}"
        yield _at(loaded, "identifiers", key, "doi", says, "correct the wrong one")
        return
    says = f"the DOI of `{key}` is the one that arXiv registers for every preprint"
    mends = [Mend(key, "doi", None)]
    mends += [] if eprint else [Mend(key, "eprint", named), Mend(key, "archiveprefix", "arXiv")]
    yield _at(loaded, "identifiers", key, "doi", says, f"write `eprint = {{{named}}}` in its place", *mends)


def _venues(loaded: Loaded) -> Iterator[Finding]:
    """Yield venues that go by two names; the rarer of two is the one to change."""
    records = {key: record for key, record in loaded.bibliography.records.items() if record.venue}
    venues = {key: _venue(record.venue) for key, record in records.items()}
    often = Counter(venue.name for venue in venues.values())
    first = {venue: key for key, venue in reversed(venues.items())}  # which work shows a venue
    written = notes(loaded)

    def is_told(key: str, other: _Venue) -> bool:
        """Tell whether a person has written that these are two venues."""
        shows = first[other]
        return is_quoted([records[shows].venue], written[key]) or is_quoted([records[key].venue], written[shows])

    for key, venue in venues.items():
        others = [other for other in dict.fromkeys(venues.values()) if _is_renamed(venue, other)]
        others = [other for other in others if not is_told(key, other)]
        if not others:
            continue
        usual = max(others, key=lambda other: often[other.name])
        earlier = list(venues).index(first[usual]) < list(venues).index(key)
        if (often[usual.name], earlier) > (often[venue.name], False):
            field = "journal" if records[key].type == "article" else "booktitle"
            says = _renamed(records[key], records[first[usual]])
            two = f"or, if they are two, say so in a comment above it: % not {records[first[usual]].venue}"
            yield _at(loaded, "venue", key, field, says, f"call one venue by one name, {two}")


def _renamed(record: Record, other: Record) -> str:
    return f"“{record.venue}” of `{record.key}` is called “{other.venue}” in `{other.key}`"


@dataclass(frozen=True)
class _Venue:
    """What a venue is called, but for its number and year."""

    name: str
    stem: str  # without `Proceedings of the`
    words: tuple[str, ...]
    acronym: str
    year: str
    loose: bool  # the acronym stands alone, behind a dash, or without a year


def _venue(venue: str) -> _Venue:
    found = ACRONYM.search(venue) or ALONE.match(PROCEEDINGS.sub("", venue).strip(" ."))
    rest = venue[: found.start()] if found and found.re is ACRONYM else found["before"] or "" if found else venue
    year = (found["year"] or "")[-2:] if found else ""
    loose = found is not None and (found.re is ALONE or not year)
    name = NUMBERED.sub(" ", VOLUME.sub(" ", (rest.strip() or venue).replace("&", "and")))
    stem = PROCEEDINGS.sub(" ", name)
    words = tuple(word.casefold() for word in re.findall(r"\w+", stem) if word.casefold() not in SMALL)
    acronym = normalised(found["acronym"]) if found and "workshop" not in stem.casefold() else ""
    acronym = RENAMED.get(acronym, acronym)
    return _Venue(normalised(name), normalised(stem), words, acronym, year, loose)


def _is_renamed(one: _Venue, other: _Venue) -> bool:
    """Tell whether two names that differ are of one venue. In another year it may have been renamed."""
    if one.name == other.name:
        return False
    same_acronym = one.acronym and one.acronym == other.acronym
    if one.stem == other.stem or (same_acronym and (one.year == other.year or one.loose or other.loose)):
        return True
    return len(one.words) == len(other.words) and all(
        word.startswith(letters) or letters.startswith(word)
        for word, letters in zip(one.words, other.words, strict=True)
    )


def _versions(loaded: Loaded) -> Iterator[Finding]:
    """Yield pairs of works that may be one under two titles."""
    by_author: dict[str, list[Record]] = defaultdict(list)
    written = notes(loaded)
    for record in loaded.bibliography.records.values():
        for other in by_author[normalised(record.authors[0].family)] if record.authors else []:
            told = is_quoted([other.key], written.get(record.key, "")) or is_quoted([record.key], written[other.key])
            if _is_version(record, other) and not told:
                says = _version(record, other)
                remedy = f"keep one of them if they are one work, else say so in a comment above it: % not {other.key}"
                yield _at(loaded, "versions", record.key, "title", says, remedy)
        if record.authors:
            by_author[normalised(record.authors[0].family)].append(record)


def _is_version(record: Record, other: Record) -> bool:
    """Tell whether two works of one first author may be one. What share DOI, arXiv id or title is reported as that."""
    same_doi = record.doi and record.doi.lower() == other.doi.lower()
    same_id = same_doi or (record.arxiv and record.arxiv == other.arxiv)
    titles = normalised(record.title), normalised(other.title)
    if same_id or titles[0] == titles[1] or abs(record.year - other.year) > YEARS_APART:
        return False
    return SequenceMatcher(None, *titles, autojunk=False).ratio() >= ALIKE


def _version(record: Record, other: Record) -> str:
    return f"`{record.key}` may be `{other.key}` under another title: “{record.title}”, “{other.title}”"


def _externals(loaded: Loaded) -> Iterator[Finding]:
    """Yield works that relations name as external, though the catalogue has one with that identifier."""
    known = {f"arxiv:{record.arxiv}": key for key, record in loaded.bibliography.records.items() if record.arxiv}
    known |= {f"doi:{record.doi}".lower(): key for key, record in loaded.bibliography.records.items() if record.doi}
    for key, entry in loaded.entries.items():
        for index, relation in enumerate(entry.relations):
            if isinstance(relation.target, ExternalTarget):
                other = known.get((relation.target.external.id or "").lower())
                if other and other != key:  # a later version of the work itself has its id, too
                    says = (
                        f"“{relation.target.external.title}”, which `{key}` names as external, has the id of `{other}`"
                    )
                    place = ("relations", index, "target")
                    yield _in_entry(loaded, "external", key, place, says, f"write `target: {other}`")


def _unconnected(loaded: Loaded) -> Iterator[Finding]:
    linked = {key for edge in loaded.citations.edges for key in (edge.citing, edge.cited)}
    outside: dict[str, set[str]] = defaultdict(set)  # id of a work that is not here → those that are related to it
    for key, entry in loaded.entries.items():
        targets = [relation.target for relation in entry.relations if not isinstance(relation.target, ExternalTarget)]
        linked |= {key, *targets} if targets else set()
        for relation in entry.relations:
            if isinstance(relation.target, ExternalTarget) and relation.target.external.id:
                outside[relation.target.external.id.casefold()].add(key)
    linked |= {key for keys in outside.values() if len(keys) > 1 for key in keys}
    for key, entry in loaded.entries.items():
        if key not in linked:
            says = f"nothing connects `{key}` with another work of the collection"
            says += ", only with works outside" if entry.relations else ""
            remedy = "add a relation with its source, or ask whom all works cite (`eelit sync --citations`)"
            yield _in_entry(loaded, "unconnected", key, ("relations",), says, remedy)


def _mirrored(loaded: Loaded) -> Iterator[Finding]:
    """Yield what was not told by a service itself, but by a mirror: anybody may run one, and let it say anything."""
    read_anew = "without EELIT_MIRROR, ask the service itself"
    for edge, line in zip(loaded.citations.edges, loaded.citations.lines, strict=True):
        if found := BY_WAY.search(edge.evidence):
            says = f"`{edge.citing}` → `{edge.cited}` rests on answers of a mirror, {found[1]}"
            remedy = f"remove the row; {read_anew} (`eelit sync --citations {edge.citing}`)"
            yield Finding("mirror", str(loaded.citations.path), line, says, remedy)
    for key, source in loaded.lists.sources.items():
        if found := BY_WAY.search(source):
            says = f"the list of references of `{key}` is an answer of a mirror, {found[1]}"
            remedy = f"remove the row; {read_anew} (`eelit sync --citations {key}`)"
            yield Finding("mirror", str(loaded.lists.path), loaded.lists.lines[key], says, remedy)
    for key, line, comment in comment_lines(loaded.bibliography):
        if found := BY_WAY.search(comment):
            says = f"fields of `{key}` are answers of a mirror, {found[1]}"
            remedy = f"{read_anew} (`eelit sync --metadata {key}`), and correct the comment"
            yield Finding("mirror", str(loaded.bibliography.path), line, says, remedy)
    for key, entry in loaded.entries.items():
        for index, source in enumerate(entry.sources):
            if found := BY_WAY.search(source):
                says = f"a source of `{key}` is an answer of a mirror, {found[1]}"
                yield _in_entry(loaded, "mirror", key, ("sources", index), says, "name what was read itself")


def _results(loaded: Loaded, measured: Mapping[str, Measured]) -> Iterator[Finding]:
    for key, known in measured.items():
        if not known.current:
            says = f"the results of `{key}` are of older code or data"
            yield Finding("stale", str(known.path), 1, says, f"measure again: `{known.again.format(key)}`")
        entry = loaded.entries.get(key)
        for index, claim in enumerate(entry.claims if entry else []):
            lacking = [name for name in claim.tried if not any(_means(name, outcome) for outcome in known.outcomes)]
            if lacking:
                says = f"no result has the outcome “{lacking[0]}” that would try this claim of `{key}`"
                remedy = f"correct its name in `tried`, or measure again: `{known.again.format(key)}`"
                yield _in_entry(loaded, "claim without outcome", key, ("claims", index), says, remedy)


def _unmeasured(loaded: Loaded, measured: Mapping[str, Measured]) -> Iterator[Finding]:
    """Yield methods whose entry names outcomes that try its claims, though no result of them is kept at all."""
    for key, entry in loaded.entries.items():
        tried = [index for index, claim in enumerate(entry.claims) if claim.tried]
        if tried and key not in measured:
            claims = "the claim that names" if len(tried) == 1 else f"the {len(tried)} claims that name"
            says = f"no result of `{key}` is kept, so nothing tries {claims} outcomes"
            remedy = f"measure it (`eelit bench {key}` on its track, `eelit run {key} --keep` if it is on none)"
            yield _in_entry(loaded, "claim without outcome", key, ("claims", tried[0]), says, remedy)


def _means(name: str, outcome: str) -> bool:
    return name in (outcome, outcome.partition(": ")[2])
