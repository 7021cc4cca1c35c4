"""The image descriptor: its grids, its file, its checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryolike import ImageDescriptor
from cryolike.descriptor import Precision, load_descriptor, one_pixel_size
from cryolike.errors import CryoLikeError, MissingFileError, OutputExistsError, UsageError


def described(**values: Any) -> ImageDescriptor:
    """Describe 16 pixels of 1.5 Å unless told otherwise."""
    return ImageDescriptor.from_individual_values(**{"n_pixels": 16, "pixel_size": 1.5, **values})


# Grids


@pytest.mark.parametrize("n_pixels", [16, 17, 64, 255])
@pytest.mark.parametrize("resolution_factor", [1.0, 0.7, 0.5])
def test_polar_grid_is_as_published(n_pixels: int, resolution_factor: float) -> None:
    """radius_max, dist_radii, n_shells and n_inplanes from box and resolution factor."""
    polar = described(n_pixels=n_pixels, resolution_factor=resolution_factor).polar_grid
    assert polar.radius_max == pytest.approx(resolution_factor * n_pixels / 4, rel=1e-15)
    assert polar.dist_radii == 0.25
    assert polar.n_shells == 1 + np.ceil(resolution_factor * n_pixels / 4 / 0.25)
    assert polar.n_inplanes == 2 * n_pixels
    assert polar.radius_shells.shape == polar.weight_shells.shape == (polar.n_shells,)
    assert polar.radius_shells[0] > 0
    assert polar.radius_shells[-1] < polar.radius_max
    assert np.all(np.diff(polar.radius_shells) > 0)
    np.testing.assert_allclose(
        polar.theta_shell, np.linspace(0, 2 * np.pi, polar.n_inplanes, endpoint=False), rtol=1e-15
    )


def test_radii_and_weights_of_a_small_grid() -> None:
    """Two-point Gauss–Jacobi quadrature, worked out by hand."""
    # (α, β) = (0, 1): roots of 5t² − 2t − 1, weights that integrate 1 + t and t(1 + t) exactly
    polar = described(n_pixels=2, resolution_factor=0.5).polar_grid
    roots = np.array([(1 - np.sqrt(6)) / 5, (1 + np.sqrt(6)) / 5])
    weights = np.linalg.solve(np.array([[1, 1], roots]), [2, 2 / 3])
    assert polar.n_shells == 2
    np.testing.assert_allclose(polar.radius_shells, (roots + 1) * 0.125, rtol=1e-14)
    np.testing.assert_allclose(
        polar.weight_shells, weights * 2 * np.pi * 0.125**2 / (2 * np.pi) ** 2, rtol=1e-14
    )


@given(
    n_pixels=st.integers(4, 80),
    resolution_factor=st.floats(0.1, 1),
    power=st.integers(0, 6),
)
def test_quadrature_is_exact_for_polynomials(
    n_pixels: int, resolution_factor: float, power: int
) -> None:
    """The integral of |k|^power over the disc is 2π R^(power + 2)/(power + 2)."""
    polar = described(n_pixels=n_pixels, resolution_factor=resolution_factor).polar_grid
    if power > 2 * polar.n_shells - 1:
        power = 2 * polar.n_shells - 1
    values = polar.radius_shells[:, None] ** power * np.ones(polar.n_inplanes)
    weights = polar.weight_shells[:, None] / polar.n_inplanes * (2 * np.pi) ** 2
    exact = 2 * np.pi * polar.radius_max ** (power + 2) / (power + 2)
    assert float((values * weights).sum()) == pytest.approx(exact, rel=1e-11)
    area = np.pi * polar.radius_max**2
    assert float(polar.weight_shells.sum()) == pytest.approx(area / (2 * np.pi) ** 2, rel=1e-11)


@pytest.mark.parametrize("n_pixels", [8, 9])
def test_cartesian_grid(n_pixels: int) -> None:
    """Sizes along x and y, and the origin at pixel floor(N/2)."""
    grid = described(n_pixels=n_pixels).cartesian_grid
    assert grid.n_pixels.tolist() == [n_pixels] * 2
    assert grid.pixel_size.tolist() == [1.5] * 2
    assert grid.box_size.tolist() == [1.5 * n_pixels] * 2
    assert grid.offsets_px[n_pixels // 2] == 0
    assert grid.offsets_px[0] == -(n_pixels // 2)
    assert np.all(np.diff(grid.offsets_px) == 1)


def test_defaults_are_the_published_ones() -> None:
    """Those of everything that need not be given."""
    params = described()
    assert params.precision is Precision.SINGLE
    assert str(params.precision) == "single"
    assert params.viewing_distance == pytest.approx(1 / (4 * np.pi))
    assert described(resolution_factor=0.5).viewing_distance == pytest.approx(1 / (2 * np.pi))
    assert params.atom_radii is None
    assert params.atom_selection == "name CA"
    assert params.use_protein_residue_model is True
    assert params.atom_shape == "gaussian"


def test_positions_of_arguments_are_the_published_ones() -> None:
    """In this order without their names."""
    params = ImageDescriptor.from_individual_values(
        16, 1.5, "double", 0.5, 0.1, 20, 3.0, "all", False, "hard-sphere"
    )
    assert params.precision == "double"
    assert params.polar_grid.radius_max == 2
    assert params.polar_grid.n_inplanes == 20
    assert (params.viewing_distance, params.atom_radii) == (0.1, 3.0)
    assert (params.atom_selection, params.use_protein_residue_model) == ("all", False)
    assert params.atom_shape == "hard-sphere"


def test_two_equal_numbers_are_one() -> None:
    """For box and pixel size; pixel sizes may differ by noise."""
    params = described(n_pixels=[16, 16], pixel_size=(1.5, 1.5005))
    assert params.cartesian_grid.side_px == 16
    assert params.cartesian_grid.pixel_size_A == 1.5
    assert one_pixel_size([2.0, 2.0]) == 2.0


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"n_pixels": 1}, "n_pixels is 1"),
        ({"n_pixels": [16, 18]}, "square"),
        ({"n_pixels": [16, 16, 16]}, "n_pixels"),
        ({"pixel_size": 0.0}, "pixel_size is 0"),
        ({"pixel_size": -1.5}, "pixel_size is -1.5"),
        ({"pixel_size": float("nan")}, "pixel_size is nan"),
        ({"pixel_size": (1.5, 1.6)}, "square"),
        ({"precision": "half"}, "'single' or 'double'"),
        ({"resolution_factor": 0.0}, "resolution_factor is 0"),
        ({"resolution_factor": 1.5}, "resolution_factor is 1.5"),
        ({"resolution_factor": float("nan")}, "resolution_factor is nan"),
        ({"viewing_distance": 0.0}, "viewing_distance is 0"),
        ({"n_inplanes": 0}, "n_inplanes is 0"),
        ({"atom_radii": -1.0}, "atom_radii is -1"),
        ({"atom_shape": "cube"}, "atom_shape is 'cube'"),
    ],
)
def test_values_out_of_range_are_refused(values: dict[str, Any], words: str) -> None:
    """The message names argument and value."""
    with pytest.raises(UsageError, match=words):
        described(**values)


# File


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"precision": "double", "resolution_factor": 0.37, "pixel_size": 0.6666666666666666},
        {"atom_radii": 2.5, "atom_shape": "hard-sphere", "use_protein_residue_model": False},
        {"atom_selection": "backbone and name Cα", "viewing_distance": 0.3, "n_inplanes": 7},
    ],
)
def test_descriptor_comes_back_from_its_file(tmp_path: Path, values: dict[str, Any]) -> None:
    """Every value, exactly."""
    params = described(**values)
    params.save(tmp_path / "params.npz")
    assert ImageDescriptor.load(tmp_path / "params.npz") == params
    assert load_descriptor(tmp_path / "params.npz") == params
    assert load_descriptor(str(tmp_path / "params.npz")) == params
    assert load_descriptor(params) is params


def test_file_holds_plain_arrays_only(tmp_path: Path) -> None:
    """Nothing in it is pickled."""
    described().save(tmp_path / "params.npz")
    with np.load(tmp_path / "params.npz", allow_pickle=False) as data:
        assert {data[key].dtype.kind for key in data.files} <= set("biufU")
        assert data["atom_radii"].size == 0


def test_suffix_is_added_where_it_is_missing(tmp_path: Path) -> None:
    """On saving and on loading alike, also after a name with a dot."""
    described().save(tmp_path / "v1.2")
    assert [path.name for path in tmp_path.iterdir()] == ["v1.2.npz"]
    assert ImageDescriptor.load(tmp_path / "v1.2") == described()


def test_existing_file_is_kept_unless_told(tmp_path: Path) -> None:
    """Overwriting is asked for."""
    file = tmp_path / "params.npz"
    described().save(file)
    before = file.read_bytes()
    with pytest.raises(OutputExistsError, match="--overwrite"):
        described(n_pixels=20).save(file)
    assert file.read_bytes() == before
    described(n_pixels=20).save(file, overwrite=True)
    assert ImageDescriptor.load(file) == described(n_pixels=20)


def test_file_that_cannot_be_written_is_an_error_of_ours(tmp_path: Path) -> None:
    """It names the file."""
    with pytest.raises(CryoLikeError, match=r"params\.npz"):
        described().save(tmp_path / "missing/params.npz")


def test_missing_file_is_named(tmp_path: Path) -> None:
    """With the command that makes one."""
    with pytest.raises(MissingFileError, match=r"none.*cryolike describe"):
        ImageDescriptor.load(tmp_path / "none")


def test_file_that_expands_far_is_not_read(tmp_path: Path) -> None:
    """A few kilobytes that would become a hundred megabytes are refused."""
    path = tmp_path / "params.npz"
    ImageDescriptor.from_individual_values(8, 1.0).save(path)
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    np.savez_compressed(path, **arrays, more=np.zeros(100_000_000, dtype=np.uint8))
    with pytest.raises(UsageError, match=r"no image descriptor .*far more than a descriptor"):
        ImageDescriptor.load(path)


def test_damaged_bytes_are_an_error_of_ours(tmp_path: Path) -> None:
    """Whichever byte of a compressed file is changed, it is read or refused."""
    path = tmp_path / "params.npz"
    ImageDescriptor.from_individual_values(8, 1.0).save(path)
    with np.load(path) as data:
        arrays = {key: data[key] for key in data.files}
    np.savez_compressed(path, **arrays)
    content = path.read_bytes()
    n_refused = 0
    for place in range(0, len(content), 7):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :])
        try:
            ImageDescriptor.load(path)
        except UsageError:
            n_refused += 1
    assert n_refused > 100


@pytest.mark.parametrize("kind", ["text", "empty", "npy", "folder", "other npz", "cut"])
def test_other_files_are_refused(tmp_path: Path, kind: str) -> None:
    """As no image descriptor, whatever they are."""
    file = tmp_path / "params.npz"
    if kind == "text":
        file.write_text("n_pixels: 16")
    elif kind == "empty":
        file.touch()
    elif kind == "npy":
        with file.open("wb") as stream:
            np.save(stream, np.arange(3))
    elif kind == "folder":
        file.mkdir()
    elif kind == "other npz":
        np.savez(file, a=np.arange(3))
    else:
        described().save(file)
        file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(UsageError, match="descriptor") as caught:
        ImageDescriptor.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("key", ["atom_radii", "n_pixels", "precision"])
def test_objects_in_a_file_are_never_unpickled(tmp_path: Path, key: str) -> None:
    """A file with a Python object is refused before anything in it runs."""
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (sprung,))

    arrays = described().to_arrays()
    arrays[key] = np.array([Trap()], dtype=object)
    file = tmp_path / "params.npz"
    np.savez(file, **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no image descriptor"):
        ImageDescriptor.load(file)
    assert not sprung.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("radius_max", 5.0),
        ("precision", "half"),
        ("n_pixels", [16, 18]),
        ("pixel_size", [0.0, 0.0]),
        ("n_inplanes", 0),
        ("dist_radii", -1.0),
    ],
)
def test_values_in_a_file_are_checked(tmp_path: Path, key: str, value: Any) -> None:
    """As if they had been given."""
    arrays = described().to_arrays() | {key: np.array(value)}
    np.savez(tmp_path / "params.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"params\.npz"):
        ImageDescriptor.load(tmp_path / "params.npz")


def test_print_says_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Box, pixel size, shells and precision."""
    described(precision="double").print()
    text = capsys.readouterr().out
    assert "16 × 16 of 1.5 Å (box 24 Å)" in text
    assert "17 shells to 3 Å, 32 angles" in text
    assert "double" in text
