"""TensorBoard logging of a run: losses, learning rates and quality, one curve per stage.

The package ``tensorboard`` is an extra, imported where it is used.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

#: Fields of a record that are plain descriptions of it, not measurements.
_NOT_CURVES = ("type", "stage", "epoch", "round", "supported")


class TensorBoardLog:
    """Writes each record of a run as scalars; a resumed run replays its records into a new log.

    Epochs appear as ``<field>/<stage>`` over epochs, rounds as ``rounds/<field>`` over rounds.

    Args:
        folder: where the event files go; what is there is replaced.

    Raises:
        ImportError: tensorboard is missing.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "--tensorboard needs the package tensorboard: pip install 'mild_ext[tensorboard]'"
            ) from error
        shutil.rmtree(folder, ignore_errors=True)
        self.writer: Any = SummaryWriter(str(folder))

    def __call__(self, record: dict[str, Any]) -> None:
        is_round = record["type"] == "round"
        step = record["round"] if is_round else record["epoch"]
        for field, value in record.items():
            if field in _NOT_CURVES or not isinstance(value, int | float):
                continue
            tag = f"rounds/{field}" if is_round else f"{field}/{record['stage']}"
            self.writer.add_scalar(tag, value, step)

    def close(self) -> None:
        self.writer.close()
