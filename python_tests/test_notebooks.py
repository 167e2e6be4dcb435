"""The notebooks run as they stand, and their pages in the manual are theirs."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("nbformat")
import nbformat

ROOT = Path(__file__).parent.parent
NOTEBOOKS = ROOT / "docs" / "notebooks"
SCRIPT = ROOT / "docs" / "run_notebooks.py"
NAMES = ["images", "own_loop", "text"]


def test_every_notebook_is_run_here_and_can_be_found():
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == NAMES
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    navigation = (ROOT / "zensical.toml").read_text(encoding="utf-8")
    for name in NAMES:
        assert f"(docs/notebooks/{name}.ipynb)" in readme
        assert f'"notebooks/{name}.md"' in navigation


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_that_of_the_notebook(name):
    notebook = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    nbformat.validate(notebook)
    page, pictures = runpy.run_path(str(SCRIPT))["convert"](notebook, name)
    again = "run: cd docs && python run_notebooks.py --pages"
    assert page == (NOTEBOOKS / f"{name}.md").read_text(encoding="utf-8"), again
    for file, content in pictures.items():
        assert content == (NOTEBOOKS / file).read_bytes(), again
    assert {path.name for path in NOTEBOOKS.glob(f"{name}-*")} == set(pictures)
    for path in NOTEBOOKS.glob(f"{name}*"):
        assert path.stat().st_size < 100_000, "small enough to be kept with the source"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs_as_it_stands(name, tmp_path):
    """Its own assertions say what must come out: which labels are found, and how right the changes are."""
    for library in ("nbclient", "ipykernel", "matplotlib", "sklearn", "jinja2", "PIL"):
        pytest.importorskip(library)
    if name == "images":
        pytest.importorskip("mlxtend")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), name, "--out", str(tmp_path)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    again = nbformat.read(tmp_path / f"{name}.ipynb", as_version=4)
    kept = nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)
    assert [cell.source for cell in again.cells] == [cell.source for cell in kept.cells]
    for cell, before in zip(again.cells, kept.cells, strict=True):
        if cell.cell_type == "code":
            kinds = [output.output_type for output in cell.outputs]
            assert "error" not in kinds
            assert bool(kinds) == bool(before.outputs), f"prints something else: {cell.source}"
