"""What scatters: atoms and beads with their form factors, and density maps.

The transform of an atomic model at the spatial frequency s (a vector, 1/Å) is

    F(s) = Σ_j w_j f_kind(j)(|s|) exp(−2πi s·r_j).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import gemmi
import numpy as np
from jaxtyping import Float, Float32, Float64, Int64
from scipy.linalg import interpolative
from scipy.special import spherical_jn

from cryolike.errors import UsageError

__all__ = [
    "AtomicModel",
    "DensityMap",
    "FormFactors",
    "GaussianSums",
    "HardSpheres",
    "SeparableFormFactors",
    "bead_form_factors",
    "electron_form_factors",
    "scatters_electrons",
    "separable",
]

ATOM_SHAPES = ("gaussian", "hard-sphere")

_N_DEVIATIONS = 3.0
"""Where a Gaussian's tail is cut for its reach; beyond a plane there lies 0.13 % of it."""


class FormFactors(ABC):
    """Form factors of all kinds of atoms or beads of a model: real functions of |s|."""

    @property
    @abstractmethod
    def n_kinds(self) -> int:
        """Number of kinds."""

    @property
    @abstractmethod
    def reach_A(self) -> Float64[np.ndarray, " n_kinds"]:
        """Radius in Å that holds all but the outermost tail of each kind."""

    @abstractmethod
    def __call__(
        self, frequency_per_A: Float[np.ndarray, " m"]
    ) -> Float64[np.ndarray, "n_kinds m"]:
        """Evaluate every kind at spatial frequencies |s|, 1/Å."""

    @abstractmethod
    def of_kinds(self, kinds: Int64[np.ndarray, " chosen"]) -> FormFactors:
        """Form factors of only these kinds, in this order."""


@dataclass(frozen=True, eq=False)
class GaussianSums(FormFactors):
    """Sums of Gaussians, f(s) = Σ_i a_i exp(−b_i s²/4).

    In space each term is a Gaussian of standard deviation √(b/8π²) whose integral is a.

    Parameters
    ----------
    amplitudes
        a of each kind and term, (n_kinds, n_terms).
    widths_A2
        b of each kind and term, Å², (n_kinds, n_terms).
    """

    amplitudes: Float64[np.ndarray, "n_kinds n_terms"]
    widths_A2: Float64[np.ndarray, "n_kinds n_terms"]

    @property
    def n_kinds(self) -> int:
        """Number of kinds."""
        return len(self.amplitudes)

    @property
    def reach_A(self) -> Float64[np.ndarray, " n_kinds"]:
        """Three standard deviations of the widest term, Å."""
        widest_A2: np.ndarray = self.widths_A2.max(axis=1)
        return _N_DEVIATIONS * np.sqrt(widest_A2 / (8 * np.pi**2))

    def __call__(
        self, frequency_per_A: Float[np.ndarray, " m"]
    ) -> Float64[np.ndarray, "n_kinds m"]:
        """Evaluate every kind at spatial frequencies |s|, 1/Å."""
        quarter = np.asarray(frequency_per_A, dtype=np.float64) ** 2 / 4
        values = np.zeros((self.n_kinds, quarter.size))
        for amplitude, width_A2 in zip(self.amplitudes.T, self.widths_A2.T, strict=True):
            values += amplitude[:, None] * np.exp(-width_A2[:, None] * quarter)
        return values

    def of_kinds(self, kinds: Int64[np.ndarray, " chosen"]) -> GaussianSums:
        """Form factors of only these kinds, in this order."""
        return GaussianSums(self.amplitudes[kinds], self.widths_A2[kinds])


@dataclass(frozen=True, eq=False)
class HardSpheres(FormFactors):
    """Homogeneous spheres, f(s) = 3 (sin x − x cos x)/x³ with x = 2πRs.

    Parameters
    ----------
    radius_A
        R of each kind, Å, (n_kinds,).
    """

    radius_A: Float64[np.ndarray, " n_kinds"]

    @property
    def n_kinds(self) -> int:
        """Number of kinds."""
        return len(self.radius_A)

    @property
    def reach_A(self) -> Float64[np.ndarray, " n_kinds"]:
        """The radii, Å."""
        return self.radius_A

    def __call__(
        self, frequency_per_A: Float[np.ndarray, " m"]
    ) -> Float64[np.ndarray, "n_kinds m"]:
        """Evaluate every kind at spatial frequencies |s|, 1/Å."""
        x = 2 * np.pi * np.outer(self.radius_A, np.asarray(frequency_per_A, dtype=np.float64))
        # the closed form cancels for small x, the spherical Bessel function does not
        return 3 * np.divide(spherical_jn(1, x), x, out=np.full_like(x, 1 / 3), where=x > 0)

    def of_kinds(self, kinds: Int64[np.ndarray, " chosen"]) -> HardSpheres:
        """Form factors of only these kinds, in this order."""
        return HardSpheres(self.radius_A[kinds])


@dataclass(frozen=True, eq=False)
class SeparableFormFactors:
    """Form factors as sums of few functions, f_kind(s) ≈ Σ_m coefficients[kind, m] basis_m(s).

    The basis is a choice of the kinds themselves, so that it is exact at every frequency.

    Parameters
    ----------
    basis
        Form factors of the chosen kinds; its `n_kinds` is the rank.
    coefficients
        Of each kind in terms of the basis, (n_kinds, rank).
    """

    basis: FormFactors
    coefficients: Float64[np.ndarray, "n_kinds rank"]


def bead_form_factors(radii_A: Float64[np.ndarray, " n_kinds"], shape: str) -> FormFactors:
    """Form factors of beads whose integral is 1.

    Parameters
    ----------
    radii_A
        Radius of each kind, Å: the standard deviation of a Gaussian, or that of a hard sphere.
    shape
        'gaussian' or 'hard-sphere'.

    Returns
    -------
    FormFactors
        One kind for each radius.

    Raises
    ------
    UsageError
        Where a radius is not positive or there is no such shape.
    """
    if shape not in ATOM_SHAPES:
        msg = f"atom_shape is {shape!r}; it must be {' or '.join(ATOM_SHAPES)}."
        raise UsageError(msg)
    if not (np.isfinite(radii_A) & (radii_A > 0)).all():
        msg = f"radii of atoms must be positive numbers of Å, not {radii_A.min():g} Å."
        raise UsageError(msg)
    if shape == "hard-sphere":
        return HardSpheres(radii_A)
    return GaussianSums(np.ones((len(radii_A), 1)), 8 * np.pi**2 * radii_A[:, None] ** 2)


def scatters_electrons(element: str) -> bool:
    """Whether there are electron scattering factors of an element: H to Cf, and D."""
    known = gemmi.Element(element)
    return known.atomic_number > 0 and known.c4322 is not None


def electron_form_factors(
    elements: Sequence[str], b_factors_A2: Float64[np.ndarray, " n_kinds"]
) -> GaussianSums:
    """Form factors for electrons of neutral atoms, with their B-factors.

    The factors are those of International Tables for Crystallography C, table 4.3.2.2, for s up
    to 4 1/Å, in Å: Σ_i a_i exp(−b_i s²/4), times exp(−B s²/4).

    Parameters
    ----------
    elements
        Symbol of each kind.
    b_factors_A2
        Isotropic B-factor of each kind, Å².

    Returns
    -------
    GaussianSums
        One kind for each element and B-factor.

    Raises
    ------
    UsageError
        Where the factors of an element are not known, or a B-factor makes one grow with s.
    """
    unknown = sorted({element for element in elements if not scatters_electrons(element)})
    if unknown:
        msg = f"there are no electron scattering factors of {', '.join(unknown)}."
        raise UsageError(msg)
    tables = {element: gemmi.Element(element).c4322 for element in set(elements)}
    amplitudes = np.array([tables[element].a for element in elements], dtype=np.float64)
    widths_A2 = np.array([tables[element].b for element in elements], dtype=np.float64)
    widths_A2 = widths_A2 + b_factors_A2[:, None]
    if not (widths_A2 > 0).all():
        msg = f"a B-factor of {b_factors_A2.min():g} Å² makes an atom sharper than a point."
        raise UsageError(msg)
    return GaussianSums(amplitudes, widths_A2)


def separable(
    form_factors: FormFactors, frequency_max_per_A: float, tolerance: float = 1e-6
) -> SeparableFormFactors:
    """Express all form factors by few of them, so that a model needs but few transforms.

    An interpolative decomposition of the form factors on a fine grid of frequencies.

    Parameters
    ----------
    form_factors
        Of all kinds.
    frequency_max_per_A
        Largest |s| they are needed at, 1/Å.
    tolerance
        Largest error of a form factor, as a fraction of its largest value.

    Returns
    -------
    SeparableFormFactors
        Of a rank that is 1 for one kind, and about ten at most.

    Raises
    ------
    UsageError
        Where the largest frequency is not positive or the tolerance not from 1e-12 to 1.
    """
    if not (0 < frequency_max_per_A < math.inf and 1e-12 <= tolerance < 1):
        msg = f"no form factors up to {frequency_max_per_A:g} 1/Å with tolerance {tolerance:g}."
        raise UsageError(msg)
    n_kinds = form_factors.n_kinds
    if n_kinds == 1:
        return SeparableFormFactors(form_factors, np.ones((1, 1)))
    # spheres oscillate, once in 1/R
    n_oscillations = math.ceil(frequency_max_per_A * float(form_factors.reach_A.max()))
    frequency_per_A = frequency_max_per_A * np.linspace(0, 1, 32 + 8 * n_oscillations)
    values = form_factors(frequency_per_A)
    size = np.abs(values).max(axis=1)
    # what it bounds is the norm of what is left of a column, a fraction of the largest norm
    rank, order, projection = interpolative.interp_decomp(
        np.asfortranarray((values / size[:, None]).T),
        tolerance / math.sqrt(frequency_per_A.size),
        rand=False,
    )
    chosen = np.asarray(order[:rank], dtype=np.int64)
    weights = interpolative.reconstruct_interp_matrix(order, projection).T
    coefficients = weights * size[:, None] / size[chosen]
    return SeparableFormFactors(form_factors.of_kinds(chosen), coefficients)


@dataclass(frozen=True, eq=False)
class AtomicModel:
    """Atoms or beads, centred on the mean of their positions.

    Parameters
    ----------
    name
        Of the structure: its file's, without ending.
    positions_A
        x, y, z of each atom from the centre, Å, (n, 3).
    kind
        Which of the form factors each atom has, (n,).
    weight
        What each atom's form factor is multiplied by: its occupancy, or 1, (n,).
    form_factors
        Of all kinds.
    """

    name: str
    positions_A: Float64[np.ndarray, "n 3"]
    kind: Int64[np.ndarray, " n"]
    weight: Float64[np.ndarray, " n"]
    form_factors: FormFactors

    def __len__(self) -> int:
        return len(self.kind)

    @property
    def extent_A(self) -> float:
        """Radius in Å of the sphere about the centre that holds all atoms with their shapes."""
        distance_A = np.linalg.norm(self.positions_A, axis=1)
        return float((distance_A + self.form_factors.reach_A[self.kind]).max())


@dataclass(frozen=True, eq=False)
class DensityMap:
    """A density on a grid of cubic voxels; the origin is voxel floor(n/2) of each axis.

    Parameters
    ----------
    name
        Of the structure: its file's, without ending.
    values
        Density, axes z, y, x as MRC files store them; the sides may differ.
    voxel_size_A
        Edge of a voxel, Å.
    """

    name: str
    values: Float32[np.ndarray, "nz ny nx"]
    voxel_size_A: float

    @property
    def box_A(self) -> tuple[float, float, float]:
        """Edges along z, y, x, Å."""
        nz, ny, nx = self.values.shape
        return nz * self.voxel_size_A, ny * self.voxel_size_A, nx * self.voxel_size_A
