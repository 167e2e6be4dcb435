"""File and folder names that are no text, or that a spreadsheet would compute, through a whole run."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from mild_ext.cli import main
from mild_ext.files import as_name

Image = pytest.importorskip("PIL.Image")
ODD = [os.fsdecode(b"caf\xe9\n%d.png" % k) for k in range(20)]
CLASSES = ["=cmd()", "a\tb", os.fsdecode(b"k\xe4se")]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_odd_names_survive_to_every_file_and_page(tmp_path, capsys):
    generator = np.random.default_rng(0)
    for k, name in enumerate(CLASSES):
        (tmp_path / "data" / name).mkdir(parents=True)
        for odd in ODD:
            pixels = generator.integers(0, 60, (8, 8, 3)) + 70 * k
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / name / odd)
    run = tmp_path / "run"
    quick = ["--rounds", "1", "--first-epochs", "2", "--final-epochs", "1"]
    assert main(["train", "--data", f"folder:{tmp_path / 'data'}", "--out", str(run), *quick]) == 0
    assert main(["train", "--resume", "--out", str(run)]) == 0
    assert main(["report", str(run)]) == 0
    printed = capsys.readouterr()
    assert (printed.out + printed.err).encode("utf-8")
    for path in run.rglob("*"):
        if path.suffix in (".csv", ".json", ".html", ".jsonl"):
            path.read_text(encoding="utf-8")
    with open(run / "selection.csv", encoding="utf-8", newline="") as file:
        names = [row["name"] for row in csv.DictReader(file)]
    assert len(names) == 60
    assert all(name.isprintable() for name in names)
    assert sum(name.startswith("'=cmd()") for name in names) == 20
    found = {as_name(name.removeprefix("'")) for name in names}
    assert found == {os.path.join(name, odd) for name in CLASSES for odd in ODD}
