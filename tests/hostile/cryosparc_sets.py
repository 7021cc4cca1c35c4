"""Small sets described by .cs files, and ways to change them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Make,
    Source,
    cryosparc_source,
)

NAMES = ("J1/a.mrc", "J1/a.mrc", "J1/a.mrc", "J1/b.mrc", "J1/b.mrc")


NUMBERS = (0, 1, 2, 0, 1)


UID = 2**63


CTF = ("df1_A", "df2_A", "df_angle_rad", "cs_mm", "accel_kv", "phase_shift_rad", "amp_contrast")


def put_stacks(build: SetBuilder) -> None:
    """Write J1/a.mrc of 3 images and J1/b.mrc of 2."""
    images = build.noise(5)
    build.stack("J1/a.mrc", images[:3])
    build.stack("J1/b.mrc", images[3:])


def good(build: SetBuilder, **fields: Any) -> Path:
    """Write the stacks and particles.cs of 5 rows, uids from 2⁶³ on; fields with '__' for '/'."""
    put_stacks(build)
    return build.cryosparc(NAMES, NUMBERS, **fields)


def records(path: Path) -> np.ndarray:
    """Rows of a .cs file."""
    rows: np.ndarray = np.load(path, allow_pickle=False)
    return rows


def save(path: Path, rows: np.ndarray) -> Path:
    """Write rows as a .cs file."""
    with path.open("wb") as stream:
        np.save(stream, rows, allow_pickle=rows.dtype.hasobject)
    return path


def only(rows: np.ndarray, fields: Sequence[str]) -> np.ndarray:
    """Copy some fields."""
    copy = np.zeros(len(rows), dtype=[(name, rows.dtype[name]) for name in fields])
    for name in fields:
        copy[name] = rows[name]
    return copy


def fields(**values: Any) -> Make:
    """Make the set of `good` with other values."""
    return lambda build: cryosparc_source(good(build, **values))


def single(values: Sequence[float]) -> np.ndarray:
    """Column of float32, as cryoSPARC writes."""
    return np.array(values, dtype=np.float32)


def without(*names: str) -> Make:
    """Make the set of `good` without some fields."""

    def make(build: SetBuilder) -> Source:
        path = good(build)
        rows = records(path)
        kept = [name for name in rows.dtype.names or () if name not in names]
        return cryosparc_source(save(path, only(rows, kept)))

    return make


def split(build: SetBuilder) -> tuple[Path, Path]:
    """Write particles.cs without CTF, and passthrough.cs with it in reverse order."""
    path = good(build)
    rows = records(path)
    ctf = only(rows, ["uid", *(f"ctf/{name}" for name in CTF)])[::-1]
    save(path, only(rows, ["uid", "blob/path", "blob/idx", "blob/psize_A"]))
    return path, save(build.folder / "passthrough.cs", ctf)


def entry(name: str, file: str, n: int = 5) -> str:
    """One result of a group."""
    return f"  {name}:\n    metafile: '>{file}'\n    num_items: {n}\n    type: particle.{name}\n"
