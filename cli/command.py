"""What all commands share: examples in the help, `--debug`, and how they come by the catalogue."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from eelit.cli.group import database_option, debug_option

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from eelit.catalog.query import Catalogue

MOST_COMPLETIONS = 500
SEED = click.IntRange(0, 2**31 - 1)
"""What every random generator takes, and leaves room for the seeds that methods derive from it."""
JOBS = click.IntRange(1, 1_000)


class EelitCommand(click.Command):
    """A command whose help shows examples before the options; before it starts, its extra must be installed."""

    def __init__(
        self, *args: Any, examples: tuple[str, ...], catalogue: bool = False, extra: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.extra = extra
        self.params += [database_option()] if catalogue else []
        self.params.append(debug_option())

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the words; those that are no text could be looked up nowhere."""
        rest = super().parse_args(ctx, args)
        for value in ctx.params.values():
            for text in value if isinstance(value, tuple) else (value,):
                if (
                    isinstance(text, str)
                    and not text.isascii()
                    and any("\ud800" <= letter <= "\udfff" for letter in text)
                ):
                    shown = text.encode("utf-8", "backslashreplace").decode()
                    ctx.fail(f"`{shown}` is not UTF-8; type it in a terminal that uses UTF-8")
        return rest

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command, once what it needs is known to be there."""
        if self.extra:
            from eelit.catalog.extras import demand

            demand(self.extra)
        return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, then the options."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write_text(f"$ {example}")
        super().format_options(ctx, formatter)


def eelit_command(
    *examples: str, catalogue: bool = False, extra: str = ""
) -> Callable[[Callable[..., Any]], EelitCommand]:
    """Make a function a command with these examples.

    If it reads the catalogue it takes `--db`. The ``extra`` (of `eelit.catalog.extras`) is what it cannot do without.
    """
    return click.command(cls=EelitCommand, examples=examples, catalogue=catalogue, extra=extra)


def format_option(*formats: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--format`; the first one is the default."""
    return click.option(
        "--format", "style", type=click.Choice(formats), default=formats[0], show_default=True, help="How to print it."
    )


def open_catalogue() -> Catalogue:
    """Open the catalogue that the user chose."""
    from eelit.catalog import fresh

    return fresh.open_catalogue(chosen_database())


def chosen_database() -> str | None:
    """Return the value of `--db`."""
    value: str | None = click.get_current_context().meta.get("eelit.db")
    return value


def nothing_found(message: str) -> None:
    """Say so and leave with the exit code for it."""
    click.echo(f"eelit: {message}", err=True)
    click.get_current_context().exit(1)


class Words(click.ParamType[str]):
    """Words to look for, of which there is at least one."""

    name = "text"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the words, on one line as names and messages are."""
        words = " ".join(str(value).split())
        if not words:
            self.fail("nothing is given to look for; give it, or leave the option out", param, ctx)
        return words


class Place(click.Path):
    """Where to write; an empty name would mean the working directory."""

    def __init__(self) -> None:
        from pathlib import Path

        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if value == "":
            self.fail("the name of a file is empty; give one, or leave the option out", param, ctx)
        return super().convert(value, param, ctx)


class WorkName(Words):
    """The name of a work; the shell completes keys and short names."""

    name = "work"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that start so."""
        return _items(_asked(ctx, lambda catalogue: catalogue.names()), incomplete)


class MethodName(Words):
    """The name of a method; the shell completes keys and short names, but only of what runs."""

    name = "method"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the names that start so, those of methods from other packages too."""
        from eelit.methods.harness import registry

        in_catalogue = _asked(ctx, lambda catalogue: catalogue.names(runnable=True))
        return _items(sorted({*registry.keys(), *in_catalogue}), incomplete)


class TermName(click.ParamType[str]):
    """A term of a facet; the shell completes it."""

    name = "term"

    def __init__(self, facet: str) -> None:
        self.facet = facet

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the term as it is spelled in the taxonomy."""
        return "-".join(str(value).lower().replace("_", " ").split())

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Return the terms that start so."""
        return _items(_asked(ctx, lambda catalogue: [term.term for term in catalogue.taxonomy(self.facet)]), incomplete)


def _asked(ctx: click.Context, ask: Callable[[Catalogue], list[str]]) -> list[str]:
    """Ask the database as it lies there; a shell that waits for a completion must not wait for a build."""
    from eelit.catalog import fresh
    from eelit.catalog.faults import CatalogueFault
    from eelit.catalog.query import Catalogue

    try:
        return ask(Catalogue(fresh.database_path(ctx.meta.get("eelit.db"))))
    except CatalogueFault:
        return []


def _items(names: list[str], incomplete: str) -> list[CompletionItem]:
    """Return the names that start so, in any case, for the shell."""
    from click.shell_completion import CompletionItem

    fitting = [name for name in names if name.casefold().startswith(incomplete.casefold()) and " " not in name]
    return [CompletionItem(name) for name in fitting[:MOST_COMPLETIONS]]
