"""The `eelit` command; each of its commands is imported only when it is asked for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from eelit.catalog.faults import FULL, INTERRUPTED, NOT_WRITTEN, RUN_FAILED, CatalogueFault, not_written
from eelit.cli import streams

# The first sentence of each command stands here too, so that `eelit --help` need not import them all.
COMMANDS = {
    "find": "Find works by facet, text, year, author or venue.",
    "show": "Show everything that the catalogue has on one work.",
    "gaps": "Show how many works combine a placement with a policy, and which combinations no work has.",
    "taxonomy": "Show the terms of the four facets, and how many works have each.",
    "cite": "Print references as BibTeX, RIS or CSL-JSON.",
    "graph": "Explore which works cite, extend or criticise each other.",
    "methods": "List the methods that can be run here.",
    "run": "Train and measure a method on real data.",
    "bench": "Measure the methods of a track with several seeds.",
    "leaderboard": "Rank the methods of a track at equal cost.",
    "compare": "Compare methods of a track: curves, costs, claims; or policies on your logits.",
    "calibrate": "Choose an exit policy and its setting for your logits, with a guarantee.",
    "advise": "Tell whether early exit is worth it for your network, from its logits.",
    "export": "Export a kept network to ONNX, one file per exit, and print the loop that runs it.",
    "smoke": "Run every method briefly, and report which of them work.",
    "data": "List, fetch and verify the data sets and models.",
    "new": "Start a new work: its entry, and a method with claims and test.",
    "add": "Add a work from the records of bibliographic services.",
    "sync": "Update citations and records from bibliographic services.",
    "check": "Check the whole catalogue and report all problems.",
    "doctor": "Look for possible problems in the catalogue, and fix what is safe to fix.",
    "build": "Build the catalogue database.",
    "mcp": "Serve the catalogue to models, read only.",
    "site": "Build or serve the documentation site.",
}
EXIT_CODES = (
    "0 found, 1 nothing found, 2 wrong usage, an unknown name or a missing package, 3 invalid data, 4 a run failed, "
    "5 something could not be written (a full disk, missing permission, a closed output), 130 interrupted"
)


class Failure(click.ClickException):
    """A fault said in one sentence, with its own exit code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.exit_code = code  # type: ignore[misc]  # click declares it for the class, but reads it from the instance

    def show(self, file: Any = None) -> None:
        """Print the sentence on stderr."""
        click.echo(f"eelit: {self.format_message()}", err=True, file=file)


class LazyGroup(click.Group):
    """A group that knows its commands by name and imports one when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command of this name."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"eelit.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command, or say which one may have been meant."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from eelit.bib.problems import did_you_mean

            ctx.fail(f"no such command `{args[0]}`{did_you_mean(args[0], tuple(COMMANDS))}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; whatever goes wrong is said in one sentence unless --debug is given."""
        with _plainly():
            return super().invoke(ctx)

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Read the command line; help is printed here."""
        with _plainly():
            return super().make_context(*args, **extra)


@contextmanager
def _plainly() -> Iterator[None]:
    """End whatever goes wrong meanwhile in one sentence and with the exit code for it."""
    try:
        yield
    except (KeyboardInterrupt, click.Abort) as error:
        click.echo("eelit: interrupted", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from error
    except (click.ClickException, click.exceptions.Exit):
        raise
    except Exception as error:
        told = _told(error)
        if debugging() and isinstance(told, Failure):
            raise
        raise told from error


def _told(error: Exception) -> Failure | click.exceptions.Exit:
    """Return how to end: an error that nobody foresaw is a failed run."""
    if isinstance(error, OSError):
        return _told_of_system(error)
    if isinstance(error, ModuleNotFoundError):
        from eelit.catalog.extras import missing

        error = missing(error) or error
    if not isinstance(error, CatalogueFault):
        return _unforeseen(error)
    if not str(error):  # a build in another process has already spoken
        return click.exceptions.Exit(error.code)
    return Failure(str(error), error.code)


def _told_of_system(error: OSError) -> Failure | click.exceptions.Exit:
    """Return how to end when something, maybe the output itself, cannot be written or read."""
    lost = streams.lost()
    if lost and isinstance(error, BrokenPipeError):
        return click.exceptions.Exit(0)  # the reader, e.g. `head`, has seen enough
    if error.errno not in (*FULL, errno.EROFS):
        return _unforeseen(error)
    remedy = "choose another place (EELIT_CACHE for the cache, TMPDIR for temporary files)"
    return _told(not_written("the output" if lost else error.filename or "a file", error, remedy))


def _unforeseen(error: Exception) -> Failure:
    said = " ".join(str(error).split()) or "no further message"
    return Failure(f"{type(error).__name__}: {said} (use --debug to see where)", RUN_FAILED)


def debugging() -> bool:
    """Tell whether tracebacks are wanted."""
    context = click.get_current_context(silent=True)
    return bool(context and context.meta.get("eelit.debug"))


def _remember_debug(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        ctx.meta["eelit.debug"] = True  # click shares `meta` between a group and its commands


def debug_option() -> click.Option:
    """Return the option `--debug`, which every command takes."""
    return click.Option(
        ["--debug"],
        is_flag=True,
        expose_value=False,
        is_eager=True,
        callback=_remember_debug,
        help="Show the traceback of an error.",
    )


def _remember_database(ctx: click.Context, _: click.Parameter, value: str | None) -> None:
    if value == "":
        raise click.BadParameter("the name of a file is empty; give one, or leave the option out")
    if value:
        ctx.meta["eelit.db"] = value


def database_option() -> click.Option:
    """Return the option `--db`, which may stand before or after the name of a command that reads the catalogue."""
    return click.Option(
        ["--db"],
        metavar="FILE",
        expose_value=False,
        callback=_remember_database,
        help="Use this catalogue database (also: EELIT_DB; default: in the user's cache).",
    )


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=f"Exit codes: {EXIT_CODES}. A work is named by key, short name or alias: zhou2020pabee, PABEE, pabee.",
)
@click.option("--root", metavar="DIR", hidden=True, help="Read the sources from this checkout (also: EELIT_ROOT).")
@click.version_option(package_name="eelit", message="eelit %(version)s")
def eelit(root: str | None) -> None:
    """The early-exit literature, runnable.

    Start with `eelit find --policy patience`, `eelit show pabee` and `eelit run pabee`.
    """
    if root:
        os.environ["EELIT_ROOT"] = root  # in the environment, because builds run in a process of their own


eelit.params += [database_option(), debug_option()]


def run() -> None:
    """Run the command line. Raises `SystemExit`."""
    if reason := streams.guard():
        Failure(reason, NOT_WRITTEN).show()
        raise SystemExit(NOT_WRITTEN)
    eelit(prog_name="eelit")
