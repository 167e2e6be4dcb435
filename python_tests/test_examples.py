"""Every file in examples/ runs as its first lines say."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
from ranks import run_script

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name, folder, needs, *, processes=1):
    """Run an example in an empty folder; returns what it printed."""
    for library in needs:
        pytest.importorskip(library)
    return run_script(EXAMPLES / name, folder, ranks=processes, ACCELERATE_USE_CPU="true")


def test_every_example_is_run_here():
    tested = set(re.findall(r'run\(\s*"(\w+\.py)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {path.name for path in EXAMPLES.glob("*.py")}


def check(printed, samples):
    (line,) = re.findall(rf"(\d+) of {samples} samples kept, (\d+)% of them wrong", printed)
    kept, wrong = map(int, line)
    assert 0.5 * samples < kept < 0.9 * samples
    assert wrong <= 5, "36 % of all labels are wrong"


def test_plain_pytorch(tmp_path):
    printed = run("plain_pytorch.py", tmp_path, ["sklearn"])
    assert re.search(r"wrong labels: 36% of all, [0-5]% of kept", printed)
    with open(tmp_path / "label_issues.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    issues = sum(row["dropped"] == "True" for row in rows)
    assert f"{len(rows) - issues} of {len(rows)} samples kept" in printed


def test_ddp(tmp_path):
    printed = run("ddp.py", tmp_path, ["sklearn"], processes=2)
    lines = re.findall(r"rank \d: (\d+ samples kept, [0-5]% of them wrong)", printed)
    assert len(lines) == 2
    assert lines[0] == lines[1]


@pytest.mark.parametrize("processes", [1, 2])
def test_accelerate(processes, tmp_path):
    check(run("accelerate_loop.py", tmp_path, ["sklearn", "accelerate"], processes=processes), 1347)


def test_lightning(tmp_path):
    check(run("lightning_trainer.py", tmp_path, ["sklearn", "lightning"]), 1347)


def test_transformers(tmp_path):
    printed = run("transformers_trainer.py", tmp_path, ["transformers", "accelerate"])
    (line,) = re.findall(r"(\d+) of 600 samples kept, (\d+)% of them wrong", printed)
    assert 400 < int(line[0]) < 500
    assert int(line[1]) <= 5, "27 % of all labels are wrong"
