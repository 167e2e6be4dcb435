"""What a kept `LearningStatus` is: its state, looked at before use, and its file.

The file is a sealed safetensors file (`mild_ext.sealed`). Formats 1 and 2, of earlier versions, had no checksum: of
those, only what `checked_state` looks at is sure.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor

from mild_ext.reading import reading
from mild_ext.recording import epoch_record
from mild_ext.recording._native import _C
from mild_ext.sealed import read_tensors, write_tensors

_FORMAT = "mild_ext.LearningStatus/3"
_UNSEALED = ("mild_ext.LearningStatus/1", "mild_ext.LearningStatus/2")
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
    for name, value in (("num_epochs", num_epochs), ("epoch", epoch)):
        if type(value) is not int:
            raise ValueError(f"{name} of the state must be an int, got {value!r}")
    if not 1 <= num_epochs <= _C.max_epochs or not 0 <= epoch <= num_epochs:
        raise ValueError(f"there cannot be epoch {epoch} of {num_epochs} epochs")
    if words.shape[0] < 1 or tuple(words.shape[1:]) != (-(-num_epochs // 64), 2):
        raise ValueError(f"words of shape {list(words.shape)} do not fit {num_epochs} epochs")
    last = min(epoch, num_epochs - 1)  # the open epoch may have bits, later ones cannot
    word, bit = divmod(last + 1, 64)
    later = words[:, word + (bit > 0) :].any()
    if bit:
        later = later | (words[:, word] >> bit & (1 << (64 - bit)) - 1).any()
    if bool(later):
        raise ValueError(f"the words are damaged: they have bits past epoch {last}")
    if bool((words[..., 1] & ~words[..., 0]).any()):
        raise ValueError(
            "the words are damaged: some samples are wrong in epochs they were not seen in"
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
    header = {"format": _FORMAT, "record": record_of(state)}
    header |= {name: str(state[name]) for name in _NUMBERS if name in state}
    # Copies: what another thread records meanwhile must not come between the checksum and the file.
    buffers = {
        name: torch.empty_like(state[name], memory_format=torch.contiguous_format).copy_(
            state[name]
        )
        for name in _BUFFERS
        if name in state
    }
    write_tensors(path, buffers, header)


def read_state(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_state` wrote; not yet checked.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is damaged, or no saved status.
    """
    content = read_tensors(path, (_FORMAT,), "saved learning status", unsealed=_UNSEALED)
    with reading(path):
        state: dict[str, Any] = {"words": content.tensor("words")}
        state |= {name: content.tensors[name] for name in _BUFFERS if name in content.tensors}
        state |= {name: int(content[name]) for name in ("num_epochs", "epoch")}
        if "num_classes" in content.header:
            state["num_classes"] = int(content["num_classes"])
        if content.format == _FORMAT or "record" in content.header:
            state["record"] = content["record"]
    return state
