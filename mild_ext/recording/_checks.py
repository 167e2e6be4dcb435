"""What must hold before an address reaches native code; shared by the real and the fake ops.

Each check is one quick condition for the good case. Only where it fails is the argument looked for that broke
it, so that a training step pays for comparisons and not for messages.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from mild_ext.recording._native import _C

INTEGERS = (torch.int64, torch.int32)

#: Codes of ``mild::LogitType`` in csrc/status_ops.h.
LOGIT_TYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}


def check_update(
    words: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
) -> None:
    """Arguments of ``update_status``: kinds, shapes and devices; values are checked natively."""
    device = words.device
    if (
        index.dtype in INTEGERS
        and labels.dtype in INTEGERS
        and logits.dtype in LOGIT_TYPES
        and index.dim() == 1
        and logits.dim() == 2
        and index.shape == labels.shape
        and logits.shape[0] == index.shape[0]
        and logits.shape[1] > 0
        and index.device == device
        and labels.device == device
        and logits.device == device
        and index.layout == labels.layout == logits.layout == torch.strided
    ):
        check_words(words)
        if (
            faults.dtype == epoch.dtype == torch.int64
            and epoch.numel() == 1
            and faults.shape == (_C.num_faults,)
            and faults.device == epoch.device == device
            and faults.is_contiguous()
            and 0 < num_epochs <= words.shape[1] * 64
        ):
            return
        raise ValueError(
            "update_status wants epoch (int64, one element), faults (int64 [3]) where words is, and "
            f"0 < num_epochs <= {words.shape[1] * 64}, the epochs that words has room for"
        )
    _explain_update(device, index, logits, labels)


def require_tensors(**arguments: object) -> None:
    """Dense tensors: anything else cannot even reach an op, or has no memory of the usual kind."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(value).__name__}")
        if value.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, got layout {value.layout}; use {name}.to_dense()"
            )


def _explain_update(
    device: torch.device, index: Tensor, logits: Tensor, labels: Tensor
) -> NoReturn:
    require_tensors(index=index, logits=logits, labels=labels)
    for name, tensor in (("index", index), ("labels", labels)):
        if tensor.dtype not in INTEGERS:
            raise TypeError(
                f"{name} must be int64 or int32, got {tensor.dtype}; use {name}.long()"
                + (" or argmax(1) of one-hot labels" if tensor.is_floating_point() else "")
            )
    if logits.dtype not in LOGIT_TYPES:
        raise TypeError(
            f"logits must be float64, float32, float16 or bfloat16, got {logits.dtype}; use "
            "logits.float()"
        )
    if logits.dim() != 2:
        raise ValueError(
            f"logits must be [batch, classes], got shape {list(logits.shape)}; a single sample is "
            "logits[None], and dense predictions need one row per sample"
        )
    if logits.shape[1] == 0:
        raise ValueError(f"logits must have at least one class, got shape {list(logits.shape)}")
    for name, tensor in (("index", index), ("labels", labels)):
        if tensor.dim() != 1 or tensor.shape[0] != logits.shape[0]:
            raise ValueError(
                f"{name} must be [{logits.shape[0]}], one entry per row of logits, got shape "
                f"{list(tensor.shape)}"
            )
    for name, tensor in (("index", index), ("logits", logits), ("labels", labels)):
        if tensor.device != device:
            raise RuntimeError(
                f"{name} is on {tensor.device}, but the status is on {device}; make the status with "
                f"device={str(tensor.device)!r}, or use {name}.to({str(device)!r})"
            )
    raise ValueError("index, logits and labels do not fit together")  # pragma: no cover


def check_words(words: Tensor) -> None:
    """A status buffer: int64 ``[N, W, 2]``, contiguous, 16-byte aligned where it has an address."""
    if words.dtype != torch.int64 or words.dim() != 3 or words.shape[2] != 2:
        raise ValueError(
            f"words must be int64 [num_samples, num_words, 2], got {words.dtype} {list(words.shape)}"
        )
    if not words.is_contiguous():
        raise ValueError("words must be contiguous; use words.contiguous()")


def check_window(words: Tensor, start: int, stop: int) -> None:
    """A status buffer and a non-empty window of epochs that lies in it."""
    check_words(words)
    if not 0 <= start < stop <= words.shape[1] * 64:
        raise ValueError(
            f"the window of epochs must satisfy 0 <= start < stop <= {words.shape[1] * 64}, got "
            f"start {start}, stop {stop}"
        )


def check_table(words: Tensor, table: Tensor, start: int, stop: int) -> None:
    """A look-up table over (misclassified, seen) for the window."""
    check_window(words, start, stop)
    side = stop - start + 1
    if table.dtype not in (torch.bool, torch.float32):
        raise TypeError(f"table must be bool or float32, got {table.dtype}")
    if tuple(table.shape) != (side, side):
        raise ValueError(
            f"table must be [{side}, {side}] over (misclassified, seen) in the window's {side - 1} "
            f"epochs, got {list(table.shape)}"
        )
    if table.device != words.device:
        raise RuntimeError(f"table is on {table.device}, but the status is on {words.device}")


def check_memory(**tensors: Tensor) -> None:
    """That the storage really holds what sizes and strides reach; a freed storage leaves a wild address."""
    for name, tensor in tensors.items():
        if tensor.numel() == 0:
            continue
        last = sum(
            (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
        )
        needed = (tensor.storage_offset() + last + 1) * tensor.element_size()
        held = tensor.untyped_storage().nbytes()
        if held < needed:
            raise ValueError(
                f"{name} needs {needed} bytes of memory, but its storage holds {held}: it was freed or resized; "
                "record the batch before its tensors are released"
            )
