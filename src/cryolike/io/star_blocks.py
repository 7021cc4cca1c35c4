"""STAR files: where their blocks, labels and rows are, and the values of columns.

A file is read twice. The first pass finds blocks, labels and rows, and every line with the wrong
number of values, by its line number. The second parses the columns that are needed, and no other.
Both go through the file in pieces, so the text of a large file is never in memory as a whole.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from cryolike.errors import LazyPlaces, MetadataError, Problem
from cryolike.io.sniff import BOM, read_head, recognise

__all__ = ["StarBlock", "read_star_blocks", "value_spans"]

_CHUNK_BYTES = 16 * 2**20
_CHUNK_ROWS = 2**16
_SEPARATOR = b"\x1f"
_GIVE_TEXT = "Give a STAR file saved as plain text (ASCII or UTF-8)."
_ALL_BUT_CONTROLS = bytes([*b"\t\n\r", *range(32, 256)])

_EMPTY = np.zeros(0, dtype=np.int64)
_NO_ROWS = np.zeros((0, 5), dtype=np.int64)

# The literal first keeps the search fast; that only blanks stand before it is checked afterwards,
# and that no other character does at once: "data_data_data_…" would be searched again and again.
_KEYWORDS = (
    re.compile(rb"data_(?<![^ \t\r\n\xbf]data_)([^ \t\r\n]*)[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)"),
    re.compile(rb"loop_[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)"),
)
_WORD = re.compile(rb"[^ \t\r\n]+")
_CLOSING = {mark: re.compile(mark + rb"(?=[ \t\r\n]|\Z)") for mark in (b'"', b"'")}


@dataclass(frozen=True, kw_only=True, eq=False)
class StarBlock:
    """One data block of a STAR file: where it is and what it holds, its values unread.

    Parameters
    ----------
    path
        File the block is in.
    name
        What follows `data_`; may be empty.
    line
        Line of `data_`, counted from 1.
    labels
        Column labels as written, with the leading underscore.
    is_loop
        Whether it is a table; a block of single values counts as a table of one row.
    n_rows
        Number of rows with the right number of values; only these are read.
    start, stop
        Range of bytes of the file that holds the rows.
    first_line
        Line at `start`, counted from 1.
    is_ascii
        Whether the rows hold nothing but ASCII.
    normalised
        Rows with quotes and comments removed, where there were any.
    faults
        What is wrong with the structure of the block, single rows aside.
    malformed
        Of each row with a wrong number of values: its number among all rows, its line, its number
        of values, and its range of bytes; int64, (n_malformed, 5).
    """

    path: Path
    name: str
    line: int
    labels: tuple[str, ...]
    is_loop: bool
    n_rows: int
    start: int
    stop: int
    first_line: int
    is_ascii: bool = True
    normalised: bytes | None = field(default=None, repr=False)
    faults: tuple[Problem, ...] = ()
    malformed: np.ndarray = field(default_factory=lambda: _NO_ROWS, repr=False)

    def __str__(self) -> str:
        return f"data_{self.name} (line {self.line:,})"

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each label, the label without `_`, `rln` or `_rln` in front."""
        return {_bare(label): column for column, label in enumerate(self.labels)}

    @property
    def malformed_rows(self) -> np.ndarray:
        """Numbers of the rows that are not read, among all rows, (n_malformed,)."""
        return self.malformed[:, 0]

    @cached_property
    def row_numbers(self) -> np.ndarray:
        """Number of every row that is read, counted from 0 among all rows, (n_rows,)."""
        return np.delete(np.arange(self.n_rows + len(self.malformed)), self.malformed_rows)

    def malformed_text(self, i: int) -> str:
        """Text of the i-th malformed row, fit for printing."""
        return _beginning(self.path, int(self.malformed[i, 3]))[1:-1]

    def malformed_faults(self) -> list[Problem]:
        """Word what is wrong with the malformed rows; their positions are among all rows."""
        if not len(self.malformed):
            return []

        def describe(i: int) -> str:
            _, line, count, *_ = map(int, self.malformed[i])
            return f"{_wrong_count(line, count, len(self.labels))}: '{self.malformed_text(i)}'"

        return [
            Problem(
                message=f"data_{self.name} has {len(self.labels):,} labels, but another number of "
                f"values in {len(self.malformed):,} of {self.n_rows + len(self.malformed):,} rows",
                reason="wrong number of values",
                remedy="Correct or remove these lines (names with spaces need quotes), or leave "
                "them out with --on-bad-row skip.",
                file=str(self.path),
                rows=self.malformed_rows,
                places=LazyPlaces(len(self.malformed), describe),
            )
        ]

    @cached_property
    def row_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Byte offset and line (from 1) of every row that is read: int64, (n_rows,) each."""
        if not self.is_loop:
            return np.array([self.start]), np.array([self.line])
        offsets, lines, line = [], [], self.first_line
        for offset, chunk in _chunks(self.path, self.start, self.stop):
            starts, counts, is_row = _count_values(chunk)
            offsets.append(offset + starts[is_row])
            lines.append(line + np.flatnonzero(is_row))
            line += len(counts)
        return (
            np.delete(np.concatenate([*offsets, _EMPTY]), self.malformed_rows),
            np.delete(np.concatenate([*lines, _EMPTY]), self.malformed_rows),
        )

    def row_line(self, row: int) -> int:
        """Line of a row, both as people count them: lines from 1, rows from 0."""
        return int(self.row_positions[1][row])

    def value(self, row: int, column: int) -> str:
        """Text of one value, fit for printing."""
        if self.normalised is not None and not self.is_loop:
            return _printable(self.normalised.split(_SEPARATOR)[column])
        with self.path.open("rb") as file:
            file.seek(int(self.row_positions[0][row]))
            return _printable(_tokens(file.readline())[column])

    def read(self, numbers: Sequence[int], texts: Sequence[int]) -> Iterator[dict[int, np.ndarray]]:
        """Parse some columns, piece by piece.

        Parameters
        ----------
        numbers
            Columns to give as float64; what is no number becomes NaN.
        texts
            Columns to give as text (object arrays of str). Bytes that are not UTF-8 are kept as
            surrogate escapes, as file names have them.

        Yields
        ------
        dict
            By column, the values of the next rows, in order.

        Raises
        ------
        MetadataError
            Where the file has changed since its structure was read.
        """
        n_read = 0
        wanted = sorted({*numbers, *texts})
        if self.n_rows and wanted:
            with self._open() as stream, self._reader(stream, wanted, texts) as reader:
                for frame in reader:
                    n_read += len(frame)
                    piece = {i: _as_numbers(frame[i]) for i in numbers}
                    yield piece | {i: _as_text(frame[i], self.is_ascii) for i in texts}
            if n_read != self.n_rows:
                message = f"{n_read:,} rows where there were {self.n_rows:,} a moment ago"
                raise MetadataError(
                    Problem(
                        message=message,
                        remedy="Wait until the program that writes the file has finished.",
                        file=str(self.path),
                    )
                )

    def _open(self) -> io.BufferedIOBase:
        if self.normalised is not None:
            return io.BytesIO(self.normalised)
        # All bytes but those of malformed rows
        edges = [self.start, *self.malformed[:, 3:].ravel().tolist(), self.stop]
        ranges = zip(edges[::2], edges[1::2], strict=True)
        return io.BufferedReader(_ByteRanges(self.path, ranges), _CHUNK_BYTES)

    def _reader(self, stream: io.BufferedIOBase, wanted: list[int], texts: Sequence[int]) -> Any:
        normalised = self.normalised is not None
        return pd.read_csv(
            stream,
            sep=_SEPARATOR.decode() if normalised else r"\s+",
            skip_blank_lines=not normalised,
            header=None,
            names=list(range(len(self.labels) + normalised)),
            usecols=wanted,
            index_col=False,
            dtype=dict.fromkeys(texts, object),
            quoting=csv.QUOTE_NONE,
            keep_default_na=False,
            na_filter=False,
            engine="c",
            encoding="latin-1",
            low_memory=False,
            chunksize=_CHUNK_ROWS,
        )


class _ByteRanges(io.RawIOBase):
    """Parts of a file, one after the other, as a file."""

    def __init__(self, path: Path, ranges: Iterable[tuple[int, int]]) -> None:
        self._file = path.open("rb", buffering=0)
        self._ranges = iter(ranges)
        self._n_left = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while self._n_left == 0:
            start, stop = next(self._ranges, (0, -1))
            if stop < start:
                return 0
            self._file.seek(start)
            self._n_left = stop - start
        n_read = self._file.readinto(memoryview(buffer)[: self._n_left]) or 0
        self._n_left -= n_read
        return n_read

    def close(self) -> None:
        self._file.close()
        super().close()


@dataclass(frozen=True)
class _Keyword:
    """A line `data_NAME`, or `loop_` (name None)."""

    offset: int
    line: int
    name: str | None


def read_star_blocks(path: str | Path) -> list[StarBlock]:
    """Find the blocks of a STAR file.

    Parameters
    ----------
    path
        STAR file; Windows line ends, a byte-order mark and a missing last line end are fine.

    Returns
    -------
    list of StarBlock
        In order of the file. What is wrong within a block is in its `faults`, and rows with a wrong
        number of values are `malformed`.

    Raises
    ------
    MetadataError
        Where the file is no STAR file: empty, binary, something else, or without a data block.
    MissingFileError
        Where there is no such file.
    """
    path = Path(path)
    _check_is_text(path)
    size = path.stat().st_size
    keywords = _find_keywords(path, size)
    heads = [k for k in keywords if k.name is not None]
    if not heads:
        raise _refusal(
            path,
            f"no data_ block was found; the file begins {_beginning(path)}",
            "Give a STAR file; its tables begin with a line data_NAME and a line loop_.",
        )
    ends = [*(k.offset for k in heads[1:]), size]
    loops = _loops_of_heads(keywords)
    return [
        _read_block(path, head, own, end) for head, own, end in zip(heads, loops, ends, strict=True)
    ]


def _loops_of_heads(keywords: Iterable[_Keyword]) -> list[list[_Keyword]]:
    """Give for each `data_` line the `loop_` lines up to the next one."""
    loops: list[list[_Keyword]] = []
    for keyword in keywords:
        if keyword.name is not None:
            loops.append([])
        elif loops:
            loops[-1].append(keyword)
    return loops


def _refusal(path: Path, message: str, remedy: str) -> MetadataError:
    return MetadataError(Problem(message=message, remedy=remedy, file=str(path)))


def _check_is_text(path: Path) -> None:
    """Refuse what is plainly no STAR file, before all of it is read."""
    for_folder = "Give the STAR file in it."
    head = read_head(path, wanted="a STAR file", for_folder=for_folder, n_bytes=2**16)
    if not head.strip():
        raise _refusal(path, "the file is empty", "Copy or write it again.")
    if found := recognise(head):
        remedy = found.remedy or _GIVE_TEXT
        raise _refusal(path, f"this is {found.name}, not a STAR file", remedy)
    _check_control_characters(path, head, first_line=1)


def _check_control_characters(path: Path, chunk: bytes, *, first_line: int) -> None:
    if controls := chunk.translate(None, _ALL_BUT_CONTROLS):
        line = first_line + chunk.count(b"\n", 0, chunk.index(controls[:1]))
        raise _refusal(
            path,
            f"line {line:,} holds a byte {controls[0]:#04x}: this is a binary or damaged file, not "
            "a STAR file",
            f"{_GIVE_TEXT} If it was one, copy it again.",
        )


def _find_keywords(path: Path, size: int) -> list[_Keyword]:
    """Find the lines `data_NAME` and `loop_`, in order."""
    found: list[_Keyword] = []
    line = 1
    for offset, chunk in _chunks(path, 0, size):
        _check_control_characters(path, chunk, first_line=line)
        here = [match for pattern in _KEYWORDS for match in pattern.finditer(chunk)]
        counted = 0
        for match in sorted(here, key=re.Match.start):
            start = chunk.rfind(b"\n", 0, match.start()) + 1
            if chunk[start : match.start()].strip() in (b"", BOM):
                name = _printable(match[1]) if match.re.groups else None
                line += chunk.count(b"\n", counted, start)
                counted = start
                found.append(_Keyword(offset + start, line, name))
        line += chunk.count(b"\n", counted)
    return found


def _chunks(path: Path, start: int, stop: int) -> Iterator[tuple[int, bytes]]:
    """Give whole lines of a range of a file, about 16 MB at a time, with their offset."""
    with path.open("rb") as file:
        file.seek(start)
        while start < stop:
            chunk = file.read(min(_CHUNK_BYTES, stop - start))
            if start + len(chunk) < stop:
                chunk += file.readline()
            if not chunk:
                return
            yield start, chunk
            start += len(chunk)


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What stands before the rows of a block."""

    is_loop: bool
    labels: tuple[str, ...]
    label_lines: tuple[int, ...]
    values: tuple[bytes, ...]
    body_start: int
    body_line: int
    faults: tuple[str, ...]


def _read_header(path: Path, head: _Keyword, stop: int) -> _Header:
    """Read labels, and values that stand beside them, up to the first row."""
    labels: list[str] = []
    label_lines: list[int] = []
    values: list[bytes] = []
    faults: list[str] = []
    is_loop, line = False, head.line
    with path.open("rb") as file:
        file.seek(head.offset)
        file.readline()
        while (start := file.tell()) < stop:
            text = file.readline()
            line += 1
            tokens = _tokens(text)
            if not tokens:
                continue
            is_quoted = text.lstrip()[:1] in (b'"', b"'")  # a value, whatever it looks like
            if tokens[0] == b"loop_" and not labels and not is_quoted:
                is_loop = True
            elif tokens[0].startswith(b"_") and not is_quoted:
                labels.append(_printable(tokens[0]))
                label_lines.append(line)
                if not is_loop:
                    values.append(tokens[-1])
                    if len(tokens) != 2:
                        faults.append(f"{_wrong_count(line, len(tokens) - 1, 1)}: {_cut(text)}")
            else:
                if not is_loop:
                    faults.append(f"line {line:,}: text outside a loop_: {_cut(text)}")
                break
        else:
            start, line = stop, line + 1
    return _Header(
        is_loop=is_loop,
        labels=tuple(labels),
        label_lines=tuple(label_lines),
        values=tuple(values),
        body_start=start,
        body_line=line,
        faults=tuple(faults),
    )


def _read_block(path: Path, head: _Keyword, loops: list[_Keyword], stop: int) -> StarBlock:
    """Find labels and rows of one block, and what is wrong with them."""
    header = _read_header(path, head, stop)
    name = f"data_{head.name}"
    faults: list[Problem] = []

    def fault(message: str, remedy: str, places: Iterable[str] = ()) -> None:
        problem = Problem(
            message=f"{name} {message}", remedy=remedy, file=str(path), places=list(places)
        )
        faults.append(problem)

    if header.faults:
        remedy = "Is the line loop_ before the labels missing?"
        fault("has labels without a value, or text outside a loop_", remedy, header.faults)
    if further := loops[header.is_loop :]:
        stop = min(stop, further[0].offset)
        fault(
            f"has a second table: loop_ in line {further[0].line:,}",
            "Give each table a data_ line of its own.",
        )
    if places := _repeated_labels(header):
        fault("has a label twice", "Remove one of the columns.", places)
    stop = max(stop, header.body_start)
    rows = _scan_rows(path, header, stop) if header.is_loop else _only_row(header)
    return StarBlock(
        path=path,
        name=cast("str", head.name),
        line=head.line,
        labels=header.labels,
        is_loop=header.is_loop,
        n_rows=rows.n_rows,
        start=header.body_start,
        stop=stop,
        first_line=header.body_line,
        is_ascii=rows.is_ascii,
        normalised=rows.normalised,
        faults=tuple(faults),
        malformed=rows.malformed,
    )


def _repeated_labels(header: _Header) -> list[str]:
    lines: dict[str, list[int]] = {}
    for label, line in zip(header.labels, header.label_lines, strict=True):
        lines.setdefault(_bare(label), []).append(line)
    return [
        f"{label}: lines {', '.join(f'{line:,}' for line in where)}"
        for label, where in lines.items()
        if len(where) > 1
    ]


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """What the structure pass found out about the rows of a table, as `StarBlock` has it."""

    n_rows: int
    is_ascii: bool
    normalised: bytes | None
    malformed: np.ndarray


def _only_row(header: _Header) -> _Rows:
    """Take the values beside the labels of a block without loop_ for its one row."""
    return _Rows(
        n_rows=int(bool(header.labels)),
        is_ascii=all(value.isascii() for value in header.values),
        normalised=_separated(header.values),
        malformed=_NO_ROWS,
    )


def _scan_rows(path: Path, header: _Header, stop: int) -> _Rows:
    """Count rows and check their number of values."""
    n_columns, line = len(header.labels), header.body_line
    n_all, is_ascii, malformed = 0, True, [_NO_ROWS]
    for offset, chunk in _chunks(path, header.body_start, stop):
        if _needs_tokens(chunk):
            return _scan_rows_with_quotes(path, header, stop)
        starts, counts, is_row = _count_values(chunk)
        wrong = np.flatnonzero(is_row & (counts != n_columns))
        rows = n_all + np.cumsum(is_row)[wrong] - 1
        where = offset + np.append(starts, len(chunk))
        malformed.append(
            np.stack([rows, line + wrong, counts[wrong], where[wrong], where[wrong + 1]], axis=1)
        )
        n_all += int(is_row.sum())
        is_ascii &= chunk.isascii()
        line += len(counts)
    found = np.concatenate(malformed)
    return _Rows(n_rows=n_all - len(found), is_ascii=is_ascii, normalised=None, malformed=found)


def _scan_rows_with_quotes(path: Path, header: _Header, stop: int) -> _Rows:
    """Do the same where rows have quotes or comments, and keep them without."""
    n_columns, line = len(header.labels), header.body_line - 1
    rows: list[bytes] = []
    malformed: list[tuple[int, int, int, int, int]] = []
    for start, chunk in _chunks(path, header.body_start, stop):
        offset = start
        for text in chunk.removesuffix(b"\n").split(b"\n"):
            line += 1
            if tokens := _tokens(text):
                if len(tokens) == n_columns:
                    rows.append(_separated(tokens))
                else:
                    row = len(rows) + len(malformed)
                    malformed.append((row, line, len(tokens), offset, offset + len(text)))
            offset += len(text) + 1
    normalised = b"\n".join([*rows, b""])
    return _Rows(
        n_rows=len(rows),
        is_ascii=normalised.isascii(),
        normalised=normalised,
        malformed=np.array(malformed, dtype=np.int64).reshape(-1, 5),
    )


def _count_values(chunk: bytes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Count blank-separated values.

    Parameters
    ----------
    chunk
        Whole lines.

    Returns
    -------
    starts, counts, is_row
        Of every line: its offset, number of values, and whether it is more than blanks and a
        comment.
    """
    codes = np.frombuffer(chunk if chunk.endswith(b"\n") else chunk + b"\n", dtype=np.uint8)
    blank = codes <= 32  # control characters other than tab and line ends were refused
    begins = np.empty_like(blank)
    begins[0] = not blank[0]
    np.greater(blank[:-1], blank[1:], out=begins[1:])
    values = np.flatnonzero(begins)
    ends = np.flatnonzero(codes == 10)
    n_before = np.searchsorted(values, ends)
    counts = np.diff(n_before, prepend=0)
    starts = np.concatenate([[0], ends[:-1] + 1])
    is_row = counts > 0
    if b"#" in chunk:
        first_values = values[(n_before - counts)[is_row]]
        is_row[is_row] = codes[first_values] != ord("#")
    return starts, counts, is_row


def _needs_tokens(chunk: bytes) -> bool:
    """Tell whether a value begins with a quote or '#', or a line end is a lone CR."""
    if b"\r" in chunk and chunk.count(b"\r") != chunk.count(b"\r\n"):
        return True
    marks = [mark for mark in b"\"'#" if mark in chunk]
    if not marks:
        return False
    codes = np.frombuffer(chunk, dtype=np.uint8)
    where = np.flatnonzero(np.isin(codes, marks))
    return bool(np.any((where == 0) | (codes[where - 1] <= 32)))


def _tokens(text: bytes) -> list[bytes]:
    """Split a line into values, without quotes and without what a '#' begins."""
    if not any(mark in text for mark in (b'"', b"'", b"#")):
        return text.split()
    return [_unquoted(text[start:stop]) for start, stop in value_spans(text)]


def value_spans(text: bytes) -> list[tuple[int, int]]:
    """Find the values of a line, quotes included; what a '#' begins is none.

    Parameters
    ----------
    text
        Bytes of the line.

    Returns
    -------
    list of tuple
        Start and stop of each.
    """
    found: list[tuple[int, int]] = []
    closing = dict(_CLOSING)
    stop = 0
    while match := _WORD.search(text, stop):
        start, stop = match.span()
        mark = text[start : start + 1]
        if mark == b"#":
            break
        if mark in closing:
            if close := closing[mark].search(text, start + 1):
                stop = close.end()
            else:
                # None closes a later one either, and to look for it each time can take hours.
                del closing[mark]
        found.append((start, stop))
    return found


def _unquoted(value: bytes) -> bytes:
    # Where a value ends with the mark it begins with, that mark closes it
    is_quoted = len(value) > 1 and value[:1] in _CLOSING and value[:1] == value[-1:]
    return value[1:-1] if is_quoted else value


def _separated(values: Iterable[bytes]) -> bytes:
    """Join values; a last separator keeps a row of one empty value from being a blank line."""
    return _SEPARATOR.join([*values, b""])


def _wrong_count(line: int, count: int, expected: int) -> str:
    return f"line {line:,}: {count:,} {'value' if count == 1 else 'values'}, expected {expected:,}"


def _printable(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _cut(text: bytes) -> str:
    shown = _printable(text.strip().replace(b"\r", rb"\r"))
    return f"'{shown[:57]}…'" if len(shown) > 60 else f"'{shown}'"


def _beginning(path: Path, offset: int = 0) -> str:
    """First line from an offset that is not blank, cut to a readable length."""
    with path.open("rb") as file:
        file.seek(offset)
        return _cut(file.read(2**10).removeprefix(BOM).lstrip().split(b"\n")[0])


def _bare(label: str) -> str:
    """Label without the prefixes that programs do or do not write."""
    return label.removeprefix("_").removeprefix("_").removeprefix("rln")


def _as_numbers(column: Any) -> np.ndarray:
    if column.dtype.kind in "iuf":
        return cast("np.ndarray", column.to_numpy(dtype=np.float64))
    return np.array([_number(str(text)) for text in column], dtype=np.float64)


def _number(text: str) -> float:
    try:
        return float("nan" if "_" in text else text)
    except ValueError:
        return float("nan")


def _as_text(column: Any, is_ascii: bool) -> np.ndarray:
    values = cast("np.ndarray", column.to_numpy(dtype=object))
    if not is_ascii:
        values = values.copy()  # pandas gives a view that must not be written
        for i, text in enumerate(values):
            if not text.isascii():
                values[i] = text.encode("latin-1").decode("utf-8", "surrogateescape")
    return values
