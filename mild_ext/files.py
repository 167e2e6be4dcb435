"""The one way this package writes a file: complete and on disk, or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import unicodedata
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
    """Write a text file in UTF-8, as `write_atomically` does; line ends stay as they are.

    What UTF-8 cannot hold is written as ``\\udce9``: nothing is lost for a name at the end of a run.
    """

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)

    write_atomically(path, write)


def readable(text: str) -> str:
    """Text that every file, page and terminal can hold, whatever bytes a file's name is made of.

    Bytes that are no UTF-8 (which Python keeps as lone surrogates) become ``\\xe9``, and so do control characters,
    line ends among them; all else stays.

    Examples:
        >>> print(readable("caf\\udce9.jpg"), readable("a\\nb"))
        caf\\xe9.jpg a\\x0ab
    """
    if text.isprintable():
        return text
    pieces = []
    for character in text:
        code = ord(character)
        if 0xDC80 <= code <= 0xDCFF:
            code -= 0xDC00
        elif unicodedata.category(character) not in ("Cc", "Cs"):
            pieces.append(character)
            continue
        pieces.append(f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")
    return "".join(pieces)


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
