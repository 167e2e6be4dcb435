"""The figures of every epoch and round are in the loggers that the frameworks have."""

from __future__ import annotations

import csv
import json
import os

import pytest
import torch
from noisy import CLASSES, NUM_SAMPLES, Noisy, keep_even, make_model, make_optimizer, plain_loop
from torch.nn import functional as F
from torch.utils.data import DataLoader

from mild_ext import Recipe, run_rounds
from mild_ext.data import ArrayDataset
from mild_ext.integrations import RoundTracker
from mild_ext.rounds import epoch_figures

EPOCHS = ["mild_ext/memorized", "mild_ext/prediction_changes"]
ROUND = [
    *("mild_ext/dropped", "mild_ext/kept"),
    *("mild_ext/noise_rate", "mild_ext/noise_rate_low", "mild_ext/noise_rate_high"),
]
OPTIONS = {"num_classes": CLASSES, "record": "classes", "min_removed": 0.0}


def figures_of(rounds, epochs, **options):
    """Figures after each epoch of a plain loop, and its tracker."""
    found = []

    class Watched(RoundTracker):
        def end_epoch(self):
            outcome = super().end_epoch()
            found.append(self.figures())
            return outcome

    original, plain_loop.__globals__["RoundTracker"] = RoundTracker, Watched
    try:
        tracker = plain_loop(rounds, epochs, **options)
    finally:
        plain_loop.__globals__["RoundTracker"] = original
    return found, tracker


@pytest.fixture(scope="module")
def expected():
    return figures_of([8, 3], 12, **OPTIONS)[0]


def test_figures_are_those_of_the_status_and_the_selection():
    found, tracker = figures_of([8], 9, **OPTIONS)
    status, selection = tracker.status, tracker.selections[0]
    predicted = [status.predictions(t) for t in range(8)]
    for t in range(8):
        right = (predicted[t] == Noisy().labels).float().mean()
        assert found[t]["mild_ext/memorized"] == pytest.approx(float(right))
        changed = 0 if t == 0 else int((predicted[t] != predicted[t - 1]).sum())
        assert found[t]["mild_ext/prediction_changes"] == changed
        assert list(found[t]) == EPOCHS + (ROUND if t == 7 else [])
    rate = selection.noise_rate
    assert [found[7][name] for name in ROUND[2:]] == [rate.rate, rate.low, rate.high]
    assert found[7]["mild_ext/dropped"] == NUM_SAMPLES - selection.num_kept > 0
    assert found[7]["mild_ext/kept"] == selection.num_kept
    assert found[8] == {}  # nothing is recorded any more
    assert tracker.figures() == {}
    assert RoundTracker(4, [2]).figures() == {}


def test_of_the_samples_seen_in_the_epoch_only():
    tracker = RoundTracker(4, [3])
    tracker.update(torch.tensor([0, 1, 2]), torch.eye(2)[[0, 0, 1]], torch.tensor([0, 1, 1]))
    tracker.end_epoch()
    assert tracker.figures() == {"mild_ext/memorized": pytest.approx(2 / 3)}
    tracker.update(torch.tensor([3]), torch.eye(2)[[1]], torch.tensor([0]))
    assert tracker.figures() == {"mild_ext/memorized": pytest.approx(2 / 3)}  # amid an epoch
    tracker.end_epoch()
    assert tracker.figures() == {"mild_ext/memorized": 0.0}
    other = RoundTracker(4, [3])
    other.load_state_dict(tracker.state_dict())
    assert other.figures() == {"mild_ext/memorized": 0.0}
    tracker.status.reset()
    tracker.status.advance()
    assert epoch_figures(tracker.status) == {}


def test_our_own_loop_has_them_in_its_records():
    data = Noisy()
    recipe = Recipe(
        *("auto", "none"), rounds=1, first_epochs=4, final_epochs=1, plant=0.0, record="classes"
    )  # fmt: skip
    statuses = []
    result = run_rounds(
        ArrayDataset(data.inputs, data.labels), make_model, recipe, on_round=statuses.append
    )
    epochs = [record for record in result.history if record["type"] == "epoch"]
    for t, record in enumerate(epochs[:4]):
        counts = statuses[0].status.histogram(slice(t, t + 1))
        assert record["memorized"] == pytest.approx(int(counts[0, 1]) / NUM_SAMPLES)
    wave = statuses[0].status.label_wave().tolist()
    assert [record["prediction_changes"] for record in epochs[:4]] == wave
    assert "memorized" not in epochs[4]
    json.dumps(result.history)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
@pytest.mark.filterwarnings("ignore:.*smaller than the logging interval.*")
def test_lightnings_logger(expected, tmp_path):
    pl = pytest.importorskip("lightning.pytorch")
    from lightning.pytorch.loggers import CSVLogger

    from mild_ext.integrations.lightning import MILDCallback

    class Classifier(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = make_model()

        def training_step(self, batch, batch_idx):
            logits = self.model(batch[1])
            loss = F.cross_entropy(logits, batch[2])
            return {"loss": loss, "index": batch[0], "logits": logits, "labels": batch[2]}

        def configure_optimizers(self):
            return make_optimizer(self.model)

    callback = MILDCallback(NUM_SAMPLES, [8, 3], seed=5, **OPTIONS)
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = pl.Trainer(
        *(), max_epochs=12, callbacks=[callback], logger=logger, accelerator="cpu", devices=1,
        default_root_dir=tmp_path, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Classifier(), DataLoader(Noisy(), 32, sampler=callback.sampler()))
    with open(tmp_path / "metrics.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["mild_ext/memorized"]]
    assert [int(row["epoch"]) for row in rows] == list(range(11))
    for row, figures in zip(rows, expected, strict=False):
        found = {name: float(value) for name, value in row.items() if "mild" in name and value}
        assert found == pytest.approx(figures, rel=1e-5)
    assert float(trainer.callback_metrics["mild_ext/noise_rate"]) > 0


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_the_trainers_log(tmp_path):
    pytest.importorskip("transformers")
    from texts import make_trainer

    options = {"tracker_options": {"select": keep_even, "record": "classes", "num_classes": 3}}
    trainer = make_trainer(tmp_path, rounds=[3, 2], logging_strategy="epoch", **options)
    tracker, seen = trainer.mild, []
    trainer.train_rounds()
    seen = [log for log in trainer.state.log_history if "mild_ext/memorized" in log]
    assert [log["epoch"] for log in seen] == [1.0, 2.0]  # of the last train()
    assert "mild_ext/kept" not in seen[0]
    assert seen[1]["mild_ext/kept"] == tracker.kept.sum()
    assert set(seen[1]) == {*EPOCHS, *ROUND[:2], "epoch", "step"}
    last = epoch_figures(tracker.status)
    assert {f"mild_ext/{k}": v for k, v in last.items()}.items() <= seen[1].items()
    trainer.train()
    assert not any("mild_ext/memorized" in log for log in trainer.state.log_history)
    quiet = make_trainer(tmp_path, rounds=[2], **options)
    quiet.train()
    assert not any("mild_ext/memorized" in log for log in quiet.state.log_history)


def test_accelerates_trackers(expected, tmp_path):
    accelerate = pytest.importorskip("accelerate")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    os.environ["OMP_NUM_THREADS"] = "1"  # Accelerate warns, and sets it, where it is not set
    accelerator = accelerate.Accelerator(
        cpu=True, log_with="tensorboard", project_dir=str(tmp_path)
    )
    accelerator.init_trackers("rounds")
    tracker = RoundTracker(NUM_SAMPLES, [8, 3], seed=5, **OPTIONS)
    loader = DataLoader(Noisy(), 32, sampler=tracker.sampler(num_replicas=1))
    model = make_model()
    model, optimizer, loader = accelerator.prepare(model, make_optimizer(model), loader)
    for _ in range(12):
        for index, inputs, labels in loader:
            logits = model(inputs)
            tracker.update(index, logits, labels)
            optimizer.zero_grad()
            accelerator.backward(F.cross_entropy(logits, labels))
            optimizer.step()
        if tracker.end_epoch() is not None:
            optimizer = accelerator.prepare(make_optimizer(model))
        accelerator.log(tracker.figures(), step=tracker.epochs)
    accelerator.end_training()
    log = EventAccumulator(str(tmp_path / "rounds")).Reload()
    for name in EPOCHS + ROUND:
        values = {event.step: event.value for event in log.Scalars(name)}
        there = {t + 1: figures[name] for t, figures in enumerate(expected) if name in figures}
        assert values == pytest.approx(there)
