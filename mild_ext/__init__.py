"""Find wrong labels by watching how each sample is learned.

The public names; see README.md for a ten-line example.
"""

from importlib.metadata import version

from mild_ext.data import ArrayDataset, IndexedDataset, corrupt_labels
from mild_ext.mixture.weibull import Weibull, WeibullMixture
from mild_ext.recording.dynamics import Dynamics, MajorityVote
from mild_ext.recording.status import LearningStatus
from mild_ext.recording.transitions import TransitionTimes
from mild_ext.selection import PlantedLabels, Selection, plant_labels, select_clean
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
    "TransitionTimes",
    "Weibull",
    "WeibullMixture",
    "__version__",
    "corrupt_labels",
    "plant_labels",
    "run_rounds",
    "select_clean",
    "train_semi_supervised",
]
