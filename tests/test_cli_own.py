"""`eelit compare --logits`, `calibrate`, `advise` and `export`: what they print, write and refuse."""

import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
from stored import made

from eelit.methods.own.saved import SavedRule, load_rule
from eelit.methods.policies.max_confidence import MaxConfidence


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    z, y = made(4, 600, 5)
    path = tmp_path_factory.mktemp("own") / "logits.npz"
    np.savez(path, logits=z, labels=y, costs=[1.0, 2, 3, 4], unit="GMACs")
    return path


FEW = ("--settings", "8")


def test_compare_sets_policies_side_by_side(eelit, file, tmp_path):
    found = eelit("compare", "--logits", file, *FEW, "--out", tmp_path / "report.html")
    assert found.exit_code == 0, found.stderr
    assert "The full model: accuracy" in " ".join(found.stdout.split())
    for name in ("max-confidence", "patience", "(oracle)", "(static)", "(random)", "struck out: "):
        assert name in found.stdout
    assert found.stderr.splitlines()[-1] == f"eelit: wrote {tmp_path / 'report.html'}"
    page = (tmp_path / "report.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<svg" in page
    assert not re.search(r"<script|<link|<img|@import|url\(http", page)
    assert page.count("<details>") == page.count("</details>") > 10
    again = eelit("compare", "--logits", file, *FEW, "--out", tmp_path / "again.html")
    assert again.exit_code == 0
    assert (tmp_path / "again.html").read_text() == page


def test_compare_in_json_and_as_a_picture(eelit, file, tmp_path):
    picture = tmp_path / "a.png"
    words = ("compare", "--logits", file, "--format", "json", *FEW, "--policy", "entropy", "--policy", "patience")
    found = eelit(*words, "--out", picture)
    told = json.loads(found.stdout)
    assert [line["name"] for line in told["lines"]] == ["entropy", "patience"]
    assert told["unit"] == "GMACs"
    assert set(told["left_out"]) > {"DontKnow"}
    assert picture.read_bytes().startswith(b"\x89PNG")
    (line,) = (line for line in told["lines"] if line["name"] == "patience")
    assert [point["settings"]["patience"] for point in line["points"]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["compare"], 2, "name the methods to compare, or give --logits"),
        (["compare", "pabee", "--logits", "FILE"], 2, "with --logits name policies by --policy"),
        (["compare", "--track", "text", "--logits", "FILE"], 2, "give either --track or --logits"),
        (["compare", "pabee", "--labels", "FILE"], 2, "--labels goes with --logits"),
        (["compare", "pabee", "--plain-costs", "1,2"], 2, "--plain-costs goes with --logits"),
        (["compare", "--logits", "FILE", "--policy", "nobody"], 2, "`nobody` is not known"),
        (["compare", "--logits", "FILE", "--out", "a.txt"], 2, "choose a file ending in .svg, .png or .html"),
        (["compare", "--logits", "none.npz"], 2, "none.npz cannot be read (no such file or directory)"),
        (["compare", "--logits", "FILE", "--costs", "1,2"], 3, "one number per exit, [4]"),
        (["compare", "--logits", "FILE", "--costs", "x"], 2, "--costs takes numbers such as 1,2,3 or a file"),
        (["compare", "--logits", "FILE", "--labels", "none.npy"], 2, "none.npy cannot be read"),
        (["calibrate", "--logits", "FILE"], 2, "exactly one of --budget, --max-drop"),
        (["calibrate", "--logits", "FILE", "--budget", "0.5", "--reject", "0.1"], 2, "exactly one of --budget"),
        (["calibrate", "--logits", "FILE", "--risk", "0.1"], 2, "go together"),
        (["calibrate", "--logits", "FILE", "--budget", "nan"], 2, "not nan"),
        (["calibrate", "--logits", "FILE", "--budget", "0.1"], 1, "25.0% is the least that can be promised"),
        (["calibrate", "--budget", "0.5"], 2, "--logits"),
        (["advise"], 2, "--logits"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_one_sentence(eelit, file, monkeypatch, tmp_path, words, code, said):
    monkeypatch.chdir(tmp_path)
    found = eelit(*[file if word == "FILE" else word for word in words])
    assert found.exit_code == code, found.stderr
    assert said in found.stderr
    assert found.stdout == ""
    assert "Traceback" not in found.stderr
    assert list(tmp_path.iterdir()) == []


def test_few_samples_and_wrong_labels_are_invalid_data(eelit, tmp_path):
    z, y = made(3, 12, 4)
    np.savez(tmp_path / "few.npz", logits=z, labels=y)
    np.savez(tmp_path / "wrong.npz", logits=z, labels=y + 1)
    for name, said in (("few", "12 samples, and at least 20"), ("wrong", "classes are whole numbers from 0 to 3")):
        for command in (["compare"], ["advise"], ["calibrate", "--budget", "0.5"]):
            found = eelit(*command, "--logits", tmp_path / f"{name}.npz")
            assert found.exit_code == 3
            assert said in found.stderr


def test_what_may_be_logits_or_probabilities_is_asked_for(eelit, tmp_path):
    z, y = made(3, 200, 4)
    apart = 1 / (1 + np.exp(-z))
    np.savez(tmp_path / "z.npz", z=apart, labels=y)
    for command in (["compare"], ["advise"], ["calibrate", "--budget", "0.6", "--out", tmp_path / "rule.json"]):
        words = (*command, "--logits", tmp_path / "z.npz", *FEW)
        found = eelit(*words)
        assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (3, "", 1)
        assert "may be probabilities or logits" in found.stderr
        found = eelit(*words, "--kind", "logits")
        assert found.exit_code == 0, found.stderr


def test_all_three_say_what_the_outputs_were_read_as(eelit, tmp_path):
    z, y = made(3, 200, 4)
    np.savez(tmp_path / "z.npz", logits=z.transpose(1, 0, 2), labels=y, names=np.arange(200))
    out = tmp_path / "rule.json"
    for command in (["compare"], ["advise"], ["calibrate", "--budget", "0.6", "--out", out]):
        found = eelit(*command, "--logits", tmp_path / "z.npz", *FEW)
        said = " ".join(found.stdout.split()).lower()
        assert "read as logits: 3 exits, 200 samples, 4 classes; axes `nec`, by the number of labels." in said
        assert found.stderr.splitlines()[0].endswith(
            "z.npz holds `names` [200], which means nothing here and is not read"
        )
        told = json.loads(eelit(*command, "--logits", tmp_path / "z.npz", *FEW, "--format", "json").stdout)
        assert "axes `nec`" in told.get("data", told)["as_read"]


def test_calibrate_writes_a_rule_that_is_read_again(eelit, file, tmp_path):
    out = tmp_path / "rule.json"
    found = eelit("calibrate", "--logits", file, "--mean-risk", "0.05", *FEW, "--out", out)
    assert found.exit_code == 0, found.stderr
    assert "conformal risk control" in found.stdout
    assert "Promised with proof." in found.stdout
    assert "on which the setting was tested and accepted" in " ".join(found.stdout.split())
    measured = eelit("calibrate", "--logits", file, "--budget", "0.6", *FEW, "--out", tmp_path / "measured.json").stdout
    assert "samples not used for choosing" in " ".join(measured.split())
    rule = load_rule(out)
    assert rule.promise["unit"] == "GMACs"
    assert (rule.promise["goal"], rule.promise["value"]) == ("mean_risk", 0.05)
    printed = eelit("calibrate", "--logits", file, "--mean-risk", "0.05", *FEW, "--out", out, "--format", "json").stdout
    assert json.loads(printed) == json.loads(out.read_text())


def test_a_goal_that_is_missed_is_not_written_unless_asked_for(eelit, tmp_path):
    """Half of the samples, whichever they are, have a better first exit; so what is chosen on it is missed."""
    from eelit.methods.own.curves import halves
    from eelit.methods.own.logits import Logits

    z, y = made(3, 600, 4)
    z[:] = 8 * np.eye(4)[y]
    telling = halves(Logits(z, y)).telling
    z[0, telling[:60]] = 8 * np.eye(4)[(y[telling[:60]] + 1) % 4]
    np.savez(tmp_path / "z.npz", logits=z, labels=y)
    words = ("calibrate", "--logits", tmp_path / "z.npz", "--max-drop", "0.01", *FEW, "--out", tmp_path / "rule.json")
    found = eelit(*words)
    assert (found.exit_code, found.stdout) == (1, "")
    said = " ".join(found.stderr.split())
    assert "misses the goal on the other by more than two standard errors: the drop is 0.2000 ± 0.0231 there" in said
    assert "it keeps --max-drop 0.2463" in said
    assert not (tmp_path / "rule.json").exists()
    found = eelit(*words, "--anyway")
    assert found.exit_code == 0
    assert "Not proved; MISSED there by more than two standard errors." in found.stdout
    assert not load_rule(tmp_path / "rule.json").budget_met_
    assert "where the rule was chosen" in found.stdout.splitlines()[0]


def test_what_is_proved_of_refusals_is_said(eelit, file, tmp_path):
    found = eelit("calibrate", "--logits", file, "--reject", "0.1", *FEW, "--out", tmp_path / "rule.json")
    assert found.exit_code == 0, found.stderr
    assert "Promised with proof." not in found.stdout
    said = " ".join(found.stdout.split())
    assert "with proof is the share that is refused. That of the others no fewer are right is not proved; met" in said
    measured = load_rule(tmp_path / "rule.json").promise["measured"]
    fewer = f"({measured['drop_of_answered']:.4f} ± {measured['drop_of_answered_error']:.4f} fewer)"
    assert f"beside {measured['full_quality_of_answered']:.4f} by the full model that refuses as many {fewer}" in said


@pytest.mark.parametrize(
    ("by", "how"),
    [
        (-0.01, "met there as measured."),
        (0.0, "met there as measured."),
        (0.01, "met there within two standard errors, not as measured."),
        (0.03, "MISSED there by more than two standard errors."),
    ],
)
def test_a_goal_is_met_as_measured_or_within_two_standard_errors(by, how):
    """The same halves of a sentence for each goal, from what the rule keeps."""
    from eelit.cli.calibrate import _standing
    from eelit.methods.own import calibrate as calibrating
    from eelit.methods.own.logits import Logits

    z, y = made(3, 200, 4)
    scores = calibrating.Scores(Logits(z, y))
    task = calibrating._task(scores, "static", "drop", 0, 4, lambda message, share: None)
    rule = calibrating._made(task, [(1.0, task.found[0])], "max_drop", 0.02, "", [], over=lambda m: (by, 0.012))
    assert _standing(rule) == f"Not proved; {how}"
    assert (rule.budget_met_, rule.promise["as_measured"]) == (by < 0.03, by <= 0)


def test_exits_are_counted_from_1_in_what_people_read(eelit, file, tmp_path):
    """A fixed exit is asked where it stops, and at the last."""
    words = ("calibrate", "--logits", file, *FEW, "--policy", "static", "--out", tmp_path / "rule.json")
    found = eelit(*words, "--budget", "0.5")
    assert "FixedExit, exit 2" in found.stdout
    assert "exits in use: 2, 4 of 4" in found.stdout
    assert load_rule(tmp_path / "rule.json").parts[0][1].exit == 1
    eelit("compare", "--logits", file, *FEW, "--policy", "static", "--out", tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert [f"<td>exit {e}</td>" in page for e in range(6)] == [False, True, True, True, True, False]


def test_alternatives_come_with_their_settings_and_tests(eelit, file, tmp_path):
    words = ("calibrate", "--logits", file, *FEW, "--policy", "patience", "--out", tmp_path / "rule.json")
    found = eelit(*words, "--risk", "0.3", "--delta", "0.1").stdout
    header, *rows = found.partition("ALTERNATIVES\n")[2].splitlines()
    assert header.split()[-4:] == ["loss", "p-value", "proved", "settings"]
    (chosen,) = (row for row in rows if row.startswith("chosen"))
    assert re.search(r"yes +patience \d", chosen)
    assert len(rows) > 1


def test_a_rule_that_cannot_be_written_is_said_so(eelit, file, tmp_path):
    (tmp_path / "rule.json").mkdir()
    found = eelit("calibrate", "--logits", file, "--budget", "0.6", *FEW, "--out", tmp_path / "rule.json")
    assert found.exit_code == 5
    assert "cannot be written" in found.stderr
    assert os.listdir(tmp_path) == ["rule.json"]


def test_advise_gives_a_verdict_and_its_reason(eelit, file):
    found = eelit("advise", "--logits", file, *FEW)
    assert found.exit_code == 0, found.stderr
    assert found.stdout.startswith("WORTH IT")
    for part in ("oracle: saved", "calibration error", "in batches of 8", "heads"):
        assert part in found.stdout
    told = json.loads(eelit("advise", "--logits", file, *FEW, "--format", "json").stdout)
    assert told["worth_it"] is True
    assert len(told["exits"]) == 4


def test_a_measured_loss_is_not_headed_no_loss(eelit):
    """What lost nothing on one half loses 0.0133 on the other, which is told beside it."""
    printed = " ".join(eelit("advise", "--logits", "example:text").stdout.split())
    assert re.search(r"no loss on the choosing half: saved [\d.]+% by \S+ \(drop on the other half 0\.01", printed)
    assert "best policy, no loss" not in printed


def test_what_is_not_finite_is_said_by_all_three(eelit, tmp_path):
    z, y = made(4, 600, 5)
    z[1, :7] = np.inf
    np.savez(tmp_path / "z.npz", logits=z, labels=y)
    out = ("--out", tmp_path / "rule.json")
    for words in (["compare"], ["advise"], ["calibrate", "--budget", "0.6", *out]):
        found = eelit(*words, "--logits", tmp_path / "z.npz", *FEW)
        assert found.exit_code == 0, found.stderr
        said = " ".join(found.stdout.split())
        assert "Of 7 samples some exit says what is not finite; nobody stops by it." in said


def test_tables_of_other_programs_get_a_hint(eelit, tmp_path):
    (tmp_path / "a.csv").write_text("sample;exit;z0;z1\n0;0;1,5;2\n")
    (tmp_path / "b.csv").write_text("sample,exit,z0,z1\n\n")
    for name, said in (("a", "columns apart by semicolons; write commas"), ("b", "no line below them")):
        found = eelit("advise", "--logits", tmp_path / f"{name}.csv")
        assert (found.exit_code, said in found.stderr, found.stderr.count("\n")) == (3, True, 1), found.stderr


def test_labels_and_costs_may_lie_elsewhere(eelit, tmp_path):
    z, y = made(4, 200, 5)
    np.save(tmp_path / "z.npy", z.transpose(1, 0, 2))
    np.save(tmp_path / "y.npy", y)
    (tmp_path / "costs.txt").write_text("1\n2\n3\n4\n")
    words = [
        "advise",
        "--logits",
        tmp_path / "z.npy",
        "--labels",
        tmp_path / "y.npy",
        "--unit",
        "ms",
        "--format",
        "json",
    ]
    told = [json.loads(eelit(*words, *FEW, "--costs", costs).stdout) for costs in ("1,2,3,4", tmp_path / "costs.txt")]
    assert told[0] == told[1]
    assert told[0]["unit"] == "ms"
    assert told[0]["heads_share"] is None
    plain = json.loads(eelit(*words, *FEW, "--costs", "1,2,3,4", "--plain-costs", "1,1.8,2.6,3.2").stdout)
    assert plain["heads_share"] == pytest.approx(4 / 3.2 - 1)
    samples = plain["samples"]
    np.savetxt(tmp_path / "groups.txt", np.arange(samples) // 2, fmt="%d")
    paired = json.loads(eelit(*words, *FEW, "--groups", tmp_path / "groups.txt").stdout)
    assert (plain["groups"], paired["groups"]) == (None, (samples + 1) // 2)
    text = eelit(*words[:-2], *FEW, "--groups", tmp_path / "groups.txt").stdout
    assert f"{samples} in {paired['groups']} groups; groups are taken as independent" in text
    assert f"{samples}, taken as independent of each other" in eelit(*words[:-2], *FEW).stdout


def test_no_torch_is_needed(file, tmp_path):
    program = """
import sys
class Refuses:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("torch", "transformers", "sklearn", "pydantic", "pandas"):
            raise ImportError(f"{name} is not to be imported")
sys.meta_path.insert(0, Refuses())
from eelit.cli.main import main
main()
"""
    for words in (["compare"], ["calibrate", "--budget", "0.6", "--out", "r.json"], ["advise"]):
        command = [sys.executable, "-c", program, *words, "--logits", str(file), *FEW]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


# A network that is kept


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    from test_own_attach import bert, texts

    from eelit.methods.own.attach import attach

    place = tmp_path_factory.mktemp("kept")
    network, batch = attach(bert(), [2]), texts()
    network.save(place / "network")
    np.savez(place / "example.npz", **{name: part.numpy() for name, part in batch.items()})
    return place, network, batch


def test_a_kept_network_is_exported_and_the_loop_that_is_printed_runs_it(eelit, network, tmp_path):
    pytest.importorskip("onnxruntime")
    place, made_of, batch = network
    found = eelit("export", place / "network", "--inputs", place / "example.npz", "--out", tmp_path / "onnx")
    assert found.exit_code == 0, found.stderr
    assert found.stderr.splitlines()[-1] == f"eelit: wrote {tmp_path / 'onnx'}"
    assert found.stdout.startswith(f"# python loop.py {tmp_path / 'onnx'} inputs.npz rule.json; stages.json names")
    assert eelit("export", tmp_path / "onnx").stdout == found.stdout
    again = eelit("export", tmp_path / "onnx", "--out", tmp_path / "more")
    assert (again.exit_code, "holds ONNX files already" in again.stderr) == (2, True)

    sure = made_of.model(batch).detach()[0].softmax(dim=-1).amax(dim=-1).sort().values
    policy = MaxConfidence(float(sure[1] + sure[2]) / 2)
    rule = SavedRule("max-confidence", ((1.0, policy),), 2, (0, 1), 3, "logits")
    rule.save(tmp_path / "rule.json")
    (tmp_path / "loop.py").write_text(found.stdout)
    words = ["loop.py", "onnx", place / "example.npz", "rule.json"]
    done = subprocess.run([sys.executable, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, wanted = json.loads(done.stdout), made_of.infer(batch, rule)
    assert told["exits"] == wanted.exits.tolist()
    assert set(told["exits"]) == {0, 1}
    np.testing.assert_allclose(told["answers"], wanted.answers.numpy(), rtol=1e-3, atol=1e-4)
    assert told["rejected"] == [False] * len(told["exits"])


def test_the_loop_that_is_printed_names_nothing_that_it_does_not_define(network, tmp_path):
    """Also in annotations, which Python itself does not look at."""
    from typing import get_type_hints

    from eelit.methods.own import deployed

    names = {}
    exec(compile(deployed.loop().rpartition("exits, answers, rejected = ")[0], "loop.py", "exec"), names)
    assert set(get_type_hints(names["run"], names)) == {"stages", "inputs", "rule", "return"}
    assert get_type_hints(names["stages_in"], names)


def test_a_light_installation_is_told_the_extra_that_it_lacks(eelit, network, tmp_path, monkeypatch):
    from eelit.catalog import extras

    place, find = network[0], extras.find_spec
    for name, extra in (("torch", "run"), ("onnxruntime", "onnx")):
        monkeypatch.setattr(extras, "find_spec", lambda each, name=name: None if each == name else find(each))
        found = eelit("export", place / "network", "--inputs", place / "example.npz", "--out", tmp_path / "onnx")
        assert (found.exit_code, found.stdout) == (2, "")
        assert found.stderr.endswith(f"{name} is needed for this and not installed: pip install 'eelit[{extra}]'\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["network"], 2, "give an example by --inputs, and by --out where the files shall be"),
        (["nowhere", "--inputs", "example.npz", "--out", "onnx"], 2, "cannot be read (no such file or directory)"),
        (["network", "--inputs", "none.npz", "--out", "onnx"], 2, "none.npz cannot be read"),
        (["network", "--inputs", "one.npz", "--out", "onnx"], 3, "the example is of two samples at least"),
        (["network", "--inputs", "network/network.json", "--out", "onnx"], 3, "pickled"),
    ],
)
def test_what_cannot_be_exported_is_said_in_one_sentence(eelit, network, monkeypatch, words, code, said):
    place, _, batch = network
    monkeypatch.chdir(place)
    np.savez("one.npz", **{name: part[:1].numpy() for name, part in batch.items()})
    found = eelit("export", *words)
    assert (found.exit_code, said in found.stderr) == (code, True), found.stderr
