"""Whoever feeds them the same outcomes, the rounds end with the same samples kept, for the same reason.

The model recites: its logits for a sample depend on the sample and on how often it was asked in
training, whatever the order of the batches and whatever was learned. So every driver sees the same
learning, and differences could only come from how it selects, refuses and stops.
"""

from __future__ import annotations

import dataclasses
import inspect
import os

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from mild_ext import IndexedDataset, Recipe, run_rounds, select_clean
from mild_ext.data import ArrayDataset
from mild_ext.integrations import RoundTracker

COUNT, CLASSES = 900, 3
TRUE = torch.arange(COUNT) % CLASSES
FIELDS = (
    *("kept", "round_dropped", "misclassified", "seen", "clean_probability"),
    *("suspicion", "suggested_label", "suggestion_confidence"),
)
PLANTING = {"plant": 0.05, "num_classes": CLASSES}


class Reciting(nn.Module):
    """Inputs are ids ``[B, 1]``; says ``script[i, v]`` about sample i at the v-th visit in training."""

    def __init__(self, script):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))
        self.script = script
        self.visits = torch.zeros(COUNT, dtype=torch.int64)

    def forward(self, inputs):
        ids = inputs[:, 0].round().long()
        said = self.script[ids, self.visits[ids]]
        if self.training:
            self.visits[ids] += 1
        return nn.functional.one_hot(said, CLASSES) + 0 * self.nothing


def scenario(name):
    """Given labels, and what a model says of each sample at each visit, all rounds in a row."""
    generator = torch.Generator().manual_seed(7)

    def uniform():
        return torch.rand(COUNT, generator=generator)

    def exponential(mean):
        return (-mean * uniform().log()).long()

    wrong, late = uniform() < 0.3, torch.zeros(COUNT, dtype=torch.bool)
    if name == "second wave":  # some wrong labels are learned early, and show in the next round
        late = wrong & (uniform() < 0.3)
    elif name == "one class is hard":  # which only the labels can tell from wrong labels
        wrong = (TRUE == 1) & (uniform() < 0.4)
    elif name == "no noise":
        wrong = wrong & False
    given = torch.where(wrong, (TRUE + 2) % CLASSES, TRUE)
    slow = wrong & ~late | (TRUE == 2) & (name == "one class is hard")
    first = torch.where(slow, 8 + exponential(3), exponential(1.5))
    again = torch.where(late, 4 + exponential(2), exponential(0.3))
    epochs = torch.arange(sum(ROUNDS))
    right = torch.where(
        epochs < ROUNDS[0], epochs >= first[:, None], epochs - ROUNDS[0] >= again[:, None]
    )
    return given, torch.where(right, given[:, None], ((given + 1) % CLASSES)[:, None])


ROUNDS = [14, 6, 6]
SCENARIOS = ("second wave", "one class is hard", "no noise")


# ------------------------------------------------------------------------------------- the drivers


def by_run_rounds(given, model, *, seed=0, plant=0.0, **recipe):
    """What the others are compared with."""
    recipe = Recipe(
        first_epochs=ROUNDS[0], round_epochs=ROUNDS[1], rounds=len(ROUNDS), final_epochs=0,
        batch_size=64, augment="none", plant=plant, reselect="kept", round_start="continue",
    ).override(recipe)  # fmt: skip
    ids = torch.arange(COUNT).float()[:, None]
    return run_rounds(ArrayDataset(ids, given), lambda: model, recipe, seed=seed)


def indexed(given, tracker):
    labels = tracker.training_labels if tracker.plants else None
    return IndexedDataset(ArrayDataset(torch.arange(COUNT).float()[:, None], given), labels)


def by_a_plain_loop(given, model, **options):
    tracker = RoundTracker(COUNT, ROUNDS, **options)
    loader = DataLoader(indexed(given, tracker), 64, sampler=tracker.sampler())
    model.train()
    while not tracker.finished:
        for index, batch, labels in loader:
            tracker.update(index, model(batch), labels)
        tracker.end_epoch()
    return tracker


def by_a_plain_loop_with_labels(given, model, **options):
    return by_a_plain_loop(given, model, labels=given, **options)


def by_lightning(given, model, **options):
    pl = pytest.importorskip("lightning.pytorch")
    from mild_ext.integrations.lightning import MILDCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.model = model

        def training_step(self, batch, batch_idx):
            return self.model(batch[1]).sum()

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), lr=0.1)

    mild = MILDCallback(COUNT, ROUNDS, index=0, labels=2, logits="model", **options)
    trainer = pl.Trainer(
        max_epochs=sum(ROUNDS), callbacks=[mild], accelerator="cpu", devices=1, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Module(), DataLoader(indexed(given, mild.tracker), 64, sampler=mild.sampler()))
    return mild.tracker


def by_transformers(given, model, **options):
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from mild_ext.integrations.transformers import MILDTrainer

    class Module(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, ids, labels=None):
            logits = self.model(ids)
            return {"loss": logits.sum(), "logits": logits}

    items = [{"ids": [float(i)], "labels": int(label)} for i, label in enumerate(given)]
    trainer = MILDTrainer(
        model=Module(),
        args=transformers.TrainingArguments(
            output_dir=options.pop("folder"), per_device_train_batch_size=64, save_strategy="no",
            report_to=[], disable_tqdm=True, use_cpu=True, logging_strategy="no",
            dataloader_pin_memory=False,
        ),
        train_dataset=items,
        tracker=RoundTracker(COUNT, ROUNDS, **options),
    )  # fmt: skip
    trainer.train_rounds()
    return trainer.mild


def by_accelerate(given, model, **options):
    accelerate = pytest.importorskip("accelerate")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    accelerator = accelerate.Accelerator(cpu=True)
    tracker = RoundTracker(COUNT, ROUNDS, **options)
    loader = DataLoader(indexed(given, tracker), 64, sampler=tracker.sampler(num_replicas=1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(model.train(), optimizer, loader)
    while not tracker.finished:
        for index, batch, labels in loader:
            logits = model(batch)
            tracker.update(index, logits, labels)
            accelerator.backward(logits.sum())
            optimizer.step()
        tracker.end_epoch()
    return tracker


def by_scikit_learn(given, model, monkeypatch, plant=0.0):
    pytest.importorskip("sklearn", minversion="1.6")
    from mild_ext.integrations import sklearn as module

    monkeypatch.setattr(module, "build_model", lambda *args, **options: model)
    settings = {"first_epochs": ROUNDS[0], "round_epochs": ROUNDS[1], "final_epochs": 0}
    classifier = module.MILDClassifier(
        rounds=len(ROUNDS),
        **settings,
        batch_size=64,
        plant=plant,
        random_state=0,
        reselect="kept",
        round_start="continue",
    )
    ids = np.arange(COUNT, dtype=np.float32)[:, None]
    classifier.fit(ids, given.numpy())
    return classifier


# --------------------------------------------------------------------------------------- the tests


@pytest.fixture(scope="module")
def expected():
    cache = {}

    def of(name):
        if name not in cache:
            cache[name] = by_run_rounds(*_model(name))
        return cache[name]

    return of


def assert_same(result, expected):
    for field in FIELDS:
        assert torch.equal(getattr(result, field), getattr(expected, field)), field
    assert result.stop_reason == expected.stop_reason


def test_the_scenarios_are_worth_the_name(expected):
    """There is something to find in two of them, in more than one round, or only with the labels."""
    for name in SCENARIOS[:2]:
        wrong, kept = scenario(name)[0] != TRUE, expected(name).kept
        assert wrong[~kept].float().mean() > 0.9, name
        assert (~kept)[wrong].float().mean() > 0.75, name
    assert set(expected("second wave").round_dropped.tolist()) == {-1, 0, 1}
    assert expected("no noise").kept.all()
    blind = by_a_plain_loop(
        *_model("one class is hard"), select=lambda status, *, labels: select_clean(status)
    )
    assert "would empty class 2" in blind.stop_reason


def _model(name):
    given, script = scenario(name)
    return given, Reciting(script)


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("drive", [by_a_plain_loop, by_a_plain_loop_with_labels])
def test_a_plain_loop(name, drive, expected):
    assert_same(drive(*_model(name)), expected(name))


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*logging interval.*")
@pytest.mark.parametrize("name", SCENARIOS)
def test_lightning(name, expected):
    assert_same(by_lightning(*_model(name)), expected(name))


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
@pytest.mark.parametrize("name", SCENARIOS)
def test_transformers(name, expected, tmp_path):
    assert_same(by_transformers(*_model(name), folder=str(tmp_path)), expected(name))


@pytest.mark.parametrize("name", SCENARIOS)
def test_accelerate(name, expected):
    assert_same(by_accelerate(*_model(name)), expected(name))


@pytest.mark.parametrize("name", SCENARIOS)
def test_scikit_learn(name, expected, monkeypatch):
    classifier = by_scikit_learn(*_model(name), monkeypatch)
    np.testing.assert_array_equal(classifier.kept_, expected(name).kept.numpy())
    np.testing.assert_array_equal(
        classifier.clean_probability_, expected(name).clean_probability.numpy()
    )
    assert classifier.stop_reason_ == expected(name).stop_reason


# ----------------------------------------------------------------------------------- planted labels


@pytest.fixture(scope="module")
def planted():
    return by_run_rounds(*_model("second wave"), plant=0.05)


def test_planting_is_worth_the_name(planted):
    wrong = scenario("second wave")[0] != TRUE
    assert planted.rounds[0]["planted"] == 88  # a tenth of each class, rounded down
    assert planted.rounds[1]["planted"] > 10
    assert planted.noise_rate.measured
    assert (~planted.kept)[wrong].float().mean() > 0.5
    assert (planted.suggested_label >= 0).any()


def test_a_plain_loop_with_planting(planted):
    given, model = _model("second wave")
    assert_same(by_a_plain_loop_with_labels(given, model, **PLANTING), planted)


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*")
@pytest.mark.filterwarnings("ignore:.*logging interval.*")
def test_lightning_with_planting(planted):
    given, model = _model("second wave")
    assert_same(by_lightning(given, model, given_labels=given, **PLANTING), planted)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_transformers_with_planting(planted, tmp_path):
    given, model = _model("second wave")
    options = PLANTING | {"labels": given, "folder": str(tmp_path)}
    assert_same(by_transformers(given, model, **options), planted)


def test_accelerate_with_planting(planted):
    given, model = _model("second wave")
    assert_same(by_accelerate(given, model, labels=given, **PLANTING), planted)


def test_scikit_learn_with_planting(monkeypatch):
    classifier = by_scikit_learn(*_model("second wave"), monkeypatch, plant=0.05)
    seed = int(np.random.RandomState(0).randint(2**31 - 1))
    planted = by_run_rounds(*_model("second wave"), plant=0.05, seed=seed)
    np.testing.assert_array_equal(classifier.kept_, planted.kept.numpy())
    np.testing.assert_array_equal(classifier.suspicion_, planted.suspicion.numpy())
    assert classifier.noise_rate_ == planted.noise_rate.rate


def test_the_defaults_are_the_recipes():
    recipe, settings = Recipe(), inspect.signature(RoundTracker).parameters
    assert settings["min_removed"].default == recipe.min_removed
    # Where the loop is the user's, so is the model, which goes on from round to round.
    assert settings["reselect"].default == "kept"
    rule = inspect.signature(select_clean).parameters
    for name in ("rule", "level"):
        assert rule[name].default == getattr(recipe, name)


# ------------------------------------------------------------- every refusal and stop, both drivers

EVERYONE = torch.ones(COUNT, dtype=torch.bool)
SHARES = [torch.arange(COUNT) % 10 > k for k in range(3)]


def forced(masks):
    """Selections with these masks in turn; None is one that is not supported."""
    masks = iter(masks)

    def select(status, **options):
        selection, mask = select_clean(status, **options), next(masks)
        if mask is None:
            return dataclasses.replace(selection, supported=False, reason="no two groups")
        return dataclasses.replace(selection, mask=mask, supported=True)

    return select


@pytest.mark.parametrize(
    ("masks", "options", "reason"),
    [
        ([None], {}, "no two groups"),
        ([EVERYONE & False], {}, "would keep 0 of 900 samples, less than a share of 0.05"),
        ([torch.arange(COUNT) < 30], {}, "would keep 30 of 900"),
        ([SHARES[0], "not class 2"], {}, "would empty class 2: everything was kept instead"),
        ([torch.arange(COUNT) > 3], {}, "changed the fate of 4 samples, less than a share of 0.01"),
        (SHARES, {}, "the recipe's 3 rounds are done"),
        (SHARES[1:], {"min_removed": 0.15}, "round 1 changed the fate of 90 samples"),
        ([SHARES[2], *SHARES[:2]], {"reselect": "all"}, "3 rounds are done"),
        ([SHARES[2], SHARES[2]], {"reselect": "all"}, "changed the fate of 0 samples"),
    ],
)
def test_refusals_and_stops(masks, options, reason, monkeypatch):
    given, _ = _model("no noise")
    masks = [given != 2 if isinstance(mask, str) else mask for mask in masks]
    monkeypatch.setattr("mild_ext.training.run_rounds.select_clean", forced(masks))
    ours = by_run_rounds(*_model("no noise"), **options)
    theirs = by_a_plain_loop(*_model("no noise"), select=forced(masks), **options)
    assert_same(theirs, ours)
    assert reason in ours.stop_reason
    assert len(ours.rounds) == theirs.round == len(theirs.selections) == len(masks)
