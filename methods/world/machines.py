"""Computers, links, and what a device's battery gives: each in units, with formulas that say what is modelled."""

from __future__ import annotations

from dataclasses import dataclass

from eelit.methods.world.traces import Trace

BITS = 8
"""Bits of a byte."""


@dataclass(frozen=True)
class Computer:
    """A machine that does one thing after the other: a task takes its multiply-accumulates ÷ speed."""

    speed: Trace  # multiply-accumulates per second

    def finish(self, start: float, macs: float) -> float:
        """Return the second at which a task is done that starts at second ``start``."""
        return self.speed.finish(start, macs)


@dataclass(frozen=True)
class Link:
    """A line between two machines, the same both ways: bytes follow each other at its bandwidth, and travel a while."""

    bandwidth: Trace  # bits per second
    round_trip: float  # seconds that a bit travels there and back

    def sent(self, start: float, size: int) -> float:
        """Return the second at which the last of ``size`` bytes has left."""
        return self.bandwidth.finish(start, BITS * size)

    @property
    def travel(self) -> float:
        """Seconds that a bit travels one way."""
        return self.round_trip / 2


@dataclass(frozen=True)
class Power:
    """What a device draws, in watts: ``E = computing · t_c + sending · t_s + waiting · t_w`` joules for a sample.

    t_c and t_s are the seconds that it computes and sends for the sample, t_w those that it otherwise waits for it.
    """

    computing: float
    sending: float
    waiting: float

    def joules(self, computing: float, sending: float, waiting: float) -> float:
        """Return the joules that so many seconds take."""
        return self.computing * computing + self.sending * sending + self.waiting * waiting
