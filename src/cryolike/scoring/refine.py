"""Poses between those of the grids: the peak of the cross-correlation near the best one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryolike.physics.rotations import euler_angles, rotation_matrices
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import Comparison, ImageMoments
from cryolike.scoring.poses import Poses
from cryolike.scoring.template_terms import TemplateTerms

__all__ = ["Refinement"]

_REACH = 2.0
"""Views that far from the best one count, in spacings; about a dozen of them."""

_SPREAD = 0.77
"""Standard deviation of the weights of views, in spacings."""

_LOWEST = 0.3
"""Of the largest correlation: what is lower is not of the peak."""

_N_FITS = 2
"""The second with weights around the peak that the first found."""

_FARTHEST = 1.5
"""How far a peak may be from the best pose, in steps of the grids."""

_FIELDS = ("rot_rad", "tilt_rad", "psi_rad", "shift_x_A", "shift_y_A")


@dataclass(frozen=True, eq=False)
class Refinement:
    """Finds the peak of the cross-correlation near poses of the grids.

    Near the best pose the cross-correlation is sampled at the views around it, at in-plane angles
    and displacements to either side, and a Gaussian function of all five variables is fitted.

    Parameters
    ----------
    views
        Of the templates.
    spacing_rad
        Of the views.
    step_A
        Of the displacements along x and y, 0 where there is only one.
    terms
        Of the templates.
    comparison
        Of the same templates.
    """

    views: ViewingDirections
    spacing_rad: float
    step_A: np.ndarray
    terms: TemplateTerms
    comparison: Comparison

    def __call__(self, moments: ImageMoments, view: np.ndarray, poses: Poses) -> Poses:
        """Refine poses.

        Parameters
        ----------
        moments
            The images.
        view
            Number of the view of each pose.
        poses
            The best ones on the grids.

        Returns
        -------
        Poses
            Those of the peaks; where there is none nearby, what was given.
        """
        given = np.stack([getattr(poses, name) for name in _FIELDS], axis=1)
        refined = [
            self._refine(moments.take(slice(i, i + 1)), int(view[i]), given[i])
            for i in range(len(moments))
        ]
        return Poses(**dict(zip(_FIELDS, np.array(refined).reshape(-1, 5).T, strict=True)))

    def _refine(self, moments: ImageMoments, view: int, pose: np.ndarray) -> np.ndarray:
        """Refine the pose (rot, tilt, psi, δx, δy) of one image."""
        base = rotation_matrices(pose[None, :3])[0]
        near, tilts, psi_rad = self._around(view, base)
        psi_step = 2 * np.pi / self.terms.basis.n_angles
        turns, shifts = psi_step * _STENCIL, self.step_A * _PLANE
        x = self._correlations(moments, near, psi_rad[:, None] + turns, pose[3:] + shifts)
        steps = np.array([self.spacing_rad, self.spacing_rad, psi_step, *self.step_A])
        moved = np.zeros((*x.shape, 5))
        moved[..., :2] = tilts[:, None, None, :]
        moved[..., 2] = turns[None, :, None]
        moved[..., 3:] = shifts
        free = steps > 0
        points = moved.reshape(-1, 5)[:, free] / steps[free]
        peak = np.zeros(5)
        for _ in range(_N_FITS):
            distance = tilts / self.spacing_rad - peak[:2]
            weights = np.exp(-np.square(distance / _SPREAD).sum(axis=1) / 2)
            peak[free] = _peak(points, x.ravel(), np.repeat(weights, x[0].size))
            if np.abs(peak).max() > _FARTHEST:
                return pose
        moves = peak * steps
        tilt = Rotation.from_rotvec([*moves[:2], 0.0]).as_matrix()
        turn = rotation_matrices(np.array([[0.0, 0.0, moves[2]]]))[0]
        refined: np.ndarray = np.append(
            euler_angles((turn @ tilt @ base)[None]), pose[3:] + moves[3:]
        )
        return refined

    def _around(self, view: int, base: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Find views around one, their tilts from it in the plane of the image, and their psi.

        With that psi a view differs from `base` by a rotation about an axis in the plane.
        """
        directions = self.views.unit_vectors
        near = np.flatnonzero(directions @ directions[view] > math.cos(_REACH * self.spacing_rad))
        turned = rotation_matrices(self.views.euler_rad[near]) @ base.T
        psi_rad = np.arctan2(turned[:, 1, 0] - turned[:, 0, 1], turned[:, 0, 0] + turned[:, 1, 1])
        untwist = np.stack([np.zeros_like(psi_rad), np.zeros_like(psi_rad), psi_rad], axis=1)
        tilts = Rotation.from_matrix(rotation_matrices(untwist) @ turned).as_rotvec()
        return near, tilts[:, :2], psi_rad

    def _correlations(
        self, moments: ImageMoments, views: np.ndarray, psi_rad: np.ndarray, delta_A: np.ndarray
    ) -> np.ndarray:
        """Cross-correlations of one image, (n_views, n_psi, n_displacements).

        `psi_rad` is (n_views, n_psi), `delta_A` (n_displacements, 2).
        """
        basis = self.terms.basis
        of_image = self.comparison.terms_of_displaced(moments, delta_A)
        products = of_image[None] * self.terms.terms[views].cpu().numpy().conj()[:, None]
        has_terms = np.flatnonzero(np.diff(basis.first_term) > 0)
        series = np.add.reduceat(products, basis.first_term[has_terms], axis=2)
        i_xy = _at_angles(series, has_terms, -psi_rad, basis.n_angles)
        step = self.terms.power_step
        of_ctf = torch.fft.rfft(moments.ctf[0].square(), dim=-1)[:, ::step].T
        power = self.terms.power[:, :, views].conj()
        of_power = torch.einsum("qk,qkv->vq", of_ctf[: len(power)].to(power.dtype), power)
        frequencies = step * np.arange(len(power))
        i_xx = _at_angles(of_power.cpu().numpy()[:, None], frequencies, -psi_rad, basis.n_angles)
        i_yy = float(moments.i_yy[0])
        x: np.ndarray = (i_xy / np.sqrt(i_xx * i_yy)).swapaxes(1, 2)
        return x


_STENCIL = np.array([-0.5, 0.0, 0.5])
"""In-plane angles and displacements that are looked at, in steps."""

_PLANE = np.stack([axis.ravel() for axis in np.meshgrid(_STENCIL, _STENCIL)], axis=1)


def _at_angles(
    series: np.ndarray, frequencies: np.ndarray, gamma_rad: np.ndarray, n_angles: int
) -> np.ndarray:
    """Sum angular series of real functions at any angle.

    Parameters
    ----------
    series
        Half of it, (n_views, n, n_frequencies).
    frequencies
        Which they are.
    gamma_rad
        (n_views, n_gamma).
    n_angles
        Of the grid that the series is of.

    Returns
    -------
    ndarray
        (n_views, n, n_gamma).
    """
    twice = np.where((frequencies == 0) | (2 * frequencies == n_angles), 1, 2) / n_angles
    waves = np.exp(1j * gamma_rad[:, :, None] * frequencies) * twice
    values: np.ndarray = (series @ waves.swapaxes(1, 2)).real
    return values


def _peak(points: np.ndarray, values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Fit a Gaussian peak; where its maximum is, or infinity if it has none.

    The logarithm of a peak is quadratic much farther out than the peak itself.
    """
    relative = values / values.max()
    is_high = relative > _LOWEST
    points, relative = points[is_high], relative[is_high]
    n = points.shape[1]
    pairs = list(combinations_with_replacement(range(n), 2))
    columns = [np.ones(len(points)), *points.T, *(points[:, i] * points[:, j] for i, j in pairs)]
    # An error of a value is one of its logarithm in inverse proportion
    root = np.sqrt(weights[is_high]) * relative
    design = np.stack(columns, axis=1) * root[:, None]
    coefficients = np.linalg.lstsq(design, np.log(relative) * root, rcond=None)[0]
    curvature = np.zeros((n, n))
    for (i, j), value in zip(pairs, coefficients[1 + n :], strict=True):
        curvature[i, j] += value
        curvature[j, i] += value
    if np.linalg.eigvalsh(curvature).max() >= 0:
        return np.full(n, np.inf)
    peak: np.ndarray = np.linalg.solve(curvature, -coefficients[1 : 1 + n])
    return peak
