"""MRC stacks made at random, with the pixels they hold."""

from __future__ import annotations

import bz2
import gzip
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Literal

import numpy as np

__all__ = ["MrcFile", "header_bytes", "make_mrc_file"]

Compression = Literal["", "gzip", "bz2"]

HEADER_BYTES = 1024
DTYPES = {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}
"""NumPy's name for the pixels of each mode."""

_STAMPS = {"<": b"\x44\x44\0\0", ">": b"\x11\x11\0\0"}
_IMOD_STAMP = 1_146_047_817
_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    "gzip": partial(gzip.compress, mtime=0),
    "bz2": bz2.compress,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class MrcFile:
    """A stack and what it holds.

    Parameters
    ----------
    content
        The file, compressed where `compression` says so.
    mode
        MRC mode: 0, 1, 2, 6 or 12.
    byte_order
        '<' or '>'.
    compression
        'gzip', 'bz2' or ''.
    pixel_size_A
        That the header gives; NaN where it gives none.
    pixels
        float32, (n_images, box_px, box_px).
    """

    content: bytes = field(repr=False)
    mode: int
    byte_order: Literal["<", ">"]
    compression: Compression
    pixel_size_A: float
    pixels: np.ndarray

    @property
    def suffix(self) -> str:
        """Ending of a name that fits."""
        return ".mrcs" + {"": "", "gzip": ".gz", "bz2": ".bz2"}[self.compression]

    def write(self, path: Path) -> Path:
        """Write the file; return its path."""
        path.write_bytes(self.content)
        return path


def make_mrc_file(
    random: Random,
    *,
    n_images: int | None = None,
    box_px: int | None = None,
    pixel_size_A: float | None = None,
    compression: Compression | None = None,
) -> MrcFile:
    """Make a valid stack of square images, in any of the ways that programs write one.

    Parameters
    ----------
    random
        Decides everything else.
    n_images, box_px
        How many images of what size; few and small ones by default.
    pixel_size_A
        That the header gives; any, or none, by default.
    compression
        Of the whole file; any by default.

    Returns
    -------
    MrcFile
        With small whole numbers for pixels, which every mode can hold.
    """
    n_images = random.randint(1, 5) if n_images is None else n_images
    box_px = random.randint(1, 12) if box_px is None else box_px
    mode = random.choice((0, 1, 2, 2, 2, 6, 12))
    order: Literal["<", ">"] = random.choice(("<", "<", "<", ">"))
    is_unsigned = mode == 0 and random.random() < 0.3
    dtype = np.dtype(DTYPES[mode] if not is_unsigned else "u1").newbyteorder(order)
    noise = np.random.default_rng(random.getrandbits(32))
    low, high = (0, 200) if dtype.kind == "u" else (-100, 100)
    pixels = noise.integers(low, high, (n_images, box_px, box_px))
    extension = noise.bytes(random.choice((0, 0, 0, 4, 80, 1024)))
    if pixel_size_A is None:
        pixel_size_A = random.choice((math.nan, 0.5, 1.25, 4.0))
    header = header_bytes(
        order,
        sizes=(box_px, box_px, n_images),
        mode=mode,
        pixel_size_A=pixel_size_A,
        n_extension=len(extension),
        axes=random.choice(((1, 2, 3), (1, 2, 3), (0, 0, 0))),
        space_group=random.choice((0, 0, 1, 401)),
        identifier=random.choice((b"MAP ", b"MAP ", b"MAP\0", b"\0\0\0\0", b"STK ")),
        stamp=random.choice((_STAMPS[order], _STAMPS[order], b"\0\0\0\0", *_STAMPS.values())),
        imod_flags=0 if is_unsigned else random.choice((None, 1)),
    )
    rest = noise.bytes(random.choice((0, 0, 0, 1, 100)))
    chosen: Compression = compression or ""
    if compression is None:
        chosen = random.choice(("", "", "gzip", "bz2"))
    plain = header + extension + pixels.astype(dtype).tobytes()
    content = _COMPRESSORS[chosen](plain if chosen else plain + rest)
    return MrcFile(
        content=content,
        mode=mode,
        byte_order=order,
        compression=chosen,
        pixel_size_A=pixel_size_A,
        pixels=pixels.astype(np.float32),
    )


def header_bytes(
    byte_order: Literal["<", ">"],
    *,
    sizes: tuple[int, int, int],
    mode: int,
    pixel_size_A: float,
    n_extension: int,
    axes: tuple[int, int, int],
    space_group: int,
    identifier: bytes,
    stamp: bytes,
    imod_flags: int | None,
) -> bytes:
    """Write the 1,024 bytes of a header by MRC2014, whatever they say.

    Parameters
    ----------
    byte_order
        Of all numbers.
    sizes
        nx, ny, nz.
    mode
        Type of the pixels.
    pixel_size_A
        Cell divided by intervals; NaN to leave the cell zero.
    n_extension
        nsymbt, bytes of the extended header.
    axes
        mapc, mapr, maps.
    space_group
        ispg.
    identifier, stamp
        The four bytes "MAP ", and the machine stamp.
    imod_flags
        IMOD's flags, with IMOD's stamp; None for neither.

    Returns
    -------
    bytes
        The header.
    """
    cell = [0.0 if math.isnan(pixel_size_A) else pixel_size_A * n for n in sizes]
    words = struct.pack(
        f"{byte_order}10i6f3i3f2i",
        *sizes,
        mode,
        0,
        0,
        0,
        *sizes,
        *cell,
        90,
        90,
        90,
        *axes,
        0,
        0,
        0,
        space_group,
        n_extension,
    )
    header = bytearray(HEADER_BYTES)
    header[: len(words)] = words
    if imod_flags is not None:
        header[152:160] = struct.pack(f"{byte_order}2i", _IMOD_STAMP, imod_flags)
    header[208:216] = identifier + stamp
    return bytes(header)
