"""One epoch of the status buffer as bit planes, to be sent to other ranks and merged by OR.

Works on plain tensors; `LearningStatus.sync` says which epochs travel. A bitwise OR is no collective
that NCCL has, so `mild_ext.processes.Wire.bitwise_or` builds it from two that every backend has. Each
rank packs what is new into two bit planes per epoch, cuts them into one slice per rank, and

1. all-to-all: slice j of every rank goes to rank j, which ORs them;
2. all-gather: the merged slices go to everybody.

Sent by each of R ranks: ``2 (R - 1) / R`` times the planes, the least any all-reduce needs. The planes
of one epoch take N/4 bytes, so that is 2 bits per sample and epoch for two ranks, 3 for four, and
never more than 4.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPOCHS_PER_WORD = 64
_ROWS = 1 << 20  # rows packed at a time (a multiple of 8): bounds the temporaries


def count_epoch(words: Tensor, epoch: int) -> int:
    """Number of bits set in both planes of an epoch; words: int64 ``[N, W, 2]``."""
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    mask = (1 << bit) if bit < 63 else -(1 << 63)
    parts = words[:, word].split(_ROWS)
    return sum(int(torch.count_nonzero(part & mask)) for part in parts)


def pack_epoch(words: Tensor, epoch: int) -> Tensor:
    """The two bit planes of one epoch.

    Args:
        words: int64 ``[N, W, 2]``.
        epoch: in ``[0, 64 W)``.

    Returns:
        uint8 ``[2, ceil(N / 8)]``: bit ``i % 8`` of byte ``i // 8`` belongs to sample i. Plane 0 is
        *seen*, plane 1 *wrong*.
    """
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    count = words.shape[0]
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device).view(8, 1)
    planes = torch.empty(2, -(-count // 8), dtype=torch.uint8, device=words.device)
    for row in range(0, count, _ROWS):
        bits = ((words[row : row + _ROWS, word] >> bit) & 1).to(torch.uint8)
        bits = torch.nn.functional.pad(bits, (0, 0, 0, -len(bits) % 8))
        packed = (bits.view(-1, 8, 2) << shifts).sum(1, dtype=torch.uint8)
        planes[:, row // 8 : row // 8 + len(packed)] = packed.T
    return planes


def count_planes(planes: Tensor) -> int:
    """Number of bits set in packed planes: what `count_epoch` gives for words that hold just these."""
    return sum(int(((planes >> shift) & 1).sum()) for shift in range(8))


def merge_epoch_(words: Tensor, epoch: int, planes: Tensor) -> None:
    """OR the bit planes of one epoch into the words, in place; the inverse of `pack_epoch`.

    Only words that lack a bit are written. What another thread records into this epoch meanwhile sets that very bit in
    them, if any, so that nothing of it is lost.
    """
    word, bit = divmod(epoch, _EPOCHS_PER_WORD)
    shifts = torch.arange(8, dtype=torch.uint8, device=words.device)
    for row in range(0, words.shape[0], _ROWS):
        part = words[row : row + _ROWS, word]
        packed = planes[:, row // 8 : row // 8 + _ROWS // 8].to(words.device)
        bits = ((packed.unsqueeze(-1) >> shifts) & 1).flatten(1)[:, : len(part)].T
        news = (bits.to(torch.int64) << bit) & ~part
        where = news.nonzero(as_tuple=True)
        part[where] |= news[where]
