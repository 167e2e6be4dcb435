"""Fuzzing of every file that is read: a refusal of one line with its name, or the truth; never anything else.

How a silent acceptance would be known: a sealed file that is read must say what was written into it, whatever was done
to it; of a file without a seal, what comes back must keep the rules that its reader states. ``MILD_EXT_FUZZ_SECONDS``
sets how long each target is tried, ``MILD_EXT_FUZZ_SEED`` where it begins.
"""

from __future__ import annotations

import gzip
import io
import json
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import search

from mild_ext import LearningStatus
from mild_ext.cli import main
from mild_ext.data.plain_pickle import read_npy, read_pickle, read_torch_file
from mild_ext.data.readers.sources import load_data
from mild_ext.integrations.tracker import RoundTracker
from mild_ext.reading import read_array, read_arrays
from mild_ext.recording.learning_log import LearningLog, read_learning_log, write_learning_log
from mild_ext.sealed import checksum, write_sealed_json
from mild_ext.selection import PlantedLabels
from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mild_ext.training.comparison_folder import read_results
from mild_ext.training.experiment import choose_settings
from mild_ext.training.recipe import Recipe, preset, read_settings
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.run_rounds import RoundsResult

pytestmark = pytest.mark.slow


def plain(value: Any) -> Any:
    """What a thing says, in a form that can be compared."""
    if isinstance(value, torch.Tensor | np.ndarray):
        return str(value.dtype), repr(value.tolist())
    if isinstance(value, dict):
        return {str(key): plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return plain(vars(value)) if hasattr(value, "__dict__") else repr(value)


def refused(error: Exception, path: Path) -> None:
    """A refusal must be one line, and name the file."""
    message = str(error)
    assert path.name in message, f"{type(error).__name__} without the file's name: {message}"
    assert "\n" not in message, message
    assert len(message) < 2000


def outcome(read: Callable[..., Any], what: Any, *errors: type[Exception]) -> tuple[Any, Any]:
    """What is read, or the error, which must be one of these."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return read(what), None
        except errors as error:
            return None, error


def written(folder: Path, write: Callable[[Path], object]) -> bytes:
    path = folder / "good"
    write(path)
    return path.read_bytes()


# ---------------------------------------------------------------------------------- sealed files


def _status(record: str = "status") -> LearningStatus:
    status = LearningStatus(5, 9, num_classes=None if record == "status" else 3, record=record)
    generator = torch.Generator().manual_seed(0)
    for _ in range(4):
        index = torch.randperm(5, generator=generator)[:3]
        status.update(index, torch.randn(3, 3, generator=generator), index % 3)
        status.advance()
    return status


def _result() -> RoundsResult:
    whole = {name: torch.arange(3) for name in ("labels", "round_dropped", "suggested_label")}
    whole |= {name: torch.arange(3, dtype=torch.int32) for name in ("misclassified", "seen")}
    shares = ("clean_probability", "suspicion", "suggestion_confidence")
    whole |= {name: torch.linspace(0, 1, 3) for name in shares}
    return RoundsResult(**whole, kept=torch.ones(3) > 0, rounds=[{"round": 0}], stop_reason="done")


def _restored(path: Path) -> Any:
    tracker = RoundTracker(4, [2, 2])
    tracker.restore(path)
    return tracker.state_dict()


def _log() -> LearningLog:
    rng = np.random.default_rng(0)
    loss = rng.random((4, 9)).astype(np.float16)
    return LearningLog(rng.random((4, 9)) < 0.5, np.arange(4), loss=loss, ids=np.arange(4) * 2)


ROWS = [{"noise": "n", "seed": 0, "method": "mild", "epochs": 3, "test_accuracy": 0.5}]
SETTINGS = choose_settings("digits", None, {"rounds": 1}, device="cpu", threads=1)

SEALED: dict[str, tuple[Callable[[Path], object], Callable[[Path], Any]]] = {
    "checkpoint": (
        lambda p: save_checkpoint(p, {"momentum": 0.9, "w": torch.arange(4.0), "r": [1, None]}),
        load_checkpoint,
    ),
    "status": (lambda p: _status().save(p), lambda p: LearningStatus.load(p).state_dict()),
    "visits": (lambda p: _status("all").save(p), lambda p: LearningStatus.load(p).state_dict()),
    "result": (lambda p: _result().save(p), RoundsResult.load),
    "planted": (
        lambda p: PlantedLabels(torch.arange(4), torch.tensor([1]), torch.tensor([0])).save(p),
        PlantedLabels.load,
    ),
    "tracker": (lambda p: RoundTracker(4, [2, 2]).save(p), _restored),
    "comparison": (lambda p: write_sealed_json(p, {"rows": ROWS}), read_results),
}


@pytest.mark.parametrize("kind", SEALED)
def test_a_sealed_file_is_the_truth_or_refused(kind, tmp_path):
    write, read = SEALED[kind]
    good = written(tmp_path, write)
    truth, path = plain(read(tmp_path / "good")), tmp_path / "the-file"
    older = b"/1", b"/2", b"-2"  # the only files that are read without a seal

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = plain(read(path))
        except (ValueError, CheckpointError) as error:
            refused(error, path)
        except FileNotFoundError:
            raise AssertionError("the file is there") from None
        else:
            assert found == truth or any(mark in content for mark in older) or _unsealed(content)

    search(f"sealed-{kind}", {"good": good}, attempt)


def _unsealed(content: bytes) -> bool:
    """JSON without a seal, which is what an earlier version wrote, or one that was sealed anew."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return False
    seal = record.pop("crc32", None)
    return seal is None or seal == checksum(record)


# ------------------------------------------------------------------------------------- learning logs


def test_a_log_is_the_truth_or_refused(tmp_path):
    good = written(tmp_path, lambda p: write_learning_log(p, _log()))
    with np.load(tmp_path / "good") as file:
        arrays = {name: file[name] for name in file.files if name != "crc32"}
    bare = io.BytesIO()
    np.savez(bare, **arrays)
    truth, path = plain(_log()), tmp_path / "the-log.npz"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            log = read_learning_log(path)
        except ValueError as error:
            refused(error, path)
            return
        if b"crc32.npy" in content:
            names = ("memorized", "given_label", "loss", "ids")
            found = plain(log)
            assert all(found[n] == truth[n] for n in names) or content.count(b"crc32.npy") < 2
        assert log.memorized.dtype == bool
        assert log.given_label.min() >= 0
        assert log.ids is None or len(set(log.ids.tolist())) == len(log.ids)
        assert log.status().epoch == log.num_epochs

    search("log", {"good": good, "bare": bare.getvalue()}, attempt)


# --------------------------------------------------------------------------------- arrays, archives


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_arrays_are_no_larger_than_their_file(tmp_path):
    good = {"ints": _npy(np.arange(6).reshape(2, 3)), "text": _npy(np.array(["a", "bc"]))}
    path = tmp_path / "the-array.npy"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            array = read_array(path)
        except ValueError as error:
            refused(error, path)
        else:
            assert array.nbytes <= len(content)
            assert not array.dtype.hasobject

    search("npy", good, attempt)


def test_archives_of_arrays(tmp_path):
    stored, packed = io.BytesIO(), io.BytesIO()
    np.savez(stored, x_train=np.arange(12.0).reshape(6, 2), y_train=np.arange(6) % 2)
    np.savez_compressed(packed, x_train=np.zeros((6, 2)), y_train=np.arange(6) % 2)
    path = tmp_path / "the-data.npz"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        _, error = outcome(read_arrays, path, ValueError)
        if error:
            refused(error, path)
        data, error = outcome(load_data, f"npz:{path}", ValueError, TypeError)
        assert "\n" not in str(error)
        assert data is None or len(data) == len(data.labels)

    search("npz", {"s": stored.getvalue(), "p": packed.getvalue()}, attempt)


def _tar() -> bytes:
    rng = np.random.default_rng(0)
    file = io.BytesIO()
    with gzip.open(file, "wb") as stream, tarfile.open(fileobj=stream, mode="w:") as tar:
        for k, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
            data = rng.integers(0, 256, (1, 3072)).astype(np.uint8)
            content = pickle.dumps({b"data": data, b"labels": [3 + k % 2]})
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_archives_of_cifar(tmp_path):
    path = tmp_path / "cifar-the.tar.gz"
    good = _tar()
    bare = gzip.decompress(good)

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        try:
            data = load_data(f"cifar10:{path}")
        except ValueError as error:
            refused(error, path)
        else:
            assert 0 <= int(data.labels.min()) <= int(data.labels.max()) < 10

    search("cifar", {"packed": good, "bare": bare}, attempt)


# ------------------------------------------------------------------------------------------ pickles


def _programs() -> dict[str, bytes]:
    value = {"labels": [3, 1], "rate": 0.5, "x": np.arange(3), b"y": (None, True, "ä")}
    return {str(p): pickle.dumps(value, protocol=p) for p in (0, 2, 4, 5)}


PLAIN = (type(None), bool, int, float, str, bytes, bytearray, np.ndarray)


def _is_plain(value: Any) -> bool:
    waiting, done = [value], set()
    while waiting:
        item = waiting.pop()
        if isinstance(item, list | tuple | dict):
            if id(item) not in done:
                done.add(id(item))
                waiting += [*item, *item.values()] if isinstance(item, dict) else item
        elif not isinstance(item, PLAIN):
            return False
    return True


def test_pickles_give_plain_data_or_nothing(tmp_path):
    def attempt(content: bytes) -> None:
        value, error = outcome(read_pickle, content, ValueError)
        assert str(error)
        assert _is_plain(value)

    search("pickle", _programs(), attempt)


def test_files_of_torch_save_and_of_objects(tmp_path):
    good = {}
    for name, new in (("zip", True), ("old", False)):
        torch.save(
            {"clean_label": torch.arange(4), "worse_label": np.arange(4)},
            tmp_path / "t",
            _use_new_zipfile_serialization=new,
        )
        good[name] = (tmp_path / "t").read_bytes()
    good["npy"] = _npy(np.array({"clean_label": np.arange(4)}, dtype=object))
    path = tmp_path / "the-labels"

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        for read in (read_torch_file, read_npy):
            value, error = outcome(read, path, ValueError)
            if error:
                refused(error, path)
            assert _is_plain(value) or isinstance(value, np.generic)

    search("torch", good, attempt)


# -------------------------------------------------------------------------------------- run folders


def _recipe(path: Path) -> Recipe:
    settings = read_settings(path)
    return preset(settings.pop("recipe", "default")).override(settings)


def test_recipes(tmp_path):
    good = {
        "json": json.dumps({"recipe": "digits", "lr": 0.1, "rounds": 3, "nesterov": True}).encode(),
        "toml": b'recipe = "digits"\nlr = 0.1\nrounds = 3\n',
        "yaml": b"recipe: digits\nlr: 0.1\nrounds: 3\nper_class: yes\n",
    }
    pytest.importorskip("yaml")

    def attempt(content: bytes) -> None:
        for suffix in good:
            path = tmp_path / f"the-recipe.{suffix}"
            path.write_bytes(content)
            recipe, error = outcome(_recipe, path, ValueError, TypeError)
            assert "\n" not in str(error)
            assert error or Recipe(**recipe.to_dict()) == recipe

    search("recipe", good, attempt)


def test_configs_sealed_by_whoever(tmp_path):
    """Whatever settings a folder holds: those of a run, or a refusal; with a seal that fits."""
    path = tmp_path / "config.json"

    def attempt(content: bytes) -> None:
        try:
            write_sealed_json(path, {"settings": json.loads(content)})
        except (ValueError, RecursionError, TypeError):
            path.write_bytes(content)
        try:
            settings = RunFolder(tmp_path).read_settings()
        except ValueError as error:
            refused(error, path)
        else:
            assert type(settings.threads) is int
            assert type(settings.data) is str
            told = json.loads(path.read_text())["settings"]
            assert {k: v for k, v in settings.to_dict().items() if k in told} | told == told

    search("config", {"good": json.dumps(SETTINGS.to_dict()).encode()}, attempt)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("fuzzed")
    rng = np.random.default_rng(0)
    np.savez(folder / "d.npz", x_train=rng.normal(size=(20, 3)), y_train=np.arange(20) % 2)
    options = [
        "--method=mild-rounds",
        "--model=mlp",
        "--rounds=1",
        "--first-epochs=2",
        "--final-epochs=1",
        "--quiet",
    ]
    options += ["--data", f"npz:{folder / 'd.npz'}", "--device=cpu", "--threads=1", "--no-compare"]
    assert main(["train", *options, "--out", str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("name", ["config.json", "history.jsonl", "summary.json", "selection.csv"])
def test_a_report_on_anything_is_a_page_or_a_line(name, run, capsys):
    """The whole command, as at the terminal."""
    path = run / name
    good = path.read_bytes()

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        status = main(["report", str(run), "--no-thumbnails"])
        error = capsys.readouterr().err
        assert status in (0, 1)
        if status:
            assert error.startswith("mild-ext: error: ")
            assert error.count("\n") == 1

    try:
        search(f"report-{name}", {"good": good}, attempt, least=6)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["rounds", "training"])
def test_a_resume_from_anything_is_identical_or_a_line(name, run, capsys):
    """The whole command: a damaged checkpoint is refused by name, and never trained on."""
    path = run / "checkpoints" / f"{name}.safetensors"
    good, expected = path.read_bytes(), (run / "model.safetensors").read_bytes()

    def attempt(content: bytes) -> None:
        path.write_bytes(content)
        status = main(["train", "--resume", "--quiet", "--out", str(run)])
        error = capsys.readouterr().err
        assert status in (0, 1)
        if status:
            assert path.name in error
            assert error.count("\n") == 1
        else:
            assert (run / "model.safetensors").read_bytes() == expected

    try:
        search(f"resume-{name}", {"good": good}, attempt, least=6)
    finally:
        path.write_bytes(good)


def test_members_of_zip_files_in_a_corpus_are_small():
    """The corpus is text that goes into the repository."""
    from mutations import CORPUS

    files = list(CORPUS.glob("*")) if CORPUS.exists() else []
    assert sum(path.stat().st_size for path in files) < 200_000
    assert not any(zipfile.is_zipfile(path) and path.stat().st_size > 50_000 for path in files)
