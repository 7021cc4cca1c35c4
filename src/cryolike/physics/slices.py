"""Central slices: the Fourier transform of a structure at the polar points of any view.

By the projection theorem the transform of a projection is the slice of the structure's transform
that is perpendicular to the view. A structure is a density on voxels here; atoms are sampled so
that their transform is kept (see `cryolike.physics.atom_grid`). Voxels are Fourier transformed at
any points by finufft, which needs one large FFT a call, so that many views go into each.
"""

from __future__ import annotations

import math

import finufft
import numpy as np
from jaxtyping import Complex, Float

from cryolike.descriptor import ImageDescriptor, Precision
from cryolike.errors import Problem, UsageError
from cryolike.physics.atom_grid import VoxelDensity, density_of_atoms, voxels_for_atoms
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.scattering import AtomicModel, DensityMap
from cryolike.threads import n_usable_cores

__all__ = ["CentralSlices", "check_memory"]

_TOLERANCE = {Precision.SINGLE: 1e-6, Precision.DOUBLE: 1e-12}
_TOLERANCE_OF_ATOMS = {Precision.SINGLE: 3e-6, Precision.DOUBLE: 3e-10}
_PADDINGS = {Precision.SINGLE: (2.0, 1.25), Precision.DOUBLE: (2.0,)}
"""How much finufft pads. Less takes less memory and a wider, slower kernel."""

_BYTES_OF_POINT = 3 * 8 + 16 + 8
"""Coordinates and value of a point, and its place when finufft has sorted them.

All is computed in double precision: coordinates in single precision alone cost errors of 1e-5.
"""

_MOST_POINTS_PER_VOXEL = 4
"""Points of a batch per point of the padded grid: enough for the FFT to take little of the time."""


class CentralSlices:
    """Slices of one structure on the polar grid of a descriptor.

    The slice of a view with matrix A is F(k, θ) = ∫ ρ(r) exp(−2πi s·r) dr at s = Aᵀ (s cos θ,
    s sin θ, 0), with s = 2k/L. Beyond the Nyquist frequency of a map it is zero.

    Parameters
    ----------
    structure
        Atoms, or a map of any voxel size and box.
    descriptor
        Grids; single precision stands for a relative L2 error below 5e-6, double for 1e-10.
    memory_bytes
        What the work may take, the slices of `n_views_at_once` views included.
    n_threads
        Threads to use; all cores that the process may use where it is not given.

    Raises
    ------
    UsageError
        Where the memory is not enough for a single view.
    """

    def __init__(
        self,
        structure: AtomicModel | DensityMap,
        descriptor: ImageDescriptor,
        *,
        memory_bytes: float = 2e9,
        n_threads: int | None = None,
    ) -> None:
        n_threads = n_usable_cores() if n_threads is None else n_threads
        polar, self._precision = descriptor.polar_grid, descriptor.precision
        self._shape = polar.n_shells, polar.n_inplanes
        frequency_per_A = _frequencies_per_A(descriptor)
        if isinstance(structure, AtomicModel):
            density = density_of_atoms(
                structure,
                float(frequency_per_A[-1]),
                _TOLERANCE_OF_ATOMS[self._precision],
                n_threads,
                memory_bytes,
            )
        else:
            density = VoxelDensity(_without_margins(structure.values), structure.voxel_size_A)
        voxel_A = density.voxel_size_A
        self._n_known, n_angles = _computed_points(descriptor, voxel_A)
        self._has_opposites = n_angles < polar.n_inplanes
        theta_rad = polar.theta_shell[:n_angles]
        radians = 2 * np.pi * voxel_A * frequency_per_A[: self._n_known]
        directions = np.stack([np.cos(theta_rad), np.sin(theta_rad)])
        self._plane = (directions[:, None, :] * radians[:, None]).reshape(2, -1)
        self._values = density.values.astype(np.complex128) * voxel_A**3
        shape, of_view = self._values.shape, _bytes_of_view(descriptor, self._plane.shape[1])
        padding, n_views = _padding_and_views(
            structure.name, shape, of_view, self._precision, memory_bytes
        )
        n_padded = _n_padded(shape, padding)
        enough = math.ceil(_MOST_POINTS_PER_VOXEL * n_padded / max(1, self._plane.shape[1]))
        self.n_views_at_once = min(n_views, enough)
        """Views that one FFT serves within the memory allowed."""
        self._transform = finufft.Plan(
            2,
            shape,
            1,
            _TOLERANCE[self._precision],
            -1,
            "complex128",
            nthreads=n_threads,
            upsampfac=padding,
            showwarn=0,  # it would print where OMP_NUM_THREADS is lower
        )

    @property
    def n_shells_known(self) -> int:
        """Shells that the structure has data for: those up to its Nyquist frequency."""
        return self._n_known

    @property
    def at_zero(self) -> float:
        """Integral of the structure, F(0): the same in every view."""
        return float(self._values.real.sum())

    def __call__(
        self, euler_rad: Float[np.ndarray, "n_views 3"]
    ) -> Complex[np.ndarray, "n_views n_shells n_inplanes"]:
        """Slices of views.

        Parameters
        ----------
        euler_rad
            RELION's angles rot, tilt, psi, (n_views, 3).

        Returns
        -------
        ndarray
            (n_views, n_shells, n_inplanes), complex64 or complex128 as the precision.
        """
        dtype = np.complex64 if self._precision is Precision.SINGLE else np.complex128
        slices = np.zeros((len(euler_rad), *self._shape), dtype=dtype)
        if self._n_known:
            for start in range(0, len(euler_rad), self.n_views_at_once):
                part = slice(start, start + self.n_views_at_once)
                self._fill(slices[part, : self._n_known], rotation_matrices(euler_rad[part]))
        return slices

    def _fill(self, slices: np.ndarray, matrices: np.ndarray) -> None:
        """Put in the slices of a batch, whose points are all given to finufft at once."""
        points = np.empty((3, len(matrices), self._plane.shape[1]))
        for i, matrix in enumerate(matrices):
            np.matmul(matrix[:2].T, self._plane, out=points[:, i])
        x, y, z = points.reshape(3, -1)
        self._transform.setpts(z, y, x)
        values = self._transform.execute(self._values).reshape(len(matrices), self._n_known, -1)
        n_angles = values.shape[2]
        slices[:, :, :n_angles] = values
        if self._has_opposites:
            np.conjugate(slices[:, :, :n_angles], out=slices[:, :, n_angles:])


def check_memory(
    structure: AtomicModel | DensityMap, descriptor: ImageDescriptor, memory_bytes: float
) -> None:
    """Check that slices can be made within the memory allowed, without making them.

    Parameters
    ----------
    structure, descriptor, memory_bytes
        As for `CentralSlices`.

    Raises
    ------
    UsageError
        Where `CentralSlices` would.
    """
    precision = descriptor.precision
    shape: tuple[int, ...]
    if isinstance(structure, AtomicModel):
        farthest_per_A = float(_frequencies_per_A(descriptor)[-1])
        tolerance = _TOLERANCE_OF_ATOMS[precision]
        side, voxel_A = voxels_for_atoms(structure, farthest_per_A, tolerance, memory_bytes)
        shape = (side,) * 3
    else:
        shape, voxel_A = _without_margins(structure.values).shape, structure.voxel_size_A
    of_view = _bytes_of_view(descriptor, math.prod(_computed_points(descriptor, voxel_A)))
    _padding_and_views(structure.name, shape, of_view, precision, memory_bytes)


def _frequencies_per_A(descriptor: ImageDescriptor) -> np.ndarray:
    """Spatial frequency of each shell."""
    shells: np.ndarray = descriptor.polar_grid.radius_shells
    return 2 * shells / descriptor.cartesian_grid.box_size_A


def _computed_points(descriptor: ImageDescriptor, voxel_size_A: float) -> tuple[int, int]:
    """Shells up to the Nyquist frequency of voxels, and angles whose opposites are not computed."""
    nyquist_per_A = 1 / (2 * voxel_size_A) * (1 + 1e-9)
    n_angles = descriptor.polar_grid.n_inplanes
    n_known = int(np.searchsorted(_frequencies_per_A(descriptor), nyquist_per_A))
    return n_known, n_angles // 2 if n_angles % 2 == 0 else n_angles


def _bytes_of_view(descriptor: ImageDescriptor, n_points: int) -> int:
    return n_points * _BYTES_OF_POINT + descriptor.polar_image_bytes


def _n_padded(shape: tuple[int, ...], padding: float) -> int:
    return math.prod(math.ceil(padding * side) for side in shape)


def _padding_and_views(
    name: str, shape: tuple[int, ...], of_view: int, precision: Precision, memory_bytes: float
) -> tuple[float, int]:
    """Choose how much to pad, and count the views that fit in memory at once."""
    for padding in _PADDINGS[precision]:
        taken = 16 * (math.prod(shape) + _n_padded(shape, padding))
        n_views = int((memory_bytes - taken) // of_view)
        if n_views > 0 and taken < memory_bytes / 2:
            break
    if n_views < 1:
        message = (
            f"{name}: slices of {'×'.join(map(str, shape))} voxels need "
            f"{(taken + of_view) / 1e9:.2g} GB of memory, more than the "
            f"{memory_bytes / 1e9:.2g} GB allowed"
        )
        remedy = "Allow more with --memory (memory_bytes), or give a smaller map."
        raise UsageError(Problem(message=message, remedy=remedy, kind="usage"))
    return padding, n_views


def _without_margins(values: np.ndarray) -> np.ndarray:
    """Leave out what is zero around a map, as much on both sides of the middle."""
    cut = []
    for axis, n in enumerate(values.shape):
        others = tuple(other for other in range(3) if other != axis)
        filled = np.flatnonzero(values.any(axis=others)) - n // 2
        half = int(np.abs(filled).max(initial=0))
        cut.append(slice(max(0, n // 2 - half), n // 2 + half + 1))
    return values[tuple(cut)]
