"""Running a function in several processes that talk over gloo on this machine."""

from __future__ import annotations

import os
import socket
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _main(rank: int, ranks: int, port: int, function: Callable[..., Any], args: Any, results: Any):
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_RUN_ID="test")
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=timedelta(seconds=60))
    try:
        results.put((rank, True, function(*args)))
    except BaseException:
        results.put((rank, False, traceback.format_exc()))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run_on_ranks(
    ranks: int, function: Callable[..., Any], *args: Any, seconds: float = 300
) -> list:
    """``function(*args)`` in every rank; returns their results (NumPy arrays, numbers) by rank.

    A rank that ends without a result gives None.
    """
    # A server that has imported torch once, forked for every rank: seconds less per test.
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["torch", "torch.distributed", "mild_ext.selection.select"])
    results = context.SimpleQueue()
    arguments = (ranks, free_port(), function, args, results)
    processes = [context.Process(target=_main, args=(rank, *arguments)) for rank in range(ranks)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(seconds)
        if process.is_alive():
            for other in processes:
                other.kill()
            raise AssertionError(f"the ranks did not end within {seconds} s")
    by_rank: list = [None] * ranks
    while not results.empty():
        rank, worked, value = results.get()
        assert worked, f"rank {rank} failed:\n{value}"
        by_rank[rank] = value
    return by_rank
