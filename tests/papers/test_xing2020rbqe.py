"""What only RBQE promises: the nested network and the score of the released code, weights by quality."""

import io
import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from eelit.methods.claims import xing2020rbqe as claimed
from eelit.methods.data import photographs
from eelit.methods.engine.evaluate import replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.harness import registry
from eelit.methods.papers.xing2020rbqe import SCALE, Quality, Rbqe, blockiness, chebyshev, mean_where, psnr

KEY = "xing2020rbqe"
GOLDEN = Path(__file__).parents[1] / "data" / "golden" / f"{KEY}.json"


@pytest.fixture(scope="module")
def golden():
    return json.loads(GOLDEN.read_text())


def tiny(**settings):
    return registry.get(KEY).variant("weights by quality", "tiny").replace(settings)


def pictures(*arrays):
    return torch.tensor(np.array(arrays), dtype=torch.float64) / 255


def made(exits=5, side=64, **settings):
    """A network of so many exits, for pictures of a side."""
    method = tiny(**{"exits": exits, "side": side, "seen_side": side, **settings})
    some = Examples([torch.zeros(1, side, side)], torch.zeros(1, side, side))
    return method.build(Data(some, some, some, None, ""), seed=0).eval()


# The network.


class Undone(nn.Module):
    """The first convolutions, on pictures as they are."""

    def __init__(self, first, mean):
        super().__init__()
        self.first, self.mean = first, mean

    def forward(self, x):
        return self.first(x / SCALE + self.mean)


def test_all_exits_say_what_the_released_network_says(golden):
    model, told = made(channels=32), golden["network"]
    assert sum(p.numel() for p in model.parameters()) == told["parameters"]
    with torch.no_grad():
        for p in model.parameters():
            wave = torch.cos(torch.arange(p.numel(), dtype=torch.float64) * 0.7)
            size = 1.5 / (p[0].numel() if p.dim() > 1 else 40) ** 0.5
            p.copy_((wave * size).reshape(p.shape))
        x = 0.5 + 0.5 * torch.sin(torch.arange(64 * 64, dtype=torch.float64) * 0.13)
        x = x.reshape(1, 64, 64).float()
        model.stages[0].first = Undone(model.stages[0].first, x.mean())
        outs = x + SCALE * (model(x[:, None])["answer"] - x)
    assert torch.allclose(outs[:, 0, [5, 31, 60], [7, 32, 1]], torch.tensor(told["pixels"]), atol=2e-4)


def test_an_exit_needs_no_node_behind_it():
    x = torch.rand(2, 1, 64, 64)
    for k, (_, rows) in enumerate(made().states(x), start=1):
        assert [len(row) for row in rows] == [k - i + 1 for i in range(k + 1)]
        assert [row[0].shape[-1] for row in rows] == [64 // 2**i for i in range(k + 1)]
        assert all(node.shape[-1] == 64 // 2**i for i, row in enumerate(rows) for node in row)


def test_a_state_is_left_as_it_was():
    model, x = made(exits=3, side=16), torch.rand(1, 1, 16, 16)
    state = model.stages[0](x)
    model.stages[1](state)
    assert [len(row) for row in state[1]] == [2, 1]


def test_at_first_every_exit_returns_what_came():
    model, x = made(exits=3, side=16), torch.rand(3, 1, 16, 16)
    assert torch.equal(model(x)["answer"], x[:, 0].expand(3, 3, 16, 16))


def test_signals_keep_their_size_to_the_deepest_scale():
    *_, (_, rows) = made(channels=16).states(torch.rand(4, 1, 64, 64))
    assert all(0.01 < node.std().item() < 10 for row in rows for node in row)


def test_the_last_exit_is_not_scored_and_none_in_training():
    model = made(exits=3, side=16)
    assert [type(head.quality) for head in model.heads] == [Quality, Quality, type(None)]
    assert isinstance(model.train()(torch.rand(1, 1, 16, 16)), torch.Tensor)


# The score.


def test_chebyshev_polynomials_are_orthonormal():
    for size in (2, 4, 8):
        rows = chebyshev(size)
        assert torch.allclose(rows @ rows.T, torch.eye(size, dtype=torch.float64), atol=1e-12)
    expected = [[0.5, 0.5, 0.5, 0.5], [-0.6708, -0.2236, 0.2236, 0.6708], [0.5, -0.5, -0.5, 0.5]]
    assert torch.allclose(chebyshev(4)[:3], torch.tensor(expected, dtype=torch.float64), atol=1e-4)


def test_the_score_is_that_of_the_released_code(golden):
    y, x = np.mgrid[:32, :32]
    picture = pictures((120 + 3 * np.sin(y * 0.9) + 4 * (x > 15) + 60 * (y > 20) * np.sin(x * 2.1)).round())
    for block, told in golden["score"].items():
        quality = Quality(int(block))
        blocking, blur, textured = quality.parts(picture)
        assert int(textured.sum()) == told["textured"]
        assert int((~textured).sum()) == told["smooth"]
        assert mean_where(blocking, ~textured).item() == pytest.approx(told["blocking"], abs=1e-8)
        assert mean_where(blur, textured).item() == pytest.approx(told["blur"], abs=1e-8)
        assert quality(picture).item() == pytest.approx(told["score"], abs=1e-8)


def test_flat_and_black_pictures_score_0():
    found = Quality(8)(pictures(np.full((16, 16), 77), np.zeros((16, 16))))
    assert found.tolist() == pytest.approx([0, 0], abs=1e-6)


def test_noise_on_a_smooth_patch_is_no_blocking():
    noisy = 128 + np.random.default_rng(0).integers(-2, 3, (32, 32))
    quality = Quality(8)
    assert not quality.parts(pictures(noisy))[2].any()
    assert quality(pictures(noisy)).item() > 0.95


def test_a_weak_edge_between_blocks_counts_for_one_direction():
    step = np.where(np.arange(16) < 8, 100, 103)[None].repeat(16, axis=0)
    blocking, _, textured = Quality(8).parts(pictures(step))
    assert not textured.any()
    assert blocking.item() == pytest.approx(math.log(1 - 0.025) / math.log(0.95))


def test_blockiness_is_clipped_at_both_ends():
    M = torch.zeros(2, 4, 4, dtype=torch.float64)
    M[0, 1, 1] = M[1, 3, 3] = 1.0
    assert blockiness(M).tolist() == pytest.approx([0, 1])


def test_a_blurred_picture_scores_less():
    sharp = np.random.default_rng(0).integers(0, 256, (64, 64))
    soft = (sharp + np.roll(sharp, 1, 0) + np.roll(sharp, 1, 1) + np.roll(sharp, (1, 1), (0, 1))) / 4
    found = Quality(8)(pictures(sharp, soft.round()))
    assert found[0] > found[1]
    assert found[0] <= 2**0.1


def test_the_score_sees_8_bits():
    picture = pictures(np.random.default_rng(0).integers(1, 255, (16, 16)))
    assert Quality(8)(picture + 0.4 / 255).item() == Quality(8)(picture).item()
    assert torch.isfinite(Quality(8)(picture * 9 - 4)).all()


def test_a_mean_over_nothing_is_1():
    values = torch.tensor([[0.2, 0.4, 0.9], [0.2, 0.4, 0.9]])
    chosen = torch.tensor([[True, True, False], [False, False, False]])
    assert mean_where(values, chosen).tolist() == pytest.approx([0.3, 1.0])


def test_what_has_no_patch_is_refused():
    with pytest.raises(ValueError, match="has no patch of 8×8"):
        Quality(8)(torch.zeros(1, 15, 16))
    with pytest.raises(ValueError, match="at least 2×2 pixels"):
        Quality(1)


def test_a_score_that_just_reaches_the_threshold_stops():
    policy = Rbqe().policy(0.75, None)
    scores = torch.tensor([[0.75, 0.7499999], [0.7, 0.75], [math.nan, math.nan]], dtype=torch.float64)
    outputs = {"answer": torch.zeros(3, 2, 4, 4), "score": scores}
    assert replay(policy, outputs).tolist() == [0, 1]
    assert replay(Rbqe().policy(0.0, None), {**outputs, "score": scores * 0}).tolist() == [0, 0]


# Training.


def test_each_quality_has_its_own_weights(stages):
    method = tiny(weights=((2, 1, 0.5), (0.5, 1, 4)), evened=False)
    (stage,) = stages(method)
    assert stage.optimiser.__class__ is torch.optim.Adam
    assert {*stage.rates.values()} == {method.rate}
    levels = method.load().part("train levels").targets
    index = torch.tensor([0, 1, 2, 7])
    assert levels[index].tolist() == [0, 1, 0, 1]
    x = torch.stack([stage.train.inputs[i] for i in index.tolist()])
    errors = ((x[:, 0] - stage.train.targets[index]) ** 2).mean(dim=(1, 2))  # of all exits, before training
    expected = (errors * torch.tensor([3.5, 5.5, 3.5, 5.5])).mean()
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_errors_of_each_quality_are_shares_of_what_came(stages):
    (stage,) = stages(tiny(weights=((1, 0, 0), (0, 0, 3))))
    index = torch.arange(len(stage.train))
    x = torch.stack([stage.train.inputs[i] for i in index.tolist()])
    errors = ((x[:, 0] - stage.train.targets) ** 2).mean(dim=(1, 2))
    m = torch.stack([errors[0::2].mean(), errors[1::2].mean()])
    assert m[1] > 1.2 * m[0]
    expected = (errors[0::2].sum() / m[0] + 3 * errors[1::2].sum() / m[1]) * m.mean() / len(errors)
    assert stage.loss(stage.batch_of(index, x)).item() == pytest.approx(expected.item(), rel=1e-4)


def test_all_of_the_network_is_trained(stages):
    method = tiny()
    (stage,) = stages(method)
    model = method.build(method.load().without_test(), 0)
    assert len(stage.rates) == len([*model.parameters()])
    assert stage.steps == round(method.epochs * math.ceil(2 * method.train_size / method.batch))


def test_weights_by_quality_are_those_of_the_authors_later_code():
    """They are those of the main variant. From mild to severe damage, five of each; fewer are taken evenly."""
    assert next(iter(Rbqe.variants)) == "weights by quality"
    assert Rbqe().w().tolist() == registry.get(KEY).variant("weights by quality").w().tolist()
    whole = Rbqe().variant("weights by quality", "full")
    assert whole.qualities == (50, 40, 30, 20, 10)
    assert whole.w()[[0, 2, 4]].tolist() == [[2, 1, 1, 0.5, 0.5], [0.5, 1, 2, 1, 0.5], [0.5, 0.5, 1, 1, 2]]
    three = whole.replace({"exits": 3})
    assert three.w()[:4].tolist() == [[2, 1, 0.5], [1, 1, 0.5], [0.5, 2, 0.5], [0.5, 1, 1]]
    assert three.replace({"qualities": (50, 10)}).w().tolist() == [[2, 1, 0.5], [0.5, 1, 2]]


def test_in_the_other_variant_all_exits_weigh_alike_at_all_qualities():
    assert registry.get(KEY).variant("equal weights").w().tolist() == [[1.0] * 3] * 5


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"weights": ()}, "rows of numbers"),
        ({"weights": ((), ())}, "rows of numbers"),
        ({"weights": ((1.0, 1.0), (1.0,))}, "as many in each"),
        ({"source": "holidays"}, "no photographs 'holidays'"),
        ({"side": 12}, "at least two blocks"),
        ({"qualities": (0, 50)}, "from 1 to 95"),
    ],
)
def test_bad_settings_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        tiny(**settings).load()


def test_a_side_that_cannot_be_halved_so_often_is_refused():
    with pytest.raises(ValueError, match="multiples of 16, not 16 and 40"):
        made(exits=4, side=16, seen_side=40)
    with pytest.raises(ValueError, match="at least one exit, not 0"):
        made(exits=0)


# Data and measures.


def test_pieces_are_those_of_a_compressed_photograph():
    found = photographs.compressed("china", (50, 10), side=16, train=5, test_side=32)
    assert [len(part) for part in (found.train, found.validation, found.test)] == [10, 60, 60]
    assert found.train.levels.tolist() == [0, 1] * 5
    assert np.array_equal(found.train.clean[0], found.train.clean[1])
    for i, quality in ((0, 50), (1, 10)):
        stream = io.BytesIO()
        piece = np.rint(found.train.clean[i] * 255).astype(np.uint8)
        Image.fromarray(piece).save(stream, "JPEG", quality=quality)
        assert np.array_equal(np.asarray(Image.open(stream)), np.rint(found.train.compressed[i] * 255))


def test_validation_and_test_pieces_differ():
    found = photographs.compressed("china", (50,), side=16, train=1, test_side=32)
    held, tested = ({piece.tobytes() for piece in part.clean} for part in (found.validation, found.test))
    assert not held & tested
    assert found.digest != photographs.compressed("china", (40,), side=16, train=1, test_side=32).digest


def test_psnr_by_hand():
    clean = torch.full((2, 4, 4), 100 / 255)
    off = torch.stack([clean[0] + 10 / 255, clean[1] + 0.3 / 255])
    assert psnr(off, clean).tolist() == pytest.approx([20 * math.log10(25.5), 100], abs=1e-3)


def test_structural_similarity():
    picture = torch.rand(1, 16, 16, generator=torch.Generator().manual_seed(0))
    rounded = (picture * 255).round() / 255
    assert claimed.ssim(rounded, rounded).item() == pytest.approx(1)
    flat = torch.full((1, 16, 16), 0.2), torch.full((1, 16, 16), 0.4)
    likeness = (2 * 0.2 * 0.4 + 1e-4) / (0.2**2 + 0.4**2 + 1e-4)
    assert claimed.ssim(*flat).item() == pytest.approx(likeness, rel=1e-4)


def test_what_is_learnt_mends_pictures(prepared):
    method, bench, ready = prepared(KEY)
    chance, seen = method.chance(ready, bench), ready.split("test")
    came = torch.stack([x[0] for x in seen.examples.inputs])
    assert chance.quality == pytest.approx(psnr(came, seen.targets).mean().item())
    assert method.full_model(ready, bench)[0] > chance.quality + 2 * chance.error


# Claims.


def test_the_last_exit_must_mend_more_than_the_first():
    """On the mean of all pictures; those of the lowest quality are told apart."""
    clean = torch.full((2, 16, 16), 0.5)
    came = clean + torch.tensor([0.05, 0.2])[:, None, None]
    method, levels = SimpleNamespace(qualities=(50, 10)), np.array([0, 1])

    def tried(*shares):
        """Exits whose errors are these shares of what came."""
        answers = torch.stack([clean + (came - clean) * torch.tensor(share)[:, None, None] for share in shares])
        examples = SimpleNamespace(inputs=came[:, None])
        return claimed.mended(method, SimpleNamespace(examples=examples, targets=clean, answers=answers), levels)

    assert tried((0.9, 0.9), (0.8, 0.8)).holds
    assert not tried((0.9, 0.9), (0.893, 0.893)).holds, "as good as the first"
    assert not tried((1.0, 1.0), (0.975, 0.975)).holds, "0.2 dB"
    assert not tried((0.9, 0.9), (1.2, 0.8)).holds, "what it gains of one it loses of the other"
    assert "at the lowest quality +0.9" in tried((0.5, 0.9), (0.5, 0.8)).measured


def test_slight_damage_must_leave_sooner():
    method = SimpleNamespace(qualities=(50, 30, 10))
    levels = np.array([0, 0, 1, 1, 2, 2])
    for exits, holds in (([0, 0, 0, 1, 1, 1], True), ([0, 1, 0, 0, 1, 1], False), ([0, 1, 0, 1, 0, 1], False)):
        assert claimed.sooner(method, np.array(exits), levels, 0.7).holds == holds


def test_being_told_the_quality_sends_the_best_to_the_first_exit():
    method = SimpleNamespace(qualities=(10, 50), score=lambda answers, targets: float(answers.sum()))
    asked = []
    seen = SimpleNamespace(
        costs=np.zeros((3, 2)), static_costs=np.array([[1.0, 1], [2, 2], [4, 4]]), full_costs=np.array([4.0, 4]),
        targets=None, at=lambda exits: asked.append(exits.tolist()) or torch.tensor(30.0),
    )  # fmt: skip
    points = [OperatingPoint(knob=0, quality=29.96, cost=1, speed_up=4, exits=[1.0])]
    curve = SimpleNamespace(validation=points, test=points)
    assert claimed.as_good_as_told(method, curve, seen, np.array([0, 1])).holds
    assert asked == [[2, 0]]
    worse = [points[0].model_copy(update={"quality": 29.9})]
    curve = SimpleNamespace(validation=worse, test=worse)
    assert not claimed.as_good_as_told(method, curve, seen, np.array([0, 1])).holds


def test_all_claims_are_tried(prepared):
    from eelit.methods.harness import runner

    method, bench, ready = prepared(KEY)
    found = claimed.claims(method, ready, bench, runner.measure(method, ready, bench, ""))
    assert len({outcome.name for outcome in found}) == 5
