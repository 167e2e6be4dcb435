"""Sealed files: what is read back is covered, all of it, by a checksum.

Three kinds of file carry a seal: safetensors (in the header), npz (in an array `SEAL`) and JSON (in an entry `SEAL`).
It is a CRC-32 over the names, kinds and contents of everything beside it: any one flipped bit, and any damage within 32
adjacent bits, is noticed for certain, other damage in all but one case of 4 billion. It guards against disks and
editors, not against somebody who means harm, who can write a seal as well (docs/security.md).

Files of earlier versions have none. They are read where their format says so; then only what their reader checks by
itself is sure.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext.files import as_text, write_atomically, write_text
from mild_ext.reading import UnreadableFile, read_arrays, read_json, reading, require_file

#: Name of the entry that holds the checksum.
SEAL = "crc32"


def checksum(value: Any) -> int:
    """CRC-32 of what JSON can hold, the same for the same value."""
    return zlib.crc32(json.dumps(value, sort_keys=True).encode())


def tensor_checksum(tensor: Tensor) -> int:
    """CRC-32 of the bytes of a tensor on the CPU."""
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0


# ----------------------------------------------------------------------------------- safetensors


@dataclass(frozen=True)
class Content:
    """What a safetensors file holds: the words of its header, and its tensors on the CPU."""

    header: dict[str, str]
    tensors: dict[str, Tensor]

    @property
    def format(self) -> str | None:
        """What the file says it is."""
        return self.header.get("format")

    def __getitem__(self, name: str) -> str:
        """A word of the header; a missing one is a KeyError that says so."""
        if name not in self.header:
            raise KeyError(f"the entry {name!r} of its header")
        return self.header[name]

    def tensor(self, name: str) -> Tensor:
        """A tensor; a missing one is a KeyError that says so."""
        if name not in self.tensors:
            raise KeyError(f"the tensor {name!r}")
        return self.tensors[name]


def write_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], header: Mapping[str, str]
) -> None:
    """Write a sealed safetensors file, complete or not at all.

    Args:
        path: the file; its folder exists.
        tensors: contiguous, of memory of their own.
        header: words beside them, ``format`` among them; not `SEAL`.

    Raises:
        CannotWrite: see `mild_ext.files.write_atomically`.
    """
    tensors = {name: tensor.detach().cpu() for name, tensor in tensors.items()}
    sums = {name: tensor_checksum(tensor) for name, tensor in tensors.items()}
    seal = {"header": _header_checksum(header, sums, tensors), "tensors": sums}
    metadata = {**header, SEAL: json.dumps(seal)}

    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_tensors(
    path: str | os.PathLike[str],
    formats: Collection[str],
    what: str,
    *,
    unsealed: Collection[str] = (),
    remedy: str = "",
    error: type[Exception] = UnreadableFile,
) -> Content:
    """Read a safetensors file, and hold it against its seal.

    Args:
        path: the file.
        formats: what the header's ``format`` may be; these are sealed.
        what: what such a file is, as in "is no saved learning status".
        unsealed: formats of earlier versions, read without a seal.
        remedy: what to do about a damaged one.
        error: what is raised.

    Raises:
        FileNotFoundError: there is no such file.
        error: damaged, or of another kind.
    """
    require_file(path)
    with reading(path, remedy, error):
        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                header = dict(file.metadata() or {})
                found = header.get("format")
                if found not in (*formats, *unsealed):
                    raise error(
                        f"{as_text(os.fspath(path))} is no {what} (its format is {found!r}, expected "
                        + " or ".join(map(repr, formats))
                        + (f"); {remedy}" if remedy else ")")
                    )
                # A copy each: they must not change with the file, which may be replaced.
                tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        except SafetensorError as raised:
            raise ValueError(
                f"it is damaged or no safetensors file, or truncated ({raised})"
            ) from raised
        if found in formats:
            _hold_against_seal(header, tensors)
        elif SEAL in header:
            raise ValueError(f"it is damaged: files of the format {found} have no checksum")
        return Content({k: v for k, v in header.items() if k != SEAL}, tensors)


def _hold_against_seal(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    if SEAL not in header:
        raise ValueError("it is damaged (the checksum is missing)")
    seal = json.loads(header[SEAL])
    sums = seal["tensors"]
    rest = {name: value for name, value in header.items() if name != SEAL}
    if seal["header"] != _header_checksum(rest, sums, tensors):
        raise ValueError("it is damaged (the checksum of its header does not match)")
    for name, tensor in tensors.items():
        if sums[name] != tensor_checksum(tensor):
            raise ValueError(f"it is damaged (the checksum of tensor {name} does not match)")


def _header_checksum(
    header: Mapping[str, str], sums: Mapping[str, int], tensors: Mapping[str, Tensor]
) -> int:
    """Of all that the header says: its words, and the tensors' names, kinds, shapes and sums."""
    kinds = {name: [str(tensor.dtype), list(tensor.shape)] for name, tensor in tensors.items()}
    return checksum([dict(header), dict(sums), kinds])


# ------------------------------------------------------------------------------------------- npz


def write_arrays(path: str | os.PathLike[str], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a sealed, compressed npz file, complete or not at all."""
    content: dict[str, Any] = {name: np.asarray(values) for name, values in arrays.items()}
    content[SEAL] = np.array(_arrays_checksum(content), np.uint32)

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # by name, NumPy would add its own suffix
            np.savez_compressed(file, **content)

    write_atomically(path, write)


def read_sealed_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file, held against its seal where it has one (others' files have none).

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: damaged.
    """
    arrays = read_arrays(path)
    with reading(path):
        seal = arrays.pop(SEAL, None)
        if seal is not None and int(seal) != _arrays_checksum(arrays):
            raise ValueError("it is damaged (the checksum does not match)")
    return arrays


def _arrays_checksum(arrays: Mapping[str, NDArray[Any]]) -> int:
    return checksum(
        {
            name: [values.dtype.str, list(values.shape), zlib.crc32(values.tobytes())]
            for name, values in arrays.items()
        }
    )


# ------------------------------------------------------------------------------------------ JSON


def write_sealed_json(path: str | os.PathLike[str], record: Mapping[str, Any]) -> None:
    """Write a JSON file with a seal beside the entries of ``record``, complete or not at all."""
    record = json.loads(json.dumps(record))  # as it will be read: names are text, tuples are lists
    sealed = {**record, SEAL: checksum(record)}
    write_text(path, json.dumps(sealed, indent=2) + "\n")


def read_sealed_json(path: str | os.PathLike[str], what: str) -> dict[str, Any]:
    """The entries of a JSON file, held against its seal; without one it is of an earlier version.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: damaged, or changed by hand.
    """
    record = read_json(path)
    with reading(path):
        if not isinstance(record, dict):
            raise ValueError(f"it is no {what}")
        seal = record.pop(SEAL, None)
        if seal is not None and seal != checksum(record):
            raise ValueError(
                f"it is damaged, or was changed by hand (its checksum does not match); what a {what} says holds "
                "from its start to its end: put it back, or start again in another folder"
            )
    return record
