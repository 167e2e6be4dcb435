"""The compare command: one table over noises, seeds and methods, that can be extended."""

import csv
import json

import numpy as np
import pytest
import torch

from mild_ext.cli import main
from mild_ext.data.checksums import data_checksums
from mild_ext.data.sets import array_data
from mild_ext.sealed import SEAL, write_sealed_json
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
    error = capsys.readouterr().err
    assert "with other settings: lr was 0.05 and is now 0.5;" in error
    assert compare(*options, "--out", out, "--plant", "0.1") == 1
    assert "other settings: plant was None and is now 0.1;" in capsys.readouterr().err
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


# ---------------------------------------------------------------------- of the same data and labels


def change(path, **arrays):
    """Write other arrays in place of some of an npz file's."""
    with np.load(path) as file:
        np.savez(path, **{**file, **arrays})


CHANGES = {
    "the training inputs": lambda old: {"x_train": old["x_train"] + np.eye(200, 8)},
    "the given labels": lambda old: {"y_train": np.roll(old["y_train"], 1)},
    "the test inputs": lambda old: {"x_test": old["x_test"] + np.eye(60, 8)},
    "the test labels": lambda old: {"y_test": np.roll(old["y_test"], 1)},
    "the true labels": lambda old: {"y_true": np.roll(old["y_train"], 1)},
}


@pytest.mark.parametrize("part", CHANGES)
def test_a_comparison_on_other_data_is_refused(data, tmp_path, capsys, part):
    out, path = tmp_path / "c", tmp_path / "d.npz"
    options = ["--data", data, "--methods", "plain", "--seeds", "0", "--out", out]
    assert compare(*options) == 0
    first = rows(out)
    capsys.readouterr()
    with np.load(path) as file:
        change(path, **CHANGES[part](dict(file)))
    assert compare(*options) == 1
    error = capsys.readouterr().err
    assert f"holds a comparison on other data: {part} are not what they were" in error
    assert "--overwrite" in error
    assert error.count("\n") == 1
    assert rows(out) == first
    assert compare(*options, "--overwrite") == 0


def test_a_comparison_on_other_labels_is_refused_with_their_noise_and_seed(data, tmp_path, capsys):
    out, matrix = tmp_path / "c", tmp_path / "T.txt"
    noise = ["next:0.3", f"matrix:{matrix}"]
    np.savetxt(matrix, [[0.8, 0.2, 0], [0, 0.8, 0.2], [0.2, 0, 0.8]])
    options = ["--data", data, "--methods", "plain", "--out", out, "--noise", *noise]
    assert compare(*options, "--seeds", "0") == 0
    np.savetxt(matrix, [[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]])
    capsys.readouterr()
    assert compare(*options, "--seeds", "0,1") == 1
    error = capsys.readouterr().err
    assert f"other labels: those of noise matrix:{matrix}, seed 0, are not what they were" in error
    assert len(rows(out)) == 2
    assert compare(*options[:-1], "--seeds", "0,1") == 0  # the other noise is what it was


def test_a_folder_of_images_is_read_to_know_it_again(tmp_path, capsys):
    image = pytest.importorskip("PIL.Image")
    for name in ("a", "b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for k in range(12):
            pixels = np.full((8, 8), 60 + 100 * (name == "b") + k, np.uint8)
            image.fromarray(pixels).save(tmp_path / "photos" / name / f"{k}.png")
    options = ["--data", f"folder:{tmp_path / 'photos'}", "--test-fraction", "0.25", "--seeds", "0"]
    options += ["--methods", "plain", "--out", tmp_path / "c"]
    assert compare(*options) == 0
    assert compare(*options) == 0
    for k in range(12):
        image.fromarray(np.full((8, 8), 200, np.uint8)).save(tmp_path / "photos" / "a" / f"{k}.png")
    assert compare(*options) == 1
    assert "the training inputs, the test inputs are not what" in capsys.readouterr().err


def test_a_comparison_of_an_earlier_version_is_not_gone_on_with(data, tmp_path, capsys):
    out = tmp_path / "c"
    options = ["--data", data, "--methods", "plain", "--seeds", "0", "--out", out]
    assert compare(*options) == 0
    config = json.loads((out / "config.json").read_text())
    write_sealed_json(
        out / "config.json", {k: config[k] for k in config if k not in ("checksums", SEAL)}
    )
    assert compare(*options) == 1
    assert "did not note of what data it was; use another --out" in capsys.readouterr().err


def test_data_that_never_read_the_same_have_no_checksum_of_their_inputs():
    class Drawn(torch.utils.data.Dataset):
        def __init__(self, draw):
            self.draw = draw

        def __len__(self):
            return 6

        def __getitem__(self, k):
            return self.draw(), k % 2

    data = array_data("d", torch.rand(6, 3), torch.arange(6) % 2, ["a", "b"])
    assert data_checksums(data) == data_checksums(data)
    steady = data_checksums(data)["the training inputs"]
    assert steady is not None
    data.train = Drawn(lambda: torch.from_numpy(np.random.default_rng().normal(size=3)))
    assert data_checksums(data)["the training inputs"] is None
    data.train = Drawn(lambda: torch.rand(3))  # of the global generator, as augmentation is
    before = torch.get_rng_state()
    first = data_checksums(data)["the training inputs"]
    assert first is not None
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    assert data_checksums(data)["the training inputs"] == first


# ------------------------------------------------------------------------------- as many steps


def steps(out):
    return {(r["seed"], r["method"]): r["steps"] for r in rows(out)}


def test_a_method_that_is_added_later_does_not_break_as_many_steps(data, tmp_path, capsys):
    out = tmp_path / "c"
    options = ["--data", data, "--noise", "symmetric:0.4", "--out", out]
    assert compare(*options, "--seeds", "0", "--methods", "plain,mild") == 0
    assert steps(out) == {(0, "plain"): 126, (0, "mild"): 126}
    capsys.readouterr()
    loud = [option for option in FAST if option != "--quiet"]
    assert (
        main(
            [
                "compare",
                *loud,
                *map(str, options),
                "--seeds",
                "0",
                "--methods",
                "plain,mild,mild-rounds",
            ]
        )
        == 0
    )
    printed = capsys.readouterr().out
    whole = steps(out)[0, "mild-rounds"]
    assert whole > 130
    for method in ("plain", "mild"):
        assert abs(steps(out)[0, method] - whole) <= 7
    assert printed.count("trained again, with") == 2
    assert "instead of 126, as many as mild-rounds" in printed
    # Showing fewer methods changes none of them, and more seeds need the rounds again.
    kept = rows(out)
    assert compare(*options, "--seeds", "0", "--methods", "plain") == 0
    assert rows(out) == kept
    assert compare(*options, "--seeds", "0,1", "--methods", "plain") == 1
    assert "seed 1: add mild-rounds to --methods" in capsys.readouterr().err


# ------------------------------------------------------------------------- what is said and written


def test_settings_and_noise_are_said_and_the_labels_are_there(data, tmp_path, capsys):
    out = tmp_path / "c"
    loud = [option for option in FAST if option != "--quiet"]
    options = ["--data", data, "--noise", "symmetric:0.4", "next:0.3", "--seeds", "0,1"]
    assert main(["compare", *loud, *options, "--methods", "plain,mild", "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "d: 200 samples, 3 classes, 60 test samples" in printed
    assert "batches of 32, learning rate 0.05, 18 epochs, 126 optimizer steps" in printed
    assert "Settings: default" in printed
    clean = np.arange(200) % 3
    for noise in ("symmetric:0.4", "next:0.3"):
        rates = []
        for seed in (0, 1):
            labels = np.load(out / "labels" / f"{noise.replace(':', '-')}-seed{seed}.npy")
            assert labels.dtype == np.int64
            rates.append((labels != clean).mean())
            own = [r for r in rows(out) if (r["noise"], r["seed"]) == (noise, seed)]
            assert {r["noise_rate"] for r in own} == {rates[-1]}
        assert (
            f"Noise {noise}: {np.mean(rates):.1%} of the labels are wrong (mean over 2 seeds)"
            in printed
        )
    summary = list(csv.DictReader((out / "summary.csv").read_text().splitlines()))
    assert [(line["method"], line["noise"], line["seeds"]) for line in summary] == [
        (method, noise, "2") for noise in ("symmetric:0.4", "next:0.3") for method in ("plain", "mild")
    ]  # fmt: skip
    for line in summary:
        own = [r["test_accuracy"] for r in rows(out)
               if (r["noise"], r["method"]) == (line["noise"], line["method"])]  # fmt: skip
        assert float(line["test_accuracy"]) == pytest.approx(np.mean(own))
        assert float(line["low"]) < np.mean(own) < float(line["high"])
    assert "right" not in (out / "results.csv").read_text().partition("\n")[0]
    assert (out / "table.txt").read_text().strip() in printed
    # The labels are what a method of one's own is trained on.
    again = ["--noise", f"labels:{out / 'labels' / 'next-0.3-seed1.npy'}", "--methods", "plain"]
    assert compare("--data", data, *again, "--seeds", "1", "--out", tmp_path / "again") == 0
    there = [
        r for r in rows(out) if (r["noise"], r["seed"], r["method"]) == ("next:0.3", 1, "plain")
    ]
    assert rows(tmp_path / "again")[0]["test_accuracy"] == there[0]["test_accuracy"]


def test_wrong_labels_of_the_data_are_not_called_none(data, tmp_path, capsys):
    with np.load(tmp_path / "d.npz") as file:
        true = file["y_train"]
    wrong = np.where(np.arange(200) % 5 == 0, (true + 1) % 3, true)
    change(tmp_path / "d.npz", y_train=wrong, y_true=true)
    out = tmp_path / "c"
    assert compare("--data", data, "--seeds", "0", "--methods", "plain,clean", "--out", out) == 0
    assert "its own, 20.0%" in capsys.readouterr().out
    assert {r["noise_rate"] for r in rows(out)} == {0.2}


@pytest.mark.parametrize(
    ("noises", "message"),
    [
        (["next:0.1", "next:0.1"], "must name each noise once"),
        (["labels:a/b", "labels:a-b"], "files of the same names"),
    ],
)
def test_noises_whose_files_could_not_be_told_apart(data, tmp_path, capsys, noises, message):
    assert compare("--data", data, "--out", tmp_path / "c", "--noise", *noises) == 1
    assert message in capsys.readouterr().err
