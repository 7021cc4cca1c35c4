"""Maps that mrcfile or the tests write, good and damaged, and densities in memory."""

from __future__ import annotations

import bz2
import gzip
import math
import warnings
from collections.abc import Callable
from itertools import permutations
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import torch

from cryolike.errors import CryoLikeError, CryoLikeWarning, ImageError, StackError, UsageError
from cryolike.io import maps
from cryolike.io.maps import density_from_array, read_map
from cryolike.testing.mrc import header_bytes

VALUES = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5)
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
}


def written(
    path: Path, values: np.ndarray = VALUES, voxel_size_A: Any = 1.5, **header: Any
) -> Path:
    """Write a map with mrcfile, then change words of its header."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.new(path, values, overwrite=True) as file:
            if values.ndim == 3:
                file.set_volume()
            file.voxel_size = voxel_size_A
            for name, value in header.items():
                file.header[name] = value
    return path


@pytest.mark.parametrize("ending", COMPRESSORS)
@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float16, np.float32])
def test_map_is_what_mrcfile_wrote(tmp_path: Path, dtype: type, ending: str) -> None:
    """All modes, compressed or not, sides that differ: same values, z first, and voxel size."""
    plain = written(tmp_path / "plain.mrc", VALUES.astype(dtype))
    path = tmp_path / f"map.mrc{ending}"
    path.write_bytes(COMPRESSORS[ending](plain.read_bytes()))
    density = read_map(path, "map", None)
    assert density.values.dtype == np.float32
    np.testing.assert_array_equal(density.values, VALUES)
    assert density.voxel_size_A == pytest.approx(1.5)
    assert density.name == "map"


def test_big_endian_map_with_extended_header_is_read(tmp_path: Path) -> None:
    """Byte order and the size of the extended header come from the file."""
    header = header_bytes(
        ">",
        sizes=(5, 4, 3),
        mode=2,
        pixel_size_A=2.0,
        n_extension=80,
        axes=(1, 2, 3),
        space_group=1,
        identifier=b"MAP ",
        stamp=b"\x11\x11\0\0",
        imod_flags=None,
    )
    path = tmp_path / "big.map"
    path.write_bytes(header + b"x" * 80 + VALUES.astype(">f4").tobytes())
    np.testing.assert_array_equal(read_map(path, "big", None).values, VALUES)
    path.write_bytes(gzip.compress(path.read_bytes()))
    np.testing.assert_array_equal(read_map(path, "big", None).values, VALUES)


@pytest.mark.parametrize("axes", list(permutations((1, 2, 3))))
def test_axes_are_put_in_order(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    """Whichever axes columns, rows and sections are, values come as z, y, x."""
    # stored axes 0, 1, 2 are sections, rows, columns; z, y, x are axes 0, 1, 2 of VALUES
    stored = VALUES.transpose([3 - axis for axis in reversed(axes)])
    names = dict(zip(("mapc", "mapr", "maps"), axes, strict=True))
    cell = {"mx": 5, "my": 4, "mz": 3, "cella": (7.5, 6.0, 4.5)}
    path = written(tmp_path / "axes.map", np.ascontiguousarray(stored), **names, **cell)
    density = read_map(path, "axes", None)
    np.testing.assert_array_equal(density.values, VALUES)
    assert density.voxel_size_A == pytest.approx(1.5)


def test_missing_axes_are_the_usual_ones(tmp_path: Path) -> None:
    """Zeros, which old programs wrote, stand for x, y, z."""
    path = written(tmp_path / "axes.map", mapc=0, mapr=0, maps=0)
    np.testing.assert_array_equal(read_map(path, "axes", None).values, VALUES)


@pytest.mark.parametrize("header", [{"origin": (1.0, 0.0, 0.0)}, {"nxstart": -2}, {"nzstart": 5}])
def test_origin_words_are_ignored_with_a_warning(tmp_path: Path, header: dict[str, Any]) -> None:
    """The origin stays in the middle, and a warning says so."""
    path = written(tmp_path / "origin.mrc", **header)
    with pytest.warns(CryoLikeWarning, match=r"ignored; the origin is the voxel in the middle"):
        density = read_map(path, "origin", None)
    np.testing.assert_array_equal(density.values, VALUES)


def test_wrong_machine_stamp_is_a_warning(tmp_path: Path) -> None:
    """The byte order is told from the sizes."""
    path = written(tmp_path / "stamp.mrc", machst=[0x11, 0x11, 0, 0])
    with pytest.warns(CryoLikeWarning, match="machine stamp"):
        density = read_map(path, "stamp", None)
    np.testing.assert_array_equal(density.values, VALUES)


def test_longer_file_is_a_warning(tmp_path: Path) -> None:
    """What follows the map is not read."""
    path = written(tmp_path / "long.mrc")
    path.write_bytes(path.read_bytes() + b"more")
    with pytest.warns(CryoLikeWarning, match="longer"):
        density = read_map(path, "long", None)
    np.testing.assert_array_equal(density.values, VALUES)


def test_longer_compressed_data_are_an_error(tmp_path: Path) -> None:
    """They may go on for ever, and their checksum is unread."""
    path = written(tmp_path / "long.mrc")
    path.write_bytes(gzip.compress(path.read_bytes() + b"more"))
    with pytest.raises(StackError, match="expands beyond"):
        read_map(path, "long", None)


def test_voxel_size_can_be_given_where_the_header_has_none(tmp_path: Path) -> None:
    """Without it that is an error; with it, a warning."""
    path = written(tmp_path / "none.mrc", voxel_size_A=0.0)
    with pytest.raises(StackError, match="no voxel size"):
        read_map(path, "none", None)
    with pytest.warns(CryoLikeWarning, match=r"2.5 Å is taken"):
        assert read_map(path, "none", 2.5).voxel_size_A == 2.5


def test_voxel_size_of_the_header_precedes_the_given_one(tmp_path: Path) -> None:
    """A map is never taken to have another voxel size than its own."""
    assert read_map(written(tmp_path / "own.mrc"), "own", 2.5).voxel_size_A == 1.5


BAD_HEADERS: dict[str, tuple[dict[str, Any], str]] = {
    "voxels not cubic": ({"cella": (7.5, 6.0, 9.0)}, r"voxels of 1.5 × 1.5 × 3 Å"),
    "cell not orthogonal": ({"cellb": (90.0, 90.0, 120.0)}, "not orthogonal"),
    "axis twice": ({"mapc": 1, "mapr": 1}, "impossible axes"),
    "stack of images": ({"ispg": 0}, "marked as a stack of images"),
    "stack of volumes": ({"ispg": 401}, "several maps"),
    "huge": ({"nx": 20_000, "ny": 20_000, "nz": 20_000}, "header that says"),
    "cut off": ({"nz": 30}, "cut off"),
    "negative extended header": ({"nsymbt": -80}, "cut off"),
    "complex": ({"mode": 4}, "complex"),
}


@pytest.mark.parametrize(("header", "why"), BAD_HEADERS.values(), ids=BAD_HEADERS)
@pytest.mark.parametrize("ending", COMPRESSORS)
def test_header_that_cannot_be_used_is_an_error(
    tmp_path: Path, header: dict[str, Any], why: str, ending: str
) -> None:
    """One error, with the file's name and a remedy."""
    plain = written(tmp_path / "bad.mrc", **header)
    path = tmp_path / f"bad.mrc{ending}"
    path.write_bytes(COMPRESSORS[ending](plain.read_bytes()))
    with pytest.raises(StackError, match=why) as error:
        read_map(path, "bad", 1.0)
    assert str(path) in str(error.value)
    assert "→" in str(error.value)


@pytest.mark.parametrize("ending", [".gz", ".bz2"])
def test_damaged_compressed_map_is_an_error(tmp_path: Path, ending: str) -> None:
    """Cut off or changed within the data, never a map of zeros."""
    noise = np.random.default_rng(1).normal(size=(20, 20, 20)).astype(np.float32)
    content = COMPRESSORS[ending](written(tmp_path / "plain.mrc", noise).read_bytes())
    path = tmp_path / f"cut.mrc{ending}"
    middle = len(content) // 2
    for damaged in (
        content[:middle],
        content[:-6],
        content[:middle] + b"\0\0\0\0" + content[middle + 4 :],
    ):
        path.write_bytes(damaged)
        with pytest.raises(StackError, match=r"cut off|damaged|expands beyond"):
            read_map(path, "cut", None)


def test_header_s_promise_bounds_what_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small compressed file cannot make a large map; its values are not even looked at."""
    monkeypatch.setattr(maps, "_skip", None)
    plain = written(tmp_path / "bomb.mrc", nx=1000, ny=1000, nz=1000)
    path = tmp_path / "bomb.mrc.gz"
    path.write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(StackError, match="cut off or damaged"):
        read_map(path, "bomb", 1.0)


def test_two_dimensional_map_is_an_error(tmp_path: Path) -> None:
    """One image is no density."""
    path = written(tmp_path / "image.mrc", VALUES[0])
    with pytest.raises(StackError, match="one section"):
        read_map(path, "image", 1.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_an_error(tmp_path: Path, bad: float) -> None:
    """The error says how many."""
    values = VALUES.copy()
    values[0, 0, 1:3] = bad
    with pytest.raises(ImageError, match="2 voxels of 60 are NaN or infinite"):
        read_map(written(tmp_path / "bad.mrc", values), "bad", None)
    with pytest.raises(ImageError, match="2 voxels of 60"):
        density_from_array(values, "bad", 1.0)


def test_constant_map_is_an_error(tmp_path: Path) -> None:
    """There is no density in it."""
    values = np.full((3, 3, 3), 7, np.float32)
    with pytest.raises(ImageError, match="all voxels are 7"):
        read_map(written(tmp_path / "constant.mrc", values), "constant", None)


@pytest.mark.parametrize(
    "values",
    [
        VALUES,
        VALUES.astype(np.float64),
        VALUES.astype(np.int64),
        VALUES.astype(">i2"),
        np.asfortranarray(VALUES),
        torch.from_numpy(VALUES),
        torch.from_numpy(VALUES).double().requires_grad_(),
        torch.from_numpy(VALUES).permute(2, 1, 0).contiguous().permute(2, 1, 0),
    ],
    ids=lambda values: f"{type(values).__name__}-{values.dtype}",
)
def test_arrays_and_tensors_are_densities(values: np.ndarray | torch.Tensor) -> None:
    """Any real type, any layout: the same float32 values."""
    density = density_from_array(values, "tensor_0", 2.0)
    assert density.values.dtype == np.float32
    assert density.values.flags.c_contiguous
    np.testing.assert_array_equal(density.values, VALUES)


BAD_ARRAYS: dict[str, tuple[Any, Any, str]] = {
    "image": (VALUES[0], 1.0, "shape is 4 × 5"),
    "number": (np.array(3.0), 1.0, "a single number"),
    "one section": (VALUES[:1], 1.0, "shape is 1 × 4 × 5"),
    "stack of maps": (VALUES[None], 1.0, "shape is 1 × 3 × 4 × 5"),
    "complex": (VALUES.astype(np.complex64), 1.0, "complex64"),
    "complex tensor": (torch.from_numpy(VALUES).to(torch.complex64), 1.0, "complex64"),
    "objects": (VALUES.astype(object), 1.0, "object"),
    "no voxel size": (VALUES, None, "voxel size is None"),
    "negative voxel size": (VALUES, -1.0, "voxel size is -1.0"),
    "voxel size NaN": (VALUES, math.nan, "voxel size is nan"),
}


@pytest.mark.parametrize(("values", "size", "why"), BAD_ARRAYS.values(), ids=BAD_ARRAYS)
def test_array_that_is_no_density_is_an_error(values: Any, size: Any, why: str) -> None:
    """Shape, type and voxel size are checked."""
    with pytest.raises(UsageError, match=why):
        density_from_array(values, "tensor_0", size)


def test_all_that_is_wrong_with_an_array_is_told_at_once() -> None:
    """One error lists shape, type and voxel size."""
    with pytest.raises(UsageError, match="3 problems"):
        density_from_array(VALUES[0].astype(np.complex64), "tensor_0", None)


def test_too_large_values_become_infinite_and_are_an_error() -> None:
    """Beyond single precision there is no number."""
    with pytest.raises(ImageError, match="infinite"):
        density_from_array(VALUES.astype(np.float64) * 1e38, "tensor_0", 1.0)


def test_largest_map_is_far_beyond_use() -> None:
    """A thousand voxels along each axis are allowed."""
    assert maps._MAX_VOXELS >= 1000**3


def test_sample_maps_are_read(shared_data: Path) -> None:
    """Maps that other programs wrote, compressed and not; what is no map is refused."""
    density = read_map(shared_data / "relion-simulated" / "map.mrc", "map", None)
    assert density.values.shape == (64, 64, 64)
    assert density.voxel_size_A == pytest.approx(2.5)
    folder = shared_data / "real" / "odd-mrc"
    with pytest.warns(CryoLikeWarning, match=r"\(-2, 0, 0\), is ignored"):
        first = read_map(folder / "emd_3197.map.gz", "a", None)
    with pytest.warns(CryoLikeWarning, match=r"\(-2, 0, 0\), is ignored"):
        second = read_map(folder / "EMD-3197.map.bz2", "b", None)
    np.testing.assert_array_equal(first.values, second.values)
    assert first.voxel_size_A == pytest.approx(11.4)
    for name in ("TwoImages.mrc", "float16.mrc", "hand.5.mrcs", "header_only.mrc"):
        with pytest.raises(CryoLikeError):
            read_map(folder / name, name, None)
