"""The operations on the status buffer as ``torch.library`` ops, and their CPU and CUDA implementations.

    update_status(words!, faults!, epoch, index, logits, labels, num_epochs) -> ()
    transition_times(words, start, stop) -> int32 [8, N]
    status_histogram(words, start, stop) -> int64 [P + 1, P + 1]
    status_lookup(words, table, start, stop) -> [N], of the table's dtype
    first_run(words, start, stop, length) -> int32 [N]

Shapes and meanings: csrc/status_ops.h; the same operations in plain torch: reference.py. This and dynamics_ops.py are
the files that take addresses and streams of tensors. Every tensor whose address is taken is held by a variable until
the call returns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mild_ext.recording import _checks
from mild_ext.recording._native import _C

_THREADS_WORTH = 1 << 17  # elements below which no second thread is considered

library = torch.library.Library("mild_ext", "DEF")
TAGS = (torch.Tag.pt2_compliant_tag,)
library.define(
    "update_status(Tensor(a!) words, Tensor(b!) faults, Tensor epoch, Tensor index, Tensor logits, "
    "Tensor labels, int num_epochs) -> ()",
    tags=TAGS,
)
library.define("transition_times(Tensor words, int start, int stop) -> Tensor", tags=TAGS)
library.define("status_histogram(Tensor words, int start, int stop) -> Tensor", tags=TAGS)
library.define(
    "status_lookup(Tensor words, Tensor table, int start, int stop) -> Tensor", tags=TAGS
)
library.define("first_run(Tensor words, int start, int stop, int length) -> Tensor", tags=TAGS)


def place(device: torch.device) -> tuple[int, int]:
    """The native core's device number (-1: CPU) and the address of torch's current stream there."""
    if device.type == "cpu":
        return -1, 0
    if device.type == "cuda":
        return device.index, torch.cuda.current_stream(device).cuda_stream
    raise RuntimeError(f"mild_ext runs on cpu and cuda tensors, got one on {device}")


def buffer(words: Tensor) -> tuple[int, int, int]:
    """Address and sizes of a status buffer; its words are read in pairs of 16 bytes."""
    _checks.check_memory(words=words)
    address = words.data_ptr()
    if address % 16:
        raise ValueError("words must start at a multiple of 16 bytes; use words.clone()")
    return address, words.shape[0], words.shape[1]


def readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where native code cannot read it in place: adjacent elements must be adjacent."""
    tensor = tensor.resolve_neg()
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def threads_worth(work: int) -> int:
    """The most threads that this many elements are worth."""
    return 1 if work < _THREADS_WORTH else torch.get_num_threads()


# ---- update_status


def _update_status(
    words: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
) -> None:
    _checks.check_update(words, faults, epoch, index, logits, labels, num_epochs)
    rows, classes = logits.shape
    if rows == 0:
        return
    _checks.check_memory(faults=faults, epoch=epoch, index=index, logits=logits, labels=labels)
    index, logits, labels = readable(index), readable(logits), readable(labels)
    _C.update(
        *buffer(words),
        index.data_ptr(),
        index.dtype is torch.int64,
        logits.data_ptr(),
        _checks.LOGIT_TYPES[logits.dtype],
        rows,
        classes,
        logits.stride(0),
        labels.data_ptr(),
        labels.dtype is torch.int64,
        epoch.data_ptr(),
        num_epochs,
        faults.data_ptr(),
        *place(words.device),
        threads_worth(rows * classes),
    )


def update_status(
    words: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
) -> None:
    """Record one batch into epoch ``epoch``, in place.

    Args:
        words: int64 ``[N, W, 2]``, the status buffer; changed.
        faults: int64 ``[3]`` where words is. On CUDA, rows with a bad index, a bad label, or in a bad epoch
            are skipped and counted here.
        epoch: int64, one element, where words is; in ``[0, num_epochs)``.
        index: int64 or int32 ``[B]``, sample ids in ``[0, N)``.
        logits: float64, float32, float16 or bfloat16 ``[B, K]``.
        labels: int64 or int32 ``[B]``, classes in ``[0, K)``.
        num_epochs: epochs that may be recorded, at most ``64 W``.

    Raises:
        TypeError: wrong dtypes.
        ValueError: wrong shapes; on the CPU also an index, label or epoch out of range. Nothing was recorded.
        RuntimeError: tensors on different devices.
    """
    _checks.require_tensors(index=index, logits=logits, labels=labels)
    torch.ops.mild_ext.update_status(
        words, faults, epoch, index, logits.detach(), labels, num_epochs
    )


# ---- reading


def _transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    out = _fake_transition_times(words, start, stop)
    _C.transition_times(
        *buffer(words),
        start,
        stop,
        out.data_ptr(),
        *place(words.device),
        threads_worth(words.numel()),
    )
    return out


def _status_histogram(words: Tensor, start: int, stop: int) -> Tensor:
    counts = _fake_status_histogram(words, start, stop)
    _C.histogram(
        *buffer(words),
        start,
        stop,
        counts.data_ptr(),
        *place(words.device),
        threads_worth(words.numel()),
    )
    return counts


def _status_lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    out = _fake_status_lookup(words, table, start, stop)
    _checks.check_memory(table=table)
    table = table.contiguous()
    _C.lookup(
        *buffer(words),
        start,
        stop,
        table.data_ptr(),
        out.data_ptr(),
        table.element_size(),
        *place(words.device),
        threads_worth(words.numel()),
    )
    return out


def _first_run(words: Tensor, start: int, stop: int, length: int) -> Tensor:
    out = _fake_first_run(words, start, stop, length)
    _C.first_run(
        *buffer(words),
        start,
        stop,
        length,
        out.data_ptr(),
        *place(words.device),
        threads_worth(words.numel()),
    )
    return out


def transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    """int32 ``[8, N]``: the fields of `mild_ext.TransitionTimes`, in their order, for epochs ``[start, stop)``."""
    out: Tensor = torch.ops.mild_ext.transition_times(words, start, stop)
    return out


def status_histogram(words: Tensor, start: int, stop: int) -> Tensor:
    """Counts of (misclassified, seen) over epochs ``[start, stop)``: int64 ``[P + 1, P + 1]``, P = stop - start."""
    out: Tensor = torch.ops.mild_ext.status_histogram(words, start, stop)
    return out


def status_lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    """``table[misclassified, seen]`` of every sample, ``[N]``; table: bool or float32 ``[P + 1, P + 1]``."""
    out: Tensor = torch.ops.mild_ext.status_lookup(words, table, start, stop)
    return out


# ---- registration: the fakes check the arguments, and make the results that the real ones fill


def _fake_transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    return words.new_empty((8, words.shape[0]), dtype=torch.int32)


def _fake_status_histogram(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    return words.new_empty((stop - start + 1, stop - start + 1))


def _fake_status_lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_table(words, table, start, stop)
    return table.new_empty(words.shape[0])


def _fake_first_run(words: Tensor, start: int, stop: int, length: int) -> Tensor:
    _checks.check_window(words, start, stop)
    if length < 1:
        raise ValueError(f"k must be at least 1, got {length}")
    return words.new_empty(words.shape[0], dtype=torch.int32)


def _on_its_device(real: Callable[..., object]) -> Callable[..., object]:
    """With the device of the first argument, a tensor, as the current one.

    Torch's own guard: set back by cudaSetDevice, a thread that never chose a device would get a context on device 0.
    """

    @functools.wraps(real)
    def run(first: Tensor, *rest: object) -> object:
        with torch.cuda.device(first.device):
            return real(first, *rest)

    return run


def register(*entries: tuple[str, Callable[..., object], Callable[..., object]]) -> None:
    """Implementations on both devices, and the fake: ``(name, real, fake)`` for each op."""
    for name, real, fake in entries:
        library.impl(name, real, "CPU")
        library.impl(name, _on_its_device(real), "CUDA")
        torch.library.register_fake(f"mild_ext::{name}", fake, lib=library)


register(
    ("update_status", _update_status, _checks.check_update),
    ("transition_times", _transition_times, _fake_transition_times),
    ("status_histogram", _status_histogram, _fake_status_histogram),
    ("status_lookup", _status_lookup, _fake_status_lookup),
    ("first_run", _first_run, _fake_first_run),
)
