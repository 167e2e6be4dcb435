"""TensorBoard logging of a run's records; an extra."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any


class TensorBoardLog:
    """Writes the records of a run, as `run_rounds` gives them to ``on_record``, as TensorBoard scalars.

    Loss and learning rate of all rounds form one curve over epochs (``rounds/loss``), those of every other
    training one each (``final/loss``, ``mixmatch/pseudo_rate``); what a round found is shown over rounds
    (``selection/kept``, ``selection/precision``, ...). An earlier log in the folder is replaced: a resumed run hands
    over all of its records again.

    Raises:
        ImportError: tensorboard is missing.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "logging for TensorBoard needs tensorboard: pip install 'mild_ext[tensorboard]'"
            ) from error
        for earlier in Path(folder).glob("events.out.tfevents.*"):
            earlier.unlink()
        make: Callable[[str], Any] = SummaryWriter
        self._writer = make(str(folder))
        self._epochs: dict[str, int] = {}

    def __call__(self, record: dict[str, Any]) -> None:
        """Log one record."""
        if record["type"] == "round":
            for name, value in record.items():
                if name != "round" and isinstance(value, int | float):
                    self._writer.add_scalar(f"selection/{name}", value, record["round"])
        elif record["type"] == "epoch":
            stage = "rounds" if record["stage"].startswith("round ") else record["stage"]
            step = self._epochs.get(stage, 0)
            self._epochs[stage] = step + 1
            for name in (
                "loss",
                "lr",
                "memorized",
                "prediction_changes",
                "pseudo_rate",
                "pseudo_accuracy",
            ):
                if record.get(name) is not None:
                    self._writer.add_scalar(f"{stage}/{name}", record[name], step)

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._writer.close()
