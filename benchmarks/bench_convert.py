"""`convert` from one stack against writing the same bytes to the same disk."""

from __future__ import annotations

import tempfile
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import starfile
from measure import Comparison, compare, markdown_table

from cryolike import ConvertOptions, convert, plan_conversion, read_star


def make_set(folder: Path, n_images: int, n_pixels: int) -> Path:
    """One stack of white noise and its STAR file."""
    rng = np.random.default_rng(0)
    with mrcfile.new(folder / "stack.mrcs") as stack:
        stack.set_data(rng.standard_normal((n_images, n_pixels, n_pixels), dtype=np.float32))
        stack.set_image_stack()
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@stack.mrcs" for i in range(n_images)],
            "rlnVoltage": 300.0,
            "rlnSphericalAberration": 2.7,
            "rlnAmplitudeContrast": 0.1,
            "rlnImagePixelSize": 1.5,
            "rlnDefocusU": rng.uniform(8e3, 2e4, n_images),
            "rlnDefocusV": rng.uniform(8e3, 2e4, n_images),
            "rlnDefocusAngle": rng.uniform(0, 180, n_images),
            "rlnPhaseShift": 0.0,
            "rlnCtfBfactor": 0.0,
            "rlnCtfScalefactor": 1.0,
        }
    )
    starfile.write({"particles": particles}, folder / "particles.star")
    return folder / "particles.star"


def run(n_pixels: int = 128, n_images: int = 10_000, n_runs: int = 3) -> list[Comparison]:
    """Compare without plots, on the default grid in single precision."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as name:
        folder = Path(name)
        plan = plan_conversion(
            read_star(make_set(folder, n_images, n_pixels)), options=ConvertOptions(plots=False)
        )
        block = bytes(plan.descriptor.polar_image_bytes)

        def plain_write() -> None:
            with (folder / "plain").open("wb", buffering=0) as file:
                for _ in range(n_images):
                    file.write(block)

        return [
            compare(
                f"convert, {n_pixels} pixels, one stack",
                lambda: convert(plan, folder / "out", overwrite=True),
                "plain write of as many bytes",
                plain_write,
                n_items=n_images,
                n_reference_items=n_images,
                n_runs=n_runs,
            )
        ]


if __name__ == "__main__":
    print(markdown_table(run()))
