"""What the operations require of their tensors: one place, shared by the real and the fake implementations.

Only what shapes, dtypes and devices say is checked here, so that fake tensors pass through the same lines. What
the values say (an index or label out of range) is found by the native code, which reads them anyway.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mild_ext._native import C

LOGIT_TYPES = {torch.float64: 0, torch.float32: 1, torch.float16: 2, torch.bfloat16: 3}
INT_TYPES = (torch.int64, torch.int32)
TABLE_TYPES = (torch.bool, torch.float32)


def require_tensor(name: str, value: object) -> None:
    """``value`` is a plain, dense torch tensor."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor; got {type(value).__name__}")
    if value.layout is not torch.strided or value.is_quantized:
        raise TypeError(
            f"{name} must be a dense tensor; got layout {value.layout}. Convert it with .to_dense()"
        )


def require_dtype(name: str, tensor: Tensor, allowed: tuple[torch.dtype, ...]) -> None:
    """The dtype is one of ``allowed``."""
    if tensor.dtype not in allowed:
        names = ", ".join(str(dtype).removeprefix("torch.") for dtype in allowed)
        raise TypeError(f"{name} must have dtype {names}; got {tensor.dtype}")


def require_device(name: str, tensor: Tensor, device: torch.device) -> None:
    """The tensor is where the status is."""
    if tensor.device != device:
        raise RuntimeError(
            f"{name} is on {tensor.device}, but the status is on {device}; move one to the other"
        )


def check_words(words: Tensor, name: str = "words") -> None:
    """``words`` is a status buffer: int64 [num_samples, num_words, 2], contiguous."""
    require_tensor(name, words)
    require_dtype(name, words, (torch.int64,))
    if words.dim() != 3 or words.shape[2] != 2 or not 1 <= words.shape[1] <= C.max_epochs // 64:
        raise ValueError(
            f"{name} must have shape [num_samples, num_words, 2] with num_words in [1, "
            f"{C.max_epochs // 64}]; got {list(words.shape)}"
        )
    if not words.is_contiguous():
        raise ValueError(f"{name} must be contiguous; got strides {words.stride()}")


def check_update(
    words: Tensor,
    faults: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    epoch: Tensor,
    num_epochs: int,
) -> None:
    """The arguments of ``mild_ext::update``; raises before anything is recorded."""
    check_words(words)
    for name, tensor in (("index", index), ("logits", logits), ("labels", labels)):
        require_tensor(name, tensor)
    require_dtype("logits", logits, tuple(LOGIT_TYPES))
    require_dtype("index", index, INT_TYPES)
    require_dtype("labels", labels, INT_TYPES)
    if logits.dim() != 2:
        raise ValueError(f"logits must have shape [batch, classes]; got {list(logits.shape)}")
    if logits.shape[1] < 1:
        raise ValueError(f"logits must have at least one class; got shape {list(logits.shape)}")
    for name, tensor in (("index", index), ("labels", labels)):
        if tensor.dim() != 1 or tensor.shape[0] != logits.shape[0]:
            raise ValueError(
                f"{name} must have shape [batch] with batch = {logits.shape[0]}, as logits has; "
                f"got {list(tensor.shape)}"
            )
    for name, tensor in (("index", index), ("logits", logits), ("labels", labels)):
        require_device(name, tensor, words.device)
    require_dtype("epoch", epoch, (torch.int64,))
    require_dtype("faults", faults, (torch.int64,))
    if epoch.dim() != 0 or faults.shape != (C.num_faults,) or not faults.is_contiguous():
        raise ValueError(
            f"epoch must be a scalar and faults have shape [{C.num_faults}]; got "
            f"{list(epoch.shape)} and {list(faults.shape)}"
        )
    require_device("epoch", epoch, words.device)
    require_device("faults", faults, words.device)
    if not 1 <= num_epochs <= 64 * words.shape[1]:
        raise ValueError(
            f"num_epochs must be in [1, {64 * words.shape[1]}] for this buffer; got {num_epochs}"
        )


def check_window(words: Tensor, start: int, stop: int) -> None:
    """Epochs [start, stop) lie inside the buffer, and there is at least one."""
    check_words(words)
    if not 0 <= start < stop <= 64 * words.shape[1]:
        raise ValueError(
            f"epochs must be a non-empty window inside [0, {64 * words.shape[1]}); got "
            f"[{start}, {stop})"
        )


def check_table(words: Tensor, table: Tensor, start: int, stop: int) -> None:
    """The arguments of ``mild_ext::lookup``."""
    check_window(words, start, stop)
    require_tensor("table", table)
    require_dtype("table", table, TABLE_TYPES)
    side = stop - start + 1
    if table.shape != (side, side):
        raise ValueError(
            f"table must have shape [{side}, {side}], over (misclassified, seen); got "
            f"{list(table.shape)}"
        )
    require_device("table", table, words.device)
