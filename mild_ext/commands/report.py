"""``mild-ext report``: one HTML page about a run."""

from __future__ import annotations

import argparse

from mild_ext.report.page import write_report


def main(options: argparse.Namespace) -> int:
    """Run the subcommand; see the parser in cli.py for the options."""
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
