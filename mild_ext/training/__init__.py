"""The training loop, recipes and presets, models, checkpoints."""

from mild_ext.training.checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from mild_ext.training.context import RunContext
from mild_ext.training.loop import TrainingDiverged, accuracy, fit, predict
from mild_ext.training.models import build_model
from mild_ext.training.recipe import PRESETS, Recipe, preset

__all__ = [
    "PRESETS",
    "CheckpointError",
    "Recipe",
    "RunContext",
    "TrainingDiverged",
    "accuracy",
    "build_model",
    "fit",
    "load_checkpoint",
    "predict",
    "preset",
    "save_checkpoint",
]
