"""Runs the notebooks, keeps what they printed and drew, and makes a page of the manual from each.

    cd docs && python run_notebooks.py           all of them; or name some: images text own_loop
    cd docs && python run_notebooks.py --pages   only the pages again, from the notebooks as they are

Edit a notebook in Jupyter, save it, run this. The site's generator shows Markdown only, so the page is made from
the notebook: NAME.md, with its pictures in NAME-1.png, NAME-2.png, ... beside it.
"""

from __future__ import annotations

import argparse
import base64
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nbformat

NOTEBOOKS = Path(__file__).parent / "notebooks"
#: Seconds that one cell may take, on a machine that is busy with other things.
TIMEOUT = 600


def run(notebook: Any) -> None:
    """Run all cells in an empty folder, with this Python and the programs installed beside it."""
    from nbclient import NotebookClient

    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            timeout=TIMEOUT,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": folder}},
        )
        client.execute(env=os.environ | {"PATH": path})
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "stream":  # a shell's lines end as a terminal's do
                output.text = output.text.replace("\r\n", "\n")


def fenced(text: str, language: str) -> str:
    """A block of code or of what was printed. The braces keep it from being run as an example of its own."""
    return f"``` {{ .{language} }}\n{text.rstrip()}\n```"


def convert(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """The page of a notebook, and its pictures by the names of their files.

    A picture is described by the first comment of the cell that drew it.
    """
    lead = f"[Download this page as a notebook]({name}.ipynb)"
    parts: list[str] = []
    pictures: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            if len(parts) == 1:  # below the title
                title, _, rest = cell.source.partition("\n\n")
                parts = [title, lead, rest]
            continue
        parts.append(fenced(cell.source, "python"))
        printed = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        if printed:
            parts.append(fenced(printed.strip("\n"), "text .printed"))
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                file = f"{name}-{len(pictures) + 1}.png"
                pictures[file] = base64.b64decode(output.data["image/png"])
                comments = [line[1:] for line in cell.source.splitlines() if line[:1] == "#"]
                parts.append(f"![{comments[0].strip()}]({file})")
    return "\n\n".join(part for part in parts if part) + "\n", pictures


def main() -> None:
    """Run and convert what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    parser.add_argument("names", nargs="*", default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--pages", action="store_true", help="convert only, run nothing")
    parser.add_argument("--out", type=Path, default=NOTEBOOKS, help="folder to write to")
    options = parser.parse_args()
    for name in options.names:
        notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
        if not options.pages:
            started = time.monotonic()
            run(notebook)
            print(f"{name}: ran in {time.monotonic() - started:.0f} s")
        page, pictures = convert(notebook, name)
        nbformat.write(notebook, options.out / f"{name}.ipynb")
        (options.out / f"{name}.md").write_text(page, encoding="utf-8")
        for file, content in pictures.items():
            (options.out / file).write_bytes(content)


if __name__ == "__main__":
    main()
