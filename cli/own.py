"""What the commands on your own logits share: the options that say what is read, and errors in one sentence."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from eelit.catalog.faults import INVALID_DATA, USAGE
from eelit.cli.command import SEED, Place
from eelit.cli.group import Failure
from eelit.cli.run import ProgressLine

if TYPE_CHECKING:
    from eelit.methods.own.logits import Logits

SOURCE = ("labels", "groups", "costs", "plain_costs", "unit", "axes", "kind")
"""Options that say what is read, beside the file."""


def logits_options(*, required: bool) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add the options that say what is read and how it is divided."""
    options = [
        click.option("--logits", type=Place(), required=required, metavar="FILE",
                     help="Outputs of all exits: .npz, .npy, .safetensors, .csv or .parquet; or example:text, "
                          "example:images, example:images-plain, which come with eelit."),
        click.option("--labels", type=Place(), metavar="FILE", help="Labels, if they are not in the same file."),
        click.option("--groups", type=Place(), metavar="FILE",
                     help="Which samples belong together, such as those of one patient: a number for each sample; "
                          "default: the file's, else all samples are independent."),
        click.option("--costs", metavar="A,B,…|FILE",
                     help="Cumulative cost of each exit; default: the file's, or 1, 2, …"),
        click.option("--plain-costs", metavar="A,B,…|FILE",
                     help="The same for networks whose only head is at this exit; shows what heads cost."),
        click.option("--unit", metavar="WORD", help="Unit of the costs, such as MACs or ms."),
        click.option("--axes", type=click.Choice(["enc", "nec", "en", "ne"]),
                     help="Order of the axes exits, samples (n), classes; default: inferred from the sizes."),
        click.option("--kind", type=click.Choice(["logits", "probabilities", "values"]),
                     help="What the outputs are; default: inferred from the values."),
        click.option("--settings", type=click.IntRange(2, 1000), default=50, show_default=True,
                     help="How many settings of each policy are tried."),
    ]  # fmt: skip

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        for option in reversed(options):
            function = option(function)
        return function

    return add


seed_option = click.option(
    "--seed", type=SEED, default=0, show_default=True, help="Seed for dividing the samples into halves."
)


@contextmanager
def reading() -> Iterator[ProgressLine]:
    """End what is wrong with a file or a goal in one sentence; yields the line that tells how far one is."""
    from eelit.methods.own.logits import WrongLogits

    bar = ProgressLine()
    try:
        yield bar
    except WrongLogits as error:
        raise Failure(str(error), INVALID_DATA) from error
    except (FileNotFoundError, IsADirectoryError, PermissionError) as error:
        raise Failure(f"{error.filename} cannot be read ({(error.strerror or '').lower()})", USAGE) from error
    except MemoryError as error:
        raise Failure(
            "there is not enough memory; a .npy or uncompressed .npz is read piece by piece", INVALID_DATA
        ) from error
    finally:
        bar.clear()


def read_logits(options: dict[str, Any]) -> Logits:
    """Return the outputs that the options name; what is not read of them is said on stderr."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        found = _read(options)
    for each in told:
        click.echo(f"eelit: {each.message}", err=True)
    return found


def _read(options: dict[str, Any]) -> Logits:
    from eelit.methods.own import files

    labels, costs, plain = options["labels"], options["costs"], options["plain_costs"]
    groups = options["groups"]
    return files.read(
        options["logits"],
        labels=None if labels is None else files.array(labels),
        groups=None if groups is None else files.array(groups),
        costs=None if costs is None else _costs("costs", costs),
        plain_costs=None if plain is None else _costs("plain-costs", plain),
        axes=options["axes"],
        kind=options["kind"],
        unit=options["unit"],
    )


def _costs(name: str, text: str) -> Any:
    from eelit.methods.own import files

    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        if not Path(text).suffix:
            raise click.UsageError(f"--{name} takes numbers such as 1,2,3 or a file, not {text}") from None
        return files.array(text)
