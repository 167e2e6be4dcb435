"""Many updates, selections, saves and refused batches in one process: does its memory grow?

python benchmarks/attacks/soak.py [SEED] [UPDATES]
"""

from __future__ import annotations

import contextlib
import gc
import sys
import tempfile
from pathlib import Path

import torch
from attacked_runs import seeded

from mild_ext import LearningStatus, select_clean


def resident() -> int:
    """Bytes of memory this process has (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def main() -> None:
    rng = seeded(sys.argv[1:])
    updates = int(sys.argv[2]) if len(sys.argv) > 2 else 180_000
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    status = LearningStatus(10_000, 64, num_classes=10)
    marks = []
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(updates):
            index = torch.randint(10_000, (32,), generator=generator)
            logits = torch.randn(32, 10, generator=generator)
            status.update(index, logits, index % 10)
            if number % 100 == 0:
                for bad in (index + 10_000, index[:5]):
                    with contextlib.suppress(ValueError):
                        status.update(bad, logits, index % 10)
            if number % 2000 == 1999:
                status.advance()
                if status.epoch == status.num_epochs:
                    status.reset()
                elif status.epoch > 3:
                    select_clean(status)
                status.save(Path(scratch) / "s")
                LearningStatus.load(Path(scratch) / "s")
            if number % (updates // 10) == updates // 10 - 1:
                gc.collect()
                marks.append(resident())
    growth = marks[-1] - marks[2]
    print(
        f"{updates:,} updates: {marks[-1] / 1e6:.1f} MB, {growth / 1e6:+.2f} MB since the first 30 % of them"
    )


if __name__ == "__main__":
    main()
