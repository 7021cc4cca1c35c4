"""Interpolation between a padded Fourier transform and polar points: kernel and weights.

The transform of a real image is known from its half kx ≥ 0. A polar point with kx < 0 is read at
its opposite and conjugated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.fft import next_fast_len
from scipy.special import i0e

from cryolike.grids import PolarGrid

__all__ = ["KaiserBessel", "PolarPoints", "padded_side"]

_PADDING = 1.5


@dataclass(frozen=True)
class KaiserBessel:
    """Kaiser–Bessel interpolation kernel.

    The shape parameter is that of Beatty, Nishimura and Pauly (2005), IEEE Trans. Med. Imaging
    24, 799.

    Parameters
    ----------
    width
        Points of the padded grid that the kernel spans.
    padding
        Size of the padded grid over that of the image.
    """

    width: int
    padding: float

    @property
    def _beta(self) -> float:
        ratio = self.width / self.padding * (self.padding - 0.5)
        return float(np.pi * np.sqrt(ratio**2 - 0.8))

    def values(self, distance: np.ndarray) -> np.ndarray:
        """Kernel at distances in points of the padded grid; 0 outside its width."""
        inside = 1 - (2 * distance / self.width) ** 2
        root = np.sqrt(np.maximum(inside, 0))
        # i0e(x) = exp(-x) I0(x) keeps the ratio to the peak finite
        ratio = i0e(self._beta * root) / i0e(self._beta) * np.exp(self._beta * (root - 1))
        return np.where(inside > 0, ratio, 0.0)

    def transform(self, position: np.ndarray) -> np.ndarray:
        """Fourier transform of the kernel at positions in units of the padded box."""
        nodes, weights = np.polynomial.legendre.leggauss(20 + 6 * self.width)
        distance = nodes * self.width / 2
        weighted = self.values(distance) * weights * self.width / 2
        return weighted @ np.cos(2 * np.pi * np.outer(distance, position))


def padded_side(side_px: int, width: int) -> int:
    """Size of the padded image: even, quick to transform, at least 1.5 times that of the image.

    Parameters
    ----------
    side_px
        Box in pixels.
    width
        Of the kernel: the grid must hold it.
    """
    side = max(int(np.ceil(side_px * _PADDING)), width + 4)
    while side % 2 or next_fast_len(side, real=True) != side:
        side += 1
    return side


@dataclass(frozen=True, kw_only=True, eq=False)
class PolarPoints:
    """Where the polar points lie on the padded grid at kx ≥ 0, with a margin around it.

    Points are ordered as (shell, angle). Where θ + π is on the grid too, only the angles below π
    are listed: the others are their conjugates.

    Parameters
    ----------
    side
        Size of the padded image, S.
    margin
        Points of the margin on each side; rows then stand for ky = −S/2 − margin … S/2 + margin,
        columns for kx = −margin … S/2 + margin.
    first
        Row and column of the first grid point near each polar point, (2, n_points).
    weight_y, weight_x
        Kernel at the grid points from the first on, (n_points, width).
    is_conjugate
        For each angle whether it is read at the opposite point.
    has_opposites
        Whether the angles listed are half of the grid's.
    """

    side: int
    margin: int
    first: Int[np.ndarray, "2 n_points"]
    weight_y: Float[np.ndarray, "n_points width"]
    weight_x: Float[np.ndarray, "n_points width"]
    is_conjugate: np.ndarray
    has_opposites: bool

    @classmethod
    def of_grid(
        cls, polar: PolarGrid, side_px: int, side: int, kernel: KaiserBessel
    ) -> PolarPoints:
        """Find the points of a grid.

        Parameters
        ----------
        polar
            The grid, within Nyquist.
        side_px
            Box of the images, N.
        side
            Of the padded images, S.
        kernel
            To interpolate with.
        """
        has_opposites = polar.n_inplanes % 2 == 0
        theta = polar.theta_shell[: polar.n_inplanes // 2 if has_opposites else None]
        is_conjugate = np.cos(theta) < 0
        sign = np.where(is_conjugate, -1.0, 1.0)
        scale = 2 * polar.radius_shells[:, None] * side / side_px
        margin = kernel.width // 2 + 1
        (y, weight_y), (x, weight_x) = (
            _neighbours((scale * sign * along_axis).ravel(), kernel)
            for along_axis in (np.sin(theta), np.cos(theta))
        )
        return cls(
            side=side,
            margin=margin,
            first=np.stack([y + side // 2 + margin, x + margin]),
            weight_y=weight_y,
            weight_x=weight_x,
            is_conjugate=is_conjugate,
            has_opposites=has_opposites,
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the grid with its margin."""
        return self.side + 1 + 2 * self.margin, self.side // 2 + 1 + 2 * self.margin

    @property
    def sources(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """For points of the grid with its margin, where the half transform has their values.

        Returns
        -------
        tuple of ndarray
            Row of the half transform for each row, for columns read directly; the same for columns
            read as conjugates; column for each column. The first and last `margin` columns are
            read as conjugates.
        """
        ky = np.arange(self.shape[0]) - (self.side // 2 + self.margin)
        kx = np.arange(self.shape[1]) - self.margin
        column = np.where(kx < 0, -kx, np.where(kx > self.side // 2, self.side - kx, kx))
        return ky % self.side, -ky % self.side, column


def _neighbours(position: np.ndarray, kernel: KaiserBessel) -> tuple[np.ndarray, np.ndarray]:
    """First point of the padded grid near each position, and the kernel from there on."""
    first = np.ceil(position - kernel.width / 2).astype(np.int64)
    near = first[:, None] + np.arange(kernel.width)
    return first, kernel.values(near - position[:, None])
