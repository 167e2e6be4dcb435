"""A run's folder: everything that is written to it, and what of it a run reads again.

config.json          settings, data, noise, versions
given_labels.npy     int64 [N], the labels that were given
history.jsonl        a record a line: epochs and rounds, as they happen
checkpoints/         what a resumed run goes on from
status/              round-NN.safetensors, the learning status of each round
planted/             round-NN.safetensors, the labels planted in it, where there were some
logs/                round-NN.npz, status, loss and margin, where asked for
figures/             round-NN.png, the mixture of each round; the first also as metric.png
result.safetensors   the outcome of the rounds
selection.csv        a line a sample
model.safetensors    the final model
summary.json         what it all comes to
"""

from __future__ import annotations

import csv
import functools
import importlib.metadata
import io
import json
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from mild_ext import processes
from mild_ext.data.noise import LabelNoise
from mild_ext.data.sets import LabeledData
from mild_ext.files import PARTIAL, remove_partial, write_atomically, write_text
from mild_ext.recording.learning_log import write_learning_log
from mild_ext.selection.plot import save_figure
from mild_ext.training.context import Record
from mild_ext.training.experiment import RunSettings
from mild_ext.training.run_rounds import Round, RoundsResult

CONFIG = "config.json"

P = ParamSpec("P")


def _is_first() -> bool:
    return processes.rank() == 0


def _by_the_first_rank(write: Callable[P, None]) -> Callable[P, None]:
    """Of several processes, which all have the same to write, only the first one does."""

    @functools.wraps(write)
    def write_once(*args: P.args, **kwargs: P.kwargs) -> None:
        if _is_first():
            write(*args, **kwargs)

    return write_once


class RunFolder:
    """The folder of a run. With several processes each has one, and only the first rank's writes.

    Args:
        path: the folder; `prepare` makes it.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes, prints and reports."""
        return _is_first()

    @property
    def checkpoints(self) -> Path:
        """Where the trainings of the run keep theirs."""
        return self.path / "checkpoints"

    # ---------------------------------------------------------------------------- before the run

    def prepare(self, *, resume: bool, overwrite: bool) -> None:
        """Make the folder, or say why it cannot be used; all ranks wait until it is there.

        Args:
            resume: go on with the run in it; what a killed process left half-written is removed.
            overwrite: delete an earlier run in it.

        Raises:
            ValueError: nothing to resume, or something in the way.
        """
        if resume and not self._is_run():
            raise ValueError(f"there is no run to resume in {self.path} (no {CONFIG})")
        if not resume:
            self._make(overwrite)
        self._clear_up()
        processes.barrier()

    def _is_run(self) -> bool:
        return (self.path / CONFIG).is_file()

    @_by_the_first_rank
    def _make(self, overwrite: bool) -> None:
        out = self.path
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; --out must name a folder")
        # A kill while the first file was being written leaves nothing worth protecting.
        if out.is_dir() and any(path.suffix != PARTIAL for path in out.iterdir()):
            if not overwrite:
                go_on = "--resume to go on with it, --overwrite to start again, or "
                hint = go_on if self._is_run() else ""
                raise ValueError(f"{out} is not empty: use {hint}another --out")
            if not self._is_run():
                raise ValueError(
                    f"{out} holds no run (no {CONFIG}), so --overwrite will not delete it"
                )
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)

    @_by_the_first_rank
    def _clear_up(self) -> None:
        remove_partial(self.path)

    def read_settings(self) -> RunSettings:
        """The settings of the run in the folder.

        Raises:
            ValueError: there is no run, or its config cannot be read.
        """
        path = self.path / CONFIG
        try:
            return RunSettings.from_dict(json.loads(path.read_text(encoding="utf-8"))["settings"])
        except FileNotFoundError as error:
            raise ValueError(f"there is no run in {self.path} (no {CONFIG})") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} is not the config of a run: {error}") from error

    @_by_the_first_rank
    def write_config(
        self,
        settings: RunSettings,
        data: LabeledData,
        noise: LabelNoise | None,
        device: torch.device | str,
    ) -> None:
        """``config.json`` and ``given_labels.npy``."""
        config = {
            "settings": settings.to_dict(),
            "data": {
                "name": data.name,
                "samples": len(data),
                "classes": list(data.class_names),
                "input_shape": list(data.input_shape),
                "messages": data.messages,
            },
            "noise": None if noise is None else _noise_record(noise),
            "versions": {
                "mild_ext": importlib.metadata.version("mild_ext"),
                "python": platform.python_version(),
                "torch": torch.__version__,
                "platform": platform.platform(),
            },
            "device": str(device),
        }
        write_text(self.path / CONFIG, json.dumps(config, indent=2) + "\n")
        # What was given, whatever happens to the files it was read from; --noise labels:
        # reads it.
        write_atomically(self.path / "given_labels.npy", lambda to: _save_npy(data.labels, to))

    # ---------------------------------------------------------------------------- while it runs

    def history(self) -> History:
        """``history.jsonl``, to be entered and called with each record."""
        return History(self.path / "history.jsonl" if self.writes else Path(os.devnull))

    @_by_the_first_rank
    def save_round(self, done: Round) -> None:
        """A round's learning status, what was planted in it, and its log, where there are some."""
        name = f"round-{done.number:02d}"
        (self.path / "status").mkdir(exist_ok=True)
        write_atomically(self.path / "status" / f"{name}.safetensors", done.status.save)
        if done.planted is not None:
            (self.path / "planted").mkdir(exist_ok=True)
            done.planted.save(self.path / "planted" / f"{name}.safetensors")
        for number, scout in enumerate(done.scouts, start=1):
            file = f"scout-{number}.safetensors"
            write_atomically(self.path / "status" / file, scout.status.save)
            scout.planted.save(self.path / "planted" / file)
        if done.log is not None:
            (self.path / "logs").mkdir(exist_ok=True)
            write_learning_log(self.path / "logs" / f"{name}.npz", done.log)

    @_by_the_first_rank
    def draw_round(self, done: Round) -> None:
        """The histogram a round was decided on, as a picture; ImportError without matplotlib."""
        (self.path / "figures").mkdir(exist_ok=True)
        figure = self.path / "figures" / f"round-{done.number:02d}.png"
        save_figure(done.selection.plot(), figure)
        if done.number == 0:  # the round that sees all of the noise
            write_atomically(self.path / "metric.png", lambda to: shutil.copyfile(figure, to))

    # ---------------------------------------------------------------------------- at its end

    @_by_the_first_rank
    def save_result(self, result: RoundsResult) -> None:
        """``result.safetensors``."""
        result.save(self.path / "result.safetensors")

    @_by_the_first_rank
    def save_model(self, model: nn.Module) -> None:
        """``model.safetensors``: the model's ``state_dict``."""
        tensors = {
            name: value.detach().to("cpu", copy=True).contiguous()
            for name, value in model.state_dict().items()
        }
        write_atomically(self.path / "model.safetensors", lambda to: save_file(tensors, to))

    @_by_the_first_rank
    def write_selection(
        self,
        result: RoundsResult,
        data: LabeledData,
        predicted: Tensor,
        *,
        train_ids: Tensor | None = None,
    ) -> None:
        """``selection.csv``: one line per sample used for training; ``predicted``: int64 ``[N]``."""
        write_text(self.path / "selection.csv", _selection_text(result, data, predicted, train_ids))

    @_by_the_first_rank
    def write_summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def contents(self) -> str:
        """The files that people look at first, those that are always there before the others."""
        names = ["selection.csv", "model.safetensors", "summary.json"]
        more = ("metric.png", "logs/", "report.html")
        return ", ".join(names + [name for name in more if (self.path / name).exists()])


class History:
    """``history.jsonl``: one record a line, written as it happens; a resumed run writes it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> History:
        self.file = open(self.path, "w", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        self.file.close()

    def __call__(self, record: Record) -> None:
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()


def _noise_record(noise: LabelNoise) -> dict[str, Any]:
    return {
        "spec": noise.spec,
        "seed": noise.seed,
        "rate": noise.rate,
        "class_rates": [None if rate != rate else rate for rate in noise.class_rates],
    }


def _save_npy(labels: Tensor, path: Path) -> None:
    with open(path, "wb") as file:  # np.save would add its own suffix to the name
        np.save(file, labels.numpy(), allow_pickle=False)


def _selection_text(
    result: RoundsResult, data: LabeledData, predicted: Tensor, train_ids: Tensor | None
) -> str:
    columns = {
        "given_label": result.labels.tolist(),
        "misclassified": result.misclassified.tolist(),
        "seen": result.seen.tolist(),
        "metric": result.metric.tolist(),
        "clean_probability": [f"{value:.6g}" for value in result.clean_probability.tolist()],
        "suspicion": [f"{value:.6g}" for value in result.suspicion.tolist()],
        "kept": result.kept.int().tolist(),
        # Empty where it was never dropped.
        "round_dropped": ["" if number < 0 else number for number in result.round_dropped.tolist()],
        "predicted_label": predicted.tolist(),
        # Empty where the votes suggest nothing, or nothing was planted.
        "suggested_label": [k if k >= 0 else "" for k in result.suggested_label.tolist()],
        "suggestion_confidence": [
            f"{value:.6g}" if k >= 0 else ""
            for k, value in zip(
                result.suggested_label.tolist(), result.suggestion_confidence.tolist(), strict=True
            )
        ],
    }
    if data.true_labels is not None:
        columns["true_label"] = data.true_labels.tolist()
    if data.sample_names is not None:
        columns["name"] = list(data.sample_names)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *columns])
    for i in range(len(data)) if train_ids is None else train_ids.tolist():
        writer.writerow([i, *(column[i] for column in columns.values())])
    return text.getvalue()
