"""The operations on a status buffer, as torch operators in the namespace ``mild_ext``.

Registered from Python over a native module that knows nothing of torch: each operator checks its arguments, lets
torch allocate, and hands addresses to the backend of the tensors' device. They work under ``torch.compile`` with
``fullgraph=True``; the buffers they write are declared. ``mild_ext.reference`` holds the slow, obvious versions.

======================  =====================================================================================
``update``              record one batch into ``words`` (int64 [N, W, 2]), in place
``transition_times``    int32 [8, N]: one row for each field of :class:`mild_ext.TransitionTimes`
``histogram``           int64 [P + 1, P + 1]: samples by (misclassified, seen) over P = stop - start epochs
``lookup``              [N]: ``table[misclassified, seen]`` of every sample, in the table's dtype
======================  =====================================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from mild_ext import _checks
from mild_ext._native import C

_library = torch.library.Library("mild_ext", "DEF")
_library.define(
    "update(Tensor(a!) words, Tensor(b!) faults, Tensor index, Tensor logits, Tensor labels, Tensor epoch, "
    "int num_epochs) -> ()"
)
_library.define("transition_times(Tensor words, int start, int stop) -> Tensor")
_library.define("histogram(Tensor words, int start, int stop) -> Tensor")
_library.define("lookup(Tensor words, Tensor table, int start, int stop) -> Tensor")


def _place(tensor: Tensor) -> tuple[int, int, int]:
    """Where the native code shall run: (CUDA ordinal or -1, stream, most CPU threads)."""
    if tensor.device.type == "cpu":
        return -1, 0, torch.get_num_threads()
    device = tensor.device
    ordinal = torch.cuda.current_device() if device.index is None else device.index
    return ordinal, torch.cuda.current_stream(device).cuda_stream, 0


def _buffer(words: Tensor) -> tuple[int, int, int]:
    """Address and sizes of a status buffer."""
    address = words.data_ptr()
    if address % 16:
        raise ValueError(
            "words must start at a multiple of 16 bytes, as LearningStatus.words does; got a view "
            "that does not: pass words.clone()"
        )
    return address, words.shape[0], words.shape[1]


def _readable(tensor: Tensor) -> Tensor:
    """The tensor, or a copy where native code could not read it in place: last dimension strided, misaligned."""
    tensor = tensor.resolve_neg()
    if tensor.shape[-1] > 1 and tensor.stride(-1) != 1:
        tensor = tensor.contiguous()
    return tensor.clone() if tensor.data_ptr() % tensor.element_size() else tensor


def _update(
    words: Tensor,
    faults: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    epoch: Tensor,
    num_epochs: int,
) -> None:
    _checks.check_update(words, faults, index, logits, labels, epoch, num_epochs)
    # Named until the call returns: they may be copies, and only their addresses are passed on.
    index, logits, labels = _readable(index), _readable(logits), _readable(labels)
    C.update(
        *_buffer(words),
        index.data_ptr(),
        index.dtype == torch.int64,
        logits.data_ptr(),
        _checks.LOGIT_TYPES[logits.dtype],
        logits.shape[0],
        logits.shape[1],
        logits.stride(0),
        labels.data_ptr(),
        labels.dtype == torch.int64,
        epoch.data_ptr(),
        num_epochs,
        faults.data_ptr(),
        *_place(words),
    )


def _transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    out = torch.empty((8, words.shape[0]), dtype=torch.int32, device=words.device)
    C.transition_times(*_buffer(words), start, stop, out.data_ptr(), *_place(words))
    return out


def _histogram(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    side = stop - start + 1
    counts = torch.empty((side, side), dtype=torch.int64, device=words.device)
    C.histogram(*_buffer(words), start, stop, counts.data_ptr(), *_place(words))
    return counts


def _lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_table(words, table, start, stop)
    table = table.contiguous()
    out = torch.empty(words.shape[0], dtype=table.dtype, device=words.device)
    C.lookup(
        *_buffer(words),
        start,
        stop,
        table.data_ptr(),
        out.data_ptr(),
        table.element_size(),
        *_place(words),
    )
    return out


def _fake_transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    return words.new_empty((8, words.shape[0]), dtype=torch.int32)


def _fake_histogram(words: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_window(words, start, stop)
    return words.new_empty((stop - start + 1, stop - start + 1))


def _fake_lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    _checks.check_table(words, table, start, stop)
    return table.new_empty(words.shape[0])


def _register(name: str, real: Callable[..., Any], fake: Callable[..., Any]) -> None:
    for key in ("CPU", "CUDA"):
        _library.impl(name, real, key)
    torch.library.register_fake(f"mild_ext::{name}", fake, lib=_library)


_register("update", _update, _checks.check_update)
_register("transition_times", _transition_times, _fake_transition_times)
_register("histogram", _histogram, _fake_histogram)
_register("lookup", _lookup, _fake_lookup)

update = torch.ops.mild_ext.update.default
transition_times = torch.ops.mild_ext.transition_times.default
histogram = torch.ops.mild_ext.histogram.default
lookup = torch.ops.mild_ext.lookup.default
