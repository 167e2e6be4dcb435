"""What must hold before an address reaches native code; shared by the real and the fake ops.

Each check is one quick condition for the good case. Only where it fails is the argument looked for that broke
it, so that a training step pays for comparisons and not for messages.
"""

from __future__ import annotations

from typing import NoReturn

import torch
from torch import Tensor

from mild_ext.recording._native import _C, has_cuda

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
    if _is_batch(words.device, index, logits, labels):
        check_words(words)
        if _is_clock(words.device, faults, epoch) and 0 < num_epochs <= words.shape[1] * 64:
            return
        raise ValueError(
            "update_status wants epoch (int64, one element), faults (int64 [3]) where words is, and "
            f"0 < num_epochs <= {words.shape[1] * 64}, the epochs that words has room for"
        )
    _explain_batch(words.device, index, logits, labels)


def check_record_visits(
    record: Tensor,
    faults: Tensor,
    epoch: Tensor,
    index: Tensor,
    logits: Tensor,
    labels: Tensor,
    num_epochs: int,
    num_classes: int,
    statistics: bool,
) -> None:
    """Arguments of ``record_visits``: kinds, shapes and devices; values are checked natively."""
    if _is_batch(record.device, index, logits, labels):
        check_record(record)
        if not _is_clock(record.device, faults, epoch) or num_epochs < 1:
            raise ValueError(
                "record_visits wants epoch (int64, one element), faults (int64 [3]) where record is, and "
                f"num_epochs of at least 1, got {num_epochs}"
            )
        if logits.shape[1] != num_classes or num_classes > _C.max_classes:
            raise ValueError(
                f"logits must be [batch, {num_classes}], a column for each of the status' num_classes (at most "
                f"{_C.max_classes}), got shape {list(logits.shape)}; make the status with "
                f"num_classes={logits.shape[1]}"
            )
        return
    _explain_batch(record.device, index, logits, labels)


def _is_batch(device: torch.device, index: Tensor, logits: Tensor, labels: Tensor) -> bool:
    return bool(
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
    )


def _is_clock(device: torch.device, faults: Tensor, epoch: Tensor) -> bool:
    return bool(
        faults.dtype == epoch.dtype == torch.int64
        and epoch.numel() == 1
        and faults.shape == (_C.num_faults,)
        and faults.device == epoch.device == device
        and faults.is_contiguous()
    )


def require_tensors(**arguments: object) -> None:
    """Dense tensors: anything else cannot even reach an op, or has no memory of the usual kind."""
    for name, value in arguments.items():
        if not isinstance(value, Tensor):
            raise TypeError(
                f"{name} must be a tensor, got {type(value).__name__}; {_as_tensor(name, value)}"
            )
        if value.layout != torch.strided:
            raise TypeError(
                f"{name} must be a dense tensor, got layout {value.layout}; use {name}.to_dense()"
            )


def _advice_on_index(index: Tensor) -> str:
    if index.dtype == torch.bool:
        return (
            "of a mask use index.nonzero().flatten()"  # as numbers it would be the samples 0 and 1
        )
    if index.dim() == 2 or index.dtype.is_complex:  # logits: as numbers they would be samples
        return "the order is index, logits, labels"
    return "use index.long()"


def _explain_batch(device: torch.device, index: Tensor, logits: Tensor, labels: Tensor) -> NoReturn:
    require_tensors(index=index, logits=logits, labels=labels)
    for name, tensor in (("index", index), ("labels", labels)):
        if tensor.dtype not in INTEGERS:
            raise TypeError(
                f"{name} must be int64 or int32, got {tensor.dtype}; "
                + (_advice_on_labels(labels) if name == "labels" else _advice_on_index(index))
            )
    if logits.dtype not in LOGIT_TYPES:
        raise TypeError(
            f"logits must be float64, float32, float16 or bfloat16, got {logits.dtype}; use "
            "logits.float()"
        )
    if logits.dim() != 2:
        advice = "dense predictions need one row per pixel or token, and a label for each row"
        if logits.dim() == 1:
            advice = (
                f"those of one sample are logits[None], those of a binary model's batch of {len(logits)} need a "
                "status with num_classes=2, or without num_classes"
            )
        elif logits.shape[2:].numel() == 1:
            advice = "use logits.flatten(1)"
        elif logits.dim() == 3 and logits.shape[1] == 1:
            advice = "use logits[:, 0]"
        raise ValueError(
            f"logits must be [batch, classes], got shape {list(logits.shape)}; {advice}"
        )
    if logits.shape[1] == 0:
        raise ValueError(f"logits must have at least one class, got shape {list(logits.shape)}")
    for name, tensor in (("index", index), ("labels", labels)):
        if tensor.dim() != 1 or tensor.shape[0] != logits.shape[0]:
            advice = ""
            if tensor.dim() == 2 and name == "labels":
                advice = f"; {_advice_on_labels(labels)}"
            elif tensor.numel() == logits.shape[0]:
                advice = f"; use {name}.flatten()"
            raise ValueError(
                f"{name} must be [{logits.shape[0]}], one entry per row of logits, got shape "
                f"{list(tensor.shape)}{advice}"
            )
    for name, tensor in (("index", index), ("logits", logits), ("labels", labels)):
        if tensor.device != device:
            # A status can be on the CPU or on CUDA alone; a meta tensor has nothing to copy.
            advice = f"use {name}.to({str(device)!r})"
            if tensor.device.type in ("cpu", "cuda"):
                advice = f"make the status with device={str(tensor.device)!r}, or {advice}"
            elif tensor.device.type == "meta":
                advice = "it has no values to record; record where the model really runs"
            raise RuntimeError(
                f"{name} is on {tensor.device}, but the status is on {device}; {advice}"
            )
    raise ValueError("index, logits and labels do not fit together")  # pragma: no cover


def _as_tensor(name: str, value: object) -> str:
    """How to make a tensor of what came instead of one."""
    if hasattr(value, "logits"):
        return f"use {name}.logits"
    texts = isinstance(value, list | tuple) and any(isinstance(item, str) for item in value)
    if texts and name == "index":
        return "ids of samples are their positions, which IndexedDataset(dataset, index=...) gives"
    if texts:
        return f"number them: mild_ext.data.check_labels({name}).values"
    if isinstance(value, dict) or value is None:
        return f"give the tensor of {name} itself"
    return f"use torch.as_tensor({name})"


def _advice_on_labels(labels: Tensor) -> str:
    """What to do with labels that are no class numbers ``[B]``, by what they are."""
    if labels.dim() == 2 and labels.shape[1] == 1:
        return "use labels[:, 0].long()"
    if labels.dim() == 2:
        return (
            "of one-hot labels use labels.argmax(1), of mixed ones (mixup, smoothing) the given labels from before the "
            "mixing; several classes per sample (multi-label) are not supported"
        )
    if labels.is_floating_point():
        return (
            "use labels.long() if they are whole numbers; of mixed ones (mixup) use the given labels from before the "
            "mixing; probabilities, and values of a regression, are not supported"
        )
    return "use labels.long()"


def check_words(words: Tensor) -> None:
    """A status buffer: int64 ``[N, W, 2]``, contiguous, 16-byte aligned where it has an address."""
    if words.dtype != torch.int64 or words.dim() != 3 or words.shape[2] != 2:
        raise ValueError(
            f"words must be int64 [num_samples, num_words, 2], got {words.dtype} {list(words.shape)}"
        )
    if not words.is_contiguous():
        raise ValueError("words must be contiguous; use words.contiguous()")


def check_record(record: Tensor) -> None:
    """An open-epoch record: int64 ``[N]``, contiguous."""
    if record.dtype != torch.int64 or record.dim() != 1 or not record.is_contiguous():
        raise ValueError(
            f"record must be int64 [num_samples], contiguous, got {record.dtype} {list(record.shape)}"
        )


def check_planes(planes: Tensor, num_samples: int, num_classes: int) -> None:
    """Bit planes of predicted classes: int32 ``[P, bits, ceil(N / 32)]``, contiguous."""
    if not 1 <= num_classes <= _C.max_classes:
        raise ValueError(f"num_classes must be in [1, {_C.max_classes}], got {num_classes}")
    bits = num_classes.bit_length()
    fits = planes.dim() == 3 and tuple(planes.shape[1:]) == (bits, -(-num_samples // 32))
    if planes.dtype != torch.int32 or not fits or not planes.is_contiguous():
        raise ValueError(
            f"planes must be int32 [num_epochs, {bits}, {-(-num_samples // 32)}], contiguous, for {num_samples} "
            f"samples and {num_classes} classes, got {planes.dtype} {list(planes.shape)}"
        )


def check_fold(
    record: Tensor,
    words: Tensor,
    planes: Tensor,
    sums: Tensor,
    epoch: Tensor,
    num_classes: int,
    parts: int,
) -> None:
    """Arguments of ``fold_epoch``."""
    check_record(record)
    check_words(words)
    check_planes(planes, len(record), num_classes)
    if (
        words.shape[0] != len(record)
        or not 0 < planes.shape[0] <= words.shape[1] * 64
        or sums.dtype != torch.int32
        or sums.dim() != 2
        or sums.shape[0] not in (_C.num_shortfall_sums, _C.num_sums)
        or sums.shape[1] != len(record)
        or not sums.is_contiguous()
        or epoch.dtype != torch.int64
        or epoch.numel() != 1
        or not 0 <= parts < 8
    ):
        raise ValueError(
            f"fold_epoch wants words of {len(record)} samples with room for the {planes.shape[0]} epochs of "
            f"planes, sums int32 [{_C.num_shortfall_sums} or {_C.num_sums}, {len(record)}], epoch int64 of one "
            f"element, and parts in [0, 8); got words {list(words.shape)}, sums {sums.dtype} "
            f"{list(sums.shape)}, epoch {epoch.dtype} {list(epoch.shape)}, parts {parts}"
        )
    if not words.device == planes.device == sums.device == epoch.device == record.device:
        raise RuntimeError("record, words, planes, sums and epoch must be on one device")


def check_reading(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int
) -> None:
    """Planes, and a non-empty window of epochs that lies in them."""
    check_planes(planes, num_samples, num_classes)
    if not 0 <= start < stop <= planes.shape[0]:
        raise ValueError(
            f"the window of epochs must satisfy 0 <= start < stop <= {planes.shape[0]}, got start {start}, "
            f"stop {stop}"
        )


def check_class_per_sample(name: str, labels: Tensor, planes: Tensor, num_samples: int) -> None:
    """A class for each sample: int64 ``[N]`` where the planes are."""
    if labels.dtype != torch.int64 or tuple(labels.shape) != (num_samples,):
        raise ValueError(
            f"{name} must be int64 [{num_samples}], a class for each sample, got {labels.dtype} "
            f"{list(labels.shape)}"
        )
    if labels.device != planes.device:
        raise RuntimeError(
            f"{name} is on {labels.device}, but the status is on {planes.device}; use "
            f"{name}.to({str(planes.device)!r})"
        )


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


RECORDS = ("status", "classes", "all")


def checked_level(
    num_samples: int, num_epochs: int, num_classes: int | None, record: str | None
) -> str:
    """What a status of these sizes records, after looking at them; see `mild_ext.LearningStatus`."""
    sizes = [("num_samples", num_samples, 1 << 40), ("num_epochs", num_epochs, _C.max_epochs)]
    if num_classes is not None:
        sizes.append(("num_classes", num_classes, _C.max_classes))
    for name, value, most in sizes:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise TypeError(f"{name} must be an int, got {type(value).__name__}")
        if not 1 <= value <= most:
            raise ValueError(f"{name} must be in [1, {most}], got {value}")
    if record is None:
        record = "status" if num_classes is None else "classes"
    if record not in RECORDS:
        raise ValueError(f"record must be one of {', '.join(RECORDS)}, got {record!r}")
    if record != "status" and num_classes is None:
        raise ValueError(f"record={record!r} needs num_classes, the columns of the logits")
    return record


def checked_device(device: torch.device | str) -> torch.device:
    """The device, if a status can be on it."""
    device = torch.device(device)
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be cpu or cuda, got {device}")
    if device.type == "cuda" and not has_cuda():
        raise RuntimeError(
            "this build of mild_ext has no CUDA code, so the status cannot be on a CUDA device; "
            "install it again where nvcc is on PATH (MILD_EXT_CUDA=ON pip install --force-reinstall "
            "--no-deps . in a checkout), or use device='cpu' with logits.cpu()"
        )
    return device
