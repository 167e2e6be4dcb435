"""The file of a kept `RoundTracker`: tensors as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from mild_ext.reading import reading
from mild_ext.sealed import read_tensors, write_tensors

#: Of a tracker's state.
FORMAT = "mild_ext-tracker-3"
#: Of files; those of earlier versions have no checksum, and the format of the state.
_FILE_FORMAT = f"{FORMAT}-sealed"


def write_tracker(path: str | Path, state: dict[str, Any]) -> None:
    """Write a `RoundTracker.state_dict`; an existing file is replaced only by a complete one."""
    tensors: dict[str, Tensor] = {}
    tree = _take_out_tensors(state, "", tensors)
    write_tensors(path, tensors, {"format": _FILE_FORMAT, "tracker": json.dumps(tree)})


def read_tracker(path: str | Path) -> dict[str, Any]:
    """Read what `write_tracker` wrote; whether it fits is for the tracker to say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind or version, or damaged.
    """
    content = read_tensors(
        path,
        (_FILE_FORMAT,),
        "file that a RoundTracker of this version saved",
        unsealed=(FORMAT,),
        remedy="start the rounds anew, or go on with the version that wrote it",
    )
    with reading(path):
        tree: dict[str, Any] = json.loads(content["tracker"])
        for name, tensor in content.tensors.items():
            *owners, key = name.split(".")
            place = tree
            for owner in owners:
                place = place[owner]
            place[key] = tensor
        return tree


def _take_out_tensors(
    tree: dict[str, Any], path: str, tensors: dict[str, Tensor]
) -> dict[str, Any]:
    """The tree without its tensors, which go into ``tensors`` under dotted names."""
    rest: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Tensor):
            tensors[path + key] = value.cpu()
        else:
            is_tree = isinstance(value, dict)
            rest[key] = _take_out_tensors(value, f"{path}{key}.", tensors) if is_tree else value
    return rest
