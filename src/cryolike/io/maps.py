"""Densities out of MRC files and arrays, checked."""

from __future__ import annotations

import math
import os
import warnings
import zlib
from typing import Any

import numpy as np
import torch

from cryolike.errors import (
    CryoLikeWarning,
    ImageError,
    Problem,
    UsageError,
    counted,
    raise_problems,
)
from cryolike.io.mrc_header import (
    MOST_BYTES_OF_ONE,
    HeaderFields,
    decompressor,
    open_stack,
    read_header_fields,
    stack_error,
    unreadable,
)
from cryolike.physics.scattering import DensityMap

__all__ = ["density_from_array", "read_map"]

_WANTED = "a map in MRC format, or atoms as PDB or mmCIF"
_VOXEL_SIZE_TOLERANCE = 1e-3
_MAX_VOXELS = 1024**3
_CHUNK_BYTES = 1 << 20
_COPY_AGAIN = "Copy or write the file again."

_FIRST_OF_VOLUME_STACKS = 401
"""Space groups from here to 630 mark stacks of volumes; 0 marks a stack of images."""


def read_map(path: str | os.PathLike[str], name: str, voxel_size_A: float | None) -> DensityMap:
    """Read a density from an MRC file.

    What the header says of the origin is ignored, with a warning: the origin is voxel floor(n/2)
    of each axis. Other axis orders than x, y, z are put right.

    Parameters
    ----------
    path
        An MRC file, as it is or compressed with gzip or bzip2.
    name
        Of the structure.
    voxel_size_A
        Edge of a voxel, Å, where the header gives none.

    Raises
    ------
    MissingFileError
        If there is no such file.
    StackError
        If it is no MRC file, cut off or damaged, no map of cubic voxels, or has no voxel size.
    ImageError
        If values are NaN or infinite, or all are equal.
    """
    header = read_header_fields(path, _WANTED)
    shape, order = _checked_shape(header)
    voxel_A = _voxel_size_A(header, voxel_size_A)
    for message in (*map(str, header.order_notices), *_ignored_words(header)):
        warnings.warn(f"{header.path}: {message}.", CryoLikeWarning, stacklevel=2)
    stored = _read_values(header, shape)
    values = np.ascontiguousarray(stored.transpose(order), dtype=np.float32)
    return _checked_density(values, voxel_A, name, header.path)


def density_from_array(
    values: np.ndarray | torch.Tensor, name: str, voxel_size_A: float | None
) -> DensityMap:
    """Take an array or a tensor as a density.

    Parameters
    ----------
    values
        Density, real, axes z, y, x.
    name
        Of the structure.
    voxel_size_A
        Edge of a voxel, Å.

    Raises
    ------
    UsageError
        Where it is not a real, three-dimensional array, or there is no voxel size.
    ImageError
        If values are NaN or infinite, or all are equal.
    """
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu().resolve_conj().numpy()
    problems = []
    if values.ndim != 3 or min(values.shape) < 2:
        shape = " × ".join(map(str, values.shape)) or "a single number"
        problems.append((f"its shape is {shape}", "Give a density with axes z, y, x."))
    if values.dtype.kind not in "fiub":
        problems.append((f"it holds {values.dtype}", "Give real numbers."))
    if voxel_size_A is None or not (math.isfinite(voxel_size_A) and voxel_size_A > 0):
        problems.append((f"its voxel size is {voxel_size_A}", "Give it in Å."))
    if problems or voxel_size_A is None:
        raise UsageError(
            Problem(message=f"{name} is no density: {message}", remedy=remedy, kind="usage")
            for message, remedy in problems
        )
    with np.errstate(over="ignore"):  # too large values become infinite, which is checked
        as_single = np.ascontiguousarray(values, dtype=np.float32)
    return _checked_density(as_single, voxel_size_A, name, name)


def _checked_density(values: np.ndarray, voxel_size_A: float, name: str, place: str) -> DensityMap:
    """Check the values themselves.

    Raises
    ------
    ImageError
        If values are NaN or infinite, or all are equal.
    """
    n_bad = values.size - int(np.count_nonzero(np.isfinite(values)))
    if n_bad:
        message = f"{counted(n_bad, 'voxel')} of {values.size:,} are NaN or infinite"
        raise _bad_values(place, message, "Repair the map, or set those voxels to zero.")
    if values.min() == values.max():
        message = f"all voxels are {values.flat[0]:g}: there is no density"
        raise _bad_values(place, message, "Check that it is the map you mean.")
    return DensityMap(name=name, values=values, voxel_size_A=voxel_size_A)


def _bad_values(place: str, message: str, remedy: str) -> ImageError:
    return ImageError(Problem(message=message, remedy=remedy, file=place, kind="image"))


def _checked_shape(header: HeaderFields) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the shape as stored, and the order of its axes that makes them z, y, x.

    Raises
    ------
    StackError
        If it is no map, or larger than any that is of use.
    """
    fields = header.fields
    nx, ny, nz = (int(fields[axis]) for axis in ("nx", "ny", "nz"))
    sizes = f"{nx:,} × {ny:,} × {nz:,} voxels"
    problems = []
    if min(nx, ny, nz) < 1 or nx * ny * nz > _MAX_VOXELS:
        problems.append((f"has a header that says {sizes}", "Bin it, or write it again."))
    elif min(nx, ny, nz) == 1:
        problems.append((f"is no density map: {sizes}, one section", "Give a 3-D map."))
    space_group = int(fields["ispg"])
    if space_group >= _FIRST_OF_VOLUME_STACKS:
        message = f"holds several maps (space group {space_group})"
        problems.append((message, "Give one map a file."))
    elif space_group == 0 and not nx == ny == nz and not problems:
        message = f"is marked as a stack of images (space group 0): {sizes}"
        problems.append((message, "Give a map; if it is one, set the space group to 1."))
    columns_rows_sections = tuple(int(fields[name]) for name in ("mapc", "mapr", "maps"))
    if columns_rows_sections == (0, 0, 0):
        columns_rows_sections = (1, 2, 3)
    elif sorted(columns_rows_sections) != [1, 2, 3]:
        message = f"has impossible axes (mapc, mapr, maps) {columns_rows_sections}"
        problems.append((message, _COPY_AGAIN))
    raise_problems(_map_problem(header, *problem) for problem in problems)
    stored_axis = {axis: 2 - i for i, axis in enumerate(columns_rows_sections)}
    return (nz, ny, nx), (stored_axis[3], stored_axis[2], stored_axis[1])


def _map_problem(header: HeaderFields, message: str, remedy: str) -> Problem:
    return Problem(message=message, remedy=remedy, file=header.path, kind="stack")


def _voxel_size_A(header: HeaderFields, given_A: float | None) -> float:
    """Edge of a voxel, Å.

    Raises
    ------
    StackError
        If voxels are not cubes, or neither the header nor the caller knows their size.
    """
    angles_deg = [float(header.fields["cellb"][name]) for name in ("alpha", "beta", "gamma")]
    if any(angle not in (0.0, 90.0) for angle in angles_deg):
        angles = ", ".join(f"{angle:g}°" for angle in angles_deg)
        remedy = "Resample it to cubic voxels."
        raise stack_error(header.path, f"has axes that are not orthogonal: {angles}", remedy)
    sizes_A = np.array(header.spacing_A)
    known_A = sizes_A[np.isfinite(sizes_A)]
    if known_A.size and np.ptp(known_A) > _VOXEL_SIZE_TOLERANCE * known_A.max():
        sizes = " × ".join(f"{size:g}" for size in sizes_A)
        message = f"has voxels of {sizes} Å (x, y, z); only cubic ones can be used"
        raise stack_error(header.path, message, "Resample it to cubic voxels.")
    if known_A.size:
        return float(known_A[0])
    if given_A is None:
        message = "has no voxel size in its header"
        raise stack_error(header.path, message, "Give the voxel size in Å, or write it into it.")
    message = f"{header.path}: no voxel size in the header; {given_A:g} Å is taken."
    warnings.warn(message, CryoLikeWarning, stacklevel=3)
    return given_A


def _ignored_words(header: HeaderFields) -> list[str]:
    """Say what of the header is not used."""
    fields = header.fields
    origin_A = tuple(float(fields["origin"][axis]) for axis in "xyz")
    start = tuple(int(fields[f"n{axis}start"]) for axis in "xyz")
    centre = "; the origin is the voxel in the middle, floor(n/2) of each axis"
    ignored = []
    if any(origin_A):
        shown = ", ".join(f"{value:g}" for value in origin_A)
        ignored.append(f"the origin in the header, ({shown}) Å, is ignored{centre}")
    if any(start):
        ignored.append(f"the first voxel in the header, {start}, is ignored{centre}")
    return ignored


def _read_values(header: HeaderFields, shape: tuple[int, int, int]) -> np.ndarray:
    """Read just the values that the header promises, as they are stored.

    Raises
    ------
    StackError
        If there are fewer, or more in compressed data, or if the data are damaged.
    """
    n_skipped, n_bytes = header.data_offset, math.prod(shape) * header.dtype.itemsize
    n_most = MOST_BYTES_OF_ONE.get(header.compression, 1) * header.file_size
    if int(header.fields["nsymbt"]) < 0 or n_most < n_skipped + n_bytes:
        raise _cut_off(header, header.file_size, n_skipped + n_bytes)
    values = np.empty(shape, header.dtype)
    with open_stack(header.path, _WANTED) as file:
        try:
            if header.compression:
                with decompressor(file, header.compression) as stream:
                    n_read = _skip(stream, n_skipped) + _fill(stream, values)
                    has_more = bool(stream.read(1))  # verifies checksums, too
            else:
                file.seek(n_skipped)
                n_read, has_more = n_skipped + _fill(file, values), False
        except (OSError, EOFError, zlib.error) as error:
            raise unreadable(header.path, header.compression, error) from error
    if n_read < n_skipped + n_bytes:
        raise _cut_off(header, n_read, n_skipped + n_bytes)
    if has_more:
        message = f"expands beyond the {n_skipped + n_bytes:,} bytes that its header says"
        raise stack_error(header.path, message, _COPY_AGAIN)
    if not header.compression and header.file_size > n_skipped + n_bytes:
        message = f"{header.path}: longer than its header says; the rest is not read."
        warnings.warn(message, CryoLikeWarning, stacklevel=3)
    return values


def _skip(stream: Any, n_bytes: int) -> int:
    """Read over bytes; return how many there were."""
    n_done = 0
    while n_done < n_bytes and (chunk := stream.read(min(_CHUNK_BYTES, n_bytes - n_done))):
        n_done += len(chunk)
    return n_done


def _fill(stream: Any, values: np.ndarray) -> int:
    """Fill an array with bytes; return how many there were."""
    memory = values.data.cast("B")
    n_done = 0
    while n_done < memory.nbytes:
        n_read = stream.readinto(memory[n_done : n_done + _CHUNK_BYTES])
        if not n_read:
            break
        n_done += n_read
    return n_done


def _cut_off(header: HeaderFields, n_bytes: int, n_promised: int) -> Exception:
    of = f"{header.compression} data" if header.compression else "bytes"
    message = f"is cut off or damaged: {n_bytes:,} {of}, {n_promised:,} bytes by its header"
    return stack_error(header.path, message, _COPY_AGAIN)
