"""Seconds of a method and of the full model, taken so that both meet the same machine."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

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
    ours, plain = timing.in_turn(take("ours", 1.0), take("plain", 3.0), [1, 2], repeats=3, devices=())
    assert (ours, plain) == (pytest.approx(3.0), pytest.approx(9.0))
    assert log[2:] == [(who, x) for x in (1, 2) for _ in range(3) for who in ("ours", "plain")]


def test_what_is_used_up_is_copied_for_each_of_the_two_and_copying_is_not_timed(monkeypatch):
    now, held = [0.0], [7]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: now[0])

    def anew(x):
        now[0] += 100.0
        return list(x)

    def use_up(seconds):
        def run(x):
            now[0] += seconds * x.pop()

        return run

    ours, plain = timing.in_turn(use_up(1.0), use_up(3.0), [held], 2, (), anew)
    assert (ours, plain) == (pytest.approx(7.0), pytest.approx(21.0))
    assert held == [7]


@pytest.fixture
def slow(monkeypatch):
    """A device that does what it is asked for only when somebody waits; torch has none of that name."""
    clock, asked = [0.0], []

    def wait(device):
        assert device == FAR
        clock[0] += sum(asked)
        asked.clear()

    monkeypatch.setattr(torch, "meta", SimpleNamespace(synchronize=wait), raising=False)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    return asked


FAR = torch.device("meta")


def test_what_a_device_has_still_to_do_is_waited_for(slow):
    ours, plain = timing.in_turn(slow.append, lambda x: slow.append(3 * x), [1.0, 2.0], repeats=3, devices={FAR})
    assert (ours, plain) == (pytest.approx(3.0), pytest.approx(9.0))
    ours, plain = timing.in_turn(slow.append, slow.append, [1.0], repeats=1, devices={torch.device("cpu")})
    assert (ours, plain) == (0, 0)


def test_networks_are_where_their_weights_are():
    here, there = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2, device="meta"), nn.Linear(2, 2))
    assert timing.devices_of(here) == {torch.device("cpu")}
    assert timing.devices_of(here, there) == {torch.device("cpu"), FAR}
    assert timing.devices_of(nn.Identity()) == set()


def test_what_was_asked_for_before_is_not_the_next_ones_time(slow):
    slow.append(100.0)
    ours, plain = timing.in_turn(slow.append, slow.append, [1.0], repeats=1, devices={FAR})
    assert (ours, plain) == (1, 1)
