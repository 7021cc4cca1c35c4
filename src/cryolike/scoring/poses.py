"""Poses of images, and what a search says of each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["PoseScores", "Poses", "RefinedPoses"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Poses:
    """Orientation and displacement of the particle in each image.

    All fields have shape (n_images,).

    Parameters
    ----------
    rot_rad, tilt_rad, psi_rad
        RELION's Euler angles.
    shift_x_A, shift_y_A
        Displacement δ of the particle from the origin pixel; RELION's origins are −δ.
    """

    rot_rad: np.ndarray
    tilt_rad: np.ndarray
    psi_rad: np.ndarray
    shift_x_A: np.ndarray
    shift_y_A: np.ndarray

    def __len__(self) -> int:
        return len(self.rot_rad)


@dataclass(frozen=True, kw_only=True, eq=False)
class RefinedPoses(Poses):
    """Poses between those of the grids.

    Parameters
    ----------
    has_peak
        Whether the cross-correlation has a peak near the best pose of the grids, bool, (n_images,).
        Where it has none, as where the noise is too strong, the pose is that of the grids.
    """

    has_peak: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class PoseScores:
    """Best poses of images, and their likelihoods under one structure.

    All fields have shape (n_images,).

    Parameters
    ----------
    poses
        The best poses: those of the largest cross-correlation. `RefinedPoses` where they were
        refined.
    cross_correlation
        Of the best poses.
    view, inplane, displacement
        Their numbers on the grids of views, in-plane angles and displacements.
    log_likelihood_optimal
        Log-likelihood at the best pose, nats.
    log_likelihood_integrated
        Log-likelihood integrated over all poses, nats.
    left_out
        Estimate of what a search that did not look everywhere left out of the integral: how much
        larger the integrated log-likelihood would be, nats; 0 for the exact search.
    """

    poses: Poses
    cross_correlation: np.ndarray
    view: np.ndarray
    inplane: np.ndarray
    displacement: np.ndarray
    log_likelihood_optimal: np.ndarray
    log_likelihood_integrated: np.ndarray
    left_out: np.ndarray

    def __len__(self) -> int:
        return len(self.cross_correlation)
