"""Which samples to keep: from the counts of a recorded run to a verdict on every sample."""

from mild_ext.selection.result import Selection
from mild_ext.selection.select import select_clean

__all__ = ["Selection", "select_clean"]
