"""Poses through files: read, searched near, written and read again, from STAR and .cs files."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation
from tests.builders import SetBuilder
from tests.score_sets import write_map
from tests.scoring.simulated import pose_errors, templates_of

from cryolike import ImageDescriptor
from cryolike.dataset import iter_polar
from cryolike.io.read import read_particles
from cryolike.particles import ParticleTable
from cryolike.physics.ctf import CtfParameters
from cryolike.physics.rotations import rotation_matrices
from cryolike.physics.views import ViewingDirections
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.plan import ScoreOptions, plan_scoring
from cryolike.scoring.poses import Poses, PoseScores
from cryolike.scoring.run import score_particles
from cryolike.scoring.search import PoseSearch
from cryolike.simulate import asymmetric_particle, simulate_particles
from cryolike.store.scored_particles import write_scored_particles
from cryolike.store.scores import RelionPoses

N_IMAGES, N_PIXELS, PIXEL_SIZE_A = 5, 24, 8.0
SPACING = 0.25
STEP_A = 4.0
_SHARP = asymmetric_particle(0.3 * N_PIXELS * PIXEL_SIZE_A)
MODEL = replace(_SHARP, sigmas_A=np.maximum(_SHARP.sigmas_A, 0.8 * PIXEL_SIZE_A))
POSES = ("rot_rad", "tilt_rad", "psi_rad", "origin_x_A", "origin_y_A")


@cache
def search(*, refine: bool = False) -> PoseSearch:
    """Compare with templates 14° apart; displacements on a grid of nine."""
    descriptor = ImageDescriptor.from_individual_values(
        N_PIXELS, PIXEL_SIZE_A, viewing_distance=SPACING
    )
    templates = templates_of(MODEL, ViewingDirections.of_spacing(SPACING), descriptor)
    return PoseSearch(templates, Displacements.grid(0.5, 3, 3, PIXEL_SIZE_A), refine=refine)


@pytest.fixture(scope="module")
def structure(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Density of the particle."""
    return write_map(tmp_path_factory.mktemp("map") / "a.mrc", MODEL)


def star_set(build: SetBuilder, euler_deg: np.ndarray, origins_A: np.ndarray) -> Path:
    """Write images with little noise and a STAR file that has their true poses."""
    rot, tilt, psi = euler_deg.T
    names = [f"{i + 1:06d}@s.mrcs" for i in range(N_IMAGES)]
    columns: dict[str, Any] = {
        "rlnAngleRot": rot,
        "rlnAngleTilt": tilt,
        "rlnAnglePsi": psi,
        "rlnOriginXAngst": origins_A[:, 0],
        "rlnOriginYAngst": origins_A[:, 1],
    }
    path = build.star(names, columns=columns, pixel_size_A=PIXEL_SIZE_A)
    images = simulate_particles(
        MODEL,
        CtfParameters.from_table(read_particles(path)),
        np.deg2rad(euler_deg),
        origins_A,
        N_PIXELS,
        PIXEL_SIZE_A,
        snr=3.0,
    )
    build.stack("s.mrcs", images)
    return path


def cs_twin(build: SetBuilder, table: ParticleTable, euler_deg: np.ndarray) -> Path:
    """Write what cryoSPARC would of the same set: shifts in pixels of half the size."""
    assert table.origin_x_A is not None
    assert table.origin_y_A is not None
    shifts = np.stack([table.origin_x_A, table.origin_y_A], axis=1) / (PIXEL_SIZE_A / 2)
    fields: dict[str, Any] = {
        "blob__psize_A": np.full(N_IMAGES, PIXEL_SIZE_A, "<f4"),
        "ctf__df1_A": table.defocus_u_A,
        "ctf__df2_A": table.defocus_v_A,
        "ctf__df_angle_rad": table.defocus_angle_rad,
        "ctf__phase_shift_rad": table.phase_shift_rad,
        "ctf__cs_mm": table.spherical_aberration_mm,
        "ctf__amp_contrast": table.amplitude_contrast,
        "alignments3D__pose": Rotation.from_euler("ZYZ", euler_deg, degrees=True).as_rotvec(),
        "alignments3D__shift": shifts,
        "alignments3D__psize_A": np.full(N_IMAGES, PIXEL_SIZE_A / 2, "<f4"),
    }
    return build.cryosparc(["s.mrcs"] * N_IMAGES, range(N_IMAGES), **fields)


def matrices(poses: Poses | ParticleTable) -> np.ndarray:
    """Rotation matrices, in which angles that say the same are the same."""
    assert poses.rot_rad is not None
    assert poses.tilt_rad is not None
    assert poses.psi_rad is not None
    return rotation_matrices(np.stack([poses.rot_rad, poses.tilt_rad, poses.psi_rad], axis=1))


def searched_near(
    table: ParticleTable, structure: Path, local_rad: float, *, refine: bool = False
) -> PoseScores:
    """Search near the poses of a table, as scoring does."""
    plan = plan_scoring(table, [structure], ScoreOptions(local_rad=local_rad))
    (batch,) = iter_polar(table, search().descriptor, batch_size=N_IMAGES)
    near = plan.near(np.arange(N_IMAGES))
    assert near is not None
    assert batch.ctf is not None
    return search(refine=refine).score(batch.images, batch.ctf, near=near, within_rad=local_rad)


angles = st.tuples(st.floats(-180, 180), st.floats(1, 179), st.floats(-180, 180))
origins = st.tuples(st.floats(-30, 30), st.floats(-30, 30))


@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(angles, origins), min_size=N_IMAGES, max_size=N_IMAGES),
    is_cs=st.booleans(),
    refine=st.booleans(),
)
def test_poses_go_round(
    build: SetBuilder, structure: Path, tmp_path: Path, rows: list[Any], is_cs: bool, refine: bool
) -> None:
    """Read, searched near, written, read: found poses are near the true ones, and come back."""
    euler_deg, origins_A = (np.array(column) for column in zip(*rows, strict=True))
    source = star_set(build, euler_deg, origins_A)
    table = read_particles(source)
    if is_cs:
        table = read_particles(cs_twin(build, table, euler_deg))
    found = searched_near(table, structure, SPACING, refine=refine)
    errors = pose_errors(found.poses, np.deg2rad(euler_deg), origins_A)
    # Half a step of a grid, or what a resolution of 16 Å leaves open
    assert errors.direction_deg.max() < np.rad2deg(1.6 * SPACING)
    assert errors.shift_A.max() < 2 * STEP_A
    columns = {column.name: getattr(found.poses, column.name) for column in fields(Poses)}
    poses = RelionPoses.from_model(**columns)
    files = write_scored_particles(
        tmp_path / "out",
        table,
        np.arange(N_IMAGES),
        poses,
        pixel_size_A=PIXEL_SIZE_A,
        box_px=N_PIXELS,
    )
    assert len(files) == 1 + is_cs
    for path in files:
        again = read_particles(path)
        np.testing.assert_allclose(matrices(again), matrices(found.poses), atol=2e-6)
        assert again.origin_x_A is not None
        assert again.origin_y_A is not None
        np.testing.assert_allclose(again.origin_x_A, -found.poses.shift_x_A, atol=2e-5)
        np.testing.assert_allclose(again.origin_y_A, -found.poses.shift_y_A, atol=2e-5)


@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
def test_star_and_cs_files_of_one_set(build: SetBuilder, structure: Path, tmp_path: Path) -> None:
    """The same poses are read from both, and a local search ends at the same results."""
    rng = np.random.default_rng(4)
    euler_deg = rng.uniform(-180, 180, (N_IMAGES, 3))
    euler_deg[:, 1] = rng.uniform(5, 175, N_IMAGES)
    star_file = star_set(build, euler_deg, rng.uniform(-20, 20, (N_IMAGES, 2)))
    of_star = read_particles(star_file)
    of_cs = read_particles(cs_twin(build, of_star, euler_deg))
    for name in POSES:
        theirs, ours = getattr(of_star, name), getattr(of_cs, name)
        np.testing.assert_allclose(ours, theirs, atol=1e-6, err_msg=name)
    options = ScoreOptions(
        local_rad=0.3, shift_max_px=0.5, shift_step_px=0.5, viewing_distance=SPACING, plots=False
    )
    one, other = (
        score_particles(plan_scoring(table, [structure], options), tmp_path / table.kind).scores
        for table in (of_star, of_cs)
    )
    assert one is not None
    assert other is not None
    # Beyond the reach of shifts around zero: those of the file were used
    assert np.abs(other.shift_x_A).max() > STEP_A + 1
    for name in ("rot_rad", "tilt_rad", "psi_rad", "shift_x_A", "cross_correlation"):
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=1e-5)


@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
def test_a_wrong_convention_is_far_from_the_truth(build: SetBuilder, structure: Path) -> None:
    """With each vector reversed, or shifts of the other sign, a local search finds worse."""
    rng = np.random.default_rng(5)
    euler_deg = rng.uniform(30, 150, (N_IMAGES, 3))
    origins_A = rng.uniform(10, 20, (N_IMAGES, 2))
    of_star = read_particles(star_set(build, euler_deg, origins_A))
    right = read_particles(cs_twin(build, of_star, euler_deg))
    records = np.load(build.folder / "particles.cs")
    best = searched_near(right, structure, SPACING).cross_correlation
    for field in ("alignments3D/pose", "alignments3D/shift"):
        changed = records.copy()
        changed[field] *= -1
        path = build.folder / "changed.cs"
        with path.open("wb") as stream:
            np.save(stream, changed)
        wrong = searched_near(read_particles(path), structure, SPACING).cross_correlation
        assert (wrong < best - 0.05).all(), field
