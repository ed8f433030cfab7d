"""What measures of quality are said to be, wherever they are shown."""

import pytest
from measured import curve, result

from eelit.cli.run import _report
from eelit.methods.harness import registry
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
        ("somebody's own", "somebody's own; higher is better."),
    ],
)
def test_a_measure_is_told_with_its_range_unit_and_direction(name, told):
    assert described(name).told == told


def test_a_unit_that_a_name_has_is_the_table_s():
    for name, quality in QUALITIES.items():
        assert ("dB" in name) == (quality.unit == "dB"), name
        assert not quality.unit or quality.low == -quality.high, name


def test_a_report_of_a_run_tells_the_measure_and_warnings():
    changed = curve().model_copy(update={"quality": "PSNR in dB", "warnings": ["It leads by nothing."]})
    told = " ".join(_report(result().model_copy(update={"curves": [changed]}), None).split())
    assert described("PSNR in dB").told in told
    assert DIRECTION in told
    assert "Warning: It leads by nothing." in told
