"""A small simulated set and two structures, one of which it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mrcfile
import numpy as np
import starfile

from cryolike.simulate import BlobModel, asymmetric_particle, density_map, write_relion_set

__all__ = ["COARSE", "N_IMAGES", "ScoreSet", "files_below", "write_map", "write_score_set"]

N_IMAGES, N_PIXELS, PIXEL_SIZE_A = 30, 24, 8.0

COARSE = ("--view-spacing", "15", "--shift-max", "1", "--shift-step", "0.5", "--quiet")
"""Options with which scoring takes no time."""


@dataclass(frozen=True)
class ScoreSet:
    """Paths of a set of 30 images of 24 pixels in 3 stacks, and of two maps.

    Parameters
    ----------
    star_file
        Images of the true structure, at a signal-to-noise ratio of 1.
    true, other
        Maps of the structure, and of it with a lobe turned.
    """

    star_file: Path
    true: Path
    other: Path

    def arguments(self, out: Path, *further: str) -> list[str]:
        """Give what follows `cryolike` to score the set coarsely."""
        paths = ["-s", str(self.true), "-s", str(self.other), "-o", str(out)]
        return ["score", str(self.star_file), *paths, *COARSE, *further]

    def with_values(self, values: Mapping[tuple[int, str], object]) -> Path:
        """Write another STAR file beside the set, in which (row, column) has another value."""
        blocks = starfile.read(self.star_file, always_dict=True)
        particles = blocks["particles"].astype(object)
        for (row, column), value in values.items():
            particles.loc[row, column] = value
        path = self.star_file.with_name("changed.star")
        starfile.write(blocks | {"particles": particles}, path, overwrite=True)
        return path


def write_score_set(folder: Path) -> ScoreSet:
    """Simulate it."""
    radius_A = 0.3 * N_PIXELS * PIXEL_SIZE_A
    true = _smooth(asymmetric_particle(radius_A))
    star_file = write_relion_set(
        folder / "relion",
        n_images=N_IMAGES,
        n_pixels=N_PIXELS,
        pixel_size_A=PIXEL_SIZE_A,
        snr=1.0,
        model=true,
    )
    other = _smooth(asymmetric_particle(radius_A, lobe_turn_rad=np.pi / 2))
    return ScoreSet(
        star_file,
        write_map(folder / "true.mrc", true),
        write_map(folder / "other.mrc", other),
    )


def _smooth(model: BlobModel) -> BlobModel:
    """Make Gaussians wide enough for the pixels."""
    return replace(model, sigmas_A=np.maximum(model.sigmas_A, 0.8 * PIXEL_SIZE_A))


def write_map(path: Path, model: BlobModel) -> Path:
    """Write the density of a model."""
    values = density_map(model, N_PIXELS, PIXEL_SIZE_A).astype(np.float32)
    with mrcfile.new(path) as file:
        file.set_data(values)
        file.voxel_size = PIXEL_SIZE_A
    return path


def files_below(folder: Path) -> dict[str, bytes]:
    """Give the content of every file below a folder by its name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }
