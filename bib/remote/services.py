"""The services that are asked, and how each wants to be treated."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

MIRROR = "EELIT_MIRROR"
"""A server that answers for all services, each below its own name: a mirror, or one made for a test."""
CONTACT = "EELIT_CONTACT"
OFFLINE = "EELIT_OFFLINE"
KEYS = {"openalex": "EELIT_OPENALEX_KEY", "semanticscholar": "EELIT_SEMANTICSCHOLAR_KEY"}


@dataclass(frozen=True)
class Service:
    """One service: its address, the seconds between two requests, and how long an answer may be kept."""

    name: str
    label: str
    base: str
    pace: float
    keep: timedelta = timedelta(days=30)
    backoff: float = 1.0  # seconds to wait after a first failure; doubled for each further one
    key_header: str = ""


OPENALEX = Service(
    "openalex", "OpenAlex", "https://api.openalex.org", 0.2, timedelta(days=7), key_header="Authorization"
)
CROSSREF = Service("crossref", "Crossref", "https://api.crossref.org", 0.34)
ARXIV = Service("arxiv", "arXiv", "https://export.arxiv.org/api", 3.0, timedelta(days=1), backoff=30.0)
DBLP = Service("dblp", "DBLP", "https://dblp.org", 2.0)
SEMANTIC_SCHOLAR = Service(
    "semanticscholar",
    "Semantic Scholar",
    "https://api.semanticscholar.org/graph/v1",
    1.1,
    backoff=2.0,
    key_header="x-api-key",
)
SERVICES = (CROSSREF, ARXIV, OPENALEX, DBLP, SEMANTIC_SCHOLAR)


@dataclass(frozen=True)
class Manners:
    """How a run asks: who is to be written to if it is a nuisance, with which keys, of which server."""

    contact: str = ""
    keys: Mapping[str, str] = field(default_factory=dict)
    mirror: str = ""
    timeout: tuple[float, float] = (5.0, 30.0)

    @property
    def host_pace(self) -> float:
        """The seconds between two links to one host that are followed."""
        return 0.0 if self.mirror else 1.0

    @property
    def by_way(self) -> str:
        """What is added to the address of an answer that a mirror gave; a user name and password stay untold."""
        if not self.mirror:
            return ""
        parts = urlsplit(self.mirror)
        return f" by way of {parts._replace(netloc=parts.netloc.rpartition('@')[2]).geturl().rstrip('/')}"

    def base(self, service: Service) -> str:
        """Return the address of a service, or of the mirror that answers for it."""
        return f"{self.mirror.rstrip('/')}/{service.name}" if self.mirror else service.base

    def pace(self, service: Service) -> float:
        """Return the seconds between two requests; a mirror is the user's own."""
        return 0.0 if self.mirror else service.pace

    def backoff(self, service: Service) -> float:
        """Return the seconds to wait after a first failure."""
        return 0.01 if self.mirror else service.backoff


def manners(contact: str = "") -> Manners:
    """Return what the environment says of how to ask."""
    keys = {name: os.environ[variable] for name, variable in KEYS.items() if os.environ.get(variable)}
    return Manners(contact or os.environ.get(CONTACT, ""), keys, os.environ.get(MIRROR, ""))


def offline() -> bool:
    """Tell whether the environment forbids the network."""
    return os.environ.get(OFFLINE, "").lower() not in ("", "0", "no", "false")
