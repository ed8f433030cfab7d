"""Records as reference managers find them in web pages: Highwire tags in the head, and COinS in lists."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlencode

from eelit.bib.record import Record

VENUE_TAGS = {
    "article": "citation_journal_title",
    "inproceedings": "citation_conference_title",
    "incollection": "citation_inbook_title",
    "mastersthesis": "citation_dissertation_institution",
    "phdthesis": "citation_dissertation_institution",
    "techreport": "citation_technical_report_institution",
}
COINS_GENRES = {"article": "article", "inproceedings": "proceeding", "misc": "preprint"}
JOURNAL = "info:ofi/fmt:kev:mtx:journal"
"""COinS know two formats that matter here; that of journals also names proceedings and preprints."""
BOOK = "info:ofi/fmt:kev:mtx:book"


def highwire(record: Record, keywords: Iterable[str] = (), page: str = "") -> list[tuple[str, str]]:
    """Return (name, content) of the `citation_…` tags that Zotero reads; ``page`` is the page's own address, if known.

    A PDF is named only where its address follows from an identifier: it is the original, never a copy of ours.
    """
    first, last = record.ends()
    publisher = record.publisher or ("arXiv" if record.type == "misc" and record.arxiv else "")
    tags = [
        ("citation_title", record.title),
        *(("citation_author", person.inverted) for person in record.authors),
        ("citation_publication_date", str(record.year)),
        (VENUE_TAGS.get(record.type, ""), record.venue),
        ("citation_volume", record.volume),
        ("citation_issue", record.number),
        ("citation_firstpage", first),
        ("citation_lastpage", last),
        ("citation_publisher", publisher),
        ("citation_doi", record.doi),
        ("citation_arxiv_id", record.arxiv),
        ("citation_keywords", "; ".join(keywords)),
        ("citation_abstract_html_url", page),
        ("citation_pdf_url", pdf(record)),
    ]
    return [(name, content) for name, content in tags if name and content]


def pdf(record: Record) -> str:
    """Return the address of the original PDF where it follows from an identifier, else nothing."""
    if record.acl:
        return f"https://aclanthology.org/{record.acl}.pdf"
    if record.arxiv:
        return f"https://arxiv.org/pdf/{record.arxiv}"
    return f"https://openreview.net/pdf?id={record.openreview}" if record.openreview else ""


def coins(record: Record) -> str:
    """Return the title of a COinS span (``<span class="Z3988" title="…">``), not yet escaped for HTML."""
    book = record.type in ("book", "incollection")
    first, last = ("", "") if record.has_ranges else record.ends()
    fields = [
        ("ctx_ver", "Z39.88-2004"),
        ("rft_val_fmt", BOOK if book else JOURNAL),
        ("rft.genre", "book" if book else COINS_GENRES.get(record.type, "unknown")),
        ("rft.btitle" if book else "rft.atitle", record.title),
        *_first_author(record),
        *(("rft.au", str(person)) for person in record.authors),
        ("rft.date", str(record.year)),
        ("rft.jtitle", "" if book else record.venue),
        ("rft.volume", record.volume),
        ("rft.issue", record.number),
        ("rft.spage", first),
        ("rft.epage", last),
        ("rft.pages", record.pages if record.has_ranges else ""),
        ("rft_id", f"info:doi/{record.doi}" if record.doi else next((url for _, url in record.links()), "")),
    ]
    return urlencode([(name, value) for name, value in fields if value])


def _first_author(record: Record) -> list[tuple[str, str]]:
    """Return the name that a list is sorted by; that of a body is not taken apart."""
    if not record.authors:
        return []
    first = record.authors[0]
    if first.corporate:
        return [("rft.aucorp", first.family)]
    return [("rft.aulast", first.family), ("rft.aufirst", first.given)]
