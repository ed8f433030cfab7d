"""What the bibliography knows of one work. Standard library only, so that reading a record costs nothing."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any
from urllib.parse import quote

ET_AL = "et al."
PLAIN_IN_ADDRESSES = "/:;()"  # the other signs of old DOIs (`<`, `>`, `#`) would end or change an address


@dataclass(frozen=True)
class Person:
    """An author; `family` holds particles too ("van den Berg"), `suffix` such things as "Jr.".

    Of a body ("World Health Organization") `family` is the whole name, which nobody may take apart.
    """

    family: str
    given: str = ""
    suffix: str = ""
    corporate: bool = False

    def __str__(self) -> str:
        return " ".join(part for part in (self.given, self.family, self.suffix) if part)

    @property
    def inverted(self) -> str:
        """The name as lists sort it: `Zhou, Wangchunshu`."""
        return ", ".join(part for part in (self.family, self.given, self.suffix) if part)


@dataclass(frozen=True)
class Record:
    """A bibliographic record in plain Unicode; `tex` keeps the fields as they stand in the BibTeX file.

    Pages are ranges with an en dash, the arXiv identifier is bare, and `et_al` tells of authors who are not named.
    """

    key: str
    type: str
    title: str
    authors: tuple[Person, ...]
    year: int
    venue: str = ""
    volume: str = ""
    number: str = ""
    pages: str = ""
    articleno: str = ""
    publisher: str = ""
    doi: str = ""
    arxiv: str = ""
    acl: str = ""
    openreview: str = ""
    url: str = ""
    tex: tuple[tuple[str, str], ...] = ()
    et_al: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return the record as JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Record:
        """Return the record that `to_dict` wrote."""
        authors = tuple(Person(**person) for person in data["authors"])
        tex = tuple((name, value) for name, value in data["tex"])
        return cls(**{**data, "authors": authors, "tex": tex})

    def links(self) -> list[tuple[str, str]]:
        """Return (label, address) of every place where the work can be read, the version of record first."""
        found = [
            ("DOI", self.doi and f"https://doi.org/{quote(self.doi, safe=PLAIN_IN_ADDRESSES)}"),
            ("ACL Anthology", self.acl and f"https://aclanthology.org/{self.acl}/"),
            ("arXiv", self.arxiv and f"https://arxiv.org/abs/{self.arxiv}"),
            ("OpenReview", self.openreview and f"https://openreview.net/forum?id={self.openreview}"),
            ("publisher", self.url),
        ]
        return [(label, address) for label, address in found if address]

    @property
    def has_ranges(self) -> bool:
        """Whether the pages do not follow each other from a first to a last: `1–5, 9–12`."""
        return "," in self.pages

    def ends(self) -> tuple[str, str]:
        """Return the page on which the work begins, and the one on which it ends if that is another."""
        first = self.pages.split(", ")[0].partition("–")[0]
        last = self.pages.split(", ")[-1].rpartition("–")[2]
        return first, "" if last == first else last

    def short_authors(self) -> str:
        """Return the authors as in running text: `Zhou et al.`, `Phuong and Lampert`."""
        families = [person.family for person in self.authors]
        if len(families) > 2 or self.et_al:
            return f"{families[0]} {ET_AL}"
        return " and ".join(families)

    def titled(self, name: str) -> str:
        """Return the title under a name of the work, said once: many titles begin with it (`SEE: Scheduling …`)."""
        if self.title.casefold().startswith(name.casefold()):
            return self.title
        head, _, rest = self.title.partition(": ")
        return f"{name}: {rest if rest and name.casefold().startswith(head.casefold()) else self.title}"

    def author_names(self) -> list[str]:
        """Return the names of all authors, and `et al.` where the list is known to go on."""
        return [*map(str, self.authors), *([ET_AL] if self.et_al else [])]
