"""What a user sees on stderr while something is fetched."""

import sys
import time
from collections.abc import Callable

Progress = Callable[[int, int], None]  # bytes so far, bytes expected

WIDTH = 30
PAUSE = 5.0  # seconds between lines where stderr is no terminal


def say(text: str) -> None:
    """One line for the user."""
    print(f"eelit: {text}", file=sys.stderr, flush=True)


def megabytes(size: int) -> str:
    """A size in bytes for people, in units of 10⁶ bytes."""
    return f"{size / 1e6:.1f} MB" if size < 10e6 else f"{size / 1e6:.0f} MB"


class Bar:
    """Shows bytes as they arrive: a bar redrawn in place on a terminal, elsewhere now and then a line."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._drawn = False
        self._last = time.monotonic()

    def __call__(self, done: int, expected: int) -> None:
        """Show that `done` of about `expected` bytes are there."""
        share = min(done / max(expected, 1), 1.0)
        if self._terminal:
            full = round(WIDTH * share)
            bar = "#" * full + "." * (WIDTH - full)
            print(f"\r  [{bar}] {megabytes(done)} of {megabytes(expected)} ", end="", file=sys.stderr, flush=True)
            self._drawn = True
        elif time.monotonic() - self._last > PAUSE:
            self._last = time.monotonic()
            say(f"  {megabytes(done)} of {megabytes(expected)} ({share:.0%})")

    def close(self) -> None:
        """Leave the line of the bar."""
        if self._drawn:
            print(file=sys.stderr, flush=True)
