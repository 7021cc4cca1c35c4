"""Directions from which structures are looked at, with quadrature weights on the sphere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss

from cryolike.errors import UsageError

__all__ = ["ViewingDirections", "angular_distance_rad", "unit_vectors"]

_MOST_VIEWS = 10_000_000
"""More than any computer holds templates of: a spacing that asks for more is a slip."""


@dataclass(frozen=True, eq=False)
class ViewingDirections:
    """Viewing directions as RELION's angles rot and tilt (psi is 0), and their weights.

    Parameters
    ----------
    rot_rad
        Azimuths, rlnAngleRot, float64, (n_views,).
    tilt_rad
        Polar angles, rlnAngleTilt, float64, (n_views,).
    weights
        Fraction of the sphere that each direction stands for: positive, of sum 1, (n_views,).

    Raises
    ------
    UsageError
        Where the arrays do not fit together, or weights are not positive or not of sum 1.
    """

    rot_rad: np.ndarray
    tilt_rad: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        n_views = len(self.weights)
        shapes = (self.rot_rad.shape, self.tilt_rad.shape, self.weights.shape)
        faults = []
        if n_views == 0:
            faults.append("there are no viewing directions; at least one is needed.")
        elif shapes != ((n_views,),) * 3:
            faults.append(f"rot, tilt and weights have shapes {shapes}; they must be (n_views,).")
        elif not all(np.isfinite(a).all() for a in (self.rot_rad, self.tilt_rad)):
            faults.append("rot and tilt of viewing directions must be finite.")
        elif not (self.weights > 0).all() or abs(self.weights.sum() - 1) > 1e-9:
            faults.append(
                f"weights of viewing directions are from {self.weights.min():g} and sum to "
                f"{self.weights.sum():g}; they must be positive, of sum 1."
            )
        if faults:
            raise UsageError("\n".join(faults))

    @classmethod
    def of_spacing(cls, viewing_distance: float) -> Self:
        """Cover the sphere: rings at Gauss–Legendre nodes of cos(tilt), even steps in rot.

        Parameters
        ----------
        viewing_distance
            Wanted spacing d on the unit sphere. With a = 2π/d there are 3 + ⌈(3 + round a)/2⌉
            rings, and 3 + round(a·sin tilt) directions on each.

        Returns
        -------
        ViewingDirections
            Ring by ring, tilt ascending.

        Raises
        ------
        UsageError
            Where the spacing is not positive, or so small that no computer could follow.
        """
        if not (math.isfinite(viewing_distance) and viewing_distance > 0):
            msg = f"viewing_distance is {viewing_distance}; it must be positive (radians)."
            raise UsageError(msg)
        steps = 2 * np.pi / viewing_distance
        if steps**2 / np.pi > _MOST_VIEWS:
            msg = (
                f"viewing_distance is {viewing_distance:g}: that makes some "
                f"{steps**2 / np.pi:.1g} viewing directions. The default is 1/(4π), 2,370 of them."
            )
            raise UsageError(msg)
        n_rings = 3 + math.ceil((3 + round(steps)) / 2)
        cosines, ring_weights = leggauss(n_rings)
        # Nodes ascend from −1: reversed, the tilt ascends
        tilt_of_ring = np.arccos(cosines[::-1])
        n_on_ring = 3 + np.round(steps * np.sin(tilt_of_ring)).astype(np.int64)
        return cls(
            rot_rad=np.concatenate([2 * np.pi * np.arange(n) / n for n in n_on_ring]),
            tilt_rad=np.repeat(tilt_of_ring, n_on_ring),
            weights=np.repeat(ring_weights[::-1] / 2 / n_on_ring, n_on_ring),
        )

    def __len__(self) -> int:
        return len(self.weights)

    @property
    def spacing_rad(self) -> float:
        """Side of a square of the unit sphere that a direction stands for on average."""
        return math.sqrt(4 * math.pi / len(self))

    @property
    def euler_rad(self) -> Float[np.ndarray, "n_views 3"]:
        """Columns rot, tilt and psi = 0."""
        return np.stack([self.rot_rad, self.tilt_rad, np.zeros(len(self))], axis=1)

    @property
    def unit_vectors(self) -> Float[np.ndarray, "n_views 3"]:
        """Directions (x, y, z) along which the structure is projected."""
        return unit_vectors(self.rot_rad, self.tilt_rad)


def unit_vectors(
    rot_rad: Float[np.ndarray, " n"], tilt_rad: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "n 3"]:
    """Directions (x, y, z) of RELION's angles rot and tilt, radians."""
    sine = np.sin(tilt_rad)
    return np.stack([sine * np.cos(rot_rad), sine * np.sin(rot_rad), np.cos(tilt_rad)], axis=1)


def angular_distance_rad(
    ours: Float[np.ndarray, "*n 3"], theirs: Float[np.ndarray, "*m 3"]
) -> np.ndarray:
    """Angle between unit vectors, radians, accurate for small angles too.

    Parameters
    ----------
    ours, theirs
        Unit vectors on the last axis; the others broadcast.
    """
    half_chord = np.linalg.norm(ours - theirs, axis=-1) / 2
    half_sum = np.linalg.norm(ours + theirs, axis=-1) / 2
    return np.asarray(2 * np.arctan2(half_chord, half_sum))
