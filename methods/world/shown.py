"""A simulated world as results tell it: rates over time, and in words what stays as it is."""

from __future__ import annotations

import math

from eelit.methods.engine.records import Rate, Simulation
from eelit.methods.world.stream import World
from eelit.methods.world.traces import Trace

SECONDS = 120.0
"""Simulated seconds of a world that are told."""


def shown(world: World, seconds: float = SECONDS) -> Simulation:
    """Return the first seconds of a chain of machines and links."""
    machines = ["device", *(f"machine {number + 1}" for number in range(1, len(world.computers)))]
    parts = [
        (name, "speed", computer.speed, "billion MACs/s", 1e9)
        for name, computer in zip(machines, world.computers, strict=True)
    ]
    parts += [(f"link {i + 1}", "bandwidth", link.bandwidth, "Mbit/s", 1e6) for i, link in enumerate(world.links)]
    rates, constants = [], []
    for name, what, trace, unit, scale in parts:
        times, values = _first(trace, seconds)
        if len(set(values)) > 1:
            rates.append(Rate(part=f"{name}, {what}", unit=unit, times=times, rates=[each / scale for each in values]))
        else:
            constants.append(f"{name}, {what}: {values[0] / scale:.4g} {unit}")
    constants += [f"link {i + 1}: {1000 * link.round_trip:.4g} ms there and back" for i, link in enumerate(world.links)]
    if power := world.power:
        constants.append(
            f"device: {power.computing:g} W computing, {power.sending:g} W sending, {power.waiting:g} W waiting"
        )
    if math.isfinite(world.patience):
        constants.append(f"after {1000 * world.patience:.4g} ms without an answer the device answers by itself")
    return Simulation(seconds=seconds, rates=rates, constants=constants)


def _first(trace: Trace, seconds: float) -> tuple[list[float], list[float]]:
    """Return times and rates of a trace, which begins anew at its end, up to a second."""
    times: list[float] = []
    rates: list[float] = []
    begun = 0.0
    while begun < seconds:
        for time, rate in zip(trace.times, trace.rates, strict=True):
            if begun + time < seconds and (not rates or rate != rates[-1]):
                times.append(begun + time)
                rates.append(rate)
        begun += trace.end
    return times, rates
