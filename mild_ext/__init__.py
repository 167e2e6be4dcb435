"""Find wrong labels by watching how each sample is learned.

The public names; see README.md for a ten-line example.
"""

from importlib.metadata import version

from mild_ext.status import LearningStatus
from mild_ext.transitions import TransitionTimes

__all__ = ["LearningStatus", "TransitionTimes", "__version__"]

__version__ = version("mild_ext")
