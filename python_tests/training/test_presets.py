"""Every preset starts on data in its original format and completes a shortened run."""

import csv
import json

import numpy as np
import pytest
from layouts import (
    write_archive,
    write_clothing,
    write_folder,
    write_imagenet,
    write_webvision,
)

from mild_ext.cli import main
from mild_ext.training.recipe import PRESET_NOISE, preset

CIFAR = [f"cifar{k}-{noise}" for k in (10, 100) for noise in ("sym20", "sym50", "sym80", "asym40")]
SHORT = ["--rounds", "2", "--first-epochs", "1", "--round-epochs", "1", "--final-epochs", "1"]


def train(tmp_path, *arguments):
    out = tmp_path / "run"
    assert main(["train", "--out", str(out), "--quiet", "--no-compare", *SHORT, *arguments]) == 0
    return out, json.loads((out / "config.json").read_text())


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_presets_are_the_authors_settings(name):
    recipe = preset(name)
    assert (recipe.model, recipe.batch_size, recipe.optimizer) == ("resnet34", 128, "sgd")
    assert (recipe.lr, recipe.momentum, recipe.weight_decay) == (0.01, 0.9, 5e-3)
    assert recipe.first_weight_decay == (2.5e-3 if name.endswith("sym80") else None)
    assert recipe.schedule == "cosine"
    assert recipe.rounds == 27
    assert recipe.first_epochs == (10 if name == "cifar10-sym50" else 70)
    assert recipe.round_epochs == (50 if name.startswith("cifar100") else 20)
    assert (recipe.augment, recipe.validation, recipe.min_removed) == ("crop-flip", 0.1, 0)
    kind, rate = {"sym": "symmetric", "asym": "asymmetric"}[name[:-2].split("-")[1]], name[-2:]
    assert PRESET_NOISE[name] == f"{kind}:0.{rate[0]}"


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=pytest.mark.slow) if n.endswith("sym20") else n for n in CIFAR],
)
def test_cifar_presets_run_on_the_original_archives(tmp_path, name):
    classes = 10 if name.startswith("cifar10-") else 100
    write = write_folder if name.endswith("50") else write_archive
    version = "binary" if name.endswith("40") else "python"
    # The real network once for each data set; it is the same for all four.
    real = name.endswith("sym20")
    per_file = 2 if real and classes == 10 else 10
    path = write(tmp_path, classes, version, per_file)
    arguments = ["--data", f"cifar{classes}:{path}", "--recipe", name]
    arguments += ["--rounds", "1"] if real else ["--model", "cnn"]
    out, config = train(tmp_path, *arguments)
    assert config["settings"]["noise"] == PRESET_NOISE[name]
    assert config["settings"]["recipe_name"] == name
    assert config["noise"]["spec"] == PRESET_NOISE[name]
    assert len(config["noise"]["class_rates"]) == classes
    summary = json.loads((out / "summary.json").read_text())
    assert 0 <= summary["models"][0]["test_accuracy"] <= 1
    given = np.load(out / "given_labels.npy", allow_pickle=False)
    assert len(given) == per_file * (5 if classes == 10 else 1)
    wrong = given != np.tile(np.arange(per_file) % classes, len(given) // per_file)
    assert wrong.mean() == pytest.approx(config["noise"]["rate"])
    # A tenth of every class is held out where that is at least one sample.
    held = (
        0
        if per_file == 2 or classes == 100
        else sum(round(0.1 * (given == k).sum()) for k in range(10))
    )
    assert summary["samples"] == len(given) - held


def test_noise_on_the_command_line_comes_before_the_presets(tmp_path):
    path = write_folder(tmp_path, 10, "binary", 10)
    arguments = ["--data", f"cifar10:{path}", "--recipe", "cifar10-sym20", "--model", "cnn"]
    _, config = train(tmp_path, *arguments, "--noise", "next:0.5")
    assert config["noise"]["spec"] == "next:0.5"


@pytest.mark.slow
def test_the_given_labels_of_a_run_can_be_trained_on_again(tmp_path):
    path = write_folder(tmp_path, 10, "binary", 10)
    arguments = ["--data", f"cifar10:{path}", "--model", "cnn"]
    out, first = train(tmp_path, *arguments, "--noise", "symmetric:0.4")
    labels = f"labels:{out / 'given_labels.npy'}"
    _, again = train(tmp_path / "again", *arguments, "--noise", labels)
    assert again["noise"]["rate"] == first["noise"]["rate"]
    assert again["noise"]["class_rates"] == first["noise"]["class_rates"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["webvision", "clothing1m"])
def test_web_presets_run_on_their_layouts(tmp_path, name, capsys):
    pytest.importorskip("PIL")
    if name == "webvision":
        write_webvision(tmp_path / "data", per_class=8)
        write_imagenet(tmp_path / "data" / "imagenet" / "val", "wordnet")
        options = ",classes=3"
    else:
        write_clothing(tmp_path / "data")
        options = ""
    assert preset(name).model.startswith("timm:")
    out, config = train(
        tmp_path,
        *("--data", f"{name}:{tmp_path / 'data'}{options},size=16,resize=20"),
        *("--model", "cnn", "--pretrained", "none", "--workers", "1"),
    )
    assert config["settings"]["recipe_name"] == name  # chosen by the data
    summary = json.loads((out / "summary.json").read_text())
    row = summary["models"][0]
    assert row["test_accuracy"] is not None
    assert ("accuracy on ImageNet validation" in row) == (name == "webvision")
    assert ("validation_accuracy" in summary) == (name == "clothing1m")
    with (out / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows[0]["name"].endswith(".jpg")


@pytest.mark.slow
def test_a_folder_of_images_ends_in_a_list_of_files_to_look_at(tmp_path, capsys):
    Image = pytest.importorskip("PIL.Image")
    digits = pytest.importorskip("sklearn.datasets").load_digits()
    chosen = np.flatnonzero(digits.target < 3)[:210]
    generator = np.random.default_rng(0)
    wrong = generator.random(len(chosen)) < 0.2
    for k, flip in zip(chosen, wrong, strict=True):
        label = (digits.target[k] + flip) % 3
        folder = tmp_path / "digits" / f"digit {label}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = (digits.images[k] * 15.9).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}{'-wrong' if flip else ''}.png")
    out = tmp_path / "run"
    arguments = ["--data", f"folder:{tmp_path / 'digits'}", "--out", str(out), "--width", "64"]
    short = ["--first-epochs", "20", "--rounds", "1", "--final-epochs", "10", "--batch-size", "32"]
    assert main(["train", *arguments, *short, "--lr", "0.03"]) == 0
    text = capsys.readouterr().out
    assert "labels are wrong. This is a guess" in text, "210 samples are too few to plant labels in"
    table = text.partition("The most suspicious:")[2].partition("Wrote")[0]
    listed = [line for line in table.splitlines() if ".png" in line]
    assert len(listed) == 10
    assert sum("-wrong.png" in line for line in listed) >= 8
    assert f"mild-ext fix {out} --corrections" in text.partition("Next:")[2]
    with (out / "selection.csv").open() as file:
        rows = list(csv.DictReader(file))
    dropped = [row["name"] for row in rows if row["kept"] == "0"]
    right = sum("-wrong" in name for name in dropped)
    assert right / len(dropped) > 0.7
    assert right / wrong.sum() > 0.7
