"""Stacks that are damaged or something else, and images that cannot be used."""

from __future__ import annotations

import bz2
import gzip
import os
from collections.abc import Callable, Sequence

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Make,
    Rejected,
    Source,
    star_source,
)
from tests.hostile.stack_sets import (
    IMOD_FLAGS,
    IMOD_STAMP,
    MAPC,
    MODE,
    N_IMAGES,
    NSYMBT,
    NX,
    NY,
    NZ,
    STAMP,
    header,
    stack,
    whole_numbers,
)
from tests.hostile.star_sets import LFS_POINTER, WEB_PAGE

from cryolike.errors import ImageError, MissingFileError, StackError


def content(data: bytes) -> Make:
    """Make a set whose stack is these bytes."""
    return stack(lambda _: data)


def bomb(data: bytes) -> bytes:
    """Compress a stack followed by 300 MB of zeros."""
    zeros = gzip.compress(b"\0" * 2**20)
    return gzip.compress(data) + zeros * 300


def with_pixels(change: Callable[[np.ndarray], object]) -> Make:
    """Make the set with other pixels."""
    images = whole_numbers()
    change(images)
    return stack(images=images)


def set_pixels(images: np.ndarray, image: int, value: float, n_rows: int = 12) -> None:
    """Set the first rows of an image to a value."""
    images[image, :n_rows] = value


def several_bad(images: np.ndarray) -> None:
    """Make images 1, 2 and 4 unusable, each in another way."""
    set_pixels(images, 1, 7.0)
    set_pixels(images, 2, np.nan, 1)
    set_pixels(images, 4, np.inf, 1)


def link_to_itself(build: SetBuilder) -> Source:
    """Make the set with a link to itself for the stack."""
    source = stack()(build)
    (build.folder / "a.mrcs").unlink()
    (build.folder / "a.mrcs").symlink_to("a.mrcs")
    return source


def pipe(build: SetBuilder) -> Source:
    """Make the set with a named pipe for the stack, which must not be waited for."""
    source = stack()(build)
    (build.folder / "a.mrcs").unlink()
    os.mkfifo(build.folder / "a.mrcs")
    return source


def all_at_once(build: SetBuilder) -> Source:
    """Make a set of seven stacks, six of them damaged in other ways."""
    damages: Sequence[Callable[[bytes], bytes]] = (
        bytes,
        lambda data: data[:-1],
        lambda data: b"",
        lambda data: LFS_POINTER,
        header((MODE, 4)),
        header((NX, 16)),
        header((NSYMBT, -8)),
    )
    names = [f"stack_{i}.mrcs" for i in range(len(damages))]
    for name, damage in zip(names, damages, strict=True):
        path = build.stack(name, whole_numbers())
        path.write_bytes(damage(path.read_bytes()))
    return star_source(build.star([f"{i + 1}@{name}" for name in names for i in range(N_IMAGES)]))


def damaged(
    id: str, make: Make, *says: str, remedy: str = "Copy or write the file again."
) -> Rejected:
    """Stack that its header shows to be damaged, or no stack; all rows are affected."""
    parts = ("a.mrcs", *says, "(5 of 5 rows)")
    return Rejected(id=id, make=make, error=StackError, says=parts, remedy=remedy)


BIG = 2**31 - 1


REJECTED = [
    damaged("84-empty", content(b""), "is empty"),
    damaged("84-git-lfs-pointer", content(LFS_POINTER), "Git LFS pointer", remedy="git lfs pull"),
    damaged("84-web-page", content(WEB_PAGE), "a web page", remedy="Download the file itself."),
    damaged(
        "84-text",
        content(b"Permission denied\n" * 100),
        "1,800 bytes of text",
        "'Permission denied'",
        remedy="Give an MRC stack.",
    ),
    damaged("84-zeros", content(b"\0" * 4096), "begins with 1,024 zero bytes"),
    damaged("84-part-of-a-header", stack(lambda data: data[:500]), "has 500 bytes", "1,024"),
    damaged("83-hdf5", content(b"\x89HDF\r\n\x1a\n" + b"\0" * 2000), "HDF5", remedy="Give an MRC"),
    damaged("83-tiff", content(b"II*\0" + b"\0" * 2000), "TIFF", remedy="Give an MRC stack."),
    damaged("83-eer", content(b"II+\0" + b"\0" * 2000), "EER", remedy="Give an MRC stack."),
    damaged("83-zip", content(b"PK\x03\x04" + b"\0" * 2000), "ZIP", remedy="Unpack it first."),
    damaged("83-numpy", content(b"\x93NUMPY" + b"\0" * 2000), "NumPy", remedy="Give an MRC stack."),
    damaged("82-xz", content(b"\xfd7zXZ\0" + b"\0" * 2000), "xz-compressed", remedy="unxz"),
    damaged("82-zstd", content(b"(\xb5/\xfd" + b"\0" * 2000), "zstd-compressed", remedy="unzstd"),
    damaged(
        "82-gzip-twice",
        stack(lambda data: gzip.compress(gzip.compress(data))),
        "compressed twice",
        remedy="Decompress it once.",
    ),
    damaged("82-gzip-of-nothing", content(gzip.compress(b"")), "no content inside its gzip data"),
    damaged(
        "82-gzip-cut-in-the-header",
        stack(lambda data: gzip.compress(data)[:30]),
        "its gzip data are damaged or cut off",
        remedy="Copy or download the file again.",
    ),
    damaged(
        "82-gzip-cannot-hold-what-it-promises",
        stack(lambda data: gzip.compress(header((NX, 65_535), (NY, 65_535))(data))),
        "bytes of gzip data cannot hold the 85,896,725,524 bytes",
    ),
    damaged(
        "82-bz2-cannot-hold-what-it-promises",
        stack(lambda data: bz2.compress(header((NX, 65_535), (NY, 65_535), (NZ, BIG))(data))),
        "bytes of bz2 data cannot hold the 36,892,362,238,922,851,324 bytes",
    ),
    damaged(
        "84-noise",
        content(np.random.default_rng(0).bytes(4096)),
        "no header field makes sense",
        remedy="Give an MRC stack.",
    ),
    damaged(
        "76-cut",
        stack(lambda data: data[:-600]),
        "it has 3,304 bytes of 3,904",
        "images 1 to 3 of 5 are complete",
    ),
    damaged("76-one-byte-short", stack(lambda data: data[:-1]), "3,903 bytes of 3,904"),
    damaged("76-header-only", stack(lambda data: data[:1024]), "none of the 5 images is complete"),
    damaged(
        "86-sizes-that-overflow",
        stack(header((NX, 65_535), (NY, 65_535), (NZ, BIG))),
        "3,904 bytes of 36,892,362,238,922,851,324",
    ),
    damaged(
        "74-size-zero",
        stack(header((NZ, 0))),
        "impossible sizes: 0 images of 12×12",
        remedy="copy or write it again",
    ),
    damaged(
        "74-size-negative",
        stack(header((NX, -12))),
        "impossible sizes: 5 images of -12×12",
        remedy="copy or write it again",
    ),
    damaged(
        "65-not-square",
        stack(header((NX, 24), (NY, 6))),
        "images of 24×6 pixels",
        remedy="in a square box",
    ),
    damaged(
        "73-mode-complex",
        stack(header((MODE, 4))),
        "complex values (mode 4)",
        remedy="Give the real-space stack.",
    ),
    damaged(
        "73-mode-complex-integers",
        stack(header((MODE, 3))),
        "complex values (mode 3)",
        remedy="Give the real-space stack.",
    ),
    damaged(
        "73-mode-4-bit",
        stack(header((MODE, 101))),
        "packed 4-bit values (mode 101)",
        remedy="newstack -mode 2",
    ),
    damaged(
        "73-mode-4-bit-of-imod",
        stack(header((MODE, 0), (IMOD_STAMP, 1146047817), (IMOD_FLAGS, 16))),
        "packed 4-bit values (mode 0 with IMOD's flag",
        remedy="newstack -mode 2",
    ),
    damaged("73-mode-unknown", stack(header((MODE, 7))), "mode 7", remedy="convert it to mode 2"),
    damaged("73-mode-rgb", stack(header((MODE, 16))), "mode 16", remedy="convert it to mode 2"),
    damaged(
        "74-mode-and-stamp-wrong",
        stack(header((MODE, 1594499167), (STAMP, b"\0\0\0\0"))),
        "mode 1594499167",
        remedy="Check that it is an MRC file",
    ),
    damaged(
        "77-extended-header-that-is-not-there",
        stack(header((NSYMBT, 128))),
        "128 bytes; the size of the file fits only if there is none",
        remedy="set nsymbt",
    ),
    damaged(
        "77-extended-header-negative",
        stack(header((NSYMBT, -1024))),
        "wrong size of the extended header: -1,024 bytes",
        remedy="set nsymbt",
    ),
    damaged(
        "77-extended-header-vast",
        stack(header((NSYMBT, BIG))),
        "wrong size of the extended header: 2,147,483,647 bytes",
        remedy="set nsymbt",
    ),
    damaged(
        "79-axes-swapped",
        stack(header((MAPC, 2), (MAPC + 4, 1))),
        "axis order (mapc, mapr, maps) (2, 1, 3)",
        remedy="columns along x",
    ),
    Rejected(
        id="27-link-to-itself",
        make=link_to_itself,
        error=MissingFileError,
        says=("1 of 1 files not found (5 of 5 rows)", "a.mrcs is a symbolic link to a.mrcs"),
        remedy="--folder",
    ),
    Rejected(
        id="named-pipe",
        make=pipe,
        error=MissingFileError,
        says=("1 of 1 files not found (5 of 5 rows)", "a.mrcs is not a regular file"),
        remedy="--folder",
    ),
    Rejected(
        id="stacks-all-at-once",
        make=all_at_once,
        error=StackError,
        says=(
            "stack_1.mrcs: is cut off",
            "stack_2.mrcs: is empty",
            "stack_3.mrcs: is a Git LFS pointer",
            "stack_4.mrcs: holds complex values",
            "stack_5.mrcs: holds images of 16×12",
            "stack_6.mrcs: has a header with a wrong size of the extended header: -8 bytes",
        ),
        remedy="git lfs pull",
        n_problems=6,
    ),
    # What only reading shows
    Rejected(
        id="82-gzip-cut",
        make=stack(lambda data: gzip.compress(data)[:-200]),
        by_pixels=True,
        error=StackError,
        says=("a.mrcs", "its gzip data are damaged or cut off"),
        remedy="Copy or download the file again.",
    ),
    Rejected(
        id="82-gzip-with-a-wrong-checksum",
        make=stack(lambda data: gzip.compress(data)[:-8] + b"\1\2\3\4\5\6\7\x08"),
        by_pixels=True,
        error=StackError,
        says=("a.mrcs", "its gzip data are damaged or cut off", "CRC"),
        remedy="Copy or download the file again.",
    ),
    Rejected(
        id="82-bz2-damaged",
        make=stack(lambda data: bz2.compress(data)[:-40]),
        error=StackError,
        says=("a.mrcs", "its bz2 data are damaged or cut off"),
        remedy="Copy or download the file again.",
    ),
    Rejected(
        id="82-gzip-of-fewer-images",
        make=stack(lambda data: gzip.compress(data[:-600])),
        by_pixels=True,
        error=StackError,
        says=("a.mrcs", "3,304 bytes, decompressed, of 3,904", "images 1 to 3 of 5 are complete"),
        remedy="Copy or write the file again.",
    ),
    Rejected(
        id="82-gzip-that-expands-without-end",
        make=stack(bomb),
        by_pixels=True,
        error=StackError,
        says=("a.mrcs", "expands beyond the 3,904 bytes that its header says"),
        remedy="Decompress it yourself",
    ),
    Rejected(
        id="63-blank-image",
        make=with_pixels(lambda images: set_pixels(images, 2, 5.0)),
        by_pixels=True,
        error=ImageError,
        says=("particles.star", "row 2: 000003@a.mrcs (blank: all pixels are equal)"),
        remedy="--on-bad-image skip",
    ),
    Rejected(
        id="63-zero-image",
        make=with_pixels(lambda images: set_pixels(images, 0, 0.0)),
        by_pixels=True,
        error=ImageError,
        says=("particles.star", "row 0: 000001@a.mrcs (blank: all pixels are equal)"),
        remedy="--on-bad-image skip",
    ),
    Rejected(
        id="63-nan-in-an-image",
        make=with_pixels(lambda images: images.put(700, np.nan)),
        by_pixels=True,
        error=ImageError,
        says=("particles.star", "row 4: 000005@a.mrcs (NaN or infinite pixels)"),
        remedy="--on-bad-image skip",
    ),
    Rejected(
        id="63-infinite-pixel",
        make=with_pixels(lambda images: images.put(0, -np.inf)),
        by_pixels=True,
        error=ImageError,
        says=("particles.star", "row 0: 000001@a.mrcs (NaN or infinite pixels)"),
        remedy="--on-bad-image skip",
    ),
    Rejected(
        id="63-several-bad-images",
        make=with_pixels(several_bad),
        by_pixels=True,
        error=ImageError,
        says=(
            "3 images",
            "row 1: 000002@a.mrcs (blank: all pixels are equal)",
            "row 2: 000003@a.mrcs (NaN or infinite pixels)",
            "row 4: 000005@a.mrcs (NaN or infinite pixels)",
        ),
        remedy="Complete stacks are kept.",
    ),
]
