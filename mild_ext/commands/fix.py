"""``mild-ext fix``: a run's data set with corrected labels, written beside the original; and back again."""

from __future__ import annotations

import argparse
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mild_ext.commands.fixed import (
    LOG,
    Samples,
    log_path,
    require_labels,
    require_writable,
    take_back,
    write_corrected,
)
from mild_ext.data import corrected
from mild_ext.files import write_text
from mild_ext.recording.status import LearningStatus
from mild_ext.selection import PlantedLabels, Selection, select_clean
from mild_ext.training.corrections import Change, changes_text, read_changes, read_corrections
from mild_ext.training.run_folder import RunFolder


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    # As `Selection.corrections` takes it, but looked at where there is nothing to change, too.
    if not 0.5 < options.precision <= 1:
        raise ValueError(f"--precision must lie in (0.5, 1], got {options.precision}")
    samples, out = Samples.of(options.run_folder), Path(options.out)
    if options.undo:
        print(_undo(samples, out, options.files))
        return 0
    require_writable(samples, out)
    if options.auto:
        changes, why = _automatic(samples, options.precision)
    else:
        decided = read_corrections(
            Path(options.corrections), samples.ids, samples.given, samples.classes
        )
        changes = decided.changes
        why = f"{options.corrections}: {decided.confirmed:,} labels confirmed as they are"
    if options.wrong == "keep":
        changes = [change for change in changes if change.label is not None]
    require_labels(changes, out, options.wrong)
    _make_room(samples, out, options.overwrite)
    log = write_corrected(samples, out, changes, options.files)
    write_text(log_path(out), changes_text(log))
    print(_told(samples, out, changes, why, options.quiet))
    return 0


def _make_room(samples: Samples, out: Path, overwrite: bool) -> None:
    """Remove what fix wrote there before, if asked to; nothing else is ever removed."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise ValueError(f"{out} is there already: use another --out, or --overwrite")
    if not log_path(out).is_file():
        raise ValueError(
            f"{out} was not written by mild-ext fix (no {log_path(out)}), so --overwrite will not replace it"
        )
    log = read_changes(log_path(out))
    if out.is_dir():
        if samples.root is None or not samples.root.is_dir():
            raise ValueError(f"the data that {out} was made from are gone: use another --out")
        moves = {entry.place: entry.new_place or None for entry in log}
        others = corrected.others(samples.root, out, moves, {LOG})
        if others:
            raise ValueError(
                f"{out} holds {len(others)} files that mild-ext fix did not write (the first: {others[0]}), so "
                "--overwrite will not replace it: move them elsewhere, or use another --out"
            )
        shutil.rmtree(out)
    else:
        out.unlink()
    log_path(out).unlink(missing_ok=True)


def _undo(samples: Samples, out: Path, how: str) -> str:
    """Take the noted changes back, and what to say of it."""
    log = read_changes(log_path(out))
    if not out.exists():
        raise ValueError(f"there is no {out}")
    done, stuck = take_back(samples, out, log, how)
    text = f"{out}: {done:,} of {len(log):,} changes taken back"
    if stuck:
        known = set(stuck)
        left = [entry for entry in log if entry.id in known]
        write_text(log_path(out), changes_text(left))
        listed = ", ".join(stuck[:3])
        return f"{text}; {len(stuck):,} could not be, as they were changed again since: {listed}"
    log_path(out).unlink()
    return text


# ---------------------------------------------------------------------------------- what to change


def _automatic(samples: Samples, precision: float) -> tuple[list[Change], str]:
    """The suggestions to follow, and why these."""
    selection = first_selection(samples.folder)
    chosen = selection.corrections(least_precision=precision)
    names = samples.classes
    changes = [
        Change(i, samples.ids[i], names[samples.given[i]], names[label])
        for i, label in sorted(zip(chosen.index.tolist(), chosen.label.tolist(), strict=True))
    ]
    return changes, chosen.reason


def first_selection(folder: RunFolder) -> Selection:
    """The selection of a run's first round and its scouts, which see all of the noise, made again from their files.

    Raises:
        ValueError: no finished round, or nothing was planted in it.
    """
    status, planted = folder.path / "status", folder.path / "planted"
    first = "round-00.safetensors"
    if not (status / first).is_file():
        raise ValueError(f"the run in {folder.path} has not finished its first round")
    if not (planted / first).is_file():
        raise ValueError(
            f"nothing was planted in the run in {folder.path}, so nobody knows how often its suggestions are "
            "right: decide yourself, in report.html, and give --corrections"
        )
    scouts = sorted(path.name for path in status.glob("scout-*.safetensors"))
    level = folder.read_settings().recipe.level
    return select_clean(
        [LearningStatus.load(status / name) for name in (first, *scouts)],
        level=level,
        planted=[PlantedLabels.load(planted / name) for name in (first, *scouts)],
    )


# ------------------------------------------------------------------------------------------- words


def _told(samples: Samples, out: Path, changes: Sequence[Change], why: str, quiet: bool) -> str:
    relabeled = [change for change in changes if change.label is not None]
    left_out = len(changes) - len(relabeled)
    done = f"{len(relabeled):,} of {len(samples.ids):,} labels changed"
    if left_out:
        done += f", {left_out:,} samples left out (wrong, without a label)"
    if quiet:
        return f"{out}: {done}"
    lines = [f"{why}."]
    flows = Counter((change.given_label, change.label) for change in relabeled)
    lines += [f"  {given} -> {label}: {count:,}" for (given, label), count in flows.most_common(10)]
    if len(flows) > 10:
        lines.append(f"  and {len(flows) - 10} other pairs")
    run = samples.folder.path
    if changes:
        lines.append(f"Wrote {out}: {done}. Every change is noted in {log_path(out)};")
        lines.append(f"  mild-ext fix {run} --undo --out {out}   takes them back.")
    else:
        lines.append(f"Wrote {out}, with the labels as they were.")
    if out.suffix.lower() == ".npy":
        classes = json.dumps(dict(enumerate(samples.classes)), ensure_ascii=False)
        lines.append(
            f"Classes: {classes if len(classes) < 300 else 'as in ' + str(run / 'config.json')}"
        )
    return "\n".join(lines)
