"""The published functions: names, defaults, and what each does with its arguments."""

from __future__ import annotations

import inspect
import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch

import cryolike
from cryolike import (
    ConversionReport,
    CryoLikeWarning,
    ImageDescriptor,
    convert_particle_stacks_from_cryosparc_job_directory,
    convert_particle_stacks_from_indexed_cryosparc_file,
    convert_particle_stacks_from_indexed_star_file,
    convert_particle_stacks_from_paired_star_and_mrc_files,
    open_stacks,
    verify,
)
from cryolike.errors import (
    CryoLikeError,
    MetadataError,
    MissingFileError,
    OutputExistsError,
    UsageError,
)

SHARED: dict[str, object] = {
    "folder_output": "",
    "batch_size": 1024,
    "pixel_size": None,
    "downsample_factor": 1,
    "downsample_type": "mean",
    "skip_exist": False,
    "overwrite": False,
    "flag_plots": True,
}
OWN: dict[str, dict[str, object]] = {
    "convert_particle_stacks_from_paired_star_and_mrc_files": {
        "particle_file_list": None,
        "star_file_list": None,
        "defocus_angle_is_degree": True,
        "phase_shift_is_degree": True,
    },
    "convert_particle_stacks_from_indexed_star_file": {"star_file": None, "folder_mrc": ""},
    "convert_particle_stacks_from_indexed_cryosparc_file": {
        "file_cs": None,
        "folder_cryosparc": "",
        "n_stacks_max": -1,
    },
    "convert_particle_stacks_from_cryosparc_job_directory": {
        "folder_cryosparc": "",
        "job_number": 0,
        "n_stacks_max": -1,
    },
}
QUIET: dict[str, Any] = {"flag_plots": False}


def pixels(n_images: int, seed: int = 0) -> np.ndarray:
    """Images of noise, 8 by 8."""
    return np.random.default_rng(seed).normal(size=(n_images, 8, 8)).astype(np.float32)


def write_stack(path: Path, images: np.ndarray) -> Path:
    """Write an MRC stack that does not tell its pixel size."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with mrcfile.new(path) as stream:
        stream.set_data(images)
        stream.set_image_stack()
    return path


def write_star(
    path: Path, n_rows: int, names: Sequence[str] = (), leave_out: str = "", angle: float = 30
) -> Path:
    """Write one table of a RELION file, pixel size 2 Å, with or without image names."""
    columns: dict[str, Sequence[object]] = {
        "rlnDefocusU": [10_000 + i for i in range(n_rows)],
        "rlnDefocusV": [9_000] * n_rows,
        "rlnDefocusAngle": [angle] * n_rows,
        "rlnPhaseShift": [angle] * n_rows,
        "rlnVoltage": [300] * n_rows,
        "rlnSphericalAberration": [2.7] * n_rows,
        "rlnAmplitudeContrast": [0.1] * n_rows,
        "rlnCtfBfactor": [0] * n_rows,
        "rlnCtfScalefactor": [1] * n_rows,
        "rlnImagePixelSize": [2] * n_rows,
    }
    columns.pop(leave_out, None)
    if names:
        columns["rlnImageName"] = names
    lines = ["", "data_particles", "", "loop_", *(f"_{label}" for label in columns)]
    lines += [" ".join(map(str, row)) for row in zip(*columns.values(), strict=True)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, ""]))
    return path


def write_cs(path: Path, n_rows: int, further: Mapping[str, np.ndarray]) -> Path:
    """Write a .cs file with all CTF fields and those given, pixel size 2 Å."""
    ones = np.ones(n_rows, dtype=np.float32)
    columns: dict[str, np.ndarray] = {
        "uid": np.arange(1, n_rows + 1, dtype=np.uint64),
        "blob/psize_A": 2 * ones,
        "ctf/df1_A": 10_000 + np.arange(n_rows, dtype=np.float32),
        "ctf/df2_A": 9_000 * ones,
        "ctf/df_angle_rad": 0.5 * ones,
        "ctf/phase_shift_rad": 0 * ones,
        "ctf/cs_mm": 2.7 * ones,
        "ctf/accel_kv": 300 * ones,
        "ctf/amp_contrast": 0.1 * ones,
        **further,
    }
    dtype: list[Any] = [(name, column.dtype) for name, column in columns.items()]
    records = np.zeros(n_rows, dtype=dtype)
    for name, column in columns.items():
        records[name] = column
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        np.save(stream, records)
    return path


@pytest.fixture
def params() -> ImageDescriptor:
    """Describe 8 pixels of 2 Å."""
    return ImageDescriptor.from_individual_values(8, 2.0)


@pytest.fixture
def star(tmp_path: Path) -> Path:
    """Write a STAR file of 5 rows, and its two stacks beside it."""
    write_stack(tmp_path / "set/Extract/a.mrcs", pixels(3))
    write_stack(tmp_path / "set/Extract/b.mrcs", pixels(2, seed=1))
    names = [f"{i}@Extract/{s}.mrcs" for i, s in ((2, "b"), (1, "a"), (3, "a"), (1, "b"), (2, "a"))]
    return write_star(tmp_path / "set/particles.star", 5, names)


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Write stacks of 7, 2 and 6 images and a STAR file for each: stacks, STAR files."""
    stacks = [write_stack(tmp_path / f"{n}.mrcs", pixels(n, seed=n)) for n in (7, 2, 6)]
    return stacks, [write_star(tmp_path / f"{n}.star", n) for n in (7, 2, 6)]


@pytest.fixture
def cs(tmp_path: Path) -> Path:
    """Write a .cs file of 6 rows in reverse order of their stack, project-relative."""
    write_stack(tmp_path / "P1/J2/extract/a.mrc", pixels(6))
    images = {
        "blob/path": np.array([b"J2/extract/a.mrc"] * 6),
        "blob/idx": np.arange(6, dtype=np.uint32)[::-1],
        "blob/sign": np.full(6, -1, dtype=np.float32),
    }
    return write_cs(tmp_path / "P1/J2/particles.cs", 6, images)


@pytest.fixture
def job(tmp_path: Path) -> Path:
    """Write a restack job J7 of two batches of 4 and 2 images; the project's folder."""
    for i, n in enumerate((4, 2)):
        write_stack(tmp_path / f"P1/J7/restack/batch_{i:06d}_restacked.mrc", pixels(n, seed=i))
    write_cs(tmp_path / "P1/J7/J7_passthrough_particles.cs", 6, {})
    return tmp_path / "P1"


def sizes(folder: Path) -> list[int]:
    """Images of each stack."""
    return [len(images) for images in open_stacks(folder)]


# Signatures


@pytest.mark.parametrize("name", OWN)
def test_parameters_are_the_published_ones(name: str) -> None:
    """Descriptor first, then its own in their order, then the shared ones by keyword."""
    parameters = dict(inspect.signature(getattr(cryolike, name)).parameters)
    assert next(iter(parameters)) == "params_input"
    assert parameters["params_input"].default is inspect.Parameter.empty
    own = OWN[name]
    assert list(parameters)[1 : 1 + len(own)] == list(own)
    for key, default in own.items():
        assert parameters[key].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if default is not None:
            assert parameters[key].default == default
    for key, default in SHARED.items():
        assert parameters[key].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[key].default == default


def test_published_names_come_with_a_star_import() -> None:
    """`from cryolike import *` brings descriptor and functions."""
    names: dict[str, Any] = {}
    exec("from cryolike import *", names)
    assert {"ImageDescriptor", *OWN} <= names.keys()
    assert names["ImageDescriptor"] is ImageDescriptor


# STAR


def test_indexed_star(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """By position or by name, with a report of what was done."""
    report = convert_particle_stacks_from_indexed_star_file(
        params, star, folder_output=tmp_path / "a", batch_size=3, flag_plots=False
    )
    assert isinstance(report, ConversionReport)
    assert (report.n_stacks, report.n_rows_in, report.n_images_out) == (2, 5, 5)
    assert report.rejects == ()
    assert report.seconds > 0
    assert sizes(tmp_path / "a") == [3, 2]
    convert_particle_stacks_from_indexed_star_file(
        params_input=params,
        star_file=str(star),
        folder_mrc="",
        folder_output=str(tmp_path / "b"),
        batch_size=3,
        flag_plots=False,
    )
    for i in range(2):
        name = f"fft/particles_fourier_stack_{i:06d}.pt"
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert verify(tmp_path / "b").is_good


def test_descriptor_may_be_a_saved_one(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """As a Path or as text."""
    params.save(tmp_path / "params.npz")
    saved: list[Path | str] = [tmp_path / "params.npz", str(tmp_path / "params.npz")]
    for i, path in enumerate(saved):
        out = tmp_path / f"out{i}"
        convert_particle_stacks_from_indexed_star_file(path, star, folder_output=out, **QUIET)
        assert open_stacks(out).descriptor == params


def test_missing_descriptor_is_named(star: Path, tmp_path: Path) -> None:
    """As a missing file."""
    with pytest.raises(MissingFileError, match="descriptor"):
        convert_particle_stacks_from_indexed_star_file(
            tmp_path / "none.npz", star, folder_output=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_folder_of_the_stacks(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Given, it is the only place; the paths in the metadata do not count."""
    moved = tmp_path / "disk"
    shutil.move(tmp_path / "set/Extract", moved)
    convert_particle_stacks_from_indexed_star_file(
        params, star, moved, folder_output=tmp_path / "out", **QUIET
    )
    assert set(open_stacks(tmp_path / "out").table["image_file"]) == {
        str(moved / "a.mrcs"),
        str(moved / "b.mrcs"),
    }
    (tmp_path / "empty").mkdir()
    shutil.copytree(moved, tmp_path / "set/Extract")
    with pytest.raises(MissingFileError, match="2 of 2 files not found"):
        convert_particle_stacks_from_indexed_star_file(
            params, star, tmp_path / "empty", folder_output=tmp_path / "other", **QUIET
        )


def test_results_go_to_the_working_directory_by_default(
    star: Path, params: ImageDescriptor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty folder_output is here."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert_particle_stacks_from_indexed_star_file(params, star, **QUIET)
    assert sizes(tmp_path / "here") == [5]


def test_plots_are_drawn_by_default(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Three for a stack."""
    convert_particle_stacks_from_indexed_star_file(params, star, folder_output=tmp_path / "out")
    assert len(list((tmp_path / "out/plots").glob("*.png"))) == 3


@pytest.mark.parametrize("pixel_size", [2, 2.0, (2.0, 2.0), [2.0, 2.0]])
def test_pixel_size_is_one_number_or_two(
    star: Path, params: ImageDescriptor, tmp_path: Path, pixel_size: Any
) -> None:
    """In Å."""
    convert_particle_stacks_from_indexed_star_file(
        params, star, folder_output=tmp_path / "out", pixel_size=pixel_size, **QUIET
    )
    assert sizes(tmp_path / "out") == [5]


@pytest.mark.parametrize("pixel_size", [2.5, (2.0, 2.5), -2.0])
def test_pixel_size_that_does_not_fit_is_refused(
    star: Path, params: ImageDescriptor, tmp_path: Path, pixel_size: Any
) -> None:
    """It differs from the metadata, is not square, or is none."""
    with pytest.raises(CryoLikeError, match="pixel"):
        convert_particle_stacks_from_indexed_star_file(
            params, star, folder_output=tmp_path / "out", pixel_size=pixel_size, **QUIET
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", ["mean", "max", "fourier"])
def test_downsampling_is_by_mean_unless_told(star: Path, tmp_path: Path, kind: Any) -> None:
    """All three kinds; the default is the published one."""
    small = ImageDescriptor.from_individual_values(4, 4.0)
    convert_particle_stacks_from_indexed_star_file(
        small, star, folder_output=tmp_path / "default", downsample_factor=2, **QUIET
    )
    convert_particle_stacks_from_indexed_star_file(
        small,
        star,
        folder_output=tmp_path / "told",
        downsample_factor=2,
        downsample_type=kind,
        **QUIET,
    )
    default, told = (open_stacks(tmp_path / name).images(0) for name in ("default", "told"))
    assert torch.equal(default, told) == (kind == "mean")


def test_defaults_applied_are_warnings(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Of our class, and in the report."""
    names = [f"1@Extract/{s}.mrcs" for s in "ab"]
    poor = write_star(tmp_path / "set/poor.star", 2, names, leave_out="rlnAmplitudeContrast")
    with pytest.warns(CryoLikeWarning, match=r"AmplitudeContrast.*0\.1") as caught:
        report = convert_particle_stacks_from_indexed_star_file(
            params, poor, folder_output=tmp_path / "out", **QUIET
        )
    assert tuple(str(warning.message) for warning in caught) == report.warnings
    assert open_stacks(tmp_path / "out").table["amplitude_contrast"].tolist() == [0.1, 0.1]


def test_whole_metadata_gives_no_warning(
    star: Path, params: ImageDescriptor, tmp_path: Path
) -> None:
    """Nothing was assumed."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        report = convert_particle_stacks_from_indexed_star_file(
            params, star, folder_output=tmp_path / "out", **QUIET
        )
    assert [w for w in caught if issubclass(w.category, CryoLikeWarning)] == []
    assert report.warnings == ()


def test_contrast_and_policies_pass_through(
    star: Path, params: ImageDescriptor, tmp_path: Path
) -> None:
    """Our own keywords work in the published functions."""
    convert_particle_stacks_from_indexed_star_file(
        params, star, folder_output=tmp_path / "plain", **QUIET
    )
    (tmp_path / "set/Extract/b.mrcs").unlink()
    report = convert_particle_stacks_from_indexed_star_file(
        params,
        star,
        folder_output=tmp_path / "out",
        contrast="invert",
        on_bad_row="skip",
        device="cpu",
        **QUIET,
    )
    assert [row for _, row, _, _ in report.rejects] == [0, 3]
    plain, inverted = (open_stacks(tmp_path / name).images(0) for name in ("plain", "out"))
    torch.testing.assert_close(inverted, -plain[[1, 2, 4]])


# Results that are there already


def test_existing_results_are_refused_before_anything_is_read(
    star: Path, params: ImageDescriptor, tmp_path: Path
) -> None:
    """Even the metadata: they are gone here, and nobody notices."""
    out = tmp_path / "out"
    convert_particle_stacks_from_indexed_star_file(params, star, folder_output=out, **QUIET)
    before = {path: path.read_bytes() for path in out.rglob("*.*")}
    shutil.rmtree(tmp_path / "set")
    calls: list[Callable[[], Any]] = [
        lambda: convert_particle_stacks_from_indexed_star_file(params, star, folder_output=out),
        lambda: convert_particle_stacks_from_indexed_cryosparc_file(
            params, tmp_path / "x.cs", folder_output=out
        ),
        lambda: convert_particle_stacks_from_cryosparc_job_directory(
            params, tmp_path, 3, folder_output=out
        ),
        lambda: convert_particle_stacks_from_paired_star_and_mrc_files(
            params, [tmp_path / "a"], [tmp_path / "b"], folder_output=out
        ),
    ]
    for call in calls:
        with pytest.raises(OutputExistsError):
            call()
    assert {path: path.read_bytes() for path in out.rglob("*.*")} == before


def test_resuming_and_overwriting(star: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """skip_exist keeps what is there, overwrite makes it anew."""
    out = tmp_path / "out"

    def run(**keywords: Any) -> ConversionReport:
        return convert_particle_stacks_from_indexed_star_file(
            params, star, folder_output=out, batch_size=2, flag_plots=False, **keywords
        )

    run(skip_exist=True)
    assert run(skip_exist=True).n_stacks_kept == 3
    assert run(overwrite=True).n_stacks_kept == 0
    with pytest.raises(CryoLikeError, match="contradict"):
        run(overwrite=True, skip_exist=True)


# Pairs


@pytest.mark.parametrize(("batch_size", "expected"), [(10, [7, 2, 6]), (5, [5, 2, 2, 5, 1])])
def test_pairs(
    pairs: tuple[list[Path], list[Path]],
    params: ImageDescriptor,
    tmp_path: Path,
    batch_size: int,
    expected: list[int],
) -> None:
    """Stacks first, then STAR files; inputs never share a stack."""
    report = convert_particle_stacks_from_paired_star_and_mrc_files(
        params,
        *pairs,
        folder_output=tmp_path / "out",
        batch_size=batch_size,
        pixel_size=2.0,
        **QUIET,
    )
    assert sizes(tmp_path / "out") == expected
    assert report.n_stacks == len(expected)
    table = open_stacks(tmp_path / "out").table
    assert table["defocus_u_A"].tolist() == [10_000 + i for n in (7, 2, 6) for i in range(n)]


def test_pairs_without_any_pixel_size_use_the_descriptors(
    pairs: tuple[list[Path], list[Path]], params: ImageDescriptor, tmp_path: Path
) -> None:
    """With a warning, although the STAR files have one: it is not read there."""
    with pytest.warns(CryoLikeWarning, match="No file gives the pixel size"):
        convert_particle_stacks_from_paired_star_and_mrc_files(
            params, *pairs, folder_output=tmp_path / "out", **QUIET
        )


@pytest.mark.parametrize(("angle_deg", "phase_deg"), [(True, False), (False, True)])
def test_units_of_angles_in_pairs(
    params: ImageDescriptor, tmp_path: Path, angle_deg: bool, phase_deg: bool
) -> None:
    """Each is in degrees or radians, as told."""
    stack = write_stack(tmp_path / "a.mrcs", pixels(2))
    star = write_star(tmp_path / "a.star", 2, angle=1.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CryoLikeWarning)  # values that look like the other unit
        convert_particle_stacks_from_paired_star_and_mrc_files(
            params,
            [stack],
            [star],
            angle_deg,
            phase_deg,
            folder_output=tmp_path / "out",
            pixel_size=2.0,
            **QUIET,
        )
    table = open_stacks(tmp_path / "out").table
    in_degrees = np.deg2rad(1.5)
    np.testing.assert_allclose(table["defocus_angle_rad"], in_degrees if angle_deg else 1.5)
    np.testing.assert_allclose(table["phase_shift_rad"], in_degrees if phase_deg else 1.5)


def test_pairs_that_do_not_fit(
    pairs: tuple[list[Path], list[Path]], params: ImageDescriptor, tmp_path: Path
) -> None:
    """Rows and images differ, or lists do: nothing is written."""
    stacks, stars = pairs
    out = tmp_path / "out"
    with pytest.raises(MetadataError, match=r"7 rows.*2 images") as caught:
        convert_particle_stacks_from_paired_star_and_mrc_files(
            params, [stacks[1]], [stars[0]], folder_output=out
        )
    assert str(stacks[1]) in str(caught.value)
    assert str(stars[0]) in str(caught.value)
    with pytest.raises(UsageError):
        convert_particle_stacks_from_paired_star_and_mrc_files(
            params, stacks, stars[:2], folder_output=out
        )
    assert not out.exists()


# cryoSPARC


def test_indexed_cs(cs: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """In row order, with the recorded sign."""
    report = convert_particle_stacks_from_indexed_cryosparc_file(
        params, cs, folder_output=tmp_path / "out", **QUIET
    )
    assert report.n_images_out == 6
    table = open_stacks(tmp_path / "out").table
    assert table["image_index"].tolist() == [5, 4, 3, 2, 1, 0]
    assert table["uid"].tolist() == [1, 2, 3, 4, 5, 6]
    assert set(table["contrast_factor"]) == {-1}


def test_folder_of_the_stacks_of_a_cs(cs: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Given, only file names count."""
    stack = write_stack(tmp_path / "disk/a.mrc", pixels(6, seed=9))
    convert_particle_stacks_from_indexed_cryosparc_file(
        params, cs, tmp_path / "disk", folder_output=tmp_path / "out", **QUIET
    )
    assert set(open_stacks(tmp_path / "out").table["image_file"]) == {str(stack)}


def test_limit_of_stacks(cs: Path, job: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Fourth and third argument; the report says that it stopped early."""
    first = convert_particle_stacks_from_indexed_cryosparc_file(
        params, cs, "", 1, folder_output=tmp_path / "a", batch_size=4, **QUIET
    )
    second = convert_particle_stacks_from_cryosparc_job_directory(
        params, job, 7, 1, folder_output=tmp_path / "b", batch_size=4, **QUIET
    )
    for report in (first, second):
        assert (report.n_stacks, report.n_images_out, report.stopped_early) == (1, 4, True)
    whole = convert_particle_stacks_from_cryosparc_job_directory(
        params, job, 7, 2, folder_output=tmp_path / "c", batch_size=4, **QUIET
    )
    assert (whole.n_stacks, whole.stopped_early) == (2, False)


def test_job_directory(job: Path, params: ImageDescriptor, tmp_path: Path) -> None:
    """Rows describe the images of all batches in sequence; output stacks may mix them."""
    report = convert_particle_stacks_from_cryosparc_job_directory(
        params,
        folder_cryosparc=job,
        job_number=7,
        folder_output=tmp_path / "out",
        batch_size=5,
        **QUIET,
    )
    assert (report.n_stacks, report.n_images_out) == (2, 6)
    assert sizes(tmp_path / "out") == [5, 1]
    table = open_stacks(tmp_path / "out").table
    assert table["image_index"].tolist() == [0, 1, 2, 3, 0, 1]
    assert [Path(file).name for file in table["image_file"]] == [
        *["batch_000000_restacked.mrc"] * 4,
        *["batch_000001_restacked.mrc"] * 2,
    ]
    assert table["defocus_u_A"].tolist() == [10_000 + i for i in range(6)]
    assert verify(tmp_path / "out").is_good


def test_job_that_does_not_exist(params: ImageDescriptor, tmp_path: Path) -> None:
    """It is named, and nothing is written."""
    with pytest.raises(MissingFileError, match="J3"):
        convert_particle_stacks_from_cryosparc_job_directory(
            params, tmp_path, 3, folder_output=tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()
