"""Apply to each polar image the CTF that its own metadata gives, and draw what that does.

Usage: python ctf_of_images.py [FOLDER]

Simulates a small RELION 3.1 set in FOLDER (a temporary one if none is given).
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from cryolike import ConvertOptions, convert, open_stacks, plan_conversion, read_star
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.simulate import write_relion_set


def main(folder: Path) -> None:
    """Multiply noisy images by their CTF (phases right, zeros weighed down)."""
    star_file = write_relion_set(folder / "relion", n_images=90, n_pixels=64, pixel_size_A=2.5)
    plan = plan_conversion(read_star(star_file), None, ConvertOptions(plots=False))
    convert(plan, folder / "converted")

    stacks = open_stacks(folder / "converted")
    images = torch.cat(list(stacks))
    polar, box_A = stacks.descriptor.polar_grid, stacks.descriptor.cartesian_grid.box_size_A
    parameters = CtfParameters.from_frame(stacks.table)  # astigmatism and lens of each image
    ctf = ctf_on_polar_grid(parameters, polar.radius_shells, polar.theta_shell, box_A)
    corrected = images * ctf

    frequency_per_A = 2 * polar.radius_shells / box_A
    row = int((stacks.table["defocus_u_A"] - stacks.table["defocus_v_A"]).argmax())
    panels = {"|F|": images[row].abs(), "CTF": ctf[row], "|CTF · F|": corrected[row].abs()}
    figure = Figure(figsize=(12, 3.6), layout="constrained")
    for ax, (title, values) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        mesh = ax.pcolormesh(np.rad2deg(polar.theta_shell), frequency_per_A, values.numpy())
        ax.set(title=f"{title}, row {row}", xlabel="θ (°)", ylabel="spatial frequency (1/Å)")
        figure.colorbar(mesh, ax=ax)
    figure.savefig(folder / "ctf_of_images.png", dpi=120)
    print(f"{len(images)} images; CTF from {ctf.min():.2f} to {ctf.max():.2f}")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
