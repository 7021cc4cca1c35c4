"""The polar transform alone for other sizes of images, against the same as `bench_transform`."""

from __future__ import annotations

from collections.abc import Sequence

import bench_transform
from measure import Comparison, main


def run(
    sizes: Sequence[int] = (64, 96, 256, 360), n_images: int = 2048, n_runs: int = 3
) -> list[Comparison]:
    """Compare as many pixels as `n_images` of 128 × 128 have, for each size."""
    return [
        comparison
        for n_pixels in sizes
        for comparison in bench_transform.run(
            n_pixels, 2 * round(n_images * (128 / n_pixels) ** 2 / 2), n_runs, has_targets=False
        )
    ]


if __name__ == "__main__":
    main(run)
