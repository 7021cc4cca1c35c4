"""What comparisons share, against direct sums in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cryolike import ImageDescriptor
from cryolike.physics.polar import PolarTransform
from cryolike.scoring.comparison import ComparedGrid, ImageMoments, displaced

DESCRIPTOR = ImageDescriptor.from_individual_values(24, 2.0)
DELTA_A = np.array([[0.0, 0.0], [3.7, -11.0], [24.0, 24.0]])


def make_grid() -> ComparedGrid:
    """Grid of the descriptor."""
    return ComparedGrid.of_descriptor(DESCRIPTOR, "disc")


def make_images(n: int) -> torch.Tensor:
    """Transform real noise."""
    pixels = torch.randn(n, 24, 24, generator=torch.Generator().manual_seed(0))
    return PolarTransform.of_descriptor(DESCRIPTOR)(pixels)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.complex64, 2e-7), (torch.complex128, 1e-12)])
def test_factors_of_displacements(dtype: torch.dtype, bound: float) -> None:
    """They are exp(−2πi f·δ), at displacements of half the box too."""
    grid = make_grid()
    fx, fy = (
        2 / grid.box_size_A * grid.radius_shells[:, None] * wave(grid.theta_shell)
        for wave in (np.cos, np.sin)
    )
    for delta, found in zip(DELTA_A, displaced(DELTA_A, grid, dtype), strict=True):
        expected = np.exp(-2j * np.pi * (fx * delta[0] + fy * delta[1]))
        assert found.dtype == dtype
        for part in (np.real, np.imag):
            np.testing.assert_allclose(part(found.numpy()), part(expected), atol=bound, rtol=0)


def test_sums_are_integrals_over_the_grid() -> None:
    """Of as many images as there are, with one for all or one for each."""
    grid, images = make_grid(), make_images(300)
    doubled = images.numpy().astype(complex)
    weight = DESCRIPTOR.polar_grid.point_weight_shells[:, None]
    expected = (weight * np.abs(doubled) ** 2).sum(axis=(1, 2))
    np.testing.assert_allclose(grid.sum(images, images).numpy(), expected, rtol=1e-7)
    expected = (weight * (doubled[7].conj() * doubled).real).sum(axis=(1, 2))
    found = grid.sum(images[7], images).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_half_of_the_circle_is_enough() -> None:
    """Sums over it are those over the whole circle, since the images are real."""
    grid, images = make_grid(), make_images(5)
    half = grid.half_circle()
    n_kept = len(half.theta_shell)
    assert n_kept == images.shape[-1] // 2
    kept = images[..., :n_kept]
    np.testing.assert_allclose(half.sum(kept, kept), grid.sum(images, images), rtol=1e-6)
    ones = grid.ones.to(images)
    expected = grid.sum(ones, images).numpy()
    found = half.sum(half.ones.to(images), kept).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())


def test_moments_of_inner_shells_keep_the_power_of_all() -> None:
    """Correlations of a part are with the whole image's norm."""
    grid, images = make_grid(), make_images(4)
    moments = ImageMoments.of_images(images, torch.ones_like(images.real), grid)
    inner = moments.limited(5).take(slice(1, 3))
    assert inner.images.shape[:2] == inner.ctf.shape[:2] == inner.ctf_series.shape[:2] == (2, 5)
    torch.testing.assert_close(inner.i_yy, moments.i_yy[1:3])
