"""What a kept `LearningStatus` is: its state, looked at before use, and its file.

The file is a safetensors file. Format 1 holds ``words`` alone (``record="status"``); format 2 also the buffers of an
`EpochRecord`.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from mild_ext.files import write_atomically
from mild_ext.recording import epoch_record
from mild_ext.recording._native import _C

_FORMAT = "mild_ext.LearningStatus/"
_NUMBERS = ("num_epochs", "epoch", "num_classes")
_BUFFERS = ("words", "visits", "planes", "sums")


def record_of(state: dict[str, Any]) -> str:
    """The level of a state; those written before there were levels are ``"status"``."""
    return str(state.get("record", "status"))


def checked_state(state: dict[str, Any]) -> tuple[Tensor, int]:
    """The words and epoch of a state, after looking at everything that could be wrong with it.

    Raises:
        ValueError: something is missing, or damaged.
    """
    missing = {"words", "num_epochs", "epoch"} - set(state)
    if missing:
        raise ValueError(f"the state of a LearningStatus must have the keys {sorted(missing)}")
    words, num_epochs, epoch = state["words"], state["num_epochs"], state["epoch"]
    if not isinstance(words, Tensor) or words.dtype != torch.int64 or words.dim() != 3:
        raise ValueError("words must be an int64 tensor [num_samples, num_words, 2]")
    if not 1 <= num_epochs <= _C.max_epochs or not 0 <= epoch <= num_epochs:
        raise ValueError(f"there cannot be epoch {epoch} of {num_epochs} epochs")
    if words.shape[0] < 1 or tuple(words.shape[1:]) != (-(-num_epochs // 64), 2):
        raise ValueError(f"words of shape {list(words.shape)} do not fit {num_epochs} epochs")
    past = num_epochs % 64
    if past and bool((words[:, -1] >> past & (1 << (64 - past)) - 1).any()):
        raise ValueError(f"the words are damaged: they have bits past epoch {num_epochs - 1}")
    if bool((words[..., 1] & ~words[..., 0]).any()):
        raise ValueError(
            "the words are damaged: some samples are wrong in epochs they were not seen in"
        )
    open_to = min(epoch + 1, num_epochs)  # the current epoch may have been begun
    later = torch.zeros(words.shape[1], dtype=torch.int64)
    for t in range(open_to, num_epochs):
        later[t // 64] |= 1 << (t % 64) if t % 64 < 63 else -(1 << 63)
    if bool((words[..., 0] & later.to(words.device)).any()):
        raise ValueError(
            f"the words are damaged: samples were seen after epoch {epoch}, the current one of {num_epochs}"
        )
    if record_of(state) != "status":
        epoch_record.check_state(state, words.shape[0], num_epochs, epoch)
    return words, epoch


def require_fits(
    state: dict[str, Any], num_samples: int, num_epochs: int, record: str, num_classes: int | None
) -> None:
    """Raise a ValueError where a `checked_state` is not of a status of this size and level."""
    theirs = (state["words"].shape[0], state["num_epochs"])
    if theirs != (num_samples, num_epochs):
        raise ValueError(
            f"the state is of {theirs[0]} samples and {theirs[1]} epochs, but this status has {num_samples} and "
            f"{num_epochs}"
        )
    level = record_of(state)
    if level != record:
        raise ValueError(
            f"the state has record={level!r}, but this status record={record!r}; make it with record={level!r} "
            "to go on from that state"
        )
    if level != "status" and state["num_classes"] != num_classes:
        raise ValueError(
            f"the state is of {state['num_classes']} classes, but this status has {num_classes}"
        )


def write_state(path: str | os.PathLike[str], state: dict[str, Any]) -> None:
    """Write a state; an existing file is replaced only once the new one is complete."""
    level = record_of(state)
    metadata = {"format": _FORMAT + ("1" if level == "status" else "2")}
    if level != "status":
        metadata["record"] = level
    metadata |= {name: str(state[name]) for name in _NUMBERS if name in state}
    buffers = {name: state[name].contiguous() for name in _BUFFERS if name in state}
    write_atomically(path, lambda temporary: save_file(buffers, temporary, metadata=metadata))


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_state` wrote; not yet checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no saved status.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = file.metadata() or {}
            if metadata.get("format") not in (_FORMAT + "1", _FORMAT + "2"):
                raise ValueError(f"{path} is no saved learning status (format {_FORMAT}1 or 2)")
            state: dict[str, Any] = {
                name: file.get_tensor(name) for name in _BUFFERS if name in set(file.keys())
            }
            state["words"], metadata["num_epochs"], metadata["epoch"]  # must be there
            state |= {name: int(metadata[name]) for name in _NUMBERS if name in metadata}
            if "record" in metadata:
                state["record"] = metadata["record"]
    except (SafetensorError, KeyError) as error:
        raise ValueError(f"{path} is damaged or no safetensors file: {error}") from error
    return state
