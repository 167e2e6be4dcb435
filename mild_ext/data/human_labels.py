"""CIFAR-N: human labels of the CIFAR training images (Wei et al., ICLR 2022).

The files ``CIFAR-10_human.pt`` and ``CIFAR-100_human.pt`` of the authors' repository (``.npy``
variants exist) are pickled dicts of arrays; they are read with `plain_pickle`, which executes
nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mild_ext.data.plain_pickle import read_npy, read_torch_file

#: Names of the label sets, and the keys that they have in the files.
VARIANTS = {
    "aggre": ("aggre_label",),
    "worst": ("worse_label",),
    "rand1": ("random_label1",),
    "rand2": ("random_label2",),
    "rand3": ("random_label3",),
    "noisy": ("noisy_label", "noise_label"),
    "clean": ("clean_label",),
}


def read_human_labels(path: Path, variant: str, true: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Human labels, in the order of CIFAR's training images.

    Args:
        path: ``CIFAR-10_human.pt``, ``CIFAR-100_human.pt`` or their ``.npy`` variants.
        variant: for CIFAR-10 ``aggre`` (majority of three people), ``rand1``, ``rand2``, ``rand3``
            (one person each) or ``worst`` (a wrong label wherever one of the three gave one); for
            CIFAR-100 ``noisy``.
        true: int64 ``[N]`` labels of the data set, which the file's clean labels must equal.

    Returns:
        int64 ``[N]``.

    Raises:
        ValueError: no such file or label set, or a file of other images or another order.
    """
    if variant not in VARIANTS:
        raise ValueError(f"CIFAR-N has the label sets {', '.join(VARIANTS)}; got {variant!r}")
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    content = read_npy(path) if path.suffix == ".npy" else read_torch_file(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a dict of label arrays, as the files of CIFAR-N do")
    key = next((k for k in VARIANTS[variant] if k in content), None)
    if key is None:
        found = [name for name, keys in VARIANTS.items() if any(k in content for k in keys)]
        raise ValueError(f"{path} has no label set {variant!r}; it has {', '.join(found)}")
    labels, clean = np.asarray(content[key]), content.get("clean_label")
    if labels.shape != true.shape or labels.dtype.kind not in "iu":
        raise ValueError(
            f"{path} holds {labels.size} labels of type {labels.dtype}; the data set has {len(true)} "
            "training images"
        )
    if clean is not None and not np.array_equal(np.asarray(clean), true):
        different = int((np.asarray(clean) != true).sum())
        raise ValueError(
            f"{different} clean labels in {path} differ from the data set's: it is of other images, or in "
            "another order (the files named *_ordered are in the order of TensorFlow Datasets)"
        )
    return labels.astype(np.int64)
