"""The semi-supervised stage: samples that lost their label still teach the model."""

from mild_ext.training.ssl.train import SemiSupervisedResult, train_semi_supervised

__all__ = ["SemiSupervisedResult", "train_semi_supervised"]
