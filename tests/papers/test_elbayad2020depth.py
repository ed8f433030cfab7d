"""DAT: the fact sheet's invariants, losses and oracles by hand, and what skipping leaves to later tokens."""

import dataclasses
import math
import string
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from eelit.methods.backbones.decoding import TokenCosts, always, generate, replay
from eelit.methods.backbones.translator import Translator, waves
from eelit.methods.claims import elbayad2020depth as claimed
from eelit.methods.claims.paired import Difference
from eelit.methods.data import memory_cache, pronunciations
from eelit.methods.engine.costs import MacCounter
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.method import Bench
from eelit.methods.engine.records import OperatingPoint
from eelit.methods.engine.translations import BEGIN, END, PAD, shifted, trimmed
from eelit.methods.families.translation import ENDING, Matches, bleu
from eelit.methods.harness import registry, runner
from eelit.methods.papers.elbayad2020depth import (
    Dat,
    DepthTraining,
    StopGate,
    best_depth,
    kernel,
    log_geometric,
    mixed_loss,
    scores_of,
)
from eelit.methods.policies.fixed_exit import FixedExit
from eelit.methods.policies.likeliest_depth import LikeliestDepth
from eelit.methods.policies.max_confidence import MaxConfidence
from eelit.methods.policies.score_threshold import ScoreThreshold
from eelit.methods.recipes.fit import Batch

KEY = "elbayad2020depth"
VARIANTS = ("geometric", "multinomial", "sequence", "confidence")
SIZES = {"vocabulary": 30, "encoders": 2, "blocks": 4, "width": 16, "heads": 2, "inner": 24, "reach": 32}


@pytest.fixture(scope="module")
def model():
    """A network as it starts, its matrices enlarged, so that blocks disagree and translations vary."""
    found = Translator(**SIZES, dropout=0.0, seed=0)
    for p in found.matrices():
        p.data *= 3
    torch.manual_seed(3)
    found.predictor = StopGate(16)
    found.predictor.linear.weight.data *= 4
    return found


SOURCES = torch.tensor([[5, 6, 7, 8, END], [9, 5, END, PAD, PAD], [11, 12, 13, END, PAD]]).repeat(3, 1)
SOURCES[3:6, 0], SOURCES[6:, 1] = 20, 25
SOURCES[7] = torch.tensor([9, 25, END, PAD, PAD])
REFERENCES = torch.tensor([[3, 4, 5, END], [6, END, PAD, PAD], [7, 8, END, PAD]])


def gated(model):
    """Gates that part the tokens: the threshold lies in the middle of what gates say of them."""
    with torch.inference_mode():
        chi = model.gate(model.states(SOURCES, torch.full((9, 1), BEGIN)))
    return always(ScoreThreshold(chi[:-1].median().item(), "gate"))


@torch.inference_mode()
def test_skipping_is_replay_and_costs_what_is_claimed(model):
    cache, begin, rule = model.read(SOURCES, 8), torch.full((9,), BEGIN), gated(model)
    with MacCounter() as counter:
        found = generate(model, cache.copy(), begin, 8, rule, "gate", ENDING)
    first, expected = replay(model, cache, begin, 8, [always(FixedExit(1)), rule], "gate", ENDING)
    assert found.tokens.equal(expected.tokens)
    assert found.exits.equal(expected.exits)
    assert set(first.exits.unique().tolist()) <= {-1, 1}
    assert len(found.exits[found.exits >= 0].unique()) > 2
    table = TokenCosts.behind(model, model.read(SOURCES[:1], 3), "gate")
    assert counter.macs == table.claimed(found.exits.numpy(), 0).sum()


@torch.inference_mode()
def test_a_cache_is_the_whole_prefix_computed_anew_with_the_same_exits(model):
    found = generate(model, model.read(SOURCES, 8), torch.full((9,), BEGIN), 8, gated(model), "gate", ENDING)
    given = torch.cat([torch.full((9, 1), BEGIN), found.tokens[:, :-1]], dim=1)
    depths = torch.where(found.exits < 0, 3, found.exits)
    states = model.decode(*model.encode(SOURCES), given, depths)
    real = found.exits >= 0
    assert model.head(states[-1]).argmax(dim=-1)[real].equal(found.tokens[real])
    for i, (below, above) in enumerate(pairwise(states)):
        assert above[depths <= i].equal(below[depths <= i])
        assert not above[depths > i].equal(below[depths > i])


@torch.inference_mode()
def test_a_sentence_is_translated_alike_alone_and_beside_longer_ones(model):
    together = generate(model, model.read(SOURCES, 6), torch.full((9,), BEGIN), 6, None, ending=ENDING).tokens
    for row in (1, 7):
        alone = trimmed(SOURCES[row : row + 1])
        assert alone.shape[1] == 3
        found = generate(model, model.read(alone, 6), torch.tensor([BEGIN]), 6, None, ending=ENDING)
        assert found.tokens[0].equal(together[row])


@torch.inference_mode()
def test_every_block_looks_at_the_past_alone_and_at_words_alone(model):
    ids = torch.tensor([[BEGIN, 4, 5, 6]])
    states, other = (model.states(SOURCES[:1], x) for x in (ids, torch.tensor([[BEGIN, 4, 5, 29]])))
    assert states[:, :, :3].equal(other[:, :, :3])
    assert not states[:, :, 3].equal(other[:, :, 3])
    longer = F.pad(SOURCES[:1], (0, 3))
    assert torch.allclose(model.states(longer, ids), states, atol=1e-5)
    read, words = model.encode(longer)
    assert torch.allclose(model.mean_of(read, words), read[:, :5].mean(dim=1), atol=1e-6)


@torch.inference_mode()
def test_one_block_by_hand(model):
    """x + attention(norm x), then + attention to the source, then + the feed-forward part; two heads of 8."""
    block, (read, words) = model.blocks[0], model.encode(SOURCES[:1])
    x = model.embed(torch.tensor([[BEGIN, 4]]))
    assert torch.allclose(x, model.embedding(torch.tensor([[BEGIN, 4]])) * 4 + waves(32, 16)[:2])

    def attend(part, queries, over):
        out = torch.zeros(queries.shape)
        q, k, v = part.query(queries), part.key(over), part.value(over)
        for head in (slice(0, 8), slice(8, 16)):
            weights = (q[:, head] @ k[:, head].T / math.sqrt(8)).softmax(dim=-1)
            out[:, head] = weights @ v[:, head]
        return part.out(out)

    seen, y = block.norms[0](x)[0], x[0, 1:]
    y = y + attend(block.attention, seen[1:], seen)
    y = y + attend(block.source, block.norms[1](y), read[0])
    y = y + block.feed(block.norms[2](y))
    assert torch.allclose(model.decode(read, words, torch.tensor([[BEGIN, 4]]))[0][0, 1:], y, atol=1e-4)
    assert torch.allclose(model.head(y), model.norm(y) @ model.embedding.weight.T)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_last_knob_is_the_ordinary_decoder_and_the_first_one_block(prepared, variant):
    method, _, ready = prepared(KEY, variant)
    first, last = ready.run("test", {knob: method.rule(knob, ready) for knob in (0.0, 1.1)})
    full, one = ready.full("test"), ready.fixed("test")[0]
    assert last.tokens.equal(full.tokens)
    assert last.exits.equal(full.exits)
    assert first.tokens.equal(one.tokens)
    assert first.exits.max() == 0
    assert not first.tokens.equal(full.tokens)


def test_costs_at_full_depth_and_at_one_block(prepared):
    """The decoder cut off after one block runs nothing of the others, and after all it is the plain one."""
    method, bench, ready = prepared(KEY, "confidence")
    facts, _ = method.each_exit(ready, bench)
    assert facts[-1].cost == pytest.approx(method.full_model(ready, bench)[1])
    table = ready.costs("test")
    exits = np.zeros((1, 2), dtype=np.int64)
    assert table.look == table.head == 32 * 43
    claimed_first = table.claimed(exits, 0)[0]
    assert claimed_first[0] - table.plain(1, 0, 1)[0] == table.fill[1:].sum() == 2 * (2 * 32 * 32)
    assert claimed_first[1] - claimed_first[0] == 2 * 32  # one more place to attend to
    inner, source = 2 * 32 * 32, ready.sources("test").shape[1]
    assert table.layer[0] == 6 * 32 * 32 + inner + 2 * 32 * source
    full = table.claimed(np.full((1, 1), 2), 0)[0, 0]
    assert full - table.plain(3, 0, 1)[0] == 2 * table.look


def test_geometric_probabilities_are_those_of_the_paper():
    chi = torch.tensor([[0.3], [0.5], [0.2]])
    q = log_geometric(chi.logit()).exp()[:, 0]
    assert q.tolist() == pytest.approx([0.3, 0.7 * 0.5, 0.7 * 0.5 * 0.2, 0.7 * 0.5 * 0.8])
    assert log_geometric(torch.randn(5, 40) * 8).exp().sum(dim=0).tolist() == pytest.approx([1.0] * 40, abs=1e-5)
    assert log_geometric(torch.tensor([[200.0], [-200.0]])).isfinite().all()


def test_oracle_takes_the_best_depth_and_pays_for_it():
    scores = torch.tensor([[-3.0, 0.0, 1.0], [-2.0, 1.0, 1.0], [-1.5, 1.0, 1.0]])
    assert best_depth(scores, 0.0).tolist() == [2, 1, 0]  # of equals the lowest
    assert best_depth(scores, 0.6).tolist() == [1, 1, 0]
    assert best_depth(scores, 1.2).tolist() == [0, 0, 0]
    many = torch.randn(6, 200)
    depths = torch.stack([best_depth(many, price) for price in (0, 0.1, 0.5, 2, 10)])
    assert (depths.diff(dim=0) <= 0).all()
    assert depths[0].equal(many.argmax(dim=0))
    assert depths[-1].max() == 0


def test_scores_are_likelihood_and_correctness_and_nothing_behind_the_end():
    logits = torch.randn(3, 3, 4, 30)
    likely, right = (scores_of(logits, REFERENCES, oracle) for oracle in ("likelihood", "correctness"))
    words = REFERENCES != PAD
    assert (likely[:, ~words] == 0).all()
    assert (right[:, ~words] == 0).all()
    for n, row, t in ((0, 0, 3), (2, 1, 0)):
        y = int(REFERENCES[row, t])
        assert float(likely[n, row, t]) == pytest.approx(float(logits[n, row, t].log_softmax(dim=-1)[y]), rel=1e-5)
        assert float(right[n, row, t]) == float(logits[n, row, t].argmax() == y)
    masked = torch.full_like(logits, -math.inf)  # padding is no word, whatever is said there
    masked[..., 1] = 0.0
    assert scores_of(masked, torch.zeros_like(REFERENCES), "likelihood").abs().max() == 0


def test_smoothing_spreads_scores_over_the_sentence():
    assert kernel(3, 0.0).tolist() == np.eye(3).tolist()
    assert kernel(3, 2.0)[0].tolist() == pytest.approx([1, math.exp(-0.5), math.exp(-2)])
    assert torch.allclose(kernel(4, 1e-3), kernel(4, 0.0))
    scores = torch.randn(4, 5, 6).double()
    token, wide, sentence = (
        DepthTraining(depth, "likelihood", 0.3, sigma, 1.0).target(scores)
        for depth, sigma in (("geometric", 0.0), ("multinomial", 1e12), ("sequence", 0.0))
    )
    assert token.equal(best_depth(scores, 0.3))
    assert wide.equal(sentence[:, None].expand(5, 6))
    assert sentence.equal(best_depth(scores.sum(dim=2), 0.3))
    by_hand = sum(math.exp(-((2 - t) ** 2) / 3.0) * scores[:, 1, t] for t in range(6))
    smooth = DepthTraining("geometric", "likelihood", 0.3, 3.0, 1.0).target(scores)
    assert int(smooth[1, 2]) == int(best_depth(by_hand, 0.3))


@pytest.mark.parametrize("depth", ["geometric", "multinomial", "sequence"])
def test_exit_loss_by_hand(model, depth):
    torch.manual_seed(1)
    mine = Translator(**SIZES, dropout=0.0, seed=0)
    mine.load_state_dict({name: w for name, w in model.state_dict().items() if not name.startswith("predictor")})
    if depth == "geometric":
        mine.predictor = StopGate(16)
    elif depth == "multinomial":
        mine.predictor = nn.Linear(16, 4)
    else:
        mine.forecaster = nn.Linear(16, 4)
    training = DepthTraining(depth, "likelihood", 0.2, 0.0, 0.7)
    read, words = mine.encode(SOURCES[:3])
    states, mean = mine.states(SOURCES[:3], shifted(REFERENCES)), mine.mean_of(read, words)
    scores, lost = scores_of(mine.head(states), REFERENCES, "likelihood"), []
    for row in range(3):
        if depth == "sequence":
            best = int(best_depth(scores[:, row].sum(dim=1), 0.2))
            lost.append(-mine.forecaster(mean[row]).log_softmax(dim=-1)[best])
            continue
        for t in range(int((REFERENCES[row] != PAD).sum())):
            best = int(best_depth(scores[:, row, t], 0.2))
            if depth == "multinomial":
                lost.append(-mine.gate(states[0, row, t]).log_softmax(dim=-1)[best])
            else:
                chi = [mine.gate(states[n, row, t]).item() for n in range(3)]
                q = math.prod(1 - c for c in chi[:best]) * (chi[best] if best < 3 else 1.0)
                lost.append(torch.tensor(-math.log(q)))
    found = training.loss(mine, states, mean, REFERENCES)
    assert float(found) == pytest.approx(float(torch.stack(lost).mean()), rel=1e-4)
    found.backward()  # nothing is detached
    reached = {
        name.split(".")[0] for name, p in mine.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0
    }
    assert {"encoder", "embedding"} <= reached
    assert ("blocks" in reached) == (depth != "sequence")
    assert {"predictor", "forecaster"} & reached == {"forecaster" if depth == "sequence" else "predictor"}


def wired(method):
    """Return what the method prepares and the stages of its training, with nothing trained."""
    found = []
    ready = method.prepare(Bench(most_steps=0, watch=lambda stage: found.append(stage) if stage else None))
    return ready, found


def batch_of(stage, rows):
    return stage.batch_of(rows, torch.stack([stage.train.inputs[i] for i in rows.tolist()]))


def decoder_loss(ready, batch):
    """The mean over blocks and tokens of what each block loses on each, computed one by one."""
    lost, model = [], ready.model
    for source, reference in zip(batch.inputs, batch.targets, strict=True):
        x, y = source[source != PAD][None], reference[reference != PAD][None]
        said = model.head(model.states(x, shifted(y))).log_softmax(dim=-1)
        lost += [-said[n, 0, t, int(y[0, t])] for n in range(model.exits) for t in range(y.shape[1])]
    return torch.stack(lost).mean()


def test_aligned_training_weighs_all_blocks_alike(prepared):
    ready, (stage, _) = wired(prepared(KEY, "confidence")[0])
    batch = batch_of(stage, torch.arange(5))
    assert float(stage.loss(batch)) == pytest.approx(float(decoder_loss(ready, batch)), rel=1e-4)
    assert (stage.train, stage.epochs, stage.batch) == (ready.data.train, 5.0, 32)


@pytest.mark.parametrize("sequences", [0, 2])
def test_confidence_is_trained_for_as_long_as_its_siblings_with_the_first_loss_throughout(prepared, sequences):
    """And so is mixed training, at as low rates as depth is trained with elsewhere."""
    ready, (first, second) = wired(prepared(KEY, "confidence")[0].replace({"sequences": sequences}))
    _, siblings = wired(prepared(KEY, "multinomial")[0])
    matrices = {id(p) for p in ready.model.matrices()}
    for stage, sibling, share in zip((first, second), siblings, (1.0, 0.3), strict=True):
        assert (stage.epochs, stage.steps, stage.batch) == (sibling.epochs, sibling.steps, sibling.batch)
        rates = {id(p): share * (1e-2 if id(p) in matrices else 4e-3) for p in ready.model.parameters()}
        assert stage.rates == pytest.approx(rates)
    batch, losses = batch_of(second, torch.arange(5)), list[float]()
    for stage in (first, second):
        torch.manual_seed(0)
        losses.append(float(stage.loss(batch)))
    assert losses[0] == losses[1]


@pytest.mark.parametrize("variant", VARIANTS[:3])
def test_depth_is_trained_after_the_classifiers_and_beside_them(prepared, variant):
    method, _, _ = prepared(KEY, variant)
    ready, (first, second) = wired(method)
    model, batch = ready.model, batch_of(second, torch.arange(6))
    assert second.epochs == method.more_epochs
    assert second.train is first.train is ready.data.train
    matrices = {id(p) for p in model.matrices()}
    for stage, share in ((first, 1.0), (second, 0.3)):
        rates = {
            id(p): share * (1e-2 if id(p) in matrices else 4e-3) for p in model.parameters() if id(p) in stage.rates
        }
        assert stage.rates == pytest.approx(rates)
    added = {id(p) for part in (model.predictor, model.forecaster) for p in part.parameters()}
    assert {id(p) for p in model.parameters()} == set(second.rates) == set(first.rates) | added
    assert added
    y, training = (
        trimmed(batch.targets),
        DepthTraining(method.depth, method.oracle, method.price, method.smoothing, 0.0),
    )
    read, words = model.encode(trimmed(batch.inputs))
    told = training.loss(model, model.states(batch.inputs, shifted(y)), model.mean_of(read, words), y)
    expected = decoder_loss(ready, batch) + 0.5 * told
    assert float(second.loss(batch)) == pytest.approx(float(expected), rel=1e-4)
    without, (_, stage) = wired(method.replace({"alpha": 0.0}))
    assert float(stage.loss(batch)) == pytest.approx(float(decoder_loss(without, batch)), rel=1e-4)


def test_mixed_training_keeps_the_state_of_who_has_left(model, monkeypatch):
    depths = torch.tensor([[0, 3, 1, 2], [2, 0, 0, 0], [1, 1, 3, 0]] * 2)
    monkeypatch.setattr(torch, "randint", lambda high, shape: {(4, (6, 4)): depths}[high, tuple(shape)])
    batch = Batch(torch.arange(3), SOURCES[:3], F.pad(REFERENCES, (0, 2)), 0, 0.0)
    lost = []
    for row, reference in enumerate(REFERENCES):
        y = reference[reference != PAD][None]
        read = model.encode(SOURCES[row : row + 1])
        for t in range(y.shape[1]):  # each token by itself, after the tokens before it with their own exits
            states = model.decode(*read, shifted(y)[:, : t + 1], depths[row : row + 1, : t + 1])
            lost.append(-model.head(states[int(depths[row, t])][0, t]).log_softmax(dim=-1)[int(y[0, t])])
    assert float(mixed_loss(model, batch, 2)) == pytest.approx(float(torch.stack(lost).mean()), rel=1e-4)


def test_mixed_training_draws_every_exit_alike(prepared, monkeypatch):
    _, (stage, _) = wired(prepared(KEY, "confidence")[0].replace({"sequences": 2}))
    drawn, randint = [], torch.randint
    monkeypatch.setattr(torch, "randint", lambda *given: drawn.append(randint(*given)) or drawn[-1])
    for _ in range(20):
        stage.loss(batch_of(stage, torch.arange(16)))
    assert len(drawn[0]) == 2 * 16
    counts = torch.cat([d.flatten() for d in drawn]).bincount().double()
    assert (counts / counts.sum()).tolist() == pytest.approx([1 / 3] * 3, abs=0.03)
    assert not drawn[0].equal(drawn[1][:, : drawn[0].shape[1]])


def test_variants_share_the_first_training(tmp_path):
    bench = Bench(most_steps=1, cache=tmp_path)
    for variant in VARIANTS:
        registry.get(KEY).variant(variant, "tiny").prepare(bench)
    assert len(bench.trainings) == 1 + 4


def test_rules(prepared):
    kinds = {"geometric": (ScoreThreshold, "gate"), "multinomial": (LikeliestDepth, "gate"),
             "sequence": (LikeliestDepth, "forecast"), "confidence": (MaxConfidence, "logits")}  # fmt: skip
    for variant, (kind, reads) in kinds.items():
        method, _, ready = prepared(KEY, variant)
        assert isinstance(method.policy(0.4, ready), kind)
        assert method.reads == reads


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_gates_and_confidence_must_be_above_their_threshold(prepared, array):
    gate, sure = (prepared(KEY, variant)[0].policy(0.5, None) for variant in ("geometric", "confidence"))
    assert gate.step((), array(np.array([0.5, 0.5001, 0.4])))[1].tolist() == [False, True, False]
    even = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert sure.step((), array(even))[1].tolist() == [False, True]
    assert prepared(KEY, "confidence")[0].policy(0.0, None).step((), array(even))[1].tolist() == [True, True]


@pytest.mark.parametrize("array", [np.asarray, torch.as_tensor])
def test_likeliest_depth(array):
    q = np.array([[0.5, 0.2, 0.3], [0.2, 0.4, 0.4], [0.1, 0.2, 0.7]])
    logits = array(np.log(q))

    def depths(balance):
        return LikeliestDepth(balance).depth(logits).tolist()

    assert depths(0.5) == [0, 1, 2]  # of equals the first
    assert depths(0.0) == [0, 0, 0]
    assert depths(1.0) == depths(1.1) == [2, 2, 2]
    # odds of 1/3: 0.5, 0.067, 0.033; 0.2, 0.133, 0.044; 0.1, 0.067, 0.078; odds of 3: 0.5, 0.6, 2.7 and so on
    assert depths(0.25) == [0, 0, 0]
    assert depths(0.4) == [0, 1, 2]  # 2/3: 0.2, 0.267, 0.178; 0.1, 0.133, 0.311
    assert depths(0.75) == [2, 2, 2]
    policy = LikeliestDepth(0.5)
    state, stop = policy.step(policy.start(), logits)
    assert stop.tolist() == [True, False, False]
    state, stop = policy.step(state, array(np.log(q[::-1].copy())))  # what is said later changes nothing
    assert stop.tolist() == [True, True, False]
    wrong = q.copy()
    wrong[0, 1] = np.nan
    assert policy.step((), array(wrong))[1].tolist()[0] is False
    assert policy.depth(array(wrong)).tolist()[0] == 2
    with pytest.raises(ValueError, match="balance"):
        LikeliestDepth(-0.1)


def test_one_forecast_serves_the_whole_sentence(prepared):
    method, _, ready = prepared(KEY, "sequence")
    (run,) = ready.run("test", {0.5: method.rule(0.5, ready)})
    model, sources = ready.model, ready.sources("test")
    predicted = model.forecaster(model.mean_of(*model.encode(sources))).argmax(dim=-1)
    for exits, depth in zip(run.exits, predicted.tolist(), strict=True):
        assert set(exits[exits >= 0].tolist()) == {depth}


def test_bleu_and_spelling(prepared):
    _, _, ready = prepared(KEY)
    assert bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100.0)
    assert bleu(["a b c d"], ["a b c d e"]) == pytest.approx(100 * math.exp(1 - 5 / 4))
    assert bleu(["x y z"], ["a b c"]) < 20
    assert ready.data.spelt(torch.tensor([[3, 4, END, 7], [5, END, PAD, PAD], [END, 1, 1, 1]])) == ["0 1", "2", ""]


def test_bleu_of_any_choice_of_sentences_is_that_of_their_corpus(prepared):
    method, _, ready = prepared(KEY)
    texts = ["a b c d e", "a b c x", "", "e d c b a", "b c d e f g"]
    references = ["a b c d e", "a b c d", "a b", "e d c", "a b c d e f"]
    found = Matches(texts, references)
    assert found.score() == pytest.approx(bleu(texts, references))
    chosen = [0, 0, 1, 4, 4, 4]
    times = np.bincount(chosen, minlength=5)
    assert found.score(times) == pytest.approx(bleu([texts[i] for i in chosen], [references[i] for i in chosen]))
    (run,) = ready.run("test", {0.5: method.rule(0.5, ready)})
    assert ready.matches("test", run).score() == pytest.approx(ready.quality("test", run))


def test_translations_end_where_they_say_so(prepared):
    _, _, ready = prepared(KEY)
    full = ready.full("test")
    for tokens, exits in zip(full.tokens.tolist(), full.exits.tolist(), strict=True):
        n = tokens.index(END) + 1 if END in tokens else len(tokens)
        assert exits == [2] * n + [-1] * (len(tokens) - n)
        assert tokens[n:] == [PAD] * (len(tokens) - n)
    assert full.tokens.shape[1] == ready.length == ready.data.train.targets.shape[1]


def test_choosing_sees_no_test_sentence(prepared, monkeypatch):
    method, _, ready = prepared(KEY)
    with pytest.raises(TestDataAsked):
        ready.for_choosing.sources("test")
    monkeypatch.setattr(type(method), "policy", lambda self, knob, prepared: prepared.full("test"))
    with pytest.raises(TestDataAsked):
        method.rule(0.3, ready)
    monkeypatch.setattr(type(method), "train", lambda self, model, data, bench: data.test.targets)
    with pytest.raises(TestDataAsked):
        method.prepare(Bench())


@pytest.mark.parametrize(
    "wrong",
    [{"price": -1.0}, {"smoothing": math.nan}, {"alpha": math.inf}, {"sequences": -1}, {"sequences": 2}],
    ids=str,
)
def test_what_means_nothing_is_refused(wrong):
    with pytest.raises(ValueError):
        registry.get(KEY).replace(wrong)


def test_a_width_must_suit_its_heads():
    with pytest.raises(ValueError, match="a width of 20 is not divided by twice its 4 heads"):
        Translator(**{**SIZES, "width": 20, "heads": 4}, dropout=0.0, seed=0)


def test_claims_on_the_tiny_setting(prepared, monkeypatch):
    monkeypatch.setattr(claimed, "SEQUENCES", 1)
    for variant, names in (("geometric", 2), ("confidence", 5)):
        method, bench, ready = prepared(KEY, variant)
        curve = runner.measure(method, ready, bench, variant, [0.0, 0.5, 1.1])
        few = dataclasses.replace(bench, most_steps=2)
        assert len(claimed.claims(method, ready, few, curve)) == names
        assert curve.baselines[0].name == "one depth for all"
        assert len(curve.baselines[0].test) == 2


def test_aligned_training_is_held_against_mixed_training_of_the_same_method(monkeypatch):
    """Only of confidence, which asks the output layer and whose training is the aligned one."""
    asked = []
    monkeypatch.setattr(Dat, "prepare", lambda self, bench: asked.append(self) or "mixed")
    monkeypatch.setattr(claimed, "fewer_blocks", lambda *given: ["fewer", given])
    monkeypatch.setattr(claimed, "costly_to_ask", lambda *given: ("costly", given))
    monkeypatch.setattr(claimed, "aligned_is_better", lambda *given: [given])
    method = registry.get(KEY).variant("confidence", "tiny")
    assert claimed.claims(method, "aligned", None, "curve") == [
        "fewer", (method, "aligned", "curve"), ("costly", ("aligned", "curve")), ("aligned", "mixed")
    ]  # fmt: skip
    assert asked == [method.replace({"sequences": 2})]
    other = registry.get(KEY).variant("geometric", "tiny")
    assert claimed.claims(other, "aligned", None, "curve") == ["fewer", (other, "aligned", "curve")]


def fixed(**qualities):
    """Return a trained decoder of three blocks, cut off after each of which it reaches so much on each part."""
    return SimpleNamespace(
        model=SimpleNamespace(exits=3),
        full=lambda split: "full",
        fixed=lambda split: [*enumerate(qualities[split])],
        quality=lambda split, run: {**dict(enumerate(qualities[split]))}[run[0]],
        costs=lambda split: SimpleNamespace(head=50, layer=[10]),
    )


def curved(*each):
    return SimpleNamespace(
        validation=[
            OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=exits) for k, q, c, exits in each
        ],
        test=[OperatingPoint(knob=k, quality=q, cost=c, speed_up=100 / c, exits=exits) for k, q, c, exits in each],
        full_quality=each[-1][1],
        knob="tau",
    )


def test_the_best_depth_for_all_is_chosen_on_validation_sentences(monkeypatch):
    """It is 2 there, and 3 on test sentences, where the settings of the curve could not follow."""
    asked, apart = [], {"full": Difference(-0.1, 0.3, 2), (1, 45.0): Difference(4.9, 0.3, 2)}
    monkeypatch.setattr(claimed, "behind", lambda *given: asked.append(given[2].knob) or apart[given[3]])
    ready = fixed(validation=[30.0, 50.0, 40.0], test=[30.0, 45.0, 90.0])
    curve = curved((0.5, 40, 30, [1.0, 0, 0]), (0.9, 49.9, 60, [0.5, 0.5, 0]), (1.1, 50, 100, [0, 0, 1.0]))
    half, best = claimed.fewer_blocks(None, ready, curve)
    assert asked == [0.9, 0.9]
    assert half.measured == "BLEU 49.90 with 1.50 blocks of 3 at tau 0.9; 50.00 with all (-0.10 ± 0.30)"
    assert half.holds
    assert best.measured == "BLEU 49.90 with 1.50 blocks; 45.00 with 2 (+4.90 ± 0.30)"
    assert best.holds
    apart["full"], apart[1, 45.0] = Difference(-0.1, 0.5, 2), Difference(-0.1, 0.5, 2)  # perhaps more than 1 is lost
    assert [outcome.holds for outcome in claimed.fewer_blocks(None, ready, curve)] == [False, False]
    apart["full"], apart[1, 45.0] = Difference(-0.1, 0.3, 2), Difference(-0.1, 0.3, 2)
    dearer = curved((0.5, 40, 30, [1.0, 0, 0]), (0.9, 49.9, 60, [0.3, 0.7, 0]), (1.1, 50, 100, [0, 0, 1.0]))
    assert [outcome.holds for outcome in claimed.fewer_blocks(None, ready, dearer)] == [False, False]


@pytest.mark.parametrize(("cost", "holds"), [(60, True), (54, False), (40, False)])
def test_confidence_saves_fewer_operations_than_blocks(cost, holds):
    curve = curved((0.9, 49.9, cost, [0.5, 0.5, 0]), (1.1, 50, 100, [0, 0, 1.0]))
    found = claimed.costly_to_ask(fixed(test=[]), curve)
    assert found.measured == (
        f"50.0% of the blocks and {100 - cost:.1f}% of the MACs saved; the output layer takes 50 MACs, a block 10"
    )
    assert found.holds is holds
    assert not found.not_comparable


def test_confidence_that_saves_no_block_says_nothing_of_operations():
    curve = curved((0.9, 49.6, 60, [0.5, 0.5, 0]), (1.1, 50, 100, [0, 0, 1.0]))
    found = claimed.costly_to_ask(fixed(test=[]), curve)
    assert not found.holds
    assert found.not_comparable == "No setting but the whole decoder loses at most 0.3 BLEU on validation data."


def said(right, n=40):
    """Return translations of ``n`` sentences, so many of which are right, by what BLEU counts."""
    return Matches(["a b c d e"] * right + ["v w x y z"] * (n - right), ["a b c d e"] * n)


@pytest.mark.parametrize(
    ("aligned", "mixed", "drawn", "held"),
    [
        ((20, 30, 30), (10, 20, 30), (20, 8), [True, True]),
        ((30, 30, 30), (30, 30, 29), (20, 19), [False, False]),  # no more than chance
        ((20, 20, 20), (30, 20, 20), (10, 20), [False, False]),
    ],
)
def test_trainings_are_compared_at_fixed_and_at_drawn_exits(monkeypatch, aligned, mixed, drawn, held):
    ours, theirs = (
        SimpleNamespace(fixed=lambda split, each=each: each, matches=lambda split, right: said(right))
        for each in (aligned, mixed)
    )
    monkeypatch.setattr(claimed, "sampled", lambda each, split: said(drawn[each is theirs]))
    found = claimed.aligned_is_better(ours, theirs)
    assert [outcome.holds for outcome in found] == held
    a, b = (said(right).score() for right in drawn)
    assert found[1].measured.startswith(f"aligned {a:.2f}, mixed {b:.2f} ({a - b:+.2f} ± ")


def test_claims_can_fail(prepared):
    """A curve whose cheapest setting that loses nothing is the whole decoder saves nothing."""
    method, _, ready = prepared(KEY)
    best = max(ready.quality("test", run) for run in ready.fixed("test"))
    first, last = (
        OperatingPoint(knob=k, quality=q, cost=c, speed_up=6 / c, exits=e)
        for k, q, c, e in ((0.0, 0.0, 1.0, [1.0, 0, 0]), (1.1, best, 6.0, [0, 0, 1.0]))
    )
    curve = SimpleNamespace(validation=[first, last], test=[first, last], full_quality=best, knob="tau")
    assert [outcome.holds for outcome in claimed.fewer_blocks(method, ready, curve)] == [False, False]
    assert claimed.mean_exit(last) == 3.0


def test_translations_at_a_setting_are_compared_with_others_sentence_by_sentence(prepared):
    method, _, ready = prepared(KEY)
    point = SimpleNamespace(knob=1.1)
    same = claimed.behind(method, ready, point, ready.full("test"))
    assert (same.mean, same.error) == (0, 0)
    first, *_ = ready.fixed("test")
    more = claimed.behind(method, ready, point, first)
    assert more.mean == pytest.approx(ready.quality("test", ready.full("test")) - ready.quality("test", first))
    assert more.error > 0


def test_drawn_exits_are_uniform():
    policy, seen = claimed.Drawn(3, 4), torch.zeros(4000, 2)
    state, stops = policy.start(), []
    for _ in range(3):
        state, stop = policy.step(state, seen)
        stops.append(float(stop.double().mean()))
    assert stops == pytest.approx([0.25, 0.5, 0.75], abs=0.03)


def test_words_and_how_they_are_spoken(tmp_path, monkeypatch):
    lines = [
        "'bout B AW1 T",
        "a AH0",
        "cat K AE1 T",
        "cat(2) K AA1 T",
        "cats K AE1 T S # more than one",
        "a.m. EY2 EH1 M",
    ]
    names = [first + second + "at" for first in "bcdfghjklmnpqrstvwxyz" for second in string.ascii_lowercase]
    many = [f"{name}{vowel} K AE1 T" for name in names for vowel in "aeiouy"]
    (tmp_path / "cmudict.dict").write_text("\n".join([*lines, *many]), encoding="utf-8")
    monkeypatch.setattr(pronunciations.fetch, "path", lambda name: tmp_path)
    memory_cache.forget()
    try:
        assert pronunciations.entries()[:2] == (("cat", ("K", "AE", "T")), ("cats", ("K", "AE", "T", "S")))
        assert len(pronunciations.entries()) == 2 + len(many)
        split = pronunciations.pronunciations(train=30, longest=5)
        fewer = pronunciations.pronunciations(train=10, longest=5)
    finally:
        memory_cache.forget()
    assert (len(split.train.words), len(split.test.words), len(split.validation.words)) == (30, 2400, 800)
    assert (fewer.test.words == split.test.words).all()
    assert (fewer.train.words == split.train.words[:10]).all()
    word, sounds = split.train.words[0].tolist(), split.train.sounds[0].tolist()
    spelt = "".join(pronunciations.PIECES[i] for i in word[: word.index(END)])
    assert spelt in {line.split()[0] for line in [*lines, *many]}
    assert "".join(pronunciations.PIECES[i] for i in sounds).strip().startswith("K AE T")
    assert set(word[word.index(END) + 1 :]) <= {PAD}
    ids = (PAD, BEGIN, END)
    assert ids == (pronunciations.PAD, pronunciations.BEGIN, pronunciations.END) == (0, 1, 2)
    assert len(pronunciations.PIECES) == 3 + 26 + 39
