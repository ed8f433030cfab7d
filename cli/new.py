"""`eelit new`: the skeletons of a new work."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from keyword import iskeyword
from pathlib import Path
from string import ascii_lowercase

import click

from eelit.bib.files import aside
from eelit.catalog.faults import CatalogueFault, Unavailable, writing
from eelit.catalog.sources import checkout, sources
from eelit.cli.command import eelit_command

FAMILIES = {
    "exits-text": "exits", "exits-images": "exits", "exit-prediction": "exit_prediction", "designs": "designs",
    "acquisition": "acquisition", "cascades": "cascades", "image-cascades": "cascades",
    "tiers": "tiers", "multi-device": "tiers", "on-device": "exits", "split": "split",
    "gates": "gates", "dot-products": "dot_products",
    "tokens": "tokens", "speculative": "tokens", "translation": "translation", "pruning": "translation",
    "skimming": "skimming", "tagging": "tagging", "ranking": "ranking", "sentinels": "sentinels",
    "other": "",
}  # fmt: skip
"""Families of methods, each with a template → the module of `methods/families/` that says what is prepared.

`other` derives from the contract itself, as a new family would.
"""
ENTRY = ("entry.yaml.j2", "catalog/entries/{key}.yaml")
# Template → where its result belongs, in the checkout.
SKELETONS = {
    "method.{family}.py.j2": "methods/papers/{key}.py",
    "claims.py.j2": "methods/claims/{key}.py",
    "test_method.py.j2": "tests/papers/test_{key}.py",
}
ELSEWHERE = "start the work in a checkout of your own"


@eelit_command("eelit new smith2027lazy", "eelit new smith2027lazy --family exits-images", extra="site")
@click.argument("key")
@click.option(
    "--family",
    type=click.Choice(list(FAMILIES)),
    metavar="FAMILY",
    help="Write a method of this family, its claims and its test.",
)
def command(key: str, family: str | None) -> None:
    """Start a new work: its entry, and a method with claims and test.

    FAMILY is a kind of method; each is named here with a method whose file shows more than the template.

    Samples leave: at an exit (exits-text: zhou2020pabee; exits-images: kaya2019sdn), at an exit that is predicted
    (exit-prediction: karpikova2023fiancee), at exits that a search has placed (designs: li2023coaxnn), after as many
    features as they need (acquisition: shim2018jafa), after one of several models that you write (cascades:
    tann2016runtime) or that are there for images (image-cascades: wang2018idk).

    Machines share a network: a chain of them (tiers: laskaridis2020spinn), several devices and a cloud (multi-device:
    teerapittayanon2017ddnn), a phone by itself (on-device: ju2021dee), a device that sends samples on to the cloud
    (split: bajpai2023splitee). Parts are left out: blocks that gates skip (gates: wang2018skipnet), single dot products
    (dot-products: akhlaghi2018snapea), tokens of a text (skimming: guan2022transkimmer), blocks of a decoder for good
    (pruning: fan2020layerdrop).

    Tokens or documents leave: generated tokens (tokens: schuster2022calm), tokens that a cheap model writes ahead
    (speculative: kim2023bild), tokens of a translation (translation: elbayad2020depth), words to be tagged (tagging:
    li2021tokee), documents of a query at one sentinel (ranking: busolin2021lear) or at several (sentinels:
    cambazoglu2010early). `other` is for a method that fits no family.

    KEY is surname, year and a word, in small letters. Without --family only the entry is written. Existing files are
    not changed, except that an entry gets the block about its method. Then add the record to bib/early-exit.bib (if it
    is there already, the short name is taken from its title) and fill in the files; `eelit check KEY` lists what is
    missing.
    """
    from eelit.catalog.load import finish_writing
    from eelit.catalog.schema import KEY_PATTERN

    if not re.fullmatch(KEY_PATTERN, key):
        raise click.UsageError(f"`{key}` is not a key; a key is surname, year and a word, as in `zhou2020pabee`")
    root = checkout()
    if root is None:
        raise Unavailable("new works are written in a checkout; clone the repository first")
    finish_writing(sources())  # an `eelit add` that was killed may have made this entry
    name = short_name(key)
    template, place = ENTRY
    entry = Path(root, place.format(key=key))
    if not (family and _implemented(entry)):
        _write(entry, render(template, key, name, family))
    for template, place in SKELETONS.items() if family else ():
        _write(Path(root, place.format(key=key)), render(template, key, name, family))


def short_name(key: str) -> str:
    """Return what the title calls the work if the bibliography has it, else the word of the key.

    A title names its method before a colon (`FastBERT: a self-distilling …`) or among its words.
    """
    from eelit.bib.read import read_bibliography

    record = read_bibliography(sources().bibliography).records.get(key)
    return title_name(record.title if record else "", key)


def title_name(title: str, key: str) -> str:
    """Return what a title calls its method: before a colon, or among its words; else the word of the key."""
    word = key.lstrip(ascii_lowercase)[4:]
    if named := re.match(r"([A-Z][\w.+-]*):", title):
        return named[1]
    return next((part for part in re.findall(r"\w+", title) if part.casefold() == word), word.capitalize())


def render(template: str, key: str, name: str, family: str | None, read: Sequence[str] = ()) -> str:
    """Return a skeleton for this key, which goes by this name and has a method of the family, if any.

    An entry names as its sources what was read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from eelit.catalog.save import scalar
    from eelit.catalog.skeleton import PLACEHOLDERS

    loader = PackageLoader("eelit.cli", "templates")
    environment = Environment(loader=loader, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    environment.filters["scalar"] = scalar
    class_name = key.lstrip(ascii_lowercase)[4:].capitalize()
    if not class_name.isidentifier() or iskeyword(class_name):  # no class is called `007` or `None`
        class_name = f"Method{class_name}"
    return environment.get_template(template.format(family=family)).render(
        key=key,
        short_name=name,
        class_name=class_name,
        family=family,
        written=PLACEHOLDERS,
        read=read,
        prepared_in=FAMILIES.get(family or "", ""),
    )


def _implemented(entry: Path) -> bool:
    """Give an entry that exists the block that tells of its method, if it lacks it; return whether it exists."""
    from eelit.catalog.save import with_implementation
    from eelit.catalog.schema import Implementation
    from eelit.catalog.skeleton import PLACEHOLDERS
    from eelit.catalog.yaml_lines import read_yaml

    if not os.path.lexists(entry):
        return False
    located, problems = read_yaml(entry)
    if located is None:
        raise CatalogueFault(str(problems[0]))
    if "implementation" in located.data:
        click.echo(f"eelit: {entry} exists already and was not changed", err=True)
        return True
    told = Implementation(fidelity="from-paper", reason=PLACEHOLDERS["reason"])
    with writing(entry, ELSEWHERE):
        text = with_implementation(entry.read_text(encoding="utf-8"), told)
        os.replace(aside(entry, text), entry)
    click.echo(str(entry))
    return True


def _write(path: Path, text: str) -> None:
    """Write a file that does not exist yet, whole or not at all."""
    if os.path.lexists(path):
        click.echo(f"eelit: {path} exists already and was not changed", err=True)
        return
    with writing(path, ELSEWHERE):
        path.parent.mkdir(parents=True, exist_ok=True)
        made = aside(path, text)
        try:
            os.link(made, path)  # fails if the file has come to be meanwhile, unlike a rename
        finally:
            os.unlink(made)
    click.echo(str(path))
