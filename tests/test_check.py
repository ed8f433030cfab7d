"""`eelit check` on broken sources: each fault is one line that says where, what, and what to do; all come at once."""

# ruff: noqa: E501 (a table reads best with a fault per line)

import json
import os
import re
import socket
from pathlib import Path

import pytest

from eelit.catalog import yaml_lines
from eelit.catalog.check import check
from eelit.catalog.sources import sources
from eelit.catalog.yaml_lines import read_yaml

ENTRY = "catalog/entries/zhou2020pabee.yaml"
BIB = "bib/early-exit.bib"
TAXONOMY = "catalog/taxonomy.yaml"
CITATIONS = "bib/citations.csv"
LISTS = "bib/reference-lists.csv"


def edit(tree, file, old, new, count=1):
    path = tree / file
    text = path.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {file}"
    path.write_text(text.replace(old, new, count), encoding="utf-8")


def errors():
    return [str(problem) for problem in check(sources()) if problem.severity == "error"]


def warnings():
    return [str(problem) for problem in check(sources()) if problem.severity == "warning"]


def test_the_copy_is_sound(tree):
    assert errors() == []


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (ENTRY, "policy: [patience]", "policy: [patence]", r"zhou2020pabee.yaml:7: unknown policy term `patence`; did you mean `patience`"),
        (ENTRY, "policy: [patience]", "policy: [joint]", r":7: unknown policy term `joint`; it belongs to `training`"),
        (ENTRY, "policy: [patience]", "polcy: [patience]", r":7: unknown field `polcy`; did you mean `policy`"),
        (ENTRY, "role: early-exit", "role: early", r":3: `role` cannot be `early` \(allowed: .*did you mean `early-exit`"),
        (ENTRY, "short_name: PABEE\n", "", r":1: the field `short_name` is missing; add it"),
        (ENTRY, "value: 93.0", "value: 74.67%", r"`reported\[0\].value` holds `74.67%`, which is str|reported\[0\].value"),
        (ENTRY, "unit: percent\n", "unit: percent\n    untit: x\n", r"unknown field `reported\[0\].untit`; did you mean `unit`"),
        (ENTRY, "key: zhou2020pabee", "key: zhou2020pabe", r":1: the key is `zhou2020pabe` but the file is `zhou2020pabee.yaml`"),
        (ENTRY, "key: zhou2020pabee", "key: Zhou2020", r":1: `Zhou2020` is not a key"),
        (ENTRY, "target: kaya2019sdn", "target: kaya2019sdm", r"leads to `kaya2019sdm`, which is unknown; did you mean `kaya2019sdn`"),
        (ENTRY, "target: kaya2019sdn", "target: {titel: x}", r"`target` is a key of the catalogue, or `external"),
        (ENTRY, "target: kaya2019sdn", "target: zhou2020pabee", r"is related to itself"),
        (ENTRY, "evidence: sheet", "evidence: url", r"`url` is given exactly when evidence is `url`"),
        (ENTRY, "{field: relations,", "{field: relation,", r"`relation` is a field of neither entry nor bibliography; did you mean `relations`"),
        (ENTRY, "kind: method", "kind: method\nkind: system", r":5: the field `kind` is given twice"),
        ("catalog/entries/elbayad2020depth.yaml", "title: Universal Transformers", "title: DeeBERT - Dynamic Early Exiting for Accelerating BERT Inference", r"external work is in the catalogue; write `target: xin2020deebert`"),
        (ENTRY, "policy: [patience]", "policy: [patience", r"not valid YAML|breaks off here"),
        (BIB, "@inproceedings{zhou2020pabee,", "@inproceedings{zhou2020pabeee,", r"zhou2020pabee.yaml:1: `zhou2020pabee` is not in early-exit.bib; add it; did you mean `zhou2020pabeee`"),
        (BIB, "@inproceedings{zhou2020pabee,", "@inproceedings{kaya2019sdn,", r"early-exit.bib:\d+: the key `kaya2019sdn` is already used in line \d+"),
        (BIB, "eprint = {2006.04152}", "eprint = {2006.4152x}", r"`2006.4152x` of `zhou2020pabee` is not a valid arXiv id"),
        (BIB, "eprint = {2006.04152}", "eprint = {2004.12993}", r"has the same arXiv id as `xin2020deebert`|has the same arXiv id as `zhou2020pabee`"),
        (BIB, "doi = {10.18653/v1/2020.acl-main.204}", "doi = {https://doi.org/10.18653/v1/2020.acl-main.204}", r"is not a valid DOI"),
        (BIB, "acl = {2020.acl-main.204}", "acl = {acl204}", r"is not a valid ACL Anthology id"),
        (CITATIONS, "zhou2020pabee,kaya2019sdn", "zhou2020pabe,kaya2019sdn", r"citations.csv:\d+: unknown key `zhou2020pabe`; did you mean `zhou2020pabee`"),
        (TAXONOMY, "broader: agreement", "broader: agrement", r"unknown broader term `agrement`; did you mean `agreement`"),
        (TAXONOMY, "example: zhou2020pabee", "example: zhou2021pabee", r"the example `zhou2021pabee` of `every-layer` is not in the catalogue; did you mean `zhou2020pabee`"),
        (TAXONOMY, "example: zhou2020pabee", "example: wang2018skipnet", r"the example `wang2018skipnet` does not carry `every-layer`"),
        (TAXONOMY, "- term: every-block", "- term: every-layer", r"placement term `every-layer` is defined twice"),
        (TAXONOMY, "- term: along-depth", "- term: along-depth\n  broader: every-layer", r"`along-depth` is broader than itself; break the circle"),
        (TAXONOMY, "definition: ", "defnition: ", r"unknown field .*defnition.*did you mean `definition`"),
    ],
)  # fmt: skip
def test_a_fault_is_said_where_it_stands(tree, file, old, new, said):
    edit(tree, file, old, new)
    found = errors()
    assert any(re.search(said, line) for line in found), "\n".join(found)
    assert all(re.match(r"\S+:\d+: .+", line) for line in found)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, r":2: `\*a0` stands for something else; write that here"),
        ("a: &a [*a]", r":1: `\*a` stands for"),
        ("a: &a {x: y}\nb:\n  <<: *a", r":3: `\*a` stands for"),
        ("a: x\n<<: {x: y}", r":2: `<<` cannot be the name of a field: YAML reads it as merge"),
        ("a: x\nb: !!bool x", r":2: the tag `!!bool` is not known here; leave it out"),
        ("a: !!timestamp x", r":1: the tag `!!timestamp`"),
        ("a: !!binary aGk=", r":1: the tag `!!binary`"),
        ("a: !!python/object/apply:os.getcwd []", r":1: the tag `!!python/object/apply:os.getcwd`"),
        ("a: !own {x: y}", r":1: the tag `!own`"),
        ("a: x\n? [a, b]\n: c", r":2: a list or a mapping cannot be the name of a field"),
        ("? {a: b}\n: c", r":1: a list or a mapping cannot be the name of a field"),
        ("a: x\nyes: x", r":2: `yes` cannot be the name of a field: YAML reads it as bool; quote it"),
        ("a: [{1: x}]", r":1: `1` cannot be the name of a field: YAML reads it as int"),
        ("2020-01-01: x", r":1: `2020-01-01` cannot be the name of a field: YAML reads it as timestamp"),
        ("~: x", r":1: `~` cannot be the name of a field: YAML reads it as null"),
        ("a: x\nb: {c: x, c: y}", r":2: the field `c` is given twice; keep one"),
        ("a: x\nb: 2020-13-45", r":2: `2020-13-45` looks like timestamp but cannot be read so; correct it, or put it in quotes"),
        ("a:\n  - " + "9" * 5000, r":2: `9{40}…` looks like int but cannot be read so"),
        ("a: 0x" + "f" * 4000, r":1: the number `0xf+…` is too large"),
        ("a: 0x_", r":1: `0x_` looks like int"),
        ("a: x\nb: .nan", r":2: `.nan` is no number"),
        ("a: -.inf", r":1: `-.inf` is no number"),
        ("a: 1.0e+999", r":1: `1.0e\+999` is no number"),
        ("a: x\n\tb: y", r":2: the file breaks off here"),
        ("a: x\nb: x\0y\nc: z", r":2: the character U\+0000 may not stand in YAML; remove it"),
        ("a: x\nb: \x1b[2J", r":2: the character U\+001B may not stand in YAML"),
        (b"a: x\nb: \xff\nc: z", r":2: the byte 0xff is not UTF-8; save the file as UTF-8"),
        ("a: x".encode("utf-16"), r":1: the byte 0xff is not UTF-8"),
        ("[" * 100_000, r":1: more than 20 lists and mappings lie inside each other"),
        ("a: x\nb: " + "{c: " * 50_000, r":2: more than 20 lists and mappings"),
        ("- " * 100_000, r":1: more than 20 lists and mappings"),
        ("? " * 100_000, r":1: more than 20 lists and mappings"),
        ("a: " + "x" * yaml_lines.LARGEST, r":1: the file is larger than 256 kB"),
        ("- a\n- b", r":1: the file holds no fields; write them as `name: value`"),
        ("some text", r":1: the file holds no fields"),
        ("a: x\n---\nb: y", r":\d: this is not valid YAML|:\d: the file breaks off here"),
        ("# nothing", r":1: the file is empty"),
    ],
    ids=range(37),
)  # fmt: skip
def test_what_yaml_has_beside_fields_lists_and_values_is_refused_where_it_stands(tmp_path, text, said):
    path = tmp_path / "x.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
    _, (problem, *more) = read_yaml(path)
    assert re.search(said, str(problem)), problem
    assert "\n" not in str(problem)
    assert not more


def bound(name):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(name)


KINDS = {"pipe": os.mkfifo, "folder": os.mkdir, "socket": bound, "device": lambda name: os.symlink("/dev/zero", name)}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("file", [BIB, CITATIONS, LISTS, TAXONOMY, ENTRY])
def test_what_is_no_file_is_not_waited_for(tree, monkeypatch, kind, file):
    path = tree / file
    path.unlink()
    monkeypatch.chdir(path.parent)  # the names of sockets are short
    KINDS[kind](path.name)
    (said,) = [line for line in errors() if line.startswith(f"{path.name}:1: ")]
    assert "cannot be read: it is no file but a folder, a pipe, a socket or a device; put a file in its place" in said


def test_a_bomb_in_an_entry_is_one_line_of_the_report(tree, eelit):
    with (tree / ENTRY).open("a", encoding="utf-8") as file:
        file.write(f"bomb:\n  {BOMB.replace(chr(10), chr(10) + '  ')}")
    found = eelit("check")
    assert found.exit_code == 3
    assert re.search(r"zhou2020pabee.yaml:\d+: `\*a0` stands for something else", found.stdout)
    assert found.stdout.count("\n") == 1


@pytest.mark.parametrize("value", ["nan", "inf", "1e999"])
def test_a_result_that_is_no_number_is_refused(tree, value):
    edit(tree, ENTRY, "value: 93.0", f"value: {value}")
    assert any(re.search(r":\d+: `reported\[0\].value`: input should be a finite number", line) for line in errors())


def test_thousands_of_faults_of_one_file_are_told_in_time(tree):
    with (tree / ENTRY).open("a", encoding="utf-8") as file:
        file.writelines(f"domian{number}: x\n" for number in range(2_000))
    found = errors()
    assert len(found) == 101
    assert any("zhou2020pabee.yaml:1: the file has 1900 more faults; correct these first" in line for line in found)


def test_a_long_value_is_not_repeated_whole(tree):
    edit(tree, ENTRY, "role: early-exit", f"role: {'x' * 9000}")
    (line,) = errors()
    assert "`role` cannot be `xxxx" in line
    assert len(line) < 400


@pytest.mark.parametrize("character", ["\x1b", "\x9b", "\x07", "\u202e"])
def test_characters_that_act_on_a_terminal_are_reported(tree, character):
    edit(tree, ENTRY, "short_name: PABEE", f'short_name: "PA\\u{ord(character):04x}BEE"')
    edit(tree, BIB, "{DeeBERT}: Dynamic", f"{{DeeBERT}}: Dyna{character}mic")
    edit(tree, BIB, "@inproceedings{zhou2020pabee,", f"@inproceedings{{zhou2020pabee,\n  note = {{{character}}},")
    for file in (CITATIONS, LISTS):
        edit(tree, file, " ", f" {character}")
    said = "\n".join(errors())
    told = f"the character U+{ord(character):04X} cannot be seen and may act on a terminal; remove it"
    assert f"zhou2020pabee.yaml:2: {told}" in said
    assert re.search(rf"early-exit.bib:\d+: in title of `xin2020deebert`, {re.escape(told)}", said)
    assert re.search(rf"early-exit.bib:\d+: in note of `zhou2020pabee`, {re.escape(told)}", said)
    assert re.search(rf"citations.csv:\d+: in the evidence of `\w+` → `\w+`, {re.escape(told)}", said)
    assert re.search(rf"reference-lists.csv:\d+: in the source of the list of `\w+`, {re.escape(told)}", said)


def test_all_problems_come_at_once(tree):
    edit(tree, ENTRY, "policy: [patience]", "policy: [patence]")
    edit(tree, ENTRY, "{field: relations,", "{field: nonsense,")
    edit(tree, "catalog/entries/xin2020deebert.yaml", "role: early-exit", "role: earlyexit")
    edit(tree, CITATIONS, "zhou2020pabee,kaya2019sdn", "zhou2020pabe,kaya2019sdn")
    edit(tree, TAXONOMY, "broader: agreement", "broader: agrement")
    said = "\n".join(errors())
    assert all(word in said for word in ("patence", "nonsense", "earlyexit", "zhou2020pabe`", "agrement"))


def test_a_truncated_entry_is_noticed_wherever_it_breaks_off(tree):
    path = tree / ENTRY
    whole = path.read_text(encoding="utf-8")
    for share in range(0, 90, 10):
        path.write_text(whole[: len(whole) * share // 100], encoding="utf-8")
        assert any("zhou2020pabee.yaml:" in line for line in errors()), f"cut after {share} %"


def test_a_missing_entry_and_a_missing_record(tree):
    (tree / ENTRY).unlink()
    (tree / "methods/papers/zhou2020pabee.py").unlink(missing_ok=True)
    found = [line for line in errors() if "taxonomy" not in line]
    assert len(found) == 1
    assert re.search(r"early-exit.bib:\d+: `zhou2020pabee` has no entry; write entries/zhou2020pabee.yaml", found[0])


def test_a_broken_record_is_not_also_called_missing(tree):
    edit(tree, BIB, "@inproceedings{zhou2020pabee,\n  author = {", "@inproceedings{zhou2020pabee,\n  author = ")
    (line,) = errors()
    assert re.search(r"early-exit.bib:\d+: the record `zhou2020pabee`", line)


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (BIB, "@inproceedings{zhou2020pabee,", "inproceedings{zhou2020pabee,", r"early-exit.bib:\d+: the record `zhou2020pabee` has lost its `@`"),
        (BIB, "@inproceedings{zhou2020pabee,", "@inproceedings{zhou2020pabee", r"early-exit.bib:\d+: a comma is missing after the key `zhou2020pabee`; add it"),
        (BIB, "@inproceedings{zhou2020pabee,", "@comment{", r"zhou2020pabee.yaml:1: `zhou2020pabee` is not in early-exit.bib; add it"),
        (ENTRY, "policy: [patience]", "policy: [patience", r"not valid YAML|breaks off here"),
    ],
)  # fmt: skip
def test_a_cause_is_said_once_and_its_consequences_are_not(tree, file, old, new, said):
    """PABEE is cited and related to by dozens of others, none of which is wrong."""
    edit(tree, file, old, new)
    (line,) = errors()
    assert re.search(said, line)


def test_a_bibliography_that_cannot_be_read_is_one_error(tree):
    (tree / BIB).unlink()
    (line,) = errors()
    assert re.search(r"early-exit.bib:1: the bibliography cannot be read", line)


def test_a_new_work_that_is_both_invalid_and_without_record_is_told_both(tree):
    (tree / "catalog/entries/smith2027lazy.yaml").write_text("key: smith2027lazy\ndomain: []\n", encoding="utf-8")
    (tree / "catalog/entries/smith2027idle.yaml").write_text("key: [", encoding="utf-8")
    said = "\n".join(errors())
    assert "smith2027lazy.yaml:1: `smith2027lazy` is not in early-exit.bib; add it" in said
    assert "smith2027lazy.yaml:2: `domain` is empty" in said
    assert "smith2027idle.yaml:1: `smith2027idle` is not in early-exit.bib; add it" in said


def test_two_files_with_one_key(tree):
    (tree / "catalog/entries/again.yaml").write_text((tree / ENTRY).read_text(encoding="utf-8"), encoding="utf-8")
    assert any("make them the same" in line for line in errors())


def test_two_works_of_other_authors_may_have_one_title(tree):
    edit(
        tree,
        BIB,
        "{DeeBERT}: Dynamic Early Exiting",
        "{BERT} Loses Patience: Fast and Robust Inference with Early Exit}, note = {",
    )
    assert not any("has the same title as" in line for line in errors())  # by other authors


def test_the_work_that_is_added_is_sound_too(methodless):
    assert errors() == []
    assert [line for line in warnings() if methodless in line] == []


def test_implementations_and_files_go_together(tree, methodless):
    (tree / f"methods/papers/{methodless}.py").touch()
    (tree / "methods/papers/zhou2020pabee.py").unlink()
    (tree / "methods/papers/nobody2020knows.py").touch()
    said = "\n".join(errors())
    assert f"{methodless}.yaml:1: methods/papers/{methodless}.py exists; say in `implementation`" in said
    assert "methods/papers/zhou2020pabee.py does not exist" in said
    assert "the method `nobody2020knows` has no entry" in said


def test_a_broader_term_beside_a_narrower_one_is_a_warning(tree):
    edit(tree, ENTRY, "policy: [patience]", "policy: [patience, agreement]")
    assert errors() == []
    assert any("`agreement` is implied by `patience`" in line for line in warnings())


def test_citing_a_younger_work_is_a_warning(tree):
    with (tree / CITATIONS).open("a", encoding="utf-8") as file:
        file.write("cambazoglu2010early,zhou2020pabee,made up,bibliography\n")
        file.write("park2015biglittle,zhou2020pabee,made up,baseline-comparison\n")
    assert errors() == []
    (line,) = [line for line in warnings() if "citations.csv" in line]
    assert "`cambazoglu2010early` (2010) cites `zhou2020pabee` (2020), which is younger" in line


def test_one_seed_line_belongs_to_one_work(tree):
    edit(tree, "catalog/entries/xin2020deebert.yaml", "lines: [", "lines: [27, ")
    assert any("line 27 of the seed list is also claimed by" in line for line in errors())


def test_the_command_leaves_with_3_for_errors_only(tree, eelit):
    assert eelit("check").exit_code == 0
    edit(tree, ENTRY, "policy: [patience]", "policy: [patience, agreement]")
    assert eelit("check").exit_code == 0
    edit(tree, ENTRY, "[patience, agreement]", "[patence]")
    found = eelit("check")
    assert found.exit_code == 3
    assert "zhou2020pabee.yaml:7: unknown policy term `patence`" in found.stdout
    assert "errors" in found.stderr


def named(found):
    """Return the names of the files that a report blames."""
    return [Path(line.partition(":")[0]).name for line in found.stdout.splitlines()]


def test_the_report_can_be_limited_to_some_works(tree, eelit):
    edit(tree, ENTRY, "policy: [patience]", "policy: [patence]")
    edit(tree, BIB, "eprint = {2004.12993}", "eprint = {2004.12x}")  # xin2020deebert's
    edit(tree, CITATIONS, "zhou2020pabee,kaya2019sdn", "zhou2020pabee,kaya2019nobody")
    for name in ("zhou2020pabee", "ZHOU2020PABEE"):
        found = eelit("check", name)
        assert found.exit_code == 3
        assert named(found) == [
            "citations.csv",
            "zhou2020pabee.yaml",
        ]
    found = eelit("check", "xin2020deebert")
    assert found.exit_code == 3
    assert named(found) == ["early-exit.bib"]
    assert len(eelit("check", "zhou2020pabee", "DeeBERT").stdout.splitlines()) == 3
    found = eelit("check", "skipnet")
    assert (found.exit_code, found.stdout) == (0, "")
    assert "nothing is wrong with skipnet" in found.stderr


def test_a_work_is_checked_that_a_broken_file_hides(tree, eelit):
    (tree / BIB).unlink()
    found = eelit("check", "zhou2020pabee")
    assert found.exit_code == 3
    assert "the bibliography cannot be read" in found.stdout


def test_an_empty_bibliography_blames_no_entry(tree):
    (tree / BIB).write_text("", encoding="utf-8")
    (line,) = errors()
    assert re.search(r"early-exit.bib:1: the file is empty", line)


RECORD = "\n@misc{{{key},\n  author = {{Doe, Jo}},\n  title = {{On {key}}},\n  year = {{2020}}{more}\n}}\n"


def add(tree, key, more=""):
    with (tree / BIB).open("a", encoding="utf-8") as file:
        file.write(RECORD.format(key=key, more=more))


@pytest.mark.parametrize(
    ("key", "advice"),
    [
        ("Doe2020Lazy", "rename it to `doe2020lazy`"),
        ("DBLP:conf/nips/Doe20", "surname, year and a word"),
        ("größe2020x", "rename it"),
        ("doe2020", "surname, year and a word"),
    ],
)
def test_no_key_is_advised_that_the_command_would_refuse(tree, eelit, key, advice):
    add(tree, key)
    (line,) = errors()
    assert re.search(r"early-exit.bib:\d+: `" + key, line)
    assert advice in line
    assert "eelit new" not in line


def test_no_key_is_advised_that_another_work_has(tree):
    for key in ("Doe2020Lazy", "DOE2020lazy", "Zhou2020PABEE"):
        add(tree, key)
    advised = re.findall("rename it to `(.+)`", "\n".join(errors()))
    assert advised == ["doe2020lazy", "doe2020lazy2", "zhou2020pabee2"]


def test_a_key_that_is_advised_is_taken(tree, eelit):
    add(tree, "doe2020lazy")
    (line,) = errors()
    advised = re.search(r"`eelit new (\S+)` starts it", line)[1]
    assert eelit("new", advised).exit_code == 0
    assert eelit("new", "doe2020none", "--family", "other").exit_code == 0
    compile((tree / "methods/papers/doe2020none.py").read_text(encoding="utf-8"), "doe2020none.py", "exec")


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("journal = {arXiv preprint arXiv:2006.04152}", "has the same arXiv id as `zhou2020pabee`"),
        ("eprint = {2006.04152}", "has the same arXiv id as `zhou2020pabee`"),
        ("doi = {10.48550/arXiv.2006.04152}", "has the same arXiv id as `zhou2020pabee`"),
        ("doi = {10.1000/a&lt;b}", "is not a valid DOI; a DOI starts with `10.`"),
    ],
)
def test_a_duplicate_is_found_wherever_its_identifier_stands(tree, field, said):
    add(tree, "doe2020again", f",\n  {field}")
    assert any(said in line for line in errors())


def test_an_old_doi_is_sound(tree):
    add(tree, "doe2020sici", ",\n  doi = {10.1002/(SICI)1097-4571(199009)41:6<391::AID-ASI1>3.0.CO;2-9}")
    assert not any("DOI" in line for line in errors())


def test_what_is_only_doubtful_does_not_stop_the_build(tree, eelit):
    edit(tree, BIB, "title = {{BERT} Loses", "title = {{BERT} \\frobnicates Loses")
    edit(tree, BIB, "pages = {18330--18341}", "pages = {18330-18341}")
    assert errors() == []
    assert [line.partition(": ")[2][:8] for line in warnings() if "early-exit.bib" in line] == ["warning:"] * 2
    assert eelit("build").exit_code == 0
    record = json.loads(eelit("show", "pabee", "--format", "json").stdout)["record"]
    assert (record["pages"], record["title"][:10]) == ("18330–18341", "BERT Loses")


def test_a_reference_list_of_nobody_is_told(tree):
    edit(tree, "bib/reference-lists.csv", "xin2020deebert,", "xin2020deebret,")
    (line,) = errors()
    assert re.search(r"reference-lists.csv:\d+: unknown key `xin2020deebret`; did you mean `xin2020deebert`", line)


def test_a_work_that_nobody_knows_cannot_be_checked(tree, eelit):
    found = eelit("check", "zhou2020pabe")
    assert found.exit_code == 2
    assert "no work has the key `zhou2020pabe`; did you mean `zhou2020pabee`" in found.stderr
