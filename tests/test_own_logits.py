"""What all exits said, from arrays and files: told apart, checked, refused in one sentence."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors
from stored import made

from eelit.methods.own import files
from eelit.methods.own.logits import Logits, WrongLogits
from eelit.methods.own.scores import Scores


@pytest.fixture(scope="module")
def outputs():
    return made(4, 60, 5)


def one_sentence(error):
    text = str(error.value)
    assert "\n" not in text
    assert len(text) < 400
    assert not text.endswith(".")
    return text


def test_axes_are_told_by_labels_costs_or_sizes(outputs):
    z, y = outputs
    first = z.transpose(1, 0, 2)
    for given in ({"labels": y}, {"costs": [1, 2, 3, 4]}, {}, {"axes": "nec"}):
        found = Logits(first, **given)
        assert (found.exits, found.samples, found.classes) == (4, 60, 5)
        assert (found.z == z).all()
    assert Logits(z, y).exits == 4
    few = z[:, :3]  # more exits than samples: the labels tell
    assert Logits(few, y[:3]).samples == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda z, y: {"labels": y[:-1]}, "fit 59 labels"),
        (lambda z, y: {"labels": y[:-1], "axes": "enc"}, "59 labels for 60 samples"),
        (lambda z, y: {"labels": y + 1}, "counted from 1"),
        (lambda z, y: {"labels": y + 0.5}, "whole numbers from 0 to 4"),
        (lambda z, y: {"labels": np.where(np.arange(60) == 3, np.nan, y)}, "label 3 is nan"),
        (lambda z, y: {"labels": np.array(["a"] * 60)}, "labels are numbers"),
        (lambda z, y: {"labels": y, "costs": [1, 3, 2, 4]}, "exit 3 costs less than exit 2"),
        (lambda z, y: {"labels": y, "costs": [0, 1, 2, 3]}, "above 0"),
        (lambda z, y: {"labels": y, "costs": [1, 2, np.inf, 3]}, "finite"),
        (lambda z, y: {"labels": y, "costs": [1, 2, 3], "axes": "enc"}, "one number per exit, [4]"),
        (lambda z, y: {"labels": y, "plain_costs": np.ones((4, 60))}, "plain_costs are one number per exit"),
        (lambda z, y: {"labels": y, "kind": "scores"}, "kind is one of"),
        (lambda z, y: {"labels": y, "kind": "values"}, "two axes"),
        (lambda z, y: {"labels": y, "axes": "en"}, "one of `enc`, `nec`"),
        (lambda z, y: {"labels": y, "groups": [1, 2]}, "2 groups named for 60 samples"),
        (lambda z, y: {"labels": y, "lengths": [30, 29]}, "sum is that of the samples, 60"),
        (lambda z, y: {"labels": y, "lengths": [60], "groups": y}, "say the same"),
        (lambda z, y: {"labels": y, "extra": {"gate": np.ones((3, 60))}}, "`gate` is of [3, 60]"),
        (lambda z, y: {"z": z[..., None]}, "tokens of all texts one after the other"),
        (lambda z, y: {"z": z[:0], "axes": "enc"}, "there are no outputs"),
        (lambda z, y: {"exits": 5}, "outputs [4, 60, 5] have 4 exits, not 5"),
        (lambda z, y: {"exits": 60, "axes": "enc"}, "have 4 exits, not 60"),
        (lambda z, y: {"z": z[:, :4]}, "say which with axes"),
        (lambda z, y: {"z": z[..., :1], "labels": y}, "one number per sample and exit"),
        (lambda z, y: {"z": z.astype(complex)}, "real numbers"),
        (lambda z, y: {"z": [[[1, 2], [3]]]}, "each row as long as the others"),
        (lambda z, y: {"z": np.array([[{}]])}, "array of objects"),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(outputs, change, said):
    z, y = outputs
    with pytest.raises(WrongLogits) as error:
        Logits(**{"z": z, **change(z, y)})
    assert said in one_sentence(error)


def test_probabilities_are_told_from_logits_and_checked(outputs):
    z, y = outputs
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    assert Logits(p, y).kind == "probabilities"
    assert Logits(z, y).kind == "logits"
    ours, theirs = Scores(Logits(p, y)), Scores(Logits(z, y))
    assert np.allclose(ours.confidence, theirs.confidence, atol=1e-6)
    assert np.allclose(ours.entropy, theirs.entropy, atol=1e-5)
    wrong = p.copy()
    wrong[2, 7] = [0.5, 0.5, 0.5, 0, 0]
    with pytest.raises(WrongLogits, match=r"exit 3 says of sample 7 are no probabilities: they sum to 1\.5"):
        Scores(Logits(wrong, y, kind="probabilities")).entropy  # noqa: B018
    masked = np.zeros_like(p)
    masked[..., 0] = 1
    assert Scores(Logits(masked, y)).entropy.max() == 0


def test_numbers_that_may_be_either_are_asked_about(outputs):
    """All samples are looked at, in whatever precision, and rows of zeros say nothing."""
    z, y = outputs
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    apart = 0.6 * p  # as of classes told apart one by one: from 0 to 1, and no sum of 1
    for doubtful in (apart, apart.transpose(1, 0, 2), np.where(np.arange(60)[:, None] < 59, p, apart)):
        with pytest.raises(WrongLogits, match="say which with kind") as error:
            Logits(doubtful, y)
        assert "exit 1 says of sample" in one_sentence(error)
        assert Logits(doubtful, y, kind="logits").kind == "logits"
    half = torch.as_tensor(apart).bfloat16().view(torch.int16).numpy().astype(np.uint16)
    with pytest.raises(WrongLogits, match="0 of 240 rows sum to 1"):
        Logits(half, y, bfloat16=True)
    whole = torch.as_tensor(p).bfloat16().view(torch.int16).numpy().astype(np.uint16)
    assert Logits(whole, y, bfloat16=True).kind == "probabilities"
    zeros = np.where(np.arange(60)[:, None] % 7, p, 0)
    assert (Logits(zeros, y).kind, Logits(0 * z, y).kind) == ("probabilities", "logits")
    assert Logits(np.where(np.arange(60)[:, None] % 7, z, 0), y).kind == "logits"
    one = p.copy()
    one[3, 50] = [2, -1, 0, 0, 0]  # damaged: neither
    with pytest.raises(WrongLogits, match=r"239 of 240 rows sum to 1, but what exit 4 says of sample 50 is from -1 to"):
        Logits(one, y)


def test_all_samples_are_looked_at_piece_by_piece(outputs, monkeypatch):
    z, y = outputs
    p = np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    late = p.copy()
    late[2, 59] *= 0.5
    sizes = []
    wide = Logits._wide
    monkeypatch.setattr("eelit.methods.own.logits.LOOKED_AT", 4 * 5 * 7)
    monkeypatch.setattr(Logits, "_wide", lambda self, part: sizes.append(part.shape[1]) or wide(self, part))
    with pytest.raises(WrongLogits, match="exit 3 says of sample 59"):
        Logits(late, y)
    assert sizes == [7] * 8 + [4]
    sizes.clear()
    assert Logits(z, y).kind == "logits"
    assert sizes == [7]  # what is beyond 0 and 1 leaves no doubt


def test_what_outputs_were_taken_for_is_said(outputs):
    z, y = outputs
    assert Logits(z, y).as_read == (
        "Read as logits: 4 exits, 60 samples, 5 classes; axes `enc`, by the number of labels."
    )
    first = z.transpose(1, 0, 2)
    for given, by in (
        ({}, "the smaller one taken for the exits"),
        ({"axes": "nec"}, "as stated"),
        ({"costs": [1, 2, 3, 4]}, "by the number of costs"),
        ({"exits": 4, "labels": y}, "by the number of labels and exits"),
    ):
        assert Logits(first, **given).as_read.endswith(f"axes `nec`, {by}.")
    assert Logits(z[..., 0]).as_read.startswith("Read as values: 4 exits, 60 samples; axes `en`")
    assert Logits(z[:, :3], exits=4).samples == 3


def test_what_is_not_finite_is_reported_and_stops_nobody(outputs):
    z, y = (part.copy() for part in outputs)
    z[0, 3], z[2, 5, 1], z[3, 5] = np.nan, np.inf, -np.inf
    scores = Scores(Logits(z, y))
    assert scores.not_finite == 2
    assert scores.predicted[0, 3] == -1
    assert scores.gain[3, 5] == 0


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64, np.int64])
def test_scores_are_computed_in_float32_at_least(outputs, kind):
    z, y = outputs
    scores = Scores(Logits(z.astype(kind), y))
    assert scores.confidence.dtype == (np.float64 if kind in (np.float64, np.int64) else np.float32)


def test_tensors_are_taken_too_in_any_precision(outputs):
    z, y = outputs
    for kind in (torch.float32, torch.bfloat16, torch.float16):
        found = Logits(torch.as_tensor(z).to(kind), torch.as_tensor(y))
        assert np.allclose(found.read(1, 0, 60), z[1], atol=0.05)


def test_tokens_of_unequal_texts_stay_together(outputs):
    z, y = outputs
    parts = [z[:, :10], z[:, 10:11], z[:, 11:]]
    found = Logits.ragged(parts, [y[:10], y[10:11], y[11:]], costs=[1, 2, 3, 4])
    assert np.bincount(found.groups).tolist() == [10, 1, 49]
    assert (found.z == z).all()
    assert (Logits(z, y, lengths=[10, 0, 1, 49]).groups == np.repeat([0, 2, 3], [10, 1, 49])).all()
    with pytest.raises(WrongLogits, match="the same exits and classes"):
        Logits.ragged([z, z[:3]])


def test_values_have_a_share_of_variance_for_quality():
    y = np.arange(40.0)
    z = np.stack([np.full(40, 19.5), y + 1.0, y])
    scores = Scores(Logits(z, y, axes="en"))
    assert scores.quality_is == "R²"
    assert np.allclose(scores.gain.mean(axis=1), [0, 1 - 1 / np.var(y), 1])
    with pytest.raises(WrongLogits, match="same value"):
        Scores(Logits(z, np.ones(40), axes="en")).gain  # noqa: B018


def test_without_labels_the_last_exit_stands_for_the_truth(outputs):
    z, _ = outputs
    scores = Scores(Logits(z))
    assert scores.quality_is == "agreement with the last exit"
    assert scores.gain[-1].all()
    assert not scores.gain[0].all()


# Files


def written(folder, z, y):
    """Return files of each kind that say the same."""
    costs = np.array([1.0, 2.0, 3.0, 4.0])
    np.savez(folder / "stored.npz", logits=z, labels=y, costs=costs, unit="ms", gate=z[..., 0])
    np.savez_compressed(folder / "small.npz", logits=z, targets=y, costs=costs, unit="ms", gate=z[..., 0])
    save_file(
        {"logits": z, "labels": y, "costs": costs, "gate": z[..., 0].copy()}, folder / "a.safetensors", {"unit": "ms"}
    )
    lines = ["sample,exit,label,cost,gate,z0,z1,z2,z3,z4"]
    lines += [
        ",".join(map(str, [n, e, y[n], costs[e], z[e, n, 0], *z[e, n]])) for n in reversed(range(60)) for e in range(4)
    ]
    (folder / "a.csv").write_text("\n".join(lines))
    return ["stored.npz", "small.npz", "a.safetensors", "a.csv"]


def test_every_kind_of_file_says_the_same(outputs, tmp_path):
    z, y = outputs
    for name in written(tmp_path, z, y):
        found = files.read(tmp_path / name, unit="ms")
        assert np.allclose(found.z, z), name
        assert (found.labels == y).all(), name
        assert found.costs.tolist() == [1, 2, 3, 4], name
        assert (found.unit, found.kind, found.name) == ("ms", "logits", name)
        assert np.allclose(found.extra["gate"], z[..., 0]), name


def test_what_is_written_is_read_again(outputs, tmp_path):
    z, y = outputs
    ours = Logits(
        z,
        y,
        [1, 2, 3, 4],
        unit="ms",
        plain_costs=[1, 1.5, 2, 3],
        lengths=[20, 40],
        extra={"gate": z[..., :2], "s": z[..., 0]},
    )
    values = Logits(z[..., 0], z[-1, :, 0], axes="en")
    half = Logits((z.view(np.uint32) >> 16).astype(np.uint16), y, bfloat16=True)
    for data in (ours, values, half):
        files.write(data, tmp_path / "a.npz")
        again = files.read(tmp_path / "a.npz")
        for name in ("labels", "costs", "plain_costs", "groups"):
            assert np.array_equal(getattr(again, name), getattr(data, name)), name
        assert (again.kind, again.unit) == (data.kind, data.unit)
        assert (again.read(2, 3, 9) == data.read(2, 3, 9)).all()
        assert {name: part.tolist() for name, part in again.extra.items()} == {
            name: part.tolist() for name, part in data.extra.items()
        }
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]
    with pytest.raises(WrongLogits, match="another name"):
        files.write(Logits(z, y, extra={"labels": z[..., 0]}), tmp_path / "a.npz")
    with pytest.raises(WrongLogits, match="written as"):
        files.write(ours, tmp_path / "a.csv")


def test_parquet_is_read_by_pyarrow_or_said_to_need_it(outputs, tmp_path):
    z, y = outputs
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        (tmp_path / "a.parquet").write_bytes(b"PAR1")
        with pytest.raises(WrongLogits, match="pip install pyarrow"):
            files.read(tmp_path / "a.parquet")
        return
    e, n = (part.ravel() for part in np.meshgrid(range(4), range(60), indexing="ij"))
    columns = {"sample": n, "exit": e, "label": y[n], **{f"z{c}": z[e, n, c] for c in range(5)}}
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    assert (files.read(tmp_path / "a.parquet").z == z).all()


def test_large_arrays_stay_in_the_file(tmp_path):
    z, y = made(4, 2000, 50)
    np.savez(tmp_path / "a.npz", logits=z, labels=y)
    np.save(tmp_path / "a.npy", z)
    save_file({"logits": z}, tmp_path / "a.safetensors")
    save_tensors({"logits": torch.as_tensor(z).bfloat16()}, tmp_path / "b.safetensors")
    whole = Scores(Logits(z, y)).confidence
    for name in ("a.npz", "a.npy", "a.safetensors", "b.safetensors"):
        found = files.read(tmp_path / name, labels=y)
        base = found.z
        while not isinstance(base, np.memmap):
            base = base.base
        near = {} if name[0] == "a" else {"atol": 0.02}
        assert np.allclose(Scores(found).confidence, whole, **near), name
    assert found.bfloat16


def test_pieces_and_threads_change_nothing(monkeypatch):
    z, y = made(4, 500, 50)
    whole = Scores(Logits(z, y), threads=1)
    monkeypatch.setattr("eelit.methods.own.scores.PIECE", 50 * 7)
    pieces = Scores(Logits(z.transpose(1, 0, 2).copy(), y), threads=2)
    for name in ("confidence", "entropy", "runner_up", "second", "distance", "together", "excluded"):
        assert np.array_equal(getattr(whole, name), getattr(pieces, name), equal_nan=True), name


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("something was unpickled",))


def test_nothing_is_ever_unpickled(tmp_path):
    np.save(tmp_path / "a.npy", np.array([Bomb()], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", logits=np.array([Bomb()] * 200_000, dtype=object))
    np.savez(tmp_path / "b.npz", logits=np.array([Bomb()], dtype=object))
    (tmp_path / "b.npy").write_bytes(pickle.dumps(Bomb()))
    for name in ("a.npy", "b.npy", "a.npz", "b.npz"):
        with pytest.raises(WrongLogits) as error:
            files.read(tmp_path / name)
        assert "pickled" in one_sentence(error), name


def header(content, length=None):
    text = json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", b"", "known are .npz"),
        ("a.npz", b"nothing", "cannot be read as .npz"),
        ("a.npy", b"", "cannot be read as .npy"),
        ("a.safetensors", b"\0" * 4, "cannot be read"),
        ("a.safetensors", header({}, 10**12), "longer than the file"),
        (
            "a.safetensors",
            header({"z": {"dtype": "F32", "shape": [9, 9, 9], "data_offsets": [0, 2916]}}),
            "does not fit",
        ),
        ("a.safetensors", header({"z": {"dtype": "F8", "shape": [1], "data_offsets": [0, 1]}}) + b"\0", "F8"),
        ("a.csv", b"sample,exit\n1,2\n", "no columns z0"),
        ("a.csv", b"sample,z0,z1\n0,1,2\n", "no column `exit`"),
        ("a.csv", b"sample,exit,z0,z1\n0,0,1,2\n0,1,1,2\n1,0,1,2\n", "3 lines for 2 exits and 2 samples"),
        ("a.csv", b"sample,exit,z0,z2\n0,0,1,2\n", "lacks some"),
        ("a.csv", b"sample,exit,label,z0,z1\n0,0,0,1,2\n0,1,1,1,2\n", "another label at another exit"),
        ("a.csv", b"sample,exit,z0,z1\n0,0,a,2\n", "cannot be read as .csv"),
    ],
)
def test_damaged_files_are_one_sentence(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WrongLogits) as error:
        files.read(tmp_path / name)
    assert said in one_sentence(error)


def test_a_file_of_unknown_arrays_is_refused(tmp_path, outputs):
    z, y = outputs
    np.savez(tmp_path / "a.npz", first=z, second=z)
    with pytest.raises(WrongLogits, match="call one of them `logits`"):
        files.read(tmp_path / "a.npz")
    for name, part, right in (
        ("lables", y, "labels"),
        ("Label", y, "labels"),
        ("cost", z[..., 0], "costs"),
        ("plaincosts", y, "plain_costs"),
        ("units", np.array("ms"), "unit"),
    ):
        np.savez(tmp_path / "b.npz", logits=z, **{name: part})
        with pytest.raises(WrongLogits, match=f"`{name}`, which means nothing here; write `{right}`"):
            files.read(tmp_path / "b.npz")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("logits.npy", b"broken")
    with pytest.raises(WrongLogits, match=r"cannot be read as \.npz"):
        files.read(tmp_path / "c.npz")


def test_what_is_of_samples_alone_is_left_out_and_said_so(tmp_path, outputs, recwarn):
    z, y = outputs
    names = np.array([f"photo {n}" for n in range(60)])
    np.savez(tmp_path / "a.npz", logits=z, labels=y, index=np.arange(60), names=names, gate=z[..., 0])
    assert list(files.read(tmp_path / "a.npz").extra) == ["gate"]
    assert [str(each.message).partition(" holds ")[2] for each in recwarn] == [
        f"`{name}` [60], which means nothing here and is not read" for name in ("index", "names")
    ]
    np.savez(tmp_path / "a.npz", logits=z, labels=y, index=np.arange(59))
    with pytest.raises(WrongLogits, match=r"`index` \[59\], which means nothing here$"):
        files.read(tmp_path / "a.npz")


def test_a_file_may_say_which_kind_its_outputs_are(tmp_path, outputs):
    z, y = outputs
    apart = 0.6 * np.exp(z) / np.exp(z).sum(axis=-1, keepdims=True)
    np.savez(tmp_path / "a.npz", z=apart, labels=y, kind="logits")
    assert files.read(tmp_path / "a.npz").kind == "logits"
    save_file({"z": apart}, tmp_path / "a.safetensors", {"kind": "logits"})
    assert files.read(tmp_path / "a.safetensors").kind == "logits"


def test_columns_of_a_table_are_known_by_name(tmp_path):
    lines = ["0,0,1,1,2", "0,1,1,1,2", "1,0,0,1,2", "1,1,0,1,2"]
    for column, right in (("labels", "label"), ("costs", "cost"), ("groups", "group"), ("values", "value")):
        (tmp_path / "a.csv").write_text("\n".join([f"sample,exit,{column},z0,z1", *lines]))
        with pytest.raises(WrongLogits, match=f"`{column}`, which means nothing here; write `{right}`"):
            files.read(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text("\n".join(["sample,exit,target,z0,z1", *lines]))
    found = files.read(tmp_path / "a.csv")
    assert (found.labels.tolist(), found.extra) == ([1, 0], {})


def test_a_table_has_one_column_of_labels(tmp_path):
    lines = ["0,0,1,0,1,2", "0,1,1,0,1,2", "1,0,0,1,1,2", "1,1,0,1,1,2"]
    (tmp_path / "a.csv").write_text("\n".join(["sample,exit,label,target,z0,z1", *lines]))
    with pytest.raises(WrongLogits, match="two columns for the labels; leave out `target` or the other"):
        files.read(tmp_path / "a.csv")


def test_outputs_are_printed_in_a_line(outputs):
    z, y = outputs
    told = repr(Logits(z, labels=y))
    assert told == f"<Logits: logits of {z.shape[0]} exits, {z.shape[1]} samples, {z.shape[2]} classes>"
    assert repr(Logits(z[..., 0], labels=y.astype(float))).endswith(f"{z.shape[1]} samples>")
