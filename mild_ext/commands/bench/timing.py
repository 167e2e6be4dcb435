"""Timing of alternatives in turn, so that what else the machine does falls on all of them alike."""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Row:
    """One line of a report: ``seconds`` is a median, ``ratio`` how many times faster than this the first one is."""

    group: str
    case: str
    name: str
    seconds: float
    ratio: float

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """How to measure.

    Attributes:
        device: Where the tensors are; waited for at the ends of a measurement, if CUDA.
        seconds: Time to spend on each alternative.
        clock: ``wall``, or ``cpu``: the process' CPU time, for one thread on a machine that others use too.
    """

    device: torch.device
    seconds: float
    clock: str = "wall"

    def now(self) -> float:
        """The clock, in seconds."""
        return time.process_time() if self.clock == "cpu" else time.perf_counter()


def settings_of(options: argparse.Namespace) -> Settings:
    """From the command line; also sets torch's number of threads."""
    device = torch.device(options.device)
    if options.clock == "cpu" and (device.type != "cpu" or options.threads != 1):
        raise ValueError("--clock cpu counts one thread's work on the CPU: it needs --threads 1")
    torch.set_num_threads(options.threads)
    return Settings(device, options.seconds, options.clock)


def medians(
    functions: Mapping[str, Callable[[], object]], settings: Settings, rounds: int = 9
) -> dict[str, float]:
    """Median seconds per call of each function.

    Each round runs every function in turn, often enough to fill its share of ``settings.seconds``. As in
    `timeit`, Python's garbage collector is off: what an earlier alternative left behind costs nobody else.
    """

    def measure(function: Callable[[], object], calls: int) -> float:
        _wait(settings.device)
        start = settings.now()
        for _ in range(calls):
            function()
        _wait(settings.device)
        return (settings.now() - start) / calls

    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        calls = {}
        for name, function in functions.items():
            measure(function, 1)  # warm up
            calls[name] = max(1, int(settings.seconds / rounds / max(measure(function, 1), 1e-7)))
        samples: dict[str, list[float]] = {name: [] for name in functions}
        for _ in range(rounds):
            for name, function in functions.items():
                samples[name].append(measure(function, calls[name]))
    finally:
        if collecting:
            gc.enable()
    return {name: statistics.median(values) for name, values in samples.items()}


def rows(group: str, case: str, measured: Mapping[str, float]) -> list[Row]:
    """A report's lines; ratios are against the first entry, ours."""
    ours = next(iter(measured.values()))
    return [Row(group, case, name, value, value / ours) for name, value in measured.items()]


def table(lines: list[Row]) -> str:
    """The report as text."""
    parts, group = [], None
    for row in lines:
        if row.group != group:
            group = row.group
            parts += ["", group]
        parts.append(f"  {row.case:<34}{row.name:<34}{_human(row.seconds):>12}{row.ratio:>12.2f}x")
    return "\n".join(parts)


def _human(seconds: float) -> str:
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if seconds >= scale:
            return f"{seconds / scale:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
