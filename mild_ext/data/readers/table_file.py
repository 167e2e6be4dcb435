"""CSV and Parquet files as rows of cells, and back to a file with all their columns.

Cells of a CSV file are text; those of a Parquet file are what they are there. Parquet needs pyarrow.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mild_ext.files import write_atomically, write_text
from mild_ext.reading import decode_text, reading, require_file, require_plausible
from mild_ext.spelling import did_you_mean

#: Between cells of a line; the one that occurs most in the header parts the columns.
DELIMITERS = ",;\t|"

#: Columns that a message lists.
MOST_LISTED = 30

Row = dict[str, Any]


@dataclass(frozen=True)
class TableFile:
    """The content of a file.

    Attributes:
        columns: their names, in order.
        rows: a cell by each column's name.
        delimiter: of a CSV file.
        line_end: of a CSV file.
        schema: of a Parquet file, as pyarrow has it; None of a CSV file.
        lines: of a CSV file, where each row begins, the header being line 1.
    """

    columns: list[str]
    rows: list[Row]
    delimiter: str = ","
    line_end: str = "\n"
    schema: Any = None
    lines: list[int] = field(default_factory=list)

    def require(self, column: str, what: str, path: Path | str) -> None:
        """Raise a ValueError that names the columns there are, where ``column`` is none of them."""
        if column not in self.columns:
            raise ValueError(
                f"{path} has no column {column!r} ({what}){did_you_mean(column, self.columns)} It has "
                f"{self.listed()}"
            )

    def listed(self) -> str:
        """The columns' names, as many as a message holds."""
        more = len(self.columns) - MOST_LISTED
        return ", ".join(self.columns[:MOST_LISTED]) + (f" and {more} more" if more > 0 else "")


def read_table_file(path: Path) -> TableFile:
    """Read a ``.parquet`` file, or else a CSV file in UTF-8 with a header (commas, semicolons, tabs or bars).

    Raises:
        ValueError: no such file, or not a table.
        ImportError: Parquet without pyarrow.
    """
    if not path.exists():
        raise ValueError(f"there is no file {path}")
    require_file(path)
    if path.suffix.lower() == ".parquet":
        return _read_parquet(path)
    with reading(path):
        text = decode_text(path.read_bytes())
    header = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=header.count)
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # a cell may be a whole document
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns = [name.strip() for name in next(reader, [])]
        _check_columns(columns, path)
        rows, lines, before = [], [], reader.line_num
        for cells in reader:
            first, before = before + 1, reader.line_num  # a cell may span several lines
            if not cells:
                continue  # an empty line
            if len(cells) != len(columns):
                raise ValueError(
                    f"{path}, line {reader.line_num}: {len(cells)} cells, but the header has {len(columns)}"
                )
            rows.append(dict(zip(columns, cells, strict=True)))
            lines.append(first)
    except csv.Error as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from error
    line_end = "\r\n" if header.endswith("\r") else "\n"
    return TableFile(columns, rows, delimiter, line_end, lines=lines)


def _check_columns(columns: Sequence[str], path: Path) -> None:
    if not any(columns):
        raise ValueError(f"{path} is empty: it must begin with a line of column names")
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise ValueError(f"{path} has more than one column {twice[0]!r}")


def _read_parquet(path: Path) -> TableFile:
    parquet = _pyarrow()
    import pyarrow.compute as compute
    from pyarrow import binary, string
    from pyarrow.types import is_binary, is_dictionary, is_string

    with reading(path):
        size, schema = path.stat().st_size, parquet.read_schema(path)
        facts = parquet.read_metadata(path)
        pages = sum(facts.row_group(k).total_byte_size for k in range(facts.num_row_groups))
        require_plausible(size, max(pages, 8 * facts.num_rows * facts.num_columns))
        # A text that many rows share is in the file once: it stays so until it is known how much they come to.
        texts = [
            field.name
            for field in schema
            if any(kind(field.type) for kind in (is_string, is_binary, is_dictionary))
        ]
        with parquet.ParquetFile(path, read_dictionary=texts) as file:
            table = file.read()
        for name in texts:
            for chunk in table.column(name).chunks:
                if is_dictionary(chunk.type) and chunk.type.value_type in (string(), binary()):
                    lengths = compute.binary_length(chunk.dictionary).take(chunk.indices)
                    require_plausible(size, compute.sum(lengths).as_py() or 0)
        table = table.cast(schema)
    columns = [str(name) for name in table.column_names]
    _check_columns(columns, path)
    return TableFile(columns, table.to_pylist(), schema=table.schema)


def write_table_file(path: Path, like: TableFile, rows: Sequence[Row]) -> None:
    """Write rows with the columns of a table, as ``.parquet``, or else as CSV with its delimiter."""
    if path.suffix.lower() == ".parquet":
        parquet = _pyarrow()
        import pyarrow

        table = pyarrow.Table.from_pylist(list(rows), schema=like.schema)
        write_atomically(path, lambda to: parquet.write_table(table, to))
        return
    text = io.StringIO()
    writer = csv.DictWriter(
        text, like.columns, delimiter=like.delimiter, lineterminator=like.line_end
    )
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


def _pyarrow() -> Any:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("Parquet needs pyarrow: pip install 'mild_ext[export]'") from error
    return parquet


def cell_text(value: Any) -> str:
    """A cell as text: empty for None and NaN, whole numbers without a point, text stripped.

    >>> cell_text(3.0), cell_text(None), cell_text(" cat ")
    ('3', '', 'cat')
    """
    if value is None or (isinstance(value, float) and value != value):
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value).strip()
