"""What measures of quality are said to be, wherever they are shown."""

import pytest
from measured import curve, result

from eelit.cli.run import _report
from eelit.methods.engine.records import Beside
from eelit.methods.harness import plot, registry
from eelit.methods.harness.conformance import no_lead
from eelit.methods.harness.qualities import DIRECTION, QUALITIES, described


def test_every_measure_of_our_methods_is_in_the_table_and_no_other():
    methods = [registry.get(key) for key in registry.own()]
    named = {
        method.variant(name, scale).quality
        for method in methods
        for name in method.variants
        for scale in ("default", "smoke", "tiny")
    }
    assert named == set(QUALITIES)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("accuracy", "accuracy: share of samples that are answered correctly; from 0 to 1; higher is better."),
        ("Pearson's r", "Pearson's r: correlation of predicted and true values; from -1 to 1; higher is better."),
        ("1 - CER", "1 - CER: 1 minus the character error rate; 1 at most; higher is better."),
        (
            "SI-SDR in dB",
            "SI-SDR in dB: ratio of clean speech to everything else, at any loudness; in dB, without bounds; higher is "
            "better.",
        ),
        (
            "BLEU",
            "BLEU: agreement with reference texts in sequences of up to four words, by sacrebleu; from 0 to 100; "
            "higher is better.",
        ),
        ("somebody's own", "somebody's own; higher is better."),
    ],
)
def test_a_measure_is_told_with_its_range_unit_and_direction(name, told):
    assert described(name).told == told


def test_a_unit_that_a_name_has_is_the_table_s():
    for name, quality in QUALITIES.items():
        assert ("dB" in name) == (quality.unit == "dB"), name
        assert not quality.unit or quality.low == -quality.high, name


@pytest.mark.parametrize(
    ("quality", "unit", "told"),
    [
        ("accuracy", "MACs", "MACs per sample"),
        ("NDCG@10", "trees", "trees per document"),
        ("tagging accuracy", "MACs", "MACs per word"),
        ("BLEU", "MACs", "MACs per token"),
        ("ROUGE-L with the full model's text", "weights read", "weights read per token"),
        ("accuracy", "MACs per second", "MACs per second"),
        ("somebody's own", "MACs", "MACs per sample"),
    ],
)
def test_costs_are_of_what_leaves(quality, unit, told):
    """Words, tokens and documents leave by themselves where sentences, texts and queries are the samples."""
    assert described(quality).cost_in(unit) == told


def test_a_report_and_a_picture_of_a_run_tell_of_what_costs_are(tmp_path, monkeypatch):
    of_tokens = curve().model_copy(update={"quality": "BLEU"})
    told = result().model_copy(update={"curves": [of_tokens]})
    table = " ".join(_report(told, None).split())
    assert "MACs per token" in table
    assert "share of tokens at each" in table
    drawn = []
    monkeypatch.setattr(plot, "_save", lambda figure, path: drawn.append(figure))
    plot.plot(told, tmp_path)
    assert drawn[0].axes[0].get_xlabel() == "cost (MACs per token)"


def test_a_report_of_a_run_tells_the_measure_and_warnings():
    changed = curve().model_copy(update={"quality": "PSNR in dB", "warnings": ["It leads by nothing."]})
    told = " ".join(_report(result().model_copy(update={"curves": [changed]}), None).split())
    assert described("PSNR in dB").told in told
    assert DIRECTION in told
    assert "Warning: It leads by nothing." in told


def test_a_report_of_a_run_tells_a_measure_beside_the_quality():
    plain = curve()
    values = [5 + i / 8 for i in range(len(plain.test))]
    beside = Beside(name="bits per token", meaning="how well", values=values, cheap=6.5, full=4.75, error=0.25)
    changed = plain.model_copy(update={"beside": beside})
    told = " ".join(_report(result().model_copy(update={"curves": [changed]}), None).split())
    assert "Bits per token: how well. The full model reaches 4.750, its cheap part alone 6.500" in told
    assert "a lead of +1.750 ± 0.250" in told
    assert all(f" {value:.3f} " in told for value in [*values, 4.75])
    with pytest.raises(ValueError, match=f"bits per token is told of 1 of {len(plain.test)} points"):
        type(plain).model_validate({**dict(plain), "beside": beside.model_copy(update={"values": [1.0]})})


@pytest.mark.parametrize(("error", "warned"), [(0.1, False), (0.11, True)])
def test_a_full_model_that_predicts_no_better_than_its_cheap_part_is_warned_of(error, warned):
    """Whatever is kept of its answers; two standard errors are asked for."""
    beside = Beside(
        name="bits per token", meaning="", values=[5.0] * len(curve().test), cheap=5.2, full=5.0, error=error
    )
    told = no_lead(curve().model_copy(update={"beside": beside}))
    assert (told is not None) is warned
    assert not warned or "bits per token are 5.0000 and 5.2000, a lead of +0.2000" in told
