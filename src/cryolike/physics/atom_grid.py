"""Atoms as a density on voxels whose Fourier transform is theirs, up to a given frequency.

The transform F(s) of an atomic model is known at every frequency. It is computed on a Cartesian
grid of frequencies, cut off smoothly above the largest one that counts, and transformed back. What
comes out is the model blurred by a window that changes nothing up to that frequency; the smoother
the cut, the faster the blur falls off. Sampled on a grid that holds all but a given fraction of
it, it gives F(s) at any point, however many kinds of atoms there are, for the cost of one map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import finufft
import numpy as np
from jaxtyping import Float
from numpy.polynomial import Chebyshev
from scipy.fft import dst, ifftn, ifftshift, next_fast_len
from scipy.special import i0e

from cryolike.errors import Problem, UsageError
from cryolike.physics.scattering import (
    AtomicModel,
    FormFactors,
    SeparableFormFactors,
    separable,
)

__all__ = ["SmoothCut", "VoxelDensity", "density_of_atoms", "voxels_for_atoms"]

_RATIOS = (1.2, 1.35, 1.5, 1.75)
_SHARPNESSES = (0.7, 0.85, 1.0, 1.2)
"""Of the cut, as fractions of −log(tolerance)."""
_POINTS_OF_CUT = 80
_FINEST_WITH_NARROW_PADDING = 1e-7


@dataclass(frozen=True, eq=False)
class VoxelDensity:
    """A density on cubic voxels; the origin is voxel floor(n/2) of each axis.

    Parameters
    ----------
    values
        Density per Å³, axes z, y, x.
    voxel_size_A
        Edge of a voxel, Å.
    """

    values: Float[np.ndarray, "nz ny nx"]
    voxel_size_A: float


@dataclass(frozen=True)
class SmoothCut:
    """A function of frequency that is 1 up to one frequency and falls smoothly to 0 at another.

    Its slope is a Kaiser window, whose transform falls off faster than that of any other bump of
    the same width, nearly.

    Parameters
    ----------
    pass_per_A
        Up to here it is 1.
    stop_per_A
        From here on it is 0.
    sharpness
        Shape parameter β of the Kaiser window: its transform falls to some exp(−β).
    """

    pass_per_A: float
    stop_per_A: float
    sharpness: float

    def __call__(self, frequency_per_A: np.ndarray) -> np.ndarray:
        """Evaluate at frequencies, 1/Å."""
        width = self.stop_per_A - self.pass_per_A
        place = np.clip(2 * (frequency_per_A - self.pass_per_A) / width - 1, -1, 1)
        risen: np.ndarray = self._slope_integral(place) / self._slope_integral(1.0)
        return 1 - risen

    @property
    def _slope_integral(self) -> Callable[..., np.ndarray]:
        """Integral of the Kaiser window from −1: a polynomial, since the window is analytic."""

        def window(place: np.ndarray) -> np.ndarray:
            root = np.sqrt(np.maximum(1 - place**2, 0))
            values: np.ndarray = i0e(self.sharpness * root) * np.exp(self.sharpness * (root - 1))
            return values

        return Chebyshev.interpolate(window, _POINTS_OF_CUT).integ(lbnd=-1)


@dataclass(frozen=True)
class _Plan:
    """A grid and a cut that belong together."""

    n_voxels: int
    cut: SmoothCut

    @property
    def voxel_size_A(self) -> float:
        return 1 / (2 * self.cut.stop_per_A)


def density_of_atoms(
    model: AtomicModel,
    frequency_max_per_A: float,
    tolerance: float,
    n_threads: int,
    memory_bytes: float = math.inf,
) -> VoxelDensity:
    """Sample atoms on voxels so that the transform of the voxels is theirs.

    Parameters
    ----------
    model
        Atoms with their form factors.
    frequency_max_per_A
        Up to here, 1/Å, the transform h³ Σ ρ exp(−2πi s·r) of the voxels is the model's.
    tolerance
        Relative error in the L2 norm.
    n_threads
        Threads to use.
    memory_bytes
        What the work may take.

    Returns
    -------
    VoxelDensity
        float64, in a cube just large enough.

    Raises
    ------
    UsageError
        Where that takes more memory than allowed.
    """
    parts, plan = _plan_within(model, frequency_max_per_A, tolerance, memory_bytes)
    transform = finufft.Plan(
        1,
        (plan.n_voxels,) * 3,
        eps=tolerance / 10,
        isign=-1,
        dtype="complex128",
        nthreads=n_threads,
        upsampfac=_padding(tolerance),
        showwarn=0,
    )
    spectrum = _cut_spectrum(model, parts, plan, transform)
    del transform
    values = ifftn(ifftshift(spectrum), overwrite_x=True, workers=n_threads).real
    return VoxelDensity(np.fft.fftshift(values) / plan.voxel_size_A**3, plan.voxel_size_A)


def voxels_for_atoms(
    model: AtomicModel, frequency_max_per_A: float, tolerance: float, memory_bytes: float
) -> tuple[int, float]:
    """Tell how many voxels along an axis `density_of_atoms` makes, and their edge in Å.

    Parameters and errors are those of `density_of_atoms`.
    """
    _, plan = _plan_within(model, frequency_max_per_A, tolerance, memory_bytes)
    return plan.n_voxels, plan.voxel_size_A


def _plan_within(
    model: AtomicModel, frequency_max_per_A: float, tolerance: float, memory_bytes: float
) -> tuple[SeparableFormFactors, _Plan]:
    """Choose the grid, and refuse one that takes more memory than allowed."""
    parts = separable(model.form_factors, frequency_max_per_A, tolerance)
    farthest_A = float(np.abs(model.positions_A).max())
    plan = _smallest_plan(parts.basis, farthest_A, frequency_max_per_A, tolerance)
    needed_bytes = 16 * plan.n_voxels**3 * (2 + _padding(tolerance) ** 3)
    if needed_bytes > memory_bytes:
        message = (
            f"{model.name}: templates of these atoms need {needed_bytes / 1e9:.2g} GB of memory, "
            f"more than the {memory_bytes / 1e9:.2g} GB allowed"
        )
        remedy = "Allow more with --memory (memory_bytes), or use a lower resolution factor."
        raise UsageError(Problem(message=message, remedy=remedy, kind="usage"))
    return parts, plan


def _padding(tolerance: float) -> float:
    # Narrow padding takes a quarter of the memory, and finufft needs the wide one for more digits
    return 1.25 if tolerance > _FINEST_WITH_NARROW_PADDING else 2.0


def _cut_spectrum(
    model: AtomicModel, parts: SeparableFormFactors, plan: _Plan, transform: finufft.Plan
) -> np.ndarray:
    """Transform a model on the grid of frequencies, cut off smoothly; frequency 0 in the middle."""
    n, edge_A = plan.n_voxels, plan.n_voxels * plan.voxel_size_A
    transform.setpts(*np.ascontiguousarray((2 * np.pi / edge_A) * model.positions_A[:, ::-1].T))
    squares = np.arange(-(n // 2), n - n // 2) ** 2
    distance = np.sqrt(np.arange(3 * (n // 2) ** 2 + 1)) / edge_A
    radial = parts.basis(distance) * plan.cut(distance)
    in_plane = squares[:, None] + squares
    spectrum = np.zeros((n, n, n), dtype=np.complex128)
    strengths = model.weight * parts.coefficients[model.kind].T
    for of_atoms, of_shape in zip(strengths, radial, strict=True):
        points = transform.execute(of_atoms.astype(np.complex128))
        for z, plane in enumerate(points):
            spectrum[z] += plane * of_shape[in_plane + squares[z]]
    return spectrum


def _smallest_plan(
    form_factors: FormFactors, farthest_A: float, frequency_max_per_A: float, tolerance: float
) -> _Plan:
    """Trade the fineness of voxels against how far the blur reaches."""
    plans = []
    for ratio, fraction in itertools.product(_RATIOS, _SHARPNESSES):
        sharpness = -fraction * np.log(tolerance)
        cut = SmoothCut(frequency_max_per_A, ratio * frequency_max_per_A, sharpness)
        half_A = farthest_A + _blur_reach_A(form_factors, cut, tolerance)
        if np.isfinite(half_A):
            n_half = next_fast_len(int(np.ceil(half_A * 2 * cut.stop_per_A)) + 1)
            plans.append(_Plan(2 * n_half, cut))
    return min(plans, key=lambda plan: plan.n_voxels)


def _blur_reach_A(form_factors: FormFactors, cut: SmoothCut, tolerance: float) -> float:
    """Radius outside which a blurred atom has less than a fraction of its norm; inf if not found.

    Parameters
    ----------
    form_factors
        Of all kinds; the farthest-reaching decides.
    cut
        How frequencies are cut off.
    tolerance
        The fraction, of the square root of ∫ρ².
    """
    width = cut.stop_per_A - cut.pass_per_A
    largest_A = 2 * cut.sharpness / (np.pi * width) + 4 * float(form_factors.reach_A.max())
    n_steps = 64 + int(4 * cut.stop_per_A * largest_A)
    frequency_per_A = np.arange(1, n_steps) * (cut.stop_per_A / n_steps)
    radius_A = np.arange(1, n_steps) / (2 * cut.stop_per_A)
    spectrum = form_factors(frequency_per_A) * cut(frequency_per_A) * frequency_per_A
    # r ρ(r), but for a factor; evenly spaced nodes are enough for what falls to 0 smoothly
    profile = dst(spectrum, type=1)
    beyond = np.cumsum(profile[:, ::-1] ** 2, axis=1)[:, ::-1]
    is_small = (beyond <= tolerance**2 * beyond[:, :1]).all(axis=0)
    return float(radius_A[is_small][0]) if is_small.any() else np.inf
