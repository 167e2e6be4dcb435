"""A run's folder: everything that is written to it, and what of it a run reads again.

config.json          settings, data, noise, versions
given_labels.npy     int64 [N], the labels that were given
encoding.json        how files, texts or rows of a table became inputs, where they did
sample_names.json    the samples' names (files, ids of rows), where they have some
features.safetensors what a frozen network sees in each image, where one does (`mild_ext.training.features`)
history.jsonl        a record a line: epochs and rounds, as they happen
checkpoints/         what a resumed run goes on from
status/              round-NN.safetensors, the learning status of each round
planted/             round-NN.safetensors, the labels planted in it, where there were some
logs/                round-NN.npz, status, loss and margin, where asked for
figures/             round-NN.png, the mixture of each round; the first also as metric.png
result.safetensors   the outcome of the rounds
suspects.csv         a line a sample, most suspicious first, with names (`mild_ext.training.suspects`)
selection.csv        a line a sample, in order, with numbers and the final model's prediction
model.safetensors    the final model
summary.json         what it all comes to
"""

from __future__ import annotations

import contextlib
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
from mild_ext.files import as_text, spreadsheet_safe, write_atomically, write_text, writing
from mild_ext.reading import read_array, read_json, reading
from mild_ext.recording.learning_log import write_learning_log
from mild_ext.sealed import read_sealed_json, write_sealed_json
from mild_ext.selection.plot import save_figure
from mild_ext.training.context import Record
from mild_ext.training.experiment import RunSettings
from mild_ext.training.features import FEATURES
from mild_ext.training.methods import METHODS
from mild_ext.training.owned_folder import OwnedFolder
from mild_ext.training.run_result import Round, RoundsResult
from mild_ext.training.suspects import SUSPECTS, Suspect, suspects_text

CONFIG = "config.json"
SAMPLE_NAMES = "sample_names.json"
ENCODING = "encoding.json"
MODEL = "model.safetensors"

#: The files of a run: what ``overwrite`` may delete.
KNOWN = (
    *(CONFIG, "given_labels.npy", "history.jsonl", "result.safetensors", "selection.csv"),
    *("suspects.csv", SAMPLE_NAMES, ENCODING, FEATURES, MODEL, "summary.json", "metric.png"),
    *("report.html", "report_pictures/*.png", "report_pictures/*.jpeg"),
    *(
        f"checkpoints/{name}.safetensors"
        for name in ("rounds", "training", "ssl", "scout-*", *METHODS)
    ),
    *(
        f"{part}/{name}-*.safetensors"
        for part in ("status", "planted")
        for name in ("round", "scout")
    ),
    *("logs/round-*.npz", "label_studio.json", "label_studio.xml"),
    *("figures/round-*.png", "tensorboard/events.out.tfevents.*"),
)

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
        self._owned = OwnedFolder(self.path, "run", KNOWN, spare=(FEATURES,))
        #: Files of somebody else's that ``overwrite`` left in the folder.
        self.stayed: list[str] = []

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
        """Make the folder and lock it, or say why it cannot be used; all ranks learn of it.

        What killed processes left half-written is removed.

        Args:
            resume: go on with the run in it.
            overwrite: delete an earlier run in it. Only in folders that this program made, and only the files it
                knows; the others are listed in `stayed`.

        Raises:
            ValueError: nothing to resume, something in the way, or another process at work in it.
            CannotWrite: it cannot be made or written to.
        """
        processes.first_rank_does(
            lambda: self._go_on() if resume else self._make(overwrite), "the run's folder"
        )

    def release(self) -> None:
        """Let other processes use the folder; with the end of this one it is theirs in any case."""
        self._owned.release()

    def _is_run(self) -> bool:
        return (self.path / CONFIG).is_file()

    def _go_on(self) -> None:
        if not self._is_run():
            raise ValueError(f"there is no run to resume in {self.path} (no {CONFIG})")
        self.read_settings()  # nothing is touched in a folder of somebody else's
        self._owned.claim()

    def _make(self, overwrite: bool) -> None:
        out = self.path
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; --out must name a folder")
        # A kill while the first file was being written leaves nothing worth protecting.
        used = not self._owned.is_untouched
        if used and not overwrite:
            go_on = "--resume to go on with it, --overwrite to start again, or "
            hint = go_on if self._is_run() else ""
            raise ValueError(f"{out} is not empty: use {hint}another --out")
        if used:
            self._owned.require_ours(CONFIG)
        self._owned.claim()
        if used:
            self.stayed = self._owned.clear()

    def read_settings(self) -> RunSettings:
        """The settings of the run in the folder.

        Raises:
            ValueError: there is no run, its config is damaged or was changed, or is no run's.
        """
        config = self.read_config()
        with reading(self.path / CONFIG, "it is not the config of a run"):
            return RunSettings.from_dict(config["settings"])

    def require_command(self, command: str) -> None:
        """Raise ValueError where the run is another subcommand's."""
        found = self.read_config().get("command", "train")
        if found != command:
            raise ValueError(
                f"the run in {self.path} is one of mild-ext {found}: go on with mild-ext {found} --resume"
            )

    @property
    def finished(self) -> bool:
        """Whether the run came to its end."""
        return (self.path / "summary.json").is_file()

    def read_config(self) -> dict[str, Any]:
        """``config.json``.

        Raises:
            ValueError: there is no run, or its config cannot be read.
        """
        path = self.path / CONFIG
        if not self._is_run():
            raise ValueError(f"there is no run in {self.path} (no {CONFIG})")
        config = read_sealed_json(path, "run's config")
        with reading(path, "it is not the config of a run"):
            _ = config["settings"]
        return config

    def read_samples(self) -> tuple[list[str], list[int], list[str]]:
        """What was given: the samples' ids as in ``suspects.csv``, their labels ``[N]``, and the classes' names.

        Raises:
            ValueError: there is no run, or part of it is missing or damaged.
        """
        config, path = self.read_config(), self.path / CONFIG
        with reading(path, "it is not the config of a run"):
            classes = [str(name) for name in config["data"]["classes"]]
        path = self.path / "given_labels.npy"
        if not path.is_file():
            raise ValueError(f"there is no {path}; the run has not begun")
        given = read_array(path).tolist()
        path = self.path / SAMPLE_NAMES
        ids = [str(k) for k in range(len(given))]
        if path.is_file():
            names = read_json(path)
            with reading(path):
                if not isinstance(names, list) or len(names) != len(given):
                    raise ValueError(f"it does not hold the names of {len(given)} samples")
                ids = [str(name) for name in names]
        return ids, given, classes

    @_by_the_first_rank
    def write_config(
        self,
        settings: RunSettings,
        data: LabeledData,
        noise: LabelNoise | None,
        device: torch.device | str,
        *,
        command: str = "train",
    ) -> None:
        """``config.json`` and ``given_labels.npy``; ``command``: the subcommand whose run it is."""
        config = {
            "command": command,
            "settings": settings.to_dict(),
            "data": {
                "name": data.name,
                "samples": len(data),
                "kind": data.shown_kind,
                "classes": list(data.class_names),
                "root": data.root,
                "table": data.table,
                "arrays": data.arrays,
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
        write_sealed_json(self.path / CONFIG, config)
        if data.sample_names is not None:
            names = [as_text(str(name)) for name in data.sample_names]
            write_text(self.path / SAMPLE_NAMES, json.dumps(names, indent=0) + "\n")
        if data.encoding is not None:
            write_sealed_json(self.path / ENCODING, data.encoding)
        # What was given, whatever happens to the files it was read from; --noise labels:
        # reads it.
        write_atomically(self.path / "given_labels.npy", lambda to: _save_npy(data.labels, to))

    # ---------------------------------------------------------------------------- while it runs

    def history(self) -> History:
        """``history.jsonl``, to be entered and called with each record."""
        return History(self.path / "history.jsonl" if self.writes else Path(os.devnull))

    def _subfolder(self, name: str) -> None:
        with writing(self.path / name):
            (self.path / name).mkdir(exist_ok=True)

    @_by_the_first_rank
    def save_round(self, done: Round) -> None:
        """A round's learning status, what was planted in it, and its log, where there are some."""
        name = f"round-{done.number:02d}"
        self._subfolder("status")
        done.status.save(self.path / "status" / f"{name}.safetensors")
        if done.planted is not None:
            self._subfolder("planted")
            done.planted.save(self.path / "planted" / f"{name}.safetensors")
        for number, scout in enumerate(done.scouts, start=1):
            file = f"scout-{number}.safetensors"
            write_atomically(self.path / "status" / file, scout.status.save)
            scout.planted.save(self.path / "planted" / file)
        if done.log is not None:
            self._subfolder("logs")
            write_learning_log(self.path / "logs" / f"{name}.npz", done.log)

    @_by_the_first_rank
    def draw_round(self, done: Round) -> None:
        """The histogram a round was decided on, as a picture; ImportError without matplotlib."""
        self._subfolder("figures")
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
        # Without a seal: it is for others to read, who may want to find no header but what they know.
        write_atomically(self.path / MODEL, lambda to: save_file(tensors, to))

    @_by_the_first_rank
    def write_suspects(self, suspects: list[Suspect]) -> None:
        """``suspects.csv``."""
        write_text(self.path / SUSPECTS, suspects_text(suspects))

    @_by_the_first_rank
    def write_selection(
        self,
        result: RoundsResult,
        data: LabeledData,
        predicted: Tensor | None,
        *,
        train_ids: Tensor | None = None,
    ) -> None:
        """``selection.csv``: one line per sample used for training.

        ``predicted``: the final model's classes, int64 ``[N]``; None where there is no such model.
        """
        write_text(self.path / "selection.csv", _selection_text(result, data, predicted, train_ids))

    @_by_the_first_rank
    def write_summary(self, summary: dict[str, Any]) -> None:
        """``summary.json``."""
        write_text(self.path / "summary.json", json.dumps(summary, indent=2) + "\n")

    def contents(self) -> str:
        """The files that people look at first, those that are always there before the others."""
        names = [SUSPECTS, "selection.csv", MODEL, "summary.json"]
        more = ("metric.png", "logs/", "report.html")
        return ", ".join(names + [name for name in more if (self.path / name).exists()])


class History:
    """``history.jsonl``: one record a line, written as it happens; a resumed run writes it anew."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __enter__(self) -> History:
        with writing(self.path):
            self.file = open(self.path, "w", encoding="utf-8")
        return self

    def __exit__(self, *exception: object) -> None:
        with contextlib.suppress(OSError):  # each record was flushed, or the error is on its way
            self.file.close()

    def __call__(self, record: Record) -> None:
        with writing(self.path):
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
    result: RoundsResult, data: LabeledData, predicted: Tensor | None, train_ids: Tensor | None
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
        "predicted_label": [""] * len(data) if predicted is None else predicted.tolist(),
        # Empty where the votes suggest nothing, or nothing was planted.
        "suggested_label": [k if k >= 0 else "" for k in result.suggested_label.tolist()],
        "suggestion_confidence": [
            f"{value:.6g}" if k >= 0 else ""
            for k, value in zip(
                result.suggested_label.tolist(), result.suggestion_confidence.tolist(), strict=True
            )
        ],
    }
    for name, values in result.dynamics.items():  # empty where never seen under the given label
        columns[name] = ["" if value != value else f"{value:.6g}" for value in values.tolist()]
    if data.true_labels is not None:
        columns["true_label"] = data.true_labels.tolist()
    if data.sample_names is not None:
        columns["name"] = [spreadsheet_safe(as_text(str(name))) for name in data.sample_names]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", *columns])
    for i in range(len(data)) if train_ids is None else train_ids.tolist():
        writer.writerow([i, *(column[i] for column in columns.values())])
    return text.getvalue()
