"""The exact search against sums over pixels of images that are projected anew for every pose.

No polar grid, no rotation by steps and no phases: the particle is a sum of Gaussians, whose
projections at any Euler angles and any displacement are known in closed form. It is smooth enough
to have nothing beyond the disc of the polar grid, where both sums are of the same integral.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest
import torch

from cryolike import ImageDescriptor
from cryolike.physics.ctf import CtfParameters, ctf_on_pixels, ctf_on_polar_grid
from cryolike.physics.polar import PolarTransform
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import BlobModel, project
from cryolike.templates import TemplateSet

N_PIXELS, PIXEL_A = 32, 2.0
BOX_A = N_PIXELS * PIXEL_A
N_INPLANES = 2 * N_PIXELS
N_PADDED = 4 * N_PIXELS
MIDDLE = slice((N_PADDED - N_PIXELS) // 2, (N_PADDED + N_PIXELS) // 2)
DESCRIPTOR = ImageDescriptor.from_individual_values(N_PIXELS, PIXEL_A, precision="double")
DISPLACEMENTS = Displacements.grid(1.5, 3, 2, PIXEL_A)
UNDISPLACED = int(np.hypot(DISPLACEMENTS.x_A, DISPLACEMENTS.y_A).argmin())
VIEWS = ViewingDirections(
    rot_rad=np.array([0.4, -1.9, 2.5]),
    tilt_rad=np.array([0.9, 1.7, 0.2]),
    weights=np.array([0.5, 0.2, 0.3]),
)
# Low defocus: what the CTF spreads stays near
LENS = CtfParameters(
    defocus_u_A=np.array([4_000.0]),
    defocus_v_A=np.array([2_000.0]),
    defocus_angle_rad=np.array([0.5]),
    phase_shift_rad=np.zeros(1),
    spherical_aberration_mm=np.array([2.7]),
    voltage_kV=np.array([300.0]),
    amplitude_contrast=np.array([0.1]),
    bfactor_A2=np.zeros(1),
    scale=np.ones(1),
)


def smooth_particle() -> BlobModel:
    """Ten Gaussians with nothing beyond Nyquist, within 10 Å of the origin."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(10, 3))
    return BlobModel(
        centres_A=centres * 10 / np.linalg.norm(centres, axis=1).max(),
        sigmas_A=np.full(10, 3.2),
        weights=rng.uniform(0.3, 1.5, 10),
    )


def projection(
    rot_rad: float, tilt_rad: float, psi_rad: float, displacement_A: tuple[float, float]
) -> np.ndarray:
    """Projection of the particle at a displacement from the centre."""
    euler_rad, origin_A = np.array([[rot_rad, tilt_rad, psi_rad]]), -np.array([displacement_A])
    image: np.ndarray = project(smooth_particle(), euler_rad, origin_A, N_PIXELS, PIXEL_A)[0]
    return image


def all_poses() -> Iterator[tuple[int, int, int]]:
    """View, displacement and in-plane angle of every pose that is searched."""
    return itertools.product(range(len(VIEWS)), range(len(DISPLACEMENTS)), range(N_INPLANES))


def projection_at(view: int, displacement: int, inplane: int) -> np.ndarray:
    """Projection at a pose of the search: turned by +γ is psi = −γ."""
    return projection(
        float(VIEWS.rot_rad[view]),
        float(VIEWS.tilt_rad[view]),
        -2 * np.pi * inplane / N_INPLANES,
        (float(DISPLACEMENTS.x_A[displacement]), float(DISPLACEMENTS.y_A[displacement])),
    )


@cache
def lens_on_pixels() -> torch.Tensor:
    """CTF at the frequencies of a padded image."""
    return ctf_on_pixels(LENS, N_PADDED, PIXEL_A)[0]


def through_the_lens(image: np.ndarray) -> np.ndarray:
    """Image in a box so large that the CTF, which knows no box, spreads nothing beyond it."""
    margin = (N_PADDED - N_PIXELS) // 2
    padded = torch.from_numpy(np.pad(image, margin))
    spectrum = torch.fft.rfft2(padded) * lens_on_pixels()
    seen: np.ndarray = torch.fft.irfft2(spectrum, s=(N_PADDED, N_PADDED)).numpy()
    return seen


def searched(image: np.ndarray, *, has_ctf: bool) -> tuple[PoseScores, float]:
    """Search for an image; also the root of its power over the polar grid."""
    polar = DESCRIPTOR.polar_grid
    transform = PolarTransform.of_descriptor(DESCRIPTOR)
    flat = [
        projection(float(rot), float(tilt), 0.0, (0.0, 0.0))
        for rot, tilt in zip(VIEWS.rot_rad, VIEWS.tilt_rad, strict=True)
    ]
    templates, _ = transform.with_unit_power(torch.from_numpy(np.stack(flat)))
    images, power = transform.with_unit_power(torch.from_numpy(image[None]))
    ctf = torch.ones(images.shape, dtype=torch.float64)
    if has_ctf:
        ctf = ctf_on_polar_grid(LENS, polar.radius_shells, polar.theta_shell, BOX_A)
    of_particle = TemplateSet("smooth", templates, VIEWS, DESCRIPTOR)
    search = PoseSearch(of_particle, DISPLACEMENTS, mode="exact")
    return search.score(images, ctf), float(power[0].sqrt())


def found(scores: PoseScores) -> tuple[int, int, int]:
    """View, displacement and in-plane angle that a search found."""
    return int(scores.view[0]), int(scores.displacement[0]), int(scores.inplane[0])


def largest(values: np.ndarray) -> tuple[int, int, int]:
    """View, displacement and in-plane angle of the largest of all poses."""
    view, displacement, inplane = map(int, np.unravel_index(values.argmax(), values.shape))
    return view, displacement, inplane


def smooth_noise(seed: int) -> np.ndarray:
    """Noise to half of Nyquist that fades out towards the edge of the box."""
    axis = np.arange(N_PIXELS) - N_PIXELS // 2
    cycles = np.fft.fftfreq(N_PIXELS)
    white = np.random.default_rng(seed).normal(size=(N_PIXELS, N_PIXELS))
    spectrum = np.fft.fft2(white) * (np.hypot(cycles[:, None], cycles) < 0.25)
    fading = np.exp(-(axis[:, None] ** 2 + axis**2) / (2 * 3.0**2))
    noise: np.ndarray = np.fft.ifft2(spectrum).real * fading
    return noise


@pytest.mark.parametrize("has_ctf", [False, True])
def test_correlation_is_that_over_pixels(has_ctf: bool) -> None:
    """Of smooth images both sums are the same integral: the best of all poses and its value."""
    signal, noise = projection_at(1, 2, 23), smooth_noise(1)
    image = signal / np.linalg.norm(signal) + noise / np.linalg.norm(noise)
    # The CTF is even: an image through it, times a template, is the image times that through it
    filtered = through_the_lens(image)[MIDDLE, MIDDLE] if has_ctf else image
    correlations = np.empty((len(VIEWS), len(DISPLACEMENTS), N_INPLANES))
    for view, displacement, inplane in all_poses():
        expected = projection_at(view, displacement, inplane)
        correlations[view, displacement, inplane] = np.sum(filtered * expected)
    for view, inplane in itertools.product(range(len(VIEWS)), range(N_INPLANES)):
        expected = projection_at(view, UNDISPLACED, inplane)
        seen = through_the_lens(expected) if has_ctf else expected
        correlations[view, :, inplane] /= np.linalg.norm(seen) * np.linalg.norm(image)
    scores, _ = searched(image, has_ctf=has_ctf)
    assert found(scores) == largest(correlations)
    assert scores.cross_correlation[0] == pytest.approx(correlations.max(), rel=1e-8)


def test_products_with_white_noise_are_those_over_pixels() -> None:
    """Noise that fills the box: the template is compact, so quadrature errs by 1e-4 at most."""
    image = np.random.default_rng(2).normal(size=(N_PIXELS, N_PIXELS))
    products = np.empty((len(VIEWS), len(DISPLACEMENTS), N_INPLANES))
    for pose in all_poses():
        expected = projection_at(*pose)
        products[pose] = np.sum(image * expected) / np.linalg.norm(expected)
    scores, norm = searched(image, has_ctf=False)
    # 4π² is the polar integral's, since ∫|F|² = 4π² Σ I²
    ours = scores.cross_correlation[0] * norm / (2 * np.pi)
    assert ours == pytest.approx(products.max(), rel=1e-4)
    assert found(scores) == largest(products)
