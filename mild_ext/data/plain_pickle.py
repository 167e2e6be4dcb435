"""Read the data in a pickle without executing it.

The original CIFAR archives, the CIFAR-N label files and NumPy's object arrays are pickles, and a
pickle is a program: loading it with Python's own `pickle`, even with a short list of allowed
names, calls whatever those names do with arguments that the file chooses. This reader never looks a
name up. It walks over the opcodes (`pickletools.genops`, which only decodes), keeps a stack of
plain values, treats names as labels, and knows by heart what a handful of them mean: a NumPy
array, dtype or scalar, a torch tensor, an encoded byte string (`mild_ext.data.pickled_values`). Everything else
is refused.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.data.pickled_values import (
    Name,
    Storage,
    Unbuilt,
    UnsafePickleError,
    built,
    called,
    key_checked,
    kind_checked,
    known,
    storage_of,
)
from mild_ext.files import as_text
from mild_ext.reading import UnreadableFile, read_array, reading

__all__ = ["UnsafePickleError", "read_npy", "read_pickle", "read_torch_file"]

#: Largest file of a pickle that is read, in bytes. CIFAR's largest has 155 million.
LARGEST_FILE = 1 << 30
#: Most values that a pickle may stand for, shared ones counted as often as they are referred to.
MOST_VALUES = 100_000_000


class _Mark:
    pass


_MARK = _Mark()


def read_pickle(data: bytes) -> Any:
    """The value of a pickle of plain data.

    Args:
        data: the pickle, any protocol. Byte strings written by Python 2 come out as ``str`` with
            one character per byte (Latin-1), as the keys of a dict are expected.

    Returns:
        None, bool, int, float, str, bytes, tuple, list, dict and NumPy arrays of numbers.

    Raises:
        UnsafePickleError: it holds anything else. Nothing of it has been executed.
        ValueError: it is damaged.

    >>> import pickle
    >>> read_pickle(pickle.dumps({"labels": [3, 1], "rate": 0.5}))
    {'labels': [3, 1], 'rate': 0.5}
    >>> read_pickle(pickle.dumps(print))  # doctest: +IGNORE_EXCEPTION_DETAIL
    Traceback (most recent call last):
    ...
    UnsafePickleError: the pickle refers to builtins.print, which is not plain data; nothing was executed
    """
    return _run(io.BytesIO(data), None)


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    with reading(path):
        if not path.exists():
            raise UnreadableFile(f"there is no file {as_text(str(path))}")
        if not path.is_file():
            raise ValueError("it is no regular file")
        if path.stat().st_size > LARGEST_FILE:
            raise ValueError(
                f"it is larger than the {LARGEST_FILE:,} bytes that are read of a pickle; save its arrays as .npz"
            )
        try:
            yield
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{as_text(str(path))} is not read: {error}") from error


def read_torch_file(path: str | Path) -> Any:
    """The value of a file written by ``torch.save``, with tensors as NumPy arrays.

    Both formats are read, the zip file and the older one.

    Raises:
        UnsafePickleError: it holds anything but plain data, arrays and tensors.
        ValueError: it is damaged, no file of ``torch.save``, or there is no such file.
    """
    path = Path(path)
    with _reading(path):
        if not zipfile.is_zipfile(path):
            return _read_old_torch_file(io.BytesIO(path.read_bytes()))
        with zipfile.ZipFile(path) as archive:
            return _read_torch_archive(archive, path.stat().st_size)


def _read_torch_archive(archive: zipfile.ZipFile, size: int) -> Any:
    """``torch.save`` stores its members as they are, each once: nothing in it is larger than the file."""
    members = {member.filename: member for member in archive.infolist()}
    odd = [m.filename for m in members.values() if m.compress_type != zipfile.ZIP_STORED]
    if odd or len(members) != len(archive.infolist()):
        raise ValueError("its members are compressed or doubled, which torch.save never does")
    if sum(member.file_size for member in members.values()) > size:
        raise ValueError(f"its members are larger than the {size:,} bytes of the file")
    found = [name for name in members if name.endswith("data.pkl")]
    if len(found) != 1:
        raise ValueError("it is a zip file, but not one of torch.save (no data.pkl)")
    folder = found[0].removesuffix("data.pkl")
    if f"{folder}byteorder" in members and archive.read(f"{folder}byteorder") != b"little":
        raise ValueError("it was written on a big-endian machine")
    contents: dict[str, bytes] = {}

    def storage(key: str, dtype: str, count: int) -> np.ndarray[Any, Any]:
        if key not in contents:
            contents[key] = archive.read(f"{folder}data/{key}")
        return np.frombuffer(contents[key], f"<{dtype}", count)

    return _run(io.BytesIO(archive.read(found[0])), storage)


def read_npy(path: str | Path) -> Any:
    """The content of a ``.npy`` file; one object in a 0-d object array, as ``np.save`` writes a dict.

    Raises:
        UnsafePickleError: an array of objects, or an object that is no plain data.
        ValueError: it is damaged, no ``.npy`` file, or there is no such file.
    """
    path = Path(path)
    with _reading(path):
        file = io.BytesIO(path.read_bytes())
        version = np.lib.format.read_magic(file)
        read_header = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }.get(version)
        if read_header is None:
            raise ValueError(f"the unknown .npy version {version}")
        shape, _, dtype = read_header(file)
        if dtype.hasobject:
            if shape != ():
                raise UnsafePickleError("it is an array of objects, not of numbers")
            value = _run(file, None)
            # The array itself is pickled around its one element.
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            return value
    return read_array(path)


def _read_old_torch_file(file: io.BufferedIOBase | Any) -> Any:
    """Magic number, protocol, system information, the value, storage keys, then the storages."""
    if _run(file, None) != 0x1950A86A20F9469CFC6C or _run(file, None) != 1001:
        raise ValueError("this is no file of torch.save")
    system = _run(file, None)
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError("the file was written on a big-endian machine")
    start = file.tell()
    wanted: dict[str, str] = {}

    def note(key: str, dtype: str, count: int) -> np.ndarray[Any, Any]:
        wanted[key] = dtype
        return np.zeros(0, dtype)

    _run(file, note)  # the storages follow the value, so their types are needed first
    storages: dict[str, np.ndarray[Any, Any]] = {}
    keys = _run(file, None)
    for key in keys if isinstance(keys, list) else []:
        if key not in wanted:
            raise ValueError(f"the file holds a storage {key!r} that nothing refers to")
        (count,) = struct.unpack("<q", _exactly(file, 8))
        dtype = np.dtype(f"<{wanted[key]}")
        storages[key] = np.frombuffer(_exactly(file, count * dtype.itemsize), dtype)
    file.seek(start)
    return _run(file, lambda key, dtype, count: storages[key][:count])


def _exactly(file: Any, count: int) -> bytes:
    position = file.tell()
    if not 0 <= count <= file.seek(0, io.SEEK_END) - position:
        raise ValueError("the file is truncated")
    file.seek(position)
    data: bytes = file.read(count)
    return data


def _run(file: Any, storage: Storage | None) -> Any:
    """Interpret one pickle from the file's position on; leaves the file behind it."""
    with warnings.catch_warnings():
        # Of escapes in a damaged text of the oldest protocol: where it matters, the text is refused.
        warnings.simplefilter("ignore", DeprecationWarning)
        return _interpreted(file, storage)


def _interpreted(file: Any, storage: Storage | None) -> Any:
    stack: list[Any] = []
    memo: dict[Any, Any] = {}

    def pop_to_mark() -> list[Any]:
        for position in range(len(stack) - 1, -1, -1):
            if stack[position] is _MARK:
                items = stack[position + 1 :]
                del stack[position:]
                return items
        raise ValueError("the pickle is damaged: no mark")

    def put(key: Any) -> None:
        memo[key] = stack[-1]
        if isinstance(stack[-1], Unbuilt):
            stack[-1].memo_keys.append(key)

    try:
        for opcode, argument, _ in pickletools.genops(file):
            name = opcode.name
            if name in _LITERALS:
                stack.append(argument)
            elif name in _CONSTANTS:
                stack.append(_CONSTANTS[name])
            elif name in ("PROTO", "FRAME"):
                pass
            elif name == "MARK":
                stack.append(_MARK)
            elif name in _EMPTY:
                stack.append(_EMPTY[name]())
            elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
                count = int(name[-1])
                items = [stack.pop() for _ in range(count)]
                stack.append(tuple(reversed(items)))
            elif name == "TUPLE":
                stack.append(tuple(pop_to_mark()))
            elif name == "LIST":
                stack.append(pop_to_mark())
            elif name == "DICT":
                items = pop_to_mark()
                stack.append(dict(zip(map(key_checked, items[::2]), items[1::2], strict=True)))
            elif name == "APPEND":
                item = stack.pop()
                kind_checked(stack[-1], list).append(item)
            elif name == "APPENDS":
                items = pop_to_mark()
                kind_checked(stack[-1], list).extend(items)
            elif name == "SETITEM":
                item, key = stack.pop(), stack.pop()
                kind_checked(stack[-1], dict)[key_checked(key)] = item
            elif name == "SETITEMS":
                items = pop_to_mark()
                pairs = zip(map(key_checked, items[::2]), items[1::2], strict=True)
                kind_checked(stack[-1], dict).update(pairs)
            elif name in ("PUT", "BINPUT", "LONG_BINPUT"):
                put(argument)
            elif name == "MEMOIZE":
                put(len(memo))
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[argument])
            elif name == "POP":
                stack.pop()
            elif name == "POP_MARK":
                pop_to_mark()
            elif name == "DUP":
                stack.append(stack[-1])
            elif name == "GLOBAL":
                stack.append(known(*str(argument).split(" ", 1)))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                # Not str(): the text of lists within lists can be endless.
                stack.append(known(kind_checked(module, str), kind_checked(attribute, str)))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(called(function, kind_checked(arguments, tuple)))
            elif name == "BUILD":
                state = stack.pop()
                target = kind_checked(stack.pop(), Unbuilt)
                whole = built(target, state)
                for key in target.memo_keys:
                    memo[key] = whole
                stack.append(whole)
            elif name == "BINPERSID":
                stack.append(storage_of(stack.pop(), storage))
            elif name == "STOP":
                break
            else:
                raise UnsafePickleError(f"the pickle uses {name}, which plain data does not need")
        (value,) = stack
        _check_plain(value)
    except UnsafePickleError:
        raise
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, MemoryError) as error:
        raise ValueError(f"the pickle is damaged: {error}") from error
    return value


def _check_plain(value: Any) -> None:
    """Refuse names and unfinished arrays, which are only of use while reading, and what grows when it is looked at.

    A pickle may refer to one list as often as it likes: a hundred bytes can stand for a billion values, or for a list
    that holds itself.
    """
    sizes: dict[int, int] = {}
    open_items: set[int] = set()
    waiting: list[tuple[Any, bool]] = [(value, False)]
    while waiting:
        item, looked_into = waiting.pop()
        if isinstance(item, Name | Unbuilt | np.dtype | _Mark):
            kind = item if isinstance(item, Name) else "an unfinished array or a type"
            raise UnsafePickleError(f"the pickle refers to {kind}, which is not plain data")
        if type(item) not in (list, tuple, dict) or id(item) in sizes:
            continue
        parts = [*item, *item.values()] if isinstance(item, dict) else list(item)
        if looked_into:
            open_items.discard(id(item))
            sizes[id(item)] = 1 + sum(sizes.get(id(part), 1) for part in parts)
            if sizes[id(item)] > MOST_VALUES:
                raise UnsafePickleError(
                    f"the pickle stands for more than {MOST_VALUES:,} values, which is no list of labels"
                )
            continue
        if id(item) in open_items:
            raise UnsafePickleError("the pickle holds a list that holds itself")
        open_items.add(id(item))
        waiting.append((item, True))
        waiting += [(part, False) for part in parts]


_LITERALS = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
_CONSTANTS: dict[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
}
