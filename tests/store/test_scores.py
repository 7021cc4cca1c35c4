"""The table of scores: what its columns say, and files that are complete or absent."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import OutputError, UsageError
from cryolike.physics.rotations import rotation_matrices
from cryolike.store.scores import (
    RelionPoses,
    ScoreLayout,
    ScoreTable,
    read_rejects,
    read_results,
    whole_file,
    write_results,
)
from cryolike.store.writer import rejects_csv

COLUMNS = [
    "source_row",
    "image_name",
    "uid",
    "structure",
    "cross_correlation",
    "log_likelihood_optimal",
    "log_likelihood_integrated",
    "left_out",
    "rlnAngleRot",
    "rlnAngleTilt",
    "rlnAnglePsi",
    "rlnOriginXAngst",
    "rlnOriginYAngst",
]


def some_scores(n_images: int = 5, n_structures: int = 3, seed: int = 0) -> ScoreTable:
    """Random scores of images whose rows are not consecutive."""
    rng = np.random.default_rng(seed)
    shape = (n_images, n_structures)
    names = ("log_likelihood_optimal", "log_likelihood_integrated", "shift_x_A", "shift_y_A")
    angles = {name: rng.uniform(-np.pi, np.pi, shape) for name in ("rot_rad", "psi_rad")}
    return ScoreTable(
        source_row=3 * np.arange(n_images) + 1,
        image_name=np.array([f"{i:06d}@a b.mrcs" for i in range(n_images)], dtype=object),
        uid=np.uint64(2**63 + 11) + np.arange(n_images, dtype=np.uint64),
        structures=tuple(f"structure {i}" for i in range(n_structures)),
        cross_correlation=rng.uniform(0, 1, shape),
        left_out=np.zeros(shape),
        tilt_rad=rng.uniform(0, np.pi, shape),
        **angles,
        **{name: rng.normal(0, 1e3, shape) for name in names},
    )


def test_rows_are_images_and_of_each_its_structures(tmp_path: Path) -> None:
    """The columns are those documented; the matrix has the table's rows as its elements."""
    scores = some_scores()
    write_results(tmp_path / "out", scores)
    frame = pd.read_parquet(tmp_path / "out" / "results.parquet")
    matrix = np.load(tmp_path / "out" / "log_likelihood_integrated.npy", allow_pickle=False)
    assert list(frame.columns) == COLUMNS
    assert matrix.shape == (5, 3)
    assert matrix.dtype == np.float64
    np.testing.assert_array_equal(frame["log_likelihood_integrated"], matrix.ravel())
    assert frame["source_row"].tolist() == [1] * 3 + [4] * 3 + [7] * 3 + [10] * 3 + [13] * 3
    assert frame["structure"].tolist() == ["structure 0", "structure 1", "structure 2"] * 5
    assert frame["uid"].iloc[-1] == 2**63 + 15
    assert frame["image_name"].iloc[3] == "000001@a b.mrcs"


def test_text_holds_the_same_numbers(tmp_path: Path) -> None:
    """The CSV file gives back every number of the Parquet file to the bit."""
    write_results(tmp_path, some_scores())
    text = pd.read_csv(tmp_path / "results.csv", dtype={"uid": "UInt64"})
    frame = pd.read_parquet(tmp_path / "results.parquet")
    for name in COLUMNS:
        assert text[name].tolist() == frame[name].tolist()


def test_types_in_the_file(tmp_path: Path) -> None:
    """Numbers are numbers, and a set without uid has an empty column, not numbers that are none."""
    write_results(tmp_path, replace(some_scores(), uid=None))
    pq = pytest.importorskip("pyarrow.parquet")  # has no types
    table = pq.read_table(tmp_path / "results.parquet")
    types = {name: str(table.schema.field(name).type) for name in COLUMNS}
    assert types["source_row"] == "int64"
    assert types["uid"] == "uint64"
    assert {types[name] for name in COLUMNS[4:]} == {"double"}
    assert table["uid"].null_count == 15
    assert not re.search(r"\bnan\b", (tmp_path / "results.csv").read_text(), re.IGNORECASE)


def test_units_and_signs() -> None:
    """Angles are degrees, and RELION's origin is minus the displacement."""
    poses = RelionPoses.from_model(
        rot_rad=np.array([np.pi / 2, 0.0]),
        tilt_rad=np.array([np.pi / 3, 0.0]),
        psi_rad=np.array([-3 * np.pi / 2, np.pi]),
        shift_x_A=np.array([2.5, 0.0]),
        shift_y_A=np.array([-1.0, 0.0]),
    )
    expected: dict[str, list[float]] = {
        "rlnAngleRot": [90, 0],
        "rlnAngleTilt": [60, 0],
        "rlnAnglePsi": [90, 180],
        "rlnOriginXAngst": [-2.5, 0],
        "rlnOriginYAngst": [1, 0],
    }
    assert list(poses.columns()) == list(expected)
    for label, values in poses.columns().items():
        np.testing.assert_allclose(values, expected[label], atol=1e-12)
    assert not np.signbit(poses.origin_x_A[1])


@given(st.lists(st.floats(-20, 20), min_size=3, max_size=3))
def test_angles_are_wrapped_and_mean_the_same(euler_rad: list[float]) -> None:
    """Whole turns are taken off, and the rotation is the same."""
    rot, tilt, psi = np.array(euler_rad)[:, None]
    zero = np.zeros(1)
    poses = RelionPoses.from_model(
        rot_rad=rot, tilt_rad=tilt, psi_rad=psi, shift_x_A=zero, shift_y_A=zero
    )
    for angle in (poses.rot_deg, poses.psi_deg):
        assert -180 < angle[0] <= 180
    wrapped = np.deg2rad(np.stack([poses.rot_deg, poses.tilt_deg, poses.psi_deg], axis=1))
    np.testing.assert_allclose(
        rotation_matrices(wrapped), rotation_matrices(np.array([euler_rad])), atol=1e-12
    )


def test_best_structure_is_that_of_the_integrated_likelihood() -> None:
    """Its pose is taken, whatever the likelihood at the best pose says."""
    scores = some_scores()
    best = scores.log_likelihood_integrated.argmax(axis=1)
    assert (best != scores.log_likelihood_optimal.argmax(axis=1)).any()
    poses = scores.best_poses()
    for i, structure in enumerate(best):
        assert poses.origin_x_A[i] == -scores.shift_x_A[i, structure]
        assert poses.tilt_deg[i] == pytest.approx(np.rad2deg(scores.tilt_rad[i, structure]))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["log_likelihood_integrated", "rot_rad", "left_out"])
def test_what_is_not_finite_is_refused(name: str, value: float) -> None:
    """No file ever holds NaN: the error names the column and how many images."""
    scores = some_scores()
    spoilt = getattr(scores, name).copy()
    spoilt[2:4, 1] = value
    with pytest.raises(UsageError, match=f"{name} is not finite for 2 of 5 images"):
        replace(scores, **{name: spoilt})


def test_shapes_that_do_not_fit_are_refused_together() -> None:
    """All columns of another shape are named in one error."""
    scores = some_scores()
    wrong: dict[str, Any] = {"structures": ("one", "two")}
    with pytest.raises(UsageError) as caught:
        replace(scores, **wrong)
    assert "cross_correlation has shape (5, 3), expected (5, 2)" in str(caught.value)
    assert "shift_y_A" in str(caught.value)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    """The text file has the bytes of the name; Parquet cannot hold them and escapes them."""
    names = np.array([os.fsdecode(b"000001@caf\xe9.mrcs")] * 5, dtype=object)
    write_results(tmp_path, replace(some_scores(), image_name=names))
    assert b"caf\xe9.mrcs" in (tmp_path / "results.csv").read_bytes()
    assert pd.read_parquet(tmp_path / "results.parquet")["image_name"][0] == r"000001@caf\xe9.mrcs"


def test_same_scores_same_bytes(tmp_path: Path) -> None:
    """Files depend on the scores only, and replace older ones."""
    for folder in ("a", "b"):
        write_results(tmp_path / folder, some_scores(seed=1))
    write_results(tmp_path / "b", some_scores())
    write_results(tmp_path / "a", some_scores())
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == ["log_likelihood_integrated.npy", "results.csv", "results.parquet"]
    assert [path.name for path in ScoreLayout(tmp_path / "a").results_present()] != []
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def half_written(target: Path, error: BaseException) -> None:
    """Fail in the middle of a file."""
    with whole_file(target) as draft:
        draft.write_text("half of")
        raise error


def test_a_file_is_complete_or_as_before(tmp_path: Path) -> None:
    """After an error the old file is there, and no draft."""
    target = tmp_path / "new" / "file"
    with whole_file(target) as draft:
        draft.write_text("old")
    with pytest.raises(OutputError, match=r"file cannot be written: the disk is full"):
        half_written(target, OSError(errno.ENOSPC, "No space left on device"))
    with pytest.raises(KeyboardInterrupt):
        half_written(target, KeyboardInterrupt())
    assert target.read_text() == "old"
    assert [path.name for path in target.parent.iterdir()] == ["file"]


@pytest.mark.parametrize("n_structures", [1, 3])
def test_table_is_read_again(tmp_path: Path, n_structures: int) -> None:
    """What is read is what was written, to the last digits of angles."""
    scores = some_scores(n_structures=n_structures)
    if n_structures == 1:
        scores = replace(scores, uid=None)
    write_results(tmp_path, scores)
    read = read_results(tmp_path)
    assert read.structures == scores.structures
    assert read.image_name.tolist() == scores.image_name.tolist()
    assert (read.uid is None) == (scores.uid is None)
    if read.uid is not None:
        assert read.uid.tolist() == some_scores().uid.tolist()  # type: ignore[union-attr]
    for name in ("source_row", "cross_correlation", "left_out", "log_likelihood_integrated"):
        np.testing.assert_array_equal(getattr(read, name), getattr(scores, name))
    for name in ("tilt_rad", "shift_x_A", "shift_y_A"):
        np.testing.assert_allclose(getattr(read, name), getattr(scores, name), rtol=1e-14)
    pd.testing.assert_frame_equal(read.to_frame(), scores.to_frame(), rtol=1e-13)


def test_rejects_are_read_again(tmp_path: Path) -> None:
    """With names of any bytes, commas and quotes; none where there is no such file."""
    files = ["a,b.star", "caf\udce9.star"]
    rejects = ((0, 3, '1@"x", y.mrcs', "blank"), (1, 0, "2@caf\udce9.mrcs", "a, b; c"))
    path = tmp_path / "rejects.csv"
    assert read_rejects(path, files) == ()
    path.write_bytes(rejects_csv(rejects, files))
    assert read_rejects(path, files) == rejects
