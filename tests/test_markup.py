"""How numbers are written on the site."""

import pytest

from eelit.site.generator.markup import amount, number


@pytest.mark.parametrize(
    ("value", "digits", "signed", "written"),
    [
        (0.01234, 3, True, "+0.012"),
        (-0.01234, 3, True, "−0.012"),
        (-0.0004, 3, True, "0.000"),
        (0.0004, 3, True, "0.000"),
        (-0.0004, 4, False, "−0.0004"),
        (0.9, 2, False, "0.90"),
        (0.0, 1, True, "0.0"),
    ],
)
def test_numbers_have_a_true_minus_and_nothing_has_no_sign(value, digits, signed, written):
    assert number(value, digits, signed) == written


@pytest.mark.parametrize(
    ("value", "unit", "signed", "written"),
    [
        (1, "points", True, "+1 point"),
        (-1, "points", True, "−1 point"),
        (2, "points", True, "+2 points"),
        (1, "ms", False, "1 ms"),
        (1, "percent", False, "1 %"),
        (1, "layers", False, "1 layer"),
        (1.57, "ratio", False, "1.57×"),
    ],
)
def test_amounts_agree_with_their_nouns(value, unit, signed, written):
    assert amount(value, unit, signed=signed) == written
