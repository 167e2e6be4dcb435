"""A folder of images with one subfolder per class.

::

    DIR/cat/1.jpg  DIR/cat/2.png  DIR/dog/a/b.jpg          classes are the subfolders
    DIR/train/cat/...  DIR/test/cat/...  DIR/val/cat/...   or with given splits
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from mild_ext.data.readers.folder_layout import Split, find_files
from mild_ext.data.readers.images import (
    ImageFiles,
    ImageFormat,
    ImageHeader,
    decode,
    read_all,
    read_header,
    report_unreadable,
)
from mild_ext.data.sets import ArrayDataset, LabeledData, some_inputs, statistics_of
from mild_ext.files import as_text

#: Images of one size are kept as they are up to this many pixels a side; all others are resized.
LARGEST_KEPT_SIDE = 96
#: Side that images of other sizes are brought to unless one is asked for.
DEFAULT_SIDE = 64
#: Data sets whose images take more than this many bytes are read from disk while training.
MEMORY_LIMIT = 2**30


def load_folder(
    path: str,
    *,
    size: int | None = None,
    side: int | None = None,
    gray: bool | None = None,
    memory: bool | None = None,
    layout: str | None = None,
) -> LabeledData:
    """A folder of images per class.

    Where all images have one size of at most 96 pixels a side, they are kept as they are. Otherwise
    each is scaled, keeping its proportions, until its short side is ``size``, and the central square
    is cut out. Files that cannot be read are left out and reported.

    Args:
        path: the folder; see the module's text for its layout.
        size: side of the square images in pixels; None: as above.
        side: where ``size`` is None, the side that larger images are brought to; None: 64.
        gray: True for one channel, False for three; None: one if no image has color.
        memory: keep the decoded images in memory (True) or read them from disk while training
            (False); None: in memory up to 1 GiB.
        layout: ``classes`` or ``splits``: whether the subfolders are classes, or train, test and so on; None looks.

    Raises:
        ValueError: the folder does not have that layout, or too many images cannot be read.
        ImportError: Pillow is missing.
    """
    root = Path(path).expanduser()
    if not root.is_dir():
        raise ValueError(f"there is no folder {root}")
    for option, value in (("size", size), ("side", side)):
        if value is not None and value < 1:
            raise ValueError(f"{option} must be at least 1 pixel, got {value}")
    splits, folders, messages = find_files(root, layout)
    class_names = [as_text(name) for name in folders]
    train = splits["train"]
    headers, failures, worked = read_all(
        lambda name: read_header(train.folder / name), train.paths, train.paths, "looking at images"
    )
    messages += report_unreadable(failures, len(train.paths), str(train.folder))
    train = _subset(train, worked)
    headers = [headers[k] for k in worked]
    wanted, message = choose_format(headers, size, gray, side)
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
        encoding=wanted.encoding(),
        messages=[as_text(message) for message in messages],
    )


def choose_format(
    headers: Sequence[ImageHeader], size: int | None, gray: bool | None, side: int | None = None
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
        size = min(side or DEFAULT_SIDE, max(8, int(np.median(np.minimum(heights, widths)))))
    found = f"{widths[0]} x {heights[0]}"
    if not one_size:
        found += (
            f" and other sizes (short side {np.minimum(heights, widths).min()} to "
            f"{np.minimum(heights, widths).max()})"
        )
    return ImageFormat(channels, size, size), [
        f"images of {found} are resized to {size} x {size}; for another size add ,size=PIXELS to --data"
    ]


def _subset(split: Split, positions: Sequence[int]) -> Split:
    if len(positions) == len(split.paths):
        return split
    return Split(
        split.folder, [split.paths[k] for k in positions], split.labels[torch.tensor(positions)]
    )


def _decode_all(split: Split, wanted: ImageFormat) -> tuple[Split, Tensor, list[str]]:
    images = np.empty((len(split.paths), *wanted.shape), np.uint8)

    def read(k: int) -> bool:
        images[k] = decode(split.folder / split.paths[k], wanted)
        return True

    _, failures, worked = read_all(read, range(len(split.paths)), split.paths, "reading images")
    messages = report_unreadable(failures, len(split.paths), str(split.folder))
    if failures:
        images = images[worked]
    return _subset(split, worked), torch.from_numpy(images), messages


def _check_classes(names: list[str], train: Split) -> list[str]:
    """Messages about classes that have lost all their images."""
    counts = torch.bincount(train.labels, minlength=len(names))
    empty = [names[k] for k in (counts == 0).nonzero().flatten().tolist()]
    if len(empty) > len(names) - 2:
        raise ValueError(f"only one class of {train.folder} has images that can be read")
    return [f"no image to train on in the class {', '.join(empty)}"] if empty else []
