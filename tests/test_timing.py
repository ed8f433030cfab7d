"""Seconds of a method and of the full model, taken so that both meet the same machine."""

import pytest

from eelit.methods.engine import timing


def test_each_batch_is_taken_in_turn_and_medians_add_up(monkeypatch):
    now, log = [0.0], []

    def take(who, seconds):
        def run(x):
            log.append((who, x))
            burst = 100.0 if log.count((who, x)) == 2 else 0.0  # the machine does something else for a while
            now[0] += seconds * x + burst

        return run

    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])
    ours, plain = timing.in_turn(take("ours", 1.0), take("plain", 3.0), [1, 2], repeats=3)
    assert (ours, plain) == (pytest.approx(3.0), pytest.approx(9.0))
    assert log[2:] == [(who, x) for x in (1, 2) for _ in range(3) for who in ("ours", "plain")]
