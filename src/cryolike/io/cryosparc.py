"""Particles of cryoSPARC ``.cs`` files and ``.csg`` result groups.

::

    files -> CsRecords (used columns of one file) -> join_by_uid -> build_particles -> ParticleTable
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from cryolike.errors import MetadataError, Notice, Problem
from cryolike.io.columns import Column, build_table, row_problem
from cryolike.io.cs_file import (
    AMPLITUDE_CONTRAST,
    ANISOMAG,
    BFACTOR,
    BOX,
    CLASSES,
    FIELDS,
    IGNORED,
    IMAGE_INDEX,
    IMAGE_PATH,
    OPTICS_GROUP,
    POSE,
    POSE_PIXEL_SIZE,
    REQUIRED_CTF,
    REQUIRED_IMAGE,
    ROWS_AT_ONCE,
    SCALE,
    SHIFT,
    CsRecords,
    join_by_uid,
    join_found,
    load_cs,
    load_group,
    missing_fields,
    search_files,
)
from cryolike.particles import UNREADABLE_IMAGE, ParticleTable
from cryolike.physics.rotations import euler_angles

__all__ = ["build_particles", "read_cryosparc"]

StrPath = str | os.PathLike[str]


@np.errstate(all="ignore")  # what is not finite is reported by row
def read_cryosparc(path: StrPath, *, passthrough: Sequence[StrPath] = ()) -> ParticleTable:
    """Read particles and where their images are from a .cs file or a .csg result group.

    Fields that the file lacks come from `passthrough`, joined by uid; where none is given, a
    ``*passthrough*.cs`` file in the same folder is used if exactly one has what is missing.

    Parameters
    ----------
    path
        .cs file, or .csg file that lists several of them.
    passthrough
        Further .cs files. Where a field is in several, the earlier file counts.

    Returns
    -------
    ParticleTable
        In the row order of `path` (of a .csg: of its file that is no passthrough file). Its
        `metadata_files` begin with the file whose rows `source_row` counts; all others that were
        read follow.

    Raises
    ------
    MissingFileError
        Where a file does not exist.
    MetadataError
        Where a file is no .cs file, files cannot be joined, or no field says where images are.
    """
    path = Path(path)
    records = load_group(path) if path.suffix.lower() == ".csg" else load_cs(path)
    required = (*REQUIRED_IMAGE, *REQUIRED_CTF)
    rejected: list[str] = []
    for other in passthrough:
        records = join_by_uid(records, load_cs(Path(other)))
    if not passthrough and (missing := missing_fields(records, required)):
        beside = sorted(path.parent.glob("*passthrough*.cs"))
        fits, rejected = search_files(records, beside, missing)
        if fits:
            records = join_found(records, fits, missing, level="warning")
    if missing_fields(records, REQUIRED_IMAGE):
        raise _no_image_fields(records, missing_fields(records, required), rejected)

    name_of_row, names = _image_names(records.columns[IMAGE_PATH])
    index = records.columns[IMAGE_INDEX].astype(np.int64)
    empty = np.array([not name.lstrip(">") for name in names])
    problems = [
        *_rows(records, empty[name_of_row], IMAGE_PATH, "is empty"),
        *_rows(records, index < 0, IMAGE_INDEX, "is no number of an image"),
    ]
    index[(index < 0) | empty[name_of_row]] = UNREADABLE_IMAGE
    return build_particles(
        records,
        kind="cryosparc",
        rejected=rejected,
        problems=problems,
        reader_arguments={
            "path": str(path.absolute()),
            "passthrough": [str(Path(other).absolute()) for other in passthrough],
        },
        image_files=names,
        image_file_index=name_of_row,
        image_index=index,
        box_px=_box(records),
    )


# From columns to the table


@np.errstate(all="ignore")
def build_particles(
    records: CsRecords,
    *,
    kind: Literal["cryosparc", "job"],
    rejected: Sequence[str],
    problems: Iterable[Problem] = (),
    **image_columns: Any,
) -> ParticleTable:
    """Make the table from joined columns and what is known of the images."""
    has_pixel_size = FIELDS["pixel_size_A"] in records.columns
    poses, pose_problems, pose_notices = _poses(records)
    table = build_table(
        kind=kind,
        metadata_file=records.path,
        n_rows=records.n_rows,
        columns=_quantities(records) | poses,
        place=_place(records),
        names=FIELDS,
        fields_present=_abridged(records.fields),
        missing_remedy=_remedy_missing(kind, rejected),
        problems=[*problems, *pose_problems],
        notices=[*records.notices, *_notices(records), *pose_notices],
        pixel_size_source=FIELDS["pixel_size_A"] if has_pixel_size else "",
        uid=_column_as(records, "uid", np.uint64),
        class_label=_labels(records, CLASSES),
        optics_group=_labels(records, (OPTICS_GROUP,)),
        **image_columns,
    )
    return replace(table, metadata_files=(*table.metadata_files, *records.further_files))


def _quantities(records: CsRecords) -> dict[str, Column]:
    """Columns by the table's names; absent ones are left out."""
    fields = dict(FIELDS)
    found = [field for field in AMPLITUDE_CONTRAST if field in records.columns]
    if found:
        fields["amplitude_contrast"] = found[0]
    return {
        name: Column(
            label=field,
            values=records.columns[field].astype(np.float64),
            text=_text_of(records.columns[field]),
        )
        for name, field in fields.items()
        if field in records.columns
    }


def _text_of(column: np.ndarray) -> Callable[[int], str]:
    if column.dtype.kind in "SU":
        return lambda row: f"'{_text(column[row])}'"
    return lambda row: str(column[row])


def _place(records: CsRecords) -> Callable[[int], str]:
    """Say where a row is: its 0-based number, and its uid."""
    uid = records.columns.get("uid")
    return lambda row: f"row {row}" if uid is None else f"row {row} (uid {uid[row]})"


def _rows(records: CsRecords, bad: np.ndarray, field: str, message: str) -> list[Problem]:
    return row_problem(
        bad,
        f"{field} {message}",
        "Correct the file, or leave these rows out with --on-bad-row skip.",
        file=records.path,
        place=_place(records),
        text=_text_of(records.columns[field]),
    )


def _column_as(records: CsRecords, field: str, dtype: type[np.generic]) -> np.ndarray | None:
    column = records.columns.get(field)
    return None if column is None else column.astype(dtype)


def _labels(records: CsRecords, fields: Iterable[str]) -> np.ndarray | None:
    """Text of the first of `fields` that is there."""
    for field in fields:
        if field in records.columns:
            values, index = np.unique(records.columns[field], return_inverse=True)
            return np.array([str(value) for value in values])[index]
    return None


def _box(records: CsRecords) -> np.ndarray | None:
    """Box size that the rows claim; 0 where they claim no square."""
    shape = records.columns.get(BOX)
    if shape is None or shape.dtype.kind not in "iu" or shape.ndim != 2 or shape.size == 0:
        return None
    square = (shape == shape[:, :1]).all(axis=1)
    return np.where(square, shape[:, 0], 0).astype(np.int64)


def _image_names(paths: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Give every distinct stack a number.

    Parameters
    ----------
    paths
        Bytes or str, (n_rows,).

    Returns
    -------
    name_of_row : ndarray
        int64, (n_rows,).
    names : tuple of str
        In order of their first row.
    """
    # A dictionary is five times faster than np.unique, which sorts long strings.
    number_of: dict[bytes | str, int] = {}
    raw_of_row = np.empty(len(paths), dtype=np.int64)
    for start in range(0, len(paths), ROWS_AT_ONCE):
        block = paths[start : start + ROWS_AT_ONCE].tolist()
        raw_of_row[start : start + len(block)] = [
            number_of.setdefault(raw, len(number_of)) for raw in block
        ]
    names: dict[str, int] = {}
    name_of_raw = [names.setdefault(_text(raw), len(names)) for raw in number_of]
    return np.array(name_of_raw, dtype=np.int64)[raw_of_row], tuple(names)


def _text(raw: bytes | str) -> str:
    """Decode a fixed-length string, which ends at its first NUL."""
    text = raw.decode("utf-8", errors="surrogateescape") if isinstance(raw, bytes) else raw
    return text.split("\0", 1)[0].strip()


def _abridged(fields: Sequence[str]) -> list[str]:
    """Name the fields of groups that matter here, and of others only the group."""
    shown = (
        f if f.split("/")[0] in {"uid", "blob", "ctf"} else f.split("/")[0] + "/*" for f in fields
    )
    return list(dict.fromkeys(shown))


def _remedy_missing(kind: Literal["cryosparc", "job"], rejected: Sequence[str]) -> str:
    looked = f" Looked at beside it: {'; '.join(rejected)}" if rejected else ""
    if kind == "job":
        return f"Copy the job's other .cs files into its folder.{looked}"
    return (
        "Give the .cs file of the same particles that has them with --passthrough (often "
        "*_passthrough_particles.cs or the job's *_particles.cs), or the group's .csg file."
        f"{looked}"
    )


def _no_image_fields(
    records: CsRecords, missing: Sequence[str], rejected: Sequence[str]
) -> MetadataError:
    remedy = _remedy_missing("cryosparc", rejected)
    if not any(field.startswith("blob/") for field in records.fields):
        remedy += (
            " If the rows describe the stacks of a restack or downsample job in order, use "
            "`cryolike convert job`."
        )
    problem = Problem(
        message=f"required fields are missing: {', '.join(missing)}",
        remedy=remedy,
        file=records.path,
        places=[f"fields present: {', '.join(_abridged(records.fields)) or 'none'}"],
    )
    return MetadataError(problem)


# Poses


def _poses(records: CsRecords) -> tuple[dict[str, Column], list[Problem], list[Notice]]:
    """Give angles and origins by the table's names; what is wrong with them, or doubtful."""
    columns: dict[str, Column] = {}
    problems: list[Problem] = []

    def add(names: tuple[str, ...], values: np.ndarray, field: str) -> None:
        text = _text_of(records.columns[field])
        for name, column in zip(names, values.T, strict=True):
            columns[name] = Column(label=field, values=column, text=text)

    if POSE in records.columns:
        vectors, problems = _finite(records, POSE)
        add(("rot_rad", "tilt_rad", "psi_rad"), _euler_rad(vectors), POSE)
    origins_A, found, notices = _origins_A(records)
    if origins_A is not None:
        add(("origin_x_A", "origin_y_A"), origins_A, SHIFT)
    return columns, problems + found, notices


def _finite(records: CsRecords, field: str) -> tuple[np.ndarray, list[Problem]]:
    """Give vectors, those that are not finite as zeros, with the problem of these."""
    vectors = records.columns[field].astype(np.float64)
    bad = np.isfinite(vectors).sum(axis=1) < vectors.shape[1]
    vectors[bad] = 0
    return vectors, _rows(records, bad, field, "is not finite")


def _euler_rad(vectors: np.ndarray) -> np.ndarray:
    """Make RELION's angles, (n, 3), of rotation vectors.

    A vector's rotation takes the frame of the image to the reference: RELION's matrix is its
    inverse.
    """
    angles = np.empty_like(vectors)
    for start in range(0, len(vectors), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        matrices = Rotation.from_rotvec(vectors[part]).as_matrix()
        angles[part] = euler_angles(matrices.swapaxes(1, 2))
    return angles


def _origins_A(records: CsRecords) -> tuple[np.ndarray | None, list[Problem], list[Notice]]:
    """Give RELION's origins, (n, 2), if there are shifts whose pixels are known."""
    if SHIFT not in records.columns:
        return None, [], []
    shifts, problems = _finite(records, SHIFT)
    is_shifted: np.ndarray = (shifts != 0).any(axis=1)
    notices: list[Notice] = []
    of_image = FIELDS["pixel_size_A"]
    unit = POSE_PIXEL_SIZE if POSE_PIXEL_SIZE in records.columns else of_image
    if unit not in records.columns:
        text = f"{SHIFT} is not read: neither {POSE_PIXEL_SIZE} nor {of_image} gives its unit."
        return None, problems, [Notice(text)] if is_shifted.any() else []
    size_A = records.columns[unit].astype(np.float64)
    is_size = np.isfinite(size_A) & (size_A > 0)
    if unit == POSE_PIXEL_SIZE:
        bad: np.ndarray = is_shifted & ~is_size
        problems += _rows(records, bad, unit, f"is no pixel size, so {SHIFT} has no unit")
    elif is_shifted.any():
        notices.append(Notice(f"{POSE_PIXEL_SIZE} is missing: {SHIFT} taken as pixels of {unit}."))
    return shifts * np.where(is_size, size_A, 0)[:, None], problems, notices


# What is allowed but doubtful, or not used


def _notices(records: CsRecords) -> list[Notice]:
    noted = [*_ignored(records), *_degrees(records)]
    uid = records.columns.get("uid")
    if uid is not None and (n := len(uid) - len(np.unique(uid))):
        noted.append(Notice(f"{n:,} of {len(uid):,} rows repeat the uid of an earlier row."))
    box = _box(records)
    if box is not None and (n := int((box == 0).sum())):
        noted.append(Notice(f"{BOX} is not square in {n:,} of {len(box):,} rows: not used there."))
    poses = [field for field in records.fields if field.endswith("/pose") and field != POSE]
    groups = [field.split("/")[0] for field in poses]
    if groups:
        noted.append(Notice(f"Poses ({', '.join(groups)}) are not read.", "note"))
    return noted


def _ignored(records: CsRecords) -> list[Notice]:
    """Name fields that change the physics and are not used."""
    noted = []
    for field, neutral in ((BFACTOR, 0), (SCALE, 1)):
        column = _numeric(records, field)
        if column is not None and (n := int((column != neutral).sum())):
            noted.append(
                Notice(f"{field} is not {neutral} in {n:,} of {len(column):,} rows: ignored.")
            )
    for field, what in {**IGNORED, ANISOMAG: "anisotropic magnification"}.items():
        column = _numeric(records, field)
        if column is None or column.size == 0:
            continue
        # Zeros mean none for all of them: the magnification matrix is stored minus the identity.
        size = np.nan_to_num(np.abs(column.reshape(len(column), -1))).max(axis=1)
        if n := int((size != 0).sum()):
            largest = f"{100 * size.max():.3g} %" if field == ANISOMAG else f"{size.max():.4g} Å"
            noted.append(
                Notice(
                    f"{field} ({what}, at most {largest}) is not zero in {n:,} of {len(size):,} "
                    "rows: ignored."
                )
            )
    return noted


def _numeric(records: CsRecords, field: str) -> np.ndarray | None:
    column = records.columns.get(field)
    return None if column is None or column.dtype.kind not in "iuf" else column.astype(np.float64)


def _degrees(records: CsRecords) -> list[Notice]:
    """Doubt angles beyond what programs leave unwrapped."""
    noted = []
    for field, turns in (("ctf/df_angle_rad", 2), ("ctf/phase_shift_rad", 1), (POSE, 1)):
        column = records.columns.get(field)
        if column is None:
            continue
        size = np.abs(column.reshape(len(column), -1)).max(axis=1)
        if n := int((np.isfinite(size) & (size > turns * 2 * np.pi)).sum()):
            noted.append(
                Notice(
                    f"{field} looks like degrees: beyond ±{2 * turns}π in {n:,} of "
                    f"{len(column):,} rows; taken as radians."
                )
            )
    return noted
