"""Checkpoints: one safetensors file holding tensors and, in its header, JSON.

A file is written under another name, flushed to disk and then renamed, so at any moment a complete
checkpoint exists: the previous one until the new one is whole. Every tensor and the header carry a CRC-32, so
a damaged file is noticed and not trained on. No pickle is involved.
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext import processes
from mild_ext.files import write_atomically

FORMAT = "mild_ext-checkpoint-2"
#: Formats of earlier versions, which had no checksum of the header.
_UNCHECKED = ("mild_ext-checkpoint-1",)
_REMEDY = "delete it to do that part of the run again"


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, foreign, or of another run. The message says which and why."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save nested dicts and lists of tensors, numbers, text, booleans and None.

    With several processes, which all hold the same state, the first one writes.

    Raises:
        TypeError: the state holds anything else.
    """
    if processes.rank() > 0:
        return
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    sums = json.dumps({name: _crc32(tensor) for name, tensor in tensors.items()})
    metadata = {
        "format": FORMAT,
        "tree": tree,
        "crc32": sums,
        "header_crc32": str(_header_crc32(tree, sums, tensors)),
    }
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors come back on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, damaged, or no checkpoint of this package.
    """
    if not path.is_file():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            _check_format(path, metadata.get("format"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); {_REMEDY}"
        ) from error
    try:
        tree, sums, header = (metadata[name] for name in ("tree", "crc32", "header_crc32"))
    except KeyError as error:
        raise CheckpointError(
            f"{path} is damaged (its header has no entry {error}); {_REMEDY}"
        ) from error
    if header != str(_header_crc32(tree, sums, tensors)):
        raise CheckpointError(
            f"{path} is damaged (the checksum of its header does not match); {_REMEDY}"
        )
    expected = json.loads(sums)
    for name, tensor in tensors.items():
        if expected[name] != _crc32(tensor):
            raise CheckpointError(
                f"{path} is damaged (the checksum of tensor {name} does not match); {_REMEDY}"
            )
    state: dict[str, Any] = _unpack(json.loads(tree), tensors)
    return state


def _check_format(path: Path, found: str | None) -> None:
    if found in _UNCHECKED:
        raise CheckpointError(
            f"{path} was written by an earlier version of this package, whose checkpoints have no "
            f"checksum of their header (its format is {found!r}, expected {FORMAT!r}); {_REMEDY}"
        )
    if found != FORMAT:
        raise CheckpointError(
            f"{path} is no checkpoint of this package (its format is {found!r}, expected {FORMAT!r})"
        )


def _header_crc32(tree: str, sums: str, tensors: dict[str, Tensor]) -> int:
    """Checksum of all that the header says: the tree, the tensors' sums, their names and kinds."""
    kinds = [
        (name, str(tensors[name].dtype), list(tensors[name].shape)) for name in sorted(tensors)
    ]
    return zlib.crc32(json.dumps([tree, sums, kinds]).encode())


def _crc32(tensor: Tensor) -> int:
    return zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data) if tensor.numel() else 0


def _pack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """JSON for ``value``, its tensors moved out into ``tensors`` under running names."""
    if isinstance(value, Tensor):
        name = f"t{len(tensors):05d}"
        # A copy each: safetensors refuses tensors that share memory.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {"$tensor": name}
    if isinstance(value, dict):
        return {"$dict": [[_pack(k, tensors), _pack(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {
            "$tuple" if isinstance(value, tuple) else "$list": [_pack(v, tensors) for v in value]
        }
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "$tensor":
        return tensors[content]
    if kind == "$dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    items = [_unpack(v, tensors) for v in content]
    return tuple(items) if kind == "$tuple" else items
