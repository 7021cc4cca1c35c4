"""The polar transform alone against finufft, at its first and at its best, and a padded FFT."""

from __future__ import annotations

import finufft_ways
import numpy as np
import scipy.fft
import torch
from measure import Comparison, Way, compare, main, time_in_turn
from references import noise
from sets import PIXEL_SIZE_A

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.polar import PolarTransform

_N_TRIED = 64
"""Images that settings of finufft are tried on: 16 pairs for each of two workers."""

_N_AT_ONCE = 32
"""Images in a call of the padded FFT."""


def run(
    n_pixels: int = 128,
    n_images: int = 2048,
    n_runs: int = 3,
    *,
    settings: finufft_ways.Settings | None = None,
    has_targets: bool = True,
) -> list[Comparison]:
    """Compare on the default grid in single precision, all images and results in memory.

    Without settings of finufft, the best are found first.
    """
    descriptor = ImageDescriptor.from_individual_values(n_pixels, PIXEL_SIZE_A)
    transform, polar = PolarTransform.of_descriptor(descriptor), descriptor.polar_grid
    images = noise(n_images, n_pixels)
    out = torch.zeros((n_images, polar.n_shells, polar.n_inplanes), dtype=torch.complex64)
    few = images[: max(1, n_images // 32)].numpy()

    if settings is None:
        print(f"settings of finufft for {n_pixels} pixels:")
        settings = finufft_ways.best_settings(descriptor, images[:_N_TRIED].numpy())
    packed = finufft_ways.PackedFinufft(descriptor, settings)
    packed_out = np.zeros(out.shape, dtype=np.complex64)

    def padded_fft() -> None:
        shape = (2 * n_pixels, 2 * n_pixels)
        for start in range(0, n_images, _N_AT_ONCE):
            scipy.fft.rfft2(images[start : start + _N_AT_ONCE].numpy(), s=shape, workers=2)

    ours, *others = time_in_turn(
        Way(
            name=f"transform alone, {n_pixels} pixels",
            work=lambda: transform(images, out=out),
            amount=n_images,
        ),
        Way(
            name="finufft, one image per call, complex128, eps 1e-12",
            work=lambda: finufft_ways.one_by_one(descriptor, few),
            amount=len(few),
        ),
        Way(
            name=f"finufft, two images in one transform, complex64, {settings}",
            work=lambda: packed(images.numpy(), packed_out),
            amount=n_images,
        ),
        Way(name="2× padded real FFT, nothing else", work=padded_fft, amount=n_images),
        n_runs=n_runs,
    )
    targets = (30, 2, 1 / 3) if has_targets else (None, None, None)
    return [
        compare(ours, other, at_least=target) for other, target in zip(others, targets, strict=True)
    ]


if __name__ == "__main__":
    main(run)
