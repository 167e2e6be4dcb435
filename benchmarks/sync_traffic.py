"""What `LearningStatus.sync` sends and how long it takes: bytes over the loopback device, per rank and epoch.

python benchmarks/sync_traffic.py [--samples 1000000] [--ranks 2 4] [--epochs 5]

Starts that many processes on this machine, which talk over gloo on ``lo``, and reads the device's own
counter (Linux). Everything that other programs send over ``lo`` meanwhile is counted too.
"""

from __future__ import annotations

import argparse
import os
import socket
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from mild_ext import LearningStatus


def sent_over_loopback() -> int:
    return int(Path("/sys/class/net/lo/statistics/tx_bytes").read_text())


def worker(rank: int, ranks: int, port: int, samples: int, epochs: int) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), GLOO_SOCKET_IFNAME="lo")
    dist.init_process_group("gloo", rank=rank, world_size=ranks)
    status = LearningStatus(samples, epochs + 1)
    mine = torch.arange(rank, samples, ranks)
    logits, labels = torch.randn(len(mine), 10), torch.zeros(len(mine), dtype=torch.int64)
    counted, on_wire, seconds = 0, 0, 0.0
    for epoch in range(epochs + 1):
        status.update(mine, logits, labels)
        dist.barrier()
        before, started = sent_over_loopback(), time.perf_counter()
        dist.barrier()
        sent = status.sync()
        elapsed = time.perf_counter() - started
        dist.barrier()
        if epoch > 0:  # the first one also makes the connections
            counted += sent
            on_wire += sent_over_loopback() - before
            seconds += elapsed
        status.advance()
    if rank == 0:
        bits = 8 / (samples * epochs)
        print(
            f"{samples} samples, {ranks} ranks: {counted * bits:.3f} bits per sample, epoch and rank "
            f"handed over; {on_wire / ranks * bits:.3f} on the wire with headers; "
            f"{1000 * seconds / epochs:.0f} ms per sync",
            flush=True,
        )
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--ranks", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--epochs", type=int, default=5)
    options = parser.parse_args()
    for ranks in options.ranks:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        mp.spawn(worker, (ranks, port, options.samples, options.epochs), nprocs=ranks)


if __name__ == "__main__":
    main()
