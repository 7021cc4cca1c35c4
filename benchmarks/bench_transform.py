"""The polar transform alone against finufft, one image per call, and against a padded FFT."""

from __future__ import annotations

import finufft
import numpy as np
import scipy.fft
import torch
from measure import Comparison, compare, markdown_table

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.polar import PolarTransform


def run(n_pixels: int = 128, n_images: int = 512, n_runs: int = 3) -> list[Comparison]:
    """Compare on the default grid in single precision."""
    descriptor = ImageDescriptor.from_individual_values(n_pixels, 1.5)
    transform = PolarTransform.of_descriptor(descriptor)
    pixels = np.random.default_rng(0).standard_normal((n_images, n_pixels, n_pixels))
    images = torch.from_numpy(pixels).float()
    polar = descriptor.polar_grid
    out = torch.empty((n_images, polar.n_shells, polar.n_inplanes), dtype=torch.complex64)
    frequency = 4 * np.pi / n_pixels * polar.radius_shells[:, None]
    x = (frequency * np.cos(polar.theta_shell)).ravel()
    y = (frequency * np.sin(polar.theta_shell)).ravel()
    few = max(1, n_images // 32)

    def one_by_one() -> None:
        for image in pixels[:few]:
            finufft.nufft2d2(y, x, image.astype(np.complex128), isign=-1, eps=1e-12)

    def padded_fft() -> None:
        for start in range(0, n_images, 32):
            shape = (2 * n_pixels, 2 * n_pixels)
            scipy.fft.rfft2(images[start : start + 32].numpy(), s=shape, workers=2)

    name = f"transform, {n_pixels} pixels"
    return [
        compare(
            name,
            lambda: transform(images, out=out),
            "finufft, one image per call, 1e-12",
            one_by_one,
            n_items=n_images,
            n_reference_items=few,
            n_runs=n_runs,
        ),
        compare(
            name,
            lambda: transform(images, out=out),
            "padded real FFT alone",
            padded_fft,
            n_items=n_images,
            n_reference_items=n_images,
            n_runs=n_runs,
        ),
    ]


if __name__ == "__main__":
    print(markdown_table([c for n in (64, 96, 128, 256) for c in run(n)]))
