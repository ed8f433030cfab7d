"""Write an entry as YAML: the one place where the catalogue's files get their looks."""

from __future__ import annotations

import re
from typing import Any

import yaml

from eelit.catalog.schema import Entry, Implementation

AMBIGUOUS = re.compile(r"[-+]?(?:0[box])?[\d._]*(?:e[-+]?\d+)?|[yn]", re.IGNORECASE)  # to some YAML, not to PyYAML
WIDTH = 118
LONGEST_LINE = 80  # longer texts are folded into a block


class _Dumper(yaml.SafeDumper):
    """YAML as people write it: lists indented under their field, long texts in folded blocks."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        """Indent lists too."""
        super().increase_indent(flow, False)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = ">" if len(text) > LONGEST_LINE and "\n" not in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


def _list(dumper: yaml.SafeDumper, items: list[Any]) -> yaml.SequenceNode:
    short = all(isinstance(item, str | int | float) for item in items) and len(str(items)) < LONGEST_LINE
    return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=short)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(list, _list)


def to_yaml(entry: Entry) -> str:
    """Return the entry as YAML: fields in the order of the schema, defaults left out."""
    return _dumped(entry.model_dump(mode="json", exclude_defaults=True))


def with_implementation(text: str, implementation: Implementation) -> str:
    """Return the text of an entry with this block at its end, where it belongs; all else stays as it is written."""
    block = _dumped({"implementation": implementation.model_dump(mode="json", exclude_defaults=True)})
    return f"{text.rstrip()}\n{block}"


def scalar(text: str) -> str:
    """Return a short text as the value of a field, quoted if some version of YAML would take it for something else."""
    written = _dumped({"x": text}).removeprefix("x: ").rstrip("\n")
    return f"'{text}'" if written == text and AMBIGUOUS.fullmatch(text) else written


def _dumped(data: dict[str, Any]) -> str:
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH)
    return text
