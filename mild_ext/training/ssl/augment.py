"""Weak and strong augmentation of whole batches, on the device they are on.

Images: weak is the recipe's shift (and flip, for color images); strong is that, then RandAugment
(Cubuk et al., 2020) over FixMatch's set of operations, then a gray square (Cutout, DeVries & Taylor,
2017). Other inputs (feature vectors): weak adds Gaussian noise of a tenth of each feature's standard
deviation; strong replaces 30 % of the features by those of other samples (the corruption of SCARF,
Bahri et al., 2022), because vectors have no geometry that would tell which changes keep the class.

Random numbers come from a CPU generator, so a seed gives the same augmentation on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from mild_ext.data.augment import Augment, augmentation

#: Weight of each color channel in the brightness of a pixel (ITU-R BT.601).
_LUMA = (0.299, 0.587, 0.114)


def weak_strong(
    recipe_augment: str, input_shape: tuple[int, ...], value_range: tuple[float, float]
) -> tuple[Augment, Augment]:
    """The weak and the strong augmentation for inputs of a shape.

    Args:
        recipe_augment: ``auto`` (shift; flip too for color images), ``none``, ``crop`` or
            ``crop-flip``: the weak augmentation of images.
        input_shape: shape of one input; three dimensions mean an image ``[C, H, W]``.
        value_range: value of black and of white in the images.
    """
    if len(input_shape) != 3:
        return jitter, corrupt_features
    if recipe_augment == "auto" and input_shape[0] != 3:
        recipe_augment = "crop"  # letters and digits may be shifted, never mirrored
    weak = augmentation(recipe_augment, input_shape) or (lambda images, generator: images)
    low, high = value_range

    def strong(images: Tensor, generator: torch.Generator) -> Tensor:
        unit = (weak(images, generator).to(torch.float32) - low) / (high - low)
        unit = cutout(rand_augment(unit.clamp(0, 1), generator), generator)
        return unit * (high - low) + low

    return weak, strong


def jitter(inputs: Tensor, generator: torch.Generator, scale: float = 0.1) -> Tensor:
    """Add Gaussian noise of ``scale`` standard deviations of each feature within the batch."""
    inputs = inputs.to(torch.float32)
    noise = torch.randn(inputs.shape, generator=generator).to(inputs.device)
    return inputs + scale * inputs.std(0, unbiased=False) * noise


def corrupt_features(inputs: Tensor, generator: torch.Generator, rate: float = 0.3) -> Tensor:
    """Replace each feature with probability ``rate`` by that of another sample in the batch."""
    inputs = inputs.to(torch.float32)
    flat = inputs.flatten(1)
    chosen = torch.rand(flat.shape, generator=generator) < rate
    donor = torch.randint(0, max(len(flat), 1), flat.shape, generator=generator)
    other = flat.gather(0, donor.to(flat.device))
    return torch.where(chosen.to(flat.device), other, flat).reshape(inputs.shape)


# --------------------------------------------------------------------------------- RandAugment
# Images are float32 [B, C, H, W] in [0, 1]; strength is float32 [B] in [0, 1].


def rand_augment(
    images: Tensor, generator: torch.Generator, count: int = 2, probability: float = 0.5
) -> Tensor:
    """Apply ``count`` operations to every image, each drawn at random with a random strength.

    As in FixMatch, an operation drawn is carried out with ``probability``, and its strength is
    uniform instead of tuned.

    Args:
        images: float32 ``[B, C, H, W]`` in [0, 1].

    Returns:
        The same shape and range.
    """
    operations = [o for o in OPERATIONS if images.shape[1] == 3 or o is not saturation]
    for _ in range(count):
        which = torch.randint(0, len(operations), (len(images),), generator=generator)
        strength, sign, skip = torch.rand((3, len(images)), generator=generator)
        strength = torch.where(sign < 0.5, -strength, strength)
        which[skip >= probability] = -1
        result = images.clone()
        for number, operation in enumerate(operations):
            members = (which == number).nonzero().flatten()
            if len(members):
                where = members.to(images.device)
                result[where] = operation(images[where], strength[members].to(images.device))
        images = result.clamp(0, 1)
    return images


def cutout(images: Tensor, generator: torch.Generator, largest: float = 0.5) -> Tensor:
    """Cover a square of each image with gray; its side is up to ``largest`` of the image's."""
    batch, _, height, width = images.shape
    side, y, x = torch.rand((3, batch), generator=generator).to(images.device)
    half = 0.5 * largest * min(height, width) * side
    rows = torch.arange(height, device=images.device) + 0.5
    columns = torch.arange(width, device=images.device) + 0.5
    inside = ((rows - (y * height)[:, None]).abs() < half[:, None])[:, None, :, None] & (
        (columns - (x * width)[:, None]).abs() < half[:, None]
    )[:, None, None, :]
    return images.masked_fill(inside, 0.5)


def _warp(images: Tensor, matrix: list[Tensor]) -> Tensor:
    """Affine map given by its six coefficients ``[B]``; black comes in from outside."""
    theta = torch.stack(matrix, 1).reshape(-1, 2, 3)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def _blend(images: Tensor, other: Tensor, strength: Tensor) -> Tensor:
    """From ``images`` towards ``other`` (strength -0.9) or away from it (0.9)."""
    factor = 1 + 0.9 * strength[:, None, None, None]
    return other + factor * (images - other)


def _gray(images: Tensor) -> Tensor:
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    weights = torch.tensor(_LUMA, device=images.device).reshape(1, 3, 1, 1)
    return (images * weights).sum(1, keepdim=True)


def identity(images: Tensor, strength: Tensor) -> Tensor:
    return images


def rotate(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 degrees."""
    angle = strength * math.pi / 6
    aspect = images.shape[2] / images.shape[3]
    zero = torch.zeros_like(angle)
    cos, sin = angle.cos(), angle.sin()
    return _warp(images, [cos, -sin * aspect, zero, sin / aspect, cos, zero])


def shear_x(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, [one, 0.3 * strength, zero, zero, one, zero])


def shear_y(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 0.3."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, [one, zero, zero, 0.3 * strength, one, zero])


def translate_x(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 % of the width; the grid spans 2."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, [one, zero, 0.6 * strength, zero, one, zero])


def translate_y(images: Tensor, strength: Tensor) -> Tensor:
    """By up to 30 % of the height."""
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _warp(images, [one, zero, zero, zero, one, 0.6 * strength])


def brightness(images: Tensor, strength: Tensor) -> Tensor:
    """Towards black, or away from it."""
    return _blend(images, torch.zeros_like(images), strength)


def contrast(images: Tensor, strength: Tensor) -> Tensor:
    """Towards each image's mean gray, or away from it."""
    return _blend(images, _gray(images).mean((2, 3), keepdim=True), strength)


def saturation(images: Tensor, strength: Tensor) -> Tensor:
    """Towards gray, or away from it (PIL's Color)."""
    return _blend(images, _gray(images), strength)


def sharpness(images: Tensor, strength: Tensor) -> Tensor:
    """Towards a smoothed copy, or away from it."""
    kernel = torch.tensor([[1.0, 1, 1], [1, 5, 1], [1, 1, 1]], device=images.device) / 13
    kernel = kernel.expand(images.shape[1], 1, 3, 3)
    padded = F.pad(images, (1, 1, 1, 1), mode="replicate")
    return _blend(images, F.conv2d(padded, kernel, groups=images.shape[1]), strength)


def autocontrast(images: Tensor, strength: Tensor) -> Tensor:
    """Stretch each channel to the full range; a constant channel stays as it is."""
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    span = high - low
    return torch.where(span > 1e-6, (images - low) / span.clamp(min=1e-6), images)


def equalize(images: Tensor, strength: Tensor) -> Tensor:
    """Spread each channel's 256 gray levels evenly over the range."""
    levels = (images * 255).round().long().flatten(2)
    counts = torch.zeros(*levels.shape[:2], 256, dtype=torch.int64, device=images.device)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    below = counts.cumsum(2)
    first = below.gather(2, levels.amin(2, keepdim=True))  # pixels of the darkest level
    span = below[:, :, -1:] - first
    table = (below - first).clamp(min=0) / span.clamp(min=1)
    equal: Tensor = table.to(images.dtype).gather(2, levels).reshape(images.shape)
    return torch.where((span > 0)[..., None], equal, images)


def posterize(images: Tensor, strength: Tensor) -> Tensor:
    """Keep 4 to 8 of the 8 bits of each value."""
    step = 2.0 ** (4 * strength.abs()).round()[:, None, None, None]
    return ((images * 255) / step).floor() * step / 255


def solarize(images: Tensor, strength: Tensor) -> Tensor:
    """Invert the values above a threshold; the stronger, the lower the threshold."""
    threshold = 1 - strength.abs()[:, None, None, None]
    return torch.where(images > threshold, 1 - images, images)


#: FixMatch's operations (Sohn et al., 2020, appendix, table 12).
OPERATIONS: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    identity,
    autocontrast,
    brightness,
    contrast,
    equalize,
    posterize,
    rotate,
    saturation,
    sharpness,
    shear_x,
    shear_y,
    solarize,
    translate_x,
    translate_y,
)
