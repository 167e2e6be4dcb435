"""Writing: complete or not at all, one line when it fails, and names that survive whatever their bytes are."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ranks import forks

from mild_ext import LearningStatus
from mild_ext.files import (
    CannotWrite,
    as_name,
    as_text,
    remove_partial,
    write_atomically,
    write_text,
    writing,
)
from mild_ext.recording.learning_log import LearningLog, write_learning_log
from mild_ext.sealed import write_sealed_json, write_tensors


@given(st.binary(max_size=40))
def test_every_name_survives_and_is_text(raw):
    name = os.fsdecode(raw)
    as_text(name).encode("utf-8")
    if "\\u" not in name:
        assert as_name(as_text(name)) == name


def test_a_text_file_holds_names_that_are_no_text(tmp_path):
    write_text(tmp_path / "t.csv", "caf\udce9.jpg,größe\n")
    text = (tmp_path / "t.csv").read_text(encoding="utf-8")
    assert as_name(text) == "caf\udce9.jpg,größe\n"


def _fill(folder, what):
    """With a limit on the size of files, as on a disk that is full; the message, and what is left."""
    import numpy as np

    signal_free = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, signal_free[1]))
    path = folder / "the file"
    writers = {
        "text": lambda: write_text(path, "x" * 10_000),
        "json": lambda: write_sealed_json(path, {"x": "y" * 10_000}),
        "tensors": lambda: write_tensors(path, {"t": torch.rand(10_000)}, {"format": "x"}),
        "status": lambda: LearningStatus(10_000, 3).save(path),
        "log": lambda: write_learning_log(
            path,
            LearningLog(
                memorized=np.random.default_rng(0).random((9000, 9)) < 0.5,
                given_label=np.arange(9000),
            ),
        ),
        "copy": lambda: write_atomically(path, lambda to: shutil.copyfile(sys.executable, to)),
    }
    try:
        writers[what]()
    except CannotWrite as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, signal_free)
        (folder / "message").write_text(f"{error.errno} {error}")


@pytest.mark.parametrize("what", ["text", "json", "tensors", "status", "log", "copy"])
def test_a_disk_that_is_full_is_one_line_and_the_earlier_file_stays(what, tmp_path):
    (tmp_path / "the file").write_text("before")
    process = forks().Process(target=_fill, args=(tmp_path, what))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    number, _, message = (tmp_path / "message").read_text().partition(" ")
    assert int(number) == errno.EFBIG
    assert message.startswith(f"cannot write {tmp_path / 'the file'}: File too large")
    assert "complete and stays" in message
    assert "\n" not in message
    assert (tmp_path / "the file").read_text() == "before"
    assert {p.name for p in tmp_path.iterdir()} == {"the file", "message"}


def test_a_folder_that_vanished_is_one_line(tmp_path):
    folder = tmp_path / "gone"
    folder.mkdir()

    def write(temporary):
        temporary.write_text("x")
        shutil.rmtree(folder)

    for path, how in ((folder / "x", write), (tmp_path / "never" / "x", write)):
        with pytest.raises(CannotWrite, match=rf"cannot write {path}: No such file.*its folder"):
            write_atomically(path, how)


def test_only_what_the_system_refuses_is_turned_into_a_line(tmp_path):
    with pytest.raises(ZeroDivisionError), writing(tmp_path):
        raise ZeroDivisionError
    with pytest.raises(CannotWrite, match="No space left.*free some space"), writing("x"):  # noqa: RUF043
        raise RuntimeError("Error while serializing: I/O error: No space left (os error 28)")


def test_sweeping_follows_no_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    mine = tmp_path / "elsewhere" / ".x.1-a.partial"
    mine.touch()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "run" / ".y.1-a.partial").touch()
    remove_partial(tmp_path / "run")
    assert mine.exists()
    assert {p.name for p in (tmp_path / "run").iterdir()} == {"link"}


def test_a_pipe_or_a_device_is_never_replaced_by_a_file(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    for path in (pipe, tmp_path / "link", ""):
        with pytest.raises(ValueError, match="is no regular file; name a file to write"):
            LearningStatus(4, 2).save(path)
    assert pipe.is_fifo()
    assert (tmp_path / "link").is_symlink()
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_name_as_long_as_can_be_is_written(tmp_path):
    """The temporary name is longer than the file's own, and must not be what is too long."""
    path = tmp_path / ("x" * 243 + ".safetensors")
    status = LearningStatus(2, 2)
    status.save(path)
    assert LearningStatus.load(path).num_samples == 2
    write_text(tmp_path / ("." + "y" * 254), "text")
    write_text(tmp_path / ("ß" * 125 + ".csv"), "text")
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize("path", [b"x", 5, None, ["x"]])
def test_what_is_no_path_is_named(path):
    with pytest.raises(TypeError, match=r"path must be a str or a pathlib\.Path, got"):
        LearningStatus(2, 2).save(path)
    with pytest.raises(TypeError, match=r"path must be a str or a pathlib\.Path, got"):
        LearningStatus.load(path)


def test_a_name_that_the_system_refuses_is_named(tmp_path):
    with pytest.raises(CannotWrite, match=r"a{255}"):
        write_text(tmp_path / ("a" * 300), "text")
