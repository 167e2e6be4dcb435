"""Scouting: how many networks are trained, on which labels, and what a killed run keeps."""

import json

import pytest
import torch

from mild_ext import LearningStatus, PlantedLabels, select_clean
from mild_ext.cli import main
from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.training import Recipe, RunContext, scouting
from mild_ext.training.models import build_model
from mild_ext.training.run_rounds import run_rounds
from mild_ext.training.scouting import scout

COUNT, CLASSES = 600, 4
TRUE = torch.arange(COUNT) % CLASSES
INPUTS = (
    torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(0))
    + 3.0 * torch.eye(CLASSES, 12)[TRUE]
)
GIVEN = corrupt_labels(TRUE, "symmetric:0.3", CLASSES, seed=0).labels
RECIPE = Recipe(
    model="mlp", width=32, rounds=1, first_epochs=12, final_epochs=0, lr=0.05, batch_size=32, scouts=3,
)  # fmt: skip


def model():
    return build_model("mlp", (12,), CLASSES, width=32)


def send(recipe=RECIPE, labels=GIVEN, context=None, **options):
    data = ArrayDataset(INPUTS[: len(labels)], TRUE[: len(labels)])
    return scout(data, model, recipe, context, labels=labels, num_classes=CLASSES, **options)


@pytest.fixture
def never_narrow(monkeypatch):
    monkeypatch.setattr(scouting, "NARROW", -1.0)


def test_each_scout_is_a_network_of_its_own_with_other_labels_planted(never_narrow):
    done = send()
    assert len(done.scouts) == 3
    assert "3 scouts" in done.stopped
    together = sum(s.planted.mask.int() for s in done.scouts)
    assert together.max() == 1
    first = [s.status.predictions(0) for s in done.scouts]
    assert not torch.equal(first[0], first[1])
    for each in done.scouts:
        assert torch.equal(each.planted.given, GIVEN)
        counted = each.status.compute().misclassified
        assert torch.equal(counted, each.status.misclassified_for(each.planted.labels))
    again = select_clean([s.status for s in done.scouts], planted=[s.planted for s in done.scouts])
    assert torch.equal(again.suspicion, done.selection.suspicion)
    wrong = GIVEN != TRUE
    assert float((~done.selection.mask == wrong).double().mean()) > 0.95
    assert done.learned > 0.8
    assert [record["stage"] for record in done.history][::12] == ["scout 0", "scout 1", "scout 2"]


def test_a_narrow_interval_ends_it(monkeypatch):
    monkeypatch.setattr(scouting, "NARROW", 1.0)
    done = send()
    assert len(done.scouts) == 1
    assert "interval" in done.stopped


def test_samples_that_take_no_part_are_never_planted_or_seen(never_narrow):
    ids = torch.arange(0, COUNT, 2)
    labels = torch.where(torch.arange(COUNT) % 2 == 0, GIVEN, 0)
    done = send(labels=labels, train_ids=ids)
    for each in done.scouts:
        assert (each.planted.index % 2 == 0).all()
        assert (each.status.compute().seen[1::2] == 0).all()
    assert done.selection.mask[1::2].all()


def test_a_small_set_is_measured_by_what_several_scouts_plant():
    few = GIVEN[:200]
    most = int((torch.bincount(few) * 0.1).long().sum())
    assert most < 50 <= 3 * most
    done = send(labels=few)
    assert sum(len(each.planted) for each in done.scouts) >= 50
    assert all(len(each.planted) <= most for each in done.scouts)
    assert done.selection.noise_rate.measured
    assert sum(s.planted.mask.int() for s in done.scouts).max() == 1


@pytest.mark.parametrize("rounds", [1, 2])
def test_only_a_single_round_of_a_small_set_plants_for_its_scouts(rounds):
    data, few = ArrayDataset(INPUTS[:200], TRUE[:200]), GIVEN[:200]
    recipe = RECIPE.override({"rounds": rounds, "round_epochs": 4})
    result = run_rounds(data, model, recipe, labels=few, num_classes=CLASSES)
    first = result.rounds[0]
    assert first["scouts"] == (3 if rounds == 1 else 1)
    assert (first["noise_rate"] or {}).get("measured", False) == (rounds == 1)


def test_too_few_samples_are_one_training_that_says_so():
    done = send(labels=GIVEN[:100])
    assert done.scouts == ()
    assert "at least 50 samples must be planted" in done.stopped
    assert "in each of 3 trainings" in done.stopped
    rate = done.selection.noise_rate
    assert rate is None or not rate.measured
    assert done.learned is None
    with pytest.raises(ValueError, match="plant above 0"):
        send(RECIPE.override({"plant": 0.0}))


def test_a_killed_scouting_goes_on_where_it_was(never_narrow, tmp_path, monkeypatch):
    whole = send()
    context = RunContext(folder=tmp_path, fingerprint="x")
    send(RECIPE.override({"scouts": 2}), context=context)
    trained = []
    fit = scouting.fit

    def counting(*arguments, **options):
        result = fit(*arguments, **options)
        trained.append(options["stage"])
        return result

    monkeypatch.setattr(scouting, "fit", counting)
    model_calls = []
    data = ArrayDataset(INPUTS, TRUE)

    def counted_model():
        made = model()
        made.register_forward_pre_hook(lambda *_: model_calls.append(len(trained)))
        return made

    done = scout(data, counted_model, RECIPE, context, labels=GIVEN, num_classes=CLASSES)
    assert set(model_calls) == {2}  # only the third was trained
    assert torch.equal(done.selection.suspicion, whole.selection.suspicion)


def test_the_first_round_is_a_scout_too(never_narrow, tmp_path):
    rounds = []
    data = ArrayDataset(INPUTS, TRUE)
    result = run_rounds(data, model, RECIPE, labels=GIVEN, on_round=rounds.append, folder=tmp_path)
    (only,) = rounds
    assert len(only.scouts) == 2
    assert result.rounds[0]["scouts"] == 3
    pooled = select_clean(
        [only.status, *(s.status for s in only.scouts)],
        planted=[only.planted, *(s.planted for s in only.scouts)],
    )
    assert torch.equal(only.selection.suspicion, pooled.suspicion)
    assert torch.equal(result.suspicion, pooled.suspicion)
    one = run_rounds(data, model, RECIPE.override({"scouts": 1}), labels=GIVEN)
    assert one.rounds[0]["scouts"] == 1
    assert not torch.equal(one.suspicion, result.suspicion)
    again = []
    run_rounds(data, model, RECIPE, labels=GIVEN, on_round=again.append, folder=tmp_path)
    assert not again  # resumed at its end


def test_a_run_folder_holds_every_scout(never_narrow, tmp_path):
    out = tmp_path / "run"
    arguments = [
        "train",
        "--data",
        "digits",
        "--recipe",
        "default",
        "--out",
        str(out),
        "--rounds",
        "1",
    ]
    arguments += ["--first-epochs", "10", "--final-epochs", "1", "--scouts", "2", "--quiet"]
    assert main([*arguments, "--method", "mild-rounds"]) == 0
    status = LearningStatus.load(out / "status" / "scout-1.safetensors")
    planted = PlantedLabels.load(out / "planted" / "scout-1.safetensors")
    assert status.num_epochs == 10
    settings = json.loads((out / "config.json").read_text())["settings"]
    assert settings["recipe"]["batch_size"] == 32
    assert set(settings["chosen"]) == {
        *("rounds", "first_epochs", "final_epochs", "scouts", "method")
    }
    first = PlantedLabels.load(out / "planted" / "round-00.safetensors")
    assert not (first.mask & planted.mask).any()
