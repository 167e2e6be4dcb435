"""Pictures that a table names, a path in each row."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.readers.folder import MEMORY_LIMIT, choose_format
from mild_ext.data.readers.images import (
    ImageFiles,
    ImageFormat,
    decode,
    read_all,
    read_header,
    report_unreadable,
)
from mild_ext.data.sets import ArrayDataset, some_inputs, statistics_of


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size.

    Attributes:
        dataset: map-style, of ``(input, label)``.
        positions: which of the paths could be read.
        wanted: what each was brought to.
        mean, std: per channel, in gray levels.
        messages: what was left out or resized.
    """

    dataset: Dataset[Any]
    positions: list[int]
    wanted: ImageFormat
    mean: Tensor
    std: Tensor
    messages: list[str]


def _is_inside(root: str, path: str) -> bool:
    """Whether a path in a table stays inside its folder: tables come from others, as lists of paths do."""
    if "\0" in path:
        return False
    whole = os.path.normpath(os.path.join(root, path))
    return os.path.commonpath([root, whole]) == root


def load_pictures(
    folder: Path,
    paths: Sequence[str],
    labels: Tensor,
    *,
    size: int | None = None,
    side: int | None = None,
) -> Pictures:
    """Read pictures, or prepare to read them while training where they are too many for memory.

    Args:
        folder: that the paths are relative to.
        paths: N paths.
        labels: int64 ``[N]``.
        size, side: in pixels; as for a folder of images.

    Raises:
        ValueError: too many cannot be read.
        ImportError: Pillow is missing.
    """
    root = os.path.abspath(folder)
    outside = [p for p in paths if not _is_inside(root, p)]
    if outside:
        raise ValueError(
            f"the table must name pictures inside {folder}, but {len(outside)} of {len(paths)} lie elsewhere: "
            f"{outside[0]!r}; name a folder that holds all of them: ,root=DIR"
        )
    headers, failures, positions = read_all(
        lambda name: read_header(folder / name), paths, paths, "looking at images"
    )
    messages = report_unreadable(failures, len(paths), str(folder))
    wanted, more = choose_format([headers[k] for k in positions], size, None, side)
    messages += more
    if len(positions) * int(np.prod(wanted.shape)) <= MEMORY_LIMIT:
        names = [paths[k] for k in positions]
        images, failures, worked = read_all(
            lambda name: decode(folder / name, wanted), names, names, "reading images"
        )
        messages += report_unreadable(failures, len(paths), str(folder))
        positions = [positions[k] for k in worked]
        pixels = torch.from_numpy(np.stack([images[k] for k in worked]))
        dataset: Dataset[Any] = ArrayDataset(pixels, labels[torch.tensor(positions)])
    else:
        dataset = ImageFiles(
            folder, [paths[k] for k in positions], labels[torch.tensor(positions)], wanted
        )
    mean, std = statistics_of(some_inputs(dataset), "image")
    return Pictures(dataset, positions, wanted, mean, std, messages)
