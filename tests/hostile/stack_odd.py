"""Stacks that are odd, but convert."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable, Sequence

import numpy as np
from tests.builders import SetBuilder
from tests.hostile.cases import (
    Accepted,
    Make,
    Source,
)
from tests.hostile.stack_sets import (
    CELL_Y,
    DMIN,
    IMOD_FLAGS,
    IMOD_STAMP,
    ISPG,
    MAP,
    MAPC,
    MX,
    NSYMBT,
    RMS,
    STAMP,
    header,
    stack,
    whole_numbers,
)


def swapped(change: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Turn a stack of float32 into a big-endian one, then change it."""

    def swap(little: bytes) -> bytes:
        words = np.frombuffer(little, "<i4")
        big = bytearray(words.astype(">i4").tobytes())
        big[MAP : MAP + 4], big[STAMP : STAMP + 4] = b"MAP ", b"\x11\x11\0\0"
        return change(bytes(big))

    return swap


def extended(n_bytes: int) -> Callable[[bytes], bytes]:
    """Insert an extended header."""

    def insert(data: bytes) -> bytes:
        head = header((NSYMBT, n_bytes))(data[:1024])
        return head + b"\xaa" * n_bytes + data[1024:]

    return insert


def link(build: SetBuilder) -> Source:
    """Make the set with a link to the stack elsewhere."""
    source = stack()(build)
    target = build.folder.parent / "disk/real.mrcs"
    target.parent.mkdir()
    (build.folder / "a.mrcs").rename(target)
    (build.folder / "a.mrcs").symlink_to(target)
    return source


def odd(id: str, make: Make, *, warns: Sequence[str] = (), notes: Sequence[str] = ()) -> Accepted:
    """Odd stack that holds the same images as a plain one."""
    return Accepted(id=id, make=make, warns=tuple(warns), notes=tuple(notes), same_as=stack())


def as_mode(dtype: str) -> Make:
    """Make the set in another mode."""
    return stack(images=whole_numbers().astype(dtype))


SIGNED = "8-bit values are taken as signed"


ACCEPTED = [
    odd("control", stack()),
    odd("73-mode-0", as_mode("i1"), notes=[SIGNED]),
    odd("73-mode-1", as_mode("i2")),
    odd("73-mode-6", as_mode("u2")),
    odd("39-mode-12", as_mode("f2")),
    odd(
        "72-mode-0-unsigned",
        stack(header((IMOD_STAMP, 1146047817), (IMOD_FLAGS, 0)), whole_numbers().astype("i1")),
        notes=["8-bit values are taken as unsigned"],
    ),
    odd("74-big-endian", stack(swapped(bytes))),
    odd(
        "74-big-endian-that-says-little",
        stack(swapped(header((STAMP, b"\x44\x44\0\0")))),
        warns=["machine stamp contradicts the header"],
    ),
    odd(
        "75-no-stamp",
        stack(header((STAMP, b"\0\0\0\0"))),
        notes=["no known machine stamp in the header"],
    ),
    odd("75-no-map", stack(header((MAP, b"\0\0\0\0"))), notes=["no 'MAP ' in the header"]),
    odd("75-map-with-a-zero", stack(header((MAP, b"MAP\0"))), notes=["no 'MAP ' in the header"]),
    odd(
        "75-junk-in-the-header",
        stack(header((DMIN, b"\xff" * 12), (RMS, b"\xff" * 4), (224, b"\xfe" * 800))),
    ),
    odd("77-longer-file", stack(lambda data: data + b"\0" * 77), warns=["77 bytes more"]),
    odd("78-extended-header", stack(extended(1024))),
    odd("87-extended-header-of-odd-size", stack(extended(77))),
    odd("80-flagged-as-volume", stack(header((ISPG, 1)))),
    odd(
        "80-flagged-as-volumes", stack(header((ISPG, 401))), warns=["marked as a stack of 3-D maps"]
    ),
    odd("79-pixel-size-zero", stack(pixel_size_A=0.0)),
    odd("79-pixel-size-one", stack(pixel_size_A=1.0)),
    odd("79-intervals-zero", stack(header((MX, 0), (MX + 4, 0), (MX + 8, 0)))),
    odd(
        "41-pixel-size-of-another",
        stack(pixel_size_A=3.5),
        warns=["another pixel size in their header (3.5 Å) than is used (2 Å)"],
    ),
    odd(
        "81-pixel-sizes-along-x-and-y",
        stack(header((CELL_Y, 30.0))),
        warns=["pixel sizes in the header differ; that along x is taken"],
    ),
    odd(
        "79-axes-missing",
        stack(header((MAPC, 0), (MAPC + 4, 0), (MAPC + 8, 0))),
        warns=["axis order missing in the header"],
    ),
    odd("82-gzip", stack(gzip.compress), notes=["compressed; it will be decompressed"]),
    odd("82-gzip-by-name", stack(gzip.compress, name="a.mrcs.gz"), notes=["compressed"]),
    odd("82-bz2", stack(bz2.compress), notes=["compressed; it will be decompressed"]),
    odd("83-other-ending", stack(name="a.st")),
    odd("27-link", link),
    Accepted(
        id="80-cube",
        make=stack(images=whole_numbers(5)),
        notes=("looks like a 3-D map (a cube)",),
    ),
    Accepted(id="65-odd-box", make=stack(images=whole_numbers(11))),
    Accepted(id="8-one-image", make=stack(images=whole_numbers()[:1]), n_images=1),
]
