"""What the site costs to make grows with the number of works, no faster; `make bench` measures it in seconds."""

import time

import bench_site
import pytest

from eelit.catalog.sources import sources
from eelit.site.generator import pages
from eelit.site.generator.collection import gather
from eelit.site.generator.reports import read_reports

FEW, TIMES = 150, 3


def spent(folder, works, monkeypatch):
    """Return the processor's seconds for reading a catalogue of so many works and writing its pages."""
    root = bench_site.copied(folder)
    bench_site.grow(root, works)
    monkeypatch.setenv("EELIT_ROOT", str(root))
    start = time.process_time()
    collection = gather(sources(), read_reports(None)[0])
    written = pages.write(collection, root / "docs", root)
    taken = time.process_time() - start
    monkeypatch.delenv("EELIT_ROOT")
    assert len(collection.works) == works < written
    return taken


def test_three_times_the_works_take_about_three_times_as_long(tmp_path, monkeypatch):
    few, many = (spent(tmp_path / str(works), works, monkeypatch) for works in (FEW, FEW * TIMES))
    assert many < few * TIMES**1.5


def test_the_table_of_papers_is_light(built_site):
    assert bench_site.weight(built_site) < bench_site.LIMITS["table, compressed"]


def test_growing_gives_a_catalogue_without_faults(tmp_path, monkeypatch):
    root = bench_site.copied(tmp_path / "root")
    bench_site.grow(root, 150)
    monkeypatch.setenv("EELIT_ROOT", str(root))
    from eelit.catalog.load import load

    assert load(sources()).problems == []
    with pytest.raises(SystemExit):
        bench_site.built(tmp_path, tmp_path / "out")  # no checkout: its word, not a figure
