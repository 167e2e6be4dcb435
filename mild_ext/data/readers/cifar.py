"""CIFAR-10 and CIFAR-100 from the original archives, Python or binary version, packed or not.

Krizhevsky, "Learning Multiple Layers of Features from Tiny Images", 2009. The Python version is a
set of pickles; it is read with `plain_pickle`, which executes nothing of it.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
import torch

from mild_ext.data.plain_pickle import read_pickle
from mild_ext.data.sets import LabeledData, array_data
from mild_ext.reading import reading

_Array = np.ndarray[Any, Any]
PIXELS = 3 * 32 * 32

#: Most bytes of one file of an archive, and of all of it; CIFAR-100's training file has 155 million.
LARGEST_MEMBER, LARGEST_ARCHIVE = 1 << 28, 1 << 30

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)

#: truck -> automobile, bird -> airplane, deer -> horse, cat <-> dog; the others stay.
CIFAR10_MAP = (0, 1, 0, 5, 7, 3, 6, 7, 8, 1)

#: The next class within each block of five consecutive classes, as MILD's authors and others do it.
#: The classes are in alphabetical order, so the blocks are not the superclasses: see `superclasses`.
CIFAR100_MAP = tuple(5 * (k // 5) + (k + 1) % 5 for k in range(100))


@dataclass(frozen=True)
class _Version:
    """File names of one version of one data set."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    coarse_names: str | None
    binary: bool


_VERSIONS = {
    10: (
        _Version(
            tuple(f"data_batch_{k}" for k in range(1, 6)),
            ("test_batch",),
            "batches.meta",
            None,
            False,
        ),
        _Version(
            tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
            ("test_batch.bin",),
            "batches.meta.txt",
            None,
            True,
        ),
    ),
    100: (
        _Version(("train",), ("test",), "meta", "meta", False),
        _Version(
            ("train.bin",), ("test.bin",), "fine_label_names.txt", "coarse_label_names.txt", True
        ),
    ),
}


def load_cifar10(path: str) -> LabeledData:
    """CIFAR-10: 50,000 training and 10,000 test images of 32 x 32 in 10 classes.

    Args:
        path: ``cifar-10-python.tar.gz``, ``cifar-10-binary.tar.gz``, the folder that one of them
            unpacks to, or a folder that holds one of these.

    Raises:
        ValueError: files are missing, damaged, or hold more than plain data.
    """
    return _load(path, 10)


def load_cifar100(path: str) -> LabeledData:
    """CIFAR-100: 50,000 training and 10,000 test images of 32 x 32 in 100 classes (fine labels).

    Args:
        path: ``cifar-100-python.tar.gz``, ``cifar-100-binary.tar.gz``, the folder that one of them
            unpacks to, or a folder that holds one of these.

    Raises:
        ValueError: files are missing, damaged, or hold more than plain data.
    """
    return _load(path, 100)


def _load(argument: str, num_classes: int) -> LabeledData:
    path = Path(argument).expanduser()
    files, version = _read_files(path, num_classes)
    read = _read_binary if version.binary else _read_python

    def read_part(file_names: tuple[str, ...]) -> list[_Array]:
        """Images, fine labels and coarse labels of some files together."""
        pieces = [read(files.pop(name), f"{path}: {name}", num_classes) for name in file_names]
        return [np.concatenate(arrays) for arrays in zip(*pieces, strict=True)]

    images, labels, coarse_labels = read_part(version.train)
    test_images, test_labels, _ = read_part(version.test)
    data = array_data(
        f"cifar{num_classes}",
        images,
        torch.from_numpy(labels),
        _class_names(files, version, num_classes, path),
        x_test=test_images,
        y_test=torch.from_numpy(test_labels),
        true_labels=torch.from_numpy(labels),
        noise_map=CIFAR10_MAP if num_classes == 10 else CIFAR100_MAP,
    )
    if num_classes == 100:
        data.superclasses = _superclasses(labels, coarse_labels, path)
    if len(images) != 50_000:
        data.messages.append(f"{path} holds {len(images)} training images; the original has 50,000")
    return data


def _read_files(path: Path, num_classes: int) -> tuple[dict[str, bytes], _Version]:
    """The wanted files of the archive or folder, by name."""
    versions = _VERSIONS[num_classes]
    wanted = {
        name
        for v in versions
        for name in (*v.train, *v.test, v.names, *([v.coarse_names] if v.coarse_names else []))
    }
    if path.is_file():
        candidates = [path]
    elif path.is_dir():
        # The folder itself, a folder it holds, or an archive it holds.
        candidates = [path, *sorted(p for p in path.glob(f"cifar-{num_classes}-*"))]
    else:
        raise ValueError(f"there is no file or folder {path}")
    for candidate in candidates:
        with reading(candidate, "expected the original .tar.gz, or the folder it unpacks to"):
            files = {name: read() for name, read in _entries(candidate) if name in wanted}
        for version in versions:
            if any(name in files for name in version.train):
                missing = [n for n in (*version.train, *version.test) if n not in files]
                if missing:
                    raise ValueError(f"{candidate} is incomplete: {', '.join(missing)} is missing")
                return files, version
    raise ValueError(
        f"{path} holds no CIFAR-{num_classes}: expected {versions[0].train[0]}, ... (Python version) "
        f"or {versions[1].train[0]}, ... (binary version), or the .tar.gz of one of them"
    )


def _entries(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Name and content of the files in a folder or a tar archive; nothing is unpacked to disk."""
    if path.is_dir():
        for file in sorted(path.iterdir()):
            if file.is_file():
                yield file.name, partial(_read_bounded, file)
        return
    with path.open("rb") as start:
        magic = start.read(6)
    opener = next((o for m, o in _DECOMPRESSORS.items() if magic.startswith(m)), open)
    with opener(path, "rb") as stream:
        bounded: Any = BoundedStream(stream)
        with tarfile.open(fileobj=bounded, mode="r:") as archive:
            for member in archive:
                if member.isfile():
                    name = PurePosixPath(member.name).name
                    yield name, partial(_extract, archive, member)


_DECOMPRESSORS: dict[bytes, Callable[..., Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ": lzma.open,
}


class BoundedStream:
    """A stream that a tar archive is read from, which refuses to give more than CIFAR can hold.

    A few kilobytes can unpack to terabytes, in a member, in a header, or in what is passed over.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self.stream = stream

    def read(self, count: int = -1) -> bytes:
        if not 0 <= count <= LARGEST_MEMBER:
            raise ValueError(
                f"it holds something larger than the {LARGEST_MEMBER:,} bytes that are read"
            )
        return self.stream.read(count)

    def seek(self, position: int) -> int:
        if position > LARGEST_ARCHIVE:
            raise ValueError(f"it unpacks to more than the {LARGEST_ARCHIVE:,} bytes that are read")
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


def _read_bounded(path: Path) -> bytes:
    if path.stat().st_size > LARGEST_MEMBER:
        raise ValueError(f"{path.name} is larger than the {LARGEST_MEMBER:,} bytes that are read")
    return path.read_bytes()


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    return b"" if file is None else file.read(member.size)


def _read_binary(data: bytes, where: str, num_classes: int) -> tuple[_Array, _Array, _Array]:
    """Records of one label byte (CIFAR-100: coarse, then fine) and 3,072 bytes of red, green, blue."""
    label_bytes = 1 if num_classes == 10 else 2
    if not data or len(data) % (label_bytes + PIXELS):
        raise ValueError(
            f"{where} is truncated: {len(data)} bytes are no multiple of {label_bytes + PIXELS}"
        )
    records = np.frombuffer(data, np.uint8).reshape(-1, label_bytes + PIXELS)
    labels = records[:, :label_bytes].astype(np.int64)
    _check_labels(labels[:, -1], where, num_classes)
    return records[:, label_bytes:].reshape(-1, 3, 32, 32), labels[:, -1], labels[:, 0]


def _read_python(data: bytes, where: str, num_classes: int) -> tuple[_Array, _Array, _Array]:
    """A pickled dict with ``data`` uint8 ``[n, 3072]`` and ``labels``, or fine and coarse labels."""
    content = _read_dict(data, where)
    keys = ("labels", "labels") if num_classes == 10 else ("fine_labels", "coarse_labels")
    missing = {"data", *keys} - set(content)
    if missing:
        raise ValueError(f"{where} holds no {', '.join(sorted(missing))}")
    images = content["data"]
    if not isinstance(images, np.ndarray) or images.dtype != np.uint8:
        raise ValueError(f"{where} holds no array of bytes as data")
    if images.ndim != 2 or images.shape[1] != PIXELS:
        raise ValueError(f"the data of {where} must be [n, {PIXELS}], got {images.shape}")
    fine, coarse = (_integers(content[key], where, len(images)) for key in keys)
    _check_labels(fine, where, num_classes)
    return images.reshape(-1, 3, 32, 32), fine, coarse


def _read_dict(data: bytes, where: str) -> dict[str, Any]:
    try:
        content = read_pickle(data)
    except ValueError as error:
        raise ValueError(f"cannot read {where}: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{where} holds no dict")
    return {k.decode("latin-1") if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def _integers(values: Any, where: str, count: int) -> _Array:
    # A list is looked at first: one of lists may stand for far more than its size.
    flat = isinstance(values, np.ndarray) or (
        isinstance(values, list | tuple) and all(type(value) is int for value in values)
    )
    try:
        array = np.asarray(values if flat else [])
    except OverflowError:
        array = np.empty(0)
    if array.shape != (count,) or array.dtype.kind not in "iu":
        raise ValueError(f"{where} must hold {count} integer labels, one per image")
    return array.astype(np.int64)


def _check_labels(labels: _Array, where: str, num_classes: int) -> None:
    if len(labels) and (labels.min() < 0 or labels.max() >= num_classes):
        raise ValueError(
            f"{where} holds the label {labels.max()}; CIFAR-{num_classes} has classes "
            f"0 .. {num_classes - 1}"
        )


def _class_names(
    files: dict[str, bytes], version: _Version, num_classes: int, path: Path
) -> list[str]:
    names: list[str] = []
    if version.names in files and version.binary:
        names = [line.strip() for line in io.StringIO(files[version.names].decode("latin-1"))]
    elif version.names in files:
        key = "label_names" if num_classes == 10 else "fine_label_names"
        found = _read_dict(files[version.names], f"{path}: {version.names}").get(key, [])
        names = [n.decode("latin-1") if isinstance(n, bytes) else str(n) for n in found]
    names = [name for name in names if name]
    if len(names) != num_classes:
        return list(CIFAR10_CLASSES) if num_classes == 10 else [str(k) for k in range(100)]
    return names


def _superclasses(fine: _Array, coarse: _Array, path: Path) -> list[int] | None:
    """Superclass of each class, -1 for a class without images."""
    result = np.full(100, -1, np.int64)
    result[fine] = coarse
    if (result[fine] != coarse).any():
        raise ValueError(f"{path}: one fine label goes with two coarse labels")
    return [int(k) for k in result]
