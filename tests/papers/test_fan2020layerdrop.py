"""LayerDrop: which layers are drawn and kept, what dropping does, and that cutting out is passing over."""

import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from eelit.methods.backbones.translator import Translator
from eelit.methods.claims import fan2020layerdrop as claimed
from eelit.methods.engine.method import Bench
from eelit.methods.engine.translations import PAD, shifted, trimmed
from eelit.methods.families.pruning import PassedOver
from eelit.methods.families.translation import Matches
from eelit.methods.harness import registry, runner
from eelit.methods.papers.fan2020layerdrop import LayerDrop, draw_layers, dropped_loss, every_other
from eelit.methods.recipes.fit import Batch

KEY = "fan2020layerdrop"
GOLDEN = json.loads((Path(__file__).parent.parent / "data/golden" / f"{KEY}.json").read_text(encoding="utf-8"))
VARIANTS = ("every other", "first blocks", "trained without")
SOURCES = torch.tensor([[5, 6, 7, 2], [9, 5, 2, 0], [11, 2, 0, 0]])
REFERENCES = torch.tensor([[3, 4, 5, 2], [6, 2, 0, 0], [7, 8, 2, 0]])
BATCH = Batch(torch.arange(3), SOURCES, REFERENCES, 0, 0.0)


def network(blocks=3):
    return Translator(
        vocabulary=30, encoders=2, blocks=blocks, width=16, heads=2, inner=24, dropout=0.0, reach=16, seed=0
    )  # fmt: skip


def test_every_other_layer_is_kept_as_in_the_paper():
    assert every_other(16, 8) == (0, 2, 4, 6, 8, 10, 12, 14)
    assert every_other(12, 6) == (0, 2, 4, 6, 8, 10)
    assert every_other(12, 3) == (0, 4, 8)  # the printed rule would drop everything
    assert [every_other(6, number) for number in range(1, 7)] == [
        (0,), (0, 3), (0, 2, 4), (0, 1, 3, 4), (0, 1, 2, 3, 4), (0, 1, 2, 3, 4, 5),
    ]  # fmt: skip
    for blocks in range(1, 20):
        for number in range(1, blocks + 1):
            kept = every_other(blocks, number)
            assert len(set(kept)) == number
            assert list(kept) == sorted(kept)
            assert set(kept) <= set(range(blocks))


def test_layers_are_drawn_by_themselves():
    torch.manual_seed(0)
    draws = torch.tensor([draw_layers(5, 0.3) for _ in range(4000)]).double()
    assert draws.mean(dim=0).tolist() == pytest.approx([0.7] * 5, abs=0.03)
    together = draws.T @ draws / len(draws)
    assert together[0, 1:].tolist() == pytest.approx([0.49] * 4, abs=0.03)
    assert draws.sum(dim=1).mean().item() == pytest.approx(5 * 0.7, abs=0.05)
    assert draw_layers(4, 0.0) == [True] * 4
    assert draw_layers(4, 1.0) == [False] * 4


def test_layers_are_drawn_as_by_the_released_code():
    """From the same seed, in the order of the layers, one number for each."""
    for case in GOLDEN["draws"]:
        torch.manual_seed(case["seed"])
        passes = [draw_layers(case["layers"], case["rate"]) for _ in case["executed"]]
        assert [[i for i, runs in enumerate(found) if runs] for found in passes] == case["executed"]


def test_blocks_are_cut_out_and_renumbered_as_by_the_released_code():
    """Told to prune the decoder alone, the released code loses the encoder too, unless all its layers are listed."""
    for case in GOLDEN["pruned"]:
        kept = tuple(int(i) for i in case["kept"].split(","))
        if case["blocks"] == 16:
            assert every_other(16, 8) == kept
        expected = {name: of for name, of in case["state"].items() if ".fc1." in name and name.startswith("decoder")}
        model = network(case["blocks"])
        small, blocks = model.pruned(kept), list(model.blocks)
        found = {f"decoder.layers.{i}.fc1.weight": f"decoder {blocks.index(b)}" for i, b in enumerate(small.blocks)}
        assert found == expected
        encoders = [of for of in case["state"].values() if of.startswith("encoder")]
        assert encoders == ([] if case["encoder_kept"] is None else ["encoder 0", "encoder 1", "encoder 2"])
        assert small.encoder is model.encoder
        assert {"embedding", "norm"} <= set(case["state"].values())
        assert small.embedding is model.embedding
        assert small.norm is model.norm


def loss_of(model, encoder, decoder):
    """The loss with given layers executed, by the blocks themselves; nothing is rescaled."""
    x, words = model.embed(SOURCES), (SOURCES != PAD)[:, None, None]
    for i in encoder:
        x = model.encoder[i](x, words)
    read, y = model.read_norm(x), model.embed(shifted(REFERENCES))
    seen = torch.ones(4, 4, dtype=torch.bool).tril()
    for i in decoder:
        block = model.blocks[i]
        y = block(y, block.keys_values(y), block.source.keys_values(read), seen, words)
    return F.cross_entropy(model.head(y)[REFERENCES != PAD], REFERENCES[REFERENCES != PAD])


def test_a_dropped_layer_hands_on_what_it_is_given_and_learns_nothing(monkeypatch):
    model = network()
    draws = iter([torch.tensor([0.9, 0.5]), torch.tensor([0.1, 0.3, 0.21])])  # what equals p is dropped
    monkeypatch.setattr(torch, "rand", lambda n: next(draws))
    loss = dropped_loss(model, BATCH, 0.2, 0.5)
    assert float(loss) == pytest.approx(float(loss_of(model, [0], [1, 2])), rel=1e-5)
    loss.backward()
    without = {name.rsplit(".", 2)[0] for name, p in model.named_parameters() if p.grad is None}
    assert {name[:9] for name in without} == {"encoder.1", "blocks.0."}
    assert all(p.grad is not None for i in (1, 2) for p in model.blocks[i].parameters())


def test_rates_of_nothing_and_everything():
    model = network()
    assert float(dropped_loss(model, BATCH, 0.0, 0.0)) == pytest.approx(
        float(loss_of(model, [0, 1], [0, 1, 2])), rel=1e-5
    )
    assert float(dropped_loss(model, BATCH, 1.0, 1.0)) == pytest.approx(float(loss_of(model, [], [])), rel=1e-5)


@torch.inference_mode()
def test_cutting_out_is_passing_over_with_fewer_weights():
    model, ids = network(), shifted(REFERENCES)
    small = model.pruned((0, 2))
    assert small.exits == 2
    assert model.exits == 3
    assert [id(a) for a in small.blocks] == [id(model.blocks[0]), id(model.blocks[2])]
    passed = model.decode(*model.encode(SOURCES), ids, run=[True, False, True])
    assert small.states(SOURCES, ids)[-1].equal(passed[-1])
    assert passed[1].equal(passed[0])
    block = sum(p.numel() for p in model.blocks[1].parameters())
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in model.parameters()) - block
    over = PassedOver(model, (0, 2))
    cache = model.read(SOURCES, 4)
    state = model.start(ids[:, :1], cache)
    assert over.layer(1, state, cache) is state
    assert over.exits == 3


def wired(method):
    found = []
    ready = method.prepare(Bench(most_steps=0, watch=lambda stage: found.append(stage) if stage else None))
    return ready, found


@pytest.mark.parametrize("variant", VARIANTS)
def test_everything_is_trained_at_once_with_its_rates(prepared, variant, monkeypatch):
    method, _, _ = prepared(KEY, variant)
    ready, (stage,) = wired(method)
    matrices = {id(p) for p in ready.model.matrices()}
    assert stage.rates == {id(p): 1e-2 if id(p) in matrices else 4e-3 for p in ready.model.parameters()}
    assert (stage.train, stage.epochs, stage.batch) == (ready.data.train, 5.0, 32)
    rates = {"trained without": (0.0, 0.0)}.get(variant, (0.2, 0.2))
    assert (method.encoder_drop_rate, method.drop_rate) == rates
    drawn_for = []
    monkeypatch.setattr(
        "eelit.methods.papers.fan2020layerdrop.draw_layers", lambda n, p: drawn_for.append((n, p)) or [True] * n
    )
    rows = torch.arange(5)
    batch = stage.batch_of(rows, torch.stack([stage.train.inputs[i] for i in rows.tolist()]))
    y = trimmed(batch.targets)
    said = ready.model.head(ready.model.states(batch.inputs, shifted(y))[-1]).log_softmax(dim=-1)
    expected = -said.gather(-1, y[..., None])[..., 0][y != PAD].mean()
    assert float(stage.loss(batch)) == pytest.approx(float(expected), rel=1e-4)
    assert drawn_for == [(1, rates[0]), (4, rates[1])]


def test_the_two_ways_to_keep_blocks_share_one_training(tmp_path):
    bench = Bench(most_steps=1, cache=tmp_path)
    for variant in VARIANTS:
        registry.get(KEY).variant(variant, "tiny").prepare(bench)
    assert len(bench.trainings) == 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_blocks_kept(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    found = [method.kept_at(ready, knob) for knob in (1, 2, 3, 4, 9)]
    half = (0, 1) if variant == "first blocks" else (0, 2)
    assert found == [(0,), half, (0, 1, 2), (0, 1, 2, 3), (0, 1, 2, 3)]
    for number in (0, 5):
        with pytest.raises(ValueError, match="number of blocks kept"):
            method.kept(4, number)


def test_what_is_measured(prepared):
    """The whole decoder is the plain one, and one of r blocks costs as much as r blocks do."""
    method, bench, ready = prepared(KEY)
    points = method.sweep(ready, bench, "test", (1, 2, 4))
    full = method.full_model(ready, bench)
    assert (points[2].quality, points[2].cost) == pytest.approx(full)
    assert method.run(ready, "test", (0, 1, 2, 3)).tokens.equal(ready.full("test").tokens)
    assert [p.exits for p in points] == [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 1.0]]
    table, run = ready.costs("test"), method.run(ready, "test", (0, 2))
    alive = run.exits >= 0
    each = [table.start + 2 * (int(table.layer[0]) + int(table.attention[0]) * (t + 1)) + table.head for t in range(20)]
    by_hand = sum(each[t] for row in alive.tolist() for t, real in enumerate(row) if real) / int(alive.sum())
    assert points[1].cost == pytest.approx(by_hand)
    assert points[1].speed_up == pytest.approx(full[1] / by_hand)
    execution = method.execute(ready, bench, 2)
    assert execution.agrees
    assert execution.counted == pytest.approx(execution.claimed)


def test_whole_sentences_lose_little_where_layers_were_dropped_in_training(prepared):
    """With half of the blocks more is kept than by the network that was trained without."""
    kept = {}
    for variant in ("every other", "trained without"):
        method, bench, ready = prepared(KEY, variant)
        half, whole = method.sweep(ready, bench, "validation", (2, 4))
        kept[variant] = half.quality / whole.quality
    assert kept["every other"] > kept["trained without"]


@pytest.mark.parametrize(
    "wrong", [{"drop_rate": 1.1}, {"encoder_drop_rate": -0.1}, {"drop_rate": math.nan}, {"keep": "last"}], ids=str
)
def test_what_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError, match="LayerDrop"):
        registry.get(KEY).replace(wrong)


def test_claims(prepared):
    method, bench, ready = prepared(KEY)
    curve = runner.measure(method, ready, bench, "", [1, 2, 4])
    few = dataclasses.replace(bench, most_steps=2)
    assert len(claimed.claims(method, ready, few, curve)) == 4
    for variant in VARIANTS[1:]:
        assert claimed.claims(prepared(KEY, variant)[0], ready, bench, curve) == []


def said(right, n=200):
    """Return translations of ``n`` sentences, so many of which are right, by what BLEU counts."""
    return Matches(["a b c d e"] * right + ["v w x y z"] * (n - right), ["a b c d e"] * n)


def test_claims_can_fail():
    """By their bars; and where it may be chance, since there are eight sentences alone."""
    half, full = said(80), said(100)
    assert [claimed.sturdy(half, full, said(bare), full, 3).holds for bare in (40, 75)] == [True, False]
    assert [claimed.no_worse(full, said(whole)).holds for whole in (95, 110, 104)] == [True, False, False]
    assert [claimed.spread(half, said(front), 3).holds for front in (60, 80, 79)] == [True, False, False]
    assert [claimed.from_nothing(half, said(small), 3).holds for small in (75, 90, 83)] == [True, False, False]
    better, worse, all_of_it = (said(right, 8) for right in (5, 4, 6))
    assert not claimed.sturdy(better, all_of_it, worse, all_of_it, 3).holds
    assert not claimed.spread(better, worse, 3).holds


def test_each_rival_is_trained_and_cut_as_its_claim_says(monkeypatch):
    """Without LayerDrop, whole and cut; the first blocks of ours; and a decoder of half the depth, whole."""
    method, asked = registry.get(KEY).variant("every other", "tiny"), []
    plain = method.replace({"drop_rate": 0.0, "encoder_drop_rate": 0.0})
    first, small = method.replace({"keep": "first"}), plain.replace({"blocks": 2})
    whole = {plain: 96, small: 81, "ours": 100}
    cut = {(method, "ours"): 80, (plain, plain): 40, (first, "ours"): 60}

    def stand_in(who):
        return SimpleNamespace(
            who=who, model=SimpleNamespace(exits=4), full=lambda split: whole[who],
            matches=lambda split, right: {"test": said}[split](right),
        )  # fmt: skip

    def prepare(self, bench):
        asked.append(self)
        return stand_in(self)

    def run(self, ready, split, kept):
        assert (split, kept) == ("test", (self.keep, 2))
        return cut[self, ready.who]

    monkeypatch.setattr(LayerDrop, "prepare", prepare)
    monkeypatch.setattr(LayerDrop, "run", run)
    monkeypatch.setattr(LayerDrop, "kept_at", lambda self, ready, knob: (self.keep, knob))
    found = claimed.claims(method, stand_in("ours"), None, None)
    assert asked == [plain, small]
    scores = {right: f"{said(right).score():.2f}" for right in (40, 60, 80, 81, 96, 100)}
    begun = [
        f"with 2 blocks 80% of {scores[100]} are kept; without LayerDrop 42% of {scores[96]} (",
        f"{scores[100]} with LayerDrop, {scores[96]} without (",
        f"{scores[80]} with every other block, {scores[60]} with the first 2 (",
        f"{scores[80]} cut to 2 blocks, {scores[81]} trained with 2 (",
    ]
    assert all(outcome.measured.startswith(words) for outcome, words in zip(found, begun, strict=True))
