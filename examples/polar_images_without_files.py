"""Signal and noise of a particle set, shell by shell, in one pass and without converted files.

Usage: python polar_images_without_files.py [FOLDER]

Simulates a small RELION 3.1 set in FOLDER (a temporary one if none is given).
"""

import sys
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader

from cryolike import ImageDescriptor, ParticleDataset, iter_polar, read_particles
from cryolike.simulate import write_relion_set


def main(folder: Path) -> None:
    """Fit |F|² = signal · CTF² + noise to all images; then hand them to PyTorch in random order."""
    star_file = write_relion_set(folder / "relion", n_images=400, n_pixels=64, pixel_size_A=3.0)
    table = read_particles(star_file)
    descriptor = ImageDescriptor.from_individual_values(n_pixels=64, pixel_size=3.0)
    polar, box_A = descriptor.polar_grid, descriptor.cartesian_grid.box_size_A

    sums = torch.zeros(4, polar.n_shells, dtype=torch.float64)
    for batch in iter_polar(table, descriptor):  # read and transformed ahead, on all cores
        x, y = batch.ctf.square(), batch.images.abs().square()
        sums += torch.stack([x, x * x, y, x * y]).sum(dim=(1, 3), dtype=torch.float64)

    # A straight line through all points of a shell
    x, xx, y, xy = sums / (len(table) * polar.n_inplanes)
    signal = (xy - x * y) / (xx - x * x)
    noise = y - signal * x
    print("resolution  signal/noise")
    for shell in range(polar.n_shells // 8, polar.n_shells, polar.n_shells // 8):
        resolution_A = box_A / (2 * polar.radius_shells[shell])
        print(f"{resolution_A:8.1f} Å  {signal[shell] / noise[shell]:12.3f}")

    # The same for a training loop; with workers the main program needs the guard below.
    loader = DataLoader(ParticleDataset(table, descriptor), batch_size=100, shuffle=True)
    for batch in loader:
        shape, rows = tuple(batch.images.shape), batch.row[:4].tolist()
        print(f"{shape} {batch.images.dtype}, rows {rows} …")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
