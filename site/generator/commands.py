"""The reference of the command line, read off the commands themselves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from inspect import cleandoc

import click

from eelit.site.generator.faults import SiteFault


@dataclass(frozen=True)
class Parameter:
    """An argument or option as its help shows it."""

    names: str
    meaning: str
    notes: list[str]


@dataclass(frozen=True)
class Command:
    """One command: how it is called, what it does, examples and parameters."""

    path: str
    usage: str
    summary: str
    paragraphs: list[str]
    examples: list[str]
    arguments: list[str]
    options: list[Parameter]
    epilog: str

    @property
    def anchor(self) -> str:
        """The id of its section."""
        return self.path.replace(" ", "-")


def commands() -> list[Command]:
    """Return the installed `eelit` command and all its subcommands, in the order of its help."""
    points = entry_points(group="console_scripts", name="eelit")
    if not points:
        raise SiteFault("the command `eelit` is not installed here; install the checkout with pip first")
    group: click.Group = import_module(next(iter(points)).module).group()
    return list(walk(group, click.Context(group, info_name="eelit")))


def walk(command: click.Command, context: click.Context) -> Iterator[Command]:
    """Yield a command, then its subcommands."""
    yield describe(command, context)
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None and not inner.hidden:
                yield from walk(inner, click.Context(inner, info_name=name, parent=context))


def describe(command: click.Command, context: click.Context) -> Command:
    """Return what the help of a command says."""
    paragraphs = [" ".join(part.split()) for part in cleandoc(command.help or "").split("\n\n") if part.strip()]
    parameters = [parameter for parameter in command.get_params(context) if not getattr(parameter, "hidden", False)]
    return Command(
        path=context.command_path,
        usage=" ".join([context.command_path, *command.collect_usage_pieces(context)]),
        summary=paragraphs[0] if paragraphs else "",
        paragraphs=paragraphs,
        examples=list(getattr(command, "examples", ())),
        arguments=[p.make_metavar(context) for p in parameters if isinstance(p, click.Argument)],
        options=[_option(p, context) for p in parameters if isinstance(p, click.Option)],
        epilog=" ".join((command.epilog or "").split()),
    )


def _option(option: click.Option, context: click.Context) -> Parameter:
    names = ", ".join([*option.opts, *option.secondary_opts])
    shown = names if option.is_flag or option.count else f"{names} {option.make_metavar(context)}"
    extra = option.get_help_extra(context)
    notes = [f"default: {extra['default']}"] if "default" in extra else []
    notes += [f"range: {extra['range']}"] if "range" in extra else []
    notes += ["may be repeated"] if option.multiple else []
    notes += ["required"] if option.required else []
    return Parameter(shown, option.help or "", notes)
