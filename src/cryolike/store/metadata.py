"""What is stored about each image of a stack: published keys, and ours besides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cryolike.descriptor import ImageDescriptor
from cryolike.particles import ParticleTable

__all__ = ["CTF_COLUMNS", "ImageStatistics", "arrays_of_stack", "frame_of_arrays"]

_PER_IMAGE = {
    "defocusU": "defocus_u_A",
    "defocusV": "defocus_v_A",
    "defocusAngle": "defocus_angle_rad",
    "phaseShift": "phase_shift_rad",
    "ctfBfactor": "ctf_bfactor_A2",
    "ctfScalefactor": "ctf_scale",
}
_PER_OPTICS = {
    "sphericalAberration": "spherical_aberration_mm",
    "voltage": "voltage_kV",
    "amplitudeContrast": "amplitude_contrast",
}
CTF_COLUMNS = (*_PER_IMAGE.values(), *_PER_OPTICS.values())
"""Columns of the tables that the CTF depends on."""

_OPTIONAL = {
    "angleRotation": "rot_rad",
    "angleTilt": "tilt_rad",
    "anglePsi": "psi_rad",
    "origin_x_A": "origin_x_A",
    "origin_y_A": "origin_y_A",
    "uid": "uid",
    "class_label": "class_label",
    "optics_group": "optics_group",
}
_STATISTICS = ("contrast_factor", "image_mean", "image_largest", "polar_norm")


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageStatistics:
    """What was divided out of each image; float64, (n_images,) each.

    The pixels were (original · contrast_factor − image_mean) / image_largest, and the polar image
    is their transform divided by polar_norm.

    Parameters
    ----------
    contrast_factor
        +1 or −1.
    image_mean, image_largest
        Mean, and largest absolute value after it was subtracted.
    polar_norm
        Square root of the integral of |F|².
    """

    contrast_factor: np.ndarray
    image_mean: np.ndarray
    image_largest: np.ndarray
    polar_norm: np.ndarray


def arrays_of_stack(
    table: ParticleTable,
    descriptor: ImageDescriptor,
    statistics: ImageStatistics,
    image_paths: Sequence[str],
) -> dict[str, np.ndarray]:
    """Collect what the ``.npz`` of a stack holds.

    Parameters
    ----------
    table
        Rows of this stack.
    descriptor
        Of the images.
    statistics
        Parallel to `table`.
    image_paths
        Where each of the table's `image_files` was found.

    Returns
    -------
    dict of str to ndarray
        An absent value is an array of size 0.
    """
    n_images = len(table)
    arrays = descriptor.to_arrays()
    for key, name in _PER_IMAGE.items():
        arrays[key] = getattr(table, name)
    for key, name in _PER_OPTICS.items():
        arrays[key] = _one_if_equal(getattr(table, name))
    for key, name in _OPTIONAL.items():
        column = getattr(table, name)
        arrays[key] = np.array([]) if column is None else column
    is_known = bool(np.isfinite(table.pixel_size_A).all())
    arrays["ref_pixel_size"] = _one_if_equal(table.pixel_size_A) if is_known else np.array([])
    arrays["files"] = np.array(image_paths, dtype=np.str_)[table.image_file_index]
    arrays["idxs"] = table.image_index
    arrays["n_images"] = np.array(n_images)
    if table.kind == "paired":
        arrays["stack_start"] = np.array(table.image_index.min())
        arrays["stack_end"] = np.array(table.image_index.max() + 1)
    arrays["metadata_files"] = np.array(
        [str(Path(file).absolute()) for file in table.metadata_files], dtype=np.str_
    )
    arrays["metadata_index"] = table.metadata_index
    arrays["source_row"] = table.source_row
    for key in _STATISTICS:
        arrays[key] = getattr(statistics, key)
    return arrays


def frame_of_arrays(arrays: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Make one row an image from the arrays of a stack.

    Parameters
    ----------
    arrays
        As `arrays_of_stack` makes them.

    Returns
    -------
    pandas.DataFrame
        Columns named with their units; optional ones only where the stack has them.
    """
    n_images = int(arrays["n_images"])
    columns: dict[str, np.ndarray] = {
        "metadata_file": arrays["metadata_files"][arrays["metadata_index"]],
        "source_row": arrays["source_row"],
        "image_file": arrays["files"],
        "image_index": arrays["idxs"],
    }
    for key, name in (_PER_IMAGE | _PER_OPTICS).items():
        columns[name] = np.broadcast_to(arrays[key], (n_images,))
    for key, name in (_OPTIONAL | {"ref_pixel_size": "pixel_size_A"}).items():
        if arrays[key].size:
            columns[name] = np.broadcast_to(arrays[key], (n_images,))
    for key in _STATISTICS:
        columns[key] = arrays[key]
    return pd.DataFrame(columns)


def _one_if_equal(column: np.ndarray) -> np.ndarray:
    """One number where a column is the same for all images."""
    return np.array(column[0]) if column.size and bool(np.all(column == column[0])) else column
