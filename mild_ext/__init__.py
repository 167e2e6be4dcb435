"""Find wrong labels by watching how each sample is learned.

The public names; see README.md for a ten-line example. Each is imported when it is first used, so that the
command line answers, and can be interrupted, before torch is loaded.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mild_ext.data import ArrayDataset, IndexedDataset, corrupt_labels
    from mild_ext.mixture.weibull import Weibull, WeibullMixture
    from mild_ext.recording.dynamics import Dynamics, MajorityVote
    from mild_ext.recording.status import LearningStatus
    from mild_ext.recording.transitions import TransitionTimes
    from mild_ext.selection import PlantedLabels, Selection, plant_labels, select_clean
    from mild_ext.training.features import image_features
    from mild_ext.training.load_model import TrainedModel, load_model
    from mild_ext.training.posterior_targets import PosteriorTargets
    from mild_ext.training.recipe import Recipe
    from mild_ext.training.run_rounds import RoundsResult, run_rounds
    from mild_ext.training.ssl import train_semi_supervised

__version__ = version("mild_ext")

__all__ = [
    "ArrayDataset",
    "Dynamics",
    "IndexedDataset",
    "LearningStatus",
    "MajorityVote",
    "PlantedLabels",
    "PosteriorTargets",
    "Recipe",
    "RoundsResult",
    "Selection",
    "TrainedModel",
    "TransitionTimes",
    "Weibull",
    "WeibullMixture",
    "__version__",
    "corrupt_labels",
    "image_features",
    "load_model",
    "plant_labels",
    "run_rounds",
    "select_clean",
    "train_semi_supervised",
]

#: Where each name is at home; the imports above, for those who read types.
_HOMES = {
    "mild_ext.data": ("ArrayDataset", "IndexedDataset", "corrupt_labels"),
    "mild_ext.mixture.weibull": ("Weibull", "WeibullMixture"),
    "mild_ext.recording.dynamics": ("Dynamics", "MajorityVote"),
    "mild_ext.recording.status": ("LearningStatus",),
    "mild_ext.recording.transitions": ("TransitionTimes",),
    "mild_ext.selection": ("PlantedLabels", "Selection", "plant_labels", "select_clean"),
    "mild_ext.training.features": ("image_features",),
    "mild_ext.training.load_model": ("TrainedModel", "load_model"),
    "mild_ext.training.posterior_targets": ("PosteriorTargets",),
    "mild_ext.training.recipe": ("Recipe",),
    "mild_ext.training.run_rounds": ("RoundsResult", "run_rounds"),
    "mild_ext.training.ssl": ("train_semi_supervised",),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(home), name)
            globals()[name] = value
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
