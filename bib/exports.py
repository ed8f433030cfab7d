"""Records as BibTeX, RIS and CSL-JSON, for reference managers and citation processors, and as CSV for tables."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable
from typing import Any

from eelit.bib.record import ET_AL, Person, Record

MORE = "There are more authors (et al.)."
"""What a format says that has no other way to tell that the list of authors goes on."""
RIS_TYPES = {
    "article": "JOUR",
    "book": "BOOK",
    "incollection": "CHAP",
    "inproceedings": "CPAPER",
    "mastersthesis": "THES",
    "misc": "UNPB",
    "phdthesis": "THES",
    "techreport": "RPRT",
}
CSL_TYPES = {
    "article": "article-journal",
    "book": "book",
    "incollection": "chapter",
    "inproceedings": "paper-conference",
    "mastersthesis": "thesis",
    "misc": "article",
    "phdthesis": "thesis",
    "techreport": "report",
}


def to_bibtex(records: Iterable[Record]) -> str:
    """Return the records as a BibTeX file, fields as our own file has them."""
    return "\n".join(_bibtex_record(record) for record in records)


def _bibtex_record(record: Record) -> str:
    fields = ",\n".join(f"  {name} = {{{value}}}" for name, value in record.tex)
    return f"@{record.type}{{{record.key},\n{fields}\n}}\n"


def to_ris(records: Iterable[Record]) -> str:
    """Return the records as RIS; the format asks for CR LF and for two spaces before the dash."""
    return "\r\n".join(_ris_record(record) for record in records)


def _ris_record(record: Record) -> str:
    first, last = (_pages(record), "") if record.has_ranges else record.ends()  # between them RIS knows no gaps
    tags = [("TY", RIS_TYPES[record.type]), ("ID", record.key), ("TI", record.title)]
    tags += [("AU", _ris_name(person)) for person in record.authors]
    tags += [("PY", str(record.year)), ("T2", record.venue), ("VL", record.volume), ("IS", record.number)]
    tags += [("SP", first), ("EP", last), ("C7", record.articleno), ("PB", record.publisher), ("DO", record.doi)]
    tags += [("N1", MORE)] if record.et_al else []
    tags += [("AN", f"arXiv:{record.arxiv}" if record.arxiv else "")]
    tags += [("UR", address) for _, address in record.links()[:1]]
    lines = [f"{tag}  - {value}" for tag, value in tags if value]
    return "\r\n".join([*lines, "ER  - ", ""])


def _pages(record: Record) -> str:
    """Return the pages with hyphens in their ranges, as most have it; not where a page number has one, too."""
    return record.pages if "-" in record.pages else record.pages.replace("–", "-")


def _ris_name(person: Person) -> str:
    """Return a name as RIS has it. A comma splits it there, so the name of a body goes without."""
    return person.family.replace(",", "") if person.corporate else person.inverted


def to_csl(records: Iterable[Record]) -> list[dict[str, Any]]:
    """Return the records as CSL-JSON items, as citeproc, pandoc and Zotero read them."""
    return [_csl_item(record) for record in records]


def to_csl_json(records: Iterable[Record]) -> str:
    """Return the records as a CSL-JSON document."""
    return json.dumps(to_csl(records), ensure_ascii=False, indent=2) + "\n"


def _csl_item(record: Record) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": record.key,
        "type": CSL_TYPES[record.type],
        "title": record.title,
        "author": [*map(_csl_name, record.authors)],
        "issued": {"date-parts": [[record.year]]},
        "container-title": record.venue,
        "volume": record.volume,
        "issue": record.number,
        "page": _pages(record),
        "number": record.articleno,
        "publisher": record.publisher,
        "note": MORE if record.et_al else "",
        "DOI": record.doi,
        "URL": next((address for _, address in record.links()), ""),
    }
    if record.type == "misc" and record.arxiv:
        item |= {"genre": "preprint", "number": f"arXiv:{record.arxiv}", "publisher": "arXiv", "container-title": ""}
    return {name: value for name, value in item.items() if value}


def _csl_name(person: Person) -> dict[str, str]:
    if person.corporate:
        return {"literal": person.family}
    named = {"family": person.family, "given": person.given, "suffix": person.suffix}
    return {name: value for name, value in named.items() if value}


CSV_COLUMNS = ("key", "title", "authors", "year", "venue", "doi", "arxiv", "url")


def to_csv(records: Iterable[Record]) -> str:
    """Return the records as CSV with a header line; several authors are joined by semicolons."""
    out = io.StringIO()
    rows = csv.writer(out)
    rows.writerow(CSV_COLUMNS)
    for record in records:
        authors = "; ".join([*(person.inverted for person in record.authors), *([ET_AL] if record.et_al else [])])
        url = next((address for _, address in record.links()), "")
        rows.writerow([record.key, record.title, authors, record.year, record.venue, record.doi, record.arxiv, url])
    return out.getvalue()


EXPORTS: dict[str, Callable[[Iterable[Record]], str]] = {
    "bibtex": to_bibtex,
    "ris": to_ris,
    "csl-json": to_csl_json,
    "csv": to_csv,
}
