"""The methods compared with: their formulas, their state, and that they learn."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mild_ext.data import ArrayDataset, corrupt_labels
from mild_ext.training import Recipe, RunContext, accuracy, fit
from mild_ext.training.methods import (
    METHODS,
    EarlyLearningRegularization,
    SmallLoss,
    small_component,
)
from mild_ext.training.models import build_model

TRUE = torch.arange(300) % 3
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(300, 6, generator=GENERATOR) + 3 * torch.eye(3, 6)[TRUE]
GIVEN = corrupt_labels(TRUE, "symmetric:0.5", 3, seed=0).labels
RECIPE = Recipe(model="mlp", width=64, batch_size=32, lr=0.05, weight_decay=0.0)


def train(objective, epochs=60, **context):
    torch.manual_seed(0)
    net = build_model("mlp", (6,), 3, width=64)
    data, context = ArrayDataset(INPUTS, TRUE), RunContext(**context)
    fit(net, data, GIVEN, RECIPE, context, objective=objective, epochs=epochs, stage="test")
    return net


def test_the_registry():
    keys = ["plain", "small-loss", "elr", "mild", "mild-rounds", "mild-ssl", "clean"]
    assert list(METHODS) == keys
    assert all(method.key == key for key, method in METHODS.items())
    assert len({method.title for method in METHODS.values()}) == len(METHODS)
    assert [m.key for m in METHODS.values() if m.needs_true_labels] == ["clean"]
    assert [m.finds for m in METHODS.values() if m.finds] == ["mild", "mild-rounds", "mild-rounds"]
    assert METHODS["mild-ssl"].run_title.format(ssl="X") == "MILD + X (dropped ones unlabeled)"


def test_small_component_separates_two_heaps():
    generator = np.random.default_rng(0)
    small, large = generator.gamma(2, 0.05, 400), generator.normal(3, 0.5, 200)
    probability = small_component(np.concatenate([small, large]))
    assert (probability[:400] > 0.5).mean() > 0.98
    assert (probability[400:] < 0.5).mean() > 0.98


@pytest.mark.parametrize("values", [[0.3], [1.0, 1.0, 1.0], [0.0, 5.0], [1e300, 0.0, 1.0]])
def test_small_component_is_finite_on_anything(values):
    probability = small_component(np.array(values, dtype=np.float64))
    assert np.isfinite(probability).all()
    assert probability.shape == (len(values),)
    assert probability.max() > 0.5


@pytest.mark.slow
def test_small_loss_finds_the_wrong_labels_and_resists_them():
    objective = SmallLoss(300)
    right = TRUE == GIVEN
    selected, plain = train(objective), train(None)
    kept = objective.kept
    assert (kept == right).double().mean() > 0.85
    data = ArrayDataset(INPUTS, TRUE)
    assert accuracy(selected, data) > accuracy(plain, data) + 0.1


def test_small_loss_uses_everything_during_the_warmup():
    objective = SmallLoss(300, warmup=0.5)
    objective.losses = torch.cat([torch.zeros(150), torch.ones(150)])
    objective.start_epoch(4, 10, GENERATOR)
    assert objective.kept.all()
    objective.start_epoch(5, 10, GENERATOR)
    assert objective.kept.tolist() == [True] * 150 + [False] * 150


def test_elr_is_the_papers_formula():
    objective = EarlyLearningRegularization(5, strength=3.0, memory=0.7)
    weights = torch.randn(4, 3, generator=GENERATOR, requires_grad=True)
    inputs, labels, index = torch.eye(4)[:2], torch.tensor([0, 2]), torch.tensor([3, 1])
    expected_target = torch.zeros(2, 3)
    for _ in range(2):
        loss, _ = objective(lambda x: x @ weights, index, inputs, labels)
        p = (inputs @ weights).softmax(1)
        expected_target = 0.7 * expected_target + 0.3 * p.detach()
        expected = (
            F.cross_entropy(inputs @ weights, labels)
            + 3.0 * torch.log(1 - (p * expected_target).sum(1)).mean()
        )
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(objective.targets[index], expected_target)
    (gradient,) = torch.autograd.grad(loss, weights)
    (expected_gradient,) = torch.autograd.grad(expected, weights)
    torch.testing.assert_close(gradient, expected_gradient)
    assert not objective.targets[[0, 2, 4]].any()


@pytest.mark.slow
def test_elr_resists_wrong_labels():
    data = ArrayDataset(INPUTS, TRUE)
    assert (
        accuracy(train(EarlyLearningRegularization(300)), data) > accuracy(train(None), data) + 0.1
    )


@pytest.mark.parametrize("make", [SmallLoss, EarlyLearningRegularization])
def test_killed_and_resumed_is_identical(make, tmp_path):
    whole = train(make(300), epochs=6)

    def kill(record):
        if record["epoch"] == 4:
            raise KeyboardInterrupt

    options = {"epochs": 6, "folder": tmp_path, "checkpoint_seconds": 0.0}
    with pytest.raises(KeyboardInterrupt):
        train(make(300), on_record=kill, **options)
    resumed = train(make(300), **options)
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
