"""What generated metadata means, and how a table that was read differs from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np

from cryolike.particles import ParticleTable

__all__ = ["Meaning", "differences"]

_RELATIVE_TOLERANCE = 1e-14
"""A few units in the last place: of decimal text, and of degrees made radians."""

_BOOKKEEPING = {"metadata_index", "source_row", "image_file_index", "image_index"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Meaning:
    """What the rows of a metadata file say, in the units of `cryolike.particles.ParticleTable`.

    Parameters
    ----------
    image_names
        Stack and 0-based number of the image of each row, in order; number −1 where the name has
        none.
    columns
        Every column that the table must have, by its name there, (n_rows,) each; it must have no
        other.
    """

    image_names: tuple[tuple[str, int], ...]
    columns: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.image_names)


def differences(table: ParticleTable, meaning: Meaning) -> list[str]:
    """Say how a table differs from what its file means.

    Parameters
    ----------
    table
        As a reader returned it.
    meaning
        What it should hold.

    Returns
    -------
    list of str
        One sentence for each difference; empty where there is none. A table with problems differs,
        since generated files have none.
    """
    found = [f"a problem is reported: {problem}" for problem in table.problems]
    if len(table) != len(meaning):
        return [*found, f"{len(table)} rows, meant {len(meaning)}"]
    names = tuple(
        (table.image_files[i], int(image))
        for i, image in zip(table.image_file_index, table.image_index, strict=True)
    )
    if names != meaning.image_names:
        found.append(f"images are {names}, meant {meaning.image_names}")
    if table.source_row.tolist() != list(range(len(meaning))):
        found.append(f"source rows are {table.source_row}")
    present = {
        f.name
        for f in fields(table)
        if f.name not in _BOOKKEEPING and isinstance(getattr(table, f.name), np.ndarray)
    }
    unlike = present ^ meaning.columns.keys()
    found += [f"{name} is {'not meant' if name in present else 'absent'}" for name in unlike]
    for name in sorted(present & meaning.columns.keys()):
        read, meant = getattr(table, name), meaning.columns[name]
        if not _are_equal(read, meant):
            found.append(f"{name} is {read}, meant {meant}")
    return found


def _are_equal(read: np.ndarray, meant: np.ndarray) -> bool:
    if meant.dtype.kind == "f" and read.dtype == np.float64:
        close = np.isclose(read, meant, rtol=_RELATIVE_TOLERANCE, atol=0, equal_nan=True)
        return bool(close.all())
    return read.dtype.kind == meant.dtype.kind and bool(np.array_equal(read, meant))
