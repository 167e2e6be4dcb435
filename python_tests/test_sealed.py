"""Whatever is read back is covered by a checksum: no flipped bit of any kind of file is ever taken for the truth."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from mild_ext import LearningStatus
from mild_ext.integrations.tracker import RoundTracker
from mild_ext.reading import UnreadableFile
from mild_ext.recording.learning_log import LearningLog, read_learning_log, write_learning_log
from mild_ext.sealed import read_sealed_json, write_sealed_json
from mild_ext.selection import PlantedLabels
from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mild_ext.training.comparison_folder import read_results
from mild_ext.training.experiment import choose_settings
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.run_rounds import RoundsResult


def _status(record):
    status = LearningStatus(7, 70, num_classes=None if record == "status" else 3, record=record)
    generator = torch.Generator().manual_seed(0)
    for _ in range(66):
        index = torch.randperm(7, generator=generator)[:5]
        status.update(index, torch.randn(5, 3, generator=generator), index % 3)
        status.advance()
    return status


def _result():
    n = 5
    whole = {name: torch.arange(n) for name in ("labels", "round_dropped", "suggested_label")}
    whole |= {name: torch.arange(n, dtype=torch.int32) for name in ("misclassified", "seen")}
    whole |= {
        name: torch.rand(n) for name in ("clean_probability", "suspicion", "suggestion_confidence")
    }
    return RoundsResult(**whole, kept=torch.ones(n) > 0, rounds=[{"round": 0}], stop_reason="done")


def _log():
    rng = np.random.default_rng(0)
    return LearningLog(
        memorized=rng.random((6, 9)) < 0.5,
        given_label=rng.integers(0, 3, 6),
        loss=rng.random((6, 9)).astype(np.float16),
        ids=np.arange(6) * 2,
    )


def _plain(value):
    """What a thing says, in a form that can be compared."""
    if isinstance(value, torch.Tensor):
        return (str(value.dtype), value.tolist())
    if isinstance(value, np.ndarray):
        return (str(value.dtype), value.tolist())
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if hasattr(value, "__dict__"):
        return _plain(vars(value))
    return value


def _save_config(path):
    settings = choose_settings("digits", None, {"rounds": 1}, device="cpu", threads=1)
    write_sealed_json(path, {"settings": settings.to_dict(), "data": {"name": "größe"}})


def _read_config(path):
    shutil.copy(path, path.with_name("config.json"))
    try:
        return RunFolder(path.parent).read_settings()
    except UnreadableFile as error:  # its name in the test is another one
        raise UnreadableFile(str(error).replace("config.json", path.name)) from error


def _restored(path):
    tracker = RoundTracker(9, [2, 2])
    tracker.restore(path)
    return tracker.state_dict()


ROWS = [{"noise": "n", "seed": 0, "method": "mild", "epochs": 3, "test_accuracy": 0.5}]
#: kind of file -> (write, read)
KINDS = {
    "checkpoint": (
        lambda p: save_checkpoint(p, {"lr": 0.9, "epoch": 3, "w": torch.arange(5.0), "n": None}),
        load_checkpoint,
    ),
    **{
        f"status {record}": (
            lambda p, record=record: _status(record).save(p),
            lambda p: LearningStatus.load(p).state_dict(),
        )
        for record in ("status", "classes", "all")
    },
    "result": (lambda p: _result().save(p), RoundsResult.load),
    "planted": (
        lambda p: PlantedLabels(torch.arange(4), torch.tensor([1, 2]), torch.tensor([0, 0])).save(
            p
        ),
        PlantedLabels.load,
    ),
    "tracker": (lambda p: RoundTracker(9, [2, 2]).save(p), _restored),
    "log": (lambda p: write_learning_log(p, _log()), read_learning_log),
    "comparison": (lambda p: write_sealed_json(p, {"rows": ROWS}), read_results),
    "config": (_save_config, _read_config),
}


def flip(content: bytes, position: int, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[position] ^= 1 << bit
    return bytes(damaged)


def attempt(read, path) -> tuple[object, str]:
    """What is read, or the reason why not."""
    try:
        return _plain(read(path)), ""
    except (ValueError, CheckpointError) as error:
        return None, str(error)


@pytest.mark.parametrize("kind", KINDS)
def test_no_flipped_bit_is_silent(kind, tmp_path):
    """400 bits anywhere, and each of the first 64 bytes: refused by name, or the same content."""
    write, read = KINDS[kind]
    path = tmp_path / "the file"
    write(path)
    content, expected = path.read_bytes(), _plain(read(path))
    rng = random.Random(0)
    places = [(p, rng.randrange(8)) for p in range(min(64, len(content)))]
    places += [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(400)]
    refused = 0
    for position, bit in places:
        path.write_bytes(flip(content, position, bit))
        found, reason = attempt(read, path)
        where = f"byte {position}, bit {bit}: {reason}"
        assert found == expected or ("the file" in reason and "\n" not in reason), where
        refused += bool(reason)
    # What may be flipped without harm: blanks, a zip's dates and such.
    assert refused > 0.6 * len(places)


@pytest.mark.parametrize("kind", KINDS)
def test_no_cut_is_silent(kind, tmp_path):
    write, read = KINDS[kind]
    path = tmp_path / "the file"
    write(path)
    content, expected = path.read_bytes(), _plain(read(path))
    for length in sorted({*range(0, len(content), max(1, len(content) // 60)), len(content) - 1}):
        path.write_bytes(content[:length])
        found, reason = attempt(read, path)
        assert found == expected or "the file" in reason  # as it is without the last line break


@pytest.mark.parametrize("kind", [k for k in KINDS if k not in ("log", "comparison", "config")])
def test_a_missing_entry_is_a_refusal_with_its_reason(kind, tmp_path):
    """Each entry of the header and each tensor taken out in turn, with a seal that fits what is left."""
    from mild_ext.sealed import SEAL, write_tensors

    write, read = KINDS[kind]
    path = tmp_path / "the file"
    write(path)
    with safe_open(path, framework="pt") as file:
        header = {k: v for k, v in file.metadata().items() if k != SEAL}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for name in header:
        write_tensors(path, tensors, {k: v for k, v in header.items() if k != name})
        if name in ("record", "num_classes") and kind == "status status":
            continue  # as an earlier version wrote it
        with pytest.raises((ValueError, CheckpointError), match=r"the file|lacks|record"):
            read(path)
    for name in tensors:
        write_tensors(path, {k: v for k, v in tensors.items() if k != name}, header)
        with pytest.raises(
            (ValueError, CheckpointError), match=r"the file|lack|must have the keys|has no"
        ):
            read(path)


def test_files_of_earlier_versions_are_still_read(tmp_path):
    """Without a checksum: what their reader looks at by itself is all that is sure."""
    status = _status("status")
    header = {"format": "mild_ext.LearningStatus/1", "num_epochs": "70", "epoch": "66"}
    save_file({"words": status.words}, tmp_path / "s", metadata=header)
    assert torch.equal(LearningStatus.load(tmp_path / "s").words, status.words)

    planted = {name: torch.tensor(v) for name, v in
               {"labels": [0, 1], "index": [1], "withheld": [0]}.items()}  # fmt: skip
    save_file(planted, tmp_path / "p", metadata={"format": "mild_ext.PlantedLabels/1"})
    assert PlantedLabels.load(tmp_path / "p").index.tolist() == [1]

    result = _result()
    fields = {k: v for k, v in vars(result).items() if isinstance(v, torch.Tensor)}
    header = {"format": "mild_ext-rounds-2", "rounds": "[]", "stop_reason": "done"}
    save_file(fields, tmp_path / "r", metadata=header)
    assert RoundsResult.load(tmp_path / "r").stop_reason == "done"

    (tmp_path / "results.json").write_text(json.dumps({"rows": ROWS}))
    assert read_results(tmp_path / "results.json") == ROWS


def test_a_seal_in_a_file_of_an_earlier_format_is_damage(tmp_path):
    _status("status").save(tmp_path / "s")
    content = (tmp_path / "s").read_bytes().replace(b"LearningStatus/3", b"LearningStatus/1")
    (tmp_path / "s").write_bytes(content)
    with pytest.raises(ValueError, match="have no checksum"):
        LearningStatus.load(tmp_path / "s")


def test_a_config_changed_by_hand_is_refused(tmp_path):
    _save_config(tmp_path / "config.json")
    text = (tmp_path / "config.json").read_text()
    assert RunFolder(tmp_path).read_settings().seed == 0
    (tmp_path / "config.json").write_text(re.sub(r'"seed": 0', '"seed": 1', text))
    with pytest.raises(ValueError, match=r"config\.json.*changed by hand"):
        RunFolder(tmp_path).read_settings()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "missing"),
        ([1], "cannot be read"),
        ({"threads": "1"}, "threads must be int"),
        ({"extra": 1}, "unknown"),
        ({"recipe": 3}, "recipe must be a table"),
        ({"recipe": {"lr": "high"}}, "lr must be float"),
    ],
)
def test_a_config_with_a_seal_but_odd_settings_is_refused(settings, message, tmp_path):
    good = choose_settings("digits", None, {}, device="cpu", threads=1).to_dict()
    odd = good | settings if isinstance(settings, dict) and settings else settings
    write_sealed_json(tmp_path / "config.json", {"settings": odd})
    with pytest.raises(ValueError, match=message):
        RunFolder(tmp_path).read_settings()


def test_names_and_numbers_survive_a_seal(tmp_path):
    record = {"name": "caf\udce9 größe", 3: [1, (2.5, None)], "nan": float("inf")}
    write_sealed_json(tmp_path / "x.json", record)
    expected = {"name": "caf\udce9 größe", "3": [1, [2.5, None]], "nan": float("inf")}
    assert read_sealed_json(tmp_path / "x.json", "record") == expected
    assert Path(tmp_path / "x.json").read_bytes().decode("utf-8")


# ------------------------------------------------------------------------- what cannot be recorded


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"given_label": np.array([0, 1, 2, 0, 1, np.nan])}, "given_label must be integers"),
        ({"given_label": np.array([0, 1, 2, 0, 1, 0.7])}, "given_label must be integers"),
        ({"given_label": np.array([0, 1, 2, 0, 1, -1])}, "must not be negative, got -1 at 5"),
        ({"given_label": np.array([0, 0, 0, 0, 0, 2**64 - 1], np.uint64)}, "must fit int64"),
        ({"true_label": np.full(6, -3)}, "true_label must not be negative"),
        ({"ids": np.zeros(6, int)}, "each sample once"),
        ({"num_epochs": 17}, r"must be uint8 \[N, 3\] for 17 epochs"),
        ({"num_epochs": 9.0}, "num_epochs must be one integer"),
        ({"num_epochs": 3}, "must be uint8"),
        ({"memorized": np.full((6, 2), 255, np.uint8)}, "bits past epoch 8"),
        ({"loss": np.full((6, 9), -1, np.float16)}, "loss must not be negative"),
        ({"loss": np.zeros((6, 9), int)}, "loss must be floating-point"),
        ({"label_prob": np.full((6, 9), 1.5, np.float16)}, r"\[0, 1\]"),
        ({"predicted": np.full((6, 9), -2)}, "predicted must be a class"),
        ({"predicted": np.full((6, 9), 2**40)}, "predicted must fit int32"),
        ({"oof_probs": np.full((6, 2), 7.0)}, r"oof_probs must lie in \[0, 1\]"),
    ],
)
def test_a_log_of_what_cannot_be_is_refused(change, message, tmp_path):
    write_learning_log(tmp_path / "log.npz", _log())
    with np.load(tmp_path / "log.npz") as file:
        arrays = {name: file[name] for name in file.files if name != "crc32"}
    np.savez(tmp_path / "log.npz", **arrays)
    read_learning_log(tmp_path / "log.npz")  # as it is, it is good
    np.savez(tmp_path / "log.npz", **(arrays | change))
    with pytest.raises(ValueError, match=rf"log\.npz.*{message}"):
        read_learning_log(tmp_path / "log.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 1}, "bits past epoch 1"),
        ({"epoch": 65.0}, "epoch of the state must be an int"),
        ({"epoch": True}, "epoch of the state must be an int"),
        ({"num_epochs": "70"}, "num_epochs of the state must be an int"),
        ({"epoch": 71}, "cannot be epoch 71 of 70"),
    ],
)
def test_a_status_of_what_cannot_be_is_refused(change, message):
    status = _status("status")
    state = status.state_dict() | change
    with pytest.raises(ValueError, match=message):
        LearningStatus(7, 70).load_state_dict(state)
