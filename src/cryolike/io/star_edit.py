"""Copies of STAR files in which some columns of one table are other ones.

All else is copied byte for byte: other blocks, comments, the text of other values, line ends.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from cryolike.errors import MetadataError, Problem
from cryolike.io.star_blocks import StarBlock, value_spans

__all__ = ["StarColumn", "copy_star"]

_HEAD = re.compile(rb"data_[^ \t\r\n]*")


@dataclass(frozen=True, kw_only=True, eq=False)
class StarColumn:
    """Values of a column to write into a table.

    Parameters
    ----------
    label
        Bare, without ``_rln``. The column takes the place of the one with this label, or comes
        after all others.
    values
        Of all rows of the table, those left out included, (n_rows,).
    pattern
        Printf-style format of a value.
    is_set
        Rows whose value is written, (n_rows,), the others keep the text they have; None for all, as
        in a new column.
    """

    label: str
    values: np.ndarray
    pattern: str = "%.6f"
    is_set: np.ndarray | None = None

    def keeps(self, row: int) -> bool:
        """Tell whether a row keeps the text it has."""
        return self.is_set is not None and not self.is_set[row]

    def text(self, row: int) -> bytes:
        """Text of a value."""
        text: str = self.pattern % self.values[row]
        return text.encode()


def copy_star(
    table: StarBlock,
    columns: Sequence[StarColumn],
    out: io.BufferedIOBase,
    *,
    name: str,
    insertion: bytes = b"",
) -> None:
    """Copy the STAR file of a table with some of its columns replaced or added.

    Parameters
    ----------
    table
        Table to change. Rows of it that have a wrong number of values are left out.
    columns
        What to write into it.
    out
        Where to write, as bytes.
    name
        Of the table in the copy.
    insertion
        What to put before the table.

    Raises
    ------
    MetadataError
        Where the file has changed since its structure was read.
    """
    edit = _Edit(table, columns)
    offset, in_header = 0, False
    header: list[bytes] = []
    with table.path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if in_header and offset >= table.start:
                out.writelines(edit.header(header))
                in_header = False
            if number == table.line:
                out.write(insertion)
                out.write(_HEAD.sub(b"data_" + name.encode(), line, count=1))
                in_header = True
            elif in_header:
                header.append(line)
            elif table.is_loop and table.start <= offset < table.stop:
                out.write(edit.row(line))
            else:
                out.write(line)
            offset += len(line)
        if in_header:
            out.writelines(edit.header(header))
    if table.is_loop and edit.n_rows != table.n_rows + len(table.malformed):
        raise _changed(table)


def _changed(table: StarBlock) -> MetadataError:
    return MetadataError(
        Problem(
            message="the file has changed while it was read",
            remedy="Wait until the program that writes the file has finished.",
            file=str(table.path),
        )
    )


@dataclass(eq=False)
class _Edit:
    """Goes through the lines of a table."""

    table: StarBlock
    columns: Sequence[StarColumn]
    n_rows: int = 0
    replaced: list[tuple[int, StarColumn]] = field(init=False)
    added: list[StarColumn] = field(init=False)

    def __post_init__(self) -> None:
        place = self.table.columns
        there = [(place[c.label], c) for c in self.columns if c.label in place]
        self.replaced = sorted(there, key=lambda pair: pair[0])
        self.added = [c for c in self.columns if c.label not in place]
        self._left_out = frozenset(self.table.malformed_rows.tolist())

    def header(self, lines: Sequence[bytes]) -> list[bytes]:
        """Give the lines before the rows, with the labels that are new."""
        labels = [i for i, line in enumerate(lines) if line.lstrip().startswith(b"_")]
        if len(labels) != len(self.table.labels):
            raise _changed(self.table)
        edited = list(lines)
        if not self.table.is_loop:
            for column, i in enumerate(labels):
                edited[i] = self._value_beside_label(lines[i], column)
        last = labels[-1]
        if self.added and not edited[last].endswith(b"\n"):
            edited[last] += b"\n"
        return [*edited[: last + 1], *self._new_labels(lines[last]), *edited[last + 1 :]]

    def _new_labels(self, model: bytes) -> Iterator[bytes]:
        """Give the lines of the labels that are new, in the manner of another."""
        end = b"\r\n" if model.endswith(b"\r\n") else b"\n"
        for i, column in enumerate(self.added, len(self.table.labels) + 1):
            line = f"_rln{column.label}".encode()
            if not self.table.is_loop:
                line += b" " + column.text(0)
            elif b"#" in model:
                line += f" #{i}".encode()
            yield line + end

    def _value_beside_label(self, line: bytes, column: int) -> bytes:
        """Replace the value of a table of one row without loop_."""
        for place, new in self.replaced:
            if place == column and not new.keeps(0):
                _, (start, stop) = value_spans(line)[:2]
                line = line[:start] + new.text(0) + line[stop:]
        return line

    def row(self, line: bytes) -> bytes:
        """Give a line with its new values; nothing where the row is left out."""
        spans = value_spans(line)
        if not spans:
            return line
        row, self.n_rows = self.n_rows, self.n_rows + 1
        if row in self._left_out:
            return b""
        if len(spans) != len(self.table.labels) or row >= len(self.columns[0].values):
            raise _changed(self.table)
        parts, done = [], 0
        for place, column in self.replaced:
            if not column.keeps(row):
                start, stop = spans[place]
                parts += [line[done:start], column.text(row).rjust(stop - start)]
                done = stop
        end = spans[-1][1]
        blank = b"\t" if b"\t" in line else b" "
        parts += [line[done:end], *(blank + column.text(row) for column in self.added)]
        return b"".join([*parts, line[end:]])
