"""The particle set with the poses that were found, as RELION and cryoSPARC read it.

A STAR file is copied byte for byte but for the columns of the pose. Sets that came in other files
get a STAR file made of their table; those of a ``.cs`` file also a copy of that.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from cryolike.errors import CryoLikeWarning, MetadataError, UsageError, counted
from cryolike.io.cs_file import POSE, POSE_PIXEL_SIZE, ROWS_AT_ONCE, SHIFT, map_cs
from cryolike.io.star import particle_block
from cryolike.io.star_edit import StarColumn, copy_star
from cryolike.particles import UNREADABLE_IMAGE, ParticleTable
from cryolike.store.scores import RelionPoses, ScoreLayout, whole_file
from cryolike.units import deg_from_rad

__all__ = ["rotation_vectors", "write_scored_particles"]

_NEW_FIELDS: dict[str, Any] = {POSE: ("<f4", (3,)), SHIFT: ("<f4", (2,)), POSE_PIXEL_SIZE: ("<f4",)}


def write_scored_particles(
    folder: Path,
    table: ParticleTable,
    rows: np.ndarray,
    poses: RelionPoses,
    *,
    pixel_size_A: float,
    box_px: int,
) -> list[Path]:
    """Write the input set with other poses: a STAR file, and a .cs file where it came in one.

    Parameters
    ----------
    folder
        Output folder; made where it does not exist.
    table
        The whole input set as it was read, no rows chosen.
    rows
        Positions in `table` that have a pose, (n,). All other rows keep the pose they had; where
        the set has none it is 0, with a warning.
    poses
        Their poses, (n,).
    pixel_size_A
        Of the images on disk, where the metadata does not tell.
    box_px
        Of the images on disk.

    Returns
    -------
    list of Path
        The files, each complete.

    Raises
    ------
    UsageError
        Where the table is not the whole set.
    MetadataError
        Where the metadata file has changed since it was read.
    OutputError
        Where the disk is full or refuses.
    """
    layout = ScoreLayout(Path(folder))
    if len(rows) != len(poses) or len(np.unique(rows)) != len(rows):
        msg = f"{len(poses):,} poses are given for {len(np.unique(rows)):,} different rows."
        raise UsageError(msg)
    sizes_A = np.where(np.isfinite(table.pixel_size_A), table.pixel_size_A, pixel_size_A)
    if table.kind == "star":
        with whole_file(layout.scored_star) as draft, draft.open("wb") as out:
            _rewrite_star(out, table, _Merged(table, rows, poses), sizes_A, box_px)
        return [layout.scored_star]
    merged, files = _Merged(table, rows, poses), [layout.scored_star]
    if table.kind == "cryosparc":
        source = map_cs(Path(table.metadata_files[0]))
        _check_whole(table, len(source))
        _check_fields(source)
        with whole_file(layout.scored_cs) as draft, draft.open("wb") as out:
            _write_cs(out, source, merged, sizes_A)
        files.append(layout.scored_cs)
    with whole_file(layout.scored_star) as draft, draft.open("wb") as out:
        out.writelines(_star_of_table(table, merged, sizes_A, box_px))
    return files


def _check_whole(table: ParticleTable, n_rows: int) -> None:
    if len(table) != n_rows:
        msg = (
            f"{table.metadata_files[0]} has {n_rows:,} rows, the table {len(table):,}: read the "
            "whole set again, and choose rows by their positions in it."
        )
        raise UsageError(msg)


class _Merged:
    """Poses of all rows of a set: those that were found, and for other rows those they had.

    Parameters
    ----------
    table
        The set.
    rows
        Rows whose poses were found.
    poses
        These.
    """

    def __init__(self, table: ParticleTable, rows: np.ndarray, poses: RelionPoses) -> None:
        self.is_found = np.zeros(len(table), dtype=bool)
        self.is_found[rows] = True
        had = _poses_of_table(table)
        self.known = frozenset(had)
        self.values: dict[str, np.ndarray] = {}
        for label, found in poses.columns().items():
            values = np.nan_to_num(had.get(label, np.zeros(len(table))), posinf=0, neginf=0)
            values[rows] = found
            self.values[label] = values

    @property
    def poses(self) -> RelionPoses:
        """Of all rows."""
        return RelionPoses.of_columns(self.values)

    def warn_of_others(self, labels: Iterable[str], is_written: np.ndarray) -> None:
        """Say what poses the rows have that were not scored; `labels` are new columns."""
        n = int((is_written & ~self.is_found).sum())
        if not n:
            return
        poses = (
            "keep the poses they had"
            if self.known.issuperset(labels)
            else "have angles and origins of 0, since the set has no poses"
        )
        warnings.warn(
            f"{counted(n, 'row')} of {len(self.is_found):,} of the scored set were not scored and "
            f"{poses}.",
            CryoLikeWarning,
            stacklevel=4,
        )


def _poses_of_table(table: ParticleTable) -> dict[str, np.ndarray]:
    """Give the poses that the rows had, as far as the table holds them."""
    angles = {"Rot": table.rot_rad, "Tilt": table.tilt_rad, "Psi": table.psi_rad}
    found = {f"rlnAngle{k}": deg_from_rad(v) for k, v in angles.items() if v is not None}
    origins = {"X": table.origin_x_A, "Y": table.origin_y_A}
    return found | {f"rlnOrigin{k}Angst": v for k, v in origins.items() if v is not None}


# STAR files


def _rewrite_star(
    out: io.BufferedIOBase, table: ParticleTable, merged: _Merged, sizes_A: np.ndarray, box_px: int
) -> None:
    """Copy a STAR file with other poses; one without optics groups gets them."""
    block, blocks = particle_block(table.metadata_files[0])
    _check_whole(table, block.n_rows + len(block.malformed))
    labels = {label: label.removeprefix("rln") for label in merged.values}
    is_written = np.isin(np.arange(len(table)), block.row_numbers)
    is_new = [label for label, bare in labels.items() if bare not in block.columns]
    merged.warn_of_others(is_new, is_written)
    _warn_of_left_out(len(block.malformed), len(table), "hold a wrong number of values")

    def column(label: str, values: np.ndarray) -> StarColumn:
        is_set = merged.is_found if label in block.columns else None
        return StarColumn(label=label, values=values, is_set=is_set)

    columns = [column(bare, merged.values[label]) for label, bare in labels.items()]
    for axis in ("X", "Y"):
        # Programs that know pixels only must not find the old origins there
        if f"Origin{axis}" in block.columns:
            origins_A = merged.values[f"rlnOrigin{axis}Angst"]
            columns.append(column(f"Origin{axis}", origins_A / sizes_A))
    optics = b""
    if not any(other.name == "optics" for other in blocks):
        groups, optics = _optics(table, sizes_A, box_px)
        columns.append(StarColumn(label="OpticsGroup", values=groups, pattern="%d"))
    copy_star(block, columns, out, name="particles", insertion=optics)


def _optics(table: ParticleTable, sizes_A: np.ndarray, box_px: int) -> tuple[np.ndarray, bytes]:
    """Give each row an optics group: its number, from 1, and the table of all groups."""
    values = np.stack(
        [table.voltage_kV, table.spherical_aberration_mm, table.amplitude_contrast, sizes_A], axis=1
    )
    is_known = np.isfinite(values).all(axis=1)
    groups = np.ones(len(table), dtype=np.int64)
    distinct, of_known = np.unique(values[is_known], axis=0, return_inverse=True)
    groups[is_known] = of_known.reshape(-1) + 1
    lines = [
        f"opticsGroup{i} {i} {kV:.6f} {cs_mm:.6f} {q0:.6f} {size_A:.6f} {box_px} 2"
        for i, (kV, cs_mm, q0, size_A) in enumerate(distinct, 1)
    ]
    return groups, _star_table("optics", _OPTICS_LABELS, lines)


_OPTICS_LABELS = (
    "rlnOpticsGroupName",
    "rlnOpticsGroup",
    "rlnVoltage",
    "rlnSphericalAberration",
    "rlnAmplitudeContrast",
    "rlnImagePixelSize",
    "rlnImageSize",
    "rlnImageDimensionality",
)


def _star_table(name: str, labels: Iterable[str], lines: Iterable[str]) -> bytes:
    head = [f"data_{name}", "", "loop_", *(f"_{label} #{i}" for i, label in enumerate(labels, 1))]
    return "\n".join([*head, *lines, "", ""]).encode("utf-8", "surrogateescape")


def _star_of_table(
    table: ParticleTable, merged: _Merged, sizes_A: np.ndarray, box_px: int
) -> Iterator[bytes]:
    """Make a STAR file of a set that came in other files."""
    groups, optics = _optics(table, sizes_A, box_px)
    columns = {
        "rlnDefocusU": table.defocus_u_A,
        "rlnDefocusV": table.defocus_v_A,
        "rlnDefocusAngle": deg_from_rad(table.defocus_angle_rad),
        "rlnPhaseShift": deg_from_rad(table.phase_shift_rad),
        "rlnCtfBfactor": table.ctf_bfactor_A2,
        "rlnCtfScalefactor": table.ctf_scale,
        **merged.values,
    }
    numbers = np.stack(list(columns.values()), axis=1)
    is_usable = np.isfinite(numbers).all(axis=1) & (table.image_index != UNREADABLE_IMAGE)
    merged.warn_of_others(merged.values, is_usable)
    _warn_of_left_out(int((~is_usable).sum()), len(table), "cannot be used")
    yield b"\n" + optics
    yield _star_table("particles", ["rlnImageName", "rlnOpticsGroup", *columns], [])[:-1]
    pattern = " ".join(["%s", "%d", *["%.6f"] * len(columns)]) + "\n"
    for row in np.flatnonzero(is_usable).tolist():
        line = pattern % (_image_name(table, row), groups[row], *numbers[row])
        yield line.encode("utf-8", "surrogateescape")


def _image_name(table: ParticleTable, row: int) -> str:
    """Name of an image without cryoSPARC's mark, in quotes where it has a blank."""
    name = table.image_name(row).replace("@>", "@", 1).removeprefix(">")
    return f'"{name}"' if " " in name else name


def _warn_of_left_out(n: int, n_rows: int, why: str) -> None:
    if n:
        warnings.warn(
            f"{counted(n, 'row')} of {n_rows:,} {why} and are not in the scored STAR file.",
            CryoLikeWarning,
            stacklevel=4,
        )


# cryoSPARC files


def rotation_vectors(poses: RelionPoses) -> np.ndarray:
    """Convert orientations to ``alignments3D/pose``.

    Parameters
    ----------
    poses
        Of n images.

    Returns
    -------
    ndarray
        Axis times angle, radians, (n, 3), of the rotation A⁻¹ that takes the frame of the image to
        the reference, where A(rot, tilt, psi) takes the reference to the frame of the image.
    """
    angles_deg = np.stack([poses.rot_deg, poses.tilt_deg, poses.psi_deg], axis=1)
    vectors: np.ndarray = _from_euler(angles_deg).as_rotvec()
    return vectors


def _from_euler(angles_deg: np.ndarray) -> Rotation:
    # scipy turns objects where A turns frames, so this is A⁻¹
    return Rotation.from_euler("ZYZ", angles_deg, degrees=True)


def _check_fields(source: np.ndarray) -> None:
    """Refuse fields that cannot hold a pose, which reading the set has refused before."""
    for name, (_, *shape) in _NEW_FIELDS.items():
        if name in (source.dtype.names or ()):
            field = source.dtype[name]
            if field.base.kind != "f" or field.shape != tuple(*shape):
                msg = f"{name} is of type {field}, which is not what cryoSPARC writes."
                raise MetadataError(msg)


def _pixel_sizes(source: np.ndarray, sizes_A: np.ndarray) -> np.ndarray:
    """Pixel size, Å, that shifts are counted in, which need not be that of the images."""
    if POSE_PIXEL_SIZE not in (source.dtype.names or ()):
        return sizes_A
    own: np.ndarray = source[POSE_PIXEL_SIZE].astype(np.float64)
    return np.where(np.isfinite(own) & (own > 0), own, sizes_A)


def _write_cs(
    out: io.BufferedIOBase, source: np.ndarray, merged: _Merged, sizes_A: np.ndarray
) -> None:
    """Copy a .cs file with other poses, a part at a time."""
    names = source.dtype.names or ()
    new = [(name, *spec) for name, spec in _NEW_FIELDS.items() if name not in names]
    dtype = np.dtype([*((name, source.dtype[name]) for name in names), *new])
    _write_header(out, dtype, len(source))
    units_A, poses = _pixel_sizes(source, sizes_A), merged.poses
    origins_A = np.stack([poses.origin_x_A, poses.origin_y_A], axis=1)
    vectors, shifts = rotation_vectors(poses), origins_A / units_A[:, None]
    for start in range(0, len(source), ROWS_AT_ONCE):
        part = slice(start, start + ROWS_AT_ONCE)
        block = np.zeros(len(source[part]), dtype=dtype)
        for name in names:
            block[name] = source[part][name]
        for name, values in ((POSE, vectors), (SHIFT, shifts), (POSE_PIXEL_SIZE, units_A)):
            # What other rows have of a new field can come from a passthrough file
            is_set = merged.is_found[part] if name in names else np.ones(len(block), dtype=bool)
            block[name][is_set] = values[part][is_set]
        out.write(block.tobytes())


def _write_header(out: io.BufferedIOBase, dtype: np.dtype[Any], n_rows: int) -> None:
    """Write what stands before the rows, as numpy.save does."""
    content = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": (n_rows,),
    }
    is_short = len(str(content)) < 60_000
    write = (
        np.lib.format.write_array_header_1_0 if is_short else np.lib.format.write_array_header_2_0
    )
    write(out, content)
