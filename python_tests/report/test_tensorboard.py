"""TensorBoard logging: the curves are those of the records."""

import json
import sys

import numpy as np
import pytest

from mild_ext.cli import main

FAST = [
    "--record=classes",
    "--rounds=2",
    "--first-epochs=10",
    "--round-epochs=4",
    "--final-epochs=3",
    "--lr=0.05",
]


@pytest.fixture
def spec(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(120) % 3
    inputs = generator.normal(size=(120, 6)) + 3 * np.eye(3, 6)[labels]
    np.savez(tmp_path / "d.npz", x_train=inputs, y_train=labels)
    return f"npz:{tmp_path / 'd.npz'}"


def train(*options):
    return main(["train", *FAST, "--quiet", *map(str, options)])


def test_curves_are_the_records_even_after_a_resume(spec, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    out = tmp_path / "run"
    options = ["--noise", "symmetric:0.4", "--method", "mild-rounds", "--tensorboard"]
    assert train("--data", spec, *options, "--out", out) == 0
    assert main(["train", "--resume", "--tensorboard", "--quiet", "--out", str(out)]) == 0
    log = EventAccumulator(str(out / "tensorboard")).Reload()
    records = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    for tag, stage in (("rounds/loss", "round "), ("final/loss", "final")):
        expected = [
            r["loss"] for r in records if r["type"] == "epoch" and r["stage"].startswith(stage)
        ]
        assert [event.value for event in log.Scalars(tag)] == pytest.approx(expected)
        assert [event.step for event in log.Scalars(tag)] == list(range(len(expected)))
    for name in ("memorized", "prediction_changes"):
        expected = [r[name] for r in records if r["type"] == "epoch" and name in r]
        assert len(expected) >= 10
        assert [e.value for e in log.Scalars(f"rounds/{name}")] == pytest.approx(expected)
    rounds = [r for r in records if r["type"] == "round"]
    assert [e.value for e in log.Scalars("selection/kept")] == [r["kept"] for r in rounds]
    assert [e.value for e in log.Scalars("selection/f1")] == pytest.approx(
        [r["f1"] for r in rounds]
    )


def test_missing_tensorboard_says_what_to_install_before_training(
    spec, tmp_path, monkeypatch, capsys
):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    assert train("--data", spec, "--tensorboard", "--out", tmp_path / "run") == 1
    assert "mild_ext[tensorboard]" in capsys.readouterr().err
    assert not (tmp_path / "run" / "history.jsonl").exists()
