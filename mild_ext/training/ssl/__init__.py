"""The semi-supervised stage: samples that lost their label still teach the model."""

from mild_ext.training.ssl.objectives import METHODS
from mild_ext.training.ssl.train import SemiSupervisedResult, train_semi_supervised, train_stage

__all__ = ["METHODS", "SemiSupervisedResult", "train_semi_supervised", "train_stage"]
