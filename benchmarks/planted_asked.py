"""What is asked of the selection, beside what is measured, line by line.

    python benchmarks/planted_asked.py FOLDER [FOLDER ...]      # of recordings with planted labels
    python benchmarks/planted_asked.py --time [--samples 100000000]

One column for each folder, and of the last one a column for each domain. Recordings are as
planted_recordings.py describes them. ``--time`` times fit and decision from a histogram of 200 epochs, and
the selection of very many samples (24 bytes of memory for each) from their recorded epochs to the mask.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mixture_fit import draw, histogram, milliseconds
from planted_constants import Known, jittered
from planted_quality import judged, scored
from planted_recordings import Recording, read

import mild_ext
from mild_ext.commands.bench.recorder import example_status
from mild_ext.mixture.counts import TimeCounts
from mild_ext.mixture.follow_up import common_follow_up
from mild_ext.selection.decide import decide
from mild_ext.selection.noise_rate import estimate_noise_rate
from mild_ext.selection.suspicion import CLEARLY
from mild_ext.selection.unused import planted_unused
from mild_ext.selection.votes import PlantedEvidence

Rows = list[dict[str, Any]]
DRAWS = 20


def without_planted(recording: Recording) -> dict[str, Any]:
    """What the rule that only counts reaches on the same run."""
    log = recording.log
    if log is None:
        return {"share": None, "kept": None}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        selection = mild_ext.select_clean(log.status())
    others = recording.others
    return scored(recording, selection.mask.numpy()[others], selection.suspicion.numpy()[others])


def some(values: list[Any], how: Callable[..., Any] = np.mean) -> float:
    known = [value for value in values if value is not None]
    return float(how(known)) if known else float("nan")


def symmetric(rows: Rows) -> Rows:
    return [row for row in rows if row["noise"].startswith("sym")]


def off(rows: Rows, name: str) -> float:
    """Mean error of an estimate that each row has beside its truth."""
    return some([abs(row[name][0] - row[name][1].value) for row in rows if row[name] is not None])


def furthest_mean(rows: Rows) -> float:
    """How far the mean share of the best threshold moves, at most, when all constants are jittered."""
    moved = np.array([row["jittered"] for row in rows if row["share"] is not None]).T
    if not moved.size:
        return float("nan")
    return float(np.abs(moved[1:].mean(axis=1) - moved[0].mean()).max())


#: What is asked, how much, and how it is measured on some recordings.
ASKED: tuple[tuple[str, str, Callable[[Rows], float]], ...] = (
    ("of the best threshold, mean", ">= 0.988", lambda rows: some([r["share"] for r in rows])),
    ("least", ">= 0.955", lambda rows: some([r["share"] for r in rows], np.min)),
    ("kept where nothing is wrong, mean", ">= 0.97", lambda rows: some([r["kept"] for r in rows])),
    ("least", ">= 0.93", lambda rows: some([r["kept"] for r in rows], np.min)),
    (
        "error of the rate, mean",
        "<= 0.03",
        lambda rows: some([abs(r["rate"] - r["truth"]) for r in rows]),
    ),
    ("its 90 % interval holds", ">= 0.85", lambda rows: some([r["held"] for r in rows])),
    (
        "plainly wrong share, error, symmetric",
        "<= 0.04",
        lambda rows: some([abs(r["plain"] - r["truth"]) for r in symmetric(rows)]),
    ),
    (
        "plainly wrong share, largest, nothing wrong",
        "<= 0.01",
        lambda rows: some([r["plain"] for r in rows if r["noise"] == "none"], np.max),
    ),
    ("estimated_recall, error, symmetric", "<= 0.07", lambda rows: off(symmetric(rows), "recall")),
    (
        "average precision of suspicion less that of the count",
        ">= 0.03",
        lambda rows: some([r["ap"] - r["count_ap"] for r in rows if r["ap"] is not None]),
    ),
    (
        f"constants jittered by 20 %, {DRAWS} draws: mean moves by",
        "< 0.01",
        furthest_mean,
    ),
    (
        "without planted labels: of the best threshold, mean",
        "",
        lambda rows: some([r["without"]["share"] for r in rows]),
    ),
    (
        "least",
        ">= 0.90",
        lambda rows: some([r["without"]["share"] for r in rows], np.min),
    ),
    (
        "kept where nothing is wrong",
        "",
        lambda rows: some([r["without"]["kept"] for r in rows]),
    ),
)


def measured(folder: Path) -> Rows:
    """Every recording of a folder, judged in all ways that are asked for."""
    known = Known([read(path) for path in sorted(folder.glob("*.npz"))])
    if not known.recordings:
        raise SystemExit(f"{folder}: no recordings (*.npz)")
    moved = jittered(known, DRAWS)
    rows = []
    for number, (recording, status) in enumerate(
        zip(known.recordings, known.statuses, strict=True)
    ):
        row = judged(recording, status)
        row |= {"jittered": moved[:, number], "without": without_planted(recording)}
        rows.append(row)
    return rows


def table(folders: list[Path]) -> None:
    columns: dict[str, Rows] = {}
    for folder in folders:
        rows = measured(folder)
        columns[folder.name] = rows
        hard = [row for row in rows if not row["noise"].startswith("hard")]
        if len(hard) < len(rows):
            columns[f"{folder.name}, all but hard"] = hard
    for domain in dict.fromkeys(row["domain"] for row in rows):
        columns[domain] = [row for row in rows if row["domain"] == domain]
    print(f"| | asked | {' | '.join(columns)} |\n| --- | --- |" + " ---: |" * len(columns))
    print("| recordings | | " + " | ".join(str(len(rows)) for rows in columns.values()) + " |")
    for what, asked, figure in ASKED:
        cells = [f"{value:.3f}" for value in map(figure, columns.values())]
        print(f"| {what} | {asked} | {' | '.join(cells)} |".replace("nan", ""))


def times(samples: int) -> None:
    import resource  # not on Windows

    counts = histogram(draw(1_000_000, 200)[0], 200)

    def decided() -> None:
        decision = decide(counts, "posterior", 0.5)
        if decision.mixture is not None:
            seen = TimeCounts.from_counts(common_follow_up(counts).counts(counts))
            estimate_noise_rate(seen, decision.mixture, 0.4, 0.4)

    print(
        f"fit and decision, histogram of 200 epochs: {milliseconds(decided, 15):.1f} ms of CPU time"
    )
    planted_times()
    status = example_status(samples, 64, torch.device("cpu"))
    every = []
    for _ in range(3):
        cpu, wall = time.process_time(), time.perf_counter()
        found = status.histogram()
        half = time.process_time()
        keep = torch.from_numpy(decide(found.numpy(), "posterior", 0.5).keep)
        mask = status.lookup(keep)
        every.append((half - cpu, time.process_time() - half, time.perf_counter() - wall))
    first, second, wall = (statistics.median(column) for column in zip(*every, strict=True))
    cpu, begin = time.process_time(), time.perf_counter()
    selection = mild_ext.select_clean(status)
    cpu, begin = time.process_time() - cpu, time.perf_counter() - begin
    print(
        f"{samples:,} samples, 64 epochs, {torch.get_num_threads()} threads: histogram {first:.2f} s, from "
        f"it to the mask {second:.2f} s of CPU time (wall clock {wall:.2f} s in all); {int(mask.sum()):,} kept\n"
        f"select_clean with the windows it looks at: {cpu:.2f} s of CPU time, {begin:.2f} s, "
        f"{selection.num_kept:,} kept; peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 20} GiB"
    )


def planted_times(samples: int = 1_000_000, epochs: int = 30, classes: int = 10) -> None:
    """The selection with 5 % planted labels: every label is learned at an epoch of its own, wrong ones later."""
    draw = torch.Generator().manual_seed(0)
    true = torch.randint(classes, (samples,), generator=draw)
    wrong = torch.rand(samples, generator=draw) < 0.2
    given = torch.where(wrong, (true + 1) % classes, true)
    planted = mild_ext.plant_labels(given, 0.05, num_classes=classes)
    late = torch.where(planted.labels != true, 0.9, 0.3) * epochs
    learned = torch.rand(samples, generator=draw) * late
    status, ids = (
        mild_ext.LearningStatus(samples, epochs, num_classes=classes),
        torch.arange(samples),
    )
    for epoch in range(epochs):
        unsure = torch.rand(samples, generator=draw) < 0.5 / (1 + epoch)
        seen = torch.where(unsure, torch.randint(classes, (samples,), generator=draw), true)
        for rows in ids.split(100_000):
            predicted = torch.where(learned[rows] < epoch, planted.labels[rows], seen[rows])
            logits = 3.0 * torch.nn.functional.one_hot(predicted, classes)
            status.update(rows, logits, planted.labels[rows])
        status.advance()
    evidence = PlantedEvidence([status], [planted], epochs)
    told = milliseconds(lambda: planted_unused(evidence, CLEARLY), 3)
    whole = milliseconds(lambda: mild_ext.select_clean(status, planted=planted), 3)
    print(
        f"{samples:,} samples, {epochs} epochs, 5 % planted: select_clean {whole / 1000:.2f} s of CPU time, of "
        f"which whether the planted labels were used {told / 1000:.2f} s"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="folders of recordings (npz)")
    parser.add_argument("--time", action="store_true", help="time the selection instead")
    parser.add_argument("--samples", type=int, default=100_000_000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.time:
        times(arguments.samples)
    elif not arguments.folders:
        parser.error("name folders of recordings, or --time")
    else:
        table(arguments.folders)


if __name__ == "__main__":
    main()
