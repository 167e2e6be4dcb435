"""The stage inside ``mild-ext train`` and ``mild-ext compare``."""

import csv
import json

import numpy as np
import pytest
from safetensors.torch import load_file

from mild_ext.cli import main
from mild_ext.training import accuracy, experiment
from mild_ext.training.run_folder import History, RunFolder

SETTINGS = [
    *("--noise", "symmetric:0.4", "--width", "32", "--lr", "0.05", "--batch-size", "32"),
    *("--method", "mild-rounds"),
    *("--first-epochs", "6", "--round-epochs", "2", "--rounds", "2", "--final-epochs", "3"),
    *(
        "--ssl-epochs",
        "6",
        "--ssl-confidence",
        "0.5",
        "--ssl-weight",
        "3",
        "--quiet",
        "--checkpoint-seconds",
        "0",
    ),
]


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    random = np.random.default_rng(0)
    y = random.integers(0, 3, 240)
    x = random.normal(0, 0.5, (240, 12)).astype(np.float32)
    x[np.arange(240), y] += 3
    path = tmp_path_factory.mktemp("data") / "blobs.npz"
    np.savez(path, x_train=x[:180], y_train=y[:180], x_test=x[180:], y_test=y[180:])
    return f"npz:{path}"


def train(arrays, out, *options):
    return main(["train", "--data", arrays, "--out", str(out), *SETTINGS, *options])


@pytest.fixture(scope="module")
def whole(arrays, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "whole"
    assert train(arrays, out, "--ssl", "mixmatch") == 0
    return out


def test_the_stage_is_part_of_the_run(whole):
    summary = json.loads((whole / "summary.json").read_text())
    names = [row["model"] for row in summary["models"]]
    assert names[1:3] == ["MILD (kept samples)", "MILD + MixMatch (dropped ones unlabeled)"]
    assert summary["models"][2]["epochs"] == 6
    assert summary["models"][2]["method"] == "mild-ssl"
    settings = RunFolder(whole).read_settings()
    data, _ = experiment.prepare_data(settings)
    model = experiment.make_model(data, settings.recipe)
    model.load_state_dict(load_file(whole / "model.safetensors"))
    assert summary["models"][2]["test_accuracy"] == accuracy(model, data.test)
    assert summary["ssl"]["method"] == "mixmatch"
    assert summary["ssl"]["title"] == "MixMatch"
    assert 0 <= summary["ssl"]["pseudo_accuracy"] <= 1
    records = [json.loads(line) for line in (whole / "history.jsonl").read_text().splitlines()]
    stages = list(dict.fromkeys(r["stage"] for r in records if r["type"] == "epoch"))
    assert stages.index("mixmatch") == stages.index("final") + 1


@pytest.mark.parametrize("killed_in", [0, 2])
def test_killed_in_the_stage_and_resumed(arrays, whole, killed_in, tmp_path, monkeypatch):
    out = tmp_path / "run"
    write = History.__call__

    def killed(self, record):
        write(self, record)
        if record.get("stage") == "mixmatch" and record["epoch"] == killed_in:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(History, "__call__", killed)
        assert train(arrays, out, "--ssl", "mixmatch") == 130
    assert not (out / "model.safetensors").exists()
    assert main(["train", "--resume", "--out", str(out), "--quiet"]) == 0
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert (out / "selection.csv").read_bytes() == (whole / "selection.csv").read_bytes()


def test_warm_start(arrays, whole, tmp_path):
    assert train(arrays, tmp_path / "fresh", "--ssl", "mixmatch", "--ssl-start", "scratch") == 0
    losses = []
    for folder in (tmp_path / "fresh", whole):
        lines = (folder / "history.jsonl").read_text().splitlines()
        records = [json.loads(line) for line in lines]
        losses.append(next(r["loss"] for r in records if r.get("stage") == "mixmatch"))
    assert losses[1] < losses[0]  # it starts from what MILD has learned


def test_compare_has_the_stage_as_a_method(arrays, tmp_path):
    out = tmp_path / "compare"
    arguments = ["compare", "--data", arrays, "--out", str(out), "--seeds", "0", *SETTINGS]
    assert main([*arguments, "--methods", "mild-rounds,mild-ssl"]) == 0
    rows = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert [row["method"] for row in rows] == ["mild-rounds", "mild-ssl"]
    assert int(rows[1]["epochs"]) == int(rows[0]["epochs"]) + 6
    assert rows[0]["f1"] == rows[1]["f1"]  # the same rounds
    assert "MILD, rounds + semi-supervised" in (out / "table.txt").read_text()
