"""Simulated particle sets: an asymmetric model, its exact projections, and a RELION 3.1 set.

Nothing here needs an input file. Conventions are RELION's: Euler angles rotate the particle by
A(rot, tilt, psi) (ZYZ), the image is the sum over z of the rotated particle, and the origin offset
is the shift that moves the image back onto the reference, so the particle sits at −origin. Protein
is bright.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import starfile
import torch

from cryolike.errors import OutputExistsError, Problem, UsageError
from cryolike.physics.ctf import CtfParameters, ctf_on_pixels
from cryolike.physics.rotations import rotation_matrices
from cryolike.units import deg_from_rad

__all__ = [
    "BlobModel",
    "asymmetric_particle",
    "density_map",
    "project",
    "simulate_particles",
    "write_relion_set",
]

_IMAGES_AT_ONCE = 64
# Voltage (kV), Cs (mm) and amplitude contrast of each optics group.
_OPTICS_GROUPS = np.array([[300.0, 2.7, 0.1], [200.0, 1.4, 0.07]])


@dataclass(frozen=True, kw_only=True, eq=False)
class BlobModel:
    """A particle as a sum of spherical Gaussians.

    Parameters
    ----------
    centres_A
        Positions (x, y, z), shape (n_blobs, 3).
    sigmas_A
        Standard deviations, shape (n_blobs,).
    weights
        Integral of each Gaussian, shape (n_blobs,).

    Raises
    ------
    ValueError
        Where the shapes do not fit together.
    """

    centres_A: np.ndarray
    sigmas_A: np.ndarray
    weights: np.ndarray

    def __post_init__(self) -> None:
        n_blobs = len(self.weights)
        shapes = (self.centres_A.shape, self.sigmas_A.shape, self.weights.shape)
        if shapes != ((n_blobs, 3), (n_blobs,), (n_blobs,)):
            msg = f"centres, sigmas and weights have shapes {shapes}, expected (n, 3), (n,), (n,)"
            raise ValueError(msg)


def asymmetric_particle(
    radius_A: float, n_blobs: int = 60, seed: int = 0, lobe_turn_rad: float = 0.0
) -> BlobModel:
    """Make a particle without symmetry that differs from its mirror image.

    Two thirds of the Gaussians follow a helix wound around a bent axis; the others form three
    lobes of different size beside it.

    Parameters
    ----------
    radius_A
        All Gaussians lie within this distance of the origin, up to three standard deviations.
    n_blobs
        Number of Gaussians.
    seed
        Of their irregularities.
    lobe_turn_rad
        Turn the largest lobe about the z axis by this angle: the particle in another conformation.

    Returns
    -------
    BlobModel
        Centred on its centre of mass, as it is where no lobe is turned.
    """
    rng = np.random.default_rng(seed)
    n_helix = n_blobs - n_blobs // 3
    t = np.linspace(0, 1, n_helix)
    turn = 2 * np.pi * 2.25 * t
    helix = np.stack(
        [0.35 * np.cos(turn) + 0.6 * t**2, 0.35 * np.sin(turn) - 0.3 * t, 1.6 * t - 0.8], axis=1
    )
    lobe_centres = np.array([[-0.7, 0.1, 0.35], [0.15, 0.75, -0.5], [0.3, -0.6, 0.6]])
    lobe_spread = np.array([0.16, 0.12, 0.08])
    lobe = rng.choice(3, size=n_blobs // 3, p=[0.5, 0.3, 0.2])
    scatter = rng.normal(size=(n_blobs // 3, 3)) * lobe_spread[lobe, None]
    centres = np.concatenate([helix, lobe_centres[lobe] + scatter])
    sigmas = rng.uniform(0.05, 0.08, size=n_blobs)
    weights = rng.uniform(0.7, 1.3, size=n_blobs)
    centres -= np.average(centres, axis=0, weights=weights)
    size = np.max(np.linalg.norm(centres, axis=1) + 3 * sigmas)
    turned = n_helix + np.flatnonzero(lobe == 0)
    # Coordinates in a frame that turns the other way
    about_z = rotation_matrices(np.array([[-lobe_turn_rad, 0.0, 0.0]]))[0]
    centres[turned] = centres[turned] @ about_z.T
    return BlobModel(
        centres_A=centres * (radius_A / size), sigmas_A=sigmas * (radius_A / size), weights=weights
    )


def project(
    model: BlobModel,
    euler_rad: np.ndarray,
    origins_A: np.ndarray,
    n_pixels: int,
    pixel_size_A: float,
) -> np.ndarray:
    """Exact projections, sampled at the pixel centres.

    Parameters
    ----------
    model
        The particle; its origin falls on pixel floor(n_pixels / 2).
    euler_rad
        Columns rot, tilt, psi, shape (n, 3).
    origins_A
        RELION's origin offsets (x, y), shape (n, 2): the particle is displaced by minus these.
    n_pixels
        Box size.
    pixel_size_A
        Å per pixel.

    Returns
    -------
    ndarray
        float64, shape (n, n_pixels, n_pixels), y in rows and x in columns; density per Å².
    """
    images = np.empty((len(euler_rad), n_pixels, n_pixels))
    axis_A = _axis_A(n_pixels, pixel_size_A)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        batch = slice(start, start + _IMAGES_AT_ONCE)
        rotated_A = model.centres_A @ rotation_matrices(euler_rad[batch]).transpose(0, 2, 1)
        centres_A = rotated_A[:, :, :2] - origins_A[batch, None, :]
        profiles = _profiles(axis_A, centres_A, model.sigmas_A[:, None])
        along_x, along_y = profiles[:, :, 0], profiles[:, :, 1]
        weighted_y = along_y * model.weights[:, None]
        np.matmul(weighted_y.transpose(0, 2, 1), along_x, out=images[batch])
    return images


def density_map(model: BlobModel, n_voxels: int, voxel_size_A: float) -> np.ndarray:
    """Sample the model on a 3-D grid, for programs that start from a map.

    Parameters
    ----------
    model
        The particle; its origin falls on voxel floor(n_voxels / 2).
    n_voxels
        Box size.
    voxel_size_A
        Å per voxel.

    Returns
    -------
    ndarray
        float64, shape (n_voxels, n_voxels, n_voxels), axes z, y, x; density per Å³.
    """
    axis_A = _axis_A(n_voxels, voxel_size_A)
    profiles = _profiles(axis_A, model.centres_A, model.sigmas_A[:, None])
    along_x, along_y, along_z = profiles.transpose(1, 0, 2)
    planes = along_z[:, :, None] * (along_y * model.weights[:, None])[:, None, :]
    return np.tensordot(planes, along_x, axes=(0, 0))


def _axis_A(n_pixels: int, pixel_size_A: float) -> np.ndarray:
    """Coordinates of the pixel centres along one axis."""
    return (np.arange(n_pixels) - n_pixels // 2) * pixel_size_A


def _profiles(axis_A: np.ndarray, centres_A: np.ndarray, sigmas_A: np.ndarray) -> np.ndarray:
    """Normalised 1-D Gaussians along a new last axis; `sigmas_A` broadcasts to `centres_A`."""
    sigmas_A = sigmas_A[..., None]
    z = (axis_A - centres_A[..., None]) / sigmas_A
    profiles: np.ndarray = np.exp(-0.5 * z**2) / (np.sqrt(2 * np.pi) * sigmas_A)
    return profiles


def simulate_particles(
    model: BlobModel,
    parameters: CtfParameters,
    euler_rad: np.ndarray,
    origins_A: np.ndarray,
    n_pixels: int,
    pixel_size_A: float,
    *,
    snr: float | None = None,
    seed: int | np.random.SeedSequence = 0,
) -> np.ndarray:
    """Projections seen through the contrast transfer function, with white noise.

    Parameters
    ----------
    model, euler_rad, origins_A, n_pixels, pixel_size_A
        As in `project`.
    parameters
        CTF parameters of the n images.
    snr
        Variance of the signal, over all these images, divided by that of the noise; None for no
        noise.
    seed
        Of the noise.

    Returns
    -------
    ndarray
        float32, shape (n, n_pixels, n_pixels).

    Raises
    ------
    UsageError
        Where `snr` is not positive.
    """
    if snr is not None and not snr > 0:
        raise UsageError(_bad_snr(snr))
    images = np.empty((len(parameters), n_pixels, n_pixels), dtype=np.float32)
    for start in range(0, len(images), _IMAGES_AT_ONCE):
        batch = slice(start, start + _IMAGES_AT_ONCE)
        projections = project(model, euler_rad[batch], origins_A[batch], n_pixels, pixel_size_A)
        images[batch] = _apply_ctf(projections, parameters.take(batch), pixel_size_A)
    if snr is not None:
        noise_sd = np.sqrt(np.mean(images.var(axis=(1, 2), dtype=np.float64)) / snr)
        rng = np.random.default_rng(seed)
        for image in images:
            image += rng.standard_normal(image.shape, dtype=np.float32) * np.float32(noise_sd)
    return images


def _apply_ctf(images: np.ndarray, parameters: CtfParameters, pixel_size_A: float) -> np.ndarray:
    """Filter images; the CTF is real and even, so the place of the origin does not matter."""
    n_pixels = images.shape[-1]
    spectra = torch.fft.rfft2(torch.from_numpy(images))
    spectra *= ctf_on_pixels(parameters, n_pixels, pixel_size_A)
    filtered: np.ndarray = torch.fft.irfft2(spectra, s=(n_pixels, n_pixels)).numpy()
    return filtered


def write_relion_set(
    folder: str | Path,
    *,
    n_images: int = 600,
    n_pixels: int = 96,
    pixel_size_A: float = 2.0,
    n_stacks: int = 3,
    snr: float | None = 0.25,
    seed: int = 0,
    model: BlobModel | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Simulate a particle set and write it as RELION 3.1 would.

    The set has two optics groups, astigmatic defocus that differs from image to image, and true
    poses. Its rows are shuffled, so that neighbouring rows lie in different stacks.

    Parameters
    ----------
    folder
        Is created where it does not exist; gets `particles.star` and `Particles/`.
    n_images, n_stacks
        Number of particles, and of stack files they are spread over.
    n_pixels, pixel_size_A
        Of the images.
    snr
        Signal variance over noise variance; None for no noise.
    seed
        The same seed gives the same images and metadata.
    model
        The particle; by default `asymmetric_particle` with a radius of 0.3 boxes.
    progress
        Called with images done and `n_images` after each stack.

    Returns
    -------
    Path
        The STAR file. Image names in it are relative to `folder`.

    Raises
    ------
    UsageError
        Where a number is out of range.
    OutputExistsError
        Where `folder` already holds a `particles.star` or any of the stacks.
    """
    _check_options(n_images, n_pixels, pixel_size_A, n_stacks, snr)
    folder = Path(folder)
    star_file = folder / "particles.star"
    stack_names = [f"Particles/stack_{i:03d}.mrcs" for i in range(n_stacks)]
    _refuse_existing([star_file, *(folder / name for name in stack_names)])
    (folder / "Particles").mkdir(parents=True, exist_ok=True)

    box_A = n_pixels * pixel_size_A
    if model is None:
        model = asymmetric_particle(0.3 * box_A, seed=seed)
    truth_seed, order_seed, noise_seed = np.random.SeedSequence(seed).spawn(3)
    truth = _random_truth(n_images, box_A, np.random.default_rng(truth_seed))
    members = np.array_split(np.arange(n_images), n_stacks)
    for name, rows, stack_seed in zip(
        stack_names, members, noise_seed.spawn(n_stacks), strict=True
    ):
        images = simulate_particles(
            model,
            truth.parameters.take(rows),
            truth.euler_rad[rows],
            truth.origins_A[rows],
            n_pixels,
            pixel_size_A,
            snr=snr,
            seed=stack_seed,
        )
        _write_stack(folder / name, images, pixel_size_A)
        if progress is not None:
            progress(int(rows[-1]) + 1, n_images)

    particles = _particle_rows(truth).assign(**_image_names(truth, stack_names, members))
    order = np.random.default_rng(order_seed).permutation(n_images)
    optics = _optics_rows(n_pixels, pixel_size_A)
    starfile.write({"optics": optics, "particles": particles.iloc[order]}, star_file)
    return star_file


@dataclass(frozen=True, kw_only=True, eq=False)
class _Truth:
    """What is known of each simulated particle: optics group (1-based), CTF and pose."""

    optics_group: np.ndarray
    parameters: CtfParameters
    euler_rad: np.ndarray
    origins_A: np.ndarray


def _random_truth(n_images: int, box_A: float, rng: np.random.Generator) -> _Truth:
    """Draw poses uniformly, and CTF parameters as they are in ordinary data sets."""
    optics_index = rng.permutation(np.arange(n_images) % len(_OPTICS_GROUPS))
    voltage_kV, cs_mm, amplitude_contrast = _OPTICS_GROUPS[optics_index].T
    defocus_A = rng.uniform(8_000, 22_000, size=n_images)
    astigmatism_A = rng.uniform(0, 3_000, size=n_images)
    parameters = CtfParameters(
        defocus_u_A=defocus_A + astigmatism_A / 2,
        defocus_v_A=defocus_A - astigmatism_A / 2,
        defocus_angle_rad=rng.uniform(0, np.pi, size=n_images),
        phase_shift_rad=np.zeros(n_images),
        spherical_aberration_mm=cs_mm,
        voltage_kV=voltage_kV,
        amplitude_contrast=amplitude_contrast,
        bfactor_A2=np.zeros(n_images),
        scale=np.ones(n_images),
    )
    euler_rad = rng.uniform(-np.pi, np.pi, size=(n_images, 3))
    euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, size=n_images))
    return _Truth(
        optics_group=optics_index + 1,
        parameters=parameters,
        euler_rad=euler_rad,
        origins_A=rng.uniform(-0.03 * box_A, 0.03 * box_A, size=(n_images, 2)),
    )


def _optics_rows(n_pixels: int, pixel_size_A: float) -> pd.DataFrame:
    """Make the optics table of the STAR file."""
    groups = range(1, len(_OPTICS_GROUPS) + 1)
    return pd.DataFrame(
        {
            "rlnOpticsGroupName": [f"opticsGroup{group}" for group in groups],
            "rlnOpticsGroup": groups,
            "rlnVoltage": _OPTICS_GROUPS[:, 0],
            "rlnSphericalAberration": _OPTICS_GROUPS[:, 1],
            "rlnAmplitudeContrast": _OPTICS_GROUPS[:, 2],
            "rlnImagePixelSize": float(pixel_size_A),
            "rlnImageSize": n_pixels,
            "rlnImageDimensionality": 2,
        }
    )


def _particle_rows(truth: _Truth) -> pd.DataFrame:
    """Make the particles table, in the order of the images, in RELION's units."""
    ctf = truth.parameters
    rot_deg, tilt_deg, psi_deg = deg_from_rad(truth.euler_rad).T
    return pd.DataFrame(
        {
            "rlnOpticsGroup": truth.optics_group,
            "rlnDefocusU": ctf.defocus_u_A,
            "rlnDefocusV": ctf.defocus_v_A,
            "rlnDefocusAngle": deg_from_rad(ctf.defocus_angle_rad),
            "rlnPhaseShift": deg_from_rad(ctf.phase_shift_rad),
            "rlnCtfBfactor": ctf.bfactor_A2,
            "rlnCtfScalefactor": ctf.scale,
            "rlnAngleRot": rot_deg,
            "rlnAngleTilt": tilt_deg,
            "rlnAnglePsi": psi_deg,
            "rlnOriginXAngst": truth.origins_A[:, 0],
            "rlnOriginYAngst": truth.origins_A[:, 1],
        }
    )


def _image_names(
    truth: _Truth, stack_names: list[str], members: list[np.ndarray]
) -> dict[str, list[str]]:
    """Image and micrograph names; every micrograph has one stack and one optics group."""
    image_names, micrographs = [], []
    for stack, (name, rows) in enumerate(zip(stack_names, members, strict=True)):
        image_names += [f"{i:06d}@{name}" for i in range(1, len(rows) + 1)]
        micrographs += [
            f"Micrographs/mic_{stack:03d}_{group}.mrc" for group in truth.optics_group[rows]
        ]
    return {"rlnImageName": image_names, "rlnMicrographName": micrographs}


def _write_stack(path: Path, images: np.ndarray, pixel_size_A: float) -> None:
    with mrcfile.new(path) as stack:
        stack.set_data(images)
        stack.set_image_stack()
        stack.voxel_size = pixel_size_A


def _check_options(
    n_images: int, n_pixels: int, pixel_size_A: float, n_stacks: int, snr: float | None
) -> None:
    """Raise one UsageError that lists every number out of range."""
    faults = []
    if n_images < 1:
        faults.append(f"n_images {n_images}: must be at least 1.")
    if n_pixels < 8:
        faults.append(f"n_pixels {n_pixels}: must be at least 8.")
    if not 0 < pixel_size_A < np.inf:
        faults.append(f"pixel_size_A {pixel_size_A}: must be positive.")
    if not 1 <= n_stacks <= max(n_images, 1):
        faults.append(f"n_stacks {n_stacks}: must be between 1 and the number of images.")
    if snr is not None and not snr > 0:
        faults.append(_bad_snr(snr))
    if faults:
        raise UsageError([Problem(message=fault, kind="usage") for fault in faults])


def _bad_snr(snr: float) -> str:
    return f"snr {snr}: must be positive, or None for images without noise."


def _refuse_existing(paths: list[Path]) -> None:
    """Raise before anything is written where a file of an earlier set is in the way."""
    present = [str(path) for path in paths if path.exists()]
    if present:
        raise OutputExistsError(
            Problem(
                message="a particle set is already there",
                file=str(paths[0].parent),
                places=present,
                remedy="choose another folder, or remove these files.",
            )
        )
