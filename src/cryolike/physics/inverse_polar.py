"""From polar Fourier images back to pixels."""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from cryolike.descriptor import ImageDescriptor

__all__ = ["pixels_of_polar_images"]


def pixels_of_polar_images(
    polar_images: Complex[Tensor, "n_images n_shells n_inplanes"],
    descriptor: ImageDescriptor,
    low_pass_A: float = 0.0,
) -> Float[np.ndarray, "n_images side side"]:
    """Go back from polar images to pixels, by the quadrature of the inverse transform.

    Parameters
    ----------
    polar_images
        Complex, (n_images, n_shells, n_inplanes).
    descriptor
        Of the images.
    low_pass_A
        Take away what is finer, softly; 0 for nothing.

    Returns
    -------
    ndarray
        float64, (n_images, N, N), x in columns; holds the frequencies of the polar grid only.
    """
    polar, grid = descriptor.polar_grid, descriptor.cartesian_grid
    cycles_per_px = 2 * polar.radius_shells[:, None] / grid.side_px
    weight = polar.point_weight_shells / (np.pi * grid.side_px)
    frequency_per_A = 2 * polar.radius_shells / grid.box_size_A
    weight = weight * np.exp(-np.log(2) * (frequency_per_A * low_pass_A) ** 4)
    waves_x, waves_y = (
        torch.from_numpy(np.exp(2j * np.pi * np.outer(cycles_per_px * of_axis, grid.offsets_px)))
        for of_axis in (np.cos(polar.theta_shell), np.sin(polar.theta_shell))
    )
    values = polar_images.to("cpu", torch.complex128) * torch.from_numpy(weight)[:, None]
    pixels = [(waves_y.T * few.ravel()) @ waves_x for few in values]
    return np.stack([np.asarray(image.real.numpy()) for image in pixels])
