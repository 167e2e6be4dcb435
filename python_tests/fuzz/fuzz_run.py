"""Runs the fuzz targets over what users hand in: labels, data sets, arrays, tables, folders, logs, label files.

Each target draws an input, hands it in, and looks at what came of it against what the input says when it is read
in another, slower way. It may be refused with a TypeError or ValueError; anything else that is raised is a finding,
and so is a result that is not what went in.

    python python_tests/fuzz/fuzz_run.py --seconds 600 labels datasets    # prints how many inputs were tried
"""

from __future__ import annotations

import argparse
import random
import time
import warnings
from collections.abc import Callable

import fuzz_labels
import fuzz_readers
import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from input_corpus import CASES

TARGETS: dict[str, tuple[Callable, st.SearchStrategy]] = {
    "labels": (fuzz_labels.labels, fuzz_labels.any_labels()),
    "datasets": (fuzz_labels.datasets, fuzz_labels.any_dataset()),
    "logs": (fuzz_labels.logs, fuzz_labels.any_log()),
    "commands": (fuzz_labels.commands, fuzz_labels.any_label_file()),
    "npz": (fuzz_readers.npz, fuzz_readers.any_npz()),
    "tables": (fuzz_readers.tables, fuzz_readers.any_table()),
    "folders": (fuzz_readers.folders, fuzz_readers.any_folder()),
}


def run(name: str, seconds: float, first_seed: int = 0) -> int:
    """Try the corpus, then inputs for so long, the same ones in the same order every time; returns how many.

    Raises:
        AssertionError, and whatever else an input brings up; Hypothesis prints the smallest such input.
    """
    function, strategy = TARGETS[name]
    for case in CASES[name]:
        function(case)
    tried, number, started = len(CASES[name]), first_seed, time.monotonic()
    while time.monotonic() - started < seconds:

        @seed(number)
        @settings(
            max_examples=100,
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )
        @given(strategy)
        def once(case):
            nonlocal tried
            tried += 1
            random.seed(0)
            function(case)

        once()
        number += 1
    return tried


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("targets", nargs="*", default=sorted(TARGETS))
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for target in options.targets:
        count = run(target, options.seconds, options.seed)
        print(f"{target}: {count:,} inputs in {options.seconds:g} s, nothing found", flush=True)
