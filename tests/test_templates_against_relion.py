"""Templates against `relion_project`: viewing directions, in-plane angle, shift, handedness.

RELION interpolates linearly in a transform of the map padded to twice its size. That limits the
agreement: what our slices leave out is below 5e-6 (`physics/test_slices.py`).

A template lacks the mean in the box, and that box turns and moves with it, while RELION's image has
its own box. So RELION's mean is taken away in the box of the template.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
import torch
from torch import Tensor

from cryolike.descriptor import ImageDescriptor
from cryolike.io.structure import read_structure
from cryolike.physics.polar import PolarTransform
from cryolike.physics.scattering import DensityMap
from cryolike.physics.views import ViewingDirections
from cryolike.simulate import asymmetric_particle, density_map
from cryolike.templates import make_templates

pytestmark = pytest.mark.relion

N_POSES, N_PIXELS, PIXEL_A = 60, 64, 2.5
DESCRIPTOR = ImageDescriptor.from_individual_values(N_PIXELS, PIXEL_A)
KINDS = ("views", "inplane", "shifted", "all")
"""Poses without psi and shift; with psi; with a shift; with both."""


@dataclass(frozen=True, eq=False)
class Projected:
    """A map, poses and RELION's images, as polar images: of each kind (n_poses, …)."""

    density: DensityMap
    euler_rad: dict[str, np.ndarray]
    origins_A: dict[str, np.ndarray]
    images: dict[str, Tensor]


def random_poses(kind: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw directions evenly on the sphere; psi and the shift are 0 where they do not count."""
    rng = np.random.default_rng(seed)
    euler_rad = rng.uniform(-np.pi, np.pi, (N_POSES, 3))
    euler_rad[:, 1] = np.arccos(rng.uniform(-1, 1, N_POSES))
    n_inplanes = DESCRIPTOR.polar_grid.n_inplanes
    on_grid_rad = 2 * np.pi / n_inplanes * rng.integers(n_inplanes, size=N_POSES)
    euler_rad[:, 2] = on_grid_rad * (kind in ("inplane", "all"))
    origins_A = rng.uniform(4, 12, (N_POSES, 2)) * rng.choice([-1, 1], (N_POSES, 2))
    return euler_rad, origins_A * (kind in ("shifted", "all"))


def write_poses(path: Path, euler_rad: np.ndarray, origins_A: np.ndarray) -> None:
    """Write a STAR file of poses for relion_project."""
    angles_deg = np.rad2deg(euler_rad)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": ["one"],
            "rlnOpticsGroup": [1],
            "rlnVoltage": [300.0],
            "rlnSphericalAberration": [2.7],
            "rlnImagePixelSize": [PIXEL_A],
            "rlnImageSize": [N_PIXELS],
            "rlnImageDimensionality": [2],
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(len(euler_rad))],
            "rlnOpticsGroup": 1,
            "rlnAngleRot": angles_deg[:, 0],
            "rlnAngleTilt": angles_deg[:, 1],
            "rlnAnglePsi": angles_deg[:, 2],
            "rlnOriginXAngst": origins_A[:, 0],
            "rlnOriginYAngst": origins_A[:, 1],
        }
    )
    starfile.write({"optics": optics, "particles": particles}, path)


def projected_by_relion(map_file: Path, folder: Path) -> Projected:
    """Have RELION project a map in all kinds of poses."""
    poses = {kind: random_poses(kind, seed) for seed, kind in enumerate(KINDS)}
    euler_rad, origins_A = (np.concatenate(parts) for parts in zip(*poses.values(), strict=True))
    write_poses(folder / "poses.star", euler_rad, origins_A)
    command = ["relion_project", "--i", str(map_file), "--ang", "poses.star", "--o", "projected"]
    command += ["--angpix", str(PIXEL_A)]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=120)
    pixels = torch.from_numpy(mrcfile.read(folder / "projected.mrcs"))
    transform = PolarTransform.of_descriptor(DESCRIPTOR)
    boxes = transform(torch.ones_like(pixels[:1])) * pixels.mean(dim=(1, 2))[:, None, None]
    images = transform(pixels) - displaced(turned(boxes, euler_rad[:, 2]), origins_A)
    density = read_structure(map_file)
    assert isinstance(density, DensityMap)
    return Projected(
        density=density,
        euler_rad={kind: euler for kind, (euler, _) in poses.items()},
        origins_A={kind: origins for kind, (_, origins) in poses.items()},
        images=dict(zip(KINDS, images.split(N_POSES), strict=True)),
    )


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Projected:
    """Our asymmetric particle, sampled on voxels."""
    folder = tmp_path_factory.mktemp("projected")
    values = density_map(asymmetric_particle(0.3 * N_PIXELS * PIXEL_A), N_PIXELS, PIXEL_A)
    with mrcfile.new(folder / "map.mrc") as file:
        file.set_data(values.astype(np.float32))
        file.voxel_size = PIXEL_A
    return projected_by_relion(folder / "map.mrc", folder)


def templates(density: DensityMap | np.ndarray, euler_rad: np.ndarray) -> Tensor:
    """Templates of some viewing directions."""
    n_views = len(euler_rad)
    views = ViewingDirections(
        euler_rad[:, 0].copy(), euler_rad[:, 1].copy(), np.full(n_views, 1 / n_views)
    )
    return make_templates(density, DESCRIPTOR, views=views).images


def turned(images: Tensor, psi_rad: np.ndarray) -> Tensor:
    """T(k, θ + psi), for psi on the grid of angles."""
    n_inplanes = images.shape[-1]
    steps = np.rint(psi_rad / (2 * np.pi) * n_inplanes).astype(int)
    return torch.stack(
        [image.roll(-step, dims=-1) for image, step in zip(images, steps.tolist(), strict=True)]
    )


def displaced(images: Tensor, origins_A: np.ndarray) -> Tensor:
    """Particles at minus the origin."""
    polar = DESCRIPTOR.polar_grid
    radians = 2 * np.pi * 2 * polar.radius_shells / DESCRIPTOR.cartesian_grid.box_size_A
    along = np.stack([np.cos(polar.theta_shell), np.sin(polar.theta_shell)])
    phase = -radians[None, :, None] * (-origins_A @ along)[:, None, :]
    return images * torch.from_numpy(np.exp(1j * phase))


def agreement(ours: Tensor, theirs: Tensor) -> np.ndarray:
    """Complex correlation of each image with RELION's, up to 80 % of Nyquist."""
    polar = DESCRIPTOR.polar_grid
    counts = polar.radius_shells <= 0.8 * N_PIXELS / 4
    weights = torch.from_numpy(polar.point_weight_shells * counts)[:, None]

    def product(a: Tensor, b: Tensor) -> Tensor:
        return (weights * (a.conj() * b).real).sum(dim=(1, 2))

    ours, theirs = ours.to(torch.complex128), theirs.to(torch.complex128)
    correlation = product(ours, theirs) / (product(ours, ours) * product(theirs, theirs)).sqrt()
    return np.asarray(correlation.numpy())


def test_viewing_directions(simulated: Projected) -> None:
    """At psi = 0 our template is RELION's projection, at least to 0.999."""
    ours = templates(simulated.density, simulated.euler_rad["views"])
    assert agreement(ours, simulated.images["views"]).min() > 0.999


def test_inplane_angle(simulated: Projected) -> None:
    """Turned to θ + psi a template is RELION's image; turned the other way it is not."""
    euler_rad, theirs = simulated.euler_rad["inplane"], simulated.images["inplane"]
    ours = templates(simulated.density, euler_rad)
    assert agreement(turned(ours, euler_rad[:, 2]), theirs).min() > 0.999
    counts = np.abs(np.sin(euler_rad[:, 2])) > 0.2
    assert agreement(turned(ours, -euler_rad[:, 2]), theirs)[counts].max() < 0.9


def test_shift(simulated: Projected) -> None:
    """RELION's particle is at minus the origin, along its own axes."""
    origins_A, theirs = simulated.origins_A["shifted"], simulated.images["shifted"]
    ours = templates(simulated.density, simulated.euler_rad["shifted"])
    assert agreement(displaced(ours, origins_A), theirs).min() > 0.999
    for wrong in (-origins_A, origins_A * [1, -1], origins_A * [-1, 1]):
        assert agreement(displaced(ours, wrong), theirs).max() < 0.9


def test_whole_poses(simulated: Projected) -> None:
    """First turned, then shifted, a template is RELION's image."""
    euler_rad, origins_A = simulated.euler_rad["all"], simulated.origins_A["all"]
    ours = turned(templates(simulated.density, euler_rad), euler_rad[:, 2])
    assert agreement(displaced(ours, origins_A), simulated.images["all"]).min() > 0.999
    swapped = turned(displaced(templates(simulated.density, euler_rad), origins_A), euler_rad[:, 2])
    assert np.median(agreement(swapped, simulated.images["all"])) < 0.9


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_handedness(simulated: Projected, axis: int) -> None:
    """Mirrored along any axis, the map does not give RELION's images."""
    odd = np.flip(simulated.density.values, axis).copy()
    mirrored = np.roll(odd, 1, axis)  # the origin stays at voxel floor(n/2)
    ours = templates(mirrored, simulated.euler_rad["views"])
    assert agreement(ours, simulated.images["views"]).max() < 0.95
    assert np.median(agreement(ours, simulated.images["views"])) < 0.8


@pytest.mark.parametrize("swap", [(0, 1), (0, 2), (1, 2)])
def test_order_of_axes(simulated: Projected, swap: tuple[int, int]) -> None:
    """With two axes of the map exchanged it does not give RELION's images."""
    ours = templates(np.swapaxes(simulated.density.values, *swap), simulated.euler_rad["views"])
    assert np.median(agreement(ours, simulated.images["views"])) < 0.8


def test_map_of_the_sample_set(shared_data: Path, tmp_path: Path) -> None:
    """The map that the sample set was projected from agrees in all poses."""
    theirs = projected_by_relion(shared_data / "relion-simulated" / "map.mrc", tmp_path)
    for kind in KINDS:
        euler_rad, origins_A = theirs.euler_rad[kind], theirs.origins_A[kind]
        ours = turned(templates(theirs.density, euler_rad), euler_rad[:, 2])
        assert agreement(displaced(ours, origins_A), theirs.images[kind]).min() > 0.999
