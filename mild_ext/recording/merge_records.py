"""Joining what two statuses have recorded of the same samples."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from mild_ext.recording.epoch_record import SHORTFALL, SHORTFALL_FIRST_HALF, EpochRecord

Part = tuple[Tensor, EpochRecord, int]


def merge_records(one: Part, other: Part) -> tuple[Tensor, EpochRecord]:
    """Join two records of the same samples, which may stand in different epochs.

    The open epoch: MAX of the visits, as if all batches had been recorded by one. Ended epochs are sums, which cannot
    tell two visits of one epoch apart. So a sample's ended epochs must be disjoint in the two records (they are added),
    or one record's be among the other's, and the same there (nothing is added).

    Args:
        one, other: words int64 ``[N, W, 2]``, record, and its open epoch; on one device or two; not changed.

    Returns:
        New words and record, on the device of ``one``.

    Raises:
        ValueError: both saw a sample in an ended epoch, and differ.
    """
    epoch = max(one[2], other[2])
    words, record = _brought_to(epoch, *one)
    others_words, others = _brought_to(epoch, *other)
    _join(words, record, others_words.to(words.device), others.to(words.device), epoch)
    words |= others_words.to(words.device)
    return words, record


def _join(
    words: Tensor, record: EpochRecord, others_words: Tensor, other: EpochRecord, epoch: int
) -> None:
    """Take over the visits, classes and sums of another record in the same epoch."""
    ended = _bits_below(words, epoch)
    mine, theirs = words[..., 0] & ended, others_words[..., 0] & ended
    both = mine & theirs
    overlap = both.any(1)
    inside = ((theirs & ~mine) == 0).all(1)  # mine has all of theirs
    around = ((mine & ~theirs) == 0).all(1)
    same = (((words[..., 1] ^ others_words[..., 1]) & both) == 0).all(1)
    equal_sums = (record.sums == other.sums).all(0)
    conflict = overlap & ~(same & ((inside & around & equal_sums) | (inside ^ around)))
    if bool(conflict.any()) or _planes_differ(record.planes[:epoch], other.planes[:epoch]):
        raise ValueError(
            f"both statuses saw {int(conflict.sum()) or 'some'} samples in epochs that are ended, and differ "
            "there; ended epochs are kept as sums and cannot be joined. Call merge_ (or sync) in every epoch "
            "before advance()"
        )
    add = torch.where(overlap, 0, other.sums)
    take = overlap & around & ~inside
    record.sums.copy_(torch.where(take, other.sums, record.sums + add))
    # Of each sample and epoch one class is 0, or both are equal.
    record.planes[:epoch] |= other.planes[:epoch]
    torch.maximum(record.visits, other.visits, out=record.visits)


def _brought_to(
    epoch: int, words: Tensor, record: EpochRecord, before: int
) -> tuple[Tensor, EpochRecord]:
    """Copies of words and record whose open epoch is ``epoch``, no earlier than before."""
    words, record = words.clone(), copy.deepcopy(record)
    if before < epoch:
        record.fold(words, torch.tensor(before, device=words.device))
        if before + 1 < record.half_epoch <= epoch:  # the epochs in between are empty
            record.sums[SHORTFALL_FIRST_HALF] = record.sums[SHORTFALL]
    return words, record


def _bits_below(words: Tensor, epoch: int) -> Tensor:
    """int64 ``[W]``: the bits of the epochs before ``epoch``."""
    masks = [min(max(epoch - 64 * w, 0), 64) for w in range(words.shape[1])]
    values = [-1 if n == 64 else (1 << n) - 1 for n in masks]
    return torch.tensor(values, dtype=torch.int64, device=words.device)


def _planes_differ(mine: Tensor, theirs: Tensor) -> bool:
    """Whether a sample has two different classes in one epoch; planes: int32 ``[E, bits, words]``."""
    for one, other in zip(mine, theirs, strict=True):
        has, others_has, differs = (torch.zeros_like(one[0]) for _ in range(3))
        for a, b in zip(one, other, strict=True):
            has |= a
            others_has |= b
            differs |= a ^ b
        if bool((has & others_has & differs).any()):
            return True
    return False
