"""Displacements that a search tries, and how likely each is beforehand."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np

from cryolike.errors import UsageError

__all__ = ["Displacements"]


@dataclass(frozen=True, eq=False)
class Displacements:
    """Displacements δ of the particle from the origin pixel; RELION's origins are −δ.

    Parameters
    ----------
    x_A, y_A
        Å along x and y, (n,).
    log_prior
        Logarithms of prior probabilities, (n,); the probabilities sum to 1.
    """

    x_A: np.ndarray
    y_A: np.ndarray
    log_prior: np.ndarray

    def __post_init__(self) -> None:
        for name in ("x_A", "y_A", "log_prior"):
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 1 or len(values) != len(self.x_A) or not len(values):
                raise UsageError("displacements: x_A, y_A and log_prior must be of one length.")
            if not np.isfinite(values).all():
                msg = f"displacements: {name} must be finite; leave out what cannot be."
                raise UsageError(msg)
            values.setflags(write=False)
            object.__setattr__(self, name, values)
        if abs(np.exp(self.log_prior).sum() - 1) > 1e-9:
            raise UsageError("displacements: the prior probabilities must sum to 1.")

    def __len__(self) -> int:
        return len(self.x_A)

    @property
    def step_A(self) -> np.ndarray:
        """Largest distance of neighbours along x and y, Å, (2,); 0 where there is only one."""
        axes = (np.unique(axis.round(9)) for axis in (self.x_A, self.y_A))
        return np.array([np.diff(axis).max(initial=0.0) for axis in axes])

    @classmethod
    def grid(
        cls,
        max_px: float,
        n_x: int,
        n_y: int,
        pixel_size_A: float,
        prior_sd_A: float | None = None,
    ) -> Self:
        """Make a rectangular grid, zero displacement included.

        Parameters
        ----------
        max_px
            The grid goes from −max_px to +max_px pixels, ends included.
        n_x, n_y
            Number of displacements along x and y; 1 or less means only zero.
        pixel_size_A
            Å per pixel.
        prior_sd_A
            Standard deviation of a Gaussian prior along each axis; flat where None.

        Returns
        -------
        Displacements
            x varies slowest. Where zero is on no grid point it is added at the end, and the prior
            of every displacement counts the area nearest to it.

        Raises
        ------
        UsageError
            Where a number is out of range.
        """
        if not (math.isfinite(max_px) and max_px >= 0):
            msg = f"max_displacement is {max_px} pixels; it must be 0 or more."
            raise UsageError(msg)
        if not (math.isfinite(pixel_size_A) and pixel_size_A > 0):
            msg = f"the pixel size is {pixel_size_A} Å; it must be positive."
            raise UsageError(msg)
        if prior_sd_A is not None and not prior_sd_A > 0:
            msg = f"the prior's standard deviation is {prior_sd_A} Å; it must be positive."
            raise UsageError(msg)
        x_px, y_px = (_axis_px(max_px, n) for n in (n_x, n_y))
        x, y = (axis.ravel() for axis in np.meshgrid(x_px, y_px, indexing="ij"))
        area = np.ones(len(x))
        at_zero = (np.abs(x) < 1e-9) & (np.abs(y) < 1e-9)
        if not at_zero.any():
            x, y = np.append(x, 0.0), np.append(y, 0.0)
            area = _areas_with_zero(x_px, y_px)
        log_prior = np.log(area)
        if prior_sd_A is not None:
            log_prior -= (x**2 + y**2) * pixel_size_A**2 / (2 * prior_sd_A**2)
        log_prior -= np.logaddexp.reduce(log_prior)
        return cls(x * pixel_size_A, y * pixel_size_A, log_prior)


def _axis_px(max_px: float, n: int) -> np.ndarray:
    if n <= 1 or max_px == 0:
        return np.zeros(1)
    axis = np.linspace(-max_px, max_px, n)
    # The middle of an odd number is zero, whatever rounding makes of it
    axis[np.abs(axis) < 1e-12 * max_px] = 0
    return axis


def _areas_with_zero(x_px: np.ndarray, y_px: np.ndarray) -> np.ndarray:
    """Areas that each point of a grid stands for, and zero, which is added to it, last.

    Each point of the grid stands for one cell of it; zero takes what is nearer to it of them.
    """
    width, height = (axis[1] - axis[0] if len(axis) > 1 else 1.0 for axis in (x_px, y_px))
    points = np.stack([axis.ravel() for axis in np.meshgrid(x_px, y_px, indexing="ij")], axis=1)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    region = corners * 4 * max(width, height) / min(width, height)
    for point in points:  # nearer to zero than to it
        region = _clipped(region, point, point @ point / 2)
    taken = np.array([_area(_intersection(point + corners, region)) for point in points])
    return np.append(width * height - taken, taken.sum()) / (width * height)


def _intersection(polygon: np.ndarray, convex: np.ndarray) -> np.ndarray:
    """Intersect two convex polygons whose corners (n, 2) go round anticlockwise."""
    for start, end in zip(convex, np.roll(convex, -1, axis=0), strict=True):
        outwards = np.array([end[1] - start[1], start[0] - end[0]])
        polygon = _clipped(polygon, outwards, outwards @ start)
    return polygon


def _clipped(polygon: np.ndarray, normal: np.ndarray, limit: float) -> np.ndarray:
    """Keep the part of a convex polygon where r · normal ≤ limit."""
    beyond = polygon @ normal - limit
    kept = []
    for i in range(len(polygon)):
        before = i - 1
        if (beyond[i] > 0) != (beyond[before] > 0):
            share = beyond[before] / (beyond[before] - beyond[i])
            kept.append(polygon[before] + share * (polygon[i] - polygon[before]))
        if beyond[i] <= 0:
            kept.append(polygon[i])
    return np.array(kept).reshape(-1, 2)


def _area(polygon: np.ndarray) -> float:
    x, y = polygon.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
