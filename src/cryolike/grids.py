"""The two grids of an image: pixels, and polar points in Fourier space, with quadrature weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from scipy.special import roots_jacobi

from cryolike.errors import UsageError

__all__ = ["CartesianGrid2D", "PolarGrid"]


@dataclass(frozen=True)
class CartesianGrid2D:
    """Square pixel grid; the origin is pixel floor(N/2) of each axis, for even and odd N.

    Parameters
    ----------
    side_px
        Number of pixels N along each axis.
    pixel_size_A
        Edge of a pixel, Å.
    """

    side_px: int
    pixel_size_A: float

    def __post_init__(self) -> None:
        if self.side_px < 2:
            msg = f"n_pixels is {self.side_px}; an image needs at least 2×2 pixels."
            raise UsageError(msg)
        if not (math.isfinite(self.pixel_size_A) and self.pixel_size_A > 0):
            msg = f"pixel_size is {self.pixel_size_A}; it must be a positive number of Å."
            raise UsageError(msg)

    @property
    def n_pixels(self) -> np.ndarray:
        """Pixels along x and y, int64, (2,)."""
        return np.array([self.side_px, self.side_px])

    @property
    def pixel_size(self) -> np.ndarray:
        """Pixel size along x and y, Å, (2,)."""
        return np.array([self.pixel_size_A, self.pixel_size_A])

    @property
    def box_size(self) -> np.ndarray:
        """Edge of the box along x and y, Å, (2,)."""
        return np.full(2, self.box_size_A)

    @property
    def box_size_A(self) -> float:
        """Edge L of the box, Å."""
        return self.side_px * self.pixel_size_A

    @property
    def offsets_px(self) -> Float[np.ndarray, " side"]:
        """Coordinates of pixels along an axis, counted from the origin pixel."""
        return np.arange(self.side_px, dtype=np.float64) - self.side_px // 2


@dataclass(frozen=True)
class PolarGrid:
    """Polar points in Fourier space: shells at quadrature nodes, equally spaced angles.

    The radius k is in units in which spatial frequency is 2k/L for a box of edge L, that is 2k
    cycles per box. Radii and weights are those of Gauss–Jacobi quadrature on [0, radius_max] with
    weight function r (roots of the Jacobi polynomial with α = 0, β = 1).

    Parameters
    ----------
    radius_max
        Largest radius.
    dist_radii
        Wanted distance between shells.
    n_inplanes
        Number of angles θ_j = 2πj/n_inplanes.
    """

    radius_max: float
    dist_radii: float
    n_inplanes: int

    def __post_init__(self) -> None:
        if not (math.isfinite(self.radius_max) and self.radius_max > 0):
            msg = f"radius_max is {self.radius_max}; it must be positive."
            raise UsageError(msg)
        if not (math.isfinite(self.dist_radii) and self.dist_radii > 0):
            msg = f"dist_radii is {self.dist_radii}; it must be positive."
            raise UsageError(msg)
        if self.n_inplanes < 1:
            msg = f"n_inplanes is {self.n_inplanes}; it must be at least 1."
            raise UsageError(msg)

    @property
    def n_shells(self) -> int:
        """Number of shells, 1 + ceil(radius_max / dist_radii)."""
        return 1 + math.ceil(self.radius_max / self.dist_radii)

    @cached_property
    def _nodes_and_weights(self) -> tuple[np.ndarray, np.ndarray]:
        nodes, weights = roots_jacobi(self.n_shells, 0, 1)
        half = self.radius_max / 2
        radii, areas = (nodes + 1) * half, weights * 2 * np.pi * half**2 / (2 * np.pi) ** 2
        for values in (radii, areas):
            values.setflags(write=False)
        return radii, areas

    @property
    def radius_shells(self) -> Float[np.ndarray, " n_shells"]:
        """Radius of each shell, ascending."""
        return self._nodes_and_weights[0]

    @property
    def weight_shells(self) -> Float[np.ndarray, " n_shells"]:
        """Quadrature weight of each shell.

        The integral of f over the disc is Σ_ij f_ij · weight_shells_i / n_inplanes · (2π)².
        """
        return self._nodes_and_weights[1]

    @property
    def theta_shell(self) -> Float[np.ndarray, " n_inplanes"]:
        """Angles θ_j, radians, measured from +x towards +y; the same on every shell."""
        return 2 * np.pi * np.arange(self.n_inplanes) / self.n_inplanes

    @property
    def point_weight_shells(self) -> Float[np.ndarray, " n_shells"]:
        """Weight of one point of each shell in an integral, weight_shells · (2π)² / n_inplanes."""
        return self.weight_shells * ((2 * np.pi) ** 2 / self.n_inplanes)
