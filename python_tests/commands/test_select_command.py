"""``mild-ext select``: the same selection as in Python, from files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from noisy import NUM_SAMPLES, Noisy, plain_loop

from mild_ext import select_clean
from mild_ext.cli import main
from mild_ext.recording.learning_log import LearningLog, write_learning_log


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder, tracker = tmp_path_factory.mktemp("select"), plain_loop([10], 10)
    tracker.status.save(folder / "status.safetensors")
    np.save(folder / "labels.npy", Noisy().labels.numpy())
    np.save(folder / "short.npy", np.arange(3))
    return folder, tracker.status


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("options", "chosen"),
    [
        ([], {}),
        (["--level", "0.9"], {"level": 0.9}),
        (["--epochs", "2:9"], {"epochs": slice(2, 9)}),
        (["--epochs=-5:"], {"epochs": slice(5, 10)}),
    ],
)
def test_the_table_is_that_of_the_selection(saved, options, chosen, tmp_path, capsys):
    folder, status = saved
    out = tmp_path / "issues.csv"
    arguments = ["--out", str(out), "--labels", str(folder / "labels.npy"), *options]
    assert main(["select", str(folder / "status.safetensors"), *arguments]) == 0
    selection, rows = select_clean(status, labels=Noisy().labels, **chosen), read(out)
    assert [row["dropped"] == "False" for row in rows] == selection.mask.tolist()
    assert [int(row["given_label"]) for row in rows] == Noisy().labels.tolist()
    printed = capsys.readouterr().out
    assert f"{NUM_SAMPLES} samples, 10 of 10 epochs recorded" in printed
    assert selection.summary() in printed
    assert "by the true labels" not in printed
    assert f"Wrote {out}" in printed


def test_a_learning_log_brings_its_labels_and_the_truth(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    clean = np.arange(400) % 5 < 3
    start = np.where(clean, rng.integers(0, 4, 400), rng.integers(9, 13, 400))
    given = np.arange(400) % 2
    log = LearningLog(
        memorized=np.arange(12) >= start[:, None],
        given_label=given,
        true_label=np.where(clean, given, 1 - given),
        ids=np.arange(400) + 7,
    )
    write_learning_log("log.npz", log)
    assert main(["select", "log.npz"]) == 0
    printed = capsys.readouterr().out
    assert "class 1: 120 of 200 kept" in printed
    assert "by the true labels: noise rate 40.0%; kept set's precision 1.000" in printed
    assert "macro-F1 1.000 (at most 1.000 with a threshold, at 3 misclassified epochs)" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["log.npz"]
    assert main(["select", "log.npz", "--out", "t.csv"]) == 0
    rows = read("t.csv")
    assert [int(row["id"]) for row in rows] == log.ids.tolist()
    assert [int(row["given_label"]) for row in rows] == given.tolist()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "issues.xlsx"], "must end in .csv or .parquet"),
        (["--out", "issues.csv", "--epochs", "5"], "must be A:B"),
        (["--out", "issues.csv", "--epochs", "x:"], "must be A:B"),
        (["--out", "issues.csv", "--epochs", "12:"], "is empty: the status has 10 epochs"),
        (["--out", "issues.csv", "--labels", "short.npy"], "one label for each of the 403"),
        (["--out", "issues.csv", "--labels", "status.safetensors"], "mild-ext: error: "),
        (["--out", "issues.csv", "--level", "7"], "level"),
    ],
)
def test_wrong_usage_is_explained_and_writes_nothing(saved, options, message, monkeypatch, capsys):
    monkeypatch.chdir(saved[0])
    assert main(["select", "status.safetensors", *options]) == 1
    assert message in capsys.readouterr().err
    assert not (saved[0] / "issues.csv").exists()


def test_a_file_that_is_no_status_is_refused(saved, capsys, tmp_path):
    arguments = ["--out", str(tmp_path / "issues.csv")]
    assert main(["select", str(saved[0] / "labels.npy"), *arguments]) == 1
    assert "is damaged or no safetensors file" in capsys.readouterr().err
