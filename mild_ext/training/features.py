"""A data set of images as features of a frozen backbone, computed once and kept beside the run.

The file of features says of what they are: of these images, by this network with these weights, prepared in this way.
Of anything else, or damaged, it is not used but made again.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mild_ext import processes
from mild_ext.data.batches import Batches
from mild_ext.data.readers.images import ImageFiles
from mild_ext.data.sets import ArrayDataset, LabeledData, Part, some_inputs, statistics_of
from mild_ext.reading import UnreadableFile
from mild_ext.sealed import read_tensors, write_tensors
from mild_ext.training.backbone import Backbone, load_backbone
from mild_ext.training.recipe import Recipe

FEATURES = "features.safetensors"
FORMAT = "mild_ext.features.v1"
#: Images at a time.
BATCH = 64


def backbone_for(data: LabeledData, recipe: Recipe) -> Backbone:
    """The recipe's backbone for these images; see `load_backbone` for what can be wrong."""
    statistics = None
    if len(data.input_shape) == 3 and some_inputs(_first(data.train)).dtype != torch.uint8:
        statistics = statistics_of(some_inputs(data.plain or data.train), "image")
    return load_backbone(
        recipe.model, data.input_shape, weights=recipe.weights, statistics=statistics
    )


def with_features(
    data: LabeledData,
    backbone: Backbone,
    model: str,
    *,
    folder: Path | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
    say: Callable[[str], None] = lambda text: None,
    show: bool = False,
) -> LabeledData:
    """The data with features ``[N, F]`` in place of images; kind ``"vector"``.

    Args:
        data: of images.
        backbone: of `backbone_for`.
        model: its name, for people.
        folder: where the features are kept; None: nowhere.
        device: where to compute them.
        workers: worker processes that read images from disk.
        say: hears of what is computed, or found.
        show: a bar, where there is a terminal.
    """
    parts = _parts(data)
    key = "" if folder is None else _key(model, backbone, parts)
    features = None if folder is None else _kept(folder / FEATURES, key, parts, say)
    if features is None:
        started = time.monotonic()
        count = sum(map(_length, parts.values()))
        side = int(backbone.side)
        say(f"Features of {count:,} images by {model}, at {side} x {side} pixels: once, and kept.")
        backbone = backbone.to(device)
        backbone.net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        with tqdm(
            total=count, desc="features", unit="image", leave=False, disable=None if show else True
        ) as bar:
            features = {
                name: torch.cat(list(_computed(backbone, part, device, workers, bar)))
                for name, part in parts.items()
            }
        backbone.cpu()
        say(f"{backbone.num_features:,} features an image, in {time.monotonic() - started:.0f} s.")
        if folder is not None and processes.rank() == 0:
            write_tensors(folder / FEATURES, features, {"format": FORMAT, "key": key})
    mean, std = statistics_of(features["train"], "vector")
    shape = data.input_shape

    def part(name: str, dataset: Dataset[Any] | None) -> Dataset[Any] | None:
        return None if dataset is None else ArrayDataset(features[name], _labels(dataset))

    return replace(
        data,
        train=ArrayDataset(features["train"], data.labels),
        plain=None,
        test=part("test", data.test),
        validation=part("validation", data.validation),
        more_tests={
            name: ArrayDataset(features[f"test {name}"], _labels(dataset))
            for name, dataset in data.more_tests.items()
        },
        kind="vector",
        input_shape=tuple(features["train"].shape[1:]),
        mean=mean,
        std=std,
        encoding=None,
        picture_shape=(shape[0], shape[1], shape[2]),
    )


def image_features(
    images: ArrayLike | Tensor,
    model: str,
    *,
    weights: str | None = None,
    device: torch.device | str = "cpu",
) -> NDArray[np.float32]:
    """Features of images by a frozen pretrained network, to learn from with anything that takes vectors.

    Args:
        images: ``[N, C, H, W]`` or ``[N, H, W, C]``, C being 1 or 3: uint8 gray levels, or floats of any scale.
        model: ``timm:NAME`` or ``torchvision:NAME``.
        weights: a file of the network's weights, ``.safetensors`` or a ``state_dict`` that `torch.save` wrote; None:
            the library's own, from its cache or the network.
        device: where to compute them.

    Returns:
        float32 ``[N, F]``.

    Raises:
        TypeError: neither uint8 nor floats.
        ValueError: no images, values that are not finite, no such network, or no weights for it.
        ImportError: the library is not installed.
    """
    inputs = torch.as_tensor(images)
    if inputs.dtype != torch.uint8 and not inputs.is_floating_point():
        raise TypeError(
            f"images must be uint8 gray levels or floats, got {inputs.dtype}; use images.astype('uint8')"
        )
    if inputs.is_floating_point() and not bool(inputs.isfinite().all()):
        raise ValueError("images must be finite, but some hold NaN or infinity; leave these out")
    if inputs.ndim != 4 or len(inputs) == 0:
        raise ValueError(
            f"images must be [N, C, H, W] with N of 1 or more, got {list(inputs.shape)}"
        )
    if inputs.shape[1] not in (1, 3) and inputs.shape[3] in (1, 3):
        inputs = inputs.permute(0, 3, 1, 2)
    statistics = None if inputs.dtype == torch.uint8 else statistics_of(inputs, "image")
    backbone = load_backbone(
        model, tuple(inputs.shape[1:]), weights=weights, statistics=statistics
    ).to(device)
    with torch.no_grad():
        parts = [backbone(some.to(device)).cpu() for some in inputs.split(BATCH)]
    found: NDArray[np.float32] = torch.cat(parts).numpy()
    return found


def _parts(data: LabeledData) -> dict[str, Dataset[Any]]:
    """The data's sets of images by name; that to train on without random augmentation."""
    found = {"train": data.plain or data.train, "test": data.test, "validation": data.validation}
    found |= {f"test {name}": dataset for name, dataset in data.more_tests.items()}
    return {name: dataset for name, dataset in found.items() if dataset is not None}


def _computed(
    backbone: Backbone, dataset: Dataset[Any], device: torch.device | str, workers: int, bar: Any
) -> Iterator[Tensor]:
    with torch.inference_mode():
        batches = Batches(dataset, batch_size=BATCH, device=device, workers=workers)
        for _, images, _ in batches.epoch():
            yield backbone(images).cpu().clone()
            bar.update(len(images))


def _length(dataset: Dataset[Any]) -> int:
    return len(dataset)  # type: ignore[arg-type]


def _labels(dataset: Dataset[Any]) -> Tensor:
    labels = getattr(dataset, "labels", None)
    if labels is None:
        labels = [int(dataset[k][1]) for k in range(_length(dataset))]
    return torch.as_tensor(labels, dtype=torch.int64)


def _first(dataset: Dataset[Any]) -> Dataset[Any]:
    """Its first sample, as a data set."""
    if isinstance(dataset, ArrayDataset):
        return ArrayDataset(dataset.inputs[:1], dataset.labels[:1])
    return Part(dataset, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))


# ------------------------------------------------------------------------------------- kept features


def _kept(
    path: Path, key: str, parts: dict[str, Dataset[Any]], say: Callable[[str], None]
) -> dict[str, Tensor] | None:
    """The features of a file, where they are of these images by this backbone."""
    if not path.is_file():
        return None
    try:
        content = read_tensors(path, [FORMAT], "file of features")
    except UnreadableFile as error:
        say(f"note: {error}; they are computed again")
        return None
    fits = content.header.get("key") == key and set(content.tensors) == set(parts)
    if not fits or any(len(content.tensors[name]) != _length(parts[name]) for name in parts):
        say(f"note: {path} is of other images or another network; features are computed again")
        return None
    return dict(content.tensors)


def _key(model: str, backbone: Backbone, parts: dict[str, Dataset[Any]]) -> str:
    """Tells apart what features are of: the network, its weights, the preparation, the images."""
    digest = hashlib.sha256(json.dumps([FORMAT, model]).encode())
    for name, value in sorted(backbone.state_dict().items()):
        digest.update(name.encode() + _bytes(value))
    for name, dataset in parts.items():
        digest.update(name.encode())
        _add_content(digest, dataset)
    return digest.hexdigest()


def _add_content(digest: Any, dataset: Dataset[Any]) -> None:
    """All of it in memory; of files their names, sizes and times; of anything else some samples spread evenly."""
    if isinstance(dataset, Part):
        digest.update(_bytes(dataset.ids))
        _add_content(digest, dataset.dataset)
    elif isinstance(dataset, ImageFiles):
        digest.update(repr(dataset.wanted).encode())
        for k in range(len(dataset)):
            name = dataset.sources.name(k)
            digest.update(name.encode("utf-8", "surrogateescape"))
            found = Path(name).stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}".encode())
    else:
        digest.update(_bytes(some_inputs(dataset, 256)))


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return (
        str((tensor.dtype, tuple(tensor.shape))).encode() + flat.view(torch.uint8).numpy().tobytes()
    )
