"""The slow, obvious torch version of every operation in :mod:`mild_ext.ops`: what the native code must equal."""

from __future__ import annotations

import torch
from torch import Tensor


def memorized(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the label is the argmax of its row.

    Args:
        logits: float [B, C].
        labels: int [B], in [0, C).

    Returns:
        bool [B]: no logit is greater than the label's, none equal to it stands at a lower class index, and none is
        NaN.
    """
    label_logit = logits.gather(1, labels.long()[:, None])
    classes = torch.arange(logits.shape[1], device=logits.device)
    before = classes[None, :] < labels[:, None]
    beaten = torch.where(before, logits >= label_logit, logits > label_logit)
    return ~beaten.any(dim=1) & ~logits.isnan().any(dim=1)


def update(words: Tensor, index: Tensor, logits: Tensor, labels: Tensor, epoch: int) -> None:
    """Records a batch into ``words`` (int64 [N, W, 2]), in place, one row after the other."""
    word = epoch // 64
    bit = 1 << (epoch % 64) if epoch % 64 < 63 else -(1 << 63)
    for sample, agrees in zip(index.tolist(), memorized(logits, labels).tolist(), strict=True):
        words[sample, word, 0] |= bit
        if not agrees:
            words[sample, word, 1] |= bit


def unpack(words: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """``(seen, wrong)``, bool [N, P] each: one column for each epoch of [start, stop)."""
    epochs = torch.arange(start, stop, device=words.device)
    bits = (words[:, epochs // 64, :] >> (epochs % 64)[None, :, None]) & 1
    return bits[..., 0].bool(), bits[..., 1].bool()


def transition_times(words: Tensor, start: int, stop: int) -> Tensor:
    """int32 [8, N], by a walk along the epochs; see :class:`mild_ext.TransitionTimes` for the rows."""
    seen, wrong = unpack(words, start, stop)
    status = seen & ~wrong
    zero = torch.zeros(words.shape[0], dtype=torch.int32, device=words.device)
    first = torch.full_like(zero, stop - start)
    memorization, forgetting, run, longest = zero.clone(), zero.clone(), zero.clone(), zero.clone()
    previous = torch.full_like(zero, -1)  # status at the last seen epoch; -1: none yet
    for epoch in range(stop - start):
        here, now = seen[:, epoch], status[:, epoch]
        memorization += (here & now & (previous == 0)).int()
        forgetting += (here & ~now & (previous == 1)).int()
        first = torch.where(now & (first == stop - start), epoch, first)
        run = torch.where(here, torch.where(now, run + 1, 0), run)
        longest = torch.maximum(longest, run)
        previous = torch.where(here, now.int(), previous)
    r = status.sum(dim=1, dtype=torch.int32)
    n = seen.sum(dim=1, dtype=torch.int32)
    columns = (n - r, r, n - 2 * r, first, memorization, forgetting, longest, n)
    return torch.stack([column.to(torch.int32) for column in columns])


def totals(words: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    """``(misclassified, seen)``, int64 [N] each, over the epochs [start, stop)."""
    seen, wrong = unpack(words, start, stop)
    return (seen & wrong).sum(dim=1), seen.sum(dim=1)


def histogram(words: Tensor, start: int, stop: int) -> Tensor:
    """int64 [P + 1, P + 1]: how many samples have (misclassified, seen)."""
    misclassified, seen = totals(words, start, stop)
    side = stop - start + 1
    return torch.bincount(misclassified * side + seen, minlength=side * side).view(side, side)


def lookup(words: Tensor, table: Tensor, start: int, stop: int) -> Tensor:
    """``table[misclassified, seen]`` of every sample, [N]."""
    return table[totals(words, start, stop)]
