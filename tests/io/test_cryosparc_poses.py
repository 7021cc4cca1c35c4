"""Poses of cryoSPARC's files: the same columns, in the same convention, as those of STAR files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm
from tests.builders import SetBuilder

from cryolike.errors import MetadataError
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.cryosparc_job import read_job
from cryolike.io.read import read_particles
from cryolike.particles import ParticleTable
from cryolike.store.scored_particles import write_scored_particles
from cryolike.store.scores import RelionPoses

N_ROWS = 10
POSE, SHIFT, PIXEL_SIZE = "alignments3D/pose", "alignments3D/shift", "alignments3D/psize_A"

Fields = dict[str, np.ndarray]


def poses(n: int = N_ROWS, seed: int = 0) -> Fields:
    """Fields of random poses; pixels of the alignment are twice those of the images."""
    rng = np.random.default_rng(seed)
    return {
        POSE: rng.uniform(-1.8, 1.8, (n, 3)).astype("<f4"),
        SHIFT: rng.uniform(-5, 5, (n, 2)).astype("<f4"),
        PIXEL_SIZE: np.full(n, 4.0, "<f4"),
    }


def cs_set(build: SetBuilder, fields: Fields, name: str = "particles.cs") -> Path:
    """Ten rows with further fields."""
    columns: dict[str, Any] = {key.replace("/", "__"): value for key, value in fields.items()}
    return build.cryosparc([">J3/a.mrc", "J3/b.mrc"] * 5, list(range(N_ROWS)), name, **columns)


def euler_rad(table: ParticleTable) -> np.ndarray:
    """Angles rot, tilt, psi, (n, 3)."""
    assert table.rot_rad is not None
    assert table.tilt_rad is not None
    assert table.psi_rad is not None
    return np.stack([table.rot_rad, table.tilt_rad, table.psi_rad], axis=1)


def origins_A(table: ParticleTable) -> np.ndarray:
    """Origins, (n, 2)."""
    assert table.origin_x_A is not None
    assert table.origin_y_A is not None
    return np.stack([table.origin_x_A, table.origin_y_A], axis=1)


def warnings_of(table: ParticleTable) -> list[str]:
    """Messages of the notices that are warnings."""
    return [notice.message for notice in table.notices if notice.level == "warning"]


def turned_about(axis: int, angle_rad: float) -> np.ndarray:
    """Matrix of the right-handed turn of objects about a coordinate axis."""
    generator = np.zeros((3, 3))
    i, j = (axis + 1) % 3, (axis + 2) % 3
    generator[j, i], generator[i, j] = angle_rad, -angle_rad
    matrix: np.ndarray = expm(generator)
    return matrix


def relion_matrix(angles_rad: np.ndarray) -> np.ndarray:
    """Matrix that takes the reference to the frame of the image: the turns undone one by one."""
    rot, tilt, psi = angles_rad
    matrix: np.ndarray = turned_about(2, -psi) @ turned_about(1, -tilt) @ turned_about(2, -rot)
    return matrix


def matrix_of_vector(vector: np.ndarray) -> np.ndarray:
    """Turn about an axis by its length, as the exponential of a skew matrix."""
    x, y, z = vector
    matrix: np.ndarray = expm(np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]))
    return matrix


# Orientations


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    vectors=st.one_of(
        arrays(np.float64, (N_ROWS, 3), elements=st.floats(-4, 4)),
        arrays(np.float64, (N_ROWS, 3), elements=st.sampled_from([0, 1e-9, np.pi / 2, np.pi])),
    )
)
def test_any_vector_is_the_inverse_of_relions_rotation(
    build: SetBuilder, vectors: np.ndarray
) -> None:
    """Also vectors longer than π, next to nothing, and those that look along z."""
    table = read_cryosparc(cs_set(build, {POSE: vectors}))
    assert table.problems == ()
    for angles, vector in zip(euler_rad(table), vectors, strict=True):
        expected = matrix_of_vector(vector).T
        np.testing.assert_allclose(relion_matrix(angles), expected, atol=1e-9)


@pytest.mark.parametrize(
    ("vector", "angles_deg"),
    [
        ((0, 0, np.pi / 6), (0, 0, 30)),
        ((0, np.pi / 3, 0), (0, 60, 0)),
        # Half a turn about the axis between x and z takes z to x and x to z
        ((np.pi / np.sqrt(2), 0, np.pi / np.sqrt(2)), (0, 90, 180)),
        ((np.pi / 2, 0, 0), (-90, 90, 90)),
    ],
)
def test_turns_about_one_axis(build: SetBuilder, vector: Any, angles_deg: Any) -> None:
    """What can be told without a formula: the signs of psi, tilt and rot."""
    vectors = np.tile(np.array(vector), (N_ROWS, 1))
    found_deg = np.rad2deg(euler_rad(read_cryosparc(cs_set(build, {POSE: vectors})))[0])
    away = (found_deg - np.array(angles_deg) + 180) % 360 - 180
    np.testing.assert_allclose(away, 0, atol=1e-9)


def test_poses_beyond_a_block_are_read(tmp_path: Path) -> None:
    """Rows beyond the first block of the file have their own poses."""
    n = 65_536 + 3
    fields = {POSE: np.zeros((n, 3), "<f4"), SHIFT: np.zeros((n, 2), "<f4")}
    fields[POSE][:, 2] = np.linspace(-3, 3, n)
    fields[SHIFT][:, 1] = np.arange(n)
    columns: dict[str, Any] = {key.replace("/", "__"): value for key, value in fields.items()}
    path = SetBuilder(tmp_path).cryosparc(["a.mrc"] * n, list(range(n)), **columns)
    table = read_cryosparc(path)
    np.testing.assert_allclose(euler_rad(table)[:, 2], fields[POSE][:, 2], atol=1e-6)
    np.testing.assert_array_equal(origins_A(table)[:, 1], 2.0 * np.arange(n))


# Origins


def test_shifts_count_pixels_of_the_alignment(build: SetBuilder) -> None:
    """Not those of the images; each row has its own."""
    fields = poses()
    fields[PIXEL_SIZE] = np.linspace(1, 4, N_ROWS, dtype="<f4")
    table = read_cryosparc(cs_set(build, fields))
    assert warnings_of(table) == []
    sizes_A = fields[PIXEL_SIZE].astype(np.float64)[:, None]
    np.testing.assert_allclose(origins_A(table), fields[SHIFT] * sizes_A, rtol=1e-12)


def test_shifts_without_a_pixel_size_of_their_own(build: SetBuilder) -> None:
    """They are taken as pixels of the images, with a warning that names both fields."""
    fields = poses()
    del fields[PIXEL_SIZE]
    table = read_cryosparc(cs_set(build, fields))
    np.testing.assert_allclose(origins_A(table), fields[SHIFT] * 2.0, rtol=1e-6)
    (warning,) = warnings_of(table)
    assert f"{PIXEL_SIZE} is missing" in warning
    assert "blob/psize_A" in warning


def test_shifts_without_any_pixel_size(build: SetBuilder) -> None:
    """Nothing tells what they mean: a warning says that they are not read; angles are."""
    fields = poses()
    del fields[PIXEL_SIZE]
    records = np.load(cs_set(build, fields))
    names = [name for name in records.dtype.names if name != "blob/psize_A"]
    path = build.folder / "no_size.cs"
    with path.open("wb") as stream:
        np.save(stream, records[names])
    table = read_cryosparc(path)
    assert table.origin_x_A is None
    assert table.has_poses
    (warning,) = warnings_of(table)
    assert f"{SHIFT} is not read" in warning


# Sets without poses, and other alignments


def test_poses_that_are_all_zero_are_none(build: SetBuilder) -> None:
    """Zeros are what files hold that nothing was aligned in: no warning, no pose."""
    fields = {name: np.zeros_like(values) for name, values in poses().items()}
    for absent in ("", PIXEL_SIZE):
        present = {name: values for name, values in fields.items() if name != absent}
        table = read_cryosparc(cs_set(build, present))
        assert not table.has_poses
        np.testing.assert_array_equal(euler_rad(table), 0)
        assert table.problems == ()
        assert warnings_of(table) == []


def test_rows_without_a_pose_are_exactly_zero(build: SetBuilder) -> None:
    """A local search knows such rows by it."""
    fields = poses()
    fields[POSE][[2, 7]] = 0
    is_none = (euler_rad(read_cryosparc(cs_set(build, fields))) == 0).all(axis=1)
    assert np.flatnonzero(is_none).tolist() == [2, 7]


def test_files_without_these_fields_have_no_poses(build: SetBuilder) -> None:
    """Columns are absent, not zero."""
    table = read_cryosparc(cs_set(build, {}))
    for name in ("rot_rad", "tilt_rad", "psi_rad", "origin_x_A", "origin_y_A"):
        assert getattr(table, name) is None


def test_other_alignments_are_not_taken(build: SetBuilder) -> None:
    """A note names them; those of the classes and of two dimensions are no final poses."""
    others = {
        "alignments2D/pose": np.ones(N_ROWS, "<f4"),
        "alignments_class_0/pose": np.ones((N_ROWS, 3), "<f4"),
    }
    table = read_cryosparc(cs_set(build, others))
    assert not table.has_poses
    both = read_cryosparc(cs_set(build, others | poses()))
    assert both.has_poses
    for found in (table, both):
        (note,) = [notice.message for notice in found.notices if "/pose" not in notice.message]
        assert note == "Poses (alignments2D, alignments_class_0) are not read."


def test_vectors_in_degrees_are_doubted(build: SetBuilder) -> None:
    """A turn by more than a whole one is no vector in radians."""
    fields = poses()
    fields[POSE][[1, 5]] = (0, 90, -20)
    (warning,) = warnings_of(read_cryosparc(cs_set(build, fields)))
    assert f"{POSE} looks like degrees" in warning
    assert "2 of 10" in warning


# What cannot be used


@pytest.mark.parametrize("field", [POSE, SHIFT])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_values_that_are_not_finite(build: SetBuilder, field: str, value: float) -> None:
    """One problem names the field, the rows and their uids; without these rows it is gone."""
    fields = poses()
    fields[field][4, 1] = value
    fields[field][6, 0] = value
    table = read_cryosparc(cs_set(build, fields))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [4, 6]
    assert problem.message.startswith(f"{field} is not finite (2 of 10 rows)")
    assert f"row 4 (uid {2**63 + 4})" in problem.places[0]
    assert "--on-bad-row skip" in problem.remedy
    assert warnings_of(table) == []
    rest = table.take(np.array([0, 1, 2, 3, 5, 7, 8, 9]))
    assert rest.problems == ()
    assert np.isfinite(euler_rad(rest)).all()


@pytest.mark.parametrize("size_A", [0.0, -1.0, np.nan, np.inf])
def test_shifts_in_pixels_of_no_size(build: SetBuilder, size_A: float) -> None:
    """Rows with a shift and without a pixel size are a problem; without a shift it is no matter."""
    fields = poses()
    fields[PIXEL_SIZE][[2, 3]] = size_A
    fields[SHIFT][3] = 0
    table = read_cryosparc(cs_set(build, fields))
    (problem,) = table.problems
    assert problem.rows is not None
    assert problem.rows.tolist() == [2]
    assert PIXEL_SIZE in problem.message
    assert origins_A(table)[3].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("field", "column"),
    [
        (POSE, np.zeros(N_ROWS, "<f4")),
        (POSE, np.zeros((N_ROWS, 2), "<f4")),
        (POSE, np.zeros((N_ROWS, 3, 3), "<f4")),
        (POSE, np.zeros((N_ROWS, 3), "<i4")),
        (POSE, np.zeros((N_ROWS, 3), "S4")),
        (SHIFT, np.zeros((N_ROWS, 3), "<f4")),
        (SHIFT, np.zeros((N_ROWS, 2), "<c8")),
        (PIXEL_SIZE, np.zeros((N_ROWS, 1), "<f4")),
        (PIXEL_SIZE, np.zeros(N_ROWS, "<u4")),
    ],
)
def test_fields_of_another_kind_are_refused(
    build: SetBuilder, field: str, column: np.ndarray
) -> None:
    """Before any work, in words that name the field and what it should hold."""
    path = cs_set(build, poses() | {field: column})
    with pytest.raises(MetadataError, match=f"{field} is of type .* floating-point numbers"):
        read_cryosparc(path)


def test_all_fields_of_another_kind_are_named(build: SetBuilder) -> None:
    """In one error."""
    wrong = {name: np.zeros(N_ROWS, "<i4") for name in (POSE, SHIFT, PIXEL_SIZE)}
    with pytest.raises(MetadataError) as caught:
        read_cryosparc(cs_set(build, wrong))
    assert len(caught.value.problems) == 3


# Files that are joined


def write_fields(path: Path, fields: Fields, rows: Any) -> Path:
    """Write a .cs file with uids and these fields."""
    all_fields = {"uid": np.uint64(2**63) + np.arange(N_ROWS, dtype=np.uint64), **fields}
    dtype: list[Any] = [(key, value.dtype, value.shape[1:]) for key, value in all_fields.items()]
    records = np.zeros(N_ROWS, dtype)
    for key, value in all_fields.items():
        records[key] = value
    with path.open("wb") as stream:
        np.save(stream, records[np.asarray(rows)])
    return path


def assert_same_poses(ours: ParticleTable, theirs: ParticleTable, atol: float = 0.0) -> None:
    """Compare the five columns."""
    for name in ("rot_rad", "tilt_rad", "psi_rad", "origin_x_A", "origin_y_A"):
        one, other = getattr(ours, name), getattr(theirs, name)
        np.testing.assert_allclose(one, other, rtol=0, atol=atol, err_msg=name)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(N_ROWS)), n_moved=st.integers(1, 3))
def test_poses_of_a_passthrough_file(build: SetBuilder, order: list[int], n_moved: int) -> None:
    """All or some of the fields lie there, in another order of rows: joined by uid."""
    whole = read_cryosparc(cs_set(build, poses(), "whole.cs"))
    moved = dict(list(poses().items())[-n_moved:])
    main = cs_set(build, {name: v for name, v in poses().items() if name not in moved})
    other = write_fields(build.folder / "other_passthrough.cs", moved, order)
    assert_same_poses(read_particles(main, passthrough=[other]), whole)


def test_passthrough_file_that_is_found_brings_its_poses(build: SetBuilder) -> None:
    """A file that is looked for because the CTF is missing is joined with all it has."""
    whole = cs_set(build, poses(), "whole.cs")
    records = np.load(whole)
    of_image = ["uid", *(name for name in records.dtype.names if name.startswith("blob"))]
    main = build.folder / "main.cs"
    with main.open("wb") as stream:
        np.save(stream, records[of_image])
    rest = {n: records[n] for n in records.dtype.names if n not in of_image}
    order = np.random.default_rng(1).permutation(N_ROWS)
    write_fields(build.folder / "P1_J2_passthrough_particles.cs", rest, order)
    assert_same_poses(read_particles(main), read_particles(whole))


def test_poses_of_a_group(build: SetBuilder) -> None:
    """Each result comes from the file that the group names for it, whatever else is in others."""
    whole = read_particles(cs_set(build, poses(), "whole.cs"))
    cs_set(build, poses(seed=1), "main.cs")
    write_fields(build.folder / "later_passthrough.cs", poses(), range(N_ROWS)[::-1])
    metafiles = {"blob": "main", "ctf": "main", "alignments3D": "later_passthrough"}
    results = {
        group: {"metafile": f">{name}.cs", "num_items": N_ROWS} for group, name in metafiles.items()
    }
    path = build.folder / "particles.csg"
    path.write_text(yaml.safe_dump({"results": results}))
    assert_same_poses(read_particles(path), whole)


def test_poses_of_a_job(build: SetBuilder) -> None:
    """Rows of a job's passthrough file have theirs."""
    whole = cs_set(build, poses(), "whole.cs")
    job = build.folder / "J4"
    build.stack("J4/restack/batch_000000_restacked.mrc", build.noise(N_ROWS))
    (job / "J4_passthrough_particles.cs").write_bytes(whole.read_bytes())
    assert_same_poses(read_job(build.folder, 4), read_particles(whole))


# The writer's inverse


angles = st.tuples(st.floats(-180, 180), st.floats(0, 180), st.floats(-180, 180))
shifts = st.tuples(st.floats(-50, 50), st.floats(-50, 50))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(angles, shifts), min_size=N_ROWS, max_size=N_ROWS),
    has_poses=st.booleans(),
)
def test_poses_written_are_poses_read(
    build: SetBuilder, tmp_path: Path, rows: list[Any], has_poses: bool
) -> None:
    """In .cs and STAR files alike: the same rotations and origins, to single precision."""
    euler_deg, shift_A = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    given_poses = RelionPoses(
        rot_deg=euler_deg[:, 0],
        tilt_deg=euler_deg[:, 1],
        psi_deg=euler_deg[:, 2],
        origin_x_A=shift_A[:, 0],
        origin_y_A=shift_A[:, 1],
    )
    source = read_particles(cs_set(build, poses() if has_poses else {}))
    files = write_scored_particles(
        tmp_path / "out", source, np.arange(N_ROWS), given_poses, pixel_size_A=2.0, box_px=12
    )
    for path in files:
        found = read_particles(path)
        np.testing.assert_allclose(origins_A(found), shift_A, atol=1e-4)
        for ours, theirs in zip(euler_rad(found), np.deg2rad(euler_deg), strict=True):
            np.testing.assert_allclose(relion_matrix(ours), relion_matrix(theirs), atol=2e-6)
    assert {path.suffix for path in files} == {".star", ".cs"}


def test_real_poses(shared_data: Path) -> None:
    """What cryoSPARC wrote: the angles' matrices are the inverse of the vectors' turns."""
    path = shared_data / "real" / "cryodrgn" / "cryosparc_P12_J24_001_particles.cs"
    records, table = np.load(path), read_particles(path)
    assert table.has_poses
    assert warnings_of(table) == []
    for row in range(0, len(table), 40):
        expected = matrix_of_vector(records[POSE][row].astype(np.float64)).T
        np.testing.assert_allclose(relion_matrix(euler_rad(table)[row]), expected, atol=1e-12)
    np.testing.assert_allclose(origins_A(table), records[SHIFT] * 2.95, rtol=1e-6)
