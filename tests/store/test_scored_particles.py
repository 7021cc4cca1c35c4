"""The particle set with the poses found: the same rows, for RELION and for cryoSPARC."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import starfile
from numpy.lib import recfunctions
from scipy.spatial.transform import Rotation
from tests.builders import SetBuilder

from cryolike.errors import CryoLikeWarning, MetadataError, UsageError
from cryolike.io.pairs import read_pairs
from cryolike.io.read import read_particles
from cryolike.physics.rotations import rotation_matrices
from cryolike.store.scored_particles import (
    rotation_vectors,
    write_scored_particles,
)
from cryolike.store.scores import RelionPoses

LABELS = ("rlnAngleRot", "rlnAngleTilt", "rlnAnglePsi", "rlnOriginXAngst", "rlnOriginYAngst")


NAN = re.compile(r"\bnan\b", re.IGNORECASE)


def some_poses(n: int, seed: int = 0) -> RelionPoses:
    """Random poses."""
    rng = np.random.default_rng(seed)
    return RelionPoses(
        rot_deg=rng.uniform(-180, 180, n),
        tilt_deg=rng.uniform(0, 180, n),
        psi_deg=rng.uniform(-180, 180, n),
        origin_x_A=rng.uniform(-9, 9, n),
        origin_y_A=rng.uniform(-9, 9, n),
    )


def written(folder: Path, source: Path, rows: Any, poses: RelionPoses, **options: Any) -> Path:
    """Write the scored set of a metadata file; return its STAR file."""
    chosen = {"pixel_size_A": 2.0, "box_px": 12} | options
    files = write_scored_particles(
        folder, read_particles(source), np.asarray(rows, dtype=np.int64), poses, **chosen
    )
    assert all(path.exists() for path in files)
    assert {path.name for path in folder.iterdir()} == {path.name for path in files}
    return files[0]


def assert_poses(star_file: Path, rows: Any, poses: RelionPoses) -> None:
    """Read the poses of rows back."""
    frame = starfile.read(star_file, always_dict=True)["particles"].iloc[rows]
    for label, values in poses.columns().items():
        np.testing.assert_allclose(frame[label], values, atol=1e-6, err_msg=label)


def without_poses(text: str) -> list[list[str]]:
    """Values of all lines of a STAR file but those of poses, which are the last columns."""
    return [line.split()[:-5] if "@" in line else line.split() for line in text.splitlines()]


# STAR files


def test_other_columns_and_rows_are_as_they_were(build: SetBuilder, tmp_path: Path) -> None:
    """Rows in the input's order, their other columns the same text, the optics the same bytes."""
    columns = dict.fromkeys(LABELS, 0.125)
    source = build.relion(order=[3, 0, 14, 7, 2, 1], columns=columns).path
    poses = some_poses(6)
    found = written(tmp_path / "out", source, range(6), poses)
    ours, theirs = found.read_text(), source.read_text()
    assert without_poses(ours) == without_poses(theirs)
    assert ours.split("data_particles")[0] == theirs.split("data_particles")[0]
    assert_poses(found, range(6), poses)


def test_the_result_reads_as_the_same_set_with_these_poses(
    build: SetBuilder, tmp_path: Path
) -> None:
    """Our own reader sees the poses in radians and Å, and all else unchanged."""
    source = build.relion(columns=dict.fromkeys(LABELS, 0.0)).path
    poses = some_poses(15)
    ours = read_particles(written(tmp_path / "out", source, range(15), poses))
    theirs = read_particles(source)
    assert ours.rot_rad is not None
    assert ours.origin_y_A is not None
    np.testing.assert_allclose(ours.rot_rad, np.deg2rad(poses.rot_deg), atol=1e-7)
    np.testing.assert_allclose(ours.origin_y_A, poses.origin_y_A, atol=1e-6)
    assert [ours.image_name(i) for i in range(15)] == [theirs.image_name(i) for i in range(15)]
    for name in ("defocus_u_A", "defocus_v_A", "voltage_kV", "pixel_size_A", "phase_shift_rad"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(theirs, name))


def test_rows_without_a_score_keep_their_pose(build: SetBuilder, tmp_path: Path) -> None:
    """Their line is the same to the byte, whatever became of the others."""
    columns = {label: list(np.arange(15) + 0.25) for label in LABELS}
    source = build.relion(columns=columns).path
    rows = [1, 4, 11]
    with pytest.warns(CryoLikeWarning, match="12 rows of 15 .* keep the poses they had"):
        found = written(tmp_path / "out", source, rows, some_poses(3))
    pairs = zip(source.read_text().splitlines(), found.read_text().splitlines(), strict=True)
    changed = [old.split()[0] for old, new in pairs if old != new]
    names = [read_particles(source).image_name(row) for row in rows]
    assert changed == names
    assert_poses(found, rows, some_poses(3))


def test_rows_without_a_score_and_without_a_pose(build: SetBuilder, tmp_path: Path) -> None:
    """Where the set has no poses they get zeros, never NaN, and a warning says how many."""
    source = build.relion().path
    with pytest.warns(CryoLikeWarning, match=r"13 rows of 15 .* angles and origins of 0"):
        found = written(tmp_path / "out", source, [2, 5], some_poses(2))
    frame = starfile.read(found)["particles"]
    assert (frame.loc[0, list(LABELS)] == 0).all()
    assert not NAN.search(found.read_text())
    assert_poses(found, [2, 5], some_poses(2))


RELION_30 = """# RELION 3.0

data_

loop_
_rlnMicrographName #1
_rlnImageName #2
_rlnVoltage #3
_rlnDefocusU #4
_rlnDefocusV #5
_rlnDefocusAngle #6
_rlnSphericalAberration #7
_rlnAmplitudeContrast #8
_rlnMagnification #9
_rlnDetectorPixelSize #10
_rlnOriginX #11
_rlnOriginY #12
m.mrc 000001@s.mrcs 300.0 10000.00 9000.0 10 2.7 0.1 20000 5.0 1.0 2.0
m.mrc 000002@s.mrcs 200.0 10000.00 9000.0 10 1.4 0.1 20000 5.0 3.0 4.0
m.mrc 000003@s.mrcs 300.0 10000.00 9000.0 10 2.7 0.1 20000 5.0 5.0 6.0
"""


@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
def test_relion_3_0(tmp_path: Path) -> None:
    """A single table gets the optics groups it stands for, and origins in Å and in pixels agree."""
    source = tmp_path / "old.star"
    source.write_text(RELION_30)
    poses = some_poses(2)
    found = written(tmp_path / "out", source, [0, 2], poses, box_px=64)
    blocks = starfile.read(found, always_dict=True)
    assert list(blocks) == ["optics", "particles"]
    optics, particles = blocks["optics"], blocks["particles"]
    assert list(particles.columns[:12]) == [
        line.split()[0][1:] for line in RELION_30.splitlines() if line.startswith("_")
    ]
    assert_poses(found, [0, 2], poses)
    np.testing.assert_allclose(particles["rlnOriginX"][[0, 2]], poses.origin_x_A / 2.5, atol=1e-6)
    # The row without a score: the same origin in either unit
    assert particles.loc[1, ["rlnOriginX", "rlnOriginXAngst"]].tolist() == [3.0, 7.5]
    assert particles.loc[1, ["rlnOriginY", "rlnOriginYAngst"]].tolist() == [4.0, 10.0]
    assert optics["rlnImagePixelSize"].tolist() == [2.5, 2.5]
    assert optics["rlnImageSize"].tolist() == [64, 64]
    joined = particles.merge(optics, on="rlnOpticsGroup", suffixes=("", "Group"))
    assert (joined["rlnVoltage"] == joined["rlnVoltageGroup"]).all()
    assert (joined["rlnSphericalAberration"] == joined["rlnSphericalAberrationGroup"]).all()
    assert "10000.00 9000.0 10" in found.read_text()
    assert found.read_text().startswith("# RELION 3.0")


def test_pixel_size_that_the_metadata_lacks(tmp_path: Path) -> None:
    """The images' own pixel size makes pixels of origins, and goes into the optics groups."""
    lines = RELION_30.replace(" 20000 5.0 ", " ").splitlines()
    text = "\n".join(line for line in lines if not re.search("Magnif|Detector", line)) + "\n"
    source = tmp_path / "old.star"
    source.write_text(text)
    poses = some_poses(3)
    found = written(tmp_path / "out", source, range(3), poses, pixel_size_A=1.25)
    blocks = starfile.read(found, always_dict=True)
    assert (blocks["optics"]["rlnImagePixelSize"] == 1.25).all()
    np.testing.assert_allclose(
        blocks["particles"]["rlnOriginX"], poses.origin_x_A / 1.25, atol=1e-6
    )


def test_rows_with_a_wrong_number_of_values(build: SetBuilder, tmp_path: Path) -> None:
    """Such lines count as rows, and are left out with a warning: nothing could read them."""
    source = build.star([f"{i + 1}@s.mrcs" for i in range(4)])
    lines = source.read_text().splitlines()
    lines[-3] += " 7"
    source.write_text("\n".join(lines) + "\n")
    poses = some_poses(3)
    with pytest.warns(CryoLikeWarning, match="1 row of 4 hold"):
        found = written(tmp_path / "out", source, [0, 2, 3], poses)
    frame = starfile.read(found)["particles"]
    assert frame["rlnImageName"].tolist() == ["1@s.mrcs", "3@s.mrcs", "4@s.mrcs"]
    assert_poses(found, range(3), poses)


def test_a_part_of_the_table_is_refused(build: SetBuilder, tmp_path: Path) -> None:
    """Rows are positions in the whole set; a choice of rows would put poses beside wrong images."""
    source = build.relion().path
    part = read_particles(source).take(np.arange(4, 9))
    options: dict[str, Any] = {"pixel_size_A": 2.0, "box_px": 12}
    with pytest.raises(UsageError, match="has 15 rows, the table 5"):
        write_scored_particles(tmp_path, part, np.arange(5), some_poses(5), **options)
    with pytest.raises(UsageError, match="5 poses are given for 4 different rows"):
        write_scored_particles(
            tmp_path, read_particles(source), np.array([0, 1, 2, 3, 3]), some_poses(5), **options
        )
    assert not (tmp_path / "particles_scored.star").exists()


def test_paired_files(build: SetBuilder, tmp_path: Path) -> None:
    """A set of several pairs becomes one STAR file whose names say which image is whose."""
    stars, stacks = build.pairs()
    table = read_pairs(stars, stacks)
    poses = some_poses(15)
    write_scored_particles(
        tmp_path / "out", table, np.arange(15), poses, pixel_size_A=2.0, box_px=12
    )
    found = tmp_path / "out" / "particles_scored.star"
    ours = read_particles(found)
    assert [ours.image_name(i) for i in range(15)] == [table.image_name(i) for i in range(15)]
    np.testing.assert_allclose(ours.defocus_u_A, table.defocus_u_A)
    np.testing.assert_allclose(ours.defocus_angle_rad, table.defocus_angle_rad, atol=1e-7)
    assert_poses(found, range(15), poses)


def as_text(star_file: Path) -> dict[str, Any]:
    """Read all blocks without taking any value for a number."""
    blocks = starfile.read(star_file, always_dict=True)
    labels = [label for block in blocks.values() for label in block]
    return dict(starfile.read(star_file, always_dict=True, parse_as_string=labels))


REAL = (
    "real/aspire/sample_particles_relion30.star",
    "real/aspire/sample_particles_relion31.star",
    "real/cryodrgn/FinalRefinement-OriginalParticles-PfCRT.star",
    "real/cryodrgn/relion5.star",
    "real/cryodrgn/toy_projections_dir.star",
    "real/star-only/relion_style_particles.star",
    "relion-simulated/particles.star",
)


@pytest.mark.parametrize("name", REAL)
@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
def test_real_star_files(shared_data: Path, name: str, tmp_path: Path) -> None:
    """What other programs wrote: all columns but those of the pose hold the same text."""
    source = shared_data / name
    n = len(read_particles(source))
    rows, poses = np.arange(0, n, 2), some_poses(len(range(0, n, 2)))
    found = written(tmp_path / "out", source, rows, poses)
    assert_poses(found, rows, poses)
    blocks = [as_text(path) for path in (source, found)]
    old = blocks[0].get("particles", next(iter(blocks[0].values())))
    new = blocks[1]["particles"]
    changed = {*LABELS, "rlnOriginX", "rlnOriginY"}
    for label in old.columns:
        others = np.delete(np.arange(n), rows) if label in changed else np.arange(n)
        assert new[label].iloc[others].tolist() == old[label].iloc[others].tolist(), label
    if "optics" in blocks[0]:
        assert blocks[1]["optics"].equals(blocks[0]["optics"])


# cryoSPARC


def test_orientations_of_cryosparc() -> None:
    """The vector's rotation matrix, by Rodrigues' formula, is the inverse of RELION's matrix."""
    poses = some_poses(200)
    vectors = rotation_vectors(poses)
    angle = np.linalg.norm(vectors, axis=1)
    assert angle.max() <= np.pi
    x, y, z = (vectors / angle[:, None]).T
    zero = np.zeros_like(x)
    cross = np.array([[zero, -z, y], [z, zero, -x], [-y, x, zero]]).transpose(2, 0, 1)
    sine, versine = np.sin(angle)[:, None, None], 1 - np.cos(angle)[:, None, None]
    matrices = np.eye(3) + sine * cross + versine * cross @ cross
    euler_rad = np.deg2rad(np.stack([poses.rot_deg, poses.tilt_deg, poses.psi_deg], axis=1))
    np.testing.assert_allclose(
        matrices, rotation_matrices(euler_rad).transpose(0, 2, 1), atol=1e-12
    )


def test_a_turn_in_the_plane() -> None:
    """An image turned by psi about z alone has the vector (0, 0, psi)."""
    one = np.array([30.0])
    zero = np.zeros(1)
    poses = RelionPoses(rot_deg=zero, tilt_deg=zero, psi_deg=one, origin_x_A=zero, origin_y_A=zero)
    np.testing.assert_allclose(rotation_vectors(poses), [[0, 0, np.pi / 6]], atol=1e-12)


def poses_of(vectors: np.ndarray, origins_A: np.ndarray) -> RelionPoses:
    """Convert rotation vectors by scipy, which turns objects where RELION turns frames."""
    angles_deg = Rotation.from_rotvec(vectors.astype(np.float64)).as_euler("ZYZ", degrees=True)
    values = *angles_deg.T, *np.asarray(origins_A, np.float64).T
    return RelionPoses.of_columns(dict(zip(LABELS, values, strict=True)))


def cs_set(build: SetBuilder, **fields: Any) -> Path:
    """Ten rows in two stacks."""
    paths = [">J3/a.mrc", "J3/b.mrc"] * 5
    return build.cryosparc(paths, list(range(10)), **fields)


def test_cs_file_without_poses(build: SetBuilder, tmp_path: Path) -> None:
    """All fields and uids are the same; pose, shift in pixels and their pixel size are added."""
    source = cs_set(build)
    poses = some_poses(10)
    written(tmp_path / "out", source, range(10), poses)
    old, new = np.load(source), np.load(tmp_path / "out" / "particles_scored.cs")
    assert new.dtype.names[: len(old.dtype.names)] == old.dtype.names
    same = recfunctions.repack_fields(new[list(old.dtype.names)])
    assert same.dtype == old.dtype
    assert same.tobytes() == old.tobytes()
    assert new.dtype["alignments3D/pose"] == np.dtype(("<f4", (3,)))
    np.testing.assert_allclose(new["alignments3D/shift"][:, 0] * 2.0, poses.origin_x_A, atol=1e-5)
    np.testing.assert_allclose(new["alignments3D/shift"][:, 1] * 2.0, poses.origin_y_A, atol=1e-5)
    np.testing.assert_allclose(new["alignments3D/pose"], rotation_vectors(poses), atol=1e-6)
    assert (new["alignments3D/psize_A"] == 2).all()


def test_cs_file_with_poses(build: SetBuilder, tmp_path: Path) -> None:
    """Rows without a score keep theirs; shifts are in pixels of the alignment, not of the image."""
    rng = np.random.default_rng(1)
    before = {
        "alignments3D__shift": rng.normal(size=(10, 2)).astype("<f4"),
        "alignments3D__psize_A": np.full(10, 4.0, "<f4"),
        "alignments3D__pose": rng.normal(size=(10, 3)).astype("<f4"),
        "alignments3D__error": rng.normal(size=10).astype("<f4"),
    }
    source = cs_set(build, **before)
    poses, rows = some_poses(4), [0, 3, 4, 9]
    with pytest.warns(CryoLikeWarning, match="6 rows of 10 .* keep the poses they had"):
        star = written(tmp_path / "out", source, rows, poses)
    old, new = np.load(source), np.load(tmp_path / "out" / "particles_scored.cs")
    assert new.dtype == old.dtype
    others = np.setdiff1d(np.arange(10), rows)
    assert new[others].tobytes() == old[others].tobytes()
    np.testing.assert_array_equal(new["alignments3D/error"], old["alignments3D/error"])
    np.testing.assert_array_equal(new["uid"], old["uid"])
    np.testing.assert_allclose(new["alignments3D/shift"][rows, 0] * 4, poses.origin_x_A, atol=1e-5)
    assert_poses(star, rows, poses)
    kept = poses_of(old["alignments3D/pose"], old["alignments3D/shift"] * 4.0)
    frame = starfile.read(star)["particles"].iloc[others]
    np.testing.assert_allclose(frame["rlnOriginXAngst"], kept.origin_x_A[others], atol=1e-6)
    np.testing.assert_allclose(frame["rlnAngleTilt"], kept.tilt_deg[others], atol=1e-6)


def test_poses_of_a_passthrough_file(build: SetBuilder, tmp_path: Path) -> None:
    """Rows without a score keep the poses that came from there, though the field is a new one."""
    rng = np.random.default_rng(2)
    fields = {
        "alignments3D/pose": rng.normal(size=(10, 3)).astype("<f4"),
        "alignments3D/shift": rng.normal(size=(10, 2)).astype("<f4"),
        "alignments3D/psize_A": np.full(10, 4.0, "<f4"),
    }
    source = cs_set(build)
    uid = np.load(source)["uid"]
    dtype = [("uid", "<u8"), *((k, v.dtype, v.shape[1:]) for k, v in fields.items())]
    other = np.zeros(10, dtype)
    for name, values in ({"uid": uid} | fields).items():
        other[name] = values
    passthrough = tmp_path / "more_passthrough.cs"
    with passthrough.open("wb") as file:
        np.save(file, other)
    table = read_particles(source, passthrough=[passthrough])
    poses, rows = some_poses(3), np.array([7, 0, 2])
    with pytest.warns(CryoLikeWarning, match="7 rows of 10 .* keep the poses they had"):
        write_scored_particles(tmp_path / "out", table, rows, poses, pixel_size_A=2.0, box_px=12)
    new = np.load(tmp_path / "out" / "particles_scored.cs")
    others = np.setdiff1d(np.arange(10), rows)
    ours, theirs = (
        Rotation.from_rotvec(vectors[others].astype(np.float64))
        for vectors in (new["alignments3D/pose"], fields["alignments3D/pose"])
    )
    assert (theirs.inv() * ours).magnitude().max() < 1e-5
    shifts_A = new["alignments3D/shift"] * new["alignments3D/psize_A"][:, None]
    np.testing.assert_allclose(
        shifts_A[others], 4 * fields["alignments3D/shift"][others], atol=1e-5
    )
    np.testing.assert_allclose(new["alignments3D/pose"][rows], rotation_vectors(poses), atol=1e-6)


def test_star_file_of_a_cs_file(build: SetBuilder, tmp_path: Path) -> None:
    """Images are named by their stack, numbered from 1, and the CTF is that of the row."""
    kV = np.where(np.arange(10) < 4, 300, 200).astype("<f4")
    source = cs_set(build, ctf__accel_kv=kV)
    star = written(tmp_path / "out", source, range(10), some_poses(10))
    ours, theirs = read_particles(star), read_particles(source)
    assert ours.image_name(0) == "000001@J3/a.mrc"
    assert ours.image_name(9) == "000010@J3/b.mrc"
    for name in ("defocus_u_A", "defocus_angle_rad", "voltage_kV", "amplitude_contrast"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)
    assert len(starfile.read(star)["optics"]) == 2
    assert not ours.problems


def test_rows_of_a_cs_file_that_cannot_be_used(build: SetBuilder, tmp_path: Path) -> None:
    """They stay in the .cs file; the STAR file, where a NaN would do harm, lacks them."""
    defocus = np.linspace(1e4, 2e4, 10).astype("<f4")
    defocus[3] = np.nan
    source = cs_set(build, ctf__df1_A=defocus, alignments3D__pose=np.zeros((10, 3), "<f4"))
    rows = np.delete(np.arange(10), 3)
    with pytest.warns(CryoLikeWarning) as caught:
        star = written(tmp_path / "out", source, rows, some_poses(9))
    assert any("1 row of 10 cannot be used" in str(w.message) for w in caught)
    assert len(np.load(tmp_path / "out" / "particles_scored.cs")) == 10
    assert len(starfile.read(star)["particles"]) == 9
    assert not NAN.search(star.read_text())
    assert_poses(star, range(9), some_poses(9))


def test_pose_fields_of_another_kind_are_refused(build: SetBuilder, tmp_path: Path) -> None:
    """A field that cannot hold a vector is an error that names it, and nothing is written."""
    source = cs_set(build, alignments3D__pose=np.zeros(10, "<f4"))
    with pytest.raises(MetadataError, match="alignments3D/pose is of type"):
        written(tmp_path / "out", source, range(10), some_poses(10))
    assert not list((tmp_path / "out").glob("*"))


def test_real_files(shared_data: Path, tmp_path: Path) -> None:
    """Poses that cryoSPARC wrote come back as the same rotations."""
    source = shared_data / "real" / "cryodrgn" / "cryosparc_P12_J24_001_particles.cs"
    old = np.load(source)
    size_A = float(old["alignments3D/psize_A"][0])
    poses = poses_of(old["alignments3D/pose"], old["alignments3D/shift"] * size_A)
    written(tmp_path / "out", source, range(len(old)), poses, pixel_size_A=size_A)
    new = np.load(tmp_path / "out" / "particles_scored.cs")
    assert new.dtype == old.dtype
    np.testing.assert_allclose(new["alignments3D/shift"], old["alignments3D/shift"], atol=1e-5)
    theirs, ours = (Rotation.from_rotvec(a["alignments3D/pose"]) for a in (old, new))
    assert (theirs.inv() * ours).magnitude().max() < 1e-5
