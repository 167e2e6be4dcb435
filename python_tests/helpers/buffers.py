"""Random logits and status buffers for the tests of the native core."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mild_ext.recording import reference

LOGIT_TYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
INT_TYPES = [torch.int64, torch.int32]


def generator(seed: int) -> torch.Generator:
    """A generator of its own, so that no test draws from another's."""
    return torch.Generator().manual_seed(seed)


def make_logits(rows: int, classes: int, dtype: torch.dtype, rng: torch.Generator) -> Tensor:
    """Few distinct values, so that ties are frequent, with some rows holding NaN or infinities."""
    logits = torch.randint(-2, 3, (rows, classes), generator=rng).to(dtype)
    special = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 6.1e-5, 1e-8])
    picks = torch.randint(0, len(special), (rows, classes), generator=rng)
    rare = torch.rand((rows, classes), generator=rng) < 0.5 / max(classes, 4)
    logits = torch.where(rare, special[picks].to(dtype), logits)
    # Make the label's logit the largest in many rows: class 0 gets a bonus in half of them.
    bonus = torch.rand(rows, generator=rng) < 0.5
    logits[bonus, 0] += 3
    return logits


def random_words(num_samples: int, num_epochs: int, rng: torch.Generator, gaps: float) -> Tensor:
    """A buffer as training leaves it: wrong only where seen, nothing past num_epochs."""
    word = torch.zeros((num_samples, -(-num_epochs // 64), 2), dtype=torch.int64)
    seen = torch.rand((num_samples, num_epochs), generator=rng) >= gaps
    # Long and short runs: a sample flips with its own probability.
    flips = torch.rand((num_samples, num_epochs), generator=rng) < torch.rand(
        (num_samples, 1), generator=rng
    )
    wrong = (flips.cumsum(1) % 2).bool()
    for epoch in range(num_epochs):
        bit = torch.tensor(1, dtype=torch.int64) << (epoch % 64)
        word[:, epoch // 64, 0] |= seen[:, epoch] * bit
        word[:, epoch // 64, 1] |= (seen & wrong)[:, epoch] * bit
    return word


NO_VISIT = -(1 << 63)


def random_planes(
    num_samples: int, num_epochs: int, classes: int, rng: torch.Generator, gaps: float = 0.2
) -> Tensor:
    """Predicted classes as training leaves them: most samples stay with a few."""
    favourite = torch.randint(0, classes, (3, num_samples), generator=rng)
    picks = torch.randint(0, 3, (num_epochs, num_samples), generator=rng)
    codes = favourite.gather(0, picks) + 1
    codes[torch.rand((num_epochs, num_samples), generator=rng) < gaps] = 0
    codes = torch.nn.functional.pad(codes, (0, -num_samples % 32)).view(num_epochs, -1, 32)
    bits = [(codes >> b & 1) << torch.arange(32) for b in range(classes.bit_length())]
    words = torch.stack([x.sum(-1) for x in bits], dim=1)
    return torch.where(words >= 1 << 31, words - (1 << 32), words).int()


def same_record(ours: Tensor, theirs: Tensor) -> None:
    """Key and class to the bit; loss and EL2N to one place of their fp16: sums and exp are rounded differently."""
    for name, tolerance, a, b in zip(
        ("key", "class", "loss", "EL2N"),
        (0, 0, 1, 1),
        reference.visit_fields(ours),
        reference.visit_fields(theirs),
        strict=True,
    ):
        assert (a - b).abs().max() <= tolerance if len(a) else True, name
