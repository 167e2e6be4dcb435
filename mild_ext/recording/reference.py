"""Every op once more, slow and obvious, in plain torch and numpy: what the native core is held against."""

from __future__ import annotations

import torch
from torch import Tensor

#: Rows with this label are skipped: torch's ignore_index.
IGNORED = -100


def is_memorized(logits: Tensor, labels: Tensor) -> Tensor:
    """bool ``[B]``: the label is the first maximum of its row, and the row has no NaN."""
    values = logits.detach().double().cpu()
    first_maximum = torch.from_numpy(values.numpy().argmax(axis=1))
    return (first_maximum == labels.cpu()) & ~values.isnan().any(dim=1)


def update_status(words: Tensor, epoch: int, index: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Record one batch, sample by sample."""
    counts = labels != IGNORED
    index, logits, labels = index[counts], logits[counts], labels[counts]
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


# ---- visits: the open-epoch record, bit fields as in csrc/visit_record.h


def visits_of(logits: Tensor, labels: Tensor, statistics: bool = True) -> Tensor:
    """int64 ``[B]``: each row as a visit. Loss and EL2N in float64, then rounded to fp16."""
    values = logits.detach().cpu()
    values = values if values.dtype == torch.float64 else values.float()
    labels = labels.cpu().long()[:, None]
    has_nan = values.isnan().any(1)
    memorized = is_memorized(logits, labels[:, 0])
    own = values.gather(1, labels)[:, 0]
    others = values.scatter(1, labels, -torch.inf)
    largest = others.amax(1)
    margin = torch.where(own == largest, 0, own - largest).float()
    half = margin.abs().half().view(torch.int16).long()
    key = torch.where(memorized, 0x7FFF - half, 0x8000 | half)
    predicted = torch.from_numpy(values.numpy().argmax(1)).where(~has_nan, 0)
    loss, el2n = torch.zeros(2, len(values), dtype=torch.float64)
    if statistics:
        # Equal logits differ by 0, infinite ones too.
        x, best = values.double(), values.double().amax(1, keepdim=True)
        weights = torch.where(x == best, 0, x - best).exp()
        shares = weights / weights.sum(1, keepdim=True)
        rest = shares.scatter(1, labels, 0)  # of the others
        loss = torch.log1p(-rest.sum(1)).abs()  # never -0
        below = torch.where(own == best[:, 0], 0, own.double() - best[:, 0])
        small = shares.gather(1, labels)[:, 0] < 0.5
        loss = torch.where(small, weights.sum(1).log() - below, loss)
        el2n = (rest.sum(1).square() + rest.square().sum(1)).sqrt()
        loss = torch.where(has_nan, torch.inf, loss)
        el2n = torch.where(has_nan, 2**0.5, el2n)
    key = torch.where(has_nan, 0xFFFF, key)
    low = loss.half().view(torch.int16).long() << 15 | el2n.half().view(torch.int16).long()
    return _signed(key << 48 | predicted << 30 | low)


def _signed(word: Tensor) -> Tensor:
    return word ^ torch.tensor(-(1 << 63))


def visit_fields(record: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``key``, ``predicted``, and the fp16 patterns ``loss``, ``el2n`` of a record: int64 ``[N]`` each."""
    word = _signed(record.cpu())
    return (word >> 48) & 0xFFFF, (word >> 30) & 0x3FFFF, (word >> 15) & 0x7FFF, word & 0x7FFF


def record_visits(
    record: Tensor, index: Tensor, logits: Tensor, labels: Tensor, statistics: bool = True
) -> None:
    """The worst visit of each sample, sample by sample."""
    counts = labels != IGNORED
    index, logits, labels = index[counts], logits[counts], labels[counts]
    for sample, visit in zip(
        index.tolist(), visits_of(logits, labels, statistics).tolist(), strict=True
    ):
        record[sample] = max(int(record[sample]), visit)


# ---- ending an epoch: csrc/epoch_fold.h


_MOST_SHORTFALL = float(torch.tensor(10_000.0).log())  # as a float32


def _half(pattern: Tensor) -> Tensor:
    return pattern.to(torch.int16).view(torch.float16).double()


def contributions(record: Tensor, num_epochs: int) -> Tensor:
    """int32 ``[7, N]``: what each visit adds to the rows of the sums; row 1 is left 0."""
    key, _, loss, el2n = visit_fields(record)
    wrong, visited = key >= 0x8000, record.cpu() != -(1 << 63)
    distance = _half(torch.where(wrong, key & 0x7FFF, 0x7FFF - key).clamp(0, 0x7C00))
    probability = (-_half(loss)).exp()
    room = 30 - (num_epochs - 1).bit_length()
    rows = [
        (torch.where(wrong, distance.clamp(max=_MOST_SHORTFALL), 0), 4),
        (torch.zeros(len(key), dtype=torch.float64), 4),
        (torch.where(wrong, -1.0, 1.0) * distance.clamp(max=1024), 10),
        (_half(loss).clamp(max=1024), 10),
        (probability, 0),
        (probability.square(), 0),
        (_half(el2n), 1),
    ]
    scaled = [value * 2.0 ** min(room - bound, 24) for value, bound in rows]
    # Halves away from zero.
    rounded = [(x.abs() + 0.5).floor() * x.sign() * visited for x in scaled]
    return torch.stack(rounded).to(torch.int32)


def fold_epoch(
    record: Tensor, words: Tensor, planes: Tensor, sums: Tensor, epoch: int, parts: int
) -> None:
    """1: bits and classes, 2: sums, 4: empty the record; a sum of these."""
    num_epochs, bits, _ = planes.shape
    if not 0 <= epoch < num_epochs:
        return
    key, predicted, _, _ = visit_fields(record)
    visited = record != -(1 << 63)
    word, position = divmod(epoch, 64)
    bit = torch.tensor(1) << position
    if parts & 1:
        words[:, word, 0] |= visited * bit
        words[:, word, 1] |= (visited & (key >= 0x8000)) * bit
        codes = torch.where(visited & (key != 0xFFFF), predicted + 1, 0)
        padded = torch.nn.functional.pad(codes, (0, -len(codes) % 32)).view(-1, 32)
        for b in range(bits):
            packed = ((padded >> b & 1) << torch.arange(32)).sum(1)
            planes[epoch, b] = torch.where(packed >= 1 << 31, packed - (1 << 32), packed).int()
    if parts & 2:
        sums += contributions(record, num_epochs)[: len(sums)]
        if epoch + 1 == (num_epochs + 1) // 2:
            sums[1] = sums[0]
    if parts & 4:
        record.fill_(-(1 << 63))


# ---- reading the classes: csrc/predicted_classes.h


def class_codes(planes: Tensor, num_samples: int) -> Tensor:
    """int64 ``[P, N]``: class + 1; 0 without one."""
    bits = (planes[..., None].long() >> torch.arange(32)) & 1  # [P, bits, words, 32]
    by_sample = bits.flatten(2)[..., :num_samples]
    return (by_sample << torch.arange(planes.shape[1])[:, None]).sum(1)


def class_votes(
    planes: Tensor, num_samples: int, num_classes: int, start: int, stop: int
) -> Tensor:
    """int32 ``[N, K]``."""
    codes = class_codes(planes, num_samples)[start:stop]
    votes = torch.zeros((num_samples, num_classes + 1), dtype=torch.int32)
    for row in codes:
        votes[torch.arange(num_samples), row] += 1
    return votes[:, 1:]


def majority_vote(
    planes: Tensor,
    excluded: Tensor | None,
    num_samples: int,
    num_classes: int,
    start: int,
    stop: int,
) -> Tensor:
    """int32 ``[3, N]``: class, its votes, all votes."""
    votes = class_votes(planes, num_samples, num_classes, start, stop)
    if excluded is not None:
        has = excluded >= 0
        votes[has, excluded[has]] = 0
    count = votes.amax(1)
    label = torch.from_numpy(votes.numpy().argmax(1)).int()
    return torch.stack([torch.where(count > 0, label, -1), count, votes.sum(1).int()])


def count_predicted(planes: Tensor, labels: Tensor, start: int, stop: int) -> Tensor:
    """int32 ``[N]``: epochs that predicted ``labels``."""
    codes = class_codes(planes, len(labels))[start:stop]
    return (codes == labels + 1).sum(0).int()


def prediction_changes(
    planes: Tensor, num_samples: int, start: int, stop: int
) -> tuple[Tensor, Tensor]:
    """Changes per sample, int32 ``[N]``, and per epoch, int64 ``[stop - start]``."""
    before = torch.zeros(num_samples, dtype=torch.int64)
    changes, changed = torch.zeros_like(before), []
    for row in class_codes(planes, num_samples)[start:stop]:
        change = (row != 0) & (before != 0) & (row != before)
        changes += change
        changed.append(int(change.sum()))
        before = torch.where(row != 0, row, before)
    return changes.int(), torch.tensor(changed)


def first_run(words: Tensor, start: int, stop: int, length: int) -> Tensor:
    """int32 ``[N]``: the epoch that ends the first ``length`` memorized ones in a row; the window's length if none."""
    seen, memorized = unpack(words, start, stop)
    run = torch.zeros(len(words), dtype=torch.int64)
    first = torch.full_like(run, stop - start)
    for t in range(stop - start):
        run = torch.where(seen[:, t], (run + 1) * memorized[:, t], run)
        first = torch.where((run == length) & (first == stop - start), t, first)
    return first.int()
