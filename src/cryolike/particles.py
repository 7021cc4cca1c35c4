"""What metadata says about each particle image, one column each.

A `ParticleTable` is what every reader returns and every later step takes. Its rows are in
the order of the metadata file; nothing in it refers to our own output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

import numpy as np

from cryolike.errors import Notice, Problem, UsageError

__all__ = [
    "UNNUMBERED_IMAGE",
    "UNREADABLE_IMAGE",
    "InputKind",
    "ParticleTable",
    "concatenate_tables",
    "select_rows",
    "with_unusable_rows",
]

InputKind = Literal["star", "cryosparc", "job", "paired"]

UNNUMBERED_IMAGE, UNREADABLE_IMAGE = -1, -2
"""Image of a row whose name has no number, and of one whose name cannot be read at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ParticleTable:
    """A set of particle images as its metadata describes it.

    All per-image columns have shape (n_images,). Optional columns are None where the metadata
    does not have them.

    Parameters
    ----------
    kind
        Which program's layout it was read from. Rows of 'paired' tables come from several pairs
        of files, which are never mixed in one output stack.
    metadata_files
        Paths of all STAR or .cs files read; those that were joined in come last.
    metadata_index
        Which of `metadata_files` the row came from.
    source_row
        0-based row of the particle in that file.
    image_files
        Distinct stack names as the metadata writes them (a leading '>' included).
    image_file_index
        Which of `image_files` holds the image.
    image_index
        0-based number of the image in its stack; −1 where the name has no number, −2 where it
        cannot be read, which is among the `problems` then.
    defocus_u_A, defocus_v_A
        Defocus along the two principal axes, Å, positive for underfocus.
    defocus_angle_rad
        Angle from the x (fast) axis to the axis of `defocus_u_A`, towards +y.
    phase_shift_rad
        Phase-plate shift.
    spherical_aberration_mm, voltage_kV, amplitude_contrast
        Cs, acceleration voltage, and the amplitude-contrast fraction (0 to 1).
    ctf_bfactor_A2, ctf_scale
        Envelope exp(−B s²/4) and linear scale of the CTF.
    pixel_size_A
        Of these images; NaN where the metadata does not tell.
    pixel_size_source
        Which field the pixel sizes came from, in words.
    contrast_sign
        +1 or −1: the factor that makes protein bright, as the metadata records it.
    rot_rad, tilt_rad, psi_rad
        RELION's Euler angles.
    origin_x_A, origin_y_A
        RELION's origin offsets.
    uid
        cryoSPARC's identity of the particle, uint64.
    class_label
        Class number as the file writes it.
    optics_group
        Label of the optics or exposure group as the file writes it.
    box_px
        Box size the metadata claims; 0 where it does not.
    reader_arguments
        What to call the reader with to read the same table again; plain values.
    problems
        Everything wrong with the rows, to be reported before they are used.
    notices
        Defaults applied, doubtful values accepted, fields ignored.
    """

    kind: InputKind
    metadata_files: tuple[str, ...]
    metadata_index: np.ndarray
    source_row: np.ndarray
    image_files: tuple[str, ...]
    image_file_index: np.ndarray
    image_index: np.ndarray
    defocus_u_A: np.ndarray
    defocus_v_A: np.ndarray
    defocus_angle_rad: np.ndarray
    phase_shift_rad: np.ndarray
    spherical_aberration_mm: np.ndarray
    voltage_kV: np.ndarray
    amplitude_contrast: np.ndarray
    ctf_bfactor_A2: np.ndarray
    ctf_scale: np.ndarray
    pixel_size_A: np.ndarray
    pixel_size_source: str = ""
    contrast_sign: np.ndarray | None = None
    rot_rad: np.ndarray | None = None
    tilt_rad: np.ndarray | None = None
    psi_rad: np.ndarray | None = None
    origin_x_A: np.ndarray | None = None
    origin_y_A: np.ndarray | None = None
    uid: np.ndarray | None = None
    class_label: np.ndarray | None = None
    optics_group: np.ndarray | None = None
    box_px: np.ndarray | None = None
    reader_arguments: Mapping[str, Any] = field(default_factory=dict)
    problems: tuple[Problem, ...] = field(default=(), repr=False)
    notices: tuple[Notice, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        n = len(self.source_row)
        for name in _columns(self):
            column = getattr(self, name)
            if column.shape != (n,):
                msg = f"column {name} has shape {column.shape}, expected ({n},)"
                raise ValueError(msg)
            column.setflags(write=False)

    def __len__(self) -> int:
        return len(self.source_row)

    @property
    def has_poses(self) -> bool:
        """Whether the rows carry viewing directions that are not all zero."""
        angles = (self.rot_rad, self.tilt_rad, self.psi_rad)
        return any(a is not None and bool(np.any(a)) for a in angles)

    def image_name(self, row: int) -> str:
        """Name of one image, RELION style: 1-based index, '@', stack; without index, the stack."""
        stack = self.image_files[int(self.image_file_index[row])]
        index = int(self.image_index[row])
        return stack if index < 0 else f"{index + 1:06d}@{stack}"

    def take(self, rows: np.ndarray) -> ParticleTable:
        """Choose rows.

        Parameters
        ----------
        rows
            Positions in this table, in the wanted order, without repeats.

        Returns
        -------
        ParticleTable
            With problems and stack names of the chosen rows only.
        """
        position = np.full(len(self), -1, dtype=np.int64)
        position[rows] = np.arange(len(rows))
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in _columns(self)}
        index_of_file = columns["image_file_index"]
        is_used = np.bincount(index_of_file, minlength=len(self.image_files)) > 0
        used = np.flatnonzero(is_used)
        columns["image_file_index"] = (np.cumsum(is_used) - 1)[index_of_file]
        moved = (problem.restricted_to(position) for problem in self.problems)
        return replace(
            self,
            **columns,
            image_files=tuple(self.image_files[i] for i in used),
            problems=tuple(problem for problem in moved if problem is not None),
        )


def _columns(table: ParticleTable) -> list[str]:
    """Names of the per-image columns that the table has."""
    return [f.name for f in fields(table) if isinstance(getattr(table, f.name), np.ndarray)]


def concatenate_tables(tables: Sequence[ParticleTable]) -> ParticleTable:
    """Join tables of several pairs of files into one sequence.

    A column that only some tables have is dropped.

    Parameters
    ----------
    tables
        At least one, of one kind.

    Returns
    -------
    ParticleTable
        Rows in order of the tables; `metadata_index` counts through all of them.
    """
    first = tables[0]
    shared = set(_columns(first)).intersection(*(_columns(table) for table in tables))
    columns: dict[str, Any] = {
        name: np.concatenate([getattr(t, name) for t in tables]) for name in shared
    }
    for name, of_files in (
        ("metadata_index", "metadata_files"),
        ("image_file_index", "image_files"),
    ):
        starts = np.cumsum([0, *(len(getattr(t, of_files)) for t in tables)])
        columns[name] = np.concatenate(
            [getattr(t, name) + start for t, start in zip(tables, starts, strict=False)]
        )
    row_starts = np.cumsum([0, *map(len, tables)])
    problems: list[Problem] = []
    for table, start in zip(tables, row_starts, strict=False):
        problems += [
            p if p.rows is None else replace(p, rows=p.rows + start) for p in table.problems
        ]
    absent: dict[str, Any] = {name: None for name in _columns(first) if name not in shared}
    return replace(
        first,
        **columns,
        **absent,
        metadata_files=tuple(f for t in tables for f in t.metadata_files),
        image_files=tuple(f for t in tables for f in t.image_files),
        problems=tuple(problems),
        notices=tuple(dict.fromkeys(notice for t in tables for notice in t.notices)),
    )


def with_unusable_rows(
    table: ParticleTable,
    rows: np.ndarray,
    names: Sequence[str],
    problems: Iterable[Problem],
) -> ParticleTable:
    """Put rows that could not be read in their places between the others.

    Their columns are filled with copies of the first row, so that nothing else is wrong with them.

    Parameters
    ----------
    table
        Rows that were read, at least one where there are any others.
    rows
        Positions of the other rows in the result, ascending.
    names
        What stands for the name of the image of each.
    problems
        What is wrong with them, by their positions in the result.

    Returns
    -------
    ParticleTable
        Of all rows. Those of 'paired' tables still take an image each, in sequence.
    """
    if not len(rows):
        return table
    n_rows = len(table) + len(rows)
    positions = np.delete(np.arange(n_rows), rows)
    source = np.zeros(n_rows, dtype=np.int64)
    source[positions] = np.arange(len(table))
    columns: dict[str, Any] = {name: getattr(table, name)[source] for name in _columns(table)}
    columns["source_row"] = np.arange(n_rows)
    if table.kind == "paired":
        columns["image_index"] = np.arange(n_rows)
    else:
        columns["image_file_index"][rows] = len(table.image_files) + np.arange(len(rows))
        columns["image_index"][rows] = UNREADABLE_IMAGE
        columns["image_files"] = (*table.image_files, *names)
    moved = [p if p.rows is None else replace(p, rows=positions[p.rows]) for p in table.problems]
    return replace(table, **columns, problems=(*problems, *moved))


def select_rows(
    table: ParticleTable,
    *,
    rows: slice | None = None,
    random: int | None = None,
    seed: int = 0,
    class_label: str | None = None,
) -> ParticleTable:
    """Choose some rows of a table, keeping their order and what row of the file each is.

    The three ways combine in this order: `rows`, then `class_label`, then `random`.

    Parameters
    ----------
    table
        Any table.
    rows
        Range of rows, half open, counted from 0.
    random
        Draw this many rows without replacement.
    seed
        Of the random draw.
    class_label
        Only rows of this class, as the metadata writes it.

    Returns
    -------
    ParticleTable
        The chosen rows.

    Raises
    ------
    UsageError
        Where nothing is left, the metadata has no classes, or more rows are drawn than there are.
    """
    if len(table) == 0:  # that the file holds nothing is among its problems
        return table
    chosen = np.arange(len(table))
    if rows is not None:
        chosen = chosen[rows]
    if class_label is not None:
        if table.class_label is None:
            raise UsageError("--class: the metadata has no class numbers.")
        chosen = chosen[table.class_label[chosen] == class_label]
        if chosen.size == 0:
            present = ", ".join(np.unique(table.class_label))
            msg = f"--class {class_label}: no such class; there are {present}."
            raise UsageError(msg)
    if random is not None:
        if not 0 < random <= chosen.size:
            msg = f"--random {random}: must be between 1 and the {chosen.size:,} rows there are."
            raise UsageError(msg)
        drawn = np.random.default_rng(seed).choice(chosen.size, size=random, replace=False)
        chosen = chosen[np.sort(drawn)]
    if chosen.size == 0:
        msg = f"No row is left of the {len(table):,} of {', '.join(table.metadata_files)}."
        raise UsageError(msg)
    return table if chosen.size == len(table) else table.take(chosen)
