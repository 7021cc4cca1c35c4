"""Structures out of files and arrays: density maps and atomic models."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np
import torch

from cryolike.descriptor import PIXEL_SIZE_TOLERANCE, ImageDescriptor
from cryolike.errors import CryoLikeWarning, ImageError, Problem, UsageError
from cryolike.io.atoms import decompressed_head, is_binary, read_atoms
from cryolike.io.maps import density_from_array, read_map
from cryolike.io.models import AtomSettings, atomic_model
from cryolike.io.sniff import recognise
from cryolike.physics.scattering import AtomicModel, DensityMap

__all__ = [
    "AtomSettings",
    "AtomicModel",
    "DensityMap",
    "StructureSource",
    "check_fits",
    "read_structure",
    "structure_name",
    "voxels_inside",
]

StructureSource = str | os.PathLike[str] | np.ndarray | torch.Tensor

_COMPRESSED_ENDINGS = (".gz", ".bz2")
_MAX_LOST_POWER = 0.01


def structure_name(source: StructureSource, index: int = 0) -> str:
    """Name of an input: its file's without folder and ending, or ``tensor_I`` of an array.

    Parameters
    ----------
    source
        A path, or a density.
    index
        Which input it is, from 0.
    """
    if not isinstance(source, str | os.PathLike):
        return f"tensor_{index}"
    path = Path(source)
    return (path.with_suffix("") if path.suffix.lower() in _COMPRESSED_ENDINGS else path).stem


def read_structure(
    source: StructureSource,
    settings: AtomSettings | None = None,
    *,
    voxel_size_A: float | None = None,
    name: str | None = None,
) -> AtomicModel | DensityMap:
    """Read a structure: an atomic model or a density map.

    Of a coordinate file the first model is taken, as it stands in the file: no symmetry or
    assembly is applied. Beads take the first of alternative conformations, and their occupancies
    are not used; atoms take all of them, weighted by occupancy. Waters and hydrogens count if they
    are selected: 'all' takes them too.

    Parameters
    ----------
    source
        Path of a PDB or mmCIF file, or of an MRC map, each also compressed with gzip or bzip2; its
        content tells its format. Or a density, real, axes z, y, x.
    settings
        For atomic models; the default ones if None.
    voxel_size_A
        Edge of a voxel of a density in memory, Å; also that of a map whose header has none.
    name
        Of the structure; `structure_name` of the source if None.

    Returns
    -------
    AtomicModel or DensityMap
        Checked; doubtful values are warnings.

    Raises
    ------
    UsageError
        Where a density in memory cannot be used, or the selection takes no atom.
    MissingFileError
        If there is no such file.
    MetadataError, StackError, ImageError
        If a file is damaged or cannot be used as it is.
    """
    name = structure_name(source) if name is None else name
    if not isinstance(source, str | os.PathLike):
        return density_from_array(source, name, voxel_size_A)
    path = Path(source)
    head = decompressed_head(path)
    if is_binary(head) and recognise(head) is None:
        return read_map(path, name, voxel_size_A)
    return atomic_model(read_atoms(path), settings or AtomSettings(), name)


def check_fits(structure: AtomicModel | DensityMap, descriptor: ImageDescriptor) -> None:
    """Check that the box of images holds a structure at every orientation.

    An atomic model has to lie within the largest sphere in the box. A map may be larger, but
    where more than one per cent of its power is outside the box, that is a warning.

    Parameters
    ----------
    structure
        Centred at the middle of the box.
    descriptor
        Of the images.

    Raises
    ------
    UsageError
        Where an atomic model does not fit; the message says what box it needs.
    ImageError
        Where all density of a map lies outside.
    """
    grid = descriptor.cartesian_grid
    if isinstance(structure, DensityMap):
        _check_not_empty(structure, grid.box_size_A)
        lost = _power_outside(structure, grid.box_size_A)
        if lost > _MAX_LOST_POWER:
            message = (
                f"{structure.name}: {lost:.1%} of the map's power lies outside the box of "
                f"{grid.box_size_A:g} Å and is cut off."
            )
            warnings.warn(message, CryoLikeWarning, stacklevel=2)
        return
    needed_A = 2 * structure.extent_A
    if needed_A <= grid.box_size_A:
        return
    raise UsageError(
        Problem(
            message=f"{structure.name} does not fit in the box: from its centre it reaches "
            f"{structure.extent_A:.1f} Å, the box of {grid.side_px} pixels holds "
            f"{grid.box_size_A / 2:g} Å",
            remedy=f"Use images of at least {needed_A:.0f} Å, that is "
            f"{math.ceil(needed_A / grid.pixel_size_A)} pixels of {grid.pixel_size_A:g} Å, or "
            "select fewer atoms.",
            kind="usage",
        )
    )


def voxels_inside(density: DensityMap, box_A: float) -> tuple[slice, slice, slice]:
    """Tell which voxels of a map lie in a cube around its centre.

    Parameters
    ----------
    density
        The map.
    box_A
        Edge of the cube, Å.

    Returns
    -------
    tuple of slice
        Along z, y and x. A cut that is as long on both sides leaves an odd number of voxels, whose
        middle is the origin.
    """
    half_A = box_A / 2 * (1 + PIXEL_SIZE_TOLERANCE)
    found = [
        np.flatnonzero(np.abs(np.arange(n) - n // 2) * density.voxel_size_A <= half_A)
        for n in density.values.shape
    ]
    z, y, x = (slice(int(axis[0]), int(axis[-1]) + 1) for axis in found)
    return z, y, x


def _check_not_empty(density: DensityMap, box_A: float) -> None:
    inside = density.values[voxels_inside(density, box_A)]
    if inside.min() < inside.max():
        return
    size_A = " × ".join(f"{n * density.voxel_size_A:g}" for n in density.values.shape[::-1])
    raise ImageError(
        Problem(
            message=f"there is no density in the box: of the map of {size_A} Å the innermost "
            f"{box_A:g} Å are all {inside.flat[0]:g}",
            remedy="Check that it is the map you mean, its voxel size, and that the particle is in "
            "its middle.",
            file=density.name,
            kind="image",
        )
    )


def _power_outside(density: DensityMap, box_A: float) -> float:
    """Fraction of the power about the mean of its faces that lies outside a centred cube."""
    values = density.values
    in_z, in_y, in_x = voxels_inside(density, box_A)
    if values[in_z, in_y, in_x].shape == values.shape:
        return 0.0
    faces = [values.take(end, axis) for axis in range(3) for end in (0, -1)]
    ground = np.float32(np.mean([face.mean(dtype=np.float64) for face in faces]))
    total = kept = 0.0
    for i, section in enumerate(values):  # one at a time: maps can be large
        power = np.square(section - ground)
        total += float(power.sum(dtype=np.float64))
        if in_z.start <= i < in_z.stop:
            kept += float(power[in_y, in_x].sum(dtype=np.float64))
    return 1 - kept / total
