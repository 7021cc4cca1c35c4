"""An oracle for scoring: every pose by itself, by plain sums in double precision.

Nothing here is fast and nothing is shared with the package's scoring: templates are rotated by
moving their columns, displaced by explicit phases, and compared by sums over all polar points. The
likelihood is the Gaussian integral over scale and offset by its matrix, and the one over the noise
variance by its Γ function.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln, logsumexp

from cryolike.grids import PolarGrid

__all__ = ["AllPoses", "Sums", "direct_transform", "integrated", "score_all_poses"]


@dataclass(frozen=True, kw_only=True)
class Sums:
    """The six products of image y, template x as the microscope shows it, and box s."""

    xx: float
    yy: float
    xy: float
    ss: float
    sx: float
    sy: float

    @property
    def cross_correlation(self) -> float:
        """Of image and template."""
        return float(self.xy / np.sqrt(self.xx * self.yy))

    def log_likelihood(self, n: float) -> float:
        """Log ∫dv ∫dα ∫dβ (2πv)^(−n/2) exp(−|y − αx − βs|²/2v)."""
        gram = np.array([[self.xx, self.sx], [self.sx, self.ss]])
        products = np.array([self.xy, self.sy])
        residual = self.yy - products @ np.linalg.solve(gram, products)
        over_scale_and_offset = np.log(2 * np.pi) - np.log(np.linalg.det(gram)) / 2
        p = n / 2 - 2
        over_variance = gammaln(p) - p * np.log(residual / 2)
        return float(over_scale_and_offset + over_variance - n / 2 * np.log(2 * np.pi))


@dataclass(frozen=True, kw_only=True, eq=False)
class AllPoses:
    """Scores of one image, (n_views, n_displacements, n_inplanes) each."""

    cross_correlation: np.ndarray
    log_likelihood: np.ndarray

    @property
    def best(self) -> tuple[int, int, int]:
        """View, displacement and in-plane angle of the largest cross-correlation."""
        place = np.unravel_index(self.cross_correlation.argmax(), self.cross_correlation.shape)
        view, displacement, inplane = map(int, place)
        return view, displacement, inplane


def direct_transform(image: np.ndarray, polar: PolarGrid) -> np.ndarray:
    """(4π/N) Σ_xy I[y, x] exp(−2πi (2k/N)(x cos θ + y sin θ)), shell by shell."""
    n_pixels = len(image)
    axis_px = np.arange(n_pixels) - n_pixels // 2
    y, x = (axis.ravel() for axis in np.meshgrid(axis_px, axis_px, indexing="ij"))
    along = np.outer(np.cos(polar.theta_shell), x) + np.outer(np.sin(polar.theta_shell), y)
    shells = [
        np.exp(-2j * np.pi * (2 * radius / n_pixels) * along) @ image.ravel()
        for radius in polar.radius_shells
    ]
    transform: np.ndarray = np.stack(shells) * (4 * np.pi / n_pixels)
    return transform


def product(a: np.ndarray, b: np.ndarray, polar: PolarGrid) -> float:
    """Σ over the polar points of weight · Re(conj(a) b)."""
    return float(np.sum(polar.point_weight_shells[:, None] * (a.conj() * b).real))


def posed(
    template: np.ndarray,
    n_steps: int,
    displacement_A: tuple[float, float],
    polar: PolarGrid,
    box_A: float,
) -> np.ndarray:
    """Template rotated by steps of the in-plane grid, then displaced."""
    rotated = np.roll(template, n_steps, axis=1)  # R T(θ_j) = T(θ_j − γ)
    x_A, y_A = displacement_A
    along_A = x_A * np.cos(polar.theta_shell) + y_A * np.sin(polar.theta_shell)
    frequency_per_A = 2 * polar.radius_shells / box_A
    placed: np.ndarray = rotated * np.exp(-2j * np.pi * frequency_per_A[:, None] * along_A[None, :])
    return placed


def score_all_poses(
    image: np.ndarray,
    ctf: np.ndarray,
    templates: np.ndarray,
    displacements_A: np.ndarray,
    polar: PolarGrid,
    *,
    n_pixels: int,
    box_A: float,
    n_compared: float,
) -> AllPoses:
    """Score one polar image at every pose.

    Parameters
    ----------
    image, ctf
        (n_shells, n_inplanes).
    templates
        (n_views, n_shells, n_inplanes).
    displacements_A
        Columns x and y, (n_displacements, 2).
    polar
        Grid of all of them.
    n_pixels, box_A
        Of the box.
    n_compared
        Number of real values that count as compared.
    """
    box = direct_transform(np.ones((n_pixels, n_pixels)), polar)
    shape = (len(templates), len(displacements_A), polar.n_inplanes)
    correlations, likelihoods = np.empty(shape), np.empty(shape)
    for view, displacement, inplane in np.ndindex(shape):
        x_A, y_A = displacements_A[displacement]
        x = ctf * posed(templates[view], inplane, (x_A, y_A), polar, box_A)
        sums = Sums(
            xx=product(x, x, polar),
            yy=product(image, image, polar),
            xy=product(image, x, polar),
            ss=product(box, box, polar),
            sx=product(box, x, polar),
            sy=product(box, image, polar),
        )
        correlations[view, displacement, inplane] = sums.cross_correlation
        likelihoods[view, displacement, inplane] = sums.log_likelihood(n_compared)
    return AllPoses(cross_correlation=correlations, log_likelihood=likelihoods)


def integrated(
    log_likelihood: np.ndarray, view_weights: np.ndarray, displacement_prior: np.ndarray
) -> float:
    """Log Σ_view w Σ_displacement prior · mean over in-plane angles of L."""
    probability = (
        view_weights[:, None, None]
        * displacement_prior[None, :, None]
        * np.full(log_likelihood.shape[2], 1 / log_likelihood.shape[2])
    )
    return float(logsumexp(log_likelihood, b=probability))
