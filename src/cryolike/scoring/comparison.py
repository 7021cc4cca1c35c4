"""What is compared, and what a comparison finds, whoever computes it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.physics import likelihood
from cryolike.physics.likelihood import CountedValues
from cryolike.physics.polar import PolarTransform

__all__ = ["ComparedGrid", "Comparison", "ImageMoments", "ViewScores", "displaced"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ComparedGrid:
    """Where images and templates are compared.

    Parameters
    ----------
    radius_shells, weight_shells
        Of the shells, and of one point of each in an integral, (n_shells,).
    theta_shell
        Radians, (n_inplanes,).
    box_size_A
        L, Å: the spatial frequency is 2k/L.
    ones
        Polar image of an image of ones, complex128, (n_shells, n_inplanes).
    i_ss
        Its power on the whole grid.
    n_compared
        Number N of values that a comparison compares.
    """

    radius_shells: np.ndarray
    weight_shells: np.ndarray
    theta_shell: np.ndarray
    box_size_A: float
    ones: Tensor
    i_ss: float
    n_compared: float

    @classmethod
    def of_descriptor(cls, descriptor: ImageDescriptor, counted: CountedValues) -> Self:
        """Take the whole polar grid of a descriptor."""
        pixels, polar = descriptor.cartesian_grid, descriptor.polar_grid
        image = torch.ones(1, pixels.side_px, pixels.side_px, dtype=torch.float64)
        ones = PolarTransform(pixels, polar, "double")(image)[0]
        weight = torch.tensor(polar.point_weight_shells)
        return cls(
            radius_shells=polar.radius_shells,
            weight_shells=polar.point_weight_shells,
            theta_shell=polar.theta_shell,
            box_size_A=pixels.box_size_A,
            ones=ones,
            i_ss=float(weight @ ones.abs().square().sum(dim=-1)),
            n_compared=likelihood.n_compared(descriptor, counted),
        )

    def limited(self, n_shells: int) -> Self:
        """Take the innermost shells only."""
        return replace(
            self,
            radius_shells=self.radius_shells[:n_shells],
            weight_shells=self.weight_shells[:n_shells],
            ones=self.ones[:n_shells],
        )

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum ⟨a, b⟩ over the last two axes, float64."""
        weight = torch.tensor(self.weight_shells, device=a.device)[:, None]
        return ((a.conj() * b).real * weight).sum(dim=(-2, -1))


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageMoments:
    """Images to compare, and sums over them that no template enters.

    Parameters
    ----------
    images, ctf
        (n_images, n_shells, n_inplanes).
    i_yy
        Power I_yy of each image on the whole grid, float64, (n_images,).
    v
        Correlation I_sy / √(I_yy I_ss) with an image of ones, float64, (n_images,).
    """

    images: Tensor
    ctf: Tensor
    i_yy: Tensor
    v: Tensor

    @classmethod
    def of_images(cls, images: Tensor, ctf: Tensor, grid: ComparedGrid) -> Self:
        """Sum over images on the whole grid."""
        i_yy = grid.sum(images, images)
        v = grid.sum(grid.ones.to(images.device), images) / (i_yy * grid.i_ss).sqrt()
        return cls(images=images, ctf=ctf, i_yy=i_yy, v=v)

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: slice | np.ndarray) -> Self:
        """Take only the images of some rows."""
        return type(self)(
            images=self.images[rows], ctf=self.ctf[rows], i_yy=self.i_yy[rows], v=self.v[rows]
        )

    def limited(self, n_shells: int) -> Self:
        """Take the innermost shells only."""
        return replace(self, images=self.images[:, :n_shells], ctf=self.ctf[:, :n_shells])


@dataclass(frozen=True, kw_only=True, eq=False)
class ViewScores:
    """The best pose of each image under each template.

    All fields have shape (n_images, n_views).

    Parameters
    ----------
    cross_correlation
        Largest over in-plane angles and displacements.
    inplane, displacement
        Where it is: numbers on the grids, int64.
    log_likelihood_integrated
        Integrated over in-plane angles and displacements, float64, nats, but for what all poses of
        an image have in common.
    """

    cross_correlation: Tensor
    inplane: Tensor
    displacement: Tensor
    log_likelihood_integrated: Tensor


@runtime_checkable
class Comparison(Protocol):
    """Compares images with the templates of one structure.

    Displacements are (n, 2), δx and δy in Å, with logarithms of their priors, (n,).
    """

    def best_of_views(
        self, moments: ImageMoments, delta_A: np.ndarray, log_prior: np.ndarray
    ) -> ViewScores:
        """Compare images with all views at the same displacements."""
        ...

    def best_of_cells(self, moments: ImageMoments, delta_A: np.ndarray) -> Tensor:
        """Largest cross-correlation over angles, (n_images, n_views, n_displacements)."""
        ...

    def best_of_chosen(
        self,
        moments: ImageMoments,
        delta_A: list[np.ndarray],
        log_prior: list[np.ndarray],
        views: list[np.ndarray],
    ) -> list[ViewScores]:
        """Compare each image with views and displacements of its own; one result for each."""
        ...

    def terms_of_displaced(self, moments: ImageMoments, delta_A: np.ndarray) -> np.ndarray:
        """Terms of one image, moved back by displacements: complex, (n_displacements, n_terms)."""
        ...


def displaced(delta_A: np.ndarray | Tensor, grid: ComparedGrid) -> Tensor:
    """Factors that displace polar images, exp(−2πi (2k/L)(δx cos θ + δy sin θ)).

    Parameters
    ----------
    delta_A
        (n, 2): δx and δy, Å.
    grid
        Of the images.

    Returns
    -------
    Tensor
        complex128, (n, n_shells, n_inplanes).
    """
    delta = torch.as_tensor(delta_A, dtype=torch.float64)
    theta = torch.tensor(grid.theta_shell, device=delta.device)
    radius = torch.tensor(grid.radius_shells, device=delta.device)
    along = delta @ torch.stack([theta.cos(), theta.sin()])
    phase = -4 * math.pi / grid.box_size_A * radius[:, None] * along[:, None, :]
    return torch.polar(torch.ones_like(phase), phase)
