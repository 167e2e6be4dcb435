"""The semi-supervised stage: it learns from unlabeled samples, repeats, resumes, and says what it saw."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from mild_ext.data import ArrayDataset
from mild_ext.training import Recipe, accuracy, build_model
from mild_ext.training.checkpoint import CheckpointError
from mild_ext.training.ssl import train_semi_supervised
from mild_ext.training.ssl.objectives import DistributionAlignment, frozen_running_statistics

RECIPE = Recipe(
    batch_size=32, lr=0.05, weight_decay=5e-4, ssl_epochs=12, ssl_ratio=2, width=64, model="mlp"
)


def blobs(count=400, classes=4, seed=0, spread=1.0):
    """Gaussian classes of 20 features; the same centres whatever the seed."""
    centres = np.random.default_rng(1).normal(0, 1.0, (classes, 20))
    random = np.random.default_rng(seed)
    y = random.integers(0, classes, count)
    x = centres[y] + random.normal(0, spread, (count, 20))
    return ArrayDataset(torch.from_numpy(x).float(), torch.from_numpy(y))


def model_for(data, classes, seed=0):
    torch.manual_seed(seed)
    shape = tuple(data.inputs.shape[1:])
    return build_model("auto", shape, classes, width=64)


def few_labels(labels, per_class=3):
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for k in labels.unique():
        mask[(labels == k).nonzero().flatten()[:per_class]] = True
    return mask


def train(data, mask, recipe=RECIPE, method="fixmatch", classes=4, **options):
    model = model_for(data, classes)
    return train_semi_supervised(
        data, options.pop("labels", data.labels), mask, model, recipe, method=method, **options
    )


def weights(result):
    return torch.cat([p.detach().flatten() for p in result.model.state_dict().values()])


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
def test_unlabeled_samples_help(method):
    """With five labels a class, knowing the other inputs beats the labels alone."""
    data, test = blobs(spread=1.5), blobs(seed=1, count=1000, spread=1.5)
    mask = few_labels(data.labels, 5)
    recipe = RECIPE.override({"ssl_epochs": 40, "ssl_confidence": 0.8, "lr": 0.02})
    if method == "mixmatch":
        recipe = recipe.override({"ssl_weight": 5.0})
    alone = recipe.override({"ssl_weight": 0.0, "ssl_align": "none"})
    with_them = accuracy(train(data, mask, recipe, method).model, test)
    without = accuracy(train(data, mask, alone, "fixmatch").model, test)
    assert with_them > without + 0.02


@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
def test_dropped_labels_have_no_influence(method):
    data = blobs()
    mask = few_labels(data.labels, 10)
    recipe = RECIPE.override({"ssl_epochs": 2, "ssl_align": "kept"})
    other = torch.where(mask, data.labels, (data.labels + 1) % 4)
    first = train(data, mask, recipe, method)
    second = train(data, mask, recipe, method, labels=other)
    assert torch.equal(weights(first), weights(second))


@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
def test_true_labels_are_reported_and_never_learned(method):
    data = blobs()
    mask = few_labels(data.labels, 10)
    recipe = RECIPE.override({"ssl_epochs": 3, "ssl_confidence": 0.5, "ssl_weight": 1.0})
    blind = train(data, mask, recipe, method)
    seeing = train(data, mask, recipe, method, true_labels=data.labels)
    assert torch.equal(weights(blind), weights(seeing))
    assert blind.history[-1]["pseudo_accuracy"] is None
    last = seeing.history[-1]
    assert 0.5 < last["pseudo_accuracy"] <= 1
    assert 0 < last["pseudo_rate"] <= 1
    assert sum(last["pseudo_classes"]) == pytest.approx(1)
    assert last["labeled"] == 40


@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
def test_same_seed_same_weights(method):
    data = blobs()
    mask = few_labels(data.labels, 10)
    recipe = RECIPE.override({"ssl_epochs": 2})
    first, second = (train(data, mask, recipe, method, seed=5) for _ in range(2))
    assert torch.equal(weights(first), weights(second))
    assert not torch.equal(weights(first), weights(train(data, mask, recipe, method, seed=6)))


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
@pytest.mark.parametrize("images", [False, True])
def test_resumed_training_ends_with_the_same_weights(method, images, tmp_path):
    data = blobs(count=120)
    if images:
        data = ArrayDataset(torch.rand(120, 1, 8, 8, generator=torch.Generator().manual_seed(0)),
                            data.labels)  # fmt: skip
    mask = few_labels(data.labels, 8)
    recipe = RECIPE.override({"ssl_epochs": 4, "ema_decay": 0.9, "ssl_confidence": 0.4})
    whole = train(data, mask, recipe, method)

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == 2:
            raise Killed

    path = tmp_path / "ssl.safetensors"
    options = dict(checkpoint=path, checkpoint_seconds=0, fingerprint="run")
    with pytest.raises(Killed):
        train(data, mask, recipe, method, on_epoch=kill, **options)
    replayed = []
    resumed = train(data, mask, recipe, method, on_epoch=replayed.append, **options)
    assert torch.equal(weights(whole), weights(resumed))

    def untimed(history):
        return [{k: v for k, v in record.items() if k != "seconds"} for record in history]

    assert untimed(replayed) == untimed(resumed.history) == untimed(whole.history)
    with pytest.raises(CheckpointError, match="other settings"):
        train(data, mask, recipe, method, **(options | {"fingerprint": "another"}))


def test_everything_kept_trains_on_all_of_it():
    data = blobs()
    result = train(data, torch.ones(len(data), dtype=torch.bool))
    assert accuracy(result.model, data) > 0.9
    last = result.history[-1]
    assert last["pseudo_rate"] is None
    assert last["pseudo_classes"] is None


def test_one_labeled_sample_a_class_is_enough_to_run():
    data = blobs()
    result = train(data, few_labels(data.labels, 1), RECIPE.override({"ssl_epochs": 2}))
    assert all(np.isfinite(record["loss"]) for record in result.history)


def test_nothing_kept_is_refused():
    data = blobs(count=40)
    with pytest.raises(ValueError, match="keeps none"):
        train(data, torch.zeros(40, dtype=torch.bool))


@pytest.mark.parametrize("method", ["fixmatch", "mixmatch"])
def test_class_without_labels_is_named_and_not_guessed(method):
    data = blobs()
    mask = few_labels(data.labels, 10) & (data.labels != 2)
    recipe = RECIPE.override({"ssl_epochs": 4, "ssl_confidence": 0.5})
    with pytest.warns(UserWarning, match="no sample of class 2"):
        result = train(data, mask, recipe, method)
    assert result.history[-1]["pseudo_classes"][2] == 0


def test_only_chosen_ids_are_used():
    data = blobs()
    ids = torch.arange(200)
    mask = torch.ones(len(data), dtype=torch.bool)
    recipe = RECIPE.override({"ssl_epochs": 1})
    seen = train(data, mask, recipe, ids=ids)
    other = ArrayDataset(data.inputs.clone(), data.labels)
    other.inputs[200:] = 100.0
    assert torch.equal(weights(seen), weights(train(other, mask, recipe, ids=ids)))
    assert seen.history[0]["samples"] == 200


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (dict(mask=torch.ones(40)), TypeError, "mask must be bool"),
        (dict(mask=torch.ones(3, dtype=torch.bool)), ValueError, "mask must have shape"),
        (dict(labels=torch.zeros(3, dtype=torch.int64)), ValueError, "labels must have shape"),
        (dict(method="pi-model"), ValueError, "fixmatch, mixmatch"),
        (dict(num_classes=2), ValueError, r"\[0, 2\)"),
    ],
)
def test_wrong_arguments_are_named(change, error, match):
    data = blobs(count=40)
    options = dict(mask=torch.ones(40, dtype=torch.bool)) | change
    with pytest.raises(error, match=match):
        train(data, **options)


def test_token_inputs_are_refused():
    data = ArrayDataset(torch.zeros(40, 5, dtype=torch.int64), torch.arange(40) % 2)
    with pytest.raises(TypeError, match="images or floating-point"):
        train_semi_supervised(
            data, data.labels, torch.ones(40, dtype=torch.bool), torch.nn.Linear(5, 2), RECIPE,
            method="fixmatch",
        )  # fmt: skip


class OnDisk(Dataset):
    """Items one at a time, as from a folder of images."""

    def __init__(self, data):
        self.data = data

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data.inputs[index], int(self.data.labels[index])


def test_a_data_set_that_is_not_in_memory_gives_the_same():
    data = blobs(count=60)
    mask = few_labels(data.labels, 5)
    recipe = RECIPE.override({"ssl_epochs": 2})
    in_memory = train(data, mask, recipe)
    model = model_for(data, 4)
    streamed = train_semi_supervised(
        OnDisk(data), data.labels, mask, model, recipe, method="fixmatch"
    )
    torch.testing.assert_close(weights(in_memory), weights(streamed))


def test_alignment_holds_the_mean_at_the_target():
    target = torch.tensor([0.5, 0.3, 0.2])
    align = DistributionAlignment(target, decay=0.9)
    generator = torch.Generator().manual_seed(0)
    bias = torch.tensor([2.0, 0.0, -1.0])
    for _ in range(300):
        biased = (torch.randn(64, 3, generator=generator) + bias).softmax(1)
        aligned = align(biased)
    torch.testing.assert_close(aligned.sum(1), torch.ones(64))
    assert (biased.mean(0) - target).abs().max() > 0.2
    assert (aligned.mean(0) - target).abs().max() < 0.1


def test_guessing_leaves_running_statistics_alone():
    norm = torch.nn.BatchNorm1d(3)
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), norm)
    before = norm.running_mean.clone()
    with torch.no_grad(), frozen_running_statistics(model):
        out = model(torch.randn(16, 3) + 5)
    assert torch.equal(norm.running_mean, before)
    assert out.mean(0).abs().max() < 1e-5  # normalized by the batch's statistics all the same
    assert norm.momentum == 0.1
    model(torch.randn(16, 3) + 5)
    assert not torch.equal(norm.running_mean, before)


def test_ramp_of_the_weight():
    data = blobs(count=64)
    recipe = RECIPE.override({"ssl_epochs": 4, "ssl_ramp": 0.5, "ssl_confidence": 0.0})
    # With the weight at zero throughout, the loss is the supervised part alone.
    zero = train(data, few_labels(data.labels, 5), recipe.override({"ssl_weight": 0.0}))
    full = train(data, few_labels(data.labels, 5), recipe)
    assert full.history[0]["loss"] > zero.history[0]["loss"]
    half = train(data, few_labels(data.labels, 5), recipe.override({"ssl_ramp": 0.0}))
    assert half.history[0]["loss"] > full.history[0]["loss"]  # no ramp: full weight at once
