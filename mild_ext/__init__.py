"""Find wrong labels by watching how each sample is learned.

The public names; see README.md for a ten-line example.
"""

from importlib.metadata import version

from mild_ext.data import ArrayDataset, IndexedDataset, corrupt_labels
from mild_ext.dynamics import Dynamics, MajorityVote
from mild_ext.rounds import RoundsResult, run_rounds
from mild_ext.selection import Selection, select_clean
from mild_ext.status import LearningStatus
from mild_ext.training.recipe import Recipe
from mild_ext.training.ssl import train_semi_supervised
from mild_ext.transitions import TransitionTimes
from mild_ext.weibull import Weibull, WeibullMixture

__version__ = version("mild_ext")

__all__ = [
    "ArrayDataset",
    "Dynamics",
    "IndexedDataset",
    "LearningStatus",
    "MajorityVote",
    "Recipe",
    "RoundsResult",
    "Selection",
    "TransitionTimes",
    "Weibull",
    "WeibullMixture",
    "__version__",
    "corrupt_labels",
    "run_rounds",
    "select_clean",
    "train_semi_supervised",
]
