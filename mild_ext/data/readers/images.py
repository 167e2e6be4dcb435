"""Image files: decoded to one size, kept in memory or read from disk as training goes.

Needs Pillow, which is imported where it is used.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import threading
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, overload

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from mild_ext.files import as_text

_Array = np.ndarray[Any, Any]

EXTENSIONS = {
    *(".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".jp2", ".avif"),
}

#: Mean and standard deviation of ImageNet's training images, per channel, in gray levels 0 .. 255.
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406]) * 255
IMAGENET_STD = torch.tensor([0.229, 0.224, 0.225]) * 255

#: Images of more pixels are not decoded: a file of 20 kB can hold 10^8 of them. (A JPEG is decoded at an eighth of
#: its size where that is enough.)
MAX_PIXELS = 1 << 26
#: Larger ones are decoded one at a time, and brought to the mode that is needed strip by strip.
LARGE_PIXELS = 1 << 24
_ONE_AT_A_TIME = threading.Lock()

#: What is opened, by the content; Pillow would start other programs for some of the rest.
_FORMATS = ("JPEG", "MPO", "PNG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF")

#: More unreadable images than this share mean that something else is wrong.
LARGEST_UNREADABLE_SHARE = 0.2


@dataclass(frozen=True)
class ImageFormat:
    """What every image is brought to.

    The image is scaled, keeping its proportions, until it just covers ``margin`` times the wanted
    size; then ``height x width`` pixels are cut out of it. EXIF orientation is applied, transparency
    is laid over white, 16-bit gray levels are reduced to 8 bits.

    Attributes:
        channels: 1 (gray) or 3 (red, green, blue).
        height, width: in pixels.
        margin: 1 cuts the largest piece that fits; 256 / 224 is the usual choice for large images.
    """

    channels: int
    height: int
    width: int
    margin: float = 1.0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.channels, self.height, self.width


def require_pillow() -> Any:
    """Pillow's ``Image`` module.

    Raises:
        ImportError: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("reading images needs Pillow: pip install 'mild_ext[images]'") from error
    return Image


def decode(source: Any, wanted: ImageFormat, where: tuple[float, float] = (0.5, 0.5)) -> _Array:
    """One image as uint8 ``[channels, height, width]``.

    Args:
        source: a path, a binary file, or an open Pillow image.
        wanted: channels and size.
        where: position of the piece that is cut out, vertical and horizontal, each in [0, 1]; 0.5 is
            the centre.

    Raises:
        OSError, ValueError, and what else Pillow raises: the image cannot be read.
    """
    Image = require_pillow()
    if isinstance(source, Image.Image):
        return _bring_to(source, wanted, where)
    with open_image(source) as image:
        scale = wanted.margin * max(wanted.height, wanted.width) / min(image.size)
        # JPEG can be decoded at an eighth, a quarter or half of its size, which is much faster.
        image.draft(image.mode, tuple(int(np.ceil(n * scale)) for n in image.size))
        pixels = image.width * image.height
        if pixels > MAX_PIXELS:
            raise ValueError(_too_large(*image.size))
        with _ONE_AT_A_TIME if pixels > LARGE_PIXELS else contextlib.nullcontext():
            return _bring_to(image, wanted, where)


def open_image(source: Any) -> Any:
    """An image file, opened but not decoded.

    Raises:
        OSError, ValueError, and what else Pillow raises: no regular file, or no image.
    """
    Image = require_pillow()
    if isinstance(source, str | os.PathLike) and not stat.S_ISREG(os.stat(source).st_mode):
        raise ValueError("it is no regular file")
    Image.init()
    return Image.open(source, formats=[name for name in _FORMATS if name in Image.OPEN])


def _too_large(width: int, height: int) -> str:
    return f"it has {width} x {height} pixels, of which {MAX_PIXELS:,} are decoded at most; make it smaller"


def _bring_to(image: Any, wanted: ImageFormat, where: tuple[float, float]) -> _Array:
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    mode = "L" if wanted.channels == 1 else "RGB"
    if image.width * image.height > LARGE_PIXELS:
        least = wanted.margin * max(wanted.width / image.width, wanted.height / image.height)
        image = _in_strips(image, mode, max(1, int(0.5 / least)))
    else:
        image = _in_mode(image, mode)
    scale = wanted.margin * max(wanted.width / image.width, wanted.height / image.height)
    # The minimum takes care of rounding: the piece must not stick out by 1e-14 pixels.
    width, height = (
        min(wanted.width / scale, image.width),
        min(wanted.height / scale, image.height),
    )
    top, left = where[0] * (image.height - height), where[1] * (image.width - width)
    if (width, height) != image.size or scale != 1:
        box = (left, top, min(left + width, image.width), min(top + height, image.height))
        image = image.resize((wanted.width, wanted.height), Image.Resampling.BILINEAR, box=box)
    pixels = np.array(image, np.uint8)
    if wanted.channels == 1:
        return pixels[None]
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _in_strips(image: Any, mode: str, factor: int) -> Any:
    """A large image in another mode and ``factor`` times smaller, without a whole copy of it in full size."""
    from PIL import Image

    rows = factor * max(1, (1 << 22) // (factor * image.width))
    size = (-(-image.width // factor), -(-image.height // factor))
    result = Image.new(mode, size)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        result.paste(_in_mode(strip, mode).reduce(factor), (0, top // factor))
    return result


def _in_mode(image: Any, mode: str) -> Any:
    from PIL import Image

    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers; save it with 8 or 16 bits")
    if image.mode.startswith("I"):
        levels = np.asarray(image)
        image = Image.fromarray((levels.clip(0, 65535) >> 8).astype(np.uint8))
    if image.mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == mode else image.convert(mode)


@dataclass(frozen=True)
class ImageHeader:
    """Size as it is looked at (EXIF orientation applied), and whether there is no color."""

    height: int
    width: int
    gray: bool


def read_header(path: Any) -> ImageHeader:
    """Size and kind of an image, without decoding it."""
    with open_image(path) as image:
        smallest = 8 if image.format == "JPEG" else 1
        if image.width * image.height > MAX_PIXELS * smallest**2:
            raise ValueError(_too_large(*image.size))
        # Pillow decodes a whole PNG to look for EXIF data behind the pixels.
        has_exif = image.format != "PNG" or "exif" in image.info
        turned = has_exif and image.getexif().get(0x0112, 1) >= 5
        width, height = reversed(image.size) if turned else image.size
        gray = image.mode in ("1", "L", "LA", "La") or image.mode.startswith("I")
        return ImageHeader(height, width, gray)


@dataclass(frozen=True)
class Unreadable:
    """A file that could not be read, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{as_text(self.name)} ({self.reason})"


def read_all(
    function: Callable[[Any], Any], sources: Sequence[Any], names: Sequence[str], what: str
) -> tuple[list[Any], list[Unreadable], list[int]]:
    """Apply ``function`` to every source with a few threads; failures are collected.

    Returns:
        Results in order, with None where reading failed; the failures; and the positions that worked.
    """

    def attempt(source: Any) -> Any:
        # Decoders raise nearly anything on a damaged file (OSError, SyntaxError, struct.error, ...),
        # and no single file may end the whole run.
        try:
            return function(source)
        except ImportError:
            raise
        except Exception as error:
            return error

    results: list[Any] = []
    failures: list[Unreadable] = []
    with warnings.catch_warnings(), ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files
        bar = tqdm(
            pool.map(attempt, sources, chunksize=1),
            total=len(sources),
            desc=what,
            unit="image",
            leave=False,
            disable=None if len(sources) > 2000 else True,
        )
        for name, result in zip(names, bar, strict=True):
            if isinstance(result, Exception):
                text = re.split(" '|: | <", str(result), maxsplit=1)[
                    0
                ]  # not what Pillow calls the file
                reason = as_text(text) or type(result).__name__
                failures.append(Unreadable(name, reason))
                result = None
            results.append(result)
    worked = [k for k, result in enumerate(results) if result is not None]
    return results, failures, worked


def report_unreadable(failures: Sequence[Unreadable], total: int, where: str) -> list[str]:
    """A message about the files left out.

    Raises:
        ValueError: none can be read, or so many cannot that something else must be wrong.
    """
    if not failures:
        return []
    listed = ", ".join(str(f) for f in failures[:5]) + (", ..." if len(failures) > 5 else "")
    if len(failures) > LARGEST_UNREADABLE_SHARE * total:
        raise ValueError(f"{len(failures)} of {total} images in {where} cannot be read: {listed}")
    return [f"left out {len(failures)} of {total} images in {where} that cannot be read: {listed}"]


class PathList(Sequence[str]):
    """Many strings in one piece of memory.

    A list of a million strings is copied piece by piece into every worker process as its reference
    counts change; one array is not.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        encoded = [path.encode("utf-8", "surrogateescape") for path in paths]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        self._text = np.frombuffer(b"".join(encoded), np.uint8)
        self._ends = ends

    def __len__(self) -> int:
        return len(self._ends) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[k] for k in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"index {index} of {len(self)} paths")
        index %= len(self)
        piece = self._text[self._ends[index] : self._ends[index + 1]]
        return piece.tobytes().decode("utf-8", "surrogateescape")


class Sources(Protocol):
    """Where images are read from: what `decode` opens, and a name for messages, by position."""

    def __getitem__(self, index: int, /) -> Any: ...

    def name(self, index: int) -> str: ...


class StreamedImages(Dataset[tuple[Tensor, int]]):
    """Images read when they are asked for, as ``(uint8 [C, H, W], label)``.

    An image that cannot be read when its turn comes is replaced by a uniform gray one and reported
    in a warning, so that one bad file does not end a run of days; where many fail, reading stops.

    Args:
        sources: where the images are.
        labels: int64 ``[N]``.
        wanted: channels and size.
        random: cut out a random piece and mirror half of the images, as augmentation for training;
            otherwise the centre. Random numbers come from torch's global generator.

    Raises:
        RuntimeError: more than one in twenty images could not be read, and at least twenty.
    """

    def __init__(
        self, sources: Sources, labels: Tensor, wanted: ImageFormat, *, random: bool = False
    ) -> None:
        require_pillow()
        self.sources = sources
        self.labels = labels
        self.wanted = wanted
        self.random = random
        self._read = 0
        self._failed: set[int] = set()

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        where, mirrored = (0.5, 0.5), False
        if self.random:
            vertical, horizontal, side = torch.rand(3).tolist()
            where, mirrored = (vertical, horizontal), side < 0.5
        self._read += 1
        try:
            pixels = decode(self.sources[index], self.wanted, where)
        except Exception as error:  # see read_all: decoders raise nearly anything
            self._note_failure(index, error)
            pixels = np.full(self.wanted.shape, 128, np.uint8)
        if mirrored:
            pixels = np.ascontiguousarray(pixels[:, :, ::-1])
        return torch.from_numpy(pixels), int(self.labels[index])

    def _note_failure(self, index: int, error: Exception) -> None:
        self._failed.add(index)
        name, reason = as_text(self.sources.name(index)), as_text(str(error))
        if len(self._failed) >= 20 and len(self._failed) > self._read / 20:
            raise RuntimeError(
                f"{len(self._failed)} of the last {self._read} images could not be read, the last one "
                f"{name}: {reason}"
            ) from error
        warnings.warn(
            f"{name} cannot be read ({reason}); a gray image stands in for it",
            RuntimeWarning,
            stacklevel=4,
        )


class _Files:
    """Image files in a folder."""

    def __init__(self, folder: str, paths: Sequence[str]) -> None:
        self.folder, self.paths = folder, paths

    def __getitem__(self, index: int) -> str:
        return os.path.join(self.folder, self.paths[index])

    def name(self, index: int) -> str:
        """The path."""
        return self[index]


class ImageFiles(StreamedImages):
    """Image files, read from disk when they are asked for; see `StreamedImages`.

    Args:
        folder: folder that ``paths`` are relative to.
        paths: one path per image.
        labels, wanted, random: as for `StreamedImages`.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        paths: Sequence[str],
        labels: Tensor,
        wanted: ImageFormat,
        *,
        random: bool = False,
    ) -> None:
        if len(paths) != len(labels):
            raise ValueError(f"there are {len(paths)} paths, but {len(labels)} labels")
        self.paths = paths if isinstance(paths, PathList) else PathList(paths)
        super().__init__(_Files(os.fspath(folder), self.paths), labels, wanted, random=random)


def existing(folder: Path, paths: Sequence[str]) -> _Array:
    """bool ``[N]``: which of the paths are files. Lists each folder once, which is fast on network disks."""
    listed: dict[str, set[str]] = {}
    found = np.zeros(len(paths), dtype=bool)
    for k, path in enumerate(paths):
        parent, name = os.path.split(path)
        if parent not in listed:
            try:
                with os.scandir(folder / parent) as entries:
                    listed[parent] = {entry.name for entry in entries if entry.is_file()}
            except OSError:
                listed[parent] = set()
        found[k] = name in listed[parent]
    return found
