"""Particle sets of white noise, as RELION would have written them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from mrcfile.dtypes import HEADER_DTYPE

from cryolike import ConversionPlan, ConvertOptions, plan_conversion, read_star

__all__ = [
    "PIXEL_SIZE_A",
    "image_names",
    "make_stack",
    "one_stack_set",
    "plan_of",
    "start_alike",
    "write_star",
]

PIXEL_SIZE_A = 1.5

_OPTICS = f"""\
data_optics

loop_
_rlnOpticsGroupName #1
_rlnOpticsGroup #2
_rlnVoltage #3
_rlnSphericalAberration #4
_rlnAmplitudeContrast #5
_rlnImagePixelSize #6
opticsGroup1 1 300.000000 2.700000 0.100000 {PIXEL_SIZE_A:.6f}

"""

_NUMBERS = {
    "rlnCoordinateX": (0, 4096),
    "rlnCoordinateY": (0, 4096),
    "rlnAutopickFigureOfMerit": (0, 3),
    "rlnCtfMaxResolution": (3, 5),
    "rlnCtfFigureOfMerit": (0, 0.2),
    "rlnDefocusU": (8e3, 2e4),
    "rlnDefocusV": (8e3, 2e4),
    "rlnDefocusAngle": (0, 180),
    "rlnPhaseShift": (0, 0),
    "rlnCtfBfactor": (0, 0),
    "rlnCtfScalefactor": (1, 1),
    "rlnAngleRot": (-180, 180),
    "rlnAngleTilt": (0, 180),
    "rlnAnglePsi": (-180, 180),
    "rlnOriginXAngst": (-5, 5),
    "rlnOriginYAngst": (-5, 5),
    "rlnAngleTiltPrior": (0, 180),
    "rlnAnglePsiPrior": (-180, 180),
    "rlnOriginXPriorAngst": (-5, 5),
    "rlnOriginYPriorAngst": (-5, 5),
    "rlnNormCorrection": (0.5, 1.5),
    "rlnLogLikeliContribution": (1e5, 2e5),
    "rlnMaxValueProbDistribution": (0, 1),
}
"""Columns of numbers with six decimals, and their ranges."""

_COUNTS = {
    "rlnOpticsGroup": (1, 1),
    "rlnGroupNumber": (1, 100),
    "rlnClassNumber": (1, 5),
    "rlnNrOfSignificantSamples": (1, 200),
    "rlnRandomSubset": (1, 2.99),
}
"""Columns of whole numbers, and their ranges."""


def make_stack(
    path: Path, n_images: int, n_pixels: int, filled: Sequence[int] | np.ndarray | None = None
) -> None:
    """Write an MRC stack of float32; all but the `filled` images are holes of the file."""
    header = np.zeros((), HEADER_DTYPE)
    for name in ("nx", "ny", "mx", "my"):
        header[name] = n_pixels
    header["nz"], header["mz"], header["mode"] = n_images, 1, 2
    header["cella"] = (n_pixels * PIXEL_SIZE_A, n_pixels * PIXEL_SIZE_A, PIXEL_SIZE_A)
    header["mapc"], header["mapr"], header["maps"] = 1, 2, 3
    # Statistics that nobody has computed
    header["dmax"], header["dmean"], header["rms"] = -1, -2, -1
    header["map"], header["machst"], header["nversion"] = b"MAP ", (0x44, 0x44, 0, 0), 20140
    rng = np.random.default_rng(0)
    with path.open("wb", buffering=0) as file:
        file.write(header.tobytes())
        file.truncate(HEADER_DTYPE.itemsize + n_images * n_pixels**2 * 4)
        indices = np.arange(n_images) if filled is None else filled
        for start in range(0, len(indices), 512):
            some = indices[start : start + 512]
            noise = rng.standard_normal((len(some), n_pixels, n_pixels), dtype=np.float32)
            for image, pixels in zip(some, noise, strict=True):
                offset = HEADER_DTYPE.itemsize + int(image) * pixels.nbytes
                os.pwrite(file.fileno(), pixels.data, offset)


def image_names(stack: str, indices: Iterable[int]) -> list[str]:
    """Name images, numbered from 0, as RELION does."""
    return [f"{i + 1:06d}@{stack}" for i in indices]


def write_star(path: Path, names: Sequence[str]) -> None:
    """Write a STAR file of RELION 3.1 with 30 columns and a row for each image name."""
    columns = {**_NUMBERS, **_COUNTS}
    low, high = np.array(list(columns.values())).T
    labels = ["rlnImageName", "rlnMicrographName", *columns]
    line = " ".join(["%s %s", *["%.6f"] * len(_NUMBERS), *["%d"] * len(_COUNTS)]) + "\n"
    rng = np.random.default_rng(0)
    with path.open("w", encoding="utf-8") as file:
        file.write(_OPTICS + "data_particles\n\nloop_\n")
        file.writelines(f"_{label} #{i}\n" for i, label in enumerate(labels, 1))
        for start in range(0, len(names), 10_000):
            some = names[start : start + 10_000]
            values = rng.uniform(low, high, (len(some), len(columns))).tolist()
            file.writelines(
                line % (name, micrograph_of(name), *row)
                for name, row in zip(some, values, strict=True)
            )


def micrograph_of(name: str) -> str:
    """Name the micrograph that an image would be from."""
    return f"MotionCorr/{name.rpartition('/')[2].rpartition('@')[2].removesuffix('s')}"


def one_stack_set(folder: Path, n_images: int, n_pixels: int) -> Path:
    """Make one stack and its STAR file, with rows in the order of the stack."""
    make_stack(folder / "stack.mrcs", n_images, n_pixels)
    write_star(folder / "particles.star", image_names("stack.mrcs", range(n_images)))
    return folder / "particles.star"


def plan_of(star: Path) -> ConversionPlan:
    """Plan to convert a set without plots, on the default grid in single precision."""
    return plan_conversion(read_star(star), options=ConvertOptions(plots=False))


def start_alike(sources: Iterable[str], *, is_cold: bool) -> None:
    """Wait until nothing is left to write; where `is_cold`, forget what was read of the sources."""
    os.sync()
    for source in sources if is_cold else ():
        with Path(source).open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
