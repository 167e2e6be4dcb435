"""What the few names that plain data needs in a pickle stand for: arrays, types, numbers, byte strings, tensors.

The names are labels here. None is ever imported; what calling them would give is known by heart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from mild_ext.reading import UnreadableFile, shown


class UnsafePickleError(UnreadableFile):
    """The pickle holds something other than plain data."""


class Name(NamedTuple):
    """A name in a pickle, e.g. ``numpy.ndarray``. Never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass
class Unbuilt:
    """An array or dtype whose content comes later, and the memo entries that refer to it."""

    kind: str
    spec: str = ""
    memo_keys: list[Any] = field(default_factory=list)


Storage = Callable[[str, str, int], np.ndarray[Any, Any]]

STORAGE_DTYPES = {
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
    *(("torch", name) for name in STORAGE_DTYPES),
}


def known(module: str, name: str) -> Name:
    if (module, name) not in _KNOWN:
        raise UnsafePickleError(
            f"the pickle refers to {shown(f'{module}.{name}', 80)}, which is not plain data; nothing was executed"
        )
    return Name(module, name)


def kind_checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise ValueError(f"expected {kind.__name__}, found {type(value).__name__}")
    return value


def key_checked(key: Any) -> Any:
    """A key of a dictionary: hashing tuples within tuples can be endless, where one is many times in another."""
    if isinstance(key, tuple) and any(isinstance(part, tuple) for part in key):
        raise ValueError("a key of a dictionary is a tuple of tuples")
    return key


def called(function: Any, arguments: tuple[Any, ...]) -> Any:
    """What the known names give when they are called, as plain values."""
    if not isinstance(function, Name):
        raise UnsafePickleError(f"the pickle calls a {type(function).__name__}")
    if function.module in _NUMPY and function.name == "_reconstruct":
        return Unbuilt("array")
    if function == ("numpy", "dtype"):
        return Unbuilt("dtype", kind_checked(arguments[0], str))
    if function == ("_codecs", "encode"):
        text, encoding = arguments
        if kind_checked(encoding, str) not in ("latin1", "latin-1"):
            raise ValueError(f"unexpected encoding {encoding!r}")
        return kind_checked(text, str).encode("latin-1")
    if function == ("__builtin__", "bytes") and not arguments:
        return b""  # protocols below 3 write empty byte strings so
    if function.module in _NUMPY and function.name == "scalar":
        dtype, raw = arguments
        return np.frombuffer(_bytes(raw), _number_type(dtype), 1)[0].item()
    if function.module in _NUMERIC:
        raw, dtype, shape, order = arguments
        return _array(raw, dtype, shape, order == "F")
    if function == ("collections", "OrderedDict"):
        pairs = arguments[0] if arguments else []
        return {
            key_checked(key): value
            for key, value in (pairs.items() if isinstance(pairs, dict) else pairs)
        }
    if function == ("torch._utils", "_rebuild_tensor_v2"):
        values, offset, size, stride = arguments[:4]
        return _tensor(kind_checked(values, np.ndarray), offset, size, stride)
    raise UnsafePickleError(f"the pickle calls {function}, which plain data does not need")


def built(target: Unbuilt, state: Any) -> Any:
    if target.kind == "dtype":
        # (version, byte order, subdtype, names, fields, size, alignment, flags)
        _, order, subtype, names, fields = kind_checked(state, tuple)[:5]
        if (subtype, names, fields) != (None, None, None):
            raise UnsafePickleError("the pickle holds a structured dtype")
        return np.dtype((order if order in ("<", ">") else "") + target.spec)
    _, shape, dtype, fortran, raw = kind_checked(state, tuple)
    return _array(raw, dtype, shape, bool(fortran))


def _array(raw: Any, dtype: Any, shape: Any, fortran: bool) -> Any:
    if isinstance(dtype, np.dtype) and dtype.hasobject and type(raw) is list:
        return raw  # the elements themselves; only a 0-d array of one dict is of use to us
    values = np.frombuffer(_bytes(raw), _number_type(dtype))
    return values.reshape(kind_checked(shape, tuple), order="F" if fortran else "C")


def _number_type(dtype: Any) -> np.dtype[Any]:
    if isinstance(dtype, Unbuilt) and dtype.kind == "dtype":
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


def storage_of(reference: Any, storage: Storage | None) -> np.ndarray[Any, Any]:
    """``("storage", torch type, key, device, count)``, as ``torch.save`` refers to a tensor's memory."""
    if storage is None:
        raise UnsafePickleError("the pickle refers to data outside itself")
    tag, kind, key, _, count = kind_checked(reference, tuple)[:5]
    if kind_checked(count, int) < 0:
        raise ValueError(f"a tensor's storage has {count} elements")
    if tag != "storage" or not isinstance(kind, Name) or kind.name not in STORAGE_DTYPES:
        raise UnsafePickleError(f"the pickle refers to {kind}, which is no tensor of numbers")
    return storage(kind_checked(key, str), STORAGE_DTYPES[kind.name], kind_checked(count, int))


def _tensor(
    values: np.ndarray[Any, Any], offset: Any, size: Any, stride: Any
) -> np.ndarray[Any, Any]:
    size, stride = kind_checked(size, tuple), kind_checked(stride, tuple)
    if len(values) == 0 and any(size):
        return np.zeros(0, values.dtype)  # first pass over an old file: only types are wanted
    count = int(np.prod(size, dtype=np.int64))
    expected = tuple(int(np.prod(size[k + 1 :], dtype=np.int64)) for k in range(len(size)))
    if count and any(s != e for s, e, n in zip(stride, expected, size, strict=True) if n > 1):
        raise ValueError("a tensor is not contiguous")
    part = values[kind_checked(offset, int) :][:count]
    if offset < 0 or len(part) != count:
        raise ValueError("a tensor is larger than its storage")
    tensor: np.ndarray[Any, Any] = part.reshape(size)
    return tensor
