"""Data sets, label noise, and the wrapper that gives every sample a stable id."""

from mild_ext.data.noise import LabelNoise, corrupt_labels
from mild_ext.data.readers.sources import load_data
from mild_ext.data.sets import (
    ArrayDataset,
    IndexedDataset,
    LabeledData,
    array_data,
    labels_of,
    stratified_holdout,
)

__all__ = [
    "ArrayDataset",
    "IndexedDataset",
    "LabelNoise",
    "LabeledData",
    "array_data",
    "corrupt_labels",
    "labels_of",
    "load_data",
    "stratified_holdout",
]
