"""The rounds: they find wrong labels, stop for a reason, never collapse, and can be resumed."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.selection.quality import evaluate_selection
from mild_ext.training import CheckpointError, Recipe, run_result
from mild_ext.training import run_rounds as rounds
from mild_ext.training.checkpoint import load_checkpoint, save_checkpoint
from mild_ext.training.models import build_model
from mild_ext.training.run_rounds import RoundsResult, run_rounds

COUNT = 600
TRUE = torch.arange(COUNT) % 4
INPUTS = (
    torch.randn(COUNT, 12, generator=torch.Generator().manual_seed(0))
    + 3.5 * torch.eye(4, 12)[TRUE]
)
GIVEN = corrupt_labels(TRUE, "symmetric:0.5", 4, seed=0).labels
DATA = ArrayDataset(INPUTS, TRUE)
TEST = ArrayDataset(INPUTS + 0.3, TRUE)
RECIPE = Recipe(
    model="mlp", width=32, rounds=3, first_epochs=20, round_epochs=8, final_epochs=5, lr=0.05,
    reselect="kept", round_start="continue",
    batch_size=32,
)  # fmt: skip


def factory():
    return build_model("mlp", (12,), 4, width=32)


def run(recipe=RECIPE, **options):
    options = {"labels": GIVEN, "true_labels": TRUE, "test": TEST} | options
    return run_rounds(options.pop("dataset", DATA), factory, recipe, **options)


def forced_selection(monkeypatch, masks):
    """Replace the selection of each round by a given mask."""
    masks = iter(masks)
    original = rounds.select_clean

    def select(status, *arguments, **options):
        selection = original(status, *arguments, **options)
        mask = next(masks)
        if mask is None:
            return dataclasses.replace(selection, supported=False, reason="no two groups")
        return dataclasses.replace(selection, mask=mask, supported=True)

    monkeypatch.setattr(rounds, "select_clean", select)


@pytest.fixture(scope="module")
def result():
    return run()


def test_it_finds_the_wrong_labels_and_trains_a_better_model(result):
    quality = evaluate_selection(result.kept, GIVEN == TRUE).record()
    assert quality["f1"] > 0.9
    assert quality["noise_removed"] > 0.85  # the rate of 58 planted samples is a few points off
    first = result.rounds[0]
    assert first["trained_on"] == COUNT
    assert first["kept"] == COUNT - first["removed"]
    assert first["f1"] > 0.9
    assert result.rounds[-1]["kept"] == int(result.kept.sum())
    with torch.no_grad():
        assert (result.model(INPUTS).argmax(1) == TRUE).double().mean() > 0.9


def test_every_sample_has_its_evidence_and_its_round(result):
    assert ((result.round_dropped >= 0) == ~result.kept).all()
    assert (result.misclassified <= result.seen).all()
    assert torch.equal(result.metric, 2 * result.misclassified - result.seen)
    epochs = [r["epochs"] for r in result.rounds]
    for sample in range(COUNT):
        dropped = int(result.round_dropped[sample])
        assert result.seen[sample] == epochs[dropped if dropped >= 0 else -1]
    histogram = result.rounds[0]["histogram"]
    assert sum(count for _, _, count in histogram) == COUNT


@pytest.mark.slow
def test_same_seed_same_result(result):
    again = run()
    assert torch.equal(result.kept, again.kept)
    for a, b in zip(result.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(result.clean_probability, run(seed=1).clean_probability)


def test_true_labels_and_test_set_are_for_the_report_only(result):
    blind = run(true_labels=None, test=None)
    assert torch.equal(result.kept, blind.kept)
    assert "f1" not in blind.rounds[0]
    assert "test_accuracy" not in blind.rounds[0]


@pytest.mark.slow
def test_any_map_style_dataset(result):
    class Plain(Dataset):
        def __len__(self):
            return COUNT

        def __getitem__(self, index):
            return INPUTS[index], int(GIVEN[index])

    plain = run(dataset=Plain(), labels=None)
    assert torch.equal(result.kept, plain.kept)


def test_samples_outside_train_ids_are_never_touched():
    ids = torch.arange(0, COUNT, 2)
    result = run(train_ids=ids)
    assert not result.kept[1::2].any()
    assert not result.seen[1::2].any()
    assert (result.round_dropped[1::2] == -1).all()
    assert result.rounds[0]["trained_on"] == COUNT // 2


def test_result_survives_a_round_trip(result, tmp_path):
    result.save(tmp_path / "r.safetensors")
    loaded = RoundsResult.load(tmp_path / "r.safetensors")
    for name in run_result.TENSORS:
        assert torch.equal(getattr(result, name), getattr(loaded, name))
    assert loaded.noise_rate == result.noise_rate
    assert loaded.rounds == result.rounds
    assert loaded.stop_reason == result.stop_reason


def test_foreign_result_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "r.safetensors")
    with pytest.raises(ValueError, match="is no result"):
        RoundsResult.load(tmp_path / "r.safetensors")


# ------------------------------------------------------------------------------------ stop rules


def test_unsupported_mixture_keeps_everything_and_stops(monkeypatch):
    forced_selection(monkeypatch, [None])
    result = run()
    assert result.kept.all()
    assert result.stop_reason == "no two groups"
    assert len(result.rounds) == 1


def test_a_round_that_drops_little_is_the_last(monkeypatch):
    most = torch.ones(COUNT, dtype=torch.bool)
    most[:3] = False
    forced_selection(monkeypatch, [most])
    result = run()
    assert len(result.rounds) == 1
    assert int(result.kept.sum()) == COUNT - 3
    assert "changed the fate of 3 samples" in result.stop_reason


@pytest.mark.slow
def test_all_rounds_done(monkeypatch):
    masks = [torch.arange(COUNT) % 10 > k for k in range(3)]
    forced_selection(monkeypatch, masks)
    result = run()
    assert [r["kept"] for r in result.rounds] == [540, 480, 420]
    assert result.round_dropped[:4].tolist() == [0, 1, 2, -1]
    assert "3 rounds are done" in result.stop_reason


@pytest.mark.parametrize(
    ("mask", "reason"),
    [
        (torch.zeros(COUNT, dtype=torch.bool), "would keep 0 of 600"),
        (torch.arange(COUNT) < 20, "would keep 20 of 600"),
        (GIVEN != 2, "would empty class 2"),
    ],
)
def test_a_selection_that_would_collapse_is_refused(monkeypatch, mask, reason):
    forced_selection(monkeypatch, [mask])
    result = run()
    assert result.kept.all()
    assert reason in result.stop_reason


@pytest.mark.slow
def test_dropped_samples_return_only_when_asked(monkeypatch):
    first = torch.arange(COUNT) % 2 == 0
    back = torch.arange(COUNT) % 4 < 3
    for reselect, kept in (("kept", first & back), ("all", back)):
        forced_selection(monkeypatch, [first, back])
        result = run(RECIPE.override({"reselect": reselect, "rounds": 2}))
        assert torch.equal(result.kept, kept)
        assert (result.round_dropped[result.kept] == -1).all()
        assert (result.seen == 8).all() == (reselect == "all")
        monkeypatch.undo()


@pytest.mark.slow
def test_a_later_round_can_start_afresh(monkeypatch):
    """With fresh weights it has to learn again what a round that continues knows from the start."""
    half = torch.arange(COUNT) % 2 == 0
    errors = {}
    for start in ("continue", "scratch"):
        forced_selection(monkeypatch, [half, half])
        statuses = []
        recipe = RECIPE.override({"round_start": start, "rounds": 2, "plant": 0.0})
        run(recipe, on_round=lambda done, to=statuses: to.append(done.status))
        errors[start] = [int(s.compute(slice(0, 1)).misclassified[half].sum()) for s in statuses]
        monkeypatch.undo()
    assert errors["continue"][0] == errors["scratch"][0]
    assert errors["continue"][1] < 0.7 * errors["scratch"][1]


# -------------------------------------------------------------------------------- degenerate input


@pytest.mark.parametrize(
    ("given", "inputs"),
    [
        (torch.zeros(50, dtype=torch.int64), INPUTS[:50]),  # one class
        (torch.arange(10) % 2, INPUTS[:10]),  # ten samples
        (torch.zeros(1, dtype=torch.int64), INPUTS[:1]),  # one sample
        (TRUE, INPUTS),  # no noise
        (corrupt_labels(TRUE, "symmetric-other:1", 4).labels, INPUTS),  # nothing but noise
        (torch.arange(COUNT) % 4, torch.zeros(COUNT, 12)),  # nothing to learn from
    ],
)
@pytest.mark.parametrize("epochs", [1, 6])
def test_degenerate_data_gives_a_selection_with_a_reason(given, inputs, epochs):
    recipe = RECIPE.override({"first_epochs": epochs, "round_epochs": 3, "rounds": 2})
    result = run_rounds(ArrayDataset(inputs, given), factory, recipe)
    assert result.kept.any()
    assert set(given[result.kept].tolist()) == set(given.tolist())
    assert result.stop_reason
    assert torch.isfinite(result.clean_probability).all()


def test_no_samples_and_labels_that_do_not_fit():
    with pytest.raises(ValueError, match="no samples"):
        run(train_ids=torch.tensor([], dtype=torch.int64))
    with pytest.raises(ValueError, match="length 600"):
        run(labels=GIVEN[:10])


# ------------------------------------------------------------------------------------------ resume


class Killed(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"reselect": "all", "round_start": "scratch"}], ids=["continue", "scratch"]
)
def test_killed_anywhere_and_resumed_it_ends_the_same(settings, tmp_path):
    """Kill after every third record, each time going on in the folder the kill before left."""
    recipe = RECIPE.override(settings)
    logs, whole_logs = {}, []
    result = run(recipe, learning_logs=True, on_round=lambda done: whole_logs.append(done.log))
    total = len(result.history)

    def go_on(on_record):
        return run(
            recipe,
            folder=tmp_path,
            checkpoint_seconds=0.0,
            on_record=on_record,
            learning_logs=True,
            on_round=lambda done: logs.update({done.number: done.log}),
        )

    for reached in range(0, total, 3):
        seen = []

        def kill(record, seen=seen, reached=reached):
            seen.append(record)
            if len(seen) > reached:
                raise Killed

        with pytest.raises(Killed):
            go_on(kill)
    records = []
    resumed = go_on(records.append)

    def without_time(history):
        return [{k: v for k, v in record.items() if k != "seconds"} for record in history]

    assert without_time(records) == without_time(result.history)
    assert without_time(resumed.history) == without_time(result.history)
    assert result.noise_rate.measured
    for name in run_result.TENSORS:
        assert torch.equal(getattr(result, name), getattr(resumed, name))
    for a, b in zip(result.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert list(logs) == list(range(len(whole_logs)))
    for log, whole in zip(logs.values(), whole_logs, strict=True):
        for name in ("memorized", "given_label", "true_label", "loss", "margin", "ids"):
            a, b = getattr(log, name), getattr(whole, name)
            assert (a is None and b is None) or np.array_equal(a, b), name
        assert np.array_equal(log.margin > 0, log.memorized)


def test_a_checkpoint_without_learning_logs_cannot_go_on_with_them(tmp_path):
    records = []

    def kill(record):
        records.append(record)
        if len(records) > 3:
            raise Killed

    with pytest.raises(Killed):
        run(folder=tmp_path, checkpoint_seconds=0.0, on_record=kill)
    with pytest.raises(CheckpointError, match="saved without learning logs"):
        run(folder=tmp_path, learning_logs=True)


def test_folder_of_another_run_is_refused(tmp_path):
    run(folder=tmp_path)
    with pytest.raises(CheckpointError, match="other settings or data"):
        run(folder=tmp_path, seed=1)


def test_a_checkpoint_of_another_version_is_refused(tmp_path):
    run(folder=tmp_path)
    path = tmp_path / "rounds.safetensors"
    checkpoint = load_checkpoint(path)
    checkpoint["state"]["format"] = "mild_ext-rounds-state-0"
    save_checkpoint(path, checkpoint)
    with pytest.raises(CheckpointError, match=r"cannot go on from .*got 'mild_ext-rounds-state-0'"):
        run(folder=tmp_path)


# ----------------------------------------------------------------------------------------- quality
