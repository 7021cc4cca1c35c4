"""What tests of the commands share: a runner, and small sets in each program's layout."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile
from tests.program import Outcome, run_program

from cryolike.simulate import write_relion_set

N_ROWS = 30


@pytest.fixture
def run() -> Callable[..., Outcome]:
    """Run the program in this process, with a wide terminal."""
    return run_program


@pytest.fixture(scope="session")
def _relion_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("relion")
    star_file = write_relion_set(folder, n_images=N_ROWS, n_pixels=16, pixel_size_A=6.0)
    blocks = starfile.read(star_file, always_dict=True)
    blocks["particles"]["rlnClassNumber"] = np.arange(N_ROWS) % 3
    starfile.write(blocks, star_file, overwrite=True)
    return folder


@pytest.fixture
def star_file(_relion_folder: Path, tmp_path: Path) -> Path:
    """STAR file of 30 rows in 3 stacks of 16×16 pixels; row i is of class i % 3."""
    shutil.copytree(_relion_folder, tmp_path / "relion")
    return tmp_path / "relion" / "particles.star"


@pytest.fixture
def changed(star_file: Path) -> Callable[..., Path]:
    """Write another STAR file beside the set, in which (row, column) has another value."""

    def write(values: dict[tuple[int, str], str]) -> Path:
        blocks = starfile.read(star_file, always_dict=True)
        particles: pd.DataFrame = blocks["particles"].astype(object)
        for (row, column), value in values.items():
            particles.loc[row, column] = value
        path = star_file.with_name("changed.star")
        starfile.write(blocks | {"particles": particles}, path)
        return path

    return write


def _read_only_images(star_file: Path) -> tuple[pd.DataFrame, np.ndarray]:
    """Rows with their optics, and their images."""
    blocks = starfile.read(star_file, always_dict=True)
    rows = blocks["particles"].merge(blocks["optics"], on="rlnOpticsGroup", how="left")
    images = []
    for name in rows["rlnImageName"]:
        number, stack = name.split("@")
        images.append(mrcfile.read(star_file.parent / stack)[int(number) - 1])
    return rows, np.stack(images)


def _write_stack(path: Path, images: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as file:
        file.set_data(images)
        file.set_image_stack()
        file.voxel_size = 6.0


def _save_records(path: Path, columns: dict[str, np.ndarray]) -> None:
    dtype: Any = [(name, column.dtype) for name, column in columns.items()]
    records = np.zeros(N_ROWS, dtype=dtype)
    for name, column in columns.items():
        records[name] = column
    with path.open("wb") as stream:
        np.save(stream, records)


@pytest.fixture
def project(star_file: Path, tmp_path: Path) -> Path:
    """Make a cryoSPARC project folder of the same particles, in the same order.

    J4 is a restack job of two stacks. J5 has particles.cs with the images and passthrough.cs with
    the CTF, rows in another order.
    """
    rows, images = _read_only_images(star_file)
    project = tmp_path / "P1"
    for i, part in enumerate((slice(0, 20), slice(20, None))):
        _write_stack(project / f"J4/restack/batch_{i:06d}_restacked.mrc", images[part])
    _write_stack(project / "J5/all.mrc", images)
    uid = np.arange(N_ROWS, dtype=np.uint64) + np.uint64(2**63)
    ctf = {
        "uid": uid,
        "ctf/df1_A": rows["rlnDefocusU"].to_numpy(dtype=np.float32),
        "ctf/df2_A": rows["rlnDefocusV"].to_numpy(dtype=np.float32),
        "ctf/df_angle_rad": np.deg2rad(rows["rlnDefocusAngle"].to_numpy()).astype(np.float32),
        "ctf/phase_shift_rad": np.zeros(N_ROWS, dtype=np.float32),
        "ctf/cs_mm": rows["rlnSphericalAberration"].to_numpy(dtype=np.float32),
        "ctf/accel_kv": rows["rlnVoltage"].to_numpy(dtype=np.float32),
        "ctf/amp_contrast": rows["rlnAmplitudeContrast"].to_numpy(dtype=np.float32),
        "ctf/bfactor": np.zeros(N_ROWS, dtype=np.float32),
        "ctf/scale": np.ones(N_ROWS, dtype=np.float32),
    }
    blob = {
        "uid": uid,
        "blob/path": np.full(N_ROWS, b"J5/all.mrc"),
        "blob/idx": np.arange(N_ROWS, dtype=np.uint32),
        "blob/psize_A": np.full(N_ROWS, 6, dtype=np.float32),
    }
    psize = {"blob/psize_A": blob["blob/psize_A"]}
    _save_records(project / "J4/J4_passthrough_particles.cs", ctf | psize)
    _save_records(project / "J5/particles.cs", blob)
    _save_records(
        project / "J5/passthrough.cs", {name: column[::-1] for name, column in ctf.items()}
    )
    return project


@pytest.fixture
def pair(star_file: Path, tmp_path: Path) -> tuple[Path, Path]:
    """Make a generic STAR file of 30 rows without image names, and its stack."""
    rows, images = _read_only_images(star_file)
    names = ["DefocusU", "DefocusV", "DefocusAngle", "PhaseShift", "SphericalAberration"]
    columns = [f"rln{name}" for name in [*names, "Voltage", "AmplitudeContrast"]]
    path = tmp_path / "generic.star"
    starfile.write({"particles": rows[[*columns, "rlnCtfBfactor", "rlnCtfScalefactor"]]}, path)
    _write_stack(tmp_path / "generic.mrcs", images)
    return path, tmp_path / "generic.mrcs"
