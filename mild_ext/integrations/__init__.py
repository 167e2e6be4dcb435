"""Adapters to the training loops people already have. Each module imports its library itself.

`RoundTracker` and `KeptSampler` are what they share, and what a plain PyTorch loop uses directly.
"""

from mild_ext.integrations.sampler import KeptSampler
from mild_ext.integrations.tracker import RoundTracker

__all__ = ["KeptSampler", "RoundTracker"]
