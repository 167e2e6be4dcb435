"""The documentation builds without a warning (of dead links, say), and its Python examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ranks import run_script

import mild_ext

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDS = {
    "export.md": ["pandas", "cleanlab", "datasets"],
    "integrations/sklearn.md": ["sklearn"],
    "integrations/transformers.md": ["transformers", "accelerate"],
}


def examples(page):
    """The page's Python blocks, joined; the files of examples/ it shows run in test_examples.py."""
    return "\n".join(
        re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S)
    )


PAGES = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.rglob("*.md"))]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if examples(DOCS / page)])
def test_the_examples_of_a_page_run(page, tmp_path):
    for library in NEEDS.get(page, []):
        pytest.importorskip(library)
    script = tmp_path / "page.py"
    script.write_text(examples(DOCS / page), encoding="utf-8")
    run_script(script, tmp_path)


@pytest.mark.slow
def test_the_documentation_builds_and_its_links_lead_somewhere(tmp_path):
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings_handlers.python")
    # The site is built beside its settings, so both go into a folder of their own.
    shutil.copy(ROOT / "zensical.toml", tmp_path)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    for name in ("mild_ext", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "LearningStatus" in (tmp_path / "site" / "api" / "index.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.slow
def test_the_pictures_can_be_drawn_again(tmp_path):
    pytest.importorskip("matplotlib")
    pytest.importorskip("sklearn")
    printed = run_script(DOCS / "pictures.py", tmp_path)
    assert "wrong labels among the 12 shown: 12" in printed, "README shows them"
    for picture in (DOCS / "images").glob("*.png"):
        again = tmp_path / "images" / picture.name
        assert abs(again.stat().st_size / picture.stat().st_size - 1) < 0.5
        assert picture.stat().st_size < 100_000


def test_what_the_page_of_papers_names_is_in_the_code():
    text = (DOCS / "paper_to_code.md").read_text(encoding="utf-8")
    named = re.findall(r"`(mild_ext\.[\w.]+)`", text)
    assert len(named) > 15
    for name in named:
        pkgutil.resolve_name(name)
    fields = re.findall(
        r"`([a-z_0-9]+)`(?:, | \|)", text.partition("## Other training dynamics")[2]
    )
    assert {"margin", "el2n"} <= set(fields) <= set(mild_ext.Dynamics.__annotations__)
    for header in re.findall(r"`(csrc/[\w.]+)`", text):
        assert (ROOT / header).is_file(), header


MODULES = [module.name for module in pkgutil.walk_packages(mild_ext.__path__, "mild_ext.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_docstring_examples_of_a_module_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
