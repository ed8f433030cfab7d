"""`eelit new`: the skeletons of a new work."""

from __future__ import annotations

import os
import re
from importlib.resources import files
from pathlib import Path
from string import ascii_lowercase
from tempfile import mkstemp

import click

from eelit.catalog.faults import Unavailable
from eelit.catalog.sources import checkout
from eelit.cli.command import eelit_command

# Template → where its result belongs, in the checkout.
SKELETONS = {
    "entry.yaml.j2": "catalog/entries/{key}.yaml",
    "method.py.j2": "methods/papers/{key}.py",
    "test_method.py.j2": "tests/papers/test_{key}.py",
}


@eelit_command("eelit new smith2027lazy", "eelit new smith2027lazy --entry-only")
@click.argument("key")
@click.option("--entry-only", is_flag=True, help="Write no method and no test.")
def command(key: str, entry_only: bool) -> None:
    """Start a new work: entry, method and test.

    KEY is surname, year and a word, in small letters. Files that exist are left alone. Then add the record to
    bib/early-exit.bib (if it is there already the short name is taken from its title), fill in the files, and let
    `eelit check KEY` tell what is missing.
    """
    from eelit.catalog.schema import KEY_PATTERN

    if not re.fullmatch(KEY_PATTERN, key):
        raise click.UsageError(f"`{key}` is not a key; a key is surname, year and a word, as in `zhou2020pabee`")
    root = checkout()
    if root is None:
        raise Unavailable("new works are written in a checkout; clone the repository first")
    name = short_name(key)
    for template, place in SKELETONS.items():
        if not (entry_only and template != "entry.yaml.j2"):
            _write(Path(root, place.format(key=key)), render(template, key, name, with_method=not entry_only))


def short_name(key: str) -> str:
    """Return what the title calls the work if the bibliography has it, else the word of the key.

    A title names its method before a colon (`FastBERT: a self-distilling …`) or among its words.
    """
    from eelit.bib.read import read_bibliography
    from eelit.catalog.sources import sources

    word = key.lstrip(ascii_lowercase)[4:]
    record = read_bibliography(sources().bibliography).records.get(key)
    title = record.title if record else ""
    if named := re.match(r"([A-Z][\w.+-]*):", title):
        return named[1]
    return next((part for part in re.findall(r"\w+", title) if part.casefold() == word), word.capitalize())


def render(template: str, key: str, name: str, *, with_method: bool = True) -> str:
    """Return a skeleton for this key, which goes by this name."""
    from jinja2 import Environment, StrictUndefined

    source = files("eelit.cli").joinpath("templates", template).read_text(encoding="utf-8")
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    class_name = re.sub(
        r"^(?=\d)", "Method", key.lstrip(ascii_lowercase)[4:].capitalize()
    )  # no class starts with a digit
    return environment.from_string(source).render(
        key=key, short_name=name, class_name=class_name, with_method=with_method
    )


def _write(path: Path, text: str) -> None:
    """Write a file that does not exist yet, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(aside, 0o644)
        os.link(aside, path)  # fails if the file exists, unlike a rename
        click.echo(str(path))
    except FileExistsError:
        click.echo(f"eelit: {path} is there already and was left alone", err=True)
    finally:
        os.unlink(aside)
