"""Models: shapes, the standardizing first layer, factories."""

import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from mild_ext.training.models import Standardize, build_model, load_matching


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "size"),
    [
        ("resnet34", (3, 32, 32), 10, 21_282_122),  # the literature's 21.28 million
        ("resnet34", (3, 32, 32), 100, 21_328_292),
        ("resnet18", (3, 32, 32), 10, 11_173_962),  # 11.17 million
        ("resnet34", (3, 224, 224), 1000, 21_797_672),  # torchvision's resnet34
        ("resnet18", (3, 224, 224), 1000, 11_689_512),  # torchvision's resnet18
    ],
)
def test_resnets_have_the_published_sizes(spec, shape, classes, size):
    model = build_model(spec, shape, classes)
    assert sum(p.numel() for p in model.parameters()) == size
    assert model.stem[0].stride == ((1, 1) if shape[1] == 32 else (2, 2))


def test_large_images_cost_the_small_cnn_no_more_than_small_ones():
    small, large = (build_model("cnn", (3, side, side), 4) for side in (32, 64))
    assert sum(p.numel() for p in small.parameters()) == sum(p.numel() for p in large.parameters())
    x = torch.rand(1, 3, 64, 64)
    assert large.features[0](x).shape == small.features[0](x[:, :, ::2, ::2]).shape


def test_pretrained_weights_from_a_file(tmp_path):
    path = tmp_path / "model.safetensors"
    statistics = {"mean": torch.zeros(3), "std": torch.ones(3)}
    trained = build_model("cnn", (3, 16, 16), 5, **statistics)
    save_file(trained.state_dict(), path)
    model = build_model("cnn", (3, 16, 16), 7, pretrained=str(path), **statistics)
    assert torch.equal(model[1].features[0][0].weight, trained[1].features[0][0].weight)
    assert model[1].head.weight.shape == (7, 128)  # another number of classes starts afresh
    assert load_matching(model[1], path) == ["head.bias", "head.weight"]
    for spec, pretrained, message in (
        ("mlp", str(path), "of another model"),
        ("cnn", "missing", "no file missing"),
        ("cnn", "timm", "goes with a model timm:NAME"),
    ):
        with pytest.raises(ValueError, match=message):
            build_model(spec, (3, 16, 16), 5, pretrained=pretrained)
    path.write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"cannot be read.*must be a safetensors file"):
        build_model("cnn", (3, 16, 16), 5, pretrained=str(path))


def test_timm_models(monkeypatch):
    """timm gets the name, the numbers of classes and channels, and whether to load its weights."""
    calls = []

    def create_model(name, **options):
        calls.append((name, options))
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, options["num_classes"]))

    monkeypatch.setitem(sys.modules, "timm", types.SimpleNamespace(create_model=create_model))
    model = build_model("timm:resnet50", (3, 8, 8), 14, pretrained="timm")
    assert model(torch.zeros(2, 3, 8, 8)).shape == (2, 14)
    assert calls == [("resnet50", {"pretrained": True, "num_classes": 14, "in_chans": 3})]
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match=r"mild_ext\[timm\]"):
        build_model("timm:resnet50", (3, 8, 8), 14)


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
