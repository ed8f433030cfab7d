"""What all commands share: help, exit codes, errors in one sentence, completion, and what they do not import."""

import importlib.util
import io
import os
import pty
import re
import resource
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from eelit.catalog import skeleton
from eelit.cli import new, streams
from eelit.cli.group import COMMANDS, EXIT_CODES
from eelit.cli.group import eelit as group
from eelit.methods.engine.method import Bench
from eelit.methods.harness import runner

ROOT = Path(__file__).parent.parent
EELIT = Path(sys.executable).with_name("eelit")


def every_command():
    """Yield (words, command) for all commands and subcommands."""
    context = click.Context(group)
    for name in COMMANDS:
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (([name, sub], command.commands[sub]) for sub in command.commands)
        else:
            yield [name], command


@pytest.mark.parametrize(("words", "command"), [pytest.param(*pair, id=" ".join(pair[0])) for pair in every_command()])
def test_every_command_has_help_with_an_example(eelit, words, command):
    found = eelit(*words, "--help")
    assert found.exit_code == 0
    assert "Examples:" in found.stdout
    assert f"$ eelit {' '.join(words)}" in found.stdout
    assert "--debug" in found.stdout
    assert command.help


def test_the_overview_agrees_with_the_commands(eelit):
    text = " ".join(eelit("--help").stdout.split())
    assert "0 found, 1 nothing found, 2 wrong usage, an unknown name or a missing package, 3 invalid data, 4 a " in text
    assert "130 interrupted" in text
    context = click.Context(group)
    for name, sentence in COMMANDS.items():
        assert sentence in text
        assert group.get_command(context, name).help.startswith(sentence)


def test_an_unknown_command_suggests_another(eelit):
    found = eelit("fnd")
    assert found.exit_code == 2
    assert "did you mean `find`" in found.stderr


@pytest.fixture
def _broken(monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("eelit.catalog.fresh.open_catalogue", broken)


@pytest.mark.usefixtures("_broken")
def test_no_traceback_without_debug(eelit):
    found = eelit("find")
    assert found.exit_code == 4
    assert found.stderr == "eelit: ZeroDivisionError: division by zero (use --debug to see where)\n"


@pytest.mark.usefixtures("_broken")
@pytest.mark.parametrize("words", [["--debug", "find"], ["find", "--debug"]])
def test_a_traceback_with_debug(eelit, words):
    assert isinstance(eelit(*words).exception, ZeroDivisionError)


def run(*words, **variables):
    environment = os.environ | variables
    return subprocess.run([EELIT, *words], capture_output=True, text=True, env=environment, check=False)


def test_a_closed_pipe_is_not_an_error(database):
    command = f"'{EELIT}' taxonomy | head -1"
    words = ["bash", "-o", "pipefail", "-c", command]
    environment = os.environ | {"EELIT_DB": str(database)}
    found = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    assert found.stderr == ""
    assert found.returncode == 0


def into(stream, *words, **variables):
    """Run a command whose output goes to this stream."""
    environment = os.environ | variables
    given = {"stdout": stream, "stderr": subprocess.PIPE, "text": True, "env": environment}
    return subprocess.run([EELIT, *words], check=False, **given)


PRINTED = pytest.mark.parametrize("words", [["--help"], ["find", "--help"], ["show", "pabee"]], ids=" ".join)
BUFFERED = pytest.mark.parametrize("unbuffered", ["", "1"], ids=["buffered", "unbuffered"])


@PRINTED
@BUFFERED
def test_a_reader_who_left_before_the_first_word(database, words, unbuffered):
    read, write = os.pipe()
    os.close(read)
    found = into(write, *words, EELIT_DB=str(database), PYTHONUNBUFFERED=unbuffered)
    os.close(write)
    assert (found.returncode, found.stderr) == (0, "")


@PRINTED
@BUFFERED
def test_output_on_a_full_disk(database, words, unbuffered):
    with open("/dev/full", "w", encoding="utf-8") as full:
        found = into(full, *words, EELIT_DB=str(database), PYTHONUNBUFFERED=unbuffered)
    assert found.returncode == 5
    assert found.stderr.startswith("eelit: the output cannot be written (no space left on device); make room")
    assert found.stderr.count("\n") == 1


def test_a_closed_output_is_one_sentence(database):
    words = ["bash", "-c", f"'{EELIT}' taxonomy >&-"]
    found = subprocess.run(words, capture_output=True, text=True, check=False)
    assert found.returncode == 5
    assert found.stderr == "eelit: stdout is closed; send it to /dev/null if nobody reads it\n"


def test_a_broken_pipe_elsewhere_is_no_success(monkeypatch, eelit):
    def broken(*_):
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("eelit.catalog.fresh.open_catalogue", broken)
    found = eelit("find")
    assert found.exit_code == 4
    assert "BrokenPipeError" in found.stderr


@pytest.mark.parametrize("module", ["eelit.cli.group", "click", "eelit.cli.find", "eelit.catalog.fresh"])
def test_an_interruption_while_the_command_is_imported_is_130_too(module):
    """From the first line of the entry point on: while Python itself starts, and imports that, its traceback is shown.

    These are some hundredths of a second, more in an editable install, whose finder Python imports as it starts. So the
    entry point must import nothing that takes time before it can catch an interruption.
    """
    program = f"""
import sys

class Interrupts:
    def find_spec(self, name, *_):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupts())
from eelit.cli.main import main
main()
"""
    found = subprocess.run([sys.executable, "-c", program, "find"], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (130, "", "eelit: interrupted\n")


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("eelit.catalog.fresh.open_catalogue", ["find"]),
        ("eelit.catalog.fresh.open_catalogue", ["find", "--debug"]),
        ("click.Group.parse_args", ["find"]),
        ("eelit.cli.group.LazyGroup.format_commands", ["--help"]),
        ("http.server.ThreadingHTTPServer.serve_forever", ["site", "serve", "--port", "0"]),
    ],
)
def test_an_interruption_is_130_wherever_it_comes(monkeypatch, eelit, tmp_path, place, words):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("eelit.site.generator.build.build", lambda **_: tmp_path)
    monkeypatch.setattr(place, interrupt)
    found = eelit(*words)
    assert found.exit_code == 130
    assert found.stderr.endswith("eelit: interrupted\n")
    assert "Aborted" not in found.stderr


def on_terminal(*words, **variables):
    """Return what a command sends to a terminal."""
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | variables
    child = subprocess.Popen([EELIT, *words], stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    sent = b""
    try:
        while more := os.read(ours, 9000):
            sent += more
    except OSError:  # the child has ended
        pass
    os.close(ours)
    child.wait()
    return sent.decode("utf-8")


def test_a_terminal_gets_bold_unless_it_is_dumb(database):
    assert "\x1b[1mPABEE: " in on_terminal("show", "pabee", TERM="xterm", EELIT_DB=str(database))
    dumb = on_terminal("show", "pabee", TERM="dumb", EELIT_DB=str(database))
    assert "PABEE: " in dumb
    assert "\x1b" not in dumb


def test_nothing_that_is_printed_moves_the_cursor(database):
    said = on_terminal("show", "\x1b]0;owned\x07\x9b2Jx", EELIT_DB=str(database))
    assert "no work is called `\ufffd]0;owned\ufffd\ufffd2Jx`" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        ("plain\ttext ✓\n", "plain\ttext ✓\n"),
        ("\x1b[1mbold\x1b[0m\r\n", "\x1b[1mbold\x1b[0m\r\n"),
        ("\x1b[2J\x1b]0;title\x07\x9b1m\x7f", "\ufffd[2J\ufffd]0;title\ufffd\ufffd1m\ufffd"),
        ("good\rbad \u202eabc", "good\ufffdbad \ufffdabc"),
    ],
)
def test_what_acts_on_a_terminal_is_shown_instead(given, sent):
    raw = io.BytesIO()
    stream = streams.Guarded(raw, encoding="utf-8")
    assert stream.write(given) == len(given)
    stream.flush()
    assert raw.getvalue().decode("utf-8") == sent


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "pabee", "--seed", "1" * 23], "'--seed': 11111111111111111111111 is not in the range"),
        (["run", "pabee", "--seed", str(2**31)], "'--seed'"),
        (["bench", "--jobs", "9" * 20], "'--jobs'"),
        (["bench", "--seeds", "9" * 20], "'--seeds'"),
        (["smoke", "--jobs", "9" * 20], "'--jobs'"),
        (["site", "serve", "--port", "9" * 20], "'--port'"),
        (["graph", "--depth", "9" * 20], "'--depth'"),
        (["graph", "--around", ""], "nothing is given to look for"),
        (["graph", "--path", "pabee", ""], "nothing is given to look for"),
        (["show", ""], "nothing is given to look for"),
        (["run", ""], "nothing is given to look for"),
        (["--db", "", "find"], "the name of a file is empty"),
        (["find", "--db", ""], "the name of a file is empty"),
        *((words, "is empty; give one") for words in (["run", "pabee", "--out", ""], ["site", "bundle", "--out", ""])),
        (["leaderboard", "--at", "nan"], "not nan"),
        *(
            ([*words, "a\udcffb"], "`a\\udcffb` is not UTF-8; type it in a terminal that uses UTF-8")
            for words in (["show"], ["cite"], ["find", "--text"], ["find", "--author"], ["graph", "--around"], ["new"])
        ),
        (["data", "verify", "\udcff"], "is not UTF-8"),
        (["show", "a\nb"], "no work is called `a b`"),
        (["find", "--policy", "a\nb"], "`a-b` is not a term of policy"),
    ],
    ids=str,
)
def test_values_that_mean_nothing_are_wrong_usage(eelit, words, said):
    found = eelit(*words)
    assert found.exit_code == 2
    assert said in found.stderr
    assert found.stdout == ""


def test_completion_of_keys_and_terms(database):
    def complete(*words):
        last = str(len(words) - 1)
        found = run(
            EELIT_DB=str(database), _EELIT_COMPLETE="bash_complete", COMP_WORDS=" ".join(words), COMP_CWORD=last
        )
        return [line.partition(",")[2] for line in found.stdout.splitlines()]

    assert {"zhou2020pabee"} <= set(complete("eelit", "show", "zhou"))
    assert "PABEE" in complete("eelit", "cite", "pab")
    assert "patience" in complete("eelit", "find", "--policy", "pat")
    assert "find" in complete("eelit", "fi")
    assert "policy" in complete("eelit", "taxonomy", "po")


def test_completion_of_methods_offers_only_what_runs(methodless, eelit):
    assert eelit("build").exit_code == 0
    runs, works = {"zhou2020pabee", "PABEE"}, {"zhou2020pabee", "PABEE", methodless, "PlainExit"}
    for command, offered in [("show", works), ("run", runs), ("smoke", runs)]:
        words = {"_EELIT_COMPLETE": "bash_complete", "COMP_CWORD": "2", "COMP_WORDS": f"eelit {command} "}
        found = {line.partition(",")[2] for line in run(**words).stdout.splitlines()}
        assert works & found == offered, command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_is_switched_on_as_the_readme_says(shell):
    line = f"_EELIT_COMPLETE={shell}_source eelit"
    assert line in (ROOT / "README.md").read_text(encoding="utf-8")
    found = run(_EELIT_COMPLETE=f"{shell}_source")
    assert found.returncode == 0
    assert f"_EELIT_COMPLETE={shell}_complete" in found.stdout


@pytest.mark.parametrize(
    "words",
    [["find", "--policy", "patience"], ["show", "pabee"], ["taxonomy"], ["cite", "pabee"]],
    ids=lambda words: words[0],
)
def test_what_must_start_fast_imports_little(database, words):
    """Neither torch nor networkx nor SQLAlchemy, nor anything else that is slow to import."""
    program = f"""
import sys
from eelit.cli.group import eelit
sys.argv = ["eelit", *{words!r}]
try:
    eelit()
finally:
    slow = {{"torch", "networkx", "sqlalchemy", "sqlmodel", "pydantic", "pybtex", "pylatexenc"}}
    slow |= {{"yaml", "numpy", "scipy", "jinja2"}}
    print(*sorted(slow & set(sys.modules)), file=sys.stderr)
"""
    environment = os.environ | {"EELIT_DB": str(database)}
    words = [sys.executable, "-c", program]
    found = subprocess.run(words, capture_output=True, text=True, env=environment, check=True)
    assert found.stderr == "\n"
    assert found.stdout


@pytest.mark.parametrize("words", [["--db", "none.sqlite", "find"], ["find", "--db", "none.sqlite"]])
def test_the_database_may_be_named_before_or_after_the_command(eelit, monkeypatch, tmp_path, words):
    monkeypatch.setattr("eelit.catalog.fresh.checkout", lambda: None)
    monkeypatch.chdir(tmp_path)
    found = eelit(*words)
    assert found.exit_code == 2
    assert f"there is no catalogue at {tmp_path / 'none.sqlite'}" in found.stderr


def test_the_version_is_told(eelit):
    assert eelit("--version").stdout.startswith("eelit ")


def test_the_readme_says_the_exit_codes_that_the_help_says():
    assert f"Exit codes: {EXIT_CODES}." in " ".join((ROOT / "README.md").read_text(encoding="utf-8").split())


@pytest.mark.parametrize("family", new.FAMILIES)
def test_new_writes_four_short_files_and_overwrites_none(tree, eelit, family):
    found = eelit("new", "smith2027lazy", "--family", family)
    assert found.exit_code == 0, found.stderr
    written = [Path(line) for line in found.stdout.splitlines()]
    assert [path.relative_to(tree).as_posix() for path in written] == [
        "catalog/entries/smith2027lazy.yaml",
        "methods/papers/smith2027lazy.py",
        "methods/claims/smith2027lazy.py",
        "tests/papers/test_smith2027lazy.py",
    ]
    for path in written:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) <= 160
        assert "{{" not in text
        assert "{%" not in text
        if path.suffix == ".py":
            compile(text, str(path), "exec")
    text = written[1].read_text(encoding="utf-8")
    assert ("minilm" in text) == (family in ("exits-text", "split", "skimming", "tagging"))
    written[1].write_text("mine", encoding="utf-8")
    again = eelit("new", "smith2027lazy", "--family", family)
    assert again.exit_code == 0
    assert again.stderr.count("was not changed") == 4
    assert written[1].read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("family", [family for family in new.FAMILIES if family != "other"])
def test_the_help_names_a_method_of_each_family(family):
    text = " ".join(new.command.help.split())
    (key,) = re.findall(rf"[(; ]{family}: (\w+)[);]", text)
    module = family.replace("-", "_") if family not in ("exits-text", "exits-images") else family.partition("-")[2]
    source = (ROOT / f"methods/papers/{key}.py").read_text(encoding="utf-8")
    assert f"from eelit.methods.families.{module} import" in source


def test_every_family_has_a_template_or_is_shared_by_such():
    """What others derive from has none: the same with texts and with images, of writing, of answers one by one."""
    shared = {"exits", "images", "text", "stepwise", "generation"}
    modules = {path.stem for path in (ROOT / "methods/families").glob("*.py")} - {"__init__"} - shared
    assert modules == {name.replace("-", "_") for name in new.FAMILIES if not name.startswith(("exits-", "other"))}


def test_without_a_family_only_the_entry_is_written(tree, eelit):
    found = eelit("new", "smith2027lazy")
    assert found.stdout.split() == [str(tree / "catalog/entries/smith2027lazy.yaml")]
    assert "implementation:" not in (tree / "catalog/entries/smith2027lazy.yaml").read_text(encoding="utf-8")
    assert eelit("new", "smith2027lazy", "--family", "nonsense").exit_code == 2


def test_an_entry_that_is_there_gets_its_implementation_and_keeps_all_else(tree, eelit):
    entry = tree / "catalog/entries/kaya2019sdn.yaml"
    before = entry.read_text(encoding="utf-8").partition("\nimplementation:")[0].rstrip() + "\n"
    entry.write_text(before, encoding="utf-8")
    found = eelit("new", "kaya2019sdn", "--family", "exits-images")
    assert found.exit_code == 0, found.stderr
    assert found.stdout.split()[0] == str(entry)
    after = entry.read_text(encoding="utf-8")
    block = "implementation:\n  fidelity: from-paper\n  reason: what the implementation rests on\n"
    assert after == before + block
    assert entry.stat().st_mode & 0o777 == 0o644
    again = eelit("new", "kaya2019sdn", "--family", "exits-images")
    assert f"{entry} exists already and was not changed" in again.stderr
    assert entry.read_text(encoding="utf-8") == after


@pytest.mark.parametrize(
    ("kind", "said"), [("bytes", ":2: the byte 0xff is not UTF-8; save"), ("pipe", ":1: the file cannot")]
)
def test_an_entry_that_cannot_be_read_gets_no_implementation(tree, eelit, kind, said):
    entry = tree / "catalog/entries/smith2027lazy.yaml"
    entry.write_bytes(b"key: smith2027lazy\nidea: \xff\n") if kind == "bytes" else os.mkfifo(entry)
    found = eelit("new", "smith2027lazy", "--family", "other")
    assert found.exit_code == 3
    assert found.stderr.startswith(f"eelit: {entry}{said}")
    assert found.stderr.count("\n") == 1
    assert not (tree / "methods/papers/smith2027lazy.py").exists()


@pytest.mark.parametrize("family", [[], ["--family", "other"]])
def test_a_disk_without_room_leaves_no_half_of_a_new_file(tree, eelit, family):
    entries = tree / "catalog/entries"
    before = sorted(entries.iterdir())
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        found = eelit("new", "smith2027lazy", *family)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert found.exit_code == 5
    entry = entries / "smith2027lazy.yaml"
    assert found.stderr.startswith(
        f"eelit: {entry} cannot be written (file too large); make room on its disk, or start"
    )
    assert sorted(entries.iterdir()) == before


def test_a_new_entry_is_told_what_it_lacks(tree, eelit):
    eelit("new", "smith2027lazy")
    said = eelit("check").stdout
    assert "smith2027lazy.yaml:11: `domain` is empty; name at least one" in said
    assert "smith2027lazy.yaml:3: `smith2027lazy` is not in early-exit.bib; add it" in said
    assert "smith2027lazy.yaml:12: `idea` still has the text of the template; write your own" in said
    assert eelit("new", "Smith-2027").exit_code == 2


def test_what_the_template_says_is_no_finished_entry_however_it_is_wrapped(tree, eelit):
    eelit("new", "smith2027lazy", "--family", "other")
    with (tree / "bib/early-exit.bib").open("a", encoding="utf-8") as file:
        file.write("\n@misc{smith2027lazy,\n author = {Smith, Jo},\n title = {Idle},\n year = {2027}\n}\n")
    path = tree / "catalog/entries/smith2027lazy.yaml"
    text = path.read_text(encoding="utf-8").replace("domain: []", "domain: [language]")
    path.write_text(text.replace("as you would", "as you\n  would"), encoding="utf-8")
    found = eelit("check", "smith2027lazy")
    assert found.exit_code == 3
    fields = re.findall(r"`(\w+)` still has the text of the template", found.stdout)
    assert fields == ["idea", "exit_rule", "skipped", "says", "source", "untried", "sources", "reason"]
    for place in skeleton.PLACEHOLDERS.values():
        text = text.replace(place, "Something of its own.")
    path.write_text(text, encoding="utf-8")
    assert eelit("check", "smith2027lazy").exit_code == 0


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("{LazyNet}: Being Idle at Depth", "LazyNet"),
        ("Why {LAZY} Networks: Win", "LAZY"),
        ("Being Idle at Depth", "Lazy"),
        ("NO: Not Now", "NO"),
        ("007: A Net", "Lazy"),
    ],
)
def test_a_new_entry_takes_its_short_name_from_the_title(tree, eelit, title, name):
    with (tree / "bib/early-exit.bib").open("a", encoding="utf-8") as file:
        file.write(f"\n@misc{{smith2027lazy,\n author = {{Smith, Jo}},\n title = {{{title}}},\n year = {{2027}}\n}}\n")
    assert eelit("new", "smith2027lazy", "--family", "exits-text").exit_code == 0
    entry = yaml.safe_load((tree / "catalog/entries/smith2027lazy.yaml").read_text(encoding="utf-8"))
    assert entry["short_name"] == name
    method = (tree / "methods/papers/smith2027lazy.py").read_text(encoding="utf-8")
    assert method.startswith(f'"""Title of the work ({name}).')
    assert "not in early-exit.bib" not in eelit("check").stdout


@pytest.mark.parametrize(
    ("key", "family"), [*(("smith2027lazy", family) for family in new.FAMILIES), ("smith20273d", "other")]
)
def test_a_new_method_passes_ruff_and_names_a_class(key, family):
    for template, place in new.SKELETONS.items():
        text = new.render(template, key, "Lazy", family)
        ruff = [sys.executable, "-m", "ruff"]
        for words in (["check", "--stdin-filename", place.format(key=key), "-"], ["format", "--check", "--quiet", "-"]):
            found = subprocess.run([*ruff, *words], input=text, capture_output=True, text=True, cwd=ROOT, check=False)
            assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize("family", new.FAMILIES)
def test_a_new_method_runs_in_its_tiny_setting_and_passes_its_own_tests(tree, eelit, family, monkeypatch, stages):
    """What `eelit new` writes is a sound method from the start, so that whatever fails later is the author's change."""
    assert eelit("new", "smith2027lazy", "--family", family).exit_code == 0

    def module(place, name):
        spec = importlib.util.spec_from_file_location(name, tree / place)
        made = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, name, made)  # dataclasses look their module up
        spec.loader.exec_module(made)
        return vars(made)

    method = module("methods/papers/smith2027lazy.py", "eelit.methods.papers.smith2027lazy")["Lazy"]()
    claims = module("methods/claims/smith2027lazy.py", "eelit.methods.claims.smith2027lazy")["claims"]
    method, bench = method.variant("", "tiny"), Bench(executed=48)
    ready = method.prepare(bench)
    given = {"prepared": lambda key: (method, bench, ready), "stages": stages}
    written = module("tests/papers/test_smith2027lazy.py", "test_lazy")
    tests = [test for name, test in written.items() if name.startswith("test_")]
    assert len(tests) >= 3
    for test in tests:
        test(**{name: given[name] for name in test.__code__.co_varnames[: test.__code__.co_argcount]})
    curve = runner.measure(method, ready, bench, "")
    assert [outcome.name for outcome in claims(method, ready, bench, curve)] == [
        "much cheaper at nearly the same quality"
    ]
    assert method.key == "smith2027lazy"
    assert len({type(method)(), type(method)().variant("", "smoke"), method}) == 3  # each scale has settings of its own


def test_build_says_where(tree, eelit, tmp_path):
    found = eelit("build", "--db", tmp_path / "here.sqlite")
    assert found.exit_code == 0
    assert str(tmp_path / "here.sqlite") in found.stdout


def test_methods_and_data_are_listed(eelit):
    assert "zhou2020pabee" in eelit("methods", "--format", "keys").stdout
    assert "minilm-l6" in eelit("data", "list", "--format", "keys").stdout
    assert eelit("data", "verify", "no-such-thing").exit_code == 2
    assert eelit("run", "branchnet").exit_code == 2


@pytest.mark.parametrize("word", ["no", "on", "007", "1e5", "null", "y", "true"])
def test_a_new_entry_quotes_what_yaml_would_take_for_something_else(tree, eelit, word):
    assert eelit("new", f"smith2027{word}").exit_code == 0
    text = (tree / f"catalog/entries/smith2027{word}.yaml").read_text(encoding="utf-8")
    assert f"\nshort_name: '{word.capitalize()}'\n" in text
