"""What a badge may say, and how a method's page shows a run. The figures here are made up and stay in the tests."""

import dataclasses
import json
import re
from datetime import UTC, datetime, timedelta
from html import unescape
from types import SimpleNamespace
from typing import get_args

import pytest
from markupsafe import escape

from eelit.catalog.sources import sources
from eelit.methods.engine.records import (
    Beside,
    Curve,
    DesignPoint,
    Execution,
    Learning,
    Lost,
    Machine,
    OperatingPoint,
    Outcome,
    Rate,
    Result,
    Search,
    Simulation,
    SmokeReport,
    SmokeSession,
)
from eelit.methods.harness import bench
from eelit.methods.harness.tracks import TRACKS
from eelit.site.generator import explorer, markup, network, pages
from eelit.site.generator.collection import gather
from eelit.site.generator.curve import draw
from eelit.site.generator.reports import SAME_BUILD, SHOWN, Reports, State, read_reports

KEY = "zhou2020pabee"
NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
MACHINE = Machine(system="Linux", processor="made-up processor", cores=2, threads=1)
VERSIONS = {"torch": "2.13.0"}


def point(knob, quality, cost, speed_up):
    return OperatingPoint(knob=knob, quality=quality, cost=cost, speed_up=speed_up, exits=[0.25, 0.75])


def result(**changes):
    points = [point(0, 0.5, 25e6, 4.0), point(1, 0.75, 50e6, 2.0), point(9, 0.8, 101e6, 0.99)]
    ran = Execution(knob=1, samples=64, claimed=3.2e9, counted=3.2e9, agrees=True, seconds=0.5, full_seconds=0.8)
    curve = Curve(
        variant="", knob="patience", quality="accuracy", unit="MACs", full_quality=0.8, full_cost=1e8,
        validation=points, test=points, executions=[ran],
    )  # fmt: skip
    claims = [Outcome(name="a claim", statement="It is <b>better</b>.", holds=False, measured="−0.05")]
    checks = [Outcome(name="a_rule", statement="Kept.", holds=True, measured="0")]
    values = {
        "key": KEY, "scale": "smoke", "seed": 0, "settings": {}, "data": {}, "curves": [curve], "claims": claims,
        "checks": checks, "prepared_seconds": 3.0, "prepared_from_cache": True, "seconds": 4.2, "created": NOW,
        "commit": "0123456789ab", "versions": VERSIONS, "machine": MACHINE,
    }  # fmt: skip
    return Result(**(values | changes))


def report(
    found=None,
    status="passed",
    *,
    executed_now=True,
    finished=NOW,
    error=None,
    with_result=True,
    log="all went\n<b>well</b>",
):
    return SmokeReport(
        key=KEY, status=status, executed_now=executed_now, finished=finished, seconds=4.2, prepared_seconds=3.0,
        fingerprint="x", log=log, error=error, result=(found or result()) if with_result else None,
    )  # fmt: skip


def session(keys=(KEY,)):
    return SmokeSession(
        started=NOW - timedelta(minutes=2), finished=NOW, commit="fedcba987654", versions=VERSIONS, machine=MACHINE,
        backend="loky", keys=list(keys),
    )  # fmt: skip


def reports(found, *, after=timedelta(minutes=1), keys=(KEY,)):
    return Reports({KEY: found} if found else {}, session(keys), NOW + after)


LATE = SAME_BUILD + timedelta(minutes=1)
EARLIER = NOW - timedelta(days=3)
STATES = [
    ("passed-now", reports(report())),
    ("failed-now", reports(report(status="failed", error="ValueError: <script>"))),
    ("unchanged", reports(report(executed_now=False, finished=EARLIER))),
    ("earlier-passed", reports(report(), after=LATE)),
    ("earlier-passed", reports(report(executed_now=False, finished=EARLIER), after=LATE)),
    ("earlier-passed", reports(report(finished=EARLIER))),
    ("earlier-passed", reports(report(finished=EARLIER), keys=())),
    ("earlier-passed", reports(report(result(code="0123456789abcdef")))),
    ("earlier-passed", reports(report(result(code="0123456789abcdef"), executed_now=False, finished=EARLIER))),
    ("passed-now", reports(report(result(code=bench.code(KEY))))),
    ("earlier-failed", reports(report(status="failed", error="x"), after=LATE)),
    ("not-run", reports(report(status="not-run", error="data unavailable: no source", with_result=False))),
    ("never-run", reports(None)),
    ("never-run", Reports({}, None, NOW)),
]


@pytest.mark.parametrize(("state", "known"), STATES)
def test_a_badge_says_no_more_than_is_known(state, known):
    assert known.badge(KEY).state == state


def test_every_state_has_a_mark_in_the_graph_that_the_legend_tells():
    assert set(network.SHAPES) == set(get_args(State))
    assert {network.SHAPES[state] for state in get_args(State) if "passed" in state or state == "unchanged"} == {"star"}
    assert {network.SHAPES[state] for state in get_args(State) if "failed" in state} == {"triangle"}
    for known in dict(STATES).values():
        collection = gather(sources(), known)
        sign, meaning, states = network.MARKS[network.shape(collection.methods[KEY])]
        assert known.badge(KEY).state in states
        text = next(text for path, text in pages.generated(collection) if path == "graph.md")
        assert text.count(f'<span aria-hidden="true">{sign}</span> {meaning}') == 2, (
            "for the picture and without scripts"
        )
        assert re.search(rf'data-key="{KEY}".*?<text class="sign"[^>]*>{sign}</text>', text)
        (node,) = (node for node in explorer.data(collection)["nodes"] if node["key"] == KEY)
        assert node["shape"] == network.SHAPES[known.badge(KEY).state]


def page_of(known, key=KEY):
    collection = gather(sources(), known)
    text = next(text for path, text in pages.generated(collection) if path == f"methods/{key}.md")
    return unescape(re.sub(r"<[^>]+>", " ", text)), text


def test_page_of_a_method_that_passed_now():
    text, source = page_of(reports(report()))
    for said in (
        "ran in this build: passed", "22 November 2026", "4.2 seconds", "after 3 seconds of loading",
        "0123456789ab", "torch\xa02.13.0", "all went",
        "No verdicts", "not seen in this run", "−0.05", "kept", "1.60×", "2.00×", "25 · 75 %",
    ):  # fmt: skip
        assert said in text, said
    assert "<svg" in source
    assert "<b>" not in source


def more(curve):
    """Return a measure beside a curve's quality."""
    values = [7.125 + i for i in range(len(curve.test))]
    return {
        "beside": Beside(name="bits per token", meaning="so well", values=values, cheap=9.5, full=7.25, error=0.375)
    }


@pytest.fixture(scope="module")
def several():
    """Return the pages of some methods after a run of one curve each, as text and as source; that of `KEY` is odd."""
    odd = {"quality": "PSNR in dB", "warnings": ["The <full> model leads by nothing."]}
    keys = (KEY, "xin2020deebert", "zhou2022metadistil", "fan2020layerdrop", "kim2023bild", "shim2018jafa")
    found = {}
    for key in keys:
        run = result(key=key)
        changed = {KEY: odd, "kim2023bild": more(run.curves[0]), "shim2018jafa": {"unit": "features"}}
        curves = [run.curves[0].model_copy(update=changed.get(key, {}))]
        found[key] = report(run.model_copy(update={"curves": curves})).model_copy(update={"key": key})
    collection = gather(sources(), Reports(found, session(keys), NOW))
    collection.alone = {}  # kept runs would be shown instead
    written = dict(pages.generated(collection))
    sourced = {key: written[f"methods/{key}.md"] for key in keys}
    return {key: (" ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split()), text) for key, text in sourced.items()}


def test_a_page_says_which_direction_of_a_measure_is_better_and_warns_of_a_task_that_proves_little(several):
    text, source = several[KEY]
    assert "↑ higher is better" in source
    assert '"title": ["PSNR in dB", "(higher is better)"]' in source
    assert "the noise being the difference to the clean picture; in dB, without bounds; higher is better." in text
    assert "Warning: The <full> model leads by nothing." in text
    assert "ee-warning" in source
    assert "ee-warning" not in several["xin2020deebert"][1]


def test_a_measure_beside_the_quality_stands_at_every_setting(several):
    text, source = several["kim2023bild"]
    assert "Bits per token: so well. The full model reaches 7.250, its cheap part alone 9.500" in text
    assert "a lead of +2.250 ± 0.375" in text
    assert '<th scope="col" class="num">bits per token</th>' in source
    assert all(f'<td class="num">{value}</td>' in source for value in ("7.125", "8.125"))
    assert "bits per token" not in several["xin2020deebert"][1]


@pytest.mark.parametrize(
    ("key", "role"), [("zhou2022metadistil", "Context"), ("fan2020layerdrop", "Context"), ("kim2023bild", "Neighbour")]
)
def test_a_page_of_a_work_without_early_exit_says_that_nothing_exits(several, key, role):
    text, _ = several[key]
    assert f"{role}: nothing exits. In this work no input leaves a network early." in text
    assert "share at each level of computation" in text
    assert "share leaving at each exit" not in text


def test_a_page_of_a_neighbour_says_what_its_own_work_skips_instead(several):
    """Of a work that acquires features it would be wrong to speak of blocks."""
    text, _ = several["shim2018jafa"]
    assert "What is skipped instead: Features that are never acquired." in text
    assert "blocks" not in text[text.index("Neighbour: nothing exits") : text.index("What is skipped instead")]
    assert "share with each number of features, one first" in text
    assert "share at each level of computation" not in text
    assert "What is skipped instead" not in several["fan2020layerdrop"][0]


def test_a_curve_that_is_no_part_of_the_paper_is_called_an_extension(several):
    said = "An extension of ours: the paper has no such curve."
    text, _ = several["zhou2022metadistil"]
    assert said in text
    assert "In the paper the student answers every input." in text
    assert said not in several["fan2020layerdrop"][0]
    ours, _ = several["xin2020deebert"]
    assert "nothing exits" not in ours
    assert "share leaving at each exit" in ours


def test_page_of_a_method_that_failed_now():
    text, source = page_of(
        reports(report(status="failed", error="ValueError: <script>", with_result=False, log="Traceback <i>"))
    )
    for said in (
        "ran in this build: failed",
        "ValueError: <script>",
        "Traceback <i>",
        "fedcba987654",
        "No measurement",
    ):
        assert said in text, said
    assert "<script>" not in source


def test_page_of_a_method_without_data():
    text, _ = page_of(reports(report(status="not-run", error="data unavailable: no source of x", with_result=False)))
    assert "not run: data unavailable" in text
    assert "no source of x" in text


def test_page_of_a_method_that_did_not_change():
    text, _ = page_of(reports(report(executed_now=False, finished=EARLIER)))
    assert "nothing changed since. Last ran 19 November 2026" in " ".join(text.split())
    assert "ran in this build" not in text


@pytest.mark.parametrize(
    ("changes", "count"),
    [({}, 1), ({"executed_now": False, "finished": EARLIER}, 1), ({"status": "failed", "error": "x"}, 0)],
)
def test_home_counts_what_passed_when_it_last_ran(changes, count):
    _, home = next(pages.generated(gather(sources(), reports(report(**changes)))))
    assert f"passed their last smoke test</a></dt><dd>{count}</dd>" in home


def test_every_badge_is_explained():
    guide = (pages.Path(__file__).parents[1] / "site/generator/templates/reading.md.j2").read_text(encoding="utf-8")
    for words, _, _ in SHOWN.values():
        assert f"| {words} |" in guide


def test_unreadable_reports_are_named(tmp_path):
    (tmp_path / "session.json").write_text("{")
    (tmp_path / f"{KEY}.json").write_text(report().model_dump_json())
    known, unreadable = read_reports(tmp_path, NOW)
    assert known.session is None
    assert KEY in known.by_key
    assert len(unreadable) == 1
    assert "session.json" in unreadable[0]


@pytest.mark.parametrize("bad", [b"\xff\xfe", b'{"key": "a"}', b"[" * 99_999, None, ("quality", "NaN"), ("exits", [])])
def test_a_report_that_cannot_be_one_hides_no_other(tmp_path, bad):
    (tmp_path / f"{KEY}.json").write_text(report().model_dump_json())
    path = tmp_path / "a.json"
    if isinstance(bad, tuple):
        found = json.loads(report().model_dump_json())
        found["result"]["curves"][0]["test"][0] |= dict([bad])
        bad = json.dumps(found).encode()
    path.mkdir() if bad is None else path.write_bytes(bad)
    known, (said,) = read_reports(tmp_path, NOW)
    assert list(known.by_key) == [KEY]
    assert said.startswith(f"{path} is left out: it ")
    assert said.endswith("; run `eelit smoke` again")


@pytest.mark.parametrize(
    "qualities", [(0.5, 0.5, 0.5), (0.0, 1.0, 0.2), (-0.3, 0.1, 0.4), (0.123456, 0.123457, 0.123458)]
)
def test_curves_of_any_shape_can_be_drawn(qualities):
    points = [point(i, quality, 10.0 * (i + 1), 3 / (i + 1)) for i, quality in enumerate(qualities)]
    curve = result().curves[0].model_copy(update={"test": points, "validation": points, "full_cost": 30.0})
    svg = draw(curve, "c")
    numbers = [float(value) for value in re.findall(r'c[xy]="([\d.-]+)"', svg)]
    assert numbers
    assert all(0 <= value <= 480 for value in numbers)
    assert svg.count("<circle") == 6


def test_symbols_of_a_docstring_are_set():
    shown = markup.docstring(
        "Stop when c_t^i >= lambda_t, as run_glue.py and train_size do.\nx_{l-1} = (1-q)^(k-1) * 2"
    )
    assert "<var>c</var><sub><var>t</var></sub><sup><var>i</var></sup> ≥ <var>λ</var><sub><var>t</var></sub>" in shown
    assert "run_glue.py" in shown
    assert "train_size" in shown
    assert "<var>x</var><sub><var>l</var>−1</sub> = (1-<var>q</var>)<sup><var>k</var>−1</sup> · 2</p>" in shown
    assert '<p class="ee-equation"><var>x</var>' in shown
    words = "A device, a layer's n-gram, e.g. I. `s`"
    assert markup.formula(words) == escape(words)
    assert markup.formula("L_last - max_c p_c") == (
        "<var>L</var><sub>last</sub> − max<sub><var>c</var></sub> <var>p</var><sub><var>c</var></sub>"
    )
    assert markup.formula("exit i of n, <A>") == "exit <var>i</var> of <var>n</var>, &lt;<var>A</var>&gt;"
    assert "&lt;script&gt;" in markup.docstring("<script>")
    assert markup.formula("m~^l_j") == "<var>m\u0303</var><sup><var>l</var></sup><sub><var>j</var></sub>"
    assert markup.docstring("a long line " * 9 + "\nthat goes on").count("<p") == 1


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("doi:10.1000/xyz", "https://doi.org/10.1000/xyz"),
        ("arXiv:1806.08342", "https://arxiv.org/abs/1806.08342"),
        ("https://example.org/a", "https://example.org/a"),
        ("javascript:alert(1)", ""),
        ("doi:10.1/<script>", "https://doi.org/10.1/<script>"),
        ("doi:\" onclick='x'", ""),
        (None, ""),
    ],
)
def test_identifiers_lead_to_resolvers_only(name, address):
    assert markup.identifier(name) == address


def test_numbers_read_well():
    assert markup.amount(-1.3, "points", signed=True) == "−1.3 points"
    assert markup.amount(3, "ratio", "at-most") == "≤ 3×"
    assert markup.amount(93.0, "percent") == "93 %"
    assert markup.magnitude(632_000) == "632 k"
    assert markup.venue("Advances in Neural Information Processing Systems (NeurIPS 2020)") == "NeurIPS 2020"


def searched(seed=0):
    """Return the record of a search with two designs on its front, beside a worse one at random."""
    best = [DesignPoint(quality=0.5, share=0.2, front=True, design="branch <1> at 0"),
            DesignPoint(quality=0.8, share=0.6, front=True, design="branch 2 at 0.9")]  # fmt: skip
    dominated = [DesignPoint(quality=0.6, share=0.7, front=False), DesignPoint(quality=0.3, share=0.4, front=False)]
    drawn = DesignPoint(quality=0.7, share=0.65, front=True, design="no branch")
    return Search(
        algorithm="NSGA-II", space="which branches stay", designs=7962624.0, budget=480, seed=seed, quality="accuracy",
        cost="MACs of an image", judged_on="1000 validation images", found=[*best, *dominated], random=[drawn],
        hypervolume=0.52, random_hypervolume=0.5125,
    )  # fmt: skip


def test_page_of_a_method_shows_its_search_beside_a_random_one():
    curve = result().curves[0].model_copy(update={"search": searched()})
    text, source = page_of(reports(report(result(curves=[curve]))))
    plain = " ".join(text.split())
    for said in (
        "The search { #curve-1-search }", "The search decides which branches stay: 7,962,624 designs",
        "NSGA-II evaluated 480 different ones of them on 1000 validation images (seed 0)",
        "by accuracy and by the mean MACs of an image",
        "0 480 0.5200 0.5125 +0.0075", "branch <1> at 0", "branch 2 at 0.9", "front of random search",
    ):  # fmt: skip
        assert said in plain, said
    assert "<1>" not in source
    assert 'aria-labelledby="curve-1-search-front-title"' in source
    assert source.count('class="ee-faint"') == 1  # one design is worse than all of both fronts, one is not
    specs = [json.loads(spec) for spec in re.findall(r'class="ee-spec">(.*?)</script>', source)]
    (spec,) = (spec for spec in specs if "front of NSGA-II" in spec["description"])
    assert [row["share"] for row in spec["data"]["values"]] == [0.2, 0.6, 0.65]
    (faint,) = (layer for layer in spec["layer"] if "data" in layer)
    assert faint["data"]["values"] == [{"curve": "front of NSGA-II", "share": 0.7, "quality": 0.6}]
    assert spec["layer"][0]["encoding"]["y"]["title"] == ["accuracy", "(higher is better)"]


def test_page_of_a_method_without_a_search_shows_none():
    _, source = page_of(reports(report()))
    assert "random search" not in source
    assert "ee-faint" not in source


def simulated():
    rate = Rate(part="link 1, bandwidth", unit="Mbit/s", times=[0, 30, 50], rates=[4, 0, 8])
    return Simulation(seconds=60, rates=[rate], constants=["device <x>, speed: 2 billion MACs/s"])


def test_page_of_a_method_shows_its_simulated_world():
    curve = result().curves[0].model_copy(update={"simulation": simulated()})
    text, source = page_of(reports(report(result(curves=[curve]))))
    plain = " ".join(text.split())
    for said in ("The simulated world { #world }", "Nothing here was measured", "the first 60 simulated seconds",
                 "multiply-accumulates divided by the machine’s speed",
                 "Link 1, bandwidth (simulated)", "device <x>, speed: 2 billion MACs/s"):  # fmt: skip
        assert said in plain, said
    assert "<x>" not in source
    assert "From 0 to 8 Mbit/s, in 3 steps; simulated." in plain
    (path,) = re.findall(r'<path class="line test" d="([^"]+)"/>', source.partition("#world")[2])
    places = [float(number) for number in re.findall(r"[\d.]+", path)]
    assert places == [58, 73.6, 262, 126, 398, 21.2, 466]  # right, then up or down, at 30 and at 50 seconds


@pytest.mark.parametrize(("quality", "each"), [("accuracy", "sample"), ("BLEU", "token"), ("NDCG@10", "document")])
def test_page_of_a_method_says_of_what_its_costs_are(quality, each):
    curve = result().curves[0].model_copy(update={"quality": quality})
    text, _ = page_of(reports(report(result(curves=[curve]))))
    assert f"{quality} of the full model 0.8000 at 100 M MACs per {each}." in text


def test_a_world_says_at_which_scale_it_is():
    curve = result().curves[0].model_copy(update={"simulation": simulated()})
    text, _ = page_of(reports(report(result(curves=[curve]))))
    assert "small setting of the smoke test" in text
    text, _ = page_of(reports(report(result(curves=[curve], scale="full"))))
    assert "small setting of the smoke test" not in text
    assert "These are the settings of the results on the track." in text


def learnt():
    lines = [Lost(rule="ours <b>", times=[0, 50, 100], values=[0, 3, 4]),
             Lost(rule="random", times=[0, 50, 100], values=[0, 5, -1])]  # fmt: skip
    return Learning(title="Regret at lambda 1", time="frames", unit="utility", lines=lines)


def test_page_of_a_method_shows_what_is_learnt():
    curve = result().curves[0].model_copy(update={"simulation": simulated(), "learning": [learnt()]})
    text, source = page_of(reports(report(result(curves=[curve]))))
    world = source.partition("{ #world }")[2]
    assert "Regret at lambda 1; at the end: ours &lt;b&gt; 4, random -1" in world
    drawn = world.partition("Regret at lambda 1; at the end")[2].partition("</svg>")[0]
    assert "↓ lower is better" in drawn
    assert "higher is better" not in drawn
    assert "Regret at lambda 1" in text
    paths = re.findall(r'<path class="ee-line"[^>]* d="([^"]+)"/>', world.partition('<ul class="ee-legend')[0])
    across = [[float(place.split()[0]) for place in path[1:].split("L")] for path in paths[:2]]
    assert across == [[58, 262, 466]] * 2
    up = [[float(place.split()[1]) for place in path[1:].split("L")] for path in paths[:2]]
    assert up[0][1] < up[0][0] < up[0][2]  # random, drawn first: up to 5, then down below 0
    assert up[1][0] > up[1][1] > up[1][2]
    assert world.count("ours &lt;b&gt;</li>") == 1
    assert "<b>" not in world.replace("<b>Fix", "")


def test_a_simulated_world_in_which_nothing_changes_says_so():
    curve = result().curves[0].model_copy(update={"simulation": simulated().model_copy(update={"rates": []})})
    text, _ = page_of(reports(report(result(curves=[curve]))))
    assert "No rate changes over time here." in text
    curve = result().curves[0].model_copy(update={"simulation": simulated()})
    assert "No rate changes" not in page_of(reports(report(result(curves=[curve]))))[0]


def test_a_line_has_a_value_for_each_time():
    with pytest.raises(ValueError, match="random has 1 values at 2 times"):
        Lost(rule="random", times=[0, 1], values=[0])


def test_what_is_learnt_without_a_simulated_world_is_shown_too():
    curve = result().curves[0].model_copy(update={"learning": [learnt()]})
    text, _ = page_of(reports(report(result(curves=[curve]))))
    assert "Regret at lambda 1" in text
    assert "Nothing here was measured" not in text


def test_page_of_a_method_without_a_simulated_world_shows_none():
    _, source = page_of(reports(report()))
    assert "simulated world" not in source


def test_the_page_of_the_edge_says_what_works_decide_by():
    curve = result().curves[0].model_copy(update={"simulation": simulated()})
    collection = gather(sources(), reports(report(result(curves=[curve]))))
    collection.alone = {}  # kept runs would be shown instead
    text = next(text for path, text in pages.generated(collection) if path == "taxonomy/edge.md")
    plain = " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())
    assert "Link 1, bandwidth" not in plain  # of a work that is not at the edge
    assert '<a href="#laskaridis2020spinn">SPINN</a>' in text
    row = re.search(r'<tr><th scope="row"><a href="#leroux2017cascading">.*?</tr>', text, re.DOTALL)[0]
    assert re.findall(r"<td>(yes|–)</td>", row) == ["yes", *["–"] * 7]
    assert '<a href="../methods/leroux2017cascading.html">runs</a>: input</td>' in row
    spinn = re.search(r'<tr><th scope="row"><a href="#laskaridis2020spinn">.*?</tr>', text, re.DOTALL)[0]
    assert re.findall(r"<td>(yes|–)</td>", spinn) == ["yes"] * 6 + ["–"] * 2
    assert (
        "runs</a>: input, bandwidth, load, outage</td>" in spinn
    )  # no limit is set in its runs, and joules are no goal
    assert "a moving average of the link's rate, in the search for split point and threshold" in plain


def at_edge(key, **changes):
    """What a smoke test found in a simulated world."""
    curve = result().curves[0].model_copy(update={"simulation": simulated(), "learning": [learnt()]})
    return report(result(curves=[curve], key=key, **changes)).model_copy(update={"key": key})


def known(key):
    return Reports({key: at_edge(key)}, session((key,)), NOW + timedelta(minutes=1))


def test_the_page_of_the_edge_shows_worlds_of_works_at_the_edge():
    collection = gather(sources(), known("ju2021dee"))
    collection.alone = {}  # kept runs would be shown instead
    text = next(text for path, text in pages.generated(collection) if path == "taxonomy/edge.md")
    own = text.partition("{ #ju2021dee }")[2].partition("\n## ")[0]
    for said in ("small setting of the smoke test", "Link 1, bandwidth (simulated)", "Regret at lambda 1</figcaption>"):
        assert said in own
        assert text.count(said) == 1


def test_a_measured_world_goes_before_that_of_the_smoke_test():
    collection = gather(sources(), known("ju2021dee"))
    collection.alone = {}  # kept runs would be shown instead
    kept = bench.world(at_edge("ju2021dee", scale="full", seed=2).result)
    board = dataclasses.replace(collection.boards["images"], worlds={"ju2021dee": kept})
    collection.boards["images"] = board
    assert collection.world("ju2021dee") == kept
    assert (kept.scale, kept.seed) == ("full", 2)
    assert collection.world("ju2021lee") is None
    text = next(text for path, text in pages.generated(collection) if path == "taxonomy/edge.md")
    assert "small setting of the smoke test" not in text
    assert "with seed 2" in text


def test_a_kept_run_is_shown_with_its_verdicts_instead_of_the_smoke_test():
    key = "wright2024asr"
    short = report(result(key=key, claims=[])).model_copy(update={"key": key})
    collection = gather(sources(), Reports({key: short}, session((key,)), NOW + timedelta(minutes=1)))
    collection.alone = {}
    assert collection.shown(key) == short.result
    claims = [
        Outcome(name="one", statement="It gains.", holds=True, measured="+3 points"),
        Outcome(name="two", statement="It saves.", holds=True, measured="a lot", not_comparable="nothing to lose"),
    ]
    kept = result(key=key, scale="default", claims=claims)
    collection.alone = {key: bench.Stored([kept], current=False)}
    assert collection.shown(key) == kept
    assert [(each.name, each.judgement, each.current) for each in collection.verdicts(key)] == [
        ("one", "too few seeds", False), ("two", "not comparable", False),
    ]  # fmt: skip
    text = next(text for path, text in pages.generated(collection) if path == f"methods/{key}.md")
    plain = " ".join(unescape(re.sub(r"<[^>]+>", " ", text)).split())
    assert "with the method’s own settings on its own data, seed 0" in plain
    assert "stale: measured by older code" in plain
    assert "short run on real data" not in plain
    assert "two It saves. nothing to lose not comparable held with 1 of 1 seed, stale" in plain
    assert plain.count("It saves.") == 1


def test_a_track_goes_before_a_kept_run():
    collection = gather(sources(), reports(report()))
    kept = result(key="kaya2019sdn", scale="default")
    collection.alone = {"kaya2019sdn": bench.Stored([kept], current=True)}
    assert collection.shown("kaya2019sdn") != kept
    assert {verdict.track for verdict in collection.verdicts("kaya2019sdn")} >= {TRACKS["images"].title}


def test_a_row_says_its_name_once():
    collection = gather(sources(), reports(None))
    for key, variant, said in (
        ("li2021tokee", "TOKEE", ("TOKEE", "")),
        ("li2021tokee", "SENTEE", ("TOKEE", "SENTEE")),
        ("bajpai2023splitee", "SplitEE-S", ("SplitEE-S", "")),
        (KEY, "", ("PABEE", "")),
    ):
        assert collection.named(SimpleNamespace(key=key, variant=variant)) == said
