"""Poses between those of the grids: the peak of the cross-correlation near the best one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations_with_replacement

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from cryolike.physics.rotations import euler_angles, rotation_matrices
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.comparison import Comparison, ImageMoments
from cryolike.scoring.poses import Poses, RefinedPoses
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

_SHALLOWEST = 1e-12
"""Ratio of the extreme eigenvalues of a fit below which its points do not tell a peak."""

_IMAGES_AT_ONCE = 64

_FIELDS = ("rot_rad", "tilt_rad", "psi_rad", "shift_x_A", "shift_y_A")

_STENCIL = np.array([-0.5, 0.0, 0.5])
"""In-plane angles and displacements that are looked at, in steps."""

_PLANE = np.stack([axis.ravel() for axis in np.meshgrid(_STENCIL, _STENCIL)], axis=1)

_N_SAMPLES = len(_STENCIL) * len(_PLANE)


@dataclass(frozen=True, eq=False)
class _Around:
    """Views around the best ones of images; m in all, those of an image next to each other.

    Parameters
    ----------
    views
        Their numbers, (m,).
    edges
        (n_images + 1,): where those of each image begin, and the end.
    tilts
        Rotation vectors in the plane of the image that take the best pose to them, in spacings,
        (m, 2).
    psi_rad
        With which they differ from the best pose by such a tilt, (m,).
    """

    views: np.ndarray
    edges: np.ndarray
    tilts: np.ndarray
    psi_rad: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """Where those of each image begin."""
        return self.edges[:-1]

    @property
    def n(self) -> np.ndarray:
        """Number of those of each image."""
        return np.diff(self.edges)


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

    def __call__(self, moments: ImageMoments, view: np.ndarray, poses: Poses) -> RefinedPoses:
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
        RefinedPoses
            Those of the peaks; where there is none nearby, what was given.
        """
        given = np.stack([getattr(poses, name) for name in _FIELDS], axis=1)
        parts = [
            self._refined(moments.take(rows), view[rows], given[rows])
            for first in range(0, len(moments), _IMAGES_AT_ONCE)
            for rows in [slice(first, first + _IMAGES_AT_ONCE)]
        ]
        refined, has_peak = (np.concatenate(column) for column in zip(*parts, strict=True))
        columns = dict(zip(_FIELDS, refined.T, strict=True))
        return RefinedPoses(**columns, has_peak=has_peak)

    def _refined(
        self, moments: ImageMoments, view: np.ndarray, given: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Refine poses (rot, tilt, psi, δx, δy) of images; whether they have a peak."""
        base = rotation_matrices(given[:, :3])
        around = self._around(view, base)
        x = self._correlations(moments, around, given[:, 3:])
        is_free = np.append([True, True, True], self.step_A > 0)
        peak, is_peak = _Fit(x, around, is_free).peaks()
        moves = peak[is_peak] * [*[self.spacing_rad] * 2, self._psi_step_rad, *self.step_A]
        tilt = Rotation.from_rotvec(np.pad(moves[:, :2], ((0, 0), (0, 1)))).as_matrix()
        turn = rotation_matrices(np.pad(moves[:, 2:3], ((0, 0), (2, 0))))
        refined = given.copy()
        refined[is_peak, :3] = euler_angles(turn @ tilt @ base[is_peak])
        refined[is_peak, 3:] += moves[:, 3:]
        return refined, is_peak

    @property
    def _psi_step_rad(self) -> float:
        return 2 * math.pi / self.terms.basis.n_angles

    @cached_property
    def _directions(self) -> np.ndarray:
        return self.views.unit_vectors

    @cached_property
    def _matrices(self) -> np.ndarray:
        return rotation_matrices(self.views.euler_rad)

    def _around(self, view: np.ndarray, base: np.ndarray) -> _Around:
        """Find views around those of poses with these matrices."""
        cosine = self._directions[view] @ self._directions.T
        image, near = np.nonzero(cosine > math.cos(min(_REACH * self.spacing_rad, math.pi)))
        turned = self._matrices[near] @ base[image].swapaxes(1, 2)
        psi_rad = np.arctan2(turned[:, 1, 0] - turned[:, 0, 1], turned[:, 0, 0] + turned[:, 1, 1])
        untwist = rotation_matrices(np.pad(psi_rad[:, None], ((0, 0), (2, 0))))
        tilts = Rotation.from_matrix(untwist @ turned).as_rotvec()[:, :2]
        edges = np.searchsorted(image, np.arange(len(view) + 1))
        return _Around(near, edges, tilts / self.spacing_rad, psi_rad)

    # Correlations

    def _correlations(
        self, moments: ImageMoments, around: _Around, centre_A: np.ndarray
    ) -> np.ndarray:
        """Cross-correlations, (m, 3 in-plane angles, 9 displacements)."""
        step = self.terms.power_step
        ctf_power = torch.fft.rfft(moments.ctf.square(), dim=-1)[:, :, ::step].mT.cpu().numpy()
        i_yy = moments.i_yy.cpu().numpy()
        waves = np.exp(1j * around.psi_rad[:, None] * self._frequencies)
        parts = []
        for i, rows in enumerate(map(slice, around.edges[:-1], around.edges[1:])):
            views, delta_A = around.views[rows], centre_A[i] + self.step_A * _PLANE
            i_xy = self._products(moments.take(slice(i, i + 1)), views, waves[rows], delta_A)
            i_xx = self._powers(ctf_power[i], views, waves[rows, ::step])
            parts.append(i_xy / np.sqrt(i_xx * i_yy[i])[:, :, None])
        return np.concatenate(parts)

    def _products(
        self, moments: ImageMoments, views: np.ndarray, waves: np.ndarray, delta_A: np.ndarray
    ) -> np.ndarray:
        """Sum I_xy of one image, (n_views, 3, 9); views are turned by waves."""
        of_image = self.comparison.terms_of_displaced(moments, delta_A)
        turned = np.multiply(of_image, self._turns_of_terms[:, None], order="C")
        of_views = self.terms.terms[views].cpu().numpy()
        waves_of_terms = waves.astype(of_views.dtype).take(self._frequency_of_term, axis=1)
        of_views = np.multiply(of_views, waves_of_terms, order="C")
        # The real part of a product with a conjugate is the product of all parts
        real = of_views.real.dtype
        products: np.ndarray = of_views.view(real) @ turned.view(real).reshape(_N_SAMPLES, -1).T
        return products.reshape(len(views), len(_STENCIL), -1).astype(np.float64)

    def _powers(self, ctf_power: np.ndarray, views: np.ndarray, waves: np.ndarray) -> np.ndarray:
        """Sum I_xx under one CTF, (n_views, 3); its power is (n_frequencies, n_shells)."""
        power = self.terms.power.permute(2, 0, 1)[views].cpu().numpy().swapaxes(0, 1)
        n, step = len(power), self.terms.power_step
        of_ctf = np.ascontiguousarray(ctf_power[:n, :, None].conj())
        series = (power @ of_ctf)[:, :, 0].T
        sums: np.ndarray = ((series * waves[:, :n]) @ self._turns[:, ::step][:, :n].conj().T).real
        return sums

    @cached_property
    def _frequencies(self) -> np.ndarray:
        return np.arange(self.terms.basis.n_angles // 2 + 1)

    @cached_property
    def _frequency_of_term(self) -> np.ndarray:
        return np.repeat(self._frequencies, np.diff(self.terms.basis.first_term))

    @cached_property
    def _turns(self) -> np.ndarray:
        """Factors (3, n_frequencies) that turn an image back.

        They also count frequencies of half a series as often as they are in all of it.
        """
        frequencies, n_angles = self._frequencies, self.terms.basis.n_angles
        is_once = (frequencies == 0) | (2 * frequencies == n_angles)
        waves = np.exp(-1j * self._psi_step_rad * _STENCIL[:, None] * frequencies)
        turns: np.ndarray = waves * np.where(is_once, 1, 2) / n_angles
        return turns

    @cached_property
    def _turns_of_terms(self) -> np.ndarray:
        turns = self._turns.take(self._frequency_of_term, axis=1)
        of_terms: np.ndarray = turns.astype(self.terms.terms[:0].cpu().numpy().dtype)
        return of_terms


class _Fit:
    """Fits Gaussian peaks of five variables to the cross-correlations of images.

    The logarithm of a peak is quadratic much farther out than the peak itself.

    Parameters
    ----------
    x
        Cross-correlations, (m, 3 in-plane angles, 9 displacements).
    around
        The views that they are of.
    is_free
        Which variables there are, (5,).
    """

    def __init__(self, x: np.ndarray, around: _Around, is_free: np.ndarray) -> None:
        self._around, self._free = around, np.flatnonzero(is_free)
        n = len(self._free)
        pairs = list(combinations_with_replacement(range(n), 2))
        self._pairs = tuple(np.array(pairs).T)
        x = x.reshape(len(x), -1)
        largest = np.maximum.reduceat(x.max(axis=1), around.first)
        x = x / np.repeat(np.where(largest > 0, largest, 1.0), around.n)[:, None]
        is_high = x > _LOWEST
        relative = np.where(is_high, x, 1.0)
        # An error of a value is one of its logarithm in inverse proportion
        weights = np.where(is_high, relative**2, 0.0)
        of_tilts, of_stencil = self._monomials()
        squares = (of_stencil[:, :, None] * of_stencil[:, None, :]).reshape(len(of_stencil), -1)
        n_terms = of_stencil.shape[1]
        self._matrices = (weights @ squares).reshape(-1, n_terms, n_terms)
        self._matrices *= of_tilts[:, :, None] * of_tilts[:, None, :]
        self._values = (weights * np.log(relative)) @ of_stencil * of_tilts

    def _monomials(self) -> tuple[np.ndarray, np.ndarray]:
        """Terms of a quadratic function as products: factors of each view, and of the stencil."""

        def monomials(points: np.ndarray) -> np.ndarray:
            points = points[:, self._free]
            i, j = self._pairs
            return np.hstack([np.ones((len(points), 1)), points, points[:, i] * points[:, j]])

        tilts, ones = self._around.tilts, np.ones((len(self._around.tilts), 3))
        turn, plane = np.repeat(_STENCIL, len(_PLANE)), np.tile(_PLANE, (len(_STENCIL), 1))
        stencil = np.column_stack([np.ones((len(turn), 2)), turn, plane])
        return monomials(np.hstack([tilts, ones])), monomials(stencil)

    def peaks(self) -> tuple[np.ndarray, np.ndarray]:
        """Find where the peaks are, in steps, (n_images, 5), and which images have one nearby."""
        peak = np.zeros((len(self._around.n), 5))
        is_peak = np.ones(len(peak), dtype=bool)
        for _ in range(_N_FITS):
            found, exists = self._around_peak(peak)
            is_peak &= exists & (np.abs(found).max(axis=1) <= _FARTHEST)
            peak = np.where(is_peak[:, None], found, 0.0)
        return peak, is_peak

    def _around_peak(self, peak: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Fit once, views weighted by their distance from where a peak may be."""
        around = self._around
        distance = around.tilts - np.repeat(peak[:, :2], around.n, axis=0)
        weights = np.exp(-np.square(distance / _SPREAD).sum(axis=1) / 2)
        matrices = np.add.reduceat(self._matrices * weights[:, None, None], around.first)
        values = np.add.reduceat(self._values * weights[:, None], around.first)
        eigenvalues, vectors = np.linalg.eigh(matrices)
        is_known = eigenvalues[:, 0] > _SHALLOWEST * eigenvalues[:, -1]
        eigenvalues[~is_known] = 1
        coefficients = vectors @ ((vectors.mT @ values[:, :, None]) / eigenvalues[:, :, None])
        n, (i, j) = len(self._free), self._pairs
        curvature = np.zeros((len(peak), n, n))
        curvature[:, i, j] = coefficients[:, 1 + n :, 0]
        curvature += curvature.mT
        is_peak = is_known & (np.linalg.eigvalsh(curvature).max(axis=1) < 0)
        curvature[~is_peak] = -np.eye(n)
        found = np.zeros((len(peak), 5))
        found[:, self._free] = np.linalg.solve(curvature, -coefficients[:, 1 : 1 + n])[:, :, 0]
        return found, is_peak
