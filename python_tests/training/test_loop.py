# ruff: noqa: NPY002 - the global generator is what must be left alone
"""The training loop: learning, recording, seeds, resume, and what goes wrong."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from mild_ext.data import ArrayDataset
from mild_ext.recording.status import LearningStatus
from mild_ext.training import (
    CheckpointError,
    Recipe,
    RunContext,
    TrainingDiverged,
    accuracy,
    fit,
    predict,
)
from mild_ext.training.loop import CrossEntropy, learning_rate
from mild_ext.training.models import build_model

LABELS = torch.arange(60) % 3
INPUTS = (
    torch.randn(60, 4, generator=torch.Generator().manual_seed(0)) + 3 * torch.eye(3, 4)[LABELS]
)
DATA = ArrayDataset(INPUTS, LABELS)
RECIPE = Recipe(model="mlp", width=16, batch_size=16, lr=0.05, weight_decay=0.0)


def model(dropout=False):
    torch.manual_seed(0)
    if dropout:
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Dropout(0.5), nn.Linear(16, 3))
    return build_model("mlp", (4,), 3, width=16)


def train(net, recipe=RECIPE, *, epochs=4, **options):
    """Options that `RunContext` has go there, the others to `fit`."""
    names = RunContext.__dataclass_fields__
    context = RunContext(**{name: options.pop(name) for name in names if name in options})
    options = {"stage": "test", "dataset": DATA} | options
    return fit(net, options.pop("dataset"), LABELS, recipe, context, epochs=epochs, **options)


def weights(net):
    return torch.cat([p.detach().flatten() for p in net.parameters()])


def test_it_learns_and_reports_each_epoch():
    net = model()
    records = []
    result = train(net, epochs=20, on_record=records.append)
    assert accuracy(net, DATA) > 0.95
    assert records == result.history
    assert [r["epoch"] for r in records] == list(range(20))
    assert records[-1]["loss"] < 0.3 * records[0]["loss"]
    assert {r["samples"] for r in records} == {60}


def test_same_seed_same_weights_and_the_global_random_state_is_left_alone():
    first, again, other = model(True), model(True), model(True)
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    before = (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy())
    train(first)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert (before[2] == np.random.get_state()[1]).all()
    torch.manual_seed(6)
    train(again)
    train(other, seed=1)
    assert torch.equal(weights(first), weights(again))
    assert not torch.equal(weights(first), weights(other))


def test_status_is_read_off_the_training_forward_pass():
    """With lr 0 and no dropout every epoch sees the same logits: those of the fresh model."""
    net = model()
    status = LearningStatus(60, 3)
    train(net, RECIPE.override({"lr": 0.0}), epochs=3, status=status, ids=torch.arange(0, 60, 2))
    times = status.compute()
    wrong = predict(net, DATA)[0].argmax(1) != LABELS
    expected = torch.where(wrong, 3, 0)
    assert torch.equal(times.misclassified[::2].long(), expected[::2])
    assert times.seen[::2].tolist() == [3] * 30
    assert times.seen[1::2].tolist() == [0] * 30
    assert status.epoch == 3


def test_samples_that_are_only_watched_teach_nothing():
    learn = torch.zeros(60, dtype=torch.bool)
    learn[:30] = True
    garbled = LABELS.clone()
    garbled[30:] = (garbled[30:] + 1) % 3
    results = []
    for labels in (LABELS, garbled):
        net = model()
        fit(net, DATA, labels, RECIPE, epochs=2, stage="s", objective=CrossEntropy(0.0, learn))
        results.append(weights(net))
    assert torch.equal(*results)


def test_any_dataset_trains_like_the_arrays_it_holds():
    class Plain(Dataset):
        def __len__(self):
            return 60

        def __getitem__(self, index):
            return INPUTS[index], 0  # its own labels are not used

    fast, slow = model(), model()
    train(fast)
    train(slow, dataset=Plain())
    assert torch.equal(weights(fast), weights(slow))


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "adamw"},
        {"schedule": "constant", "nesterov": True},
        {"clip_norm": 0.1},
        {"ema_decay": 0.9},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"label_smoothing": 0.1},
    ],
)
def test_options_train_and_change_the_result(settings):
    plain, changed = model(), model()
    train(plain, epochs=10)
    result = train(changed, RECIPE.override(settings), epochs=10)
    evaluated = result.averaged or changed
    assert accuracy(evaluated, DATA) > 0.9
    assert not torch.equal(weights(plain), weights(evaluated))


def test_compile_trains_through_the_compiled_model_and_keeps_the_parameters_names(monkeypatch):
    """With a compiler that changes nothing; the real one is slow to start and tested by torch."""
    compiled = []

    def pretend(module):
        compiled.append(module)
        return lambda inputs: 2 * module(inputs)

    monkeypatch.setattr(torch, "compile", pretend)
    plain, net = model(), model()
    train(plain)
    train(net, RECIPE.override({"compile": True}))
    assert compiled == [net]
    assert list(net.state_dict()) == list(plain.state_dict())
    assert not torch.equal(weights(net), weights(plain))


def test_accumulation_equals_the_large_batch():
    large, accumulated = model(), model()
    train(large, RECIPE.override({"batch_size": 60}), epochs=3)
    # 60 = 4 x 15: equal parts, so the mean of their means is the mean.
    train(accumulated, RECIPE.override({"batch_size": 15, "accumulate": 4}), epochs=3)
    # Sums in another order: float32 rounding over three steps.
    assert torch.allclose(weights(large), weights(accumulated), atol=1e-5)


def test_a_last_group_of_fewer_batches_still_steps():
    net = model()
    before = weights(net)
    train(net, RECIPE.override({"batch_size": 25, "accumulate": 100}), epochs=1)
    assert not torch.equal(before, weights(net))


def test_channels_last_changes_the_layout_only():
    images = ArrayDataset(torch.rand(60, 3, 8, 8), LABELS)

    def run(recipe):
        torch.manual_seed(0)
        net = build_model("cnn", (3, 8, 8), 3, width=64)
        train(net, recipe, epochs=2, dataset=images)
        return net

    plain = run(RECIPE)
    last = run(RECIPE.override({"channels_last": True}))
    convolution = next(m for m in last.modules() if isinstance(m, nn.Conv2d))
    assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    # Another order of summation in the convolutions.
    assert torch.allclose(weights(plain), weights(last), atol=1e-3)


def test_cosine_starts_at_lr_and_falls():
    rates = [learning_rate(RECIPE, epoch, 10) for epoch in range(10)]
    assert rates[0] == RECIPE.lr
    assert rates == sorted(rates, reverse=True)
    assert rates[5] == pytest.approx(RECIPE.lr / 2)


@pytest.mark.parametrize("settings", [{}, {"ema_decay": 0.9}, {"optimizer": "adamw"}])
def test_resumed_training_is_identical(tmp_path, settings):
    recipe = RECIPE.override(settings)
    whole, whole_status = model(True), LearningStatus(60, 5)
    expected = train(whole, recipe, epochs=5, status=whole_status)

    class Killed(Exception):
        pass

    def kill(record):
        if record["epoch"] == stop:
            raise Killed

    for stop in range(5):
        options = {"folder": tmp_path, "checkpoint": f"{stop}.safetensors"}
        options |= {"checkpoint_seconds": 0.0, "fingerprint": "run"}
        with pytest.raises(Killed):
            train(
                model(True),
                recipe,
                epochs=5,
                status=LearningStatus(60, 5),
                on_record=kill,
                **options,
            )
        net, status, records = model(True), LearningStatus(60, 5), []
        result = train(net, recipe, epochs=5, status=status, on_record=records.append, **options)
        assert torch.equal(weights(net), weights(whole))
        assert torch.equal(status.words, whole_status.words)
        assert [r["loss"] for r in records] == [r["loss"] for r in expected.history]
        if settings.get("ema_decay"):
            assert torch.equal(weights(result.averaged), weights(expected.averaged))


def test_checkpoint_of_another_run_is_refused_and_of_another_stage_is_not_used(tmp_path):
    train(model(), folder=tmp_path, fingerprint="one")
    assert [path.name for path in tmp_path.iterdir()] == ["training.safetensors"]
    with pytest.raises(CheckpointError, match="other settings"):
        train(model(), folder=tmp_path, fingerprint="two")
    net, plain = model(), model()
    train(net, folder=tmp_path, fingerprint="one", stage="next")
    train(plain, stage="next")
    assert torch.equal(weights(net), weights(plain))


def test_divergence_is_an_error_that_says_what_to_do():
    with pytest.raises(TrainingDiverged, match="lower lr"):
        train(model(), RECIPE.override({"lr": 1e30}))


def test_predict_keeps_order_mode_and_ids():
    net = model(True)
    net.train()
    ids = torch.tensor([5, 1, 40])
    logits, labels = predict(net, DATA, ids=ids, batch_size=2)
    assert net.training
    assert labels.tolist() == LABELS[ids].tolist()
    net.eval()
    assert torch.allclose(logits, net(INPUTS[ids]))
