"""How long the site takes to build, and its table of papers to load and to filter, now and with 2,000 works.

Usage: python tests/bench_site.py [WORKS]. It leaves with 1 if a figure exceeds its limit.
"""

import gzip
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from functools import partial
from http.server import ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).parent.parent
MANY = 2_000
CITED = 5  # works of the collection that an invented work cites, at the most
SLOWER = 4  # how much slower than this machine's the processor of a phone is taken to be
PAGE = "papers/index.html"
LIMITS = {
    "rebuild, nothing changed": 15,
    "rebuild, one entry changed": 20,
    "build with many works": 180,
    "table, compressed": 300_000,
    "table usable": 1.0,
    "filter among many works": 0.1,
}
BUILD = """
import sys, time
from pathlib import Path
from eelit.site.generator.build import build
build(out=Path(sys.argv[1]), smoke_reports=Path(sys.argv[1], "none"))
"""
# Resolves when the table can be filtered, with the time since one asked for the page.
USABLE = """() => new Promise((resolve) => {
  const isLive = () => document.querySelector(".ee-filterbox:not([hidden])")
    && /showing/.test(document.querySelector(".ee-status").textContent);
  const look = () => isLive() ? requestAnimationFrame(() => resolve(performance.now() / 1000)) : setTimeout(look, 5);
  look();
})"""
# How long a click on a term takes until the page is laid out anew, the median over some terms.
FILTER = """() => {
  const boxes = [...document.querySelectorAll('.ee-facet input[type="checkbox"]')].slice(0, 12);
  const taken = boxes.map((box) => {
    const start = performance.now();
    box.click();
    document.body.getBoundingClientRect();
    const end = performance.now();
    box.click();
    return (end - start) / 1000;
  });
  return taken.sort((a, b) => a - b)[taken.length >> 1];
}"""


def copied(root):
    """Copy what the site is built from into an empty folder, which then is a checkout."""
    for room in ("bib", "catalog", "site"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__", "*.sqlite"))
    for name in ("mkdocs.yml", "CONTRIBUTING.md"):
        shutil.copy(ROOT / name, root / name)
    (root / "methods").symlink_to(ROOT / "methods")
    return root


def grow(root, works):
    """Add invented works to a copied checkout until there are so many: real ones varied, which cite others."""
    from eelit.bib.exports import to_bibtex
    from eelit.catalog.load import load
    from eelit.catalog.save import to_yaml
    from eelit.catalog.schema import FACETS
    from eelit.catalog.sources import sources

    loaded, chance = load(sources()), random.Random(0)
    terms = {facet: list(loaded.terms(facet)) for facet in FACETS}
    keys = sorted(loaded.entries, key=lambda key: loaded.bibliography.records[key].year)
    records, edges = [], []
    for number in range(works - len(keys)):
        model = chance.choice(keys[: len(loaded.entries)])
        entry, record = loaded.entries[model], loaded.bibliography.records[model]
        key, year = f"invented{2010 + number % 17}w{number}", 2010 + number % 17
        facets = {facet: chance.sample(names, chance.randint(1, 3)) for facet, names in terms.items()}
        gone = {"seed": None, "implementation": None, "relations": [], "aliases": [], "claims": [], "unverified": []}
        entry = entry.model_copy(update={"key": key, "short_name": f"{entry.short_name} {number}", **gone, **facets})
        (root / "catalog" / "entries" / f"{key}.yaml").write_text(to_yaml(entry), encoding="utf-8")
        tex = {**dict(record.tex), "year": str(year)}
        tex = {name: value for name, value in tex.items() if name not in ("doi", "eprint", "url", "acl", "openreview")}
        records.append(replace(record, key=key, year=year, tex=tuple(tex.items())))
        edges += [f"{key},{other},invented,bibliography" for other in chance.sample(keys, min(CITED, len(keys)))]
        keys.append(key)
    with (root / "bib" / "early-exit.bib").open("a", encoding="utf-8") as file:
        file.write("\n" + to_bibtex(records))
    with (root / "bib" / "citations.csv").open("a", encoding="utf-8") as file:
        file.write("".join(f"{edge}\n" for edge in edges))


def built(root, out):
    """Build the site of a checkout in a new process; return the seconds, from start to end."""
    environment = os.environ | {"EELIT_ROOT": str(root)}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", BUILD, out], env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    return time.perf_counter() - start


def weight(site, page=PAGE):
    """Return the compressed size of a page with all that it loads at once, in bytes."""
    from eelit.site.generator.proofread import read

    files = [site / page, *((site / page).parent / address for address in read((site / page).read_text()).loads)]
    return sum(len(gzip.compress(file.read_bytes(), 6)) for file in {file.resolve() for file in files})


def timed(site, browser):
    """Return how many seconds the table takes to be usable on a slow processor, and a filter on this one."""
    from browsing import Quiet

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}/{PAGE}"
        usable = []
        for _ in range(3):
            page = browser.new_page()
            page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": SLOWER})
            page.goto(address, wait_until="commit")
            usable.append(page.evaluate(USABLE))
            page.close()
        page = browser.new_page()
        page.goto(address)
        page.evaluate(USABLE)
        filtered = page.evaluate(FILTER)
        page.close()
        server.shutdown()
    return sorted(usable)[1], filtered


def figures(folder, works):
    """Yield each figure with its name."""
    from browsing import FLAGS, MISSING, chromium

    root, few, many = copied(folder / "few"), folder / "few-site", folder / "many-site"
    built(root, few)
    yield "rebuild, nothing changed", built(root, few)
    entry = root / "catalog" / "entries" / "zhou2020pabee.yaml"
    entry.write_text(entry.read_text(encoding="utf-8").replace("rarely wrong together", "seldom wrong together"))
    yield "rebuild, one entry changed", built(root, few)
    yield "table, compressed", weight(few)
    grown = copied(folder / "many")
    grow(grown, works)
    yield "build with many works", built(grown, many)
    if not chromium():
        raise SystemExit(MISSING)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium(), args=FLAGS)
        yield "table usable", timed(few, browser)[0]
        yield "filter among many works", timed(many, browser)[1]


def main(works):
    """Print the figures; return whether all are within their limits."""
    within = True
    with tempfile.TemporaryDirectory() as folder:
        for name, figure in figures(Path(folder), works):
            within &= figure <= LIMITS[name]
            unit = "bytes" if LIMITS[name] > 10_000 else "s"
            print(
                f"{name}: {figure:,.{0 if unit == 'bytes' else 2}f} {unit}; limit {LIMITS[name]:,} {unit}", flush=True
            )
    return within


if __name__ == "__main__":
    sys.exit(0 if main(int(sys.argv[1]) if len(sys.argv) > 1 else MANY) else 1)
