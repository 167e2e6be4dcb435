"""Frozen pretrained networks: features once, weights never random, the model whole afterwards."""

from __future__ import annotations

import csv
import json
import re
import sys
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from torch import nn

import mild_ext
from mild_ext.cli import main
from mild_ext.training import backbone
from mild_ext.training.experiment import choose_settings
from mild_ext.training.models import build_model

FAST = ["--plant=0.1", "--first-epochs=6", "--final-epochs=6", "--no-report", "--no-compare"]
BATCHES_SEEN = []


class Tiny(nn.Module):
    """A network in the place of a large one: 12 features, and a layer for classes unless there are 0."""

    def __init__(self, num_classes):
        super().__init__()
        self.body = nn.Conv2d(3, 12, 3, stride=4)
        self.norm = nn.BatchNorm2d(12)
        self.classifier = nn.Linear(12, num_classes) if num_classes else nn.Identity()

    def forward(self, images):
        BATCHES_SEEN.append(tuple(images.shape))
        return self.classifier(self.norm(self.body(images)).relu().mean((2, 3)))


def fixed_size(module, inputs):
    if inputs[0].shape[-1] != 64:
        raise AssertionError("wrong input size")


@pytest.fixture
def timm(monkeypatch):
    """A timm of one network, with weights of its own where they are asked for and ``online`` is true."""
    library = types.SimpleNamespace(online=True, fixed=False)

    def create_model(name, *, pretrained, num_classes, **options):
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        if pretrained and not library.online:
            raise OSError("We couldn't connect to the hub\nand much more")
        net = Tiny(num_classes)
        if pretrained:
            with torch.random.fork_rng():
                torch.manual_seed(7)
                for value in net.parameters():
                    nn.init.normal_(value)
        if library.fixed:
            net.register_forward_pre_hook(fixed_size)
        return net

    config = {"input_size": (3, 64, 64), "mean": (0.5, 0.4, 0.3), "std": (0.2, 0.2, 0.2)}
    library.create_model = create_model
    library.data = types.SimpleNamespace(resolve_model_data_config=lambda net: config)
    monkeypatch.setitem(sys.modules, "timm", library)
    BATCHES_SEEN.clear()
    return library


@pytest.fixture
def spec(tmp_path):
    """300 images of two classes that differ in color."""
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 2
    x = rng.integers(0, 60, (300, 12, 12, 3))
    x[..., 0] += 150 * labels[:, None, None]
    names = np.array(["blue", "red"])
    path = tmp_path / "data.npz"
    np.savez(path, x_train=x.astype(np.uint8), y_train=labels, class_names=names)
    return f"npz:{path}"


def test_a_run_of_features_from_images_to_a_model_of_images(spec, timm, tmp_path, capsys):
    out = tmp_path / "run"
    common = ["train", "--data", spec, "--model", "timm:tiny", "--out", str(out), *FAST]
    assert main([*common, "--noise", "symmetric:0.2"]) == 0
    assert "12 features an image" in capsys.readouterr().out
    # Once each, and one image to count the features; 12 pixels are enlarged four times at most.
    assert sum(shape[0] for shape in BATCHES_SEEN) == 301
    assert {shape[1:] for shape in BATCHES_SEEN} == {(3, 48, 48)}
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["kind"] == "image"
    assert config["data"]["input_shape"] == [3, 12, 12]
    with np.load(spec.removeprefix("npz:")) as arrays:
        images, true = arrays["x_train"].transpose(0, 3, 1, 2).copy(), arrays["y_train"]
    timm.online = False  # the run's own file has the weights
    model = mild_ext.load_model(out)
    predicted = model.predict(torch.from_numpy(images))
    assert np.mean([p == ["blue", "red"][y] for p, y in zip(predicted, true, strict=True)]) > 0.9
    with open(out / "selection.csv", newline="") as file:
        own = [["blue", "red"][int(row["predicted_label"])] for row in csv.DictReader(file)]
    assert predicted == own
    assert not model.train().net[0].net.training  # its statistics stay as they are


def test_a_resumed_run_takes_the_kept_features(spec, timm, tmp_path, capsys):
    out = tmp_path / "run"
    assert main(["find", "--data", spec, "--model", "timm:tiny", "--out", str(out), *FAST[:2]]) == 0
    before, kept = (out / "suspects.csv").read_bytes(), (out / "features.safetensors").read_bytes()
    (out / "summary.json").unlink()
    BATCHES_SEEN.clear()
    assert main(["find", "--resume", "--out", str(out)]) == 0
    assert sum(shape[0] for shape in BATCHES_SEEN) == 1
    assert (out / "suspects.csv").read_bytes() == before
    # Damaged, it is made again; and so it is where the images are others.
    broken = bytearray(kept)
    broken[-9] ^= 4
    (out / "features.safetensors").write_bytes(bytes(broken))
    capsys.readouterr()
    assert main(["find", "--resume", "--out", str(out)]) == 0
    assert "computed again" in capsys.readouterr().out
    again = load_file(out / "features.safetensors")
    assert torch.equal(again["train"], load(kept)["train"])
    path = spec.removeprefix("npz:")
    with np.load(path) as arrays:
        changed = dict(arrays)
    changed["x_train"][5] = 0
    np.savez(path, **changed)
    assert main(["find", "--resume", "--out", str(out)]) == 0
    assert "is of other images or another network" in capsys.readouterr().out
    assert not torch.equal(load_file(out / "features.safetensors")["train"], again["train"])


def test_weights_of_a_file(timm, tmp_path):
    trained = timm.create_model("tiny", pretrained=True, num_classes=5)
    timm.online = False
    images = np.random.default_rng(0).integers(0, 255, (5, 12, 12, 3)).astype(np.uint8)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    torch.save(
        {"state_dict": {f"module.{k}": v for k, v in trained.state_dict().items()}},
        tmp_path / "trained.pth",
    )
    found = [
        mild_ext.image_features(images, "timm:tiny", weights=str(tmp_path / name))
        for name in ("w.safetensors", "w.pth", "trained.pth")
    ]
    trained.classifier = nn.Identity()
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    x = (x - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / 0.2
    x = nn.functional.interpolate(x, (48, 48), mode="bilinear", antialias=True)
    expected = trained.eval()(x).detach().numpy()
    for features in found:
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)  # order of summation


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        import os

        return os.mkdir, (str(self.path),)


def test_weights_that_are_none(timm, tmp_path):
    images = np.zeros((2, 12, 12, 3), np.uint8)
    other = Tiny(0)
    other.body = nn.Conv2d(3, 13, 3)
    save_file(other.state_dict(), tmp_path / "other.safetensors")
    torch.save({"body.weight": Payload(tmp_path / "sprung")}, tmp_path / "hostile.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "text.safetensors").write_text("no weights")
    for name, message in (
        ("missing.pth", "there is no file .*missing.pth: --weights is a file"),
        ("other.safetensors", "of another network than timm:tiny: 2 of its 7 tensors"),
        ("hostile.pth", "holds more than tensors"),
        ("list.pth", "it is no state_dict"),
        ("text.safetensors", "cannot be read"),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            mild_ext.image_features(images, "timm:tiny", weights=str(tmp_path / name))
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "sprung").exists()


def test_never_random_weights(spec, timm, tmp_path, capsys, monkeypatch):
    timm.online = False
    out = tmp_path / "run"
    for model, message in (
        ("timm:tiny", r"neither in its library's cache nor .*couldn't connect.*--weights FILE"),
        ("timm:tinny", "there is no network timm:tinny"),
    ):
        assert main(["find", "--data", spec, "--model", model, "--out", str(out)]) == 1
        error = capsys.readouterr().err
        assert len(error.strip().splitlines()) == 1
        assert re.search(message, error)
        assert not out.exists()
    for library in ("timm", "torchvision"):
        monkeypatch.setitem(sys.modules, library, None)
        assert main(["find", "--data", spec, "--model", f"{library}:x", "--out", str(out)]) == 1
        assert "pip install 'mild_ext[backbones]'" in capsys.readouterr().err


def test_what_does_not_go_with_a_frozen_network(spec, timm, tmp_path, capsys):
    np.savez(tmp_path / "v.npz", x_train=np.eye(40, 3), y_train=np.arange(40) % 2)
    out = str(tmp_path / "run")
    vectors = f"npz:{tmp_path / 'v.npz'}"
    assert main(["find", "--data", vectors, "--model", "timm:tiny", "--out", out]) == 1
    assert "needs images of 1 or 3 channels" in capsys.readouterr().err
    assert main(["find", "--data", spec, "--weights", "w.pth", "--out", out]) == 1
    assert "weights are those of a frozen network" in capsys.readouterr().err
    options = ["--data", spec, "--model", "timm:tiny", "--out", out]
    assert main(["compare", *options, "--noise", "none", "--test-fraction", "0.2"]) == 1
    assert "mild-ext compare trains whole networks" in capsys.readouterr().err
    with pytest.raises(ValueError, match="comes pretrained and frozen"):
        build_model("torchvision:resnet18", (3, 8, 8), 2)
    assert not choose_settings(spec, None, {"model": "timm:x", "pretrained": "none"}).recipe.frozen


def test_networks_of_one_size_get_their_size(timm):
    timm.fixed = True
    mild_ext.image_features(np.zeros((3, 12, 12, 1), np.float32), "timm:tiny")
    assert BATCHES_SEEN[-1] == (3, 3, 64, 64)


def test_files_are_read_larger_for_a_frozen_network(timm, tmp_path):
    image = pytest.importorskip("PIL.Image")
    for k in range(12):
        folder = tmp_path / "photos" / "ab"[k % 2]
        folder.mkdir(parents=True, exist_ok=True)
        image.new("RGB", (300, 120), (20 * k, 0, 0)).save(folder / f"{k}.png")
    out = tmp_path / "run"
    options = ["--model", "timm:tiny", "--first-epochs=1", "--plant=0", "--no-report"]
    assert (
        main(["find", "--data", f"folder:{tmp_path / 'photos'}", "--out", str(out), *options]) == 0
    )
    config = json.loads((out / "config.json").read_text())
    assert config["data"]["input_shape"] == [3, 120, 120]


def test_images_that_are_none(timm):
    images = np.zeros((3, 8, 8, 3))
    with pytest.raises(TypeError, match=r"uint8 gray levels or floats, got torch\.int64"):
        mild_ext.image_features(images.astype(np.int64), "timm:tiny")
    images[1, 2, 3] = np.nan
    with pytest.raises(ValueError, match="must be finite"):
        mild_ext.image_features(images, "timm:tiny")


def test_features_of_the_real_timm(tmp_path):
    timm = pytest.importorskip("timm")
    torch.manual_seed(0)
    net = timm.create_model("test_resnet.r160_in1k", pretrained=False)
    save_file(net.state_dict(), tmp_path / "w.safetensors")
    images = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3)).astype(np.uint8)
    features = mild_ext.image_features(
        images, "timm:test_resnet.r160_in1k", weights=str(tmp_path / "w.safetensors")
    )
    assert features.shape == (4, net.num_features)
    assert np.ptp(features, axis=0).max() > 0
    with pytest.raises(ValueError, match="there is no network timm:no_such_network"):
        mild_ext.image_features(images, "timm:no_such_network")


@pytest.mark.parametrize(
    ("name", "count"), [("mobilenet_v3_small", 1024), ("resnet18", 512), ("googlenet", 1024)]
)
def test_features_of_the_real_torchvision(tmp_path, name, count):
    torchvision = pytest.importorskip("torchvision", exc_type=Exception)
    begin = {"init_weights": True} if name == "googlenet" else {}
    net = torchvision.models.get_model(name, **begin)
    torch.save(net.state_dict(), tmp_path / "w.pth")
    images = np.random.default_rng(0).integers(0, 255, (4, 40, 40, 3)).astype(np.uint8)
    features = mild_ext.image_features(
        images, f"torchvision:{name}", weights=str(tmp_path / "w.pth")
    )
    assert features.shape == (4, count)
    one = backbone.load_backbone(
        f"torchvision:{name}", (3, 40, 40), weights=str(tmp_path / "w.pth")
    )
    again = backbone.empty_backbone(f"torchvision:{name}", one.state_dict())
    some = torch.from_numpy(images).permute(0, 3, 1, 2)
    assert torch.equal(one(some), again(some))
    with pytest.raises(ValueError, match="there is no network torchvision:no_such_network"):
        mild_ext.image_features(images, "torchvision:no_such_network")


def test_the_libraries_are_those_that_the_settings_know():
    for name in backbone._LIBRARIES:
        assert choose_settings("digits", None, {"model": f"{name}:x"}).recipe.frozen
