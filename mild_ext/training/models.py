"""Models: a small MLP and CNN, ResNet-34 with a CIFAR stem, timm's, and the user's own factory."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mild_ext.data.readers.custom import import_factory
from mild_ext.reading import reading


class Standardize(nn.Module):
    """``(input - mean) / std`` as a model's first layer, so a saved model takes raw inputs.

    Args:
        mean, std: per channel ``[C]`` for images ``[B, C, H, W]``; per feature for other inputs.
        image: whether inputs are images.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor, *, image: bool) -> None:
        super().__init__()
        shape = (1, -1, 1, 1) if image else (1, *mean.shape)
        self.register_buffer("mean", mean.to(torch.float32).reshape(shape).clone())
        self.register_buffer("std", std.to(torch.float32).reshape(shape).clone())

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs.to(self.mean.dtype) - self.mean) / self.std


class SmallCNN(nn.Module):
    """Three convolution blocks with batch norm and a linear layer; for images of 8 x 8 and more.

    Args:
        channels: of the images.
        num_classes: K.
        width: channels of the first block; the others have two and four times as many.
        stride: of the first convolution; 2 makes large images a quarter of the work.
    """

    def __init__(self, channels: int, num_classes: int, width: int = 32, stride: int = 1) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            )

        self.features = nn.Sequential(
            block(channels, width, stride),
            nn.MaxPool2d(2),
            block(width, 2 * width),
            nn.MaxPool2d(2),
            block(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        # On a CPU narrow convolutions of color images take 30 % less time where a pixel's channels lie side by side.
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.head(self.features(inputs))
        return logits


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(inputs))


#: Basic blocks in each of the four stages.
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ResNet(nn.Module):
    """ResNet-18 or ResNet-34 (He et al., 2016) with the CIFAR stem: a 3 x 3 convolution, no pooling.

    Args:
        channels: of the images.
        num_classes: K.
        depth: 18 or 34.
        stem: ``"cifar"`` for images of about 32 x 32, ``"imagenet"`` (7 x 7 convolution of stride 2
            and max pooling) for large ones.
    """

    def __init__(
        self, channels: int, num_classes: int, depth: int = 34, stem: str = "cifar"
    ) -> None:
        super().__init__()
        if stem == "cifar":
            first: list[nn.Module] = [nn.Conv2d(channels, 64, 3, padding=1, bias=False)]
        else:
            first = [nn.Conv2d(channels, 64, 7, 2, padding=3, bias=False)]
        first += [nn.BatchNorm2d(64), nn.ReLU(inplace=True)]
        if stem != "cifar":
            first.append(nn.MaxPool2d(3, 2, padding=1))
        self.stem = nn.Sequential(*first)
        blocks: list[nn.Module] = []
        inputs = 64
        for stage, count in enumerate(RESNET_BLOCKS[depth]):
            outputs = 64 * 2**stage
            for k in range(count):
                stride = 2 if k == 0 and stage > 0 else 1
                blocks.append(_BasicBlock(inputs, outputs, stride))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = self.blocks(self.stem(inputs)).mean((2, 3))
        logits: Tensor = self.head(hidden)
        return logits


def mlp(input_size: int, num_classes: int, width: int = 256) -> nn.Module:
    """``input_size - width - width - num_classes`` with ReLU."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(input_size, width),
        nn.ReLU(),
        nn.Linear(width, width),
        nn.ReLU(),
        nn.Linear(width, num_classes),
    )


def build_model(
    spec: str,
    input_shape: tuple[int, ...],
    num_classes: int,
    *,
    width: int | None = None,
    stride: int | None = None,
    mean: Tensor | None = None,
    std: Tensor | None = None,
    pretrained: str = "auto",
) -> nn.Module:
    """Build a model with fresh weights from torch's current random state.

    Args:
        spec: ``auto`` (small CNN for images, MLP otherwise), ``mlp``, ``cnn``, ``resnet18``,
            ``resnet34``, ``timm:NAME`` (all of it is trained; for frozen ones see `mild_ext.training.backbone`), or
            ``module:factory``; the factory is called with ``(input_shape, num_classes)`` and returns an ``nn.Module``.
        input_shape: shape of one input, ``[C, H, W]`` for images.
        num_classes: number of logits.
        width: hidden width of the MLP, or channels of the small CNN's first block; None: their own.
        stride: of the small CNN's first convolution; None: 2 for images of 48 pixels and more, else 1.
        mean, std: statistics of the inputs; given, the model starts with `Standardize`.
        pretrained: ``none`` or ``auto``, ``timm`` (weights that timm downloads), or a ``.safetensors`` file, a saved
            model of a run included. Layers of another shape, as a rule the last one, start afresh.

    Raises:
        ValueError: an unknown name, or a model that does not suit the inputs.
        ImportError: timm, or the factory's module, is not installed.
    """
    image = len(input_shape) == 3
    own = {} if width is None else {"width": width}
    if spec == "auto":
        spec = "cnn" if image else "mlp"
    if spec == "mlp":
        size = 1
        for dimension in input_shape:
            size *= dimension
        net = mlp(size, num_classes, **own)
    elif spec in ("cnn", "resnet18", "resnet34") or spec.startswith("timm:"):
        if not image:
            raise ValueError(
                f"model {spec} needs images [C, H, W]; inputs are {input_shape}: use mlp"
            )
        if spec == "cnn":
            if stride is None:
                stride = 2 if min(input_shape[1:]) >= 48 else 1
            net = SmallCNN(input_shape[0], num_classes, stride=stride, **own)
        elif spec.startswith("resnet"):
            stem = "imagenet" if min(input_shape[1:]) >= 96 else "cifar"
            net = ResNet(input_shape[0], num_classes, int(spec.removeprefix("resnet")), stem)
        else:
            try:
                timm: Any = importlib.import_module("timm")
            except ImportError as error:
                raise ImportError(
                    f"model {spec} needs timm: pip install 'mild_ext[timm]'"
                ) from error
            net = timm.create_model(
                spec.removeprefix("timm:"),
                pretrained=pretrained == "timm",
                num_classes=num_classes,
                in_chans=input_shape[0],
            )
    elif spec.startswith("torchvision:"):
        raise ValueError(
            f"model {spec} comes pretrained and frozen: leave out pretrained={pretrained}, or train all of a timm:NAME"
        )
    elif ":" in spec:
        net = import_factory(spec)(input_shape, num_classes)
        if not isinstance(net, nn.Module):
            raise TypeError(f"{spec} must return an nn.Module, got {type(net).__name__}")
    else:
        raise ValueError(
            f"unknown model {spec!r}; use mlp, cnn, resnet18, resnet34, timm:NAME, torchvision:NAME or "
            "module:factory"
        )
    if pretrained not in ("auto", "none", "timm"):
        load_matching(net, Path(pretrained))
    elif pretrained == "timm" and not spec.startswith("timm:"):
        raise ValueError(f"pretrained=timm goes with a model timm:NAME, not with {spec}")
    if mean is None or std is None:
        return net
    return nn.Sequential(Standardize(mean, std, image=image), net)


def load_matching(net: nn.Module, path: Path) -> list[str]:
    """Load the tensors of a ``.safetensors`` file whose name and shape fit the model.

    Args:
        net: changed in place.
        path: file of tensors named as in ``net.state_dict()``, or as a run saves its model.

    Returns:
        Names of the model's tensors that were not in the file or have another shape there.

    Raises:
        ValueError: no such file, no safetensors, or fewer than half of the model's tensors fit.
    """
    if not path.is_file():
        raise ValueError(
            f"there is no file {path} (pretrained must be auto, none, timm, or such a file)"
        )
    with reading(path, "pretrained must be a safetensors file"):
        found = load_file(path)
    if "0.mean" in found:  # a model with Standardize in front
        found = {name.removeprefix("1."): value for name, value in found.items()}
    own = net.state_dict()
    fitting = {
        name: value
        for name, value in found.items()
        if name in own and own[name].shape == value.shape
    }
    if 2 * len(fitting) < len(own):
        raise ValueError(f"{path} is of another model: {len(fitting)} of {len(own)} tensors fit")
    net.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
