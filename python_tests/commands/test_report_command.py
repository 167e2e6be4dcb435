"""``mild-ext report --export``: tasks for Label Studio, of a run on texts in a table; ``select`` of a run."""

from __future__ import annotations

import csv
import json

import pytest

from mild_ext.cli import main

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    with open(folder / "t.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "kind"])
        for k in range(60):
            kind = ["cat", "dog"][k % 2]
            writer.writerow([f"number {k} is a {kind} that {['naps', 'barks'][k % 2]}", kind])
    out = folder / "run"
    spec = f"csv:{folder / 't.csv'},label=kind,text=text"
    options = ["--first-epochs", "4", "--batch-size", "16", "--width", "16", "--no-report"]
    assert main(["find", "--data", spec, *options, "--out", str(out)]) == 0
    return out


def test_tasks_show_the_texts(run, capsys):
    assert main(["report", str(run), "--export", "label-studio", "--suspicious", "5"]) == 0
    assert "5 tasks" in capsys.readouterr().out
    tasks = json.loads((run / "label_studio.json").read_text())
    assert len(tasks) == 5
    for task in tasks:
        number = int(task["data"]["id"])
        assert task["data"]["text"].startswith(f"number {number} is a")
        assert task["data"]["given_label"] == ["cat", "dog"][number % 2]
    assert '<Choice value="dog"/>' in (run / "label_studio.xml").read_text()


def test_a_run_can_be_selected_from(run, tmp_path, capsys):
    assert main(["select", str(run), "--out", str(tmp_path / "t.csv")]) == 0
    assert "60 samples, 4 of 4 epochs recorded" in capsys.readouterr().out
    with open(tmp_path / "t.csv", newline="") as file:
        given = [row["given_label"] for row in csv.DictReader(file)]
    assert given[:4] == ["0", "1", "0", "1"]
    labels = tmp_path / "labels.csv"
    labels.write_text("label\n" + "dog\ncat\n" * 30)
    assert main(["select", str(run), "--labels", str(labels)]) == 0
    labels.write_text("class\tname\n" + "dog\tx\n" * 60)
    assert main(["select", str(run), "--labels", str(labels)]) == 1
    assert "must have a column given_label or label; it has class, name" in capsys.readouterr().err
    assert main(["select", str(tmp_path)]) == 1
    assert "holds no run with a finished round" in capsys.readouterr().err
