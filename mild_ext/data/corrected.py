"""Data sets with corrected labels, written beside the original: a copy of a folder, a table, a file of labels.

The original is read, never written to. Each writer has its inverse, which takes noted changes back in what was
written, and leaves alone whatever else was done there since.
"""

from __future__ import annotations

import csv
import io
import os
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.files import spreadsheet_safe, write_atomically, write_text
from mild_ext.reading import read_text, reading

#: How a file gets into a copy of a folder.
LINKS = ("copy", "hardlink", "symlink")


# -------------------------------------------------------------------------------------------- folders


def require_apart(source: Path, target: Path) -> None:
    """Raise a ValueError where writing ``target`` could touch the original: one is, or lies inside, the other."""
    original, new = source.resolve(), target.resolve()
    if new.is_relative_to(original) or original.is_relative_to(new):
        raise ValueError(
            f"{target} would be written into, or over, the data set of the run, {source}: name another --out"
        )


def copy_folder(source: Path, target: Path, moves: Mapping[str, str | None], how: str) -> None:
    """Copy a folder, with some of its files elsewhere.

    Args:
        source: the folder.
        target: where to write, see `require_apart`; made.
        moves: new place of a file by its place, both relative; None leaves it out.
        how: one of `LINKS`.

    Raises:
        ValueError: a file is gone.
        OSError: the file system can't link like that.
    """
    source = source.resolve()
    gone = [name for name in moves if not (source / name).is_file()]
    if gone:
        raise ValueError(f"{len(gone)} files are gone from {source} (the first: {gone[0]})")
    for parent, folders, files in os.walk(source):
        folders.sort()
        for name in [*folders, *files]:
            path = Path(parent, name)
            place = path.relative_to(source).as_posix()
            to: str | None = moves.get(place, place)
            if name in folders:
                (target / place).mkdir(parents=True, exist_ok=True)
            elif to is not None:
                (target / to).parent.mkdir(parents=True, exist_ok=True)
                _place(path, target / to, how)


def others(
    source: Path, target: Path, moves: Mapping[str, str | None], known: Collection[str]
) -> list[str]:
    """Files in a copy that `copy_folder` did not put there, relative to it, sorted; ``known``: of these, not."""
    own = {moves.get(place, place) for place in _files(source.resolve())}
    return sorted(place for place in _files(target) if place not in own and place not in known)


def _files(folder: Path) -> list[str]:
    return [
        Path(parent, name).relative_to(folder).as_posix()
        for parent, _, names in os.walk(folder)
        for name in names
    ]


def _place(source: Path, target: Path, how: str) -> None:
    if how == "copy":
        shutil.copy2(source, target)
    elif how == "hardlink":
        os.link(source.resolve(), target)
    else:
        target.symlink_to(source.resolve())


def free_place(place: str, label: str, taken: set[str]) -> str:
    """Where a file goes that gets another class: the same name below that class' folder, or one that is free.

    Args:
        place: ``class/.../name``, relative.
        label: folder of the new class.
        taken: places that are in use; the new one is added.

    Examples:
        >>> free_place("cat/1.jpg", "dog", {"dog/1.jpg"})
        'dog/1-from-cat.jpg'
    """
    own, _, rest = place.partition("/")
    path = Path(label, rest)
    candidate, number = path.as_posix(), 1
    while candidate in taken:
        again = "" if number == 1 else f"-{number}"
        candidate = path.with_name(f"{path.stem}-from-{own}{again}{path.suffix}").as_posix()
        number += 1
    taken.add(candidate)
    return candidate


def undo_folder(
    source: Path, target: Path, moves: Mapping[str, str | None], how: str
) -> tuple[int, list[str]]:
    """Take moves back in a copy.

    Args:
        source: the original, for files that were left out.
        target: the copy.
        moves: as for `copy_folder`.
        how: for files that were left out, one of `LINKS`.

    Returns:
        How many were taken back, and the places of those that could not be: their file is gone, or something lies
        where it would go.
    """
    done, stuck = 0, []
    for place, to in moves.items():
        if (target / place).exists() or (to is not None and not (target / to).exists()):
            stuck.append(place)
            continue
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        if to is not None:
            (target / to).rename(target / place)
        elif (source / place).is_file():
            _place(source / place, target / place, how)
        else:
            stuck.append(place)
            continue
        done += 1
    return done, stuck


# --------------------------------------------------------------------------------------------- labels


def write_labels_npy(path: Path, labels: Sequence[int]) -> None:
    """Class numbers as int64 ``[N]``."""

    def write(temporary: Path) -> None:
        with open(temporary, "wb") as file:  # np.save would add its own suffix to the name
            np.save(file, np.asarray(labels, dtype=np.int64), allow_pickle=False)

    write_atomically(path, write)


def write_labels_csv(path: Path, rows: Sequence[tuple[str, str]]) -> None:
    """A table of ``id`` and ``label``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "label"))
    writer.writerows([spreadsheet_safe(cell) for cell in row] for row in rows)
    write_text(path, text.getvalue())


def read_labels_csv(path: Path) -> list[tuple[str, str]]:
    """What `write_labels_csv` wrote, cells as they are in the file."""
    reader = csv.reader(io.StringIO(read_text(path), newline=""))
    with reading(path):
        if next(reader, None) != ["id", "label"]:
            raise ValueError("it is no table of id and label")
        return [(row[0], row[1]) for row in reader if row]


# --------------------------------------------------------------------------------------------- tables


def correct_rows(
    rows: Sequence[dict[str, Any]], column: str, labels: Mapping[int, str | None]
) -> list[dict[str, Any]]:
    """The rows of a table with other labels; None leaves a row out."""
    return [
        {**row, column: labels[k]} if k in labels else row
        for k, row in enumerate(rows)
        if labels.get(k, "") is not None
    ]
