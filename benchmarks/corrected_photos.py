"""``mild-ext find`` and ``fix --auto`` on small sets of photos, with wrong labels and without.

Each set has 300 CIFAR-10 images of each of five classes, drawn at random; in some, labels are moved to another of the
five classes at random, or to the next one. The images are yours: an npz file (``x_train``, ``y_train``, and a test
split if it has one) or CIFAR-10's own archive, as ``--data`` takes them. What stands behind ``--`` goes to ``find``.

    python benchmarks/corrected_photos.py cifar10:cifar-10-python.tar.gz
    python benchmarks/corrected_photos.py npz:cifar10.npz --sets 0,3 -- --model timm:NAME --weights FILE
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mild_ext.data import load_data

#: Classes, what happens to labels, and to which share.
SETS = (
    ((0, 1, 2, 3, 4), "random", 0.15),
    ((5, 6, 7, 8, 9), "random", 0.15),
    ((0, 2, 4, 6, 8), "next", 0.3),
    ((1, 3, 5, 7, 9), "none", 0.0),
    ((0, 3, 4, 7, 9), "none", 0.0),
    ((1, 2, 6, 8, 9), "random", 0.15),
)
PER_CLASS = 300


def images_of(spec: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All images, uint8 ``[N, C, H, W]``, their classes, and the classes' names."""
    data = load_data(spec)
    parts = [data.train] + ([] if data.test is None else [data.test])
    images = np.concatenate([part.inputs.numpy() for part in parts])  # type: ignore[attr-defined]
    labels = [data.labels.numpy()] + [part.labels.numpy() for part in parts[1:]]  # type: ignore[attr-defined]
    return images, np.concatenate(labels), np.array(data.class_names)


def drawn(
    labels: np.ndarray, number: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, tuple[int, ...]]:
    """Ids of the set's images, their true and given labels 0 .. 4, and its classes."""
    classes, kind, share = SETS[number]
    generator = np.random.default_rng(100 + number)
    ids = np.concatenate(
        [generator.permutation(np.flatnonzero(labels == c))[:PER_CLASS] for c in classes]
    )
    ids = generator.permutation(ids)
    true = np.searchsorted(classes, labels[ids])
    given = true.copy()
    if kind != "none":
        wrong = generator.permutation(len(ids))[: round(share * len(ids))]
        step = generator.integers(1, len(classes), len(wrong)) if kind == "random" else 1
        given[wrong] = (true[wrong] + step) % len(classes)
    return ids, true, given, classes


def measure(
    images: np.ndarray,
    labels: np.ndarray,
    names: np.ndarray,
    number: int,
    options: list[str],
    folder: Path,
) -> dict[str, object]:
    """One set, by the commands a person gives."""
    ids, true, given, classes = drawn(labels, number)
    path, run, fixed = folder / "set.npz", folder / "run", folder / "fixed.npy"
    np.savez(path, x_train=images[ids], y_train=given, class_names=names[list(classes)])
    started = time.monotonic()
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    _run("find", "--data", f"npz:{path}", "--out", str(run), "--quiet", "--no-report", *options)
    seconds = time.monotonic() - started
    used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    said = _run("fix", str(run), "--auto", "--out", str(fixed))
    with open(run / "suspects.csv", newline="", encoding="utf-8") as file:
        suspects = [(int(row["id"]), row["dropped"] == "1") for row in csv.DictReader(file)]
    wrong, after = true != given, np.load(fixed)
    flagged = [k for k, dropped in suspects if dropped]
    changed = after != given
    told = re.search(r"of these changes (\d+)%", said)
    noise = json.loads((run / "summary.json").read_text()).get("noise_rate") or {}
    return {
        "set": number,
        "wrong": float(wrong.mean()),
        **{name: noise.get(name) for name in ("rate", "low", "high")},
        "first48": float(wrong[[k for k, _ in suspects[:48]]].mean()),
        "flagged": len(flagged),
        "precision": float(wrong[flagged].mean()) if flagged else None,
        "recall": float(wrong[flagged].sum() / wrong.sum()) if wrong.any() else None,
        "right_before": float((given == true).mean()),
        "right_after": float((after == true).mean()),
        "changed": int(changed.sum()),
        "changes_right": float((after == true)[changed].mean()) if changed.any() else None,
        "changes_said": None if told is None else int(told[1]) / 100,
        "seconds": round(seconds),
        "cpu_seconds": round(used),
    }


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "mild_ext", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    arguments = sys.argv[1:]
    more = arguments.index("--") if "--" in arguments else len(arguments)
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="npz:FILE or cifar10:PATH")
    parser.add_argument("--sets", default="0,1,2,3,4,5")
    options = parser.parse_args(arguments[:more])
    images, labels, names = images_of(options.data)
    for number in map(int, options.sets.split(",")):
        with tempfile.TemporaryDirectory() as folder:
            row = measure(images, labels, names, number, arguments[more + 1 :], Path(folder))
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
