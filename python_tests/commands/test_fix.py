"""``mild-ext fix``: a copy with corrected labels, the log of its changes, and the way back."""

from __future__ import annotations

import csv
import json
import os

import numpy as np
import pytest

from mild_ext.cli import main
from mild_ext.data import corrected as corrected_files

Image = pytest.importorskip("PIL.Image")

FAST = ["--model=mlp", "--width=16", "--first-epochs=1", "--batch-size=32", "--no-report"]
FILES = {"ant": ["0.png", "1.png", "sub/2.png"], "bee": ["0.png", "5.png"], "cow": ["7.png"]}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Six pictures in three classes, a file that is none, and a test split."""
    root = tmp_path_factory.mktemp("data") / "photos"
    rng = np.random.default_rng(0)
    for split, files in (("train", FILES), ("test", {"ant": ["t.png"]})):
        for name, paths in files.items():
            for path in paths:
                file = root / split / name / path
                file.parent.mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(file)
    (root / "train" / "ant" / "notes.txt").write_text("mine")
    return root


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    assert main(["find", "--data", f"folder:{photos}", *FAST, "--out", str(out)]) == 0
    return out


def tree(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def contents(folder):
    return {name: (folder / name).read_bytes() for name in tree(folder)}


def write(path, *lines, header="id,given_label,decision,label"):
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def corrected(run, corrections, out, *more):
    arguments = ["fix", str(run), "--corrections", str(corrections), "--out", str(out), *more]
    return main(arguments)


@pytest.fixture
def decisions(tmp_path):
    return write(
        tmp_path / "corrections.csv",
        "ant/0.png,ant,relabel,bee",
        "ant/sub/2.png,ant,relabel,cow",
        "bee/5.png,bee,wrong,",
        "cow/7.png,cow,right,",
    )


@pytest.mark.parametrize("how", ["copy", "hardlink", "symlink"])
def test_files_move_in_a_copy_and_back(run, photos, decisions, tmp_path, how, capsys):
    before, out = contents(photos), tmp_path / "fixed"
    assert corrected(run, decisions, out, "--files", how) == 0
    printed = capsys.readouterr().out
    assert "2 of 6 labels changed, 1 samples left out (wrong, without a label)" in printed
    assert "1 labels confirmed as they are" in printed
    assert tree(out) == [
        "ant/1.png", "ant/notes.txt", "bee/0-from-ant.png", "bee/0.png", "changes.csv",
        "cow/7.png", "cow/sub/2.png",
    ]  # fmt: skip
    assert (out / "bee/0-from-ant.png").read_bytes() == before["train/ant/0.png"]
    assert (out / "cow/7.png").is_symlink() == (how == "symlink")
    linked = os.lstat(out / "cow/7.png").st_ino == os.stat(photos / "train/cow/7.png").st_ino
    assert linked == (how == "hardlink")
    with open(out / "changes.csv", newline="") as file:
        log = list(csv.DictReader(file))
    assert [(r["id"], r["label"], r["change"], r["new_place"]) for r in log] == [
        ("ant/0.png", "bee", "relabeled", "bee/0-from-ant.png"),
        ("ant/sub/2.png", "cow", "relabeled", "cow/sub/2.png"),
        ("bee/5.png", "", "left out", ""),
    ]
    (out / "bee" / "new.png").write_text("added since")
    assert main(["fix", str(run), "--undo", "--files", how, "--out", str(out)]) == 0
    assert "3 of 3 changes taken back" in capsys.readouterr().out
    (out / "bee" / "new.png").unlink()
    assert contents(out) == contents(photos / "train")
    assert contents(photos) == before
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 1
    assert "or it was undone" in capsys.readouterr().err


def test_what_was_changed_again_is_not_undone_and_said(run, decisions, tmp_path, capsys):
    out = tmp_path / "fixed"
    assert corrected(run, decisions, out) == 0
    (out / "bee/0-from-ant.png").unlink()
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    assert "2 of 3 changes taken back; 1 could not be" in capsys.readouterr().out
    assert len((out / "changes.csv").read_text().splitlines()) == 2


def test_nothing_is_overwritten_unasked_and_nothing_of_others_ever(
    run, photos, decisions, tmp_path, capsys
):
    out = tmp_path / "fixed"
    assert corrected(run, decisions, out) == 0
    assert corrected(run, decisions, out) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert corrected(run, decisions, out, "--overwrite") == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    assert corrected(run, decisions, mine, "--overwrite") == 1
    assert "was not written by mild-ext fix" in capsys.readouterr().err
    assert tree(mine) == ["thesis.tex"]
    (photos / "train" / "changes.csv").write_text("as if the photos had been corrected before")
    for inside in (photos / "train" / "fixed", photos.parent / "photos" / "train"):
        assert corrected(run, decisions, inside, "--overwrite") == 1
    assert not (photos / "train" / "fixed").exists()
    (photos / "train" / "changes.csv").unlink()
    assert len(tree(photos)) == 8


def test_a_folder_of_somebody_elses_is_not_overwritten_for_a_changes_csv_in_it(
    run, decisions, tmp_path, capsys
):
    """Nor one of ours that somebody has put files into: they are named, and nothing is deleted."""
    theirs = tmp_path / "thesis"
    theirs.mkdir()
    (theirs / "changes.csv").write_text("date,change\n2026-01-01,chapter 3\n", encoding="utf-8")
    (theirs / "thesis.tex").write_text("years of work", encoding="utf-8")
    assert corrected(run, decisions, theirs, "--overwrite") == 1
    assert "no log of changes of mild-ext fix" in capsys.readouterr().err
    out = tmp_path / "out"
    assert corrected(run, decisions, out) == 0
    (out / "notes.txt").write_text("years of work", encoding="utf-8")
    before = contents(out)
    assert corrected(run, decisions, out, "--overwrite") == 1
    assert (
        "1 files that mild-ext fix did not write (the first: notes.txt)" in capsys.readouterr().err
    )
    assert contents(out) == before
    assert (theirs / "thesis.tex").exists()
    (out / "notes.txt").unlink()
    assert corrected(run, decisions, out, "--overwrite") == 0


def test_labels_as_numbers_and_as_a_table(run, decisions, tmp_path, capsys):
    ids = json.loads((run / "sample_names.json").read_text())
    out = tmp_path / "labels.npy"
    assert corrected(run, decisions, out) == 1
    assert "1 samples are marked wrong without a label (the first: bee/5.png)" in (
        capsys.readouterr().err
    )
    assert not out.exists()
    assert corrected(run, decisions, out, "--wrong", "keep") == 0
    labels = dict(zip(ids, np.load(out).tolist(), strict=True))
    assert labels == {
        "ant/0.png": 1, "ant/1.png": 0, "ant/sub/2.png": 2, "bee/0.png": 1, "bee/5.png": 1,
        "cow/7.png": 2,
    }  # fmt: skip
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    assert np.load(out).tolist() == np.load(run / "given_labels.npy").tolist()

    table = tmp_path / "labels.csv"
    assert corrected(run, decisions, table, "--quiet") == 0
    assert table.read_text().splitlines() == [
        "id,label", "ant/0.png,bee", "ant/1.png,ant", "ant/sub/2.png,cow", "bee/0.png,bee",
        "cow/7.png,cow",
    ]  # fmt: skip
    assert (tmp_path / "labels.changes.csv").is_file()
    assert main(["fix", str(run), "--undo", "--out", str(table)]) == 0
    assert table.read_text().splitlines()[5:] == ["bee/5.png,bee", "cow/7.png,cow"]


@pytest.mark.parametrize(
    ("header", "line", "message"),
    [
        ("name,label", "ant/0.png,bee", "has no column id; it has name, label"),
        ("id,class", "ant/0.png,bee", "has no column label; it has id, class"),
        ("id,label", "ant/9.png,bee", "1 ids are not in the run (the first: ant/9.png"),
        ("id,label", "ant/0.png,bea", "there is no class 'bea'; did you mean bee?"),
        ("id,decision,label", "ant/0.png,rigth,", "did you mean right?"),
        ("id,decision,label", "ant/0.png,relabel,", "decision is relabel, but label is empty"),
        ("id,decision,label", "ant/0.png,right,bee", "is not the given 'ant'"),
        ("id,given_label,label", "ant/0.png,cow,bee", "these corrections are of other labels"),
        ("id,label", "ant/0.png,bee\nant/0.png,cow", "decided twice"),
    ],
)
def test_corrections_that_do_not_fit_are_refused(run, tmp_path, header, line, message, capsys):
    given = write(tmp_path / "c.csv", line, header=header)
    out = tmp_path / "fixed"
    assert corrected(run, given, out) == 1
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not out.exists()


def test_anybodys_table_will_do(run, tmp_path):
    """Semicolons and a byte-order mark, as spreadsheets write it; rows that say nothing new."""
    given = tmp_path / "c.csv"
    given.write_text("\ufefflabel;id\nbee;ant/1.png\nant;ant/0.png\n;cow/7.png\n", encoding="utf-8")
    out = tmp_path / "labels.csv"
    assert corrected(run, given, out) == 0
    assert "ant/1.png,bee" in out.read_text().splitlines()
    assert "ant/0.png,ant" in out.read_text().splitlines()


def test_without_planted_labels_there_is_no_automatic_correction(run, tmp_path, capsys):
    assert main(["fix", str(run), "--auto", "--out", str(tmp_path / "f")]) == 1
    assert "nothing was planted" in capsys.readouterr().err


@pytest.fixture(scope="module")
def table_run(tmp_path_factory):
    """A table of which a fifth of the labels are wrong, found with planted ones; and the truth."""
    folder = tmp_path_factory.mktemp("table")
    rng = np.random.default_rng(0)
    true = np.arange(600) % 3
    given = np.where(rng.random(600) < 0.2, (true + rng.integers(1, 3, 600)) % 3, true)
    x = rng.normal(size=(600, 6)) + 3 * np.eye(3, 6)[true]
    with open(folder / "data.csv", "w", newline="") as file:
        writer = csv.writer(file, delimiter=";", lineterminator="\r\n")
        writer.writerow(["key", *"abcdef", "kind", "note"])
        for k in range(600):
            row = [f"k{k}", *(f"{v:.4f}" for v in x[k]), ["low", "mid", "top"][given[k]], "x; y"]
            writer.writerow(row)
    out = folder / "run"
    spec = f"csv:{folder / 'data.csv'},label=kind,id=key"
    options = ["--first-epochs", "15", "--batch-size", "32", "--lr", "0.05", "--no-report"]
    assert main(["find", "--data", spec, *options, "--width=32", "--out", str(out)]) == 0
    return out, folder / "data.csv", given, true


def read(path, delimiter=";"):
    with open(path, newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def test_automatic_corrections_put_labels_right_in_the_table(table_run, tmp_path, capsys):
    run, source, given, true = table_run
    before = source.read_bytes()
    out = tmp_path / "fixed.csv"
    assert main(["fix", str(run), "--auto", "--out", str(out)]) == 0
    assert "of these changes" in capsys.readouterr().out.lower()
    names = ["low", "mid", "top"]
    labels = np.array([names.index(row["kind"]) for row in read(out)])
    assert (labels == true).mean() > (given == true).mean() + 0.1
    changed = labels != given
    assert (labels == true)[changed].mean() > 0.8
    assert b";x; y\r\n" not in out.read_bytes()  # quoted as it was
    assert out.read_bytes().count(b'"x; y"\r\n') == 600
    for old, new in zip(read(source), read(out), strict=True):
        assert {**old, "kind": ""} == {**new, "kind": ""}
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    assert out.read_bytes() == before == source.read_bytes()


def test_a_row_that_is_wrong_is_left_out_and_comes_back_in_its_place(table_run, tmp_path, capsys):
    run, source, given, _ = table_run
    names = ["low", "mid", "top"]
    other = names[(given[7] + 1) % 3]
    given_file = write(
        tmp_path / "c.csv", "k3,wrong,", f"k7,relabel,{other}", header="id,decision,label"
    )
    out = tmp_path / "fixed.csv"
    assert corrected(run, given_file, out) == 0
    rows = read(out)
    assert len(rows) == 599
    assert [row["key"] for row in rows[2:4]] == ["k2", "k4"]
    assert rows[6]["kind"] == other
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    assert out.read_bytes() == source.read_bytes()
    assert (
        corrected(run, given_file, out, "--overwrite") == 1
    )  # no log any more: it may be anybody's
    assert corrected(run, given_file, tmp_path / "folder") == 1
    assert "the data of this run are none of files" in capsys.readouterr().err
    assert corrected(run, given_file, tmp_path / "new.csv") == 0
    with open(tmp_path / "new.csv", "a") as file:
        file.write("more;1;1;1;1;1;1;low;x\r\n")
    capsys.readouterr()
    assert main(["fix", str(run), "--undo", "--out", str(tmp_path / "new.csv")]) == 1
    assert "rows were added or removed" in capsys.readouterr().err


def test_a_precision_that_cannot_be_is_refused(table_run, tmp_path, capsys):
    arguments = ["fix", str(table_run[0]), "--auto", "--out", str(tmp_path / "f.npy")]
    assert main([*arguments, "--precision", "0.4"]) == 1
    assert "--precision must lie in (0.5, 1]" in capsys.readouterr().err
    assert main([*arguments, "--precision", "1.0"]) == 0


def test_places_are_free(tmp_path):
    taken = {"dog/a/1.jpg", "dog/a/1-from-cat.jpg"}
    assert corrected_files.free_place("cat/a/1.jpg", "dog", taken) == "dog/a/1-from-cat-2.jpg"
    assert corrected_files.free_place("cat/2.jpg", "dog", taken) == "dog/2.jpg"
    assert "dog/2.jpg" in taken


def arrays_run(folder, labels, **more):
    """A run on arrays, of which there are 60 samples in three classes."""
    generator = np.random.default_rng(0)
    true = np.arange(60) % 3
    x = (generator.normal(size=(60, 5)) + 3 * np.eye(3, 5)[true]).astype(np.float32)
    source = folder / "mine.npz"
    np.savez_compressed(
        source, x_train=x, y_train=np.array(labels)[true], notes=np.arange(60), **more
    )
    out = folder / "run"
    assert main(["find", "--data", f"npz:{source}", *FAST, "--plant=0", "--out", str(out)]) == 0
    return source, out


@pytest.mark.parametrize(
    ("labels", "new"),
    [(["a", "b", "longer"], "longer"), ([4, 7, 9], "9"), ([2, 0, 1], "1")],
    ids=["text", "numbers", "counted"],
)
def test_arrays_get_other_labels_and_everything_else_is_as_it_was(tmp_path, labels, new, capsys):
    more = {"x_test": np.zeros((3, 5), np.float32), "y_test": np.array(labels), "thing": np.eye(2)}
    source, run = arrays_run(tmp_path, labels, **more)
    before = source.read_bytes()
    given = write(tmp_path / "c.csv", f"0,{new}", f"1,{new}", header="id,label")
    out = tmp_path / "fixed.npz"
    assert corrected(run, given, out) == 0
    assert "2 of 60 labels changed" in capsys.readouterr().out
    with np.load(source) as old, np.load(out) as now:
        assert old.files == now.files
        for name in set(old.files) - {"y_train"}:
            assert now[name].dtype == old[name].dtype
            assert np.array_equal(now[name], old[name])
        assert now["y_train"].tolist() == [labels[2]] * 3 + old["y_train"].tolist()[3:]
        assert now["y_train"].dtype == old["y_train"].dtype
    assert out.stat().st_size < 1.05 * source.stat().st_size  # compressed as it was
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    with np.load(source) as old, np.load(out) as now:
        assert all(np.array_equal(now[name], old[name]) for name in old.files)
    assert source.read_bytes() == before
    assert corrected(run, given, source, "--overwrite") == 1


def test_samples_left_out_of_arrays_come_back_in_their_places(tmp_path, capsys):
    source, run = arrays_run(tmp_path, ["a", "b", "c"], y_true=np.array(["a", "b", "c"] * 20))
    given = write(
        tmp_path / "c.csv", "3,wrong,", "5,relabel,a", "8,relabel,a", header="id,decision,label"
    )
    out = tmp_path / "fixed.npz"
    assert corrected(run, given, out) == 0
    assert "1 samples left out" in capsys.readouterr().out
    with np.load(source) as old, np.load(out) as now:
        for name in ("x_train", "y_true", "notes"):
            assert np.array_equal(now[name], np.delete(old[name], 3, axis=0))
        assert now["y_train"][[3, 4, 7]].tolist() == ["b", "a", "a"]
        arrays = dict(now)
    arrays["y_train"][4] = "b"  # somebody thought again
    np.savez(out, **arrays)
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 0
    assert "2 of 3 changes taken back; 1 could not be" in capsys.readouterr().out
    with np.load(source) as old, np.load(out) as now:
        assert np.array_equal(now["x_train"], old["x_train"])
        differing = np.flatnonzero(now["y_train"] != old["y_train"])
        assert differing.tolist() == [5]
        assert now["y_train"][5] == "b"
    np.savez(out, x_train=arrays["x_train"], y_train=arrays["y_train"][:9])
    assert main(["fix", str(run), "--undo", "--out", str(out)]) == 1
    assert "entries were added or removed since" in capsys.readouterr().err


def test_rows_of_arrays_are_found_where_some_took_no_part(tmp_path):
    labels = np.array(["a", "b", ""] * 20)
    x = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    np.savez(tmp_path / "mine.npz", x_train=x, y_train=labels)
    run, out = tmp_path / "run", tmp_path / "fixed.npz"
    spec = f"npz:{tmp_path / 'mine.npz'},missing=drop"
    options = [*FAST, "--plant=0", "--test-fraction=0.25"]
    assert main(["find", "--data", spec, *options, "--out", str(run)]) == 0
    ids = json.loads((run / "sample_names.json").read_text())
    assert len(ids) == 30
    row = int(ids[4].removeprefix("row "))
    new = "b" if labels[row] == "a" else "a"
    assert corrected(run, write(tmp_path / "c.csv", f"{ids[4]},{new}", header="id,label"), out) == 0
    with np.load(out) as now:
        assert np.flatnonzero(now["y_train"] != labels).tolist() == [row]
        assert now["y_train"][row] == new


def test_data_that_were_changed_since_or_that_a_run_spoiled_itself_are_refused(tmp_path, capsys):
    source, run = arrays_run(tmp_path, ["a", "b", "c"])
    given = write(tmp_path / "c.csv", "0,b", header="id,label")
    with np.load(source) as old:
        np.savez(source, x_train=old["x_train"], y_train=np.roll(old["y_train"], 1))
        np.savez(tmp_path / "again.npz", x_train=old["x_train"], y_train=old["y_train"])
    assert corrected(run, given, tmp_path / "fixed.npz") == 1
    assert "are not those of the run any more" in capsys.readouterr().err
    assert not (tmp_path / "fixed.npz").exists()
    assert corrected(run, given, tmp_path / "folder") == 1
    assert "name a FILE.npz, FILE.csv or FILE.npy" in capsys.readouterr().err
    spec, noisy = f"npz:{tmp_path / 'again.npz'}", tmp_path / "noisy"
    options = [*FAST, "--plant=0", "--noise=symmetric:0.3", "--out", str(noisy)]
    assert main(["find", "--data", spec, *options]) == 0
    label = "abc"[int(np.load(noisy / "given_labels.npy")[0])]
    given = write(tmp_path / "c.csv", f"0,{'b' if label != 'b' else 'a'}", header="id,label")
    assert corrected(noisy, given, tmp_path / "fixed.npz") == 1
    assert "the run added wrong labels itself (--noise symmetric:0.3)" in capsys.readouterr().err
    assert corrected(noisy, given, tmp_path / "fixed.npy") == 0


def test_a_class_is_written_as_the_file_spells_it(tmp_path):
    """Blanks around a label are no part of the class, but of the cell: a new spelling were a new class elsewhere."""
    rng = np.random.default_rng(0)
    lines = [f"{rng.normal() + 5 * (k % 2):.3f}, {'<=1' if k % 2 else '>1'}" for k in range(40)]
    source, out = tmp_path / "t.csv", tmp_path / "run"
    source.write_text("\n".join(["x,label", *lines]) + "\n")
    options = ["--plant=0", *FAST, "--out", str(out)]
    assert main(["find", "--data", f"csv:{source},label=label", *options]) == 0
    decisions = write(tmp_path / "c.csv", "4,>1,relabel,<=1", "7,<=1,relabel,>1")
    fixed = tmp_path / "f.csv"
    assert corrected(out, decisions, fixed) == 0
    written = [line.split(",")[1] for line in fixed.read_text().splitlines()[1:]]
    assert set(written) == {" <=1", " >1"}
    assert (written[4], written[7]) == (" <=1", " >1")
    assert main(["fix", str(out), "--undo", "--out", str(fixed)]) == 0
    assert fixed.read_text() == source.read_text()
