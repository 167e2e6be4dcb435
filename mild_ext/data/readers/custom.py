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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from mild_ext.data.sets import (
    ArrayDataset,
    IndexedDataset,
    LabeledData,
    array_data,
    isolated_random_state,
    labels_of,
    some_inputs,
    statistics_of,
)


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
    made = import_factory(spec)(**options)
    if isinstance(made, LabeledData):
        return made
    train, test = made if isinstance(made, tuple) and len(made) == 2 else (made, None)
    for dataset in (train, test):
        if dataset is not None and not (
            hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
        ):
            raise TypeError(
                f"{spec} must return a map-style data set (with __len__ and __getitem__), a pair of "
                f"them, or LabeledData; got {type(dataset).__name__}"
            )
    return describe_dataset(spec.replace(":", "."), train, test)


def describe_dataset(name: str, train: Any, test: Any = None) -> LabeledData:
    """`LabeledData` of map-style data sets of ``(input, label)``; see `load_custom`."""
    if len(train) == 0:
        raise ValueError(f"{name} is empty")
    labels = labels_of(train)
    test_labels = None if test is None else labels_of(test)
    class_names = _class_names(name, train, [labels, *([] if test is None else [test_labels])])
    if _in_memory(train) and (test is None or _in_memory(test)):
        x_test, y_test = (None, None) if test is None else (test.tensors[0], test_labels)
        return array_data(name, train.tensors[0], labels, class_names, x_test=x_test, y_test=y_test)
    with isolated_random_state():
        first = IndexedDataset(train)[(0, 0)][1]
    kind: Literal["image", "vector"] = "vector"
    shape: tuple[int, ...] = ()
    mean = std = None
    if hasattr(first, "shape") and hasattr(first, "dtype"):
        inputs = some_inputs(train)
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
    )


def _in_memory(dataset: Any) -> bool:
    return (
        isinstance(dataset, TensorDataset)
        and not isinstance(dataset, ArrayDataset)
        and (len(dataset.tensors) == 2)
    )


def _class_names(name: str, dataset: Any, labels: Iterable[Tensor | None]) -> list[str]:
    every = torch.cat([values for values in labels if values is not None])
    if int(every.min()) < 0:
        raise ValueError(f"the labels of {name} must be integers 0 .. K-1, got {int(every.min())}")
    count = int(every.max()) + 1
    found = getattr(dataset, "classes", None)
    names = [str(c) for c in found] if found is not None else [str(k) for k in range(count)]
    if len(names) < count:
        raise ValueError(f"{name} names {len(names)} classes, but the label {count - 1} occurs")
    return names
