"""Write all pages as Markdown files, from templates, into the folder that the builder reads."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eelit.bib.exports import EXPORTS
from eelit.bib.record import Record
from eelit.bib.tags import coins
from eelit.catalog.baselines import words
from eelit.catalog.schema import FACETS, GROUNDS
from eelit.methods.data import manifest
from eelit.methods.harness import conformance, smoke
from eelit.methods.harness.qualities import DIRECTION, described
from eelit.methods.harness.summary import SEEDS, Row, said_once
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import (
    api,
    claims,
    compared,
    contest,
    curve,
    depth,
    explorer,
    findings,
    gap_map,
    head,
    ideas,
    kinds,
    learning,
    listings,
    looks,
    markup,
    network,
    own,
    papers_table,
    plots,
    reading,
    seen,
    traces,
)
from eelit.site.generator import board as pictures
from eelit.site.generator.collection import Collection, Method, Place, Work
from eelit.site.generator.commands import commands
from eelit.site.generator.similar import Similar, Similarity

DESCRIPTION_LENGTH = 180
FACET_SAYS = {
    "placement": "Where inference may stop: between layers, machines, tokens, steps or models.",
    "training": "How exits, backbone and exit policy are trained.",
    "policy": "What decides at inference whether to stop.",
    "domain": "Which task, data or setting the work is about.",
}
SIFT = "assets/sift.js"
"""What sorts and filters the rows of tables."""
LEADERBOARD = [*plots.SCRIPTS, SIFT]
DEPTHS_OF = "kaya2019sdn"
"""The method whose main row has exits on the frozen maps of the plain network."""
Page = tuple[str, str | bytes]  # path below the docs folder, text, or what a picture consists of


def environment() -> Environment:
    """Return Jinja with our filters; everything a template writes is escaped unless it is Markup."""
    env = Environment(
        loader=PackageLoader("eelit.site.generator"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    env.filters.update(_filters())
    env.globals["seeds_for_a_verdict"] = SEEDS
    env.globals["direction"] = DIRECTION
    return env


def _filters() -> dict[str, Callable[..., Any]]:
    """Return what templates may write after a bar."""
    return {
        "amount": markup.amount,
        "baseline": words,
        "anchor": lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-"),
        "beginning": explorer.beginning,
        "coins": coins,
        "day": day,
        "docstring": markup.docstring,
        "draw": curve.draw,
        "draw_contest": contest.draw,
        "draw_lines": pictures.draw,
        "draw_learning": learning.draw,
        "draw_rate": traces.draw,
        "data_block": plots.data_block,
        "described": described,
        "line_spec": plots.spec,
        "swatch": looks.swatch,
        "tally": claims.tally,
        "formula": markup.formula,
        "front": markup.front,
        "heading": markup.heading,
        "identifier": markup.identifier,
        "magnitude": markup.magnitude,
        "number": markup.number,
        "plural": markup.plural,
        "plural_word": lambda count, one: one if count == 1 else one + "s",
        "prose": markup.prose,
        "said_once": said_once,
        "sentence": markup.sentence,
        "repository": markup.repository,
        "shorten": lambda text: shorten(text, DESCRIPTION_LENGTH, placeholder=" …"),
        "size": markup.size,
        "venue": markup.venue,
        "venue_and_year": venue_and_year,
        "web": markup.web,
    }


def day(moment: datetime) -> str:
    """Return the day of a moment, as one writes it."""
    return f"{moment.day} {moment:%B %Y}"


def venue_and_year(record: Record) -> str:
    """Return where and when a work appeared; a work that has no venue but an arXiv number is a preprint."""
    venue = record.venue or ("preprint on arXiv" if record.arxiv else "")
    return venue if venue.endswith(f"{record.year})") else f"{venue}, {record.year}".removeprefix(", ")


def write(collection: Collection, folder: Path, root: Path) -> int:
    """Write every page and download of the checkout `root` into the (empty) folder; return how many pages there are."""
    count = 0
    for path, text in pages(collection, root):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        count += path.endswith(".md")
    return count


def pages(collection: Collection, root: Path) -> Iterator[Page]:
    """Yield all pages and downloads: those of the collection, on your own model, on real samples, and the guide."""
    yield from generated(collection)
    yield from own.pages(_rendering(collection), root)
    yield from seen.pages(_rendering(collection), root, collection.works)
    contributing = (root / "CONTRIBUTING.md").read_text(encoding="utf-8")
    yield "guide/contributing.md", without_local_links(contributing)


def generated(collection: Collection) -> Iterator[tuple[str, str]]:
    """Yield the pages made from the collection, and its downloads."""
    render = _rendering(collection)
    found, fates = findings.of_all(collection)
    values = {"found": found, "fates": fates, "site_tracks": TRACKS, "reach": contest.reach}
    values["last"] = findings.farthest_behind(found)
    yield "index.md", render("home.md.j2", picture=_picture("idea"), head=head.home(collection), **values)
    yield "methods/index.md", render("methods.md.j2", **_listed(collection))
    for key, method in collection.methods.items():
        yield f"methods/{key}.md", render("method.md.j2", **_method(collection, method))
    for name in collection.boards:
        finding = next((each for each in found if each.track == name), None)
        yield f"tracks/{name}.md", render("track.md.j2", finding=finding, **_leaderboard(collection, name))
    yield "compare.md", render("compare.md.j2", **compared.values(collection))
    yield papers_table.WORDS, papers_table.words(collection)
    yield papers_table.RECORDS, papers_table.records(collection)
    yield "papers/index.md", render("papers.md.j2", **_table(collection))
    likeness = Similarity(collection)
    for key, work in collection.works.items():
        yield f"papers/{key}.md", render("paper.md.j2", **_paper(collection, work, likeness.of(key)))
    yield from _of_taxonomy(collection, render)
    yield "graph.md", render("graph.md.j2", **_graph(collection))
    yield explorer.FILE, explorer.script(collection)
    yield from network.downloads(collection.graph).items()
    yield "guide/measuring.md", render("measuring.md.j2", picture=_picture("mixture"))
    yield "guide/reading.md", render("reading.md.j2", smoke=smoke, conformance=conformance)
    yield "guide/commands.md", render("commands.md.j2", commands=commands())
    yield "guide/machines.md", render("machines.md.j2", documents=api.documents(list(collection.boards)))
    yield "guide/data.md", render("data.md.j2", **_data(collection))
    yield "guide/errata.md", render("errata.md.j2", **_errata(collection))


def _depths(collection: Collection, name: str) -> list[tuple[str, list[tuple[float, float]]]]:
    """Return what the network of each track with the same data knows if it ends at an exit: shares of cost, accuracies.

    Empty where no row has the plain network with exits on its frozen maps.
    """
    alike = {other: board for other, board in collection.boards.items() if TRACKS[other].item == TRACKS[name].item}
    return [
        (TRACKS[other].title, row.baselines["static exit"])
        for other, board in alike.items()
        for row in board.rows
        if row.key == DEPTHS_OF and row.is_main and not row.rule and "static exit" in row.baselines
    ]


def _rendering(collection: Collection) -> Callable[..., str]:
    """Return what fills a template with values, beside those that all pages have."""
    env = environment()
    env.filters["read_first"] = lambda keys: reading.first(collection, keys)
    common = {"site": collection, "facets": FACETS, "facet_says": FACET_SAYS, "grounds": GROUNDS}

    def render(template: str, **values: Any) -> str:
        return env.get_template(template).render(**common, **values)

    return render


def _of_taxonomy(collection: Collection, render: Callable[..., str]) -> Iterator[tuple[str, str]]:
    yield "taxonomy/index.md", render("taxonomy.md.j2", path=reading.path(collection))
    for facet in FACETS:
        yield (
            f"taxonomy/{facet}.md",
            render(
                "facet.md.j2",
                facet=facet,
                picture=ideas.picture,
                fewest=reading.FEWEST,
                head=head.facet(collection, facet, FACET_SAYS[facet]),
            ),
        )
    yield "taxonomy/gaps.md", render("gaps.md.j2", **gap_map.values(collection))
    yield "taxonomy/edge.md", render("edge.md.j2", **_edge(collection))


def _leaderboard(collection: Collection, name: str) -> dict[str, Any]:
    """Return what the page of a track needs besides what was found."""
    board = collection.boards[name]
    return {
        "name": name,
        "track": TRACKS[name],
        "board": board,
        "groups": compared.compared(collection, board, rules=True),
        "depth": depth.of_track(collection, name),
        "depths": _depths(collection, name),
        "reach": contest.reach,
        "scripts": LEADERBOARD,
        "head": head.track(collection, name),
    } | _sifted(collection, name)


def _sifted(collection: Collection, name: str) -> dict[str, Any]:
    """Return by what the rows of methods on a track are filtered."""
    rows = [row for row in collection.boards[name].rows if not row.rule]
    found = {row.key: kinds.sifted(collection, row.key) for row in rows}
    asked = ("family", "task", "fidelity")
    return {"sifted": found, "choices": kinds.choices(collection, asked, (found[row.key] for row in rows))}


def _listed(collection: Collection) -> dict[str, Any]:
    """Return what the list of methods needs."""
    found = {key: kinds.sifted(collection, key) for key in collection.methods}
    asked = ("family", "task", "fidelity", "track")
    return {
        "rows": _main_rows(collection),
        "sifted": found,
        "choices": kinds.choices(collection, asked, found.values()),
        "scripts": [SIFT],
    }


def _main_rows(collection: Collection) -> dict[str, Row]:
    """Return the row of each method's main variant on the first of the tracks that measure it."""
    boards = reversed(collection.boards.values())
    return {row.key: row for board in boards for row in board.rows if row.is_main}


def _picture(name: str) -> Markup:
    """Return a drawing that explains something."""
    path = Path(__file__).with_name("templates") / f"{name}.svg"
    return Markup(path.read_text(encoding="utf-8"))


def _paper(collection: Collection, work: Work, similar: list[Similar]) -> dict[str, Any]:
    return {
        "work": work,
        "method": collection.methods.get(work.key),
        "formats": {name: write([work.record]) for name, write in EXPORTS.items()},
        "near": {"prior": collection.graph.prior(work.key), "derivative": collection.graph.derivative(work.key)},
        "similar": similar,
        "head": head.paper(collection, work),
        "found_as": collection.found_as(work),
    }


def _method(collection: Collection, method: Method) -> dict[str, Any]:
    return {
        "method": method,
        "work": collection.works.get(method.key),
        "result": collection.shown(method.key),
        "stale": method.key in collection.alone and not collection.alone[method.key].current,
        "source": markup.fence(method.info.source, "python"),
        "source_place": Place(f"methods/papers/{method.info.path.name}", 1),
        "head": head.method(collection, method),
        "scripts": plots.SCRIPTS,
        "measured": compared.of_method(collection, method.key),
        "tracks": TRACKS,
        "run_lines": plots.of_curve,
        "search_lines": plots.of_search,
        "listings": listings.beside(method.info),
        "place": Place,
    }


def _table(collection: Collection) -> dict[str, Any]:
    counts: Counter[str] = Counter(work.entry.role for work in collection.works.values())
    said = [
        f"{counts[role]} {what}"
        for role, what in (
            ("early-exit", "are early-exit works"),
            ("neighbour", "spend compute or measurements adaptively in another way"),
            ("context", "are listed as context"),
        )
        if counts[role]
    ]
    return {
        "years": sorted({work.record.year for work in collection.works.values()}),
        "roles_said": f"{', '.join(said)}." if said else "",
    } | papers_table.values(collection)


def _graph(collection: Collection) -> dict[str, Any]:
    rows = []
    for key in sorted(collection.works, key=lambda key: (collection.works[key].record.year, key)):
        others = [e for e in collection.graph.edges if e.source == key and e.verified and e.group != "citation"]
        rows.append(
            {
                "key": key,
                "cites": list(dict.fromkeys(collection.graph.cited_by(key))),
                "cited_by": list(dict.fromkeys(collection.graph.citing(key))),
                "related": list(dict.fromkeys((edge.verb, edge.target) for edge in others)),
            }
        )
    counts = Counter(network.kind(edge) for edge in collection.graph.edges)
    shown = {"picture": network.draw(collection), "alone": network.alone(collection.graph)}
    own = {**shown, "kinds": network.KINDS, "counts": counts, "rows": rows}
    return own | explorer.values(collection)


def _edge(collection: Collection) -> dict[str, Any]:
    works = [work for work in collection.works.values() if work.entry.decides_by]
    return {"works": sorted(works, key=lambda work: (work.record.year, work.key))}


def _data(collection: Collection) -> dict[str, Any]:
    items = manifest.items()
    users = {item.name: [key for key, method in collection.methods.items() if item in method.items] for item in items}
    measuring = {item.name: [name for name, track in TRACKS.items() if item.name in track.items] for item in items}
    return {"items": items, "users": users, "measuring": measuring}


def _errata(collection: Collection) -> dict[str, Any]:
    listed = [work for work in collection.works.values() if work.entry.seed]
    wrong = [work for work in listed if work.entry.seed and work.entry.seed.errors]
    wrong.sort(key=lambda work: min(work.entry.seed.lines) if work.entry.seed else 0)
    return {
        "wrong": wrong,
        "total": sum(len(work.entry.seed.errors) for work in wrong if work.entry.seed),
        "lines": len({line for work in listed if work.entry.seed for line in work.entry.seed.lines}),
    }


def without_local_links(text: str) -> str:
    """Return Markdown whose links to files of the checkout are plain text: they lead nowhere on the site."""
    return re.sub(r"\[([^\]]+)\]\((?!https?://|#|mailto:)[^)\s]+\)", r"\1", text)
