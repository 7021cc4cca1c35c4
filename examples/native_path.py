"""Read, plan, convert, verify, and join a result of each image back to the rows of the STAR file.

Usage: python native_path.py [FOLDER]

Simulates a small RELION 3.1 set in FOLDER (a temporary one if none is given).
"""

import sys
import tempfile
from pathlib import Path

import pandas as pd
import starfile

from cryolike import (
    ConvertOptions,
    convert,
    open_stacks,
    plan_conversion,
    read_particles,
    select_rows,
    verify,
)
from cryolike.simulate import write_relion_set


def main(folder: Path) -> None:
    """Take 40 random rows of a set all the way."""
    star_file = write_relion_set(folder / "relion", n_images=120, n_pixels=32, pixel_size_A=3.0)

    table = select_rows(read_particles(star_file), random=40, seed=1)
    plan = plan_conversion(table, None, ConvertOptions(batch_size=16, plots=False))
    print(plan.describe())  # a plain value: nothing has been written yet
    print(convert(plan, folder / "converted").describe())
    print(verify(folder / "converted").describe())

    # Any number per image, here its power beyond half of Nyquist, belongs to a row of the source.
    stacks = open_stacks(folder / "converted")
    polar = stacks.descriptor.polar_grid
    fine = polar.radius_shells > polar.radius_max / 2
    power = [image[fine].abs().square().mean().item() for images in stacks for image in images]
    result = pd.DataFrame({"source_row": stacks.table["source_row"], "fine_power": power})

    rows = starfile.read(star_file, always_dict=True)["particles"]
    joined = rows.join(result.set_index("source_row"))  # NaN where a row was not chosen
    print(joined[["rlnImageName", "rlnDefocusU", "fine_power"]].dropna().head())
    starfile.write({"particles": joined}, folder / "joined.star", overwrite=True)
    print(f"{joined['fine_power'].notna().sum()} of {len(joined)} rows have a result")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
