"""The run's folder: protected, cleared up on resume, and written by the first rank only."""

import json
from importlib.metadata import version

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from mild_ext import processes
from mild_ext.data import array_data
from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mild_ext.training.experiment import choose_settings
from mild_ext.training.recipe import Recipe
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.run_rounds import run_rounds

SETTINGS = choose_settings("digits", None, {"rounds": 1}, device="cpu", threads=1)
DATA = array_data("numbers", np.zeros((4, 2)), torch.tensor([0, 1, 0, 1]), ["even", "odd"])


def started(path):
    folder = RunFolder(path)
    folder.prepare(resume=False, overwrite=False)
    folder.write_config(SETTINGS, DATA, None, "cpu")
    return folder


def test_what_is_written_is_read_back(tmp_path):
    folder = started(tmp_path / "run")
    assert folder.read_settings() == SETTINGS
    config = json.loads((folder.path / "config.json").read_text())
    assert config["versions"]["mild_ext"] == version("mild_ext")
    assert config["data"]["classes"] == ["even", "odd"]
    assert np.load(folder.path / "given_labels.npy").tolist() == [0, 1, 0, 1]


def test_resuming_removes_what_a_killed_process_left_half_written(tmp_path):
    folder = started(tmp_path / "run")
    folder.checkpoints.mkdir()
    left = [folder.path / ".summary.json.1-a.partial", folder.checkpoints / ".x.2-b.partial"]
    mine = folder.path / "notes.partial"
    for path in [*left, mine]:
        path.write_text("half")
    folder.prepare(resume=True, overwrite=False)
    assert not any(path.exists() for path in left)
    assert mine.exists()  # nothing of ours
    assert folder.read_settings() == SETTINGS


def test_nothing_to_resume_and_things_in_the_way(tmp_path):
    with pytest.raises(ValueError, match="no run to resume"):
        RunFolder(tmp_path / "none").prepare(resume=True, overwrite=False)
    assert not (tmp_path / "none").exists()
    folder = started(tmp_path / "run")
    with pytest.raises(ValueError, match="--resume to go on with it, --overwrite"):
        folder.prepare(resume=False, overwrite=False)
    folder.prepare(resume=False, overwrite=True)
    assert {path.name for path in folder.path.iterdir()} == {".mild_ext", ".lock"}
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "file").prepare(resume=False, overwrite=False)


def test_only_the_first_rank_writes(tmp_path, monkeypatch):
    first = started(tmp_path / "run")
    before = {path: path.read_bytes() for path in first.path.iterdir()}
    monkeypatch.setattr(processes, "rank", lambda group=None: 1)
    folder = RunFolder(tmp_path / "run")
    assert not folder.writes
    folder.prepare(resume=False, overwrite=True)
    folder.write_config(SETTINGS, DATA, None, "cuda")
    folder.save_model(nn.Linear(1, 1))
    folder.write_summary({})
    with folder.history() as note:
        note({"type": "epoch"})
    assert {path: path.read_bytes() for path in folder.path.iterdir()} == before
    assert folder.read_settings() == SETTINGS  # it reads like the first


def test_rounds_without_a_command_sweep_what_killed_writers_left(tmp_path):
    left = tmp_path / ".rounds.safetensors.1-a.partial"
    left.write_bytes(bytes(100))
    run_rounds(
        TensorDataset(torch.randn(12, 2), torch.arange(12) % 2),
        lambda: nn.Linear(2, 2),
        Recipe(rounds=1, first_epochs=1, final_epochs=1, plant=0.0),
        folder=tmp_path,
    )
    assert not left.exists()
    assert (tmp_path / "rounds.safetensors").exists()


@pytest.mark.parametrize("key", ["fingerprint", "state", "model", "rounds", "history"])
def test_a_checkpoint_that_lacks_something_is_refused_by_name(key, tmp_path):
    def go_on():
        return run_rounds(
            TensorDataset(torch.ones(12, 2), torch.arange(12) % 2),
            lambda: nn.Linear(2, 2),
            Recipe(rounds=1, first_epochs=1, final_epochs=0, plant=0.0),
            folder=tmp_path,
        )

    go_on()
    path = tmp_path / "rounds.safetensors"
    state = load_checkpoint(path)
    save_checkpoint(path, {name: value for name, value in state.items() if name != key})
    with pytest.raises(CheckpointError, match=r"rounds\.safetensors|cannot go on from") as raised:
        go_on()
    assert "\n" not in str(raised.value)
