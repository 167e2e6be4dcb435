"""``mild-ext bench``: the tracker against what people use instead, and its passes against a plain read.

Each comparison checks first that the alternatives agree.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.commands.bench.dynamics import bench_advance, bench_dynamics, memory_line
from mild_ext.commands.bench.timing import Row, Settings, medians, rows, settings_of, table
from mild_ext.files import write_text
from mild_ext.mixture.weibull import WeibullMixture
from mild_ext.recording import ops, reference
from mild_ext.recording._native import _C
from mild_ext.recording.status import LearningStatus

SIZES = ((128, 10), (256, 100), (1024, 1000))
SAMPLES = 50_000


def main(options: argparse.Namespace) -> int:
    """Runs all benchmarks; writes ``bench.json`` and ``bench.png`` to ``options.out`` if given."""
    settings = settings_of(options)
    device = settings.device
    facts = {
        "machine": platform.processor() or platform.machine(),
        "instruction set": _C.isa(),
        "threads": options.threads,
        "clock": options.clock,
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "date": time.strftime("%Y-%m-%d"),
    }
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    print("median time of a call, and how many times that of the first line of its case")
    results: list[Row] = []
    for part in (
        bench_update(settings),
        bench_dynamics(settings),
        bench_advance(settings, min(options.samples, 1_000_000)),
        bench_growth(settings, 8 if options.large else 7),
        bench_passes(settings, options.samples),
    ):
        results += part
    print(table(results))
    print(memory_table())
    print(memory_line())
    selection = bench_selection(device, 100_000_000) if options.large else None
    if selection:
        print(
            "\n100 million samples, 64 epochs: "
            + ", ".join(f"{k} {v}" for k, v in selection.items())
        )
    if options.out is not None:
        folder = Path(options.out)
        folder.mkdir(parents=True, exist_ok=True)
        report = {"facts": facts, "rows": [r.as_dict() for r in results], "selection": selection}
        write_text(folder / "bench.json", json.dumps(report, indent=2) + "\n")
        plot(results, folder / "bench.png")
    return 0


# ---- update


def bench_update(settings: Settings) -> list[Row]:
    """``update`` against the torch idiom, a dict of lists, numpy counters, and the aum package's tracker."""
    results = []
    for batch, classes in SIZES:
        rng = torch.Generator().manual_seed(0)
        index = torch.randperm(SAMPLES, generator=rng)[:batch]
        logits = torch.randn((batch, classes), generator=rng)
        labels = torch.randint(0, classes, (batch,), generator=rng)
        labels[::2] = logits.argmax(1)[::2]  # half of them memorized, as in the middle of training
        index, logits, labels = (x.to(settings.device) for x in (index, logits, labels))
        alternatives = trackers(index, logits, labels)
        measured = medians(alternatives, settings)
        results += rows("update", f"batch {batch} x {classes} classes", measured)
    return results


def trackers(index: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Callable[[], object]]:
    """The alternatives on one batch, after a check that they record the same."""
    status = LearningStatus(SAMPLES, 64, device=logits.device)
    flags = torch.zeros((SAMPLES, 64), dtype=torch.bool, device=logits.device)
    history: dict[int, list[int]] = {}
    counts = np.zeros(SAMPLES, dtype=np.int64)

    def idiom() -> None:
        flags[index, 0] = logits.argmax(1) == labels

    def dict_of_lists() -> None:
        predicted = logits.argmax(1)
        for i in range(len(index)):
            history.setdefault(index[i].item(), []).append(  # type: ignore[arg-type]
                int(predicted[i].item() == labels[i].item())
            )

    def numpy_counters() -> None:
        right = logits.detach().cpu().numpy().argmax(1) == labels.cpu().numpy()
        np.add.at(counts, index.cpu().numpy(), right)

    def ours() -> None:
        status.update(index, logits, labels)

    for record in (ours, idiom, dict_of_lists, numpy_counters):
        record()
    right = status.compute().memorized.bool()
    same = (
        torch.equal(right, flags[:, 0])
        and np.array_equal(counts.astype(bool), right.cpu().numpy())
        and all(bool(sum(runs)) == bool(right[sample]) for sample, runs in history.items())
    )
    if not same:
        raise RuntimeError("the trackers disagree; nothing was measured")
    found: dict[str, Callable[[], object]] = {
        "LearningStatus.update": ours,
        "buf[i, t] = argmax(1) == y": idiom,
        "dict of lists, .item()": dict_of_lists,
        "numpy counters": numpy_counters,
    }
    try:
        from aum import AUMCalculator
    except ImportError:
        return found
    calculator = AUMCalculator(save_dir=".", compressed=True)
    ids = index.tolist()
    found["aum package"] = lambda: calculator.update(logits, labels, ids)
    return found


def bench_growth(settings: Settings, largest: int) -> list[Row]:
    """A batch's update as the data set grows to ``10 ** largest`` samples: cache misses only."""
    steps: dict[str, Callable[[], object]] = {}
    for power in range(5, largest + 1):
        samples = 10**power
        status = LearningStatus(samples, 64, device=settings.device)
        status.words.fill_(0)  # every page is there, as after the first epoch
        rng = torch.Generator().manual_seed(0)
        logits = torch.randn((128, 10), generator=rng).to(settings.device)
        labels = torch.randint(0, 10, (128,), generator=rng).to(settings.device)
        batches = torch.randint(0, samples, (512, 128), generator=rng).to(settings.device).unbind(0)
        turn = iter(range(1 << 62))

        def step(
            status: LearningStatus = status,
            batches: tuple[Tensor, ...] = batches,
            turn: Any = turn,
            logits: Tensor = logits,
            labels: Tensor = labels,
        ) -> None:
            status.update(batches[next(turn) % 512], logits, labels)

        steps[f"{samples:,} samples"] = step
    measured = medians(steps, settings)
    return rows("update as the data set grows", "batch 128 x 10 classes", measured)


# ---- passes over the buffer


def example_status(samples: int, epochs: int, device: torch.device) -> LearningStatus:
    """Samples memorized in some epoch and kept; a few forgotten now and then, a few epochs unseen."""
    status = LearningStatus(samples, epochs, device=device)
    rng = torch.Generator().manual_seed(0)
    words = status.words
    for begin in range(0, samples, 1 << 20):
        part = words[begin : begin + (1 << 20)]
        count = part.shape[0]
        for w in range(part.shape[1]):
            bits = min(64, epochs - 64 * w)
            all_seen = -1 if bits == 64 else (1 << bits) - 1
            memorized_at = torch.randint(0, bits + 1, (count,), generator=rng)
            one = torch.ones((), dtype=torch.int64)
            wrong = torch.where(memorized_at == 64, -1, (one << memorized_at) - 1)
            noise = one << torch.randint(0, bits, (count,), generator=rng)
            part[:, w, 0] = all_seen
            part[:, w, 1] = ((wrong ^ noise) & all_seen).to(device)
            part[::1000, w, 0] &= ~8
            part[::1000, w, 1] &= ~8
    return status


def bench_passes(settings: Settings, samples: int) -> list[Row]:
    """Histogram, look-up and transition times against a plain read of the same bytes, and the reference."""
    status = example_status(samples, 64, settings.device)
    words = status.words
    small = words[: min(samples, 200_000)]
    side = 65
    mask = torch.rand((side, side), device=settings.device) < 0.5
    for ours, theirs in (
        (ops.status_histogram(small, 0, 64), reference.status_histogram(small, 0, 64)),
        (ops.transition_times(small, 0, 64), reference.transition_times(small, 0, 64)),
        (ops.status_lookup(small, mask, 0, 64), reference.status_lookup(small, mask, 0, 64)),
    ):
        if not torch.equal(ours, theirs):
            raise RuntimeError("an operation disagrees with its reference; nothing was measured")
    read = words.sum
    case = f"{samples:,} samples, 64 epochs"
    results = []
    for name, ours_ in (
        ("histogram", lambda: ops.status_histogram(words, 0, 64)),
        ("lookup (mask)", lambda: ops.status_lookup(words, mask, 0, 64)),
        ("transition times", lambda: ops.transition_times(words, 0, 64)),
    ):
        measured = medians({name: ours_, "words.sum(): the same bytes": read}, settings)
        results += rows("passes", case, measured)
    case = f"{len(small):,} samples, 64 epochs"
    for name, ours_, theirs_ in (
        ("histogram", lambda: ops.status_histogram(small, 0, 64), reference.status_histogram),
        (
            "transition times",
            lambda: ops.transition_times(small, 0, 64),
            reference.transition_times,
        ),
    ):
        measured = medians(
            {name: ours_, f"{name}, torch reference": lambda f=theirs_: f(small, 0, 64)},  # type: ignore[misc]
            settings,
            rounds=3,
        )
        results += rows("passes", case, measured)
    return results


def bench_selection(device: torch.device, samples: int) -> dict[str, str]:
    """Histogram, mixture and mask of very many samples: seconds of each, and what memory grew by."""
    status = example_status(samples, 64, device)
    before = _peak_memory(restart=True)
    marks = [time.perf_counter()]
    counts = status.histogram()
    marks.append(time.perf_counter())
    m, n = counts.nonzero(as_tuple=True)
    mixture = WeibullMixture().fit(m.numpy(), seen=n.numpy(), sample_weight=counts[m, n].numpy())
    marks.append(time.perf_counter())
    grid = np.indices(counts.shape).reshape(2, -1)
    valid = (grid[0] <= grid[1]) & (grid[1] > 0)
    posterior = np.ones(counts.numel(), dtype=np.float32)
    posterior[valid] = mixture.predict_proba(grid[0][valid], seen=grid[1][valid])[:, 0]
    mask = status.lookup(torch.from_numpy(posterior).view(counts.shape) > 0.5)
    marks.append(time.perf_counter())
    grown = (_peak_memory() - before) / 1024
    parts = dict(zip(("histogram", "fit", "mask"), np.diff(marks), strict=True))
    return {
        **{name: f"{value:.2f} s" for name, value in parts.items()},
        "in all": f"{marks[-1] - marks[0]:.2f} s",
        "kept": f"{int(mask.sum()):,}",
        "peak memory grew by": f"{grown:.0f} MiB (the mask is {mask.nbytes >> 20} MiB)",
    }


def _peak_memory(restart: bool = False) -> int:
    """The process' peak memory so far in KiB, 0 if nobody tells; ``restart``: Linux counts anew from what is in use."""
    try:
        if restart:
            Path("/proc/self/clear_refs").write_text("5")
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        pass
    try:
        import resource  # not on Windows

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak >> 10 if sys.platform == "darwin" else peak  # bytes there
    except ImportError:
        return 0


def memory_table() -> str:
    """Bytes a sample of each way to keep the history of 70 epochs."""
    history = [[1] * 70 for _ in range(1000)]
    of_lists = (
        sum(sys.getsizeof(entry) for entry in history) / 1000
        + sys.getsizeof(dict.fromkeys(range(1000))) / 1000
        + sys.getsizeof(12345)
    )
    return (
        "\nmemory, bytes a sample, 70 epochs\n"
        f"  LearningStatus {LearningStatus(1000, 70).nbytes / 1000:.0f} (every epoch's status, unseen epochs told "
        f"apart) | bool [N, 70] 70 | dict of lists {of_lists:.0f} | numpy counter 8 (no history)"
    )


def plot(results: list[Row], path: Path) -> None:
    """Bars of the ratios; needs matplotlib (extra ``plot``), and is left out without it."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        print("no plot: install mild_ext[plot]")
        return
    cases = list(dict.fromkeys((row.group, row.case) for row in results))
    figure = Figure(figsize=(8, 1.9 * len(cases)), layout="constrained")
    for axes, (group, case) in zip(
        figure.subplots(len(cases), squeeze=False)[:, 0], cases, strict=True
    ):
        mine = [row for row in results if (row.group, row.case) == (group, case)]
        axes.barh([row.name for row in mine], [row.seconds * 1e6 for row in mine], color="tab:blue")
        axes.set(xscale="log", xlabel="microseconds a call", title=f"{group}: {case}")
        axes.invert_yaxis()
    figure.savefig(path, dpi=120)
