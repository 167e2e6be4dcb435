"""A column of labels in any container and of any dtype, on its way to class numbers; see `mild_ext.data.labels`."""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor

from mild_ext.data.missing import NO_LABEL, is_minus_one, is_missing

#: The label of a sample that has none.
UNLABELED = -1
#: Most classes there can be: what a learning status can record. Larger numbers are no classes.
MAX_CLASSES = 1 << 18
_WHOLE_NUMBER = re.compile(r"(0|-?[1-9][0-9]{0,17})(\.0*)?")

_Array = np.ndarray[Any, Any]


def array_of(name: str, labels: Any) -> tuple[_Array, _Array | None, list[str] | None]:
    """Values of any kind ``[N, ...]``, where they are masked, and the categories they are numbers of."""
    if isinstance(labels, Tensor):
        if labels.is_nested:
            raise TypeError(f"{name} must hold one label for each sample, got a nested tensor")
        if labels.layout != torch.strided:
            raise TypeError(
                f"{name} must be dense, got a tensor of layout {labels.layout}; use to_dense()"
            )
        if labels.is_quantized:
            raise TypeError(f"{name} must be plain numbers, got {labels.dtype}; use int_repr()")
        if labels.is_meta:
            raise TypeError(f"{name} must hold values, got a tensor on the meta device")
        tensor = labels.detach().cpu()
        _require_exact(name, tensor.dtype, tensor, torch.finfo)
        return (
            (tensor.double() if tensor.is_floating_point() else tensor).resolve_conj().numpy(),
            None,
            None,
        )
    if isinstance(labels, np.ma.MaskedArray):
        return np.asarray(labels.data), np.ma.getmaskarray(labels), None
    if isinstance(labels, np.ndarray):
        if labels.dtype == object and labels.ndim == 1:
            return _of_sequence(name, labels.tolist()), None, None
        _require_exact(name, labels.dtype, labels, np.finfo)
        return np.asarray(labels), None, None  # no np.matrix, which never gets fewer dimensions
    if type(labels).__module__.partition(".")[0] == "pandas" and hasattr(labels, "to_numpy"):
        return _of_pandas(name, labels)
    if hasattr(labels, "to_pylist"):  # an Arrow column
        return _of_arrow(name, labels)
    no_list = isinstance(labels, str | bytes | bytearray | Mapping | Set | Iterator | type)
    if no_list or not hasattr(labels, "__getitem__") or not hasattr(labels, "__len__"):
        raise TypeError(
            f"{name} must be a sequence with one label for each sample, in their order, got "
            f"{type(labels).__name__}; make it a list"
        )
    if hasattr(labels, "__array__"):
        return np.asarray(labels), None, None
    return _of_sequence(name, labels), None, None


def _of_arrow(name: str, labels: Any) -> tuple[_Array, _Array | None, list[str] | None]:
    from pyarrow.types import is_integer

    if not hasattr(labels, "type"):
        raise TypeError(f"{name} must be one column, got a {type(labels).__name__}; choose one")
    if is_integer(labels.type):  # of its own width: what -1 becomes depends on it
        masked = np.asarray(labels.is_null())
        return np.asarray(labels.fill_null(0)), masked if masked.any() else None, None
    return _of_sequence(name, labels.to_pylist()), None, None


def _require_exact(name: str, dtype: Any, values: Any, info: Callable[[Any], Any]) -> None:
    """Raise where floats of few bits hold numbers that may have been others: 257 is 256 as bfloat16."""
    short = getattr(dtype, "itemsize", 8) < 4
    floating = dtype.is_floating_point if isinstance(dtype, torch.dtype) else dtype.kind == "f"
    if not (short and floating) or 0 in values.shape:
        return
    exact, values = int(2 / float(info(dtype).eps)), torch.as_tensor(values).double()
    if bool((values >= exact).any()):
        raise ValueError(
            f"{name} hold {values.max():g}, but {dtype} holds no whole numbers from {exact} on exactly; give them as "
            "they were before they became floats"
        )


def _of_pandas(name: str, labels: Any) -> tuple[_Array, _Array | None, list[str] | None]:
    if hasattr(labels, "columns"):  # a frame
        if labels.shape[1] != 1:
            return labels.to_numpy(), None, None
        labels = labels.iloc[:, 0]
    kind = getattr(labels, "dtype", None)
    if kind is not None and hasattr(kind, "categories"):
        codes = np.asarray(getattr(labels, "cat", labels).codes)
        categories = list(kind.categories)
        if all(isinstance(c, str) for c in categories):
            return codes.astype(np.int64), codes < 0, categories
        found = [None if code < 0 else categories[code] for code in codes.tolist()]
        return _of_sequence(name, found), None, None
    if getattr(labels, "nlevels", 1) > 1:
        raise TypeError(
            f"{name} must hold one label for each sample, got an index of {labels.nlevels} levels; choose one"
        )
    absent = np.asarray(labels.isna())
    if kind is not None and absent.any() and getattr(kind, "kind", "O") == "u":
        refuse_wrapped(name, labels.dropna().to_numpy(dtype=f"uint{8 * kind.itemsize}"))
    if absent.any() or getattr(kind, "kind", "O") not in "biuf":
        values = labels.to_numpy(dtype=object)
        return (
            _of_sequence(name, [None if a else v for v, a in zip(values, absent, strict=True)]),
            None,
            None,
        )
    return labels.to_numpy(), None, None


def _of_sequence(name: str, labels: Sequence[Any]) -> _Array:
    """An array of one dtype where all entries are plain numbers of one kind, else of objects."""
    items = list(labels)
    kinds = set(map(type, items))
    if any(issubclass(kind, Tensor | np.unsignedinteger) for kind in kinds):
        _refuse_wrapped_scalars(name, items)
    if kinds and kinds <= {int, float} and not (int in kinds and _any_huge(items)):
        return np.array(items)
    sizes = {_size(item) for item in items if item is not None}
    if 1 in sizes and sizes <= {1, None}:
        items = [None if item is None else _only(item) for item in items]  # [[3], [1]], 0-d tensors
        sizes = {None}
    if sizes <= {None, 0}:
        array = np.empty(len(items), dtype=object)
        array[:] = [_plain(item) for item in items]
        return array
    if len(sizes) == 1 and sizes.isdisjoint({None}):
        try:
            return np.stack([np.asarray(item) for item in items])
        except (ValueError, TypeError):
            pass
    counts = sorted(size for size in sizes if size)
    raise TypeError(
        f"{name} must hold one label for each sample, got several for some ({counts[0]} to {counts[-1]}): "
        "data with more than one label per sample are not supported; track each of them on its own"
    )


def _refuse_wrapped_scalars(name: str, items: list[Any]) -> None:
    """As `refuse_wrapped`, for numbers that lie in a list one by one."""
    unsigned: dict[str, list[int]] = {}
    for item in items:
        if isinstance(item, np.unsignedinteger) or (isinstance(item, Tensor) and item.ndim == 0):
            dtype = str(item.dtype).removeprefix("torch.")
            if dtype.startswith("uint"):
                unsigned.setdefault(dtype, []).append(int(item))
    for dtype, numbers in unsigned.items():
        refuse_wrapped(name, np.array(numbers, dtype))


def refuse_wrapped(name: str, there: _Array) -> None:
    """Raise where an unsigned number is what -1, no label, becomes: the largest there is, and none beside it."""
    largest = np.iinfo(there.dtype).max
    if bool((there == largest).any()) and not bool((there == largest - 1).any()):
        raise ValueError(
            f"{name} hold {largest} but not {largest - 1}: as {there.dtype}, {largest} is what -1, no label, "
            "becomes; give them as int64, with -1 where there is no label (or as they are, if it is a class)"
        )


def _any_huge(items: list[Any]) -> bool:
    return any(isinstance(item, int) and not -(1 << 63) <= item < 1 << 63 for item in items)


def _is_scalar_array(item: Any) -> bool:
    return isinstance(item, Tensor | np.ndarray | np.generic) and np.ndim(item) == 0


def _size(item: Any) -> int | None:
    """How many entries a label has; None for one that is no container."""
    if isinstance(item, Tensor | np.ndarray):
        return None if item.ndim == 0 else int(np.prod(item.shape))
    if isinstance(item, list | tuple):
        return len(item)
    return None


def _only(item: Any) -> Any:
    while _size(item) == 1:
        item = item.reshape(-1)[0] if isinstance(item, Tensor | np.ndarray) else item[0]
    return _plain(item)


def _plain(item: Any) -> Any:
    """An entry as a plain Python value, where it is one; an entry that is masked stays one."""
    return item.item() if _is_scalar_array(item) and item is not np.ma.masked else item


@dataclass
class Column:
    """Values on their way to int64 ``[N]``, and which of them are missing; ``code`` is an array of them, in a hint."""

    name: str
    values: _Array
    masked: _Array | None
    categories: list[str] | None
    code: str = "labels"
    absent: _Array = field(init=False)
    _shown: _Array = field(init=False)

    def __len__(self) -> int:
        return len(self.values)

    def squeeze(self) -> None:
        """``[N, 1]`` to ``[N]``; other shapes are explained and refused."""
        values, masked = self.values, self.masked
        if values.ndim == 0:
            raise ValueError(f"{self.name} must have shape [N], got a single value; use [{values}]")
        while values.ndim > 1 and values.shape[-1] == 1:
            values = values[..., 0]
            masked = None if masked is None else masked[..., 0]
        if values.ndim > 1:
            self._explain_rows(values)
        self.values = values
        self.absent = (
            np.zeros(len(values), dtype=bool) if masked is None else masked.astype(bool).copy()
        )

    def to_numbers(self, known: list[str] | None) -> list[str] | None:
        """Make ``values`` integers and mark what is missing; returns the names of the classes, if any."""
        self._shown = self.values
        kind = self.values.dtype.kind
        if self.categories is not None:
            texts = [self.categories[k] if k >= 0 else None for k in self.values.tolist()]
            self._shown = np.array(texts, dtype=object)
            self.absent |= np.array([is_missing(text) for text in texts], dtype=bool)
            own = [text for text in self.categories if not is_missing(text)]
            if known is None and any(is_minus_one(text) for text in own):
                self.values = self._shown  # -1 is no category, but what it is elsewhere
                return self._objects(known)
            return self._look_up(texts, known if known is not None else own)
        if kind in "OUST":
            return self._objects(known)
        if kind == "b":
            self.values = self.values.astype(np.int64)
            return known if known is not None else ["False", "True"]
        if kind == "f":
            self._whole()
        elif kind not in "iu":
            raise TypeError(
                f"{self.name} must be integers, or text, one class for each sample, got {self.values.dtype}"
                + self._choose_field()
            )
        self._integers()
        return known

    def _choose_field(self) -> str:
        fields = self.values.dtype.names
        return f"; choose one of its fields, e.g. {self.code}[{fields[0]!r}]" if fields else ""

    def _whole(self) -> None:
        """Floats without a fraction become integers."""
        kind, self.values = self.values.dtype, self.values.astype(np.float64)
        there = ~self.absent & ~np.isnan(self.values)
        values = self.values[there]
        fractional = (values != np.trunc(values)) | np.isinf(values)
        if fractional.any():
            low, high, example = values.min(), values.max(), values[fractional][0]
            what = (
                f"probabilities of one class, or soft labels; a class is needed, e.g. ({self.code} > 0.5) * 1"
                if low >= 0 and high <= 1
                else "the values of a regression, which has no classes and is not supported"
            )
            raise TypeError(
                f"{self.name} must be integers, got {kind} with fractions ({example:g}): {what}"
            )
        self.absent |= ~there
        huge = there & (np.abs(np.where(there, self.values, 0)) >= 2.0**62)
        if huge.any():
            raise ValueError(
                f"{self.name} must lie in [0, {MAX_CLASSES}), got {self.values[huge][0]:g}"
            )
        self.values = np.where(there, self.values, UNLABELED).astype(np.int64)

    def _integers(self) -> None:
        """Mark the integers that stand for no label; others below 0 are refused."""
        values = self.values
        there = values[~self.absent]
        if len(there) == 0:
            return
        if values.dtype.kind == "i" and set(np.unique(there[:1024]).tolist()) == {-1, 1}:
            raise ValueError(
                f"{self.name} are -1 and 1, but -1 stands for no label here; number the two classes 0 and 1: "
                f"({self.code if self._shown.dtype.kind == 'i' else f'numpy.asarray({self.name}, float)'} > 0) * 1"
            )
        if values.dtype.kind == "i" and bool((there < 0).any()):
            self.absent |= np.isin(values, [n for n in NO_LABEL if n >= np.iinfo(values.dtype).min])
            negative = (values < 0) & ~self.absent
            if negative.any():
                row = int(np.flatnonzero(negative)[0])
                raise ValueError(
                    f"{self.name} must lie in [0, {MAX_CLASSES}), got {values[row]} (row {row}); number the classes "
                    "from 0, or -1 where a sample has no label"
                )
        if values.dtype.kind == "u" and bool((there > np.uint64(1 << 62)).any()):
            raise ValueError(f"{self.name} must lie in [0, {MAX_CLASSES}), got {there.max()}")
        if values.dtype.kind == "u":
            refuse_wrapped(self.name, there)

    def _objects(self, known: list[str] | None) -> list[str] | None:
        """Texts, or objects of several kinds."""
        texts: list[Any] = self.values.tolist()
        numbers: list[Any] = [None] * len(texts)
        seen = {"text": -1, "numbers": -1}
        logical = False
        for row, value in enumerate(texts):
            if self.absent[row] or is_missing(value):
                self.absent[row] = True
            elif isinstance(value, str | bytes):
                texts[row] = (
                    str.__str__(value)  # of an enumeration too
                    if isinstance(value, str)
                    else value.decode("utf-8", "backslashreplace")
                )
                seen["text"] = row
            elif isinstance(value, bool | int | float):
                logical |= isinstance(value, bool)
                numbers[row], seen["numbers"] = value, row
            else:
                raise TypeError(
                    f"{self.name} must be integers, or text, one class for each sample, got "
                    f"{type(value).__name__} (row {row})"
                    + ("; use [x.name for x in labels]" if isinstance(value, enum.Enum) else "")
                )
            if min(seen.values()) >= 0:
                raise TypeError(
                    f"{self.name} mix text and numbers ({texts[seen['text']]!r} in row {seen['text']}, "
                    f"{numbers[seen['numbers']]!r} in row {seen['numbers']}); write all of them one way"
                )
        if seen["numbers"] >= 0:
            if any(isinstance(n, int) and abs(n) >= 1 << 62 for n in numbers):
                huge = next(n for n in numbers if isinstance(n, int) and abs(n) >= 1 << 62)
                raise ValueError(f"{self.name} must lie in [0, {MAX_CLASSES}), got {huge}")
            self.values = np.array([math.nan if n is None else float(n) for n in numbers])
            self._whole()
            self._integers()
            return (
                ["False", "True"] if logical and known is None and self.values.max() <= 1 else known
            )
        if seen["text"] < 0:
            self.values = np.full(len(texts), UNLABELED)
            return known
        there = [
            text for text, absent in zip(texts, self.absent.tolist(), strict=True) if not absent
        ]
        if known is None and all(_WHOLE_NUMBER.fullmatch(text) for text in set(there)):
            self.values = np.full(len(texts), UNLABELED)
            self.values[~self.absent] = [int(text.partition(".")[0]) for text in there]
            self._integers()
            return None
        none = {text for text in set(there) if is_minus_one(text)}
        none -= set(known or ())
        # Where +1 is spelled out, the sign is meant: -1 is a class beside it.
        if none and not any(text.startswith("+") for text in there):
            self.absent |= np.array([text in none for text in texts], dtype=bool)
        return self._look_up(texts, known)

    def _look_up(self, texts: list[Any], known: list[str] | None) -> list[str]:
        rows = np.flatnonzero(~self.absent)
        names = known if known is not None else sorted({texts[row] for row in rows})
        place = {text: number for number, text in enumerate(names)}
        codes = np.full(len(texts), UNLABELED)
        for row in rows.tolist():
            if texts[row] not in place:
                raise ValueError(
                    f"{self.name} name the class {texts[row]!r} (row {row}), which is none of the known ones: "
                    f"{', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"
                )
            codes[row] = place[texts[row]]
        self.values = codes
        return names

    def refuse_missing(self, needed: Tensor, remedy: str) -> NoReturn:
        """Say how many labels are missing, and where the first are."""
        rows = needed.nonzero().flatten().tolist()
        shown = ", ".join(f"row {row}: {self._show(row)}" for row in rows[:5])
        raise ValueError(
            f"{self.name} are missing for {len(rows)} of {len(self)} samples ({shown}"
            f"{', ...' if len(rows) > 5 else ''}); fill them in, or {remedy}"
            f"{self._rename(rows[0])}"
        )

    def _rename(self, row: int) -> str:
        text = self._shown[row]
        is_word = isinstance(text, str) and text.strip().isprintable() and bool(text.strip())
        return "; where that is the name of a class, call it something else" if is_word else ""

    def _show(self, row: int) -> str:
        if self.masked is not None and self.categories is None and bool(np.ravel(self.masked)[row]):
            return "masked"
        value = self._shown[row]
        return repr(value.item() if isinstance(value, np.generic) else value)

    def _explain_rows(self, values: _Array) -> NoReturn:
        """Say what an array with several entries a sample holds."""
        name, shape = self.name, list(values.shape)
        code = self.code
        wanted = f"{name} must have shape [N], one class for each sample, got shape {shape}"
        if values.ndim > 2:
            raise TypeError(
                f"{wanted}: a label for each pixel or token; a LearningStatus records them, a row for each"
            )
        if len(values) == 1:
            raise ValueError(f"{wanted}; use {code}[0] if each column is a sample")
        if values.dtype.kind in "biuf" and values.size:
            numbers = values.astype(np.float64)
            binary = bool(np.isin(numbers, (0.0, 1.0)).all())
            sums = numbers.sum(axis=1)
            if binary and bool((sums == 1).all()):
                raise TypeError(f"{wanted}: one-hot labels; use {code}.argmax(1)")
            if binary:
                raise TypeError(
                    f"{wanted}: multi-label data, with several classes for a sample, are not supported; track "
                    f"each class on its own, with {code}[:, k]"
                )
            if bool((numbers >= 0).all()) and bool((np.abs(sums - 1) < 1e-3).all()):
                raise TypeError(
                    f"{wanted}: soft labels (probabilities); use the class that was given, "
                    f"{code}.argmax(1) where that is the most probable"
                )
            if values.dtype.kind == "f" and bool((numbers != np.trunc(numbers)).any()):
                raise TypeError(
                    f"{wanted}: the values of a regression, which has no classes and is not supported"
                )
        raise TypeError(f"{wanted}: several labels for a sample; choose one column, {code}[:, k]")
