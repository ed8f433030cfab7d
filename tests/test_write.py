"""The bibliography is changed as a person would: what was asked for, and nothing else; files whole or not at all."""

import os
import time

import pytest

from eelit.bib import files, write
from eelit.bib.read import read_bibliography
from eelit.bib.record import Person

BIB = """\
% a word before all

@article{beta2020two,
  author = {Beta, Bo and {A Body, Inc.}},
  title = {{BERT} in {Two} Lines},
  year = 2020,
  journal = "A Journal, of {Quotes}",
  pages = {3--9}
}

% of gamma
@misc{gamma2021three, author = {Gamma, Cy}, title = {3}, year = {2021}, eprint = {2101.00001}, archiveprefix = {arXiv}}
"""


def read(tmp_path, text):
    path = tmp_path / "x.bib"
    path.write_text(text, encoding="utf-8")
    found = read_bibliography(path)
    assert [problem for problem in found.problems if problem.severity == "error"] == []
    return found.records


def block(key, **fields):
    return write.to_block("misc", key, {"author": "Doe, Jo", "title": "T", "year": "2020"} | fields, ["who says so"])


@pytest.mark.parametrize(
    ("key", "before", "after"),
    [
        ("alpha2020one", "% a word before all\n\n% who says so\n@misc{alpha", "@article{beta"),
        ("delta2020four", "\n}\n\n% who says so\n@misc{delta", "\n}\n\n% of gamma\n@misc{gamma"),
        ("omega2020last", "{arXiv}}\n\n% who says so\n@misc{omega", "\n}\n"),
    ],
)
def test_a_record_is_put_where_its_key_belongs(tmp_path, key, before, after):
    text = write.with_record(BIB, key, block(key))
    assert before in text.partition(f"@misc{{{key}")[0] + f"@misc{{{key}"
    assert after in text.partition(f"@misc{{{key}")[2]
    assert set(read(tmp_path, text)) == {"beta2020two", "gamma2021three", key}
    assert "".join(line for line in text.splitlines(True) if line not in block(key).splitlines(True)).split() == [
        word for word in BIB.split() if word != "}"
    ]


@pytest.mark.parametrize(
    ("key", "name", "value"),
    [
        ("beta2020two", "pages", "3--10"),
        ("beta2020two", "year", "2021"),
        ("beta2020two", "journal", "Another"),
        ("beta2020two", "doi", "10.1234/x(1)2"),
        ("beta2020two", "volume", "7"),
        ("gamma2021three", "eprint", "2101.00002"),
        ("gamma2021three", "doi", "10.1234/y"),
    ],
)
def test_a_field_is_mended_or_added_and_no_other_letter_changes(tmp_path, key, name, value):
    text = write.with_field(BIB, key, name, value)
    records = read(tmp_path, text)
    assert dict(records[key].tex)[name] == value
    was = read(tmp_path, BIB)
    assert {other: record for other, record in records.items() if other != key} == {
        other: record for other, record in was.items() if other != key
    }
    kept = [line for line in BIB.splitlines() if line in text.splitlines()]
    assert len(kept) >= len(BIB.splitlines()) - 1


def test_a_field_is_taken_out(tmp_path):
    text = write.without_field(BIB, "beta2020two", "pages")
    assert text == BIB.replace(",\n  pages = {3--9}\n", "\n")
    assert write.without_field(BIB, "beta2020two", "year") == BIB.replace("  year = 2020,\n", "")
    with pytest.raises(write.NotWritable):
        write.without_field(BIB, "gamma2021three", "year")


@pytest.mark.parametrize("key", ["nobody2020none", "broken2020one", "twice2020x"])
def test_what_is_not_sound_is_left_alone(key):
    text = f"{BIB}\n@misc{{twice2020x, title = {{A}}, title = {{B}}}}\n@misc{{broken2020one title = {{A}}}}\n"
    with pytest.raises(write.NotWritable):
        write.with_field(text, key, "title", "C")


def test_a_value_that_would_close_the_record_is_refused():
    with pytest.raises(write.NotWritable):
        write.with_field(BIB, "beta2020two", "pages", "3}, year = {1999")


@pytest.mark.parametrize(
    ("title", "written"),
    [
        ("FastBERT: a Self-distilling BERT", "{FastBERT}: a Self-distilling {BERT}"),
        ("Costs & 50% of $x_1", r"Costs \& 50\% of \$x\_1"),
        (r"a\b ~ ^", r"a\textbackslash{}b \textasciitilde{} \textasciicircum{}"),
        ("On IoT at the Edge", "On {IoT} at the Edge"),
    ],
)
def test_titles_keep_their_capitals_and_read_as_they_were(tmp_path, title, written):
    assert write.tex_title(title) == written
    assert read(tmp_path, block("a2020b", title=written))["a2020b"].title == title


def test_braces_are_no_text(tmp_path):
    assert write.tex("a} {b}}") == "a b"


def test_names_read_as_they_were(tmp_path):
    people = (Person("van den Berg", "Anna"), Person("Roe", "Bo", "Jr."), Person("A Body & Co", corporate=True))
    text = block("a2020b", author=write.tex_names(people, et_al=True))
    record = read(tmp_path, text)["a2020b"]
    assert (record.authors, record.et_al) == (people, True)


# -- files -------------------------------------------------------------------------------------------------------------


def test_changes_can_be_looked_at_before_they_are_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    old, new = tmp_path / "old.txt", tmp_path / "new.txt"
    old.write_text("one\ntwo\n", encoding="utf-8")
    changes = files.Changes()
    changes.put(old, changes.text(old).replace("two", "2"))
    changes.put(new, "three")
    changes.text(tmp_path / "untouched.txt")
    assert changes.paths() == [old, new]
    assert changes.diff([old]) == "--- old.txt\n+++ old.txt\n@@ -1,2 +1,2 @@\n one\n-two\n+2\n"
    assert "--- /dev/null\n+++ new.txt" in changes.diff()
    assert old.read_text() == "one\ntwo\n"
    (tmp_path / ".old.txt.abcd_123").touch()  # what a killed run left
    hour = time.time() - files.OLD - 1
    for name in (".other.yaml.abcd_123", ".settings.json.abcd_123", ".young.yaml.abcd_123"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, None if "young" in name else (hour, hour))
    assert changes.write() == [old, new]
    for name in (".settings.json.abcd_123", ".young.yaml.abcd_123"):
        (tmp_path / name).unlink()  # of others, or of one who writes at the moment
    assert (old.read_text(), new.read_text()) == ("one\n2\n", "three")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["new.txt", "old.txt"]
    assert changes.write() == []


def test_what_somebody_else_changed_meanwhile_is_not_overwritten(tmp_path):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("1")
    two.write_text("2")
    changes = files.Changes()
    changes.put(one, "a")
    changes.put(two, changes.text(two) + "b")
    two.write_text("other")
    with pytest.raises(files.ChangedMeanwhile, match=r"two\.txt was changed"):
        changes.write()
    assert (one.read_text(), two.read_text()) == ("1", "other")
    assert len(list(tmp_path.iterdir())) == 2


def test_a_disk_without_room_leaves_everything_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "one.txt"
    path.write_text("1")
    changes = files.Changes()
    changes.put(path, "2")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        changes.write()
    assert path.read_text() == "1"
    assert [other.name for other in tmp_path.iterdir()] == ["one.txt"]


def test_a_file_that_cannot_be_put_in_place_leaves_all_as_they_were(tmp_path, monkeypatch):
    one, two = tmp_path / "one.txt", tmp_path / "two.txt"
    one.write_text("1")
    changes = files.Changes()
    changes.put(one, "a")
    changes.put(two, "b")

    def busy(old, new):
        raise OSError(16, "Device or resource busy")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", busy)
        with pytest.raises(OSError, match="busy"):
            changes.write()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("one.txt", "1")]
    assert changes.write() == [one, two]


def test_who_writes_while_another_does_is_refused(tmp_path):
    one = tmp_path / "one.txt"
    changes = files.Changes()
    changes.put(one, "a")
    (tmp_path / files.JOURNAL).write_text("[]")
    with pytest.raises(files.ChangedMeanwhile, match=r"another program is writing .*one\.txt"):
        changes.write()
    assert files.finish(tmp_path / files.JOURNAL) == ([], [])
    assert changes.write() == [one]
