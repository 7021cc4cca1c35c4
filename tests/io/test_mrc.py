"""The MRC stack reader against mrcfile, against patched headers and against broken files."""

from __future__ import annotations

import bz2
import gzip
import os
import resource
import shutil
import struct
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mrcfile
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cryolike.errors import MissingFileError, OutputError, StackError
from cryolike.io import mrc
from cryolike.io.mrc import StackReader
from cryolike.io.mrc_header import StackHeader, read_stack_header

N_IMAGES, BOX_PX = 7, 6
IMOD_STAMP = 1146047817

# Byte offsets of header fields by the MRC2014 page.
NX, NY, NZ, MODE, MX, MY, CELL_X, CELL_Y = 0, 4, 8, 12, 28, 32, 40, 44
MAPC, DMIN, ISPG, NSYMBT, IMOD, MAP, MACHST = 64, 76, 88, 92, 152, 208, 212


def make_images(dtype: str, n_images: int = N_IMAGES, box_px: int = BOX_PX) -> np.ndarray:
    """Values that use the whole range of the type, negative ones included."""
    kind = np.dtype(dtype)
    rng = np.random.default_rng(1)
    shape = (n_images, box_px, box_px)
    if kind.kind == "f":
        return rng.normal(0, 30, shape).astype(kind)
    limits = np.iinfo(kind)
    return rng.integers(limits.min, limits.max, shape, endpoint=True).astype(kind)


def write_stack(
    path: Path,
    images: np.ndarray | None = None,
    *,
    pixel_size_A: float = 1.5,
    extended_header: bytes = b"",
) -> Path:
    """Write a stack with mrcfile."""
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(make_images("f4") if images is None else images)
        if file.data.ndim == 3:
            file.set_image_stack()
        file.voxel_size = pixel_size_A
        if extended_header:
            file.set_extended_header(np.frombuffer(extended_header, "V1"))
    return path


def patch(path: Path, offset: int, *values: int | float | bytes, order: str = "<") -> Path:
    """Overwrite header fields."""
    content = bytearray(path.read_bytes())
    for value in values:
        kind = {int: "i", float: "f"}.get(type(value))
        raw = value if isinstance(value, bytes) else struct.pack(f"{order}{kind}", value)
        content[offset : offset + len(raw)] = raw
        offset += len(raw)
    path.write_bytes(content)
    return path


def header_text(n_images: int, box_px: int, mode: int = 2) -> bytes:
    """Return a bare header, made from the field offsets alone."""
    raw = bytearray(1024)
    struct.pack_into("<4i", raw, NX, box_px, box_px, n_images, mode)
    struct.pack_into("<3i", raw, MAPC, 1, 2, 3)
    raw[MAP : MAP + 8] = b"MAP DA\0\0"
    return bytes(raw)


def read_all(path: Path, **options: Any) -> np.ndarray:
    """All images of a stack, read with one call."""
    header = read_stack_header(path)
    out = np.full((header.n_images, header.box_px, header.box_px), np.nan, np.float32)
    with StackReader(**options) as reader:
        reader.read(header, np.arange(header.n_images), out)
    return out


def notice_texts(header: StackHeader, level: str | None = None) -> str:
    """Join the notices of one level, one a line."""
    return "\n".join(str(n) for n in header.notices if level in (None, n.level))


def n_open_files() -> int:
    """How many descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def preadv_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Record the number of bytes that each call of os.preadv brings."""
    sizes: list[int] = []
    preadv = os.preadv

    def recording(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        sizes.append(preadv(descriptor, buffers, offset))
        return sizes[-1]

    monkeypatch.setattr(os, "preadv", recording)
    return sizes


# --- headers that are read -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "mode"), [("i1", 0), ("i2", 1), ("f4", 2), ("u2", 6), ("f2", 12)]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_mode_in_either_byte_order(tmp_path: Path, dtype: str, mode: int, order: str) -> None:
    """Header and pixels are those that mrcfile wrote, in each mode and byte order."""
    images = make_images(dtype)
    path = write_stack(tmp_path / "a.mrcs", images.astype(order + dtype))
    stamp = b"\x44\x44" if order == "<" or dtype == "i1" else b"\x11\x11"
    assert path.read_bytes()[MACHST : MACHST + 2] == stamp
    header = read_stack_header(path)
    assert (header.n_images, header.box_px, header.mode) == (N_IMAGES, BOX_PX, mode)
    assert header.data_offset == 1024
    assert header.image_bytes == images[0].nbytes
    assert header.dtype == np.dtype(dtype if dtype == "i1" else order + dtype)
    assert header.file_size == path.stat().st_size
    assert header.mtime_ns == path.stat().st_mtime_ns
    assert header.pixel_size_A == pytest.approx(1.5)
    assert notice_texts(header, "warning") == ""
    np.testing.assert_array_equal(read_all(path), images.astype(np.float32))


def test_every_float16_value(tmp_path: Path) -> None:
    """All 65,536 half-precision values, subnormal, infinite and NaN ones too, come out right."""
    values = np.arange(65_536, dtype=np.uint16).view(np.float16).reshape(1, 256, 256)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = write_stack(tmp_path / "a.mrcs", values)
    np.testing.assert_array_equal(read_all(path), values.astype(np.float32))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("flags", "dtype", "text"),
    [(0, "u1", "unsigned"), (6, "u1", "unsigned"), (1, "i1", ""), (None, "i1", "as signed")],
)
def test_imod_flag_decides_the_sign_of_bytes(
    tmp_path: Path, order: str, flags: int | None, dtype: str, text: str
) -> None:
    """Mode 0 is unsigned only where IMOD's stamp is there and its flag says so."""
    values = make_images("u1")
    raw = bytearray(header_text(N_IMAGES, BOX_PX, mode=0))
    if order == ">":
        raw[:16] = struct.pack(">4i", BOX_PX, BOX_PX, N_IMAGES, 0)
        raw[MAPC : MAPC + 12] = struct.pack(">3i", 1, 2, 3)
        raw[MACHST : MACHST + 4] = b"\x11\x11\0\0"
    if flags is not None:
        raw[IMOD : IMOD + 8] = struct.pack(f"{order}2i", IMOD_STAMP, flags)
    path = tmp_path / "a.mrcs"
    path.write_bytes(bytes(raw) + values.tobytes())
    header = read_stack_header(path)
    assert header.dtype == np.dtype(dtype)
    assert text in notice_texts(header, "note")
    assert len(header.notices) == (1 if text else 0)
    np.testing.assert_array_equal(read_all(path), values.view(dtype).astype(np.float32))


@pytest.mark.parametrize("n_bytes", [4, 5, 1023, 4096])
def test_extended_header_is_skipped(tmp_path: Path, n_bytes: int) -> None:
    """Images begin after an extended header of any length, also an odd one."""
    extended = bytes(i % 251 for i in range(n_bytes))
    path = write_stack(tmp_path / "a.mrcs", extended_header=extended)
    assert read_stack_header(path).data_offset == 1024 + n_bytes
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stamp", [b"\0\0\0\0", b"\x44\0\0\0", b"junk"])
def test_unknown_machine_stamp(tmp_path: Path, order: str, stamp: bytes) -> None:
    """Without a known stamp the byte order follows from the sizes, and a note says so."""
    path = write_stack(tmp_path / "a.mrcs", make_images("i2").astype(order + "i2"))
    header = read_stack_header(patch(path, MACHST, stamp))
    assert "no known machine stamp" in notice_texts(header, "note")
    np.testing.assert_array_equal(read_all(path), make_images("i2").astype(np.float32))


@pytest.mark.parametrize(("order", "stamp"), [("<", b"\x11\x11\0\0"), (">", b"DA\0\0")])
def test_contradicting_machine_stamp(tmp_path: Path, order: str, stamp: bytes) -> None:
    """A stamp that contradicts the rest of the header is overruled, with a warning."""
    path = write_stack(tmp_path / "a.mrcs", make_images("f4").astype(order + "f4"))
    header = read_stack_header(patch(path, MACHST, stamp))
    assert "contradicts" in notice_texts(header, "warning")
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


@pytest.mark.parametrize("identifier", [b"STK ", b"\0\0\0\0", b"MAP\0", b"\xff\xfe\x01\x02"])
def test_other_map_identifier_is_noted(tmp_path: Path, identifier: bytes) -> None:
    """A missing or other identifier is accepted with a note, not a warning."""
    header = read_stack_header(patch(write_stack(tmp_path / "a.mrcs"), MAP, identifier))
    assert "no 'MAP '" in notice_texts(header, "note")
    assert notice_texts(header, "warning") == ""


def test_neither_identifier_nor_stamp(tmp_path: Path) -> None:
    """Old files with neither identifier nor machine stamp are read."""
    path = patch(write_stack(tmp_path / "a.mrcs"), MAP, bytes(8))
    assert len(read_stack_header(path).notices) == 2
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


def test_flagged_as_volume(tmp_path: Path) -> None:
    """A stack flagged as a volume is a stack all the same."""
    header = read_stack_header(patch(write_stack(tmp_path / "a.mrcs"), ISPG, 1))
    assert header.n_images == N_IMAGES
    assert header.notices == ()


def test_flagged_as_stack_of_volumes(tmp_path: Path) -> None:
    """Space groups of volume stacks are warned of."""
    header = read_stack_header(patch(write_stack(tmp_path / "a.mrcs"), ISPG, 401))
    assert "stack of 3-D maps" in notice_texts(header, "warning")


def test_cube_is_noted(tmp_path: Path) -> None:
    """As many images as pixels on a side: perhaps a map was named instead of a stack."""
    path = write_stack(tmp_path / "a.mrc", make_images("f4", n_images=BOX_PX))
    assert "looks like a 3-D map" in notice_texts(read_stack_header(path), "note")


def test_two_dimensional_image(tmp_path: Path) -> None:
    """A file with one 2-D image is a stack of one."""
    image = make_images("f4", n_images=1)[0]
    path = write_stack(tmp_path / "a.mrc", image)
    assert read_stack_header(path).n_images == 1
    np.testing.assert_array_equal(read_all(path), image[np.newaxis])


@pytest.mark.parametrize(
    ("cell_A", "n_intervals", "expected_A"),
    [
        (9.0, 6, 1.5),
        (6.0, 6, 1.0),
        (9.0, 3, 3.0),
        (0.0, 6, np.nan),
        (-9.0, 6, np.nan),
        (np.nan, 6, np.nan),
        (np.inf, 6, np.nan),
        (9.0, 0, np.nan),
        (9.0, -6, np.nan),
    ],
)
def test_pixel_size(tmp_path: Path, cell_A: float, n_intervals: int, expected_A: float) -> None:
    """It is cell over intervals, not over columns; NaN where that makes no sense."""
    path = patch(write_stack(tmp_path / "a.mrcs"), MX, n_intervals, n_intervals)
    header = read_stack_header(patch(path, CELL_X, float(cell_A), float(cell_A)))
    np.testing.assert_equal(header.pixel_size_A, expected_A)
    assert header.notices == ()


@pytest.mark.parametrize(("ratio", "n_notices"), [(1.0009, 0), (1.0011, 1), (0.9989, 1), (2.0, 1)])
def test_pixel_sizes_along_x_and_y(tmp_path: Path, ratio: float, n_notices: int) -> None:
    """More than 0.1 % of difference is warned of, and that along x is taken."""
    path = patch(write_stack(tmp_path / "a.mrcs"), CELL_X, 9.0, 9.0 * ratio)
    header = read_stack_header(path)
    assert header.pixel_size_A == 1.5
    assert notice_texts(header, "warning").count("pixel sizes in the header differ") == n_notices
    assert len(header.notices) == n_notices


def test_junk_statistics_are_ignored(tmp_path: Path) -> None:
    """Minimum, maximum, mean and RMS in the header are never used."""
    path = patch(write_stack(tmp_path / "a.mrcs"), DMIN, np.nan, -np.inf, 1e30)
    assert read_stack_header(patch(path, 216, np.nan)).notices == ()
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


def test_axis_order_of_zeros_is_warned_of(tmp_path: Path) -> None:
    """Missing axis order is taken as the usual one, with a warning."""
    header = read_stack_header(patch(write_stack(tmp_path / "a.mrcs"), MAPC, 0, 0, 0))
    assert "axis order" in notice_texts(header, "warning")


def test_longer_file_is_warned_of(tmp_path: Path) -> None:
    """Bytes after the last image are counted in a warning and not read."""
    path = write_stack(tmp_path / "a.mrcs")
    path.write_bytes(path.read_bytes() + bytes(4321))
    assert "4,321 bytes" in notice_texts(read_stack_header(path), "warning")
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


def test_notices_can_be_grouped(tmp_path: Path) -> None:
    """Notices of one kind begin alike whatever the file; none names it."""
    texts = []
    for name, n_more in (("first", 5), ("second", 6)):
        path = write_stack(tmp_path / f"{name}.mrcs", make_images("i1", box_px=n_more))
        patch(path, CELL_X, 9.0, 9.0 * n_more)
        patch(path, MAP, name[:4].encode(), name[:4].encode())
        path.write_bytes(path.read_bytes() + bytes(n_more))
        texts.append([str(notice) for notice in read_stack_header(path).notices])
    assert len(texts[0]) == 5
    assert texts[0] != texts[1]
    heads = [[text.split(":")[0] for text in one] for one in texts]
    assert heads[0] == heads[1]
    assert not any(str(tmp_path) in text for one in texts for text in one)


@pytest.mark.parametrize(("compress", "name"), [(gzip.compress, "gzip"), (bz2.compress, "bz2")])
@pytest.mark.parametrize("dtype", ["f4", "i2"])
@pytest.mark.parametrize("suffix", [".mrcs", ".mrcs.gz"])
def test_compressed_stacks(
    tmp_path: Path, compress: Callable[[bytes], bytes], name: str, dtype: str, suffix: str
) -> None:
    """Compression is told by content, whatever the name; nothing stays on disk."""
    path, scratch = tmp_path / f"a{suffix}", tmp_path / "scratch"
    scratch.mkdir()
    plain = write_stack(tmp_path / "plain.mrcs", make_images(dtype), extended_header=b"abc")
    path.write_bytes(compress(plain.read_bytes()))
    header = read_stack_header(path)
    assert header.compression == name
    assert header.file_size == path.stat().st_size
    assert name in notice_texts(header, "note")
    out = np.zeros((2, BOX_PX, BOX_PX), np.float32)
    with StackReader(scratch_folder=str(scratch)) as reader:
        reader.read(header, np.array([6, 2]), out)
        assert list(scratch.iterdir()) == []
    np.testing.assert_array_equal(out, make_images(dtype)[[6, 2]].astype(np.float32))


def test_gzip_of_several_members(tmp_path: Path) -> None:
    """A gzip file of several members, as parallel compressors write it, is one stack."""
    content = write_stack(tmp_path / "plain.mrcs").read_bytes()
    path = tmp_path / "a.mrcs.gz"
    path.write_bytes(b"".join(gzip.compress(part) for part in (content[:500], content[500:])))
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


# --- headers that are refused ----------------------------------------------------------------


def error_of(path: Path) -> str:
    """Text of the one error that reading the header raises; it names the file."""
    with pytest.raises(StackError) as caught:
        read_stack_header(path)
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].file == str(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("mode", "words"),
    [
        (3, "complex values (mode 3)"),
        (4, "complex values (mode 4)"),
        (101, "4-bit values (mode 101)"),
        (7, "mode 7,"),
        (16, "mode 16,"),
        (-1, "mode -1,"),
    ],
)
def test_modes_that_are_refused(tmp_path: Path, mode: int, words: str) -> None:
    """Complex, packed and unknown modes are named."""
    assert words in error_of(patch(write_stack(tmp_path / "a.mrcs"), MODE, mode))


def test_packed_bytes_of_imod(tmp_path: Path) -> None:
    """Bytes that hold two 4-bit values by IMOD's flag are not taken for pixels."""
    path = write_stack(tmp_path / "a.mrcs", make_images("i1"))
    assert "packed 4-bit" in error_of(patch(path, IMOD, IMOD_STAMP, 16))


def test_images_that_are_not_square(tmp_path: Path) -> None:
    """Both sizes are named."""
    assert "6×8" in error_of(write_stack(tmp_path / "a.mrcs", np.zeros((2, 8, 6), np.float32)))


@pytest.mark.parametrize("axes", [(2, 1, 3), (3, 2, 1), (1, 2, 7)])
def test_other_axis_orders(tmp_path: Path, axes: tuple[int, int, int]) -> None:
    """Transposed stacks are refused with the order they have."""
    assert str(axes) in error_of(patch(write_stack(tmp_path / "a.mrcs"), MAPC, *axes))


@pytest.mark.parametrize(
    "sizes",
    [
        (0, 6, 7),
        (6, -6, 7),
        (6, 6, 0),
        (6, 6, -7),
        (2**31 - 1, 2**31 - 1, 2**31 - 1),
        (65_536, 65_536, 7),
    ],
)
def test_impossible_sizes(tmp_path: Path, sizes: tuple[int, int, int]) -> None:
    """Zero, negative and absurd sizes are an error, not an overflow or an allocation."""
    message = error_of(patch(write_stack(tmp_path / "a.mrcs"), NX, *sizes))
    assert "impossible sizes" in message
    assert f"{sizes[2]:,}" in message


def test_huge_number_of_images(tmp_path: Path) -> None:
    """Sizes beyond 64 bits are compared with the file's without overflow."""
    path = patch(write_stack(tmp_path / "a.mrcs"), NX, 65_535, 65_535, 2**31 - 1)
    promised = 1024 + 65_535**2 * (2**31 - 1) * 4
    assert promised > 2**64
    assert f"{promised:,}" in error_of(path)


@pytest.mark.parametrize(
    ("n_complete", "words"),
    [
        (0, "none of the 7 images is complete"),
        (1, "only image 1 of 7 is complete"),
        (5, "images 1 to 5 of 7 are complete"),
    ],
)
@pytest.mark.parametrize("n_more", [0, 10])
def test_truncated_file(tmp_path: Path, n_complete: int, words: str, n_more: int) -> None:
    """Both sizes and the number of complete images are told."""
    path = write_stack(tmp_path / "a.mrcs", extended_header=b"12345")
    size = 1024 + 5 + n_complete * BOX_PX**2 * 4 + n_more
    os.truncate(path, size)
    message = error_of(path)
    assert words in message
    assert f"{size:,} bytes" in message
    assert "2,037" in message


def test_truncated_within_extended_header(tmp_path: Path) -> None:
    """A file that ends before its first image has no complete ones."""
    path = write_stack(tmp_path / "a.mrcs", extended_header=bytes(4096))
    os.truncate(path, 2000)
    assert "none of the 7" in error_of(path)


def test_extended_header_that_is_not_there(tmp_path: Path) -> None:
    """Where the size fits only without an extended header, the error says so."""
    message = error_of(patch(write_stack(tmp_path / "a.mrcs"), NSYMBT, 1024))
    assert "1,024" in message
    assert "only if there is none" in message
    assert "nsymbt" in message


def test_negative_extended_header(tmp_path: Path) -> None:
    """A negative size is never used as an offset."""
    assert "-80 bytes" in error_of(patch(write_stack(tmp_path / "a.mrcs"), NSYMBT, -80))


LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x01\x00\x00", "3 bytes"),
        (bytes(1023), "1,023 bytes"),
        (bytes(5000), "1,024 zero bytes"),
        (header_text(1, 6)[:1000], "1,000 bytes"),
        (LFS_POINTER, "Git LFS pointer"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "web page"),
        (b"\n <html>" + b" " * 3000, "web page"),
        (b"\ndata_particles\n" * 100, "1,600 bytes of text"),
        ("données\n".encode() * 2, "18 bytes of text"),
        (b"\x89HDF\r\n\x1a\n" + bytes(2000), "HDF5"),
        (b"II*\0" + bytes(2000), "TIFF"),
        (b"MM\0*" + bytes(2000), "TIFF"),
        (b"II+\0" + bytes(2000), "EER"),
        (b"\xfd7zXZ\0" + bytes(2000), "xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(2000), "zstd"),
        (b"PK\x03\x04" + bytes(2000), "ZIP"),
        (b"\x93NUMPY" + bytes(2000), "NumPy"),
        (np.random.default_rng(0).bytes(3000), "not an MRC file"),
        (gzip.compress(b"", mtime=0), "no content inside its gzip data"),
        (gzip.compress(bytes(10), mtime=0), "10 bytes when decompressed"),
        (gzip.compress(LFS_POINTER, mtime=0), "Git LFS pointer"),
        (gzip.compress(gzip.compress(header_text(1, 6), mtime=0), mtime=0), "compressed twice"),
        (gzip.compress(header_text(1, 6), mtime=0)[:40], "gzip data are damaged or cut off"),
        (b"\x1f\x8b" + bytes(100), "gzip data are damaged or cut off"),
        (bz2.compress(header_text(1, 6))[:40], "bz2 data are damaged or cut off"),
        (b"BZh9" + bytes(100), "bz2 data are damaged or cut off"),
    ],
)
def test_what_is_no_mrc_file(tmp_path: Path, content: bytes, words: str) -> None:
    """The error says what was found instead of a stack."""
    path = tmp_path / "a.mrcs"
    path.write_bytes(content)
    assert words in error_of(path)


def test_missing_file(tmp_path: Path) -> None:
    """A missing file is one for Python as well."""
    with pytest.raises(FileNotFoundError, match="does not exist") as caught:
        read_stack_header(tmp_path / "no" / "a.mrcs")
    assert isinstance(caught.value, MissingFileError)
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(MissingFileError, match="does not exist"):
        read_stack_header(tmp_path / "file" / "a.mrcs")


def test_dangling_link(tmp_path: Path) -> None:
    """The target that a link names in vain is told."""
    path = tmp_path / "a.mrcs"
    path.symlink_to("/gone/elsewhere.mrcs")
    with pytest.raises(MissingFileError, match=r"symbolic link to /gone/elsewhere\.mrcs"):
        read_stack_header(path)


def test_link_is_followed(tmp_path: Path) -> None:
    """A link to a stack reads as the stack, with the target's size."""
    path = tmp_path / "a.mrcs"
    path.symlink_to(write_stack(tmp_path / "b.mrcs"))
    assert read_stack_header(path).file_size == (tmp_path / "b.mrcs").stat().st_size
    np.testing.assert_array_equal(read_all(path), make_images("f4"))


def test_folder_and_pipe(tmp_path: Path) -> None:
    """Folders and pipes are refused without waiting for them."""
    assert "is a folder" in error_of(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "not a regular file" in error_of(tmp_path / "pipe")


def test_names_that_cannot_be_opened(tmp_path: Path) -> None:
    """A name that the system refuses gives its reason."""
    assert "cannot be opened: " in error_of(tmp_path / ("a" * 5000))
    assert "cannot be opened: " in error_of(tmp_path / "a\0b")


def test_no_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that may not be read is told from one that is missing."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    path = write_stack(tmp_path / "a.mrcs")
    monkeypatch.setattr(Path, "open", refuse)
    assert "permission" in error_of(path)


def test_failing_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Errors of the file system become errors that name the file."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    path = write_stack(tmp_path / "a.mrcs")
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(StackError, match=r"a\.mrcs: cannot be read: Input/output error"):
        read_all(path)
    monkeypatch.setattr(os, "pread", fail)
    assert "cannot be read: Input/output error" in error_of(path)


# --- reading ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def stacks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One stack of each mode, a swapped and a compressed one."""
    folder = tmp_path_factory.mktemp("stacks")
    paths = {
        dtype: write_stack(folder / f"{number}.mrcs", make_images(dtype))
        for number, dtype in enumerate(["i1", "i2", "f4", "u2", "f2", ">f4", ">f2", ">i2"])
    }
    paths["gzip"] = folder / "gzip.mrcs"
    paths["gzip"].write_bytes(gzip.compress(paths["f4"].read_bytes()))
    return paths


@given(
    name=st.sampled_from(["i1", "i2", "f4", "u2", "f2", ">f4", ">f2", ">i2", "gzip"]),
    indices=st.lists(st.integers(0, N_IMAGES - 1), max_size=20),
    order=st.randoms(use_true_random=False),
    n_spare=st.integers(0, 3),
)
def test_any_images_in_any_order(
    stacks: dict[str, Path], name: str, indices: list[int], order: Any, n_spare: int
) -> None:
    """Every choice of images, repeated and unordered, lands where it was asked, nowhere else."""
    places = order.sample(range(len(indices) + n_spare), len(indices))
    with mrcfile.open(stacks[name]) as file:
        data = np.array(file.data, np.float32)
    out = np.full((len(indices) + n_spare, BOX_PX, BOX_PX), -7e7, np.float32)
    expected = out.copy()
    expected[places] = data[indices]
    with StackReader() as reader:
        header = read_stack_header(stacks[name])
        reader.read(header, np.array(indices, np.int64), out, np.array(places, np.int64))
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("dtype", [np.uint32, np.uint64, np.int16, np.intp])
def test_types_of_indices(stacks: dict[str, Path], dtype: type) -> None:
    """Any integer type will do for the indices, as .cs files have uint32."""
    out = np.zeros((2, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        reader.read(read_stack_header(stacks["f4"]), np.array([5, 1], dtype), out)
    np.testing.assert_array_equal(out, make_images("f4")[[5, 1]])


def test_nothing_asked_nothing_read(tmp_path: Path) -> None:
    """No image asked for: the file is not even opened."""
    path = write_stack(tmp_path / "a.mrcs")
    header = read_stack_header(path)
    path.unlink()
    with StackReader() as reader:
        reader.read(header, np.array([]), np.zeros((0, BOX_PX, BOX_PX), np.float32))


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_only_what_is_asked_is_read(tmp_path: Path, preadv_sizes: list[int], dtype: str) -> None:
    """Neighbours come in one call, repeats once, and no byte too many."""
    path = write_stack(tmp_path / "a.mrcs", make_images(dtype, n_images=100))
    header = read_stack_header(path)
    out = np.zeros((6, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        reader.read(header, np.array([41, 80, 40, 42, 80, 40]), out)
    assert preadv_sizes == [3 * header.image_bytes, header.image_bytes]
    np.testing.assert_array_equal(
        out, make_images(dtype, n_images=100)[[41, 80, 40, 42, 80, 40]].astype(np.float32)
    )


def test_large_images_in_parts(
    tmp_path: Path, preadv_sizes: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conversion goes through a small buffer, by one image at least."""
    images = make_images("i2", n_images=9, box_px=32)
    path = write_stack(tmp_path / "a.mrcs", images)
    for limit, n_at_once in ((5000, 2), (100, 1)):
        monkeypatch.setattr(mrc, "_BOUNCE_BYTES", limit)
        preadv_sizes.clear()
        np.testing.assert_array_equal(read_all(path), images.astype(np.float32))
        assert max(preadv_sizes) == n_at_once * 32 * 32 * 2


def test_more_scattered_images_than_one_call_takes(tmp_path: Path) -> None:
    """The operating system takes 1,024 buffers a call; more images than that are read."""
    images = np.arange(3000 * 4, dtype=np.float32).reshape(3000, 2, 2)
    header = read_stack_header(write_stack(tmp_path / "a.mrcs", images))
    places = np.random.default_rng(0).permutation(3000)
    out = np.zeros((3000, 2, 2), np.float32)
    with StackReader() as reader:
        reader.read(header, np.arange(3000), out, places)
    np.testing.assert_array_equal(out[places], images)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_short_reads_are_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    """Where the operating system brings less than asked for, the rest is asked for again."""
    preadv = os.preadv

    def short(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        n_bytes = sum(buffer.nbytes for buffer in buffers)
        piece = bytearray(min(100, n_bytes))
        n_read = preadv(descriptor, [piece], offset)
        left = memoryview(piece)[:n_read]
        for buffer in buffers:
            n_here = min(buffer.nbytes, left.nbytes)
            buffer[:n_here] = left[:n_here]
            left = left[n_here:]
        return n_read

    path = write_stack(tmp_path / "a.mrcs", make_images(dtype))
    header = read_stack_header(path)
    out = np.zeros((N_IMAGES, BOX_PX, BOX_PX), np.float32)
    places = np.array([3, 4, 5, 0, 1, 6, 2])
    monkeypatch.setattr(os, "preadv", short)
    with StackReader() as reader:
        reader.read(header, np.arange(N_IMAGES), out, places)
    np.testing.assert_array_equal(out[places], make_images(dtype).astype(np.float32))


def test_stack_of_more_than_four_gigabytes(tmp_path: Path, preadv_sizes: list[int]) -> None:
    """The last image of a (sparse) 20 GB stack is read, and only it."""
    n_images, box_px = 76_294, 256
    path = tmp_path / "large.mrcs"
    image = np.arange(box_px**2, dtype=np.float32)
    with path.open("wb") as file:
        file.write(header_text(n_images, box_px))
        file.seek(1024 + (n_images - 1) * image.nbytes)
        file.write(image.tobytes())
    assert path.stat().st_size > 2e10
    if path.stat().st_blocks * 512 > 1e8:
        pytest.skip("no sparse files here")
    header = read_stack_header(path)
    out = np.zeros((2, box_px, box_px), np.float32)
    with StackReader() as reader:
        reader.read(header, np.array([n_images - 1, 40_000]), out)
    np.testing.assert_array_equal(out[0].ravel(), image)
    assert not out[1].any()
    assert sum(preadv_sizes) == 2 * image.nbytes


def test_image_that_is_not_there(stacks: dict[str, Path]) -> None:
    """Indices beyond the stack name the image and the number of images."""
    header = read_stack_header(stacks["f4"])
    out = np.zeros((2, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        with pytest.raises(StackError, match=r"has 7 images; there is no image 8 "):
            reader.read(header, np.array([0, 7]), out)
        with pytest.raises(StackError, match="there is no image 0 "):
            reader.read(header, np.array([0, -1]), out)
    assert not out.any()


@pytest.mark.parametrize(
    ("shape", "dtype", "indices", "places"),
    [
        ((2, 6, 5), "f4", [0, 1], None),
        ((2, 36), "f4", [0, 1], None),
        ((2, 6, 6), "f8", [0, 1], None),
        ((2, 6, 6), ">f4", [0, 1], None),
        ((1, 6, 6), "f4", [0, 1], None),
        ((2, 6, 6), "f4", [[0, 1]], None),
        ((2, 6, 6), "f4", [0.0, 1.0], None),
        ((2, 6, 6), "f4", [0, 1], [0]),
        ((2, 6, 6), "f4", [0, 1], [1, 1]),
        ((2, 6, 6), "f4", [0, 1], [1, 2]),
        ((2, 6, 6), "f4", [0, 1], [-1, 0]),
    ],
)
def test_arguments_that_do_not_fit(
    stacks: dict[str, Path],
    shape: tuple[int, ...],
    dtype: str,
    indices: list[Any],
    places: list[int] | None,
) -> None:
    """Wrong shapes, types and places are refused before anything is read."""
    out = np.zeros(shape, dtype)
    with StackReader() as reader, pytest.raises(ValueError, match="must be") as caught:
        reader.read(
            read_stack_header(stacks["f4"]),
            np.array(indices),
            out,
            None if places is None else np.array(places),
        )
    assert not isinstance(caught.value, StackError)
    assert not out.any()


def test_memory_that_cannot_be_filled(stacks: dict[str, Path]) -> None:
    """Arrays that are strided or read-only are refused, not filled by way of a copy."""
    header = read_stack_header(stacks["f4"])
    read_only = np.zeros((2, BOX_PX, BOX_PX), np.float32)
    read_only.setflags(write=False)
    with StackReader() as reader:
        for out in (read_only, np.zeros((4, BOX_PX, BOX_PX), np.float32)[::2]):
            with pytest.raises(ValueError, match="writeable C-contiguous"):
                reader.read(header, np.array([0, 1]), out)


# --- files that change -----------------------------------------------------------------------


def change_size(path: Path) -> None:
    """Append to a file."""
    path.write_bytes(path.read_bytes() + b"more")


def change_time(path: Path) -> None:
    """Write a file again, some time later."""
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1_000_000_000))


@pytest.mark.parametrize("change", [change_size, change_time])
@pytest.mark.parametrize("is_open", [False, True])
def test_file_that_changed(tmp_path: Path, change: Callable[[Path], None], is_open: bool) -> None:
    """Another size or time than the header's is an error, also where the file is open already."""
    path = write_stack(tmp_path / "a.mrcs")
    header = read_stack_header(path)
    out = np.zeros((1, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        if is_open:
            reader.read(header, np.array([0]), out)
        change(path)
        with pytest.raises(StackError, match="changed while it was being read"):
            reader.read(header, np.array([0]), out)


@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_file_that_changed_before_it_is_read(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    """A file that changed after its header was read is not read at all."""
    path = write_stack(tmp_path / "a.mrcs")
    path.write_bytes(compress(path.read_bytes()))
    header = read_stack_header(path)
    os.truncate(path, header.file_size - 1)
    out = np.zeros((1, BOX_PX, BOX_PX), np.float32)
    sizes = f"{header.file_size:,} bytes before, {header.file_size - 1:,} now"
    with StackReader() as reader, pytest.raises(StackError, match=sizes):
        reader.read(header, np.array([0]), out)
    assert not out.any()


def test_new_header_of_a_changed_file(tmp_path: Path) -> None:
    """With the header read again, the same reader reads the new file."""
    path = write_stack(tmp_path / "a.mrcs")
    out = np.zeros((1, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        reader.read(read_stack_header(path), np.array([0]), out)
        write_stack(tmp_path / "b.mrcs", make_images("f4") + 1)
        change_time(tmp_path / "b.mrcs")
        (tmp_path / "b.mrcs").replace(path)
        reader.read(read_stack_header(path), np.array([0]), out)
    np.testing.assert_array_equal(out[0], make_images("f4")[0] + 1)


@pytest.mark.parametrize("dtype", ["f4", "i2"])
def test_file_that_shrinks_while_open(tmp_path: Path, dtype: str) -> None:
    """The image at which the file ends is named."""
    path = write_stack(tmp_path / "a.mrcs", make_images(dtype))
    header = read_stack_header(path)
    out = np.zeros((N_IMAGES, BOX_PX, BOX_PX), np.float32)
    with StackReader() as reader:
        reader.read(header, np.arange(N_IMAGES), out)
        os.truncate(path, 1024 + 4 * header.image_bytes + 10)
        with pytest.raises(StackError, match=r"ends within image 5 of 7 \(counted from 1\)"):
            reader.read(header, np.arange(2, N_IMAGES), out[2:])


def test_file_that_vanishes(tmp_path: Path) -> None:
    """A stack that is gone after its header was read is a missing file."""
    path = write_stack(tmp_path / "a.mrcs")
    header = read_stack_header(path)
    path.unlink()
    with StackReader() as reader, pytest.raises(MissingFileError):
        reader.read(header, np.array([0]), np.zeros((1, BOX_PX, BOX_PX), np.float32))


# --- compressed files that are not what they say ---------------------------------------------


def broken_gzip(content: bytes) -> bytes:
    """Compress, with a wrong checksum."""
    whole = bytearray(gzip.compress(content))
    whole[-6] ^= 1
    return bytes(whole)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda c: gzip.compress(c[:-10]), "images 1 to 6 of 7 are complete"),
        (lambda c: bz2.compress(c[:-10]), "images 1 to 6 of 7 are complete"),
        (lambda c: gzip.compress(c + b"x"), "expands beyond the 2,032 bytes"),
        (lambda c: bz2.compress(c + b"x"), "expands beyond the 2,032 bytes"),
        (lambda c: gzip.compress(c + bytes(10**7)), "expands beyond the 2,032 bytes"),
        (broken_gzip, "gzip data are damaged or cut off"),
        (lambda c: gzip.compress(c)[:-4], "gzip data are damaged or cut off"),
        (lambda c: gzip.compress(c)[:-300], "gzip data are damaged or cut off"),
        (lambda c: bz2.compress(c)[:-20], "bz2 data are damaged or cut off"),
    ],
)
def test_compressed_stack_that_is_not_as_its_header_says(
    tmp_path: Path, make: Callable[[bytes], bytes], words: str
) -> None:
    """Fewer, more or damaged bytes are an error, and no descriptor is left open."""
    content = write_stack(tmp_path / "plain.mrcs").read_bytes()
    path = tmp_path / "a.mrcs"
    path.write_bytes(make(content))
    n_before = n_open_files()
    with pytest.raises(StackError, match=words):
        read_all(path)
    assert n_open_files() == n_before


def test_expansion_stops_at_what_the_header_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a stack that expands to far more, no more than the promised bytes are written."""
    content = write_stack(tmp_path / "plain.mrcs").read_bytes()
    path = tmp_path / "a.mrcs"
    path.write_bytes(gzip.compress(content + bytes(10**7)))
    descriptors: list[int] = []
    temporary_file = tempfile.TemporaryFile

    def watched(**options: Any) -> Any:
        file = temporary_file(**options)
        descriptors.append(os.dup(file.fileno()))
        return file

    monkeypatch.setattr(tempfile, "TemporaryFile", watched)
    with pytest.raises(StackError, match="expands beyond"):
        read_all(path)
    [descriptor] = descriptors
    assert os.fstat(descriptor).st_size == len(content)
    os.close(descriptor)


def test_no_room_to_decompress(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full or missing scratch folder is an error of output that names the folder."""
    path = tmp_path / "a.mrcs"
    path.write_bytes(gzip.compress(write_stack(tmp_path / "plain.mrcs").read_bytes()))
    with pytest.raises(OutputError, match="No such file") as caught:
        read_all(path, scratch_folder=str(tmp_path / "gone"))
    assert str(tmp_path / "gone") in str(caught.value)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=9))
    with pytest.raises(OutputError, match="2,032 bytes needed, 9 free"):
        read_all(path, scratch_folder=str(tmp_path))


# --- open files and threads ------------------------------------------------------------------


def test_few_files_are_open(tmp_path: Path) -> None:
    """No more than the allowed number of files stays open, and none after closing."""
    headers = []
    for number in range(8):
        images = np.full((2, BOX_PX, BOX_PX), number, np.float32)
        headers.append(read_stack_header(write_stack(tmp_path / f"{number}.mrcs", images)))
    out = np.zeros((8, BOX_PX, BOX_PX), np.float32)
    n_before = n_open_files()
    with StackReader(max_open_files=3) as reader:
        for _ in range(2):
            for number, header in enumerate(headers):
                reader.read(header, np.array([1]), out, np.array([number]))
                assert n_open_files() <= n_before + 3
    assert n_open_files() == n_before
    np.testing.assert_array_equal(out[:, 0, 0], np.arange(8))


def test_longest_unused_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is used again and again is opened once, whatever comes between."""
    paths = [write_stack(tmp_path / f"{number}.mrcs") for number in range(4)]
    headers = [read_stack_header(path) for path in paths]
    opened, open_path = [], Path.open

    def counted(path: Path, *arguments: Any, **options: Any) -> Any:
        opened.append(path.name)
        return open_path(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", counted)
    out = np.zeros((1, BOX_PX, BOX_PX), np.float32)
    with StackReader(max_open_files=2) as reader:
        for number in (0, 1, 0, 2, 0, 3, 0):
            reader.read(headers[number], np.array([1]), out)
    assert opened == ["0.mrcs", "1.mrcs", "2.mrcs", "3.mrcs"]


def test_compressed_stack_is_decompressed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain files come and go, while the decompressed one is kept."""
    plain = [write_stack(tmp_path / f"{number}.mrcs") for number in range(4)]
    path = tmp_path / "a.mrcs.gz"
    path.write_bytes(gzip.compress(plain[0].read_bytes()))
    folders = []
    temporary_file = tempfile.TemporaryFile

    def counted(**options: Any) -> Any:
        folders.append(options["dir"])
        return temporary_file(**options)

    monkeypatch.setattr(tempfile, "TemporaryFile", counted)
    out = np.zeros((1, BOX_PX, BOX_PX), np.float32)
    with StackReader(max_open_files=2, scratch_folder=str(tmp_path)) as reader:
        for other in plain:
            reader.read(read_stack_header(path), np.array([1]), out)
            reader.read(read_stack_header(other), np.array([1]), out)
    assert folders == [str(tmp_path)]


def test_file_in_use_is_not_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing the reader while a thread reads lets that thread finish, then closes the file."""
    preadv = os.preadv
    reader = StackReader()

    def closing(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        reader.close()
        return preadv(descriptor, buffers, offset)

    header = read_stack_header(write_stack(tmp_path / "a.mrcs"))
    out = np.zeros((2, BOX_PX, BOX_PX), np.float32)
    n_before = n_open_files()
    monkeypatch.setattr(os, "preadv", closing)
    reader.read(header, np.array([3, 5]), out)
    np.testing.assert_array_equal(out, make_images("f4")[[3, 5]])
    assert n_open_files() == n_before
    with pytest.raises(ValueError, match="closed"):
        reader.read(header, np.array([3, 5]), out)


def test_no_open_files_allowed() -> None:
    """A reader that may not open anything is refused."""
    with pytest.raises(ValueError, match="max_open_files is 0"):
        StackReader(max_open_files=0)


def test_several_threads(tmp_path: Path) -> None:
    """Threads that share a reader with few open files all get their images."""
    headers, contents = [], []
    for number, dtype in enumerate(["f4", "i2", "f2", ">f4", "f4"]):
        images = make_images(dtype, n_images=40, box_px=20) + np.dtype(dtype).type(number)
        path = write_stack(tmp_path / f"{number}.mrcs", images)
        if number == 4:
            path.write_bytes(gzip.compress(path.read_bytes()))
        headers.append(read_stack_header(path))
        contents.append(images.astype(np.float32))

    def work(seed: int) -> int:
        rng, n_wrong = np.random.default_rng(seed), 0
        for _ in range(30):
            which, chosen = int(rng.integers(5)), rng.integers(0, 40, 25)
            out = np.zeros((25, 20, 20), np.float32)
            reader.read(headers[which], chosen, out)
            n_wrong += int((out != contents[which][chosen]).sum())
        return n_wrong

    n_before = n_open_files()
    with StackReader(max_open_files=2) as reader, ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(12))) == [0] * 12
    assert n_open_files() == n_before


# --- files that other programs wrote ---------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "n_images", "box_px", "pixel_size_A"),
    [
        ("real/aspire/sample.mrcs", 17, 200, np.nan),
        ("real/aspire/sample_one_image.mrcs", 1, 200, np.nan),
        ("real/cryodrgn/toy_datadir/toy_images_a.mrcs", 100, 30, 1.0),
        ("real/odd-mrc/hand.5.mrcs", 5, 64, 1.0),
        ("real/odd-mrc/TwoImages.mrc", 2, 220, 0.000244140625),
        ("real/odd-mrc/float16.mrc", 1, 64, 3.5953),
        ("real/odd-mrc/emd_3197.map.gz", 20, 20, 11.4),
        ("real/odd-mrc/EMD-3197.map.bz2", 20, 20, 11.4),
        ("relion-simulated/Particles/mic000.mrcs", 87, 64, 2.5),
    ],
)
def test_files_of_other_programs(
    shared_data: Path, name: str, n_images: int, box_px: int, pixel_size_A: float
) -> None:
    """What real programs wrote reads as mrcfile reads it."""
    header = read_stack_header(shared_data / name)
    assert (header.n_images, header.box_px) == (n_images, box_px)
    np.testing.assert_allclose(header.pixel_size_A, pixel_size_A, rtol=1e-4)
    assert notice_texts(header, "warning") == ""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mrcfile.open(shared_data / name, permissive=True) as file:
            expected = np.array(file.data, np.float32).reshape(n_images, box_px, box_px)
    np.testing.assert_array_equal(read_all(shared_data / name), expected)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("real/odd-mrc/header_only.mrc", "none of the 32 images is complete"),
        ("real/odd-mrc/swapped_byte_order.mrc", "10×2 pixels"),
        ("real/odd-star/git_lfs_pointer.star", "Git LFS pointer"),
        ("real/odd-cs/zero_byte.cs", "is empty"),
    ],
)
def test_broken_files_of_other_programs(shared_data: Path, name: str, words: str) -> None:
    """What cannot be used is refused for the right reason."""
    assert words in error_of(shared_data / name)


def test_readers_share_the_files_that_may_be_open(tmp_path: Path) -> None:
    """Two readers of more stacks than may be open at a time read them all."""
    headers = [read_stack_header(write_stack(tmp_path / f"{i}.mrcs")) for i in range(40)]
    expected = read_all(tmp_path / "0.mrcs")[:1]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    n_open = len(list(Path("/proc/self/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 24, hard))
    try:
        with StackReader(30) as one, StackReader(30) as other:
            for header in headers:
                for reader in (one, other):
                    out = np.empty((1, BOX_PX, BOX_PX), np.float32)
                    reader.read(header, np.array([0]), out)
                    np.testing.assert_array_equal(out, expected)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
