"""The pictures of policies: one for every broad term, each with words, ids that do not clash, no style in the page."""

import re
from xml.etree import ElementTree as ET

import pytest

from eelit.catalog.load import load
from eelit.catalog.sources import sources
from eelit.site.generator.ideas import DRAWN, SAID, picture

TERMS = load(sources()).terms("policy")


def test_every_policy_family_has_a_picture():
    families = {name for name, term in TERMS.items() if not term.broader}
    missing = families - set(DRAWN)
    assert missing <= {"quality-score"}, missing  # a number about an image: there is nothing to draw but the number
    assert set(DRAWN) == set(SAID)
    assert set(DRAWN) <= set(TERMS)


@pytest.mark.parametrize("term", DRAWN)
def test_a_picture_is_well_formed_and_says_what_it_shows(term):
    figure = ET.fromstring(str(picture(term)))
    (svg, caption) = figure
    assert svg.get("role") == "img"
    assert figure.find(".//*[@id='{}']".format(svg.get("aria-labelledby"))).text == caption.text == SAID[term]
    assert "style=" not in picture(term)
    inside = [float(value) for value in re.findall(r'\bx="(-?[\d.]+)"', picture(term))]
    assert all(0 <= x <= 260 for x in inside)


def test_other_terms_have_none():
    assert picture("joint") == ""
