"""How easily each page reads: a table, and what the tests hold every page to.

    python docs/readability.py                     README.md and all pages of the manual
    python docs/readability.py --before REVISION   beside what they were in that revision of git

Words are those of text, lists and tables; blocks of code are not counted. Reading ease is Flesch's (100: very easy,
60: plain, 30: difficult), of the text alone, by textstat. Needs `pip install textstat markdown`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import NamedTuple

import markdown

ROOT = Path(__file__).parent.parent
#: Columns of a line of prose, at most; tables, code and what has no blank to break at may be longer.
COLUMNS = 100
#: Words of a page, at most, outside the groups of the navigation where people look things up.
WORDS = 900


class Blocks(HTMLParser):
    """The paragraphs, items and cells of a page, code blocks left out."""

    ENDS = frozenset(("p", "li", "td", "th", "h1", "h2", "h3", "h4", "ul", "ol", "table"))

    def __init__(self) -> None:
        super().__init__()
        self.blocks: list[tuple[str, str]] = []  # (tag, text)
        self._text: list[str] = []
        self._code = 0

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._code += tag == "pre"
        if tag in self.ENDS:
            self._close("p")

    def handle_endtag(self, tag: str) -> None:
        self._code -= tag == "pre"
        if tag in self.ENDS:
            self._close(tag)

    def handle_data(self, data: str) -> None:
        if not self._code:
            self._text.append(data)

    def _close(self, tag: str) -> None:
        if text := " ".join("".join(self._text).split()):
            self.blocks.append((tag, text))
        self._text = []


def blocks(page: str) -> list[tuple[str, str]]:
    """What a reader reads of a page in Markdown: (tag, text) of each block, in order."""
    reader = Blocks()
    html = markdown.markdown(page, extensions=["tables", "fenced_code", "attr_list", "md_in_html"])
    reader.feed(html)
    return reader.blocks


def words(page: str) -> int:
    """How many words a page has."""
    return sum(len(text.split()) for _, text in blocks(page))


def prose_lines(page: str) -> list[tuple[int, str]]:
    """(number, text) of the lines that are neither code nor table."""
    lines, fenced = [], False
    for number, line in enumerate(page.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not (fenced or line.startswith("    ") or line.lstrip().startswith("|")):
            lines.append((number, line))
    return lines


def long_lines(page: str) -> list[tuple[int, int]]:
    """(number, columns) of the lines of prose that are too long, and could be broken."""
    return [
        (number, len(line))
        for number, line in prose_lines(page)
        if len(line) > COLUMNS and not re.fullmatch(r"\s*(?:[-*]\s+)?(?:\S+|!\[.*\]\(\S+\))", line)
    ]


class Measure(NamedTuple):
    """What the table says of a page."""

    words: int
    ease: float | None  #: None: too little text
    sentence: int
    line: int


def measure(page: str) -> Measure:
    """Measure a page in Markdown."""
    import textstat

    paragraphs = [
        text for tag, text in blocks(page) if tag in ("p", "li") and len(text.split()) > 3
    ]
    sentences = [s for text in paragraphs for s in re.split(r"(?<=[.!?])\s+", text)]
    text = " ".join(t if t[-1] in ".!?" else f"{t.rstrip(':;')}." for t in paragraphs)
    return Measure(
        words(page),
        textstat.flesch_reading_ease(text) if len(text.split()) >= 50 else None,
        max((len(s.split()) for s in sentences), default=0),
        max((len(line) for _, line in prose_lines(page)), default=0),
    )


def pages() -> list[str]:
    """README and the pages of the manual, as paths below the root."""
    manual = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *manual]


def show(of: Measure | None) -> str:
    """The cells of a page, or of one that was not there."""
    if of is None:
        return " | | | "
    ease = "" if of.ease is None else f"{of.ease:.0f}"
    return f"{of.words:,} | {ease} | {of.sentence} | {of.line}"


def main() -> None:
    """Print the table in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", metavar="REVISION")
    before = parser.parse_args().before
    columns = ["words", "ease", "longest sentence", "longest line"]
    header = [f"{name}, {when}" for when in ("before", "now") for name in columns]
    header = header if before else columns
    print(f"| page | {' | '.join(header)} |\n| --- |{' ---: |' * len(header)}")
    for page in pages():
        cells = show(measure((ROOT / page).read_text(encoding="utf-8")))
        if before:
            command = ["git", "-C", str(ROOT), "show", f"{before}:{page}"]
            old = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
            cells = f"{show(measure(old.stdout) if old.returncode == 0 else None)} | {cells}"
        print(f"| {page} | {cells} |")


if __name__ == "__main__":
    main()
