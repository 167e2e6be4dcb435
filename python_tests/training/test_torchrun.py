"""``torchrun -m mild_ext train``: one run, done by two processes, of which one writes."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys

import pytest
from ranks import run_on_ranks

from mild_ext import LearningStatus
from mild_ext.cli import main

pytest.importorskip("sklearn")

pytestmark = pytest.mark.slow

SETTINGS = ["--rounds", "1", "--first-epochs", "15", "--final-epochs", "10", "--batch-size", "64"]


def torchrun(folder, *options):
    """The launcher itself."""
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


def _command(folder, options):
    os.chdir(folder)
    printed = io.StringIO()
    with contextlib.redirect_stderr(printed):
        return main(["train", "--device", "cpu", *options]), printed.getvalue()


def on_two(folder, *options):
    """The same command in two processes that find what torchrun tells them; codes and standard error."""
    results = run_on_ranks(2, _command, folder, options, group=False)
    return [code for code, _ in results], "".join(text for _, text in results)


def test_two_processes_do_one_run_and_one_of_them_writes(tmp_path):
    data = ["--data", "digits", "--noise", "symmetric:0.5", "--out", "run", "--no-compare"]
    done = torchrun(tmp_path, *data, *SETTINGS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("The most suspicious:") == 1
    run = tmp_path / "run"
    assert not list(run.rglob("*.partial"))

    status = LearningStatus.load(run / "status" / "round-00.safetensors")
    seen = status.compute().seen
    assert (seen == status.epoch).all(), "every sample was seen by one process or the other"
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
    codes, error = on_two(tmp_path, "--out", "run", "--resume")
    assert codes == [0, 0], error
    assert (run / "selection.csv").read_bytes() == before


def test_wrong_usage_ends_both_processes(tmp_path):
    codes, error = on_two(tmp_path, "--data", "nowhere", "--out", "run")
    assert 0 not in codes
    assert "mild-ext: error: data must be one of" in error
    codes, error = on_two(tmp_path, "--data", "digits", "--out", "run", "--learning-logs")
    assert 0 not in codes
    assert "--learning-logs is recorded by one process, but there are 2" in error
    assert not (tmp_path / "run").exists()
