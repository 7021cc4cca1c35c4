"""Conversion from files to stacks: what is written, in which order, and what stops it."""

from __future__ import annotations

import csv
import errno
import os
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cryolike.conversion import (
    ConversionReport,
    ConvertOptions,
    convert,
    plan_conversion,
    verify,
)
from cryolike.descriptor import ImageDescriptor
from cryolike.errors import (
    CryoLikeError,
    FolderInUseError,
    ImageError,
    OutputError,
    OutputExistsError,
    StackError,
)
from cryolike.io.cryosparc import read_cryosparc
from cryolike.io.pairs import read_pairs
from cryolike.io.star import read_star
from cryolike.particles import ParticleTable, select_rows
from cryolike.store import open_stacks
from cryolike.store.manifest import RunHeader
from cryolike.store.writer import RunFolder

if TYPE_CHECKING:
    from tests.conversion.conftest import Built, DirectTransform, SetBuilder

Bytes = dict[str, bytes]


def run(
    source: Path | ParticleTable,
    out: Path,
    given: ImageDescriptor | None = None,
    *,
    skip_exist: bool = False,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> ConversionReport:
    """Convert a STAR file or a table, without plots unless asked for."""
    table = read_star(source) if isinstance(source, Path) else source
    plan = plan_conversion(table, given, ConvertOptions(**{"plots": False, **options}))
    return convert(plan, out, skip_exist=skip_exist, overwrite=overwrite, progress=progress)


def tensor(out: Path, stack: int) -> torch.Tensor:
    """Load a stack as users do."""
    loaded = torch.load(
        out / f"fft/particles_fourier_stack_{stack:06d}.pt", weights_only=True, mmap=True
    )
    assert isinstance(loaded, torch.Tensor)
    return loaded


def arrays(out: Path, stack: int) -> dict[str, np.ndarray]:
    """Load the metadata of a stack as users do."""
    file = out / f"fft/particles_fourier_stack_{stack:06d}.npz"
    with np.load(file, allow_pickle=False) as data:
        return dict(data)


def all_images(out: Path) -> np.ndarray:
    """Polar images of all stacks, one after the other."""
    n_stacks = len(list((out / "fft").glob("*.pt")))
    return np.concatenate([tensor(out, i).numpy() for i in range(n_stacks)])


def column(out: Path, key: str) -> np.ndarray:
    """Per-image values of all stacks."""
    n_stacks = len(list((out / "fft").glob("*.npz")))
    return np.concatenate([arrays(out, i)[key] for i in range(n_stacks)])


def files_below(folder: Path) -> Bytes:
    """Every file below a folder by its relative name."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def of_images(files: Bytes) -> Bytes:
    """Tensors only, and names of all others."""
    return {name: data if name.endswith(".pt") else b"" for name, data in files.items()}


def assert_equals_direct(
    polar: np.ndarray,
    stored: dict[str, np.ndarray],
    images: np.ndarray,
    transform: DirectTransform,
    *,
    tolerance: float,
    factors: np.ndarray | None = None,
) -> None:
    """Compare images and statistics with the direct computation of each image."""
    assert len(polar) == len(images)
    factors = np.ones(len(images)) if factors is None else factors
    for i, (image, factor) in enumerate(zip(images, factors, strict=True)):
        expected = transform(image, factor)
        # The norm of what is expected is 1 as an integral, not as a sum
        error = np.linalg.norm(polar[i] - expected["polar"]) / np.linalg.norm(expected["polar"])
        assert error <= tolerance
        assert stored["contrast_factor"][i] == factor
        for key, name in (
            ("image_mean", "mean"),
            ("image_largest", "largest"),
            ("polar_norm", "norm"),
        ):
            wanted = expected[name]
            scale = expected["largest"] if name == "mean" else wanted
            assert stored[key][i] == pytest.approx(wanted, abs=5 * tolerance * abs(scale))


# Images


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_each_row_gets_its_image_in_any_order_and_batch(
    data: st.DataObject,
    new_builder: type[SetBuilder],
    direct: type[DirectTransform],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Output follows the rows, however stacks, batches and reads are cut."""
    counts = data.draw(st.lists(st.integers(1, 6), min_size=1, max_size=4), label="counts")
    n_images = sum(counts)
    order = data.draw(st.permutations(range(n_images)), label="order")
    batch_size = data.draw(st.integers(1, n_images + 1), label="batch_size")
    n_pixels = data.draw(st.sampled_from([8, 9]), label="n_pixels")
    at_once = data.draw(st.integers(1, 4), label="images read at once")
    monkeypatch.setattr("cryolike.conversion.run._READ_BYTES", at_once * n_pixels**2 * 4)
    polar_bytes = ImageDescriptor.from_individual_values(n_pixels, 2.0).polar_image_bytes
    n_in_batch = data.draw(st.integers(1, 3), label="images in a batch")
    monkeypatch.setattr("cryolike.conversion.run._BATCH_BYTES", n_in_batch * polar_bytes)
    with TemporaryDirectory() as folder:
        built = new_builder(Path(folder)).relion(counts, n_pixels=n_pixels, order=order)
        out = Path(folder) / "out"
        report = run(built.path, out, batch_size=batch_size)
        assert report.n_images_out == n_images
        sizes = [len(tensor(out, i)) for i in range(report.n_stacks)]
        assert all(size == batch_size for size in sizes[:-1])
        stored = {
            key: column(out, key)
            for key in ("contrast_factor", "image_mean", "image_largest", "polar_norm")
        }
        assert_equals_direct(
            all_images(out), stored, built.images, direct(n_pixels), tolerance=2e-6
        )
        assert column(out, "source_row").tolist() == list(range(n_images))
        assert column(out, "defocusU").tolist() == [10_000 + 10 * i for i in range(n_images)]


@pytest.mark.parametrize(
    ("precision", "dtype", "tolerance"),
    [("single", torch.complex64, 2e-6), ("double", torch.complex128, 1e-11)],
)
@pytest.mark.parametrize(("n_pixels", "resolution_factor"), [(16, 1.0), (15, 1.0), (24, 0.5)])
def test_precision_is_kept(
    build: SetBuilder,
    direct: type[DirectTransform],
    tmp_path: Path,
    precision: str,
    dtype: torch.dtype,
    tolerance: float,
    n_pixels: int,
    resolution_factor: float,
) -> None:
    """Both precisions meet their bound, for even and odd boxes and within Nyquist."""
    built = build.relion((3,), n_pixels=n_pixels)
    params = ImageDescriptor.from_individual_values(n_pixels, 2.0, precision, resolution_factor)
    run(built.path, tmp_path / "out", params)
    polar, stored = tensor(tmp_path / "out", 0), arrays(tmp_path / "out", 0)
    assert polar.dtype == dtype
    assert str(stored["precision"]) == precision
    assert_equals_direct(
        polar.numpy(),
        stored,
        built.images,
        direct(n_pixels, resolution_factor),
        tolerance=tolerance,
    )


@pytest.mark.parametrize("offset", [300.0, -3e4])
def test_mean_far_above_the_contrast_costs_no_precision(
    build: SetBuilder, direct: type[DirectTransform], tmp_path: Path, offset: float
) -> None:
    """Counts of a detector are as good as images of zero mean."""
    built = build.relion((4,), images=build.noise(4) + np.float32(offset))
    run(built.path, tmp_path / "out")
    polar = tensor(tmp_path / "out", 0).numpy()
    for image, result in zip(built.images, polar, strict=True):
        expected = direct(12)(image)["polar"]
        assert np.linalg.norm(result - expected) <= 2e-6 * np.linalg.norm(expected)


@pytest.mark.parametrize("precision", ["single", "double"])
def test_original_can_be_recovered(build: SetBuilder, tmp_path: Path, precision: str) -> None:
    """Norm, largest value, mean and contrast lead back to the transform of the original pixels."""
    row = np.arange(5)
    sign = np.where(row % 2 == 0, -1, 1)
    images = build.noise(5)
    build.stack("a.mrc", images)
    cs = build.cryosparc(["a.mrc"] * 5, list(range(5)), blob__sign=sign.astype(np.float32))
    params = ImageDescriptor.from_individual_values(12, 2.0, precision)
    run(read_cryosparc(cs), tmp_path / "out", params)
    polar, stored = tensor(tmp_path / "out", 0).numpy(), arrays(tmp_path / "out", 0)
    assert stored["contrast_factor"].tolist() == sign.tolist()
    # Transform of a constant image, by which the mean is put back
    offsets = np.arange(12) - 6
    grid = params.polar_grid
    frequency = 2 * grid.radius_shells[:, None] / 12
    of_one = (
        4
        * np.pi
        / 12
        * np.exp(-2j * np.pi * (frequency * np.cos(grid.theta_shell))[..., None] * offsets).sum(-1)
        * np.exp(-2j * np.pi * (frequency * np.sin(grid.theta_shell))[..., None] * offsets).sum(-1)
    )
    tolerance = 1e-5 if precision == "single" else 1e-10
    for i, image in enumerate(images.astype(np.float64)):
        recovered = polar[i].astype(complex) * stored["polar_norm"][i] * stored["image_largest"][i]
        recovered = (recovered + stored["image_mean"][i] * of_one) * stored["contrast_factor"][i]
        kx = 2 * np.pi * frequency * np.cos(grid.theta_shell)
        ky = 2 * np.pi * frequency * np.sin(grid.theta_shell)
        expected = sum(
            image[y, x] * np.exp(-1j * (kx * (x - 6) + ky * (y - 6)))
            for y in range(12)
            for x in range(12)
        ) * (4 * np.pi / 12)
        assert np.linalg.norm(recovered - expected) <= tolerance * np.linalg.norm(expected)


@pytest.mark.parametrize(("precision", "tolerance"), [("single", 1e-6), ("double", 1e-13)])
def test_power_integrates_to_one(
    build: SetBuilder, tmp_path: Path, precision: str, tolerance: float
) -> None:
    """Over the polar grid's quadrature, for every image."""
    params = ImageDescriptor.from_individual_values(12, 2.0, precision)
    run(build.relion((6,)).path, tmp_path / "out", params)
    weights = params.polar_grid.weight_shells * (2 * np.pi) ** 2 / params.polar_grid.n_inplanes
    power = np.abs(tensor(tmp_path / "out", 0).numpy().astype(complex)) ** 2
    np.testing.assert_allclose(power.sum(axis=2) @ weights, 1, rtol=0, atol=tolerance)


def pooled(images: np.ndarray, factor: int, kind: str) -> np.ndarray:
    """Pool or crop, by numpy in float64."""
    n, side, _ = images.shape
    small = side // factor
    blocks = images.reshape(n, small, factor, small, factor)
    if kind == "mean":
        return np.asarray(blocks.mean(axis=(2, 4)))
    if kind == "max":
        return np.asarray(blocks.max(axis=(2, 4)))
    # Evaluate the trigonometric interpolation through the pixels, band-limited, at the new ones
    kept = np.arange(small) - small // 2
    x_old, x_new = np.arange(side) - side // 2, (np.arange(small) - small // 2) * factor
    analyse = np.exp(-2j * np.pi * np.outer(kept, x_old) / side) / side
    synthesise = np.exp(2j * np.pi * np.outer(x_new, kept) / side)
    operator = synthesise @ analyse
    return np.asarray(np.einsum("ay,nyx,bx->nab", operator, images, operator).real)


@pytest.mark.parametrize("kind", ["mean", "max", "fourier"])
@pytest.mark.parametrize(("n_pixels", "factor"), [(24, 2), (24, 3), (18, 2), (15, 3)])
def test_downsampling(
    build: SetBuilder,
    direct: type[DirectTransform],
    tmp_path: Path,
    kind: Any,
    n_pixels: int,
    factor: int,
) -> None:
    """Images are pooled or cropped before normalisation; the grid is that of the smaller box."""
    built = build.relion((3,), n_pixels=n_pixels)
    out = tmp_path / "out"
    run(built.path, out, downsample_factor=factor, downsample_type=kind)
    stored = arrays(out, 0)
    assert stored["n_pixels"].tolist() == [n_pixels // factor] * 2
    assert stored["pixel_size"].tolist() == [2.0 * factor] * 2
    assert_equals_direct(
        tensor(out, 0).numpy(),
        stored,
        pooled(built.images, factor, kind),
        direct(n_pixels // factor),
        tolerance=3e-6,
    )


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize(
    "dtype", [np.int8, np.int16, np.float32, np.uint16, np.float16], ids=lambda d: d.__name__
)
def test_all_image_modes_give_the_same_images(
    build: SetBuilder,
    direct: type[DirectTransform],
    tmp_path: Path,
    dtype: type[np.generic],
    suffix: str,
) -> None:
    """MRC modes 0, 1, 2, 6 and 12, compressed or not."""
    whole = np.random.default_rng(1).integers(0, 120, (3, 12, 12))
    stack = build.stack(f"a.mrcs{suffix}", whole.astype(dtype))
    star = build.star([f"{i}@{stack.name}" for i in (3, 1, 2)])
    run(star, tmp_path / "out")
    assert_equals_direct(
        tensor(tmp_path / "out", 0).numpy(),
        arrays(tmp_path / "out", 0),
        whole[[2, 0, 1]].astype(np.float64),
        direct(12),
        tolerance=2e-6,
    )
    assert sorted(files_below(tmp_path / "out")) == [
        "fft/particles_fourier_stack_000000.npz",
        "fft/particles_fourier_stack_000000.pt",
        "manifest.json",
    ]


def test_repeated_image_appears_for_each_row(
    build: SetBuilder, direct: type[DirectTransform], tmp_path: Path
) -> None:
    """Rows that name one image get it all."""
    images = build.noise(2)
    build.stack("a.mrcs", images)
    run(build.star(["2@a.mrcs", "1@a.mrcs", "2@a.mrcs"]), tmp_path / "out")
    polar = tensor(tmp_path / "out", 0).numpy()
    np.testing.assert_array_equal(polar[0], polar[2])
    expected = direct(12)(images[1].astype(np.float64))["polar"]
    assert np.linalg.norm(polar[0] - expected) <= 2e-6 * np.linalg.norm(expected)


# Restacking


def test_paired_stacks_on_disk(build: SetBuilder, tmp_path: Path) -> None:
    """Sizes are 5, 2, 2, 5, 1; each says which images of its input it holds."""
    stars, stacks = build.pairs((7, 2, 6))
    out = tmp_path / "out"
    params = ImageDescriptor.from_individual_values(12, 2.0)
    report = run(read_pairs(stars, stacks), out, params, batch_size=5)
    assert report.n_stacks == 5
    assert [len(tensor(out, i)) for i in range(5)] == [5, 2, 2, 5, 1]
    ranges = [
        (int(arrays(out, i)["stack_start"]), int(arrays(out, i)["stack_end"])) for i in range(5)
    ]
    assert ranges == [(0, 5), (5, 7), (0, 2), (0, 5), (5, 6)]
    assert [set(arrays(out, i)["files"]) for i in range(5)] == [
        {str(stacks[k])} for k in (0, 0, 1, 2, 2)
    ]
    assert arrays(out, 3)["idxs"].tolist() == [0, 1, 2, 3, 4]


def test_limit_of_stacks_stops_early(build: SetBuilder, tmp_path: Path) -> None:
    """The first stacks are those of the whole run, and the report says that there is more."""
    path = build.relion((7, 2, 6)).path
    run(path, tmp_path / "whole", batch_size=4)
    report = run(path, tmp_path / "part", batch_size=4, n_stacks_max=2)
    assert (report.n_stacks, report.n_images_out, report.stopped_early) == (2, 8, True)
    assert "stopped early" in report.describe()
    whole, part = files_below(tmp_path / "whole"), files_below(tmp_path / "part")
    tensors = {name for name in part if name.endswith(".pt")}
    assert len(tensors) == 2
    assert all(part[name] == whole[name] for name in tensors)
    assert verify(tmp_path / "part").is_good


# What is stored


PUBLISHED = {
    "n_pixels": (2,),
    "pixel_size": (2,),
    "radius_max": (),
    "dist_radii": (),
    "n_inplanes": (),
    "precision": (),
    "viewing_distance": (),
    "atom_radii": (0,),
    "atom_selection": (),
    "use_protein_residue_model": (),
    "atom_shape": (),
    "defocusU": (4,),
    "defocusV": (4,),
    "defocusAngle": (4,),
    "phaseShift": (4,),
    "sphericalAberration": (),
    "voltage": (),
    "amplitudeContrast": (),
    "angleRotation": (0,),
    "angleTilt": (0,),
    "anglePsi": (0,),
    "files": (4,),
    "idxs": (4,),
    "ctfBfactor": (4,),
    "ctfScalefactor": (4,),
    "n_images": (),
}


def test_published_keys_and_shapes(build: SetBuilder, tmp_path: Path) -> None:
    """Each key is there; what is absent has size 0; nothing is an object."""
    run(build.relion((4,)).path, tmp_path / "out")
    stored = arrays(tmp_path / "out", 0)
    assert {key: stored[key].shape for key in PUBLISHED} == PUBLISHED
    assert not [key for key, value in stored.items() if value.dtype.hasobject]
    assert "stack_start" not in stored
    assert stored["ref_pixel_size"] == 2.0
    assert stored["n_images"] == 4
    assert stored["uid"].size == 0
    for key in ("source_row", "contrast_factor", "image_mean", "image_largest", "polar_norm"):
        assert stored[key].shape == (4,)


def test_published_units(build: SetBuilder, tmp_path: Path) -> None:
    """Å, mm, kV and radians, whatever the file's units."""
    path = build.relion(
        (2,),
        columns={
            "rlnPhaseShift": [90, 45],
            "rlnCtfBfactor": [10, 20],
            "rlnCtfScalefactor": [0.5, 1],
            "rlnAngleRot": [180, 10],
            "rlnAngleTilt": [90, 20],
            "rlnAnglePsi": [-90, 30],
        },
    ).path
    run(path, tmp_path / "out")
    stored = arrays(tmp_path / "out", 0)
    wanted_values: dict[str, Any] = {
        "defocusU": [10_000, 10_010],
        "defocusV": [9_500, 9_510],
        "defocusAngle": np.deg2rad([0, 3]),
        "phaseShift": np.deg2rad([90, 45]),
        "sphericalAberration": 2.7,
        "voltage": 300,
        "amplitudeContrast": 0.1,
        "angleRotation": np.deg2rad([180, 10]),
        "angleTilt": np.deg2rad([90, 20]),
        "anglePsi": np.deg2rad([-90, 30]),
        "ctfBfactor": [10, 20],
        "ctfScalefactor": [0.5, 1],
        "idxs": [0, 1],
        "radius_max": 3.0,
        "dist_radii": 0.25,
        "n_inplanes": 24,
        "viewing_distance": 1 / (4 * np.pi),
    }
    for key, wanted in wanted_values.items():
        np.testing.assert_allclose(stored[key], wanted, rtol=1e-12, err_msg=key)
    assert str(stored["atom_shape"]) == "gaussian"
    assert set(stored["files"]) == {str(build.folder / "Particles/stack_01.mrcs")}


def test_optics_are_arrays_where_they_differ_inside_a_stack(
    build: SetBuilder, tmp_path: Path
) -> None:
    """One number where a stack is uniform, a value for each image where not."""
    path = build.relion((4,), columns={"rlnVoltage": [300, 200, 200, 200]}).path
    run(path, tmp_path / "out", batch_size=2)
    assert arrays(tmp_path / "out", 0)["voltage"].tolist() == [300, 200]
    assert arrays(tmp_path / "out", 1)["voltage"].shape == ()
    assert arrays(tmp_path / "out", 1)["voltage"] == 200
    assert arrays(tmp_path / "out", 0)["sphericalAberration"].shape == ()


def test_stack_of_one_image_keeps_its_axes(build: SetBuilder, tmp_path: Path) -> None:
    """Per-image arrays have length 1, and the tensor three axes."""
    run(build.relion((3,)).path, tmp_path / "out", batch_size=2)
    stored = arrays(tmp_path / "out", 1)
    assert tensor(tmp_path / "out", 1).shape == (1, 13, 24)
    assert stored["defocusU"].tolist() == [10_020]
    assert stored["files"].shape == stored["idxs"].shape == stored["phaseShift"].shape == (1,)
    assert stored["idxs"].tolist() == [2]


@pytest.mark.parametrize(("n_pixels", "counts"), [(24, (1100,)), (16, (900,))])
def test_tensor_files_are_as_large_as_their_data(
    build: SetBuilder, tmp_path: Path, n_pixels: int, counts: tuple[int, ...]
) -> None:
    """No stack, short or long, carries memory of another: at most 1 % over for more than 1 MB."""
    path = build.relion(counts, n_pixels=n_pixels).path
    run(path, tmp_path / "out", batch_size=counts[0] - 300)
    for i in range(2):
        loaded = tensor(tmp_path / "out", i)
        n_data = loaded.numel() * 8
        n_file = (tmp_path / f"out/fft/particles_fourier_stack_{i:06d}.pt").stat().st_size
        assert n_data > 1_000_000
        assert n_data < n_file <= 1.01 * n_data
        assert loaded.untyped_storage().nbytes() == n_data


def test_same_input_gives_the_same_bytes(build: SetBuilder, tmp_path: Path) -> None:
    """Stacks, metadata and plots do not depend on when they were made."""
    path = build.relion((7, 2)).path
    run(path, tmp_path / "a", batch_size=5, plots=True)
    run(path, tmp_path / "b", batch_size=5, plots=True)
    a, b = files_below(tmp_path / "a"), files_below(tmp_path / "b")
    assert a == b
    assert len(a) == 2 * 5 + 1


def test_plots_are_png_files(build: SetBuilder, tmp_path: Path) -> None:
    """Three for each stack, with the published names, and none unless asked for."""
    path = build.relion((3,)).path
    run(path, tmp_path / "with", plots=True)
    run(path, tmp_path / "without", plots=False)
    plots = sorted((tmp_path / "with/plots").iterdir())
    assert [plot.name for plot in plots] == [
        "particles_fourier_stack_000000.png",
        "particles_phys_stack_000000.png",
        "power_spectrum_stack_000000.png",
    ]
    assert all(plot.read_bytes().startswith(b"\x89PNG\r\n") for plot in plots)
    assert not (tmp_path / "without/plots").exists()


def test_progress_counts_images(build: SetBuilder, tmp_path: Path) -> None:
    """From none to all, never backwards."""
    seen: list[tuple[int, int]] = []
    run(
        build.relion((5,)).path,
        tmp_path / "out",
        batch_size=2,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen[0] == (0, 5)
    assert seen[-1] == (5, 5)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


# Contrast


@pytest.mark.parametrize(
    ("contrast", "factors"), [("recorded", [1, -1, 1, -1]), ("keep", [1] * 4), ("invert", [-1] * 4)]
)
def test_contrast_is_applied_and_stored(
    build: SetBuilder,
    direct: type[DirectTransform],
    tmp_path: Path,
    contrast: Any,
    factors: list[int],
) -> None:
    """The recorded sign by default, else as asked."""
    images = build.noise(4)
    build.stack("a.mrc", images)
    sign = np.array([1, -1, 1, -1], dtype=np.float32)
    cs = build.cryosparc(["a.mrc"] * 4, [0, 1, 2, 3], blob__sign=sign)
    run(read_cryosparc(cs), tmp_path / "out", contrast=contrast)
    assert_equals_direct(
        tensor(tmp_path / "out", 0).numpy(),
        arrays(tmp_path / "out", 0),
        images.astype(np.float64),
        direct(12),
        tolerance=2e-6,
        factors=np.array(factors, dtype=float),
    )


def disc_images(n_images: int, height: float) -> np.ndarray:
    """Noise with a disc of some height in the middle."""
    offsets = np.arange(16) - 8
    disc = np.hypot(offsets[:, None], offsets) < 4
    noise = np.random.default_rng(2).normal(size=(n_images, 16, 16))
    return (noise + height * disc).astype(np.float32)


@pytest.mark.parametrize(
    ("height", "contrast", "advice"),
    [
        (-1.0, "recorded", "--contrast invert"),
        (1.0, "recorded", ""),
        (0.0, "recorded", ""),
        (-1.0, "invert", ""),
        (1.0, "invert", "--contrast keep"),
    ],
)
def test_dark_protein_is_warned_of(
    build: SetBuilder, tmp_path: Path, height: float, contrast: Any, advice: str
) -> None:
    """Only where it would be dark after the factor; the pixels stay as they are."""
    built = build.relion((40,), images=disc_images(40, height))
    report = run(built.path, tmp_path / "out", contrast=contrast)
    warned = [text for text in report.warnings if "dark" in text]
    assert len(warned) == bool(advice)
    assert all(advice in text for text in warned)
    factor = -1 if contrast == "invert" else 1
    assert set(arrays(tmp_path / "out", 0)["contrast_factor"]) == {factor}


def test_recorded_sign_makes_dark_protein_bright(build: SetBuilder, tmp_path: Path) -> None:
    """Dark images whose metadata says so need no warning."""
    build.stack("a.mrc", disc_images(40, -1.0))
    sign = np.full(40, -1, dtype=np.float32)
    cs = build.cryosparc(["a.mrc"] * 40, list(range(40)), blob__sign=sign)
    report = run(read_cryosparc(cs), tmp_path / "out")
    assert not [text for text in report.warnings if "dark" in text]


def test_star_and_cs_of_the_same_particles_agree(build: SetBuilder, tmp_path: Path) -> None:
    """Their images differ by the recorded sign only; CTF values to the precision of float32."""
    order = [4, 0, 3, 1, 2]
    images = build.noise(5)
    build.stack("a.mrc", images)
    star = build.star(
        [f"{i + 1}@a.mrc" for i in order],
        columns={
            "rlnPhaseShift": [0] * 5,
            "rlnDefocusAngle": list(np.rad2deg(0.05 * np.arange(5))),
        },
    )
    cs = build.cryosparc(["a.mrc"] * 5, order, blob__sign=np.full(5, -1, dtype=np.float32))
    run(star, tmp_path / "star")
    run(read_cryosparc(cs), tmp_path / "cs")
    np.testing.assert_allclose(all_images(tmp_path / "cs"), -all_images(tmp_path / "star"))
    ours, theirs = arrays(tmp_path / "star", 0), arrays(tmp_path / "cs", 0)
    for key in (
        "defocusU",
        "defocusV",
        "defocusAngle",
        "phaseShift",
        "voltage",
        "sphericalAberration",
        "amplitudeContrast",
        "idxs",
    ):
        np.testing.assert_allclose(ours[key], theirs[key], rtol=1e-6, atol=1e-9, err_msg=key)
    assert ours["files"].tolist() == theirs["files"].tolist()
    assert theirs["uid"].tolist() == [2**63 + i for i in range(5)]


# Images that have no transform


def with_bad_image(build: SetBuilder, bad: str, at: int = 4) -> Built:
    """Write 8 images, one of them unusable."""
    images = build.noise(8)
    if bad == "blank":
        images[at] = 3.7
    elif bad == "zero":
        images[at] = 0
    else:
        images[at, 2, 3] = float(bad)
    return build.relion((8,), images=images)


BAD = ["blank", "zero", "nan", "inf", "-inf"]


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("precision", ["single", "double"])
def test_unusable_image_stops_the_run(
    build: SetBuilder, tmp_path: Path, bad: str, precision: str
) -> None:
    """It is named; complete stacks before it stay, and none with it exists."""
    built, out = with_bad_image(build, bad), tmp_path / "out"
    params = ImageDescriptor.from_individual_values(12, 2.0, precision)
    with pytest.raises(ImageError, match=r"row 4: 000005@Particles/stack_01\.mrcs") as caught:
        run(built.path, out, params, batch_size=2)
    assert ("blank" in str(caught.value)) == (bad in ("blank", "zero"))
    assert sorted(name for name in files_below(out) if name.endswith(".pt")) == [
        "fft/particles_fourier_stack_000000.pt",
        "fft/particles_fourier_stack_000001.pt",
    ]
    assert not (out / "manifest.json").exists()


def test_run_that_wrote_nothing_leaves_nothing(build: SetBuilder, tmp_path: Path) -> None:
    """An unusable image in the first stack: the folder is not there afterwards."""
    with pytest.raises(ImageError):
        run(with_bad_image(build, "nan", at=0).path, tmp_path / "out", batch_size=2)
    assert not (tmp_path / "out").exists()


def test_all_unusable_images_of_a_stack_are_named(build: SetBuilder, tmp_path: Path) -> None:
    """Three of one stack are one error with three places."""
    images = build.noise(6)
    images[1], images[3, 0, 0], images[4] = 0, np.inf, 2
    with pytest.raises(ImageError, match="3 images cannot be transformed") as caught:
        run(build.relion((6,), images=images).path, tmp_path / "out")
    assert all(f"row {row}: " in str(caught.value) for row in (1, 3, 4))


@pytest.mark.parametrize("bad", BAD)
def test_unusable_image_can_be_left_out(
    build: SetBuilder, direct: type[DirectTransform], tmp_path: Path, bad: str
) -> None:
    """Its stack is shorter, its row is listed, and all others are there."""
    built, out = with_bad_image(build, bad), tmp_path / "out"
    report = run(built.path, out, batch_size=3, on_bad_image="skip")
    assert (report.n_rows_in, report.n_images_out, len(report.rejects)) == (8, 7, 1)
    assert [len(tensor(out, i)) for i in range(3)] == [3, 2, 2]
    usable = [0, 1, 2, 3, 5, 6, 7]
    assert column(out, "source_row").tolist() == usable
    polar = all_images(out)
    assert np.isfinite(polar).all()
    for image, result in zip(built.images[usable], polar, strict=True):
        expected = direct(12)(image)["polar"]
        assert np.linalg.norm(result - expected) <= 2e-6 * np.linalg.norm(expected)
    with (out / "rejects.csv").open() as file:
        (reject,) = csv.DictReader(file)
    assert reject["metadata_file"] == str(built.path)
    assert reject["source_row"] == "4"
    assert reject["image_name"] == "000005@Particles/stack_01.mrcs"
    assert ("blank" in reject["reason"]) == (bad in ("blank", "zero"))
    assert verify(out).is_good


def test_stack_without_usable_images_is_not_written(build: SetBuilder, tmp_path: Path) -> None:
    """The others keep their numbers, and the set opens and verifies."""
    images = build.noise(6)
    images[2:4] = 1
    out = tmp_path / "out"
    report = run(
        build.relion((6,), images=images).path, out, batch_size=2, on_bad_image="skip", plots=True
    )
    assert (report.n_stacks, report.n_images_out) == (2, 4)
    assert sorted(path.stem[-1] for path in (out / "fft").glob("*.pt")) == ["0", "2"]
    assert open_stacks(out).table["source_row"].tolist() == [0, 1, 4, 5]
    assert verify(out).is_good


def test_set_without_usable_images_verifies(build: SetBuilder, tmp_path: Path) -> None:
    """Nothing but rejects is a whole result, if it was asked for."""
    out = tmp_path / "out"
    path = build.relion((3,), images=np.ones((3, 12, 12), dtype=np.float32)).path
    report = run(path, out, on_bad_image="skip")
    assert (report.n_stacks, report.n_images_out, len(report.rejects)) == (0, 0, 3)
    assert sorted(files_below(out)) == ["manifest.json", "rejects.csv"]
    assert verify(out).is_good


def test_image_blank_after_downsampling_is_unusable(build: SetBuilder, tmp_path: Path) -> None:
    """A chessboard has no mean contrast: nothing is left of it but rounding."""
    images = build.noise(2)
    images[1] = 0.1 + 0.3 * (np.indices((12, 12)).sum(axis=0) % 2)
    with pytest.raises(ImageError, match="row 1"):
        run(build.relion((2,), images=images).path, tmp_path / "out", downsample_factor=2)


def test_stacks_before_an_unusable_image_count_when_it_is_skipped(
    build: SetBuilder, tmp_path: Path
) -> None:
    """Resuming with 'skip' keeps them and ends as an undisturbed run that skips."""
    path = with_bad_image(build, "nan").path
    with pytest.raises(ImageError):
        run(path, tmp_path / "out", batch_size=2)
    report = run(path, tmp_path / "out", batch_size=2, on_bad_image="skip", skip_exist=True)
    assert report.n_stacks_kept == 2
    run(path, tmp_path / "whole", batch_size=2, on_bad_image="skip")
    assert of_images(files_below(tmp_path / "out")) == of_images(files_below(tmp_path / "whole"))


def test_skipped_rows_are_listed_with_their_reasons(build: SetBuilder, tmp_path: Path) -> None:
    """Rows bad by metadata and images bad by pixels are in one list, in order."""
    images = build.noise(4)
    images[0] = 0
    build.stack("a.mrcs", images)
    star = build.star(
        ["2@a.mrcs", "1@gone.mrcs", "1@a.mrcs", "3@a.mrcs"],
        columns={"rlnDefocusU": ["10000", "10000", "10000", "nan"]},
    )
    out = tmp_path / "out"
    report = run(star, out, on_bad_row="skip", on_bad_image="skip")
    assert (report.n_rows_in, report.n_images_out) == (4, 1)
    with (out / "rejects.csv").open() as file:
        rejects = list(csv.DictReader(file))
    assert [(reject["source_row"], reject["image_name"]) for reject in rejects] == [
        ("1", "000001@gone.mrcs"),
        ("2", "000001@a.mrcs"),
        ("3", "000003@a.mrcs"),
    ]
    assert all(reject["reason"] for reject in rejects)
    assert column(out, "source_row").tolist() == [0]
    assert "3 rows" in report.describe()
    assert "rejects.csv" in report.describe()


def test_no_list_of_rejects_without_skipping(build: SetBuilder, tmp_path: Path) -> None:
    """A good set leaves none even where skipping was allowed."""
    run(build.relion((2,)).path, tmp_path / "out", on_bad_row="skip", on_bad_image="skip")
    assert not (tmp_path / "out/rejects.csv").exists()


# Results that are there already


@pytest.fixture
def finished(build: SetBuilder, tmp_path: Path) -> tuple[Path, Path]:
    """Convert a set of 15 images in stacks of 4."""
    path = build.relion((7, 2, 6)).path
    run(path, tmp_path / "out", batch_size=4)
    return path, tmp_path / "out"


@pytest.mark.parametrize("left", ["all", "manifest", "stack", "plot", "wip"])
def test_existing_results_are_refused(build: SetBuilder, tmp_path: Path, left: str) -> None:
    """Whatever of ours is there, nothing changes."""
    path, out = build.relion((3,)).path, tmp_path / "out"
    run(path, out, plots=True)
    keep = {
        "all": "",
        "manifest": "manifest",
        "stack": ".pt",
        "plot": "power_spectrum",
        "wip": "nothing",
    }[left]
    for name in files_below(out):
        if keep not in name:
            (out / name).unlink()
    if left == "wip":
        (out / ".cryolike-wip").mkdir()
        (out / ".cryolike-wip/lock").touch()
    before = files_below(out)
    with pytest.raises(OutputExistsError, match="overwrite"):
        run(path, out)
    assert files_below(out) == before


def test_other_files_in_the_folder_are_no_results(build: SetBuilder, tmp_path: Path) -> None:
    """The user's own files neither stop a run nor change."""
    out = tmp_path / "out"
    (out / "plots").mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    (out / "plots/figure.png").write_text("mine too")
    path = build.relion((3,)).path
    run(path, out)
    run(path, out, overwrite=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "plots/figure.png").read_text() == "mine too"


def test_overwriting_replaces_everything(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """Afterwards the folder is as if nothing had been there, also with fewer stacks."""
    path, out = finished
    run(path, out, batch_size=10, overwrite=True)
    run(path, tmp_path / "fresh", batch_size=10)
    assert files_below(out) == files_below(tmp_path / "fresh")


def test_resuming_and_overwriting_contradict(finished: tuple[Path, Path]) -> None:
    """Both together are refused before anything changes."""
    path, out = finished
    before = files_below(out)
    with pytest.raises(CryoLikeError, match="contradict"):
        run(path, out, batch_size=4, skip_exist=True, overwrite=True)
    assert files_below(out) == before


@pytest.mark.parametrize(
    ("name", "linked"),
    [("manifest.json", False), ("fft/particles_fourier_stack_000000.pt", True)],
)
def test_source_is_never_overwritten(
    build: SetBuilder, tmp_path: Path, name: str, linked: bool
) -> None:
    """Not even where the user allows overwriting, and not through a link."""
    out = tmp_path / "out"
    (out / name).parent.mkdir(parents=True, exist_ok=True)
    path = build.relion((2,)).path
    stack = build.folder / "Particles/stack_01.mrcs"
    if linked:
        (out / name).symlink_to(stack)
        source = path
    else:
        shutil.copy(path, out / name)
        source = out / name
        shutil.copytree(build.folder / "Particles", out / "Particles")
    before = files_below(tmp_path)
    with pytest.raises(OutputError, match="source file"):
        run(source, out, overwrite=True)
    assert files_below(tmp_path) == before


def test_source_among_earlier_results_is_not_removed(build: SetBuilder, tmp_path: Path) -> None:
    """A stack that bears the name of a result beyond those planned is safe as well."""
    out = tmp_path / "out"
    stack = build.stack("a.mrcs", build.noise(2))
    (out / "plots").mkdir(parents=True)
    moved = shutil.move(stack, out / "plots/particles_phys_stack_000077.mrcs")
    star = build.star([f"1@{moved}"])
    with pytest.raises(OutputError, match="source file"):
        run(star, out, overwrite=True)
    assert Path(moved).exists()


def test_full_disk_is_noticed_before_it_is_full(
    build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that needs more than is free does not start; the message has both sizes."""
    path = build.relion((15,)).path
    needed = 15 * 13 * 24 * 8
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=needed - 1))
    with pytest.raises(OutputError, match="GB will be written"):
        run(path, tmp_path / "a/b")
    assert not (tmp_path / "a/b").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=2 * needed))
    run(path, tmp_path / "a/b")


def test_output_folder_that_is_a_file_is_refused(build: SetBuilder, tmp_path: Path) -> None:
    """The error is ours and names it."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="out"):
        run(build.relion((2,)).path, tmp_path / "out")
    assert (tmp_path / "out").read_text() == "a file"


def test_stack_that_changes_before_it_is_read_is_noticed(build: SetBuilder, tmp_path: Path) -> None:
    """Between plan and conversion a stack shrank: an error names it, and nothing is left."""
    built = build.relion((4,))
    plan = plan_conversion(read_star(built.path), None, ConvertOptions(plots=False))
    data = built.stacks[0].read_bytes()
    built.stacks[0].write_bytes(data[: len(data) // 2])
    with pytest.raises(StackError, match="stack_01"):
        convert(plan, tmp_path / "out")
    assert not (tmp_path / "out").exists()


# Resuming


class Killed(BaseException):
    """The process is no more: nothing it would still do happens."""


class Mortal:
    """Kills the run at the n-th time that it changes a file or folder."""

    CHANGES = ("replace", "unlink", "rmdir", "mkdir", "symlink_to", "touch")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.n_changes, self.dies_at, self.is_dead = 0, -1, False
        for name in self.CHANGES:
            monkeypatch.setattr(Path, name, self._mortal(getattr(Path, name)))
        monkeypatch.setattr(Path, "open", self._mortal_open(Path.open))

    def _mortal(self, change: Callable[..., Any]) -> Callable[..., Any]:
        def changed(path: Path, *args: Any, **keywords: Any) -> Any:
            self._step()
            return change(path, *args, **keywords)

        return changed

    def _mortal_open(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Path, mode: str = "r", *args: Any, **keywords: Any) -> Any:
            if set(mode) & set("wax+"):
                self._step()
            return original(path, mode, *args, **keywords)

        return opened

    def _step(self) -> None:
        self.n_changes += 1
        if self.is_dead or self.n_changes == self.dies_at:
            self.is_dead = True
            raise Killed

    @contextmanager
    def life(self, dies_at: int = -1) -> Iterator[None]:
        """Live from here to the change number `dies_at`."""
        self.n_changes, self.dies_at, self.is_dead = 0, dies_at, False
        try:
            yield
        except Killed:
            pass
        finally:
            self.dies_at, self.is_dead = -1, False


@pytest.fixture
def mortal(monkeypatch: pytest.MonkeyPatch) -> Mortal:
    """Kills runs of this test."""
    return Mortal(monkeypatch)


def changes_of(mortal: Mortal, act: Callable[[], Any]) -> int:
    """Count what a run changes."""
    with mortal.life():
        act()
        return mortal.n_changes


def test_run_killed_anywhere_can_be_resumed(
    build: SetBuilder, tmp_path: Path, mortal: Mortal
) -> None:
    """After a kill at each change, one more whole run ends as an undisturbed one."""
    path = build.relion((2, 1)).path
    whole, out = tmp_path / "whole", tmp_path / "out"
    n_changes = changes_of(mortal, lambda: run(path, whole, batch_size=2))
    assert n_changes > 12
    wanted = files_below(whole)
    for dies_at in range(1, n_changes + 1):
        with mortal.life(dies_at):
            run(path, out, batch_size=2)
        report = run(path, out, batch_size=2, skip_exist=True)
        assert files_below(out) == wanted, f"killed at change {dies_at}"
        assert report.n_images_out == 3
        shutil.rmtree(out)


def test_resumed_run_killed_anywhere_can_be_resumed(
    build: SetBuilder, tmp_path: Path, mortal: Mortal
) -> None:
    """What a second run kept or had begun is not lost when it is killed too."""
    path = build.relion((3, 2)).path
    whole, begun, out = tmp_path / "whole", tmp_path / "begun", tmp_path / "out"
    run(path, whole, batch_size=2)
    wanted = files_below(whole)
    first_stack = "fft/particles_fourier_stack_000000.npz"
    dies_at = 0
    while not (begun / first_stack).exists():
        dies_at += 1
        shutil.rmtree(begun, ignore_errors=True)
        with mortal.life(dies_at):
            run(path, begun, batch_size=2)
    with mortal.life(dies_at + 4):  # in the middle of the second stack
        shutil.rmtree(begun)
        run(path, begun, batch_size=2)
    assert not (begun / "manifest.json").exists()
    shutil.copytree(begun, out)
    n_changes = changes_of(mortal, lambda: run(path, out, batch_size=2, skip_exist=True))
    for dies_at in range(1, n_changes + 1):
        shutil.rmtree(out)
        shutil.copytree(begun, out)
        with mortal.life(dies_at):
            run(path, out, batch_size=2, skip_exist=True)
        report = run(path, out, batch_size=2, skip_exist=True)
        assert files_below(out) == wanted, f"killed at change {dies_at}"
        assert report.n_stacks_kept >= 1


def test_overwriting_run_killed_anywhere_can_be_resumed_or_repeated(
    build: SetBuilder, tmp_path: Path, mortal: Mortal
) -> None:
    """No remnant of the old results survives in the new set, whenever it died."""
    path = build.relion((3,)).path
    old, whole, out = tmp_path / "old", tmp_path / "whole", tmp_path / "out"
    run(path, old, batch_size=1)
    run(path, whole, batch_size=2)
    wanted = files_below(whole)
    shutil.copytree(old, out)
    n_changes = changes_of(mortal, lambda: run(path, out, batch_size=2, overwrite=True))
    n_resumed = 0
    for dies_at in range(1, n_changes + 1):
        shutil.rmtree(out)
        shutil.copytree(old, out)
        with mortal.life(dies_at):
            run(path, out, batch_size=2, overwrite=True)
        try:
            run(path, out, batch_size=2, skip_exist=True)
            n_resumed += 1
        except OutputExistsError:
            # It died before it began to remove the old set, which is whole
            assert (out / "manifest.json").exists()
            run(path, out, batch_size=2, overwrite=True)
        assert files_below(out) == wanted, f"killed at change {dies_at}"
    assert n_resumed > n_changes / 2


@pytest.mark.parametrize("n_before", [0, 1, 2])
@pytest.mark.parametrize("what", ["torch.save", "cryolike.store.writer.write_arrays"])
def test_full_disk_on_the_way_loses_nothing(
    build: SetBuilder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_before: int,
    what: str,
) -> None:
    """The error says that the disk is full; with space again, the run ends as if undisturbed."""
    path, out = build.relion((5,)).path, tmp_path / "out"
    module, _, function = what.rpartition(".")
    original = getattr(sys.modules[module], function)
    calls: list[int] = []

    def full(*args: Any, **keywords: Any) -> Any:
        calls.append(1)
        if len(calls) > n_before:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*args, **keywords)

    with monkeypatch.context() as patched:
        patched.setattr(sys.modules[module], function, full)
        with pytest.raises(OutputError, match=r"disk is full.*--resume"):
            run(path, out, batch_size=2)
    assert not list(out.glob(".cryolike-wip/*.pt"))
    report = run(path, out, batch_size=2, skip_exist=True)
    assert report.n_stacks_kept == n_before
    run(path, tmp_path / "whole", batch_size=2)
    assert files_below(out) == files_below(tmp_path / "whole")


def test_resuming_a_finished_run_changes_nothing(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All stacks are kept, and no image is read."""
    path, out = finished
    before = files_below(out)
    times = {file: file.stat().st_mtime_ns for file in out.rglob("*.*")}

    def read(*_: Any) -> Any:
        raise AssertionError("an image was read")

    monkeypatch.setattr("cryolike.conversion.run.read_rows", read)
    report = run(path, out, batch_size=4, skip_exist=True)
    assert (report.n_stacks_kept, report.n_stacks, report.n_images_out) == (4, 4, 15)
    assert files_below(out) == before
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*.*")} == times


def test_resuming_on_a_fresh_folder_starts(finished: tuple[Path, Path], tmp_path: Path) -> None:
    """It does what a run without it does."""
    path, out = finished
    report = run(path, tmp_path / "fresh", batch_size=4, skip_exist=True)
    assert report.n_stacks_kept == 0
    assert files_below(tmp_path / "fresh") == files_below(out)


@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
@pytest.mark.parametrize("suffix", [".pt", ".npz"])
def test_damaged_stack_is_made_again(finished: tuple[Path, Path], damage: str, suffix: str) -> None:
    """Stacks count by their checksums, not by their names; only the damaged one is redone."""
    path, out = finished
    wanted = files_below(out)
    file = out / f"fft/particles_fourier_stack_000002{suffix}"
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
    elif damage == "cut":
        file.write_bytes(data[:-1])
    else:
        file.unlink()
    untouched = out / "fft/particles_fourier_stack_000001.pt"
    inode = untouched.stat().st_ino
    report = run(path, out, batch_size=4, skip_exist=True)
    assert report.n_stacks_kept == 3
    assert files_below(out) == wanted
    assert untouched.stat().st_ino == inode


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch_size": 5}, "batch_size: 4 then, 5 now"),
        ({"contrast": "invert"}, "contrast: 'recorded' then, 'invert' now"),
        ({"downsample_factor": 2}, "downsample_factor: 1 then, 2 now"),
        ({"plots": True}, "plots: False then, True now"),
        ({"n_stacks_max": 2}, "n_stacks_max: -1 then, 2 now"),
    ],
)
def test_resuming_with_other_options_is_refused(
    finished: tuple[Path, Path], options: dict[str, Any], words: str
) -> None:
    """The difference is named, and nothing changes."""
    path, out = finished
    before = files_below(out)
    with pytest.raises(OutputExistsError) as caught:
        run(path, out, skip_exist=True, **{"batch_size": 4, **options})
    assert words in str(caught.value)
    assert files_below(out) == before


def test_refused_resumption_keeps_what_an_interrupted_run_left(
    build: SetBuilder, tmp_path: Path
) -> None:
    """With other options the run is refused; with its own it goes on."""
    path, out = with_bad_image(build, "nan").path, tmp_path / "out"
    with pytest.raises(ImageError):
        run(path, out, batch_size=2)
    before = {name: data for name, data in files_below(out).items() if name != ".cryolike-wip/lock"}
    with pytest.raises(OutputExistsError, match="contrast"):
        run(path, out, batch_size=2, contrast="invert", skip_exist=True)
    after = {name: data for name, data in files_below(out).items() if name != ".cryolike-wip/lock"}
    assert after == before
    report = run(path, out, batch_size=2, on_bad_image="skip", skip_exist=True)
    assert report.n_stacks_kept == 2


def test_resuming_with_another_descriptor_is_refused(finished: tuple[Path, Path]) -> None:
    """Precision and grid are settings like others."""
    path, out = finished
    params = ImageDescriptor.from_individual_values(12, 2.0, "double", 0.5)
    with pytest.raises(OutputExistsError) as caught:
        run(path, out, params, batch_size=4, skip_exist=True)
    assert "precision: 'single' then, 'double' now" in str(caught.value)
    assert "radius_max" in str(caught.value)


def test_resuming_with_other_rows_is_refused(build: SetBuilder, tmp_path: Path) -> None:
    """As many rows of the same files, but others: stacks of the first must not count."""
    table = read_star(build.relion((8,)).path)
    run(select_rows(table, rows=slice(0, 4)), tmp_path / "out", batch_size=2)
    before = files_below(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="other rows"):
        run(select_rows(table, rows=slice(4, 8)), tmp_path / "out", batch_size=2, skip_exist=True)
    assert files_below(tmp_path / "out") == before


@pytest.mark.parametrize("which", ["star", "stack"])
@pytest.mark.parametrize("how", ["size", "time"])
def test_resuming_with_changed_sources_is_refused(
    build: SetBuilder, tmp_path: Path, which: str, how: str
) -> None:
    """The changed file is named."""
    built, out = build.relion((4,)), tmp_path / "out"
    run(built.path, out, batch_size=2)
    file = built.path if which == "star" else built.stacks[0]
    if how == "time":
        os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    elif which == "star":
        file.write_text(file.read_text() + "\n")
    else:
        build.stack("Particles/stack_01.mrcs", build.noise(5))
    before = files_below(out)
    with pytest.raises(OutputExistsError) as caught:
        run(built.path, out, batch_size=2, skip_exist=True)
    assert str(file) in str(caught.value)
    assert files_below(out) == before


def test_resuming_another_set_is_refused(
    finished: tuple[Path, Path], new_builder: type[SetBuilder], tmp_path: Path
) -> None:
    """Equal options, but another file."""
    _, out = finished
    (tmp_path / "other").mkdir()
    other = new_builder(tmp_path / "other").relion((7, 2, 6)).path
    with pytest.raises(OutputExistsError, match=str(other)):
        run(other, out, batch_size=4, skip_exist=True)


def test_stacks_without_a_record_cannot_be_resumed(finished: tuple[Path, Path]) -> None:
    """Names alone say nothing about what made them."""
    path, out = finished
    (out / "manifest.json").unlink()
    before = files_below(out)
    with pytest.raises(OutputExistsError, match="no record"):
        run(path, out, batch_size=4, skip_exist=True)
    assert files_below(out) == before


def test_resuming_from_another_folder_is_the_same_run(
    build: SetBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Relative names of the same files do not make it another."""
    path = build.relion((4,)).path
    out = tmp_path / "out"
    monkeypatch.chdir(build.folder)
    run(Path(path.name), out, batch_size=2)
    monkeypatch.chdir(tmp_path)
    report = run(path.relative_to(tmp_path), out, batch_size=2, skip_exist=True)
    assert report.n_stacks_kept == 2


# Two runs at once


@pytest.mark.parametrize(
    ("skip_exist", "overwrite"), [(False, False), (True, False), (False, True)]
)
def test_folder_in_use_is_refused(
    build: SetBuilder, tmp_path: Path, skip_exist: bool, overwrite: bool
) -> None:
    """The process that writes to it is named, and its run goes on undisturbed."""
    path, out = build.relion((6,)).path, tmp_path / "out"
    errors: list[FolderInUseError] = []

    def second_run(done: int, n_images: int) -> None:
        if done == 4:
            with pytest.raises(FolderInUseError) as caught:
                run(path, out, batch_size=2, skip_exist=skip_exist, overwrite=overwrite)
            errors.append(caught.value)

    run(path, out, batch_size=2, progress=second_run)
    assert len(errors) == 1
    assert f"process {os.getpid()}" in str(errors[0])
    run(path, tmp_path / "whole", batch_size=2)
    assert files_below(out) == files_below(tmp_path / "whole")


def test_lock_of_a_dead_process_does_not_stop_resuming(build: SetBuilder, tmp_path: Path) -> None:
    """A lock file that nobody holds is no lock."""
    path, out = build.relion((3,)).path, tmp_path / "out"
    (out / ".cryolike-wip").mkdir(parents=True)
    (out / ".cryolike-wip/lock").write_text("process 1 on nowhere")
    report = run(path, out, skip_exist=True)
    assert report.n_images_out == 3
    assert not (out / ".cryolike-wip").exists()


def test_errors_in_metadata_leave_no_folder(build: SetBuilder, tmp_path: Path) -> None:
    """Nothing has been written when everything wrong is reported."""
    star = build.star(["1@gone.mrcs", "1@lost.mrcs"], columns={"rlnDefocusU": ["nan", "1e4"]})
    with pytest.raises(CryoLikeError) as caught:
        run(star, tmp_path / "out")
    assert "2 of 2 files not found" in str(caught.value)
    assert "DefocusU" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_no_pickled_object_is_in_any_file(build: SetBuilder, tmp_path: Path) -> None:
    """The .npz holds plain arrays; the .pt the pickle of a plain tensor only."""
    run(build.relion((3,)).path, tmp_path / "out")
    with zipfile.ZipFile(tmp_path / "out/fft/particles_fourier_stack_000000.npz") as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                assert np.load(entry, allow_pickle=False).dtype.kind in "biufU"


def test_header_records_what_was_asked(build: SetBuilder, tmp_path: Path) -> None:
    """The manifest tells options, descriptor and inputs."""
    built = build.relion((3, 2))
    run(built.path, tmp_path / "out", batch_size=4, contrast="keep")
    stacks = open_stacks(tmp_path / "out")
    header: RunHeader = stacks.manifest.header
    assert header.options["batch_size"] == 4
    assert header.options["contrast"] == "keep"
    assert (header.kind, header.n_rows, header.n_stacks) == ("star", 5, 2)
    assert {record.path for record in header.inputs} == set(map(str, [built.path, *built.stacks]))
    for record in header.inputs:
        state = Path(record.path).stat()
        assert (record.n_bytes, record.mtime_ns) == (state.st_size, state.st_mtime_ns)
    assert [stack.rows for stack in stacks.manifest.stacks] == [((0, 0, 4),), ((0, 4, 5),)]
    other = replace(header, n_rows=6)
    assert header.differences(other) == ["n_rows: 6 then, 5 now"]
    assert RunFolder(tmp_path, header).records == {}
