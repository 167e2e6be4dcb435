"""Runs of ``mild-ext train`` as processes of their own, and what they leave: for the attacks in this folder."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_ROUNDS = ["--method=mild-rounds"]
#: What each configuration adds to the common options.
CONFIGURATIONS: dict[str, list[str]] = {
    "rounds": [*_ROUNDS, "--rounds=3"],
    "all reselected": [*_ROUNDS, "--rounds=3", "--reselect=all", "--round-start=scratch"],
    "semi-supervised": [*_ROUNDS, "--rounds=1", "--ssl=mixmatch", "--ssl-epochs=20"],
    "averaged, logged": [*_ROUNDS, "--rounds=2", "--ema-decay=0.9", "--learning-logs"],
    "compared, validated": [*_ROUNDS, "--rounds=2", "--validation=0.1", "--test-fraction=0.2"],
    "one training": ["--test-fraction=0.2"],
}
_COMMON = [
    "--model=mlp", "--width=32", "--first-epochs=40", "--round-epochs=15", "--final-epochs=40", "--batch-size=32",
    "--device=cpu", "--threads=1", "--quiet", "--noise=symmetric:0.4", "--checkpoint-seconds=0",
]  # fmt: skip
#: What must be the same, byte by byte, however often a run was interrupted.
OUTCOME = ("selection.csv", "model.safetensors")


def write_data(folder: Path, samples: int = 400) -> str:
    """Three classes of points; returns the data's specification."""
    rng = np.random.default_rng(0)
    labels = np.arange(samples) % 3
    inputs = rng.normal(size=(samples, 8)) + 2 * np.eye(3, 8)[labels]
    np.savez(folder / "data.npz", x_train=inputs.astype(np.float32), y_train=labels)
    return f"npz:{folder / 'data.npz'}"


def command(data: str, out: Path, name: str, *, resume: bool = False) -> list[str]:
    """The command line of a run, or of going on with it."""
    start = [sys.executable, "-m", "mild_ext", "train", "--out", str(out)]
    if resume:
        return [*start, "--resume", "--quiet", "--checkpoint-seconds=0"]
    return [*start, "--data", data, *_COMMON, *CONFIGURATIONS[name]]


def start(words: list[str], before: Callable[[], None] | None = None) -> subprocess.Popen[str]:
    """Start a command; ``before`` is called in it beforehand."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )


def finish(words: list[str]) -> tuple[int, str, float]:
    """Exit status, standard error, and seconds of a command that is left alone."""
    started = time.monotonic()
    process = start(words)
    _, error = process.communicate(timeout=600)
    return process.returncode, error, time.monotonic() - started


def outcome(out: Path) -> dict[str, object]:
    """What a run came to, but for the time it took, and each part of it."""
    found: dict[str, object] = {name: (out / name).read_bytes() for name in OUTCOME}
    return found | {"summary": _without_seconds(json.loads((out / "summary.json").read_text()))}


def _without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_seconds(v) for k, v in value.items() if k != "seconds"}
    return [_without_seconds(v) for v in value] if isinstance(value, list) else value


def seeded(words: list[str]) -> random.Random:
    """The random numbers of an attack: the seed is the first argument of the script."""
    return random.Random(int(words[0]) if words else 0)
