"""Results as a benchmark stores them, made up for tests of what is done with them."""

from datetime import UTC, datetime, timedelta

from eelit.methods.engine.records import Baseline, Curve, Effort, Machine, OperatingPoint, Outcome, Result
from eelit.methods.harness import bench

KEY = "zhou2020pabee"


def point(share, quality, knob=0.0):
    return OperatingPoint(knob=knob, quality=quality, cost=100 * share, speed_up=1 / share, exits=[1.0])


def curve(gain=0.0, variant=""):
    test = [point(0.2, 0.6 + gain), point(0.6, 0.8 + gain), point(1.0, 0.8)]
    return Curve(
        variant=variant, knob="threshold", quality="accuracy", unit="MACs", full_quality=0.8, full_cost=100.0,
        validation=[point(0.2, 0.6), point(0.6, 0.8), point(1.0, 0.8)], test=test, executions=[],
        baselines=[Baseline(name="static exit", validation=test[:1], test=[point(0.2, 0.6)])],
    )  # fmt: skip


def result(seed=0, code="", gain=0.0, key=KEY, holds=True, created=0):
    return Result(
        key=key, scale="full", seed=seed, settings={}, data={"examples": "abc"}, curves=[curve(gain)],
        claims=[Outcome(name="a gain", statement="It gains.", holds=holds, measured=f"{gain:+g}")], checks=[],
        prepared_seconds=1.0, prepared_from_cache=False,
        training=Effort(seconds=10.0, steps=100), rivals=Effort(seconds=5.0, steps=50),
        code=code or bench.code(key), seconds=2.0,
        created=datetime(2026, 11, 22, tzinfo=UTC) + timedelta(hours=created), commit="c", versions={},
        machine=Machine(system="s", processor="p", cores=2, threads=2),
    )  # fmt: skip
