"""WebVision 1.0 and Clothing1M, whose labels come from the web, in their original layouts.

Both are streamed from disk: images are decoded by the workers that need them, cut at random for
training (short side to ``resize``, a random piece of ``size``, mirrored half of the time) and in the
centre for testing. Files named in a list but missing on disk are left out and reported.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch

from mild_ext.data.readers.images import (
    EXTENSIONS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ImageFiles,
    ImageFormat,
    existing,
    require_pillow,
)
from mild_ext.data.sets import LabeledData
from mild_ext.files import as_text
from mild_ext.reading import read_text, reading

#: More missing files than this share mean that the images are elsewhere or not unpacked.
LARGEST_MISSING_SHARE = 0.2


@dataclass
class _Listed:
    """Images named in a list: paths relative to ``folder``, and labels."""

    folder: Path
    paths: list[str]
    labels: list[int]


def load_webvision(
    path: str,
    *,
    classes: int = 50,
    source: str = "google",
    size: int = 227,
    resize: int = 256,
    per_class: int | None = None,
    imagenet: str | None = None,
) -> LabeledData:
    """WebVision 1.0 (Li et al., 2017), by default the usual subset: Google's part, first 50 classes.

    Layout::

        DIR/info/train_filelist_google.txt    google/q0001/name.jpg 0     one image and label per line
        DIR/info/val_filelist.txt             val000001.jpg 0
        DIR/info/synsets.txt                  n01440764 tench, Tinca tinca
        DIR/google/q0001/name.jpg             the images, here or in DIR/resized_images
        DIR/val_images_256/val000001.jpg      validation images; used as the test set
        DIR/imagenet/val/...                  optional: ImageNet's validation images, a second test set

    ImageNet's validation images lie in one folder per class, named by the class's WordNet id
    (``n01440764``) or by its number, or together with ``LOC_val_solution.csv`` beside them.

    Args:
        path: the folder.
        classes: use classes ``0 .. classes - 1``; 1000 for all.
        source: ``google``, ``flickr`` or ``both``.
        size, resize: side of the images that the model sees, and the short side before cutting.
        per_class: use at most so many training images of each class, spread evenly over the list.
        imagenet: folder of ImageNet's validation images where it is not ``DIR/imagenet/val``.

    Raises:
        ValueError: lists or images are missing or do not fit.
        ImportError: Pillow is not installed.
    """
    require_pillow()
    root = _folder(path)
    messages: list[str] = []
    if source not in ("google", "flickr", "both"):
        raise ValueError(f"source must be google, flickr or both, got {source!r}")
    ids, names = _read_synsets(root / "info" / "synsets.txt", classes)
    listed: list[tuple[str, int]] = []
    for part in ("google", "flickr") if source == "both" else (source,):
        listed += _read_pairs(root / "info" / f"train_filelist_{part}.txt", classes)
    train = _locate(
        listed,
        [root, root / "resized_images", root / "images", root / "train"],
        "training",
        messages,
    )
    train = _limit(train, per_class)
    tested = _read_pairs(root / "info" / "val_filelist.txt", classes)
    test = _locate(
        tested,
        [
            root / "val_images_256",
            root / "val_images",
            root / "resized_images" / "val_images_256",
            root / "val",
        ],
        "validation",
        messages,
    )
    data = _streamed("webvision", train, test, names, size, resize, messages)
    folder = _folder(imagenet) if imagenet is not None else root / "imagenet" / "val"
    if folder.is_dir():
        found = _imagenet_validation(folder, ids, messages)
        data.more_tests["ImageNet validation"] = ImageFiles(
            found.folder, found.paths, torch.tensor(found.labels), _format(size, resize)
        )
    else:
        messages.append(f"no ImageNet validation images in {folder}, so they are not tested on")
    return data


def load_clothing1m(
    path: str, *, size: int = 224, resize: int = 256, per_class: int | None = None
) -> LabeledData:
    """Clothing1M (Xiao et al., CVPR 2015): a million images in 14 classes, labels from the web.

    Trains on the noisy training list only; the clean validation and test lists are used as such, and
    the clean training list not at all, as is usual.

    Layout (the lists lie in DIR, or in DIR/annotations)::

        DIR/noisy_train_key_list.txt  DIR/clean_val_key_list.txt  DIR/clean_test_key_list.txt
        DIR/noisy_label_kv.txt        images/0/00/name.jpg 4      one image and label per line
        DIR/clean_label_kv.txt
        DIR/category_names_eng.txt    one class name per line
        DIR/images/0/00/name.jpg      the images; DIR/0/00/name.jpg is found too

    Args:
        path: the folder.
        size, resize: side of the images that the model sees, and the short side before cutting.
        per_class: use at most so many training images of each class, spread evenly over the list.

    Raises:
        ValueError: lists or images are missing or do not fit.
        ImportError: Pillow is not installed.
    """
    require_pillow()
    root = _folder(path)
    messages: list[str] = []
    lists = root / "annotations" if (root / "annotations").is_dir() else root
    names = list(map(as_text, _lines(lists / "category_names_eng.txt")))
    labels = {
        kind: dict(_read_pairs(lists / f"{kind}_label_kv.txt", len(names), exact=True))
        for kind in ("noisy", "clean")
    }
    parts: dict[str, _Listed] = {}
    for part, kind in (("train", "noisy"), ("val", "clean"), ("test", "clean")):
        file = lists / f"{kind}_{part}_key_list.txt"
        keys = _lines(file)
        unlabeled = [key for key in keys if key not in labels[kind]]
        if unlabeled:
            raise ValueError(
                f"{file} lists {as_text(unlabeled[0])}, which {kind}_label_kv.txt does not label"
            )
        pairs = [(key, labels[kind][key]) for key in keys]
        if not _any_exists(root, pairs):
            pairs = [(key.removeprefix("images/"), label) for key, label in pairs]
        parts[part] = _locate(pairs, [root], {"val": "validation"}.get(part, part), messages)
    train = _limit(parts["train"], per_class)
    data = _streamed("clothing1m", train, parts["test"], names, size, resize, messages)
    validation = parts["val"]
    data.validation = ImageFiles(
        validation.folder, validation.paths, torch.tensor(validation.labels), _format(size, resize)
    )
    return data


def _streamed(
    name: str,
    train: _Listed,
    test: _Listed,
    class_names: Sequence[str],
    size: int,
    resize: int,
    messages: list[str],
) -> LabeledData:
    wanted = _format(size, resize)
    labels = torch.tensor(train.labels)
    dataset = ImageFiles(train.folder, train.paths, labels, wanted, random=True)
    return LabeledData(
        name=name,
        train=dataset,
        labels=labels,
        class_names=list(class_names),
        kind="image",
        input_shape=wanted.shape,
        mean=IMAGENET_MEAN.clone(),
        std=IMAGENET_STD.clone(),
        test=ImageFiles(test.folder, test.paths, torch.tensor(test.labels), wanted),
        plain=ImageFiles(train.folder, dataset.paths, labels, wanted),
        sample_names=dataset.paths,
        messages=messages,
        recipe=name,
    )


def _format(size: int, resize: int) -> ImageFormat:
    if not 1 <= size <= resize:
        raise ValueError(f"size must be in [1, resize], got size {size} and resize {resize}")
    return ImageFormat(3, size, size, margin=resize / size)


def _folder(path: str) -> Path:
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}")
    return folder


def _lines(path: Path) -> list[str]:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    lines = [line.strip() for line in read_text(path, names=True).split("\n")]
    lines = [line for line in lines if line]
    if not lines:
        raise ValueError(f"{path} is empty")
    return lines


def _read_pairs(path: Path, classes: int, *, exact: bool = False) -> list[tuple[str, int]]:
    """``name label`` per line; labels of ``classes`` and above are passed over, or refused if exact."""
    pairs: list[tuple[str, int]] = []
    for number, line in enumerate(_lines(path), 1):
        name, _, label = line.rpartition(" ")
        if not name or not label.isdecimal():
            raise ValueError(
                f"{path}, line {number}: expected a file name and a label, got {line!r}"
            )
        if int(label) < classes:
            pairs.append((name.strip(), int(label)))
        elif exact:
            raise ValueError(f"{path}, line {number}: label {label} of {classes} classes")
    if not pairs:
        raise ValueError(f"{path} lists no image of the first {classes} classes")
    return pairs


def _read_synsets(path: Path, classes: int) -> tuple[list[str], list[str]]:
    """WordNet ids and names of the first ``classes`` classes."""
    lines = _lines(path)
    if not 2 <= classes <= len(lines):
        raise ValueError(f"classes must be in [2, {len(lines)}] ({path}), got {classes}")
    ids, names = [], []
    for line in lines[:classes]:
        wordnet_id, _, name = line.partition(" ")
        ids.append(wordnet_id)
        names.append(as_text(name.partition(",")[0].strip() or wordnet_id))
    return ids, names


def _is_inside(name: str) -> bool:
    """Whether a name in a list stays inside the folder that it is relative to."""
    return not (name.startswith(("/", "\\")) or "\0" in name or ".." in PurePosixPath(name).parts)


def _any_exists(folder: Path, pairs: Sequence[tuple[str, int]]) -> bool:
    """Whether one of a few entries spread over the list exists."""
    step = max(1, len(pairs) // 20)
    return any((folder / name).is_file() for name, _ in pairs[::step])


def _locate(
    pairs: list[tuple[str, int]], folders: Sequence[Path], what: str, messages: list[str]
) -> _Listed:
    """Find the folder that the list's names are relative to, and leave out what is missing."""
    outside = [name for name, _ in pairs if not _is_inside(name)]
    if outside:
        raise ValueError(
            f"the list of {what} images must name files inside its folder, but {len(outside)} of {len(pairs)} "
            f"lead out of it: {outside[0]!r}; such a list is not read"
        )
    folder = next((f for f in folders if _any_exists(f, pairs)), None)
    if folder is None:
        looked = ", ".join(str(f) for f in folders)
        first = as_text(pairs[0][0])
        raise ValueError(f"no {what} images found: {first} and others are not in {looked}")
    found = existing(folder, [name for name, _ in pairs])
    missing = int((~found).sum())
    if missing > LARGEST_MISSING_SHARE * len(pairs):
        first = as_text(pairs[int(np.flatnonzero(~found)[0])][0])
        raise ValueError(
            f"{missing} of {len(pairs)} {what} images are missing in {folder}: {first}, ..."
        )
    if missing:
        messages.append(
            f"left out {missing} of {len(pairs)} {what} images that are not in {folder}"
        )
    kept = [pair for pair, there in zip(pairs, found, strict=True) if there]
    return _Listed(folder, [name for name, _ in kept], [label for _, label in kept])


def _limit(listed: _Listed, per_class: int | None) -> _Listed:
    if per_class is None:
        return listed
    if per_class < 1:
        raise ValueError(f"per_class must be at least 1, got {per_class}")
    labels = np.array(listed.labels)
    chosen: list[int] = []
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        spread = np.linspace(0, len(members) - 1, min(per_class, len(members))).astype(int)
        chosen += members[spread].tolist()
    chosen.sort()
    return _Listed(listed.folder, [listed.paths[k] for k in chosen], labels[chosen].tolist())


def _imagenet_validation(folder: Path, ids: Sequence[str], messages: list[str]) -> _Listed:
    """ImageNet's validation images of the classes, in any of the three layouts."""
    paths: list[str] = []
    labels: list[int] = []
    for label, wordnet_id in enumerate(ids):
        for name in (wordnet_id, str(label)):
            if (folder / name).is_dir():
                files = sorted(
                    f.name for f in (folder / name).iterdir() if f.suffix.lower() in EXTENSIONS
                )
                paths += [f"{name}/{file}" for file in files]
                labels += [label] * len(files)
                break
    solution = next(
        (f for f in (folder, *list(folder.parents)[:4]) if (f / "LOC_val_solution.csv").is_file()),
        None,
    )
    if not paths and solution is not None:
        numbers = {wordnet_id: label for label, wordnet_id in enumerate(ids)}
        path = solution / "LOC_val_solution.csv"
        with reading(path):
            for row in csv.DictReader(io.StringIO(read_text(path), newline="")):
                wordnet_id = row["PredictionString"].split(" ")[0]
                if wordnet_id in numbers:
                    paths.append(f"{row['ImageId']}.JPEG")
                    labels.append(numbers[wordnet_id])
    if not paths:
        raise ValueError(
            f"{folder} must hold ImageNet's validation images in folders {ids[0]}, ... or 0, ..., or "
            "next to LOC_val_solution.csv"
        )
    return _locate(list(zip(paths, labels, strict=True)), [folder], "ImageNet validation", messages)
