"""BiLD: the fact sheet's invariants, the released loop's turns, and many texts in step as text by text."""

import json
import math
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from eelit.methods.backbones.decoder import small_decoder
from eelit.methods.backbones.decoding import generate
from eelit.methods.claims import comparisons, paired
from eelit.methods.claims import kim2023bild as claimed
from eelit.methods.engine.examples import TestDataAsked
from eelit.methods.engine.records import Beside, Curve, OperatingPoint, Samples
from eelit.methods.families.speculative import PassCosts, weights_read
from eelit.methods.papers.kim2023bild import (
    Pair,
    Reader,
    Rules,
    continued,
    first_wrong,
    follow,
    next_token_loss,
    sure,
    taken_over,
    write_together,
)
from eelit.methods.recipes.language import MuonAndAdam

KEY = "kim2023bild"
GOLDEN = json.loads((Path(__file__).parent.parent / f"data/golden/{KEY}.json").read_text(encoding="utf-8"))
PROMPTS = torch.randint(0, 30, (8, 7), generator=torch.Generator().manual_seed(2))
LENGTH = 9
SCALE, SHARP = 5, 6


@cache
def pair():
    """Two random decoders, the first layers of the large one in the small one, so that they often agree.

    Matrices are larger than at the start, or a text would repeat one token.
    """
    found = []
    for layers in (4, 2):
        net = small_decoder(vocabulary=30, layers=layers, width=24, heads=4, inner=40, reach=64, seed=1)
        others = {id(p) for p in net.vectors()}
        for p in net.language_model.parameters():
            p.data *= SHARP if id(p) in others else SCALE
        found.append(net)
    return Pair(*found)


def read(net, prompts=PROMPTS):
    with torch.inference_mode():
        return net.read(prompts[:, :-1], prompts.shape[1] - 1 + LENGTH)


def followed(knobs, rules, both=None):
    both = both or pair()
    return follow(both, (read(both.large), read(both.small)), PROMPTS[:, -1], LENGTH, knobs, rules)


def written(row, knob, rules, both=None):
    both, prompt = both or pair(), PROMPTS[row : row + 1]
    readers = [Reader(net, read(net, prompt)) for net in (both.large, both.small)]
    return write_together(*readers, prompt[0, -1:], LENGTH, knob, rules), readers


def full(net):
    return generate(net, read(net), PROMPTS[:, -1], LENGTH, None).tokens


KNOBS = (0.0, 0.5, 1.1)
EVERY = [
    Rules(rollback, in_a_row, released, verified)
    for rollback, in_a_row in ((0.5, 10), (2.0, 3))
    for released in (False, True)
    for verified in (False, True)
]


@pytest.mark.parametrize("rules", EVERY, ids=str)
def test_texts_in_step_are_those_written_one_by_one_and_take_the_passes_counted(rules):
    both = pair()
    costs = [PassCosts.of(net).full for net in (both.small, both.large)]
    for knob, (tokens, exits, flawed, passes, _) in zip(KNOBS, followed(KNOBS, rules), strict=True):
        for row in (0, 5):
            caches = [read(net, PROMPTS[row : row + 1]) for net in (both.large, both.small)]
            readers = [Reader(net, each) for net, each in zip((both.large, both.small), caches, strict=True)]
            with weights_read(both) as counted:
                found = write_together(*readers, PROMPTS[row, -1:], LENGTH, knob, rules)
            assert found[0].equal(tokens[row])
            assert found[1].equal(exits[row])
            assert found[2].equal(flawed[row])
            assert counted.weights == sum(int(n) * cost for n, cost in zip(passes[row], costs, strict=True))


def test_the_cases_above_hold_rollbacks_and_both_models_tokens():
    tokens, exits, _, _, rolled = followed([0.5], Rules(0.5, 10))[0]
    assert rolled.sum() > 0
    assert 0.1 < float(exits.double().mean()) < 0.9
    assert not tokens.equal(full(pair().small))


def test_without_trust_the_text_is_the_large_models():
    tokens, exits, _, passes, rolled = followed([1.1], Rules(0.0, 10))[0]
    assert tokens.equal(full(pair().large))
    assert (exits == 1).all()
    assert (passes == torch.tensor([LENGTH - 1, LENGTH])).all()  # each step of the small one is in vain
    assert not rolled.any()


def test_with_blind_trust_the_small_model_writes_on_behind_the_first_token():
    tokens, exits, _, passes, _ = followed([0.0], Rules(math.inf, LENGTH))[0]
    first = full(pair().large)[:, :1]
    assert tokens[:, :1].equal(first)
    assert (exits[:, 0] == 1).all()
    assert (exits[:, 1:] == 0).all()
    with torch.inference_mode():
        said = pair().small(torch.cat([PROMPTS, tokens], dim=1))[-1].argmax(dim=-1)
    assert tokens[:, 1:].equal(said[:, PROMPTS.shape[1] : -1])
    assert (passes == torch.tensor([LENGTH - 1, 1])).all()


def test_two_equal_models_never_disagree():
    twins = Pair(pair().large, pair().large)
    tokens, _, _, _, rolled = followed([0.4], Rules(0.0, 10), twins)[0]
    assert tokens.equal(full(pair().large))
    assert not rolled.any()


@pytest.mark.parametrize("knob", [0.0, 0.3, 0.6, 0.9])
def test_rolling_back_every_difference_and_checking_the_end_gives_the_large_models_text(knob):
    tokens, *_ = followed([knob], Rules(0.0, 10, verified=True))[0]
    assert tokens.equal(full(pair().large))


def test_the_unverified_end_may_differ():
    """Nobody has read the last tokens: the released loop ends so too."""
    tokens, exits, *_ = followed([0.0], Rules(0.0, LENGTH))[0]
    assert not tokens.equal(full(pair().large))
    assert (exits[:, 1:] == 0).all()


def test_ten_tokens_in_a_row_are_the_most():
    _, exits, _, passes, _ = followed([0.0], Rules(math.inf, 3))[0]
    assert exits.tolist() == [[1, 0, 0, 0, 1, 0, 0, 0, 1]] * len(PROMPTS)
    assert (passes == torch.tensor([6, 3])).all()  # no step of the small one is in vain


def test_both_thresholds_are_strict():
    logits = torch.tensor([[0.0, 0.0], [2.0, 0.0], [math.nan, 0.0]])
    assert sure(logits, 0.5).tolist() == [True, True, False]
    assert sure(logits, math.nextafter(0.5, 1)).tolist() == [False, True, False]
    p = torch.tensor([[0.95, 0.05], [0.5, 0.5]], dtype=torch.float64)
    tokens = torch.tensor([1, 1])
    assert first_wrong(p.log(), tokens, Rules(-math.log(0.05) - 1e-9, 10)) == 0
    assert first_wrong(p.log(), tokens, Rules(-math.log(0.05) + 1e-9, 10)) is None
    even = torch.zeros(1, 2, dtype=torch.float64)  # d = ln 2 for either token, and the large model prefers the other
    assert first_wrong(even, tokens[:1], Rules(math.log(2), 10)) is None
    assert first_wrong(even, tokens[:1], Rules(math.nextafter(math.log(2), 0), 10)) == 0
    assert first_wrong(p.log(), tokens, Rules(2.0, 10)) == 0  # d = 2.996
    assert first_wrong(p.log(), tokens, Rules(3.0, 10)) is None
    kept = torch.tensor([[0.9932, 0.0068]]).log()
    assert first_wrong(kept, tokens[:1], Rules(5.0, 10)) is None


def test_the_released_rule_checks_no_token_behind_one_that_the_large_model_would_write_too():
    p = torch.tensor([[0.1] * 10, [0.91] + [0.01] * 9])  # an even distribution, whose first token is its argmax
    tokens = torch.tensor([0, 4])
    assert first_wrong(p.log(), tokens, Rules(2.0, 10)) == 1
    assert first_wrong(p.log(), tokens, Rules(2.0, 10, released=True)) is None
    assert first_wrong(p.log()[1:], tokens[1:], Rules(2.0, 10, released=True)) == 0
    assert first_wrong(p.log()[:0], tokens[:0], Rules(2.0, 10)) is None


def test_rollbacks_fall_with_their_threshold_and_fallbacks_rise_with_theirs():
    logits = torch.randn(50, 12, generator=torch.Generator().manual_seed(0)) * 3
    tokens = torch.arange(50) % 12
    wrong = [sum(first_wrong(a[None], b[None], Rules(r, 10)) == 0 for a, b in zip(logits, tokens, strict=True))
             for r in (0.0, 1.0, 2.0, 5.0, math.inf)]  # fmt: skip
    assert wrong == sorted(wrong, reverse=True)
    assert wrong[0] > wrong[-1] == 0
    fallen = [int((~sure(logits, alpha)).sum()) for alpha in (0.0, 0.3, 0.6, 0.9, 1.1)]
    assert fallen == sorted(fallen)
    assert (fallen[0], fallen[-1]) == (0, 50)


class Watched(Reader):
    """A reader that notes how many tokens of the text it knows after it was made to forget."""

    def __init__(self, *given):
        super().__init__(*given)
        self.left = []

    def forget(self, kept):
        super().forget(kept)
        self.left.append((kept, self.cache.position - self.start))


@torch.inference_mode()
def test_after_a_rollback_both_caches_hold_the_kept_prefix_and_later_what_a_full_forward_gives():
    both, checked = pair(), 0
    for row in range(len(PROMPTS)):
        prompt = PROMPTS[row : row + 1]
        readers = [Watched(net, read(net, prompt)) for net in (both.large, both.small)]
        tokens, *_ = write_together(*readers, prompt[0, -1:], LENGTH, 0.3, Rules(0.5, 10))
        for reader in readers:
            assert all(known == kept for kept, known in reader.left)
            checked += len(reader.left)
            text = torch.cat([prompt[0], tokens])[None, : reader.cache.position]
            wanted = reader.model.read(text, text.shape[1])
            for ours, theirs in zip(reader.cache.layers, wanted.layers, strict=True):
                assert torch.allclose(ours.keys[:, :, : text.shape[1]], theirs.keys, atol=1e-4)
                assert torch.allclose(ours.values[:, :, : text.shape[1]], theirs.values, atol=1e-4)
    assert checked


# The released loop


class Toy:
    """A model whose logits are a row for the last token and one for the token before it."""

    def __init__(self, rows, name, log):
        self.rows, self.name, self.log, self.known = torch.tensor(rows), name, log, 0

    def read(self, text):
        self.log.append((self.name, len(text) - self.known))
        found = [self.rows[0][text[i]] + (self.rows[1][text[i - 1]] if i else 0) for i in range(self.known, len(text))]
        self.known = len(text)
        return torch.stack(found)

    def forget(self, kept):
        self.known = min(self.known, kept)


@pytest.mark.parametrize("known", GOLDEN["runs"], ids=lambda r: f"{r['seed']}-{r['fallback']:g}-{r['rollback']:g}")
def test_tokens_and_turns_are_the_released_ones(known):
    log = []
    large, small = Toy(known["large"], 1, log), Toy(known["small"], 0, log)
    rules = Rules(known["rollback"], known["most"], released=True)
    last, length = torch.tensor([known["start"]]), len(known["tokens"])
    tokens, exits, flawed = write_together(large, small, last, length, known["fallback"], rules)
    assert tokens.tolist() == known["tokens"]
    assert [name for name, _ in log] == known["passes"]
    assert not flawed.any()
    assert exits[0] == 1


def test_the_released_runs_hold_rollbacks_with_two_turns_of_the_large_model():
    twice = [sum(a == b == 1 for a, b in zip(r["passes"], r["passes"][1:], strict=False)) for r in GOLDEN["runs"]]
    assert sum(twice) >= 5
    apart = 0
    for known in GOLDEN["runs"]:
        log = []
        large, small = Toy(known["large"], 1, log), Toy(known["small"], 0, log)
        last, length = torch.tensor([known["start"]]), len(known["tokens"])
        rules = Rules(known["rollback"], known["most"])
        write_together(large, small, last, length, known["fallback"], rules)
        apart += [name for name, _ in log] != known["passes"]
    assert apart  # as described, the small model goes on behind a rollback


def test_zero_is_zero_here_and_none_in_the_released_code():
    assert GOLDEN["zero"] == {"fallback": 0, "rollback": 0, "used": [0.6, 5.0]}
    assert sure(torch.zeros(1, 9), 0.0)[0]
    assert first_wrong(torch.tensor([[1.0, 0.9]]), torch.tensor([1]), Rules(0.0, 10)) == 0


def test_what_is_not_finite_is_never_trusted_and_is_told(monkeypatch):
    both = pair()
    head, small = type(both.small).head, both.small

    def nothing(self, states):
        said = head(self, states)
        return torch.full_like(said, math.nan) if self is small else said

    monkeypatch.setattr(type(small), "head", nothing)
    tokens, exits, flawed, *_ = followed([0.0], Rules(3.0, 10))[0]
    assert tokens.equal(full(both.large))
    assert (exits == 1).all()
    assert flawed[:, 1:].all()
    assert not flawed[:, 0].any()
    (found, _, told), _ = written(0, 0.0, Rules(3.0, 10))
    assert found.equal(tokens[0])
    assert told.equal(flawed[0])


@pytest.mark.parametrize("verified", [False, True])
def test_what_the_large_model_reads_without_a_finite_answer_is_told(monkeypatch, verified):
    """It can roll nothing back: the small model's tokens stay, and are told of once they have been read."""
    both = pair()
    head, large = type(both.large).head, both.large

    def nothing(self, states):
        said = head(self, states)
        return torch.full_like(said, math.nan) if self is large else said

    monkeypatch.setattr(type(large), "head", nothing)
    rules = Rules(0.0, 5, verified=verified)
    tokens, exits, flawed, _, rolled = followed([0.0], rules)[0]
    assert not rolled.any()
    assert exits.tolist() == [[1, 0, 0, 0, 0, 0, 1, 0, 0]] * len(PROMPTS)
    assert flawed.tolist() == [[True] * 7 + [verified] * 2] * len(PROMPTS)
    (found, _, told), _ = written(0, 0.0, rules)
    assert found.equal(tokens[0])
    assert told.equal(flawed[0])


# Training


def test_each_decoder_learns_the_next_token_by_itself(prepared, wired):
    method = prepared(KEY)[0]
    both, stages = wired(method)
    x = torch.stack(method.load().train.inputs[3:6])
    assert len(stages) == 3
    for stage, net in zip(stages, (both.large, both.small), strict=False):
        assert (stage.epochs, stage.batch, len(stage.train)) == (1, 8, 280)
        assert isinstance(stage.optimiser, MuonAndAdam)
        matrices = {id(p) for name, p in net.language_model.named_parameters() if name.endswith("_proj.weight")}
        assert stage.rates == {id(p): 1e-2 if id(p) in matrices else 8e-3 for p in net.language_model.parameters()}
        with torch.no_grad():
            said = net.language_model(x[:, :-1]).logits.log_softmax(dim=-1)
        expected = -said.gather(2, x[:, 1:, None]).mean()
        assert stage.loss(stage.batch_of(torch.arange(3, 6), x)).item() == pytest.approx(expected.item(), rel=1e-5)
        loss = next_token_loss(net, x[:, :-1], x[:, 1:])
        assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def test_alignment_learns_from_what_the_large_model_writes_behind_prompts_and_from_nothing_else(prepared, wired):
    method = prepared(KEY, "aligned")[0]
    both, (*_, stage) = wired(method)
    data = method.load()
    assert (stage.epochs, stage.batch, len(stage.train)) == (1, 8, 80)
    assert stage.rates == {id(p): 1e-3 for p in both.small.language_model.parameters()}
    assert isinstance(stage.optimiser, torch.optim.AdamW)
    for window, own in zip(stage.train.inputs[:3], data.train.inputs, strict=False):
        assert window[:8].equal(own[:8])
        text = both.large.language_model.generate(
            own[None, :8], attention_mask=torch.ones(1, 8), max_new_tokens=17, do_sample=False, eos_token_id=None,
            pad_token_id=0,
        )  # fmt: skip
        assert window.equal(text[0])
    x = torch.stack(stage.train.inputs[:4])
    with torch.no_grad():
        said = both.small.language_model(x[:, :-1]).logits.log_softmax(dim=-1)[:, 7:]
    expected = -said.gather(2, x[:, 8:, None]).mean()
    assert stage.loss(stage.batch_of(torch.arange(4), x)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_without_alignment_it_learns_as_long_from_the_true_texts_of_the_same_windows(prepared, wired):
    found = {}
    for variant in ("aligned", "unaligned"):
        method = prepared(KEY, variant)[0]
        both, (*_, stage) = wired(method)
        found[variant] = stage
        assert stage.rates == {id(p): 1e-3 for p in both.small.language_model.parameters()}
    ours, theirs = found["aligned"], found["unaligned"]
    assert type(ours.optimiser) is type(theirs.optimiser)
    assert (ours.epochs, ours.batch, len(ours.train)) == (theirs.epochs, theirs.batch, len(theirs.train))
    true = method.load().train.inputs
    assert all(window.equal(own) for window, own in zip(theirs.train.inputs, true, strict=False))
    assert not any(window.equal(own) for window, own in zip(ours.train.inputs[:3], true, strict=False))
    x = torch.stack(theirs.train.inputs[:4])
    with torch.no_grad():
        said = both.small.language_model(x[:, :-1]).logits.log_softmax(dim=-1)[:, 7:]
    expected = -said.gather(2, x[:, 8:, None]).mean()
    assert theirs.loss(theirs.batch_of(torch.arange(4), x)).item() == pytest.approx(expected.item(), rel=1e-5)


def test_continuations_keep_prompts_and_do_not_depend_on_the_parts_they_are_written_in(monkeypatch):
    windows = list(torch.randint(0, 30, (5, 12), generator=torch.Generator().manual_seed(1)))
    whole = torch.stack(continued(pair().large, windows, 4).inputs)
    monkeypatch.setattr("eelit.methods.families.tokens.Prepared.rows", 2)
    assert torch.stack(continued(pair().large, windows, 4).inputs).equal(whole)
    assert whole[:, :4].equal(torch.stack(windows)[:, :4])


@pytest.mark.parametrize("bad", [{"rollback": -1.0}, {"rollback": math.nan}, {"in_a_row": 0}])
def test_settings_that_mean_nothing_are_refused(prepared, bad):
    method = prepared(KEY)[0].replace(bad)
    with pytest.raises(ValueError, match="alpha_RB is at least 0 and n_max at least 1"):
        method.build(method.load(), 0)


# Measuring and claims


def test_the_large_model_takes_over_on_a_given_text():
    """The small one is sure of all tokens but the fourth, and the fifth would be rolled back."""
    small = torch.zeros(1, 6, 3)
    small[..., 0] = torch.tensor([9.0, 9, 9, 0.1, 9, 9])
    large = torch.zeros(1, 6, 3)
    large[0, 4, 1] = 9.0  # where it finds 0 unlikely, and says 1
    assert taken_over(small, large, 0.9, Rules(3.0, 10)).tolist() == [[True, False, False, True, True, False]]
    assert taken_over(small, large, 0.9, Rules(math.inf, 10)).tolist() == [[True, False, False, True, False, False]]
    assert taken_over(small, large, 0.0, Rules(math.inf, 2)).tolist() == [[True, False, False, True, False, False]]
    assert taken_over(small, large, 1.1, Rules(3.0, 10)).all()


def test_bits_of_true_texts(prepared):
    method, _, ready = prepared(KEY)
    passages, length = ready.passages("test"), ready.length
    text = torch.cat([passages.prompts, passages.references], dim=1)
    each = []
    for model in (ready.small.model, ready.model):
        with torch.no_grad():
            said = model.language_model(text[:, :-1]).logits[:, -length:].double().log_softmax(dim=-1)
        each.append(-said.gather(2, passages.references[..., None])[..., 0] / math.log(2))
    found = method.beside(ready, method.knobs)
    assert (found.cheap, found.full) == pytest.approx([bits.mean().item() for bits in each], rel=1e-4)
    assert found.values[-1] == found.full
    taken = method.asked(ready, "test", 0.3, *method.ends(ready, "test"))
    expected = torch.where(taken, each[1], each[0]).mean().item()
    assert method.beside(ready, [0.3]).values == pytest.approx([expected], rel=1e-4)


def test_test_texts_are_out_of_reach_of_what_chooses(prepared):
    method, bench, ready = prepared(KEY)
    method.sweep(ready, bench, "test", [0.2])
    with pytest.raises(TestDataAsked):
        method.texts(ready.for_choosing, "test", [0.2])
    assert method.texts(ready.for_choosing, "validation", [0.2])


def test_weights_read_are_passes_of_each_model(prepared):
    method, _, ready = prepared(KEY)
    (found,) = method.texts(ready, "validation", [0.3])
    each = [
        sum(p.numel() for layer in net.language_model.model.layers for p in layer.parameters())
        + net.language_model.lm_head.weight.numel()
        + net.language_model.model.norm.weight.numel()
        for net in (ready.small.model, ready.model)
    ]
    assert found.read.tolist() == (found.passes * torch.tensor(each)).sum(dim=1).tolist()
    assert method.plain_cost(ready) == each[1]


@pytest.mark.parametrize("variant", ["unaligned", "aligned"])
def test_claims(prepared, variant):
    method, bench, ready = prepared(KEY, variant)
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    beside = method.beside(ready, method.knobs)
    curve = curve_of((1.1, 1.0, 1.0)).model_copy(update={"validation": held, "test": test, "beside": beside})
    found = claimed.claims(method, ready, bench, curve)
    assert len(found) == (4 if variant == "aligned" else 3)


def curve_of(*points):
    """Return a curve of two hundred texts, all of which keep as much."""
    made = [
        OperatingPoint(knob=k, quality=q, cost=1 / s, speed_up=s, exits=[1, 0], samples=Samples(np.full(200, q), None))
        for k, q, s in points
    ]
    return Curve(
        variant="", knob="fallback threshold", quality="", unit="", full_quality=1, full_cost=1, validation=made,
        test=made, executions=[],
    )  # fmt: skip


def test_claims_can_fail():
    assert claimed.faster(curve_of((0.1, 0.99, 1.6), (1, 1, 1))).holds
    assert not claimed.faster(curve_of((0.1, 0.99, 1.5), (1, 1, 1))).holds
    assert not claimed.faster(curve_of((0.1, 0.97, 1.6), (1, 1, 1))).holds
    doubtful = curve_of((0.1, 0.99, 1.6), (1, 1, 1))
    doubtful.test[0].samples.quality[:] += np.tile([0.1, -0.1], 100)
    assert not claimed.faster(doubtful).holds  # 0.01 ± 0.007 are lost: perhaps more than 0.02


def test_a_large_model_that_is_hardly_better_leaves_nothing_to_keep():
    """A bit in ten per token, beyond two standard errors."""
    curve = curve_of((0.1, 0.99, 1.6), (1, 1, 1))
    for lead, error, holds in ((0.2, 0.05, True), (0.2, 0.15, False), (0.09, 0.0, False)):
        beside = Beside(name="bits", meaning="", values=[5.1, 5.0], cheap=5.0 + lead, full=5.0, error=error)
        told = curve.model_copy(update={"beside": beside})
        assert comparisons.better_than_its_cheap_part(told).holds is holds
        assert (claimed.faster(told).not_comparable == "") is holds


def test_gains_count_what_lies_between_two_settings():
    ours, theirs = (claimed.points_of_curve(curve_of(*p)) for p in (((0, 0.6, 4), (1, 1, 1)), ((0, 0.8, 2), (1, 1, 1))))

    def means(ours, theirs):
        return [float(each.mean()) for each in paired.gains_of_mixtures(ours, theirs)]

    assert means(ours, theirs) == pytest.approx([0.6 + 0.4 / 3 - 0.8, 0.0])
    assert means(theirs, ours) == pytest.approx([0.0])  # none of theirs is as cheap as 1 / 4
    assert means(ours, ours) == [0.0, 0.0]
    assert [each.shape for each in paired.gains_of_mixtures(ours, theirs)] == [(200,), (200,)]


@pytest.mark.parametrize(("gain", "holds"), [
    ([np.full(50, 0.04), np.zeros(50)], [True, True]), ([np.full(50, 0.006)], [False, False]), ([], [False] * 2),
    ([np.tile([0.2, -0.16], 25)], [False, False]),
])  # fmt: skip
def test_comparisons_at_equal_cost_can_fail(prepared, monkeypatch, gain, holds):
    method, bench, ready = prepared(KEY, "aligned")
    curve = curve_of((0.1, 0.99, 1.6), (1, 1, 1))
    monkeypatch.setattr(claimed, "gains_of_mixtures", lambda *_: gain)
    monkeypatch.setattr(claimed, "rollbacks", lambda *_: {0.1: 0.5})
    monkeypatch.setattr(claimed, "swept", lambda rival, *_: swept.append(rival) or claimed.points_of_curve(curve))
    swept = []
    outcomes = [claimed.rollback(method, ready, bench, curve), claimed.alignment(method, bench, curve)]
    assert [outcome.holds for outcome in outcomes] == holds
    assert [rival.rollback for rival in swept] == [math.inf, method.rollback]
    assert [rival.aligned for rival in swept] == [True, False]


def test_rollback_is_compared_at_the_costs_where_it_happens_in_validation_texts(prepared, monkeypatch):
    """What happens in test texts is told, and decides nothing."""
    method, bench, ready = prepared(KEY)
    curve, asked = curve_of((0.1, 0.9, 2.5), (0.3, 0.95, 1.6), (1.1, 1, 0.8)), []
    often = {"validation": {0.1: 0.5, 0.3: 0.09, 1.1: 0.0}, "test": {0.1: 0.25, 0.3: 0.75, 1.1: 0.0}}
    monkeypatch.setattr(claimed, "rollbacks", lambda method, prepared, split: often[split])
    monkeypatch.setattr(claimed, "swept", lambda *_: claimed.points_of_curve(curve))
    monkeypatch.setattr(claimed, "gains_of_mixtures", lambda *found: asked.append(found[2]) or [np.full(50, 0.04)])
    found = claimed.rollback(method, ready, bench, curve)
    assert asked == [[1 / 2.5]]
    assert found.holds
    assert found.not_comparable == ""
    assert found.measured.endswith(
        "rollbacks in a test text, by fallback threshold: 0.25 (0.1), 0.75 (0.3), 0.00 (1.1)"
    )


def test_without_rollbacks_nothing_is_said_of_them(prepared):
    method, bench, ready = prepared(KEY)
    often = claimed.rollbacks(method, ready, "validation")
    written = {knob: method.texts(ready, "validation", [knob])[0].rolled for knob in method.knobs}
    assert often == {knob: rolled.sum().item() / len(rolled) for knob, rolled in written.items()}
    assert often[0] > 0 == often[1.1]
    held, test = (method.sweep(ready, bench, split, method.knobs) for split in ("validation", "test"))
    curve = curve_of((1.1, 1, 1)).model_copy(update={"validation": held, "test": test})
    assert claimed.rollback(method, ready, bench, curve).not_comparable == ""
    never = claimed.rollback(method.replace({"rollback": math.inf}), ready, bench, curve)
    assert not never.holds
    assert never.not_comparable.startswith("At no fallback threshold are 0.1 rollbacks made")
