"""Checkpoints: one sealed safetensors file holding tensors and, in its header, JSON.

A file is written under another name, flushed to disk and then renamed, so at any moment a complete
checkpoint exists: the previous one until the new one is whole. All of it is covered by checksums (`mild_ext.sealed`),
so a damaged file is noticed and not trained on. No pickle is involved.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from mild_ext import processes
from mild_ext.reading import reading
from mild_ext.sealed import read_tensors, write_tensors

FORMAT = "mild_ext-checkpoint-3"
_REMEDY = "delete it to do that part of the run again"


class CheckpointError(RuntimeError):
    """A checkpoint that is damaged, foreign, or of another run. The message says which and why."""


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Save nested dicts and lists of tensors, numbers, text, booleans and None.

    With several processes, which all hold the same state, the first one writes.

    Raises:
        TypeError: the state holds anything else.
        CannotWrite: the disk is full, the folder is gone, ...; the previous checkpoint is as it was.
    """
    if processes.rank() > 0:
        return
    tensors: dict[str, Tensor] = {}
    tree = json.dumps(_pack(state, tensors))
    write_tensors(path, tensors, {"format": FORMAT, "tree": tree})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` wrote; tensors come back on the CPU.

    Raises:
        FileNotFoundError: there is no such file.
        CheckpointError: the file is truncated, damaged, or no checkpoint of this version.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    what = "checkpoint of this version of the package"
    content = read_tensors(path, (FORMAT,), what, remedy=_REMEDY, error=CheckpointError)
    with resuming(path):
        state: dict[str, Any] = _unpack(json.loads(content["tree"]), content.tensors)
    return state


@contextlib.contextmanager
def resuming(path: Path) -> Iterator[None]:
    """What a checkpoint lacks, or what does not fit, is a `CheckpointError` that names it.

    Raises:
        CheckpointError: whatever is raised while a state is taken out of the checkpoint ``path``.
    """
    with reading(path, _REMEDY, CheckpointError):
        yield


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
