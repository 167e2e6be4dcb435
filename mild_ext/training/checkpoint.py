"""Checkpoints: one safetensors file holding tensors and, in its header, JSON.

A file is written under another name, flushed to disk and then renamed, so at any moment a complete
checkpoint exists: the previous one until the new one is whole. Every tensor carries a CRC-32, so a
damaged file is noticed and not trained on. No pickle is involved.
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

FORMAT = "mild_ext-checkpoint-1"
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
    metadata = {
        "format": FORMAT,
        "tree": tree,
        "crc32": json.dumps({name: _crc32(tensor) for name, tensor in tensors.items()}),
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
            if metadata.get("format") != FORMAT:
                raise CheckpointError(
                    f"{path} is no checkpoint of this package (its format is "
                    f"{metadata.get('format')!r}, expected {FORMAT!r})"
                )
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tree, sums = json.loads(metadata["tree"]), json.loads(metadata["crc32"])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a safetensors file ({error}); {_REMEDY}"
        ) from error
    for name, tensor in tensors.items():
        if sums.get(name) != _crc32(tensor):
            raise CheckpointError(
                f"{path} is damaged (the checksum of tensor {name} does not match); {_REMEDY}"
            )
    state: dict[str, Any] = _unpack(tree, tensors)
    return state


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
