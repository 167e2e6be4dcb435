"""Every op once more, slow and obvious, in plain torch and numpy: what the native core is held against."""

from __future__ import annotations

import torch
from torch import Tensor


def is_memorized(logits: Tensor, labels: Tensor) -> Tensor:
    """bool ``[B]``: the label is the first maximum of its row, and the row has no NaN."""
    values = logits.detach().double().cpu()
    first_maximum = torch.from_numpy(values.numpy().argmax(axis=1))
    return (first_maximum == labels.cpu()) & ~values.isnan().any(dim=1)


def update_status(words: Tensor, epoch: int, index: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Record one batch, sample by sample."""
    if len(index) == 0:
        return
    word, position = divmod(epoch, 64)
    bit = 1 << position if position < 63 else -(1 << 63)
    for sample, memorized in zip(
        index.tolist(), is_memorized(logits, labels).tolist(), strict=True
    ):
        words[sample, word, 0] |= bit
        if not memorized:
            words[sample, word, 1] |= bit


def unpack(words: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """``seen`` and ``memorized``, bool ``[N, stop - start]``, from words int64 ``[N, W, 2]``."""
    positions = torch.arange(64, device=words.device)
    bits = (words[..., None] >> positions) & 1  # [N, W, 2, 64]
    seen, wrong = (bits[:, :, plane].flatten(1)[:, start:stop].bool() for plane in (0, 1))
    return seen, seen & ~wrong


def transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    """int32 ``[8, N]``, by walking through the epochs one after another."""
    seen, memorized = unpack(words, start, stop)
    count = len(words)
    zero = torch.zeros(count, dtype=torch.int64, device=words.device)
    first = torch.full_like(zero, stop - start)
    up, down, run, longest = zero.clone(), zero.clone(), zero.clone(), zero.clone()
    before = torch.full_like(zero, -1)  # status in the last seen epoch; -1: none yet
    for t in range(stop - start):
        visited, now = seen[:, t], memorized[:, t].long()
        first = torch.where((first == stop - start) & (now == 1), t, first)
        up += visited & (before == 0) & (now == 1)
        down += visited & (before == 1) & (now == 0)
        run = torch.where(visited, (run + 1) * now, run)
        longest = torch.maximum(longest, run)
        before = torch.where(visited, now, before)
    n, r = seen.sum(1), memorized.sum(1)
    columns = [n - r, r, n - 2 * r, first, up, down, longest, n]
    return torch.stack(columns).to(torch.int32)


def totals(words: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """Misclassified and seen epochs, int64 ``[N]`` each."""
    seen, memorized = unpack(words, start, stop)
    return (seen & ~memorized).sum(1), seen.sum(1)


def status_histogram(words: Tensor, start: int, stop: int) -> Tensor:
    """Counts of (misclassified, seen), int64 ``[P + 1, P + 1]``."""
    side = stop - start + 1
    misclassified, seen = totals(words, start, stop)
    cells = torch.bincount(misclassified * side + seen, minlength=side * side)
    return cells.view(side, side)


def status_lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    """``table[misclassified, seen]`` of every sample."""
    return table[totals(words, start, stop)]
