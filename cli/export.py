"""`eelit export`: a kept network as ONNX files, one for each exit, and the program that runs them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from zipfile import BadZipFile

import click

from eelit.catalog.extras import demand
from eelit.catalog.faults import INVALID_DATA, USAGE, writing
from eelit.cli.command import Place, eelit_command
from eelit.cli.group import Failure
from eelit.cli.run import ELSEWHERE


@eelit_command("eelit export network --inputs example.npz --out onnx > loop.py", "eelit export onnx > loop.py")
@click.argument("folder", type=Place())
@click.option(
    "--inputs",
    type=Place(),
    metavar="FILE",
    help="An example of at least two samples: .npz with the network's arguments by name, or .npy.",
)
@click.option("--out", type=Place(), metavar="FOLDER", help="Where the ONNX files are written.")  # fmt: skip
def command(folder: Path, inputs: Path | None, out: Path | None) -> None:
    """Export a kept network to ONNX, one file per exit, and print the loop that runs it.

    FOLDER is where `Network.save` wrote a network made of a model of transformers; others are exported in Python, by
    `Network.export`. Each file holds a stage and its head: its first output is what the exit says, the others are the
    state that the next file takes. The files are proved by running them. If they are in FOLDER already, the loop alone
    is printed: `python loop.py FOLDER inputs.npz rule.json` runs each stage for those who have not left yet, with
    onnxruntime, the rule that `eelit calibrate` wrote, and no torch.
    """
    from eelit.methods.own import deployed

    with _reading(folder):
        exported = (folder / deployed.NAME).is_file()
        if exported and (inputs is not None or out is not None):
            raise click.UsageError(f"{folder} holds ONNX files already; give it alone")
        if not exported:
            if inputs is None or out is None:
                raise click.UsageError("give an example by --inputs, and by --out where the files shall be")
            _export(folder, inputs, out)
    click.echo(deployed.program(out or folder), nl=False)
    if out is not None:
        click.echo(f"eelit: wrote {out}", err=True)


def _export(folder: Path, inputs: Path, out: Path) -> None:
    demand("run", "torch", "transformers", "safetensors")
    demand("onnx")
    from eelit.methods.own.export import example_in
    from eelit.methods.own.kept import load
    from eelit.methods.own.network import Network

    network = load(folder)
    if not isinstance(network, Network):
        raise Failure(f"{folder} holds a language model, whose tokens leave one by one; it has no stages", INVALID_DATA)
    example = example_in(inputs)
    with writing(out, ELSEWHERE):
        network.export(out, example)


@contextmanager
def _reading(folder: Path) -> Iterator[None]:
    """End what is wrong with files and networks in one sentence."""
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise Failure(f"{error.filename or folder} cannot be read ({(error.strerror or '').lower()})", USAGE) from error
    except (ValueError, BadZipFile) as error:  # of networks, exporting and arrays
        raise Failure(str(error), INVALID_DATA) from error
