"""The file of a kept `RoundTracker`: tensors as safetensors, the rest as JSON in its header."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext.files import write_atomically

#: Of a tracker's state, in a file or not.
FORMAT = "mild_ext-tracker-3"


def write_tracker(path: str | Path, state: dict[str, Any]) -> None:
    """Write a `RoundTracker.state_dict`; an existing file is replaced only by a complete one."""
    tensors: dict[str, Tensor] = {}
    tree = _take_out_tensors(state, "", tensors)
    metadata = {"format": FORMAT, "tracker": json.dumps(tree)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary, metadata=metadata))


def read_tracker(path: str | Path) -> dict[str, Any]:
    """Read what `write_tracker` wrote; whether it fits is for the tracker to say.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is of another kind or version, or damaged.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tree: dict[str, Any] = json.loads(metadata.get("tracker", "{}"))
            found = metadata.get("format") or tree.get("format")
            if found == FORMAT:
                for name in file.keys():  # noqa: SIM118
                    *owners, key = name.split(".")
                    place = tree
                    for owner in owners:
                        place = place[owner]
                    place[key] = file.get_tensor(name)
    except (SafetensorError, AttributeError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    if found != FORMAT:
        raise ValueError(
            f"{path} was not saved by a RoundTracker of this version: its format must be "
            f"{FORMAT!r}, got {found!r}; start the rounds anew, or go on with the version that wrote it"
        )
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
