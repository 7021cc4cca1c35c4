"""Pixels out of polar images, against the pixels that went in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.inverse_polar import pixels_of_polar_images
from cryolike.physics.polar import PolarTransform
from cryolike.simulate import asymmetric_particle, project


def test_smooth_images_come_back() -> None:
    """Gaussians far from the edges come back to a thousandth, each in its place."""
    descriptor = ImageDescriptor.from_individual_values(32, 2.0)
    y, x = np.indices((32, 32)) - 16.0
    images = np.stack(
        [np.exp(-((x - 3) ** 2 + (y + 2) ** 2) / 8), np.exp(-(x**2 / 6 + (y - 4) ** 2 / 18))]
    )
    polar = PolarTransform.of_descriptor(descriptor)(torch.from_numpy(images.astype(np.float32)))
    back = pixels_of_polar_images(polar, descriptor)
    assert np.linalg.norm(back - images) < 1e-3 * np.linalg.norm(images)


@pytest.mark.parametrize("n_pixels", [32, 33])
def test_projections_come_back(n_pixels: int) -> None:
    """A projection without fine detail comes back from its polar image, in place and in size."""
    descriptor = ImageDescriptor.from_individual_values(n_pixels, 4.0, "double")
    euler = np.array([[0.3, 0.8, -1.0], [2.0, 1.0, 0.5]])
    origins = np.array([[8.0, -4.0], [0.0, 12.0]])
    model = replace(asymmetric_particle(32.0), sigmas_A=np.full(60, 7.0))
    pixels = project(model, euler, origins, n_pixels, 4.0)
    pixels -= pixels.mean(axis=(1, 2), keepdims=True)
    polar_images = PolarTransform.of_descriptor(descriptor)(torch.from_numpy(pixels))
    back = pixels_of_polar_images(polar_images, descriptor)
    assert back.shape == pixels.shape
    assert np.abs(back - pixels).max() < 0.03 * np.abs(pixels).max()
    smooth = pixels_of_polar_images(polar_images, descriptor, 40.0)
    assert 0.05 < smooth.std() / pixels.std() < 0.9
