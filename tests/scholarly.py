"""A server on this machine that answers as Crossref, arXiv, OpenAlex, DBLP and Semantic Scholar do, and fails so too.

`python tests/scholarly.py [SECONDS]` serves the works of the catalogue and one more, for an hour if no time is given,
and prints its address: with that in EELIT_MIRROR `eelit add` and `eelit sync` can be tried by hand.
"""

import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PER_PAGE = 2
"""References on a page of Semantic Scholar, so that a few make several; other services are asked for what fits."""


@dataclass
class Work:
    """A work of the server's world. What a service does not know of it is left out there."""

    number: str  # OpenAlex's
    title: str
    authors: list = field(default_factory=lambda: [("Ada", "Example")])
    year: int = 2020
    doi: str = ""
    arxiv: str = ""
    venue: str = ""
    pages: str = ""
    cites: list = field(default_factory=list)  # numbers
    loose: list = field(default_factory=list)  # references that Crossref has without a DOI
    unmatched: int = 1  # references that Semantic Scholar has, but cannot tell whose
    unknown_to: tuple = ()
    said: dict = field(default_factory=dict)  # service → what it says otherwise

    def as_(self, service):
        return Work(**(vars(self) | self.said.get(service, {}) | {"said": {}}))


def status(code, headers=None, body=b""):
    """Return a script that answers so once."""
    return lambda handler, answer: handler.give(code, body, headers=headers or {})


def slow(seconds):
    def script(handler, answer):
        time.sleep(seconds)
        handler.give(*answer)

    return script


def truncated(handler, answer):
    """Say less than was announced."""
    handler.give(answer[0], answer[1], announced=len(answer[1]) + 50, kind=answer[2])


def cut(handler, answer):
    """Say half of it, and announce no more: JSON that breaks off."""
    handler.give(answer[0], answer[1][: len(answer[1]) // 2], kind=answer[2])


def instead(data, kind="application/json"):
    """Answer with other data."""
    body = data if isinstance(data, bytes) else json.dumps(data).encode()
    return lambda handler, answer: handler.give(200, body, kind=kind)


def dropped(handler, answer):
    """Close the connection without a word."""
    handler.close_connection = True


class Server:
    """Serves works; `scripts` say what happens instead, first match first, each once (or always, if `always`)."""

    def __init__(self, works):
        self.works = {work.number: work for work in works}
        self.scripts, self.always = [], []
        self.asked, self.agents, self.keys, self.revalidated = [], set(), {}, 0
        self.delay, self.closed = 0.0, False
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = -1  # one packet per answer

            def do_GET(self):
                server.serve(self)

            def do_HEAD(self):
                server.serve(self)

            def do_POST(self):
                server.serve(self)

            def give(self, code, body=b"", kind="application/json", headers=None, announced=None):
                tag = f'"{hashlib.md5(body).hexdigest()}"'
                if code == 200 and self.headers.get("If-None-Match") == tag:
                    server.revalidated += 1
                    code, body = 304, b""
                self.send_response(code)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body) if announced is None else announced))
                if code in (200, 304):
                    self.send_header("ETag", tag)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
                if announced is not None:
                    self.close_connection = True

            def log_message(self, *words):
                pass

        class Quiet(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *words):  # a client that was killed is no fault here
                pass

        self.http = Quiet(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self):
        if not self.closed:
            self.closed = True
            self.http.shutdown()
            self.http.server_close()

    def counts(self):
        return Counter(path.split("/")[1] for path in self.asked)

    def serve(self, handler):
        parts = urlsplit(handler.path)
        self.asked.append(unquote(handler.path))
        self.agents.add(handler.headers.get("User-Agent", ""))
        time.sleep(self.delay)
        _, service, *rest = parts.path.split("/", 2)
        if key := handler.headers.get("Authorization") or handler.headers.get("x-api-key"):
            self.keys[service] = key
        params = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if handler.command == "POST":
            params |= json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        answer = self.answer(service, unquote(rest[0]) if rest else "", params, handler.headers)
        for pattern, script in self.always:
            if re.search(pattern, unquote(handler.path)):
                script(handler, answer)
                return
        for index, (pattern, script) in enumerate(self.scripts):
            if re.search(pattern, unquote(handler.path)):
                del self.scripts[index]
                script(handler, answer)
                return
        handler.give(*answer)

    def answer(self, service, path, params, headers):
        if service not in ("crossref", "openalex", "arxiv", "dblp", "semanticscholar"):
            return 404, b"no such service", "text/plain"
        known = [work.as_(service) for work in self.works.values() if service not in work.unknown_to]
        found = getattr(self, service)(known, path, params, headers)
        if found is None:
            return 404, b"Resource not found.", "text/plain"
        if isinstance(found, tuple):
            return found
        if isinstance(found, str):
            return 200, found.encode(), "application/atom+xml; charset=utf-8"
        return 200, json.dumps(found).encode(), "application/json"

    def crossref(self, known, path, params, headers):
        known = [work for work in known if work.doi]
        if path == "works":
            return {"status": "ok", "message": {"items": [self.deposit(work) for work in near(known, params)]}}
        found = [work for work in known if path == f"works/{work.doi}"]
        return {"status": "ok", "message-type": "work", "message": self.deposit(found[0])} if found else None

    def deposit(self, work):
        cited = [self.works[number] for number in work.cites]
        references = [{"key": "r", "DOI": other.doi, "doi-asserted-by": "crossref"} for other in cited if other.doi]
        references += [{"key": "u", **loose} for loose in work.loose]
        deposit = {
            "DOI": work.doi.upper(),
            "type": "proceedings-article",
            "title": [work.title.replace("&", "&amp;")],
            "container-title": [work.venue] if work.venue else [],
            "author": [{"given": given, "family": family, "sequence": "first"} for given, family in work.authors],
            "issued": {"date-parts": [[work.year, 6]]},
            "page": work.pages,
            "reference-count": len(references),
        }
        return deposit | ({"reference": references} if references else {})

    def openalex(self, known, path, params, headers):
        if path.startswith("works/doi:"):
            doi = path.removeprefix("works/doi:").lower()
            found = [work for work in known if doi in (work.doi, f"10.48550/arxiv.{work.arxiv}")]
            return self.open(found[0]) if found else None
        if path.startswith("works/W"):
            found = [work for work in known if path == f"works/{work.number}"]
            return self.open(found[0]) if found else None
        wanted = params.get("filter", "")
        if wanted.startswith("title.search:"):
            return {"meta": {"count": 1}, "results": [self.open(work) for work in near(known, params)]}
        numbers = set(wanted.removeprefix("cites:").split("|"))
        citing = [work for work in known if numbers & set(work.cites)]
        if "cursor" in params and not headers.get("Authorization"):
            return 401, b'{"error": "cursor paging needs a key"}', "application/json"
        start = int(params["page"]) - 1 if "page" in params else 0 if params["cursor"] == "*" else int(params["cursor"])
        per = int(params["per_page"])
        page = citing[start * per : (start + 1) * per]
        more = str(start + 1) if (start + 1) * per < len(citing) else None
        return {
            "meta": {"count": len(citing), "next_cursor": more if "cursor" in params else None},
            "results": [self.open(work) for work in page],
        }

    def open(self, work):
        doi = work.doi or (f"10.48550/arxiv.{work.arxiv}" if work.arxiv else "")
        venue = {"display_name": work.venue or "arXiv (Cornell University)", "type": "conference"}
        places = [{"landing_page_url": f"http://arxiv.org/abs/{work.arxiv}v2"}] if work.arxiv else []
        return {
            "id": f"https://openalex.org/{work.number}",
            "doi": f"https://doi.org/{doi}" if doi else None,
            "title": work.title,
            "publication_year": work.year,
            "type": "article",
            "authorships": [{"author": {"display_name": f"{given} {family}"}} for given, family in work.authors],
            "primary_location": {"landing_page_url": None, "source": venue},
            "locations": places,
            "biblio": {"volume": None, "first_page": None},
            "referenced_works": [f"https://openalex.org/{number}" for number in work.cites],
            "referenced_works_count": len(work.cites),
        }

    def arxiv(self, known, path, params, headers):
        known = [work for work in known if work.arxiv]
        if "id_list" in params:
            found = [work for work in known if work.arxiv in params["id_list"].split(",")]
            found = found[: int(params["max_results"])]
        else:
            found = near(known, {"query": params["search_query"].removeprefix("ti:").strip('"')})
        return FEED.format("".join(self.atom(work) for work in found))

    def atom(self, work):
        names = "".join(f"<author><name>{given} {family}</name></author>" for given, family in work.authors)
        doi = f"<arxiv:doi>{work.doi}</arxiv:doi>" if work.doi else ""
        title = escape(work.title).replace(" ", "\n  ", 1)
        return ATOM.format(work.arxiv, work.year, title, names, doi)

    def dblp(self, known, path, params, headers):
        if path.startswith("rec/"):
            found = [work for work in known if path == f"rec/conf/ex/{work.number}.bib"]
            text = "".join(f"@inproceedings{{DBLP:x,\n  title = {{{work.title}}}\n}}\n" for work in found)
            return (200, text.encode(), "text/x-bibtex") if found else None
        found = [work for work in known if work.doi and work.doi in params["q"].lower()] or near(known, params)
        hits = [{"@score": "1", "info": self.record(work)} for work in found]
        return {"result": {"hits": {"@total": str(len(hits)), **({"hit": hits} if hits else {})}}}

    def record(self, work):
        authors = [{"@pid": "0", "text": f"{given} {family} 0002"} for given, family in work.authors]
        return {
            "authors": {"author": authors if len(authors) > 1 else authors[0]},
            "title": f"{escape(work.title)}.",
            "venue": work.venue or "CoRR",
            "volume": "" if work.venue else f"abs/{work.arxiv}",
            "pages": work.pages,
            "year": str(work.year),
            "type": "Conference and Workshop Papers" if work.venue else "Informal and Other Publications",
            "key": f"conf/ex/{work.number}",
            **({"doi": work.doi.upper()} if work.doi else {}),
        }

    def semanticscholar(self, known, path, params, headers):
        if path == "paper/batch":
            by_name = {name: work for work in known for name in (f"DOI:{work.doi}", f"ARXIV:{work.arxiv}")}
            return [self.paper(by_name[name]) if name in by_name else None for name in params["ids"]]
        if path == "paper/search/match":
            found = near(known, params)
            return {"data": [self.paper(work) for work in found[:1]]} if found else None
        name, asks = path.removeprefix("paper/").removesuffix("/references"), path.endswith("/references")
        found = [
            work for work in known if name in (f"DOI:{work.doi}", f"ARXIV:{work.arxiv}", self.paper(work)["paperId"])
        ]
        if not found or not asks:
            return self.paper(found[0]) if found else None
        start = int(params["offset"])
        cited = [self.paper(self.works[number].as_("semanticscholar")) for number in found[0].cites]
        cited += [{"paperId": None, "title": "What could not be matched", "externalIds": None}] * found[0].unmatched
        page = {"offset": start, "data": [{"citedPaper": paper} for paper in cited[start : start + PER_PAGE]]}
        return page | ({"next": start + PER_PAGE} if start + PER_PAGE < len(cited) else {})

    def paper(self, work):
        ids = {"DOI": work.doi} if work.doi else {}
        ids |= {"ArXiv": work.arxiv} if work.arxiv else {}
        return {
            "paperId": hashlib.sha1(work.number.encode()).hexdigest(),
            "externalIds": ids,
            "title": work.title,
            "year": work.year,
            "venue": work.venue or "arXiv.org",
            "authors": [{"name": f"{given} {family}"} for given, family in work.authors],
        }


def near(known, params):
    """Return the works that share most words with what was asked for."""
    asked = params.get("query.bibliographic") or params.get("query") or params.get("q") or params["filter"]
    words = set(re.findall(r"\w+", asked.rpartition("search:")[2].casefold()))
    scores = [(len(words & set(re.findall(r"\w+", work.title.casefold()))), work) for work in known]
    found = [work for score, work in sorted(scores, key=lambda pair: -pair[0]) if score > len(words) / 2]
    return found[:3]


FEED = (
    '<?xml version="1.0" encoding="UTF-8"?><feed xmlns="http://www.w3.org/2005/Atom" '
    'xmlns:arxiv="http://arxiv.org/schemas/atom">{}</feed>'
)
ATOM = (
    "<entry><id>http://arxiv.org/abs/{0}v3</id><published>{1}-01-01T10:00:00Z</published>"
    "<title>{2}</title><summary>Text.</summary>{3}{4}</entry>"
)


def of_catalogue():
    """Return the works of the catalogue, each citing those of its edges, and one that nobody has yet."""
    from eelit.bib.citations import read_citations
    from eelit.bib.read import read_bibliography
    from eelit.catalog.sources import sources

    places = sources()
    records = read_bibliography(places.bibliography).records
    numbers = {key: f"W{index + 1000}" for index, key in enumerate(records)}
    edges = [
        edge for edge in read_citations(places.citations).edges if edge.citing in numbers and edge.cited in numbers
    ]
    works = [
        Work(
            numbers[key],
            record.title,
            [(person.given, person.family) for person in record.authors],
            record.year,
            record.doi.lower(),
            record.arxiv,
            record.venue,
            record.pages,
            [numbers[edge.cited] for edge in edges if edge.citing == key],
        )
        for key, record in records.items()
    ]
    new = "A Work that Nobody Has Yet: on Leaving Early"
    cites = list(numbers.values())[:6]
    return [*works, Work("W9001", new, [("Jo", "Doe")], 2027, "10.5555/nobody.1", "2701.00001", "Conf", "1-9", cites)]


if __name__ == "__main__":
    served = Server(of_catalogue())
    print(served.address, flush=True)
    time.sleep(float(sys.argv[1]) if len(sys.argv) > 1 else 3600)
