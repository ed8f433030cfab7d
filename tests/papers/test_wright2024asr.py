"""What only early-exit ASR promises: its two certainties, its transcripts and its losses, by hand."""

import copy
import itertools
import math
import struct
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from torch.nn import functional as F
from transformers.models.whisper.modeling_whisper import WhisperEncoderLayer

from eelit.methods.backbones import whisper
from eelit.methods.claims import wright2024asr as claimed
from eelit.methods.data import recordings
from eelit.methods.engine import audio, costs, tasks
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.examples import Data, Examples
from eelit.methods.engine.method import Bench
from eelit.methods.engine.multi_exit import MultiExit
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.engine.stored_outputs import StoredOutputs
from eelit.methods.harness import registry
from eelit.methods.papers.wright2024asr import (
    Attention,
    ConformerLayer,
    Convolution,
    EarlyExitAsr,
    FrontEnd,
    best_path,
    ctc,
    edits,
    frame_entropy,
    letter_accuracy,
    letters_of,
    n_best,
    searched,
    word_error_rate,
    word_errors,
    words,
)

KEY = "wright2024asr"
INF = math.inf


def tiny(variant="sentence confidence", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def some(n=3, frames=6, units=4, sharp=1.0):
    return (sharp * torch.randn(n, frames, units, generator=torch.Generator().manual_seed(0))).log_softmax(-1)


# The certainties.


def test_the_entropy_of_frames_by_hand():
    assert frame_entropy(torch.tensor([[[0.5, 0.5]]]).log()).item() == pytest.approx(math.log(2) / 2)
    sure = torch.tensor([[[1.0, 0.0]]]).log()
    assert frame_entropy(sure).item() == 0
    both = torch.cat([torch.tensor([[[0.5, 0.5]]]).log(), sure], dim=1)
    assert frame_entropy(both).item() == pytest.approx(math.log(2) / 4)
    assert frame_entropy(some()).max() < math.log(4) / 4


def collapsed(path):
    return tuple(v for v, _ in itertools.groupby(path) if v)


def every_transcript(log_p):
    """Return the probability of each transcript, all paths added."""
    p, found = np.exp(log_p), {}
    for path in itertools.product(range(p.shape[1]), repeat=len(p)):
        said = collapsed(path)
        found[said] = found.get(said, 0.0) + math.prod(p[t, v] for t, v in enumerate(path))
    return sorted(found.items(), key=lambda item: -item[1])


def test_a_wide_beam_finds_all_transcripts_with_their_probabilities():
    for each in some(4, 4, 3).double().numpy():
        exact, found = every_transcript(each), n_best(each, 1000)
        assert [said for said, _ in found] == [said for said, _ in exact]
        assert [math.exp(score) for _, score in found] == pytest.approx([p for _, p in exact])
        assert sum(math.exp(score) for _, score in found) == pytest.approx(1)


def test_a_narrow_beam_keeps_the_best():
    for each in some(4, 5, 3, sharp=3.0).double().numpy():
        assert len(n_best(each, 3)) == 3
        found = n_best(each, 8)
        assert found[0][0] == every_transcript(each)[0][0]
        assert [score for _, score in found] == sorted((score for _, score in found), reverse=True)


def test_a_letter_is_said_twice_only_with_a_blank_between():
    row, blank = [0.1, 0.9], [0.9, 0.1]
    assert n_best(np.log([row, row, row]), 5)[0][0] == (1,)
    assert n_best(np.log([row, blank, row]), 5)[0][0] == (1, 1)


def test_a_frame_that_is_surely_blank_separates_too():
    """And what has less than a thousandth is not followed."""
    row, blank = [0.01, 0.99, 0.0], [0.9995, 0.0005, 0.0]
    with np.errstate(divide="ignore"):
        found = n_best(np.log([row, blank, row]), 5)
    assert found[0][0] == (1, 1)
    assert [said for said, _ in found] == [(1, 1), (1,), ()]
    assert found[0][1] == pytest.approx(math.log(0.99 * 0.9995 * 0.99))


def test_the_sentence_confidence_by_hand():
    """Three transcripts of one frame: the two best are e^-1 and e^-2 as likely as they say."""
    p = [math.exp(-1), math.exp(-2), 1 - math.exp(-1) - math.exp(-2)]
    one = torch.tensor([[[p[0], p[1]]]]).log()
    assert searched(one, 2)[1].item() == pytest.approx(1 / (1 + math.exp(-1)))
    assert searched(one, 1)[1].item() == 1
    assert searched(torch.full((1, 1, 5), 0.2).log(), 5)[1].item() == pytest.approx(0.2)
    assert searched(torch.full((1, 1, 5), 0.2).log(), 4)[1].item() == pytest.approx(0.25)
    found = searched(some(), 4)[1]
    assert ((found > 0.25) & (found <= 1)).all()


def test_the_search_says_the_likeliest_transcript():
    """Its paths together are likelier than all that say nothing, of which each single frame is likeliest."""
    log_p = torch.tensor([[[0.6, 0.4, 1e-9], [0.6, 0.4, 1e-9]]]).log()
    assert searched(log_p, 3)[0].tolist() == [[0, -1]]  # aa, a_ and _a: 0.64
    assert best_path(log_p).tolist() == [[-1, -1]]
    for log_p in some(4, 5, 3, sharp=3.0).double():
        best, _ = every_transcript(log_p.numpy())[0]
        assert letters_of(searched(log_p[None], 50)[0]) == [[v - 1 for v in best]]


@pytest.mark.parametrize("read", [lambda log_p: searched(log_p, 4), lambda log_p: (best_path(log_p),)])
def test_where_log_probabilities_are_not_finite_nothing_is_read(read):
    flawed = some()
    flawed[1, 2, 0] = math.nan
    for found in read(flawed):
        assert found.reshape(3, -1).isnan().all(dim=1).tolist() == [False, True, False]
        assert found.reshape(3, -1).isnan().any(dim=1).tolist() == [False, True, False]


def said(name, *values):
    v = torch.tensor(values).T
    return {"answer": torch.zeros(*v.shape, 2, 2), name: v}


def test_entropy_stops_strictly_below_theta(prepared):
    method, _, ready = prepared(KEY, "entropy")
    outputs = said("certainty", [-0.5, -0.25, -0.0], [-0.125, -1.0, -1.0], [math.nan, math.nan, -0.1])
    assert replay(method.rule(0.25, ready), outputs).tolist() == [2, 0, 2]
    assert replay(method.rule(0.5, ready), outputs).tolist() == [1, 0, 2]
    assert replay(method.rule(INF, ready), outputs).tolist() == [0, 0, 2]
    assert replay(method.rule(0.0, ready), said("certainty", [0.0, 0.0, 0.0])).tolist() == [2]


def test_confidence_stops_strictly_above_theta(prepared):
    method, _, ready = prepared(KEY)
    outputs = said("confidence", [0.5, 0.9, 0.2], [0.91, 0.1, 0.1], [math.nan, math.nan, 0.1])
    assert replay(method.rule(0.9, ready), outputs).tolist() == [2, 0, 2]
    assert replay(method.rule(0.5, ready), outputs).tolist() == [1, 0, 2]
    assert replay(method.rule(1.0, ready), said("confidence", [1.0, 1.0, 1.0])).tolist() == [2]


@pytest.mark.parametrize("hypotheses", [8, 0])
def test_heads_say_what_the_rules_read(prepared, hypotheses):
    method, _, ready = prepared(KEY, "entropy")
    x = torch.stack(list(ready.data.test.inputs[:8]))
    trained = [telling.head for telling in ready.model.heads]
    model = method.replace({"hypotheses": hypotheses}).deployed(MultiExit(ready.model.stages, trained))
    with torch.inference_mode():
        out = model(x)
        every = MultiExit(model.stages, trained)(x)
    assert every.shape == (3, 8, 44, 6)
    assert torch.allclose(every.exp().sum(-1), torch.ones(3, 8, 44), atol=1e-5)
    assert set(out) == {"answer", "certainty", *(["confidence"] if hypotheses else [])}
    for m, log_p in enumerate(every):
        assert torch.allclose(out["certainty"][m], -frame_entropy(log_p), atol=1e-5)
        if hypotheses:
            said, phi = searched(log_p, hypotheses)
            assert torch.equal(out["answer"][m], said)
            assert torch.allclose(out["confidence"][m], phi, atol=1e-5)
        else:
            assert torch.equal(out["answer"][m], best_path(log_p))


# Transcripts.


def test_the_best_path_by_hand():
    def one(*units):
        return F.one_hot(torch.tensor(units), 4).double()[None]

    assert letters_of(best_path(one(0, 1, 1, 0, 1, 2, 2, 3))) == [[0, 0, 1, 2]]
    assert best_path(one(3, 3, 3)).tolist() == [[2, -1, -1]]
    assert best_path(one(0, 0)).tolist() == [[-1, -1]]
    assert letters_of(best_path(torch.cat([one(1, 2), one(2, 0)]))) == [[0, 1], [1]]


@pytest.mark.parametrize(
    ("a", "b", "n"),
    [("", "", 0), ("ab", "", 2), ("", "abc", 3), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("ab", "ba", 2)],
)
def test_edits_by_hand(a, b, n):
    assert edits([*map(ord, a)], [*map(ord, b)]) == n


def filled(rows):
    """Return transcripts as a head says them: floating, and filled up."""
    most = max(map(len, rows))
    return torch.tensor([row + [-1] * (most - len(row)) for row in rows], dtype=torch.float32)


def test_letter_accuracy_takes_all_words_together():
    targets = torch.tensor([[0, 1, -1, -1], [2, 2, 2, 2]])
    assert letter_accuracy(filled([[0, 1], [2, 2, 2, 2]]), targets) == 1
    assert letter_accuracy(filled([[0], [2, 2, 2]]), targets) == pytest.approx(1 - 2 / 6)
    assert letter_accuracy(filled([[1] * 9, []]), targets) == pytest.approx(1 - 12 / 6)


def letters(text):
    return [recordings.LETTERS.index(letter) for letter in text]


def test_words_are_what_stands_between_spaces():
    assert words(letters(" press one  now ")) == [tuple(letters(word)) for word in ("press", "one", "now")]
    assert words([]) == []


def test_the_word_error_rate_takes_all_transcripts_together():
    meant = [letters("press one"), letters("please wait on line")]
    targets = filled(meant).long()
    assert word_error_rate(filled(meant), targets) == 0
    said = filled([letters("press own"), letters("please on line two")])
    assert word_error_rate(said, targets) == pytest.approx(3 / 6)
    assert [each.tolist() for each in word_errors(said, targets)] == [[1, 2], [2, 4]]
    assert word_error_rate(filled([[], letters("a a a a a a a")]), targets) == pytest.approx(9 / 6)


def test_word_errors_are_told_beside_at_each_knob():
    """Two utterances, of one word and of two; the first exit has both wrong, the last one the first right."""
    targets = filled([letters("one"), letters("wait now")]).long()
    answers = torch.stack(
        [filled([letters(a), letters(b)]) for a, b in (("own    ", "wait new"), ("one    ", "wait nox"))]
    )
    phi = torch.tensor([[0.9, 0.1], [1.0, 1.0]])
    outputs = {"answer": answers, "confidence": phi}
    spent = np.ones((2, 2))
    seen = StoredOutputs(Examples([torch.zeros(1)] * 2, targets), outputs, spent, spent)
    ready = SimpleNamespace(split=lambda name: {"test": seen}[name])
    ready.for_choosing = ready
    found = registry.get(KEY).beside(ready, [0.0, 0.5, 1.0])
    assert found.values == pytest.approx([2 / 3, 2 / 3, 1 / 3])
    assert (found.cheap, found.full, found.lead) == pytest.approx((2 / 3, 1 / 3, 1 / 3))
    apart = np.array([1 - 1 / 3, 0 - 2 / 3])  # wrong words less, beside the mean's share of the words said
    assert found.error == pytest.approx(apart.std(ddof=1) / 1.5 / math.sqrt(2))
    assert "3 words of 2 test utterances" in found.meaning


# The pre-trained encoder.


def written(variables):
    """Return a file as CTranslate2 lays it out, of names and arrays."""

    def word(text):
        return struct.pack("<H", len(text) + 1) + text.encode() + b"\0"

    raw = struct.pack("<I", 6) + word("WhisperSpec") + struct.pack("<II", 3, len(variables))
    codes = {"float32": 0, "int8": 1, "float16": 4}
    for name, x in variables.items():
        shape = struct.pack(f"<B{x.ndim}I", x.ndim, *x.shape)
        raw += word(name) + shape + struct.pack("<BI", codes[x.dtype.name], x.nbytes) + x.tobytes()
    return raw


def test_weights_are_read_from_their_file(tmp_path):
    x = {"encoder/a": np.arange(6, dtype=np.float16).reshape(2, 3), "encoder/heads": np.array(6, dtype=np.int8)}
    x["decoder/b"], x["encoder/c"] = np.ones(2, dtype=np.float32), np.array([0.5, -1], dtype=np.float32)
    path = tmp_path / "model.bin"
    path.write_bytes(written(x))
    found = whisper.read_weights(path, "encoder/")
    assert {name: each.tolist() for name, each in found.items()} == {"a": [[0, 1, 2], [3, 4, 5]], "c": [0.5, -1]}
    for cut in (10, 60, len(written(x)) - 4):
        path.write_bytes(written(x)[:cut])
        with pytest.raises(ValueError, match="does not hold weights"):
            whisper.read_weights(path, "encoder/")


def test_what_whisper_hears_is_what_its_own_front_end_hears():
    front = transformers.WhisperFeatureExtractor()
    wave = 0.1 * torch.randn(1, 8000, generator=torch.Generator().manual_seed(0))
    theirs = front(wave[0].numpy(), sampling_rate=16_000, padding=False, return_tensors="np")["input_features"]
    found = audio.heard_by_whisper(wave, 16_000)
    assert found.shape == (1, 80, 50)
    assert np.allclose(found.numpy(), theirs, atol=1e-4)
    with pytest.raises(ValueError, match="8000 or 16000 samples a second, not 11025"):
        audio.heard_by_whisper(wave, 11_025)


def test_a_recording_at_half_the_rate_sounds_alike():
    t = torch.arange(16_000) / 16_000
    wave = (0.1 * (torch.sin(2 * math.pi * 440 * t) + torch.sin(2 * math.pi * 1500 * t)))[None]
    full, half = audio.heard_by_whisper(wave, 16_000), audio.heard_by_whisper(wave[:, ::2], 8000)
    loud = full > full.max() - 0.5
    assert torch.allclose(full[loud], half[loud], atol=0.02)


def test_layers_are_those_of_another_implementation():
    config = transformers.WhisperConfig(d_model=384, encoder_layers=1, encoder_attention_heads=6, encoder_ffn_dim=1536)
    torch.manual_seed(0)
    theirs, ours = WhisperEncoderLayer(config).eval(), whisper.Layer().eval()
    at = theirs.self_attn
    ours.load_state_dict({
        "norm1.weight": theirs.self_attn_layer_norm.weight, "norm1.bias": theirs.self_attn_layer_norm.bias,
        "norm2.weight": theirs.final_layer_norm.weight, "norm2.bias": theirs.final_layer_norm.bias,
        "enter.weight": torch.cat([at.q_proj.weight, at.k_proj.weight, at.v_proj.weight]),
        "enter.bias": torch.cat([at.q_proj.bias, torch.zeros(384), at.v_proj.bias]),
        "leave.weight": at.out_proj.weight, "leave.bias": at.out_proj.bias,
        "wide.weight": theirs.fc1.weight, "wide.bias": theirs.fc1.bias,
        "narrow.weight": theirs.fc2.weight, "narrow.bias": theirs.fc2.bias,
    })  # fmt: skip
    x = torch.randn(2, 7, 384)
    with torch.inference_mode():
        found = theirs(x, None)
        assert torch.allclose(ours(x), found if isinstance(found, torch.Tensor) else found[0], atol=1e-5)


@pytest.fixture
def stranger(monkeypatch):
    """Return the method with an encoder of random weights in the place of Whisper's, and of few utterances."""
    torch.manual_seed(0)
    parts = whisper.Stem(), [whisper.Layer() for _ in range(4)]
    monkeypatch.setattr(whisper, "encoder", lambda: copy.deepcopy(parts))
    parted = [Examples(list(torch.randn(10, 80, 40)), torch.randint(0, 28, (10, 5))) for _ in range(3)]
    data = Data(*parted, classes=28, digest="made")
    monkeypatch.setattr(tasks, "sentences", lambda train, validation, test, seconds: data)
    return registry.get(KEY).variant("sentence confidence").replace({"width": 8, "epochs": 2.0, "batch": 5})


def test_all_heads_learn_from_the_frozen_encoder_and_nothing_else_does(stranger, wired):
    model, (stage,) = wired(stranger)
    assert stage.rates == dict.fromkeys((id(p) for p in model.heads.parameters()), stranger.rate)
    assert (stage.steps, stage.batch) == (4, 5)
    train = tasks.sentences(train=0, validation=0, test=0, seconds=4.0).train
    x, y = torch.stack([*train.inputs]), train.targets
    model.eval()
    index, states = next(stage.train.batches(5))
    with torch.no_grad():
        expected = sum(ctc(log_p, y[index]) for log_p in model(x[index]))
        assert stage.loss(stage.batch_of(index, states)).item() == pytest.approx(expected.item(), rel=1e-4)
    assert len(states) == 4


def test_the_encoder_stays_as_it_was(stranger):
    stem, layers = whisper.encoder()
    ready = stranger.prepare(Bench())
    assert torch.equal(ready.model.stages[0][0].conv1.weight, stem.conv1.weight)
    for stage, layer in zip([ready.model.stages[0][1], *(s[0] for s in ready.model.stages[1:])], layers, strict=True):
        assert all(torch.equal(p, q) for p, q in zip(stage.parameters(), layer.parameters(), strict=True))
    assert ready.split("test").answers.shape == (4, 10, 20)
    two = stranger.replace({"groups": 2, "layers": 2}).build(ready.data, 0)
    assert [[type(part) for part in stage] for stage in two.stages] == [
        [whisper.Stem, whisper.Layer, whisper.Layer], [whisper.Layer, whisper.Layer]
    ]  # fmt: skip


@pytest.mark.parametrize("wrong", [{"encoder": "wav2vec"}, {"encoder": "whisper", "groups": 3, "layers": 2}])
def test_an_encoder_that_there_is_not_is_refused(wrong):
    with pytest.raises(ValueError, match="encoder is whisper, of at most 4 layers, or conformer"):
        tiny(**wrong)


# The network.


def test_positions_are_sines_and_cosines():
    front, x = FrontEnd(8, 6, 4), torch.randn(2, 8, 44)
    with torch.no_grad():
        plain, found = front.convolutions(x).transpose(1, 2), front(x)
    assert found.shape == (2, 11, 6)
    at = (found - plain)[1, 5]
    angles = [5 / 10_000 ** (2 * i / 6) for i in range(3)]
    assert at.tolist() == pytest.approx([f(a) for a in angles for f in (math.sin, math.cos)], abs=1e-5)
    assert [layer.stride for layer in FrontEnd(8, 6, 2).convolutions] == [(2,), (1,)]


def test_attention_by_hand():
    torch.manual_seed(0)
    layer, x = Attention(8, 2), torch.randn(1, 5, 8)
    with torch.no_grad():
        q, k, v = layer.enter(x)[0].chunk(3, dim=1)
        parts = []
        for h in (slice(0, 4), slice(4, 8)):
            parts.append((q[:, h] @ k[:, h].T / 2).softmax(-1) @ v[:, h])
        assert torch.allclose(layer(x)[0], layer.leave(torch.cat(parts, dim=1)), atol=1e-5)


def test_the_convolution_module_by_hand():
    torch.manual_seed(0)
    module, x = Convolution(4, 3).eval(), torch.randn(2, 5, 4)
    with torch.no_grad():
        module.norm.running_mean.fill_(0.3)
        inner = F.glu(module.enter(x), dim=2).transpose(1, 2)
        by_hand = module.leave(F.silu(module.norm(module.depthwise(inner))).transpose(1, 2))
        assert torch.allclose(module(x), by_hand, atol=1e-6)


def test_a_layer_adds_half_of_each_feed_forward_block():
    torch.manual_seed(0)
    layer, x = ConformerLayer(4, 2, 3).eval(), torch.randn(2, 5, 4)
    with torch.no_grad():
        y = x + layer.parts[0](layer.norms[0](x)) / 2
        y = y + layer.parts[1](layer.norms[1](y))
        y = y + layer.parts[2](layer.norms[2](y))
        y = y + layer.parts[3](layer.norms[3](y)) / 2
        assert torch.allclose(layer(x), layer.norms[4](y), atol=1e-6)


def test_a_new_layer_adds_a_tenth_of_each_branch():
    """Weights are drawn up to 1 / sqrt(inputs), as ever, and divided by ten where a branch ends."""
    torch.manual_seed(0)
    for part in ConformerLayer(16, 2, 3).parts:
        last = part[-1] if isinstance(part, torch.nn.Sequential) else part.leave
        most = 0.1 / math.sqrt(last.in_features)
        assert 0.9 * most < last.weight.abs().max() <= most
        assert last.bias.abs().max() <= most


def test_exits_need_only_their_own_layers(prepared):
    method, _, ready = prepared(KEY)
    assert ready.model.exits == 3
    kinds = [[type(part) for part in stage] for stage in ready.model.stages]
    assert kinds == [[FrontEnd, ConformerLayer], [ConformerLayer], [ConformerLayer]]
    x = torch.stack(list(ready.data.test.inputs[:4]))
    spent = costs.exit_costs(ready.model, x[:1])
    assert spent[2] - spent[1] == spent[1] - spent[0] > 0
    with torch.inference_mode():
        every = ready.model(x)["answer"]
        alone = infer(ready.model, x, method.rule(0.0, ready))
    assert alone.exits.tolist() == [0] * 4
    assert torch.allclose(alone.answers, every[0], atol=1e-5)
    deep = tiny(layers=2).build(ready.data, 0)
    assert [len(stage) for stage in deep.stages] == [3, 2, 2]


@pytest.mark.parametrize("wrong", [{"groups": 0}, {"layers": 0}, {"reduction": 3}, {"kernel": 4}, {"width": 18}])
def test_what_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match="EarlyExitAsr: "):
        tiny(**wrong)


def test_a_list_of_one_is_refused():
    with pytest.raises(ValueError, match="hypotheses"):
        tiny(hypotheses=1)


# The training.


def test_the_ctc_loss_by_hand():
    """Of three frames "a" is said by aaa, aa_, a__, _aa, _a_ and __a."""
    log_p = some(1, 3, 3)
    p = log_p[0].exp().tolist()
    paths = [(1, 1, 1), (1, 1, 0), (1, 0, 0), (0, 1, 1), (0, 1, 0), (0, 0, 1)]
    total = sum(math.prod(p[t][v] for t, v in enumerate(path)) for path in paths)
    assert ctc(log_p, torch.tensor([[0, -1]])).item() == pytest.approx(-math.log(total), rel=1e-5)
    two = some(2, 3, 3)
    y = torch.tensor([[0, -1], [1, 0]])
    each = [ctc(two[i : i + 1], y[i : i + 1]).item() for i in range(2)]
    assert ctc(two, y).item() == pytest.approx(sum(each) / 2, rel=1e-5)
    assert each[1] == pytest.approx(-math.log(dict(every_transcript(two[1].double().numpy()))[2, 1]) / 2, rel=1e-5)
    assert ctc(some(1, 1, 3), torch.tensor([[0, 1]])).item() == 0


@pytest.mark.parametrize("joint", [True, False])
def test_the_loss_is_the_sum_over_exits_or_that_of_the_last(wired, joint):
    model, (stage,) = wired(tiny(joint=joint))
    x, y = torch.stack(stage.train.inputs[:5]), stage.train.targets[:5]
    model.eval()
    with torch.no_grad():
        each = [ctc(log_p, y).item() for log_p in model(x)]
        found = stage.loss(stage.batch_of(torch.arange(5), x)).item()
    assert found == pytest.approx(sum(each) if joint else each[-1], rel=1e-5)
    trained = {id(p) for p in model.parameters()}
    if not joint:
        trained -= {id(p) for p in model.heads[:-1].parameters()}
    assert stage.rates == dict.fromkeys(trained, 1e-2)


def test_everything_is_trained_on_all_training_data(wired):
    method = tiny(epochs=1.5, batch=20, rate=2e-3)
    model, (stage,) = wired(method)
    words = method.load().train
    assert torch.equal(torch.stack([*stage.train.inputs]), torch.stack([*words.inputs]))
    assert torch.equal(stage.train.targets, words.targets)
    assert set(stage.rates.values()) == {2e-3}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (400, 1.5, 20, 30)
    assert stage.learning
    assert not model.training


def test_both_rules_decide_about_the_same_network(prepared):
    one, other = (prepared(KEY, variant)[2] for variant in ("entropy", "sentence confidence"))
    a, b = one.split("test").answers, other.split("test").answers
    assert torch.equal(a, b)


def test_training_teaches_to_read(prepared):
    method, bench, ready = prepared(KEY)
    nothing, full = method.chance(ready, bench), method.full_model(ready, bench)[0]
    each = [point.quality for point in method.static(ready.split("test"))]
    assert full == each[-1]
    assert min(each) > nothing.quality + 0.1  # which is best in so short a training depends on the processor
    assert method.quality == "1 - CER"
    assert full == letter_accuracy(ready.split("test").answers[-1], ready.split("test").targets)


def test_chance_is_the_best_transcript_for_all(prepared):
    method, bench, _ = prepared(KEY)
    targets = torch.tensor([[0, 0, -1, -1], [0, 1, -1, -1], [2, 0, 3, 1]])
    other = SimpleNamespace(split=lambda name: SimpleNamespace(targets=targets))
    found = method.chance(other, bench)
    assert found.quality == pytest.approx(4 / 8)  # "00": 0, 1 and 3 edits
    assert found.error == pytest.approx(math.sqrt(4 / 8 * 4 / 8 / 8))
    assert found.what.endswith("of 8 letters")


# The recordings.


def test_a_recording_is_played_faster_and_slower():
    wave = np.sin(np.arange(800) / 10).astype(np.float32)
    assert len(recordings.at_speed(wave, 0.8)) == 1000
    fast = recordings.at_speed(wave, 2.0)
    assert fast == pytest.approx(wave[::2], abs=1e-6)


def test_silence_at_both_ends_is_cut_off():
    wave = np.zeros(1600, dtype=np.float32)
    wave[400:800] = 1
    wave[1200:1210] = 0.01
    assert len(recordings.trimmed(wave)) == 400


def test_an_utterance_is_made_of_its_letters():
    spoken = [np.full(400, 0.5, dtype=np.float32), np.full(800, 0.5, dtype=np.float32)]
    lengths = set()
    for seed in range(12):
        wave, letters, level = recordings.utterance(spoken, 4, np.random.default_rng(seed))
        count = int((letters >= 0).sum())
        assert 2 <= count <= 4
        assert (letters[count:] == -1).all()
        assert set(letters[:count]) <= {0, 1}
        assert 0 <= level <= 20
        assert np.mean(wave**2) == pytest.approx(1, rel=1e-4)
        lengths.add(len(wave))
    assert lengths == {int(4 * (800 / 0.85 + 1600))}


def test_words_of_one_kind_of_letter_are_refused():
    with pytest.raises(ValueError, match="of 2 to 36 kinds, not 4 of 37"):
        recordings.utterances(letters=37)
    with pytest.raises(ValueError, match="no source 'x' of spelled words"):
        tasks.spelled("x", letters=5, train=1)


def test_what_is_said_is_written_in_letters():
    assert recordings.in_letters("Press 1, or wait -- that's all.") == "press one or wait that's all"
    assert recordings.in_letters("[beep]") == ""
    assert recordings.in_letters("(10 seconds of silence)") == ""
    assert recordings.in_letters("Dial 1999") == ""


def test_a_sentence_lies_somewhere_in_noise_of_its_own_level():
    wave, places = np.full(1000, 0.5, dtype=np.float32), set()
    for seed in range(8):
        found, level = recordings._in_noise(wave, 4000, np.random.default_rng(seed))
        assert found.shape == (4000,)
        assert np.sqrt(np.mean(found**2)) == pytest.approx(recordings.LOUD, rel=1e-3)
        assert 10 <= level <= 30
        places.add(int(np.convolve(found, np.ones(500), "same").argmax()))
    assert len(places) > 4


def test_made_words_are_pictures_side_by_side():
    found = tasks.spelled("made", letters=5, train=50)
    assert found.train.inputs[0].shape == (8, 176)
    counts = (found.train.targets >= 0).sum(dim=1)
    assert (int(counts.min()), int(counts.max())) == (2, 4)
    assert found.train.targets.max() == 4


# What is claimed.


def read(*accuracies, n=400):
    """What each of ``n`` utterances is worth, the same for all: 1 - CER of each exit, or of one network."""
    each = np.repeat(np.array(accuracies)[:, None], n, axis=1)
    return each if len(each) > 1 else each[0]


def by_luck(accuracy, n=400):
    """As much on the mean, but more of one half of the utterances than of the other."""
    return np.tile([accuracy - 0.3, accuracy + 0.3], n // 2)


def test_what_utterances_are_worth_is_on_the_mean_the_accuracy_of_all_letters():
    said, meant = torch.tensor([[1, 2, -1], [3, -1, -1], [4, 5, 6]]), torch.tensor([[1, 3, -1], [3, -1, -1], [5, 4, 6]])
    found = claimed.worth(said, meant)
    assert found.mean() == pytest.approx(letter_accuracy(said, meant))
    assert found.tolist() == pytest.approx([1 - 1 / 2, 1.0, 1 - 2 / 2])


def test_deeper_exits_must_read_better():
    found = claimed.deeper_reads_better(read(0.8, 0.85, 0.86), [0.9, 0.8])
    assert found.holds
    assert found.measured.startswith("CER 0.200, 0.150, 0.140 of the exits (+0.0600 ± 0.0000 letters right")
    assert found.measured.endswith("WER 0.900, 0.800")
    assert not claimed.deeper_reads_better(read(0.8, 0.83, 0.84), [0.1, 0.2]).holds
    assert not claimed.deeper_reads_better(read(0.8, 0.9, 0.88), [0.1, 0.2]).holds
    few = np.stack([read(0.8, n=4), read(0.85, n=4), by_luck(0.86, n=4)])
    assert not claimed.deeper_reads_better(few, [0.1, 0.2]).holds, "four utterances say little"


@pytest.mark.parametrize(
    ("share", "kept", "holds"),
    [(0.85, read(0.885), True), (0.95, read(0.885), False), (0.85, read(0.879), False), (0.85, by_luck(0.885), False)],
    ids=["saves", "saves little", "loses", "loses, perhaps"],
)
def test_something_must_be_saved_and_little_lost_beyond_chance(monkeypatch, share, kept, holds):
    pairs = [(0.5, 0.4), (0.895, share), (0.9, 1.0)]
    each = [OperatingPoint(knob=k, quality=q, cost=c, speed_up=1 / c, exits=[1.0]) for k, (q, c) in enumerate(pairs)]
    chance = SimpleNamespace(quality=0.1, error=0.01, reached=None)
    curve = SimpleNamespace(validation=each, test=each, full_quality=0.9, chance=chance, quality="1 - CER")
    asked, exits = [], np.stack([read(0.5), read(0.9)])
    monkeypatch.setattr(claimed, "at_knob", lambda *given: asked.append(given) or kept)
    found = claimed.saved("method", "prepared", curve, exits)
    assert found.holds is holds
    assert not found.not_comparable
    assert [given[:3] for given in asked] == [("method", "prepared", 1)]
    assert claimed.saved("method", "prepared", curve, np.stack([read(0.89), read(0.9)])).not_comparable


def test_bars_of_the_comparisons():
    assert claimed.beside_last_alone(read(0.1, 0.9), read(0.889)).holds
    assert not claimed.beside_last_alone(read(0.1, 0.9), read(0.892)).holds
    assert not claimed.beside_last_alone(read(0.1, 0.9), by_luck(0.88)).holds
    assert claimed.beside_shallow(read(0.8, 0.9), read(0.811)).holds
    assert not claimed.beside_shallow(read(0.8, 0.7), read(0.808)).holds
    assert not claimed.beside_shallow(read(0.8, 0.7), by_luck(0.82)).holds
    assert claimed.beside_scratch(read(0.511, 0.61, 0.6), read(0.5, 0.5, 0.9)).holds
    assert not claimed.beside_scratch(read(0.49, 0.61, 0.6), read(0.5, 0.5, 0.4)).holds
    assert not claimed.beside_scratch(np.stack([by_luck(0.52), read(0.6)]), read(0.5, 0.4)).holds


def rule(quality, share):
    """A rule of one setting that costs such a share."""
    point = OperatingPoint(knob=0, quality=quality.mean(), cost=share, speed_up=1 / share, exits=[1.0])
    sampled = point.model_copy(update={"samples": Samples(quality=quality)})
    return Baseline(name="x", validation=[point], test=[sampled])


@pytest.mark.parametrize(
    ("ours", "holds"), [(read(0.706), True), (read(0.704), False), (by_luck(0.71), False), (read(0.66), False)]
)
def test_the_rule_is_held_against_the_entropy_of_frames_at_its_costs(ours, holds):
    found = claimed.beside_entropy(rule(ours, 0.5), rule(read(0.7), 0.5))
    assert found.holds is holds
    assert found.measured.startswith(f"1 - CER {ours.mean() - 0.7:+.4f} ± ")
    dearer = claimed.beside_entropy(rule(ours, 0.6), rule(read(0.7), 0.5))
    assert not dearer.holds
    assert dearer.measured == "1 - CER no setting is as cheap"


def test_nothing_follows_from_conformers_that_have_not_learnt_to_read():
    reads, none = (0.5, 0.45), (0.49, 0.3)
    for compared in (
        lambda best, worst: claimed.beside_last_alone(read(0.1, best), read(worst)),
        lambda best, worst: claimed.beside_shallow(read(worst, worst), read(best)),
        lambda best, worst: claimed.beside_scratch(read(best, worst), read(0.2, 0.9)),
    ):
        good, bad = compared(*reads), compared(*none)
        assert good.holds
        assert not good.not_comparable
        assert not bad.holds
        assert "51% of its letters are wrong" in bad.not_comparable
    assert not claimed.beside_shallow(read(0.3, 0.6), read(0.35)).not_comparable, "its last exit reads"


def test_worth_at_a_setting_is_that_of_the_exits_where_utterances_leave(prepared):
    method, _, ready = prepared(KEY)
    found = method.sweep(ready, Bench(), "test", method.knobs)
    told = claimed.worth_at(Baseline(name="x", validation=found, test=found), method, ready)
    for point in told.test:
        assert point.samples.quality.mean() == pytest.approx(point.quality)


def test_rivals_are_conformers_on_the_same_utterances(prepared, monkeypatch):
    """The network of the tests stands for all; what is asked of the rivals is looked at."""
    method, bench, ready = prepared(KEY)
    asked = []
    monkeypatch.setattr(EarlyExitAsr, "prepare", lambda self, bench: asked.append(self) or ready)
    pretrained = registry.get(KEY).variant("sentence confidence").replace({"train_size": 7})
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    chance = SimpleNamespace(quality=0.0, error=0.01, reached=None)
    curve = SimpleNamespace(validation=held, test=test, full_quality=1.0, chance=chance, quality="1 - CER")
    monkeypatch.setattr(
        claimed, "points_of", lambda rival, ready, bench: Baseline(name="x", validation=held, test=test)
    )
    found = claimed.claims(pretrained, ready, bench, curve)
    assert [outcome.name for outcome in found] == [
        "deeper exits read better", "cheaper at nearly the same error rate", "low exits are better from scratch",
        "other exits help the full depth", "the first exit pays for it", "better than the entropy of frames",
    ]  # fmt: skip
    joint, by_path, frames, last, shallow = asked
    assert (frames.hypotheses, by_path) == (50, frames.replace({"hypotheses": 0}))
    assert (type(joint), joint.encoder, joint.joint, joint.groups) == (EarlyExitAsr, "conformer", True, 4)
    assert (joint.corpus, joint.train_size, joint.reduction, joint.hypotheses) == ("sentences", 7, 2, 0)
    assert joint.epochs == 2 * pretrained.epochs
    assert last == joint.replace({"joint": False})
    assert shallow == joint.replace({"joint": False, "groups": 1})
    assert (type(frames), frames.encoder, frames.epochs) == (EarlyExitAsr, "whisper", pretrained.epochs)
    seen = ready.split("test")
    low = claimed.by_exit(ready).mean(axis=1).tolist()
    assert low == pytest.approx([letter_accuracy(seen.answers[m], seen.targets) for m in range(3)])
    by_word = ", ".join(f"{word_error_rate(seen.answers[m], seen.targets):.3f}" for m in range(3))
    assert found[0].measured.endswith(f"WER {by_word}")
    assert found[2].measured.count(f"{1 - low[0]:.3f}, {1 - low[1]:.3f}") == 2
    assert found[3].measured.startswith(f"CER {1 - low[-1]:.4f} instead of {1 - low[-1]:.4f} (1 - CER +0.0000 ± ")
    assert found[4].measured.startswith(f"CER {1 - low[-1]:.4f} by itself, {1 - low[0]:.4f} at the first exit")


def test_of_the_entropy_only_what_depends_on_the_rule_is_told(prepared):
    method, bench, ready = prepared(KEY, "entropy")
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    chance = SimpleNamespace(quality=0.0, error=0.01, reached=None)
    whole = method.full_model(ready, bench)[0]
    curve = SimpleNamespace(validation=held, test=test, full_quality=whole, chance=chance, quality="1 - CER")
    (found,) = claimed.claims(method, ready, bench, curve)
    assert found.name == "cheaper at nearly the same error rate"
