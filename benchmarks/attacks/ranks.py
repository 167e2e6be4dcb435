"""Groups of ranks of which one dies, stops or comes late in the middle of a sync: does each of the others say so?

python benchmarks/attacks/ranks.py [SEED] [GROUPS]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from datetime import timedelta

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from attacked_runs import seeded

from mild_ext import LearningStatus

SAMPLES, EPOCHS, TIMEOUT = 2000, 6, 6.0


def batch(epoch: int, rank: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * epoch + rank)
    index = torch.randint(SAMPLES, (64,), generator=generator)
    return (
        index,
        torch.randn(64, 4, generator=generator),
        torch.randint(4, (64,), generator=generator),
    )


def rank_main(
    rank: int, ranks: int, port: int, plan: tuple[str, int, int], queue: mp.Queue
) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    status, what = LearningStatus(SAMPLES, EPOCHS), "done"
    how, victim, when = plan
    try:
        for epoch in range(EPOCHS):
            status.update(*batch(epoch, rank))
            before = status.words.clone()
            if rank == victim and epoch == when:
                if how == "dies":
                    os.kill(os.getpid(), signal.SIGKILL)
                time.sleep({"late": 1.5, "too late": 3 * TIMEOUT}[how])
            try:
                status.sync(timeout=TIMEOUT)
            except RuntimeError as error:
                # What it recorded is intact, and the message says who is missing.
                intact = bool((status.words & before == before).all())
                what = "told" if intact and "sync: rank" in str(error) else "LOST"
                break
            status.advance()
    finally:
        queue.put((rank, what, int(status.words.sum())))
        queue.close()
        queue.join_thread()
        os._exit(0)  # not to wait for the others


def main() -> None:
    rng = seeded(sys.argv[1:])
    groups = int(sys.argv[2]) if len(sys.argv) > 2 else 8
    context = mp.get_context("spawn")
    good = 0
    for number in range(groups):
        ranks = rng.choice((2, 3))
        plan = (
            rng.choice(("dies", "late", "too late")),
            rng.randrange(ranks),
            rng.randrange(EPOCHS),
        )
        queue, port = context.Queue(), random.Random(time.time_ns()).randrange(20_000, 60_000)
        processes = [
            context.Process(target=rank_main, args=(r, ranks, port, plan, queue))
            for r in range(ranks)
        ]
        for process in processes:
            process.start()
        started, told = time.monotonic(), {}
        expected = ranks - (plan[0] == "dies")
        while len(told) < expected and time.monotonic() - started < 120:
            if not queue.empty():
                rank, what, words = queue.get()
                told[rank] = (what, words)
            time.sleep(0.05)
        for process in processes:
            process.kill()
            process.join()
        others = {w for r, (w, _) in told.items() if r != plan[1]}
        same = len({words for _, words in told.values()}) == 1
        # For rank 0, which looks after the barrier, the others may wait longer than they were asked to.
        patient = plan[0] == "late" or (plan[0] == "too late" and plan[1] == 0)
        fine = others == {"done"} and same and patient
        fine |= others == {"told"} and plan[0] != "late"
        fine &= len(told) == expected
        good += fine
        print(
            f"group {number}: {ranks} ranks, rank {plan[1]} {plan[0]} in epoch {plan[2]}: {told}",
            flush=True,
        )
    print(
        f"{good} of {groups} groups: every other rank went on, or said which rank it lost, with nothing lost"
    )


if __name__ == "__main__":
    main()
