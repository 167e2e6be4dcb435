"""A comparison's folder: whose data and settings it is of, and what of it is read again.

config.json          settings, and checksums of the data
labels/              NOISE-seedS.npy, int64 [N], the given labels of each noise and seed
results.json         a row a training (`mild_ext.training.comparison`)
results.csv          the rows that were asked for last
summary.csv          a line a method and noise (`mild_ext.training.comparison_summary`)
table.txt            the table, as it was printed
checkpoints/         what interrupted trainings go on from
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mild_ext.files import write_atomically, writing
from mild_ext.reading import reading
from mild_ext.sealed import read_sealed_json, write_sealed_json
from mild_ext.training.experiment import Row, RunSettings
from mild_ext.training.methods import METHODS
from mild_ext.training.owned_folder import OwnedFolder

CONFIG, RESULTS, SUMMARY, TABLE = "config.json", "results.json", "summary.csv", "table.txt"
#: Which test samples a row's model is right about, as text; see `pack_right`.
RIGHT = "right"
_CHECKSUMS = "checksums"
#: Differences that are told one by one.
_TOLD = 5

#: The files of a comparison: what ``overwrite`` may delete.
KNOWN = (
    *(CONFIG, RESULTS, "results.csv", SUMMARY, TABLE, "labels/*-seed*.npy"),
    *(f"checkpoints/*/{name}.safetensors" for name in ("rounds", "training", "ssl")),
)


class ComparisonFolder:
    """The folder of a comparison; the rules are those of a run's (`mild_ext.training.run_folder`).

    Args:
        path: the folder; `prepare` makes it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owned = OwnedFolder(path, "comparison", KNOWN)
        #: Files of somebody else's that ``overwrite`` left in the folder.
        self.stayed: list[str] = []

    def prepare(
        self,
        settings: RunSettings,
        checksums: Mapping[str, str | None],
        labels: Mapping[tuple[str, int], str],
        *,
        overwrite: bool = False,
    ) -> None:
        """Make the folder and lock it, or go on in that of the same comparison.

        Args:
            settings: of all trainings, save noise and seed.
            checksums: of the data, by the names of their parts.
            labels: checksums of the given labels, by noise and seed.
            overwrite: delete an earlier comparison in it, of whatever settings.

        Raises:
            ValueError: something else is in it, a comparison of other settings, data or labels, or another process
                at work.
            CannotWrite: it cannot be made or written to.
        """
        out, path = self.path, self.path / CONFIG
        if out.exists() and not out.is_dir():
            raise ValueError(f"{out} is a file; --out must name a folder")
        used = not self._owned.is_untouched
        config = {**settings.to_dict(), _CHECKSUMS: dict(checksums)}
        if used and overwrite:
            self._owned.require_ours(CONFIG)
        elif used:
            self._require_same(json.loads(json.dumps(config)))
        self._owned.claim()
        if used and overwrite:
            self.stayed = self._owned.clear()
        elif used:
            self._require_same_labels(labels)
        if not path.exists():
            write_sealed_json(path, config)

    def _require_same(self, config: dict[str, Any]) -> None:
        path = self.path / CONFIG
        if not path.is_file():
            raise ValueError(
                f"{self.path} is not empty and holds no comparison (no {CONFIG}); use another --out"
            )
        found = read_sealed_json(path, "comparison's config")
        if "settings" in found:
            raise ValueError(f"{self.path} holds a run, and no comparison; use another --out")
        with reading(path, "it is not the config of a comparison"):
            sums, settings = found.pop(_CHECKSUMS, None), _flat(found)
        if sums is None:
            raise ValueError(
                f"{self.path} holds a comparison of an earlier version, which did not note of what data it was; "
                "use another --out, or --overwrite"
            )
        now = config.pop(_CHECKSUMS)
        asked = _flat(config)
        changed = _changed(settings, asked)
        if {"data", "test_fraction"} & set(changed):
            now = sums  # other data are other data: one word is enough
        parts = [name for name in now if sums.get(name) != now[name]]
        if parts:
            raise ValueError(
                f"{self.path} holds a comparison on other data: {', '.join(parts)} are not what they were when it "
                "began; use another --out, or --overwrite"
            )
        if changed:
            more = f", and {len(changed) - _TOLD} more" if len(changed) > _TOLD else ""
            told = ", ".join(
                f"{name} was {settings.get(name)!r} and is now {asked.get(name)!r}"
                for name in changed[:_TOLD]
            )
            raise ValueError(
                f"{self.path} holds a comparison with other settings: {told}{more}; "
                "use another --out, or --overwrite"
            )

    def _require_same_labels(self, labels: Mapping[tuple[str, int], str]) -> None:
        for row in read_results(self.path / RESULTS):
            now = labels.get((row["noise"], row["seed"]))
            if now is not None and row.get("labels_checksum") != now:
                raise ValueError(
                    f"{self.path} holds a comparison on other labels: those of noise {row['noise']}, seed "
                    f"{row['seed']}, are not what they were when {row['method']} was trained (was a file changed?); "
                    "use another --out, or --overwrite"
                )

    def write_labels(self, noise: str, seed: int, labels: Tensor) -> None:
        """The given labels of a noise and seed, int64 ``[N]``, in the order of the data."""

        def write(path: Path) -> None:
            with open(path, "wb") as file:  # np.save would add its own suffix to the name
                np.save(file, labels.numpy(), allow_pickle=False)

        folder = self.path / "labels"
        with writing(folder):
            folder.mkdir(exist_ok=True)
        write_atomically(folder / f"{file_name(noise)}-seed{seed}.npy", write)

    def release(self) -> None:
        """Let other processes use the folder."""
        self._owned.release()


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """Those of the recipe beside the others."""
    recipe: dict[str, Any] = settings["recipe"]
    return {name: value for name, value in settings.items() if name != "recipe"} | recipe


def _changed(found: Mapping[str, Any], asked: Mapping[str, Any]) -> list[str]:
    """Which settings differ. Which of them were chosen says little where another one tells."""
    names = [name for name in {**found, **asked} if found.get(name) != asked.get(name)]
    return [name for name in names if name != "chosen"] or names


def file_name(noise: str) -> str:
    """A noise as a part of names of files."""
    return noise.replace(":", "-").replace("/", "-")


def require_file_names(noises: list[str]) -> None:
    """Raise ValueError where the files of two noises would have one name, or a noise is named twice."""
    names: dict[str, str] = {}
    for noise in noises:
        other = names.setdefault(file_name(noise), noise)
        if other != noise:
            raise ValueError(
                f"--noise {other} and {noise} would write files of the same names; rename one of the files they read"
            )
    if len(names) < len(noises):
        raise ValueError(f"--noise must name each noise once, got {' '.join(noises)}")


def read_results(path: Path) -> list[Row]:
    """The rows of a comparison so far; none where there is no file yet.

    Raises:
        ValueError: the file is damaged.
    """
    if not path.exists():
        return []
    content = read_sealed_json(path, "comparison's table of results")
    remedy = "delete it: finished trainings are then read from their checkpoints"
    with reading(path, remedy):
        rows: list[Row] = content["rows"]
        for row in rows:
            kinds = {"noise": str, "seed": int, "method": str, "epochs": int}
            for name, kind in kinds.items():
                if type(row[name]) is not kind:
                    raise ValueError(f"{name} must be {kind.__name__}, got {row[name]!r}")
            if row["method"] not in METHODS:
                raise ValueError(f"the method {row['method']!r} is not known")
            row["test_accuracy"]
            unpack_right(row)
    return rows


def pack_right(right: Tensor) -> str:
    """bool ``[N]`` as text: bits, eight a byte (``numpy.packbits``), in base64."""
    return base64.b64encode(np.packbits(right.numpy()).tobytes()).decode("ascii")


def unpack_right(row: Row) -> Tensor | None:
    """Which test samples the model of a row is right about, bool ``[N]``; None where it does not say.

    Raises:
        ValueError: it does not fit the number of test samples.
    """
    if row.get(RIGHT) is None:
        return None
    packed = np.frombuffer(base64.b64decode(row[RIGHT], validate=True), np.uint8)
    count = row["test_samples"]
    if type(count) is not int or len(packed) != -(-count // 8):
        raise ValueError(f"{RIGHT} must hold a bit for each of {count!r} test samples")
    return torch.from_numpy(np.unpackbits(packed, count=count).astype(bool))
