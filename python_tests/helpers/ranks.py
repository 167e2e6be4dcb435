"""Running a function in processes of its own: several that talk over gloo, or one that nobody else shares.

Processes are forked from a server that has imported torch once, which spares each the seconds of a new
interpreter; and each is used once, so that none hands on a patched module, a framework's state, or its
death to the next test.
"""

from __future__ import annotations

import contextlib
import io
import os
import runpy
import socket
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

#: What the server imports beforehand, where this process has imported it: the tests at hand need it.
PRELOAD = [
    "torch",
    "torch.distributed",
    "torch._dynamo",  # of which every optimizer makes use
    "mild_ext.selection.select",
    "sklearn.datasets",
    "accelerate",
    "lightning.pytorch",
    "transformers",
]

#: Seconds that the other processes have left after one has failed: what waits for it must notice by then.
GRACE = 20.0


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def forks() -> Any:
    """The multiprocessing context whose processes are forked from the server."""
    context = mp.get_context("forkserver")
    context.set_forkserver_preload([name for name in PRELOAD if name in sys.modules])
    return context


def _main(
    rank: int, ranks: int, port: int, group: bool, function: Callable[..., Any], args: Any, end: Any
) -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    if ranks > 1:  # one alone is none of torchrun's
        os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks))
        os.environ.update(TORCHELASTIC_RUN_ID="test")
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    try:
        if group:
            limit = timedelta(seconds=60)
            dist.init_process_group("gloo", rank=rank, world_size=ranks, timeout=limit)
            dist.barrier()  # a rank that ends at once must not reset the connections others still make
        end.send((True, function(*args)))
    except BaseException:
        end.send((False, traceback.format_exc()))
        raise
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def run_on_ranks(
    ranks: int, function: Callable[..., Any], *args: Any, seconds: float = 300, group: bool = True
) -> list[Any]:
    """``function(*args)`` in every rank.

    Args:
        ranks: number of processes.
        function: of a module, so that its name finds it; warnings are errors in it at first.
        args: small, as they are pickled.
        seconds: after these, processes that still run are killed.
        group: make the process group beforehand. Without it, the environment is torchrun's.

    Returns:
        The results (NumPy arrays, numbers, text) by rank; None for a rank that ended without one.

    Raises:
        AssertionError: a rank failed, or the ranks did not end in time. No process is left behind.
    """
    context = forks()
    port, ends, processes = free_port(), [], []
    for rank in range(ranks):
        ours, theirs = context.Pipe(duplex=False)
        arguments = (rank, ranks, port, group, function, args, theirs)
        processes.append(context.Process(target=_main, args=arguments, daemon=True))
        processes[-1].start()
        theirs.close()
        ends.append(ours)
    results: list[Any] = [None] * ranks
    failures: dict[int, str] = {}
    deadline = time.monotonic() + seconds
    try:
        while waiting := [end for end in ends if not end.closed]:
            ready = wait(waiting, max(deadline - time.monotonic(), 0))
            if not ready:
                break
            for end in ready:
                rank = ends.index(end)
                try:
                    worked, value = end.recv()
                except EOFError:  # ended, with or without a result
                    end.close()
                    continue
                if worked:
                    results[rank] = value
                else:
                    failures[rank] = value
                    deadline = min(deadline, time.monotonic() + GRACE)
        for process in processes:
            process.join(max(deadline - time.monotonic(), 1))
        late = [rank for rank, process in enumerate(processes) if process.is_alive()]
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    for rank, text in failures.items():
        raise AssertionError(f"rank {rank} failed:\n{text}")
    assert not late, f"ranks {late} did not end within {seconds} s"
    return results


def _script(path: Path, folder: Path, environment: dict[str, str]) -> str:
    os.environ.update(environment)
    os.chdir(folder)
    warnings.simplefilter("default")  # as where a user starts it
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        runpy.run_path(str(path), run_name="__main__")
    return printed.getvalue()


def run_script(path: Path, folder: Path, *, ranks: int = 1, **environment: str) -> str:
    """Run a Python file as ``python FILE`` does, or as ``torchrun`` does where there are several ranks.

    Args:
        path: the file.
        folder: where it runs.
        ranks: number of processes.
        environment: variables to set.

    Returns:
        What it printed, rank by rank.
    """
    return "".join(run_on_ranks(ranks, _script, path, folder, environment, group=False))
