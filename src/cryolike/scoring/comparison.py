"""What is compared, and what a comparison finds, whoever computes it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Protocol, Self, TypeVar, no_type_check, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.physics import likelihood
from cryolike.physics.compiled import _compiled, oscillate
from cryolike.physics.likelihood import CountedValues
from cryolike.physics.polar import PolarTransform
from cryolike.scoring.turned_power import series_of_squares

__all__ = [
    "BestOfViews",
    "ChosenPoses",
    "ComparedGrid",
    "Comparison",
    "Found",
    "ImageMoments",
    "ViewScores",
    "displaced",
]

Found = TypeVar("Found")

_BYTES_AT_ONCE = 2**28
"""What sums on a GPU work on at once."""


@partial(_compiled, fastmath={"reassoc", "contract", "nsz"})  # to find what is not finite
@no_type_check
def _sum_products(a, b, weight, out):
    """Sum products over the last two axes, weighted along the first of them.

    Parameters
    ----------
    a, b
        (n or 1, n_shells, n_numbers), (n, n_shells, n_numbers).
    weight
        (n_shells,).
    out
        (n,), float64.
    """
    for i in range(b.shape[0]):
        of_all, out[i] = a[min(i, a.shape[0] - 1)], 0
        for k in range(b.shape[1]):
            total = 0.0
            for j in range(b.shape[2]):
                total += np.float64(of_all[k, j] * b[i, k, j])
            out[i] += weight[k] * total


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

    def half_circle(self) -> Self:
        """Leave out angles that are opposite to others: real images are conjugates there.

        Sums over what is left are half of those over the whole circle. Where opposite angles are
        not on the grid, it is left as it is.
        """
        n_angles = len(self.theta_shell)
        if n_angles % 2:
            return self
        kept = slice(n_angles // 2)
        return replace(
            self,
            weight_shells=2 * self.weight_shells,
            theta_shell=self.theta_shell[kept],
            ones=self.ones[:, kept],
        )

    def sum(self, a: Tensor, b: Tensor) -> Tensor:
        """Sum ⟨a, b⟩ over the last two axes, float64; `a` may be one for all (n, ...) of b."""
        if b.device.type == "cpu":
            of_all, numbers = (torch.view_as_real(x).flatten(-2).numpy() for x in (a, b))
            out = np.empty(len(b))
            _sum_products(of_all.reshape(-1, *numbers.shape[1:]), numbers, self.weight_shells, out)
            return torch.from_numpy(out)
        weight = torch.tensor(self.weight_shells, device=b.device)
        n_at_once = max(1, _BYTES_AT_ONCE // b[0].nbytes)
        sums = []
        for first in range(0, len(b), n_at_once):
            few = slice(first, first + n_at_once)
            parts = torch.view_as_real(a if a.ndim == 2 else a[few]) * torch.view_as_real(b[few])
            sums.append(parts.flatten(-2).sum(dim=-1, dtype=torch.float64) @ weight)
        return torch.cat(sums)


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
    ctf_series
        `series_of_squares` of the CTFs, (n_images, n_shells, n_frequencies).
    """

    images: Tensor
    ctf: Tensor
    ctf_series: Tensor
    i_yy: Tensor
    v: Tensor

    @classmethod
    def of_images(cls, images: Tensor, ctf: Tensor, grid: ComparedGrid) -> Self:
        """Sum over images on the whole grid."""
        i_yy = grid.sum(images, images)
        v = grid.sum(grid.ones.to(images), images) / (i_yy * grid.i_ss).sqrt()
        return cls(images=images, ctf=ctf, i_yy=i_yy, v=v, ctf_series=series_of_squares(ctf))

    def __len__(self) -> int:
        return len(self.images)

    def take(self, rows: slice | np.ndarray) -> Self:
        """Take only the images of some rows."""
        return type(self)(**{name: column[rows] for name, column in vars(self).items()})

    def limited(self, n_shells: int) -> Self:
        """Take the innermost shells only."""
        names = "images", "ctf", "ctf_series"
        return replace(self, **{name: getattr(self, name)[:, :n_shells] for name in names})


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


@dataclass(frozen=True, kw_only=True, eq=False)
class BestOfViews:
    """The best pose of one image under each of some templates.

    Attributes
    ----------
    cross_correlation, displacement, inplane
        (n_views,): the largest over displacements and angles, and where it is; the first where
        there are several.
    log_likelihood_integrated
        (n_views,) nats: log Σ prior · L over displacements, mean over angles, but for what all
        poses of the image have in common; −∞ where everything was left out.
    """

    cross_correlation: np.ndarray
    displacement: np.ndarray
    inplane: np.ndarray
    log_likelihood_integrated: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenPoses:
    """What some images are compared with, besides all in-plane angles.

    Attributes
    ----------
    images
        Numbers of the images, int64, (n,).
    views, displacements
        Numbers of the views and of the displacements of each image, int64; one at least.
    """

    images: np.ndarray
    views: list[np.ndarray]
    displacements: list[np.ndarray]


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

    def arrays(self, moments: ImageMoments) -> Any:
        """Prepare images for the functions below, which look at some of them each."""
        ...

    def each(self, work: Callable[[int], Found], n: int) -> list[Found]:
        """Do something for each number below n, for several at once where that is quicker."""
        ...

    def largest_of_chosen(
        self, arrays: Any, chosen: ChosenPoses, delta_A: np.ndarray
    ) -> list[np.ndarray]:
        """Largest cross-correlations over angles, (n_views, n_displacements) of each image."""
        ...

    def best_of_chosen(
        self, arrays: Any, chosen: ChosenPoses, delta_A: np.ndarray, log_prior: np.ndarray
    ) -> list[BestOfViews]:
        """Compare images with some of the views; results count what is chosen, in its order."""
        ...

    def terms_of_displaced(self, moments: ImageMoments, delta_A: np.ndarray) -> np.ndarray:
        """Terms of one image, moved back by displacements: complex, (n_displacements, n_terms)."""
        ...


def displaced(
    delta_A: np.ndarray,
    grid: ComparedGrid,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Factors that displace polar images, exp(−2πi (2k/L)(δx cos θ + δy sin θ)).

    Parameters
    ----------
    delta_A
        (n, 2): δx and δy, Å.
    grid
        Of the images.
    dtype, device
        Complex type of the result, and where it is.

    Returns
    -------
    Tensor
        (n, n_shells, n_inplanes).
    """
    theta = grid.theta_shell
    along_A = np.asarray(delta_A, np.float64) @ np.stack([np.cos(theta), np.sin(theta)])
    frequency_per_A = 2 * grid.radius_shells / grid.box_size_A
    if dtype == torch.complex64 and torch.device(device).type == "cpu":
        shape = len(along_A), len(frequency_per_A)
        parts = np.empty((2, *shape, len(theta)), np.float32)
        for part, phase in zip(parts, (-0.25, 0.0), strict=True):
            oscillate(np.full(shape, phase), frequency_per_A, along_A, np.ones(shape), part)
        return torch.complex(*torch.from_numpy(parts))
    along = torch.tensor(along_A, device=device)[:, None]
    angle = -2 * math.pi * torch.tensor(frequency_per_A, device=device)[:, None] * along
    return torch.polar(torch.ones_like(angle), angle).to(dtype)
