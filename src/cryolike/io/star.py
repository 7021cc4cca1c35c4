"""RELION STAR files: their structure, and the particle table in them.

A file is read twice. The first pass finds blocks, labels and rows, and every line with the wrong
number of values, by its line number. The second parses the columns that are needed, and no other.
Both go through the file in pieces, so the text of a large file is never in memory as a whole.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd

from cryolike.errors import LazyPlaces, MetadataError, Notice, Problem, raise_problems
from cryolike.io.columns import Column, build_table, row_problem
from cryolike.particles import ParticleTable
from cryolike.units import A_PER_UM, rad_from_deg

__all__ = ["StarBlock", "read_star", "read_star_blocks", "read_star_without_names"]

_CHUNK_BYTES = 16 * 2**20
_CHUNK_ROWS = 2**16
_SEPARATOR = b"\x1f"
_BOM = b"\xef\xbb\xbf"
_ALL_BUT_CONTROLS = bytes([*b"\t\n\r", *range(32, 256)])

# The literal first keeps the search fast; that only blanks stand before it is checked afterwards.
_KEYWORDS = (
    re.compile(rb"data_([^ \t\r\n]*)[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)"),
    re.compile(rb"loop_[ \t\r]*(?:#[^\n]*)?(?:\n|\Z)"),
)
_TOKEN = re.compile(
    rb""""([^\n]*?)"(?=[ \t\r\n]|\Z)|'([^\n]*?)'(?=[ \t\r\n]|\Z)|(\#)|([^ \t\r\n]+)"""
)
_COMMENT_GROUP = 3
_INTEGER = re.compile(r"([+-]?\d+)(?:\.0*)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")


# --- structure ---------------------------------------------------------------------------------


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
        Number of rows with the right number of values.
    start, stop
        Range of bytes of the file that holds the rows.
    first_line
        Line at `start`, counted from 1.
    is_ascii
        Whether the rows hold nothing but ASCII.
    normalised
        Rows with quotes and comments removed, where there were any.
    faults
        What is wrong with the structure of the block.
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

    def __str__(self) -> str:
        return f"data_{self.name} (line {self.line:,})"

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each label, the label without `_`, `rln` or `_rln` in front."""
        return {_bare(label): column for column, label in enumerate(self.labels)}

    @cached_property
    def row_positions(self) -> tuple[np.ndarray, np.ndarray]:
        """Byte offset and line (from 1) of every row: int64, (n_rows,) each."""
        if not self.is_loop:
            return np.array([self.start]), np.array([self.line])
        offsets, lines, line = [], [], self.first_line
        for offset, chunk in _chunks(self.path, self.start, self.stop):
            starts, counts, is_row = _count_values(chunk)
            offsets.append(offset + starts[is_row])
            lines.append(line + np.flatnonzero(is_row))
            line += len(counts)
        return np.concatenate([*offsets, _EMPTY]), np.concatenate([*lines, _EMPTY])

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
        return io.BufferedReader(_ByteRange(self.path, self.start, self.stop), _CHUNK_BYTES)

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


_EMPTY = np.zeros(0, dtype=np.int64)


class _ByteRange(io.RawIOBase):
    """Part of a file, as a file."""

    def __init__(self, path: Path, start: int, stop: int) -> None:
        self._file = path.open("rb", buffering=0)
        self._file.seek(start)
        self._n_left = stop - start

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
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
        In order of the file. What is wrong within a block is in its `faults`.

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
        _refuse(
            path,
            f"no data_ block was found; the file begins {_beginning(path)}",
            "Give a STAR file; its tables begin with a line data_NAME and a line loop_.",
        )
    ends = [*(k.offset for k in heads[1:]), size]
    return [
        _read_block(path, head, [k for k in keywords if head.offset < k.offset < end], end)
        for head, end in zip(heads, ends, strict=True)
    ]


_SIGNATURES = (
    (b"version https://git-lfs", "a Git LFS pointer", "Fetch the file itself: git lfs pull."),
    (b"\x1f\x8b", "gzip-compressed", "Decompress it first: gunzip."),
    (b"<!doctype html", "a web page (HTML)", "Download the file itself."),
    (b"<html", "a web page (HTML)", "Download the file itself."),
    (b"\x93numpy", "a NumPy file (a cryoSPARC .cs file?)", "Read it as cryoSPARC metadata."),
)


def _refuse(path: Path, message: str, remedy: str = "", kind: Any = "metadata") -> None:
    raise_problems([Problem(message=message, remedy=remedy, file=str(path), kind=kind)])


def _check_is_text(path: Path) -> None:
    """Refuse what is plainly no STAR file, before all of it is read."""
    if not path.exists():
        _refuse(path, "no such file", "Check the path.", "missing")
    if not path.is_file():
        _refuse(path, "this is a folder, not a file", "Give the STAR file in it.")
    with path.open("rb") as file:
        head = file.read(2**16)
    if not head.strip():
        _refuse(path, "the file is empty", "Copy or write it again.")
    for signature, what, remedy in _SIGNATURES:
        if head.removeprefix(_BOM).lstrip().lower().startswith(signature):
            _refuse(path, f"this is {what}, not a STAR file", remedy)
    _check_control_characters(path, head)


def _check_control_characters(path: Path, chunk: bytes) -> None:
    if controls := chunk.translate(None, _ALL_BUT_CONTROLS):
        _refuse(
            path,
            f"this is a binary file (it holds a byte {controls[0]:#04x}), not a STAR file",
            "Give a STAR file saved as plain text (ASCII or UTF-8).",
        )


def _find_keywords(path: Path, size: int) -> list[_Keyword]:
    """Find the lines `data_NAME` and `loop_`, in order."""
    found: list[_Keyword] = []
    line = 1
    for offset, chunk in _chunks(path, 0, size):
        _check_control_characters(path, chunk)
        here = [match for pattern in _KEYWORDS for match in pattern.finditer(chunk)]
        for match in sorted(here, key=re.Match.start):
            start = chunk.rfind(b"\n", 0, match.start()) + 1
            if chunk[start : match.start()].strip() in (b"", _BOM):
                name = _printable(match[1]) if match.re.groups else None
                found.append(_Keyword(offset + start, line + chunk.count(b"\n", 0, start), name))
        line += chunk.count(b"\n")
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
            if tokens[0] == b"loop_" and not labels:
                is_loop = True
            elif tokens[0].startswith(b"_"):
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
        faults=(*faults, *rows.problems(path, name, len(header.labels))),
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
    """What the structure pass found out about the rows of a table.

    `bad` has, for each row with the wrong number of values, its line, number of values, and offset.
    """

    n_rows: int
    is_ascii: bool
    normalised: bytes | None
    bad: np.ndarray

    def problems(self, path: Path, name: str, n_columns: int) -> list[Problem]:
        """Word what is wrong with them."""
        if not len(self.bad):
            return []

        def describe(i: int) -> str:
            line, count, offset = map(int, self.bad[i])
            return f"{_wrong_count(line, count, n_columns)}: {_beginning(path, offset)}"

        n_all = self.n_rows + len(self.bad)
        return [
            Problem(
                message=f"{name} has {n_columns:,} labels, but another number of values in "
                f"{len(self.bad):,} of {n_all:,} rows",
                remedy="Correct or remove these lines; names with spaces need quotes.",
                file=str(path),
                places=LazyPlaces(len(self.bad), describe),
            )
        ]


_NO_BAD_ROWS = np.zeros((0, 3), dtype=np.int64)


def _only_row(header: _Header) -> _Rows:
    """Take the values beside the labels of a block without loop_ for its one row."""
    return _Rows(
        n_rows=int(bool(header.labels)),
        is_ascii=all(value.isascii() for value in header.values),
        normalised=_separated(header.values),
        bad=_NO_BAD_ROWS,
    )


def _scan_rows(path: Path, header: _Header, stop: int) -> _Rows:
    """Count rows and check their number of values."""
    n_columns, line = len(header.labels), header.body_line
    n_rows, is_ascii, bad = 0, True, [_NO_BAD_ROWS]
    for offset, chunk in _chunks(path, header.body_start, stop):
        if _needs_tokens(chunk):
            return _scan_rows_with_quotes(path, header, stop)
        starts, counts, is_row = _count_values(chunk)
        wrong = np.flatnonzero(is_row & (counts != n_columns))
        bad.append(np.stack([line + wrong, counts[wrong], offset + starts[wrong]], axis=1))
        n_rows += int(is_row.sum()) - len(wrong)
        is_ascii &= chunk.isascii()
        line += len(counts)
    return _Rows(n_rows=n_rows, is_ascii=is_ascii, normalised=None, bad=np.concatenate(bad))


def _scan_rows_with_quotes(path: Path, header: _Header, stop: int) -> _Rows:
    """Do the same where rows have quotes or comments, and keep them without."""
    n_columns, line = len(header.labels), header.body_line - 1
    rows: list[bytes] = []
    bad: list[tuple[int, int, int]] = []
    for start, chunk in _chunks(path, header.body_start, stop):
        offset = start
        for text in chunk.removesuffix(b"\n").split(b"\n"):
            line += 1
            tokens = _tokens(text)
            if len(tokens) == n_columns:
                rows.append(_separated(tokens))
            elif tokens:
                bad.append((line, len(tokens), offset))
            offset += len(text) + 1
    normalised = b"\n".join([*rows, b""])
    return _Rows(
        n_rows=len(rows),
        is_ascii=normalised.isascii(),
        normalised=normalised,
        bad=np.array(bad, dtype=np.int64).reshape(-1, 3),
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
    found: list[bytes] = []
    for match in _TOKEN.finditer(text):
        if match.lastindex == _COMMENT_GROUP:
            break
        found.append(match[match.lastindex or 0])
    return found


def _separated(values: Iterable[bytes]) -> bytes:
    """Join values; a last separator keeps a row of one empty value from being a blank line."""
    return _SEPARATOR.join([*values, b""])


def _wrong_count(line: int, count: int, expected: int) -> str:
    return f"line {line:,}: {count:,} {'value' if count == 1 else 'values'}, expected {expected:,}"


def _printable(text: bytes) -> str:
    return text.decode("utf-8", "backslashreplace")


def _cut(text: bytes) -> str:
    shown = _printable(text.strip())
    return f"'{shown[:57]}…'" if len(shown) > 60 else f"'{shown}'"


def _beginning(path: Path, offset: int = 0) -> str:
    """First line from an offset that is not blank, cut to a readable length."""
    with path.open("rb") as file:
        file.seek(offset)
        return _cut(file.read(2**10).removeprefix(_BOM).lstrip().split(b"\n")[0])


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


# --- values ------------------------------------------------------------------------------------

_MAG_MAT = ("MagMat00", "MagMat01", "MagMat10", "MagMat11")
_PIXEL_SIZES = (
    "ImagePixelSize",
    "PixelSize",
    "DetectorPixelSize",
    "Magnification",
    "MicrographPixelSize",
    "MicrographOriginalPixelSize",
)
_POSES = (
    "AngleRot",
    "AngleTilt",
    "AnglePsi",
    "OriginXAngst",
    "OriginYAngst",
    "OriginX",
    "OriginY",
)
_PLAIN = {
    "defocus_u_A": "DefocusU",
    "defocus_v_A": "DefocusV",
    "spherical_aberration_mm": "SphericalAberration",
    "voltage_kV": "Voltage",
    "amplitude_contrast": "AmplitudeContrast",
    "ctf_bfactor_A2": "CtfBfactor",
    "ctf_scale": "CtfScalefactor",
}
_NAMES = {
    name: f"rln{label}"
    for name, label in {
        **_PLAIN,
        "defocus_angle_rad": "DefocusAngle",
        "phase_shift_rad": "PhaseShift",
    }.items()
}
_NUMBERS = (
    *_PLAIN.values(),
    "DefocusAngle",
    "PhaseShift",
    "ImageSize",
    "ImageDimensionality",
    "BeamTiltX",
    "BeamTiltY",
    *_MAG_MAT,
)
_CTF_APPLIED = {
    "CtfDataArePhaseFlipped": "phase-flipped",
    "CtfDataAreCtfPremultiplied": "CTF-premultiplied",
}
_ZERNIKE = ("OddZernike", "EvenZernike")
_TEXTS = ("OpticsGroup", "ClassNumber", *_ZERNIKE, *_CTF_APPLIED)
_TOMO_STACKS = ("TomoSubTomosAre2DStacks", "TomoVisibleFrames")
_TOMO = ("TomoName", "TomoParticleName", "TomoParticleId", "CtfImage")


def read_star(path: str | Path, *, accept_ctf_applied: bool = False) -> ParticleTable:
    """Read a STAR file whose rows name their images.

    Single tables (RELION 3.0 and earlier) and tables with optics groups (RELION 3.1 and later) are
    read; labels may have the prefix `rln`, `_rln` or none. A row's optics group gives what the row
    itself does not.

    Parameters
    ----------
    path
        STAR file.
    accept_ctf_applied
        Read data flagged as phase-flipped or CTF-premultiplied, with a warning.

    Returns
    -------
    ParticleTable
        Of kind 'star', rows in order of the file. What is wrong with rows is in its `problems`.
        An image name without '@' means the only image of that file; its `image_index` is −1 until
        the stack is known to hold one image. A name that cannot be read is listed in `problems`,
        and stands as a whole, with the same index, for the stack.

    Raises
    ------
    MetadataError
        Where the structure of the file, or what it is, does not allow reading any row; lists all
        such faults.
    MissingFileError
        Where there is no such file.
    """
    source = _open_source(Path(path), indexed=True)
    names = cast("_ImageNames", source.particles.names)
    in_degrees = {"angle_in_degrees": True, "phase_in_degrees": True}
    columns = source.ctf_columns(**in_degrees)
    pixel_size, of_pixels = source.pixel_size()
    poses, of_poses = source.poses(pixel_size)
    if pixel_size is not None:
        columns["pixel_size_A"] = pixel_size
    notices = [*source.unit_doubts(**in_degrees), *of_pixels, *of_poses]
    return build_table(
        kind="star",
        columns=columns | poses,
        pixel_size_source="" if pixel_size is None else pixel_size.label,
        image_files=names.files,
        image_file_index=names.file_index,
        image_index=names.image_index,
        reader_arguments={
            "path": str(Path(path).absolute()),
            "accept_ctf_applied": accept_ctf_applied,
        },
        **source.checked(notices, accept_ctf_applied=accept_ctf_applied),
    )


def read_star_without_names(
    path: str | Path,
    *,
    defocus_angle_is_degree: bool = True,
    phase_shift_is_degree: bool = True,
    accept_ctf_applied: bool = False,
) -> ParticleTable:
    """Read a STAR file whose rows describe the images of one stack, in sequence.

    Poses, pixel sizes and image names are ignored even where the file has them.

    Parameters
    ----------
    path
        STAR file.
    defocus_angle_is_degree, phase_shift_is_degree
        Whether the file has these angles in degrees; else they are in radians.
    accept_ctf_applied
        Read data flagged as phase-flipped or CTF-premultiplied, with a warning.

    Returns
    -------
    ParticleTable
        Of kind 'paired', rows in order of the file; its only stack name is empty, for the caller
        to fill in. What is wrong with rows is in its `problems`.

    Raises
    ------
    MetadataError
        Where the structure of the file, or what it is, does not allow reading any row; lists all
        such faults.
    MissingFileError
        Where there is no such file.
    """
    source = _open_source(Path(path), indexed=False)
    in_degrees = {
        "angle_in_degrees": defocus_angle_is_degree,
        "phase_in_degrees": phase_shift_is_degree,
    }
    n_rows = source.particles.block.n_rows
    return build_table(
        kind="paired",
        columns=source.ctf_columns(**in_degrees),
        image_files=("",),
        image_file_index=np.zeros(n_rows, dtype=np.int64),
        image_index=np.arange(n_rows, dtype=np.int64),
        **source.checked(source.unit_doubts(**in_degrees), accept_ctf_applied=accept_ctf_applied),
    )


# Choice of blocks


def _open_source(path: Path, *, indexed: bool) -> _Source:
    """Choose the blocks, read what is needed of them, and join them."""
    blocks = read_star_blocks(path)
    particles, faults = _choose_particles(path, blocks, indexed=indexed)
    optics = [block for block in blocks if block.name == "optics"]
    if len(optics) > 1:
        faults.append(_ambiguous(path, "data_optics occurs more than once", optics))
    faults += [fault for block in (*particles, *optics) for fault in block.faults]
    numbers = (*_NUMBERS, *((*_PIXEL_SIZES, *_POSES) if indexed else ()))
    groups = None
    if len(optics) == 1 and not optics[0].faults:
        groups = _read_table(optics[0], numbers, with_names=False)
        faults += _volumes(groups)
        if len(particles) == 1:
            faults += _optics_faults(groups, particles[0])
    raise_problems(faults)

    table = _read_table(particles[0], numbers, with_names=indexed)
    raise_problems(_volumes(table))
    return _join(table, groups, _ignored_blocks(blocks, [*particles, *optics]))


def _choose_particles(
    path: Path, blocks: list[StarBlock], *, indexed: bool
) -> tuple[list[StarBlock], list[Problem]]:
    """Find the particle table: by its name, or else by what only it can have."""
    named = [block for block in blocks if block.name == "particles"]
    if len(named) > 1:
        return named, [_ambiguous(path, "data_particles occurs more than once", named)]
    key = {"ImageName"} if indexed else {"DefocusU", "DefocusV"}
    candidates = named or [block for block in blocks if block.name not in ("optics", "micrographs")]
    if indexed or not named:
        candidates = [block for block in candidates if not key.isdisjoint(block.columns)]
    if not candidates:
        return [], [_no_particles(path, blocks, named, indexed=indexed)]
    if len(candidates) > 1:
        what = "several blocks could hold the particles"
        return candidates, [_ambiguous(path, what, candidates)]
    return candidates, _tomography(path, candidates[0], blocks, indexed=indexed)


def _ambiguous(path: Path, message: str, blocks: list[StarBlock]) -> Problem:
    return Problem(
        message=f"{message}: {', '.join(map(str, blocks))}",
        remedy="Keep the right one, as data_particles or data_optics, and remove the others.",
        file=str(path),
    )


def _no_particles(
    path: Path, blocks: list[StarBlock], named: list[StarBlock], *, indexed: bool
) -> Problem:
    """Say what the file is instead of a particle set."""
    labels = [label for block in blocks for label in block.labels]
    columns = {label for block in blocks for label in block.columns}
    problem = partial(
        Problem,
        file=str(path),
        places=[f"{block}: {', '.join(block.labels) or 'no labels'}" for block in blocks],
    )
    if any(label.lower().startswith("_cistem") for label in labels):
        return problem(
            message="no RELION labels (_rln…) found; cisTEM STAR is not supported",
            remedy="Export the particles from cisTEM in RELION's format.",
        )
    known = {*_NUMBERS, *_PIXEL_SIZES, *_POSES, *_TEXTS, "ImageName", "MicrographName"}
    if columns.isdisjoint(known) and not any(label.startswith("_rln") for label in labels):
        return problem(
            message="no RELION labels (_rln…) found",
            remedy="Give a STAR file of particles as RELION writes it.",
        )
    remedy = "Give the particles.star of an extraction or refinement job."
    if any(b.name == "micrographs" for b in blocks) or (
        "MicrographName" in columns and "CoordinateX" not in columns
    ):
        message = "this is a micrographs STAR (no rlnImageName); need a particles STAR"
        return problem(message=message, remedy=remedy)
    which = f"{named[0]} has no" if named else "no block has"
    if not indexed:
        return problem(message=f"{which} rlnDefocusU", remedy=remedy)
    remedy += " If its rows describe the images of one stack in sequence, read it as paired."
    return problem(message=f"{which} rlnImageName", remedy=remedy)


def _tomography(
    path: Path, particles: StarBlock, blocks: list[StarBlock], *, indexed: bool
) -> list[Problem]:
    """Refuse subtomograms, whose images are volumes or stacks of tilts."""
    labels = {label for b in blocks for label in b.columns if b is particles or b.name == "optics"}
    found = [label for label in _TOMO_STACKS if label in labels]
    # Single-particle data cut out of tilt series can carry the name of the tomogram.
    of_tomograms = [label for label in _TOMO if label in labels]
    if indexed and of_tomograms and particles.n_rows and not particles.faults:
        name = particles.value(0, particles.columns["ImageName"])
        found += of_tomograms if "@" not in name else []
    return [
        Problem(
            message=f"this is a RELION subtomogram STAR (rln{label}): not supported",
            remedy="Export single-particle data.",
            file=str(path),
        )
        for label in found[:1]
    ]


def _ignored_blocks(blocks: list[StarBlock], used: list[StarBlock]) -> list[Notice]:
    names = [f"data_{block.name}" for block in blocks if block not in used]
    if not names:
        return []
    return [Notice(f"Blocks that were not needed are ignored: {', '.join(names)}.", "note")]


# Reading of tables


@dataclass(frozen=True)
class _Labels:
    """A column of text with few different values: `values[codes[row]]`."""

    codes: np.ndarray
    values: tuple[str, ...]

    def of_rows(self) -> np.ndarray:
        return np.asarray(np.array(self.values or [""])[self.codes])

    def in_rows(self, is_meant: Callable[[str], bool]) -> np.ndarray:
        """Tell for every row whether its value is meant."""
        return np.asarray(np.array([*map(is_meant, self.values), False])[self.codes])


class _LabelCollector:
    """Puts the pieces of a text column together; integers lose '.000000'."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._codes: list[np.ndarray] = [_EMPTY]

    def add(self, texts: np.ndarray) -> None:
        codes, distinct = pd.factorize(texts)
        mine = [self._known.setdefault(_label(t), len(self._known)) for t in distinct]
        self._codes.append(np.array(mine, dtype=np.int64)[codes])

    def result(self) -> _Labels:
        return _Labels(np.concatenate(self._codes), tuple(self._known))


def _label(text: str) -> str:
    match = _INTEGER.fullmatch(text)
    return str(int(match[1])) if match else text


@dataclass(frozen=True, kw_only=True)
class _ImageNames:
    """Stack and place in it of every row.

    Rows whose name cannot be read (`zero`: numbered 0; `bad`: anything else) have the whole name
    for a stack.
    """

    files: tuple[str, ...]
    file_index: np.ndarray
    image_index: np.ndarray
    zero: np.ndarray
    bad: np.ndarray


_BARE_NAME, _ZERO, _BAD = -1, -2, -3


class _NameCollector:
    """Puts the pieces of a column of image names together."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._files: list[np.ndarray] = [_EMPTY]
        self._images: list[np.ndarray] = [_EMPTY]

    def add(self, names: np.ndarray) -> None:
        known = self._known
        split = [_split_image_name(name) for name in names]
        files = [known.setdefault(file, len(known)) for _, file in split]
        self._files.append(np.array(files, dtype=np.int64))
        self._images.append(np.array([image for image, _ in split], dtype=np.int64))

    def result(self) -> _ImageNames:
        images = np.concatenate(self._images)
        return _ImageNames(
            files=tuple(self._known),
            file_index=np.concatenate(self._files),
            image_index=np.maximum(images, _BARE_NAME),
            zero=images == _ZERO,
            bad=images == _BAD,
        )


def _split_image_name(name: str) -> tuple[int, str]:
    """Give the 0-based image and the stack; a negative image where the name has none."""
    number, at, stack = name.partition("@")
    if not at:
        return (_BARE_NAME if name else _BAD), name
    if not (stack and number.isascii() and number.isdecimal() and len(number) <= 18):
        return _BAD, name
    image = int(number) - 1
    return (image, stack) if image >= 0 else (_ZERO, name)


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The columns read of a block, by bare label."""

    block: StarBlock
    numbers: Mapping[str, np.ndarray]
    texts: Mapping[str, _Labels]
    names: _ImageNames | None

    def written(self, label: str) -> str:
        """Label as the file writes it."""
        return self.block.labels[self.block.columns[label]].removeprefix("_")

    def text(self, row: int, label: str) -> str:
        return f"'{self.block.value(row, self.block.columns[label])}'"


def _read_table(block: StarBlock, numbers: Iterable[str], *, with_names: bool) -> _Table:
    """Read the columns of a block that are needed."""
    column = block.columns
    pieces: dict[str, list[np.ndarray]] = {label: [] for label in numbers if label in column}
    collectors = {label: _LabelCollector() for label in _TEXTS if label in column}
    names = _NameCollector() if with_names else None
    of_names = [column["ImageName"]] if with_names else []
    texts = [*(column[label] for label in collectors), *of_names]
    for piece in block.read([column[label] for label in pieces], texts):
        for label, parts in pieces.items():
            parts.append(piece[column[label]])
        for label, collector in collectors.items():
            collector.add(piece[column[label]])
        if names is not None:
            names.add(piece[of_names[0]])
    return _Table(
        block=block,
        numbers={k: np.concatenate([*v, np.zeros(0)]) for k, v in pieces.items()},
        texts={label: collector.result() for label, collector in collectors.items()},
        names=names.result() if names is not None else None,
    )


# Joining of particles and optics groups


def _optics_faults(optics: _Table, particles: StarBlock) -> list[Problem]:
    """Find what keeps particles from being assigned to optics groups."""
    problem = partial(Problem, file=str(particles.path), remedy="Correct the optics table.")
    n_groups = optics.block.n_rows
    if n_groups == 0:
        message = (
            f"{optics.block} has no rows, so the optics groups of the {particles.n_rows:,} "
            "particles are not defined"
        )
        return [problem(message=message)]
    for block in (optics.block, particles):
        if "OpticsGroup" not in block.columns and n_groups > 1:
            message = (
                f"{block} has no rlnOpticsGroup, so which of the {n_groups:,} optics groups a "
                "particle belongs to is not known"
            )
            return [problem(message=message)]
    return [
        problem(
            message=f"optics group {label} is defined {len(rows):,} times",
            places=[f"line {optics.block.row_line(row):,}" for row in rows],
        )
        for label, rows in _rows_of_groups(optics).items()
        if len(rows) > 1
    ]


def _rows_of_groups(optics: _Table) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    if (labels := optics.texts.get("OpticsGroup")) is not None:
        for row, label in enumerate(labels.of_rows()):
            rows.setdefault(str(label), []).append(row)
    return rows


def _volumes(table: _Table) -> list[Problem]:
    """Refuse particles that are volumes."""
    label = "ImageDimensionality"
    if label not in table.numbers or not np.any(table.numbers[label] == 3):
        return []
    message = f"{table.written(label)} is 3: these particles are volumes (subtomograms)"
    file = str(table.block.path)
    return [Problem(message=message, remedy="Export single-particle data.", file=file)]


def _join(particles: _Table, optics: _Table | None, notices: list[Notice]) -> _Source:
    """Find the row of the optics table of each particle."""
    if optics is None:
        return _Source(particles=particles, notices=notices)
    ours = particles.texts.get("OpticsGroup")
    rows_of_groups = _rows_of_groups(optics)
    if ours is None or not rows_of_groups:
        lacking = particles.block if ours is None else optics.block
        message = f"{lacking} has no rlnOpticsGroup: the only optics group is used for all rows."
        row = np.zeros(particles.block.n_rows, dtype=np.int64)
        return _Source(
            particles=particles, optics=optics, optics_row=row, notices=[*notices, Notice(message)]
        )
    rows = [rows_of_groups.get(label, [-1])[0] for label in ours.values]
    row = np.array([*rows, -1])[ours.codes]
    return _Source(
        particles=particles,
        optics=optics,
        # The first group stands in for undefined ones, so that range checks do not repeat them.
        optics_row=np.maximum(row, 0),
        problems=_undefined_groups(particles, ours, row < 0),
        notices=notices,
    )


def _undefined_groups(particles: _Table, groups: _Labels, undefined: np.ndarray) -> list[Problem]:
    found: list[Problem] = []
    for code in np.unique(groups.codes[undefined]):
        found += row_problem(
            groups.codes == code,
            f"optics group {groups.values[code]} is not in data_optics",
            "Add the group to data_optics, or leave these rows out with --on-bad-row skip.",
            file=str(particles.block.path),
            place=_place(particles),
        )
    return found


def _place(table: _Table) -> Callable[[int], str]:
    return lambda row: f"row {row} (line {table.block.row_line(row):,})"


@dataclass(frozen=True, kw_only=True)
class _Source:
    """Particles and, of each, the row of the optics table that holds its group."""

    particles: _Table
    optics: _Table | None = None
    optics_row: np.ndarray | None = None
    problems: Sequence[Problem] = ()
    notices: Sequence[Notice] = ()

    def column(self, label: str) -> Column | None:
        """Give a column of numbers: the particles' own, or else of their optics groups."""
        own, optics, optics_row = self.particles, self.optics, self.optics_row
        if label in own.numbers:
            return Column(
                label=own.written(label),
                values=own.numbers[label],
                text=lambda row: own.text(row, label),
            )
        if optics is None or optics_row is None or label not in optics.numbers:
            return None

        def text(row: int) -> str:
            group = int(optics_row[row])
            line = optics.block.row_line(group)
            return f"{optics.text(group, label)} (data_optics, line {line:,})"

        values = optics.numbers[label][optics_row]
        return Column(label=optics.written(label), values=values, text=text)

    def labels(self, label: str) -> _Labels | None:
        """Give a column of text, likewise."""
        if label in self.particles.texts:
            return self.particles.texts[label]
        if self.optics is None or self.optics_row is None or label not in self.optics.texts:
            return None
        groups = self.optics.texts[label]
        return _Labels(groups.codes[self.optics_row], groups.values)

    def ctf_columns(self, *, angle_in_degrees: bool, phase_in_degrees: bool) -> dict[str, Column]:
        """Give what the CTF needs, angles in radians."""
        found = {name: self.column(label) for name, label in _PLAIN.items()}
        for name, label, in_degrees in (
            ("defocus_angle_rad", "DefocusAngle", angle_in_degrees),
            ("phase_shift_rad", "PhaseShift", phase_in_degrees),
        ):
            column = self.column(label)
            found[name] = _in_radians(column) if column is not None and in_degrees else column
        return {name: column for name, column in found.items() if column is not None}

    def unit_doubts(self, *, angle_in_degrees: bool, phase_in_degrees: bool) -> list[Notice]:
        """Warn of angles that look like being in the other unit."""
        found: list[Notice] = []
        for label, in_degrees, looks_like_radians in (
            ("DefocusAngle", angle_in_degrees, _angles_look_like_radians),
            ("PhaseShift", phase_in_degrees, _phases_look_like_radians),
        ):
            column = self.column(label)
            if column is None:
                continue
            if in_degrees and looks_like_radians(column.values):
                found.append(_unit_doubt(column, "radians", "degrees"))
            elif not in_degrees and np.any(np.abs(column.values) > 4 * np.pi):
                found.append(_unit_doubt(column, "degrees", "radians"))
        return found

    def pixel_size(self) -> tuple[Column | None, list[Notice]]:
        """Give the pixel size of the images, from the best field there is."""
        for label in ("ImagePixelSize", "PixelSize"):
            if (column := self.column(label)) is not None:
                return column, []
        detector, magnification = self.column("DetectorPixelSize"), self.column("Magnification")
        if detector is not None and magnification is not None:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = A_PER_UM * detector.values / magnification.values
            column = Column(
                label=f"10000·{detector.label}/{magnification.label}",
                values=values,
                text=lambda row: f"{detector.text(row)} / {magnification.text(row)}",
            )
            return column, []
        for label in ("MicrographPixelSize", "MicrographOriginalPixelSize"):
            if (column := self.column(label)) is not None:
                message = (
                    f"The pixel size is taken from {column.label}, which is that of the "
                    "micrographs: wrong if the particles were rescaled."
                )
                return column, [Notice(message)]
        return None, []

    def poses(self, pixel_size: Column | None) -> tuple[dict[str, Column], list[Notice]]:
        """Give orientations in radians and origins in Å."""
        found: dict[str, Column] = {}
        notices: list[Notice] = []
        for name in ("rot", "tilt", "psi"):
            if (column := self.column(f"Angle{name.capitalize()}")) is not None:
                found[f"{name}_rad"] = _in_radians(column)
        for axis in ("X", "Y"):
            in_A, in_px = self.column(f"Origin{axis}Angst"), self.column(f"Origin{axis}")
            name = f"origin_{axis.lower()}_A"
            if in_A is not None:
                found[name] = in_A
            elif in_px is not None and pixel_size is not None:
                values = in_px.values * pixel_size.values
                found[name] = Column(label=in_px.label, values=values, text=in_px.text)
            elif in_px is not None:
                message = f"{in_px.label} is in pixels, and the file gives no pixel size: ignored."
                notices.append(Notice(message))
        return found, notices

    def checked(self, notices: Iterable[Notice], *, accept_ctf_applied: bool) -> dict[str, Any]:
        """Give all arguments of `build_table` that both kinds of table share.

        Parameters
        ----------
        notices
            Found so far.
        accept_ctf_applied
            Whether corrected images are accepted.
        """
        particles, block = self.particles, self.particles.block
        box_px, of_box = self._box_px()
        problems = [*self.problems, *self._image_name_problems()]
        notices = [*self.notices, *notices, *of_box, *self._differences(), *self._ignored_physics()]
        for label, what in _CTF_APPLIED.items():
            problem, notice = self._ctf_applied(label, what, accept=accept_ctf_applied)
            problems += problem
            notices += notice
        written = (*block.labels, *(() if self.optics is None else self.optics.block.labels))
        classes, groups = self.labels("ClassNumber"), particles.texts.get("OpticsGroup")
        return {
            "metadata_file": str(block.path),
            "n_rows": block.n_rows,
            "place": _place(particles),
            "names": _NAMES,
            "fields_present": [label.removeprefix("_") for label in written],
            "missing_remedy": "Give the particles STAR of a job that came after CTF estimation, "
            "with its data_optics table.",
            "problems": problems,
            "notices": notices,
            "class_label": None if classes is None else classes.of_rows(),
            "optics_group": None if groups is None else groups.of_rows(),
            "box_px": box_px,
        }

    def _box_px(self) -> tuple[np.ndarray | None, list[Notice]]:
        column = self.column("ImageSize")
        if column is None:
            return None, []
        v = column.values
        usable = np.isfinite(v) & (v > 0) & (v < 2**31) & (v == np.round(v))
        notices: list[Notice] = []
        if n := int((~usable).sum()):
            message = f"{column.label} is no box size in {n:,} of {v.size:,} rows: ignored there."
            notices = [Notice(message)]
        return np.where(usable, v, 0).astype(np.int64), notices

    def _image_name_problems(self) -> list[Problem]:
        names, particles = self.particles.names, self.particles
        if names is None:
            return []
        problem = partial(
            row_problem,
            file=str(particles.block.path),
            place=_place(particles),
            text=lambda row: particles.text(row, "ImageName"),
        )
        label = particles.written("ImageName")
        return [
            *problem(
                names.zero,
                f"{label} has image number 0",
                "RELION counts images from 1: correct the program that wrote the file.",
            ),
            *problem(
                names.bad,
                f"{label} is not of the form NUMBER@STACK",
                "Correct the file, or leave these rows out with --on-bad-row skip.",
            ),
        ]

    def _differences(self) -> list[Notice]:
        """Note fields that both tables have, with different values."""
        found: list[Notice] = []
        if self.optics is None or self.optics_row is None:
            return found
        for label, values in self.particles.numbers.items():
            if label in self.optics.numbers:
                other = self.optics.numbers[label][self.optics_row]
                if n := int((values != other).sum()):
                    message = (
                        f"{self.particles.written(label)} differs between particles and optics "
                        f"groups in {n:,} of {values.size:,} rows: the particles' values are used."
                    )
                    found.append(Notice(message, "note"))
        return found

    def _ctf_applied(
        self, label: str, what: str, *, accept: bool
    ) -> tuple[list[Problem], list[Notice]]:
        flags = self.labels(label)
        if flags is None:
            return [], []
        bad = flags.in_rows(lambda value: value.lower() not in ("0", "false", "no"))
        if accept and bad.any():
            message = (
                f"The images of {int(bad.sum()):,} of {bad.size:,} rows are {what} (rln{label}), "
                "which the CTF model does not take into account; accepted on request."
            )
            return [], [Notice(message)]
        return row_problem(
            bad,
            f"the images are {what} (rln{label}), but raw images are needed",
            "Extract the particles without CTF correction, or accept them as they are with "
            "accept_ctf_applied.",
            file=str(self.particles.block.path),
            place=_place(self.particles),
        ), []

    def _ignored_physics(self) -> list[Notice]:
        """Warn of aberrations that the file records and that are not applied."""
        found: list[Notice] = []
        tilts = [c for c in (self.column("BeamTiltX"), self.column("BeamTiltY")) if c is not None]
        if tilts:
            size = np.nan_to_num(np.sqrt(sum(c.values**2 for c in tilts)))
            if n := int((size > 0).sum()):
                found.append(_not_applied("beam tilt", f"up to {size.max():.3g} mrad", n))
        for label in _ZERNIKE:
            vectors = self.labels(label)
            if vectors is not None:
                sizes = np.array([*map(_largest, vectors.values), 0.0])[vectors.codes]
                if n := int((sizes > 0).sum()):
                    size_text = f"coefficients up to {sizes.max():.3g}"
                    found.append(_not_applied(f"rln{label} (aberrations)", size_text, n))
        return found + self._anisotropic_magnification()

    def _anisotropic_magnification(self) -> list[Notice]:
        entries = [self.column(label) for label in _MAG_MAT]
        present = [c.values for c in entries if c is not None]
        if len(present) != len(_MAG_MAT):
            return []
        matrix = np.stack(present, axis=1)
        zero = np.all(matrix == 0, axis=1)
        deviation = np.nan_to_num(np.abs(matrix - [1, 0, 0, 1]).max(axis=1))
        deviation[zero] = 0
        found: list[Notice] = []
        if n := int((deviation > 0).sum()):
            size = f"up to {100 * deviation.max():.3g} %"
            found.append(_not_applied("anisotropic magnification (rlnMagMat)", size, n))
        if n := int(zero.sum()):
            found.append(Notice(f"rlnMagMat is all zero in {n:,} rows: taken as the identity."))
        return found


def _not_applied(what: str, size: str, n_rows: int) -> Notice:
    return Notice(f"The file records {what}, {size}, in {n_rows:,} rows: this is not applied.")


def _largest(vector: str) -> float:
    return max((abs(float(number)) for number in _NUMBER.findall(vector)), default=0.0)


def _in_radians(column: Column) -> Column:
    return Column(label=column.label, values=rad_from_deg(column.values), text=column.text)


def _unit_doubt(column: Column, looks_like: str, read_as: str) -> Notice:
    low, high = np.nanmin(column.values), np.nanmax(column.values)
    return Notice(
        f"The values of {column.label}, {low:g} to {high:g}, look like {looks_like}; they are read "
        f"as {read_as}."
    )


def _phases_look_like_radians(values: np.ndarray) -> bool:
    if values.size < 10 or not np.all((values > 0) & (values < 3.2)):
        return False
    return not (np.all(values == values[0]) and values[0] == np.round(values[0]))


def _angles_look_like_radians(values: np.ndarray) -> bool:
    return bool(values.size >= 20 and np.all(np.abs(values) <= np.pi) and np.any(values != 0))
