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
from browser import emulate, start_browser
from ranks import run_script

import mild_ext

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NEEDS = {
    "export.md": ["pandas", "cleanlab", "datasets"],
    "integrations/sklearn.md": ["sklearn"],
    "integrations/transformers.md": ["transformers", "accelerate"],
}

#: How far a page, a table or a picture reaches to the right, and the window; the background's red, green and blue.
WIDTHS = """
const things = [...document.querySelectorAll(".md-content table, .md-content img")];
const ends = things.map(thing => Math.floor(thing.getBoundingClientRect().right));
return [Math.max(document.documentElement.scrollWidth, ...ends), window.innerWidth];
"""
BACKGROUND = "return getComputedStyle(document.body).backgroundColor.match(/[\\d.]+/g).slice(0, 3).map(Number)"


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


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built manual."""
    pytest.importorskip("zensical")
    pytest.importorskip("mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("manual")
    # The site is built beside its settings, so both go into a folder of their own.
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    for name in ("mild_ext", "examples"):
        (folder / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


@pytest.mark.slow
def test_the_documentation_builds_and_its_links_lead_somewhere(site):
    assert "LearningStatus" in (site / "api" / "index.html").read_text(encoding="utf-8")
    for name in ("images", "own_loop", "text"):
        assert (site / "notebooks" / f"{name}.ipynb").is_file(), "the page offers it"


@pytest.mark.slow
def test_no_page_is_wider_than_the_screen(site, tmp_path):
    """What is too wide scrolls by itself (code) or wraps (tables, names). And the dark pages are dark."""
    browser = start_browser(tmp_path)
    browser.set_page_load_timeout(300)
    try:
        too_wide = {}
        for page in sorted(site.rglob("index.html")):
            browser.get(page.as_uri())
            for width in (390, 1280):
                emulate(browser, width=width)
                content, window = browser.execute_script(WIDTHS)
                assert window == width
                if content > window:
                    too_wide[page.parent.relative_to(site).as_posix(), width] = content
        assert too_wide == {}
        for scheme in ("light", "dark"):
            emulate(browser, scheme=scheme)
            browser.get((site / "index.html").as_uri())
            assert (sum(browser.execute_script(BACKGROUND)) > 3 * 128) == (scheme == "light")
    finally:
        browser.quit()


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


def test_every_public_name_is_on_the_page_of_the_api():
    listed = re.findall(r"^::: mild_ext\.([\w.]+)$", (DOCS / "api.md").read_text("utf-8"), re.M)
    assert set(mild_ext.__all__) - {"__version__"} <= set(listed)
    for name in listed:
        if not name.startswith("integrations."):  # other people's libraries
            pkgutil.resolve_name(f"mild_ext.{name}")


def test_what_the_pointer_explains_is_in_the_glossary():
    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8").lower()
    lines = (DOCS / "tooltips.txt").read_text(encoding="utf-8").splitlines()
    terms = [re.fullmatch(r"\*\[(.+)\]: (.+)", line).group(1) for line in lines]
    assert len(terms) > 15
    assert terms == sorted(terms, key=str.lower)
    for term in terms:
        assert term.lower().removesuffix("s") in glossary, term


MODULES = [module.name for module in pkgutil.walk_packages(mild_ext.__path__, "mild_ext.")]


@pytest.mark.parametrize("name", [name for name in MODULES if not name.endswith("__main__")])
def test_the_docstring_examples_of_a_module_run(name):
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        pytest.skip(str(error))
    assert doctest.testmod(module, optionflags=doctest.ELLIPSIS).failed == 0
