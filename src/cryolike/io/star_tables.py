"""The columns of a STAR file that are needed, and of each particle those of its optics group.

::

    StarBlock -> read_table -> StarTable (particles, optics) -> join_optics -> JoinedTables
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from cryolike.errors import Notice, Problem
from cryolike.io.columns import Column, row_problem
from cryolike.io.star_blocks import StarBlock
from cryolike.particles import UNNUMBERED_IMAGE, UNREADABLE_IMAGE

__all__ = [
    "ImageNames",
    "JoinedTables",
    "StarTable",
    "TextColumn",
    "join_optics",
    "optics_faults",
    "place_of",
    "read_table",
]

_EMPTY = np.zeros(0, dtype=np.int64)
_INTEGER = re.compile(r"([+-]?\d{1,4000})(?:\.0*)?")  # Python refuses to parse longer ones


# Reading of tables


@dataclass(frozen=True)
class TextColumn:
    """A column of text with few different values: `values[codes[row]]`."""

    codes: np.ndarray
    values: tuple[str, ...]

    def of_rows(self) -> np.ndarray:
        """Give the text of every row, (n_rows,)."""
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

    def result(self) -> TextColumn:
        return TextColumn(np.concatenate(self._codes), tuple(self._known))


def _label(text: str) -> str:
    match = _INTEGER.fullmatch(text)
    return str(int(match[1])) if match else text


@dataclass(frozen=True, kw_only=True)
class ImageNames:
    """Stack and place in it of every row.

    Rows whose name cannot be read (`zero`: numbered 0; `bad`: anything else) have the whole name
    for a stack.
    """

    files: tuple[str, ...]
    file_index: np.ndarray
    image_index: np.ndarray
    zero: np.ndarray
    bad: np.ndarray


_ZERO, _BAD = -3, -4


class _NameCollector:
    """Puts the pieces of a column of image names together."""

    def __init__(self) -> None:
        self._known: dict[str, int] = {}
        self._files: list[np.ndarray] = [_EMPTY]
        self._images: list[np.ndarray] = [_EMPTY]

    def add(self, names: np.ndarray) -> None:
        known = self._known
        files, images = [], []
        # Millions of names come here, so the usual case is worked out on the spot
        for name in names:
            number, _, file = name.partition("@")
            if file and len(number) <= 18 and number.isascii() and number.isdecimal():
                image = int(number) - 1
                if image < 0:
                    image, file = _ZERO, name
            else:
                image, file = _without_number(name)
            files.append(known.setdefault(file, len(known)))
            images.append(image)
        self._files.append(np.array(files, dtype=np.int64))
        self._images.append(np.array(images, dtype=np.int64))

    def result(self) -> ImageNames:
        images = np.concatenate(self._images)
        return ImageNames(
            files=tuple(self._known),
            file_index=np.concatenate(self._files),
            image_index=np.maximum(images, UNREADABLE_IMAGE),
            zero=images == _ZERO,
            bad=images == _BAD,
        )


def _without_number(name: str) -> tuple[int, str]:
    """Give what stands for a name without a number, and the stack: the whole name."""
    return (UNNUMBERED_IMAGE if name and "@" not in name else _BAD), name


@dataclass(frozen=True, kw_only=True)
class StarTable:
    """The columns read of a block, by bare label."""

    block: StarBlock
    numbers: Mapping[str, np.ndarray]
    texts: Mapping[str, TextColumn]
    names: ImageNames | None

    def written(self, label: str) -> str:
        """Label as the file writes it."""
        return self.block.labels[self.block.columns[label]].removeprefix("_")

    def text(self, row: int, label: str) -> str:
        """Give what the file says in a row, in quotes."""
        return f"'{self.block.value(row, self.block.columns[label])}'"


def read_table(
    block: StarBlock, numbers: Iterable[str], texts: Iterable[str], *, with_names: bool
) -> StarTable:
    """Read columns of a block, those of `numbers` and `texts` that it has, by bare label."""
    column = block.columns
    pieces: dict[str, list[np.ndarray]] = {label: [] for label in numbers if label in column}
    collectors = {label: _LabelCollector() for label in texts if label in column}
    names = _NameCollector() if with_names else None
    of_names = [column["ImageName"]] if with_names else []
    as_text = [*(column[label] for label in collectors), *of_names]
    for piece in block.read([column[label] for label in pieces], as_text):
        for label, parts in pieces.items():
            parts.append(piece[column[label]])
        for label, collector in collectors.items():
            collector.add(piece[column[label]])
        if names is not None:
            names.add(piece[of_names[0]])
    return StarTable(
        block=block,
        numbers={k: np.concatenate([*v, np.zeros(0)]) for k, v in pieces.items()},
        texts={label: collector.result() for label, collector in collectors.items()},
        names=names.result() if names is not None else None,
    )


# Joining of particles and optics groups


@dataclass(frozen=True, kw_only=True)
class JoinedTables:
    """Particles and, of each, the row of the optics table that holds its group."""

    particles: StarTable
    optics: StarTable | None = None
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

    def labels(self, label: str) -> TextColumn | None:
        """Give a column of text, likewise."""
        if label in self.particles.texts:
            return self.particles.texts[label]
        if self.optics is None or self.optics_row is None or label not in self.optics.texts:
            return None
        groups = self.optics.texts[label]
        return TextColumn(groups.codes[self.optics_row], groups.values)


def join_optics(
    particles: StarTable, optics: StarTable | None, notices: list[Notice]
) -> JoinedTables:
    """Find the row of the optics table of each particle."""
    if optics is None:
        return JoinedTables(particles=particles, notices=notices)
    ours = particles.texts.get("OpticsGroup")
    rows_of_groups = _rows_of_groups(optics)
    if ours is None or not rows_of_groups:
        lacking = particles.block if ours is None else optics.block
        message = f"{lacking} has no rlnOpticsGroup: the only optics group is used for all rows."
        row = np.zeros(particles.block.n_rows, dtype=np.int64)
        return JoinedTables(
            particles=particles, optics=optics, optics_row=row, notices=[*notices, Notice(message)]
        )
    rows = [rows_of_groups.get(label, [-1])[0] for label in ours.values]
    row = np.array([*rows, -1])[ours.codes]
    return JoinedTables(
        particles=particles,
        optics=optics,
        # The first group stands in for undefined ones, so that range checks do not repeat them.
        optics_row=np.maximum(row, 0),
        problems=_undefined_groups(particles, ours, row < 0),
        notices=notices,
    )


def _undefined_groups(
    particles: StarTable, groups: TextColumn, undefined: np.ndarray
) -> list[Problem]:
    found: list[Problem] = []
    for code in np.unique(groups.codes[undefined]):
        found += row_problem(
            groups.codes == code,
            f"optics group {groups.values[code]} is not in data_optics",
            "Add the group to data_optics, or leave these rows out with --on-bad-row skip.",
            file=str(particles.block.path),
            place=place_of(particles),
        )
    return found


def place_of(table: StarTable) -> Callable[[int], str]:
    """Say where a row is: its 0-based number, and its line."""
    block = table.block
    return lambda row: f"row {block.row_numbers[row]} (line {block.row_line(row):,})"


def optics_faults(optics: StarTable, particles: StarBlock) -> list[Problem]:
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


def _rows_of_groups(optics: StarTable) -> dict[str, list[int]]:
    rows: dict[str, list[int]] = {}
    if (labels := optics.texts.get("OpticsGroup")) is not None:
        for row, label in enumerate(labels.of_rows()):
            rows.setdefault(str(label), []).append(row)
    return rows
