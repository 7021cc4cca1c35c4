"""The whole conversion against RELION's programs: its images, its STAR files, its stacks."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch

from cryolike.conversion import ConvertOptions, convert, plan_conversion
from cryolike.io.read import read_particles
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.simulate import asymmetric_particle, density_map, write_relion_set
from cryolike.store import StackSet, open_stacks

pytestmark = pytest.mark.relion

N_IMAGES, N_PIXELS, PIXEL_A = 120, 64, 2.5
BOX_A = N_PIXELS * PIXEL_A
BANDS_PER_A = ((1 / 25, 1 / 15), (1 / 15, 1 / 10), (1 / 10, 1 / 7.5))


def run_relion(folder: Path, program: str, *options: str) -> None:
    """Run one of RELION's programs in a folder."""
    subprocess.run([program, *options], cwd=folder, check=True, capture_output=True, timeout=60)


def write_truth(path: Path) -> None:
    """Write poses and strong astigmatism for relion_project; for half the rows U < V.

    Defocus is low, so that what the CTF spreads stays within the box.
    """
    rng = np.random.default_rng(0)
    mean_A = rng.uniform(4_500, 7_000, N_IMAGES)
    deviation_A = rng.choice([-1, 1], N_IMAGES) * rng.uniform(1_500, 3_000, N_IMAGES)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": ["one", "two"],
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300.0, 200.0],
            "rlnSphericalAberration": [2.7, 1.4],
            "rlnAmplitudeContrast": [0.1, 0.07],
            "rlnImagePixelSize": PIXEL_A,
            "rlnImageSize": N_PIXELS,
            "rlnImageDimensionality": 2,
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(N_IMAGES)],
            "rlnOpticsGroup": rng.integers(1, 3, N_IMAGES),
            "rlnDefocusU": mean_A + deviation_A,
            "rlnDefocusV": mean_A - deviation_A,
            "rlnDefocusAngle": rng.uniform(0, 180, N_IMAGES),
            "rlnPhaseShift": 0.0,
            "rlnCtfBfactor": 0.0,
            "rlnCtfScalefactor": 1.0,
            "rlnAngleRot": rng.uniform(-180, 180, N_IMAGES),
            "rlnAngleTilt": np.rad2deg(np.arccos(rng.uniform(-1, 1, N_IMAGES))),
            "rlnAnglePsi": rng.uniform(-180, 180, N_IMAGES),
            "rlnOriginXAngst": 0.0,
            "rlnOriginYAngst": 0.0,
        }
    )
    starfile.write({"optics": optics, "particles": particles}, path)


@pytest.fixture(scope="module")
def projected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with RELION's noise-free images: flat.star without a CTF, seen.star with it."""
    folder = tmp_path_factory.mktemp("projected")
    density = density_map(asymmetric_particle(0.3 * BOX_A), N_PIXELS, PIXEL_A)
    with mrcfile.new(folder / "map.mrc") as file:
        file.set_data(density.astype(np.float32))
        file.voxel_size = PIXEL_A
    write_truth(folder / "truth.star")
    options = ("--i", "map.mrc", "--ang", "truth.star", "--angpix", str(PIXEL_A))
    run_relion(folder, "relion_project", *options, "--o", "flat")
    run_relion(folder, "relion_project", *options, "--o", "seen", "--ctf")
    return folder


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the STAR file of a set of ours in three stacks with shuffled rows."""
    folder = tmp_path_factory.mktemp("simulated")
    return write_relion_set(folder, n_images=50, n_pixels=32, pixel_size_A=3.0)


def converted(star_file: Path, folder: Path, **options: Any) -> StackSet:
    """Convert a set and open what came of it."""
    plan = plan_conversion(read_particles(star_file), None, ConvertOptions(plots=False, **options))
    convert(plan, folder)
    return open_stacks(folder)


def all_images(stacks: StackSet) -> torch.Tensor:
    """Polar images of all stacks, as they were before they were divided by anything."""
    factor = (stacks.table["polar_norm"] * stacks.table["image_largest"]).to_numpy()
    return torch.cat(list(stacks)) * torch.tensor(factor)[:, None, None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Images seen through the CTF beside the same images without one."""

    seen: torch.Tensor
    flat: torch.Tensor
    stacks: StackSet

    @property
    def parameters(self) -> CtfParameters:
        """What the converted set says of its images."""
        return CtfParameters.from_frame(self.stacks.table)

    def shells(self, band_per_A: tuple[float, float]) -> np.ndarray:
        """Shells of a band of spatial frequencies."""
        frequency = 2 * self.stacks.descriptor.polar_grid.radius_shells / BOX_A
        low, high = band_per_A
        return np.flatnonzero((frequency > low) & (frequency < high))

    def agreement(
        self, parameters: CtfParameters, theta_rad: np.ndarray, band_per_A: tuple[float, float]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Correlate prediction and image in a band: complex values, and power; (n_images,) each.

        Power is compared relative to that of the image without a CTF on the same shell, so that
        strong shells do not drown the others.
        """
        shells = self.shells(band_per_A)
        radii = self.stacks.descriptor.polar_grid.radius_shells[shells]
        ctf = ctf_on_polar_grid(parameters, radii, theta_rad, BOX_A)
        seen, flat = self.seen[:, shells], self.flat[:, shells]
        predicted = ctf * flat
        shell_power = flat.abs().square().mean(dim=2, keepdim=True)
        powers = [(a.abs().square() / shell_power).flatten(1) for a in (seen, predicted)]
        of_power = [np.corrcoef(a, b)[0, 1] for a, b in zip(*powers, strict=True)]
        product = (seen.conj() * predicted).real.sum(dim=(1, 2))
        norms = seen.abs().square().sum(dim=(1, 2)) * predicted.abs().square().sum(dim=(1, 2))
        return (product / norms.sqrt()).numpy(), np.array(of_power)


@pytest.fixture(scope="module")
def comparison(projected: Path) -> Comparison:
    """RELION's images with and without CTF, converted."""
    flat = converted(projected / "flat.star", projected / "converted_flat")
    seen = converted(projected / "seen.star", projected / "converted_seen", batch_size=50)
    return Comparison(seen=all_images(seen), flat=all_images(flat), stacks=seen)


@pytest.mark.parametrize("band_per_A", BANDS_PER_A)
def test_images_follow_the_ctf_of_their_metadata(
    comparison: Comparison, band_per_A: tuple[float, float]
) -> None:
    """RELION's image with CTF is its image without, times our CTF: value, sign and power."""
    theta_rad = comparison.stacks.descriptor.polar_grid.theta_shell
    values, powers = comparison.agreement(comparison.parameters, theta_rad, band_per_A)
    assert values.min() > 0.99
    assert powers.min() > 0.95
    assert np.median(powers) > 0.99


@pytest.mark.parametrize("band_per_A", BANDS_PER_A[1:])
def test_exchanged_axes_do_not_follow_the_ctf(
    comparison: Comparison, band_per_A: tuple[float, float]
) -> None:
    """With θ measured from y, every image whose astigmatism lies along x or y disagrees."""
    theta_rad = comparison.stacks.descriptor.polar_grid.theta_shell
    parameters = comparison.parameters
    astigmatism_A = np.abs(parameters.defocus_u_A - parameters.defocus_v_A)
    shows = astigmatism_A * np.abs(np.cos(2 * parameters.defocus_angle_rad)) > 2_000
    assert shows.sum() > N_IMAGES / 2
    values, powers = comparison.agreement(parameters, np.pi / 2 - theta_rad, band_per_A)
    assert values[shows].max() < 0.9
    assert powers[shows].max() < 0.9


@pytest.mark.parametrize("band_per_A", BANDS_PER_A[1:])
def test_exchanged_defocus_values_do_not_follow_the_ctf(
    comparison: Comparison, band_per_A: tuple[float, float]
) -> None:
    """With U and V exchanged every image disagrees, whatever its angle."""
    theta_rad = comparison.stacks.descriptor.polar_grid.theta_shell
    ours = comparison.parameters
    swapped = replace(ours, defocus_u_A=ours.defocus_v_A, defocus_v_A=ours.defocus_u_A)
    values, powers = comparison.agreement(swapped, theta_rad, band_per_A)
    assert values.max() < 0.9
    assert powers.max() < 0.9


def along(theta_rad: torch.Tensor, axis: str) -> torch.Tensor:
    """Direction cosine of θ with an axis."""
    return torch.cos(theta_rad) if axis == "x" else torch.sin(theta_rad)


@pytest.mark.parametrize("axis", ["x", "y"])
def test_shifts_go_along_the_axes_of_relion(
    projected: Path, comparison: Comparison, axis: str, tmp_path: Path
) -> None:
    """RELION's shift along +x or +y is our phase ramp along that axis, and along no other."""
    shift_px = 3
    run_relion(
        projected,
        "relion_image_handler",
        *("--i", "seen.mrcs", "--o", f"shifted_{axis}.mrcs"),
        *(f"--shift_{axis}", str(shift_px)),
    )
    star_file = projected / f"shifted_{axis}.star"
    names = (projected / "seen.star").read_text(encoding="utf-8")
    star_file.write_text(names.replace("@seen.mrcs", f"@shifted_{axis}.mrcs"), encoding="utf-8")
    shifted = all_images(converted(star_file, tmp_path / "converted"))
    polar = comparison.stacks.descriptor.polar_grid
    theta_rad = torch.tensor(polar.theta_shell)[None]
    cycles_per_px = 2 * torch.tensor(polar.radius_shells)[:, None] / N_PIXELS

    def error(direction: torch.Tensor) -> float:
        ramp = torch.exp(-2j * torch.pi * shift_px * cycles_per_px * direction)
        return float((shifted - comparison.seen * ramp).norm() / comparison.seen.norm())

    other = "y" if axis == "x" else "x"
    assert error(along(theta_rad, axis)) < 0.05
    assert error(-along(theta_rad, axis)) > 0.5
    assert error(along(theta_rad, other)) > 0.5


COLUMNS = (
    "defocus_u_A",
    "defocus_v_A",
    "defocus_angle_rad",
    "phase_shift_rad",
    "spherical_aberration_mm",
    "voltage_kV",
    "amplitude_contrast",
    "ctf_bfactor_A2",
    "ctf_scale",
    "pixel_size_A",
    "rot_rad",
    "tilt_rad",
    "psi_rad",
    "origin_x_A",
    "origin_y_A",
)


def assert_same_metadata(theirs: ParticleTable, ours: ParticleTable) -> None:
    """Compare every column, to the six digits that RELION writes."""
    assert len(theirs) == len(ours)
    for name in COLUMNS:
        np.testing.assert_allclose(
            getattr(theirs, name), getattr(ours, name), rtol=1e-5, atol=1e-5, err_msg=name
        )
    for label in ("optics_group", "box_px"):
        np.testing.assert_array_equal(getattr(theirs, label), getattr(ours, label))


def test_relion_reads_the_sets_we_write(simulated: Path) -> None:
    """relion_star_handler takes our STAR file and writes the same rows in the same order."""
    run_relion(simulated.parent, "relion_star_handler", "--i", simulated.name, "--o", "theirs.star")
    theirs, ours = (
        read_particles(path) for path in (simulated.with_name("theirs.star"), simulated)
    )
    assert_same_metadata(theirs, ours)
    assert [theirs.image_name(i) for i in range(50)] == [ours.image_name(i) for i in range(50)]


def band_passed(density: np.ndarray, pixel_size_A: float) -> np.ndarray:
    """Keep 50 to 10 Å: below, the CTF leaves next to nothing to reconstruct from."""
    axis = np.fft.fftfreq(len(density), pixel_size_A)
    frequency = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    spectrum = np.fft.fftn(density) * ((frequency > 1 / 50) & (frequency < 1 / 10))
    filtered: np.ndarray = np.fft.ifftn(spectrum).real
    return filtered


def test_relion_reconstructs_the_particle_from_our_set(tmp_path: Path) -> None:
    """From our images, poses and CTFs RELION gets the particle back; wrong poses fail."""
    n_pixels, pixel_A = 48, 3.0
    star_file = write_relion_set(
        tmp_path, n_images=400, n_pixels=n_pixels, pixel_size_A=pixel_A, snr=1.0
    )
    blocks = starfile.read(star_file, always_dict=True)
    particles = blocks["particles"]
    truth = density_map(asymmetric_particle(0.3 * n_pixels * pixel_A), n_pixels, pixel_A)

    def correlation(**changed: pd.Series[float]) -> float:
        starfile.write(blocks | {"particles": particles.assign(**changed)}, tmp_path / "in.star")
        options = ("--i", "in.star", "--o", "out.mrc", "--ctf", "--maxres", "10")
        run_relion(tmp_path, "relion_reconstruct", *options)
        maps = [mrcfile.read(tmp_path / "out.mrc"), truth]
        return float(np.corrcoef([band_passed(m, pixel_A).ravel() for m in maps])[0, 1])

    assert correlation() > 0.95
    assert correlation(rlnAnglePsi=-particles["rlnAnglePsi"]) < 0.6
    assert correlation(rlnOriginYAngst=-particles["rlnOriginYAngst"]) < 0.8


@pytest.mark.parametrize("one_by_one", [False, True])
def test_stacks_that_relion_writes_convert_to_the_same(
    simulated: Path, one_by_one: bool, tmp_path: Path
) -> None:
    """relion_stack_create joins our stacks in row order: polar images are equal to the bit."""
    root = f"joined_{one_by_one}"
    options = ("--one_by_one",) if one_by_one else ()
    run_relion(
        simulated.parent,
        "relion_stack_create",
        *("--i", simulated.name, "--o", root, *options),
    )
    joined = simulated.with_name(f"{root}.star")
    assert_same_metadata(read_particles(joined), read_particles(simulated))
    ours = converted(simulated, tmp_path / "ours", batch_size=20)
    theirs = converted(joined, tmp_path / "theirs", batch_size=20)
    assert theirs.n_stacks == ours.n_stacks == 3
    for their_images, our_images in zip(theirs, ours, strict=True):
        assert torch.equal(their_images, our_images)
    assert set(theirs.table["image_file"]) == {str(simulated.with_name(f"{root}.mrcs"))}
    assert theirs.table["image_index"].tolist() == list(range(50))
    assert theirs.table["source_row"].tolist() == list(range(50))
