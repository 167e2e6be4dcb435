"""``mild-ext bench overhead``: the share that tracking adds to a training step."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable

import torch
from torch import Tensor, nn

from mild_ext.commands.bench.timing import Settings, medians, settings_of
from mild_ext.recording.status import LearningStatus


def mlp() -> tuple[nn.Module, Tensor]:
    """An MLP 784-256-256-10 and a batch of 128 for it."""
    layers = [nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)]
    return nn.Sequential(*layers), torch.randn(128, 784)


def small_cnn() -> tuple[nn.Module, Tensor]:
    """A CNN of four convolutions and a batch of 128 images of 32 x 32 for it."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 32), (32, 64), (64, 64), (64, 128)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)]
    layers += [nn.Flatten(), nn.Linear(128 * 4, 10)]
    return nn.Sequential(*layers), torch.randn(128, 3, 32, 32)


def main(options: argparse.Namespace) -> int:
    """Measures the built-in models, or the one that ``--model module:factory`` names."""
    settings = settings_of(options)
    models = {"MLP 784-256-256-10": mlp, "small CNN, 32 x 32 images": small_cnn}
    if options.model is not None:
        models = {options.model: load(options.model)}
    print(f"{'model':<32}{'record':<10}{'step':>12}{'tracking':>12}{'share':>10}")
    for name, factory in models.items():
        for record in ("status", "all"):
            step, track = share(factory, settings, record)
            times = f"{step * 1e3:>9.3f} ms{track * 1e6:>9.2f} us{track / step:>10.3%}"
            print(f"{name:<32}{record:<10}{times}")
    return 0


def load(name: str) -> Callable[[], tuple[nn.Module, Tensor]]:
    """The factory named ``module:function``; it returns a model and one batch of inputs."""
    module, _, function = name.partition(":")
    if not function:
        raise ValueError(f"--model must be module:factory, got {name!r}")
    factory: Callable[[], tuple[nn.Module, Tensor]] = getattr(
        importlib.import_module(module), function
    )
    return factory


def share(
    factory: Callable[[], tuple[nn.Module, Tensor]], settings: Settings, record: str = "status"
) -> tuple[float, float]:
    """Median seconds of a training step without tracking, and of the tracking of its batch.

    Measured apart, in turn: the difference of two steps' times would be lost in their noise.
    """
    device = settings.device
    model, inputs = factory()
    model, inputs = model.to(device).train(), inputs.to(device)
    classes = model(inputs).shape[1]
    batch = inputs.shape[0]
    labels = torch.randint(0, classes, (batch,), device=device)
    index = torch.randperm(50_000)[:batch].to(device)
    status = LearningStatus(50_000, 100, num_classes=classes, record=record, device=device)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    logits = model(inputs)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(inputs), labels).backward()
        optimizer.step()

    def track() -> None:
        status.update(index, logits, labels)

    measured = medians({"step": step, "track": track}, settings)
    return measured["step"], measured["track"]
