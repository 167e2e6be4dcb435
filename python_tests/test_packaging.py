"""What the packaging says is true: the table of extras, versions, what an import needs of the system."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import metadata, version
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Modules of the standard library that Windows has not.
UNIX_ONLY = {"fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"}
needs_repository = pytest.mark.skipif(
    not (ROOT / "CITATION.cff").exists(), reason="needs a checkout"
)


def imported_at_once(path: Path) -> set[str]:
    """What a module imports when it is imported: not in functions, nor where it goes on without."""
    names: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.Try) and any(
            "ImportError" in ast.unparse(h) for h in node.handlers
        ):
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
        waiting.extend(ast.iter_child_nodes(node))
    return names


def test_no_import_needs_a_unix() -> None:
    found = {
        str(path.relative_to(ROOT)): names
        for path in (ROOT / "mild_ext").rglob("*.py")
        if (names := imported_at_once(path) & UNIX_ONLY)
    }
    assert found == {}


@needs_repository
def test_the_table_of_extras_has_a_row_for_each() -> None:
    text = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`[\w`, ]+) \|", text, flags=re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    extras = set(metadata("mild_ext").get_all("Provides-Extra") or [])
    assert extras
    assert extras == {name for name in named if not name.startswith("MILD_EXT") and name.islower()}


@needs_repository
def test_every_extra_that_the_manual_or_a_message_names_exists() -> None:
    extras = set(metadata("mild_ext").get_all("Provides-Extra") or [])
    files = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.py")]
    files += (ROOT / "mild_ext").rglob("*.py")
    named = {
        extra
        for path in files
        for group in re.findall(
            r"pip install '(?:mild_ext|\.)\[([\w,]+)\]'", path.read_text("utf-8")
        )
        for extra in group.split(",")
    }
    assert named
    assert named <= extras


@needs_repository
def test_one_version_everywhere() -> None:
    mine = version("mild_ext")
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^version: (\S+)$", citation, flags=re.MULTILINE)[1] == mine  # type: ignore[index]
    assert re.search(r"^## (\S+)", changes, flags=re.MULTILINE)[1] == mine  # type: ignore[index]


@needs_repository
def test_wheels_are_built_for_every_python_that_is_promised() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    promised = set(re.findall(r'"Programming Language :: Python :: 3\.(\d+)"', text))
    built = re.search(r'^build = "(.*)"$', text, flags=re.MULTILINE)
    assert built is not None
    assert set(re.findall(r"cp3(\d+)-", built[1])) == promised
    assert min(map(int, promised)) == int(re.search(r'requires-python = ">=3\.(\d+)"', text)[1])  # type: ignore[index]
    assert str(sys.version_info.minor) in promised
