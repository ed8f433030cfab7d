"""What is kept of how much saved computation is saved time, and what the site says of it."""

from datetime import UTC, datetime

import pytest

from eelit.catalog.sources import sources
from eelit.methods.engine.records import Machine, Unreadable
from eelit.methods.harness import bench
from eelit.methods.harness.speed import Cell, Price, Size, Speed, keep, stored
from eelit.site.generator.collection import gather
from eelit.site.generator.pages import generated
from eelit.site.generator.reports import read_reports

KEY = "kaya2019sdn"


def speed(*saved, track="images", code=""):
    """Time saved at half of the MACs, by batch size."""
    sizes = (1, 8, 32, 128)
    return Speed(
        track=track, key=KEY, code=code or bench.code(KEY), created=datetime(2026, 11, 22, tzinfo=UTC), commit="c",
        versions={"torch": "2"}, machine=Machine(system="s", processor="p", cores=2, threads=1, load=0.1),
        cells=[Cell(aimed=0.5, batch=size, saved=0.5, time_saved=each) for size, each in zip(sizes, saved, strict=True)]
        + [Cell(aimed=0.25, batch=32, saved=0.25, time_saved=-0.1)],
        prices=[Price(batch=size, stage=1.0, exit=0.4 / size) for size in sizes],
    )  # fmt: skip


def test_goal_and_floor_are_those_of_large_batches_where_half_is_saved():
    found = speed(0.1, 0.2, 0.42, 0.48)
    assert [(cell.batch, cell.efficiency) for cell in found.below] == [(32, pytest.approx(0.84))]
    assert speed(0.1, 0.2, 0.425, 0.48).below == [], "the floor itself will do"


def test_it_is_kept_whole_and_read_back(tmp_path):
    assert stored("images", tmp_path) is None
    path = keep(speed(0.1, 0.2, 0.4, 0.48), tmp_path)
    assert path == tmp_path / "images" / "speed.json"
    assert stored("images", tmp_path) == speed(0.1, 0.2, 0.4, 0.48)
    keep(speed(0.3, 0.2, 0.4, 0.48), tmp_path)
    assert stored("images", tmp_path) == speed(0.3, 0.2, 0.4, 0.48), "one is enough"


@pytest.mark.parametrize("said", [b"{", b"", None])
def test_a_file_that_is_none_is_named(tmp_path, said):
    path = keep(speed(0.1, 0.2, 0.4, 0.48, track="text"), tmp_path)
    if said is None:
        (tmp_path / "images").mkdir()
        path = path.rename(tmp_path / "images" / "speed.json")
    else:
        path.write_bytes(said)
    with pytest.raises(Unreadable, match=r"speed\.json"):
        stored(path.parent.name, tmp_path)


def test_what_older_code_measured_is_stale():
    assert speed(0.1, 0.2, 0.4, 0.48).current
    assert not speed(0.1, 0.2, 0.4, 0.48, code="0" * 16).current


def test_the_page_of_a_track_shows_it_with_its_reason(tmp_path):
    collection = gather(sources(), read_reports(tmp_path / "none")[0])
    collection.speeds = {"images": speed(0.1, 0.2, 0.42, 0.48)}
    pages = {page: text for page, text in generated(collection) if page in ("tracks/images.md", "tracks/text.md")}
    shown = pages["tracks/images.md"]
    assert "the aim is 0.95 and the least that is accepted 0.85; <strong>1 cell below misses that" in shown
    assert '<td class="num">0.84 <span class="ee-muted">at 50 %</span></td>' in shown
    assert "none reaches the aim" not in shown
    assert "at batch 1 it takes 40 % of the time of a stage" in shown
    assert "stale" not in shown[shown.index("#speed") :].split("</table>")[0]
    assert "#speed" not in pages["tracks/text.md"], "nothing was measured there"
    assert "larger the network" not in shown, "no larger one was measured"


def test_the_page_says_if_no_cell_reaches_the_goal(tmp_path):
    collection = gather(sources(), read_reports(tmp_path / "none")[0])
    collection.speeds = {"images": speed(0.49, 0.49, 0.43, 0.47)}
    shown = next(text for page, text in generated(collection) if page == "tracks/images.md")
    assert "the least that is accepted 0.85; <strong>none reaches the aim</strong>." in shown


def test_a_stream_whose_survivors_are_joined_stands_beside_it(tmp_path):
    collection = gather(sources(), read_reports(tmp_path / "none")[0])
    found = speed(0.1, 0.2, 0.42, 0.48)
    cells = [cell.model_copy(update={"joined": 0.49} if cell.bound else {}) for cell in found.cells]
    collection.speeds = {"images": found.model_copy(update={"cells": cells}), "images-plain": found}
    pages = {page: text for page, text in generated(collection) if page.startswith("tracks/images")}
    told = "time saved ÷ MACs saved is then 0.980 for batches of 32 and 0.980 for batches of 128. The aim is 0.95 for "
    assert f"{told}batches of any size, and all reach it. The full model" in pages["tracks/images.md"]
    assert "infer_stream" not in pages["tracks/images-plain.md"], "none was measured there"
    assert "1 cell below misses that" in pages["tracks/images.md"], "a batch by itself is judged as before"
    cells = [cell.model_copy(update={"joined": 0.44} if cell.bound and cell.batch == 32 else {}) for cell in cells]
    collection.speeds = {"images": found.model_copy(update={"cells": cells})}
    missed = next(text for page, text in generated(collection) if page == "tracks/images.md")
    assert "batches of any size; <strong>batches of 32 miss it</strong>. The full model" in missed


def test_larger_networks_stand_beside_it(tmp_path):
    half = [Cell(aimed=0.5, batch=batch, saved=0.48, time_saved=0.42) for batch in (32, 128)]
    sizes = [Size(macs=1e8 * blocks, blocks=blocks, cells=half) for blocks in (3, 4)]
    collection = gather(sources(), read_reports(tmp_path / "none")[0])
    collection.speeds = {"images": speed(0.1, 0.2, 0.42, 0.48).model_copy(update={"sizes": sizes})}
    shown = next(text for page, text in generated(collection) if page == "tracks/images.md")
    rows = shown.split("by the size of the network</caption>")[1].split("</table>")[0]
    assert '<th scope="col" class="num">batch 32</th><th scope="col" class="num">batch 128</th>' in rows
    assert '<th scope="row" class="num">4</th><td class="num">400</td><td class="num">0.88 ' in rows
    assert shown.count("<div") == shown.count("</div>")
