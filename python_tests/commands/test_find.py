"""``mild-ext find``: the list, in files and on the screen; and ``train``, which begins in the same way."""

from __future__ import annotations

import csv
import importlib
import json
import re

import numpy as np
import pytest
import torch

import mild_ext
from mild_ext.cli import main
from mild_ext.commands import console
from mild_ext.data import load_data
from mild_ext.training.experiment import choose_settings, size_by_data
from mild_ext.training.suspects import read_suspects, suspects_text

FAST = ["--model=mlp", "--width=32", "--first-epochs=15", "--batch-size=32", "--lr=0.05"]
NAMES = ["=ant", "bee", "cow"]


@pytest.fixture(scope="module")
def spec(tmp_path_factory):
    """240 samples of three classes with names, one of them a formula to a spreadsheet."""
    rng = np.random.default_rng(0)
    labels = np.arange(240) % 3
    path = tmp_path_factory.mktemp("data") / "data.npz"
    np.savez(
        path,
        x_train=rng.normal(size=(240, 8)) + 3 * np.eye(3, 8)[labels],
        y_train=labels,
        class_names=np.array(NAMES),
    )
    return f"npz:{path}"


@pytest.fixture(scope="module")
def found(spec, tmp_path_factory):
    out = tmp_path_factory.mktemp("found") / "run"
    options = ["--noise", "symmetric:0.3", "--plant", "0.1", "--out", str(out)]
    assert main(["find", "--data", spec, *FAST, *options]) == 0
    return out


def rows(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_list_is_of_all_samples_and_names_classes(found):
    listed = rows(found / "suspects.csv")
    assert list(listed[0]) == [
        *("id", "given_label", "suggested_label", "suggestion_confidence", "suspicion", "dropped"),
    ]
    assert sorted(int(row["id"]) for row in listed) == list(range(240))
    order = [(row["dropped"] == "0", -float(row["suspicion"])) for row in listed]
    assert order == sorted(order)
    given = np.load(found / "given_labels.npy")
    for row in listed:
        assert row["given_label"] == ["'=ant", "bee", "cow"][given[int(row["id"])]]
    truth = {row["id"]: row["true_label"] for row in rows(found / "selection.csv")}
    wrong = [truth[row["id"]] != str(given[int(row["id"])]) for row in listed]
    dropped = np.array([row["dropped"] == "1" for row in listed])
    assert np.mean(np.array(wrong)[dropped]) > 0.8
    assert np.mean(wrong[:30]) > 0.9
    # What is suggested for a wrong label is, as a rule, the right one.
    numbers = {"'=ant": "0", "bee": "1", "cow": "2"}
    right = [numbers.get(r["suggested_label"]) == truth[r["id"]] for r in listed]
    assert np.mean(np.array(right)[np.array(wrong)]) > 0.8


def test_a_list_is_read_as_it_was_written(found):
    suspects = read_suspects(found / "suspects.csv")
    assert {s.given_label for s in suspects} == set(NAMES)
    assert suspects_text(suspects) == (found / "suspects.csv").read_text()


def test_the_summary_holds_the_measured_rate_and_no_model_is_made(found):
    summary = json.loads((found / "summary.json").read_text())
    rate = summary["noise_rate"]
    assert set(rate) == {"rate", "low", "high"}
    assert rate["low"] <= summary["true_noise_rate"] <= rate["high"]
    assert summary["dropped"] == sum(row["dropped"] == "1" for row in rows(found / "suspects.csv"))
    assert json.loads((found / "config.json").read_text())["command"] == "find"
    for name in ("status/round-00.safetensors", "planted/round-00.safetensors", "report.html"):
        assert (found / name).is_file()
    assert not (found / "model.safetensors").exists()
    with pytest.raises(ValueError, match="mild-ext find trains none: use mild-ext train"):
        mild_ext.load_model(found)


def test_what_is_printed(spec, tmp_path, capsys):
    out = tmp_path / "run"
    options = [
        "--noise",
        "symmetric:0.3",
        "--plant",
        "0.1",
        "--no-report",
        "--out",
        str(out),
        *FAST,
    ]
    assert main(["find", "--data", spec, *options]) == 0
    printed = capsys.readouterr().out
    assert "labels are probably wrong" in printed
    assert re.search(r"Learned: (\d+% of the|all) labels that are not plainly wrong", printed)
    assert "The most suspicious:" in printed
    first = rows(out / "suspects.csv")[0]
    line = printed.partition("The most suspicious:")[2].splitlines()[2].split()
    assert line[0] == first["id"]
    assert line[1] == first["given_label"].strip("'")
    assert f"mild-ext fix {out} --auto" in printed
    assert not (out / "report.html").exists()

    assert main(["find", "--resume", "--no-report", "--out", str(out)]) == 0
    assert "is finished: nothing is trained" in capsys.readouterr().out
    assert main(["train", "--resume", "--out", str(out)]) == 1
    assert "mild-ext find --resume" in capsys.readouterr().err

    assert main(["find", "--data", spec, *options, "--quiet", "--overwrite"]) == 0
    quiet = capsys.readouterr().out.strip().splitlines()
    assert 2 <= len(quiet) <= 4
    assert quiet[-1] == str(out / "suspects.csv")
    assert "wrong" in quiet[0]


def test_training_goes_on_from_the_same_list_to_a_model_that_can_be_loaded(spec, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--rounds=1", "--final-epochs=5", "--plant", "0.1", "--noise", "symmetric:0.3"]
    assert main(["train", "--data", spec, *FAST, *options, "--no-report", "--out", str(out)]) == 0
    assert "load_model" in capsys.readouterr().out
    assert len(rows(out / "suspects.csv")) == 240
    model = mild_ext.load_model(out)
    assert model.class_names == NAMES
    assert model.input_shape == (8,)
    assert not model.training
    with np.load(spec.partition(":")[2]) as data:
        inputs = torch.from_numpy(data["x_train"]).float()
    predicted = [int(row["predicted_label"]) for row in rows(out / "selection.csv")]
    assert model.names(inputs) == [NAMES[k] for k in predicted]
    with pytest.raises(ValueError, match=r"inputs must have shape \[B, 8\], got \[2, 3\]"):
        model(torch.zeros(2, 3))
    with pytest.raises(ValueError, match="of no files, texts or table"):
        model.encode([{}])
    (out / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        mild_ext.load_model(out)
    with pytest.raises(ValueError, match="no run"):
        mild_ext.load_model(tmp_path)


def test_nothing_is_offered_where_there_is_no_evidence_and_fewer_networks_are_told(
    spec, tmp_path, capsys
):
    out = tmp_path / "run"
    options = [*FAST, "--plant=0", "--no-report", "--out", str(out)]
    assert main(["find", "--data", spec, *options]) == 0
    printed = capsys.readouterr().out
    assert "This run cannot tell" in printed or "This is a guess" in printed
    assert f"mild-ext report {out}" in printed
    assert "--auto" not in printed
    for word in ("scout ", "round 0", "trained on"):  # nobody has said what these are
        assert word not in printed


def test_a_longer_training_says_that_it_has_fewer_networks():
    data = load_data("digits")
    chosen = choose_settings(
        "digits",
        "default",
        {"first_epochs": 400, "method": "mild-rounds", "rounds": 1, "final_epochs": 0},
    )
    told = console.describe(data, None, size_by_data(chosen, data), "cpu")
    assert (
        "note: 1 network instead of 3, because of --first-epochs; --scouts 3 trains them all"
        in told
    )
    usual = choose_settings(
        "digits", "default", {"method": "mild-rounds", "rounds": 1, "final_epochs": 0}
    )
    told = console.describe(data, None, size_by_data(usual, data), "cpu")
    assert "up to 3 networks" in told
    assert "note:" not in told


def test_the_page_is_made_of_the_data_that_were_read_before(spec, tmp_path, monkeypatch):
    pytest.importorskip("jinja2")
    pytest.importorskip("matplotlib")

    importlib.import_module(
        "mild_ext.commands.report"
    )  # which shall not keep what stands in for its reader

    def read_again(*arguments, **options):
        raise ValueError("read again, which may take as long as an encoder takes")

    monkeypatch.setattr("mild_ext.data.readers.sources.load_data", read_again)
    out = tmp_path / "run"
    assert main(["find", "--data", spec, *FAST, "--plant=0", "--out", str(out)]) == 0
    assert "read again" not in (out / "report.html").read_text(encoding="utf-8")
    assert main(["report", str(out), "--data", spec]) == 0
    assert "read again" in (out / "report.html").read_text(encoding="utf-8")


def test_rows_of_a_table_are_found_in_the_file(tmp_path, capsys):
    """By the line they begin in, whatever lies above: cells of several lines, empty lines."""
    generator = np.random.default_rng(0)
    lines = ["x,y,label"]
    for k in range(60):
        note = '"two\nlines"' if k == 3 else "plain"
        lines += [f"{5 * (k % 2) + generator.normal():.3f},{note},{'ab'[k % 2]}"]
        lines += [""] if k == 7 else []
    path = tmp_path / "table.csv"
    path.write_text("\n".join(lines) + "\n")
    out = tmp_path / "run"
    options = ["--first-epochs=3", "--plant=0", "--no-report", "--out", str(out)]
    assert main(["find", "--data", f"csv:{path},label=label,columns=x", *options]) == 0
    listed = rows(out / "suspects.csv")
    assert len(listed) == 60
    for row in listed:
        number = int(row["id"])
        assert int(row["line"]) == 2 + number + (number > 3) + (number > 7)
    assert f"  line {listed[0]['line']}" in capsys.readouterr().out
    assert read_suspects(out / "suspects.csv")[0].line == int(listed[0]["line"])


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_says_what_there_is_to_go_on_with(begun, spec, tmp_path, capsys, monkeypatch):
    out = tmp_path / "a run"
    place = "mild_ext.commands.find." + ("find_wrong_labels" if begun else "prepare_data")

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(place, interrupted)
    assert main(["find", "--data", spec, *FAST, "--out", str(out)]) == 130
    last = capsys.readouterr().err.strip().splitlines()[-1]
    if begun:
        assert last == f"interrupted; go on with it: mild-ext find --resume --out '{out}'"
    else:
        assert last == "interrupted; nothing was learned yet: give the same command again"
        assert not out.exists()
