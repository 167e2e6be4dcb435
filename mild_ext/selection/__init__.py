"""Which samples to keep: from the counts of a recorded run to a verdict on every sample."""

from mild_ext.selection.planted import PlantedLabels, plant_labels
from mild_ext.selection.result import Selection
from mild_ext.selection.select import select_clean

__all__ = ["PlantedLabels", "Selection", "plant_labels", "select_clean"]
