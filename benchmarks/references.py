"""What conversion is compared with: the transform alone, and writing alone."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import torch
from measure import Way

from cryolike.descriptor import ImageDescriptor
from cryolike.physics.polar import PolarTransform

__all__ = ["noise", "plain_write", "sizes_of_files", "transform_alone"]

_N_IN_MEMORY = 1024
_WRITE_BYTES = 16 * 2**20


def noise(n_images: int, n_pixels: int) -> torch.Tensor:
    """Images of white noise, float32."""
    return torch.randn(n_images, n_pixels, n_pixels, generator=torch.Generator().manual_seed(0))


def transform_alone(descriptor: ImageDescriptor, n_images: int) -> Way:
    """Transform as many images, of which some are in memory, into the same memory."""
    transform, polar = PolarTransform.of_descriptor(descriptor), descriptor.polar_grid
    images = noise(min(n_images, _N_IN_MEMORY), descriptor.cartesian_grid.side_px)
    shape = (len(images), polar.n_shells, polar.n_inplanes)
    out = torch.zeros(shape, dtype=transform.complex_dtype)

    def work() -> None:
        for start in range(0, n_images, _N_IN_MEMORY):
            n = min(n_images - start, _N_IN_MEMORY)
            transform(images[:n], out=out[:n])

    return Way(name="the transform alone", work=work, amount=n_images)


def sizes_of_files(folder: Path) -> list[int]:
    """Sizes in bytes of all files below a folder."""
    return [path.stat().st_size for path in folder.rglob("*") if path.is_file()]


def plain_write(folder: Path, sizes: list[int], n_images: int) -> Way:
    """Write files of these sizes with large plain writes."""
    block = memoryview(os.urandom(_WRITE_BYTES))

    def work() -> None:
        folder.mkdir()
        for number, size in zip(itertools.count(), sizes, strict=False):
            with (folder / str(number)).open("wb", buffering=0) as file:
                for start in range(0, size, _WRITE_BYTES):
                    file.write(block[: size - start])

    return Way(name="plain write of the same bytes", work=work, amount=n_images)
