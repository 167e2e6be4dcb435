"""Archives, pickles and lists that ask for more than they are: refused before it is allocated."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import tarfile
import time
import zipfile

import numpy as np
import pytest
import torch
from layouts import write_webvision

from mild_ext.data import plain_pickle
from mild_ext.data.plain_pickle import UnsafePickleError, read_pickle, read_torch_file
from mild_ext.data.readers import cifar
from mild_ext.data.readers.sources import load_data

# ------------------------------------------------------------------------------------ torch.save


def rewritten(path, change):
    """The members of a file of torch.save, written anew by ``change(archive, name, content)``."""
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members:
            change(archive, name, content)
    return path


def test_members_that_are_compressed_are_refused(tmp_path):
    torch.save({"a": torch.zeros(1 << 20)}, tmp_path / "t.pt")
    assert read_torch_file(tmp_path / "t.pt")["a"].sum() == 0
    rewritten(
        tmp_path / "t.pt", lambda z, name, content: z.writestr(name, content, zipfile.ZIP_DEFLATED)
    )
    with pytest.raises(ValueError, match=r"t\.pt cannot be read: its members are compressed"):
        read_torch_file(tmp_path / "t.pt")


def test_members_that_lie_about_their_size_are_refused(tmp_path):
    torch.save({"a": torch.arange(100)}, tmp_path / "t.pt")
    content = (tmp_path / "t.pt").read_bytes()
    size = (800).to_bytes(4, "little")
    assert content.count(size * 2) >= 1
    (tmp_path / "t.pt").write_bytes(content.replace(size * 2, (1 << 30).to_bytes(4, "little") * 2))
    with pytest.raises(ValueError, match=r"t\.pt cannot be read"):
        read_torch_file(tmp_path / "t.pt")


def test_a_storage_that_is_referred_to_often_is_read_once(tmp_path, monkeypatch):
    base = torch.arange(1000)
    torch.save([base[k:] for k in range(50)], tmp_path / "t.pt")
    reads = []
    read = zipfile.ZipFile.read
    monkeypatch.setattr(
        zipfile.ZipFile, "read", lambda self, name, *a: reads.append(name) or read(self, name, *a)
    )
    assert len(read_torch_file(tmp_path / "t.pt")) == 50
    assert sum("data/" in str(name) for name in reads) == 1


def test_a_file_that_is_too_large_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(plain_pickle, "LARGEST_FILE", 1000)
    torch.save(torch.zeros(1000), tmp_path / "t.pt")
    with pytest.raises(ValueError, match="larger than the 1,000 bytes"):
        read_torch_file(tmp_path / "t.pt")


# --------------------------------------------------------------------------------------- pickles


def laughs(depth: int, width: int = 10) -> bytes:
    """A pickle of lists of the same list: width ** depth values in a few hundred bytes."""
    value: list = [1] * width
    for _ in range(depth):
        value = [value] * width
    return pickle.dumps(value)


def test_a_pickle_that_stands_for_a_billion_values_is_refused_at_once():
    data = laughs(11)
    assert len(data) < 2000
    started = time.monotonic()
    with pytest.raises(UnsafePickleError, match="stands for more than"):
        read_pickle(data)
    assert time.monotonic() - started < 10
    assert np.asarray(read_pickle(laughs(2))).shape == (10, 10, 10)


@pytest.mark.parametrize("program", [b"]\x94h\x00a.", b"}\x94K\x01h\x00s."], ids=["list", "dict"])
def test_what_holds_itself_is_refused(program):
    with pytest.raises(ValueError, match="holds itself"):
        read_pickle(b"\x80\x04" + program)


def test_shared_values_of_plain_data_are_fine():
    row = [1, 2]
    assert read_pickle(pickle.dumps({"a": row, "b": [row, row]})) == {"a": row, "b": [row, row]}


# ------------------------------------------------------------------------------------------ CIFAR


def batch(count=20):
    rng = np.random.default_rng(0)
    return {
        b"data": rng.integers(0, 256, (count, 3072)).astype(np.uint8),
        b"labels": [k % 10 for k in range(count)],
    }


def archive(path, members, opener=gzip.open):
    with opener(path, "wb") as stream, tarfile.open(fileobj=stream, mode="w:") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def whole(**more):
    names = [f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]
    return {name: pickle.dumps(batch()) for name in names} | more


@pytest.mark.parametrize("opener", [gzip.open, bz2.open, lzma.open, open])
def test_archives_are_read_however_they_are_packed(opener, tmp_path):
    path = archive(tmp_path / "cifar.tar.gz", whole(), opener)
    assert len(load_data(f"cifar10:{path}")) == 100


@pytest.mark.parametrize("where", ["wanted", "passed over", "header"])
def test_what_unpacks_without_end_is_refused(where, tmp_path, monkeypatch):
    monkeypatch.setattr(cifar, "LARGEST_MEMBER", 1 << 20)
    monkeypatch.setattr(cifar, "LARGEST_ARCHIVE", 1 << 22)
    path = tmp_path / "c.tar.gz"
    if where == "wanted":
        archive(path, whole(data_batch_1=bytes(1 << 23)))
    elif where == "passed over":
        archive(path, {"readme.html": bytes(1 << 23)} | whole())
    else:
        with gzip.open(path, "wb") as stream:
            info = tarfile.TarInfo("x")
            info.type, info.size = tarfile.XHDTYPE, 1 << 23
            stream.write(info.tobuf() + bytes(1 << 23))
    with pytest.raises(ValueError, match=r"c\.tar\.gz cannot be read.*bytes that are read"):
        load_data(f"cifar10:{path}")


def test_labels_that_are_lists_of_lists_are_refused_unexpanded(tmp_path):
    shared = [0] * 1000
    odd = batch() | {b"labels": [[shared] * 1000] * 20}
    path = archive(tmp_path / "c.tar.gz", whole(data_batch_2=pickle.dumps(odd)))
    with pytest.raises(ValueError, match="20 integer labels"):
        load_data(f"cifar10:{path}")


@pytest.mark.parametrize("damage", ["cut", "flip", "noise", "empty"])
def test_damaged_archives_are_one_line(damage, tmp_path):
    path = archive(tmp_path / "c.tar.gz", whole())
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flip":
        content[len(content) // 3] ^= 255
    elif damage == "noise":
        content = bytearray(b"\x1f\x8b") + np.random.default_rng(0).bytes(3000)
    else:
        content = bytearray()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"c\.tar\.gz") as raised:
        load_data(f"cifar10:{path}")
    assert "\n" not in str(raised.value)


# ------------------------------------------------------------------------------------- path lists


@pytest.mark.parametrize("name", ["../../secret.jpg", "/etc/secret.jpg", "google/../../secret.jpg"])
def test_a_list_that_leads_out_of_its_folder_is_refused(name, tmp_path):
    pytest.importorskip("PIL")
    write_webvision(tmp_path / "w")
    load_data(f"webvision:{tmp_path / 'w'},classes=2")
    path = tmp_path / "w" / "info" / "train_filelist_google.txt"
    path.write_text(path.read_text() + f"{name} 0\n")
    with pytest.raises(ValueError, match=r"1 of \d+ lead out of it"):
        load_data(f"webvision:{tmp_path / 'w'},classes=2")
