"""What the trainings of one run have in common, whatever is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

#: What a run notes of an epoch or a round: a line of ``history.jsonl``.
Record = dict[str, Any]


@dataclass(frozen=True)
class RunContext:
    """Where and how a run's trainings happen; frozen, so that all of them see the same.

    Attributes:
        seed: everything random in the run follows from it.
        device: where to train and record.
        folder: where checkpoints are kept; None keeps none.
        checkpoint_seconds: least time between two checkpoints inside a training (at an epoch's
            end); 0 saves after every epoch. The end of a training is always saved.
        fingerprint: text that identifies the run; a checkpoint with another is refused.
        on_record: called with every epoch's and round's record, those of a resumed training
            included.
        progress: show a progress bar on a terminal.
    """

    seed: int = 0
    device: torch.device | str = "cpu"
    folder: Path | None = None
    checkpoint_seconds: float = 30.0
    fingerprint: str = ""
    on_record: Callable[[Record], None] | None = None
    progress: bool = False

    def checkpoint(self, name: str) -> Path | None:
        """The file of that name among the checkpoints; None where none are kept."""
        return None if self.folder is None else self.folder / name

    def note(self, record: Record) -> None:
        """Hand a record to ``on_record``."""
        if self.on_record is not None:
            self.on_record(record)
