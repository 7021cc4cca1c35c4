"""Simulated particles: geometry, image formation and the set on disk."""

from __future__ import annotations

import itertools
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from cryolike.errors import OutputExistsError, UsageError
from cryolike.physics.ctf import CtfParameters
from cryolike.simulate import (
    BlobModel,
    asymmetric_particle,
    density_map,
    project,
    simulate_particles,
    write_relion_set,
)


def blob_at(*centre_A: float, sigma_A: float = 3.0) -> BlobModel:
    """One Gaussian of weight 1."""
    return BlobModel(
        centres_A=np.array([centre_A]), sigmas_A=np.array([sigma_A]), weights=np.ones(1)
    )


def random_poses(n_images: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Euler angles (rad) and origins (Å)."""
    rng = np.random.default_rng(seed)
    euler_rad = rng.uniform(-np.pi, np.pi, (n_images, 3))
    euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, n_images))
    return euler_rad, rng.uniform(-10, 10, (n_images, 2))


def ctf_parameters(n_images: int) -> CtfParameters:
    """Equal, ordinary lenses."""
    return CtfParameters(
        defocus_u_A=np.full(n_images, 12_000.0),
        defocus_v_A=np.full(n_images, 10_000.0),
        defocus_angle_rad=np.full(n_images, 0.4),
        phase_shift_rad=np.zeros(n_images),
        spherical_aberration_mm=np.full(n_images, 2.7),
        voltage_kV=np.full(n_images, 300.0),
        amplitude_contrast=np.full(n_images, 0.1),
        bfactor_A2=np.zeros(n_images),
        scale=np.ones(n_images),
    )


def centre_of_mass_px(image: np.ndarray) -> tuple[float, float]:
    """Row and column."""
    rows, columns = np.indices(image.shape)
    return float((image * rows).sum() / image.sum()), float((image * columns).sum() / image.sum())


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson correlation, image by image."""
    a = a - a.mean(axis=(1, 2), keepdims=True)
    b = b - b.mean(axis=(1, 2), keepdims=True)
    norms = np.sqrt((a**2).sum(axis=(1, 2)) * (b**2).sum(axis=(1, 2)))
    result: np.ndarray = (a * b).sum(axis=(1, 2)) / norms
    return result


def overlap(model: BlobModel, centres_A: np.ndarray) -> float:
    """Normalised overlap of the density with the same Gaussians at other centres."""

    def product(a: np.ndarray, b: np.ndarray) -> float:
        variance = model.sigmas_A[:, None] ** 2 + model.sigmas_A[None, :] ** 2
        distance2 = ((a[:, None] - b[None]) ** 2).sum(axis=2)
        weights = model.weights[:, None] * model.weights[None, :]
        return float((weights * variance**-1.5 * np.exp(-distance2 / (2 * variance))).sum())

    return product(model.centres_A, centres_A) / product(model.centres_A, model.centres_A)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_particle_is_centred_and_fits(seed: int) -> None:
    """The centre of mass is the origin, and no blob reaches beyond the radius."""
    model = asymmetric_particle(50.0, seed=seed)
    assert np.abs(model.weights @ model.centres_A).max() < 1e-9
    reach = np.linalg.norm(model.centres_A, axis=1) + 3 * model.sigmas_A
    assert reach.max() == pytest.approx(50.0)


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_particle_has_no_symmetry_and_a_hand(seed: int) -> None:
    """No rotation or reflection that keeps the principal axes maps the particle onto itself."""
    model = asymmetric_particle(50.0, seed=seed)
    moments, axes = np.linalg.eigh(np.cov(model.centres_A.T, aweights=model.weights))
    # Different moments: any symmetry would have to be a choice of signs in this frame.
    assert np.all(moments[1:] / moments[:-1] > 1.1)
    in_frame = model.centres_A @ axes
    for signs in itertools.product([1, -1], repeat=3):
        if signs != (1, 1, 1):
            assert overlap(model, (in_frame * signs) @ axes.T) < 0.6


def test_particle_depends_on_its_seed_only() -> None:
    """Equal seeds give equal particles, others another one; the number of blobs is as asked."""
    one, same, other = (asymmetric_particle(50.0, n_blobs=40, seed=s) for s in (3, 3, 4))
    assert one.centres_A.shape == (40, 3)
    np.testing.assert_array_equal(one.centres_A, same.centres_A)
    assert not np.allclose(one.centres_A, other.centres_A)


def test_model_with_missing_widths_is_refused() -> None:
    """Arrays of different length raise an error that gives the shapes."""
    with pytest.raises(ValueError, match="shapes"):
        BlobModel(centres_A=np.zeros((2, 3)), sigmas_A=np.ones(1), weights=np.ones(2))


@pytest.mark.parametrize("n_pixels", [48, 49])
def test_projection_puts_a_blob_where_it_belongs(n_pixels: int) -> None:
    """Columns count x and rows y, from pixel floor(N/2); the origin is subtracted."""
    image = project(blob_at(8, -4, 20), np.zeros((1, 3)), np.array([[6.0, 2.0]]), n_pixels, 2.0)[0]
    row, column = centre_of_mass_px(image)
    assert column == pytest.approx(n_pixels // 2 + (8 - 6) / 2, abs=1e-6)
    assert row == pytest.approx(n_pixels // 2 + (-4 - 2) / 2, abs=1e-6)


def test_tilt_of_90_degrees_looks_along_x() -> None:
    """At tilt 90° the z axis of the particle lies along −x of the image, and x is gone."""
    euler_rad = np.array([[0, np.pi / 2, 0]])
    image = project(blob_at(15, 4, 10), euler_rad, np.zeros((1, 2)), 48, 2.0)[0]
    row, column = centre_of_mass_px(image)
    assert (row, column) == pytest.approx((24 + 4 / 2, 24 - 10 / 2), abs=1e-6)


def test_projections_keep_the_mass() -> None:
    """Every projection integrates to the sum of the weights."""
    model = asymmetric_particle(40.0)
    # Fine enough pixels for the sum to be the integral: at σ/pixel = 1.1 it is, to 1e-10.
    images = project(model, *random_poses(70, seed=0), 96, 1.25)
    np.testing.assert_allclose(images.sum(axis=(1, 2)) * 1.25**2, model.weights.sum(), rtol=1e-6)


@pytest.mark.parametrize("n_pixels", [48, 49])
def test_map_summed_along_z_is_the_projection(n_pixels: int) -> None:
    """The sampled map, summed over z, equals the projection at zero angles."""
    model = asymmetric_particle(40.0)
    summed = density_map(model, n_pixels, 2.0).sum(axis=0) * 2.0
    image = project(model, np.zeros((1, 3)), np.zeros((1, 2)), n_pixels, 2.0)[0]
    np.testing.assert_allclose(summed, image, atol=1e-4 * image.max())


def test_images_have_contrast_of_a_microscope() -> None:
    """The mean is Q0 times that of the projection, and protein is bright."""
    model = asymmetric_particle(40.0)
    poses = random_poses(70, seed=1)
    clean = simulate_particles(model, ctf_parameters(70), *poses, 64, 2.0)
    projections = project(model, *poses, 64, 2.0)
    np.testing.assert_allclose(
        clean.mean(axis=(1, 2)), 0.1 * projections.mean(axis=(1, 2)), rtol=1e-3
    )
    assert correlation(clean, projections).min() > 0


def test_each_image_gets_its_own_ctf() -> None:
    """A scale of zero in one row blanks that image only, also beyond the first batch."""
    scale = np.ones(70)
    scale[66] = 0
    parameters = replace(ctf_parameters(70), scale=scale)
    poses = random_poses(70, seed=1)
    images = simulate_particles(asymmetric_particle(20.0), parameters, *poses, 32, 2.0)
    assert np.flatnonzero(images.std(axis=(1, 2)) < 1e-12).tolist() == [66]


def test_noise_has_the_requested_variance() -> None:
    """Signal variance over noise variance is the SNR, and noise is white, not repeated."""
    model, poses = asymmetric_particle(40.0), random_poses(70, seed=1)
    clean = simulate_particles(model, ctf_parameters(70), *poses, 64, 2.0)
    noisy = simulate_particles(model, ctf_parameters(70), *poses, 64, 2.0, snr=0.1, seed=5)
    noise = noisy - clean
    signal_variance = clean.var(axis=(1, 2)).mean()
    assert signal_variance / noise.var() == pytest.approx(0.1, rel=0.02)
    assert np.abs(correlation(noise[1:], noise[:-1])).max() < 0.1
    power = (np.abs(np.fft.rfft2(noise)[:, 1:, 1:-1]) ** 2).mean(axis=0)
    assert power[:16, :16].mean() / power[16:48, 16:].mean() == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("snr", [0.0, -1.0, float("nan")])
def test_impossible_snr_is_refused(snr: float) -> None:
    """A ratio that is not positive raises an error that gives it."""
    poses = random_poses(1, seed=0)
    with pytest.raises(UsageError, match="snr"):
        simulate_particles(blob_at(0, 0, 0), ctf_parameters(1), *poses, 16, 2.0, snr=snr)


def read_set(star_file: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Particles joined with their optics, and their images, in the order of the rows."""
    blocks = starfile.read(star_file, always_dict=True)
    rows = blocks["particles"].merge(
        blocks["optics"], on="rlnOpticsGroup", how="left", validate="many_to_one"
    )
    images = []
    for name in rows["rlnImageName"]:
        number, stack = name.split("@")
        with mrcfile.mmap(star_file.parent / stack) as file:
            # mrcfile gives a stack of one image as 2-D.
            stacked = file.data.reshape(-1, *file.data.shape[-2:])
            images.append(np.array(stacked[int(number) - 1]))
    return rows, np.stack(images)


def columns_rad(rows: pd.DataFrame, *names: str) -> np.ndarray:
    """Columns in degrees, as radians."""
    angles_rad: np.ndarray = np.deg2rad(rows[list(names)].to_numpy(dtype=np.float64))
    return angles_rad


def test_every_row_describes_its_image(tmp_path: Path) -> None:
    """Images made again from what each row says equal those its name points to."""
    star_file = write_relion_set(
        tmp_path, n_images=50, n_pixels=32, pixel_size_A=3.0, snr=None, seed=2
    )
    rows, images = read_set(star_file)
    parameters = CtfParameters(
        defocus_u_A=rows["rlnDefocusU"].to_numpy(),
        defocus_v_A=rows["rlnDefocusV"].to_numpy(),
        defocus_angle_rad=columns_rad(rows, "rlnDefocusAngle")[:, 0],
        phase_shift_rad=columns_rad(rows, "rlnPhaseShift")[:, 0],
        spherical_aberration_mm=rows["rlnSphericalAberration"].to_numpy(),
        voltage_kV=rows["rlnVoltage"].to_numpy(),
        amplitude_contrast=rows["rlnAmplitudeContrast"].to_numpy(),
        bfactor_A2=rows["rlnCtfBfactor"].to_numpy(),
        scale=rows["rlnCtfScalefactor"].to_numpy(),
    )
    again = simulate_particles(
        asymmetric_particle(0.3 * 96, seed=2),
        parameters,
        columns_rad(rows, "rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi"),
        rows[["rlnOriginXAngst", "rlnOriginYAngst"]].to_numpy(),
        32,
        3.0,
    )
    np.testing.assert_allclose(images, again, atol=1e-5 * np.abs(images).max())


def test_set_is_what_it_promises(tmp_path: Path) -> None:
    """Default set: 600 images once each, three interleaved stacks, two lenses, astigmatism."""
    star_file = write_relion_set(tmp_path / "new" / "set")
    assert star_file == tmp_path / "new" / "set" / "particles.star"
    blocks = starfile.read(star_file, always_dict=True)
    optics, particles = blocks["optics"], blocks["particles"]
    lens = optics[["rlnVoltage", "rlnSphericalAberration", "rlnAmplitudeContrast"]].to_numpy()
    np.testing.assert_array_equal(lens, [[300, 2.7, 0.1], [200, 1.4, 0.07]])
    assert particles["rlnOpticsGroup"].value_counts().tolist() == [300, 300]
    assert sorted(particles["rlnImageName"]) == sorted(
        f"{i + 1:06d}@Particles/stack_{stack:03d}.mrcs" for stack in range(3) for i in range(200)
    )
    stack_of_row = particles["rlnImageName"].str.split("@").str[1].to_numpy()
    assert np.mean(stack_of_row[1:] != stack_of_row[:-1]) > 0.5
    mean_A = (particles["rlnDefocusU"] + particles["rlnDefocusV"]) / 2
    astigmatism_A = particles["rlnDefocusU"] - particles["rlnDefocusV"]
    assert mean_A.between(8_000, 22_000).all()
    assert astigmatism_A.between(0, 3_000).all()
    assert astigmatism_A.std() > 500


def test_stack_headers_are_those_of_stacks(tmp_path: Path) -> None:
    """Float images, flagged as a stack, with the pixel size set."""
    write_relion_set(tmp_path, n_images=7, n_pixels=24, pixel_size_A=1.75, n_stacks=2)
    counts = []
    for path in sorted((tmp_path / "Particles").iterdir()):
        with mrcfile.open(path) as file:
            assert file.is_image_stack()
            assert file.data.dtype == np.float32
            assert file.data.shape[1:] == (24, 24)
            assert float(file.voxel_size.x) == pytest.approx(1.75)
            counts.append(len(file.data))
    assert counts == [4, 3]


def test_seed_decides_everything(tmp_path: Path) -> None:
    """Equal seeds give equal rows and pixels; another seed gives others."""
    sets = [
        read_set(write_relion_set(tmp_path / name, n_images=9, n_pixels=16, seed=seed))
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    ]
    (rows, images), (same_rows, same_images), (_, other_images) = sets
    pd.testing.assert_frame_equal(rows, same_rows)
    np.testing.assert_array_equal(images, same_images)
    assert not np.allclose(images, other_images)


def test_noise_differs_between_stacks(tmp_path: Path) -> None:
    """No two stacks share their noise."""
    options: dict[str, Any] = {"n_images": 40, "n_pixels": 32, "n_stacks": 2, "seed": 1}
    noisy_rows, noisy = read_set(write_relion_set(tmp_path / "noisy", snr=0.01, **options))
    clean_rows, clean = read_set(write_relion_set(tmp_path / "clean", snr=None, **options))
    pd.testing.assert_frame_equal(noisy_rows, clean_rows)
    noise = (noisy - clean).reshape(40, -1)
    between = np.corrcoef(noise) - np.eye(40)
    assert np.abs(between).max() < 0.2


def test_progress_counts_images(tmp_path: Path) -> None:
    """The callback hears of every finished stack, last of the whole set."""
    calls: list[tuple[int, int]] = []
    write_relion_set(
        tmp_path, n_images=5, n_pixels=16, n_stacks=2, progress=lambda *done: calls.append(done)
    )
    assert calls == [(3, 5), (5, 5)]


def test_one_image_is_a_set(tmp_path: Path) -> None:
    """A single image in a single stack is written like any other."""
    rows, images = read_set(write_relion_set(tmp_path, n_images=1, n_pixels=16, n_stacks=1))
    assert len(rows) == 1
    assert images.shape == (1, 16, 16)


def test_existing_set_is_not_touched(tmp_path: Path) -> None:
    """A second run into the same folder stops before it changes a byte."""
    write_relion_set(tmp_path, n_images=4, n_pixels=16, n_stacks=2)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    with pytest.raises(OutputExistsError, match="another folder"):
        write_relion_set(tmp_path, n_images=4, n_pixels=16, n_stacks=2, seed=1)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


def test_all_bad_options_are_named_at_once(tmp_path: Path) -> None:
    """One error lists every number out of range, and nothing is written."""
    with pytest.raises(UsageError) as caught:
        write_relion_set(
            tmp_path / "set", n_images=0, n_pixels=2, pixel_size_A=-1.0, n_stacks=0, snr=0.0
        )
    assert len(caught.value.problems) == 5
    for option in ("n_images 0", "n_pixels 2", "pixel_size_A -1.0", "n_stacks 0", "snr 0.0"):
        assert option in str(caught.value)
    assert not (tmp_path / "set").exists()


def write_map(path: Path, model: BlobModel, n_pixels: int, pixel_size_A: float) -> None:
    """Write the model as an MRC volume."""
    with mrcfile.new(path) as file:
        file.set_data(density_map(model, n_pixels, pixel_size_A).astype(np.float32))
        file.voxel_size = pixel_size_A


def relion_project(folder: Path, *options: str) -> np.ndarray:
    """Images that RELION makes of map.mrc."""
    command = ["relion_project", "--i", "map.mrc", "--o", "projected", *options]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    images: np.ndarray = mrcfile.read(folder / "projected.mrcs")
    return images


def write_poses(path: Path, euler_rad: np.ndarray, origins_A: np.ndarray, pixel_A: float) -> None:
    """Write a STAR file of poses for relion_project."""
    n_images = len(euler_rad)
    angles_deg = np.rad2deg(euler_rad)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": ["one"],
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnImagePixelSize": [pixel_A],
            "rlnImageSize": [64],
            "rlnImageDimensionality": [2],
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(n_images)],
            "rlnOpticsGroup": 1,
            "rlnAngleRot": angles_deg[:, 0],
            "rlnAngleTilt": angles_deg[:, 1],
            "rlnAnglePsi": angles_deg[:, 2],
            "rlnOriginXAngst": origins_A[:, 0],
            "rlnOriginYAngst": origins_A[:, 1],
        }
    )
    starfile.write({"optics": optics, "particles": particles}, path)


@pytest.mark.relion
def test_projections_agree_with_relion(tmp_path: Path) -> None:
    """RELION projects the sampled map to our images; mirror images and wrong signs fail."""
    n_pixels, pixel_A = 64, 2.5
    model = asymmetric_particle(0.3 * n_pixels * pixel_A)
    euler_rad, origins_A = random_poses(20, seed=0)
    write_map(tmp_path / "map.mrc", model, n_pixels, pixel_A)
    write_poses(tmp_path / "poses.star", euler_rad, origins_A, pixel_A)
    theirs = relion_project(tmp_path, "--ang", "poses.star", "--angpix", str(pixel_A))

    def agreement(model: BlobModel, euler_rad: np.ndarray, origins_A: np.ndarray) -> np.ndarray:
        return correlation(project(model, euler_rad, origins_A, n_pixels, pixel_A), theirs)

    mirrored = replace(model, centres_A=model.centres_A * [1, 1, -1])
    assert agreement(model, euler_rad, origins_A).min() > 0.99
    assert agreement(mirrored, euler_rad, origins_A).max() < 0.9
    assert agreement(model, euler_rad, -origins_A).max() < 0.9
    assert agreement(model, euler_rad[:, ::-1], origins_A).mean() < 0.7


@pytest.mark.relion
def test_relion_makes_the_same_set(tmp_path: Path) -> None:
    """From our STAR file and the map, RELION makes the noise-free images of the set."""
    n_pixels, pixel_A = 64, 2.5
    model = asymmetric_particle(0.3 * n_pixels * pixel_A)
    star_file = write_relion_set(
        tmp_path,
        model=model,
        n_images=30,
        n_pixels=n_pixels,
        pixel_size_A=pixel_A,
        snr=None,
    )
    write_map(tmp_path / "map.mrc", model, n_pixels, pixel_A)
    theirs = relion_project(tmp_path, "--ctf", "--ang", star_file.name, "--angpix", str(pixel_A))
    _, ours = read_set(star_file)
    assert correlation(ours, theirs).min() > 0.99
