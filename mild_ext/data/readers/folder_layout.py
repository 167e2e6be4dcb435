"""Which folders of a folder of images are splits and which are classes, and which files are images."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mild_ext.data.missing import is_minus_one, is_missing
from mild_ext.data.readers.images import EXTENSIONS
from mild_ext.data.readers.skipped import PassedOver
from mild_ext.files import as_name, as_text

_SPLITS = {
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("val", "valid", "validation"),
}
LAYOUTS = ("classes", "splits")
#: A folder with one of these words in its name holds a part of the data, rather than a class.
_PART = re.compile(
    r"(?<![a-z])(train(ing)?|te?st(ing)?|trn|val(id)?(ation)?|dev|eval|fold|split|hold-?out)(?![a-z])",
    re.IGNORECASE,
)
#: What operating systems leave behind; no one's data.
_LITTER = {"Thumbs.db", "desktop.ini", ".DS_Store", "__MACOSX"}


@dataclass
class Split:
    """Files of one split; paths are relative to ``folder``."""

    folder: Path
    paths: list[str]
    labels: Tensor


def find_files(
    root: Path, layout: str | None = None
) -> tuple[dict[str, Split], list[str], list[str]]:
    """The splits, the class names (sorted), and messages about what was passed over.

    Args:
        root: the folder.
        layout: "classes": its subfolders are the classes, whatever their names; "splits": train, test and so on.
            None looks: a class may be called train.

    Raises:
        ValueError: neither layout, or one that cannot be told from the other.
    """
    if layout is not None and layout not in LAYOUTS:
        raise ValueError(f"layout must be classes or splits, got {layout!r}")
    passed = PassedOver()
    messages: list[str] = []
    roots = _split_folders(root, layout, passed, messages)
    there: list[Path] = []
    classes = _class_names(roots["train"], there, passed)
    if layout is None:
        meant = "classes" if roots["train"] == root else "splits"
        _require_classes(roots["train"], classes, meant, messages)
    if len(classes) < 2:
        raise ValueError(
            f"{roots['train']} must hold one subfolder of images per class, at least two of them, as in "
            f"{roots['train'] / 'cat'}/1.jpg; it holds "
            + (f"only {classes[0]}" if classes else "no subfolder")
        )
    splits: dict[str, Split] = {}
    for split, folder in roots.items():
        names = classes if split == "train" else _class_names(folder, there, passed)
        unknown = sorted(set(names) - set(classes))
        if unknown:
            raise ValueError(
                f"{folder} has the class {unknown[0]}, which {roots['train']} does not have"
            )
        _note_loose(folder, passed)
        paths: list[str] = []
        labels: list[int] = []
        for label, name in enumerate(classes):
            found = _image_files(folder, name, passed) if name in names else []
            paths += found
            labels += [label] * len(found)
        if not paths:
            if split == "train":
                raise ValueError(
                    f"{folder} holds no images ({', '.join(sorted(EXTENSIONS))})"
                    + "".join(f"; {line}" for line in passed.messages(str(folder)))
                )
            messages.append(f"{folder} holds no images")
            continue
        splits[split] = Split(folder, paths, torch.tensor(labels))
    return splits, classes, messages + passed.messages(str(root))


def _split_folders(
    root: Path, layout: str | None, passed: PassedOver, messages: list[str]
) -> dict[str, Path]:
    """The folder of each split, which is the whole one where the subfolders are classes."""
    whole = {"train": root}
    top = _subfolders(root)
    named = {split: [p for p in top if p.name.lower() in names] for split, names in _SPLITS.items()}
    if layout == "classes" or (layout is None and not named["train"]):
        return whole
    if layout == "splits" and not named["train"]:
        raise ValueError(f"{root} has no subfolder train or training, as ,layout=splits says")
    inside = {p.name for folder in named["train"] for p in _subfolders(folder)}
    strangers = [p for p in top if not any(p in found for found in named.values())]
    others = [p for p in strangers if _holds_images(p)]
    if layout is None:
        if not inside:
            return whole  # a class of that name
        parts = [p for split in ("test", "validation") for p in named[split]]
        matching = [p for p in (*parts, *others) if any(q.name in inside for q in _subfolders(p))]
        if others and matching:
            beside = {others[0].name, matching[0].name}
            raise ValueError(
                f"{root} holds {' and '.join(sorted(beside))} with images beside {named['train'][0].name}: are "
                "these classes, or splits of the data? Add ,layout=classes or ,layout=splits to --data"
            )
        if others:
            messages.append(
                f"{named['train'][0].name} is taken for a class, for {others[0].name} beside it holds images "
                "too; where it is the training split, add ,layout=splits to --data"
            )
            return whole
    for split, found in named.items():
        if len(found) > 1:
            raise ValueError(
                f"{root} holds {found[0].name} and {found[1].name}, which both name the {split} split; keep one of them"
            )
    for folder in strangers:
        holds = "hold images, but are no split" if folder in others else "hold no images"
        passed.add(holds, folder.name, kind="folders")
    _note_loose(root, passed)
    return {split: found[0] for split, found in named.items() if found}


def _require_classes(root: Path, names: list[str], meant: str, messages: list[str]) -> None:
    """Refuse, where nobody said what they are, folders that are parts of the data, or hold what has no label."""
    inside = [{p.name for p in _subfolders(root / name) if _holds_images(p)} for name in names]
    alike = len(names) > 1 and len(inside[0]) > 1 and all(found == inside[0] for found in inside)
    parts = [name for name in names if _PART.search(name)]
    if len(names) > 1 and (len(parts) == len(names) or (alike and parts)):
        raise ValueError(
            f"{root} holds the folders {_listed(names)}: if these are parts of the data, name one, as in "
            f"folder:{root / parts[0]}, or call them train, test and val; if they are classes, add ,layout={meant}"
        )
    if alike:
        messages.append(
            f"the folders {_listed(names)} are taken for the classes; all of them hold {_listed(sorted(inside[0]))}, "
            "which are not told apart"
        )
    none = [name for name in names if is_missing(name) or (is_minus_one(name) and len(names) > 2)]
    if none:
        raise ValueError(
            f"the folder {root / none[0]} stands for samples without a label: move it elsewhere, rename it, or add "
            f",layout={meant} if it is a class"
        )


def _listed(names: list[str]) -> str:
    return ", ".join(map(as_text, names[:3])) + (", ..." if len(names) > 3 else "")


def _subfolders(folder: Path) -> list[Path]:
    return sorted(
        p
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and p.name not in _LITTER
    )


def _class_names(folder: Path, there: list[Path], passed: PassedOver) -> list[str]:
    """The subfolders that are classes; a link to what is ``there`` already would give its images another label."""
    home, names = folder.resolve(), []
    for path in sorted(_subfolders(folder), key=lambda p: (p.is_symlink(), p.name)):
        target = path.resolve()
        again = target in (home, *home.parents) or any(
            target == other or target in other.parents or other in target.parents for other in there
        )
        if path.is_symlink() and again:
            passed.add("are links to what is there already", path.name, kind="folders")
            continue
        there.append(target)
        names.append(path.name)
    return sorted(names)


def _holds_images(folder: Path) -> bool:
    return any(
        Path(file).suffix.lower() in EXTENSIONS and not file.startswith(".")
        for _, _, files in os.walk(folder)
        for file in files
    )


def _note_loose(folder: Path, passed: PassedOver) -> None:
    """Files and hidden folders beside the folders of classes."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if path.name.startswith(".") and _holds_images(path):
                passed.add("are hidden, by a dot before their name", path.name, kind="folders")
        elif path.name not in _LITTER and path.suffix.lower() in EXTENSIONS:
            passed.add("lie beside the folders of the classes, in none of them", path.name)


def _image_files(folder: Path, name: str, passed: PassedOver) -> list[str]:
    """Paths of the images of a class, relative to ``folder`` and sorted."""
    found: list[str] = []

    def relative(parent: str, file: str) -> str:
        return os.path.relpath(os.path.join(parent, file), folder)

    def closed(error: OSError) -> None:
        passed.add("cannot be opened", os.path.relpath(error.filename, folder), kind="folders")

    for parent, folders, files in os.walk(folder / name, onerror=closed):
        for sub in list(folders):
            path = os.path.join(parent, sub)
            if sub.startswith("."):
                folders.remove(sub)
                if _holds_images(Path(path)):
                    hidden = "are hidden, by a dot before their name"
                    passed.add(hidden, relative(parent, sub), kind="folders")
            elif os.path.islink(path):
                passed.add(
                    "are links, which are not followed", relative(parent, sub), kind="folders"
                )
        folders.sort()
        for file in sorted(files):
            if file in _LITTER:
                continue
            if Path(file).suffix.lower() not in EXTENSIONS:
                passed.add("are no images by their names", relative(parent, file))
            elif file.startswith("."):
                passed.add("are hidden, by a dot before their name", relative(parent, file))
            elif not _is_regular(os.path.join(parent, file)):
                passed.add("are no regular files", relative(parent, file))
            elif as_name(relative(parent, file)) != relative(parent, file):
                passed.add("are called as if spelled out; rename them", relative(parent, file))
            else:
                found.append(relative(parent, file))
    return found


def _is_regular(path: str) -> bool:
    """A file, or a link to one; not a pipe, a socket, a device or a link that leads nowhere."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except OSError:
        return False
