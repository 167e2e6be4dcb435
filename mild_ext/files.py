"""The one way this package writes a file: complete and on disk, or not at all.

What cannot be written (a full disk, a folder that is gone) is one `CannotWrite` that says which file it was, what is
safe, and what to do. Text is UTF-8, whatever the names in it are: see `as_text`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

#: Files in the making end in this; one that stays behind is of a process that was killed.
PARTIAL = ".partial"

#: Bytes in the name of a file, on nearly every system.
_LONGEST_NAME = 255

_REMEDIES = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of the quota",
    errno.EFBIG: "raise the limit on the size of files (ulimit -f)",
    errno.ENOENT: "see where its folder has gone, or choose another",
    errno.ENOTDIR: "see where its folder has gone, or choose another",
    errno.EACCES: "make the folder writable, or choose another",
    errno.EPERM: "make the folder writable, or choose another",
    errno.EROFS: "choose a folder that can be written to",
    errno.ENAMETOOLONG: "choose a shorter name",
}


class CannotWrite(OSError):
    """A file that could not be written; the message says which, why, what is safe, and what to do."""

    def __str__(self) -> str:
        return str(self.args[-1])


@contextlib.contextmanager
def writing(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn what the system refuses while ``path`` is written into a `CannotWrite`.

    Raises:
        CannotWrite: for every OSError, and for what a library makes of one; with its ``errno``.
    """
    try:
        yield
    except CannotWrite:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _number_in(error)
        if number is None and not isinstance(error, OSError):
            raise
        number = number or errno.EIO
        remedy = _REMEDIES.get(number, "look at the disk")
        raise CannotWrite(
            number,
            f"cannot write {as_text(os.fspath(path))}: {os.strerror(number)}; what was written before, an "
            f"earlier file of that name included, is complete and stays: {remedy}, then go on from there "
            "(mild-ext train: with --resume)",
        ) from error


def _number_in(error: Exception) -> int | None:
    """The system's number of an error that a library put into words, as safetensors does."""
    found = re.search(r"os error (\d+)", str(error))
    return None if found is None else int(found[1])


def require_path(path: object) -> None:
    """Raise a TypeError unless ``path`` can name a file here: text, or a path; a number would be an open file."""
    if not isinstance(path, str | os.PathLike) or isinstance(os.fspath(path), bytes):
        advice = "use os.fsdecode(path)" if isinstance(path, bytes) else "give its name as text"
        raise TypeError(
            f"path must be a str or a pathlib.Path, got {type(path).__name__}; {advice}"
        )


def write_atomically(path: str | os.PathLike[str], write: Callable[[Path], object]) -> None:
    """Write a file under another name, flush it to disk, and rename it to ``path``.

    An existing file is replaced only once the new one is complete, and at no moment is there half a
    file. It writes whoever calls: with several processes, let the first one do it.

    Args:
        path: the file; its folder exists.
        write: called with the temporary path, beside ``path`` and with the same suffixes before
            `PARTIAL`; writes the whole file.

    Raises:
        CannotWrite: the disk is full, the folder is gone, ...; ``path`` is as it was.
        TypeError: ``path`` is neither text nor a path.
        ValueError: ``path`` is a pipe or a device, or no name; it is as it was.
    """
    require_path(path)
    if "\0" in os.fspath(path):
        raise ValueError(f"no file can be called {as_text(os.fspath(path))}: it holds a zero byte")
    path = Path(path)
    with writing(path):
        # Renaming would put a file in the place of a device or a pipe, for everyone on the machine.
        if not path.name or (path.exists() and not (path.is_file() or path.is_dir())):
            raise ValueError(f"{as_text(os.fspath(path))} is no regular file; name a file to write")
        temporary = _temporary(path)
        try:
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
        _flush_folder(path.parent)


def _temporary(path: Path) -> Path:
    """A name of its own beside ``path``: two processes that write the same file do not mix their bytes."""
    own = f".{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}"
    name = path.name
    if len(os.fsencode(f".{name}{own}")) > _LONGEST_NAME:  # what fits alone must not fail for this
        name = "".join(path.suffixes[-2:])[-32:]
    return path.with_name(f".{name}{own}")


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a text file in UTF-8 (see `as_text`), as `write_atomically` does; line ends stay as they are."""

    def write(temporary: Path) -> None:
        with open(temporary, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)

    write_atomically(path, write)


#: What is spelled out in a name, as regular expressions of the character and of its number: control characters, ends of
#: lines, what turns the order of reading, halves of surrogate pairs.
_UNPRINTABLE = "\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_SPELLED = f"[\x00-\x1f{_UNPRINTABLE}]"
_NUMBERS = r"d[89a-f][0-9a-f]{2}|00[0189][0-9a-f]|007f|202[89a-e]|206[6-9]"
_TO_SPELL = re.compile(_SPELLED)
_TO_READ = re.compile(rf"\\u({_NUMBERS})")


def as_text(name: str) -> str:
    r"""A name as every file, page and terminal can hold it; `as_name` gives it back.

    A file name is bytes, which need not be text: Python keeps such a byte as half a surrogate pair, which no
    encoding can write. It is spelled out here, and so are line ends, other control characters, and what turns the
    order of reading.

    >>> as_text("caf\udce9.jpg"), as_name(as_text("caf\udce9.jpg")) == "caf\udce9.jpg"
    ('caf\\udce9.jpg', True)
    """
    return _TO_SPELL.sub(lambda found: f"\\u{ord(found[0]):04x}", name)


def as_name(text: str) -> str:
    """The name that `as_text` spelled out, as `open` and `os.listdir` have it."""
    return _TO_READ.sub(lambda found: chr(int(found[1], 16)), text)


#: What tells a terminal to do something, or changes the order in which a line is read.
_COMMANDING = re.compile(f"[\x00-\x08\x0b\x0c\x0e-\x1f{_UNPRINTABLE}]")


class PlainStream:
    r"""A text stream on which text is only shown: characters that command a terminal are spelled out.

    Line ends and tabs stay, and with ``returns`` carriage returns, which a bar of progress needs.

    >>> import sys
    >>> _ = PlainStream(sys.stdout).write("cat\x1b[2J.jpg\n")
    cat\u001b[2J.jpg
    """

    def __init__(self, stream: TextIO, *, returns: bool = False) -> None:
        self._stream, self._returns = stream, returns

    def write(self, text: str) -> int:
        """Write text; returns its length."""
        text_shown = _COMMANDING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
        self._stream.write(text_shown if self._returns else text_shown.replace("\r", "\\u000d"))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


#: What a spreadsheet takes for a formula, whatever blanks or apostrophes stand in front: full-width signs too, and what
#: begins with a tab or the end of a line. The report's page has the same in review.js.
_FORMULA = re.compile("'*[\\s\ufeff\u200b]*[=+\\-@\uff1d\uff0b\uff0d\uff20\t\r\n]")


def spreadsheet_safe(text: str) -> str:
    """Text for a cell of a CSV file that a spreadsheet shows and never computes.

    A cell that begins with ``=``, ``+``, ``-``, ``@``, a tab or the end of a line gets an apostrophe before it,
    whatever blanks stand in front; so does one that begins with an apostrophe and then with these, so that
    `without_apostrophe` gives back what was there. It is for text alone: a number keeps its sign.

    Source: OWASP, *CSV Injection*.

    Examples:
        >>> print(spreadsheet_safe("=1+1"), spreadsheet_safe("cat"))
        '=1+1 cat
    """
    return f"'{text}" if _FORMULA.match(text) else text


def without_apostrophe(text: str) -> str:
    """A cell as it was before `spreadsheet_safe`.

    >>> without_apostrophe("'=1+1"), without_apostrophe("'tis")
    ('=1+1', "'tis")
    """
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


def remove_partial(folder: Path) -> None:
    """Delete what killed processes left half-written in a folder and below; nobody may be writing there."""
    for parent, _, names in os.walk(folder):  # which follows no link out of the folder
        for name in names:
            if name.startswith(".") and name.endswith(PARTIAL):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(parent, name))


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
