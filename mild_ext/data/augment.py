"""Augmentation of whole batches on the device they are on.

Random numbers come from the CPU generator, so the same seed gives the same augmentation on every
device.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

Augment = Callable[[Tensor, torch.Generator], Tensor]


def crop(images: Tensor, generator: torch.Generator, padding: int = 4) -> Tensor:
    """Shift each image by up to ``padding`` pixels in both directions; zeros (black) come in.

    Args:
        images: ``[B, C, H, W]``, any dtype.
    """
    batch, _, height, width = images.shape
    padded = F.pad(images, (padding, padding, padding, padding))
    offsets = torch.randint(0, 2 * padding + 1, (2, batch), generator=generator)
    top, left = offsets.to(images.device)
    rows = (top[:, None] + torch.arange(height, device=images.device))[:, None, :, None]
    columns = (left[:, None] + torch.arange(width, device=images.device))[:, None, None, :]
    sample = torch.arange(batch, device=images.device)[:, None, None, None]
    channel = torch.arange(images.shape[1], device=images.device)[None, :, None, None]
    return padded[sample, channel, rows, columns]


def flip(images: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror half of the images left to right."""
    chosen = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(chosen[:, None, None, None], images.flip(3), images)


def augmentation(name: str, input_shape: tuple[int, ...]) -> Augment | None:
    """The augmentation ``none``, ``crop``, ``flip``, ``crop-flip`` or ``auto`` for inputs of a shape.

    ``auto`` is ``crop-flip`` for color images and nothing otherwise: digits and letters must not be
    mirrored, and vectors have no neighbours to shift to.
    """
    if name == "auto":
        name = "crop-flip" if len(input_shape) == 3 and input_shape[0] == 3 else "none"
    if name == "none":
        return None
    if len(input_shape) != 3:
        raise ValueError(f"augment={name} needs images [C, H, W]; inputs are {input_shape}")
    if name == "flip":
        return flip
    padding = max(1, min(input_shape[1:]) // 8)
    if name == "crop":
        return lambda images, generator: crop(images, generator, padding)
    if name == "crop-flip":
        return lambda images, generator: flip(crop(images, generator, padding), generator)
    raise ValueError(f"unknown augmentation {name!r}; use auto, none, crop, flip or crop-flip")
