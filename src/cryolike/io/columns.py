"""From the columns of a metadata file to a checked `ParticleTable`.

Every reader collects what its file calls the quantities below and hands them to
`build_table`, which fills defaults, checks ranges, and words what is wrong in one way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cryolike.errors import LazyPlaces, Notice, Problem
from cryolike.particles import InputKind, ParticleTable

__all__ = ["DEFAULTS", "REQUIRED", "Column", "build_table", "row_problem"]

REQUIRED = (
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_rad",
    "spherical_aberration_mm",
    "voltage_kV",
)
"""Quantities without which an image has no CTF."""

DEFAULTS: dict[str, float] = {
    "phase_shift_rad": 0.0,
    "amplitude_contrast": 0.1,
    "ctf_bfactor_A2": 0.0,
    "ctf_scale": 1.0,
}
"""Values of quantities that a file may leave out."""

_OPTIONAL = ("rot_rad", "tilt_rad", "psi_rad", "origin_x_A", "origin_y_A")


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """One quantity as a file gives it.

    Parameters
    ----------
    label
        What the file calls it.
    values
        float64, (n_rows,), in the unit of the table; NaN where the text is no number.
    text
        What the file says in a row, for messages.
    """

    label: str
    values: np.ndarray
    text: Callable[[int], str]


def row_problem(
    bad: np.ndarray,
    message: str,
    remedy: str,
    *,
    file: str,
    place: Callable[[int], str],
    text: Callable[[int], str] | None = None,
    kind: Any = "metadata",
) -> list[Problem]:
    """Word a fault that some rows have.

    Parameters
    ----------
    bad
        bool, (n_rows,): which rows.
    message
        What is wrong with them; the count is added.
    remedy
        What to do.
    file
        Metadata file.
    place
        Where a row is: ``"row 4 (line 31)"``.
    text
        The offending value of a row.
    kind
        Of the `cryolike.errors.Problem`.

    Returns
    -------
    list of Problem
        One, or none where no row is bad.
    """
    rows = np.flatnonzero(bad)
    if rows.size == 0:
        return []

    def describe(i: int) -> str:
        row = int(rows[i])
        return place(row) if text is None else f"{place(row)}: {text(row)}"

    return [
        Problem(
            message=f"{message} ({rows.size:,} of {bad.size:,} rows)",
            reason=message,
            remedy=remedy,
            file=file,
            rows=rows,
            places=LazyPlaces(rows.size, describe),
            kind=kind,
        )
    ]


def build_table(
    *,
    kind: InputKind,
    metadata_file: str,
    n_rows: int,
    columns: Mapping[str, Column],
    place: Callable[[int], str],
    names: Mapping[str, str],
    fields_present: Iterable[str],
    missing_remedy: str,
    problems: Iterable[Problem] = (),
    notices: Iterable[Notice] = (),
    **rest: Any,
) -> ParticleTable:
    """Fill defaults, check every value, and make the table.

    Parameters
    ----------
    kind
        Of the table.
    metadata_file
        Path, for messages and the table.
    n_rows
        Number of particles.
    columns
        What the file has, by the table's column names (those of `REQUIRED` and
        `DEFAULTS`, poses, `pixel_size_A`, `contrast_sign`).
    place
        Where a row is in the file, for messages.
    names
        What this kind of file calls a quantity, for messages about missing ones.
    fields_present
        All fields of the file, for the same messages.
    missing_remedy
        What to do where required fields are missing.
    problems, notices
        What the reader found already.
    **rest
        Further columns of the table, passed on as they are.

    Returns
    -------
    ParticleTable
        With every fault in its `problems`.
    """
    found = list(problems)
    noted = list(notices)
    if n_rows == 0:
        found.append(
            Problem(
                message="the file holds 0 particles",
                remedy="Check that the job that wrote it selected any.",
                file=metadata_file,
            )
        )
    missing = [names[name] for name in REQUIRED if name not in columns]
    if missing:
        found.append(
            Problem(
                message=f"required fields are missing: {', '.join(missing)}",
                remedy=missing_remedy,
                file=metadata_file,
                places=[f"fields present: {', '.join(fields_present) or 'none'}"],
            )
        )
    for name, default in DEFAULTS.items():
        if name not in columns and name in names:
            noted.append(
                Notice(f"{names[name]} is missing: {default:g} used for all {n_rows:,} rows.")
            )

    check = _Checker(metadata_file, columns, place)
    found += check.problems()
    noted += check.notices()

    def filled(name: str) -> np.ndarray:
        if name in columns:
            return columns[name].values
        return np.full(n_rows, DEFAULTS.get(name, np.nan))

    if (REQUIRED[0] in columns) and (REQUIRED[1] in columns):
        ctf_names = ("defocus_u_A", "defocus_v_A", "spherical_aberration_mm")
        zero = np.all([filled(n) == 0 for n in (*ctf_names, *list(DEFAULTS)[:2])], axis=0)
        found += row_problem(
            zero,
            "defocus, Cs, phase shift and amplitude contrast are all zero, so the CTF is zero "
            "everywhere",
            "Estimate the CTF of these micrographs, or leave the rows out with --on-bad-row skip.",
            file=metadata_file,
            place=place,
        )
    quantities: dict[str, Any] = {name: filled(name) for name in (*REQUIRED, *DEFAULTS)}
    quantities |= {name: columns[name].values for name in _OPTIONAL if name in columns}
    return ParticleTable(
        kind=kind,
        metadata_files=(metadata_file,),
        metadata_index=np.zeros(n_rows, dtype=np.int64),
        source_row=np.arange(n_rows, dtype=np.int64),
        **quantities,
        pixel_size_A=filled("pixel_size_A"),
        contrast_sign=filled("contrast_sign") if "contrast_sign" in columns else None,
        problems=tuple(found),
        notices=tuple(noted),
        **rest,
    )


_SKIP = "Correct the file, or leave these rows out with --on-bad-row skip."


class _Checker:
    """Range checks of the physical columns of one file."""

    def __init__(
        self, file: str, columns: Mapping[str, Column], place: Callable[[int], str]
    ) -> None:
        self._file, self._columns, self._place = file, columns, place

    def _rows(self, column: Column, bad: np.ndarray, message: str, remedy: str) -> list[Problem]:
        return row_problem(
            bad,
            f"{column.label} {message}",
            remedy,
            file=self._file,
            place=self._place,
            text=column.text,
        )

    def problems(self) -> list[Problem]:
        """Find what makes rows unusable."""
        found: list[Problem] = []
        for name, column in self._columns.items():
            if name not in _OPTIONAL:
                found += self._rows(
                    column, ~np.isfinite(column.values), "is not a finite number", _SKIP
                )
        found += self._out_of_range()
        return found + self._defocus_unit()

    def _out_of_range(self) -> list[Problem]:
        rules = {
            "voltage_kV": (10, 1500, "is outside 10 to 1,500 kV", "Voltages are in kV, e.g. 300."),
            "amplitude_contrast": (
                0,
                1,
                "is outside 0 to 1",
                "It is a fraction: 0.1 means 10 %.",
            ),
            "spherical_aberration_mm": (-100, 100, "is outside ±100 mm", "Cs is in mm, e.g. 2.7."),
            "defocus_u_A": (-1e6, 1e6, "is outside ±1,000,000 Å", "Defocus is in Å, e.g. 15000."),
            "defocus_v_A": (-1e6, 1e6, "is outside ±1,000,000 Å", "Defocus is in Å, e.g. 15000."),
            "pixel_size_A": (1e-3, 1e3, "is outside 0.001 to 1,000 Å", "Pixel sizes are in Å."),
        }
        found: list[Problem] = []
        for name, (low, high, message, remedy) in rules.items():
            if name in self._columns:
                v = self._columns[name].values
                bad = np.isfinite(v) & ((v < low) | (v > high))
                found += self._rows(self._columns[name], bad, message, remedy)
        if "contrast_sign" in self._columns:
            v = self._columns["contrast_sign"].values
            bad = np.isfinite(v) & (np.abs(v) != 1)
            found += self._rows(self._columns["contrast_sign"], bad, "is neither 1 nor -1", _SKIP)
        return found

    def _defocus_unit(self) -> list[Problem]:
        pair = [self._columns.get("defocus_u_A"), self._columns.get("defocus_v_A")]
        values = [np.abs(c.values) for c in pair if c is not None]
        if not values:
            return []
        both = np.concatenate(values)
        both = both[np.isfinite(both) & (both > 0)]
        if both.size == 0 or both.max() >= 50:
            return []
        labels = " and ".join(c.label for c in pair if c is not None)
        message = f"all values of {labels} are below 50 Å (largest {both.max():g}): µm?"
        return [Problem(message=message, remedy="Give defocus in Å.", file=self._file)]

    def notices(self) -> list[Notice]:
        """Find what is allowed but doubtful."""
        noted: list[Notice] = []
        u, v = self._columns.get("defocus_u_A"), self._columns.get("defocus_v_A")
        if u is not None and v is not None:
            for what, rows in (
                ("zero defocus", (u.values == 0) & (v.values == 0)),
                ("negative defocus (overfocus)", (u.values < 0) | (v.values < 0)),
            ):
                if n := int(rows.sum()):
                    noted.append(Notice(f"{n:,} of {rows.size:,} rows have {what}."))
        scale = self._columns.get("ctf_scale")
        if scale is not None and (n := int((scale.values == 0).sum())):
            noted.append(Notice(f"{scale.label} is 0 in {n:,} of {scale.values.size:,} rows."))
        for name in _OPTIONAL:
            column = self._columns.get(name)
            if column is not None and (n := int((~np.isfinite(column.values)).sum())):
                noted.append(
                    Notice(
                        f"{column.label} is not a finite number in {n:,} of "
                        f"{column.values.size:,} rows: those poses are kept as NaN."
                    )
                )
        return noted
