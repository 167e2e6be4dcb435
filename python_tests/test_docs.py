"""The documentation builds without a warning (of dead links, say), and its Python examples run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
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
    pytest.importorskip("mkdocs")
    pytest.importorskip("mkdocstrings_handlers.python")
    options = ["--strict", "--config-file", str(ROOT / "mkdocs.yml"), "--site-dir", str(tmp_path)]
    command = [sys.executable, "-m", "mkdocs", "build", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    assert "LearningStatus" in (tmp_path / "api" / "index.html").read_text(encoding="utf-8")


MODULES = [module.name for module in pkgutil.walk_packages(mild_ext.__path__, "mild_ext.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_docstring_examples_of_a_module_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
