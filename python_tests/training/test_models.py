"""Models: shapes, the standardizing first layer, factories."""

import sys
import types

import pytest
import torch
from torch import nn

from mild_ext.training.models import Standardize, build_model


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("mlp", (7,)),
        ("mlp", (2, 5)),
        ("auto", (1, 8, 8)),
        ("cnn", (1, 28, 28)),
        ("cnn", (4, 9, 13)),
        ("resnet34", (3, 32, 32)),
        ("resnet34", (3, 96, 96)),
    ],
)
def test_models_map_raw_inputs_to_logits(spec, shape):
    channels = shape[0] if len(shape) == 3 else None
    statistics = torch.zeros(channels) if channels else torch.zeros(shape)
    model = build_model(spec, shape, 5, width=32, mean=statistics, std=statistics + 1).eval()
    inputs = torch.randint(0, 255, (2, *shape), dtype=torch.uint8)
    assert model(inputs).shape == (2, 5)


def test_resnet34_has_the_published_size():
    model = build_model("resnet34", (3, 32, 32), 10)
    assert sum(p.numel() for p in model.parameters()) == 21_282_122
    assert model.stem[0].stride == (1, 1)


def test_standardize():
    layer = Standardize(torch.tensor([1.0, 2.0]), torch.tensor([2.0, 4.0]), image=True)
    result = layer(torch.full((1, 2, 1, 1), 5, dtype=torch.uint8))
    assert result.flatten().tolist() == [2.0, 0.75]


def test_users_factory(monkeypatch):
    module = types.ModuleType("users_models")
    module.make = lambda shape, classes: nn.Linear(shape[0], classes)
    module.bad = lambda shape, classes: "no model"
    monkeypatch.setitem(sys.modules, "users_models", module)
    assert build_model("users_models:make", (4,), 3)(torch.zeros(2, 4)).shape == (2, 3)
    with pytest.raises(TypeError, match=r"must return an nn\.Module"):
        build_model("users_models:bad", (4,), 3)
    with pytest.raises(ValueError, match="no callable"):
        build_model("users_models:nothing", (4,), 3)
    with pytest.raises(ImportError):
        build_model("no_such_module_anywhere:make", (4,), 3)


def test_unsuitable_and_unknown_models():
    with pytest.raises(ValueError, match="needs images"):
        build_model("cnn", (10,), 2)
    with pytest.raises(ValueError, match="unknown model"):
        build_model("resnet999", (3, 32, 32), 2)
