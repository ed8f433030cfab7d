"""What is kept in the cache is whole, or it is made anew and said to be."""

import json
from pathlib import Path

import lightgbm
import numpy as np
import pytest

from eelit.methods.data.cache import keep, kept
from eelit.methods.engine.method import Bench
from eelit.methods.engine.trees import boosted, scores


def test_what_is_kept_comes_back_and_leaves_nothing_beside(tmp_path):
    place = tmp_path / "folder" / "thing.kept"
    assert kept(place) is None
    for content in (b"", b"\n\n", bytes(range(256)) * 1000):
        keep(place, content)
        assert kept(place) == content
    assert [path.name for path in place.parent.iterdir()] == ["thing.kept"]


def ways_to_damage(whole):
    """Yield the content of a kept file with each of its parts damaged."""
    yield from (whole[:n] for n in (0, 1, 30, whole.index(b"\n"), len(whole) - 1))
    yield from (whole + b"x", b"\n" + whole, whole.partition(b"\n")[2], b"\xff" * 100_000)
    for at in (0, 25, whole.index(b"\n"), whole.index(b"\n") + 1, len(whole) - 1):
        yield whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :]


def test_no_damage_goes_unnoticed(tmp_path, capsys):
    place = tmp_path / "thing.kept"
    keep(place, b"what is kept")
    for damaged in ways_to_damage(place.read_bytes()):
        place.write_bytes(damaged)
        assert kept(place) is None
        said = capsys.readouterr().err
        why = "its digest is not that of its name and content"
        assert said == f"eelit: {place} is damaged ({why}); what it held is made anew\n"
        assert kept(place) is None
        assert capsys.readouterr().err == ""  # said once


@pytest.mark.parametrize("other", ["smoke/b.kept", "smoke/passed/a.kept", "weights/a.kept"])
def test_what_is_copied_under_another_name_is_not_taken_for_that(tmp_path, capsys, other):
    place, wrong = tmp_path / "smoke/a.kept", tmp_path / other
    keep(place, b"what is kept")
    wrong.parent.mkdir(exist_ok=True, parents=True)
    wrong.write_bytes(place.read_bytes())
    assert kept(wrong) is None
    assert f"{wrong} is damaged" in capsys.readouterr().err
    assert kept(place) == b"what is kept"


def test_a_cache_may_be_moved_and_named_from_anywhere(tmp_path, monkeypatch):
    keep(tmp_path / "old" / "trees" / "a.kept", b"what is kept")
    (tmp_path / "old").rename(tmp_path / "new")
    monkeypatch.chdir(tmp_path / "new" / "trees")
    assert kept(tmp_path / "new" / "trees" / "a.kept") == kept(Path("a.kept")) == b"what is kept"


def test_what_cannot_be_read_is_made_anew_and_said_to_be(tmp_path, capsys):
    (tmp_path / "thing.kept").mkdir()
    assert kept(tmp_path / "thing.kept") is None
    assert "is no file but a folder" in capsys.readouterr().err


def test_what_cannot_be_written_leaves_what_was_there(tmp_path, monkeypatch):
    place = tmp_path / "thing.kept"
    keep(place, b"old")
    monkeypatch.setattr("os.replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep(place, b"new")
    assert kept(place) == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["thing.kept"]


def forest(cache, **settings):
    rng = np.random.default_rng(0)
    x = rng.random((60, 3))
    bench = Bench(cache=cache)
    settings = {"objective": "binary", "num_leaves": 4, "min_data_in_leaf": 5, **settings}
    found = boosted(x, x[:, 0] > 0.5, bench, trees=5, label="", settings=settings)
    return scores(found, x), bench.prepared_from_cache


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_trees_that_were_cut_short_never_reach_lightgbm(tmp_path, monkeypatch, share):
    """It would abort the process."""
    whole, known = forest(tmp_path)
    assert not known
    (place,) = (tmp_path / "trees").glob("*.kept")
    content = place.read_bytes()
    place.write_bytes(content[: int(share * len(content))])
    seen, booster = [], lightgbm.Booster
    monkeypatch.setattr(lightgbm, "Booster", lambda model_str: seen.append(model_str) or booster(model_str=model_str))
    again, known = forest(tmp_path)
    assert not known
    assert (again == whole).all()
    assert [text.encode() for text in seen] == [kept(place)]
    assert forest(tmp_path)[1]


def test_warnings_of_lightgbm_do_not_stand_amid_what_programs_read(tmp_path, capfd):
    forest(tmp_path, verbosity=1, nonsense=1)  # it warns of a parameter that it does not know
    print(json.dumps({}))
    said = capfd.readouterr()
    assert said.out == "{}\n"
    assert "eelit: [LightGBM] [Warning] Unknown parameter: nonsense\n" in said.err
