"""Ask which of two conformations each image shows, and how sure that is.

Usage: python score_images.py [FOLDER]

Simulates images of both conformations in FOLDER (a temporary one if none is given).
"""

import sys
import tempfile
from pathlib import Path

import mrcfile
import numpy as np

from cryolike import read_star
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.run import score_particles
from cryolike.simulate import asymmetric_particle, density_map, write_relion_set

N_PIXELS, PIXEL_SIZE_A = 40, 5.0


def main(folder: Path) -> None:
    """Simulate 30 images of each conformation; score all against both."""
    ratio = {}
    particles = {
        "straight": asymmetric_particle(60.0),
        "turned": asymmetric_particle(60.0, lobe_turn_rad=np.pi / 4),
    }
    for name, particle in particles.items():
        with mrcfile.new(folder / f"{name}.mrc") as file:
            file.set_data(density_map(particle, N_PIXELS, PIXEL_SIZE_A).astype(np.float32))
            file.voxel_size = PIXEL_SIZE_A
    # Fine enough for a radius of 60 Å at 10 Å resolution
    options = ScoreOptions(viewing_distance=0.15, shift_max_px=1.5, shift_step_px=0.5, plots=False)
    for name, particle in particles.items():
        star_file = write_relion_set(
            folder / name,
            n_images=30,
            n_pixels=N_PIXELS,
            pixel_size_A=PIXEL_SIZE_A,
            model=particle,
        )
        maps = [folder / f"{other}.mrc" for other in particles]
        plan = plan_scoring(read_star(star_file), maps, options)
        report = score_particles(plan, folder / f"scores_{name}")
        straight, turned = report.log_likelihood_integrated.T
        ratio[name] = straight - turned
        right = (ratio[name] > 0) == (name == "straight")
        print(f"images of {name:8}: {right.sum()} of {len(right)} assigned rightly")
    for name, nats in ratio.items():
        print(f"{name:8}: log-likelihood ratio {nats.mean():+.1f} ± {nats.std():.1f} nats an image")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as temporary:
            main(Path(temporary))
