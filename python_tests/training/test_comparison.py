"""The compare command: one table over noises, seeds and methods, that can be extended."""

import csv
import json

import numpy as np
import pytest

from mild_ext.cli import main
from mild_ext.commands.console import methods_table
from mild_ext.training.methods import METHODS

pytestmark = pytest.mark.slow

FAST = [
    "--model=mlp", "--width=32", "--rounds=2", "--first-epochs=12", "--round-epochs=4",
    "--final-epochs=6", "--batch-size=32", "--lr=0.05", "--device=cpu", "--quiet",
    "--ssl-epochs=3",
]  # fmt: skip


@pytest.fixture
def data(tmp_path):
    generator = np.random.default_rng(0)
    labels = np.arange(260) % 3
    inputs = generator.normal(size=(260, 8)) + 3 * np.eye(3, 8)[labels]
    np.savez(
        tmp_path / "d.npz", x_train=inputs[:200], y_train=labels[:200], x_test=inputs[200:],
        y_test=labels[200:],
    )  # fmt: skip
    return f"npz:{tmp_path / 'd.npz'}"


def compare(*options):
    return main(["compare", *FAST, *map(str, options)])


def rows(out):
    return json.loads((out / "results.json").read_text())["rows"]


def test_every_method_at_every_noise_and_seed_with_as_many_steps(data, tmp_path, capsys):
    out = tmp_path / "c"
    options = ["--data", data, "--noise", "symmetric:0.4", "next:0.3", "--seeds", "0,1"]
    assert compare(*options, "--out", out) == 0
    found = {(r["noise"], r["seed"], r["method"]): r for r in rows(out)}
    assert len(found) == len(rows(out)) == 2 * 2 * 7
    for noise in ("symmetric:0.4", "next:0.3"):
        for seed in (0, 1):
            steps = {m: found[noise, seed, m]["steps"] for m in METHODS}
            whole = steps["mild-rounds"]  # of which an epoch has 7 on all samples
            assert 7 * (12 + 6) <= whole <= 7 * (12 + 4 + 6) + 7
            for method in ("plain", "mild", "elr", "small-loss", "clean"):
                assert abs(steps[method] - whole) <= 7
            assert steps["plain"] == steps["mild"]
            assert steps["mild-ssl"] > whole
            assert found[noise, seed, "mild-ssl"]["epochs"] > found[noise, seed, "mild"]["epochs"]
            assert found[noise, seed, "mild-ssl"]["f1"] == found[noise, seed, "mild-rounds"]["f1"]
            assert "f1" in found[noise, seed, "mild"]
            assert "f1" in found[noise, seed, "small-loss"]
            assert "f1" not in found[noise, seed, "plain"]
    printed = capsys.readouterr().out
    assert "±" in printed
    for word in ("plain cross-entropy", "ELR", "MILD", "symmetric:0.4", "next:0.3"):
        assert word in printed
    lines = list(csv.DictReader((out / "results.csv").read_text().splitlines()))
    assert len(lines) == 28


def test_finished_trainings_are_not_repeated_and_seeds_can_be_added(data, tmp_path, monkeypatch):
    out = tmp_path / "c"
    options = ["--data", data, "--noise", "symmetric:0.4", "--out", out]
    assert compare(*options, "--seeds", "0", "--methods", "plain,mild") == 0
    first = rows(out)
    assert compare(*options, "--seeds", "0,1", "--methods", "plain,mild,clean") == 0
    second = rows(out)
    assert second[:2] == first
    assert [(r["seed"], r["method"]) for r in second[2:]] == [
        (0, "clean"), (1, "plain"), (1, "mild"), (1, "clean"),
    ]  # fmt: skip
    monkeypatch.setattr("mild_ext.training.comparison._train", None)  # would raise if called
    assert compare(*options, "--seeds", "0,1", "--methods", "plain,mild,clean") == 0


def test_other_settings_and_foreign_folders_are_refused(data, tmp_path, capsys):
    out = tmp_path / "c"
    options = ["--data", data, "--seeds", "0", "--methods", "mild"]
    assert compare(*options, "--out", out) == 0
    assert compare(*options, "--out", out, "--lr", "0.5") == 1
    assert "other settings" in capsys.readouterr().err
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    assert compare(*options, "--out", tmp_path / "mine") == 1
    assert "no comparison" in capsys.readouterr().err


def test_a_folder_of_a_comparison_follows_the_rules_of_a_runs(data, tmp_path, capsys):
    out = tmp_path / "c"
    options = ["--data", data, "--seeds", "0", "--methods", "mild", "--rounds=1", "--out", out]
    # Killed while its first file was written: a lock, a marker and half a file are all there is.
    out.mkdir()
    (out / ".config.json.1-a.partial").write_text("{")
    (out / ".lock").touch()
    assert compare(*options) == 0
    assert not list(out.rglob("*.partial"))
    first = rows(out)

    whole = (out / "results.json").read_text()
    for damaged in (
        whole[:40],
        whole.replace("0.", "1.", 1),
        "[]",
        '{"rows": 3}',
        '{"rows": [{}]}',
        "\0",
    ):
        (out / "results.json").write_text(damaged)
        assert compare(*options) == 1
        error = capsys.readouterr().err
        assert "results.json cannot be read" in error
        assert error.count("\n") == 1
    (out / "results.json").unlink()  # as the message advises: the checkpoints are there
    assert compare(*options) == 0
    assert rows(out) == first

    (out / "notes.txt").write_text("mine")
    assert compare(*options, "--lr", "0.5") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert compare(*options, "--lr", "0.5", "--overwrite") == 0
    assert (out / "notes.txt").exists()
    assert json.loads((out / "config.json").read_text())["recipe"]["lr"] == 0.5


def test_a_comparison_and_a_run_are_told_apart(data, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["--data", data, "--rounds=1", "--first-epochs=2", "--final-epochs=1", "--model=mlp"]
    assert main(["train", *options, "--quiet", "--device=cpu", "--out", str(out)]) == 0
    for more in ([], ["--overwrite"]):
        assert compare("--data", data, "--out", out, "--seeds", "0", *more) == 1
    assert "not made by mild_ext as the folder of a comparison" in capsys.readouterr().err
    assert (out / "summary.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "mild,magic"], "unknown method magic"),
        (["--seeds", "a"], "--seeds must be numbers"),
        (["--seeds", "0,1,0"], "--seeds must name each seed once"),
        (["--noise", "symmetric:7"], "noise rate"),
    ],
)
def test_wrong_options(data, tmp_path, capsys, options, message):
    assert compare("--data", data, "--out", tmp_path / "c", *options) == 1
    assert message in capsys.readouterr().err


def test_nothing_but_noise_leaves_the_bound_empty(data, tmp_path):
    out = tmp_path / "c"
    options = ["--noise", "symmetric-other:1", "--seeds", "0", "--methods", "mild,clean"]
    assert compare("--data", data, "--out", out, *options) == 0
    assert [r["test_accuracy"] is None for r in rows(out)] == [False, True]


def test_without_true_labels_there_is_no_bound(data, tmp_path, capsys):
    options = ["--data", data, "--seeds", "0"]
    assert compare(*options, "--methods", "clean", "--out", tmp_path / "a") == 1
    assert "true labels are not known" in capsys.readouterr().err
    assert not (tmp_path / "a").exists()
    assert compare(*options, "--out", tmp_path / "b") == 0
    methods = {r["method"] for r in rows(tmp_path / "b")}
    assert methods == set(METHODS) - {"clean"}


def test_table_shows_means_with_intervals_and_what_they_cost():
    results = [
        {"noise": "n", "seed": seed, "method": "mild", "test_accuracy": a, "f1": 0.5,
         "test_samples": 100, "epochs": 20 + seed, "steps": 1000, "seconds": 2.0 + seed}
        for seed, a in enumerate((0.8, 0.9, 1.0))
    ]  # fmt: skip
    text = methods_table(results, ["mild"])
    # of the test samples sqrt(.9 * .1 / 100) = 0.03, of the seeds 0.1 / sqrt 3
    assert f"90.0 ± {196 * (0.03**2 + 0.1**2 / 3) ** 0.5:.1f}" in text
    assert "20-22" in text
    assert "1,000" in text
    assert text.splitlines()[1].endswith("3.0")
    assert "50.0 ± 0.0" in text
