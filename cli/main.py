"""The entry point. Nothing else is imported before an interruption can be told in one sentence."""

from __future__ import annotations

import sys

INTERRUPTED = 130


def group() -> object:
    """Return all commands, a `click.Group`, to be described."""
    from eelit.cli.group import eelit

    return eelit


def main() -> None:
    """Run the command line. Raises `SystemExit`."""
    try:
        from eelit.cli.group import run

        run()
    except KeyboardInterrupt:  # while the command line or one of its commands was still being imported
        print("eelit: interrupted", file=sys.stderr)
        raise SystemExit(INTERRUPTED) from None
