"""Ask every service for one work, and keep apart what they say of another."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from eelit.bib.alike import folded
from eelit.bib.identifiers import ARXIV as ARXIV_ID
from eelit.bib.record import Record
from eelit.bib.remote import arxiv, crossref, dblp, openalex, semanticscholar
from eelit.bib.remote.said import ARXIV_DOI, YEARS_APART, Said, bare_arxiv, bare_doi, is_same, same
from eelit.bib.remote.services import ARXIV, CROSSREF, DBLP, OPENALEX, SEMANTIC_SCHOLAR, Service
from eelit.bib.remote.web import Unanswered, Web

DOI_WITHIN = re.compile(r"10\.\d{4,9}/[^\s?#]+")
WITHOUT_SCHEME = re.compile(r"[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}/\S+", re.IGNORECASE)
STAMP = re.compile(rf"arxiv:\s*(?:{ARXIV_ID.pattern})(?:v\d+)?(?=\s+\[)", re.IGNORECASE)
"""What stands at the margin of a preprint: `arXiv:2004.02178v2 [cs.CL] 29 Apr 2020`."""
ALMOST = (
    (re.compile(r"(?:doi:\s*)?10\.\S*", re.IGNORECASE), "DOI", "10.18653/v1/2020.acl-main.204"),
    (re.compile(r"(?:arxiv:\s*)?\d[\d.]*(?:v\d+)?|arxiv:\s*\S*", re.IGNORECASE), "arXiv id", "2004.02178"),
)
"""What was meant for an identifier, what it should have been, and an example of that."""
NUMBER = re.compile(r"W\d+", re.IGNORECASE)
"""What OpenAlex calls a work, as `eelit sync --new` shows it where there is no DOI."""
OF_ARXIV = ("huggingface.co", "ar5iv.org", "ar5iv.labs.arxiv.org", "alphaxiv.org", "arxiv.org", "semanticscholar.org")
"""Sites whose addresses end in an arXiv id."""
AT_ITS_END = re.compile(rf"(?:^|[/:])({ARXIV_ID.pattern})(?:v\d+)?(?:\.pdf)?$")
ACL = "aclanthology.org"
ACL_DOI = "10.18653/v1/"

MODULES = {CROSSREF: crossref, ARXIV: arxiv, OPENALEX: openalex, DBLP: dblp, SEMANTIC_SCHOLAR: semanticscholar}
"""Which module asks a service."""


class Given(NamedTuple):
    """What a user gave to look for."""

    kind: Literal["doi", "arxiv", "title", "openalex", "semanticscholar", "dblp"]
    value: str


class NoWork(Exception):
    """What was given names no work; the message says what to give."""


@dataclass
class Gathered:
    """What services say of a work, what they answered that is another work, and which could not be asked."""

    saids: list[Said] = field(default_factory=list)
    others: list[Said] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)
    by_way: str = ""  # of a mirror
    silent: set[Service] = field(default_factory=set)  # those with a trouble
    choices: list[Said] = field(default_factory=list)  # different works with the title that was given


def given(text: str) -> Given:
    """Return what a text names: a DOI, an arXiv id, OpenAlex's number, an address of one of them, or else a title."""
    text = " ".join(text.split())
    bare = text.rstrip(".,;")  # of the sentence from which it was copied
    if re.match(r"https?://", text, re.IGNORECASE):
        return _in_address(bare)
    stamp = STAMP.match(bare)
    if found := bare_arxiv(stamp[0] if stamp else bare):
        return Given("arxiv", found)
    if found := bare_doi(bare):
        return Given("doi", found)
    for shape, what, example in ALMOST:
        if shape.fullmatch(bare):
            raise NoWork(f"`{text}` is no {what} (one looks like {example}); correct it, or give the title")
    if NUMBER.fullmatch(text):
        return Given("openalex", text.upper())
    if WITHOUT_SCHEME.fullmatch(text):
        return _in_address(f"https://{bare}")
    if len(folded(text)) < 4:
        raise NoWork(f"`{text}` is too short for a title; give a DOI, an arXiv id, an address or the whole title")
    return Given("title", text)


def _in_address(text: str) -> Given:
    """Return what an address leads to; what follows `?` or `#` says only how it is shown."""
    parts = urlsplit(text)
    host, path = (parts.hostname or "").removeprefix("www."), unquote(parts.path).rstrip("/")
    if host.endswith(ACL) and path:
        return Given("doi", f"{ACL_DOI}{path.strip('/').removesuffix('.pdf')}".lower())
    if found := bare_arxiv(f"https://{host}{path}"):
        return Given("arxiv", found)
    if any(f".{host}".endswith(f".{site}") for site in OF_ARXIV) and (at_end := AT_ITS_END.search(path)):
        return Given("arxiv", at_end[1])
    if own := _of_a_service(host, path):
        return own
    if within := DOI_WITHIN.search(path):
        return Given("doi", re.sub(r"/(?:full|pdf|abstract|epdf)$|\.pdf$", "", within[0].rstrip("/")).lower())
    raise NoWork(f"the address {text} holds neither a DOI nor an arXiv id; give one of them, or the title")


def _of_a_service(host: str, path: str) -> Given | None:
    """Return what an address of OpenAlex, Semantic Scholar or DBLP calls a work."""
    last = path.rpartition("/")[2]
    if host.endswith("openalex.org") and NUMBER.fullmatch(last):
        return Given("openalex", last.upper())
    if host.endswith("semanticscholar.org") and re.fullmatch(r"[0-9a-f]{40}|CorpusID:\d+", last, re.IGNORECASE):
        return Given("semanticscholar", last)
    if host in ("dblp.org", "dblp.uni-trier.de", "dblp.dagstuhl.de") and path.startswith("/rec/"):
        name = re.sub(r"\.(?:html|bib|xml)$", "", path.removeprefix("/rec/").removeprefix("bib/"))
        preprint = re.fullmatch(r"journals/corr/abs-(\d{4})-(\d{4,5})", name)
        return Given("arxiv", f"{preprint[1]}.{preprint[2]}") if preprint else Given("dblp", name)
    return None


def duplicates(records: Iterable[Record], found: Said) -> list[str]:
    """Return the keys of the works that are this one: of the same DOI or arXiv id, or title, first author and year."""
    return [
        record.key
        for record in records
        if (found.doi and record.doi.lower() == found.doi.lower())
        or (found.arxiv and found.arxiv in (record.arxiv, record.doi.lower().removeprefix(ARXIV_DOI)))
        or (found.authors and found.year is not None and is_same(record, found))
    ]


def titled(records: Iterable[Record], title: str) -> list[str]:
    """Return the keys of the works with this title; whether one of them is meant is for a person to say."""
    mark = folded(title)
    return [record.key for record in records if mark and folded(record.title) == mark]


def at(records: Iterable[Record], address: str) -> list[str]:
    """Return the keys of the works whose record gives this address."""
    mark = _place(address)
    return [record.key for record in records if mark and any(_place(link) == mark for _, link in record.links())]


def _place(address: str) -> tuple[str, str, str]:
    """Return host, path and query of an address, by which two spellings of it are one; of no address, nothing."""
    if not re.match(r"https?://", address, re.IGNORECASE):
        address = f"https://{address}" if WITHOUT_SCHEME.fullmatch(address) else ""
    parts = urlsplit(address)
    host = (parts.hostname or "").removeprefix("www.")
    return (host, unquote(parts.path).rstrip("/"), parts.query) if host else ("", "", "")


def gather(web: Web, wanted: Given, *, person_has: str = "") -> Gathered:
    """Ask for a work by what was given, then by what the answers add to it.

    `person_has` is a title that is known: what speaks of another is set aside.
    """
    found = Gathered(by_way=web.manners.by_way)
    if wanted.kind == "title":
        _by_title(web, wanted.value, found)
    elif wanted.kind == "doi":
        _by_doi(web, wanted.value, found)
    elif wanted.kind == "arxiv":
        _by_arxiv(web, wanted.value, found)
    else:
        _by_name(web, wanted, found)
    _follow(web, found)
    _set_apart(found, person_has or (wanted.value if wanted.kind == "title" else ""))
    return found


Ask = tuple[Service, Callable[[], Said | list[Said] | None]]


def _asked(found: Gathered, asks: Iterable[Ask]) -> Iterator[Said]:
    """Yield the answers; a service that had a trouble in this run is not asked again, it would be the same."""
    for service, ask in asks:
        if service in found.silent:
            continue
        try:
            answer = ask()
        except Unanswered as error:
            found.silent.add(service)
            if str(error) not in found.troubles:
                found.troubles.append(str(error))
            continue
        yield from answer if isinstance(answer, list) else [answer] if answer else []


def _by_title(web: Web, title: str, found: Gathered) -> None:
    asks: list[Ask] = [(service, partial(of.by_title, web, title)) for service, of in MODULES.items()]
    fitting: list[Said] = []
    for said in _asked(found, asks):
        fits = folded(said.title) == folded(title)
        (found.saids if fits and _new(said, found.saids) else found.others).append(said)
        if fits:
            fitting.append(said)
    found.others = [said for said in found.others if folded(said.title) != folded(title)]
    if any(_are_two(one, other) for one in fitting for other in fitting):
        found.choices, found.saids = fitting, []


def _by_doi(web: Web, doi: str, found: Gathered) -> None:
    if preprint := bare_arxiv(doi):
        _by_arxiv(web, preprint, found)
        return
    asks: list[Ask] = [
        (service, partial(of.by_doi, web, doi)) for service, of in MODULES.items() if service is not ARXIV
    ]
    for said in _asked(found, asks):
        wrong = said.service == CROSSREF.label and said.doi != doi.lower()
        (found.others if wrong else found.saids).append(said)


def _by_arxiv(web: Web, preprint: str, found: Gathered) -> None:
    asks: list[Ask] = [
        (service, partial(MODULES[service].by_arxiv, web, preprint)) for service in (ARXIV, OPENALEX, SEMANTIC_SCHOLAR)
    ]
    found.saids += _asked(found, asks)


def _by_name(web: Web, wanted: Given, found: Gathered) -> None:
    """Ask the service that calls a work so, then all by the DOI, the arXiv id or the title that it tells."""
    by_id = {
        "openalex": (OPENALEX, openalex.by_number),
        "semanticscholar": (SEMANTIC_SCHOLAR, semanticscholar.by_id),
        "dblp": (DBLP, dblp.by_key),
    }
    service, by_name = by_id[wanted.kind]
    first = next(_asked(found, [(service, lambda: by_name(web, wanted.value))]), None)
    if first is None:
        return
    if first.doi:
        _by_doi(web, first.doi, found)
    elif first.arxiv:
        _by_arxiv(web, first.arxiv, found)
    else:
        _by_title(web, first.title, found)
        found.saids += [said for said in found.choices if not _are_two(first, said) and _new(said, found.saids)]
        found.choices = []  # what was given tells which of them is meant
    found.saids = [first, *(said for said in found.saids if said.service != first.service)]


def _follow(web: Web, found: Gathered) -> None:
    """Ask for the published version of a preprint, for the preprint of a published one, and DBLP for the venue."""
    doi = next((said.doi for said in found.saids if said.doi), "")
    preprint = next((said.arxiv for said in found.saids if said.arxiv), "")
    asks: list[Ask] = []
    if doi and not any(said.service == CROSSREF.label for said in [*found.saids, *found.others]):
        asks.append((CROSSREF, lambda: crossref.by_doi(web, doi)))
    if preprint and not any(said.service == ARXIV.label for said in found.saids):
        asks.append((ARXIV, lambda: arxiv.by_arxiv(web, preprint)))
    title = found.saids[0].title if found.saids else ""
    if title and not any(said.service == DBLP.label for said in found.saids):
        asks.append(
            (DBLP, lambda: [said for said in dblp.by_title(web, title) if folded(said.title) == folded(title)][:1])
        )
    found.saids += _asked(found, asks)


def _set_apart(found: Gathered, title: str) -> None:
    """Leave among what is said of the work only what agrees with the first (or with a title that is known)."""
    first = next((said for said in found.saids if not title or folded(said.title) == folded(title)), None)
    if first is None:
        found.others, found.saids = found.saids + found.others, []
        return
    agreeing = [said for said in found.saids if said is first or _agrees(first, said)]
    found.others = [said for said in found.saids if said not in agreeing] + found.others
    found.saids = agreeing


def _agrees(first: Said, said: Said) -> bool:
    """Tell whether both may be the same work: equal titles, or a retitled version by the same first author."""
    if same(first.title, first.authors, first.year, said):
        return True
    linked = (first.doi and first.doi == said.doi) or (first.arxiv and first.arxiv == said.arxiv)
    alike = first.authors and said.authors and folded(first.authors[0].family) == folded(said.authors[0].family)
    near = first.year is None or said.year is None or abs(first.year - said.year) <= YEARS_APART
    return bool(linked and alike and near)


def _are_two(one: Said, other: Said) -> bool:
    """Tell whether two answers of one title speak of two works: of another first author, year or DOI.

    A preprint and its published version have one first author each, and of DOIs only the latter has one.
    """
    return not same(one.title, one.authors, one.year, other) or bool(one.doi and other.doi and one.doi != other.doi)


def _new(said: Said, known: Iterable[Said]) -> bool:
    """One answer per service is enough, the first."""
    return said.service not in {other.service for other in known}
