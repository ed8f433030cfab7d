"""`eelit mcp`: a client of the protocol's own package finds, shows, cites, walks and compares, and changes nothing."""

import asyncio
import json
import os
import pty
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest

from eelit.catalog.query import Catalogue
from eelit.cli.mcp import server

mcp = pytest.importorskip("mcp")
MOST_LETTERS = 60_000
"""Of one answer: about fifteen thousand tokens."""


def asked(make, *calls):
    """Return the tools that a server tells that is made here, and what it answers to these calls."""

    async def talk():
        async with mcp.Client(make()) as client:
            tools = (await client.list_tools()).tools
            return tools, [await client.call_tool(name, arguments) for name, arguments in calls]

    with ThreadPoolExecutor(1) as alone:  # a browser of another test keeps a loop going in this thread
        return alone.submit(lambda: asyncio.run(talk())).result()


def said(result):
    assert not result.is_error, result.content
    text = result.content[0].text
    return json.loads(text) if text.startswith("{") else text


@pytest.fixture(scope="module")
def served(database):
    return lambda: server(Catalogue(str(database)))  # whose connection belongs to the thread that opens it


def test_every_tool_says_what_it_does_and_that_it_only_reads(served):
    tools, _ = asked(served)
    assert [tool.name for tool in tools] == ["find", "show", "cite", "graph", "leaderboard", "compare"]
    for tool in tools:
        assert tool.description.endswith(".")
        assert tool.annotations.read_only_hint
        assert not tool.annotations.open_world_hint


def test_the_server_tells_its_name_and_the_version_that_is_installed(served):
    async def told():
        async with mcp.Client(served()) as client:
            return client.server_info

    with ThreadPoolExecutor(1) as alone:
        info = alone.submit(lambda: asyncio.run(told())).result()
    assert (info.name, info.version) == ("eelit", version("eelit"))


def test_works_are_found_shown_and_cited(served):
    calls = [
        ("find", {"policy": "agreement", "runnable": True, "limit": 3}),
        ("show", {"work": "pabee"}),
        ("cite", {"works": ["pabee", "zhou2020pabee"], "style": "ris"}),
    ]
    _, (found, shown, cited) = asked(served, *calls)
    assert len(said(found)["works"]) == 3 < said(found)["total"]
    assert said(shown)["record"]["title"].startswith("BERT Loses Patience")
    assert said(shown)["entry"]["unverified"]
    assert said(cited).count("TY  - ") == 1


def test_the_graph_tells_its_evidence_and_how_incomplete_it_is(served):
    _, (graph,) = asked(served, ("graph", {"around": "pabee"}))
    told = said(graph)
    assert {"zhou2020pabee", "kaya2019sdn"} <= {node["key"] for node in told["nodes"]}
    assert all(edge["evidence"] for edge in told["edges"])
    assert "a missing edge proves nothing" in told["note"]


def test_methods_are_ranked_and_compared(served, monkeypatch):
    monkeypatch.setattr("eelit.methods.harness.bench.members", lambda track: ["zhou2020pabee"])
    calls = [("leaderboard", {}), ("compare", {"methods": ["pabee"]})]
    _, (board, compared) = asked(served, *calls)
    assert {row["key"] for row in said(board)["rows"]} == {"zhou2020pabee"}
    assert set(said(compared)["claims"]) == {"zhou2020pabee"}


def test_answers_are_short_enough_for_a_model(served):
    calls = [
        ("leaderboard", {}),
        ("leaderboard", {"limit": 1000}),
        ("compare", {"methods": ["pabee", "deebert"]}),
        ("graph", {"around": "pabee", "depth": 3}),
        ("find", {"limit": 1000}),
    ]
    _, answers = asked(served, *calls)
    sizes = [len(result.content[0].text) for result in answers]
    board = said(answers[0])
    assert len(board["rows"]) == 20 < board["total"]
    assert board["rows"][0]["reached"]["mean"]
    wide = said(answers[3])
    assert wide["edges_in_all"] > len(wide["edges"]) > 1
    assert all("zhou2020pabee" in (edge["source"], edge["target"]) for edge in wide["edges"][:1])
    assert len(said(answers[4])["works"]) < said(answers[4])["total"]
    assert max(sizes) < MOST_LETTERS, sizes


@pytest.mark.parametrize(
    ("name", "arguments", "why"),
    [
        (
            "compare",
            {"methods": ["elhoushi2024layerskip"]},
            "elhoushi2024layerskip is in the catalogue but cannot be run",
        ),
        ("compare", {"methods": ["pabee"] * 9}, "name one to 8 methods"),
        ("show", {"work": "nobody"}, "no work is called `nobody`"),
        ("find", {"policy": "patient"}, "`patient` is not a term of policy"),
        ("cite", {"works": ["pabee"], "style": "word"}, "no such style `word`"),
        ("leaderboard", {"track": "sound"}, "no such track `sound`"),
        ("leaderboard", {"share": 0.3}, "choose one of 0.25, 0.5, 0.75"),
        ("find", {"polcy": "entropy"}, "`find` has no argument `polcy`; did you mean `policy`?"),
        ("cite", {"works": ["pabee"], "x": 1}, "`cite` has no argument `x`; it has works, style"),
        ("find", {"limit": "many"}, "`limit` of `find` is 'many'; input should be a valid integer"),
        ("show", {}, "`show` needs `work`"),
        ("search", {}, "there is no tool `search`; there are find, show, cite, graph, leaderboard, compare"),
    ],
)
def test_what_is_wrong_with_a_question_is_one_sentence(served, name, arguments, why):
    _, (result,) = asked(served, (name, arguments))
    assert result.is_error
    assert why in result.content[0].text
    assert "\n" not in result.content[0].text


def test_a_client_starts_the_command_by_itself(database):
    environment = os.environ | {"EELIT_DB": str(database)}
    command = str(Path(sys.executable).with_name("eelit"))
    started = mcp.StdioServerParameters(command=command, args=["mcp"], env=environment)
    _, (shown,) = asked(lambda: started, ("show", {"work": "pabee"}))
    assert said(shown)["key"] == "zhou2020pabee"


def test_a_person_who_starts_it_is_told_what_it_waits_for_and_how_it_ends(database, served):
    environment = os.environ | {"EELIT_DB": str(database)}
    command = str(Path(sys.executable).with_name("eelit"))
    child, terminal = pty.fork()
    if child == 0:
        os.execve(command, [command, "mcp"], environment)
    said = b""
    while b"Ctrl-D ends this" not in said:
        said += os.read(terminal, 1000)
    os.write(terminal, b"\x04")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_without_the_package_it_says_what_to_install(database, monkeypatch):
    monkeypatch.setitem(sys.modules, "mcp", None)
    with pytest.raises(Exception, match=r"pip install 'eelit\[mcp\]'"):
        server(Catalogue(str(database)))
