"""The database: built whole or not at all, rebuilt when sources change, never at the cost of what was there."""

import os
import resource
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from eelit.bib.record import Person, Record
from eelit.catalog import database, fresh, query, seal
from eelit.catalog.faults import CatalogueFault, Damaged, Unavailable
from eelit.catalog.fresh import database_path, open_catalogue
from eelit.catalog.query import Catalogue, Query
from eelit.catalog.schema import FACETS, Entry, Taxonomy
from eelit.catalog.sources import sources

ENTRY = "catalog/entries/zhou2020pabee.yaml"


def edit(tree, old, new, file=ENTRY):
    path = tree / file
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")


@pytest.fixture
def built(tree, database):
    """Return the tree with a database that is up to date, without building one."""
    target = Path(os.environ["EELIT_DB"])
    shutil.copy(database, target)
    with sqlite3.connect(target) as connection:
        connection.execute("UPDATE meta SET value = ? WHERE name = 'root'", (str(tree),))
        connection.execute("UPDATE meta SET value = ? WHERE name = 'fingerprint'", (fresh.fingerprint(str(tree)),))
    connection.close()
    sealed(target)
    return target


def sealed(path):
    """Seal a database that a test has changed."""
    seal.seal(str(path), time.time_ns())


def names(catalogue):
    return {work["short_name"] for work in catalogue.find(Query()).works}


def test_nothing_is_built_while_nothing_changes(built, capfd):
    before = built.stat().st_ino
    open_catalogue()
    assert built.stat().st_ino == before
    assert capfd.readouterr().err == ""


def test_changed_sources_are_noticed(tree, built, capfd):
    edit(tree, "short_name: PABEE", "short_name: PaBEE")
    assert "PaBEE" in names(open_catalogue())
    assert "older than its sources" in capfd.readouterr().err


def test_a_new_file_and_a_removed_one_are_noticed(tree, built):
    before = fresh.fingerprint(str(tree))
    (tree / "catalog/entries/new.yaml").touch()
    assert fresh.fingerprint(str(tree)) != before
    (tree / "catalog/entries/new.yaml").unlink()
    assert fresh.fingerprint(str(tree)) == before


def test_an_edit_is_noticed_among_thousands_of_files(tree):
    for number in range(1_100):
        (tree / f"catalog/entries/more{number}.yaml").touch()
    before = fresh.fingerprint(str(tree))
    edit(tree, "short_name: PABEE", "short_name: PaBEE")
    assert fresh.fingerprint(str(tree)) != before


def test_a_link_that_leads_nowhere_is_a_source_too(tree):
    (tree / "catalog/entries/lost2020x.yaml").symlink_to(tree / "nowhere")
    assert "entries/lost2020x.yaml lost" in fresh.fingerprint(str(tree))


def test_a_database_of_another_origin_is_used_as_it_is(tree, database, monkeypatch):
    monkeypatch.setenv("EELIT_DB", str(database))
    before = database.stat().st_mtime_ns
    edit(tree, "short_name: PABEE", "short_name: PaBEE")
    assert "PABEE" in names(open_catalogue())
    assert database.stat().st_mtime_ns == before


def test_broken_sources_leave_the_good_database(tree, built, capfd):
    edit(tree, "policy: [patience]", "policy: [patence]")
    assert "PABEE" in names(open_catalogue())
    said = capfd.readouterr().err
    assert "unknown policy term `patence`" in said
    assert "as it was built before" in said
    assert list(built.parent.glob(".*tmp*")) == []


def test_broken_sources_and_no_database_are_one_sentence(tree, capfd, eelit):
    edit(tree, "policy: [patience]", "policy: [patence]")
    found = eelit("find")
    assert found.exit_code == 3
    said = capfd.readouterr().err + found.stderr
    assert said.count("\n") == 2  # what is going to be done, and why it was not
    assert "unknown policy term `patence`" in said


def test_an_interrupted_build_leaves_the_good_database(tree, built, monkeypatch):
    before = built.read_bytes()

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "_write_edges", interrupt)
    with pytest.raises(KeyboardInterrupt):
        database.build(built, sources())
    assert built.read_bytes() == before
    assert list(built.parent.glob(".*tmp*")) == []


def test_what_a_killed_build_left_behind_is_removed(tree, built):
    old, young = (built.parent / f".{built.name}.{name}.tmp" for name in ("old", "young"))
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    database.build(built, sources())
    assert not old.exists()
    assert young.exists()


def test_a_place_that_cannot_be_written_is_one_sentence(tree, eelit, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("EELIT_DB", str(tmp_path / "file" / "catalogue.sqlite"))
    found = eelit("build")
    assert found.exit_code == 5
    assert found.stderr.count("\n") == 1
    assert "cannot be written" in found.stderr
    assert "--db or EELIT_DB" in found.stderr


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may write anywhere")
def test_a_read_only_folder_is_one_sentence(tree, eelit, tmp_path, monkeypatch):
    folder = tmp_path / "readonly"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("EELIT_DB", str(folder / "catalogue.sqlite"))
    found = eelit("build")
    assert found.exit_code == 5
    assert "permission denied" in found.stderr


def test_a_read_only_cache_that_refuses_new_files(tree, built, monkeypatch, eelit):
    """As above, for every user: the good database goes on answering."""

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    before = built.read_bytes()
    monkeypatch.setattr(database, "mkstemp", refuse)
    found = eelit("build")
    assert found.exit_code == 5
    assert found.stderr.count("\n") == 1
    assert "permission denied" in found.stderr
    assert built.read_bytes() == before
    assert eelit("find", "--policy", "patience", "--format", "keys").exit_code == 0


def test_a_file_that_is_no_database_is_left_alone(tree, eelit, tmp_path):
    notes = tmp_path / "notes.txt"
    notes.write_text("my notes, none of a database", encoding="utf-8")
    for code, words in ((3, ["--db", notes, "find"]), (5, ["build", "--db", notes])):
        found = eelit(*words)
        assert found.exit_code == code
        assert found.stderr.count("\n") == 1
    assert notes.read_text(encoding="utf-8") == "my notes, none of a database"


def test_a_damaged_cache_is_replaced(tree, monkeypatch, tmp_path):
    monkeypatch.delenv("EELIT_DB")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    path = Path(database_path())
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\0 and then nothing")
    assert "PABEE" in names(open_catalogue())


def test_a_database_of_another_version_says_what_to_do(built, monkeypatch):
    monkeypatch.setattr(query, "FORMAT", 99)
    with pytest.raises(CatalogueFault, match="another version of eelit; run `eelit build`"):
        open_catalogue()


ODD = ["a?b", "100%", "a%20b", "a#b", "a b", "ä ö", "x&mode=memory", "a;b", "file:x", "\udcff", " ", "a\nb", "\x1b[2J"]


@pytest.mark.parametrize("name", ODD, ids=range(len(ODD)))
def test_a_place_with_any_name_holds_what_was_built(tmp_path, name):
    """Each of these means something in a URL, which a path is not."""
    path = tmp_path / name / f"{name}.sqlite"
    taxonomy = Taxonomy.model_validate(
        {facet: [{"term": "t", "label": "T", "definition": "It is."}] for facet in FACETS}
    )
    entry = Entry(key="doe2020x", short_name="X", role="early-exit", domain=["t"], idea="It stops.", sources=["s"])
    record = Record("doe2020x", "misc", "X", (Person("Doe"),), 2020)
    database.write(path, database.Content(taxonomy, [(entry, record)]))
    assert [found.name for found in path.parent.iterdir()] == [path.name]
    assert Catalogue(str(path)).find(Query(text="stops")).total == 1


def test_a_checkout_and_a_cache_with_odd_names(tree, monkeypatch, tmp_path, eelit):
    root = tree.rename(tmp_path / "100% #1?\udcff")
    monkeypatch.setenv("EELIT_ROOT", str(root))
    monkeypatch.delenv("EELIT_DB")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "a?b%20c#d"))
    assert "PABEE" in names(open_catalogue())
    before = os.stat(database_path()).st_ino
    assert "PABEE" in names(open_catalogue())
    assert os.stat(database_path()).st_ino == before


def damage(path, table):
    """Overwrite the first page of a table."""
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = ?", (table,)).fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.close()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)


@pytest.mark.parametrize("table", ["work", "term_pair", "work_text_data"])
def test_a_database_that_was_built_here_and_is_damaged_is_built_anew(built, capfd, table):
    damage(built, table)
    assert "PABEE" in names(open_catalogue())
    assert open_catalogue().find(Query(text="patience")).total > 0
    assert "the catalogue is damaged, building it\n" in capfd.readouterr().err


def test_a_document_that_is_damaged_is_read_anew(built, capfd):
    with sqlite3.connect(built) as connection:
        connection.execute("UPDATE document SET entry = substr(entry, 2)")
    connection.close()
    assert open_catalogue().work("zhou2020pabee").entry["short_name"] == "PABEE"
    assert capfd.readouterr().err.count("the catalogue is damaged, building it\n") == 1


def flip(path, place):
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_no_letter_of_a_database_is_shown_that_was_not_built(built, capfd):
    flip(built, built.read_bytes().index(b"PABEE"))
    assert "PABEE" in names(open_catalogue())
    assert capfd.readouterr().err.count("the catalogue is damaged, building it\n") == 1
    assert Catalogue(str(built)).resolve("pabee") == "zhou2020pabee"


def test_no_page_can_be_lost_and_no_byte_of_the_seal(database, tmp_path):
    path, whole = tmp_path / "some.sqlite", database.read_bytes()
    lost = [whole[:at] + bytes(4096) + whole[at + 4096 :] for at in range(4096, len(whole) - 4096, 4096)]
    ends = [whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :] for at in range(len(whole) - 70, len(whole))]
    for content in (*(one for one in lost if one != whole), *ends, whole + b"x", whole[:-1], whole[: -len(whole) // 2]):
        path.write_bytes(content)
        with pytest.raises(Damaged, match="is damaged"):
            Catalogue(str(path))


def test_a_lost_page_makes_no_work_unknown(built, eelit):
    with sqlite3.connect(built) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'name'")
    connection.close()
    content = built.read_bytes()
    built.write_bytes(content[: (page - 1) * 4096] + bytes(4096) + content[page * 4096 :])
    found = eelit("show", "pabee")
    assert found.exit_code == 0
    assert "zhou2020pabee" in found.stdout
    assert found.stderr.count("the catalogue is damaged, building it\n") == 1


def test_a_large_database_is_read_whole_only_if_its_time_has_changed(database, tmp_path, monkeypatch):
    path = tmp_path / "some.sqlite"
    shutil.copy2(database, path)
    monkeypatch.setattr(seal, "ALWAYS", 0)
    read, count = [], seal._sum
    monkeypatch.setattr(seal, "_sum", lambda file, size: read.append(size) or count(file, size))
    Catalogue(str(path))
    assert read == []
    os.utime(path)
    Catalogue(str(path))
    assert read == [path.stat().st_size - seal.SUM_LENGTH]
    flip(path, path.read_bytes().index(b"PABEE"))
    with pytest.raises(Damaged):
        Catalogue(str(path))


def test_a_seal_is_renewed_and_not_added(database, tmp_path):
    path = tmp_path / "some.sqlite"
    shutil.copy(database, path)
    sealed(path)
    assert path.stat().st_size == database.stat().st_size
    assert Catalogue(str(path)).resolve("pabee") == "zhou2020pabee"
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()


def test_what_goes_bad_while_it_is_open_is_named(database, tmp_path):
    path = tmp_path / "some.sqlite"
    shutil.copy(database, path)
    catalogue = Catalogue(str(path))
    damage(path, "work")
    with pytest.raises(Damaged, match=r"some.sqlite is damaged \("):
        catalogue.find(Query())


@pytest.mark.parametrize("content", [b"", b"\0" * 9000, b"SQLite format 3\0 and then nothing", b"no database"])
def test_whatever_lies_in_our_own_place_is_replaced(tree, monkeypatch, tmp_path, content, capfd):
    monkeypatch.delenv("EELIT_DB")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    path = Path(database_path())
    path.parent.mkdir()
    path.write_bytes(content)
    assert fresh._open_if_any(str(path), str(tree)) == (None, "the catalogue is damaged")
    database._demand_replaceable(path)


def test_elsewhere_a_damaged_database_is_named(database, tmp_path, monkeypatch, eelit):
    monkeypatch.setattr("eelit.catalog.fresh.checkout", lambda: None)
    path = tmp_path / "mine.sqlite"
    shutil.copy(database, path)
    damage(path, "work")
    found = eelit("--db", path, "find")
    assert found.exit_code == 3
    assert found.stderr.startswith(f"eelit: {path} is damaged (")
    assert found.stderr.endswith("; name another file with --db or EELIT_DB\n")


def test_the_database_of_somebody_else_is_left_alone(tree, tmp_path, eelit):
    path = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE bookmark (address TEXT)")
        connection.execute(f"PRAGMA user_version = {query.FORMAT}")
    connection.close()
    before = path.read_bytes()
    for code, words in ((3, ["--db", path, "find"]), (5, ["build", "--db", path])):
        found = eelit(*words)
        assert found.exit_code == code
        assert str(path) in found.stderr
        assert "a catalogue of eelit" in found.stderr.replace("no catalogue", "a catalogue")
        assert "delete" not in found.stderr
        assert "run `eelit build`" not in found.stderr
    assert path.read_bytes() == before


def small(command, most, **variables):
    """Run a command that may write no file of more than so many bytes, as on a disk that is nearly full."""
    return subprocess.run(
        [Path(sys.executable).with_name("eelit"), *command],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )


def test_a_disk_without_room_is_named_and_not_called_nothing_found(tree, tmp_path):
    cache = tmp_path / "cache"
    found = small(["find"], 50_000, EELIT_CACHE=str(cache), EELIT_DB="")
    assert found.returncode == 5
    assert "Traceback" not in found.stderr
    (_, said) = found.stderr.splitlines()
    assert said.startswith(f"eelit: {cache}/checkout-")
    assert ".sqlite cannot be written (" in said
    assert "make room on its disk, or name another place" in said
    assert list(cache.iterdir()) == []


def test_a_disk_without_room_leaves_the_good_database(tree, built):
    edit(tree, "short_name: PABEE", "short_name: PaBEE")
    found = small(["find", "--format", "keys", "--limit", "0"], 50_000)
    assert found.returncode == 0
    assert "zhou2020pabee" in found.stdout
    assert "cannot be written" in found.stderr
    assert "as it was built before" in found.stderr


def test_a_build_that_dies_is_told(tree, monkeypatch, eelit):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    found = eelit("find")
    assert found.exit_code == 4
    assert "the catalogue could not be built (exit code 1)" in found.stderr


def test_an_unforeseen_fault_of_a_build_is_one_sentence(tree, tmp_path, monkeypatch, capsys):
    def fail(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(database, "load", fail)
    monkeypatch.setattr(sys, "argv", ["database", str(tmp_path / "some.sqlite")])
    assert database.main() == 4
    assert capsys.readouterr().err == "eelit: the catalogue was not built: ZeroDivisionError: division by zero\n"


def test_without_a_database_there_is_one_sentence(tmp_path):
    with pytest.raises(Unavailable, match="`eelit build` makes one"):
        Catalogue(str(tmp_path / "none.sqlite"))


def test_each_checkout_has_its_own_file(tree, monkeypatch, tmp_path):
    monkeypatch.delenv("EELIT_DB")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    first = database_path()
    shutil.copytree(tree, tmp_path / "elsewhere" / "checkout")
    monkeypatch.setenv("EELIT_ROOT", str(tmp_path / "elsewhere" / "checkout"))
    assert database_path() != first
    assert Path(first).parent == tmp_path
    assert database_path("chosen.sqlite") == str(Path.cwd() / "chosen.sqlite")


def test_the_default_place_is_the_users_cache(tree, monkeypatch):
    monkeypatch.delenv("EELIT_DB")
    monkeypatch.delenv("EELIT_CACHE", raising=False)
    import platformdirs

    assert database_path().startswith(platformdirs.user_cache_dir("eelit", appauthor=False))


def test_other_errors_do_not_stop_the_build(tree, built, eelit):
    edit(tree, "target: kaya2019sdn", "target: kaya2019sdm")
    found = eelit("build")
    assert found.exit_code == 0
    assert "errors; `eelit check` lists them" in found.stderr
    assert "PABEE" in names(Catalogue(str(built)))


def without_record(tree):
    path = tree / "bib/early-exit.bib"
    text = path.read_text(encoding="utf-8")
    start = text.index("@inproceedings{kaya2019sdn,")
    path.write_text(text[:start] + text[text.index("\n@", start) + 1 :], encoding="utf-8")


def without_entry(tree):
    (tree / "catalog/entries/kaya2019sdn.yaml").unlink()
    (tree / "methods/papers/kaya2019sdn.py").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("remove", "said"),
    [(without_entry, "`kaya2019sdn` has no entry"), (without_record, "`kaya2019sdn` is not in early-exit.bib")],
)
def test_a_record_without_entry_or_the_other_way_stops_every_build(tree, eelit, capfd, remove, said):
    remove(tree)
    asked, built_by_hand = eelit("find"), eelit("build")
    automatic = capfd.readouterr().err
    assert [asked.exit_code, built_by_hand.exit_code] == [3, 3]
    assert automatic.count("\n") == 1
    assert said in automatic
    assert said in built_by_hand.stderr
    assert not Path(os.environ["EELIT_DB"]).exists()


def test_a_lost_entry_leaves_the_good_database(tree, built, capfd):
    without_entry(tree)
    assert "Shallow-Deep Networks" in names(open_catalogue())
    assert "`kaya2019sdn` has no entry" in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "file"])
@pytest.mark.parametrize(
    "words", [["find"], ["check"], ["build"], ["new", "smith2027lazy"]], ids=lambda words: words[0]
)
def test_a_root_that_is_no_folder_is_one_sentence(tree, eelit, tmp_path, monkeypatch, kind, words):
    wrong = tmp_path / "wrong"
    if kind == "file":
        wrong.touch()
    monkeypatch.setenv("EELIT_ROOT", str(wrong))
    found = eelit(*words)
    assert found.exit_code == 2
    assert found.stderr.count("\n") == 1
    assert f"EELIT_ROOT is {wrong}, which is no folder" in found.stderr


@pytest.mark.parametrize(
    "words", [["check"], ["build"], ["new", "smith2027lazy"], ["find"]], ids=lambda words: words[0]
)
def test_a_root_that_is_no_checkout_is_one_sentence(tree, eelit, tmp_path, monkeypatch, capfd, words):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    monkeypatch.setenv("EELIT_ROOT", str(wrong))
    found = eelit(*words)
    said = found.stderr.removeprefix("eelit: there is no catalogue yet, building it\n") + capfd.readouterr().err
    assert found.exit_code == 2
    assert said.count("\n") == 1
    assert f"{wrong} is no checkout of eelit (it has no folder bib)" in said
    assert list(wrong.iterdir()) == []


def test_sources_that_cannot_be_listed_are_one_sentence(tree, tmp_path, monkeypatch, capsys):
    def refuse(_):
        raise PermissionError(13, "Permission denied", str(tree / "bib"))

    monkeypatch.setattr(database, "fingerprint", refuse)
    monkeypatch.setattr(sys, "argv", ["database", str(tmp_path / "some.sqlite")])
    assert database.main() == 4
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert str(tree / "bib") in said


def test_a_database_to_be_shipped_must_be_without_errors(tree, tmp_path):
    (tree / "catalog/entries/kaya2019sdn.yaml").unlink()
    with pytest.raises(CatalogueFault, match="was not built"):
        database.build(tmp_path / "shipped.sqlite", sources(), shipped=True)
    assert not (tmp_path / "shipped.sqlite").exists()


def test_a_search_by_term_reads_covering_indexes_only(database):
    connection = sqlite3.connect(database)
    plan = "EXPLAIN QUERY PLAN SELECT work_id FROM work_term WHERE term_id IN (3) ORDER BY work_id"
    (step,) = [row[3] for row in connection.execute(plan)]
    assert "USING PRIMARY KEY" in step
    plan = "EXPLAIN QUERY PLAN SELECT term_id, count(*) FROM work_term WHERE work_id IN (1, 2) GROUP BY term_id"
    assert any("USING COVERING INDEX work_term_by_work" in row[3] for row in connection.execute(plan))


def test_the_database_is_read_only(database):
    catalogue = Catalogue(str(database))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        catalogue._connection.execute("DELETE FROM work")


def test_the_build_runs_as_a_module(tree):
    target = Path(os.environ["EELIT_DB"])
    words = [sys.executable, "-P", "-m", "eelit.catalog.database", str(target)]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert Catalogue(str(target)).meta("root") == str(tree)
