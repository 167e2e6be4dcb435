"""``mild-ext report``: one HTML page about a run, or its suspicious samples as tasks for another tool."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from mild_ext.data.readers.sources import load_data
from mild_ext.files import write_text
from mild_ext.report.label_studio import label_studio_config, label_studio_tasks
from mild_ext.report.page import write_report
from mild_ext.training.run_folder import RunFolder
from mild_ext.training.suspects import SUSPECTS, read_suspects

#: Samples that are listed unless another number is asked for; as in the page.
LISTED = 2000


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
    if options.export is not None:
        return _export(options)
    path = write_report(
        options.run_folder,
        options.out,
        suspicious=options.suspicious,
        thumbnails=not options.no_thumbnails,
        data=options.data,
    )
    print(f"Wrote {path} ({path.stat().st_size / 1e6:.1f} MB)")
    folder = path.with_name(f"{path.stem}_pictures")
    if folder.is_dir():
        print(f"Keep {folder}/ beside it: it holds the pictures further down the list")
    return 0


def _export(options: argparse.Namespace) -> int:
    """``label_studio.json``, the tasks, and beside it the labeling interface."""
    folder = RunFolder(options.run_folder)
    config = folder.read_config()
    kind, classes = config["data"]["kind"], [str(name) for name in config["data"]["classes"]]
    suspects = read_suspects(folder.path / SUSPECTS)[: options.suspicious or LISTED]
    texts = _texts(folder, options.data) if kind == "text" else {}
    rows = [
        {
            "id": s.id,
            "given_label": s.given_label,
            "suggested_label": s.suggested_label,
            "suggestion_confidence": s.suggestion_confidence,
            "suspicion": s.suspicion,
            "dropped": s.dropped,
            **({"text": texts[s.id]} if s.id in texts else {}),
        }
        for s in suspects
    ]
    out = folder.path / "label_studio.json" if options.out is None else Path(options.out)
    tasks = label_studio_tasks(rows, classes, kind)
    write_text(out, json.dumps(tasks, indent=1, ensure_ascii=False) + "\n")
    interface = out.with_suffix(".xml")
    write_text(interface, label_studio_config(classes, kind) + "\n")
    print(f"Wrote {out}: {len(tasks):,} tasks. In Label Studio: paste {interface} as the labeling")
    print("interface (Settings, Code), then import the tasks.")
    if kind == "image":
        root: Any = config["data"].get("root")
        print(
            f"It serves the pictures where it was started with local files at {root or 'their folder'}."
        )
    return 0


def _texts(folder: RunFolder, spec: str | None) -> dict[str, str]:
    """What each sample says, read from the run's data again."""
    settings = folder.read_settings()
    if "data" in settings.code() and spec is None:
        raise ValueError(
            f"the run's data are {settings.data}, which runs code: if you know it, give it again with --data"
        )
    data = load_data(spec or settings.data, test_fraction=settings.test_fraction, seed=0)
    ids, _, _ = folder.read_samples()
    if data.texts is None or len(data.texts) != len(ids):
        raise ValueError(
            f"{spec or settings.data} has not the {len(ids):,} texts of the run any more"
        )
    return dict(zip(ids, data.texts, strict=True))
