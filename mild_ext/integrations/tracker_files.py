"""A tracker's state in one safetensors file: tensors under dotted names, all else as JSON in the header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext.files import write_atomically


def write_tree(path: str | Path, state: dict[str, Any], kind: str) -> None:
    """Write nested dicts, whose names have no dots; an existing file is replaced only by a complete one.

    Args:
        path: where to.
        state: tensors, and what JSON can hold.
        kind: its format, which `read_tree` asks for.
    """
    tensors: dict[str, Tensor] = {}
    tree = _take_out_tensors(state, "", tensors)
    metadata = {"format": kind, "tracker": json.dumps(tree)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_tree(path: str | Path, kind: str) -> dict[str, Any]:
    """What `write_tree` wrote.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another format, or damaged.
    """
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tree: dict[str, Any] = json.loads(metadata.get("tracker", "{}"))
            found = metadata.get("format") or tree.get("format")
            if found != kind:
                raise ValueError(
                    f"{path} was not saved by a RoundTracker of this version: its format must be "
                    f"{kind!r}, got {found!r}; start the rounds anew, or go on with the version that "
                    "wrote it"
                )
            for name in file.keys():  # noqa: SIM118
                *owners, key = name.split(".")
                place = tree
                for owner in owners:
                    place = place[owner]
                place[key] = file.get_tensor(name)
    except (SafetensorError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
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
