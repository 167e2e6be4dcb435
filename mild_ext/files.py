"""The one way this package writes a file: complete and on disk, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from pathlib import Path

#: Files in the making end in this; one that stays behind is of a process that was killed.
PARTIAL = ".partial"


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it to disk, and rename it to ``path``.

    An existing file is replaced only once the new one is complete, and at no moment is there half a
    file. It writes whoever calls: with several processes, let the first one do it.

    Args:
        path: the file; its folder exists.
        write: called with the temporary path, beside ``path`` and with the same suffixes before
            `PARTIAL`; writes the whole file.
    """
    path = Path(path)
    # A name of its own: two processes that write the same file do not mix their bytes.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    _flush_folder(path.parent)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8, as `write_atomically` does; line ends stay as they are."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", newline="") as file:
            file.write(text)

    write_atomically(path, write)


#: What a spreadsheet takes for the beginning of a formula.
FORMULA_SIGNS = ("=", "+", "-", "@", "\t", "\r")


def spreadsheet_safe(text: str) -> str:
    """Text for a cell of a CSV file that a spreadsheet shows and never computes.

    A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or a carriage return gets an apostrophe
    before it, whatever blanks stand in front. It is for text alone: a number keeps its sign.

    Source: OWASP, *CSV Injection*.

    Examples:
        >>> spreadsheet_safe('=HYPERLINK("http://x")'), spreadsheet_safe("cat")
        ('\'=HYPERLINK("http://x")', 'cat')
    """
    begins = text.lstrip(" ")[:1]
    return f"'{text}" if begins in FORMULA_SIGNS and begins else text


def remove_partial(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder and below; nobody may be writing there."""
    for path in folder.rglob(f".*{PARTIAL}"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make the renaming itself durable, where the system can (POSIX)."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
