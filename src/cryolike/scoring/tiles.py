"""Cross-correlations of images with templates in all poses, tile by tile, on any device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cryolike.physics.likelihood import log_likelihood_of_pose
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.template_terms import TemplateTerms, angular_spectrum

__all__ = ["ImageMoments", "Tile", "Tiles", "displaced"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMoments:
    """Images to compare, and sums over them that no template enters.

    Parameters
    ----------
    images, ctf
        (n_images, n_shells, n_inplanes).
    i_yy
        Power I_yy of each image, (n_images,).
    v
        Correlation I_sy / √(I_yy I_ss) with an image of ones, (n_images,).
    """

    images: Tensor
    ctf: Tensor
    i_yy: Tensor
    v: Tensor

    def take(self, rows: slice) -> ImageMoments:
        """Only the images of some rows."""
        return ImageMoments(
            images=self.images[rows], ctf=self.ctf[rows], i_yy=self.i_yy[rows], v=self.v[rows]
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Some images against some templates.

    Parameters
    ----------
    rows, views
        Which.
    x
        Cross-correlations, (n_inplanes, n_images, n_displacements, n_views).
    log_likelihood
        Of each pose, of the same shape, but for what all poses of an image have in common, nats.
    """

    rows: slice
    views: slice
    x: Tensor
    log_likelihood: Tensor


class Tiles:
    """Computes tiles.

    Parameters
    ----------
    terms
        Of the templates.
    displacements
        To try.
    radius_shells, theta_shell
        Of the polar grid.
    box_size_A
        Å.
    ones
        Polar image of an image of ones, (n_shells, n_inplanes).
    i_ss
        Its power.
    n_compared
        Number of values that a comparison compares.
    memory_bytes
        What a tile may take.
    """

    def __init__(
        self,
        terms: TemplateTerms,
        displacements: Displacements,
        *,
        radius_shells: np.ndarray,
        theta_shell: np.ndarray,
        box_size_A: float,
        ones: Tensor,
        i_ss: float,
        n_compared: float,
        memory_bytes: float,
    ) -> None:
        self.terms, self.displacements = terms, displacements
        self._ones, self._i_ss, self._n_compared = ones, i_ss, n_compared
        self._memory_bytes = memory_bytes
        delta_A = torch.tensor(np.stack([displacements.x_A, displacements.y_A], 1))
        self._shift_back = displaced(
            -delta_A.to(ones.device), radius_shells, theta_shell, box_size_A
        ).to(ones.dtype)

    def __call__(self, moments: ImageMoments) -> Iterator[Tile]:
        """Compare images with all templates, image by image where memory is short.

        Parameters
        ----------
        moments
            The images.

        Yields
        ------
        Tile
            All views of some images before those of the next.
        """
        n_images, n_views = len(moments.images), len(self.terms.terms)
        n_rows, n_columns = self._tile_size(n_images)
        for first in range(0, n_images, n_rows):
            rows = slice(first, min(first + n_rows, n_images))
            part = moments.take(rows)
            of_images, of_ones, power = self._prepare(part)
            for start in range(0, n_views, n_columns):
                views = slice(start, min(start + n_columns, n_views))
                yield self._tile(part, of_images, of_ones, power, rows, views)

    def _tile_size(self, n_images: int) -> tuple[int, int]:
        """Images and views of a tile that fit into memory."""
        n_displacements, n_shells, n_angles = self._shift_back.shape
        itemsize = self._shift_back.element_size()
        # Shifted images, their spectra and terms; then x, u, the likelihood and what makes them
        image_bytes = 4 * n_displacements * n_shells * n_angles * itemsize
        pose_bytes = 5 * itemsize
        n_rows = int(np.clip(self._memory_bytes / 4 / image_bytes, 1, n_images))
        n_columns = self._memory_bytes / 2 / (n_rows * n_displacements * n_angles * pose_bytes)
        return n_rows, int(np.clip(n_columns, 1, len(self.terms.terms)))

    def _prepare(self, moments: ImageMoments) -> tuple[Tensor, Tensor, Tensor]:
        """Terms of displaced images and of displaced ones, and the series of CTF²."""
        basis, step = self.terms.basis, self.terms.power_step
        images = (moments.images * moments.ctf)[:, None] * self._shift_back
        of_images = basis.compress(angular_spectrum(images.flatten(0, 1)))
        ones = (self._ones * moments.ctf)[:, None] * self._shift_back
        of_ones = basis.compress(angular_spectrum(ones.flatten(0, 1)))
        power = torch.fft.rfft(moments.ctf.square(), dim=-1)[..., ::step].permute(2, 0, 1)
        return of_images, of_ones, power

    def _tile(
        self,
        moments: ImageMoments,
        of_images: Tensor,
        of_ones: Tensor,
        power: Tensor,
        rows: slice,
        views: slice,
    ) -> Tile:
        shape = (-1, len(moments.images), len(self.displacements), views.stop - views.start)
        i_xx = self._template_power(power, views)
        x = self._inner_products(of_images, views).reshape(shape)
        x *= (i_xx * moments.i_yy.to(i_xx.dtype)[:, None, None]).rsqrt()
        u = self._inner_products(of_ones, views).reshape(shape)
        u *= (i_xx * self._i_ss).rsqrt()
        v = moments.v.to(x.dtype)[:, None, None]
        likelihood = log_likelihood_of_pose(x, u, v, i_xx, self._n_compared)
        return Tile(rows=rows, views=views, x=x, log_likelihood=likelihood)

    def _template_power(self, power: Tensor, views: slice) -> Tensor:
        """I_xx of each turned template under each CTF, (n_inplanes, n_images, 1, n_views)."""
        series = power @ self.terms.power[:, :, views].conj()
        n_angles = self.terms.basis.n_angles // self.terms.power_step
        # One period of several; the series are of the whole circle
        i_xx: Tensor = torch.fft.irfft(series, n=n_angles, dim=0) / self.terms.power_step
        return i_xx.repeat(self.terms.power_step, 1, 1)[:, :, None, :]

    def _inner_products(self, of_images: Tensor, views: slice) -> Tensor:
        """⟨image, displaced, turned template⟩ of all angles, (n_inplanes, n_images, n_views)."""
        templates = self.terms.terms[views].conj().T
        n_frequencies = len(self.terms.basis.terms)
        series = of_images.new_zeros(n_frequencies, len(of_images), templates.shape[1])
        for q, terms in enumerate(self.terms.basis.terms):
            torch.matmul(of_images[:, terms], templates[terms], out=series[q])
        products: Tensor = torch.fft.irfft(series, n=self.terms.basis.n_angles, dim=0)
        return products


def displaced(
    displacement_A: Tensor, radius_shells: np.ndarray, theta_shell: np.ndarray, box_size_A: float
) -> Tensor:
    """Factors that displace polar images, exp(−2πi (2k/L)(δx cos θ + δy sin θ)).

    Parameters
    ----------
    displacement_A
        (n, 2): δx and δy, Å, float64.
    radius_shells, theta_shell
        Of the polar grid; the spatial frequency is 2k / `box_size_A`.
    box_size_A
        L, Å.

    Returns
    -------
    Tensor
        complex128, (n, n_shells, n_inplanes).
    """
    theta = torch.tensor(theta_shell, device=displacement_A.device)
    along = displacement_A @ torch.stack([theta.cos(), theta.sin()])
    radius = torch.tensor(radius_shells, device=displacement_A.device)
    phase = -4 * math.pi / box_size_A * radius[:, None] * along[:, None, :]
    return torch.polar(torch.ones_like(phase), phase)
