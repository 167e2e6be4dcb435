"""``torchrun -m mild_ext train``: one run, done by two processes, of which one writes."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys

import pytest

from mild_ext import LearningStatus

pytest.importorskip("sklearn")

SETTINGS = ["--rounds", "1", "--first-epochs", "15", "--final-epochs", "10", "--batch-size", "64"]


def torchrun(folder, *options):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    command = [sys.executable, *launcher, "-m", "mild_ext", "train", "--device", "cpu", *options]
    return subprocess.run(
        command,
        cwd=folder,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_two_processes_do_one_run_and_one_of_them_writes(tmp_path):
    data = ["--data", "digits", "--noise", "symmetric:0.5", "--out", "run", "--no-compare"]
    done = torchrun(tmp_path, *data, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Stopped: ") == 1
    run = tmp_path / "run"
    assert not list(run.rglob("*.partial"))

    status = LearningStatus.load(run / "status" / "round-00.safetensors")
    assert (status.compute().seen == 15).all(), "every sample was seen by one process or the other"
    with open(run / "selection.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    right_kept = sum(row["kept"] == "1" and row["given_label"] == row["true_label"] for row in rows)
    kept = sum(row["kept"] == "1" for row in rows)
    assert right_kept / kept > 0.9
    assert 0.3 < kept / len(rows) < 0.8

    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    epochs = [record for record in history if record["type"] == "epoch"]
    assert len(epochs) == 15 + 10
    assert epochs[14]["loss"] < epochs[0]["loss"]

    # Resumed, all its parts are found done, by both processes.
    before = (run / "selection.csv").read_bytes()
    resumed = torchrun(tmp_path, "--out", "run", "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert (run / "selection.csv").read_bytes() == before


def test_wrong_usage_ends_both_processes(tmp_path):
    done = torchrun(tmp_path, "--data", "nowhere", "--out", "run")
    assert done.returncode != 0
    assert "mild-ext: error: data must be one of" in done.stderr
    done = torchrun(tmp_path, "--data", "digits", "--out", "run", "--learning-logs")
    assert done.returncode != 0
    assert "--learning-logs is recorded by one process, but there are 2" in done.stderr
    assert not (tmp_path / "run").exists()
