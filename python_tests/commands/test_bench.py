"""The benchmarks run, check the alternatives against each other, and write what they measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from mild_ext.cli import main
from mild_ext.commands.bench import overhead, timing
from mild_ext.commands.bench import recorder as core


def tiny_model() -> tuple[nn.Module, torch.Tensor]:
    return nn.Linear(4, 3), torch.randn(8, 4)


@pytest.mark.slow
def test_core(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(core, "SIZES", ((16, 5),))
    growth = core.bench_growth
    monkeypatch.setattr(core, "bench_growth", lambda settings, _: growth(settings, 5))
    arguments = ["bench", "--threads", "1", "--seconds", "0.001", "--samples", "2000"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert "LearningStatus.update" in capsys.readouterr().out
    report = json.loads((tmp_path / "bench.json").read_text())
    assert report["facts"]["device"] == "cpu"
    names = {row["name"] for row in report["rows"]}
    assert {"LearningStatus.update", "histogram", "dict of lists, .item()"} <= names
    assert all(row["seconds"] > 0 and row["ratio"] > 0 for row in report["rows"])


def test_trackers_that_disagree_are_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.LearningStatus, "update", lambda *_: None)
    logits = torch.eye(3)
    with pytest.raises(RuntimeError, match="disagree"):
        core.trackers(torch.arange(3), logits, torch.arange(3))


def test_selection_of_many_samples() -> None:
    result = core.bench_selection(torch.device("cpu"), 20_000)
    assert 0 < int(result["kept"].replace(",", "")) < 20_000


def test_overhead_of_a_users_model(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    arguments = ["bench", "overhead", "--threads", "1", "--seconds", "0.01"]
    assert main([*arguments, "--model", "test_bench:tiny_model"]) == 0
    assert "test_bench:tiny_model" in capsys.readouterr().out
    assert main([*arguments, "--model", "nothing"]) == 1


def test_cpu_clock_is_for_one_thread(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "overhead", "--clock", "cpu", "--threads", "2"]) == 1
    assert "--threads 1" in capsys.readouterr().err


@pytest.mark.parametrize("factory", [overhead.mlp, overhead.small_cnn])
def test_built_in_models(factory: object) -> None:
    model, inputs = factory()  # type: ignore[operator]
    assert model(inputs[:4]).shape == (4, 10)


def test_ratios_are_against_the_first() -> None:
    first, second = timing.rows("g", "c", {"ours": 2.0, "theirs": 6.0})
    assert (first.ratio, second.ratio) == (1.0, 3.0)
    assert "3.00x" in timing.table([first, second])
