"""A user's own data set: ``module:factory``, called with the options given after it.

::

    # mydata.py
    def load(root="data"):
        return MyDataset(root, train=True), MyDataset(root, train=False)

    mild-ext train --data mydata:load,root=/data/mine --out runs/mine
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from mild_ext.data.dataset_labels import read_labels
from mild_ext.data.indexed import IndexedDataset
from mild_ext.data.labels import CheckedLabels, named_as, number_alike
from mild_ext.data.map_style import require_map_style
from mild_ext.data.random_state import isolated_random_state
from mild_ext.data.sets import ArrayDataset, LabeledData, array_data, some_inputs, statistics_of


def import_factory(spec: str) -> Callable[..., Any]:
    """What ``module:name`` stands for; modules in the working directory are found too.

    Raises:
        ImportError: there is no such module, or it imports one that is missing.
        ValueError: the module has no such callable.
    """
    module_name, _, name = spec.partition(":")
    here = str(Path.cwd())
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)  # last, and for good: what the module imports later is found too
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise ImportError(
            f"there is no module {module_name} (asked for by {spec}) in {here} or installed"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise ValueError(f"module {module_name} has no callable {name!r}")
    return factory  # type: ignore[no-any-return]


def load_custom(spec: str, **options: str) -> LabeledData:
    """Call a user's factory and describe what it returns.

    Args:
        spec: ``module:factory``. The factory returns a map-style data set of ``(input, label)``, a
            pair of them (training and test), or `LabeledData`. Inputs are tensors or arrays of one
            shape; with anything else (a dict, say) the model must be one's own. Labels are
            integers ``0 .. K-1``. Attributes ``labels`` or ``targets`` (read instead of every item)
            and ``classes`` (names) are used where they exist.
        options: keyword arguments of the factory, as text.

    Raises:
        TypeError: the factory returns something else.
        ValueError: labels or inputs are not as described.
        ImportError: the module cannot be imported.
    """
    factory = import_factory(spec)
    try:
        made = factory(**options)
    except Exception as error:  # its author must know where it came from
        raise RuntimeError(
            f"{spec} failed with {type(error).__name__}: {error}; mild-ext --traceback ... shows where"
        ) from error
    if isinstance(made, LabeledData):
        return made
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    require_map_style(train, f"what {spec} returns")
    if test is not None:
        require_map_style(test, f"what {spec} returns as test data")
    if isinstance(made, tuple) and len(made) > 2 and not any(isinstance(x, tuple) for x in made):
        raise TypeError(
            f"{spec} returns {len(made)} things; return the training data, or (training data, test data)"
        )
    return describe_dataset(spec.replace(":", "."), train, test)


def describe_dataset(name: str, train: Any, test: Any = None) -> LabeledData:
    """`LabeledData` of map-style data sets of ``(input, label)``; see `load_custom`."""
    if len(train) == 0:
        raise ValueError(f"{name} is empty")
    found = {"train": read_labels(train)} | ({} if test is None else {"test": read_labels(test)})
    labels_by_part, class_names = _number(name, train, {key: x.labels for key, x in found.items()})
    labels, test_labels = labels_by_part["train"], labels_by_part.get("test")
    messages = [note for x in found.values() for note in x.notes]
    if _in_memory(train) and (test is None or _in_memory(test)):
        _require_finite(name, train.tensors[0])
        x_test, y_test = (None, None) if test is None else (test.tensors[0], test_labels)
        data = array_data(name, train.tensors[0], labels, class_names, x_test=x_test, y_test=y_test)
        data.messages += messages
        return data
    train, test = _as_pairs(train), None if test is None else _as_pairs(test)
    with isolated_random_state():
        first = IndexedDataset(train)[(0, 0)][1]
    kind: Literal["image", "vector"] = "vector"
    shape: tuple[int, ...] = ()
    mean = std = None
    if hasattr(first, "shape") and hasattr(first, "dtype"):
        try:
            inputs = some_inputs(train)
        except RuntimeError as error:
            raise ValueError(
                f"the inputs of {name} must have one shape ({error}); resize or pad them in the data set's "
                "__getitem__"
            ) from error
        _require_finite(name, inputs)
        shape = tuple(inputs.shape[1:])
        kind = "image" if inputs.ndim == 4 else "vector"
        mean, std = statistics_of(inputs, kind)
    elif not isinstance(first, dict | tuple | list):
        raise ValueError(
            f"the inputs of {name} must be tensors or arrays, got {type(first).__name__}; convert them "
            "in the data set's __getitem__"
        )
    return LabeledData(
        name=name,
        train=train,
        labels=labels,
        class_names=class_names,
        kind=kind,
        input_shape=shape,
        mean=mean,
        std=std,
        test=test,
        messages=messages,
    )


def _require_finite(name: str, inputs: Tensor) -> None:
    if not inputs.is_floating_point():
        return
    bad = int((~inputs.isfinite()).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"the inputs of {name} must be finite; {bad} of those looked at hold NaN or infinity"
        )


def _in_memory(dataset: Any) -> bool:
    return (
        isinstance(dataset, TensorDataset)
        and not isinstance(dataset, ArrayDataset)
        and (len(dataset.tensors) == 2)
    )


class _Pairs(Dataset[tuple[Any, Any]]):
    """A data set of other items as ``(input, label)``."""

    def __init__(self, dataset: Any) -> None:
        self.indexed = IndexedDataset(dataset)

    def __len__(self) -> int:
        return len(self.indexed)

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.indexed[index][1:]


def _as_pairs(dataset: Any) -> Any:
    if isinstance(dataset, IndexedDataset):
        return _Pairs(dataset)
    with isolated_random_state():
        return _Pairs(dataset) if isinstance(dataset[0], Mapping) else dataset


def _number(
    name: str, dataset: Any, found: dict[str, CheckedLabels]
) -> tuple[dict[str, Tensor], list[str]]:
    """Labels of the parts, and a name for each class: the data set's own ``classes`` where it has them."""
    own = getattr(dataset, "classes", None)
    names = None if own is None or isinstance(own, str) else [str(c) for c in own]
    labels, numbered = number_alike(found)
    if names is not None and found["train"].class_names is not None:
        unknown = sorted(set(numbered) - set(names))
        if unknown:
            raise ValueError(f"{name} has the label {unknown[0]!r}, which is not among its classes")
        labels = {key: named_as(x, names) for key, x in found.items()}
    elif names is None:
        names = numbered
    elif len(names) < len(numbered):
        raise ValueError(
            f"{name} names {len(names)} classes, but the label {len(numbered) - 1} occurs"
        )
    return {key: x.values for key, x in labels.items()}, names
