"""The table of papers gives the answers that `eelit find` gives, by mouse and by keyboard."""

import csv
import io
import json
import random
from pathlib import Path

import bibtexparser
import pytest
import rispy
from browsing import strike
from playwright.sync_api import expect

from eelit.bib.exports import EXPORTS
from eelit.bib.read import read_bibliography
from eelit.catalog.load import load
from eelit.catalog.query import FACETS, FIDELITIES
from eelit.catalog.sources import sources
from eelit.catalog.words import stems, texts

SEED, QUERIES = 20, 50
WORDS = [
    "exits",
    "exiting",
    "patience",
    "networks",
    "BERT",
    "calibrated",
    "Zhou",
    "résumé",
    "edge devices",
    "L2",
    "nothing",
]


@pytest.fixture(scope="module")
def loaded():
    return load(sources())


def draw(rng, loaded):
    """Return one random question: terms by facet, words, years, whether it must run, fidelities."""
    asked = {}
    for facet in FACETS:
        if rng.random() < 0.35:
            asked[facet] = rng.sample(sorted(loaded.terms(facet)), rng.randint(1, 2))
    if rng.random() < 0.2:
        asked["role"] = rng.sample(["early-exit", "neighbour", "context"], rng.randint(1, 2))
    if rng.random() < 0.5:
        asked["text"] = rng.choice(WORDS)
    if rng.random() < 0.3:
        asked["from"], asked["to"] = sorted(rng.sample(range(2014, 2026), 2))
    if rng.random() < 0.2:
        asked["runnable"] = "yes"
    if rng.random() < 0.2:
        asked["fidelity"] = rng.sample(FIDELITIES, rng.randint(1, 2))
    return asked


def on_command_line(eelit, asked):
    words = []
    for name in (*FACETS, "role", "fidelity"):
        for term in asked.get(name, ()):
            words += [f"--{name}", term]
    if "text" in asked:
        words += ["--text", asked["text"]]
    if "from" in asked:
        words += ["--year", f"{asked['from']}..{asked['to']}"]
    if "runnable" in asked:
        words.append("--runnable")
    found = eelit("find", *words, "--format", "json", "--limit", 0)
    assert found.exit_code in (0, 1), found.stderr
    return json.loads(found.stdout)


ANSWER = """
pairs => {
  const form = document.querySelector('.ee-filters');
  form.reset();
  for (const box of form.querySelectorAll('input[type=checkbox]')) box.checked = false;
  for (const [name, value] of pairs) {
    const field = form.querySelector(`input[name="${name}"][value="${value}"]`);
    if (field) field.checked = true;
    else if (['text', 'from', 'to'].includes(name)) form.elements[name].value = value;
    else return null;  // a term that no work carries has no box
  }
  form.dispatchEvent(new Event('input'));
  const keys = [...document.querySelectorAll('#paper-table tbody tr:not([hidden]) th a')];
  const counts = {};
  for (const box of form.querySelectorAll('.ee-facet input')) {
    (counts[box.name] ||= {})[box.value] = Number(box.closest('label').querySelector('.ee-count').textContent);
  }
  return {keys: keys.map(link => link.getAttribute('href').replace('.html', '')), counts};
}
"""


def test_fifty_random_questions_get_the_same_answers(open_page, eelit, database, monkeypatch, loaded):
    monkeypatch.setenv("EELIT_DB", str(database))
    page, rng, filled, answered = open_page("papers/index.html"), random.Random(SEED), 0, 0
    while answered < QUERIES:
        asked = draw(rng, loaded)
        pairs = [
            (name, str(value))
            for name, values in asked.items()
            for value in (values if isinstance(values, list) else [values])
        ]
        answer = page.evaluate(ANSWER, pairs)
        told = on_command_line(eelit, asked)
        if answer is None:
            continue
        answered += 1
        assert sorted(answer["keys"]) == sorted(work["key"] for work in told["works"]), asked
        filled += bool(answer["keys"])
        for facet in (*FACETS, "role"):
            if facet not in asked:  # where it is asked for, a box tells what it would add
                shown = {term: count for term, count in answer["counts"][facet].items() if count}
                assert shown == told["counts"].get(facet, {}), (asked, facet)
    assert filled > QUERIES / 4


def test_every_word_loses_its_ending_as_in_the_database(open_page, loaded):
    said = " ".join(
        " ".join(texts(loaded.entries[key], loaded.bibliography.records[key], {})) for key in loaded.entries
    )
    words = sorted({word for word in said.lower().split() if word.isascii() and word.isalpha()})
    assert len(words) > 1000
    expected = stems(dict(zip(words, words, strict=True)))
    stemmed = page_stems(open_page("papers/index.html"), words)
    assert {word: [stem] for word, stem in zip(words, stemmed, strict=True)} == expected


def page_stems(page, words):
    return page.evaluate("words => words.map(w => w.length > 2 ? window.eelitStemmer.stemmer(w) : w)", words)


@pytest.mark.parametrize("width", [1280, 390])
def test_filters_are_marked_and_can_be_taken_off_by_keyboard(open_page, width):
    page = open_page("papers/index.html", width=width)
    if width < 600:
        page.locator(".ee-filterbox > summary").press("Enter")
        page.locator("details[data-facet=policy] > summary").press("Enter")
    page.locator("input[name=policy][value=patience]").focus()
    strike(page, "Space")
    marks = page.locator(".ee-active button")
    assert marks.count() == 1
    assert page.evaluate("location.search") == "?policy=patience"
    assert "showing" in page.locator(".ee-results .ee-status").inner_text()
    marks.first.focus()
    strike(page, "Enter")
    assert marks.count() == 0
    assert page.evaluate("location.search") == ""
    page.go_back()
    expect(page.locator("input[name=policy][value=patience]")).to_be_checked()


@pytest.mark.parametrize(
    ("style", "over"), [("bibtex", "http"), ("ris", "file"), ("csl-json", "file"), ("csv", "http")]
)
def test_what_is_shown_is_exported_as_the_command_line_writes_it(open_page, style, over):
    page = open_page("papers/index.html?policy=patience", over=over)
    keys = page.locator("#paper-table tbody tr:not([hidden]) th a").evaluate_all(
        "links => links.map(link => link.getAttribute('href').replace('.html', ''))"
    )
    assert 1 < len(keys) < 85
    with page.expect_download() as download:
        page.locator(f".ee-export button[data-format={style}]").click()
    text = Path(download.value.path()).read_bytes().decode()
    records = read_bibliography(sources().bibliography).records
    assert text == EXPORTS[style](records[key] for key in keys)
    read = {
        "bibtex": lambda: [entry.key for entry in bibtexparser.parse_string(text).entries],
        "ris": lambda: [entry["id"] for entry in rispy.loads(text)],
        "csl-json": lambda: [item["id"] for item in json.loads(text)],
        "csv": lambda: [row["key"] for row in csv.DictReader(io.StringIO(text, newline=""))],
    }
    assert read[style]() == keys
