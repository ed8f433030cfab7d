"""What `make bench` says of streams and of what `infer` takes: a bar that is missed is marked, and fails."""

import bench_stream
import pytest
import torch
from bench_stream import by_hand, encoder, overhead, perceptron, streams, threshold

from eelit.methods.engine.evaluate import infer


def tokens(n):
    return torch.randint(0, 1000, (n, 5), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def small(monkeypatch):
    model = encoder(32, layers=4)
    for name, value in {"trained": lambda: (model, tokens(30)), "SAMPLES": 36, "ARRIVALS": (1, 12)}.items():
        monkeypatch.setattr(bench_stream, name, value)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(("bar", "met"), [(-1e9, True), (1e9, False)])
def test_streams_are_set_beside_the_full_model(bar, met, monkeypatch, capsys):
    monkeypatch.setattr(bench_stream, "EFFICIENCY", bar)
    assert streams(1) is met
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split()[:3] == ["arrival", "MACs", "saved"]
    assert [line.split()[0] for line in lines[3:]] == ["1", "12"]
    assert all(0.3 < float(line.split()[1]) < 0.7 for line in lines[3:])
    assert all(("missed" in line) is not met for line in lines[3:])


@pytest.mark.usefixtures("small")
def test_exits_that_differ_are_no_success(monkeypatch):
    monkeypatch.setattr(bench_stream, "EFFICIENCY", -1e9)
    monkeypatch.setattr(
        bench_stream, "infer_stream", lambda model, came, policy: [infer(model, x, _never) for x in came]
    )
    assert not streams(1)


_never = bench_stream.MaxConfidence(1.1)


@pytest.mark.parametrize(("bar", "met"), [(1e9, True), (-1e9, False), (None, True)])
def test_infer_is_set_beside_a_loop_by_hand(bar, met, monkeypatch, capsys):
    monkeypatch.setattr(bench_stream, "ALONE", (3,))
    assert overhead(encoder(32, layers=3), tokens, "small", 1, bar) is met
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[2:]] == [["3", "nobody"], ["3", "half"]]


@pytest.mark.parametrize("size", [1, 9])
def test_the_loop_by_hand_says_what_infer_says(size):
    torch.manual_seed(1)
    model, x = perceptron(8, layers=5), torch.randn(size, 8)
    policy, _ = threshold(model, x)
    found, (exits, answers) = infer(model, x, policy), by_hand(model, x, policy.threshold)
    assert exits.tolist() == found.exits.tolist()
    assert torch.equal(answers, found.answers)
