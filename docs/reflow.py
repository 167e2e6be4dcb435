"""Breaks the prose of pages in Markdown at 100 columns; changes no word, and leaves code and tables as they are.

    python docs/reflow.py docs/find.md ...

Formatters for Markdown do this too, but not for the snippets, attributes and API entries of this manual.
"""

from __future__ import annotations

import re
import sys
import textwrap
from pathlib import Path

COLUMNS = 100
#: Lines that stand alone: tables, headings, notes, HTML, snippets, pictures, API entries.
ALONE = ("|", "#", "!!!", "<", "--8<--", "![", ":::")
ITEM = re.compile(r"(\s*)((?:[-*+]|\d+\.)\s+)(.*)")
#: Stands for a blank that must not become the end of a line.
KEPT = "\0"


def wrap(text: str, first: str, rest: str) -> list[str]:
    """A paragraph as lines, the first and all others with an indentation of their own."""
    text = " ".join(text.split())
    # Code stays in one piece, unless it is longer than a line; and no line begins like an item or a heading.
    text = re.sub(r"`[^`]{1,80}`", lambda code: code[0].replace(" ", KEPT), text)
    text = re.sub(r" (?=(?:[-+*#>]|\d+[.)])\s)", KEPT, text)
    lines = textwrap.wrap(
        text,
        COLUMNS,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.replace(KEPT, " ") for line in lines]


def reflow(page: str) -> str:
    """The page with its prose broken anew."""
    lines: list[str] = []
    paragraph: list[str] = []
    indents = ("", "")
    fenced = False

    def end_paragraph() -> None:
        if paragraph:
            lines.extend(wrap(" ".join(paragraph), *indents))
            paragraph.clear()

    for line in page.splitlines():
        text = line.strip()
        if text.startswith("```"):
            fenced = not fenced
        elif not fenced and text and not text.startswith(ALONE):
            if item := ITEM.fullmatch(line):
                end_paragraph()
                lead, mark, text = item.groups()
                indents = (lead + mark, " " * len(lead + mark))
                paragraph.append(text)
                continue
            if paragraph or not line.startswith("    "):  # else a block of code
                if not paragraph:
                    indents = (line[: len(line) - len(line.lstrip())],) * 2
                paragraph.append(text)
                continue
        end_paragraph()
        lines.append(line)
    end_paragraph()
    return "\n".join(lines) + "\n"


def main() -> None:
    """Reflow the files named."""
    for name in sys.argv[1:]:
        path = Path(name)
        page = path.read_text(encoding="utf-8")
        path.write_text(reflow(page), encoding="utf-8")


if __name__ == "__main__":
    main()
