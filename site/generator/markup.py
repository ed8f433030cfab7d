"""Text from the catalogue made safe for Markdown and HTML, and a little typography.

Pages are Markdown files whose headings are Markdown and whose bodies are HTML blocks, which the Markdown processor
leaves as they are. So all but headings, front matter and source code is escaped as HTML, by Jinja, without exception.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from markupsafe import Markup, escape

SPAN = re.compile(r"`([^`]+)`|(https?://[^\s<>\"'`]+)|\barXiv:(\d{4}\.\d{4,5})\b")
# y_i, L_{i-1}, sum_i, x^2: a short base and a short or braced index; longer words are names in code.
INDEXED = re.compile(r"(?<![\w`])([A-Za-zα-ωΑ-Ω]{1,3}|prod|softmax|argmax)([_^])(\{[^{}]+\}|\w{1,2}(?!\w))")
EQUATION = re.compile(r"^\S{1,30}(?:\s[-+*/|·]\s\S{1,24})*\s(?:=|<|>|≤|≥|<=|>=)\s\S")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
QUALIFIERS = {"exact": "", "about": "≈ ", "at-least": "≥ ", "at-most": "≤ "}


def heading(text: str) -> Markup:
    """Return text for a Markdown heading: what could mean something to Markdown or HTML as character references."""
    return Markup("".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in " ".join(text.split())))


def front(text: str) -> Markup:
    """Return text for front matter, which Material puts into HTML unescaped: escaped once, then quoted for YAML."""
    return Markup(json.dumps(str(escape(" ".join(text.split()))), ensure_ascii=False))


def fence(code: str, language: str) -> Markup:
    """Return source code as a fenced block whose fence is longer than anything like it inside."""
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    mark = "`" * max(3, longest + 1)
    return Markup(f"{mark}{language}\n{code.rstrip()}\n{mark}")


def prose(text: str) -> Markup:
    """Return a curator's sentence as HTML: `code` set as code, addresses and arXiv numbers as links."""
    return Markup("").join(_spans(text))


def _spans(text: str) -> Iterator[Markup]:
    position = 0
    for match in SPAN.finditer(text):
        yield escape(text[position : match.start()])
        position = match.end()
        code, address, arxiv = match.groups()
        if code:
            yield Markup("<code>{}</code>").format(code)
        elif arxiv:
            yield Markup('<a href="https://arxiv.org/abs/{0}">arXiv:{0}</a>').format(arxiv)
        else:
            bare = address.rstrip(".,;:)")
            yield Markup('<a href="{0}">{0}</a>').format(bare) + escape(address[len(bare) :])
    yield escape(text[position:])


def formula(text: str) -> Markup:
    """Return a line of a docstring with its indices set as such: ``y_i`` becomes y with a subscript."""
    parts: list[Markup] = []
    position = 0
    for match in INDEXED.finditer(text):
        parts.append(escape(text[position : match.start()]))
        base, mark, index = match.groups()
        tag = "sub" if mark == "_" else "sup"
        shown = {"sum": "∑", "prod": "∏"}.get(base, base)
        index = index.strip("{}").replace("-", "−")
        parts.append(Markup("<var>{0}</var><{1}>{2}</{1}>").format(shown, Markup(tag), index))
        position = match.end()
    parts.append(escape(text[position:]))
    return Markup("").join(parts)


def docstring(text: str) -> Markup:
    """Return a section of a method's docstring: sentences run on, a line that starts an equation stands by itself."""
    return Markup("\n").join(
        Markup('<p class="{}">{}</p>').format("ee-equation" if is_equation else "ee-prose", formula(said))
        for is_equation, said in _paragraphs(text)
    )


def _paragraphs(text: str) -> Iterator[tuple[bool, str]]:
    lines: list[str] = []
    is_equation = False
    for line in [*text.splitlines(), ""]:
        stripped = line.strip()
        starts = bool(EQUATION.match(stripped))
        ended = bool(lines) and is_equation and lines[-1].endswith((".", ":", ";"))
        if lines and (starts or ended or not stripped):
            yield is_equation, " ".join(lines)
            lines = []
        if stripped:
            is_equation = starts if not lines else is_equation
            lines.append(stripped)


def web(address: str | None) -> str:
    """Return the address if it leads to the web, else nothing: no other kind of link is ever written."""
    return address if address and re.match(r"https?://", address) else ""


def repository(name: str) -> str:
    """Return the address of a repository named as owner/name, or nothing if it is neither that nor an address."""
    return web(name) or (f"https://github.com/{name}" if REPOSITORY.fullmatch(name) else "")


def identifier(name: str | None) -> str:
    """Return the address of a work outside the catalogue, named as doi:…, arXiv:… or an address."""
    scheme, _, rest = (name or "").partition(":")
    resolvers = {"doi": "https://doi.org/", "arxiv": "https://arxiv.org/abs/"}
    known = resolvers.get(scheme.lower())
    return known + rest if known and re.fullmatch(r"[\w./()<>;:+-]+", rest) else web(name)


def amount(value: float, unit: str, qualifier: str = "exact", *, signed: bool = False) -> str:
    """Return a typed number as one reads it: ``93 %``, ``≤ 3×``, ``+0.3 points``."""
    number = f"{value:+g}" if signed else f"{value:g}"
    written = {"percent": f"{number} %", "ratio": f"{number}×"}.get(unit, f"{number} {unit}")
    return QUALIFIERS[qualifier] + written.replace("-", "−", 1)


def magnitude(value: float) -> str:
    """Return a large number with a prefix: ``12.3 M``."""
    for factor, prefix in ((1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{prefix}"
    return f"{value:.4g}"


def size(count: int) -> str:
    """Return a number of bytes as one reads it."""
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def plural(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def sentence(text: str) -> str:
    """Return a note as a sentence: a capital first, a full stop last."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "?", "!")) else ".")


def venue(name: str) -> str:
    """Return the short form of a venue if its name ends with one: ``… (NeurIPS 2020)``."""
    found = re.search(r"\(([^()]+ (?:19|20)\d\d)\)$", name)
    return found[1] if found else name
