"""The single training on posterior targets: what it finds, that nothing wrong costs nothing, and that it resumes."""

import pytest
import torch

from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.training import Recipe, RunContext, accuracy, fit
from mild_ext.training.experiment import RunSettings
from mild_ext.training.models import build_model
from mild_ext.training.run_posterior import STAGE, run_posterior
from mild_ext.training.run_result import TENSORS, fresh_model

pytestmark = pytest.mark.slow

GENERATOR = torch.Generator().manual_seed(0)
TRUE = torch.arange(900) % 4
INPUTS = torch.randn(900, 12, generator=GENERATOR) + 2 * torch.eye(4, 12)[TRUE]
TRAIN, TEST = ArrayDataset(INPUTS[:600], TRUE[:600]), ArrayDataset(INPUTS[600:], TRUE[600:])
GIVEN = corrupt_labels(TRUE[:600], "symmetric:0.5", 4, seed=0).labels
RECIPE = Recipe(
    model="mlp", width=128, batch_size=32, lr=0.05, weight_decay=0.0, first_epochs=20,
    final_epochs=20, plant=0.1,
)  # fmt: skip


def factory():
    return build_model("mlp", (12,), 4, width=128)


def run(recipe=RECIPE, labels=GIVEN, **options):
    return run_posterior(TRAIN, factory, recipe, labels=labels, num_classes=4, **options)


def plain(labels, stage, recipe=RECIPE):
    model = fresh_model(factory, 0)
    fit(model, TRAIN, labels, recipe, RunContext(), epochs=40, stage=stage)
    return model


def test_it_finds_the_wrong_labels_and_resists_them():
    result = run(true_labels=TRUE[:600], test=TEST)
    (record,) = result.rounds
    assert 10 <= record["epochs"] < 40
    assert record["f1"] > 0.8
    assert record["noise_rate"]["measured"]
    assert len([r for r in result.history if r["type"] == "epoch"]) == 40
    assert {r["stage"] for r in result.history if r["type"] == "epoch"} == {STAGE}
    assert accuracy(result.model, TEST) > accuracy(plain(GIVEN, STAGE), TEST) + 0.1


def test_a_rate_of_zero_is_ordinary_training_bit_for_bit(monkeypatch):
    """From the labels of the first epochs on: the same weights as a training that learns these, then the given."""
    result = run(labels=TRUE[:600])
    (record,) = result.rounds
    assert record["kept"] == 600
    began = record["epochs"]

    class Switch:
        """Planted labels at first, then the given ones."""

        def start_epoch(self, epoch, epochs, generator):
            self.epoch = epoch

        def __call__(self, model, index, inputs, labels):
            logits = model(inputs)
            right = labels if self.epoch < began else TRUE[:600][index]
            return torch.nn.functional.cross_entropy(logits, right), logits

        def end_epoch(self):
            pass

    planted = []
    run(labels=TRUE[:600], on_round=lambda done: planted.append(done.planted.labels))
    model = fresh_model(factory, 0)
    fit(
        model, TRAIN, planted[0], RECIPE, RunContext(), epochs=40, stage=STAGE, objective=Switch()
    )  # fmt: skip
    for mine, theirs in zip(result.model.parameters(), model.parameters(), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize(
    "settings", [{"plant": 0.0}, {"rule": "quantile", "level": 0.6, "plant": 0.0}]
)
def test_without_planted_labels_the_counts_decide_after_a_third(settings):
    result = run(RECIPE.override(settings))
    (record,) = result.rounds
    assert record["planted"] == 0
    assert record["epochs"] == 13
    assert 0 < record["kept"] < 600
    assert torch.isfinite(torch.cat([p.flatten() for p in result.model.parameters()])).all()


def test_samples_held_out_are_neither_planted_nor_dropped():
    ids = torch.arange(0, 600, 2)
    planted = []
    result = run(train_ids=ids, on_round=lambda done: planted.append(done.planted.index))
    assert not result.kept[1::2].any()
    assert (planted[0] % 2 == 0).all()
    assert (result.seen[1::2] == 0).all()


class Killed(Exception):
    pass


def test_killed_anywhere_and_resumed_it_ends_the_same(tmp_path):
    logs, whole_logs = [], []
    result = run(learning_logs=True, on_round=lambda done: whole_logs.append(done.log))
    total = len(result.history)
    assert total == 41
    (record,) = result.rounds
    assert whole_logs[0].num_epochs == record["epochs"]

    def go_on(on_record):
        return run(
            folder=tmp_path,
            checkpoint_seconds=0.0,
            on_record=on_record,
            learning_logs=True,
            on_round=lambda done: logs.append(done.log),
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
    assert resumed.rounds == result.rounds
    for name in TENSORS:
        assert torch.equal(getattr(result, name), getattr(resumed, name))
    for a, b in zip(result.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert len(logs) >= 1


def test_what_a_killed_writer_left_half_written_is_swept(tmp_path):
    half = tmp_path / ".training.safetensors.1-a.partial"
    half.write_bytes(b"half a checkpoint")
    run(RECIPE.override({"first_epochs": 1, "final_epochs": 1}), folder=tmp_path)
    assert not half.exists()


def test_a_run_of_before_there_was_a_choice_is_one_of_rounds():
    recipe = Recipe(method="mild-rounds").to_dict()
    del recipe["method"]
    settings = RunSettings(
        data="digits", noise="none", seed=0, test_fraction=0.0, compare=True, device="cpu", threads=1,
        recipe_name="digits", recipe=Recipe(),
    )  # fmt: skip
    old = RunSettings.from_dict(settings.to_dict() | {"recipe": recipe})
    assert old.recipe.method == "mild-rounds"
    assert '"method"' not in old.fingerprint()
    assert '"method": "mild"' in settings.fingerprint()
