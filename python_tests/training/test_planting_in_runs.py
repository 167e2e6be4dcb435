"""Runs that plant labels: what is measured, who learns a planted label and who never does, and the files."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from mild_ext import LearningStatus, PlantedLabels, RoundsResult, select_clean
from mild_ext.cli import main
from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.training import Recipe
from mild_ext.training import run_rounds as module
from mild_ext.training.loop import CrossEntropy
from mild_ext.training.models import build_model
from mild_ext.training.run_rounds import run_rounds
from mild_ext.training.ssl import train as ssl_module

COUNT, CLASSES = 600, 4
TRUE = torch.arange(COUNT) % CLASSES
INPUTS = (
    torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(0))
    + 3.5 * torch.eye(CLASSES, 12)[TRUE]
)
GIVEN = corrupt_labels(TRUE, "symmetric:0.5", CLASSES, seed=0).labels
RECIPE = Recipe(
    model="mlp", width=32, rounds=2, first_epochs=12, round_epochs=6, final_epochs=3, lr=0.05,
    reselect="kept", round_start="continue",
    batch_size=32, min_removed=0.0,
)  # fmt: skip


def run(recipe=RECIPE, labels=GIVEN, **options):
    count = len(labels)
    data = ArrayDataset(INPUTS[:count], TRUE[:count])
    return run_rounds(
        data, lambda: build_model("mlp", (12,), CLASSES, width=32), recipe, labels=labels, **options
    )


@pytest.fixture
def learned(monkeypatch):
    """By stage, the labels of every sample that entered the loss with a weight."""
    heard, stages = {}, []
    fit, call = module.fit, CrossEntropy.__call__

    def watched_fit(*arguments, stage, **options):
        stages.append(stage)
        heard[stage] = {}
        return fit(*arguments, stage=stage, **options)

    def watched_call(self, model, index, inputs, labels):
        for i, label in zip(index.tolist(), labels.tolist(), strict=True):
            if self.learn is None or self.learn[i]:
                heard[stages[-1]].setdefault(i, set()).add(label)
        return call(self, model, index, inputs, labels)

    monkeypatch.setattr(module, "fit", watched_fit)
    monkeypatch.setattr(CrossEntropy, "__call__", watched_call)
    return heard


@pytest.mark.parametrize("reselect", ["kept", "all"])
def test_planted_labels_are_learned_for_a_round_and_never_in_the_final_training(reselect, learned):
    rounds = []
    result = run(RECIPE.override({"reselect": reselect}), on_round=rounds.append)
    assert [len(done.planted) for done in rounds][:1] == [58]
    for done in rounds:
        wrong = {
            i: k
            for i, labels in learned[f"round {done.number}"].items()
            for k in labels
            if k != int(GIVEN[i])
        }
        index = done.planted.index.tolist()
        expected = dict(zip(index, done.planted.labels[done.planted.index].tolist(), strict=True))
        # From the second round on, where the dropped are watched, planted samples are held out too.
        assert wrong == ({} if reselect == "all" and done.number else expected)
    assert learned["final"] == {
        i: {int(GIVEN[i])} for i in result.kept.nonzero().flatten().tolist()
    }
    assert torch.equal(result.labels, GIVEN)


def test_what_was_measured_is_in_records_and_result():
    result = run()
    first = result.rounds[0]
    assert first["planted"] == 58
    assert first["planting_note"] is None
    measured = result.noise_rate
    assert measured.measured
    assert measured.low <= float((GIVEN != TRUE).double().mean()) <= measured.high
    assert first["noise_rate"]["rate"] == measured.rate
    assert first["noise_rate"]["contradicted"] == measured.contradicted
    assert set(first["estimated_recall"]) == {"value", "low", "high"}
    json.dumps(result.rounds)
    wrong = GIVEN != TRUE
    found = ~result.kept & wrong
    assert found.sum() > 0.7 * wrong.sum()
    assert (result.suggested_label[found] == TRUE[found]).double().mean() > 0.7
    assert (result.suspicion[wrong].mean() > 2 * result.suspicion[~wrong].mean()).item()
    assert ((result.suggestion_confidence >= 0) & (result.suggestion_confidence <= 1)).all()


def test_asking_a_model_for_its_classes_changes_nothing():
    told, asked = run(num_classes=CLASSES), run()
    assert torch.equal(told.kept, asked.kept)
    for a, b in zip(told.model.parameters(), asked.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_tiny_classes_are_trained_without_planting_and_that_is_said():
    labels = TRUE[:36].clone()  # nine of each class
    result = run(labels=labels)
    assert "no class can spare a sample" in result.rounds[0]["planting_note"]
    assert result.rounds[0]["planted"] == 0
    assert result.noise_rate is None
    assert (result.suggested_label == -1).all()
    with pytest.raises(ValueError, match="no class can spare a sample to plant"):
        run(RECIPE.override({"plant": 0.04}), labels=labels)


def test_a_tiny_class_among_large_ones_gives_no_planted_sample():
    labels = TRUE.clone()
    labels[(TRUE == 3) & (torch.arange(COUNT) > 30)] = 0
    rounds = []
    run(RECIPE.override({"rounds": 1, "final_epochs": 0}), labels=labels, on_round=rounds.append)
    assert 3 not in rounds[0].planted.withheld
    assert len(rounds[0].planted) > 50


@pytest.mark.parametrize("rule", ["quantile", "release", "scale"])
def test_other_rules_do_not_plant(rule):
    with pytest.raises(ValueError, match=r"plant=0.04 needs rule='posterior'"):
        RECIPE.override({"rule": rule, "plant": 0.04})
    recipe = RECIPE.override({"rule": rule, "rounds": 1, "final_epochs": 0})
    assert not recipe.plants
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "select_clean", lambda status, **options: select_clean(status))
        assert run(recipe).rounds[0]["planted"] == 0


@pytest.mark.parametrize("share", [-0.01, 0.11])
def test_a_share_out_of_range_is_refused(share):
    with pytest.raises(ValueError, match=r"plant must be in \[0, 0.1\]"):
        Recipe(plant=share)


# ----------------------------------------------------------------------------------- the command


def train(out, *options):
    arguments = ["train", "--data", "digits", "--out", out, "--threads", 1, "--no-compare"]
    return main([str(a) for a in [*arguments, *options]])


@pytest.mark.slow
def test_digits_a_clean_run_drops_next_to_nothing(tmp_path):
    assert train(tmp_path, "--final-epochs", 0) == 0
    result = RoundsResult.load(tmp_path / "result.safetensors")
    assert (~result.kept).double().mean() < 0.02
    assert result.noise_rate.rate < 0.02
    assert result.rounds[0]["planted"] == 100
    assert "no clear evidence" in result.rounds[0]["reason"]


@pytest.mark.slow
def test_digits_a_noisy_run_finds_most_and_no_file_knows_a_planted_label(
    tmp_path, capsys, monkeypatch
):
    heard = []
    stage = ssl_module.train_stage

    def train_stage(dataset, labels, *arguments, **options):
        heard.append(labels.clone())
        return stage(dataset, labels, *arguments, **options)

    monkeypatch.setattr("mild_ext.training.experiment.train_stage", train_stage)
    options = ["--noise", "symmetric:0.5", "--final-epochs", 2, "--learning-logs"]
    assert train(tmp_path, *options, "--ssl", "mixmatch", "--ssl-epochs", 1) == 0
    printed = capsys.readouterr().out
    assert "labels are probably wrong (" in printed
    given = np.load(tmp_path / "given_labels.npy")
    with open(tmp_path / "selection.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    true = np.array([int(row["true_label"]) for row in rows])
    kept = np.array([row["kept"] == "1" for row in rows])
    assert (~kept)[given != true].mean() > 0.9
    assert kept[given == true].mean() > 0.9
    assert [int(row["given_label"]) for row in rows] == given.tolist()
    assert all(np.isfinite(float(row["suspicion"])) for row in rows)
    suggested = np.array([int(row["suggested_label"] or -1) for row in rows])
    assert (suggested == true)[given != true].mean() > 0.7
    assert heard[0].tolist() == given.tolist()
    result = load_file(tmp_path / "result.safetensors")
    assert result["labels"].tolist() == given.tolist()
    for path in (tmp_path / "logs").iterdir():
        with np.load(path) as log:
            assert log["given_label"].tolist() == given[log["ids"]].tolist()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert abs(summary["measured_noise"]["rate"] - (given != true).mean()) < 0.1

    # The decision can be repeated from the files.
    status = tmp_path / "status" / "round-00.safetensors"
    planted = tmp_path / "planted" / "round-00.safetensors"
    repeated = select_clean(LearningStatus.load(status), planted=PlantedLabels.load(planted))
    history = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    first = next(record for record in history if record["type"] == "round")
    assert repeated.reason == first["reason"]
    assert main(["select", str(status), "--planted", str(planted)]) == 0
    assert first["reason"].partition(". ")[0] in capsys.readouterr().out
