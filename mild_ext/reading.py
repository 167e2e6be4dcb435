"""Reading files that may be damaged, foreign or hostile.

Three things, each in one place: what reading can raise becomes one line with the file's name and what to do
(`reading`); how much a file may unpack to is settled before anything of it is unpacked (`require_plausible`); and
arrays and JSON are read so that neither can do more than be wrong.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from mild_ext.files import as_text, require_path

#: What a compressed file may unpack to without a question, in bytes.
SMALL = 1 << 28
#: Beyond that, how many times its own size it may unpack to. Deflate reaches 1,000 on zeros, data about 2 to 50.
LARGEST_RATIO = 100
#: Largest text file that is read as a whole, in bytes: parsed, it takes ten times as much memory.
LARGEST_TEXT = 1 << 28


class UnreadableFile(ValueError):
    """A file that is damaged, or not what it should be; the message names it, and says why."""


@contextlib.contextmanager
def reading(
    path: str | os.PathLike[str], remedy: str = "", error: type[Exception] = UnreadableFile
) -> Iterator[None]:
    """Turn whatever reading a file raises into one line with its name.

    Args:
        path: the file.
        remedy: what to do, at the end of the line.
        error: what is raised; one of these raised inside passes as it is.

    Raises:
        FileNotFoundError: there is no such file.
        error: for everything else, but for a missing package (ImportError), which is not the file's fault.
    """
    name = as_text(os.fspath(path))
    try:
        yield
    except (error, UnreadableFile, ImportError):
        raise
    except FileNotFoundError as raised:
        raise FileNotFoundError(f"there is no file {name}") from raised
    except Exception as raised:
        # Decoders raise nearly anything on a damaged file: zlib.error, struct.error, TokenError, MemoryError, ...
        message = f"{name} cannot be read: {_reason(raised)}"
        raise error(message + (f"; {remedy}" if remedy else "")) from raised


def shown(text: str, most: int = 300) -> str:
    r"""Text out of a file for a line of a terminal: no control characters, and no longer than ``most``.

    >>> print(shown("a\x1b[2J" + "b" * 9, most=12))
    a\x1b[2Jb...
    """
    safe = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return safe if len(safe) <= most else safe[: most - 3] + "..."


def _reason(error: Exception) -> str:
    """Why, in words, where the library's own say nothing to the reader of a file's name."""
    if isinstance(error, MemoryError):
        return "it asks for more memory than there is"
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeDecodeError):
        return f"byte {error.start} is not {error.encoding} text"
    if isinstance(error, KeyError):
        return f"it lacks {shown(', '.join(map(str, error.args))) or 'an entry'}"
    if isinstance(error, json.JSONDecodeError):
        return f"it is damaged, or no JSON ({error})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = shown(str(error).strip().partition("\n")[0])
    if isinstance(error, ValueError) and first:
        return first
    return f"it is damaged or truncated ({type(error).__name__}{': ' if first else ''}{first})"


def require_file(path: str | os.PathLike[str]) -> None:
    """Raise unless ``path`` is a regular file: a pipe or device would be waited for, or never end.

    Raises:
        FileNotFoundError: there is nothing of that name.
        UnreadableFile: a folder, a pipe, a device.
    """
    require_path(path)
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no file {as_text(os.fspath(path))}")
    if not os.path.isfile(path):
        what = "a folder" if os.path.isdir(path) else "a pipe or a device"
        raise UnreadableFile(
            f"{as_text(os.fspath(path))} is no regular file but {what}; name a file"
        )


def require_plausible(packed: int, unpacked: int) -> None:
    """Refuse, before it is unpacked, what would unpack to far more than its size.

    Args:
        packed, unpacked: bytes.

    Raises:
        ValueError: more than `SMALL`, and more than `LARGEST_RATIO` times its size.
    """
    if unpacked > max(SMALL, LARGEST_RATIO * packed):
        raise ValueError(
            f"{packed:,} bytes that unpack to {unpacked:,} are taken for an attack on the memory; if they are "
            "meant, save them without compression"
        )


def read_array(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an ``.npy`` file; no larger than the file, and no pickle in it is looked at.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: damaged, or not an array of numbers or text.
    """
    require_file(path)
    with reading(path), open(path, "rb") as file:
        return _array(file, os.path.getsize(path))


def read_arrays(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The arrays of an ``.npz`` file by name; bounded as `read_array`, and by `require_plausible`.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: damaged, an array of objects, or one that unpacks to more than it can hold.
    """
    require_file(path)
    with reading(path):
        if not zipfile.is_zipfile(path):
            raise ValueError("it is not an npz file, or a truncated one")
        arrays = {}
        with zipfile.ZipFile(path) as archive:
            _require_whole_list(path, archive)
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            names = [m.filename.removesuffix(".npy") for m in members]
            if len(set(names)) < len(names):
                raise ValueError("it holds two arrays of one name")
            require_plausible(os.path.getsize(path), sum(m.file_size for m in members))
            for name, member in zip(names, members, strict=True):
                with archive.open(member) as file:
                    try:
                        arrays[name] = _array(file, member.file_size)
                    except ValueError as error:
                        raise ValueError(f"its array {as_text(name)}: {error}") from error
        return arrays


def _require_whole_list(path: str | os.PathLike[str], archive: zipfile.ZipFile) -> None:
    """A damaged length in a zip file's list of members hides the ones that follow; their number tells."""
    with open(path, "rb") as file:
        file.seek(-22, os.SEEK_END)
        end = file.read(22)
    (told,) = struct.unpack_from("<H", end, 10)
    # Without a comment, as all writers of npz files leave it, the record of the end is the end.
    if not end.startswith(b"PK\5\6") or (told != 0xFFFF and told != len(archive.infolist())):
        raise ValueError("its list of arrays is damaged")


#: Longest header of an ``.npy`` file, in bytes; NumPy reads a hundredth of it, and only after taking in all of it.
_LONGEST_HEADER = 1 << 20


def _npy_header(file: IO[bytes], width: int) -> io.BytesIO:
    """A header and its length, in so many bytes, after the length was looked at."""
    told = file.read(width)
    length = int.from_bytes(told, "little")
    if length > _LONGEST_HEADER:
        raise ValueError(f"it claims to have a header of {length:,} bytes")
    return io.BytesIO(told + file.read(length))


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """One array, after its header was held against the ``size`` of what holds it."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise ValueError(f"the unknown .npy version {version}")
    # The one reader of headers for every version; NumPy's public ones are for the first two.
    read_header = getattr(np.lib.format, f"read_array_header_{min(version[0], 2)}_0")
    shape, fortran, dtype = read_header(_npy_header(file, 2 if version == (1, 0) else 4))
    if dtype.hasobject:
        raise ValueError("it is an array of objects, not of numbers or text; save plain arrays")
    if any(length < 0 for length in shape):
        raise ValueError(f"the shape {shape} cannot be")
    count = 1
    for length in shape:  # Python's integers: no shape overflows
        count *= length
    wanted = count * dtype.itemsize
    if wanted > size:
        raise ValueError(f"its header tells of {wanted:,} bytes, but it has {size:,}")
    flat = np.empty(count, dtype)
    raw, done = flat.view(np.uint8) if wanted else np.empty(0, np.uint8), 0
    while done < wanted:
        piece = np.frombuffer(file.read(min(1 << 20, wanted - done)), np.uint8)
        if not len(piece):
            raise ValueError("it is truncated")
        raw[done : done + len(piece)] = piece
        done += len(piece)
    if file.read(1):
        raise ValueError("there is more in it than its header tells of")
    array: NDArray[Any] = flat.reshape(shape, order="F" if fortran else "C")
    return array


#: How text in other encodings of Unicode begins; the longer mark first.
_OTHER_UNICODE = {
    "UTF-32": (b"\xff\xfe\0\0", b"\0\0\xfe\xff"),
    "UTF-16": (b"\xff\xfe", b"\xfe\xff"),
}


def decode_text(content: bytes) -> str:
    """Text in UTF-8, with or without a mark at its beginning.

    What is written in another encoding is not guessed at: the same byte is another letter in each, and a class or a
    word would be a wrong one without anybody noticing.

    Raises:
        ValueError: it is not; the message names the byte, its line, and what to do.
    """
    for kind, marks in _OTHER_UNICODE.items():
        if content.startswith(marks):
            raise ValueError(
                f"it is {kind}, not UTF-8; convert it: iconv -f {kind} -t UTF-8 FILE > NEW"
            )
    place = content.find(b"\0")
    if place >= 0:
        line = content.count(b"\n", 0, place) + 1
        raise ValueError(
            f"line {line} holds a zero byte, which no text has: it is none, or UTF-16 (iconv -f UTF-16LE -t "
            "UTF-8 FILE > NEW)"
        )
    try:
        return content.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"the byte 0x{error.object[error.start]:02x} in line {line} is no UTF-8; save it as UTF-8 (a spreadsheet "
            "offers that, or: iconv -f WINDOWS-1252 -t UTF-8 FILE > NEW, where that is what it was written in)"
        ) from error


def read_text(path: str | os.PathLike[str], *, names: bool = False) -> str:
    """A text file in UTF-8, line ends as they are; no more than `LARGEST_TEXT`.

    Args:
        path: the file.
        names: it lists names of files, which are bytes and need not be text: those that are none are kept as
            `os.fsdecode` keeps them, and lead to their files.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: too large, or no such text.
    """
    require_file(path)
    with reading(path):
        size = os.path.getsize(path)
        if size > LARGEST_TEXT:
            raise ValueError(
                f"it has {size:,} bytes, more than the {LARGEST_TEXT:,} that are read; split it"
            )
        with open(path, "rb") as file:
            content = file.read()
        return content.decode("utf-8", "surrogateescape") if names else decode_text(content)


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file in UTF-8 says.

    Raises:
        FileNotFoundError: there is no such file.
        UnreadableFile: damaged, too large, or no JSON.
    """
    text = read_text(path)
    with reading(path):
        return json.loads(text)
