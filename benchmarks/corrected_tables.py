"""``mild-ext find`` and ``fix --auto`` on tables of texts and of numbers, with wrong labels and without.

The tables come from packages that are installed, so nothing is downloaded: the docstrings of five packages as texts,
of which the package is the label; scikit-learn's breast cancer data and handwritten digits as columns of numbers. A
share of the labels is moved to another class at random; the list and the corrected table are then held against the
labels as they were. ``--rate 0`` moves none. A CSV file of your own, whose labels you trust, is named as ``--data``
names it; its other options (``text=``, ``columns=``) are handed on.

    python benchmarks/corrected_tables.py texts cancer digits --rate 0.12 0 --seeds 0,1
    python benchmarks/corrected_tables.py csv:questions.csv,label=topic,text=question
"""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from sklearn import datasets

PACKAGES = ("numpy", "scipy", "sklearn", "torch", "matplotlib")
#: Texts of each package, and characters of each that are used.
PER_PACKAGE, LONGEST = 300, 400

Table = tuple[list[dict[str, str]], list[str], str]


def docstrings() -> Table:
    """Rows with a text, their labels, and options of ``--data``: what functions and classes of a package say they do.

    The package's own name is taken out of the texts, which would give the label away.
    """
    rows, labels = [], []
    for package in PACKAGES:
        texts = sorted(_texts(package))
        chosen = np.random.default_rng(0).permutation(len(texts))[:PER_PACKAGE]
        for k in sorted(chosen.tolist()):
            rows.append({"text": texts[k]})
            labels.append(package)
    return rows, labels, ",text=text"


def _texts(package: str) -> set[str]:
    found = set()
    root = importlib.import_module(package)
    for entry in pkgutil.iter_modules(root.__path__):
        if entry.name.startswith("_") or entry.name in ("tests", "conftest", "testing", "f2py"):
            continue
        try:
            module = importlib.import_module(f"{package}.{entry.name}")
        except Exception:  # a part that needs what is not installed
            continue
        for _, value in inspect.getmembers(module):
            name = getattr(value, "__module__", None) or ""
            text = inspect.getdoc(value) if callable(value) else None
            if text and name.split(".")[0] == package and len(text) > 80:
                # The first paragraphs: what follows has the same headings everywhere.
                text = " ".join(text.split("Parameters\n")[0].split())[:LONGEST]
                for mention in (package, "np.", "plt."):
                    text = text.replace(mention, "").replace(mention.capitalize(), "")
                if len(text) > 60:
                    found.add(text)
    return found


def numbers(name: str) -> Table:
    """Rows of numbers, their labels, and no options."""
    data = getattr(datasets, f"load_{name}")(as_frame=True)
    names = [str(target) for target in data.target_names]
    rows = data.data.astype(str).to_dict("records")
    return rows, [names[k] for k in data.target], ""


def own(spec: str) -> Table:
    """Rows of a CSV file named as ``csv:FILE,label=COLUMN[,option=value...]``, their labels, and the other options."""
    file, *options = spec.removeprefix("csv:").split(",")
    given = dict(option.split("=", 1) for option in options)
    label = given.pop("label")
    with open(file, newline="", encoding="utf-8-sig") as opened:
        rows = list(csv.DictReader(opened))
    labels = [row.pop(label) for row in rows]
    return rows, labels, "".join(f",{name}={value}" for name, value in given.items())


TABLES = {
    "texts": docstrings,
    "cancer": lambda: numbers("breast_cancer"),
    "digits": lambda: numbers("digits"),
    "wine": lambda: numbers("wine"),
}


def moved(labels: list[str], rate: float, seed: int) -> list[str]:
    """The labels, ``rate`` of them changed to another class at random."""
    generator = np.random.default_rng([seed, 12])
    names = sorted(set(labels))
    given = list(labels)
    for k in generator.permutation(len(labels))[: round(rate * len(labels))].tolist():
        given[k] = str(generator.choice([name for name in names if name != labels[k]]))
    return given


def measure(table: str, rate: float, seed: int, folder: Path) -> dict[str, object]:
    """One run, by the commands a person gives."""
    rows, true, more = TABLES[table]() if table in TABLES else own(table)
    given = moved(true, rate, seed)
    path, run, fixed = folder / "table.csv", folder / "run", folder / "fixed.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [*rows[0], "label"])
        writer.writeheader()
        writer.writerows({**row, "label": label} for row, label in zip(rows, given, strict=True))
    started = time.monotonic()
    options = ["--seed", str(seed), "--quiet", "--no-report"]
    _run("find", "--data", f"csv:{path},label=label{more}", "--out", str(run), *options)
    seconds = time.monotonic() - started
    said = _run("fix", str(run), "--auto", "--out", str(fixed))
    with open(run / "suspects.csv", newline="", encoding="utf-8") as file:
        suspects = list(csv.DictReader(file))
    wrong = {str(k) for k in range(len(true)) if true[k] != given[k]}
    flagged = [s["id"] for s in suspects if s["dropped"] == "1"]
    hits = len(wrong & set(flagged))
    with open(fixed, newline="", encoding="utf-8") as file:
        after = [row["label"] for row in csv.DictReader(file)]
    summary = json.loads((run / "summary.json").read_text())
    noise = summary.get("noise_rate") or {}
    return {
        "table": table,
        "seed": seed,
        "samples": len(true),
        "wrong": len(wrong) / len(true),
        "rate": noise.get("rate"),
        "low": noise.get("low"),
        "high": noise.get("high"),
        "first48": sum(s["id"] in wrong for s in suspects[:48]) / 48,
        "flagged": len(flagged),
        "precision": hits / len(flagged) if flagged else None,
        "recall": hits / len(wrong) if wrong else None,
        "right_before": 1 - len(wrong) / len(true),
        "right_after": float(np.mean([a == b for a, b in zip(after, true, strict=True)])),
        "changed": sum(a != b for a, b in zip(after, given, strict=True)),
        "seconds": round(seconds),
        "said": said.splitlines()[0],
    }


def _run(*arguments: str) -> str:
    command = [sys.executable, "-m", "mild_ext", *arguments]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("tables", nargs="+", help=f"{', '.join(TABLES)}, or csv:FILE,label=COLUMN")
    parser.add_argument("--rate", nargs="+", type=float, default=[0.12, 0.0])
    parser.add_argument("--seeds", default="0")
    options = parser.parse_args()
    for table in options.tables:
        if table not in TABLES and not (table.startswith("csv:") and ",label=" in table):
            parser.error(f"{table}: one of {', '.join(TABLES)}, or csv:FILE,label=COLUMN")
    for table in options.tables:
        for rate in options.rate:
            for seed in map(int, options.seeds.split(",")):
                with tempfile.TemporaryDirectory() as folder:
                    print(json.dumps(measure(table, rate, seed, Path(folder))), flush=True)


if __name__ == "__main__":
    main()
