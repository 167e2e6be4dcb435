"""Reading: everything that can be raised is one line, and nothing unpacks to more than it may."""

from __future__ import annotations

import io
import os
import tokenize
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from mild_ext import reading as module
from mild_ext.reading import (
    UnreadableFile,
    read_array,
    read_arrays,
    read_json,
    read_text,
    reading,
    require_plausible,
)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (zipfile.BadZipFile("Bad CRC-32"), "Bad CRC-32"),
        (zlib.error("Error -3"), "Error -3"),
        (EOFError(), "damaged or truncated"),
        (tokenize.TokenError("EOF in multi-line"), "damaged or truncated"),
        (MemoryError(), "more memory than there is"),
        (RecursionError(), "nested too deeply"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), "byte 0 is not utf-8 text"),
        (KeyError("rounds"), "lacks rounds"),
        (IndexError("list index"), "damaged"),
        (RuntimeError("first\nsecond"), "first"),
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (OverflowError("int too large"), "int too large"),
        (AssertionError(), "damaged"),
    ],
)
def test_whatever_is_raised_is_one_line_with_the_name(error, words):
    with pytest.raises(UnreadableFile) as raised, reading("some/file\udcff", "delete it"):
        raise error
    message = str(raised.value)
    assert message.startswith("some/file\\udcff cannot be read: ")
    assert words in message
    assert message.endswith("; delete it")
    assert "\n" not in message


def test_text_in_another_encoding_is_refused_with_its_byte_and_line(tmp_path):
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xef\xbb\xbfa\r\nb\r\ncaf\xe9\r\n")
    with pytest.raises(
        UnreadableFile, match=r"x.csv cannot be read: the byte 0xe9 in line 3 .*iconv"
    ):
        read_text(path)
    path.write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert read_text(path) == "a\r\nb"


def test_lists_of_names_of_files_need_not_be_text(tmp_path):
    name = os.fsdecode(b"caf\xe9.jpg")
    (tmp_path / name).touch()
    (tmp_path / "list").write_bytes(b"caf\xe9.jpg\n")
    assert os.path.exists(tmp_path / read_text(tmp_path / "list", names=True).strip())


def test_what_is_no_fault_of_the_file_passes():
    with pytest.raises(ImportError), reading("x"):
        raise ImportError("no pandas")
    with pytest.raises(KeyboardInterrupt), reading("x"):
        raise KeyboardInterrupt
    with pytest.raises(FileNotFoundError, match="there is no file x"), reading("x"):
        raise FileNotFoundError(2, "No such file")


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode("latin-1").ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + content


HEADERS = {
    "huge": "{'descr': '<i8', 'fortran_order': False, 'shape': (1000000000000000,), }",
    "overflow": "{'descr': '<i8', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
    "negative": "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    "objects": "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
    "wide": "{'descr': '<U999999999', 'fortran_order': False, 'shape': (1,), }",
    "code": "{'descr': '<i8', 'fortran_order': False, 'shape': (__import__('os').getpid(),), }",
    "half": "{'descr': '<i8', 'fortran_order'",
    "empty": "",
}


@pytest.mark.parametrize("kind", HEADERS)
def test_a_header_that_cannot_be_is_refused_before_anything_is_allocated(kind, tmp_path):
    raw = npy(HEADERS[kind], b"\0" * 64)
    (tmp_path / "a.npy").write_bytes(raw)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", raw)
    with pytest.raises(UnreadableFile, match=r"a\.npy cannot be read"):
        read_array(tmp_path / "a.npy")
    with pytest.raises(UnreadableFile, match=r"a\.npz cannot be read"):
        read_arrays(tmp_path / "a.npz")


def test_a_header_is_bounded_before_it_is_read(tmp_path):
    length = 100_000_000
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        head = b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little")
        archive.writestr("x.npy", head + b" " * length)
    tracemalloc.start()
    with pytest.raises(UnreadableFile, match="it claims to have a header of 100,000,000 bytes"):
        read_arrays(tmp_path / "a.npz")
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize(
    "array",
    [
        np.arange(12).reshape(3, 4),
        np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        np.array(["a", "größer"]),
        np.zeros((0, 3)),
        np.float16(2.5),
        np.array([True, False]),
        np.array(["", ""]),
    ],
)
def test_good_arrays_come_back(array, tmp_path):
    np.save(tmp_path / "a.npy", array)
    np.savez(tmp_path / "a.npz", x=array)
    np.savez_compressed(tmp_path / "b.npz", x=array)
    for found in (
        read_array(tmp_path / "a.npy"),
        read_arrays(tmp_path / "a.npz")["x"],
        read_arrays(tmp_path / "b.npz")["x"],
    ):
        assert found.dtype == np.asarray(array).dtype
        np.testing.assert_array_equal(found, array)
        assert found.flags.writeable


def test_what_unpacks_to_far_more_than_its_size_is_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "SMALL", 1 << 16)
    np.savez_compressed(tmp_path / "bomb.npz", x=np.zeros(1 << 22, np.uint8))
    with pytest.raises(UnreadableFile, match=r"bomb\.npz.*attack.*without compression"):
        read_arrays(tmp_path / "bomb.npz")
    np.savez(tmp_path / "large.npz", x=np.zeros(1 << 22, np.uint8))  # as the message advises
    assert read_arrays(tmp_path / "large.npz")["x"].sum() == 0


def test_sizes_are_plausible_up_to_a_ratio():
    require_plausible(1, module.SMALL)
    require_plausible(1 << 30, 100 << 30)
    with pytest.raises(ValueError, match="attack"):
        require_plausible(1 << 20, module.SMALL + 1)


def test_an_array_that_claims_less_than_it_holds_is_refused(tmp_path):
    file = io.BytesIO()
    np.save(file, np.arange(10))
    (tmp_path / "two.npy").write_bytes(file.getvalue() * 2)
    with pytest.raises(UnreadableFile, match="more in it"):
        read_array(tmp_path / "two.npy")


def test_two_arrays_of_one_name_are_refused(tmp_path):
    file = io.BytesIO()
    np.save(file, np.arange(3))
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", file.getvalue())
        with pytest.warns(UserWarning, match="Dup"):
            archive.writestr("x.npy", file.getvalue())
    with pytest.raises(UnreadableFile, match="two arrays of one name"):
        read_arrays(tmp_path / "a.npz")


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": 1', "\ud800", "nul", "1" * 5000, ""])
def test_json_that_cannot_be_read_is_one_line(text, tmp_path):
    (tmp_path / "x.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UnreadableFile, match=r"x\.json cannot be read"):
        read_json(tmp_path / "x.json")


def test_no_more_than_a_limit_is_read_as_text(tmp_path):
    with open(tmp_path / "x", "wb") as file:
        file.truncate(module.LARGEST_TEXT + 1)  # a hole: it takes no place
    with pytest.raises(UnreadableFile, match="more than the"):
        read_text(tmp_path / "x")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for read in (read_array, read_arrays, read_json, read_text):
        with pytest.raises(UnreadableFile, match="no regular file"):
            read(tmp_path / "pipe")
        with pytest.raises(UnreadableFile, match="no regular file"):
            read("/dev/zero")
