"""The scored set in RELION: maps it reconstructs from our poses, compared with the true map."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mrcfile
import numpy as np
import pandas as pd
import pytest
import starfile

from cryolike import iter_polar
from cryolike.descriptor import ImageDescriptor
from cryolike.io.read import read_particles
from cryolike.io.structure import read_structure
from cryolike.particles import ParticleTable
from cryolike.scoring.displacements import Displacements
from cryolike.scoring.search import PoseSearch, SearchMode
from cryolike.simulate import asymmetric_particle, density_map
from cryolike.store.scored_particles import write_scored_particles
from cryolike.store.scores import RelionPoses
from cryolike.templates import make_templates

pytestmark = pytest.mark.relion

N_IMAGES, N_PIXELS, PIXEL_A = 300, 48, 3.0
NOISE_SD = 4.0
"""Relative to the signal's."""


def run_relion(folder: Path, program: str, *options: str) -> None:
    """Run one of RELION's programs in a folder."""
    subprocess.run([program, *options], cwd=folder, check=True, capture_output=True, timeout=120)


@dataclass(frozen=True)
class RelionSet:
    """Images that RELION projected from a map, with noise; their STAR file has the true poses."""

    star_file: Path
    map_file: Path

    @property
    def table(self) -> ParticleTable:
        """What the STAR file says."""
        return read_particles(self.star_file)

    @property
    def density(self) -> np.ndarray:
        """The map."""
        return read_map(self.map_file)

    @property
    def descriptor(self) -> ImageDescriptor:
        """The map's grid, and all else by default."""
        with mrcfile.open(self.map_file, header_only=True) as file:
            return ImageDescriptor.from_individual_values(
                int(file.header.nx), float(file.voxel_size.x)
            )

    def true_poses(self) -> dict[str, np.ndarray]:
        """Poses of the model of an image that the images were made with."""
        table = self.table
        assert table.rot_rad is not None
        assert table.tilt_rad is not None
        assert table.psi_rad is not None
        assert table.origin_x_A is not None
        assert table.origin_y_A is not None
        return {
            "rot_rad": table.rot_rad,
            "tilt_rad": table.tilt_rad,
            "psi_rad": table.psi_rad,
            "shift_x_A": -table.origin_x_A,
            "shift_y_A": -table.origin_y_A,
        }

    def reconstruct(self, folder: Path, poses: RelionPoses) -> np.ndarray:
        """Reconstruct from the scored STAR file that holds these poses."""
        rows, pixels = np.arange(len(self.table)), self.descriptor.cartesian_grid
        write_scored_particles(
            folder,
            self.table,
            rows,
            poses,
            pixel_size_A=pixels.pixel_size_A,
            box_px=pixels.side_px,
        )
        # RELION looks for images where it runs
        run_relion(
            self.star_file.parent,
            "relion_reconstruct",
            *("--i", str(folder / "particles_scored.star"), "--o", str(folder / "map.mrc")),
            "--ctf",
        )
        return read_map(folder / "map.mrc")

    def reached_per_A(self, folder: Path, poses: RelionPoses) -> float:
        """Spatial frequency up to which the reconstruction agrees with the true map."""
        curve = fourier_shell_correlation(self.reconstruct(folder, poses), self.density)
        return reached_shell(curve) / self.descriptor.cartesian_grid.box_size_A

    def search(self, mode: SearchMode) -> RelionPoses:
        """Find poses with templates of the true map, 2,370 views and steps of one pixel."""
        pixel_A = self.descriptor.cartesian_grid.pixel_size_A
        search = PoseSearch(
            make_templates(read_structure(self.map_file), self.descriptor),
            Displacements.grid(4, 9, 9, pixel_A),
            mode=mode,
        )
        batches = iter_polar(self.table, self.descriptor)
        parts = [vars(search.score(batch.images, batch.ctf).poses) for batch in batches]
        return RelionPoses.from_model(
            **{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        )


def read_map(path: Path) -> np.ndarray:
    """Read a map's values."""
    with mrcfile.open(path) as file:
        return np.array(file.data)


def fourier_shell_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Correlate two maps on shells of whole numbers of cycles per box, up to Nyquist."""
    side = len(a)
    axis = np.fft.fftfreq(side, 1 / side)
    radius = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    shell = np.rint(radius).astype(int).ravel()
    f, g = np.fft.fftn(a).ravel(), np.fft.fftn(b).ravel()

    def sums(values: np.ndarray) -> np.ndarray:
        return np.bincount(shell, values)[: side // 2 + 1]

    curve: np.ndarray = sums((f * g.conj()).real) / np.sqrt(sums(abs(f) ** 2) * sums(abs(g) ** 2))
    return curve


def reached_shell(curve: np.ndarray, level: float = 0.5) -> float:
    """Shell, between two where need be, at which a curve first falls below a level."""
    below = np.flatnonzero(curve[1:] < level) + 1
    if not below.size:
        return float(len(curve) - 1)
    last, first = curve[below[0] - 1], curve[below[0]]
    return float(below[0] - 1 + (last - level) / (last - first))


def write_truth(path: Path) -> None:
    """Write poses, shifts and strong astigmatism for relion_project; for half the rows U < V."""
    rng = np.random.default_rng(0)
    mean_A = rng.uniform(6_000, 14_000, N_IMAGES)
    deviation_A = rng.choice([-1, 1], N_IMAGES) * rng.uniform(500, 2_000, N_IMAGES)
    optics = pd.DataFrame(
        {
            "rlnOpticsGroupName": ["one", "two"],
            "rlnOpticsGroup": [1, 2],
            "rlnVoltage": [300.0, 200.0],
            "rlnSphericalAberration": [2.7, 1.4],
            "rlnAmplitudeContrast": [0.1, 0.07],
            "rlnImagePixelSize": PIXEL_A,
            "rlnImageSize": N_PIXELS,
            "rlnImageDimensionality": 2,
        }
    )
    particles = pd.DataFrame(
        {
            "rlnImageName": [f"{i + 1:06d}@none.mrcs" for i in range(N_IMAGES)],
            "rlnOpticsGroup": rng.integers(1, 3, N_IMAGES),
            "rlnDefocusU": mean_A + deviation_A,
            "rlnDefocusV": mean_A - deviation_A,
            "rlnDefocusAngle": rng.uniform(0, 180, N_IMAGES),
            "rlnPhaseShift": 0.0,
            "rlnCtfBfactor": 0.0,
            "rlnCtfScalefactor": 1.0,
            "rlnAngleRot": rng.uniform(-180, 180, N_IMAGES),
            "rlnAngleTilt": np.rad2deg(np.arccos(rng.uniform(-1, 1, N_IMAGES))),
            "rlnAnglePsi": rng.uniform(-180, 180, N_IMAGES),
            "rlnOriginXAngst": rng.uniform(-7, 7, N_IMAGES),
            "rlnOriginYAngst": rng.uniform(-7, 7, N_IMAGES),
        }
    )
    starfile.write({"optics": optics, "particles": particles}, path)


@pytest.fixture(scope="module")
def relion_set(tmp_path_factory: pytest.TempPathFactory) -> RelionSet:
    """Images that relion_project made of a map without symmetry, and white noise."""
    folder = tmp_path_factory.mktemp("projected")
    density = density_map(asymmetric_particle(0.3 * N_PIXELS * PIXEL_A), N_PIXELS, PIXEL_A)
    with mrcfile.new(folder / "map.mrc") as file:
        file.set_data(density.astype(np.float32))
        file.voxel_size = PIXEL_A
    write_truth(folder / "truth.star")
    run_relion(
        folder,
        "relion_project",
        *("--i", "map.mrc", "--ang", "truth.star", "--angpix", str(PIXEL_A), "--o", "seen"),
        "--ctf",
    )
    with mrcfile.open(folder / "seen.mrcs", "r+") as file:
        noise_sd = NOISE_SD * file.data.std()
        noise = np.random.default_rng(1).normal(0, noise_sd, file.data.shape)
        file.set_data(file.data + noise.astype(np.float32))
    return RelionSet(folder / "seen.star", folder / "map.mrc")


@pytest.fixture(scope="module")
def reached_by_truth_per_A(
    relion_set: RelionSet, tmp_path_factory: pytest.TempPathFactory
) -> float:
    """Spatial frequency that the poses the images were made with reach."""
    poses = RelionPoses.from_model(**relion_set.true_poses())
    return relion_set.reached_per_A(tmp_path_factory.mktemp("truth"), poses)


def test_true_poses_reach_as_far_as_the_input(
    relion_set: RelionSet, reached_by_truth_per_A: float, tmp_path: Path
) -> None:
    """Poses that went through our units and signs serve as well as those RELION wrote."""
    run_relion(
        relion_set.star_file.parent,
        "relion_reconstruct",
        *("--i", "seen.star", "--o", str(tmp_path / "map.mrc"), "--ctf"),
    )
    curve = fourier_shell_correlation(read_map(tmp_path / "map.mrc"), relion_set.density)
    reached_per_A = reached_shell(curve) / (N_PIXELS * PIXEL_A)
    assert reached_by_truth_per_A == pytest.approx(reached_per_A, rel=0.01)
    assert 1 / 12 < reached_per_A < 1 / 7


Poses = dict[str, np.ndarray]

WRONG: dict[str, Callable[[Poses], Poses]] = {
    "rot": lambda p: p | {"rot_rad": -p["rot_rad"]},
    "tilt": lambda p: p | {"tilt_rad": -p["tilt_rad"]},
    "psi": lambda p: p | {"psi_rad": -p["psi_rad"]},
    "hand": lambda p: p | {"tilt_rad": np.pi - p["tilt_rad"], "psi_rad": -p["psi_rad"]},
    "x": lambda p: p | {"shift_x_A": -p["shift_x_A"]},
    "y": lambda p: p | {"shift_y_A": -p["shift_y_A"]},
    "x and y": lambda p: p | {"shift_x_A": p["shift_y_A"], "shift_y_A": p["shift_x_A"]},
    "no shift": lambda p: p | {"shift_x_A": 0 * p["shift_x_A"], "shift_y_A": 0 * p["shift_y_A"]},
}


@pytest.mark.parametrize("convention", WRONG)
def test_wrong_conventions_fall_behind(
    relion_set: RelionSet, reached_by_truth_per_A: float, convention: str, tmp_path: Path
) -> None:
    """Every sign and axis counts: with one of them wrong the map agrees far less far."""
    wrong = RelionPoses.from_model(**WRONG[convention](relion_set.true_poses()))
    assert relion_set.reached_per_A(tmp_path, wrong) < 0.8 * reached_by_truth_per_A


def as_relion_3_0(star_file: Path) -> Path:
    """Write the same set as one table with magnifications, and origins in pixels that are wrong."""
    blocks = starfile.read(star_file, always_dict=True)
    table = blocks["particles"].merge(blocks["optics"], on="rlnOpticsGroup", sort=False)
    ours = ["rlnOpticsGroup", "rlnOpticsGroupName", "rlnImagePixelSize", "rlnImageSize"]
    table = table.drop(columns=[*ours, "rlnImageDimensionality"])
    origins = {f"rlnOrigin{axis}": np.full(N_IMAGES, 99.0) for axis in "XY"}
    table = table.drop(columns=["rlnOriginXAngst", "rlnOriginYAngst"])
    table = table.assign(rlnMagnification=10_000.0, rlnDetectorPixelSize=PIXEL_A, **origins)
    path = star_file.with_name("old.star")
    starfile.write(table, path)
    path.write_text(
        path.read_text().replace("data_0\n", "data_\n").replace("data_particles", "data_")
    )
    return path


def as_cryosparc(star_file: Path) -> Path:
    """Write the same set as a .cs file without poses."""
    table = read_particles(star_file)
    columns = {
        "uid": np.arange(N_IMAGES, dtype="u8"),
        "blob/path": np.full(N_IMAGES, b"seen.mrcs"),
        "blob/idx": table.image_index.astype("u4"),
        "blob/psize_A": table.pixel_size_A.astype("f4"),
        "ctf/df1_A": table.defocus_u_A.astype("f4"),
        "ctf/df2_A": table.defocus_v_A.astype("f4"),
        "ctf/df_angle_rad": table.defocus_angle_rad.astype("f4"),
        "ctf/phase_shift_rad": table.phase_shift_rad.astype("f4"),
        "ctf/cs_mm": table.spherical_aberration_mm.astype("f4"),
        "ctf/accel_kv": table.voltage_kV.astype("f4"),
        "ctf/amp_contrast": table.amplitude_contrast.astype("f4"),
    }
    records = np.zeros(N_IMAGES, dtype=[(name, value.dtype) for name, value in columns.items()])
    for name, value in columns.items():
        records[name] = value
    path = star_file.with_name("seen.cs")
    with path.open("wb") as file:
        np.save(file, records)
    return path


@pytest.mark.parametrize("written_as", [as_relion_3_0, as_cryosparc])
@pytest.mark.filterwarnings("ignore::cryolike.errors.CryoLikeWarning")
def test_scored_sets_that_came_in_other_files(
    relion_set: RelionSet,
    reached_by_truth_per_A: float,
    written_as: Callable[[Path], Path],
    tmp_path: Path,
) -> None:
    """RELION 3.1 reads optics, CTF and origins from what becomes of RELION 3.0's and .cs files."""
    other = RelionSet(written_as(relion_set.star_file), relion_set.map_file)
    assert [other.table.image_name(i) for i in (0, N_IMAGES - 1)] == [
        relion_set.table.image_name(i) for i in (0, N_IMAGES - 1)
    ]
    poses = RelionPoses.from_model(**relion_set.true_poses())
    reached_per_A = other.reached_per_A(tmp_path, poses)
    assert reached_per_A == pytest.approx(reached_by_truth_per_A, rel=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["exact", "fast"])
def test_poses_found_serve_nearly_as_well_as_the_true_ones(
    relion_set: RelionSet, reached_by_truth_per_A: float, mode: SearchMode, tmp_path: Path
) -> None:
    """Angles, hand, shifts and the CTF's axes at once: the search's map agrees nearly as far."""
    reached_per_A = relion_set.reached_per_A(tmp_path, relion_set.search(mode))
    assert reached_per_A > 0.9 * reached_by_truth_per_A


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:rlnCtf.* is missing")
def test_poses_found_of_the_sample_set(shared_data: Path, tmp_path: Path) -> None:
    """The same for images of four stacks whose rows are shuffled."""
    folder = shared_data / "relion-simulated"
    sample = RelionSet(folder / "particles.star", folder / "map.mrc")
    true_poses = RelionPoses.from_model(**sample.true_poses())
    by_truth_per_A = sample.reached_per_A(tmp_path / "truth", true_poses)
    assert sample.reached_per_A(tmp_path / "found", sample.search("exact")) > 0.9 * by_truth_per_A
