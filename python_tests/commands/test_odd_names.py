"""File and folder names that are no text, or that a spreadsheet would compute, through a whole run."""

from __future__ import annotations

import csv
import os

import numpy as np
import pytest

from mild_ext.cli import main
from mild_ext.files import as_name

Image = pytest.importorskip("PIL.Image")

#: Clears the screen, sets the window's title, goes back to the beginning of the line, turns reading around.
COMMANDS = "\x1b[2J", "\x1b]0;t\x07", "\r", "\x9b1m", "\u202e", "\u2028", "\x7f"
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


def _tells_nothing(text):
    return all(c.isprintable() or c in "\n\t" for c in text)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["folder", "table"])
def test_names_command_no_terminal(kind, tmp_path, capsys):
    """Of files, classes, columns and ids, in what find, train and fix print, and in what they refuse."""
    generator = np.random.default_rng(0)
    classes = [f"{c}{k}" for k, c in enumerate(COMMANDS[:3])]
    if kind == "folder":
        for k, name in enumerate(classes):
            (tmp_path / "data" / name).mkdir(parents=True)
            for n in range(20):
                pixels = generator.integers(0, 60, (8, 8, 3)) + 70 * k
                path = tmp_path / "data" / name / f"{COMMANDS[n % len(COMMANDS)]}{n}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
        (tmp_path / "data" / "\x1b[2J.png").write_bytes(b"passed over")
        spec = f"folder:{tmp_path / 'data'}"
    else:
        with open(tmp_path / "t.csv", "w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["key", "label", "x", "fixed\x1b[2J"])
            for n in range(60):
                rows.writerow(
                    [f"{n}{COMMANDS[n % len(COMMANDS)]}", classes[n % 3], n % 3 + n / 90, 1]
                )
        spec = f"csv:{tmp_path / 't.csv'},label=label,id=key"
    quick = ["--first-epochs=2", "--scouts=1", "--device=cpu", "--threads=1"]
    run, fixed = str(tmp_path / "run"), str(tmp_path / "fixed")
    assert main(["find", "--data", spec, "--out", run, *quick]) == 0
    assert main(["find", "--data", spec, "--out", run, *quick]) == 1  # it is there
    assert main(["fix", run, "--corrections", f"{tmp_path}/\x1b[2J.csv", "--out", fixed]) == 1
    (tmp_path / "c.csv").write_text("id,label\nnobody\x1b[2J,\x1b[2J\n", encoding="utf-8")
    assert main(["fix", run, "--corrections", f"{tmp_path}/c.csv", "--out", fixed]) == 1
    assert main(["find", "--data", f"{spec},\x1b[2J=1", "--out", fixed]) == 1
    printed = capsys.readouterr()
    assert printed.err.count("mild-ext: error: ") == printed.err.count("\n") == 4
    assert _tells_nothing(printed.out)
    assert _tells_nothing(printed.err)
