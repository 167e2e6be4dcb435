"""Data sets, label noise, and the wrapper that gives every sample a stable id."""

from mild_ext.data.dataset_labels import labels_of
from mild_ext.data.indexed import IndexedDataset
from mild_ext.data.labels import CheckedLabels, check_labels
from mild_ext.data.noise import LabelNoise, corrupt_labels
from mild_ext.data.readers.sources import load_data
from mild_ext.data.sets import (
    ArrayDataset,
    LabeledData,
    array_data,
    stratified_holdout,
)

__all__ = [
    "ArrayDataset",
    "CheckedLabels",
    "IndexedDataset",
    "LabelNoise",
    "LabeledData",
    "array_data",
    "check_labels",
    "corrupt_labels",
    "labels_of",
    "load_data",
    "stratified_holdout",
]
