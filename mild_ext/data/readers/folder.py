"""A folder of images with one subfolder per class.

::

    DIR/cat/1.jpg  DIR/cat/2.png  DIR/dog/a/b.jpg          classes are the subfolders
    DIR/train/cat/...  DIR/test/cat/...  DIR/val/cat/...   or with given splits
"""

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

from mild_ext.data.readers.images import (
    EXTENSIONS,
    ImageFiles,
    ImageFormat,
    ImageHeader,
    decode,
    read_all,
    read_header,
    report_unreadable,
)
from mild_ext.data.sets import ArrayDataset, LabeledData, some_inputs, statistics_of

#: Images of one size are kept as they are up to this many pixels a side; all others are resized.
LARGEST_KEPT_SIDE = 96
#: Side that images of other sizes are brought to unless one is asked for.
DEFAULT_SIDE = 64
#: Data sets whose images take more than this many bytes are read from disk while training.
MEMORY_LIMIT = 2**30

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}


@dataclass
class _Split:
    """Files of one split; paths are relative to ``folder``."""

    folder: Path
    paths: list[str]
    labels: Tensor


def load_folder(
    path: str, *, size: int | None = None, gray: bool | None = None, memory: bool | None = None
) -> LabeledData:
    """A folder of images per class.

    Where all images have one size of at most 96 pixels a side, they are kept as they are. Otherwise
    each is scaled, keeping its proportions, until its short side is ``size``, and the central square
    is cut out. Files that cannot be read are left out and reported.

    Args:
        path: the folder; see the module's text for its layout.
        size: side of the square images in pixels; None: as above, with 64.
        gray: True for one channel, False for three; None: one if no image has color.
        memory: keep the decoded images in memory (True) or read them from disk while training
            (False); None: in memory up to 1 GiB.

    Raises:
        ValueError: the folder does not have that layout, or too many images cannot be read.
        ImportError: Pillow is missing.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    if size is not None and size < 1:
        raise ValueError(f"size must be at least 1 pixel, got {size}")
    splits, class_names, messages = _find_files(root)
    train = splits["train"]
    headers, failures, worked = read_all(
        lambda name: read_header(train.folder / name), train.paths, train.paths, "looking at images"
    )
    messages += report_unreadable(failures, len(train.paths), str(train.folder))
    train = _subset(train, worked)
    headers = [headers[k] for k in worked]
    wanted, message = choose_format(headers, size, gray)
    messages += message
    if memory is None:
        memory = len(train.paths) * int(np.prod(wanted.shape)) <= MEMORY_LIMIT
    datasets: dict[str, Dataset[Any]] = {}
    for name, split in (splits | {"train": train}).items():
        if memory:
            split, images, remarks = _decode_all(split, wanted)
            messages += remarks
            datasets[name] = ArrayDataset(images, split.labels)
        else:
            datasets[name] = ImageFiles(split.folder, split.paths, split.labels, wanted)
        if name == "train":
            train = split
    mean, std = statistics_of(some_inputs(datasets["train"]), "image")
    messages += _check_classes(class_names, train)
    return LabeledData(
        name=root.resolve().name,
        train=datasets["train"],
        labels=train.labels,
        class_names=class_names,
        kind="image",
        input_shape=wanted.shape,
        mean=mean,
        std=std,
        test=datasets.get("test"),
        validation=datasets.get("validation"),
        sample_names=train.paths,
        root=str(train.folder.resolve()),
        messages=messages,
    )


def choose_format(
    headers: Sequence[ImageHeader], size: int | None, gray: bool | None
) -> tuple[ImageFormat, list[str]]:
    """Channels and size for images of these kinds and sizes, and a message where they are resized."""
    if gray is None:
        gray = all(header.gray for header in headers)
    channels = 1 if gray else 3
    heights = np.array([header.height for header in headers])
    widths = np.array([header.width for header in headers])
    one_size = np.ptp(heights) == 0 and np.ptp(widths) == 0
    if size is None and one_size and max(heights[0], widths[0]) <= LARGEST_KEPT_SIDE:
        return ImageFormat(channels, int(heights[0]), int(widths[0])), []
    if size is None:
        # Blowing small images up adds nothing but work.
        size = min(DEFAULT_SIDE, max(8, int(np.median(np.minimum(heights, widths)))))
    found = f"{widths[0]} x {heights[0]}"
    if not one_size:
        found += (
            f" and other sizes (short side {np.minimum(heights, widths).min()} to "
            f"{np.minimum(heights, widths).max()})"
        )
    return ImageFormat(channels, size, size), [
        f"images of {found} are resized to {size} x {size}; for another size add ,size=PIXELS to --data"
    ]


def _find_files(root: Path) -> tuple[dict[str, _Split], list[str], list[str]]:
    """The splits, the class names (sorted), and messages about what was passed over."""
    folders = {p.name.lower(): p for p in _subfolders(root)}
    roots = {"train": root}
    train_folder = next((folders[n] for n in _SPLITS["train"] if n in folders), None)
    if train_folder is not None and _subfolders(train_folder):
        roots = {
            split: folders[name]
            for split, names in _SPLITS.items()
            for name in names
            if name in folders
        }
    classes = [p.name for p in _subfolders(roots["train"])]
    if len(classes) < 2:
        raise ValueError(
            f"{roots['train']} must hold one subfolder of images per class, at least two of them, as in "
            f"{roots['train'] / 'cat'}/1.jpg; it holds "
            + (f"only {classes[0]}" if classes else "no subfolder")
        )
    splits: dict[str, _Split] = {}
    messages: list[str] = []
    for split, folder in roots.items():
        unknown = sorted({p.name for p in _subfolders(folder)} - set(classes))
        if unknown:
            raise ValueError(
                f"{folder} has the class {unknown[0]}, which {roots['train']} does not have"
            )
        paths: list[str] = []
        labels: list[int] = []
        others = 0
        for label, name in enumerate(classes):
            found, passed = _image_files(folder, name)
            paths += found
            labels += [label] * len(found)
            others += passed
        if others:
            messages.append(
                f"passed over {others} files in {folder} that are no images by their names"
            )
        if not paths:
            if split == "train":
                raise ValueError(f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))})")
            messages.append(f"{folder} holds no images")
            continue
        splits[split] = _Split(folder, paths, torch.tensor(labels))
    return splits, classes, messages


def _subfolders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _image_files(folder: Path, name: str) -> tuple[list[str], int]:
    """Paths of a class, relative to ``folder`` and sorted, and the number of other files."""
    found: list[str] = []
    others = 0
    for parent, folders, files in os.walk(folder / name):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for file in sorted(files):
            if file.startswith(".") or file in ("Thumbs.db", "desktop.ini"):
                continue
            if Path(file).suffix.lower() in EXTENSIONS:
                found.append(os.path.relpath(os.path.join(parent, file), folder))
            else:
                others += 1
    return found, others


def _subset(split: _Split, positions: Sequence[int]) -> _Split:
    if len(positions) == len(split.paths):
        return split
    return _Split(
        split.folder, [split.paths[k] for k in positions], split.labels[torch.tensor(positions)]
    )


def _decode_all(split: _Split, wanted: ImageFormat) -> tuple[_Split, Tensor, list[str]]:
    images = np.empty((len(split.paths), *wanted.shape), np.uint8)

    def read(k: int) -> bool:
        images[k] = decode(split.folder / split.paths[k], wanted)
        return True

    _, failures, worked = read_all(read, range(len(split.paths)), split.paths, "reading images")
    messages = report_unreadable(failures, len(split.paths), str(split.folder))
    if failures:
        images = images[worked]
    return _subset(split, worked), torch.from_numpy(images), messages


def _check_classes(names: list[str], train: _Split) -> list[str]:
    """Messages about classes that have lost all their images."""
    counts = torch.bincount(train.labels, minlength=len(names))
    empty = [names[k] for k in (counts == 0).nonzero().flatten().tolist()]
    if len(empty) > len(names) - 2:
        raise ValueError(f"only one class of {train.folder} has images that can be read")
    return [f"no image to train on in the class {', '.join(empty)}"] if empty else []
