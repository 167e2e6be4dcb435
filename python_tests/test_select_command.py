"""``mild-ext select``: the same selection as in Python, from files."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from noisy import NUM_SAMPLES, Noisy, plain_loop

from mild_ext import select_clean
from mild_ext.cli import main


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
        (["--threshold", "0.9"], {"threshold": 0.9}),
        (["--epochs", "2:9"], {"epochs": slice(2, 9)}),
        (["--epochs=-5:"], {"epochs": slice(5, 10)}),
    ],
)
def test_the_table_is_that_of_the_selection(saved, options, chosen, tmp_path, capsys):
    folder, status = saved
    out = tmp_path / "issues.csv"
    arguments = ["--out", str(out), "--labels", str(folder / "labels.npy"), *options]
    assert main(["select", str(folder / "status.safetensors"), *arguments]) == 0
    selection, rows = select_clean(status, **chosen), read(out)
    assert [row["is_label_issue"] == "False" for row in rows] == selection.mask.tolist()
    assert [int(row["given_label"]) for row in rows] == Noisy().labels.tolist()
    printed = capsys.readouterr().out
    assert f"{NUM_SAMPLES} samples, 10 of 10 epochs recorded" in printed
    assert selection.reason in printed
    assert f"Wrote {out}" in printed


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--out", "issues.xlsx"], "must end in .csv or .parquet"),
        (["--out", "issues.csv", "--epochs", "5"], "must be A:B"),
        (["--out", "issues.csv", "--epochs", "x:"], "must be A:B"),
        (["--out", "issues.csv", "--epochs", "12:"], "is empty: the status has 10 epochs"),
        (["--out", "issues.csv", "--labels", "short.npy"], "one label for each of the 403"),
        (["--out", "issues.csv", "--labels", "status.safetensors"], "mild-ext: error: "),
        (["--out", "issues.csv", "--threshold", "7"], "threshold"),
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
