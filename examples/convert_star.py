"""Convert a RELION set with the published function, and look at what came out.

Usage: python convert_star.py [FOLDER]

Simulates a small RELION 3.1 set in FOLDER (a temporary one if none is given), so that nothing else
is needed; with your own data, begin at `ImageDescriptor`.
"""

import sys
import tempfile
from pathlib import Path

from cryolike import (
    ImageDescriptor,
    convert_particle_stacks_from_indexed_star_file,
    open_stacks,
)
from cryolike.simulate import write_relion_set


def main(folder: Path) -> None:
    """Simulate, convert, open."""
    star_file = write_relion_set(folder / "relion", n_images=60, n_pixels=48, pixel_size_A=3.0)

    # The grids that images are converted to; keep them, every later step needs the same ones.
    descriptor = ImageDescriptor.from_individual_values(n_pixels=48, pixel_size=3.0)
    descriptor.save(folder / "params.npz", overwrite=True)

    report = convert_particle_stacks_from_indexed_star_file(
        folder / "params.npz", star_file, folder_output=folder / "converted", batch_size=25
    )
    print(report.describe())

    stacks = open_stacks(folder / "converted")
    for i, images in enumerate(stacks):  # mapped into memory, not loaded
        print(f"stack {i}: {tuple(images.shape)} {images.dtype}")
    print(stacks.table[["source_row", "defocus_u_A", "defocus_v_A", "voltage_kV"]].describe())

    image = stacks[17]
    print(f"image 17 is row {image.source_row} of {image.metadata_file},")
    print(f"which is image {image.image_index} of {image.image_file} (both counted from 0)")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
