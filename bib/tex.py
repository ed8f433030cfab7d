"""TeX as plain Unicode, by pylatexenc. What cannot be read is named: no sign of TeX stays in a text or goes unsaid."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache
from typing import Any, NamedTuple

from pylatexenc.latex2text import (
    LatexNodes2Text,
    MacroTextSpec,
    SpecialsTextSpec,
    get_default_latex_context_db,
)
from pylatexenc.latexwalker import LatexWalker, LatexWalkerError
from pylatexenc.latexwalker import get_default_latex_context_db as get_walker_context_db
from pylatexenc.macrospec import LatexContextDb, MacroSpec

TEX = re.compile(r"[\\{}~$`]|--|''")
BRACES_ONLY = re.compile(r"(?:[^\\~$`'-]|'(?!')|-(?!-))*")  # most titles; converting takes a hundred times longer
ESCAPED_OR_PERCENT = re.compile(r"(\\.)|%", re.DOTALL)
ESCAPED_OR_DOLLAR = re.compile(r"(\\.)|\$", re.DOTALL)
WANTS_MORE = re.compile(r"\\(?:[A-Za-z]+\*?|[^A-Za-z&%_#{},;:!/-])?$")
COMMAND = re.compile(r"\\(?:[A-Za-z]+\*?|.)?", re.DOTALL)

SWITCHES = (
    *("bf", "em", "it", "rm", "sc", "sf", "sl", "tt", "bfseries", "itshape", "mdseries", "normalfont", "rmfamily"),
    *("scshape", "sffamily", "slshape", "ttfamily", "upshape", "selectfont", "tiny", "scriptsize", "footnotesize"),
    *("small", "normalsize", "large", "Large", "LARGE", "huge", "Huge", "relax", "protect", "nobreak", "allowbreak"),
    *("noindent", "leavevmode", "ignorespaces", "unskip", "null", "newblock", "sloppy", "xspace", "-", "/", "@", "!"),
    *("left", "right", "middle", "big", "Big", "bigg", "Bigg", "bigl", "bigr", "Bigl", "Bigr", "biggl", "biggr"),
    *("displaystyle", "textstyle", "scriptstyle", "limits", "nolimits", "boldmath"),
)
"""Commands that change the looks of what follows, and print nothing."""
SIGNS = {
    "LaTeX": "LaTeX",
    "TeX": "TeX",
    "BibTeX": "BibTeX",
    "textasciitilde": "~",
    "textasciicircum": "^",
    "textless": "<",
    "textgreater": ">",
    "textbar": "|",
    "textunderscore": "_",
    "textquotesingle": "'",
    "textquotedbl": '"',
    "textellipsis": "…",
    "textnumero": "№",
    "copyright": "©",
    "dots": "…",
    "euro": "€",
    "pounds": "£",
    "P": "¶",
    "S": "§",
    "slash": "/",
    "newline": " ",
    "linebreak": " ",
    "break": " ",
    "lbrack": "[",
    "rbrack": "]",
    "colon": ":",
    "sim": "~",
    "cdot": "·",
}
"""Commands that pylatexenc lacks, or prints as a sign that no reader expects."""
FUNCTIONS = (
    *("arccos", "arcsin", "arctan", "arg", "cos", "cosh", "deg", "det", "dim", "exp", "gcd", "inf", "ker", "lim", "ln"),
    *("log", "max", "min", "Pr", "sin", "sinh", "sup", "tan", "tanh"),
)
"""Functions, which stand apart from what is before them: `n\\log n` is not a word."""
SHOWN = ("textmd", "textsf", "texttt", "textup", "textnormal", "mbox", "hbox", "operatorname", "mathop", "boldsymbol")
STYLES = ("mathrm", "mathbf", "mathit", "mathsf", "mathtt", "mathcal", "mathscr", "mathfrak", "mathnormal", "bm")
"""Alphabets of mathematics: the letters are kept as they are typed, since few fonts and no search know the others."""
ADDRESSES = ("url", "path", "nolinkurl", "doi")
NOT_TEXT = ("author", "date", "include", "input", "maketitle", "title", "today")
"""Commands of whole documents: pylatexenc would act on them, which a field of a bibliography must not cause."""
SPANNING = (
    *("overbrace", "overbracket", "overgroup", "overlinesegment", "underbrace", "underbracket", "undergroup"),
    *("underlinesegment", "underleftrightarrow"),
)
"""Signs over or under a formula that Unicode lacks, and pylatexenc leaves out."""
TEXT_MARKS = (
    "\u0301\u0300\u0302\u0308\u0303\u0304\u0307\u030b\u0331\u0327\u0323\u0328\u030a\u0306\u030c\u0309\u0361\u030f"
)
MATH_ACCENTS = {"acute": "'", "grave": "`", "hat": "^", "ddot": '"', "tilde": "~", "bar": "=", "dot": ".", "check": "v"}
MATH_ACCENTS |= {"breve": "u", "mathring": "r"}
ACCENTS = dict(zip("'`^\"~=.HbcdkruvhtG", TEXT_MARKS, strict=True))
ACCENTS |= {name: ACCENTS[same] for name, same in MATH_ACCENTS.items()}
ACCENTS |= {"vec": "\u20d7", "textcommabelow": "\u0326"}
"""Accents as combining marks, those of mathematics too; pylatexenc puts them on every letter of a group."""
WIDE = {"overline": "\u0305", "underline": "\u0332", "widehat": "\u0302", "widetilde": "\u0303", "wideparen": "\u0311"}
WIDE |= {"overleftarrow": "\u20d6", "overrightarrow": "\u20d7", "overleftrightarrow": "\u20e1"}
WIDE |= {"overleftharpoon": "\u20d0", "overrightharpoon": "\u20d1"}
WIDE |= {"underleftarrow": "\u20ee", "underrightarrow": "\u20ef"}
"""Marks over or under a whole formula: Unicode has them for each letter of it."""
LETTER = re.compile("[^\\W_][\u0300-\u036f\u20d0-\u20ef]*")
QUOTED = re.compile(r"(?<!\w)`([^`]*?[^\s`])'(?!\w)")  # an apostrophe inside of a word ends no quotation
ALONE = {"~": "~", "^": "^", "`": "`", "'": "´", '"': "¨"}
"""Accents on nothing: `\\~{}` is the way to type a tilde."""

RAISED = dict(zip("0123456789+-=()ni", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", strict=True))
LOWERED = dict(zip("0123456789+-=()", "₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎", strict=True))
OPEN, CLOSE = "\ue000", "\ue001"  # braces inside mathematics, until it is known what they hold
SUPER, SUB = "\ue002", "\ue003"  # scripts that are done, not to be taken for such again
SCRIPT = re.compile(rf"([\^_])(?:{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}|([^\s{OPEN}{CLOSE}]))")
INNERMOST = re.compile(rf"{OPEN}([^{OPEN}{CLOSE}]*){CLOSE}")

VERBATIM_SIGNS = {"textunderscore": "_", "textless": "<", "textgreater": ">", "lt": "<", "gt": ">"}
VERBATIM_SIGNS |= {"textasciitilde": "~", "textasciicircum": "^", "textbar": "|", "textendash": "-"}
VERBATIM_NAMED = re.compile(rf"\\({'|'.join(VERBATIM_SIGNS)})(?![A-Za-z])(?:\{{\}}|\s+)?")
VERBATIM_ESCAPED = re.compile(r"\\([_%&#$~^])(?:\{\})?")
VERBATIM_WRAPPED = re.compile(r"\\(?:url|path|doi|nolinkurl)\s*(?=\{)")


class Plain(NamedTuple):
    """A text without TeX, and the commands of its source that could not be read."""

    text: str
    unread: tuple[str, ...] = ()


def plain_text(tex: str) -> str:
    """Return TeX as plain Unicode: accents resolved, braces gone, `--` as an en dash, mathematics readable."""
    return read_tex(tex).text


@lru_cache(maxsize=4_096)  # names and venues come again and again
def read_tex(tex: str) -> Plain:
    """Return TeX as plain Unicode with what could not be read; a percent sign is data, as BibTeX has it."""
    if not TEX.search(tex):
        return Plain(tex)
    if BRACES_ONLY.fullmatch(tex):
        return Plain(" ".join(tex.replace("{", "").replace("}", "").split()))
    read = [_converted(word) if TEX.search(word) else Plain(word) for word in _words(tex)]
    unread = dict.fromkeys(command for part in read for command in part.unread)
    text = " ".join(part.text for part in read if part.text)
    return Plain(QUOTED.sub("‘\\1’", text), tuple(unread))


def _words(tex: str) -> list[str]:
    """Return the parts of a text that can be converted by themselves: it has few different words with TeX in them.

    A word ends at a space outside of braces. Where one ends in a command that may want what follows, or there is a
    formula, which may go on, the text is one part.
    """
    if "$" in tex or r"\begin" in tex:
        return [tex]
    words: list[str] = []
    depth = 0
    for piece in tex.split():
        if depth:
            words[-1] += f" {piece}"
        else:
            words.append(piece)
        depth += piece.count("{") - piece.count("}")
    return [tex] if any(WANTS_MORE.search(word) for word in words) else words


@lru_cache(maxsize=32_768)
def _converted(tex: str) -> Plain:
    """Return what pylatexenc makes of TeX."""
    source = ESCAPED_OR_PERCENT.sub(lambda found: found[1] or r"\%", tex)
    unread: list[str] = []
    if sum(not found[1] for found in ESCAPED_OR_DOLLAR.finditer(source)) % 2:
        source = ESCAPED_OR_DOLLAR.sub(lambda found: found[1] or r"\$", source)
        unread.append("$")
    if re.search(r"(?<!\\)(?:\\\\)*\\$", source):  # it would escape what no longer follows
        unread.append("\\")
    try:
        text = _Text(unread).converted(source)
    except (LatexWalkerError, RecursionError):
        unread += COMMAND.findall(tex) or [tex]
        text = re.sub(r"[{}$]", "", COMMAND.sub(" ", source.replace(r"\%", "%")))
    return Plain(unicodedata.normalize("NFC", " ".join(text.split())), tuple(dict.fromkeys(unread)))


def read_verbatim(value: str) -> Plain:
    """Return an identifier or an address, in which TeX stands for single signs only."""
    if not re.search(r"[\\{}$]", value):
        return Plain(value)
    text = VERBATIM_WRAPPED.sub("", value.replace("$<$", "<").replace("$>$", ">"))
    text = VERBATIM_NAMED.sub(lambda found: VERBATIM_SIGNS[found[1]], text)
    text = VERBATIM_ESCAPED.sub(r"\1", text).replace("{", "").replace("}", "")
    return Plain(" ".join(COMMAND.sub("", text).split()), tuple(dict.fromkeys(COMMAND.findall(text))))


class _Walker(LatexWalker):  # type: ignore[misc]  # pylatexenc has no types
    """pylatexenc's parser; of a command that is an argument without braces it reads the arguments too: `\\'\\^e`."""

    def get_latex_expression(self, pos: int, strict_braces: bool | None = None, parsing_state: Any = None) -> Any:
        """Return the one argument that starts at a place, where it does, and how long it is."""
        token = self.get_token(pos, environments=False, parsing_state=parsing_state)
        spec = _parsed().get_macro_spec(token.arg) if token.tok == "macro" else None
        arguments = getattr(spec.args_parser, "argspec", "") if spec is not None else ""
        if arguments:
            nodes, start, length = self.get_latex_nodes(pos, read_max_nodes=1, parsing_state=parsing_state)
            return nodes[0], start, length
        return super().get_latex_expression(pos, strict_braces, parsing_state)


class _Text(LatexNodes2Text):  # type: ignore[misc]  # pylatexenc has no types
    """pylatexenc's converter, which also notes what it does not know and keeps mathematics unambiguous."""

    def __init__(self, unread: list[str]) -> None:
        super().__init__(latex_context=_printed(), strict_latex_spaces=True)
        self.unread = unread
        self.formulas = 0  # how many surround the place that is being read

    def converted(self, source: str) -> str:
        """Return the text of a source; raises LatexWalkerError if it is no TeX."""
        walker = _Walker(source, latex_context=_parsed(), tolerant_parsing=False)
        text: str = self.nodelist_to_text(walker.get_latex_nodes()[0])
        return text

    def macro_node_to_text(self, node: Any) -> str:
        """Return what a command prints, in formulas with the space after it; of one that is unknown, its arguments."""
        name: str = node.macroname
        if name and name not in (*NOT_TEXT, *SPANNING) and _printed().get_macro_spec(name) is not None:
            text = str(super().macro_node_to_text(node))
            return text + node.macro_post_space if self.formulas and self._is_bare_macro_node(node) else text
        self.unread.append(f"\\{name}")
        arguments = node.nodeargd.argnlist if node.nodeargd else None
        return "".join(self._groupnodecontents_to_text(argument) for argument in arguments or ())

    def environment_node_to_text(self, node: Any) -> str:
        """Return what an environment holds; none is expected in a bibliography."""
        self.unread.append(rf"\begin{{{node.environmentname}}}")
        return str(self.nodelist_to_text(node.nodelist))

    def group_node_to_text(self, node: Any) -> str:
        """Return what braces hold; inside a formula they are remembered, since they say how far a power reaches."""
        text = str(super().group_node_to_text(node))
        return f"{OPEN}{text}{CLOSE}" if self.formulas else text

    def math_node_to_text(self, node: Any) -> str:
        """Return a formula as one would type it: powers and indices raised or lowered, or in brackets."""
        self.formulas += 1
        text = str(super().math_node_to_text(node))
        self.formulas -= 1
        return text if self.formulas else _flat(text)


def _flat(formula: str) -> str:
    """Return a formula without the remembered braces, innermost first."""
    done = ""
    while done != formula:
        done = formula
        formula = SCRIPT.sub(lambda found: _script(found[1], found[2] if found[3] is None else found[3]), formula)
        if done == formula:  # braces that are no script only kept things together
            formula = INNERMOST.sub(r"\1", formula, count=1)
    return re.sub(r"([(\[{⟨]) +", r"\1", formula.replace(SUPER, "^").replace(SUB, "_"))


def _script(sign: str, content: str) -> str:
    """Return a power (`^`) or an index (`_`)."""
    if moved := _moved(content, RAISED if sign == "^" else LOWERED):
        return moved
    plain = SUPER if sign == "^" else SUB
    return f"{plain}{content}" if len(content) == 1 else f"{plain}({content})"


def _moved(content: str, letters: dict[str, str]) -> str:
    """Return the content raised or lowered, or nothing where Unicode lacks a letter of it."""
    return "".join(letters[letter] for letter in content) if all(letter in letters for letter in content) else ""


def _beside(letters: dict[str, str]) -> Callable[..., str]:
    """Return what prints `\\textsuperscript{2}`: ², but `st` as it is."""

    def printed(node: Any, l2tobj: Any) -> str:
        content = str(l2tobj.node_arg_to_text(node, 0))
        return _moved(content, letters) or content

    return printed


def _accented(mark: str, name: str) -> Callable[..., str]:
    """Return what puts a combining mark on the first letter of an argument, on top of marks that it has."""

    def printed(node: Any, l2tobj: Any) -> str:
        arguments = node.nodeargd.argnlist if node.nodeargd else ()
        text = str(l2tobj.nodelist_to_text([arguments[0]])).strip() if arguments else ""
        text = unicodedata.normalize("NFD", text.strip(OPEN + CLOSE))
        if not text:
            return ALONE.get(name, "")
        letter = {"ı": "i", "ȷ": "j"}.get(text[0], text[0])
        end = next((place for place, sign in enumerate(text) if place and not unicodedata.combining(sign)), len(text))
        return unicodedata.normalize("NFC", letter + text[1:end] + mark + text[end:])

    return printed


def _spanned(mark: str, name: str) -> Callable[..., str]:
    """Return what puts a combining mark on each letter of an argument; a text is underlined for its looks only."""

    def printed(node: Any, l2tobj: Any) -> str:
        text = str(l2tobj.node_arg_to_text(node, 0))
        if name == "underline" and not l2tobj.formulas:
            return text
        text = LETTER.sub(lambda found: found[0] + mark, unicodedata.normalize("NFD", text))
        return unicodedata.normalize("NFC", text)

    return printed


def _address(node: Any) -> str:
    r"""Return the address in `\url{…}` as it stands there, where `_`, `~` and `%` mean themselves."""
    return read_verbatim(node.nodeargd.argnlist[0].latex_verbatim()).text


def _fraction(node: Any, l2tobj: Any) -> str:
    """Return a fraction on one line, with brackets round what is more than one word."""
    parts = (str(l2tobj.node_arg_to_text(node, place)) for place in (0, 1))
    return "/".join(part if part.isalnum() else f"({part})" for part in parts)


def _root(node: Any, l2tobj: Any) -> str:
    """Return a root with its index: √(2), ∛(2), ⁿ√(2); as a power where Unicode lacks the index."""
    optional, radicand = node.nodeargd.argnlist[0], str(l2tobj.node_arg_to_text(node, 1))
    index = str(l2tobj.nodelist_to_text(optional.nodelist)).strip(OPEN + CLOSE + " ") if optional else ""
    sign = {"": "√", "2": "√", "3": "∛", "4": "∜"}.get(index) or ((raised := _moved(index, RAISED)) and f"{raised}√")
    return f"{sign}({radicand})" if sign else f"({radicand}){SUPER if l2tobj.formulas else '^'}(1/{index})"


@lru_cache(maxsize=1)
def _printed() -> LatexContextDb:
    """Return what commands print: pylatexenc's tables, corrected for bibliographies."""
    context = get_default_latex_context_db()
    # Left out is what pylatexenc prints instead of something that it does not know, such as a picture: it is reported.
    context = context.filter_context(exclude_categories=["latex-placeholders", "latex-ethuebung", "nonstandard-qit"])
    macros = [MacroTextSpec(name, discard=True) for name in SWITCHES]
    macros += [MacroTextSpec(name, simplify_repl=sign) for name, sign in SIGNS.items()]
    macros += [MacroTextSpec(name, simplify_repl=f" {name}") for name in FUNCTIONS]
    macros += [MacroTextSpec(name, discard=False) for name in (*SHOWN, *STYLES)]
    macros += [MacroTextSpec(name, _accented(mark, name)) for name, mark in ACCENTS.items()]
    macros += [MacroTextSpec(name, _spanned(mark, name)) for name, mark in WIDE.items()]
    macros += [MacroTextSpec(name, _address) for name in ADDRESSES]
    macros += [MacroTextSpec(name, _fraction) for name in ("frac", "dfrac", "tfrac", "nicefrac", "textfrac")]
    macros += [
        MacroTextSpec("textsuperscript", _beside(RAISED)),
        MacroTextSpec("textsubscript", _beside(LOWERED)),
        MacroTextSpec("enquote", "“%s”"),
        MacroTextSpec("href", "%(2)s"),
        MacroTextSpec("foreignlanguage", "%(2)s"),
        MacroTextSpec("footnote", " (%(2)s)"),
        MacroTextSpec("sqrt", _root),
        MacroTextSpec("_", "_"),
    ]
    specials = [SpecialsTextSpec("&", "&"), SpecialsTextSpec("~", " ")]
    context.add_context_category("bibliography", macros=macros, specials=specials, prepend=True)
    return context


@lru_cache(maxsize=1)
def _parsed() -> LatexContextDb:
    """Return how many arguments commands take, for those that pylatexenc does not know."""
    context = get_walker_context_db()
    one = (*SHOWN, *STYLES, *ADDRESSES, *ACCENTS, *WIDE, "enquote", "textsubscript", "textsuperscript")
    macros = [MacroSpec(name, "{") for name in one]
    macros += [MacroSpec(name, "{{") for name in ("href", "foreignlanguage", "dfrac", "tfrac", "textfrac")]
    macros += [MacroSpec("linebreak", "[")]
    context.add_context_category("bibliography", macros=macros, prepend=True)
    return context
