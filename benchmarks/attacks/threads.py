"""Threads that record into one status, also while it is synced and saved: is every visit in it?

python benchmarks/attacks/threads.py [SEED] [RUNS]
"""

from __future__ import annotations

import sys
import tempfile
import threading
from pathlib import Path

import torch
from attacked_runs import seeded

from mild_ext import LearningStatus

SAMPLES, BATCHES, THREADS = 5000, 200, 4


def main() -> None:
    rng = seeded(sys.argv[1:])
    runs = int(sys.argv[2]) if len(sys.argv) > 2 else 40
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "status.safetensors"
        for _ in range(runs):
            record = rng.choice(("status", "classes", "all"))
            options = {} if record == "status" else {"num_classes": 5, "record": record}
            status, alone = (LearningStatus(SAMPLES, 2, **options) for _ in range(2))
            seed, parts = rng.randrange(2**31), []
            for thread in range(THREADS):
                generator = torch.Generator().manual_seed(seed + thread)
                # Of a record, each thread has samples of its own: of one sample the worst visit counts.
                ids = (
                    torch.arange(SAMPLES)
                    if record == "status"
                    else torch.arange(thread, SAMPLES, THREADS)
                )
                parts.append(
                    [
                        (
                            ids[torch.randint(len(ids), (64,), generator=generator)],
                            torch.randn(64, 5, generator=generator),
                            torch.randint(5, (64,), generator=generator),
                        )
                        for _ in range(BATCHES)
                    ]
                )

            def go(batches: list, status: LearningStatus = status) -> None:
                for batch in batches:
                    status.update(*batch)

            threads = [threading.Thread(target=go, args=(batches,)) for batches in parts]
            for thread in threads:
                thread.start()
            for _ in range(3):
                status.save(path)  # a moment in the middle, which must be one that can be
                LearningStatus.load(path)
            for thread in threads:
                thread.join()
            for batches in parts:
                go(batches, alone)
            status.advance()
            alone.advance()
            wrong += not torch.equal(status.words, alone.words)
    print(
        f"{runs} runs of {THREADS} threads, {BATCHES * THREADS * 64:,} visits each: {wrong} with another status"
    )


if __name__ == "__main__":
    main()
