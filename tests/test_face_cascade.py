"""A cascade that others trained and released rejects early as the ball detector does: MTCNN's three networks on faces.

Each network is asked about what the one before let pass; only the last may say "a face". Networks are rebuilt here to
the shapes of their released weights; pieces of 25×25 pixels are enlarged to the size that each network looks at.
"""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.data import fetch
from eelit.methods.engine import costs
from eelit.methods.engine.cascade import Cascade
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.members import Network
from eelit.methods.papers.moos2023ball import BallDetector
from eelit.methods.policies.score_threshold import ScoreThreshold

RELEASED = (0.6, 0.7, 0.7)
"""Least probability of a face behind each network, in the package that has the weights."""


class Window(nn.Module):
    """One network: a picture is brought to its side; the state dict's names are those of the layers here."""

    def __init__(self, side, convolutions, pools, *, hidden=0):
        super().__init__()
        self.side, self.pools, before = side, pools, 3
        for i, (channels, kernel) in enumerate(convolutions, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(before, channels, kernel))
            self.add_module(f"prelu{i}", nn.PReLU(channels))
            before = channels
        self.layers, n = len(convolutions), len(convolutions) + 1
        self.dense = f"dense{n}" if hidden else ""
        if hidden:
            self.add_module(self.dense, nn.Linear(before * 3 * 3, hidden))
            self.add_module(f"prelu{n}", nn.PReLU(hidden))
        self.said = f"dense{n + 1}_1" if hidden else "conv4_1"
        self.add_module(self.said, nn.Linear(hidden, 2) if hidden else nn.Conv2d(before, 2, 1))

    def forward(self, x):
        x = F.interpolate(x, (self.side, self.side), mode="bilinear").expand(-1, 3, -1, -1)
        x = (x * 255 - 127.5) / 128
        for i in range(1, self.layers + 1):
            x = getattr(self, f"prelu{i}")(getattr(self, f"conv{i}")(x))
            if i <= len(self.pools):
                x = F.max_pool2d(x, self.pools[i - 1], 2, ceil_mode=True)
        if self.dense:  # the weights are of a library that counts columns before rows
            x = getattr(self, f"prelu{self.layers + 1}")(getattr(self, self.dense)(x.permute(0, 3, 2, 1).flatten(1)))
        face = getattr(self, self.said)(x).flatten(1).softmax(dim=1)[:, 1]
        return {"answer": face, "rejection": -face}


def released(name, *layout, **more):
    """A network with its weights, but for the parts that say where a face and its eyes are."""
    found = Window(*layout, **more)
    weights = torch.load(fetch.path("mtcnn") / f"{name}.pt", weights_only=True)
    mine = found.state_dict()
    assert {key.split(".")[0].split("_")[-1] for key in weights if key not in mine} <= {"2", "3"}
    found.load_state_dict({key: weights[key] for key in mine})
    return found.eval()


@pytest.fixture(scope="module")
def cascade():
    fetch.fetch("mtcnn")
    small = released("pnet", 12, [(10, 3), (16, 3), (32, 3)], (2,))
    middle = released("rnet", 24, [(28, 3), (48, 3), (64, 2)], (3, 3), hidden=128)
    large = released("onet", 48, [(32, 3), (64, 3), (64, 3), (128, 2)], (3, 3, 2), hidden=256)
    return Cascade([Network(network) for network in (small, middle, large)])


@pytest.fixture(scope="module")
def pieces():
    fetch.fetch("faces")
    return torch.from_numpy(np.load(fetch.path("faces") / "lfw_subset.npy"))[:, None].float()


@pytest.fixture(scope="module")
def seen(cascade, pieces):
    """What each network says of each piece, and what it costs."""
    with torch.inference_mode():
        told = [member(pieces) for member in cascade.members]
    outputs = {name: torch.stack([each[name] for each in told]) for name in ("answer", "rejection")}
    return outputs, np.array([member.costs(pieces)[0] for member in cascade.members])


def thresholds(*least):
    """Stop, rejected, at a probability below the least one: the ball detector's rule, one rho for each network."""
    return ScoreThreshold(tuple(-p for p in least), of="rejection")


def test_each_network_tells_faces_from_others(seen):
    """The area under the curve: the share of pairs of a face and another piece that are in order."""
    areas = [(p[:100, None] > p[None, 100:]).float().mean().item() for p in seen[0]["answer"]]
    assert areas[0] > 0.99
    assert min(areas[1:]) > 0.999


def test_multiply_accumulates_by_hand(seen):
    small = 10 * 27 * 10**2 + 16 * 90 * 3**2 + 32 * 144 + 2 * 32
    middle = 28 * 27 * 22**2 + 48 * 252 * 9**2 + 64 * 192 * 3**2 + 576 * 128 + 128 * 2
    large = 32 * 27 * 46**2 + 64 * 288 * 21**2 + 64 * 576 * 8**2 + 128 * 256 * 3**2 + 1152 * 256 + 256 * 2
    assert seen[1].tolist() == [small, middle, large]


def test_most_pieces_without_a_face_meet_the_smallest_network_alone(cascade, pieces, seen):
    outputs, macs = seen
    course = cascade.run(pieces, thresholds(*RELEASED))
    asked = [int((course.exits >= i).sum()) for i in range(3)]
    assert asked[0] == 200
    assert (course.exits[100:] == 0).float().mean() > 0.7
    assert (course.exits[:100] == 2).float().mean() > 0.9
    counted = costs.count(lambda: cascade.run(pieces, thresholds(*RELEASED)))
    assert counted == sum(n * cost for n, cost in zip(asked, macs, strict=True))
    assert counted < 0.6 * 200 * macs[-1], "faces are half of the pieces here, and each pays for all three"
    others = sum(int((course.exits[100:] >= i).sum()) * macs[i] for i in range(3)) / 100
    assert others < macs[-1] / 10
    assert np.array_equal(course.exits.numpy(), replay(thresholds(*RELEASED), outputs))


def test_who_rejects_early_adds_no_face_and_a_lower_threshold_loses_none(cascade, seen):
    outputs, _ = seen
    last = outputs["answer"][-1] >= RELEASED[-1]
    before = torch.zeros(200, dtype=torch.bool)
    for rho in (1.1, 0.9, 0.6, 0.3, 0.1, 0.0):
        found = torch.from_numpy(replay(BallDetector().policy(rho, None), outputs) == 2) & last
        assert not (found & ~last).any()
        assert not (before & ~found).any()
        before = found
    assert torch.equal(before, last)
