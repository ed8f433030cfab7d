"""What services told of the fields of a record is written as comments above it, and read again as it was."""

import pytest

from eelit.bib.provenance import Told, comments_of_people, differ_line, from_line, provenance, told_by
from eelit.bib.read import read_bibliography
from eelit.bib.write import comments_above, to_block, without_comment

DAY = "2026-12-03"
HOSTILE = ("Exits; “2” at DBLP, or 50 % of @misc{evil2020x,", "at Crossref; pages from DBLP", "a\u201d at b", "@@")


def test_who_told_what_is_read_as_it_was_written():
    line = from_line(
        DAY, "", {"title": ["Crossref", "DBLP"], "year": ["Crossref", "DBLP"], "pages": ["Semantic Scholar"]}
    )
    assert line == f"{DAY}: title, year from Crossref, DBLP; pages from Semantic Scholar"
    both = ("Crossref", "DBLP")
    assert told_by(line) == [
        Told("title", both, DAY), Told("year", both, DAY), Told("pages", ("Semantic Scholar",), DAY),
    ]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
def test_a_value_told_otherwise_is_read_as_it_was_written_whatever_it_holds(tmp_path, value):
    way = " by way of http://127.0.0.1:1/x"
    line = differ_line(DAY, way, "title", [("DBLP", value), ("arXiv", "B"), ("OpenAlex", value)])
    other = {"day": DAY, "by_way": "http://127.0.0.1:1/x"}
    assert "@" not in line
    assert told_by(line)[0] == Told("title", ("DBLP", "OpenAlex"), **other, other=value)
    assert told_by(line)[-1] == Told("title", ("arXiv",), **other, other="B")
    path = tmp_path / "a.bib"
    fields = {"author": "Doe, Jo", "title": "A", "year": "2020"}
    text = to_block("misc", "doe2020a", fields, ["Checked by me.", from_line(DAY, "", {"year": ["DBLP"]}), line])
    path.write_text(text, encoding="utf-8")
    bibliography = read_bibliography(path)
    assert list(bibliography.records) == ["doe2020a"]
    found = [(line, told.field, told.other) for _, line, told in provenance(bibliography)]
    assert found == [(2, "year", ""), (3, "title", value), (3, "title", "B")]
    assert comments_of_people(bibliography) == {"doe2020a": "Checked by me."}
    assert comments_above(text, "doe2020a")[2] == line
    without = without_comment(text, "doe2020a", line)
    assert without == text.replace(f"% {line}\n", "")


@pytest.mark.parametrize(
    "comment",
    [
        "not 12–20", f"{DAY}: I looked at the title page", "title from DBLP", f"{DAY}: pages differ: at DBLP",
        f"{DAY}: pages differ: “1” at DBLP; which is wrong", f"{DAY}: year from DBLP. It is right",
    ],
)  # fmt: skip
def test_any_other_line_is_a_persons(comment):
    assert told_by(comment) == []
