"""No page of the manual is too long to be read, and no line too long to be looked at in an editor."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("markdown")

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "docs" / "readability.py"
READABILITY = runpy.run_path(str(SCRIPT))
PAGES = READABILITY["pages"]()
#: Groups of the navigation where people look things up, and need not read to the end.
LOOKED_UP = {"Reference", "Evidence"}


def navigation():
    """The groups, outermost first, that each page stands in."""
    tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")
    places = {}

    def walk(entries, groups):
        for entry in entries:
            for title, below in entry.items():
                if isinstance(below, str):
                    places[f"docs/{below}"] = groups
                else:
                    walk(below, [*groups, title])

    walk(tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"], [])
    return places


def text_of(page):
    return (ROOT / page).read_text(encoding="utf-8")


def test_every_page_stands_in_the_navigation():
    assert {"README.md", *navigation()} == set(PAGES)


def test_no_page_to_be_read_is_too_long():
    places = navigation()
    long = {
        page
        for page in PAGES
        if READABILITY["words"](text_of(page)) > READABILITY["WORDS"]
        and not LOOKED_UP & set(places.get(page, []))
    }
    assert not long


def test_no_line_of_prose_is_too_wide():
    assert not {page for page in PAGES if READABILITY["long_lines"](text_of(page))}


def test_what_is_measured():
    page = "# One two\n\nThree `four` [five](six.md)\nseven.\n\n| a |\n| - |\n| b c |\n\n```python\nno\n```\n"
    assert READABILITY["words"](page + "\n    neither this\n") == 9
    wide = "w " * 60
    for kept in (f"| {wide} |", f"    {wide}", f"```\n{wide}\n```", "w" * 120, f"![{wide}](a.png)"):
        assert READABILITY["long_lines"](kept) == []
    assert READABILITY["long_lines"](f"short\n{wide}x\n") == [(2, 121)]


def test_reflowing_changes_no_word():
    reflow = runpy.run_path(str(ROOT / "docs" / "reflow.py"))["reflow"]
    wide, narrow = "`a b` - 1. w " * 20, "w\nw w"
    page = f"# T\n{narrow}\n\n- {wide}\n  {narrow}\n\n    {wide}\n\n```\n{wide}\n```\n| {wide} |\n"
    again = reflow(page)
    assert again.split() == page.split()
    assert reflow(again) == again
    assert len(READABILITY["long_lines"](page)) == 1
    assert READABILITY["long_lines"](again) == []
    for kept in ("# T\nw w w\n", f"\n    {wide}\n", f"```\n{wide}\n```\n", f"| {wide} |\n"):
        assert kept in again
    assert READABILITY["blocks"](again) == READABILITY["blocks"](page), "no item that was none"


@pytest.mark.slow
def test_every_page_reads_the_same_when_reflowed():
    reflow = runpy.run_path(str(ROOT / "docs" / "reflow.py"))["reflow"]
    for page in PAGES:
        text = text_of(page)
        assert READABILITY["blocks"](reflow(text)) == READABILITY["blocks"](text), page


@pytest.mark.slow
def test_the_table_can_be_printed():
    pytest.importorskip("textstat")
    done = subprocess.run(
        [sys.executable, str(SCRIPT)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    rows = [line.split(" | ") for line in done.stdout.splitlines()[2:]]
    assert [row[0].removeprefix("| ") for row in rows] == PAGES
    ease = [float(row[2]) for row in rows if row[2]]
    assert len(ease) > 20
    assert all(0 < value < 122 for value in ease)
