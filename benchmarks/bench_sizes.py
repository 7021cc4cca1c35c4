"""The polar transform alone for other sizes of images, against the same as `bench_transform`."""

from __future__ import annotations

from collections.abc import Sequence

import bench_transform
from finufft_ways import Settings
from measure import Comparison, main

_SETTINGS = Settings(n_workers=2, n_threads=1, n_trans=8, upsampfac=2.0, eps=3e-6, fftw=0)
"""Among the fastest at 128 pixels. For larger images finufft's complex64 keeps no error of 1e-5,
whatever the settings, so that none can be chosen by that limit."""


def run(
    sizes: Sequence[int] = (64, 96, 256, 360), n_images: int = 2048, n_runs: int = 3
) -> list[Comparison]:
    """Compare as many pixels as `n_images` of 128 × 128 have, for each size."""
    return [
        comparison
        for n_pixels in sizes
        for comparison in bench_transform.run(
            n_pixels,
            2 * round(n_images * (128 / n_pixels) ** 2 / 2),
            n_runs,
            settings=_SETTINGS,
            has_targets=False,
        )
    ]


if __name__ == "__main__":
    main(run)
