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
# y_i, L_{i-1}, d_t^i, (1-q)^(k-1), L_last: a short base or a bracket, then short or bracketed indices, or a capital and
# a word; other words are names in code. Greek letters are written out in docstrings.
GREEK = dict(
    zip(
        ["alpha", "beta", "gamma", "delta", "epsilon", "theta", "lambda", "lam", "sigma", "tau"],
        "αβγδεθλλστ",
        strict=True,
    )
)
SIGNS = {"sum": "∑", "prod": "∏", **GREEK}
OPERATIONS = ("prod", "mean", "softmax", "argmax", "argmin")
INDEX = r"[_^](?:\{[^{}]+\}|\([^()]+\)|[A-Za-z0-9]{1,2}(?![A-Za-z0-9]))"
# One that stands alone, but for the words a, A and I.
LETTER = r"(?<![\w`'’.])(?<![A-Za-z]-)(?:[B-HJ-Zb-z]|A(?! [a-z]))~?(?![\w`'’]|-[A-Za-z]|\.\w)"
INDEXED = re.compile(
    rf"(?:(?<![\w`])(?P<base>[A-Za-z0-9]{{1,3}}~?|{'|'.join((*OPERATIONS, *GREEK))})|(?<=[)\]]))"
    rf"(?P<indices>(?:{INDEX})+)"
    r"|(?<![\w`])(?P<capital>[A-Z])_(?P<word>[a-z]{3,})(?![\w`(])"
    rf"|(?<![\w`])(?P<greek>{'|'.join(GREEK)})(?![\w`-])"
    rf"|(?P<letter>{LETTER})"
)
OPERATORS = {"<=": "≤", ">=": "≥", "*": "·", "-": "−"}
FULL_LINE = 106  # a docstring's line that had room for the next word, in this width, was ended on purpose
EQUATION = re.compile(r"^\S{1,30}(?:\s[-+*/|·]\s\S{1,24})*\s(?:=|<|>|≤|≥|<=|>=)\s\S")
REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")
UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufffe\uffff]")
QUALIFIERS = {"exact": "", "about": "≈ ", "at-least": "≥ ", "at-most": "≤ "}


def printable(text: str) -> str:
    """Return text without the control characters that XML and YAML forbid."""
    return UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", text)


def heading(text: str) -> Markup:
    """Return text for a Markdown heading: what could mean something to Markdown or HTML as character references."""
    return Markup("".join(c if c.isalnum() or c == " " else f"&#{ord(c)};" for c in " ".join(text.split())))


def front(text: str) -> Markup:
    """Return text for front matter, which Material puts into HTML unescaped: escaped once, then quoted for YAML."""
    return Markup(json.dumps(str(escape(printable(" ".join(text.split())))), ensure_ascii=False))


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
    """Return a line of a docstring with its symbols set as such: ``y_i`` becomes y with a subscript, ``tau`` τ."""
    for written, sign in OPERATORS.items():
        text = text.replace(f" {written} ", f" {sign} ")
    parts: list[Markup] = []
    position = 0
    for match in INDEXED.finditer(text):
        parts.append(escape(text[position : match.start()]))
        position = match.end()
        base = match["base"] or match["greek"] or match["letter"] or match["capital"] or ""
        if base:
            sign = SIGNS.get(base, base)
            is_letter = len(sign.rstrip("~")) == 1 and sign[0].isalpha()
            sign = sign.replace("~", "\N{COMBINING TILDE}")
            parts.append(Markup("<var>{}</var>").format(sign) if is_letter else escape(sign))
        if match["word"]:
            parts.append(Markup("<sub>{}</sub>").format(match["word"]))
        for index in re.findall(INDEX, match["indices"] or ""):
            tag = Markup("sub" if index[0] == "_" else "sup")
            inside = index[1:].strip("{}").removeprefix("(").removesuffix(")").replace("-", "−")
            inside = Markup(re.sub(LETTER, r"<var>\g<0></var>", str(escape(inside))))
            parts.append(Markup("<{0}>{1}</{0}>").format(tag, inside))
    parts.append(escape(text[position:]))
    return Markup("").join(parts)


def docstring(text: str) -> Markup:
    """Return a section of a method's docstring: sentences run on, and a line that was ended on purpose ends."""
    return Markup("\n").join(
        Markup('<p class="{}">{}</p>').format("ee-equation" if EQUATION.match(said) else "ee-prose", formula(said))
        for said in _paragraphs(text)
    )


def _paragraphs(text: str) -> Iterator[str]:
    lines: list[str] = []
    for line in (line.strip() for line in [*text.splitlines(), ""]):
        first = line.partition(" ")[0]
        starts_equation = bool(lines) and lines[-1].endswith((".", ":", ";")) and bool(EQUATION.match(line))
        if lines and (not line or starts_equation or len(lines[-1]) + 1 + len(first) < FULL_LINE):
            yield " ".join(lines)
            lines = []
        if line:
            lines.append(line)


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
    noun = unit.removesuffix("s") if abs(value) == 1 and unit != "ms" else unit
    written = {"percent": f"{number} %", "ratio": f"{number}×"}.get(unit, f"{number} {noun}")
    return QUALIFIERS[qualifier] + written.replace("-", "−", 1)


def number(value: float, digits: int, signed: bool = False) -> str:
    """Return a number as one reads it: a true minus sign, and no sign where nothing is left after rounding."""
    written = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
    return written.replace("-", "−") if float(written) else written.lstrip("+-")


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
