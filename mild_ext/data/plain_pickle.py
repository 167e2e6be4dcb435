"""Read the data in a pickle without executing it.

The original CIFAR archives, the CIFAR-N label files and NumPy's object arrays are pickles, and a
pickle is a program: loading it with Python's own `pickle`, even with a short list of allowed
names, calls whatever those names do with arguments that the file chooses. This reader never looks a
name up. It walks over the opcodes (`pickletools.genops`, which only decodes), keeps a stack of
plain values, treats names as labels, and knows by heart what a handful of them mean: a NumPy
array, dtype or scalar, a torch tensor, an encoded byte string. Everything else is refused.
"""

from __future__ import annotations

import contextlib
import io
import pickletools
import struct
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mild_ext.files import as_text
from mild_ext.reading import UnreadableFile, read_array, reading

#: Largest file of a pickle that is read, in bytes. CIFAR's largest has 155 million.
LARGEST_FILE = 1 << 30
#: Most values that a pickle may stand for, shared ones counted as often as they are referred to.
MOST_VALUES = 100_000_000


class UnsafePickleError(UnreadableFile):
    """The pickle holds something other than plain data."""


class _Name(NamedTuple):
    """A name in a pickle, e.g. ``numpy.ndarray``. Never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class _Unbuilt:
    """An array or dtype whose content comes later, and the memo entries that refer to it."""

    kind: str
    spec: str = ""
    memo_keys: list[Any] = field(default_factory=list)


class _Mark:
    pass


_MARK = _Mark()
_Storage = Callable[[str, str, int], np.ndarray[Any, Any]]

_STORAGE_DTYPES = {
    "DoubleStorage": "f8",
    "FloatStorage": "f4",
    "HalfStorage": "f2",
    "LongStorage": "i8",
    "IntStorage": "i4",
    "ShortStorage": "i2",
    "CharStorage": "i1",
    "ByteStorage": "u1",
    "BoolStorage": "?",
}


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
                f"it is larger than the {LARGEST_FILE:,} bytes that are read of a pickle"
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


def _run(file: Any, storage: _Storage | None) -> Any:
    """Interpret one pickle from the file's position on; leaves the file behind it."""
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
        if isinstance(stack[-1], _Unbuilt):
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
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            elif name == "APPEND":
                item = stack.pop()
                _kind(stack[-1], list).append(item)
            elif name == "APPENDS":
                items = pop_to_mark()
                _kind(stack[-1], list).extend(items)
            elif name == "SETITEM":
                item, key = stack.pop(), stack.pop()
                _kind(stack[-1], dict)[key] = item
            elif name == "SETITEMS":
                items = pop_to_mark()
                _kind(stack[-1], dict).update(zip(items[::2], items[1::2], strict=True))
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
                stack.append(_known(*str(argument).split(" ", 1)))
            elif name == "STACK_GLOBAL":
                attribute, module = stack.pop(), stack.pop()
                stack.append(_known(str(module), str(attribute)))
            elif name == "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, _kind(arguments, tuple)))
            elif name == "BUILD":
                state = stack.pop()
                target = _kind(stack.pop(), _Unbuilt)
                built = _build(target, state)
                for key in target.memo_keys:
                    memo[key] = built
                stack.append(built)
            elif name == "BINPERSID":
                stack.append(_storage_of(stack.pop(), storage))
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
        if isinstance(item, _Name | _Unbuilt | np.dtype | _Mark):
            kind = item if isinstance(item, _Name) else "an unfinished array or a type"
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
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")
_NUMERIC = ("numpy.core.numeric", "numpy._core.numeric")
_KNOWN = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("__builtin__", "bytes"),
    ("collections", "OrderedDict"),
    ("torch._utils", "_rebuild_tensor_v2"),
    *((module, name) for module in _NUMPY for name in ("_reconstruct", "scalar")),
    *((module, "_frombuffer") for module in _NUMERIC),
    *(("torch", name) for name in _STORAGE_DTYPES),
}


def _known(module: str, name: str) -> _Name:
    if (module, name) not in _KNOWN:
        raise UnsafePickleError(
            f"the pickle refers to {module}.{name}, which is not plain data; nothing was executed"
        )
    return _Name(module, name)


def _kind(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def _call(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What the known names give when they are called, as plain values."""
    if not isinstance(function, _Name):
        raise UnsafePickleError(f"the pickle calls a {type(function).__name__}")
    if function.module in _NUMPY and function.name == "_reconstruct":
        return _Unbuilt("array")
    if function == ("numpy", "dtype"):
        return _Unbuilt("dtype", _kind(arguments[0], str))
    if function == ("_codecs", "encode"):
        text, encoding = arguments
        if encoding not in ("latin1", "latin-1"):
            raise ValueError(f"unexpected encoding {encoding!r}")
        return _kind(text, str).encode("latin-1")
    if function == ("__builtin__", "bytes") and not arguments:
        return b""  # protocols below 3 write empty byte strings so
    if function.module in _NUMPY and function.name == "scalar":
        dtype, raw = arguments
        return np.frombuffer(_bytes(raw), _number_type(dtype), 1)[0].item()
    if function.module in _NUMERIC:
        raw, dtype, shape, order = arguments
        return _array(raw, dtype, shape, order == "F")
    if function == ("collections", "OrderedDict"):
        return dict(*arguments)
    if function == ("torch._utils", "_rebuild_tensor_v2"):
        values, offset, size, stride = arguments[:4]
        return _tensor(_kind(values, np.ndarray), offset, size, stride)
    raise UnsafePickleError(f"the pickle calls {function}, which plain data does not need")


def _build(target: _Unbuilt, state: Any) -> Any:
    if target.kind == "dtype":
        # (version, byte order, subdtype, names, fields, size, alignment, flags)
        _, order, subtype, names, fields = _kind(state, tuple)[:5]
        if (subtype, names, fields) != (None, None, None):
            raise UnsafePickleError("the pickle holds a structured dtype")
        return np.dtype((order if order in ("<", ">") else "") + target.spec)
    _, shape, dtype, fortran, raw = _kind(state, tuple)
    return _array(raw, dtype, shape, bool(fortran))


def _array(raw: Any, dtype: Any, shape: Any, fortran: bool) -> Any:
    if isinstance(dtype, np.dtype) and dtype.hasobject and type(raw) is list:
        return raw  # the elements themselves; only a 0-d array of one dict is of use to us
    values = np.frombuffer(_bytes(raw), _number_type(dtype))
    return values.reshape(_kind(shape, tuple), order="F" if fortran else "C")


def _number_type(dtype: Any) -> np.dtype[Any]:
    if isinstance(dtype, _Unbuilt) and dtype.kind == "dtype":
        dtype = np.dtype(dtype.spec)  # NumPy 2 leaves out the state of a native dtype
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biufUS":
        raise UnsafePickleError(f"the pickle holds an array of {dtype}, not of numbers")
    return dtype


def _bytes(raw: Any) -> bytes:
    """Raw content; Python 2 wrote it as a string, which is decoded as Latin-1."""
    if type(raw) is str:
        return raw.encode("latin-1")
    if type(raw) not in (bytes, bytearray):
        raise ValueError(f"expected bytes, found {type(raw).__name__}")
    return bytes(raw)


def _storage_of(reference: Any, storage: _Storage | None) -> np.ndarray[Any, Any]:
    """``("storage", torch type, key, device, count)``, as ``torch.save`` refers to a tensor's memory."""
    if storage is None:
        raise UnsafePickleError("the pickle refers to data outside itself")
    tag, kind, key, _, count = _kind(reference, tuple)[:5]
    if _kind(count, int) < 0:
        raise ValueError(f"a tensor's storage has {count} elements")
    if tag != "storage" or not isinstance(kind, _Name) or kind.name not in _STORAGE_DTYPES:
        raise UnsafePickleError(f"the pickle refers to {kind}, which is no tensor of numbers")
    return storage(_kind(key, str), _STORAGE_DTYPES[kind.name], _kind(count, int))


def _tensor(
    values: np.ndarray[Any, Any], offset: Any, size: Any, stride: Any
) -> np.ndarray[Any, Any]:
    size, stride = _kind(size, tuple), _kind(stride, tuple)
    if len(values) == 0 and any(size):
        return np.zeros(0, values.dtype)  # first pass over an old file: only types are wanted
    count = int(np.prod(size, dtype=np.int64))
    expected = tuple(int(np.prod(size[k + 1 :], dtype=np.int64)) for k in range(len(size)))
    if count and any(s != e for s, e, n in zip(stride, expected, size, strict=True) if n > 1):
        raise ValueError("a tensor is not contiguous")
    part = values[_kind(offset, int) :][:count]
    if offset < 0 or len(part) != count:
        raise ValueError("a tensor is larger than its storage")
    tensor: np.ndarray[Any, Any] = part.reshape(size)
    return tensor
