"""The pickle reader: plain data comes through, nothing is ever executed."""

import datetime
import os
import pickle
import pickletools
import struct
import time

import numpy as np
import pytest
import torch

from mild_ext.data.plain_pickle import UnsafePickleError, read_npy, read_pickle, read_torch_file

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)


def same(a, b):
    if isinstance(b, np.ndarray):
        return isinstance(a, np.ndarray) and a.dtype == b.dtype and np.array_equal(a, b)
    if isinstance(b, dict):
        return list(a) == list(b) and all(same(a[k], b[k]) for k in b)
    if isinstance(b, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_out_as_pickle_would_load_it(protocol):
    array = np.arange(24, dtype=np.int64).reshape(2, 3, 4)
    value = {
        "numbers": [0, -1, 255, 256, 2**31, -(2**63), 2**70, 0.5, float("inf")],
        "text": ["", "é", "x" * 300, "\n'\\"],
        "constants": (None, True, False, (), [], {}),
        "nested": {1: (1, 2), 2: (1, 2, 3, 4)},
        "array": array,
        "again": array,
        "fortran": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "big-endian": np.arange(3, dtype=">i4"),
        "float16": np.ones(3, np.float16),
        "empty": np.zeros((0, 3), np.float32),
    }
    if protocol > 0:
        value["bytes"] = b"\x00\xff" * 200
    read = read_pickle(pickle.dumps(value, protocol=protocol))
    assert same(read, value)
    assert read["again"] is read["array"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_numpy_scalars_and_ordered_dicts_become_plain(protocol):
    from collections import OrderedDict

    value = OrderedDict(a=np.float64(0.25), b=np.int32(-3), c=np.bool_(True))
    assert read_pickle(pickle.dumps(value, protocol=protocol)) == {"a": 0.25, "b": -3, "c": True}


class Calls:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


class Plain:
    pass


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "make",
    [
        lambda path: Calls(os.system, f"touch {path}"),
        lambda path: Calls(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Calls(open, str(path), "w"),
        lambda path: Calls(getattr, "text", "join"),
        lambda path: Plain(),
        lambda path: Plain,
        lambda path: datetime.date(2026, 1, 1),
        lambda path: np.array([Calls(open, str(path), "w")], dtype=object),
        lambda path: {"data": np.arange(3), "labels": Calls(open, str(path), "w")},
    ],
    ids=["system", "eval", "open", "getattr", "object", "class", "date", "objects", "nested"],
)
def test_malicious_or_foreign_pickles_are_refused_and_not_executed(tmp_path, make, protocol):
    victim = tmp_path / "executed"
    data = pickle.dumps(make(victim), protocol=protocol)
    with pytest.raises(UnsafePickleError):
        read_pickle(data)
    assert not victim.exists()


@pytest.mark.parametrize(
    "data",
    [
        # INST and OBJ call a class without REDUCE; EXT1 looks one up in a registry of numbers.
        b"(S'touch /nowhere'\nios\nsystem\n.",
        b"(cos\nsystem\nS'true'\no.",
        b"\x80\x02\x82\x01.",
        # BUILD with a state on something that is no array: __setstate__ or __dict__ of the target.
        b"cnumpy\nndarray\n}b.",
        # Names that look like the known ones, built up at run time.
        b"\x80\x04\x8c\x05numpy\x8c\x04load\x93.",
        b"\x80\x04\x8c\x0eos.path\nsystem0\x8c\x01x\x93.",
        # A known name with arguments it is never given: dtype that names a Python object.
        pickle.dumps(np.dtype(object)),
        b"cnumpy\ndtype\n(S'O8'\nI0\nI1\ntR.",
    ],
    ids=["inst", "obj", "ext1", "build-name", "load", "newline", "dtype-object", "dtype-o8"],
)
def test_hand_written_programs_are_refused(data):
    with pytest.raises(ValueError, match=r"pickle"):
        read_pickle(data)


@pytest.mark.parametrize(
    "used", [b"\x8c\x01x\x93.", b"}\x86\x93.", b"q\x00}h\x00K\x01s.", b"q\x00}(h\x00K\x01u."]
)
def test_values_that_are_endless_to_look_at_are_refused_at_once(used):
    """A tuple of one tuple twice, fifty times over: its text and its hash would take years."""
    deep = b"\x80\x04)" + b"2\x86" * 50
    started = time.process_time()
    with pytest.raises(ValueError, match=r"pickle"):
        read_pickle(deep + used)
    assert time.process_time() - started < 30


def test_truncated_and_foreign_bytes_say_that_they_are_damaged():
    data = pickle.dumps({"a": np.arange(100), "b": [1, 2, 3]})
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="damaged"):
            read_pickle(data[:cut])
    with pytest.raises(ValueError, match="damaged"):
        read_pickle(b"PK\x03\x04 no pickle")


def test_an_array_that_claims_more_than_it_holds_is_refused():
    data = pickle.dumps(np.arange(6, dtype=np.uint8), protocol=2)
    for shape in (7, 2**40):
        changed = data.replace(b"K\x06\x85", b"\x8a\x06" + shape.to_bytes(6, "little") + b"\x85")
        assert changed != data
        with pytest.raises(ValueError, match="damaged"):
            read_pickle(changed)


def test_no_opcode_is_forgotten():
    """Each opcode is either handled or refused by name; the ones that call are among the refused."""
    refused = {"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}
    for opcode in pickletools.opcodes:
        if opcode.name in refused:
            with pytest.raises(ValueError, match=r"refers|uses|damaged"):
                read_pickle(opcode.code.encode("latin-1") + b"\x00" * 8 + b"\n\n.")


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_torch_files(tmp_path, zipped):
    value = {
        "array": np.arange(5),
        "tensor": torch.arange(10).view(2, 5),
        "part": torch.arange(10, dtype=torch.uint8)[3:6],
        "bool": torch.tensor([True, False]),
        "text": "x",
    }
    path = tmp_path / "file.pt"
    torch.save(value, path, _use_new_zipfile_serialization=zipped)
    read = read_torch_file(path)
    assert read["text"] == "x"
    for key in ("array", "tensor", "part", "bool"):
        assert np.array_equal(read[key], np.asarray(value[key]))


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
def test_malicious_and_damaged_torch_files_are_refused(tmp_path, zipped):
    victim, path = tmp_path / "executed", tmp_path / "file.pt"
    torch.save({"a": Calls(open, str(victim), "w")}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match="open"):
        read_torch_file(path)
    assert not victim.exists()
    torch.save(torch.nn.Linear(2, 2), path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsafePickleError, match="Linear"):
        read_torch_file(path)
    torch.save({"a": torch.arange(100)}, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-300])
    with pytest.raises(ValueError, match=r"truncated|damaged|no file of torch"):
        read_torch_file(path)
    with pytest.raises(ValueError, match="no file"):
        read_torch_file(tmp_path / "missing.pt")


def test_npy_with_a_dict_inside(tmp_path):
    path = tmp_path / "d.npy"
    np.save(path, {"labels": np.arange(3)}, allow_pickle=True)
    assert read_npy(path)["labels"].tolist() == [0, 1, 2]
    np.save(path, np.arange(4))
    assert read_npy(path).tolist() == [0, 1, 2, 3]
    np.save(path, np.array([Plain(), 1], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafePickleError):
        read_npy(path)
    victim = tmp_path / "executed"
    np.save(path, {"labels": Calls(open, str(victim), "w")}, allow_pickle=True)
    with pytest.raises(UnsafePickleError):
        read_npy(path)
    assert not victim.exists()


def test_a_legacy_file_with_a_lying_storage_size_is_refused(tmp_path):
    path = tmp_path / "file.pt"
    torch.save(torch.arange(4), path, _use_new_zipfile_serialization=False)
    data = path.read_bytes()
    place = data.rindex(struct.pack("<q", 4) + np.arange(4).tobytes())
    for count in (2**60, -1, 5):
        path.write_bytes(data[:place] + struct.pack("<q", count) + data[place + 8 :])
        with pytest.raises(ValueError, match="truncated"):
            read_torch_file(path)


def test_a_text_with_an_unknown_escape_is_read_without_a_warning():
    """Text of the oldest protocol, damaged; Python's own decoder warns of it."""
    assert read_pickle(b"S'\\q'\n.") == "\\q"
