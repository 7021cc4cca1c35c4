"""Poses that the exact search finds, against the true ones of simulated sets.

One set is ours; the other, which `relion_project` made, is used where the sample sets are. Both
come through the reader of STAR files and the transform that converts, so that rotation,
displacement, handedness and CTF conventions count together.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.scoring.simulated import PoseErrors, pose_errors, templates_of

from cryolike import ImageDescriptor
from cryolike.dataset import iter_polar
from cryolike.io.read import read_particles
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfParameters, ctf_on_polar_grid
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import BlobModel, asymmetric_particle, write_relion_set

pytestmark = pytest.mark.filterwarnings("ignore:rlnCtf:cryolike.errors.CryoLikeWarning")


@dataclass(frozen=True, kw_only=True, eq=False)
class Searched:
    """A set of known poses, and what to search it with."""

    star_file: Path
    model: BlobModel
    spacing_rad: float
    displacements: Displacements
    step_A: float

    @cached_property
    def table(self) -> ParticleTable:
        """What the STAR file says."""
        return read_particles(self.star_file)

    @cached_property
    def descriptor(self) -> ImageDescriptor:
        """Default grids."""
        box_px, pixel_A = self.table.box_px, self.table.pixel_size_A
        assert box_px is not None
        assert pixel_A is not None
        return ImageDescriptor.from_individual_values(int(box_px[0]), float(pixel_A[0]))

    @cached_property
    def images(self) -> torch.Tensor:
        """Polar images, in the order of the table."""
        (batch,) = iter_polar(self.table, self.descriptor, batch_size=len(self.table), ctf=False)
        return batch.images

    def ctf(self, *, is_swapped: bool = False) -> torch.Tensor:
        """CTFs as the metadata has them, or with θ measured from y, which is wrong."""
        polar = self.descriptor.polar_grid
        theta = np.pi / 2 - polar.theta_shell if is_swapped else polar.theta_shell
        return ctf_on_polar_grid(
            CtfParameters.from_table(self.table),
            polar.radius_shells,
            theta,
            self.descriptor.cartesian_grid.box_size_A,
            dtype=torch.float32,
        )

    @cached_property
    def search(self) -> PoseSearch:
        """Exact search over all viewing directions."""
        views = ViewingDirections.of_spacing(self.spacing_rad)
        templates = templates_of(self.model, views, self.descriptor)
        return PoseSearch(templates, self.displacements, mode="exact")

    @cached_property
    def scores(self) -> PoseScores:
        """Of all images."""
        return self.search.score(self.images, self.ctf())

    @cached_property
    def errors(self) -> PoseErrors:
        """Of all images."""
        return self.errors_of(self.scores.poses, np.arange(len(self.table)))

    def errors_of(self, poses: Poses, rows: np.ndarray) -> PoseErrors:
        """Differences from the angles and origins in the STAR file."""
        names = ("rot_rad", "tilt_rad", "psi_rad", "origin_x_A", "origin_y_A")
        values = np.stack([getattr(self.table, name)[rows] for name in names], axis=1)
        return pose_errors(poses, values[:, :3], values[:, 3:])

    @property
    def groups(self) -> dict[str, np.ndarray]:
        """Rows of each optics group, told by their voltage."""
        return {
            f"{voltage:g} kV": np.flatnonzero(self.table.voltage_kV == voltage)
            for voltage in np.unique(self.table.voltage_kV)
        }

    @property
    def astigmatism_A(self) -> np.ndarray:
        """|U − V| of each row."""
        astigmatism: np.ndarray = np.abs(self.table.defocus_u_A - self.table.defocus_v_A)
        return astigmatism


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Searched:
    """Make a small set, searched at three times the default spacing."""
    n_pixels, pixel_A = 40, 3.0
    model = asymmetric_particle(0.35 * n_pixels * pixel_A)
    star_file = write_relion_set(
        tmp_path_factory.mktemp("ours"),
        n_images=60,
        n_pixels=n_pixels,
        pixel_size_A=pixel_A,
        snr=0.5,
        model=model,
    )
    return Searched(
        star_file=star_file,
        model=model,
        spacing_rad=0.24,
        displacements=Displacements.grid(2, 5, 5, pixel_A),
        step_A=pixel_A,
    )


@pytest.fixture(scope="module")
def of_relion(shared_data: Path) -> Searched:
    """RELION's set with default viewing directions; its map is that of these Cα atoms."""
    folder = shared_data / "relion-simulated"
    lines = (folder / "structure_ca.pdb").read_text().splitlines()
    atoms = [line for line in lines if line.startswith("ATOM")]
    xyz_A = np.array([[float(line[i : i + 8]) for i in (30, 38, 46)] for line in atoms])
    model = BlobModel(
        centres_A=xyz_A - xyz_A.mean(axis=0),
        sigmas_A=np.full(len(xyz_A), 2.5),
        weights=np.ones(len(xyz_A)),
    )
    return Searched(
        star_file=folder / "particles.star",
        model=model,
        spacing_rad=1 / (4 * np.pi),
        displacements=Displacements.grid(4, 9, 9, 2.5),
        step_A=2.5,
    )


@pytest.fixture(params=["ours", pytest.param("of_relion", marks=pytest.mark.slow)])
def searched(request: pytest.FixtureRequest) -> Searched:
    """Return either set."""
    of_name: Searched = request.getfixturevalue(request.param)
    return of_name


def test_poses_are_as_near_as_the_grid_allows(searched: Searched) -> None:
    """In each optics group: angles within 0.6 of the spacing, shifts within half a step."""
    limit_deg = 0.6 * np.rad2deg(searched.spacing_rad)
    errors = searched.errors
    assert len(searched.groups) == 2
    for rows in searched.groups.values():
        assert len(rows) >= 20
        assert np.median(errors.direction_deg[rows]) <= limit_deg
        assert np.median(errors.rotation_deg[rows]) <= limit_deg
        assert np.median(errors.shift_A[rows]) <= searched.step_A / 2


def test_strong_astigmatism_does_no_harm(searched: Searched) -> None:
    """The half of the images with the larger |U − V| is as near as the other half."""
    weak, strong = np.array_split(np.argsort(searched.astigmatism_A), 2)
    errors = searched.errors
    assert np.median(errors.rotation_deg[strong]) <= 1.2 * np.median(errors.rotation_deg[weak])
    assert np.median(errors.rotation_deg[strong]) <= 0.6 * np.rad2deg(searched.spacing_rad)
    assert np.median(errors.shift_A[strong]) <= searched.step_A / 2


def test_with_the_axis_swapped_images_are_explained_worse(searched: Searched) -> None:
    """Astigmatic images fit their best template worse with θ of the CTF measured from y."""
    angle_rad = searched.table.defocus_angle_rad
    # Along the diagonals the swap changes nothing
    shows = searched.astigmatism_A * np.abs(np.cos(2 * angle_rad))
    rows = np.argsort(shows)[-len(shows) // 3 :]
    swapped = searched.search.score(searched.images[rows], searched.ctf(is_swapped=True)[rows])
    gained = searched.scores.log_likelihood_integrated[rows] - swapped.log_likelihood_integrated
    assert (gained > 0).mean() > 0.95
    errors, worse = searched.errors, searched.errors_of(swapped.poses, rows)
    assert np.median(worse.rotation_deg) > np.median(errors.rotation_deg[rows])


@pytest.mark.parametrize("wrong", ["mirrored", "psi", "origin"])
def test_other_conventions_would_be_seen(ours: Searched, wrong: str) -> None:
    """With the other hand, the other sense of psi or of the origins, poses are far off."""
    poses = ours.scores.poses
    columns = {name: np.array(values) for name, values in vars(poses).items()}
    if wrong == "mirrored":
        columns["tilt_rad"] = np.pi - columns["tilt_rad"]
    elif wrong == "psi":
        columns["psi_rad"] = -columns["psi_rad"]
    else:
        columns["shift_x_A"], columns["shift_y_A"] = -columns["shift_x_A"], -columns["shift_y_A"]
    errors = ours.errors_of(Poses(**columns), np.arange(len(poses)))
    if wrong == "origin":
        assert np.median(errors.shift_A) > 1.5 * np.median(ours.errors.shift_A)
    else:
        assert np.median(errors.rotation_deg) > 4 * np.median(ours.errors.rotation_deg)
