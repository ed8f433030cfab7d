"""What search engines and agents read in a page: schema.org as JSON-LD, one graph per page."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from eelit.bib.record import Person, Record
from eelit.catalog.schema import FACETS, Facet
from eelit.methods.harness.summary import Row
from eelit.site.generator.collection import Collection, Method, Term, Work

Node = dict[str, Any]
ARTICLES = {"article": "Periodical", "inproceedings": "PublicationVolume"}
CODE_LICENCE = "https://www.apache.org/licenses/LICENSE-2.0"
DATA_LICENCE = "https://creativecommons.org/licenses/by/4.0/"
DOWNLOADS = {
    "bibliography.bib": "application/x-bibtex",
    "bibliography.ris": "application/x-research-info-systems",
    "bibliography.json": "application/vnd.citationstyles.csl+json",
    "api/v1/index.json": "application/json",
    "graph.graphml": "application/graphml+xml",
}
"""What of the whole catalogue can be had in one file."""


def graph(nodes: Iterable[Node]) -> str:
    """Return the nodes as one JSON-LD document that may stand in a script element, whatever the texts hold."""
    document = {"@context": "https://schema.org", "@graph": [_bare(node) for node in nodes]}
    text = json.dumps(document, ensure_ascii=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def _bare(node: Node) -> Node:
    """Leave out what is not known."""
    return {name: value for name, value in node.items() if value not in (None, "", [], {})}


def paper(collection: Collection, work: Work, root: str) -> list[Node]:
    """Return a work as ScholarlyArticle; ``root`` is the site's address, or the way to it from the page."""
    record = work.record
    named = [
        _bare({"@type": "PropertyValue", "propertyID": scheme, "value": value})
        for scheme, value in (("doi", record.doi), ("arXiv", record.arxiv), ("ACL", record.acl))
        if value
    ]
    about = [_term_id(root, facet, name) for facet in FACETS for name in getattr(work.entry, facet)]
    return [
        {
            "@type": "ScholarlyArticle",
            "@id": f"{root}papers/{work.key}.html",
            "headline": record.title,
            "name": record.title,
            "alternateName": work.entry.short_name,
            "author": [_author(person) for person in record.authors],
            "creditText": ", ".join(record.author_names()) if record.et_al else None,  # the vocabulary has no "et al."
            "datePublished": str(record.year),
            "isPartOf": _venue(record),
            "identifier": named,
            "sameAs": [address for _, address in record.links()],
            "about": [{"@id": name} for name in about],
            "citation": [{"@id": f"{root}papers/{edge.cited}.html"} for edge in work.cites if edge.is_citation],
            "workExample": {"@id": f"{root}methods/{work.key}.html"} if work.key in collection.methods else None,
        }
    ]


def _author(person: Person) -> Node:
    if person.corporate:
        return {"@type": "Organization", "name": person.family}
    return _bare({"@type": "Person", "givenName": person.given, "familyName": person.family, "name": str(person)})


def _venue(record: Record) -> Node | None:
    return {"@type": ARTICLES.get(record.type, "CreativeWork"), "name": record.venue} if record.venue else None


def facet(facet: Facet, terms: Iterable[Term], says: str, root: str) -> list[Node]:
    """Return a facet as DefinedTermSet with its terms."""
    whole = f"{root}taxonomy/{facet}.html"
    nodes: list[Node] = [{"@type": "DefinedTermSet", "@id": whole, "name": facet.capitalize(), "description": says}]
    for term in terms:
        nodes.append(
            {
                "@type": "DefinedTerm",
                "@id": _term_id(root, facet, term.name),
                "termCode": term.name,
                "name": term.definition.label,
                "description": term.definition.definition,
                "inDefinedTermSet": {"@id": whole},
            }
        )
    return nodes


def _term_id(root: str, facet: Facet, name: str) -> str:
    return f"{root}taxonomy/{facet}.html#{name}"


def method(method: Method, root: str, repository: str) -> list[Node]:
    """Return a method as SoftwareSourceCode that is based on its paper."""
    return [
        {
            "@type": "SoftwareSourceCode",
            "@id": f"{root}methods/{method.key}.html",
            "name": method.info.title.rstrip("."),
            "programmingLanguage": "Python",
            "runtimePlatform": "PyTorch",
            "codeRepository": repository,
            "license": CODE_LICENCE,
            "isBasedOn": {"@id": f"{root}papers/{method.key}.html"},
        }
    ]


def catalogue(collection: Collection, root: str, version: str, modified: str) -> list[Node]:
    """Return the whole catalogue as Dataset with what can be downloaded of it."""
    return [
        {
            "@type": "Dataset",
            "@id": f"{root}index.html",
            "name": "eelit: the early-exit literature",
            "description": f"{len(collection.works)} works on early-exit neural networks, described in a typed "
            f"taxonomy, with citation edges and {len(collection.methods)} implementations that run.",
            "license": DATA_LICENCE,
            "version": version,
            "dateModified": modified,
            "creator": {"@type": "Organization", "name": "The eelit authors"},
            "keywords": ["early exit", "adaptive depth", "dynamic inference"],
            "distribution": [
                {"@type": "DataDownload", "encodingFormat": kind, "contentUrl": f"{root}{name}"}
                for name, kind in DOWNLOADS.items()
            ],
        }
    ]


def track(name: str, title: str, rows: Iterable[Row], root: str) -> list[Node]:
    """Return what was measured on a track as Dataset with its variables."""
    listed = list(rows)
    qualities = list(dict.fromkeys(row.quality for row in listed))
    costs = dict.fromkeys(f"mean cost per sample in {row.unit}" for row in listed)
    measured = [*qualities, *costs, "seconds beside the full model's"] if listed else []
    return [
        {
            "@type": "Dataset",
            "@id": f"{root}tracks/{name}.html",
            "name": f"eelit, {title}",
            "description": "Early-exit methods measured by one harness: quality against computation, several seeds.",
            "license": DATA_LICENCE,
            "creator": {"@type": "Organization", "name": "The eelit authors"},
            "variableMeasured": measured,
            "measurementTechnique": "cost counted from outside while samples really leave early; where a network is "
            "divided between a device and the cloud, the device's, with a set price for each sample sent",
            "distribution": [
                {
                    "@type": "DataDownload",
                    "encodingFormat": "application/json",
                    "contentUrl": f"{root}api/v1/tracks/{name}.json",
                }
            ],
        }
    ]
