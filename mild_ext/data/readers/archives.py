"""Archives, whose members are measured before they are read: a small file can unpack to any size."""

from __future__ import annotations

import io
import math
import os
import zipfile
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

#: Members that unpack to more than so many times their size, and to more than so many bytes, are no data: images
#: and features shrink to a tenth, zeros alone to a thousandth.
LARGEST_RATIO, UNQUESTIONED = 200, 1 << 26

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}


def read_npz(
    path: Path, wanted: Collection[str]
) -> tuple[dict[str, np.ndarray[Any, Any]], list[str]]:
    """The wanted arrays of a .npz file that are there, and the names of the others; nothing is executed.

    Raises:
        ValueError: the file is damaged, holds objects, or would fill the memory.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            asked = {name: info for name, info in members.items() if name in wanted}
            require_room(path, list(asked.values()))
            arrays = {name: _array(path, archive, info) for name, info in asked.items()}
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, OSError, MemoryError, NotImplementedError),
        *(SyntaxError, RuntimeError, UnicodeError, KeyError, OverflowError, TypeError),
    ) as error:
        raise ValueError(
            f"{path} is not a readable .npz of plain arrays: {error or type(error).__name__}"
        ) from error
    return arrays, sorted(set(members) - set(asked))


def require_room(path: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise a ValueError where members unpack to what no data does, or to more than the memory holds."""
    for info in members:
        if info.file_size > max(UNQUESTIONED, LARGEST_RATIO * info.compress_size):
            raise ValueError(
                f"{path}: {info.filename} of {info.compress_size:,} bytes unpacks to {info.file_size:,}, which no data "
                "do; the file is damaged or made to fill the memory"
            )
    total, free = sum(info.file_size for info in members), free_memory()
    if free is not None and total > free:
        raise ValueError(
            f"{path} unpacks to {total / 2**30:.1f} GiB, but {free / 2**30:.1f} GiB of memory are free; split it, or "
            "give the data as files (folder:DIR)"
        )


def free_memory() -> int | None:
    """Bytes of memory that can be had; None where the system does not say."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def _array(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray[Any, Any]:
    with archive.open(info) as file:
        head = file.read(1 << 16)  # more than any header of plain arrays
    try:
        stream = io.BytesIO(head)
        shape, _, dtype = _HEADERS[np.lib.format.read_magic(stream)](stream)
    except (ValueError, KeyError) as error:
        raise ValueError(f"{path}: {info.filename} is no array: {error}") from error
    if dtype.hasobject:
        raise ValueError(
            f"{path}: {info.filename} holds Python objects, and only plain arrays are read; save numbers or text, e.g. "
            f"with .astype(str)"
        )
    if math.prod(shape) * dtype.itemsize + stream.tell() != info.file_size:
        raise ValueError(
            f"{path}: {info.filename} says it is {dtype} {list(shape)}, but has {info.file_size:,} bytes; it is damaged"
        )
    with archive.open(info) as file:
        array: np.ndarray[Any, Any] = np.lib.format.read_array(file, allow_pickle=False)
    return array
