"""What a training loop records of every sample, and what is read from the record."""

from mild_ext.recording.sharded import ShardedStatus
from mild_ext.recording.status import LearningStatus
from mild_ext.recording.transitions import TransitionTimes

__all__ = ["LearningStatus", "ShardedStatus", "TransitionTimes"]
