"""CONTRIBUTING.md draws the tree as it is: what it names is there, and what is there has its line.

How the drawing is read: two or more spaces part its columns. A column that is a path (it ends in ``/`` or
in a suffix) names a file or folder inside the one that stands less indented above it. What follows a
folder may list its modules, without suffix, between commas; a folder of which modules are named names
all of them, and one of which none is stands for all that it holds.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "mild_ext"
A_PATH = re.compile(
    r"[\w./*-]+/|[\w./*-]*\w\.(?:py|pyi|toml|txt|h|cpp|cu|cuh|yml|md|typed)|Makefile"
)
#: These hold what their folder's line says.
SPOKEN_FOR = {"__init__", "__main__"}


def drawing(text: str) -> list[str]:
    """The lines of the indented block under "The tree", lines drawn around names taken away."""
    _, _, section = text.partition("## The tree\n")
    section, _, _ = section.partition("\n## ")
    lines = [re.sub(r"[├└│─┬]", " ", line) for line in section.splitlines()]
    return [line for line in lines if line.startswith("    ") and not re.fullmatch(r"[\s-]+", line)]


def read(lines: list[str], root: Path) -> tuple[set[Path], dict[Path, set[str]], list[str]]:
    """The folders named, the modules named of each folder, and the names of what is not there."""
    folders: set[Path] = set()
    modules: dict[Path, set[str]] = {}
    missing: list[str] = []
    above: list[tuple[int, Path]] = []  # (indentation, folder), outermost first

    def name(token: str, *bases: Path) -> Path | None:
        for base in bases:
            if (found := base / token).exists():
                if found.is_dir():
                    folders.add(found)
                elif found.suffix == ".py":
                    modules.setdefault(found.parent, set()).add(found.stem)
                return found
        missing.append(token)
        return None

    for line in lines:
        indentation = len(line) - len(line.lstrip())
        above = [entry for entry in above if entry[0] < indentation]
        base = above[-1][1] if above else root
        folder: Path | None = None  # that the text speaks of
        for column in re.split(r"\s{2,}", line.strip()):
            tokens = column.split()
            if all(A_PATH.fullmatch(token) for token in tokens):
                for token in tokens:
                    found = name(token, *((folder,) if folder else ()), base)
                    if found is not None and found.is_dir():
                        if folder is None:
                            above.append((indentation, found))
                        folder = found
                continue
            if folder is not None:
                listed = []
                for part in map(str.strip, re.split(r"[,;:]", column)):
                    if not re.fullmatch(r"[\w./]+", part):
                        break
                    listed.append(part)
                if len(listed) > 1 or (folder / f"{listed[0] if listed else ''}.py").exists():
                    for part in listed:
                        name(part if A_PATH.fullmatch(part) else f"{part}.py", folder)
                    column = column[column.rindex(listed[-1]) + len(listed[-1]) :]
            where = folder or base
            spoken_of = re.findall(r"(?<![\w./])[\w/]+\.(?:py|h|cpp|cu|toml)\b", column)
            missing += [token for token in spoken_of if not any(where.rglob(token))]
    return folders, modules, missing


def unnamed(folders: set[Path], modules: dict[Path, set[str]], package: Path) -> list[str]:
    """What the drawing leaves out of a package."""
    result = []
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        if folder not in folders:
            result.append(f"{folder.relative_to(package.parent)}/")
            continue
        named = modules.get(folder, set()) - SPOKEN_FOR
        there = {path.stem for path in folder.glob("*.py")} - SPOKEN_FOR
        if named or folder == package:
            result += [str(folder.relative_to(package.parent) / m) for m in sorted(there - named)]
    return result


@pytest.mark.skipif(not (ROOT / "CONTRIBUTING.md").exists(), reason="an installed copy")
def test_the_tree_is_drawn_as_it_is():
    folders, modules, missing = read(
        drawing((ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")), ROOT
    )
    assert PACKAGE in folders
    assert missing == [], "named in CONTRIBUTING.md, but not there"
    assert unnamed(folders, modules, PACKAGE) == [], "there, but not named in CONTRIBUTING.md"


@pytest.fixture
def house(tmp_path):
    for path in ("cli", "rooms/bed", "rooms/bath", "rooms/loft/hatch", "yard/tree"):
        file = tmp_path / "house" / f"{path}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("lines", "missing", "left_out"),
    [
        ("house/|  cli.py  doors|  rooms/  bed, bath, loft/: where one sleeps|  yard/  green", [], []),
        ("house/|  cli.py|  rooms/  bed, bath  yard/  tree|  rooms/loft/  high up", [], []),
        ("house/|  cli.py|  yard/|  rooms/|    bed.py  bath.py  water|    loft/  hatch", [], []),
        ("house/|  cli.py|  rooms/  bed, hall; loft/|  yard/", ["hall.py"], ["house/rooms/bath"]),
        ("house/|  yard/  a tree|  rooms/  all|  shed/", ["shed/"], ["house/cli", "house/rooms/loft/"]),
        ("house/|  cli.py  see main.py|  rooms/  loft/|  yard/", ["main.py"], []),
    ],
)  # fmt: skip
def test_how_a_drawing_is_read(house, lines, missing, left_out):
    text = "\n".join(f"    {line}" for line in lines.split("|"))
    folders, modules, absent = read(drawing(f"## The tree\n{text}\n\n## Next\n"), house)
    assert absent == missing
    assert unnamed(folders, modules, house / "house") == left_out
