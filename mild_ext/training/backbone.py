"""Pretrained networks of timm and torchvision, frozen: from images to vectors of features.

Their weights are the library's own, from its cache or the network, or those of a file; never random ones. A file is
read as plain tensors, and nothing in it is executed.
"""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from mild_ext.data.random_state import isolated_random_state
from mild_ext.reading import UnreadableFile, reading, require_file, shown

#: Images are enlarged at most so many times, where the network takes smaller ones than it was trained on.
MOST_ENLARGED = 4
#: Most pixels a side that a saved backbone may bring images to.
MOST_SIDE = 4096


class Backbone(nn.Module):
    """A frozen network with the preparation of images in front.

    Args:
        net: from ``[B, 3, side, side]``, standardized, to features ``[B, F]``.
        side: pixels a side that images are brought to, their proportions not kept.
        mean, std: of the three channels, in the unit of the images that will come.

    Attributes:
        num_features: F.
    """

    mean: Tensor
    std: Tensor
    side: Tensor

    def __init__(self, net: nn.Module, side: int, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.net = net.eval().requires_grad_(False)
        self.register_buffer("side", torch.tensor(side))
        self.register_buffer("mean", mean.to(torch.float32).reshape(1, 3, 1, 1).clone())
        self.register_buffer("std", std.to(torch.float32).reshape(1, 3, 1, 1).clone())
        self.num_features = 0

    def train(self, mode: bool = True) -> Backbone:
        """Frozen: its network stays in evaluation mode."""
        super().train(mode)
        self.net.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Features, float32 ``[B, F]``, of images ``[B, C, H, W]``, C being 1 or 3."""
        side = int(self.side)
        inputs = images.to(self.mean.dtype)
        inputs = (inputs.expand(-1, 3, -1, -1) - self.mean) / self.std
        if tuple(inputs.shape[2:]) != (side, side):
            inputs = F.interpolate(
                inputs, (side, side), mode="bilinear", antialias=True, align_corners=False
            )
        features: Tensor = self.net(inputs.contiguous(memory_format=torch.channels_last))
        return features.flatten(1).float()


class _Architecture(NamedTuple):
    """A network without its last layer, and its images: pixels a side, mean and deviation in 0 .. 1."""

    net: nn.Module
    side: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


def load_backbone(
    model: str,
    input_shape: tuple[int, ...],
    *,
    weights: str | None = None,
    statistics: tuple[Tensor, Tensor] | None = None,
) -> Backbone:
    """A pretrained network, frozen.

    Args:
        model: ``timm:NAME`` or ``torchvision:NAME``.
        input_shape: ``[C, H, W]`` of the images, C being 1 or 3.
        weights: a file of them, ``.safetensors`` or a ``state_dict`` that `torch.save` wrote; None: the library's own.
        statistics: mean and deviation ``[C]`` of the images, where they are no gray levels 0 to 255. They are then
            standardized by these, as the network's own images were by theirs.

    Raises:
        ValueError: no such network, no weights, weights of another network, or inputs that are no images.
        ImportError: the library is not installed.
    """
    if len(input_shape) != 3 or input_shape[0] not in (1, 3):
        raise ValueError(
            f"model {model} needs images of 1 or 3 channels [C, H, W]; inputs are {input_shape}: use mlp"
        )
    with isolated_random_state():
        found = _LIBRARIES[model.partition(":")[0]](model, weights is None)
    if weights is not None:
        _load_weights(found.net, Path(weights).expanduser(), model)
    if statistics is None:
        mean, std = (torch.tensor(values) * 255 for values in (found.mean, found.std))
    else:
        mean, std = (values.flatten().expand(3) for values in statistics)
    side = min(found.side, MOST_ENLARGED * max(input_shape[1:]))
    backbone = Backbone(found.net, side, mean, std)
    try:
        backbone.num_features = _count_features(backbone, input_shape)
    except Exception:  # some take one size of images only, and each says so in its own way
        if side == found.side:
            raise
        backbone.side.fill_(found.side)
        backbone.num_features = _count_features(backbone, input_shape)
    return backbone


def empty_backbone(model: str, state: Mapping[str, Tensor]) -> Backbone:
    """A backbone as it was saved: ``state`` is its ``state_dict``, weights and all; nothing is downloaded.

    Raises:
        ValueError: no such network, or a state that is not one of it.
        ImportError: the library is not installed.
    """
    with isolated_random_state():
        found = _LIBRARIES[model.partition(":")[0]](model, False)
    backbone = Backbone(found.net, 1, torch.zeros(3), torch.ones(3))
    backbone.load_state_dict(dict(state))
    if not 1 <= int(backbone.side) <= MOST_SIDE:
        raise ValueError(f"side must be in [1, {MOST_SIDE}], got {int(backbone.side)}")
    return backbone


def _count_features(backbone: Backbone, input_shape: tuple[int, ...]) -> int:
    with torch.no_grad():
        return int(backbone(torch.zeros(1, *input_shape)).shape[1])


# ------------------------------------------------------------------------------------- the libraries


def _import(name: str, model: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"model {model} needs {name}: pip install 'mild_ext[backbones]'"
        ) from error
    except (
        Exception
    ) as error:  # PyTorch's and torchvision's builds must fit; else it is a RuntimeError
        raise ImportError(
            f"model {model} needs {name}, which is installed but cannot be imported "
            f"({_first_line(error)}); install the release that fits this torch {torch.__version__}"
        ) from error


def _from_timm(model: str, own_weights: bool) -> _Architecture:
    timm, name = _import("timm", model), model.partition(":")[2]
    try:
        net = timm.create_model(name, pretrained=own_weights, num_classes=0)
    except Exception as error:  # of its own, of the hub's, of the network's
        raise _cannot_be_made(model, error, own_weights) from error
    config = timm.data.resolve_model_data_config(net)
    return _Architecture(net, max(config["input_size"][1:]), config["mean"], config["std"])


def _from_torchvision(model: str, own_weights: bool) -> _Architecture:
    models, name = _import("torchvision.models", model), model.partition(":")[2]
    try:
        known = models.get_model_weights(name).DEFAULT
        with warnings.catch_warnings():  # of how weights begin, which are replaced
            warnings.simplefilter("ignore", FutureWarning)
            net = models.get_model(name, weights=known if own_weights else None)
    except Exception as error:
        raise _cannot_be_made(model, error, own_weights) from error
    layers = [path for path, layer in net.named_modules() if isinstance(layer, nn.Linear)]
    if not layers or not hasattr(known.transforms(), "crop_size"):
        raise ValueError(f"{model} classifies no images by a linear layer; use another network")
    above, _, last = layers[-1].rpartition(".")
    setattr(net.get_submodule(above), last, nn.Identity())
    # GoogLeNet and Inception: alike, whether the weights are the library's, of a file, or of a run.
    for head in ("aux1", "aux2", "AuxLogits"):  # for training alone
        if hasattr(net, head):
            setattr(net, head, None)
    if hasattr(net, "transform_input"):
        net.transform_input = True
    images = known.transforms()
    return _Architecture(net, images.crop_size[0], tuple(images.mean), tuple(images.std))


_LIBRARIES: dict[str, Callable[[str, bool], _Architecture]] = {
    "timm": _from_timm,
    "torchvision": _from_torchvision,
}


def _cannot_be_made(model: str, error: Exception, own_weights: bool) -> ValueError:
    """What a library's refusal means: no such network, or weights that are not to be had."""
    reason = _first_line(error)
    if re.match(r"unknown model|invalid pretrained tag", reason, re.IGNORECASE):
        return ValueError(f"there is no network {model} ({reason})")
    if not own_weights:
        return ValueError(f"the network {model} cannot be made: {reason}")
    return ValueError(
        f"the weights of {model} are neither in its library's cache nor to be had from the network ({reason}); put "
        "them here and give the file: --weights FILE (.safetensors or .pth)"
    )


def _first_line(error: Exception) -> str:
    return shown((str(error).strip() or type(error).__name__).splitlines()[0], 200)


# ------------------------------------------------------------------------------------- weights of a file


def _load_weights(net: nn.Module, path: Path, model: str) -> None:
    """Load a file's tensors; all of the network's must be among them.

    Raises:
        ValueError: no such file, none of tensors, or of another network.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}: --weights is a file of the weights of {model}")
    found = _read_weights(path)
    own = net.state_dict()
    absent = [
        name
        for name, value in own.items()
        if (name not in found or found[name].shape != value.shape)
        and not name.endswith("num_batches_tracked")
    ]
    if absent:
        raise ValueError(
            f"{path} holds weights of another network than {model}: {len(absent)} of its {len(own)} tensors are "
            f"missing there or have another shape, the first: {absent[0]}"
        )
    net.load_state_dict({name: found[name] for name in own if name in found}, strict=False)


def _read_weights(path: Path) -> dict[str, Tensor]:
    require_file(path)
    remedy = "weights are a safetensors file, or a state_dict as torch.save writes it"
    with reading(path, remedy):
        if path.suffix == ".safetensors":
            return load_file(path)
        if tuple(int(n) for n in re.findall(r"\d+", torch.__version__)[:2]) < (2, 6):
            # CVE-2025-32434: before, weights_only was no protection.
            raise UnreadableFile(
                f"{path} is no .safetensors file, and only torch 2.6 and newer read others safely: save it as one"
            )
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ValueError("it is damaged, or holds more than tensors") from error
        for name in ("state_dict", "model"):  # as trainings save them
            if isinstance(found, dict) and isinstance(found.get(name), dict):
                found = found[name]
        if not isinstance(found, dict) or not all(isinstance(v, Tensor) for v in found.values()):
            raise ValueError("it is no state_dict")
        return {str(name).removeprefix("module."): value for name, value in found.items()}
