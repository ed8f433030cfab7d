"""What only progressive enhancement with early exit promises: its rounds, their targets, and the distance by hand."""

import dataclasses
import io
import math
import sys
import wave as riff
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from eelit.methods.claims import li2021plcrn as claimed
from eelit.methods.data import recordings
from eelit.methods.engine import costs, tasks
from eelit.methods.engine.audio import log_mel, si_sdr, spectrum, waveform
from eelit.methods.engine.evaluate import infer, replay
from eelit.methods.engine.records import Baseline, OperatingPoint, Samples
from eelit.methods.harness import registry
from eelit.methods.papers.li2021plcrn import (
    Estimate,
    PlCrn,
    Round,
    Rounds,
    compressed,
    distance,
    estimates,
    goals,
    weights,
)
from eelit.methods.policies.score_threshold import ScoreThreshold

KEY = "li2021plcrn"
INF = math.inf


def tiny(variant="progressive targets", **settings):
    return registry.get(KEY).variant(variant, "tiny").replace(settings)


def noisy(n=3, samples=1536):
    return spectrum(torch.randn(n, samples, generator=torch.Generator().manual_seed(0)))


# The signal.


def test_a_spectrum_comes_back_as_the_wave():
    waves = torch.randn(3, 1536, generator=torch.Generator().manual_seed(0))
    found = spectrum(waves)
    assert found.shape == (3, 2, 129, 13)
    assert torch.allclose(waveform(found, 1536), waves, atol=1e-5)
    assert torch.allclose(spectrum(2 * waves), 2 * found, atol=1e-5)


def test_a_tone_is_where_its_frequency_is():
    t = torch.arange(2048) / 8000
    power = spectrum(torch.sin(2 * math.pi * 1000 * t)[None]).square().sum(dim=1)[0]
    assert power.sum(dim=1).argmax() == 32  # of 129, up to 4 kHz
    mel = log_mel(torch.sin(2 * math.pi * 1000 * t)[None], 20, 8000)
    assert mel.shape == (1, 20, 17)
    high = log_mel(torch.sin(2 * math.pi * 2000 * t)[None], 20, 8000)
    assert mel[0, :, 8].argmax() < high[0, :, 8].argmax()


def test_si_sdr_by_hand():
    """Of e = s + n with n orthogonal to s and a tenth as strong it is 20 dB, whatever the scale and the mean."""
    s = torch.tensor([[1.0, -1.0, 1.0, -1.0]])
    n = 0.1 * torch.tensor([[1.0, 1.0, -1.0, -1.0]])
    assert si_sdr(s + n, s).item() == pytest.approx(20.0, abs=1e-4)
    assert si_sdr(3 * (s + n) + 5, s).item() == pytest.approx(20.0, abs=1e-4)
    assert si_sdr(s + 10 * n, s).item() == pytest.approx(0.0, abs=1e-4)
    assert si_sdr(n, s).item() < -50


def speechlike(n=2, samples=8000):
    """Noise that rises and falls, as loud as speech does."""
    waves = torch.randn(n, samples, generator=torch.Generator().manual_seed(0))
    return waves * (1 + torch.sin(torch.arange(samples) / 200))


def test_a_wave_understands_itself_and_less_noise_is_understood_more():
    clean, noise = speechlike(), torch.randn(2, 8000, generator=torch.Generator().manual_seed(1))
    assert claimed.estoi(clean, clean) == pytest.approx([1.0, 1.0], abs=1e-4)
    none, some, much = (claimed.estoi(k * clean + noise, clean).mean() for k in (0, 0.7, 3))
    assert abs(none) < 0.2
    assert none + 0.2 < some < much - 0.05


def test_the_clean_wave_is_the_one_that_silence_is_taken_from():
    """Where the clean wave is silent nothing counts: what is heard there makes no difference."""
    clean = speechlike()
    clean[:, 4000:] = 0
    heard = clean.clone()
    heard[:, 4600:] = torch.randn(2, 3400)
    assert claimed.estoi(heard, clean).mean() > 0.95
    assert claimed.estoi(clean, heard).mean() < 0.9


def test_pieces_too_short_to_be_understood_are_no_number():
    clean = speechlike()
    short = clean.clone()
    short[0, 2000:] = 0
    assert math.isnan(claimed.estoi(short, short)[0])
    assert claimed.estoi(short, short)[1] == claimed.estoi(clean[1:], clean[1:])[0]


def test_pesq_is_told_only_where_its_package_is_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pesq", None)
    assert claimed.pesq(speechlike(), speechlike()) is None

    def measured(rate, clean, wave, mode, on_error):
        assert (rate, mode, on_error) == (8000, "nb", "values")
        return -1 if clean[0] < 0 else float(wave[0] - clean[0])

    package = SimpleNamespace(PesqError=SimpleNamespace(RETURN_VALUES="values"), pesq=measured)
    monkeypatch.setitem(sys.modules, "pesq", package)
    clean, waves = torch.tensor([[1.0], [2.0], [-1.0]]), torch.tensor([[2.0], [5.0], [7.0]])
    assert claimed.pesq(waves, clean) == 2.0


# The exit rule.


def test_the_distance_by_hand():
    before = torch.zeros(2, 2, 1, 2)
    before[:, 0] = torch.tensor([3.0, 4.0])  # of length 5
    now = before.clone()
    now[0, 1] = torch.tensor([[0.0, 1.0]])
    assert distance(now, before).tolist() == pytest.approx([0.2, 0.0])
    assert distance(7 * now, 7 * before).tolist() == pytest.approx([0.2, 0.0])
    assert distance(before[:1], torch.zeros(1, 2, 1, 2)).item() == pytest.approx(5e8)


def said(*distances):
    """What three rounds say of one recording each."""
    d = torch.tensor(distances).T
    return {"answer": torch.zeros(*d.shape, 2, 1, 1), "closeness": -d}


def test_the_first_round_that_changes_less_than_tau_is_the_last(prepared):
    method, _, ready = prepared(KEY)
    outputs = said([0.3, 0.2, 0.1], [0.1, 0.3, 0.1], [0.3, 0.25, 0.2], [math.nan, math.nan, 0.1])
    assert replay(method.rule(0.25, ready), outputs).tolist() == [1, 0, 2, 2]  # strictly: 0.25 goes on
    assert replay(method.rule(INF, ready), outputs).tolist() == [0, 0, 0, 2]
    assert replay(method.rule(0.0, ready), said([0.0, 0.0, 0.0])).tolist() == [2]
    assert replay(method.rule(1e-9, ready), said([0.0, 0.0, 0.0])).tolist() == [0]


def test_rounds_do_not_rise_with_tau(prepared):
    method, _, ready = prepared(KEY)
    seen = ready.split("test")
    exits = [replay(method.rule(tau, ready), seen.outputs) for tau in method.knobs]
    assert all((a <= b).all() for a, b in pairwise(exits))
    assert (exits[0] == 0).all()
    assert (exits[-1] == 2).all()
    assert len(set(exits[5].tolist())) == 3


def test_what_is_answered_is_the_estimate_of_a_full_run(prepared):
    method, _, ready = prepared(KEY)
    x = torch.stack(list(ready.data.test.inputs[:24]))
    with torch.inference_mode():
        every = estimates(ready.model.stages[0].one, x, method.rounds)
        found = infer(ready.model, x, method.rule(0.14, ready))
        d = torch.stack([distance(now, before) for before, now in pairwise(every)])
    small = d < 0.14
    small[-1] = True
    assert found.exits.tolist() == small.int().argmax(dim=0).tolist()
    assert torch.allclose(found.answers, every[1:][found.exits, torch.arange(24)], atol=1e-5)


def test_the_distance_falls_with_the_rounds_and_with_the_noise(prepared):
    _, _, ready = prepared(KEY)
    seen = ready.split("test")
    d = -seen.outputs["closeness"].mean(dim=1)
    assert d[0] > d[1] > d[2]
    x = torch.stack(list(seen.examples.inputs))
    level = si_sdr(waveform(x, 1024), seen.targets)
    assert np.corrcoef(level, -seen.outputs["closeness"][0])[0, 1] < -0.5


# The network.


def test_a_round_by_hand():
    torch.manual_seed(0)
    one, x = Round(2, 8), noisy()
    state = one.start(x)
    assert [tuple(part.shape) for part in state] == [(3, 2, 129, 13)] * 3 + [(3, 4, 9, 13)]
    assert not state[3].any()
    assert all(part is x for part in state[:3])
    elu = torch.nn.functional.elu
    h, s = torch.randn(3, 4, 9, 13), 0.5 * x
    with torch.no_grad():
        wide = elu(one.enter(torch.cat([compressed(x), compressed(s)], 1)))
        e = elu(one.deepen(wide))
        r, z = torch.sigmoid(one.gates(torch.cat([e, h], 1))).chunk(2, 1)
        c = torch.tanh(one.candidate(torch.cat([e, r * h], 1)))
        after = (1 - z) * h + z * c
        seen = one.squeeze(after.reshape(3, 36, 13))
        for layer in one.along:
            seen = seen + elu(layer(seen))
        deep = after + e + elu(one.spread(seen)).reshape(3, 4, 9, 13)
        g, d = one.leave(elu(one.rise(deep)) + wide).split([1, 2], 1)
        found = one((x, s, x, h))
    assert torch.equal(found[0], x)
    assert torch.allclose(found[1], torch.sigmoid(g) * s + d, atol=1e-6)
    assert torch.equal(found[2], s)
    assert torch.allclose(found[3], after, atol=1e-6)
    assert [layer.dilation for layer in one.along] == [(1,), (2,), (4,)]


def test_a_new_round_changes_little():
    torch.manual_seed(0)
    x = noisy()
    with torch.no_grad():
        found = Round(16, 64)(Round(16, 64).start(x))[1]
    assert 0.01 < distance(found, x).max() < 0.3


def test_compressed_spectra_have_the_root_of_the_magnitude():
    x = torch.zeros(1, 2, 1, 2)
    x[0, :, 0, 0] = torch.tensor([3.0, 4.0])
    found = compressed(x)[0, :, 0]
    assert found[:, 0].tolist() == pytest.approx([3 / math.sqrt(5), 4 / math.sqrt(5), math.sqrt(5)], rel=1e-5)
    assert found[:2, 1].tolist() == [0, 0]
    assert found.isfinite().all()


def test_rounds_share_their_weights_and_carry_what_they_know():
    torch.manual_seed(0)
    one, x = Round(2, 8), noisy()
    with torch.no_grad():
        by_hand = one(one(one(one.start(x))))
        found = Rounds(one, 1)(Rounds(one, 2)(x))
        every = estimates(one, x, 3)
    assert all(torch.equal(a, b) for a, b in zip(found, by_hand, strict=True))
    assert torch.equal(every[2], by_hand[1])
    assert torch.equal(every[1], by_hand[2])
    told = Estimate()(by_hand)
    assert torch.equal(told["answer"], by_hand[1])
    assert torch.equal(told["closeness"], -distance(by_hand[1], by_hand[2]))


def test_exits_begin_behind_the_second_round(prepared):
    method, _, ready = prepared(KEY)
    assert (method.rounds, method.first, ready.model.exits) == (4, 2, 3)
    assert [stage.count for stage in ready.model.stages] == [2, 1, 1]
    assert len({id(stage.one) for stage in ready.model.stages}) == 1
    spent = costs.exit_costs(ready.model, ready.data.test.inputs[0][None])
    assert np.diff([0, *spent]).tolist() == [2 * spent[0] / 2, spent[0] / 2, spent[0] / 2]
    early = tiny(first=1).build(ready.data, 0)
    assert early.exits == 4
    x = noisy(2)
    with torch.no_grad():
        first = early.heads[0](early.stages[0](x))
    assert first["closeness"].tolist() == pytest.approx((-distance(first["answer"], x)).tolist())


@pytest.mark.parametrize(
    "wrong",
    [{"rounds": 1}, {"first": 0}, {"first": 4}, {"gain": 0.0}, {"samples": 100}, {"rounds": 2.0}, {"power": -1.0}],
)
def test_what_cannot_be_built_is_refused(wrong):
    with pytest.raises(ValueError, match="PlCrn: "):
        tiny(**wrong)


# The training.


def test_goals_by_hand():
    """6.0206 dB are a factor of two in amplitude."""
    x, y = torch.tensor([[5.0]]), torch.tensor([[1.0]])
    assert goals(x, y, 4, 20 * math.log10(2)).flatten().tolist() == pytest.approx([3.0, 2.0, 1.5, 1.0])
    assert goals(x, y, 3, INF).flatten().tolist() == [1.0, 1.0, 1.0]


def test_later_rounds_weigh_more():
    assert weights(4, 0.0).tolist() == pytest.approx([0.25] * 4)
    assert weights(3, 2.0).tolist() == pytest.approx([1 / 14, 4 / 14, 9 / 14])


@pytest.mark.parametrize("power", [0.0, 1.0])
@pytest.mark.parametrize("variant", ["progressive targets", "clean targets"])
def test_the_loss_is_the_weighted_error_of_all_rounds_in_logarithms(wired, variant, power):
    model, (stage,) = wired(tiny(variant, power=power))
    x, y = torch.stack(stage.train.inputs[:6]), stage.train.targets[:6]
    with torch.no_grad():
        every, clean = estimates(model.stages[0].one, x, 4), spectrum(y)
        found = stage.loss(stage.batch_of(torch.arange(6), x)).item()
    shares = [10 ** (-0.3 * q) for q in (1, 2, 3)] if variant == "progressive targets" else [0.0] * 3
    by_hand = [
        q**power * float((1e-5 + ((now - clean - share * (x - clean)) ** 2).mean(dim=(1, 2, 3))).log().mean())
        for q, (now, share) in enumerate(zip(every, [*shares, 0.0], strict=True), start=1)
    ]
    assert found == pytest.approx(sum(by_hand) / sum(q**power for q in (1, 2, 3, 4)), rel=1e-5)


def test_everything_is_trained_on_all_training_data(wired):
    method = tiny(epochs=1.5, batch=20, rate=2e-3)
    model, (stage,) = wired(method)
    pieces = method.load().train
    assert torch.equal(torch.stack([*stage.train.inputs]), torch.stack([*pieces.inputs]))
    assert torch.equal(stage.train.targets, pieces.targets)
    assert stage.rates == {id(p): 2e-3 for p in model.parameters()}
    assert (len(stage.train), stage.epochs, stage.batch, stage.steps) == (96, 1.5, 20, 8)


def test_training_cleans(prepared):
    method, bench, ready = prepared(KEY)
    noise, full = method.chance(ready, bench), method.full_model(ready, bench)[0]
    each = [point.quality for point in method.static(ready.split("test"))]
    assert full == pytest.approx(each[-1])
    assert each == sorted(each)
    assert each[-1] > each[0] + 0.3 > noise.quality + 3
    assert method.quality == "SI-SDR in dB"
    seen = ready.split("test")
    x = torch.stack(list(seen.examples.inputs))
    ratios = si_sdr(waveform(x, 1024), seen.targets)
    assert noise.quality == pytest.approx(float(ratios.mean()))
    assert noise.error == pytest.approx(float(ratios.std()) / math.sqrt(len(ratios)))
    assert "as they are" in noise.what
    by_hand = si_sdr(waveform(seen.answers[-1], 1024), seen.targets).mean()
    assert full == pytest.approx(float(by_hand))


# The recordings.


def test_a_mixture_is_as_loud_as_it_says():
    wave = np.sin(np.arange(9000) / 5).astype(np.float32)
    for seed in range(5):
        random = np.random.default_rng(seed)
        noisy_one, clean, level = recordings.mixture(wave, recordings.noise(4000, random), random)
        assert -5 <= level <= 15
        assert noisy_one.shape == clean.shape == (4000,)
        assert np.mean(noisy_one**2) == pytest.approx(1, rel=1e-4)
        rest = noisy_one - clean
        assert 10 * np.log10(np.mean(clean**2) / np.mean(rest**2)) == pytest.approx(level, abs=1e-2)


def test_the_loudest_of_four_places_is_taken():
    """Of a wave that rises it is the last one: of four places up to 7,000 at 5,600 on average, of one at 3,500."""
    wave = np.arange(8000, dtype=np.float32)
    made = [recordings.mixture(wave, wave[:1000], np.random.default_rng(i))[1] for i in range(60)]
    shares = [float(clean.min() / clean.max()) for clean in made]
    assert 5000 < np.mean([999 * share / (1 - share) for share in shares]) < 6200


def test_noise_has_level_1_and_falls_with_frequency():
    falls = []
    for seed in range(8):
        made = recordings.noise(8000, np.random.default_rng(seed))
        assert np.mean(made**2) == pytest.approx(1, rel=1e-4)
        power = np.abs(np.fft.rfft(made)) ** 2
        falls.append(power[100:1000].mean() / power[2000:].mean())
    assert min(falls) > 0.8
    assert max(falls) > 5


def test_babble_is_six_voices_of_equal_loudness():
    """Voices are tones, the second of them louder; six draws of two make of them what their numbers say."""
    t = np.arange(8000) / 8000
    voices = [np.sin(2 * np.pi * 200 * t), 10 * np.sin(2 * np.pi * 2000 * t)]
    drawn = np.random.default_rng(0).integers(0, 2, recordings.VOICES)
    found = recordings.babble([v.astype(np.float32) for v in voices], 8192, np.random.default_rng(0))
    assert found.shape == (8192,)
    assert np.mean(found**2) == pytest.approx(1, rel=1e-4)
    power = np.abs(np.fft.rfft(found * np.hanning(8192))) ** 2
    high = power[1500:].sum() / power.sum()
    assert 0 < drawn.mean() < 1
    assert high == pytest.approx(drawn.mean(), abs=0.35)
    assert 0.02 < high < 0.98


def test_music_of_each_part_is_its_own(monkeypatch):
    asked = []
    monkeypatch.setattr(recordings, "_played", lambda name: asked.append(name) or np.ones(5000, dtype=np.float32) * 3)
    for part in (0, 1, 2):
        for seed in range(20):
            assert recordings.music(part, 1000, np.random.default_rng(seed)).tolist() == [1.0] * 1000
    assert [set(asked[a : a + 20]) for a in (0, 20, 40)] == [set(names) for names in recordings.PLAYED]
    assert len({name for names in recordings.PLAYED for name in names}) == 5


def test_a_recording_of_another_kind_is_refused():
    def made(rate):
        with riff.open(buffer := io.BytesIO(), "wb") as out:
            out.setparams((1, 2, rate, 0, "NONE", ""))
            out.writeframes(np.array([0, 16384, -32768], dtype="<i2").tobytes())
        return buffer.getvalue()

    assert recordings.samples_of(made(8000)).tolist() == [0, 0.5, -1]
    with pytest.raises(ValueError, match="8000 samples a second, not"):
        recordings.samples_of(made(16000))


def test_data_of_an_unknown_name_are_refused():
    with pytest.raises(ValueError, match="no sound 'x' in noise; there are prompts and made"):
        tasks.mixtures("x", train=1)


# What is claimed.


ALIKE = (0.0, 0.0, 0.0, 0.0)
APART = (0.3, -0.3, 0.3, -0.3)  # a standard error of 0.173


def points(*pairs, knobs=None, spread=ALIKE):
    """Operating points of quality and share of the full cost; all recordings but the last point's are ``spread``."""
    found = [
        OperatingPoint(
            knob=k, quality=q, cost=share, speed_up=1 / share, exits=[1.0], samples=Samples(q + np.array(spread))
        )
        for k, (q, share) in zip(knobs or range(len(pairs)), pairs, strict=True)
    ]
    return [*found[:-1], found[-1].model_copy(update={"samples": Samples(np.full(4, pairs[-1][0]))})]


def curve(*pairs, spread=ALIKE):
    found = points(*pairs, spread=spread)
    full = found[-1].quality
    return SimpleNamespace(validation=found, test=found, full_quality=full, chance=None, quality="SI-SDR in dB")


@pytest.mark.parametrize(
    ("gain", "each", "spread", "holds"),
    [
        (3.1, [9.0, 9.3, 9.6], ALIKE, True),
        (2.9, [9.0, 9.3, 9.6], ALIKE, False),
        (4.0, [9.0, 9.4], ALIKE, False),
        (4.0, [9, 9.8, 9.6], ALIKE, False),
        (4.0, [9.0, 9.4, 9.7], APART, True),
        (4.0, [9.0, 9.6, 9.6], APART, False),  # the last round may be 0.35 dB worse
    ],
)
def test_rounds_must_help_beyond_two_standard_errors(gain, each, spread, holds):
    static = points(*((q, (i + 1) / len(each)) for i, q in enumerate(each)), spread=spread)
    base = Baseline(name="static exit", validation=static, test=static)
    assert claimed.cleaner(np.full(4, each[-1] - gain), base).holds is holds


def test_the_speed_must_be_set_finely():
    assert claimed.governed(curve((1, 0.4), (2, 0.6), (3, 0.8), (4, 1.0))).holds
    assert not claimed.governed(curve((1, 0.4), (2, 0.7), (4, 1.0))).holds
    assert not claimed.governed(curve((1, 0.5), (2, 0.7), (2, 0.6), (3, 0.8), (4, 1.0))).holds


def test_quality_must_be_sustained():
    assert claimed.sustained(curve((9.0, 0.4), (9.85, 0.75), (10.0, 1.0))).holds
    assert not claimed.sustained(curve((9.0, 0.4), (9.85, 0.85), (10.0, 1.0))).holds
    assert not claimed.sustained(curve((9.0, 0.4), (9.85, 0.75), (10.0, 1.0), spread=APART)).holds


def test_where_less_could_be_lost_than_is_allowed_nothing_is_said_of_what_is_sustained():
    """The first exit is 0.25 dB worse than the last, or by no more than chance: 0.3 dB may be lost."""
    assert "0.3 may be lost" in claimed.sustained(curve((9.75, 0.4), (10.0, 1.0))).not_comparable
    assert claimed.sustained(curve((9.66, 0.4), (10.0, 1.0))).not_comparable == ""
    assert claimed.sustained(curve((9.66, 0.4), (10.0, 1.0), spread=APART)).not_comparable


def test_the_rule_must_beat_a_fixed_number_of_rounds():
    static = points((8.0, 0.5), (10.0, 1.0))
    base = Baseline(name="static exit", validation=static, test=static)
    better = claimed.beside_fixed_rounds(curve((8.0, 0.5), (9.2, 0.75), (10.0, 1.0)), base)
    assert better.holds
    assert better.measured.startswith("+0.20 ± 0.00 dB")
    unsure = curve((8.0, 0.5), (9.2, 0.75), (10.0, 1.0), spread=APART)
    assert not claimed.beside_fixed_rounds(unsure, base).holds
    assert not claimed.beside_fixed_rounds(curve((8.0, 0.5), (9.05, 0.75), (10.0, 1.0)), base).holds


def test_the_noisier_half_must_take_longer(prepared):
    method, bench, ready = prepared(KEY)
    held = method.sweep(ready, bench, "validation", method.knobs)
    found = claimed.noisier_takes_longer(method, ready, SimpleNamespace(validation=held))
    assert found.holds
    assert float(found.measured.split()[0]) > 0.5
    tried = SimpleNamespace(validation=held, test=method.sweep(ready, bench, "test", method.knobs))
    assert "in full" in claimed.understood(method, ready, tried).measured
    assert claimed.middle(SimpleNamespace(validation=points((1, 0.4), (2, 0.6), (3, 0.8), (4, 1.0)))) in (1, 2)

    class Eager(PlCrn):
        def rule(self, knob, prepared):
            return ScoreThreshold(-INF, of="closeness")

    which = np.arange(40) < 20
    for more in (2, -2):
        apart = claimed.deeper(2 + more * which, which)
        assert (apart.mean, apart.error) == (more, 0.0)
    some = np.zeros(40, dtype=np.int64)
    some[:2] = 3  # 0.3 rounds more, of two recordings of twenty
    assert claimed.deeper(some, which).mean == pytest.approx(0.3)
    assert not claimed.deeper(some, which).gains(0.25)
    fields = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    assert not claimed.noisier_takes_longer(Eager(**fields), ready, SimpleNamespace(validation=held)).holds


def test_all_claims_are_tried_with_the_noisy_recordings_and_fixed_rounds_as_rivals(monkeypatch):
    """A baseline of another rule stands beside, better than anything: nobody asks it."""
    static = points((8.0, 0.5), (10.0, 1.0))
    other = points((20.0, 0.5), (20.0, 1.0))
    found = curve((8.0, 0.5), (9.2, 0.75), (10.0, 1.0))
    monkeypatch.setattr(claimed, "as_they_came", lambda prepared: np.full(4, 6.5))
    found.baselines = [
        Baseline(name=name, validation=each, test=each) for name, each in (("max", other), ("static exit", static))
    ]
    asked = []
    for name in ("understood", "noisier_takes_longer"):
        monkeypatch.setattr(claimed, name, lambda *given, name=name: asked.append((name, given)) or name)
    outcomes = claimed.claims("method", "prepared", None, found)
    given = ("method", "prepared", found)
    assert asked == [("understood", given), ("noisier_takes_longer", given)]
    cleaner, governed, sustained, *_, fixed = outcomes
    assert cleaner.measured.startswith("+3.50 ± 0.00 dB over the noisy recordings, +2.00 ± 0.00 dB over the first")
    assert cleaner.measured.endswith("exits: 8.00, 10.00 dB, from each to the next +2.00 ± 0.00 dB")
    assert (governed.name, sustained.name) == ("the threshold governs the speed", "quality is sustained")
    assert fixed.measured.startswith("+0.20 ± 0.00 dB")


def test_intelligibility_is_that_of_the_cheapest_threshold_that_loses_a_fifth_of_a_decibel(monkeypatch):
    """Waves are told apart by their first number, and so is how intelligible they are."""
    held = points((9.0, 0.4), (9.75, 0.5), (9.85, 0.75), (10.0, 1.0), knobs=[0.3, 0.2, 0.1, 0.0])
    asked = []
    monkeypatch.setattr(claimed, "replay", lambda rule, outputs: asked.append(rule) or "exits")
    monkeypatch.setattr(claimed, "waveform", lambda spectra, samples: spectra)
    monkeypatch.setattr(claimed, "estoi", lambda waves, clean: np.where([True, True, False], waves.mean(dim=1), np.nan))
    monkeypatch.setattr(claimed, "pesq", lambda waves, clean: None)
    early, full = torch.full((3, 3), 0.695), torch.full((3, 3), 0.7)
    seen = SimpleNamespace(
        outputs=None, at=lambda exits: {"exits": early}[exits], answers=[None, full], targets=torch.zeros(3, 3),
        examples=SimpleNamespace(inputs=[torch.full((3,), 0.64)] * 3),
    )  # fmt: skip
    prepared = SimpleNamespace(split=lambda part: {"test": seen}[part])
    method = SimpleNamespace(rule=lambda tau, prepared: ("rule", tau))
    said = claimed.understood(method, prepared, SimpleNamespace(validation=held, test=held))
    assert said.holds
    assert asked == [("rule", 0.1)]
    assert said.measured == (
        "0.640 noisy, 0.695 at tau = 0.1 (-0.005 ± 0.000 beside the full model), 0.700 in full (+0.060 ± 0.000)"
    )
    monkeypatch.setattr(claimed, "pesq", lambda waves, clean: 2 * waves.mean().item())
    said = claimed.understood(method, prepared, SimpleNamespace(validation=held, test=held))
    assert said.measured.endswith("0.700 in full (+0.060 ± 0.000); PESQ 1.28, 1.39, 1.40")
    seen.at = lambda exits: torch.tensor([[0.68], [0.71], [0.7]]).expand(3, 3)  # no worse on the mean, but by chance
    assert not claimed.understood(method, prepared, SimpleNamespace(validation=held, test=held)).holds
    seen.at = lambda exits: torch.full((3, 3), 0.68)
    assert not claimed.understood(method, prepared, SimpleNamespace(validation=held, test=held)).holds
